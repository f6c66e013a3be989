// SPDX-License-Identifier: Apache-2.0
/*
 * The real fetcherd, under its real policy, against tests/tools/registry.py:
 * this program plays the parent on descriptor 3 and cached on the link.  Each
 * way of answering wrongly happens once, must end in a clear failure, and once
 * the registry is put right the right bytes must come.  At the end the
 * registries' logs are read: no credential went to a wrong host, and the
 * requests and bytes that fetcherd reported are those that were served.
 *
 * Needs python3 and openssl(1); runs from the top of the checkout.
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <netdb.h>
#include <netinet/in.h>

#include <cmocka.h>
#include <event2/event.h>
#include <jansson.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/own.h"
#include "base/shm.h"
#include "ipc/ipc.h"
#include "ipc/parent.h"

#define BLOB_SIZE	(3 * 1024 * 1024 + 12345)
#define UNIT		(64 * 1024)
#define REPO		"test/base"
#define WAIT_S		30	/* for any answer */

#define CODE(name)	CTL_CODE(name)

/* ---- the other side: registries ---- */

struct registry {
	const char *name;
	pid_t pid;
	char host[64], other[64], admin[64];
	char manifest[DIGEST_TEXT + 1], erofs[DIGEST_TEXT + 1];
	char log[PATH_MAX];
};

static char dir[] = "/tmp/ssfetch.XXXXXX";
static uint8_t *blob;
static struct registry plain = { .name = "plain" };	/* anonymous */
static struct registry priv = { .name = "priv" };	/* alice:secret */
static struct registry tls = { .name = "tls" };		/* bob:hidden */

static void
path_in(char *out, const char *name)
{
	assert_true(snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX);
}

static void
take_string(json_t *j, const char *key, char *out, size_t size)
{
	const char *s = json_string_value(json_object_get(j, key));

	assert_non_null(s);
	assert_true(strlen(s) < size);
	strcpy(out, s);
}

static void
registry_start(struct registry *reg, const char *options)
{
	char command[4 * PATH_MAX], name[64], line[4096], file[PATH_MAX];
	_cleanup_fclose_ FILE *f = NULL;
	int out[2];
	json_t *j;

	snprintf(name, sizeof(name), "%s.log", reg->name);
	path_in(reg->log, name);
	path_in(file, "blob");
	snprintf(command, sizeof(command), "exec python3 "
	    "tests/tools/registry.py %s --log %s %s", file, reg->log, options);
	assert_return_code(pipe2(out, O_CLOEXEC), errno);
	reg->pid = fork();
	if (reg->pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	f = fdopen(out[0], "r");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	j = json_loads(line, 0, NULL);
	take_string(j, "registry", reg->host, sizeof(reg->host));
	take_string(j, "other", reg->other, sizeof(reg->other));
	take_string(j, "admin", reg->admin, sizeof(reg->admin));
	take_string(j, "manifest", reg->manifest, sizeof(reg->manifest));
	take_string(j, "erofs", reg->erofs, sizeof(reg->erofs));
	json_decref(j);
}

/* Tell the registry something. */
static void
tell(struct registry *reg, const char *path)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)atoi(strchr(reg->admin, ':') +
		    1)) };
	char text[512];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int n = snprintf(text, sizeof(text), "GET /_%s HTTP/1.1\r\nHost: x\r\n"
	    "Connection: close\r\n\r\n", path);

	assert_return_code(connect(fd, (struct sockaddr *)&to, sizeof(to)),
	    errno);
	assert_int_equal(write(fd, text, (size_t)n), n);
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

/* ---- the parent and cached ---- */

struct answer {
	bool done;
	int code;
	bool retry;
	char text[1024];
	unsigned status, retry_after, requests;
	uint64_t body_bytes;
	uint64_t size;
	bool range_ok;
	char media_type[256], digest[256];
	uint64_t offset, got;	/* of what was asked for, of what came */
	size_t manifest_len;
	uint64_t first_byte_us, total_us;
};

#define ANSWERS	128

static struct event_base *base;
static struct parent_link *child;
static struct ipc_link *conn;
static pid_t child_pid;
static bool ready, broken;
static struct answer answers[ANSWERS];
static uint64_t last_id;
static unsigned total_requests;
static uint64_t total_bytes;

/* The first thing that was wrong in a callback, where cmocka's assertions
 * would jump out of the event loop. */
static char problem[512];

