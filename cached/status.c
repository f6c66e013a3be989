// SPDX-License-Identifier: Apache-2.0
/* Numbers for control: layouts, images, cells, sources; who is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "cached/cached.h"

#define CELLS_MAX	4096
#define SOURCES_TOLD	64	/* rows: image names may make up any registries */

/* What proves the bytes, for a person. */
static const char *
chain(const struct layout *l)
{
	if (!l->indexed)
		return "";	/* that depends on the device's rung */
	return layout_unproven(l) ? "an index that only refers to the image, "
	    "then each chunk before it is served; unproven until complete" :
	    "manifest digest, then the index digest, then each chunk before "
	    "it is served";
}

void
on_inspect(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Inspect *req = msg->body;
	Suite__Layout m = SUITE__LAYOUT__INIT;
	struct layout *l = NULL;
	struct digest key;

	(void)owner;
	if (digest_from_bytes(req->layout.data, req->layout.len, &key) == 0)
		l = layout_find(&key);
	m.layout = req->layout;
	if (l) {
		const struct counts *c = &l->file->counts;

		m.size = l->size;
		m.chunks = l->n_chunks;
		m.chunks_present = layout_present(l);
		m.chunks_shared = l->n_shared;
		m.bytes_present = layout_bytes_present(l);
		m.bytes_fetched = c->bytes_fetched;
		m.requests_sent = c->requests_sent;
		m.requests_retried = c->requests_retried;
		m.requests_failed = c->requests_failed;
		m.stalled_reads = l->stalled ? l->waiting : 0;
		m.stalled_since = l->stalled ? l->outage.since_wall / 1000 : 0;
		m.reads_eio = l->reads_eio;
		m.complete = m.network_free = l->complete;
		m.self_contained = layout_self_contained(l);
		m.unproven = layout_unproven(l);
		m.chain = (char *)chain(l);
		m.failed = l->failed;
		m.completing = l->pulling || l->digesting;
		m.last_error = l->last_error;
		m.denied_by = l->denied_by;
		m.damaged = l->file->damaged;
	}
	ipc_send(link, msg->id, SUITE_BODY(LAYOUT), &m, NULL, 0, -1);
}

void
on_list_images(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	Suite__ImageRow last = SUITE__IMAGE_ROW__INIT;
	struct image *image;

	(void)owner;
	TAILQ_FOREACH(image, &images, entry) {
		Suite__ImageRow m = SUITE__IMAGE_ROW__INIT;
		const struct file *f = file_by_key(image_layout(image,
		    CTL_RUNG(CHUNK)));
		struct layout *l;

		if (!f)
			f = file_by_key(&image->blob);
		l = f ? f->layout : NULL;
		if (f) {
			m.bytes_present = l ? layout_bytes_present(l) :
			    f->complete ? image->size : f->bytes_present;
			m.complete = m.network_free = f->complete;
		}
		m.image = image->name;
		m.image_digest.data = image->manifest.bytes;
		m.image_digest.len = DIGEST_LEN;
		m.blob_digest.data = image->blob.bytes;
		m.blob_digest.len = DIGEST_LEN;
		m.size = image->size;
		ipc_send(link, msg->id, SUITE_BODY(IMAGE_ROW), &m, NULL, 0,
		    -1);
	}
	last.last = true;
	ipc_send(link, msg->id, SUITE_BODY(IMAGE_ROW), &last, NULL, 0, -1);
}

/* The strongest thing that is true of any chunk in a part of the device. */
static uint8_t
cell(const struct layout *l, uint64_t offset, uint64_t end)
{
	uint8_t best = 0;
	struct extent e;

	for (; offset < end && best < 2; offset = e.offset + e.length) {
		e = layout_extent(l, offset);
		if (e.chunk == NO_CHUNK)
			continue;
		if (layout_place(l, e.chunk).file == l->file &&
		    l->file->state[e.chunk] & CHUNK_FETCHED)
			best = 2;
		else if (layout_state(l, e.chunk) != CHUNK_ABSENT)
			best = 1;
	}
	return best;
}

