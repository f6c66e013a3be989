// SPDX-License-Identifier: Apache-2.0
/*
 * The store directory:
 *
 *	version				"shedstream store 1"
 *	images/HEX.json, HEX.manifest	images known, by manifest digest
 *	layouts/HEX/data.ID		a blob's bytes, sparse, by blob digest
 *	layouts/HEX/presence.ID		which of them are there: digests
 *	layouts/HEX/complete		the whole digest was computed and fits
 *	quarantine/HEX.ID		a file whose whole digest did not fit
 *	lock				held by the suite that uses it
 *
 * Everything small is written to a temporary file, synced, renamed, and its
 * directory synced.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define VERSION_TEXT	"shedstream store 1\n"

static int dir = -1;

int
store_dir(void)
{
	return dir;
}

void
store_open(int dirfd)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	dir = dirfd;
	r = store_read_file(dir, "version", 64, &text, &len);
	if (r == -ENOENT)
		r = store_write_file(dir, "version", VERSION_TEXT,
		    strlen(VERSION_TEXT));
	else if (r == 0 && strcmp(text, VERSION_TEXT) != 0)
		log_die("the store was written by another version (%.32s); "
		    "use that version, or another --store", text);
	if (r < 0)
		log_die("the store's version file: %s", strerror(-r));
}

int
store_subdir(const char *a, const char *b)
{
	char path[128];
	int fd;

	if (mkdirat(dir, a, 0700) < 0 && errno != EEXIST)
		return -errno;
	snprintf(path, sizeof(path), "%s%s%s", a, b ? "/" : "", b ? b : "");
	if (b && mkdirat(dir, path, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int
store_write_file(int dirfd, const char *name, const void *content, size_t len)
{
	_cleanup_close_ int fd = -1;
	char tmp[96];
	int r;

	snprintf(tmp, sizeof(tmp), ".%s.tmp", name);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
	    0600);
	if (fd < 0)
		return -errno;
	r = fd_pwrite_all(fd, content, len, 0);
	if (r < 0)
		return r;
	if (fdatasync(fd) < 0 || renameat(dirfd, tmp, dirfd, name) < 0 ||
	    fsync(dirfd) < 0)
		return -errno;
	return 0;
}

int
store_read_file(int dirfd, const char *name, size_t max, char **content,
    size_t *len)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd_read_text(fd, max, content, len);
}
