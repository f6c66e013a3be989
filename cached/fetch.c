// SPDX-License-Identifier: Apache-2.0
/*
 * Transfers: which range is asked for next, and when again after a failure.
 * A transfer is one Range request for chunks that lie behind each other in a
 * blob; fetcherd makes one
 * attempt at it, and here it is decided whether and when there is another:
 *
 *	host UP --failure--> DOWN(wait) --due--> PROBE(one request) --ok--> UP
 *	                        ^                     |
 *	                        +------failure--------+   wait doubles, jitters
 *
 * So thousands of waiting reads make a bounded number of attempts.  Nothing is
 * given up: a fill that somebody waits for is asked for again for as long as it
 * takes.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define DEMAND_TRANSFERS 8	/* at once */
#define BACKGROUND_TRANSFERS 2	/* one on the wire, one behind it */
#define DEMAND_RUN	(4 * 1024 * 1024) /* bytes of one request: a largest read */
#define BACKGROUND_RUN	(1024 * 1024)	/* what a demand read may wait behind */
#define RUN_CHUNKS	1024	/* of one request */
#define KEEPING_MAX	64	/* chunks received, not yet written: then fetcherd waits */
#define KEEPING_LOW	32
#define RETRY_FIRST_MS	250
#define RETRY_MAX_MS	10000
#define RETRY_AFTER_MAX_S 300	/* what a registry may ask for */

struct host {
	TAILQ_ENTRY(host) entry;
	char name[REF_HOST_MAX + 1];
	unsigned failures;	/* in a row */
	unsigned in_flight;
	uint64_t next_try;	/* monotonic ms */
};

struct transfer {
	TAILQ_ENTRY(transfer) entry;
	uint64_t id;
	struct layout *layout;
	struct host *host;
	uint32_t first, count, next;	/* chunks */
	uint64_t length;	/* bytes, in the blob */
	bool background, plain;
	bool fresh;		/* by a connection that gave no wrong bytes */
};

static TAILQ_HEAD(, host) hosts = TAILQ_HEAD_INITIALIZER(hosts);
static TAILQ_HEAD(, transfer) transfers = TAILQ_HEAD_INITIALIZER(transfers);
static TAILQ_HEAD(, fill) demand = TAILQ_HEAD_INITIALIZER(demand);
static unsigned in_flight[2];	/* demand, background */
static struct event *retry_timer;
static uint64_t retry_when;	/* monotonic ms, while it is pending */
static bool paused;
static uint64_t last_id;

uint64_t
fetch_new_id(void)
{
	return ++last_id;
}

/* ---- hosts ---- */

static struct host *
host_get(const char *name)
{
	struct host *h;

	TAILQ_FOREACH(h, &hosts, entry)
		if (strcmp(h->name, name) == 0)
			return h;
	h = calloc(1, sizeof(*h));
	if (!h)
		log_die("no memory for a host");
	snprintf(h->name, sizeof(h->name), "%s", name);
	TAILQ_INSERT_TAIL(&hosts, h, entry);
	return h;
}

static void
retry_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	fetch_pump();
}

static void
retry_at(uint64_t when)
{
	uint64_t now = now_ms(), wait = when > now ? when - now : 1;
	struct timeval tv = { (time_t)(wait / 1000),
		(suseconds_t)(wait % 1000 * 1000) };

	if (!retry_timer)
		retry_timer = evtimer_new(loop, retry_due, NULL);
	if (retry_timer && evtimer_pending(retry_timer, NULL) &&
	    retry_when <= when)
		return;		/* that turn looks at this one too */
	retry_when = when;
	if (!retry_timer || evtimer_add(retry_timer, &tv) < 0)
		log_die("no memory for a timer");
}

static uint64_t
backoff_ms(unsigned failures, uint32_t retry_after_s)
{
	uint64_t ms = RETRY_FIRST_MS;
	uint16_t random = 0;

	while (--failures > 0 && ms < RETRY_MAX_MS)
		ms *= 2;
	if (ms > RETRY_MAX_MS)
		ms = RETRY_MAX_MS;
	RAND_bytes((unsigned char *)&random, sizeof(random));
	ms = ms / 2 + ms * random / UINT16_MAX / 2;	/* half to all of it */
	if (retry_after_s > RETRY_AFTER_MAX_S)
		retry_after_s = RETRY_AFTER_MAX_S;
	return ms > retry_after_s * 1000ULL ? ms : retry_after_s * 1000ULL;
}

