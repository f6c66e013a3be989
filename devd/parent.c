// SPDX-License-Identifier: Apache-2.0
/*
 * devd's parent: the only privileged code.  It holds descriptors, starts the
 * other programs and restarts one that dies, and wires them:
 *
 *	control ---- cached ---- fetcherd
 *	               |
 *	            devd-io, one per device
 *
 * Each line is a socketpair made here and handed to both ends, again after
 * every restart.  It also keeps what must outlive a child: the listening
 * sockets, the attachments files, each device's map and statistics
 * (parent_device.c), the credentials that clients gave (credentials.c).  It
 * reads nothing but fixed-size structs of its children and what it has written
 * itself, and never opens, stats or reads what the suite presents.
 *
 *	RUNNING --SIGTERM, shutdown--> STOPPING --children ended--> exit
 *	   |  ^                           ^
 *	   |  +---- can't become it -+    | SIGTERM
 *	 SIGHUP, its -n is content   |    |
 *	   +-------------------> RELOADING --children ended--> becomes the build
 *	                                                       that is installed
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/parent.h"

#define STOP_WAIT_S	30	/* cached syncs what it has; then SIGKILL */
#define CHECK_MS	10000	/* of a configuration, by another build */
#define START_RETRY_MS	1000	/* after fork itself failed */
#define STORE_LOCK_WAIT_S 30	/* as long as a dying cached may take */

static struct event_base *base;
static const struct places *places;
static struct conf *conf;
static int conf_fd, control_socket, store_dir, store_lock, state_fd[2];
static char *store_path;	/* from the root, without links */
static gid_t group;
static char **arguments;	/* of main() */
static enum { RUNNING, RELOADING, STOPPING } phase;
static bool announced_ready;
static struct event *late;	/* children that do not end */
static struct apart *candidate;	/* the other build's check, under way */
/* Why no device is presented that way; NULL: can be. */
static const char *kind_file, *kind_ublk, *kind_knbd;

struct child control = { .peer = PEER_CONTROL, .program = "devd",
	.argument = "--control" };
struct child cached = { .peer = PEER_CACHED, .program = "cached" };
static struct child fetcherd = { .peer = PEER_FETCHERD,
	.program = "fetcherd" };
static struct child *const daemons[] = { &cached, &fetcherd, &control };

/* ---- sending ---- */

void
parent_give(struct child *to, enum parent_type type,
    const struct parent_msg *msg, int fd)
{
	struct parent_msg m = *msg;
	int copy = -1;

	if (!to->link)
		return;
	m.type = type;
	if (fd >= 0) {
		copy = fd_duplicate(fd);
		if (copy < 0) {
			log_err("duplicate a descriptor for %s: %s",
			    to->program, strerror(-copy));
			return;
		}
	}
	parent_send(to->link, &m, copy);
}

/* A new link between two children; each gets one end. */
static void
wire(struct child *a, struct child *b, const struct device_spec *spec)
{
	struct parent_msg msg = { .type = PARENT_PEER };
	int pair[2];

	if (!a->link || !b->link)
		return;
	if (spec)
		msg.device = *spec;
	if (fd_pair(pair) < 0) {
		log_err("link %s and %s: %s", a->program, b->program,
		    strerror(errno));
		return;
	}
	msg.peer = b->peer;
	parent_send(a->link, &msg, pair[0]);
	msg.peer = a->peer;
	parent_send(b->link, &msg, pair[1]);
}

static void
tell_control(const struct child *child)
{
	struct parent_msg msg = { .peer = child->peer,
		.status = (int32_t)child->pid, .count = child->restarts };
	const struct device *dev = child->device;

	if (dev)
		msg.device = dev->spec;
	snprintf(msg.text, sizeof(msg.text), "%s", child->why);
	parent_give(&control, PARENT_CHILD, &msg, -1);
}

/* ---- what each child needs to begin ---- */

static void
give_file(struct child *to, enum parent_type type, const char *host,
    const char *path)
{
	struct parent_msg msg = { 0 };
	_cleanup_close_ int fd = -1;

	if (!path)
		return;
	fd = places_open_read(path);
	if (fd < 0) {
		log_err("open %s: %s; fetches that need it will fail", path,
		    strerror(-fd));
		return;
	}
	snprintf(msg.text, sizeof(msg.text), "%s", host);
	parent_give(to, type, &msg, fd);
}

