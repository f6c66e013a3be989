// SPDX-License-Identifier: Apache-2.0
/* control for a real cached: asks it, and keeps what it answers and notices.
 * See host.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/own.h"
#include "tests/store/host.h"

struct host_ask {
	TAILQ_ENTRY(host_ask) entry;
	uint64_t id;
	bool done;
	struct host_answer answer;
	struct host_layout layout;
};

/* ---- answers ---- */

static struct host_ask *
ask_find(struct host *h, uint64_t id)
{
	struct host_ask *ask;

	TAILQ_FOREACH(ask, &h->asks, entry)
		if (ask->id == id)
			return ask;
	return NULL;
}

static void
copy_digest(struct digest *to, ProtobufCBinaryData from)
{
	if (digest_from_bytes(from.data, from.len, to) < 0)
		memset(to, 0, sizeof(*to));
}

/* The answer that this message belongs to; a request that was cancelled has
 * one that nobody looks at. */
static struct host_answer *
answer_of(struct host *h, const struct ipc_message *msg, bool last)
{
	static struct host_answer nobodys;
	struct host_ask *ask = ask_find(h, msg->id);

	if (!ask)
		return &nobodys;
	if (ask->done)
		host_fail(h, "a second end of request %llu",
		    (unsigned long long)msg->id);
	ask->done = last;
	ask->answer.type = msg->type;
	return &ask->answer;
}

static struct host_row *
row_of(struct host_answer *a)
{
	return &a->rows[a->n_rows < HOST_ROWS ? a->n_rows++ : HOST_ROWS - 1];
}

static void
on_opened(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Opened *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, true);

	(void)link;
	copy_digest(&a->manifest, m->image_digest);
	copy_digest(&a->blob, m->blob_digest);
	copy_digest(&a->layout, m->layout);
	a->size = m->size;
	a->unit = m->unit;
	a->rung = m->rung;
	a->complete = m->complete;
	a->network_free = m->network_free;
	a->self_contained = m->self_contained;
	snprintf(a->image, sizeof(a->image), "%s", m->image);
	snprintf(a->data, sizeof(a->data), "%s", m->data);
}

static void
on_progress(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Progress *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, false);

	(void)link;
	if (m->current < a->current || m->current > m->total)
		host_fail(owner, "progress %llu of %llu after %llu",
		    (unsigned long long)m->current,
		    (unsigned long long)m->total,
		    (unsigned long long)a->current);
	a->n_progress++;
	a->current = m->current;
	a->total = m->total;
}

static void
on_failed(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Failed *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, true);

	(void)link;
	a->code = m->code;
	a->retry = m->retry;
	snprintf(a->text, sizeof(a->text), "%s", m->text);
}

static void
on_done(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)link;
	answer_of(owner, msg, true);
}

static void
on_verified(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Verified *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, true);

	(void)link;
	a->checked = m->checked;
	a->damaged = m->damaged;
	a->repaired = m->repaired;
}

static void
on_image_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__ImageRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last)
		return;
	row = row_of(a);
	snprintf(row->image, sizeof(row->image), "%s", m->image);
	copy_digest(&row->image_digest, m->image_digest);
	copy_digest(&row->blob, m->blob_digest);
	row->size = m->size;
	row->present = m->bytes_present;
	row->complete = m->complete;
	row->network_free = m->network_free;
}

static void
on_source_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__SourceRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last)
		return;
	row = row_of(a);
	snprintf(row->image, sizeof(row->image), "%s", m->mirror[0] ?
	    m->mirror : m->host);
	row->asked = m->asked;
	row->up = m->up;
	row->wrong = m->wrong;
	row->down_ms = m->down_ms;
}

static void
on_gc_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__GcRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last)
		return;
	row = row_of(a);
	copy_digest(&row->blob, m->blob_digest);
	snprintf(row->why, sizeof(row->why), "%s", m->why);
	row->freed = m->freed;
}

static void
on_df_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__DfRow *m = msg->body;
	struct host_answer *a = answer_of(owner, msg, m->last);
	struct host_row *row;

	(void)link;
	if (m->last) {
		a->total = m->total;
		return;
	}
	row = row_of(a);
	snprintf(row->image, sizeof(row->image), "%s", m->image);
	copy_digest(&row->blob, m->blob_digest);
	row->size = m->size;
	row->on_disk = m->on_disk;
	row->exclusive = m->exclusive;
	row->shared = m->shared;
	row->pinned = m->pinned;
}

static void
on_layout(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Layout *m = msg->body;
	struct host_ask *ask = ask_find(owner, msg->id);
	struct host_layout l = { .size = m->size, .chunks = m->chunks,
		.chunks_present = m->chunks_present,
		.bytes_present = m->bytes_present,
		.bytes_fetched = m->bytes_fetched,
		.requests_sent = m->requests_sent,
		.requests_failed = m->requests_failed,
		.stalled_reads = m->stalled_reads,
		.stalled_since = m->stalled_since, .reads_eio = m->reads_eio,
		.chunks_shared = m->chunks_shared, .damaged = m->damaged,
		.complete = m->complete, .network_free = m->network_free,
		.failed = m->failed, .completing = m->completing,
		.self_contained = m->self_contained, .unproven = m->unproven };

	(void)link;
	answer_of(owner, msg, true);
	snprintf(l.last_error, sizeof(l.last_error), "%s", m->last_error);
	snprintf(l.denied_by, sizeof(l.denied_by), "%s", m->denied_by);
	if (ask)
		ask->layout = l;
}

