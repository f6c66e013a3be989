// SPDX-License-Identifier: Apache-2.0
/*
 * The FUSE parser and encoders, against byte positions counted in linux/fuse.h,
 * which the code under test does not include.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/own.h"
#include "devd/fuse_proto.h"

#define SIZE	UINT64_C(1000001)

static uint8_t in[512];

struct header {
	uint32_t len, opcode;
	uint64_t unique, nodeid;
	uint32_t uid, gid, pid, padding;
};

static size_t
request(uint32_t opcode, const void *body, size_t len)
{
	const struct header h = { .len = (uint32_t)(sizeof(h) + len),
		.opcode = opcode, .unique = 42, .nodeid = 1 };

	memcpy(in, &h, sizeof(h));
	if (len > 0)
		memcpy(in + sizeof(h), body, len);
	return sizeof(h) + len;
}

static uint32_t
u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t
u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint32_t
u16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* ---- requests ---- */

static void
test_a_request_is_as_long_as_it_says(void **state)
{
	struct fuse_request q = { .unique = 7 };
	size_t len = request(FUSE_GETATTR, "0123456789abcdef", 16);

	(void)state;
	assert_int_equal(fuse_parse(in, len, &q), 0);
	assert_int_equal(q.unique, 42);
	assert_int_equal(q.opcode, FUSE_GETATTR);
	assert_int_equal(q.node, FUSE_ROOT);
	q.unique = 7;
	assert_int_equal(fuse_parse(in, len - 1, &q), -EPROTO);
	assert_int_equal(fuse_parse(in, len + 1, &q), -EPROTO);
	assert_int_equal(fuse_parse(in, FUSE_IN_HEADER - 1, &q), -EPROTO);
	assert_int_equal(fuse_parse(in, 0, &q), -EPROTO);
	assert_int_equal(q.unique, 7);
}

static void
test_arguments_must_be_whole(void **state)
{
	static const struct { uint32_t opcode; size_t len; } ops[] = {
		{ FUSE_INIT, 16 }, { FUSE_OPEN, 8 }, { FUSE_READ, 40 },
		{ FUSE_RELEASE, 24 }, { FUSE_INTERRUPT, 8 },
	};
	struct fuse_request q;
	uint32_t init[10] = { 7, 38, 131072, FUSE_MAX_PAGES };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		assert_int_equal(fuse_parse(in, request(ops[i].opcode, init,
		    ops[i].len), &q), 0);
		assert_int_equal(fuse_parse(in, request(ops[i].opcode, init,
		    ops[i].len - 1), &q), -EINVAL);
		assert_int_equal(q.unique, 42);
		assert_int_equal(q.opcode, ops[i].opcode);
	}
}

static void
test_a_read_says_where_and_how(void **state)
{
	const struct {
		uint64_t fh, offset;
		uint32_t size, read_flags;
		uint64_t owner;
		uint32_t flags, padding;
	} body = { 99, 4096, 131072, 0, 0, O_DIRECT, 0 };
	struct fuse_request q;

	(void)state;
	assert_int_equal(fuse_parse(in, request(FUSE_READ, &body,
	    sizeof(body)), &q), 0);
	assert_int_equal(q.handle, 99);
	assert_int_equal(q.offset, 4096);
	assert_int_equal(q.length, 131072);
	assert_int_equal(q.flags, O_DIRECT);
}

static void
test_a_read_ends_with_the_file(void **state)
{
	static const struct { uint64_t offset; uint32_t length, wanted; } t[] = {
		{ 0, 4096, 4096 }, { SIZE - 1, 4096, 1 }, { SIZE, 4096, 0 },
		{ SIZE + 1, 1, 0 }, { UINT64_MAX, 4096, 0 },
		{ SIZE - 4096, 4096, 4096 }, { SIZE - 4095, 4096, 4095 },
		{ 0, FUSE_READ_MAX, (uint32_t)SIZE }, { 5, 0, 0 },
	};
	struct fuse_request q = { .length = FUSE_READ_MAX + 1 };
	uint32_t length = 3;

	(void)state;
	assert_int_equal(fuse_read_length(&q, SIZE, &length), -EINVAL);
	assert_int_equal(length, 3);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		q.offset = t[i].offset;
		q.length = t[i].length;
		assert_int_equal(fuse_read_length(&q, SIZE, &length), 0);
		assert_int_equal(length, t[i].wanted);
	}
}

static void
test_who_gets_no_reply(void **state)
{
	(void)state;
	assert_false(fuse_wants_reply(FUSE_FORGET));
	assert_false(fuse_wants_reply(FUSE_BATCH_FORGET));
	assert_false(fuse_wants_reply(FUSE_INTERRUPT));
	assert_true(fuse_wants_reply(FUSE_RELEASE));
	assert_true(fuse_wants_reply(FUSE_READ));
	assert_true(fuse_wants_reply(12345));
}

/* ---- INIT ---- */

static int
init(uint32_t major, uint32_t minor, uint32_t flags, struct fuse_request *q)
{
	const uint32_t body[16] = { major, minor, 131072, flags };

	return fuse_parse(in, request(FUSE_INIT, body, sizeof(body)), q);
}

