// SPDX-License-Identifier: Apache-2.0
/*
 * The log of record.h, read: entries, each about files by number, in the order
 * in which they were made.  See replay.h.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "tests/store/must.h"
#include "tests/store/replay_log.h"

const char *
record_name(const struct record *r, char out[NAME_BYTES])
{
	must(r->name_len < NAME_BYTES);
	memcpy(out, r + 1, r->name_len);
	out[r->name_len] = '\0';
	return out;
}

const char *
record_name2(const struct record *r, char out[NAME_BYTES])
{
	must(r->name2_len < NAME_BYTES);
	memcpy(out, (const char *)(r + 1) + r->name_len, r->name2_len);
	out[r->name2_len] = '\0';
	return out;
}

const uint8_t *
record_data(const struct record *r)
{
	return (const uint8_t *)(r + 1) + r->name_len + r->name2_len;
}

static size_t
node_new(struct replay *r, uint64_t ino)
{
	r->inos = need(realloc(r->inos, (r->n_nodes + 1) *
	    sizeof(*r->inos)));
	r->inos[r->n_nodes] = ino;
	return r->n_nodes++;
}

static size_t
node_find(const struct replay *r, uint64_t ino, size_t at)
{
	for (size_t n = r->n_nodes; n-- > 0;)
		if (r->inos[n] == ino)
			return n;
	fprintf(stderr, "entry %zu is about inode %llu, which was never made: "
	    "something changes the store past disk.h\n", at,
	    (unsigned long long)ino);
	abort();
}

static void
entry_resolve(struct replay *r, struct entry *e, size_t at)
{
	const struct record *rec = e->record;
	bool makes = rec->type == RECORD_CREATE || rec->type == RECORD_MKDIR;

	if (rec->type == RECORD_ROOT) {
		must(r->n_nodes == 0);
		e->dir = node_new(r, rec->dir);
		return;
	}
	if (rec->type == RECORD_MARK)
		return;
	if (rec->dir)
		e->dir = node_find(r, rec->dir, at);
	if (rec->dir2)
		e->dir2 = node_find(r, rec->dir2, at);
	if (makes)
		e->node = node_new(r, rec->ino);
	else if (rec->ino)
		e->node = node_find(r, rec->ino, at);
}

struct replay *
replay_open(int log_fd)
{
	struct replay *r = need(calloc(1, sizeof(*r)));
	struct stat st;

	must(fstat(log_fd, &st) == 0 && st.st_size > 0);
	r->map_len = (size_t)st.st_size;
	r->map = mmap(NULL, r->map_len, PROT_READ, MAP_SHARED, log_fd, 0);
	must(r->map != MAP_FAILED);
	for (size_t at = 0; at < r->map_len;) {
		const struct record *rec =
		    (const void *)((const char *)r->map + at);

		must(r->map_len - at >= sizeof(*rec) &&
		    rec->magic == RECORD_MAGIC &&
		    record_size(rec) <= r->map_len - at);
		if ((r->n_entries & (r->n_entries - 1)) == 0)
			r->entries = need(realloc(r->entries,
			    (r->n_entries * 2 + 1) * sizeof(*r->entries)));
		r->entries[r->n_entries] = (struct entry){ .record = rec };
		entry_resolve(r, &r->entries[r->n_entries], r->n_entries);
		r->n_entries++;
		at += record_size(rec);
	}
	return r;
}

void
replay_free(struct replay *r)
{
	if (!r)
		return;
	munmap(r->map, r->map_len);
	free(r->entries);
	free(r->inos);
	free(r);
}

size_t
replay_length(const struct replay *r)
{
	return r->n_entries;
}

const struct record *
replay_entry(const struct replay *r, size_t i)
{
	return r->entries[i].record;
}

uint64_t
replay_mark(const struct replay *r, size_t cut)
{
	while (cut-- > 0)
		if (r->entries[cut].record->type == RECORD_MARK)
			return r->entries[cut].record->offset;
	return 0;
}

/* ---- for a person ---- */

void
replay_print(const struct replay *r, size_t first, size_t end, FILE *to)
{
	static const char *const words[] = { "?", "root", "create", "mkdir",
		"write", "size", "reserve", "punch", "sync", "SYNC FAILED",
		"sync_dir", "rename", "unlink", "rmdir", "mark" };

	for (size_t i = first; i < end && i < r->n_entries; i++) {
		const struct entry *e = &r->entries[i];
		const struct record *rec = e->record;
		char name[NAME_BYTES], name2[NAME_BYTES];

		fprintf(to, "%6zu %-8s file %zu dir %zu/%s%s%s offset %llu "
		    "size %llu data %llu\n", i, rec->type < ARRAY_LEN(words) ?
		    words[rec->type] : "?", e->node, e->dir,
		    record_name(rec, name), rec->name2_len ? " -> " : "",
		    record_name2(rec, name2), (unsigned long long)rec->offset,
		    (unsigned long long)rec->size,
		    (unsigned long long)rec->data_len);
	}
}
