// SPDX-License-Identifier: Apache-2.0
/*
 * From "every chunk is here" to "this is the device":
 *
 *	all chunks durable --> DIGEST (scrub thread: the whole device's SHA-256,
 *	   ^                     |     each chunk from its place, each against
 *	   |                     |     its own digest)
 *	   |                     +-- fits ----> complete, recorded durably with
 *	   |                     |              the files that it leans on
 *	   +--- refetch ----<----+-- chunks rotten on disk
 *	                         +-- every chunk as received, whole wrong: the
 *	                             source (or its index) lied: fail,
 *	                             quarantine
 *
 * Also the background fill: of everything, for pull and for rung whole; of what
 * was found damaged; into the layout's own file, for who needs it there.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define MOVES_MAX	64	/* chunks on their way between files */

/* Everything is here, but not yet in its own file. */
static bool
own_wanted(const struct layout *l)
{
	return l->own && !layout_self_contained(l);
}

void
finish_pull(struct layout *l, bool plain)
{
	if ((l->complete && !own_wanted(l)) || l->failed)
		return;
	if (plain && !l->plain) {
		l->plain = true;
		if (store_write_file(l->file->dir, "plain", "", 0) < 0)
			log_warn("%s/%s: that it has no ranges is not "
			    "remembered", l->host, l->repo);
	}
	l->own |= device_plain(l);
	l->pull_next = l->move_next = 0;
	if (!l->pulling) {
		l->pulling = true;
		l->refs++;
	}
	/* What has come into other files since. */
	for (uint32_t c = 0; l->indexed && c < l->n_chunks; c++)
		if (!l->fills[c] && layout_state(l, c) == CHUNK_ABSENT)
			layout_lookup(l, c);
	l->refs++;		/* who waits may be told that it can't be */
	finish_check(l);
	finish_move(l);
	fetch_pump();
	layout_put(l);
}

void
finish_pull_own(struct layout *l)
{
	l->own = true;
	finish_pull(l, l->plain);
}

void
finish_mend(struct layout *l, uint32_t chunk)
{
	if (layout_state(l, chunk) != CHUNK_ABSENT)
		return;
	if (!l->mend)
		l->mend = calloc(1, l->n_chunks);
	if (!l->mend)
		log_die("no memory to mend a chunk");
	if (!l->mend[chunk]) {
		l->mend[chunk] = 1;
		l->n_mend++;
		l->refs++;
	}
	if (chunk < l->pull_next)
		l->pull_next = chunk;
}

void
finish_mended(struct layout *l, uint32_t chunk)
{
	if (!l->mend || !l->mend[chunk])
		return;
	l->mend[chunk] = 0;
	l->n_mend--;
	layout_put(l);
}

bool
finish_wants(const struct layout *l, uint32_t chunk)
{
	return l->pulling || (l->mend && l->mend[chunk]);
}

/* Absent and nobody's; or a read's, that only the plain request will bring. */
static bool
pull_wants(const struct layout *l, uint32_t chunk)
{
	const struct fill *f = l->fills[chunk];

	return finish_wants(l, chunk) &&
	    layout_state(l, chunk) == CHUNK_ABSENT &&
	    (!f || (l->plain && f->queued));
}

bool
finish_next(struct layout *l, uint32_t *chunk)
{
	if ((!l->pulling && l->n_mend == 0) || l->failed || l->plain_sent)
		return false;
	while (l->pull_next < l->n_chunks && !pull_wants(l, l->pull_next))
		l->pull_next++;
	*chunk = l->pull_next;
	return l->pull_next < l->n_chunks;
}

void
finish_move(struct layout *l)
{
	if (!l->own || !l->pulling)
		return;
	while (l->move_next < l->n_chunks && l->n_shared > 0 &&
	    l->n_fills < MOVES_MAX) {
		uint32_t c = l->move_next++;

		if (!l->fills[c] && layout_place(l, c).file != l->file)
			fill_move(l, c);
	}
}

void
finish_stop(struct layout *l)
{
	if (!l->pulling)
		return;
	l->pulling = false;
	l->own = false;
	fetch_unwanted(l);
	layout_put(l);
}

/* ---- the whole digest ---- */

/* What the thread reads: the device in order, fixed when the job began. */
struct step {
	int fd;			/* -1: zeros */
	uint32_t chunk, length;
	uint64_t offset;	/* in the file; of zeros: in the device */
	uint64_t home;		/* expanding: where the chunk lies first */
	struct digest sum;	/* of a chunk */
};

