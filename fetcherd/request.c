// SPDX-License-Identifier: Apache-2.0
/*
 * One Resolve, Stat, Referrers or Fetch of cached: one attempt, however many
 * HTTP requests that takes, and exactly one FetchDone.  Whether to try again
 * is cached's to decide.
 *
 *	     a target is remembered
 *	START ---------------------------------> SEND <---------------+
 *	  | none                                  ^ |                 |
 *	  +--> at the registry: AUTH --header-----+ | head            |
 *	         ^   ^ | no valid token             v                 |
 *	         |   +-+-- WAIT for it            CHECK               |
 *	         |                                  | 3xx ------------+ <= 5,
 *	         +---- once ---- 401 ---------------+               no circle
 *	START <--- once ---- remembered one expired +
 *	START <--- once ---- no referrers API: tag -+
 *	                                            +--> BODY --> DONE
 *	                                            +--> DONE: the head was the
 *	                                                 answer, or a failure
 *
 * Authorization goes to the registry's own scheme, host and port and nowhere
 * else.  From https only https is followed.  Bytes are handed on piece by
 * piece, never before the head was checked, and never more than were asked for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "fetcherd/fetcherd.h"

#define ACCEPT_MANIFESTS                                                       \
	"application/vnd.oci.image.manifest.v1+json, "                         \
	MEDIA_TYPE_INDEX ", "                                                  \
	"application/vnd.docker.distribution.manifest.v2+json, "               \
	"application/vnd.docker.distribution.manifest.list.v2+json"

static LIST_HEAD(, request) requests = LIST_HEAD_INITIALIZER(requests);
static unsigned n_requests;

static void request_start(struct request *r);

/* Where a blob's bytes lie is remembered; where a manifest lies is not. */
static bool
of_blob(const struct request *r)
{
	return r->kind == REQUEST_STAT || r->kind == REQUEST_FETCH;
}

/* ---- the end ---- */

static void
request_free(struct request *r)
{
	LIST_REMOVE(r, entry);
	n_requests--;
	auth_cancel(&r->waiter);
	if (r->transfer)
		transfer_cancel(r->transfer, &r->requests, &r->body_bytes);
	for (unsigned i = 0; i < r->n_seen; i++)
		free(r->seen[i]);
	if (r->site)
		r->site->users--;
	secret_free(r->sent);
	free(r->text);
	free(r->body);
	free(r->media_type);
	free(r->claimed);
	free(r->repo);
	free(r->reference);
	free(r->artifact_type);
	free(r->pieces);
	free(r);
}

static void
request_finish(struct request *r)
{
	Suite__FetchDone done = SUITE__FETCH_DONE__INIT;
	uint64_t now = now_us();

	if (r->transfer) {
		transfer_cancel(r->transfer, &r->requests, &r->body_bytes);
		r->transfer = NULL;
	}
	done.code = (Shedstream__Control__V1__Code)r->failure.code;
	done.retry = r->failure.retry;
	done.text = r->failure.text;
	done.http_status = r->failure.http_status;
	done.retry_after_s = r->failure.retry_after_s;
	done.first_byte_us = r->first_byte ? r->first_byte - r->started : 0;
	done.total_us = now - r->started;
	done.body_bytes = r->body_bytes + r->waiter.body_bytes;
	done.requests = r->requests + r->waiter.requests;
	done.rtt_us = r->rtt_us;
	done.warm = r->warm;
	log_debug("%s %.19s: %s after %u requests, %llu bytes", r->where,
	    r->reference, r->failure.code ? r->failure.text : "done",
	    done.requests, (unsigned long long)done.body_bytes);
	ipc_send(r->link, r->id, SUITE_BODY(FETCH_DONE), &done, NULL, 0, -1);
	request_free(r);
}

static void
request_fail_memory(struct request *r)
{
	failure_set(&r->failure, CTL_CODE(INTERNAL), true,
	    "%s: no memory for the request", r->where);
	request_finish(r);
}

