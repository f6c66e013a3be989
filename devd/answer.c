// SPDX-License-Identifier: Apache-2.0
/*
 * What there is: ls, status, images, map, health (and what doctor.c and
 * metrics.c make of it).  Numbers of layouts come from cached, those of reads
 * from each device's statistics page.  A query collects cached's answers, and
 * is answered without them when cached is away or slow: an answer with old
 * numbers beats none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/control.h"

#define MAP_CELLS	640	/* 80 x 8, as CLI.md draws them */
#define ROWS_A_FRAME	100	/* each at most about 1.2 KiB */
#define DEVICES_A_FRAME	16	/* each with its consumers' names */
#define CONSUMERS_SHOWN	32	/* of one device */

enum query_kind { QUERY_LIST, QUERY_STATUS, QUERY_HEALTH, QUERY_IMAGES,
    QUERY_MAP, QUERY_DOCTOR, QUERY_METRICS };

struct row {
	CTL(ImagesReply__Row) row;
	char image[IMAGE_TEXT_MAX + 1];
	struct digest_text image_digest, digest;
};

struct query {
	TAILQ_ENTRY(query) entry;
	enum query_kind kind;
	uint64_t id;		/* of its requests to cached */
	struct client *client;
	uint64_t request;
	char name[256];
	unsigned pending;
	struct event *slow;
	struct row *rows;
	size_t n_rows;
	struct sources_told *sources;	/* of QUERY_DOCTOR, QUERY_METRICS */
};

static TAILQ_HEAD(, query) queries = TAILQ_HEAD_INITIALIZER(queries);
static uint64_t last_id;

static void
query_free(struct query *q)
{
	TAILQ_REMOVE(&queries, q, entry);
	q->client->n_queries--;
	if (q->slow)
		event_free(q->slow);
	free(q->rows);
	free(q->sources);
	free(q);
}

/* ---- one device as a message ---- */

struct shown {
	CTL(Device) m;
	struct digest_text image_digest, digest;
	char path[DEVICE_PATH_SIZE], chain[256], error[256];
	char *names[ALIASES_MAX], *consumers[CONSUMERS_SHOWN];
};

static Shedstream__Control__V1__Device__State
shown_state(const struct device *d)
{
	if (d->failed || d->layout.failed ||
	    (d->state == DEVICE_WANTED && d->last_error[0]))
		return SHEDSTREAM__CONTROL__V1__DEVICE__STATE__FAILED;
	if (d->state == DEVICE_ENDING || device_draining(d))
		return SHEDSTREAM__CONTROL__V1__DEVICE__STATE__DRAINING;
	if (d->layout.complete)
		return SHEDSTREAM__CONTROL__V1__DEVICE__STATE__COMPLETE;
	if (d->layout.completing)
		return SHEDSTREAM__CONTROL__V1__DEVICE__STATE__COMPLETING;
	return SHEDSTREAM__CONTROL__V1__DEVICE__STATE__LAZY;
}

static void
show_layout(CTL(Device) *m, const struct device *d)
{
	const Suite__Layout *l = &d->layout;

	m->network_free = l->network_free;
	m->chunks_total = l->chunks;
	m->chunks_present = l->chunks_present;
	m->chunks_shared = l->chunks_shared;
	m->chunks_damaged = l->damaged;
	m->self_contained = l->self_contained;
	m->unproven = l->unproven;
	m->bytes_present = l->bytes_present;
	m->bytes_fetched = l->bytes_fetched;
	m->requests_sent = l->requests_sent;
	m->requests_retried = l->requests_retried;
	m->requests_failed = l->requests_failed;
	m->stalled_reads = l->stalled_reads;
	m->stalled_since = l->stalled_since;
	m->reads_eio = l->reads_eio;
}

static void
show_stats(CTL(Device) *m, const struct stats *stats)
{
	if (!stats)
		return;
	m->reads_hot = atomic_load(&stats->reads_hot);
	m->reads_cold = atomic_load(&stats->reads_cold);
	m->bytes_served = atomic_load(&stats->bytes_served);
	m->openers = (uint32_t)atomic_load(&stats->openers);
}