struct digest_job {
	struct job job;
	struct layout *layout;
	struct digest digest;	/* of the whole */
	struct step *steps;
	size_t n_steps;
	uint8_t *bad;		/* one byte a chunk, 1: wrong */
	bool expand;		/* make the file the device, byte by byte */
	bool again;		/* it was that already: nothing is booked */
	uint64_t n_mended;	/* extents that it was not, then */
	struct file *leans[LEANS_MAX];
	unsigned n_leans;
};

static bool
all_zero(const uint8_t *buf, size_t len)
{
	return len == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0);
}

/* 0, -EIO: it could not be read, -EBADMSG: it is not what it was. */
static int
step_run(const struct digest_job *d, const struct step *s, uint8_t *buf,
    struct digest_stream *whole)
{
	bool zeros = s->fd < 0;
	ssize_t n = fd_pread_all(zeros ? d->layout->file->data_ro : s->fd, buf,
	    s->length, s->offset);
	struct digest sum;

	if (n != (ssize_t)s->length)
		return n < 0 ? (int)n : -EIO;
	if (zeros) {	/* its own file reads as the device there */
		if (!all_zero(buf, s->length))
			return -EUCLEAN;
		digest_update(whole, buf, s->length);
		return 0;
	}
	digest_update(whole, buf, s->length);
	sum = digest_of(buf, s->length);
	return digest_equal(&sum, &s->sum) ? 0 : -EBADMSG;
}

static bool
reads_as(const struct step *s, uint64_t offset, uint8_t *buf)
{
	struct digest sum;

	if (fd_pread_all(s->fd, buf, s->length, offset) != (ssize_t)s->length)
		return false;
	sum = digest_of(buf, s->length);
	return digest_equal(&sum, &s->sum);
}

/* What the device has in several places, the file has there too; but nothing
 * that is rotten is copied. */
static int
expand(struct digest_job *d, uint8_t *buf)
{
	int r = 0, fd = d->layout->file->data;

	for (size_t i = 0; i < d->n_steps && r == 0; i++) {
		const struct step *s = &d->steps[i];

		if (s->fd < 0 || s->offset == s->home ||
		    reads_as(s, s->offset, buf) || !reads_as(s, s->home, buf))
			continue;
		d->n_mended++;
		r = disk_reserve(fd, s->offset, s->length);
		if (r == 0)
			r = disk_copy(fd, s->home, fd, s->offset, s->length);
		if (atomic_load(&work_stopping))
			r = -EINTR;
	}
	return r < 0 ? r : disk_sync(fd);
}

static int
digest_run(struct job *job)
{
	struct digest_job *d = (struct digest_job *)job;
	_cleanup_free_ uint8_t *buf = malloc(CHUNK_MAX);
	struct digest_stream *whole = digest_start();
	bool rotten = false;
	int r = buf ? 0 : -ENOMEM;

	if (r == 0 && d->expand)
		r = expand(d, buf);
	for (size_t i = 0; i < d->n_steps && r == 0; i++) {
		const struct step *s = &d->steps[i];

		r = step_run(d, s, buf, whole);
		if (r < 0 && s->fd >= 0 && r != -ENOMEM) {
			d->bad[s->chunk] = 1;
			rotten = true;
			r = 0;
		}
		if (atomic_load(&work_stopping))
			r = -EINTR;
	}
	d->digest = digest_final(whole);
	return r < 0 ? r : rotten ? -EBADMSG : 0;
}

static void
step_add(struct digest_job *d, size_t *size, struct step s)
{
	if (d->n_steps == *size) {
		*size = *size ? *size * 2 : 1024;
		d->steps = realloc(d->steps, *size * sizeof(*d->steps));
		if (!d->steps)
			log_die("no memory for a whole digest");
	}
	d->steps[d->n_steps++] = s;
}

/* The steps of an extent: one, or zeros in pieces.  false: what it must hash to
 * is not known any more. */
static bool
step_extent(struct digest_job *d, size_t *size, const struct extent *e)
{
	struct layout *l = d->layout;
	struct step s = { .fd = -1, .chunk = e->chunk };

	if (e->chunk != NO_CHUNK) {
		s.fd = layout_place(l, e->chunk).file->data_ro;
		s.home = layout_offset(l, e->chunk);
		s.offset = d->expand ? e->offset : s.home;
		s.length = (uint32_t)e->length;
		if (!layout_digest(l, e->chunk, &s.sum))
			return false;
		step_add(d, size, s);
		return true;
	}
	for (uint64_t at = 0; at < e->length; at += s.length) {
		s.length = e->length - at < CHUNK_MAX ?
		    (uint32_t)(e->length - at) : CHUNK_MAX;
		s.offset = e->offset + at;
		step_add(d, size, s);
	}
	return true;
}