static void
referring_send(struct request *r)
{
	struct digest_text text[REFERRERS_MAX];
	char *digests[REFERRERS_MAX];
	Suite__Referring msg = SUITE__REFERRING__INIT;

	for (size_t i = 0; i < r->referring.n; i++) {
		text[i] = digest_to_text(&r->referring.digest[i]);
		digests[i] = text[i].text;
	}
	msg.n_digests = r->referring.n;
	msg.digests = digests;
	ipc_send(r->link, r->id, SUITE_BODY(REFERRING), &msg, NULL, 0, -1);
}

static void
request_answer(struct request *r)
{
	Suite__Manifest manifest = SUITE__MANIFEST__INIT;
	Suite__BlobInfo info = SUITE__BLOB_INFO__INIT;

	switch (r->kind) {
	case REQUEST_RESOLVE:
		manifest.media_type = r->media_type;
		manifest.digest = r->claimed;
		ipc_send(r->link, r->id, SUITE_BODY(MANIFEST), &manifest,
		    r->body, r->got, -1);
		break;
	case REQUEST_STAT:
		info.size = r->blob_size;
		info.range_ok = r->range_ok;
		ipc_send(r->link, r->id, SUITE_BODY(BLOB_INFO), &info, NULL,
		    0, -1);
		break;
	case REQUEST_REFERRERS:
		referring_send(r);
		break;
	case REQUEST_FETCH:
		break;		/* all handed on */
	}
	r->failure.code = 0;
	request_finish(r);
}

/* ---- the body ---- */

/* Room for the largest piece, or for all of what is parsed. */
static size_t
body_room(const struct request *r)
{
	uint32_t most = r->unit;

	if (r->kind == REQUEST_RESOLVE)
		return IPC_RAW_MAX;
	if (r->kind == REQUEST_REFERRERS)
		return REFERRERS_JSON_MAX;
	for (size_t i = 0; i < r->n_pieces; i++)
		if (r->pieces[i] > most)
			most = r->pieces[i];
	return most;
}

/* Bytes of the piece that begins at `at` (in the blob): as it was given, or to
 * the end of its unit or of the range. */
static size_t
piece_size(const struct request *r, uint64_t at)
{
	uint64_t end = r->offset + r->length, unit_end;

	if (r->n_pieces > 0)
		return r->pieces[r->piece];
	unit_end = (at / r->unit + 1) * r->unit;
	return (size_t)((unit_end < end ? unit_end : end) - at);
}

static void
piece_send(struct request *r)
{
	Suite__Data data = SUITE__DATA__INIT;

	data.offset = r->offset + r->got - r->have;
	ipc_send(r->link, r->id, SUITE_BODY(DATA), &data, r->body, r->have,
	    -1);
	r->have = 0;
	r->piece++;
}

static enum taken
fetch_body(struct request *r, const uint8_t *data, size_t len)
{
	while (len > 0) {
		uint64_t piece_at = r->offset + r->got - r->have;
		size_t want, n;

		if (r->got == r->length) {
			r->too_long = true;
			return TAKEN_NEVER;
		}
		want = piece_size(r, piece_at) - r->have;
		n = len < want ? len : want;
		memcpy(r->body + r->have, data, n);
		r->have += n;
		r->got += n;
		data += n;
		len -= n;
		if (n == want)
			piece_send(r);
	}
	return TAKEN;
}

static enum taken
on_body(void *owner, const void *data, size_t len)
{
	struct request *r = owner;

	if (ipc_queued(r->link) > QUEUE_HIGH)
		return TAKEN_LATER;
	if (!r->first_byte)
		r->first_byte = now_us();
	if (r->kind == REQUEST_FETCH)
		return fetch_body(r, data, len);
	if (len > body_room(r) - r->got) {
		r->too_long = true;
		return TAKEN_NEVER;
	}
	memcpy(r->body + r->got, data, len);
	r->got += len;
	return TAKEN;
}

/* ---- the head ---- */

