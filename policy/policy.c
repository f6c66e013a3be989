// SPDX-License-Identifier: Apache-2.0
/*
 * Entering a policy: first what every system has (user, limits), then what
 * this one adds.  A policy that can't be entered ends the process: it has
 * read nothing from outside yet, so nothing is lost.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "policy/policy.h"
#include "policy/system.h"

int
policy_user(const char *name, uid_t *uid, gid_t *gid)
{
	struct passwd *pw = getpwnam(name);

	if (!pw)
		return -ENOENT;
	*uid = pw->pw_uid;
	*gid = pw->pw_gid;
	return 0;
}

bool
policy_has_word(const struct policy *policy, const char *word)
{
	size_t len = strlen(word);

	for (const char *w = policy->words; *w; w += strspn(w, " ")) {
		size_t n = strcspn(w, " ");

		if (n == len && memcmp(w, word, n) == 0)
			return true;
		w += n;
	}
	return false;
}

static void
limit(const struct policy *policy, int what, rlim_t most)
{
	struct rlimit l = { .rlim_cur = most, .rlim_max = most };

	if (setrlimit(what, &l) < 0)
		log_die("%s: limit %d to %llu: %s", policy->process, what,
		    (unsigned long long)most, strerror(errno));
}

static void
become_user(const struct policy *policy)
{
	uid_t uid;
	gid_t gid;

	if (geteuid() != 0)
		return;		/* rootless: one user for all */
	if (policy_user(policy->user, &uid, &gid) < 0)
		log_die("user %s is missing; make it with systemd-sysusers "
		    "(systemd/shedstream.sysusers)", policy->user);
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
	    setresuid(uid, uid, uid) < 0)
		log_die("become %s: %s", policy->user, strerror(errno));
	if (setuid(0) == 0)
		log_die("still root after becoming %s", policy->user);
}

void
policy_enter(const struct policy *policy, const struct policy_path *paths,
    size_t n_paths)
{
	struct rlimit files;

	become_user(policy);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 &&
	    files.rlim_max > policy->files)
		limit(policy, RLIMIT_NOFILE, policy->files);
	limit(policy, RLIMIT_CORE, 0);
	if (policy->file_size > 0)
		limit(policy, RLIMIT_FSIZE, policy->file_size);
	policy_system_enter(policy, paths, n_paths);
}

void
policy_parent(void)
{
	policy_system_parent();
}
