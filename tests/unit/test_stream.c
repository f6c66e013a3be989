// SPDX-License-Identifier: Apache-2.0
/*
 * Frames and descriptors: one end is a stream, the other a bare socket, so
 * that a test decides where each byte and each descriptor goes.  turn() lets
 * the stream do whatever it can do now.
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/own.h"
#include "ipc/stream.h"

#define BODY_MAX	1000
#define RAW_MAX		500
#define QUEUE_MAX	(1 << 20)
#define FRAMES		2000	/* more than one turn takes */

/* What a callback does besides noting that it was called. */
enum action { NOTHING, REFUSE, PAUSE, FREE, SEND, TAKE_RAW };

static struct {
	struct event_base *base;
	struct stream *stream;
	int peer;		/* the other end */
	enum action on_frame, on_closed, on_drained;
	/* of the last frame */
	uint8_t body[BODY_MAX], *raw, raw_copy[RAW_MAX];
	size_t len, raw_len;
	int fd;
	int frames, closed, drained, why, in_send;
} t;

static void
act(enum action action)
{
	switch (action) {
	case PAUSE:
		stream_pause(t.stream, true);
		break;
	case FREE:
		stream_free(take_ptr(t.stream));
		break;
	case SEND:
		stream_send(t.stream, "answer", 6, NULL, 0, -1);
		break;
	case NOTHING:
	case REFUSE:
	case TAKE_RAW:
		break;
	}
}

static int
on_frame(void *owner, struct stream_frame *frame)
{
	assert_ptr_equal(owner, &t);
	assert_false(t.in_send);
	assert_int_equal(t.closed, 0);
	t.frames++;
	assert_true(frame->len <= BODY_MAX && frame->raw_len <= RAW_MAX);
	memcpy(t.body, frame->body, frame->len);
	if (frame->raw_len > 0)
		memcpy(t.raw_copy, frame->raw, frame->raw_len);
	t.len = frame->len;
	t.raw_len = frame->raw_len;
	fd_close(t.fd);
	t.fd = frame->fd;
	if (t.on_frame == TAKE_RAW)
		t.raw = take_ptr(frame->raw);
	act(t.on_frame);
	return t.on_frame == REFUSE ? -EBADMSG : 0;
}

static void
on_closed(void *owner, int why)
{
	assert_ptr_equal(owner, &t);
	assert_false(t.in_send);
	t.closed++;
	t.why = why;
	act(t.on_closed);
}

static void
on_drained(void *owner)
{
	assert_ptr_equal(owner, &t);
	t.drained++;
	act(t.on_drained);
}

static const struct stream_ops with_raw = { on_frame, on_closed, on_drained,
	BODY_MAX, RAW_MAX, 0 };
static const struct stream_ops without_raw = { on_frame, on_closed,
	on_drained, BODY_MAX, 0, QUEUE_MAX };

static void
start(const struct stream_ops *ops)
{
	int pair[2];

	assert_int_equal(fd_pair(pair), 0);
	memset(&t, 0, sizeof(t));
	t.fd = -1;
	t.peer = pair[1];
	t.base = event_base_new();
	assert_non_null(t.base);
	t.stream = stream_new(t.base, pair[0], ops, &t);
	assert_non_null(t.stream);
}

static void
turn(void)
{
	/* until nothing is left to do; 1: no event is left either */
	assert_true(event_base_loop(t.base, EVLOOP_NONBLOCK) >= 0);
}

static void
finish(void)
{
	stream_free(t.stream);
	fd_close(t.peer);
	fd_close(t.fd);
	free(t.raw);
	event_base_free(t.base);
}

static void
assert_closed(int why)
{
	turn();
	assert_int_equal(t.closed, 1);
	assert_int_equal(t.why, why);
	/* and it stays so */
	turn();
	assert_int_equal(t.closed, 1);
}

/* ---- the bare end ---- */

