// SPDX-License-Identifier: Apache-2.0
/*
 * Transfers: which range is asked for next, of whom, and when again after a
 * failure.  A transfer is one Range request for chunks that lie near each other
 * in a blob; fetcherd makes one attempt at it.  Chosen first:
 *
 *	demand		a read waits: at once, on connections of its own
 *	readahead	\  within the window of its source: sent bytes can't be
 *	background	/  overtaken, so that no more of them are under way than
 *			   keep the link full; in ranges of what the window has
 *			   above that, so that it stays full
 *
 * A demand transfer that takes longer than almost all do is hedged: sent once
 * more, to somebody else where there is one, within a budget; what comes first
 * and is right counts.  source.c says whom to ask.  Nothing is given up: a fill
 * that somebody waits for is asked for again for as long as it takes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define DEMAND_TRANSFERS 32	/* at once, of all registries */
#define LOWER_RANGES	6	/* that make up a window */
#define DEMAND_RUN	(4 * 1024 * 1024) /* bytes of one request: a largest read */
#define GAP		(64 * 1024)	/* asked for too, between two that are wanted */
#define RUN_CHUNKS	1024	/* of one request */
#define KEEPING_MAX	64	/* chunks received, not yet written: then fetcherd waits */
#define KEEPING_LOW	32
#define CANCEL_LEAST	(128 * 1024)	/* less is let come: a cancelled request
					 * costs a connection */
#define SKIP_MS		60000	/* a mirror has no such blob, or no ranges yet */
#define HEDGE_AGAIN_MS	1000	/* the budget was empty */

struct transfer {
	TAILQ_ENTRY(transfer) entry;
	uint64_t id;
	struct layout *layout;
	struct source *source;
	enum fetch_class class;
	uint32_t first, count, next;	/* chunks */
	uint64_t length, got;	/* bytes, in the blob */
	uint64_t sent, moved;	/* monotonic us */
	uint64_t delivered;	/* by the source, when it was sent */
	struct transfer *twin;	/* it hedges, or is hedged by */
	uint64_t hedge_at;	/* monotonic ms; 0: as the source says */
	bool plain, full;	/* full: the window was, when it was sent */
	bool fresh;		/* by a connection that gave no wrong bytes */
	bool hedge, cancelled;
};

static TAILQ_HEAD(transfers, transfer) transfers =
    TAILQ_HEAD_INITIALIZER(transfers);
static unsigned n_demand;
static struct bucket all_bytes, background_bytes;
static struct event *timer;
static uint64_t timer_when;	/* monotonic ms, while it is pending */
static bool paused;
static uint64_t last_id;

uint64_t
fetch_new_id(void)
{
	return ++last_id;
}

static uint64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- when to look again ---- */

static void
timer_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	fetch_pump();
}

static void
look_again(uint64_t when)
{
	uint64_t now = now_ms(), wait = when > now ? when - now : 1;
	struct timeval tv = { (time_t)(wait / 1000),
		(suseconds_t)(wait % 1000 * 1000) };

	if (when == UINT64_MAX)
		return;
	if (!timer)
		timer = evtimer_new(loop, timer_due, NULL);
	if (timer && evtimer_pending(timer, NULL) && timer_when <= when)
		return;		/* that turn looks at this one too */
	timer_when = when;
	if (!timer || evtimer_add(timer, &tv) < 0)
		log_die("no memory for a timer");
}

/* A chunk whose bytes were wrong is not asked for again at once. */
static bool
fill_ready(const struct fill *f)
{
	if (f->not_before <= now_ms())
		return true;
	look_again(f->not_before);
	return false;
}

/* ---- queues ---- */

void
fetch_queue(struct fill *f, enum fetch_class class)
{
	assert(!f->queued && class != FETCH_BACKGROUND);
	f->class = class;
	f->queued = true;
	TAILQ_INSERT_TAIL(&f->layout->queues[class], f, entry);
}

void
fetch_unqueue(struct fill *f)
{
	if (!f->queued)
		return;
	f->queued = false;
	TAILQ_REMOVE(&f->layout->queues[f->class], f, entry);
}

/* ---- whom to ask ---- */

static struct source *
choose(const struct layout *l, const struct source *but)
{
	struct source_ask ask = { .checked = l->indexed,
		.skip_until = l->skip_until, .but = but, .now = now_ms() };
	uint64_t again;
	struct source *s = source_choose(registry_get(l->host), &ask, &again);

	if (!s)
		look_again(again);
	return s;
}

