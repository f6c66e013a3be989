// SPDX-License-Identifier: Apache-2.0
/*
 * The trust boundary: what a table does not allow reaches no handler, and what
 * protobuf-c may make of a frame is bounded.
 */
#define _GNU_SOURCE
#include <sys/socket.h>

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
#include "ipc/ipc.h"
#include "ipc/parent.h"

#define FRAME	(&suite__frame__descriptor)
#define CLIENT	(&shedstream__control__v1__frame__descriptor)

static struct {
	struct event_base *base;
	struct ipc_link *link;
	int peer, stderr_saved;
	int handled, unknown, closed, why;
	/* of the last message */
	struct ipc_message msg;
	uint64_t first;
	char raw[16];
	bool free_link, take_raw;
	uint8_t *raw_taken;
} t;

/* ---- tables of this test, one rule of each sort ---- */

static void
on_any(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	assert_ptr_equal(owner, &t);
	assert_ptr_equal(link, t.link);
	t.handled++;
	t.msg = *msg;
	if (msg->type == SUITE_BODY(WANT))
		t.first = ((const Suite__Want *)msg->body)->first;
	assert_true(msg->raw_len <= sizeof(t.raw));
	if (msg->raw_len > 0)
		memcpy(t.raw, msg->raw, msg->raw_len);
	if (t.take_raw)
		t.raw_taken = take_ptr(msg->raw);
	if (t.free_link)
		ipc_free(take_ptr(t.link));
}

static void
on_unknown(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	assert_ptr_equal(owner, &t);
	assert_ptr_equal(link, t.link);
	assert_int_equal(msg->fd, -1);
	t.unknown++;
	t.msg = *msg;
}

static void
on_closed(void *owner, struct ipc_link *link, int why)
{
	assert_ptr_equal(owner, &t);
	assert_ptr_equal(link, t.link);
	t.closed++;
	t.why = why;
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(WANT), "want", PEER_IO, PHASE_ANY, false, false, on_any },
	{ SUITE_BODY(RELEASE), "release", PEER_IO, PHASE_RUN, false, false, on_any },
	{ SUITE_BODY(STORE_FILE), "store_file", PEER_IO, PHASE_ANY, true, false, on_any },
	{ SUITE_BODY(DATA), "data", PEER_IO, PHASE_ANY, false, true, on_any },
	{ SUITE_BODY(OPEN), "open", PEER_CONTROL, PHASE_ANY, false, false, on_any },
	{ SUITE_BODY(NOTICE), "notice", PEER_IO | PEER_CONTROL, PHASE_START, false, false, on_any },
};
static const struct ipc_table table = {
	.frame = FRAME,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = on_closed,
};

static const struct ipc_rule client_rules[] = {
	{ CTL_BODY(HELLO), "hello", PEER_CLIENT, PHASE_START, false, false, on_any },
	{ CTL_BODY(LIST), "list", PEER_CLIENT, PHASE_RUN, false, false, on_any },
	{ CTL_BODY(IMPORT), "import", PEER_CLIENT, PHASE_ANY, true, false, on_any },
};
static const struct ipc_table client_table = {
	.frame = CLIENT,
	.rules = client_rules,
	.n_rules = ARRAY_LEN(client_rules),
	.outsiders = true,
	.unknown = on_unknown,
	.closed = on_closed,
};

/* ---- both ends ---- */

static void
start(const struct ipc_table *of, enum ipc_peer peer)
{
	int pair[2], null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	memset(&t, 0, sizeof(t));
	/* refusals are logged */
	t.stderr_saved = dup(STDERR_FILENO);
	assert_true(dup2(null, STDERR_FILENO) >= 0);
	fd_close(null);
	assert_int_equal(fd_pair(pair), 0);
	t.peer = pair[1];
	t.base = event_base_new();
	t.link = ipc_new(t.base, pair[0], of, peer, &t);
	assert_non_null(t.link);
}

static void
finish(void)
{
	ipc_free(t.link);
	fd_close(t.peer);
	free(t.raw_taken);
	event_base_free(t.base);
	assert_true(dup2(t.stderr_saved, STDERR_FILENO) >= 0);
	fd_close(t.stderr_saved);
}

static void
turn(void)
{
	assert_true(event_base_loop(t.base, EVLOOP_NONBLOCK) >= 0);
}

/* A frame, as bytes: Frame's own, then `more` (unknown fields, garbage). */
struct packed {
	uint8_t bytes[512];
	size_t len;
};

