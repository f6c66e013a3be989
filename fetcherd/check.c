// SPDX-License-Identifier: Apache-2.0
/*
 * Is a request one that can be made, and what does a response head mean for
 * it.  This is where a registry that
 * answers wrongly is stopped, before a byte of its body is handed on: a range
 * is exactly the range that was asked for, of a blob of exactly the size that
 * is known, in no encoding.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "fetcherd/fetcherd.h"

#define MEDIA_TYPE_MAX	255

/* ---- a request, before anything is sent ---- */

/* As image names have them: lower case, no empty or dotted part. */
static bool
repo_ok(const char *repo)
{
	size_t len = strlen(repo);

	if (len == 0 || len > REPO_MAX || strstr(repo, "..") ||
	    strstr(repo, "//") || strstr(repo, "/.") || repo[0] == '.' ||
	    repo[0] == '/' || repo[len - 1] == '/')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!islower((unsigned char)repo[i]) &&
		    !isdigit((unsigned char)repo[i]) &&
		    !strchr("._-/", repo[i]))
			return false;
	return true;
}

static bool
tag_ok(const char *tag)
{
	size_t len = strlen(tag);

	if (len == 0 || len > 128 || tag[0] == '.' || tag[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)tag[i]) && !strchr("._-", tag[i]))
			return false;
	return true;
}

/* "type/subtype", each a restricted-name of RFC 6838. */
static bool
artifact_type_ok(const char *type)
{
	size_t len = strlen(type), slash = strcspn(type, "/");

	if (len > ARTIFACT_TYPE_MAX || slash == len)
		return false;
	for (size_t i = 0; i < len; i++)
		if (i != slash && !isalnum((unsigned char)type[i]) &&
		    !strchr("!#$&-^_.+", type[i]))
			return false;
	return isalnum((unsigned char)type[0]) &&
	    isalnum((unsigned char)type[slash + 1]);
}

/* Each fits a raw frame, and all are the range. */
static bool
pieces_ok(const struct request *r)
{
	uint64_t sum = 0;

	if (r->n_pieces > PIECES_MAX)
		return false;
	for (size_t i = 0; i < r->n_pieces; i++) {
		if (r->pieces[i] == 0 || r->pieces[i] > IPC_RAW_MAX)
			return false;
		sum += r->pieces[i];
	}
	return sum == r->length;
}

static bool
fetch_ok(const struct request *r)
{
	if (r->size == 0 || r->size > DEVICE_SIZE_MAX || r->length == 0 ||
	    r->length > r->size || r->offset > r->size - r->length)
		return false;
	if ((r->unit == 0) != (r->n_pieces > 0) || r->unit > IPC_RAW_MAX)
		return false;
	if (r->n_pieces > 0 && !pieces_ok(r))
		return false;
	return !r->plain || (r->offset == 0 && r->length == r->size);
}

bool
check_request(const struct request *r)
{
	struct digest digest;
	bool is_digest = digest_parse(r->reference, &digest) == 0;

	if (!repo_ok(r->repo))
		return false;
	switch (r->kind) {
	case REQUEST_RESOLVE:
		return is_digest || tag_ok(r->reference);
	case REQUEST_STAT:
		return is_digest;
	case REQUEST_REFERRERS:
		return is_digest && artifact_type_ok(r->artifact_type);
	case REQUEST_FETCH:
		return is_digest && fetch_ok(r);
	}
	return false;
}

/* ---- a response head ---- */

static enum step
fail(struct request *r, int code, bool retry, const char *what)
{
	failure_set(&r->failure, code, retry, "%s: %s %s", r->where,
	    r->at.host, what);
	return STEP_FAIL;
}

static enum step
fail_retry(struct request *r, const char *what)
{
	return fail(r, CTL_CODE(REGISTRY_UNREACHABLE), true, what);
}

static bool
is_redirect(int status)
{
	return status == 301 || status == 302 || status == 303 ||
	    status == 307 || status == 308;
}

/* Statuses by which a signed URL tells that its time is over. */
static bool
is_expired(int status)
{
	return status == 400 || status == 401 || status == 403 ||
	    status == 404 || status == 410;
}

