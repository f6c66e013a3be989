// SPDX-License-Identifier: Apache-2.0
/*
 * Who we are to a registry.  Nothing is sent before it has asked: its 401 says
 * Basic, and then the credentials of its auth-file go with every request to
 * it, or Bearer, and then a token server is asked, with those credentials if
 * there are any.  Tokens are kept per repository until shortly before they
 * expire, and asked for once, however many requests wait:
 *
 *	NONE --challenge--> FETCHING --ok--> HELD --soon expired, next use--+
 *	  ^                  |   ^            | 401, 403                    |
 *	  +----failed--------+   +------------+-----------------------------+
 *
 * Nobody has to wait for a token that is in use: earlier than that, a timer has
 * another one fetched while the old one is still good for requests.  Should
 * that fail, it is HELD on, and the next request tries again.
 *
 * What a registry is given reaches its own scheme, host and port only; a token
 * server gets the credentials over HTTPS, or over HTTP where the registry
 * itself speaks that and both are on one host or on loopback.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "fetcherd/fetcherd.h"

struct token {
	LIST_ENTRY(token) entry;
	struct site *site;
	char *repo;
	struct challenge challenge;
	char *header;		/* "Bearer ...", secret; NULL: none */
	uint64_t until;		/* of now_us() */
	uint64_t got, used;	/* likewise: when it came, and the last time it
				 * was sent */
	struct event *due;	/* another is to be fetched */
	uint64_t again;		/* that has failed: again from then on; or 0 */
	unsigned requests;	/* what it cost, for the next who uses it */
	uint64_t body_bytes;

	/* while it is being fetched */
	struct transfer *transfer;
	TAILQ_HEAD(, auth_waiter) waiters;
	char *json;		/* secret */
	size_t len;
	struct failure failure;
	char server[HOST_MAX + 1];
	bool with_credentials;
};

static struct event_base *base;

void
auth_init(struct event_base *event_base)
{
	base = event_base;
}

static void
token_drop(struct token *t)
{
	secret_free(take_ptr(t->header));
	t->until = 0;
	t->again = 0;
	event_del(t->due);
}

static bool
token_good(const struct token *t)
{
	return t->header && t->until > now_us();
}

static void
json_drop(struct token *t)
{
	if (t->json)
		explicit_bzero(t->json, t->len);
	free(take_ptr(t->json));
	t->len = 0;
}

static void
token_free(struct token *t)
{
	LIST_REMOVE(t, entry);
	t->site->n_tokens--;
	token_drop(t);
	event_free(t->due);
	json_drop(t);
	free(t->repo);
	free(t);
}

static struct token *
token_find(const struct site *site, const char *repo)
{
	struct token *t;

	LIST_FOREACH(t, &site->tokens, entry)
		if (strcmp(t->repo, repo) == 0)
			return t;
	return NULL;
}

static void
token_evict(struct site *site)
{
	struct token *t;

	LIST_FOREACH(t, &site->tokens, entry)
		if (!t->transfer) {
			token_free(t);
			return;
		}
}

static void token_due(evutil_socket_t fd, short what, void *arg);

static struct token *
token_get(struct site *site, const char *repo)
{
	struct token *t = token_find(site, repo);

	if (t)
		return t;
	if (site->n_tokens >= TOKENS_MAX)
		token_evict(site);
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->repo = strdup(repo);
	t->due = evtimer_new(base, token_due, t);
	if (!t->repo || !t->due) {
		if (t->due)
			event_free(t->due);
		free(t->repo);
		free(t);
		return NULL;
	}
	t->site = site;
	TAILQ_INIT(&t->waiters);
	LIST_INSERT_HEAD(&site->tokens, t, entry);
	site->n_tokens++;
	return t;
}

void
auth_forget(struct site *site)
{
	struct token *t, *next;

	site->basic = false;
	for (t = LIST_FIRST(&site->tokens); t; t = next) {
		next = LIST_NEXT(t, entry);
		if (t->transfer)
			token_drop(t);	/* its waiters get what comes */
		else
			token_free(t);
	}
}

/* ---- asking the token server ---- */

static void
no_memory(const struct site *site, const char *repo, struct failure *f)
{
	failure_set(f, CTL_CODE(INTERNAL), true,
	    "%s/%s: no memory to log in", site->host, repo);
}

void
auth_denied(const struct site *site, const char *repo, const char *server,
    struct failure *f)
{
	const struct credentials *c = site_credentials(site);

