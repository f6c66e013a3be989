// SPDX-License-Identifier: Apache-2.0
/*
 * The chunk index.  tests/data/index/ is made by tests/tools/bad_index.py,
 * which knows the format from its description only: good-*, and bad-NAME, each
 * with a lie in one place; the table below has the reason that is due.  Runs
 * from the top of the checkout.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <string.h>

#include "base/fd.h"
#include "base/own.h"
#include "image/index.h"

#define DATA	"tests/data/index/"
#define BAD	DATA "bad-"
#define PAGE	4096

#define NOT_ZERO(what)	"what is reserved in " what " is not zero"
#define HEAD_NOT_ZERO	NOT_ZERO("its header")
#define BEHIND		"what lies behind a table is not zero"
#define DEVICE		"its device has no bytes, or more than 1 TiB"
#define PLACE		"a table is not where it belongs"
#define TOTAL		"its total size is not that of its tables"
#define LENGTH		"it is not as long as it says"
#define BLOB_ORDER	"its blobs are not in the order of their digests"
#define BLOB_SIZE	"a blob has no bytes, or 2^63 and more"
#define NO_BLOB		"a chunk is in a blob that is not there"
#define CODEC		"a chunk has an unknown codec"
#define CHUNK_LENGTH	"a chunk has no bytes, or more than 256 KiB"
#define STORED_0	"a chunk is stored in no bytes"
#define RAW		"a raw chunk is stored in more or fewer bytes than it has"
#define ZSTD		"a compressed chunk is no shorter than a raw one"
#define BEYOND		"a chunk goes beyond its blob"
#define OVERLAP		"two chunks overlap in their blob"
#define CHUNK_ORDER	"its chunks are not in the order of their first extents"
#define NOT_AT_0	"its first extent is not at 0"
#define GAP		"there is a gap between extents, or they overlap"
#define UNALIGNED	"an extent is not at a multiple of 4096"
#define EMPTY_EXTENT	"an extent has no bytes"
#define NO_CHUNK	"an extent is of a chunk that is not there"
#define UNLIKE		"an extent is not as long as its chunk"
#define END		"its extents do not end where its device does"

static const struct {
	const char *name, *why;
} bad[] = {
	{ "empty", "it is shorter than its header" },
	{ "header-cut", "it is shorter than its header" },
	{ "magic", "it does not begin with SHEDIDX1" },
	{ "version-2", "its version is not 1" },
	{ "version-big-endian", "its version is not 1" },
	{ "reserved", HEAD_NOT_ZERO },
	{ "reserved-behind", HEAD_NOT_ZERO },
	{ "reserved-end", HEAD_NOT_ZERO },
	{ "device-0", DEVICE },
	{ "device-nothing", DEVICE },
	{ "device-over", DEVICE },
	{ "device-max", DEVICE },
	{ "count-blobs", "it has too many blobs" },
	{ "count-blobs-max", "it has too many blobs" },
	{ "count-chunks", "it has too many chunks" },
	{ "count-chunks-max", "it has too many chunks" },
	{ "count-extents", "it has too many extents" },
	{ "count-extents-max", "it has too many extents" },
	{ "count-blobs-fewer", BEHIND },
	{ "count-chunks-fewer", BEHIND },
	{ "count-extents-fewer", BEHIND },
	{ "count-blobs-page", PLACE },
	{ "table-blobs", PLACE },
	{ "table-chunks", PLACE },
	{ "table-extents", PLACE },
	{ "table-moved", PLACE },
	{ "total-less", TOTAL },
	{ "total-max", TOTAL },
	{ "cut-byte", LENGTH },
	{ "cut-page", LENGTH },
	{ "longer-byte", LENGTH },
	{ "longer-page", LENGTH },
	{ "padding-blobs", BEHIND },
	{ "padding-chunks", BEHIND },
	{ "padding-extents", BEHIND },

	{ "blob-order", BLOB_ORDER },
	{ "blob-twice", BLOB_ORDER },
	{ "blob-unused", "a blob has none of its chunks" },
	{ "blob-unused-first", "a blob has none of its chunks" },
	{ "blob-size-0", BLOB_SIZE },
	{ "blob-size-over", BLOB_SIZE },
	{ "blob-size-max", BLOB_SIZE },
	{ "blob-reserved", NOT_ZERO("a blob") },

	{ "chunk-blob", NO_BLOB },
	{ "chunk-blob-max", NO_BLOB },
	{ "chunk-codec", CODEC },
	{ "chunk-codec-max", CODEC },
	{ "chunk-length-0", CHUNK_LENGTH },
	{ "chunk-length-max", CHUNK_LENGTH },
	{ "chunk-length-over", CHUNK_LENGTH },
	{ "chunk-odd", "a chunk is no multiple of 4096 bytes" },
	{ "chunk-stored-0", STORED_0 },
	{ "chunk-raw-stored-0", STORED_0 },
	{ "chunk-raw-less", RAW },
	{ "chunk-raw-more", RAW },
	{ "chunk-zstd-equal", ZSTD },
	{ "chunk-beyond", BEYOND },
	{ "chunk-beyond-raw", BEYOND },
	{ "chunk-beyond-offset", BEYOND },
	{ "chunk-wraps", BEYOND },
	{ "chunk-wraps-to-0", BEYOND },
	{ "chunk-overlap", OVERLAP },
	{ "chunk-overlap-same", OVERLAP },
	{ "chunk-overlap-within", OVERLAP },
	{ "chunk-order", CHUNK_ORDER },
	{ "chunk-unused", "a chunk is in none of its extents" },
	{ "chunk-twice", "two chunks have the same digest" },
	{ "chunk-reserved", NOT_ZERO("a chunk") },
	{ "chunk-reserved-end", NOT_ZERO("a chunk") },

	{ "extent-start", NOT_AT_0 },
	{ "extent-start-max", NOT_AT_0 },
	{ "extent-gap", GAP },
	{ "extent-overlap", GAP },
	{ "extent-odd", GAP },
	{ "extent-odd-chunk", UNALIGNED },
	{ "extent-order", GAP },
	{ "extent-length-0", EMPTY_EXTENT },
	{ "extent-length-last-0", EMPTY_EXTENT },
	{ "extent-length-less", UNLIKE },
	{ "extent-length-max", END },
	{ "extent-wraps", END },
	{ "extent-chunk", NO_CHUNK },
	{ "extent-chunk-max", NO_CHUNK },
	{ "extent-chunk-early", CHUNK_ORDER },
	{ "extent-zeros-twice", "two extents of zeros follow each other" },
	{ "extent-zeros-odd", "an extent of zeros is no multiple of 4096 bytes" },
	{ "extent-reserved", NOT_ZERO("an extent") },
	{ "extent-reserved-end", NOT_ZERO("an extent") },
	{ "extent-none", END },
	{ "device-less", END },
	{ "device-more", END },
};

static struct digest
digest_text(const char *text)
{
	return digest_of(text, strlen(text));
}

/* A digest that differs from those of other numbers, and is in their order. */
static struct digest
digest_number(uint32_t n)
{
	struct digest d = { { (uint8_t)(n >> 24), (uint8_t)(n >> 16),
	    (uint8_t)(n >> 8), (uint8_t)n } };

	return d;
}

