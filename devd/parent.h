/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's own declarations, by file.  Nothing of the control process,
 * which is another half of the same program: its struct device is what it
 * knows of one; this one is what the parent holds for it.
 *
 *	parent.c	children: their links, what each is given, their lives
 *	parent_device.c	devices: their objects, workers, who is told of them
 *	parent_block.c	those that are block devices: who has one open, its end
 *	parent_ublk.c	made by the kernel's ublk driver
 *	parent_knbd.c	made by the kernel's NBD client
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

enum knbd_state {	/* see parent_knbd.c */
	KNBD_WAITING,
	KNBD_CONNECTING,
	KNBD_LIVE,
	KNBD_RETURNING,
	KNBD_RESUMING,
	KNBD_REMOVING,
};

struct device {
	TAILQ_ENTRY(device) entry;
	struct device_spec spec;
	struct child worker;
	int map, stats, listener;	/* -1: has none */
	int fuse, journal;	/* of a file; likewise */
	struct {		/* of a block device */
		const struct block_kind *kind;	/* NULL: it is none */
		uint32_t number;	/* in its name */
		uint32_t wait_ms;	/* before a worker starts again */
		bool unwanted;		/* by control; ends when it can */
		int why;		/* -errno: it never came up */
		struct apart *act, *check;	/* under way, or NULL */
		struct event *again;	/* look for openers */
	} block;
	struct {
		enum ublk_state state;
	} ublk;
	struct {
		enum knbd_state state;
		int kernels;	/* its end of the next connection, or -1 */
		bool lost;	/* whose other end died meanwhile */
	} knbd;
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
/* Take away what an instance of that run directory has left: mounts and block
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

/* For block devices: control is told that it exists; */
void parent_device_announce(struct device *dev);
/* it is to end, and nothing of it is kept for a next life; */
void parent_device_ending(struct device *dev);
/* it does not exist any more, and is freed.  error: it never came up. */
void parent_device_ended(struct device *dev, int error);

/* ---- parent_block.c ---- */

/* How a driver of the kernel's presents a device. */
struct block_kind {
	uint32_t present;	/* a presentation of the control protocol */
	const char *argument;	/* of its worker */
	const char *prefix;	/* of its name in /dev, before the number */
	/* Its worker is started, and parent_device_announce() or
	 * parent_device_ended() follows, perhaps at once. */
	void (*make)(struct device *dev);
	/* The same for one of an earlier life, that is announced already. */
	void (*adopt)(struct device *dev);
	void (*give)(struct device *dev);	/* to its new worker */
	void (*worker_ready)(struct device *dev);
	void (*worker_ended)(struct device *dev, uint32_t wait_ms);
	/* Control wants it no more; parent_device_ended() follows once nobody
	 * has it open.  Until then control hears of an opener. */
	void (*end)(struct device *dev);
	/* It has no worker any more: parent_block_removed() follows. */
	void (*take_away)(struct device *dev);
	/* All that an instance of this run directory has made, but for these
	 * numbers: how many it took away, or -errno. */
	int (*sweep)(const uint32_t *keep, size_t n);
};

extern const struct block_kind ublk_kind, knbd_kind;

extern struct block_host {
	struct event_base *base;
	gid_t group;
	uint64_t mark;		/* of the run directory */
} block_host;

void parent_block_init(struct event_base *base, const char *run, gid_t group);
/* NULL: that is no block device. */
const struct block_kind *parent_block_kind(uint32_t present);
/* Take away all that an instance of that run directory has made and that are
 * not in parent_devices, or are ending.  How many, or -errno: some are left. */
int parent_block_sweep(void);
/* Look who has it open, and end it if it is unwanted and nobody has. */
void parent_block_check(struct device *dev);
/* End it, whoever has it open; its worker is killed, and the kind is told when
 * that has ended.  why: -errno if it never came up. */
void parent_block_remove(struct device *dev, int why);
apart_done parent_block_removed;	/* of a struct device */
/* Log that this can't be done to it. */
void parent_block_say(const struct device *dev, const char *what, int error);
void parent_block_stop(struct device *dev);	/* the suite ends */
void parent_block_free(struct device *dev);

#endif