static enum verdict
on_head(void *owner, const struct head *head, enum address_class class)
{
	struct request *r = owner;
	const char *keep = NULL;

	if (r->at_registry)
		site_answered(r->site, class);
	r->step = check_head(r, head);
	switch (r->step) {
	case STEP_BODY:
		r->body = malloc(body_room(r));
		return r->body ? BODY_TAKE : BODY_REFUSE;
	case STEP_REDIRECT:
		keep = head->field[HEAD_LOCATION];
		break;
	case STEP_CHALLENGE:
		keep = head->field[HEAD_CHALLENGE];
		break;
	default:
		break;
	}
	if (keep)
		r->text = strdup(keep);
	/* A whole blob is not worth the connection it would keep. */
	return head->status == 200 ? BODY_REFUSE : BODY_SKIP;
}

/* ---- sending ---- */

static void on_done(void *owner, const struct outcome *o);

static const struct transfer_ops exchange_ops = {
	.head = on_head,
	.body = on_body,
	.done = on_done,
};

static void
response_reset(struct request *r)
{
	r->step = STEP_NONE;
	r->failure = (struct failure){ 0 };
	r->have = 0;
	r->piece = 0;
	r->got = 0;
	r->too_long = false;
	free(take_ptr(r->text));
	free(take_ptr(r->body));
	free(take_ptr(r->media_type));
	free(take_ptr(r->claimed));
}

static void
exchange_start(struct request *r)
{
	char range[48];
	struct exchange x = {
		.site = r->site,
		.url = r->seen[r->n_seen - 1],
		.guard = { .own = r->at_registry, .like = r->site->class },
		.authorization = r->sent,
		.body = r->length,
		.background = r->background,
		.fresh = r->fresh,
	};

	response_reset(r);
	if (r->kind == REQUEST_RESOLVE)
		x.accept = ACCEPT_MANIFESTS;
	if (r->kind == REQUEST_REFERRERS)
		x.accept = MEDIA_TYPE_INDEX;
	if (r->kind == REQUEST_STAT)
		x.range = "0-0";
	if (r->kind == REQUEST_FETCH && !r->plain) {
		snprintf(range, sizeof(range), "%llu-%llu",
		    (unsigned long long)r->offset,
		    (unsigned long long)(r->offset + r->length - 1));
		x.range = range;
	}
	r->transfer = transfer_start(&x, &exchange_ops, r);
	if (!r->transfer)
		request_fail_memory(r);
}

/* To the last URL of r->seen, with what its host may see. */
static void
request_send(struct request *r)
{
	char *header = NULL;

	secret_free(take_ptr(r->sent));
	if (redirect_origin(r->seen[r->n_seen - 1], &r->at) < 0) {
		request_fail_memory(r);
		return;
	}
	r->at_registry = redirect_same(&r->at, &r->site->origin);
	/* who was sent elsewhere does not come back as himself */
	r->strayed |= !r->at_registry;
	r->at_registry &= !r->strayed;
	if (r->at_registry) {
		switch (auth_prepare(r->site, r->repo, &r->waiter, &header,
		    &r->failure)) {
		case AUTH_GO:
			break;
		case AUTH_WAIT:
			return;
		case AUTH_FAILED:
			request_finish(r);
			return;
		}
		r->sent = header;
	}
	exchange_start(r);
}

static void
on_token(struct auth_waiter *w, const struct failure *why)
{
	struct request *r = (struct request *)((char *)w -
	    offsetof(struct request, waiter));

	if (why) {
		r->failure = *why;
		request_finish(r);
		return;
	}
	request_send(r);
}

/* ---- what comes after a response ---- */

static void
step_challenge(struct request *r)
{
	r->challenged = true;
	switch (auth_challenged(r->site, r->repo, r->text, r->sent,
	    &r->waiter, &r->failure)) {
	case AUTH_GO:
		request_send(r);
		break;
	case AUTH_WAIT:
		break;
	case AUTH_FAILED:
		request_finish(r);
		break;
	}
}

static bool
was_seen(const struct request *r, const char *url)
{
	for (unsigned i = 0; i < r->n_seen; i++)
		if (strcmp(r->seen[i], url) == 0)
			return true;
	return false;
}

