// SPDX-License-Identifier: Apache-2.0
/*
 * The mix of everything (tests/store/mix.h) in one process, for
 * ThreadSanitizer: cached's loop and its threads, its neighbours in the main
 * thread, and readers in threads of their own, which do what devd-io does on
 * its hot path: load a word of the map, read the store file there.
 *
 * ThreadSanitizer knows memory, not files.  So that it sees what is shared:
 * - A memory object is mapped once, at one address for all who map it.
 * - Each block of a data file has a word of memory, its shadow, that is written
 *   when the block is written or punched, and read before the block is read.
 *   A word of a map that is there too early, or too long, is thus a race of
 *   two plain accesses.
 *
 * cached has one life here: its state is global.  Now and then the sync of a
 * data file fails, so that words go back to absent.
 *
 *	MIX_SECONDS=60 SEED=N test_mix_threads
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "cached/disk.h"
#include "policy/policy.h"
#include "tests/store/harm.h"
#include "tests/store/mix.h"

#define SECONDS	60
#define SLACK	(1024 * 1024)
#define READERS	3
#define DEVICES	16
#define AT_ONCE	8	/* reads of a reader before it lets go of a device */
#define PAUSE_US 500
#define OPEN_FILES 64	/* of one reader */
#define OBJECTS	256
#define FILES	4096
#define BLOCKS	2048	/* of 4 KiB, in one file */
#define SYNC_FAILS 20	/* one sync of a data file in so many */
#define DATA_SIZE (64 * 1024)	/* only data files are so large */

int cached_main(int argc, char **argv);
void cached_end(int status) __attribute__((noreturn));

static struct mix mix;
static int log_fd = -1;
static pthread_t cached;
static _Atomic bool stop;
static _Atomic uint64_t hot_reads, failed_syncs;

/* ---- cached as a thread ---- */

void
policy_enter(const struct policy *policy, const struct policy_path *paths,
    size_t n_paths)
{
	(void)policy;
	(void)paths;
	(void)n_paths;
}

void
policy_try(const char *act, const char *object)
{
	(void)act;
	(void)object;
	abort();
}

/* Its worker threads wait for ever for more. */
void
cached_end(int status)
{
	if (status != 0)
		abort();
	pthread_exit(NULL);
}

static void *
cached_thread(void *arg)
{
	char name[] = "cached", *argv[] = { name, NULL };

	(void)arg;
	cached_main(1, argv);
	abort();
}

static void
enter(int link)
{
	if (dup2(link, CHILD_FD) < 0)
		abort();
	close(link);
	if (pthread_create(&cached, NULL, cached_thread, NULL) != 0)
		abort();
}

static void
leave(void)
{
	pthread_join(cached, NULL);
}

/* ---- what the linker puts in between ---- */

/* Synchronisation by this call is not looked at: ThreadSanitizer takes each
 * access to any file for one with all others. */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreSyncBegin(const char *file, int line);
void AnnotateIgnoreSyncEnd(const char *file, int line);
void AnnotateHappensBefore(const char *file, int line, void *what);
void AnnotateHappensAfter(const char *file, int line, void *what);
#else
#define AnnotateIgnoreSyncBegin(file, line)
#define AnnotateIgnoreSyncEnd(file, line)
#define AnnotateHappensBefore(file, line, what)	((void)(what))
#define AnnotateHappensAfter(file, line, what)	((void)(what))
#endif

void __wrap_log_line(enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
int __real_shm_map(int fd, size_t want, int writable, void **out);
int __wrap_shm_map(int fd, size_t want, int writable, void **out);
int __real_shm_private_writer(const char *name, size_t size, void **out);
int __wrap_shm_private_writer(const char *name, size_t size, void **out);
int __real_munmap(void *p, size_t size);
int __wrap_munmap(void *p, size_t size);
ssize_t __real_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
int __real_disk_write(int fd, const void *buf, size_t len, uint64_t offset);
int __wrap_disk_write(int fd, const void *buf, size_t len, uint64_t offset);
int __real_disk_punch(int fd, uint64_t offset, uint64_t len);
int __wrap_disk_punch(int fd, uint64_t offset, uint64_t len);
int __real_disk_copy(int from, uint64_t from_offset, int to,
    uint64_t to_offset, size_t len);
int __wrap_disk_copy(int from, uint64_t from_offset, int to,
    uint64_t to_offset, size_t len);
int __real_disk_sync(int fd);
int __wrap_disk_sync(int fd);

/* Where a process would have its stderr. */
void
__wrap_log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list args;
	int n = snprintf(line, sizeof(line), "%d: ", (int)level);

	va_start(args, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, args);
	va_end(args);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n] = '\n';
	AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
	if (write(log_fd, line, (size_t)n + 1) < 0)
		abort();
	AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
}

