// SPDX-License-Identifier: Apache-2.0
/*
 * Workers for a real cached: maps, store files, scratch lanes and reads.  A
 * read looks at the map as devd-io does, at each step anew:
 *
 *	look: each unit that can be read is compared with the image's bytes,
 *	  |   once; the others, from the first to the last of them:
 *	  +--> Want --Here--> a lane is compared too, then Released --> look
 *
 * See host.h.
 */
#include <sys/mman.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "base/shm.h"
#include "tests/store/host.h"

#define VAIN_MAX	100	/* answers that bring a read no further */
#define READ_ALL	(1024 * 1024)	/* bytes a read, READS of them at once */
#define READS		4
#define SHOWN		8	/* bytes of a failure */

struct host_read {
	TAILQ_ENTRY(host_read) entry;
	struct host_device *dev;
	uint64_t first, last;	/* units */
	uint8_t *seen;		/* one byte a unit: it was compared */
	uint8_t *unreadable;	/* the map has it, but its file can't be read */
	uint64_t want, want_first;	/* the Want under way; 0: none */
	uint32_t want_count;
	unsigned vain;
	bool done;
	int status;
};

static void read_go(struct host_read *r);

static uint64_t
unit_start(const struct host_device *dev, uint64_t unit)
{
	return unit * dev->spec.unit;
}

static size_t
unit_len(const struct host_device *dev, uint64_t unit)
{
	uint64_t left = dev->spec.size - unit_start(dev, unit);

	return left < dev->spec.unit ? (size_t)left : dev->spec.unit;
}

/* ---- comparing ---- */

static const char *
file_name(int fd, char out[160])
{
	char link[40];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, out, 159);
	out[n < 0 ? 0 : n] = '\0';
	return out;
}

static const char *
hex(const uint8_t *at, char out[2 * SHOWN + 1])
{
	for (size_t i = 0; i < SHOWN; i++)
		snprintf(out + 2 * i, 3, "%02x", at[i]);
	return out;
}

/* Bytes that a guest would get: they are the image's, or the test is over. */
static void
compare(struct host_device *dev, uint64_t unit, const uint8_t *got,
    const char *from)
{
	size_t len = unit_len(dev, unit), at = 0;
	const uint8_t *truth = dev->image->bytes + unit_start(dev, unit);
	char is[2 * SHOWN + 1], want[2 * SHOWN + 1];

	if (memcmp(got, truth, len) == 0)
		return;
	while (got[at] == truth[at])
		at++;
	if (at > len - SHOWN)
		at = len > SHOWN ? len - SHOWN : 0;
	host_fail(dev->host, "WRONG BYTE: %s unit %llu byte %zu: got %s, the "
	    "image has %s; from %s, word %llx", dev->image->name,
	    (unsigned long long)unit, at, hex(got + at, is),
	    hex(truth + at, want), from, (unsigned long long)
	    atomic_load(&dev->map->words[unit]));
}

/* The unit as the map has it.  false: not there, or it can't be read. */
static bool
look(struct host_read *r, uint64_t unit)
{
	struct host_device *dev = r->dev;
	uint64_t word = atomic_load_explicit(&dev->map->words[unit],
	    memory_order_acquire), offset;
	uint8_t *buf = calloc(1, dev->spec.unit);
	char from[200], name[160];
	bool ok = false;
	uint32_t slot;

	if (!buf)
		abort();
	if (word == MAP_ZEROS) {
		compare(dev, unit, buf, "zeros of the map");
		ok = true;
	} else if (map_location(word, &slot, &offset) && slot < MAP_SLOTS &&
	    dev->slots[slot] >= 0) {
		size_t len = unit_len(dev, unit);

		ok = fd_pread_all(dev->slots[slot], buf, len, offset) ==
		    (ssize_t)len;
		snprintf(from, sizeof(from), "%s at %llu",
		    file_name(dev->slots[slot], name),
		    (unsigned long long)offset);
		if (ok)
			compare(dev, unit, buf, from);
		else
			r->unreadable[unit - r->first] = 1;
	}
	free(buf);
	return ok;
}

/* ---- reads ---- */

