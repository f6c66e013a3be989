// SPDX-License-Identifier: Apache-2.0
/* fetcherd for a real cached: answers from the registry in memory, or fails as
 * ordered.  See host.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "base/own.h"
#include "image/manifest.h"
#include "tests/store/host.h"

#define REFERRERS_MAX	16	/* in one answer: see suite.proto */

/* What was asked for, until it is answered. */
struct host_request {
	TAILQ_ENTRY(host_request) entry;
	struct host *host;
	struct event *due;
	uint64_t id;
	unsigned type;		/* SUITE_BODY() */
	char repo[64], what[160];	/* reference or digest */
	uint64_t offset, length, size;
	uint32_t unit;
	bool plain, mirror, also;
	uint32_t *pieces;
	size_t n_pieces;
};

static bool
is_of(const struct host_request *q, const struct reg_image *image)
{
	return image && strcmp(image->repo, q->repo) == 0;
}

static void
request_free(struct host_request *q)
{
	TAILQ_REMOVE(&q->host->held, q, entry);
	if (q->due)
		event_free(q->due);
	free(q->pieces);
	free(q);
}

/* ---- ends ---- */

static void
done(struct host_request *q, Shedstream__Control__V1__Code code, bool retry,
    const char *text, uint64_t bytes)
{
	Suite__FetchDone m = SUITE__FETCH_DONE__INIT;

	m.code = code;
	m.retry = retry;
	m.text = (char *)text;
	m.body_bytes = bytes;
	m.requests = 1;
	if (code == CTL_CODE(AUTH_DENIED))
		m.retry_after_s = 300;
	m.first_byte_us = 1000;
	m.total_us = 2000;
	if (q->host->fetcherd)
		ipc_send(q->host->fetcherd, q->id, SUITE_BODY(FETCH_DONE), &m,
		    NULL, 0, -1);
	request_free(q);
}

static void
done_ok(struct host_request *q, uint64_t bytes)
{
	done(q, CTL_CODE(OK), false, "", bytes);
}

static void
done_absent(struct host_request *q)
{
	done(q, CTL_CODE(BLOB_ABSENT), false, "the registry has none of that",
	    0);
}

/* ---- answers ---- */

static void
answer_resolve(struct host_request *q)
{
	const struct reg_blob *blob = registry_manifest(q->host->registry,
	    q->repo, q->what);
	Suite__Manifest m = SUITE__MANIFEST__INIT;
	struct digest_text digest;

	if (!blob) {
		done_absent(q);
		return;
	}
	digest = digest_to_text(&blob->digest);
	m.media_type = "application/vnd.oci.image.manifest.v1+json";
	m.digest = digest.text;
	ipc_send(q->host->fetcherd, q->id, SUITE_BODY(MANIFEST), &m,
	    blob->bytes, blob->len, -1);
	done_ok(q, blob->len);
}

static void
answer_stat(struct host_request *q)
{
	const struct reg_blob *blob = registry_blob(q->host->registry,
	    q->what);
	Suite__BlobInfo m = SUITE__BLOB_INFO__INIT;

	if (!blob) {
		done_absent(q);
		return;
	}
	m.size = blob->len;
	if (q->mirror)
		m.size -= q->host->net.mirror_less;
	m.range_ok = !q->host->net.no_ranges;
	ipc_send(q->host->fetcherd, q->id, SUITE_BODY(BLOB_INFO), &m, NULL, 0,
	    -1);
	done_ok(q, 0);
}

static void
answer_referrers(struct host_request *q)
{
	const struct reg *reg = q->host->registry;
	const struct reg_image *image;
	Suite__Referring m = SUITE__REFERRING__INIT;
	struct digest_text texts[REFERRERS_MAX];
	char *pointers[REFERRERS_MAX];
	struct digest subject;

	m.digests = pointers;
	if (digest_parse(q->what, &subject) < 0)
		host_fail(q->host, "referrers of %s", q->what);
	STAILQ_FOREACH(image, &reg->images, entry)
		if ((image->flags & IMAGE_REFERRED) &&
		    digest_equal(&image->manifest, &subject) &&
		    m.n_digests < REFERRERS_MAX) {
			texts[m.n_digests] = digest_to_text(&image->artifact);
			pointers[m.n_digests] = texts[m.n_digests].text;
			m.n_digests++;
		}
	ipc_send(q->host->fetcherd, q->id, SUITE_BODY(REFERRING), &m, NULL, 0,
	    -1);
	done_ok(q, 0);
}

/* Is the piece wrong?  Once, if so many are, or whenever it is asked for. */
static bool
is_wrong(struct host_request *q, uint64_t offset, size_t len)
{
	struct host *h = q->host;

	if (is_of(q, h->net.harmed) && h->net.harmed_at >= offset &&
	    h->net.harmed_at - offset < len) {
		h->counts.harmed++;
		return true;
	}
	if (h->net.wrong == 0 || (h->net.wrong_of &&
	    !is_of(q, h->net.wrong_of)))
		return false;
	h->net.wrong--;
	return true;
}