#define EXPECT(is)                                                             \
	do {                                                                   \
		if (!(is) && !problem[0])                                      \
			snprintf(problem, sizeof(problem), "line %d: %s",      \
			    __LINE__, #is);                                    \
	} while (0)

static struct answer *
answer_of(uint64_t id)
{
	EXPECT(id > 0 && id <= last_id);
	return &answers[id % ANSWERS];
}

static void
on_manifest(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__Manifest *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	snprintf(a->media_type, sizeof(a->media_type), "%s", m->media_type);
	snprintf(a->digest, sizeof(a->digest), "%s", m->digest);
	a->manifest_len = msg->raw_len;
	if (msg->raw_len > 0) {
		struct digest d = digest_of(msg->raw, msg->raw_len);

		EXPECT(strcmp(digest_to_text(&d).text, a->digest) == 0);
	}
}

static void
on_blob_info(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__BlobInfo *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	a->size = m->size;
	a->range_ok = m->range_ok;
}

/* In order, unit by unit, and always the right bytes. */
static void
on_data(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__Data *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	EXPECT(!a->done);
	EXPECT(m->offset == a->offset + a->got);
	EXPECT(m->offset + msg->raw_len <= BLOB_SIZE);
	EXPECT(msg->raw_len <= UNIT);
	EXPECT(m->offset % UNIT + msg->raw_len <= UNIT);
	EXPECT(memcmp(msg->raw, blob + m->offset, msg->raw_len) == 0);
	a->got += msg->raw_len;
}

static void
on_fetch_done(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__FetchDone *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	EXPECT(!a->done);
	a->done = true;
	a->code = (int)m->code;
	a->retry = m->retry;
	snprintf(a->text, sizeof(a->text), "%s", m->text);
	a->status = m->http_status;
	a->retry_after = m->retry_after_s;
	a->requests = m->requests;
	a->body_bytes = m->body_bytes;
	a->first_byte_us = m->first_byte_us;
	a->total_us = m->total_us;
	total_requests += m->requests;
	total_bytes += m->body_bytes;
	/* what shed takes for something else */
	EXPECT(!strstr(m->text, "not found"));
	EXPECT(!strstr(m->text, "already exists"));
	EXPECT(!strstr(m->text, "not running"));
	/* nothing secret, and no signed link */
	EXPECT(!strstr(m->text, "secret"));
	EXPECT(!strstr(m->text, "hidden"));
	EXPECT(!strstr(m->text, "sig="));
	if (m->code != 0) {
		EXPECT(strstr(m->text, REPO));
		EXPECT(strchr(m->text, ';'));	/* the remedy */
	}
}

static void
link_closed(void *owner, struct ipc_link *l, int why)
{
	(void)owner;
	(void)why;
	if (l == conn) {
		conn = NULL;
		broken = true;
	}
	ipc_free(l);
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(MANIFEST), "Manifest", PEER_FETCHERD, PHASE_ANY, false, true, on_manifest },
	{ SUITE_BODY(BLOB_INFO), "BlobInfo", PEER_FETCHERD, PHASE_ANY, false, false, on_blob_info },
	{ SUITE_BODY(DATA), "Data", PEER_FETCHERD, PHASE_ANY, false, true, on_data },
	{ SUITE_BODY(FETCH_DONE), "FetchDone", PEER_FETCHERD, PHASE_ANY, false, false, on_fetch_done },
};

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
};

static void
child_message(void *owner, const struct parent_msg *msg, int fd)
{
	(void)owner;
	EXPECT(fd == -1);
	if (msg->type == CHILD_READY) {
		EXPECT(msg->count == (uint32_t)child_pid);
		ready = true;
	} else if (msg->type == CHILD_BROKEN) {
		EXPECT(msg->peer == PEER_CACHED);
		broken = true;
	}
}

static void
child_closed(void *owner)
{
	(void)owner;
	EXPECT(!"fetcherd ended");
}

static const struct parent_ops child_ops = {
	.message = child_message,
	.closed = child_closed,
};

static void
tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

/* Run the loop until *flag, or fail. */
static void
until(const bool *flag, const char *what)
{
	struct event *timer = event_new(base, -1, EV_PERSIST, tick, NULL);
	struct timeval tenth = { 0, 100000 };
	time_t end = time(NULL) + WAIT_S;

	event_add(timer, &tenth);
	while (!*flag && time(NULL) < end && !problem[0])
		event_base_loop(base, EVLOOP_ONCE);
	event_free(timer);
	if (problem[0])
		fail_msg("%s", problem);
	if (!*flag)
		fail_msg("no %s within %d s", what, WAIT_S);
}

static void
give(enum parent_type type, const char *text, int fd)
{
	struct parent_msg msg = { .type = type, .peer = PEER_CACHED };

	snprintf(msg.text, sizeof(msg.text), "%s", text);
	parent_send(child, &msg, fd);
}

static void
give_text(enum parent_type type, const char *text, const char *content)
{
	int fd = shm_sealed("test", content, strlen(content));

	assert_return_code(fd, -fd);
	give(type, text, fd);
}

static void
give_link(void)
{
	int pair[2];

	assert_int_equal(fd_pair(pair), 0);
	conn = ipc_new(base, pair[0], &table, PEER_FETCHERD, NULL);
	give(PARENT_PEER, "", pair[1]);
}