static void
give_credentials(const char *host, int fd, bool fresh)
{
	struct parent_msg msg = { .count = fresh ? AUTH_SET_NOW : AUTH_SET };

	snprintf(msg.text, sizeof(msg.text), "%s", host);
	parent_give(&fetcherd, PARENT_AUTH, &msg, fd);
}

static void
setup_fetcherd(void)
{
	const struct credentials *c;

	give_file(&fetcherd, PARENT_CA, "", conf->ca);
	for (size_t i = 0; i < conf->n_registries; i++) {
		const struct conf_registry *reg = &conf->registries[i];

		give_file(&fetcherd, PARENT_CA, reg->host, reg->ca);
		give_file(&fetcherd, PARENT_CERT, reg->host, reg->client_cert);
		give_file(&fetcherd, PARENT_KEY, reg->host, reg->client_key);
		give_file(&fetcherd, PARENT_AUTH, reg->host, reg->auth_file);
	}
	/* behind these: what was set counts */
	for (size_t i = 0; (c = credentials_at(i)); i++)
		give_credentials(c->host, c->fd, c->fresh);
}

static void
setup_cached(void)
{
	struct parent_msg msg = { 0 };

	parent_give(&cached, PARENT_STORE_LOCK, &msg, store_lock);
	parent_give(&cached, PARENT_STORE, &msg, store_dir);
	parent_device_setup_cached();
}

/* Why none is presented that way, or NULL. */
static void
give_kind(uint32_t present, const char *remedy)
{
	struct parent_msg msg = { .count = present,
		.status = remedy ? -ENOTSUP : 0 };

	snprintf(msg.text, sizeof(msg.text), "%s", remedy ? remedy : "");
	parent_give(&control, PARENT_KIND, &msg, -1);
}

static void
setup_control(void)
{
	struct parent_msg msg = { 0 };

	snprintf(msg.text, sizeof(msg.text), "%s", places->run);
	parent_give(&control, PARENT_LISTEN, &msg, control_socket);
	snprintf(msg.text, sizeof(msg.text), "%s",
	    strlen(store_path) < sizeof(msg.text) ? store_path : "");
	parent_give(&control, PARENT_STORE, &msg, -1);
	give_kind(CTL_PRESENT(FILE), kind_file);
	give_kind(CTL_PRESENT(UBLK), kind_ublk);
	give_kind(CTL_PRESENT(KERNEL_NBD), kind_knbd);
	for (msg.count = 0; msg.count < 2; msg.count++)
		parent_give(&control, PARENT_STATE, &msg, state_fd[msg.count]);
	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		tell_control(daemons[i]);
	parent_device_setup_control();
}

/* Links to the children that live already. */
static void
wire_child(struct child *child)
{
	struct device *dev = child->device;

	if (dev) {
		wire(&cached, child, &dev->spec);
		return;
	}
	if (child != &fetcherd)
		wire(&control, &cached, NULL);
	if (child == &control)
		return;
	wire(&cached, &fetcherd, NULL);
	if (child == &cached)
		TAILQ_FOREACH(dev, &parent_devices, entry)
			wire(&cached, &dev->worker, &dev->spec);
}

static void
child_setup(struct child *child)
{
	struct parent_msg msg = { 0 };

	if (!child->device)
		parent_give(child, PARENT_CONF, &msg, conf_fd);
	if (child == &fetcherd)
		setup_fetcherd();
	else if (child == &cached)
		setup_cached();
	else if (child == &control)
		setup_control();
	else
		parent_device_setup_worker(child->device);
	if (child == &cached) {
		parent_give(child, PARENT_GO, &msg, -1);
		wire_child(child);
		return;
	}
	wire_child(child);
	parent_give(child, PARENT_GO, &msg, -1);
}

/* ---- requests ---- */

/* Credentials: held, and given to fetcherd, which may be starting. */
static void
on_hold(const struct parent_msg *req, int fd)
{
	struct parent_msg msg = { .count = req->count };
	const struct conf_registry *reg = conf_registry(conf, req->text);

	msg.status = credentials_set(req->text, fd, !fetcherd.ready);
	if (msg.status >= 0)
		give_credentials(req->text, fd, true);
	if (msg.status == 0 && reg)	/* taken away: the file's count again */
		give_file(&fetcherd, PARENT_AUTH, reg->host, reg->auth_file);
	if (msg.status > 0)
		msg.status = 0;
	parent_give(&control, PARENT_HOLDS, &msg, -1);
}

