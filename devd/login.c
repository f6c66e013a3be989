// SPDX-License-Identifier: Apache-2.0
/*
 * SetCredentials: what a client gives for a registry goes on to the parent,
 * which holds it, and nothing of it stays here or is looked at.  Who may do it
 * is who may connect: the control socket's mode says so.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/control.h"

/* One that the parent has not answered yet. */
struct login {
	TAILQ_ENTRY(login) entry;
	uint32_t number;	/* of its CHILD_HOLD */
	struct client *client;	/* NULL: gone */
	uint64_t request;
	bool removes;
	char host[HOST_TEXT_MAX + 1];
};

static TAILQ_HEAD(, login) logins = TAILQ_HEAD_INITIALIZER(logins);
static uint32_t last_number;

static bool
login_refused(struct client *c, uint64_t id, const char *host, int fd,
    size_t *size)
{
	int r;

	if (!host_text_valid(host)) {
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "%.64s is no "
		    "registry's host; name it as images do, HOST[:PORT]",
		    host);
		return true;
	}
	r = shm_is_sealed(fd, IPC_CREDENTIALS_MAX, size);
	if (r == -EFBIG)
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "credentials "
		    "are at most %d KiB; give the entry of %s alone",
		    IPC_CREDENTIALS_MAX / 1024, host);
	else if (r < 0)
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "credentials "
		    "come in memory that is sealed against any change; use "
		    "shedctl login %s", host);
	if (r == 0 && c->n_queries >= QUERIES_MAX) {
		reply_error(c, id, CTL_CODE(BUSY), true, "%d questions of "
		    "this client are under way; wait for their answers",
		    QUERIES_MAX);
		return true;
	}
	return r < 0;
}

void
on_set_credentials(void *owner, struct ipc_link *link,
    struct ipc_message *msg)
{
	const CTL(SetCredentials) *m = msg->body;
	struct parent_msg hold = { .type = CHILD_HOLD };
	_cleanup_close_ int fd = msg->fd;
	struct client *c = owner;
	struct login *l;
	size_t size;

	(void)link;
	if (login_refused(c, msg->id, m->host, fd, &size))
		return;
	l = calloc(1, sizeof(*l));
	if (!l)
		log_die("no memory for a request");
	TAILQ_INSERT_TAIL(&logins, l, entry);
	c->n_queries++;
	l->number = hold.count = ++last_number;
	l->client = c;
	l->request = msg->id;
	l->removes = size == 0;
	snprintf(l->host, sizeof(l->host), "%s", m->host);
	snprintf(hold.text, sizeof(hold.text), "%s", m->host);
	parent_send(parent, &hold, take_fd(&fd));
}

static void
login_answer(const struct login *l, int status)
{
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;
	struct client *c = l->client;

	if (status == 0) {
		log_info("credentials of %s were %s", l->host, l->removes ?
		    "taken away" : "set");
		reply(c, l->request, CTL_BODY(DONE), &done);
	} else if (status == -ENOSPC)
		reply_error(c, l->request, CTL_CODE(BUSY), false, "the service "
		    "holds credentials of as many hosts as it can; take those "
		    "of another away with shedctl logout, or name an auth-file "
		    "for %s", l->host);
	else
		reply_error(c, l->request, CTL_CODE(INTERNAL), true, "the "
		    "credentials of %s can't be held: %s; see the log",
		    l->host, strerror(-status));
}

void
on_parent_holds(const struct parent_msg *msg, int fd)
{
	struct login *l;

	(void)fd;
	TAILQ_FOREACH(l, &logins, entry)
		if (l->number == msg->count)
			break;
	if (!l)
		return;		/* asked by a control that died since */
	login_answer(l, msg->status);
	if (l->client)
		l->client->n_queries--;
	TAILQ_REMOVE(&logins, l, entry);
	free(l);
}

void
logins_client_gone(const struct client *c)
{
	struct login *l;

	TAILQ_FOREACH(l, &logins, entry)
		if (l->client == c)
			l->client = NULL;
}
