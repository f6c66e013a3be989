// SPDX-License-Identifier: Apache-2.0
/*
 * The link to cached: what it is asked for, and what it gives: store files,
 * the scratch object, and answers.
 *
 *	free --want_ask--> asked --Here--> free, core_answered()
 *	   |                |  ^
 *	   |     want_leave |  | want_ask for just the same
 *	   |                v  |
 *	   |              orphan --Here, or no link--> free
 *	   +--want_hint--> hint ---Here, or no link--> free
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

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/io.h"

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
	uint64_t scratch;	/* cached.scratches when it came; void later */
	uint32_t lane;
	uint64_t first;		/* unit at its start */
	uint32_t count;
	uint8_t here[];		/* one byte a unit, as in Here */
};

static struct {
	struct event_base *base;
	void (*broken)(const char *why);
	int slots[MAP_SLOTS];

	struct ipc_link *link;	/* NULL: cached is away */
	uint64_t scratches;	/* counts them: a lane belongs to one */
	void *scratch;
	uint32_t lanes;
	uint64_t lane_size;

	struct io_want wants[IO_WANTS];
	SLIST_HEAD(, io_want) free_wants;
	unsigned orphans, hints;	/* wants without a reader */
} cached = {
	.free_wants = SLIST_HEAD_INITIALIZER(cached.free_wants),
};

void
want_init(struct event_base *base, void (*broken)(const char *why))
{
	cached.base = base;
	cached.broken = broken;
	for (size_t i = 0; i < MAP_SLOTS; i++)
		cached.slots[i] = -1;
	for (size_t i = IO_WANTS; i-- > 0;)
		SLIST_INSERT_HEAD(&cached.free_wants, &cached.wants[i], entry);
}

int
want_store(uint32_t slot)
{
	assert(slot < MAP_SLOTS);
	return cached.slots[slot];
}

/* ---- wants ---- */

static uint64_t
want_id(const struct io_want *want)
{
	return (uint64_t)want->generation * IO_WANTS +
	    (uint64_t)(want - cached.wants);
}

static struct io_want *
want_find(uint64_t id)
{
	struct io_want *want = &cached.wants[id % IO_WANTS];

	return want->used && want_id(want) == id ? want : NULL;
}

/* Without a link, want_link() will do it. */
static void
want_send(const struct io_want *want)
{
	Suite__Want msg = SUITE__WANT__INIT;

	if (!cached.link)
		return;
	msg.first = want->first;
	msg.count = want->count;
	msg.again = want->again;
	ipc_send(cached.link, want_id(want), SUITE_BODY(WANT), &msg, NULL, 0,
	    -1);
}

static struct io_want *
want_new(uint64_t first, uint64_t last, bool again)
{
	struct io_want *want = SLIST_FIRST(&cached.free_wants);

	if (!want)
		return NULL;
	SLIST_REMOVE_HEAD(&cached.free_wants, entry);
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
		cached.hints--;
	else if (!want->req)
		cached.orphans--;
	want->used = false;
	SLIST_INSERT_HEAD(&cached.free_wants, want, entry);
}

/* A want whose reader left and that asks for just this, or NULL.  A client
 * that connects again asks for the same again. */
static struct io_want *
want_adopt(uint64_t first, uint64_t last, bool again)
{
	if (cached.orphans == 0)
		return NULL;
	for (size_t i = 0; i < IO_WANTS; i++) {
		struct io_want *w = &cached.wants[i];

		if (w->used && !w->req && !w->hint && w->first == first &&
		    w->count == last - first + 1 && w->again == again) {
			cached.orphans--;
			return w;
		}
	}
	return NULL;
}

bool
want_ask(struct io_req *req, uint64_t first, uint64_t last, bool again)
{
	struct io_want *want = want_adopt(first, last, again);

	if (!want) {
		want = want_new(first, last, again);
		if (!want)
			return false;
		want_send(want);
	}
	want->req = req;
	req->want = want;
	return true;
}

void
want_leave(struct io_req *req)
{
	req->want->req = NULL;
	cached.orphans++;
	if (!cached.link)
		want_free(req->want);
	req->want = NULL;
}

bool
want_hint(uint64_t first, uint64_t last)
{
	struct io_want *want;

	if (cached.hints >= IO_HINTS)
		return false;
	want = want_new(first, last, false);
	if (!want)
		return false;
	want->hint = true;
	cached.hints++;
	want_send(want);
	return true;
}

