/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays devd's parent on descriptor 3 and cached on the link for a real
 * fetcherd under its real policy, between it and three of
 * tests/tools/registry.py.  What comes is checked as it comes; test_fetch_log.h
 * reads what the registries wrote down.
 *
 * Needs python3 and openssl(1); runs from the top of the checkout.
 */
#ifndef TESTS_UNIT_TEST_FETCH_HOST_H
#define TESTS_UNIT_TEST_FETCH_HOST_H

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
#define TYPE		"application/vnd.a+b.v1"	/* of artifacts; '+' is a blank if not encoded */
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

static inline void
path_in(char *out, const char *name)
{
	assert_true(snprintf(out, PATH_MAX, "%s/%s", dir, name) < PATH_MAX);
}

static inline void
take_string(json_t *j, const char *key, char *out, size_t size)
{
	const char *s = json_string_value(json_object_get(j, key));

	assert_non_null(s);
	assert_true(strlen(s) < size);
	strcpy(out, s);
}

static inline void
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

/* tests/tools/proxy.py, to which every name is this machine's loopback; its
 * HOST:PORT. */
static inline pid_t
proxy_start(char host[64])
{
	char log[PATH_MAX];
	_cleanup_fclose_ FILE *f = NULL;
	int out[2];
	pid_t pid;

	path_in(log, "proxy.log");
	assert_return_code(pipe2(out, O_CLOEXEC), errno);
	pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execlp("python3", "python3", "tests/tools/proxy.py", "--log",
		    log, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	f = fdopen(out[0], "r");
	assert_non_null(f);
	assert_non_null(fgets(host, 64, f));
	host[strcspn(host, "\n")] = '\0';
	return pid;
}

/* Tell the registry something. */
static inline void
tell(struct registry *reg, const char *path)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)atoi(strchr(reg->admin, ':') +
		    1)) };
	char text[4096];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int n = snprintf(text, sizeof(text), "GET /_%s HTTP/1.1\r\nHost: x\r\n"
	    "Connection: close\r\n\r\n", path);

	assert_true(n < (int)sizeof(text));
	assert_return_code(connect(fd, (struct sockaddr *)&to, sizeof(to)),
	    errno);
	assert_int_equal(write(fd, text, (size_t)n), n);
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

/* The same, with a text of any bytes behind. */
static inline void
tell_text(struct registry *reg, const char *path, const char *text)
{
	char whole[4000];
	size_t n = (size_t)snprintf(whole, sizeof(whole), "%s", path);

	for (; *text; text++, n += 3) {
		assert_true(n + 4 < sizeof(whole));
		snprintf(whole + n, 4, "%%%02X", (unsigned char)*text);
	}
	tell(reg, whole);
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
	const uint32_t *pieces;	/* asked for; NULL: units */
	size_t n_pieces, piece;
	char referring[16][DIGEST_TEXT + 1];
	size_t n_referring;
	bool referred;
	size_t manifest_len;
	uint64_t first_byte_us, total_us, rtt_us;
	bool warm;
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
			snprintf(problem, sizeof(problem), "%s:%d: %s",        \
			    __FILE__, __LINE__, #is);                                    \
	} while (0)

static inline struct answer *
answer_of(uint64_t id)
{
	EXPECT(id > 0 && id <= last_id);
	return &answers[id % ANSWERS];
}

static inline void
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

static inline void
on_blob_info(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__BlobInfo *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	a->size = m->size;
	a->range_ok = m->range_ok;
}

static inline void
on_referring(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__Referring *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	EXPECT(!a->done && !a->referred);
	EXPECT(m->n_digests <= ARRAY_LEN(a->referring));
	a->referred = true;
	for (size_t i = 0; i < m->n_digests && !problem[0]; i++) {
		struct digest d;

		EXPECT(digest_parse(m->digests[i], &d) == 0);
		snprintf(a->referring[i], sizeof(a->referring[i]), "%s",
		    m->digests[i]);
		a->n_referring++;
	}
}

/* In order, unit by unit or as the pieces say, and always the right bytes. */
static inline void
on_data(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	const Suite__Data *m = msg->body;
	struct answer *a = answer_of(msg->id);

	(void)owner;
	(void)l;
	EXPECT(!a->done);
	EXPECT(m->offset == a->offset + a->got);
	EXPECT(m->offset + msg->raw_len <= BLOB_SIZE);
	if (a->pieces) {
		EXPECT(a->piece < a->n_pieces);
		EXPECT(!problem[0] && msg->raw_len == a->pieces[a->piece]);
		a->piece++;
	} else {
		EXPECT(msg->raw_len <= UNIT);
		EXPECT(m->offset % UNIT + msg->raw_len <= UNIT);
	}
	EXPECT(memcmp(msg->raw, blob + m->offset, msg->raw_len) == 0);
	a->got += msg->raw_len;
}

static inline void
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
	a->rtt_us = m->rtt_us;
	a->warm = m->warm;
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

static char told[64];		/* whose credentials were said to be new */
static unsigned n_told;

static inline void
on_credentials(void *owner, struct ipc_link *l, struct ipc_message *msg)
{
	(void)owner;
	(void)l;
	snprintf(told, sizeof(told), "%s",
	    ((const Suite__Credentials *)msg->body)->host);
	n_told++;
}

static inline void
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
	{ SUITE_BODY(REFERRING), "Referring", PEER_FETCHERD, PHASE_ANY, false, false, on_referring },
	{ SUITE_BODY(DATA), "Data", PEER_FETCHERD, PHASE_ANY, false, true, on_data },
	{ SUITE_BODY(CREDENTIALS), "Credentials", PEER_FETCHERD, PHASE_ANY, false, false, on_credentials },
	{ SUITE_BODY(FETCH_DONE), "FetchDone", PEER_FETCHERD, PHASE_ANY, false, false, on_fetch_done },
};

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
};

