// SPDX-License-Identifier: Apache-2.0
/*
 * A fill: one chunk on its way to being verified and published.  However many
 * wait for a chunk of a layout there is one fill, and it outlives its first
 * waiter.
 *
 *	on disk:  CHECK --hash fits--> done
 *	            | no: dropped; is it elsewhere?  then CHECK there
 *	absent:   QUEUED --transfer--> FETCH --bytes--> ROOM --> KEEP --> done
 *	            ^                    |               |       |  |
 *	            +----transfer failed-+               |       |  +- full disk
 *	            +--------------------------wrong hash|-------+     |
 *	                                                 +-- no room --+-> the
 *	                                        waiters get the bytes, nothing
 *	                                        is published
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define CHECKS_MAX	32	/* buffers of one chunk each; two threads hash */
#define NO_ROOM_LOG_MS	60000
#define FULL_MS		10000	/* nothing is read ahead that can't be kept */

static struct fills checks = TAILQ_HEAD_INITIALIZER(checks);
static struct fills roomless = TAILQ_HEAD_INITIALIZER(roomless);
static unsigned checks_running;
static size_t keeping;

static void check_pump(void);
static void keep(struct fill *f, unsigned flags);
static void fill_check(struct fill *f);

static struct fill *
fill_new(struct layout *l, uint32_t chunk)
{
	struct fill *f;

	assert(!l->fills[chunk]);
	f = calloc(1, sizeof(*f));
	if (!f)
		log_die("no memory for a fill");
	f->layout = l;
	f->chunk = chunk;
	f->class = FETCH_BACKGROUND;
	TAILQ_INIT(&f->waiters);
	l->fills[chunk] = f;
	l->n_fills++;
	l->refs++;
	return f;
}

/* Nobody joins it any more. */
static void
fill_detach(struct fill *f)
{
	struct layout *l = f->layout;

	if (f->detached)
		return;
	f->detached = true;
	l->fills[f->chunk] = NULL;
	l->n_fills--;
}

static void
fill_free(struct fill *f)
{
	struct layout *l = f->layout;

	fetch_unqueue(f);
	fill_detach(f);
	free(f->job.buf);
	source_drop(f->from);
	if (layout_state(l, f->chunk) == CHUNK_ABSENT &&
	    f->chunk < l->pull_next && !f->refused)
		l->pull_next = f->chunk;	/* a pull wants it still */
	if (l->own && f->chunk < l->move_next &&
	    layout_place(l, f->chunk).file != l->file)
		l->move_next = f->chunk;	/* only read, not moved */
	if (layout_state(l, f->chunk) != CHUNK_ABSENT || f->refused)
		finish_mended(l, f->chunk);
	if (f->imported)
		f->imported(f->import_arg, f->import_result);
	free(f);
	finish_move(l);
	finish_check(l);
	layout_put(l);
}

/* The end.  unkept: the waiters read their bytes from the job's buffer. */
static void
fill_finish(struct fill *f, bool unkept)
{
	struct layout *l = f->layout;
	struct waiter *w;

	l->refs++;
	fill_detach(f);
	while ((w = TAILQ_FIRST(&f->waiters))) {
		TAILQ_REMOVE(&f->waiters, w, entry);
		w->fill = NULL;
		want_extent_done(w, unkept || f->for_lane ? f->job.buf : NULL,
		    f->job.len);
	}
	if (f->adopt)
		map_adopt_more(l);
	fill_free(f);
	fetch_pump();
	layout_put(l);
}

static void
fill_queue(struct fill *f)
{
	f->state = FILL_QUEUED;
	fetch_queue(f, f->class);
}

/* It has to come from the network, unless another file has it by now. */
static void
fill_fetch(struct fill *f)
{
	if (layout_lookup(f->layout, f->chunk))
		fill_check(f);
	else
		fill_queue(f);
}

/* ---- CHECK ---- */

