// SPDX-License-Identifier: Apache-2.0
/*
 * Where bytes can be had, and how well each place does: a registry's mirrors in
 * the configured order, then the registry itself.  Pure: time is given.
 *
 *	UP --failure--> DOWN(wait) --due--> PROBE --ok--> UP
 *	 |                 ^                  |
 *	 |                 +-----failure------+	the wait doubles, jitters
 *	 +--wrong bytes--> DOWN, a minute to an hour
 *
 * However many reads wait, a source that is not UP sees one request at a time,
 * after each wait; while another one serves, that is a question for one byte,
 * which nobody waits for.  The first of those that are UP is asked, unless it
 * answers much slower than a later mirror.
 *
 * The path to a source is measured as BBR does (Cardwell et al., "BBR:
 * Congestion-Based Congestion Control", 2016): the least time to a first chunk
 * and the greatest rate, of late; their product is how much fits on the way.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/log.h"
#include "cached/cached.h"

#define RETRY_FIRST_MS		250
#define RETRY_MAX_MS		10000
#define RETRY_AFTER_MAX_S	300	/* what a registry may ask for */
#define LIES_MAX		4	/* chunks in a row, of a registry */
#define WRONG_FIRST_MS		60000
#define WRONG_MAX_MS		3600000
#define SLOW_FACTOR		4	/* a later source is asked instead */
#define SLOW_LEAST_US		20000
#define SLOW_PROBE_MS		15000	/* is it still slow? */
/* What is measured counts for one to two of these. */
#define EPOCH_RTT_MS		10000
#define EPOCH_RATE_MS		2000
#define LOWER_RANGES		6	/* that make up a window */
#define WINDOW_FIRST		(256 * 1024)	/* bytes, before anything is known */
#define WINDOW_MAX		(16 * 1024 * 1024)
#define HOPS_US			2000	/* that our own processes may take */
#define STARTUP_GAIN		4
#define STARTUP_ROUNDS		2	/* without a quarter more rate: it is known */
#define HEDGES_SAVED		4	/* at most so many at once after a quiet time */
#define HEDGE_LEAST_US		20000
#define HEDGE_BLIND_US		2000000	/* before there are samples enough */
#define HEDGE_SAMPLES		16
#define REGISTRIES_KEPT		64	/* what is known of them, unused ones too */

static TAILQ_HEAD(, registry) registries = TAILQ_HEAD_INITIALIZER(registries);
static unsigned n_registries;

/* ---- which there are ---- */

static void
source_add(struct registry *r, const char *mirror, bool trusted)
{
	struct source *s = &r->sources[r->n_sources++];

	s->registry = r;
	s->mirror = strdup(mirror);
	if (!s->mirror)
		log_die("no memory for a source");
	s->trusted = trusted;
}

static struct registry *
registry_new(const char *host)
{
	const struct conf_registry *known = conf ? conf_registry(conf, host) :
	    NULL;
	struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		log_die("no memory for a registry");
	snprintf(r->host, sizeof(r->host), "%s", host);
	for (size_t i = 0; known && i < known->n_mirrors; i++)
		source_add(r, known->mirrors[i], known->trust_mirrors);
	source_add(r, "", true);
	r->max_requests = known ? known->max_requests : CONF_REQUESTS;
	r->hedges = 1;
	n_registries++;
	return r;
}

static void
registry_free(struct registry *r)
{
	TAILQ_REMOVE(&registries, r, entry);
	n_registries--;
	for (unsigned i = 0; i < r->n_sources; i++)
		free(r->sources[i].mirror);
	free(r);
}

/* Clients name hosts: those that nobody uses are forgotten some day, first who
 * was not asked for longest. */
static void
forget_some(void)
{
	struct registry *r, *next;

	for (r = TAILQ_FIRST(&registries); r && n_registries > REGISTRIES_KEPT;
	    r = next) {
		next = TAILQ_NEXT(r, entry);
		if (r->refs == 0)
			registry_free(r);
	}
}

struct registry *
registry_get(const char *host)
{
	struct registry *r;

	TAILQ_FOREACH(r, &registries, entry)
		if (strcmp(r->host, host) == 0)
			break;
	if (r)
		TAILQ_REMOVE(&registries, r, entry);
	else {
		forget_some();
		r = registry_new(host);
	}
	TAILQ_INSERT_TAIL(&registries, r, entry);
	return r;
}

void
source_hold(struct source *s)
{
	s->registry->refs++;
}

void
source_drop(struct source *s)
{
	if (s)
		s->registry->refs--;
}

struct registry *
registry_next(const struct registry *r)
{
	return r ? TAILQ_NEXT(r, entry) : TAILQ_FIRST(&registries);
}

const char *
source_name(const struct source *s)
{
	return source_is_mirror(s) ? s->mirror : s->registry->host;
}

/* ---- health ---- */

static uint64_t
jittered(uint64_t ms)
{
	uint16_t random = 0;

	RAND_bytes((unsigned char *)&random, sizeof(random));
	return ms / 2 + ms * random / UINT16_MAX / 2;	/* half to all of it */
}

