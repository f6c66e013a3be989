// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes the FUSE parser: the input is requests behind each other, each with
 * two bytes before it that say how many read(2) gave.  What was parsed must be
 * the request's own, a READ must stay within the file, and a reply must be as
 * long as it says.
 *
 * The corpus (tests/fuzz/corpus-fuse/) is made by make-corpus-fuse.py.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "devd/fuse_proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From its arguments on: bytes that the parser has from there. */
static void
same(const void *field, size_t width, const uint8_t *in, size_t at)
{
	assert(memcmp(field, in + FUSE_IN_HEADER + at, width) == 0);
}

static void
arguments(const struct fuse_request *q, const uint8_t *in)
{
	switch (q->opcode) {
	case FUSE_INIT:
		assert(q->minor >= FUSE_MINOR_OLDEST);
		assert(q->flags & FUSE_MAX_PAGES);
		same(&q->minor, 4, in, 4);
		same(&q->readahead, 4, in, 8);
		same(&q->flags, 4, in, 12);
		break;
	case FUSE_OPEN:
		same(&q->flags, 4, in, 0);
		break;
	case FUSE_READ:
		same(&q->handle, 8, in, 0);
		same(&q->offset, 8, in, 8);
		same(&q->length, 4, in, 16);
		same(&q->flags, 4, in, 32);
		break;
	case FUSE_RELEASE:
		same(&q->handle, 8, in, 0);
		break;
	case FUSE_INTERRUPT:
		same(&q->target, 8, in, 0);
		break;
	}
}

static void
reads(const struct fuse_request *q)
{
	const uint64_t sizes[] = { 1, 4095, 1 << 20, (UINT64_C(1) << 40) + 100,
		INT64_MAX };
	uint32_t length;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		if (fuse_read_length(q, sizes[i], &length) < 0) {
			assert(q->length > FUSE_READ_MAX);
			continue;
		}
		assert(length <= q->length && length <= FUSE_READ_MAX);
		assert(length == 0 || (q->offset < sizes[i] &&
		    length <= sizes[i] - q->offset));
		assert(length == q->length || q->offset >= sizes[i] ||
		    length == sizes[i] - q->offset);
	}
}

static void
reply(const struct fuse_request *q, const uint8_t *out, size_t len)
{
	uint32_t says;

	assert(len >= FUSE_OUT_HEADER && len <= FUSE_OUT_MAX);
	memcpy(&says, out, sizeof(says));
	assert(says == len);
	assert(memcmp(out + 8, &q->unique, sizeof(q->unique)) == 0);
}

static void
replies(const struct fuse_request *q)
{
	uint8_t out[FUSE_OUT_MAX];

	reply(q, out, fuse_put_error(out, q->unique, -ENOSYS));
	reply(q, out, fuse_put_init(out, q));
	reply(q, out, fuse_put_attr(out, q->unique, q->offset));
	reply(q, out, fuse_put_open(out, q->unique, q->unique, true));
	reply(q, out, fuse_put_statfs(out, q->unique, q->offset));
}

/* In a block of its own size, so that the sanitizer sees one byte too many. */
static void
request(const uint8_t *data, size_t len)
{
	uint8_t *in = malloc(len > 0 ? len : 1);
	struct fuse_request q = { 0 };
	uint32_t says = 0;
	int r;

	assert(in);
	memcpy(in, data, len);
	r = fuse_parse(in, len, &q);
	if (len >= sizeof(says))
		memcpy(&says, in, sizeof(says));
	assert((r == -EPROTO) == (len < FUSE_IN_HEADER || says != len));
	if (r != -EPROTO) {
		assert(memcmp(&q.opcode, in + 4, 4) == 0);
		assert(memcmp(&q.unique, in + 8, 8) == 0);
		replies(&q);
	}
	if (r == 0) {
		arguments(&q, in);
		reads(&q);
	}
	free(in);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	while (size >= 2) {
		size_t len = (size_t)data[0] | (size_t)data[1] << 8;

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		request(data, len);
		data += len;
		size -= len;
	}
	return 0;
}
