// SPDX-License-Identifier: Apache-2.0
/*
 * Which kernels' ublk is refused.
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
test_kernels_not_known_to_work_are_refused_with_the_remedy(void **state)
{
	static const char *const bad[] = { "6.1.0-50-amd64", "6.8.0-31-generic",
		"6.11.11", "6.13.0", "6.14.5", "6.17.0", "6.18.1", "6.18.40",
		"6.14.6", "6.15.0", "6.16.9", "6.17.1", "6.18.0", "7.1.0",
		"7.1.9", "6.19.3",
		"7.0.14", "7.0", "5.10.0", "0.0.0", "", "linux",
		"6.17.0-5-generic" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		const char *why = ublk_kernel_refused(bad[i]);

		assert_non_null(why);
		assert_non_null(strstr(why, "--present file"));
		assert_non_null(strstr(why, "ublk = force"));
	}
}

static void
test_kernels_that_were_tried_are_not(void **state)
{
	static const char *const good[] = { "6.12.117+deb13-cloud-amd64",
		"6.12.0", "7.2.13+deb14-cloud-amd64", "7.10.1", "8.0" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_null(ublk_kernel_refused(good[i]));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    test_kernels_not_known_to_work_are_refused_with_the_remedy),
		cmocka_unit_test(test_kernels_that_were_tried_are_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
