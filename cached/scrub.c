// SPDX-License-Identifier: Apache-2.0
/*
 * Reading back what is kept: slowly, in the background, all the time (scrub),
 * and at once for who asks (verify).  Both walk over files, a piece a job:
 *
 *	piece read, hashed, compared with its records --> bad chunks: looked at
 *	once more, dropped from every map, and fetched again in place where
 *	their image is attached, held, or was complete
 *
 * A piece is short, so that the thread is soon free for who waits.  A file that
 * was made the device byte by byte has more than its chunks: behind its last
 * piece the whole digest is computed again, which mends the rest.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define PIECE		(4 * 1024 * 1024)	/* bytes of a job */
#define FIRST_MS	60000	/* not while everything starts */
/* Without one more repaired: what is left can't be.  Twice the longest wait
 * between two tries of a registry. */
#define REPAIR_MS	20000
#define PROGRESS_MS	100

/* One piece of one file. */
struct piece_job {
	struct job job;
	struct file *file;
	struct presence_header h;	/* of it; it may be emptied meanwhile */
	struct walk *walk;
	uint32_t first, next;	/* next: where it ended */
	uint64_t bytes, checked;
	uint32_t *bad;
	size_t n_bad;
};

struct mending {
	TAILQ_ENTRY(mending) entry;
	struct layout *layout;
	uint32_t chunk;		/* NO_CHUNK: the device's file as a whole */
	uint64_t damaged;	/* of the file, before */
};

/* A scrub of everything, or a client's verify. */
struct walk {
	TAILQ_ENTRY(walk) entry;
	bool client, cancelled, busy;
	uint64_t id;
	struct digest *only;	/* keys of files; NULL: all */
	size_t n_only;
	uint32_t number, chunk;	/* where it is */
	uint64_t checked, damaged, repaired, bytes, total;
	uint64_t told, moved_at;	/* monotonic ms */
	TAILQ_HEAD(, mending) mending;
};

static TAILQ_HEAD(, walk) walks = TAILQ_HEAD_INITIALIZER(walks);
static struct event *scrub_timer;

static bool walk_on(struct walk *w);

/* ---- the thread's part ---- */

static bool
chunk_bad(const struct file *f, const struct presence_record *r, uint8_t *buf)
{
	struct digest sum;

	if (fd_pread_all(f->data_ro, buf, r->length, r->offset) !=
	    (ssize_t)r->length)
		return true;
	sum = digest_of(buf, r->length);
	return !digest_equal(&sum, &r->sum);
}

static int
piece_run(struct job *job)
{
	struct piece_job *p = (struct piece_job *)job;
	_cleanup_free_ uint8_t *buf = malloc(CHUNK_MAX);
	struct presence_record r;

	if (!buf)
		return -ENOMEM;
	for (; p->next < p->h.n_chunks && p->bytes < PIECE; p->next++) {
		if (atomic_load(&work_stopping))
			return -EINTR;
		if (!file_record_read(p->file, &p->h, p->next, &r))
			continue;
		p->checked++;
		p->bytes += r.length;
		if (chunk_bad(p->file, &r, buf))
			p->bad[p->n_bad++] = p->next;
	}
	return 0;
}

/* ---- damage ---- */

static void
mend_later(struct walk *w, struct layout *l, uint32_t chunk)
{
	struct mending *m = calloc(1, sizeof(*m));

	if (!m)
		log_die("no memory to mend a chunk");
	m->layout = l;
	m->chunk = chunk;
	m->damaged = l->file->damaged;
	l->refs++;
	TAILQ_INSERT_TAIL(&w->mending, m, entry);
	if (chunk == NO_CHUNK)
		finish_recheck(l);
	else
		finish_mend(l, chunk);
	w->moved_at = now_ms();
	tick_soon();
}

/* Is it over?  Counted, then. */
static bool
mending_over(struct walk *w, const struct mending *m)
{
	const struct layout *l = m->layout;
	bool whole = m->chunk == NO_CHUNK;
	bool here = !whole && layout_state(l, m->chunk) != CHUNK_ABSENT;

	if (whole && l->digesting) {
		w->moved_at = now_ms();
		return false;
	}
	if (!whole && !here && finish_wants(l, m->chunk))
		return false;
	if (whole) {
		w->damaged += l->file->damaged - m->damaged;
		w->repaired += l->complete ? l->file->damaged - m->damaged : 0;
	} else if (here)	/* else it was given up */
		w->repaired++;
	return true;
}

