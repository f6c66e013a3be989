// SPDX-License-Identifier: Apache-2.0
/*
 * A new OCI image layout.  It is made in a temporary directory beside its
 * place and renamed when all of it is on the disk, so that DIR is whole or as
 * it was:
 *
 *	begin --> .NAME.shedpack-XXXXXX --commit--> NAME
 *	                      \--refused, interrupted--> removed
 *
 * kill -9 leaves the temporary directory; nothing reads it.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <unistd.h>

#include "base/own.h"
#include "shedpack/shedpack.h"

#define COPY_PIECE	((size_t)64 << 20)	/* then `interrupted` is seen */
#define BUFFER		((size_t)1 << 20)
#define OPEN_DIRS	8	/* of nftw(); the layout is three deep */

static int
no_dots(const struct dirent *e)
{
	return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static bool
is_empty(const char *path)
{
	struct dirent **entries;
	int n = scandir(path, &entries, no_dots, alphasort);

	for (int i = 0; i < n; i++)
		free(entries[i]);
	if (n >= 0)
		free(entries);
	return n == 0;
}

/* DIR without symbolic links and with a name of its own. */
static int
final_path(const char *dir, char **out, struct refusal *why)
{
	_cleanup_free_ char *copy = strdup(dir), *parent = NULL;
	const char *name = copy;
	char *slash, *path;
	struct stat st;
	size_t n = strlen(dir);

	if (!copy)
		return refuse(why, "no memory for a path; free some");
	if (stat(dir, &st) == 0) {
		if (!S_ISDIR(st.st_mode) || !is_empty(dir))
			return refuse(why, "%s is %s; name a directory that "
			    "is empty or not there", dir, S_ISDIR(st.st_mode) ?
			    "not empty" : "no directory");
		*out = realpath(dir, NULL);
		if (*out)
			return 0;
	}
	while (n > 1 && copy[n - 1] == '/')
		copy[--n] = '\0';
	slash = strrchr(copy, '/');
	if (slash) {
		*slash = '\0';
		name = slash + 1;
	}
	parent = realpath(!slash ? "." : copy[0] ? copy : "/", NULL);
	if (!parent || asprintf(&path, "%s/%s", parent, name) < 0)
		return refuse(why, "cannot make %s: %s; make the directory "
		    "that is to hold it first", dir, strerror(errno));
	*out = path;
	return 0;
}

static int
make_directories(const struct place *p)
{
	mode_t mask = umask(0);

	umask(mask);		/* mkdtemp() gives 0700 */
	if (fchmod(p->dir, 0777 & ~mask) < 0 ||
	    mkdirat(p->dir, "blobs", 0777) < 0 ||
	    mkdirat(p->dir, LAYOUT_BLOBS, 0777) < 0)
		return -errno;
	return 0;
}

int
place_begin(const char *dir, struct place *out, struct refusal *why)
{
	struct place p = PLACE_NONE;
	char *slash;
	int r;

	if (final_path(dir, &p.final, why) < 0)
		return -EINVAL;
	slash = strrchr(p.final, '/');
	if (slash[1] == '\0' || asprintf(&p.temporary,
	    "%.*s/.%s.shedpack-XXXXXX", (int)(slash - p.final), p.final,
	    slash + 1) < 0)
		p.temporary = NULL;
	if (!p.temporary || !mkdtemp(p.temporary)) {
		r = refuse(why, "cannot make a directory beside %s: %s; check "
		    "the permissions there", dir, strerror(errno));
		free(take_ptr(p.temporary));
		place_done(&p);
		return r;
	}
	p.dir = open(p.temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = p.dir < 0 ? -errno : make_directories(&p);
	if (r < 0) {
		refuse(why, "cannot make %s: %s; check its file system",
		    p.temporary, strerror(-r));
		place_done(&p);
		return -EINVAL;
	}
	*out = p;
	return 0;
}

static int
cannot_write(const struct place *p, int error, struct refusal *why)
{
	return refuse(why, "cannot write to %s: %s; %s", p->final,
	    strerror(error), error == ENOSPC || error == EDQUOT ?
	    "free some space" : "check its file system");
}

static int
new_file(const struct place *p, const char *name)
{
	return openat(p->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
	    0666);
}

int
place_file(const struct place *p, const char *name, const void *bytes,
    size_t len, struct refusal *why)
{
	_cleanup_close_ int fd = new_file(p, name);
	int r = fd < 0 ? -errno : fd_pwrite_all(fd, bytes, len, 0);

	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? cannot_write(p, -r, why) : 0;
}

struct blob_name {
	char text[sizeof(LAYOUT_BLOBS) + 1 + DIGEST_HEX];
};

static struct blob_name
blob_name(const struct digest *d)
{
	struct blob_name n;

	snprintf(n.text, sizeof(n.text), "%s/%s", LAYOUT_BLOBS,
	    digest_to_hex(d).text);
	return n;
}

int
place_blob(const struct place *p, const void *bytes, size_t len,
    struct digest *digest, struct refusal *why)
{
	*digest = digest_of(bytes, len);
	return place_file(p, blob_name(digest).text, bytes, len, why);
}

/* ---- the erofs ---- */

/* The same file under a second name, if it is still the one that was read. */
static bool
link_source(const struct place *p, const struct source *s, const char *name)
{
	_cleanup_free_ char *path = realpath(s->path, NULL);
	struct stat st;

	if (!path || linkat(AT_FDCWD, path, p->dir, name, 0) < 0)
		return false;
	if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    st.st_dev == s->st.st_dev && st.st_ino == s->st.st_ino &&
	    st.st_size == s->st.st_size)
		return true;
	unlinkat(p->dir, name, 0);
	return false;
}

/* One piece, by the kernel where it can.  Its length, or -errno. */
static ssize_t
copy_piece(int from, int to, uint64_t offset, size_t len, uint8_t *buffer)
{
	off_t in = (off_t)offset, out = (off_t)offset;
	ssize_t n = copy_file_range(from, &in, to, &out, len, 0);
	int r;

	if (n > 0)
		return n;
	n = fd_pread_all(from, buffer, MIN(len, BUFFER), offset);
	if (n <= 0)
		return n;
	r = fd_pwrite_all(to, buffer, (size_t)n, offset);
	return r < 0 ? r : n;
}

static int
copy_bytes(const struct place *p, const struct source *s, int to,
    struct refusal *why)
{
	_cleanup_free_ uint8_t *buffer = malloc(BUFFER);
	uint64_t size = (uint64_t)s->st.st_size, at = 0;

	if (!buffer)
		return refuse(why, "no memory for a buffer; free some");
	bar_begin("copying", "erofs", size);
	while (at < size) {
		ssize_t n = copy_piece(s->fd, to, at,
		    MIN(COPY_PIECE, size - at), buffer);

		if (interrupted)
			return refuse_interrupted(why);
		if (n < 0)
			return cannot_write(p, (int)-n, why);
		if (n == 0)
			break;	/* it shrank: source_unchanged() says so */
		at += (uint64_t)n;
		bar_at(at);
	}
	if (fsync(to) < 0)
		return cannot_write(p, errno, why);
	bar_done();
	return 0;
}

static bool
clone_source(const struct place *p, const struct source *s, const char *name)
{
	_cleanup_close_ int fd = new_file(p, name);

	if (fd < 0)
		return false;
	if (ioctl(fd, FICLONE, s->fd) == 0 && fsync(fd) == 0)
		return true;
	unlinkat(p->dir, name, 0);
	return false;
}

static int
copy_source(const struct place *p, const struct source *s, const char *name,
    struct refusal *why)
{
	_cleanup_close_ int fd = new_file(p, name);

	return fd < 0 ? cannot_write(p, errno, why) :
	    copy_bytes(p, s, fd, why);
}

int
place_source(const struct place *p, const struct source *s,
    const struct digest *digest, struct refusal *why)
{
	struct blob_name name = blob_name(digest);

	/* A clone is safest: who writes to the image later does not write to
	 * the layout.  A second name is as quick, and verify and push see if
	 * somebody did; whoever wrote the image may not have synced it. */
	if (!clone_source(p, s, name.text)) {
		if (link_source(p, s, name.text))
			return fsync(s->fd) < 0 ?
			    cannot_write(p, errno, why) : 0;
		if (copy_source(p, s, name.text, why) < 0)
			return -EINVAL;
	}
	return source_unchanged(s, why);
}

/* ---- the end ---- */

static int
sync_directory(int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name,
	    O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int
remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
	(void)st;
	(void)flag;
	(void)at;
	remove(path);
	return 0;
}

int
place_commit(struct place *p, struct refusal *why)
{
	int r = sync_directory(p->dir, LAYOUT_BLOBS);

	if (r == 0)
		r = sync_directory(p->dir, "blobs");
	if (r == 0)
		r = sync_directory(p->dir, ".");
	if (r < 0)
		return cannot_write(p, -r, why);
	if (interrupted)
		return refuse_interrupted(why);
	/* onto an empty directory, or nothing; never onto anything else */
	if (rename(p->temporary, p->final) < 0)
		return refuse(why, "cannot make %s: %s; name a directory that "
		    "is empty or not there, and no mount point", p->final,
		    strerror(errno));
	free(take_ptr(p->temporary));
	sync_directory(p->dir, "..");	/* the rename; too late to refuse */
	return 0;
}

void
place_done(struct place *p)
{
	if (p->temporary)
		nftw(p->temporary, remove_one, OPEN_DIRS, FTW_DEPTH | FTW_PHYS);
	fd_close(p->dir);
	free(p->temporary);
	free(p->final);
	*p = PLACE_NONE;
}
