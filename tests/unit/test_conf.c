// SPDX-License-Identifier: Apache-2.0
/*
 * The configuration: every key with good and bad values, and the sentence that
 * a mistake gets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/fd.h"
#include "base/own.h"
#include "base/shm.h"
#include "base/times.h"

static struct conf *
good(const char *text)
{
	struct conf *conf = NULL;
	char *error = NULL;

	if (conf_parse("f", text, &conf, &error) != 0)
		fail_msg("refused: %s: %s", text, error);
	assert_null(error);
	return conf;
}

/* The whole sentence must be `want`. */
static void
bad(const char *text, const char *want)
{
	struct conf *conf = NULL;
	_cleanup_free_ char *error = NULL;

	if (conf_parse("f", text, &conf, &error) == 0)
		fail_msg("accepted: %s", text);
	assert_null(conf);
	assert_non_null(error);
	assert_string_equal(error, want);
}

/* One key with one value, in a section. */
static struct conf *
good_key(const char *section, const char *key, const char *value)
{
	char text[512];

	snprintf(text, sizeof(text), "[%s]\n%s = %s\n", section, key, value);
	return good(text);
}

static void
test_an_empty_file_gives_the_defaults(void **state)
{
	struct conf *c = good("");

	(void)state;
	assert_null(c->store_path);
	assert_int_equal(c->quota, 0);
	assert_int_equal(c->min_free, 0);
	assert_int_equal(c->min_free_percent, 5);
	assert_true(c->scrub);
	assert_int_equal(c->scrub_rate, 16 << 20);
	assert_int_equal(c->scrub_every_s, 7 * 86400);
	assert_false(c->referrers);
	assert_int_equal(c->integrity, 3);
	assert_null(c->ca);
	assert_null(c->proxy);
	assert_int_equal(c->background_rate, 0);
	assert_false(c->outage_eio);
	assert_int_equal(c->outage_delay_s, 60);
	assert_int_equal(c->present, 0);
	assert_int_equal(c->max_devices, 256);
	assert_null(c->group);
	assert_true(c->prefetch_boot);
	assert_int_equal(c->complete, COMPLETE_IDLE);
	assert_int_equal(c->prefetch_budget, 0);
	assert_int_equal(c->n_registries, 0);
	conf_free(c);
	conf_free(NULL);
}

static void
test_every_key_is_read(void **state)
{
	struct conf *c = good(
	    "# all of them\n"
	    "[store]\npath = /var/x\nquota = 20G\nmin-free = 2G\nscrub = no\n"
	    "scrub-rate = 3M\nscrub-every = 36h\n"
	    "[trust]\nreferrers = yes\nintegrity = complete\n"
	    "[network]\nca = /etc/ca\nproxy = http://p:1\n"
	    "background-rate = 10M\non-outage = eio\n"
	    "outage-delay = 2m\n"
	    "[devices]\npresent = nbd\nmax = 12\ngroup = shed\n"
	    "[prefetch]\nboot = no\ncomplete = now\nbudget = 200M\n"
	    "[registry \"h.example:5000\"]\n"
	    "mirrors = http://a https://b/c\n"
	    "insecure = yes\nca = /etc/one\nauth-file = /etc/auth\n");
	const struct conf_registry *r;

	(void)state;
	assert_string_equal(c->store_path, "/var/x");
	assert_int_equal(c->quota, UINT64_C(20) << 30);
	assert_int_equal(c->min_free, UINT64_C(2) << 30);
	assert_int_equal(c->min_free_percent, 0);
	assert_false(c->scrub);
	assert_int_equal(c->scrub_rate, 3 << 20);
	assert_int_equal(c->scrub_every_s, 36 * 3600);
	assert_true(c->referrers);
	assert_int_equal(c->integrity, 2);
	assert_string_equal(c->ca, "/etc/ca");
	assert_string_equal(c->proxy, "http://p:1");
	assert_int_equal(c->background_rate, 10 << 20);
	assert_true(c->outage_eio);
	assert_int_equal(c->outage_delay_s, 120);
	assert_int_equal(c->present, 1);
	assert_int_equal(c->max_devices, 12);
	assert_string_equal(c->group, "shed");
	assert_false(c->prefetch_boot);
	assert_int_equal(c->complete, COMPLETE_NOW);
	assert_int_equal(c->prefetch_budget, 200 << 20);
	assert_int_equal(c->n_registries, 1);
	r = conf_registry(c, "h.example:5000");
	assert_non_null(r);
	assert_string_equal(r->host, "h.example:5000");
	assert_int_equal(r->n_mirrors, 2);
	assert_string_equal(r->mirrors[0], "http://a");
	assert_string_equal(r->mirrors[1], "https://b/c");
	assert_true(r->insecure);
	assert_string_equal(r->ca, "/etc/one");
	assert_string_equal(r->auth_file, "/etc/auth");
	conf_free(c);
}

