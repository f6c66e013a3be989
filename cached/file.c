// SPDX-License-Identifier: Apache-2.0
/*
 * Data files: one a layout, sparse, with a presence file that says which chunks
 * are in it.  What is known of a chunk:
 *
 *	ABSENT ----------fill----------> VERIFIED --sync--> +DURABLE
 *	   ^                                ^
 *	   |                              hash fits
 *	   +--hash does not fit-- RECORDED -+   (at start, from presence.ID)
 *
 * Only VERIFIED chunks are ever published to a map.  A file may be open for its
 * own layout, for other layouts that find chunks in it, for maps that point
 * into it, or for work on it; closed, it is a line in this list and entries in
 * the catalogue.  The data file's name carries the identity that its presence
 * records were made for: a record can't be believed about another file.  What
 * stands on disk is file_disk.c's.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/disk.h"
#include "cached/file.h"


struct files files = TAILQ_HEAD_INITIALIZER(files);
static struct file *numbers[UINT16_MAX + 1];

struct file *
file_by_key(const struct digest *key)
{
	struct file *f;

	TAILQ_FOREACH(f, &files, entry)
		if (digest_equal(&f->h.key, key))
			return f;
	return NULL;
}

struct file *
file_by_id(uint64_t id)
{
	struct file *f;

	TAILQ_FOREACH(f, &files, entry)
		if (f->h.file_id == id)
			return f;
	return NULL;
}

struct file *
file_by_number(uint16_t number)
{
	return numbers[number];
}

/* UINT16_MAX: none is free. */
static uint16_t
number_free(void)
{
	uint16_t n = 1;

	while (n < UINT16_MAX && numbers[n])
		n++;
	return n;
}

static void
list_add(struct file *f)
{
	numbers[f->number] = f;
	TAILQ_INSERT_TAIL(&files, f, entry);
}

uint32_t
file_runs(const struct file *f)
{
	return (uint32_t)((f->h.size + RUN_SIZE - 1) / RUN_SIZE);
}

void
file_touch(struct file *f, uint64_t offset, uint64_t len)
{
	uint64_t now = wall_ms();

	for (uint64_t run = offset / RUN_SIZE;
	    run <= (offset + len - 1) / RUN_SIZE; run++)
		f->used[run] = now;
	f->used_news = true;
}

/* ---- chunks ---- */

enum chunk_state
file_state(const struct file *f, uint32_t chunk)
{
	return f->state[chunk] & CHUNK_STATE;
}

void
file_set(struct file *f, uint32_t chunk, enum chunk_state state)
{
	bool was = file_state(f, chunk) != CHUNK_ABSENT;
	bool is = (state & CHUNK_STATE) != CHUNK_ABSENT;
	uint64_t bytes = f->spots[chunk].length;

	f->n_present += (uint64_t)is - was;
	f->bytes_present += (is ? bytes : 0) - (was ? bytes : 0);
	f->n_durable += (state & CHUNK_DURABLE) != 0;
	f->n_durable -= (f->state[chunk] & CHUNK_DURABLE) != 0;
	f->state[chunk] = (uint8_t)state;
}

bool
file_record_read(const struct file *f, const struct presence_header *h,
    uint32_t chunk, struct presence_record *r)
{
	uint8_t record[PRESENCE_RECORD];

	return fd_pread_all(f->presence, record, sizeof(record),
	    PRESENCE_HEADER + (uint64_t)chunk * PRESENCE_RECORD) ==
	    sizeof(record) && presence_get(record, h, chunk, r);
}

bool
file_record(const struct file *f, uint32_t chunk, struct presence_record *r)
{
	const struct sync_entry *noted = sync_find(f, chunk);

	if (!noted)
		return file_record_read(f, &f->h, chunk, r);
	*r = noted->record;
	return !noted->erase;
}