/* What is sent happens before it is received; by a descriptor that was itself
 * sent, that is not seen otherwise. */
static char links;

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	AnnotateHappensBefore(__FILE__, __LINE__, &links);
	return __real_sendmsg(fd, msg, flags);
}

ssize_t
__wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t n = __real_recvmsg(fd, msg, flags);

	AnnotateHappensAfter(__FILE__, __LINE__, &links);
	return n;
}

/* ---- memory objects: one address each ---- */

static struct object {
	ino_t ino;		/* 0: free */
	void *p;
	unsigned refs;
} objects[OBJECTS];
static pthread_mutex_t objects_lock = PTHREAD_MUTEX_INITIALIZER;

static void
object_add(int fd, void *p)
{
	struct stat st;
	unsigned i = 0;

	if (fstat(fd, &st) < 0)
		abort();
	while (i < OBJECTS && objects[i].ino)
		i++;
	if (i == OBJECTS)
		abort();
	objects[i] = (struct object){ st.st_ino, p, 1 };
}

int
__wrap_shm_private_writer(const char *name, size_t size, void **out)
{
	int fd = __real_shm_private_writer(name, size, out);

	pthread_mutex_lock(&objects_lock);
	if (fd >= 0)
		object_add(fd, *out);
	pthread_mutex_unlock(&objects_lock);
	return fd;
}

int
__wrap_shm_map(int fd, size_t want, int writable, void **out)
{
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		abort();
	pthread_mutex_lock(&objects_lock);
	for (unsigned i = 0; i < OBJECTS; i++)
		if (objects[i].ino == st.st_ino) {
			objects[i].refs++;
			*out = objects[i].p;
			goto found;
		}
	r = __real_shm_map(fd, want, writable, out);
	if (r == 0)
		object_add(fd, *out);
found:
	pthread_mutex_unlock(&objects_lock);
	return r;
}

int
__wrap_munmap(void *p, size_t size)
{
	bool used = false;

	pthread_mutex_lock(&objects_lock);
	for (unsigned i = 0; i < OBJECTS; i++)
		if (objects[i].ino && objects[i].p == p) {
			used = --objects[i].refs > 0;
			if (!used)
				objects[i].ino = 0;
			break;
		}
	pthread_mutex_unlock(&objects_lock);
	return used ? 0 : __real_munmap(p, size);
}

/* ---- the shadows of data files ---- */

static _Atomic uint64_t shadow_files[FILES];	/* inode; 0: free */
static uint32_t shadows[FILES][BLOCKS];

/* NULL: no data file. */
static uint32_t *
shadow_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		abort();
	if (st.st_size < DATA_SIZE || st.st_size > BLOCKS * 4096)
		return NULL;
	for (unsigned i = 0; i < FILES; i++) {
		uint64_t free_now = 0, ino = (uint64_t)st.st_ino;

		if (atomic_load_explicit(&shadow_files[i],
		    memory_order_relaxed) == ino)
			return shadows[i];
		if (atomic_compare_exchange_strong_explicit(&shadow_files[i],
		    &free_now, ino, memory_order_relaxed,
		    memory_order_relaxed) || free_now == ino)
			return shadows[i];
	}
	abort();
}

static void
shadow_write(int fd, uint64_t offset, uint64_t len)
{
	uint32_t *shadow = shadow_of(fd);

	for (uint64_t b = offset / 4096; shadow && b <= (offset + len - 1) /
	    4096; b++)
		shadow[b]++;
}

/* A chunk that was withdrawn, but is right, comes again as it was: who reads it
 * meanwhile by the old word reads right bytes. */
