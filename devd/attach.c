// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that take time: attach, pull (Prefetch all), and the restoring of
 * devices that were written down.  Each is an op:
 *
 *	OPENING --Opened--> (pull) done
 *	   |          \--> MAKING --device ready--> consumer written down, done
 *	   +--OpenFailed, deadline--> failed
 *
 * An op outlives its client's connection: what it does is harmless to finish,
 * and the same request again joins it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/control.h"

#define DEADLINE_MS	8000	/* below shed's own 10 s */
#define MAKING_MS	1000	/* of it for making the device */
#define MAKING_MAX_MS	5000	/* where there is no deadline */
#define OPS_MAX		1024

enum op_kind { OP_ATTACH, OP_PULL, OP_RESTORE };
enum op_state { OP_OPENING, OP_MAKING };

struct op {
	TAILQ_ENTRY(op) entry;
	uint64_t id;		/* also of the Open at cached */
	enum op_kind kind;
	enum op_state state;
	struct client *client;	/* NULL: nobody listens (any more) */
	uint64_t request;
	bool accepted;
	char image[IMAGE_TEXT_MAX + 1], name[DEVICE_NAME_MAX + 1];
	char consumer[CONSUMER_TEXT + 1];
	uint32_t rung, present, deadline_ms;
	bool whole, fallback;
	bool after_gone, tried_again;	/* while a failed device was ending */
	struct device *device;	/* MAKING, or to be restored */
	struct event *slow, *late;
};

static TAILQ_HEAD(, op) ops = TAILQ_HEAD_INITIALIZER(ops);
static unsigned n_ops;

static void
op_free(struct op *o)
{
	TAILQ_REMOVE(&ops, o, entry);
	n_ops--;
	if (o->slow)
		event_free(o->slow);
	if (o->late)
		event_free(o->late);
	free(o);
}

/* ---- answering ---- */

__attribute__((format(printf, 4, 5))) static void
op_fail(struct op *o, Shedstream__Control__V1__Code code, bool retry,
    const char *fmt, ...)
{
	struct device *d = o->device;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (o->kind == OP_RESTORE) {
		snprintf(d->last_error, sizeof(d->last_error), "%.255s", text);
		log_err("device %s can't be brought back: %s", d->spec.name,
		    text);
		event_send("device-failed", d->spec.name, &d->spec.blob,
		    text);
	}
	reply_error(o->client, o->request, code, retry, "%s", text);
	op_free(o);
	if (d)
		device_drop_if_unused(d);
}

static void
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
	(void)fd;
	(void)what;
	op_accept(arg);
}

static void
cancel_open(const struct op *o)
{
	Suite__CancelOpen m = SUITE__CANCEL_OPEN__INIT;

	if (o->state == OP_OPENING && cached_link)
		ipc_send(cached_link, o->id, SUITE_BODY(CANCEL_OPEN), &m,
		    NULL, 0, -1);
}

static void
op_late(evutil_socket_t fd, short what, void *arg)
{
	struct op *o = arg;

	(void)fd;
	(void)what;
	cancel_open(o);
	if (o->state == OP_MAKING)
		op_fail(o, CTL_CODE(DEVICE_UNAVAILABLE), true, "the device for "
		    "%s did not come up in time; the log says why", o->image);
	else
		op_fail(o, CTL_CODE(TIMEOUT), true, "%s was not ready within "
		    "%u ms; see shedctl health, then try again", o->image,
		    o->deadline_ms);
}

/* Give up after so long, if no earlier limit is set. */
static void
op_set_late(struct op *o, uint32_t ms)
{
	struct timeval late = { ms / 1000, ms % 1000 * 1000 };

	if (!o->late)
		o->late = evtimer_new(loop, op_late, o);
	if (!o->late)
		log_die("no memory for a timer");
	if (!evtimer_pending(o->late, NULL))
		evtimer_add(o->late, &late);
}

static void
attached(struct op *o, struct device *d)
{
	CTL(Attached) m = SHEDSTREAM__CONTROL__V1__ATTACHED__INIT;
	struct digest_text image = digest_to_text(&d->spec.image),
	    blob = digest_to_text(&d->spec.blob);
	char uri[512];

	m.name = o->name[0] ? o->name : d->spec.name;
	device_uri(d, m.name, uri, sizeof(uri));
	m.path = uri;
	m.image_digest = image.text;
	m.digest = blob.text;
	m.size = d->spec.size;
	m.rung = d->spec.rung;
	m.present = d->spec.present;
	reply(o->client, o->request, CTL_BODY(ATTACHED), &m);
}

