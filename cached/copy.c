// SPDX-License-Identifier: Apache-2.0
/*
 * Whole erofs out (promote) and in (import), through descriptors that clients
 * opened with their own rights: no path of theirs is ever opened here, and
 * nothing of the store ever refers to their files.
 *
 *	promote: complete? --no--> pull, wait --> COPY: each chunk read, hashed,
 *	         written; the whole digest as it goes --> Done
 *	import:  without an index: the whole digest first; then each absent
 *	         chunk is read and hashed here, and only then kept (or its
 *	         blocks shared, and hashed where they lie)
 *
 * Their files may be slow for ever, so that they have a thread of their own.
 */
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define COPIES_MAX	16	/* requests at a time */
#define IMPORTS_AT_ONCE	8	/* chunks under way */
#define PROGRESS_MS	100

/* SETTLING: everything was imported, and its whole digest is computed. */
enum copy_state { COPY_WAITING, COPY_RUNNING, COPY_SETTLING, COPY_OVER };

/* What the thread of a promotion reads, in the order of the device. */
struct part {
	int fd;			/* of the store; -1: zeros */
	uint64_t offset;	/* there */
	uint64_t length;
	uint32_t chunk;
	struct digest sum;
};

struct copy {
	TAILQ_ENTRY(copy) entry;
	struct job job;		/* promote; the hashing of an import */
	bool import, cancelled;
	enum copy_state state;
	uint64_t id;
	int fd;			/* the client's */
	struct layout *layout;
	_Atomic uint64_t current;	/* bytes */
	uint64_t told, sent;	/* monotonic ms; bytes, which never fall */

	/* promote */
	struct part *parts;
	size_t n_parts;
	struct digest digest;
	_Atomic int64_t bad;	/* chunk that is not what it was; -1 */

	/* import */
	struct digest *sums;	/* without an index: of each chunk */
	uint32_t next;		/* chunk */
	unsigned under_way;
	uint64_t copied, differ;
	bool same_system;	/* as the store's: blocks may be shared */
	bool ready;		/* to be begun, or gone on with */
	int error;
};

static TAILQ_HEAD(, copy) copies = TAILQ_HEAD_INITIALIZER(copies);
static unsigned n_copies;

static void import_on(struct copy *c);
static void promote_begin(struct copy *c);

/* ---- common ---- */

static void
copy_free(struct copy *c)
{
	struct layout *l = c->layout;

	TAILQ_REMOVE(&copies, c, entry);
	n_copies--;
	fd_close(c->fd);
	free(c->parts);
	free(c->sums);
	if (!c->import)
		open_pull_left(l);
	free(c);
	layout_put(l);
}

static void
copy_done(struct copy *c)
{
	Suite__Done m = SUITE__DONE__INIT;

	if (control_link && !c->cancelled)
		ipc_send(control_link, c->id, SUITE_BODY(DONE), &m, NULL, 0,
		    -1);
	copy_free(c);
}

#define copy_fail(c, code, retry, ...)					\
	do {								\
		if (!(c)->cancelled)					\
			reply_failed((c)->id, code, retry, __VA_ARGS__); \
		copy_free(c);						\
	} while (0)

bool
copy_needs(const struct layout *l)
{
	const struct copy *c;

	TAILQ_FOREACH(c, &copies, entry)
		if (c->layout == l && !c->import && c->state == COPY_WAITING)
			return true;
	return false;
}

