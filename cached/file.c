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
 * records were made for: a record can't be believed about another file.
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

#include <openssl/rand.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define NAME_MAX_LEN	64
#define RECORDS_A_READ	1024	/* 64 KiB of the presence file */
#define MARK_MAX	((LEANS_MAX + 1) * (DIGEST_HEX + 40))
#define USED_MAX	(DEVICE_SIZE_MAX / RUN_SIZE * sizeof(uint64_t))

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

/* ---- its files ---- */

static void
file_name(const struct file *f, const char *what, char name[NAME_MAX_LEN])
{
	snprintf(name, NAME_MAX_LEN, "%s.%016" PRIx64, what, f->h.file_id);
}

static uint64_t found_id;
static bool found;

static void
see_name(int dir, const char *name)
{
	(void)dir;
	if (sscanf(name, "presence.%16" SCNx64, &found_id) == 1 &&
	    strlen(name) == strlen("presence.") + 16)
		found = true;
}

/* The identity in the name of the presence file in dir; -ENOENT. */
static int
find_id(int dir, uint64_t *id)
{
	int r;

	found = false;
	r = store_each(dir, see_name);
	*id = found_id;
	return r < 0 ? r : found ? 0 : -ENOENT;
}

static int
write_header(const struct presence_header *h, int dir)
{
	uint8_t bytes[PRESENCE_HEADER];
	char name[NAME_MAX_LEN];

	presence_put_header(h, bytes);
	snprintf(name, sizeof(name), "presence.%016" PRIx64, h->file_id);
	return store_write_file(dir, name, bytes, sizeof(bytes));
}

/* Data first: a presence file without its data is worth nothing. */
static int
make_files(struct file *f)
{
	_cleanup_close_ int fd = -1;
	char name[NAME_MAX_LEN];
	int r;

	if (RAND_bytes((unsigned char *)&f->h.file_id,
	    sizeof(f->h.file_id)) != 1)
		return -EIO;
	f->h.file_id |= 1;	/* never 0, which is no file in a map */
	f->h.generation = 1;
	file_name(f, "data", name);
	fd = disk_create(f->dir, name);
	if (fd < 0)
		return fd;
	r = disk_set_size(fd, f->h.size);
	if (r == 0)
		r = disk_sync(fd);
	return r < 0 ? r : write_header(&f->h, f->dir);
}

static void
close_files(struct file *f)
{
	fd_close(f->data);
	fd_close(f->data_ro);
	fd_close(f->presence);
	fd_close(f->dir);
	f->data = f->data_ro = f->presence = f->dir = -1;
	free(take_ptr(f->state));
	free(take_ptr(f->spots));
	f->n_durable = 0;
}

/* Of the presence file of that identity, which must fit its place. */
static int
read_header(struct file *f, uint64_t id, const struct digest *key)
{
	uint8_t bytes[PRESENCE_HEADER];
	struct presence_header h;
	struct stat st;

	if (fd_pread_all(f->presence, bytes, sizeof(bytes), 0) !=
	    sizeof(bytes) || presence_get_header(bytes, &h) < 0 ||
	    h.file_id != id || !digest_equal(&h.key, key) ||
	    fstat(f->data, &st) < 0 || (uint64_t)st.st_size != h.size)
		return -EBADMSG;
	f->h = h;
	return 0;
}

static int
open_files(struct file *f, uint64_t id, const struct digest *key)
{
	_cleanup_close_ int index = disk_open(f->dir, "index", false);
	char data[NAME_MAX_LEN], presence[NAME_MAX_LEN];

	snprintf(data, sizeof(data), "data.%016" PRIx64, id);
	snprintf(presence, sizeof(presence), "presence.%016" PRIx64, id);
	f->data = disk_open(f->dir, data, true);
	f->data_ro = disk_open(f->dir, data, false);
	f->presence = disk_open(f->dir, presence, true);
	f->index_on_disk = 0;
	if (index >= 0)
		disk_used(index, &f->index_on_disk);
	if (f->data < 0 || f->data_ro < 0 || f->presence < 0)
		return f->data == -ENOENT || f->presence == -ENOENT ?
		    -EBADMSG : f->data < 0 ? f->data : f->data_ro < 0 ?
		    f->data_ro : f->presence;
	return read_header(f, id, key);
}

