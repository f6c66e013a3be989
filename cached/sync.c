// SPDX-License-Identifier: Apache-2.0
/*
 * Data first, then its records.  Chunks that were written gather in a batch of
 * their file; soon the sync thread syncs the data, and only then writes the
 * batch's presence records, and syncs them.  A crash in between costs a
 * refetch, never a wrong byte:
 *
 *	kept --> unsynced --fdatasync(data)--> write records --> DURABLE
 *	             |
 *	             +--sync fails--> every unsynced chunk withdrawn, refetched
 *
 * A chunk that was dropped has its record erased by the same batch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define SYNC_DELAY_MS	200	/* gathers a boot's burst into few syncs */
#define SYNC_CHUNKS	256	/* or so many chunks, 16 MiB */

#define RECORDS_A_WRITE	64	/* 4 KiB */

struct sync_job {
	struct job job;
	struct file *file;	/* only its constant members */
	struct sync_batch *batch;
};

static void sync_start(struct file *f);

static void
sync_due(evutil_socket_t fd, short what, void *arg)
{
	struct file *f = arg;

	(void)fd;
	(void)what;
	f->sync_timer_set = false;
	sync_start(f);
}

/* ---- the thread's part ---- */

static void
put_record(const struct file *f, const struct sync_entry *e,
    uint8_t out[PRESENCE_RECORD])
{
	if (e->erase)
		memset(out, 0, PRESENCE_RECORD);
	else
		presence_put(&f->h, e->chunk, &e->record, out);
}

/* One record beside the next: one write for a run of chunks. */
static int
write_records(const struct file *f, const struct sync_batch *b)
{
	uint8_t bytes[RECORDS_A_WRITE * PRESENCE_RECORD];
	int r = 0;

	for (size_t i = 0; i < b->n && r == 0;) {
		uint32_t first = b->entries[i].chunk;
		size_t run = 0;

		while (i < b->n && run < RECORDS_A_WRITE &&
		    b->entries[i].chunk == first + run)
			put_record(f, &b->entries[i++],
			    bytes + run++ * PRESENCE_RECORD);
		r = disk_write(f->presence, bytes, run * PRESENCE_RECORD,
		    PRESENCE_HEADER + (uint64_t)first * PRESENCE_RECORD);
	}
	return r;
}

static int
sync_batch(const struct file *f, const struct sync_batch *batch)
{
	int r = disk_sync(f->data);

	if (r == 0)
		r = write_records(f, batch);
	return r < 0 ? r : disk_sync(f->presence);
}

static int
sync_run(struct job *job)
{
	struct sync_job *sync = (struct sync_job *)job;

	return sync_batch(sync->file, sync->batch);
}

/* ---- its result ---- */

static const struct sync_entry *
batch_find(const struct sync_batch *b, uint32_t chunk)
{
	for (size_t i = b ? b->n : 0; i-- > 0;)
		if (b->entries[i].chunk == chunk)
			return &b->entries[i];
	return NULL;
}

const struct sync_entry *
sync_find(const struct file *f, uint32_t chunk)
{
	const struct sync_entry *e = batch_find(f->unsynced, chunk);

	return e ? e : batch_find(f->in_sync, chunk);
}

static void
batch_durable(struct file *f, const struct sync_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		uint32_t chunk = b->entries[i].chunk;

		if (!b->entries[i].erase && !batch_find(f->unsynced, chunk) &&
		    file_state(f, chunk) != CHUNK_ABSENT)
			file_set(f, chunk, f->state[chunk] | CHUNK_DURABLE);
	}
}

/* These bytes may never reach the disk: nobody may count on them. */
static void
batch_withdraw(struct file *f, const struct sync_batch *b)
{
	_cleanup_free_ uint8_t *lost = calloc(1, f->h.n_chunks);

	if (!lost)
		log_die("no memory to withdraw chunks");
	for (size_t i = 0; i < b->n; i++)
		if (!b->entries[i].erase)
			lost[b->entries[i].chunk] = 1;
	file_drop_marked(f, lost);
}