static struct packed
pack(const ProtobufCMessage *frame, const void *more, size_t more_len)
{
	struct packed p;

	p.len = protobuf_c_message_get_packed_size(frame);
	assert_true(p.len + more_len <= sizeof(p.bytes));
	protobuf_c_message_pack(frame, p.bytes);
	if (more_len > 0)
		memcpy(p.bytes + p.len, more, more_len);
	p.len += more_len;
	return p;
}

static struct packed
suite_frame(unsigned type, void *body)
{
	Suite__Frame f = SUITE__FRAME__INIT;

	f.id = 7;
	f.body_case = type;
	f.want = body;		/* a union */
	return pack(&f.base, NULL, 0);
}

static struct packed
client_frame(unsigned type, void *body)
{
	CTL(Frame) f = SHEDSTREAM__CONTROL__V1__FRAME__INIT;

	f.id = 7;
	f.body_case = type;
	f.hello = body;
	return pack(&f.base, NULL, 0);
}

/* Send a frame and let the link read it.  fd stays ours; -1: none. */
static void
put(const struct packed *p, bool sibling, const char *raw, int fd)
{
	uint32_t header[2] = { htonl((uint32_t)p->len),
		htonl((uint32_t)strlen(raw)) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov[3] = { { header, sibling ? 8 : 4 },
		{ (void *)p->bytes, p->len }, { (void *)raw, strlen(raw) } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	assert_true(sendmsg(t.peer, &msg, MSG_NOSIGNAL) > 0);
	turn();
}

/* From a sibling of that kind in that phase: does it reach the handler?  If
 * not, the link must be closed with -EPROTO and the descriptor not be kept. */
static bool
passes(enum ipc_peer peer, enum ipc_phase phase, const struct packed *p,
    const char *raw, bool with_fd)
{
	int ends[2];
	bool ok;
	char c;

	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	start(&table, peer);
	ipc_phase(t.link, phase);
	put(p, true, raw, with_fd ? ends[1] : -1);
	fd_close(ends[1]);
	ok = t.handled == 1;
	if (ok) {
		assert_int_equal(t.closed, 0);
		assert_int_equal(t.msg.fd >= 0, with_fd);
		fd_close(t.msg.fd);
	} else {
		assert_int_equal(t.handled, 0);
		assert_int_equal(t.closed, 1);
		assert_int_equal(t.why, -EPROTO);
	}
	assert_int_equal(read(ends[0], &c, 1), 0);
	fd_close(ends[0]);
	finish();
	return ok;
}

/* ---- what the table says ---- */

static void
test_a_message_reaches_its_handler_with_all_it_has(void **state)
{
	Suite__Want want = SUITE__WANT__INIT;
	struct packed p;

	(void)state;
	want.first = 12345678901;
	want.count = 2;
	p = suite_frame(SUITE_BODY(WANT), &want);
	start(&table, PEER_IO);
	put(&p, true, "", -1);
	assert_int_equal(t.handled, 1);
	assert_int_equal(t.msg.id, 7);
	assert_int_equal(t.msg.type, SUITE_BODY(WANT));
	assert_int_equal(t.first, 12345678901);
	assert_int_equal(t.msg.fd, -1);
	assert_int_equal(t.msg.raw_len, 0);
	finish();
}

static void
test_a_message_without_rule_is_refused(void **state)
{
	Suite__Here here = SUITE__HERE__INIT;
	Suite__Fetch fetch = SUITE__FETCH__INIT;
	struct packed p;

	(void)state;
	p = suite_frame(SUITE_BODY(HERE), &here);
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
	p = suite_frame(SUITE_BODY(FETCH), &fetch);
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
}

static void
test_a_frame_without_message_is_refused(void **state)
{
	Suite__Frame f = SUITE__FRAME__INIT;
	struct packed p;

	(void)state;
	f.id = 1;
	p = pack(&f.base, NULL, 0);
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
	p.len = 0;
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
}

static void
test_a_message_is_taken_from_its_peers_only(void **state)
{
	static const enum ipc_peer peers[] = { PEER_CONTROL, PEER_CACHED,
		PEER_FETCHERD, PEER_IO };
	Suite__Want want = SUITE__WANT__INIT;
	Suite__Open open_ = SUITE__OPEN__INIT;
	Suite__Notice notice = SUITE__NOTICE__INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(peers); i++) {
		struct packed p = suite_frame(SUITE_BODY(WANT), &want);

		assert_int_equal(passes(peers[i], PHASE_START, &p, "", false),
		    peers[i] == PEER_IO);
		p = suite_frame(SUITE_BODY(OPEN), &open_);
		assert_int_equal(passes(peers[i], PHASE_START, &p, "", false),
		    peers[i] == PEER_CONTROL);
		p = suite_frame(SUITE_BODY(NOTICE), &notice);
		assert_int_equal(passes(peers[i], PHASE_START, &p, "", false),
		    peers[i] == PEER_CONTROL || peers[i] == PEER_IO);
	}
}

static void
test_a_message_is_taken_in_its_phase_only(void **state)
{
	Suite__Release release = SUITE__RELEASE__INIT;
	Suite__Notice notice = SUITE__NOTICE__INIT;
	struct packed p = suite_frame(SUITE_BODY(RELEASE), &release);

	(void)state;
	assert_false(passes(PEER_IO, PHASE_START, &p, "", false));
	assert_true(passes(PEER_IO, PHASE_RUN, &p, "", false));
	p = suite_frame(SUITE_BODY(NOTICE), &notice);
	assert_true(passes(PEER_IO, PHASE_START, &p, "", false));
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
}

static void
test_a_link_starts_in_the_first_phase(void **state)
{
	Suite__Release release = SUITE__RELEASE__INIT;
	struct packed p = suite_frame(SUITE_BODY(RELEASE), &release);

	(void)state;
	start(&table, PEER_IO);
	assert_int_equal(ipc_peer(t.link), PEER_IO);
	put(&p, true, "", -1);
	assert_int_equal(t.handled, 0);
	assert_int_equal(t.why, -EPROTO);
	finish();
}

static void
test_a_descriptor_must_ride_where_one_is_due(void **state)
{
	Suite__StoreFile store = SUITE__STORE_FILE__INIT;
	struct packed p = suite_frame(SUITE_BODY(STORE_FILE), &store);

	(void)state;
	assert_true(passes(PEER_IO, PHASE_RUN, &p, "", true));
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
}

static void
test_a_descriptor_may_not_ride_where_none_is_due(void **state)
{
	Suite__Want want = SUITE__WANT__INIT;
	struct packed p = suite_frame(SUITE_BODY(WANT), &want);

	(void)state;
	assert_true(passes(PEER_IO, PHASE_RUN, &p, "", false));
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", true));
}

static void
test_raw_may_not_follow_where_none_may(void **state)
{
	Suite__Want want = SUITE__WANT__INIT;
	Suite__Data data = SUITE__DATA__INIT;
	struct packed p = suite_frame(SUITE_BODY(WANT), &want);

	(void)state;
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "r", false));
	p = suite_frame(SUITE_BODY(DATA), &data);
	assert_true(passes(PEER_IO, PHASE_RUN, &p, "r", false));
	assert_true(passes(PEER_IO, PHASE_RUN, &p, "", false));
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "r", true));
}

