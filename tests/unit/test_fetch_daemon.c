// SPDX-License-Identifier: Apache-2.0
/*
 * What cached may ask of fetcherd, and how it is answered.  Each way of
 * answering wrongly happens once, must end in a clear failure, and once the
 * registry is put right the right bytes must come.
 */
#define _GNU_SOURCE
#include "test_fetch_log.h"

/* ---- what goes well ---- */

static void
test_resolve_gives_the_manifest(void **state)
{
	struct answer *a = ask_resolve(plain.host, REPO, "v1");

	(void)state;
	want_ok(a);
	assert_string_equal(a->digest, plain.manifest);
	assert_string_equal(a->media_type,
	    "application/vnd.oci.image.manifest.v1+json");
	assert_int_equal(a->requests, 1);
	assert_int_equal(a->body_bytes, a->manifest_len);
	a = ask_resolve(plain.host, REPO, plain.manifest);
	want_ok(a);
	assert_string_equal(a->digest, plain.manifest);
}

static void
test_stat_gives_the_size(void **state)
{
	struct answer *a = ask_stat(&plain);

	(void)state;
	want_ok(a);
	assert_int_equal(a->size, BLOB_SIZE);
	assert_true(a->range_ok);
	tell(&plain, "fault?blob=full");
	a = ask_stat(&plain);
	want_ok(a);
	assert_int_equal(a->size, BLOB_SIZE);
	assert_false(a->range_ok);
	tell(&plain, "heal");
}