/* The device is ready: write the consumer down, answer. */
static void
op_attach(struct op *o, struct device *d)
{
	int r = 0;

	if (o->name[0])
		r = device_add_name(d, o->name);
	if (r == -EEXIST) {
		op_fail(o, CTL_CODE(IN_USE), false, "the name %s means another "
		    "device; choose another --name", o->name);
		return;
	}
	if (r == -ENOSPC) {
		op_fail(o, CTL_CODE(IN_USE), false, "device %s has %d names "
		    "already; use one of them", d->spec.name, ALIASES_MAX + 1);
		return;
	}
	r = device_attach(d, o->consumer);
	if (r < 0) {
		op_fail(o, CTL_CODE(INTERNAL), true, "the attachment can't be "
		    "written down: %s; see the log", strerror(-r));
		return;
	}
	log_info("device %s: attached by %s (%s, %s)", d->spec.name,
	    o->consumer, d->image, rung_name(d->spec.rung));
	attached(o, d);
	op_free(o);
}

/* ---- cached's answers ---- */

static struct op *
op_find(uint64_t id)
{
	struct op *o;

	TAILQ_FOREACH(o, &ops, entry)
		if (o->id == id)
			return o;
	return NULL;
}

void
on_open_progress(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__OpenProgress *m = msg->body;
	CTL(Progress) p = SHEDSTREAM__CONTROL__V1__PROGRESS__INIT;
	struct op *o = op_find(msg->id);
	struct digest_text text;
	struct digest blob;

	(void)owner;
	(void)link;
	if (!o || !o->client || digest_from_bytes(m->blob_digest.data,
	    m->blob_digest.len, &blob) < 0)
		return;
	if (o->late)
		event_del(o->late);	/* a pull takes as long as it takes */
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

static bool
some_device_ends(void)
{
	const struct device *d;

	TAILQ_FOREACH(d, &devices, entry)
		if (d->state == DEVICE_ENDING)
			return true;
	return false;
}

void
on_open_failed(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__OpenFailed *m = msg->body;
	struct op *o = op_find(msg->id);

	(void)owner;
	(void)link;
	if (!o)
		return;
	if ((m->code == CTL_CODE(DIGEST_MISMATCH) ||
	    m->code == CTL_CODE(SIZE_CHANGED)) && !o->tried_again &&
	    some_device_ends()) {
		o->after_gone = o->tried_again = true;
		return;
	}
	op_fail(o, m->code, m->retry, "%s", m->text);
}

static void
opened_attach(struct op *o, const struct device_spec *spec)
{
	struct device *d = device_by_id(spec->id);

	if (!d) {
		d = device_want(spec, o->image);
		if (!d) {
			op_fail(o, CTL_CODE(INTERNAL), true, "no memory");
			return;
		}
		d->spec.name[0] = '\0';
		if (device_choose_name(d, o->name) < 0) {
			device_forget(d);
			op_fail(o, CTL_CODE(IN_USE), false, "the name %s means "
			    "another device; choose another --name", o->name);
			return;
		}
	}
	if (d->spec.size != spec->size && d->state == DEVICE_READY) {
		op_fail(o, CTL_CODE(SIZE_CHANGED), false, "device %s was made "
		    "with another size; detach it, then attach it again",
		    d->spec.name);
		return;
	}
	if (d->state == DEVICE_READY) {
		op_attach(o, d);
		return;
	}
	d->spec.size = spec->size;	/* the registry told it wrong before */
	o->state = OP_MAKING;
	o->device = d;
	op_set_late(o, MAKING_MAX_MS);
	if (d->state == DEVICE_WANTED)
		device_make(d);
}

void
on_opened(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Opened *m = msg->body;
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;
	struct op *o = op_find(msg->id);
	struct device_spec spec = { .size = m->size, .unit = m->unit };

	(void)owner;
	(void)link;
	if (!o)
		return;
	if (digest_from_bytes(m->image_digest.data, m->image_digest.len,
	    &spec.image) < 0 || digest_from_bytes(m->blob_digest.data,
	    m->blob_digest.len, &spec.blob) < 0) {
		op_fail(o, CTL_CODE(INTERNAL), false, "cached answered "
		    "nonsense; see the log");
		return;
	}
	if (o->kind == OP_PULL) {
		reply(o->client, o->request, CTL_BODY(DONE), &done);
		op_free(o);
		return;
	}
	if (o->kind == OP_RESTORE) {
		if (o->device->state == DEVICE_WANTED)
			device_make(o->device);
		op_free(o);
		return;
	}
	spec.rung = o->rung;
	spec.present = o->present;
	device_id(&spec.blob, &spec.image, spec.rung, spec.present, spec.id);
	opened_attach(o, &spec);
}

/* ---- devices ---- */

bool
ops_wait_for(const struct device *d)
{
	struct op *o;

	TAILQ_FOREACH(o, &ops, entry)
		if (o->device == d)
			return true;
	return false;
}

void
ops_device_ready(struct device *d)
{
	struct op *o, *next;

	for (o = TAILQ_FIRST(&ops); o; o = next) {
		next = TAILQ_NEXT(o, entry);
		if (o->device == d && o->state == OP_MAKING)
			op_attach(o, d);
	}
}

void
ops_device_failed(struct device *d, const char *why)
{
	struct op *o, *next;

	for (o = TAILQ_FIRST(&ops); o; o = next) {
		next = TAILQ_NEXT(o, entry);
		if (o->device != d || o->state != OP_MAKING)
			continue;
		o->device = NULL;	/* the caller drops it */
		op_fail(o, CTL_CODE(DEVICE_UNAVAILABLE), true, "%s; see the "
		    "log", why);
	}
}

/* ---- starting ---- */

static void
open_send(const struct op *o)
{
	Suite__Open m = SUITE__OPEN__INIT;

	if (!cached_link)
		return;		/* ops_cached_up() */
	m.image = (char *)o->image;
	m.rung = o->rung;
	m.whole = o->whole;
	m.fallback_whole = o->fallback;
	m.restore = o->kind == OP_RESTORE;
	m.deadline_ms = o->deadline_ms > MAKING_MS ?
	    o->deadline_ms - MAKING_MS : o->deadline_ms;
	ipc_send(cached_link, o->id, SUITE_BODY(OPEN), &m, NULL, 0, -1);
}

void
ops_device_gone(void)
{
	struct op *o;

	TAILQ_FOREACH(o, &ops, entry)
		if (o->after_gone) {
			o->after_gone = false;
			open_send(o);
		}
}

void
ops_cached_up(void)
{
	struct op *o;

	TAILQ_FOREACH(o, &ops, entry)
		if (o->state == OP_OPENING)
			open_send(o);
}

static struct op *
op_new(enum op_kind kind, const char *image)
{
	struct op *o = n_ops < OPS_MAX ? calloc(1, sizeof(*o)) : NULL;

	if (!o)
		return NULL;
	o->kind = kind;
	snprintf(o->image, sizeof(o->image), "%s", image);
	do
		RAND_bytes((unsigned char *)&o->id, sizeof(o->id));
	while (o->id == 0 || op_find(o->id));
	TAILQ_INSERT_TAIL(&ops, o, entry);
	n_ops++;
	return o;
}

static void
op_start(struct op *o)
{
	struct timeval slow = { ANSWER_MS / 1000, ANSWER_MS % 1000 * 1000 };

	o->slow = evtimer_new(loop, op_slow, o);
	if (o->slow)
		evtimer_add(o->slow, &slow);
	if (o->deadline_ms)
		op_set_late(o, o->deadline_ms);
	open_send(o);
}

/* Too long, or what no image is called: cached says what is wrong with the
 * rest. */
static bool
image_refused(struct client *c, uint64_t id, const char *image)
{
	if (image_text_valid(image))
		return false;
	reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "an image is named "
	    "HOST[:PORT]/REPO[:TAG|@sha256:HEX], or sha256:HEX, in at most %d "
	    "bytes", IMAGE_TEXT_MAX);
	return true;
}

