/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shedctl in sections by file: main.c reads the command line, request.c and
 * store.c and login.c have a function per command, client.c speaks with the
 * service, show.c, json.c and progress.c write, dest.c places a file, words.c
 * names.
 *
 * A command returns the program's exit status.  What went wrong is kept in
 * struct failure and printed once, by main.c, when the progress line is gone.
 */
#ifndef SHEDCTL_SHEDCTL_H
#define SHEDCTL_SHEDCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/digest.h"
#include "ipc/ipc.h"

#define CTL_INIT(NAME)	SHEDSTREAM__CONTROL__V1__##NAME##__INIT

enum status {			/* of the program: CLI.md */
	STATUS_DONE = 0,
	STATUS_FAILED = 1,	/* refused or failed */
	STATUS_USAGE = 2,
	STATUS_UNREACHED = 3,
};

/* words.c: the enums of control.proto as the command line writes them */

struct word {
	const char *text;
	uint32_t value;
};

extern const struct word rung_words[], present_words[], fetch_words[],
    outage_words[], state_words[];		/* each ends with a NULL text */

/* The word's value, or -EINVAL. */
int word_parse(const struct word *words, const char *text, uint32_t *out);
/* The value's word; "unknown" for a value of a newer service. */
const char *word_name(const struct word *words, uint32_t value);
/* The stable name of an error code; "INTERNAL" for an unknown one. */
const char *word_code(uint32_t code);

/* main.c: one run of the program */

struct options {
	uint64_t given;		/* bit n: opts[n] of main.c was given */
	const char *socket, *name, *consumer, *owner, *output, *listen;
	uint32_t present, fetch, integrity, on_outage;	/* of control.proto */
	uint32_t outage_delay_s;	/* 0: the service's */
	uint32_t deadline_ms;	/* 0: the service's */
	uint64_t max_bytes, until_s;
	bool json, help, version, follow, boot, all, wait, dry_run,
	    allow_empty;
};

struct failure {
	const char *code;	/* a stable code, or NULL: the text says all */
	char text[1024];	/* a sentence with the remedy */
};

/* progress.c */

struct progress {
	FILE *out;
	bool terminal;
	unsigned width;		/* columns of the terminal */
	const char *doing;	/* "downloading", unless the owner sets it */
	bool seen, pending;	/* a report came; the last is not shown yet */
	bool open;		/* a bar without its newline stands there */
	char digest[DIGEST_TEXT + 1];
	uint32_t state;		/* CTL(Progress__State) */
	uint64_t current, total;	/* bytes */
	uint64_t first;		/* `current` of this digest's first report */
	int64_t start_ms, shown_ms, rate_ms;
	uint64_t rate_current;	/* `current` at rate_ms */
	double rate;		/* bytes a second, smoothed */
};

/* terminal: one line redrawn at most 10 times a second; else lines, at most
 * one a second.  The first and the last report of a digest always show. */
void progress_init(struct progress *p, FILE *out, bool terminal,
    unsigned width);
/* One report; now_ms from any monotonic clock. */
void progress_update(struct progress *p, const CTL(Progress) *report,
    int64_t now_ms);
/* Show what is still owed and end the line.  More reports may follow. */
void progress_end(struct progress *p, int64_t now_ms);
/* The line as it stands, without a newline, into buf. */
void progress_line(const struct progress *p, int64_t now_ms, char *buf,
    size_t size);

/* client.c */

struct client {
	const char *path;	/* of the socket; outlives the client */
	const char *owner;	/* for Hello; "" for uid:N */
	int fd;			/* -1: not connected */
	bool greeted;		/* Hello was answered on this connection */
	unsigned connections;	/* made so far */
	uint64_t id;		/* of the latest request */
	uint64_t furthest;	/* bytes of the furthest progress */
	int tries;		/* reconnections since it last went on */
	int64_t lost_ms;	/* when the first of them began */
	struct failure *failure;
	/* What may arrive before the answer.  Optional. */
	void (*on_progress)(void *arg, const CTL(Progress) *progress);
	void (*on_event)(void *arg, const CTL(Event) *event);
	void *arg;
};

/* A request.  `again`: doing it twice does no harm, so a lost connection is
 * made again and it is sent again. */
struct call {
	unsigned type;		/* CTL_BODY(...) */
	const void *body;
	unsigned want;		/* CTL_BODY(...) of the answer */
	int fd;			/* rides along; -1: none; stays the caller's */
	bool again;
	bool accepted;		/* Accepted is answer enough */
};

/* An answer: one frame, or several where it says `more`. */
struct answer {
	struct part {
		CTL(Frame) *frame;
		void *arena;	/* holds the frame */
	} *parts;
	size_t n;
	int fd;			/* the descriptor that came along, or -1 */
};
#define ANSWER_NONE	((struct answer){ .fd = -1 })

/* How long the first answer may take: five times what the protocol promises;
 * and how long a lost connection is tried again: longer than devd waits before
 * it starts its control process again.  Tests shorten both. */
extern int client_answer_ms, client_tries_ms;

/* Which socket: `given`, $SHEDSTREAM_SOCKET, the user's if it is there, the
 * system's.  Into buf; 0 or -ENAMETOOLONG. */
int client_socket(const char *given, char *buf, size_t size);
void client_init(struct client *c, const char *path, const char *owner,
    struct failure *failure);
void client_done(struct client *c);
/* Connect if need be, ask, wait for the answer.  STATUS_DONE, or another
 * status with *failure set. */
enum status client_call(struct client *c, const struct call *call,
    struct answer *out);