static void
host_failed(struct host *h, uint32_t retry_after_s)
{
	h->failures++;
	h->next_try = now_ms() + backoff_ms(h->failures, retry_after_s);
	retry_at(h->next_try);
}

static bool
host_ready(struct host *h)
{
	if (h->failures == 0)
		return true;
	if (now_ms() < h->next_try) {
		retry_at(h->next_try);
		return false;
	}
	return h->in_flight == 0;
}

/* A chunk whose bytes were wrong is not asked for again at once. */
static bool
fill_ready(const struct fill *f)
{
	if (f->not_before <= now_ms())
		return true;
	retry_at(f->not_before);
	return false;
}

/* ---- the demand queue ---- */

void
fetch_queue(struct fill *f)
{
	if (f->queued)
		return;
	f->queued = true;
	TAILQ_INSERT_TAIL(&demand, f, entry);
}

void
fetch_unqueue(struct fill *f)
{
	if (!f->queued)
		return;
	f->queued = false;
	TAILQ_REMOVE(&demand, f, entry);
}

/* ---- starting ---- */

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

/* Does the next chunk come right behind what t asks for, and does it fit? */
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
add_chunk(struct transfer *t)
{
	t->length += stored_at(t->layout, t->first + t->count++).length;
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
	m.source = &source;
	m.digest = blob.text;
	m.offset = at.offset;
	m.length = t->plain ? l->size : t->length;
	m.size = at.blob_size;
	m.plain = t->plain;
	m.background = t->background;
	m.fresh = t->fresh;
	if (t->plain)
		m.unit = UNIT_SIZE;
	else {
		for (uint32_t i = 0; i < t->count; i++)
			pieces[i] = stored_at(l, t->first + i).length;
		m.pieces = pieces;
		m.n_pieces = t->count;
	}
	ipc_send(fetcherd_link, t->id, SUITE_BODY(FETCH), &m, NULL, 0, -1);
}

static struct transfer *
transfer_new(struct layout *l, uint32_t first, bool background)
{
	struct transfer *t = calloc(1, sizeof(*t));

	if (!t)
		log_die("no memory for a transfer");
	t->id = fetch_new_id();
	t->layout = l;
	t->host = host_get(l->host);
	t->first = t->next = first;
	t->background = background;
	l->refs++;
	t->host->in_flight++;
	in_flight[background]++;
	TAILQ_INSERT_TAIL(&transfers, t, entry);
	return t;
}

static void
transfer_free(struct transfer *t)
{
	struct layout *l = t->layout;

	t->host->in_flight--;
	if (t->plain)
		l->plain_sent = false;
	in_flight[t->background]--;
	TAILQ_REMOVE(&transfers, t, entry);
	free(t);
	layout_put(l);
}

/* One request for a queued fill and those right behind it in the blob. */
static void
start_demand(struct fill *f)
{
	struct layout *l = f->layout;
	struct transfer *t = transfer_new(l, f->chunk, false);

	t->fresh = f->distrust > 0;
	while (goes_on(t, t->first + t->count, DEMAND_RUN)) {
		struct fill *g = l->fills[t->first + t->count];

		if (!g || !g->queued || !fill_ready(g))
			break;
		fetch_unqueue(g);
		g->state = FILL_FETCH;
		g->transfer = t;
		add_chunk(t);
	}
	transfer_send(t);
}

static void
start_background(struct layout *l, uint32_t chunk)
{
	struct transfer *t;

	if (layout_state(l, chunk) != CHUNK_ABSENT) {
		l->pull_next = chunk + 1;
		fill_move(l, chunk);
		return;
	}
	if (layout_lookup(l, chunk)) {	/* somebody else has fetched it */
		finish_check(l);
		return;
	}
	if (l->plain) {		/* all of it, in one plain GET */
		t = transfer_new(l, 0, true);
		t->plain = l->plain_sent = true;
		t->count = l->n_chunks;
		l->pull_next = l->n_chunks;
		transfer_send(t);
		return;
	}
	t = transfer_new(l, chunk, true);
	while (goes_on(t, chunk, BACKGROUND_RUN) &&
	    layout_state(l, chunk) == CHUNK_ABSENT && !l->fills[chunk] &&
	    finish_wants(l, chunk) && !layout_lookup(l, chunk)) {
		fill_background(l, chunk++, t);
		add_chunk(t);
	}
	l->pull_next = chunk;
	transfer_send(t);
}

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
	struct fill *f, *next;
	struct layout *l, *after;
	uint32_t chunk;

	if (!fetcherd_link || atomic_load(&work_stopping))
		return;
	pause_if_full();
