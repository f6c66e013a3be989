// SPDX-License-Identifier: Apache-2.0
/* fetcherd/guard.c and the URL half of redirect.c: where a registry may not
 * lead. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

static const struct {
	const char *address;
	enum address_class class;
} addresses[] = {
	{ "8.8.8.8", ADDRESS_PUBLIC }, { "1.0.0.0", ADDRESS_PUBLIC },
	{ "172.15.255.255", ADDRESS_PUBLIC }, { "172.32.0.0", ADDRESS_PUBLIC },
	{ "100.63.255.255", ADDRESS_PUBLIC }, { "100.128.0.0", ADDRESS_PUBLIC },
	{ "192.167.255.255", ADDRESS_PUBLIC }, { "223.255.255.255", ADDRESS_PUBLIC },
	{ "127.0.0.1", ADDRESS_LOOPBACK }, { "127.255.255.254", ADDRESS_LOOPBACK },
	{ "10.0.0.1", ADDRESS_PRIVATE }, { "172.16.0.0", ADDRESS_PRIVATE },
	{ "172.31.255.255", ADDRESS_PRIVATE }, { "192.168.1.1", ADDRESS_PRIVATE },
	{ "100.64.0.1", ADDRESS_PRIVATE }, { "100.127.255.255", ADDRESS_PRIVATE },
	{ "198.18.0.1", ADDRESS_PRIVATE },
	{ "169.254.169.254", ADDRESS_LINK_LOCAL },
	{ "0.0.0.0", ADDRESS_NEVER }, { "0.1.2.3", ADDRESS_NEVER },
	{ "224.0.0.1", ADDRESS_NEVER }, { "255.255.255.255", ADDRESS_NEVER },
	{ "192.0.2.1", ADDRESS_NEVER }, { "203.0.113.9", ADDRESS_NEVER },
	{ "2606:4700::1111", ADDRESS_PUBLIC }, { "2a00::1", ADDRESS_PUBLIC },
	{ "::1", ADDRESS_LOOPBACK }, { "[::1]", ADDRESS_LOOPBACK },
	{ "::", ADDRESS_NEVER },
	{ "fd00::1", ADDRESS_PRIVATE }, { "fc00::1", ADDRESS_PRIVATE },
	{ "fec0::1", ADDRESS_PRIVATE },
	{ "fe80::1", ADDRESS_LINK_LOCAL }, { "fe80::1%eth0", ADDRESS_LINK_LOCAL },
	{ "ff02::1", ADDRESS_NEVER }, { "2001:db8::1", ADDRESS_NEVER },
	{ "2001::1", ADDRESS_NEVER }, { "4000::1", ADDRESS_NEVER },
	{ "::ffff:127.0.0.1", ADDRESS_LOOPBACK },
	{ "::ffff:10.1.2.3", ADDRESS_PRIVATE },
	{ "::ffff:8.8.8.8", ADDRESS_PUBLIC },
	{ "::ffff:169.254.169.254", ADDRESS_LINK_LOCAL },
	{ "::127.0.0.1", ADDRESS_LOOPBACK },
	{ "64:ff9b::10.0.0.1", ADDRESS_PRIVATE },
	{ "64:ff9b::8.8.8.8", ADDRESS_PUBLIC },
	{ "64:ff9b:1::1", ADDRESS_PRIVATE },
	{ "2002:7f00:1::1", ADDRESS_LOOPBACK },
	{ "2002:0808:0808::1", ADDRESS_PUBLIC },
};

static void
test_addresses_have_classes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
		enum address_class class;

		assert_int_equal(guard_text(addresses[i].address, &class), 0);
		if (class != addresses[i].class)
			fail_msg("%s is %s, wanted %s", addresses[i].address,
			    guard_name(class), guard_name(addresses[i].class));
	}
}

static void
test_names_are_no_addresses(void **state)
{
	static const char *const names[] = { "", "localhost", "10", "10.1",
		"0x7f.0.0.1", "127.0.0.1.", "::g", "[]", "1.2.3.4.5",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb" };
	enum address_class class;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_int_equal(guard_text(names[i], &class), -EINVAL);
}

static void
test_only_public_or_alike(void **state)
{
	const struct guard public = { false, ADDRESS_PUBLIC };
	const struct guard private = { false, ADDRESS_PRIVATE };
	const struct guard own = { true, ADDRESS_PUBLIC };
	const struct guard worst = { true, ADDRESS_NEVER };

	(void)state;
	assert_true(guard_allows(&public, ADDRESS_PUBLIC));
	assert_false(guard_allows(&public, ADDRESS_PRIVATE));
	assert_false(guard_allows(&public, ADDRESS_LOOPBACK));
	assert_false(guard_allows(&public, ADDRESS_LINK_LOCAL));
	assert_true(guard_allows(&private, ADDRESS_PRIVATE));
	assert_true(guard_allows(&private, ADDRESS_PUBLIC));
	assert_false(guard_allows(&private, ADDRESS_LOOPBACK));
	assert_true(guard_allows(&own, ADDRESS_LOOPBACK));
	assert_false(guard_allows(&own, ADDRESS_NEVER));
	assert_false(guard_allows(&worst, ADDRESS_NEVER));
}

static void
test_loopback_hosts(void **state)
{
	(void)state;
	assert_true(guard_loopback_host("localhost"));
	assert_true(guard_loopback_host("LocalHost"));
	assert_true(guard_loopback_host("a.localhost"));
	assert_true(guard_loopback_host("127.0.0.9"));
	assert_true(guard_loopback_host("[::1]"));
	assert_false(guard_loopback_host("localhost.example.com"));
	assert_false(guard_loopback_host("notlocalhost"));
	assert_false(guard_loopback_host("10.0.0.1"));
	/* which a resolver looks up in the DNS */
	assert_false(guard_loopback_host("localhost."));
	assert_false(guard_loopback_host("127.0.0.1."));
	assert_false(guard_loopback_host(""));
}

