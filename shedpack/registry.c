// SPDX-License-Identifier: Apache-2.0
/*
 * What push asks of a registry, by the OCI distribution specification v1.1:
 * manifests by tag or digest, and blobs in one piece:
 *
 *	HEAD blob --200--> there
 *	  | 404
 *	  v
 *	POST uploads/ --202, Location--> PUT it all --201--> there
 *	  ^                                | lost, or a status that may change
 *	  +----------- wait, TRIES times --+
 *
 * One piece, because that is what every registry takes; the price is that an
 * upload that breaks begins anew.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "image/manifest.h"
#include "shedpack/registry.h"

#define MANIFEST_TYPES	TYPE_OCI_MANIFEST ", " TYPE_OCI_INDEX ", " \
	TYPE_DOCKER_MANIFEST ", " TYPE_DOCKER_LIST

/* ---- the registry ---- */

static int
set_scheme(struct registry *r, const char *scheme, struct refusal *why)
{
	/* Docker Hub's registry does not answer under the name it has */
	const char *host = strcmp(r->host, "docker.io") == 0 ||
	    strcmp(r->host, "index.docker.io") == 0 ? "registry-1.docker.io" :
	    r->host;

	snprintf(r->base, sizeof(r->base), "%s://%s", scheme, host);
	if (redirect_origin(r->base, &r->origin) < 0)
		return refuse(why, "%s cannot be the name of a registry; "
		    "check it", r->host);
	return 0;
}

/* Unchecked HTTPS if it speaks that, else HTTP. */
static int
find_scheme(struct registry *r, struct refusal *why)
{
	_cleanup_(reply_done) struct reply reply = { 0 };
	const struct ask ask = { .method = "GET", .max = ERROR_BODY_MAX };
	const struct guard guard = { .own = true };
	char url[sizeof(r->base) + 8];

	snprintf(url, sizeof(url), "%s/v2/", r->base);
	if (http_exchange(r, &ask, url, NULL, &guard, &reply) < 0)
		return refuse(why, "no memory for a request; free some");
	if (interrupted)
		return refuse_interrupted(why);
	if (reply.curl == CURLE_OK)
		return 0;
	return set_scheme(r, "http", why);
}

int
registry_open(struct registry *r, const char *host, const char *repo,
    const struct arguments *a, struct refusal *why)
{
	*r = (struct registry){ .ca = a->ca, .insecure = a->insecure };
	if (strlen(host) > HOST_MAX || strlen(repo) > REPO_MAX)
		return refuse(why, "the image's name is too long; check it");
	strcpy(r->host, host);
	strcpy(r->repo, repo);
	snprintf(r->where, sizeof(r->where), "%s/%s", host, repo);
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
	    !(r->easy = curl_easy_init()))
		return refuse(why, "no memory for curl; free some");
	if (set_scheme(r, "https", why) < 0 || login_load(r, why) < 0)
		return -EINVAL;
	if (a->insecure)
		return find_scheme(r, why);
	if (guard_loopback_host(r->origin.host) && !a->ca)
		return set_scheme(r, "http", why);
	return 0;
}

void
registry_done(struct registry *r)
{
	if (r->easy)
		curl_easy_cleanup(r->easy);
	secret_free(r->authorization);
	secret_done(&r->credentials);
	free(r->auth_file);
}

/* BASE/v2/REPO/REST (caller frees), or NULL. */
static char *
url_of(const struct registry *r, const char *kind, const char *rest)
{
	char *url;

	return asprintf(&url, "%s/v2/%s/%s/%s", r->base, r->repo, kind,
	    rest) < 0 ? NULL : url;
}

static int
no_memory(struct refusal *why)
{
	return refuse(why, "no memory for a request; free some");
}

/* ---- manifests ---- */

void
document_done(struct document *d)
{
	free(d->text);
	*d = (struct document){ 0 };
}

/* Is it what the reference, and the registry's own word, say? */
static int
document_check(const struct registry *r, const char *reference,
    const struct reply *reply, const struct document *d, struct refusal *why)
{
	const char *claimed = reply->head.field[HEAD_DIGEST];
	struct digest_text is = digest_to_text(&d->digest);

	if (strncmp(reference, "sha256:", 7) == 0)
		claimed = reference;
	if (!claimed || strncmp(claimed, "sha256:", 7) != 0 ||
	    strcmp(claimed, is.text) == 0)
		return 0;
	return refuse(why, "%s: the manifest of %s is said to be %.71s and is "
	    "%s; check the registry and what stands in front of it", r->where,
	    reference, claimed, is.text);
}

/* The media type without its parameters. */
static void
take_type(const struct reply *reply, char *type, size_t size)
{
	const char *field = reply->head.field[HEAD_CONTENT_TYPE];

	if (!field)
		field = "";
	snprintf(type, size, "%.*s", (int)strcspn(field, "; \t,"), field);
}

int
registry_get(struct registry *r, const char *reference, struct document *out,
    struct refusal *why)
{
	_cleanup_(reply_done) struct reply reply = { 0 };
	_cleanup_free_ char *url = url_of(r, "manifests", reference);
	const struct ask ask = { .method = "GET", .url = url,
		.accept = MANIFEST_TYPES, .max = MANIFEST_MAX };
	struct document d = { 0 };

