// SPDX-License-Identifier: Apache-2.0
/* devd for a real cached: its parent, which starts it and hands it what it
 * needs in the order of devd/parent.c, and control.  See host.h. */
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
#include "tests/store/replay.h"

#define LOG_TAIL	6000	/* bytes shown of a failure */
#define USER		"_shedcache"

struct host_ask {
	TAILQ_ENTRY(host_ask) entry;
	uint64_t id;
	bool done;
	struct host_answer answer;
	struct host_layout layout;
};

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
	ipc_free(take_ptr(h->control));
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

/* ---- control: answers ---- */

static struct host_ask *
ask_find(struct host *h, uint64_t id)
{
	struct host_ask *ask;

	TAILQ_FOREACH(ask, &h->asks, entry)
		if (ask->id == id)
			return ask;
	return NULL;
}

static void
copy_digest(struct digest *to, ProtobufCBinaryData from)
{
	if (digest_from_bytes(from.data, from.len, to) < 0)
		memset(to, 0, sizeof(*to));
}

/* The answer that this message belongs to; a request that was cancelled has
 * one that nobody looks at. */
static struct host_answer *
answer_of(struct host *h, const struct ipc_message *msg, bool last)
{
	static struct host_answer nobodys;
	struct host_ask *ask = ask_find(h, msg->id);

	if (!ask)
		return &nobodys;
	if (ask->done)
		host_fail(h, "a second end of request %llu",
		    (unsigned long long)msg->id);
	ask->done = last;
	ask->answer.type = msg->type;
	return &ask->answer;
}

static struct host_row *
row_of(struct host_answer *a)
{
	return &a->rows[a->n_rows < HOST_ROWS ? a->n_rows++ : HOST_ROWS - 1];
}

static void
on_opened(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Opened *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, true);

	(void)link;
	copy_digest(&a->manifest, m->image_digest);
	copy_digest(&a->blob, m->blob_digest);
	copy_digest(&a->layout, m->layout);
	a->size = m->size;
	a->unit = m->unit;
	a->rung = m->rung;
	a->complete = m->complete;
	a->network_free = m->network_free;
	a->self_contained = m->self_contained;
	snprintf(a->image, sizeof(a->image), "%s", m->image);
	snprintf(a->data, sizeof(a->data), "%s", m->data);
}

static void
on_progress(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Progress *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, false);

	(void)link;
	if (m->current < a->current || m->current > m->total)
		host_fail(owner, "progress %llu of %llu after %llu",
		    (unsigned long long)m->current,
		    (unsigned long long)m->total,
		    (unsigned long long)a->current);
	a->n_progress++;
	a->current = m->current;
	a->total = m->total;
}

static void
on_failed(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Failed *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, true);

	(void)link;
	a->code = m->code;
	a->retry = m->retry;
	snprintf(a->text, sizeof(a->text), "%s", m->text);
}

static void
on_done(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)link;
	answer_of(owner, msg, true);
}

static void
on_verified(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Verified *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, true);

	(void)link;
	a->checked = m->checked;
	a->damaged = m->damaged;
	a->repaired = m->repaired;
}

static void
on_image_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__ImageRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last)
		return;
	row = row_of(a);
	snprintf(row->image, sizeof(row->image), "%s", m->image);
	copy_digest(&row->image_digest, m->image_digest);
	copy_digest(&row->blob, m->blob_digest);
	row->size = m->size;
	row->present = m->bytes_present;
	row->complete = m->complete;
	row->network_free = m->network_free;
}

static void
on_gc_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__GcRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last)
		return;
	row = row_of(a);
	copy_digest(&row->blob, m->blob_digest);
	snprintf(row->why, sizeof(row->why), "%s", m->why);
	row->freed = m->freed;
}

static void
on_df_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__DfRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last) {
		a->total = m->total;
		return;
	}
	row = row_of(a);
	snprintf(row->image, sizeof(row->image), "%s", m->image);
	copy_digest(&row->blob, m->blob_digest);
	row->size = m->size;
	row->on_disk = m->on_disk;
	row->exclusive = m->exclusive;
	row->shared = m->shared;
	row->pinned = m->pinned;
}

static void
on_layout(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Layout *m = msg->body;
	struct host_ask *ask = ask_find(owner, msg->id);
	struct host_layout l = { .size = m->size, .chunks = m->chunks,
		.chunks_present = m->chunks_present,
		.bytes_present = m->bytes_present,
		.bytes_fetched = m->bytes_fetched,
		.requests_sent = m->requests_sent,
		.requests_failed = m->requests_failed,
		.stalled_reads = m->stalled_reads,
		.stalled_since = m->stalled_since, .reads_eio = m->reads_eio,
		.chunks_shared = m->chunks_shared, .damaged = m->damaged,
		.complete = m->complete, .network_free = m->network_free,
		.failed = m->failed, .completing = m->completing,
		.self_contained = m->self_contained, .unproven = m->unproven };

	(void)link;
	answer_of(owner, msg, true);
	snprintf(l.last_error, sizeof(l.last_error), "%s", m->last_error);
	snprintf(l.denied_by, sizeof(l.denied_by), "%s", m->denied_by);
	if (ask)
		ask->layout = l;
}

