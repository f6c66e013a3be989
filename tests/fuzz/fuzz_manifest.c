// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes the pure parsers of names, manifests and presence files.  The first
 * byte chooses: m a manifest, r an image's name, d a digest, h the head of a
 * presence file, p one of its records.  What a parser accepts must be what it
 * would write itself.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "cached/cached.h"
#include "image/index.h"
#include "image/manifest.h"
#include "image/ref.h"

/* What record() is asked about */
#define FILE_ID		UINT64_C(0x0102030405060708)
#define GENERATION	UINT64_C(3)
#define SIZE		UINT64_C(987654321)
#define CHUNK		42

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
manifest(const char *text, size_t len)
{
	struct manifest m;
	const char *why = NULL;

	if (manifest_parse(text, len, "linux", "amd64", &m, &why) < 0) {
		assert(why);
		return;
	}
	assert(len <= MANIFEST_MAX);
	if (m.kind == MANIFEST_INDEX)
		assert(!m.has_erofs && !m.has_chunks && !m.has_subject &&
		    !m.has_index);
	else
		assert(!m.has_platform);
	assert(!m.has_index || (m.index_size > 0 &&
	    m.index_size <= INDEX_SIZE_MAX));
}

static void
name(const char *text)
{
	char again[REF_TEXT_MAX + DIGEST_TEXT + 4];
	struct digest_text digest;
	struct image_ref ref, same;
	const char *why = NULL;

	if (image_ref_parse(text, &ref, &why) < 0) {
		assert(why);
		return;
	}
	digest = digest_to_text(&ref.digest);
	for (const char *p = text; *p; p++)
		assert(*p > ' ' && *p < 0x7f && !strchr("\\\"'`$%?#&", *p));
	assert(!strstr(ref.repo, "..") && !strstr(ref.host, ".."));
	if (!ref.host[0])
		snprintf(again, sizeof(again), "%s", digest.text);
	else if (ref.has_digest)
		snprintf(again, sizeof(again), "%s/%s@%s", ref.host, ref.repo,
		    digest.text);
	else
		snprintf(again, sizeof(again), "%s/%s:%s", ref.host, ref.repo,
		    ref.tag);
	assert(image_ref_parse(again, &same, &why) == 0);
	assert(strcmp(ref.host, same.host) == 0);
	assert(strcmp(ref.repo, same.repo) == 0);
	assert(strcmp(ref.tag, same.tag) == 0);
	assert(ref.has_digest == same.has_digest);
	assert(!ref.has_digest || digest_equal(&ref.digest, &same.digest));
}

static void
digest(const char *text)
{
	struct digest d;

	if (digest_parse(text, &d) == 0)
		assert(strcmp(digest_to_text(&d).text, text) == 0);
}

/* The check is made to fit, or nothing would ever get past it. */
static void
header(uint8_t in[PRESENCE_HEADER])
{
	uint8_t again[PRESENCE_HEADER];
	struct presence_header h;
	struct digest check = digest_of(in, 80);

	memcpy(in + 80, check.bytes, 8);
	if (presence_get_header(in, &h) < 0)
		return;
	assert(h.unit == 0 || h.unit == UNIT_SIZE);
	assert(h.size > 0 && h.size <= DEVICE_SIZE_MAX);
	assert(h.n_chunks <= FILE_CHUNKS_MAX);
	presence_put_header(&h, again);
	assert(memcmp(in, again, 88) == 0);
}

static void
record(uint8_t in[PRESENCE_RECORD])
{
	const struct presence_header h = { .file_id = FILE_ID,
		.generation = GENERATION, .size = SIZE };
	uint8_t sealed[72], again[PRESENCE_RECORD];
	struct presence_record r;
	struct digest check;

	memcpy(sealed, in, 56);
	for (int i = 0; i < 8; i++) {
		sealed[56 + i] = (uint8_t)(FILE_ID >> (8 * i));
		sealed[64 + i] = (uint8_t)(GENERATION >> (8 * i));
	}
	check = digest_of(sealed, sizeof(sealed));
	memcpy(in + 56, check.bytes, 8);
	if (!presence_get(in, &h, CHUNK, &r))
		return;
	assert(r.length > 0 && r.length <= CHUNK_MAX);
	assert(r.offset % MAP_BLOCK == 0);
	assert(r.offset < SIZE && r.offset + r.length <= SIZE);
	presence_put(&h, CHUNK, &r, again);
	assert(memcmp(in, again, sizeof(again)) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = NULL;
	uint8_t page[PRESENCE_HEADER] = { 0 };

	if (size == 0)
		return 0;
	/* in a block of its own size, so that the sanitizer sees one byte too
	 * many; only names and digests end with a NUL */
	text = malloc(size);
	assert(text);
	memcpy(text, data + 1, size - 1);
	memcpy(page, text, size - 1 < sizeof(page) ? size - 1 : sizeof(page));
	switch (data[0]) {
	case 'm':
		manifest(text, size - 1);
		break;
	case 'r':
		text[size - 1] = '\0';
		name(text);
		break;
	case 'd':
		text[size - 1] = '\0';
		digest(text);
		break;
	case 'h':
		header(page);
		break;
	case 'p':
		record(page);
		break;
	}
	return 0;
}