/* cached tells it of an index; without one it is the rung's. */
static const char *
chain_text(const struct device *d)
{
	if (d->chain[0])
		return d->chain;
	switch (d->spec.rung) {
	case CTL_RUNG(TRANSPORT):
		return "nothing but the transport";
	case CTL_RUNG(COMPLETE):
		return "transport until complete, then the erofs digest of "
		    "the manifest";
	case CTL_RUNG(WHOLE):
		return "manifest digest, then the erofs digest of the whole "
		    "blob before the first byte";
	default:
		return "";
	}
}

static void
show(struct shown *s, struct device *d)
{
	CTL(Device) *m = &s->m;
	struct consumer *c;

	shedstream__control__v1__device__init(m);
	s->image_digest = digest_to_text(&d->spec.image);
	s->digest = digest_to_text(&d->spec.blob);
	device_path(d, d->spec.name, s->path, sizeof(s->path));
	snprintf(s->chain, sizeof(s->chain), "%s", chain_text(d));
	snprintf(s->error, sizeof(s->error), "%s", d->last_error[0] ?
	    d->last_error : d->layout_error);
	m->name = d->spec.name;
	for (; m->n_aliases < d->n_aliases; m->n_aliases++)
		s->names[m->n_aliases] = d->aliases[m->n_aliases];
	m->aliases = s->names;
	m->image = d->image;
	m->image_digest = s->image_digest.text;
	m->digest = s->digest.text;
	m->size = d->spec.size;
	m->path = d->state == DEVICE_READY ? s->path : (char *)"";
	m->present = d->spec.present;
	m->rung = d->spec.rung;
	m->on_outage = d->spec.eio_after_s ? CTL_OUTAGE(EIO) :
	    CTL_OUTAGE(STALL);
	m->outage_delay_s = d->spec.eio_after_s;
	m->state = shown_state(d);
	m->last_error = s->error;
	m->worker_restarts = d->spec.restarts;
	m->chain = s->chain;
	m->consumers = s->consumers;
	TAILQ_FOREACH(c, &d->consumers, entry)
		if (m->n_consumers < CONSUMERS_SHOWN)
			s->consumers[m->n_consumers++] = c->text;
	show_layout(m, d);
	show_stats(m, d->stats);
}

static void
send_devices(struct query *q, struct shown *shown, size_t n, bool more)
{
	CTL(Devices) m = SHEDSTREAM__CONTROL__V1__DEVICES__INIT;
	CTL(Device) *list[DEVICES_A_FRAME];

	for (size_t i = 0; i < n; i++)
		list[i] = &shown[i].m;
	m.devices = list;
	m.n_devices = n;
	m.more = more;
	reply(q->client, q->request, CTL_BODY(DEVICES), &m);
}

static void
answer_list(struct query *q)
{
	_cleanup_free_ struct shown *shown = calloc(DEVICES_A_FRAME,
	    sizeof(*shown));
	struct device *d;
	size_t n = 0;

	if (!shown)
		return;
	TAILQ_FOREACH(d, &devices, entry) {
		if (n == DEVICES_A_FRAME) {
			send_devices(q, shown, n, true);
			n = 0;
		}
		show(&shown[n++], d);
	}
	send_devices(q, shown, n, false);
}

static void
answer_status(struct query *q)
{
	_cleanup_free_ struct shown *shown = calloc(1, sizeof(*shown));
	struct device *d = device_by_name(q->name);

	if (!d) {
		reply_error(q->client, q->request, CTL_CODE(BAD_REQUEST),
		    false, "no device is called %s; shedctl ls shows those "
		    "there are", q->name);
		return;
	}
	if (!shown)
		return;
	show(shown, d);
	send_devices(q, shown, 1, false);
}