/* What good-base holds; the tables are filled in by base_parts(). */
static struct index_blob blobs[2];
static struct index_chunk chunks[4];
static struct index_extent extents[6];

static struct index_parts
base_parts(void)
{
	struct digest a = digest_text("blob a"), b = digest_text("blob b");
	uint32_t na = memcmp(&a, &b, sizeof(a)) > 0, nb = 1 - na;

	blobs[na] = (struct index_blob){ a, 12288 };
	blobs[nb] = (struct index_blob){ b, 70000 };
	chunks[0] = (struct index_chunk){ digest_text("chunk 0"), na, CODEC_RAW, 4096, 8192, 8192 };
	chunks[1] = (struct index_chunk){ digest_text("chunk 1"), nb, CODEC_ZSTD, 5000, 65000, 98304 };
	chunks[2] = (struct index_chunk){ digest_text("chunk 2"), na, CODEC_RAW, 0, 4096, 4096 };
	chunks[3] = (struct index_chunk){ digest_text("chunk 3"), nb, CODEC_ZSTD, 0, 3000, 5000 };
	extents[0] = (struct index_extent){ 0, 8192, 0 };
	extents[1] = (struct index_extent){ 8192, 12288, INDEX_ZEROS };
	extents[2] = (struct index_extent){ 20480, 98304, 1 };
	extents[3] = (struct index_extent){ 118784, 8192, 0 };
	extents[4] = (struct index_extent){ 126976, 4096, 2 };
	extents[5] = (struct index_extent){ 131072, 5000, 3 };
	return (struct index_parts){ 136072, digest_text("device"), 1, blobs,
		chunks, extents, 2, 4, 6 };
}