static void
test_fetch_gives_any_range_in_units(void **state)
{
	static const uint64_t ranges[][2] = {
		{ 0, UNIT }, { UNIT, 3 * UNIT }, { 5 * UNIT + 4096, 8192 },
		{ 100, 2 * UNIT }, { 0, BLOB_SIZE }, { BLOB_SIZE - 1, 1 },
		{ BLOB_SIZE / UNIT * UNIT, BLOB_SIZE % UNIT },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		want_range(&plain, ranges[i][0], ranges[i][1]);
}

static void
test_plain_fetch_gives_all(void **state)
{
	struct answer *a = ask_fetch(&plain, 0, BLOB_SIZE, true);

	(void)state;
	want_ok(a);
	assert_int_equal(a->got, BLOB_SIZE);
	assert_int_equal(a->status, 200);
	tell(&plain, "fault?blob=no-length");
	a = ask_fetch(&plain, 0, BLOB_SIZE, true);
	want_ok(a);
	assert_int_equal(a->got, BLOB_SIZE);
	tell(&plain, "heal");
}

static void
test_many_at_once(void **state)
{
	struct answer *a[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask_fetch(&plain, i % 40 * UNIT, UNIT, false);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		assert_int_equal(a[i]->got, UNIT);
	}
}

/* ---- what goes wrong ---- */

struct wrong {
	const char *fault;	/* as registry.py is told */
	enum op op;
	int code;
	bool retry;
	unsigned status, retry_after;
};

static const struct wrong wrongs[] = {
	{ "blob=full", OP_FETCH, CODE(RANGE_UNSUPPORTED), false, 200, 0 },
	{ "blob=short", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=short", OP_PLAIN, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "blob=short-honest", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=short-honest", OP_PLAIN, CODE(SIZE_CHANGED), false, 200, 0 },
	{ "blob=range", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=range", OP_STAT, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=total", OP_FETCH, CODE(SIZE_CHANGED), false, 206, 0 },
	{ "blob=extra", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=extra-chunked", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=extra-chunked", OP_PLAIN, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "blob=encoded", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "blob=status:404", OP_FETCH, CODE(BLOB_ABSENT), false, 404, 0 },
	{ "blob=status:404", OP_STAT, CODE(BLOB_ABSENT), false, 404, 0 },
	{ "blob=status:403", OP_FETCH, CODE(AUTH_DENIED), false, 403, 0 },
	{ "blob=status:416", OP_FETCH, CODE(SIZE_CHANGED), false, 416, 0 },
	{ "blob=retry:7", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 429, 7 },
	{ "blob=retry:999999", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 429, 3600 },
	{ "blob=status:500", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 500, 0 },
	{ "blob=status:503", OP_STAT, CODE(REGISTRY_UNREACHABLE), true, 503, 0 },
	{ "blob=status:304", OP_FETCH, CODE(REGISTRY_UNREACHABLE), false, 304, 0 },
	{ "blob=close", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=garbage", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=long-head", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=loop", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=chain", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=private", OP_FETCH, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "blob=link-local", OP_STAT, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "blob=mapped", OP_FETCH, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "blob=user", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=file", OP_FETCH, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "blob=redirect:0", OP_FETCH, CODE(AUTH_DENIED), true, 403, 0 },
	{ "manifest=status:404", OP_RESOLVE, CODE(BLOB_ABSENT), false, 404, 0 },
	{ "manifest=status:502", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 502, 0 },
	{ "manifest=retry:2", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 429, 2 },
	{ "manifest=short", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "manifest=huge", OP_RESOLVE, CODE(UNSUPPORTED), false, 200, 0 },
	{ "manifest=encoded", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "manifest=loop", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "manifest=private", OP_RESOLVE, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "manifest=unauthorized", OP_RESOLVE, CODE(AUTH_DENIED), false, 401, 0 },
	{ "referrers=status:403", OP_REFERRERS, CODE(AUTH_DENIED), false, 403, 0 },
	{ "referrers=status:500", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 500, 0 },
	{ "referrers=retry:3", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 429, 3 },
	{ "referrers=short", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "referrers=short-honest", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "referrers=huge", OP_REFERRERS, CODE(UNSUPPORTED), false, 200, 0 },
	{ "referrers=huge-chunked", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "referrers=encoded", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 200, 0 },
	{ "referrers=part", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 206, 0 },
	{ "referrers=close", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "referrers=garbage", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "referrers=loop", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 0, 0 },
	{ "referrers=private", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
	{ "referrers=redirect:0", OP_REFERRERS, CODE(AUTH_DENIED), true, 403, 0 },
	{ "referrers=unauthorized", OP_REFERRERS, CODE(AUTH_DENIED), false, 401, 0 },
	{ "referrers=status:404&manifest=status:403", OP_REFERRERS, CODE(AUTH_DENIED), false, 403, 0 },
	{ "referrers=status:404&manifest=retry:5", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), true, 429, 5 },
	{ "referrers=status:404&manifest=private", OP_REFERRERS, CODE(REGISTRY_UNREACHABLE), false, 0, 0 },
};

static void
test_each_wrong_answer_is_a_clear_failure(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrongs); i++) {
		const struct wrong *w = &wrongs[i];
		char path[128];
		struct answer *a;

		print_message("   %s, %d\n", w->fault, (int)w->op);
		snprintf(path, sizeof(path), "fault?%s", w->fault);
		tell(&plain, path);
		a = ask(&plain, w->op);
		want_failure(a, w->code, w->retry);
		if (w->status > 0)
			assert_int_equal(a->status, w->status);
		assert_int_equal(a->retry_after, w->retry_after);
		tell(&plain, "heal");
		want_well(&plain);
	}
}

static void
test_silence_is_a_timeout(void **state)
{
	static const uint32_t quarters[] = { UNIT, UNIT, UNIT, UNIT };
	struct answer *a[5];
	time_t start = time(NULL);

	(void)state;
	tell(&plain, "fault?blob=hang&manifest=hang-head&referrers=hang-head");
	a[0] = ask(&plain, OP_FETCH);
	a[1] = ask(&plain, OP_RESOLVE);
	a[2] = ask(&plain, OP_PLAIN);
	a[3] = ask(&plain, OP_REFERRERS);
	a[4] = ask_pieces(&plain, 0, 4 * UNIT, false, 0, quarters,
	    ARRAY_LEN(quarters));
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		want_failure(a[i], CODE(TIMEOUT), true);
	assert_true(time(NULL) - start >= 7 && time(NULL) - start <= 12);
	/* what came before was handed on, as far as it was whole */
	assert_true(a[0]->got > 0);
	assert_int_equal(a[4]->got, 2 * UNIT);
	tell(&plain, "heal");
	want_well(&plain);
}