struct source *
fetch_source(const char *host, bool checked, const uint64_t *skip_until)
{
	struct source_ask ask = { .checked = checked,
		.skip_until = skip_until, .now = now_ms() };
	struct registry *r = registry_get(host);
	uint64_t again;
	struct source *s = source_choose(r, &ask, &again);

	return s ? s : &r->sources[r->n_sources - 1];
}

/* Would nobody else serve this layout now? */
static bool
is_alone(const struct layout *l, const struct source *s)
{
	struct source_ask ask = { .checked = l->indexed,
		.skip_until = l->skip_until, .but = s, .now = now_ms() };
	uint64_t again;
	const struct source *other = source_choose(s->registry, &ask, &again);

	return !other || !source_up(other);
}

static void
say_down(const struct source *s, const char *why)
{
	if (s->registry->n_sources > 1)
		notice("state", NULL, "%s for %s is not asked for now: %s",
		    source_name(s), s->registry->host, why);
}

static void
went_wrong(struct source *s, const char *why, uint32_t retry_after_s)
{
	bool was_up = source_up(s);

	source_failed(s, retry_after_s, now_ms());
	look_again(s->next_try);
	if (was_up)
		say_down(s, why);
}

static void
went_well(struct source *s, const Suite__FetchDone *done)
{
	bool was_up = source_up(s);

	source_answered(s, done->rtt_us, now_ms());
	if (!was_up && source_up(s) && s->registry->n_sources > 1)
		notice("state", NULL, "%s for %s answers again",
		    source_name(s), s->registry->host);
}

void
fetch_outcome(struct source *s, const Suite__FetchDone *done)
{
	/* That it has no such blob, or no part of it yet, is an answer. */
	if (done->code == CTL_CODE(OK) || done->code == CTL_CODE(BLOB_ABSENT) ||
	    done->code == CTL_CODE(RANGE_UNSUPPORTED))
		went_well(s, done);
	else if (done->code != CTL_CODE(CANCELLED))
		went_wrong(s, done->text, done->retry_after_s);
}

void
fetch_wrong(struct source *s, const char *why)
{
	bool was_up = source_up(s);

	source_wrong(s, now_ms());
	look_again(s->next_try);
	if (was_up)
		say_down(s, why);
}

void
fetch_retry(const char *host)
{
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry)
		if (strcmp(l->host, host) == 0)
			memset(l->skip_until, 0, sizeof(l->skip_until));
	registry_retry(registry_get(host));
	fetch_pump();
}

/* ---- ranges ---- */

/* Where a chunk's stored bytes are. */
struct stored {
	struct digest blob;
	uint64_t blob_size, offset;
	uint32_t length;
};

static struct stored
stored_at(const struct layout *l, uint32_t chunk)
{
	struct stored s = { .blob = l->blob, .blob_size = l->size };
	struct index_chunk c;
	struct index_blob b;

	if (!l->indexed) {
		s.offset = layout_home(l, chunk);
		s.length = layout_len(l, chunk);
		return s;
	}
	c = index_chunk(&l->index, chunk);
	b = index_blob(&l->index, c.blob);
	return (struct stored){ b.digest, b.size, c.offset, c.stored };
}

/* Does the next chunk come right behind what t asks for, and does it fit?  One
 * always does. */
static bool
goes_on(const struct transfer *t, uint32_t chunk, uint64_t most)
{
	struct stored first, next;

	if (chunk >= t->layout->n_chunks || t->count == RUN_CHUNKS)
		return false;
	if (t->count == 0)
		return true;
	first = stored_at(t->layout, t->first);
	next = stored_at(t->layout, chunk);
	return digest_equal(&first.blob, &next.blob) &&
	    next.offset == first.offset + t->length &&
	    t->length + next.length <= most;
}

static void
take_fill(struct transfer *t, struct fill *f)
{
	fetch_unqueue(f);
	f->state = FILL_FETCH;
	f->transfers[t->hedge] = t;
}

static void
add_chunk(struct transfer *t)
{
	t->length += stored_at(t->layout, t->first + t->count++).length;
}

/* The next fill of this transfer's class right behind it; across a small gap,
 * which is then asked for as well. */
