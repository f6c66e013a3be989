// SPDX-License-Identifier: Apache-2.0
/*
 * OCI manifests and indexes.  The bad ones are files: tests/data/
 * bad-manifest-KIND-*.json, where KIND says which reason is due.  Runs from
 * the top of the checkout.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/own.h"
#include "image/manifest.h"

#define DATA	"tests/data/"
#define BAD	DATA "bad-manifest-"
#define FILE_MAX (1 << 20)

static const struct {
	const char *kind, *why;
} reasons[] = {
	{ "json-", "it is no JSON object" },
	{ "version-", "its schemaVersion is not 2" },
	{ "annotations-", "its annotations are no object" },
	{ "erofs-", "its annotation io.shed.rootfs.erofs.digest is no sha256 "
	    "digest" },
	{ "index-", "its list of manifests is malformed" },
	{ "chunks-", "its annotation io.shed.rootfs.chunks.digest is no sha256 "
	    "digest" },
	{ "subject-", "its subject has no sha256 digest" },
	{ "layers-", "its layers are malformed" },
	{ "twoindexes", "it has two layers that are an index" },
	{ "chunkindex-", "its index has no sha256 digest, or no size of 1 byte "
	    "to 64 MiB" },
};

static char *
load(const char *path, size_t *len)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = NULL;

	if (fd < 0 || fd_read_text(fd, FILE_MAX, &text, len) < 0)
		fail_msg("can't read %s", path);
	return text;
}

static int
parse(const char *text, const char *os, const char *arch, struct manifest *m)
{
	const char *why;

	return manifest_parse(text, strlen(text), os, arch, m, &why);
}

/* All digests in the test's files are one hex digit, 64 times. */
static void
assert_digest(const struct digest *d, char hex)
{
	struct digest_hex got = digest_to_hex(d);

	for (int i = 0; i < DIGEST_HEX; i++)
		assert_int_equal(got.text[i], hex);
}

static void
test_sheds_manifest_names_its_erofs(void **state)
{
	size_t len;
	_cleanup_free_ char *text = load(DATA "manifest-shed.json", &len);
	struct manifest m;

	(void)state;
	assert_int_equal(parse(text, "linux", "amd64", &m), 0);
	assert_int_equal(m.kind, MANIFEST_IMAGE);
	assert_true(m.has_erofs);
	assert_digest(&m.erofs, '5');
	assert_false(m.has_platform);
}

static void
test_an_image_without_erofs_says_so(void **state)
{
	struct manifest m;

	(void)state;
	assert_int_equal(parse("{\"schemaVersion\": 2}", "linux", "amd64", &m),
	    0);
	assert_int_equal(m.kind, MANIFEST_IMAGE);
	assert_false(m.has_erofs);
	/* as some write an empty map */
	assert_int_equal(parse("{\"schemaVersion\": 2, \"annotations\": "
	    "null}", "linux", "amd64", &m), 0);
	assert_false(m.has_erofs);
	assert_int_equal(parse("{\"schemaVersion\": 2, \"annotations\": "
	    "{\"x\": \"y\"}}", "linux", "amd64", &m), 0);
	assert_false(m.has_erofs);
}

static void
test_an_index_gives_the_platform_asked_for(void **state)
{
	static const struct {
		const char *os, *arch;
		char digest;	/* 0: none */
	} asked[] = {
		{ "linux", "amd64", '5' },	/* the first without variant */
		{ "windows", "amd64", '3' },
		{ "linux", "arm64", '1' },	/* the first of the variants */
		{ "linux", "arm", '4' },
		{ "linux", "riscv64", 0 },
		{ "", "", 0 },
	};
	size_t len;
	_cleanup_free_ char *text = load(DATA "manifest-index.json", &len);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
		struct manifest m;

		assert_int_equal(parse(text, asked[i].os, asked[i].arch, &m),
		    0);
		assert_int_equal(m.kind, MANIFEST_INDEX);
		assert_false(m.has_erofs);
		assert_int_equal(m.has_platform, asked[i].digest != 0);
		if (asked[i].digest)
			assert_digest(&m.platform, asked[i].digest);
	}
}

static char *
index_of(const char *first, const char *second)
{
	static const char entry[] = "{\"digest\": \"sha256:%064d\", "
	    "\"platform\": {\"os\": \"linux\", \"architecture\": \"arm64\"%s}}";
	char *text = calloc(1, 1024), a[400], b[400];

	assert_non_null(text);
	snprintf(a, sizeof(a), entry, 1, first);
	snprintf(b, sizeof(b), entry, 2, second);
	snprintf(text, 1024, "{\"schemaVersion\": 2, \"manifests\": [%s, %s]}",
	    a, b);
	return text;
}

