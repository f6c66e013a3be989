/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD protocol as pure functions of bytes: no I/O, no allocation, no
 * state.  Fuzzed by tests/fuzz/fuzz_nbd.c.
 *
 * Names and numbers are those of the protocol's own document, proto.md of
 * github.com/NetworkBlockDevice/nbd: fixed newstyle negotiation, simple and
 * structured replies, metadata contexts.  All numbers are big-endian there.
 */
#ifndef DEVD_NBD_PROTO_H
#define DEVD_NBD_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sizes on the wire. */
#define NBD_HELLO_SIZE		18
#define NBD_CLIENT_FLAGS_SIZE	4
#define NBD_OPTION_HEADER	16
#define NBD_OPTION_REPLY	20
#define NBD_REQUEST_SIZE	28
#define NBD_SIMPLE_HEADER	16
#define NBD_CHUNK_HEADER	20
#define NBD_CHUNK_OFFSET	8	/* in front of the data of a chunk */
#define NBD_CHUNK_ERROR		6	/* error, and no message */
#define NBD_EXPORT_INFO_MAX	(8 + 2 + 124)
#define NBD_EXTENT_SIZE		8
#define NBD_STRING_MAX		4096	/* bytes of the longest name */

/* Global and client flags. */
#define NBD_FLAG_FIXED_NEWSTYLE	1
#define NBD_FLAG_NO_ZEROES	2

/* Transmission flags. */
#define NBD_FLAG_HAS_FLAGS	(1 << 0)
#define NBD_FLAG_READ_ONLY	(1 << 1)
#define NBD_FLAG_SEND_DF	(1 << 7)
#define NBD_FLAG_CAN_MULTI_CONN	(1 << 8)
#define NBD_FLAG_SEND_CACHE	(1 << 10)

enum nbd_option_type {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERROR		(UINT32_C(1) << 31)
enum nbd_option_reply {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP	(NBD_REP_ERROR + 1)
#define NBD_REP_ERR_INVALID	(NBD_REP_ERROR + 3)
#define NBD_REP_ERR_UNKNOWN	(NBD_REP_ERROR + 6)
#define NBD_REP_ERR_TOO_BIG	(NBD_REP_ERROR + 9)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

/* Command flags. */
#define NBD_CMD_FLAG_FUA	(1 << 0)
#define NBD_CMD_FLAG_NO_HOLE	(1 << 1)
#define NBD_CMD_FLAG_DF		(1 << 2)
#define NBD_CMD_FLAG_REQ_ONE	(1 << 3)
#define NBD_CMD_FLAG_FAST_ZERO	(1 << 4)

/* Structured chunks. */
#define NBD_REPLY_FLAG_DONE	1
#define NBD_REPLY_NONE		0
#define NBD_REPLY_OFFSET_DATA	1
#define NBD_REPLY_BLOCK_STATUS	5
#define NBD_REPLY_ERROR		(32768 + 1)

/* Errors on the wire; the protocol knows no others. */
enum nbd_error {
	NBD_OK = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

/* The metadata contexts that are offered: a mask, and the ids on the wire. */
enum nbd_context {
	NBD_CONTEXT_ALLOCATION = 1,	/* base:allocation */
	NBD_CONTEXT_RESIDENT = 2,	/* x-shedstream:resident */
};
#define NBD_CONTEXTS		2	/* their number */
#define NBD_RESIDENT		1	/* flag of an extent of the latter */

/* ---- negotiation ---- */

struct nbd_option {
	uint32_t type;		/* any number */
	uint32_t len;		/* bytes that follow, as the client says */
};

/* A name inside a payload: not terminated, not checked. */
struct nbd_string {
	const char *text;
	size_t len;
};

struct nbd_go {			/* of INFO and GO */
	struct nbd_string name;
	uint32_t infos;		/* mask of 1 << enum nbd_info: asked for */
};

struct nbd_meta {		/* of LIST_ and SET_META_CONTEXT */
	struct nbd_string name;
	unsigned contexts;	/* mask of the enum that the queries ask for */
};

/* The server's first bytes. */
void nbd_put_hello(uint8_t out[NBD_HELLO_SIZE]);

/* 0, or -EPROTO for flags that the server did not offer. */
int nbd_parse_client_flags(const uint8_t in[NBD_CLIENT_FLAGS_SIZE],
    uint32_t *flags);

/* 0, or -EPROTO without the magic. */
int nbd_parse_option(const uint8_t in[NBD_OPTION_HEADER],
    struct nbd_option *out);

/* Payloads.  What they return points into `in`.  0 or -EINVAL. */
int nbd_parse_go(const uint8_t *in, size_t len, struct nbd_go *out);
int nbd_parse_meta(const uint8_t *in, size_t len, bool list,
    struct nbd_meta *out);

/* A reply to an option, payload included: len bytes from the caller. */
size_t nbd_put_option_reply(uint8_t *out, uint32_t option, uint32_t type,
    const void *payload, size_t len);

/* The pieces of such payloads; each returns its length. */
size_t nbd_put_info_export(uint8_t *out, uint64_t size, uint16_t flags);
size_t nbd_put_info_block_size(uint8_t *out, uint32_t min, uint32_t preferred,
    uint32_t max);
size_t nbd_put_info_text(uint8_t *out, enum nbd_info info, const char *text);
size_t nbd_put_list_entry(uint8_t *out, const char *name);
size_t nbd_put_context(uint8_t *out, enum nbd_context context);

/* The answer to EXPORT_NAME: at most NBD_EXPORT_INFO_MAX bytes. */
size_t nbd_put_export_info(uint8_t *out, uint64_t size, uint16_t flags,
    bool zeroes);

const char *nbd_context_name(enum nbd_context context);

/* ---- transmission ---- */

struct nbd_request {
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
};

/* What was negotiated, for checking requests. */
struct nbd_session {
	uint64_t size;		/* bytes of the export */
	uint32_t read_max;	/* bytes of one READ */
	bool structured;
	unsigned contexts;	/* mask of enum nbd_context */
};

/* 0, or -EPROTO without the magic: the stream is out of step. */
int nbd_parse_request(const uint8_t in[NBD_REQUEST_SIZE],
    struct nbd_request *out);

/* May this request be carried out?  NBD_OK or the error of its reply. */
enum nbd_error nbd_check_request(const struct nbd_request *request,
    const struct nbd_session *session);

/* The nearest error that the protocol knows; error is 0 or -errno. */
enum nbd_error nbd_error_of(int error);

size_t nbd_put_simple(uint8_t *out, enum nbd_error error, uint64_t cookie);
size_t nbd_put_chunk(uint8_t *out, uint16_t flags, uint16_t type,
    uint64_t cookie, uint32_t len);
size_t nbd_put_chunk_error(uint8_t *out, enum nbd_error error,
    uint64_t cookie);
size_t nbd_put_u32(uint8_t *out, uint32_t v);
size_t nbd_put_u64(uint8_t *out, uint64_t v);

#endif