static bool
writes_the_same(int fd, const void *buf, size_t len, uint64_t offset)
{
	_cleanup_free_ void *was = malloc(len);

	if (!was)
		abort();
	return fd_pread_all(fd, was, len, offset) == (ssize_t)len &&
	    memcmp(was, buf, len) == 0;
}

int
__wrap_disk_write(int fd, const void *buf, size_t len, uint64_t offset)
{
	if (shadow_of(fd) && !writes_the_same(fd, buf, len, offset))
		shadow_write(fd, offset, len);
	return __real_disk_write(fd, buf, len, offset);
}

int
__wrap_disk_punch(int fd, uint64_t offset, uint64_t len)
{
	if (len > 0)
		shadow_write(fd, offset, len);
	return __real_disk_punch(fd, offset, len);
}

int
__wrap_disk_copy(int from, uint64_t from_offset, int to, uint64_t to_offset,
    size_t len)
{
	_cleanup_free_ void *buf = malloc(len);

	if (!buf)
		abort();
	if (fd_pread_all(from, buf, len, from_offset) == (ssize_t)len &&
	    !writes_the_same(to, buf, len, to_offset))
		shadow_write(to, to_offset, len);
	return __real_disk_copy(from, from_offset, to, to_offset, len);
}

int
__wrap_disk_sync(int fd)
{
	static _Atomic uint64_t n;

	if (shadow_of(fd) && !atomic_load_explicit(&stop,
	    memory_order_relaxed) && atomic_fetch_add_explicit(&n, 1,
	    memory_order_relaxed) % SYNC_FAILS == SYNC_FAILS - 1) {
		atomic_fetch_add_explicit(&failed_syncs, 1,
		    memory_order_relaxed);
		return -EIO;
	}
	return __real_disk_sync(fd);
}

/* ---- readers ---- */

/* A device that readers may use; who holds the lock keeps it. */
static struct shared {
	pthread_rwlock_t lock;
	const struct map *map;	/* NULL: none */
	const struct reg_image *image;
	uint32_t unit;
	const struct host_device *dev;
} shared[DEVICES];

struct reader {
	pthread_t thread;
	uint64_t state;
	struct {
		uint64_t id;
		int fd;
	} files[OPEN_FILES];
};

static struct reader readers[READERS];

static void
show(struct host_device *dev)
{
	unsigned i = 0;

	while (i < DEVICES && shared[i].dev)
		i++;
	assert_true(i < DEVICES);
	pthread_rwlock_wrlock(&shared[i].lock);
	shared[i].dev = dev;
	shared[i].map = dev->map;
	shared[i].image = dev->image;
	shared[i].unit = dev->spec.unit;
	pthread_rwlock_unlock(&shared[i].lock);
}

static void
hide(struct host_device *dev)
{
	for (unsigned i = 0; i < DEVICES; i++)
		if (shared[i].dev == dev) {
			pthread_rwlock_wrlock(&shared[i].lock);
			shared[i].dev = NULL;
			shared[i].map = NULL;
			pthread_rwlock_unlock(&shared[i].lock);
		}
}

/* The data file of that identity, opened by its name. */
static int
find_file(uint64_t id)
{
	int dir = openat(mix.h->store, "layouts", O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC), fd = -1;
	DIR *d = fdopendir(dir);
	struct dirent *e;
	char path[512];

	while (d && fd < 0 && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/data.%016" PRIx64, e->d_name,
		    id);
		fd = openat(dirfd(d), path, O_RDONLY | O_CLOEXEC);
	}
	if (d)
		closedir(d);
	return fd;
}

static int
reader_file(struct reader *r, uint64_t id)
{
	unsigned i = (unsigned)(id % OPEN_FILES);

	if (r->files[i].id != id) {
		if (r->files[i].id)
			fd_close(r->files[i].fd);
		r->files[i].id = id;
		r->files[i].fd = find_file(id);
	}
	return r->files[i].fd;
}

