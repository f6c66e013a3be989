// SPDX-License-Identifier: Apache-2.0
/*
 * Attach, pull (Prefetch all), and the restoring of devices that were written
 * down: ops (op.c) whose request is an Open.  And detach, which takes no time.
 *
 *	OPENING --Opened--> (pull) over
 *	              \--> MAKING --device ready--> consumer written down, over
 *
 * A device that is presented as plain is a file of the store: it is made
 * without a worker, of an image that is whole and in a file of its own.  Who
 * leaves the choice to the service gets that where it is so already, unless a
 * device of it is there: nothing changes under who uses one.
 *
 * What reads get in an outage is the device's, whoever attaches it: a guest
 * must not get EIO because of another one's wish.  So who asks for something
 * else than it has is refused, and who asks for nothing takes what it has.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "base/times.h"
#include "devd/control.h"

#define DEADLINE_MS	8000	/* below shed's own 10 s */
#define MAKING_MS	1000	/* of it for making the device */
#define MAKING_MAX_MS	5000	/* where there is no deadline */
#define WHOLE	SHEDSTREAM__CONTROL__V1__FETCH_MODE__FETCH_WHOLE

struct attach {
	struct op op;
	TAILQ_ENTRY(attach) entry;
	Suite__Open open;
	char image[IMAGE_TEXT_MAX + 1], name[DEVICE_NAME_MAX + 1];
	char consumer[CONSUMER_TEXT + 1];
	uint32_t present, deadline_ms;
	bool may_be_plain;	/* if it is whole, and not presented yet */
	uint32_t on_outage, outage_delay_s;	/* as asked for */
	bool making;
	bool after_gone, tried_again;	/* while a failed device was ending */
	struct device *device;	/* that it makes, or brings back */
};

static TAILQ_HEAD(, attach) attaches = TAILQ_HEAD_INITIALIZER(attaches);

/* ---- its ends ---- */

static void
attach_end(struct op *o, const char *why)
{
	struct attach *a = (struct attach *)o;

	TAILQ_REMOVE(&attaches, a, entry);
	if (why && a->device)
		device_drop_if_unused(a->device);
}

static void
restore_end(struct op *o, const char *why)
{
	struct attach *a = (struct attach *)o;
	struct device *d = a->device;

	if (why) {
		snprintf(d->last_error, sizeof(d->last_error), "%.255s", why);
		log_err("device %s can't be brought back: %s", d->spec.name,
		    why);
		event_send("device-failed", d->spec.name, &d->spec.blob, why);
	}
	attach_end(o, why);
}

static void
attach_late(struct op *o)
{
	struct attach *a = (struct attach *)o;

	if (a->making)
		op_fail(o, CTL_CODE(DEVICE_UNAVAILABLE), true, "the device for "
		    "%s did not come up in time; the log says why", a->image);
	else
		op_fail(o, CTL_CODE(TIMEOUT), true, "%s was not ready within "
		    "%u ms; see shedctl health, then try again", a->image,
		    a->deadline_ms);
}

static void
attached(struct attach *a, struct device *d)
{
	CTL(Attached) m = SHEDSTREAM__CONTROL__V1__ATTACHED__INIT;
	struct digest_text image = digest_to_text(&d->spec.image),
	    blob = digest_to_text(&d->spec.blob);
	char path[DEVICE_PATH_SIZE];

	m.name = a->name[0] ? a->name : d->spec.name;
	device_path(d, m.name, path, sizeof(path));
	m.path = path;
	m.image_digest = image.text;
	m.digest = blob.text;
	m.size = d->spec.size;
	m.rung = d->spec.rung;
	m.present = d->spec.present;
	op_answer(&a->op, CTL_BODY(ATTACHED), &m);
}