static void
digest_job_free(struct digest_job *d)
{
	for (unsigned i = 0; i < d->n_leans; i++)
		file_put(d->leans[i]);
	free(d->steps);
	free(d->bad);
	free(d);
}

/* 0 or -EBADMSG: d->bad are those of which no digest is known any more. */
static int
steps_make(struct digest_job *d)
{
	struct layout *l = d->layout;
	struct extent e;
	size_t size = 0;
	int r = 0;

	for (uint64_t at = 0; at < l->size; at = e.offset + e.length) {
		e = layout_extent(l, at);
		if (step_extent(d, &size, &e))
			continue;
		d->bad[e.chunk] = 1;
		r = -EBADMSG;
	}
	return r;
}

static struct digest_job *
digest_job_new(struct layout *l, bool expand)
{
	struct digest_job *d = calloc(1, sizeof(*d));

	if (d)
		d->bad = calloc(1, l->n_chunks + 1);
	if (!d || !d->bad)
		log_die("no memory for a whole digest");
	d->layout = l;
	d->expand = expand;
	d->again = l->file->expanded;
	for (; d->n_leans < l->n_leans; d->n_leans++) {
		d->leans[d->n_leans] = l->leans[d->n_leans];
		d->leans[d->n_leans]->refs++;
	}
	return d;
}

/* ---- its result ---- */

/* Drop what of it lies in that file.  The number of chunks. */
static uint32_t
rotten_in(struct layout *l, struct file *f, const uint8_t *bad)
{
	_cleanup_free_ uint8_t *there = calloc(1, f->h.n_chunks + 1);
	uint32_t n = 0;

	for (uint32_t c = 0; there && c < l->n_chunks; c++) {
		struct place p = layout_place(l, c);

		if (!bad[c] || p.file != f || !scrub_still_bad(f, p.chunk))
			continue;
		there[p.chunk] = 1;
		n++;
	}
	f->damaged += n;
	if (n > 0)
		file_drop_marked(f, there);
	return n;
}

static void cannot_finish(struct layout *l, const char *what, int r);

static void
found_rotten(struct layout *l, const uint8_t *bad, bool expand)
{
	uint32_t n = rotten_in(l, l->file, bad);

	for (unsigned i = 0; i < l->n_leans; i++)
		n += rotten_in(l, l->leans[i], bad);
	if (n > 0) {	/* else they were mended meanwhile: look again */
		notice("state", l, "%u of %u chunks changed on disk: fetching "
		    "them again", n, l->n_chunks);
		layout_revoke(l);
	} else if (l->unmendable && expand) {	/* no chunk explains it */
		l->unmendable = false;
		layout_revoke(l);
		cannot_finish(l, "the disk does not give back what was "
		    "written", -EIO);
		return;
	}
	l->unmendable = n == 0;
	l->own |= expand && !l->complete;
	finish_pull(l, l->plain);
}

/* Nothing is wrong with the bytes, but it can't be finished now. */
static void
cannot_finish(struct layout *l, const char *what, int r)
{
	Suite__FetchDone why = SUITE__FETCH_DONE__INIT;

	snprintf(l->last_error, sizeof(l->last_error), "%s: %s", what,
	    strerror(-r));
	log_err("%s/%s: %s", l->host, l->repo, l->last_error);
	why.code = r == -ENOSPC || r == -EDQUOT ? CTL_CODE(NO_SPACE) :
	    CTL_CODE(INTERNAL);
	why.text = l->last_error;
	l->refs++;		/* they may have been the last */
	open_layout_trouble(l, &why);
	finish_stop(l);
	layout_put(l);
}

/* Is every chunk recorded on disk, wherever it lies? */
static bool
all_durable(const struct layout *l)
{
	if (layout_present(l) < l->n_chunks || l->n_fills > 0)
		return false;
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		struct place p = layout_place(l, c);

		if (!(p.file->state[p.chunk] & CHUNK_DURABLE))
			return false;
	}
	return true;
}

bool
finish_settles(const struct layout *l)
{
	return !l->complete && !l->failed && !l->file->dead &&
	    layout_present(l) == l->n_chunks && !all_durable(l);
}

