/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control process's private declarations, by file.
 *
 *	control.c	what it may do, what it is asked, its links, events
 *	op.c		requests that take time: asking cached, clients, ends
 *	attach.c	attach, pull, restore, detach
 *	reconcile.c	the consumers that an owner still has
 *	store.c		pin, keep, gc, df, drop, verify, promote, import
 *	login.c		credentials of registries
 *	device.c	devices, their names and consumers, written down
 *	answer.c	what there is: ls, status, images, map, health
 *	doctor.c	what is wrong, and what would help
 *	metrics.c	the same numbers, for Prometheus
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
#define STORE_PATH_MAX	255	/* of the text of a struct parent_msg */
#define DATA_TEXT_MAX	255	/* of a data file below the store */
#define DEVICE_PATH_SIZE 640	/* an NBD URI, or STORE/DATA */
#define PRESENTS	(CTL_PRESENT(KERNEL_NBD) + 1)
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
extern char store_path[STORE_PATH_MAX + 1];	/* "": it is longer */
/* Why no device is presented that way, and what helps, by CTL(Present); "": one
 * can be. */
extern char no_kind[PRESENTS][256];
extern struct process processes[3];

void reply(struct client *c, uint64_t id, unsigned type, const void *body);
void reply_error(struct client *c, uint64_t id, Shedstream__Control__V1__Code
    code, bool retry, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* To subscribers and the ring of the last events. */
void event_send(const char *kind, const char *device,
    const struct digest *blob, const char *text);

/* ---- device.c ---- */

struct consumer {
	TAILQ_ENTRY(consumer) entry;
	struct device *device;
	char text[CONSUMER_TEXT + 1];	/* OWNER/ID; no / in ID */
};
TAILQ_HEAD(consumers, consumer);

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
	char data[DATA_TEXT_MAX + 1];	/* plain: its file, in the store */
	char aliases[ALIASES_MAX][DEVICE_NAME_MAX + 1];
	unsigned n_aliases;
	uint32_t number;	/* of /dev/ublkbN, /dev/nbdN */
	struct consumers consumers;
	unsigned n_consumers;
	const struct stats *stats;	/* NULL until it is ready */
	bool failed;
	char last_error[256];
	/* as cached last told it; its texts and bytes are the ones below */
	Suite__Layout layout;
	char layout_error[256], chain[256], denied_by[HOST_TEXT_MAX + 1];
};
TAILQ_HEAD(devices, device);
extern struct devices devices;

void devices_start(void);	/* everything was handed over */
/* By name, alias, or digest. */
struct device *device_by_name(const char *name);
/* Does that mean its image: as its first attach named it, or by digest? */
bool device_is_of_image(const struct device *d, const char *image);
/* One with consumers whose image is called that, or NULL. */
struct device *device_of_image(const char *image);
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
/* 0, -EUSERS: it has CONSUMERS_MAX, -ENOMEM, or -errno of writing it down. */
int device_attach(struct device *d, const char *consumer);
/* 0 (also for an unknown consumer) or -errno. */
int device_detach(struct device *d, const char *consumer);
/* Take consumers from any devices at once, durably: all who leave, or with
 * -errno none.  They are in `left`, for consumers_free(), and their devices
 * stay until devices_drop_unused(). */
typedef bool consumer_leaves(const struct consumer *c, const void *arg);
int devices_part(consumer_leaves *leaves, const void *arg,
    struct consumers *left);
void consumers_free(struct consumers *left);
void devices_drop_unused(void);
/* Nobody needs it: end it once it has no opener.  True: it ends now. */
bool device_drop_if_unused(struct device *d);
void device_forget(struct device *d);
/* Its path or NBD URI, by one of its names. */
void device_path(const struct device *d, const char *name, char *out,
    size_t size);
bool device_draining(const struct device *d);
int devices_save(void);

void on_parent_device(const struct parent_msg *msg, int fd);
void on_parent_failed(const struct parent_msg *msg, int fd);
void on_parent_gone(const struct parent_msg *msg, int fd);
void on_parent_openers(const struct parent_msg *msg, int fd);
void on_parent_state(const struct parent_msg *msg, int fd);
void device_worker_started(const struct parent_msg *msg);

/* ---- op.c ---- */