/* The device is ready: write the consumer down, answer. */
static void
attach_to(struct attach *a, struct device *d)
{
	int r = 0;

	if (a->name[0])
		r = device_add_name(d, a->name);
	if (r == -EEXIST) {
		op_fail(&a->op, CTL_CODE(IN_USE), false, "the name %s means "
		    "another device; choose another --name", a->name);
		return;
	}
	if (r == -ENOSPC) {
		op_fail(&a->op, CTL_CODE(IN_USE), false, "device %s has %d "
		    "names already; use one of them", d->spec.name,
		    ALIASES_MAX + 1);
		return;
	}
	r = device_attach(d, a->consumer);
	if (r == -EUSERS) {
		op_fail(&a->op, CTL_CODE(IN_USE), true, "device %s has %d "
		    "consumers, and can have no more; detach one that is gone",
		    d->spec.name, CONSUMERS_MAX);
		return;
	}
	if (r < 0) {
		op_fail(&a->op, CTL_CODE(INTERNAL), true, "the attachment "
		    "can't be written down: %s; see the log", strerror(-r));
		return;
	}
	log_info("device %s: attached by %s (%s, %s)", d->spec.name,
	    a->consumer, d->image, rung_name(d->spec.rung));
	attached(a, d);
}

/* ---- cached's answers ---- */

static bool
some_device_ends(void)
{
	const struct device *d;

	TAILQ_FOREACH(d, &devices, entry)
		if (d->state == DEVICE_ENDING)
			return true;
	return false;
}

/* Perhaps only because a failed device is still ending: true, then wait. */
static bool
open_failed(struct op *o, const Suite__Failed *m)
{
	struct attach *a = (struct attach *)o;

	if ((m->code != CTL_CODE(DIGEST_MISMATCH) &&
	    m->code != CTL_CODE(SIZE_CHANGED)) || a->tried_again ||
	    !some_device_ends())
		return false;
	o->waits = false;
	a->after_gone = a->tried_again = true;
	return true;
}

static void
nonsense(struct attach *a)
{
	op_fail(&a->op, CTL_CODE(INTERNAL), false, "cached answered nonsense; "
	    "see the log");
}

/* ---- what reads get in an outage ---- */

/* Of a device that it makes: struct device_spec has it so. */
static uint32_t
eio_after_s(const struct attach *a)
{
	if (a->on_outage == CTL_OUTAGE(STALL) ||
	    (a->on_outage == CTL_OUTAGE(DEFAULT) && !conf->outage_eio))
		return 0;
	return a->outage_delay_s ? a->outage_delay_s : conf->outage_delay_s;
}

/* Was that asked for, or nothing else? */
static bool
outage_fits(const struct attach *a, uint32_t has)
{
	if (a->on_outage == CTL_OUTAGE(STALL))
		return has == 0;
	if (a->outage_delay_s)
		return has == a->outage_delay_s;
	return has > 0 || a->on_outage == CTL_OUTAGE(DEFAULT);
}

/* True: refused, and said.  A device that is ending is made anew for a. */
static bool
outage_other(struct attach *a, struct device *d)
{
	if (d->state == DEVICE_ENDING && d->n_consumers == 0 &&
	    !ops_wait_for(d))
		d->spec.eio_after_s = eio_after_s(a);
	if (outage_fits(a, d->spec.eio_after_s))
		return false;
	if (d->spec.eio_after_s > 0)
		op_fail(&a->op, CTL_CODE(IN_USE), false, "reads of device %s "
		    "get EIO after %u s of an outage; attach it without "
		    "--on-outage and --outage-delay, or detach it first",
		    d->spec.name, d->spec.eio_after_s);
	else
		op_fail(&a->op, CTL_CODE(IN_USE), false, "reads of device %s "
		    "stall in an outage; attach it without --on-outage, or "
		    "detach it first", d->spec.name);
	return true;
}

static void
outage_warn(const struct device_spec *spec)
{
	if (spec->eio_after_s > 0 && !times_fit(spec->eio_after_s))
		log_warn("device %s: its reads get EIO after %u s, and a chunk "
		    "may take %d s; that is no outage yet", spec->name,
		    spec->eio_after_s, TIME_CHUNK_MS / 1000);
}