static void
test_hosts_say_what_they_are(void **state)
{
	static const struct {
		const char *host;
		enum address_class class;
	} cases[] = {
		{ "example.com", ADDRESS_PUBLIC },
		{ "example.com.", ADDRESS_PUBLIC },
		{ "10.example.com", ADDRESS_PUBLIC },
		{ "8.8.8.8.", ADDRESS_PUBLIC },
		{ "localhost.com.", ADDRESS_PUBLIC },
		{ "localhost", ADDRESS_LOOPBACK },
		{ "localhost.", ADDRESS_LOOPBACK },
		{ "LocalHost..", ADDRESS_LOOPBACK },
		{ "a.localhost.", ADDRESS_LOOPBACK },
		{ "127.0.0.1.", ADDRESS_LOOPBACK },
		{ "127.1", ADDRESS_LOOPBACK },
		{ "0x7f.1.", ADDRESS_LOOPBACK },
		{ "2130706433", ADDRESS_LOOPBACK },
		{ "017700000001", ADDRESS_LOOPBACK },
		{ "10.0.0.1.", ADDRESS_PRIVATE },
		{ "10.1", ADDRESS_PRIVATE },
		{ "0xa9fea9fe", ADDRESS_LINK_LOCAL },
		{ "169.254.169.254..", ADDRESS_LINK_LOCAL },
		{ "[fd00::1]", ADDRESS_PRIVATE },
		{ "[::ffff:127.0.0.1]", ADDRESS_LOOPBACK },
		{ "0", ADDRESS_NEVER },
		{ ".", ADDRESS_NEVER },
	};
	char longest[HOST_MAX + 2] = "";

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (guard_host(cases[i].host) != cases[i].class)
			fail_msg("%s is %s", cases[i].host,
			    guard_name(guard_host(cases[i].host)));
	memset(longest, 'x', HOST_MAX + 1);
	assert_int_equal(guard_host(longest), ADDRESS_NEVER);
}

