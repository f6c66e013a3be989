// SPDX-License-Identifier: Apache-2.0
/*
 * The control process: what clients say to the suite.  It has no path, no
 * network and no privilege: its listening socket, its clients, its links to
 * the parent and to cached.  This file: what it may do, what it may be asked
 * and by whom, clients and events.
 */
#define _GNU_SOURCE
#include <sys/socket.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "base/peer.h"
#include "devd/control.h"

static const struct policy policy = {
	.process = "devd control",
	.user = "_shed",
	.words = "stdio event unix accept pread writefd",
	.files = 4096,
};

#define PROTOCOL	1
#define EVENTS_KEPT	256
#define EVENT_TEXT	512

static ipc_handler on_hello, on_subscribe, on_version, on_shutdown,
    on_unknown, on_notice;
static void client_closed(void *owner, struct ipc_link *link, int why);
static void cached_closed(void *owner, struct ipc_link *link, int why);

static const struct ipc_rule client_rules[] = {
	{ CTL_BODY(HELLO), "hello", PEER_CLIENT, PHASE_START, false, false, on_hello },
	{ CTL_BODY(ATTACH), "attach", PEER_CLIENT, PHASE_RUN, false, false, on_attach },
	{ CTL_BODY(DETACH), "detach", PEER_CLIENT, PHASE_RUN, false, false, on_detach },
	{ CTL_BODY(LIST), "list", PEER_CLIENT, PHASE_RUN, false, false, on_list },
	{ CTL_BODY(STATUS), "status", PEER_CLIENT, PHASE_RUN, false, false, on_status },
	{ CTL_BODY(SUBSCRIBE), "subscribe", PEER_CLIENT, PHASE_RUN, false, false, on_subscribe },
	{ CTL_BODY(PREFETCH), "prefetch", PEER_CLIENT, PHASE_RUN, false, false, on_prefetch },
	{ CTL_BODY(PIN), "pin", PEER_CLIENT, PHASE_RUN, false, false, on_pin },
	{ CTL_BODY(GC), "gc", PEER_CLIENT, PHASE_RUN, false, false, on_gc },
	{ CTL_BODY(DF), "df", PEER_CLIENT, PHASE_RUN, false, false, on_df },
	{ CTL_BODY(DROP), "drop", PEER_CLIENT, PHASE_RUN, false, false, on_drop },
	{ CTL_BODY(VERIFY), "verify", PEER_CLIENT, PHASE_RUN, false, false, on_verify },
	{ CTL_BODY(PROMOTE), "promote", PEER_CLIENT, PHASE_RUN, true, false, on_promote },
	{ CTL_BODY(IMPORT), "import", PEER_CLIENT, PHASE_RUN, true, false, on_import },
	{ CTL_BODY(SET_CREDENTIALS), "set_credentials", PEER_CLIENT, PHASE_RUN, true, false, on_set_credentials },
	{ CTL_BODY(SHUTDOWN), "shutdown", PEER_CLIENT, PHASE_RUN, false, false, on_shutdown },
	{ CTL_BODY(RECONCILE), "reconcile", PEER_CLIENT, PHASE_RUN, false, false, on_reconcile },
	{ CTL_BODY(KEEP), "keep", PEER_CLIENT, PHASE_RUN, false, false, on_keep },
	{ CTL_BODY(WATCH), "watch", PEER_CLIENT, PHASE_RUN, false, false, on_watch },
	{ CTL_BODY(CANCEL), "cancel", PEER_CLIENT, PHASE_RUN, false, false, on_cancel },
	{ CTL_BODY(IMAGES), "images", PEER_CLIENT, PHASE_RUN, false, false, on_images },
	{ CTL_BODY(MAP), "map", PEER_CLIENT, PHASE_RUN, false, false, on_map },
	{ CTL_BODY(HEALTH), "health", PEER_CLIENT, PHASE_RUN, false, false, on_health },
	{ CTL_BODY(DOCTOR), "doctor", PEER_CLIENT, PHASE_RUN, false, false, on_doctor },
	{ CTL_BODY(METRICS), "metrics", PEER_CLIENT, PHASE_RUN, false, false, on_metrics },
	{ CTL_BODY(VERSION), "version", PEER_CLIENT, PHASE_RUN, false, false, on_version },
};
static const struct ipc_table client_table = {
	.frame = &shedstream__control__v1__frame__descriptor,
	.rules = client_rules,
	.n_rules = ARRAY_LEN(client_rules),
	.outsiders = true,
	.unknown = on_unknown,
	.closed = client_closed,
};