struct op;
struct op_type {
	size_t size;		/* of the struct that begins with its op */
	unsigned request, answer;	/* SUITE_BODY(...) */
	bool again;		/* harmless twice: a new cached is asked too */
	bool brief;		/* does not wait for a cached that is away */
	bool internal;		/* no client may watch or cancel it */
	/* A message of `answer` came, perhaps not the last one: op_answer(),
	 * op_over(), op_fail(), or waits = false and the type's own way on. */
	void (*answered)(struct op *o, const void *body);
	/* Optional: true if this failure is not its end. */
	bool (*failed)(struct op *o, const Suite__Failed *m);
	void (*late)(struct op *o);	/* with op_deadline(): op_fail() */
	/* Optional: it is over, why or NULL; free what it holds. */
	void (*end)(struct op *o, const char *why);
};

struct op {
	TAILQ_ENTRY(op) entry;
	const struct op_type *type;
	uint64_t id;		/* also of its request to cached */
	struct client *client;	/* NULL: nobody listens (any more) */
	uint64_t request;
	const void *body;	/* of the request to cached */
	int fd;			/* goes with it; -1: none, or gone */
	bool waits;		/* for cached's answer */
	bool sent;		/* its request, to this or a former cached */
	bool accepted;
	struct event *slow, *late;
};

/* NULL: refused, and said. */
struct op *op_new(const struct op_type *type, struct client *c,
    uint64_t request);
/* Ask cached; body lives as long as the op. */
void op_start(struct op *o, const void *body);
void op_ask(struct op *o);		/* again */
/* Its late() is called then, unless there is an earlier limit. */
void op_deadline(struct op *o, uint32_t ms);
void op_accept(struct op *o);
void op_cancel(struct op *o);		/* tell cached; op_fail() follows */
/* Each ends the op. */
void op_answer(struct op *o, unsigned type, const void *body);
void op_fail(struct op *o, Shedstream__Control__V1__Code code, bool retry,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void op_over(struct op *o);		/* answered already, or nobody's */

ipc_handler on_watch, on_cancel;
ipc_handler on_answer, on_progress, on_failed;
void ops_client_gone(struct client *c);
void ops_cached_up(void);

/* ---- attach.c ---- */

ipc_handler on_attach, on_detach, on_prefetch;
/* Too long, or what no image is called: cached says what is wrong with the
 * rest. */
bool image_refused(struct client *c, uint64_t id, const char *image);
/* The device that ops wait for is ready, or can't be made. */
void ops_device_ready(struct device *d);
void ops_device_failed(struct device *d, const char *why);
/* A device is gone: what failed because it was still ending tries again. */
void ops_device_gone(void);
bool ops_wait_for(const struct device *d);
/* Make a device that was written down. */
void ops_restore(struct device *d);

/* ---- reconcile.c ---- */

ipc_handler on_reconcile;

/* ---- store.c ---- */

ipc_handler on_pin, on_keep, on_gc, on_df, on_drop, on_verify, on_promote,
    on_import;

/* ---- login.c ---- */

ipc_handler on_set_credentials;
void on_parent_holds(const struct parent_msg *msg, int fd);
void logins_client_gone(const struct client *c);

/* ---- answer.c ---- */

ipc_handler on_list, on_status, on_images, on_map, on_health, on_doctor,
    on_metrics;
ipc_handler on_layout, on_image_row, on_cells, on_source_row;
/* Is it failed, or stalled?  text: a sentence that says so. */
bool device_ill(const struct device *d, char *text, size_t size);
void query_failed(uint64_t id, const Suite__Failed *m);
void queries_client_gone(struct client *c);

/* ---- doctor.c ---- */

#define SOURCES_SHOWN	64	/* as cached sends: see ListSources */
#define MIRROR_TEXT_MAX	255	/* a line of the configuration has less */

/* What cached told of one source; its texts are the ones here. */
struct source_told {
	Suite__SourceRow m;
	char host[HOST_TEXT_MAX + 1], mirror[MIRROR_TEXT_MAX + 1];
};

struct sources_told {
	struct source_told row[SOURCES_SHOWN];
	size_t n;
	uint32_t left_out;
};

/* The rows; each device's layout, and the sources, were just asked for.
 * answered: cached told all of that. */
void doctor_answer(struct client *c, uint64_t request,
    const struct sources_told *sources, bool answered);

/* ---- metrics.c ---- */

/* The same. */
void metrics_answer(struct client *c, uint64_t request,
    const struct sources_told *sources, bool answered);

#endif
