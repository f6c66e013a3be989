// SPDX-License-Identifier: Apache-2.0
/*
 * Who fetcherd is to a registry, and whom it believes: Basic and Bearer, token
 * servers that answer wrongly, what a target gets, certificates.
 */
#define _GNU_SOURCE
#include "test_fetch_log.h"

/* ---- who we are ---- */

static void
test_basic(void **state)
{
	struct answer *a;

	(void)state;
	tell(&priv, "auth?mode=basic");
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 2);
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 1);
	tell(&priv, "fault?blob=unauthorized");
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), false);
	tell(&priv, "heal");
	want_well(&priv);
}

static void
test_bearer(void **state)
{
	struct answer *a;

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_true(a->requests == 3 || a->requests == 4);
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 1);
	tell(&priv, "revoke");		/* challenged, and a new token */
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 3);
}

static void
test_a_token_is_renewed_before_it_expires(void **state)
{
	(void)state;
	tell(&priv, "revoke");
	tell(&priv, "auth?mode=bearer&ttl=2");
	want_ok(ask(&priv, OP_FETCH));
	for (int i = 0; i < 6; i++) {
		struct answer *a = ask(&priv, OP_FETCH);

		want_ok(a);
		assert_true(a->requests <= 2);	/* 3: it was refused first */
		usleep(600000);
	}
}

struct lines {
	int status;		/* 0: requests for a token */
	unsigned n;
};

static void
count_line(const json_t *j, void *arg)
{
	struct lines *l = arg;

	l->n += l->status > 0 ?
	    json_integer_value(json_object_get(j, "status")) == l->status :
	    starts(json_string_value(json_object_get(j, "path")), "/token");
}

/* Lines of priv's log: answers of that status, or requests for a token. */
static unsigned
priv_log(int status)
{
	struct lines l = { .status = status };

	log_each(&priv, count_line, &l);
	return l.n;
}

/* Until so many tokens were asked for; `use`: while requests go on. */
static void
await_tokens(unsigned n, bool use)
{
	for (int i = 0; priv_log(0) < n; i++) {
		assert_true(i < 200);
		if (use)
			want_ok(ask(&priv, OP_STAT));
		usleep(50000);
	}
}

/* It has 11 s to live, and is used for 6 of them; the next one is there after 1,
 * before anybody needs it. */
static void
test_a_token_in_use_is_renewed_before_it_is_needed(void **state)
{
	unsigned refused, tokens;
	struct answer *a;

	(void)state;
	tell(&priv, "revoke");
	tell(&priv, "auth?mode=bearer&ttl=11");
	want_ok(ask(&priv, OP_STAT));
	want_ok(ask(&priv, OP_STAT));	/* it is in use */
	refused = priv_log(401);
	tokens = priv_log(0);
	await_tokens(tokens + 1, false);
	tell(&priv, "fault?token=status:500");	/* nobody could get one now */
	a = ask(&priv, OP_STAT);
	want_ok(a);
	assert_int_equal(a->requests, 2);	/* with that of the token */
	assert_int_equal(priv_log(401), refused);
	tell(&priv, "heal");
}

static void
test_a_renewal_that_fails_is_tried_again(void **state)
{
	unsigned refused, tokens;

	(void)state;
	tell(&priv, "revoke");
	tell(&priv, "auth?mode=bearer&ttl=11");
	want_ok(ask(&priv, OP_STAT));
	want_ok(ask(&priv, OP_STAT));
	refused = priv_log(401);
	tokens = priv_log(0);
	tell(&priv, "fault?token=status:500");
	await_tokens(tokens + 1, false);
	await_tokens(tokens + 2, true);		/* all of these succeed */
	assert_int_equal(priv_log(401), refused);
	tell(&priv, "heal");
	await_tokens(tokens + 3, true);
	/* settle what the tokens have cost */
	tell(&priv, "auth?mode=bearer&ttl=60");
	tell(&priv, "revoke");
	want_ok(ask(&priv, OP_STAT));
}