/* What the disk had is not what was received: it was never there. */
static void
check_failed(struct fill *f)
{
	struct layout *l = f->layout;

	notice("state", l, "chunk %u on disk is damaged (%s): fetching it "
	    "again", f->chunk, f->job.job.result == -EBADMSG ?
	    "wrong digest" : strerror(-f->job.job.result));
	f->place.file->damaged++;
	file_drop(f->place.file, f->place.chunk);
	/* Of a blob that was whole once, what comes must be what was proven. */
	if (!l->proven && !l->indexed)
		f->job.has_expected = false;
	free(take_ptr(f->job.buf));
	l->refs++;
	if (TAILQ_EMPTY(&f->waiters)) {
		bool adopt = f->adopt;
		uint32_t chunk = f->chunk;

		fill_free(f);
		finish_mend(l, chunk);
		if (adopt)
			map_adopt_more(l);
	} else
		fill_fetch(f);
	fetch_pump();
	layout_put(l);
}

/* It fits its place: noted there, if nobody had; or copied to the layout's own
 * file, if everything must lie there. */
static void
check_passed(struct fill *f)
{
	struct place p = f->place;
	struct presence_record r = { .sum = f->job.digest,
		.offset = f->job.offset, .length = (uint32_t)f->job.len };

	if (f->adopt && !(p.file->state[p.chunk] & CHUNK_DURABLE) &&
	    !sync_find(p.file, p.chunk)) {
		catalog_add(&r.sum, p.file, p.chunk);
		sync_note(p.file, p.chunk, &r);
	}
	file_set(p.file, p.chunk, (p.file->state[p.chunk] & ~CHUNK_STATE) |
	    CHUNK_VERIFIED);
	map_publish_chunk(f->layout, f->chunk);
	if (f->layout->own && p.file != f->layout->file &&
	    TAILQ_EMPTY(&f->waiters)) {
		layout_place_own(f->layout, f->chunk);
		keeping++;
		keep(f, 0);
		return;
	}
	fill_finish(f, false);
}

/* Its place changed while it was read. */
static void
check_again(struct fill *f)
{
	struct layout *l = f->layout;
	bool adopt = f->adopt;

	free(take_ptr(f->job.buf));
	l->refs++;
	if (layout_state(l, f->chunk) != CHUNK_ABSENT)
		fill_check(f);
	else if (!TAILQ_EMPTY(&f->waiters))
		fill_fetch(f);
	else {
		fill_free(f);
		if (adopt)
			map_adopt_more(l);
	}
	fetch_pump();
	layout_put(l);
}

static void
check_done(struct job *job)
{
	struct fill *f = job->owner;
	struct place p = f->place;
	struct place at = layout_place(f->layout, f->chunk);
	enum chunk_state now = file_state(p.file, p.chunk);
	bool moved = at.file != p.file || at.chunk != p.chunk;

	f->checking = false;
	checks_running--;
	if (job->result == 0 && !f->adopt && !f->job.has_expected)
		job->result = -EBADMSG;	/* its record is gone */
	/* Dropped meanwhile, or dropped and mended: look again. */
	if (now == CHUNK_ABSENT || moved ||
	    (job->result < 0 && now == CHUNK_VERIFIED && f->was != now))
		check_again(f);
	else if (job->result < 0)
		check_failed(f);
	else
		check_passed(f);
	file_put(p.file);
	check_pump();
}

static void
check_pump(void)
{
	struct fill *f;

	while (checks_running < CHECKS_MAX && (f = TAILQ_FIRST(&checks))) {
		struct layout *l = f->layout;
		struct chunk_job *c = &f->job;

		TAILQ_REMOVE(&checks, f, entry);
		f->place = layout_place(l, f->chunk);
		f->place.file->refs++;
		f->was = layout_state(l, f->chunk);
		c->job = (struct job){ .lane = WORK_HASH, .run = chunk_check,
			.done = check_done, .owner = f };
		c->fd = f->place.file->data_ro;
		c->offset = layout_offset(l, f->chunk);
		c->len = layout_len(l, f->chunk);
		c->has_expected = layout_digest(l, f->chunk, &c->expected);
		c->buf = malloc(c->len);
		if (!c->buf)
			log_die("no memory to check a chunk");
		f->checking = true;
		checks_running++;
		work_submit(&c->job);
	}
}

static void
fill_check(struct fill *f)
{
	f->state = FILL_CHECK;
	TAILQ_INSERT_TAIL(&checks, f, entry);
	check_pump();
}