static const struct ipc_rule cached_rules[] = {
	{ SUITE_BODY(OPENED), "opened", PEER_CACHED, PHASE_ANY, false, false, on_answer },
	{ SUITE_BODY(PROGRESS), "progress", PEER_CACHED, PHASE_ANY, false, false, on_progress },
	{ SUITE_BODY(FAILED), "failed", PEER_CACHED, PHASE_ANY, false, false, on_failed },
	{ SUITE_BODY(LAYOUT), "layout", PEER_CACHED, PHASE_ANY, false, false, on_layout },
	{ SUITE_BODY(IMAGE_ROW), "image_row", PEER_CACHED, PHASE_ANY, false, false, on_image_row },
	{ SUITE_BODY(CELLS), "cells", PEER_CACHED, PHASE_ANY, false, false, on_cells },
	{ SUITE_BODY(SOURCE_ROW), "source_row", PEER_CACHED, PHASE_ANY, false, false, on_source_row },
	{ SUITE_BODY(NOTICE), "notice", PEER_CACHED, PHASE_ANY, false, false, on_notice },
	{ SUITE_BODY(DONE), "done", PEER_CACHED, PHASE_ANY, false, false, on_answer },
	{ SUITE_BODY(GC_ROW), "gc_row", PEER_CACHED, PHASE_ANY, false, false, on_answer },
	{ SUITE_BODY(DF_ROW), "df_row", PEER_CACHED, PHASE_ANY, false, false, on_answer },
	{ SUITE_BODY(VERIFIED), "verified", PEER_CACHED, PHASE_ANY, false, false, on_answer },
};
static const struct ipc_table cached_table = {
	.frame = &suite__frame__descriptor,
	.rules = cached_rules,
	.n_rules = ARRAY_LEN(cached_rules),
	.closed = cached_closed,
};

struct kept_event {
	uint64_t time_us;
	char kind[32], device[DEVICE_NAME_MAX + 1];
	char digest[DIGEST_TEXT + 1], text[EVENT_TEXT];
};

struct event_base *loop;
struct parent_link *parent;
struct ipc_link *cached_link;
struct conf *conf;
char run_dir[SOCKET_PATH_MAX + 1];
char store_path[STORE_PATH_MAX + 1];
char no_kind[PRESENTS][256] = {
	[CTL_PRESENT(FILE)] = "this service can't mount; use --present nbd",
	[CTL_PRESENT(UBLK)] = "this service can't make ublk devices; use "
	    "--present nbd",
	[CTL_PRESENT(KERNEL_NBD)] = "this service can't ask the kernel's NBD; "
	    "use --present nbd",
};
struct process processes[3] = {
	{ PEER_CONTROL, "devd", 0, 0 },
	{ PEER_CACHED, "cached", 0, 0 },
	{ PEER_FETCHERD, "fetcherd", 0, 0 },
};

static TAILQ_HEAD(, client) clients = TAILQ_HEAD_INITIALIZER(clients);
static unsigned n_clients;
static int listener = -1;
static struct kept_event kept[EVENTS_KEPT];
static unsigned n_kept;		/* ever; the last EVENTS_KEPT are there */

/* ---- answers ---- */

void
reply(struct client *c, uint64_t id, unsigned type, const void *body)
{
	if (c)
		ipc_send(c->link, id, type, body, NULL, 0, -1);
}

void
reply_error(struct client *c, uint64_t id,
    Shedstream__Control__V1__Code code, bool retry, const char *fmt, ...)
{
	CTL(Error) m = SHEDSTREAM__CONTROL__V1__ERROR__INIT;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	m.code = code;
	m.retry = retry;
	m.text = text;
	reply(c, id, CTL_BODY(ERROR), &m);
}

/* ---- events ---- */

static void
event_to(struct client *c, struct kept_event *e)
{
	CTL(Event) m = SHEDSTREAM__CONTROL__V1__EVENT__INIT;

	m.time_us = e->time_us;
	m.kind = e->kind;
	m.device = e->device;
	m.digest = e->digest;
	m.text = e->text;
	reply(c, 0, CTL_BODY(EVENT), &m);
}

