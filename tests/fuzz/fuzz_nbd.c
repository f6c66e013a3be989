// SPDX-License-Identifier: Apache-2.0
/*
 * Fuzzes the NBD parsers: the input is what a client sends, options first and
 * requests behind GO.  Whatever a parser accepts is encoded again where that
 * is possible, and must lie within the input.
 *
 * The corpus (tests/fuzz/corpus-nbd/) is made by make-corpus-nbd.py.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "devd/nbd_proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
string_within(const struct nbd_string *s, const uint8_t *in, size_t len)
{
	const uint8_t *text = (const uint8_t *)s->text;

	assert(text >= in && text <= in + len);
	assert(s->len <= (size_t)(in + len - text));
}

/* In a block of its own size, so that the sanitizer sees one byte too many. */
static void
option(uint32_t type, const uint8_t *payload, size_t len)
{
	uint8_t *in = malloc(len + 1);
	struct nbd_meta meta;
	struct nbd_go go;

	assert(in);
	memcpy(in, payload, len);
	if (type % 2 == 0) {
		if (nbd_parse_go(in, len, &go) == 0)
			string_within(&go.name, in, len);
	} else if (nbd_parse_meta(in, len, type % 4 == 1, &meta) == 0) {
		string_within(&meta.name, in, len);
		assert(meta.contexts < 1 << NBD_CONTEXTS);
	}
	free(in);
}

static void
request(const uint8_t *in)
{
	struct nbd_session s = { .size = UINT64_C(1) << 30,
		.read_max = 1 << 22 };
	struct nbd_request q;
	uint8_t again[NBD_REQUEST_SIZE];

	if (nbd_parse_request(in, &q) < 0)
		return;
	nbd_put_u32(again, UINT32_C(0x25609513));
	nbd_put_u32(again + 4, (uint32_t)q.flags << 16 | q.type);
	nbd_put_u64(again + 8, q.cookie);
	nbd_put_u64(again + 16, q.offset);
	nbd_put_u32(again + 24, q.len);
	assert(memcmp(again, in, sizeof(again)) == 0);
	for (int i = 0; i < 4; i++) {
		s.structured = i & 1;
		s.contexts = i & 2 ? NBD_CONTEXT_RESIDENT : 0;
		if (nbd_check_request(&q, &s) != NBD_OK ||
		    q.type == NBD_CMD_FLUSH)
			continue;
		assert(q.type == NBD_CMD_READ || q.type == NBD_CMD_CACHE ||
		    q.type == NBD_CMD_BLOCK_STATUS);
		assert(q.offset <= s.size && q.len <= s.size - q.offset);
		assert(q.type != NBD_CMD_READ || q.len <= s.read_max);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_option o;
	uint32_t flags;

	if (size < NBD_CLIENT_FLAGS_SIZE)
		return 0;
	nbd_parse_client_flags(data, &flags);
	data += NBD_CLIENT_FLAGS_SIZE;
	size -= NBD_CLIENT_FLAGS_SIZE;
	while (size >= NBD_OPTION_HEADER && nbd_parse_option(data, &o) == 0) {
		data += NBD_OPTION_HEADER;
		size -= NBD_OPTION_HEADER;
		if (o.len > size)
			o.len = (uint32_t)size;
		option(o.type, data, o.len);
		data += o.len;
		size -= o.len;
	}
	for (; size >= NBD_REQUEST_SIZE; data += NBD_REQUEST_SIZE,
	    size -= NBD_REQUEST_SIZE)
		request(data);
	return 0;
}