static void
on_cells(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)link;
	answer_of(owner, msg, true);
}

static void
on_notice(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct host *h = owner;
	const Suite__Notice *m = msg->body;
	struct host_notice *n = &h->notices[h->n_notices++ % HOST_NOTICES];

	(void)link;
	snprintf(n->kind, sizeof(n->kind), "%s", m->kind);
	snprintf(n->text, sizeof(n->text), "%s", m->text);
	copy_digest(&n->layout, m->layout);
}

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(OPENED), "opened", PEER_CACHED, PHASE_ANY, false, false, on_opened },
	{ SUITE_BODY(PROGRESS), "progress", PEER_CACHED, PHASE_ANY, false, false, on_progress },
	{ SUITE_BODY(FAILED), "failed", PEER_CACHED, PHASE_ANY, false, false, on_failed },
	{ SUITE_BODY(DONE), "done", PEER_CACHED, PHASE_ANY, false, false, on_done },
	{ SUITE_BODY(VERIFIED), "verified", PEER_CACHED, PHASE_ANY, false, false, on_verified },
	{ SUITE_BODY(LAYOUT), "layout", PEER_CACHED, PHASE_ANY, false, false, on_layout },
	{ SUITE_BODY(IMAGE_ROW), "image_row", PEER_CACHED, PHASE_ANY, false, false, on_image_row },
	{ SUITE_BODY(SOURCE_ROW), "source_row", PEER_CACHED, PHASE_ANY, false, false, on_source_row },
	{ SUITE_BODY(GC_ROW), "gc_row", PEER_CACHED, PHASE_ANY, false, false, on_gc_row },
	{ SUITE_BODY(DF_ROW), "df_row", PEER_CACHED, PHASE_ANY, false, false, on_df_row },
	{ SUITE_BODY(CELLS), "cells", PEER_CACHED, PHASE_ANY, false, false, on_cells },
	{ SUITE_BODY(NOTICE), "notice", PEER_CACHED, PHASE_ANY, false, false, on_notice },
};

static void
control_closed(void *owner, struct ipc_link *link, int why)
{
	struct host *h = owner;

	ipc_free(link);
	h->control = NULL;
	if (!h->stopping && why == -EPROTO)
		host_fail(h, "cached broke the protocol with control");
}

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = control_closed,
};

/* ---- the link ---- */

void
host_control_link(struct host *h, int fd)
{
	h->control = ipc_new(h->base, fd, &table, PEER_CACHED, h);
	if (!h->control)
		host_fail(h, "no memory for a link");
}

void
host_control_unlink(struct host *h)
{
	ipc_free(take_ptr(h->control));
}

void
host_control_forget(struct host *h)
{
	struct host_ask *ask;

	while ((ask = TAILQ_FIRST(&h->asks))) {
		TAILQ_REMOVE(&h->asks, ask, entry);
		free(ask);
	}
}

/* ---- requests ---- */

uint64_t
host_send(struct host *h, unsigned type, const void *body, int passfd)
{
	struct host_ask *ask = calloc(1, sizeof(*ask));

	if (!ask || !h->control)
		host_fail(h, "a request needs a cached");
	ask->id = ++h->last_id;
	TAILQ_INSERT_TAIL(&h->asks, ask, entry);
	ipc_send(h->control, ask->id, type, body, NULL, 0,
	    passfd < 0 ? -1 : fd_duplicate(passfd));
	return ask->id;
}

bool
host_answered(struct host *h, uint64_t id)
{
	return ask_find(h, id)->done;
}

static bool
ask_done(void *arg)
{
	return ((struct host_ask *)arg)->done;
}

static struct host_ask
ask_end(struct host *h, uint64_t id)
{
	struct host_ask *ask = ask_find(h, id), copy;
	char what[64];

	snprintf(what, sizeof(what), "the answer to request %llu",
	    (unsigned long long)id);
	host_until(h, ask_done, ask, what);
	copy = *ask;
	TAILQ_REMOVE(&h->asks, ask, entry);
	free(ask);
	return copy;
}

struct host_answer
host_wait(struct host *h, uint64_t id)
{
	return ask_end(h, id).answer;
}

struct host_answer
host_ask(struct host *h, unsigned type, const void *body, int passfd)
{
	return host_wait(h, host_send(h, type, body, passfd));
}

void
host_cancel(struct host *h, uint64_t id)
{
	Suite__Cancel m = SUITE__CANCEL__INIT;
	struct host_ask *ask = ask_find(h, id);

	ipc_send(h->control, id, SUITE_BODY(CANCEL), &m, NULL, 0, -1);
	TAILQ_REMOVE(&h->asks, ask, entry);
	free(ask);
}