void
file_kept(struct file *f, uint32_t chunk, const struct presence_record *r,
    unsigned flags)
{
	if (f->dead)
		return;
	if (file_state(f, chunk) != CHUNK_ABSENT)
		file_forget(f, chunk);
	f->spots[chunk] = (struct spot){ (uint32_t)(r->offset / MAP_BLOCK),
		r->length };
	file_set(f, chunk, CHUNK_VERIFIED | flags);
	file_touch(f, r->offset, r->length);
	catalog_add(&r->sum, f, chunk);
	sync_note(f, chunk, r);
	f->on_disk += (r->length + MAP_BLOCK - 1) / MAP_BLOCK * MAP_BLOCK;
}

void
file_forget(struct file *f, uint32_t chunk)
{
	struct presence_record r;

	if (file_record(f, chunk, &r))
		catalog_remove(&r.sum, f, chunk);
	file_set(f, chunk, CHUNK_ABSENT);
}

/* Whoever was complete by its help is not any more. */
static void
revoke_leaners(const struct file *f)
{
	struct file *g;

	TAILQ_FOREACH(g, &files, entry)
		if (g->complete && file_leans_on(g, f)) {
			file_revoke(g);
			g->heal = true;
		}
}

void
file_heal(void)
{
	struct file *g, *next;
	struct layout *l;

	for (g = TAILQ_FIRST(&files); g; g = next) {
		next = TAILQ_NEXT(g, entry);
		if (!g->heal || g->evicting)
			continue;
		if (g->layout) {	/* it looks by itself */
			g->heal = false;
			continue;
		}
		l = room_layout(g);
		g->heal = l && layout_present(l) < l->n_chunks;
		layout_put(l);
	}
}

void
file_drop_marked(struct file *f, const uint8_t *bad)
{
	_cleanup_free_ uint8_t *blocks = calloc(1, f->h.size / MAP_BLOCK / 8 +
	    4);
	struct layout *l;
	bool any = false;

	if (!blocks)
		log_die("no memory to withdraw chunks");
	for (uint32_t c = 0; c < f->h.n_chunks; c++) {
		if (!bad[c] || file_state(f, c) == CHUNK_ABSENT)
			continue;
		any = true;
		file_mark(f, c, blocks);
		file_forget(f, c);
		sync_note(f, c, NULL);
	}
	if (!any)
		return;
	map_withdraw(f, blocks);
	if (!f->dead) {
		file_revoke(f);
		revoke_leaners(f);
	}
	TAILQ_FOREACH(l, &layouts, entry)
		layout_places_gone(l, f, bad);
}

void
file_drop(struct file *f, uint32_t chunk)
{
	_cleanup_free_ uint8_t *bad = calloc(1, f->h.n_chunks);

	if (!bad)
		log_die("no memory to withdraw a chunk");
	bad[chunk] = 1;
	file_drop_marked(f, bad);
}

void
file_mark(const struct file *f, uint32_t chunk, uint8_t *blocks)
{
	struct spot s = f->spots[chunk];

	for (uint32_t b = s.block; b < s.block +
	    (s.length + MAP_BLOCK - 1) / MAP_BLOCK; b++)
		blocks[b / 8] |= (uint8_t)(1 << b % 8);
}

/* ---- what it takes ---- */

uint64_t
file_total(void)
{
	const struct file *f;
	uint64_t total = quarantine_bytes();

	TAILQ_FOREACH(f, &files, entry)
		total += f->on_disk;
	return total;
}

void
file_account(struct file *f)
{
	uint64_t data = 0, presence = 0;

	if (f->data < 0)
		return;
	disk_used(f->data, &data);
	disk_used(f->presence, &presence);
	f->on_disk = data + presence + f->index_on_disk;
}

/* ---- the complete mark ---- */