/* first, doubled for each time but the first, at most `most`. */
static uint64_t
doubled(uint64_t first, unsigned times, uint64_t most)
{
	for (; times > 1 && first < most; times--)
		first *= 2;
	return first < most ? first : most;
}

uint64_t
source_backoff_ms(unsigned failures)
{
	return jittered(doubled(RETRY_FIRST_MS, failures, RETRY_MAX_MS));
}

void
source_failed(struct source *s, uint32_t retry_after_s, uint64_t now)
{
	uint64_t wait;

	if (source_up(s))
		s->down_since = now;
	/* Those that were under way at the first failure are one with it. */
	if (s->failures == 0 || now >= s->next_try)
		s->failures++;
	wait = source_backoff_ms(s->failures);
	if (retry_after_s > RETRY_AFTER_MAX_S)
		retry_after_s = RETRY_AFTER_MAX_S;
	if (wait < retry_after_s * 1000ULL) {
		wait = retry_after_s * 1000ULL;
		s->shunned = now + wait;
	}
	if (s->next_try < now + wait)
		s->next_try = now + wait;
}

void
source_wrong(struct source *s, uint64_t now)
{
	s->n_wrong++;
	if (source_up(s))
		s->down_since = now;
	s->failures++;
	if (s->wrong == 0 || now >= s->shunned)
		s->wrong++;
	s->banned = s->shunned = s->next_try = now +
	    jittered(doubled(WRONG_FIRST_MS, s->wrong, WRONG_MAX_MS));
}

void
source_lied(struct source *s, uint64_t now)
{
	s->n_wrong++;
	if (++s->lies > LIES_MAX)
		source_failed(s, 0, now);
}

void
source_right(struct source *s)
{
	if (s->lies > LIES_MAX)
		s->failures = 0;
	s->lies = 0;
}

void
source_answered(struct source *s, uint64_t rtt_us, uint64_t now)
{
	/* What it was asked before does not end that. */
	if (now >= s->shunned && s->lies <= LIES_MAX)
		s->failures = 0;
	if (rtt_us == 0)
		return;
	/* One straggler says little. */
	if (s->rtt_us && rtt_us > s->rtt_us * 2)
		rtt_us = s->rtt_us * 2;
	s->rtt_us = s->rtt_us ? (s->rtt_us * 3 + rtt_us) / 4 : rtt_us;
	s->asked = now;
}

void
registry_retry(struct registry *r, uint64_t now)
{
	for (unsigned i = 0; i < r->n_sources; i++)
		if (now >= r->sources[i].banned)
			r->sources[i].next_try = r->sources[i].shunned = 0;
}

bool
source_is_mirror(const struct source *s)
{
	return s->mirror[0] != '\0';
}

bool
source_up(const struct source *s)
{
	return s->failures == 0;
}

/* Does it answer so slowly that a later mirror is better?  The registry is
 * what mirrors are to spare. */
static bool
too_slow(const struct source *s, const struct source *later)
{
	return source_is_mirror(later) && later->rtt_us &&
	    s->rtt_us > SLOW_LEAST_US &&
	    s->rtt_us > later->rtt_us * SLOW_FACTOR;
}

/* When may it be asked that?  0: now, as far as its health allows; UINT64_MAX:
 * never. */
static uint64_t
may_serve_at(const struct source *s, const struct source_ask *ask)
{
	uint64_t until = ask->skip_until ?
	    ask->skip_until[s - s->registry->sources] : 0;

	if (s == ask->but || (!s->trusted && !ask->checked))
		return UINT64_MAX;
	if (until <= ask->now)
		until = 0;
	if (!source_up(s) && s->next_try > ask->now && s->next_try > until)
		until = s->next_try;
	return until;
}

struct source *
source_choose(struct registry *r, const struct source_ask *ask,
    uint64_t *again)
{
	struct source *best = NULL, *due = NULL;

	*again = UINT64_MAX;
	for (unsigned i = 0; i < r->n_sources; i++) {
		struct source *s = &r->sources[i];
		uint64_t at = may_serve_at(s, ask);

		if (at > 0)
			*again = at < *again ? at : *again;
		else if (source_up(s) && (!best || too_slow(best, s)))
			best = s;
		else if (!source_up(s) && s->trying == 0 && !due)
			due = s;
	}
	return best ? best : due;
}

static bool
passed_over(const struct source *s)
{
	const struct registry *r = s->registry;

	for (const struct source *t = s + 1; t < r->sources + r->n_sources;
	    t++)
		if (source_up(s) && source_up(t) && too_slow(s, t))
			return true;
	return false;
}

struct source *
source_probe(struct registry *r, uint64_t now)
{
	struct source *due = NULL;
	bool any_up = false;

	for (unsigned i = 0; i < r->n_sources; i++) {
		struct source *s = &r->sources[i];

		any_up |= source_up(s);
		if (!due && s->trying == 0 && !s->probing &&
		    (source_up(s) ? passed_over(s) && now - s->asked >
		    SLOW_PROBE_MS : now >= s->next_try))
			due = s;
	}
	return any_up ? due : NULL;
}

