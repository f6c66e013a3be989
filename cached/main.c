// SPDX-License-Identifier: Apache-2.0
/*
 * cached: owns the store.  It has no network, no device and no path but its
 * directory, and believes nothing but SHA-256.  This file: what it may do, what
 * it may be asked and by whom, and its links.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "policy/policy.h"

static const struct policy policy = {
	.process = "cached",
	.user = "_shedcache",
	.words = "stdio event unix threads pread store shm",
	.files = 16384,		/* four a layout, three a device */
	.file_size = DEVICE_SIZE_MAX + (1 << 20),
};

#define TICK_MS		50

static void link_closed(void *owner, struct ipc_link *link, int why);

/* From devd-io: io_table in device.c. */
static const struct ipc_rule rules[] = {
	{ SUITE_BODY(OPEN), "open", PEER_CONTROL, PHASE_ANY, false, false, on_open },
	{ SUITE_BODY(CANCEL), "cancel", PEER_CONTROL, PHASE_ANY, false, false, on_cancel },
	{ SUITE_BODY(INSPECT), "inspect", PEER_CONTROL, PHASE_ANY, false, false, on_inspect },
	{ SUITE_BODY(LIST_IMAGES), "list_images", PEER_CONTROL, PHASE_ANY, false, false, on_list_images },
	{ SUITE_BODY(MAP_CELLS), "map_cells", PEER_CONTROL, PHASE_ANY, false, false, on_map_cells },
	{ SUITE_BODY(LIST_SOURCES), "list_sources", PEER_CONTROL, PHASE_ANY, false, false, on_list_sources },
	{ SUITE_BODY(PIN), "pin", PEER_CONTROL, PHASE_ANY, false, false, on_pin },
	{ SUITE_BODY(KEEP), "keep", PEER_CONTROL, PHASE_ANY, false, false, on_keep },
	{ SUITE_BODY(GC), "gc", PEER_CONTROL, PHASE_ANY, false, false, on_gc },
	{ SUITE_BODY(DF), "df", PEER_CONTROL, PHASE_ANY, false, false, on_df },
	{ SUITE_BODY(DROP), "drop", PEER_CONTROL, PHASE_ANY, false, false, on_drop },
	{ SUITE_BODY(VERIFY), "verify", PEER_CONTROL, PHASE_ANY, false, false, on_verify },
	{ SUITE_BODY(PROMOTE), "promote", PEER_CONTROL, PHASE_ANY, true, false, on_promote },
	{ SUITE_BODY(IMPORT), "import", PEER_CONTROL, PHASE_ANY, true, false, on_import },
	{ SUITE_BODY(MANIFEST), "manifest", PEER_FETCHERD, PHASE_ANY, false, true, on_manifest },
	{ SUITE_BODY(BLOB_INFO), "blob_info", PEER_FETCHERD, PHASE_ANY, false, false, on_blob_info },
	{ SUITE_BODY(REFERRING), "referring", PEER_FETCHERD, PHASE_ANY, false, false, on_referring },
	{ SUITE_BODY(DATA), "data", PEER_FETCHERD, PHASE_ANY, false, true, on_data },
	{ SUITE_BODY(CREDENTIALS), "credentials", PEER_FETCHERD, PHASE_ANY, false, false, on_credentials },
	{ SUITE_BODY(FETCH_DONE), "fetch_done", PEER_FETCHERD, PHASE_ANY, false, false, on_fetch_done },
};
static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
};

struct event_base *loop;
struct parent_link *parent;
struct ipc_link *control_link, *fetcherd_link;
struct conf *conf;
static int store_fd = -1;

uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t
wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void
notice_send(const char *kind, const struct layout *l, const char *text)
{
	Suite__Notice m = SUITE__NOTICE__INIT;

	if (!control_link)
		return;
	m.kind = (char *)kind;
	if (l) {
		m.layout.data = (uint8_t *)l->key.bytes;
		m.blob_digest.data = (uint8_t *)l->blob.bytes;
		m.layout.len = m.blob_digest.len = DIGEST_LEN;
	}
	m.text = (char *)text;
	ipc_send(control_link, 0, SUITE_BODY(NOTICE), &m, NULL, 0, -1);
}

void
notice(const char *kind, const struct layout *l, const char *fmt, ...)
{
	struct digest_text digest = { "" };
	char text[512];
	va_list args;

	if (l)
		digest = digest_to_text(&l->blob);
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	log_warn("%s %.19s%s%s", kind, digest.text, l ? ": " : "", text);
	notice_send(kind, l, text);
}

