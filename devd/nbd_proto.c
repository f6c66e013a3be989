// SPDX-License-Identifier: Apache-2.0
/*
 * The NBD protocol as pure functions of bytes: see nbd_proto.h.  Parsers read
 * through a cursor that can't leave its input; encoders write into a buffer
 * that the caller made large enough, and return what they wrote.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "devd/nbd_proto.h"

#define NBDMAGIC	UINT64_C(0x4e42444d41474943)
#define IHAVEOPT	UINT64_C(0x49484156454f5054)
#define OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)
#define REQUEST_MAGIC	UINT32_C(0x25609513)
#define SIMPLE_MAGIC	UINT32_C(0x67446698)
#define CHUNK_MAGIC	UINT32_C(0x668e33ef)

static const struct {
	enum nbd_context context;
	const char *namespace, *leaf;
	const char *name;
} contexts[NBD_CONTEXTS] = {
	{ NBD_CONTEXT_ALLOCATION, "base:", "allocation", "base:allocation" },
	{ NBD_CONTEXT_RESIDENT, "x-shedstream:", "resident",
	    "x-shedstream:resident" },
};

/* ---- numbers ---- */

struct cursor {
	const uint8_t *at;
	size_t left;
};

static bool
take(struct cursor *c, size_t n, const uint8_t **out)
{
	if (c->left < n)
		return false;
	*out = c->at;
	c->at += n;
	c->left -= n;
	return true;
}

static uint64_t
get(const uint8_t *in, int bytes)
{
	uint64_t v = 0;

	while (bytes-- > 0)
		v = v << 8 | *in++;
	return v;
}

static bool
take_u16(struct cursor *c, uint16_t *out)
{
	const uint8_t *p;

	if (!take(c, 2, &p))
		return false;
	*out = (uint16_t)get(p, 2);
	return true;
}

static bool
take_u32(struct cursor *c, uint32_t *out)
{
	const uint8_t *p;

	if (!take(c, 4, &p))
		return false;
	*out = (uint32_t)get(p, 4);
	return true;
}

static bool
take_string(struct cursor *c, struct nbd_string *out)
{
	const uint8_t *p;
	uint32_t len;

	if (!take_u32(c, &len) || len > NBD_STRING_MAX || !take(c, len, &p))
		return false;
	*out = (struct nbd_string){ (const char *)p, len };
	return true;
}

static size_t
put(uint8_t *out, uint64_t v, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--) {
		out[i] = (uint8_t)v;
		v >>= 8;
	}
	return (size_t)bytes;
}

static size_t
put_u16(uint8_t *out, uint16_t v)
{
	return put(out, v, 2);
}

size_t
nbd_put_u32(uint8_t *out, uint32_t v)
{
	return put(out, v, 4);
}

size_t
nbd_put_u64(uint8_t *out, uint64_t v)
{
	return put(out, v, 8);
}

/* ---- negotiation ---- */

