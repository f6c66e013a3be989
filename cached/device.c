// SPDX-License-Identifier: Apache-2.0
/*
 * Devices: their maps, and the reads of their workers that wait.
 *
 * A want is one read's missing units.  It is answered when each of them is in
 * the map, or, where the store could not keep it, in a lane of the device's
 * scratch object:
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
 */
#include <sys/mman.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "cached/cached.h"

#define LANES		2
#define WANTS_MAX	8192	/* of one worker: it bounds its own reads */
#define STALL_MS	2000	/* a read that waits longer is worth a word */
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
	struct waiter waiters[];
};
TAILQ_HEAD(wants, want);

struct device {
	TAILQ_ENTRY(device) entry;	/* of its layout */
	struct device_spec spec;
	struct layout *layout;
	struct map *map;
	struct ipc_link *link;		/* to its worker; NULL while away */
	struct wants wants, lane_queue, blocked;
	unsigned n_wants;
	uint8_t *scratch;
	size_t lane_size;
	struct want *lanes[LANES];
	bool lane_used[LANES];
	uint64_t adopt_next;
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

/* ---- the map ---- */

static bool
may_publish(const struct device *dev)
{
	return !dev->layout->failed && (dev->spec.rung < CTL_RUNG(WHOLE) ||
	    dev->layout->complete);
}

static void
publish(struct device *dev, uint64_t unit)
{
	if (may_publish(dev) && atomic_load(&dev->map->words[unit]) == 0)
		atomic_store_explicit(&dev->map->words[unit],
		    map_word(dev->map->slot, unit * dev->spec.unit),
		    memory_order_release);
}

void
device_publish(struct layout *l, uint64_t unit)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		publish(dev, unit);
}

void
device_withdraw(struct layout *l, uint64_t unit)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		atomic_store(&dev->map->words[unit], 0);
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

