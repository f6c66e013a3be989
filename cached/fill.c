// SPDX-License-Identifier: Apache-2.0
/*
 * A fill: one unit on its way to being verified and published.  However many
 * wait for a unit there is one fill, and it outlives its first waiter.
 *
 *	on disk:  CHECK --hash fits--> done
 *	            | no
 *	absent:   QUEUED --transfer--> FETCH --bytes--> KEEP --written--> done
 *	            ^                    |               |  |
 *	            +----transfer failed-+---wrong hash--+  +-no room: the
 *	                                                      waiters get the
 *	                                                      bytes, nothing
 *	                                                      is published
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

#define CHECKS_MAX	32	/* buffers of one unit each; two threads hash */
#define NO_ROOM_LOG_MS	60000

static TAILQ_HEAD(, fill) checks = TAILQ_HEAD_INITIALIZER(checks);
static unsigned checks_running;
static size_t keeping;

static void check_pump(void);

static struct fill *
fill_new(struct layout *l, uint64_t unit)
{
	struct fill *f;

	assert(!l->fills[unit]);
	f = calloc(1, sizeof(*f));
	if (!f)
		log_die("no memory for a fill");
	f->layout = l;
	f->unit = unit;
	TAILQ_INIT(&f->waiters);
	l->fills[unit] = f;
	l->n_fills++;
	l->refs++;
	return f;
}

static void
fill_free(struct fill *f)
{
	struct layout *l = f->layout;

	fetch_unqueue(f);
	free(f->job.buf);
	if (layout_state(l, f->unit) == UNIT_ABSENT && f->unit < l->pull_next &&
	    !f->refused)
		l->pull_next = f->unit;	/* a pull wants it still */
	l->fills[f->unit] = NULL;
	l->n_fills--;
	free(f);
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
	while ((w = TAILQ_FIRST(&f->waiters))) {
		TAILQ_REMOVE(&f->waiters, w, entry);
		w->fill = NULL;
		want_unit_done(w, unkept || f->for_lane ? f->job.buf : NULL,
		    f->job.len);
	}
	if (f->adopt)
		device_adopt_more(l);
	fill_free(f);
	fetch_pump();
	layout_put(l);
}

static void
fill_queue(struct fill *f)
{
	f->state = FILL_QUEUED;
	f->transfer = NULL;
	if (f->demand)
		fetch_queue(f);
}

/* ---- CHECK ---- */

/* What the disk had is not what was received: it was never there. */
static void
check_failed(struct fill *f)
{
	struct layout *l = f->layout;

	notice("state", &l->blob, "unit %" PRIu64 " on disk is damaged (%s): "
	    "fetching it again", f->unit, f->job.result == -EBADMSG ?
	    "wrong digest" : strerror(-f->job.result));
	device_withdraw(l, f->unit);
	layout_set(l, f->unit, UNIT_ABSENT);
	if (l->complete)
		layout_revoke(l);
	/* Of a blob that was whole once, what comes must be what was proven. */
	if (!l->proven)
		f->job.has_expected = false;
	free(take_ptr(f->job.buf));
	l->refs++;
	if (TAILQ_EMPTY(&f->waiters)) {
		bool adopt = f->adopt;

		fill_free(f);
		finish_pull(l, l->plain);
		if (adopt)
			device_adopt_more(l);
	} else {
		f->demand = true;
		fill_queue(f);
	}
	fetch_pump();
	layout_put(l);
}

static void
check_done(struct job *job)
{
	struct fill *f = job->owner;
	struct layout *l = f->layout;

	f->checking = false;
	checks_running--;
	check_pump();
	if (job->result == 0 && !f->adopt && !job->has_expected)
		job->result = -EBADMSG;	/* its record is gone */
	if (job->result < 0) {
		check_failed(f);
		return;
	}
	if (!(l->units[f->unit] & UNIT_DURABLE) && f->adopt)
		sync_note(l, f->unit, &job->digest);
	layout_set(l, f->unit, (l->units[f->unit] & ~UNIT_STATE) |
	    UNIT_VERIFIED);
	device_publish(l, f->unit);
	fill_finish(f, false);
}

