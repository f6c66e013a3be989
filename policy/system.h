/* SPDX-License-Identifier: Apache-2.0 */
/* What policy.c asks of the system: one file a system implements it. */
#ifndef POLICY_SYSTEM_H
#define POLICY_SYSTEM_H

#include <stdbool.h>

#include "policy/policy.h"

/* Confine this process to the policy's words and paths, for good. */
void policy_system_enter(const struct policy *policy,
    const struct policy_path *paths, size_t n_paths);
void policy_system_parent(void);

/* Is `word` among the blank-separated words? */
bool policy_has_word(const struct policy *policy, const char *word);

/* Linux's two halves.  Both log and end the process on failure. */
void landlock_enter(const struct policy *policy,
    const struct policy_path *paths, size_t n_paths);
void seccomp_enter(const struct policy *policy);
void seccomp_parent(void);

#endif