/* What the records say; each is believed only as far as "hash it here".
 * learn: the catalogue does not know them yet. */
static int
read_records(struct file *f, bool learn)
{
	_cleanup_free_ uint8_t *buf = malloc(RECORDS_A_READ * PRESENCE_RECORD);
	struct presence_record r;

	f->state = calloc(f->h.n_chunks ? f->h.n_chunks : 1,
	    sizeof(*f->state));
	f->spots = calloc(f->h.n_chunks ? f->h.n_chunks : 1,
	    sizeof(*f->spots));
	if (!buf || !f->state || !f->spots)
		return -ENOMEM;
	f->n_present = f->bytes_present = f->n_durable = 0;
	for (uint32_t chunk = 0; chunk < f->h.n_chunks;) {
		ssize_t n = fd_pread_all(f->presence, buf,
		    RECORDS_A_READ * PRESENCE_RECORD, PRESENCE_HEADER +
		    (uint64_t)chunk * PRESENCE_RECORD);

		if (n < 0)
			return (int)n;
		if (n < PRESENCE_RECORD)
			break;
		for (ssize_t at = 0; at + PRESENCE_RECORD <= n &&
		    chunk < f->h.n_chunks; at += PRESENCE_RECORD, chunk++) {
			if (!presence_get(buf + at, &f->h, chunk, &r))
				continue;
			f->spots[chunk] = (struct spot){ (uint32_t)(r.offset /
			    MAP_BLOCK), r.length };
			file_set(f, chunk, CHUNK_RECORDED | CHUNK_DURABLE);
			if (learn)
				catalog_add(&r.sum, f, chunk);
		}
	}
	return 0;
}

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

/* ---- the complete mark ----
 * "ID GENERATION expanded|sparse" of the file, then the KEY of each that it
 * leans on. */

static bool
mark_parse(struct file *f, char *text)
{
	uint64_t id, generation;
	char form[9];
	char *line = strtok(text, "\n");
	struct digest leans[LEANS_MAX];
	size_t n = 0;

	if (!line || sscanf(line, "%16" SCNx64 " %" SCNu64 " %8s", &id,
	    &generation, form) != 3 || id != f->h.file_id ||
	    generation != f->h.generation)
		return false;
	while ((line = strtok(NULL, "\n"))) {
		char key[DIGEST_TEXT + 1];

		if (n == LEANS_MAX || strlen(line) != DIGEST_HEX)
			return false;
		snprintf(key, sizeof(key), "sha256:%.64s", line);
		if (digest_parse(key, &leans[n++]) < 0)
			return false;
	}
	f->leans = malloc((n ? n : 1) * sizeof(*leans));
	if (!f->leans)
		return false;
	memcpy(f->leans, leans, n * sizeof(*leans));
	f->n_leans = n;
	f->expanded = strcmp(form, "expanded") == 0;
	return true;
}

static void
mark_read(struct file *f)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	f->complete = store_read_text(f->dir, "complete", MARK_MAX, &text,
	    &len) == 0 && mark_parse(f, text);
}

