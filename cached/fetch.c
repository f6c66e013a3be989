// SPDX-License-Identifier: Apache-2.0
/*
 * Planning: which range is asked for next, of whom, and when again.  Chunks
 * that lie near each other in a blob are one request.  Chosen first:
 *
 *	demand		a read waits: at once, on connections of its own
 *	readahead	\  within the window of its source: sent bytes can't be
 *	background	/  overtaken, so that no more of them are under way than
 *			   keep the link full; in ranges of what the window has
 *			   above that, so that it stays full
 *
 * What a read waits for and does not come for longer than almost all takes is
 * hedged: sent once more, to somebody else where there is one, within a budget;
 * what comes first and is right counts.  source.c says whom to ask, transfer.c
 * what became of it.  Nothing is given up: a fill that somebody waits for is
 * asked for again for as long as it takes.
 */
#include <assert.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/fetch.h"

#define DEMAND_TRANSFERS 32	/* at once, of all registries; */
#define DEMAND_LEAST	4	/* but so many of each, however slow others are */
#define DEMAND_RUN	(4 * 1024 * 1024) /* bytes of one request: a largest read */
#define GAP		(64 * 1024)	/* asked for too, between two that are wanted */
#define HEDGE_LOWER	2	/* times later: it may stand behind its like */

static TAILQ_HEAD(, layout) turns = TAILQ_HEAD_INITIALIZER(turns);
static struct bucket all_bytes, background_bytes;
static struct event *timer;
static uint64_t timer_when;	/* monotonic ms, while it is pending */

/* ---- when to look again ---- */

static void
timer_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	fetch_pump();
}

void
fetch_look_again(uint64_t when)
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
	fetch_look_again(f->not_before);
	return false;
}

/* ---- queues, and layouts' turns ---- */

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

void
fetch_layout_new(struct layout *l)
{
	TAILQ_INSERT_TAIL(&turns, l, turn);
}

void
fetch_layout_gone(struct layout *l)
{
	TAILQ_REMOVE(&turns, l, turn);
}

void
fetch_turn(struct layout *l)
{
	fetch_layout_gone(l);
	fetch_layout_new(l);
}

/* ---- whom to ask ---- */

static struct source_ask
ask_for(bool checked, const uint64_t *skip_until, const struct source *but)
{
	return (struct source_ask){ .checked = checked,
		.skip_until = skip_until, .but = but, .now = now_ms() };
}

static struct source *
choose(const struct layout *l, const struct source *but)
{
	struct source_ask ask = ask_for(l->indexed, l->skip_until, but);
	uint64_t again;
	struct source *s = source_choose(registry_get(l->host), &ask, &again);

	if (!s)
		fetch_look_again(again);
	return s;
}

struct source *
fetch_source(const char *host, bool checked, const uint64_t *skip_until)
{
	struct source_ask ask = ask_for(checked, skip_until, NULL);
	struct registry *r = registry_get(host);
	uint64_t again;
	struct source *s = source_choose(r, &ask, &again);

	return s ? s : &r->sources[r->n_sources - 1];
}

bool
fetch_is_alone(const struct layout *l, const struct source *s)
{
	/* it may have moved to another registry since */
	bool moved = strcmp(s->registry->host, l->host) != 0;
	struct source_ask ask = ask_for(l->indexed, moved ? NULL :
	    l->skip_until, s);
	uint64_t again;
	const struct source *other = source_choose(s->registry, &ask, &again);

	return !other || !source_up(other);
}

void
fetch_retry(const char *host)
{
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry)
		if (strcmp(l->host, host) == 0)
			memset(l->skip_until, 0, sizeof(l->skip_until));
	registry_retry(registry_get(host), now_ms());
	fetch_pump();
}

void
fetch_probe(const struct layout *l)
{
	struct source *s = source_probe(registry_get(l->host), now_ms());

	if (s)
		transfer_probe(l, s);
}

/* ---- ranges ---- */

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
		transfer_take(t, f);
		transfer_add(t);
		return true;
	}
	over = at + 1 < l->n_chunks ? l->fills[at + 1] : NULL;
	if (t->count == 0 || f || !over || !over->queued ||
	    over->class != t->class || layout_len(l, at) > GAP ||
	    layout_state(l, at) != CHUNK_ABSENT || layout_lookup(l, at))
		return false;
	fill_background(l, at, t);
	transfer_add(t);
	return true;
}

/* ---- limits ---- */

void
fetch_charge(enum fetch_class class, uint64_t bytes)
{
	bucket_take(&all_bytes, bytes);
	if (class == FETCH_BACKGROUND)
		bucket_take(&background_bytes, bytes);
}

