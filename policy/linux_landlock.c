// SPDX-License-Identifier: Apache-2.0
/*
 * Landlock: a process may open what its policy's paths allow and nothing else;
 * without `inet` it may not connect, and none may bind.  On a kernel without
 * Landlock seccomp and the user stand alone, which is said once.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include <linux/landlock.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "policy/linux_abi.h"
#include "policy/system.h"

#define FS_READ	(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_STORE (FS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE |                   \
	LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |      \
	LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |           \
	LANDLOCK_ACCESS_FS_REFER | LL_FS_TRUNCATE)
#define FS_ABI_1 ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

/* Everything that this kernel can forbid. */
static struct ll_ruleset
ruleset_all(const struct policy *policy, long abi)
{
	struct ll_ruleset r = { .fs = FS_ABI_1 };

	if (abi >= 2)
		r.fs |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		r.fs |= LL_FS_TRUNCATE;
	if (abi >= 4)
		r.net = policy_has_word(policy, "inet") ? LL_NET_BIND_TCP :
		    LL_NET_BIND_TCP | LL_NET_CONNECT_TCP;
	if (abi >= 5)
		r.fs |= LL_FS_IOCTL_DEV;
	if (abi >= 6)
		r.scoped = LL_SCOPE_ABSTRACT_UNIX | LL_SCOPE_SIGNAL;
	return r;
}

static size_t
ruleset_size(long abi)
{
	return abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
}

static void
allow_path(const struct policy *policy, int ruleset, uint64_t handled,
    const struct policy_path *path)
{
	_cleanup_close_ int opened = -1;
	struct landlock_path_beneath_attr rule = {
		.allowed_access = (path->write ? FS_STORE : FS_READ) & handled,
		.parent_fd = path->dirfd,
	};

	if (path->path) {
		opened = open(path->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (opened < 0)
			return;		/* not on this machine */
		rule.parent_fd = opened;
	}
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH,
	    &rule, 0) < 0)
		log_die("%s: landlock rule for %s: %s", policy->process,
		    path->path ? path->path : "its directory",
		    strerror(errno));
}

void
landlock_enter(const struct policy *policy, const struct policy_path *paths,
    size_t n_paths)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0,
	    LANDLOCK_CREATE_RULESET_VERSION);
	_cleanup_close_ int ruleset = -1;
	struct ll_ruleset all;

	if (abi < 1) {
		log_warn("this kernel has no Landlock: %s is held by its user "
		    "and seccomp alone", policy->process);
		return;
	}
	all = ruleset_all(policy, abi);
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &all,
	    ruleset_size(abi), 0);
	if (ruleset < 0)
		log_die("%s: landlock: %s", policy->process, strerror(errno));
	for (size_t i = 0; i < n_paths; i++)
		allow_path(policy, ruleset, all.fs, &paths[i]);
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		log_die("%s: landlock: %s", policy->process, strerror(errno));
}