/* ---- lanes ---- */

const uint8_t *
lane_unit(const struct io_lane *lane, uint64_t unit)
{
	if (!lane || lane->scratch != cached.scratches || unit < lane->first ||
	    unit - lane->first >= lane->count ||
	    !lane->here[unit - lane->first])
		return NULL;
	return (const uint8_t *)cached.scratch + lane->lane * cached.lane_size +
	    (unit - lane->first) * core_unit();
}

static void
lane_release(uint32_t lane)
{
	Suite__Release msg = SUITE__RELEASE__INIT;

	if (!cached.link)
		return;
	msg.lane = lane;
	ipc_send(cached.link, 0, SUITE_BODY(RELEASE), &msg, NULL, 0, -1);
}

void
io_yield(struct io_req *req)
{
	if (!req->lane)
		return;
	if (req->lane->scratch == cached.scratches)
		lane_release(req->lane->lane);
	free(req->lane);
	req->lane = NULL;
}

/* ---- the link to cached ---- */

static void
cached_gone(void)
{
	ipc_free(take_ptr(cached.link));
	if (cached.scratch)
		munmap(cached.scratch, cached.lanes * cached.lane_size);
	cached.scratch = NULL;
	cached.lanes = 0;
	cached.scratches++;
	for (size_t i = 0; i < IO_WANTS; i++)
		if (cached.wants[i].used && !cached.wants[i].req)
			want_free(&cached.wants[i]);
}

static void
cached_breach(const char *why)
{
	cached_gone();
	cached.broken(why);
}

void
want_link(int fd)
{
	cached_gone();
	cached.link = ipc_new(cached.base, fd, &want_table, PEER_CACHED, NULL);
	if (!cached.link)
		log_die("no memory for the link to cached");
	for (size_t i = 0; i < IO_WANTS; i++)
		if (cached.wants[i].used)
			want_send(&cached.wants[i]);
}

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	(void)owner;
	assert(link == cached.link);
	if (why == -EPROTO)
		cached_breach(strerror(-why));
	else
		cached_gone();	/* it died; a successor comes */
}

static void
on_store_file(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	_cleanup_close_ int fd = msg->fd;
	const Suite__StoreFile *file = msg->body;

	(void)owner;
	(void)link;
	if (file->slot >= MAP_SLOTS) {
		cached_breach("a store file without a slot");
		return;
	}
	fd_close(cached.slots[file->slot]);
	cached.slots[file->slot] = take_fd(&fd);
}

static void
on_scratch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	_cleanup_close_ int fd = msg->fd;
	const Suite__Scratch *scratch = msg->body;
	int r;

	(void)owner;
	(void)link;
	if (cached.scratch || scratch->lanes == 0 ||
	    scratch->lanes > IO_LANES_MAX || scratch->lane_size == 0 ||
	    scratch->lane_size > 2 * NBD_READ_MAX) {
		cached_breach("a scratch object out of bounds");
		return;
	}
	r = shm_map(fd, scratch->lanes * scratch->lane_size, 0,
	    &cached.scratch);
	if (r < 0) {
		cached_breach("a scratch object that is not what it says");
		return;
	}
	cached.lanes = scratch->lanes;
	cached.lane_size = scratch->lane_size;
}

/* Does the lane of an answer hold what it says? */
static bool
here_valid(const Suite__Here *here, const struct io_want *want)
{
	if (here->lane == -1)
		return true;
	if (here->lane < 0 || (uint32_t)here->lane >= cached.lanes ||
	    here->in_lane.len != want->count)
		return false;
	for (uint32_t i = 0; i < want->count; i++)
		if (here->in_lane.data[i] &&
		    (i + UINT64_C(1)) * core_unit() > cached.lane_size)
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
	lane->scratch = cached.scratches;
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
		cached_breach("an answer to nothing that was asked");
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
	core_answered(req, -(int)here->status);
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(STORE_FILE), "store_file", PEER_CACHED, PHASE_ANY,
	    true, false, on_store_file },
	{ SUITE_BODY(SCRATCH), "scratch", PEER_CACHED, PHASE_ANY,
	    true, false, on_scratch },
	{ SUITE_BODY(HERE), "here", PEER_CACHED, PHASE_ANY,
	    false, false, on_here },
};

const struct ipc_table want_table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
};
