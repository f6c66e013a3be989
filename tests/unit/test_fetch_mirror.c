// SPDX-License-Identifier: Apache-2.0
/*
 * Mirrors as fetcherd sees them: only those that are configured, each a site of
 * its own, and nothing of the registry's goes there.  What is measured of an
 * answer, and connections that die.
 *
 * `plain` has three mirrors: `mir`, open and below a path; the same by another
 * URL, whose section has credentials; and `tls`, which has a section.  `priv` has
 * `mir` too.  Behind a proxy, where every name is this machine, `mir` is
 * clear.test and open.test, and `tls` is secure.test: hosts that are not loopback.
 */
#define _GNU_SOURCE
#include "test_fetch_log.h"

static struct registry mir = { .name = "mir" };
static char open_url[128], named_url[128], tls_url[128];
static size_t named_at;		/* of named_url: its host */
static char clear_url[128], cleared_url[128], secure_url[128];
static pid_t proxy;

/* A mirror of plain by that name, with credentials of its own. */
static void
mirror_named(char url[128], const char *start, const char *port,
    const char *path, const char *section, const char *user)
{
	size_t have = strlen(conf_more);
	char host[64], text[256];

	snprintf(url, 128, "%s:%s%s", start, port, path);
	snprintf(host, sizeof(host), "%s:%s", strstr(start, "://") + 3, port);
	snprintf(conf_more + have, sizeof(conf_more) - have, "[registry "
	    "\"%s\"]\nmirrors = %s\n[registry \"%s\"]\nauth-file = /x\n%s",
	    plain.host, url, host, section);
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"auth\": "
	    "\"%s\"}}}", host, user);
	give_text(PARENT_AUTH, host, text);
}

static void
names_start(void)
{
	char host[64], path[PATH_MAX];
	size_t have = strlen(conf_more);

	proxy = proxy_start(host);
	snprintf(conf_more + have, sizeof(conf_more) - have, "[network]\n"
	    "proxy = http://%s\n", host);
	mirror_named(clear_url, "http://clear.test", strchr(mir.host, ':') + 1,
	    "/cache/of", "", "Y2Fyb2w6dGhpcmQ=");
	mirror_named(cleared_url, "http://open.test", strchr(mir.host, ':') + 1,
	    "/cache/of", "insecure = yes\n", "Y2Fyb2w6dGhpcmQ=");
	mirror_named(secure_url, "https://secure.test", strchr(tls.host, ':') +
	    1, "", "ca = /x\n", "Ym9iOmhpZGRlbg==");
	path_in(path, "cert.pem");
	snprintf(host, sizeof(host), "secure.test:%s", strchr(tls.host, ':') +
	    1);
	give(PARENT_CA, host, open(path, O_RDONLY | O_CLOEXEC));
}

static void
mirrors_start(void)
{
	char text[512];

	registry_start(&mir, "--prefix /cache/of --user carol:third");
	snprintf(open_url, sizeof(open_url), "http://%s/cache/of/", mir.host);
	/* by name, it has a section of its own */
	snprintf(named_url, sizeof(named_url), "http://localhost:%s/cache/of",
	    strchr(mir.host, ':') + 1);
	named_at = strlen("http://");
	snprintf(tls_url, sizeof(tls_url), "https://%s", tls.host);
	snprintf(text, sizeof(text), "%s", named_url + named_at);
	*strchr(text, '/') = '\0';
	snprintf(conf_more, sizeof(conf_more), "[registry \"%s\"]\n"
	    "mirrors = %s %s %s\n[registry \"%s\"]\nmirrors = %s\n"
	    "[registry \"%s\"]\nauth-file = /x\n", plain.host, open_url,
	    named_url, tls_url, priv.host, open_url, text);
	snprintf(conf_more + strlen(conf_more), 64, "[registry \"docker.io\"]\n"
	    "mirrors = ");
	strcat(conf_more, open_url);
	strcat(conf_more, "\n");
	{
		_cleanup_free_ char *host = strdup(text);

		snprintf(text, sizeof(text), "{\"auths\": {\"%s\": "
		    "{\"username\": \"carol\", \"password\": \"third\"}}}",
		    host);
		give_text(PARENT_AUTH, host, text);
	}
	names_start();
}

