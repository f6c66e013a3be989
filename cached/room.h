/* SPDX-License-Identifier: Apache-2.0 */
/* Room for data before it is written: room_linux.c, room_posix.c. */
#ifndef CACHED_ROOM_H
#define CACHED_ROOM_H

#include <stddef.h>
#include <stdint.h>

/* Allocate [offset, offset+len) of a file without changing its size, so that
 * a full disk is an answer here and not a failed sync later.  0 (also where the
 * file system can't), -ENOSPC or another -errno. */
int room_reserve(int fd, uint64_t offset, size_t len);

#endif