/* Whoever was complete with this and is open wants to be so again.  After what
 * is mended in its place: he finds it there, and does not fetch it as well. */
static void
heal_layouts(void)
{
	struct layout *l;

	TAILQ_FOREACH(l, &layouts, entry)
		if (l->proven && !l->complete && !l->failed)
			finish_pull(l, l->plain);
}

/* Does anybody want back what is damaged in it? */
static bool
is_wanted(const struct file *f)
{
	const struct file *g;

	if (f->layout || f->complete || hold_reason(f))
		return true;
	TAILQ_FOREACH(g, &files, entry)
		if (g->complete && file_leans_on(g, f) &&
		    (g->layout || hold_reason(g)))
			return true;
	return false;
}

static void
found_damage(struct walk *w, struct file *f, const uint32_t *bad, size_t n)
{
	_cleanup_free_ uint8_t *marks = calloc(1, f->h.n_chunks);
	struct layout *l = w->client || is_wanted(f) ? room_layout(f) : NULL;
	bool mend = l && l->file == f;

	if (!marks)
		log_die("no memory to drop chunks");
	for (size_t i = 0; i < n; i++)
		marks[bad[i]] = 1;
	w->damaged += n;
	f->damaged += n;
	file_drop_marked(f, marks);
	if (mend)
		notice("state", l, "%zu chunks on disk are damaged, chunk %u "
		    "first: fetching them again", n, bad[0]);
	else
		log_warn("%zu chunks of %.12s on disk are damaged, chunk %u "
		    "first: dropped", n, digest_to_hex(&f->h.key).text,
		    bad[0]);
	for (size_t i = 0; mend && i < n; i++)
		mend_later(w, l, bad[i]);
	layout_put(l);
}

/* What the thread found may have been dropped or mended since. */
bool
scrub_still_bad(const struct file *f, uint32_t chunk)
{
	_cleanup_free_ uint8_t *buf = malloc(CHUNK_MAX);
	struct presence_record r;

	return buf && file_state(f, chunk) != CHUNK_ABSENT &&
	    (!f->layout || !f->layout->fills[chunk]) &&
	    (!file_record(f, chunk, &r) || chunk_bad(f, &r, buf));
}

/* ---- a walk ---- */

static bool
walk_wants(const struct walk *w, const struct file *f)
{
	if (!w->only)
		return true;
	for (size_t i = 0; i < w->n_only; i++)
		if (digest_equal(&w->only[i], &f->h.key))
			return true;
	return false;
}

static void
walk_free(struct walk *w)
{
	struct mending *m;

	while ((m = TAILQ_FIRST(&w->mending))) {
		TAILQ_REMOVE(&w->mending, m, entry);
		layout_put(m->layout);
		free(m);
	}
	TAILQ_REMOVE(&walks, w, entry);
	free(w->only);
	free(w);
}

static void
tell_progress(struct walk *w, const struct file *f)
{
	Suite__Progress m = SUITE__PROGRESS__INIT;

	if (!w->client || !control_link ||
	    (w->told && now_ms() - w->told < PROGRESS_MS))
		return;
	w->told = now_ms();
	m.blob_digest.data = (uint8_t *)f->h.key.bytes;
	m.blob_digest.len = DIGEST_LEN;
	m.current = w->bytes;
	m.total = w->total > w->bytes ? w->total : w->bytes;
	ipc_send(control_link, w->id, SUITE_BODY(PROGRESS), &m, NULL, 0, -1);
}

/* Its chunks were read: the rest of a file that is the device. */
static void
recheck(struct walk *w, const struct file *f)
{
	struct layout *l = f->expanded && !f->dead ? room_layout(f) : NULL;

	if (l && l->file == f)
		mend_later(w, l, NO_CHUNK);
	layout_put(l);
}

