// SPDX-License-Identifier: Apache-2.0
/* Linux: no_new_privs, then Landlock (what may be opened), then seccomp (what
 * may be called). */
#include <sys/prctl.h>

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "policy/system.h"

static void
no_new_privs(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		log_die("no_new_privs: %s", strerror(errno));
}

void
policy_system_enter(const struct policy *policy,
    const struct policy_path *paths, size_t n_paths)
{
	no_new_privs();
	landlock_enter(policy, paths, n_paths);
	seccomp_enter(policy);
}

void
policy_system_parent(void)
{
	no_new_privs();
	seccomp_parent();
}