static void
test_raw_bytes_arrive_and_may_be_taken(void **state)
{
	Suite__Data data = SUITE__DATA__INIT;
	struct packed p = suite_frame(SUITE_BODY(DATA), &data);

	(void)state;
	start(&table, PEER_IO);
	t.take_raw = true;
	put(&p, true, "payload", -1);
	assert_int_equal(t.msg.raw_len, 7);
	assert_memory_equal(t.raw, "payload", 7);
	assert_memory_equal(t.raw_taken, "payload", 7);
	finish();
}

static void
test_nothing_is_handled_behind_a_refused_message(void **state)
{
	Suite__Here here = SUITE__HERE__INIT;
	Suite__Want want = SUITE__WANT__INIT;
	struct packed bad = suite_frame(SUITE_BODY(HERE), &here);
	struct packed good = suite_frame(SUITE_BODY(WANT), &want);
	uint32_t header[2] = { htonl((uint32_t)good.len), 0 };

	(void)state;
	start(&table, PEER_IO);
	ipc_pause(t.link, true);
	put(&bad, true, "", -1);
	assert_int_equal(send(t.peer, header, 8, 0), 8);
	assert_int_equal(send(t.peer, good.bytes, good.len, 0), good.len);
	ipc_pause(t.link, false);
	turn();
	assert_int_equal(t.closed, 1);
	assert_int_equal(t.handled, 0);
	finish();
}

static void
test_a_link_may_be_freed_by_its_handler(void **state)
{
	Suite__Data data = SUITE__DATA__INIT;
	struct packed p = suite_frame(SUITE_BODY(DATA), &data);

	(void)state;
	start(&table, PEER_IO);
	t.free_link = true;
	put(&p, true, "raw", -1);
	assert_int_equal(t.handled, 1);
	assert_int_equal(t.closed, 0);
	finish();
}