static struct copy *
copy_new(struct ipc_message *msg, const char *name, bool import)
{
	_cleanup_close_ int fd = msg->fd;
	struct image *image = image_named(name);
	const struct digest *key = image ? image_layout(image,
	    CTL_RUNG(CHUNK)) : NULL;
	struct layout_spec spec;
	struct layout *l;
	struct stat st, own;
	struct copy *c;
	int r;

	if (!image) {
		reply_failed(msg->id, CTL_CODE(BLOB_ABSENT), false, "no image "
		    "%s is known here; attach or pull it first", name);
		return NULL;
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    n_copies >= COPIES_MAX) {
		reply_failed(msg->id, n_copies >= COPIES_MAX ? CTL_CODE(BUSY) :
		    CTL_CODE(BAD_REQUEST), n_copies >= COPIES_MAX,
		    "a regular file is needed, and at most %d at a time",
		    COPIES_MAX);
		return NULL;
	}
	if (import ? (uint64_t)st.st_size != image->size : st.st_size != 0) {
		reply_failed(msg->id, CTL_CODE(BAD_REQUEST), false, import ?
		    "the file has %lld bytes, the erofs of %s has %llu" :
		    "the new file has %lld bytes; give an empty one",
		    (long long)st.st_size, name,
		    (unsigned long long)image->size);
		return NULL;
	}
	spec = (struct layout_spec){ .key = *key, .blob = image->blob,
		.size = image->size, .host = image->host,
		.repo = image->repo };
	r = layout_get(&spec, &l);
	if (r < 0) {
		reply_failed(msg->id, CTL_CODE(INTERNAL), true, "the store "
		    "can't hold %s: %s; attach or pull it first", name,
		    r == -ENOKEY ? "its index is not here" : strerror(-r));
		return NULL;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		log_die("no memory for a copy");
	c->id = msg->id;
	c->import = import;
	c->same_system = fstat(store_dir(), &own) == 0 &&
	    own.st_dev == st.st_dev;
	c->fd = take_fd(&fd);
	c->layout = l;
	atomic_store(&c->bad, -1);
	TAILQ_INSERT_TAIL(&copies, c, entry);
	n_copies++;
	tick_soon();
	return c;
}

/* What nothing else would wake.  true: it is over, or was gone on with. */
static bool
copy_looked_after(struct copy *c)
{
	struct layout *l = c->layout;

	if (c->import && c->ready && c->under_way == 0 &&
	    c->state == COPY_WAITING && !map_adopts(l)) {
		import_on(c);
		return true;
	}
	if (!c->import && c->state == COPY_WAITING && l->complete &&
	    l->n_fills == 0) {
		promote_begin(c);
		return true;
	}
	if (c->state != COPY_SETTLING || l->digesting)
		return false;
	if (layout_present(l) == l->n_chunks) {
		finish_check(l);
		return true;
	}
	copy_fail(c, CTL_CODE(INTERNAL), true, "not all of what was copied "
	    "could be kept; see the log, and try again");
	return true;
}

bool
copy_tick(void)
{
	struct copy *c, *next;

	for (c = TAILQ_FIRST(&copies); c; c = next) {
		Suite__Progress m = SUITE__PROGRESS__INIT;

		next = TAILQ_NEXT(c, entry);
		if (copy_looked_after(c))
			continue;
		if (c->cancelled || !control_link ||
		    now_ms() - c->told < PROGRESS_MS)
			continue;
		c->told = now_ms();
		m.blob_digest.data = c->layout->blob.bytes;
		m.blob_digest.len = DIGEST_LEN;
		m.current = c->state == COPY_WAITING && !c->import ?
		    0 : atomic_load(&c->current);
		if (m.current < c->sent)	/* it began again */
			m.current = c->sent;
		c->sent = m.current;
		m.total = c->layout->size;
		ipc_send(control_link, c->id, SUITE_BODY(PROGRESS), &m, NULL,
		    0, -1);
	}
	return !TAILQ_EMPTY(&copies);
}

void
copy_cancel(uint64_t id)
{
	struct copy *c;

	TAILQ_FOREACH(c, &copies, entry)
		if (c->id == id)
			break;
	if (!c)
		return;
	c->cancelled = true;
	if ((c->state == COPY_WAITING && c->under_way == 0) ||
	    c->state == COPY_SETTLING)
		copy_free(c);
}

void
copy_forget_all(void)
{
	struct copy *c, *next;

	for (c = TAILQ_FIRST(&copies); c; c = next) {
		next = TAILQ_NEXT(c, entry);
		copy_cancel(c->id);
	}
}

/* ---- promote: the thread's part ---- */

static int
part_run(struct copy *c, const struct part *p, uint8_t *buf, uint64_t at,
    struct digest_stream *whole)
{
	struct digest sum;
	int r;

	if (p->fd < 0) {
		for (uint64_t i = 0; i < p->length; i += CHUNK_MAX)
			digest_update(whole, buf, p->length - i < CHUNK_MAX ?
			    p->length - i : CHUNK_MAX);
		return 0;	/* the new file is a hole there */
	}
	if (fd_pread_all(p->fd, buf, p->length, p->offset) !=
	    (ssize_t)p->length) {
		atomic_store(&c->bad, p->chunk);
		return -EBADMSG;
	}
	sum = digest_of(buf, p->length);
	if (!digest_equal(&sum, &p->sum)) {
		atomic_store(&c->bad, p->chunk);
		return -EBADMSG;
	}
	digest_update(whole, buf, p->length);
	r = disk_write(c->fd, buf, p->length, at);
	return r;
}

static int
promote_run(struct job *job)
{
	struct copy *c = job->owner;
	_cleanup_free_ uint8_t *buf = malloc(CHUNK_MAX);
	_cleanup_free_ uint8_t *zeros = calloc(1, CHUNK_MAX);
	struct digest_stream *whole = digest_start();
	int r = buf && zeros ? disk_set_size(c->fd, c->layout->size) : -ENOMEM;
	uint64_t at = 0;

	for (size_t i = 0; i < c->n_parts && r == 0; i++) {
		const struct part *p = &c->parts[i];

		r = part_run(c, p, p->fd < 0 ? zeros : buf, at, whole);
		at += p->length;
		atomic_store(&c->current, at);
		if (r == 0 && atomic_load(&work_stopping))
			r = -EINTR;
	}
	c->digest = digest_final(whole);
	return r < 0 ? r : disk_sync(c->fd);
}

/* ---- promote: the loop's ---- */

static void
promote_done(struct job *job)
{
	struct copy *c = job->owner;
	struct layout *l = c->layout;
	int64_t bad = atomic_load(&c->bad);

	c->state = COPY_OVER;
	if (job->result == -EBADMSG && bad >= 0) {
		struct place p = layout_place(l, (uint32_t)bad);

		/* It may have been moved or mended since. */
		if (scrub_still_bad(p.file, p.chunk)) {
			p.file->damaged++;
			file_drop(p.file, p.chunk);
		}
		c->state = COPY_WAITING;	/* mended, then again */
		if (c->cancelled)
			copy_free(c);
		else
			finish_pull(l, l->plain);
		return;
	}
	if (job->result < 0)
		copy_fail(c, job->result == -ENOSPC || job->result == -EDQUOT ?
		    CTL_CODE(NO_SPACE) : CTL_CODE(INTERNAL), false,
		    "the new file can't be written: %s; nothing was put in "
		    "its place", strerror(-job->result));
	else if (!digest_equal(&c->digest, &l->blob))
		copy_fail(c, CTL_CODE(DIGEST_MISMATCH), false, "what the store "
		    "has is not the image; shedctl verify mends it");
	else
		copy_done(c);
}

static bool
parts_make(struct copy *c)
{
	struct layout *l = c->layout;
	struct extent e;
	size_t n = 0;

	for (uint64_t at = 0; at < l->size; at = e.offset + e.length, n++)
		e = layout_extent(l, at);
	free(c->parts);
	c->n_parts = 0;
	c->parts = calloc(n, sizeof(*c->parts));
	if (!c->parts)
		return false;
	for (uint64_t at = 0; at < l->size; at = e.offset + e.length) {
		struct part *p = &c->parts[c->n_parts++];

		e = layout_extent(l, at);
		*p = (struct part){ .fd = -1, .length = e.length,
			.chunk = e.chunk };
		if (e.chunk == NO_CHUNK)
			continue;
		p->fd = layout_place(l, e.chunk).file->data_ro;
		p->offset = layout_offset(l, e.chunk);
		if (!layout_digest(l, e.chunk, &p->sum))
			return false;
	}
	return true;
}

static void
promote_begin(struct copy *c)
{
	if (!parts_make(c)) {
		copy_fail(c, CTL_CODE(INTERNAL), true, "no memory to copy the "
		    "image; try again");
		return;
	}
	c->state = COPY_RUNNING;
	atomic_store(&c->bad, -1);
	c->job = (struct job){ .lane = WORK_COPY, .run = promote_run,
		.done = promote_done, .owner = c };
	work_submit(&c->job);
}

void
copy_layout_changed(struct layout *l)
{
	struct copy *c, *next;

	for (c = TAILQ_FIRST(&copies); c; c = next) {
		next = TAILQ_NEXT(c, entry);
		if (c->layout != l || c->state != (c->import ? COPY_SETTLING :
		    COPY_WAITING))
			continue;
		if (l->failed)
			copy_fail(c, CTL_CODE(DIGEST_MISMATCH), false, "%s",
			    l->last_error);
		else if (c->import && l->complete)
			copy_done(c);
		else if (l->complete)
			promote_begin(c);
	}
}

void
copy_layout_trouble(struct layout *l, const Suite__FetchDone *done)
{
	struct copy *c, *next;

	for (c = TAILQ_FIRST(&copies); c; c = next) {
		next = TAILQ_NEXT(c, entry);
		if (c->layout == l && !done->retry && c->state ==
		    (c->import ? COPY_SETTLING : COPY_WAITING))
			copy_fail(c, done->code, false, "%s", done->text);
	}
}

void
on_promote(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Promote *m = msg->body;
	struct copy *c = copy_new(msg, m->image, false);

	(void)owner;
	(void)link;
	if (!c)
		return;
	if (c->layout->failed)
		copy_fail(c, CTL_CODE(DIGEST_MISMATCH), false, "%s",
		    c->layout->last_error);
	else if (c->layout->complete)
		promote_begin(c);
	else
		finish_pull(c->layout, c->layout->plain);
}

/* ---- import ---- */

static void
import_finish(struct copy *c)
{
	struct layout *l = c->layout;

	log_info("import into %.12s: %llu chunks copied, %llu differ",
	    digest_to_hex(&l->blob).text, (unsigned long long)c->copied,
	    (unsigned long long)c->differ);
	if (c->error < 0)
		copy_fail(c, c->error == -ENOSPC || c->error == -EDQUOT ?
		    CTL_CODE(NO_SPACE) : CTL_CODE(INTERNAL), false,
		    "the file's chunks can't all be kept: %s; what was copied "
		    "stays", strerror(-c->error));
	else if (c->copied == 0 && c->differ > 0)
		copy_fail(c, CTL_CODE(DIGEST_MISMATCH), false, "nothing in the "
		    "file is of this image; give the erofs of that image");
	else if (!l->complete && layout_present(l) == l->n_chunks) {
		c->state = COPY_SETTLING;	/* copy_layout_changed() */
		finish_check(l);
	} else
		copy_done(c);
}

static void
import_chunk_done(void *arg, int result)
{
	struct copy *c = arg;

	c->under_way--;
	if (result == 0)
		c->copied++;
	else if (result == -EBADMSG)
		c->differ++;
	else
		c->error = result;
	import_on(c);
}

/* One chunk read from the client's file: nothing of the store waits for it. */
struct import_job {
	struct chunk_job c;	/* fd: the client's */
	struct copy *copy;
	uint32_t chunk;
};

static void
import_read(struct job *job)
{
	struct import_job *i = (struct import_job *)job;
	struct copy *c = i->copy;
	struct layout *l = c->layout;

	if (job->result < 0)
		import_chunk_done(c, job->result == -EIO ? -EBADMSG :
		    job->result);
	else if (c->cancelled || l->fills[i->chunk] ||
	    layout_state(l, i->chunk) != CHUNK_ABSENT)
		import_chunk_done(c, 0);	/* it came otherwise */
	else
		fill_import(l, i->chunk, take_ptr(i->c.buf), c->same_system ?
		    c->fd : -1, import_chunk_done, c);
	free(i->c.buf);
	free(i);
}

static void
import_chunk(struct copy *c, uint32_t chunk)
{
	struct import_job *i = calloc(1, sizeof(*i));
	struct layout *l = c->layout;

	if (i)
		i->c.buf = malloc(layout_len(l, chunk));
	if (!i || !i->c.buf)
		log_die("no memory to import a chunk");
	i->copy = c;
	i->chunk = chunk;
	i->c.job = (struct job){ .lane = WORK_COPY, .run = chunk_check,
		.done = import_read };
	i->c.fd = c->fd;
	i->c.offset = layout_home(l, chunk);
	i->c.len = layout_len(l, chunk);
	i->c.has_expected = true;
	if (c->sums)
		i->c.expected = c->sums[chunk];
	else
		layout_digest(l, chunk, &i->c.expected);
	c->under_way++;
	work_submit(&i->c.job);
}

static void
import_on(struct copy *c)
{
	struct layout *l = c->layout;

	if (map_adopts(l))
		return;		/* copy_tick() comes again */
	l->refs++;
	while (!c->cancelled && c->error == 0 && c->next < l->n_chunks &&
	    c->under_way < IMPORTS_AT_ONCE &&
	    !atomic_load(&work_stopping)) {
		uint32_t chunk = c->next++;

		atomic_store(&c->current, layout_home(l, chunk));
		if (!l->fills[chunk] && layout_state(l, chunk) == CHUNK_ABSENT)
			import_chunk(c, chunk);
	}
	if (c->under_way == 0)
		import_finish(c);
	layout_put(l);
}

/* Without an index only the whole digest says what the file is. */
static int
whole_run(struct job *job)
{
	struct copy *c = job->owner;
	const struct layout *l = c->layout;
	_cleanup_free_ uint8_t *buf = malloc(CHUNK_MAX);
	struct digest_stream *whole = digest_start();
	int r = buf ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < l->n_chunks && r == 0; i++) {
		size_t len = layout_len(l, i);
		ssize_t n = fd_pread_all(c->fd, buf, len, layout_home(l, i));

		if (n != (ssize_t)len) {
			r = n < 0 ? (int)n : -EIO;
			break;
		}
		digest_update(whole, buf, len);
		c->sums[i] = digest_of(buf, len);
		atomic_store(&c->current, layout_home(l, i));
		if (atomic_load(&work_stopping))
			r = -EINTR;
	}
	c->digest = digest_final(whole);
	return r;
}

