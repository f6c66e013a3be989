// SPDX-License-Identifier: Apache-2.0
/*
 * What people ask about room: gc, rm, df.  Evicting takes a moment, so that the
 * rows of an answer are gathered, and sent when the last file is done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

/* ---- gc ---- */

struct row {
	TAILQ_ENTRY(row) entry;
	struct digest blob;
	uint64_t freed;
	char why[300];
};

struct gc {
	uint64_t id;
	bool dry_run, drop;
	unsigned jobs;
	struct digest image;	/* of a drop: its manifest */
	TAILQ_HEAD(, row) rows;
};

static void
row_add(struct gc *gc, const struct file *f, uint64_t freed, const char *why)
{
	const struct image *image = image_of_layout(&f->h.key, NULL);
	struct row *row = calloc(1, sizeof(*row));

	if (!row)
		log_die("no memory for an answer");
	row->blob = image ? image->blob : f->h.key;
	row->freed = freed;
	snprintf(row->why, sizeof(row->why), "%s", why);
	TAILQ_INSERT_TAIL(&gc->rows, row, entry);
}

/* Images of which nothing is left and that nothing holds. */
static void
forget_empty(void)
{
	struct image *image, *next;

	for (image = TAILQ_FIRST(&images); image; image = next) {
		next = TAILQ_NEXT(image, entry);
		if (!file_by_key(&image->blob) && !hold_image(image) &&
		    (image->proof == PROOF_NONE ||
		    !file_by_key(&image->index)))
			image_forget(image);
	}
}

/* Unless it was taken into use while its chunks went. */
static void
forget_dropped(const struct gc *gc)
{
	struct image *image = image_by_manifest(&gc->image);

	if (image && !hold_image(image) && !layout_find(&image->blob) &&
	    (image->proof == PROOF_NONE || !layout_find(&image->index)))
		image_forget(image);
}

static void
gc_finish(struct gc *gc)
{
	Suite__GcRow last = SUITE__GC_ROW__INIT;
	Suite__Done done = SUITE__DONE__INIT;
	struct row *row;

	while ((row = TAILQ_FIRST(&gc->rows))) {
		Suite__GcRow m = SUITE__GC_ROW__INIT;

		TAILQ_REMOVE(&gc->rows, row, entry);
		m.blob_digest.data = row->blob.bytes;
		m.blob_digest.len = DIGEST_LEN;
		m.freed = row->freed;
		m.why = row->why;
		if (control_link && !gc->drop)
			ipc_send(control_link, gc->id, SUITE_BODY(GC_ROW), &m,
			    NULL, 0, -1);
		free(row);
	}
	if (gc->drop)
		forget_dropped(gc);
	else if (!gc->dry_run)
		forget_empty();
	last.last = true;
	if (control_link && gc->drop)
		ipc_send(control_link, gc->id, SUITE_BODY(DONE), &done, NULL,
		    0, -1);
	else if (control_link)
		ipc_send(control_link, gc->id, SUITE_BODY(GC_ROW), &last,
		    NULL, 0, -1);
	free(gc);
}

static void
gc_evicted(void *arg)
{
	struct gc *gc = arg;

	if (--gc->jobs == 0)
		gc_finish(gc);
}

static void
gc_frees(void *arg, const struct file *f, uint64_t bytes)
{
	row_add(arg, f, bytes, "");
}

static struct gc *
gc_new(uint64_t id)
{
	struct gc *gc = calloc(1, sizeof(*gc));

	if (!gc)
		log_die("no memory for a request");
	gc->id = id;
	gc->jobs = 1;		/* held while beginning */
	TAILQ_INIT(&gc->rows);
	return gc;
}

static bool
row_of(const struct gc *gc, const struct file *f)
{
	const struct image *image = image_of_layout(&f->h.key, NULL);
	const struct row *row;

	TAILQ_FOREACH(row, &gc->rows, entry)
		if (digest_equal(&row->blob, image ? &image->blob :
		    &f->h.key))
			return true;
	return false;
}

