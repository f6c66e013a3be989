// SPDX-License-Identifier: Apache-2.0
/*
 * A data file's directory, layouts/KEY: what of struct file is on disk, and how
 * it is made, read and removed.
 *
 *	data.ID		the chunks
 *	presence.ID	a header, and a record a chunk (presence.c)
 *	complete	the mark: all of it is here, and what it leans on
 *	used		when each run was last of use; of this host only
 *
 * What follows from that for maps, layouts and other files is file.c's.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/disk.h"
#include "cached/file.h"

#define NAME_MAX_LEN	64
#define RECORDS_A_READ	1024	/* 64 KiB of the presence file */
#define MARK_MAX	((LEANS_MAX + 1) * (DIGEST_HEX + 40))
#define USED_MAX	(DEVICE_SIZE_MAX / RUN_SIZE * sizeof(uint64_t))

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

int
file_disk_find(int dir, uint64_t *id)
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

int
file_disk_make(struct file *f)
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

void
file_disk_close(struct file *f)
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

int
file_disk_open(struct file *f, uint64_t id, const struct digest *key)
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

int
file_disk_records(struct file *f, bool learn)
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

void
file_disk_tidy(int dir, uint64_t id)
{
	kept_id = id;
	store_each(dir, see_stray);
}

void
file_disk_remove(const struct file *f, const char *to)
{
	char name[NAME_MAX_LEN];

	file_name(f, "data", name);
	if (to)
		quarantine_take(f->dir, name, to);
	file_name(f, "presence", name);
	disk_unlink(f->dir, name);
	file_name(f, "data", name);
	disk_unlink(f->dir, name);
	disk_unlink(f->dir, "complete");
	disk_unlink(f->dir, "used");
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

void
file_disk_mark_read(struct file *f)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	f->complete = store_read_text(f->dir, "complete", MARK_MAX, &text,
	    &len) == 0 && mark_parse(f, text);
}

int
file_disk_mark_write(const struct file *f, const struct digest *leans,
    size_t n_leans, bool expanded)
{
	_cleanup_free_ char *text = malloc(MARK_MAX);
	size_t at;

	if (!text)
		return -ENOMEM;
	at = (size_t)snprintf(text, MARK_MAX, "%016" PRIx64 " %" PRIu64
	    " %s\n", f->h.file_id, f->h.generation,
	    expanded ? "expanded" : "sparse");
	for (size_t i = 0; i < n_leans; i++)
		at += (size_t)snprintf(text + at, MARK_MAX - at, "%s\n",
		    digest_to_hex(&leans[i]).text);
	return store_write_text(f->dir, "complete", text);
}

/* ---- when its runs were of use ---- */

int
file_disk_used_read(struct file *f)
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

void
file_disk_used_write(struct file *f)
{
	if (!f->used_news)
		return;
	f->used_news = false;
	if (store_write_file(f->dir, "used", f->used,
	    file_runs(f) * sizeof(uint64_t)) < 0)
		log_debug("that %.12s was used is not remembered",
		    digest_to_hex(&f->h.key).text);
}
