// SPDX-License-Identifier: Apache-2.0
/*
 * The NBD parsers and encoders, against bytes written down from proto.md.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/own.h"
#include "devd/nbd_proto.h"

#define SIZE		UINT64_C(1000000)

static const struct nbd_session simple = { .size = SIZE, .read_max = 65536 };
static const struct nbd_session full = { .size = SIZE, .read_max = 65536,
	.structured = true, .contexts = NBD_CONTEXT_ALLOCATION };

/* ---- negotiation ---- */

static void
test_hello_offers_fixed_newstyle_without_zeroes(void **state)
{
	uint8_t out[NBD_HELLO_SIZE];

	(void)state;
	nbd_put_hello(out);
	assert_memory_equal(out, "NBDMAGICIHAVEOPT\0\3", sizeof(out));
}

static void
test_client_flags_are_those_that_were_offered(void **state)
{
	uint32_t flags = 99;

	(void)state;
	assert_int_equal(nbd_parse_client_flags(
	    (const uint8_t *)"\0\0\0\3", &flags), 0);
	assert_int_equal(flags, 3);
	assert_int_equal(nbd_parse_client_flags(
	    (const uint8_t *)"\0\0\0\0", &flags), 0);
	flags = 99;
	assert_int_equal(nbd_parse_client_flags(
	    (const uint8_t *)"\0\0\0\4", &flags), -EPROTO);
	assert_int_equal(nbd_parse_client_flags(
	    (const uint8_t *)"\x80\0\0\3", &flags), -EPROTO);
	assert_int_equal(flags, 99);
}

static void
test_option_needs_its_magic(void **state)
{
	struct nbd_option o;

	(void)state;
	assert_int_equal(nbd_parse_option((const uint8_t *)
	    "IHAVEOPT\0\0\0\7\xff\xff\xff\xff", &o), 0);
	assert_int_equal(o.type, NBD_OPT_GO);
	assert_int_equal(o.len, UINT32_MAX);
	assert_int_equal(nbd_parse_option((const uint8_t *)
	    "IHAVEOPS\0\0\0\7\0\0\0\0", &o), -EPROTO);
}

static void
test_go_gives_name_and_infos(void **state)
{
	static const uint8_t in[] = "\0\0\0\4disk\0\3\0\3\0\1\xff\xff";
	struct nbd_go go;

	(void)state;
	assert_int_equal(nbd_parse_go(in, sizeof(in) - 1, &go), 0);
	assert_int_equal(go.name.len, 4);
	assert_memory_equal(go.name.text, "disk", 4);
	assert_int_equal(go.infos, 1 << 3 | 1 << 1);
}

static void
test_go_of_any_other_length_is_refused(void **state)
{
	static const uint8_t in[] = "\0\0\0\4disk\0\2\0\3\0\1\0";
	struct nbd_go go;

	(void)state;
	for (size_t len = 0; len < sizeof(in); len++)
		assert_int_equal(nbd_parse_go(in, len, &go),
		    len == 14 ? 0 : -EINVAL);
	assert_int_equal(nbd_parse_go((const uint8_t *)
	    "\xff\xff\xff\xff""disk\0\0", 10, &go), -EINVAL);
	assert_int_equal(nbd_parse_go((const uint8_t *)
	    "\0\0\x10\1disk\0\0", 10, &go), -EINVAL);
}

static unsigned
contexts_of(bool list, const char *payload, size_t len)
{
	struct nbd_meta meta;

	assert_int_equal(nbd_parse_meta((const uint8_t *)payload, len, list,
	    &meta), 0);
	return meta.contexts;
}

static void
test_contexts_are_chosen_by_name(void **state)
{
	static const char both[] = "\0\0\0\0\0\0\0\2"
	    "\0\0\0\x0f""base:allocation\0\0\0\x15x-shedstream:resident";
	static const char base[] = "\0\0\0\0\0\0\0\1\0\0\0\5base:";
	static const char none[] = "\0\0\0\0\0\0\0\0";
	static const char other[] = "\0\0\0\0\0\0\0\1\0\0\0\6qemu:x";

	(void)state;
	assert_int_equal(contexts_of(false, both, sizeof(both) - 1), 3);
	assert_int_equal(contexts_of(true, both, sizeof(both) - 1), 3);
	assert_int_equal(contexts_of(true, base, sizeof(base) - 1), 1);
	assert_int_equal(contexts_of(false, base, sizeof(base) - 1), 0);
	assert_int_equal(contexts_of(true, none, sizeof(none) - 1), 3);
	assert_int_equal(contexts_of(false, none, sizeof(none) - 1), 0);
	assert_int_equal(contexts_of(true, other, sizeof(other) - 1), 0);
}

static void
test_queries_end_with_their_payload(void **state)
{
	static const uint8_t lie[] = "\0\0\0\0\xff\xff\xff\xff\0\0\0\0";
	static const uint8_t more[] = "\0\0\0\0\0\0\0\0x";
	struct nbd_meta meta;

	(void)state;
	assert_int_equal(nbd_parse_meta(lie, 12, true, &meta), -EINVAL);
	assert_int_equal(nbd_parse_meta(more, 9, true, &meta), -EINVAL);
	assert_int_equal(nbd_parse_meta(more, 3, true, &meta), -EINVAL);
}