int
file_mark_complete(struct file *f, const struct digest *leans, size_t n_leans,
    bool expanded)
{
	_cleanup_free_ char *text = malloc(MARK_MAX);
	struct digest *copy = malloc((n_leans ? n_leans : 1) * sizeof(*copy));
	size_t at;
	int r;

	if (!text || !copy) {
		free(copy);
		return -ENOMEM;
	}
	memcpy(copy, leans, n_leans * sizeof(*copy));
	at = (size_t)snprintf(text, MARK_MAX, "%016" PRIx64 " %" PRIu64
	    " %s\n", f->h.file_id, f->h.generation,
	    expanded ? "expanded" : "sparse");
	for (size_t i = 0; i < n_leans; i++)
		at += (size_t)snprintf(text + at, MARK_MAX - at, "%s\n",
		    digest_to_hex(&leans[i]).text);
	r = store_write_text(f->dir, "complete", text);
	if (r < 0) {
		free(copy);
		return r;
	}
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

/* ---- when its runs were of use ---- */

static int
used_read(struct file *f)
{
	_cleanup_free_ char *text = NULL;
	size_t len, want = file_runs(f) * sizeof(uint64_t);
	struct stat st;

	f->used = calloc(1, want);
	if (!f->used)
		return -ENOMEM;
	if (store_read_file(f->dir, "used", USED_MAX, &text, &len) == 0 &&
	    len == want)
		memcpy(f->used, text, want);	/* of this host only */
	else if (fstat(f->presence, &st) == 0)
		for (uint32_t i = 0; i < file_runs(f); i++)
			f->used[i] = (uint64_t)st.st_mtime * 1000;
	return 0;
}

static void
used_write(struct file *f)
{
	if (!f->used_news)
		return;
	f->used_news = false;
	if (store_write_file(f->dir, "used", f->used,
	    file_runs(f) * sizeof(uint64_t)) < 0)
		log_debug("that %.12s was used is not remembered",
		    digest_to_hex(&f->h.key).text);
}

void
file_remember_use(void)
{
	struct file *f;

	TAILQ_FOREACH(f, &files, entry)
		if (f->refs > 0)
			used_write(f);
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
	close_files(f);
	free(f->leans);
	free(f->used);
	free(f);
}

static void
remove_files(const struct file *f)
{
	char name[NAME_MAX_LEN];

	file_name(f, "presence", name);
	disk_unlink(f->dir, name);
	file_name(f, "data", name);
	disk_unlink(f->dir, name);
	disk_unlink(f->dir, "complete");
	disk_unlink(f->dir, "used");
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
		r = open_files(f, f->h.file_id, &key);
		if (r == 0)
			r = read_records(f, false);
	}
	if (r < 0)
		close_files(f);
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
	used_write(f);
	close_files(f);
}

static uint64_t kept_id;

/* Of a file that was never finished, or never quite removed. */
static void
see_stray(int dir, const char *name)
{
	uint64_t id;

	if ((sscanf(name, "data.%16" SCNx64, &id) == 1 ||
	    sscanf(name, "presence.%16" SCNx64, &id) == 1) && id != kept_id)
		disk_unlink(dir, name);
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
	r = find_id(dir, &id);
	kept_id = r == 0 ? id : 0;
	if (r == 0 || r == -ENOENT)
		store_each(dir, see_stray);
	if (r == 0)
		r = open_files(f, id, key);
	if (r == -EBADMSG) {
		log_err("store of %.12s: its presence file is damaged: "
		    "starting it anew", digest_to_hex(key).text);
		f->h.file_id = id;
		remove_files(f);
		r = -ENOENT;
	}
	f->number = number_free();
	if (r == 0 && f->number == UINT16_MAX)
		r = -EMFILE;
	if (r == 0)
		r = used_read(f);
	if (r == 0)
		r = read_records(f, true);
	if (r < 0) {
		file_free(f);
		return r;
	}
	mark_read(f);
	file_account(f);
	list_add(f);
	close_files(f);
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
	    make_files(f);
	if (r == 0)
		r = open_files(f, f->h.file_id, &want->key);
	if (r == 0)
		r = used_read(f);
	if (r == 0)
		r = read_records(f, false);
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
	char data[NAME_MAX_LEN];

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
	file_name(f, "data", data);
	if (to)
		quarantine_take(f->dir, data, to);
	remove_files(f);
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
