// SPDX-License-Identifier: Apache-2.0
/*
 * Devices, and the reads of their workers that wait (their maps: map.c).
 *
 * A want is one read's missing units, words of the map.  It is answered when
 * each of them is in the map, or, where the store could not keep it, in a lane
 * of the device's scratch object:
 *
 *	begin --all in the map--------------------------> Here
 *	  |                                                ^
 *	  +--fills--> waiting --last unit-- published -----+
 *	                          |                        |
 *	                          +-- not kept: a lane? ---+--> Here{lane}
 *	                                | none free              |
 *	                                +--> lane queue <--Release
 *
 * A want in the lane queue asks for its unkept units again once it has a lane.
 * One lane holds a largest read, and a want holds at most one: no deadlock.
 *
 * While the network is away, wants wait for as long as it takes (outage.c), but
 * for those of a device whose reads are to get EIO after some time.
 */
#include <sys/mman.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "cached/device.h"

#define WANTS_MAX	8192	/* of one worker: it bounds its own reads */
#define LATE_MS		2000	/* a read that waits longer is worth a word */
#define PULL_AGAIN_MS	10000	/* after a pull that whole needs was refused */

struct want {
	TAILQ_ENTRY(want) entry;
	struct device *dev;
	uint64_t id, first, started_ms;
	uint32_t count, missing;
	int lane;		/* -1: none */
	bool again;		/* the bytes, not the location */
	bool unkept;		/* some unit needs a lane */
	uint8_t *in_lane;	/* one byte a unit */
	struct waiter waiters[];	/* one an extent, of a unit or more */
};

static ipc_handler on_want, on_release;
static void link_closed(void *owner, struct ipc_link *link, int why);

static const struct ipc_rule io_rules[] = {
	{ SUITE_BODY(WANT), "want", PEER_IO, PHASE_ANY, false, false, on_want },
	{ SUITE_BODY(RELEASE), "release", PEER_IO, PHASE_ANY, false, false,
	    on_release },
};
const struct ipc_table io_table = {
	.frame = &suite__frame__descriptor,
	.rules = io_rules,
	.n_rules = ARRAY_LEN(io_rules),
	.closed = link_closed,
};

static struct device *
device_find(const char *id)
{
	struct layout *l;
	struct device *dev;

	TAILQ_FOREACH(l, &layouts, entry)
		TAILQ_FOREACH(dev, &l->devices, entry)
			if (strcmp(dev->spec.id, id) == 0)
				return dev;
	return NULL;
}

/* ---- wants ---- */

static void want_begin(struct want *want);

static int
lane_take(struct want *want)
{
	struct device *dev = want->dev;

	for (int i = 0; i < LANES; i++)
		if (!dev->lane_used[i]) {
			dev->lane_used[i] = true;
			dev->lanes[i] = want;
			return i;
		}
	return -1;
}

/* The scratch object, made at first need.  0 or -errno. */
static int
scratch_make(struct device *dev)
{
	Suite__Scratch m = SUITE__SCRATCH__INIT;
	size_t lane = NBD_READ_MAX + 2 * (size_t)dev->spec.unit;
	void *p;
	int fd;

	if (dev->scratch)
		return 0;
	fd = shm_private_writer("shedstream-scratch", LANES * lane, &p);
	if (fd < 0)
		return fd;
	dev->scratch = p;
	dev->lane_size = m.lane_size = lane;
	m.lanes = LANES;
	ipc_send(dev->link, 0, SUITE_BODY(SCRATCH), &m, NULL, 0, fd);
	return 0;
}

static void
want_free(struct want *want, struct wants *list)
{
	TAILQ_REMOVE(list, want, entry);
	for (uint32_t i = 0; i < want->count; i++)
		waiter_leave(&want->waiters[i]);
	want->dev->n_wants--;
	want->dev->layout->waiting--;
	free(want->in_lane);
	free(want);
}

/* Its first read, or one that came before it, waits for too long. */
static bool
list_late(const struct wants *list, uint64_t now)
{
	const struct want *want = TAILQ_FIRST(list);

	return want && now - want->started_ms > LATE_MS;
}

static bool
layout_late(const struct layout *l, uint64_t now)
{
	const struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		if (list_late(&dev->wants, now) ||
		    list_late(&dev->lane_queue, now) ||
		    list_late(&dev->blocked, now))
			return true;
	return false;
}