/* In a block of its own size, for the sanitizer. */
static uint8_t *
load(const char *path, size_t *len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	uint8_t *bytes;

	if (fd < 0 || fd_read_text(fd, 1 << 20, &text, len) < 0)
		fail_msg("can't read %s", path);
	bytes = malloc(*len + !*len);
	memcpy(bytes, text, *len);
	return bytes;
}

/* What was parsed is written again: the same bytes. */
static void
assert_canonical(const struct index *ix)
{
	_cleanup_free_ struct index_blob *b = calloc(ix->n_blobs + 1, sizeof(*b));
	_cleanup_free_ struct index_chunk *c = calloc(ix->n_chunks + 1, sizeof(*c));
	_cleanup_free_ struct index_extent *e = calloc(ix->n_extents + 1, sizeof(*e));
	_cleanup_free_ uint8_t *again = NULL;
	struct index_parts parts = { ix->device_size, ix->device, ix->cut, b, c,
		e, ix->n_blobs, ix->n_chunks, ix->n_extents };
	const char *why = NULL;
	size_t len;

	for (uint32_t n = 0; n < ix->n_blobs; n++)
		b[n] = index_blob(ix, n);
	for (uint32_t n = 0; n < ix->n_chunks; n++)
		c[n] = index_chunk(ix, n);
	for (uint32_t n = 0; n < ix->n_extents; n++)
		e[n] = index_extent(ix, n);
	if (index_write(&parts, &again, &len, &why) != 0)
		fail_msg("written again it is refused: %s", why);
	assert_int_equal(len, ix->len);
	assert_memory_equal(again, ix->bytes, len);
}

/* The parts are taken, and come back as they were; the bytes (freed by the
 * caller). */
static uint8_t *
assert_taken(const struct index_parts *parts, struct index *ix)
{
	uint8_t *bytes;
	const char *why = NULL;
	size_t len;

	if (index_write(parts, &bytes, &len, &why) != 0)
		fail_msg("refused: %s", why);
	assert_int_equal(index_parse(bytes, len, ix, &why), 0);
	assert_canonical(ix);
	return bytes;
}

static void
assert_refused(const struct index_parts *parts, const char *reason)
{
	uint8_t *bytes = NULL;
	const char *why = NULL;
	size_t len = 7;

	assert_int_equal(index_write(parts, &bytes, &len, &why), -EINVAL);
	assert_string_equal(why, reason);
	assert_null(bytes);
	assert_int_equal(len, 7);
}

static void
test_an_index_is_written_as_specified(void **state)
{
	struct index_parts parts = base_parts();
	_cleanup_free_ uint8_t *want = NULL, *got = NULL;
	const char *why = NULL;
	size_t want_len, got_len;

	(void)state;
	want = load(DATA "good-base", &want_len);
	assert_int_equal(index_write(&parts, &got, &got_len, &why), 0);
	assert_int_equal(got_len, want_len);
	assert_memory_equal(got, want, want_len);
}

static void
test_an_index_is_read_as_it_was_written(void **state)
{
	struct index_parts parts = base_parts();
	_cleanup_free_ uint8_t *bytes = NULL;
	const char *why = NULL;
	struct index ix;
	size_t len;

	(void)state;
	bytes = load(DATA "good-base", &len);
	assert_int_equal(index_parse(bytes, len, &ix, &why), 0);
	assert_int_equal(ix.device_size, 136072);
	assert_true(digest_equal(&ix.device, &parts.device));
	assert_int_equal(ix.cut, 1);
	assert_int_equal(ix.n_blobs, 2);
	assert_int_equal(ix.n_chunks, 4);
	assert_int_equal(ix.n_extents, 6);
	for (uint32_t n = 0; n < 2; n++) {
		struct index_blob b = index_blob(&ix, n);

		assert_memory_equal(&b, &blobs[n], sizeof(b));
	}
	for (uint32_t n = 0; n < 4; n++) {
		struct index_chunk c = index_chunk(&ix, n);

		assert_memory_equal(&c, &chunks[n], sizeof(c));
	}
	for (uint32_t n = 0; n < 6; n++) {
		struct index_extent e = index_extent(&ix, n);

		assert_int_equal(e.offset, extents[n].offset);
		assert_int_equal(e.length, extents[n].length);
		assert_int_equal(e.chunk, extents[n].chunk);
	}
	assert_canonical(&ix);
}

