// SPDX-License-Identifier: Apache-2.0
/*
 * Replies of the transmission phase, from the store into the socket.
 *
 * The first of `ready` is being sent.  No reply is ever held in memory: it is
 * written from the store into the socket, by reference where it is large, and
 * through one buffer for all connections where it is small; what the socket
 * does not take is read again later.  If its bytes get lost midway, the
 * connection's output waits for them, because the header has promised them.
 */
#include <sys/socket.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "devd/io.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL	0	/* the process ignores SIGPIPE anyway */
#endif
#ifndef MSG_MORE
#define MSG_MORE	0
#endif

#define HEAD_MAX	(NBD_CHUNK_HEADER + NBD_CHUNK_OFFSET)
#define STATUS_MAX	(NBD_CONTEXTS * (NBD_CHUNK_HEADER + 4 + \
			    NBD_EXTENTS * NBD_EXTENT_SIZE))

/* Small replies of whatever connection has its turn. */
static uint8_t reply_batch[NBD_BATCH];

/* ---- one reply ---- */

static bool
reply_structured(const struct nbd_reply *r)
{
	return r->conn->session.structured &&
	    (r->request.type == NBD_CMD_READ ||
	    r->request.type == NBD_CMD_BLOCK_STATUS);
}

/* Bytes of data behind the header. */
size_t
reply_body(const struct nbd_reply *r)
{
	return r->request.type == NBD_CMD_READ && r->error == NBD_OK ?
	    r->request.len : 0;
}

/* Everything in front of the data.  Made again whenever it is needed: the same
 * each time once any of it is out. */
static size_t
reply_head(const struct nbd_reply *r, uint8_t out[HEAD_MAX])
{
	const struct nbd_request *q = &r->request;
	size_t body = reply_body(r), n;

	if (!reply_structured(r))
		return nbd_put_simple(out, r->error, q->cookie);
	if (r->error != NBD_OK)
		return nbd_put_chunk_error(out, r->error, q->cookie);
	if (body == 0)
		return nbd_put_chunk(out, NBD_REPLY_FLAG_DONE, NBD_REPLY_NONE,
		    q->cookie, 0);
	n = nbd_put_chunk(out, NBD_REPLY_FLAG_DONE, NBD_REPLY_OFFSET_DATA,
	    q->cookie, (uint32_t)(NBD_CHUNK_OFFSET + body));
	return n + nbd_put_u64(out + n, q->offset);
}

static bool
reply_is_status(const struct nbd_reply *r)
{
	return r->request.type == NBD_CMD_BLOCK_STATUS && r->error == NBD_OK;
}

static size_t
reply_size(const struct nbd_reply *r)
{
	uint8_t head[HEAD_MAX];

	return reply_is_status(r) ? r->conn->status_len :
	    reply_head(r, head) + reply_body(r);
}

static void
reply_park(struct nbd_reply *r)
{
	TAILQ_REMOVE(&r->conn->ready, r, list);
	TAILQ_INSERT_TAIL(&r->conn->parked, r, list);
	r->parked = true;
}

void
reply_fail(struct nbd_reply *r, int error)
{
	io_end(&r->io);
	r->error = nbd_error_of(error);
	atomic_fetch_add_explicit(&core_stats_page()->reads_failed, 1,
	    memory_order_relaxed);
}

/* The first of `ready` is out. */
static void
reply_done(struct conn *c, struct nbd_reply *r)
{
	atomic_fetch_add_explicit(&core_stats_page()->bytes_served,
	    reply_body(r), memory_order_relaxed);
	io_end(&r->io);
	if (reply_is_status(r))
		free(take_ptr(c->status));
	TAILQ_REMOVE(&c->ready, r, list);
	TAILQ_INSERT_HEAD(&c->free, r, list);
	c->in_flight--;
	c->bytes -= r->burden;
	c->sent = 0;
}

/* ---- BLOCK_STATUS ---- */

