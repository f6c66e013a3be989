// SPDX-License-Identifier: Apache-2.0
/*
 * A layout: what a device is made of.  Without an index it is the blob in
 * chunks of 64 KiB, named by the blob's digest; with one it is the index's
 * chunks, named by the index's digest.  Its own file holds each chunk at the
 * device offset where the chunk comes first, so that a file that holds them all
 * is the erofs.  A chunk of an index may as well lie in the file of another
 * layout: then that is its place.
 *
 *	device offset --extent--> chunk --place--> (file, chunk there) --> spot
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
#include "cached/cached.h"
#include "cached/disk.h"
#include "cached/fetch.h"

#define SOURCE_MAX	(REF_HOST_MAX + REF_REPO_MAX + 4)

struct layouts layouts = TAILQ_HEAD_INITIALIZER(layouts);

struct layout *
layout_find(const struct digest *key)
{
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry)
		if (digest_equal(&l->key, key))
			return l;
	return NULL;
}

/* ---- its shape ---- */

uint64_t
layout_home(const struct layout *l, uint32_t chunk)
{
	return l->indexed ? (uint64_t)l->homes[chunk] * MAP_BLOCK :
	    (uint64_t)chunk * UNIT_SIZE;
}

uint32_t
layout_len(const struct layout *l, uint32_t chunk)
{
	uint64_t left;

	if (l->indexed)
		return index_chunk(&l->index, chunk).length;
	left = l->size - layout_home(l, chunk);
	return left < UNIT_SIZE ? (uint32_t)left : UNIT_SIZE;
}

struct extent
layout_extent(const struct layout *l, uint64_t offset)
{
	struct index_extent e;
	uint32_t chunk = (uint32_t)(offset / UNIT_SIZE);

	if (!l->indexed)
		return (struct extent){ layout_home(l, chunk),
			layout_len(l, chunk), chunk };
	e = index_extent(&l->index, index_find(&l->index, offset));
	return (struct extent){ e.offset, e.length, e.chunk };
}

/* ---- places ---- */

struct place
layout_place(const struct layout *l, uint32_t chunk)
{
	if (l->places && l->places[chunk].file)
		return l->places[chunk];
	return (struct place){ l->file, chunk };
}

uint64_t
layout_offset(const struct layout *l, uint32_t chunk)
{
	struct place p = layout_place(l, chunk);

	return p.file == l->file ? layout_home(l, chunk) :
	    (uint64_t)p.file->spots[p.chunk].block * MAP_BLOCK;
}

enum chunk_state
layout_state(const struct layout *l, uint32_t chunk)
{
	struct place p = layout_place(l, chunk);

	return file_state(p.file, p.chunk);
}

bool
layout_digest(const struct layout *l, uint32_t chunk, struct digest *sum)
{
	struct presence_record r;

	if (l->indexed) {
		*sum = index_chunk(&l->index, chunk).digest;
		return true;
	}
	if (!file_record(l->file, chunk, &r))
		return false;
	*sum = r.sum;
	return true;
}

static bool
leans(const struct layout *l, const struct file *f)
{
	for (unsigned i = 0; i < l->n_leans; i++)
		if (l->leans[i] == f)
			return true;
	return false;
}

/* A reference to another file for as long as the layout is open. */
static bool
lean(struct layout *l, struct file *f)
{
	if (leans(l, f))
		return true;
	if (l->n_leans == LEANS_MAX || file_hold(f) < 0)
		return false;
	l->leans[l->n_leans++] = f;
	return true;
}

bool
layout_lookup(struct layout *l, uint32_t chunk)
{
	struct index_chunk c;
	struct place p;

	if (!l->indexed || l->own)
		return false;
	c = index_chunk(&l->index, chunk);
	if (!catalog_find(&c.digest, l->file, &p.file, &p.chunk) ||
	    !lean(l, p.file) || p.file->spots[p.chunk].length != c.length)
		return false;
	l->places[chunk] = p;
	l->n_shared++;
	l->bytes_shared += c.length;
	finish_mended(l, chunk);
	return true;
}

void
layout_place_own(struct layout *l, uint32_t chunk)
{
	l->places[chunk] = (struct place){ 0 };
	l->n_shared--;
	l->bytes_shared -= layout_len(l, chunk);
}