static void
fetcherd_start(void)
{
	char program[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	char *argv[] = { (char *)"fetcherd", NULL };
	int pair[2];

	/* build/tests/unit/THIS -> build/bin/fetcherd */
	assert_true(n > 0);
	program[n] = '\0';
	for (int i = 0; i < 3; i++)
		*strrchr(program, '/') = '\0';
	strcat(program, "/bin/fetcherd");
	assert_int_equal(fd_pair(pair), 0);
	child_pid = fork();
	if (child_pid == 0) {
		if (pair[1] == CHILD_FD)
			fd_cloexec(CHILD_FD, 0);
		else
			dup2(pair[1], CHILD_FD);
		execv(getenv("FETCHERD") ? getenv("FETCHERD") : program, argv);
		_exit(127);
	}
	close(pair[1]);
	child = parent_link_new(base, pair[0], &child_ops, NULL);
}

static void
configure(void)
{
	char text[2048], path[PATH_MAX];

	snprintf(text, sizeof(text), "[registry \"%s\"]\nauth-file = /x\n"
	    "[registry \"%s\"]\nca = /x\nauth-file = /x\n", priv.host,
	    tls.host);
	give_text(PARENT_CONF, "", text);
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"auth\": "
	    "\"YWxpY2U6c2VjcmV0\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"username\": "
	    "\"bob\", \"password\": \"hidden\"}}}", tls.host);
	give_text(PARENT_AUTH, tls.host, text);
	path_in(path, "cert.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
}

/* ---- asking ---- */

static struct answer *
answer_new(uint64_t offset)
{
	struct answer *a = &answers[++last_id % ANSWERS];

	*a = (struct answer){ .offset = offset };
	return a;
}

static struct answer *
ask_fetch(struct registry *reg, uint64_t offset, uint64_t length, bool whole)
{
	struct answer *a = answer_new(offset);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Fetch m = SUITE__FETCH__INIT;

	source.host = reg->host;
	source.repo = (char *)REPO;
	m.source = &source;
	m.digest = reg->erofs;
	m.offset = offset;
	m.length = length;
	m.size = BLOB_SIZE;
	m.unit = UNIT;
	m.plain = whole;
	ipc_send(conn, last_id, SUITE_BODY(FETCH), &m, NULL, 0, -1);
	return a;
}

static struct answer *
ask_stat(struct registry *reg)
{
	struct answer *a = answer_new(0);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Stat m = SUITE__STAT__INIT;

	source.host = reg->host;
	source.repo = (char *)REPO;
	m.source = &source;
	m.digest = reg->erofs;
	ipc_send(conn, last_id, SUITE_BODY(STAT), &m, NULL, 0, -1);
	return a;
}

static struct answer *
ask_resolve(const char *host, const char *repo, const char *reference)
{
	struct answer *a = answer_new(0);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Resolve m = SUITE__RESOLVE__INIT;

	source.host = (char *)host;
	source.repo = (char *)repo;
	m.source = &source;
	m.reference = (char *)reference;
	ipc_send(conn, last_id, SUITE_BODY(RESOLVE), &m, NULL, 0, -1);
	return a;
}

static struct answer *
wait_for(struct answer *a)
{
	until(&a->done, "answer");
	return a;
}

static void
want_ok(struct answer *a)
{
	wait_for(a);
	if (a->code != 0)
		fail_msg("failed: %s", a->text);
	assert_string_equal(a->text, "");
}

static void
want_range(struct registry *reg, uint64_t offset, uint64_t length)
{
	struct answer *a = ask_fetch(reg, offset, length, false);

	want_ok(a);
	assert_int_equal(a->got, length);
	assert_int_equal(a->status, 206);
	assert_true(a->first_byte_us > 0 && a->total_us >= a->first_byte_us);
}

/* Everything is well at this registry. */
static void
want_well(struct registry *reg)
{
	want_ok(ask_resolve(reg->host, REPO, "v1"));
	want_range(reg, 5 * UNIT, UNIT);
}

static void
want_failure(struct answer *a, int code, bool retry)
{
	wait_for(a);
	if (a->code != code || a->retry != retry)
		fail_msg("code %d retry %d, wanted %d %d: %s", a->code,
		    a->retry, code, retry, a->text);
	print_message("      %s\n", a->text);
}

/* ---- what goes well ---- */

static void
test_resolve_gives_the_manifest(void **state)
{
	struct answer *a = ask_resolve(plain.host, REPO, "v1");

	(void)state;
	want_ok(a);
	assert_string_equal(a->digest, plain.manifest);
	assert_string_equal(a->media_type,
	    "application/vnd.oci.image.manifest.v1+json");
	assert_int_equal(a->requests, 1);
	assert_int_equal(a->body_bytes, a->manifest_len);
	a = ask_resolve(plain.host, REPO, plain.manifest);
	want_ok(a);
	assert_string_equal(a->digest, plain.manifest);
}

static void
test_stat_gives_the_size(void **state)
{
	struct answer *a = ask_stat(&plain);

	(void)state;
	want_ok(a);
	assert_int_equal(a->size, BLOB_SIZE);
	assert_true(a->range_ok);
	tell(&plain, "fault?blob=full");
	a = ask_stat(&plain);
	want_ok(a);
	assert_int_equal(a->size, BLOB_SIZE);
	assert_false(a->range_ok);
	tell(&plain, "heal");
}

static void
test_fetch_gives_any_range_in_units(void **state)
{
	static const uint64_t ranges[][2] = {
		{ 0, UNIT }, { UNIT, 3 * UNIT }, { 5 * UNIT + 4096, 8192 },
		{ 100, 2 * UNIT }, { 0, BLOB_SIZE }, { BLOB_SIZE - 1, 1 },
		{ BLOB_SIZE / UNIT * UNIT, BLOB_SIZE % UNIT },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		want_range(&plain, ranges[i][0], ranges[i][1]);
}

static void
test_plain_fetch_gives_all(void **state)
{
	struct answer *a = ask_fetch(&plain, 0, BLOB_SIZE, true);

	(void)state;
	want_ok(a);
	assert_int_equal(a->got, BLOB_SIZE);
	assert_int_equal(a->status, 200);
	tell(&plain, "fault?blob=no-length");
	a = ask_fetch(&plain, 0, BLOB_SIZE, true);
	want_ok(a);
	assert_int_equal(a->got, BLOB_SIZE);
	tell(&plain, "heal");
}

static void
test_many_at_once(void **state)
{
	struct answer *a[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask_fetch(&plain, i % 40 * UNIT, UNIT, false);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		assert_int_equal(a[i]->got, UNIT);
	}
}

/* ---- what goes wrong ---- */

enum op { OP_RESOLVE, OP_STAT, OP_FETCH, OP_PLAIN };

struct wrong {
	const char *fault;	/* as registry.py is told */
	enum op op;
	int code;
	bool retry;
	unsigned status, retry_after;
};

static const struct wrong wrongs[] = {
	{ "blob=full", OP_FETCH, CODE(RANGE_UNSUPPORTED), false, 200, 0 },
	{ "blob=short", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=short", OP_PLAIN, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "blob=short-honest", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=short-honest", OP_PLAIN, CODE(SIZE_CHANGED), false, 200, 0 },
	{ "blob=range", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=range", OP_STAT, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=total", OP_FETCH, CODE(SIZE_CHANGED), false, 206, 0 },
	{ "blob=extra", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=extra-chunked", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=extra-chunked", OP_PLAIN, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "blob=encoded", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=status:404", OP_FETCH, CODE(BLOB_ABSENT), false, 404, 0 },
	{ "blob=status:404", OP_STAT, CODE(BLOB_ABSENT), false, 404, 0 },
	{ "blob=status:403", OP_FETCH, CODE(AUTH_DENIED), false, 403, 0 },
	{ "blob=status:416", OP_FETCH, CODE(SIZE_CHANGED), false, 416, 0 },
	{ "blob=retry:7", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 429, 7 },
	{ "blob=retry:999999", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 429, 3600 },
	{ "blob=status:500", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 500, 0 },
	{ "blob=status:503", OP_STAT, CODE(REGISTRY_UNREACHABLE), true, 503, 0 },
	{ "blob=status:304", OP_FETCH, CODE(REGISTRY_UNREACHABLE), false, 304, 0 },
	{ "blob=close", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=garbage", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=long-head", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=loop", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=chain", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=private", OP_FETCH, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "blob=link-local", OP_STAT, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "blob=mapped", OP_FETCH, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "blob=user", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=file", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=redirect:0", OP_FETCH, CODE(AUTH_DENIED), true, 403, 0 },
	{ "manifest=status:404", OP_RESOLVE, CODE(BLOB_ABSENT), false, 404, 0 },
	{ "manifest=status:502", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 502, 0 },
	{ "manifest=retry:2", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 429, 2 },
	{ "manifest=short", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "manifest=huge", OP_RESOLVE, CODE(UNSUPPORTED), false, 200, 0 },
	{ "manifest=encoded", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "manifest=loop", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "manifest=private", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "manifest=unauthorized", OP_RESOLVE, CODE(AUTH_DENIED), false, 401, 0 },
};

static struct answer *
ask(struct registry *reg, enum op op)
{
	switch (op) {
	case OP_RESOLVE:
		return ask_resolve(reg->host, REPO, "v1");
	case OP_STAT:
		return ask_stat(reg);
	case OP_FETCH:
		return ask_fetch(reg, 7 * UNIT, 2 * UNIT, false);
	case OP_PLAIN:
		break;
	}
	return ask_fetch(reg, 0, BLOB_SIZE, true);
}

static void
test_each_wrong_answer_is_a_clear_failure(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrongs); i++) {
		const struct wrong *w = &wrongs[i];
		char path[128];
		struct answer *a;

		print_message("   %s, %d\n", w->fault, (int)w->op);
		snprintf(path, sizeof(path), "fault?%s", w->fault);
		tell(&plain, path);
		a = ask(&plain, w->op);
		want_failure(a, w->code, w->retry);
		if (w->status > 0)
			assert_int_equal(a->status, w->status);
		assert_int_equal(a->retry_after, w->retry_after);
		tell(&plain, "heal");
		want_well(&plain);
	}
}

static void
test_silence_is_a_timeout(void **state)
{
	struct answer *a[3];
	time_t start = time(NULL);

	(void)state;
	tell(&plain, "fault?blob=hang&manifest=hang-head");
	a[0] = ask(&plain, OP_FETCH);
	a[1] = ask(&plain, OP_RESOLVE);
	a[2] = ask(&plain, OP_PLAIN);
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		want_failure(a[i], CODE(TIMEOUT), true);
	assert_true(time(NULL) - start >= 7 && time(NULL) - start <= 12);
	assert_true(a[0]->got > 0);	/* what came before was handed on */
	tell(&plain, "heal");
	want_well(&plain);
}

static void
test_nobody_there(void **state)
{
	struct answer *a = ask_resolve("127.0.0.1:1", REPO, "v1");

	(void)state;
	want_failure(a, CODE(REGISTRY_UNREACHABLE), true);
	assert_int_equal(a->requests, 0);
}

/* Names are looked up inside the sandbox, in a thread of curl's. */
static void
test_a_name_is_looked_up(void **state)
{
	struct addrinfo *list;
	char name[HOST_NAME_MAX + 1] = "", host[HOST_NAME_MAX + 16];
	struct answer *a;

	(void)state;
	a = ask_resolve("nosuchname.invalid", REPO, "v1");
	wait_for(a);
	assert_int_equal(a->code, CODE(REGISTRY_UNREACHABLE));
	assert_true(a->retry);
	if (gethostname(name, sizeof(name)) < 0 ||
	    getaddrinfo(name, NULL, NULL, &list) != 0)
		skip();		/* this host has no name of its own */
	freeaddrinfo(list);
	snprintf(host, sizeof(host), "%s:1", name);
	a = ask_resolve(host, REPO, "v1");
	wait_for(a);
	print_message("      %s\n", a->text);
	assert_int_equal(a->code, CODE(REGISTRY_UNREACHABLE));
	assert_non_null(strstr(a->text, "accept"));
}

static void
test_names_that_are_none(void **state)
{
	static const char *const names[][3] = {
		{ "127.0.0.1", "test/base/../x", "v1" },
		{ "127.0.0.1", "test/base?x", "v1" },
		{ "127.0.0.1", "test/base", "v1/../../x" },
		{ "127.0.0.1", "test/base", "" },
		{ "u@127.0.0.1", "test/base", "v1" },
		{ "127.0.0.1:0", "test/base", "v1" },
		{ "127.0.0.1:99999", "test/base", "v1" },
		{ "127.0.0.1/x", "test/base", "v1" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct answer *a = ask_resolve(names[i][0], names[i][1],
		    names[i][2]);

		want_failure(a, CODE(BAD_REQUEST), false);
		assert_int_equal(a->requests, 0);
	}
	/* ranges that no blob has */
	want_failure(ask_fetch(&plain, BLOB_SIZE, 1, false), CODE(BAD_REQUEST),
	    false);
	want_failure(ask_fetch(&plain, 1, UINT64_MAX, false),
	    CODE(BAD_REQUEST), false);
	want_failure(ask_fetch(&plain, 0, 0, false), CODE(BAD_REQUEST), false);
	want_failure(ask_fetch(&plain, 0, UNIT, true), CODE(BAD_REQUEST),
	    false);
}

/* ---- redirects ---- */

static void
test_a_redirect_is_followed_and_remembered(void **state)
{
	struct answer *a;

	(void)state;
	tell(&plain, "fault?blob=redirect");
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 2);
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 1);
	tell(&plain, "revoke");		/* the link is void: asked again */
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 3);
	tell(&plain, "heal");
}