void
nbd_put_hello(uint8_t out[NBD_HELLO_SIZE])
{
	nbd_put_u64(out, NBDMAGIC);
	nbd_put_u64(out + 8, IHAVEOPT);
	put_u16(out + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

int
nbd_parse_client_flags(const uint8_t in[NBD_CLIENT_FLAGS_SIZE],
    uint32_t *flags)
{
	uint32_t v = (uint32_t)get(in, 4);

	if (v & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
		return -EPROTO;
	*flags = v;
	return 0;
}

int
nbd_parse_option(const uint8_t in[NBD_OPTION_HEADER], struct nbd_option *out)
{
	if (get(in, 8) != IHAVEOPT)
		return -EPROTO;
	out->type = (uint32_t)get(in + 8, 4);
	out->len = (uint32_t)get(in + 12, 4);
	return 0;
}

int
nbd_parse_go(const uint8_t *in, size_t len, struct nbd_go *out)
{
	struct cursor c = { in, len };
	struct nbd_go go = { 0 };
	uint16_t n, info;

	if (!take_string(&c, &go.name) || !take_u16(&c, &n))
		return -EINVAL;
	for (; n > 0; n--) {
		if (!take_u16(&c, &info))
			return -EINVAL;
		if (info < 32)		/* others are not known here */
			go.infos |= UINT32_C(1) << info;
	}
	if (c.left > 0)
		return -EINVAL;
	*out = go;
	return 0;
}

static bool
text_is(const struct nbd_string *s, const char *text)
{
	return s->len == strlen(text) && memcmp(s->text, text, s->len) == 0;
}

/* The contexts that a query names: its own name, or, for a list, all of a
 * namespace ("base:").  What is not known is ignored, as proto.md wants. */
static unsigned
query_contexts(const struct nbd_string *query, bool list)
{
	unsigned found = 0;

	for (size_t i = 0; i < NBD_CONTEXTS; i++)
		if (text_is(query, contexts[i].name) ||
		    (list && text_is(query, contexts[i].namespace)))
			found |= contexts[i].context;
	return found;
}

int
nbd_parse_meta(const uint8_t *in, size_t len, bool list, struct nbd_meta *out)
{
	struct cursor c = { in, len };
	struct nbd_meta meta = { 0 };
	struct nbd_string query;
	uint32_t n;

	if (!take_string(&c, &meta.name) || !take_u32(&c, &n))
		return -EINVAL;
	if (n == 0 && list)
		meta.contexts = NBD_CONTEXT_ALLOCATION | NBD_CONTEXT_RESIDENT;
	for (; n > 0; n--) {	/* ends with the input at the latest */
		if (!take_string(&c, &query))
			return -EINVAL;
		meta.contexts |= query_contexts(&query, list);
	}
	if (c.left > 0)
		return -EINVAL;
	*out = meta;
	return 0;
}

size_t
nbd_put_option_reply(uint8_t *out, uint32_t option, uint32_t type,
    const void *payload, size_t len)
{
	nbd_put_u64(out, OPTION_REPLY_MAGIC);
	nbd_put_u32(out + 8, option);
	nbd_put_u32(out + 12, type);
	nbd_put_u32(out + 16, (uint32_t)len);
	if (len > 0)
		memcpy(out + NBD_OPTION_REPLY, payload, len);
	return NBD_OPTION_REPLY + len;
}

size_t
nbd_put_info_export(uint8_t *out, uint64_t size, uint16_t flags)
{
	size_t n = put_u16(out, NBD_INFO_EXPORT);

	n += nbd_put_u64(out + n, size);
	n += put_u16(out + n, flags);
	return n;
}

size_t
nbd_put_info_block_size(uint8_t *out, uint32_t min, uint32_t preferred,
    uint32_t max)
{
	size_t n = put_u16(out, NBD_INFO_BLOCK_SIZE);

	n += nbd_put_u32(out + n, min);
	n += nbd_put_u32(out + n, preferred);
	n += nbd_put_u32(out + n, max);
	return n;
}

size_t
nbd_put_info_text(uint8_t *out, enum nbd_info info, const char *text)
{
	size_t n = put_u16(out, (uint16_t)info), len = strlen(text);

	memcpy(out + n, text, len);
	return n + len;
}

size_t
nbd_put_list_entry(uint8_t *out, const char *name)
{
	size_t len = strlen(name), n = nbd_put_u32(out, (uint32_t)len);

	memcpy(out + n, name, len);
	return n + len;
}

size_t
nbd_put_context(uint8_t *out, enum nbd_context context)
{
	const char *name = nbd_context_name(context);
	size_t n = nbd_put_u32(out, (uint32_t)context);

	memcpy(out + n, name, strlen(name));
	return n + strlen(name);
}

size_t
nbd_put_export_info(uint8_t *out, uint64_t size, uint16_t flags, bool zeroes)
{
	size_t n = nbd_put_u64(out, size);

	n += put_u16(out + n, flags);
	if (zeroes) {
		memset(out + n, 0, NBD_EXPORT_INFO_MAX - n);
		n = NBD_EXPORT_INFO_MAX;
	}
	return n;
}

const char *
nbd_context_name(enum nbd_context context)
{
	for (size_t i = 0; i < NBD_CONTEXTS; i++)
		if (contexts[i].context == context)
			return contexts[i].name;
	assert(!"no such context");
	return "";
}

/* ---- transmission ---- */

int
nbd_parse_request(const uint8_t in[NBD_REQUEST_SIZE], struct nbd_request *out)
{
	if (get(in, 4) != REQUEST_MAGIC)
		return -EPROTO;
	out->flags = (uint16_t)get(in + 4, 2);
	out->type = (uint16_t)get(in + 6, 2);
	out->cookie = get(in + 8, 8);
	out->offset = get(in + 16, 8);
	out->len = (uint32_t)get(in + 24, 4);
	return 0;
}

/* The flags that make sense with a command.  FUA is allowed with all of them:
 * proto.md has clients set it where it means nothing. */
static uint16_t
command_flags(const struct nbd_request *r, const struct nbd_session *s)
{
	switch (r->type) {
	case NBD_CMD_READ:
		return NBD_CMD_FLAG_FUA |
		    (s->structured ? NBD_CMD_FLAG_DF : 0);
	case NBD_CMD_BLOCK_STATUS:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
	default:
		return NBD_CMD_FLAG_FUA;
	}
}

static bool
in_range(const struct nbd_request *r, const struct nbd_session *s)
{
	return r->offset <= s->size && r->len <= s->size - r->offset;
}

enum nbd_error
nbd_check_request(const struct nbd_request *r, const struct nbd_session *s)
{
	switch (r->type) {
	case NBD_CMD_WRITE:
	case NBD_CMD_TRIM:
	case NBD_CMD_WRITE_ZEROES:
		return NBD_EPERM;
	case NBD_CMD_FLUSH:
		return NBD_OK;		/* nothing is ever dirty */
	case NBD_CMD_READ:
	case NBD_CMD_CACHE:
	case NBD_CMD_BLOCK_STATUS:
		break;
	default:
		return NBD_EINVAL;
	}
	if ((r->flags & ~command_flags(r, s)) || !in_range(r, s))
		return NBD_EINVAL;
	if (r->type == NBD_CMD_READ && r->len > s->read_max)
		return r->flags & NBD_CMD_FLAG_DF ? NBD_EOVERFLOW : NBD_EINVAL;
	if (r->type == NBD_CMD_BLOCK_STATUS && (r->len == 0 ||
	    !s->structured || s->contexts == 0))
		return NBD_EINVAL;
	return NBD_OK;
}

enum nbd_error
nbd_error_of(int error)
{
	switch (-error) {
	case 0:
		return NBD_OK;
	case EPERM:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case ENOTSUP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}

size_t
nbd_put_simple(uint8_t *out, enum nbd_error error, uint64_t cookie)
{
	nbd_put_u32(out, SIMPLE_MAGIC);
	nbd_put_u32(out + 4, error);
	nbd_put_u64(out + 8, cookie);
	return NBD_SIMPLE_HEADER;
}

size_t
nbd_put_chunk(uint8_t *out, uint16_t flags, uint16_t type, uint64_t cookie,
    uint32_t len)
{
	nbd_put_u32(out, CHUNK_MAGIC);
	put_u16(out + 4, flags);
	put_u16(out + 6, type);
	nbd_put_u64(out + 8, cookie);
	nbd_put_u32(out + 16, len);
	return NBD_CHUNK_HEADER;
}

size_t
nbd_put_chunk_error(uint8_t *out, enum nbd_error error, uint64_t cookie)
{
	size_t n = nbd_put_chunk(out, NBD_REPLY_FLAG_DONE, NBD_REPLY_ERROR,
	    cookie, NBD_CHUNK_ERROR);

	n += nbd_put_u32(out + n, error);
	n += put_u16(out + n, 0);	/* length of a message */
	return n;
}