/* ---- unknown fields ---- */

/* Field 1000, of each wire type. */
static const struct packed unknown_fields[] = {
	{ "\xc0\x3e\x05", 3 },				/* varint */
	{ "\xc1\x3e" "12345678", 10 },			/* 64 bits */
	{ "\xc2\x3e\x03" "abc", 6 },			/* bytes */
	{ "\xc5\x3e" "1234", 6 },			/* 32 bits */
};

/* A message of field `number`, with `inner` as its content. */
static struct packed
nested(unsigned number, const struct packed *inner)
{
	struct packed p = { .len = 0 };

	if (number < 16) {
		p.bytes[p.len++] = (uint8_t)(number << 3 | 2);
	} else {
		p.bytes[p.len++] = (uint8_t)(0x80 | (number << 3 & 0x7f) | 2);
		p.bytes[p.len++] = (uint8_t)(number >> 4);
	}
	assert_true(inner->len < 128);
	p.bytes[p.len++] = (uint8_t)inner->len;
	memcpy(p.bytes + p.len, inner->bytes, inner->len);
	p.len += inner->len;
	return p;
}

static int
unpack(const ProtobufCMessageDescriptor *d, const struct packed *p,
    bool outsider)
{
	_cleanup_free_ void *arena = NULL;
	ProtobufCMessage *msg;

	return ipc_unpack(d, p->bytes, p->len, outsider, &msg, &arena);
}

static void
test_unknown_fields_of_a_sibling_are_refused_at_any_depth(void **state)
{
	static const struct packed nothing;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(unknown_fields); i++) {
		const struct packed *u = &unknown_fields[i];
		struct packed message = nested(SUITE_BODY(FETCH), u);
		struct packed source = nested(1, u), deep;

		assert_int_equal(unpack(FRAME, u, false), -EPROTO);
		assert_int_equal(unpack(FRAME, &message, false), -EPROTO);
		deep = nested(SUITE_BODY(FETCH), &source);
		assert_int_equal(unpack(FRAME, &deep, false), -EPROTO);
	}
	/* the same without the unknown field is fine */
	struct packed source = nested(1, &nothing);
	struct packed fetch = nested(SUITE_BODY(FETCH), &source);

	assert_int_equal(unpack(FRAME, &fetch, false), 0);
}

static void
test_unknown_fields_in_a_repeated_message_are_refused(void **state)
{
	static const struct packed nothing;
	const struct packed *u = &unknown_fields[0];
	const ProtobufCMessageDescriptor *d = &suite__attachments__descriptor;
	struct packed good = nested(1, &nothing), bad = nested(1, u), p;

	(void)state;
	/* Attachments has no recursion: items one level down */
	p = good;
	memcpy(p.bytes + p.len, bad.bytes, bad.len);
	p.len += bad.len;
	assert_int_equal(unpack(d, &p, false), -EPROTO);
	assert_int_equal(unpack(d, &p, true), 0);
	assert_int_equal(unpack(d, &good, false), 0);
}

static void
test_unknown_fields_of_an_outsider_are_ignored(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(unknown_fields); i++) {
		const struct packed *u = &unknown_fields[i];
		struct packed hello = nested(CTL_BODY(HELLO), u);
		struct packed item = nested(1, u), reconcile;

		assert_int_equal(unpack(CLIENT, u, true), 0);
		assert_int_equal(unpack(CLIENT, &hello, true), 0);
		reconcile = nested(CTL_BODY(RECONCILE), &item);
		assert_int_equal(unpack(CLIENT, &reconcile, true), 0);
	}
}

static void
test_a_sibling_with_an_unknown_field_is_cut_off(void **state)
{
	struct packed p = nested(SUITE_BODY(WANT), &unknown_fields[0]);

	(void)state;
	assert_false(passes(PEER_IO, PHASE_RUN, &p, "", false));
}

/* ---- outsiders ---- */

