// SPDX-License-Identifier: Apache-2.0
/*
 * shedctl against a service that this test plays: a process that answers on a
 * unix socket by ipc/, as devd does.  What it answers is chosen by the names
 * in the request.  shedctl runs whole, in a process of its own.
 */
int shedctl_main(int argc, char **argv);
#define main shedctl_main
#include "shedctl/main.c"
#undef main

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>
#include <utmp.h>

#include <cmocka.h>
#include <pty.h>

#include <event2/event.h>

#include "base/shm.h"

#define MIB	(1024 * 1024)
#define OUT_MAX	65536

static char dir[] = "/tmp/ssctl.XXXXXX";
static char path[64];
static pid_t service;
static int listener = -1;

/* Seen by the test and the service alike. */
static struct shared {
	int connections, requests;
	int refuse_hello, drops;	/* still to come */
	int ended;			/* by shutdown */
	CTL(Attach) attach;		/* of the latest, numbers only */
	char client[65], owner[65], consumer[65];
	unsigned keep;
	bool keep_empty, pinned, pin, gc_dry;
	uint64_t gc_max, gc_until;
	char image[65];			/* of the latest pin, drop, verify */
	char imported[16];
	int imported_flags, promoted_flags;
	char host[300], credentials[32768];	/* of the latest login */
	int logins;
	bool sealed;
	int verify;			/* which answer: see on_verify() */
} *shared;

static struct {
	int status;
	char out[OUT_MAX], err[OUT_MAX];
} ran;

/* The service. */

static void
send_error(struct ipc_link *link, uint64_t id, int code, const char *text)
{
	CTL(Error) e = CTL_INIT(ERROR);

	e.code = (CTL(Code))code;
	e.text = (char *)text;
	ipc_send(link, id, CTL_BODY(ERROR), &e, NULL, 0, -1);
}

static void
send_progress(struct ipc_link *link, uint64_t id, uint64_t current, int state)
{
	CTL(Progress) p = CTL_INIT(PROGRESS);

	p.digest = (char *)"sha256:0011223344556677";
	p.state = (CTL(Progress__State))state;
	p.current = current;
	p.total = 100 * MIB;
	ipc_send(link, id, CTL_BODY(PROGRESS), &p, NULL, 0, -1);
}

static void
send_done(struct ipc_link *link, uint64_t id)
{
	CTL(Done) done = CTL_INIT(DONE);

	ipc_send(link, id, CTL_BODY(DONE), &done, NULL, 0, -1);
}

static void
send_attached(struct ipc_link *link, uint64_t id, const char *where)
{
	CTL(Attached) a = CTL_INIT(ATTACHED);

	a.name = (char *)"one";
	a.path = (char *)where;
	a.size = 42;
	a.rung = SHEDSTREAM__CONTROL__V1__RUNG__RUNG_COMPLETE;
	a.present = SHEDSTREAM__CONTROL__V1__PRESENT__PRESENT_NBD;
	ipc_send(link, id, CTL_BODY(ATTACHED), &a, NULL, 0, -1);
}

static void
send_event(struct ipc_link *link, uint64_t time_us, const char *text)
{
	CTL(Event) e = CTL_INIT(EVENT);

	e.time_us = time_us;
	e.kind = (char *)"state";
	e.device = (char *)"one";
	e.text = (char *)text;
	ipc_send(link, 0, CTL_BODY(EVENT), &e, NULL, 0, -1);
}

/* True if the service is to die here. */
static bool
drop(struct ipc_link *link)
{
	shared->requests++;
	if (shared->drops == 0)
		return false;
	shared->drops--;
	ipc_flush(link);
	ipc_free(link);
	return true;
}

static void
on_hello(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Hello) *hello = msg->body;
	CTL(HelloReply) reply = CTL_INIT(HELLO_REPLY);

	(void)owner;
	snprintf(shared->client, sizeof(shared->client), "%s", hello->client);
	snprintf(shared->owner, sizeof(shared->owner), "%s", hello->owner);
	if (shared->refuse_hello == 1) {
		send_error(link, msg->id, CTL_CODE(VERSION),
		    "this is protocol 2");
		return;
	}
	reply.protocol = shared->refuse_hello == 2 ? 7 : hello->protocol;
	reply.version = (char *)"9.9";
	ipc_send(link, msg->id, CTL_BODY(HELLO_REPLY), &reply, NULL, 0, -1);
}

static void
on_attach(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Attach) *a = msg->body;
	CTL(Accepted) accepted = CTL_INIT(ACCEPTED);

	(void)owner;
	shared->attach = *a;
	snprintf(shared->consumer, sizeof(shared->consumer), "%s", a->consumer);
	if (strcmp(a->image, "mute") == 0)
		return;
	if (strcmp(a->image, "slow") == 0) {
		ipc_send(link, msg->id, CTL_BODY(ACCEPTED), &accepted, NULL, 0,
		    -1);
		for (int i = 0; i <= 10; i++)
			send_progress(link, msg->id, (uint64_t)i * MIB, 0);
		if (drop(link))
			return;
		/* longer than shedctl waits for a first answer */
		usleep(500 * 1000);
		send_progress(link, msg->id, 100 * MIB, 2);
	} else if (drop(link))
		return;
	if (strcmp(a->image, "refused") == 0)
		send_error(link, msg->id, CTL_CODE(INTEGRITY_REFUSED),
		    "the image has no index\n\033[2J; use --integrity whole");
	else if (strcmp(a->image, "wrong") == 0)
		send_done(link, msg->id);
	else if (strcmp(a->image, "evil") == 0)
		send_attached(link, msg->id, "/dev/x\n/dev/y\033[2J");
	else
		send_attached(link, msg->id, "nbd+unix:///one?socket=/run/s");
}

static void
on_detach(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(Detached) d = { PROTOBUF_C_MESSAGE_INIT(
	    &shedstream__control__v1__detached__descriptor), true };

	(void)owner;
	if (!drop(link))
		ipc_send(link, msg->id, CTL_BODY(DETACHED), &d, NULL, 0, -1);
}

static void
on_list(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(Device) d = CTL_INIT(DEVICE), *list[] = { &d };
	CTL(Devices) devices = CTL_INIT(DEVICES);
	char *consumers[] = { (char *)"uid:0/default" };

	(void)owner;
	d.name = (char *)"one";
	d.image = (char *)"127.0.0.1:5000/test/base:v1";
	d.path = (char *)"nbd+unix:///one?socket=/run/s";
	d.size = 784 * MIB;
	d.rung = SHEDSTREAM__CONTROL__V1__RUNG__RUNG_COMPLETE;
	d.present = SHEDSTREAM__CONTROL__V1__PRESENT__PRESENT_NBD;
	d.chunks_total = 12544;
	d.chunks_present = 6272;
	d.bytes_fetched = 3 * MIB;
	d.chunks_shared = 12;
	d.chunks_damaged = 3;
	d.stalled_reads = 2;
	d.on_outage = CTL_OUTAGE(STALL);
	d.last_error = (char *)"REGISTRY_UNREACHABLE: \"\xff\" no route";
	d.consumers = consumers;
	d.n_consumers = 1;
	devices.devices = list;
	devices.n_devices = 1;
	devices.more = true;
	ipc_send(link, msg->id, CTL_BODY(DEVICES), &devices, NULL, 0, -1);
	if (drop(link))		/* between two parts */
		return;
	d.name = (char *)"two";
	d.rung = SHEDSTREAM__CONTROL__V1__RUNG__RUNG_CHUNK;
	d.unproven = true;
	d.self_contained = true;
	d.on_outage = CTL_OUTAGE(EIO);
	d.outage_delay_s = 45;
	d.stalled_since = 1700000000;
	d.reads_eio = 9;
	d.chunks_shared = d.chunks_damaged = 0;
	devices.more = false;
	ipc_send(link, msg->id, CTL_BODY(DEVICES), &devices, NULL, 0, -1);
}