/* ---- wanting ---- */

void
fill_want(struct layout *l, uint32_t chunk, struct waiter *waiter,
    bool for_lane)
{
	struct fill *f = l->fills[chunk];
	bool is_new = !f;

	if (!f)
		f = fill_new(l, chunk);
	f->for_lane |= for_lane;
	waiter->fill = f;
	TAILQ_INSERT_TAIL(&f->waiters, waiter, entry);
	if (f->state == FILL_QUEUED)
		fetch_unqueue(f);
	f->class = FETCH_DEMAND;
	if (is_new && layout_state(l, chunk) != CHUNK_ABSENT)
		fill_check(f);
	else if (is_new)
		fill_fetch(f);
	else if (f->state == FILL_QUEUED)
		fetch_queue(f, FETCH_DEMAND);
}

int
fill_adopt(struct layout *l, uint32_t chunk)
{
	struct fill *f;

	if (l->fills[chunk])
		return 0;
	f = fill_new(l, chunk);
	f->adopt = true;
	fill_check(f);
	return 1;
}

void
waiter_leave(struct waiter *w)
{
	struct fill *f = w->fill;

	if (!f)
		return;
	TAILQ_REMOVE(&f->waiters, w, entry);
	w->fill = NULL;
	if (!TAILQ_EMPTY(&f->waiters))
		return;
	if (f->state == FILL_QUEUED)
		fill_free(f);	/* nobody wants it and nothing was sent */
	else if (f->state == FILL_FETCH)
		fetch_unwanted(f->layout);
}

bool
fill_ahead(struct layout *l, uint32_t chunk, bool mark)
{
	struct fill *f;

	if (l->fills[chunk] || layout_state(l, chunk) != CHUNK_ABSENT)
		return false;
	if (layout_lookup(l, chunk)) {
		finish_check(l);	/* it may have been the last */
		return false;
	}
	f = fill_new(l, chunk);
	f->class = FETCH_AHEAD;
	f->mark = mark;
	fill_queue(f);
	return true;
}

void
fill_ahead_stop(struct layout *l)
{
	struct fill *f;

	l->refs++;
	while ((f = TAILQ_FIRST(&l->queues[FETCH_AHEAD])))
		fill_free(f);
	fetch_unwanted(l);
	layout_put(l);
}

struct fill *
fill_background(struct layout *l, uint32_t chunk, struct transfer *t)
{
	struct fill *f = fill_new(l, chunk);

	f->state = FILL_FETCH;
	f->transfers[0] = t;
	return f;
}

void
fill_move(struct layout *l, uint32_t chunk)
{
	fill_check(fill_new(l, chunk));
}

/* ---- FETCH, ROOM, KEEP ---- */

void
fill_requeue(struct fill *f)
{
	if (!TAILQ_EMPTY(&f->waiters))
		fill_fetch(f);
	else
		fill_free(f);
}

/* No room for the bytes: who waits is served all the same. */
static void
keep_refused(struct fill *f, int r)
{
	static uint64_t said;
	struct layout *l = f->layout;

	l->full_until = now_ms() + FULL_MS;
	snprintf(l->last_error, sizeof(l->last_error), "the store can't keep "
	    "what is fetched: %s", r == -EDQUOT ? "its quota is used by what "
	    "is attached, pinned or kept" : strerror(-r));
	if (said == 0 || now_ms() - said > NO_ROOM_LOG_MS) {
		said = now_ms();
		notice("state", l, "%s; reads go on, each from the network",
		    l->last_error);
	}
	if (TAILQ_EMPTY(&f->waiters) && l->pulling) {
		Suite__FetchDone no_space = SUITE__FETCH_DONE__INIT;

		no_space.code = CTL_CODE(NO_SPACE);
		no_space.text = l->last_error;
		open_layout_trouble(l, &no_space);
		finish_stop(l);
	}
	/* It was to be moved: it is where it was, or nowhere. */
	if (l->complete && layout_state(l, f->chunk) == CHUNK_ABSENT &&
	    !layout_lookup(l, f->chunk))
		layout_revoke(l);
	/* A pull that took it up again would go in circles. */
	f->refused = TAILQ_EMPTY(&f->waiters);
	fill_finish(f, true);
}

