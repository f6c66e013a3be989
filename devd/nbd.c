// SPDX-License-Identifier: Apache-2.0
/*
 * The NBD server: connections of one device, and their transmission phase.
 *
 *	accept --> FLAGS, OPTION, SKIP: nbd_handshake.c, within 10 s
 *	              | GO, EXPORT_NAME
 *	              v     WRITE
 *	             RUN <---------> DRAIN (its payload)
 *	              | DISC
 *	              v
 *	            ENDING --last reply is out--> closed
 *
 * Whatever can be parsed is answered in its frame: some clients connect again
 * for ever when they are hung up on.  The end of the input closes at once.
 *
 * A request becomes a reply, in one of three lists of its connection:
 *
 *	free --taken--> parked --its bytes are here--> ready --all sent--> free
 *	           |       ^                            ^ |
 *	           +-------|----hot, or an error--------+ |
 *	                   +------------bytes got lost----+
 *
 * The first of `ready` is being sent: nbd_reply.c.
 *
 * Of the kernel's own client (/dev/nbdN) there is one connection, which begins
 * in RUN: the parent told the kernel what a handshake does.  It is not listened
 * for, who has the device open is not seen here, and its end is the worker's:
 * the parent gives the next worker another one.
 *
 * A client costs at most NBD_REQUESTS small structs: past that, and past
 * NBD_IN_FLIGHT bytes, nothing is taken out of its input buffer, and when that
 * is full its socket is not read.
 */
#include <sys/socket.h>

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/io.h"
#include "ipc/parent.h"

static struct {
	struct event_base *base;
	int listener;		/* -1: not given yet */
	int kernel;		/* likewise; of the kernel's client */
	struct event *acceptable, *pause, *tick;
	void (*openers)(unsigned count);
	const char *names[1 + NBD_ALIASES];	/* the first is its own */
	unsigned n_names;
	LIST_HEAD(, conn) conns;
	unsigned n_conns, n_open;
} nbd = { .listener = -1, .kernel = -1 };

static void reply_ready(struct io_req *io);

/* ---- names ---- */

/* -ENOSPC past NBD_ALIASES. */
static int
nbd_alias(const char *name)
{
	const struct nbd_string s = { name, strlen(name) };
	char *copy;

	if (nbd_is_name(&s))
		return 0;
	if (nbd.n_names == ARRAY_LEN(nbd.names))
		return -ENOSPC;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	nbd.names[nbd.n_names++] = copy;
	return 0;
}

bool
nbd_is_name(const struct nbd_string *name)
{
	if (name->len == 0)
		return true;		/* the default export */
	for (unsigned i = 0; i < nbd.n_names; i++)
		if (strlen(nbd.names[i]) == name->len &&
		    memcmp(nbd.names[i], name->text, name->len) == 0)
			return true;
	return false;
}

const char *
nbd_name(void)
{
	return nbd.names[0];
}

/* ---- a connection's life ---- */

static void
openers_changed(int by)
{
	nbd.n_open += (unsigned)by;
	atomic_store_explicit(&core_stats_page()->openers, nbd.n_open,
	    memory_order_relaxed);
	nbd.openers(nbd.n_open);
}

static void
conn_free(struct conn *c)
{
	if (c->fd == nbd.kernel)
		log_die("device %s: the kernel's connection has ended",
		    nbd_name());
	if (c->replies) {
		for (size_t i = 0; i < c->requests; i++)
			io_end(&c->replies[i].io);
		openers_changed(-1);
	}
	if (c->readable)
		event_free(c->readable);
	if (c->writable)
		event_free(c->writable);
	if (c->deadline)
		event_free(c->deadline);
	fd_close(c->fd);
	free(c->replies);
	free(c->status);
	LIST_REMOVE(c, entry);
	free(c);
	nbd.n_conns--;
}

void
conn_drop(struct conn *c, size_t n)
{
	c->have -= n;
	if (n > 0 && c->have > 0)
		memmove(c->in, c->in + n, c->have);
}

