// SPDX-License-Identifier: Apache-2.0
/*
 * The core of every shim: where a device's bytes are, waiting for those that
 * are not here, and giving them out.
 *
 *	io_begin: all units present ------------------> READY --io_end--> IDLE
 *	   | some missing                               ^ |  ^
 *	   v                                       Here | |  |
 *	 HUNGRY --room for a Want, or 100 ms--> ASKED --+ |  |
 *	   ^                                     ^ | ^----+  | a store file that
 *	   |  no room; IO_ROUNDS answers in vain | |   gone  | can't be read, a
 *	   +-------------------------------------+ |         | lane that is void
 *	                                           v
 *	     the map has failed, Here has a status: FAILED
 *
 * The map is looked at again at each step, never remembered: a request that is
 * READY may find out at any byte that it must wait again.
 *
 * How cached is asked, and what it gives: io_want.c.
 */
#include <sys/socket.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/io.h"
#include "devd/sendfile.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL	0	/* the process ignores SIGPIPE anyway */
#endif

/* Where a run of bytes lies. */
struct piece {
	int fd;			/* >= 0: in a store file, at offset */
	uint64_t offset;
	const uint8_t *here;	/* else here: in a lane, or zeros */
	bool zeros;
	size_t len;		/* bytes that lie behind each other */
};

/* Units of zeros are given out from here.  Never written, not even by being
 * constant and so part of the file: the kernel has one page for all of it. */
static uint8_t zeros[IO_ZEROS] __attribute__((aligned(MAP_BLOCK)));

static struct {
	struct event *backoff;

	uint64_t size;
	uint32_t unit;
	const struct map *map;
	struct stats *stats;

	TAILQ_HEAD(, io_req) hungry;
	unsigned n_hungry;
} core = {
	.hungry = TAILQ_HEAD_INITIALIZER(core.hungry),
};

static void hungry_due(evutil_socket_t fd, short what, void *arg);

static uint64_t
req_first(const struct io_req *req)
{
	return (req->offset + req->from) / core.unit;
}

static uint64_t
req_last(const struct io_req *req)
{
	return (req->offset + req->length - 1) / core.unit;
}

/* ---- start ---- */

void
core_init(struct event_base *base, void (*broken)(const char *why))
{
	want_init(base, broken);
	core.backoff = evtimer_new(base, hungry_due, NULL);
	if (!core.backoff)
		log_die("no memory at start");
}

int
core_device(uint64_t size, uint32_t unit, int map_fd)
{
	_cleanup_close_ int fd = map_fd;
	void *map;
	int r;

	if (size == 0 || unit < MAP_BLOCK || unit % MAP_BLOCK != 0 ||
	    unit > NBD_READ_MAX)
		return -EINVAL;
	r = shm_map(fd, map_size(size, unit), 0, &map);
	if (r < 0)
		return r;
	core.size = size;
	core.unit = unit;
	core.map = map;
	return 0;
}

int
core_stats(int stats_fd)
{
	_cleanup_close_ int fd = stats_fd;
	void *page;
	int r = shm_map(fd, STATS_SIZE, 1, &page);

	if (r < 0)
		return r;
	core.stats = page;
	/* What waited for a predecessor died with him; what he had open is for
	 * the shim to say. */
	atomic_store_explicit(&core.stats->waiting, 0, memory_order_relaxed);
	return 0;
}

bool
core_complete(void)
{
	return core.map && core.stats;
}

uint64_t
core_size(void)
{
	return core.size;
}

uint32_t
core_unit(void)
{
	return core.unit;
}

struct stats *
core_stats_page(void)
{
	return core.stats;
}

static void
count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- looking ---- */

bool
core_failed(void)
{
	return atomic_load_explicit(&core.map->state, memory_order_acquire) !=
	    MAP_SERVING;
}

/* Where the map has a unit: *fd -1 for zeros, which lie nowhere.  false: it
 * has it not, or where it can't be read. */
static bool
unit_in_map(uint64_t unit, int *fd, uint64_t *offset)
{
	uint64_t word = atomic_load_explicit(&core.map->words[unit],
	    memory_order_acquire);
	uint32_t slot;

	if (word == MAP_ZEROS) {
		*fd = -1;
		return true;
	}
	if (!map_location(word, &slot, offset) || slot >= MAP_SLOTS)
		return false;
	*fd = want_store(slot);
	return *fd >= 0;
}

static bool
unit_present(const struct io_req *req, uint64_t unit)
{
	uint64_t offset;
	int fd;

	return lane_unit(req->lane, unit) || unit_in_map(unit, &fd, &offset);
}

