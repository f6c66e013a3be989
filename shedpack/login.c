// SPDX-License-Identifier: Apache-2.0
/*
 * Who we are to a registry.  Nothing is sent before it has asked: its 401 says
 * Basic, and then the credentials go with every request to it, or Bearer, and
 * then a token server is asked for a token that may pull and push, with those
 * credentials if there are any.
 *
 * Credentials come from docker's config.json, `auths` only: no helper is run.
 * They go to a token server over HTTPS, or over HTTP where the registry itself
 * speaks that and both are on one host or on loopback.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "shedpack/registry.h"

int
login_load(struct registry *r, struct refusal *why)
{
	const char *dir = getenv("DOCKER_CONFIG"), *home = getenv("HOME");
	_cleanup_secret_ char *text = NULL;
	_cleanup_close_ int fd = -1;
	size_t len;
	int error;

	if (dir && *dir)
		error = asprintf(&r->auth_file, "%s/config.json", dir);
	else
		error = asprintf(&r->auth_file, "%s/.docker/config.json",
		    home && *home ? home : "/nonexistent");
	if (error < 0) {
		r->auth_file = NULL;
		return refuse(why, "no memory for credentials; free some");
	}
	fd = open(r->auth_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	error = fd < 0 ? -errno : fd_read_text(fd, AUTH_FILE_MAX, &text, &len);
	if (error < 0)
		return refuse(why, "cannot read %s: %s; check it",
		    r->auth_file, strerror(-error));
	/* why there are none is told if the registry wants some */
	(void)secret_auth_file(text, len, r->host, &r->credentials);
	return 0;
}

int
login_refused(const struct registry *r, const char *server,
    struct refusal *why)
{
	if (r->credentials.user)
		return refuse(why, "%s: %s refuses the credentials of %s for "
		    "this repository; check them, and that they may push",
		    r->where, server, r->auth_file);
	if (r->credentials.problem[0])
		return refuse(why, "%s: %s wants credentials and %s (%s)",
		    r->where, server, r->credentials.problem, r->auth_file);
	return refuse(why, "%s: %s wants credentials and there is no %s; log "
	    "in with `docker login` or `skopeo login --authfile %s`", r->where,
	    server, r->auth_file, r->auth_file);
}

static int
no_memory(struct refusal *why)
{
	return refuse(why, "no memory to log in; free some");
}

/* The scope is our own: the challenge's is that of the first request, which
 * only pulls. */
static int
token_url(const struct registry *r, const struct challenge *c, char **out)
{
	_cleanup_free_ char *scope = NULL;

	if (asprintf(&scope, "repository:%s:pull,push", r->repo) < 0) {
		scope = NULL;
		return -ENOMEM;
	}
	return realm_url(r->base, c, scope, out);
}

static int
token_answer(struct registry *r, const struct reply *reply,
    const char *server, struct refusal *why)
{
	_cleanup_secret_ char *token = NULL;
	uint32_t seconds;

	if (reply->head.status == 401 || reply->head.status == 403)
		return login_refused(r, server, why);
	if (reply->head.status != 200) {
		refuse(why, "%s: the token server %s answers with status %d; "
		    "check the registry", r->where, server,
		    reply->head.status);
		return reply->head.status >= 500 ||
		    reply->head.status == 429 ? -EAGAIN : -EINVAL;
	}
	if (secret_token(reply->body ? reply->body : "", reply->len, &token,
	    &seconds) < 0)
		return refuse(why, "%s: %s sent no token that can be used; "
		    "check the registry's token server", r->where, server);
	if (asprintf(&r->authorization, "Bearer %s", token) < 0) {
		r->authorization = NULL;
		return no_memory(why);
	}
	return 0;
}

static int
token_fetch(struct registry *r, const char *url, const struct origin *realm,
    struct refusal *why)
{
	_cleanup_secret_ char *basic = NULL;
	_cleanup_(reply_done) struct reply reply = { 0 };
	const struct ask ask = { .method = "GET", .accept = "application/json",
		.max = TOKEN_JSON_MAX };
	const struct guard guard = { .own = redirect_same(realm, &r->origin),
		.like = r->class };
	int error;

	if (r->credentials.user && !(basic = secret_basic(&r->credentials)))
		return no_memory(why);
	if (http_exchange(r, &ask, url, basic, &guard, &reply) < 0)
		return no_memory(why);
	if (interrupted)
		return refuse_interrupted(why);
	if (reply.refused)
		return refuse(why, "%s: its token server %s is at a %s "
		    "address, where this registry may not lead; check the "
		    "registry's settings", r->where, realm->host,
		    guard_name(reply.class));
	if (reply.curl != CURLE_OK || reply.too_long) {
		refuse(why, "%s: its token server %s does not answer as one "
		    "(%.160s); check it", r->where, realm->host, reply.error);
		return reply.too_long ? -EINVAL : -EAGAIN;
	}
	error = token_answer(r, &reply, realm->host, why);
	if (reply.body)
		explicit_bzero(reply.body, reply.len);
	return error;
}

static int
challenged_bearer(struct registry *r, const struct challenge *c,
    struct refusal *why)
{
	_cleanup_free_ char *url = NULL;
	struct origin realm;

	if (token_url(r, c, &url) < 0 || redirect_origin(url, &realm) < 0)
		return refuse(why, "%s: its token server's address cannot be "
		    "used; check the registry's settings", r->where);
	if (!realm_allowed(&r->origin, &realm))
		return refuse(why, "%s: its token server %s is to be asked "
		    "over plain HTTP, which is refused; check the registry's "
		    "settings", r->where, realm.host);
	return token_fetch(r, url, &realm, why);
}

int
login_challenged(struct registry *r, const char *challenge,
    struct refusal *why)
{
	struct challenge c;
	bool had_basic = r->authorization &&
	    strncmp(r->authorization, "Basic ", 6) == 0;

	secret_free(take_ptr(r->authorization));
	if (!challenge || head_challenge(challenge, &c) < 0)
		return refuse(why, "%s: the registry wants a kind of login "
		    "that is not supported; Basic and Bearer are", r->where);
	if (c.scheme == CHALLENGE_BEARER)
		return challenged_bearer(r, &c, why);
	if (!r->credentials.user || had_basic)
		return login_refused(r, r->host, why);
	r->authorization = secret_basic(&r->credentials);
	return r->authorization ? 0 : no_memory(why);
}