static void
wrong(const struct shared *s, uint64_t unit, uint64_t word)
{
	fprintf(stderr, "WRONG BYTE: %s unit %" PRIu64 ", word %" PRIx64
	    ", now %" PRIx64 "\n", s->image->name, unit, word,
	    atomic_load(&s->map->words[unit]));
	host_abandon(mix.h);
	_exit(1);
}

/* What is read races with no write of the block. */
static void
read_block(struct reader *r, const struct shared *s, uint64_t unit)
{
	uint64_t word = atomic_load_explicit(&s->map->words[unit],
	    memory_order_acquire), offset, id;
	size_t at = (size_t)(unit * s->unit), len = s->image->size - at;
	static uint8_t zeros[64 * 1024];
	uint8_t buf[64 * 1024];
	const uint32_t *shadow;
	volatile uint32_t seen;
	uint32_t slot;
	ssize_t n;
	int fd;

	if (len > s->unit)
		len = s->unit;
	if (word == MAP_ZEROS && memcmp(s->image->bytes + at, zeros, len) != 0)
		wrong(s, unit, word);
	if (!map_location(word, &slot, &offset))
		return;
	id = s->map->files[slot];
	AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
	fd = reader_file(r, id);
	shadow = fd < 0 ? NULL : shadow_of(fd);
	AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
	if (fd < 0)
		return;		/* quarantined */
	for (uint64_t b = offset / 4096; shadow && b <= (offset + len - 1) /
	    4096; b++)
		seen = shadow[b];
	(void)seen;
	AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
	n = fd_pread_all(fd, buf, len, offset);
	AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
	if (n != (ssize_t)len ||
	    memcmp(buf, s->image->bytes + at, len) != 0)
		wrong(s, unit, word);
	atomic_fetch_add_explicit(&hot_reads, 1, memory_order_relaxed);
}

static void *
reader_thread(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		struct shared *s = &shared[chance(&r->state, DEVICES)];

		pthread_rwlock_rdlock(&s->lock);
		for (int i = 0; s->map && i < AT_ONCE; i++) {
			uint64_t units = map_units(s->image->size, s->unit);

			read_block(r, s, chance(&r->state, units));
		}
		pthread_rwlock_unlock(&s->lock);
		usleep(PAUSE_US);
	}
	for (unsigned i = 0; i < OPEN_FILES; i++)
		if (r->files[i].id)
			fd_close(r->files[i].fd);
	return NULL;
}

/* ---- the case ---- */

static uint64_t
number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void
failed(const char *why)
{
	fprintf(stderr, "%s\n", why);
	mix_failed(&mix, "test_mix_threads");
	_exit(1);		/* threads still run */
}

static void
end_readers(void)
{
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(readers[i].thread, NULL);
}

static void
test_everything_at_once_in_threads(void **state)
{
	struct reg *reg = mix_registry();

	(void)state;
	mix = (struct mix){ .seed = number("SEED", (uint64_t)time(NULL)),
		.slack = SLACK, .fault_ms = 2500, .io_errors = true,
		.seconds = (double)number("MIX_SECONDS", SECONDS),
		.attached = show, .detaching = hide,
		.settled = end_readers };
	host_on_fail = failed;
	mix.h = host_new(reg, NULL, mix_conf);
	mix.h->enter = enter;
	mix.h->leave = leave;
	log_fd = mix.h->log;
	for (unsigned i = 0; i < DEVICES; i++)
		pthread_rwlock_init(&shared[i].lock, NULL);
	for (unsigned i = 0; i < READERS; i++) {
		readers[i].state = mix.seed + i + 1;
		assert_int_equal(pthread_create(&readers[i].thread, NULL,
		    reader_thread, &readers[i]), 0);
	}
	host_start(mix.h);
	mix_run(&mix);
	mix_print(&mix);
	fprintf(stderr, "NOTE: %" PRIu64 " blocks read by threads; %" PRIu64
	    " syncs failed\n", atomic_load(&hot_reads),
	    atomic_load(&failed_syncs));
	host_free(mix.h);
	registry_free(reg);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything_at_once_in_threads),
	};

	/* Where a child finds its parent: nothing else may be there. */
	if (fcntl(CHILD_FD, F_GETFD) < 0 &&
	    dup2(open("/dev/null", O_RDONLY), CHILD_FD) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
