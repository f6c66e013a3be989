// SPDX-License-Identifier: Apache-2.0
/*
 * Room: the quota, the free space that stays free, and eviction.
 *
 *	room_take --fits--> written --> room_done
 *	    |
 *	    +--does not--> EVICT: the runs that were of use longest ago, of
 *	                   files that nothing holds, without what maps or
 *	                   layouts refer to: forget in memory, revoke marks,
 *	                   erase records, sync, then punch
 *	                     |
 *	                     +--> fill_room(): who waited asks again
 *
 * What can't be kept is served through the scratch of its device.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define EVICT_MORE	(4 * 1024 * 1024)	/* beyond what is needed now */
#define LOOK_MS		20	/* so long what is free is taken to be so */
#define BARREN_MS	1000	/* nothing was found to evict: look again then */

static uint64_t reserved;	/* bytes on their way to the disk */
static unsigned evictions;	/* jobs under way */
static uint64_t barren;		/* monotonic ms */

/* ---- how much is too much ---- */

static uint64_t
min_free(uint64_t total)
{
	return conf->min_free_percent ?
	    total / 100 * conf->min_free_percent : conf->min_free;
}

/* What is free on its file system, looked up now and then. */
static struct {
	uint64_t at;		/* monotonic ms; 0: never */
	uint64_t bytes, total;
	uint64_t taken;		/* perhaps not yet written then, or since */
} space;

static bool
space_look(void)
{
	if (space.at && now_ms() - space.at < LOOK_MS)
		return true;
	if (disk_room(store_dir(), &space.bytes, &space.total) < 0)
		return false;
	space.at = now_ms();
	space.taken = reserved;
	return true;
}

/* Bytes that are missing for len more; *why: -EDQUOT or -ENOSPC. */
static uint64_t
missing_for(uint64_t len, int *why)
{
	uint64_t used = file_total() + reserved + len, need;

	*why = -EDQUOT;
	if (conf->quota && used > conf->quota)
		return used - conf->quota;
	*why = -ENOSPC;
	if (!space_look())
		return 0;
	need = min_free(space.total) + space.taken + len;
	return space.bytes < need ? need - space.bytes : 0;
}

int
room_take(uint64_t len)
{
	struct evict_ask ask = { 0 };
	uint64_t missing;
	int why;

	missing = missing_for(len, &why);
	if (missing == 0) {
		reserved += len;
		space.taken += len;
		return 0;
	}
	if (evictions > 0)
		return -EAGAIN;
	if (now_ms() < barren)
		return why;
	ask.bytes = missing + EVICT_MORE;
	if (room_evict(&ask) > 0)
		return -EAGAIN;
	if (quarantine_drop())
		return room_take(len);
	barren = now_ms() + BARREN_MS;
	return why;
}

void
room_changed(void)
{
	barren = 0;
}

void
room_done(uint64_t len)
{
	reserved -= len;
}

/* ---- what may go ---- */

/* A file that runs are taken from. */
struct pick {
	struct file *file;
	uint8_t *blocks;	/* one bit a block: referred to */
	uint32_t *heads, *next;	/* chunks by run; number + 1 */
	uint32_t *chunks;	/* that go */
	size_t n;
	uint64_t bytes;
	bool all;
};

struct run {
	struct file *file;
	uint32_t run;
	uint64_t used;
};

static void
mark_places(const struct layout *l, const struct file *f, uint8_t *blocks)
{
	for (uint32_t c = 0; l->places && c < l->n_chunks; c++)
		if (l->places[c].file == f)
			file_mark(f, l->places[c].chunk, blocks);
}

struct layout *
room_layout(const struct file *f)
{
	const struct image *image = image_of_layout(&f->h.key, NULL);
	struct layout_spec spec = { .key = f->h.key };
	struct layout *l;

	if (!image)
		return NULL;
	spec.blob = image->blob;
	spec.size = image->size;
	spec.host = image->host;
	spec.repo = image->repo;
	return layout_get(&spec, &l) == 0 ? l : NULL;
}

/* Everything of a file that something refers to.  false: that can't be told,
 * so that all of it is in use. */
static bool
mark_all(const struct file *f, uint8_t *blocks)
{
	struct layout *l;
	struct file *g, *next;

	map_mark(f, blocks);
	TAILQ_FOREACH(l, &layouts, entry)
		mark_places(l, f, blocks);
	/* What is kept and closed, and complete by this file's help. */
	for (g = TAILQ_FIRST(&files); g; g = next) {
		next = TAILQ_NEXT(g, entry);
		if (g->layout || !g->complete || !file_leans_on(g, f) ||
		    !hold_reason(g))
			continue;
		l = room_layout(g);
		if (!l)
			return false;
		mark_places(l, f, blocks);
		layout_put(l);
	}
	return true;
}

static bool
referred(const struct pick *p, uint32_t chunk)
{
	struct spot s = p->file->spots[chunk];

	for (uint32_t b = s.block; b < s.block +
	    (s.length + MAP_BLOCK - 1) / MAP_BLOCK; b++)
		if (p->blocks[b / 8] & 1 << b % 8)
			return true;
	return false;
}