static void
test_option_reply_is_framed(void **state)
{
	uint8_t out[64];

	(void)state;
	assert_int_equal(nbd_put_option_reply(out, NBD_OPT_GO,
	    NBD_REP_ERR_UNKNOWN, "why", 3), 23);
	assert_memory_equal(out, "\0\3\xe8\x89\4\x55\x65\xa9\0\0\0\7"
	    "\x80\0\0\6\0\0\0\3why", 23);
}

static void
test_export_info_has_zeroes_unless_waived(void **state)
{
	uint8_t out[NBD_EXPORT_INFO_MAX];
	static const uint8_t zeroes[124];

	(void)state;
	assert_int_equal(nbd_put_export_info(out, 0x1234, 0x103, false), 10);
	assert_memory_equal(out, "\0\0\0\0\0\0\x12\x34\1\3", 10);
	assert_int_equal(nbd_put_export_info(out, 0x1234, 0x103, true), 134);
	assert_memory_equal(out + 10, zeroes, sizeof(zeroes));
}

static void
test_infos_are_as_written_in_the_protocol(void **state)
{
	uint8_t out[64];

	(void)state;
	assert_int_equal(nbd_put_info_export(out, 0x1000, 3), 12);
	assert_memory_equal(out, "\0\0\0\0\0\0\0\0\x10\0\0\3", 12);
	assert_int_equal(nbd_put_info_block_size(out, 1, 65536, 1 << 22), 14);
	assert_memory_equal(out, "\0\3\0\0\0\1\0\1\0\0\0\x40\0\0", 14);
	assert_int_equal(nbd_put_info_text(out, NBD_INFO_NAME, "abc"), 5);
	assert_memory_equal(out, "\0\1abc", 5);
	assert_int_equal(nbd_put_list_entry(out, "abc"), 7);
	assert_memory_equal(out, "\0\0\0\3abc", 7);
	assert_int_equal(nbd_put_context(out, NBD_CONTEXT_ALLOCATION), 19);
	assert_memory_equal(out, "\0\0\0\1base:allocation", 19);
	assert_string_equal(nbd_context_name(NBD_CONTEXT_RESIDENT),
	    "x-shedstream:resident");
}

/* ---- transmission ---- */

static void
test_request_is_taken_apart(void **state)
{
	static const uint8_t in[] = "\x25\x60\x95\x13\0\4\0\7cookiexx"
	    "\0\0\0\1\0\0\0\2\x80\0\0\1";
	struct nbd_request q;

	(void)state;
	assert_int_equal(nbd_parse_request(in, &q), 0);
	assert_int_equal(q.flags, NBD_CMD_FLAG_DF);
	assert_int_equal(q.type, NBD_CMD_BLOCK_STATUS);
	assert_int_equal(q.cookie, UINT64_C(0x636f6f6b69657878));
	assert_int_equal(q.offset, UINT64_C(0x100000002));
	assert_int_equal(q.len, 0x80000001);
	assert_int_equal(nbd_parse_request((const uint8_t *)
	    "\x25\x60\x95\x14\0\4\0\7cookiexx\0\0\0\1\0\0\0\2\x80\0\0\1", &q),
	    -EPROTO);
}

struct claim {
	uint16_t type, flags;
	uint64_t offset;
	uint32_t len;
	enum nbd_error error;
};

static void
check_claims(const struct nbd_session *s, const struct claim *c, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct nbd_request q = { .type = c[i].type,
			.flags = c[i].flags, .offset = c[i].offset,
			.len = c[i].len };

		if (nbd_check_request(&q, s) != c[i].error)
			fail_msg("claim %zu: %d", i, nbd_check_request(&q, s));
	}
}

static void
test_reads_stay_within_the_export(void **state)
{
	static const struct claim claims[] = {
		{ NBD_CMD_READ, 0, 0, 1, NBD_OK },
		{ NBD_CMD_READ, 0, SIZE - 1, 1, NBD_OK },
		{ NBD_CMD_READ, 0, SIZE - 1, 2, NBD_EINVAL },
		{ NBD_CMD_READ, 0, SIZE, 0, NBD_OK },
		{ NBD_CMD_READ, 0, SIZE + 1, 0, NBD_EINVAL },
		{ NBD_CMD_READ, 0, UINT64_MAX, 1, NBD_EINVAL },
		{ NBD_CMD_READ, 0, UINT64_MAX - 65535, 65536, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 0, 65536, NBD_OK },
		{ NBD_CMD_READ, 0, 0, 65537, NBD_EINVAL },
		{ NBD_CMD_CACHE, 0, 0, SIZE, NBD_OK },
		{ NBD_CMD_CACHE, 0, 1, SIZE, NBD_EINVAL },
	};

	(void)state;
	check_claims(&simple, claims, ARRAY_LEN(claims));
	check_claims(&full, claims, ARRAY_LEN(claims));
}

