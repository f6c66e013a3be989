// SPDX-License-Identifier: Apache-2.0
/*
 * Devices as control knows them: names, consumers, and the attachments file.
 *
 *	WANTED --image known to cached--> MAKING --made--> READY
 *	  ^ written down by a former              |          |
 *	  | control, or just asked for            |          | no consumer,
 *	  +---------------- GONE <-- ENDING <-----+----------+ no opener
 *
 * A device without consumers that somebody still reads is draining: it ends
 * with its last opener.  Every change of consumers is on disk before it is
 * answered.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/control.h"

struct devices devices = TAILQ_HEAD_INITIALIZER(devices);
static struct attachments files = { .fd = { -1, -1 } };
static bool started;		/* the attachments were read */

/* ---- finding, naming ---- */

static bool
has_name(const struct device *d, const char *name)
{
	if (strcmp(d->spec.name, name) == 0)
		return true;
	for (unsigned i = 0; i < d->n_aliases; i++)
		if (strcmp(d->aliases[i], name) == 0)
			return true;
	return false;
}

struct device *
device_by_name(const char *name)
{
	struct device *d, *found = NULL;
	struct digest digest;

	TAILQ_FOREACH(d, &devices, entry)
		if (has_name(d, name))
			return d;
	if (digest_parse(name, &digest) < 0)
		return NULL;
	TAILQ_FOREACH(d, &devices, entry)
		if (digest_equal(&d->spec.blob, &digest) ||
		    digest_equal(&d->spec.image, &digest)) {
			if (found)
				return NULL;	/* which one? */
			found = d;
		}
	return found;
}

bool
device_is_of_image(const struct device *d, const char *image)
{
	const char *at = strchr(image, '@');
	struct digest digest;

	return strcmp(d->image, image) == 0 ||
	    (digest_parse(at ? at + 1 : image, &digest) == 0 &&
	    (digest_equal(&d->spec.blob, &digest) ||
	    digest_equal(&d->spec.image, &digest)));
}

struct device *
device_of_image(const char *image)
{
	struct device *d;

	TAILQ_FOREACH(d, &devices, entry)
		if (d->n_consumers > 0 && device_is_of_image(d, image))
			return d;
	return NULL;
}

bool
device_ambiguous(const char *name)
{
	struct digest digest;
	struct device *d;

	if (device_by_name(name) || digest_parse(name, &digest) < 0)
		return false;
	TAILQ_FOREACH(d, &devices, entry)
		if (digest_equal(&d->spec.blob, &digest) ||
		    digest_equal(&d->spec.image, &digest))
			return true;
	return false;
}

struct device *
device_by_id(const char *id)
{
	struct device *d;

	TAILQ_FOREACH(d, &devices, entry)
		if (strcmp(d->spec.id, id) == 0)
			return d;
	return NULL;
}

static bool
name_taken(const struct device *d)
{
	const struct device *o;

	TAILQ_FOREACH(o, &devices, entry)
		if (o != d && has_name(o, d->spec.name))
			return true;
	return false;
}

int
device_choose_name(struct device *d, const char *name)
{
	struct digest_hex hex = digest_to_hex(&d->spec.blob);

	if (name[0]) {
		if (device_by_name(name))
			return -EEXIST;
		snprintf(d->spec.name, sizeof(d->spec.name), "%s", name);
		return 0;
	}
	snprintf(d->spec.name, sizeof(d->spec.name), "%.12s", hex.text);
	for (int n = 1; name_taken(d); n++) {
		int len = snprintf(d->spec.name, sizeof(d->spec.name),
		    "%.12s-%s-%s", hex.text, present_name(d->spec.present),
		    rung_name(d->spec.rung));

		if (n > 1)
			snprintf(d->spec.name + len,
			    sizeof(d->spec.name) - (size_t)len, "-%d", n);
	}
	return 0;
}

static void
tell_worker_name(const struct device *d, const char *name)
{
	struct parent_msg msg = { .type = CHILD_NAME, .device = d->spec };

	snprintf(msg.device.name, sizeof(msg.device.name), "%s", name);
	parent_send(parent, &msg, -1);
}

int
device_add_name(struct device *d, const char *name)
{
	struct device *other = device_by_name(name);

	if (other == d && has_name(d, name))
		return 0;
	if (other && has_name(other, name))
		return -EEXIST;
	if (d->n_aliases == ALIASES_MAX)
		return -ENOSPC;
	snprintf(d->aliases[d->n_aliases++], sizeof(d->aliases[0]), "%s",
	    name);
	tell_worker_name(d, name);
	return 0;
}