/* From handshake to transmission. */
static int
conn_begin(struct conn *c)
{
	c->replies = calloc(c->requests, sizeof(*c->replies));
	if (!c->replies)
		return -ENOMEM;
	for (size_t i = 0; i < c->requests; i++) {
		c->replies[i].conn = c;
		TAILQ_INSERT_TAIL(&c->free, &c->replies[i], list);
	}
	event_del(c->deadline);
	if (c->fd != nbd.kernel)
		openers_changed(1);
	return 0;
}

/* May another request be taken? */
static bool
conn_room(const struct conn *c)
{
	return c->in_flight < c->requests && (c->bytes < NBD_IN_FLIGHT ||
	    c->fd == nbd.kernel);
}

/* ---- requests ---- */

static void
request_begin(struct conn *c, struct nbd_reply *r)
{
	const struct nbd_request *q = &r->request;
	int ready = 1;

	r->error = nbd_check_request(q, &c->session);
	if (r->error == NBD_OK && q->type == NBD_CMD_READ && q->len > 0) {
		r->io.offset = q->offset;
		r->io.length = q->len;
		r->io.on_ready = reply_ready;
		ready = io_begin(&r->io);
		if (ready < 0)
			reply_fail(r, ready);
	} else if (r->error == NBD_OK && q->type == NBD_CMD_CACHE) {
		io_hint(q->offset, q->len);
	}
	r->parked = ready == 0;
	TAILQ_INSERT_TAIL(r->parked ? &c->parked : &c->ready, r, list);
}

static int
request_take(struct conn *c, const struct nbd_request *q)
{
	struct nbd_reply *r = TAILQ_FIRST(&c->free);

	if (q->type == NBD_CMD_DISC) {
		c->state = CONN_ENDING;
		return 0;
	}
	if (q->type == NBD_CMD_WRITE && q->len > NBD_WRITE_MAX)
		return -EMSGSIZE;
	assert(r);
	TAILQ_REMOVE(&c->free, r, list);
	r->request = *q;
	request_begin(c, r);
	r->burden = reply_body(r);
	c->bytes += r->burden;
	c->in_flight++;
	if (q->type == NBD_CMD_WRITE && q->len > 0) {
		/* Not ready before its payload is gone: libnbd does not know
		 * a reply to what it still sends. */
		TAILQ_REMOVE(&c->ready, r, list);
		c->refused = r;
		c->skip = q->len;
		c->state = CONN_DRAIN;
	}
	return 0;
}

/* Some of the payload of a WRITE: so many bytes of it. */
static size_t
payload_drain(struct conn *c, size_t have)
{
	size_t n = have < c->skip ? have : (size_t)c->skip;

	c->skip -= n;
	if (c->skip == 0) {
		TAILQ_INSERT_TAIL(&c->ready, c->refused, list);
		c->refused = NULL;
		c->state = CONN_RUN;
	}
	return n;
}

/* Take what is in the buffer.  0 or -errno. */
static int
conn_take(struct conn *c)
{
	struct nbd_request q;
	size_t at = 0;
	int r = 0;

	while (r == 0 && at < c->have) {
		size_t left = c->have - at;

		if (c->state == CONN_ENDING) {
			at = c->have;
		} else if (c->state == CONN_DRAIN) {
			at += payload_drain(c, left);
		} else if (left < NBD_REQUEST_SIZE || !conn_room(c)) {
			break;
		} else {
			r = nbd_parse_request(c->in + at, &q);
			at += NBD_REQUEST_SIZE;
			if (r == 0)
				r = request_take(c, &q);
		}
	}
	conn_drop(c, at);
	return r;
}

/* ---- a connection's turn ---- */

/* Replies of the handshake.  1: they are out, 0: not yet, -errno. */
static int
handshake_write(struct conn *c)
{
	size_t sent;
	int r;

	if (c->out_len == 0)
		return 1;
	r = conn_send(c, c->out + c->out_sent, c->out_len - c->out_sent, 0,
	    &sent);
	c->out_sent += sent;
	c->blocked = r == 0;
	if (r <= 0)
		return r;
	c->out_len = c->out_sent = 0;
	return c->closing ? -EPIPE : 1;
}