static void
want_answer(struct want *want, struct wants *list, uint32_t status)
{
	Suite__Here m = SUITE__HERE__INIT;
	struct layout *l = want->dev->layout;

	m.status = status;
	m.lane = want->lane;
	if (want->lane >= 0) {
		m.in_lane.data = want->in_lane;
		m.in_lane.len = want->count;
		want->dev->lanes[want->lane] = NULL;	/* until Release */
	}
	ipc_send(want->dev->link, want->id, SUITE_BODY(HERE), &m, NULL, 0, -1);
	want_free(want, list);
	if (l->stalled)		/* who reads on finds it in order again */
		outage_look(l, layout_late(l, now_ms()));
}

/* Rung whole, and not whole (any more): wait until it is. */
static void
want_block(struct want *want)
{
	struct device *dev = want->dev;

	TAILQ_REMOVE(&dev->wants, want, entry);
	TAILQ_INSERT_TAIL(&dev->blocked, want, entry);
	finish_pull(dev->layout, false);
}

/* The bytes of the device that a want is about. */
static uint64_t
want_start(const struct want *want)
{
	return want->first * want->dev->spec.unit;
}

static uint64_t
want_end(const struct want *want)
{
	uint64_t end = want_start(want) +
	    (uint64_t)want->count * want->dev->spec.unit;

	return end < want->dev->spec.size ? end : want->dev->spec.size;
}

/* The part of an extent that the want is about, as its units. */
static void
want_part(const struct want *want, const struct extent *e, uint32_t *first,
    uint32_t *end)
{
	uint32_t unit = want->dev->spec.unit;
	uint64_t lo = e->offset, hi = e->offset + e->length;

	if (lo < want_start(want))
		lo = want_start(want);
	if (hi > want_end(want))
		hi = want_end(want);
	*first = (uint32_t)((lo - want_start(want)) / unit);
	*end = (uint32_t)((hi - 1 - want_start(want)) / unit) + 1;
}

static bool
part_in_lane(const struct want *want, const struct extent *e)
{
	uint32_t i, end;

	want_part(want, e, &i, &end);
	while (i < end && want->in_lane[i])
		i++;
	return i == end;
}

/* Is it in the map now?  Published, if it may be. */
static bool
in_map(struct want *want, const struct extent *e)
{
	struct layout *l = want->dev->layout;

	return (e->chunk == NO_CHUNK ||
	    layout_state(l, e->chunk) == CHUNK_VERIFIED) &&
	    map_publish(want->dev, e);
}

/* All fills are over. */
static void
want_settle(struct want *want)
{
	struct device *dev = want->dev;
	struct extent e;

	if (!map_may_publish(dev) && !dev->layout->failed) {
		want_block(want);
		return;
	}
	if (want->unkept && want->lane < 0) {
		TAILQ_REMOVE(&dev->wants, want, entry);
		TAILQ_INSERT_TAIL(&dev->lane_queue, want, entry);
		return;
	}
	/* What was published may have been found bad since. */
	for (uint64_t at = want_start(want); at < want_end(want) &&
	    !dev->layout->failed; at = e.offset + e.length) {
		e = layout_extent(dev->layout, at);
		if (!part_in_lane(want, &e) && !in_map(want, &e)) {
			want_begin(want);
			return;
		}
	}
	want_answer(want, &dev->wants, dev->layout->failed ? EIO : 0);
}

static void
want_begin(struct want *want)
{
	struct layout *l = want->dev->layout;
	struct waiter *w = want->waiters;
	struct extent e;

	want->unkept = false;
	want->missing = 1;	/* held while beginning */
	for (uint64_t at = want_start(want); at < want_end(want);
	    at = e.offset + e.length) {
		e = layout_extent(l, at);
		if (part_in_lane(want, &e))
			continue;
		if (!(want->again && e.chunk != NO_CHUNK) && in_map(want, &e))
			continue;
		if (e.chunk == NO_CHUNK)
			continue;	/* failed: want_settle() says so */
		want->missing++;
		w->want = want;
		w->extent = e;
		/* Here and not in the map: its bytes, then. */
		fill_want(l, e.chunk, w++, want->again ||
		    layout_state(l, e.chunk) == CHUNK_VERIFIED);
	}
	if (--want->missing == 0)
		want_settle(want);
	else
		fetch_pump();
}