static void
check_pump(void)
{
	struct fill *f;

	while (checks_running < CHECKS_MAX && (f = TAILQ_FIRST(&checks))) {
		struct layout *l = f->layout;
		struct job *job = &f->job;

		TAILQ_REMOVE(&checks, f, entry);
		job->kind = JOB_CHECK;
		job->done = check_done;
		job->owner = f;
		job->fd = l->data_ro;
		job->offset = f->unit * l->unit;
		job->len = layout_unit_len(l, f->unit);
		job->has_expected = layout_digest(l, f->unit, &job->expected);
		job->buf = malloc(job->len);
		if (!job->buf)
			log_die("no memory to check a unit");
		f->checking = true;
		checks_running++;
		work_submit(job);
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
fill_want(struct layout *l, uint64_t unit, struct waiter *waiter,
    bool for_lane)
{
	struct fill *f = l->fills[unit];
	bool is_new = !f;

	if (!f)
		f = fill_new(l, unit);
	f->for_lane |= for_lane;
	waiter->fill = f;
	TAILQ_INSERT_TAIL(&f->waiters, waiter, entry);
	if (is_new && layout_state(l, unit) != UNIT_ABSENT)
		fill_check(f);
	else if (is_new || (f->state == FILL_QUEUED && !f->demand)) {
		f->demand = true;
		fill_queue(f);
	}
	f->demand = true;
}

int
fill_adopt(struct layout *l, uint64_t unit)
{
	struct fill *f;

	if (l->fills[unit])
		return 0;
	f = fill_new(l, unit);
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
	if (TAILQ_EMPTY(&f->waiters) && f->state == FILL_QUEUED)
		fill_free(f);	/* nobody wants it and nothing was sent */
}

struct fill *
fill_background(struct layout *l, uint64_t unit, struct transfer *t)
{
	struct fill *f = fill_new(l, unit);

	f->state = FILL_FETCH;
	f->transfer = t;
	return f;
}

/* ---- FETCH, KEEP ---- */

void
fill_requeue(struct fill *f)
{
	if (!TAILQ_EMPTY(&f->waiters)) {
		f->demand = true;
		fill_queue(f);
		return;
	}
	fill_free(f);
}

/* No room for the bytes: who waits is served all the same. */
static void
keep_refused(struct fill *f)
{
	static uint64_t said;
	struct layout *l = f->layout;

	if (said == 0 || now_ms() - said > NO_ROOM_LOG_MS) {
		said = now_ms();
		notice("state", &l->blob, "the store can't keep what is "
		    "fetched (%s); reads go on, each from the network",
		    strerror(-f->job.result));
	}
	snprintf(l->last_error, sizeof(l->last_error),
	    "the store can't keep what is fetched: %s",
	    strerror(-f->job.result));
	if (TAILQ_EMPTY(&f->waiters) && l->pulling) {
		Suite__FetchDone no_space = SUITE__FETCH_DONE__INIT;

		no_space.code = CTL_CODE(NO_SPACE);
		no_space.text = l->last_error;
		open_layout_trouble(l, &no_space);
		finish_stop(l);
	}
	/* A pull that took it up again would go in circles. */
	f->refused = TAILQ_EMPTY(&f->waiters);
	fill_finish(f, true);
}

static void
keep_done(struct job *job)
{
	struct fill *f = job->owner;
	struct layout *l = f->layout;

	keeping--;
	if (job->result == -EBADMSG) {
		struct digest_text want = digest_to_text(&job->expected),
		    got = digest_to_text(&job->digest);

		log_err("%s/%s unit %" PRIu64 ": wanted %s, got %s", l->host,
		    l->repo, f->unit, want.text, got.text);
		fetch_distrust(f, "the registry sent bytes with a wrong "
		    "digest");
		free(take_ptr(job->buf));
		fill_requeue(f);
		fetch_pump();
		return;
	}
	if (job->result < 0) {
		keep_refused(f);
		return;
	}
	layout_set(l, f->unit, UNIT_VERIFIED | UNIT_FETCHED);
	sync_note(l, f->unit, &job->digest);
	device_publish(l, f->unit);
	device_recovered(l);
	open_layout_changed(l);
	fill_finish(f, false);
}

void
fill_data(struct fill *f, uint8_t *buf, size_t len)
{
	struct layout *l = f->layout;
	struct job *job = &f->job;

	assert(f->state == FILL_FETCH);
	f->state = FILL_KEEP;
	f->transfer = NULL;
	job->kind = JOB_KEEP;
	job->done = keep_done;
	job->owner = f;
	job->fd = l->data;
	job->offset = f->unit * l->unit;
	job->buf = buf;
	job->len = len;
	keeping++;
	work_submit(job);
}

size_t
fill_keeping(void)
{
	return keeping;
}