static void
opened_attach(struct attach *a, const struct device_spec *spec,
    const char *data)
{
	struct device *d = device_by_id(spec->id);

	if (!d) {
		d = device_want(spec, a->image);
		if (!d) {
			op_fail(&a->op, CTL_CODE(INTERNAL), true, "no memory");
			return;
		}
		d->spec.name[0] = '\0';
		if (device_choose_name(d, a->name) < 0) {
			device_forget(d);
			op_fail(&a->op, CTL_CODE(IN_USE), false, "the name %s "
			    "means another device; choose another --name",
			    a->name);
			return;
		}
		outage_warn(&d->spec);
	} else if (outage_other(a, d))
		return;
	if (d->spec.size != spec->size && d->state == DEVICE_READY) {
		op_fail(&a->op, CTL_CODE(SIZE_CHANGED), false, "device %s was "
		    "made with another size; detach it, then attach it again",
		    d->spec.name);
		return;
	}
	snprintf(d->data, sizeof(d->data), "%s", data);
	if (d->state == DEVICE_READY) {
		attach_to(a, d);
		return;
	}
	d->spec.size = spec->size;	/* the registry told it wrong before */
	a->making = true;
	a->device = d;
	op_deadline(&a->op, MAKING_MAX_MS);
	if (d->state == DEVICE_WANTED)
		device_make(d);
}

/* What cached told of the image, as a device.  0, or -EINVAL. */
static int
opened_spec(const struct attach *a, const Suite__Opened *m,
    struct device_spec *spec)
{
	*spec = (struct device_spec){ .size = m->size, .unit = m->unit,
		.rung = m->rung, .present = a->present,
		.eio_after_s = eio_after_s(a) };
	if (digest_from_bytes(m->image_digest.data, m->image_digest.len,
	    &spec->image) < 0 || digest_from_bytes(m->blob_digest.data,
	    m->blob_digest.len, &spec->blob) < 0 || digest_from_bytes(
	    m->layout.data, m->layout.len, &spec->layout) < 0)
		return -EINVAL;
	/* Never less than was asked for. */
	if (m->rung < CTL_RUNG(TRANSPORT) || m->rung > CTL_RUNG(CHUNK) ||
	    m->rung < a->open.rung)
		return -EINVAL;
	device_id(&spec->blob, &spec->image, &spec->layout, spec->rung,
	    spec->present, spec->id);
	return 0;
}

static bool
is_block(uint32_t present)
{
	return present == CTL_PRESENT(UBLK) ||
	    present == CTL_PRESENT(KERNEL_NBD);
}

/* Where a plain device's file is, in the store.  NULL: it has none. */
static const char *
opened_data(const struct attach *a, const Suite__Opened *m)
{
	if (a->present != CTL_PRESENT(PLAIN))
		return "";
	if (!m->complete || !m->self_contained || !data_text_valid(m->data))
		return NULL;
	return m->data;
}

/* Its file, if it has one and is not presented in another way yet. */
static void
present_choose(struct attach *a, const Suite__Opened *m)
{
	uint32_t present = a->present;
	struct device_spec spec;

	if (!a->may_be_plain || opened_spec(a, m, &spec) < 0 ||
	    device_by_id(spec.id))
		return;
	a->present = CTL_PRESENT(PLAIN);
	if (!opened_data(a, m))
		a->present = present;
}

static void
plain_refused(struct attach *a, const Suite__Opened *m)
{
	if (a->open.plain)
		op_fail(&a->op, CTL_CODE(DEVICE_UNAVAILABLE), true, "%s is not "
		    "whole in a file of its own; see the log, or use "
		    "--present nbd", a->image);
	else
		op_fail(&a->op, CTL_CODE(DEVICE_UNAVAILABLE), false, "%s %s; "
		    "attach it with --fetch whole, or by --present nbd",
		    a->image, m->complete ? "is here, but not in a file of its "
		    "own" : "is not whole here yet: pull it first");
}

