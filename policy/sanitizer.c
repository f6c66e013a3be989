// SPDX-License-Identifier: Apache-2.0
/*
 * The sanitizer variant (make asan): AddressSanitizer stays, but its leak check
 * wants ptrace, which no process of the suite may call.
 */
const char *__asan_default_options(void);

const char *
__asan_default_options(void)
{
	return "detect_leaks=0";
}