void
layout_places_gone(struct layout *l, const struct file *f,
    const uint8_t *gone)
{
	bool any = l->file == f;

	for (uint32_t c = 0; leans(l, f) && c < l->n_chunks; c++)
		if (l->places[c].file == f && gone[l->places[c].chunk]) {
			layout_place_own(l, c);
			any = true;
		}
	if (!any)
		return;
	l->pull_next = 0;	/* a pull that was past it wants it again */
	if (l->pulling || l->n_mend > 0)
		fetch_look_again(now_ms());
	layout_revoke(l);
}

uint64_t
layout_present(const struct layout *l)
{
	return l->file->n_present + l->n_shared;
}

uint64_t
layout_bytes_present(const struct layout *l)
{
	uint64_t bytes = l->file->bytes_present + l->bytes_shared;

	/* What is in several places of the device, and its zeros, need nothing
	 * more: a device of which every chunk is here is here. */
	return l->indexed && layout_present(l) == l->n_chunks ? l->size :
	    bytes;
}

bool
layout_leans_on(const struct layout *l, const struct file *f)
{
	for (uint32_t c = 0; l->places && c < l->n_chunks; c++)
		if (l->places[c].file == f)
			return true;
	return false;
}

bool
layout_self_contained(const struct layout *l)
{
	return l->complete && l->file->complete && l->file->n_leans == 0 &&
	    l->file->n_present == l->n_chunks &&
	    (l->dup_bytes == 0 || l->file->expanded);
}

bool
layout_unproven(const struct layout *l)
{
	const struct image *i = NULL;

	while ((i = image_of_layout(&l->key, i)))
		if (i->proof == PROOF_MANIFEST)
			return false;
	return l->indexed && !l->complete;
}

/* ---- the index ---- */

/* What can't be read, or is not what it was, is fetched again. */
static int
index_read(struct layout *l)
{
	struct digest_hex hex = digest_to_hex(&l->key);
	_cleanup_close_ int dir = store_subdir("layouts", hex.text);
	_cleanup_free_ char *text = NULL;
	struct digest sum;
	size_t len;
	int r;

	if (dir < 0)
		return dir;
	r = store_read_file(dir, "index", INDEX_SIZE_MAX, &text, &len);
	if (r == -ENOMEM || r == -ENOENT)
		return r == -ENOENT ? -ENOKEY : r;
	if (r == 0)
		sum = digest_of(text, len);
	if (r < 0 || !digest_equal(&sum, &l->key)) {
		log_err("the index %.12s on disk is damaged: it is fetched "
		    "again", hex.text);
		return -ENOKEY;
	}
	l->index_bytes = (uint8_t *)take_ptr(text);
	l->index.len = len;
	return 0;
}

static int
index_take(struct layout *l, const struct layout_spec *spec)
{
	struct digest_hex hex = digest_to_hex(&l->key);
	_cleanup_close_ int dir = store_subdir("layouts", hex.text);
	struct stat st;

	if (dir < 0)
		return dir;
	if (fstatat(dir, "index", &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    (size_t)st.st_size == spec->index_len && index_read(l) == 0)
		return 0;
	l->index_bytes = malloc(spec->index_len);
	if (!l->index_bytes)
		return -ENOMEM;
	memcpy(l->index_bytes, spec->index, spec->index_len);
	l->index.len = spec->index_len;
	return store_write_file(dir, "index", spec->index, spec->index_len);
}

static int
index_use(struct layout *l)
{
	const char *why = "";
	int r = index_parse(l->index_bytes, l->index.len, &l->index, &why);

	if (r < 0) {
		log_err("the index %.12s is unusable: %s",
		    digest_to_hex(&l->key).text, why);
		return r;
	}
	if (l->index.device_size != l->size ||
	    !digest_equal(&l->index.device, &l->blob))
		return -EBADMSG;
	l->n_chunks = l->index.n_chunks;
	l->homes = calloc(l->n_chunks + 1, sizeof(*l->homes));
	l->places = calloc(l->n_chunks + 1, sizeof(*l->places));
	if (!l->homes || !l->places)
		return -ENOMEM;
	for (uint32_t i = l->index.n_extents; i-- > 0;) {
		struct index_extent e = index_extent(&l->index, i);

		if (e.chunk == INDEX_ZEROS)
			continue;
		/* the first comes last */
		l->homes[e.chunk] = (uint32_t)(e.offset / MAP_BLOCK);
		l->dup_bytes += e.length;
	}
	for (uint32_t c = 0; c < l->n_chunks; c++)
		l->dup_bytes -= layout_len(l, c);
	return 0;
}

/* ---- small files beside the data ---- */

/* "failed" says why a former file was quarantined. */
static void
read_failed(struct layout *l)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (store_read_file(l->file->dir, "failed",
	    sizeof(l->last_error) - 1, &text, &len) < 0)
		return;
	l->failed = true;
	l->complete = false;
	snprintf(l->last_error, sizeof(l->last_error), "%s", text);
}