static void
lane_copy(struct want *want, const struct extent *e, const uint8_t *buf)
{
	struct device *dev = want->dev;
	uint8_t *lane = dev->scratch + (size_t)want->lane * dev->lane_size;
	uint64_t start = want_start(want), lo = e->offset, hi;
	uint32_t first, end;

	want_part(want, e, &first, &end);
	if (lo < start)
		lo = start;
	hi = e->offset + e->length;
	if (hi > want_end(want))
		hi = want_end(want);
	memcpy(lane + (lo - start), buf + (lo - e->offset), hi - lo);
	memset(want->in_lane + first, 1, end - first);
}

void
want_extent_done(struct waiter *w, const uint8_t *buf, size_t len)
{
	struct want *want = w->want;
	struct device *dev = want->dev;

	if (!map_may_publish(dev) || len != w->extent.length)
		buf = NULL;	/* not verified to the device's rung */
	if (buf && want->lane < 0 && scratch_make(dev) == 0)
		want->lane = lane_take(want);
	if (buf && want->lane >= 0)
		lane_copy(want, &w->extent, buf);
	else if (buf)
		want->unkept = true;
	if (--want->missing == 0)
		want_settle(want);
}

static void
lane_freed(struct device *dev)
{
	struct want *want = TAILQ_FIRST(&dev->lane_queue);

	if (!want)
		return;
	want->lane = lane_take(want);
	if (want->lane < 0)
		return;
	TAILQ_REMOVE(&dev->lane_queue, want, entry);
	TAILQ_INSERT_TAIL(&dev->wants, want, entry);
	want_begin(want);
}

static void
worker_broken(struct device *dev)
{
	struct parent_msg msg = { .type = CHILD_BROKEN, .peer = PEER_IO,
		.device = dev->spec };

	log_err("the worker of device %s broke the protocol", dev->spec.name);
	parent_send(parent, &msg, -1);
}

static struct want *
want_new(struct device *dev, const Suite__Want *m, uint64_t id)
{
	struct want *want = calloc(1, sizeof(*want) +
	    m->count * sizeof(want->waiters[0]));

	if (want)
		want->in_lane = calloc(1, m->count);
	if (!want || !want->in_lane)
		log_die("no memory for a read");
	want->dev = dev;
	want->id = id;
	want->first = m->first;
	want->count = m->count;
	want->again = m->again;
	want->lane = -1;
	want->started_ms = now_ms();
	dev->n_wants++;
	dev->layout->waiting++;
	return want;
}

/* Only of what is fetched by ranges. */
static void
read_ahead(struct device *dev, const Suite__Want *m)
{
	struct layout *l = dev->layout;

	if (l->complete || l->plain || l->failed || m->again ||
	    now_ms() < l->full_until)
		return;
	ahead_read(&dev->ahead, l, m->first * dev->spec.unit,
	    (uint64_t)m->count * dev->spec.unit);
	fetch_pump();
}

static void
on_want(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Want *m = msg->body;
	struct device *dev = owner;
	struct layout *l = dev->layout;
	uint64_t units = map_units(l->size, l->unit);
	struct want *want;

	(void)link;
	if (m->count == 0 || m->count > WANT_MAX || m->first >= units ||
	    m->count > units - m->first ||
	    (uint64_t)m->count * l->unit > NBD_READ_MAX + 2ULL * l->unit ||
	    dev->n_wants >= WANTS_MAX) {
		worker_broken(dev);
		return;
	}
	want = want_new(dev, m, msg->id);
	TAILQ_INSERT_TAIL(&dev->wants, want, entry);
	tick_soon();
	if (l->failed)
		want_answer(want, &dev->wants, EIO);
	else if (!map_may_publish(dev))
		want_block(want);
	else {
		want_begin(want);
		read_ahead(dev, m);
	}
}

static void
on_release(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Release *m = msg->body;
	struct device *dev = owner;

	(void)link;
	if (m->lane >= LANES || !dev->lane_used[m->lane] ||
	    dev->lanes[m->lane]) {
		worker_broken(dev);
		return;
	}
	dev->lane_used[m->lane] = false;
	lane_freed(dev);
}

/* ---- what happens to a layout ---- */

