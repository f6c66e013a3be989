// SPDX-License-Identifier: Apache-2.0
/*
 * FUSE requests and replies: see fuse_proto.h.  The layouts are written here
 * as structs, copied in and out whole, so that alignment does not matter.
 */
#include <sys/stat.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "devd/fuse_proto.h"

/* ---- layouts ---- */

struct in_header {
	uint32_t len, opcode;
	uint64_t unique, nodeid;
	uint32_t uid, gid, pid;
	uint16_t extlen, padding;	/* extlen: since 7.38, 0 before */
};

struct out_header {
	uint32_t len;
	int32_t error;
	uint64_t unique;
};

struct init_in {	/* as long as it ever was; more may follow */
	uint32_t major, minor, max_readahead, flags;
};

struct init_out {
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
	uint16_t request_timeout, unused[11];
};

struct attr {
	uint64_t ino, size, blocks, atime, mtime, ctime;
	uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev,
	    blksize, flags;
};

struct attr_out {
	uint64_t attr_valid;
	uint32_t attr_valid_nsec, dummy;
	struct attr attr;
};

struct open_in {
	uint32_t flags, open_flags;
};

struct open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};

struct read_in {
	uint64_t fh, offset;
	uint32_t size, read_flags;
	uint64_t lock_owner;
	uint32_t flags, padding;
};

struct release_in {
	uint64_t fh;
	uint32_t flags, release_flags;
	uint64_t lock_owner;
};

struct statfs_out {
	uint64_t blocks, bfree, bavail, files, ffree;
	uint32_t bsize, namelen, frsize, padding, spare[6];
};

static_assert(sizeof(struct in_header) == FUSE_IN_HEADER, "fuse_in_header");
static_assert(sizeof(struct out_header) == FUSE_OUT_HEADER, "fuse_out_header");
static_assert(sizeof(struct init_out) == 64, "fuse_init_out");
static_assert(sizeof(struct attr_out) == 104, "fuse_attr_out");
static_assert(sizeof(struct open_out) == 16, "fuse_open_out");
static_assert(sizeof(struct read_in) == 40, "fuse_read_in");
static_assert(sizeof(struct release_in) == 24, "fuse_release_in");
static_assert(sizeof(struct statfs_out) == 80, "fuse_statfs_out");
static_assert(sizeof(struct attr_out) + FUSE_OUT_HEADER <= FUSE_OUT_MAX,
    "longest reply");

/* ---- requests ---- */

/* A request's first argument, if it is all there. */
static bool
take(const uint8_t *body, size_t len, void *arg, size_t size)
{
	if (len < size)
		return false;
	memcpy(arg, body, size);
	return true;
}

static bool
parse_init(const uint8_t *body, size_t len, struct fuse_request *q)
{
	struct init_in in;

	if (!take(body, len, &in, sizeof(in)) || in.major != FUSE_MAJOR ||
	    in.minor < FUSE_MINOR_OLDEST || !(in.flags & FUSE_MAX_PAGES))
		return false;
	q->minor = in.minor;
	q->flags = in.flags;
	q->readahead = in.max_readahead;
	return true;
}

static bool
parse_open(const uint8_t *body, size_t len, struct fuse_request *q)
{
	struct open_in in;

	if (!take(body, len, &in, sizeof(in)))
		return false;
	q->flags = in.flags;
	return true;
}

static bool
parse_read(const uint8_t *body, size_t len, struct fuse_request *q)
{
	struct read_in in;

	if (!take(body, len, &in, sizeof(in)))
		return false;
	q->handle = in.fh;
	q->offset = in.offset;
	q->length = in.size;
	q->flags = in.flags;
	return true;
}

static bool
parse_release(const uint8_t *body, size_t len, struct fuse_request *q)
{
	struct release_in in;

	if (!take(body, len, &in, sizeof(in)))
		return false;
	q->handle = in.fh;
	return true;
}

