// SPDX-License-Identifier: Apache-2.0
/*
 * `shedpack inspect`: what a chunk index says, added up; for people, or as one
 * JSON object whose names are kept (docs/shedpack.1).
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/param.h>

#include "base/own.h"
#include "shedpack/shedpack.h"

#define KEY_WIDTH	12	/* of "key  value" lines */

struct sums {
	uint64_t zeros;		/* bytes of the device that are in no chunk */
	uint64_t unique;	/* bytes of all chunks */
	uint64_t stored;	/* bytes of all chunks in their blobs */
	uint64_t duplicate;	/* bytes of the device that are in a chunk
				 * that an earlier extent has */
	uint32_t zero_extents, duplicate_extents;
	uint32_t min, max;	/* bytes of a chunk */
};

static struct sums
add_up(const struct index *ix)
{
	struct sums s = { .min = UINT32_MAX };
	uint64_t in_chunks = 0;
	uint32_t chunk_extents = 0;

	for (uint32_t n = 0; n < ix->n_extents; n++) {
		struct index_extent e = index_extent(ix, n);

		if (e.chunk == INDEX_ZEROS) {
			s.zeros += e.length;
			s.zero_extents++;
		} else {
			in_chunks += e.length;
			chunk_extents++;
		}
	}
	for (uint32_t n = 0; n < ix->n_chunks; n++) {
		struct index_chunk c = index_chunk(ix, n);

		s.unique += c.length;
		s.stored += c.stored;
		s.min = MIN(s.min, c.length);
		s.max = MAX(s.max, c.length);
	}
	s.duplicate = in_chunks - s.unique;
	s.duplicate_extents = chunk_extents - ix->n_chunks;
	if (ix->n_chunks == 0)
		s.min = 0;
	return s;
}

static uint64_t
average(const struct index *ix, const struct sums *s)
{
	return ix->n_chunks ? s->unique / ix->n_chunks : 0;
}

static json_t *
blobs_json(const struct index *ix)
{
	json_t *rows = json_array();

	for (uint32_t n = 0; n < ix->n_blobs; n++) {
		struct index_blob b = index_blob(ix, n);

		json_array_append_new(rows, json_pack("{ss sI}", "digest",
		    digest_to_text(&b.digest).text, "size",
		    (json_int_t)b.size));
	}
	return rows;
}

static int
show_json(const struct layout *l, const struct sums *s, struct refusal *why)
{
	const struct index *ix = &l->index;
	json_t *root = json_pack(
	    "{s{ss sI} s{ss sI} si so si si s{si sI si}"
	    " s{sI sI sI sI}}",
	    "index", "digest", digest_to_text(&l->index_digest).text,
	    "size", (json_int_t)l->len,
	    "device", "digest", digest_to_text(&ix->device).text,
	    "size", (json_int_t)ix->device_size,
	    "cut", (int)ix->cut, "blobs", blobs_json(ix),
	    "chunks", (int)ix->n_chunks, "extents", (int)ix->n_extents,
	    "chunk", "min", (int)s->min, "average",
	    (json_int_t)average(ix, s), "max", (int)s->max,
	    "bytes", "zero", (json_int_t)s->zeros,
	    "duplicate", (json_int_t)s->duplicate,
	    "unique", (json_int_t)s->unique,
	    "stored", (json_int_t)s->stored);
	int r = 0;

	if (root && l->manifest)
		r = json_object_set_new(root, "manifest",
		    json_string(digest_to_text(&l->digest).text));
	if (root && r == 0)
		r = json_dumpf(root, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(root);
	return root && r == 0 ? 0 :
	    refuse(why, "no memory for the answer; free some");
}

static void
key(const char *name)
{
	printf("%-*s", KEY_WIDTH, name);
}

static void
show_blobs(const struct index *ix)
{
	for (uint32_t n = 0; n < ix->n_blobs; n++) {
		struct index_blob b = index_blob(ix, n);

		key(n == 0 ? "blobs" : "");
		printf("%s  %s%s\n", digest_to_text(&b.digest).text,
		    bar_size(b.size).text,
		    digest_equal(&b.digest, &ix->device) ?
		    "  (the device itself)" : "");
	}
}

static void
show(const struct layout *l, const struct sums *s)
{
	const struct index *ix = &l->index;

	key("index");
	printf("%s  %s\n", digest_to_text(&l->index_digest).text,
	    bar_size(l->len).text);
	if (l->manifest) {
		key("manifest");
		puts(digest_to_text(&l->digest).text);
	}
	key("device");
	printf("%s  %s (%" PRIu64 " bytes)\n",
	    digest_to_text(&ix->device).text, bar_size(ix->device_size).text,
	    ix->device_size);
	show_blobs(ix);
	key("chunks");
	printf("%" PRIu32 " of %s to %s, %s on average", ix->n_chunks,
	    bar_size(s->min).text, bar_size(s->max).text,
	    bar_size(average(ix, s)).text);
	if (ix->cut)
		printf("; cut version %" PRIu32 "\n", ix->cut);
	else
		printf("; not cut by content\n");
	key("stored");
	printf("%s of %s\n", bar_size(s->stored).text,
	    bar_size(s->unique).text);
	key("extents");
	printf("%" PRIu32 "\n", ix->n_extents);
	key("zeros");
	printf("%s in %" PRIu32 " extents\n", bar_size(s->zeros).text,
	    s->zero_extents);
	key("duplicates");
	printf("%s in %" PRIu32 " extents\n", bar_size(s->duplicate).text,
	    s->duplicate_extents);
}

int
pack_inspect(const struct arguments *a, struct refusal *why)
{
	_cleanup_(layout_done) struct layout l = LAYOUT_NONE;
	struct stat st;
	struct sums s;
	int r;

	r = stat(a->arg[0], &st) == 0 && S_ISDIR(st.st_mode) ?
	    layout_open(a->arg[0], &l, why) :
	    layout_open_file(a->arg[0], &l, why);
	if (r < 0)
		return r;
	s = add_up(&l.index);
	if (a->json)
		return show_json(&l, &s, why);
	show(&l, &s);
	return 0;
}