again:
	for (f = TAILQ_FIRST(&demand); f; f = next) {
		next = TAILQ_NEXT(f, entry);
		if (in_flight[0] >= DEMAND_TRANSFERS)
			break;
		if (f->layout->plain && f->layout->pulling)
			continue;	/* the pull brings it */
		if (!host_ready(host_get(f->layout->host)) || !fill_ready(f))
			continue;
		start_demand(f);
		goto again;	/* it took others along */
	}
	for (l = TAILQ_FIRST(&layouts); l; l = after) {
		l->refs++;
		while (in_flight[1] < BACKGROUND_TRANSFERS &&
		    host_ready(host_get(l->host)) && finish_next(l, &chunk))
			start_background(l, chunk);
		after = TAILQ_NEXT(l, entry);
		layout_put(l);
	}
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

void
on_data(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Data *data = msg->body;
	struct transfer *t = transfer_find(msg->id);
	struct layout *l;
	struct stored want;
	struct fill *f;

	(void)owner;
	(void)link;
	if (!t) {
		open_data(msg);		/* else of one that was given up */
		return;
	}
	l = t->layout;
	if (t->next < t->first + t->count)
		want = stored_at(l, t->next);
	if (t->next >= t->first + t->count || data->offset != want.offset ||
	    msg->raw_len != want.length) {
		fetch_broken();
		return;
	}
	f = l->fills[t->next];
	if (t->plain && !f && layout_state(l, t->next) == CHUNK_ABSENT)
		f = fill_background(l, t->next, t);
	else if (t->plain && f && f->state == FILL_QUEUED) {
		fetch_unqueue(f);
		f->state = FILL_FETCH;
		f->transfer = t;
	}
	t->next++;
	if (f && f->transfer == t)
		fill_data(f, take_ptr(msg->raw), msg->raw_len);
	pause_if_full();
}

static void
transfer_requeue(struct transfer *t)
{
	struct layout *l = t->layout;

	for (uint32_t c = t->next; c < t->first + t->count; c++) {
		struct fill *f = l->fills[c];

		if (f && f->transfer == t)
			fill_requeue(f);
	}
	if (t->plain)
		l->pull_next = 0;
}

static void
transfer_failed(struct transfer *t, const Suite__FetchDone *done)
{
	struct layout *l = t->layout;

	l->file->counts.requests_failed++;
	snprintf(l->last_error, sizeof(l->last_error), "%s", done->text);
	log_warn("%s/%s chunks %u+%u: %s", l->host, l->repo, t->next,
	    t->first + t->count - t->next, done->text);
	host_failed(t->host, done->retry_after_s);
	/* Whole only where that was asked for, now or when it was attached. */
	if (done->code == CTL_CODE(RANGE_UNSUPPORTED) && !t->plain &&
	    !l->indexed && (l->plain || t->background)) {
		notice("state", l, "%s does not serve byte ranges: "
		    "pulling %s/%s whole", l->host, l->host, l->repo);
		finish_pull(l, true);
		return;
	}
	if (!t->background)
		device_stalled(l, done->text);
	else
		open_layout_trouble(l, done);
}

void
on_fetch_done(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__FetchDone *done = msg->body;
	struct transfer *t = transfer_find(msg->id);
	struct layout *l;
	bool whole;

	(void)owner;
	(void)link;
	if (!t) {
		open_answer(msg);
		return;
	}
	l = t->layout;
	l->refs++;
	whole = t->next == t->first + t->count;
	l->file->counts.requests_sent += done->requests;
	l->file->counts.bytes_fetched += done->body_bytes;
	if (done->code == CTL_CODE(OK) && !whole)
		fetch_broken();	/* requeues t */
	else {
		if (done->code == CTL_CODE(OK))
			t->host->failures = 0;
		else {
			l->file->counts.requests_retried++;
			transfer_failed(t, done);
		}
		transfer_requeue(t);
		transfer_free(t);
	}
	fetch_pump();
	layout_put(l);
}

void
fetch_distrust(struct fill *f, const char *why)
{
	struct layout *l = f->layout;

	l->file->counts.requests_failed++;
	snprintf(l->last_error, sizeof(l->last_error), "%s", why);
	if (TAILQ_EMPTY(&f->waiters))	/* the pull comes by again */
		host_failed(host_get(l->host), 0);
	f->not_before = now_ms() + backoff_ms(++f->distrust, 0);
	device_stalled(l, why);
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
		transfer_requeue(t);
		transfer_free(t);
	}
}
