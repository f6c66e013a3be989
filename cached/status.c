// SPDX-License-Identifier: Apache-2.0
/* Numbers for control: layouts, images, maps of cells. */
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "cached/cached.h"

#define CELLS_MAX	4096

void
on_inspect(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Inspect *req = msg->body;
	Suite__Layout m = SUITE__LAYOUT__INIT;
	struct layout *l = NULL;
	struct digest blob;

	(void)owner;
	if (digest_from_bytes(req->blob_digest.data, req->blob_digest.len,
	    &blob) == 0)
		l = layout_find(&blob);
	m.blob_digest = req->blob_digest;
	if (l) {
		m.size = l->size;
		m.units = l->n_units;
		m.units_present = l->n_present;
		m.bytes_present = layout_bytes_present(l);
		m.bytes_fetched = l->counts.bytes_fetched;
		m.requests_sent = l->counts.requests_sent;
		m.requests_retried = l->counts.requests_retried;
		m.requests_failed = l->counts.requests_failed;
		m.stalled_reads = l->stalled ? l->waiting : 0;
		m.complete = m.network_free = l->complete;
		m.failed = l->failed;
		m.completing = l->pulling || l->digesting;
		m.last_error = l->last_error;
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
		bool complete;

		layout_on_disk(&image->blob, image->size, &m.bytes_present,
		    &complete);
		m.image = image->name;
		m.image_digest.data = image->manifest.bytes;
		m.image_digest.len = DIGEST_LEN;
		m.blob_digest.data = image->blob.bytes;
		m.blob_digest.len = DIGEST_LEN;
		m.size = image->size;
		m.complete = m.network_free = complete;
		ipc_send(link, msg->id, SUITE_BODY(IMAGE_ROW), &m, NULL, 0,
		    -1);
	}
	last.last = true;
	ipc_send(link, msg->id, SUITE_BODY(IMAGE_ROW), &last, NULL, 0, -1);
}

/* The strongest thing that is true of any unit in a cell. */
static uint8_t
cell(const struct layout *l, uint64_t first, uint64_t end)
{
	uint8_t best = 0;

	for (uint64_t u = first; u < end && best < 2; u++)
		if (l->units[u] & UNIT_FETCHED)
			best = 2;
		else if (layout_state(l, u) != UNIT_ABSENT)
			best = 1;
	return best;
}

void
on_map_cells(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__MapCells *req = msg->body;
	_cleanup_free_ uint8_t *cells = NULL;
	Suite__Cells m = SUITE__CELLS__INIT;
	struct layout *l = NULL;
	struct digest blob;

	(void)owner;
	if (req->cells <= CELLS_MAX && digest_from_bytes(
	    req->blob_digest.data, req->blob_digest.len, &blob) == 0)
		l = layout_find(&blob);
	cells = calloc(1, CELLS_MAX);
	if (l && cells) {
		for (uint64_t i = 0; i < req->cells; i++) {
			uint64_t first = i * l->n_units / req->cells;
			uint64_t end = (i + 1) * l->n_units / req->cells;

			cells[i] = cell(l, first, end > first ? end :
			    first + 1);
		}
		m.cells.data = cells;
		m.cells.len = req->cells;
	}
	ipc_send(link, msg->id, SUITE_BODY(CELLS), &m, NULL, 0, -1);
}