void
event_send(const char *kind, const char *device, const struct digest *blob,
    const char *text)
{
	struct kept_event *e = &kept[n_kept++ % EVENTS_KEPT];
	struct digest_text digest = { "" };
	struct timespec now;
	struct client *c;

	if (blob)
		digest = digest_to_text(blob);
	clock_gettime(CLOCK_REALTIME, &now);
	e->time_us = (uint64_t)now.tv_sec * 1000000 +
	    (uint64_t)now.tv_nsec / 1000;
	snprintf(e->kind, sizeof(e->kind), "%s", kind);
	snprintf(e->device, sizeof(e->device), "%s", device);
	snprintf(e->digest, sizeof(e->digest), "%s", digest.text);
	snprintf(e->text, sizeof(e->text), "%s", text);
	TAILQ_FOREACH(c, &clients, entry)
		if (c->subscribed)
			event_to(c, e);
}

static void
on_notice(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Notice *m = msg->body;
	struct device *d;
	struct digest layout, blob;
	bool sent = false, known = digest_from_bytes(m->layout.data,
	    m->layout.len, &layout) == 0;
	/* Not of what no layout has been made for. */
	bool named = digest_from_bytes(m->blob_digest.data,
	    m->blob_digest.len, &blob) == 0;

	(void)owner;
	(void)link;
	TAILQ_FOREACH(d, &devices, entry) {
		if (!known || !digest_equal(&d->spec.layout, &layout))
			continue;
		sent = true;
		if (strcmp(m->kind, "device-failed") == 0) {
			d->failed = true;
			snprintf(d->last_error, sizeof(d->last_error), "%s",
			    m->text);
		}
		if (strcmp(m->kind, "complete") == 0)
			d->layout.complete = d->layout.network_free = true;
		event_send(m->kind, d->spec.name, named ? &blob : NULL,
		    m->text);
	}
	if (!sent)
		event_send(m->kind, "", named ? &blob : NULL, m->text);
}

/* ---- requests that need nobody else ---- */

static void
on_hello(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Hello) *m = msg->body;
	CTL(HelloReply) r = SHEDSTREAM__CONTROL__V1__HELLO_REPLY__INIT;
	Shedstream__Control__V1__Present kinds[PRESENTS];
	struct client *c = owner;

	if (m->protocol != PROTOCOL) {
		reply_error(c, msg->id, CTL_CODE(VERSION), false, "this "
		    "service speaks protocol %d, the client %u; use programs "
		    "of one version", PROTOCOL, m->protocol);
		return;
	}
	if (m->owner[0] && !owner_valid(m->owner)) {
		reply_error(c, msg->id, CTL_CODE(BAD_REQUEST), false, "an "
		    "owner is 1 to %d printable characters", OWNER_MAX);
		return;
	}
	if (m->owner[0])
		snprintf(c->owner, sizeof(c->owner), "%s", m->owner);
	c->greeted = true;
	event_del(c->mute);
	ipc_phase(link, PHASE_RUN);
	r.protocol = PROTOCOL;
	r.version = (char *)VERSION;
	r.kinds = kinds;
	for (unsigned i = CTL_PRESENT(NBD); i < PRESENTS; i++)
		if (!no_kind[i][0])
			kinds[r.n_kinds++] = i;
	reply(c, msg->id, CTL_BODY(HELLO_REPLY), &r);
}

static void
on_subscribe(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;
	struct client *c = owner;
	unsigned first = n_kept > EVENTS_KEPT ? n_kept - EVENTS_KEPT : 0;

	(void)link;
	for (unsigned i = first; i < n_kept; i++)
		event_to(c, &kept[i % EVENTS_KEPT]);
	c->subscribed = true;
	reply(c, msg->id, CTL_BODY(DONE), &done);
}