/* What an attach may ask for, apart from its image. */
static bool
attach_refused(struct client *c, uint64_t id, const CTL(Attach) *m)
{
	if (m->name[0] && !device_name_valid(m->name))
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "a name is 1 "
		    "to %d of a-z 0-9 . _ - and starts with no dot",
		    DEVICE_NAME_MAX);
	else if (m->consumer[0] && !consumer_valid(m->consumer, CONSUMER_MAX))
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "a consumer "
		    "is 1 to %d printable characters without / and blanks",
		    CONSUMER_MAX);
	else if (m->present != CTL_PRESENT(AUTO) &&
	    m->present != CTL_PRESENT(NBD))
		reply_error(c, id, CTL_CODE(DEVICE_UNAVAILABLE), false, "this "
		    "version presents devices by nbd only; use --present nbd");
	else if (m->integrity > CTL_RUNG(CHUNK))
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "integrity is "
		    "chunk, whole, complete or transport");
	else if (m->integrity == CTL_RUNG(DEFAULT) &&
	    conf->integrity > CTL_RUNG(WHOLE))
		reply_error(c, id, CTL_CODE(INTEGRITY_REFUSED), false, "the "
		    "configuration accepts rung chunk only, and this image has "
		    "no chunk index; ask for another with --integrity");
	else
		return image_refused(c, id, m->image);
	return true;
}

