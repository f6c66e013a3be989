// SPDX-License-Identifier: Apache-2.0
/*
 * Transfers: one Range request each, at which fetcherd makes one attempt, and
 * what its end says of its source and of the layout.
 *
 *	new --add, take--> send --Data, chunk by chunk--> FetchDone --> free
 *	                     |                              ^
 *	                     +-- nobody wants it, a twin won: CancelFetch
 *
 * A chunk that it did not bring goes back into the queue (fill_requeue).  What
 * failed is a matter of the source, or, where that answers but has no such
 * blob, of this layout at that source.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/fetch.h"

#define KEEPING_MAX	64	/* chunks received, not yet written: then fetcherd waits */
#define KEEPING_LOW	32
#define CANCEL_LEAST	(128 * 1024)	/* less is let come: a cancelled request
					 * costs a connection */
#define SKIP_MS		60000	/* a mirror has no such blob, or no ranges yet */
#define SILENT_US	4000000	/* without a chunk: no answer, if it is cancelled */

struct transfers transfers = TAILQ_HEAD_INITIALIZER(transfers);
static unsigned n_demand;
static bool paused;
static uint64_t last_id;

uint64_t
fetch_new_id(void)
{
	return ++last_id;
}

unsigned
transfer_demand(void)
{
	return n_demand;
}

static uint64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- how a source did ---- */

/* It has failed: it is down, or longer so. */
static void
say_down(const struct source *s, bool was_up, const char *why)
{
	fetch_look_again(s->next_try);
	if (was_up && !source_up(s) && s->registry->n_sources > 1)
		notice("state", NULL, "%s for %s is not asked for now: %s",
		    source_name(s), s->registry->host, why);
}

static void
went_wrong(struct source *s, const char *why, uint32_t retry_after_s)
{
	bool was_up = source_up(s);

	source_failed(s, retry_after_s, now_ms());
	say_down(s, was_up, why);
}

void
fetch_wrong(struct source *s, const char *why)
{
	bool was_up = source_up(s);

	source_wrong(s, now_ms());
	say_down(s, was_up, why);
}

void
fetch_answered(struct source *s, uint64_t rtt_us)
{
	bool was_up = source_up(s);

	source_answered(s, rtt_us, now_ms());
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
		fetch_answered(s, done->rtt_us);
	else if (done->code != CTL_CODE(CANCELLED))
		went_wrong(s, done->text, done->retry_after_s);
}

/* ---- before it is sent ---- */

struct stored
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

struct transfer *
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
	source_hold(s);
	s->in_flight++;
	t->trying = !source_up(s);
	s->trying += t->trying;
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
	s->trying -= t->trying;
	if (!t->plain)
		fetch_refund(t->class, t->length - t->got);
	if (t->class == FETCH_DEMAND) {
		n_demand--;
		s->registry->in_flight--;
	} else if (!t->plain)
		s->outstanding -= t->length - t->got;
	if (t->plain)
		l->plain_sent = false;
	if (t->twin) {
		t->twin->twin = NULL;	/* not at once another hedge */
		t->twin->hedge_at = now_ms() + HEDGE_AGAIN_MS;
	}
	TAILQ_REMOVE(&transfers, t, entry);
	free(t);
	source_drop(s);
	layout_put(l);
}

void
transfer_take(struct transfer *t, struct fill *f)
{
	fetch_unqueue(f);
	f->state = FILL_FETCH;
	f->transfers[t->hedge] = t;
}

void
transfer_add(struct transfer *t)
{
	t->length += stored_at(t->layout, t->first + t->count++).length;
}

/* In the books of its source, and of the limits.  (A registry that can do no
 * ranges is not held to them: it can't be asked for less.) */
static void
send_noted(struct transfer *t)
{
	struct source *s = t->source;

	t->sent = t->moved = now_us();
	t->delivered = s->delivered;
	if (t->plain)
		return;
	fetch_charge(t->class, t->length);
	if (t->class == FETCH_DEMAND) {
		t->alone = s->in_flight == 1;
		return;
	}
	t->alone = s->outstanding == 0;
	if (t->alone)
		s->alone_at = t->sent / 1000;
	s->outstanding += t->length;
	t->full = source_room(s, t->class == FETCH_AHEAD, 0,
	    t->sent / 1000) == 0;
}