/* Percent-encode what a URI's query may not hold. */
static void
encode(const char *from, char *to, size_t size)
{
	size_t at = 0;

	for (; *from && at + 4 < size; from++) {
		bool plain = strchr("-._~/", *from) ||
		    (*from >= '0' && *from <= '9') ||
		    (*from >= 'A' && *from <= 'Z') ||
		    (*from >= 'a' && *from <= 'z');

		at += (size_t)snprintf(to + at, size - at,
		    plain ? "%c" : "%%%02X", (unsigned char)*from);
	}
	to[at] = '\0';
}

void
device_path(const struct device *d, const char *name, char *out, size_t size)
{
	char dir[3 * SOCKET_PATH_MAX + 1];

	if (d->spec.present == CTL_PRESENT(PLAIN)) {
		snprintf(out, size, "%s/%s", store_path, d->data);
		return;
	}
	if (d->spec.present == CTL_PRESENT(FILE)) {
		snprintf(out, size, "%s/file/%s", run_dir, d->spec.id);
		return;
	}
	if (d->spec.present == CTL_PRESENT(UBLK)) {
		snprintf(out, size, "/dev/ublkb%u", d->number);
		return;
	}
	if (d->spec.present == CTL_PRESENT(KERNEL_NBD)) {
		snprintf(out, size, "/dev/nbd%u", d->number);
		return;
	}
	encode(run_dir, dir, sizeof(dir));
	snprintf(out, size, "nbd+unix:///%s?socket=%s/nbd/%s.sock", name, dir,
	    d->spec.id);
}

/* ---- consumers, written down ---- */

static struct consumer *
consumer_find(const struct device *d, const char *text)
{
	struct consumer *c;

	TAILQ_FOREACH(c, &d->consumers, entry)
		if (strcmp(c->text, text) == 0)
			return c;
	return NULL;
}

static void
consumer_join(struct consumer *c)
{
	TAILQ_INSERT_TAIL(&c->device->consumers, c, entry);
	c->device->n_consumers++;
}

static void
consumer_leave(struct consumer *c)
{
	TAILQ_REMOVE(&c->device->consumers, c, entry);
	c->device->n_consumers--;
}

static struct consumer *
consumer_add(struct device *d, const char *text)
{
	struct consumer *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->device = d;
	snprintf(c->text, sizeof(c->text), "%s", text);
	consumer_join(c);
	return c;
}

static void
consumer_remove(struct consumer *c)
{
	consumer_leave(c);
	free(c);
}

/* One item; its arrays of pointers go to `strings`, which has room. */
static size_t
fill_item(Suite__Attachments__Item *item, struct device *d, char **strings)
{
	struct consumer *c;
	size_t n = 0;

	spec_to_item(&d->spec, item);
	item->image = d->image;
	item->data = d->data;
	item->aliases = strings;
	for (; item->n_aliases < d->n_aliases; item->n_aliases++)
		strings[n++] = d->aliases[item->n_aliases];
	item->consumers = strings + n;
	TAILQ_FOREACH(c, &d->consumers, entry) {
		strings[n++] = c->text;
		item->n_consumers++;
	}
	return n;
}

int
devices_save(void)
{
	Suite__Attachments m = SUITE__ATTACHMENTS__INIT;
	_cleanup_free_ Suite__Attachments__Item *items = NULL;
	_cleanup_free_ Suite__Attachments__Item **list = NULL;
	_cleanup_free_ char **strings = NULL;
	_cleanup_free_ uint8_t *packed = NULL;
	size_t n = 0, n_strings = 0, len;
	struct device *d;

	TAILQ_FOREACH(d, &devices, entry) {
		n++;
		n_strings += d->n_aliases + d->n_consumers;
	}
	items = calloc(n + 1, sizeof(*items));
	list = calloc(n + 1, sizeof(*list));
	strings = calloc(n_strings + 1, sizeof(*strings));
	if (!items || !list || !strings)
		return -ENOMEM;
	n_strings = 0;
	TAILQ_FOREACH(d, &devices, entry) {
		if (d->n_consumers == 0)
			continue;
		list[m.n_items] = &items[m.n_items];
		suite__attachments__item__init(list[m.n_items]);
		n_strings += fill_item(list[m.n_items++], d,
		    strings + n_strings);
	}
	m.items = list;
	len = suite__attachments__get_packed_size(&m);
	packed = malloc(len + 1);
	if (!packed)
		return -ENOMEM;
	suite__attachments__pack(&m, packed);
	return attachments_write(&files, packed, len);
}

