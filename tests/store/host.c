// SPDX-License-Identifier: Apache-2.0
/* devd's parent for a real cached: starts it, hands it what it needs in the
 * order of devd/parent.c, sees it end; its store and its log.  See host.h. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/own.h"
#include "base/shm.h"
#include "tests/store/host.h"
#include "tests/store/tree.h"

#define LOG_TAIL	6000	/* bytes shown of a failure */
#define USER		"_shedcache"

void (*host_on_fail)(const char *why);
bool host_quiet;

/* ---- failing, waiting ---- */

char *
host_log(struct host *h)
{
	off_t end = lseek(h->log, 0, SEEK_END);
	off_t from = end > LOG_TAIL ? end - LOG_TAIL : 0;
	char *text = calloc(1, LOG_TAIL + 1);

	if (text)
		fd_pread_all(h->log, text, (size_t)(end - from),
		    (uint64_t)from);
	return text;
}

bool
host_logged(struct host *h, const char *text)
{
	_cleanup_free_ char *all = NULL;
	size_t len;

	if (fd_read_text(h->log, 64 << 20, &all, &len) < 0)
		host_fail(h, "cached's log can't be read");
	return strstr(all, text) != NULL;
}

void
host_fail(struct host *h, const char *fmt, ...)
{
	char why[2048], *tail = host_log(h);
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	if (!host_quiet)
		fprintf(stderr, "---- the end of cached's log\n%s----\n%s\n",
		    tail, why);
	free(tail);	/* host_on_fail() does not return */
	h->failed = true;
	if (h->pid > 0)
		kill(h->pid, SIGKILL);
	if (host_on_fail)
		host_on_fail(why);
	abort();
}

static void
must(struct host *h, bool ok, const char *what)
{
	if (!ok)
		host_fail(h, "%s: %s", what, strerror(errno));
}

static void
too_late(evutil_socket_t fd, short what, void *arg)
{
	bool *late = arg;

	(void)fd;
	(void)what;
	*late = true;
}

void
host_until(struct host *h, bool (*holds)(void *arg), void *arg,
    const char *what)
{
	struct timeval limit = { .tv_sec = HOST_WAIT_S };
	bool late = false;
	struct event *timer = evtimer_new(h->base, too_late, &late);

	must(h, timer && evtimer_add(timer, &limit) == 0, "a timer");
	while (!holds(arg) && !late)
		must(h, event_base_loop(h->base, EVLOOP_ONCE) >= 0, "the loop");
	event_free(timer);
	if (!holds(arg))
		host_fail(h, "waited %d s for %s", HOST_WAIT_S, what);
}

/* ---- the parent ---- */

/* cached has ended: its status. */
static int
reap(struct host *h)
{
	struct host_device *dev;

	h->status = 0;
	if (h->enter)
		h->leave();
	else if (waitpid(h->pid, &h->status, 0) != h->pid)
		host_fail(h, "wait for cached: %s", strerror(errno));
	h->pid = 0;
	h->ready = false;
	parent_link_free(take_ptr(h->parent));
	host_control_unlink(h);
	fetch_unlink(h);
	TAILQ_FOREACH(dev, &h->devices, entry)
		io_unlink(dev);
	return h->status;
}

static const char *
end_text(int status, char out[64])
{
	if (WIFSIGNALED(status))
		snprintf(out, 64, "by signal %d (%s)", WTERMSIG(status),
		    strsignal(WTERMSIG(status)));
	else
		snprintf(out, 64, "with status %d", WEXITSTATUS(status));
	return out;
}

static void
parent_message(void *owner, const struct parent_msg *msg, int fd)
{
	struct host *h = owner;

	fd_close(fd);
	if (msg->type == CHILD_READY)
		h->ready = true;
	if (msg->type != CHILD_BROKEN)
		return;
	h->broken++;
	if (!h->lenient)
		host_fail(h, "cached says that peer %u broke the protocol",
		    msg->peer);
}

static void
parent_closed(void *owner)
{
	struct host *h = owner;
	char text[64];

	if (h->stopping) {
		event_base_loopbreak(h->base);
		return;
	}
	h->stopping = true;
	reap(h);
	host_fail(h, "cached ended by itself, %s", end_text(h->status, text));
}

static const struct parent_ops parent_ops = {
	.message = parent_message,
	.closed = parent_closed,
};

void
host_tell(struct host *h, enum parent_type type, enum ipc_peer peer,
    const struct device_spec *spec, int passfd)
{
	struct parent_msg msg = { .type = type, .peer = peer };

	if (spec)
		msg.device = *spec;
	parent_send(h->parent, &msg, passfd);
}

int
host_link(struct host *h, enum ipc_peer peer, const struct device_spec *spec)
{
	int pair[2];

	must(h, fd_pair(pair) == 0, "a socketpair");
	host_tell(h, PARENT_PEER, peer, spec, pair[1]);
	return pair[0];
}