static void
test_nothing_is_ever_written(void **state)
{
	static const struct claim claims[] = {
		{ NBD_CMD_WRITE, 0, 0, 1, NBD_EPERM },
		{ NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 1, NBD_EPERM },
		{ NBD_CMD_WRITE, UINT16_MAX, UINT64_MAX, 0, NBD_EPERM },
		{ NBD_CMD_TRIM, 0, 0, 1, NBD_EPERM },
		{ NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, 1,
		    NBD_EPERM },
		{ NBD_CMD_FLUSH, 0, 0, 0, NBD_OK },
		{ 6 + 2, 0, 0, 0, NBD_EINVAL },
	};

	(void)state;
	check_claims(&simple, claims, ARRAY_LEN(claims));
}

static void
test_flags_go_with_what_was_negotiated(void **state)
{
	static const struct claim plain[] = {
		{ NBD_CMD_READ, NBD_CMD_FLAG_FUA, 0, 1, NBD_OK },
		{ NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 1, NBD_EINVAL },
		{ NBD_CMD_READ, NBD_CMD_FLAG_REQ_ONE, 0, 1, NBD_EINVAL },
		{ NBD_CMD_BLOCK_STATUS, 0, 0, 1, NBD_EINVAL },
	}, structured[] = {
		{ NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 1, NBD_OK },
		{ NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 65537, NBD_EOVERFLOW },
		{ NBD_CMD_READ, 1 << 5, 0, 1, NBD_EINVAL },
		{ NBD_CMD_BLOCK_STATUS, 0, 0, 1, NBD_OK },
		{ NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, SIZE,
		    NBD_OK },
		{ NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_DF, 0, 1, NBD_EINVAL },
		{ NBD_CMD_BLOCK_STATUS, 0, 0, 0, NBD_EINVAL },
		{ NBD_CMD_BLOCK_STATUS, 0, SIZE, 1, NBD_EINVAL },
	};
	struct nbd_session none = full;

	(void)state;
	check_claims(&simple, plain, ARRAY_LEN(plain));
	check_claims(&full, structured, ARRAY_LEN(structured));
	none.contexts = 0;
	check_claims(&none, &plain[3], 1);
}

static void
test_errors_are_those_of_the_protocol(void **state)
{
	(void)state;
	assert_int_equal(nbd_error_of(0), NBD_OK);
	assert_int_equal(nbd_error_of(-ENOSPC), NBD_ENOSPC);
	assert_int_equal(nbd_error_of(-EPERM), NBD_EPERM);
	assert_int_equal(nbd_error_of(-ENOENT), NBD_EIO);
	assert_int_equal(nbd_error_of(-ETIMEDOUT), NBD_EIO);
	assert_int_equal(nbd_error_of(-100000), NBD_EIO);
}

static void
test_replies_are_as_written_in_the_protocol(void **state)
{
	uint8_t out[64];

	(void)state;
	assert_int_equal(nbd_put_simple(out, NBD_EIO,
	    UINT64_C(0x0102030405060708)), 16);
	assert_memory_equal(out, "\x67\x44\x66\x98\0\0\0\5\1\2\3\4\5\6\7\10",
	    16);
	assert_int_equal(nbd_put_chunk(out, NBD_REPLY_FLAG_DONE,
	    NBD_REPLY_OFFSET_DATA, UINT64_C(0x0102030405060708), 8 + 512), 20);
	assert_memory_equal(out, "\x66\x8e\x33\xef\0\1\0\1"
	    "\1\2\3\4\5\6\7\10\0\0\2\10", 20);
	assert_int_equal(nbd_put_chunk_error(out, NBD_EINVAL,
	    UINT64_C(0x0102030405060708)), 26);
	assert_memory_equal(out, "\x66\x8e\x33\xef\0\1\x80\1"
	    "\1\2\3\4\5\6\7\10\0\0\0\6\0\0\0\x16\0\0", 26);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    test_hello_offers_fixed_newstyle_without_zeroes),
		cmocka_unit_test(test_client_flags_are_those_that_were_offered),
		cmocka_unit_test(test_option_needs_its_magic),
		cmocka_unit_test(test_go_gives_name_and_infos),
		cmocka_unit_test(test_go_of_any_other_length_is_refused),
		cmocka_unit_test(test_contexts_are_chosen_by_name),
		cmocka_unit_test(test_queries_end_with_their_payload),
		cmocka_unit_test(test_option_reply_is_framed),
		cmocka_unit_test(test_export_info_has_zeroes_unless_waived),
		cmocka_unit_test(test_infos_are_as_written_in_the_protocol),
		cmocka_unit_test(test_request_is_taken_apart),
		cmocka_unit_test(test_reads_stay_within_the_export),
		cmocka_unit_test(test_nothing_is_ever_written),
		cmocka_unit_test(test_flags_go_with_what_was_negotiated),
		cmocka_unit_test(test_errors_are_those_of_the_protocol),
		cmocka_unit_test(test_replies_are_as_written_in_the_protocol),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
