// SPDX-License-Identifier: Apache-2.0
/*
 * Frames and descriptors over a non-blocking unix stream socket: see stream.h.
 *
 * The reader takes exactly a header, then exactly a body, then exactly the raw
 * bytes, so that a descriptor can only arrive with the frame it belongs to:
 *
 *	HEADER --len--> BODY --raw_len--> RAW --frame()--> HEADER
 *	   |  fd allowed on the first byte only
 *	   +--EOF between frames--> closed(0); inside: closed(-ECONNRESET)
 */
#define _GNU_SOURCE
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "base/own.h"
#include "ipc/stream.h"

#define FRAMES_A_TURN	32	/* then other events get a chance */

struct out {
	STAILQ_ENTRY(out) entry;
	size_t len, off;
	int fd;
	uint8_t bytes[];
};

enum part { PART_HEADER, PART_BODY, PART_RAW };

struct stream {
	int fd;
	const struct stream_ops *ops;
	void *owner;
	struct event *readable, *writable;
	enum part part;
	uint32_t header[2];
	size_t have;		/* bytes of the current part */
	struct stream_frame in;
	STAILQ_HEAD(, out) queue;
	size_t queued;
	bool ended, in_callback, free_later;
};

static size_t
header_size(const struct stream *s)
{
	return s->ops->raw_max > 0 ? 8 : 4;
}

static void
frame_reset(struct stream *s)
{
	free(s->in.body);
	free(s->in.raw);
	fd_close(s->in.fd);
	s->in = (struct stream_frame){ .fd = -1 };
	s->part = PART_HEADER;
	s->have = 0;
}

static void
queue_clear(struct stream *s)
{
	struct out *o;

	while ((o = STAILQ_FIRST(&s->queue))) {
		STAILQ_REMOVE_HEAD(&s->queue, entry);
		fd_close(o->fd);
		free(o);
	}
	s->queued = 0;
}

static void
stream_destroy(struct stream *s)
{
	frame_reset(s);
	queue_clear(s);
	if (s->readable)
		event_free(s->readable);
	if (s->writable)
		event_free(s->writable);
	fd_close(s->fd);
	free(s);
}

/* Tell the owner that it is over.  Returns with s possibly freed. */
static void
stream_end(struct stream *s, int why)
{
	if (s->ended)
		return;
	s->ended = true;
	event_del(s->readable);
	event_del(s->writable);
	queue_clear(s);
	s->in_callback = true;
	s->ops->closed(s->owner, why);
	s->in_callback = false;
	if (s->free_later)
		stream_destroy(s);
}

/* The one descriptor of a received message, -1, or -EPROTO. */
static int
control_fd(struct msghdr *msg, bool allowed)
{
	int fd = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c;
	    c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < n; i++) {
			int got;

			memcpy(&got, CMSG_DATA(c) + i * sizeof(int),
			    sizeof(got));
			if (fd < 0 && allowed)
				fd = got;
			else {
				fd_close(got);
				allowed = false;
			}
		}
		if (!allowed) {
			fd_close(fd);
			return -EPROTO;
		}
	}
	if (msg->msg_flags & MSG_CTRUNC) {
		fd_close(fd);
		return -EPROTO;
	}
	return fd;
}

/* Read towards `want` bytes of a part.  1: whole, 0: not yet, -errno;
 * -EPIPE: the peer closed between two frames. */
static int
part_read(struct stream *s, void *into, size_t want)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = { (char *)into + s->have, want - s->have };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	bool first = s->part == PART_HEADER && s->have == 0;
	ssize_t n = recvmsg(s->fd, &msg, MSG_CMSG_CLOEXEC);
	int fd;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	fd = control_fd(&msg, first);
	if (fd == -EPROTO)
		return -EPROTO;
	if (n == 0) {
		fd_close(fd);
		/* inside a frame: killed in the middle of sending it */
		return first ? -EPIPE : -ECONNRESET;
	}
	if (fd >= 0)
		s->in.fd = fd;
	s->have += (size_t)n;
	return s->have == want;
}

static int
header_done(struct stream *s)
{
	size_t len = ntohl(s->header[0]);
	size_t raw_len = s->ops->raw_max > 0 ? ntohl(s->header[1]) : 0;

	if (len > s->ops->body_max || raw_len > s->ops->raw_max)
		return -EPROTO;
	s->in.body = malloc(len + 1);	/* never NULL for want of bytes */
	s->in.raw = raw_len > 0 ? malloc(raw_len) : NULL;
	if (!s->in.body || (raw_len > 0 && !s->in.raw))
		return -ENOMEM;
	s->in.len = len;
	s->in.raw_len = raw_len;
	return 0;
}

/* One step of the reader.  1: go on, 0: wait for more, -errno. */
static int
stream_step(struct stream *s)
{
	int r;

	switch (s->part) {
	case PART_HEADER:
		r = part_read(s, s->header, header_size(s));
		if (r <= 0)
			return r;
		r = header_done(s);
		if (r < 0)
			return r;
		s->part = PART_BODY;
		s->have = 0;
		return 1;
	case PART_BODY:
		r = s->in.len == 0 ? 1 : part_read(s, s->in.body, s->in.len);
		if (r <= 0)
			return r;
		s->part = PART_RAW;
		s->have = 0;
		return 1;
	case PART_RAW:
		r = s->in.raw_len == 0 ? 1 :
		    part_read(s, s->in.raw, s->in.raw_len);
		if (r <= 0)
			return r;
		r = s->ops->frame(s->owner, &s->in);
		s->in.fd = -1;		/* the callback's */
		frame_reset(s);
		return r < 0 ? r : 1;
	}
	return -EPROTO;
}