static struct host_answer
succeed(struct host *h, const char *what, unsigned type, const void *body,
    int fd, unsigned want)
{
	struct host_answer a = host_ask(h, type, body, fd);

	if (a.type != want)
		host_fail(h, "%s: code %d, %s", what, (int)a.code, a.text);
	return a;
}

static Suite__Open
open_message(const char *image, uint32_t rung, bool whole)
{
	Suite__Open m = SUITE__OPEN__INIT;

	m.image = (char *)image;
	m.rung = (Shedstream__Control__V1__Rung)rung;
	m.whole = whole;
	m.device = !whole;
	return m;
}

uint64_t
host_open_begin(struct host *h, const char *image, uint32_t rung, bool whole)
{
	Suite__Open m = open_message(image, rung, whole);

	return host_send(h, SUITE_BODY(OPEN), &m, -1);
}

struct host_answer
host_open(struct host *h, const char *image, uint32_t rung, bool whole)
{
	Suite__Open m = open_message(image, rung, whole);

	return succeed(h, image, SUITE_BODY(OPEN), &m, -1, SUITE_BODY(OPENED));
}

struct host_answer
host_verify(struct host *h, const char *image)
{
	Suite__Verify m = SUITE__VERIFY__INIT;

	m.image = (char *)image;
	return succeed(h, "verify", SUITE_BODY(VERIFY), &m, -1,
	    SUITE_BODY(VERIFIED));
}

struct host_answer
host_gc(struct host *h, uint64_t max_bytes)
{
	Suite__Gc m = SUITE__GC__INIT;

	m.max_bytes = max_bytes;
	return succeed(h, "gc", SUITE_BODY(GC), &m, -1, SUITE_BODY(GC_ROW));
}

struct host_answer
host_df(struct host *h)
{
	Suite__Df m = SUITE__DF__INIT;

	return succeed(h, "df", SUITE_BODY(DF), &m, -1, SUITE_BODY(DF_ROW));
}

struct host_answer
host_sources(struct host *h)
{
	Suite__ListSources m = SUITE__LIST_SOURCES__INIT;

	return succeed(h, "list of sources", SUITE_BODY(LIST_SOURCES), &m, -1,
	    SUITE_BODY(SOURCE_ROW));
}

struct host_answer
host_images(struct host *h)
{
	Suite__ListImages m = SUITE__LIST_IMAGES__INIT;

	return succeed(h, "list", SUITE_BODY(LIST_IMAGES), &m, -1,
	    SUITE_BODY(IMAGE_ROW));
}

void
host_pin(struct host *h, const char *image, bool pin)
{
	Suite__Pin m = SUITE__PIN__INIT;

	m.image = (char *)image;
	m.pin = pin;
	succeed(h, "pin", SUITE_BODY(PIN), &m, -1, SUITE_BODY(DONE));
}

void
host_keep(struct host *h, const char *owner,
    const struct reg_image *const *images)
{
	ProtobufCBinaryData digests[HOST_ROWS];
	Suite__Keep m = SUITE__KEEP__INIT;

	m.owner = (char *)owner;
	m.digests = digests;
	for (; *images; images++)
		digests[m.n_digests++] = (ProtobufCBinaryData){ DIGEST_LEN,
			(uint8_t *)(*images)->manifest.bytes };
	succeed(h, "keep", SUITE_BODY(KEEP), &m, -1, SUITE_BODY(DONE));
}

void
host_promote(struct host *h, const char *image, int fd)
{
	Suite__Promote m = SUITE__PROMOTE__INIT;

	m.image = (char *)image;
	succeed(h, "promote", SUITE_BODY(PROMOTE), &m, fd, SUITE_BODY(DONE));
}

void
host_import(struct host *h, const char *image, int fd)
{
	Suite__Import m = SUITE__IMPORT__INIT;

	m.image = (char *)image;
	succeed(h, "import", SUITE_BODY(IMPORT), &m, fd, SUITE_BODY(DONE));
}

void
host_drop(struct host *h, const char *image)
{
	Suite__Drop m = SUITE__DROP__INIT;

	m.image = (char *)image;
	succeed(h, "drop", SUITE_BODY(DROP), &m, -1, SUITE_BODY(DONE));
}

struct host_layout
host_inspect(struct host *h, const struct digest *layout)
{
	Suite__Inspect m = SUITE__INSPECT__INIT;

	m.layout.data = (uint8_t *)layout->bytes;
	m.layout.len = DIGEST_LEN;
	return ask_end(h, host_send(h, SUITE_BODY(INSPECT), &m, -1)).layout;
}

bool
host_noticed(const struct host *h, const char *kind, const char *text)
{
	unsigned n = h->n_notices < HOST_NOTICES ? h->n_notices : HOST_NOTICES;

	for (unsigned i = 0; i < n; i++)
		if (strcmp(h->notices[i].kind, kind) == 0 &&
		    strstr(h->notices[i].text, text))
			return true;
	return false;
}