static bool
evictable(const struct pick *p, uint32_t chunk)
{
	return (p->file->state[chunk] & CHUNK_DURABLE) &&
	    file_state(p->file, chunk) != CHUNK_ABSENT && !referred(p, chunk);
}

static void
pick_free(struct pick *p)
{
	if (!p)
		return;
	file_put(p->file);
	free(p->blocks);
	free(p->heads);
	free(p->next);
	free(p->chunks);
	free(p);
}

/* A file opened for eviction, and its chunks by run.  NULL: none may go. */
static struct pick *
pick_new(struct file *f)
{
	struct pick *p = calloc(1, sizeof(*p));

	if (!p || file_hold(f) < 0) {
		free(p);
		return NULL;
	}
	p->file = f;
	p->blocks = calloc(1, f->h.size / MAP_BLOCK / 8 + 4);
	p->heads = calloc(file_runs(f), sizeof(*p->heads));
	p->next = calloc(f->h.n_chunks + 1, sizeof(*p->next));
	p->chunks = calloc(f->h.n_chunks + 1, sizeof(*p->chunks));
	if (!p->blocks || !p->heads || !p->next || !p->chunks ||
	    !mark_all(f, p->blocks)) {
		pick_free(p);
		return NULL;
	}
	for (uint32_t c = 0; c < f->h.n_chunks; c++) {
		uint64_t run = (uint64_t)f->spots[c].block * MAP_BLOCK /
		    RUN_SIZE;

		if (!evictable(p, c))
			continue;
		p->next[c] = p->heads[run];
		p->heads[run] = c + 1;
	}
	return p;
}

static void
pick_run(struct pick *p, uint32_t run)
{
	for (uint32_t c = p->heads[run]; c != 0; c = p->next[c - 1]) {
		p->chunks[p->n++] = c - 1;
		p->bytes += p->file->spots[c - 1].length;
	}
	p->heads[run] = 0;
}

/* Does anything refer to any of it, be it recorded or not? */
static bool
any_block(const struct pick *p)
{
	for (uint64_t i = 0; i < p->file->h.size / MAP_BLOCK / 8 + 4; i++)
		if (p->blocks[i])
			return true;
	return false;
}

/* A file with copies of its own chunks, for being the device byte by byte,
 * goes as a whole or not at all. */
static bool
pick_settle(struct pick *p)
{
	p->all = p->n == p->file->n_present && !any_block(p);
	if (!p->file->expanded || p->all || p->n == 0)
		return p->n > 0;
	for (uint32_t run = 0; run < file_runs(p->file); run++)
		pick_run(p, run);
	p->all = p->n == p->file->n_present && !any_block(p);
	return p->all;
}

/* ---- making it go ---- */

struct evict_job {
	struct job job;
	struct pick *pick;
	struct spot *spots;	/* of pick->chunks */
	struct presence_header header;	/* of the next generation */
	void (*done)(void *arg);
	void *arg;
};

/* All records are void at once: those of another generation are. */
static int
void_all(const struct file *f, const struct presence_header *next)
{
	uint8_t bytes[PRESENCE_HEADER];
	int r;

	presence_put_header(next, bytes);
	r = disk_write(f->presence, bytes, sizeof(bytes), 0);
	if (r == 0)
		r = disk_set_size(f->presence, PRESENCE_HEADER);
	if (r == 0)
		r = disk_sync(f->presence);
	if (r == 0)
		return disk_punch(f->data, 0, f->h.size);
	/* It goes on as it was: what is noted next is of this generation. */
	presence_put_header(&f->h, bytes);
	if (disk_write(f->presence, bytes, sizeof(bytes), 0) == 0)
		disk_sync(f->presence);
	return r;
}

/* Records first: one that speaks of a hole would be found out at its first
 * touch, but counts as damage. */
static int
evict_run(struct job *job)
{
	const struct evict_job *e = (struct evict_job *)job;
	static const uint8_t none[PRESENCE_RECORD];
	const struct file *f = e->pick->file;
	int r = 0;

	if (e->pick->all)
		return void_all(f, &e->header);
	for (size_t i = 0; i < e->pick->n && r == 0; i++)
		r = disk_write(f->presence, none, sizeof(none),
		    PRESENCE_HEADER + (uint64_t)e->pick->chunks[i] *
		    PRESENCE_RECORD);
	if (r == 0)
		r = disk_sync(f->presence);
	for (size_t i = 0; i < e->pick->n && r == 0; i++)
		r = disk_punch(f->data, (uint64_t)e->spots[i].block *
		    MAP_BLOCK, e->spots[i].length);
	return r;
}