static void
found_complete(struct layout *l, bool expanded)
{
	struct digest leans[LEANS_MAX];
	bool was = l->complete;
	size_t n = 0;
	int r;

	if (!all_durable(l))
		return;		/* a chunk was withdrawn meanwhile: again */
	if (layout_self_contained(l))
		return;		/* it was only looked at once more */
	for (unsigned i = 0; i < l->n_leans; i++)
		if (layout_leans_on(l, l->leans[i]))
			leans[n++] = l->leans[i]->h.key;
	r = file_mark_complete(l->file, leans, n, expanded && n == 0);
	if (r < 0) {
		cannot_finish(l, "the store can't record that it is complete",
		    r);
		return;
	}
	l->complete = l->proven = true;
	l->stalled = false;
	if (!was)
		notice("complete", l, "the whole digest fits; the network is "
		    "not needed any more");
	device_complete(l);
	if (own_wanted(l)) {	/* that was asked for meanwhile */
		finish_move(l);
		finish_check(l);
	} else
		finish_stop(l);
	file_heal();
}

static void
found_wrong(struct layout *l, const struct digest *got)
{
	struct digest_text is = digest_to_text(got),
	    want = digest_to_text(&l->blob);

	snprintf(l->last_error, sizeof(l->last_error), "DIGEST_MISMATCH: the "
	    "whole device hashes to %.19s..., its name is %.19s...: what the "
	    "registry sent was tampered with or damaged", is.text, want.text);
	layout_quarantine(l);
	device_fail_all(l);
	notice("device-failed", l, "%s", l->last_error);
	for (uint32_t c = 0; c < l->n_chunks; c++)
		finish_mended(l, c);	/* there is nothing to mend now */
	finish_stop(l);
}

/* Somebody wrote where the device is zeros: those are never read from the
 * file, but the file is not the device. */
static bool
clean_zeros(struct layout *l)
{
	struct extent e;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < l->size;
	    at = e.offset + e.length) {
		e = layout_extent(l, at);
		if (e.chunk == NO_CHUNK)
			r = disk_punch(l->file->data, e.offset, e.length);
	}
	if (r < 0)
		cannot_finish(l, "the store can't be mended", r);
	else
		log_warn("%s/%s: bytes on disk where the image is zeros; "
		    "removed", l->host, l->repo);
	return r == 0;
}

static void
digest_done(struct job *job)
{
	struct digest_job *d = (struct digest_job *)job;
	struct layout *l = d->layout;
	bool zeros = job->result == -EUCLEAN, again = d->again;

	l->digesting = false;
	if (d->expand && !again)
		room_done(l->dup_bytes);
	if (again && d->n_mended + zeros > 0) {
		l->file->damaged += d->n_mended + zeros;
		notice("state", l, "%llu places of the device's file were "
		    "damaged: mended", (unsigned long long)d->n_mended + zeros);
	}
	if (job->result == -EBADMSG)
		found_rotten(l, d->bad, d->expand);
	else if (job->result == -EINTR)
		;	/* stopping: done again at the next start */
	else if (zeros)
		zeros = clean_zeros(l);
	else if (job->result < 0)
		cannot_finish(l, "the store can't be read back", job->result);
	else if (digest_equal(&d->digest, &l->blob))
		found_complete(l, d->expand);
	else
		found_wrong(l, &d->digest);
	file_account(l->file);
	digest_job_free(d);
	open_layout_changed(l);
	copy_layout_changed(l);
	if (zeros && again && l->complete)
		finish_recheck(l);
	else if (zeros)
		finish_check(l);
	layout_put(l);
}

static void
digest_begin(struct layout *l, bool expand)
{
	struct digest_job *d = digest_job_new(l, expand);

	d->job = (struct job){ .lane = WORK_SCRUB, .run = digest_run,
		.done = digest_done };
	l->digesting = true;
	l->refs++;
	if (steps_make(d) == 0)
		work_submit(&d->job);
	else {
		d->job.result = -EBADMSG;
		digest_done(&d->job);
	}
}

void
finish_recheck(struct layout *l)
{
	if (l->complete && l->file->expanded && !l->digesting)
		digest_begin(l, true);
}

void
finish_check(struct layout *l)
{
	bool expand = l->own && l->dup_bytes > 0;
	int r = 0;

	if ((l->complete && !own_wanted(l)) || l->failed || l->digesting ||
	    (l->own && l->n_shared > 0) || !all_durable(l))
		return;
	if (expand)	/* of which nothing is there yet, as far as is known */
		r = room_take(l->dup_bytes);
	if (r == -EAGAIN)
		return;		/* finish_room() */
	if (r < 0) {
		cannot_finish(l, "what the image has several times has no "
		    "room", r);
		return;
	}
	digest_begin(l, expand);
}

void
finish_room(void)
{
	struct layout *l, *next;

	for (l = TAILQ_FIRST(&layouts); l; l = next) {
		next = TAILQ_NEXT(l, entry);
		if (l->own && l->dup_bytes > 0)
			finish_check(l);
	}
}