void
fetch_refund(enum fetch_class class, uint64_t bytes)
{
	bucket_give(&all_bytes, bytes);
	if (class == FETCH_BACKGROUND)
		bucket_give(&background_bytes, bytes);
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
		fetch_look_again(now + wait);
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

static bool
has_slot(const struct registry *r)
{
	return r->in_flight < r->max_requests &&
	    (transfer_demand() < DEMAND_TRANSFERS ||
	    r->in_flight < DEMAND_LEAST);
}

/* Of the layout with demand that can be asked for, which was served longest
 * ago: one with many reads does not hold up another one. */
static struct fill *
next_demand(struct source **from)
{
	struct layout *l;

	TAILQ_FOREACH(l, &turns, turn) {
		struct registry *r;
		struct fill *f;

		if (TAILQ_EMPTY(&l->queues[FETCH_DEMAND]))
			continue;
		r = registry_get(l->host);
		f = has_slot(r) ? first_ready(l) : NULL;
		*from = f ? choose(l, NULL) : NULL;
		if (*from)
			return f;
	}
	return NULL;
}

/* One request for a queued fill and those behind it in the blob. */
static bool
start_demand(void)
{
	struct source *s;
	struct transfer *t;
	struct fill *f;

	if (!rate_allows(FETCH_DEMAND))
		return false;
	f = next_demand(&s);
	if (!f)
		return false;
	t = transfer_new(f->layout, s, f->chunk, FETCH_DEMAND);
	t->fresh = f->distrust > 0;
	while (add_queued(t, source_up(s) ? DEMAND_RUN : 0))
		;
	registry_asked(s->registry, conf->hedge_percent);
	transfer_send(t);
	return true;
}

/* ---- hedges ---- */

/* The chunks that reads wait for, of those that it is still to bring: from the
 * first of them to before *end.  false: none. */
static bool
is_waited_for(const struct transfer *t, uint32_t *first, uint32_t *end)
{
	bool any = false;

	for (uint32_t c = t->next; c < t->first + t->count; c++) {
		const struct fill *f = t->layout->fills[c];

		if (!f || f->transfers[0] != t || TAILQ_EMPTY(&f->waiters))
			continue;
		if (!any)
			*first = c;
		*end = c + 1;
		any = true;
	}
	return any;
}

static void
start_hedge(struct transfer *t, uint32_t first, uint32_t end)
{
	struct layout *l = t->layout;
	struct source *other = choose(l, t->source);
	struct transfer *h;

	if (!other || !source_up(other))
		other = t->source;
	h = transfer_new(l, other, first, FETCH_DEMAND);
	h->hedge = true;
	h->fresh = other == t->source;
	h->twin = t;
	t->twin = h;
	while (h->first + h->count < end) {
		struct fill *f = l->fills[h->first + h->count];

		if (f && f->transfers[0] == t)
			transfer_take(h, f);
		transfer_add(h);
	}
	transfer_send(h);
}

/* When it has not moved for longer than almost all take to begin; in ms. */
static uint64_t
hedge_due(const struct transfer *t)
{
	uint64_t us = source_hedge_us(t->source), due;

	if (t->class != FETCH_DEMAND)
		us *= HEDGE_LOWER;
	due = (t->moved + us) / 1000 + 1;
	return t->hedge_at > due ? t->hedge_at : due;
}

static void
hedge_slow(void)
{
	uint64_t now = now_ms();
	struct transfer *t;

	if (transfer_paused() || conf->hedge_percent == 0)
		return;
	TAILQ_FOREACH(t, &transfers, entry) {
		uint32_t first, end;
		uint64_t due;

		if (t->plain || t->twin || t->hedge || t->cancelled ||
		    !source_up(t->source) || !is_waited_for(t, &first, &end))
			continue;
		due = hedge_due(t);
		if (due > now)
			fetch_look_again(due);
		else if (registry_hedge(t->source->registry))
			start_hedge(t, first, end);
		else {
			t->hedge_at = now + HEDGE_AGAIN_MS;
			fetch_look_again(t->hedge_at);
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
	most = stored_at(l, first).length;
	if (source_up(s))	/* else one chunk finds out */
		most = source_room(s, class == FETCH_AHEAD, (uint32_t)most,
		    now_ms());
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
			transfer_add(t);
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
	if (!source_up(s)) {	/* hours are no way to find out */
		if (!s->probing)
			transfer_probe(l, s);
		return false;
	}
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

	if (l->pull_after > now_ms()) {
		fetch_look_again(l->pull_after);
		return false;
	}
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
start_ahead(struct layout *l)
{
	const struct fill *f = TAILQ_FIRST(&l->queues[FETCH_AHEAD]);

	return f && start_lower(l, f->chunk, FETCH_AHEAD);
}

/* One more transfer, of the layout that was served longest ago and can be. */
static bool
start_one(bool (*start)(struct layout *l))
{
	struct layout *l, *next;
	bool began = false;

	for (l = TAILQ_FIRST(&turns); l && !began; l = next) {
		l->refs++;
		began = start(l);
		next = TAILQ_NEXT(l, turn);
		layout_put(l);
	}
	return began;
}

/* ---- the pump ---- */

void
fetch_pump(void)
{
	if (!fetcherd_link || atomic_load(&work_stopping))
		return;
	transfer_pause_if_full();
	while (start_demand())
		;
	hedge_slow();
	while (start_one(start_ahead))
		;
	while (start_one(start_background))
		;
}