/* No image has a chunk index yet, so that verifying first means pulling first:
 * done unless the administrator set a lower rung, and said. */
static uint32_t
default_rung(const char *image)
{
	char text[IMAGE_TEXT_MAX + 128];

	if (conf->integrity < CTL_RUNG(WHOLE))
		return conf->integrity;
	snprintf(text, sizeof(text), "%s has no chunk index: all of it is "
	    "fetched and its digest verified before the first byte is served",
	    image);
	log_warn("%s", text);
	event_send("state", "", NULL, text);
	return CTL_RUNG(WHOLE);
}

void
on_attach(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Attach) *m = msg->body;
	struct client *c = owner;
	struct op *o;

	(void)link;
	if (attach_refused(c, msg->id, m))
		return;
	o = op_new(OP_ATTACH, m->image);
	if (!o) {
		reply_error(c, msg->id, CTL_CODE(BUSY), true, "%d requests are "
		    "under way; try again later", OPS_MAX);
		return;
	}
	o->client = c;
	o->request = msg->id;
	snprintf(o->name, sizeof(o->name), "%s", m->name);
	snprintf(o->consumer, sizeof(o->consumer), "%s/%s", c->owner,
	    m->consumer[0] ? m->consumer : "default");
	o->present = CTL_PRESENT(NBD);
	o->rung = m->integrity ? m->integrity : default_rung(m->image);
	o->whole = m->fetch == SHEDSTREAM__CONTROL__V1__FETCH_MODE__FETCH_WHOLE;
	o->fallback = m->fallback ==
	    SHEDSTREAM__CONTROL__V1__FETCH_MODE__FETCH_WHOLE;
	o->deadline_ms = m->deadline_ms ? m->deadline_ms : DEADLINE_MS;
	if (!m->deadline_ms && (o->whole || o->fallback ||
	    o->rung == CTL_RUNG(WHOLE)))
		o->deadline_ms = 0;
	op_start(o);
}

void
on_prefetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Prefetch) *m = msg->body;
	struct op *o;

	(void)link;
	if (!m->all) {
		reply_error(owner, msg->id, CTL_CODE(UNSUPPORTED), false,
		    "this version has no boot profiles; use --all");
		return;
	}
	if (image_refused(owner, msg->id, m->image))
		return;
	o = op_new(OP_PULL, m->image);
	if (!o) {
		reply_error(owner, msg->id, CTL_CODE(BUSY), true, "%d requests "
		    "are under way; try again later", OPS_MAX);
		return;
	}
	o->client = owner;
	o->request = msg->id;
	o->rung = CTL_RUNG(WHOLE);
	o->whole = true;
	op_start(o);
	if (!m->wait)
		op_accept(o);
}

void
ops_restore(struct device *d)
{
	struct digest_text image = digest_to_text(&d->spec.image);
	struct op *o = op_new(OP_RESTORE, image.text);

	if (!o)
		log_die("no memory to bring a device back");
	o->device = d;
	/* Only its layout: what the device may serve is its own rung's. */
	o->rung = CTL_RUNG(TRANSPORT);
	open_send(o);
}

void
on_detach(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Detach) *m = msg->body;
	CTL(Detached) done = SHEDSTREAM__CONTROL__V1__DETACHED__INIT;
	struct client *c = owner;
	struct device *d = device_by_name(m->name);
	char consumer[CONSUMER_TEXT + 1];
	int r = 0;

	(void)link;
	if (device_ambiguous(m->name)) {
		reply_error(c, msg->id, CTL_CODE(BAD_REQUEST), false, "more "
		    "than one device has this digest; detach by name, as "
		    "shedctl ls shows it");
		return;
	}
	snprintf(consumer, sizeof(consumer), "%s/%.*s", c->owner, CONSUMER_MAX,
	    m->consumer[0] ? m->consumer : "default");
	if (d)
		r = device_detach(d, consumer);
	if (r < 0) {
		reply_error(c, msg->id, CTL_CODE(INTERNAL), true, "the change "
		    "can't be written down: %s; see the log", strerror(-r));
		return;
	}
	done.torn_down = !d || device_drop_if_unused(d);
	reply(c, msg->id, CTL_BODY(DETACHED), &done);
}

void
on_watch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Watch) *m = msg->body;
	struct op *o = op_find(m->op);

	(void)link;
	if (!o || o->kind == OP_RESTORE) {
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
	if (o && o->kind != OP_RESTORE) {
		cancel_open(o);
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
