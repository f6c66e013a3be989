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
 * A Want outlives its reader (who closes the connection): the answer then only
 * gives its lane back, unless somebody has asked for the same meanwhile and
 * has taken it over.  A hint is a Want without a reader from the start.  There
 * are IO_WANTS of them, so that no client can make more.
 *
 * Lanes of the scratch object are leased: whoever holds one makes others wait.
 * So a request that waits holds none, and a lane's bytes are copied, never
 * sent by reference.  Without a link nothing is lost: whatever waits is asked
 * again on the next one, and lanes of the old one are void.
 */
#include <sys/mman.h>

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

struct io_want {
	uint64_t first;
	uint32_t count;
	uint32_t generation;	/* makes its id another one each time */
	struct io_req *req;	/* NULL: a hint, or its reader has left */
	bool used, again, hint;
	SLIST_ENTRY(io_want) entry;	/* free */
};

/* Scratch bytes that one request holds, until its Release. */
struct io_lane {
	uint64_t scratch;	/* core.scratches when it came; void later */
	uint32_t lane;
	uint64_t first;		/* unit at its start */
	uint32_t count;
	uint8_t here[];		/* one byte a unit, as in Here */
};

/* Where a run of bytes lies. */
struct piece {
	int fd;			/* >= 0: in a store file, at offset */
	uint64_t offset;
	const uint8_t *scratch;	/* else here */
	size_t len;		/* bytes that lie behind each other */
};

static struct {
	struct event_base *base;
	void (*broken)(const char *why);
	struct event *backoff;

	uint64_t size;
	uint32_t unit;
	const struct map *map;
	struct stats *stats;
	int slots[MAP_SLOTS];

	struct ipc_link *link;	/* NULL: cached is away */
	uint64_t scratches;	/* counts them: a lane belongs to one */
	void *scratch;
	uint32_t lanes;
	uint64_t lane_size;

