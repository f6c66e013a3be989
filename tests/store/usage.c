// SPDX-License-Identifier: Apache-2.0
/* Disk, memory and descriptors, as the kernel counts them: see usage.h. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/own.h"
#include "tests/store/usage.h"

static uint64_t
dir_blocks(int dir, int depth)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fdopendir(fd);
	struct dirent *e;
	struct stat st;
	uint64_t n = 0;

	while (d && (e = readdir(d))) {
		int sub;

		if (e->d_name[0] == '.' && (!e->d_name[1] ||
		    (e->d_name[1] == '.' && !e->d_name[2])))
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (!S_ISDIR(st.st_mode))
			n += (uint64_t)st.st_blocks;
		sub = S_ISDIR(st.st_mode) && depth > 0 ? openat(fd, e->d_name,
		    O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (sub >= 0)
			n += dir_blocks(sub, depth - 1);
		fd_close(sub);
	}
	if (d)
		closedir(d);
	return n;
}

uint64_t
usage_disk(int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC);

	return fd < 0 ? 0 : 512 * dir_blocks(fd, 2);
}

uint64_t
usage_memory(pid_t pid)
{
	char path[64], line[128];
	_cleanup_fclose_ FILE *f = NULL;
	unsigned long kib = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %lu", &kib) == 1)
			break;
	return (uint64_t)kib * 1024;
}

int
usage_descriptors(pid_t pid, bool print)
{
	char path[64], to[128];
	struct dirent *e;
	DIR *d;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	for (; d && (e = readdir(d)); n++) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, to,
		    sizeof(to));

		if (print && len > 0)
			fprintf(stderr, "%s: %.*s\n", e->d_name, (int)len,
			    to);
	}
	if (d)
		closedir(d);
	return n;
}