bool
device_ill(const struct device *d, char *text, size_t size)
{
	const char *why = d->last_error[0] ? d->last_error : d->layout_error;
	uint64_t since = d->layout.stalled_since;

	if (shown_state(d) == SHEDSTREAM__CONTROL__V1__DEVICE__STATE__FAILED)
		snprintf(text, size, "device %s: %s", d->spec.name, why);
	else if (since > 0)
		snprintf(text, size, "device %s: %ju reads wait%s, for %ju s "
		    "now: %s", d->spec.name,
		    (uintmax_t)d->layout.stalled_reads, d->spec.eio_after_s ?
		    " or get EIO" : "", (uintmax_t)((uint64_t)time(NULL) >
		    since ? (uint64_t)time(NULL) - since : 0), why);
	else if (d->denied_by[0])
		snprintf(text, size, "device %s: %s refuses access; run "
		    "`shedctl login %s`", d->spec.name, d->denied_by,
		    d->denied_by);
	else
		return false;
	return true;
}

static void
answer_health(struct query *q)
{
	CTL(HealthReply) m = SHEDSTREAM__CONTROL__V1__HEALTH_REPLY__INIT;
	char text[512] = "ok";
	struct device *d;

	m.ok = true;
	if (q->pending > 0 || !cached_link) {
		m.ok = false;
		snprintf(text, sizeof(text), "cached does not answer; see the "
		    "log");
	}
	TAILQ_FOREACH(d, &devices, entry) {
		if (!m.ok)
			break;
		m.ok = !device_ill(d, text, sizeof(text));
	}
	m.text = text;
	reply(q->client, q->request, CTL_BODY(HEALTH_REPLY), &m);
}

static void
answer_images(struct query *q)
{
	CTL(ImagesReply__Row) *list[ROWS_A_FRAME];
	size_t at = 0;

	do {
		CTL(ImagesReply) m;

		shedstream__control__v1__images_reply__init(&m);
		m.images = list;
		while (at < q->n_rows && m.n_images < ROWS_A_FRAME) {
			struct row *r = &q->rows[at++];

			r->row.image = r->image;
			r->row.image_digest = r->image_digest.text;
			r->row.digest = r->digest.text;
			list[m.n_images++] = &r->row;
		}
		m.more = at < q->n_rows;
		reply(q->client, q->request, CTL_BODY(IMAGES_REPLY), &m);
	} while (at < q->n_rows);
}

static void
query_answer(struct query *q)
{
	switch (q->kind) {
	case QUERY_LIST:
		answer_list(q);
		break;
	case QUERY_STATUS:
		answer_status(q);
		break;
	case QUERY_HEALTH:
		answer_health(q);
		break;
	case QUERY_DOCTOR:
		doctor_answer(q->client, q->request, q->sources,
		    q->pending == 0 && cached_link);
		break;
	case QUERY_METRICS:
		metrics_answer(q->client, q->request, q->sources,
		    q->pending == 0 && cached_link);
		break;
	case QUERY_IMAGES:
		answer_images(q);
		break;
	case QUERY_MAP:
		reply_error(q->client, q->request, CTL_CODE(BUSY), true,
		    "cached does not answer; see shedctl health");
		break;
	}
	query_free(q);
}

/* ---- asking cached ---- */

static void
query_slow(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	query_answer(arg);
}

/* NULL: refused, and said. */
static struct query *
query_new(enum query_kind kind, struct client *c, uint64_t request,
    const char *name)
{
	struct timeval slow = { ANSWER_MS / 1000, ANSWER_MS % 1000 * 1000 };
	struct query *q;

	if (c->n_queries >= QUERIES_MAX) {
		reply_error(c, request, CTL_CODE(BUSY), true, "%d questions of "
		    "this client are under way; wait for their answers",
		    QUERIES_MAX);
		return NULL;
	}
	q = calloc(1, sizeof(*q));
	if (!q)
		log_die("no memory for a query");
	c->n_queries++;
	q->kind = kind;
	q->id = ++last_id;
	q->client = c;
	q->request = request;
	snprintf(q->name, sizeof(q->name), "%s", name);
	q->slow = evtimer_new(loop, query_slow, q);
	if (!q->slow || evtimer_add(q->slow, &slow) < 0)
		log_die("no memory for a timer");
	TAILQ_INSERT_TAIL(&queries, q, entry);
	return q;
}