/* Does `next` go on, in the same place, where the piece ends? */
static bool
piece_goes_on(const struct piece *p, const struct io_req *req, uint64_t next)
{
	const uint8_t *lane = lane_unit(req->lane, next);
	uint64_t offset;
	int fd;

	if (p->here && !p->zeros)
		return lane == p->here + p->len;
	if (lane || !unit_in_map(next, &fd, &offset))
		return false;
	return p->zeros ? fd < 0 : fd == p->fd &&
	    offset == p->offset + p->len;
}

/* The run of bytes at a position, as long as it is worth to look for.  false:
 * they are not here. */
static bool
piece_find(const struct io_req *req, uint32_t pos, struct piece *p)
{
	uint64_t at = req->offset + pos, unit = at / core.unit;
	uint32_t into = (uint32_t)(at % core.unit), left = req->length - pos;
	size_t most = IO_PIECE_MAX;

	*p = (struct piece){ .fd = -1, .len = core.unit - into };
	p->here = lane_unit(req->lane, unit);
	if (p->here)
		p->here += into;
	else if (!unit_in_map(unit, &p->fd, &p->offset))
		return false;
	else if (p->fd >= 0)
		p->offset += into;
	else {
		p->zeros = true;
		p->here = zeros;
		most = IO_ZEROS;
	}
	if (most > left)
		most = left;
	while (p->len < most && piece_goes_on(p, req, ++unit))
		p->len += core.unit;
	if (p->len > most)
		p->len = most;
	return true;
}

/* The units of a range that are missing: from the first to the last of them.
 * false: none. */
static bool
missing(const struct io_req *req, uint64_t *first, uint64_t *last)
{
	bool any = false;

	for (uint64_t u = *first, end = *last; u <= end; u++) {
		if (unit_present(req, u))
			continue;
		if (!any)
			*first = u;
		*last = u;
		any = true;
	}
	return any;
}

uint64_t
io_resident(uint64_t offset, uint64_t len, bool *resident)
{
	uint64_t unit = offset / core.unit, at;
	uint64_t run = core.unit - offset % core.unit;
	int fd;

	*resident = unit_in_map(unit, &fd, &at);
	while (run < len && unit_in_map(++unit, &fd, &at) == *resident)
		run += core.unit;
	return run < len ? run : len;
}

int
io_place(uint64_t at, uint64_t *len, uint64_t *offset)
{
	const struct io_req req = { .offset = at,
		.length = *len < IO_PIECE_MAX ? (uint32_t)*len : IO_PIECE_MAX };
	struct piece p;

	if (!piece_find(&req, 0, &p))
		p.len = p.len < req.length ? p.len : req.length;
	*len = p.len;
	*offset = p.offset;
	return p.fd;
}

/* ---- states of a request ---- */

static void
req_hungry(struct io_req *req)
{
	const struct timeval wait = { .tv_usec = IO_BACKOFF_MS * 1000 };

	req->state = IO_HUNGRY;
	TAILQ_INSERT_TAIL(&core.hungry, req, entry);
	core.n_hungry++;
	if (!evtimer_pending(core.backoff, NULL))
		evtimer_add(core.backoff, &wait);
}

static void
req_unhungry(struct io_req *req)
{
	TAILQ_REMOVE(&core.hungry, req, entry);
	core.n_hungry--;
	req->state = IO_IDLE;
}

/* Ask for these units; the request is parked. */
static void
req_ask(struct io_req *req, uint64_t first, uint64_t last, bool again)
{
	io_yield(req);
	if (want_ask(req, first, last, again))
		req->state = IO_ASKED;
	else
		req_hungry(req);
}

/* Look what is there now, and go on from there. */
static void
req_look(struct io_req *req)
{
	uint64_t first = req_first(req), last = req_last(req);

	if (core_failed()) {
		io_yield(req);
		req->state = IO_FAILED;
		req->error = -EIO;
	} else if (req->bad > 0) {
		first = last = req->bad - 1;
		req->bad = 0;
		req_ask(req, first, last, true);
	} else if (missing(req, &first, &last)) {
		/* With a lane for them lost, all that it held is missing. */
		if (req->lane) {
			io_yield(req);
			first = req_first(req);
			last = req_last(req);
			missing(req, &first, &last);
		}
		req_ask(req, first, last, false);
	} else {
		req->state = IO_READY;
	}
}

static bool
req_parked(const struct io_req *req)
{
	return req->state == IO_ASKED || req->state == IO_HUNGRY;
}

/* A parked request is no longer. */
static void
req_answer(struct io_req *req)
{
	atomic_fetch_sub_explicit(&core.stats->waiting, 1,
	    memory_order_relaxed);
	req->on_ready(req);
}

/* A parked request has something new: look, and tell if that is the end. */
static void
req_retry(struct io_req *req)
{
	if (++req->rounds > IO_ROUNDS) {
		req->rounds = 0;
		req_hungry(req);
		return;
	}
	req_look(req);
	if (!req_parked(req))
		req_answer(req);
}