static void
stream_readable(evutil_socket_t fd, short what, void *arg)
{
	struct stream *s = arg;
	int r = 1;

	(void)fd;
	(void)what;
	s->in_callback = true;
	for (int n = 0; n < 3 * FRAMES_A_TURN && r > 0; n++) {
		if (s->free_later || s->ended)
			break;
		if (s->part == PART_HEADER &&
		    !event_pending(s->readable, EV_READ, NULL))
			break;		/* paused by the callback */
		r = stream_step(s);
	}
	s->in_callback = false;
	if (s->free_later)
		stream_destroy(s);
	else if (r < 0)
		stream_end(s, r == -EPIPE ? 0 : r);
}

/* Write the head of the queue.  1: gone, 0: the socket is full, -errno. */
static int
out_write(struct stream *s, struct out *o)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { o->bytes + o->off, o->len - o->off };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (o->off == 0 && o->fd >= 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &o->fd, sizeof(int));
	}
	n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	o->off += (size_t)n;
	s->queued -= (size_t)n;
	if (o->off < o->len)
		return 0;
	STAILQ_REMOVE_HEAD(&s->queue, entry);
	fd_close(o->fd);
	free(o);
	return 1;
}

static int
queue_write(struct stream *s)
{
	struct out *o;
	int r = 1;

	while (r > 0 && (o = STAILQ_FIRST(&s->queue)))
		r = out_write(s, o);
	return r;
}

static void
stream_writable(evutil_socket_t fd, short what, void *arg)
{
	struct stream *s = arg;
	int r = queue_write(s);

	(void)fd;
	(void)what;
	if (r < 0) {
		/* What the peer sent before it went is still to be read: the
		 * reader finds the end. */
		queue_clear(s);
		event_del(s->writable);
		if (!event_pending(s->readable, EV_READ, NULL))
			stream_end(s, r == -EPIPE ? 0 : r);
		return;
	}
	if (STAILQ_EMPTY(&s->queue)) {
		event_del(s->writable);
		if (s->ops->drained) {
			s->in_callback = true;
			s->ops->drained(s->owner);
			s->in_callback = false;
			if (s->free_later)
				stream_destroy(s);
		}
	}
}

struct stream *
stream_new(struct event_base *base, int fd, const struct stream_ops *ops,
    void *owner)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s) {
		fd_close(fd);
		return NULL;
	}
	s->fd = fd;
	s->ops = ops;
	s->owner = owner;
	s->in.fd = -1;
	STAILQ_INIT(&s->queue);
	s->readable = event_new(base, fd, EV_READ | EV_PERSIST,
	    stream_readable, s);
	s->writable = event_new(base, fd, EV_WRITE | EV_PERSIST,
	    stream_writable, s);
	if (!s->readable || !s->writable || event_add(s->readable, NULL) < 0) {
		stream_destroy(s);
		return NULL;
	}
	return s;
}

void
stream_free(struct stream *s)
{
	if (!s)
		return;
	if (s->in_callback)
		s->free_later = true;
	else
		stream_destroy(s);
}

int
stream_send(struct stream *s, const void *body, size_t len, const void *raw,
    size_t raw_len, int passfd)
{
	size_t head = header_size(s), total = head + len + raw_len;
	uint32_t header[2] = { htonl((uint32_t)len), htonl((uint32_t)raw_len) };
	struct out *o;

	assert(raw_len == 0 || head == 8);
	if (s->ended || s->free_later) {
		fd_close(passfd);
		return -EPIPE;
	}
	if (s->ops->queue_max > 0 && s->queued + total > s->ops->queue_max) {
		fd_close(passfd);
		stream_abort(s);
		return -ENOBUFS;
	}
	o = malloc(sizeof(*o) + total);
	if (!o) {
		fd_close(passfd);
		stream_abort(s);
		return -ENOMEM;
	}
	o->len = total;
	o->off = 0;
	o->fd = passfd;
	memcpy(o->bytes, header, head);
	memcpy(o->bytes + head, body, len);
	if (raw_len > 0)
		memcpy(o->bytes + head + len, raw, raw_len);
	STAILQ_INSERT_TAIL(&s->queue, o, entry);
	s->queued += total;
	if (STAILQ_FIRST(&s->queue) == o && queue_write(s) > 0)
		return 0;
	event_add(s->writable, NULL);
	return 0;
}

void
stream_abort(struct stream *s)
{
	if (s->ended)
		return;
	shutdown(s->fd, SHUT_RDWR);
	stream_pause(s, false);
}

size_t
stream_queued(const struct stream *s)
{
	return s->queued;
}

void
stream_pause(struct stream *s, bool paused)
{
	if (s->ended)
		return;
	if (paused)
		event_del(s->readable);
	else
		event_add(s->readable, NULL);
}

int
stream_flush(struct stream *s)
{
	int r = 1;

	while (!s->ended && !STAILQ_EMPTY(&s->queue)) {
		struct pollfd p = { .fd = s->fd, .events = POLLOUT };

		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return -errno;
		r = queue_write(s);
		if (r < 0)
			return r;
	}
	return 0;
}