/* The file of a client is not this image there. */
static void
import_wrong(struct fill *f)
{
	f->importing = false;
	free(take_ptr(f->job.buf));
	if (f->imported)	/* the client need not wait for the network */
		f->imported(f->import_arg, f->import_result);
	f->imported = NULL;
	fill_requeue(f);
	fetch_pump();
}

static void
keep_wrong(struct fill *f)
{
	struct layout *l = f->layout;
	struct digest_text want = digest_to_text(&f->job.expected),
	    got = digest_to_text(&f->job.digest);

	log_err("%s/%s chunk %u: wanted %s, got %s from %s", l->host, l->repo,
	    f->chunk, want.text, got.text, source_name(f->from));
	fetch_distrust(f);
	free(take_ptr(f->job.buf));
	fill_requeue(f);
	fetch_pump();
}

static void
keep_done(struct job *job)
{
	struct fill *f = job->owner;
	struct layout *l = f->layout;
	struct presence_record r = { .sum = f->job.digest,
		.offset = f->job.offset, .length = (uint32_t)f->job.len };

	keeping--;
	if (f->took)
		room_done(f->job.len);
	if (f->importing)	/* without room its file was not looked at */
		f->import_result = f->took ? job->result : f->no_room;
	if (f->importing && f->import_result < 0) {
		import_wrong(f);
		return;
	}
	if (job->result == -EBADMSG) {
		keep_wrong(f);
		return;
	}
	if (f->from)
		source_right(f->from);
	device_recovered(l);
	if (job->result < 0) {
		keep_refused(f, f->took ? job->result : f->no_room);
		return;
	}
	file_kept(l->file, f->chunk, &r, f->flags);
	if (!f->mark || !TAILQ_EMPTY(&f->waiters))
		map_publish_chunk(l, f->chunk);
	open_layout_changed(l);
	fill_finish(f, false);
}

/* flags: of the chunk, once it is kept. */
static void
keep(struct fill *f, unsigned flags)
{
	struct layout *l = f->layout;
	struct chunk_job *c = &f->job;
	int r = l->file->evicting ? -EAGAIN : room_take(c->len);

	f->flags = flags;
	if (r == -EAGAIN) {
		f->state = FILL_ROOM;
		TAILQ_INSERT_TAIL(&roomless, f, entry);
		return;
	}
	f->state = FILL_KEEP;
	if (l->indexed)
		c->has_expected = layout_digest(l, f->chunk, &c->expected);
	c->job = (struct job){ .lane = WORK_HASH,
		.run = r < 0 ? chunk_hash : f->importing && c->from >= 0 ?
		chunk_import : chunk_keep,
		.done = keep_done, .owner = f };
	f->took = r == 0;
	f->no_room = r;
	c->fd = l->file->data;
	c->offset = layout_home(l, f->chunk);
	work_submit(&c->job);
}

void
fill_data(struct fill *f, struct source *from, uint8_t *buf, size_t len)
{
	assert(f->state == FILL_FETCH);
	f->transfers[0] = f->transfers[1] = NULL;
	source_hold(from);
	source_drop(f->from);
	f->from = from;
	f->job.buf = buf;
	f->job.len = len;
	keeping++;
	keep(f, CHUNK_FETCHED);
}

void
fill_import(struct layout *l, uint32_t chunk, uint8_t *buf, int from,
    void (*done)(void *arg, int result), void *arg)
{
	struct fill *f = fill_new(l, chunk);

	f->importing = true;
	f->job.from = from;
	f->imported = done;
	f->import_arg = arg;
	f->job.len = layout_len(l, chunk);
	f->job.buf = buf;
	keeping++;
	keep(f, 0);
}

void
fill_room(void)
{
	struct fills again = TAILQ_HEAD_INITIALIZER(again);
	struct fill *f;

	TAILQ_CONCAT(&again, &roomless, entry);
	while ((f = TAILQ_FIRST(&again))) {
		TAILQ_REMOVE(&again, f, entry);
		keep(f, f->flags);
	}
}

size_t
fill_keeping(void)
{
	return keeping;
}