static struct query *
query_find(uint64_t id)
{
	struct query *q;

	TAILQ_FOREACH(q, &queries, entry)
		if (q->id == id)
			return q;
	return NULL;
}

void
queries_client_gone(struct client *c)
{
	struct query *q, *next;

	for (q = TAILQ_FIRST(&queries); q; q = next) {
		next = TAILQ_NEXT(q, entry);
		if (q->client == c)
			query_free(q);
	}
}

static void
ask(struct query *q, unsigned type, const void *body)
{
	q->pending++;
	ipc_send(cached_link, q->id, type, body, NULL, 0, -1);
}

/* Ask for the layouts of one device, or of all. */
static void
ask_layouts(struct query *q, struct device *only)
{
	struct device *d;

	TAILQ_FOREACH(d, &devices, entry) {
		Suite__Inspect m = SUITE__INSPECT__INIT;

		if (!cached_link || (only && d != only))
			continue;
		m.layout.data = d->spec.layout.bytes;
		m.layout.len = DIGEST_LEN;
		ask(q, SUITE_BODY(INSPECT), &m);
	}
	if (q->pending == 0)
		query_answer(q);
}

void
on_list(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct query *q = query_new(QUERY_LIST, owner, msg->id, "");

	(void)link;
	if (q)
		ask_layouts(q, NULL);
}

void
on_health(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct query *q = query_new(QUERY_HEALTH, owner, msg->id, "");

	(void)link;
	if (q)
		ask_layouts(q, NULL);
}

/* Of all layouts, and of the registries. */
static void
ask_all(struct client *c, uint64_t request, enum query_kind kind)
{
	struct query *q = query_new(kind, c, request, "");
	Suite__ListSources m = SUITE__LIST_SOURCES__INIT;

	if (!q)
		return;
	q->sources = calloc(1, sizeof(*q->sources));
	if (!q->sources)
		log_die("no memory for a query");
	if (cached_link)
		ask(q, SUITE_BODY(LIST_SOURCES), &m);
	ask_layouts(q, NULL);
}

void
on_doctor(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)link;
	ask_all(owner, msg->id, QUERY_DOCTOR);
}

void
on_metrics(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)link;
	ask_all(owner, msg->id, QUERY_METRICS);
}

void
on_status(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Status) *m = msg->body;
	struct query *q = query_new(QUERY_STATUS, owner, msg->id, m->name);
	struct device *d = device_by_name(m->name);

	(void)link;
	if (!q)
		return;
	if (d)
		ask_layouts(q, d);
	else
		query_answer(q);
}

void
on_images(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct query *q = query_new(QUERY_IMAGES, owner, msg->id, "");
	Suite__ListImages m = SUITE__LIST_IMAGES__INIT;

	(void)link;
	if (!q)
		return;
	if (cached_link)
		ask(q, SUITE_BODY(LIST_IMAGES), &m);
	else
		query_answer(q);
}

void
on_map(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Map) *req = msg->body;
	struct device *d = device_by_name(req->name);
	Suite__MapCells m = SUITE__MAP_CELLS__INIT;
	struct query *q;

	(void)link;
	if (!d) {
		reply_error(owner, msg->id, CTL_CODE(BAD_REQUEST), false,
		    "no device is called %.64s; shedctl ls shows those there "
		    "are", req->name);
		return;
	}
	q = query_new(QUERY_MAP, owner, msg->id, req->name);
	if (!q)
		return;
	m.layout.data = d->spec.layout.bytes;
	m.layout.len = DIGEST_LEN;
	m.cells = MAP_CELLS;
	if (cached_link)
		ask(q, SUITE_BODY(MAP_CELLS), &m);
	else
		query_answer(q);
}

/* ---- its answers ---- */