	if (c->user)
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    "%s/%s: %s refuses its credentials for this repository; "
		    "give others by `shedctl login %s`, or in its auth-file",
		    site->host, repo, server, site->section->host);
	else if (site_withholds(site))
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    "%s/%s: %s wants credentials, and those of %s were given "
		    "for %s; use that as the mirror's URL, or set insecure = "
		    "yes in [registry \"%s\"] if they may go in clear",
		    site->host, repo, server, site->section->host,
		    site->section->base, site->section->host);
	else if (c->problem[0])
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    "%s/%s: %s wants credentials and %s", site->host, repo,
		    server, c->problem);
	else
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    "%s/%s: %s refuses anonymous access; run `shedctl login "
		    "%s`, or name an auth-file in its [registry] section",
		    site->host, repo, server, site->section->host);
}

/* realm?service=SERVICE&scope=SCOPE */
static int
token_url(const struct token *t, char **out)
{
	_cleanup_free_ char *scope = NULL;

	if (asprintf(&scope, "repository:%s:pull", t->repo) < 0) {
		scope = NULL;
		return -ENOMEM;
	}
	return realm_url(t->site->base, &t->challenge, t->challenge.scope[0] ?
	    t->challenge.scope : scope, out);
}

static enum verdict
token_head(void *owner, const struct head *head, enum address_class class)
{
	struct token *t = owner;
	uint32_t wait = 0;
	char where[HOST_MAX + REPO_MAX + 2];

	(void)class;
	if (head->status == 200)
		return BODY_TAKE;
	snprintf(where, sizeof(where), "%s/%s", t->site->host, t->repo);
	if (head->status == 401 || head->status == 403) {
		auth_denied(t->site, t->repo, t->server, &t->failure);
		t->failure.http_status = (uint32_t)head->status;
		return BODY_SKIP;
	}
	if (head->field[HEAD_RETRY_AFTER])
		(void)head_retry_after(head->field[HEAD_RETRY_AFTER],
		    time(NULL), &wait);
	failure_of_status(&t->failure, head->status, wait, where, t->server);
	return BODY_SKIP;
}

static enum taken
token_body(void *owner, const void *data, size_t len)
{
	struct token *t = owner;
	char *grown;

	if (len > TOKEN_JSON_MAX - t->len)
		return TAKEN_NEVER;
	grown = malloc(t->len + len);
	if (!grown)
		return TAKEN_NEVER;
	if (t->len > 0)
		memcpy(grown, t->json, t->len);
	memcpy(grown + t->len, data, len);
	len += t->len;
	json_drop(t);
	t->json = grown;
	t->len = len;
	return TAKEN;
}

/* It lives for so many seconds: it is used until shortly before their end, and
 * another fetched when less than a fifth, and less than 10 s, are left. */
static void
token_times(struct token *t, uint32_t seconds)
{
	uint64_t until, early, now = now_us();
	uint32_t lead = seconds / 5 > TIME_TOKEN_MARGIN_S ? seconds / 5 :
	    TIME_TOKEN_MARGIN_S;
	struct timeval due;

	until = (uint64_t)(seconds > 2 * TIME_TOKEN_MARGIN_S ?
	    seconds - TIME_TOKEN_MARGIN_S : (seconds + 1) / 2) * 1000000;
	if (until < 1000000)
		until = 1000000;	/* however short, it is used once */
	early = seconds > lead ? (uint64_t)(seconds - lead) * 1000000 : until;
	if (early >= until)
		early = until / 4 * 3;
	t->got = now;
	t->until = now + until;
	due = (struct timeval){ (time_t)(early / 1000000),
		(suseconds_t)(early % 1000000) };
	event_add(t->due, &due);
}

/* The answer is whole: a header from it, or the failure. */
static void
token_accept(struct token *t)
{
	char *token;
	uint32_t seconds;

	if (secret_token(t->json, t->len, &token, &seconds) < 0) {
		failure_set(&t->failure, CTL_CODE(AUTH_DENIED), true,
		    "%s/%s: %s sent no token that can be used; check the "
		    "registry's token server", t->site->host, t->repo,
		    t->server);
		return;
	}
	token_drop(t);
	if (asprintf(&t->header, "Bearer %s", token) < 0)
		t->header = NULL;
	secret_free(token);
	if (!t->header) {
		no_memory(t->site, t->repo, &t->failure);
		return;
	}
	token_times(t, seconds);
}

