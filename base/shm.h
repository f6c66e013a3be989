/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is shared by handing over a descriptor: memfd on Linux
 * (shm_linux.c), an unlinked shm object elsewhere (shm_posix.c).
 */
#ifndef BASE_SHM_H
#define BASE_SHM_H

#include <stddef.h>

/* A new zeroed object of this size that can't be resized any more (where the
 * system can promise that), close-on-exec.  The descriptor, or -errno. */
int shm_object(const char *name, size_t size);

/* The same object through a descriptor that can't be mapped writable.
 * Needs a view of /proc on Linux.  The descriptor, or -errno. */
int shm_readonly(int fd);

/* A new object with this content that can no longer be changed. */
int shm_sealed(const char *name, const void *content, size_t len);

/* A new object mapped here writable, that nobody can write to through the
 * descriptor or a mapping of his own.  The descriptor, or -errno. */
int shm_private_writer(const char *name, size_t size, void **out);

/* Is a received descriptor an object of at most max bytes that nobody can
 * change any more, open for reading?  Nothing else is looked at, were it of a
 * file system that does not answer.  *size: its bytes.  0, -EPROTO: it is none,
 * -EFBIG. */
int shm_is_sealed(int fd, size_t max, size_t *size);

/* Map all of a received object.  want: its exact size; -EPROTO if it differs
 * or could still be resized.  0 or -errno. */
int shm_map(int fd, size_t want, int writable, void **out);

#endif