static void
test_nobody_there(void **state)
{
	struct answer *a = ask_resolve("127.0.0.1:1", REPO, "v1");

	(void)state;
	want_failure(a, CODE(REGISTRY_UNREACHABLE), true);
	assert_int_equal(a->requests, 0);
}

/* Names are looked up inside the sandbox, in a thread of curl's. */
static void
test_a_name_is_looked_up(void **state)
{
	struct addrinfo *list;
	char name[HOST_NAME_MAX + 1] = "", host[HOST_NAME_MAX + 16];
	struct answer *a;

	(void)state;
	a = ask_resolve("nosuchname.invalid", REPO, "v1");
	wait_for(a);
	assert_int_equal(a->code, CODE(REGISTRY_UNREACHABLE));
	assert_true(a->retry);
	if (gethostname(name, sizeof(name)) < 0 ||
	    getaddrinfo(name, NULL, NULL, &list) != 0)
		skip();		/* this host has no name of its own */
	freeaddrinfo(list);
	snprintf(host, sizeof(host), "%s:1", name);
	a = ask_resolve(host, REPO, "v1");
	wait_for(a);
	print_message("      %s\n", a->text);
	assert_int_equal(a->code, CODE(REGISTRY_UNREACHABLE));
	assert_non_null(strstr(a->text, "accept"));
}