static void
on_status(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(Devices) none = CTL_INIT(DEVICES);

	(void)owner;
	ipc_send(link, msg->id, CTL_BODY(DEVICES), &none, NULL, 0, -1);
}

static void
on_subscribe(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	send_event(link, 1700000000000000, "first");
	send_event(link, 1700000000000000, "second");
	if (shared->connections > 1)
		send_event(link, 1700000001000000, "while away");
	send_done(link, msg->id);
	send_event(link, 1700000000500000, "live");
	if (shared->connections > 2) {
		/* enough: end of the test */
		ipc_flush(link);
		close(listener);
		_exit(0);
	}
	drop(link);
}

static void
on_prefetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Prefetch) *p = msg->body;
	CTL(Accepted) accepted = CTL_INIT(ACCEPTED);

	(void)owner;
	if (p->all && !p->wait) {
		ipc_send(link, msg->id, CTL_BODY(ACCEPTED), &accepted, NULL, 0,
		    -1);
		return;		/* and some time later Done */
	}
	if (!p->all) {
		send_error(link, msg->id, CTL_CODE(BAD_REQUEST), "not a pull");
		return;
	}
	send_progress(link, msg->id, 100 * MIB, 1);
	send_done(link, msg->id);
}

static void
on_health(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(HealthReply) h = CTL_INIT(HEALTH_REPLY);

	(void)owner;
	h.text = (char *)"a registry is gone";
	ipc_send(link, msg->id, CTL_BODY(HEALTH_REPLY), &h, NULL, 0, -1);
}

static void
on_map(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(MapReply) map = CTL_INIT(MAP_REPLY);
	static uint8_t cells[MAP_CELLS] = { 1, 2 };

	(void)owner;
	map.cells.data = cells;
	map.cells.len = strcmp(((const CTL(Map) *)msg->body)->name, "odd") ?
	    sizeof(cells) : 7;
	ipc_send(link, msg->id, CTL_BODY(MAP_REPLY), &map, NULL, 0, -1);
}

static void
on_shutdown(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	if (drop(link))
		return;
	send_done(link, msg->id);
	ipc_flush(link);
	usleep(100 * 1000);
	shared->ended++;
	ipc_free(link);
}

static void
on_import(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	_cleanup_close_ int fd = msg->fd;

	(void)owner;
	shared->imported_flags = fcntl(fd, F_GETFL);
	if (drop(link))
		return;
	if (pread(fd, shared->imported, sizeof(shared->imported) - 1, 0) < 0)
		return;
	send_done(link, msg->id);
}

/* "slow": accepts, and goes no further. */
static void
on_promote(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const char *image = ((const CTL(Promote) *)msg->body)->image;
	CTL(Accepted) accepted = CTL_INIT(ACCEPTED);
	_cleanup_close_ int fd = msg->fd;

	(void)owner;
	shared->promoted_flags = fcntl(fd, F_GETFL);
	if (pwrite(fd, "erofs!", strcmp(image, "refused") == 0 ? 3 : 6,
	    0) < 0 || drop(link))
		return;
	ipc_send(link, msg->id, CTL_BODY(ACCEPTED), &accepted, NULL, 0, -1);
	if (strcmp(image, "slow") == 0)
		return;
	send_progress(link, msg->id, 50 * MIB, 0);
	send_progress(link, msg->id, 100 * MIB, 2);
	if (strcmp(image, "refused") == 0)
		send_error(link, msg->id, CTL_CODE(NO_SPACE), "it is full");
	else
		send_done(link, msg->id);
}

static void
on_pin(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Pin) *m = msg->body;

	(void)owner;
	shared->pinned = true;
	shared->pin = m->pin;
	snprintf(shared->image, sizeof(shared->image), "%s", m->image);
	if (!drop(link))
		send_done(link, msg->id);
}

static void
on_drop(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const char *image = ((const CTL(Drop) *)msg->body)->image;

	(void)owner;
	snprintf(shared->image, sizeof(shared->image), "%s", image);
	if (strcmp(image, "used") == 0)
		send_error(link, msg->id, CTL_CODE(IN_USE), "detach it first");
	else if (!drop(link))
		send_done(link, msg->id);
}

/* 0: nothing is damaged; 1: it was repaired; 2: not all of it could be. */
static void
on_verify(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Verify) *m = msg->body;
	CTL(VerifyReply) r = CTL_INIT(VERIFY_REPLY);
	CTL(Accepted) accepted = CTL_INIT(ACCEPTED);

	(void)owner;
	snprintf(shared->image, sizeof(shared->image), "%s%s", m->image,
	    m->all ? "(all)" : "");
	ipc_send(link, msg->id, CTL_BODY(ACCEPTED), &accepted, NULL, 0, -1);
	send_progress(link, msg->id, 10 * MIB, 0);
	if (drop(link))
		return;
	r.checked = 12544;
	r.damaged = shared->verify > 0 ? 3 : 0;
	r.repaired = shared->verify > 0 ? 4 - (uint64_t)shared->verify : 0;
	ipc_send(link, msg->id, CTL_BODY(VERIFY_REPLY), &r, NULL, 0, -1);
}

#define HEX64	"00112233445566778899aabbccddeeff" \
		"00112233445566778899aabbccddeeff"

/* Two parts. */
static void
on_gc(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Gc) *m = msg->body;
	CTL(GcReply) r = CTL_INIT(GC_REPLY);
	CTL(GcReply__Kept) k = SHEDSTREAM__CONTROL__V1__GC_REPLY__KEPT__INIT;
	CTL(GcReply__Kept) *kept[] = { &k };
	char *freed[] = { (char *)"sha256:" HEX64 };

	(void)owner;
	shared->gc_dry = m->dry_run;
	shared->gc_max = m->max_bytes;
	shared->gc_until = m->until_s;
	k.digest = (char *)"sha256:ff" HEX64;
	k.why = (char *)"a device of it is attached\033[2J";
	r.freed = freed;
	r.n_freed = 1;
	r.kept = kept;
	r.bytes = 3 * MIB;
	r.more = true;
	ipc_send(link, msg->id, CTL_BODY(GC_REPLY), &r, NULL, 0, -1);
	if (drop(link))		/* between two parts */
		return;
	r.n_freed = 0;
	r.n_kept = 1;
	r.more = false;
	ipc_send(link, msg->id, CTL_BODY(GC_REPLY), &r, NULL, 0, -1);
}