static void
test_an_outsiders_unknown_request_goes_to_unknown(void **state)
{
	CTL(Gc) gc = SHEDSTREAM__CONTROL__V1__GC__INIT;
	struct packed p = client_frame(CTL_BODY(GC), &gc);
	struct packed future = { "\x08\x09\xca\x3e\0", 5 };	/* id 9 */

	(void)state;
	start(&client_table, PEER_CLIENT);
	put(&p, false, "", -1);
	assert_int_equal(t.unknown, 1);
	assert_int_equal(t.msg.type, CTL_BODY(GC));
	assert_int_equal(t.msg.id, 7);
	/* a request of a later version: its field is not known here */
	put(&future, false, "", -1);
	assert_int_equal(t.unknown, 2);
	assert_int_equal(t.msg.type, 0);
	assert_int_equal(t.msg.id, 9);
	/* a frame of nothing */
	put(&(struct packed){ .len = 0 }, false, "", -1);
	assert_int_equal(t.unknown, 3);
	/* what only the service says */
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;
	p = client_frame(CTL_BODY(DONE), &done);
	put(&p, false, "", -1);
	assert_int_equal(t.unknown, 4);
	assert_int_equal(t.handled, 0);
	assert_int_equal(t.closed, 0);
	finish();
}

static void
test_an_outsiders_misplaced_request_goes_to_unknown(void **state)
{
	CTL(Hello) hello = SHEDSTREAM__CONTROL__V1__HELLO__INIT;
	CTL(List) list = SHEDSTREAM__CONTROL__V1__LIST__INIT;
	CTL(Import) import = SHEDSTREAM__CONTROL__V1__IMPORT__INIT;
	struct packed p = client_frame(CTL_BODY(LIST), &list);
	int ends[2];
	char c;

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	start(&client_table, PEER_CLIENT);
	put(&p, false, "", -1);			/* too early */
	assert_int_equal(t.unknown, 1);
	ipc_phase(t.link, PHASE_RUN);
	put(&p, false, "", -1);
	assert_int_equal(t.handled, 1);
	put(&p, false, "", ends[1]);		/* with a descriptor */
	assert_int_equal(t.unknown, 2);
	p = client_frame(CTL_BODY(IMPORT), &import);
	put(&p, false, "", -1);			/* without one */
	assert_int_equal(t.unknown, 3);
	put(&p, false, "", ends[1]);
	assert_int_equal(t.handled, 2);
	fd_close(t.msg.fd);
	p = client_frame(CTL_BODY(HELLO), &hello);
	put(&p, false, "", -1);			/* again */
	assert_int_equal(t.unknown, 4);
	assert_int_equal(t.closed, 0);
	/* no descriptor was kept */
	fd_close(ends[1]);
	assert_int_equal(read(ends[0], &c, 1), 0);
	fd_close(ends[0]);
	finish();
}

static void
test_an_outsiders_garbage_ends_his_connection(void **state)
{
	struct packed p = { "\xff\xff\xff\xff", 4 };

	(void)state;
	start(&client_table, PEER_CLIENT);
	put(&p, false, "", -1);
	assert_int_equal(t.closed, 1);
	assert_int_equal(t.why, -EPROTO);
	assert_int_equal(t.handled + t.unknown, 0);
	finish();
}

static void
test_an_outsiders_frame_is_smaller_than_a_siblings(void **state)
{
	static const struct {
		const struct ipc_table *table;
		enum ipc_peer peer;
		uint32_t len;
		bool closed;
	} cases[] = {
		{ &client_table, PEER_CLIENT, IPC_CLIENT_MAX, false },
		{ &client_table, PEER_CLIENT, IPC_CLIENT_MAX + 1, true },
		{ &client_table, PEER_DEVD, IPC_BODY_MAX, false },
		{ &client_table, PEER_DEVD, IPC_BODY_MAX + 1, true },
		{ &table, PEER_IO, IPC_BODY_MAX, false },
		{ &table, PEER_IO, IPC_BODY_MAX + 1, true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint32_t header[2] = { htonl(cases[i].len), 0 };

		start(cases[i].table, cases[i].peer);
		assert_int_equal(send(t.peer, header,
		    cases[i].table == &table ? 8 : 4, 0),
		    cases[i].table == &table ? 8 : 4);
		turn();
		assert_int_equal(t.closed, cases[i].closed);
		finish();
	}
}

/* ---- the budget ---- */

/* len bytes of empty submessages in `field` of a message in Frame. */
static uint8_t *
empties(unsigned type, size_t len)
{
	uint8_t *p = calloc(1, len);
	size_t body = len - 5;

	assert_non_null(p);
	p[0] = (uint8_t)(0x80 | (type << 3 & 0x7f) | 2);
	p[1] = (uint8_t)(type >> 4);
	p[2] = (uint8_t)(0x80 | (body & 0x7f));
	p[3] = (uint8_t)(0x80 | (body >> 7 & 0x7f));
	p[4] = (uint8_t)(body >> 14);
	for (size_t i = 5; i < len; i++)
		p[i] = i % 2 ? 0x0a : 0;	/* field 1, no bytes */
	return p;
}

static size_t
budget(const ProtobufCMessageDescriptor *d, size_t len)
{
	return len * IPC_UNPACK_FACTOR + 4 * d->sizeof_message + 4096;
}

static void
test_empty_submessages_do_not_pass_the_budget(void **state)
{
	static const unsigned types[] = { CTL_BODY(DEVICES),
		CTL_BODY(RECONCILE), CTL_BODY(GC_REPLY), CTL_BODY(KEEP),
		CTL_BODY(IMAGES_REPLY), CTL_BODY(DOCTOR_REPLY) };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		size_t len = 64 * 1024 - 1;	/* whole submessages */
		_cleanup_free_ uint8_t *p = empties(types[i], len);
		_cleanup_free_ void *arena = NULL;
		ProtobufCMessage *msg;

		assert_int_equal(ipc_unpack(CLIENT, p, len, true, &msg,
		    &arena), -EPROTO);
		assert_null(arena);
	}
}