static void
test_a_device_of_zeros_has_no_blobs_and_no_chunks(void **state)
{
	const struct index_extent all = { 0, 5000, INDEX_ZEROS };
	struct index_parts parts = { .device_size = 5000, .extents = &all,
		.n_extents = 1 };
	_cleanup_free_ uint8_t *bytes = NULL, *file = NULL;
	const char *why = NULL;
	struct index ix;
	size_t len;

	(void)state;
	bytes = assert_taken(&parts, &ix);
	assert_int_equal(ix.len, 2 * PAGE);
	assert_int_equal(index_find(&ix, 4999), 0);
	file = load(DATA "good-zeros", &len);
	assert_int_equal(index_parse(file, len, &ix, &why), 0);
	assert_int_equal(ix.device_size, INDEX_DEVICE_MAX);
	assert_int_equal(index_find(&ix, INDEX_DEVICE_MAX - 1), 0);
	assert_canonical(&ix);
}

static const char *
reason_for(const char *path)
{
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (strcmp(path + strlen(BAD), bad[i].name) == 0)
			return bad[i].why;
	fail_msg("no reason is known for %s", path);
	return NULL;
}

static void
test_each_bad_index_is_refused_with_its_reason(void **state)
{
	glob_t files;

	(void)state;
	assert_int_equal(glob(BAD "*", 0, NULL, &files), 0);
	assert_int_equal(files.gl_pathc, ARRAY_LEN(bad));
	for (size_t i = 0; i < files.gl_pathc; i++) {
		const char *path = files.gl_pathv[i], *why = NULL;
		struct index ix = { .n_blobs = 99 };
		_cleanup_free_ uint8_t *bytes = NULL;
		size_t len;

		bytes = load(path, &len);
		if (index_parse(bytes, len, &ix, &why) != -EINVAL)
			fail_msg("accepted %s", path);
		if (strcmp(why, reason_for(path)) != 0)
			fail_msg("%s: %s", path, why);
		assert_int_equal(ix.n_blobs, 99);
	}
	globfree(&files);
}

static void
test_an_index_past_the_limit_is_refused(void **state)
{
	_cleanup_free_ uint8_t *bytes = calloc(1, INDEX_SIZE_MAX + 1);
	const char *why = NULL;
	struct index ix;

	(void)state;
	assert_int_equal(index_parse(bytes, INDEX_SIZE_MAX + 1, &ix, &why),
	    -EINVAL);
	assert_string_equal(why, "it is longer than 64 MiB");
	assert_int_equal(index_parse(bytes, INDEX_SIZE_MAX, &ix, &why),
	    -EINVAL);
	assert_string_equal(why, "it does not begin with SHEDIDX1");
}

static void
test_every_beginning_of_an_index_is_refused(void **state)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len;

	(void)state;
	bytes = load(DATA "good-base", &len);
	for (size_t cut = 0; cut < len; cut += cut % PAGE < 200 ? 1 : 97) {
		_cleanup_free_ uint8_t *head = malloc(cut + !cut);
		const char *why = NULL;
		struct index ix;

		memcpy(head, bytes, cut);
		assert_int_equal(index_parse(head, cut, &ix, &why), -EINVAL);
		assert_non_null(why);
	}
}

/* Whatever is accepted is what would be written; all that may differ in the
 * base are digests, the cut version, what is free in sizes and offsets. */
