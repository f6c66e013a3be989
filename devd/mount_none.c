// SPDX-License-Identifier: Apache-2.0
/*
 * In place of mount_linux.c where the system has no FUSE of its own.
 */
#include <errno.h>

#include "devd/devd.h"

int
mount_possible(const char **remedy)
{
	*remedy = "this system has no FUSE; use --present nbd";
	return -ENOTSUP;
}

int
mount_file(const char *path, const char *mark, int *fd)
{
	(void)path;
	(void)mark;
	(void)fd;
	return -ENOTSUP;
}

int
mount_end(const char *path)
{
	(void)path;
	return -ENOTSUP;
}

int
mount_remove(const char *mark, const char *dir,
    bool (*wanted)(const char *name))
{
	(void)mark;
	(void)dir;
	(void)wanted;
	return 0;
}

bool
mount_is(const char *mark, const char *path)
{
	(void)mark;
	(void)path;
	return false;
}