static void
whole_done(struct job *job)
{
	struct copy *c = job->owner;

	c->state = COPY_WAITING;
	if (job->result < 0)
		copy_fail(c, CTL_CODE(INTERNAL), false, "the file can't be "
		    "read: %s", strerror(-job->result));
	else if (!digest_equal(&c->digest, &c->layout->blob))
		copy_fail(c, CTL_CODE(DIGEST_MISMATCH), false, "the file "
		    "hashes to %s, which is not the erofs of this image",
		    digest_to_text(&c->digest).text);
	else {
		c->ready = true;
		import_on(c);
	}
}

void
on_import(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Import *m = msg->body;
	struct copy *c = copy_new(msg, m->image, true);

	(void)owner;
	(void)link;
	if (!c)
		return;
	if (c->layout->failed) {
		copy_fail(c, CTL_CODE(DIGEST_MISMATCH), false, "%s",
		    c->layout->last_error);
		return;
	}
	c->ready = c->layout->indexed;
	if (c->ready) {
		import_on(c);
		return;
	}
	c->sums = calloc(c->layout->n_chunks, sizeof(*c->sums));
	if (!c->sums)
		log_die("no memory for an import");
	c->state = COPY_RUNNING;
	c->job = (struct job){ .lane = WORK_COPY, .run = whole_run,
		.done = whole_done, .owner = c };
	work_submit(&c->job);
}