static void
on_version(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(VersionReply) m = SHEDSTREAM__CONTROL__V1__VERSION_REPLY__INIT;
	CTL(VersionReply__Row) rows[ARRAY_LEN(processes)], *list[
	    ARRAY_LEN(processes)];

	(void)link;
	for (size_t i = 0; i < ARRAY_LEN(processes); i++) {
		shedstream__control__v1__version_reply__row__init(&rows[i]);
		rows[i].process = (char *)processes[i].name;
		rows[i].version = (char *)VERSION;
		rows[i].pid = (uint32_t)processes[i].pid;
		rows[i].restarts = processes[i].restarts;
		list[i] = &rows[i];
	}
	m.rows = list;
	m.n_rows = ARRAY_LEN(processes);
	reply(owner, msg->id, CTL_BODY(VERSION_REPLY), &m);
}

static bool
everybody(const struct consumer *c, const void *arg)
{
	(void)c;
	(void)arg;
	return true;
}

/* Detach everything and end. */
static void
on_shutdown(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct parent_msg end = { .type = CHILD_SHUTDOWN };
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;
	struct consumers left;
	int r = devices_part(everybody, NULL, &left);

	if (r < 0) {
		reply_error(owner, msg->id, CTL_CODE(INTERNAL), true, "the "
		    "attachments can't be written: %s; see the log",
		    strerror(-r));
		return;
	}
	consumers_free(&left);
	log_info("shutdown was asked for");
	(void)link;
	reply(owner, msg->id, CTL_BODY(DONE), &done);
	parent_send(parent, &end, -1);
}

static const struct ipc_rule *
client_rule(unsigned type)
{
	for (size_t i = 0; i < ARRAY_LEN(client_rules); i++)
		if (client_rules[i].type == type)
			return &client_rules[i];
	return NULL;
}

static void
on_unknown(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct client *c = owner;
	const struct ipc_rule *rule = client_rule(msg->type);
	const ProtobufCFieldDescriptor *field =
	    protobuf_c_message_descriptor_get_field(client_table.frame,
	    msg->type);

	(void)link;
	if (!c->greeted)
		reply_error(c, msg->id, CTL_CODE(BAD_REQUEST), false,
		    "the first request on a connection is hello");
	else if (msg->type == CTL_BODY(HELLO))
		reply_error(c, msg->id, CTL_CODE(BAD_REQUEST), false,
		    "hello was said already");
	else if (rule)
		reply_error(c, msg->id, CTL_CODE(BAD_REQUEST), false,
		    "the request %s comes %s a descriptor; see control.proto",
		    rule->name, rule->fd ? "with" : "without");
	else
		reply_error(c, msg->id, CTL_CODE(UNSUPPORTED), false, "this "
		    "version does not support the request %s; upgrade the "
		    "service", field ? field->name : "of that number");
}

/* ---- clients ---- */

static void
client_closed(void *owner, struct ipc_link *link, int why)
{
	struct client *c = owner;

	if (why < 0)
		log_info("a client of uid %d broke off: %s", (int)c->uid,
		    strerror(-why));
	ops_client_gone(c);
	queries_client_gone(c);
	logins_client_gone(c);
	TAILQ_REMOVE(&clients, c, entry);
	n_clients--;
	event_free(c->mute);
	ipc_free(link);
	free(c);
}

static void
client_mute(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;

	(void)fd;
	(void)what;
	client_closed(c, c->link, -ETIMEDOUT);
}

static void
client_add(int fd, uid_t uid)
{
	struct timeval hello = { HELLO_MS / 1000, 0 };
	struct client *c = calloc(1, sizeof(*c));

	if (!c) {
		fd_close(fd);
		return;
	}
	c->uid = uid;
	snprintf(c->owner, sizeof(c->owner), "uid:%d", (int)uid);
	c->mute = evtimer_new(loop, client_mute, c);
	if (!c->mute || evtimer_add(c->mute, &hello) < 0)
		log_die("no memory for a timer");
	c->link = ipc_new(loop, fd, &client_table, PEER_CLIENT, c);
	if (!c->link) {
		event_free(c->mute);
		free(c);
		return;
	}
	TAILQ_INSERT_TAIL(&clients, c, entry);
	n_clients++;
}

static void
client_waits(evutil_socket_t fd, short what, void *arg)
{
	_cleanup_close_ int conn = accept(fd, NULL, NULL);
	uid_t uid;

	(void)what;
	(void)arg;
	if (conn < 0)
		return;
	if (n_clients >= CLIENTS_MAX) {
		log_warn("refused a client: %d are connected", CLIENTS_MAX);
		return;
	}
	if (fd_cloexec(conn, 1) == 0 && fd_nonblock(conn) == 0 &&
	    peer_user(conn, &uid) == 0)
		client_add(take_fd(&conn), uid);
}