static void
test_a_link_that_expires_is_renewed(void **state)
{
	(void)state;
	tell(&plain, "revoke");
	tell(&plain, "fault?blob=redirect:2");
	for (int i = 0; i < 8; i++) {
		struct answer *a = ask(&plain, OP_FETCH);

		want_ok(a);
		assert_int_equal(a->got, 2 * UNIT);
	}
	tell(&plain, "heal");
}

static void
test_a_broken_target_is_forgotten(void **state)
{
	(void)state;
	tell(&plain, "revoke");
	tell(&plain, "fault?blob=redirect");
	want_ok(ask(&plain, OP_FETCH));
	tell(&plain, "fault?target=full");
	want_failure(ask(&plain, OP_FETCH), CODE(RANGE_UNSUPPORTED), false);
	tell(&plain, "fault?target=short");
	want_failure(ask(&plain, OP_FETCH), CODE(REGISTRY_UNREACHABLE), true);
	tell(&plain, "heal");
	want_ok(ask(&plain, OP_FETCH));
	assert_int_equal(ask(&plain, OP_STAT)->got, 0);
	want_well(&plain);
}

/* ---- who we are ---- */

static void
test_basic(void **state)
{
	struct answer *a;

	(void)state;
	tell(&priv, "auth?mode=basic");
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 2);
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 1);
	tell(&priv, "fault?blob=unauthorized");
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), false);
	tell(&priv, "heal");
	want_well(&priv);
}

