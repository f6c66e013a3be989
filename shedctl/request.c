// SPDX-License-Identifier: Apache-2.0
/*
 * The commands: each builds its request, asks, and shows the answer.  A
 * request that does no harm twice is marked AGAIN: see client.c.  The options
 * and the number of arguments were checked by main.c's table.
 *
 * Descriptors that ride along are opened here, with the caller's rights: the
 * service never opens a path that a client names.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/own.h"
#include "base/shm.h"
#include "shedctl/shedctl.h"

#define ONCE	false
#define AGAIN	true

#define CREDENTIALS_MAX	(64 * 1024)	/* bytes; a token is a few KiB */
#define KEEP_MAX	(64 * 1024)	/* digests; a request holds fewer */
#define COPY_BYTES	(64 * 1024)

static enum status
ask_fd(struct shedctl *ctl, unsigned type, const void *body, unsigned want,
    bool again, int fd, struct answer *a)
{
	struct call call = { .type = type, .body = body, .want = want,
		.fd = fd, .again = again };
	enum status status = client_call(&ctl->client, &call, a);

	progress_end(&ctl->progress, client_now_ms());
	return status;
}

static enum status
ask(struct shedctl *ctl, unsigned type, const void *body, unsigned want,
    bool again, struct answer *a)
{
	return ask_fd(ctl, type, body, want, again, -1, a);
}

/* A request that is answered by Done.  With --json: what was done to what. */
static enum status
ask_done(struct shedctl *ctl, unsigned type, const void *body, bool again,
    int fd)
{
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask_fd(ctl, type, body, CTL_BODY(DONE), again, fd,
	    &a);

	if (status == STATUS_DONE && ctl->opt.json)
		json_show(json_pack("{sb}", "done", 1));
	return status;
}

/* A local file that can't be used. */
static enum status
fail_file(struct shedctl *ctl, const char *what, const char *path)
{
	return client_fail(&ctl->failure, errno == EACCES || errno == EPERM ?
	    CTL_CODE(NOT_PERMITTED) : errno == ENOSPC ? CTL_CODE(NO_SPACE) :
	    CTL_CODE(BAD_REQUEST), "cannot %s %s: %s; name another file",
	    what, path, strerror(errno));
}

/* Devices. */

enum status
run_attach(struct shedctl *ctl)
{
	CTL(Attach) body = CTL_INIT(ATTACH);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	_cleanup_free_ char *path = NULL;
	const struct options *opt = &ctl->opt;
	const CTL(Attached) *d;
	enum status status;

	body.image = ctl->args[0];
	if (opt->name)
		body.name = (char *)opt->name;
	if (opt->consumer)
		body.consumer = (char *)opt->consumer;
	body.present = (CTL(Present))opt->present;
	body.fetch = (CTL(FetchMode))opt->fetch;
	body.integrity = (CTL(Rung))opt->integrity;
	body.deadline_ms = opt->deadline_ms;
	body.fallback = SHEDSTREAM__CONTROL__V1__FETCH_MODE__FETCH_WHOLE;
	status = ask(ctl, CTL_BODY(ATTACH), &body, CTL_BODY(ATTACHED), AGAIN,
	    &a);
	if (status != STATUS_DONE)
		return status;
	d = a.parts[0].frame->attached;
	if (opt->json) {
		json_attached(d);
		return STATUS_DONE;
	}
	path = show_text(d->path, "");
	puts(path);
	return STATUS_DONE;
}

enum status
run_detach(struct shedctl *ctl)
{
	CTL(Detach) body = CTL_INIT(DETACH);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	body.name = ctl->args[0];
	if (ctl->opt.consumer)
		body.consumer = (char *)ctl->opt.consumer;
	status = ask(ctl, CTL_BODY(DETACH), &body, CTL_BODY(DETACHED), AGAIN,
	    &a);
	if (status == STATUS_DONE && ctl->opt.json)
		json_show(json_pack("{so sb}", "name", json_text(body.name),
		    "torn_down", a.parts[0].frame->detached->torn_down));
	return status;
}

