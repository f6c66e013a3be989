// SPDX-License-Identifier: Apache-2.0
/*
 * devd's parent and control, real ones, with a cached, a fetcherd and workers
 * that are played: copies of this program beside a copy of devd.  They write
 * down what they are given, and answer what control asks.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/prctl.h>

#include <dirent.h>

#include "test_control_host.h"

#define SIZE		(8 * 1024 * 1024)
#define IMAGE		"reg.example/a:1"
#define DATA		"layouts/ab/data.01"
#define CTL_INIT(NAME)	SHEDSTREAM__CONTROL__V1__##NAME##__INIT

/* ---- the played processes ---- */

/* A line of the journal, which all of them append to. */
__attribute__((format(printf, 1, 2))) static void
note(const char *fmt, ...)
{
	char path[128], line[256];
	va_list args;
	int fd, n;

	snprintf(path, sizeof(path), "%s/journal", getenv("TEST_DEVD_DIR"));
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	va_start(args, fmt);
	n = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	must(fd >= 0 && write(fd, line, (size_t)n) == n);
	close(fd);
}

static void
tell_parent(uint32_t type)
{
	struct parent_msg msg = { .type = type };
	uint32_t len = htonl(sizeof(msg));

	put_frame(CHILD_FD, &len, sizeof(len), &msg, sizeof(msg), -1);
}

/* What a played cached answers control. */
static void
answer_control(int fd)
{
	struct host h = { .cached = fd };
	uint32_t head[2];
	uint8_t buf[4096];
	struct digest image = digest_of("image", 5), blob = digest_of("b", 1);
	Suite__Opened opened = SUITE__OPENED__INIT;
	Suite__Layout layout = SUITE__LAYOUT__INIT;
	Suite__Frame *f;

	must(get_bytes(fd, head, sizeof(head)) && ntohl(head[0]) < sizeof(buf));
	must(get_bytes(fd, buf, ntohl(head[0])));
	f = suite__frame__unpack(NULL, ntohl(head[0]), buf);
	must(f != NULL);
	if (f->body_case == SUITE_BODY(OPEN)) {
		opened.image_digest.data = image.bytes;
		opened.blob_digest.data = opened.layout.data = blob.bytes;
		opened.image_digest.len = opened.blob_digest.len =
		    opened.layout.len = DIGEST_LEN;
		opened.size = SIZE;
		opened.unit = UNIT_SIZE;
		opened.rung = CTL_RUNG(WHOLE);
		opened.complete = opened.self_contained = true;
		opened.data = (char *)DATA;
		host_say(&h, f->id, SUITE_BODY(OPENED), &opened);
	} else if (f->body_case == SUITE_BODY(INSPECT)) {
		layout.layout = f->inspect->layout;
		layout.complete = true;
		host_say(&h, f->id, SUITE_BODY(LAYOUT), &layout);
	}
	suite__frame__free_unpacked(f, NULL);
}

static void
play_message(const char *name, struct parent_msg *msg, int fd, int *control)
{
	if (msg->type == PARENT_CONF)
		note("%s conf %d\n", name, fd >= 0);
	else if (msg->type == PARENT_DEVICE)
		note("%s device %u %d\n", name, msg->device.present, fd >= 0);
	else if (msg->type == PARENT_AUTH) {
		char text[32] = "";

		must(pread(fd, text, sizeof(text) - 1, 0) >= 0);
		note("%s auth %s %u '%s'\n", name, msg->text, msg->count,
		    text);
	} else if (msg->type == PARENT_GONE)
		note("%s gone %u\n", name, msg->device.present);
	else if (msg->type == PARENT_GO) {
		tell_parent(CHILD_READY);
		note("%s go\n", name);
	}
	if (msg->type == PARENT_PEER && msg->peer == PEER_CONTROL) {
		fd_close(*control);
		*control = fd;
		fcntl(fd, F_SETFL, 0);
	} else
		fd_close(fd);
}

static int
play(const char *name)
{
	int control = -1;

	fcntl(CHILD_FD, F_SETFL, 0);
	for (;;) {
		struct pollfd p[2] = { { .fd = CHILD_FD, .events = POLLIN },
			{ .fd = control, .events = POLLIN } };
		struct parent_msg msg;
		uint32_t len;
		char byte;
		int fd;

		must(poll(p, 2, -1) > 0);
		if (p[1].revents && recv(control, &byte, 1, MSG_PEEK) <= 0) {
			close(control);		/* control died */
			control = -1;
		} else if (p[1].revents)
			answer_control(control);
		if (!p[0].revents)
			continue;
		if (!get_bytes_fd(CHILD_FD, &len, sizeof(len), &fd))
			return 0;
		must(get_bytes(CHILD_FD, &msg, sizeof(msg)));
		play_message(name, &msg, fd, &control);
	}
}

