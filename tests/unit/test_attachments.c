// SPDX-License-Identifier: Apache-2.0
/*
 * The attachments file pair: whatever happens to the file that is being
 * written, the state before it is still there.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/resource.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/own.h"
#include "devd/devd.h"

#define HEADER		56	/* magic, generation, length, SHA-256 */
#define OLD		"the older state"
#define NEW		"the newer state, which is longer"

static int
setup(void **state)
{
	struct attachments *a = calloc(1, sizeof(*a));

	for (int i = 0; a && i < 2; i++)
		a->fd[i] = memfd_create("attachments", MFD_CLOEXEC);
	*state = a;
	return a && a->fd[0] >= 0 && a->fd[1] >= 0 ? 0 : -1;
}

static int
teardown(void **state)
{
	struct attachments *a = *state;

	fd_close(a->fd[0]);
	fd_close(a->fd[1]);
	free(a);
	return 0;
}

static void
put(struct attachments *a, const char *text)
{
	assert_int_equal(attachments_write(a, text, strlen(text)), 0);
}

/* As a new process finds them. */
static void
assert_state(const struct attachments *a, const char *want)
{
	struct attachments fresh = { .fd = { a->fd[0], a->fd[1] } };
	_cleanup_free_ uint8_t *got = NULL;
	size_t len = 99;

	assert_int_equal(attachments_read(&fresh, &got, &len), 0);
	if (!want) {
		assert_null(got);
		assert_int_equal(len, 0);
		return;
	}
	assert_int_equal(len, strlen(want));
	assert_non_null(got);
	assert_memory_equal(got, want, len);
}

static bool
is_state(const struct attachments *a, const char *text)
{
	struct attachments fresh = { .fd = { a->fd[0], a->fd[1] } };
	_cleanup_free_ uint8_t *got = NULL;
	size_t len = 0;

	return attachments_read(&fresh, &got, &len) == 0 && got &&
	    len == strlen(text) && memcmp(got, text, len) == 0;
}

static size_t
size_of(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);

	assert_true(size >= 0);
	return (size_t)size;
}

/* Set up OLD in file 0 and NEW in file 1; the newer file. */
static int
old_and_new(struct attachments *a)
{
	uint8_t *none;
	size_t len;

	assert_int_equal(attachments_read(a, &none, &len), 0);
	put(a, OLD);
	assert_int_equal(a->current, 0);
	put(a, NEW);
	assert_int_equal(a->current, 1);
	assert_state(a, NEW);
	assert_int_equal(size_of(a->fd[1]), HEADER + strlen(NEW));
	return a->fd[1];
}

static void
test_there_is_no_state_at_first(void **state)
{
	assert_state(*state, NULL);
}

static void
test_what_was_written_is_read_again(void **state)
{
	struct attachments *a = *state;

	old_and_new(a);
	put(a, "short");
	assert_state(a, "short");
	put(a, "");
	assert_state(a, "");
}

static void
test_a_change_goes_to_the_file_that_is_not_current(void **state)
{
	struct attachments *a = *state;
	uint8_t before[HEADER + sizeof(NEW)], after[sizeof(before)];
	uint8_t *got;
	size_t len;

	old_and_new(a);
	for (int i = 0; i < 4; i++) {
		int keep = a->fd[a->current];
		ssize_t n = fd_pread_all(keep, before, sizeof(before), 0);

		put(a, i % 2 ? OLD : NEW);
		assert_true(a->fd[a->current] != keep);
		assert_int_equal(fd_pread_all(keep, after, sizeof(after), 0),
		    n);
		assert_memory_equal(before, after, (size_t)n);
	}
	/* and so it does after a restart */
	len = a->current;
	assert_int_equal(attachments_read(a, &got, &(size_t){ 0 }), 0);
	free(got);
	assert_int_equal(a->current, len);
	assert_int_equal(a->generation, 6);
}

static void
test_a_newer_file_cut_anywhere_leaves_the_older_state(void **state)
{
	struct attachments *a = *state;
	int newer = old_and_new(a);

	for (size_t len = size_of(newer); len-- > 0;) {
		assert_int_equal(ftruncate(newer, (off_t)len), 0);
		assert_state(a, OLD);
	}
}

