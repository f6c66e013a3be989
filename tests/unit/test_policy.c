// SPDX-License-Identifier: Apache-2.0
/*
 * Each process enters its real policy and tries what it forbids: the program
 * itself is started with --try (policy/linux_try.c), as root, from where it
 * takes its own user, and as an ordinary user.
 *
 * A refusal proves something only if the same act succeeds without a policy:
 * that is tried too, and at least PROVEN of a process's acts must.  What a
 * policy allows is tried as well, so that it is not a wall.
 *
 * Runs from the top of the checkout; the programs are those of its own build.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/landlock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "base/self.h"
#include "policy/policy.h"

#define NOBODY		65534
#define PROVEN		5
#define SOCKET_FD	9	/* where a program finds a TCP socket */
#define ARGS_MAX	8

enum object { NONE, OUTSIDE, NEW, SIBLING, SOCKET, STORE_NEW, STORE_FILE,
	RESOLVER };

/* How an act must end.  Not by how it is forbidden: a policy may get stricter.
 * KILLED is for what only an attacker would call. */
enum fate { REFUSED, KILLED, DONE, UNKNOWN };

struct attempt {
	const char *act;
	enum object object;
	enum fate fate;
};

struct subject {
	const char *program, *args[3];
	const char *user;	/* NULL: it keeps the one that starts it */
	bool store;		/* takes a store directory */
	struct attempt attempts[32];
};

#define FILES	{ "open", OUTSIDE, REFUSED }, { "create", NEW, REFUSED }
#define SOCKETS	{ "unix", NONE, REFUSED }, { "inet", NONE, REFUSED },	\
		{ "inet6", NONE, REFUSED },				\
		{ "connect", SOCKET, REFUSED }
#define ALL	{ "be-root", NONE, REFUSED }, { "setuid", NONE, REFUSED }, \
		{ "netlink", NONE, REFUSED }, { "packet", NONE, REFUSED }, \
		{ "bind", SOCKET, REFUSED }, { "listen", SOCKET, REFUSED }, \
		{ "fork", NONE, REFUSED }, { "kill", SIBLING, REFUSED },   \
		{ "uring", NONE, REFUSED }, { "exec", NONE, KILLED },	   \
		{ "ptrace", SIBLING, KILLED }, { "readv", SIBLING, KILLED }, \
		{ "mount", NONE, KILLED }, { "unshare", NONE, KILLED },	   \
		{ "chroot", NONE, KILLED }, { "bpf", NONE, KILLED },	   \
		{ "keyctl", NONE, KILLED }, { "userfault", NONE, KILLED },  \
		{ "perf", NONE, KILLED }

static const struct subject parent = {
	.program = "devd", .args = { "--try" },
	.attempts = {
		{ "ptrace", SIBLING, REFUSED }, { "readv", SIBLING, REFUSED },
		{ "bpf", NONE, REFUSED }, { "keyctl", NONE, REFUSED },
		{ "userfault", NONE, REFUSED }, { "perf", NONE, REFUSED },
		{ "module", NONE, REFUSED }, { "reboot", NONE, REFUSED },
		{ "swap", NONE, REFUSED },
		/* what it is there for */
		{ "fork", NONE, DONE }, { "exec", NONE, DONE },
		{ "unix", NONE, DONE }, { "open", OUTSIDE, DONE },
	},
};

static const struct subject control = {
	.program = "devd", .args = { "--control", "--try" }, .user = "_shed",
	.attempts = { FILES, SOCKETS, ALL, { "map-exec", NONE, REFUSED } },
};

static const struct subject cached = {
	.program = "cached", .args = { "--try" }, .user = "_shedcache",
	.store = true,
	.attempts = { FILES, SOCKETS, ALL, { "map-exec", NONE, REFUSED },
		{ "create", STORE_NEW, DONE }, { "open", STORE_FILE, DONE } },
};

/* It may load libraries (the resolver's), so it may map code. */
static const struct subject fetcherd = {
	.program = "fetcherd", .args = { "--try" }, .user = "_shedfetch",
	.attempts = { FILES, ALL, { "unix", NONE, REFUSED },
		{ "inet", NONE, DONE }, { "inet6", NONE, DONE },
		{ "connect", SOCKET, DONE }, { "open", RESOLVER, DONE } },
};

static const struct subject io = {
	.program = "devd-io", .args = { "--try" }, .user = "_sheddev",
	.attempts = { FILES, SOCKETS, ALL, { "map-exec", NONE, REFUSED } },
};

/* It has no clients to accept. */
static const struct subject io_file = {
	.program = "devd-io", .args = { "file", "--try" }, .user = "_sheddev",
	.attempts = { FILES, SOCKETS, ALL, { "map-exec", NONE, REFUSED } },
};