static void
test_bearer(void **state)
{
	struct answer *a;

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_true(a->requests == 3 || a->requests == 4);
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 1);
	tell(&priv, "revoke");		/* challenged, and a new token */
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 3);
}

static void
test_a_token_is_renewed_before_it_expires(void **state)
{
	(void)state;
	tell(&priv, "revoke");
	tell(&priv, "auth?mode=bearer&ttl=2");
	want_ok(ask(&priv, OP_FETCH));
	for (int i = 0; i < 6; i++) {
		struct answer *a = ask(&priv, OP_FETCH);

		want_ok(a);
		assert_true(a->requests <= 2);	/* 3: it was refused first */
		usleep(600000);
	}
}

static void
test_one_token_for_all_who_wait(void **state)
{
	struct answer *a[20];
	unsigned requests = 0;

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	tell(&priv, "revoke");
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask(&priv, OP_FETCH);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		requests += a[i]->requests;
	}
	/* each was refused at most once; one or two tokens were asked for */
	assert_true(requests <= 2 * ARRAY_LEN(a) + 2);
}

static void
test_token_server_faults(void **state)
{
	static const struct {
		const char *fault;
		int code;
		bool retry;
	} cases[] = {
		{ "token=bad-token", CODE(AUTH_DENIED), false },
		{ "token=garbage", CODE(AUTH_DENIED), true },
		{ "token=huge", CODE(AUTH_DENIED), true },
		{ "token=status:401", CODE(AUTH_DENIED), false },
		{ "token=retry:3", CODE(REGISTRY_UNREACHABLE), true },
		{ "token=status:500", CODE(REGISTRY_UNREACHABLE), true },
		{ "token=close", CODE(REGISTRY_UNREACHABLE), true },
		{ "token=loop", CODE(REGISTRY_UNREACHABLE), false },
		{ "blob=unauthorized", CODE(AUTH_DENIED), false },
		{ "blob=realm-private", CODE(AUTH_DENIED), false },
		{ "blob=realm-inside", CODE(REGISTRY_UNREACHABLE), false },
	};

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char path[128];

		print_message("   %s\n", cases[i].fault);
		tell(&priv, "revoke");
		snprintf(path, sizeof(path), "fault?%s", cases[i].fault);
		tell(&priv, path);
		want_failure(ask(&priv, OP_FETCH), cases[i].code,
		    cases[i].retry);
		tell(&priv, "heal");
		want_well(&priv);
	}
}