/* The log's line is written before the next request is answered. */
static unsigned
mirror_requests(void)
{
	tell(&mir, "heal");
	return log_each(&mir, NULL, NULL);
}

static char last_path[1024], last_auth[256];

static void
keep_last(const json_t *j, void *unused)
{
	const char *auth = log_credentials(j);

	(void)unused;
	snprintf(last_path, sizeof(last_path), "%s",
	    json_string_value(json_object_get(j, "path")));
	snprintf(last_auth, sizeof(last_auth), "%s", auth ? auth : "");
}

static void
want_last(const char *start, const char *query)
{
	char want[512];

	tell(&mir, "heal");
	log_each(&mir, keep_last, NULL);
	snprintf(want, sizeof(want), "/cache/of/v2/" REPO "/%s?%s", start,
	    query);
	assert_string_equal(last_path, want);
}

/* Of plain, as curl and Go escape it. */
static const char *
namespace(void)
{
	static char text[128];

	snprintf(text, sizeof(text), "ns=127.0.0.1%%3A%s",
	    strchr(plain.host, ':') + 1);
	return text;
}

static void
test_a_mirror_is_asked_by_its_path_and_whose_it_is(void **state)
{
	char text[512];

	(void)state;
	via = open_url;
	want_ok(ask(&plain, OP_RESOLVE));
	want_last("manifests/v1", namespace());
	want_ok(ask(&plain, OP_STAT));
	snprintf(text, sizeof(text), "blobs/%s", plain.erofs);
	want_last(text, namespace());
	want_range(&plain, 100, 3 * UNIT);
	want_last(text, namespace());
	want_ok(ask(&plain, OP_REFERRERS));
	snprintf(text, sizeof(text), "referrers/%s?artifactType="
	    "application%%2Fvnd.a%%2Bb.v1&%s", plain.manifest, namespace());
	*strchr(text, '?') = '\0';
	want_last(text, strchr(text, '\0') + 1);
	/* containerd's name for Docker Hub */
	want_ok(ask_resolve("docker.io", REPO, "v1"));
	want_last("manifests/v1", "ns=docker.io");
	via = "";
	want_well(&plain);
}

static void
test_only_what_is_configured_is_a_mirror(void **state)
{
	char slash[160], inside[] = "http://10.255.255.1/x";
	const char *const urls[] = { slash, inside, "file:///etc/passwd", "x",
		"http://", tls_url + 8 };
	unsigned before = mirror_requests();

	(void)state;
	snprintf(slash, sizeof(slash), "%s/", open_url);
	for (size_t i = 0; i < ARRAY_LEN(urls); i++) {
		struct answer *a;

		via = urls[i];
		a = ask(&plain, OP_FETCH);
		want_failure(a, CODE(BAD_REQUEST), false);
		assert_int_equal(a->requests, 0);
	}
	/* and of another registry it is none */
	via = tls_url;
	want_failure(ask(&priv, OP_FETCH), CODE(BAD_REQUEST), false);
	via = "";
	assert_int_equal(mirror_requests(), before);
}

static void
want_no_auth(const json_t *j, void *unused)
{
	const char *path = json_string_value(json_object_get(j, "path")),
	    *auth = log_credentials(j);

	(void)unused;
	if (auth && !strstr(path, "/token"))
		fail_msg("%s came with %s", path, auth);
}