static bool
is_identity(const struct head *h)
{
	const char *encoding = h->field[HEAD_CONTENT_ENCODING];

	return !encoding || !*encoding || strcasecmp(encoding,
	    "identity") == 0;
}

/* -1: it does not say, or not clearly. */
static int64_t
content_length(const struct head *h)
{
	uint64_t n;

	if (!h->field[HEAD_CONTENT_LENGTH] ||
	    head_number(h->field[HEAD_CONTENT_LENGTH], &n) < 0 ||
	    n > INT64_MAX)
		return -1;
	return (int64_t)n;
}

static enum step
check_denied(struct request *r, int status)
{
	r->failure.http_status = (uint32_t)status;
	if (!r->at_registry)
		/* a link that the registry has just made for us */
		return fail(r, CTL_CODE(AUTH_DENIED), true, "refuses the link "
		    "that the registry gave; check this host's clock and the "
		    "registry's storage");
	auth_denied(r->site, r->repo, r->at.host, &r->failure);
	return STEP_FAIL;
}

/* Nothing there: without the API its tag is asked for, and without the tag
 * there are no referrers. */
static enum step
referrers_absent(struct request *r)
{
	return r->by_tag ? STEP_ANSWER : STEP_BY_TAG;
}

static enum step
check_status(struct request *r, const struct head *h)
{
	uint32_t wait = 0;

	r->failure.http_status = (uint32_t)h->status;
	switch (h->status) {
	case 401:
	case 403:
		return check_denied(r, h->status);
	case 404:
	case 410:
		if (r->kind == REQUEST_REFERRERS)
			return referrers_absent(r);
		return fail(r, CTL_CODE(BLOB_ABSENT), false,
		    r->kind == REQUEST_RESOLVE ? "has no such image; check "
		    "its name, or push it" : "no longer has this blob; push "
		    "the image again");
	case 416:
		return fail(r, CTL_CODE(SIZE_CHANGED), false, "has a shorter "
		    "blob than it said before; push the image again");
	default:
		break;
	}
	if (h->field[HEAD_RETRY_AFTER])
		(void)head_retry_after(h->field[HEAD_RETRY_AFTER], time(NULL),
		    &wait);
	failure_of_status(&r->failure, h->status, wait, r->where, r->at.host);
	return STEP_FAIL;
}

static enum step
check_size(struct request *r, uint64_t size)
{
	if (size == 0 || size > DEVICE_SIZE_MAX) {
		failure_set(&r->failure, CTL_CODE(UNSUPPORTED), false,
		    "%s: the blob has %llu bytes; a device has 1 byte to "
		    "1 TiB, so publish it anew", r->where,
		    (unsigned long long)size);
		return STEP_FAIL;
	}
	r->blob_size = size;
	return STEP_ANSWER;
}

static enum step
check_stat(struct request *r, const struct head *h)
{
	struct content_range range;

	r->range_ok = h->status == 206;
	if (!r->range_ok) {
		int64_t length = content_length(h);

		if (length < 0)
			return fail_retry(r, "does not say how large the blob "
			    "is; check what stands in front of the registry");
		return check_size(r, (uint64_t)length);
	}
	if (!h->field[HEAD_CONTENT_RANGE] ||
	    head_content_range(h->field[HEAD_CONTENT_RANGE], &range) < 0 ||
	    range.first != 0 || range.last != 0)
		return fail_retry(r, "sent another range than was asked for; "
		    "check what stands in front of the registry");
	return check_size(r, range.total);
}

static enum step
check_manifest(struct request *r, const struct head *h)
{
	const char *type = h->field[HEAD_CONTENT_TYPE];
	const char *digest = h->field[HEAD_DIGEST];

	if (h->status != 200)
		return fail_retry(r, "sent a part of the manifest; check what "
		    "stands in front of the registry");
	if (content_length(h) > IPC_RAW_MAX)
		return fail(r, CTL_CODE(UNSUPPORTED), false, "has a manifest "
		    "of more than 256 KiB; publish a smaller one");
	r->media_type = strndup(type ? type : "",
	    type ? strcspn(type, "; \t") : 0);
	r->claimed = strdup(digest && strlen(digest) <= DIGEST_TEXT ?
	    digest : "");
	if (!r->media_type || !r->claimed ||
	    strlen(r->media_type) > MEDIA_TYPE_MAX)
		return fail_retry(r, "names no usable media type; check the "
		    "registry");
	return STEP_BODY;
}