static size_t
put_extent(uint8_t *out, uint64_t len, uint32_t flags)
{
	size_t n = nbd_put_u32(out, (uint32_t)len);

	return n + nbd_put_u32(out + n, flags);
}

/* The extents of one context.  base:allocation is data everywhere: what is not
 * fetched is not a hole, and nothing is fetched to answer. */
static size_t
put_extents(uint8_t *out, const struct nbd_request *q, unsigned context)
{
	unsigned most = q->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : NBD_EXTENTS;
	uint64_t done = 0, run;
	size_t n = 0;
	bool resident;

	if (context == NBD_CONTEXT_ALLOCATION)
		return put_extent(out, q->len, 0);
	for (; done < q->len && most > 0; most--, done += run) {
		run = io_resident(q->offset + done, q->len - done, &resident);
		n += put_extent(out + n, run, resident ? NBD_RESIDENT : 0);
	}
	return n;
}

/* Fixed when its first byte is about to go: the map may change meanwhile. */
static int
status_make(struct conn *c, const struct nbd_request *q)
{
	unsigned left = c->session.contexts;
	uint8_t *out;

	c->status = malloc(STATUS_MAX);
	if (!c->status)
		return -ENOMEM;
	out = c->status;
	for (unsigned bit = 1; left != 0; bit <<= 1) {
		uint8_t *head = out;
		size_t n;

		if (!(left & bit))
			continue;
		left &= ~bit;
		out += NBD_CHUNK_HEADER;
		out += nbd_put_u32(out, bit);
		n = put_extents(out, q, bit);
		out += n;
		nbd_put_chunk(head, left == 0 ? NBD_REPLY_FLAG_DONE : 0,
		    NBD_REPLY_BLOCK_STATUS, q->cookie, (uint32_t)(4 + n));
	}
	c->status_len = (size_t)(out - c->status);
	return 0;
}

/* ---- output ---- */

enum fill {
	FILL_WHOLE,	/* all of the reply is in the batch */
	FILL_FULL,	/* the batch is */
	FILL_SEND,	/* what follows goes by io_send() */
	FILL_PARKED,	/* what follows is not here */
	FILL_ERROR,	/* nor will it be */
};

/* Copy what fits of a reply, from `sent` on, behind the *n bytes of the batch.
 * *error: of FILL_ERROR. */
static enum fill
reply_fill(struct nbd_reply *r, size_t sent, size_t *n, int *error)
{
	uint8_t head[HEAD_MAX];
	size_t head_len = reply_head(r, head), size = head_len + reply_body(r);

	if (sent < head_len) {
		if (NBD_BATCH - *n < head_len - sent)
			return FILL_FULL;
		memcpy(reply_batch + *n, head + sent, head_len - sent);
		*n += head_len - sent;
		sent = head_len;
	}
	while (sent < size) {
		uint32_t pos = (uint32_t)(sent - head_len);
		ssize_t got;

		if (*n == NBD_BATCH)
			return FILL_FULL;
		if (io_sendable(&r->io, pos))
			return FILL_SEND;
		got = io_copy(&r->io, pos, reply_batch + *n, NBD_BATCH - *n);
		if (got <= 0) {
			*error = (int)got;
			return got == 0 ? FILL_PARKED : FILL_ERROR;
		}
		*n += (size_t)got;
		sent += (size_t)got;
	}
	return FILL_WHOLE;
}

/* The same for an answer to BLOCK_STATUS, which is the first of `ready`. */
static enum fill
status_fill(struct conn *c, struct nbd_reply *r, size_t *n, int *error)
{
	if (!c->status) {
		*error = status_make(c, &r->request);
		if (*error < 0)
			return FILL_ERROR;
	}
	assert(c->status_len <= NBD_BATCH);
	memcpy(reply_batch + *n, c->status + c->sent, c->status_len - c->sent);
	*n += c->status_len - c->sent;
	return FILL_FULL;
}

/* Put as many replies into the batch as fit: *n bytes of it, which start with
 * the first byte that was not sent yet.  FILL_WHOLE: there are no more.
 * FILL_PARKED: the first is half out and waits. */
