// SPDX-License-Identifier: Apache-2.0
/*
 * devd-io: presents one device.  No network, no paths; what it reads from it
 * was given by descriptor: the device's map and statistics page, what its shim
 * needs (a listening socket, a mount and its journal, a character device), its
 * links by the parent, its store files by cached.
 *
 *	START --policy, then what the parent hands over--> PARENT_GO --> RUN
 *
 * `devd-io` presents the device by NBD, `devd-io file` as a file, `devd-io
 * ublk` and `devd-io kernel-nbd` as a block device.  It keeps nothing that a
 * successor would miss.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/io.h"
#include "ipc/parent.h"
#include "policy/policy.h"

#define OPENERS_PAUSE_MS 100	/* as users of a draining device may notice */

/* What this process may do, by how it presents the device. */
static const struct policy nbd_policy = {
	.process = "devd-io",
	.user = "_sheddev",
	.words = "stdio event unix accept pread",
	/* store files, clients, and a few of its own */
	.files = MAP_SLOTS + NBD_CONNECTIONS + 32,
	.file_size = 0,
};
static const struct policy file_policy = {
	.process = "devd-io",
	.user = "_sheddev",
	.words = "stdio event unix pread lock",
	.files = MAP_SLOTS + 32,	/* store files, and a few of its own */
	.file_size = 0,
};
static const struct policy ublk_policy = {
	.process = "devd-io",
	.user = "_sheddev",
	.words = "stdio event unix pread uring",
	.files = MAP_SLOTS + 32,
	.file_size = 0,
};

static const struct policy kernel_nbd_policy = {
	.process = "devd-io",
	.user = "_sheddev",
	.words = "stdio event unix pread",
	.files = MAP_SLOTS + 32,
	.file_size = 0,
};

/* How it presents its device, by its argument. */
static const struct kind {
	const char *argument;	/* NULL: none */
	const struct shim *shim;
	const struct policy *policy;
	const char *lacks;	/* where the build has no such shim */
} kinds[] = {
	{ NULL, &nbd_shim, &nbd_policy, "" },
	{ "file", &fuse_shim, &file_policy, "this system has no FUSE" },
	{ "ublk", &ublk_shim, &ublk_policy, "this build has no ublk" },
	{ "kernel-nbd", &kernel_nbd_shim, &kernel_nbd_policy, "" },
};

/* What it may be asked: by cached, rules at the end of io_want.c; by the
 * parent: */
static void on_object(const struct parent_msg *msg, int fd);
static void on_peer(const struct parent_msg *msg, int fd);
static void on_device(const struct parent_msg *msg, int fd);
static void on_stats(const struct parent_msg *msg, int fd);
static void on_go(const struct parent_msg *msg, int fd);
static void on_name(const struct parent_msg *msg, int fd);

static const struct parent_rule rules[] = {
	{ PARENT_LISTEN, true, on_object },
	{ PARENT_FUSE, true, on_object },
	{ PARENT_JOURNAL, true, on_object },
	{ PARENT_UBLK, true, on_object },
	{ PARENT_NBD, true, on_object },
	{ PARENT_PEER, true, on_peer },
	{ PARENT_DEVICE, true, on_device },
	{ PARENT_STATS, true, on_stats },
	{ PARENT_GO, false, on_go },
	{ CHILD_NAME, false, on_name },
};

static struct {
	struct event_base *base;
	struct parent_link *parent;
	const struct shim *shim;
	struct device_spec device;	/* size 0: not given yet */
	bool running;
	struct event *openers_pause;
	unsigned openers;
	bool openers_changed;	/* since they were told */
	/* Names that came before the server was made. */
	char names[NBD_ALIASES][DEVICE_NAME_MAX + 1];
	unsigned n_names;
} io;

/* Whoever opens and closes all the time must not fill the queues of who is
 * slower: one message in a while, which says what is so by then. */
static void
openers_tell(void)
{
	const struct timeval pause = { .tv_usec = OPENERS_PAUSE_MS * 1000 };
	struct parent_msg msg = { .type = CHILD_OPENERS, .peer = PEER_IO,
		.count = io.openers, .device = io.device };

	io.openers_changed = false;
	parent_send(io.parent, &msg, -1);
	if (evtimer_add(io.openers_pause, &pause) < 0)
		log_die("no memory for a timer");
}

static void
openers_pause_over(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	if (io.openers_changed)
		openers_tell();
}

