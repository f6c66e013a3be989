/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cached's private declarations, by file.
 *
 *	open.c ---> image.c		which image, which blob, how big
 *	   |
 *	layout.c --> presence.c		one file per blob, what of it is here
 *	   |
 *	fill.c ----> fetch.c		a unit on its way from the network
 *	   |            work.c		hashing and writing, on threads
 *	device.c			maps, reads that wait, scratch
 *	sync.c				data first, then its records
 *	finish.c			the whole digest, quarantine
 *
 * All state belongs to the event loop; a thread only ever holds a job.
 */
#ifndef CACHED_CACHED_H
#define CACHED_CACHED_H

#include <sys/queue.h>

#include <stdbool.h>
#include <stdint.h>

#include <event2/event.h>

#include "base/conf.h"
#include "base/digest.h"
#include "image/ref.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"

/* ---- main.c ---- */

extern struct event_base *loop;
extern struct parent_link *parent;
extern struct ipc_link *control_link, *fetcherd_link;	/* NULL while away */

/* Log, and tell control, which tells subscribers. */
void notice(const char *kind, const struct digest *blob, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t now_ms(void);		/* monotonic */
/* Requests or reads wait: look at the clock now and then until none does. */
void tick_soon(void);

/* ---- work.c: threads ---- */

enum job_kind {
	JOB_KEEP,	/* hash buf; compare; make room; write */
	JOB_CHECK,	/* read into buf; hash; compare */
	JOB_SYNC,	/* sync the data, then write and sync its records */
	JOB_DIGEST,	/* the whole file, and each unit against its record */
};

struct layout;

/* A job belongs to its thread from work_submit() until done() is called in the
 * event loop. */
struct job {
	STAILQ_ENTRY(job) entry;
	enum job_kind kind;
	void (*done)(struct job *job);
	void *owner;
	int result;		/* 0 or -errno; -EBADMSG: wrong digest */

	/* JOB_KEEP, JOB_CHECK */
	int fd;
	uint64_t offset;
	uint8_t *buf;
	size_t len;
	bool has_expected;
	struct digest expected, digest;

	/* JOB_SYNC, JOB_DIGEST */
	struct layout *layout;	/* only its constant members */
	struct sync_batch *batch;
	uint8_t *bad;		/* JOB_DIGEST: one byte a unit, 1: wrong */
};

void work_start(void);		/* after the policy: it makes threads */
extern _Atomic bool work_stopping;	/* long jobs give up */
void work_submit(struct job *job);
/* Run every job to its end, done() included. */
void work_drain(void);

/* ---- presence.c: what the disk says is there; pure ---- */

/*
 * A presence file: one header of 4 KiB, then one record of 64 bytes per unit.
 * docs/FORMATS.md has it byte by byte.  A record that does not fit its check,
 * its unit or its file is no record.
 */
#define PRESENCE_HEADER	4096
#define PRESENCE_RECORD	64

struct presence_header {
	uint64_t file_id;	/* names the data file that it speaks of */
	uint64_t size;
	uint32_t unit;
	struct digest blob;
};

void presence_put_header(const struct presence_header *h,
    uint8_t out[PRESENCE_HEADER]);
int presence_get_header(const uint8_t in[PRESENCE_HEADER],
    struct presence_header *h);	/* 0 or -EINVAL */
void presence_put(uint64_t file_id, uint64_t unit, const struct digest *sum,
    uint8_t out[PRESENCE_RECORD]);
bool presence_get(const uint8_t in[PRESENCE_RECORD], uint64_t file_id,
    uint64_t unit, struct digest *sum);

/* ---- store.c: the store directory ---- */

void store_open(int dirfd);
int store_dir(void);
/* A directory below the store, made if need be.  The descriptor, or -errno. */
int store_subdir(const char *a, const char *b);
/* Write a small file durably: all of it or nothing.  0 or -errno. */
int store_write_file(int dirfd, const char *name, const void *content,
    size_t len);
/* Read one of at most max bytes (caller frees).  0 or -errno. */
int store_read_file(int dirfd, const char *name, size_t max, char **content,
    size_t *len);

/* ---- image.c: images known here, durable ---- */

/* What a blob has cost in the life of this cached. */
struct counts {
	uint64_t bytes_fetched, requests_sent, requests_retried,
	    requests_failed;
};

struct image {
	TAILQ_ENTRY(image) entry;
	struct digest manifest, blob;
	uint64_t size;		/* of the blob */
	char name[REF_TEXT_MAX + 8];	/* as last named */
	uint64_t named_at;	/* seconds since the epoch */
	struct counts counts;	/* while its layout is not open */
	char host[REF_HOST_MAX + 1], repo[REF_REPO_MAX + 1];
};
TAILQ_HEAD(images, image);
extern struct images images;

void image_load_all(void);
struct image *image_by_manifest(const struct digest *manifest);
struct image *image_by_blob(const struct digest *blob);
/* What this name meant when it was last resolved. */
struct image *image_by_name(const char *name);
/* Keep it and its manifest on disk, named now.  0 or -errno. */
int image_keep(const struct image *image, const void *manifest, size_t len);

/* ---- layout.c ---- */

#define UNIT_STATE	3	/* mask */
enum unit_state {
	UNIT_ABSENT = 0,
	UNIT_RECORDED = 1,	/* the disk says so; not yet hashed by this cached */
	UNIT_VERIFIED = 2,	/* hashed by this cached */
	UNIT_FETCHED = 4,	/* flag: from the network, in this cached's life */
	UNIT_DURABLE = 8,	/* flag: its record is on disk */
};

struct fill;
struct device;

struct layout {
	TAILQ_ENTRY(layout) entry;
	unsigned refs;
	/* constant */
	struct digest blob;
	uint64_t size, n_units, file_id;
	uint32_t unit;
	int dir, data, data_ro, presence;
	char host[REF_HOST_MAX + 1], repo[REF_REPO_MAX + 1];

	uint8_t *units;		/* enum unit_state, by unit */
	struct fill **fills;	/* by unit; NULL: none under way */
	uint64_t n_present, n_durable, n_fills;
	TAILQ_HEAD(, device) devices;
	struct sync_batch *unsynced;	/* kept, not yet recorded */
	const struct sync_batch *in_sync; /* the sync thread has it */
	bool syncing, sync_timer_set;
	struct event *sync_timer;

	bool complete;		/* whole digest fits, recorded */
	bool proven;		/* was complete once: its records are right */
	bool failed;		/* whole digest does not fit */
	bool digesting;

	/* the background fill of everything (finish.c) */
	bool pulling, plain;	/* plain: the registry has no ranges */
	bool plain_sent;	/* its one transfer is under way */
	uint64_t pull_next, pull_again;	/* again: monotonic ms */

	/* for status */
	struct counts counts;
	uint64_t waiting;	/* reads that wait */
	bool stalled;
	char last_error[256];
};
TAILQ_HEAD(layouts, layout);
extern struct layouts layouts;

/* The layout of a blob, from the disk or new; one reference.  0 or -errno. */
int layout_get(const struct digest *blob, uint64_t size, const char *host,
    const char *repo, struct layout **out);
/* From now on it is fetched from there.  -EXDEV: it holds units that came from
 * elsewhere, and only their whole digest could tell whether they are right. */
int layout_source(struct layout *l, const char *host, const char *repo);
struct layout *layout_find(const struct digest *blob);
void layout_put(struct layout *l);
/* How much of a blob the disk has, without keeping it open. */
void layout_on_disk(const struct digest *blob, uint64_t size,
    uint64_t *present, bool *complete);
size_t layout_unit_len(const struct layout *l, uint64_t unit);
enum unit_state layout_state(const struct layout *l, uint64_t unit);
/* What a unit's bytes must hash to, as noted when they came.  false: nobody
 * noted it. */
bool layout_digest(const struct layout *l, uint64_t unit, struct digest *sum);
void layout_set(struct layout *l, uint64_t unit, enum unit_state state);
/* Its file is proven wrong, for last_error: fail it durably, move the file
 * away. */
void layout_quarantine(struct layout *l);
/* Start a layout anew, empty, if *l is its only reference (then *l is another
 * one).  0, -EBUSY or -errno; *l is NULL after another error. */
int layout_start_anew(struct layout **l);
/* Not complete any more: said on disk before anything else is done. */
void layout_revoke(struct layout *l);
/* Bytes of units present, of n_present. */
uint64_t layout_bytes_present(const struct layout *l);

/* ---- fill.c ---- */

enum fill_state { FILL_CHECK, FILL_QUEUED, FILL_FETCH, FILL_KEEP };

struct want;
struct waiter {
	TAILQ_ENTRY(waiter) entry;
	struct want *want;	/* NULL: not waiting */
	struct fill *fill;
};

struct transfer;
struct fill {
	TAILQ_ENTRY(fill) entry;	/* of the demand queue */
	struct layout *layout;
	uint64_t unit;
	enum fill_state state;
	bool demand;		/* a read waits */
	bool queued;		/* on the demand queue */
	bool adopt;		/* the map had it; note its digest */
	bool for_lane;		/* the bytes themselves are wanted */
	bool checking;		/* the job runs */
	bool refused;		/* the store has no room for it */
	unsigned distrust;	/* wrong answers in a row */
	uint64_t not_before;	/* monotonic ms: the next try */
	struct transfer *transfer;
	struct job job;
	TAILQ_HEAD(, waiter) waiters;
};

/* Get a unit verified and published: joins the fill under way or starts one.
 * waiter (or NULL) is told by want_unit_done().  for_lane: even if present,
 * read it again and hand over the bytes. */
void fill_want(struct layout *l, uint64_t unit, struct waiter *waiter,
    bool for_lane);
/* A live map already has the unit, without a record: hash it and note the
 * digest.  device_adopt_more() is called at its end.  0 or -ENOMEM. */
int fill_adopt(struct layout *l, uint64_t unit);
void waiter_leave(struct waiter *w);

/* From fetch.c: the unit's bytes (taken), or the transfer failed. */
void fill_data(struct fill *fill, uint8_t *buf, size_t len);
void fill_requeue(struct fill *fill);
/* A background fill for an absent unit without one, in that transfer's hands.
 * NULL without memory. */
struct fill *fill_background(struct layout *l, uint64_t unit,
    struct transfer *t);
size_t fill_keeping(void);	/* units received, not yet written */

/* ---- fetch.c ---- */

void fetch_queue(struct fill *fill);	/* demand, first come first served */
void fetch_unqueue(struct fill *fill);
void fetch_pump(void);			/* start what may be started */
void fetch_link_up(void);
void fetch_link_down(void);
uint64_t fetch_new_id(void);
/* A unit's bytes were wrong: wait before asking for it again. */
void fetch_distrust(struct fill *fill, const char *why);
ipc_handler on_manifest, on_blob_info, on_data, on_fetch_done;

/* ---- device.c ---- */

void device_add(const struct device_spec *spec, int mapfd);
void device_gone(const struct device_spec *spec);
void device_link(const struct device_spec *spec, int fd);
extern const struct ipc_table io_table;
/* The unit is verified and lies in the layout's file: publish it. */
void device_publish(struct layout *l, uint64_t unit);
/* Its bytes are proven bad, or were never synced: take it back. */
void device_withdraw(struct layout *l, uint64_t unit);
void device_fail_all(struct layout *l);
/* Rung whole waits for this. */
void device_complete(struct layout *l);
/* A waiter's unit: published (buf NULL), or could not be kept, and here are its
 * bytes. */
void want_unit_done(struct waiter *w, const uint8_t *buf, size_t len);
/* Reads of this layout wait for the network: say so, once. */
void device_stalled(struct layout *l, const char *why);
void device_recovered(struct layout *l);
void device_adopt_more(struct layout *l);
/* Does rung whole need all of it? */
bool device_needs_whole(const struct layout *l);
bool device_tick(void);		/* true: again */

/* ---- sync.c ---- */

struct sync_unit {
	uint64_t unit;
	struct digest sum;
};
struct sync_batch {
	size_t n, size;
	struct sync_unit units[];
};
/* A unit was written: sync it soon, then record it. */
void sync_note(struct layout *l, uint64_t unit, const struct digest *sum);
bool sync_find(const struct layout *l, uint64_t unit, struct digest *sum);
/* The thread's part.  0 or -errno. */
int sync_run(const struct layout *l, const struct sync_batch *batch);
void sync_flush_all(void);	/* at the end, in line */

/* ---- finish.c ---- */

/* Fill everything, verify the whole digest. */
void finish_pull(struct layout *l, bool plain);
/* Nobody waits for all of it any more, or it can't be kept. */
void finish_stop(struct layout *l);
/* Something became durable: is that all of it? */
void finish_check(struct layout *l);
/* The next unit that the background fill wants, or false. */
bool finish_next(struct layout *l, uint64_t *unit);
int finish_run(struct job *job);	/* the thread's part */

/* ---- open.c: Open requests of control ---- */

ipc_handler on_open, on_cancel_open;
/* fetcherd's answer to a Resolve or Stat; false: not to one of ours. */
bool open_answer(const struct ipc_message *msg);
void open_resend(void);		/* a new fetcherd */
/* Fetch of a layout made progress, ended, or failed for now. */
void open_layout_changed(struct layout *l);
void open_layout_trouble(struct layout *l, const Suite__FetchDone *done);
bool open_tick(void);		/* true: again */
/* control restarted: nobody waits any more; who does asks again. */
void open_forget_all(void);

/* ---- status.c ---- */

ipc_handler on_inspect, on_list_images, on_map_cells;

#endif