static bool
add_queued(struct transfer *t, uint64_t most)
{
	struct layout *l = t->layout;
	uint32_t at = t->first + t->count;
	const struct fill *over;
	struct fill *f;

	if (!goes_on(t, at, most))
		return false;
	f = l->fills[at];
	if (f && f->queued && f->class == t->class && fill_ready(f)) {
		take_fill(t, f);
		add_chunk(t);
		return true;
	}
	over = at + 1 < l->n_chunks ? l->fills[at + 1] : NULL;
	if (t->count == 0 || f || !over || !over->queued ||
	    over->class != t->class || layout_len(l, at) > GAP ||
	    layout_state(l, at) != CHUNK_ABSENT || layout_lookup(l, at))
		return false;
	fill_background(l, at, t);
	add_chunk(t);
	return true;
}

/* ---- starting ---- */

static struct transfer *
transfer_new(struct layout *l, struct source *s, uint32_t first,
    enum fetch_class class)
{
	struct transfer *t = calloc(1, sizeof(*t));

	if (!t)
		log_die("no memory for a transfer");
	t->id = fetch_new_id();
	t->layout = l;
	t->source = s;
	t->class = class;
	t->first = t->next = first;
	l->refs++;
	s->in_flight++;
	if (class == FETCH_DEMAND) {
		n_demand++;
		s->registry->in_flight++;
	}
	TAILQ_INSERT_TAIL(&transfers, t, entry);
	return t;
}

static void
transfer_free(struct transfer *t)
{
	struct layout *l = t->layout;
	struct source *s = t->source;

	s->in_flight--;
	if (t->class == FETCH_DEMAND) {
		n_demand--;
		s->registry->in_flight--;
	} else if (!t->plain)
		s->outstanding -= t->length - t->got;
	if (t->plain)
		l->plain_sent = false;
	if (t->twin)
		t->twin->twin = NULL;
	TAILQ_REMOVE(&transfers, t, entry);
	free(t);
	layout_put(l);
}

/* How much may classes below demand ask for at once; 0: nothing now. */
static uint64_t
lower_room(const struct source *s, uint32_t chunk_length)
{
	uint64_t window = source_window(s), range = window / LOWER_RANGES;

	if (range < chunk_length)
		range = chunk_length;
	return s->outstanding == 0 || s->outstanding + range <= window ?
	    range : 0;
}

static void
transfer_send(struct transfer *t)
{
	struct layout *l = t->layout;
	struct stored at = stored_at(l, t->first);
	struct digest_text blob = digest_to_text(&at.blob);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Fetch m = SUITE__FETCH__INIT;
	uint32_t pieces[RUN_CHUNKS];

	source.host = l->host;
	source.repo = l->repo;
	source.mirror = t->source->mirror;
	m.source = &source;
	m.digest = blob.text;
	m.offset = at.offset;
	m.length = t->plain ? l->size : t->length;
	m.size = at.blob_size;
	m.plain = t->plain;
	m.background = t->class != FETCH_DEMAND;
	m.fresh = t->fresh;
	if (t->plain)
		m.unit = UNIT_SIZE;
	else {
		for (uint32_t i = 0; i < t->count; i++)
			pieces[i] = stored_at(l, t->first + i).length;
		m.pieces = pieces;
		m.n_pieces = t->count;
	}
	t->sent = t->moved = now_us();
	t->delivered = t->source->delivered;
	if (t->class != FETCH_DEMAND && !t->plain) {
		t->source->outstanding += t->length;
		t->full = lower_room(t->source, 0) == 0;
	}
	bucket_take(&all_bytes, m.length);
	if (t->class == FETCH_BACKGROUND)
		bucket_take(&background_bytes, m.length);
	l->turn = t->id;
	ipc_send(fetcherd_link, t->id, SUITE_BODY(FETCH), &m, NULL, 0, -1);
}

/* May bytes of this class be asked for, as far as limits of rate say? */
static bool
rate_allows(enum fetch_class class)
{
	uint64_t now = now_ms(), wait = bucket_wait_ms(&all_bytes, conf->rate,
	    now);

	if (wait == 0 && class == FETCH_BACKGROUND)
		wait = bucket_wait_ms(&background_bytes,
		    conf->background_rate, now);
	if (wait > 0)
		look_again(now + wait);
	return wait == 0;
}

/* ---- demand ---- */

