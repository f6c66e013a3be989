/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's own declarations, by file.  Nothing of the control process,
 * which is another half of the same program: its struct device is what it
 * knows of one; this one is what the parent holds for it.
 *
 *	parent.c	children: their links, what each is given, their lives
 *	parent_device.c	devices: their objects, workers, who is told of them
 *	parent_ublk.c	those that are ublk's: commands to the kernel's driver
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
void parent_start_child_later(struct child *child, uint32_t wait_ms);

/* ---- parent_device.c ---- */

enum ublk_state {	/* see parent_ublk.c */
	UBLK_MAKING,
	UBLK_WAITING,
	UBLK_STARTING,
	UBLK_LIVE,
	UBLK_RECOVERING,
	UBLK_RETURNING,
	UBLK_RESUMING,
	UBLK_REMOVING,
};

struct device {
	TAILQ_ENTRY(device) entry;
	struct device_spec spec;
	struct child worker;
	int map, stats, listener;	/* -1: has none */
	int fuse, journal;	/* of a file; likewise */
	struct {		/* of one that is ublk's */
		enum ublk_state state;
		uint32_t number;	/* of /dev/ublkbN */
		uint32_t wait_ms;	/* before a worker starts again */
		bool unwanted;		/* by control; ends when it can */
		int why;		/* -errno: it never came up */
		struct apart *act, *check;	/* under way, or NULL */
		struct event *again;	/* look for openers */
	} ublk;
	char *path;		/* of its socket or file; NULL: has none */
	bool announced;		/* control knows it as made */
	bool ending;		/* gone when its worker is */
	bool never_up;		/* control was told that it failed */
};
TAILQ_HEAD(parent_devices, device);
extern struct parent_devices parent_devices;

/* Where their sockets and files are made, for which group, and how many there
 * may be; both structs stay the caller's and live as long.  The run directory
 * is held: what a dead instance has left mounted in it is taken away. */
void parent_device_init(struct event_base *base, const struct places *places,
    const struct conf *conf, gid_t group);
/* Their workers start: of those that an earlier life has left. */
void parent_device_go(void);
/* Take away what an instance of that run directory has left: mounts and ublk
 * devices.  Says what it can't. */
void parent_device_sweep(const char *run);
/* All children end, and parent_device_go() follows, perhaps in another life. */
void parent_device_pause(void);
/* What another build must be able to take, or NULL: there is no file. */
const char *parent_device_journal(void);
/* This process ends, and with it what can't outlive it, of which is told who
 * has it open.  shutdown: all of them end. */
void parent_device_stop(bool shutdown);
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
/* True: somebody else starts it again, or the device was ending.  wait_ms: not
 * before that. */
bool parent_device_worker_ended(struct device *dev, uint32_t wait_ms);

/* For parent_ublk.c: control is told that it exists; */
void parent_device_announce(struct device *dev);
/* it is to end, and nothing of it is kept for a next life; */
void parent_device_ending(struct device *dev);
/* it does not exist any more, and is freed.  error: it never came up. */
void parent_device_ended(struct device *dev, int error);

/* ---- parent_ublk.c ---- */

void parent_ublk_init(struct event_base *base, const char *run, gid_t group);
/* Take away all devices that an instance of that run directory has made and
 * that are not in parent_devices, or are ending.  How many, or -errno. */
int parent_ublk_sweep(void);
void parent_ublk_adopt(struct device *dev);	/* an earlier life's */
/* Its worker is started, and parent_device_announce() or parent_device_ended()
 * follows, perhaps at once. */
void parent_ublk_make(struct device *dev);
void parent_ublk_give(struct device *dev);	/* to its new worker */
void parent_ublk_worker_ready(struct device *dev);
void parent_ublk_worker_ended(struct device *dev, uint32_t wait_ms);
/* Control wants it no more; parent_device_ended() follows once nobody has it
 * open.  Until then control hears of an opener. */
void parent_ublk_end(struct device *dev);
void parent_ublk_stop(struct device *dev);	/* the suite ends */
void parent_ublk_free(struct device *dev);

#endif