/* ---- the suite ---- */

struct suite {
	struct host h;		/* its directory and socket */
	pid_t pid;
	char store[80], nbd[80];
};

/* How often the journal has this line. */
static int
noted(const struct suite *s, const char *line)
{
	char path[128], text[256];
	int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/journal", s->h.dir);
	f = fopen(path, "re");
	while (f && fgets(text, sizeof(text), f)) {
		text[strcspn(text, "\n")] = '\0';
		n += strcmp(text, line) == 0;
	}
	if (f)
		fclose(f);
	return n;
}

static void
wait_noted(const struct suite *s, const char *line, int times)
{
	for (int i = 0; i < 1000 && noted(s, line) < times; i++)
		poll(NULL, 0, 20);
	if (noted(s, line) != times)
		fail_msg("%d times: %s", noted(s, line), line);
}

/* Do the last lines of both stand in that order? */
static bool
noted_before(const struct suite *s, const char *a, const char *b)
{
	char path[128], text[256];
	int n = 0, last_a = 0, last_b = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/journal", s->h.dir);
	f = fopen(path, "re");
	must(f != NULL);
	while (fgets(text, sizeof(text), f)) {
		text[strcspn(text, "\n")] = '\0';
		n++;
		last_a = strcmp(text, a) == 0 ? n : last_a;
		last_b = strcmp(text, b) == 0 ? n : last_b;
	}
	fclose(f);
	return last_a > 0 && last_a < last_b;
}

static void
copy(const char *from, const char *dir, const char *name)
{
	char command[512];

	snprintf(command, sizeof(command), "cp '%s' '%s/bin/%s'", from, dir,
	    name);
	must(system(command) == 0);
}

/* One registry has an auth-file. */
static void
write_conf(const struct suite *s, const char *path)
{
	FILE *f = fopen(path, "we");
	char auth[128];

	snprintf(auth, sizeof(auth), "%s/auth", s->h.dir);
	must(f && fprintf(f, "[registry \"filed\"]\nauth-file = %s\n",
	    auth) > 0);
	fclose(f);
	f = fopen(auth, "we");
	must(f && fputs("of the file", f) >= 0);
	fclose(f);
}

static int
setup(void **state)
{
	struct suite *s = calloc(1, sizeof(*s));
	const char *build = getenv("BUILD");
	char path[256], run[80], self[256] = "";

	must(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	strcpy(s->h.dir, "/tmp/ssdv.XXXXXX");
	must(mkdtemp(s->h.dir) && chmod(s->h.dir, 0711) == 0);
	snprintf(s->h.sock, sizeof(s->h.sock), "%s/run/control.sock",
	    s->h.dir);
	snprintf(run, sizeof(run), "%s/run", s->h.dir);
	snprintf(s->nbd, sizeof(s->nbd), "%s/run/nbd", s->h.dir);
	snprintf(s->store, sizeof(s->store), "%s/store", s->h.dir);
	snprintf(path, sizeof(path), "%s/bin", s->h.dir);
	must(mkdir(path, 0755) == 0);
	snprintf(path, sizeof(path), "%s/bin/devd", build ? build : "build");
	copy(path, s->h.dir, "devd");
	copy(self, s->h.dir, "cached");
	copy(self, s->h.dir, "fetcherd");
	copy(self, s->h.dir, "devd-io");
	setenv("TEST_DEVD_DIR", s->h.dir, 1);
	snprintf(path, sizeof(path), "%s/conf", s->h.dir);
	write_conf(s, path);
	s->pid = fork();
	must(s->pid >= 0);
	if (s->pid == 0) {
		char devd[128];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(devd, sizeof(devd), "%s/bin/devd", s->h.dir);
		/* from below, to see that the path is made whole */
		must(chdir(s->h.dir) == 0);
		execl(devd, "devd", "-f", "-c", path, "--store", "./store",
		    "--run", run, (char *)NULL);
		_exit(127);
	}
	wait_noted(s, "cached go", 1);
	wait_noted(s, "fetcherd go", 1);
	*state = s;
	return 0;
}

static int
teardown(void **state)
{
	struct suite *s = *state;
	char command[128];
	int status;

	kill(s->pid, SIGTERM);
	must(waitpid(s->pid, &status, 0) == s->pid);
	must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	snprintf(command, sizeof(command), "rm -r '%s'", s->h.dir);
	must(system(command) == 0);
	free(s);
	return 0;
}

/* A client, as soon as there is somebody who answers. */
static struct user
connected(const struct suite *s)
{
	for (int i = 0; access(s->h.sock, F_OK) < 0; i++) {
		must(i < 1000);
		poll(NULL, 0, 20);
	}
	return user_new(&s->h, "test");
}

static int
sockets(const struct suite *s)
{
	DIR *d = opendir(s->nbd);
	struct dirent *e;
	int n = 0;

	must(d != NULL);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void
attach(struct user *u, uint32_t present, const char *name, char *path,
    size_t size)
{
	CTL(Attach) m = CTL_INIT(ATTACH);

	m.image = (char *)IMAGE;
	m.name = (char *)name;
	m.present = (CTL(Present))present;
	user_ask(u, CTL_BODY(ATTACH), &m);
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(ATTACHED));
	snprintf(path, size, "%s", f->attached->path);
}

static void
detach(struct user *u, const char *name)
{
	CTL(Detach) m = CTL_INIT(DETACH);

	m.name = (char *)name;
	user_ask(u, CTL_BODY(DETACH), &m);
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(DETACHED));
	assert_true(f->detached->torn_down);
}