/* That the refusal above is the budget's, and what an unpack takes at most. */
static void
test_few_empty_submessages_fit_the_budget(void **state)
{
	size_t len = 2 * 8 + 5;
	_cleanup_free_ uint8_t *p = empties(CTL_BODY(RECONCILE), len);
	_cleanup_free_ void *arena = NULL;
	ProtobufCMessage *msg;

	(void)state;
	assert_int_equal(ipc_unpack(CLIENT, p, len, true, &msg, &arena), 0);
	assert_int_equal(((CTL(Frame) *)msg)->reconcile->n_items, 8);
	assert_true(malloc_usable_size(arena) <= budget(CLIENT, len));
}

/* Packed and unpacked again, as its receiver would. */
static int
round_trip(const ProtobufCMessage *frame, bool outsider)
{
	size_t len = protobuf_c_message_get_packed_size(frame);
	_cleanup_free_ uint8_t *packed = malloc(len);
	_cleanup_free_ void *arena = NULL;
	ProtobufCMessage *msg;

	assert_true(len <= IPC_BODY_MAX);
	protobuf_c_message_pack(frame, packed);
	return ipc_unpack(frame->descriptor, packed, len, outsider, &msg,
	    &arena);
}

/* What control may answer for one device: many consumers of short names. */
static void
test_an_honest_answer_fits_the_budget_whatever_its_length(void **state)
{
	static char names[1024][24];
	static char *list[1024];
	CTL(Frame) f = SHEDSTREAM__CONTROL__V1__FRAME__INIT;
	CTL(Devices) devices = SHEDSTREAM__CONTROL__V1__DEVICES__INIT;
	CTL(Device) device = SHEDSTREAM__CONTROL__V1__DEVICE__INIT;
	CTL(Device) *one = &device;

	(void)state;
	for (int i = 0; i < 1024; i++) {
		snprintf(names[i], sizeof(names[i]), "uid:0/%d", i);
		list[i] = names[i];
	}
	f.body_case = CTL_BODY(DEVICES);
	f.devices = &devices;
	devices.devices = &one;
	devices.n_devices = 1;
	device.consumers = list;
	for (size_t n = 0; n <= 1024; n++) {
		device.n_consumers = n;
		if (round_trip(&f.base, true) != 0)
			fail_msg("refused with %zu consumers", n);
	}
}

static void
test_every_beginning_of_a_frame_is_survived(void **state)
{
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Fetch fetch = SUITE__FETCH__INIT;
	struct packed p, cut;
	int good = 0;

	(void)state;
	source.host = (char *)"registry.example:5000";
	source.repo = (char *)"test/base";
	fetch.source = &source;
	fetch.digest = (char *)"sha256:00";
	fetch.length = 65536;
	p = suite_frame(SUITE_BODY(FETCH), &fetch);
	cut = p;
	for (cut.len = 0; cut.len <= p.len; cut.len++)
		good += unpack(FRAME, &cut, false) == 0;
	/* all of it, none of it, and the id alone */
	assert_int_equal(good, 3);
}