/* A reason not to go from r->at to url, or NULL. */
static const char *
redirect_refusal(const struct request *r, const char *url,
    const struct origin *to)
{
	if (was_seen(r, url))
		return "redirects in a circle; check the registry's settings";
	if (r->n_seen > REDIRECTS_MAX)
		return "redirects too often; check the registry's settings";
	if (strcmp(r->at.scheme, "https") == 0 &&
	    strcmp(to->scheme, "https") != 0)
		return "redirects from HTTPS to plain HTTP, which is refused; "
		    "check the registry's settings";
	return NULL;
}

static void
step_redirect(struct request *r)
{
	const char *refusal = "redirects to nowhere that can be used; check "
	    "the registry's settings";
	struct origin to;
	char *url = NULL;

	if (r->text && redirect_resolve(r->seen[r->n_seen - 1], r->text,
	    &url) == 0 && redirect_origin(url, &to) == 0)
		refusal = redirect_refusal(r, url, &to);
	if (refusal) {
		free(url);
		failure_set(&r->failure, CTL_CODE(REGISTRY_UNREACHABLE),
		    strstr(refusal, "refused") == NULL, "%s: %s %s", r->where,
		    r->at.host, refusal);
		redirect_forget(r->site, r->repo, r->reference);
		request_finish(r);
		return;
	}
	r->seen[r->n_seen++] = url;
	request_send(r);
}

static void
step_body(struct request *r, const struct outcome *o)
{
	if (!r->body) {
		request_fail_memory(r);
	} else if (r->too_long || o->stopped) {
		failure_set(&r->failure, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s sent more bytes than it should; check what stands "
		    "in front of the registry", r->where, r->at.host);
		request_finish(r);
	} else if (r->kind == REQUEST_FETCH && r->got < r->length) {
		failure_set(&r->failure, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s sent fewer bytes than were asked for; check what "
		    "stands in front of the registry", r->where, r->at.host);
		request_finish(r);
	} else if (r->kind == REQUEST_REFERRERS && referrers_parse(r->body,
	    r->got, r->artifact_type, &r->referring) < 0) {
		failure_set(&r->failure, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s sent a list of referrers that can't be read; check "
		    "the registry", r->where, r->at.host);
		request_finish(r);
	} else {
		if (of_blob(r) && r->n_seen > 1)
			redirect_remember(r->site, r->repo, r->reference,
			    r->seen[r->n_seen - 1]);
		request_answer(r);
	}
}

/* The exchange broke before or while the answer came. */
static void
step_broken(struct request *r, const struct outcome *o)
{
	bool unreachable = o->curl == CURLE_SSL_CONNECT_ERROR ||
	    o->curl == CURLE_COULDNT_CONNECT ||
	    o->curl == CURLE_OPERATION_TIMEDOUT;

	redirect_forget(r->site, r->repo, r->reference);
	if (failure_of_proxy(&r->failure, o, r->where)) {
		request_finish(r);
		return;
	}
	if (o->refused) {
		failure_set(&r->failure, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: it leads to %s, at a %s address, which this registry "
		    "may not lead to; check the registry's settings",
		    r->where, r->at.host, guard_name(o->class));
	} else if (o->stalled) {
		failure_set(&r->failure, CTL_CODE(TIMEOUT), true,
		    "%s: %s sent nothing for %d s; check the registry and the "
		    "network", r->where, r->at.host, TIME_IDLE_MS / 1000);
	} else if (o->head_too_long) {
		failure_set(&r->failure, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s sent a response head of more than %d KiB; check "
		    "the registry", r->where, r->at.host, HEAD_MAX / 1024);
	} else if (r->at_registry && unreachable && !r->fell_back &&
	    site_fall_back(r->site)) {
		r->fell_back = true;
		request_start(r);
		return;
	} else {
		failure_of_curl(&r->failure, o->curl, o->error, r->where,
		    r->at.host);
	}
	request_finish(r);
}

static void
step_by_tag(struct request *r)
{
	r->by_tag = true;
	request_start(r);
}

static void
step_again(struct request *r)
{
	redirect_forget(r->site, r->repo, r->reference);
	r->resolved_again = true;
	request_start(r);
}