static void
attach_opened(struct op *o, const void *body)
{
	struct attach *a = (struct attach *)o;
	const Suite__Opened *m = body;
	struct device_spec spec;
	const char *data;

	o->waits = false;
	present_choose(a, m);
	data = opened_data(a, m);
	if (opened_spec(a, m, &spec) < 0)
		nonsense(a);
	else if (!data)
		plain_refused(a, m);
	else if (is_block(spec.present) && spec.size % 512 != 0)
		op_fail(o, CTL_CODE(DEVICE_UNAVAILABLE), false, "%s is no "
		    "whole number of sectors; use --present file", a->image);
	else
		opened_attach(a, &spec, data);
}

static void
pull_opened(struct op *o, const void *body)
{
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;

	(void)body;
	op_answer(o, CTL_BODY(DONE), &done);
}

static void
restore_opened(struct op *o, const void *body)
{
	struct attach *a = (struct attach *)o;
	struct device *d = a->device;
	const Suite__Opened *m = body;
	const char *data = opened_data(a, m);
	struct device_spec spec;

	if (opened_spec(a, m, &spec) < 0)
		nonsense(a);
	else if (!digest_equal(&spec.layout, &d->spec.layout))
		op_fail(o, CTL_CODE(INTEGRITY_REFUSED), false, "its image is "
		    "laid out by another chunk index now; detach it, then "
		    "attach it again");
	else if (!data)
		op_fail(o, CTL_CODE(DEVICE_UNAVAILABLE), false, "its file in "
		    "the store is not whole any more; detach it, then attach "
		    "it again");
	else {
		snprintf(d->data, sizeof(d->data), "%s", data);
		if (d->state == DEVICE_WANTED)
			device_make(d);
		op_over(o);
	}
}

static const struct op_type attach_type = {
	.size = sizeof(struct attach),
	.request = SUITE_BODY(OPEN), .answer = SUITE_BODY(OPENED),
	.answered = attach_opened, .failed = open_failed,
	.late = attach_late, .end = attach_end, .again = true,
};
static const struct op_type pull_type = {
	.size = sizeof(struct attach),
	.request = SUITE_BODY(OPEN), .answer = SUITE_BODY(OPENED),
	.answered = pull_opened, .failed = open_failed,
	.end = attach_end, .again = true,
};
static const struct op_type restore_type = {
	.size = sizeof(struct attach),
	.request = SUITE_BODY(OPEN), .answer = SUITE_BODY(OPENED),
	.answered = restore_opened, .failed = open_failed,
	.end = restore_end, .again = true, .internal = true,
};

/* ---- devices ---- */

bool
ops_wait_for(const struct device *d)
{
	struct attach *a;

	TAILQ_FOREACH(a, &attaches, entry)
		if (a->device == d)
			return true;
	return false;
}

void
ops_device_ready(struct device *d)
{
	struct attach *a, *next;

	for (a = TAILQ_FIRST(&attaches); a; a = next) {
		next = TAILQ_NEXT(a, entry);
		if (a->device == d && a->making)
			attach_to(a, d);
	}
}

void
ops_device_failed(struct device *d, const char *why)
{
	struct attach *a, *next;

	for (a = TAILQ_FIRST(&attaches); a; a = next) {
		next = TAILQ_NEXT(a, entry);
		if (a->device != d || !a->making)
			continue;
		a->device = NULL;	/* the caller drops it */
		op_fail(&a->op, CTL_CODE(DEVICE_UNAVAILABLE), true, "%s", why);
	}
}

void
ops_device_gone(void)
{
	struct attach *a;

	TAILQ_FOREACH(a, &attaches, entry)
		if (a->after_gone) {
			a->after_gone = false;
			a->op.waits = true;
			op_ask(&a->op);
		}
}