/* Send bytes with n descriptors on the first of them. */
static void
put(const void *bytes, size_t len, const int *fds, size_t n)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)bytes, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n > 0) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	assert_int_equal(sendmsg(t.peer, &msg, MSG_NOSIGNAL), len);
}

/* A frame's bytes; the header has one length or two.  Returns their number. */
static size_t
frame_bytes(uint8_t *out, bool raw, const char *body, const char *raw_text)
{
	uint32_t header[2] = { htonl((uint32_t)strlen(body)),
		htonl((uint32_t)strlen(raw_text)) };
	size_t head = raw ? 8 : 4;

	memcpy(out, header, head);
	memcpy(out + head, body, strlen(body));
	memcpy(out + head + strlen(body), raw_text, strlen(raw_text));
	return head + strlen(body) + strlen(raw_text);
}

static void
put_frame(const char *body, const char *raw_text)
{
	uint8_t bytes[64];

	put(bytes, frame_bytes(bytes, true, body, raw_text), NULL, 0);
}

static void
assert_frame(const char *body, const char *raw_text)
{
	assert_int_equal(t.len, strlen(body));
	assert_memory_equal(t.body, body, t.len);
	assert_int_equal(t.raw_len, strlen(raw_text));
	assert_memory_equal(t.raw_copy, raw_text, t.raw_len);
}

/* A pipe: its write end to be sent away, its read end to see whether every
 * copy of the other was closed. */
struct witness {
	int ends[2];
};

static struct witness
witness(void)
{
	struct witness w;

	assert_int_equal(pipe2(w.ends, O_CLOEXEC | O_NONBLOCK), 0);
	return w;
}

static bool
all_closed(struct witness *w)
{
	char c;

	fd_close(take_fd(&w->ends[1]));
	return read(w->ends[0], &c, 1) == 0;
}

static void
assert_all_closed(struct witness *w)
{
	assert_true(all_closed(w));
	fd_close(w->ends[0]);
}

/* ---- frames ---- */

static void
test_a_frame_arrives_byte_by_byte(void **state)
{
	uint8_t bytes[64];
	size_t len = frame_bytes(bytes, true, "body", "raw bytes");

	(void)state;
	start(&with_raw);
	for (int n = 1; n <= 2; n++) {
		for (size_t i = 0; i < len; i++) {
			assert_int_equal(t.frames, n - 1);
			put(bytes + i, 1, NULL, 0);
			turn();
		}
		assert_int_equal(t.frames, n);
		assert_frame("body", "raw bytes");
		assert_int_equal(t.fd, -1);
	}
	assert_int_equal(t.closed, 0);
	finish();
}

static void
test_a_frame_without_raw_has_a_header_of_four_bytes(void **state)
{
	uint8_t bytes[64];
	size_t len = frame_bytes(bytes, false, "body", "");

	(void)state;
	start(&without_raw);
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(t.frames, 0);
		put(bytes + i, 1, NULL, 0);
		turn();
	}
	assert_int_equal(t.frames, 1);
	assert_frame("body", "");
	finish();
}

static void
test_frames_in_one_piece_arrive_apart_and_in_order(void **state)
{
	uint8_t bytes[256];
	size_t len = 0;

	(void)state;
	start(&with_raw);
	t.on_frame = PAUSE;
	len += frame_bytes(bytes + len, true, "one", "1");
	len += frame_bytes(bytes + len, true, "", "22");
	len += frame_bytes(bytes + len, true, "three", "");
	len += frame_bytes(bytes + len, true, "", "");
	put(bytes, len, NULL, 0);
	turn();
	assert_frame("one", "1");
	stream_pause(t.stream, false);
	turn();
	assert_frame("", "22");
	stream_pause(t.stream, false);
	turn();
	assert_frame("three", "");
	stream_pause(t.stream, false);
	turn();
	assert_frame("", "");
	assert_int_equal(t.frames, 4);
	finish();
}