static void
test_names_that_are_none(void **state)
{
	static const char *const names[][3] = {
		{ "127.0.0.1", "test/base/../x", "v1" },
		{ "127.0.0.1", "test/base?x", "v1" },
		{ "127.0.0.1", "test/base", "v1/../../x" },
		{ "127.0.0.1", "test/base", "" },
		{ "u@127.0.0.1", "test/base", "v1" },
		{ "127.0.0.1:0", "test/base", "v1" },
		{ "127.0.0.1:99999", "test/base", "v1" },
		{ "127.0.0.1/x", "test/base", "v1" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct answer *a = ask_resolve(names[i][0], names[i][1],
		    names[i][2]);

		want_failure(a, CODE(BAD_REQUEST), false);
		assert_int_equal(a->requests, 0);
	}
	/* ranges that no blob has */
	want_failure(ask_fetch(&plain, BLOB_SIZE, 1, false), CODE(BAD_REQUEST),
	    false);
	want_failure(ask_fetch(&plain, 1, UINT64_MAX, false),
	    CODE(BAD_REQUEST), false);
	want_failure(ask_fetch(&plain, 0, 0, false), CODE(BAD_REQUEST), false);
	want_failure(ask_fetch(&plain, 0, UNIT, true), CODE(BAD_REQUEST),
	    false);
}

/* ---- pieces ---- */

static void
want_pieces(uint64_t offset, const uint32_t *pieces, size_t n)
{
	struct answer *a;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += pieces[i];
	a = ask_pieces(&plain, offset, sum, offset == 0 && sum == BLOB_SIZE, 0,
	    pieces, n);
	want_ok(a);
	assert_int_equal(a->got, sum);
	assert_int_equal(a->piece, n);	/* each was looked at as it came */
}

static void
test_pieces_are_handed_on_as_given(void **state)
{
	static const uint32_t one[] = { 1 }, largest[] = { IPC_RAW_MAX },
	    units[] = { UNIT, UNIT, UNIT }, mixed[] = { 1, 4096, IPC_RAW_MAX,
	    100, 65536, 3, IPC_RAW_MAX, IPC_RAW_MAX, 2 };

	(void)state;
	want_pieces(BLOB_SIZE - 1, one, 1);
	want_pieces(77, one, 1);
	want_pieces(12345, largest, 1);
	want_pieces(UNIT, units, ARRAY_LEN(units));
	want_pieces(UNIT + 1, units, ARRAY_LEN(units));
	want_pieces(12345, mixed, ARRAY_LEN(mixed));
}

static void
test_plain_fetch_gives_all_in_pieces(void **state)
{
	uint32_t pieces[BLOB_SIZE / IPC_RAW_MAX + 1];
	size_t n = 0;

	(void)state;
	for (uint64_t at = 0; at < BLOB_SIZE; at += pieces[n++])
		pieces[n] = (uint32_t)(BLOB_SIZE - at < IPC_RAW_MAX ?
		    BLOB_SIZE - at : IPC_RAW_MAX);
	assert_int_equal(n, ARRAY_LEN(pieces));
	want_pieces(0, pieces, n);
}

/* As many as a frame holds, and no more. */
static void
test_the_number_of_pieces_is_bounded(void **state)
{
	size_t n = IPC_BODY_MAX / 2;
	uint32_t *pieces = malloc((n + 1) * sizeof(*pieces));

	(void)state;
	assert_non_null(pieces);
	for (size_t i = 0; i <= n; i++)
		pieces[i] = 1;
	want_pieces(UNIT - 5, pieces, n);
	want_failure(ask_pieces(&plain, UNIT - 5, n + 1, false, 0, pieces,
	    n + 1), CODE(BAD_REQUEST), false);
	free(pieces);
}

static void
test_pieces_that_are_not_the_range_are_refused(void **state)
{
	static const struct {
		uint64_t length;
		uint32_t unit;
		size_t n;
		uint32_t pieces[3];
	} wrong[] = {
		{ 3 * UNIT, 0, 0, { 0 } },	/* neither unit nor pieces */
		{ 3 * UNIT, UNIT, 3, { UNIT, UNIT, UNIT } },	/* both */
		{ 3 * UNIT, 0, 2, { UNIT, UNIT, 0 } },
		{ 3 * UNIT, 0, 3, { UNIT, UNIT, UNIT - 1 } },
		{ 3 * UNIT, 0, 3, { UNIT, UNIT, UNIT + 1 } },
		{ 2 * UNIT, 0, 3, { UNIT, 0, UNIT } },
		{ 2 * UNIT, 0, 3, { UNIT, UNIT, 0 } },
		{ IPC_RAW_MAX + 1, 0, 1, { IPC_RAW_MAX + 1, 0, 0 } },
		{ 2 * UNIT, 0, 3, { UINT32_MAX, 2 * UNIT, 1 } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct answer *a = ask_pieces(&plain, 0, wrong[i].length,
		    false, wrong[i].unit, wrong[i].pieces, wrong[i].n);

		want_failure(a, CODE(BAD_REQUEST), false);
		assert_int_equal(a->requests, 0);
	}
	want_well(&plain);
}

/* Only whole pieces go out, however the answer goes wrong. */
static void
test_no_piece_of_a_wrong_answer_is_cut(void **state)
{
	static const uint32_t pieces[] = { 5 * UNIT / 4, UNIT, UNIT,
		3 * UNIT / 4 };
	static const struct {
		const char *fault;
		int code;
		bool retry;
		uint64_t got;
	} cases[] = {
		{ "blob=short", CODE(REGISTRY_UNREACHABLE), true, 5 * UNIT / 4 },
		{ "blob=short-honest", CODE(REGISTRY_UNREACHABLE), true, 0 },
		{ "blob=extra-chunked", CODE(REGISTRY_UNREACHABLE), true, 4 * UNIT },
		{ "blob=full", CODE(RANGE_UNSUPPORTED), false, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char path[128];
		struct answer *a;

		snprintf(path, sizeof(path), "fault?%s", cases[i].fault);
		tell(&plain, path);
		a = ask_pieces(&plain, 99, 4 * UNIT, false, 0, pieces,
		    ARRAY_LEN(pieces));
		want_failure(a, cases[i].code, cases[i].retry);
		assert_int_equal(a->got, cases[i].got);
		tell(&plain, "heal");
		want_pieces(99, pieces, ARRAY_LEN(pieces));
	}
}

/* ---- referrers ---- */

#define SUBJECT(hex)	"sha256:" hex hex hex hex hex hex hex hex
#define TYPE_MAX	255

static void
test_referrers_by_the_api(void **state)
{
	static const char subject[] = SUBJECT("11111111");
	struct answer *a;

	(void)state;
	refer(&plain, subject, TYPE, 3);
	refer(&plain, subject, "text/other", 2);
	refer(&plain, SUBJECT("22222222"), TYPE, 1);
	a = ask_referrers(&plain, subject, TYPE);
	want_referring(a, subject, TYPE, 3);
	assert_int_equal(a->requests, 1);
	assert_int_equal(a->status, 200);
	want_referring(ask_referrers(&plain, subject, "text/other"), subject,
	    "text/other", 2);
	want_referring(ask_referrers(&plain, subject, "text/none"), subject,
	    "", 0);
}

static void
test_referrers_are_filtered_here_too(void **state)
{
	static const char subject[] = SUBJECT("33333333");

	(void)state;
	refer(&plain, subject, "text/other", 20);
	refer(&plain, subject, TYPE, 2);
	tell(&plain, "referrers?mode=api&filter=no");
	want_referring(ask_referrers(&plain, subject, TYPE), subject, TYPE, 2);
	tell(&plain, "referrers?mode=api");
}

static void
test_referrers_by_their_tag(void **state)
{
	static const char subject[] = SUBJECT("44444444");
	struct answer *a;

	(void)state;
	refer(&plain, subject, "text/other", 1);
	refer(&plain, subject, TYPE, 4);
	tell(&plain, "referrers?mode=tag");
	a = ask_referrers(&plain, subject, TYPE);
	want_referring(a, subject, TYPE, 4);
	assert_int_equal(a->requests, 2);
	assert_int_equal(a->status, 200);
	tell(&plain, "referrers?mode=api");
}

static void
test_neither_api_nor_tag_is_no_referrers(void **state)
{
	struct answer *a;

	(void)state;
	tell(&plain, "referrers?mode=off");
	a = ask(&plain, OP_REFERRERS);
	want_referring(a, "", "", 0);
	assert_int_equal(a->requests, 2);
	tell(&plain, "referrers?mode=api");
	/* 410 as 404 */
	tell(&plain, "fault?referrers=status:410&manifest=status:410");
	want_referring(ask(&plain, OP_REFERRERS), "", "", 0);
	tell(&plain, "heal");
}

/* registry.k8s.io has a log-in page for an API, GitLab under the tag the image
 * itself. */
static void
test_what_is_no_index_is_absent(void **state)
{
	static const char subject[] = SUBJECT("55555555");
	struct answer *a;

	(void)state;
	refer(&plain, subject, TYPE, 1);
	tell(&plain, "referrers?mode=tag");
	tell(&plain, "fault?referrers=html");
	want_referring(ask_referrers(&plain, subject, TYPE), subject, TYPE, 1);
	tell(&plain, "fault?manifest=html");
	a = ask_referrers(&plain, subject, TYPE);
	want_referring(a, "", "", 0);
	assert_int_equal(a->requests, 2);
	tell(&plain, "heal");
	tell(&plain, "referrers?mode=api");
	want_well(&plain);
}

static void
test_the_first_sixteen_referrers_are_handed_on(void **state)
{
	static const char subject[] = SUBJECT("66666666");

	(void)state;
	refer(&plain, subject, TYPE, 16);
	want_referring(ask_referrers(&plain, subject, TYPE), subject, TYPE,
	    16);
	refer(&plain, subject, TYPE, 4);
	want_referring(ask_referrers(&plain, subject, TYPE), subject, TYPE,
	    16);
}

/* What parses and what not is test_fetch_referrers'; here: where it comes
 * from makes no difference. */
static void
test_a_list_that_cannot_be_read_is_a_failure(void **state)
{
	static const char *const texts[] = { "", "null", "[]", "{}",
		"<html></html>", "{\"schemaVersion\":2,\"manifests\":{}}",
		"{\"schemaVersion\":2,\"manifests\":[7]}",
		"{\"schemaVersion\":2,\"manifests\":[]", };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		tell_text(&plain, "fault?referrers=json:", texts[i]);
		want_failure(ask(&plain, OP_REFERRERS),
		    CODE(REGISTRY_UNREACHABLE), true);
		tell_text(&plain, "fault?referrers=status:404&manifest=json:",
		    texts[i]);
		want_failure(ask(&plain, OP_REFERRERS),
		    CODE(REGISTRY_UNREACHABLE), true);
		tell(&plain, "heal");
		want_referring(ask(&plain, OP_REFERRERS), "", "", 0);
	}
	tell_text(&plain, "fault?referrers=json:",
	    "{\"schemaVersion\":2,\"manifests\":[]}");
	want_referring(ask(&plain, OP_REFERRERS), "", "", 0);
	tell(&plain, "heal");
}

static void
test_referrers_of_nothing_that_can_be_asked_for(void **state)
{
	static const char subject[] = SUBJECT("77777777");
	static const char *const types[] = { "", "x", "/", "a/", "/b", "a/b/c",
		"a/b c", "a/b?c=d", "a/b%2f", "a/\xc3\xa9", "../b",
		"a/.b" };
	char type[TYPE_MAX + 2];

	(void)state;
	want_failure(ask_referrers(&plain, "v1", TYPE), CODE(BAD_REQUEST),
	    false);
	want_failure(ask_referrers(&plain, "sha256-7", TYPE),
	    CODE(BAD_REQUEST), false);
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		struct answer *a = ask_referrers(&plain, subject, types[i]);

		want_failure(a, CODE(BAD_REQUEST), false);
		assert_int_equal(a->requests, 0);
	}
	memset(type, 'a', sizeof(type));
	type[1] = '/';
	type[TYPE_MAX] = '\0';
	want_referring(ask_referrers(&plain, subject, type), "", "", 0);
	type[TYPE_MAX] = 'a';
	type[TYPE_MAX + 1] = '\0';
	want_failure(ask_referrers(&plain, subject, type), CODE(BAD_REQUEST),
	    false);
}

/* ---- redirects ---- */

static void
test_a_redirect_is_followed_and_remembered(void **state)
{
	struct answer *a;

	(void)state;
	tell(&plain, "fault?blob=redirect");
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 2);
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 1);
	tell(&plain, "revoke");		/* the link is void: asked again */
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 3);
	tell(&plain, "heal");
}