static void
on_broken(struct child *from, const struct parent_msg *req)
{
	struct child *bad = NULL;
	struct device *dev;

	/* Only who has a link to it: cached is one end of each. */
	if ((from == &cached) == (req->peer == PEER_CACHED)) {
		log_err("%s accuses peer %u, which it has no link to",
		    from->program, req->peer);
		kill(from->pid, SIGKILL);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		if (daemons[i]->peer == req->peer)
			bad = daemons[i];
	if (req->peer == PEER_IO) {
		dev = parent_device_find(req->device.id);
		bad = dev ? &dev->worker : NULL;
	}
	if (!bad || bad->pid <= 0)
		return;
	log_err("%s says that %s broke the protocol: ending it",
	    from->program, bad->program);
	kill(bad->pid, SIGKILL);
}

/* ---- a child's life ---- */

static bool
children_left(void)
{
	struct device *dev;

	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		if (daemons[i]->pid > 0)
			return true;
	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (dev->worker.pid > 0)
			return true;
	return false;
}

static void
end_late(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	log_err("some processes did not end in %d s: killing them",
	    STOP_WAIT_S);
	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		if (daemons[i]->pid > 0)
			kill(daemons[i]->pid, SIGKILL);
}

/* A child ends when its link does; cached first syncs what it has. */
static void
end_children(void)
{
	const struct timeval wait = { STOP_WAIT_S, 0 };
	struct device *dev;

	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		parent_link_free(take_ptr(daemons[i]->link));
	TAILQ_FOREACH(dev, &parent_devices, entry)
		parent_link_free(take_ptr(dev->worker.link));
	if (event_add(late, &wait) < 0)
		log_die("no memory for a timer");
	if (!children_left())
		event_base_loopbreak(base);
}

static void
stop(bool shutdown)
{
	if (phase == STOPPING)
		return;
	phase = STOPPING;
	log_info("stopping");
	handover_tell("STOPPING=1");
	parent_device_stop(shutdown);
	end_children();
}

static void
on_ready(struct child *child)
{
	bool all = true;

	child->ready = true;
	tell_control(child);
	if (child == &fetcherd)
		credentials_known();
	if (child->device)
		parent_device_worker_ready(child->device);
	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		all = all && daemons[i]->ready;
	if (all && !announced_ready) {
		announced_ready = true;
		log_info("ready");
		handover_tell("READY=1");
	}
}

static void
child_message(void *owner, const struct parent_msg *msg, int passed)
{
	struct child *child = owner;
	_cleanup_close_ int fd = passed;	/* of CHILD_HOLD */

	if (msg->type == CHILD_READY)
		on_ready(child);
	else if (msg->type == CHILD_BROKEN)
		on_broken(child, msg);
	else if (msg->type == CHILD_OPENERS && child->device)
		parent_device_worker_openers(child->device, msg->count);
	else if (child == &control && msg->type == CHILD_CREATE)
		parent_device_create(msg);
	else if (child == &control && msg->type == CHILD_DESTROY)
		parent_device_destroy(msg);
	else if (child == &control && msg->type == CHILD_NAME)
		parent_device_name(msg);
	else if (child == &control && msg->type == CHILD_HOLD)
		on_hold(msg, fd);
	else if (child == &control && msg->type == CHILD_SHUTDOWN)
		stop(true);
	else {
		log_err("%s sent message %u, which it may not: ending it",
		    child->program, msg->type);
		kill(child->pid, SIGKILL);
	}
}

/* Its link ended before it did: make sure that it ends. */
static void
child_closed(void *owner)
{
	struct child *child = owner;

	if (child->pid > 0)
		kill(child->pid, SIGKILL);
}

static const struct parent_ops child_ops = {
	.message = child_message,
	.closed = child_closed,
};

static void restart_due(evutil_socket_t fd, short what, void *arg);

void
parent_start_child_later(struct child *child, uint32_t wait_ms)
{
	struct timeval wait = { wait_ms / 1000, wait_ms % 1000 * 1000 };

	if (!child->again)
		child->again = evtimer_new(base, restart_due, child);
	if (!child->again || evtimer_add(child->again, &wait) < 0)
		log_die("no memory for a timer");
}

void
parent_start_child(struct child *child)
{
	int r = spawn_child(child, base, &child_ops);

	if (r < 0) {
		log_err("start %s: %s", child->program, strerror(-r));
		parent_start_child_later(child, START_RETRY_MS);
		return;
	}
	child_setup(child);
}

static void
restart_due(evutil_socket_t fd, short what, void *arg)
{
	struct child *child = arg;

	(void)fd;
	(void)what;
	if (phase == RUNNING)
		parent_start_child(child);
}

static struct child *
child_of_pid(pid_t pid)
{
	struct device *dev;

	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		if (daemons[i]->pid == pid)
			return daemons[i];
	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (dev->worker.pid == pid)
			return &dev->worker;
	return NULL;
}

static void
child_ended(struct child *child, int status)
{
	struct device *dev = child->device;
	uint32_t wait_ms = spawn_ended(child, status);

	if (phase != RUNNING)
		return;
	if (!dev || !dev->ending)
		log_warn("%s%s%s %s; starting it again in %u ms",
		    child->program, dev ? " of device " : "",
		    dev ? dev->spec.name : "", child->why, wait_ms);
	if (dev) {
		dev->spec.restarts = child->restarts;
		if (parent_device_worker_ended(dev, wait_ms))
			return;
	}
	if (wait_ms == 0)
		parent_start_child(child);
	else
		parent_start_child_later(child, wait_ms);
}

static void
child_signalled(evutil_socket_t sig, short what, void *arg)
{
	struct child *child;
	int status;
	pid_t pid;

	(void)sig;
	(void)what;
	(void)arg;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		child = child_of_pid(pid);
		if (child)
			child_ended(child, status);
	}
	if (phase != RUNNING && !children_left())
		event_base_loopbreak(base);
}