/* What a key does not take; the sentence says what it takes. */
static const struct {
	const char *section, *key, *takes;
	const char *values[12];
} wrong[] = {
	{ "store", "path", "an absolute path", { "", "x", "./x", "~/x" } },
	{ "store", "quota", "bytes, as 20G", { "", "many", "-1", "+1", "1k",
	    "1GB", "1.5G", "0x10", "G", "18446744073709551616",
	    "16777216T", "1 G" } },
	{ "store", "min-free", "a share as 5%, or bytes as 2G", { "", "100%",
	    "-1%", "%", "5 %", "5%%", "1X" } },
	{ "store", "scrub", "yes or no", { "", "YES", "true", "1", "no no" } },
	{ "store", "scrub-rate", "bytes a second, as 16M, and not 0; scrub = no "
	    "turns it off", { "", "0", "0M", "-1", "fast", "1m", "16M/s",
	    "16777216T" } },
	{ "store", "scrub-every", "a time, as 12h or 7d, and not 0; scrub = no "
	    "turns it off", { "", "0", "0d", "-1d", "d", "7 d", "7D", "1w",
	    "1dd", "49711d", "4294967296", "18446744073709551616" } },
	{ "trust", "referrers", "yes or no", { "", "maybe" } },
	{ "trust", "integrity", "chunk, whole, complete or transport", { "",
	    "default", "Whole", "wholes", "none" } },
	{ "network", "ca", "an absolute path", { "ca.pem" } },
	{ "network", "background-rate", "bytes a second, as 10M; 0 for no "
	    "limit", { "fast" } },
	{ "network", "on-outage", "stall or eio", { "", "EIO", "fail" } },
	{ "network", "outage-delay", "a time as 60 or 5m, and at least the 30 "
	    "s that a chunk may take; for one device it may be less, see "
	    "shedctl attach --outage-delay", { "", "-1", "0", "1s", "29",
	    "4294967296", "1M" } },
	{ "devices", "present", "auto, nbd, ublk, file, plain or kernel-nbd", { "", "fuse",
	    "NBD" } },
	{ "devices", "ublk", "auto or force", { "", "yes", "off" } },
	{ "devices", "max", "a number", { "", "-1", "4294967296", "many" } },
	{ "prefetch", "boot", "yes or no", { "", "on" } },
	{ "prefetch", "complete", "idle, never or now", { "", "later" } },
	{ "prefetch", "budget", "bytes, as 200M", { "", "200MB" } },
	{ "network", "proxy", "an http://, https:// or socks5h:// URL", { "",
	    "p:3128", "http://", "socks5://p:1", "ftp://p", "HTTP://p" } },
	{ "registry \"h\"", "mirrors", "at most 16 http:// or https:// URLs, "
	    "without user and query", { "ftp://x", "h.example",
	    "http://a h.example", "HTTP://x", "http://u:p@h", "http://h/?x",
	    "http://h#x" } },
	{ "registry \"h\"", "client-cert", "an absolute path", { "", "x" } },
	{ "registry \"h\"", "client-key", "an absolute path", { "", "x" } },
	{ "registry \"h\"", "insecure", "yes or no", { "", "maybe" } },
	{ "registry \"h\"", "ca", "an absolute path", { "", "ca.pem" } },
	{ "registry \"h\"", "auth-file", "an absolute path", { "", "x" } },
};