static void
send_piece(struct host_request *q, const struct reg_blob *blob,
    uint64_t offset, size_t len)
{
	struct host *h = q->host;
	_cleanup_free_ uint8_t *copy = NULL;
	const uint8_t *bytes = blob->bytes + offset;
	Suite__Data m = SUITE__DATA__INIT;

	m.offset = offset;
	if (is_wrong(q, offset, len)) {
		copy = malloc(len);
		if (!copy)
			abort();
		memcpy(copy, bytes, len);
		copy[len / 2] ^= 1;
		bytes = copy;
	}
	h->counts.pieces++;
	h->counts.bytes += len;
	ipc_send(h->fetcherd, q->id, SUITE_BODY(DATA), &m, bytes, len, -1);
}

/* The length of the next piece at that place. */
static uint64_t
next_piece(struct host_request *q, size_t n, uint64_t at)
{
	uint64_t left = q->offset + q->length - at, len;

	if (q->n_pieces > 0) {
		if (n >= q->n_pieces || q->pieces[n] == 0 ||
		    q->pieces[n] > IPC_RAW_MAX || q->pieces[n] > left)
			host_fail(q->host, "the pieces of a fetch are not its "
			    "length");
		return q->pieces[n];
	}
	len = q->unit - at % q->unit;
	return len < left ? len : left;
}

static void
answer_fetch(struct host_request *q)
{
	struct host *h = q->host;
	const struct reg_blob *blob = registry_blob(h->registry, q->what);
	uint64_t at = q->offset, end = q->offset + q->length;
	bool cut = h->net.cut > 0;

	if (!blob) {
		done_absent(q);
		return;
	}
	if (q->size != blob->len) {
		done(q, CTL_CODE(SIZE_CHANGED), false, "it has another size",
		    0);
		return;
	}
	if (h->net.no_ranges && !q->plain) {
		done(q, CTL_CODE(RANGE_UNSUPPORTED), false, "no ranges", 0);
		return;
	}
	if (q->length == 0 || end > blob->len || end < at ||
	    (q->n_pieces == 0) != (q->unit != 0) ||
	    q->unit > IPC_RAW_MAX || (q->plain && q->length != q->size))
		host_fail(h, "a fetch that makes no sense: %llu+%llu of %zu, "
		    "unit %u, %zu pieces", (unsigned long long)q->offset,
		    (unsigned long long)q->length, blob->len, q->unit,
		    q->n_pieces);
	for (size_t n = 0; at < end; n++) {
		uint64_t len = next_piece(q, n, at);

		if (cut && at - q->offset >= q->length / 2)
			break;
		send_piece(q, blob, at, (size_t)len);
		at += len;
	}
	if (cut) {
		h->net.cut--;
		done(q, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "the connection broke", at - q->offset);
		return;
	}
	done_ok(q, q->length);
}

static bool
is_absent(const struct host_request *q)
{
	const struct host_net *net = &q->host->net;

	return (q->mirror && net->mirror_absent) ||
	    (q->type == SUITE_BODY(FETCH) && is_of(q, net->absent));
}

static void
answer(struct host_request *q)
{
	if (is_absent(q))
		done_absent(q);
	else if (q->host->net.state == NET_OFF)
		done(q, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "the registry does not answer", 0);
	else if (q->host->net.resets && q->type == SUITE_BODY(FETCH) &&
	    q->host->counts.fetches % 2 == 1)
		done(q, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "the connection was reset", 0);
	else if (q->host->net.state == NET_DENIED ||
	    (q->host->net.only_mirrors && !q->mirror))
		done(q, CTL_CODE(AUTH_DENIED), false, "who is that?", 0);
	else if (q->type == SUITE_BODY(RESOLVE))
		answer_resolve(q);
	else if (q->type == SUITE_BODY(STAT))
		answer_stat(q);
	else if (q->type == SUITE_BODY(REFERRERS))
		answer_referrers(q);
	else
		answer_fetch(q);
}

/* ---- requests ---- */

static bool
is_held(const struct host_request *q)
{
	const struct host_net *net = &q->host->net;

	return net->state == NET_HELD || (q->mirror && net->mirror_held) ||
	    (q->plain && net->plain_held) || (q->also && net->also_held);
}

static bool
is_also(const struct host *h, const char *host)
{
	for (size_t i = 0; i < ARRAY_LEN(h->net.also); i++)
		if (h->net.also[i] && strcmp(host, h->net.also[i]) == 0)
			return true;
	return false;
}

/* Now, later, or (held) when somebody looks again. */
static void
answer_due(evutil_socket_t fd, short what, void *arg)
{
	struct host_request *q = arg;
	struct timeval again = { 0, 10 * 1000 };

	(void)fd;
	(void)what;
	if (!is_held(q))
		answer(q);
	else if (evtimer_add(q->due, &again) < 0)
		abort();
}