int
file_mark_complete(struct file *f, const struct digest *leans, size_t n_leans,
    bool expanded)
{
	struct digest *copy = malloc((n_leans ? n_leans : 1) * sizeof(*copy));
	int r = copy ? file_disk_mark_write(f, leans, n_leans, expanded) :
	    -ENOMEM;

	if (r < 0) {
		free(copy);
		return r;
	}
	memcpy(copy, leans, n_leans * sizeof(*copy));
	free(f->leans);
	f->leans = copy;
	f->n_leans = n_leans;
	f->expanded = expanded;
	f->complete = true;
	return 0;
}

int
file_revoke(struct file *f)
{
	int r;

	if (!f->complete)
		return 0;
	f->complete = f->expanded = false;
	free(take_ptr(f->leans));
	f->n_leans = 0;
	if (f->layout)
		f->layout->complete = false;
	if (file_hold(f) < 0) {
		log_err("the store can't be opened to say that an image is no "
		    "longer complete");
		return -EIO;
	}
	r = disk_unlink(f->dir, "complete");
	if (r == 0)
		r = disk_sync_dir(f->dir);
	if (r < 0)
		log_err("say on disk that %.12s is no longer complete: %s",
		    digest_to_hex(&f->h.key).text, strerror(-r));
	file_put(f);
	return r;
}

void
file_remember_use(void)
{
	struct file *f;

	TAILQ_FOREACH(f, &files, entry)
		if (f->refs > 0)
			file_disk_used_write(f);
}

/* ---- life ---- */

static struct file *
file_new(void)
{
	struct file *f = calloc(1, sizeof(*f));

	if (!f)
		log_die("no memory for a file of the store");
	f->dir = f->data = f->data_ro = f->presence = -1;
	return f;
}

static void
file_free(struct file *f)
{
	file_disk_close(f);
	free(f->leans);
	free(f->used);
	free(f);
}

int
file_hold(struct file *f)
{
	struct digest_hex hex = digest_to_hex(&f->h.key);
	struct digest key = f->h.key;
	int r = 0;

	if (f->refs == 0) {
		f->dir = store_subdir("layouts", hex.text);
		if (f->dir < 0)
			return f->dir;
		r = file_disk_open(f, f->h.file_id, &key);
		if (r == 0)
			r = file_disk_records(f, false);
	}
	if (r < 0)
		file_disk_close(f);
	else
		f->refs++;
	return r;
}

void
file_put(struct file *f)
{
	if (!f || --f->refs > 0)
		return;
	if (f->sync_timer)
		event_free(take_ptr(f->sync_timer));
	f->sync_timer_set = false;
	if (f->dead) {
		file_free(f);
		return;
	}
	file_disk_used_write(f);
	file_disk_close(f);
}

/* What stands in a layout's directory.  0, -ENOENT or -errno. */
static int
file_load(int dir, const struct digest *key)
{
	struct file *f = file_new();
	uint64_t id = 0;
	int r;

	f->h.key = *key;
	f->dir = dir;
	r = file_disk_find(dir, &id);
	if (r == 0 || r == -ENOENT)
		file_disk_tidy(dir, r == 0 ? id : 0);
	if (r == 0)
		r = file_disk_open(f, id, key);
	if (r == -EBADMSG) {
		log_err("store of %.12s: its presence file is damaged: "
		    "starting it anew", digest_to_hex(key).text);
		f->h.file_id = id;
		file_disk_remove(f, NULL);
		r = -ENOENT;
	}
	f->number = number_free();
	if (r == 0 && f->number == UINT16_MAX)
		r = -EMFILE;
	if (r == 0)
		r = file_disk_used_read(f);
	if (r == 0)
		r = file_disk_records(f, true);
	if (r < 0) {
		file_free(f);
		return r;
	}
	file_disk_mark_read(f);
	file_account(f);
	list_add(f);
	file_disk_close(f);
	return 0;
}