/* Registry and mirror want the same password: it may not go there. */
static void
test_a_registrys_credentials_never_go_to_its_mirror(void **state)
{
	struct answer *a;

	(void)state;
	want_well(&priv);	/* alice is known to it */
	via = open_url;
	for (int i = 0; i < 2; i++) {
		tell(&mir, i == 0 ? "auth?mode=basic" :
		    "auth?mode=bearer&ttl=60");
		a = ask(&priv, OP_RESOLVE);
		want_failure(a, CODE(AUTH_DENIED), false);
		assert_non_null(strstr(a->text, mir.host));
	}
	tell(&mir, "auth?mode=none");
	want_range(&priv, 0, UNIT);
	via = "";
	log_each(&mir, want_no_auth, NULL);
	want_well(&priv);
}

static void
test_a_mirrors_own_section_counts(void **state)
{
	(void)state;
	tell(&mir, "auth?mode=basic");
	via = named_url;
	want_range(&plain, UNIT, UNIT);
	tell(&mir, "heal");
	log_each(&mir, keep_last, NULL);
	assert_string_equal(last_auth, "Basic Y2Fyb2w6dGhpcmQ=");
	tell(&mir, "auth?mode=bearer&ttl=60");
	want_range(&plain, UNIT, UNIT);
	tell(&mir, "auth?mode=none");
	/* its ca, its scheme, its credentials */
	tell(&tls, "auth?mode=bearer");
	via = tls_url;
	want_range(&plain, UNIT, 2 * UNIT);
	tell(&tls, "auth?mode=none");
	via = "";
	want_well(&plain);
}

/* What was given for https://HOST:PORT does not go to http://HOST:PORT. */
static void
test_credentials_do_not_go_to_a_mirror_in_clear(void **state)
{
	static const char *const modes[] = { "auth?mode=basic",
		"auth?mode=bearer&ttl=60" };
	unsigned before;
	struct answer *a;

	(void)state;
	via = clear_url;
	want_range(&plain, 0, UNIT);	/* it is reached by this name */
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		tell(&mir, modes[i]);
		before = mirror_requests();
		a = ask(&plain, OP_FETCH);
		want_failure(a, CODE(AUTH_DENIED), false);
		/* no token server is asked over plain HTTP for it either */
		assert_non_null(strstr(a->text, i == 0 ? "insecure = yes" :
		    "plain HTTP"));
		assert_true(mirror_requests() > before);
		log_each(&mir, keep_last, NULL);
		assert_string_equal(last_auth, "");
	}
	/* unless its section says that they may */
	via = cleared_url;
	tell(&mir, "auth?mode=basic");
	want_range(&plain, UNIT, UNIT);
	tell(&mir, "heal");
	log_each(&mir, keep_last, NULL);
	assert_string_equal(last_auth, "Basic Y2Fyb2w6dGhpcmQ=");
	tell(&mir, "auth?mode=none");
	/* and to the origin that they were given for */
	via = secure_url;
	tell(&tls, "auth?mode=basic");
	want_range(&plain, UNIT, 2 * UNIT);
	tell(&tls, "auth?mode=none");
	via = "";
}

/* A target that a mirror has sent us to is that mirror's. */
static void
test_targets_are_remembered_per_site(void **state)
{
	struct answer *a;

	(void)state;
	tell(&mir, "fault?blob=redirect");
	via = open_url;
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 2);
	tell(&mir, "fault?target=status:500");
	want_failure(ask(&plain, OP_FETCH), CODE(REGISTRY_UNREACHABLE), true);
	via = "";
	want_range(&plain, 7 * UNIT, 2 * UNIT);
	via = named_url;
	tell(&mir, "fault?blob=full");
	want_failure(ask(&plain, OP_FETCH), CODE(RANGE_UNSUPPORTED), false);
	tell(&mir, "heal");
	tell(&mir, "revoke");
	via = open_url;
	want_range(&plain, 7 * UNIT, 2 * UNIT);
	via = "";
}

