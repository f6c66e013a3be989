// SPDX-License-Identifier: Apache-2.0
/* Who is at the other end of a unix socket: SO_PEERCRED. */
#define _GNU_SOURCE
#include <sys/socket.h>

#include <errno.h>

#include "base/peer.h"

int
peer_user(int fd, uid_t *uid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	*uid = cred.uid;
	return 0;
}
