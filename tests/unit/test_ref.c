// SPDX-License-Identifier: Apache-2.0
/*
 * Names of images: what each good one means, and hostile ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "image/ref.h"

#define HEX "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define SHA "sha256:" HEX

/* With SHA as its digest where tag is NULL. */
static const struct {
	const char *text, *host, *repo, *tag;
} good[] = {
	{ "ghcr.io/shed/base", "ghcr.io", "shed/base", "latest" },
	{ "ghcr.io/shed/base:v1", "ghcr.io", "shed/base", "v1" },
	{ "ghcr.io/shed/base@" SHA, "ghcr.io", "shed/base", NULL },
	/* a digest decides; a tag before it is only checked */
	{ "ghcr.io/shed/base:v1@" SHA, "ghcr.io", "shed/base", NULL },
	{ SHA, "", "", NULL },
	{ "localhost/x", "localhost", "x", "latest" },
	{ "localhost:5000/x:1", "localhost:5000", "x", "1" },
	{ "127.0.0.1:5000/a/b/c:T_.-9", "127.0.0.1:5000", "a/b/c", "T_.-9" },
	{ "host:65535/x", "host:65535", "x", "latest" },
	{ "[::1]/x", "[::1]", "x", "latest" },
	{ "[fe80::1]:5000/x:y", "[fe80::1]:5000", "x", "y" },
	{ "[::ffff:1.2.3.4]:1/x", "[::ffff:1.2.3.4]:1", "x", "latest" },
	{ "GHCR.io/x", "GHCR.io", "x", "latest" },
	{ "a-b.example/x_y/1.2-3__z:v", "a-b.example", "x_y/1.2-3__z", "v" },
	{ "h.x/sha256:tag", "h.x", "sha256", "tag" },
};

static const char *const bad[] = {
	"", "/", ":", "@", "x", "x:y", "//", "h.x", "h.x/", "/x", "h.x//x",
	"h.x/x/", "h.x/x//y", "h.x//", "shed/base", "shed/base:v1",
	"library/x@" SHA,
	/* schemes, users, queries */
	"http://h.x/x", "https://h.x/x", "user@h.x/x", "user:pw@h.x/x",
	"h.x/x?y", "h.x/x#y", "h.x/x&y", "h.x/x%2fy", "h.x\\x/y",
	/* ways out */
	"h.x/../y", "h.x/x/../y", "h.x/.", "h.x/..", "h.x/./x", "h.x/x/.",
	"h.x/.x", "h.x/x.", "h.x/-x", "h.x/x-", "h.x/_x", "h.x/x_", "h.x/a..b",
	"../y", "a..b/x", ".h.x/y", "h.x./y", "-h.x/y", "h.x-/y", ".-./y",
	"../h.x/y", "./x", "/etc/passwd", "h.x/x/..:v1",
	/* blanks, control characters, quotes, other scripts */
	" h.x/x", "h.x/x ", "h.x /x", "h.x/ x", "h.x/x:v 1", "h.x/x\n",
	"h.x\r\nHost: y/x", "h.x/x:v\r\nX: y", "h.x/x\t", "h.x/\x1b[2J",
	"h.x/x:\x7f", "h.x/'x'", "h.x/\"x\"", "h.x/$(x)", "h.x/`x`", "h.x/x;y",
	"h.x/x|y", "h\xc3\xa4.x/x", "h.x/\xc3\xa4", "h.x/x:\xff",
	"\xe2\x80\xae.x/x",
	/* upper case in a repository */
	"h.x/X", "h.x/x/Yz",
	/* hosts and ports */
	"h.x:/x", "h.x:0x10/x", "h.x:65536/x", "h.x:99999/x", "h.x:123456/x",
	"h.x:4294967297/x", "h.x:-1/x", "h.x:+1/x", "h.x: 1/x", "h.x:1:2/x",
	":5000/x", "h_x.y/x", "h*.y/x", "::1/x", "[::1/x", "[]/x", "[]:1/x",
	"[::1]:/x", "[::1]5/x", "[::1]:65536/x", "[::g]/x", "[::1%eth0]/x",
	"[::1]x/y", "[[::1]]/x", "[1]/x",
	"[c..:a]:00/x", "[1.2.3.4]/x", "[::1::]/x", "[1:2:3:4:5:6:7:8:9]/x",
	/* tags */
	"h.x/x:", "h.x/x:a:b", "h.x/x:.a", "h.x/x:-a", "h.x/x:a/b", "h.x/x:a@",
	"h.x/x:+", "h.x/x:..",
	/* digests */
	"sha256:", "sha256:x", "sha256:" HEX "0", "sha512:" HEX, HEX,
	"h.x/x@", "h.x/x@v1", "h.x/x@sha256:", "h.x/x@" HEX, "h.x/x@" SHA "0",
	"h.x/x@" SHA "@" SHA, "h.x/x@" SHA ":v1", "h.x/@" SHA, "@" SHA,
	"h.x/x@sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F"
	    "20015AD",
	SHA "@" SHA, SHA "/x", SHA " ", " " SHA,
	/* a tag is checked although a digest decides */
	"h.x/x:@" SHA, "h.x/x:v 1@" SHA, "h.x/x:\n\x1b[2J@" SHA,
	"h.x/x:a/b@" SHA, "h.x/x:a:b@" SHA, "h.x/x:.a@" SHA,
};

