// SPDX-License-Identifier: Apache-2.0
/*
 * Devices of the kernel's NBD client: their identifiers, and which kernels keep
 * one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/own.h"
#include "devd/devd.h"

static void
test_an_identifier_begins_like_its_instances(void **state)
{
	char all[KNBD_IDENTIFIER_SIZE], one[KNBD_IDENTIFIER_SIZE],
	    other[KNBD_IDENTIFIER_SIZE];

	(void)state;
	knbd_identifier(0x1f, "", all);
	assert_string_equal(all, "shedstream:000000000000001f:");
	knbd_identifier(0x1f, "0123456789abcdef", one);
	assert_string_equal(one,
	    "shedstream:000000000000001f:0123456789abcdef");
	assert_memory_equal(one, all, strlen(all));
	knbd_identifier(UINT64_MAX, "0123456789abcdef", other);
	assert_memory_not_equal(other, all, strlen(all));
	assert_int_equal(strlen(other), KNBD_IDENTIFIER_SIZE - 1);
}

static void
test_kernels_that_keep_none_are_refused_with_the_remedy(void **state)
{
	static const char *const bad[] = { "5.13.19", "5.10.0-33-amd64",
		"4.19.0", "0.0", "", "linux" };
	static const char *const good[] = { "5.14.0", "5.15.1", "6.0",
		"6.1.0-50-amd64", "6.12.117+deb13-cloud-amd64", "7.2.13",
		"10.0.0" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_non_null(knbd_kernel_refused(bad[i]));
		assert_non_null(strstr(knbd_kernel_refused(bad[i]),
		    "--present file"));
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_null(knbd_kernel_refused(good[i]));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_identifier_begins_like_its_instances),
		cmocka_unit_test(
		    test_kernels_that_keep_none_are_refused_with_the_remedy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
