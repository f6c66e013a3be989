/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes and descriptors over a socket, for who plays a process's peers without
 * an event loop.  All waiting is bounded: DEADLINE_S, then the test fails.
 */
#ifndef TESTS_UNIT_TEST_BYTES_H
#define TESTS_UNIT_TEST_BYTES_H

#include <sys/socket.h>

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEADLINE_S	20

#define must(ok)	must_(ok, #ok, __FILE__, __LINE__)

static inline void
must_(bool ok, const char *what, const char *file, int line)
{
	if (ok)
		return;
	fprintf(stderr, "%s:%d: not true: %s (%s)\n", file, line, what,
	    strerror(errno));
	abort();
}

/* Is there something to read within ms?  End of file is something. */
static inline bool
readable_in(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) > 0;
}

/* All of it: true.  End of file before: false. */
static inline bool
get_bytes(int fd, void *buf, size_t len)
{
	for (size_t have = 0; have < len;) {
		must(readable_in(fd, DEADLINE_S * 1000));
		ssize_t n = read(fd, (char *)buf + have, len - have);

		if (n <= 0)
			return false;
		have += (size_t)n;
	}
	return true;
}

static inline void
put_bytes(int fd, const void *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		must(n > 0);
		buf = (const char *)buf + n;
		len -= (size_t)n;
	}
}

static inline void
put_frame(int sock, const void *head, size_t head_len, const void *body,
    size_t len, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov[2] = { { (void *)head, head_len },
		{ (void *)body, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	must(sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)(head_len + len));
}

#endif