/* ---- starting ---- */

static struct attach *
attach_new(const struct op_type *type, struct client *c, uint64_t request,
    const char *image)
{
	struct attach *a = (struct attach *)op_new(type, c, request);

	if (!a)
		return NULL;
	TAILQ_INSERT_TAIL(&attaches, a, entry);
	snprintf(a->image, sizeof(a->image), "%s", image);
	suite__open__init(&a->open);
	a->open.image = a->image;
	return a;
}

static void
attach_start(struct attach *a)
{
	uint32_t ms = a->deadline_ms;

	a->open.deadline_ms = ms > MAKING_MS ? ms - MAKING_MS : ms;
	if (ms)
		op_deadline(&a->op, ms);
	op_start(&a->op, &a->open);
}

bool
image_refused(struct client *c, uint64_t id, const char *image)
{
	if (image_text_valid(image))
		return false;
	reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "an image is named "
	    "HOST[:PORT]/REPO[:TAG|@sha256:HEX], or sha256:HEX, in at most %d "
	    "bytes", IMAGE_TEXT_MAX);
	return true;
}

/* Nobody has asked for a kind, and the client can open a file of the store:
 * root, or who has started the service himself. */
static bool
may_be_plain(const struct client *c, uint32_t present)
{
	return present == CTL_PRESENT(AUTO) &&
	    conf->present == CTL_PRESENT(AUTO) && store_path[0] &&
	    (c->uid == 0 || c->uid == getuid());
}

/* How it is to be presented: as asked for, as configured, or what is best
 * here. */
static uint32_t
present_wanted(uint32_t present)
{
	if (present == CTL_PRESENT(AUTO))
		present = conf->present;
	if (present == CTL_PRESENT(AUTO))
		present = no_kind[CTL_PRESENT(FILE)][0] ? CTL_PRESENT(NBD) :
		    CTL_PRESENT(FILE);
	return present;
}

static bool
present_refused(struct client *c, uint64_t id, uint32_t present)
{
	if (present >= PRESENTS)
		reply_error(c, id, CTL_CODE(DEVICE_UNAVAILABLE), false, "this "
		    "version presents devices as nbd, file, ublk, plain and "
		    "kernel-nbd only; use --present nbd");
	else if (no_kind[present][0])
		reply_error(c, id, CTL_CODE(DEVICE_UNAVAILABLE), false, "%s",
		    no_kind[present]);
	else if (present == CTL_PRESENT(PLAIN) && store_path[0] == '\0')
		reply_error(c, id, CTL_CODE(DEVICE_UNAVAILABLE), false, "the "
		    "path of the store is longer than %d bytes, so that no "
		    "file in it can be named; use --present nbd, or a store "
		    "with a shorter path", STORE_PATH_MAX);
	else
		return false;
	return true;
}

static bool
consumer_refused(struct client *c, uint64_t id, const char *consumer)
{
	if (!consumer[0] || consumer_valid(consumer, CONSUMER_MAX))
		return false;
	reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "a consumer is 1 to "
	    "%d printable characters without / and blanks", CONSUMER_MAX);
	return true;
}

static bool
outage_refused(struct client *c, uint64_t id, const CTL(Attach) *m)
{
	bool eio = m->on_outage == CTL_OUTAGE(EIO) ||
	    (m->on_outage == CTL_OUTAGE(DEFAULT) && conf->outage_eio);

	if (m->on_outage > CTL_OUTAGE(EIO))
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "on-outage is "
		    "stall or eio");
	else if (m->outage_delay_s && !eio)
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "an "
		    "outage-delay goes with on-outage = eio only: ask for that "
		    "too, or for no delay");
	else
		return false;
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
	else if (m->integrity > CTL_RUNG(CHUNK))
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "integrity is "
		    "chunk, whole, complete or transport");
	else
		return consumer_refused(c, id, m->consumer) ||
		    present_refused(c, id, present_wanted(m->present)) ||
		    outage_refused(c, id, m) ||
		    image_refused(c, id, m->image);
	return true;
}

