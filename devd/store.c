// SPDX-License-Identifier: Apache-2.0
/*
 * What clients ask of the store: pin, keep, gc, df, drop, verify, promote,
 * import.  Each is checked here and passed to cached as an op (op.c); what
 * cached answers is what the client gets.  A descriptor goes on to cached with
 * its request, and nothing of it stays.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/control.h"

#define KEEP_MAX	4096	/* digests of one list */
#define WHY_MAX		299	/* bytes, of a sentence in a row */
#define OWNERS_SHOWN	32	/* of one image, each <= OWNER_MAX */
#define GC_ROWS		512	/* of a frame: each at most about 400 bytes */
#define DF_ROWS		24	/* likewise: about 9 KiB */

struct gc_row {
	struct digest_text digest;
	char why[WHY_MAX + 1];	/* "": freed */
};

struct df_row {
	CTL(DfReply__Row) m;
	struct digest_text digest;
	char image[IMAGE_TEXT_MAX + 1];
	char *owners[OWNERS_SHOWN];	/* each its own */
};

struct task {
	struct op op;
	union {
		Suite__Pin pin;
		Suite__Keep keep;
		Suite__Gc gc;
		Suite__Df df;
		Suite__Drop drop;
		Suite__Verify verify;
		Suite__Promote promote;
		Suite__Import import;
	} ask;
	char image[IMAGE_TEXT_MAX + 1], owner[OWNER_MAX + 1];
	ProtobufCBinaryData *list;	/* of Keep */
	struct digest *digests;		/* that it points at */
	struct gc_row *gc;
	struct df_row *df;
	size_t n_rows;
	uint64_t freed;
};

static void
task_end(struct op *o, const char *why)
{
	struct task *t = (struct task *)o;

	(void)why;
	for (size_t i = 0; t->df && i < t->n_rows; i++)
		for (size_t k = 0; k < t->df[i].m.n_owners; k++)
			free(t->df[i].owners[k]);
	free(t->df);
	free(t->gc);
	free(t->list);
	free(t->digests);
}

static void
no_memory(struct op *o)
{
	op_fail(o, CTL_CODE(INTERNAL), true, "no memory; see the log");
}

/* ---- cached's answers ---- */

static void
task_done(struct op *o, const void *body)
{
	CTL(Done) done = SHEDSTREAM__CONTROL__V1__DONE__INIT;

	(void)body;
	op_answer(o, CTL_BODY(DONE), &done);
}

static void
verify_done(struct op *o, const void *body)
{
	CTL(VerifyReply) r = SHEDSTREAM__CONTROL__V1__VERIFY_REPLY__INIT;
	const Suite__Verified *m = body;

	r.checked = m->checked;
	r.damaged = m->damaged;
	r.repaired = m->repaired;
	op_answer(o, CTL_BODY(VERIFY_REPLY), &r);
}

/* Rows [*at, ...) as one frame. */
static void
gc_part(const struct task *t, size_t *at, CTL(GcReply) *r, char **freed,
    CTL(GcReply__Kept) *kept, CTL(GcReply__Kept) **list)
{
	size_t end = t->n_rows - *at > GC_ROWS ? *at + GC_ROWS : t->n_rows;

	shedstream__control__v1__gc_reply__init(r);
	r->freed = freed;
	r->kept = list;
	for (; *at < end; ++*at) {
		struct gc_row *row = &t->gc[*at];
		CTL(GcReply__Kept) *k = &kept[r->n_kept];

		if (!row->why[0]) {
			freed[r->n_freed++] = row->digest.text;
			continue;
		}
		shedstream__control__v1__gc_reply__kept__init(k);
		k->digest = row->digest.text;
		k->why = row->why;
		list[r->n_kept++] = k;
	}
	r->bytes = t->freed;
	r->more = end < t->n_rows;
}

static void
gc_done(struct task *t)
{
	static char *freed[GC_ROWS];
	static CTL(GcReply__Kept) kept[GC_ROWS], *list[GC_ROWS];
	CTL(GcReply) r;
	size_t at = 0;

	do {
		gc_part(t, &at, &r, freed, kept, list);
		reply(t->op.client, t->op.request, CTL_BODY(GC_REPLY), &r);
	} while (r.more);
	op_over(&t->op);
}

static void
gc_row(struct op *o, const void *body)
{
	struct task *t = (struct task *)o;
	const Suite__GcRow *m = body;
	struct gc_row *row;
	struct digest blob;

	if (m->last) {
		gc_done(t);
		return;
	}
	if (digest_from_bytes(m->blob_digest.data, m->blob_digest.len,
	    &blob) < 0)
		return;
	row = realloc(t->gc, (t->n_rows + 1) * sizeof(*row));
	if (!row) {
		no_memory(o);
		return;
	}
	t->gc = row;
	row += t->n_rows++;
	row->digest = digest_to_text(&blob);
	snprintf(row->why, sizeof(row->why), "%s", m->why);
	t->freed += m->freed;
}

