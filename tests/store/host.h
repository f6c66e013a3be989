/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays every neighbour of a real cached, so that a test reads like a story:
 *
 *	struct host *h = host_new(registry, NULL, "[store]\nquota = 8M\n");
 *	host_start(h);
 *	struct host_answer a = host_open(h, image, RUNG, false);
 *	struct host_device *dev = host_attach(h, &a);
 *	host_read(dev, 0, 65536);	-- every byte is compared with the truth
 *	host_kill(h);
 *	host_start(h);			-- same store, same devices, same maps
 *	host_free(h);
 *
 * devd's parent (host.c), control (host_control.c), fetcherd in front of a
 * registry in memory (host_fetch.c), one worker per device (host_io.c).  Calls
 * are synchronous: each drives the event loop until what it is about has
 * happened.  There is no sleep anywhere; what does not happen within HOST_WAIT_S
 * fails the test, with what it waited for and the last lines of cached's log.
 * So does an end of cached that nobody ordered, a word of cached that a
 * neighbour broke the protocol, and every byte that is not the image's.
 */
#ifndef TESTS_STORE_HOST_H
#define TESTS_STORE_HOST_H

#include <sys/queue.h>
#include <sys/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"
#include "tests/store/record.h"
#include "tests/store/registry.h"

#define HOST_WAIT_S	30
#define HOST_NOTICES	64	/* of which the last are kept */
#define HOST_ROWS	64

/* A test failed: called with why, must not return.  NULL: print, abort(). */
extern void (*host_on_fail)(const char *why);
/* It is meant to fail: nothing is printed. */
extern bool host_quiet;

enum net {
	NET_ON,
	NET_OFF,	/* every request fails at once, and may be retried */
	NET_DENIED,	/* the same, for want of credentials; in 5 minutes again */
	NET_HELD,	/* requests are taken and wait for another state */
	NET_FORBIDDEN,	/* a request fails the test */
};

/* What fetcherd does; a test sets it any time. */
struct host_net {
	enum net state;
	bool no_ranges;
	unsigned wrong;		/* so many next pieces have a wrong byte */
	const struct reg_image *wrong_of;	/* only of this; NULL: of any */
	unsigned cut;		/* so many next fetches break off half way */
	bool resets;		/* every second fetch fails at once */
	unsigned delay_ms;	/* before each answer */
	const struct reg_image *absent;	/* fetches of it: there is none */
	const struct reg_image *harmed;	/* wrong in the registry for good, */
	uint64_t harmed_at;	/* at this byte of its blob */
	const struct reg_image *counted;	/* see counts.of_image */
	const char *also[2];	/* other registries with all of it; NULL: none */
	bool also_held;		/* they take requests and say nothing */
	bool plain_held;	/* so do requests for a whole blob */
	bool mirror_absent;	/* mirrors have nothing */
	bool only_mirrors;	/* the registry itself wants credentials */
	bool mirror_held;	/* mirrors take requests and say nothing */
	unsigned mirror_less;	/* bytes that mirrors take off sizes they tell */
};

struct host_counts {
	unsigned resolves, stats, fetches, referrers, cancels;	/* asked for */
	unsigned of_mirror;	/* of all these: of any mirror */
	unsigned of_image;	/* fetches of net.counted */
	unsigned harmed;	/* pieces sent that net.harmed made wrong */
	uint64_t pieces, bytes;	/* sent */
};

/* A row of a list: what its kind of row has. */
struct host_row {
	char image[256], why[160];
	struct digest image_digest, blob;
	uint64_t size, present, freed, on_disk, exclusive, shared;
	bool complete, network_free, pinned;
	/* of a source, whose mirror or host is the image */
	bool asked, up;
	uint64_t wrong, down_ms;
};