int
device_attach(struct device *d, const char *consumer)
{
	struct consumer *c = consumer_find(d, consumer);
	int r;

	if (c)
		return 0;
	if (d->n_consumers >= CONSUMERS_MAX)
		return -EUSERS;
	c = consumer_add(d, consumer);
	if (!c)
		return -ENOMEM;
	r = devices_save();
	if (r < 0)
		consumer_remove(c);
	return r;
}

int
device_detach(struct device *d, const char *consumer)
{
	struct consumer *c = consumer_find(d, consumer);
	int r;

	if (!c)
		return 0;
	consumer_leave(c);
	r = devices_save();
	if (r < 0)
		consumer_join(c);
	else
		free(c);
	return r;
}

int
devices_part(consumer_leaves *leaves, const void *arg, struct consumers *left)
{
	struct consumer *c, *next;
	struct device *d;
	int r;

	TAILQ_INIT(left);
	TAILQ_FOREACH(d, &devices, entry)
		for (c = TAILQ_FIRST(&d->consumers); c; c = next) {
			next = TAILQ_NEXT(c, entry);
			if (!leaves(c, arg))
				continue;
			consumer_leave(c);
			TAILQ_INSERT_TAIL(left, c, entry);
		}
	r = TAILQ_EMPTY(left) ? 0 : devices_save();
	while (r < 0 && (c = TAILQ_FIRST(left))) {
		TAILQ_REMOVE(left, c, entry);
		consumer_join(c);
	}
	return r;
}

void
consumers_free(struct consumers *left)
{
	struct consumer *c;

	while ((c = TAILQ_FIRST(left))) {
		TAILQ_REMOVE(left, c, entry);
		free(c);
	}
}

void
devices_drop_unused(void)
{
	struct device *d, *next;

	for (d = TAILQ_FIRST(&devices); d; d = next) {
		next = TAILQ_NEXT(d, entry);
		device_drop_if_unused(d);
	}
}

/* ---- a device's life ---- */

struct device *
device_want(const struct device_spec *spec, const char *image)
{
	struct device *d = device_by_id(spec->id);

	if (d)
		return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->spec = *spec;
	snprintf(d->image, sizeof(d->image), "%s", image);
	TAILQ_INIT(&d->consumers);
	suite__layout__init(&d->layout);
	TAILQ_INSERT_TAIL(&devices, d, entry);
	return d;
}

void
device_forget(struct device *d)
{
	struct consumer *c;

	while ((c = TAILQ_FIRST(&d->consumers)))
		consumer_remove(c);
	if (d->stats)
		munmap((void *)d->stats, STATS_SIZE);
	TAILQ_REMOVE(&devices, d, entry);
	free(d);
}

void
device_make(struct device *d)
{
	struct parent_msg msg = { .type = CHILD_CREATE, .device = d->spec };

	d->state = DEVICE_MAKING;
	parent_send(parent, &msg, -1);
}

bool
device_draining(const struct device *d)
{
	return d->state == DEVICE_READY && d->n_consumers == 0;
}

bool
device_drop_if_unused(struct device *d)
{
	struct parent_msg msg = { .type = CHILD_DESTROY, .device = d->spec };

	if (d->n_consumers > 0 || ops_wait_for(d))
		return false;
	if (d->state == DEVICE_WANTED) {
		device_forget(d);
		return true;
	}
	if (d->state == DEVICE_ENDING)
		return true;
	if (d->stats && atomic_load(&d->stats->openers) > 0)
		return false;
	d->state = DEVICE_ENDING;
	parent_send(parent, &msg, -1);
	return true;
}

static void
map_stats(struct device *d, int fd)
{
	void *p;

	if (d->stats)
		munmap((void *)d->stats, STATS_SIZE);
	d->stats = NULL;
	if (shm_map(fd, STATS_SIZE, false, &p) == 0)
		d->stats = p;
}

void
on_parent_device(const struct parent_msg *msg, int passed)
{
	_cleanup_close_ int fd = passed;
	struct device *d = device_want(&msg->device, "");

	if (!d)
		log_die("no memory for a device");
	map_stats(d, fd);
	d->spec.restarts = msg->device.restarts;
	d->number = msg->count;
	d->state = DEVICE_READY;
	for (unsigned i = 0; i < d->n_aliases; i++)
		tell_worker_name(d, d->aliases[i]);
	if (d->n_consumers > 0)
		event_send("state", d->spec.name, &d->spec.blob, "ready");
	ops_device_ready(d);
	if (started)		/* made for an attach that nobody waits for */
		device_drop_if_unused(d);
}