/* 1: look again, 0: nothing more can be done now, -errno: close. */
static int
conn_step(struct conn *c)
{
	int r;

	if (!c->replies) {
		r = handshake_write(c);
		if (r <= 0)
			return r;
		if (c->state != CONN_RUN)
			return handshake_step(c);
		r = conn_begin(c);
		return r < 0 ? r : 1;
	}
	r = conn_take(c);
	if (r == 0)
		r = reply_write(c);
	if (r == 0 && c->state == CONN_ENDING && c->in_flight == 0)
		return -EPIPE;
	if (r < 0)
		return r;
	return c->have >= NBD_REQUEST_SIZE && conn_room(c) && !c->blocked;
}

static void
arm(struct event *ev, bool *armed, bool want)
{
	if (*armed == want)
		return;
	*armed = want;
	if (want)
		event_add(ev, NULL);
	else
		event_del(ev);
}

static void
conn_run(struct conn *c)
{
	const struct timeval second = { .tv_sec = 1 };
	bool writable = event_pending(c->writable, EV_WRITE, NULL);
	int r;

	do {
		r = conn_step(c);
	} while (r > 0);
	if (r < 0) {
		conn_free(c);
		return;
	}
	/* Also without room, so that the end of the input is seen. */
	arm(c->readable, &c->reading, c->have < sizeof(c->in));
	arm(c->writable, &writable, c->blocked);
	if ((!c->reading || c->blocked) && !evtimer_pending(nbd.tick, NULL))
		evtimer_add(nbd.tick, &second);
}

static void
reply_ready(struct io_req *io)
{
	struct nbd_reply *r = (struct nbd_reply *)io;
	struct conn *c = r->conn;

	if (r->parked) {
		TAILQ_REMOVE(&c->parked, r, list);
		TAILQ_INSERT_TAIL(&c->ready, r, list);
		r->parked = false;
		if (io->state == IO_FAILED)
			reply_fail(r, io->error);
	}
	if (c->blocked && c->stalled_s >= NBD_STALL_S)
		io_yield(io);	/* its turn is not near */
	conn_run(c);
}

/* ---- events ---- */

static void
conn_readable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	ssize_t n = recv(fd, c->in + c->have, sizeof(c->in) - c->have, 0);

	(void)what;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_free(c);
		return;
	}
	c->have += (size_t)n;
	conn_run(c);
}

static void
conn_writable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	(void)what;
	c->blocked = false;
	c->stalled_s = 0;
	conn_run(c);
}

static void
handshake_late(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	conn_free(arg);
}

/* While some socket is full or not read: nothing else would tell that its
 * client is gone, or keeps lanes that others wait for. */
static void
tick_due(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval second = { .tv_sec = 1 };
	struct conn *c, *next;
	bool again = false;

	(void)fd;
	(void)what;
	(void)arg;
	for (c = LIST_FIRST(&nbd.conns); c; c = next) {
		struct pollfd p = { .fd = c->fd };

		next = LIST_NEXT(c, entry);
		if (c->reading && !c->blocked)
			continue;
		if (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR))) {
			conn_free(c);
			continue;
		}
		if (c->blocked && c->stalled_s < NBD_STALL_S &&
		    ++c->stalled_s == NBD_STALL_S)
			reply_yield(c);
		again = true;
	}
	if (again)
		evtimer_add(nbd.tick, &second);
}