enum status
run_ls(struct shedctl *ctl)
{
	CTL(List) body = CTL_INIT(LIST);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask(ctl, CTL_BODY(LIST), &body, CTL_BODY(DEVICES),
	    AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_devices(&a);
	else
		show_devices(&a);
	return STATUS_DONE;
}

/* Every device in detail. */
static enum status
status_all(struct shedctl *ctl)
{
	CTL(List) body = CTL_INIT(LIST);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask(ctl, CTL_BODY(LIST), &body, CTL_BODY(DEVICES),
	    AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_devices(&a);
	else
		show_status(&a);
	return STATUS_DONE;
}

enum status
run_status(struct shedctl *ctl)
{
	CTL(Status) body = CTL_INIT(STATUS);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	if (ctl->n_args == 0)
		return status_all(ctl);
	body.name = ctl->args[0];
	status = ask(ctl, CTL_BODY(STATUS), &body, CTL_BODY(DEVICES), AGAIN,
	    &a);
	if (status != STATUS_DONE)
		return status;
	if (a.parts[0].frame->devices->n_devices == 0)
		return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
		    "no device is called %s; `shedctl ls` lists them",
		    body.name);
	if (ctl->opt.json)
		json_status(a.parts[0].frame->devices->devices[0]);
	else
		show_status(&a);
	return STATUS_DONE;
}

enum status
run_map(struct shedctl *ctl)
{
	CTL(Map) body = CTL_INIT(MAP);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	const CTL(MapReply) *map;
	enum status status;

	body.name = ctl->args[0];
	status = ask(ctl, CTL_BODY(MAP), &body, CTL_BODY(MAP_REPLY), AGAIN,
	    &a);
	if (status != STATUS_DONE)
		return status;
	map = a.parts[0].frame->map_reply;
	if (map->cells.len != MAP_CELLS)
		return client_fail(&ctl->failure, CTL_CODE(VERSION), "the "
		    "service sent a map of %zu cells instead of %d; install "
		    "shedctl and the service in the same version",
		    map->cells.len, MAP_CELLS);
	if (ctl->opt.json)
		json_map(body.name, map);
	else
		show_map(map);
	return STATUS_DONE;
}

/* Images. */

enum status
run_images(struct shedctl *ctl)
{
	CTL(Images) body = CTL_INIT(IMAGES);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask(ctl, CTL_BODY(IMAGES), &body,
	    CTL_BODY(IMAGES_REPLY), AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_images(&a);
	else
		show_images(&a);
	return STATUS_DONE;
}

static enum status
prefetch(struct shedctl *ctl, bool all, bool wait)
{
	CTL(Prefetch) body = CTL_INIT(PREFETCH);
	struct call call = { .type = CTL_BODY(PREFETCH), .body = &body,
		.want = CTL_BODY(DONE), .fd = -1, .again = AGAIN,
		.accepted = !wait };
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	body.image = ctl->args[0];
	body.all = all;
	body.wait = wait;
	status = client_call(&ctl->client, &call, &a);
	progress_end(&ctl->progress, client_now_ms());
	if (status == STATUS_DONE && ctl->opt.json)
		json_show(json_pack("{so so so}",
		    "image", json_text(body.image),
		    "digest", json_text(ctl->progress.digest),
		    "bytes", json_number(ctl->progress.current)));
	return status;
}

enum status
run_pull(struct shedctl *ctl)
{
	return prefetch(ctl, true, true);
}

enum status
run_prefetch(struct shedctl *ctl)
{
	return prefetch(ctl, ctl->opt.all, ctl->opt.wait);
}

static enum status
pin(struct shedctl *ctl, bool on)
{
	CTL(Pin) body = CTL_INIT(PIN);

	body.image = ctl->args[0];
	body.pin = on;
	return ask_done(ctl, CTL_BODY(PIN), &body, AGAIN, -1);
}

enum status
run_pin(struct shedctl *ctl)
{
	return pin(ctl, true);
}

enum status
run_unpin(struct shedctl *ctl)
{
	return pin(ctl, false);
}

enum status
run_rm(struct shedctl *ctl)
{
	CTL(Drop) body = CTL_INIT(DROP);

	body.image = ctl->args[0];
	return ask_done(ctl, CTL_BODY(DROP), &body, ONCE, -1);
}

enum status
run_verify(struct shedctl *ctl)
{
	CTL(Verify) body = CTL_INIT(VERIFY);

	if (ctl->n_args == 1)
		body.image = ctl->args[0];
	body.all = ctl->opt.all;
	return ask_done(ctl, CTL_BODY(VERIFY), &body, ONCE, -1);
}

enum status
run_gc(struct shedctl *ctl)
{
	CTL(Gc) body = CTL_INIT(GC);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	body.dry_run = ctl->opt.dry_run;
	body.max_bytes = ctl->opt.max_bytes;
	body.until_s = ctl->opt.until_s;
	status = ask(ctl, CTL_BODY(GC), &body, CTL_BODY(GC_REPLY), ONCE, &a);
	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_gc(a.parts[0].frame->gc_reply);
	else
		show_gc(a.parts[0].frame->gc_reply, body.dry_run);
	return STATUS_DONE;
}

enum status
run_df(struct shedctl *ctl)
{
	CTL(Df) body = CTL_INIT(DF);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask(ctl, CTL_BODY(DF), &body, CTL_BODY(DF_REPLY),
	    AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_df(a.parts[0].frame->df_reply);
	else
		show_df(a.parts[0].frame->df_reply);
	return STATUS_DONE;
}

/* The digests of a keep file into body, which has room for KEEP_MAX; the
 * caller frees each. */
static enum status
keep_read(struct shedctl *ctl, FILE *f, CTL(Keep) *body)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0, number = 0;
	struct digest digest;

	while (getline(&text, &size, f) >= 0) {
		char *copy;

		number++;
		text[strcspn(text, "\r\n")] = '\0';
		if (text[0] == '\0' || text[0] == '#')
			continue;
		if (digest_parse(text, &digest) < 0)
			return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
			    "%s:%zu is no sha256:HEX; write one digest a line",
			    ctl->args[0], number);
		if (body->n_digests == KEEP_MAX || !(copy = strdup(text)))
			return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
			    "%s names more than %d digests; keep fewer",
			    ctl->args[0], KEEP_MAX);
		body->digests[body->n_digests++] = copy;
	}
	return ferror(f) ? fail_file(ctl, "read", ctl->args[0]) : STATUS_DONE;
}