/* The last message for one request of control, and what came before it. */
struct host_answer {
	unsigned type;		/* SUITE_BODY() */
	/* FAILED */
	Shedstream__Control__V1__Code code;
	bool retry;
	char text[512];
	/* OPENED */
	struct digest manifest, blob, layout;
	uint64_t size;
	uint32_t unit, rung;
	bool complete, network_free, self_contained;
	char image[512], data[256];
	/* VERIFIED */
	uint64_t checked, damaged, repaired;
	/* PROGRESS before it */
	unsigned n_progress;
	uint64_t current, total;	/* of the last; total also of Df */
	/* rows */
	unsigned n_rows;
	struct host_row rows[HOST_ROWS];
};

struct host_layout {	/* of Inspect */
	uint64_t size, chunks, chunks_present, bytes_present, bytes_fetched,
	    requests_sent, requests_failed, stalled_reads, chunks_shared, damaged,
	    stalled_since, reads_eio;
	bool complete, network_free, failed, completing, self_contained,
	    unproven;
	char last_error[256], denied_by[256];
};

struct host_notice {
	char kind[32], text[256];
	struct digest layout;
};

struct host;

/* A device as its worker sees it. */
struct host_device {
	TAILQ_ENTRY(host_device) entry;
	struct host *host;
	struct device_spec spec;
	const struct reg_image *image;
	int map_fd;
	struct map *map;
	struct ipc_link *link;	/* to cached; NULL while it is away */
	int slots[MAP_SLOTS];
	uint8_t *scratch;
	uint32_t lanes;
	uint64_t lane_size;
	unsigned wants, agains, in_lanes;	/* sent; units that came in a lane */
	TAILQ_HEAD(, host_read) reads;
};

struct host_ask;
struct host_request;

struct host {
	LIST_ENTRY(host) living;
	pid_t maker;
	const struct reg *registry;
	const char *program;
	char *conf;
	char dir[64];		/* of all this; removed at the end */
	int store;		/* its directory "store" */
	int log;		/* what cached writes to stderr */
	int record;		/* the log of record.h; -1: none */
	struct record_fault *fault;	/* with a log: failures to order */
	int fault_fd;
	uid_t owner;		/* of the store; -1: who runs the test */

	/* Not NULL: cached is a thread of this process, begun by enter() with its
	 * end of the link; leave() waits until it has ended.  It lives once. */
	void (*enter)(int link);
	void (*leave)(void);
	pid_t pid;		/* 0: it does not run; -1: as a thread */
	bool ready, stopping, lenient;	/* lenient: broken is only counted */
	bool failed;		/* host_fail() was called */
	unsigned broken, starts;
	int status;		/* of waitpid(), once it ended */
	struct event_base *base;
	struct parent_link *parent;
	struct ipc_link *control, *fetcherd;
	uint64_t last_id;
	TAILQ_HEAD(, host_ask) asks;
	TAILQ_HEAD(, host_device) devices;
	TAILQ_HEAD(, host_request) held;	/* by fetcherd */

	struct host_net net;
	uint32_t eio_after_s;	/* of devices that are attached from now on */
	struct host_counts counts;
	struct host_notice notices[HOST_NOTICES];
	unsigned n_notices;
};

/* ---- cached's life ---- */

/* An empty store.  program: NULL for cached; a name in $BUILD/bin or
 * $BUILD/tests/store; or a path.  The registry outlives the host. */
struct host *host_new(const struct reg *registry, const char *program,
    const char *conf);
/* cached-recorded writes its log there (record.h), from the next start on. */
void host_record(struct host *h, int log_fd);
/* Add RECORD_MARK to the log. */
void host_mark(struct host *h, uint64_t number, const char *text);
/* Until it says that it is ready, with its links and all devices. */
void host_start(struct host *h);
/* As devd does: its link closes, it must end with status 0. */
void host_stop(struct host *h);
void host_kill(struct host *h);		/* -9 */
/* All of the suite died: the devices' maps are new and empty at the next
 * start. */
