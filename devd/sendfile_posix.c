// SPDX-License-Identifier: Apache-2.0
/*
 * The same by pread and send, for systems whose sendfile does not take a unix
 * socket.  What the socket does not take is read again the next time.
 */
#include <sys/socket.h>

#include <errno.h>
#include <unistd.h>

#include "devd/sendfile.h"

#define PIECE_MAX	(64 * 1024)	/* one buffer for all connections */

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL	0	/* the process ignores SIGPIPE anyway */
#endif

ssize_t
sendfile_some(int sock, int file, uint64_t offset, size_t len)
{
	static char piece[PIECE_MAX];
	ssize_t have, n;

	do {
		have = pread(file, piece, len < sizeof(piece) ? len :
		    sizeof(piece), (off_t)offset);
	} while (have < 0 && errno == EINTR);
	if (have <= 0)
		return have == 0 ? 0 : -EIO;
	do {
		n = send(sock, piece, (size_t)have, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	return errno == EAGAIN ? -EAGAIN : -EPIPE;
}