static void
control_down(void)
{
	ipc_free(take_ptr(control_link));
	open_forget_all();
}

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	struct parent_msg msg = { .type = CHILD_BROKEN,
		.peer = ipc_peer(link) };

	(void)owner;
	if (why < 0 && why != -ECONNRESET)
		parent_send(parent, &msg, -1);	/* at least a new link */
	if (link == fetcherd_link)
		fetch_link_down();
	else if (link == control_link)
		control_down();
}

/* ---- from the parent ---- */

static void
on_conf(const struct parent_msg *msg, int fd)
{
	_cleanup_close_ int taken = fd;

	(void)msg;
	if (conf_read(taken, &conf) < 0)
		log_die("the configuration can't be read");
}

static void
on_store_lock(const struct parent_msg *msg, int fd)
{
	(void)msg;
	(void)fd;		/* held open until this process ends */
}

static void
enter_policy(int store)
{
	struct policy_path path = { .dirfd = store, .write = true };

	policy_enter(&policy, &path, 1);
}

/* The store is the last thing that this process is given before it may begin:
 * it enters its policy here. */
static void
on_store(const struct parent_msg *msg, int fd)
{
	(void)msg;
	store_fd = fd;
	enter_policy(fd);
	work_start();
	store_open(fd);
	image_load_all();
	hold_load_all();
	file_load_all();
	quarantine_load();
}

static void
on_device(const struct parent_msg *msg, int fd)
{
	device_add(&msg->device, fd);
}

static void
on_go(const struct parent_msg *msg, int fd)
{
	struct parent_msg ready = { .type = CHILD_READY };

	(void)msg;
	(void)fd;
	parent_send(parent, &ready, -1);
	scrub_start();
}

static void
on_peer(const struct parent_msg *msg, int fd)
{
	if (msg->peer == PEER_IO) {
		device_link(&msg->device, fd);
		return;
	}
	if (msg->peer == PEER_FETCHERD) {
		if (fetcherd_link)
			fetch_link_down();
		fetcherd_link = ipc_new(loop, fd, &table, PEER_FETCHERD, NULL);
		if (fetcherd_link)
			fetch_link_up();
		return;
	}
	control_down();
	control_link = ipc_new(loop, fd, &table, PEER_CONTROL, NULL);
}

static void
on_gone(const struct parent_msg *msg, int fd)
{
	(void)fd;
	device_gone(&msg->device);
}

static const struct parent_rule parent_rules[] = {
	{ PARENT_CONF, true, on_conf },
	{ PARENT_STORE_LOCK, true, on_store_lock },
	{ PARENT_STORE, true, on_store },
	{ PARENT_DEVICE, true, on_device },
	{ PARENT_GO, false, on_go },
	{ PARENT_PEER, true, on_peer },
	{ PARENT_GONE, false, on_gone },
};

/* The parent is gone or wants us to end: what was received is made durable. */
static void
finish(void)
{
	atomic_store(&work_stopping, true);
	if (store_fd >= 0) {
		work_drain();
		sync_flush_all();
		map_touch_all();
		file_remember_use();
	}
	_Exit(0);
}

static void
tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	bool more = open_tick();

	more |= device_tick();
	more |= verify_tick();
	more |= copy_tick();
	if (more)
		tick_soon();
}

void
tick_soon(void)
{
	static struct event *ticker;
	struct timeval soon = { 0, TICK_MS * 1000 };

	if (!ticker)
		ticker = evtimer_new(loop, tick, NULL);
	if (!ticker || (!evtimer_pending(ticker, NULL) &&
	    evtimer_add(ticker, &soon) < 0))
		log_die("no memory for a timer");
}

int
main(int argc, char **argv)
{
	log_init("cached");
	if (argc > 1 && strcmp(argv[1], "--messages") == 0) {
		ipc_print_table("cached", &table);
		ipc_print_table("cached", &io_table);
		return 0;
	}
	if (argc == 5 && strcmp(argv[1], "--try") == 0) {
		enter_policy(open(argv[4], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		policy_try(argv[2], argv[3]);
	}
	loop = event_base_new();
	if (!loop)
		log_die("no event base");
	parent = parent_attach(loop, parent_rules, ARRAY_LEN(parent_rules),
	    finish);
	event_base_dispatch(loop);
	return 0;
}
