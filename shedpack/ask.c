// SPDX-License-Identifier: Apache-2.0
/*
 * A request until its final answer:
 *
 *	send --401--> log in, once --> send
 *	  | \--30x--> the next address, REDIRECTS_MAX times --> send
 *	  +--lost, 408, 425, 429, 5xx--> wait --> from the start, TRIES times
 *	  +--> answer
 *
 * What the registry asked for as a login goes to its own scheme, host and port
 * only, and nothing goes from https to http.  The sentences are our own; of
 * the registry's words only its error's code and message are shown.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <time.h>

#include "base/own.h"
#include "shedpack/registry.h"

/* ---- what went wrong ---- */

struct reason {
	CURLcode curl;
	const char *text;	/* completes "WHERE: HOST ..." */
};

static const struct reason reasons[] = {
	{ CURLE_COULDNT_RESOLVE_HOST, "has no address that can be looked up; check the name and this host's DNS" },
	{ CURLE_COULDNT_CONNECT, "does not accept connections; check that the registry is up and the port is right" },
	{ CURLE_OPERATION_TIMEDOUT, "did not answer in time; check the network and the registry" },
	{ CURLE_SSL_CONNECT_ERROR, "did not agree on TLS; if it speaks plain HTTP, use --insecure" },
	{ CURLE_PARTIAL_FILE, "ended its answer early; check the registry and what stands in front of it" },
	{ CURLE_RECV_ERROR, "broke the connection; check the registry and the network" },
	{ CURLE_SEND_ERROR, "broke the connection; check the registry and the network" },
	{ CURLE_GOT_NOTHING, "closed the connection without an answer; check the registry" },
	{ CURLE_WEIRD_SERVER_REPLY, "sent something that is not HTTP; check that this is a registry" },
	{ CURLE_UNSUPPORTED_PROTOCOL, "sent something that is not HTTP; check that this is a registry" },
};

static const char *
server_of(const struct registry *r, const struct reply *reply,
    struct origin *space)
{
	if (redirect_origin(reply->url, space) < 0 ||
	    redirect_same(space, &r->origin))
		return r->host;		/* as it was named, with its port */
	return space->host;
}

/* There was no answer.  -EAGAIN: another try may bring one. */
static int
lost(const struct registry *r, const struct ask *ask,
    const struct reply *reply, struct refusal *why)
{
	struct origin at;
	const char *server = server_of(r, reply, &at);

	if (interrupted)
		return refuse_interrupted(why);
	if (reply->refused)
		return refuse(why, "%s: %s is at a %s address, where this "
		    "registry may not lead; check the registry's settings",
		    r->where, server, guard_name(reply->class));
	if (reply->too_long)
		return refuse(why, "%s: %s answers with more than was asked "
		    "for; check that this is a registry", r->where, server);
	if (reply->curl == CURLE_ABORTED_BY_CALLBACK && !ask->body)
		return refuse(why, "%s: a blob could not be read, or became "
		    "shorter, while it was sent; run `shedpack verify`",
		    r->where);
	if (reply->curl == CURLE_PEER_FAILED_VERIFICATION)
		return refuse(why, "%s: the certificate of %s is not trusted "
		    "(%.160s); name its authority with --ca", r->where, server,
		    reply->error);
	if (reply->curl == CURLE_SSL_CACERT_BADFILE)
		return refuse(why, "%s cannot be used as a file of "
		    "certificates; check it", r->ca);
	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		if (reasons[i].curl == reply->curl) {
			refuse(why, "%s: %s %s", r->where, server,
			    reasons[i].text);
			/* who never answered is more likely misspelt */
			return r->answered ? -EAGAIN : -EINVAL;
		}
	refuse(why, "%s: the exchange with %s failed (%.160s); check the "
	    "registry and the network", r->where, server, reply->error);
	return r->answered ? -EAGAIN : -EINVAL;
}

static bool
is_transient(int status)
{
	return status == 408 || status == 425 || status == 429 ||
	    (status >= 500 && status != 501 && status != 505);
}

/* What the registry itself says of it: " (CODE: message)", or "". */
static void
registry_says(const struct reply *reply, char *buf, size_t size)
{
	json_t *root = reply->body ? json_loadb(reply->body, reply->len, 0,
	    NULL) : NULL;
	const json_t *error = json_array_get(json_object_get(root, "errors"),
	    0);
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error,
	    "message"));

	buf[0] = '\0';
	if (code)
		snprintf(buf, size, " (%.40s: %.160s)", code,
		    message ? message : "");
	json_decref(root);
}

