// SPDX-License-Identifier: Apache-2.0
/*
 * The store's file operations, where POSIX has them: see disk.h.  Each is one
 * act on the disk and nothing else: no name is built, nothing is logged and
 * nothing is synced that was not asked for.  What durability takes, and in
 * which order, is the caller's: tests/store/ proves it.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/own.h"
#include "cached/disk.h"

static int
fd_or_error(int fd)
{
	return fd < 0 ? -errno : fd;
}

int
disk_create(int dir, const char *name)
{
	int r = disk_unlink(dir, name);

	/* Not O_TRUNC: who reads the older file keeps it. */
	if (r < 0)
		return r;
	return fd_or_error(openat(dir, name, O_RDWR | O_CREAT | O_EXCL |
	    O_CLOEXEC, 0600));
}

int
disk_open(int dir, const char *name, bool writable)
{
	return fd_or_error(openat(dir, name, (writable ? O_RDWR : O_RDONLY) |
	    O_NOFOLLOW | O_CLOEXEC));
}

int
disk_dir(int dir, const char *name, bool make)
{
	if (make && mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	return fd_or_error(openat(dir, name, O_RDONLY | O_DIRECTORY |
	    O_NOFOLLOW | O_CLOEXEC));
}

int
disk_write(int fd, const void *buf, size_t len, uint64_t offset)
{
	return fd_pwrite_all(fd, buf, len, offset);
}

int
disk_set_size(int fd, uint64_t size)
{
	int r;

	do
		r = ftruncate(fd, (off_t)size);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* A sync that failed is never tried again here: what it did not write may be
 * marked clean, and the next one would find nothing to do. */
int
disk_sync(int fd)
{
	return fdatasync(fd) < 0 ? -errno : 0;
}

int
disk_sync_dir(int dir)
{
	return fsync(dir) < 0 ? -errno : 0;
}

int
disk_rename(int from_dir, const char *from, int to_dir, const char *to)
{
	return renameat(from_dir, from, to_dir, to) < 0 ? -errno : 0;
}

int
disk_unlink(int dir, const char *name)
{
	return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int
disk_rmdir(int dir, const char *name)
{
	return unlinkat(dir, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int
disk_used(int fd, uint64_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*bytes = (uint64_t)st.st_blocks * 512;	/* POSIX leaves the unit open */
	return 0;
}