/* Registries answer 403 to a token whose time is over. */
static void
test_403_to_a_token_is_a_reason_for_one_more(void **state)
{
	struct answer *a;

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	want_ok(ask(&priv, OP_STAT));
	tell(&priv, "fault?blob=status:403&times=1");
	a = ask(&priv, OP_FETCH);
	want_ok(a);
	assert_int_equal(a->requests, 3);
	tell(&priv, "fault?blob=status:403");
	a = ask(&priv, OP_FETCH);
	want_failure(a, CODE(AUTH_DENIED), false);
	assert_int_equal(a->requests, 3);
	assert_int_equal(a->status, 403);
	tell(&priv, "heal");
	/* a password is as it is */
	tell(&priv, "auth?mode=basic");
	want_ok(ask(&priv, OP_STAT));
	tell(&priv, "fault?blob=status:403");
	a = ask(&priv, OP_FETCH);
	want_failure(a, CODE(AUTH_DENIED), false);
	assert_int_equal(a->requests, 1);
	assert_int_equal(a->status, 403);
	tell(&priv, "heal");
	tell(&priv, "auth?mode=bearer&ttl=60");
	want_well(&priv);
}

static void
test_one_token_for_all_who_wait(void **state)
{
	struct answer *a[20];
	unsigned requests = 0;

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	tell(&priv, "revoke");
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask(&priv, OP_FETCH);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		want_ok(a[i]);
		requests += a[i]->requests;
	}
	/* each was refused at most once; one or two tokens were asked for */
	assert_true(requests <= 2 * ARRAY_LEN(a) + 2);
}

static void
test_token_server_faults(void **state)
{
	static const struct {
		const char *fault;
		int code;
		bool retry;
	} cases[] = {
		{ "token=bad-token", CODE(AUTH_DENIED), false },
		{ "token=garbage", CODE(AUTH_DENIED), true },
		{ "token=huge", CODE(AUTH_DENIED), true },
		{ "token=status:401", CODE(AUTH_DENIED), false },
		{ "token=retry:3", CODE(REGISTRY_UNREACHABLE), true },
		{ "token=status:500", CODE(REGISTRY_UNREACHABLE), true },
		{ "token=close", CODE(REGISTRY_UNREACHABLE), true },
		{ "token=loop", CODE(REGISTRY_UNREACHABLE), false },
		{ "blob=unauthorized", CODE(AUTH_DENIED), false },
		{ "blob=realm-private", CODE(AUTH_DENIED), false },
		{ "blob=realm-inside", CODE(REGISTRY_UNREACHABLE), false },
	};

	(void)state;
	tell(&priv, "auth?mode=bearer&ttl=60");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char path[128];

		print_message("   %s\n", cases[i].fault);
		tell(&priv, "revoke");
		snprintf(path, sizeof(path), "fault?%s", cases[i].fault);
		tell(&priv, path);
		want_failure(ask(&priv, OP_FETCH), cases[i].code,
		    cases[i].retry);
		tell(&priv, "heal");
		want_well(&priv);
	}
}

static void
test_a_token_server_that_hangs(void **state)
{
	struct answer *a[3];

	(void)state;
	tell(&priv, "revoke");
	tell(&priv, "fault?token=hang-head");
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		a[i] = ask(&priv, OP_FETCH);
	for (size_t i = 0; i < ARRAY_LEN(a); i++)
		want_failure(a[i], CODE(TIMEOUT), true);
	tell(&priv, "heal");
	want_well(&priv);
}

static void
test_a_target_gets_no_credentials(void **state)
{
	(void)state;
	tell(&priv, "auth?mode=basic");
	tell(&priv, "fault?blob=redirect");
	want_ok(ask(&priv, OP_FETCH));
	tell(&priv, "auth?mode=bearer");
	tell(&priv, "revoke");
	want_ok(ask(&priv, OP_FETCH));
	/* one that asks for them gets none either */
	tell(&priv, "fault?target=unauthorized");
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), true);
	tell(&priv, "heal");
	want_well(&priv);
}

/* A storage that sends us back does not get a request made in our name. */
static void
test_a_target_may_not_borrow_credentials(void **state)
{
	(void)state;
	tell(&priv, "auth?mode=basic");
	tell(&priv, "revoke");
	want_ok(ask(&priv, OP_FETCH));
	tell(&priv, "fault?blob=redirect&target=back&times=1");
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), true);
	tell(&priv, "heal");
	want_well(&priv);
}

static void
test_new_credentials_count_at_once(void **state)
{
	char text[512];

	(void)state;
	tell(&priv, "auth?mode=basic");
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"username\": "
	    "\"alice\", \"password\": \"wrong\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	usleep(100000);
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), false);
	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"identitytoken\":"
	    " \"x\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	usleep(100000);
	want_failure(ask(&priv, OP_FETCH), CODE(AUTH_DENIED), false);
	snprintf(text, sizeof(text), "{\"auths\": {\"https://%s/v1/\": "
	    "{\"auth\": \"YWxpY2U6c2VjcmV0\"}}}", priv.host);
	give_text(PARENT_AUTH, priv.host, text);
	usleep(100000);
	want_well(&priv);
}