static void
test_a_token_server_that_hangs(void **state)
{
	struct answer *a[3];

	(void)state;
	tell(&priv, "revoke");
	tell(&priv, "fault?token=hang-head");
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask(&priv, OP_FETCH);
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		want_failure(a[i], CODE(TIMEOUT), true);
	tell(&priv, "heal");
	want_well(&priv);
}

static void
test_a_target_gets_no_credentials(void **state)
{
	(void)state;
	tell(&priv, "auth?mode=basic");
	tell(&priv, "fault?blob=redirect");
	want_ok(ask(&priv, OP_FETCH));
	tell(&priv, "auth?mode=bearer");
	tell(&priv, "revoke");
	want_ok(ask(&priv, OP_FETCH));
	/* one that asks for them gets none either */
	tell(&priv, "fault?target=unauthorized");
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), true);
	tell(&priv, "heal");
	want_well(&priv);
}

/* A storage that sends us back does not get a request made in our name. */
static void
test_a_target_may_not_borrow_credentials(void **state)
{
	(void)state;
	tell(&priv, "auth?mode=basic");
	tell(&priv, "revoke");
	want_ok(ask(&priv, OP_FETCH));
	tell(&priv, "fault?blob=redirect&target=back&times=1");
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), true);
	tell(&priv, "heal");
	want_well(&priv);
}

static void
test_new_credentials_count_at_once(void **state)
{
	char text[512];

	(void)state;
	tell(&priv, "auth?mode=basic");
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"username\": "
	    "\"alice\", \"password\": \"wrong\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	usleep(100000);
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), false);
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"identitytoken\":"
	    " \"x\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	usleep(100000);
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), false);
	snprintf(text, sizeof(text), "{\"auths\": {\"https://%s/v1/\": "
	    "{\"auth\": \"YWxpY2U6c2VjcmV0\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	usleep(100000);
	want_well(&priv);
}

/* ---- TLS ---- */

static void
test_tls_with_its_own_ca(void **state)
{
	(void)state;
	want_well(&tls);
	want_range(&tls, 0, BLOB_SIZE);
	tell(&tls, "fault?blob=redirect");
	want_ok(ask(&tls, OP_FETCH));
	tell(&tls, "revoke");
	tell(&tls, "heal");
}

static void
test_https_never_leads_to_http(void **state)
{
	(void)state;
	tell(&tls, "fault?blob=downgrade");
	want_failure(ask(&tls, OP_FETCH), CODE(REGISTRY_UNREACHABLE), false);
	tell(&tls, "heal");
	tell(&tls, "revoke");
	tell(&tls, "auth?mode=bearer");
	tell(&tls, "fault?blob=realm-http");
	want_failure(ask(&tls, OP_FETCH), CODE(AUTH_DENIED), false);
	tell(&tls, "heal");
	want_well(&tls);
	tell(&tls, "auth?mode=none");
}

