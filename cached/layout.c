// SPDX-License-Identifier: Apache-2.0
/*
 * A layout: one sparse file that holds a blob's bytes at their own offsets,
 * and what is known of each unit of it:
 *
 *	ABSENT ----------fill----------> VERIFIED --sync--> +DURABLE
 *	   ^                                ^
 *	   |                              hash fits
 *	   +--hash does not fit-- RECORDED -+   (at start, from presence.ID)
 *
 * Only VERIFIED units are ever published to a map.  The data file's name
 * carries the identity that its presence records name: a record can't be
 * believed about another file.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <dirent.h>
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

#define SOURCE_MAX	(REF_HOST_MAX + REF_REPO_MAX + 4)
#define RECORDS_A_READ	1024	/* 64 KiB of the presence file */

struct layouts layouts = TAILQ_HEAD_INITIALIZER(layouts);

size_t
layout_unit_len(const struct layout *l, uint64_t unit)
{
	uint64_t left = l->size - unit * l->unit;

	return left < l->unit ? (size_t)left : l->unit;
}

enum unit_state
layout_state(const struct layout *l, uint64_t unit)
{
	return l->units[unit] & UNIT_STATE;
}

struct layout *
layout_find(const struct digest *blob)
{
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry)
		if (digest_equal(&l->blob, blob))
			return l;
	return NULL;
}

void
layout_set(struct layout *l, uint64_t unit, enum unit_state state)
{
	enum unit_state old = l->units[unit];

	l->n_present += (state & UNIT_STATE) != 0;
	l->n_present -= (old & UNIT_STATE) != 0;
	l->n_durable += (state & UNIT_DURABLE) != 0;
	l->n_durable -= (old & UNIT_DURABLE) != 0;
	l->units[unit] = (uint8_t)state;
}

uint64_t
layout_bytes_present(const struct layout *l)
{
	uint64_t bytes = l->n_present * l->unit, last = l->n_units - 1;

	if (layout_state(l, last) != UNIT_ABSENT)
		bytes -= l->unit - layout_unit_len(l, last);
	return bytes;
}

bool
layout_digest(const struct layout *l, uint64_t unit, struct digest *sum)
{
	uint8_t record[PRESENCE_RECORD];

	if (sync_find(l, unit, sum))
		return true;
	return fd_pread_all(l->presence, record, sizeof(record),
	    PRESENCE_HEADER + unit * PRESENCE_RECORD) == sizeof(record) &&
	    presence_get(record, l->file_id, unit, sum);
}

/* ---- files ---- */

/* The identity in the name of the presence file in dir; -ENOENT. */
static int
find_files(int dir, uint64_t *id)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	int r = -ENOENT;

	if (!d) {
		fd_close(fd);
		return -errno;
	}
	while ((e = readdir(d)))
		if (sscanf(e->d_name, "presence.%16" SCNx64, id) == 1)
			r = 0;
	closedir(d);
	return r;
}

/* Data first: a presence file without its data is worth nothing. */
static int
make_files(struct layout *l)
{
	struct presence_header h = { .size = l->size, .unit = l->unit,
		.blob = l->blob };
	uint8_t bytes[PRESENCE_HEADER];
	char name[64];
	_cleanup_close_ int fd = -1;

	if (RAND_bytes((unsigned char *)&h.file_id, sizeof(h.file_id)) != 1)
		return -EIO;
	snprintf(name, sizeof(name), "data.%016" PRIx64, h.file_id);
	fd = openat(l->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)l->size) < 0 || fsync(fd) < 0)
		return -errno;
	presence_put_header(&h, bytes);
	l->file_id = h.file_id;
	snprintf(name, sizeof(name), "presence.%016" PRIx64, h.file_id);
	return store_write_file(l->dir, name, bytes, sizeof(bytes));
}