	if (!url)
		return no_memory(why);
	if (ask_registry(r, &ask, &reply, why) < 0)
		return -EINVAL;
	if (reply.head.status == 404) {
		refuse(why, "%s: there is no manifest %s; check the name, or "
		    "push the image first", r->where, reference);
		return -ENOENT;
	}
	if (reply.head.status != 200)
		return ask_refused(r, &reply, "to give its manifest", why);
	if (!reply.body)
		return refuse(why, "%s: the manifest of %s is empty; check the "
		    "registry", r->where, reference);
	d.digest = digest_of(reply.body, reply.len);
	take_type(&reply, d.type, sizeof(d.type));
	if (document_check(r, reference, &reply, &d, why) < 0)
		return -EINVAL;
	d.text = take_ptr(reply.body);
	d.len = reply.len;
	*out = d;
	return 0;
}

int
registry_put(struct registry *r, const char *reference, const char *type,
    const char *text, bool *subject, struct refusal *why)
{
	_cleanup_(reply_done) struct reply reply = { 0 };
	_cleanup_free_ char *url = url_of(r, "manifests", reference);
	const struct ask ask = { .method = "PUT", .url = url, .type = type,
		.body = text, .len = strlen(text), .max = ERROR_BODY_MAX };

	if (!url)
		return no_memory(why);
	if (strlen(text) > MANIFEST_MAX)
		return refuse(why, "%s: the manifest %s would be longer than "
		    "256 KiB, which hosts refuse; shorten its annotations",
		    r->where, reference);
	if (ask_registry(r, &ask, &reply, why) < 0)
		return -EINVAL;
	if (reply.head.status != 201 && reply.head.status != 200)
		return ask_refused(r, &reply, "a manifest", why);
	*subject = reply.subject;
	return 0;
}

/* ---- blobs ---- */

static int
blob_there(struct registry *r, const struct layout_blob *b, bool *there,
    struct refusal *why)
{
	_cleanup_(reply_done) struct reply reply = { 0 };
	_cleanup_free_ char *url = url_of(r, "blobs",
	    digest_to_text(&b->digest).text);
	const struct ask ask = { .method = "HEAD", .url = url,
		.max = ERROR_BODY_MAX };
	uint64_t size;

	if (!url)
		return no_memory(why);
	if (ask_registry(r, &ask, &reply, why) < 0)
		return -EINVAL;
	*there = reply.head.status == 200;
	if (!*there && reply.head.status != 404)
		return ask_refused(r, &reply, "to say whether it has a blob",
		    why);
	if (*there && reply.head.field[HEAD_CONTENT_LENGTH] &&
	    head_number(reply.head.field[HEAD_CONTENT_LENGTH], &size) == 0 &&
	    size != b->size)
		return refuse(why, "%s: the registry has the blob %s in "
		    "another size (%llu bytes); delete it there", r->where,
		    digest_to_text(&b->digest).text, (unsigned long long)size);
	return 0;
}

/* Where to put the blob: Location, and the digest in its query. */
static int
upload_begin(struct registry *r, const struct layout_blob *b, char **out,
    struct refusal *why)
{
	_cleanup_(reply_done) struct reply reply = { 0 };
	_cleanup_free_ char *url = url_of(r, "blobs", "uploads/");
	_cleanup_free_ char *location = NULL;
	const struct ask ask = { .method = "POST", .url = url,
		.max = ERROR_BODY_MAX };
	char *whole;

	if (!url)
		return no_memory(why);
	if (ask_registry(r, &ask, &reply, why) < 0)
		return -EINVAL;
	if (reply.head.status != 202)
		return ask_refused(r, &reply, "an upload", why);
	if (ask_location(r, &reply, &location, why) < 0)
		return -EINVAL;
	if (asprintf(&whole, "%s%cdigest=sha256%%3A%s", location,
	    strchr(location, '?') ? '&' : '?',
	    digest_to_hex(&b->digest).text) < 0)
		return no_memory(why);
	*out = whole;
	return 0;
}

/* -EAGAIN: it is to be begun anew, after a wait that the reply says. */
static int
upload(struct registry *r, const struct layout *l, const struct layout_blob *b,
    struct reply *reply, struct refusal *why)
{
	_cleanup_free_ char *url = NULL;
	_cleanup_close_ int fd = -1;
	struct ask ask = { .method = "PUT", .type = "application/octet-stream",
		.len = b->size, .max = ERROR_BODY_MAX, .once = true };
	int error;

	if (layout_blob_open(l, b, &fd, why) < 0 ||
	    upload_begin(r, b, &url, why) < 0)
		return -EINVAL;
	ask.url = url;
	ask.fd = fd;
	bar_begin("sending", digest_to_text(&b->digest).text, b->size);
	error = ask_registry(r, &ask, reply, why);
	if (error < 0)
		return error;
	if (reply->head.status == 201 || reply->head.status == 200) {
		bar_done();
		return 0;
	}
	/* the session is gone: it ended, or another server answered */
	if (reply->head.status == 404 || reply->head.status == 416) {
		ask_refused(r, reply, "the upload that it began", why);
		return -EAGAIN;
	}
	return ask_refused(r, reply, "a blob", why);
}

int
registry_blob(struct registry *r, const struct layout *l,
    const struct layout_blob *b, struct refusal *why)
{
	for (unsigned n = 0;; n++) {
		_cleanup_(reply_done) struct reply reply = { 0 };
		bool there = false;
		int error;

		if (blob_there(r, b, &there, why) < 0)
			return -EINVAL;
		if (there) {	/* at once, or the answer got lost */
			bar_exists(digest_to_text(&b->digest).text, b->size);
			return 0;
		}
		error = upload(r, l, b, &reply, why);
		if (error != -EAGAIN || n == TRIES - 1)
			return error;
		if (ask_wait(n, &reply, why) < 0)
			return -EINVAL;
	}
}