static void
test_init_of_kernels_that_will_do(void **state)
{
	struct fuse_request q;

	(void)state;
	assert_int_equal(init(7, 28, FUSE_MAX_PAGES, &q), 0);
	assert_int_equal(init(7, 99, UINT32_MAX, &q), 0);
	assert_int_equal(init(7, 27, FUSE_MAX_PAGES, &q), -EINVAL);
	assert_int_equal(init(8, 28, FUSE_MAX_PAGES, &q), -EINVAL);
	assert_int_equal(init(7, 28, FUSE_ASYNC_READ, &q), -EINVAL);
}

static void
test_init_takes_no_flag_that_was_not_offered(void **state)
{
	uint8_t out[FUSE_OUT_MAX];
	struct fuse_request q;

	(void)state;
	assert_int_equal(init(7, 31, FUSE_MAX_PAGES, &q), 0);
	assert_int_equal(fuse_put_init(out, &q), 80);
	assert_int_equal(u32(out + 16 + 4), 31);
	assert_int_equal(u32(out + 16 + 12), FUSE_MAX_PAGES);
	assert_int_equal(init(7, 99, UINT32_MAX, &q), 0);
	assert_int_equal(fuse_put_init(out, &q), 80);
	assert_int_equal(u32(out), 80);
	assert_int_equal(u32(out + 4), 0);
	assert_int_equal(u64(out + 8), 42);
	assert_int_equal(u32(out + 16), 7);
	assert_int_equal(u32(out + 16 + 4), FUSE_MINOR);
	/* writeback, AUTO_INVAL_DATA, ASYNC_DIO and all else stay out */
	assert_int_equal(u32(out + 16 + 12), 1 | 1 << 22 | 1 << 25);
	assert_int_equal(u16(out + 16 + 16), FUSE_BACKGROUND);
	assert_int_equal(u16(out + 16 + 28), 256);
}

/* ---- replies ---- */

static void
test_an_error_is_all_of_its_reply(void **state)
{
	uint8_t out[FUSE_OUT_MAX];

	(void)state;
	assert_int_equal(fuse_put_error(out, 42, -ENOSYS), 16);
	assert_int_equal(u32(out), 16);
	assert_int_equal((int32_t)u32(out + 4), -ENOSYS);
	assert_int_equal(u64(out + 8), 42);
}

static void
test_a_header_counts_what_follows(void **state)
{
	uint8_t out[FUSE_OUT_MAX];

	(void)state;
	assert_int_equal(fuse_put_header(out, 42, 4096), 16);
	assert_int_equal(u32(out), 4112);
	assert_int_equal(u32(out + 4), 0);
	assert_int_equal(u64(out + 8), 42);
}

static void
test_attributes_are_a_read_only_file(void **state)
{
	uint8_t out[FUSE_OUT_MAX];

	(void)state;
	assert_int_equal(fuse_put_attr(out, 42, SIZE), 120);
	assert_int_equal(u64(out + 16), FUSE_VALID_S);
	assert_int_equal(u64(out + 32), 1);		/* ino */
	assert_int_equal(u64(out + 40), SIZE);
	assert_int_equal(u64(out + 48), 1954);		/* blocks of 512 */
	assert_int_equal(u32(out + 32 + 60), S_IFREG | 0444);
	assert_int_equal(u32(out + 32 + 64), 1);	/* nlink */
}

static void
test_an_open_keeps_the_cache_and_is_never_direct(void **state)
{
	uint8_t out[FUSE_OUT_MAX];

	(void)state;
	assert_int_equal(fuse_put_open(out, 42, 77, true), 32);
	assert_int_equal(u64(out + 16), 77);
	assert_int_equal(u32(out + 24), 1 << 1);
}

static void
test_statfs_has_the_size(void **state)
{
	uint8_t out[FUSE_OUT_MAX];

	(void)state;
	assert_int_equal(fuse_put_statfs(out, 42, SIZE), 96);
	assert_int_equal(u64(out + 16), 245);
	assert_int_equal(u64(out + 24), 0);		/* bfree */
	assert_int_equal(u32(out + 56), 4096);		/* bsize */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_request_is_as_long_as_it_says),
		cmocka_unit_test(test_arguments_must_be_whole),
		cmocka_unit_test(test_a_read_says_where_and_how),
		cmocka_unit_test(test_a_read_ends_with_the_file),
		cmocka_unit_test(test_who_gets_no_reply),
		cmocka_unit_test(test_init_of_kernels_that_will_do),
		cmocka_unit_test(test_init_takes_no_flag_that_was_not_offered),
		cmocka_unit_test(test_an_error_is_all_of_its_reply),
		cmocka_unit_test(test_a_header_counts_what_follows),
		cmocka_unit_test(test_attributes_are_a_read_only_file),
		cmocka_unit_test(
		    test_an_open_keeps_the_cache_and_is_never_direct),
		cmocka_unit_test(test_statfs_has_the_size),
	};

	return cmocka_run_group_tests_name("fuse_proto", tests, NULL, NULL);
}