static void
test_an_unknown_certificate_is_refused(void **state)
{
	char path[PATH_MAX];
	struct answer *a;

	(void)state;
	path_in(path, "other.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
	usleep(100000);
	a = ask(&tls, OP_FETCH);
	want_failure(a, CODE(REGISTRY_UNREACHABLE), false);
	assert_int_equal(a->requests, 0);
	path_in(path, "cert.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
	usleep(100000);
	want_well(&tls);
}

static void
test_insecure_is_https_unchecked_or_http(void **state)
{
	char text[512], path[PATH_MAX];

	(void)state;
	path_in(path, "other.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
	snprintf(text, sizeof(text), "[registry \"%s\"]\ninsecure = yes\n"
	    "[registry \"%s\"]\ninsecure = yes\n", plain.host, tls.host);
	give_text(PARENT_CONF, "", text);
	usleep(100000);
	want_well(&tls);
	want_well(&plain);
	configure();
	usleep(100000);
	want_well(&tls);
	want_well(&plain);
}

/* ---- memory, cancelling, links ---- */

static long
rss_anon_kb(void)
{
	char path[64], line[256];
	_cleanup_fclose_ FILE *f = NULL;
	long kb = -1;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)child_pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %ld", &kb) == 1)
			break;
	return kb;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED	1
#else
#define SANITIZED	0
#endif

static void
test_a_slow_cached_costs_no_memory(void **state)
{
	struct answer *a[32];
	long kb;

	(void)state;
	if (SANITIZED)
		skip();		/* its memory is the sanitizer's */
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask_fetch(&plain, 0, BLOB_SIZE, false);
	sleep(10);		/* longer than the idle limit, which must rest */
	kb = rss_anon_kb();
	print_message("   RssAnon %ld KiB\n", kb);
	if (!getenv("FETCHERD"))
		assert_true(kb > 0 && kb < 32 * 1024);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		assert_int_equal(a[i]->got, BLOB_SIZE);
	}
}

static void
test_cancel(void **state)
{
	Suite__CancelFetch m = SUITE__CANCEL_FETCH__INIT;
	struct answer *a;
	uint64_t id;

	(void)state;
	tell(&plain, "fault?blob=hang");
	a = ask(&plain, OP_FETCH);
	id = last_id;
	for (int i = 0; i < 1000 && a->got == 0; i++)
		event_base_loop(base, EVLOOP_ONCE);
	ipc_send(conn, id, SUITE_BODY(CANCEL_FETCH), &m, NULL, 0, -1);
	ipc_send(conn, id, SUITE_BODY(CANCEL_FETCH), &m, NULL, 0, -1);
	want_failure(a, CODE(CANCELLED), true);
	tell(&plain, "heal");
	want_well(&plain);
	total_bytes -= a->body_bytes;	/* the server sent more */
}

static void
test_a_new_link_replaces_the_old(void **state)
{
	struct ipc_link *old = conn;

	(void)state;
	tell(&plain, "fault?blob=hang");
	ask(&plain, OP_FETCH);
	ask(&plain, OP_FETCH);
	usleep(300000);
	conn = NULL;
	give_link();
	tell(&plain, "heal");
	want_well(&plain);
	(void)old;	/* freed by link_closed() */
}

static void
test_a_broken_protocol_is_reported(void **state)
{
	static const char nonsense[] = "\0\0\0\4\0\0\0\0\377\377\377\377";
	int pair[2];

	(void)state;
	assert_int_equal(fd_pair(pair), 0);
	assert_int_equal(write(pair[0], nonsense, sizeof(nonsense) - 1),
	    sizeof(nonsense) - 1);
	broken = false;
	give(PARENT_PEER, "", pair[1]);
	until(&broken, "CHILD_BROKEN");
	close(pair[0]);
	give_link();
	want_well(&plain);
}

/* ---- the logs ---- */

static bool
starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* One line of a registry's log: no secret where it does not belong. */
static void
check_line(const struct registry *reg, const json_t *j)
{
	const char *role = json_string_value(json_object_get(j, "role"));
	const char *path = json_string_value(json_object_get(j, "path"));
	const json_t *headers = json_object_get(j, "headers");
	const char *auth = json_string_value(json_object_get(headers,
	    "Authorization"));
	const char *agent = json_string_value(json_object_get(headers,
	    "User-Agent"));
	const char *host = json_string_value(json_object_get(headers, "Host"));

	assert_true(agent && starts(agent, "shedstream/"));
	assert_null(json_object_get(headers, "Cookie"));
	if (strcmp(role, "plain") == 0)
		fail_msg("%s: something came over plain HTTP: %s", reg->name,
		    path);
	if (!auth)
		return;
	assert_null(strstr(path, "back=1"));
	if (starts(auth, "Basic ") && strcmp(role, "other") == 0)
		assert_true(starts(path, "/token"));
	else
		assert_string_equal(host, reg->host);
	assert_true(reg == &priv || starts(auth, "Bearer ") ||
	    (reg == &tls && starts(path, "/token")));
}

static void
check_log(const struct registry *reg, unsigned *requests, uint64_t *bytes)
{
	_cleanup_fclose_ FILE *f = fopen(reg->log, "r");
	char *line = NULL;
	size_t size = 0;

	assert_non_null(f);
	while (getline(&line, &size, f) > 0) {
		json_t *j = json_loads(line, 0, NULL);

		assert_non_null(j);
		check_line(reg, j);
		++*requests;
		*bytes += (uint64_t)json_integer_value(json_object_get(j,
		    "sent"));
		json_decref(j);
	}
	free(line);
}

static void
test_the_logs_agree(void **state)
{
	unsigned requests = 0;
	uint64_t bytes = 0;

	(void)state;
	sleep(1);
	check_log(&plain, &requests, &bytes);
	check_log(&priv, &requests, &bytes);
	check_log(&tls, &requests, &bytes);
	print_message("   %u requests served, %u reported; %llu bytes served, "
	    "%llu reported\n", requests, total_requests,
	    (unsigned long long)bytes, (unsigned long long)total_bytes);
	/* two fetches ended with their link and reported nothing */
	assert_int_equal(requests, total_requests + 2);
	/* bodies that were refused unread were sent in part */
	assert_true(total_bytes <= bytes);
}

/* ---- start and end ---- */

static void
make_blob(void)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[PATH_MAX];
	uint64_t x = 88172645463325252;

	blob = malloc(BLOB_SIZE);
	assert_non_null(blob);
	for (size_t i = 0; i < BLOB_SIZE; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		blob[i] = (uint8_t)x;
	}
	path_in(path, "blob");
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(blob, 1, BLOB_SIZE, f), BLOB_SIZE);
}

