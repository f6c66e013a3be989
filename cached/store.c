// SPDX-License-Identifier: Apache-2.0
/*
 * The store directory:
 *
 *	version				"shedstream store 1"
 *	images/HEX.json, HEX.manifest	images known, by manifest digest
 *	layouts/HEX/data.ID		a device's bytes, sparse, by the digest
 *					of its index, or of its blob without one
 *	layouts/HEX/presence.ID		which of them are there: digests
 *	layouts/HEX/index		the chunk index
 *	layouts/HEX/complete		the whole digest was computed and fits
 *	layouts/HEX/used		when its runs were of use
 *	keeps/HEX.json			what an owner keeps
 *	quarantine/HEX.ID		a file whose whole digest did not fit
 *	lock				held by the suite that uses it
 *
 * Everything small is written to a temporary file, synced, renamed, and its
 * directory synced.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define VERSION_TEXT	"shedstream store 1\n"

#define CHECK_LINE	(1 + DIGEST_TEXT + 1)	/* "\nsha256:HEX\n" */

static int dir = -1;

int
store_dir(void)
{
	return dir;
}

/* Of directories that a former cached made and was killed before it synced. */
static void
sync_names(void)
{
	_cleanup_close_ int layouts_dir = disk_dir(dir, "layouts", false);
	int r = disk_sync_dir(dir);

	if (r == 0 && layouts_dir >= 0)
		r = disk_sync_dir(layouts_dir);
	if (r < 0)
		log_err("sync the store's directory: %s", strerror(-r));
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
	sync_names();
}

/* What stands in a directory is as durable as the directory's own name. */
static int
subdir(int outer, const char *name)
{
	int fd = disk_dir(outer, name, false), r;

	if (fd != -ENOENT)
		return fd;
	fd = disk_dir(outer, name, true);
	r = fd < 0 ? fd : disk_sync_dir(outer);
	if (r < 0)
		fd_close(fd);
	return r < 0 ? r : fd;
}

int
store_subdir(const char *a, const char *b)
{
	int outer = subdir(dir, a), inner;

	if (outer < 0 || !b)
		return outer;
	inner = subdir(outer, b);
	fd_close(outer);
	return inner;
}

int
store_write_file(int dirfd, const char *name, const void *content, size_t len)
{
	_cleanup_close_ int fd = -1;
	char tmp[96];
	int r;

	snprintf(tmp, sizeof(tmp), ".%s.tmp", name);
	fd = disk_create(dirfd, tmp);
	if (fd < 0)
		return fd;
	r = disk_write(fd, content, len, 0);
	if (r == 0)
		r = disk_sync(fd);
	if (r == 0)
		r = disk_rename(dirfd, tmp, dirfd, name);
	else
		disk_unlink(dirfd, tmp);
	return r < 0 ? r : disk_sync_dir(dirfd);
}

int
store_read_file(int dirfd, const char *name, size_t max, char **content,
    size_t *len)
{
	_cleanup_close_ int fd = disk_open(dirfd, name, false);

	return fd < 0 ? fd : fd_read_text(fd, max, content, len);
}

int
store_write_text(int dirfd, const char *name, const char *text)
{
	struct digest sum = digest_of(text, strlen(text));
	struct digest_text check = digest_to_text(&sum);
	_cleanup_free_ char *all = NULL;
	int len = asprintf(&all, "%s\n%s\n", text, check.text);

	return len < 0 ? -ENOMEM : store_write_file(dirfd, name, all,
	    (size_t)len);
}

int
store_read_text(int dirfd, const char *name, size_t max, char **text,
    size_t *len)
{
	_cleanup_free_ char *all = NULL;
	struct digest_text check;
	struct digest sum;
	char line[CHECK_LINE + 1];
	size_t n;
	int r = store_read_file(dirfd, name, max + CHECK_LINE, &all, &n);

	if (r < 0)
		return r;
	if (n < CHECK_LINE)
		return -EBADMSG;
	n -= CHECK_LINE;
	sum = digest_of(all, n);
	check = digest_to_text(&sum);
	snprintf(line, sizeof(line), "\n%s\n", check.text);
	if (memcmp(all + n, line, CHECK_LINE) != 0)
		return -EBADMSG;
	all[n] = '\0';
	*text = take_ptr(all);
	*len = n;
	return 0;
}

int
store_each(int dirfd, void (*each)(int dirfd, const char *name))
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	int r;

	if (!d) {
		r = -errno;
		fd_close(fd);
		return r;
	}
	do {
		errno = 0;
		e = readdir(d);
		r = -errno;
		if (e && e->d_name[0] != '.')
			each(dirfd, e->d_name);
	} while (e);
	closedir(d);
	return r;
}