void host_forget_maps(struct host *h);
/* It must end by itself: its exit status. */
int host_wait_end(struct host *h);
/* fetcherd died; a new one has a new link. */
void host_new_fetcherd(struct host *h);
/* After a failure, before _exit(): end cached, remove the directory. */
void host_abandon(struct host *h);
/* Stop cached if it runs; no devices, an empty store, counts from 0. */
void host_reset(struct host *h);
/* The same, and all is gone. */
void host_free(struct host *h);

/* Drive the loop until the condition holds; `what` completes "waited for". */
void host_until(struct host *h, bool (*holds)(void *arg), void *arg,
    const char *what);
void host_fail(struct host *h, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));
/* The last of cached's log (caller frees). */
char *host_log(struct host *h);
/* Does a line of cached's log have this text? */
bool host_logged(struct host *h, const char *text);

/* ---- control ---- */

/* Any request: send it, and later wait for its end.  passfd is duplicated. */
uint64_t host_send(struct host *h, unsigned type, const void *body, int passfd);
bool host_answered(struct host *h, uint64_t id);
struct host_answer host_wait(struct host *h, uint64_t id);
struct host_answer host_ask(struct host *h, unsigned type, const void *body,
    int passfd);
void host_cancel(struct host *h, uint64_t id);

/* rung: CTL_RUNG().  Fails the test unless it is opened. */
struct host_answer host_open(struct host *h, const char *image, uint32_t rung,
    bool whole);
uint64_t host_open_begin(struct host *h, const char *image, uint32_t rung,
    bool whole);
/* These fail the test unless they succeed. */
struct host_answer host_verify(struct host *h, const char *image);
struct host_answer host_gc(struct host *h, uint64_t max_bytes);
struct host_answer host_df(struct host *h);
struct host_answer host_images(struct host *h);
struct host_answer host_sources(struct host *h);
void host_pin(struct host *h, const char *image, bool pin);
/* NULL ends the images, whose manifests are kept. */
void host_keep(struct host *h, const char *owner,
    const struct reg_image *const *images);
void host_promote(struct host *h, const char *image, int fd);
void host_import(struct host *h, const char *image, int fd);
void host_drop(struct host *h, const char *image);
struct host_layout host_inspect(struct host *h, const struct digest *layout);
/* Was there a notice of this kind with this text in it? */
bool host_noticed(const struct host *h, const char *kind, const char *text);

/* ---- devices ---- */

/* A new device of what was opened; it lives until host_detach(). */
struct host_device *host_attach(struct host *h, const struct host_answer *a);
void host_detach(struct host_device *dev);
/* 0, or -EIO where cached says so; wrong bytes fail the test. */
int host_read(struct host_device *dev, uint64_t offset, size_t len);
void host_read_all(struct host_device *dev);
/* The same in two steps; several can be under way. */
struct host_read *host_read_begin(struct host_device *dev, uint64_t offset,
    size_t len);
bool host_read_done(const struct host_read *r);
int host_read_end(struct host_read *r);	/* waits, frees */
/* Words of the map that are set. */
uint64_t host_mapped(const struct host_device *dev);
/* A worker died; a new one has a new link. */
void host_new_worker(struct host_device *dev);

/* ---- between the files of the host ---- */

/* fetcherd has new credentials for that host. */
void host_credentials(struct host *h, const char *host);
void host_control_link(struct host *h, int fd);
void host_control_unlink(struct host *h);
void host_control_forget(struct host *h);	/* what was not answered */
void fetch_link(struct host *h, int fd);
void fetch_unlink(struct host *h);
void io_give(struct host_device *dev);	/* its map and link, to cached */
void io_unlink(struct host_device *dev);
void io_free(struct host_device *dev);
/* passfd is taken; -1: none. */
void host_tell(struct host *h, enum parent_type type, enum ipc_peer peer,
    const struct device_spec *spec, int passfd);
int host_link(struct host *h, enum ipc_peer peer,
    const struct device_spec *spec);	/* our end */

#endif