static void
piece_done(struct job *job)
{
	struct piece_job *p = (struct piece_job *)job;
	struct walk *w = p->walk;
	size_t n = 0;

	w->busy = false;
	w->chunk = p->next;
	w->checked += p->checked;
	w->bytes += p->bytes;
	for (size_t i = 0; i < p->n_bad && !p->file->dead; i++)
		if (scrub_still_bad(p->file, p->bad[i]))
			p->bad[n++] = p->bad[i];
	if (n > 0)
		found_damage(w, p->file, p->bad, n);
	if (n > 0 && TAILQ_EMPTY(&w->mending))
		heal_layouts();
	if (n > 0)
		fetch_pump();
	if (job->result == 0 && !w->cancelled && p->next == p->h.n_chunks)
		recheck(w, p->file);
	tell_progress(w, p->file);
	if (job->result == -EINTR || w->cancelled)
		walk_free(w);
	else if (w->client)
		walk_on(w);
	else
		scrub_again(p->bytes);
	file_put(p->file);
	free(p->bad);
	free(p);
}

/* The file that a walk is at, opened; NULL: it is at its end. */
static struct file *
walk_file(struct walk *w)
{
	for (; w->number < UINT16_MAX; w->number++, w->chunk = 0) {
		struct file *f = file_by_number((uint16_t)w->number);

		if (f && walk_wants(w, f) && !f->evicting &&
		    w->chunk < f->h.n_chunks && file_hold(f) == 0)
			return f;
	}
	return NULL;
}

static void
walk_end(struct walk *w)
{
	Suite__Verified m = SUITE__VERIFIED__INIT;

	if (!w->client)
		log_info("scrub: %" PRIu64 " chunks read, %" PRIu64
		    " damaged", w->checked, w->damaged);
	m.checked = w->checked;
	m.damaged = w->damaged;
	m.repaired = w->repaired;
	if (w->client && control_link)
		ipc_send(control_link, w->id, SUITE_BODY(VERIFIED), &m, NULL,
		    0, -1);
	if (!TAILQ_EMPTY(&w->mending))
		heal_layouts();	/* as well as that can be, then */
	walk_free(w);
}

/* true: a piece is under way.  Else it may have ended, and be freed. */
static bool
walk_on(struct walk *w)
{
	struct file *f = walk_file(w);
	struct piece_job *p;

	if (!f) {
		if (TAILQ_EMPTY(&w->mending))
			walk_end(w);
		return false;	/* verify_tick() looks after the rest */
	}
	p = calloc(1, sizeof(*p));
	if (p)
		p->bad = calloc(f->h.n_chunks - w->chunk, sizeof(*p->bad));
	if (!p || !p->bad)
		log_die("no memory for a scrub");
	p->job = (struct job){ .lane = WORK_SCRUB, .run = piece_run,
		.done = piece_done };
	p->file = f;
	p->h = f->h;
	p->walk = w;
	p->first = p->next = w->chunk;
	w->busy = true;
	work_submit(&p->job);
	return true;
}

bool
verify_tick(void)
{
	struct walk *w, *next;
	struct mending *m, *after;
	uint64_t now = now_ms();

	for (w = TAILQ_FIRST(&walks); w; w = next) {
		bool mended = !TAILQ_EMPTY(&w->mending);

		next = TAILQ_NEXT(w, entry);
		for (m = TAILQ_FIRST(&w->mending); m; m = after) {
			after = TAILQ_NEXT(m, entry);
			if (!mending_over(w, m))
				continue;
			w->moved_at = now;
			TAILQ_REMOVE(&w->mending, m, entry);
			layout_put(m->layout);
			free(m);
		}
		if (mended && TAILQ_EMPTY(&w->mending))
			heal_layouts();
		if (w->busy || w->number < UINT16_MAX)
			continue;
		if (TAILQ_EMPTY(&w->mending) || now - w->moved_at > REPAIR_MS)
			walk_end(w);
	}
	TAILQ_FOREACH(w, &walks, entry)
		if (!TAILQ_EMPTY(&w->mending))
			return true;
	return false;
}

static struct walk *
walk_new(void)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (!w)
		log_die("no memory for a scrub");
	w->number = 1;
	TAILQ_INIT(&w->mending);
	TAILQ_INSERT_TAIL(&walks, w, entry);
	return w;
}

/* ---- verify ---- */

