// SPDX-License-Identifier: Apache-2.0
/* What the recording layer writes down and what the replay makes of it: things
 * are done through disk.h in a real directory, then power is cut at some entry
 * of the log with many seeds, and what was seen over all of them is compared
 * with what is possible. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "cached/disk.h"
#include "tests/store/record.h"
#include "tests/store/replay.h"
#include "tests/store/tree.h"

#define BLOCK	4096
#define SEEDS	300
#define FIRST_SEED 2	/* behind REPLAY_ALL and REPLAY_NONE */

static char base[64];
static int dir = -1, log_fd = -1, out = -1;
static struct record_fault *fault;

static void
set_fd(const char *name, int fd)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", fd);
	setenv(name, text, 1);
}

static int
open_dir(const char *name)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	mkdir(path, 0700);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void
empty(const char *name)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s/%s", base, name);
	assert_int_equal(system(command), 0);
}

/* An empty store, and a log that begins with it. */
static int
setup(void **state)
{
	struct record root = { .magic = RECORD_MAGIC, .type = RECORD_ROOT };
	struct stat st;
	int memory;

	(void)state;
	dir = open_dir("store");
	log_fd = memfd_create("log", MFD_CLOEXEC);
	memory = memfd_create("fault", MFD_CLOEXEC);
	assert_true(dir >= 0 && log_fd >= 0 && memory >= 0);
	assert_int_equal(fcntl(log_fd, F_SETFL, O_APPEND), 0);
	assert_int_equal(ftruncate(memory, sizeof(*fault)), 0);
	set_fd(RECORD_ENV, log_fd);
	set_fd(RECORD_FAULT_ENV, memory);
	record_begin();
	fault = mmap(NULL, sizeof(*fault), PROT_READ | PROT_WRITE, MAP_SHARED,
	    memory, 0);
	assert_true(fault != MAP_FAILED);
	close(memory);
	assert_int_equal(fstat(dir, &st), 0);
	root.dir = st.st_ino;
	assert_int_equal(write(log_fd, &root, sizeof(root)), sizeof(root));
	return 0;
}

static int
teardown(void **state)
{
	(void)state;
	close(dir);
	close(log_fd);
	munmap(fault, sizeof(*fault));
	empty("store");
	return 0;
}

/* What is left at that entry, below `out` until the next time. */
static void
build(const struct replay *r, size_t cut, uint64_t seed)
{
	if (out < 0)
		out = open_dir("out");
	tree_clear(out);
	replay_build(r, cut, seed, out, (uid_t)-1);
}