/* Files in which nothing is (any more): of devices that were never read. */
static void
drop_empty(struct gc *gc, const struct evict_ask *ask)
{
	struct file *f, *next;

	for (f = TAILQ_FIRST(&files); f && ask->bytes > 0; f = next) {
		next = TAILQ_NEXT(f, entry);
		if (f->n_present > 0 || f->refs > 0 || hold_reason(f) ||
		    (ask->before && f->used[0] >= ask->before))
			continue;
		row_add(gc, f, f->on_disk, "");
		if (!gc->dry_run)
			file_remove(f);
	}
}

void
on_gc(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Gc *m = msg->body;
	struct gc *gc = gc_new(msg->id);
	uint64_t total = file_total();
	struct evict_ask ask = { .bytes = UINT64_MAX, .done = gc_evicted,
		.each = gc_frees, .arg = gc };
	struct file *f;

	(void)owner;
	(void)link;
	ask.dry_run = gc->dry_run = m->dry_run;
	if (m->max_bytes)
		ask.bytes = total > m->max_bytes ? total - m->max_bytes : 0;
	if (m->until_s)
		ask.before = m->until_s < wall_ms() / 1000 ?
		    wall_ms() - m->until_s * 1000 : 1;	/* 0 is any */
	gc->jobs += room_evict(&ask);
	drop_empty(gc, &ask);
	TAILQ_FOREACH(f, &files, entry) {
		const char *why = hold_reason(f);

		if (!row_of(gc, f))
			row_add(gc, f, 0, why ? why : m->until_s ||
			    m->max_bytes ? "used since" : "used by others");
	}
	gc_evicted(gc);
}

/* ---- rm ---- */

/* A file of that layout, if no other image has it. */
static void
drop_file(const struct image *image, const struct digest *key,
    struct evict_ask *ask, struct gc *gc)
{
	const struct image *i = NULL;
	struct file *f = file_by_key(key);

	while ((i = image_of_layout(key, i)))
		if (i != image)
			return;
	if (!f)
		return;
	ask->only = f;
	if (f->n_present > 0)
		gc->jobs += room_evict(ask);
	else if (f->refs == 0)
		file_remove(f);
}

void
on_drop(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Drop *m = msg->body;
	struct image *image = image_named(m->image);
	struct evict_ask ask = { .bytes = UINT64_MAX, .done = gc_evicted };
	const char *why = NULL;
	struct file *f;
	struct gc *gc;

	(void)owner;
	(void)link;
	if (!image) {
		reply_failed(msg->id, CTL_CODE(BLOB_ABSENT), false, "no image "
		    "%s is known here; shedctl images shows those there are",
		    m->image);
		return;
	}
	why = hold_image(image);
	for (uint32_t rung = CTL_RUNG(WHOLE); rung <= CTL_RUNG(CHUNK) && !why;
	    rung++) {
		f = file_by_key(image_layout(image, rung));
		why = f && (f->layout || f->expected > 0) ?
		    hold_reason(f) : NULL;
	}
	if (why) {
		reply_failed(msg->id, CTL_CODE(IN_USE), false, "%s is %s; "
		    "detach, unpin or unkeep it first", m->image, why);
		return;
	}
	gc = gc_new(msg->id);
	gc->drop = true;
	gc->image = image->manifest;
	ask.arg = gc;
	drop_file(image, &image->blob, &ask, gc);
	if (image->proof != PROOF_NONE)
		drop_file(image, &image->index, &ask, gc);
	gc_evicted(gc);
}

/* ---- df ----
 * Who shares what is told by the layouts' places, so that each is opened once,
 * one a turn of the loop. */

struct df {
	uint64_t id;
	uint32_t next;		/* number of the file that is looked at */
	uint8_t *marks[UINT16_MAX + 1];	/* by file: blocks that others use */
	uint64_t uses[UINT16_MAX + 1];	/* by file: bytes it has elsewhere */
};

