// SPDX-License-Identifier: Apache-2.0
/* fetcherd/head.c: response heads are taken exactly or not at all. */
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

static void
test_content_range_is_exact(void **state)
{
	static const char *const bad[] = {
		"", "bytes", "bytes ", "bytes */10", "bytes 0-1/*",
		"bytes 0-1", "bytes 0-/2", "bytes -1/2", "bytes 1-0/2",
		"bytes 0-2/2", "bytes 0-1/2 ", "bytes 0-1/2, bytes 0-1/2",
		"bytes=0-1/2", "bits 0-1/2", "bytes 0 -1/2", "bytes +0-1/2",
		"bytes 0-1/18446744073709551616", "bytes 0x0-1/2",
	};
	struct content_range r;

	(void)state;
	assert_int_equal(head_content_range("bytes 5-9/10", &r), 0);
	assert_int_equal(r.first, 5);
	assert_int_equal(r.last, 9);
	assert_int_equal(r.total, 10);
	assert_int_equal(head_content_range("Bytes  0-0/1", &r), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (head_content_range(bad[i], &r) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
}

static void
test_numbers_have_no_trimmings(void **state)
{
	static const char *const bad[] = { "", " 1", "1 ", "-1", "+1", "1.0",
		"0x1", "1, 1", "18446744073709551616" };
	uint64_t n;

	(void)state;
	assert_int_equal(head_number("18446744073709551615", &n), 0);
	assert_true(n == UINT64_MAX);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(head_number(bad[i], &n), -EINVAL);
}

static void
test_retry_after_is_bounded(void **state)
{
	const time_t now = 784111777;	/* Sun, 06 Nov 1994 08:49:37 GMT */
	uint32_t s;

	(void)state;
	assert_int_equal(head_retry_after("120", now, &s), 0);
	assert_int_equal(s, 120);
	assert_int_equal(head_retry_after("99999999999", now, &s), 0);
	assert_int_equal(s, TIME_RETRY_AFTER_MAX_S);
	assert_int_equal(head_retry_after("Sun, 06 Nov 1994 08:50:37 GMT",
	    now, &s), 0);
	assert_int_equal(s, 60);
	assert_int_equal(head_retry_after("Sun, 06 Nov 1994 08:00:00 GMT",
	    now, &s), 0);
	assert_int_equal(s, 0);
	assert_int_equal(head_retry_after("soon", now, &s), -EINVAL);
	assert_int_equal(head_retry_after("-1", now, &s), -EINVAL);
	assert_int_equal(head_retry_after("", now, &s), -EINVAL);
}

static void
want_bearer(const char *text, const char *realm, const char *service,
    const char *scope)
{
	struct challenge c;

	assert_int_equal(head_challenge(text, &c), 0);
	assert_int_equal(c.scheme, CHALLENGE_BEARER);
	assert_string_equal(c.realm, realm);
	assert_string_equal(c.service, service);
	assert_string_equal(c.scope, scope);
}

static void
test_challenges_are_read(void **state)
{
	struct challenge c;

	(void)state;
	want_bearer("Bearer realm=\"https://a/t\",service=\"s\","
	    "scope=\"repository:x:pull\"", "https://a/t", "s",
	    "repository:x:pull");
	want_bearer("bearer REALM = \"r\" , Service=s, error=\"invalid\"",
	    "r", "s", "");
	want_bearer("Basic realm=\"x\", Bearer realm=\"r\"", "r", "", "");
	want_bearer("Bearer realm=\"r\", Basic realm=\"x, y\"", "r", "", "");
	want_bearer("Negotiate, Bearer realm=\"r\"", "r", "", "");
	want_bearer("Negotiate YII+/=, Bearer realm=\"a\\\"b\"", "a\"b", "",
	    "");
	want_bearer(", ,Bearer realm=\"r\",", "r", "", "");
	assert_int_equal(head_challenge("Basic", &c), 0);
	assert_int_equal(c.scheme, CHALLENGE_BASIC);
	assert_int_equal(head_challenge("Basic realm=\"x\", charset=\"UTF-8\"",
	    &c), 0);
	assert_int_equal(c.scheme, CHALLENGE_BASIC);
}

static void
test_challenges_that_are_refused(void **state)
{
	char text[4096] = "Bearer realm=\"";
	struct challenge c;

	(void)state;
	assert_int_equal(head_challenge("", &c), -ENOTSUP);
	assert_int_equal(head_challenge("Negotiate", &c), -ENOTSUP);
	assert_int_equal(head_challenge("Digest realm=\"x\", nonce=\"y\"", &c),
	    -ENOTSUP);
	assert_int_equal(head_challenge("Bearer", &c), -EINVAL);
	assert_int_equal(head_challenge("Bearer realm=\"unclosed", &c),
	    -EINVAL);
	assert_int_equal(head_challenge("Bearer realm=\"x\\", &c), -EINVAL);
	assert_int_equal(head_challenge("Bearer realm=\"x\" y", &c), -EINVAL);
	assert_int_equal(head_challenge("Bearer realm=\"a\nb\"", &c), -EINVAL);
	assert_int_equal(head_challenge("\"Bearer\"", &c), -EINVAL);
	assert_int_equal(head_challenge("Basic@", &c), -EINVAL);
	memset(text + strlen(text), 'x', 3000);
	strcat(text, "\"");
	assert_int_equal(head_challenge(text, &c), -EMSGSIZE);
}

static int
feed(struct head *h, const char *line)
{
	return head_line(h, line, strlen(line));
}

static void
test_heads_are_collected(void **state)
{
	struct head h = { 0 };

	(void)state;
	assert_int_equal(feed(&h, "HTTP/1.1 100 Continue\r\n"), 0);
	assert_int_equal(feed(&h, "Location: early\r\n"), 0);
	assert_int_equal(feed(&h, "\r\n"), 1);
	assert_int_equal(h.status, 100);
	assert_int_equal(feed(&h, "HTTP/2 206 \r\n"), 0);
	assert_int_equal(feed(&h, "content-RANGE: \t bytes 0-1/2 \r\n"), 0);
	assert_int_equal(feed(&h, "WWW-Authenticate: Basic\r\n"), 0);
	assert_int_equal(feed(&h, "WWW-Authenticate: Bearer realm=r\r\n"), 0);
	assert_int_equal(feed(&h, "Content-Rangex: no\r\n"), 0);
	assert_int_equal(feed(&h, "nonsense\r\n"), 0);
	assert_int_equal(feed(&h, "Retry-After:\r\n"), 0);
	assert_int_equal(feed(&h, "\n"), 1);
	assert_int_equal(h.status, 206);
	assert_null(h.field[HEAD_LOCATION]);
	assert_string_equal(h.field[HEAD_CONTENT_RANGE], "bytes 0-1/2");
	assert_string_equal(h.field[HEAD_CHALLENGE],
	    "Basic, Bearer realm=r");
	assert_string_equal(h.field[HEAD_RETRY_AFTER], "");
	head_done(&h);
}

static void
test_what_comes_twice_is_no_number(void **state)
{
	struct head h = { 0 };
	struct content_range r;
	uint64_t n;

	(void)state;
	feed(&h, "HTTP/1.1 206 x");
	feed(&h, "Content-Length: 5");
	feed(&h, "Content-Length: 5");
	feed(&h, "Content-Range: bytes 0-4/5");
	feed(&h, "Content-Range: bytes 0-4/5");
	assert_int_equal(head_number(h.field[HEAD_CONTENT_LENGTH], &n),
	    -EINVAL);
	assert_int_equal(head_content_range(h.field[HEAD_CONTENT_RANGE], &r),
	    -EINVAL);
	head_done(&h);
}

static void
test_a_status_is_three_digits(void **state)
{
	static const char *const bad[] = { "HTTP/1.1", "HTTP/1.1 ",
		"HTTP/1.1 20", "HTTP/1.1 2x0", "HTTP/1.1  200" };
	struct head h = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		feed(&h, bad[i]);
		assert_int_equal(h.status, 0);
	}
	head_done(&h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_content_range_is_exact),
		cmocka_unit_test(test_numbers_have_no_trimmings),
		cmocka_unit_test(test_retry_after_is_bounded),
		cmocka_unit_test(test_challenges_are_read),
		cmocka_unit_test(test_challenges_that_are_refused),
		cmocka_unit_test(test_heads_are_collected),
		cmocka_unit_test(test_what_comes_twice_is_no_number),
		cmocka_unit_test(test_a_status_is_three_digits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