static void
token_fail(struct token *t, const struct outcome *o)
{
	char where[HOST_MAX + REPO_MAX + 2];

	snprintf(where, sizeof(where), "%s/%s", t->site->host, t->repo);
	if (failure_of_proxy(&t->failure, o, where))
		return;
	if (o->refused)
		failure_set(&t->failure, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: its token server %s is at a %s address, which this "
		    "registry may not lead to; check the registry's settings",
		    where, t->server, guard_name(o->class));
	else if (o->stalled)
		failure_set(&t->failure, CTL_CODE(TIMEOUT), true,
		    "%s: its token server %s sent nothing for %d s; check it",
		    where, t->server, TIME_IDLE_MS / 1000);
	else if (o->stopped || o->head_too_long)
		failure_set(&t->failure, CTL_CODE(AUTH_DENIED), true,
		    "%s: %s sent more than a token; check the registry's "
		    "token server", where, t->server);
	else
		failure_of_curl(&t->failure, o->curl, o->error, where,
		    t->server);
}

static void
token_done(void *owner, const struct outcome *o)
{
	struct token *t = owner;
	struct auth_waiter *w = TAILQ_FIRST(&t->waiters);
	struct failure failure;
	bool failed;

	t->transfer = NULL;
	/* one pays for all: who waits, or the next */
	*(w ? &w->requests : &t->requests) += o->requests;
	*(w ? &w->body_bytes : &t->body_bytes) += o->body_bytes;
	if (t->failure.http_status == 407)
		token_fail(t, o);
	if (t->failure.code == 0 && o->curl != CURLE_OK)
		token_fail(t, o);
	if (t->failure.code == 0)
		token_accept(t);
	json_drop(t);
	failed = t->failure.code != 0;
	failure = t->failure;
	if (failed && token_good(t))
		t->again = now_us() + TIME_TOKEN_AGAIN_S * 1000000;
	else if (failed)	/* the registry is asked again, too */
		t->challenge.scheme = CHALLENGE_NONE;
	while ((w = TAILQ_FIRST(&t->waiters))) {
		TAILQ_REMOVE(&t->waiters, w, entry);
		w->token = NULL;
		w->ready(w, failed ? &failure : NULL);
	}
}

static const struct transfer_ops token_ops = {
	.head = token_head,
	.body = token_body,
	.done = token_done,
};

static int
token_start(struct token *t, const char *url, const struct origin *realm)
{
	_cleanup_secret_ char *basic = NULL;
	struct exchange x = {
		.site = t->site,
		.url = url,
		.guard = { .own = redirect_same(realm, &t->site->origin),
		    .like = t->site->class },
		.accept = "application/json",
	};

	if (site_credentials(t->site)->user) {
		basic = secret_basic(site_credentials(t->site));
		if (!basic)
			return -ENOMEM;
		x.authorization = basic;
	}
	t->transfer = transfer_start(&x, &token_ops, t);
	return t->transfer ? 0 : -ENOMEM;
}

/* Send the question, unless the realm is none to send it to. */
static int
token_ask(struct token *t, struct failure *f)
{
	_cleanup_free_ char *url = NULL;
	struct origin realm;

	if (token_url(t, &url) < 0 || redirect_origin(url, &realm) < 0) {
		failure_set(f, CTL_CODE(AUTH_DENIED), true,
		    "%s/%s: its token server's address can't be used; check "
		    "the registry's settings", t->site->host, t->repo);
		return -EINVAL;
	}
	if (!realm_allowed(&t->site->origin, &realm)) {
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    "%s/%s: its token server %s is to be asked over plain "
		    "HTTP, which is refused; check the registry's settings",
		    t->site->host, t->repo, realm.host);
		return -EINVAL;
	}
	strcpy(t->server, realm.host);
	t->failure = (struct failure){ 0 };
	if (token_start(t, url, &realm) < 0) {
		no_memory(t->site, t->repo, f);
		return -ENOMEM;
	}
	return 0;
}

/* Ask, or join those who wait already. */
static enum auth_answer
token_want(struct token *t, struct auth_waiter *w, struct failure *f)
{
	if (!t->transfer && token_ask(t, f) < 0) {
		t->challenge.scheme = CHALLENGE_NONE;
		return AUTH_FAILED;
	}
	w->token = t;
	TAILQ_INSERT_TAIL(&t->waiters, w, entry);
	return AUTH_WAIT;
}

/* Fetch another while this one is good; whether that succeeds matters later. */
static void
token_refresh(struct token *t)
{
	struct failure f = { 0 };

	t->again = 0;
	if (token_ask(t, &f) < 0)
		t->again = now_us() + TIME_TOKEN_AGAIN_S * 1000000;
}