/* Its ring it has from before; it can't make another one. */
static const struct subject io_ublk = {
	.program = "devd-io", .args = { "ublk", "--try" }, .user = "_sheddev",
	.attempts = { FILES, SOCKETS, ALL, { "map-exec", NONE, REFUSED } },
};

/* One connection, which it has from before. */
static const struct subject io_kernel_nbd = {
	.program = "devd-io", .args = { "kernel-nbd", "--try" },
	.user = "_sheddev",
	.attempts = { FILES, SOCKETS, ALL, { "map-exec", NONE, REFUSED } },
};

static char programs[PATH_MAX], dir[] = "/tmp/sspolicy.XXXXXX";
static bool landlock;
static const struct attempt *current;	/* for messages */

/* What this build's policies allow by design, or this kernel cannot forbid. */
static bool
allowed_by_design(const struct subject *s, const struct attempt *a)
{
	if (!landlock && s->user && (strcmp(a->act, "open") == 0 ||
	    strcmp(a->act, "create") == 0))
		return true;
#ifdef POLICY_SANITIZER
	/* libasan forks to symbolize, and maps what it likes */
	if (s->user && (strcmp(a->act, "fork") == 0 ||
	    strcmp(a->act, "kill") == 0 || strcmp(a->act, "map-exec") == 0))
		return true;
#endif
	return false;
}

static void
join(char *out, const char *rest)
{
	assert_true(snprintf(out, PATH_MAX, "%s/%s", dir, rest) < PATH_MAX);
}

/* ---- who it is about ---- */

static bool
become(uid_t uid, gid_t gid)
{
	return geteuid() != 0 || (setgroups(0, NULL) == 0 &&
	    setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0);
}

/* A process of the same user that lets itself be traced, so that nothing but
 * the policy protects it. */
static pid_t
sibling(uid_t uid, gid_t gid)
{
	int ready[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!become(uid, gid) || prctl(PR_SET_DUMPABLE, 1) < 0)
			_exit(1);
		prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	fd_close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	fd_close(ready[0]);
	return pid;
}

static void
object_text(const struct attempt *a, pid_t sib, char out[PATH_MAX])
{
	switch (a->object) {
	case NONE:
		strcpy(out, "-");
		break;
	case OUTSIDE:
		join(out, "outside");
		break;
	case NEW:
		join(out, "open/new");
		break;
	case SIBLING:
		snprintf(out, PATH_MAX, "%d", (int)sib);
		break;
	case SOCKET:
		snprintf(out, PATH_MAX, "%d", SOCKET_FD);
		break;
	case STORE_NEW:
		join(out, "store/new");
		break;
	case STORE_FILE:
		join(out, "store/file");
		break;
	case RESOLVER:
		strcpy(out, "/etc/resolv.conf");
		break;
	}
}

/* ---- one act ---- */

static void
give_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || dup2(fd, SOCKET_FD) < 0)
		_exit(99);
	if (fd != SOCKET_FD)
		close(fd);
}

static enum fate
fate_of(pid_t pid)
{
	int status;

	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		return KILLED;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return REFUSED;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 1)
		return DONE;
	print_message("%s ended with wait status %#x\n", current->act,
	    (unsigned)status);
	return UNKNOWN;
}

/* Without a policy, by the user that starts the program. */
static enum fate
try_free(const struct attempt *a, const char *object, bool as_root)
{
	pid_t pid = fork();

	if (pid == 0) {
		give_socket();
		if (!as_root && !become(NOBODY, NOBODY))
			_exit(99);
		policy_try(a->act, object);
	}
	return fate_of(pid);
}

static enum fate
try_confined(const struct subject *s, const struct attempt *a,
    const char *object, bool as_root)
{
	char path[PATH_MAX + 32], store[PATH_MAX];
	const char *argv[ARGS_MAX] = { s->program };
	size_t n = 1;
	pid_t pid;
	int fd;

	for (size_t i = 0; i < 3 && s->args[i]; i++)
		argv[n++] = s->args[i];
	argv[n++] = a->act;
	argv[n++] = object;
	join(store, "store");
	if (s->store)
		argv[n++] = store;
	snprintf(path, sizeof(path), "%s/%s", programs, s->program);
	/* by descriptor: the checkout may lie where the user can't look */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_msg("%s: %s", path, strerror(errno));
	pid = fork();
	if (pid == 0) {
		give_socket();
		if (!as_root && !become(NOBODY, NOBODY))
			_exit(99);
		fexecve(fd, (char **)argv, environ);
		_exit(99);
	}
	fd_close(fd);
	return fate_of(pid);
}

static bool
as_due(enum fate got, enum fate due)
{
	return got == due || (due == REFUSED && got == KILLED);
}

/* The files of one run, those of the store owned by who runs it. */
static void
set_up_files(uid_t uid, gid_t gid)
{
	char path[PATH_MAX];

	join(path, "open/new");
	unlink(path);
	join(path, "store/new");
	unlink(path);
	join(path, "store/file");
	if (geteuid() == 0) {
		assert_int_equal(chown(path, uid, gid), 0);
		join(path, "store");
		assert_int_equal(chown(path, uid, gid), 0);
	}
}

