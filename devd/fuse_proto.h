/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's FUSE protocol, as far as one read-only regular file needs it:
 * pure functions of bytes.  Constants and layouts are those of Linux's
 * include/uapi/linux/fuse.h (its 7.45, kernel 6.18), which the oldest headers
 * we build with lack in part; its integers have the host's byte order.  None
 * has changed since 7.28 (kernel 4.20), the oldest that is accepted: it is the
 * first that takes more than 128 KiB at a time.
 *
 *	request:  len opcode unique nodeid uid gid pid extlen, arguments
 *	reply:    len error unique, result
 */
#ifndef DEVD_FUSE_PROTO_H
#define DEVD_FUSE_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FUSE_MAJOR		7
#define FUSE_MINOR		45	/* the newest that was read for this */
#define FUSE_MINOR_OLDEST	28
#define FUSE_ROOT		1	/* the only node: the file itself */

/* Bytes of one READ: the kernel's own limit, fs.fuse.max_pages_limit. */
#define FUSE_READ_MAX	(1024 * 1024)
#define FUSE_PAGES_MAX	(FUSE_READ_MAX / 4096)
/* Of what the kernel may have under way unasked, which is read-ahead; below the
 * slots of the journal, so that an open or a direct read still finds one while
 * all of these wait for the network. */
#define FUSE_BACKGROUND	192
#define FUSE_CONGESTED	144	/* then read-ahead holds back: 3/4, as its default */
#define FUSE_WRITE_MAX	4096	/* never used; the least that the kernel takes */
/* The kernel refuses a read(2) with less room: FUSE_MIN_READ_BUFFER. */
#define FUSE_MIN_ROOM	8192
#define FUSE_VALID_S	86400	/* the kernel may believe size and mode so long */

#define FUSE_IN_HEADER	40
#define FUSE_OUT_HEADER	16
#define FUSE_OUT_MAX	(FUSE_OUT_HEADER + 104)	/* bytes: longest but for READ */

enum fuse_op {
	FUSE_LOOKUP = 1,
	FUSE_FORGET = 2,
	FUSE_GETATTR = 3,
	FUSE_SETATTR = 4,
	FUSE_OPEN = 14,
	FUSE_READ = 15,
	FUSE_WRITE = 16,
	FUSE_STATFS = 17,
	FUSE_RELEASE = 18,
	FUSE_FSYNC = 20,
	FUSE_INIT = 26,
	FUSE_ACCESS = 34,
	FUSE_INTERRUPT = 36,
	FUSE_DESTROY = 38,
	FUSE_BATCH_FORGET = 42,
	FUSE_FALLOCATE = 43,
};

/* Not ASYNC_DIO: with it, who reads directly waits uninterruptibly
 * (fuse_direct_IO(), wait_for_completion), and so can't be killed while the
 * network is away: seen on 6.18.  Without, submissions of libaio wait. */
enum {	/* flags of INIT, both ways */
	FUSE_ASYNC_READ = 1 << 0,	/* more than one READ of an opener at a time */
	FUSE_MAX_PAGES = 1 << 22,	/* max_pages of the reply counts */
	/* without this, and without AUTO_INVAL_DATA, the kernel never drops
	 * pages by itself */
	FUSE_EXPLICIT_INVAL_DATA = 1 << 25,
};

enum {	/* flags of an OPEN's reply */
	FUSE_KEEP_CACHE = 1 << 1,	/* pages that other openers left are good */
};

/* A request, whose arguments were within its bytes. */
struct fuse_request {
	uint64_t unique;	/* its id; the kernel never uses one again */
	uint64_t node;
	uint32_t opcode;	/* enum fuse_op, or another */
	uint32_t minor;		/* INIT */
	uint32_t flags;		/* INIT; of OPEN and READ open(2)'s */
	uint32_t readahead;	/* INIT: bytes, as the kernel has it */
	uint32_t length;	/* READ */
	uint64_t offset;	/* READ */
	uint64_t handle;	/* READ, RELEASE: from the reply to OPEN */
	uint64_t target;	/* INTERRUPT: another request's unique */
};

/* The request in these bytes, as read(2) gave them: so many.  What it has no
 * arguments for, or no use, is left 0.
 * 0; -EPROTO: it is none, or not whole; -EINVAL: its header is good and its
 * arguments are not: out->unique and opcode are set. */
int fuse_parse(const uint8_t *in, size_t len, struct fuse_request *out);
/* Does the kernel wait for a reply to this? */
bool fuse_wants_reply(uint32_t opcode);

/* What a READ gets of a file of that size: bytes from its offset on, 0 at the
 * end.  -EINVAL: longer than FUSE_READ_MAX. */
int fuse_read_length(const struct fuse_request *q, uint64_t size,
    uint32_t *length);

/* Whole replies, FUSE_OUT_MAX bytes at most; each returns its length.  error: 0
 * or a negative errno.  put_header: body bytes follow it.  put_open: keep the
 * pages that are there, or drop them, for all openers. */
size_t fuse_put_header(uint8_t *out, uint64_t unique, uint32_t body);
size_t fuse_put_error(uint8_t *out, uint64_t unique, int error);
size_t fuse_put_init(uint8_t *out, const struct fuse_request *q);
size_t fuse_put_attr(uint8_t *out, uint64_t unique, uint64_t size);
size_t fuse_put_open(uint8_t *out, uint64_t unique, uint64_t handle,
    bool keep);
size_t fuse_put_statfs(uint8_t *out, uint64_t unique, uint64_t size);

#endif
