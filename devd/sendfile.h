/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a file to a socket without a copy, where the system has that.
 */
#ifndef DEVD_SENDFILE_H
#define DEVD_SENDFILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Send up to len bytes of file at offset to the non-blocking sock.
 * > 0: so many went out.  0: the file ends at offset.  -EAGAIN: the socket is
 * full.  -EPIPE: the socket can't be written any more, whatever it said.
 * -EIO: the file can't be read there, whatever it said. */
ssize_t sendfile_some(int sock, int file, uint64_t offset, size_t len);

#endif
