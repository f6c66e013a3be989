// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that take time.  Each is an op: a request to cached, and a client
 * who waits for what comes of it.
 *
 *	ASKED --its answer--> the type goes on --> over
 *	  |  \--no answer in ANSWER_MS, or progress: Accepted
 *	  +--Failed, Cancel, its deadline--> over
 *	  +--a new cached: asked again, or over where once is all there is
 *
 * An op outlives its client's connection: what it does is harmless to finish,
 * and a client finds it again by Watch.  This file knows no request by name;
 * the types are in attach.c and store.c.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/control.h"

#define OPS_MAX		1024	/* of all clients; each is a few KiB */

static TAILQ_HEAD(, op) ops = TAILQ_HEAD_INITIALIZER(ops);
static unsigned n_ops;

static struct op *
op_find(uint64_t id)
{
	struct op *o;

	TAILQ_FOREACH(o, &ops, entry)
		if (o->id == id)
			return o;
	return NULL;
}

/* ---- its end ---- */

/* why: NULL if all went well. */
static void
op_end(struct op *o, const char *why)
{
	TAILQ_REMOVE(&ops, o, entry);
	n_ops--;
	if (o->slow)
		event_free(o->slow);
	if (o->late)
		event_free(o->late);
	fd_close(o->fd);
	if (o->type->end)
		o->type->end(o, why);
	free(o);
}

void
op_answer(struct op *o, unsigned type, const void *body)
{
	reply(o->client, o->request, type, body);
	op_end(o, NULL);
}

void
op_over(struct op *o)
{
	op_end(o, NULL);
}

void
op_fail(struct op *o, Shedstream__Control__V1__Code code, bool retry,
    const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	reply_error(o->client, o->request, code, retry, "%s", text);
	op_end(o, text);
}

/* ---- on the way ---- */

void
op_accept(struct op *o)
{
	CTL(Accepted) m = SHEDSTREAM__CONTROL__V1__ACCEPTED__INIT;

	if (o->accepted)
		return;
	o->accepted = true;
	m.op = o->id;
	reply(o->client, o->request, CTL_BODY(ACCEPTED), &m);
}

static void
op_slow(evutil_socket_t fd, short what, void *arg)
{
	struct op *o = arg;

	(void)fd;
	(void)what;
	if (o->type->brief && !cached_link)
		op_fail(o, CTL_CODE(BUSY), true, "cached does not answer; see "
		    "shedctl health, then try again");
	else
		op_accept(o);
}

static void
op_late(evutil_socket_t fd, short what, void *arg)
{
	struct op *o = arg;

	(void)fd;
	(void)what;
	op_cancel(o);
	o->type->late(o);
}

void
op_deadline(struct op *o, uint32_t ms)
{
	struct timeval late = { ms / 1000, ms % 1000 * 1000 };

	assert(o->type->late);
	if (!o->late)
		o->late = evtimer_new(loop, op_late, o);
	if (!o->late)
		log_die("no memory for a timer");
	if (!evtimer_pending(o->late, NULL))
		evtimer_add(o->late, &late);
}

void
op_cancel(struct op *o)
{
	Suite__Cancel m = SUITE__CANCEL__INIT;

	if (o->waits && o->sent && cached_link)
		ipc_send(cached_link, o->id, SUITE_BODY(CANCEL), &m, NULL, 0,
		    -1);
	o->waits = false;
}

/* ---- cached's answers ---- */

void
on_progress(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Progress *m = msg->body;
	CTL(Progress) p = SHEDSTREAM__CONTROL__V1__PROGRESS__INIT;
	struct op *o = op_find(msg->id);
	struct digest_text text;
	struct digest blob;

	(void)owner;
	(void)link;
	if (!o || !o->waits)
		return;
	if (o->late)
		event_del(o->late);	/* a pull takes as long as it takes */
	if (!o->client || digest_from_bytes(m->blob_digest.data,
	    m->blob_digest.len, &blob) < 0)
		return;
	op_accept(o);
	text = digest_to_text(&blob);
	p.digest = text.text;
	p.current = m->current;
	p.total = m->total;
	p.state = m->exists ? SHEDSTREAM__CONTROL__V1__PROGRESS__STATE__EXISTS
	    : m->current == m->total ?
	    SHEDSTREAM__CONTROL__V1__PROGRESS__STATE__DONE :
	    SHEDSTREAM__CONTROL__V1__PROGRESS__STATE__DOWNLOADING;
	reply(o->client, o->request, CTL_BODY(PROGRESS), &p);
}