static struct conn *
conn_new(int accepted)
{
	_cleanup_close_ int fd = accepted;
	struct conn *c;

	if (fd_nonblock(fd) < 0)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->fd = take_fd(&fd);
	c->session.size = core_size();
	c->session.read_max = NBD_READ_MAX;
	c->requests = NBD_REQUESTS;
	TAILQ_INIT(&c->free);
	TAILQ_INIT(&c->parked);
	TAILQ_INIT(&c->ready);
	LIST_INSERT_HEAD(&nbd.conns, c, entry);
	nbd.n_conns++;
	c->readable = event_new(nbd.base, c->fd, EV_READ | EV_PERSIST,
	    conn_readable, c);
	c->writable = event_new(nbd.base, c->fd, EV_WRITE, conn_writable, c);
	c->deadline = evtimer_new(nbd.base, handshake_late, c);
	if (!c->readable || !c->writable || !c->deadline) {
		conn_free(c);
		return NULL;
	}
	return c;
}

static void
listener_readable(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval limit = { .tv_sec = NBD_HANDSHAKE_S };
	const struct timeval second = { .tv_sec = 1 };
	struct conn *c;
	int accepted = accept(fd, NULL, NULL);

	(void)what;
	(void)arg;
	if (accepted < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
			event_del(nbd.acceptable);
			evtimer_add(nbd.pause, &second);
		}
		return;
	}
	if (nbd.n_conns >= NBD_CONNECTIONS) {
		fd_close(accepted);
		return;
	}
	c = conn_new(accepted);
	if (!c)
		return;
	evtimer_add(c->deadline, &limit);
	nbd_put_hello(c->out);
	c->out_len = NBD_HELLO_SIZE;
	conn_run(c);
}

static void
pause_over(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	event_add(nbd.acceptable, NULL);
}

static int
nbd_take(enum parent_type type, int fd)
{
	if (type != PARENT_LISTEN || nbd.listener >= 0) {
		fd_close(fd);
		return -EINVAL;
	}
	nbd.listener = fd;
	return fd_nonblock(fd);
}

static bool
nbd_complete(void)
{
	return nbd.listener >= 0;
}

/* What both shims need. */
static void
server_start(struct event_base *base, const char *name)
{
	nbd.base = base;
	LIST_INIT(&nbd.conns);
	nbd.tick = evtimer_new(base, tick_due, NULL);
	if (!nbd.tick || nbd_alias(name) < 0 || nbd.n_names != 1)
		log_die("device %s: the NBD server can't start", name);
}

static void
nbd_start(struct event_base *base, const char *name,
    void (*openers)(unsigned count))
{
	server_start(base, name);
	nbd.openers = openers;
	nbd.acceptable = event_new(base, nbd.listener, EV_READ | EV_PERSIST,
	    listener_readable, NULL);
	nbd.pause = evtimer_new(base, pause_over, NULL);
	if (!nbd.acceptable || !nbd.pause ||
	    event_add(nbd.acceptable, NULL) < 0)
		log_die("device %s: the NBD server can't listen", name);
	/* A predecessor's connections died with him. */
	atomic_store_explicit(&core_stats_page()->openers, 0,
	    memory_order_relaxed);
}

const struct shim nbd_shim = {
	.take = nbd_take,
	.complete = nbd_complete,
	.start = nbd_start,
	.alias = nbd_alias,
};

/* ---- the kernel's client ---- */

static int
kernel_take(enum parent_type type, int fd)
{
	if (type != PARENT_NBD || nbd.kernel >= 0) {
		fd_close(fd);
		return -EINVAL;
	}
	nbd.kernel = fd;
	return 0;
}

static bool
kernel_complete(void)
{
	return nbd.kernel >= 0;
}

static void
kernel_start(struct event_base *base, const char *name,
    void (*openers)(unsigned count))
{
	struct conn *c;

	(void)openers;		/* who has it open, the parent finds out */
	server_start(base, name);
	c = conn_new(nbd.kernel);
	if (!c)
		log_die("device %s: no memory for its connection", name);
	c->requests = NBD_KERNEL_REQUESTS;
	c->state = CONN_RUN;
	conn_run(c);
}

const struct shim kernel_nbd_shim = {
	.take = kernel_take,
	.complete = kernel_complete,
	.start = kernel_start,
};