	struct io_want wants[IO_WANTS];
	SLIST_HEAD(, io_want) free_wants;
	unsigned orphans, hints;	/* wants without a reader */
	TAILQ_HEAD(, io_req) hungry;
	unsigned n_hungry;
} core = {
	.free_wants = SLIST_HEAD_INITIALIZER(core.free_wants),
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
	core.base = base;
	core.broken = broken;
	core.backoff = evtimer_new(base, hungry_due, NULL);
	if (!core.backoff)
		log_die("no memory at start");
	for (size_t i = 0; i < MAP_SLOTS; i++)
		core.slots[i] = -1;
	for (size_t i = IO_WANTS; i-- > 0;)
		SLIST_INSERT_HEAD(&core.free_wants, &core.wants[i], entry);
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
	/* What a predecessor had open or waiting died with him. */
	atomic_store_explicit(&core.stats->openers, 0, memory_order_relaxed);
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

static bool
map_failed(void)
{
	return atomic_load_explicit(&core.map->state, memory_order_acquire) !=
	    MAP_SERVING;
}

/* Where a unit lies in the store.  false: nowhere that can be read. */
static bool
unit_in_store(uint64_t unit, int *fd, uint64_t *offset)
{
	uint64_t word = atomic_load_explicit(&core.map->words[unit],
	    memory_order_acquire);
	uint32_t slot;

	if (!map_location(word, &slot, offset) || slot >= MAP_SLOTS)
		return false;
	*fd = core.slots[slot];
	return *fd >= 0;
}

static const uint8_t *
unit_in_lane(const struct io_lane *lane, uint64_t unit)
{
	if (!lane || lane->scratch != core.scratches || unit < lane->first ||
	    unit - lane->first >= lane->count ||
	    !lane->here[unit - lane->first])
		return NULL;
	return (const uint8_t *)core.scratch + lane->lane * core.lane_size +
	    (unit - lane->first) * core.unit;
}

static bool
unit_present(const struct io_req *req, uint64_t unit)
{
	uint64_t offset;
	int fd;

	return unit_in_lane(req->lane, unit) ||
	    unit_in_store(unit, &fd, &offset);
}

/* Does `next` go on, in the same place, where the piece ends? */
static bool
piece_goes_on(const struct piece *p, const struct io_req *req, uint64_t next)
{
	const uint8_t *scratch = unit_in_lane(req->lane, next);
	uint64_t offset;
	int fd;

	if (p->scratch)
		return scratch == p->scratch + p->len;
	return !scratch && unit_in_store(next, &fd, &offset) && fd == p->fd &&
	    offset == p->offset + p->len;
}

/* The longest run of bytes at a position.  false: they are not here. */
static bool
piece_find(const struct io_req *req, uint32_t pos, struct piece *p)
{
	uint64_t at = req->offset + pos, unit = at / core.unit;
	uint32_t into = (uint32_t)(at % core.unit), left = req->length - pos;

	*p = (struct piece){ .fd = -1, .len = core.unit - into };
	p->scratch = unit_in_lane(req->lane, unit);
	if (p->scratch)
		p->scratch += into;
	else if (unit_in_store(unit, &p->fd, &p->offset))
		p->offset += into;
	else
		return false;
	while (p->len < left && piece_goes_on(p, req, ++unit))
		p->len += core.unit;
	if (p->len > left)
		p->len = left;
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
	uint64_t unit = offset / core.unit, run = core.unit - offset % core.unit;
	uint64_t at;
	int fd;

	*resident = unit_in_store(unit, &fd, &at);
	while (run < len && unit_in_store(++unit, &fd, &at) == *resident)
		run += core.unit;
	return run < len ? run : len;
}

/* ---- wants ---- */

static uint64_t
want_id(const struct io_want *want)
{
	return (uint64_t)want->generation * IO_WANTS +
	    (uint64_t)(want - core.wants);
}

static struct io_want *
want_find(uint64_t id)
{
	struct io_want *want = &core.wants[id % IO_WANTS];

	return want->used && want_id(want) == id ? want : NULL;
}

/* Without a link, core_link() will do it. */
static void
want_send(const struct io_want *want)
{
	Suite__Want msg = SUITE__WANT__INIT;

	if (!core.link)
		return;
	msg.first = want->first;
	msg.count = want->count;
	msg.again = want->again;
	ipc_send(core.link, want_id(want), SUITE_BODY(WANT), &msg, NULL, 0, -1);
}

static struct io_want *
want_new(uint64_t first, uint64_t last, bool again)
{
	struct io_want *want = SLIST_FIRST(&core.free_wants);

	if (!want)
		return NULL;
	SLIST_REMOVE_HEAD(&core.free_wants, entry);
	*want = (struct io_want){ .first = first,
		.count = (uint32_t)(last - first + 1), .again = again,
		.generation = want->generation + 1, .used = true };
	assert(want->count <= WANT_MAX);
	return want;
}

static void
want_free(struct io_want *want)
{
	if (!want->req && want->hint)
		core.hints--;
	else if (!want->req)
		core.orphans--;
	want->used = false;
	SLIST_INSERT_HEAD(&core.free_wants, want, entry);
}

/* A want whose reader left and that asks for just this, or NULL.  A client
 * that connects again asks for the same again. */
static struct io_want *
want_adopt(uint64_t first, uint64_t last, bool again)
{
	if (core.orphans == 0)
		return NULL;
	for (size_t i = 0; i < IO_WANTS; i++) {
		struct io_want *w = &core.wants[i];

		if (w->used && !w->req && !w->hint && w->first == first &&
		    w->count == last - first + 1 && w->again == again) {
			core.orphans--;
			return w;
		}
	}
	return NULL;
}

/* ---- states of a request ---- */

static void
lane_release(uint32_t lane)
{
	Suite__Release msg = SUITE__RELEASE__INIT;

	if (!core.link)
		return;
	msg.lane = lane;
	ipc_send(core.link, 0, SUITE_BODY(RELEASE), &msg, NULL, 0, -1);
}

void
io_yield(struct io_req *req)
{
	if (!req->lane)
		return;
	if (req->lane->scratch == core.scratches)
		lane_release(req->lane->lane);
	free(req->lane);
	req->lane = NULL;
}

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
	struct io_want *want;

	io_yield(req);
	want = want_adopt(first, last, again);
	if (want) {
		want->req = req;
	} else {
		want = want_new(first, last, again);
		if (!want) {
			req_hungry(req);
			return;
		}
		want->req = req;
		want_send(want);
	}
	req->state = IO_ASKED;
	req->want = want;
}