static void
on_cells(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)link;
	answer_of(owner, msg, true);
}

static void
on_notice(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	const Suite__Notice *m = msg->body;
	struct host_notice *n = &h->notices[h->n_notices++ % HOST_NOTICES];

	(void)link;
	snprintf(n->kind, sizeof(n->kind), "%s", m->kind);
	snprintf(n->text, sizeof(n->text), "%s", m->text);
	copy_digest(&n->layout, m->layout);
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(OPENED), "opened", PEER_CACHED, PHASE_ANY, false, false, on_opened },
	{ SUITE_BODY(PROGRESS), "progress", PEER_CACHED, PHASE_ANY, false, false, on_progress },
	{ SUITE_BODY(FAILED), "failed", PEER_CACHED, PHASE_ANY, false, false, on_failed },
	{ SUITE_BODY(DONE), "done", PEER_CACHED, PHASE_ANY, false, false, on_done },
	{ SUITE_BODY(VERIFIED), "verified", PEER_CACHED, PHASE_ANY, false, false, on_verified },
	{ SUITE_BODY(LAYOUT), "layout", PEER_CACHED, PHASE_ANY, false, false, on_layout },
	{ SUITE_BODY(IMAGE_ROW), "image_row", PEER_CACHED, PHASE_ANY, false, false, on_image_row },
	{ SUITE_BODY(GC_ROW), "gc_row", PEER_CACHED, PHASE_ANY, false, false, on_gc_row },
	{ SUITE_BODY(DF_ROW), "df_row", PEER_CACHED, PHASE_ANY, false, false, on_df_row },
	{ SUITE_BODY(CELLS), "cells", PEER_CACHED, PHASE_ANY, false, false, on_cells },
	{ SUITE_BODY(NOTICE), "notice", PEER_CACHED, PHASE_ANY, false, false, on_notice },
};

static void
control_closed(void *owner, struct ipc_link *link, int why)
{
	struct host *h = owner;

	ipc_free(link);
	h->control = NULL;
	if (!h->stopping && why == -EPROTO)
		host_fail(h, "cached broke the protocol with control");
}

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = control_closed,
};

/* ---- control: requests ---- */

uint64_t
host_send(struct host *h, unsigned type, const void *body, int passfd)
{
	struct host_ask *ask = calloc(1, sizeof(*ask));

	must(h, ask && h->control, "a request needs a cached");
	ask->id = ++h->last_id;
	TAILQ_INSERT_TAIL(&h->asks, ask, entry);
	ipc_send(h->control, ask->id, type, body, NULL, 0,
	    passfd < 0 ? -1 : fd_duplicate(passfd));
	return ask->id;
}

bool
host_answered(struct host *h, uint64_t id)
{
	return ask_find(h, id)->done;
}

static bool
ask_done(void *arg)
{
	return ((struct host_ask *)arg)->done;
}

static struct host_ask
ask_end(struct host *h, uint64_t id)
{
	struct host_ask *ask = ask_find(h, id), copy;
	char what[64];

	snprintf(what, sizeof(what), "the answer to request %llu",
	    (unsigned long long)id);
	host_until(h, ask_done, ask, what);
	copy = *ask;
	TAILQ_REMOVE(&h->asks, ask, entry);
	free(ask);
	return copy;
}

struct host_answer
host_wait(struct host *h, uint64_t id)
{
	return ask_end(h, id).answer;
}

struct host_answer
host_ask(struct host *h, unsigned type, const void *body, int passfd)
{
	return host_wait(h, host_send(h, type, body, passfd));
}

void
host_cancel(struct host *h, uint64_t id)
{
	Suite__Cancel m = SUITE__CANCEL__INIT;
	struct host_ask *ask = ask_find(h, id);

	ipc_send(h->control, id, SUITE_BODY(CANCEL), &m, NULL, 0, -1);
	TAILQ_REMOVE(&h->asks, ask, entry);
	free(ask);
}

static struct host_answer
succeed(struct host *h, const char *what, unsigned type, const void *body,
    int fd, unsigned want)
{
	struct host_answer a = host_ask(h, type, body, fd);

	if (a.type != want)
		host_fail(h, "%s: code %d, %s", what, (int)a.code, a.text);
	return a;
}

static Suite__Open
open_message(const char *image, uint32_t rung, bool whole)
{
	Suite__Open m = SUITE__OPEN__INIT;

	m.image = (char *)image;
	m.rung = (Shedstream__Control__V1__Rung)rung;
	m.whole = whole;
	m.device = !whole;
	return m;
}