static void
test_raw_may_be_taken(void **state)
{
	(void)state;
	start(&with_raw);
	t.on_frame = TAKE_RAW;
	put_frame("body", "mine");
	turn();
	assert_int_equal(t.frames, 1);
	t.on_frame = NOTHING;
	put_frame("other", "theirs");
	turn();
	assert_int_equal(t.frames, 2);
	assert_memory_equal(t.raw, "mine", 4);
	finish();
}

static void
test_lengths_up_to_the_limit_are_taken(void **state)
{
	static uint8_t bytes[8 + BODY_MAX + RAW_MAX];
	uint32_t header[2] = { htonl(BODY_MAX), htonl(RAW_MAX) };

	(void)state;
	start(&with_raw);
	memset(bytes, 'x', sizeof(bytes));
	memcpy(bytes, header, sizeof(header));
	put(bytes, sizeof(bytes), NULL, 0);
	turn();
	assert_int_equal(t.frames, 1);
	assert_int_equal(t.len, BODY_MAX);
	assert_int_equal(t.raw_len, RAW_MAX);
	finish();
}

static void
test_lengths_past_the_limit_end_the_stream(void **state)
{
	static const uint32_t lengths[][2] = { { BODY_MAX + 1, 0 },
		{ 0, RAW_MAX + 1 }, { UINT32_MAX, 0 }, { 0, UINT32_MAX },
		{ 1u << 31, 1u << 31 }, { UINT32_MAX, UINT32_MAX } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		uint32_t header[2] = { htonl(lengths[i][0]),
			htonl(lengths[i][1]) };

		start(&with_raw);
		put(header, sizeof(header), NULL, 0);
		assert_closed(-EPROTO);
		assert_int_equal(t.frames, 0);
		finish();
	}
	start(&without_raw);
	put(&(uint32_t){ htonl(BODY_MAX + 1) }, 4, NULL, 0);
	assert_closed(-EPROTO);
	finish();
}

static void
test_a_refused_frame_ends_the_stream_with_the_reason(void **state)
{
	(void)state;
	start(&with_raw);
	t.on_frame = REFUSE;
	put_frame("one", "");
	put_frame("two", "");
	assert_closed(-EBADMSG);
	assert_int_equal(t.frames, 1);
	finish();
}

/* ---- the end ---- */

static void
test_eof_between_frames_is_the_end(void **state)
{
	(void)state;
	start(&with_raw);
	put_frame("last", "words");
	fd_close(take_fd(&t.peer));
	assert_closed(0);
	assert_int_equal(t.frames, 1);
	assert_frame("last", "words");
	finish();
}

static void
test_eof_inside_a_frame_is_told_from_the_end(void **state)
{
	uint8_t bytes[64];
	size_t len = frame_bytes(bytes, true, "body", "raw");

	(void)state;
	for (size_t cut = 1; cut < len; cut++) {
		start(&with_raw);
		put(bytes, cut, NULL, 0);
		turn();
		assert_int_equal(t.closed, 0);
		fd_close(take_fd(&t.peer));
		assert_closed(-ECONNRESET);
		assert_int_equal(t.frames, 0);
		finish();
	}
}

static void
test_an_abort_closes_from_the_loop(void **state)
{
	(void)state;
	start(&with_raw);
	stream_abort(t.stream);
	assert_int_equal(t.closed, 0);
	turn();
	assert_int_equal(t.closed, 1);
	stream_abort(t.stream);
	turn();
	assert_int_equal(t.closed, 1);
	finish();
}

static void
test_an_abort_closes_a_paused_stream(void **state)
{
	(void)state;
	start(&with_raw);
	stream_pause(t.stream, true);
	stream_abort(t.stream);
	turn();
	assert_int_equal(t.closed, 1);
	finish();
}

/* ---- descriptors ---- */