static void
read_finish(struct host_read *r, int status)
{
	r->done = true;
	r->status = status;
	r->want = 0;
}

static void
read_ask(struct host_read *r, uint64_t first, uint64_t last)
{
	struct host_device *dev = r->dev;
	Suite__Want m = SUITE__WANT__INIT;

	r->want = ++dev->host->last_id;
	r->want_first = m.first = first;
	r->want_count = m.count = (uint32_t)(last - first + 1);
	for (uint64_t u = first; u <= last; u++)
		m.again |= r->unreadable[u - r->first];
	memset(r->unreadable, 0, (size_t)(r->last - r->first + 1));
	dev->wants++;
	dev->agains += m.again;
	if (dev->link)
		ipc_send(dev->link, r->want, SUITE_BODY(WANT), &m, NULL, 0, -1);
}

static void
read_go(struct host_read *r)
{
	struct host_device *dev = r->dev;
	uint64_t first = UINT64_MAX, last = 0;

	if (atomic_load(&dev->map->state) != MAP_SERVING) {
		read_finish(r, -EIO);
		return;
	}
	for (uint64_t u = r->first; u <= r->last; u++) {
		uint8_t *seen = &r->seen[u - r->first];

		if (!*seen)
			*seen = look(r, u);
		if (*seen)
			continue;
		if (first == UINT64_MAX)
			first = u;
		last = u;
	}
	if (first == UINT64_MAX)
		read_finish(r, 0);
	else
		read_ask(r, first, last);
}

struct host_read *
host_read_begin(struct host_device *dev, uint64_t offset, size_t len)
{
	struct host_read *r = calloc(1, sizeof(*r));
	size_t units;

	if (!r || len == 0 || len > NBD_READ_MAX || offset >= dev->spec.size ||
	    len > dev->spec.size - offset)
		abort();
	r->dev = dev;
	r->first = offset / dev->spec.unit;
	r->last = (offset + len - 1) / dev->spec.unit;
	units = (size_t)(r->last - r->first + 1);
	r->seen = calloc(1, units);
	r->unreadable = calloc(1, units);
	if (!r->seen || !r->unreadable)
		abort();
	TAILQ_INSERT_TAIL(&dev->reads, r, entry);
	read_go(r);
	return r;
}

bool
host_read_done(const struct host_read *r)
{
	return r->done;
}

static bool
read_is_done(void *arg)
{
	return ((struct host_read *)arg)->done;
}

int
host_read_end(struct host_read *r)
{
	char what[256];
	int status;

	snprintf(what, sizeof(what), "%s units %llu..%llu (Want %llu+%u)",
	    r->dev->image->name, (unsigned long long)r->first,
	    (unsigned long long)r->last, (unsigned long long)r->want_first,
	    r->want_count);
	host_until(r->dev->host, read_is_done, r, what);
	status = r->status;
	TAILQ_REMOVE(&r->dev->reads, r, entry);
	free(r->seen);
	free(r->unreadable);
	free(r);
	return status;
}

int
host_read(struct host_device *dev, uint64_t offset, size_t len)
{
	return host_read_end(host_read_begin(dev, offset, len));
}

static void
end_well(struct host_read *r)
{
	const struct host_device *dev = r->dev;

	if (host_read_end(r) < 0)
		host_fail(dev->host, "%s: a read failed", dev->image->name);
}

void
host_read_all(struct host_device *dev)
{
	struct host_read *reads[READS] = { NULL };
	uint64_t size = dev->spec.size;
	size_t n = 0;

	for (uint64_t at = 0; at < size; at += READ_ALL, n++) {
		struct host_read **r = &reads[n % READS];

		if (*r)
			end_well(*r);
		*r = host_read_begin(dev, at, size - at < READ_ALL ?
		    (size_t)(size - at) : READ_ALL);
	}
	for (size_t i = 0; i < READS; i++)
		if (reads[i])
			end_well(reads[i]);
}

uint64_t
host_mapped(const struct host_device *dev)
{
	uint64_t n = 0;

	for (uint64_t u = 0; u < map_units(dev->spec.size, dev->spec.unit); u++)
		n += atomic_load(&dev->map->words[u]) != 0;
	return n;
}