static void
df_done(struct task *t, uint64_t total)
{
	CTL(DfReply__Row) *list[DF_ROWS];
	CTL(DfReply) r;
	size_t at = 0;

	do {
		shedstream__control__v1__df_reply__init(&r);
		r.images = list;
		for (; at < t->n_rows && r.n_images < DF_ROWS; at++) {
			struct df_row *row = &t->df[at];

			row->m.image = row->image;
			row->m.digest = row->digest.text;
			row->m.owners = row->owners;
			list[r.n_images++] = &row->m;
		}
		r.total = total;
		r.more = at < t->n_rows;
		reply(t->op.client, t->op.request, CTL_BODY(DF_REPLY), &r);
	} while (r.more);
	op_over(&t->op);
}

static void
df_row(struct op *o, const void *body)
{
	struct task *t = (struct task *)o;
	const Suite__DfRow *m = body;
	struct df_row *row;
	struct digest blob;

	if (m->last) {
		df_done(t, m->total);
		return;
	}
	if (digest_from_bytes(m->blob_digest.data, m->blob_digest.len,
	    &blob) < 0)
		return;
	row = realloc(t->df, (t->n_rows + 1) * sizeof(*row));
	if (!row) {
		no_memory(o);
		return;
	}
	t->df = row;
	row += t->n_rows++;
	shedstream__control__v1__df_reply__row__init(&row->m);
	row->digest = digest_to_text(&blob);
	snprintf(row->image, sizeof(row->image), "%s", m->image);
	row->m.size = m->size;
	row->m.on_disk = m->on_disk;
	row->m.exclusive = m->exclusive;
	row->m.shared = m->shared;
	row->m.pinned = m->pinned;
	for (size_t i = 0; i < m->n_owners && i < OWNERS_SHOWN; i++) {
		char *owner = strndup(m->owners[i], OWNER_MAX);

		if (!owner) {
			no_memory(o);
			return;
		}
		row->owners[row->m.n_owners++] = owner;
	}
}

/* Short ones answer BUSY rather than wait for a cached that is away; what is
 * harmless twice is asked of a new cached. */
#define TASK(REQUEST, ANSWER, handler)					       \
	.size = sizeof(struct task), .request = SUITE_BODY(REQUEST),	       \
	.answer = SUITE_BODY(ANSWER), .answered = handler, .end = task_end
static const struct op_type pin_type = { TASK(PIN, DONE, task_done),
	.brief = true, .again = true };
static const struct op_type keep_type = { TASK(KEEP, DONE, task_done),
	.brief = true, .again = true };
static const struct op_type gc_type = { TASK(GC, GC_ROW, gc_row),
	.brief = true };
static const struct op_type df_type = { TASK(DF, DF_ROW, df_row),
	.brief = true };
static const struct op_type drop_type = { TASK(DROP, DONE, task_done),
	.brief = true };
static const struct op_type verify_type = { TASK(VERIFY, VERIFIED,
	verify_done), .again = true };
static const struct op_type promote_type = { TASK(PROMOTE, DONE, task_done) };
static const struct op_type import_type = { TASK(IMPORT, DONE, task_done) };

/* ---- requests of clients ---- */

static struct task *
task_new(const struct op_type *type, struct client *c, uint64_t request,
    const char *image)
{
	struct task *t = (struct task *)op_new(type, c, request);

	if (t)
		snprintf(t->image, sizeof(t->image), "%s", image);
	return t;
}

void
on_pin(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Pin) *m = msg->body;
	struct task *t;

	(void)link;
	if (image_refused(owner, msg->id, m->image))
		return;
	t = task_new(&pin_type, owner, msg->id, m->image);
	if (!t)
		return;
	suite__pin__init(&t->ask.pin);
	t->ask.pin.image = t->image;
	t->ask.pin.pin = m->pin;
	op_start(&t->op, &t->ask);
}

static bool
keep_refused(struct client *c, uint64_t id, const CTL(Keep) *m)
{
	struct digest digest;

	if (m->n_digests == 0 && !m->allow_empty) {
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "the list is "
		    "empty, so that nothing of %s would be kept; if that is "
		    "meant, say so with --allow-empty", c->owner);
		return true;
	}
	if (m->n_digests > KEEP_MAX) {
		reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "the list "
		    "names %zu images; keep at most %d", m->n_digests,
		    KEEP_MAX);
		return true;
	}
	for (size_t i = 0; i < m->n_digests; i++)
		if (digest_parse(m->digests[i], &digest) < 0) {
			reply_error(c, id, CTL_CODE(BAD_REQUEST), false,
			    "entry %zu of the list is no sha256:HEX; the list "
			    "stays as it was", i + 1);
			return true;
		}
	return false;
}

