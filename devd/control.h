/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control process's private declarations, by file.
 *
 *	control.c	what it may do, what it is asked, its links, events
 *	attach.c	requests that take time: attach, pull, restore
 *	device.c	devices, their names and consumers, written down
 *	answer.c	what there is: ls, status, images, map, health
 */
#ifndef DEVD_CONTROL_H
#define DEVD_CONTROL_H

#include <sys/queue.h>

#include <event2/event.h>

#include "devd/devd.h"

#define OWNER_MAX	255
#define CONSUMER_MAX	128
#define CONSUMER_TEXT	(OWNER_MAX + 1 + CONSUMER_MAX)
#define ALIASES_MAX	8	/* of one device, beyond its name */
#define CONSUMERS_MAX	1024	/* of one device */
#define IMAGE_TEXT_MAX	512	/* as control.proto says */
#define CLIENTS_MAX	128
#define QUERIES_MAX	16	/* of one client, under way */
#define HELLO_MS	10000	/* to say hello in */
#define ANSWER_MS	1500	/* every request is answered within two seconds */

/* ---- control.c ---- */

struct client {
	TAILQ_ENTRY(client) entry;
	struct ipc_link *link;
	uid_t uid;
	bool greeted, subscribed;
	unsigned n_queries;
	struct event *mute;	/* no hello in time */
	char owner[OWNER_MAX + 1];
};

/* A child of the parent, as the parent reports it. */
struct process {
	enum ipc_peer peer;
	const char *name;
	int32_t pid;
	uint32_t restarts;
};

extern struct event_base *loop;
extern struct parent_link *parent;
extern struct ipc_link *cached_link;	/* NULL while away */
extern struct conf *conf;
extern char run_dir[SOCKET_PATH_MAX + 1];
extern struct process processes[3];

void reply(struct client *c, uint64_t id, unsigned type, const void *body);
void reply_error(struct client *c, uint64_t id, Shedstream__Control__V1__Code
    code, bool retry, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* To subscribers and the ring of the last events. */
void event_send(const char *kind, const char *device,
    const struct digest *blob, const char *text);

/* ---- device.c ---- */

struct op;
struct consumer {
	TAILQ_ENTRY(consumer) entry;
	char text[CONSUMER_TEXT + 1];	/* OWNER/ID */
};

enum device_state {
	DEVICE_WANTED,	/* written down; not made yet */
	DEVICE_MAKING,	/* asked of the parent */
	DEVICE_READY,
	DEVICE_ENDING,	/* asked of the parent; gone when it says so */
};

struct device {
	TAILQ_ENTRY(device) entry;
	enum device_state state;
	struct device_spec spec;
	char image[IMAGE_TEXT_MAX + 1];
	char aliases[ALIASES_MAX][DEVICE_NAME_MAX + 1];
	unsigned n_aliases;
	TAILQ_HEAD(, consumer) consumers;
	unsigned n_consumers;
	const struct stats *stats;	/* NULL until it is ready */
	bool failed;
	char last_error[256];
	/* as cached last told it */
	Suite__Layout layout;
	char layout_error[256];
};
TAILQ_HEAD(devices, device);
extern struct devices devices;

void devices_start(void);	/* everything was handed over */
/* By name, alias, or digest. */
struct device *device_by_name(const char *name);
/* More than one device has this digest. */
bool device_ambiguous(const char *name);
struct device *device_by_id(const char *id);
/* The device of a key, made known in state WANTED if need be.  NULL without
 * memory. */
struct device *device_want(const struct device_spec *spec, const char *image);
/* Choose a name for a new device: `name`, or the default when "".  0, or
 * -EEXIST: it means another device. */
int device_choose_name(struct device *d, const char *name);
/* An additional name.  0, -EEXIST, -ENOSPC. */
int device_add_name(struct device *d, const char *name);
void device_make(struct device *d);		/* ask the parent */
/* 0, -ENOSPC, -ENOMEM, or -errno of writing it down. */
int device_attach(struct device *d, const char *consumer);
/* 0 (also for an unknown consumer) or -errno. */
int device_detach(struct device *d, const char *consumer);
/* Nobody needs it: end it once it has no opener.  True: it ends now. */
bool device_drop_if_unused(struct device *d);
void device_forget(struct device *d);
void device_uri(const struct device *d, const char *name, char *out,
    size_t size);
bool device_draining(const struct device *d);
int devices_save(void);

void on_parent_device(const struct parent_msg *msg, int fd);
void on_parent_failed(const struct parent_msg *msg, int fd);
void on_parent_gone(const struct parent_msg *msg, int fd);
void on_parent_openers(const struct parent_msg *msg, int fd);
void on_parent_state(const struct parent_msg *msg, int fd);
void device_worker_started(const struct parent_msg *msg);

/* ---- attach.c ---- */

ipc_handler on_attach, on_detach, on_prefetch, on_watch, on_cancel;
ipc_handler on_opened, on_open_progress, on_open_failed;
void ops_client_gone(struct client *c);
void ops_cached_up(void);
/* The device that ops wait for is ready, or can't be made. */
void ops_device_ready(struct device *d);
void ops_device_failed(struct device *d, const char *why);
/* A device is gone: what failed because it was still ending tries again. */
void ops_device_gone(void);
bool ops_wait_for(const struct device *d);
/* Make a device that was written down. */
void ops_restore(struct device *d);

/* ---- answer.c ---- */

ipc_handler on_list, on_status, on_images, on_map, on_health;
ipc_handler on_layout, on_image_row, on_cells;
void queries_client_gone(struct client *c);

#endif
