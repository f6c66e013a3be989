// SPDX-License-Identifier: Apache-2.0
/*
 * One HTTP exchange by curl.  Redirects, logins and tries are ask.c's.  Here
 * is what holds for each: http and https only, no proxy, .netrc or anything
 * else from the environment, the guard on the address, bounded heads and body,
 * an end when nothing moves, and an end on a signal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/own.h"
#include "shedpack/registry.h"

struct exchanging {
	struct registry *registry;
	const struct ask *ask;
	const struct guard *guard;
	struct reply *reply;
	struct curl_slist *headers;
	uint64_t sent;		/* bytes of the body */
	size_t head_bytes;
	bool head_whole;
};

void
reply_done(struct reply *reply)
{
	head_done(&reply->head);
	free(reply->body);
	free(reply->url);
	*reply = (struct reply){ 0 };
}

/* ---- curl's callbacks ---- */

static bool
guard_check(struct exchanging *e, enum address_class class)
{
	e->reply->refused = !guard_allows(e->guard, class);
	e->reply->class = class;
	return !e->reply->refused;
}

static curl_socket_t
on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	(void)purpose;
	if (!guard_check(arg, guard_class(&address->addr)))
		return CURL_SOCKET_BAD;
	return socket(address->family, address->socktype | SOCK_CLOEXEC,
	    address->protocol);
}

/* The request is about to go out, maybe on a connection that an exchange under
 * another guard has opened. */
static int
on_connected(void *arg, char *ip, char *local, int port, int local_port)
{
	enum address_class class;

	(void)local;
	(void)port;
	(void)local_port;
	if (guard_text(ip, &class) < 0 || !guard_check(arg, class))
		return CURL_PREREQFUNC_ABORT;
	return CURL_PREREQFUNC_OK;
}

static size_t
on_head_line(char *line, size_t size, size_t n, void *arg)
{
	struct exchanging *e = arg;
	size_t len = size * n;
	int r;

	e->head_bytes += len;
	if (e->head_bytes > HEAD_MAX) {
		e->reply->too_long = true;
		return 0;
	}
	if (e->head_whole)
		return len;		/* trailers */
	r = head_line(&e->reply->head, line, len);
	if (r < 0)
		return 0;
	e->head_whole = r > 0 && e->reply->head.status >= 200;
	return len;
}

static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	struct exchanging *e = arg;
	struct reply *reply = e->reply;
	size_t len = size * n;
	char *grown;

	if (!e->head_whole || len > e->ask->max - reply->len) {
		reply->too_long = true;
		return 0;
	}
	grown = realloc(reply->body, reply->len + len + 1);
	if (!grown)
		return 0;
	memcpy(grown + reply->len, data, len);
	reply->body = grown;
	reply->len += len;
	grown[reply->len] = '\0';
	return len;
}

static size_t
on_send(char *to, size_t size, size_t n, void *arg)
{
	struct exchanging *e = arg;
	const struct ask *ask = e->ask;
	size_t len = MIN(size * n, ask->len - e->sent);

	if (interrupted)
		return CURL_READFUNC_ABORT;
	if (ask->body) {
		memcpy(to, (const char *)ask->body + e->sent, len);
	} else {
		if (fd_pread_all(ask->fd, to, len, e->sent) != (ssize_t)len)
			return CURL_READFUNC_ABORT;
		bar_at(e->sent + len);
	}
	e->sent += len;
	return len;
}

static int
on_rewind(void *arg, curl_off_t offset, int origin)
{
	struct exchanging *e = arg;

	if (origin != SEEK_SET || offset < 0 ||
	    (uint64_t)offset > e->ask->len)
		return CURL_SEEKFUNC_FAIL;
	e->sent = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

static int
on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	(void)arg;
	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return interrupted;
}

/* ---- one exchange ---- */

static int
header_add(struct exchanging *e, const char *name, const char *value)
{
	struct curl_slist *list;
	char *line;

	if (!value)
		return 0;
	if (asprintf(&line, "%s: %s", name, value) < 0)
		return -ENOMEM;
	list = curl_slist_append(e->headers, line);
	secret_free(line);
	if (!list)
		return -ENOMEM;
	e->headers = list;
	return 0;
}