void
on_map_cells(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__MapCells *req = msg->body;
	_cleanup_free_ uint8_t *cells = NULL;
	Suite__Cells m = SUITE__CELLS__INIT;
	struct layout *l = NULL;
	struct digest key;

	(void)owner;
	if (req->cells <= CELLS_MAX && digest_from_bytes(req->layout.data,
	    req->layout.len, &key) == 0)
		l = layout_find(&key);
	cells = calloc(1, CELLS_MAX);
	if (l && cells) {
		for (uint64_t i = 0; i < req->cells; i++) {
			uint64_t units = map_units(l->size, MAP_BLOCK);
			uint64_t first = i * units / req->cells;
			uint64_t end = (i + 1) * units / req->cells;

			end = (end > first ? end : first + 1) * MAP_BLOCK;
			cells[i] = cell(l, first * MAP_BLOCK,
			    end < l->size ? end : l->size);
		}
		m.cells.data = cells;
		m.cells.len = req->cells;
	}
	ipc_send(link, msg->id, SUITE_BODY(CELLS), &m, NULL, 0, -1);
}

/* ---- sources ---- */

/* What is worth a warning. */
static bool
source_ill(const struct source *s)
{
	return !source_up(s) || s->n_wrong > 0;
}

static void
source_tell(struct ipc_link *link, uint64_t id, const struct source *s)
{
	Suite__SourceRow m = SUITE__SOURCE_ROW__INIT;
	uint64_t now = now_ms();

	m.host = s->registry->host;
	m.mirror = s->mirror;
	m.up = source_up(s);
	m.asked = !m.up || s->asked > 0 || s->delivered > 0;
	if (!m.up) {
		m.down_ms = now - s->down_since;
		m.next_try_ms = s->next_try > now ? s->next_try - now : 0;
	}
	m.rtt_us = s->rtt_us;
	m.rate = source_rate(s);
	m.wrong = s->n_wrong;
	m.demand = s->registry->n_demand;
	m.hedges = s->registry->n_hedges;
	ipc_send(link, id, SUITE_BODY(SOURCE_ROW), &m, NULL, 0, -1);
}

void
on_list_sources(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	Suite__SourceRow last = SUITE__SOURCE_ROW__INIT;
	unsigned told = 0;

	(void)owner;
	for (int ill = 1; ill >= 0; ill--) {
		const struct registry *r = NULL;

		while ((r = registry_next(r)))
			for (unsigned i = 0; i < r->n_sources; i++) {
				if (source_ill(&r->sources[i]) != ill)
					continue;
				if (told++ < SOURCES_TOLD)
					source_tell(link, msg->id,
					    &r->sources[i]);
				else
					last.left_out++;
			}
	}
	last.last = true;
	ipc_send(link, msg->id, SUITE_BODY(SOURCE_ROW), &last, NULL, 0, -1);
}

/* ---- credentials ---- */

/* HOST[:PORT] of who is asked there: of a mirror's URL, or the registry. */
static void
source_host(const struct source *s, char host[REF_HOST_MAX + 1])
{
	const char *at = strstr(s->mirror, "://");

	at = at ? at + 3 : s->registry->host;
	snprintf(host, REF_HOST_MAX + 1, "%.*s", (int)strcspn(at, "/"), at);
}

static bool
host_denies(const char *host)
{
	const struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry)
		if (strcmp(l->denied_by, host) == 0)
			return true;
	return false;
}

void
status_denied(struct layout *l, const struct source *s,
    const Suite__FetchDone *done)
{
	char host[REF_HOST_MAX + 1];
	bool said;

	/* 407 is the proxy's, and what may work again needs nobody */
	if (done->code != CTL_CODE(AUTH_DENIED) || done->retry ||
	    done->http_status == 407)
		return;
	source_host(s, host);
	said = host_denies(host);
	memcpy(l->denied_by, host, sizeof(host));
	if (!said)
		notice("credentials-needed", l, "%s refuses access to %s/%s; "
		    "run `shedctl login %s`", host, l->host, l->repo, host);
}

void
status_allowed(struct layout *l, const struct source *s)
{
	char host[REF_HOST_MAX + 1];

	source_host(s, host);
	if (strcmp(l->denied_by, host) == 0)
		l->denied_by[0] = '\0';
}

void
on_credentials(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Credentials *m = msg->body;
	const struct registry *r = NULL;
	char host[REF_HOST_MAX + 1];
	struct layout *l;

	(void)owner;
	(void)link;
	TAILQ_FOREACH(l, &layouts, entry)
		if (strcmp(l->denied_by, m->host) == 0)
			l->denied_by[0] = '\0';
	while ((r = registry_next(r)))
		for (unsigned i = 0; i < r->n_sources; i++) {
			source_host(&r->sources[i], host);
			if (strcmp(host, m->host) == 0) {
				fetch_retry(r->host);
				break;
			}
		}
}
