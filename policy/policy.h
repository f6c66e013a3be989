/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process may do, as data at the top of its main file, in the manner of
 * OpenBSD's pledge: a user, words, directories, limits.  policy_enter() makes
 * it true by whatever the system has (Linux: ids, no_new_privs, rlimits,
 * Landlock, seccomp) before the first outside byte is read.
 *
 * words, separated by blanks:
 *	stdio	memory, clocks, reading and writing descriptors it has
 *	event	epoll, poll, timers, eventfd
 *	unix	send and receive on sockets it has, descriptors included
 *	accept	accept(2) on a listening socket it was given
 *	threads	threads of its own
 *	pread	read files it has by offset, sendfile
 *	writefd	write files it has by offset, set their length
 *	store	make, write, rename and remove files below `paths`
 *	read	open files below `paths` read-only
 *	shm	make shared memory objects
 *	inet	TCP and UDP out
 *	lock	wait for a record lock of a file it has
 *	uring	submit to an io_uring it has, which restricts itself
 *	dlopen	load libraries below `paths` (the resolver's)
 * Everything else answers EPERM and is logged by the kernel where it audits;
 * what only an attacker would call (exec, ptrace, mount...) kills the process.
 */
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct policy_path {
	const char *path;	/* a directory; one that is absent is skipped */
	int dirfd;		/* used instead where path is NULL */
	bool write;
};

struct policy {
	const char *process;
	const char *user;	/* taken when started by root */
	const char *words;
	uint64_t files;		/* most descriptors */
	uint64_t file_size;	/* most bytes of a file it grows; 0: it holds
				 * none to grow, but its log may be one */
};

/* Give up everything else.  paths: n_paths of them, granted by `store` and
 * `read`.  Logs and ends the process when any part of it fails but Landlock on
 * a kernel without it (said once, at start). */
void policy_enter(const struct policy *policy, const struct policy_path *paths,
    size_t n_paths);

/* The parent's: a deny-list of what no process of the suite may do, which its
 * children inherit, and no_new_privs. */
void policy_parent(void);

/* For tests, from the command line only, after the policy was entered: try one
 * act by its name in linux_try.c and exit with 0: refused, 1: done, 2: there is
 * no such act. */
void policy_try(const char *act, const char *object)
    __attribute__((noreturn));

/* Ids of a user of the suite.  0 or -ENOENT. */
int policy_user(const char *name, uid_t *uid, gid_t *gid);

#endif