static void
drop_all(struct wants *list)
{
	struct want *want;

	while ((want = TAILQ_FIRST(list)))
		want_free(want, list);
}

static void
fail_all(struct wants *list)
{
	struct want *want;

	while ((want = TAILQ_FIRST(list)))
		want_answer(want, list, EIO);
}

void
device_fail_all(struct layout *l)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry) {
		atomic_store(&dev->map->state, MAP_BROKEN);
		fail_all(&dev->wants);
		fail_all(&dev->lane_queue);
		fail_all(&dev->blocked);
	}
}

void
device_complete(struct layout *l)
{
	struct device *dev;
	struct want *want;

	TAILQ_FOREACH(dev, &l->devices, entry)
		while ((want = TAILQ_FIRST(&dev->blocked))) {
			TAILQ_REMOVE(&dev->blocked, want, entry);
			TAILQ_INSERT_TAIL(&dev->wants, want, entry);
			want_begin(want);
		}
}

bool
device_plain(const struct layout *l)
{
	const struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		if (dev->spec.present == CTL_PRESENT(PLAIN))
			return true;
	return false;
}

bool
device_needs_whole(const struct layout *l)
{
	const struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		if (dev->spec.rung == CTL_RUNG(WHOLE) || l->plain)
			return true;
	return false;
}

/* ---- outages ---- */

/* When the oldest read that waits began; 0: none does. */
static uint64_t
list_oldest(const struct wants *list, uint64_t oldest)
{
	const struct want *want;

	TAILQ_FOREACH(want, list, entry)
		if (oldest == 0 || want->started_ms < oldest)
			oldest = want->started_ms;
	return oldest;
}

static uint64_t
layout_oldest(const struct layout *l)
{
	const struct device *dev;
	uint64_t oldest = 0;

	TAILQ_FOREACH(dev, &l->devices, entry) {
		oldest = list_oldest(&dev->wants, oldest);
		oldest = list_oldest(&dev->lane_queue, oldest);
		oldest = list_oldest(&dev->blocked, oldest);
	}
	return oldest;
}

void
device_stalled(struct layout *l, const char *why)
{
	if (l->waiting > 0)
		outage_begin(l, l->stalled ? 0 : layout_oldest(l), why);
}

void
device_recovered(struct layout *l)
{
	outage_answered(l);
}

/* Some of its chunks are to come from the network.  What is read back, hashed
 * or written takes as long as the disk does, and is no outage. */
static bool
waits_for_network(const struct want *want)
{
	for (uint32_t i = 0; i < want->count; i++) {
		const struct fill *f = want->waiters[i].fill;

		if (f && (f->state == FILL_QUEUED || f->state == FILL_FETCH))
			return true;
	}
	return false;
}

/* What waited for as long as the device lets it gets EIO, and nothing stays of
 * that: the next read tries again.  Not where all of the image comes in one
 * request, and still comes. */
static void
device_give_up(struct device *dev, uint64_t now)
{
	uint64_t most = dev->spec.eio_after_s * UINT64_C(1000);
	struct layout *l = dev->layout;
	struct want *want, *next;
	unsigned n = 0;

	if (most == 0 || !l->stalled || (l->plain && l->pulling &&
	    now - l->outage.answer < most))
		return;
	for (want = TAILQ_FIRST(&dev->wants); want; want = next) {
		next = TAILQ_NEXT(want, entry);
		if (now - want->started_ms < most || !waits_for_network(want))
			continue;
		want_answer(want, &dev->wants, EIO);
		n++;
	}
	if (n > 0)
		outage_eio(l, &dev->spec, n);
}

static void
layout_tick(struct layout *l, uint64_t now)
{
	struct device *dev;

	/* On a full link reads are late, and no outage. */
	if (!l->stalled && now - l->outage.answer > LATE_MS &&
	    layout_late(l, now))
		device_stalled(l, NULL);
	outage_look(l, layout_late(l, now));
	if (!l->stalled)
		return;
	outage_tell(l, layout_oldest(l));
	if (outage_alarm_due(l, layout_oldest(l)))
		TAILQ_FOREACH(dev, &l->devices, entry)
			if (dev->n_wants > 0 || dev->spec.eio_after_s > 0)
				outage_alarm(l, &dev->spec, dev->n_wants);
	TAILQ_FOREACH(dev, &l->devices, entry)
		device_give_up(dev, now);
}

