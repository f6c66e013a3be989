// SPDX-License-Identifier: Apache-2.0
/*
 * Messages by table: unpack a frame under a budget, look its message up, call
 * the handler.  This file is the trust boundary between the processes; it
 * knows no message by name and does not grow when one is added.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "ipc/ipc.h"
#include "ipc/stream.h"

struct ipc_link {
	struct stream *stream;
	const struct ipc_table *table;
	enum ipc_peer peer;
	enum ipc_phase phase;
	void *owner;
};

/* A bump allocator: protobuf-c can't take more than the arena has. */
struct arena {
	size_t used, size;
	char bytes[] __attribute__((aligned(16)));
};

static void *
arena_alloc(void *data, size_t size)
{
	struct arena *a = data;
	size_t at = (a->used + 15) & ~(size_t)15;

	if (size > a->size || at > a->size - size)
		return NULL;
	a->used = at + size;
	return a->bytes + at;
}

static void
arena_free(void *data, void *p)
{
	(void)data;
	(void)p;
}

static bool
has_unknown_fields(const ProtobufCMessage *msg)
{
	const ProtobufCMessageDescriptor *d = msg->descriptor;

	if (msg->n_unknown_fields > 0)
		return true;
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		const char *at = (const char *)msg + f->offset;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)((const char *)msg +
			    f->quantifier_offset);
			ProtobufCMessage *const *sub =
			    *(ProtobufCMessage *const *const *)at;

			for (size_t k = 0; k < n; k++)
				if (has_unknown_fields(sub[k]))
					return true;
			continue;
		}
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		    *(const uint32_t *)((const char *)msg +
		    f->quantifier_offset) != f->id)
			continue;
		if (*(const ProtobufCMessage *const *)at && has_unknown_fields(
		    *(const ProtobufCMessage *const *)at))
			return true;
	}
	return false;
}

int
ipc_unpack(const ProtobufCMessageDescriptor *frame, const void *buf,
    size_t len, bool outsider, ProtobufCMessage **out, void **arena_out)
{
	size_t size = len * IPC_UNPACK_FACTOR + 4 * frame->sizeof_message +
	    1024;
	_cleanup_free_ struct arena *arena = malloc(sizeof(*arena) + size);
	ProtobufCAllocator alloc = { arena_alloc, arena_free, arena };
	ProtobufCMessage *msg;

	if (!arena)
		return -ENOMEM;
	arena->used = 0;
	arena->size = size;
	msg = protobuf_c_message_unpack(frame, &alloc, len, buf);
	if (!msg || (!outsider && has_unknown_fields(msg)))
		return -EPROTO;
	*out = msg;
	*arena_out = take_ptr(arena);
	return 0;
}

/* The set member of Frame.body: its field, or NULL. */
static const ProtobufCFieldDescriptor *
frame_field(const ProtobufCMessageDescriptor *d, const void *frame)
{
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		    *(const uint32_t *)((const char *)frame +
		    f->quantifier_offset) == f->id)
			return f;
	}
	return NULL;
}

static const struct ipc_rule *
rule_find(const struct ipc_table *table, unsigned type)
{
	for (size_t i = 0; i < table->n_rules; i++)
		if (table->rules[i].type == type)
			return &table->rules[i];
	return NULL;
}

static bool
rule_allows(const struct ipc_rule *rule, const struct ipc_link *link,
    const struct ipc_message *msg)
{
	return rule && (rule->from & link->peer) &&
	    (rule->phase & link->phase) && rule->fd == (msg->fd >= 0) &&
	    (rule->raw || msg->raw_len == 0);
}

static int
link_frame(void *arg, struct stream_frame *in)
{
	struct ipc_link *link = arg;
	const struct ipc_table *table = link->table;
	_cleanup_close_ int fd = in->fd;
	_cleanup_free_ void *arena = NULL;
	const ProtobufCFieldDescriptor *field;
	const struct ipc_rule *rule;
	ProtobufCMessage *frame;
	struct ipc_message msg = { .fd = fd, .raw_len = in->raw_len };
	int r;

	r = ipc_unpack(table->frame, in->body, in->len, table->outsiders,
	    &frame, &arena);
	if (r < 0)
		return r;
	/* Frame.id is the first field of every Frame: see the .proto files. */
	msg.id = *(uint64_t *)((char *)frame + table->frame->fields[0].offset);
	field = frame_field(table->frame, frame);
	if (field) {
		msg.type = field->id;
		msg.body = *(void **)((char *)frame + field->offset);
	}
	rule = field ? rule_find(table, field->id) : NULL;
	if (!rule_allows(rule, link, &msg)) {
		if (!table->outsiders) {
			log_err("refused message %s of peer %d",
			    field ? field->name : "(none)", (int)link->peer);
			return -EPROTO;
		}
		msg.fd = -1;
		table->unknown(link->owner, link, &msg);
		return 0;
	}
	msg.fd = take_fd(&fd);
	msg.raw = take_ptr(in->raw);
	rule->on(link->owner, link, &msg);
	free(msg.raw);
	return 0;
}