/* ---- what cached says ---- */

static void
on_store_file(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__StoreFile *m = msg->body;
	struct host_device *dev = owner;

	(void)link;
	if (m->slot >= MAP_SLOTS)
		host_fail(dev->host, "a store file in slot %u", m->slot);
	fd_close(dev->slots[m->slot]);
	dev->slots[m->slot] = msg->fd;
	if (write(msg->fd, "", 0) == 0 || errno != EBADF)
		host_fail(dev->host, "a store file that a worker can write");
}

static void
on_scratch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	_cleanup_close_ int fd = msg->fd;
	const Suite__Scratch *m = msg->body;
	struct host_device *dev = owner;
	void *p;

	(void)link;
	if (dev->scratch || m->lanes == 0 || m->lane_size == 0 ||
	    m->lane_size > 2 * NBD_READ_MAX ||
	    shm_map(fd, m->lanes * m->lane_size, 0, &p) < 0)
		host_fail(dev->host, "a scratch object that is none");
	dev->scratch = p;
	dev->lanes = m->lanes;
	dev->lane_size = m->lane_size;
}

/* Units of a lane: compared, and given back. */
static void
take_lane(struct host_read *r, const Suite__Here *m)
{
	struct host_device *dev = r->dev;
	Suite__Release release = SUITE__RELEASE__INIT;

	if ((uint32_t)m->lane >= dev->lanes || m->in_lane.len != r->want_count)
		host_fail(dev->host, "a lane that is none");
	for (uint32_t i = 0; i < r->want_count; i++) {
		uint64_t unit = r->want_first + i;

		if (!m->in_lane.data[i])
			continue;
		if ((i + UINT64_C(1)) * dev->spec.unit > dev->lane_size)
			host_fail(dev->host, "a lane that is too short");
		compare(dev, unit, dev->scratch + (uint64_t)m->lane *
		    dev->lane_size + (uint64_t)i * dev->spec.unit, "a lane");
		r->seen[unit - r->first] = 1;
		dev->in_lanes++;
	}
	release.lane = (uint32_t)m->lane;
	ipc_send(dev->link, 0, SUITE_BODY(RELEASE), &release, NULL, 0, -1);
}

static size_t
seen(const struct host_read *r)
{
	size_t n = 0;

	for (uint64_t u = r->first; u <= r->last; u++)
		n += r->seen[u - r->first];
	return n;
}

static void
on_here(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Here *m = msg->body;
	struct host_device *dev = owner;
	struct host_read *r;
	size_t before;

	(void)link;
	TAILQ_FOREACH(r, &dev->reads, entry)
		if (r->want == msg->id && !r->done)
			break;
	if (!r)
		host_fail(dev->host, "an answer to no Want");
	before = seen(r);
	r->want = 0;
	if (m->lane >= 0 && m->status == 0)
		take_lane(r, m);
	if (m->status != 0) {
		read_finish(r, -(int)m->status);
		return;
	}
	read_go(r);
	r->vain = seen(r) > before ? 0 : r->vain + 1;
	if (r->vain > VAIN_MAX)
		host_fail(dev->host, "%s units %llu..%llu: %d answers in vain",
		    dev->image->name, (unsigned long long)r->first,
		    (unsigned long long)r->last, VAIN_MAX);
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(STORE_FILE), "store_file", PEER_CACHED, PHASE_ANY, true, false, on_store_file },
	{ SUITE_BODY(SCRATCH), "scratch", PEER_CACHED, PHASE_ANY, true, false, on_scratch },
	{ SUITE_BODY(HERE), "here", PEER_CACHED, PHASE_ANY, false, false, on_here },
};

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	struct host_device *dev = owner;

	(void)link;
	io_unlink(dev);
	if (!dev->host->stopping && why == -EPROTO)
		host_fail(dev->host, "cached broke the protocol with a worker");
}

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
};

/* ---- a device's life ---- */

/* What the worker has of cached dies with the link; its store files it keeps,
 * and reads them as the map says. */
void
io_unlink(struct host_device *dev)
{
	ipc_free(take_ptr(dev->link));
	if (dev->scratch)
		munmap(dev->scratch, dev->lanes * dev->lane_size);
	dev->scratch = NULL;
	dev->lanes = 0;
}

