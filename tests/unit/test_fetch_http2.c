// SPDX-License-Identifier: Apache-2.0
/*
 * fetcherd behind TLS and HTTP/2: nginx, in front of the `plain` registry, wants
 * a client certificate; its log says what came by which connection.  A second
 * server there takes any client certificate and needs none.
 */
#define _GNU_SOURCE
#include "test_fetch_host.h"

#define MOST	(1024 * 1024)	/* of one answer by HTTP/2 */

static struct registry h2 = { .name = "h2" };
static char other_host[64];	/* of the second server */
static pid_t nginx_pid;

struct served {
	unsigned long connection;
	char protocol[16], reused[8], uri[512], subject[128];
	int status;
};

/* ---- nginx ---- */

static const char config[] =
    "daemon off; master_process off; pid %1$s/nginx.pid;\n"
    "error_log %1$s/nginx.err;\n"
    "events { worker_connections 512; }\n"
    "http {\n"
    "  log_format lines '$connection $server_protocol $ssl_session_reused '\n"
    "    '$status $request_uri \"$ssl_client_s_dn\"';\n"
    "  access_log %1$s/nginx.log lines;\n"
    "  client_body_temp_path %1$s/n1; proxy_temp_path %1$s/n2;\n"
    "  fastcgi_temp_path %1$s/n3; uwsgi_temp_path %1$s/n4;\n"
    "  scgi_temp_path %1$s/n5;\n"
    "  ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:1m;\n"
    "  ssl_certificate %1$s/cert.pem; ssl_certificate_key %1$s/cert.key;\n"
    "  ssl_client_certificate %1$s/client.pem;\n"
    "  server {\n"
    "    listen %2$s ssl http2; ssl_verify_client on;\n"
    "    rewrite ^/v2/test/moved/(.*)$ https://%3$s/v2/" REPO "/$1 redirect;\n"
    "    location / { proxy_pass http://%4$s; }\n"
    "  }\n"
    "  server {\n"
    "    listen %3$s ssl http2; ssl_verify_client optional_no_ca;\n"
    "    location / { proxy_pass http://%4$s; }\n"
    "  }\n"
    "}\n";

static int
connect_to(const char *host)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)atoi(strchr(host, ':') + 1)) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = connect(fd, (struct sockaddr *)&to, sizeof(to));

	close(fd);
	return r;
}

static void
nginx_start(void)
{
	char path[PATH_MAX];

	path_in(path, "nginx.conf");
	nginx_pid = fork();
	if (nginx_pid == 0) {
		setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
		execlp("nginx", "nginx", "-p", dir, "-c", path, "-e",
		    "stderr", (char *)NULL);
		_exit(127);
	}
	/* it says nothing when it listens */
	for (int i = 0; connect_to(h2.host) < 0; i++) {
		assert_true(i < 1000);
		usleep(10000);
	}
}

static void
nginx_stop(void)
{
	kill(nginx_pid, SIGKILL);
	waitpid(nginx_pid, NULL, 0);
}

static void
free_host(char *host, size_t size)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_return_code(bind(fd, (struct sockaddr *)&at, len), errno);
	getsockname(fd, (struct sockaddr *)&at, &len);
	close(fd);
	snprintf(host, size, "127.0.0.1:%d", ntohs(at.sin_port));
}

static void
give_path(enum parent_type type, const char *name)
{
	char path[PATH_MAX];

	path_in(path, name);
	give(type, h2.host, open(path, O_RDONLY | O_CLOEXEC));
}

static void
http2_start(void)
{
	char path[PATH_MAX];
	FILE *f;

	make_certificate("client");
	memcpy(h2.manifest, plain.manifest, sizeof(h2.manifest));
	memcpy(h2.erofs, plain.erofs, sizeof(h2.erofs));
	free_host(h2.host, sizeof(h2.host));
	free_host(other_host, sizeof(other_host));
	path_in(path, "nginx.conf");
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, config, dir, h2.host, other_host, plain.host);
	fclose(f);
	nginx_start();
	snprintf(conf_more, sizeof(conf_more), "[registry \"%s\"]\nca = /x\n"
	    "client-cert = /x\nclient-key = /x\n", h2.host);
	give_path(PARENT_CA, "cert.pem");
	give_path(PARENT_CERT, "client.pem");
	give_path(PARENT_KEY, "client.key");
}

