/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's own declarations, by file.  Nothing of the control process,
 * which is another half of the same program: its struct device is what it
 * knows of one; this one is what the parent holds for it.
 *
 *	parent.c	children: their links, what each is given, their lives
 *	parent_device.c	devices: their objects, workers, who is told of them
 */
#ifndef DEVD_PARENT_H
#define DEVD_PARENT_H

#include <sys/queue.h>

#include "devd/devd.h"

/* ---- parent.c ---- */

extern struct child control, cached;	/* whom devices are told to */

/* Send msg as `type`, with fd or -1, if the child has a link: one that has none
 * gets all of it when it starts.  fd stays the caller's; a duplicate goes. */
void parent_give(struct child *to, enum parent_type type,
    const struct parent_msg *msg, int fd);
/* Start it, give it what it needs, link it.  What fails is tried again. */
void parent_start_child(struct child *child);

/* ---- parent_device.c ---- */

struct device {
	TAILQ_ENTRY(device) entry;
	struct device_spec spec;
	struct child worker;
	int map, stats, listener;	/* -1: has none */
	int fuse, journal;	/* of a file; likewise */
	char *path;		/* of its socket or file; NULL: has none */
	bool announced;		/* control knows it as made */
	bool ending;		/* gone when its worker is */
};
TAILQ_HEAD(parent_devices, device);
extern struct parent_devices parent_devices;

/* Where their sockets and files are made, for which group, and how many there
 * may be; both structs stay the caller's and live as long.  The run directory
 * is held: what a dead instance has left mounted in it is taken away. */
void parent_device_init(const struct places *places, const struct conf *conf,
    gid_t group);
/* Take away what an instance has left mounted in that run directory.  How many,
 * or -errno. */
int parent_device_remove_mounts(const char *run);
/* The suite ends: so do files, and who has one open is told. */
void parent_device_stop(void);
/* NULL: there is none of that id. */
struct device *parent_device_find(const char *id);

/* What a child that starts is given of devices. */
void parent_device_setup_cached(void);
void parent_device_setup_control(void);
void parent_device_setup_worker(struct device *dev);

/* What control asks for: CHILD_CREATE, CHILD_DESTROY, CHILD_NAME. */
void parent_device_create(const struct parent_msg *req);
void parent_device_destroy(const struct parent_msg *req);
void parent_device_name(const struct parent_msg *req);

/* What becomes of its worker. */
void parent_device_worker_ready(struct device *dev);
void parent_device_worker_openers(struct device *dev, uint32_t count);
/* True: the device was ending, and is freed. */
bool parent_device_worker_ended(struct device *dev);

#endif
