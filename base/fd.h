/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors: whole reads and writes, flags, pairs. */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Close fd and keep errno; does nothing for a negative fd. */
void fd_close(int fd);

/* Non-blocking from here on.  0 or -errno. */
int fd_nonblock(int fd);

/* Close-on-exec set or cleared.  0 or -errno. */
int fd_cloexec(int fd, int on);

/* A duplicate, close-on-exec; or -errno. */
int fd_duplicate(int fd);

/* A connected pair of unix stream sockets, close-on-exec, non-blocking. */
int fd_pair(int pair[2]);

/* All of buf at offset.  0 or -errno. */
int fd_pwrite_all(int fd, const void *buf, size_t len, uint64_t offset);

/* Up to len bytes at offset: the count, short only at the end of the file;
 * or -errno. */
ssize_t fd_pread_all(int fd, void *buf, size_t len, uint64_t offset);

/* The whole file as a NUL-terminated string in *text (caller frees), its
 * length in *len.  -EFBIG past max bytes.  0 or -errno. */
int fd_read_text(int fd, size_t max, char **text, size_t *len);

#endif
