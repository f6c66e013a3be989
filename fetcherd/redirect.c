// SPDX-License-Identifier: Apache-2.0
/*
 * Where a registry may send us: only http and https URLs without a user in
 * them; the rules on hosts and addresses are request.c's and guard.c's.  And
 * where it did: the last target of each blob, so that the next range goes
 * straight there.  That is only a short cut: a target that has expired answers
 * with an error, is forgotten, and the registry is asked again.
 *
 * curl itself follows nothing, so that no header of ours travels with it.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

struct target {
	TAILQ_ENTRY(target) entry;
	uint64_t site;		/* its id */
	char *repo, *digest, *url;
	uint64_t until;		/* microseconds, of now_us() */
};

static TAILQ_HEAD(, target) targets = TAILQ_HEAD_INITIALIZER(targets);
static unsigned n_targets;

static void
url_release(CURLU **u)
{
	curl_url_cleanup(*u);
}

static void
part_release(char **part)
{
	curl_free(*part);
}

#define _cleanup_url_	_cleanup_(url_release)
#define _cleanup_part_	_cleanup_(part_release)

/* No user, and a scheme that we speak. */
static int
url_check(CURLU *u)
{
	_cleanup_part_ char *scheme = NULL, *user = NULL, *password = NULL;

	if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
		return -EINVAL;
	if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
		return -EINVAL;
	if (curl_url_get(u, CURLUPART_USER, &user, 0) != CURLUE_NO_USER ||
	    curl_url_get(u, CURLUPART_PASSWORD, &password, 0) !=
	    CURLUE_NO_PASSWORD)
		return -EINVAL;
	return 0;
}

static int
url_origin(CURLU *u, struct origin *out)
{
	_cleanup_part_ char *scheme = NULL, *host = NULL, *port = NULL;
	uint64_t n;

	if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
	    curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
	    curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) !=
	    CURLUE_OK)
		return -EINVAL;
	if (strlen(scheme) >= sizeof(out->scheme) || strlen(host) > HOST_MAX ||
	    head_number(port, &n) < 0 || n == 0 || n > UINT16_MAX)
		return -EINVAL;
	/* it is shown in sentences */
	for (const char *c = host; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-._:[]", *c))
			return -EINVAL;
	strcpy(out->scheme, scheme);
	strcpy(out->host, host);
	out->port = (uint16_t)n;
	return 0;
}

int
redirect_origin(const char *url, struct origin *out)
{
	_cleanup_url_ CURLU *u = curl_url();

	if (!u)
		return -ENOMEM;
	if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
	    url_check(u) < 0)
		return -EINVAL;
	return url_origin(u, out);
}

bool
redirect_same(const struct origin *a, const struct origin *b)
{
	return strcmp(a->scheme, b->scheme) == 0 &&
	    strcasecmp(a->host, b->host) == 0 && a->port == b->port;
}

int
redirect_resolve(const char *base, const char *location, char **out)
{
	_cleanup_url_ CURLU *u = curl_url();
	_cleanup_part_ char *whole = NULL;
	struct origin origin;

	if (!u)
		return -ENOMEM;
	if (strlen(location) > URL_MAX ||
	    curl_url_set(u, CURLUPART_URL, base, 0) != CURLUE_OK ||
	    curl_url_set(u, CURLUPART_URL, location, 0) != CURLUE_OK ||
	    curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0) != CURLUE_OK ||
	    url_check(u) < 0 || url_origin(u, &origin) < 0 ||
	    curl_url_get(u, CURLUPART_URL, &whole, 0) != CURLUE_OK ||
	    strlen(whole) > URL_MAX)
		return -EINVAL;
	*out = strdup(whole);
	return *out ? 0 : -ENOMEM;
}

/* ---- targets ---- */

static void
target_free(struct target *t)
{
	TAILQ_REMOVE(&targets, t, entry);
	n_targets--;
	free(t->repo);
	free(t->digest);
	free(t->url);
	free(t);
}

static struct target *
target_find(const struct site *site, const char *repo, const char *digest)
{
	struct target *t;

	TAILQ_FOREACH(t, &targets, entry)
		if (t->site == site->id && strcmp(t->digest, digest) == 0 &&
		    strcmp(t->repo, repo) == 0)
			return t;
	return NULL;
}

const char *
redirect_recall(const struct site *site, const char *repo, const char *digest)
{
	struct target *t = target_find(site, repo, digest);

	if (!t)
		return NULL;
	if (t->until <= now_us()) {
		target_free(t);
		return NULL;
	}
	return t->url;
}

void
redirect_remember(const struct site *site, const char *repo,
    const char *digest, const char *url)
{
	struct target *t;

	redirect_forget(site, repo, digest);
	if (n_targets == TARGETS_MAX)
		target_free(TAILQ_FIRST(&targets));
	t = calloc(1, sizeof(*t));
	if (!t)
		return;
	TAILQ_INSERT_TAIL(&targets, t, entry);
	n_targets++;
	t->site = site->id;
	t->repo = strdup(repo);
	t->digest = strdup(digest);
	t->url = strdup(url);
	t->until = now_us() + (uint64_t)TIME_TARGET_S * 1000000;
	if (!t->repo || !t->digest || !t->url)
		target_free(t);
}

void
redirect_forget(const struct site *site, const char *repo, const char *digest)
{
	struct target *t = target_find(site, repo, digest);

	if (t)
		target_free(t);
}
