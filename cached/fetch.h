/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What fetch.c (which range is asked for next) and transfer.c (what became of
 * it) share.
 */
#ifndef CACHED_FETCH_H
#define CACHED_FETCH_H

#include "cached/cached.h"

#define RUN_CHUNKS	1024	/* of one request */
#define HEDGE_AGAIN_MS	1000	/* a hedge failed, or the budget was empty */

/* One Range request, for chunks that lie behind each other in a blob. */
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
	bool alone;		/* see source_latency() */
	bool trying;		/* its source was down when it was made */
	bool hedge, cancelled;
};
TAILQ_HEAD(transfers, transfer);

/* ---- transfer.c ---- */

extern struct transfers transfers;

/* Where a chunk's stored bytes are. */
struct stored {
	struct digest blob;
	uint64_t blob_size, offset;
	uint32_t length;	/* bytes */
};
struct stored stored_at(const struct layout *l, uint32_t chunk);

/* An empty one that begins at that chunk; it is sent, and frees itself when
 * its FetchDone came, or the link is gone. */
struct transfer *transfer_new(struct layout *l, struct source *s,
    uint32_t first, enum fetch_class class);
void transfer_add(struct transfer *t);	/* the next chunk, whoever wants it */
void transfer_take(struct transfer *t, struct fill *f);	/* it brings that */
void transfer_send(struct transfer *t);
/* All of demand that is under way, hedges too. */
unsigned transfer_demand(void);
/* A question for one byte: is a source that was down back? */
void transfer_probe(const struct layout *l, struct source *s);
/* We do not take what came: nobody is slow but us. */
bool transfer_paused(void);
/* Back-pressure: what was received and not yet written is bounded. */
void transfer_pause_if_full(void);

/* ---- fetch.c ---- */

/* Run the pump at that time, in monotonic ms; UINT64_MAX: no effect. */
void fetch_look_again(uint64_t when);
/* Would nobody else serve this layout now? */
bool fetch_is_alone(const struct layout *l, const struct source *s);
/* It was served just now: others come first. */
void fetch_turn(struct layout *l);
/* So many bytes are asked for: limits of rate. */
void fetch_charge(enum fetch_class class, uint64_t bytes);
void fetch_refund(enum fetch_class class, uint64_t bytes); /* did not come */
/* Look after the sources of what is read. */
void fetch_probe(const struct layout *l);

#endif