/* Calls each() for every line, from the one of that number on; their count. */
static unsigned
log_read(unsigned from, void (*each)(const struct served *s))
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[PATH_MAX], line[2048];
	unsigned n = 0;

	path_in(path, "nginx.log");
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		struct served s = { 0 };

		assert_int_equal(sscanf(line, "%lu %15s %7s %d %511s \"%127[^\"]",
		    &s.connection, s.protocol, s.reused, &s.status, s.uri,
		    s.subject), 6);
		if (n++ >= from && each)
			each(&s);
	}
	return n;
}

static char last_uri[512], last_subject[128];

static void
keep_last(const struct served *s)
{
	snprintf(last_subject, sizeof(last_subject), "%s", s->subject);
	snprintf(last_uri, sizeof(last_uri), "%s", s->uri);
}

/* Where what comes now begins.  A line is written after what it tells of, so
 * there is one more request, whose line is awaited. */
static unsigned
log_mark(void)
{
	static unsigned marks;
	char tag[32], *name;
	unsigned n;

	snprintf(tag, sizeof(tag), "mark%u", marks++);
	wait_for(ask_resolve(h2.host, REPO, tag));
	for (int i = 0; i < 1000; i++) {
		n = log_read(0, keep_last);
		name = strrchr(last_uri, '/');
		if (name && strcmp(name + 1, tag) == 0)
			return n;
		usleep(10000);
	}
	fail_msg("no line of %s", tag);
	return 0;
}

static unsigned long connections[64];
static unsigned n_connections, n_reused, n_http2;

static void
count_connection(const struct served *s)
{
	n_http2 += strcmp(s->protocol, "HTTP/2.0") == 0;
	for (unsigned i = 0; i < n_connections; i++)
		if (connections[i] == s->connection)
			return;
	assert_true(n_connections < ARRAY_LEN(connections));
	connections[n_connections++] = s->connection;
	n_reused += strcmp(s->reused, "r") == 0;
}

/* By how many connections came these `lines`?  They are written after what they
 * tell of, so they are awaited. */
static unsigned
connections_since(unsigned mark, unsigned lines)
{
	for (int i = 0; log_read(0, NULL) < mark + lines; i++) {
		assert_true(i < 1000);
		usleep(10000);
	}
	n_connections = n_reused = n_http2 = 0;
	assert_int_equal(log_read(mark, count_connection), mark + lines);
	return n_connections;
}

/* ---- the tests ---- */

static void
test_reads_in_parallel_share_one_connection(void **state)
{
	struct answer *a[64];
	unsigned mark = log_mark();

	(void)state;
	want_ok(ask(&h2, OP_RESOLVE));
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask_fetch(&h2, i % 40 * UNIT, UNIT, false);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		assert_int_equal(a[i]->got, UNIT);
		assert_true(a[i]->warm && a[i]->rtt_us > 0);
	}
	assert_int_equal(connections_since(mark, 65), 1);
	assert_int_equal(n_http2, 65);
}

/* Which TCP can hold back, as HTTP/2 can't: see transfer.c. */
static void
test_what_is_long_or_can_wait_comes_by_http_1(void **state)
{
	unsigned mark = log_mark();

	(void)state;
	want_range(&h2, 0, BLOB_SIZE);
	background = true;
	want_range(&h2, 0, UNIT);
	background = false;
	connections_since(mark, 2);
	assert_int_equal(n_http2, 0);
}

static void
test_the_pools_share_tls_sessions(void **state)
{
	unsigned mark;
	struct answer *a;

	(void)state;
	want_ok(ask(&h2, OP_STAT));
	mark = log_mark();
	background = fresh = true;
	a = ask(&h2, OP_FETCH);
	background = fresh = false;
	want_ok(a);
	assert_false(a->warm);
	assert_int_equal(connections_since(mark, 1), 1);
	assert_int_equal(n_reused, 1);
}

/* Not a stream of one that is there, however many run on that. */
static void
test_a_fresh_connection_is_a_new_one(void **state)
{
	struct answer *a[8], *one;
	unsigned mark;

	(void)state;
	want_ok(ask(&h2, OP_STAT));
	for (int round = 0; round < 3; round++) {
		mark = log_mark();
		for (size_t i = 0; i < ARRAY_LEN(a); i++)
			a[i] = ask(&h2, OP_FETCH);
		fresh = true;
		one = ask(&h2, OP_FETCH);
		fresh = false;
		want_ok(one);
		assert_false(one->warm);
		for (size_t i = 0; i < ARRAY_LEN(a); i++)
			want_ok(a[i]);
		connections_since(mark, ARRAY_LEN(a) + 1);
		assert_true(n_connections >= 2);
	}
}

