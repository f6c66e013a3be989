// SPDX-License-Identifier: Apache-2.0
/*
 * Data first, then its records.  Units that were written gather in a batch;
 * soon the sync thread syncs the data file, and only then writes the batch's
 * presence records.  A crash in between costs a refetch, never a wrong byte:
 *
 *	kept --> unsynced --fdatasync(data)--> write records --> DURABLE
 *	             |
 *	             +--sync fails--> every unsynced unit withdrawn, refetched
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define SYNC_DELAY_MS	200	/* gathers a boot's burst into few syncs */
#define SYNC_UNITS	256	/* or so many units, 16 MiB */

#define RUN_MAX		64	/* records of one write, 4 KiB */

struct sync_job {
	struct job job;
	struct layout *layout;
};

static void sync_start(struct layout *l);

static void
sync_due(evutil_socket_t fd, short what, void *arg)
{
	struct layout *l = arg;

	(void)fd;
	(void)what;
	l->sync_timer_set = false;
	sync_start(l);
}

/* One record beside the next: one write for a run of units. */
static int
write_records(const struct layout *l, const struct sync_batch *b)
{
	uint8_t bytes[RUN_MAX * PRESENCE_RECORD];
	int r = 0;

	for (size_t i = 0; i < b->n && r == 0;) {
		uint64_t first = b->units[i].unit;
		size_t run = 0;

		while (i < b->n && run < RUN_MAX &&
		    b->units[i].unit == first + run) {
			presence_put(l->file_id, first + run, &b->units[i].sum,
			    bytes + run * PRESENCE_RECORD);
			run++;
			i++;
		}
		r = fd_pwrite_all(l->presence, bytes, run * PRESENCE_RECORD,
		    PRESENCE_HEADER + first * PRESENCE_RECORD);
	}
	return r;
}

int
sync_run(const struct layout *l, const struct sync_batch *batch)
{
	int r;

	if (fdatasync(l->data) < 0)
		return -errno;
	r = write_records(l, batch);
	if (r == 0 && fdatasync(l->presence) < 0)
		r = -errno;
	return r;
}

static void
batch_durable(struct layout *l, const struct sync_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		uint64_t unit = b->units[i].unit;

		if (layout_state(l, unit) != UNIT_ABSENT)
			layout_set(l, unit, l->units[unit] | UNIT_DURABLE);
	}
}

/* These bytes may never reach the disk: nobody may count on them. */
static void
batch_withdraw(struct layout *l, const struct sync_batch *b)
{
	for (size_t i = 0; b && i < b->n; i++) {
		layout_set(l, b->units[i].unit, UNIT_ABSENT);
		device_withdraw(l, b->units[i].unit);
	}
}

static void
sync_done(struct job *job)
{
	struct sync_job *sync = job->owner;
	struct layout *l = sync->layout;
	int r = job->result;

	l->syncing = false;
	l->in_sync = NULL;
	if (r == 0)
		batch_durable(l, job->batch);
	else {
		notice("state", &l->blob, "the store can't be synced (%s): "
		    "what was not yet safe is fetched again", strerror(-r));
		batch_withdraw(l, job->batch);
		batch_withdraw(l, l->unsynced);
		if (l->unsynced) {
			free(take_ptr(l->unsynced));
			layout_put(l);
		}
		l->pull_next = 0;
		fetch_pump();
	}
	free(job->batch);
	free(sync);
	if (l->unsynced && l->unsynced->n > 0)
		sync_start(l);
	finish_check(l);
	layout_put(l);
}

static void
sync_start(struct layout *l)
{
	struct sync_job *sync;

	if (l->syncing || !l->unsynced || l->unsynced->n == 0)
		return;
	sync = calloc(1, sizeof(*sync));
	if (!sync)
		return;		/* the next unit tries again */
	sync->layout = l;
	sync->job = (struct job){ .kind = JOB_SYNC, .done = sync_done,
		.owner = sync, .layout = l, .batch = take_ptr(l->unsynced) };
	l->syncing = true;
	l->in_sync = sync->job.batch;
	work_submit(&sync->job);
}

/* Room for one more; the batch may move.  0 or -ENOMEM. */
static int
batch_grow(struct layout *l)
{
	struct sync_batch *b = l->unsynced;
	size_t size = b ? b->size * 2 : SYNC_UNITS;

	if (b && b->n < b->size)
		return 0;
	b = realloc(b, sizeof(*b) + size * sizeof(b->units[0]));
	if (!b)
		return -ENOMEM;	/* a retry may come with the old one */
	if (!l->unsynced) {
		b->n = 0;
		l->refs++;	/* until it is on disk */
	}
	b->size = size;
	l->unsynced = b;
	return 0;
}

void
sync_note(struct layout *l, uint64_t unit, const struct digest *sum)
{
	struct timeval soon = { 0, SYNC_DELAY_MS * 1000 };

	if (batch_grow(l) < 0)
		return;		/* never recorded: fetched again some day */
	l->unsynced->units[l->unsynced->n++] =
	    (struct sync_unit){ unit, *sum };
	if (l->unsynced->n >= SYNC_UNITS) {
		sync_start(l);
		return;
	}
	if (!l->sync_timer)
		l->sync_timer = evtimer_new(loop, sync_due, l);
	if (l->sync_timer && !l->sync_timer_set &&
	    evtimer_add(l->sync_timer, &soon) == 0)
		l->sync_timer_set = true;
}

static bool
batch_find(const struct sync_batch *b, uint64_t unit, struct digest *sum)
{
	for (size_t i = b ? b->n : 0; i-- > 0;)
		if (b->units[i].unit == unit) {
			*sum = b->units[i].sum;
			return true;
		}
	return false;
}

bool
sync_find(const struct layout *l, uint64_t unit, struct digest *sum)
{
	return batch_find(l->unsynced, unit, sum) ||
	    batch_find(l->in_sync, unit, sum);
}

void
sync_flush_all(void)
{
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry) {
		int r = l->unsynced ? sync_run(l, l->unsynced) : 0;

		if (r < 0)
			log_err("sync at the end: %s", strerror(-r));
		else if (l->unsynced)
			batch_durable(l, l->unsynced);
	}
}