void
on_parent_failed(const struct parent_msg *msg, int fd)
{
	struct device *d = device_by_id(msg->device.id);

	(void)fd;
	if (!d || d->state != DEVICE_MAKING)
		return;
	d->state = DEVICE_WANTED;
	if (msg->status == -EUSERS)
		snprintf(d->last_error, sizeof(d->last_error), "there are %u "
		    "devices, and may be no more; detach one that is not "
		    "needed, or raise max in [devices] of the configuration, "
		    "up to %d", conf->max_devices < DEVICES_MAX ?
		    conf->max_devices : DEVICES_MAX, DEVICES_MAX);
	else
		snprintf(d->last_error, sizeof(d->last_error), "the device "
		    "can't be made: %s; see the log", strerror(-msg->status));
	ops_device_failed(d, d->last_error);
	device_drop_if_unused(d);
}

void
on_parent_gone(const struct parent_msg *msg, int fd)
{
	struct device *d = device_by_id(msg->device.id);

	(void)fd;
	if (!d)
		return;
	d->state = DEVICE_WANTED;
	d->failed = false;
	if (ops_wait_for(d) || d->n_consumers > 0)
		device_make(d);
	else
		device_forget(d);
	ops_device_gone();
}

void
on_parent_openers(const struct parent_msg *msg, int fd)
{
	struct device *d = device_by_id(msg->device.id);

	(void)fd;
	if (d && msg->count == 0 && device_draining(d))
		device_drop_if_unused(d);
}

void
device_worker_started(const struct parent_msg *msg)
{
	struct device *d = device_by_id(msg->device.id);
	char text[400];

	if (!d || d->spec.restarts == msg->count)
		return;
	d->spec.restarts = msg->count;
	for (unsigned i = 0; i < d->n_aliases; i++)
		tell_worker_name(d, d->aliases[i]);
	snprintf(text, sizeof(text), "its worker %s and was started again; %s",
	    msg->text, d->spec.present != CTL_PRESENT(NBD) ?
	    "reads go on" : "clients reconnect");
	event_send("worker-restarted", d->spec.name, &d->spec.blob, text);
	if (device_draining(d))
		device_drop_if_unused(d);	/* its openers went with it */
}

/* ---- start: what a former control wrote down ---- */

void
on_parent_state(const struct parent_msg *msg, int fd)
{
	if (msg->count > 1)
		log_die("the parent gave attachments file %u", msg->count);
	files.fd[msg->count] = fd;
}

static void
restore(const Suite__Attachments__Item *item)
{
	struct device_spec spec;
	struct device *d;

	if (spec_from_item(item, &spec) < 0 ||
	    (item->data[0] && !data_text_valid(item->data))) {
		log_err("skipping an attachment that can't be read");
		return;
	}
	d = device_want(&spec, item->image);
	if (!d)
		log_die("no memory for a device");
	snprintf(d->image, sizeof(d->image), "%s", item->image);
	snprintf(d->data, sizeof(d->data), "%s", item->data);
	for (size_t i = 0; i < item->n_aliases && i < ALIASES_MAX; i++)
		snprintf(d->aliases[d->n_aliases++], sizeof(d->aliases[0]),
		    "%s", item->aliases[i]);
	for (size_t i = 0; i < item->n_consumers; i++)
		if (!consumer_add(d, item->consumers[i]))
			log_die("no memory for a consumer");
	if (d->state == DEVICE_READY)	/* the parent kept it */
		for (unsigned i = 0; i < d->n_aliases; i++)
			tell_worker_name(d, d->aliases[i]);
	else
		ops_restore(d);
}

void
devices_start(void)
{
	_cleanup_free_ uint8_t *state = NULL;
	Suite__Attachments *m;
	size_t len;
	int r = attachments_read(&files, &state, &len);

	if (r < 0)
		log_die("read the attachments: %s", strerror(-r));
	m = state ? suite__attachments__unpack(NULL, len, state) : NULL;
	if (state && !m)
		log_err("the attachments can't be read; consumers attach "
		    "again");
	for (size_t i = 0; m && i < m->n_items; i++)
		restore(m->items[i]);
	if (m)
		suite__attachments__free_unpacked(m, NULL);
	started = true;
	/* Made for an attach that was never answered: nobody's. */
	devices_drop_unused();
}
