/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cached's private declarations, by file.
 *
 *	open.c ---> find.c image.c	which image, which index or blob
 *	   |
 *	layout.c -> file.c file_disk.c	what a device is made of; data files and
 *	   |          presence.c	what the disk says of them
 *	   |        catalog.c		which chunk lies in which file
 *	fill.c ---> fetch.c transfer.c source.c	a chunk on its way
 *	   |   ahead.c  work.c		reads to come; hashing, writing
 *	device.c map.c outage.c		reads that wait, scratch; what is where
 *	sync.c				data first, then its records
 *	finish.c quarantine.c		the whole digest; if it is wrong
 *	room.c gc.c hold.c		quota, eviction; what is never evicted
 *	scrub.c copy.c			damage; whole erofs in and out
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
#include "cached/source.h"
#include "image/index.h"
#include "image/ref.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"

#define CHUNK_MAX	INDEX_CHUNK_MAX
/* Of one data file: units of the largest device. */
#define FILE_CHUNKS_MAX	(1u << 24)

/* ---- main.c ---- */

extern struct event_base *loop;
extern struct parent_link *parent;
extern struct ipc_link *control_link, *fetcherd_link;	/* NULL while away */
extern struct conf *conf;

struct layout;

/* Log, and tell control, which tells subscribers. */
void notice(const char *kind, const struct layout *l, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* To control only. */
void notice_send(const char *kind, const struct layout *l, const char *text);
uint64_t now_ms(void);		/* monotonic */
uint64_t wall_ms(void);		/* since 1970 */
/* Requests or reads wait: look at the clock now and then until none does. */
void tick_soon(void);

/* ---- work.c: threads ---- */

enum work_lane {
	WORK_HASH,	/* two threads: chunks in and out */
	WORK_SYNC,	/* one: syncs, and what must stand in order with them */
	WORK_SCRUB,	/* one, at idle priority: whole files */
	WORK_COPY,	/* one: files of clients, which may be slow for ever */
	WORK_LANES,
};

/* A job belongs to its thread from work_submit() until done() is called in the
 * event loop. */
struct job {
	STAILQ_ENTRY(job) entry;
	enum work_lane lane;
	int (*run)(struct job *job);	/* the thread's part */
	void (*done)(struct job *job);
	void *owner;
	int result;		/* 0 or -errno; -EBADMSG: wrong digest */
};

void work_start(void);		/* after the policy: it makes threads */
extern _Atomic bool work_stopping;	/* long jobs give up */
void work_submit(struct job *job);
/* Run every job to its end, done() included. */
void work_drain(void);

/* ---- chunk.c: what threads do to one chunk ---- */

struct chunk_job {
	struct job job;
	int fd;			/* of the store */
	uint64_t offset;	/* there */
	int from;		/* import: the client's file, or -1 */
	uint8_t *buf;
	size_t len;
	bool has_expected;
	struct digest expected, digest;
};

/* Their results: 0; -EBADMSG: not the digest that was expected; -errno. */
int chunk_check(struct job *job);	/* read, hash */
int chunk_keep(struct job *job);	/* hash, make room, write */
int chunk_hash(struct job *job);	/* of what is not kept: never 0 */
int chunk_import(struct job *job);	/* the same, sharing blocks of `from` */

/* ---- presence.c: what the disk says is there; pure ---- */

/*
 * A presence file: one header of 4 KiB, then one record of 64 bytes per chunk.
 * docs/FORMATS.md has it byte by byte.
 */
#define PRESENCE_HEADER	4096
#define PRESENCE_RECORD	64

struct presence_header {
	uint64_t file_id;	/* names the data file that it speaks of */
	uint64_t generation;	/* records of another one are void */
	uint64_t size;		/* bytes, of the device */
	uint32_t unit;		/* bytes of a chunk; 0: an index cuts */
	uint32_t n_chunks;
	struct digest key;	/* of the layout */
};

struct presence_record {
	struct digest sum;	/* of the chunk's bytes as they were received */
	uint64_t offset;	/* in the data file; a multiple of 4 KiB */
	uint32_t length;	/* bytes, 1..CHUNK_MAX */
};

void presence_put_header(const struct presence_header *h,
    uint8_t out[PRESENCE_HEADER]);
int presence_get_header(const uint8_t in[PRESENCE_HEADER],
    struct presence_header *h);	/* 0 or -EINVAL */
void presence_put(const struct presence_header *h, uint32_t chunk,
    const struct presence_record *r, uint8_t out[PRESENCE_RECORD]);
bool presence_get(const uint8_t in[PRESENCE_RECORD],
    const struct presence_header *h, uint32_t chunk,
    struct presence_record *r);

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
/* The same with a text, and a line behind it that tells whether it is still
 * what was written.  -EBADMSG: it is not. */
int store_write_text(int dirfd, const char *name, const char *text);
int store_read_text(int dirfd, const char *name, size_t max, char **text,
    size_t *len);
/* The next name in a directory that was opened by opendir(3) manners: calls
 * each() for every name but those that begin with a dot. */
int store_each(int dirfd, void (*each)(int dirfd, const char *name));

/* ---- image.c: images known here, durable ---- */

enum proof { PROOF_NONE, PROOF_MANIFEST, PROOF_REFERRER };

struct image {
	TAILQ_ENTRY(image) entry;
	struct digest manifest, blob;
	enum proof proof;	/* what names its index; NONE: it has none */
	struct digest index;
	uint64_t size;		/* of the blob */
	char name[REF_TEXT_MAX + 8];	/* as last named */
	uint64_t named_at;	/* seconds since the epoch */
	bool pinned;
	char host[REF_HOST_MAX + 1], repo[REF_REPO_MAX + 1];
};
TAILQ_HEAD(images, image);
extern struct images images;

void image_load_all(void);
struct image *image_by_manifest(const struct digest *manifest);
struct image *image_by_blob(const struct digest *blob);
/* All of it is here, and its whole digest was computed. */
bool image_proven(const struct image *image);
/* The next one (after `after`, or the first) of this layout. */
struct image *image_of_layout(const struct digest *key,
    const struct image *after);
/* What this name meant when it was last resolved. */
struct image *image_by_name(const char *name);
/* The one that a client names: its digests, or its name as last resolved. */
struct image *image_named(const char *text);
/* An image's file can't be read: any file of the store may be its. */
bool image_unreadable(void);
/* Keep it and its manifest (NULL: it is there) on disk, named now.  0 or
 * -errno. */
int image_keep(const struct image *image, const void *manifest, size_t len);
int image_pin(struct image *image, bool pin);	/* durably; 0 or -errno */
void image_forget(struct image *image);
/* The key of the layout that serves an image at a rung. */
const struct digest *image_layout(const struct image *image, uint32_t rung);

/* ---- file.c: data files and what is known of each chunk in them ---- */

#define CHUNK_STATE	3	/* mask */
enum chunk_state {
	CHUNK_ABSENT = 0,
	CHUNK_RECORDED = 1,	/* the disk says so; not yet hashed by this cached */
	CHUNK_VERIFIED = 2,	/* hashed by this cached */
	CHUNK_FETCHED = 4,	/* flag: from the network, in this cached's life */
	CHUNK_DURABLE = 8,	/* flag: its record is on disk */
};

/* What a layout has cost in the life of this cached. */
struct counts {
	uint64_t bytes_fetched, requests_sent, requests_retried,
	    requests_failed;
};

#define RUN_SIZE	(1024 * 1024)	/* bytes: what is evicted together */

/* Where a chunk lies in its file. */
struct spot {
	uint32_t block;		/* of 4 KiB */
	uint32_t length;	/* bytes */
};

struct file {
	TAILQ_ENTRY(file) entry;
	unsigned refs;		/* 0: closed; only what stands first is known */
	uint16_t number;	/* in the catalogue */
	struct presence_header h;
	uint64_t n_present, bytes_present;
	/* Bytes allocated to data, records, index; those of chunks that are not
	 * recorded yet are estimated. */
	uint64_t on_disk;
	uint64_t index_on_disk;
	bool complete;		/* the mark is there */
	bool expanded;		/* and says: byte by byte the device itself */
	struct digest *leans;	/* keys of the files that the mark leans on */
	size_t n_leans;
	bool heal;		/* the mark went with another file's chunk */
	uint64_t *used;		/* when each run was last of use, in ms */
	bool used_news;
	unsigned expected;	/* devices of what was opened for one */
	uint64_t opened;	/* monotonic ms: the last of them */
	bool dead;		/* removed; whoever has it open reads on */
	bool evicting;		/* no write now */
	struct counts counts;
	uint64_t damaged;	/* chunks found wrong, in this cached's life */

	/* while it is open */
	int dir, data, data_ro, presence;
	uint8_t *state;		/* enum chunk_state, by chunk */
	struct spot *spots;	/* by chunk, of those present */
	uint64_t n_durable;
	struct sync_batch *unsynced;	/* kept, not yet recorded */
	const struct sync_batch *in_sync; /* the sync thread has it */
	bool syncing, sync_timer_set;
	struct event *sync_timer;
	struct layout *layout;	/* its own, while that is open */
};
TAILQ_HEAD(files, file);
extern struct files files;

void file_load_all(void);	/* at start: every file into the catalogue */
struct file *file_by_key(const struct digest *key);
struct file *file_by_id(uint64_t id);
struct file *file_by_number(uint16_t number);
/* The file of a layout, opened, or a new empty one; one reference.  0, -EPROTO:
 * there is one of another shape, or -errno. */
int file_get(const struct presence_header *want, struct file **out);
int file_hold(struct file *f);	/* one more reference; 0 or -errno */
void file_put(struct file *f);
enum chunk_state file_state(const struct file *f, uint32_t chunk);
void file_set(struct file *f, uint32_t chunk, enum chunk_state state);
/* What a chunk's bytes must hash to, as noted when they came.  false: nobody
 * noted it. */
bool file_record(const struct file *f, uint32_t chunk,
    struct presence_record *r);
/* The same from the disk only; any thread.  h: the header as the loop had it
 * when the job began. */
bool file_record_read(const struct file *f, const struct presence_header *h,
    uint32_t chunk, struct presence_record *r);
/* Verified bytes were written there: they can be shared now, recorded soon. */
void file_kept(struct file *f, uint32_t chunk,
    const struct presence_record *r, unsigned flags);
/* Proven bad, or never synced: taken back from every map and layout; the
 * record goes too.  No effect on an absent one. */
void file_drop(struct file *f, uint32_t chunk);
void file_drop_marked(struct file *f, const uint8_t *bad); /* a byte a chunk */
/* Set the bits of the blocks that a present chunk has. */
void file_mark(const struct file *f, uint32_t chunk, uint8_t *blocks);
/* In memory only, of what no map and no layout refers to. */
void file_forget(struct file *f, uint32_t chunk);
/* The complete mark: written durably with what it leans on; taken away. */
int file_mark_complete(struct file *f, const struct digest *leans,
    size_t n_leans, bool expanded);
int file_revoke(struct file *f);
/* What was found wrong is mended: who was complete by its help looks again. */
void file_heal(void);
/* Does its mark need what lies in the other one? */
static inline bool
file_leans_on(const struct file *f, const struct file *other)
{
	for (size_t i = 0; i < f->n_leans; i++)
		if (digest_equal(&f->leans[i], &other->h.key))
			return true;
	return false;
}

/* It is of use now, there. */
void file_touch(struct file *f, uint64_t offset, uint64_t len);
void file_remember_use(void);	/* on disk, at the end */
uint32_t file_runs(const struct file *f);
void file_account(struct file *f);	/* look at on_disk again */
uint64_t file_total(void);		/* on_disk of all, and quarantine */
/* Take it out of the store, or (to) into quarantine under that name. */
void file_kill(struct file *f, const char *to);
/* The same with everything else of its layout: nobody knows it any more. */
void file_remove(struct file *f);

/* ---- catalog.c: SHA-256 -> chunks present, in all files ---- */

void catalog_add(const struct digest *sum, const struct file *f,
    uint32_t chunk);
void catalog_remove(const struct digest *sum, const struct file *f,
    uint32_t chunk);
/* A recorded chunk with these bytes, in another file than `own`; where that is
 * complete, only in those that its mark leans on, as only these are kept for
 * it. */
bool catalog_find(const struct digest *sum, const struct file *own,
    struct file **f, uint32_t *chunk);
uint64_t catalog_bytes(void);	/* its memory */

/* ---- layout.c: what a device is made of ---- */

#define LEANS_MAX	128	/* other files that one layout uses; < MAP_SLOTS */
#define NO_CHUNK	INDEX_ZEROS

/* Where a chunk of a layout is, or will be. */
struct place {
	struct file *file;
	uint32_t chunk;		/* its number there */
};

/* A run of the device: a chunk, or zeros (NO_CHUNK). */
struct extent {
	uint64_t offset, length;
	uint32_t chunk;
};

struct fill;
struct device;

/* What is fetched first. */
enum fetch_class { FETCH_DEMAND, FETCH_AHEAD, FETCH_BACKGROUND };

TAILQ_HEAD(fills, fill);

/* Of a layout, while it is stalled: times in monotonic ms. */
struct outage {
	uint64_t since;		/* the first of its reads began */
	uint64_t since_wall;	/* the same since 1970 */
	bool told;		/* in an event; then its end is, too */
	bool answered;		/* a chunk has come since the last failure */
	uint64_t answer;	/* when one came last, in an outage or not */
	uint64_t waited;	/* a read waited last */
	uint64_t alarm_at, alarm_wait_ms;	/* the next one, and then */
	uint64_t n_eio, eio_said;	/* reads; when that was logged */
};

struct layout {
	TAILQ_ENTRY(layout) entry;
	unsigned refs;
	/* constant */
	struct digest key, blob;
	uint64_t size;
	uint32_t unit;		/* bytes behind a word of its maps */
	uint32_t n_chunks;
	bool indexed;
	struct index index;
	uint8_t *index_bytes;
	uint32_t *homes;	/* block of each chunk's first extent */
	uint64_t dup_bytes;	/* of extents beyond the first of a chunk */
	char host[REF_HOST_MAX + 1], repo[REF_REPO_MAX + 1];

	struct file *file;	/* its own */
	struct place *places;	/* indexed; .file NULL: its own */
	struct file *leans[LEANS_MAX];
	unsigned n_leans;
	uint64_t n_shared, bytes_shared;	/* present in other files */
	struct fill **fills;	/* by chunk; NULL: none under way */
	uint64_t n_fills;
	struct fills queues[2];	/* of demand and readahead, first come */
	TAILQ_ENTRY(layout) turn;	/* served longest ago: first */
	uint64_t skip_until[SOURCES_MAX];	/* sources without its blob */
	unsigned refusals;	/* of its registry, in a row */
	uint64_t full_until;	/* monotonic ms: what was fetched had no room */
	uint64_t pull_after;	/* monotonic ms: what a pull got was wrong */
	TAILQ_HEAD(, device) devices;

	bool complete;		/* whole digest fits, recorded */
	bool proven;		/* was complete once: its records are right */
	bool failed;		/* whole digest does not fit */
	bool digesting;
	bool unmendable;	/* its last digest: no chunk is to blame */
	bool settling;		/* nobody's; open until all of it is durable */

	/* the background fill of everything (finish.c) */
	bool pulling, plain;	/* plain: the registry has no ranges */
	bool plain_sent;	/* its one transfer is under way */
	bool own;		/* everything must lie in its own file */
	uint32_t pull_next, move_next;
	uint64_t pull_again;	/* monotonic ms */
	uint8_t *mend;		/* by chunk: damaged, wanted back; or NULL */
	uint32_t n_mend;

	/* for status */
	uint64_t waiting;	/* reads that wait */
	bool stalled;
	struct outage outage;
	uint64_t reads_eio;	/* in this cached's life */
	char last_error[256];
	char denied_by[REF_HOST_MAX + 1];	/* see status_denied() */
};
TAILQ_HEAD(layouts, layout);
extern struct layouts layouts;

struct layout_spec {
	struct digest key, blob;	/* the same: without an index */
	uint64_t size;
	const void *index;	/* its bytes, verified; NULL: on disk */
	size_t index_len;
	const char *host, *repo;
};

/* The layout, from the disk or new; one reference.  0, -EPROTO: it is open with
 * another size, -ENOKEY: its index is not here, or -errno. */
int layout_get(const struct layout_spec *spec, struct layout **out);
/* From now on it is fetched from there.  -EXDEV: it holds units that came from
 * elsewhere, and only their whole digest could tell whether they are right. */
int layout_source(struct layout *l, const char *host, const char *repo);
/* The same without a look at what it holds. */
void layout_move(struct layout *l, const char *host, const char *repo);
struct layout *layout_find(const struct digest *key);
void layout_put(struct layout *l);
/* Something was synced: need it be open any longer? */
void layout_settled(struct layout *l);
uint64_t layout_home(const struct layout *l, uint32_t chunk);
uint32_t layout_len(const struct layout *l, uint32_t chunk);
struct extent layout_extent(const struct layout *l, uint64_t offset);
struct place layout_place(const struct layout *l, uint32_t chunk);
/* Its bytes in the file of its place. */
uint64_t layout_offset(const struct layout *l, uint32_t chunk);
enum chunk_state layout_state(const struct layout *l, uint32_t chunk);
/* What its bytes must hash to; false: nobody knows. */
bool layout_digest(const struct layout *l, uint32_t chunk,
    struct digest *sum);
/* An absent chunk that lies in some other file: from now on it is there. */
bool layout_lookup(struct layout *l, uint32_t chunk);
/* Its place is its own file again, where it is absent. */
void layout_place_own(struct layout *l, uint32_t chunk);
/* Those chunks of that file (a byte each) are gone. */
void layout_places_gone(struct layout *l, const struct file *f,
    const uint8_t *gone);
uint64_t layout_present(const struct layout *l);	/* chunks */
uint64_t layout_bytes_present(const struct layout *l);
bool layout_leans_on(const struct layout *l, const struct file *f);
/* Complete, and its own file is the device, byte by byte. */
bool layout_self_contained(const struct layout *l);
/* Nothing but a referrer names its index, and it is not complete. */
bool layout_unproven(const struct layout *l);
/* Was what it makes of the device proven wrong, and not taken up since? */
bool layout_failed_before(const struct digest *key);
/* Its file is proven wrong, for last_error: fail it durably, move the file
 * away. */
void layout_quarantine(struct layout *l);
/* Start a layout anew, empty, if *l is its only reference (then *l is another
 * one).  0, -EBUSY or -errno; *l is NULL after another error. */
int layout_start_anew(struct layout **l);
/* Not complete any more: said on disk before anything else is done. */
void layout_revoke(struct layout *l);

/* ---- fill.c ---- */

enum fill_state { FILL_CHECK, FILL_QUEUED, FILL_FETCH, FILL_ROOM, FILL_KEEP };

struct want;
struct waiter {
	TAILQ_ENTRY(waiter) entry;
	struct want *want;	/* NULL: not waiting */
	struct fill *fill;
	struct extent extent;
};

struct transfer;
struct fill {
	TAILQ_ENTRY(fill) entry;	/* of the queue that its state says */
	struct layout *layout;
	uint32_t chunk;
	enum fill_state state;
	enum fetch_class class;
	bool queued;		/* on its class's queue of the layout */
	bool mark;		/* reads shall be seen when they come here */
	bool adopt;		/* the map had it; note its digest */
	bool for_lane;		/* the bytes themselves are wanted */
	bool checking;		/* the job runs */
	bool detached;		/* it is ending */
	bool refused;		/* the store has no room for it */
	bool took;		/* room, until room_done() */
	int no_room;		/* else: why */
	unsigned flags;		/* of the chunk, once it is kept */
	unsigned distrust;	/* wrong answers in a row */
	uint64_t not_before;	/* monotonic ms: the next try */
	bool importing;		/* its bytes come from a client's file */
	int import_result;
	void (*imported)(void *arg, int result);	/* at its end */
	void *import_arg;
	struct transfer *transfers[2];	/* that bring it; the second hedges */
	struct source *from;	/* who sent its bytes; held */
	struct place place;	/* CHECK: what is checked, and its state then */
	enum chunk_state was;
	struct chunk_job job;
	TAILQ_HEAD(, waiter) waiters;
};

/* A chunk that is absent and nobody's will be read soon.  mark: it is published
 * only when it is read.  false: it is here, or on its way. */
bool fill_ahead(struct layout *l, uint32_t chunk, bool mark);
/* Nobody reads ahead of any device any more. */
void fill_ahead_stop(struct layout *l);
/* Get a chunk verified and published: joins the fill under way or starts one.
 * waiter is told by want_extent_done().  for_lane: even if present, read it
 * again and hand over the bytes. */
void fill_want(struct layout *l, uint32_t chunk, struct waiter *waiter,
    bool for_lane);
/* A live map already has the chunk in its own file, without a record: hash it
 * and note the digest.  map_adopt_more() is called at its end.  1: begun. */
int fill_adopt(struct layout *l, uint32_t chunk);
void waiter_leave(struct waiter *w);

/* From fetch.c: the chunk's bytes (taken), or no transfer brings it now. */
void fill_data(struct fill *fill, struct source *from, uint8_t *buf,
    size_t len);
void fill_requeue(struct fill *fill);
/* A background fill for an absent chunk without one, in a transfer's hands. */
struct fill *fill_background(struct layout *l, uint32_t chunk,
    struct transfer *t);
/* A chunk that lies in another file is wanted in the layout's own. */
void fill_move(struct layout *l, uint32_t chunk);
/* An absent chunk without a fill: its verified bytes (taken), which also lie at
 * its home in the file `from` of the same file system, or -1.  done: 0, or why
 * it can't be kept. */
void fill_import(struct layout *l, uint32_t chunk, uint8_t *buf, int from,
    void (*done)(void *arg, int result), void *arg);
size_t fill_keeping(void);	/* chunks received, not yet written */
/* There may be room again. */
void fill_room(void);

/* ---- fetch.c: which range is asked for next, of whom ---- */

void fetch_pump(void);			/* start what may be started */
void fetch_queue(struct fill *fill, enum fetch_class class);
void fetch_unqueue(struct fill *fill);
/* A layout that may be fetched from now on; not any more. */
void fetch_layout_new(struct layout *l);
void fetch_layout_gone(struct layout *l);
/* What kept this host from answering may have changed: don't wait. */
void fetch_retry(const char *host);
/* Whom an Open's step asks: a mirror, or the registry itself, which is asked
 * even while it is down, since a client waits. */
struct source *fetch_source(const char *host, bool checked,
    const uint64_t *skip_until);

/* ---- transfer.c: what became of a request ---- */

void fetch_link_up(void);
void fetch_link_down(void);
uint64_t fetch_new_id(void);
/* Its last waiter left, or nobody pulls the layout: cancel what is on its way
 * and far from its end. */
void fetch_unwanted(struct layout *l);
/* A chunk's bytes were wrong: ask somebody else, or wait before it is asked for
 * again. */
void fetch_distrust(struct fill *fill);
/* How a request went; it was answered (rtt 0: not measured); its bytes were
 * wrong. */
void fetch_outcome(struct source *s, const Suite__FetchDone *done);
void fetch_answered(struct source *s, uint64_t rtt_us);
void fetch_wrong(struct source *s, const char *why);
/* fetcherd does not keep to the protocol: its parent ends it. */
void fetch_broken(void);
ipc_handler on_manifest, on_blob_info, on_referring, on_data, on_fetch_done;

/* ---- device.c ---- */

void device_add(const struct device_spec *spec, int mapfd);
void device_gone(const struct device_spec *spec);
void device_link(const struct device_spec *spec, int fd);
extern const struct ipc_table io_table;
void device_fail_all(struct layout *l);
/* Rung whole waits for this. */
void device_complete(struct layout *l);
/* A waiter's chunk: published (buf NULL), or could not be kept, and here are
 * its bytes. */
void want_extent_done(struct waiter *w, const uint8_t *buf, size_t len);
/* Reads of this layout wait for the network: an outage, which is told when it
 * lasts.  why: or NULL. */
void device_stalled(struct layout *l, const char *why);
/* It got a chunk from there: the outage is over, once no old read is left. */
void device_recovered(struct layout *l);
/* Is it presented as its file? */
bool device_plain(const struct layout *l);
/* Does rung whole need all of it? */
bool device_needs_whole(const struct layout *l);
bool device_tick(void);		/* true: again */

/* ---- map.c: where a device's units lie ---- */

/* The chunk is verified at its place: publish it, in all maps of the layout. */
void map_publish_chunk(struct layout *l, uint32_t chunk);
/* These bytes are proven bad, or were never synced: out of every map. */
void map_withdraw(const struct file *f, uint8_t *blocks);
/* Which blocks of a file do live maps refer to?  One bit a block. */
void map_mark(const struct file *f, uint8_t *blocks);
/* Go on with what a former cached published, and has no record. */
void map_adopt_more(struct layout *l);
bool map_adopts(const struct layout *l);	/* is there more of it? */
void map_touch_all(void);	/* what maps refer to is of use now */

/* ---- ahead.c: what a device will read next ---- */

#define STREAMS	8	/* sequential readers of one device that are told apart */

struct stream {
	uint64_t begin;		/* its first read, bytes */
	uint64_t next;		/* where it goes on */
	uint64_t mark;		/* the first chunk from there on is marked */
	uint64_t grow;		/* a read behind that widens the window */
	uint64_t end;		/* all before this was asked for */
	uint64_t window;	/* bytes; 0: it may be no stream at all */
	unsigned follow;	/* reads that went on with it */
	uint64_t used;		/* number of the read that moved it last */
};

struct ahead {
	struct stream streams[STREAMS];
	uint64_t reads;
	uint64_t most;		/* bytes; a window grows to at most that */
};

/* A read of the device that the worker could not serve by itself. */
void ahead_read(struct ahead *a, struct layout *l, uint64_t offset,
    uint64_t len);

/* ---- outage.c: reads wait for the network ---- */

/* The oldest of them began at `since`; an outage that has begun goes on.
 * error: why the network failed just now; NULL: nobody said. */
void outage_begin(struct layout *l, uint64_t since, const char *error);
/* Has it lasted long enough to be told?  oldest: when the oldest read began; 0:
 * none waits. */
void outage_tell(struct layout *l, uint64_t oldest);
/* The network gave a chunk. */
void outage_answered(struct layout *l);
/* Is it over?  late: a read waits for longer than it should. */
void outage_look(struct layout *l, bool late);
/* Is it time for an alarm?  Then it is told for each device whose reads wait.
 * oldest: when the oldest read began; 0: none waits. */
bool outage_alarm_due(struct layout *l, uint64_t oldest);
void outage_alarm(struct layout *l, const struct device_spec *spec,
    unsigned reads);
/* So many more reads of the device get EIO. */
void outage_eio(struct layout *l, const struct device_spec *spec,
    unsigned reads);

/* ---- sync.c ---- */

struct sync_entry {
	uint32_t chunk;
	bool erase;
	struct presence_record record;
};
struct sync_batch {
	size_t n, size;
	struct sync_entry entries[];
};
/* A chunk was written: sync it soon, then record it.  record NULL: its record
 * goes. */
void sync_note(struct file *f, uint32_t chunk,
    const struct presence_record *record);
/* The newest that is noted of a chunk and not yet on disk. */
const struct sync_entry *sync_find(const struct file *f, uint32_t chunk);
void sync_flush_all(void);	/* at the end, in line */

/* ---- finish.c ---- */

/* Fill everything, verify the whole digest. */
void finish_pull(struct layout *l, bool plain);
/* The same, and all of it in its own file. */
void finish_pull_own(struct layout *l);
/* Fill this chunk, which was damaged; it is there again, or can't be. */
void finish_mend(struct layout *l, uint32_t chunk);
void finish_mended(struct layout *l, uint32_t chunk);
/* Does the background fill want this chunk, wherever it is? */
bool finish_wants(const struct layout *l, uint32_t chunk);
/* Go on with moving chunks from other files. */
void finish_move(struct layout *l);
/* Nobody waits for all of it any more, or it can't be kept. */
void finish_stop(struct layout *l);
/* Something became durable: is that all of it? */
void finish_check(struct layout *l);
/* Its file was made the device, byte by byte: it is made so again. */
void finish_recheck(struct layout *l);
/* Is all of it here, and not durable yet, so that nobody could say whether it
 * is complete? */
bool finish_settles(const struct layout *l);
/* There may be room again for what waits for it. */
void finish_room(void);
/* The next chunk that the background fill wants, or false. */
bool finish_next(struct layout *l, uint32_t *chunk);

/* ---- room.c: quota, free space, eviction ---- */

/* May so many bytes be written?  0: yes, until room_done() of as many;
 * -EAGAIN: when fill_room() is called, ask again; -EDQUOT, -ENOSPC. */
int room_take(uint64_t len);
void room_done(uint64_t len);
/* Something is not held any more: it is worth to look again. */
void room_changed(void);

struct evict_ask {
	uint64_t bytes;		/* at least, if there are so many */
	uint64_t before;	/* only runs of use before, in ms; 0: any */
	struct file *only;	/* of this file; NULL: of any */
	bool dry_run;
	/* Each file that something goes from. */
	void (*each)(void *arg, const struct file *f, uint64_t bytes);
	void (*done)(void *arg);	/* once for each that was begun */
	void *arg;
};
/* Evict what was of use longest ago.  The number of files begun with. */
unsigned room_evict(struct evict_ask *ask);
/* The layout of a file that is known by an image; one reference, or NULL. */
struct layout *room_layout(const struct file *f);

/* ---- quarantine.c ---- */

void quarantine_load(void);
uint64_t quarantine_bytes(void);	/* on disk */
/* Move a file there. */
void quarantine_take(int from_dir, const char *from, const char *to);
bool quarantine_drop(void);	/* the oldest; false: there is none */

/* ---- gc.c ---- */

ipc_handler on_gc, on_df, on_drop;

/* ---- hold.c: pins and owners' lists ---- */

void hold_load_all(void);
/* Why a file may not be evicted: attached, pinned, kept by...; or NULL. */
const char *hold_reason(const struct file *f);
const char *hold_image(const struct image *image);	/* the last two */
/* Owners that keep an image: calls each. */
void hold_owners(const struct image *image, void (*each)(void *arg,
    const char *owner), void *arg);
ipc_handler on_pin, on_keep;

/* ---- scrub.c ---- */

void scrub_start(void);
/* A thread found it bad: is it so still, or dropped or mended since? */
bool scrub_still_bad(const struct file *f, uint32_t chunk);
ipc_handler on_verify;
void verify_cancel(uint64_t id);
void verify_forget_all(void);
bool verify_tick(void);		/* true: again */
void scrub_again(uint64_t bytes);

/* ---- copy.c: promote and import ---- */

ipc_handler on_promote, on_import;
bool copy_needs(const struct layout *l);	/* all of it */
void copy_cancel(uint64_t id);
void copy_forget_all(void);
void copy_layout_trouble(struct layout *l, const Suite__FetchDone *done);
bool copy_tick(void);		/* true: again */
/* A layout became complete, or can't. */
void copy_layout_changed(struct layout *l);

/* ---- open.c: Open requests of control ---- */

enum open_step {
	STEP_RESOLVE,
	STEP_PLATFORM,
	STEP_REFERRERS,
	STEP_ARTIFACT,
	STEP_INDEX_SIZE,
	STEP_INDEX,
	STEP_STAT,
	STEP_FILL,
};

#define REFERRERS_MAX	16	/* tried in turn, until one is usable */

struct open {
	TAILQ_ENTRY(open) entry;
	uint64_t id;		/* control's */
	uint64_t fetch_id;	/* of fetcherd's request under way; 0: none */
	struct source *source;	/* who was asked, or sent something; held, */
	uint64_t asked_at;	/* and when: monotonic ms */
	uint64_t skip_until[SOURCES_MAX];	/* who is not asked again */
	enum open_step step;
	struct image_ref ref;
	struct image image;
	char *manifest;
	size_t manifest_len;
	uint32_t asked, rung;	/* rung: the one taken, once it is */
	bool whole, fallback, plain, restore;
	bool own;		/* all of it in its own file */
	bool device;		/* one will be made of it */
	bool by_erofs;		/* named so, and no index of it is proven */
	struct digest referrers[REFERRERS_MAX];
	unsigned n_referrers, referrer;
	uint8_t *index;		/* the bytes of the chunk index */
	uint64_t index_len, index_got;
	struct index parsed;	/* of these */
	uint64_t deadline, next_try, retry_ms;	/* monotonic ms; 0: none */
	uint64_t sent, sent_at, moved_at;	/* progress */
	uint64_t requests, body_bytes;		/* to be put to the layout */
	struct layout *layout;
	Shedstream__Control__V1__Code code;	/* why the last try failed */
	char why[256];
};
TAILQ_HEAD(opens, open);
extern struct opens opens;

/* Answers and frees o. */
#define open_fail(o, code, retry, ...)					\
	do {								\
		reply_failed((o)->id, code, retry, __VA_ARGS__);	\
		open_free(o);						\
	} while (0)
void open_free(struct open *o);
/* Image and size are known: keep that on disk; go on to its layout. */
void open_keep(struct open *o);
void open_layout(struct open *o);
/* An image that is known here: what is on disk needs nobody. */
void open_known(struct open *o);
ipc_handler on_open, on_cancel;

/* ---- find.c: an Open's steps on the network ---- */

void find_begin(struct open *o);	/* the step that it is at */
void find_step(struct open *o, enum open_step step);
/* A mirror that says nothing must not use up what a client waits for: is the
 * one that it waits for mute?  It is left alone, then. */
bool find_mute(const struct open *o);
void find_look(struct open *o);		/* and others are asked: now and then */
/* No index: the rung is what the configuration says. */
void find_no_index(struct open *o);
/* fetcherd's answer to a Resolve, Stat or the Fetch of an index; false: not to
 * one of ours. */
bool open_answer(const struct ipc_message *msg);
bool open_data(struct ipc_message *msg);
void open_resend(void);		/* a new fetcherd */
/* Fetch of a layout made progress, ended, or failed for now. */
void open_layout_changed(struct layout *l);
void open_layout_trouble(struct layout *l, const Suite__FetchDone *done);
bool open_tick(void);		/* true: again */
/* Somebody does not wait for all of it any more: the pull ends with the last
 * who does. */
void open_pull_left(struct layout *l);
/* control restarted: nobody waits any more; who does asks again. */
void open_forget_all(void);
void reply_failed(uint64_t id, Shedstream__Control__V1__Code code, bool retry,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* ---- status.c ---- */

ipc_handler on_inspect, on_list_images, on_map_cells, on_list_sources;
/* That source won't serve this layout until there are other credentials: said
 * once of a host.  No effect if the failure is of another kind. */
void status_denied(struct layout *l, const struct source *s,
    const Suite__FetchDone *done);
/* That source serves it: what is refused elsewhere still is. */
void status_allowed(struct layout *l, const struct source *s);
ipc_handler on_credentials;

#endif