static struct fill *
first_ready(const struct layout *l)
{
	struct fill *f;

	if (l->plain && l->pulling)
		return NULL;		/* the pull brings it */
	TAILQ_FOREACH(f, &l->queues[FETCH_DEMAND], entry)
		if (fill_ready(f))
			return f;
	return NULL;
}

/* The layout with demand that can be asked for, which was served longest ago:
 * one with many reads does not hold up another one. */
static struct fill *
next_demand(struct source **from)
{
	struct fill *best = NULL;
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry) {
		struct registry *r;
		struct source *s;
		struct fill *f;

		if (TAILQ_EMPTY(&l->queues[FETCH_DEMAND]) ||
		    (best && best->layout->turn < l->turn))
			continue;
		r = registry_get(l->host);
		f = r->in_flight < r->max_requests ? first_ready(l) : NULL;
		s = f ? choose(l, NULL) : NULL;
		if (!s)
			continue;
		best = f;
		*from = s;
	}
	return best;
}

/* One request for a queued fill and those behind it in the blob. */
static bool
start_demand(void)
{
	struct source *s;
	struct transfer *t;
	struct fill *f;

	if (n_demand >= DEMAND_TRANSFERS || !rate_allows(FETCH_DEMAND))
		return false;
	f = next_demand(&s);
	if (!f)
		return false;
	t = transfer_new(f->layout, s, f->chunk, FETCH_DEMAND);
	t->fresh = f->distrust > 0;
	while (add_queued(t, DEMAND_RUN))
		;
	registry_asked(s->registry, conf->hedge_percent);
	s->registry->n_demand++;
	transfer_send(t);
	return true;
}

/* ---- hedges ---- */

static void
start_hedge(struct transfer *t)
{
	struct layout *l = t->layout;
	struct source *other = choose(l, t->source);
	struct transfer *h;

	if (!other || !source_up(other))
		other = t->source;
	h = transfer_new(l, other, t->next, FETCH_DEMAND);
	h->hedge = true;
	h->fresh = other == t->source;
	h->twin = t;
	t->twin = h;
	while (h->first + h->count < t->first + t->count) {
		struct fill *f = l->fills[h->first + h->count];

		if (f && f->transfers[0] == t)
			take_fill(h, f);
		add_chunk(h);
	}
	other->registry->n_hedges++;
	transfer_send(h);
}

/* Hedge what has not moved for longer than almost all take to begin. */
static void
hedge_slow(void)
{
	uint64_t now = now_ms();
	struct transfer *t;

	if (paused)		/* it is us who do not take what came */
		return;
	TAILQ_FOREACH(t, &transfers, entry) {
		uint64_t due;

		if (t->class != FETCH_DEMAND || t->twin || t->hedge ||
		    t->cancelled || conf->hedge_percent == 0 ||
		    !source_up(t->source) || t->next == t->first + t->count)
			continue;
		due = (t->moved + source_hedge_us(t->source)) / 1000 + 1;
		if (t->hedge_at > due)
			due = t->hedge_at;
		if (due > now)
			look_again(due);
		else if (registry_hedge(t->source->registry))
			start_hedge(t);
		else {
			t->hedge_at = now + HEDGE_AGAIN_MS;
			look_again(t->hedge_at);
		}
	}
}

/* ---- what is below demand ---- */

/* Ask for chunks from `first` on, which is absent. */
static bool
start_lower(struct layout *l, uint32_t first, enum fetch_class class)
{
	struct source *s = choose(l, NULL);
	struct transfer *t;
	uint64_t most;

	if (!s || !rate_allows(class))
		return false;
	most = lower_room(s, stored_at(l, first).length);
	if (most == 0)
		return false;
	t = transfer_new(l, s, first, class);
	if (class == FETCH_AHEAD) {
		while (add_queued(t, most))
			;
	} else {
		uint32_t at = first;

		while (goes_on(t, at, most) && !l->fills[at] &&
		    layout_state(l, at) == CHUNK_ABSENT &&
		    finish_wants(l, at) && !layout_lookup(l, at)) {
			fill_background(l, at++, t);
			add_chunk(t);
		}
		l->pull_next = at;
	}
	transfer_send(t);
	return true;
}

static bool
start_plain(struct layout *l)
{
	struct source *s = choose(l, NULL);
	struct transfer *t;

	if (!s || !rate_allows(FETCH_BACKGROUND))
		return false;
	t = transfer_new(l, s, 0, FETCH_BACKGROUND);
	t->plain = l->plain_sent = true;
	t->count = l->n_chunks;
	l->pull_next = l->n_chunks;
	transfer_send(t);
	return true;
}

