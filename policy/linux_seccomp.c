// SPDX-License-Identifier: Apache-2.0
/*
 * seccomp: the words of policy.h as lists of system calls.  What no word names
 * answers EPERM (so that a libc that probes for something new lives on) and is
 * logged where the kernel audits; what only an attacker would call kills.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "policy/system.h"

#define CALLS_MAX	48

struct word {
	const char *word;
	int calls[CALLS_MAX];	/* ends with 0: read(2), which stdio adds */
};

static const struct word words[] = {
	{ "stdio", { SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev),
	    SCMP_SYS(close), SCMP_SYS(exit), SCMP_SYS(exit_group),
	    SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask),
	    SCMP_SYS(rt_sigaction), SCMP_SYS(sigaltstack), SCMP_SYS(futex),
	    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap),
	    SCMP_SYS(madvise), SCMP_SYS(clock_gettime),
	    SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
	    SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(getpid),
	    SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid),
	    SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(fstat),
	    SCMP_SYS(lseek), SCMP_SYS(dup), SCMP_SYS(restart_syscall),
	    SCMP_SYS(sched_yield), SCMP_SYS(getrusage), SCMP_SYS(rseq),
	    SCMP_SYS(membarrier) } },
	{ "event", { SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl),
	    SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
	    SCMP_SYS(epoll_pwait2), SCMP_SYS(poll), SCMP_SYS(ppoll),
	    SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
	    SCMP_SYS(eventfd2), SCMP_SYS(pipe2) } },
	{ "unix", { SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom),
	    SCMP_SYS(sendto), SCMP_SYS(shutdown), SCMP_SYS(getsockopt),
	    SCMP_SYS(getsockname) } },
	{ "accept", { SCMP_SYS(accept4), SCMP_SYS(accept) } },
	{ "threads", { SCMP_SYS(set_robust_list), SCMP_SYS(set_tid_address),
	    SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setscheduler),
	    SCMP_SYS(sched_getparam), SCMP_SYS(sched_getscheduler),
	    SCMP_SYS(ioprio_set), SCMP_SYS(setpriority) } },
	{ "pread", { SCMP_SYS(pread64), SCMP_SYS(preadv), SCMP_SYS(preadv2),
	    SCMP_SYS(sendfile), SCMP_SYS(fadvise64) } },
	{ "writefd", { SCMP_SYS(pwrite64), SCMP_SYS(ftruncate),
	    SCMP_SYS(fdatasync) } },
	{ "store", { SCMP_SYS(openat), SCMP_SYS(mkdirat), SCMP_SYS(unlinkat),
	    SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(linkat),
	    SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(ftruncate),
	    SCMP_SYS(fallocate), SCMP_SYS(pwrite64), SCMP_SYS(pread64),
	    SCMP_SYS(getdents64), SCMP_SYS(fstatfs), SCMP_SYS(newfstatat),
	    SCMP_SYS(statx), SCMP_SYS(fadvise64), SCMP_SYS(fchmod),
	    SCMP_SYS(sync_file_range), SCMP_SYS(copy_file_range) } },
	{ "read", { SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(newfstatat),
	    SCMP_SYS(stat), SCMP_SYS(statx), SCMP_SYS(access),
	    SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink),
	    SCMP_SYS(readlinkat), SCMP_SYS(getdents64), SCMP_SYS(pread64),
	    SCMP_SYS(uname), SCMP_SYS(getcwd), SCMP_SYS(sysinfo),
	    SCMP_SYS(fadvise64), SCMP_SYS(statfs), SCMP_SYS(fstatfs) } },
	{ "uring", { SCMP_SYS(io_uring_enter) } },
	{ "shm", { SCMP_SYS(memfd_create), SCMP_SYS(ftruncate) } },
	{ "inet", { SCMP_SYS(connect), SCMP_SYS(setsockopt),
	    SCMP_SYS(getsockopt), SCMP_SYS(getpeername),
	    SCMP_SYS(getsockname), SCMP_SYS(sendmmsg), SCMP_SYS(recvmmsg) } },
#ifdef POLICY_SANITIZER
	{ "stdio", { SCMP_SYS(openat), SCMP_SYS(readlink), SCMP_SYS(mmap),
	    SCMP_SYS(mprotect), SCMP_SYS(prctl), SCMP_SYS(sched_getaffinity),
	    SCMP_SYS(prlimit64), SCMP_SYS(clone), SCMP_SYS(wait4),
	    SCMP_SYS(tgkill), SCMP_SYS(kill), SCMP_SYS(pipe),
	    SCMP_SYS(getppid), SCMP_SYS(newfstatat), SCMP_SYS(fcntl) } },
#endif
};

