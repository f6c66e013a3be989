// SPDX-License-Identifier: Apache-2.0
/*
 * The store's file operations that are Linux's own: room and holes by
 * fallocate(2), shared blocks by copy_file_range(2), fstatfs(2).
 */
#define _GNU_SOURCE
#include <sys/vfs.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/own.h"
#include "cached/disk.h"

#define COPY_BUFFER	(256 * 1024)	/* bytes, where the kernel can't copy */

static int
allocate(int fd, int mode, uint64_t offset, uint64_t len)
{
	int r;

	if (len == 0)
		return 0;
	do
		r = fallocate(fd, mode, (off_t)offset, (off_t)len);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int
disk_reserve(int fd, uint64_t offset, uint64_t len)
{
	int r = allocate(fd, FALLOC_FL_KEEP_SIZE, offset, len);

	return r == -EOPNOTSUPP ? 0 : r;
}

int
disk_punch(int fd, uint64_t offset, uint64_t len)
{
	return allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
	    len);
}

static int
copy_by_hand(int from, uint64_t from_offset, int to, uint64_t to_offset,
    size_t len)
{
	_cleanup_free_ void *buf = malloc(COPY_BUFFER);

	if (!buf)
		return -ENOMEM;
	while (len > 0) {
		size_t part = len < COPY_BUFFER ? len : COPY_BUFFER;
		ssize_t n = fd_pread_all(from, buf, part, from_offset);
		int r;

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EIO;	/* the file ends before that */
		r = fd_pwrite_all(to, buf, (size_t)n, to_offset);
		if (r < 0)
			return r;
		from_offset += (size_t)n;
		to_offset += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Between file systems, or from what is not on disk: by hand, which also tells
 * the end of the file from a kernel that copies nothing. */
int
disk_copy(int from, uint64_t from_offset, int to, uint64_t to_offset,
    size_t len)
{
	while (len > 0) {
		off_t in = (off_t)from_offset, out = (off_t)to_offset;
		ssize_t n = copy_file_range(from, &in, to, &out, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (n < 0 && (errno == EXDEV || errno == EINVAL ||
		    errno == EOPNOTSUPP || errno == ENOSYS)))
			return copy_by_hand(from, from_offset, to, to_offset,
			    len);
		if (n < 0)
			return -errno;
		from_offset += (size_t)n;
		to_offset += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int
disk_room(int dir, uint64_t *free_bytes, uint64_t *total)
{
	struct statfs st;
	int r;

	do
		r = fstatfs(dir, &st);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	*free_bytes = (uint64_t)st.f_bavail * (uint64_t)st.f_frsize;
	*total = (uint64_t)st.f_blocks * (uint64_t)st.f_frsize;
	return 0;
}
