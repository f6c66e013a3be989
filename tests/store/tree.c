// SPDX-License-Identifier: Apache-2.0
/* Directories, all the way down: see tree.h. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "tests/store/must.h"
#include "tests/store/tree.h"

#define FILE_MOST	((uint64_t)1 << 30)	/* of a test */

void
tree_clear(int dirfd)
{
	DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC));
	struct dirent *e;

	must(d != NULL);
	while ((e = readdir(d))) {
		int sub;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd, e->d_name, 0) == 0)
			continue;
		must(errno == EISDIR || errno == EPERM);
		sub = openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY |
		    O_CLOEXEC);
		must(sub >= 0);
		tree_clear(sub);
		close(sub);
		must(unlinkat(dirfd, e->d_name, AT_REMOVEDIR) == 0);
	}
	closedir(d);
}

static bool
same_file(int a, int b)
{
	struct stat sa, sb;
	_cleanup_free_ char *ta = NULL, *tb = NULL;
	size_t len;

	must(fstat(a, &sa) == 0 && fstat(b, &sb) == 0);
	if (sa.st_size != sb.st_size)
		return false;
	must(fd_read_text(a, FILE_MOST, &ta, &len) == 0);
	must(fd_read_text(b, FILE_MOST, &tb, &len) == 0);
	return memcmp(ta, tb, len) == 0;
}

/* All names in a are in b, and (contents) what they name is the same. */
static bool
same_names(int a, int b, const char *but, bool contents, char why[512])
{
	DIR *d = fdopendir(openat(a, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;
	bool same = true;

	must(d != NULL);
	while (same && (e = readdir(d))) {
		_cleanup_close_ int fa = -1, fb = -1;

		if (strcmp(e->d_name, ".") == 0 ||
		    strcmp(e->d_name, "..") == 0 ||
		    (but && strcmp(e->d_name, but) == 0))
			continue;
		fa = openat(a, e->d_name, O_RDONLY | O_CLOEXEC);
		fb = openat(b, e->d_name, O_RDONLY | O_CLOEXEC);
		must(fa >= 0);
		snprintf(why, 512, "%s is missing on one side", e->d_name);
		same = fb >= 0;
		if (!same || !contents)
			continue;
		snprintf(why, 512, "%s differs", e->d_name);
		if (e->d_type == DT_DIR)
			same = tree_same(fa, fb, NULL, why);
		else
			same = same_file(fa, fb);
	}
	closedir(d);
	return same;
}

bool
tree_same(int a, int b, const char *but, char why[512])
{
	return same_names(a, b, but, true, why) &&
	    same_names(b, a, but, false, why);
}
