// SPDX-License-Identifier: Apache-2.0
/*
 * The parent's devices: what each consists of (a map, statistics, a worker, and
 * a socket to listen on or a mounted file with its journal), made when control
 * asks and kept until it asks for the end, whoever of the children dies
 * meanwhile.
 *
 *	create --> objects --> cached gets the map --> worker starts
 *	                                                   | ready
 *	destroy --> worker is killed --> freed         control is told
 *
 * One presented as plain has no worker: control is told at once.  One presented
 * as a file lives as long as the descriptor that its requests are read from:
 * workers get duplicates.
 *
 * What a device consists of is kept for the next life of this process
 * (handover.c), and what it is stands in a record (record.c); so a reload goes
 * on where the last life ended, and so does a start whose service manager kept
 * the descriptors.  A ublk device outlives any end by itself, but with a map
 * that begins anew.  Mounts and ublk devices of this run directory that no
 * record names are left over, and taken away.
 * Processes, their links and their restarts are parent.c's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/fuse_journal.h"
#include "devd/parent.h"

#define SECTOR_SIZE	512
#define MARK		"shedstream:"	/* and the run directory */

struct parent_devices parent_devices =
    TAILQ_HEAD_INITIALIZER(parent_devices);

static const struct places *places;
static const struct conf *conf;
static gid_t group;
/* From the root, without links: the run directory; where ours are mounted. */
static char *run, *files;
static char *mark;		/* the source of our mounts */

static void
run_known(const char *dir)
{
	run = realpath(dir, NULL);
	if (!run)
		log_die("where is the run directory %s? %s", dir,
		    strerror(errno));
	if (asprintf(&mark, MARK "%s", run) < 0 ||
	    asprintf(&files, "%s/file", run) < 0)
		log_die("no memory at start");
}

static bool
file_wanted(const char *id)
{
	return parent_device_find(id) != NULL;
}

/* What is of ours and has no device. */
static void
sweep(void)
{
	int n = mount_remove(mark, files, file_wanted);

	if (n < 0)
		log_err("unmount the files of a former instance in %s/file: "
		    "%s; run: umount -l %s/file/*", run, strerror(-n), run);
	else if (n > 0)
		log_warn("unmounted %d files of a former instance; whoever "
		    "still has one open gets errors", n);
	n = parent_block_sweep();
	if (n < 0)
		log_err("take away the block devices of a former instance: %s; "
		    "end who uses them and run: devd --remove-devices",
		    strerror(-n));
	else if (n > 0)
		log_warn("took away %d block devices of a former instance; "
		    "whoever still has one open gets errors", n);
}

struct device *
parent_device_find(const char *id)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (strcmp(dev->spec.id, id) == 0)
			return dev;
	return NULL;
}

/* Presented by a file of the store, which needs no worker. */
static bool
device_is_plain(const struct device *dev)
{
	return dev->spec.present == CTL_PRESENT(PLAIN);
}

static bool
device_is_file(const struct device *dev)
{
	return dev->spec.present == CTL_PRESENT(FILE);
}

/* ---- outliving this process ---- */

/* The digit is the version of what is in it (map.h, fuse_journal.h): a build
 * that has another one finds none. */
#define PART_MAP	"map1"
#define PART_STATS	"stats1"
#define PART_JOURNAL	"journal1"
#define PART_FUSE	"fuse"
#define PART_LISTEN	"listen"

bool
parent_device_takes(const char *journal)
{
	return strcmp(journal, PART_JOURNAL) == 0;
}

const char *
parent_device_journal(void)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (device_is_file(dev))
			return PART_JOURNAL;
	return NULL;
}

static void
device_keep(const struct device *dev)
{
	const struct {
		const char *part;
		int fd;
	} parts[] = { { PART_MAP, dev->map }, { PART_STATS, dev->stats },
		{ PART_FUSE, dev->fuse }, { PART_JOURNAL, dev->journal },
		{ PART_LISTEN, dev->listener } };

	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (parts[i].fd >= 0)
			handover_keep(dev->spec.id, parts[i].part,
			    parts[i].fd);
}

static void
device_record(const struct device *dev)
{
	int r = record_write(&dev->spec, dev->block.number);

	if (r < 0)
		log_err("device %s: write its record: %s; it would not "
		    "outlive this process", dev->spec.name, strerror(-r));
	device_keep(dev);
}