int
ask_refused(const struct registry *r, const struct reply *reply,
    const char *what, struct refusal *why)
{
	int status = reply->head.status;
	const char *remedy = "see the registry's log";
	char says[256];

	registry_says(reply, says, sizeof(says));
	if (status == 401 || status == 403)
		remedy = "check that these credentials may push there";
	else if (status == 404)
		remedy = "check the repository's name, and whether it must be "
		    "made first";
	else if (status == 405 || status == 501)
		remedy = "check that this registry takes pushes; a "
		    "pull-through cache does not";
	else if (status == 413)
		remedy = "raise the limit on a request's body of what stands "
		    "in front of the registry";
	else if (status == 429)
		remedy = "wait, or use credentials with a higher limit";
	return refuse(why, "%s: the registry refuses %s with status %d%s; %s",
	    r->where, what, status, says, remedy);
}

int
ask_wait(unsigned n, const struct reply *reply, struct refusal *why)
{
	const char *after = reply->head.field[HEAD_RETRY_AFTER];
	struct timespec left = { .tv_sec = (time_t)WAIT_FIRST_S << n };
	uint32_t asked;

	if (after && head_retry_after(after, time(NULL), &asked) == 0)
		left.tv_sec = MAX(left.tv_sec, (time_t)MIN(asked, WAIT_MAX_S));
	bar_note("%s (trying again in %d s)", why->text, (int)left.tv_sec);
	while (!interrupted && nanosleep(&left, &left) < 0 && errno == EINTR)
		;
	return interrupted ? refuse_interrupted(why) : 0;
}

/* ---- one try ---- */

int
ask_location(const struct registry *r, const struct reply *reply, char **out,
    struct refusal *why)
{
	const char *location = reply->head.field[HEAD_LOCATION];
	_cleanup_free_ char *next = NULL;
	struct origin from, to;

	if (!location || redirect_origin(reply->url, &from) < 0 ||
	    redirect_resolve(reply->url, location, &next) < 0 ||
	    redirect_origin(next, &to) < 0)
		return refuse(why, "%s: the registry sends us to an address "
		    "that cannot be used; check its settings", r->where);
	if (strcmp(from.scheme, "https") == 0 &&
	    strcmp(to.scheme, "https") != 0)
		return refuse(why, "%s: the registry sends us from https to "
		    "plain http at %s, which is refused; have what stands in "
		    "front of it set X-Forwarded-Proto, or the registry use "
		    "relative URLs", r->where, to.host);
	*out = take_ptr(next);
	return 0;
}

static bool
is_redirect(const struct ask *ask, int status)
{
	if (status == 307 || status == 308)
		return true;
	return (status == 301 || status == 302 || status == 303) &&
	    (strcmp(ask->method, "GET") == 0 ||
	    strcmp(ask->method, "HEAD") == 0);
}

/* Send it to that address, with what may go there. */
static int
send_to(struct registry *r, const struct ask *ask, const char *url,
    bool *own, struct reply *reply, struct refusal *why)
{
	struct guard guard = { .like = r->class };
	struct origin at;

	if (redirect_origin(url, &at) < 0)
		return refuse(why, "%s: the registry's address cannot be "
		    "used; check its name", r->where);
	guard.own = *own = redirect_same(&at, &r->origin);
	if (http_exchange(r, ask, url, *own ? r->authorization : NULL, &guard,
	    reply) < 0)
		return refuse(why, "no memory for a request; free some");
	if (reply->curl != CURLE_OK)
		return lost(r, ask, reply, why);
	if (*own) {
		r->answered = true;
		r->class = reply->class;
	}
	return 0;
}

/* Up to a final status.  -EAGAIN: another try may work. */
static int
try_once(struct registry *r, const struct ask *ask, struct reply *reply,
    struct refusal *why)
{
	_cleanup_free_ char *url = strdup(ask->url);
	bool own, challenged = false;
	unsigned redirects = 0;
	int error;

	while (url) {
		int status;

		error = send_to(r, ask, url, &own, reply, why);
		if (error < 0)
			return error;
		status = reply->head.status;
		if (status == 401 && own) {
			if (challenged)
				return login_refused(r, r->host, why);
			challenged = true;
			error = login_challenged(r,
			    reply->head.field[HEAD_CHALLENGE], why);
			if (error < 0)
				return error;
		} else if (is_redirect(ask, status)) {
			char *next;

			if (redirects++ == REDIRECTS_MAX)
				return refuse(why, "%s: the registry sends us "
				    "on and on; check its settings", r->where);
			if (ask_location(r, reply, &next, why) < 0)
				return -EINVAL;
			free(url);
			url = next;
		} else if (is_transient(status)) {
			ask_refused(r, reply, "a request for now", why);
			return -EAGAIN;
		} else {
			return 0;
		}
	}
	return refuse(why, "no memory for a request; free some");
}

int
ask_registry(struct registry *r, const struct ask *ask, struct reply *reply,
    struct refusal *why)
{
	for (unsigned n = 0;; n++) {
		int error = try_once(r, ask, reply, why);

		if (error != -EAGAIN || ask->once || n == TRIES - 1)
			return error;
		if (ask_wait(n, reply, why) < 0)
			return -EINVAL;
	}
}