static void
walk_add(struct walk *w, const struct digest *key)
{
	struct digest *only = realloc(w->only, (w->n_only + 1) *
	    sizeof(*only));

	if (!only)
		log_die("no memory for a list of files");
	w->only = only;
	w->only[w->n_only++] = *key;
}

/* Its own files, and those that it leans on. */
static void
walk_image(struct walk *w, const struct image *image)
{
	const struct file *f = file_by_key(image_layout(image,
	    CTL_RUNG(CHUNK)));

	walk_add(w, &image->blob);
	walk_add(w, image_layout(image, CTL_RUNG(CHUNK)));
	for (size_t i = 0; f && i < f->n_leans; i++)
		walk_add(w, &f->leans[i]);
	for (unsigned i = 0; f && f->layout && i < f->layout->n_leans; i++)
		walk_add(w, &f->layout->leans[i]->h.key);
}

void
on_verify(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Verify *m = msg->body;
	const struct image *image = m->image[0] ? image_named(m->image) :
	    NULL;
	struct walk *w;
	struct file *f;

	(void)owner;
	(void)link;
	if (m->image[0] && !image) {
		reply_failed(msg->id, CTL_CODE(BLOB_ABSENT), false, "no image "
		    "%s is known here; shedctl images shows those there are",
		    m->image);
		return;
	}
	w = walk_new();
	w->client = true;
	w->id = msg->id;
	if (image)
		walk_image(w, image);
	TAILQ_FOREACH(f, &files, entry)
		if (walk_wants(w, f))
			w->total += f->bytes_present;
	walk_on(w);
}

void
verify_cancel(uint64_t id)
{
	struct walk *w;

	TAILQ_FOREACH(w, &walks, entry)
		if (w->client && w->id == id)
			break;
	if (!w)
		return;
	w->cancelled = true;
	if (!w->busy)
		walk_free(w);
}

void
verify_forget_all(void)
{
	struct walk *w, *next;

	for (w = TAILQ_FIRST(&walks); w; w = next) {
		next = TAILQ_NEXT(w, entry);
		if (w->client)
			verify_cancel(w->id);
	}
}

/* ---- the scrub ---- */

static void
timer_set(uint64_t ms)
{
	struct timeval tv = { (time_t)(ms / 1000),
		(suseconds_t)(ms % 1000 * 1000) };

	if (evtimer_add(scrub_timer, &tv) < 0)
		log_die("no memory for a timer");
}

void
scrub_again(uint64_t bytes)
{
	timer_set(bytes * 1000 / conf->scrub_rate + 1);
}

/* Seconds since the epoch at which the last one began; 0: never. */
static uint64_t
last_scrub(void)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	return store_read_file(store_dir(), "scrubbed", 32, &text, &len) == 0 ?
	    strtoull(text, NULL, 10) : 0;
}

static void
scrub_begins(void)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%lld\n",
	    (long long)time(NULL));

	if (store_write_file(store_dir(), "scrubbed", text, (size_t)len) < 0)
		log_debug("when the scrub began is not remembered");
}

/* When the next one is due, in ms from now. */
static uint64_t
next_scrub_ms(void)
{
	uint64_t now = (uint64_t)time(NULL), due = last_scrub() +
	    conf->scrub_every_s, first = FIRST_MS;

	if (first > conf->scrub_every_s * 1000)
		first = conf->scrub_every_s * 1000;
	return due > now && (due - now) * 1000 > first ?
	    (due - now) * 1000 : first;
}

static void
scrub_due(evutil_socket_t fd, short what, void *arg)
{
	struct walk *w;

	(void)fd;
	(void)what;
	(void)arg;
	TAILQ_FOREACH(w, &walks, entry)
		if (!w->client)
			break;
	if (!w) {
		w = walk_new();
		scrub_begins();
	}
	if (w->busy || (w->number < UINT16_MAX && walk_on(w)))
		return;		/* its end sets the timer */
	timer_set(next_scrub_ms());
}

void
scrub_start(void)
{
	if (!conf->scrub || scrub_timer)
		return;
	scrub_timer = evtimer_new(loop, scrub_due, NULL);
	if (!scrub_timer)
		log_die("no memory for a timer");
	timer_set(next_scrub_ms());
}