enum status
run_keep(struct shedctl *ctl)
{
	CTL(Keep) body = CTL_INIT(KEEP);
	_cleanup_fclose_ FILE *f = fopen(ctl->args[0], "re");
	_cleanup_free_ char **list = calloc(KEEP_MAX, sizeof(*list));
	enum status status;

	if (!f || !list)
		return fail_file(ctl, "read", ctl->args[0]);
	body.digests = list;
	body.allow_empty = ctl->opt.allow_empty;
	status = keep_read(ctl, f, &body);
	if (status == STATUS_DONE)
		status = ask_done(ctl, CTL_BODY(KEEP), &body, AGAIN, -1);
	for (size_t i = 0; i < body.n_digests; i++)
		free(list[i]);
	return status;
}

/* Descriptors that ride along. */

enum status
run_import(struct shedctl *ctl)
{
	CTL(Import) body = CTL_INIT(IMPORT);
	_cleanup_close_ int fd = open(ctl->args[1],
	    O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fail_file(ctl, "read", ctl->args[1]);
	if (!S_ISREG(st.st_mode))
		return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
		    "%s is no regular file; name a whole erofs", ctl->args[1]);
	body.image = ctl->args[0];
	return ask_done(ctl, CTL_BODY(IMPORT), &body, ONCE, fd);
}

/* The service fills a new file beside DEST; then it takes DEST's place. */
enum status
run_promote(struct shedctl *ctl)
{
	CTL(Promote) body = CTL_INIT(PROMOTE);
	const char *dest = ctl->args[1];
	_cleanup_free_ char *beside = NULL;
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	_cleanup_close_ int fd = -1;
	enum status status;

	if (asprintf(&beside, "%s.XXXXXX", dest) < 0)
		return fail_file(ctl, "name a file beside", dest);
	fd = mkostemp(beside, O_CLOEXEC);
	if (fd < 0)
		return fail_file(ctl, "make a file beside", dest);
	body.image = ctl->args[0];
	status = ask_fd(ctl, CTL_BODY(PROMOTE), &body, CTL_BODY(DONE), ONCE,
	    fd, &a);
	if (status == STATUS_DONE && (fchmod(fd, 0444) < 0 || fsync(fd) < 0 ||
	    rename(beside, dest) < 0))
		status = fail_file(ctl, "write", dest);
	if (status != STATUS_DONE)
		unlink(beside);
	else if (ctl->opt.json)
		json_show(json_pack("{so}", "path", json_text(dest)));
	return status;
}