static void
sync_failed(struct file *f, const struct sync_batch *batch, int r)
{
	struct sync_batch *unsynced = take_ptr(f->unsynced);

	if (f->layout)
		notice("state", f->layout, "the store can't be synced (%s): "
		    "what was not yet safe is fetched again", strerror(-r));
	else
		log_err("sync %.12s: %s", digest_to_hex(&f->h.key).text,
		    strerror(-r));
	f->in_sync = batch;	/* so that file_drop() finds its digests */
	batch_withdraw(f, batch);
	f->in_sync = unsynced;
	if (unsynced)
		batch_withdraw(f, unsynced);
	f->in_sync = NULL;
	free(unsynced);
	if (unsynced)
		file_put(f);
	if (f->layout)
		f->layout->pull_next = 0;
}

static void
sync_done(struct job *job)
{
	struct sync_job *sync = (struct sync_job *)job;
	struct file *f = sync->file;
	struct layout *l, *next;

	f->syncing = false;
	f->in_sync = NULL;
	if (job->result == 0)
		batch_durable(f, sync->batch);
	else if (!f->dead)
		sync_failed(f, sync->batch, job->result);
	free(sync->batch);
	free(sync);
	sync_start(f);
	file_account(f);
	/* Its own, and those that lean on it. */
	for (l = TAILQ_FIRST(&layouts); l; l = next) {
		l->refs++;
		finish_check(l);
		next = TAILQ_NEXT(l, entry);
		layout_settled(l);
		layout_put(l);
	}
	fetch_pump();
	file_heal();
	file_put(f);
}

static void
sync_start(struct file *f)
{
	struct sync_job *sync;

	if (f->syncing || !f->unsynced || f->unsynced->n == 0)
		return;
	sync = calloc(1, sizeof(*sync));
	if (!sync)
		log_die("no memory for a sync");
	sync->file = f;
	sync->batch = take_ptr(f->unsynced);
	sync->job = (struct job){ .lane = WORK_SYNC, .run = sync_run,
		.done = sync_done };
	f->syncing = true;
	f->in_sync = sync->batch;
	work_submit(&sync->job);
}

/* Room for one more; the batch may move. */
static void
batch_grow(struct file *f)
{
	struct sync_batch *b = f->unsynced;
	size_t size = b ? b->size * 2 : SYNC_CHUNKS;

	if (b && b->n < b->size)
		return;
	b = realloc(b, sizeof(*b) + size * sizeof(b->entries[0]));
	if (!b)
		log_die("no memory for a sync");
	if (!f->unsynced) {
		b->n = 0;
		f->refs++;	/* until it is on disk */
	}
	b->size = size;
	f->unsynced = b;
}

void
sync_note(struct file *f, uint32_t chunk, const struct presence_record *record)
{
	struct timeval soon = { 0, SYNC_DELAY_MS * 1000 };
	struct sync_entry *e;

	if (f->dead)
		return;
	batch_grow(f);
	e = &f->unsynced->entries[f->unsynced->n++];
	*e = (struct sync_entry){ .chunk = chunk, .erase = !record };
	if (record)
		e->record = *record;
	if (f->unsynced->n >= SYNC_CHUNKS) {
		sync_start(f);
		return;
	}
	if (!f->sync_timer)
		f->sync_timer = evtimer_new(loop, sync_due, f);
	if (f->sync_timer && !f->sync_timer_set &&
	    evtimer_add(f->sync_timer, &soon) == 0)
		f->sync_timer_set = true;
}

void
sync_flush_all(void)
{
	struct file *f;

	TAILQ_FOREACH(f, &files, entry) {
		int r = f->unsynced ? sync_batch(f, f->unsynced) : 0;

		if (r < 0)
			log_err("sync at the end: %s", strerror(-r));
		else if (f->unsynced)
			batch_durable(f, f->unsynced);
	}
}