static void
test_a_descriptor_rides_on_the_first_byte(void **state)
{
	struct witness w = witness();
	uint8_t bytes[64];
	size_t len = frame_bytes(bytes, true, "body", "raw");

	(void)state;
	start(&with_raw);
	put(bytes, 1, &w.ends[1], 1);
	for (size_t i = 1; i < len; i++) {
		turn();
		put(bytes + i, 1, NULL, 0);
	}
	turn();
	assert_int_equal(t.frames, 1);
	assert_true(t.fd >= 0);
	assert_int_equal(fcntl(t.fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(write(t.fd, "x", 1), 1);
	/* it does not stick to the next frame */
	fd_close(take_fd(&t.fd));
	put_frame("next", "");
	turn();
	assert_int_equal(t.frames, 2);
	assert_int_equal(t.fd, -1);
	finish();
	fd_close(w.ends[0]);
	fd_close(w.ends[1]);
}

static void
test_each_of_many_frames_has_its_own_descriptor(void **state)
{
	struct witness one = witness(), two = witness();
	uint8_t bytes[64];
	char c;

	(void)state;
	start(&with_raw);
	t.on_frame = PAUSE;
	put(bytes, frame_bytes(bytes, true, "one", ""), &one.ends[1], 1);
	put(bytes, frame_bytes(bytes, true, "none", ""), NULL, 0);
	put(bytes, frame_bytes(bytes, true, "two", ""), &two.ends[1], 1);
	turn();
	assert_frame("one", "");
	assert_int_equal(write(t.fd, "1", 1), 1);
	stream_pause(t.stream, false);
	turn();
	assert_frame("none", "");
	assert_int_equal(t.fd, -1);
	stream_pause(t.stream, false);
	turn();
	assert_frame("two", "");
	assert_int_equal(write(t.fd, "2", 1), 1);
	assert_int_equal(read(one.ends[0], &c, 1), 1);
	assert_int_equal(c, '1');
	assert_int_equal(read(two.ends[0], &c, 1), 1);
	assert_int_equal(c, '2');
	finish();
	assert_all_closed(&one);
	assert_all_closed(&two);
}

static void
test_a_descriptor_on_any_later_byte_ends_the_stream(void **state)
{
	uint8_t bytes[64];
	size_t len = frame_bytes(bytes, true, "body", "raw");

	(void)state;
	for (size_t at = 1; at < len; at++) {
		struct witness w = witness();

		start(&with_raw);
		put(bytes, at, NULL, 0);
		turn();		/* else the kernel gives both in one piece */
		put(bytes + at, len - at, &w.ends[1], 1);
		assert_closed(-EPROTO);
		assert_int_equal(t.frames, 0);
		finish();
		assert_all_closed(&w);
	}
}

static void
test_a_second_descriptor_ends_the_stream_and_both_close(void **state)
{
	struct witness first = witness(), second = witness();
	uint8_t bytes[64];
	size_t len = frame_bytes(bytes, true, "body", "raw");

	(void)state;
	start(&with_raw);
	put(bytes, 9, &first.ends[1], 1);
	put(bytes + 9, len - 9, &second.ends[1], 1);
	assert_closed(-EPROTO);
	assert_int_equal(t.frames, 0);
	finish();
	assert_all_closed(&first);
	assert_all_closed(&second);
}

/* Up to what the reader's buffer holds, and beyond (MSG_CTRUNC). */
static void
test_several_descriptors_end_the_stream_and_are_closed(void **state)
{
	(void)state;
	for (size_t n = 2; n <= 16; n++) {
		struct witness w = witness();
		int fds[16];
		uint8_t bytes[64];

		for (size_t i = 0; i < n; i++)
			fds[i] = w.ends[1];
		start(&with_raw);
		put(bytes, frame_bytes(bytes, true, "body", ""), fds, n);
		assert_closed(-EPROTO);
		assert_int_equal(t.frames, 0);
		finish();
		assert_all_closed(&w);
	}
}

/* The kernel drops a descriptor that there is no room for and says
 * MSG_CTRUNC: the frame must not look like one that had none. */
static void
test_a_descriptor_that_was_dropped_ends_the_stream(void **state)
{
	struct witness w = witness();
	struct rlimit before, none;
	uint8_t bytes[64];

	(void)state;
	start(&with_raw);
	turn();
	put(bytes, frame_bytes(bytes, true, "body", ""), &w.ends[1], 1);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	turn();
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_closed(-EPROTO);
	assert_int_equal(t.frames, 0);
	finish();
	assert_all_closed(&w);
}

static void
test_a_descriptor_of_an_unfinished_frame_is_closed(void **state)
{
	struct witness w = witness();

	(void)state;
	start(&with_raw);
	put("\0", 1, &w.ends[1], 1);
	turn();
	finish();
	assert_all_closed(&w);
}

/* ---- turns ---- */

static void
test_a_paused_stream_delivers_nothing(void **state)
{
	(void)state;
	start(&with_raw);
	stream_pause(t.stream, true);
	put_frame("one", "");
	turn();
	assert_int_equal(t.frames, 0);
	stream_pause(t.stream, false);
	turn();
	assert_int_equal(t.frames, 1);
	finish();
}

static void
test_a_pause_from_inside_the_callback_holds_at_once(void **state)
{
	(void)state;
	start(&with_raw);
	t.on_frame = PAUSE;
	put_frame("one", "");
	put_frame("two", "");
	turn();
	assert_int_equal(t.frames, 1);
	t.on_frame = NOTHING;
	stream_pause(t.stream, false);
	turn();
	assert_int_equal(t.frames, 2);
	finish();
}

static void
note(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(int *)arg = t.frames;
}

static void
test_many_frames_leave_turns_to_others(void **state)
{
	static uint8_t bytes[5 * FRAMES];
	struct event *other;
	int at_other = -1;

	(void)state;
	start(&without_raw);
	for (int i = 0; i < FRAMES; i++)
		memcpy(bytes + 5 * i, "\0\0\0\1x", 5);
	put(bytes, sizeof(bytes), NULL, 0);
	assert_int_equal(event_base_loop(t.base, EVLOOP_ONCE), 0);
	assert_true(t.frames > 0 && t.frames < FRAMES);
	other = event_new(t.base, -1, 0, note, &at_other);
	event_active(other, EV_READ, 0);
	while (t.frames < FRAMES)
		assert_int_equal(event_base_loop(t.base, EVLOOP_ONCE), 0);
	assert_true(at_other > 0 && at_other < FRAMES);
	event_free(other);
	finish();
}

static void
test_a_stream_may_be_freed_by_its_frame_callback(void **state)
{
	struct witness w = witness();
	uint8_t bytes[64];

	(void)state;
	start(&with_raw);
	t.on_frame = FREE;
	put(bytes, frame_bytes(bytes, true, "one", "raw"), NULL, 0);
	put(bytes, frame_bytes(bytes, true, "two", "raw"), &w.ends[1], 1);
	turn();
	assert_int_equal(t.frames, 1);
	assert_int_equal(t.closed, 0);
	finish();
	assert_all_closed(&w);
}

static void
test_a_stream_may_be_freed_by_its_closed_callback(void **state)
{
	(void)state;
	start(&with_raw);
	t.on_closed = FREE;
	fd_close(take_fd(&t.peer));
	turn();
	assert_int_equal(t.closed, 1);
	assert_null(t.stream);
	finish();
}

static void
test_free_of_null_is_fine(void **state)
{
	(void)state;
	stream_free(NULL);
}

/* ---- sending ---- */

static void
test_a_sent_frame_has_its_bytes_and_descriptor_first(void **state)
{
	struct witness w = witness();
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	uint8_t got[64], want[64];
	struct iovec iov = { got, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	size_t len = frame_bytes(want, true, "body", "raw");
	int fd;

	(void)state;
	start(&with_raw);
	assert_int_equal(stream_send(t.stream, "body", 4, "raw", 3,
	    fd_duplicate(w.ends[1])), 0);
	assert_int_equal(stream_queued(t.stream), 0);
	assert_int_equal(recvmsg(t.peer, &msg, MSG_CMSG_CLOEXEC), 1);
	assert_non_null(CMSG_FIRSTHDR(&msg));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	fd_close(fd);
	assert_int_equal(recv(t.peer, got + 1, sizeof(got) - 1, 0), len - 1);
	assert_memory_equal(got, want, len);
	finish();
	assert_all_closed(&w);
}

static size_t
drink(size_t most)
{
	char bytes[65536];
	size_t have = 0;

	while (have < most) {
		ssize_t n = recv(t.peer, bytes, most - have < sizeof(bytes) ?
		    most - have : sizeof(bytes), 0);

		if (n <= 0)
			break;
		have += (size_t)n;
	}
	return have;
}

/* Send frames until one has to wait.  The bytes sent or queued. */
static size_t
fill(void)
{
	static const char body[BODY_MAX];
	size_t total = 0;

	t.in_send = 1;
	while (stream_queued(t.stream) == 0) {
		assert_int_equal(stream_send(t.stream, body, sizeof(body),
		    NULL, 0, -1), 0);
		total += 4 + sizeof(body);
	}
	t.in_send = 0;
	return total;
}

static void
test_what_does_not_fit_waits_and_then_drains(void **state)
{
	size_t total;

	(void)state;
	start(&without_raw);
	total = fill();
	turn();
	assert_int_equal(t.drained, 0);
	for (size_t have = 0; have < total;) {
		have += drink(total - have);
		turn();
	}
	assert_int_equal(stream_queued(t.stream), 0);
	assert_int_equal(t.drained, 1);
	assert_int_equal(drink(1), 0);
	finish();
}

static void
test_drained_may_send_and_may_free(void **state)
{
	size_t total;

	(void)state;
	start(&without_raw);
	t.on_drained = SEND;
	total = fill();
	for (size_t have = 0; have < total; turn())
		have += drink(total - have);
	turn();
	assert_int_equal(drink(100), 4 + 6);
	t.on_drained = FREE;
	total = fill();
	for (size_t have = 0; have < total && t.stream; turn())
		have += drink(total - have);
	assert_null(t.stream);
	finish();
}

static void
test_a_full_queue_aborts_the_stream(void **state)
{
	static const char body[BODY_MAX];
	struct witness w = witness();
	int r = 0;

	(void)state;
	start(&without_raw);
	fill();
	t.in_send = 1;
	for (size_t n = 0; r == 0; n += sizeof(body)) {
		assert_true(n <= QUEUE_MAX);
		r = stream_send(t.stream, body, sizeof(body), NULL, 0, -1);
		assert_true(stream_queued(t.stream) <= QUEUE_MAX);
	}
	assert_int_equal(r, -ENOBUFS);
	assert_int_equal(stream_send(t.stream, body, sizeof(body), NULL, 0,
	    fd_duplicate(w.ends[1])), -ENOBUFS);
	t.in_send = 0;
	assert_int_equal(t.closed, 0);
	turn();
	assert_int_equal(t.closed, 1);
	assert_int_equal(stream_queued(t.stream), 0);
	finish();
	assert_all_closed(&w);
}

static void
test_sending_on_a_stream_that_ended_is_refused(void **state)
{
	struct witness w = witness();

	(void)state;
	start(&with_raw);
	fd_close(take_fd(&t.peer));
	turn();
	assert_int_equal(t.closed, 1);
	assert_int_equal(stream_send(t.stream, "x", 1, NULL, 0,
	    fd_duplicate(w.ends[1])), -EPIPE);
	assert_true(all_closed(&w));
	fd_close(w.ends[0]);
	finish();
}

/* The peer answered and went; our next message finds it gone first. */
static void
test_last_words_are_read_although_writing_fails(void **state)
{
	(void)state;
	start(&with_raw);
	put_frame("last", "words");
	fd_close(take_fd(&t.peer));
	stream_send(t.stream, "too late", 8, NULL, 0, -1);
	assert_int_equal(t.closed, 0);
	assert_closed(0);
	assert_int_equal(t.frames, 1);
	assert_frame("last", "words");
	finish();
}

static void
test_unsent_descriptors_are_closed_with_the_stream(void **state)
{
	struct witness w = witness();

	(void)state;
	start(&without_raw);
	fill();
	stream_send(t.stream, "x", 1, NULL, 0, fd_duplicate(w.ends[1]));
	assert_true(stream_queued(t.stream) > 0);
	finish();
	assert_all_closed(&w);
}

static void
test_flush_leaves_nothing_queued(void **state)
{
	size_t total;
	int status;
	pid_t pid;

	(void)state;
	start(&without_raw);
	total = fill();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {		/* the peer's reader; the test flushes */
		fcntl(t.peer, F_SETFL, 0);
		_exit(drink(total) == total ? 0 : 1);
	}
	assert_int_equal(stream_flush(t.stream), 0);
	assert_int_equal(stream_queued(t.stream), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	finish();
}

static void
test_flush_to_a_peer_that_is_gone_fails(void **state)
{
	(void)state;
	start(&without_raw);
	fill();
	fd_close(take_fd(&t.peer));
	assert_int_equal(stream_flush(t.stream), -EPIPE);
	finish();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_frame_arrives_byte_by_byte),
		cmocka_unit_test(
		    test_a_frame_without_raw_has_a_header_of_four_bytes),
		cmocka_unit_test(
		    test_frames_in_one_piece_arrive_apart_and_in_order),
		cmocka_unit_test(test_raw_may_be_taken),
		cmocka_unit_test(test_lengths_up_to_the_limit_are_taken),
		cmocka_unit_test(test_lengths_past_the_limit_end_the_stream),
		cmocka_unit_test(
		    test_a_refused_frame_ends_the_stream_with_the_reason),
		cmocka_unit_test(test_eof_between_frames_is_the_end),
		cmocka_unit_test(test_eof_inside_a_frame_is_told_from_the_end),
		cmocka_unit_test(test_an_abort_closes_from_the_loop),
		cmocka_unit_test(test_an_abort_closes_a_paused_stream),
		cmocka_unit_test(test_a_descriptor_rides_on_the_first_byte),
		cmocka_unit_test(
		    test_each_of_many_frames_has_its_own_descriptor),
		cmocka_unit_test(
		    test_a_descriptor_on_any_later_byte_ends_the_stream),
		cmocka_unit_test(
		    test_a_second_descriptor_ends_the_stream_and_both_close),
		cmocka_unit_test(
		    test_several_descriptors_end_the_stream_and_are_closed),
		cmocka_unit_test(
		    test_a_descriptor_that_was_dropped_ends_the_stream),
		cmocka_unit_test(
		    test_a_descriptor_of_an_unfinished_frame_is_closed),
		cmocka_unit_test(test_a_paused_stream_delivers_nothing),
		cmocka_unit_test(
		    test_a_pause_from_inside_the_callback_holds_at_once),
		cmocka_unit_test(test_many_frames_leave_turns_to_others),
		cmocka_unit_test(
		    test_a_stream_may_be_freed_by_its_frame_callback),
		cmocka_unit_test(
		    test_a_stream_may_be_freed_by_its_closed_callback),
		cmocka_unit_test(test_free_of_null_is_fine),
		cmocka_unit_test(
		    test_a_sent_frame_has_its_bytes_and_descriptor_first),
		cmocka_unit_test(test_what_does_not_fit_waits_and_then_drains),
		cmocka_unit_test(test_drained_may_send_and_may_free),
		cmocka_unit_test(test_a_full_queue_aborts_the_stream),
		cmocka_unit_test(
		    test_sending_on_a_stream_that_ended_is_refused),
		cmocka_unit_test(
		    test_last_words_are_read_although_writing_fails),
		cmocka_unit_test(
		    test_unsent_descriptors_are_closed_with_the_stream),
		cmocka_unit_test(test_flush_leaves_nothing_queued),
		cmocka_unit_test(test_flush_to_a_peer_that_is_gone_fails),
	};

	mallopt(M_PERTURB, 0xa5);	/* what was freed is not to be used */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