static void
want_answer(struct want *want, struct wants *list, uint32_t status)
{
	Suite__Here m = SUITE__HERE__INIT;

	m.status = status;
	m.lane = want->lane;
	if (want->lane >= 0) {
		m.in_lane.data = want->in_lane;
		m.in_lane.len = want->count;
		want->dev->lanes[want->lane] = NULL;	/* until Release */
	}
	ipc_send(want->dev->link, want->id, SUITE_BODY(HERE), &m, NULL, 0, -1);
	want_free(want, list);
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

/* All units are accounted for. */
static void
want_settle(struct want *want)
{
	struct device *dev = want->dev;

	if (!may_publish(dev) && !dev->layout->failed) {
		want_block(want);
		return;
	}
	if (want->unkept && want->lane < 0) {
		TAILQ_REMOVE(&dev->wants, want, entry);
		TAILQ_INSERT_TAIL(&dev->lane_queue, want, entry);
		return;
	}
	want_answer(want, &dev->wants, 0);
}

static void
want_begin(struct want *want)
{
	struct layout *l = want->dev->layout;

	want->unkept = false;
	want->missing = 1;	/* held while beginning */
	for (uint32_t i = 0; i < want->count; i++) {
		uint64_t unit = want->first + i;
		bool here = layout_state(l, unit) == UNIT_VERIFIED;

		if (want->in_lane[i])
			continue;
		if (here && !want->again) {
			publish(want->dev, unit);
			continue;
		}
		want->missing++;
		want->waiters[i].want = want;
		fill_want(l, unit, &want->waiters[i], want->again);
	}
	if (--want->missing == 0)
		want_settle(want);
	else
		fetch_pump();
}

void
want_unit_done(struct waiter *w, const uint8_t *buf, size_t len)
{
	struct want *want = w->want;
	struct device *dev = want->dev;
	size_t i = (size_t)(w - want->waiters);

	if (!may_publish(dev))
		buf = NULL;	/* not verified to the device's rung */
	if (buf && want->lane < 0 && scratch_make(dev) == 0)
		want->lane = lane_take(want);
	if (buf && want->lane >= 0) {
		memcpy(dev->scratch + (size_t)want->lane * dev->lane_size +
		    i * dev->spec.unit, buf, len);
		want->in_lane[i] = 1;
	} else if (buf)
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

static void
on_want(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Want *m = msg->body;
	struct device *dev = owner;
	struct layout *l = dev->layout;
	struct want *want;

	(void)link;
	if (m->count == 0 || m->count > WANT_MAX || m->first >= l->n_units ||
	    m->count > l->n_units - m->first ||
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
	else if (!may_publish(dev))
		want_block(want);
	else
		want_begin(want);
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
device_needs_whole(const struct layout *l)
{
	const struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		if (dev->spec.rung >= CTL_RUNG(WHOLE) || l->plain)
			return true;
	return false;
}

void
device_stalled(struct layout *l, const char *why)
{
	if (l->stalled || l->waiting == 0)
		return;
	l->stalled = true;
	notice("stalled", &l->blob, "%llu reads wait for %s/%s: %s",
	    (unsigned long long)l->waiting, l->host, l->repo, why);
}

void
device_recovered(struct layout *l)
{
	if (!l->stalled)
		return;
	l->stalled = false;
	notice("recovered", &l->blob, "%s/%s answers again", l->host,
	    l->repo);
	tick_soon();
}

static bool
stalls(struct wants *list, uint64_t now)
{
	struct want *want = TAILQ_FIRST(list);

	return want && now - want->started_ms > STALL_MS;
}

bool
device_tick(void)
{
	uint64_t now = now_ms();
	struct layout *l;
	struct device *dev;
	bool any = false;

	TAILQ_FOREACH(l, &layouts, entry)
		TAILQ_FOREACH(dev, &l->devices, entry) {
			any |= dev->n_wants > 0;
			if (stalls(&dev->wants, now) ||
			    stalls(&dev->lane_queue, now) ||
			    stalls(&dev->blocked, now))
				device_stalled(l, l->last_error[0] ?
				    l->last_error : "no answer yet");
			if (!TAILQ_EMPTY(&dev->blocked) && !l->pulling &&
			    now > l->pull_again) {
				l->pull_again = now + PULL_AGAIN_MS;
				finish_pull(l, false);
			}
		}
	return any;
}

/* ---- a device's life ---- */

void
device_adopt_more(struct layout *l)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		while (dev->adopt_next < l->n_units) {
			uint64_t unit = dev->adopt_next++;

			if (atomic_load(&dev->map->words[unit]) == 0 ||
			    layout_state(l, unit) != UNIT_ABSENT)
				continue;
			layout_set(l, unit, UNIT_RECORDED);
			if (fill_adopt(l, unit) > 0)
				return;	/* one at a time; its end comes here */
		}
}

/* Words that speak of another file than the layout's mean nothing now.  The
 * file gets a slot of its own, so that no read takes the one for the other. */
static void
map_claim(struct device *dev)
{
	struct map *map = dev->map;

	if (map->file_id == dev->layout->file_id)
		return;
	for (uint64_t unit = 0; unit < dev->layout->n_units; unit++)
		atomic_store(&map->words[unit], 0);
	map->slot = (map->slot + 1) % MAP_SLOTS;
	map->file_id = dev->layout->file_id;
}

void
device_add(const struct device_spec *spec, int mapfd)
{
	_cleanup_close_ int fd = mapfd;
	struct image *image = image_by_manifest(&spec->image);
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
	r = spec->unit == UNIT_SIZE ? shm_map(fd, map_size(spec->size,
	    spec->unit), true, &p) : -EINVAL;
	if (r == 0)
		r = layout_get(&spec->blob, spec->size,
		    image ? image->host : "", image ? image->repo : "",
		    &dev->layout);
	if (r < 0) {
		/* Its reads wait: unknown means in use, never means zeros. */
		notice("stalled", &spec->blob, "device %s can't be served: %s; "
		    "mend the store and restart", spec->name, strerror(-r));
		if (p)
			munmap(p, map_size(spec->size, spec->unit));
		free(dev);
		return;
	}
	dev->map = p;
	map_claim(dev);
	TAILQ_INSERT_TAIL(&dev->layout->devices, dev, entry);
	if (dev->layout->failed)
		atomic_store(&dev->map->state, MAP_BROKEN);
	else
		device_adopt_more(dev->layout);
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
	Suite__StoreFile m = SUITE__STORE_FILE__INIT;
	int copy;

	if (!dev) {
		fd_close(fd);
		return;
	}
	link_drop(dev);
	dev->link = ipc_new(loop, fd, &io_table, PEER_IO, dev);
	if (!dev->link)
		log_die("no memory for a link");
	copy = fd_duplicate(dev->layout->data_ro);
	if (copy < 0)
		log_die("duplicate a store file: %s", strerror(-copy));
	m.slot = dev->map->slot;
	ipc_send(dev->link, 0, SUITE_BODY(STORE_FILE), &m, NULL, 0, copy);
}

void
device_gone(const struct device_spec *spec)
{
	struct device *dev = device_find(spec->id);

	if (!dev)
		return;
	link_drop(dev);
	munmap(dev->map, map_size(dev->spec.size, dev->spec.unit));
	TAILQ_REMOVE(&dev->layout->devices, dev, entry);
	layout_put(dev->layout);
	free(dev);
}