/* A file's bytes below `out` (caller frees); NULL: there is none. */
static char *
bytes_of(const char *path, size_t *len)
{
	_cleanup_close_ int fd = openat(out, path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *buf;

	if (fd < 0)
		return NULL;
	assert_int_equal(fstat(fd, &st), 0);
	*len = (size_t)st.st_size;
	buf = calloc(1, *len + 1);
	assert_int_equal(fd_pread_all(fd, buf, *len, 0), st.st_size);
	return buf;
}

static bool
exists(const char *path)
{
	return faccessat(out, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Outcomes that were seen, by a letter each. */
static bool seen[256];

/* Cut at the end with every seed, and note what look() says of it. */
static void
outcomes(char (*look)(void))
{
	struct replay *r = replay_open(log_fd);

	memset(seen, 0, sizeof(seen));
	for (uint64_t seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
		build(r, replay_length(r), seed);
		seen[(unsigned char)look()] = true;
	}
	replay_free(r);
}

static void
are(const char *letters)
{
	char was[257] = "";
	size_t n = 0;

	for (int i = 1; i < 256; i++)
		if (seen[i])
			was[n++] = (char)i;
	assert_string_equal(was, letters);	/* in ASCII order */
}

static void
put(int fd, char what, size_t len, uint64_t offset)
{
	_cleanup_free_ char *buf = malloc(len);

	memset(buf, what, len);
	assert_int_equal(disk_write(fd, buf, len, offset), 0);
}

/* A durable file of `blocks` times 'o', under that durable name. */
static int
durable(const char *name, size_t blocks)
{
	int fd = disk_create(dir, name);

	assert_true(fd >= 0);
	put(fd, 'o', blocks * BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	assert_int_equal(disk_sync_dir(dir), 0);
	return fd;
}

/* The letter that all of a run of f has; '?': several. */
static char
run(size_t from, size_t end)
{
	size_t len = 0;
	_cleanup_free_ char *buf = bytes_of("f", &len);

	assert_non_null(buf);
	assert_true(len >= end);
	for (size_t i = from; i < end; i++)
		if (buf[i] != buf[from])
			return '?';
	return buf[from] ? buf[from] : '0';
}

static char
first_block(void)
{
	return run(0, BLOCK);
}

/* ---- data ---- */

static void
test_a_write_without_sync_may_be_lost_or_torn(void **state)
{
	(void)state;
	close(disk_create(dir, "other"));
	int fd = durable("f", 2);

	put(fd, 'n', BLOCK, 0);
	outcomes(first_block);
	are("?no");
	close(fd);
}

static void
test_a_synced_write_is_never_lost(void **state)
{
	(void)state;
	int fd = durable("f", 2);

	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	outcomes(first_block);
	are("n");
	close(fd);
}

/* The first block first, the second first, both or none. */
static char
order(void)
{
	char a = run(0, BLOCK), b = run(BLOCK, 2 * BLOCK);

	if (a == '?' || b == '?')
		return 't';
	return a == 'n' ? (b == 'n' ? '2' : 'a') : b == 'n' ? 'b' : '0';
}

static void
test_two_writes_reach_the_disk_in_any_order(void **state)
{
	(void)state;
	int fd = durable("f", 2);

	put(fd, 'n', BLOCK, 0);
	put(fd, 'n', BLOCK, BLOCK);
	outcomes(order);
	are("02abt");
	close(fd);
}

static void
test_blocks_of_one_write_part_from_each_other(void **state)
{
	(void)state;
	int fd = durable("f", 2);

	put(fd, 'n', 2 * BLOCK, 0);
	outcomes(order);
	are("02abt");
	close(fd);
}

/* One sector shows its states in their order: the page cache has both. */
static char
sector(void)
{
	char a = run(0, 64), b = run(64, 128);

	return a == 'n' ? (b == 'n' ? '2' : 'a') : b == 'n' ? 'b' : '0';
}

static void
test_within_a_sector_writes_keep_their_order(void **state)
{
	(void)state;
	int fd = durable("f", 1);

	put(fd, 'n', 64, 0);
	put(fd, 'n', 64, 64);
	outcomes(sector);
	are("02a");
	close(fd);
}

static char
tear(void)
{
	for (size_t s = 0; s < BLOCK; s += 512)
		if (run(s, s + 512) == '?')
			return '!';
	return first_block();
}

static void
test_a_tear_is_between_sectors(void **state)
{
	(void)state;
	int fd = durable("f", 1);

	put(fd, 'n', BLOCK, 0);
	outcomes(tear);
	are("?no");
	close(fd);
}

static char
length(void)
{
	size_t len = 0;

	free(bytes_of("f", &len));
	return (char)('0' + len / BLOCK);
}

static void
test_a_size_may_be_lost(void **state)
{
	(void)state;
	int fd = durable("f", 1);

	assert_int_equal(disk_set_size(fd, 5 * BLOCK), 0);
	put(fd, 'n', BLOCK, 6 * BLOCK);
	outcomes(length);
	are("157");
	close(fd);
}

static char
grown(void)
{
	size_t len = 0;

	free(bytes_of("f", &len));
	return len == BLOCK ? '1' : run(BLOCK, 2 * BLOCK);
}

static void
test_a_file_may_grow_without_its_data(void **state)
{
	(void)state;
	int fd = durable("f", 1);

	put(fd, 'n', BLOCK, BLOCK);
	outcomes(grown);
	are("01?n");
	close(fd);
}

static void
test_what_was_cut_off_may_come_back_but_not_once_synced(void **state)
{
	(void)state;
	int fd = durable("f", 2);

	assert_int_equal(disk_set_size(fd, BLOCK), 0);
	assert_int_equal(disk_set_size(fd, 2 * BLOCK), 0);
	outcomes(grown);
	are("01?o");
	assert_int_equal(disk_sync(fd), 0);
	outcomes(grown);
	are("0");
	close(fd);
}

static void
test_a_hole_is_a_write_of_zeros(void **state)
{
	(void)state;
	int fd = durable("f", 2);

	assert_int_equal(disk_punch(fd, 0, BLOCK), 0);
	outcomes(first_block);
	are("0?o");
	assert_int_equal(disk_sync(fd), 0);
	outcomes(first_block);
	are("0");
	close(fd);
}

static void
test_room_changes_nothing(void **state)
{
	(void)state;
	int fd = durable("f", 1);

	assert_int_equal(disk_reserve(fd, 0, 8 * BLOCK), 0);
	outcomes(length);
	are("1");
	outcomes(first_block);
	are("o");
	close(fd);
}

static void
test_a_copy_is_a_write(void **state)
{
	(void)state;
	int fd = durable("f", 2), from = disk_create(dir, "from");

	put(from, 'n', BLOCK, 0);
	assert_int_equal(disk_copy(from, 0, fd, 0, BLOCK), 0);
	outcomes(first_block);
	are("?no");
	assert_int_equal(disk_sync(fd), 0);
	outcomes(first_block);
	are("n");
	close(from);
	close(fd);
}

static void
test_a_sync_that_failed_covers_nothing_for_good(void **state)
{
	(void)state;
	int fd = durable("f", 2);

	put(fd, 'n', BLOCK, 0);
	atomic_store(&fault->syncs, 1);
	assert_int_equal(disk_sync(fd), -EIO);
	assert_int_equal(disk_sync(fd), 0);
	outcomes(first_block);
	are("?no");
	put(fd, 'm', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	outcomes(first_block);
	are("m");
	close(fd);
}

/* ---- names ---- */

static char
name_f(void)
{
	return exists("f") ? 'f' : '-';
}

static void
test_a_files_sync_does_not_keep_its_name(void **state)
{
	(void)state;
	int fd = disk_create(dir, "f");

	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	outcomes(name_f);
	are("-f");
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(name_f);
	are("f");
	outcomes(first_block);
	are("n");
	close(fd);
}

static void
test_a_directorys_sync_does_not_keep_data(void **state)
{
	(void)state;
	int fd = disk_create(dir, "f");

	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(length);
	are("01");
	close(fd);
}

/* Which of t and f are there, and what f holds. */
static char
renamed(void)
{
	bool t = exists("t");

	if (!exists("f"))
		return t ? 't' : '-';
	return t ? (first_block() == 'o' ? 'b' : '!') : first_block();
}

static void
test_a_rename_without_sync_may_be_lost_and_is_one_act(void **state)
{
	(void)state;
	int old = durable("f", 1), fd = disk_create(dir, "t");

	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	assert_int_equal(disk_sync_dir(dir), 0);
	assert_int_equal(disk_rename(dir, "t", dir, "f"), 0);
	outcomes(renamed);
	are("bn");	/* both as before, or the new one */
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(renamed);
	are("n");
	close(old);
	close(fd);
}

static void
test_made_and_renamed_without_sync_it_may_have_either_name_or_none(void **state)
{
	(void)state;
	int fd = disk_create(dir, "t");

	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	assert_int_equal(disk_rename(dir, "t", dir, "f"), 0);
	outcomes(renamed);
	are("-nt");
	close(fd);
}

static char
emptied(void)
{
	size_t len = 0;
	char *buf = bytes_of("f", &len), is = '-';

	if (buf)
		is = len == 0 ? 'e' : len < BLOCK ? '!' : first_block();
	free(buf);
	return is;
}

static void
test_renamed_before_its_data_are_synced_it_may_be_empty(void **state)
{
	(void)state;
	int old = durable("f", 1), fd = disk_create(dir, "t");

	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_rename(dir, "t", dir, "f"), 0);
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(emptied);
	are("0?en");
	close(old);
	close(fd);
}

static void
test_a_removal_without_sync_may_come_back(void **state)
{
	(void)state;
	close(durable("f", 1));
	assert_int_equal(disk_unlink(dir, "f"), 0);
	outcomes(name_f);
	are("-f");
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(name_f);
	are("-");
}

/* A new file in the place of an older one: either, or none; never mixed. */
static char
replaced(void)
{
	return exists("f") ? emptied() : '-';
}

static void
test_created_anew_either_file_or_none_is_there(void **state)
{
	(void)state;
	int fd;

	close(durable("f", 1));
	fd = disk_create(dir, "f");
	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	outcomes(replaced);
	are("-no");
	close(fd);
}

static char
directories(void)
{
	if (!exists("d"))
		return '-';
	return exists("d/f") ? 'f' : 'd';
}

static void
test_a_directory_needs_its_parents_sync(void **state)
{
	(void)state;
	int d = disk_dir(dir, "d", true), fd = disk_create(d, "f");

	assert_int_equal(disk_sync(fd), 0);
	assert_int_equal(disk_sync_dir(d), 0);
	outcomes(directories);
	are("-f");	/* lost with all below it, or whole */
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(directories);
	are("f");
	assert_int_equal(disk_unlink(d, "f"), 0);
	assert_int_equal(disk_rmdir(dir, "d"), 0);
	outcomes(directories);
	are("-df");
	close(d);
	close(fd);
}

static char
moved(void)
{
	bool here = exists("f"), there = exists("d/f");
	struct stat a, b;

	if (here && there) {
		assert_int_equal(fstatat(out, "f", &a, 0), 0);
		assert_int_equal(fstatat(out, "d/f", &b, 0), 0);
		assert_int_equal(a.st_ino, b.st_ino);
		return '2';
	}
	return here ? 'h' : there ? 't' : '-';
}

static void
test_moved_between_directories_it_is_never_under_neither_name(void **state)
{
	(void)state;
	int d = disk_dir(dir, "d", true);

	close(durable("f", 1));
	assert_int_equal(disk_rename(dir, "f", d, "f"), 0);
	outcomes(moved);
	are("2ht");
	assert_int_equal(disk_sync_dir(d), 0);
	outcomes(moved);
	are("2t");
	assert_int_equal(disk_sync_dir(dir), 0);
	outcomes(moved);
	are("t");
	assert_int_equal(disk_rename(d, "f", dir, "f"), 0);
	assert_int_equal(disk_sync_dir(d), 0);	/* the old name's side */
	outcomes(moved);
	are("h");
	close(d);
}

/* ---- the whole ---- */

/* An entry of our own making, about "f" in the store. */
static void
entry(enum record_type type, uint64_t ino, const char *data)
{
	struct {
		struct record r;
		char bytes[16];
	} e = { .r = { .magic = RECORD_MAGIC, .type = type, .ino = ino } };
	struct stat st;

	assert_int_equal(fstat(dir, &st), 0);
	e.r.dir = st.st_ino;
	e.r.name_len = data ? 0 : 1;
	e.r.data_len = data ? strlen(data) : 0;
	strcpy(e.bytes, data ? data : "f");
	assert_int_equal(write(log_fd, &e, record_size(&e.r)),
	    record_size(&e.r));
}

static char
first_byte(void)
{
	size_t len = 0;
	_cleanup_free_ char *buf = bytes_of("f", &len);

	return !buf ? '-' : len == 0 ? '0' : buf[0];
}

/* Not every file system gives numbers again, so it is told here. */
static void
test_an_inode_number_that_comes_back_is_another_file(void **state)
{
	(void)state;
	entry(RECORD_CREATE, 99, NULL);
	entry(RECORD_WRITE, 99, "old");
	entry(RECORD_SYNC, 99, NULL);
	entry(RECORD_SYNC_DIR, 0, NULL);
	entry(RECORD_UNLINK, 99, NULL);
	entry(RECORD_CREATE, 99, NULL);
	entry(RECORD_WRITE, 99, "new");
	entry(RECORD_SYNC, 99, NULL);
	outcomes(first_byte);
	are("-no");
	entry(RECORD_SYNC_DIR, 0, NULL);
	outcomes(first_byte);
	are("n");
}

static void
test_nothing_before_the_cut_is_from_behind_it(void **state)
{
	int fd = durable("f", 1);
	struct replay *r = replay_open(log_fd);
	size_t cut = replay_length(r);

	(void)state;
	replay_free(r);
	put(fd, 'n', BLOCK, 0);
	assert_int_equal(disk_sync(fd), 0);
	r = replay_open(log_fd);
	for (uint64_t seed = 0; seed < 20; seed++) {
		build(r, cut, seed);
		assert_int_equal(first_block(), 'o');
	}
	build(r, 1, REPLAY_ALL);
	assert_false(exists("f"));
	replay_free(r);
	close(fd);
}

static void
test_a_seed_always_means_the_same(void **state)
{
	(void)state;
	int fd = durable("f", 8);
	struct replay *r;

	put(fd, 'n', 8 * BLOCK, 0);
	r = replay_open(log_fd);
	for (uint64_t seed = 0; seed < 20; seed++) {
		_cleanup_free_ char *a = NULL, *b = NULL;
		size_t len = 0;

		build(r, replay_length(r), seed);
		a = bytes_of("f", &len);
		build(r, replay_length(r), seed);
		b = bytes_of("f", &len);
		assert_memory_equal(a, b, len);
	}
	replay_free(r);
	close(fd);
}

#define THREADS	4
#define ROUNDS	100

static void *
scribble(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < ROUNDS; i++)
		put(fd, (char)('a' + i % 26), BLOCK, (uint64_t)(i % 3) * BLOCK);
	return NULL;
}

/* Kept whole, the replay is what stands on the real disk: the log's order is
 * one in which several threads' writes can have happened. */
static void
test_everything_kept_is_the_real_directory(void **state)
{
	char why[512] = "";
	pthread_t threads[THREADS];
	int d = disk_dir(dir, "d", true), fd = disk_create(d, "g");
	struct replay *r;

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, scribble,
		    &fd), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(disk_punch(fd, 100, 5000), 0);
	assert_int_equal(disk_set_size(fd, 2 * BLOCK + 77), 0);
	close(durable("f", 3));
	assert_int_equal(disk_rename(dir, "f", d, "h"), 0);
	r = replay_open(log_fd);
	assert_true(replay_length(r) > THREADS * ROUNDS);
	build(r, replay_length(r), REPLAY_ALL);
	if (!tree_same(dir, out, NULL, why))
		fail_msg("%s", why);
	build(r, replay_length(r), REPLAY_NONE);
	assert_false(tree_same(dir, out, NULL, why));
	replay_free(r);
	close(fd);
	close(d);
}

/* A file of another is none of ours, even on this file system. */
static void
test_foreign_files_are_not_logged(void **state)
{
	char path[96];
	int fd, from = durable("f", 1);
	struct replay *r = replay_open(log_fd);
	size_t before = replay_length(r);

	(void)state;
	replay_free(r);
	snprintf(path, sizeof(path), "%s/foreign", base);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(disk_set_size(fd, 100), 0);
	assert_int_equal(disk_copy(from, 0, fd, 0, BLOCK), 0);
	assert_int_equal(disk_sync(fd), 0);
	r = replay_open(log_fd);
	assert_int_equal(replay_length(r), before);
	replay_free(r);
	close(fd);
	close(from);
}

static int
group_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(base, sizeof(base), "%s/ssreplay.XXXXXX", tmp ? tmp :
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	return mkdtemp(base) ? 0 : -1;
}

static int
group_teardown(void **state)
{
	(void)state;
	empty("");
	return 0;
}

int
main(void)
{
#define CASE(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(test_a_write_without_sync_may_be_lost_or_torn),
		CASE(test_a_synced_write_is_never_lost),
		CASE(test_two_writes_reach_the_disk_in_any_order),
		CASE(test_blocks_of_one_write_part_from_each_other),
		CASE(test_within_a_sector_writes_keep_their_order),
		CASE(test_a_tear_is_between_sectors),
		CASE(test_a_size_may_be_lost),
		CASE(test_a_file_may_grow_without_its_data),
		CASE(test_what_was_cut_off_may_come_back_but_not_once_synced),
		CASE(test_a_hole_is_a_write_of_zeros),
		CASE(test_room_changes_nothing),
		CASE(test_a_copy_is_a_write),
		CASE(test_a_sync_that_failed_covers_nothing_for_good),
		CASE(test_a_files_sync_does_not_keep_its_name),
		CASE(test_a_directorys_sync_does_not_keep_data),
		CASE(test_a_rename_without_sync_may_be_lost_and_is_one_act),
		CASE(test_made_and_renamed_without_sync_it_may_have_either_name_or_none),
		CASE(test_renamed_before_its_data_are_synced_it_may_be_empty),
		CASE(test_a_removal_without_sync_may_come_back),
		CASE(test_created_anew_either_file_or_none_is_there),
		CASE(test_a_directory_needs_its_parents_sync),
		CASE(test_moved_between_directories_it_is_never_under_neither_name),
		CASE(test_an_inode_number_that_comes_back_is_another_file),
		CASE(test_nothing_before_the_cut_is_from_behind_it),
		CASE(test_a_seed_always_means_the_same),
		CASE(test_everything_kept_is_the_real_directory),
		CASE(test_foreign_files_are_not_logged),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