void
parent_device_ending(struct device *dev)
{
	dev->announced = false;
	dev->ending = true;
	record_remove(dev->spec.id);
	handover_drop(dev->spec.id);
}

/* ---- telling ---- */

void
parent_device_announce(struct device *dev)
{
	struct parent_msg msg = { .device = dev->spec,
		.count = dev->block.number };
	_cleanup_close_ int stats = shm_readonly(dev->stats);

	if (stats < 0) {
		log_err("device %s: reopen its statistics: %s", dev->spec.id,
		    strerror(-stats));
		return;
	}
	if (!dev->announced)
		device_record(dev);
	dev->announced = true;
	parent_give(&control, PARENT_DEVICE, &msg, stats);
}

void
parent_device_setup_cached(void)
{
	struct parent_msg msg = { 0 };
	struct device *dev;

	TAILQ_FOREACH(dev, &parent_devices, entry) {
		msg.device = dev->spec;
		parent_give(&cached, PARENT_DEVICE, &msg, dev->map);
	}
}

void
parent_device_setup_control(void)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (dev->announced)
			parent_device_announce(dev);
}

void
parent_device_setup_worker(struct device *dev)
{
	struct parent_msg msg = { .device = dev->spec };
	_cleanup_close_ int map = shm_readonly(dev->map);

	if (map < 0) {
		log_err("device %s: reopen its map: %s", dev->spec.id,
		    strerror(-map));
		return;		/* the worker never becomes ready */
	}
	parent_give(&dev->worker, PARENT_DEVICE, &msg, map);
	parent_give(&dev->worker, PARENT_STATS, &msg, dev->stats);
	if (device_is_file(dev)) {
		parent_give(&dev->worker, PARENT_FUSE, &msg, dev->fuse);
		parent_give(&dev->worker, PARENT_JOURNAL, &msg, dev->journal);
		return;
	}
	if (dev->block.kind) {
		dev->block.kind->give(dev);
		return;
	}
	parent_give(&dev->worker, PARENT_LISTEN, &msg, dev->listener);
}

/* ---- making and ending ---- */

static int
device_listen(struct device *dev)
{
	dev->listener = places_listen(dev->path, places->root, group);
	return dev->listener < 0 ? dev->listener : 0;
}

static int
device_mount(struct device *dev)
{
	dev->journal = shm_object("shedstream-journal", FUSE_JOURNAL_SIZE);
	if (dev->journal < 0)
		return dev->journal;
	return mount_file(dev->path, mark, &dev->fuse);
}

static int
device_path(struct device *dev)
{
	int r = 0;

	if (dev->spec.present == CTL_PRESENT(NBD))
		r = asprintf(&dev->path, "%s/nbd/%s.sock", places->run,
		    dev->spec.id);
	else if (device_is_file(dev))
		r = asprintf(&dev->path, "%s/%s", files, dev->spec.id);
	return r < 0 ? -ENOMEM : 0;
}

/* Map and statistics: those of an earlier life, or new ones. */
static int
device_memory(struct device *dev)
{
	dev->map = handover_take(dev->spec.id, PART_MAP);
	if (dev->map < 0)
		dev->map = shm_object("shedstream-map",
		    map_size(dev->spec.size, dev->spec.unit));
	if (dev->map < 0)
		return dev->map;
	dev->stats = handover_take(dev->spec.id, PART_STATS);
	if (dev->stats < 0)
		dev->stats = shm_object("shedstream-stats", STATS_SIZE);
	return dev->stats < 0 ? dev->stats : 0;
}

static int
device_objects(struct device *dev)
{
	int r = device_memory(dev);

	if (r == 0)
		r = device_path(dev);
	if (r < 0 || device_is_plain(dev) || dev->block.kind)
		return r;
	return device_is_file(dev) ? device_mount(dev) : device_listen(dev);
}

/* Nobody comes any more. */
static void
device_close(struct device *dev)
{
	int r;

	if (dev->listener >= 0)
		unlink(dev->path);
	if (dev->fuse < 0)
		return;
	r = mount_end(dev->path);
	if (r < 0)
		log_err("unmount %s: %s", dev->path, strerror(-r));
}

