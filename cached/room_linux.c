// SPDX-License-Identifier: Apache-2.0
/* Room for data before it is written: fallocate(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>

#include "cached/room.h"

int
room_reserve(int fd, uint64_t offset, size_t len)
{
	int r;

	do
		r = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset,
		    (off_t)len);
	while (r < 0 && errno == EINTR);
	return r == 0 || errno == EOPNOTSUPP ? 0 : -errno;
}