/* Nobody calls these by mistake. */
static const int attacks[] = { SCMP_SYS(execve), SCMP_SYS(execveat),
	SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev), SCMP_SYS(mount), SCMP_SYS(umount2),
	SCMP_SYS(move_mount), SCMP_SYS(fsopen), SCMP_SYS(open_tree),
	SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(setns),
	SCMP_SYS(unshare), SCMP_SYS(bpf), SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load), SCMP_SYS(init_module),
	SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(reboot),
	SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd), SCMP_SYS(keyctl), SCMP_SYS(add_key),
	SCMP_SYS(request_key), SCMP_SYS(open_by_handle_at), SCMP_SYS(acct),
	SCMP_SYS(iopl), SCMP_SYS(ioperm) };

/* What not even the parent may do, nor anything it starts. */
static const int never[] = { SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev), SCMP_SYS(bpf), SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load), SCMP_SYS(init_module),
	SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(reboot),
	SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd), SCMP_SYS(keyctl), SCMP_SYS(add_key),
	SCMP_SYS(request_key), SCMP_SYS(open_by_handle_at), SCMP_SYS(acct),
	SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(pivot_root) };

static void
filter_release(scmp_filter_ctx *ctx)
{
	if (*ctx)
		seccomp_release(*ctx);
}

static void
check(int r, const char *what)
{
	if (r < 0)
		log_die("seccomp: %s: %s", what, strerror(-r));
}

/* A call that this architecture lacks is no error. */
static void
allow(scmp_filter_ctx ctx, int call)
{
	if (call > 0 || call == SCMP_SYS(read))
		check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 0), "rule");
}

static void
allow_if(scmp_filter_ctx ctx, int call, struct scmp_arg_cmp arg)
{
	check(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1, arg), "rule");
}

/* Calls of which only some arguments are harmless. */
static void
allow_by_argument(scmp_filter_ctx ctx, const struct policy *policy)
{
	static const int fcntls[] = { F_GETFL, F_SETFL, F_GETFD, F_SETFD,
		F_DUPFD_CLOEXEC, F_GET_SEALS, F_SETPIPE_SZ };

	for (size_t i = 0; i < ARRAY_LEN(fcntls); i++)
		allow_if(ctx, SCMP_SYS(fcntl),
		    SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntls[i]));
	allow_if(ctx, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, FIONBIO));
	allow_if(ctx, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	allow_if(ctx, SCMP_SYS(tgkill),
	    SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	if (policy_has_word(policy, "dlopen")) {
		allow(ctx, SCMP_SYS(mmap));
		allow(ctx, SCMP_SYS(mprotect));
	} else {
		allow_if(ctx, SCMP_SYS(mmap),
		    SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
		allow_if(ctx, SCMP_SYS(mprotect),
		    SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	}
	if (policy_has_word(policy, "shm"))
		allow_if(ctx, SCMP_SYS(fcntl),
		    SCMP_A1(SCMP_CMP_EQ, F_ADD_SEALS));
	if (policy_has_word(policy, "lock"))
		allow_if(ctx, SCMP_SYS(fcntl),
		    SCMP_A1(SCMP_CMP_EQ, F_SETLKW));
	if (policy_has_word(policy, "threads")) {
		allow_if(ctx, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ,
		    CLONE_THREAD, CLONE_THREAD));
		/* its flags lie in memory; libc falls back to clone */
		check(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS),
		    SCMP_SYS(clone3), 0), "clone3");
	}
	if (policy_has_word(policy, "inet")) {
		allow_if(ctx, SCMP_SYS(socket),
		    SCMP_A0(SCMP_CMP_EQ, AF_INET));
		allow_if(ctx, SCMP_SYS(socket),
		    SCMP_A0(SCMP_CMP_EQ, AF_INET6));
		/* by which curl's look-up thread says that it is done */
		allow_if(ctx, SCMP_SYS(socketpair),
		    SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	}
	if (!policy_has_word(policy, "store") &&
	    !policy_has_word(policy, "read"))
		allow_if(ctx, SCMP_SYS(newfstatat), SCMP_A3(
		    SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
}

void
seccomp_enter(const struct policy *policy)
{
	_cleanup_(filter_release) scmp_filter_ctx ctx =
	    seccomp_init(SCMP_ACT_ERRNO(EPERM));

	if (!ctx)
		log_die("seccomp: no memory");
	check(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1), "log");
	allow(ctx, SCMP_SYS(read));
	for (size_t w = 0; w < ARRAY_LEN(words); w++) {
		if (!policy_has_word(policy, words[w].word))
			continue;
		for (const int *c = words[w].calls; *c; c++)
			allow(ctx, *c);
	}
	allow_by_argument(ctx, policy);
	for (size_t i = 0; i < ARRAY_LEN(attacks); i++)
		if (attacks[i] > 0)
			check(seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS,
			    attacks[i], 0), "kill rule");
	check(seccomp_load(ctx), "load");
}

void
seccomp_parent(void)
{
	_cleanup_(filter_release) scmp_filter_ctx ctx =
	    seccomp_init(SCMP_ACT_ALLOW);

	if (!ctx)
		log_die("seccomp: no memory");
	for (size_t i = 0; i < ARRAY_LEN(never); i++)
		if (never[i] > 0)
			check(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM),
			    never[i], 0), "rule");
	check(seccomp_load(ctx), "load");
}
