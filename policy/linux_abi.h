/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel constants that Debian 12's headers (6.1) lack, each with its source.
 */
#ifndef POLICY_LINUX_ABI_H
#define POLICY_LINUX_ABI_H

#include <stdint.h>

/* include/uapi/linux/landlock.h of Linux 6.12 */
#define LL_FS_TRUNCATE		(1ULL << 14)	/* ABI 3, Linux 6.2 */
#define LL_FS_IOCTL_DEV		(1ULL << 15)	/* ABI 5, Linux 6.10 */
#define LL_NET_BIND_TCP		(1ULL << 0)	/* ABI 4, Linux 6.7 */
#define LL_NET_CONNECT_TCP	(1ULL << 1)	/* ABI 4 */
#define LL_SCOPE_ABSTRACT_UNIX	(1ULL << 0)	/* ABI 6, Linux 6.12 */
#define LL_SCOPE_SIGNAL		(1ULL << 1)	/* ABI 6 */

/* struct landlock_ruleset_attr; older kernels take its head. */
struct ll_ruleset {
	uint64_t fs;
	uint64_t net;		/* ABI 4 */
	uint64_t scoped;	/* ABI 6 */
};

#endif