/* Look what is there now, and go on from there. */
static void
req_look(struct io_req *req)
{
	uint64_t first = req_first(req), last = req_last(req);

	if (map_failed()) {
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
	if (req->state == IO_ASKED) {
		req->want->req = NULL;
		core.orphans++;
		if (!core.link)
			want_free(req->want);
		req->want = NULL;
	}
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
		if (p.scratch)
			memcpy(buf, p.scratch, (size_t)n);
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

	return piece_find(req, pos, &p) && !p.scratch &&
	    p.len >= IO_SENDFILE_MIN;
}

ssize_t
io_send(struct io_req *req, uint32_t pos, int sock)
{
	struct piece p;
	ssize_t n;

	assert(req->state == IO_READY && pos < req->length);
	if (!piece_find(req, pos, &p) || p.scratch)
		return -EAGAIN;		/* the caller looks again */
	n = sendfile_some(sock, p.fd, p.offset, p.len);
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
	struct io_want *want;

	if (length == 0 || map_failed())
		return;
	end = (offset + length - 1) / core.unit;
	for (first = offset / core.unit; first <= end; first = last + 1) {
		uint64_t from = first;

		if (core.hints >= IO_HINTS)
			return;
		last = end - first < window ? end : first + window - 1;
		uint64_t to = last;
		if (!missing(&none, &from, &to))
			continue;
		want = want_new(from, to, false);
		if (!want)
			return;
		want->hint = true;
		core.hints++;
		want_send(want);
	}
}

/* ---- the link to cached ---- */

static void
core_unlink(void)
{
	ipc_free(take_ptr(core.link));
	if (core.scratch)
		munmap(core.scratch, core.lanes * core.lane_size);
	core.scratch = NULL;
	core.lanes = 0;
	core.scratches++;
	for (size_t i = 0; i < IO_WANTS; i++)
		if (core.wants[i].used && !core.wants[i].req)
			want_free(&core.wants[i]);
}

static void
core_breach(const char *why)
{
	core_unlink();
	core.broken(why);
}

void
core_link(int fd)
{
	core_unlink();
	core.link = ipc_new(core.base, fd, &core_table, PEER_CACHED, NULL);
	if (!core.link)
		log_die("no memory for the link to cached");
	for (size_t i = 0; i < IO_WANTS; i++)
		if (core.wants[i].used)
			want_send(&core.wants[i]);
}

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	(void)owner;
	assert(link == core.link);
	if (why == -EPROTO)
		core_breach(strerror(-why));
	else
		core_unlink();	/* it died; a successor comes */
}

static void
on_store_file(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	_cleanup_close_ int fd = msg->fd;
	const Suite__StoreFile *file = msg->body;

	(void)owner;
	(void)link;
	if (file->slot >= MAP_SLOTS) {
		core_breach("a store file without a slot");
		return;
	}
	fd_close(core.slots[file->slot]);
	core.slots[file->slot] = take_fd(&fd);
}

static void
on_scratch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	_cleanup_close_ int fd = msg->fd;
	const Suite__Scratch *scratch = msg->body;
	int r;

	(void)owner;
	(void)link;
	if (core.scratch || scratch->lanes == 0 ||
	    scratch->lanes > IO_LANES_MAX || scratch->lane_size == 0 ||
	    scratch->lane_size > 2 * NBD_READ_MAX) {
		core_breach("a scratch object out of bounds");
		return;
	}
	r = shm_map(fd, scratch->lanes * scratch->lane_size, 0, &core.scratch);
	if (r < 0) {
		core_breach("a scratch object that is not what it says");
		return;
	}
	core.lanes = scratch->lanes;
	core.lane_size = scratch->lane_size;
}

/* Does the lane of an answer hold what it says? */
static bool
here_valid(const Suite__Here *here, const struct io_want *want)
{
	if (here->lane == -1)
		return true;
	if (here->lane < 0 || (uint32_t)here->lane >= core.lanes ||
	    here->in_lane.len != want->count)
		return false;
	for (uint32_t i = 0; i < want->count; i++)
		if (here->in_lane.data[i] &&
		    (i + UINT64_C(1)) * core.unit > core.lane_size)
			return false;
	return true;
}

/* The request's own copy of the lane.  NULL without memory. */
static struct io_lane *
lane_new(const Suite__Here *here, const struct io_want *want)
{
	struct io_lane *lane = malloc(sizeof(*lane) + want->count);

	if (!lane)
		return NULL;
	lane->scratch = core.scratches;
	lane->lane = (uint32_t)here->lane;
	lane->first = want->first;
	lane->count = want->count;
	memcpy(lane->here, here->in_lane.data, want->count);
	return lane;
}

static void
on_here(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Here *here = msg->body;
	struct io_want *want = want_find(msg->id);
	struct io_req *req;

	(void)owner;
	(void)link;
	if (!want || !here_valid(here, want)) {
		core_breach("an answer to nothing that was asked");
		return;
	}
	req = want->req;
	if (req && here->status == 0 && here->lane >= 0)
		req->lane = lane_new(here, want);
	if (here->lane >= 0 && (!req || !req->lane))
		lane_release((uint32_t)here->lane);
	want_free(want);
	if (!req)
		return;
	req->want = NULL;
	req->state = IO_IDLE;
	if (here->status == 0) {
		req_retry(req);
		return;
	}
	req->state = IO_FAILED;
	req->error = -(int)here->status;
	req_answer(req);
}

static const struct ipc_rule core_rules[] = {
	{ SUITE_BODY(STORE_FILE), "store_file", PEER_CACHED, PHASE_ANY,
	    true, false, on_store_file },
	{ SUITE_BODY(SCRATCH), "scratch", PEER_CACHED, PHASE_ANY,
	    true, false, on_scratch },
	{ SUITE_BODY(HERE), "here", PEER_CACHED, PHASE_ANY,
	    false, false, on_here },
};

const struct ipc_table core_table = {
	.frame = &suite__frame__descriptor,
	.rules = core_rules,
	.n_rules = ARRAY_LEN(core_rules),
	.closed = link_closed,
};