/* Credentials that a client set; or took away. */
static void
set(const char *host, const char *text, enum auth_from from)
{
	struct parent_msg msg = { .type = PARENT_AUTH, .count = from };
	int fd = shm_sealed("test", text, strlen(text));

	assert_true(fd >= 0);
	snprintf(msg.text, sizeof(msg.text), "%s", host);
	parent_send(child, &msg, fd);
}

static void
set_user(struct registry *reg, const char *user, const char *password,
    enum auth_from from)
{
	char text[512];

	snprintf(text, sizeof(text), "{\"auths\": {\"%s\": {\"username\": "
	    "\"%s\", \"password\": \"%s\"}}}", reg->host, user, password);
	set(reg->host, text, from);
}

/* Run the loop until cached was told so often. */
static void
until_told(unsigned n, const struct registry *reg)
{
	time_t end = time(NULL) + WAIT_S;

	while (n_told < n && time(NULL) < end)
		event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(n_told, n);
	assert_string_equal(told, reg->host);
}

/* A request that fails so, and says whose command helps. */
static void
want_denied(struct registry *reg)
{
	char remedy[128];
	struct answer *a = ask(reg, OP_FETCH);

	want_failure(a, CODE(AUTH_DENIED), false);
	snprintf(remedy, sizeof(remedy), "`shedctl login %s`", reg->host);
	assert_non_null(strstr(a->text, remedy));
}

/* cached is told before any request could be answered with the old ones: so
 * what it asks for on that word is asked with the new ones. */