void
on_keep(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Keep) *m = msg->body;
	struct client *c = owner;
	struct task *t;

	(void)link;
	if (keep_refused(c, msg->id, m))
		return;
	t = task_new(&keep_type, c, msg->id, "");
	if (!t)
		return;
	t->list = calloc(m->n_digests + 1, sizeof(*t->list));
	t->digests = calloc(m->n_digests + 1, sizeof(*t->digests));
	if (!t->list || !t->digests) {
		no_memory(&t->op);
		return;
	}
	snprintf(t->owner, sizeof(t->owner), "%s", c->owner);
	suite__keep__init(&t->ask.keep);
	t->ask.keep.owner = t->owner;
	t->ask.keep.digests = t->list;
	t->ask.keep.n_digests = m->n_digests;
	for (size_t i = 0; i < m->n_digests; i++) {
		digest_parse(m->digests[i], &t->digests[i]);
		t->list[i].data = t->digests[i].bytes;
		t->list[i].len = DIGEST_LEN;
	}
	op_start(&t->op, &t->ask);
}

void
on_gc(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Gc) *m = msg->body;
	struct task *t = task_new(&gc_type, owner, msg->id, "");

	(void)link;
	if (!t)
		return;
	suite__gc__init(&t->ask.gc);
	t->ask.gc.dry_run = m->dry_run;
	t->ask.gc.max_bytes = m->max_bytes;
	t->ask.gc.until_s = m->until_s;
	op_start(&t->op, &t->ask);
}

void
on_df(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct task *t = task_new(&df_type, owner, msg->id, "");

	(void)link;
	if (!t)
		return;
	suite__df__init(&t->ask.df);
	op_start(&t->op, &t->ask);
}

void
on_drop(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Drop) *m = msg->body;
	const struct device *d;
	struct task *t;

	(void)link;
	if (image_refused(owner, msg->id, m->image))
		return;
	d = device_of_image(m->image);
	if (d) {
		reply_error(owner, msg->id, CTL_CODE(IN_USE), false, "device "
		    "%s is of that image and has consumers; detach it first",
		    d->spec.name);
		return;
	}
	t = task_new(&drop_type, owner, msg->id, m->image);
	if (!t)
		return;
	suite__drop__init(&t->ask.drop);
	t->ask.drop.image = t->image;
	op_start(&t->op, &t->ask);
}

void
on_verify(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Verify) *m = msg->body;
	struct task *t;

	(void)link;
	if (m->all && m->image[0]) {
		reply_error(owner, msg->id, CTL_CODE(BAD_REQUEST), false,
		    "verify one image, or all; not both");
		return;
	}
	if (!m->all && image_refused(owner, msg->id, m->image))
		return;
	t = task_new(&verify_type, owner, msg->id, m->image);
	if (!t)
		return;
	suite__verify__init(&t->ask.verify);
	t->ask.verify.image = t->image;
	op_start(&t->op, &t->ask);
}

/* A regular file, open for that? */
static bool
file_refused(struct client *c, uint64_t id, int fd, bool write)
{
	int flags = fcntl(fd, F_GETFL), mode = flags & O_ACCMODE;
	struct stat st;

	if (flags >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    !(flags & O_PATH) && mode != (write ? O_RDONLY : O_WRONLY) &&
	    !(write && (flags & O_APPEND)))
		return false;
	reply_error(c, id, CTL_CODE(BAD_REQUEST), false, "the descriptor of "
	    "this request is to be a regular file, open for %s",
	    write ? "writing and not for appending" : "reading");
	return true;
}

void
on_promote(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Promote) *m = msg->body;
	_cleanup_close_ int fd = msg->fd;
	struct task *t;

	(void)link;
	if (image_refused(owner, msg->id, m->image) ||
	    file_refused(owner, msg->id, fd, true))
		return;
	t = task_new(&promote_type, owner, msg->id, m->image);
	if (!t)
		return;
	suite__promote__init(&t->ask.promote);
	t->ask.promote.image = t->image;
	t->op.fd = take_fd(&fd);
	op_start(&t->op, &t->ask);
}

void
on_import(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const CTL(Import) *m = msg->body;
	_cleanup_close_ int fd = msg->fd;
	struct task *t;

	(void)link;
	if (image_refused(owner, msg->id, m->image) ||
	    file_refused(owner, msg->id, fd, false))
		return;
	t = task_new(&import_type, owner, msg->id, m->image);
	if (!t)
		return;
	suite__import__init(&t->ask.import);
	t->ask.import.image = t->image;
	t->op.fd = take_fd(&fd);
	op_start(&t->op, &t->ask);
}
