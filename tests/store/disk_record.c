// SPDX-License-Identifier: Apache-2.0
/*
 * A layer over the store's file operations (disk.h) that does each for real
 * and appends it to a log: the linker puts it between cached and disk.c
 * (--wrap, see the Makefile), so that the program is the real one but for
 * this.  replay.c makes of the log what a power cut could have left.
 *
 * One lock is held around an operation and its entry, syncs included: the log's
 * order is one in which everything happened, and a sync covers what stands
 * before it.  Appending is one write(2) to an O_APPEND descriptor, a call that
 * cached's sandbox has.  What can't be logged ends the process: a hole in the
 * log would be a proof of nothing.
 *
 * Only what lies below the store is logged: a file that came by descriptor (of
 * an import or a promotion) is another's.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/disk.h"
#include "tests/store/record.h"

/* What disk.h declares: here, and as the linker calls the two sides of it. */
#define LAYER(type, name, args)                                                \
	type __real_##name args;                                               \
	type __wrap_##name args
LAYER(int, disk_create, (int dir, const char *name));
LAYER(int, disk_open, (int dir, const char *name, bool writable));
LAYER(int, disk_dir, (int dir, const char *name, bool make));
LAYER(int, disk_write, (int fd, const void *buf, size_t len,
    uint64_t offset));
LAYER(int, disk_set_size, (int fd, uint64_t size));
LAYER(int, disk_reserve, (int fd, uint64_t offset, uint64_t len));
LAYER(int, disk_punch, (int fd, uint64_t offset, uint64_t len));
LAYER(int, disk_copy, (int from, uint64_t from_offset, int to,
    uint64_t to_offset, size_t len));
LAYER(int, disk_sync, (int fd));
LAYER(int, disk_sync_dir, (int dir));
LAYER(int, disk_rename, (int from_dir, const char *from, int to_dir,
    const char *to));
LAYER(int, disk_unlink, (int dir, const char *name));
LAYER(int, disk_rmdir, (int dir, const char *name));

#define FILES_MAX	65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static struct record_fault *fault;
static uint64_t known[FILES_MAX];	/* inode numbers below the store, */
static size_t n_known;
static dev_t device;			/* on this file system */

/* Before main(): cached closes nothing that it did not open, and after its
 * policy was entered a descriptor can still be written. */
__attribute__((constructor)) void
record_begin(void)
{
	const char *text = getenv(RECORD_ENV);

	if (text)
		log_fd = atoi(text);
	text = getenv(RECORD_FAULT_ENV);
	if (!text)
		return;
	fault = mmap(NULL, sizeof(*fault), PROT_READ | PROT_WRITE, MAP_SHARED,
	    atoi(text), 0);
	if (fault == MAP_FAILED)
		log_die("map the faults: %s", strerror(errno));
}

const struct record_fault *
record_faults(void)
{
	return fault;
}

static void
append(struct record *r, const char *name, const char *name2, const void *data)
{
	static const char zeros[8];
	struct iovec iov[5];
	size_t size;

	r->magic = RECORD_MAGIC;
	r->name_len = name ? (uint32_t)strlen(name) : 0;
	r->name2_len = name2 ? (uint32_t)strlen(name2) : 0;
	size = record_size(r);
	iov[0] = (struct iovec){ r, sizeof(*r) };
	iov[1] = (struct iovec){ (void *)name, r->name_len };
	iov[2] = (struct iovec){ (void *)name2, r->name2_len };
	iov[3] = (struct iovec){ (void *)data, r->data_len };
	iov[4] = (struct iovec){ (void *)zeros, size - sizeof(*r) -
		r->name_len - r->name2_len - r->data_len };
	if (log_fd >= 0 && writev(log_fd, iov, 5) != (ssize_t)size)
		log_die("write the log of the store: %s", strerror(errno));
}

static struct stat
stat_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		log_die("stat a file of the store: %s", strerror(errno));
	return st;
}

static uint64_t
number_of(int fd)
{
	return stat_of(fd).st_ino;
}

static uint64_t
number_at(int dir, const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0 :
	    st.st_ino;
}

/* The number of a file below the store; 0: it is another's. */
static uint64_t
known_number(int fd)
{
	struct stat st = stat_of(fd);

	for (size_t i = 0; i < n_known && st.st_dev == device; i++)
		if (known[i] == st.st_ino)
			return st.st_ino;
	return 0;
}

static void
learn(int fd)
{
	struct stat st = stat_of(fd);

	if (n_known == 0)
		device = st.st_dev;
	if (st.st_dev != device)
		log_die("the store under test spans file systems");
	if (known_number(fd) != 0)
		return;
	if (n_known == FILES_MAX)
		log_die("too many files for the log of the store");
	known[n_known++] = st.st_ino;
}

/* Is another failure of this kind ordered? */
static bool
take(_Atomic uint32_t *count)
{
	uint32_t n = atomic_load(count);

	return n > 0 && atomic_compare_exchange_strong(count, &n, n - 1);
}

static void
unlock(pthread_mutex_t **held)
{
	pthread_mutex_unlock(*held);
}

#define LOCKED()                                                               \
	_cleanup_(unlock) pthread_mutex_t *held_ = &lock;                      \
	pthread_mutex_lock(held_)

int
__wrap_disk_create(int dir, const char *name)
{
	struct record r = { .type = RECORD_UNLINK, .dir = number_of(dir) };
	int fd;

	LOCKED();
	r.ino = number_at(dir, name);
	fd = __real_disk_create(dir, name);
	if (r.ino)
		append(&r, name, NULL, NULL);
	if (fd < 0)
		return fd;
	learn(fd);
	r.type = RECORD_CREATE;
	r.ino = number_of(fd);
	append(&r, name, NULL, NULL);
	return fd;
}