/* The next thing that the background fill wants.  false: none, or not now. */
static bool
start_background(struct layout *l)
{
	uint32_t chunk;

	while (finish_next(l, &chunk)) {
		if (layout_lookup(l, chunk))
			finish_check(l);	/* another one fetched it */
		else
			return l->plain ? start_plain(l) :
			    start_lower(l, chunk, FETCH_BACKGROUND);
	}
	return false;
}

static bool
has_work(const struct layout *l, enum fetch_class class)
{
	if (class != FETCH_BACKGROUND)
		return !TAILQ_EMPTY(&l->queues[class]);
	if (l->pull_after > now_ms()) {
		look_again(l->pull_after);
		return false;
	}
	return l->pulling || l->n_mend > 0;
}

/* One more transfer, of the layout that was served longest ago and can be. */
static bool
start_class(enum fetch_class class)
{
	uint64_t after = 0;
	bool began = false;

	while (!began) {
		struct layout *l, *best = NULL;

		TAILQ_FOREACH(l, &layouts, entry)
			if (has_work(l, class) && l->turn > after &&
			    (!best || l->turn < best->turn))
				best = l;
		if (!best)
			break;
		after = best->turn;
		best->refs++;
		began = class == FETCH_BACKGROUND ? start_background(best) :
		    start_lower(best,
		    TAILQ_FIRST(&best->queues[class])->chunk, class);
		layout_put(best);
	}
	return began;
}

/* ---- who was down: is he back? ---- */

/* A question for one byte of a blob that is being read. */
static void
probe(const struct layout *l, struct source *s)
{
	struct stored at = stored_at(l, 0);
	struct digest_text blob = digest_to_text(&at.blob);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Stat m = SUITE__STAT__INIT;

	source.host = (char *)l->host;
	source.repo = (char *)l->repo;
	source.mirror = s->mirror;
	m.source = &source;
	m.digest = blob.text;
	s->probing = fetch_new_id();
	ipc_send(fetcherd_link, s->probing, SUITE_BODY(STAT), &m, NULL, 0,
	    -1);
}

/* While something is read from a registry, look after its sources. */
static void
probe_some(const struct layout *l)
{
	struct source *s = source_probe(registry_get(l->host), now_ms());

	if (s)
		probe(l, s);
}

static struct source *
probed(uint64_t id)
{
	for (struct registry *r = registry_next(NULL); r;
	    r = registry_next(r))
		for (unsigned i = 0; i < r->n_sources; i++)
			if (r->sources[i].probing == id)
				return &r->sources[i];
	return NULL;
}

/* ---- the pump ---- */

/* Back-pressure: what was received and not yet written is bounded. */
static void
pause_if_full(void)
{
	bool full = fill_keeping() > (paused ? KEEPING_LOW : KEEPING_MAX);

	if (!fetcherd_link || full == paused)
		return;
	paused = full;
	ipc_pause(fetcherd_link, full);
}

void
fetch_pump(void)
{
	if (!fetcherd_link || atomic_load(&work_stopping))
		return;
	pause_if_full();
	while (start_demand())
		;
	hedge_slow();
	while (start_class(FETCH_AHEAD))
		;
	while (start_class(FETCH_BACKGROUND))
		;
}

/* ---- ends ---- */

/* Of all that it was to bring: nothing comes by it any more. */
static void
transfer_leave(struct transfer *t)
{
	struct layout *l = t->layout;

	for (uint32_t c = t->next; c < t->first + t->count; c++) {
		struct fill *f = l->fills[c];

		if (!f || f->transfers[t->hedge] != t)
			continue;
		f->transfers[t->hedge] = NULL;
		if (!f->transfers[!t->hedge])
			fill_requeue(f);
	}
	if (t->plain)
		l->pull_next = 0;
}

/* Its FetchDone is still to come, with what it cost. */
static void
transfer_cancel(struct transfer *t)
{
	if (t->cancelled)
		return;
	t->cancelled = true;
	ipc_send(fetcherd_link, t->id, SUITE_BODY(CANCEL_FETCH),
	    &(Suite__CancelFetch)SUITE__CANCEL_FETCH__INIT, NULL, 0, -1);
	transfer_leave(t);
}