/* Two parts. */
static void
on_df(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(DfReply__Row) row = SHEDSTREAM__CONTROL__V1__DF_REPLY__ROW__INIT;
	CTL(DfReply__Row) *list[] = { &row };
	CTL(DfReply) r = CTL_INIT(DF_REPLY);
	char *owners[] = { (char *)"/var/lib/shed", (char *)"uid:1000" };

	(void)owner;
	row.image = (char *)"registry.example:5000/team/base-image:2026-11-23";
	row.digest = (char *)"sha256:" HEX64;
	row.size = 784 * (uint64_t)MIB;
	row.on_disk = 101 * MIB;
	row.exclusive = 1023;
	row.shared = (uint64_t)3 << 30;
	r.images = list;
	r.n_images = 1;
	r.total = 107 * MIB;
	r.more = true;
	ipc_send(link, msg->id, CTL_BODY(DF_REPLY), &r, NULL, 0, -1);
	if (drop(link))
		return;
	row.image = (char *)"";		/* known by its digest only */
	row.pinned = true;
	row.owners = owners;
	row.n_owners = 2;
	r.more = false;
	ipc_send(link, msg->id, CTL_BODY(DF_REPLY), &r, NULL, 0, -1);
}

static void
on_flight(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	CTL(Dump) d = CTL_INIT(DUMP);

	(void)owner;
	ipc_send(link, msg->id, CTL_BODY(FLIGHT_REPLY), &d, NULL, 0,
	    shm_sealed("flight", "opaque", 6));
}

static void
on_keep(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	shared->requests++;
	shared->keep = (unsigned)((const CTL(Keep) *)msg->body)->n_digests;
	shared->keep_empty = ((const CTL(Keep) *)msg->body)->allow_empty;
	send_done(link, msg->id);
}

static void
on_set_credentials(void *owner, struct ipc_link *link,
    struct ipc_message *msg)
{
	const char *host = ((const CTL(SetCredentials) *)msg->body)->host;
	_cleanup_close_ int fd = msg->fd;
	size_t size;
	ssize_t n;

	(void)owner;
	snprintf(shared->host, sizeof(shared->host), "%s", host);
	n = pread(fd, shared->credentials, sizeof(shared->credentials) - 1, 0);
	shared->credentials[n > 0 ? n : 0] = '\0';
	shared->sealed = shm_is_sealed(fd, IPC_CREDENTIALS_MAX, &size) == 0;
	shared->logins++;
	if (!drop(link))
		send_done(link, msg->id);
}

static void
on_unknown(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	send_error(link, msg->id, CTL_CODE(UNSUPPORTED),
	    "this is not built yet; use a later version");
}

static void
on_closed(void *owner, struct ipc_link *link, int why)
{
	(void)owner;
	(void)why;
	ipc_free(link);
}

#define RULE(TYPE, fd_, on_) { CTL_BODY(TYPE), #TYPE, PEER_CLIENT, PHASE_ANY, \
	fd_, false, on_ }
static const struct ipc_rule rules[] = {
	RULE(HELLO, false, on_hello), RULE(ATTACH, false, on_attach),
	RULE(DETACH, false, on_detach), RULE(LIST, false, on_list),
	RULE(STATUS, false, on_status), RULE(SUBSCRIBE, false, on_subscribe),
	RULE(PREFETCH, false, on_prefetch), RULE(HEALTH, false, on_health),
	RULE(MAP, false, on_map), RULE(SHUTDOWN, false, on_shutdown),
	RULE(IMPORT, true, on_import), RULE(FLIGHT, false, on_flight),
	RULE(KEEP, false, on_keep), RULE(PROMOTE, true, on_promote),
	RULE(PIN, false, on_pin), RULE(DROP, false, on_drop),
	RULE(VERIFY, false, on_verify), RULE(GC, false, on_gc),
	RULE(DF, false, on_df),
	RULE(SET_CREDENTIALS, true, on_set_credentials),
};

static const struct ipc_table table = {
	.frame = &shedstream__control__v1__frame__descriptor,
	.rules = rules, .n_rules = ARRAY_LEN(rules), .outsiders = true,
	.unknown = on_unknown, .closed = on_closed,
};

static void
connected(evutil_socket_t sock, short what, void *arg)
{
	int fd = accept(sock, NULL, NULL);

	(void)what;
	assert_true(fd >= 0 && fd_nonblock(fd) == 0);
	shared->connections++;
	ipc_new(arg, fd, &table, PEER_CLIENT, NULL);
}

static void
listen_here(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	unlink(path);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_true(bind(listener, (struct sockaddr *)&addr,
	    sizeof(addr)) == 0 && listen(listener, 8) == 0);
}

/* A process that serves until it is killed. */
static int
service_start(void **state)
{
	struct event_base *base;

	(void)state;
	memset(shared, 0, sizeof(*shared));
	listen_here();
	fflush(NULL);
	service = fork();
	if (service != 0) {
		close(listener);
		return service < 0;
	}
	base = event_base_new();
	event_add(event_new(base, listener, EV_READ | EV_PERSIST, connected,
	    base), NULL);
	event_base_dispatch(base);
	_exit(1);
}

/* One that answers every connection with these bytes and nothing else. */
static void
service_of_bytes(const void *bytes, size_t len)
{
	listen_here();
	fflush(NULL);
	service = fork();
	if (service != 0) {
		close(listener);
		return;
	}
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (write(fd, bytes, len) < 0)
			_exit(1);
	}
}

static int
service_stop(void **state)
{
	(void)state;
	if (service > 0) {
		kill(service, SIGKILL);
		waitpid(service, NULL, 0);
	}
	service = 0;
	return 0;
}

/* shedctl. */

static void
slurp(FILE *f, char *buf)
{
	size_t n;

	rewind(f);
	n = fread(buf, 1, OUT_MAX - 1, f);
	buf[n] = '\0';
}

static bool named;	/* as if no file system knew files without a name */

/* In the child. */
static _Noreturn void
run_here(const char *line)
{
	static char text[512];
	char *argv[32] = { NULL };
	int argc = 0, status;

	snprintf(text, sizeof(text), "shedctl --socket %s %s", path, line);
	for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	client_answer_ms = 300;
	client_tries_ms = 1000;
	dest_unnamed = !named;
	status = shedctl_main(argc, argv);
	fflush(NULL);
	_exit(status);
}

/* Run "shedctl --socket ... line"; its output and status into `ran`. */
static void
run(const char *line)
{
	_cleanup_fclose_ FILE *out = tmpfile(), *err = tmpfile();
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		dup2(fileno(out), STDOUT_FILENO);
		dup2(fileno(err), STDERR_FILENO);
		run_here(line);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	slurp(out, ran.out);
	slurp(err, ran.err);
}

