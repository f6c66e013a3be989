/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames and descriptors over a non-blocking unix stream socket.
 *
 * A frame is a header, a body and, on links that allow it, raw bytes.  The
 * header is one big-endian 32-bit length (body), or two (body, raw) on links
 * with raw_max > 0.  At most one descriptor rides with a frame, on the first
 * byte of its header; one anywhere else, or MSG_CTRUNC, ends the stream.
 */
#ifndef IPC_STREAM_H
#define IPC_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct stream;

/* A received frame.  The callback owns fd from its first line; body and raw
 * die when it returns, unless it takes raw with take_ptr(). */
struct stream_frame {
	uint8_t *body;
	size_t len;
	uint8_t *raw;
	size_t raw_len;
	int fd;			/* -1: none */
};

struct stream_ops {
	/* A frame arrived.  Negative ends the stream with that reason. */
	int (*frame)(void *owner, struct stream_frame *frame);
	/* The peer closed (0), or the stream failed (-errno; -ECONNRESET: it
	 * ended inside a frame; -EPROTO: it broke the framing).  Called once,
	 * never from inside stream_send().  The owner calls stream_free(), now
	 * or later. */
	void (*closed)(void *owner, int why);
	/* Optional: the output queue became empty. */
	void (*drained)(void *owner);
	size_t body_max;	/* bytes, of a received body */
	size_t raw_max;		/* bytes, of received raw data; 0: none */
	size_t queue_max;	/* bytes queued for output; 0: no limit */
};

/* Takes fd, which is already non-blocking.  NULL without memory (fd closed). */
struct stream *stream_new(struct event_base *base, int fd,
    const struct stream_ops *ops, void *owner);

/* Also from inside a callback.  NULL is fine. */
void stream_free(struct stream *s);

/* Queue one frame; passfd (or -1) is taken in any case.  raw may be NULL.
 * A failure also aborts the stream, so a caller need not look.  0; -ENOMEM;
 * -ENOBUFS past queue_max; -EPIPE once the stream has failed. */
int stream_send(struct stream *s, const void *body, size_t len,
    const void *raw, size_t raw_len, int passfd);

/* Make the stream fail: the reader's next turn calls closed(). */
void stream_abort(struct stream *s);

/* Bytes that wait to be written. */
size_t stream_queued(const struct stream *s);

/* Stop and go on reading, for back-pressure. */
void stream_pause(struct stream *s, bool paused);

/* Write what is queued before returning, blocking; for a process that is about
 * to exit.  0 or -errno. */
int stream_flush(struct stream *s);

#endif