/* Also to the number that was told last: who looked meanwhile waits for it. */
static void
openers_changed(unsigned count)
{
	io.openers = count;
	io.openers_changed = true;
	if (!evtimer_pending(io.openers_pause, NULL))
		openers_tell();
}

/* cached broke the protocol.  What waits goes on with its successor. */
static void
cached_broken(const char *why)
{
	struct parent_msg msg = { .type = CHILD_BROKEN, .peer = PEER_CACHED };

	log_err("device %s: cached broke the protocol: %s", io.device.name,
	    why);
	parent_send(io.parent, &msg, -1);
}

static void
on_object(const struct parent_msg *msg, int fd)
{
	int r = io.shim->take(msg->type, fd);

	if (r < 0)
		log_die("the parent sent an object (%u) that won't do: %s",
		    msg->type, strerror(-r));
}

static void
on_peer(const struct parent_msg *msg, int fd)
{
	if (msg->peer != PEER_CACHED)
		log_die("the parent sent a link to peer %u", msg->peer);
	want_link(fd);
}

static void
on_device(const struct parent_msg *msg, int fd)
{
	int r;

	if (io.device.size != 0 || msg->device.size > DEVICE_SIZE_MAX)
		log_die("the parent sent a device that can't be");
	r = core_device(msg->device.size, msg->device.unit, fd);
	if (r < 0)
		log_die("device %s: its map: %s", msg->device.name,
		    strerror(-r));
	io.device = msg->device;
}

static void
on_stats(const struct parent_msg *msg, int fd)
{
	int r = core_stats(fd);

	(void)msg;
	if (r < 0)
		log_die("device %s: its statistics: %s", io.device.name,
		    strerror(-r));
}

static void
name_add(const char *name)
{
	int r = io.shim->alias ? io.shim->alias(name) : 0;

	if (r < 0)
		log_warn("device %s: not served as %s: %s", io.device.name,
		    name, strerror(-r));
}

static void
on_name(const struct parent_msg *msg, int fd)
{
	(void)fd;
	if (io.running)
		name_add(msg->device.name);
	else if (io.n_names < NBD_ALIASES)
		snprintf(io.names[io.n_names++], sizeof(io.names[0]), "%s",
		    msg->device.name);
}

static void
on_go(const struct parent_msg *msg, int fd)
{
	struct parent_msg ready = { .type = CHILD_READY, .peer = PEER_IO,
		.count = (uint32_t)getpid(), .device = io.device };

	(void)msg;
	(void)fd;
	if (io.running || !io.shim->complete() || !core_complete())
		log_die("the parent said go too early, or again");
	io.shim->start(io.base, io.device.name, openers_changed);
	io.running = true;
	for (unsigned i = 0; i < io.n_names; i++)
		name_add(io.names[i]);
	parent_send(io.parent, &ready, -1);
}

static const struct kind *
kind_of(const char *argument)
{
	for (size_t i = 1; argument && i < ARRAY_LEN(kinds); i++)
		if (strcmp(kinds[i].argument, argument) == 0)
			return &kinds[i];
	return &kinds[0];
}

int
main(int argc, char **argv)
{
	const struct kind *kind = kind_of(argv[1]);

	log_init("devd-io");
	if (argc == 2 && strcmp(argv[1], "--messages") == 0) {
		ipc_print_table("devd-io", &want_table);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("devd-io %s\n", VERSION);
		return 0;
	}
	if (kind->argument) {
		argv++;
		argc--;
	}
	if (argc == 4 && strcmp(argv[1], "--try") == 0) {
		policy_enter(kind->policy, NULL, 0);
		policy_try(argv[2], argv[3]);
	}
	io.shim = kind->shim;
	if (!io.shim->start)
		log_die("%s", kind->lacks);
	signal(SIGPIPE, SIG_IGN);
	io.base = event_base_new();
	if (!io.base)
		log_die("no event base");
	io.openers_pause = evtimer_new(io.base, openers_pause_over, NULL);
	if (!io.openers_pause)
		log_die("no memory at start");
	core_init(io.base, cached_broken);
	io.parent = parent_attach(io.base, rules, ARRAY_LEN(rules), NULL);
	if (io.shim->prepare)
		io.shim->prepare();
	policy_enter(kind->policy, NULL, 0);
	event_base_dispatch(io.base);
	return 1;
}
