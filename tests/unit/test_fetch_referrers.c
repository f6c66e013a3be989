// SPDX-License-Identifier: Apache-2.0
/* fetcherd/referrers.c: lists of referrers. */
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

#define TYPE		"a/b"
#define HEX(c)		c c c c c c c c c c c c c c c c
#define DIGEST(c)	"sha256:" HEX(c)
#define ENTRY(c)	"{\"digest\":\"" DIGEST(c) "\",\"artifactType\":\"a/b\"}"
#define LIST(entries)	"{\"schemaVersion\":2,\"manifests\":[" entries "]}"

static int
parse(const char *json, struct referring *out)
{
	return referrers_parse(json, strlen(json), TYPE, out);
}

/* Digests of these letters, in this order. */
static void
want(const char *json, const char *letters)
{
	struct referring list;

	if (parse(json, &list) < 0)
		fail_msg("refused: %s", json);
	assert_int_equal(list.n, strlen(letters));
	for (size_t i = 0; i < list.n; i++) {
		char text[DIGEST_TEXT + 1] = "sha256:";

		memset(text + strlen(text), letters[i], DIGEST_HEX);
		assert_string_equal(digest_to_text(&list.digest[i]).text, text);
	}
}

static void
test_entries_of_the_type_are_taken_in_order(void **state)
{
	(void)state;
	want(LIST(""), "");
	want(LIST(ENTRY("aaaa")), "a");
	want(LIST(ENTRY("cccc") "," ENTRY("aaaa") "," ENTRY("bbbb")), "cab");
	want(LIST(ENTRY("aaaa") "," ENTRY("bbbb") "," ENTRY("aaaa")), "ab");
	want("{\"mediaType\":\"x\",\"manifests\":[{\"size\":7,\"annotations\":"
	    "{},\"digest\":\"" DIGEST("dddd") "\",\"artifactType\":\"a/b\"}],"
	    "\"schemaVersion\":2,\"annotations\":[]}", "d");
}

static void
test_entries_of_other_types_are_passed_over(void **state)
{
	static const char *const types[] = { "", "a", "a/", "a/B", "a/b ",
		"a/bc", "x" };
	char json[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		snprintf(json, sizeof(json), LIST("{\"digest\":\""
		    DIGEST("aaaa") "\",\"artifactType\":\"%s\"}," ENTRY("bbbb")),
		    types[i]);
		want(json, "b");
	}
	want(LIST("{\"digest\":\"" DIGEST("aaaa") "\"}," ENTRY("bbbb")), "b");
	want(LIST("{\"digest\":\"" DIGEST("aaaa") "\",\"mediaType\":\"a/b\"},"
	    ENTRY("bbbb")), "b");
}

/* Nothing but sha256 and 64 lower-case digits is handed on. */
static void
test_other_digests_are_passed_over(void **state)
{
	static const char *const digests[] = { "", "sha256:", "sha256:aaaa",
		"sha512:" HEX("aaaa"), "sha256:" HEX("AAAA"), HEX("aaaa"),
		DIGEST("aaaa") "a", DIGEST("aaaa") " ", DIGEST("aaag"),
		" " DIGEST("aaaa"), DIGEST("aaaa") "/../x" };
	char json[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(digests); i++) {
		snprintf(json, sizeof(json), LIST("{\"digest\":\"%s\","
		    "\"artifactType\":\"a/b\"}," ENTRY("bbbb")), digests[i]);
		want(json, "b");
	}
}

static void
test_what_is_no_such_index_is_refused(void **state)
{
	static const char *const bad[] = { "", " ", "null", "7", "[]", "{}",
		"<html>", LIST("") "x", LIST("") LIST(""),
		"{\"manifests\":[]}",
		"{\"schemaVersion\":1,\"manifests\":[]}",
		"{\"schemaVersion\":\"2\",\"manifests\":[]}",
		"{\"schemaVersion\":2.0,\"manifests\":[]}",
		"{\"schemaVersion\":2}",
		"{\"schemaVersion\":2,\"manifests\":null}",
		"{\"schemaVersion\":2,\"manifests\":{}}",
		"{\"schemaVersion\":2,\"manifests\":[]",
		"{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[]}",
		LIST("null"), LIST("7"), LIST("[]"), LIST("\"x\""), LIST("{}"),
		LIST(ENTRY("aaaa") ",7"),
		LIST("{\"digest\":7}"), LIST("{\"digest\":null}"),
		LIST("{\"artifactType\":\"a/b\"}"),
		LIST("{\"digest\":\"x\",\"artifactType\":7}"),
		LIST("{\"digest\":\"x\",\"artifactType\":null}"),
		LIST("{\"digest\":\"x\",\"artifactType\":[\"a/b\"]}"),
		LIST("{\"digest\":\"\\u0000\"}"), LIST("{\"digest\":\"\xff\"}"),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct referring list = { .n = 99 };

		if (parse(bad[i], &list) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(list.n, 99);	/* written only on success */
	}
}

static char *
many(unsigned n)
{
	char *json = malloc(64 + n * 128), *end = json;

	assert_non_null(json);
	end += sprintf(end, "{\"schemaVersion\":2,\"manifests\":[");
	for (unsigned i = 0; i < n; i++)
		end += sprintf(end, "%s{\"digest\":\"sha256:%064x\","
		    "\"artifactType\":\"a/b\"}", i ? "," : "", i + 1);
	strcpy(end, "]}");
	return json;
}

static void
test_the_first_sixteen_are_kept(void **state)
{
	static const unsigned counts[] = { 15, 16, 17, 1000 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		_cleanup_free_ char *json = many(counts[i]);
		struct referring list;

		assert_int_equal(parse(json, &list), 0);
		assert_int_equal(list.n, counts[i] < 16 ? counts[i] : 16);
		for (size_t k = 0; k < list.n; k++)
			assert_int_equal(list.digest[k].bytes[DIGEST_LEN - 1],
			    k + 1);
	}
	/* what comes behind them is read all the same */
	_cleanup_free_ char *json = many(40);
	struct referring list;

	strcpy(strstr(json, "]}"), ",7]}");
	assert_int_equal(parse(json, &list), -EINVAL);
}

static void
test_its_length_is_bounded(void **state)
{
	static const char text[] = LIST(ENTRY("aaaa"));
	_cleanup_free_ char *json = malloc(REFERRERS_JSON_MAX + 1);
	struct referring list;

	(void)state;
	assert_non_null(json);
	memset(json, ' ', REFERRERS_JSON_MAX + 1);
	memcpy(json, text, strlen(text));
	assert_int_equal(referrers_parse(json, REFERRERS_JSON_MAX, TYPE,
	    &list), 0);
	assert_int_equal(list.n, 1);
	assert_int_equal(referrers_parse(json, REFERRERS_JSON_MAX + 1, TYPE,
	    &list), -EINVAL);
	/* and its depth, which costs stack */
	memset(json, '[', REFERRERS_JSON_MAX);
	assert_int_equal(referrers_parse(json, REFERRERS_JSON_MAX, TYPE,
	    &list), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entries_of_the_type_are_taken_in_order),
		cmocka_unit_test(test_entries_of_other_types_are_passed_over),
		cmocka_unit_test(test_other_digests_are_passed_over),
		cmocka_unit_test(test_what_is_no_such_index_is_refused),
		cmocka_unit_test(test_the_first_sixteen_are_kept),
		cmocka_unit_test(test_its_length_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