static void
test_an_entry_without_variant_is_preferred_in_any_order(void **state)
{
	static const char variant[] = ", \"variant\": \"v8\"";
	_cleanup_free_ char *last = index_of(variant, "");
	_cleanup_free_ char *first = index_of("", variant);
	struct manifest m;

	(void)state;
	assert_int_equal(parse(last, "linux", "arm64", &m), 0);
	assert_int_equal(m.platform.bytes[DIGEST_LEN - 1], 2);
	assert_int_equal(parse(first, "linux", "arm64", &m), 0);
	assert_int_equal(m.platform.bytes[DIGEST_LEN - 1], 1);
}

static void
test_an_empty_index_has_no_platform(void **state)
{
	struct manifest m;

	(void)state;
	assert_int_equal(parse("{\"schemaVersion\": 2, \"manifests\": []}",
	    "linux", "amd64", &m), 0);
	assert_int_equal(m.kind, MANIFEST_INDEX);
	assert_false(m.has_platform);
}

#define SIX "sha256:\
6666666666666666666666666666666666666666666666666666666666666666"
#define FIVE "sha256:\
5555555555555555555555555555555555555555555555555555555555555555"

static void
test_an_image_may_name_its_chunk_index(void **state)
{
	struct manifest m;

	(void)state;
	assert_int_equal(parse("{\"schemaVersion\": 2, \"annotations\": "
	    "{\"" ANNOTATION_CHUNKS "\": \"" SIX "\", "
	    "\"" ANNOTATION_EROFS "\": \"" FIVE "\"}}", "linux", "amd64",
	    &m), 0);
	assert_true(m.has_chunks && m.has_erofs);
	assert_digest(&m.chunks, '6');
	assert_digest(&m.erofs, '5');
	assert_int_equal(parse("{\"schemaVersion\": 2, \"annotations\": "
	    "{\"" ANNOTATION_EROFS "\": \"" FIVE "\"}}", "linux", "amd64",
	    &m), 0);
	assert_false(m.has_chunks);
	assert_int_equal(parse("{\"schemaVersion\": 2, \"annotations\": "
	    "{\"" ANNOTATION_CHUNKS "\": \"" SIX "\"}}", "linux", "amd64",
	    &m), 0);
	assert_true(m.has_chunks);
	assert_false(m.has_erofs);
}

static void
test_an_artifact_names_its_subject_and_its_index(void **state)
{
	size_t len;
	_cleanup_free_ char *text = load(DATA "manifest-artifact.json", &len);
	struct manifest m;

	(void)state;
	assert_int_equal(parse(text, "linux", "amd64", &m), 0);
	assert_int_equal(m.kind, MANIFEST_IMAGE);
	assert_true(m.has_subject && m.has_index);
	assert_digest(&m.subject, '8');
	assert_digest(&m.index, '7');
	assert_int_equal(m.index_size, 983040);
	assert_false(m.has_erofs || m.has_chunks || m.has_platform);
}

/* A manifest with a subject and one layer of an index of a size, if it is an
 * artifact of ours by these members. */
static int
parse_artifact_of(const char *members, const char *size, struct manifest *m)
{
	char text[1024];

	snprintf(text, sizeof(text), "{\"schemaVersion\": 2, %s, "
	    "\"subject\": {\"digest\": \"" SIX "\"}, \"layers\": ["
	    "{\"mediaType\": \"x\", \"digest\": 7}, {\"mediaType\": \""
	    TYPE_INDEX "\", \"digest\": \"" FIVE "\", \"size\": %s}]}",
	    members, size);
	return parse(text, "linux", "amd64", m);
}

