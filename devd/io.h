/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The private header of devd-io, in sections by file.
 */
#ifndef DEVD_IO_H
#define DEVD_IO_H

#include <sys/queue.h>
#include <sys/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devd/nbd_proto.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"

struct event_base;

/* ---- limits ---- */

/* Of the core. */
#define IO_WANTS	4096	/* asked of cached at a time: every request of
				 * every connection */
#define IO_HINTS	4	/* of these for hints, each <= NBD_READ_MAX */
#define IO_ROUNDS	4	/* answers in vain, then a moment's wait */
#define IO_BACKOFF_MS	100	/* that moment */
#define IO_SENDFILE_MIN	(64 * 1024)	/* bytes; below, a copy costs less:
					 * measured, facts/blockapi.md 1.6 */
#define IO_PIECE_MAX	(512 * 1024)	/* bytes found at once: more than a
					 * socket takes, a few words of 4 KiB */
#define IO_ZEROS	(256 * 1024)	/* of these, where they are zeros */
#define IO_LANES_MAX	1024	/* of a scratch object */

/* Of the NBD server. */
#define NBD_CONNECTIONS	64	/* of a device; nbdcopy and qemu make a few */
#define NBD_REQUESTS	64	/* in flight, of a connection */
#define NBD_KERNEL_REQUESTS 128	/* the kernel's own: its tags, 6.1 to 7.2; so
				 * that none of them waits unread, perhaps hot,
				 * behind cold ones */
#define NBD_IN_FLIGHT	(16 * 1024 * 1024)	/* bytes asked for, likewise */
#define NBD_WRITE_MAX	(32 * 1024 * 1024)	/* payload that is drained; the
					 * protocol's default for a write */
#define NBD_OPTION_MAX	8192	/* bytes of a payload: two longest strings */
#define NBD_DRAIN_MAX	(64 * 1024)	/* of a longer one: drained, refused */
#define NBD_OPTIONS	32	/* of a handshake */
#define NBD_HANDSHAKE_S	10	/* from accept to GO */
#define NBD_STALL_S	2	/* a client that takes no bytes: its replies
				 * give their lanes back */
#define NBD_TURN	(4 * 1024 * 1024)	/* bytes, then others' turn */
#define NBD_EXTENTS	1024	/* of one answer to BLOCK_STATUS */
#define NBD_ALIASES	8	/* further names of the device */
#define NBD_PREFERRED	(64 * 1024)	/* bytes, whatever the unit is: a
					 * smaller read costs as much */
#define NBD_BATCH	(128 * 1024)	/* bytes of small replies at once */

/* ---- io_core.c: finding bytes, waiting for them, giving them out ---- */

struct io_want;
struct io_lane;

enum io_state {
	IO_IDLE = 0,	/* not begun, or ended */
	IO_READY,	/* its bytes were there when last looked */
	IO_ASKED,	/* cached has a Want for it */
	IO_HUNGRY,	/* a Want is due: no room for it, or a moment's pause */
	IO_FAILED,	/* error says why */
};

/* One read.  The shim fills the first part, and keeps the struct in place and
 * alive until io_end(). */
struct io_req {
	uint64_t offset;
	uint32_t length;		/* 1..NBD_READ_MAX, within the device */
	/* It was parked and is IO_READY or IO_FAILED now.  Never called from
	 * inside the calls below.  May end this or any other request. */
	void (*on_ready)(struct io_req *req);

	enum io_state state;		/* the core's from here on */
	int error;			/* -errno, in IO_FAILED */
	unsigned rounds;		/* answers that brought nothing new */
	uint32_t from;			/* what lies before is not needed */
	uint32_t reached;		/* how far its bytes ever came */
	uint64_t bad;			/* unit + 1 that could not be read */
	struct io_want *want;		/* in IO_ASKED */
	struct io_lane *lane;		/* scratch it holds, or NULL */
	TAILQ_ENTRY(io_req) entry;	/* in IO_HUNGRY */
};

/* Once, at start. */
void core_init(struct event_base *base, void (*broken)(const char *why));
/* The device: size and unit are checked, map_fd and stats_fd are taken. */
int core_device(uint64_t size, uint32_t unit, int map_fd);
int core_stats(int stats_fd);
bool core_complete(void);		/* both were given */
bool core_failed(void);		/* bytes were wrong: every read answers EIO */
uint64_t core_size(void);
uint32_t core_unit(void);
struct stats *core_stats_page(void);

/* Begin a read.  1: ready, 0: parked (on_ready follows), -errno. */
int io_begin(struct io_req *req);
/* Done with it, in any state: nothing of it is left here. */
void io_end(struct io_req *req);
/* Copy bytes from position pos (relative to the request) on.  > 0: so many;
 * 0: they are gone, the request is parked again; -errno. */
ssize_t io_copy(struct io_req *req, uint32_t pos, void *buf, size_t len);
/* The same into a non-blocking socket.  Also -EAGAIN: it is full; -EPIPE: it
 * can't be written any more. */
ssize_t io_send(struct io_req *req, uint32_t pos, int sock);
/* Is io_send() the better of the two at this position? */
bool io_sendable(struct io_req *req, uint32_t pos);
/* Give back what others may wait for (a lane); asked again when needed. */
void io_yield(struct io_req *req);
/* Somebody may read this soon: ask for what is missing, if there is room. */
void io_hint(uint64_t offset, uint64_t length);
/* Length of the run from offset that is all resident or all not; at most len.
 * Asks for nothing. */