static void
test_origins(void **state)
{
	static const char *const bad[] = { "", "x", "ftp://h/", "file:///etc",
		"http://u@h/", "http://u:p@h/", "http://:p@h/", "http://h:0/",
		"http://h:65536/", "http://", "http://h h/", "//h/",
		"http://h_%0a/", "gopher://h/", "http://%6c%0dh/" };
	struct origin a, b;

	(void)state;
	assert_int_equal(redirect_origin("https://Host.example/x?y", &a), 0);
	assert_string_equal(a.scheme, "https");
	assert_int_equal(a.port, 443);
	assert_int_equal(redirect_origin("HTTPS://host.EXAMPLE:443", &b), 0);
	assert_true(redirect_same(&a, &b));
	assert_int_equal(redirect_origin("https://host.example:444/", &b), 0);
	assert_false(redirect_same(&a, &b));
	assert_int_equal(redirect_origin("http://host.example:443/", &b), 0);
	assert_false(redirect_same(&a, &b));
	assert_int_equal(redirect_origin("https://host.example.evil/", &b), 0);
	assert_false(redirect_same(&a, &b));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (redirect_origin(bad[i], &a) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
}

static void
test_locations_are_resolved(void **state)
{
	static const char *const base = "https://h:1/v2/r/blobs/d?q=1";
	static const char *const cases[][2] = {
		{ "/x", "https://h:1/x" },
		{ "y?z", "https://h:1/v2/r/blobs/y?z" },
		{ "../y", "https://h:1/v2/r/y" },
		{ "//other/x", "https://other/x" },
		{ "http://other:2/x#part", "http://other:2/x" },
		{ "?z", "https://h:1/v2/r/blobs/d?z" },
		{ "https://0x7f.1/", "https://127.0.0.1/" },
	};
	static const char *const bad[] = { "ftp://h/", "file:///etc/passwd",
		"http://u:p@h/", "javascript:alert(1)", "http://", "http://[::1" };
	char *long_one;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		_cleanup_free_ char *url = NULL;

		assert_int_equal(redirect_resolve(base, cases[i][0], &url), 0);
		assert_string_equal(url, cases[i][1]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char *url;

		if (redirect_resolve(base, bad[i], &url) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
	}
	long_one = calloc(1, URL_MAX + 2);
	memset(long_one, 'x', URL_MAX + 1);
	assert_int_equal(redirect_resolve(base, long_one, &long_one), -EINVAL);
	free(long_one);
}

static void
test_targets_are_remembered_within_bounds(void **state)
{
	struct site site = { .id = 1 };
	struct site other = { .id = 2 };
	char repo[32];

	(void)state;
	redirect_remember(&site, "r", "d", "http://x/1");
	redirect_remember(&site, "r", "d", "http://x/2");
	assert_string_equal(redirect_recall(&site, "r", "d"), "http://x/2");
	assert_null(redirect_recall(&other, "r", "d"));
	assert_null(redirect_recall(&site, "r2", "d"));
	assert_null(redirect_recall(&site, "r", "d2"));
	redirect_forget(&site, "r", "d");
	redirect_forget(&site, "r", "d");
	assert_null(redirect_recall(&site, "r", "d"));
	for (unsigned i = 0; i < TARGETS_MAX + 1; i++) {
		snprintf(repo, sizeof(repo), "r%u", i);
		redirect_remember(&site, repo, "d", "http://x/");
	}
	assert_null(redirect_recall(&site, "r0", "d"));
	for (unsigned i = 1; i < TARGETS_MAX + 1; i++) {
		snprintf(repo, sizeof(repo), "r%u", i);
		assert_non_null(redirect_recall(&site, repo, "d"));
		redirect_forget(&site, repo, "d");
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses_have_classes),
		cmocka_unit_test(test_names_are_no_addresses),
		cmocka_unit_test(test_only_public_or_alike),
		cmocka_unit_test(test_loopback_hosts),
		cmocka_unit_test(test_hosts_say_what_they_are),
		cmocka_unit_test(test_origins),
		cmocka_unit_test(test_locations_are_resolved),
		cmocka_unit_test(test_targets_are_remembered_within_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