static void df_turn(evutil_socket_t fd, short what, void *arg);

static void
df_again(struct df *df)
{
	struct timeval now = { 0, 0 };

	if (event_base_once(loop, -1, EV_TIMEOUT, df_turn, df, &now) < 0)
		log_die("no memory for an event");
}

/* Mark what this layout uses of other files. */
static void
df_look(struct df *df, const struct layout *l)
{
	for (uint32_t c = 0; l->places && c < l->n_chunks; c++) {
		struct place p = l->places[c];
		uint8_t **marks;

		if (!p.file || p.file->dead)
			continue;
		marks = &df->marks[p.file->number];
		if (!*marks)
			*marks = calloc(1, p.file->h.size / MAP_BLOCK / 8 + 4);
		if (!*marks)
			log_die("no memory for df");
		df->uses[l->file->number] +=
		    p.file->spots[p.chunk].length;
		file_mark(p.file, p.chunk, *marks);
	}
}

static uint64_t
marked(const struct df *df, const struct file *f)
{
	const uint8_t *marks = df->marks[f->number];
	uint64_t n = 0;

	for (uint64_t i = 0; marks && i < f->h.size / MAP_BLOCK / 8 + 1; i++)
		n += (uint64_t)__builtin_popcount(marks[i]);
	return n * MAP_BLOCK;
}

static void
add_owner(void *arg, const char *owner)
{
	Suite__DfRow *m = arg;

	if (m->n_owners < 64)
		m->owners[m->n_owners++] = (char *)owner;
}

static void
df_file(const struct df *df, const struct digest *key, Suite__DfRow *m)
{
	const struct file *f = file_by_key(key);
	const struct image *first = image_of_layout(key, NULL);
	uint64_t by_others;

	if (!f)
		return;
	by_others = image_of_layout(key, first) ? f->on_disk : marked(df, f);
	if (by_others > f->on_disk)
		by_others = f->on_disk;
	m->on_disk += f->on_disk;
	m->exclusive += f->on_disk - by_others;
	m->shared += by_others + df->uses[f->number];
}

static void
df_finish(struct df *df)
{
	Suite__DfRow last = SUITE__DF_ROW__INIT;
	struct image *image;
	char *owners[64];

	TAILQ_FOREACH(image, &images, entry) {
		Suite__DfRow m = SUITE__DF_ROW__INIT;

		m.image = image->name;
		m.blob_digest.data = image->blob.bytes;
		m.blob_digest.len = DIGEST_LEN;
		m.size = image->size;
		m.pinned = image->pinned;
		m.owners = owners;
		hold_owners(image, add_owner, &m);
		df_file(df, &image->blob, &m);
		if (image->proof != PROOF_NONE)
			df_file(df, &image->index, &m);
		if (control_link)
			ipc_send(control_link, df->id, SUITE_BODY(DF_ROW), &m,
			    NULL, 0, -1);
	}
	last.last = true;
	last.total = file_total();
	if (control_link)
		ipc_send(control_link, df->id, SUITE_BODY(DF_ROW), &last,
		    NULL, 0, -1);
	for (uint32_t i = 0; i <= UINT16_MAX; i++)
		free(df->marks[i]);
	free(df);
}

static void
df_turn(evutil_socket_t fd, short what, void *arg)
{
	struct df *df = arg;
	struct file *f = NULL;
	struct layout *l;

	(void)fd;
	(void)what;
	while (df->next < UINT16_MAX && !f)
		f = file_by_number((uint16_t)++df->next);
	if (!f) {
		df_finish(df);
		return;
	}
	l = f->h.unit == 0 ? room_layout(f) : NULL;
	if (l)
		df_look(df, l);
	layout_put(l);
	df_again(df);
}

void
on_df(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct df *df = calloc(1, sizeof(*df));

	(void)owner;
	(void)link;
	if (!df)
		log_die("no memory for df");
	df->id = msg->id;
	df_again(df);
}