void
core_answered(struct io_req *req, int error)
{
	req->state = IO_IDLE;
	if (error == 0) {
		req_retry(req);
		return;
	}
	req->state = IO_FAILED;
	req->error = error;
	req_answer(req);
}

int
io_begin(struct io_req *req)
{
	assert(req->length > 0 && req->length <= NBD_READ_MAX &&
	    req->offset < core.size &&
	    req->length <= core.size - req->offset);
	req->error = 0;
	req->rounds = 0;
	req->from = 0;
	req->reached = 0;
	req->bad = 0;
	req->want = NULL;
	req->lane = NULL;
	req_look(req);
	if (req->state == IO_FAILED)
		return req->error;
	if (req->state == IO_READY) {
		count(&core.stats->reads_hot, 1);
		return 1;
	}
	count(&core.stats->reads_cold, 1);
	count(&core.stats->waiting, 1);
	return 0;
}

void
io_end(struct io_req *req)
{
	if (req_parked(req))
		atomic_fetch_sub_explicit(&core.stats->waiting, 1,
		    memory_order_relaxed);
	if (req->state == IO_HUNGRY)
		req_unhungry(req);
	if (req->state == IO_ASKED)
		want_leave(req);
	io_yield(req);
	req->state = IO_IDLE;
}

/* A READY request has no bytes at pos (any more).  1: they came back already,
 * 0: parked, -errno. */
static int
req_lost(struct io_req *req, uint32_t pos, bool bad)
{
	req->from = pos;
	req->bad = bad ? (req->offset + pos) / core.unit + 1 : 0;
	req_look(req);
	if (req->state == IO_FAILED)
		return req->error;
	if (req->state == IO_READY)
		return 1;
	count(&core.stats->waiting, 1);
	return 0;
}

static void
hungry_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	/* Those that become hungry again wait for the next turn. */
	for (unsigned n = core.n_hungry; n > 0; n--) {
		struct io_req *req = TAILQ_FIRST(&core.hungry);

		if (!req)
			break;
		req_unhungry(req);
		req_retry(req);
	}
}

/* ---- giving bytes out ---- */

/* Bytes came out: only a request that gets no further counts its rounds. */
static ssize_t
req_served(struct io_req *req, uint32_t pos, ssize_t n)
{
	if (pos + (size_t)n > req->reached) {
		req->reached = pos + (uint32_t)n;
		req->rounds = 0;
	}
	return n;
}

ssize_t
io_copy(struct io_req *req, uint32_t pos, void *buf, size_t len)
{
	struct piece p;
	ssize_t n;
	int r = 1;

	assert(req->state == IO_READY && pos < req->length);
	while (r > 0) {
		if (!piece_find(req, pos, &p)) {
			r = req_lost(req, pos, false);
			continue;
		}
		n = (ssize_t)(len < p.len ? len : p.len);
		if (p.here)
			memcpy(buf, p.here, (size_t)n);
		else
			n = fd_pread_all(p.fd, buf, (size_t)n, p.offset);
		if (n > 0)
			return req_served(req, pos, n);
		r = req_lost(req, pos, true);
	}
	return r;
}

bool
io_sendable(struct io_req *req, uint32_t pos)
{
	struct piece p;

	return piece_find(req, pos, &p) && (!p.here || p.zeros) &&
	    p.len >= IO_SENDFILE_MIN;
}

static ssize_t
zeros_send(int sock, size_t len)
{
	ssize_t n;

	do {
		n = send(sock, zeros, len, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	return errno == EAGAIN ? -EAGAIN : -EPIPE;
}

ssize_t
io_send(struct io_req *req, uint32_t pos, int sock)
{
	struct piece p;
	ssize_t n;

	assert(req->state == IO_READY && pos < req->length);
	if (!piece_find(req, pos, &p) || (p.here && !p.zeros))
		return -EAGAIN;		/* the caller looks again */
	n = p.zeros ? zeros_send(sock, p.len) :
	    sendfile_some(sock, p.fd, p.offset, p.len);
	if (n > 0)
		return req_served(req, pos, n);
	if (n == -EAGAIN || n == -EPIPE)
		return n;
	return req_lost(req, pos, true);
}

/* ---- hints ---- */

void
io_hint(uint64_t offset, uint64_t length)
{
	const struct io_req none = { 0 };
	uint64_t window = NBD_READ_MAX / core.unit, first, last, end;

	if (length == 0 || core_failed())
		return;
	end = (offset + length - 1) / core.unit;
	for (first = offset / core.unit; first <= end; first = last + 1) {
		uint64_t from = first, to;

		last = end - first < window ? end : first + window - 1;
		to = last;
		if (missing(&none, &from, &to) && !want_hint(from, to))
			return;
	}
}