void
on_attach(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Attach) *m = msg->body;
	struct client *c = owner;
	struct attach *a;

	(void)link;
	if (attach_refused(c, msg->id, m))
		return;
	a = attach_new(&attach_type, c, msg->id, m->image);
	if (!a)
		return;
	snprintf(a->name, sizeof(a->name), "%s", m->name);
	snprintf(a->consumer, sizeof(a->consumer), "%s/%s", c->owner,
	    m->consumer[0] ? m->consumer : "default");
	a->present = present_wanted(m->present);
	a->may_be_plain = may_be_plain(c, m->present);
	a->on_outage = m->on_outage;
	a->outage_delay_s = m->outage_delay_s;
	a->open.rung = m->integrity;
	a->open.device = true;
	a->open.fallback_whole = m->fallback == WHOLE;
	/* As a file lazy can't work. */
	a->open.plain = a->present == CTL_PRESENT(PLAIN) &&
	    (m->fetch == WHOLE || m->fallback == WHOLE);
	a->open.whole = a->open.plain || m->fetch == WHOLE;
	a->deadline_ms = m->deadline_ms ? m->deadline_ms : DEADLINE_MS;
	/* None where a whole pull is asked for or allowed.  Where cached finds
	 * that it takes one, its first Progress ends the deadline. */
	if (!m->deadline_ms && (a->open.whole || a->open.fallback_whole ||
	    a->open.rung == CTL_RUNG(WHOLE)))
		a->deadline_ms = 0;
	attach_start(a);
}

void
on_prefetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Prefetch) *m = msg->body;
	struct attach *a;

	(void)link;
	if (!m->all) {
		reply_error(owner, msg->id, CTL_CODE(UNSUPPORTED), false,
		    "this version has no boot profiles; use --all");
		return;
	}
	if (image_refused(owner, msg->id, m->image))
		return;
	a = attach_new(&pull_type, owner, msg->id, m->image);
	if (!a)
		return;
	a->open.rung = CTL_RUNG(DEFAULT);
	a->open.whole = true;
	attach_start(a);
	if (!m->wait)
		op_accept(&a->op);
}

void
ops_restore(struct device *d)
{
	struct digest_text image = digest_to_text(&d->spec.image);
	struct attach *a = attach_new(&restore_type, NULL, 0, image.text);

	if (!a)
		log_die("no memory to bring a device back");
	a->device = d;
	a->present = d->spec.present;
	a->open.rung = d->spec.rung;
	a->open.restore = a->open.device = true;
	attach_start(a);
}

void
on_detach(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Detach) *m = msg->body;
	CTL(Detached) done = SHEDSTREAM__CONTROL__V1__DETACHED__INIT;
	struct client *c = owner;
	struct device *d = device_by_name(m->name);
	char consumer[CONSUMER_TEXT + 1];
	bool block = d && is_block(d->spec.present);
	int r = 0;

	(void)link;
	if (consumer_refused(c, msg->id, m->consumer))
		return;
	if (device_ambiguous(m->name)) {
		reply_error(c, msg->id, CTL_CODE(BAD_REQUEST), false, "more "
		    "than one device has this digest; detach by name, as "
		    "shedctl ls shows it");
		return;
	}
	snprintf(consumer, sizeof(consumer), "%s/%s", c->owner,
	    m->consumer[0] ? m->consumer : "default");
	if (d)
		r = device_detach(d, consumer);
	if (r < 0) {
		reply_error(c, msg->id, CTL_CODE(INTERNAL), true, "the change "
		    "can't be written down: %s; see the log", strerror(-r));
		return;
	}
	/* Of a block device the parent has to find out who has it open. */
	done.torn_down = !d || (device_drop_if_unused(d) && !block);
	reply(c, msg->id, CTL_BODY(DETACHED), &done);
}