static void
make_certificate(const char *name)
{
	char command[2048];

	snprintf(command, sizeof(command), "cd %s && openssl req -x509 "
	    "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "
	    "/CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost "
	    "-keyout %s.key -out %s.pem 2>/dev/null", dir, name, name);
	assert_int_equal(system(command), 0);
}

static int
start(void **state)
{
	char options[2 * PATH_MAX + 128];

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	assert_non_null(mkdtemp(dir));
	make_blob();
	make_certificate("cert");
	make_certificate("other");
	registry_start(&plain, "");
	registry_start(&priv, "--auth basic --user alice:secret");
	snprintf(options, sizeof(options), "--tls-cert %s/cert.pem "
	    "--tls-key %s/cert.key --user bob:hidden", dir, dir);
	registry_start(&tls, options);
	base = event_base_new();
	fetcherd_start();
	configure();
	give_link();
	give(PARENT_GO, "", -1);
	until(&ready, "CHILD_READY");
	return 0;
}

static int
end(void **state)
{
	pid_t pids[] = { plain.pid, priv.pid, tls.pid };
	char command[sizeof(dir) + 16];
	int status;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
		if (pids[i] <= 0)
			continue;
		kill(pids[i], SIGTERM);
		waitpid(pids[i], NULL, 0);
	}
	parent_link_free(child);
	child = NULL;
	if (conn)
		ipc_free(conn);
	waitpid(child_pid, &status, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	event_base_free(base);
	free(blob);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resolve_gives_the_manifest),
		cmocka_unit_test(test_stat_gives_the_size),
		cmocka_unit_test(test_fetch_gives_any_range_in_units),
		cmocka_unit_test(test_plain_fetch_gives_all),
		cmocka_unit_test(test_many_at_once),
		cmocka_unit_test(test_each_wrong_answer_is_a_clear_failure),
		cmocka_unit_test(test_silence_is_a_timeout),
		cmocka_unit_test(test_nobody_there),
		cmocka_unit_test(test_a_name_is_looked_up),
		cmocka_unit_test(test_names_that_are_none),
		cmocka_unit_test(test_a_redirect_is_followed_and_remembered),
		cmocka_unit_test(test_a_link_that_expires_is_renewed),
		cmocka_unit_test(test_a_broken_target_is_forgotten),
		cmocka_unit_test(test_basic),
		cmocka_unit_test(test_bearer),
		cmocka_unit_test(test_a_token_is_renewed_before_it_expires),
		cmocka_unit_test(test_one_token_for_all_who_wait),
		cmocka_unit_test(test_token_server_faults),
		cmocka_unit_test(test_a_token_server_that_hangs),
		cmocka_unit_test(test_a_target_gets_no_credentials),
		cmocka_unit_test(test_a_target_may_not_borrow_credentials),
		cmocka_unit_test(test_new_credentials_count_at_once),
		cmocka_unit_test(test_tls_with_its_own_ca),
		cmocka_unit_test(test_https_never_leads_to_http),
		cmocka_unit_test(test_an_unknown_certificate_is_refused),
		cmocka_unit_test(test_insecure_is_https_unchecked_or_http),
		cmocka_unit_test(test_a_slow_cached_costs_no_memory),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_a_new_link_replaces_the_old),
		cmocka_unit_test(test_a_broken_protocol_is_reported),
		cmocka_unit_test(test_the_logs_agree),
	};

	if (geteuid() == 0 && !getpwnam("_shedfetch")) {
		printf("1..1\nok 1 # skip user _shedfetch is missing; see "
		    "tests/tools/users.sh\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, start, end);
}
