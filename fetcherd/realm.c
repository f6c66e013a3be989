// SPDX-License-Identifier: Apache-2.0
/*
 * A registry's token server, its realm: may our credentials go there, and what
 * is it asked.  Of fetcherd and of shedpack.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

bool
realm_allowed(const struct origin *registry, const struct origin *realm)
{
	if (strcmp(realm->scheme, "https") == 0)
		return true;
	if (strcmp(registry->scheme, "https") == 0)
		return false;
	return strcasecmp(realm->host, registry->host) == 0 ||
	    (guard_loopback_host(realm->host) &&
	    guard_loopback_host(registry->host));
}

static void
curlu_release(CURLU **u)
{
	curl_url_cleanup(*u);
}

static int
query_add(CURLU *u, const char *name, const char *value)
{
	_cleanup_free_ char *pair = NULL;

	if (asprintf(&pair, "%s=%s", name, value) < 0) {
		pair = NULL;
		return -ENOMEM;
	}
	return curl_url_set(u, CURLUPART_QUERY, pair,
	    CURLU_APPENDQUERY | CURLU_URLENCODE) == CURLUE_OK ? 0 : -EINVAL;
}

int
realm_url(const char *base, const struct challenge *c, const char *scope,
    char **out)
{
	_cleanup_(curlu_release) CURLU *u = curl_url();
	_cleanup_free_ char *realm = NULL;
	char *url;
	int r;

	if (!u)
		return -ENOMEM;
	r = redirect_resolve(base, c->realm, &realm);
	if (r < 0)
		return r;
	if (curl_url_set(u, CURLUPART_URL, realm, 0) != CURLUE_OK)
		return -EINVAL;
	if (c->service[0])
		r = query_add(u, "service", c->service);
	if (r == 0)
		r = query_add(u, "scope", scope);
	if (r < 0)
		return r;
	if (curl_url_get(u, CURLUPART_URL, &url, 0) != CURLUE_OK)
		return -EINVAL;
	*out = strdup(url);
	curl_free(url);
	return *out ? 0 : -ENOMEM;
}
