// SPDX-License-Identifier: Apache-2.0
/*
 * Does anybody use a block device?  No driver of ours is told, and the kernel
 * does not say; so all processes' descriptors are looked through, in every
 * mount namespace the mounts, and what other devices stand on it.  The device
 * itself is not touched, and no file system is asked for what it does not know
 * already: some may not answer.  Run apart (apart.c): /proc can be long.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "devd/devd.h"

#define NAMESPACES	256	/* looked into once; any more, each time */

struct looked_for {
	unsigned int major, minor;
	char number[24];	/* " MAJOR:MINOR " */
	char path[64];		/* /dev/NAME */
	ino_t seen[NAMESPACES];
	unsigned n_seen;
};

static void
own_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Call found() for each entry of a directory until it returns true. */
static bool
any_entry(const char *path, bool (*found)(struct looked_for *l,
    const char *dir, const char *name), struct looked_for *l)
{
	_cleanup_(own_dir) DIR *d = opendir(path);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && found(l, path, e->d_name))
			return true;
	return false;
}

static bool
descriptor_is(struct looked_for *l, const char *dir, const char *name)
{
	char path[320];
	struct statx st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
	    STATX_TYPE, &st) == 0 && S_ISBLK(st.stx_mode) &&
	    st.stx_rdev_major == l->major && st.stx_rdev_minor == l->minor;
}

static bool
line_with(const char *path, const char *text)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0)
		if (strstr(line, text))
			return true;
	return false;
}

/* A namespace that was looked into. */
static bool
seen(struct looked_for *l, const char *process)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%.16s/ns/mnt", process);
	if (stat(path, &st) < 0)
		return true;		/* it has ended */
	for (unsigned i = 0; i < l->n_seen; i++)
		if (l->seen[i] == st.st_ino)
			return true;
	if (l->n_seen < NAMESPACES)
		l->seen[l->n_seen++] = st.st_ino;
	return false;
}

static bool
process_uses(struct looked_for *l, const char *dir, const char *name)
{
	char path[64];

	(void)dir;
	if (!isdigit((unsigned char)name[0]))
		return false;
	snprintf(path, sizeof(path), "/proc/%.16s/fd", name);
	if (any_entry(path, descriptor_is, l))
		return true;
	if (seen(l, name))
		return false;
	snprintf(path, sizeof(path), "/proc/%.16s/mountinfo", name);
	return line_with(path, l->number);
}

static bool
stands_on_it(struct looked_for *l, const char *dir, const char *name)
{
	(void)l;
	(void)dir;
	(void)name;
	return true;
}

static bool
loop_uses(struct looked_for *l, const char *dir, const char *name)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s/loop/backing_file", dir, name);
	return strncmp(name, "loop", 4) == 0 && line_with(path, l->path);
}

int
openers_any(const char *name)
{
	struct looked_for l = { .n_seen = 0 };
	char path[96];
	_cleanup_fclose_ FILE *f = NULL;

	snprintf(path, sizeof(path), "/sys/block/%.32s/dev", name);
	f = fopen(path, "re");
	if (!f || fscanf(f, "%u:%u", &l.major, &l.minor) != 2)
		return 0;		/* it is gone */
	snprintf(l.number, sizeof(l.number), " %u:%u ", l.major, l.minor);
	snprintf(l.path, sizeof(l.path), "/dev/%.32s\n", name);
	snprintf(path, sizeof(path), "/sys/block/%.32s/holders", name);
	return any_entry(path, stands_on_it, &l) ||
	    any_entry("/sys/block", loop_uses, &l) ||
	    any_entry("/proc", process_uses, &l);
}