static void
headers_free(struct curl_slist *list)
{
	for (struct curl_slist *l = list; l; l = l->next)
		explicit_bzero(l->data, strlen(l->data));
	curl_slist_free_all(list);
}

#define SET(option, value) \
	(failed |= curl_easy_setopt(easy, (option), (value)) != CURLE_OK)

/* What holds for every exchange. */
static bool
set_rules(CURL *easy)
{
	bool failed = false;

	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NOPROXY, "");
	SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)TIME_CONNECT_MS);
	SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
	SET(CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
	SET(CURLOPT_USERAGENT, "shedpack/" VERSION);
	return failed;
}

static bool
set_callbacks(CURL *easy, struct exchanging *e)
{
	bool failed = false;

	SET(CURLOPT_ERRORBUFFER, e->reply->error);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
	SET(CURLOPT_OPENSOCKETDATA, e);
	SET(CURLOPT_PREREQFUNCTION, on_connected);
	SET(CURLOPT_PREREQDATA, e);
	SET(CURLOPT_HEADERFUNCTION, on_head_line);
	SET(CURLOPT_HEADERDATA, e);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, e);
	SET(CURLOPT_READFUNCTION, on_send);
	SET(CURLOPT_READDATA, e);
	SET(CURLOPT_SEEKFUNCTION, on_rewind);
	SET(CURLOPT_SEEKDATA, e);
	SET(CURLOPT_XFERINFOFUNCTION, on_progress);
	SET(CURLOPT_NOPROGRESS, 0L);
	return failed;
}

static bool
set_request(CURL *easy, const struct exchanging *e, const char *url)
{
	const struct ask *ask = e->ask;
	bool failed = false;

	SET(CURLOPT_URL, url);
	SET(CURLOPT_HTTPHEADER, e->headers);
	SET(CURLOPT_LOW_SPEED_TIME, (long)(strcmp(ask->method, "PUT") == 0 &&
	    !ask->body ? SILENCE_PUT_S : SILENCE_S));
	if (strcmp(ask->method, "HEAD") == 0) {
		SET(CURLOPT_NOBODY, 1L);
	} else if (strcmp(ask->method, "POST") == 0) {
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDSIZE, 0L);
		SET(CURLOPT_POSTFIELDS, "");
	} else if (strcmp(ask->method, "PUT") == 0) {
		SET(CURLOPT_UPLOAD, 1L);
		SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)ask->len);
	}
	if (e->registry->insecure && e->guard->own) {
		SET(CURLOPT_SSL_VERIFYPEER, 0L);
		SET(CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (e->registry->ca)
		SET(CURLOPT_CAINFO, e->registry->ca);
	return failed;
}

int
http_exchange(struct registry *r, const struct ask *ask, const char *url,
    const char *authorization, const struct guard *guard,
    struct reply *reply)
{
	struct exchanging e = { .registry = r, .ask = ask, .guard = guard,
		.reply = reply };
	struct curl_header *subject;
	int error = -ENOMEM;

	reply_done(reply);
	curl_easy_reset(r->easy);	/* connections stay */
	reply->url = strdup(url);
	if (strcmp(ask->method, "POST") == 0)	/* no form, as curl assumes */
		e.headers = curl_slist_append(NULL, "Content-Type:");
	if (reply->url && header_add(&e, "Accept", ask->accept) == 0 &&
	    header_add(&e, "Content-Type", ask->type) == 0 &&
	    header_add(&e, "Authorization", authorization) == 0 &&
	    !set_rules(r->easy) && !set_callbacks(r->easy, &e) &&
	    !set_request(r->easy, &e, url)) {
		reply->curl = curl_easy_perform(r->easy);
		reply->subject = curl_easy_header(r->easy, "OCI-Subject", 0,
		    CURLH_HEADER, -1, &subject) == CURLHE_OK;
		error = 0;
	}
	/* a long answer to what is refused anyway is answer enough */
	if (e.head_whole && reply->too_long && reply->head.status >= 300)
		reply->curl = CURLE_OK;
	if (reply->error[0] == '\0')
		strcpy(reply->error, curl_easy_strerror(reply->curl));
	/* nothing of ours is left in the handle */
	curl_easy_reset(r->easy);
	headers_free(e.headers);
	return error;
}