static void
test_no_byte_can_differ_unseen(void **state)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len, accepted = 0;

	(void)state;
	bytes = load(DATA "good-base", &len);
	for (size_t at = 0; at < len; at++)
		for (unsigned bit = 1; bit < 256; bit <<= 1) {
			const char *why = NULL;
			struct index ix;
			int r;

			bytes[at] ^= (uint8_t)bit;
			r = index_parse(bytes, len, &ix, &why);
			if (r == 0) {
				accepted++;
				assert_canonical(&ix);
			} else
				assert_int_equal(r, -EINVAL);
			bytes[at] ^= (uint8_t)bit;
		}
	/* digests: the device's and the chunks' 5 * 256 bits, and most of the
	 * blobs'; 4 bytes of cut version; some bits of sizes and offsets */
	assert_in_range(accepted, 6 * 256 + 32, 7 * 256 + 32 + 300);
}

static void
test_a_writer_gets_the_reason_too(void **state)
{
	struct index_parts parts = base_parts();

	(void)state;
	chunks[1].stored = 98304;
	assert_refused(&parts, ZSTD);
	parts = base_parts();
	parts.device_size++;
	assert_refused(&parts, END);
	/* beyond the device nothing is looked at */
	parts = base_parts();
	parts.device_size = 122880;
	extents[4].length = 0;
	assert_refused(&parts, END);
	parts = base_parts();
	parts.device_size = 0;
	assert_refused(&parts, DEVICE);
	/* refused before a table is read */
	parts = (struct index_parts){ .device_size = 1,
		.n_blobs = INDEX_BLOBS_MAX + 1 };
	assert_refused(&parts, "it has too many blobs");
	parts = (struct index_parts){ .device_size = 1, .n_chunks = UINT32_MAX };
	assert_refused(&parts, "it has too many chunks");
	parts = (struct index_parts){ .device_size = 1,
		.n_extents = UINT32_MAX };
	assert_refused(&parts, "it has too many extents");
}

static void
test_a_device_may_be_one_short_chunk(void **state)
{
	const struct index_blob blob = { digest_text("blob"), 1 };
	const struct index_chunk chunk = { digest_text(""), 0, CODEC_RAW, 0, 1,
		1 };
	const struct index_extent extent = { 0, 1, 0 };
	struct index_parts parts = { 1, digest_text(""), 1, &blob, &chunk,
		&extent, 1, 1, 1 };
	_cleanup_free_ uint8_t *bytes = NULL;
	struct index ix;

	(void)state;
	bytes = assert_taken(&parts, &ix);
	assert_int_equal(index_find(&ix, 0), 0);
}

#define MANY	8

/* Chunks and stored ranges descend, so that their order is of no help. */
static void
test_no_two_chunks_may_be_the_same_or_overlap(void **state)
{
	const struct index_blob two[] = { { digest_number(0), MANY * PAGE },
		{ digest_number(1), MANY * PAGE } };
	struct index_chunk c[MANY];
	struct index_extent e[MANY];
	struct index_parts parts = { MANY * PAGE, digest_text(""), 1, two, c, e,
		2, MANY, MANY };
	_cleanup_free_ uint8_t *bytes = NULL;
	struct index ix;

	(void)state;
	for (uint32_t n = 0; n < MANY; n++) {
		c[n] = (struct index_chunk){ digest_number(MANY - n), n % 2,
			CODEC_RAW, (MANY - 1 - n) * PAGE, PAGE, PAGE };
		e[n] = (struct index_extent){ n * PAGE, PAGE, n };
	}
	bytes = assert_taken(&parts, &ix);
	for (uint32_t a = 0; a < MANY; a++)
		for (uint32_t b = 0; b < MANY; b++) {
			const struct index_chunk was = c[a];
			uint8_t *taken;

			if (a == b)
				continue;
			c[a].digest = c[b].digest;
			assert_refused(&parts,
			    "two chunks have the same digest");
			c[a] = was;
			c[a].offset = c[b].offset;
			if (a % 2 == b % 2)
				assert_refused(&parts, OVERLAP);
			else {	/* in the other blob it is free */
				taken = assert_taken(&parts, &ix);
				free(taken);
			}
			c[a].offset = c[b].offset + (b ? PAGE - 1 : -1);
			if (a % 2 == b % 2)
				assert_refused(&parts, OVERLAP);
			c[a] = was;
		}
}

