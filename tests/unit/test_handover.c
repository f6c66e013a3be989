// SPDX-License-Identifier: Apache-2.0
/* Descriptors that outlive a process: by execve(2), and by a service manager,
 * which is played here. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "base/shm.h"
#include "devd/devd.h"

#define MANY	300

static const char *
key(int i)
{
	static char text[DEVICE_ID_LEN + 1];

	snprintf(text, sizeof(text), "%016x", i);
	return text;
}

static int
object(const char *text)
{
	int fd = shm_sealed("test", text, strlen(text));

	assert_true(fd >= 0);
	return fd;
}

static bool
holds(int fd, const char *text)
{
	char got[64] = "";

	return fd >= 0 && pread(fd, got, sizeof(got) - 1, 0) ==
	    (ssize_t)strlen(text) && strcmp(got, text) == 0;
}

/* Run f in a process of its own, whose tables are empty. */
static void
apart(void (*f)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		f();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void
check(bool ok, int line)
{
	if (!ok) {
		fprintf(stderr, "line %d\n", line);
		_exit(1);
	}
}
#define CHECK(x)	check(x, __LINE__)

/* ---- execve ---- */

static void
many_then_become(void)
{
	char *argv[] = { (char *)"test_handover", (char *)"become", NULL };

	unsetenv("NOTIFY_SOCKET");
	handover_init();
	for (int i = 0; i < MANY; i++)
		handover_keep(key(i), "map1", object(key(i)));
	handover_drop(key(7));
	handover_keep(key(8), "stats1", object("eight"));
	handover_exec("/proc/self/exe", argv);
	_exit(2);
}

/* What it does then. */
static int
become(void)
{
	char found[DEVICE_ID_LEN + 1];

	handover_init();
	CHECK(!getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES"));
	for (int i = 0; i < MANY; i++) {
		int fd = handover_take(key(i), "map1");

		CHECK(i == 7 ? fd < 0 : holds(fd, key(i)));
		CHECK(fd < 0 || fcntl(fd, F_GETFD) == FD_CLOEXEC);
		CHECK(handover_take(key(i), "map1") == -1);
	}
	CHECK(!handover_next("map1", found));
	CHECK(handover_next("stats1", found) && strcmp(found, key(8)) == 0);
	handover_rest();
	CHECK(!handover_next("stats1", found));
	return 0;
}

static void
test_all_is_handed_over_by_exec(void **state)
{
	(void)state;
	apart(many_then_become);
}

static void
nothing_given(void)
{
	char found[DEVICE_ID_LEN + 1];

	handover_init();
	CHECK(!handover_next("map1", found));
	CHECK(handover_take(key(0), "map1") == -1);
}

static void
test_what_is_anothers_is_not_taken(void **state)
{
	char self[24];

	(void)state;
	setenv("LISTEN_FDNAMES", "0000000000000000.map1", 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", "1", 1);
	apart(nothing_given);
	snprintf(self, sizeof(self), "%d", (int)getpid() + 1);
	setenv("LISTEN_PID", self, 1);
	setenv("LISTEN_FDS", "-1", 1);
	apart(nothing_given);
	setenv("LISTEN_FDS", "99999999999999999999", 1);
	apart(nothing_given);
	unsetenv("LISTEN_FDNAMES");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
}

/* ---- a service manager ---- */

static int manager = -1;

/* The next datagram's text, and the descriptor with it or -1. */
static int
told(char *text, size_t size)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { text, size - 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(manager, &msg, MSG_DONTWAIT);
	int fd = -1;

	text[n < 0 ? 0 : n] = '\0';
	if (n > 0 && msg.msg_controllen > 0)
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void
told_just(const char *want)
{
	char text[256];

	CHECK(told(text, sizeof(text)) == -1);
	CHECK(strcmp(text, want) == 0);
}

static void
manager_is_told(void)
{
	char text[256], want[256];

	handover_init();
	CHECK(handover_lasts());
	handover_tell("READY=1");
	told_just("READY=1");
	handover_keep(key(1), "fuse", object("one"));
	CHECK(holds(told(text, sizeof(text)), "one"));
	snprintf(want, sizeof(want), "FDSTORE=1\nFDNAME=%s.fuse", key(1));
	CHECK(strcmp(text, want) == 0);
	handover_keep(key(1), "fuse", -1);	/* it has that */
	told_just("");
	handover_drop(key(2));
	told_just("");
	handover_drop(key(1));
	snprintf(want, sizeof(want), "FDSTOREREMOVE=1\nFDNAME=%s.fuse",
	    key(1));
	told_just(want);
}

static void
no_store(void)
{
	handover_init();
	CHECK(!handover_lasts());
	handover_keep(key(1), "fuse", object("one"));
	handover_drop(key(1));
	told_just("");
	handover_tell("STOPPING=1");
	told_just("STOPPING=1");
}

static void
test_a_service_manager_is_told(void **state)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char dir[] = "/tmp/sshand.XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/notify", dir);
	manager = socket(AF_UNIX, SOCK_DGRAM, 0);
	assert_true(manager >= 0);
	assert_int_equal(bind(manager, (struct sockaddr *)&sa, sizeof(sa)), 0);
	setenv("NOTIFY_SOCKET", sa.sun_path, 1);
	setenv("FDSTORE", "16", 1);
	apart(manager_is_told);
	setenv("FDSTORE", "0", 1);
	apart(no_store);
	unsetenv("FDSTORE");
	apart(no_store);
	unsetenv("NOTIFY_SOCKET");
	unlink(sa.sun_path);
	rmdir(dir);
	close(manager);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_is_handed_over_by_exec),
		cmocka_unit_test(test_what_is_anothers_is_not_taken),
		cmocka_unit_test(test_a_service_manager_is_told),
	};

	if (argc == 2 && strcmp(argv[1], "become") == 0)
		return become();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
