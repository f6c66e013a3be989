// SPDX-License-Identifier: Apache-2.0
/*
 * The commands about devices, images and the service: each builds its request,
 * asks, and shows the answer.  A request that does no harm twice is marked
 * AGAIN: see client.c.  The options and the number of arguments were checked by
 * main.c's table.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/own.h"
#include "shedctl/shedctl.h"

#define COPY_BYTES	(64 * 1024)

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
	body.on_outage = (CTL(OnOutage))opt->on_outage;
	body.outage_delay_s = opt->outage_delay_s;
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

	return ask_show(ctl, CTL_BODY(LIST), &body, CTL_BODY(DEVICES),
	    json_devices, show_devices);
}

/* Every device in detail. */
static enum status
status_all(struct shedctl *ctl)
{
	CTL(List) body = CTL_INIT(LIST);

	return ask_show(ctl, CTL_BODY(LIST), &body, CTL_BODY(DEVICES),
	    json_devices, show_status);
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

	return ask_show(ctl, CTL_BODY(IMAGES), &body, CTL_BODY(IMAGES_REPLY),
	    json_images, show_images);
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
			return ask_fail_file(ctl, "write", path);
		out = file;
	}
	while ((n = pread(a->fd, buf, COPY_BYTES, at)) > 0) {
		for (ssize_t done = 0, w; done < n; done += w) {
			w = write(out, buf + done, (size_t)(n - done));
			if (w < 0)
				return ask_fail_file(ctl, "write",
				    path ? path : "standard output");
		}
		at += n;
	}
	return n < 0 ? ask_fail_file(ctl, "read", "the answer") : STATUS_DONE;
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

	if (ctl->opt.listen)
		return client_fail(&ctl->failure, CTL_CODE(UNSUPPORTED),
		    "metrics --listen is not built; run `shedctl metrics` "
		    "for each collection");
	return ask_show(ctl, CTL_BODY(METRICS), &body, CTL_BODY(METRICS_REPLY),
	    json_metrics, show_metrics);
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
