// SPDX-License-Identifier: Apache-2.0
/*
 * Fixed-size messages between devd's parent and its children: see parent.h.
 * The structs never leave this host and this build: the parent execs only the
 * programs beside it, and a frame of another size ends the link.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "ipc/parent.h"
#include "ipc/stream.h"

struct parent_link {
	struct stream *stream;
	const struct parent_ops *ops;
	void *owner;
};

static int
parent_frame(void *arg, struct stream_frame *in)
{
	struct parent_link *link = arg;
	struct parent_msg msg;

	if (in->len != sizeof(msg)) {
		fd_close(in->fd);
		return -EPROTO;
	}
	memcpy(&msg, in->body, sizeof(msg));
	msg.text[sizeof(msg.text) - 1] = '\0';
	msg.device.id[DEVICE_ID_LEN] = '\0';
	msg.device.name[DEVICE_NAME_MAX] = '\0';
	link->ops->message(link->owner, &msg, in->fd);
	return 0;
}

static void
parent_closed(void *arg, int why)
{
	struct parent_link *link = arg;

	(void)why;
	link->ops->closed(link->owner);
}

static const struct stream_ops ops = {
	.frame = parent_frame,
	.closed = parent_closed,
	.body_max = sizeof(struct parent_msg),
};

struct parent_link *
parent_link_new(struct event_base *base, int fd,
    const struct parent_ops *parent_ops, void *owner)
{
	struct parent_link *link = calloc(1, sizeof(*link));

	if (!link) {
		fd_close(fd);
		return NULL;
	}
	link->ops = parent_ops;
	link->owner = owner;
	link->stream = stream_new(base, fd, &ops, link);
	if (!link->stream) {
		free(link);
		return NULL;
	}
	return link;
}

void
parent_link_free(struct parent_link *link)
{
	if (!link)
		return;
	stream_free(link->stream);
	free(link);
}

void
parent_send(struct parent_link *link, const struct parent_msg *msg, int passfd)
{
	stream_send(link->stream, msg, sizeof(*msg), NULL, 0, passfd);
}

int
parent_flush(struct parent_link *link)
{
	return stream_flush(link->stream);
}

/* ---- a child's half ---- */

static const struct parent_rule *child_rules;
static size_t child_n_rules;
static void (*child_on_gone)(void);

static void
child_message(void *owner, const struct parent_msg *msg, int fd)
{
	(void)owner;
	for (size_t i = 0; i < child_n_rules; i++) {
		const struct parent_rule *r = &child_rules[i];

		if (r->type == msg->type && r->fd == (fd >= 0)) {
			r->on(msg, fd);
			return;
		}
	}
	log_die("the parent sent message %u, which is not for this process",
	    msg->type);
}

static void
child_closed(void *owner)
{
	(void)owner;
	if (child_on_gone)
		child_on_gone();
	else
		_Exit(0);
}

static const struct parent_ops child_ops = {
	.message = child_message,
	.closed = child_closed,
};

struct parent_link *
parent_attach(struct event_base *base, const struct parent_rule *rules,
    size_t n_rules, void (*on_gone)(void))
{
	struct parent_link *link;

	child_rules = rules;
	child_n_rules = n_rules;
	child_on_gone = on_gone;
	if (fd_cloexec(CHILD_FD, 1) < 0)
		log_die("this program is started by devd");
	link = parent_link_new(base, CHILD_FD, &child_ops, NULL);
	if (!link)
		log_die("no memory for the link to the parent");
	return link;
}