static void
test_cached_is_told_of_credentials_that_count(void **state)
{
	unsigned n = n_told;

	(void)state;
	tell(&priv, "auth?mode=basic");
	set_user(&priv, "alice", "wrong", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_denied(&priv);
	set_user(&priv, "alice", "secret", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_well(&priv);
	/* the same with tokens: the one it has is forgotten */
	tell(&priv, "auth?mode=bearer&ttl=60");
	want_well(&priv);
	set_user(&priv, "alice", "wrong", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_denied(&priv);
	/* taken away, or with nothing of use in it */
	set(priv.host, "", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_denied(&priv);
	set(priv.host, "{\"auths\": {}}", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_denied(&priv);
	set(priv.host, "user:password", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_denied(&priv);
	set_user(&priv, "alice", "secret", AUTH_SET_NOW);
	until_told(++n, &priv);
	want_well(&priv);
	/* those that were there before are no news */
	set_user(&priv, "alice", "secret", AUTH_SET);
	want_well(&priv);
	assert_int_equal(n_told, n);
}

/* Set while cached was away: it is told when it is there. */
static void
test_a_new_cached_is_told_too(void **state)
{
	unsigned n = n_told;

	(void)state;
	ipc_free(conn);
	conn = NULL;
	set_user(&tls, "bob", "hidden", AUTH_SET_NOW);
	give_link();
	until_told(n + 1, &tls);
	want_well(&tls);
}

static void
test_referrers_are_asked_for_as_who_we_are(void **state)
{
	struct answer *a;

	(void)state;
	refer(&priv, priv.manifest, TYPE, 2);
	tell(&priv, "auth?mode=basic");
	tell(&priv, "revoke");
	want_referring(ask(&priv, OP_REFERRERS), priv.manifest, TYPE, 2);
	tell(&priv, "auth?mode=bearer&ttl=60");
	tell(&priv, "revoke");
	a = ask(&priv, OP_REFERRERS);
	want_referring(a, priv.manifest, TYPE, 2);
	assert_true(a->requests == 3 || a->requests == 4);
	/* one challenge, for the API or for the tag */
	tell(&priv, "referrers?mode=tag");
	tell(&priv, "revoke");
	a = ask(&priv, OP_REFERRERS);
	want_referring(a, priv.manifest, TYPE, 2);
	assert_int_equal(a->requests, 4);
	tell(&priv, "revoke");
	tell(&priv, "fault?referrers=status:404");
	a = ask(&priv, OP_REFERRERS);
	want_referring(a, priv.manifest, TYPE, 2);
	assert_int_equal(a->requests, 4);
	tell(&priv, "heal");
	/* who is refused is told so, and not that there are none */
	tell(&priv, "fault?manifest=unauthorized");
	want_failure(ask(&priv, OP_REFERRERS), CODE(AUTH_DENIED), false);
	tell(&priv, "heal");
	tell(&priv, "referrers?mode=api");
	/* and a target gets nothing: see the logs */
	tell(&priv, "fault?referrers=redirect");
	want_referring(ask(&priv, OP_REFERRERS), priv.manifest, TYPE, 2);
	/* where it has no API, the tag is the registry's, and so are we */
	tell(&priv, "referrers?mode=tag");
	want_referring(ask(&priv, OP_REFERRERS), priv.manifest, TYPE, 2);
	tell(&priv, "referrers?mode=api");
	tell(&priv, "fault?target=unauthorized");
	want_failure(ask(&priv, OP_REFERRERS), CODE(AUTH_DENIED), true);
	tell(&priv, "heal");
	want_well(&priv);
}

/* ---- TLS ---- */

static void
test_tls_with_its_own_ca(void **state)
{
	(void)state;
	want_well(&tls);
	want_range(&tls, 0, BLOB_SIZE);
	refer(&tls, tls.manifest, TYPE, 1);
	want_referring(ask(&tls, OP_REFERRERS), tls.manifest, TYPE, 1);
	tell(&tls, "fault?blob=redirect");
	want_ok(ask(&tls, OP_FETCH));
	tell(&tls, "revoke");
	tell(&tls, "heal");
}

static void
test_https_never_leads_to_http(void **state)
{
	(void)state;
	tell(&tls, "fault?blob=downgrade");
	want_failure(ask(&tls, OP_FETCH), CODE(REGISTRY_UNREACHABLE), false);
	tell(&tls, "heal");
	tell(&tls, "revoke");
	tell(&tls, "auth?mode=bearer");
	tell(&tls, "fault?blob=realm-http");
	want_failure(ask(&tls, OP_FETCH), CODE(AUTH_DENIED), false);
	tell(&tls, "heal");
	want_well(&tls);
	tell(&tls, "auth?mode=none");
}

static void
test_an_unknown_certificate_is_refused(void **state)
{
	char path[PATH_MAX];
	struct answer *a;

	(void)state;
	path_in(path, "other.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
	usleep(100000);
	a = ask(&tls, OP_FETCH);
	want_failure(a, CODE(REGISTRY_UNREACHABLE), false);
	assert_int_equal(a->requests, 0);
	path_in(path, "cert.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
	usleep(100000);
	want_well(&tls);
}

static void
test_insecure_is_https_unchecked_or_http(void **state)
{
	char text[512], path[PATH_MAX];

	(void)state;
	path_in(path, "other.pem");
	give(PARENT_CA, tls.host, open(path, O_RDONLY | O_CLOEXEC));
	snprintf(text, sizeof(text), "[registry \"%s\"]\ninsecure = yes\n"
	    "[registry \"%s\"]\ninsecure = yes\n", plain.host, tls.host);
	give_text(PARENT_CONF, "", text);
	usleep(100000);
	want_well(&tls);
	want_well(&plain);
	configure();
	usleep(100000);
	want_well(&tls);
	want_well(&plain);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_basic),
		cmocka_unit_test(test_bearer),
		cmocka_unit_test(test_a_token_is_renewed_before_it_expires),
		cmocka_unit_test(
		    test_a_token_in_use_is_renewed_before_it_is_needed),
		cmocka_unit_test(test_a_renewal_that_fails_is_tried_again),
		cmocka_unit_test(test_403_to_a_token_is_a_reason_for_one_more),
		cmocka_unit_test(test_one_token_for_all_who_wait),
		cmocka_unit_test(test_token_server_faults),
		cmocka_unit_test(test_a_token_server_that_hangs),
		cmocka_unit_test(test_a_target_gets_no_credentials),
		cmocka_unit_test(test_a_target_may_not_borrow_credentials),
		cmocka_unit_test(test_new_credentials_count_at_once),
		cmocka_unit_test(test_cached_is_told_of_credentials_that_count),
		cmocka_unit_test(test_a_new_cached_is_told_too),
		cmocka_unit_test(test_referrers_are_asked_for_as_who_we_are),
		cmocka_unit_test(test_tls_with_its_own_ca),
		cmocka_unit_test(test_https_never_leads_to_http),
		cmocka_unit_test(test_an_unknown_certificate_is_refused),
		cmocka_unit_test(test_insecure_is_https_unchecked_or_http),
		cmocka_unit_test(test_the_logs_agree),
	};

	if (!host_has_users())
		return 0;
	return cmocka_run_group_tests(tests, start, end);
}
