// SPDX-License-Identifier: Apache-2.0
/*
 * FUSE mounts for devices that are presented as a file.  The root of each mount
 * is a regular file (rootmode), so that the path of the device is the mount
 * point itself.
 *
 * What is mounted is served by processes that wait for this one: so nothing
 * here opens, stats or reads it, or looks up a path through it.  What there is
 * to know stands in /proc/self/mountinfo, which asks no file system.
 */
#define _GNU_SOURCE
#include <sys/mount.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"

#define FUSE_DEVICE	"/dev/fuse"
#define FUSE_TYPE	"fuse.shedstream"
#define MOUNTINFO	"/proc/self/mountinfo"
/* The kernel's default of 128 KiB makes of a sequential reader one request in
 * flight and one that is read; and it is no more than a request may have. */
#define READ_AHEAD_KB	512

/* A line of mountinfo: proc_pid_mountinfo(5). */
struct mounted {
	char device[32];	/* MAJOR:MINOR */
	char path[4096], type[64], source[4096];
};

int
mount_possible(const char **remedy)
{
	_cleanup_close_ int fd = -1;

	if (geteuid() != 0) {
		*remedy = "only a service of root can mount; use --present nbd";
		return -EPERM;
	}
	fd = open(FUSE_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		*remedy = FUSE_DEVICE " can't be opened: load the module fuse, "
		    "or use --present nbd";
		return -errno;
	}
	return 0;
}

/* \040 and the like stand for what would end a field. */
static void
unescape(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (text[0] == '\\' && strspn(text + 1, "01234567") >= 3) {
			*to++ = (char)((text[1] - '0') << 6 |
			    (text[2] - '0') << 3 | (text[3] - '0'));
			text += 3;
		} else
			*to++ = *text;
	}
	*to = '\0';
}

static bool
mounted_parse(const char *line, struct mounted *m)
{
	const char *rest = strstr(line, " - ");

	if (!rest || sscanf(line, "%*d %*d %31s %*s %4095s", m->device,
	    m->path) != 2 || sscanf(rest, " - %63s %4095s", m->type,
	    m->source) != 2)
		return false;
	unescape(m->path);
	unescape(m->source);
	return true;
}

/* Call found() for each of our mounts until it does not return 0. */
static int
mounted_each(int (*found)(const struct mounted *m, void *arg), void *arg)
{
	_cleanup_fclose_ FILE *f = fopen(MOUNTINFO, "re");
	_cleanup_free_ char *line = NULL;
	struct mounted *m = malloc(sizeof(*m));
	size_t size = 0;
	int r = 0;

	if (!f || !m)
		r = -ENOMEM;
	while (r == 0 && getline(&line, &size, f) > 0)
		if (mounted_parse(line, m) && strcmp(m->type, FUSE_TYPE) == 0)
			r = found(m, arg);
	free(m);
	return r;
}

/* ---- making ---- */

static int
set_read_ahead(const struct mounted *m, void *arg)
{
	char path[96], value[16];
	_cleanup_close_ int fd = -1;

	if (strcmp(m->path, arg) != 0)
		return 0;
	snprintf(path, sizeof(path), "/sys/class/bdi/%s/read_ahead_kb",
	    m->device);
	snprintf(value, sizeof(value), "%d", READ_AHEAD_KB);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		log_warn("write %s: %s; sequential reads of %s are slower",
		    path, strerror(errno), m->path);
	return 1;
}

int
mount_file(const char *path, const char *mark, int *out)
{
	_cleanup_close_ int fd = open(FUSE_DEVICE,
	    O_RDWR | O_CLOEXEC | O_NONBLOCK);
	char options[128];

	if (fd < 0)
		return -errno;
	/* Not open(): it would open what may be mounted there. */
	if (mknod(path, S_IFREG | 0400, 0) < 0 && errno != EEXIST)
		return -errno;
	snprintf(options, sizeof(options), "fd=%d,rootmode=100000,user_id=0,"
	    "group_id=0,allow_other,default_permissions", fd);
	if (mount(mark, path, FUSE_TYPE, MS_RDONLY | MS_NODEV | MS_NOSUID |
	    MS_NOEXEC, options) < 0) {
		int r = -errno;

		unlink(path);
		return r;
	}
	mounted_each(set_read_ahead, (void *)path);
	*out = take_fd(&fd);
	return 0;
}

/* ---- ending ---- */

/* Whoever mounted something by that name elsewhere, be it a bind mount of ours
 * or one of a user's own, may turn any directory on the way there into a link:
 * only what lies in our own directory is ours to take away. */
static bool
is_in(const char *dir, const char *path)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && path[len] == '/' &&
	    path[len + 1] != '\0' && !strchr(path + len + 1, '/');
}

int
mount_end(const char *path)
{
	/* EINVAL: somebody has unmounted it already */
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL)
		return -errno;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

struct search {
	const char *mark, *path;
};

static int
find_at(const struct mounted *m, void *arg)
{
	const struct search *search = arg;

	return strcmp(m->source, search->mark) == 0 &&
	    strcmp(m->path, search->path) == 0;
}

bool
mount_is(const char *mark, const char *path)
{
	struct search search = { mark, path };

	return mounted_each(find_at, &search) > 0;
}

struct removal {
	const char *mark, *dir;
	bool (*wanted)(const char *name);
	char path[4096];	/* "": none found */
};

static int
find_marked(const struct mounted *m, void *arg)
{
	struct removal *removal = arg;

	if (strcmp(m->source, removal->mark) != 0 ||
	    !is_in(removal->dir, m->path))
		return 0;
	if (removal->wanted &&
	    removal->wanted(m->path + strlen(removal->dir) + 1))
		return 0;
	snprintf(removal->path, sizeof(removal->path), "%s", m->path);
	return 1;
}

/* One at a time: the list changes with each.  What can't be unmounted would be
 * found again, and below it lies nothing of ours: so that is the end. */
int
mount_remove(const char *mark, const char *dir,
    bool (*wanted)(const char *name))
{
	struct removal removal = { .mark = mark, .dir = dir,
		.wanted = wanted };
	int n = 0, r;

	while ((r = mounted_each(find_marked, &removal)) > 0) {
		if (umount2(removal.path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ||
		    (unlink(removal.path) < 0 && errno != ENOENT &&
		    errno != EBUSY))
			return -errno;
		n++;
	}
	return r < 0 ? r : n;
}