static void
test_a_mirror_leads_to_its_like_or_to_the_public(void **state)
{
	static const char *const faults[] = { "fault?blob=private",
		"fault?blob=link-local", "fault?blob=mapped" };

	(void)state;
	via = open_url;
	want_range(&plain, 0, UNIT);
	for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
		tell(&mir, faults[i]);
		want_failure(ask(&plain, OP_FETCH), CODE(REGISTRY_UNREACHABLE),
		    false);
		tell(&mir, "heal");
	}
	/* from https no way leads to http */
	via = tls_url;
	tell(&tls, "fault?blob=downgrade");
	want_failure(ask(&plain, OP_FETCH), CODE(REGISTRY_UNREACHABLE), false);
	tell(&tls, "heal");
	via = "";
}

/* ---- what is measured ---- */

static void
test_round_trip_and_warmth_are_reported(void **state)
{
	struct answer *a;

	(void)state;
	fresh = true;
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_false(a->warm);
	assert_true(a->rtt_us > 0 && a->rtt_us <= a->total_us);
	fresh = false;
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_true(a->warm);
	assert_true(a->rtt_us > 0 && a->rtt_us <= a->total_us);
	a = ask(&plain, OP_STAT);
	want_ok(a);
	assert_true(a->warm && a->rtt_us > 0);
	/* a failure is an answer, too */
	tell(&plain, "fault?blob=status:503");
	a = ask(&plain, OP_STAT);
	want_failure(a, CODE(REGISTRY_UNREACHABLE), true);
	assert_true(a->rtt_us > 0);
	/* of the last request, which has none */
	tell(&plain, "heal");
	a = ask_resolve("127.0.0.1:1", REPO, "v1");
	want_failure(a, CODE(REGISTRY_UNREACHABLE), true);
	assert_int_equal(a->rtt_us, 0);
	assert_false(a->warm);
}

/* ---- connections that die ---- */

static void
test_a_connection_that_died_idle_is_replaced(void **state)
{
	struct answer *a;

	(void)state;
	want_ok(ask(&plain, OP_STAT));
	tell(&plain, "hangup");
	a = ask(&plain, OP_STAT);
	want_ok(a);
	assert_false(a->warm);
	/* one that dies at the request's sight: asked again, once */
	want_ok(ask(&plain, OP_STAT));
	tell(&plain, "fault?blob=close&times=1");
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 2);
	assert_false(a->warm);
	tell(&plain, "heal");
}

static void
test_a_fresh_connection_is_a_new_one(void **state)
{
	struct answer *a;

	(void)state;
	for (int i = 0; i < 3; i++) {
		want_ok(ask(&plain, OP_STAT));
		fresh = true;
		a = ask(&plain, OP_FETCH);
		fresh = false;
		want_ok(a);
		assert_false(a->warm);
	}
	a = ask(&plain, OP_FETCH);
	want_ok(a);
	assert_true(a->warm);
}

static int
mirrors_end(void **state)
{
	kill(mir.pid, SIGTERM);
	waitpid(mir.pid, NULL, 0);
	kill(proxy, SIGTERM);
	waitpid(proxy, NULL, 0);
	return end(state);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    test_a_mirror_is_asked_by_its_path_and_whose_it_is),
		cmocka_unit_test(test_only_what_is_configured_is_a_mirror),
		cmocka_unit_test(
		    test_a_registrys_credentials_never_go_to_its_mirror),
		cmocka_unit_test(test_a_mirrors_own_section_counts),
		cmocka_unit_test(
		    test_credentials_do_not_go_to_a_mirror_in_clear),
		cmocka_unit_test(test_targets_are_remembered_per_site),
		cmocka_unit_test(
		    test_a_mirror_leads_to_its_like_or_to_the_public),
		cmocka_unit_test(test_round_trip_and_warmth_are_reported),
		cmocka_unit_test(test_a_connection_that_died_idle_is_replaced),
		cmocka_unit_test(test_a_fresh_connection_is_a_new_one),
	};

	start_more = mirrors_start;
	if (!host_has_users())
		return 0;
	return cmocka_run_group_tests(tests, start, mirrors_end);
}
