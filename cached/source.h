/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where bytes can be had (source.c): a registry's sources, their health, the
 * path to each, and what a second request may cost.  Pure: time is given, and
 * whoever asks keeps the books of what is under way.
 */
#ifndef CACHED_SOURCE_H
#define CACHED_SOURCE_H

#include <sys/queue.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/conf.h"
#include "image/ref.h"

#define SOURCES_MAX	(CONF_MIRRORS + 1)
#define LATENCIES	64	/* samples that a quantile is taken of */

struct registry;

struct source {
	struct registry *registry;
	char *mirror;		/* its URL; "": the registry itself */
	bool trusted;		/* with what no hash will check */

	/* health */
	unsigned failures;	/* in a row; 0: it is up */
	unsigned wrong;		/* times that it was shunned for wrong bytes */
	unsigned lies;		/* and in a row, of the registry itself */
	uint64_t n_wrong;	/* chunks that were wrong, since it was made */
	uint64_t down_since;	/* monotonic ms, while it is not up */
	uint64_t next_try;	/* monotonic ms, while it is not up */
	uint64_t shunned;	/* until then: it asked for that, or lied */
	uint64_t banned;	/* the latter alone */
	uint64_t probing;	/* id of a Stat that asks whether it is back */
	uint64_t asked;		/* monotonic ms: its last answer */
	unsigned in_flight;	/* transfers, of all classes */
	unsigned trying;	/* of these, sent while it was down */

	/* the path to it, see source_window() */
	uint64_t rtt_us;	/* smoothed */
	uint64_t least_us, old_least_us;	/* to a first chunk */
	uint64_t rate, old_rate;	/* bytes a second */
	uint64_t least_epoch, rate_epoch;	/* monotonic ms */
	uint64_t startup_rate;
	uint64_t round_end;	/* in bytes delivered */
	unsigned rounds;
	uint64_t delivered;	/* bytes, in all */
	uint64_t outstanding;	/* bytes of lower classes, asked for */
	uint64_t alone_at;	/* monotonic ms: one was asked for alone */

	uint32_t latency[LATENCIES];	/* us, of demand: to a first chunk */
	size_t n_latency;
	uint64_t hedge_us;	/* what they say, see source_hedge_us() */
};

struct registry {
	TAILQ_ENTRY(registry) entry;
	char host[REF_HOST_MAX + 1];
	struct source sources[SOURCES_MAX];	/* in order, itself last */
	unsigned n_sources;
	unsigned max_requests, in_flight;	/* of demand */
	double hedges;		/* that may be sent now */
	uint64_t n_demand, n_hedges;	/* requests, since it was made */
	unsigned refs;		/* source_hold() */
};

/* What is asked for. */
struct source_ask {
	bool checked;		/* a hash will tell whether it is right */
	const uint64_t *skip_until;	/* by source, monotonic ms; or NULL */
	const struct source *but;	/* another one than this; or NULL */
	uint64_t now;		/* monotonic ms */
};

/* The registry of a host, made at first sight; never NULL.  It lives while a
 * source of it is held, and else until many others were asked for. */
struct registry *registry_get(const char *host);
void source_hold(struct source *s);
void source_drop(struct source *s);	/* NULL: no effect */
struct registry *registry_next(const struct registry *r); /* NULL: first */
/* Something changed: ask at once whom may be asked, but not who lied. */
void registry_retry(struct registry *r, uint64_t now);
const char *source_name(const struct source *s);
/* Whom to ask: one that is up, else one whose turn it is to be tried, with one
 * request; else NULL, and *again (ms) is when to ask again. */
struct source *source_choose(struct registry *r, const struct source_ask *ask,
    uint64_t *again);
/* One that should be asked for a byte, since another one serves meanwhile. */
struct source *source_probe(struct registry *r, uint64_t now);
bool source_up(const struct source *s);
bool source_is_mirror(const struct source *s);
void source_answered(struct source *s, uint64_t rtt_us, uint64_t now);
void source_failed(struct source *s, uint32_t retry_after_s, uint64_t now);
void source_wrong(struct source *s, uint64_t now);
/* The same of a registry itself, which nobody can replace: it is down when it
 * has done so a few times in a row; a right chunk ends that. */
void source_lied(struct source *s, uint64_t now);
void source_right(struct source *s);
uint64_t source_backoff_ms(unsigned failures);	/* > 0; jittered */
/* A transfer is over: `delivered` was `since` when it was sent, so long ago;
 * full: the window was. */
void source_delivered(struct source *s, uint64_t since, uint64_t us,
    bool full, uint64_t now);
/* Bytes that all classes below demand may have asked for and not received: the
 * rate x the least round trip and a fifth more, or what our own processes may
 * take where that is more. */
uint64_t source_window(const struct source *s);
uint64_t source_rate(const struct source *s);	/* bytes a second; 0: unknown */
/* So many bytes may classes below demand ask for now, of those that a reader
 * waits for next (ahead) or nobody does; 0: none.  The first chunk has that
 * length.  Now and then it lets all come that is under way: how long the path
 * takes can't be seen behind what we have queued ourselves. */
uint64_t source_room(const struct source *s, bool ahead, uint32_t first,
    uint64_t now);
/* A first chunk took so long; alone: nothing of ours could stand before it, so
 * that this is the path.  One of demand that takes longer than the second
 * number is worth a second request. */
void source_latency(struct source *s, uint64_t us, bool demand, bool alone,
    uint64_t now);
uint64_t source_hedge_us(const struct source *s);
/* A demand request is sent, of which so many in a hundred may be sent twice;
 * may one be now? */
void registry_asked(struct registry *r, unsigned percent);
bool registry_hedge(struct registry *r);

/* A limit of bytes a second, with a quarter of a second saved. */
struct bucket {
	double bytes;
	uint64_t at;		/* monotonic ms */
};
uint64_t bucket_wait_ms(struct bucket *b, uint64_t rate, uint64_t now);
void bucket_take(struct bucket *b, uint64_t bytes);
void bucket_give(struct bucket *b, uint64_t bytes);	/* they did not come */

#endif
