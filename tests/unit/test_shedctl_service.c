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

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
	char imported[16];
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
	d.stalled_reads = 2;
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
	if (pread(fd, shared->imported, sizeof(shared->imported) - 1, 0) < 0)
		return;
	send_done(link, msg->id);
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
	shared->keep = (unsigned)((const CTL(Keep) *)msg->body)->n_digests;
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
	RULE(KEEP, false, on_keep),
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

/* Run "shedctl --socket ... line"; its output and status into `ran`. */
static void
run(const char *line)
{
	static char text[512];
	char *argv[32] = { NULL };
	_cleanup_fclose_ FILE *out = tmpfile(), *err = tmpfile();
	int argc = 0, status;
	pid_t pid;

	snprintf(text, sizeof(text), "shedctl --socket %s %s", path, line);
	for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		dup2(fileno(out), STDOUT_FILENO);
		dup2(fileno(err), STDERR_FILENO);
		client_answer_ms = 300;
		client_tries_ms = 1000;
		status = shedctl_main(argc, argv);
		fflush(NULL);
		_exit(status);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	slurp(out, ran.out);
	slurp(err, ran.err);
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
	run("df");
	ran_as(1, "", "shedctl: UNSUPPORTED: this is not built yet; use");
	run("pin x --json");
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
	ran_as(0, "NAME  STATE  AS   RUNG           SIZE  HERE  USERS  IMAGE\n"
	    "one   lazy   nbd  complete  784.0 MiB   50%      1  "
	    "127.0.0.1:5000/test/base:v1\n"
	    "two   lazy   nbd  complete  784.0 MiB   50%      1  "
	    "127.0.0.1:5000/test/base:v1\n", "");
	run("status");
	assert_int_equal(ran.status, 0);
	assert_non_null(strstr(ran.out, "\nchunks          6272 of 12544 "
	    "present (50%)\n"));
	assert_non_null(strstr(ran.out, "\nstalled reads   2\n"));
	assert_non_null(strstr(ran.out, "\nlast error      "
	    "REGISTRY_UNREACHABLE: \"\\xff\" no route\n"));
	assert_non_null(strstr(ran.out, "\nconsumers       uid:0/default\n"));
	run("ls --json");
	assert_int_equal(ran.status, 0);
	assert_int_equal(strncmp(ran.out, "{\"devices\":[{\"name\":\"one\",",
	    26), 0);
	assert_non_null(strstr(ran.out,
	    "\"chunks\":{\"total\":12544,\"present\":6272}"));
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
	run("import img /dev/null");
	ran_as(1, "", "shedctl: BAD_REQUEST: /dev/null is no regular file");
	snprintf(line, sizeof(line), "promote img %s", file);
	run(line);
	ran_as(1, "", "shedctl: UNSUPPORTED: ");
	run("flight one");
	ran_as(0, "opaque", "");
	snprintf(line, sizeof(line), "flight one -o %s", file);
	run(line);
	ran_as(0, "", "");
	snprintf(line, sizeof(line), "grep -q '^opaque$' %s && "
	    "test $(ls %s | wc -l) -eq 2", file, dir);
	assert_int_equal(system(line), 0);	/* promote left nothing */
	unlink(file);
}

static void
test_keep_reads_its_list(void **state)
{
	char line[256], file[64];
	FILE *f;

	(void)state;
	snprintf(file, sizeof(file), "%s/keep", dir);
	f = fopen(file, "w");
	fprintf(f, "# mine\n\nsha256:%064d\nsha256:%064d\r\n", 1, 2);
	fclose(f);
	snprintf(line, sizeof(line), "keep %s --owner shed", file);
	run(line);
	ran_as(0, "", "");
	assert_int_equal(shared->keep, 2);
	assert_string_equal(shared->owner, "shed");
	f = fopen(file, "a");
	for (int i = 0; i < 2000; i++)
		fprintf(f, "sha256:%064d\n", i);
	fclose(f);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: the request is larger than 64");
	f = fopen(file, "w");
	fputs("sha256:12\n", f);
	fclose(f);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: ");
	assert_non_null(strstr(ran.err, "keep:1 is no sha256:HEX"));
	unlink(file);
	run(line);
	ran_as(1, "", "shedctl: BAD_REQUEST: cannot read ");
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
		T(test_keep_reads_its_list),
		T(test_shutdown_waits_for_the_end),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