static bool
parse_body(const uint8_t *body, size_t len, struct fuse_request *q)
{
	switch (q->opcode) {
	case FUSE_INIT:
		return parse_init(body, len, q);
	case FUSE_OPEN:
		return parse_open(body, len, q);
	case FUSE_READ:
		return parse_read(body, len, q);
	case FUSE_RELEASE:
		return parse_release(body, len, q);
	case FUSE_INTERRUPT:
		return take(body, len, &q->target, sizeof(q->target));
	}
	return true;
}

int
fuse_parse(const uint8_t *in, size_t len, struct fuse_request *out)
{
	struct in_header h;

	if (len < sizeof(h))
		return -EPROTO;
	memcpy(&h, in, sizeof(h));
	if (h.len != len)
		return -EPROTO;
	*out = (struct fuse_request){ .unique = h.unique, .node = h.nodeid,
		.opcode = h.opcode };
	return parse_body(in + sizeof(h), len - sizeof(h), out) ? 0 : -EINVAL;
}

bool
fuse_wants_reply(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET &&
	    opcode != FUSE_INTERRUPT;
}

int
fuse_read_length(const struct fuse_request *q, uint64_t size, uint32_t *length)
{
	uint64_t left = q->offset < size ? size - q->offset : 0;

	if (q->length > FUSE_READ_MAX)
		return -EINVAL;
	*length = q->length < left ? q->length : (uint32_t)left;
	return 0;
}

/* ---- replies ---- */

static size_t
put(uint8_t *out, uint64_t unique, int error, const void *body, size_t len)
{
	const struct out_header h = { .len = (uint32_t)(sizeof(h) + len),
		.error = error, .unique = unique };

	memcpy(out, &h, sizeof(h));
	if (len > 0)
		memcpy(out + sizeof(h), body, len);
	return sizeof(h) + len;
}

size_t
fuse_put_header(uint8_t *out, uint64_t unique, uint32_t body)
{
	const struct out_header h = { .len = (uint32_t)sizeof(h) + body,
		.unique = unique };

	memcpy(out, &h, sizeof(h));
	return sizeof(h);
}

size_t
fuse_put_error(uint8_t *out, uint64_t unique, int error)
{
	return put(out, unique, error, NULL, 0);
}

size_t
fuse_put_init(uint8_t *out, const struct fuse_request *q)
{
	const struct init_out body = {
		.major = FUSE_MAJOR,
		.minor = q->minor < FUSE_MINOR ? q->minor : FUSE_MINOR,
		/* what the parent sets for the mount is less, and stays */
		.max_readahead = FUSE_READ_MAX,
		.flags = q->flags & (FUSE_ASYNC_READ | FUSE_MAX_PAGES |
		    FUSE_EXPLICIT_INVAL_DATA),
		.max_background = FUSE_BACKGROUND,
		.congestion_threshold = FUSE_CONGESTED,
		.max_write = FUSE_WRITE_MAX,
		.time_gran = 1,
		.max_pages = FUSE_PAGES_MAX,
	};

	return put(out, q->unique, 0, &body, sizeof(body));
}

size_t
fuse_put_attr(uint8_t *out, uint64_t unique, uint64_t size)
{
	const struct attr_out body = {
		.attr_valid = FUSE_VALID_S,
		.attr = { .ino = FUSE_ROOT, .size = size,
		    .blocks = (size + 511) / 512, .mode = S_IFREG | 0444,
		    .nlink = 1, .blksize = 4096 },
	};

	return put(out, unique, 0, &body, sizeof(body));
}

size_t
fuse_put_open(uint8_t *out, uint64_t unique, uint64_t handle, bool keep)
{
	const struct open_out body = { .fh = handle,
		.open_flags = keep ? FUSE_KEEP_CACHE : 0 };

	return put(out, unique, 0, &body, sizeof(body));
}

size_t
fuse_put_statfs(uint8_t *out, uint64_t unique, uint64_t size)
{
	const struct statfs_out body = { .blocks = (size + 4095) / 4096,
		.files = 1, .bsize = 4096, .frsize = 4096, .namelen = 255 };

	return put(out, unique, 0, &body, sizeof(body));
}