/* Registries without the API answer with a log-in page (registry.k8s.io), and
 * without the tag with the image itself (GitLab).  What is no index is as
 * absent. */
static enum step
check_referrers(struct request *r, const struct head *h)
{
	const char *type = h->field[HEAD_CONTENT_TYPE];

	if (h->status != 200)
		return fail_retry(r, "sent a part of the list of referrers; "
		    "check what stands in front of the registry");
	if (!type || strcspn(type, "; \t") != strlen(MEDIA_TYPE_INDEX) ||
	    strncasecmp(type, MEDIA_TYPE_INDEX,
	    strlen(MEDIA_TYPE_INDEX)) != 0)
		return referrers_absent(r);
	if (content_length(h) > REFERRERS_JSON_MAX)
		return fail(r, CTL_CODE(UNSUPPORTED), false, "has a list of "
		    "referrers of more than 256 KiB; remove some");
	return STEP_BODY;
}

/* Exactly r->offset to its end, of exactly r->size. */
static enum step
check_range(struct request *r, const struct head *h)
{
	struct content_range range;

	if (!h->field[HEAD_CONTENT_RANGE] ||
	    head_content_range(h->field[HEAD_CONTENT_RANGE], &range) < 0)
		return fail_retry(r, "does not say which range it sent; check "
		    "what stands in front of the registry");
	if (range.total != r->size) {
		failure_set(&r->failure, CTL_CODE(SIZE_CHANGED), false,
		    "%s: %s has a blob of %llu bytes where %llu were "
		    "expected; push the image again", r->where, r->at.host,
		    (unsigned long long)range.total,
		    (unsigned long long)r->size);
		return STEP_FAIL;
	}
	if (range.first != r->offset ||
	    range.last != r->offset + r->length - 1)
		return fail_retry(r, "sent another range than was asked for; "
		    "check what stands in front of the registry");
	return STEP_BODY;
}

static enum step
check_fetch(struct request *r, const struct head *h)
{
	int64_t length = content_length(h);
	enum step step = STEP_BODY;

	if (h->status == 206)
		step = check_range(r, h);
	else if (!r->plain)
		step = fail(r, CTL_CODE(RANGE_UNSUPPORTED), false, "sends the "
		    "whole blob where a part was asked for; use --fetch "
		    "whole, or a registry that can do ranges");
	else if (length >= 0 && (uint64_t)length != r->size)
		step = fail(r, CTL_CODE(SIZE_CHANGED), false, "has a blob of "
		    "another size than before; push the image again");
	if (step == STEP_BODY && length >= 0 &&
	    (uint64_t)length != r->length)
		return fail_retry(r, "announces another length than that of "
		    "the range; check what stands in front of the registry");
	return step;
}

enum step
check_head(struct request *r, const struct head *h)
{
	if (is_redirect(h->status))
		return STEP_REDIRECT;
	/* registries answer 403 to a token whose time is over */
	if ((h->status == 401 || (h->status == 403 && r->sent)) &&
	    r->at_registry && !r->challenged) {
		r->failure.http_status = (uint32_t)h->status;
		return STEP_CHALLENGE;
	}
	if (r->recalled && is_expired(h->status))
		return STEP_RESOLVE_AGAIN;
	if (h->status != 200 && h->status != 206)
		return check_status(r, h);
	r->failure.http_status = (uint32_t)h->status;
	if (!is_identity(h))
		return fail_retry(r, "sent an encoded answer where the bytes "
		    "themselves were asked for; check what stands in front of "
		    "the registry");
	switch (r->kind) {
	case REQUEST_RESOLVE:
		return check_manifest(r, h);
	case REQUEST_STAT:
		return check_stat(r, h);
	case REQUEST_REFERRERS:
		return check_referrers(r, h);
	case REQUEST_FETCH:
		return check_fetch(r, h);
	}
	return STEP_FAIL;
}