static void
token_due(evutil_socket_t fd, short what, void *arg)
{
	struct token *t = arg;

	(void)fd;
	(void)what;
	/* one that nobody uses any more is left to expire */
	if (!t->transfer && token_good(t) && t->used > t->got &&
	    now_us() - t->used < TIME_TOKEN_USED_S * 1000000ULL)
		token_refresh(t);
}

/* The header to send, which is good. */
static char *
token_use(struct token *t, struct auth_waiter *w)
{
	t->used = now_us();
	w->requests += t->requests;
	w->body_bytes += t->body_bytes;
	t->requests = 0;
	t->body_bytes = 0;
	if (!t->transfer && t->again && t->again <= t->used)
		token_refresh(t);
	return strdup(t->header);
}

/* ---- for request.c ---- */

enum auth_answer
auth_prepare(struct site *site, const char *repo, struct auth_waiter *w,
    char **header, struct failure *f)
{
	struct token *t = token_find(site, repo);

	*header = NULL;
	if (site->basic && site_credentials(site)->user) {
		*header = secret_basic(site_credentials(site));
	} else if (!t || t->challenge.scheme != CHALLENGE_BEARER) {
		return AUTH_GO;
	} else if (!token_good(t)) {
		return token_want(t, w, f);
	} else {
		*header = token_use(t, w);
	}
	if (*header)
		return AUTH_GO;
	no_memory(site, repo, f);
	return AUTH_FAILED;
}

static enum auth_answer
challenged_basic(struct site *site, const char *repo, const char *sent,
    struct failure *f)
{
	if (!site_credentials(site)->user || (sent && site->basic)) {
		auth_denied(site, repo, site->section->host, f);
		f->http_status = 401;
		return AUTH_FAILED;
	}
	site->basic = true;
	return AUTH_GO;
}

/* Is there a better one than `sent` to be had?  A token may be out of date;
 * credentials are as they are, unless others were given meanwhile. */
static enum auth_answer
auth_stale(struct site *site, const char *repo, const char *sent,
    struct auth_waiter *w, struct failure *f)
{
	_cleanup_secret_ char *basic = NULL;
	struct token *t = token_find(site, repo);

	if (t && t->challenge.scheme == CHALLENGE_BEARER &&
	    strncmp(sent, "Bearer ", 7) == 0) {
		if (token_good(t) && strcmp(sent, t->header) != 0)
			return AUTH_GO;
		if (!t->transfer)
			token_drop(t);
		return token_want(t, w, f);
	}
	if (site_credentials(site)->user)
		basic = secret_basic(site_credentials(site));
	if (basic && strcmp(sent, basic) != 0)
		return AUTH_GO;
	auth_denied(site, repo, site->section->host, f);
	return AUTH_FAILED;
}

enum auth_answer
auth_challenged(struct site *site, const char *repo, const char *challenge,
    const char *sent, struct auth_waiter *w, struct failure *f)
{
	struct challenge c;
	struct token *t;

	if (!challenge && sent)
		return auth_stale(site, repo, sent, w, f);
	if (!challenge || head_challenge(challenge, &c) < 0) {
		failure_set(f, CTL_CODE(AUTH_DENIED), false, "%s/%s: %s wants "
		    "a kind of login that is not supported; Basic and Bearer "
		    "are", site->host, repo, site->section->host);
		f->http_status = 401;
		return AUTH_FAILED;
	}
	if (c.scheme == CHALLENGE_BASIC)
		return challenged_basic(site, repo, sent, f);
	site->basic = false;
	t = token_get(site, repo);
	if (!t) {
		no_memory(site, repo, f);
		return AUTH_FAILED;
	}
	if (token_good(t) &&
	    (!sent || (strncmp(sent, "Bearer ", 7) == 0 &&
	    strcmp(sent, t->header) != 0)))
		return AUTH_GO;		/* renewed meanwhile */
	token_drop(t);
	if (!t->transfer)
		t->challenge = c;
	return token_want(t, w, f);
}

void
auth_refused(struct site *site, const char *repo)
{
	struct token *t = token_find(site, repo);

	site->basic = false;
	if (t)
		token_drop(t);
}

void
auth_cancel(struct auth_waiter *w)
{
	if (!w->token)
		return;
	TAILQ_REMOVE(&w->token->waiters, w, entry);
	w->token = NULL;
}
