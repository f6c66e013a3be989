// SPDX-License-Identifier: Apache-2.0
/* The store's file operations, done under cached's own policy words: a call
 * that its sandbox lacks shows up here. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "cached/disk.h"
#include "policy/policy.h"

#define KIB	1024

static const struct policy policy = {
	.process = "test_disk",
	.user = "nobody",
	.words = "stdio event unix threads pread store shm",
	.files = 64,
};

static char scratch[64];

/* In a child that entered the policy, with the directory as its store. */
static void
confined(void (*act)(int dir))
{
	int status, dir = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pid_t pid = fork();

	assert_true(dir >= 0 && pid >= 0);
	if (pid == 0) {
		struct policy_path path = { .dirfd = dir, .write = true };

		policy_enter(&policy, &path, 1);
		act(dir);
		_exit(0);
	}
	close(dir);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define want(ok) want_(ok, #ok, __LINE__)

static void
want_(bool ok, const char *what, int line)
{
	if (ok)
		return;
	fprintf(stderr, "test_disk.c:%d: not true: %s (%s)\n", line, what,
	    strerror(errno));
	_exit(1);
}

static off_t
size_of(int fd)
{
	struct stat st;

	want(fstat(fd, &st) == 0);
	return st.st_size;
}

static void
create(int dir)
{
	int a = disk_create(dir, "a"), b;
	char byte = 0;

	want(a >= 0 && disk_write(a, "old", 3, 0) == 0);
	b = disk_create(dir, "a");
	want(b >= 0 && size_of(b) == 0);
	want(pread(a, &byte, 1, 0) == 1 && byte == 'o');
	want(disk_write(b, "x", 1, 9999) == 0 && size_of(b) == 10000);
	want(disk_sync(b) == 0 && disk_sync_dir(dir) == 0);
	want(disk_create(dir, "no/such") == -ENOENT);
}

static void
test_create_is_a_new_file_and_the_old_one_lives_on(void **state)
{
	(void)state;
	confined(create);
}

static void
names(int dir)
{
	int d = disk_dir(dir, "d", true), fd;

	want(disk_dir(dir, "e", false) == -ENOENT);
	want(d >= 0 && disk_dir(dir, "d", true) >= 0);
	fd = disk_create(d, "f");
	want(fd >= 0 && disk_rename(d, "f", dir, "g") == 0);
	want(disk_open(d, "f", false) == -ENOENT);
	want(disk_open(dir, "g", true) >= 0);
	want(disk_open(dir, "g", false) >= 0);
	want(symlinkat("g", dir, "link") < 0);	/* nobody may make one here */
	want(disk_rmdir(dir, "d") == 0 && disk_rmdir(dir, "d") == -ENOENT);
	want(disk_unlink(dir, "g") == 0 && disk_unlink(dir, "g") == 0);
}

static void
test_names_move_and_go(void **state)
{
	(void)state;
	confined(names);
}

static void
links(int dir)
{
	want(disk_open(dir, "link", false) == -ELOOP);
	want(disk_dir(dir, "dirlink", true) == -ENOTDIR ||
	    disk_dir(dir, "dirlink", true) == -ELOOP);
}

static void
test_symbolic_links_are_not_followed(void **state)
{
	char path[96];

	(void)state;
	snprintf(path, sizeof(path), "%s/link", scratch);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	snprintf(path, sizeof(path), "%s/dirlink", scratch);
	assert_int_equal(symlink("/etc", path), 0);
	confined(links);
}

static void
room(int dir)
{
	uint64_t used, less, room_free = 0, total = 0;
	char buf[64 * KIB];
	int fd = disk_create(dir, "room");

	memset(buf, 7, sizeof(buf));
	want(disk_set_size(fd, 1024 * KIB) == 0);
	want(disk_reserve(fd, 0, 256 * KIB) == 0);
	want(disk_reserve(fd, 2048 * KIB, 64 * KIB) == 0);
	want(disk_reserve(fd, 0, 0) == 0 && disk_punch(fd, 0, 0) == 0);
	want(size_of(fd) == 1024 * KIB);
	want(disk_write(fd, buf, sizeof(buf), 0) == 0);
	want(disk_used(fd, &used) == 0 && used >= 256 * KIB);
	want(disk_punch(fd, 0, 256 * KIB) == 0);
	want(disk_used(fd, &less) == 0 && less + 256 * KIB <= used);
	want(size_of(fd) == 1024 * KIB);
	want(pread(fd, buf, sizeof(buf), 0) == sizeof(buf) && buf[0] == 0);
	want(disk_room(dir, &room_free, &total) == 0);
	want(room_free > 0 && room_free <= total);
}

static void
test_room_is_taken_and_given_back(void **state)
{
	(void)state;
	confined(room);
}

static void
copy_all(int from, int to, size_t len)
{
	char *buf = malloc(len), *is = malloc(len);

	want(buf && is);
	for (size_t i = 0; i < len; i++)
		buf[i] = (char)(i * 7 + i / 4096);
	want(disk_write(from, buf, len, 4096) == 0);
	want(disk_copy(from, 4096, to, 12345, len) == 0);
	want(fd_pread_all(to, is, len, 12345) == (ssize_t)len);
	want(memcmp(is, buf, len) == 0);
	want(disk_copy(from, 4096, to, 0, len + 1) == -EIO);	/* it ends */
	want(disk_copy(from, 4096, to, 0, 0) == 0);
	free(buf);
	free(is);
}

static void
copy(int dir)
{
	size_t len = 600 * KIB + 17;
	int a = disk_create(dir, "from"), b = disk_create(dir, "to");
	int mem = memfd_create("test", MFD_CLOEXEC);

	copy_all(a, b, len);
	copy_all(mem, b, len);	/* another file system */
	copy_all(a, mem, len);
}

static void
test_copies_within_and_between_file_systems(void **state)
{
	(void)state;
	confined(copy);
}

static int
setup(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/ssdisk.XXXXXX");
	return mkdtemp(scratch) && chmod(scratch, 0777) == 0 ? 0 : -1;
}

static int
teardown(void **state)
{
	char command[96];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", scratch);
	return system(command);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    test_create_is_a_new_file_and_the_old_one_lives_on),
		cmocka_unit_test(test_names_move_and_go),
		cmocka_unit_test(test_symbolic_links_are_not_followed),
		cmocka_unit_test(test_room_is_taken_and_given_back),
		cmocka_unit_test(test_copies_within_and_between_file_systems),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