/* The process of that name. */
static pid_t
process(struct user *u, const char *name)
{
	CTL(Version) m = CTL_INIT(VERSION);
	pid_t pid = 0;

	user_ask(u, CTL_BODY(VERSION), &m);
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(VERSION_REPLY));
	for (size_t i = 0; i < f->version_reply->n_rows; i++)
		if (strcmp(f->version_reply->rows[i]->process, name) == 0)
			pid = (pid_t)f->version_reply->rows[i]->pid;
	must(pid > 0);
	return pid;
}

static size_t
listed(struct user *u, char *path, size_t size)
{
	CTL(List) m = CTL_INIT(LIST);

	user_ask(u, CTL_BODY(LIST), &m);
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(DEVICES));
	if (f->devices->n_devices > 0)
		snprintf(path, size, "%s", f->devices->devices[0]->path);
	return f->devices->n_devices;
}

static void
test_a_plain_device_has_no_worker_and_no_socket(void **state)
{
	struct suite *s = *state;
	struct user u = connected(s);
	char path[256], want[128];

	snprintf(want, sizeof(want), "%s/" DATA, s->store);
	attach(&u, CTL_PRESENT(PLAIN), "p", path, sizeof(path));
	assert_string_equal(path, want);
	/* but cached knows it, with its map: what it needs is not evicted */
	wait_noted(s, "cached device 4 1", 1);
	assert_int_equal(sockets(s), 0);
	attach(&u, CTL_PRESENT(NBD), "n", path, sizeof(path));
	assert_int_equal(strncmp(path, "nbd+unix://", 11), 0);
	wait_noted(s, "cached device 1 1", 1);
	wait_noted(s, "devd-io go", 1);
	assert_int_equal(sockets(s), 1);
	detach(&u, "n");
	wait_noted(s, "cached gone 1", 1);
	assert_int_equal(noted(s, "cached gone 4"), 0);
	detach(&u, "p");
	wait_noted(s, "cached gone 4", 1);
	assert_int_equal(listed(&u, path, sizeof(path)), 0);
	assert_int_equal(noted(s, "devd-io go"), 1);
	close(u.fd);
}

static void
test_a_plain_device_outlives_control_and_cached(void **state)
{
	struct suite *s = *state;
	struct user u = connected(s);
	char path[256], want[256];

	attach(&u, CTL_PRESENT(PLAIN), "p", want, sizeof(want));
	kill(process(&u, "devd"), SIGKILL);
	close(u.fd);
	u = connected(s);
	assert_int_equal(listed(&u, path, sizeof(path)), 1);
	assert_string_equal(path, want);
	wait_noted(s, "cached device 4 1", 1);	/* it lived, and knows */
	kill(process(&u, "cached"), SIGKILL);
	wait_noted(s, "cached device 4 1", 2);
	wait_noted(s, "cached go", 2);
	assert_int_equal(listed(&u, path, sizeof(path)), 1);
	assert_string_equal(path, want);
	detach(&u, "p");
	wait_noted(s, "cached gone 4", 1);
	close(u.fd);
}

static void
test_cached_is_given_the_configuration(void **state)
{
	struct suite *s = *state;
	struct user u = connected(s);

	assert_int_equal(noted(s, "cached conf 1"), 1);
	close(u.fd);
}

/* ---- credentials ---- */

/* The answer: DONE, or the code of an error. */
static int
login(struct user *u, const char *host, const char *text)
{
	CTL(SetCredentials) m = CTL_INIT(SET_CREDENTIALS);
	int fd = shm_sealed("test", text, strlen(text));

	m.host = (char *)host;
	user_ask_fd(u, CTL_BODY(SET_CREDENTIALS), &m, fd);
	fd_close(fd);
	_cleanup_answer_ CTL(Frame) *f = user_frame(u);
	must(f->id == u->id);
	return f->body_case == CTL_BODY(DONE) ? 0 : (int)f->error->code;
}