/* ---- the path to it ---- */

static uint64_t
greater(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t
least_of(uint64_t a, uint64_t b)
{
	return !a ? b : !b || a < b ? a : b;
}

uint64_t
source_rate(const struct source *s)
{
	return greater(s->rate, s->old_rate);
}

void
source_delivered(struct source *s, uint64_t since, uint64_t us, bool full,
    uint64_t now)
{
	uint64_t rate = us ? (s->delivered - since) * 1000000 / us : 0;

	/* Less than it could, because less was asked for, says nothing. */
	if (!full && rate <= source_rate(s))
		return;
	if (now - s->rate_epoch > EPOCH_RATE_MS) {
		s->old_rate = s->rate;
		s->rate = 0;
		s->rate_epoch = now;
	}
	if (rate > s->rate)
		s->rate = rate;
	/* One look at it a round trip. */
	if (!full || s->rounds > STARTUP_ROUNDS || since < s->round_end)
		return;
	s->round_end = s->delivered;
	if (source_rate(s) > s->startup_rate * 5 / 4) {
		s->startup_rate = source_rate(s);
		s->rounds = 0;
	} else
		s->rounds++;
}

uint64_t
source_window(const struct source *s)
{
	uint64_t rtt = least_of(s->least_us, s->old_least_us), window;

	if (!rtt || !source_rate(s))
		return WINDOW_FIRST;
	rtt += greater(rtt / 5, HOPS_US);
	window = source_rate(s) * rtt / 1000000;
	/* Until the rate is known, more of it finds out whether it is more. */
	if (s->rounds <= STARTUP_ROUNDS)
		window = greater(window * STARTUP_GAIN, WINDOW_FIRST);
	return window < WINDOW_MAX ? window : WINDOW_MAX;
}

uint64_t
source_room(const struct source *s, bool ahead, uint32_t first, uint64_t now)
{
	uint64_t window = source_window(s), range = window / LOWER_RANGES;

	if (ahead)
		window += window / 4;	/* worth a deeper queue */
	if (range < first)
		range = first;
	if (s->outstanding == 0)
		return range;
	return now - s->alone_at <= EPOCH_RTT_MS &&
	    s->outstanding + range <= window ? range : 0;
}

/* ---- hedges ---- */

static int
by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Beyond what nineteen of twenty take, and well beyond what half do. */
static uint64_t
hedge_delay(const struct source *s)
{
	size_t n = s->n_latency < LATENCIES ? s->n_latency : LATENCIES;
	uint32_t sorted[LATENCIES];
	uint64_t us;

	if (n < HEDGE_SAMPLES)
		return HEDGE_BLIND_US;
	memcpy(sorted, s->latency, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_value);
	us = greater(sorted[n * 19 / 20], sorted[n / 2] * 2ULL);
	return greater(us, HEDGE_LEAST_US);
}

void
source_latency(struct source *s, uint64_t us, bool demand, bool alone,
    uint64_t now)
{
	if (alone && now - s->least_epoch > EPOCH_RTT_MS) {
		s->old_least_us = s->least_us;
		s->least_us = 0;
		s->least_epoch = now;
	}
	if (alone)
		s->least_us = least_of(s->least_us, us);
	if (!demand)
		return;
	s->latency[s->n_latency++ % LATENCIES] = (uint32_t)(us < UINT32_MAX ?
	    us : UINT32_MAX);
	s->hedge_us = hedge_delay(s);
}

uint64_t
source_hedge_us(const struct source *s)
{
	return s->hedge_us ? s->hedge_us : HEDGE_BLIND_US;
}

void
registry_asked(struct registry *r, unsigned percent)
{
	r->n_demand++;
	r->hedges += percent / 100.0;
	if (r->hedges > HEDGES_SAVED)
		r->hedges = HEDGES_SAVED;
}

bool
registry_hedge(struct registry *r)
{
	if (r->hedges < 1)
		return false;
	r->hedges--;
	r->n_hedges++;
	return true;
}

/* ---- limits of rate ---- */

uint64_t
bucket_wait_ms(struct bucket *b, uint64_t rate, uint64_t now)
{
	double most = (double)greater(rate / 4, 64 * 1024);

	if (rate == 0)
		return 0;
	b->bytes += (double)(now - b->at) * (double)rate / 1000;
	if (b->at == 0 || b->bytes > most)
		b->bytes = most;
	b->at = now;
	return b->bytes > 0 ? 0 : (uint64_t)(-b->bytes * 1000 /
	    (double)rate) + 1;
}

void
bucket_take(struct bucket *b, uint64_t bytes)
{
	b->bytes -= (double)bytes;
}

void
bucket_give(struct bucket *b, uint64_t bytes)
{
	b->bytes += (double)bytes;
}