static void
on_done(void *owner, const struct outcome *o)
{
	struct request *r = owner;

	r->transfer = NULL;
	r->requests += o->requests;
	r->body_bytes += o->body_bytes;
	r->rtt_us = o->rtt_us;
	r->warm = o->warm;
	if (r->step == STEP_NONE || (r->step == STEP_BODY &&
	    o->curl != CURLE_OK && !o->stopped)) {
		step_broken(r, o);
		return;
	}
	switch (r->step) {
	case STEP_NONE:
	case STEP_BODY:
		step_body(r, o);
		break;
	case STEP_CHALLENGE:
		step_challenge(r);
		break;
	case STEP_REDIRECT:
		step_redirect(r);
		break;
	case STEP_RESOLVE_AGAIN:
		step_again(r);
		break;
	case STEP_BY_TAG:
		step_by_tag(r);
		break;
	case STEP_ANSWER:
		if (!r->first_byte)
			r->first_byte = now_us();
		request_answer(r);
		break;
	case STEP_FAIL:
		if (r->failure.http_status == 401 && r->at_registry)
			auth_refused(r->site, r->repo);
		(void)failure_of_proxy(&r->failure, o, r->where);
		request_finish(r);
		break;
	}
}

/* ---- the beginning ---- */

/* SITE/v2/REPO/KIND/NAME[?QUERY]; a mirror has a query of its own. */
static char *
site_url(const struct request *r, const char *kind, const char *name,
    const char *query)
{
	const char *own = r->site->query ? r->site->query : "";
	char *url;

	if (asprintf(&url, "%s/v2/%s/%s/%s%s%s%s%s", r->site->base, r->repo,
	    kind, name, *query || *own ? "?" : "", query,
	    *query && *own ? "&" : "", own) < 0)
		return NULL;
	return url;
}

/* The referrers of a manifest; "sha256-HEX" is their tag. */
static char *
referrers_url(const struct request *r)
{
	char tag[DIGEST_TEXT + 1], *type, *query, *url = NULL;

	if (r->by_tag) {
		snprintf(tag, sizeof(tag), "sha256-%s",
		    strchr(r->reference, ':') + 1);
		return site_url(r, "manifests", tag, "");
	}
	type = curl_easy_escape(NULL, r->artifact_type, 0);
	if (type && asprintf(&query, "artifactType=%s", type) >= 0) {
		url = site_url(r, "referrers", r->reference, query);
		free(query);
	}
	curl_free(type);
	return url;
}

static int
start_url(struct request *r, char **out)
{
	const char *target = NULL;

	if (of_blob(r) && !r->resolved_again)
		target = redirect_recall(r->site, r->repo, r->reference);
	r->recalled = target != NULL;
	if (target)
		*out = strdup(target);
	else if (r->kind == REQUEST_REFERRERS)
		*out = referrers_url(r);
	else
		*out = site_url(r, r->kind == REQUEST_RESOLVE ? "manifests" :
		    "blobs", r->reference, "");
	return *out ? 0 : -ENOMEM;
}

static void
request_start(struct request *r)
{
	while (r->n_seen > 0)
		free(r->seen[--r->n_seen]);
	r->strayed = false;
	if (start_url(r, &r->seen[0]) < 0) {
		request_fail_memory(r);
		return;
	}
	r->n_seen = 1;
	request_send(r);
}

static struct request *
request_find(const struct ipc_link *link, uint64_t id)
{
	struct request *r;

	LIST_FOREACH(r, &requests, entry)
		if (r->link == link && r->id == id)
			return r;
	return NULL;
}

static struct request *
request_new(struct ipc_link *link, uint64_t id, enum request_kind kind,
    const Suite__Source *source, const char *reference)
{
	struct request *r = calloc(1, sizeof(*r));

	if (!r)
		log_die("no memory for a request");
	LIST_INSERT_HEAD(&requests, r, entry);
	n_requests++;
	r->link = link;
	r->id = id;
	r->kind = kind;
	r->started = now_us();
	r->waiter.ready = on_token;
	r->repo = strdup(source ? source->repo : "");
	r->reference = strdup(reference);
	if (!r->repo || !r->reference)
		log_die("no memory for a request");
	snprintf(r->where, sizeof(r->where), "%.*s/%.*s", HOST_MAX,
	    source ? source->host : "", REPO_MAX, r->repo);
	return r;
}

