// SPDX-License-Identifier: Apache-2.0
/*
 * Directories, sockets and lock files of the parent.  These are the only paths
 * that the parent opens; none comes from a client.
 */
#define _GNU_SOURCE
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"

#define LOCK_POLL_MS	50	/* flock has no timed wait */
#define BACKLOG		64

/* mkdir -p, the last one with mode. */
static void
make_directory(const char *path, mode_t mode)
{
	char part[4096];
	size_t len = strlen(path);

	if (len >= sizeof(part))
		log_die("the path %s is too long", path);
	for (size_t i = 1; i <= len; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, i == len ? mode : 0755) < 0 &&
		    errno != EEXIST)
			log_die("make directory %s: %s", part,
			    strerror(errno));
	}
}

static bool
directory_empty(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	bool empty = true;

	if (!d)
		log_die("read directory %s: %s", path, strerror(errno));
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			empty = false;
	closedir(d);
	return empty;
}

/* The store belongs to cached's user; an empty one is given to it. */
static void
own_store(const char *path)
{
	struct stat st;
	uid_t uid;
	gid_t gid;

	if (policy_user("_shedcache", &uid, &gid) < 0 || stat(path, &st) < 0)
		log_die("store %s: %s", path, strerror(errno));
	if (st.st_uid == uid)
		return;
	if (!directory_empty(path))
		log_die("the store %s belongs to uid %d and holds files; if "
		    "they are a store, run: chown -R _shedcache: %s", path,
		    (int)st.st_uid, path);
	if (chown(path, uid, gid) < 0)
		log_die("give %s to _shedcache: %s", path, strerror(errno));
}

void
places_make_run(const struct places *places, gid_t group)
{
	static const char *const shared[] = { "nbd", "file" };
	char dir[RUN_PATH_MAX + 16];
	mode_t mode = places->root ? 0755 : 0700;

	if (strlen(places->run) > RUN_PATH_MAX ||
	    strpbrk(places->run, " ,"))
		log_die("the run directory %s is longer than %d bytes, so that "
		    "its sockets' paths pass %d, or has a space or comma; "
		    "choose another with --run", places->run, RUN_PATH_MAX,
		    SOCKET_PATH_MAX);
	make_directory(places->run, mode);
	snprintf(dir, sizeof(dir), "%s/" RECORDS, places->run);
	make_directory(dir, 0700);
	for (size_t i = 0; i < ARRAY_LEN(shared); i++) {
		snprintf(dir, sizeof(dir), "%s/%s", places->run, shared[i]);
		make_directory(dir, places->root ? 0750 : 0700);
		if (places->root && chown(dir, 0, group) < 0)
			log_die("give %s to its group: %s", dir,
			    strerror(errno));
	}
}

void
places_make_store(const struct places *places)
{
	make_directory(places->store, 0700);
	if (places->root)
		own_store(places->store);
}

int
places_lock(const char *dir, const char *file, int wait_s, const char *whose)
{
	char path[4200];
	int fd, waited = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		log_die("open %s: %s", path, strerror(errno));
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		struct timespec pause = { 0, LOCK_POLL_MS * 1000000L };

		if (errno != EWOULDBLOCK)
			log_die("lock %s: %s", path, strerror(errno));
		if (waited >= wait_s * 1000)
			log_die("another devd uses this %s (%s is locked); "
			    "stop it, or choose another with --store and "
			    "--run", whose, path);
		nanosleep(&pause, NULL);
		waited += LOCK_POLL_MS;
	}
	return fd;
}

int
places_listen(const char *path, bool for_group, gid_t group)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;
	mode_t old;
	int r;

	if (strlen(path) > SOCKET_PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || fd_cloexec(fd, 1) < 0 || fd_nonblock(fd) < 0)
		return -errno;
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	old = umask(0177);
	r = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	umask(old);
	if (r < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	if (for_group && (chown(path, 0, group) < 0 || chmod(path, 0660) < 0))
		return -errno;
	return take_fd(&fd);
}

int
places_open_read(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void
places_empty(const struct places *places, const char *below)
{
	char dir[RUN_PATH_MAX + 16];
	struct dirent *e;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s/%s", places->run, below);
	d = opendir(dir);
	if (!d)
		log_die("read directory %s: %s", dir, strerror(errno));
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' &&
		    unlinkat(dirfd(d), e->d_name, 0) < 0)
			log_warn("remove %s/%s: %s", dir, e->d_name,
			    strerror(errno));
	closedir(d);
}