enum status
run_login(struct shedctl *ctl)
{
	CTL(SetCredentials) body = CTL_INIT(SET_CREDENTIALS);
	_cleanup_close_ int fd = -1;
	char secret[CREDENTIALS_MAX + 1];
	size_t len;

	if (isatty(STDIN_FILENO)) {
		snprintf(ctl->failure.text, sizeof(ctl->failure.text),
		    "login reads credentials from standard input, and that is "
		    "a terminal; use `shedctl login HOST <FILE`");
		return STATUS_USAGE;
	}
	len = fread(secret, 1, sizeof(secret), stdin);
	if (len == 0 || len > CREDENTIALS_MAX)
		return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
		    "standard input has %s; give it the credentials of %s",
		    len == 0 ? "no credentials" : "more than 64 KiB",
		    ctl->args[0]);
	fd = shm_sealed("credentials", secret, len);
	OPENSSL_cleanse(secret, sizeof(secret));
	if (fd < 0)
		return client_fail(&ctl->failure, CTL_CODE(INTERNAL),
		    "cannot hold the credentials: %s; free some memory",
		    strerror(-fd));
	body.host = ctl->args[0];
	return ask_done(ctl, CTL_BODY(SET_CREDENTIALS), &body, ONCE, fd);
}

/* Copy a received descriptor to -o FILE, or to standard output. */
static enum status
dump(struct shedctl *ctl, const struct answer *a)
{
	const char *path = ctl->opt.output;
	_cleanup_close_ int file = -1;
	_cleanup_free_ char *buf = malloc(COPY_BYTES);
	int out = STDOUT_FILENO;
	off_t at = 0;
	ssize_t n;

	if (a->fd < 0 || !buf)
		return client_fail(&ctl->failure, CTL_CODE(INTERNAL),
		    "the service sent no descriptor; install shedctl and the "
		    "service in the same version");
	if (path) {
		file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
		    0666);
		if (file < 0)
			return fail_file(ctl, "write", path);
		out = file;
	}
	while ((n = pread(a->fd, buf, COPY_BYTES, at)) > 0) {
		for (ssize_t done = 0, w; done < n; done += w) {
			w = write(out, buf + done, (size_t)(n - done));
			if (w < 0)
				return fail_file(ctl, "write",
				    path ? path : "standard output");
		}
		at += n;
	}
	return n < 0 ? fail_file(ctl, "read", "the answer") : STATUS_DONE;
}

enum status
run_profile(struct shedctl *ctl)
{
	CTL(Profile) body = CTL_INIT(PROFILE);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	body.image = ctl->args[0];
	status = ask(ctl, CTL_BODY(PROFILE), &body, CTL_BODY(PROFILE_REPLY),
	    AGAIN, &a);
	return status == STATUS_DONE ? dump(ctl, &a) : status;
}

static enum status
ask_flight(struct shedctl *ctl, struct answer *a)
{
	CTL(Flight) body = CTL_INIT(FLIGHT);

	body.name = ctl->args[0];
	return ask(ctl, CTL_BODY(FLIGHT), &body, CTL_BODY(FLIGHT_REPLY), AGAIN,
	    a);
}

enum status
run_flight(struct shedctl *ctl)
{
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask_flight(ctl, &a);

	return status == STATUS_DONE ? dump(ctl, &a) : status;
}

enum status
run_report(struct shedctl *ctl)
{
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask_flight(ctl, &a);

	if (status != STATUS_DONE)
		return status;
	return client_fail(&ctl->failure, CTL_CODE(UNSUPPORTED), "this "
	    "shedctl draws no report; save the recorder with `shedctl flight "
	    "NAME -o FILE`");
}

enum status
run_record(struct shedctl *ctl)
{
	CTL(Record) body = CTL_INIT(RECORD);

	body.start = strcmp(ctl->args[0], "start") == 0;
	if (!body.start && strcmp(ctl->args[0], "stop") != 0) {
		snprintf(ctl->failure.text, sizeof(ctl->failure.text),
		    "record takes start or stop, not %.100s", ctl->args[0]);
		return STATUS_USAGE;
	}
	body.name = ctl->args[1];
	return ask_done(ctl, CTL_BODY(RECORD), &body, ONCE, -1);
}

/* The service itself. */