uint64_t
host_open_begin(struct host *h, const char *image, uint32_t rung, bool whole)
{
	Suite__Open m = open_message(image, rung, whole);

	return host_send(h, SUITE_BODY(OPEN), &m, -1);
}

struct host_answer
host_open(struct host *h, const char *image, uint32_t rung, bool whole)
{
	Suite__Open m = open_message(image, rung, whole);

	return succeed(h, image, SUITE_BODY(OPEN), &m, -1, SUITE_BODY(OPENED));
}

struct host_answer
host_verify(struct host *h, const char *image)
{
	Suite__Verify m = SUITE__VERIFY__INIT;

	m.image = (char *)image;
	return succeed(h, "verify", SUITE_BODY(VERIFY), &m, -1,
	    SUITE_BODY(VERIFIED));
}

struct host_answer
host_gc(struct host *h, uint64_t max_bytes)
{
	Suite__Gc m = SUITE__GC__INIT;

	m.max_bytes = max_bytes;
	return succeed(h, "gc", SUITE_BODY(GC), &m, -1, SUITE_BODY(GC_ROW));
}

struct host_answer
host_df(struct host *h)
{
	Suite__Df m = SUITE__DF__INIT;

	return succeed(h, "df", SUITE_BODY(DF), &m, -1, SUITE_BODY(DF_ROW));
}

struct host_answer
host_images(struct host *h)
{
	Suite__ListImages m = SUITE__LIST_IMAGES__INIT;

	return succeed(h, "list", SUITE_BODY(LIST_IMAGES), &m, -1,
	    SUITE_BODY(IMAGE_ROW));
}

void
host_pin(struct host *h, const char *image, bool pin)
{
	Suite__Pin m = SUITE__PIN__INIT;

	m.image = (char *)image;
	m.pin = pin;
	succeed(h, "pin", SUITE_BODY(PIN), &m, -1, SUITE_BODY(DONE));
}

void
host_keep(struct host *h, const char *owner,
    const struct reg_image *const *images)
{
	ProtobufCBinaryData digests[HOST_ROWS];
	Suite__Keep m = SUITE__KEEP__INIT;

	m.owner = (char *)owner;
	m.digests = digests;
	for (; *images; images++)
		digests[m.n_digests++] = (ProtobufCBinaryData){ DIGEST_LEN,
			(uint8_t *)(*images)->manifest.bytes };
	succeed(h, "keep", SUITE_BODY(KEEP), &m, -1, SUITE_BODY(DONE));
}

void
host_promote(struct host *h, const char *image, int fd)
{
	Suite__Promote m = SUITE__PROMOTE__INIT;

	m.image = (char *)image;
	succeed(h, "promote", SUITE_BODY(PROMOTE), &m, fd, SUITE_BODY(DONE));
}

void
host_import(struct host *h, const char *image, int fd)
{
	Suite__Import m = SUITE__IMPORT__INIT;

	m.image = (char *)image;
	succeed(h, "import", SUITE_BODY(IMPORT), &m, fd, SUITE_BODY(DONE));
}

void
host_drop(struct host *h, const char *image)
{
	Suite__Drop m = SUITE__DROP__INIT;

	m.image = (char *)image;
	succeed(h, "drop", SUITE_BODY(DROP), &m, -1, SUITE_BODY(DONE));
}

struct host_layout
host_inspect(struct host *h, const struct digest *layout)
{
	Suite__Inspect m = SUITE__INSPECT__INIT;

	m.layout.data = (uint8_t *)layout->bytes;
	m.layout.len = DIGEST_LEN;
	return ask_end(h, host_send(h, SUITE_BODY(INSPECT), &m, -1)).layout;
}

bool
host_noticed(const struct host *h, const char *kind, const char *text)
{
	unsigned n = h->n_notices < HOST_NOTICES ? h->n_notices : HOST_NOTICES;

	for (unsigned i = 0; i < n; i++)
		if (strcmp(h->notices[i].kind, kind) == 0 &&
		    strstr(h->notices[i].text, text))
			return true;
	return false;
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
host_new(const struct registry *registry, const char *program,
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

static void
drop_asks(struct host *h)
{
	struct host_ask *ask;

	while ((ask = TAILQ_FIRST(&h->asks))) {
		TAILQ_REMOVE(&h->asks, ask, entry);
		free(ask);
	}
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
	h->control = ipc_new(h->base, host_link(h, PEER_CONTROL, NULL), &table,
	    PEER_CACHED, h);
	must(h, h->control != NULL, "a link");
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
	drop_asks(h);
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
	drop_asks(h);
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
	drop_asks(h);
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
	replay_clear(h->store);
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

	replay_clear(h->store);
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