static void
test_good_names_mean_what_they_say(void **state)
{
	struct digest sha;

	(void)state;
	assert_int_equal(digest_parse(SHA, &sha), 0);
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct image_ref ref;
		const char *why;

		if (image_ref_parse(good[i].text, &ref, &why) != 0)
			fail_msg("refused %s: %s", good[i].text, why);
		assert_string_equal(ref.host, good[i].host);
		assert_string_equal(ref.repo, good[i].repo);
		assert_string_equal(ref.tag, good[i].tag ? good[i].tag : "");
		assert_int_equal(ref.has_digest, !good[i].tag);
		if (!good[i].tag)
			assert_true(digest_equal(&ref.digest, &sha));
	}
}

static void
test_bad_names_are_refused_with_a_reason(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct image_ref ref = { .host = "untouched" };
		const char *why = NULL;

		if (image_ref_parse(bad[i], &ref, &why) != -EINVAL)
			fail_msg("accepted number %zu: %s", i, bad[i]);
		assert_non_null(why);
		assert_string_equal(ref.host, "untouched");
	}
}

/* Wherever a byte that no name has is put into a good one, it is refused. */
static void
test_no_foreign_byte_passes_anywhere(void **state)
{
	static const char foreign[] = " \n\r\t\x1b\x7f\x80\xff\\\"'`$;|&<>"
	    "%?#*()~^";

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		size_t len = strlen(good[i].text);

		for (size_t at = 0; at <= len; at++)
			for (const char *f = foreign; *f; f++) {
				_cleanup_free_ char *text = malloc(len + 2);
				struct image_ref ref;
				const char *why;

				memcpy(text, good[i].text, at);
				text[at] = *f;
				memcpy(text + at + 1, good[i].text + at,
				    len - at + 1);
				if (image_ref_parse(text, &ref, &why) == 0)
					fail_msg("accepted %s", text);
			}
	}
}

/* n times c between two texts; caller frees. */
static char *
filled(const char *before, char c, size_t n, const char *behind)
{
	char *text = malloc(strlen(before) + n + strlen(behind) + 1);

	assert_non_null(text);
	strcpy(text, before);
	memset(text + strlen(before), c, n);
	strcpy(text + strlen(before) + n, behind);
	return text;
}

static int
parse(char *text_taken)
{
	_cleanup_free_ char *text = text_taken;
	struct image_ref ref;
	const char *why;

	return image_ref_parse(text, &ref, &why);
}

static void
test_each_part_has_its_limit(void **state)
{
	(void)state;
	assert_int_equal(parse(filled("", 'h', REF_HOST_MAX - 2, ".x/x")), 0);
	assert_int_equal(parse(filled("", 'h', REF_HOST_MAX - 1, ".x/x")),
	    -EINVAL);
	assert_int_equal(parse(filled("h.x/", 'r', REF_REPO_MAX, ":t")), 0);
	assert_int_equal(parse(filled("h.x/", 'r', REF_REPO_MAX + 1, ":t")),
	    -EINVAL);
	assert_int_equal(parse(filled("h.x/x:", 't', REF_TAG_MAX, "")), 0);
	assert_int_equal(parse(filled("h.x/x:", 't', REF_TAG_MAX + 1, "")),
	    -EINVAL);
	assert_int_equal(parse(filled("h.x/x:", 't', REF_TAG_MAX, "@" SHA)), 0);
	assert_int_equal(parse(filled("h.x/x:", 't', REF_TAG_MAX + 1,
	    "@" SHA)), -EINVAL);
	assert_int_equal(parse(filled("h.x/", '/', 1 << 20, "x")), -EINVAL);
	assert_int_equal(parse(filled("h.x:", '9', 1 << 20, "/x")), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_names_mean_what_they_say),
		cmocka_unit_test(test_bad_names_are_refused_with_a_reason),
		cmocka_unit_test(test_no_foreign_byte_passes_anywhere),
		cmocka_unit_test(test_each_part_has_its_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