/* The next fetcherd has them; which only cached's death does not bring. */
static void
test_credentials_outlive_all_but_the_suite(void **state)
{
	struct suite *s = *state;
	struct user u = connected(s);

	wait_noted(s, "fetcherd auth filed 0 'of the file'", 1);
	assert_int_equal(login(&u, "reg:1", "one"), 0);
	wait_noted(s, "fetcherd auth reg:1 2 'one'", 1);
	assert_int_equal(login(&u, "reg:1", "two"), 0);
	assert_int_equal(login(&u, "reg:2", "other"), 0);
	wait_noted(s, "fetcherd auth reg:1 2 'two'", 1);
	wait_noted(s, "fetcherd auth reg:2 2 'other'", 1);
	kill(process(&u, "fetcherd"), SIGKILL);
	wait_noted(s, "fetcherd go", 2);
	/* the latest, which are no news; the configuration's before them */
	assert_int_equal(noted(s, "fetcherd auth reg:1 1 'two'"), 1);
	assert_int_equal(noted(s, "fetcherd auth reg:2 1 'other'"), 1);
	assert_int_equal(noted(s, "fetcherd auth reg:1 1 'one'"), 0);
	assert_int_equal(noted(s, "fetcherd auth filed 0 'of the file'"), 2);
	kill(process(&u, "devd"), SIGKILL);
	close(u.fd);
	u = connected(s);
	kill(process(&u, "cached"), SIGKILL);
	wait_noted(s, "cached go", 2);
	kill(process(&u, "fetcherd"), SIGKILL);
	wait_noted(s, "fetcherd go", 3);
	assert_int_equal(noted(s, "fetcherd auth reg:1 1 'two'"), 2);
	close(u.fd);
}

static void
test_what_is_set_comes_before_the_auth_file(void **state)
{
	struct suite *s = *state;
	struct user u = connected(s);

	assert_int_equal(login(&u, "filed", "set"), 0);
	wait_noted(s, "fetcherd auth filed 2 'set'", 1);
	kill(process(&u, "fetcherd"), SIGKILL);
	wait_noted(s, "fetcherd go", 2);
	assert_true(noted_before(s, "fetcherd auth filed 0 'of the file'",
	    "fetcherd auth filed 1 'set'"));
	/* taken away: the file's count again, now and later */
	assert_int_equal(login(&u, "filed", ""), 0);
	wait_noted(s, "fetcherd auth filed 0 'of the file'", 3);
	assert_true(noted_before(s, "fetcherd auth filed 2 ''",
	    "fetcherd auth filed 0 'of the file'"));
	kill(process(&u, "fetcherd"), SIGKILL);
	wait_noted(s, "fetcherd go", 3);
	assert_int_equal(noted(s, "fetcherd auth filed 0 'of the file'"), 4);
	assert_int_equal(noted(s, "fetcherd auth filed 1 'set'"), 1);
	assert_int_equal(login(&u, "unknown", ""), 0);
	close(u.fd);
}

static void
test_credentials_of_64_hosts_are_held(void **state)
{
	struct suite *s = *state;
	struct user u = connected(s);
	char host[16];

	for (int i = 0; i < 64; i++) {
		snprintf(host, sizeof(host), "h%d", i);
		assert_int_equal(login(&u, host, "x"), 0);
	}
	assert_int_equal(login(&u, "h64", "x"), CTL_CODE(BUSY));
	assert_int_equal(login(&u, "h0", "y"), 0);	/* in place of x */
	assert_int_equal(login(&u, "h1", ""), 0);
	assert_int_equal(login(&u, "h64", "x"), 0);
	kill(process(&u, "fetcherd"), SIGKILL);
	wait_noted(s, "fetcherd go", 2);
	assert_int_equal(noted(s, "fetcherd auth h0 1 'y'"), 1);
	assert_int_equal(noted(s, "fetcherd auth h1 1 'x'"), 0);
	assert_int_equal(noted(s, "fetcherd auth h63 1 'x'"), 1);
	assert_int_equal(noted(s, "fetcherd auth h64 1 'x'"), 1);
	close(u.fd);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_a_plain_device_has_no_worker_and_no_socket),
		T(test_a_plain_device_outlives_control_and_cached),
		T(test_cached_is_given_the_configuration),
		T(test_credentials_outlive_all_but_the_suite),
		T(test_what_is_set_comes_before_the_auth_file),
		T(test_credentials_of_64_hosts_are_held),
	};
	const char *name = strrchr(argv[0], '/');

	name = name ? name + 1 : argv[0];
	if (argc == 1 && (strcmp(name, "cached") == 0 ||
	    strcmp(name, "fetcherd") == 0 || strcmp(name, "devd-io") == 0))
		_exit(play(name));	/* no look for leaks: ptrace is denied */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