/* Wait for one more frame of any kind, as long as it takes; events go to
 * on_event.  0, or -errno: the connection is lost. */
int client_follow(struct client *c);
/* Wait until the service ends the connection, client_answer_ms at most. */
void client_wait_end(struct client *c);
void answer_done(struct answer *a);
/* Set *failure; returns STATUS_FAILED. */
enum status client_fail(struct failure *f, uint32_t code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int64_t client_now_ms(void);	/* monotonic */

/* request.c, store.c, login.c: the commands */

struct shedctl {
	struct options opt;
	char **args;		/* behind the command's name */
	int n_args;
	struct client client;
	struct progress progress;
	struct failure failure;
	/* of `events` */
	struct json_t *events;	/* collected for one object, or NULL */
	bool live;		/* the service has told what it remembers */
	uint64_t last_us;	/* the latest time of an event shown */
	uint64_t skip_us;	/* what it remembers up to here was shown */
	unsigned connection;	/* client.connections at the latest event */
};

typedef enum status command_run(struct shedctl *ctl);

command_run run_attach, run_detach, run_pull, run_prefetch, run_ls, run_images,
    run_status, run_map, run_record, run_profile, run_pin, run_unpin, run_keep,
    run_gc, run_rm, run_df, run_verify, run_promote, run_import, run_login,
    run_logout, run_health, run_doctor, run_metrics, run_events, run_flight,
    run_report, run_top, run_shutdown, run_version;

/* ask.c: what they share */

#define ONCE	false
#define AGAIN	true	/* it does no harm twice: see client.c */

enum status ask(struct shedctl *ctl, unsigned type, const void *body,
    unsigned want, bool again, struct answer *a);
/* fd rides along; it stays the caller's. */
enum status ask_fd(struct shedctl *ctl, unsigned type, const void *body,
    unsigned want, bool again, int fd, struct answer *a);
/* A question, whose answer is printed with --json by json(), else by show(). */
enum status ask_show(struct shedctl *ctl, unsigned type, const void *body,
    unsigned want, void (*json)(const struct answer *a),
    void (*show)(const struct answer *a));
/* A request that is answered by Done; says so with --json. */
enum status ask_done(struct shedctl *ctl, unsigned type, const void *body,
    bool again, int fd);
/* A local file that can't be used; errno says why. */
enum status ask_fail_file(struct shedctl *ctl, const char *what,
    const char *path);

/* dest.c: a new file that takes the place of another */

struct dest {
	int dir, fd;		/* fd: the new file, empty, for writing */
	const char *name;	/* in dir; of the path that was given */
	bool named;		/* it has a name of its own meanwhile */
};
#define DEST_NONE	((struct dest){ .dir = -1, .fd = -1 })

/* Beside path, which outlives it.  0, -EISDIR, -EEXIST (path is there, and no
 * regular file), or -errno; dest_done() follows in any case. */
int dest_begin(struct dest *d, const char *path);
/* Mode 0444, on the disk, in path's place.  0 or -errno. */
int dest_commit(struct dest *d);
/* What was not committed is gone. */
void dest_done(struct dest *d);
/* For tests: false as if no file system knew files without a name. */
extern bool dest_unnamed;

/* show.c: for people, on stdout.  Whatever comes from the service goes through
 * show_text(). */

#define MAP_COLUMNS	80
#define MAP_ROWS	8
#define MAP_CELLS	(MAP_COLUMNS * MAP_ROWS)

struct size_text {
	char text[24];
};

/* "0 B", "12.3 MiB" */
struct size_text show_size(uint64_t bytes);
/* part of total in whole percent: 100 only for all of it, "-" of nothing */
struct size_text show_percent(uint64_t part, uint64_t total);
/* "1:05", "2:03:04", "12 d"; "-:--" for unknown (negative) */
struct size_text show_seconds(double seconds);
/* A copy with control characters, and what the locale can't print, as \xHH;
 * the caller frees.  keep: characters that stay ("\n"), or "". */
char *show_text(const char *text, const char *keep);
/* Columns of the terminal on fd, or 0 where it is none. */
unsigned show_width(int fd);

/* 8 lines of 80 cells and the legend. */
void show_cells(FILE *out, const uint8_t *cells, bool colour);

void show_devices(const struct answer *a);	/* as columns */
void show_status(const struct answer *a);	/* in detail */
void show_images(const struct answer *a);
void show_map(const CTL(MapReply) *map);
/* width: of the terminal, 0: none */
void show_df(const struct answer *a, unsigned width);
void show_gc(const struct answer *a, bool dry_run);
void show_verify(const CTL(VerifyReply) *r);
void show_doctor(const CTL(DoctorReply) *doctor);
void show_metrics(const struct answer *a);
void show_event(const CTL(Event) *event);
void show_version(const CTL(VersionReply) *version);

/* json.c: the same as one JSON object on stdout, field names as in CLI.md */

struct json_t;
void json_show(struct json_t *object);	/* prints and takes it */
struct json_t *json_text(const char *text);
struct json_t *json_number(uint64_t number);
struct json_t *json_event(const CTL(Event) *event);

void json_devices(const struct answer *a);
void json_status(const CTL(Device) *device);
void json_images(const struct answer *a);
void json_map(const char *name, const CTL(MapReply) *map);
void json_df(const struct answer *a);
void json_gc(const struct answer *a);
void json_verify(const CTL(VerifyReply) *r);
void json_doctor(const CTL(DoctorReply) *doctor);
void json_metrics(const struct answer *a);
void json_version(const CTL(VersionReply) *version);
void json_attached(const CTL(Attached) *attached);

#endif