static int
open_files(struct layout *l)
{
	struct presence_header h;
	uint8_t bytes[PRESENCE_HEADER];
	struct stat st;
	char data[64], presence[64];

	snprintf(data, sizeof(data), "data.%016" PRIx64, l->file_id);
	snprintf(presence, sizeof(presence), "presence.%016" PRIx64,
	    l->file_id);
	l->data = openat(l->dir, data, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	l->data_ro = openat(l->dir, data, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	l->presence = openat(l->dir, presence,
	    O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (l->data < 0 || l->data_ro < 0 || l->presence < 0 ||
	    fstat(l->data, &st) < 0)
		return -errno;
	if (fd_pread_all(l->presence, bytes, sizeof(bytes), 0) !=
	    sizeof(bytes) || presence_get_header(bytes, &h) < 0 ||
	    h.file_id != l->file_id || h.size != l->size ||
	    h.unit != l->unit || !digest_equal(&h.blob, &l->blob) ||
	    (uint64_t)st.st_size != l->size)
		return -EBADMSG;
	return 0;
}

static void
close_files(struct layout *l)
{
	fd_close(l->data);
	fd_close(l->data_ro);
	fd_close(l->presence);
	l->data = l->data_ro = l->presence = -1;
}

/* What the records say; each is believed only as far as "hash it here". */
static int
read_records(struct layout *l)
{
	_cleanup_free_ uint8_t *buf = malloc(RECORDS_A_READ * PRESENCE_RECORD);
	struct digest sum;

	if (!buf)
		return -ENOMEM;
	for (uint64_t unit = 0; unit < l->n_units;) {
		ssize_t n = fd_pread_all(l->presence, buf,
		    RECORDS_A_READ * PRESENCE_RECORD,
		    PRESENCE_HEADER + unit * PRESENCE_RECORD);

		if (n < 0)
			return (int)n;
		if (n < PRESENCE_RECORD)
			break;
		for (ssize_t at = 0; at + PRESENCE_RECORD <= n &&
		    unit < l->n_units; at += PRESENCE_RECORD, unit++)
			if (presence_get(buf + at, l->file_id, unit, &sum))
				layout_set(l, unit,
				    UNIT_RECORDED | UNIT_DURABLE);
	}
	return 0;
}

static void
remove_files(struct layout *l)
{
	char name[64];

	snprintf(name, sizeof(name), "presence.%016" PRIx64, l->file_id);
	unlinkat(l->dir, name, 0);
	snprintf(name, sizeof(name), "data.%016" PRIx64, l->file_id);
	unlinkat(l->dir, name, 0);
	unlinkat(l->dir, "complete", 0);
}

/* "complete" names the file that it speaks of. */
static bool
read_complete(const struct layout *l)
{
	_cleanup_free_ char *text = NULL;
	uint64_t id;
	size_t len;

	return store_read_file(l->dir, "complete", 64, &text, &len) == 0 &&
	    sscanf(text, "%16" SCNx64, &id) == 1 && id == l->file_id;
}

/* "failed" says why a former file was quarantined. */
static void
read_failed(struct layout *l)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (store_read_file(l->dir, "failed", sizeof(l->last_error) - 1,
	    &text, &len) < 0)
		return;
	l->failed = true;
	l->complete = false;
	snprintf(l->last_error, sizeof(l->last_error), "%s", text);
}

/* It is pulled whole, by one plain request: see finish_pull(). */
static bool
read_plain(int dir)
{
	int fd = openat(dir, "plain", O_RDONLY | O_CLOEXEC);

	fd_close(fd);
	return fd >= 0;
}

void
layout_revoke(struct layout *l)
{
	l->complete = false;
	if (unlinkat(l->dir, "complete", 0) == 0 && fsync(l->dir) < 0)
		log_err("sync %s/%s: %s", l->host, l->repo, strerror(errno));
}

static int
layout_load(struct layout *l)
{
	struct digest_hex hex = digest_to_hex(&l->blob);
	int r;

	l->dir = store_subdir("layouts", hex.text);
	if (l->dir < 0)
		return l->dir;
	r = find_files(l->dir, &l->file_id);
	if (r == 0)
		r = open_files(l);
	if (r == -EBADMSG || (r == -ENOENT && l->file_id)) {
		log_err("store of %.12s: its presence file is damaged: "
		    "starting it anew", hex.text);
		close_files(l);
		remove_files(l);
		r = -ENOENT;
	}
	if (r == -ENOENT) {
		r = make_files(l);
		if (r == 0)
			r = open_files(l);
	}
	if (r == 0)
		r = read_records(l);
	if (r == 0 && l->n_present == l->n_units && read_complete(l))
		l->complete = l->proven = true;
	else if (r == 0)
		layout_revoke(l);
	read_failed(l);
	l->plain = read_plain(l->dir);
	return r;
}

static void
layout_free(struct layout *l)
{
	struct image *image = image_by_blob(&l->blob);

	if (image)
		image->counts = l->counts;
	if (l->sync_timer)
		event_free(l->sync_timer);
	close_files(l);
	fd_close(l->dir);
	free(l->unsynced);
	free(l->units);
	free(l->fills);
	free(l);
}

int
layout_get(const struct digest *blob, uint64_t size, const char *host,
    const char *repo, struct layout **out)
{
	struct layout *l = layout_find(blob);
	const struct image *image = image_by_blob(blob);
	int r;

	if (l) {
		if (l->size != size)
			return -EPROTO;	/* of an attached device */
		l->refs++;
		*out = l;
		return 0;
	}
	if (size == 0 || size > DEVICE_SIZE_MAX)
		return -EFBIG;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->refs = 1;
	l->blob = *blob;
	l->size = size;
	l->unit = UNIT_SIZE;
	l->n_units = map_units(size, l->unit);
	l->dir = l->data = l->data_ro = l->presence = -1;
	snprintf(l->host, sizeof(l->host), "%s", host);
	snprintf(l->repo, sizeof(l->repo), "%s", repo);
	TAILQ_INIT(&l->devices);
	if (image)
		l->counts = image->counts;
	l->units = calloc(l->n_units, sizeof(*l->units));
	l->fills = calloc(l->n_units, sizeof(*l->fills));
	r = l->units && l->fills ? layout_load(l) : -ENOMEM;
	if (r < 0) {
		layout_free(l);
		return r;
	}
	TAILQ_INSERT_TAIL(&layouts, l, entry);
	finish_check(l);
	*out = l;
	return 0;
}

static void
source_text(const char *host, const char *repo, char text[SOURCE_MAX])
{
	snprintf(text, SOURCE_MAX, "%s/%s\n", host, repo);
}

int
layout_source(struct layout *l, const char *host, const char *repo)
{
	char now[SOURCE_MAX];
	_cleanup_free_ char *was = NULL;
	size_t len;
	int r;

	source_text(host, repo, now);
	r = store_read_file(l->dir, "source", SOURCE_MAX, &was, &len);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == 0 && strcmp(was, now) != 0 && !l->complete && l->n_present)
		return -EXDEV;
	memcpy(l->host, host, strlen(host) + 1);
	memcpy(l->repo, repo, strlen(repo) + 1);
	if (r == 0 && strcmp(was, now) == 0)
		return 0;
	return store_write_file(l->dir, "source", now, strlen(now));
}

void
layout_put(struct layout *l)
{
	if (!l || --l->refs > 0)
		return;
	TAILQ_REMOVE(&layouts, l, entry);
	layout_free(l);
}

void
layout_on_disk(const struct digest *blob, uint64_t size, uint64_t *present,
    bool *complete)
{
	struct layout *l = layout_find(blob);
	struct digest_hex hex = digest_to_hex(blob);
	char path[DIGEST_HEX + 16];

	*present = 0;
	*complete = false;
	snprintf(path, sizeof(path), "layouts/%s", hex.text);
	if (!l) {
		int fd = openat(store_dir(), path, O_RDONLY | O_DIRECTORY |
		    O_CLOEXEC);

		if (fd < 0)
			return;		/* nothing yet, and no files for that */
		fd_close(fd);
	}
	if (layout_get(blob, size, "", "", &l) < 0)
		return;
	*present = layout_bytes_present(l);
	*complete = l->complete;
	layout_put(l);
}

void
layout_quarantine(struct layout *l)
{
	struct digest_hex hex = digest_to_hex(&l->blob);
	char from[64], to[128];
	int dir = store_subdir("quarantine", NULL);

	l->failed = true;
	l->complete = false;
	if (store_write_file(l->dir, "failed", l->last_error,
	    strlen(l->last_error)) < 0)
		log_err("record that %.12s failed: %s", hex.text,
		    strerror(errno));
	snprintf(from, sizeof(from), "data.%016" PRIx64, l->file_id);
	snprintf(to, sizeof(to), "%s.%016" PRIx64, hex.text, l->file_id);
	if (dir < 0 || renameat(l->dir, from, dir, to) < 0)
		log_err("quarantine %s: %s; removing it", from,
		    strerror(errno));
	else
		log_warn("quarantined as quarantine/%s; remove it when it was "
		    "looked at", to);
	remove_files(l);
	fsync(l->dir);
	fd_close(dir);
}

int
layout_start_anew(struct layout **l)
{
	struct layout *old = *l;
	struct digest blob = old->blob;
	uint64_t size = old->size;
	char host[REF_HOST_MAX + 1], repo[REF_REPO_MAX + 1];

	if (old->refs > 1)
		return -EBUSY;
	memcpy(host, old->host, sizeof(host));
	memcpy(repo, old->repo, sizeof(repo));
	if (unlinkat(old->dir, "failed", 0) < 0 && errno != ENOENT)
		return -errno;
	remove_files(old);
	layout_put(old);
	*l = NULL;
	return layout_get(&blob, size, host, repo, l);
}