/* Filled in: check it and go. */
static void
request_begin(struct request *r, const Suite__Source *source)
{
	int e = -EINVAL;

	if (n_requests > REQUESTS_MAX) {
		failure_set(&r->failure, CTL_CODE(BUSY), true, "%s: too many "
		    "requests are in flight; wait for some", r->where);
		request_finish(r);
		return;
	}
	if (source && check_request(r))
		e = site_get(source->host, source->mirror, &r->site);
	if (e == -EPERM) {
		failure_set(&r->failure, CTL_CODE(BAD_REQUEST), false,
		    "%s: the configuration lists no such mirror; name it in "
		    "mirrors, in the registry's section", r->where);
		request_finish(r);
	} else if (e == -EINVAL) {
		failure_set(&r->failure, CTL_CODE(BAD_REQUEST), false,
		    "%s: this names no image that a registry can have; check "
		    "host, repository and tag", r->where);
		request_finish(r);
	} else if (e < 0) {
		request_fail_memory(r);
	} else if (site_lacks_cert(r->site)) {
		r->site->users++;
		failure_set(&r->failure, CTL_CODE(AUTH_DENIED), false, "%s: "
		    "the client-cert or client-key of [registry \"%s\"] can't "
		    "be read; check both files", r->where,
		    r->site->section->host);
		request_finish(r);
	} else {
		r->site->users++;
		request_start(r);
	}
}

void
request_resolve(struct ipc_link *link, uint64_t id, const Suite__Resolve *msg)
{
	request_begin(request_new(link, id, REQUEST_RESOLVE, msg->source,
	    msg->reference), msg->source);
}

void
request_stat(struct ipc_link *link, uint64_t id, const Suite__Stat *msg)
{
	request_begin(request_new(link, id, REQUEST_STAT, msg->source,
	    msg->digest), msg->source);
}

void
request_referrers(struct ipc_link *link, uint64_t id,
    const Suite__Referrers *msg)
{
	struct request *r = request_new(link, id, REQUEST_REFERRERS,
	    msg->source, msg->digest);

	r->artifact_type = strdup(msg->artifact_type);
	if (!r->artifact_type)
		log_die("no memory for a request");
	request_begin(r, msg->source);
}

/* More than PIECES_MAX are not copied, and refused. */
static void
request_pieces(struct request *r, const Suite__Fetch *msg)
{
	r->n_pieces = msg->n_pieces;
	if (r->n_pieces == 0 || r->n_pieces > PIECES_MAX)
		return;
	r->pieces = malloc(r->n_pieces * sizeof(*r->pieces));
	if (!r->pieces)
		log_die("no memory for a request");
	memcpy(r->pieces, msg->pieces, r->n_pieces * sizeof(*r->pieces));
}

void
request_fetch(struct ipc_link *link, uint64_t id, const Suite__Fetch *msg)
{
	struct request *r = request_new(link, id, REQUEST_FETCH, msg->source,
	    msg->digest);

	r->offset = msg->offset;
	r->length = msg->length;
	r->size = msg->size;
	r->unit = msg->unit;
	request_pieces(r, msg);
	r->plain = msg->plain;
	r->background = msg->background;
	r->fresh = msg->fresh;
	request_begin(r, msg->source);
}

void
request_cancel(struct ipc_link *link, uint64_t id)
{
	struct request *r = request_find(link, id);

	if (!r)
		return;		/* its FetchDone is on the way */
	failure_set(&r->failure, CTL_CODE(CANCELLED), true,
	    "%s: cancelled; nobody waits for it any more", r->where);
	request_finish(r);
}

void
request_cancel_all(void)
{
	struct request *r;

	while ((r = LIST_FIRST(&requests)))
		request_free(r);
}