/* ---- cached ---- */

static void
cached_closed(void *owner, struct ipc_link *link, int why)
{
	struct parent_msg msg = { .type = CHILD_BROKEN, .peer = PEER_CACHED };

	(void)owner;
	if (why < 0 && why != -ECONNRESET)
		parent_send(parent, &msg, -1);
	ipc_free(link);
	cached_link = NULL;
}

/* ---- from the parent ---- */

static void
on_parent_conf(const struct parent_msg *msg, int passed)
{
	_cleanup_close_ int fd = passed;

	(void)msg;
	if (conf_read(fd, &conf) < 0)
		log_die("the configuration can't be read");
}

static void
on_parent_listen(const struct parent_msg *msg, int fd)
{
	listener = fd;
	snprintf(run_dir, sizeof(run_dir), "%.100s", msg->text);
}

static void
on_parent_store(const struct parent_msg *msg, int fd)
{
	(void)fd;
	snprintf(store_path, sizeof(store_path), "%s", msg->text);
}

static void
on_parent_kind(const struct parent_msg *msg, int fd)
{
	(void)fd;
	if (msg->count >= PRESENTS)
		log_die("the parent told of a kind %u", msg->count);
	snprintf(no_kind[msg->count], sizeof(no_kind[0]), "%s", msg->text);
}

static void
on_parent_peer(const struct parent_msg *msg, int fd)
{
	if (msg->peer != PEER_CACHED)
		log_die("the parent gave a link to peer %u", msg->peer);
	ipc_free(cached_link);
	cached_link = ipc_new(loop, fd, &cached_table, PEER_CACHED, NULL);
	if (!cached_link)
		log_die("no memory for the link to cached");
	ops_cached_up();
}

static void
on_parent_child(const struct parent_msg *msg, int fd)
{
	char text[400];

	(void)fd;
	if (msg->peer == PEER_IO) {
		device_worker_started(msg);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(processes); i++) {
		struct process *p = &processes[i];

		if (p->peer != msg->peer)
			continue;
		if (p->pid != 0 && p->restarts != msg->count) {
			snprintf(text, sizeof(text), "%s %s and was started "
			    "again", p->name, msg->text);
			event_send("process-restarted", "", NULL, text);
		}
		p->pid = msg->status;
		p->restarts = msg->count;
	}
}

static void
on_parent_go(const struct parent_msg *msg, int fd)
{
	struct event *e = event_new(loop, listener, EV_READ | EV_PERSIST,
	    client_waits, NULL);
	struct parent_msg ready = { .type = CHILD_READY };

	(void)msg;
	(void)fd;
	devices_start();
	if (!e || event_add(e, NULL) < 0)
		log_die("no memory for the listening socket");
	parent_send(parent, &ready, -1);
}

static const struct parent_rule parent_rules[] = {
	{ PARENT_CONF, true, on_parent_conf },
	{ PARENT_LISTEN, true, on_parent_listen },
	{ PARENT_STORE, false, on_parent_store },
	{ PARENT_KIND, false, on_parent_kind },
	{ PARENT_STATE, true, on_parent_state },
	{ PARENT_PEER, true, on_parent_peer },
	{ PARENT_CHILD, false, on_parent_child },
	{ PARENT_DEVICE, true, on_parent_device },
	{ PARENT_FAILED, false, on_parent_failed },
	{ PARENT_GONE, false, on_parent_gone },
	{ PARENT_OPENERS, false, on_parent_openers },
	{ PARENT_HOLDS, false, on_parent_holds },
	{ PARENT_GO, false, on_parent_go },
};

void
control_print_tables(void)
{
	ipc_print_table("control", &client_table);
	ipc_print_table("control", &cached_table);
}

void
control_try(const char *act, const char *object)
{
	policy_enter(&policy, NULL, 0);
	policy_try(act, object);
}

void
control_run(void)
{
	loop = event_base_new();
	if (!loop)
		log_die("no event base");
	parent = parent_attach(loop, parent_rules, ARRAY_LEN(parent_rules),
	    NULL);
	policy_enter(&policy, NULL, 0);
	event_base_dispatch(loop);
	exit(0);
}