static inline void
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

static inline void
child_closed(void *owner)
{
	(void)owner;
	EXPECT(!"fetcherd ended");
}

static const struct parent_ops child_ops = {
	.message = child_message,
	.closed = child_closed,
};

static inline void
tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

/* Run the loop until *flag, or fail. */
static inline void
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

static inline void
give(enum parent_type type, const char *text, int fd)
{
	struct parent_msg msg = { .type = type, .peer = PEER_CACHED };

	snprintf(msg.text, sizeof(msg.text), "%s", text);
	parent_send(child, &msg, fd);
}

static inline void
give_text(enum parent_type type, const char *text, const char *content)
{
	int fd = shm_sealed("test", content, strlen(content));

	assert_return_code(fd, -fd);
	give(type, text, fd);
}

static inline void
give_link(void)
{
	int pair[2];

	assert_int_equal(fd_pair(pair), 0);
	conn = ipc_new(base, pair[0], &table, PEER_FETCHERD, NULL);
	give(PARENT_PEER, "", pair[1]);
}

static inline void
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

/* What a test adds: servers and files, before fetcherd is configured, and lines
 * of the configuration. */
static void (*start_more)(void);
static char conf_more[4096];

static inline void
configure(void)
{
	char text[8192], path[PATH_MAX];

	snprintf(text, sizeof(text), "[registry \"%s\"]\nauth-file = /x\n"
	    "[registry \"%s\"]\nca = /x\nauth-file = /x\n%s", priv.host,
	    tls.host, conf_more);
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

/* What is asked for: at which mirror, by which connection. */
static const char *via = "";
static bool fresh, background;

static inline struct answer *
answer_new(uint64_t offset)
{
	struct answer *a = &answers[++last_id % ANSWERS];

	*a = (struct answer){ .offset = offset };
	return a;
}

/* By units; or by pieces, if there are any, which live until the answer. */
static inline struct answer *
ask_pieces(struct registry *reg, uint64_t offset, uint64_t length, bool whole,
    uint32_t unit, const uint32_t *pieces, size_t n_pieces)
{
	struct answer *a = answer_new(offset);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Fetch m = SUITE__FETCH__INIT;

	a->pieces = pieces;
	a->n_pieces = n_pieces;

	source.host = reg->host;
	source.repo = (char *)REPO;
	source.mirror = (char *)via;
	m.source = &source;
	m.digest = reg->erofs;
	m.offset = offset;
	m.length = length;
	m.size = BLOB_SIZE;
	m.unit = unit;
	m.pieces = (uint32_t *)pieces;
	m.n_pieces = n_pieces;
	m.plain = whole;
	m.fresh = fresh;
	m.background = background;
	ipc_send(conn, last_id, SUITE_BODY(FETCH), &m, NULL, 0, -1);
	return a;
}

static inline struct answer *
ask_fetch(struct registry *reg, uint64_t offset, uint64_t length, bool whole)
{
	return ask_pieces(reg, offset, length, whole, UNIT, NULL, 0);
}

static inline struct answer *
ask_referrers(struct registry *reg, const char *digest, const char *type)
{
	struct answer *a = answer_new(0);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Referrers m = SUITE__REFERRERS__INIT;

	source.host = reg->host;
	source.repo = (char *)REPO;
	source.mirror = (char *)via;
	m.source = &source;
	m.digest = (char *)digest;
	m.artifact_type = (char *)type;
	ipc_send(conn, last_id, SUITE_BODY(REFERRERS), &m, NULL, 0, -1);
	return a;
}

static inline struct answer *
ask_stat(struct registry *reg)
{
	struct answer *a = answer_new(0);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Stat m = SUITE__STAT__INIT;

	source.host = reg->host;
	source.repo = (char *)REPO;
	source.mirror = (char *)via;
	m.source = &source;
	m.digest = reg->erofs;
	ipc_send(conn, last_id, SUITE_BODY(STAT), &m, NULL, 0, -1);
	return a;
}

static inline struct answer *
ask_resolve(const char *host, const char *repo, const char *reference)
{
	struct answer *a = answer_new(0);
	Suite__Source source = SUITE__SOURCE__INIT;
	Suite__Resolve m = SUITE__RESOLVE__INIT;

	source.host = (char *)host;
	source.repo = (char *)repo;
	source.mirror = (char *)via;
	m.source = &source;
	m.reference = (char *)reference;
	ipc_send(conn, last_id, SUITE_BODY(RESOLVE), &m, NULL, 0, -1);
	return a;
}

static inline struct answer *
wait_for(struct answer *a)
{
	until(&a->done, "answer");
	return a;
}

static inline void
want_ok(struct answer *a)
{
	wait_for(a);
	if (a->code != 0)
		fail_msg("failed: %s", a->text);
	assert_string_equal(a->text, "");
}

static inline void
want_range(struct registry *reg, uint64_t offset, uint64_t length)
{
	struct answer *a = ask_fetch(reg, offset, length, false);

	want_ok(a);
	assert_int_equal(a->got, length);
	assert_int_equal(a->status, 206);
	assert_true(a->first_byte_us > 0 && a->total_us >= a->first_byte_us);
}

/* In the registry are now n more manifests with that subject and type. */
static inline void
refer(struct registry *reg, const char *subject, const char *type, unsigned n)
{
	char path[256];

	snprintf(path, sizeof(path), "refer?to=%s&type=", subject);
	while (n-- > 0)
		tell_text(reg, path, type);
}

/* The first n that refer() has made of that subject and type, and no others. */
static inline void
want_referring(struct answer *a, const char *subject, const char *type,
    unsigned n)
{
	want_ok(a);
	assert_true(a->referred);
	assert_int_equal(a->n_referring, n);
	for (unsigned i = 0; i < n; i++) {
		char made_up[256];
		struct digest d;

		snprintf(made_up, sizeof(made_up), "%s %s %u", subject, type,
		    i);
		d = digest_of(made_up, strlen(made_up));
		assert_string_equal(a->referring[i], digest_to_text(&d).text);
	}
}

/* Everything is well at this registry. */
static inline void
want_well(struct registry *reg)
{
	want_ok(ask_resolve(reg->host, REPO, "v1"));
	want_range(reg, 5 * UNIT, UNIT);
}

static inline void
want_failure(struct answer *a, int code, bool retry)
{
	wait_for(a);
	if (a->code != code || a->retry != retry)
		fail_msg("code %d retry %d, wanted %d %d: %s", a->code,
		    a->retry, code, retry, a->text);
	print_message("      %s\n", a->text);
}

enum op { OP_RESOLVE, OP_STAT, OP_FETCH, OP_PLAIN, OP_REFERRERS };

static inline struct answer *
ask(struct registry *reg, enum op op)
{
	switch (op) {
	case OP_RESOLVE:
		return ask_resolve(reg->host, REPO, "v1");
	case OP_STAT:
		return ask_stat(reg);
	case OP_FETCH:
		return ask_fetch(reg, 7 * UNIT, 2 * UNIT, false);
	case OP_REFERRERS:
		return ask_referrers(reg, reg->manifest, TYPE);
	case OP_PLAIN:
		break;
	}
	return ask_fetch(reg, 0, BLOB_SIZE, true);
}

/* ---- memory ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED	1
#else
#define SANITIZED	0
#endif

static inline long
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

/* What cached does not take stays in the registry, and not in fetcherd's memory:
 * 32 fetches, of the whole blob and, each other one, of so many bytes. */
static inline void
slow_cached(struct registry *reg, uint64_t every_other)
{
	struct answer *a[32];
	long kb;

	if (SANITIZED)
		skip();		/* its memory is the sanitizer's */
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask_fetch(reg, 0, i % 2 ? BLOB_SIZE : every_other,
		    false);
	sleep(10);		/* longer than the idle limit, which must rest */
	kb = rss_anon_kb();
	print_message("   RssAnon %ld KiB\n", kb);
	if (!getenv("FETCHERD"))
		assert_true(kb > 0 && kb < 32 * 1024);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		assert_int_equal(a[i]->got, i % 2 ? BLOB_SIZE : every_other);
	}
}

/* ---- start and end ---- */

static inline void
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

static inline void
make_certificate(const char *name)
{
	char command[2048];

	snprintf(command, sizeof(command), "cd %s && openssl req -x509 "
	    "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "
	    "/CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost,"
	    "DNS:secure.test "
	    "-keyout %s.key -out %s.pem 2>/dev/null", dir, name, name);
	assert_int_equal(system(command), 0);
}

static inline int
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
	if (start_more)
		start_more();
	configure();
	give_link();
	give(PARENT_GO, "", -1);
	until(&ready, "CHILD_READY");
	return 0;
}

static inline int
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

/* Of a fetcherd that root starts. */
static inline bool
host_has_users(void)
{
	if (geteuid() != 0 || getpwnam("_shedfetch"))
		return true;
	printf("1..1\nok 1 # skip user _shedfetch is missing; see "
	    "tests/tools/users.sh\n");
	return false;
}

#endif
