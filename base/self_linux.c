// SPDX-License-Identifier: Apache-2.0
/* Where the running program lies: /proc knows. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/self.h"

int
self_directory(char *dir, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", dir, size - 1);
	char *slash;

	if (n < 0)
		return -errno;
	dir[n] = '\0';
	slash = strrchr(dir, '/');
	if ((size_t)n == size - 1 || !slash)
		return -ENAMETOOLONG;
	*slash = '\0';
	return 0;
}