static bool
spec_valid(const struct device_spec *spec)
{
	return strlen(spec->id) == DEVICE_ID_LEN &&
	    strspn(spec->id, "0123456789abcdef") == DEVICE_ID_LEN &&
	    spec->size > 0 && spec->size <= DEVICE_SIZE_MAX &&
	    spec->unit >= MAP_BLOCK && spec->unit % MAP_BLOCK == 0 &&
	    (!parent_block_kind(spec->present) ||
	    spec->size % SECTOR_SIZE == 0);
}

static void
device_free(struct device *dev)
{
	struct parent_msg msg = { .device = dev->spec };

	parent_device_ending(dev);
	TAILQ_REMOVE(&parent_devices, dev, entry);
	parent_give(&cached, PARENT_GONE, &msg, -1);
	if (!dev->never_up)
		parent_give(&control, PARENT_GONE, &msg, -1);
	parent_block_free(dev);
	parent_link_free(dev->worker.link);
	if (dev->worker.again)
		event_free(dev->worker.again);
	fd_close(dev->map);
	fd_close(dev->stats);
	fd_close(dev->listener);
	/* the last one: who waits for an answer gets errors */
	fd_close(dev->fuse);
	fd_close(dev->journal);
	fd_close(dev->knbd.kernels);
	free(dev->path);
	free(dev);
}

void
parent_device_ended(struct device *dev, int error)
{
	struct parent_msg msg = { .device = dev->spec, .status = error };

	dev->never_up = error < 0;
	if (dev->never_up)
		parent_give(&control, PARENT_FAILED, &msg, -1);
	device_free(dev);
}

static const char *
worker_argument(const struct device *dev)
{
	return device_is_file(dev) ? "file" : dev->block.kind ?
	    dev->block.kind->argument : NULL;
}

static struct device *
device_new(const struct device_spec *spec)
{
	struct device *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return NULL;
	dev->spec = *spec;
	dev->map = dev->stats = dev->listener = dev->fuse = dev->journal =
	    dev->knbd.kernels = -1;
	dev->block.kind = parent_block_kind(spec->present);
	dev->worker = (struct child){ .peer = PEER_IO, .program = "devd-io",
		.argument = worker_argument(dev), .device = dev };
	TAILQ_INSERT_TAIL(&parent_devices, dev, entry);
	return dev;
}

static int
device_make(const struct device_spec *spec)
{
	struct parent_msg msg = { .device = *spec };
	struct device *dev;
	unsigned n = 0;
	int r;

	if (!spec_valid(spec))
		return -EINVAL;
	dev = parent_device_find(spec->id);
	if (dev && dev->ending)
		return -EEXIST;
	if (dev) {		/* asked for by a control that died since */
		dev->block.unwanted = false;
		if (dev->announced)
			parent_device_announce(dev);
		return 0;	/* else announced when its worker is ready */
	}
	TAILQ_FOREACH(dev, &parent_devices, entry)
		n++;
	if (n >= conf->max_devices || n >= DEVICES_MAX)
		return -EUSERS;
	dev = device_new(spec);
	if (!dev)
		return -ENOMEM;
	r = device_objects(dev);
	if (r < 0) {
		device_free(dev);
		return r;
	}
	parent_give(&cached, PARENT_DEVICE, &msg, dev->map);
	if (device_is_plain(dev))
		parent_device_announce(dev);
	else if (dev->block.kind)
		dev->block.kind->make(dev);
	else
		parent_start_child(&dev->worker);
	return 0;
}

/* The device's map is dead once the worker is: device_free() then. */
static void
device_end(struct device *dev)
{
	parent_device_ending(dev);
	if (dev->worker.pid > 0)
		kill(dev->worker.pid, SIGKILL);
	device_close(dev);
	if (dev->worker.pid <= 0)
		device_free(dev);
}

/* ---- this process's start and end ---- */

/* Of an earlier life: is what must have been kept there? */
static bool
device_is_back(struct device *dev)
{
	const char *id = dev->spec.id;

	if (device_memory(dev) < 0 || device_path(dev) < 0)
		return false;
	dev->fuse = handover_take(id, PART_FUSE);
	dev->journal = handover_take(id, PART_JOURNAL);
	dev->listener = handover_take(id, PART_LISTEN);
	if (device_is_file(dev))
		return dev->fuse >= 0 && dev->journal >= 0 &&
		    mount_is(mark, dev->path);
	return dev->block.kind || dev->listener >= 0;
}