/* Does anybody wait for what it is still to bring? */
static bool
is_wanted(const struct transfer *t)
{
	const struct layout *l = t->layout;

	if (t->plain)
		return l->pulling;
	for (uint32_t c = t->next; c < t->first + t->count; c++) {
		const struct fill *f = l->fills[c];

		if (f && f->transfers[t->hedge] == t &&
		    (!TAILQ_EMPTY(&f->waiters) || finish_wants(l, c) ||
		    (f->class == FETCH_AHEAD && !TAILQ_EMPTY(&l->devices))))
			return true;
	}
	return false;
}

void
fetch_unwanted(struct layout *l)
{
	struct transfer *t, *next;

	if (!fetcherd_link)
		return;
	l->refs++;
	for (t = TAILQ_FIRST(&transfers); t; t = next) {
		next = TAILQ_NEXT(t, entry);
		if (t->layout == l && !t->cancelled &&
		    (t->plain || t->length - t->got > CANCEL_LEAST) &&
		    !is_wanted(t))
			transfer_cancel(t);
	}
	layout_put(l);
}

/* ---- answers ---- */

static struct transfer *
transfer_find(uint64_t id)
{
	struct transfer *t;

	TAILQ_FOREACH(t, &transfers, entry)
		if (t->id == id)
			return t;
	return NULL;
}

/* fetcherd does not keep to the protocol: its parent ends it. */
void
fetch_broken(void)
{
	struct parent_msg msg = { .type = CHILD_BROKEN,
		.peer = PEER_FETCHERD };

	log_err("fetcherd broke the protocol");
	parent_send(parent, &msg, -1);
	fetch_link_down();
}

/* The fill that this piece is for, or NULL: it came otherwise. */
static struct fill *
fill_for(struct transfer *t)
{
	struct layout *l = t->layout;
	struct fill *f = l->fills[t->next];

	if (t->plain && !f && layout_state(l, t->next) == CHUNK_ABSENT)
		f = fill_background(l, t->next, t);
	else if (t->plain && f && f->state == FILL_QUEUED)
		take_fill(t, f);
	return f && f->transfers[t->hedge] == t ? f : NULL;
}

static void
count_data(struct transfer *t, size_t len)
{
	uint64_t now = now_us();

	if (t->got == 0)
		source_latency(t->source, now - t->sent,
		    t->class == FETCH_DEMAND, now / 1000);
	if (t->class != FETCH_DEMAND && !t->plain)
		t->source->outstanding -= len;
	t->moved = now;
	t->got += len;
	t->source->delivered += len;
}

void
on_data(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Data *data = msg->body;
	struct transfer *t = transfer_find(msg->id);
	struct stored want;
	struct fill *f;

	(void)owner;
	(void)link;
	if (!t) {
		open_data(msg);		/* else of one that was given up */
		return;
	}
	if (t->cancelled)
		return;
	if (t->next < t->first + t->count)
		want = stored_at(t->layout, t->next);
	if (t->next >= t->first + t->count || data->offset != want.offset ||
	    msg->raw_len != want.length) {
		fetch_broken();
		return;
	}
	count_data(t, msg->raw_len);
	f = fill_for(t);
	t->next++;
	if (f) {
		f->from = t->source;
		fill_data(f, take_ptr(msg->raw), msg->raw_len);
	}
	pause_if_full();
}

/* It answers, but not with this blob (yet): a matter of this layout, and not of
 * the source.  A mirror is left alone for a minute, the registry for a wait
 * that doubles. */
static bool
skip_source(struct transfer *t, const Suite__FetchDone *done)
{
	struct source *s = t->source;
	struct layout *l = t->layout;
	uint64_t wait;

	if (done->code != CTL_CODE(BLOB_ABSENT) &&
	    done->code != CTL_CODE(AUTH_DENIED) &&
	    done->code != CTL_CODE(RANGE_UNSUPPORTED) &&
	    done->code != CTL_CODE(SIZE_CHANGED))
		return false;
	if (strcmp(s->registry->host, l->host) != 0)
		return true;	/* it has moved to another registry since */
	wait = source_is_mirror(s) ? SKIP_MS :
	    source_backoff_ms(++l->refusals);
	l->skip_until[s - s->registry->sources] = now_ms() + wait;
	look_again(now_ms() + wait);
	log_info("%s for %s/%s: %s", source_name(s), l->host, l->repo,
	    done->text);
	return true;
}

