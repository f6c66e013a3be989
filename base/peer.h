/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of a unix socket. */
#ifndef BASE_PEER_H
#define BASE_PEER_H

#include <sys/types.h>

/* The user that connected.  0 or -errno. */
int peer_user(int fd, uid_t *uid);

#endif