static void
see_layout(int dir, const char *name)
{
	char text[DIGEST_TEXT + 1];
	struct digest key;
	int fd, r;

	snprintf(text, sizeof(text), "sha256:%.64s", name);
	if (strlen(name) != DIGEST_HEX || digest_parse(text, &key) < 0)
		return;
	fd = disk_dir(dir, name, false);
	r = fd < 0 ? fd : file_load(fd, &key);
	if (r < 0 && r != -ENOENT)
		log_err("skipping layouts/%s: %s; its image is fetched again",
		    name, strerror(-r));
}

void
file_load_all(void)
{
	_cleanup_close_ int dir = store_subdir("layouts", NULL);
	int r = dir < 0 ? dir : store_each(dir, see_layout);
	struct file *f;

	if (r < 0)
		log_die("read the store's layouts: %s", strerror(-r));
	/* A mark that leans on what is not there any more says nothing. */
	TAILQ_FOREACH(f, &files, entry)
		for (size_t i = 0; f->complete && i < f->n_leans; i++)
			if (!file_by_key(&f->leans[i]))
				file_revoke(f);
}

static int
file_make(const struct presence_header *want, struct file **out)
{
	struct digest_hex hex = digest_to_hex(&want->key);
	struct file *f = file_new();
	int r;

	f->h = *want;
	f->number = number_free();
	f->dir = store_subdir("layouts", hex.text);
	r = f->dir < 0 ? f->dir : f->number == UINT16_MAX ? -EMFILE :
	    file_disk_make(f);
	if (r == 0)
		r = file_disk_open(f, f->h.file_id, &want->key);
	if (r == 0)
		r = file_disk_used_read(f);
	if (r == 0)
		r = file_disk_records(f, false);
	if (r < 0) {
		file_free(f);
		return r == -EBADMSG ? -EIO : r;
	}
	f->refs = 1;
	file_account(f);
	list_add(f);
	*out = f;
	return 0;
}

int
file_get(const struct presence_header *want, struct file **out)
{
	struct file *f = file_by_key(&want->key);
	int r;

	if (f && (f->h.size != want->size || f->h.unit != want->unit ||
	    f->h.n_chunks != want->n_chunks)) {
		if (f->refs > 0)
			return -EPROTO;	/* of an attached device */
		file_kill(f, NULL);
		f = NULL;
	}
	if (!f)
		return file_make(want, out);
	r = file_hold(f);
	if (r == -EBADMSG) {
		log_err("store of %.12s: its presence file is damaged: "
		    "starting it anew", digest_to_hex(&want->key).text);
		file_kill(f, NULL);
		return file_make(want, out);
	}
	if (r == 0)
		*out = f;
	return r;
}

void
file_kill(struct file *f, const char *to)
{
	_cleanup_free_ uint8_t *all = malloc(f->h.n_chunks + 1);
	bool open = all && file_hold(f) == 0;

	f->dead = true;
	if (open) {
		memset(all, 1, f->h.n_chunks);
		file_drop_marked(f, all);
	}
	f->complete = false;
	revoke_leaners(f);
	if (!open)
		f->dir = store_subdir("layouts",
		    digest_to_hex(&f->h.key).text);
	file_disk_remove(f, to);
	disk_sync_dir(f->dir);
	TAILQ_REMOVE(&files, f, entry);
	numbers[f->number] = NULL;
	if (open)
		file_put(f);
	else
		file_free(f);
}

void
file_remove(struct file *f)
{
	static const char *const names[] = { "index", "source", "plain",
		"failed" };
	struct digest_hex hex = digest_to_hex(&f->h.key);
	_cleanup_close_ int outer = store_subdir("layouts", NULL);
	_cleanup_close_ int dir = store_subdir("layouts", hex.text);

	file_kill(f, NULL);
	for (size_t i = 0; dir >= 0 && i < ARRAY_LEN(names); i++)
		disk_unlink(dir, names[i]);
	if (outer >= 0 && disk_rmdir(outer, hex.text) == 0)
		disk_sync_dir(outer);
}
