// SPDX-License-Identifier: Apache-2.0
/*
 * Reconcile: an owner tells which consumers it still has; its others are
 * dropped, durably, all of them or none.  For an owner that was away, or whose
 * detaches got lost.
 *
 * In doubt a consumer stays: a device too many takes a little room, and one too
 * few is a guest without its disk.  So only those go whom the list does not
 * name at all, and a list that can't be read as a whole changes nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "devd/control.h"

#define RECONCILE_MAX	1024	/* items; a frame holds about as many */
/* Names of dropped consumers in a frame: with those of the list, which came in
 * a frame of IPC_CLIENT_MAX, they stay below IPC_BODY_MAX. */
#define DROPPED_A_FRAME	1024

struct item {
	char *consumer;		/* the request's, as the next */
	const char *image;
	bool attached;
};

struct list {
	const char *owner;
	struct item items[RECONCILE_MAX];	/* by consumer */
	size_t n;
};

/* ---- the list ---- */

static bool
list_refused(struct client *c, uint64_t id, const CTL(Reconcile) *m)
{
	if (m->n_items == 0 && !m->allow_empty) {
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "the list is "
		    "empty, so that every consumer of %s would be dropped; if "
		    "that is meant, say so with allow_empty", c->owner);
		return true;
	}
	if (m->n_items > RECONCILE_MAX) {
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "the list has "
		    "%zu items, and may have %d; detach consumers one by one",
		    m->n_items, RECONCILE_MAX);
		return true;
	}
	for (size_t i = 0; i < m->n_items; i++)
		if (!consumer_valid(m->items[i]->consumer, CONSUMER_MAX) ||
		    !image_text_valid(m->items[i]->image)) {
			reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "item "
			    "%zu of the list is no consumer and image, as "
			    "attach takes them; all consumers stay", i + 1);
			return true;
		}
	return false;
}

static int
compare_items(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	return strcmp(x->consumer, y->consumer);
}

static void
list_read(struct list *list, const char *owner, const CTL(Reconcile) *m)
{
	list->owner = owner;
	for (list->n = 0; list->n < m->n_items; list->n++)
		list->items[list->n] = (struct item){
			.consumer = m->items[list->n]->consumer,
			.image = m->items[list->n]->image };
	qsort(list->items, list->n, sizeof(*list->items), compare_items);
}

/* The first item of this consumer, or the first behind where it would be. */
static size_t
list_find(const struct list *list, const char *consumer)
{
	size_t low = 0, high = list->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(list->items[middle].consumer, consumer) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
item_is(const struct list *list, size_t i, const char *consumer)
{
	return i < list->n && strcmp(list->items[i].consumer, consumer) == 0;
}

/* ---- who stays, who leaves ---- */

/* The ID of a consumer of this owner, or NULL.  An owner may have slashes in
 * its name, an ID has none. */
static const char *
id_of(const struct consumer *c, const char *owner)
{
	const char *slash = strrchr(c->text, '/');
	size_t len = slash ? (size_t)(slash - c->text) : 0;

	if (!slash || len != strlen(owner) || memcmp(c->text, owner, len) != 0)
		return NULL;
	return slash + 1;
}

static bool
leaves(const struct consumer *c, const void *arg)
{
	const struct list *list = arg;
	const char *id = id_of(c, list->owner);

	return id && !item_is(list, list_find(list, id), id);
}

/* Nothing to read from, unless it is attached again. */
static bool
cannot_come_back(const struct device *d)
{
	return d->state == DEVICE_WANTED && d->last_error[0];
}

static void
list_mark(struct list *list)
{
	const struct consumer *c;
	const struct device *d;

	TAILQ_FOREACH(d, &devices, entry)
		TAILQ_FOREACH(c, &d->consumers, entry) {
			const char *id = id_of(c, list->owner);

			if (!id || cannot_come_back(d))
				continue;
			for (size_t i = list_find(list, id);
			    item_is(list, i, id); i++)
				list->items[i].attached |=
				    device_is_of_image(d, list->items[i].image);
		}
}

/* ---- the request ---- */

static void
answer(struct client *c, uint64_t id, struct list *list,
    const struct consumers *left)
{
	static char *attached[RECONCILE_MAX], *missing[RECONCILE_MAX],
	    *dropped[DROPPED_A_FRAME];
	CTL(ReconcileReply) m = SHEDSTREAM__CONTROL__V1__RECONCILE_REPLY__INIT;
	struct consumer *l = TAILQ_FIRST(left);

	for (size_t i = 0; i < list->n; i++)
		if (list->items[i].attached)
			attached[m.n_attached++] = list->items[i].consumer;
		else
			missing[m.n_missing++] = list->items[i].consumer;
	m.attached = attached;
	m.missing = missing;
	m.dropped = dropped;
	do {
		for (m.n_dropped = 0; l && m.n_dropped < DROPPED_A_FRAME;
		    l = TAILQ_NEXT(l, entry))
			dropped[m.n_dropped++] = l->text + strlen(c->owner) + 1;
		m.more = l != NULL;
		reply(c, id, CTL_BODY(RECONCILE_REPLY), &m);
		m.n_attached = m.n_missing = 0;
	} while (m.more);
}

void
on_reconcile(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	static struct list list;
	const CTL(Reconcile) *m = msg->body;
	struct client *c = owner;
	struct consumers left;
	const struct consumer *l;
	int r;

	(void)link;
	if (list_refused(c, msg->id, m))
		return;
	list_read(&list, c->owner, m);
	list_mark(&list);
	r = devices_part(leaves, &list, &left);
	if (r < 0) {
		reply_error(c, msg->id, CTL_CODE(INTERNAL), true, "the change "
		    "can't be written down, and all consumers stay: %s; see "
		    "the log", strerror(-r));
		return;
	}
	TAILQ_FOREACH(l, &left, entry)
		log_info("device %s: %s is dropped, its owner has it no more",
		    l->device->spec.name, l->text);
	answer(c, msg->id, &list, &left);
	consumers_free(&left);
	devices_drop_unused();
}
