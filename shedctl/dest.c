// SPDX-License-Identifier: Apache-2.0
/*
 * A new file that takes the place of DEST when all of it is on the disk:
 *
 *	begin --> a file without a name, or .NAME.XXXXXXXX --commit--> NAME
 *	                      \--refused, interrupted--> removed
 *
 * It is made in DEST's directory with the caller's own rights; the service only
 * gets its descriptor.  Where the file system knows files without a name, not
 * even kill -9 leaves anything.
 */
#define _GNU_SOURCE
#include <sys/random.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "shedctl/shedctl.h"

#define TRIES	100	/* of names that others have taken */

bool dest_unnamed = true;

/* What a signal must remove; dir -1: nothing. */
static volatile sig_atomic_t left_dir = -1;
static char left_name[NAME_MAX + 1];

static void
on_signal(int sig)
{
	if (left_dir >= 0)
		unlinkat(left_dir, left_name, 0);
	signal(sig, SIG_DFL);
	raise(sig);
}

/* From here on the directory has an entry of that name that is not DEST. */
static void
left_set(const struct dest *d, const char *name)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

	snprintf(left_name, sizeof(left_name), "%s", name);
	left_dir = d->dir;
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (signal(signals[i], on_signal) == SIG_IGN)
			signal(signals[i], SIG_IGN);	/* nohup */
}

static void
left_removed(void)
{
	if (left_dir >= 0)
		unlinkat(left_dir, left_name, 0);
	left_dir = -1;
}

/* Try names until make(d, name) takes one.  0 or -errno. */
static int
with_name(struct dest *d, int (*make)(struct dest *d, const char *name))
{
	char name[NAME_MAX + 1];
	unsigned random;
	int r = -EEXIST;

	for (int i = 0; i < TRIES && r == -EEXIST; i++) {
		if (getrandom(&random, sizeof(random), 0) < 0)
			return -errno;
		snprintf(name, sizeof(name), ".%.200s.%08x", d->name, random);
		left_set(d, name);
		r = make(d, name);
		if (r == -EEXIST)
			left_dir = -1;	/* somebody else's */
	}
	return r;
}

static int
make_named(struct dest *d, const char *name)
{
	d->fd = openat(d->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
	    0600);
	return d->fd < 0 ? -errno : 0;
}

static int
make_link(struct dest *d, const char *name)
{
	char self[32];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", d->fd);
	return linkat(AT_FDCWD, self, d->dir, name, AT_SYMLINK_FOLLOW) < 0 ?
	    -errno : 0;
}

/* 0, -EISDIR, -EEXIST (something that is no file is there), or -errno. */
static int
look(const struct dest *d)
{
	struct stat st;

	if (d->name[0] == '\0' || strcmp(d->name, ".") == 0 ||
	    strcmp(d->name, "..") == 0)
		return -EISDIR;
	if (strlen(d->name) > NAME_MAX)
		return -ENAMETOOLONG;
	/* A link is replaced, but not one that leads to what is no file. */
	if (fstatat(d->dir, d->name, &st, 0) < 0)
		return errno == ENOENT ? 0 : -errno;
	return S_ISDIR(st.st_mode) ? -EISDIR :
	    S_ISREG(st.st_mode) ? 0 : -EEXIST;
}

int
dest_begin(struct dest *d, const char *path)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir = NULL;
	int r;

	*d = DEST_NONE;
	dir = slash ? strndup(path, slash == path ? 1 :
	    (size_t)(slash - path)) : strdup(".");
	if (!dir)
		return -ENOMEM;
	d->name = slash ? slash + 1 : path;
	d->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->dir < 0)
		return -errno;
	r = look(d);
	if (r < 0)
		return r;
	if (dest_unnamed)
		d->fd = openat(d->dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC,
		    0600);
	/* A file system, or a kernel, that knows no such thing. */
	if (d->fd < 0 && (!dest_unnamed || errno == EOPNOTSUPP ||
	    errno == EISDIR || errno == ENOENT || errno == EINVAL)) {
		d->named = true;
		return with_name(d, make_named);
	}
	return d->fd < 0 ? -errno : 0;
}

int
dest_commit(struct dest *d)
{
	int r = 0;

	if (fchmod(d->fd, 0444) < 0 || fsync(d->fd) < 0)
		return -errno;
	if (!d->named) {
		r = make_link(d, d->name);
		if (r == -EEXIST) {	/* to be replaced: by rename only */
			r = with_name(d, make_link);
			d->named = r == 0;
		}
	}
	if (r == 0 && d->named) {
		if (renameat(d->dir, left_name, d->dir, d->name) < 0)
			return -errno;
		left_dir = -1;
	}
	if (r == 0 && fsync(d->dir) < 0)
		r = -errno;
	return r;
}

void
dest_done(struct dest *d)
{
	left_removed();
	fd_close(d->fd);
	fd_close(d->dir);
	*d = DEST_NONE;
}