static void
transfer_failed(struct transfer *t, const Suite__FetchDone *done)
{
	struct layout *l = t->layout;

	l->file->counts.requests_failed++;
	snprintf(l->last_error, sizeof(l->last_error), "%s", done->text);
	log_warn("%s/%s chunks %u+%u: %s", l->host, l->repo, t->next,
	    t->first + t->count - t->next, done->text);
	if (!skip_source(t, done))
		went_wrong(t->source, done->text, done->retry_after_s);
	/* Whole only where that was asked for, now or when it was attached. */
	if (done->code == CTL_CODE(RANGE_UNSUPPORTED) && !t->plain &&
	    !source_is_mirror(t->source) && !l->indexed &&
	    (l->plain || t->class != FETCH_DEMAND)) {
		memset(l->skip_until, 0, sizeof(l->skip_until));
		notice("state", l, "%s does not serve byte ranges: "
		    "pulling %s/%s whole", l->host, l->host, l->repo);
		finish_pull(l, true);
		return;
	}
	status_denied(l, t->source, done);
	if (!is_alone(l, t->source))
		return;
	if (t->class == FETCH_DEMAND)
		device_stalled(l, done->text);
	else
		open_layout_trouble(l, done);
}

static void
transfer_over(struct transfer *t, const Suite__FetchDone *done)
{
	struct layout *l = t->layout;

	if (done->code == CTL_CODE(OK)) {
		went_well(t->source, done);
		l->refusals = 0;
		status_allowed(l);
		source_delivered(t->source, t->delivered,
		    now_us() - t->sent, t->full, now_ms());
	} else if (!t->cancelled) {
		l->file->counts.requests_retried++;
		transfer_failed(t, done);
	}
	if (done->code == CTL_CODE(OK) && t->twin)
		transfer_cancel(t->twin);
	transfer_leave(t);
	probe_some(l);
	transfer_free(t);
}

void
on_fetch_done(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__FetchDone *done = msg->body;
	struct transfer *t = transfer_find(msg->id);
	struct source *s = t ? NULL : probed(msg->id);
	struct layout *l;

	(void)owner;
	(void)link;
	if (s) {
		s->probing = 0;
		fetch_outcome(s, done);
		fetch_pump();
		return;
	}
	if (!t) {
		open_answer(msg);
		return;
	}
	l = t->layout;
	l->refs++;
	l->file->counts.requests_sent += done->requests;
	l->file->counts.bytes_fetched += done->body_bytes;
	if (done->code == CTL_CODE(OK) && !t->cancelled &&
	    t->next < t->first + t->count)
		fetch_broken();	/* frees t */
	else
		transfer_over(t, done);
	fetch_pump();
	layout_put(l);
}

void
fetch_distrust(struct fill *f)
{
	Suite__FetchDone wrong = SUITE__FETCH_DONE__INIT;
	struct layout *l = f->layout;
	struct source *s = f->from;

	l->file->counts.requests_failed++;
	snprintf(l->last_error, sizeof(l->last_error), "%s sent bytes with a "
	    "wrong digest", source_name(s));
	if (source_is_mirror(s))
		fetch_wrong(s, l->last_error);
	else {			/* it has to do: by another connection, later */
		source_lied(s, now_ms());
		look_again(s->next_try);
		l->pull_after = now_ms() + source_backoff_ms(1);
		f->not_before = now_ms() + source_backoff_ms(++f->distrust);
	}
	if (!is_alone(l, s))
		return;
	device_stalled(l, l->last_error);
	wrong.code = CTL_CODE(DIGEST_MISMATCH);
	wrong.retry = true;
	wrong.text = l->last_error;
	if (l->pulling)
		open_layout_trouble(l, &wrong);
}

void
fetch_link_up(void)
{
	paused = false;
	fetch_pump();
	open_resend();
}

void
fetch_link_down(void)
{
	struct transfer *t;

	ipc_free(take_ptr(fetcherd_link));
	while ((t = TAILQ_FIRST(&transfers))) {
		t->layout->file->counts.requests_retried++;
		transfer_leave(t);
		transfer_free(t);
	}
	for (struct registry *r = registry_next(NULL); r;
	    r = registry_next(r))
		for (unsigned i = 0; i < r->n_sources; i++)
			r->sources[i].probing = 0;
}