enum status
run_health(struct shedctl *ctl)
{
	CTL(Health) body = CTL_INIT(HEALTH);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	_cleanup_free_ char *text = NULL;
	const CTL(HealthReply) *h;
	enum status status = ask(ctl, CTL_BODY(HEALTH), &body,
	    CTL_BODY(HEALTH_REPLY), AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	h = a.parts[0].frame->health_reply;
	text = show_text(h->text, "");
	if (ctl->opt.json)
		json_show(json_pack("{sb so}", "ok", h->ok, "text",
		    json_text(h->text)));
	else if (h->ok)
		puts("ok");
	else
		printf("degraded: %s\n", text);
	return h->ok ? STATUS_DONE : STATUS_FAILED;
}

enum status
run_doctor(struct shedctl *ctl)
{
	CTL(Doctor) body = CTL_INIT(DOCTOR);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	const CTL(DoctorReply) *doctor;
	enum status status = ask(ctl, CTL_BODY(DOCTOR), &body,
	    CTL_BODY(DOCTOR_REPLY), AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	doctor = a.parts[0].frame->doctor_reply;
	if (ctl->opt.json)
		json_doctor(doctor);
	else
		show_doctor(doctor);
	for (size_t i = 0; i < doctor->n_rows; i++)
		if (strcmp(doctor->rows[i]->result, "FAIL") == 0)
			status = STATUS_FAILED;
	return status;
}

enum status
run_metrics(struct shedctl *ctl)
{
	CTL(Metrics) body = CTL_INIT(METRICS);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	if (ctl->opt.listen)
		return client_fail(&ctl->failure, CTL_CODE(UNSUPPORTED),
		    "metrics --listen is not built; run `shedctl metrics` "
		    "for each collection");
	status = ask(ctl, CTL_BODY(METRICS), &body, CTL_BODY(METRICS_REPLY),
	    AGAIN, &a);
	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_metrics(&a);
	else
		show_metrics(&a);
	return STATUS_DONE;
}

enum status
run_version(struct shedctl *ctl)
{
	CTL(Version) body = CTL_INIT(VERSION);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	/* our own is known even when nobody answers */
	if (!ctl->opt.json)
		printf("%-12s%s\n", "shedctl", VERSION);
	status = ask(ctl, CTL_BODY(VERSION), &body, CTL_BODY(VERSION_REPLY),
	    AGAIN, &a);
	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_version(a.parts[0].frame->version_reply);
	else
		show_version(a.parts[0].frame->version_reply);
	return STATUS_DONE;
}

/* Done, and then the end of the connection: what follows in a script finds
 * the service gone. */
enum status
run_shutdown(struct shedctl *ctl)
{
	CTL(Shutdown) body = CTL_INIT(SHUTDOWN);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask(ctl, CTL_BODY(SHUTDOWN), &body, CTL_BODY(DONE),
	    ONCE, &a);

	if (status != STATUS_DONE)
		return status;
	client_wait_end(&ctl->client);
	if (ctl->opt.json)
		json_show(json_pack("{sb}", "done", 1));
	return STATUS_DONE;
}

enum status
run_top(struct shedctl *ctl)
{
	return client_fail(&ctl->failure, CTL_CODE(UNSUPPORTED),
	    "top is not built; use `shedctl ls`, or `watch shedctl ls`");
}

/* Events.  After Subscribe the service sends what it remembers, then Done,
 * then what happens.  Over a new connection what was shown already is skipped
 * by its time. */

static void
on_event(void *arg, const CTL(Event) *event)
{
	struct shedctl *ctl = arg;

	if (ctl->connection != ctl->client.connections) {
		ctl->connection = ctl->client.connections;
		ctl->skip_us = ctl->last_us;
	}
	if (!ctl->live && event->time_us <= ctl->skip_us)
		return;
	if (event->time_us > ctl->last_us)
		ctl->last_us = event->time_us;
	if (ctl->events)
		json_array_append_new(ctl->events, json_event(event));
	else if (ctl->opt.json)
		json_show(json_event(event));
	else
		show_event(event);
}

static enum status
subscribe(struct shedctl *ctl)
{
	CTL(Subscribe) body = CTL_INIT(SUBSCRIBE);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	ctl->live = false;
	status = ask(ctl, CTL_BODY(SUBSCRIBE), &body, CTL_BODY(DONE), AGAIN,
	    &a);
	ctl->live = true;
	return status;
}

enum status
run_events(struct shedctl *ctl)
{
	enum status status;

	if (ctl->opt.json && !ctl->opt.follow)
		ctl->events = json_array();
	ctl->client.on_event = on_event;
	do {
		status = subscribe(ctl);
		while (status == STATUS_DONE && ctl->opt.follow &&
		    client_follow(&ctl->client) == 0)
			continue;
	} while (status == STATUS_DONE && ctl->opt.follow);
	if (ctl->events && status == STATUS_DONE)
		json_show(json_pack("{sO}", "events", ctl->events));
	json_decref(ctl->events);
	ctl->events = NULL;
	return status;
}