bool
layout_failed_before(const struct digest *key)
{
	_cleanup_close_ int outer = store_subdir("layouts", NULL);
	_cleanup_close_ int dir = outer < 0 ? -1 : disk_dir(outer,
	    digest_to_hex(key).text, false);
	_cleanup_close_ int fd = dir < 0 ? -1 : disk_open(dir, "failed",
	    false);

	return fd >= 0;
}

/* It is pulled whole, by one plain request: see finish_pull(). */
static bool
read_plain(const struct layout *l)
{
	int fd = disk_open(l->file->dir, "plain", false);

	fd_close(fd);
	return fd >= 0;
}

void
layout_revoke(struct layout *l)
{
	l->complete = false;
	file_revoke(l->file);
}

static void
source_text(const char *host, const char *repo, char text[SOURCE_MAX])
{
	snprintf(text, SOURCE_MAX, "%s/%s\n", host, repo);
}

/* Of a device whose image is not known any more. */
static void
source_known(struct layout *l)
{
	_cleanup_free_ char *was = NULL;
	char *repo, *end;
	size_t len;

	if (l->host[0] || store_read_file(l->file->dir, "source", SOURCE_MAX,
	    &was, &len) < 0)
		return;
	repo = strchr(was, '/');
	end = strchr(was, '\n');
	if (!repo || !end || repo > end || repo - was > REF_HOST_MAX ||
	    end - repo - 1 > REF_REPO_MAX)
		return;
	*repo++ = *end = '\0';
	memcpy(l->host, was, strlen(was) + 1);
	memcpy(l->repo, repo, strlen(repo) + 1);
}

void
layout_move(struct layout *l, const char *host, const char *repo)
{
	if (strcmp(l->host, host) != 0 || strcmp(l->repo, repo) != 0)
		memset(l->skip_until, 0, sizeof(l->skip_until));
	snprintf(l->host, sizeof(l->host), "%s", host);
	snprintf(l->repo, sizeof(l->repo), "%s", repo);
}

int
layout_source(struct layout *l, const char *host, const char *repo)
{
	char now[SOURCE_MAX];
	_cleanup_free_ char *was = NULL;
	size_t len;
	int r;

	source_text(host, repo, now);
	r = store_read_file(l->file->dir, "source", SOURCE_MAX, &was, &len);
	if (r < 0 && r != -ENOENT)
		return r;
	if (!l->indexed && r == 0 && strcmp(was, now) != 0 && !l->complete &&
	    l->file->n_present)
		return -EXDEV;
	layout_move(l, host, repo);
	if (r == 0 && strcmp(was, now) == 0)
		return 0;
	return store_write_file(l->file->dir, "source", now, strlen(now));
}

/* ---- life ---- */

static void
layout_free(struct layout *l)
{
	if (l->file)
		l->file->layout = NULL;
	for (unsigned i = 0; i < l->n_leans; i++)
		file_put(l->leans[i]);
	file_put(l->file);
	free(l->index_bytes);
	free(l->homes);
	free(l->places);
	free(l->fills);
	free(l->mend);
	free(l);
}

static int
shape(struct layout *l, const struct layout_spec *spec)
{
	int r;

	l->indexed = !digest_equal(&l->key, &l->blob);
	l->unit = l->indexed ? MAP_BLOCK : UNIT_SIZE;
	l->n_chunks = (uint32_t)map_units(l->size, UNIT_SIZE);
	if (!l->indexed)
		return 0;
	r = spec->index ? index_take(l, spec) : index_read(l);
	return r < 0 ? r : index_use(l);
}