void
on_layout(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Layout *m = msg->body;
	struct query *q = query_find(msg->id);
	struct digest layout;
	struct device *d;

	(void)owner;
	(void)link;
	if (digest_from_bytes(m->layout.data, m->layout.len, &layout) < 0)
		return;
	TAILQ_FOREACH(d, &devices, entry) {
		if (!digest_equal(&d->spec.layout, &layout))
			continue;
		snprintf(d->layout_error, sizeof(d->layout_error), "%s",
		    m->last_error);
		snprintf(d->chain, sizeof(d->chain), "%s", m->chain);
		d->layout = *m;
		d->layout.layout.data = d->spec.layout.bytes;
		d->layout.last_error = d->layout_error;
		d->layout.chain = d->chain;
		snprintf(d->denied_by, sizeof(d->denied_by), "%s",
		    m->denied_by);
		d->layout.denied_by = d->denied_by;
	}
	if (q && --q->pending == 0)
		query_answer(q);
}

/* cached knows no such layout, or can't say: the rest is still worth telling,
 * where there is any. */
void
query_failed(uint64_t id, const Suite__Failed *m)
{
	struct query *q = query_find(id);

	if (!q)
		return;
	if (q->kind == QUERY_MAP || q->kind == QUERY_IMAGES) {
		reply_error(q->client, q->request, m->code, m->retry, "%s",
		    m->text);
		query_free(q);
	} else if (--q->pending == 0)
		query_answer(q);
}

static void
row_add(struct query *q, const Suite__ImageRow *m)
{
	struct row *r = realloc(q->rows, (q->n_rows + 1) * sizeof(*r));
	struct digest image, blob;
	struct device *d;

	if (!r || digest_from_bytes(m->image_digest.data, m->image_digest.len,
	    &image) < 0 || digest_from_bytes(m->blob_digest.data,
	    m->blob_digest.len, &blob) < 0) {
		q->rows = r ? r : q->rows;
		return;
	}
	q->rows = r;
	r += q->n_rows++;
	shedstream__control__v1__images_reply__row__init(&r->row);
	snprintf(r->image, sizeof(r->image), "%s", m->image);
	r->image_digest = digest_to_text(&image);
	r->digest = digest_to_text(&blob);
	r->row.size = m->size;
	r->row.present = m->bytes_present;
	r->row.complete = m->complete;
	r->row.network_free = m->network_free;
	TAILQ_FOREACH(d, &devices, entry)
		r->row.attached |= d->n_consumers > 0 &&
		    digest_equal(&d->spec.image, &image);
}

void
on_image_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__ImageRow *m = msg->body;
	struct query *q = query_find(msg->id);

	(void)owner;
	(void)link;
	if (!q || q->kind != QUERY_IMAGES)
		return;
	if (m->last)
		query_answer(q);
	else
		row_add(q, m);
}

void
on_cells(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Cells *m = msg->body;
	CTL(MapReply) r = SHEDSTREAM__CONTROL__V1__MAP_REPLY__INIT;
	struct query *q = query_find(msg->id);

	(void)owner;
	(void)link;
	if (!q || q->kind != QUERY_MAP)
		return;
	r.cells = m->cells;
	reply(q->client, q->request, CTL_BODY(MAP_REPLY), &r);
	query_free(q);
}

static void
source_add(struct sources_told *list, const Suite__SourceRow *m)
{
	struct source_told *s = &list->row[list->n];

	if (list->n == SOURCES_SHOWN) {
		list->left_out++;
		return;
	}
	list->n++;
	snprintf(s->host, sizeof(s->host), "%s", m->host);
	snprintf(s->mirror, sizeof(s->mirror), "%s", m->mirror);
	s->m = *m;
	s->m.host = s->host;
	s->m.mirror = s->mirror;
}

void
on_source_row(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__SourceRow *m = msg->body;
	struct query *q = query_find(msg->id);

	(void)owner;
	(void)link;
	if (!q || !q->sources)
		return;
	if (!m->last)
		source_add(q->sources, m);
	else {
		q->sources->left_out += m->left_out;
		if (--q->pending == 0)
			query_answer(q);
	}
}