static void
test_each_byte_of_the_device_is_found_in_its_extent(void **state)
{
	struct index_parts parts = base_parts();
	_cleanup_free_ uint8_t *bytes = NULL;
	struct index ix;

	(void)state;
	bytes = assert_taken(&parts, &ix);
	for (uint32_t n = 0; n < ix.n_extents; n++) {
		struct index_extent e = index_extent(&ix, n);

		assert_int_equal(index_find(&ix, e.offset), n);
		assert_int_equal(index_find(&ix, e.offset + e.length / 2), n);
		assert_int_equal(index_find(&ix, e.offset + e.length - 1), n);
	}
}

/* The largest of what may be large. */
static void
test_what_is_at_a_bound_is_taken(void **state)
{
	const struct index_blob blob = { digest_text("blob"), INT64_MAX };
	const struct index_chunk two[] = {
		{ digest_text("0"), 0, CODEC_RAW,
		    INT64_MAX - INDEX_CHUNK_MAX, INDEX_CHUNK_MAX,
		    INDEX_CHUNK_MAX },
		{ digest_text("1"), 0, CODEC_ZSTD,
		    INT64_MAX - 2 * INDEX_CHUNK_MAX + 1, INDEX_CHUNK_MAX - 1,
		    INDEX_CHUNK_MAX },
	};
	const struct index_extent all[] = {
		{ 0, INDEX_CHUNK_MAX, 0 },
		{ INDEX_CHUNK_MAX, INDEX_DEVICE_MAX - 2 * INDEX_CHUNK_MAX,
		    INDEX_ZEROS },
		{ INDEX_DEVICE_MAX - INDEX_CHUNK_MAX, INDEX_CHUNK_MAX, 1 },
	};
	struct index_parts parts = { INDEX_DEVICE_MAX, digest_text(""),
		UINT32_MAX, &blob, two, all, 1, 2, 3 };
	_cleanup_free_ uint8_t *bytes = NULL;
	struct index ix;

	(void)state;
	bytes = assert_taken(&parts, &ix);
	assert_int_equal(ix.cut, UINT32_MAX);
	assert_int_equal(index_blob(&ix, 0).size, INT64_MAX);
	assert_int_equal(index_find(&ix, INDEX_DEVICE_MAX - 1), 2);
}

/* As many of each as there may be: every second extent is of zeros. */
static void
test_a_full_index_is_taken(void **state)
{
	_cleanup_free_ struct index_blob *b = calloc(INDEX_BLOBS_MAX, sizeof(*b));
	_cleanup_free_ struct index_chunk *c = calloc(INDEX_CHUNKS_MAX, sizeof(*c));
	_cleanup_free_ struct index_extent *e = calloc(INDEX_EXTENTS_MAX, sizeof(*e));
	struct index_parts parts = { (uint64_t)INDEX_EXTENTS_MAX * PAGE,
		digest_text("full"), 0, b, c, e, INDEX_BLOBS_MAX,
		INDEX_CHUNKS_MAX, INDEX_EXTENTS_MAX };
	_cleanup_free_ uint8_t *bytes = NULL;
	const uint32_t each = INDEX_CHUNKS_MAX / INDEX_BLOBS_MAX;
	struct index ix;

	(void)state;
	for (uint32_t n = 0; n < INDEX_BLOBS_MAX; n++)
		b[n] = (struct index_blob){ digest_number(n), each * PAGE };
	for (uint32_t n = 0; n < INDEX_CHUNKS_MAX; n++)	/* backwards */
		c[n] = (struct index_chunk){ digest_number(~n),
			INDEX_BLOBS_MAX - 1 - n / each, CODEC_RAW,
			(uint64_t)(each - 1 - n % each) * PAGE, PAGE, PAGE };
	for (uint32_t n = 0; n < INDEX_EXTENTS_MAX; n++)
		e[n] = (struct index_extent){ (uint64_t)n * PAGE, PAGE,
			n % 2 ? INDEX_ZEROS : n / 2 };
	bytes = assert_taken(&parts, &ix);
	assert_in_range(ix.len, 1, INDEX_SIZE_MAX);
	for (uint32_t n = 0; n < INDEX_EXTENTS_MAX; n += 9973)
		assert_int_equal(index_find(&ix, (uint64_t)n * PAGE + 1), n);

	c[INDEX_CHUNKS_MAX - 1].digest = c[0].digest;
	assert_refused(&parts, "two chunks have the same digest");
}