/* A new link: whatever waits is asked for again. */
void
io_give(struct host_device *dev)
{
	struct host *h = dev->host;
	struct host_read *r;

	io_unlink(dev);
	dev->link = ipc_new(h->base, host_link(h, PEER_IO, &dev->spec),
	    &table, PEER_CACHED, dev);
	if (!dev->link)
		host_fail(h, "no memory for a link");
	TAILQ_FOREACH(r, &dev->reads, entry)
		if (!r->done)
			read_go(r);
}

static void
map_make(struct host_device *dev)
{
	size_t size = map_size(dev->spec.size, dev->spec.unit);
	void *p;

	if (dev->map)
		munmap(dev->map, size);
	fd_close(dev->map_fd);
	dev->map_fd = shm_object("map", size);
	if (dev->map_fd < 0 || shm_map(dev->map_fd, size, 1, &p) < 0)
		host_fail(dev->host, "no memory for a map");
	dev->map = p;
}

static void
slots_close(struct host_device *dev)
{
	for (size_t i = 0; i < MAP_SLOTS; i++) {
		fd_close(dev->slots[i]);
		dev->slots[i] = -1;
	}
}

void
host_forget_maps(struct host *h)
{
	struct host_device *dev;

	TAILQ_FOREACH(dev, &h->devices, entry) {
		slots_close(dev);
		map_make(dev);
	}
}

/* Its successor has no store file until cached gives it some. */
void
host_new_worker(struct host_device *dev)
{
	slots_close(dev);
	io_give(dev);
}

struct host_device *
host_attach(struct host *h, const struct host_answer *a)
{
	struct host_device *dev = calloc(1, sizeof(*dev));
	static uint64_t number;

	if (!dev)
		abort();
	dev->host = h;
	dev->image = registry_by_manifest(h->registry, &a->manifest);
	if (!dev->image)
		host_fail(h, "what was opened is no image of the registry");
	if (a->size != dev->image->size ||
	    !digest_equal(&a->blob, &dev->image->erofs))
		host_fail(h, "%s was opened as something else",
		    dev->image->name);
	dev->map_fd = -1;
	for (size_t i = 0; i < MAP_SLOTS; i++)
		dev->slots[i] = -1;
	TAILQ_INIT(&dev->reads);
	dev->spec = (struct device_spec){ .image = a->manifest,
		.blob = a->blob, .layout = a->layout, .size = a->size,
		.unit = a->unit, .rung = a->rung,
		.present = CTL_PRESENT(NBD),
		.eio_after_s = h->eio_after_s };
	snprintf(dev->spec.id, sizeof(dev->spec.id), "%016llx",
	    (unsigned long long)++number);
	snprintf(dev->spec.name, sizeof(dev->spec.name), "%s-%llu",
	    dev->image->tag, (unsigned long long)number);
	map_make(dev);
	TAILQ_INSERT_TAIL(&h->devices, dev, entry);
	host_tell(h, PARENT_DEVICE, 0, &dev->spec, fd_duplicate(dev->map_fd));
	io_give(dev);
	return dev;
}

void
io_free(struct host_device *dev)
{
	struct host_read *r;

	TAILQ_REMOVE(&dev->host->devices, dev, entry);
	io_unlink(dev);
	slots_close(dev);
	while ((r = TAILQ_FIRST(&dev->reads))) {
		TAILQ_REMOVE(&dev->reads, r, entry);
		free(r->seen);
		free(r->unreadable);
		free(r);
	}
	munmap(dev->map, map_size(dev->spec.size, dev->spec.unit));
	fd_close(dev->map_fd);
	free(dev);
}

/* The worker ends first: then its map is dead.  Any answer of cached to what
 * was asked behind that says that it knows. */
void
host_detach(struct host_device *dev)
{
	struct host *h = dev->host;
	struct device_spec spec = dev->spec;

	io_free(dev);
	if (!h->parent)
		return;
	host_tell(h, PARENT_GONE, 0, &spec, -1);
	host_inspect(h, &spec.layout);
}