static void
run(const struct subject *s, bool as_root)
{
	uid_t uid = as_root ? 0 : geteuid() == 0 ? NOBODY : geteuid();
	gid_t gid = as_root ? 0 : NOBODY;
	unsigned proven = 0, wrong = 0;
	pid_t sib;

	if (as_root && geteuid() != 0)
		skip();		/* only root can start it as root */
	if (as_root && s->user)
		assert_int_equal(policy_user(s->user, &uid, &gid), 0);
	sib = sibling(uid, gid);
	for (const struct attempt *a = s->attempts; a->act; a++) {
		char object[PATH_MAX];
		enum fate got;

		current = a;
		object_text(a, sib, object);
		if (allowed_by_design(s, a)) {
			print_message("%s: left out: %s\n", s->program,
			    a->act);
			continue;
		}
		set_up_files(uid, gid);
		got = try_confined(s, a, object, as_root);
		if (!as_due(got, a->fate)) {
			print_error("%s: %s %s: got %d, due %d\n", s->program,
			    a->act, object, got, a->fate);
			wrong++;
		}
		set_up_files(uid, gid);
		if (a->fate != DONE &&
		    try_free(a, object, as_root) == DONE)
			proven++;
	}
	kill(sib, SIGKILL);
	waitpid(sib, NULL, 0);
	print_message("%s: %u refusals that nothing but the policy explains\n",
	    s->program, proven);
	assert_int_equal(wrong, 0);
	assert_true(proven >= PROVEN);
}

/* ---- cases ---- */

#define CASES(subject)							\
	static void							\
	test_ ## subject ## _keeps_to_its_policy_when_root_starts_it(	\
	    void **state)						\
	{								\
		(void)state;						\
		run(&subject, true);					\
	}								\
	static void							\
	test_ ## subject ## _keeps_to_its_policy_when_a_user_starts_it(	\
	    void **state)						\
	{								\
		(void)state;						\
		run(&subject, false);					\
	}

CASES(parent)
CASES(control)
CASES(cached)
CASES(fetcherd)
CASES(io)
CASES(io_file)
CASES(io_ublk)
CASES(io_kernel_nbd)

static void
test_an_unknown_act_is_told_from_a_refusal(void **state)
{
	static const struct attempt none = { "no-such-act", NONE, UNKNOWN };
	static const struct subject *const all[] = { &parent, &control,
		&cached, &fetcherd, &io, &io_file,
		&io_ublk, &io_kernel_nbd };

	(void)state;
	current = &none;
	set_up_files(geteuid(), getegid());
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		assert_int_equal(try_confined(all[i], &none, "-",
		    geteuid() == 0), UNKNOWN);
}

static void
make(const char *name, mode_t mode, bool directory)
{
	char path[PATH_MAX];
	int fd;

	join(path, name);
	if (directory) {
		assert_int_equal(mkdir(path, mode), 0);
	} else {
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
		assert_true(fd >= 0);
		fd_close(fd);
	}
	assert_int_equal(chmod(path, mode), 0);
}

static int
setup(void **state)
{
	uid_t uid;
	gid_t gid;
	char *slash;

	(void)state;
	if (self_directory(programs, sizeof(programs)) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {	/* BUILD/tests/unit -> BUILD */
		slash = strrchr(programs, '/');
		if (!slash)
			return -1;
		*slash = '\0';
	}
	strcat(programs, "/bin");
	if (geteuid() == 0 && policy_user("_shed", &uid, &gid) < 0 &&
	    system("tests/tools/users.sh") != 0)
		return -1;
	landlock = syscall(SYS_landlock_create_ruleset, NULL, 0,
	    LANDLOCK_CREATE_RULESET_VERSION) >= 1;
	if (!mkdtemp(dir) || chmod(dir, 0755) < 0)
		return -1;
	make("outside", 0666, false);
	make("open", 0777, true);
	make("store", 0755, true);
	make("store/file", 0644, false);
	return 0;
}

static int
teardown(void **state)
{
	char command[PATH_MAX];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) == 0 ? 0 : -1;
}

#define BOTH(subject)							\
	cmocka_unit_test(						\
	    test_ ## subject ## _keeps_to_its_policy_when_root_starts_it), \
	cmocka_unit_test(						\
	    test_ ## subject ## _keeps_to_its_policy_when_a_user_starts_it)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(parent),
		BOTH(control),
		BOTH(cached),
		BOTH(fetcherd),
		BOTH(io),
		BOTH(io_file),
		BOTH(io_ublk),
		BOTH(io_kernel_nbd),
		cmocka_unit_test(test_an_unknown_act_is_told_from_a_refusal),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
