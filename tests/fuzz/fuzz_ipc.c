// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes what a process takes from another one.  The first byte chooses:
 *
 *	even	ipc_unpack(), as of a client (0) or of a sibling (2)
 *	odd	a link: the rest goes through a socketpair, to the service (1)
 *		or to a sibling (3), in pieces whose length the second byte
 *		gives and with a descriptor on the piece that the third names
 *
 * Whatever is accepted must be a whole message, within its budget, and must be
 * the same when it is packed and unpacked again.
 */
#define _GNU_SOURCE
#include <sys/socket.h>

#include <assert.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "ipc/ipc.h"

#define RULES_MAX	64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct event_base *base;
static struct ipc_rule rules[2][RULES_MAX];
static bool over;

/* A refusal is not worth a line here. */
void
log_line(enum log_level level, const char *fmt, ...)
{
	(void)level;
	(void)fmt;
}

static void
pack_again(const ProtobufCMessage *msg, bool outsider)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	_cleanup_free_ uint8_t *first = malloc(len + 1);
	_cleanup_free_ uint8_t *second = malloc(len + 1);
	_cleanup_free_ void *arena = NULL;
	ProtobufCMessage *again;

	assert(first && second);
	assert(protobuf_c_message_pack(msg, first) == len);
	/* the budget is of the shorter form now, and may be too small */
	if (ipc_unpack(msg->descriptor, first, len, outsider, &again,
	    &arena) < 0)
		return;
	assert(protobuf_c_message_get_packed_size(again) == len);
	protobuf_c_message_pack(again, second);
	assert(memcmp(first, second, len) == 0);
}

static void
unpack(const ProtobufCMessageDescriptor *d, const uint8_t *data, size_t size,
    bool outsider)
{
	_cleanup_free_ void *arena = NULL;
	ProtobufCMessage *msg;

	if (ipc_unpack(d, data, size, outsider, &msg, &arena) < 0)
		return;
	assert(msg->descriptor == d);
	assert(protobuf_c_message_check(msg));
	assert(malloc_usable_size(arena) <= size * IPC_UNPACK_FACTOR +
	    4 * d->sizeof_message + 4096);
	pack_again(msg, outsider);
}

/* ---- links ---- */

static void
on_any(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	(void)link;
	assert(msg->body && msg->type);
	assert(msg->raw_len <= IPC_RAW_MAX);
	fd_close(msg->fd);
	if (msg->id % 2)
		free(take_ptr(msg->raw));
}

static void
on_unknown(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	(void)link;
	assert(msg->fd == -1);
}

static void
on_closed(void *owner, struct ipc_link *link, int why)
{
	(void)owner;
	(void)link;
	(void)why;
	over = true;
}

static struct ipc_table tables[2] = {
	{ .frame = &shedstream__control__v1__frame__descriptor,
	    .rules = rules[0], .outsiders = true, .unknown = on_unknown,
	    .closed = on_closed },
	{ .frame = &suite__frame__descriptor, .rules = rules[1],
	    .closed = on_closed },
};

/* A rule for each message of a frame, with and without its extras. */
static void
make_rules(struct ipc_table *table, struct ipc_rule *into)
{
	const ProtobufCMessageDescriptor *d = table->frame;

	for (unsigned i = 1; i < d->n_fields; i++) {
		assert(table->n_rules < RULES_MAX);
		into[table->n_rules++] = (struct ipc_rule){
			.type = d->fields[i].id, .name = d->fields[i].name,
			.from = PEER_CLIENT | PEER_IO, .phase = PHASE_ANY,
			.fd = i % 4 == 3, .raw = i % 3 == 0, .on = on_any };
	}
}

static void
put(int fd, const uint8_t *data, size_t size, int pass)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)data, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (pass >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &pass, sizeof(int));
	}
	/* no answers come, so only a link that is over does not take it */
	if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		over = true;
}

static void
feed(int which, const uint8_t *data, size_t size)
{
	size_t piece = data[0] + 1;
	unsigned with_fd = data[1], n = 0;
	struct ipc_link *link;
	int pair[2];

	data += 2;
	size -= 2;
	over = false;
	if (fd_pair(pair) < 0)
		abort();
	link = ipc_new(base, pair[0], &tables[which],
	    which == 0 ? PEER_CLIENT : PEER_IO, NULL);
	assert(link);
	while (size > 0 && !over) {
		size_t now = size < piece ? size : piece;

		put(pair[1], data, now, n++ == with_fd ? pair[1] : -1);
		data += now;
		size -= now;
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
	close(pair[1]);
	event_base_loop(base, EVLOOP_NONBLOCK);
	ipc_free(link);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!base) {
		base = event_base_new();
		assert(base);
		make_rules(&tables[0], rules[0]);
		make_rules(&tables[1], rules[1]);
	}
	if (size < 3)
		return 0;
	switch (data[0] % 4) {
	case 0:
		unpack(tables[0].frame, data + 1, size - 1, true);
		break;
	case 2:
		unpack(tables[1].frame, data + 1, size - 1, false);
		break;
	default:
		feed(data[0] % 4 / 2, data + 1, size - 1);
	}
	return 0;
}