static bool
device_adopt(const struct device_spec *spec, uint32_t number)
{
	struct device *dev;

	if (!spec_valid(spec))
		return false;
	dev = device_new(spec);
	if (!dev)
		log_die("no memory at start");
	dev->block.number = number;
	if (!device_is_back(dev)) {
		device_free(dev);
		return false;
	}
	log_info("device %s of an earlier life goes on", spec->name);
	dev->announced = true;
	device_keep(dev);
	return true;
}

void
parent_device_sweep(const char *dir)
{
	run_known(dir);
	parent_block_init(NULL, run, 0);
	sweep();
}

void
parent_device_init(struct event_base *base, const struct places *p,
    const struct conf *c, gid_t g)
{
	int r;

	run_known(p->run);
	parent_block_init(base, run, g);
	places = p;
	conf = c;
	group = g;
	r = record_open(run);
	if (r < 0)
		log_die("open the records of devices in %s/" RECORDS ": %s",
		    run, strerror(-r));
	record_each(device_adopt);
	sweep();
}

void
parent_device_go(void)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &parent_devices, entry) {
		if (dev->block.kind)
			dev->block.kind->adopt(dev);
		else if (!device_is_plain(dev))
			parent_start_child(&dev->worker);
	}
}

/* As its worker counts them. */
static uint64_t
device_openers(const struct device *dev)
{
	uint64_t n = 0;

	fd_pread_all(dev->stats, &n, sizeof(n),
	    offsetof(struct stats, openers));
	return n;
}

static void
file_stop(struct device *dev)
{
	uint64_t openers = device_openers(dev);

	if (dev->ending)
		return;
	if (openers > 0)
		log_warn("device %s: its file ends with this service; %" PRIu64
		    " openers get errors from now on", dev->spec.name,
		    openers);
	if (dev->worker.pid > 0)
		kill(dev->worker.pid, SIGKILL);
	device_close(dev);
}

void
parent_device_pause(void)
{
	struct device *dev;

	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (dev->block.kind)
			parent_block_stop(dev);
}

void
parent_device_stop(bool shutdown)
{
	struct device *dev;
	bool block = false;

	TAILQ_FOREACH(dev, &parent_devices, entry) {
		if (device_is_file(dev) && (shutdown || !handover_lasts()))
			file_stop(dev);
		else if (dev->block.kind)
			parent_block_stop(dev);
		if (shutdown)
			parent_device_ending(dev);
		block |= dev->block.kind != NULL;
	}
	if (shutdown && block && parent_block_sweep() < 0)
		log_err("some block devices are left; end who uses them and "
		    "run: devd --remove-devices");
}

/* ---- requests of control ---- */

void
parent_device_create(const struct parent_msg *req)
{
	struct parent_msg msg = { .device = req->device };

	msg.status = device_make(&req->device);
	if (msg.status < 0) {
		log_err("make device %s: %s", req->device.id,
		    strerror(-msg.status));
		parent_give(&control, PARENT_FAILED, &msg, -1);
	}
}

void
parent_device_destroy(const struct parent_msg *req)
{
	struct device *dev = parent_device_find(req->device.id);

	if (dev && dev->block.kind)
		dev->block.kind->end(dev);
	else if (dev)
		device_end(dev);
}

void
parent_device_name(const struct parent_msg *req)
{
	struct device *dev = parent_device_find(req->device.id);

	if (dev)
		parent_give(&dev->worker, CHILD_NAME, req, -1);
}

/* ---- a worker's life ---- */

void
parent_device_worker_ready(struct device *dev)
{
	if (dev->block.kind)
		dev->block.kind->worker_ready(dev);
	else if (!dev->announced)
		parent_device_announce(dev);
}

void
parent_device_worker_openers(struct device *dev, uint32_t count)
{
	struct parent_msg msg = { .device = dev->spec, .count = count };

	parent_give(&control, PARENT_OPENERS, &msg, -1);
}

bool
parent_device_worker_ended(struct device *dev, uint32_t wait_ms)
{
	if (dev->block.kind) {
		dev->block.kind->worker_ended(dev, wait_ms);
		return true;
	}
	if (!dev->ending)
		return false;
	device_free(dev);
	return true;
}