/* ---- a life ---- */

/* cached takes this user when root starts it, and owns the store then. */
static uid_t
store_owner(struct host *h)
{
	const struct passwd *pw;

	if (geteuid() != 0)
		return (uid_t)-1;
	pw = getpwnam(USER);
	if (!pw)
		host_fail(h, "there is no user " USER "; tests/tools/users.sh "
		    "makes it");
	return pw->pw_uid;
}

static int
store_make(struct host *h)
{
	const char *tmp = getenv("TMPDIR");
	char path[96];
	int fd;

	snprintf(h->dir, sizeof(h->dir), "%.32s/ssstore.XXXXXX", tmp ? tmp :
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	must(h, mkdtemp(h->dir) && chmod(h->dir, 0711) == 0, h->dir);
	snprintf(path, sizeof(path), "%s/store", h->dir);
	must(h, mkdir(path, 0700) == 0, path);
	must(h, chown(path, h->owner, (gid_t)-1) == 0, path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(h, fd >= 0, path);
	return fd;
}

/* What a failed case did not free goes with the program, of this process. */
static LIST_HEAD(, host) living = LIST_HEAD_INITIALIZER(living);

static void
abandon_all(void)
{
	struct host *h;

	LIST_FOREACH(h, &living, living)
		if (h->maker == getpid())
			host_abandon(h);
}

struct host *
host_new(const struct reg *registry, const char *program,
    const char *conf)
{
	struct host *h = calloc(1, sizeof(*h));
	static bool at_exit;

	if (!h || (!at_exit && atexit(abandon_all) != 0))
		abort();
	at_exit = true;
	h->maker = getpid();
	LIST_INSERT_HEAD(&living, h, living);
	h->log = memfd_create("cached's log", MFD_CLOEXEC);
	must(h, h->log >= 0 && fcntl(h->log, F_SETFL, O_APPEND) == 0, "a log");
	h->registry = registry;
	h->program = program ? program : "cached";
	h->conf = strdup(conf ? conf : "");
	h->record = h->fault_fd = -1;
	h->owner = store_owner(h);
	TAILQ_INIT(&h->asks);
	TAILQ_INIT(&h->devices);
	TAILQ_INIT(&h->held);
	h->base = event_base_new();
	must(h, h->base && h->conf, "memory");
	h->store = store_make(h);
	return h;
}

void
host_record(struct host *h, int log_fd)
{
	struct record root = { .magic = RECORD_MAGIC, .type = RECORD_ROOT };
	struct stat st;
	void *p;

	h->record = log_fd;
	must(h, fcntl(log_fd, F_SETFL, O_APPEND) == 0, "the log");
	if (lseek(log_fd, 0, SEEK_END) == 0) {
		must(h, fstat(h->store, &st) == 0, "the store");
		root.dir = st.st_ino;
		must(h, write(log_fd, &root, sizeof(root)) == sizeof(root),
		    "the log");
	}
	h->fault_fd = memfd_create("faults", MFD_CLOEXEC);
	must(h, h->fault_fd >= 0 &&
	    ftruncate(h->fault_fd, sizeof(*h->fault)) == 0, "a memfd");
	p = mmap(NULL, sizeof(*h->fault), PROT_READ | PROT_WRITE, MAP_SHARED,
	    h->fault_fd, 0);
	must(h, p != MAP_FAILED, "a memfd");
	h->fault = p;
}

void
host_mark(struct host *h, uint64_t number, const char *text)
{
	struct record mark = { .magic = RECORD_MAGIC, .type = RECORD_MARK,
		.offset = number, .name_len = (uint32_t)strlen(text) };
	uint8_t buf[sizeof(mark) + 264] = { 0 };

	if (h->record < 0)
		return;
	memcpy(buf, &mark, sizeof(mark));
	snprintf((char *)buf + sizeof(mark), 256, "%s", text);
	must(h, write(h->record, buf, record_size(&mark)) ==
	    (ssize_t)record_size(&mark), "the log");
}

static void
inherit(const char *name, int fd)
{
	char text[16];

	if (fd < 0)
		return;
	snprintf(text, sizeof(text), "%d", fd);
	setenv(name, text, 1);
	fd_cloexec(fd, 0);
}

/* In the child: the program, with its link as descriptor 3. */
static void
become_cached(struct host *h, int link)
{
	static const char *const places[] = { "bin", "tests/store" };
	const char *build = getenv("BUILD");
	char path[512];

	/* Above all that is dup2'ed; what is not named here is closed. */
	link = fcntl(link, F_DUPFD_CLOEXEC, 100);
	if (h->record >= 0)
		h->record = fcntl(h->record, F_DUPFD_CLOEXEC, 100);
	if (h->fault_fd >= 0)
		h->fault_fd = fcntl(h->fault_fd, F_DUPFD_CLOEXEC, 100);
	if (!getenv("HOST_VERBOSE"))
		dup2(h->log, STDERR_FILENO);
	dup2(link, CHILD_FD);
	inherit(RECORD_ENV, h->record);
	inherit(RECORD_FAULT_ENV, h->fault_fd);
	if (strchr(h->program, '/'))
		execl(h->program, "cached", (char *)NULL);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		snprintf(path, sizeof(path), "%s/%s/%s", build ? build :
		    "build", places[i], h->program);
		execl(path, "cached", (char *)NULL);
	}
	perror(h->program);
	_exit(127);
}

static bool
is_ready(void *arg)
{
	return ((struct host *)arg)->ready;
}

/* As setup_cached() and child_setup() of devd/parent.c do. */
static void
hand_over(struct host *h)
{
	struct host_device *dev;
	int conf = shm_sealed("conf", h->conf, strlen(h->conf));
	int lock = openat(h->store, "lock", O_RDWR | O_CREAT | O_CLOEXEC,
	    0600);

	must(h, conf >= 0 && lock >= 0, "the configuration and the lock");
	host_tell(h, PARENT_CONF, 0, NULL, conf);
	host_tell(h, PARENT_STORE_LOCK, 0, NULL, lock);
	host_tell(h, PARENT_STORE, 0, NULL, fd_duplicate(h->store));
	TAILQ_FOREACH(dev, &h->devices, entry)
		host_tell(h, PARENT_DEVICE, 0, &dev->spec,
		    fd_duplicate(dev->map_fd));
	host_tell(h, PARENT_GO, 0, NULL, -1);
	host_control_link(h, host_link(h, PEER_CONTROL, NULL));
	fetch_link(h, host_link(h, PEER_FETCHERD, NULL));
	TAILQ_FOREACH(dev, &h->devices, entry)
		io_give(dev);
}

void
host_start(struct host *h)
{
	int pair[2];

	must(h, h->pid == 0 && fd_pair(pair) == 0, "a socketpair");
	h->stopping = h->ready = false;
	h->starts++;
	h->pid = h->enter ? -1 : fork();
	must(h, h->pid >= 0 || h->enter, "fork");
	if (h->pid == 0)
		become_cached(h, pair[1]);
	if (h->enter)
		h->enter(pair[1]);
	else
		close(pair[1]);
	h->parent = parent_link_new(h->base, pair[0], &parent_ops, h);
	must(h, h->parent != NULL, "a link");
	hand_over(h);
	host_until(h, is_ready, h, "cached to be ready");
}

/* Requests that it did not answer are forgotten. */
void
host_stop(struct host *h)
{
	char text[64];

	if (h->pid == 0)
		return;
	h->stopping = true;
	parent_flush(h->parent);
	parent_link_free(take_ptr(h->parent));
	reap(h);
	host_control_forget(h);
	if (!h->failed &&
	    (!WIFEXITED(h->status) || WEXITSTATUS(h->status) != 0))
		host_fail(h, "cached should end with status 0, it ended %s",
		    end_text(h->status, text));
}

void
host_kill(struct host *h)
{
	if (h->pid <= 0)
		return;
	h->stopping = true;
	kill(h->pid, SIGKILL);
	reap(h);
	host_control_forget(h);
}

static bool
has_ended(void *arg)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)((struct host *)arg)->pid, &info,
	    WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