static void
test_what_is_no_protobuf_is_refused(void **state)
{
	static const struct packed garbage[] = {
		{ "\0", 1 },				/* field 0 */
		{ "\x0b\x0c", 2 },			/* a group */
		{ "\x0e", 1 }, { "\x0f", 1 },		/* no wire type */
		{ "\x08", 1 },				/* no value */
		{ "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12 },
		{ "\xff\xff\xff\xff\xff\xff", 6 },	/* a tag without end */
		{ "\xf2\x01\xff\xff\xff\xff\x0f", 7 },	/* want, 4 GiB of it */
		{ "\xf2\x01\x05\x08\x01", 5 },		/* want, cut */
		{ "\xf2\x01\x02\x0a\xff", 5 },		/* cut inside */
		{ "\xc2\x3e\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(garbage); i++) {
		assert_int_equal(unpack(FRAME, &garbage[i], false), -EPROTO);
		if (i < 7)	/* the others are fields of Frame there */
			assert_int_equal(unpack(CLIENT, &garbage[i], true),
			    -EPROTO);
	}
}

/* Length-delimited fields inside each other, as deep as a frame can be.  They
 * are unknown at the second level and must not be entered. */
static void
test_nesting_without_end_is_not_entered(void **state)
{
	size_t len = 60 * 1024;
	_cleanup_free_ uint8_t *p = malloc(len);
	_cleanup_free_ void *arena = NULL;
	ProtobufCMessage *msg;

	(void)state;
	/* from the inside out: each level has tag 0x12 and 3 bytes of length */
	for (size_t at = len; at >= 4; at -= 4) {
		size_t inside = len - at;

		p[at - 4] = at == 4 ? 0xd2 : 0x12;
		p[at - 3] = (uint8_t)(0x80 | (inside & 0x7f));
		p[at - 2] = (uint8_t)(0x80 | (inside >> 7 & 0x7f));
		p[at - 1] = (uint8_t)(inside >> 14);
	}
	assert_true(ipc_unpack(CLIENT, p, len, true, &msg, &arena) <= 0);
	assert_true(ipc_unpack(FRAME, p, len, false, &msg, &(void *){ NULL }) <
	    0);
}

/* ---- sending ---- */

static void
test_what_one_link_sends_another_takes(void **state)
{
	Suite__Notice m = SUITE__NOTICE__INIT;
	struct ipc_link *other;
	int pair[2];

	(void)state;
	start(&table, PEER_IO);
	assert_int_equal(fd_pair(pair), 0);
	other = t.link;
	t.link = ipc_new(t.base, pair[0], &table, PEER_CONTROL, &t);
	ipc_free(other);
	other = ipc_new(t.base, pair[1], &table, PEER_IO, &t);
	m.kind = (char *)"kind";
	ipc_send(other, 42, SUITE_BODY(NOTICE), &m, NULL, 0, -1);
	assert_int_equal(ipc_queued(other), 0);
	turn();
	assert_int_equal(t.handled, 1);
	assert_int_equal(t.msg.id, 42);
	assert_int_equal(t.msg.type, SUITE_BODY(NOTICE));
	assert_int_equal(t.closed, 0);
	ipc_free(other);
	finish();
}

/* A client that asks and never reads: the queue of answers is bounded. */
static void
test_a_client_that_does_not_read_is_cut_off(void **state)
{
	static char text[1000];
	CTL(Error) m = SHEDSTREAM__CONTROL__V1__ERROR__INIT;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	m.text = text;
	start(&client_table, PEER_CLIENT);
	for (int i = 0; i < 4 * IPC_QUEUE_MAX / 1000; i++) {
		ipc_send(t.link, 1, CTL_BODY(ERROR), &m, NULL, 0, -1);
		assert_true(ipc_queued(t.link) <= IPC_QUEUE_MAX);
	}
	assert_int_equal(t.closed, 0);
	turn();
	assert_int_equal(t.closed, 1);
	finish();
}

/* ---- the parent's structs ---- */

static struct {
	int messages, closed;
	struct parent_msg msg;
	int fd;
} parent;

static void
on_parent_message(void *owner, const struct parent_msg *msg, int fd)
{
	(void)owner;
	parent.messages++;
	parent.msg = *msg;
	parent.fd = fd;
}

static void
on_parent_closed(void *owner)
{
	(void)owner;
	parent.closed++;
}

static const struct parent_ops parent_ops = { on_parent_message,
	on_parent_closed };

static void
test_the_parent_takes_structs_of_one_size_only(void **state)
{
	static const int off_by[] = { -1, 0, 1,
		-(int)sizeof(struct parent_msg) };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(off_by); i++) {
		static uint8_t bytes[4 + sizeof(struct parent_msg) + 1];
		size_t len = sizeof(struct parent_msg) + (size_t)off_by[i];
		uint32_t header = htonl((uint32_t)len);
		struct parent_link *link;
		int pair[2];

		start(&table, PEER_IO);
		memset(&parent, 0, sizeof(parent));
		assert_int_equal(fd_pair(pair), 0);
		link = parent_link_new(t.base, pair[0], &parent_ops, NULL);
		memcpy(bytes, &header, 4);
		assert_int_equal(send(pair[1], bytes, 4 + len, 0), 4 + len);
		turn();
		assert_int_equal(parent.messages, off_by[i] == 0);
		assert_int_equal(parent.closed, off_by[i] != 0);
		parent_link_free(link);
		fd_close(pair[1]);
		finish();
	}
}

static void
test_texts_from_a_child_end_where_their_room_does(void **state)
{
	static uint8_t bytes[4 + sizeof(struct parent_msg)];
	uint32_t header = htonl(sizeof(struct parent_msg));
	struct parent_link *link;
	int pair[2];

	(void)state;
	start(&table, PEER_IO);
	memset(&parent, 0, sizeof(parent));
	assert_int_equal(fd_pair(pair), 0);
	link = parent_link_new(t.base, pair[0], &parent_ops, NULL);
	memset(bytes, 'x', sizeof(bytes));
	memcpy(bytes, &header, 4);
	assert_int_equal(send(pair[1], bytes, sizeof(bytes), 0),
	    sizeof(bytes));
	turn();
	assert_int_equal(parent.messages, 1);
	assert_int_equal(strlen(parent.msg.text), sizeof(parent.msg.text) - 1);
	assert_int_equal(strlen(parent.msg.device.id), DEVICE_ID_LEN);
	assert_int_equal(strlen(parent.msg.device.name), DEVICE_NAME_MAX);
	parent_link_free(link);
	fd_close(pair[1]);
	finish();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    test_a_message_reaches_its_handler_with_all_it_has),
		cmocka_unit_test(test_a_message_without_rule_is_refused),
		cmocka_unit_test(test_a_frame_without_message_is_refused),
		cmocka_unit_test(test_a_message_is_taken_from_its_peers_only),
		cmocka_unit_test(test_a_message_is_taken_in_its_phase_only),
		cmocka_unit_test(test_a_link_starts_in_the_first_phase),
		cmocka_unit_test(test_a_descriptor_must_ride_where_one_is_due),
		cmocka_unit_test(
		    test_a_descriptor_may_not_ride_where_none_is_due),
		cmocka_unit_test(test_raw_may_not_follow_where_none_may),
		cmocka_unit_test(test_raw_bytes_arrive_and_may_be_taken),
		cmocka_unit_test(
		    test_nothing_is_handled_behind_a_refused_message),
		cmocka_unit_test(test_a_link_may_be_freed_by_its_handler),
		cmocka_unit_test(
		    test_unknown_fields_of_a_sibling_are_refused_at_any_depth),
		cmocka_unit_test(
		    test_unknown_fields_in_a_repeated_message_are_refused),
		cmocka_unit_test(
		    test_unknown_fields_of_an_outsider_are_ignored),
		cmocka_unit_test(
		    test_a_sibling_with_an_unknown_field_is_cut_off),
		cmocka_unit_test(
		    test_an_outsiders_unknown_request_goes_to_unknown),
		cmocka_unit_test(
		    test_an_outsiders_misplaced_request_goes_to_unknown),
		cmocka_unit_test(test_an_outsiders_garbage_ends_his_connection),
		cmocka_unit_test(
		    test_an_outsiders_frame_is_smaller_than_a_siblings),
		cmocka_unit_test(test_empty_submessages_do_not_pass_the_budget),
		cmocka_unit_test(test_few_empty_submessages_fit_the_budget),
		cmocka_unit_test(
		    test_an_honest_answer_fits_the_budget_whatever_its_length),
		cmocka_unit_test(test_every_beginning_of_a_frame_is_survived),
		cmocka_unit_test(test_what_is_no_protobuf_is_refused),
		cmocka_unit_test(test_nesting_without_end_is_not_entered),
		cmocka_unit_test(test_what_one_link_sends_another_takes),
		cmocka_unit_test(test_a_client_that_does_not_read_is_cut_off),
		cmocka_unit_test(
		    test_the_parent_takes_structs_of_one_size_only),
		cmocka_unit_test(
		    test_texts_from_a_child_end_where_their_room_does),
	};

	mallopt(M_PERTURB, 0xa5);	/* what was freed is not to be used */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