uint64_t io_resident(uint64_t offset, uint64_t len, bool *resident);
/* Where bytes of the device lie: the store file, still the core's, or -1: in
 * none.  *offset: in it; *len: at most so many of them, shortened to those that
 * lie there behind each other. */
int io_place(uint64_t at, uint64_t *len, uint64_t *offset);

/* ---- io_want.c: the link to cached ---- */

void want_init(struct event_base *base, void (*broken)(const char *why));
/* A new link (fd taken) in place of the old: all that waits is asked again,
 * lanes of the old one are void. */
void want_link(int fd);
extern const struct ipc_table want_table;
/* The file in a slot < MAP_SLOTS, or -1. */
int want_store(uint32_t slot);
/* Ask for first..last on behalf of req; core_answered() follows, unless
 * want_leave() comes before it.  false: no room. */
bool want_ask(struct io_req *req, uint64_t first, uint64_t last, bool again);
void want_leave(struct io_req *req);
/* Ask on nobody's behalf.  false: no room. */
bool want_hint(uint64_t first, uint64_t last);
/* error: 0, or -errno of the answer.  (io_core.c) */
void core_answered(struct io_req *req, int error);
/* A unit's bytes in a lane (or NULL), or NULL: not there, or void. */
const uint8_t *lane_unit(const struct io_lane *lane, uint64_t unit);

/* ---- shims: nbd.c, and on Linux fuse.c, ublk.c ---- */

/* How a worker presents its device. */
struct shim {
	/* Optional: what takes rights that the policy takes away, once, before
	 * anything was read; ends the process if it fails. */
	void (*prepare)(void);
	/* One of the objects that the parent hands to a worker of this kind; fd
	 * is taken.  0, or -errno: it is none, or won't do. */
	int (*take)(enum parent_type type, int fd);
	bool (*complete)(void);		/* all of them were given */
	/* Serve; ends the process if it can't.  name lives as long.  openers()
	 * is told whenever their number changes. */
	void (*start)(struct event_base *base, const char *name,
	    void (*openers)(unsigned count));
	/* Optional: the device is also called that.  0 or -errno. */
	int (*alias)(const char *name);
};
extern const struct shim nbd_shim, kernel_nbd_shim, fuse_shim, ublk_shim;

/* ---- nbd.c: connections and their requests ---- */

enum conn_state {	/* see nbd.c */
	CONN_FLAGS,
	CONN_OPTION,
	CONN_SKIP,
	CONN_RUN,
	CONN_DRAIN,
	CONN_ENDING,
};

#define NBD_IN_SIZE	(NBD_OPTION_HEADER + NBD_OPTION_MAX)
#define NBD_OUT_SIZE	512	/* bytes: all replies to one option */

struct conn;

struct nbd_reply {
	struct io_req io;	/* of a READ without error */
	TAILQ_ENTRY(nbd_reply) list;
	struct conn *conn;
	struct nbd_request request;
	enum nbd_error error;
	size_t burden;		/* its part of conn.bytes */
	bool parked;		/* on that list */
};

struct conn {
	LIST_ENTRY(conn) entry;
	int fd;
	struct event *readable, *writable, *deadline;
	enum conn_state state;
	struct nbd_session session;	/* what was negotiated */
	bool no_zeroes;
	bool closing;		/* as soon as `out` is */
	unsigned options;	/* so far */
	struct nbd_option option;	/* in CONN_SKIP */
	uint64_t skip;		/* bytes of payload that nobody wants */

	size_t have;		/* bytes in `in` */
	uint8_t in[NBD_IN_SIZE];
	size_t out_len, out_sent;	/* of the handshake */
	uint8_t out[NBD_OUT_SIZE];

	unsigned requests;	/* that it may have in flight */
	struct nbd_reply *replies;	/* `requests` of them, from GO on */
	TAILQ_HEAD(reply_list, nbd_reply) free, parked, ready;
	struct nbd_reply *refused;	/* a WRITE, in CONN_DRAIN */
	unsigned in_flight;
	uint64_t bytes;		/* that the requests in flight ask for */
	size_t sent;		/* of the first of `ready` */
	uint8_t *status;	/* BLOCK_STATUS that is the first of `ready` */
	size_t status_len;

	bool reading;		/* `readable` is armed */
	bool blocked;		/* `writable` is: the socket is full */
	unsigned stalled_s;	/* since it became so */
};

/* Does this name mean the device? */
bool nbd_is_name(const struct nbd_string *name);
const char *nbd_name(void);

/* Take n bytes off the front of c->in. */
void conn_drop(struct conn *c, size_t n);

/* ---- nbd_handshake.c: from hello to GO ---- */

/* One step of a handshake on what is in c->in; its answer goes to c->out, which
 * is empty.  1: a step was made, 0: more bytes are needed, -errno: close. */
int handshake_step(struct conn *c);

/* ---- nbd_reply.c: the output of a connection ---- */

/* Send what is ready, until c->blocked.  0: nothing more can go now, -errno:
 * close. */
int reply_write(struct conn *c);
/* Give the lanes of all that is ready back. */
void reply_yield(struct conn *c);
/* A READ that can't be served: it becomes an error. */
void reply_fail(struct nbd_reply *r, int error);
/* Bytes of data behind its header. */
size_t reply_body(const struct nbd_reply *r);
/* send(2).  1: go on, 0: the socket is full, -errno.  *sent bytes went. */
int conn_send(struct conn *c, const uint8_t *buf, size_t len, int flags,
    size_t *sent);

#endif