static void
test_a_bad_value_is_named_with_its_line_and_what_would_do(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		size_t k = 0;

		for (; k < 12 && wrong[i].values[k]; k++) {
			char text[256], want[256];

			snprintf(text, sizeof(text), "\n# \n[%s]\n%s = %s\n",
			    wrong[i].section, wrong[i].key,
			    wrong[i].values[k]);
			snprintf(want, sizeof(want), "f:4: %s takes %s",
			    wrong[i].key, wrong[i].takes);
			bad(text, want);
		}
		assert_true(k > 0);
	}
}

static void
test_sizes_have_units_and_bounds(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {
		{ "0", 0 }, { "1", 1 }, { "1K", 1024 }, { "3M", 3 << 20 },
		{ "5G", UINT64_C(5) << 30 }, { "7T", UINT64_C(7) << 40 },
		{ "18446744073709551615", UINT64_MAX },
		{ "16777215T", UINT64_C(16777215) << 40 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct conf *c = good_key("store", "quota", sizes[i].text);

		assert_int_equal(c->quota, sizes[i].bytes);
		conf_free(c);
	}
}

static void
test_times_have_units_and_bounds(void **state)
{
	static const struct {
		const char *text;
		uint64_t seconds;
	} times[] = {
		{ "1", 1 }, { "90s", 90 }, { "5m", 300 }, { "12h", 43200 },
		{ "7d", 604800 }, { "4294967295", UINT32_MAX },
		{ "49710d", UINT64_C(49710) * 86400 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		struct conf *c = good_key("store", "scrub-every",
		    times[i].text);

		assert_int_equal(c->scrub_every_s, times[i].seconds);
		conf_free(c);
	}
}

static void
test_the_outage_delay_leaves_a_chunk_its_budget(void **state)
{
	struct conf *c = good_key("network", "outage-delay", "30");

	(void)state;
	assert_int_equal(c->outage_delay_s, TIME_CHUNK_MS / 1000);
	conf_free(c);
	assert_true(times_fit(TIME_CHUNK_MS / 1000));
	assert_false(times_fit(TIME_CHUNK_MS / 1000 - 1));
	/* and changes nothing that stands beside it */
	c = good("[devices]\npresent = nbd\n[network]\nhedge = 7%\n"
	    "outage-delay = 5m\n");
	assert_int_equal(c->outage_delay_s, 300);
	assert_int_equal(c->present, 1);
	assert_int_equal(c->hedge_percent, 7);
	assert_false(c->outage_eio);
	conf_free(c);
}

static void
test_min_free_is_a_share_or_bytes(void **state)
{
	struct conf *c = good_key("store", "min-free", "0%");

	(void)state;
	assert_int_equal(c->min_free_percent, 0);
	assert_int_equal(c->min_free, 0);
	conf_free(c);
	c = good_key("store", "min-free", "99%");
	assert_int_equal(c->min_free_percent, 99);
	conf_free(c);
	c = good_key("store", "min-free", "99");
	assert_int_equal(c->min_free_percent, 0);
	assert_int_equal(c->min_free, 99);
	conf_free(c);
}

static void
test_words_have_the_protocols_numbers(void **state)
{
	static const struct {
		const char *section, *key, *word;
		unsigned value;
	} words[] = {
		{ "trust", "integrity", "transport", 1 },
		{ "trust", "integrity", "complete", 2 },
		{ "trust", "integrity", "whole", 3 },
		{ "trust", "integrity", "chunk", 4 },
		{ "devices", "present", "auto", 0 },
		{ "devices", "present", "nbd", 1 },
		{ "devices", "present", "file", 2 },
		{ "devices", "present", "ublk", 3 },
		{ "devices", "present", "plain", 4 },
		{ "devices", "present", "kernel-nbd", 5 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		struct conf *c = good_key(words[i].section, words[i].key,
		    words[i].word);

		assert_int_equal(words[i].section[0] == 't' ? c->integrity :
		    c->present, words[i].value);
		conf_free(c);
	}
}

static void
test_an_unknown_key_is_named_with_its_section(void **state)
{
	(void)state;
	bad("[store]\npath = /x\nquotta = 1\n",
	    "f:3: there is no key quotta in [store]; see shedstream.conf(5)");
	/* keys of another section, and of registries, are unknown here */
	bad("[store]\nproxy = x\n",
	    "f:2: there is no key proxy in [store]; see shedstream.conf(5)");
	bad("[network]\nmirrors = http://x\n", "f:2: there is no key mirrors "
	    "in [network]; see shedstream.conf(5)");
	bad("[registry \"h\"]\nproxy = x\n", "f:2: there is no key proxy in "
	    "[registry]; see shedstream.conf(5)");
	bad("[store]\nQuota = 1\n",
	    "f:2: there is no key Quota in [store]; see shedstream.conf(5)");
}

static void
test_an_unknown_section_is_named(void **state)
{
	(void)state;
	bad("[stores]\npath = /x\n",
	    "f:2: there is no section [stores]; see shedstream.conf(5)");
	bad("[Store]\npath = /x\n",
	    "f:2: there is no section [Store]; see shedstream.conf(5)");
	bad("path = /x\n",
	    "f:1: there is no section []; see shedstream.conf(5)");
}

static void
test_a_line_that_is_nothing_is_refused(void **state)
{
	static const char what[] = "f:2: this is no `key = value`, [section] "
	    "or # comment";

	(void)state;
	bad("[store]\nquota\n", what);
	bad("[store]\n[trust\n", what);
}

static void
test_the_first_mistake_is_the_one_named(void **state)
{
	(void)state;
	bad("[store]\nscrub = x\nquota = y\n[nonsense]\nz = 1\n",
	    "f:2: scrub takes yes or no");
}

/* A line that starts with a blank continues the one above: without this check
 * it would silently become the value of the key above. */
static void
test_a_key_is_set_once(void **state)
{
	(void)state;
	bad("[store]\nquota = 1G\nquota = 2G\n", "f:3: quota was set before; "
	    "a line that starts with a blank continues the one above");
	bad("[network]\nproxy = http://x\n  ca = /y\n", "f:3: proxy was set "
	    "before; a line that starts with a blank continues the one above");
	bad("[store]\nquota = 1G\n[trust]\nreferrers = no\n[store]\n"
	    "quota = 2G\n", "f:6: quota was set before; a line that starts "
	    "with a blank continues the one above");
	bad("[registry \"h\"]\nca = /a\nca = /b\n", "f:3: ca was set before; "
	    "a line that starts with a blank continues the one above");
	/* in another registry's section it is another key */
	conf_free(good("[registry \"g\"]\nca = /a\n[registry \"h\"]\n"
	    "ca = /b\n[network]\nca = /c\n"));
}

/* inih would take what is behind its limit as a line of its own. */
static void
test_a_line_that_is_too_long_is_refused(void **state)
{
	char text[400];
	struct conf *c;

	(void)state;
	memset(text, '#', sizeof(text));
	memcpy(text + 199, "\n[devices]\nmax = 7\n", 20);
	bad(text, "f:1: this line is too long; lines that start with a blank "
	    "continue a list");
	/* one byte less is a comment, and the line behind it is read */
	c = good(text + 1);
	assert_int_equal(c->max_devices, 7);
	conf_free(c);
	/* the end of a long comment is not a setting */
	memset(text, '#', sizeof(text));
	memcpy(text, "[devices]\n", 10);
	memcpy(text + 10 + 199, "\nmax = 7\n", 10);
	bad(text, "f:2: this line is too long; lines that start with a blank "
	    "continue a list");
}

static void
test_line_ends_of_other_systems_and_comments_are_taken(void **state)
{
	struct conf *c = good("; a\r\n[store]\r\nquota = 5 ; five\r\n"
	    "\t\r\n[devices]\r\nmax=3\r\n# end");

	(void)state;
	assert_int_equal(c->quota, 5);
	assert_int_equal(c->max_devices, 3);
	conf_free(c);
}

/* ---- registries ---- */

static void
test_registries_are_told_apart_by_host_and_port(void **state)
{
	struct conf *c = good("[registry \"a\"]\ninsecure = yes\n"
	    "[registry \"a:1\"]\nca = /one\n"
	    "[registry \"a\"]\nca = /two\n");

	(void)state;
	assert_int_equal(c->n_registries, 2);
	assert_true(conf_registry(c, "a")->insecure);
	assert_string_equal(conf_registry(c, "a")->ca, "/two");
	assert_string_equal(conf_registry(c, "a:1")->ca, "/one");
	assert_false(conf_registry(c, "a:1")->insecure);
	assert_null(conf_registry(c, "a:"));
	assert_null(conf_registry(c, ""));
	conf_free(c);
}

static void
test_a_registry_section_needs_a_host_in_quotes(void **state)
{
	static const char *const sections[] = { "registry", "registry h",
		"registry \"\"", "registry \"h", "registry  \"h\"",
		"registryx \"h\"", "registry 'h'", "registry \"https://h\"",
		"registry \"h/repo\"", "registry \"user@h\"" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sections); i++) {
		char text[128], want[160];

		snprintf(text, sizeof(text), "[%s]\ninsecure = no\n",
		    sections[i]);
		snprintf(want, sizeof(want), "f:2: section [%s] should read "
		    "[registry \"HOST[:PORT]\"], at most 64 of them",
		    sections[i]);
		bad(text, want);
	}
}

static char *
registries(unsigned n)
{
	char *text = calloc(n + 1, 64);
	size_t len = 0;

	assert_non_null(text);
	for (unsigned i = 0; i < n; i++)
		len += (size_t)sprintf(text + len, "[registry \"h%u\"]\n"
		    "insecure = no\n", i);
	return text;
}

static void
test_registries_are_bounded(void **state)
{
	_cleanup_free_ char *most = registries(CONF_REGISTRIES);
	_cleanup_free_ char *more = registries(CONF_REGISTRIES + 1);
	struct conf *c = good(most);

	(void)state;
	assert_int_equal(c->n_registries, CONF_REGISTRIES);
	conf_free(c);
	bad(more, "f:130: section [registry \"h64\"] should read "
	    "[registry \"HOST[:PORT]\"], at most 64 of them");
}

/* On one line, and on lines that start with a blank. */
static char *
mirrors(unsigned n, const char *between)
{
	char *text = calloc(n + 1, 32);
	size_t len;

	assert_non_null(text);
	len = (size_t)sprintf(text, "[registry \"h\"]\nmirrors = http://0");
	for (unsigned i = 1; i < n; i++)
		len += (size_t)sprintf(text + len, "%shttp://%x", between, i);
	return text;
}

static void
test_a_client_certificate_has_a_key(void **state)
{
	struct conf *c = good("[registry \"h\"]\nclient-cert = /c\n"
	    "[registry \"i\"]\n[registry \"h\"]\nclient-key = /k\n");

	(void)state;
	assert_string_equal(c->registries[0].client_cert, "/c");
	assert_string_equal(c->registries[0].client_key, "/k");
	conf_free(c);
	bad("[registry \"g\"]\nca = /a\n[registry \"h\"]\nclient-cert = "
	    "/c\n", "f: [registry \"h\"] has one of client-cert and "
	    "client-key; set both");
	bad("[registry \"h\"]\nclient-key = /k\n", "f: [registry \"h\"] has "
	    "one of client-cert and client-key; set both");
}

static void
test_mirrors_are_a_bounded_list(void **state)
{
	static const char *const between[] = { " ", ",", "\t ", "\n  " };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(between); i++) {
		_cleanup_free_ char *most = mirrors(CONF_MIRRORS, between[i]);
		_cleanup_free_ char *more = mirrors(CONF_MIRRORS + 1,
		    between[i]);
		struct conf *c = good(most), *none = NULL;
		_cleanup_free_ char *error = NULL;

		assert_int_equal(c->registries[0].n_mirrors, CONF_MIRRORS);
		assert_string_equal(c->registries[0].mirrors[0], "http://0");
		assert_string_equal(c->registries[0].mirrors[15],
		    "http://f");
		conf_free(c);
		assert_int_equal(conf_parse("f", more, &none, &error),
		    -EINVAL);
		assert_non_null(strstr(error, "mirrors takes at most 16"));
	}
}

/* ---- handed over ---- */

static void
test_children_read_the_same_from_a_descriptor(void **state)
{
	static const char text[] = "[devices]\nmax = 9\n";
	_cleanup_close_ int fd = shm_sealed("test", text, strlen(text));
	_cleanup_close_ int wrong_fd = shm_sealed("test", "x", 1);
	struct conf *c = NULL;

	(void)state;
	assert_int_equal(conf_read(fd, &c), 0);
	assert_int_equal(c->max_devices, 9);
	conf_free(c);
	assert_int_equal(conf_read(wrong_fd, &c), -EINVAL);
}

static void
test_a_file_past_the_limit_is_not_read(void **state)
{
	static char text[CONF_FILE_MAX + 1];
	_cleanup_close_ int most = -1, more = -1;
	struct conf *c = NULL;

	(void)state;
	memset(text, '\n', sizeof(text));
	most = shm_sealed("test", text, CONF_FILE_MAX);
	more = shm_sealed("test", text, CONF_FILE_MAX + 1);
	assert_int_equal(conf_read(more, &c), -EFBIG);
	assert_null(c);
	assert_int_equal(conf_read(most, &c), 0);
	conf_free(c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_empty_file_gives_the_defaults),
		cmocka_unit_test(test_every_key_is_read),
		cmocka_unit_test(
		    test_a_bad_value_is_named_with_its_line_and_what_would_do),
		cmocka_unit_test(test_sizes_have_units_and_bounds),
		cmocka_unit_test(test_times_have_units_and_bounds),
		cmocka_unit_test(test_the_outage_delay_leaves_a_chunk_its_budget),
		cmocka_unit_test(test_min_free_is_a_share_or_bytes),
		cmocka_unit_test(test_words_have_the_protocols_numbers),
		cmocka_unit_test(test_an_unknown_key_is_named_with_its_section),
		cmocka_unit_test(test_an_unknown_section_is_named),
		cmocka_unit_test(test_a_line_that_is_nothing_is_refused),
		cmocka_unit_test(test_the_first_mistake_is_the_one_named),
		cmocka_unit_test(test_a_key_is_set_once),
		cmocka_unit_test(test_a_line_that_is_too_long_is_refused),
		cmocka_unit_test(
		    test_line_ends_of_other_systems_and_comments_are_taken),
		cmocka_unit_test(
		    test_registries_are_told_apart_by_host_and_port),
		cmocka_unit_test(
		    test_a_registry_section_needs_a_host_in_quotes),
		cmocka_unit_test(test_registries_are_bounded),
		cmocka_unit_test(test_a_client_certificate_has_a_key),
		cmocka_unit_test(test_mirrors_are_a_bounded_list),
		cmocka_unit_test(test_children_read_the_same_from_a_descriptor),
		cmocka_unit_test(test_a_file_past_the_limit_is_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