static void
lookup_all(struct layout *l)
{
	for (uint32_t c = 0; l->indexed && c < l->n_chunks; c++)
		if (layout_state(l, c) == CHUNK_ABSENT)
			layout_lookup(l, c);
}

static int
layout_load(struct layout *l, const struct layout_spec *spec)
{
	struct presence_header h = { .key = l->key, .size = l->size };
	int r = shape(l, spec);

	if (r < 0)
		return r;
	l->fills = calloc(l->n_chunks + 1, sizeof(struct fill *));
	if (!l->fills)
		return -ENOMEM;
	h.unit = l->indexed ? 0 : UNIT_SIZE;
	h.n_chunks = l->n_chunks;
	r = file_get(&h, &l->file);
	if (r < 0)
		return r;
	l->file->layout = l;
	lookup_all(l);
	if (layout_present(l) == l->n_chunks && l->file->complete)
		l->complete = l->proven = true;
	else {
		layout_revoke(l);
		lookup_all(l);	/* in any file, then */
	}
	read_failed(l);
	source_known(l);
	l->plain = read_plain(l);
	return 0;
}

int
layout_get(const struct layout_spec *spec, struct layout **out)
{
	struct layout *l = layout_find(&spec->key);
	int r;

	if (l) {
		if (l->size != spec->size ||
		    !digest_equal(&l->blob, &spec->blob))
			return -EPROTO;	/* of an attached device */
		l->refs++;
		*out = l;
		return 0;
	}
	if (spec->size == 0 || spec->size > DEVICE_SIZE_MAX)
		return -EFBIG;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->refs = 1;
	l->key = spec->key;
	l->blob = spec->blob;
	l->size = spec->size;
	snprintf(l->host, sizeof(l->host), "%s", spec->host);
	snprintf(l->repo, sizeof(l->repo), "%s", spec->repo);
	TAILQ_INIT(&l->devices);
	TAILQ_INIT(&l->queues[FETCH_DEMAND]);
	TAILQ_INIT(&l->queues[FETCH_AHEAD]);
	r = layout_load(l, spec);
	if (r < 0) {
		layout_free(l);
		return r;
	}
	TAILQ_INSERT_TAIL(&layouts, l, entry);
	fetch_layout_new(l);
	finish_check(l);
	*out = l;
	return 0;
}

void
layout_put(struct layout *l)
{
	if (!l || --l->refs > 0)
		return;
	if (finish_settles(l)) {
		l->settling = true;
		l->refs = 1;
		return;
	}
	TAILQ_REMOVE(&layouts, l, entry);
	fetch_layout_gone(l);
	layout_free(l);
	room_changed();
}

void
layout_settled(struct layout *l)
{
	if (!l->settling || finish_settles(l))
		return;
	l->settling = false;
	layout_put(l);
}

void
layout_quarantine(struct layout *l)
{
	struct digest_hex hex = digest_to_hex(&l->key);
	char to[DIGEST_HEX + 32];

	l->failed = true;
	l->complete = false;
	if (store_write_file(l->file->dir, "failed", l->last_error,
	    strlen(l->last_error)) < 0)
		log_err("record that %.12s failed: %s", hex.text,
		    strerror(errno));
	snprintf(to, sizeof(to), "%s.%016" PRIx64, hex.text,
	    l->file->h.file_id);
	file_kill(l->file, to);
}

int
layout_start_anew(struct layout **l)
{
	struct layout *old = *l;
	struct layout_spec spec = { .key = old->key, .blob = old->blob,
		.size = old->size };
	char host[REF_HOST_MAX + 1], repo[REF_REPO_MAX + 1];
	int r;

	if (old->refs > 1)
		return -EBUSY;
	memcpy(host, old->host, sizeof(host));
	memcpy(repo, old->repo, sizeof(repo));
	spec.host = host;
	spec.repo = repo;
	r = disk_unlink(old->file->dir, "failed");
	if (r < 0)
		return r;
	if (!old->file->dead)
		file_kill(old->file, NULL);
	layout_put(old);
	*l = NULL;
	return layout_get(&spec, l);
}