static void
stop_signalled(evutil_socket_t sig, short what, void *arg)
{
	(void)sig;
	(void)what;
	(void)arg;
	stop(false);
}

/* ---- reload ---- */

/* In a process apart: its exit status, or -errno.  What it has to say goes to
 * the log. */
static int
candidate_check(const void *arg)
{
	const char *journal = parent_device_journal();
	char *argv[8] = { (char *)"devd", (char *)"-n" };
	int n = 2, status;
	pid_t pid;

	if (places->conf_named) {
		argv[n++] = (char *)"-c";
		argv[n++] = (char *)places->conf;
	}
	if (journal) {
		argv[n++] = (char *)"--takes";
		argv[n++] = (char *)journal;
	}
	pid = fork();
	if (pid == 0) {
		if (!freopen("/dev/null", "w", stdout))
			_exit(127);
		execv(arg, argv);
		log_err("exec %s: %s", (const char *)arg, strerror(errno));
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void
candidate_checked(void *owner, int result)
{
	char why[32];

	(void)owner;
	candidate = NULL;
	if (phase != RUNNING)
		return;
	if (result != 0) {
		snprintf(why, sizeof(why), "status %d", result);
		log_err("not reloaded: %s -n found an error, see above (%s); "
		    "all goes on as it was", spawn_self(), result < 0 ?
		    strerror(-result) : why);
		return;
	}
	log_info("reloading");
	phase = RELOADING;
	parent_device_pause();
	end_children();
}

static void
reload_signalled(evutil_socket_t sig, short what, void *arg)
{
	(void)sig;
	(void)what;
	(void)arg;
	if (phase != RUNNING || candidate)
		return;
	candidate = apart_start(base, candidate_check, spawn_self(), -1,
	    CHECK_MS, candidate_checked, NULL);
	if (!candidate)
		log_err("not reloaded: the check of the new configuration "
		    "can't be started");
}

/* All children have ended.  Returns if it can't be done. */
static void
reload(void)
{
	int r = handover_exec(spawn_self(), arguments);

	log_err("not reloaded: become %s: %s", spawn_self(), strerror(-r));
	phase = RUNNING;
}

/* ---- start and end ---- */

static int
open_state(int i)
{
	char path[SOCKET_PATH_MAX + 32];
	int fd;

	snprintf(path, sizeof(path), "%s/attachments.%d", places->run, i);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		log_die("open %s: %s", path, strerror(errno));
	return fd;
}

static void
hold(void)
{
	char path[SOCKET_PATH_MAX + 32];
	struct group *gr = NULL;

	if (conf->group) {
		gr = getgrnam(conf->group);
		if (!gr)
			log_die("[devices] group = %s: there is no such group; "
			    "make it, or remove the key", conf->group);
		group = gr->gr_gid;
	}
	places_make_run(places, group);
	places_lock(places->run, "lock", 0, "run directory");
	places_make_store(places);
	places_lock(places->store, "lock", 0, "store");
	/* A cached whose parent was killed may still be syncing. */
	store_lock = places_lock(places->store, "lock.cached",
	    STORE_LOCK_WAIT_S, "store");
	store_dir = open(places->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store_dir < 0)
		log_die("open the store %s: %s", places->store,
		    strerror(errno));
	store_path = realpath(places->store, NULL);
	if (!store_path)
		log_die("where is the store %s? %s", places->store,
		    strerror(errno));
	state_fd[0] = open_state(0);
	state_fd[1] = open_state(1);
	snprintf(path, sizeof(path), "%s/control.sock", places->run);
	control_socket = places_listen(path, gr != NULL, group);
	if (control_socket < 0)
		log_die("listen on %s: %s", path, strerror(-control_socket));
}

static void
on_signal(int sig, event_callback_fn callback)
{
	struct event *e = evsignal_new(base, sig, callback, NULL);

	if (!e || event_add(e, NULL) < 0)
		log_die("no memory for signal handlers");
}

/* How long devices live is not the same for all: say so once. */
static void
say_what_ends(void)
{
	if (mount_possible(&kind_file) == 0)
		kind_file = NULL;
	if (ublk_possible(conf->ublk_force, &kind_ublk) == 0)
		kind_ublk = NULL;
	if (knbd_possible(&kind_knbd) == 0)
		kind_knbd = NULL;
	if (!kind_file && !handover_lasts())
		log_info("devices that are presented as a file end with this "
		    "service, also when it is restarted: reload it, or run it "
		    "by a service manager that keeps descriptors (see "
		    "devd(8)), or stop the VMs that use one before");
	else if (kind_file && places->root)
		log_warn("no device can be presented as a file: %s", kind_file);
}

/* Six descriptors a device: as many as the administrator allows. */
static void
raise_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("raise the limit of descriptors: %s",
		    strerror(errno));
}

static void
start_children(void)
{
	for (size_t i = 0; i < ARRAY_LEN(daemons); i++)
		parent_start_child(daemons[i]);
	parent_device_go();
}

static void
prepare(void)
{
	raise_limit();
	spawn_init();
	hold();
	base = event_base_new();
	late = base ? evtimer_new(base, end_late, NULL) : NULL;
	if (!late)
		log_die("no memory for an event loop");
	parent_device_init(base, places, conf, group);
	credentials_restore();
	handover_rest();
	say_what_ends();
	policy_parent();
	on_signal(SIGCHLD, child_signalled);
	on_signal(SIGTERM, stop_signalled);
	on_signal(SIGINT, stop_signalled);
	on_signal(SIGHUP, reload_signalled);
	signal(SIGPIPE, SIG_IGN);
}

int
parent_run(const struct places *p, struct conf *c, int conf_memfd,
    char **argv)
{
	places = p;
	conf = c;
	conf_fd = conf_memfd;
	arguments = argv;
	prepare();
	while (phase == RUNNING) {
		start_children();
		event_base_dispatch(base);
		event_del(late);
		if (phase == RELOADING)
			reload();
	}
	log_info("stopped");
	return 0;
}

int
parent_remove_devices(const struct places *p)
{
	places = p;
	places_make_run(places, 0);
	places_lock(places->run, "lock", 0, "run directory");
	parent_device_sweep(places->run);
	for (int i = 0; i < 2; i++)
		if (ftruncate(open_state(i), 0) < 0)
			log_die("clear the attachments: %s", strerror(errno));
	places_empty(places, "nbd");
	places_empty(places, RECORDS);
	return 0;
}