bool
device_tick(void)
{
	uint64_t now = now_ms();
	struct layout *l;
	struct device *dev;
	bool any = false;

	TAILQ_FOREACH(l, &layouts, entry) {
		layout_tick(l, now);
		any |= l->stalled;
		TAILQ_FOREACH(dev, &l->devices, entry) {
			any |= dev->n_wants > 0;
			if (!TAILQ_EMPTY(&dev->blocked) && !l->pulling &&
			    now > l->pull_again) {
				l->pull_again = now + PULL_AGAIN_MS;
				finish_pull(l, false);
			}
		}
	}
	return any;
}

/* ---- a device's life ---- */

/* Its reads wait: unknown means in use, never means zeros. */
static void
cannot_serve(const struct device_spec *spec, int r)
{
	log_err("device %s can't be served: %s; mend the store, or detach it "
	    "and attach it again", spec->name, r == -ENOKEY ?
	    "its index on disk is damaged" : strerror(-r));
}

void
device_add(const struct device_spec *spec, int mapfd)
{
	_cleanup_close_ int fd = mapfd;
	struct image *image = image_by_manifest(&spec->image);
	struct layout_spec want = { .key = spec->layout, .blob = spec->blob,
		.size = spec->size, .host = image ? image->host : "",
		.repo = image ? image->repo : "" };
	struct device *dev = device_find(spec->id);
	void *p = NULL;
	int r;

	if (dev) {
		log_err("device %s was given twice", spec->id);
		return;
	}
	dev = calloc(1, sizeof(*dev));
	if (!dev)
		log_die("no memory for a device");
	dev->spec = *spec;
	TAILQ_INIT(&dev->wants);
	TAILQ_INIT(&dev->lane_queue);
	TAILQ_INIT(&dev->blocked);
	r = spec->unit == UNIT_SIZE || spec->unit == MAP_BLOCK ?
	    shm_map(fd, map_size(spec->size, spec->unit), true, &p) : -EINVAL;
	if (r == 0)
		r = layout_get(&want, &dev->layout);
	if (r == 0 && dev->layout->unit != spec->unit) {
		layout_put(dev->layout);
		r = -EINVAL;
	}
	if (r < 0) {
		cannot_serve(spec, r);
		if (p)
			map_clear(p, spec);
		free(dev);
		return;
	}
	dev->map = p;
	if (dev->layout->file->expected > 0)
		dev->layout->file->expected--;
	map_claim(dev);
	TAILQ_INSERT_TAIL(&dev->layout->devices, dev, entry);
	if (dev->layout->failed)
		atomic_store(&dev->map->state, MAP_BROKEN);
	else
		map_adopt_more(dev->layout);
}

static void
link_drop(struct device *dev)
{
	ipc_free(take_ptr(dev->link));
	drop_all(&dev->wants);
	drop_all(&dev->lane_queue);
	drop_all(&dev->blocked);
	if (dev->scratch)
		munmap(dev->scratch, LANES * dev->lane_size);
	dev->scratch = NULL;
	memset(dev->lane_used, 0, sizeof(dev->lane_used));
	memset(dev->lanes, 0, sizeof(dev->lanes));
}

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	struct device *dev = owner;

	(void)link;
	if (why < 0 && why != -ECONNRESET)
		worker_broken(dev);	/* it needs a new link, at least */
	link_drop(dev);
}

void
device_link(const struct device_spec *spec, int fd)
{
	struct device *dev = device_find(spec->id);

	if (!dev) {
		fd_close(fd);
		return;
	}
	link_drop(dev);
	dev->link = ipc_new(loop, fd, &io_table, PEER_IO, dev);
	if (!dev->link)
		log_die("no memory for a link");
	map_send_files(dev);
}

void
device_gone(const struct device_spec *spec)
{
	struct device *dev = device_find(spec->id);

	if (!dev)
		return;
	link_drop(dev);
	map_touch(dev);
	map_done(dev);
	TAILQ_REMOVE(&dev->layout->devices, dev, entry);
	if (TAILQ_EMPTY(&dev->layout->devices))
		fill_ahead_stop(dev->layout);
	layout_put(dev->layout);
	free(dev);
}
