// SPDX-License-Identifier: Apache-2.0
/*
 * `PROGRAM --try ACT OBJECT`: for tests.  The program enters its policy as it
 * does in production, tries one act that the policy forbids (or, to see that
 * the test can tell, allows), and ends.  It reads nothing, serves nothing and
 * has nothing that its caller does not have: it grants nobody anything.
 *
 * An act is refused by EPERM or EACCES, or by a kill.  Any other error means
 * that the kernel would have gone on, so it counts as done; each act is chosen
 * to do no harm when it is.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <netinet/in.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "policy/policy.h"

enum { REFUSED = 0, DONE = 1, UNKNOWN = 2 };	/* exit statuses */

struct act {
	const char *name;
	long (*run)(const char *object);	/* negative: errno says why */
};

static pid_t
pid_of(const char *object)
{
	return (pid_t)atoi(object);
}

/* ---- files ---- */

static long
try_open(const char *object)
{
	return open(object, O_RDONLY | O_CLOEXEC);
}

static long
try_create(const char *object)
{
	return open(object, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

/* ---- users ---- */

static long
try_be_root(const char *object)
{
	(void)object;
	errno = EPERM;
	return geteuid() == 0 ? 0 : -1;
}

static long
try_setuid(const char *object)
{
	(void)object;
	return setresuid(0, 0, 0);
}

/* ---- sockets ---- */

static long
try_unix(const char *object)
{
	(void)object;
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long
try_inet(const char *object)
{
	(void)object;
	return socket(AF_INET, SOCK_STREAM, 0);
}

static long
try_inet6(const char *object)
{
	(void)object;
	return socket(AF_INET6, SOCK_DGRAM, 0);
}

static long
try_netlink(const char *object)
{
	(void)object;
	return socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
}

static long
try_packet(const char *object)
{
	(void)object;
	return socket(AF_PACKET, SOCK_DGRAM, 0);
}

/* The object is a TCP socket that was inherited: what a process may do with
 * one does not depend on whether it could have made it. */
static struct sockaddr_in
loopback(void)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static long
try_bind(const char *object)
{
	struct sockaddr_in any = loopback();

	return bind(atoi(object), (struct sockaddr *)&any, sizeof(any));
}

static long
try_listen(const char *object)
{
	return listen(atoi(object), 1);
}

/* To port 0, which nobody listens on. */
static long
try_connect(const char *object)
{
	struct sockaddr_in nobody = loopback();

	return connect(atoi(object), (struct sockaddr *)&nobody,
	    sizeof(nobody));
}

/* ---- processes ---- */

static long
try_exec(const char *object)
{
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)"exit 1", NULL };

	(void)object;
	return execv("/bin/sh", argv);
}

static long
try_fork(const char *object)
{
	pid_t pid = fork();

	(void)object;
	if (pid == 0)
		_exit(0);
	return pid < 0 ? -1 : waitpid(pid, NULL, 0);
}

static long
try_kill(const char *object)
{
	return kill(pid_of(object), 0);
}

static long
try_ptrace(const char *object)
{
	return ptrace(PTRACE_SEIZE, pid_of(object), NULL, NULL);
}

static long
try_readv(const char *object)
{
	char here;
	struct iovec local = { &here, 1 }, remote = { &here, 1 };

	return process_vm_readv(pid_of(object), &local, 1, &remote, 1, 0);
}

static long
try_map_exec(const char *object)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)object;
	return p == MAP_FAILED ? -1 : munmap(p, 4096);
}

/* ---- the machine ---- */

static long
try_mount(const char *object)
{
	(void)object;
	return mount("none", "/nonexistent/directory", "tmpfs", 0, NULL);
}

static long
try_unshare(const char *object)
{
	(void)object;
	return unshare(CLONE_FILES);
}

static long
try_chroot(const char *object)
{
	(void)object;
	return chroot("/nonexistent/directory");
}

static long
try_bpf(const char *object)
{
	(void)object;
	return syscall(SYS_bpf, -1, NULL, 0);
}

static long
try_keyctl(const char *object)
{
	(void)object;
	return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID,
	    KEY_SPEC_SESSION_KEYRING, 0);
}

static long
try_userfault(const char *object)
{
	(void)object;
	return syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
}

static long
try_perf(const char *object)
{
	(void)object;
	return syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
}

static long
try_uring(const char *object)
{
	uint8_t params[120] = { 0 };

	(void)object;
	return syscall(SYS_io_uring_setup, 1, params);
}

static long
try_module(const char *object)
{
	(void)object;
	return syscall(SYS_init_module, NULL, 0, "");
}

static long
try_reboot(const char *object)
{
	(void)object;
	return syscall(SYS_reboot, 0, 0, 0, NULL);	/* no magic numbers */
}

static long
try_swap(const char *object)
{
	(void)object;
	return swapon("/nonexistent/file", 0);
}

static const struct act acts[] = {
	{ "open", try_open },
	{ "create", try_create },
	{ "be-root", try_be_root },
	{ "setuid", try_setuid },
	{ "unix", try_unix },
	{ "inet", try_inet },
	{ "inet6", try_inet6 },
	{ "netlink", try_netlink },
	{ "packet", try_packet },
	{ "bind", try_bind },
	{ "listen", try_listen },
	{ "connect", try_connect },
	{ "exec", try_exec },
	{ "fork", try_fork },
	{ "kill", try_kill },
	{ "ptrace", try_ptrace },
	{ "readv", try_readv },
	{ "map-exec", try_map_exec },
	{ "mount", try_mount },
	{ "unshare", try_unshare },
	{ "chroot", try_chroot },
	{ "bpf", try_bpf },
	{ "keyctl", try_keyctl },
	{ "userfault", try_userfault },
	{ "perf", try_perf },
	{ "uring", try_uring },
	{ "module", try_module },
	{ "reboot", try_reboot },
	{ "swap", try_swap },
};

void
policy_try(const char *name, const char *object)
{
	for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++)
		if (strcmp(acts[i].name, name) == 0)
			_exit(acts[i].run(object) < 0 &&
			    (errno == EPERM || errno == EACCES) ? REFUSED :
			    DONE);
	_exit(UNKNOWN);
}