void
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
	send_noted(t);
	fetch_turn(l);
	ipc_send(fetcherd_link, t->id, SUITE_BODY(FETCH), &m, NULL, 0, -1);
}

void
transfer_probe(const struct layout *l, struct source *s)
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

bool
transfer_paused(void)
{
	return paused;
}

void
transfer_pause_if_full(void)
{
	bool full = fill_keeping() > (paused ? KEEPING_LOW : KEEPING_MAX);

	if (!fetcherd_link || full == paused)
		return;
	paused = full;
	ipc_pause(fetcherd_link, full);
}

/* ---- its end ---- */

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

/* No byte of it came, which should have been here long ago. */
static bool
is_silent(const struct transfer *t)
{
	uint64_t us = now_us() - t->sent;

	return t->class == FETCH_DEMAND && t->got == 0 && !paused &&
	    us > SILENT_US && us > 2 * source_hedge_us(t->source);
}

/* That it is cancelled does not make silence an answer. */
static void
note_silence(struct transfer *t)
{
	if (!t->cancelled && is_silent(t))
		went_wrong(t->source, "it does not answer", 0);
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
		if (t->layout != l || t->cancelled || (!t->plain &&
		    t->length - t->got <= CANCEL_LEAST && !is_silent(t)) ||
		    is_wanted(t))
			continue;
		note_silence(t);
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
		transfer_take(t, f);
	return f && f->transfers[t->hedge] == t ? f : NULL;
}

static void
count_data(struct transfer *t, size_t len)
{
	uint64_t now = now_us();

	if (t->got == 0)
		source_latency(t->source, now - t->sent,
		    t->class == FETCH_DEMAND, t->alone, now / 1000);
	if (t->got == 0 && t->trying)
		fetch_answered(t->source, 0);	/* it is back, by that */
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
	if (f)
		fill_data(f, t->source, take_ptr(msg->raw), msg->raw_len);
	transfer_pause_if_full();
}

/* It answers, but not with this blob (yet): a matter of this layout, and not of
 * the source.  A mirror is left alone for a minute, the registry for a wait
 * that doubles. */
static bool
skip_source(struct transfer *t, const Suite__FetchDone *done)
{
	struct source *s = t->source;
	struct layout *l = t->layout;
	uint64_t *until;

	if (done->code != CTL_CODE(BLOB_ABSENT) &&
	    done->code != CTL_CODE(AUTH_DENIED) &&
	    done->code != CTL_CODE(RANGE_UNSUPPORTED) &&
	    done->code != CTL_CODE(SIZE_CHANGED))
		return false;
	if (strcmp(s->registry->host, l->host) != 0)
		return true;	/* it has moved to another registry since */
	until = &l->skip_until[s - s->registry->sources];
	if (*until > now_ms())
		return true;	/* that were under way then: one with it */
	*until = now_ms() + (source_is_mirror(s) ? SKIP_MS :
	    source_backoff_ms(++l->refusals));
	fetch_look_again(*until);
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
	if (!fetch_is_alone(l, t->source))
		return;
	if (t->class == FETCH_DEMAND)
		device_stalled(l, done->text);
	else
		open_layout_trouble(l, done);
}

static void
transfer_done(struct transfer *t, const Suite__FetchDone *done)
{
	struct layout *l = t->layout;
	struct transfer *twin = t->twin;

	fetch_answered(t->source, done->rtt_us);
	l->refusals = 0;
	status_allowed(l, t->source);
	source_delivered(t->source, t->delivered, now_us() - t->sent, t->full,
	    now_ms());
	if (twin && twin->source != t->source)
		note_silence(twin);
	/* What was to bring more than what was hedged goes on with that. */
	if (twin && (twin->class == FETCH_DEMAND || !is_wanted(twin)))
		transfer_cancel(twin);
}

static void
transfer_over(struct transfer *t, const Suite__FetchDone *done)
{
	struct layout *l = t->layout;

	if (done->code == CTL_CODE(OK))
		transfer_done(t, done);
	else if (!t->cancelled) {
		l->file->counts.requests_retried++;
		transfer_failed(t, done);
	}
	transfer_leave(t);
	fetch_probe(l);
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
		fetch_look_again(s->next_try);
		l->pull_after = now_ms() + source_backoff_ms(1);
		f->not_before = now_ms() + source_backoff_ms(++f->distrust);
	}
	if (!fetch_is_alone(l, s))
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