static enum fill
batch_fill(struct conn *c, size_t *n)
{
	struct nbd_reply *r = TAILQ_FIRST(&c->ready), *next;
	enum fill fill;
	int error = 0;

	*n = 0;
	for (; r; r = next) {
		size_t start = *n, sent = start == 0 ? c->sent : 0;

		next = TAILQ_NEXT(r, list);
		if (r->io.state == IO_ASKED || r->io.state == IO_HUNGRY)
			return FILL_PARKED;
		if (reply_is_status(r))
			fill = start > 0 ? FILL_FULL :
			    status_fill(c, r, n, &error);
		else
			fill = reply_fill(r, sent, n, &error);
		if (fill == FILL_WHOLE)
			continue;
		if (sent > 0 || (fill != FILL_PARKED && fill != FILL_ERROR))
			return fill;
		/* None of it is out, so its header need not be either. */
		*n = start;
		if (fill == FILL_PARKED)
			reply_park(r);
		else {
			reply_fail(r, error);
			next = r;
		}
	}
	return FILL_WHOLE;
}

/* So many bytes more are out. */
static void
reply_advance(struct conn *c, size_t n)
{
	struct nbd_reply *r;

	c->blocked = false;
	c->stalled_s = 0;
	while (n > 0) {
		r = TAILQ_FIRST(&c->ready);
		assert(r);
		size_t left = reply_size(r) - c->sent;

		if (n < left) {
			c->sent += n;
			return;
		}
		n -= left;
		reply_done(c, r);
	}
}

/* The output waits for bytes, perhaps for a lane: don't hold any meanwhile. */
void
reply_yield(struct conn *c)
{
	struct nbd_reply *r;

	TAILQ_FOREACH(r, &c->ready, list)
		io_yield(&r->io);
}

/* 1: go on, 0: the socket is full, -errno.  *sent bytes went out. */
int
conn_send(struct conn *c, const uint8_t *buf, size_t len, int flags,
    size_t *sent)
{
	ssize_t n;

	do {
		n = send(c->fd, buf, len, MSG_NOSIGNAL | flags);
	} while (n < 0 && errno == EINTR);
	*sent = n > 0 ? (size_t)n : 0;
	if (n < 0 && errno != EAGAIN)
		return -errno;
	return *sent == len;
}

/* The large part of the first of `ready`.  As conn_send(). */
static int
reply_sendfile(struct conn *c, size_t *sent)
{
	struct nbd_reply *r = TAILQ_FIRST(&c->ready);
	uint8_t head[HEAD_MAX];
	ssize_t n = io_send(&r->io, (uint32_t)(c->sent - reply_head(r, head)),
	    c->fd);

	*sent = n > 0 ? (size_t)n : 0;
	return n >= 0 ? 1 : n == -EAGAIN ? 0 : (int)n;
}

/* Send what is ready.  0: nothing more can go now, -errno: close. */
int
reply_write(struct conn *c)
{
	size_t n, sent;
	int r;

	if (c->blocked)
		return 0;		/* conn_writable() goes on */
	for (size_t turn = 0; turn < NBD_TURN; turn += sent) {
		enum fill fill = batch_fill(c, &n);

		if (n == 0 && fill != FILL_SEND) {
			if (fill == FILL_PARKED)
				reply_yield(c);
			/* An error here: promised, and can't be had. */
			return fill == FILL_ERROR ? -EIO : 0;
		}
		if (n > 0)
			r = conn_send(c, reply_batch, n,
			    fill == FILL_SEND ? MSG_MORE : 0, &sent);
		else
			r = reply_sendfile(c, &sent);
		if (r < 0)
			return r;
		if (sent > 0)
			reply_advance(c, sent);
		if (r == 0) {
			c->blocked = true;
			return 0;
		}
	}
	c->blocked = true;	/* others' turn; it goes on at once */
	return 0;
}