static void
test_a_link_that_expires_is_renewed(void **state)
{
	(void)state;
	tell(&plain, "revoke");
	tell(&plain, "fault?blob=redirect:2");
	for (int i = 0; i < 8; i++) {
		struct answer *a = ask(&plain, OP_FETCH);

		want_ok(a);
		assert_int_equal(a->got, 2 * UNIT);
	}
	tell(&plain, "heal");
}

static void
test_a_broken_target_is_forgotten(void **state)
{
	(void)state;
	tell(&plain, "revoke");
	tell(&plain, "fault?blob=redirect");
	want_ok(ask(&plain, OP_FETCH));
	tell(&plain, "fault?target=full");
	want_failure(ask(&plain, OP_FETCH), CODE(RANGE_UNSUPPORTED), false);
	tell(&plain, "fault?target=short");
	want_failure(ask(&plain, OP_FETCH), CODE(REGISTRY_UNREACHABLE), true);
	tell(&plain, "heal");
	want_ok(ask(&plain, OP_FETCH));
	assert_int_equal(ask(&plain, OP_STAT)->got, 0);
	want_well(&plain);
}

/* Unlike a blob's: each time the registry is asked. */
static void
test_referrers_are_redirected_and_not_remembered(void **state)
{
	static const char subject[] = SUBJECT("88888888");
	struct answer *a;

	(void)state;
	refer(&plain, subject, TYPE, 2);
	tell(&plain, "fault?referrers=redirect");
	for (int i = 0; i < 2; i++) {
		a = ask_referrers(&plain, subject, TYPE);
		want_referring(a, subject, TYPE, 2);
		assert_int_equal(a->requests, 2);
	}
	/* no API there either: the tag is the registry's own */
	tell(&plain, "referrers?mode=tag");
	a = ask_referrers(&plain, subject, TYPE);
	want_referring(a, subject, TYPE, 2);
	assert_int_equal(a->requests, 3);
	tell(&plain, "heal");
	tell(&plain, "referrers?mode=api");
}