static void
test_a_newer_file_damaged_anywhere_leaves_the_older_state(void **state)
{
	struct attachments *a = *state;
	int newer = old_and_new(a);
	size_t len = size_of(newer);

	for (size_t at = 0; at < len * 8; at++) {
		uint8_t byte, flipped;

		assert_int_equal(fd_pread_all(newer, &byte, 1, at / 8), 1);
		flipped = byte ^ (uint8_t)(1 << at % 8);
		assert_int_equal(fd_pwrite_all(newer, &flipped, 1, at / 8), 0);
		/* the generation is in no sum: it only chooses between two
		 * whole states */
		if (at / 8 >= 8 && at / 8 < 16)
			assert_true(is_state(a, OLD) || is_state(a, NEW));
		else
			assert_state(a, OLD);
		assert_int_equal(fd_pwrite_all(newer, &byte, 1, at / 8), 0);
	}
	assert_state(a, NEW);
}

/* Each state that a crash in the middle of the third write can leave: n bytes
 * of the payload first, then n bytes of the header. */
static void
test_a_write_torn_anywhere_leaves_the_state_before(void **state)
{
	static const char third[] = "a third state, longer than both others";
	struct attachments *a = *state;
	uint8_t old[HEADER + sizeof(third)], new[sizeof(old)];
	size_t old_len, new_len, body = strlen(third);
	int target;

	old_and_new(a);
	target = a->fd[0];
	old_len = (size_t)fd_pread_all(target, old, sizeof(old), 0);
	put(a, third);
	assert_int_equal(a->current, 0);
	new_len = (size_t)fd_pread_all(target, new, sizeof(new), 0);
	assert_int_equal(new_len, HEADER + body);
	for (size_t n = 0; n < body + HEADER; n++) {
		assert_int_equal(ftruncate(target, 0), 0);
		assert_int_equal(fd_pwrite_all(target, old, old_len, 0), 0);
		assert_int_equal(fd_pwrite_all(target, new + HEADER,
		    n < body ? n : body, HEADER), 0);
		if (n > body)
			assert_int_equal(fd_pwrite_all(target, new, n - body,
			    0), 0);
		assert_state(a, NEW);
	}
	assert_int_equal(fd_pwrite_all(target, new, new_len, 0), 0);
	assert_state(a, third);
}

static void
test_the_older_file_may_be_damaged(void **state)
{
	struct attachments *a = *state;

	old_and_new(a);
	assert_int_equal(ftruncate(a->fd[0], 3), 0);
	assert_state(a, NEW);
}

static void
test_two_damaged_files_are_no_state(void **state)
{
	struct attachments *a = *state;

	old_and_new(a);
	assert_int_equal(fd_pwrite_all(a->fd[0], "x", 1, HEADER), 0);
	assert_int_equal(fd_pwrite_all(a->fd[1], "x", 1, HEADER), 0);
	assert_state(a, NULL);
}

static void
test_a_length_without_bound_is_no_state(void **state)
{
	struct attachments *a = *state;
	static const uint64_t lens[] = { UINT64_MAX, (uint64_t)1 << 62,
		UINT64_MAX - HEADER, 16 * 1024 * 1024 + 1 };
	int newer = old_and_new(a);

	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		assert_int_equal(fd_pwrite_all(newer, &lens[i], 8, 16), 0);
		assert_state(a, OLD);
	}
}

static void
test_too_much_state_is_refused_and_harms_nothing(void **state)
{
	struct attachments *a = *state;
	size_t len = 16 * 1024 * 1024 + 1;
	_cleanup_free_ char *big = calloc(1, len);

	old_and_new(a);
	assert_int_equal(attachments_write(a, big, len), -EFBIG);
	assert_state(a, NEW);
	put(a, OLD);
	assert_state(a, OLD);
}

/* A full disk, played by the limit on a file's size. */
static void
test_a_failed_write_leaves_the_state_before(void **state)
{
	static const char third[] = "a third state that does not fit any more";
	struct attachments *a = *state;
	struct rlimit before, small;

	old_and_new(a);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	small.rlim_cur = HEADER + 20;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(attachments_write(a, third, strlen(third)), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(a->current, 1);
	assert_state(a, NEW);
	put(a, third);
	assert_state(a, third);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_there_is_no_state_at_first),
		CASE(test_what_was_written_is_read_again),
		CASE(test_a_change_goes_to_the_file_that_is_not_current),
		CASE(test_a_newer_file_cut_anywhere_leaves_the_older_state),
		CASE(test_a_newer_file_damaged_anywhere_leaves_the_older_state),
		CASE(test_a_write_torn_anywhere_leaves_the_state_before),
		CASE(test_the_older_file_may_be_damaged),
		CASE(test_two_damaged_files_are_no_state),
		CASE(test_a_length_without_bound_is_no_state),
		CASE(test_too_much_state_is_refused_and_harms_nothing),
		CASE(test_a_failed_write_leaves_the_state_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