static void
link_closed(void *arg, int why)
{
	struct ipc_link *link = arg;

	link->table->closed(link->owner, link, why);
}

static void
link_drained(void *arg)
{
	struct ipc_link *link = arg;

	if (link->table->drained)
		link->table->drained(link->owner, link);
}

static const struct stream_ops sibling_ops = {
	.frame = link_frame,
	.closed = link_closed,
	.drained = link_drained,
	.body_max = IPC_BODY_MAX,
	.raw_max = IPC_RAW_MAX,
};
static const struct stream_ops client_ops = {	/* the service's side */
	.frame = link_frame,
	.closed = link_closed,
	.drained = link_drained,
	.body_max = IPC_CLIENT_MAX,
	.queue_max = IPC_QUEUE_MAX,
};
static const struct stream_ops service_ops = {	/* the client's side */
	.frame = link_frame,
	.closed = link_closed,
	.drained = link_drained,
	.body_max = IPC_BODY_MAX,
};

struct ipc_link *
ipc_new(struct event_base *base, int fd, const struct ipc_table *table,
    enum ipc_peer peer, void *owner)
{
	struct ipc_link *link = calloc(1, sizeof(*link));

	if (!link) {
		fd_close(fd);
		return NULL;
	}
	link->table = table;
	link->peer = peer;
	link->phase = PHASE_START;
	link->owner = owner;
	link->stream = stream_new(base, fd, peer == PEER_CLIENT ? &client_ops :
	    peer == PEER_DEVD ? &service_ops : &sibling_ops, link);
	if (!link->stream) {
		free(link);
		return NULL;
	}
	return link;
}

void
ipc_free(struct ipc_link *link)
{
	if (!link)
		return;
	stream_free(link->stream);
	free(link);
}

void
ipc_phase(struct ipc_link *link, enum ipc_phase phase)
{
	link->phase = phase;
}

enum ipc_peer
ipc_peer(const struct ipc_link *link)
{
	return link->peer;
}

void
ipc_send(struct ipc_link *link, uint64_t id, unsigned type, const void *body,
    const void *raw, size_t raw_len, int passfd)
{
	const ProtobufCMessageDescriptor *d = link->table->frame;
	const ProtobufCFieldDescriptor *field =
	    protobuf_c_message_descriptor_get_field(d, type);
	_cleanup_free_ uint8_t *packed = NULL;
	_cleanup_free_ ProtobufCMessage *frame = NULL;
	size_t len;

	assert(field && (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF));
	frame = calloc(1, d->sizeof_message);
	if (!frame)
		goto no_memory;
	protobuf_c_message_init(d, frame);
	*(uint64_t *)((char *)frame + d->fields[0].offset) = id;
	*(uint32_t *)((char *)frame + field->quantifier_offset) = type;
	*(const void **)((char *)frame + field->offset) = body;
	len = protobuf_c_message_get_packed_size(frame);
	assert(len <= IPC_BODY_MAX);
	packed = malloc(len + 1);
	if (!packed)
		goto no_memory;
	protobuf_c_message_pack(frame, packed);
	stream_send(link->stream, packed, len, raw, raw_len, passfd);
	return;
no_memory:
	fd_close(passfd);
	stream_abort(link->stream);
}

size_t
ipc_queued(const struct ipc_link *link)
{
	return stream_queued(link->stream);
}

void
ipc_pause(struct ipc_link *link, bool paused)
{
	stream_pause(link->stream, paused);
}

int
ipc_flush(struct ipc_link *link)
{
	return stream_flush(link->stream);
}

void
ipc_print_table(const char *process, const struct ipc_table *table)
{
	for (size_t i = 0; i < table->n_rules; i++) {
		const struct ipc_rule *r = &table->rules[i];
		const ProtobufCFieldDescriptor *field =
		    protobuf_c_message_descriptor_get_field(table->frame,
		    r->type);

		assert(field);
		printf("%s %s %u %s%s%s\n", table->frame->name, field->name,
		    r->from, process, r->fd ? " fd" : "", r->raw ? " raw" : "");
	}
}