/* ---- memory, cancelling, links ---- */

static void
test_a_slow_cached_costs_no_memory(void **state)
{
	(void)state;
	slow_cached(&plain, BLOB_SIZE);
}

static void
test_cancel(void **state)
{
	Suite__CancelFetch m = SUITE__CANCEL_FETCH__INIT;
	struct answer *a;
	uint64_t id;

	(void)state;
	tell(&plain, "fault?blob=hang");
	a = ask(&plain, OP_FETCH);
	id = last_id;
	for (int i = 0; i < 1000 && a->got == 0; i++)
		event_base_loop(base, EVLOOP_ONCE);
	ipc_send(conn, id, SUITE_BODY(CANCEL_FETCH), &m, NULL, 0, -1);
	ipc_send(conn, id, SUITE_BODY(CANCEL_FETCH), &m, NULL, 0, -1);
	want_failure(a, CODE(CANCELLED), true);
	tell(&plain, "heal");
	want_well(&plain);
	total_bytes -= a->body_bytes;	/* the server sent more */
}

static void
test_a_new_link_replaces_the_old(void **state)
{
	struct ipc_link *old = conn;

	(void)state;
	tell(&plain, "fault?blob=hang");
	ask(&plain, OP_FETCH);
	ask(&plain, OP_FETCH);
	unreported += 2;
	usleep(300000);
	conn = NULL;
	give_link();
	tell(&plain, "heal");
	want_well(&plain);
	(void)old;	/* freed by link_closed() */
}