static struct host_request *
request_new(struct host *h, const struct ipc_message *msg,
    const Suite__Source *source, const char *what)
{
	struct host_request *q = calloc(1, sizeof(*q));

	if (!q)
		abort();
	q->host = h;
	q->id = msg->id;
	q->type = msg->type;
	TAILQ_INSERT_TAIL(&h->held, q, entry);
	if (h->net.state == NET_FORBIDDEN)
		host_fail(h, "a request for %s, while none is needed", what);
	q->also = source && is_also(h, source->host);
	if (!source || (!q->also && strcmp(source->host, REGISTRY_HOST) != 0))
		host_fail(h, "a request to another host than " REGISTRY_HOST);
	snprintf(q->repo, sizeof(q->repo), "%s", source->repo);
	snprintf(q->what, sizeof(q->what), "%s", what);
	q->mirror = source->mirror && *source->mirror;
	h->counts.of_mirror += q->mirror;
	return q;
}

/* It is complete: answered from the loop, never from within its handler, so
 * that requests and answers cross as they do between processes. */
static void
request_go(struct host_request *q)
{
	struct timeval wait = { q->host->net.delay_ms / 1000,
		(suseconds_t)(q->host->net.delay_ms % 1000 * 1000) };

	q->due = evtimer_new(q->host->base, answer_due, q);
	if (!q->due || evtimer_add(q->due, &wait) < 0)
		abort();
}

static void
on_resolve(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	const Suite__Resolve *m = msg->body;

	(void)link;
	h->counts.resolves++;
	request_go(request_new(h, msg, m->source, m->reference));
}

static void
on_stat(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	const Suite__Stat *m = msg->body;

	(void)link;
	h->counts.stats++;
	request_go(request_new(h, msg, m->source, m->digest));
}

static void
on_referrers(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	const Suite__Referrers *m = msg->body;

	(void)link;
	h->counts.referrers++;
	if (strcmp(m->artifact_type, TYPE_ARTIFACT) != 0)
		host_fail(h, "referrers of type %s", m->artifact_type);
	request_go(request_new(h, msg, m->source, m->digest));
}

static void
on_fetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	const Suite__Fetch *m = msg->body;
	struct host_request *q = request_new(h, msg, m->source, m->digest);

	(void)link;
	h->counts.fetches++;
	h->counts.of_image += is_of(q, h->net.counted);
	q->offset = m->offset;
	q->length = m->length;
	q->size = m->size;
	q->unit = m->unit;
	q->plain = m->plain;
	q->n_pieces = m->n_pieces;
	if (m->n_pieces > 0) {
		q->pieces = calloc(m->n_pieces, sizeof(*q->pieces));
		if (!q->pieces)
			abort();
		memcpy(q->pieces, m->pieces, m->n_pieces *
		    sizeof(*q->pieces));
	}
	request_go(q);
}

static void
on_cancel_fetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	struct host_request *q;

	(void)link;
	h->counts.cancels++;
	TAILQ_FOREACH(q, &h->held, entry)
		if (q->id == msg->id) {
			done(q, CTL_CODE(CANCELLED), false, "cancelled", 0);
			return;
		}
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(RESOLVE), "resolve", PEER_CACHED, PHASE_ANY, false, false, on_resolve },
	{ SUITE_BODY(STAT), "stat", PEER_CACHED, PHASE_ANY, false, false, on_stat },
	{ SUITE_BODY(REFERRERS), "referrers", PEER_CACHED, PHASE_ANY, false, false, on_referrers },
	{ SUITE_BODY(FETCH), "fetch", PEER_CACHED, PHASE_ANY, false, false, on_fetch },
	{ SUITE_BODY(CANCEL_FETCH), "cancel_fetch", PEER_CACHED, PHASE_ANY, false, false, on_cancel_fetch },
};

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	struct host *h = owner;

	(void)link;
	fetch_unlink(h);
	if (!h->stopping && why == -EPROTO)
		host_fail(h, "cached broke the protocol with fetcherd");
}

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
};

void
fetch_link(struct host *h, int fd)
{
	h->fetcherd = ipc_new(h->base, fd, &table, PEER_CACHED, h);
	if (!h->fetcherd)
		host_fail(h, "no memory for a link");
}

void
fetch_unlink(struct host *h)
{
	struct host_request *q;

	while ((q = TAILQ_FIRST(&h->held)))
		request_free(q);
	ipc_free(take_ptr(h->fetcherd));
}

void
host_credentials(struct host *h, const char *host)
{
	Suite__Credentials m = SUITE__CREDENTIALS__INIT;

	m.host = (char *)host;
	ipc_send(h->fetcherd, 0, SUITE_BODY(CREDENTIALS), &m, NULL, 0, -1);
}
