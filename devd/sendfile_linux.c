// SPDX-License-Identifier: Apache-2.0
/*
 * sendfile(2) of Linux.  Page cache pages go into the socket by reference: a
 * page that is overwritten before the peer reads it changes what he gets.  So
 * this is for store files, whose verified bytes stay, and never for the
 * scratch object, whose lanes are used again.
 */
#include <sys/sendfile.h>

#include <errno.h>
#include <unistd.h>

#include "devd/sendfile.h"

/* sendfile() does not say which of the two failed; a read of one byte does. */
static ssize_t
which_failed(int file, uint64_t offset)
{
	char byte;
	ssize_t n = pread(file, &byte, 1, (off_t)offset);

	return n > 0 ? -EPIPE : n == 0 ? 0 : -EIO;
}

ssize_t
sendfile_some(int sock, int file, uint64_t offset, size_t len)
{
	off_t at = (off_t)offset;
	ssize_t n;

	do {
		n = sendfile(sock, file, &at, len);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN)
		return -EAGAIN;
	if (errno == EPIPE || errno == ECONNRESET)
		return -EPIPE;
	return which_failed(file, offset);
}