/* The same with so many bytes on standard input. */
static void
run_input(const char *line, const char *input, size_t len)
{
	_cleanup_fclose_ FILE *in = tmpfile();
	int saved = dup(STDIN_FILENO);

	assert_true(saved >= 0 && in);
	assert_int_equal(fwrite(input, 1, len, in), len);
	rewind(in);
	dup2(fileno(in), STDIN_FILENO);
	run(line);
	dup2(saved, STDIN_FILENO);
	close(saved);
}

/* The same on a terminal of 80 columns; both outputs into ran.out. */
static void
run_on_terminal(const char *line)
{
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	size_t have = 0;
	int fd, status;
	pid_t pid;
	ssize_t n;

	fflush(NULL);
	pid = forkpty(&fd, NULL, NULL, &size);
	assert_true(pid >= 0);
	if (pid == 0)
		run_here(line);
	while (have < OUT_MAX - 1 && (n = read(fd, ran.out + have,
	    OUT_MAX - 1 - have)) > 0)
		have += (size_t)n;
	ran.out[have] = '\0';
	close(fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
ran_as(int status, const char *out, const char *err)
{
	if (ran.status != status || strcmp(ran.out, out) != 0 ||
	    strncmp(ran.err, err, strlen(err)) != 0 ||
	    (err[0] == '\0' && ran.err[0] != '\0'))
		fail_msg("status %d, out '%s', err '%s'", ran.status, ran.out,
		    ran.err);
}

#define URI	"nbd+unix:///one?socket=/run/s\n"

static void
test_attach_prints_one_line(void **state)
{
	(void)state;
	run("attach img");
	ran_as(0, URI, "");
	assert_int_equal(shared->attach.fetch, 0);
	assert_int_equal(shared->attach.fallback, 1);
	assert_int_equal(shared->attach.deadline_ms, 0);
	assert_string_equal(shared->consumer, "");
	assert_string_equal(shared->client, "shedctl " VERSION);
	run("attach img --consumer c --deadline 2.5 --fetch whole");
	ran_as(0, URI, "");
	assert_int_equal(shared->attach.fetch, 1);
	assert_int_equal(shared->attach.deadline_ms, 2500);
	assert_string_equal(shared->consumer, "c");
	assert_int_equal(shared->attach.on_outage, 0);
	assert_int_equal(shared->attach.outage_delay_s, 0);
	run("attach img --on-outage eio --outage-delay 2m");
	ran_as(0, URI, "");
	assert_int_equal(shared->attach.on_outage, CTL_OUTAGE(EIO));
	assert_int_equal(shared->attach.outage_delay_s, 120);
	run("attach evil");
	ran_as(0, "/dev/x\\x0a/dev/y\\x1b[2J\n", "");
	run("attach img --json");
	ran_as(0, "{\"name\":\"one\","
	    "\"path\":\"nbd+unix:///one?socket=/run/s\","
	    "\"image_digest\":\"\",\"digest\":\"\",\"size\":42,"
	    "\"present_as\":\"nbd\",\"integrity\":\"complete\"}\n", "");
}

static void
test_a_refusal_has_its_code_and_sentence(void **state)
{
	(void)state;
	run("attach refused");
	ran_as(1, "", "shedctl: INTEGRITY_REFUSED: the image has no index");
	assert_null(strchr(ran.err, '\033'));
	run("doctor");
	ran_as(1, "", "shedctl: UNSUPPORTED: this is not built yet; use");
	run("record start x --json");
	ran_as(1, "", "shedctl: UNSUPPORTED: ");
	run("status nobody");
	ran_as(1, "", "shedctl: BAD_REQUEST: no device is called nobody");
	run("ls --nosuch");
	ran_as(2, "", "shedctl: there is no option --nosuch");
	run("health");
	ran_as(1, "degraded: a registry is gone\n", "");
}

static void
test_nobody_there_is_3(void **state)
{
	service_stop(state);
	run("ls");
	ran_as(3, "", "shedctl: the service cannot be reached at /tmp/");
	assert_non_null(strstr(ran.err, "systemctl start shedstream"));
	run("version");
	ran_as(3, "shedctl     " VERSION "\n", "shedctl: the service cannot");
	unlink(path);
	run("attach img");
	ran_as(3, "", "shedctl: the service cannot be reached at /tmp/");
	run("help");
	assert_int_equal(ran.status, 0);
}

static void
test_another_protocol_is_told_with_its_remedy(void **state)
{
	(void)state;
	shared->refuse_hello = 1;
	run("ls");
	ran_as(1, "", "shedctl: VERSION: this is protocol 2 (this is shedctl");
	shared->refuse_hello = 2;
	run("ls");
	ran_as(1, "", "shedctl: VERSION: the service (9.9) speaks protocol 7");
	assert_non_null(strstr(ran.err, "install the same version of both"));
}

static void
test_progress_goes_to_stderr(void **state)
{
	(void)state;
	run("attach slow");
	ran_as(0, URI, "sha256:0011223344556677: downloading, 0 B of 100.0");
	assert_non_null(strstr(ran.err, ": done, 100.0 MiB of 100.0 MiB"));
	run("pull img --json");
	ran_as(0, "{\"image\":\"img\",\"digest\":\"sha256:0011223344556677\","
	    "\"bytes\":104857600}\n", "sha256:0011223344556677: exists, ");
	run("pull img");
	ran_as(0, "", "sha256:0011223344556677: exists, ");
	run("prefetch img --all --wait");
	ran_as(0, "", "sha256:0011223344556677: exists, ");
	run("prefetch img --all");	/* does not wait */
	ran_as(0, "", "");
	run("prefetch img");
	ran_as(1, "", "shedctl: BAD_REQUEST: not a pull");
}

static void
test_a_lost_connection_is_made_again_in_silence(void **state)
{
	(void)state;
	shared->drops = 3;
	run("attach img");
	ran_as(0, URI, "");
	assert_int_equal(shared->connections, 4);
	shared->drops = 1;
	run("attach slow");	/* in the middle of its progress */
	assert_int_equal(ran.status, 0);
	assert_string_equal(ran.out, URI);
	shared->drops = 1;
	run("detach one --json");
	ran_as(0, "{\"name\":\"one\",\"torn_down\":true}\n", "");
	shared->drops = 1;
	run("ls --json");	/* between two parts: none is told twice */
	assert_int_equal(ran.status, 0);
	assert_int_equal(shared->drops, 0);
	assert_null(strstr(strstr(ran.out, "\"name\":\"one\"") + 1,
	    "\"name\":\"one\""));
}

static void
test_a_service_that_keeps_dying_is_given_up(void **state)
{
	int64_t start = client_now_ms();

	(void)state;
	shared->drops = 1000;
	run("attach img");
	ran_as(1, "", "shedctl: INTERNAL: the service ended the connection; ");
	assert_in_range(client_now_ms() - start, 500, 3000);
	assert_in_range(shared->connections, 5, 21);
	/* the same when each attempt shows the same progress */
	start = client_now_ms();
	run("attach slow");
	assert_int_equal(ran.status, 1);
	assert_in_range(client_now_ms() - start, 500, 9000);
	/* and what must not be done twice is not */
	shared->requests = 0;
	run("shutdown");
	ran_as(1, "", "shedctl: INTERNAL: the service ended the connection; ");
	assert_int_equal(shared->requests, 1);
}

static void
test_silence_is_a_timeout(void **state)
{
	(void)state;
	run("attach mute");
	ran_as(1, "", "shedctl: TIMEOUT: the service did not answer within");
	assert_int_equal(shared->connections, 1);
}

static void
test_a_wrong_answer_is_named(void **state)
{
	static const uint8_t big[] = { 0x7f, 0xff, 0xff, 0xff, 0 };
	static const uint8_t bad[] = { 0, 0, 0, 2, 0xff, 0xff };

	run("attach wrong");
	ran_as(1, "", "shedctl: INTERNAL: what answers at ");
	run("map odd");
	ran_as(1, "", "shedctl: VERSION: the service sent a map of 7 cells");
	service_stop(state);
	service_of_bytes(big, sizeof(big));
	run("ls");
	ran_as(1, "", "shedctl: INTERNAL: what answers at ");
	service_stop(state);
	service_of_bytes(bad, sizeof(bad));
	run("ls");
	ran_as(1, "", "shedctl: INTERNAL: what answers at ");
}

static void
test_ls_and_status_show_the_devices(void **state)
{
	(void)state;
	run("ls");
	ran_as(0, "NAME  STATE  AS   RUNG                   SIZE  HERE  USERS  "
	    "IMAGE\n"
	    "one   lazy   nbd  complete          784.0 MiB   50%      1  "
	    "127.0.0.1:5000/test/base:v1\n"
	    "two   lazy   nbd  chunk (unproven)  784.0 MiB   50%      1  "
	    "127.0.0.1:5000/test/base:v1\n", "");
	run("status");
	assert_int_equal(ran.status, 0);
	assert_non_null(strstr(ran.out, "\nchunks          6272 of 12544 "
	    "present (50%)\n"));
	assert_non_null(strstr(ran.out, "\nstalled reads   2\n"));
	assert_non_null(strstr(ran.out, "\nshared chunks   12, in other "
	    "images' files\n"));
	assert_non_null(strstr(ran.out, "\ndamaged chunks  3, dropped and "
	    "fetched again\n"));
	assert_non_null(strstr(ran.out, "\nself-contained  no\n"));
	const char *two = strstr(ran.out, "\nname            two\n");
	assert_non_null(two);
	assert_non_null(strstr(two, "\nrung            chunk (unproven)\n"));
	assert_non_null(strstr(two, "\nself-contained  yes\n"));
	assert_null(strstr(two, "\nshared chunks"));
	assert_non_null(strstr(ran.out, "\non outage       stall\n"));
	assert_non_null(strstr(two, "\non outage       eio after 45 s\n"));
	assert_non_null(strstr(two, "\nstalled reads   2, since "
	    "2023-11-14T22:13:20Z\n"));
	assert_non_null(strstr(two, "\nreads with EIO  9\n"));
	assert_non_null(strstr(ran.out, "\nlast error      "
	    "REGISTRY_UNREACHABLE: \"\\xff\" no route\n"));
	assert_non_null(strstr(ran.out, "\nconsumers       uid:0/default\n"));
	run("ls --json");
	assert_int_equal(ran.status, 0);
	assert_int_equal(strncmp(ran.out, "{\"devices\":[{\"name\":\"one\",",
	    26), 0);
	assert_non_null(strstr(ran.out,
	    "\"chunks\":{\"total\":12544,\"present\":6272,"
	    "\"shared\":12,\"damaged\":3}"));
	assert_non_null(strstr(ran.out,
	    "\"integrity\":\"chunk\",\"unproven\":true,"));
	assert_non_null(strstr(ran.out, "\"self_contained\":true,"));
	assert_non_null(strstr(ran.out, "\"stalled_since\":0,"
	    "\"on_outage\":\"stall\",\"outage_delay\":0,"));
	assert_non_null(strstr(ran.out, "\"stalled_since\":1700000000,"
	    "\"on_outage\":\"eio\",\"outage_delay\":45,\"reads_eio\":9"));
	assert_non_null(strstr(ran.out,
	    "\"last_error\":\"REGISTRY_UNREACHABLE: \\\"?\\\" no route\""));
	assert_non_null(strstr(ran.out, "\"state\":\"lazy\","));
	run("map one --json");
	assert_ptr_equal(strstr(ran.out, "{\"name\":\"one\",\"untouched\":638,"
	    "\"present\":1,\"fetched\":1,\"cells\":[1,2,0,"), ran.out);
}

static void
test_events_are_told_once(void **state)
{
	(void)state;
	run("events");
	ran_as(0, "2023-11-14T22:13:20.000Z state              one  first\n"
	    "2023-11-14T22:13:20.000Z state              one  second\n", "");
	shared->connections = 0;
	run("events --json");
	assert_int_equal(strncmp(ran.out, "{\"events\":[{\"time_us\":17", 24),
	    0);
	/* the connection is lost once, then a second time for good */
	shared->connections = 0;
	shared->drops = 2;
	run("events -f --json");
	assert_int_equal(ran.status, 1);
	assert_int_equal(strncmp(ran.err, "shedctl: INTERNAL: ", 19), 0);
	for (const char *const *w = (const char *const[]){ "\"first\"",
	    "\"second\"", "\"while away\"", NULL }; *w; w++) {
		const char *at = strstr(ran.out, *w);

		assert_non_null(at);
		assert_null(strstr(at + 1, *w));
	}
}

static void
test_descriptors_ride_along(void **state)
{
	char line[256], file[64];
	FILE *f;

	(void)state;
	snprintf(file, sizeof(file), "%s/file", dir);
	f = fopen(file, "w");
	fputs("erofs!", f);
	fclose(f);
	snprintf(line, sizeof(line), "import img %s", file);
	run(line);
	ran_as(0, "", "");
	assert_string_equal(shared->imported, "erofs!");
	assert_int_equal(shared->imported_flags & O_ACCMODE, O_RDONLY);
	shared->drops = 1;		/* asked again */
	run(line);
	ran_as(0, "", "");
	run("import img /dev/null");
	ran_as(1, "", "shedctl: BAD_REQUEST: /dev/null is no regular file");
	run("import img /tmp");
	ran_as(1, "", "shedctl: BAD_REQUEST: /tmp is no regular file");
	run("import img /none/such");
	ran_as(1, "", "shedctl: BAD_REQUEST: cannot read /none/such: No such");
	run("flight one");
	ran_as(0, "opaque", "");
	snprintf(line, sizeof(line), "flight one -o %s", file);
	run(line);
	ran_as(0, "", "");
	snprintf(line, sizeof(line), "grep -q '^opaque$' %s && "
	    "test $(ls %s | wc -l) -eq 2", file, dir);
	assert_int_equal(system(line), 0);
	unlink(file);
}

/* ---- login ---- */

#define AUTH(host, auth) "{\"auths\":{\"" host "\":{\"auth\":\"" auth "\"}}}"
#define ALICE	"YWxpY2U6czNjcmV0OndvcmQ="	/* alice:s3cret:word */

static void
login_takes(const char *input, size_t len)
{
	int before = shared->logins;

	run_input("login reg.example:5000", input, len);
	ran_as(0, "", "");
	assert_int_equal(shared->logins, before + 1);
	assert_string_equal(shared->host, "reg.example:5000");
	assert_string_equal(shared->credentials,
	    AUTH("reg.example:5000", ALICE));
	assert_true(shared->sealed);
}

static void
test_login_sends_one_entry_whatever_it_reads(void **state)
{
	static const char *const forms[] = {
		"alice:s3cret:word", "alice:s3cret:word\n",
		"alice:s3cret:word\r\n", "alice\ns3cret:word",
		"alice\ns3cret:word\n", "alice\r\ns3cret:word\r\n",
		"{\"auths\": {\"other.example\": {\"auth\": \"eDp5\"},"
		" \"https://reg.example:5000/v1/\": {\"auth\": \"" ALICE
		"\"}}, \"credsStore\": \"pass\"}",
		"\n {\"auths\": {\"reg.example:5000\": {\"username\": "
		"\"alice\", \"password\": \"s3cret:word\"}}}\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++)
		login_takes(forms[i], strlen(forms[i]));
	shared->drops = 1;		/* asked again: it does no harm twice */
	run_input("login reg.example:5000", forms[0], strlen(forms[0]));
	ran_as(0, "", "");
	assert_int_equal(shared->logins, (int)ARRAY_LEN(forms) + 2);
	run_input("login [::1]:5000 --json", "u:p", 3);
	ran_as(0, "{\"done\":true}\n", "");
	assert_string_equal(shared->credentials, AUTH("[::1]:5000", "dTpw"));
	run("logout reg.example:5000");
	ran_as(0, "", "");
	assert_string_equal(shared->host, "reg.example:5000");
	assert_string_equal(shared->credentials, "");
}

static void
test_login_refuses_what_is_no_user_and_password(void **state)
{
	static const struct {
		const char *input, *says;
	} bad[] = {
		{ "", "no user name and password" },
		{ "\n", "no user name and password" },
		{ "alice", "no user name and password" },
		{ "alice\n\n", "no user name and password" },
		{ "alice:", "no password" },
		{ ":word", "no user name" },
		{ "\nword\n", "no user name" },
		{ "a\nb\nc\n", "more than two lines" },
		{ "a\nb\n\nc", "more than two lines" },
		{ "a:b\nc\n", "a user name has no colon" },
		{ "{\"auths\"", "none that can be read" },
		{ "{}", "none that can be read" },
		{ "{\"auths\": {}}", "without an entry for reg.example" },
		{ "{\"auths\": {\"reg.example\": {}}}", "credential helper" },
		{ "{\"auths\": {\"reg.example\": {\"identitytoken\": \"x\"}}}",
		    "identity token" },
		{ "{\"auths\": {\"reg.example\": {\"auth\": \"Og==\"}}}",
		    "no user name" },
		{ "{\"auths\": {\"reg.example\": {\"auth\": \"!\"}}}",
		    "none that can be read" },
	};
	_cleanup_free_ char *big = malloc(300000);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		run_input("login reg.example", bad[i].input,
		    strlen(bad[i].input));
		ran_as(1, "", "shedctl: BAD_REQUEST: ");
		if (!strstr(ran.err, bad[i].says) || !strchr(ran.err, ';'))
			fail_msg("'%s' says %s", bad[i].input, ran.err);
	}
	run_input("login reg.example", "a\0b:c", 5);
	ran_as(1, "", "shedctl: BAD_REQUEST: standard input has zero bytes; ");
	memset(big, 'x', 300000);
	run_input("login reg.example", big, 300000);
	ran_as(1, "", "shedctl: BAD_REQUEST: standard input has more than "
	    "256 KiB; ");
	big[1] = ':';
	run_input("login reg.example", big, 5000);
	ran_as(1, "", "shedctl: BAD_REQUEST: a user name or password has at "
	    "most 4096 bytes; ");
	run_input("login reg/example", "u:p", 3);
	ran_as(1, "", "shedctl: BAD_REQUEST: reg/example is no registry's "
	    "host; ");
	run("logout reg\"example");
	ran_as(1, "", "shedctl: BAD_REQUEST: reg\"example is no registry's "
	    "host; ");
	run_input("login reg.example alice secret", "u:p", 3);
	assert_int_equal(ran.status, 2);
	assert_int_equal(shared->logins, 0);
}

/* Read from the terminal until this stands there, or its end. */
static bool
shows(int fd, const char *text)
{
	size_t have = strlen(ran.out);
	ssize_t n;

	while (!strstr(ran.out, text)) {
		n = read(fd, ran.out + have, OUT_MAX - 1 - have);
		if (n <= 0)
			return false;
		have += (size_t)n;
		ran.out[have] = '\0';
	}
	return true;
}

static pid_t
login_on_terminal(int *fd, int *own)
{
	struct termios t;
	pid_t pid;

	ran.out[0] = '\0';
	assert_int_equal(openpty(fd, own, NULL, NULL, NULL), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(*fd);
		login_tty(*own);
		run_here("login reg.example");
	}
	assert_true(shows(*fd, "User: "));
	assert_int_equal(tcgetattr(*own, &t), 0);
	assert_true(t.c_lflag & ECHO);
	return pid;
}

/* Its end: the status of waitpid(); the terminal is as it was. */
static int
terminal_end(pid_t pid, int fd, int own)
{
	struct termios t;
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(tcgetattr(own, &t), 0);
	assert_int_equal(t.c_lflag & (ECHO | ECHOE | ECHOK | ECHONL),
	    ECHO | ECHOE | ECHOK);
	close(own);
	shows(fd, "nothing like this");
	close(fd);
	return status;
}

static void
test_on_a_terminal_login_asks_without_echo(void **state)
{
	struct termios t;
	int fd, own, status;
	pid_t pid = login_on_terminal(&fd, &own);

	(void)state;
	assert_int_equal(write(fd, "alice\n", 6), 6);
	assert_true(shows(fd, "Password: "));
	assert_int_equal(tcgetattr(own, &t), 0);
	assert_false(t.c_lflag & ECHO);
	assert_int_equal(write(fd, "s3cret:word\n", 12), 12);
	status = terminal_end(pid, fd, own);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_non_null(strstr(ran.out, "alice"));
	assert_null(strstr(ran.out, "s3cret"));
	assert_string_equal(shared->credentials, AUTH("reg.example", ALICE));
}

static void
test_an_interrupted_login_leaves_the_terminal_as_it_was(void **state)
{
	struct termios t;
	int fd, own, status;
	pid_t pid = login_on_terminal(&fd, &own);

	(void)state;
	assert_int_equal(write(fd, "alice\n", 6), 6);
	assert_true(shows(fd, "Password: "));
	assert_int_equal(tcgetattr(own, &t), 0);
	assert_false(t.c_lflag & ECHO);
	assert_int_equal(write(fd, "s3c\003", 4), 4);	/* ^C */
	status = terminal_end(pid, fd, own);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
	assert_null(strstr(ran.out, "s3c"));
	/* and nothing at all */
	pid = login_on_terminal(&fd, &own);
	assert_int_equal(write(fd, "\004", 1), 1);	/* ^D */
	status = terminal_end(pid, fd, own);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	assert_non_null(strstr(ran.out, "no User was given"));
	assert_int_equal(shared->logins, 0);
}

/* ---- promote ---- */

/* The directory has our socket, and this many things more. */
static void
has_files(int n)
{
	char line[128];

	snprintf(line, sizeof(line), "test $(ls -A %s | wc -l) -eq %d", dir,
	    n + 1);
	if (system(line) != 0)
		fail_msg("not %d files", n);
}

static void
has_text(const char *file, const char *text)
{
	char got[64] = "";
	FILE *f = fopen(file, "r");

	assert_non_null(f);
	got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
	fclose(f);
	assert_string_equal(got, text);
}

static void
write_text(const char *file, const char *text)
{
	FILE *f = fopen(file, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void
promote_all(void)
{
	char line[256], file[64], link[64];
	struct stat st;

	snprintf(file, sizeof(file), "%s/dest", dir);
	snprintf(link, sizeof(link), "%s/link", dir);
	snprintf(line, sizeof(line), "promote img %s", file);
	run(line);
	ran_as(0, "", "sha256:0011223344556677: writing, 50.0 MiB of 100.0");
	has_files(1);
	has_text(file, "erofs!");
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(shared->promoted_flags & O_ACCMODE, O_RDWR);
	/* what fails leaves what was there, and nothing else */
	unlink(file);
	write_text(file, "old");
	snprintf(line, sizeof(line), "promote refused %s", file);
	run(line);
	assert_int_equal(ran.status, 1);
	assert_non_null(strstr(ran.err, "shedctl: NO_SPACE: it is full"));
	has_files(1);
	has_text(file, "old");
	/* what is there is replaced, and no more than its name */
	assert_int_equal(symlink(file, link), 0);
	snprintf(line, sizeof(line), "promote img %s --json", link);
	run(line);
	assert_int_equal(ran.status, 0);
	assert_non_null(strstr(ran.out, "/link\"}\n"));
	has_files(2);
	has_text(file, "old");
	has_text(link, "erofs!");
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	snprintf(line, sizeof(line), "promote img %s", file);
	run(line);
	assert_int_equal(ran.status, 0);
	has_text(file, "erofs!");
	has_files(2);
	/* the service goes away in between */
	shared->drops = 1;
	run(line);
	assert_int_equal(ran.status, 0);
	has_files(2);
	unlink(link);
	unlink(file);
}

static void
test_promote_places_a_file_or_nothing(void **state)
{
	(void)state;
	promote_all();
	named = true;
	promote_all();
	named = false;
}

static void
test_promote_replaces_no_more_than_a_file(void **state)
{
	char line[256], file[64];

	(void)state;
	snprintf(line, sizeof(line), "promote img %s", dir);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: cannot make a file beside ");
	assert_non_null(strstr(ran.err, "Is a directory"));
	snprintf(line, sizeof(line), "promote img %s/", dir);
	run(line);
	assert_non_null(strstr(ran.err, "Is a directory"));
	snprintf(line, sizeof(line), "promote img %s/none/x", dir);
	run(line);
	assert_non_null(strstr(ran.err, "No such file or directory"));
	snprintf(file, sizeof(file), "%s/fifo", dir);
	assert_int_equal(mkfifo(file, 0600), 0);
	snprintf(line, sizeof(line), "promote img %s", file);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: ");
	assert_non_null(strstr(ran.err, "is no regular file, and is not"));
	unlink(file);
	assert_int_equal(symlink("/tmp", file), 0);
	run(line);
	assert_non_null(strstr(ran.err, "Is a directory"));
	unlink(file);
	assert_int_equal(shared->promoted_flags, 0);	/* never asked */
}

static void
test_an_interrupted_promote_leaves_nothing(void **state)
{
	char line[256];
	int status;

	(void)state;
	snprintf(line, sizeof(line), "promote slow %s/dest", dir);
	for (int i = 0; i < 2; i++) {
		pid_t pid;

		named = i == 1;
		shared->promoted_flags = 0;
		fflush(NULL);
		pid = fork();
		if (pid == 0)
			run_here(line);
		for (int k = 0; k < 500 && shared->promoted_flags == 0; k++)
			usleep(10 * 1000);
		assert_int_not_equal(shared->promoted_flags, 0);
		has_files(named);
		kill(pid, SIGTERM);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		has_files(0);
	}
	named = false;
}

static void
test_keep_reads_its_list(void **state)
{
#define BAD(text, line) { text, sizeof(text) - 1, line }
	static const struct {
		const char *text;
		size_t len;
		unsigned line;
	} bad[] = {
		BAD("sha256:12\n", 3), BAD("\nimage:latest\n", 4),
		BAD("sha256:" HEX64 " sha256:" HEX64 "\n", 3),
		BAD("sha256:" HEX64 "0", 3), BAD("\0\n", 3),
		BAD("sha256:" HEX64 "\0\n", 3), BAD("SHA256:" HEX64, 3),
		BAD("sha256:FF112233445566778899aabbccddeeff" HEX64, 3),
	};
	char line[256], file[64];
	FILE *f;

	(void)state;
	snprintf(file, sizeof(file), "%s/keep", dir);
	f = fopen(file, "w");
	fprintf(f, "# mine\n\nsha256:%064d\n \t \n\t # more\n"
	    " sha256:%064d  # the second\r\n", 1, 2);
	fclose(f);
	snprintf(line, sizeof(line), "keep %s --owner shed", file);
	run(line);
	ran_as(0, "", "");
	assert_int_equal(shared->keep, 2);
	assert_false(shared->keep_empty);
	assert_string_equal(shared->owner, "shed");
	f = fopen(file, "a");
	for (int i = 0; i < 2000; i++)
		fprintf(f, "sha256:%064d\n", i);
	fclose(f);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: the request is larger than 64");
	shared->requests = 0;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char where[32];

		f = fopen(file, "w");
		fprintf(f, "# one\nsha256:%064d\n", 1);
		fwrite(bad[i].text, 1, bad[i].len, f);
		fclose(f);
		run(line);
		ran_as(1, "", "shedctl: BAD_REQUEST: ");
		snprintf(where, sizeof(where), "keep:%u is no sha256:HEX",
		    bad[i].line);
		if (!strstr(ran.err, where))
			fail_msg("%zu: %s", i, ran.err);
	}
	unlink(file);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: cannot read ");
	run("keep /tmp");
	ran_as(1, "", "shedctl: BAD_REQUEST: cannot read /tmp: Is a");
	assert_int_equal(shared->requests, 0);	/* nothing was sent */
	run("keep /dev/null --allow-empty --json");
	ran_as(0, "{\"done\":true}\n", "");
	assert_int_equal(shared->keep, 0);
	assert_true(shared->keep_empty);
}

/* ---- the store ---- */

static void
test_pin_and_rm_name_an_image(void **state)
{
	(void)state;
	shared->drops = 1;
	run("pin img");
	ran_as(0, "", "");
	assert_true(shared->pinned && shared->pin);
	assert_string_equal(shared->image, "img");
	run("unpin other --json");
	ran_as(0, "{\"done\":true}\n", "");
	assert_false(shared->pin);
	assert_string_equal(shared->image, "other");
	run("rm img");
	ran_as(0, "", "");
	run("rm used");
	ran_as(1, "", "shedctl: IN_USE: detach it first");
	/* what may have been done is not done again */
	shared->requests = 0;
	shared->drops = 1;
	run("rm img");
	ran_as(1, "", "shedctl: INTERNAL: the service ended the connection; ");
	assert_int_equal(shared->requests, 1);
}

static void
test_gc_says_what_went_and_why_not(void **state)
{
	(void)state;
	run("gc");
	ran_as(0, "RESULT  DIGEST        WHY\n"
	    "freed   001122334455  -\n"
	    "kept    ff0011223344  a device of it is attached\\x1b[2J\n"
	    "freed 3.0 MiB\n", "");
	assert_false(shared->gc_dry);
	assert_int_equal(shared->gc_max, 0);
	run("gc --dry-run --max-bytes 20G --until 90s");
	ran_as(0, "RESULT      DIGEST        WHY\n"
	    "would free  001122334455  -\n"
	    "kept        ff0011223344  a device of it is attached\\x1b[2J\n"
	    "would free 3.0 MiB\n", "");
	assert_true(shared->gc_dry);
	assert_int_equal(shared->gc_max, (uint64_t)20 << 30);
	assert_int_equal(shared->gc_until, 90);
	run("gc --until 12h --json");
	ran_as(0, "{\"freed\":[\"sha256:" HEX64 "\"],\"kept\":[{\"digest\":"
	    "\"sha256:ff" HEX64 "\",\"why\":\"a device of it is attached"
	    "\\u001B[2J\"}],\"bytes\":3145728}\n", "");
	assert_int_equal(shared->gc_until, 43200);
}

static void
test_df_is_a_table(void **state)
{
	(void)state;
	run("df");
	ran_as(0, "  SIZE  ON-DISK   EXCL  SHARED  PINNED  "
	    "OWNERS                  IMAGE\n"
	    "784.0M   101.0M  1023B    3.0G  no      "
	    "-                       "
	    "registry.example:5000/team/base-image:2026-11-23\n"
	    "784.0M   101.0M  1023B    3.0G  yes     "
	    "/var/lib/shed uid:1000  sha256:" HEX64 "\n"
	    "total 107.0 MiB on disk\n", "");
	shared->drops = 1;	/* between two parts: none is told twice */
	run("df --json");
	ran_as(0, "{\"images\":[{\"image\":\"registry.example:5000/team/"
	    "base-image:2026-11-23\",\"digest\":\"sha256:" HEX64 "\","
	    "\"size\":822083584,\"on_disk\":105906176,\"exclusive\":1023,"
	    "\"shared\":3221225472,\"pinned\":false,\"owners\":[]},"
	    "{\"image\":\"\",\"digest\":\"sha256:" HEX64 "\","
	    "\"size\":822083584,\"on_disk\":105906176,\"exclusive\":1023,"
	    "\"shared\":3221225472,\"pinned\":true,\"owners\":["
	    "\"/var/lib/shed\",\"uid:1000\"]}],\"total\":112197632}\n",
	    "");
}

static void
test_tables_fit_80_columns(void **state)
{
	static const char *const lines[] = { "df", "gc", "gc --dry-run",
		"verify img", "ls" };

	(void)state;
	setenv("TERM", "xterm", 1);
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		run_on_terminal(lines[i]);
		assert_int_equal(ran.status, 0);
		for (char *l = strtok(ran.out, "\n"); l; l = strtok(NULL,
		    "\n")) {
			l = strrchr(l, '\r') && l[strlen(l) - 1] != '\r' ?
			    strrchr(l, '\r') + 1 : l;
			if (strcspn(l, "\r\033") > 80)
				fail_msg("%s: too wide: %s", lines[i], l);
		}
	}
	run_on_terminal("df");
	assert_non_null(strstr(ran.out, "  /var/lib/shed...  sha256:00"));
}

static void
test_verify_fails_if_damage_stays(void **state)
{
	(void)state;
	run("verify img");
	ran_as(0, "checked 12544, damaged 0, repaired 0\n",
	    "sha256:0011223344556677: verifying, 10.0 MiB of 100.0 MiB");
	assert_string_equal(shared->image, "img");
	shared->verify = 1;
	shared->drops = 1;		/* asked again */
	run("verify --all --json");
	assert_int_equal(ran.status, 0);
	assert_string_equal(ran.out, "{\"checked\":12544,\"damaged\":3,"
	    "\"repaired\":3}\n");
	assert_string_equal(shared->image, "(all)");
	shared->verify = 2;
	run("verify --all");
	assert_int_equal(ran.status, 1);
	assert_string_equal(ran.out, "checked 12544, damaged 3, repaired 2\n");
	assert_non_null(strstr(ran.err, "shedctl: DIGEST_MISMATCH: 1 of 3 "
	    "damaged chunks could not be fetched again"));
}

static void
test_shutdown_waits_for_the_end(void **state)
{
	(void)state;
	run("shutdown");
	assert_int_equal(shared->ended, 1);
	ran_as(0, "", "");
	run("shutdown --json");
	assert_int_equal(shared->ended, 2);
	ran_as(0, "{\"done\":true}\n", "");
}

static int
make_directory(void **state)
{
	(void)state;
	setenv("LC_ALL", "C.UTF-8", 1);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || !mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/s", dir);
	return 0;
}

static int
remove_directory(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

#define T(name) \
	cmocka_unit_test_setup_teardown(name, service_start, service_stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_attach_prints_one_line),
		T(test_a_refusal_has_its_code_and_sentence),
		T(test_nobody_there_is_3),
		T(test_another_protocol_is_told_with_its_remedy),
		T(test_progress_goes_to_stderr),
		T(test_a_lost_connection_is_made_again_in_silence),
		T(test_a_service_that_keeps_dying_is_given_up),
		T(test_silence_is_a_timeout),
		T(test_a_wrong_answer_is_named),
		T(test_ls_and_status_show_the_devices),
		T(test_events_are_told_once),
		T(test_descriptors_ride_along),
		T(test_login_sends_one_entry_whatever_it_reads),
		T(test_login_refuses_what_is_no_user_and_password),
		T(test_on_a_terminal_login_asks_without_echo),
		T(test_an_interrupted_login_leaves_the_terminal_as_it_was),
		T(test_promote_places_a_file_or_nothing),
		T(test_promote_replaces_no_more_than_a_file),
		T(test_an_interrupted_promote_leaves_nothing),
		T(test_keep_reads_its_list),
		T(test_pin_and_rm_name_an_image),
		T(test_gc_says_what_went_and_why_not),
		T(test_df_is_a_table),
		T(test_tables_fit_80_columns),
		T(test_verify_fails_if_damage_stays),
		T(test_shutdown_waits_for_the_end),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