int
host_wait_end(struct host *h)
{
	h->stopping = true;
	host_until(h, has_ended, h, "cached to end");
	reap(h);
	host_control_forget(h);
	return h->status;
}

void
host_new_fetcherd(struct host *h)
{
	fetch_unlink(h);
	fetch_link(h, host_link(h, PEER_FETCHERD, NULL));
}

void
host_reset(struct host *h)
{
	struct host_device *dev;

	host_stop(h);
	while ((dev = TAILQ_FIRST(&h->devices)))
		io_free(dev);
	tree_clear(h->store);
	h->counts = (struct host_counts){ 0 };
	h->net = (struct host_net){ NET_ON };
	h->n_notices = h->broken = 0;
	if (ftruncate(h->log, 0) < 0)
		host_fail(h, "empty the log: %s", strerror(errno));
}

static void
store_remove(struct host *h)
{
	char path[96];

	tree_clear(h->store);
	snprintf(path, sizeof(path), "%s/store", h->dir);
	rmdir(path);
	rmdir(h->dir);
}

void
host_abandon(struct host *h)
{
	if (h->pid > 0) {
		kill(h->pid, SIGKILL);
		waitpid(h->pid, NULL, 0);
	}
	store_remove(h);
}

void
host_free(struct host *h)
{
	if (!h)
		return;
	host_reset(h);
	LIST_REMOVE(h, living);
	store_remove(h);
	fd_close(h->store);
	fd_close(h->log);
	fd_close(h->fault_fd);
	if (h->fault)
		munmap(h->fault, sizeof(*h->fault));
	event_base_free(h->base);
	free(h->conf);
	free(h);
}
