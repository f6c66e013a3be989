// SPDX-License-Identifier: Apache-2.0
/* fetcherd/secret.c: auth files and token answers. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

static int
read_file(const char *json, const char *host, struct credentials *c)
{
	return secret_auth_file(json, strlen(json), host, c);
}

static void
test_entries_are_found(void **state)
{
	static const char *const files[] = {
		/* base64 of alice:se:cret, of three paddings */
		"{\"auths\":{\"h:5\":{\"auth\":\"YWxpY2U6c2U6Y3JldA==\"}}}",
		"{\"auths\":{\"H:5\":{\"auth\":\"YWxpY2U6c2U6Y3JldA==\"}}}",
		"{\"auths\":{\"https://h:5/v1/\":{\"auth\":\"YWxpY2U6c2U6Y3JldA==\"}}}",
		"{\"auths\":{\"x\":{},\"h:5\":{\"username\":\"alice\",\"password\":\"se:cret\"}},"
		    "\"credsStore\":\"y\"}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		struct credentials c;
		_cleanup_secret_ char *header = NULL;

		assert_int_equal(read_file(files[i], "h:5", &c), 0);
		assert_string_equal(c.user, "alice");
		assert_string_equal(c.password, "se:cret");
		header = secret_basic(&c);
		assert_string_equal(header, "Basic YWxpY2U6c2U6Y3JldA==");
		secret_done(&c);
	}
}

static void
test_docker_hub_has_an_old_name(void **state)
{
	static const char file[] = "{\"auths\":{\"https://index.docker.io/v1/\""
	    ":{\"username\":\"u\",\"password\":\"p\"}}}";
	struct credentials c;

	(void)state;
	assert_int_equal(read_file(file, "docker.io", &c), 0);
	secret_done(&c);
	assert_int_equal(read_file(file, "ghcr.io", &c), -ENOENT);
}

static void
test_what_is_no_password_is_said(void **state)
{
	static const struct {
		const char *file;
		int error;
	} cases[] = {
		{ "", -EINVAL },
		{ "[]", -EINVAL },
		{ "{}", -EINVAL },
		{ "{\"auths\":[]}", -EINVAL },
		{ "{\"auths\":{}}", -ENOENT },
		{ "{\"auths\":{\"g\":{}}}", -ENOENT },
		{ "{\"auths\":{\"h.evil\":{\"auth\":\"YTpi\"}}}", -ENOENT },
		{ "{\"auths\":{\"h\":{}}}", -ENOTSUP },
		{ "{\"auths\":{\"h\":[]}}", -ENOTSUP },
		{ "{\"auths\":{\"h\":{\"auth\":7}}}", -ENOTSUP },
		{ "{\"auths\":{\"h\":{\"auth\":\"YTpi\",\"identitytoken\":\"t\"}}}", -ENOTSUP },
		{ "{\"auths\":{\"h\":{\"username\":\"u\"}}}", -ENOTSUP },
		{ "{\"auths\":{\"h\":{\"auth\":\"YWI=\"}}}", -EINVAL },
		{ "{\"auths\":{\"h\":{\"auth\":\"YTp\"}}}", -EINVAL },
		{ "{\"auths\":{\"h\":{\"auth\":\"!!!!\"}}}", -EINVAL },
		{ "{\"auths\":{\"h\":{\"auth\":\"YQBhOmI=\"}}}", -EINVAL },
		{ "{\"auths\":{\"h\":{\"auth\":\"====\"}}}", -EINVAL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct credentials c;

		if (read_file(cases[i].file, "h", &c) != cases[i].error)
			fail_msg("not refused as it should: %s",
			    cases[i].file);
		assert_null(c.user);
		assert_null(c.password);
		assert_true(c.problem[0] != '\0');
	}
}

static int
read_token(const char *json, char **token, uint32_t *seconds)
{
	return secret_token(json, strlen(json), token, seconds);
}

static void
want_token(const char *json, const char *want, uint32_t want_seconds)
{
	_cleanup_secret_ char *token = NULL;
	uint32_t seconds;

	assert_int_equal(read_token(json, &token, &seconds), 0);
	assert_string_equal(token, want);
	assert_int_equal(seconds, want_seconds);
}

static void
test_tokens_are_read(void **state)
{
	(void)state;
	want_token("{\"token\":\"a.b-c\",\"expires_in\":300}", "a.b-c", 300);
	want_token("{\"access_token\":\"x\"}", "x", TIME_TOKEN_DEFAULT_S);
	want_token("{\"token\":\"\",\"access_token\":\"x\"}", "x",
	    TIME_TOKEN_DEFAULT_S);
	want_token("{\"token\":\"t\",\"expires_in\":1e30}", "t",
	    TIME_TOKEN_MAX_S);
	want_token("{\"token\":\"t\",\"expires_in\":-5}", "t", 0);
	want_token("{\"token\":\"t\",\"expires_in\":\"9\"}", "t",
	    TIME_TOKEN_DEFAULT_S);
}

static void
test_tokens_that_fit_no_header_are_refused(void **state)
{
	static const char *const bad[] = { "", "null", "[]", "{}",
		"{\"token\":7}", "{\"token\":\"\"}", "{\"token\":\"a b\"}",
		"{\"token\":\"a\\r\\nX: y\"}", "{\"token\":\"\\u00e9\"}",
		"{\"token\":\"a\\u0000b\"}", "{\"token\":\"a\"" };
	char *token = NULL, *big;
	uint32_t seconds;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (read_token(bad[i], &token, &seconds) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
	big = calloc(1, TOKEN_MAX + 64);
	strcpy(big, "{\"token\":\"");
	memset(big + strlen(big), 'x', TOKEN_MAX + 1);
	strcat(big, "\"}");
	assert_int_equal(read_token(big, &token, &seconds), -EINVAL);
	free(big);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entries_are_found),
		cmocka_unit_test(test_docker_hub_has_an_old_name),
		cmocka_unit_test(test_what_is_no_password_is_said),
		cmocka_unit_test(test_tokens_are_read),
		cmocka_unit_test(test_tokens_that_fit_no_header_are_refused),
	};

	secret_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