static void
test_a_broken_protocol_is_reported(void **state)
{
	static const char nonsense[] = "\0\0\0\4\0\0\0\0\377\377\377\377";
	int pair[2];

	(void)state;
	assert_int_equal(fd_pair(pair), 0);
	assert_int_equal(write(pair[0], nonsense, sizeof(nonsense) - 1),
	    sizeof(nonsense) - 1);
	broken = false;
	give(PARENT_PEER, "", pair[1]);
	until(&broken, "CHILD_BROKEN");
	close(pair[0]);
	give_link();
	want_well(&plain);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resolve_gives_the_manifest),
		cmocka_unit_test(test_stat_gives_the_size),
		cmocka_unit_test(test_fetch_gives_any_range_in_units),
		cmocka_unit_test(test_plain_fetch_gives_all),
		cmocka_unit_test(test_many_at_once),
		cmocka_unit_test(test_each_wrong_answer_is_a_clear_failure),
		cmocka_unit_test(test_silence_is_a_timeout),
		cmocka_unit_test(test_nobody_there),
		cmocka_unit_test(test_a_name_is_looked_up),
		cmocka_unit_test(test_names_that_are_none),
		cmocka_unit_test(test_pieces_are_handed_on_as_given),
		cmocka_unit_test(test_plain_fetch_gives_all_in_pieces),
		cmocka_unit_test(test_the_number_of_pieces_is_bounded),
		cmocka_unit_test(test_pieces_that_are_not_the_range_are_refused),
		cmocka_unit_test(test_no_piece_of_a_wrong_answer_is_cut),
		cmocka_unit_test(test_referrers_by_the_api),
		cmocka_unit_test(test_referrers_are_filtered_here_too),
		cmocka_unit_test(test_referrers_by_their_tag),
		cmocka_unit_test(test_neither_api_nor_tag_is_no_referrers),
		cmocka_unit_test(test_what_is_no_index_is_absent),
		cmocka_unit_test(test_the_first_sixteen_referrers_are_handed_on),
		cmocka_unit_test(test_a_list_that_cannot_be_read_is_a_failure),
		cmocka_unit_test(test_referrers_of_nothing_that_can_be_asked_for),
		cmocka_unit_test(test_a_redirect_is_followed_and_remembered),
		cmocka_unit_test(test_a_link_that_expires_is_renewed),
		cmocka_unit_test(test_a_broken_target_is_forgotten),
		cmocka_unit_test(test_referrers_are_redirected_and_not_remembered),
		cmocka_unit_test(test_a_slow_cached_costs_no_memory),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_a_new_link_replaces_the_old),
		cmocka_unit_test(test_a_broken_protocol_is_reported),
		cmocka_unit_test(test_the_logs_agree),
	};

	if (!host_has_users())
		return 0;
	return cmocka_run_group_tests(tests, start, end);
}
