// SPDX-License-Identifier: Apache-2.0
/*
 * Which hosts go past the proxy, and what is said of a proxy.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

struct pair {
	const char *list, *host;
};

static void
test_hosts_on_the_list_go_past_the_proxy(void **state)
{
	static const struct pair pairs[] = {
		{ "example.com", "example.com" },
		{ "example.com", "www.example.com" },
		{ "example.com", "a.b.EXAMPLE.com" },
		{ ".example.com", "www.example.com" },
		{ ".example.com", "example.com" },
		{ "example.com.", "example.com" },
		{ "example.com", "example.com." },
		{ "x,example.com", "example.com" },
		{ " x , example.com ", "example.com" },
		{ "x example.com", "example.com" },
		{ ",,example.com,,", "example.com" },
		{ "*", "anything.at.all" },
		{ "x,*", "10.1.2.3" },
		{ "*", "[2001:db8::1]" },
		{ "10.1.2.3", "10.1.2.3" },
		{ "10.0.0.0/8", "10.255.0.1" },
		{ "10.128.0.0/9", "10.129.0.1" },
		{ "10.1.2.3/32", "10.1.2.3" },
		{ "0.0.0.0/0", "10.1.2.3" },
		{ "2001:db8::/32", "[2001:db8:1::1]" },
		{ "[2001:db8::1]", "[2001:db8:0::1]" },
		{ "2001:db8::1", "2001:db8::1" },
		{ "fd00::/8,10.0.0.0/8", "10.0.0.1" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
		if (!proxy_exempt(pairs[i].list, pairs[i].host))
			fail_msg("%s is not on \"%s\"", pairs[i].host,
			    pairs[i].list);
}

static void
test_all_others_go_by_it(void **state)
{
	static const struct pair pairs[] = {
		{ NULL, "example.com" },
		{ "", "example.com" },
		{ " , ", "example.com" },
		{ ".", "example.com" },
		{ "example.com", "notexample.com" },
		{ "example.com", "example.com.evil" },
		{ "www.example.com", "example.com" },
		{ "com", "comm" },
		{ "*.example.com", "www.example.com" },	/* as curl has it */
		{ "10.1.2.3", "10.1.2.30" },
		{ "10.1.2.3", "110.1.2.3" },
		{ "2.3", "10.1.2.3" },			/* no suffix of these */
		{ "10.0.0.0/8", "11.0.0.1" },
		{ "10.128.0.0/9", "10.127.0.1" },
		{ "10.0.0.0/33", "10.0.0.1" },
		{ "10.0.0.0/", "10.0.0.1" },
		{ "10.0.0.0/-1", "10.0.0.1" },
		{ "10.0.0.0/8x", "10.0.0.1" },
		{ "10.0.0.0/0008", "10.0.0.1" },
		{ "10/8", "10.0.0.1" },
		{ "10.0.0.0/8", "10.0.0.1.example.com" },
		{ "0.0.0.0/0", "[::1]" },
		{ "::/0", "10.0.0.1" },
		{ "2001:db8::/32", "[2001:db9::1]" },
		{ "2001:db8::/129", "[2001:db8::1]" },
		{ "[", "[::1]" },
		{ "example.com", "" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
		if (proxy_exempt(pairs[i].list, pairs[i].host))
			fail_msg("%s is on \"%s\"", pairs[i].host,
			    pairs[i].list);
}

static void
test_a_proxy_is_named_without_its_user(void **state)
{
	static const struct {
		const char *url, *name;
		bool user;
	} cases[] = {
		{ "http://proxy.example:3128", "proxy.example:3128", false },
		{ "https://u:p@proxy.example:3128/", "proxy.example:3128", true },
		{ "http://u:p%40@q@[::1]:1/x@y", "[::1]:1", true },
		{ "socks5h://@h", "h", true },
		{ "http://h/u:p@x", "h", false },
		{ "http://h?u:p@x", "h", false },
	};
	char name[PROXY_NAME_MAX], url[2 * PROXY_NAME_MAX] = "http://";

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		proxy_name(cases[i].url, name);
		assert_string_equal(name, cases[i].name);
		assert_int_equal(proxy_has_user(cases[i].url), cases[i].user);
	}
	memset(url + 7, 'h', sizeof(url) - 8);
	proxy_name(url, name);
	assert_int_equal(strlen(name), PROXY_NAME_MAX - 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hosts_on_the_list_go_past_the_proxy),
		cmocka_unit_test(test_all_others_go_by_it),
		cmocka_unit_test(test_a_proxy_is_named_without_its_user),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