static uint32_t
random_below(uint64_t *seed, uint32_t n)
{
	*seed = *seed * UINT64_C(6364136223846793005) +
	    UINT64_C(1442695040888963407);
	return (uint32_t)(*seed >> 33) % n;
}

#define PIECES	300

/* One that keeps all rules, with a chunk or zeros for each piece. */
static struct index_parts
random_parts(uint64_t *seed, struct index_blob *b, struct index_chunk *c,
    struct index_extent *e)
{
	struct index_parts p = { .cut = 1, .blobs = b, .chunks = c,
		.extents = e };
	uint32_t pieces = 1 + random_below(seed, PIECES), n_blobs;

	n_blobs = 1 + random_below(seed, 4);
	for (uint32_t i = 0; i < n_blobs; i++)
		b[i] = (struct index_blob){ digest_number(i * 1000), 0 };
	while (p.n_extents < pieces) {
		struct index_extent *x = &e[p.n_extents];
		uint32_t kind = random_below(seed, 4);
		uint32_t short_by = p.n_extents == pieces - 1 ?
		    random_below(seed, PAGE) : 0;

		x->offset = p.device_size;
		if (kind == 0 && (p.n_extents == 0 ||
		    x[-1].chunk != INDEX_ZEROS)) {
			x->chunk = INDEX_ZEROS;
			x->length = (1 + random_below(seed, 1 << 20)) *
			    (uint64_t)PAGE - short_by;
		} else if (kind == 1 && p.n_chunks > 0) {
			x->chunk = random_below(seed, p.n_chunks);
			x->length = c[x->chunk].length;
		} else {
			struct index_chunk *k = &c[p.n_chunks];
			struct index_blob *in;

			k->digest = digest_number(random_below(seed, 1 << 20) *
			    1000 + p.n_chunks);
			k->blob = p.n_chunks < n_blobs ? p.n_chunks :
			    random_below(seed, n_blobs);
			in = &b[k->blob];
			k->codec = random_below(seed, 2);
			k->length = (1 + random_below(seed, 64)) * PAGE -
			    short_by;
			if (k->length < 2)
				k->codec = CODEC_RAW;
			k->stored = k->codec == CODEC_RAW ? k->length :
			    1 + random_below(seed, k->length - 1);
			k->offset = in->size + random_below(seed, 3);
			in->size = k->offset + k->stored;
			x->chunk = p.n_chunks++;
			x->length = k->length;
		}
		p.device_size += x->length;
		p.n_extents++;
	}
	p.n_blobs = p.n_chunks < n_blobs ? p.n_chunks : n_blobs;
	return p;
}

static void
test_any_legal_parts_come_back(void **state)
{
	static struct index_blob b[4];
	static struct index_chunk c[PIECES];
	static struct index_extent e[PIECES];
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 500; i++) {
		struct index_parts p = random_parts(&seed, b, c, e);
		_cleanup_free_ uint8_t *bytes = NULL;
		struct index ix;

		bytes = assert_taken(&p, &ix);
		assert_int_equal(ix.device_size, p.device_size);
		for (uint32_t n = 0; n < p.n_chunks; n++) {
			struct index_chunk k = index_chunk(&ix, n);

			assert_memory_equal(&k, &c[n], sizeof(k));
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_index_is_written_as_specified),
		cmocka_unit_test(test_an_index_is_read_as_it_was_written),
		cmocka_unit_test(
		    test_a_device_of_zeros_has_no_blobs_and_no_chunks),
		cmocka_unit_test(
		    test_each_bad_index_is_refused_with_its_reason),
		cmocka_unit_test(test_an_index_past_the_limit_is_refused),
		cmocka_unit_test(test_every_beginning_of_an_index_is_refused),
		cmocka_unit_test(test_no_byte_can_differ_unseen),
		cmocka_unit_test(test_a_writer_gets_the_reason_too),
		cmocka_unit_test(test_a_device_may_be_one_short_chunk),
		cmocka_unit_test(
		    test_no_two_chunks_may_be_the_same_or_overlap),
		cmocka_unit_test(
		    test_each_byte_of_the_device_is_found_in_its_extent),
		cmocka_unit_test(test_what_is_at_a_bound_is_taken),
		cmocka_unit_test(test_a_full_index_is_taken),
		cmocka_unit_test(test_any_legal_parts_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