static void
test_one_that_is_cancelled_costs_no_connection(void **state)
{
	Suite__CancelFetch m = SUITE__CANCEL_FETCH__INIT;
	struct answer *a[4];

	(void)state;
	want_ok(ask(&h2, OP_STAT));
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask_fetch(&h2, 0, MOST, false);
	ipc_send(conn, last_id, SUITE_BODY(CANCEL_FETCH), &m, NULL, 0, -1);
	want_failure(a[3], CODE(CANCELLED), true);
	for (size_t i = 0; i < 3; i++) {
		want_ok(a[i]);
		assert_int_equal(a[i]->got, MOST);
	}
	a[0] = ask(&h2, OP_STAT);
	want_ok(a[0]);
	assert_true(a[0]->warm);
}

static void
test_a_connection_that_died_idle_is_replaced(void **state)
{
	struct answer *a;

	(void)state;
	want_ok(ask(&h2, OP_STAT));
	nginx_stop();
	nginx_start();
	a = ask(&h2, OP_FETCH);
	want_ok(a);
	assert_false(a->warm);
}

/* By HTTP/2 and HTTP/1.1 at once. */
static void
test_a_slow_cached_costs_no_memory(void **state)
{
	(void)state;
	slow_cached(&h2, MOST);
}

/* ---- client certificates ---- */

static void
test_a_redirect_target_sees_no_certificate(void **state)
{
	struct answer *a;
	unsigned mark = log_mark();

	(void)state;
	want_ok(ask(&h2, OP_RESOLVE));
	connections_since(mark, 1);
	log_read(mark, keep_last);
	assert_non_null(strstr(last_subject, "CN=localhost"));
	mark = log_mark();
	a = ask_resolve(h2.host, "test/moved", "v1");
	want_ok(a);
	assert_int_equal(a->requests, 2);
	connections_since(mark, 2);
	log_read(mark, keep_last);
	assert_non_null(strstr(last_uri, REPO));
	assert_string_equal(last_subject, "-");
}

static void
test_a_pair_that_can_not_be_used_is_said(void **state)
{
	static const struct {
		enum parent_type type;
		const char *name, *says;
	} cases[] = {
		{ PARENT_KEY, "other.key", "used together" },
		{ PARENT_KEY, "nginx.conf", "used together" },
		{ PARENT_CERT, "nginx.conf", "used together" },
		{ PARENT_CERT, "big", "can't be read" },
	};
	char path[PATH_MAX];
	struct answer *a;
	FILE *f;

	(void)state;
	path_in(path, "big");
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 300 * 1024), 0);
	fclose(f);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		give_path(cases[i].type, cases[i].name);
		usleep(100000);
		fresh = true;
		a = ask(&h2, OP_FETCH);
		fresh = false;
		want_failure(a, CODE(AUTH_DENIED), false);
		assert_non_null(strstr(a->text, cases[i].says));
		assert_int_equal(a->requests, 0);
		give_path(PARENT_CERT, "client.pem");
		give_path(PARENT_KEY, "client.key");
		usleep(100000);
		want_ok(ask(&h2, OP_FETCH));
	}
}

static int
http2_end(void **state)
{
	nginx_stop();
	return end(state);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_in_parallel_share_one_connection),
		cmocka_unit_test(
		    test_what_is_long_or_can_wait_comes_by_http_1),
		cmocka_unit_test(test_the_pools_share_tls_sessions),
		cmocka_unit_test(test_a_fresh_connection_is_a_new_one),
		cmocka_unit_test(
		    test_one_that_is_cancelled_costs_no_connection),
		cmocka_unit_test(test_a_connection_that_died_idle_is_replaced),
		cmocka_unit_test(test_a_slow_cached_costs_no_memory),
		cmocka_unit_test(test_a_redirect_target_sees_no_certificate),
		cmocka_unit_test(test_a_pair_that_can_not_be_used_is_said),
	};

	start_more = http2_start;
	if (!host_has_users())
		return 0;
	return cmocka_run_group_tests(tests, start, http2_end);
}