static void
test_an_artifact_is_known_by_its_type(void **state)
{
	static const struct {
		const char *members;
		bool ours;
	} all[] = {
		{ "\"artifactType\": \"" TYPE_ARTIFACT "\"", true },
		{ "\"config\": {\"mediaType\": \"" TYPE_ARTIFACT "\"}", true },
		{ "\"artifactType\": \"" TYPE_ARTIFACT "\", "
		    "\"config\": {\"mediaType\": "
		    "\"application/vnd.oci.empty.v1+json\"}", true },
		{ "\"artifactType\": \"" TYPE_INDEX "\"", false },
		{ "\"artifactType\": \"" TYPE_ARTIFACT "x\"", false },
		{ "\"artifactType\": null", false },
		{ "\"config\": \"" TYPE_ARTIFACT "\"", false },
		{ "\"mediaType\": \"" TYPE_ARTIFACT "\"", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct manifest m;

		assert_int_equal(parse_artifact_of(all[i].members, "4096", &m),
		    0);
		assert_int_equal(m.has_subject, all[i].ours);
		assert_int_equal(m.has_index, all[i].ours);
		/* what is no artifact of ours may have any layers */
		assert_int_equal(parse_artifact_of(all[i].members, "\"\"", &m),
		    all[i].ours ? -EINVAL : 0);
	}
}

static void
test_an_index_has_1_byte_to_64_MiB(void **state)
{
	static const char ours[] = "\"artifactType\": \"" TYPE_ARTIFACT "\"";
	struct manifest m;

	(void)state;
	assert_int_equal(parse_artifact_of(ours, "1", &m), 0);
	assert_int_equal(m.index_size, 1);
	assert_int_equal(parse_artifact_of(ours, "67108864", &m), 0);
	assert_int_equal(m.index_size, 64 << 20);
	assert_int_equal(parse_artifact_of(ours, "67108865", &m), -EINVAL);
	assert_int_equal(parse_artifact_of(ours, "4294967297", &m), -EINVAL);
	assert_int_equal(parse_artifact_of(ours, "0", &m), -EINVAL);
	assert_int_equal(parse_artifact_of(ours, "-9223372036854775808", &m),
	    -EINVAL);
}

static void
test_an_artifact_without_subject_or_index_says_so(void **state)
{
	struct manifest m;

	(void)state;
	assert_int_equal(parse("{\"schemaVersion\": 2, \"artifactType\": \""
	    TYPE_ARTIFACT "\"}", "linux", "amd64", &m), 0);
	assert_false(m.has_subject || m.has_index);
	assert_int_equal(parse("{\"schemaVersion\": 2, \"artifactType\": \""
	    TYPE_ARTIFACT "\", \"layers\": []}", "linux", "amd64", &m), 0);
	assert_false(m.has_subject || m.has_index);
}

static const char *
reason_for(const char *path)
{
	const char *kind = path + strlen(BAD);

	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		if (strncmp(kind, reasons[i].kind, strlen(reasons[i].kind)) ==
		    0)
			return reasons[i].why;
	fail_msg("%s is of no known kind", path);
	return NULL;
}

static void
test_each_bad_manifest_is_refused_with_its_reason(void **state)
{
	glob_t files;

	(void)state;
	assert_int_equal(glob(BAD "*", 0, NULL, &files), 0);
	assert_true(files.gl_pathc >= 53);
	for (size_t i = 0; i < files.gl_pathc; i++) {
		const char *path = files.gl_pathv[i], *why = NULL;
		struct manifest m = { .kind = 99 };
		size_t len;
		_cleanup_free_ char *text = load(path, &len);

		if (manifest_parse(text, len, "linux", "amd64", &m, &why) !=
		    -EINVAL)
			fail_msg("accepted %s", path);
		if (strcmp(why, reason_for(path)) != 0)
			fail_msg("%s: %s", path, why);
		assert_int_equal(m.kind, 99);
	}
	globfree(&files);
}

static void
test_every_beginning_of_a_manifest_is_refused(void **state)
{
	size_t len, end;
	_cleanup_free_ char *text = load(DATA "manifest-shed.json", &len);

	(void)state;
	for (end = len; text[end - 1] != '}'; end--)
		;
	for (size_t cut = 0; cut < end; cut++) {
		/* in a block of its own size, for the sanitizer */
		_cleanup_free_ char *head = malloc(cut + 1);
		struct manifest m;
		const char *why;

		memcpy(head, text, cut);
		assert_int_equal(manifest_parse(head, cut, "linux", "amd64",
		    &m, &why), -EINVAL);
	}
}

static void
test_a_manifest_past_the_limit_is_refused(void **state)
{
	static const char tail[] = "{\"schemaVersion\": 2}";
	static char text[MANIFEST_MAX + 1];
	struct manifest m;
	const char *why;

	(void)state;
	memset(text, ' ', sizeof(text));
	memcpy(text, tail, strlen(tail));
	assert_int_equal(manifest_parse(text, MANIFEST_MAX, "linux", "amd64",
	    &m, &why), 0);
	assert_int_equal(manifest_parse(text, MANIFEST_MAX + 1, "linux",
	    "amd64", &m, &why), -EINVAL);
	assert_string_equal(why, "it is longer than 256 KiB");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sheds_manifest_names_its_erofs),
		cmocka_unit_test(test_an_image_without_erofs_says_so),
		cmocka_unit_test(test_an_index_gives_the_platform_asked_for),
		cmocka_unit_test(
		    test_an_entry_without_variant_is_preferred_in_any_order),
		cmocka_unit_test(test_an_empty_index_has_no_platform),
		cmocka_unit_test(test_an_image_may_name_its_chunk_index),
		cmocka_unit_test(
		    test_an_artifact_names_its_subject_and_its_index),
		cmocka_unit_test(test_an_artifact_is_known_by_its_type),
		cmocka_unit_test(test_an_index_has_1_byte_to_64_MiB),
		cmocka_unit_test(
		    test_an_artifact_without_subject_or_index_says_so),
		cmocka_unit_test(
		    test_each_bad_manifest_is_refused_with_its_reason),
		cmocka_unit_test(test_every_beginning_of_a_manifest_is_refused),
		cmocka_unit_test(test_a_manifest_past_the_limit_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