static void
evict_done(struct job *job)
{
	struct evict_job *e = (struct evict_job *)job;
	struct file *f = e->pick->file;

	if (job->result < 0)
		log_err("evict from %.12s: %s", digest_to_hex(&f->h.key).text,
		    strerror(-job->result));
	else if (e->pick->all)
		f->h = e->header;
	evictions--;
	space.at = 0;
	f->evicting = false;
	file_account(f);
	if (job->result == 0 && f->n_present == 0 && f->refs == 1 &&
	    !hold_reason(f))
		file_remove(f);
	pick_free(e->pick);
	if (e->done)
		e->done(e->arg);
	free(e->spots);
	free(e);
	if (evictions == 0) {
		fill_room();
		finish_room();
	}
}

static bool
pick_evict(struct pick *p, const struct evict_ask *ask)
{
	struct evict_job *e = calloc(1, sizeof(*e));
	struct file *f = p->file, *g;
	int r = 0;

	if (e)
		e->spots = calloc(p->n, sizeof(*e->spots));
	if (!e || !e->spots) {
		free(e);
		return false;
	}
	TAILQ_FOREACH(g, &files, entry)
		if (g->complete && file_leans_on(g, f) && !hold_reason(g) &&
		    file_revoke(g) < 0)
			r = -EIO;
	if (r < 0 || file_revoke(f) < 0) {
		free(e->spots);
		free(e);
		return false;
	}
	for (size_t i = 0; i < p->n; i++) {
		e->spots[i] = f->spots[p->chunks[i]];
		file_forget(f, p->chunks[i]);
	}
	log_info("evicting %llu bytes of %.12s", (unsigned long long)p->bytes,
	    digest_to_hex(&f->h.key).text);
	e->job = (struct job){ .lane = WORK_SYNC, .run = evict_run,
		.done = evict_done };
	e->pick = p;
	e->header = f->h;
	e->header.generation++;
	e->done = ask->done;
	e->arg = ask->arg;
	f->evicting = true;
	evictions++;
	work_submit(&e->job);
	return true;
}

/* ---- choosing ---- */

static int
by_use(const void *a, const void *b)
{
	const struct run *x = a, *y = b;

	if (x->used != y->used)
		return x->used < y->used ? -1 : 1;
	return x->run < y->run ? -1 : x->run > y->run;
}

static bool
may_go(const struct file *f, const struct evict_ask *ask)
{
	return (!ask->only || f == ask->only) && !f->evicting &&
	    f->n_present > 0 && !hold_reason(f);
}

/* Every run that may go, the one of use longest ago first. */
static struct run *
runs_new(const struct evict_ask *ask, size_t *n)
{
	struct run *runs = NULL;
	struct file *f;
	size_t size = 0;

	*n = 0;
	TAILQ_FOREACH(f, &files, entry)
		size += may_go(f, ask) ? file_runs(f) : 0;
	runs = calloc(size + 1, sizeof(*runs));
	if (!runs)
		return NULL;
	TAILQ_FOREACH(f, &files, entry)
		for (uint32_t i = may_go(f, ask) ? 0 : file_runs(f);
		    i < file_runs(f); i++)
			if (!ask->before || f->used[i] < ask->before)
				runs[(*n)++] = (struct run){ f, i,
					f->used[i] };
	qsort(runs, *n, sizeof(*runs), by_use);
	return runs;
}

static struct pick *
pick_of(struct pick **picks, size_t *n, struct file *f)
{
	for (size_t i = 0; i < *n; i++)
		if (picks[i] && picks[i]->file == f)
			return picks[i];
	picks[*n] = pick_new(f);
	return picks[*n] ? picks[(*n)++] : NULL;
}

/* Take runs until that is enough.  The number of picks. */
static size_t
choose(const struct evict_ask *ask, struct pick ***out)
{
	size_t n_runs, n = 0, n_files = 1;
	_cleanup_free_ struct run *runs = runs_new(ask, &n_runs);
	struct file *f, *refused = NULL;
	struct pick **picks;
	uint64_t bytes = 0;

	TAILQ_FOREACH(f, &files, entry)
		n_files++;
	picks = calloc(n_files, sizeof(struct pick *));
	for (size_t i = 0; runs && picks && i < n_runs && bytes < ask->bytes;
	    i++) {
		struct pick *p = runs[i].file == refused ? NULL :
		    pick_of(picks, &n, runs[i].file);

		if (!p) {
			refused = runs[i].file;
			continue;
		}
		bytes -= p->bytes;
		pick_run(p, runs[i].run);
		bytes += p->bytes;
	}
	*out = picks;
	return picks ? n : 0;
}

unsigned
room_evict(struct evict_ask *ask)
{
	struct pick **picks;
	size_t n = choose(ask, &picks);
	unsigned begun = 0;

	for (size_t i = 0; i < n; i++) {
		struct pick *p = picks[i];
		bool go = pick_settle(p);

		if (go && ask->each)
			ask->each(ask->arg, p->file, p->bytes);
		if (go && !ask->dry_run && pick_evict(p, ask))
			begun++;
		else
			pick_free(p);
	}
	free(picks);
	return begun;
}
