// SPDX-License-Identifier: Apache-2.0
/*
 * Names of devices, owners, consumers, rungs and presentations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>

#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "devd/devd.h"

/* n times c; caller frees. */
static char *
filled(char c, size_t n)
{
	char *text = calloc(1, n + 1);

	assert_non_null(text);
	memset(text, c, n);
	return text;
}

static void
test_a_device_name_has_few_characters(void **state)
{
	(void)state;
	for (int c = 1; c < 256; c++) {
		char first[] = { (char)c, 'x', 0 };
		char last[] = { 'x', (char)c, 0 };
		bool ok = strchr("abcdefghijklmnopqrstuvwxyz0123456789._-", c);

		assert_int_equal(device_name_valid(last), ok);
		assert_int_equal(device_name_valid(first), ok && c != '.');
	}
}

static void
test_a_device_name_is_1_to_63_long(void **state)
{
	(void)state;
	for (size_t n = 0; n <= DEVICE_NAME_MAX + 2; n++) {
		_cleanup_free_ char *name = filled('a', n);

		assert_int_equal(device_name_valid(name),
		    n >= 1 && n <= DEVICE_NAME_MAX);
	}
}

static void
test_a_device_name_is_no_path(void **state)
{
	static const char *const bad[] = { ".", "..", "a/b", "/a", "a/", "../a",
		"a/../b", ".a", "a\nb", "a b", "A", "\xc3\xa4", "a\\b", "" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(device_name_valid(bad[i]));
	assert_true(device_name_valid("-a..b_"));
}

static void
test_a_device_id_is_a_digest_of_its_whole_key(void **state)
{
	struct digest blob = digest_of("blob", 4);
	struct digest image = digest_of("image", 5);
	struct digest layout = digest_of("layout", 6);
	char id[DEVICE_ID_LEN + 1], other[DEVICE_ID_LEN + 1];
	uint8_t key[98];
	struct digest want;
	struct digest_hex hex;

	(void)state;
	device_id(&blob, &image, &layout, 2, 1, id);
	memcpy(key, blob.bytes, 32);
	memcpy(key + 32, image.bytes, 32);
	memcpy(key + 64, layout.bytes, 32);
	key[96] = 2;
	key[97] = 1;
	want = digest_of(key, sizeof(key));
	hex = digest_to_hex(&want);
	assert_int_equal(strlen(id), DEVICE_ID_LEN);
	assert_memory_equal(id, hex.text, DEVICE_ID_LEN);
	device_id(&image, &blob, &layout, 2, 1, other);
	assert_string_not_equal(id, other);
	device_id(&blob, &image, &blob, 2, 1, other);
	assert_string_not_equal(id, other);
	device_id(&blob, &image, &layout, 1, 1, other);
	assert_string_not_equal(id, other);
	device_id(&blob, &image, &layout, 2, 4, other);
	assert_string_not_equal(id, other);
}

static void
test_rungs_and_presentations_have_names(void **state)
{
	(void)state;
	assert_string_equal(rung_name(CTL_RUNG(DEFAULT)), "default");
	assert_string_equal(rung_name(CTL_RUNG(TRANSPORT)), "transport");
	assert_string_equal(rung_name(CTL_RUNG(COMPLETE)), "complete");
	assert_string_equal(rung_name(CTL_RUNG(WHOLE)), "whole");
	assert_string_equal(rung_name(CTL_RUNG(CHUNK)), "chunk");
	assert_string_equal(rung_name(5), "unknown");
	assert_string_equal(rung_name(UINT32_MAX), "unknown");
	assert_string_equal(present_name(CTL_PRESENT(AUTO)), "auto");
	assert_string_equal(present_name(CTL_PRESENT(NBD)), "nbd");
	assert_string_equal(present_name(CTL_PRESENT(FILE)), "file");
	assert_string_equal(present_name(CTL_PRESENT(UBLK)), "ublk");
	assert_string_equal(present_name(CTL_PRESENT(PLAIN)), "plain");
	assert_string_equal(present_name(CTL_PRESENT(KERNEL_NBD)),
	    "kernel-nbd");
	assert_string_equal(present_name(6), "unknown");
	assert_string_equal(present_name(UINT32_MAX), "unknown");
}

static void
test_an_owner_is_printable_text(void **state)
{
	(void)state;
	for (int c = 1; c < 256; c++) {
		char text[] = { 'x', (char)c, 0 };

		assert_int_equal(owner_valid(text), c >= ' ' && c <= '~');
	}
	assert_true(owner_valid("/var/lib/shed store/x"));
	for (size_t n = 0; n <= 257; n++) {
		_cleanup_free_ char *text = filled('o', n);

		assert_int_equal(owner_valid(text), n >= 1 && n <= 255);
	}
}

/* It goes into logs, into JSON and to fetcherd. */
static void
test_a_host_is_what_hosts_are_made_of(void **state)
{
	(void)state;
	for (int c = 1; c < 256; c++) {
		char text[] = { 'x', (char)c, 0 };

		assert_int_equal(host_text_valid(text), (c < 128 &&
		    isalnum(c)) || (c < 128 && strchr(".-_:[]", c)));
	}
	assert_true(host_text_valid("registry.example:5000"));
	assert_true(host_text_valid("[::1]:5000"));
	for (size_t n = 0; n <= 257; n++) {
		_cleanup_free_ char *text = filled('h', n);

		assert_int_equal(host_text_valid(text), n >= 1 && n <= 255);
	}
}

/* Consumers are written OWNER/ID: the last slash must be that one. */
static void
test_a_consumer_is_printable_without_blank_or_slash(void **state)
{
	(void)state;
	for (int c = 1; c < 256; c++) {
		char text[] = { 'x', (char)c, 0 };

		assert_int_equal(consumer_valid(text, 8),
		    c > ' ' && c <= '~' && c != '/');
	}
	for (size_t n = 0; n <= 130; n++) {
		_cleanup_free_ char *text = filled('c', n);

		assert_int_equal(consumer_valid(text, 128),
		    n >= 1 && n <= 128);
	}
}

/* What control joins to the store's path is a path below it. */
static void
test_a_data_file_is_below_the_store(void **state)
{
	static const char *const good[] = { "layouts/ab/data.0", "x", "..x/y",
		"a/..b", "a../b", "a/b.." };
	static const char *const bad[] = { "", "/", "/a", "..", "../a", "a/..",
		"a/../b", "a b", "a\nb", "\x7f", "\xc3\xa4" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(data_text_valid(good[i]));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(data_text_valid(bad[i]));
	for (size_t n = 0; n <= 257; n++) {
		_cleanup_free_ char *text = filled('d', n);

		assert_int_equal(data_text_valid(text), n >= 1 && n <= 255);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_device_name_has_few_characters),
		cmocka_unit_test(test_a_device_name_is_1_to_63_long),
		cmocka_unit_test(test_a_device_name_is_no_path),
		cmocka_unit_test(test_a_device_id_is_a_digest_of_its_whole_key),
		cmocka_unit_test(test_a_data_file_is_below_the_store),
		cmocka_unit_test(test_rungs_and_presentations_have_names),
		cmocka_unit_test(test_an_owner_is_printable_text),
		cmocka_unit_test(test_a_host_is_what_hosts_are_made_of),
		cmocka_unit_test(
		    test_a_consumer_is_printable_without_blank_or_slash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