/* Opened, Done, and what else ends a request well, or is a row of its end. */
void
on_answer(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct op *o = op_find(msg->id);

	(void)owner;
	(void)link;
	if (!o || !o->waits)
		return;		/* cancelled meanwhile */
	if (o->type->answer != msg->type)
		op_fail(o, CTL_CODE(INTERNAL), false, "cached answered "
		    "something else than it was asked; see the log");
	else
		o->type->answered(o, msg->body);
}

void
on_failed(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Failed *m = msg->body;
	struct op *o = op_find(msg->id);

	(void)owner;
	(void)link;
	if (!o)
		query_failed(msg->id, m);
	else if (o->waits && !(o->type->failed && o->type->failed(o, m)))
		op_fail(o, m->code, m->retry, "%s", m->text);
}

/* ---- asking ---- */

void
op_ask(struct op *o)
{
	if (!cached_link)
		return;		/* ops_cached_up() */
	o->sent = true;
	ipc_send(cached_link, o->id, o->type->request, o->body, NULL, 0,
	    take_fd(&o->fd));
}

void
ops_cached_up(void)
{
	struct op *o, *next;

	for (o = TAILQ_FIRST(&ops); o; o = next) {
		next = TAILQ_NEXT(o, entry);
		if (!o->waits)
			continue;
		if (o->sent && !o->type->again)
			op_fail(o, CTL_CODE(BUSY), true, "cached was started "
			    "again meanwhile, and what it did of this is not "
			    "known; the request may be repeated");
		else
			op_ask(o);
	}
}

struct op *
op_new(const struct op_type *type, struct client *c, uint64_t request)
{
	struct op *o = n_ops < OPS_MAX ? calloc(1, type->size) : NULL;

	if (!o) {
		reply_error(c, request, CTL_CODE(BUSY), true, "%d requests are "
		    "under way; try again later", OPS_MAX);
		return NULL;
	}
	o->type = type;
	o->client = c;
	o->request = request;
	o->fd = -1;
	do
		RAND_bytes((unsigned char *)&o->id, sizeof(o->id));
	while (o->id == 0 || op_find(o->id));
	TAILQ_INSERT_TAIL(&ops, o, entry);
	n_ops++;
	return o;
}

void
op_start(struct op *o, const void *body)
{
	struct timeval slow = { ANSWER_MS / 1000, ANSWER_MS % 1000 * 1000 };

	o->body = body;
	o->waits = true;
	o->slow = evtimer_new(loop, op_slow, o);
	if (!o->slow || evtimer_add(o->slow, &slow) < 0)
		log_die("no memory for a timer");
	op_ask(o);
}

/* ---- clients ---- */

void
on_watch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Watch) *m = msg->body;
	struct op *o = op_find(m->op);

	(void)link;
	if (!o || o->type->internal) {
		reply_error(owner, msg->id, CTL_CODE(BAD_REQUEST), false, "no "
		    "such operation is under way; repeat the request, what was "
		    "done is kept");
		return;
	}
	o->client = owner;
	o->request = msg->id;
	o->accepted = false;
	op_accept(o);
}

void
on_cancel(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Cancel) *m = msg->body;
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;
	struct op *o = op_find(m->op);

	(void)link;
	if (o && !o->type->internal) {
		op_cancel(o);
		op_fail(o, CTL_CODE(CANCELLED), false, "cancelled on request");
	}
	reply(owner, msg->id, CTL_BODY(DONE), &done);
}

void
ops_client_gone(struct client *c)
{
	struct op *o;

	TAILQ_FOREACH(o, &ops, entry)
		if (o->client == c)
			o->client = NULL;
}