int
__wrap_disk_open(int dir, const char *name, bool writable)
{
	LOCKED();
	int fd = __real_disk_open(dir, name, writable);

	if (fd >= 0)
		learn(fd);
	return fd;
}

int
__wrap_disk_dir(int dir, const char *name, bool make)
{
	struct record r = { .type = RECORD_MKDIR, .dir = number_of(dir) };
	bool is_new;
	int fd;

	LOCKED();
	is_new = number_at(dir, name) == 0;
	fd = __real_disk_dir(dir, name, make);
	if (fd < 0)
		return fd;	/* made and not opened: no descriptor left */
	r.ino = number_of(fd);
	if (is_new)
		append(&r, name, NULL, NULL);
	return fd;
}

int
__wrap_disk_write(int fd, const void *buf, size_t len, uint64_t offset)
{
	struct record r = { .type = RECORD_WRITE, .offset = offset,
		.data_len = len };
	int ret;

	LOCKED();
	if (fault && atomic_load(&fault->full))
		return -ENOSPC;
	ret = __real_disk_write(fd, buf, len, offset);
	if (ret < 0)
		log_die("write the store under test: %s", strerror(-ret));
	r.ino = known_number(fd);
	if (r.ino)
		append(&r, NULL, NULL, buf);
	return ret;
}

static int
change(enum record_type type, int fd, uint64_t offset, uint64_t size, int ret)
{
	struct record r = { .type = type, .ino = known_number(fd),
		.offset = offset, .size = size };

	if (ret == 0 && r.ino)
		append(&r, NULL, NULL, NULL);
	return ret;
}

int
__wrap_disk_set_size(int fd, uint64_t size)
{
	LOCKED();
	return change(RECORD_SIZE, fd, 0, size, __real_disk_set_size(fd, size));
}

int
__wrap_disk_reserve(int fd, uint64_t offset, uint64_t len)
{
	LOCKED();
	if (fault && atomic_load(&fault->full))
		return -ENOSPC;
	return change(RECORD_RESERVE, fd, offset, len,
	    __real_disk_reserve(fd, offset, len));
}

int
__wrap_disk_punch(int fd, uint64_t offset, uint64_t len)
{
	LOCKED();
	return change(RECORD_PUNCH, fd, offset, len,
	    __real_disk_punch(fd, offset, len));
}

/* Logged as the write that it is. */
int
__wrap_disk_copy(int from, uint64_t from_offset, int to, uint64_t to_offset,
    size_t len)
{
	struct record r = { .type = RECORD_WRITE, .offset = to_offset,
		.data_len = len };
	_cleanup_free_ void *data = malloc(len);
	int ret;

	LOCKED();
	if (fault && atomic_load(&fault->full))
		return -ENOSPC;
	ret = __real_disk_copy(from, from_offset, to, to_offset, len);
	r.ino = known_number(to);
	if (!r.ino)
		return ret;
	if (!data || ret < 0 ||
	    fd_pread_all(to, data, len, to_offset) != (ssize_t)len)
		log_die("copy in the store under test: %s", strerror(-ret));
	append(&r, NULL, NULL, data);
	return ret;
}

int
__wrap_disk_sync(int fd)
{
	LOCKED();
	if (fault && stat_of(fd).st_size >=
	    (off_t)atomic_load(&fault->sync_size) && take(&fault->syncs)) {
		change(RECORD_SYNC_FAILED, fd, 0, 0, 0);
		return -EIO;
	}
	if (fault && atomic_load(&fault->skip_sync) && stat_of(fd).st_size >=
	    (off_t)atomic_load(&fault->skip_sync))
		return 0;
	return change(RECORD_SYNC, fd, 0, 0, __real_disk_sync(fd));
}

int
__wrap_disk_sync_dir(int dir)
{
	struct record r = { .type = RECORD_SYNC_DIR, .dir = number_of(dir) };
	int ret;

	LOCKED();
	if (fault && atomic_load(&fault->skip_sync_dir))
		return 0;
	ret = __real_disk_sync_dir(dir);
	if (ret == 0)
		append(&r, NULL, NULL, NULL);
	return ret;
}

int
__wrap_disk_rename(int from_dir, const char *from, int to_dir, const char *to)
{
	struct record r = { .type = RECORD_RENAME, .dir = number_of(from_dir),
		.dir2 = number_of(to_dir) };
	int ret;

	LOCKED();
	r.ino = number_at(from_dir, from);
	ret = __real_disk_rename(from_dir, from, to_dir, to);
	if (ret == 0)
		append(&r, from, to, NULL);
	return ret;
}

static int
removed(enum record_type type, int dir, const char *name, uint64_t ino, int ret)
{
	struct record r = { .type = type, .dir = number_of(dir), .ino = ino };

	if (ret == 0 && ino != 0)
		append(&r, name, NULL, NULL);
	return ret;
}

int
__wrap_disk_unlink(int dir, const char *name)
{
	LOCKED();
	uint64_t ino = number_at(dir, name);

	return removed(RECORD_UNLINK, dir, name, ino,
	    __real_disk_unlink(dir, name));
}

int
__wrap_disk_rmdir(int dir, const char *name)
{
	LOCKED();
	uint64_t ino = number_at(dir, name);

	return removed(RECORD_RMDIR, dir, name, ino,
	    __real_disk_rmdir(dir, name));
}
