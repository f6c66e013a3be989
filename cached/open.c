// SPDX-License-Identifier: Apache-2.0
/*
 * Open: from an image's name to a layout that reads can be served from.
 *
 *	name --tag or digest--> RESOLVE --index--> PLATFORM
 *	  |                        |                  |
 *	  | known here             +----<-image-------+
 *	  |                        v
 *	  |        which rung?  REFERRERS --> ARTIFACT  (where its manifest
 *	  |                        |             |       names no chunk index,
 *	  |                        v             v       and that is allowed)
 *	  |                     INDEX_SIZE --> INDEX
 *	  |                        v
 *	  |                      STAT (size, ranges)
 *	  |                        v
 *	  +---------------------> layout --lazy--> Opened
 *	                           |
 *	                           +--whole--> FILL --digest fits--> Opened
 *
 * The steps on the network are find.c's; here are requests, their ends, and
 * what happens to layouts that they wait for.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define RESOLVE_MAX_MS	10000	/* where the client sets no deadline */
#define NO_PROGRESS_MS	60000	/* a pull that fails this long is over */
#define PROGRESS_MS	100	/* between two reports */


struct opens opens = TAILQ_HEAD_INITIALIZER(opens);

/* ---- ends ---- */

void
open_pull_left(struct layout *l)
{
	struct open *o;

	if (device_needs_whole(l) || copy_needs(l))
		return;
	TAILQ_FOREACH(o, &opens, entry)
		if (o->layout == l && o->step == STEP_FILL)
			return;
	finish_stop(l);
}

void
open_free(struct open *o)
{
	TAILQ_REMOVE(&opens, o, entry);
	find_mute(o);
	if (o->layout && o->step == STEP_FILL)
		open_pull_left(o->layout);
	layout_put(o->layout);
	source_drop(o->source);
	free(o->manifest);
	free(o->index);
	free(o);
}

void
reply_failed(uint64_t id, Shedstream__Control__V1__Code code, bool retry,
    const char *fmt, ...)
{
	Suite__Failed m = SUITE__FAILED__INIT;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	m.code = code;
	m.retry = retry;
	m.text = text;
	log_warn("refused: %s", text);
	if (control_link)
		ipc_send(control_link, id, SUITE_BODY(FAILED), &m, NULL, 0,
		    -1);
}


/* Where the client may open it: below the store directory. */
static void
data_path(const struct layout *l, char *path, size_t size)
{
	path[0] = '\0';
	if (layout_self_contained(l))
		snprintf(path, size, "layouts/%s/data.%016" PRIx64,
		    digest_to_hex(&l->key).text, l->file->h.file_id);
}

static void
open_done(struct open *o)
{
	Suite__Opened m = SUITE__OPENED__INIT;
	struct layout *l = o->layout;
	char data[DIGEST_HEX + 48];

	/* One that is there already is perhaps what was asked for. */
	if (o->device && TAILQ_EMPTY(&l->devices)) {
		l->file->expected++;
		l->file->opened = now_ms();
	}
	data_path(l, data, sizeof(data));
	m.image_digest.data = o->image.manifest.bytes;
	m.image_digest.len = DIGEST_LEN;
	m.blob_digest.data = o->image.blob.bytes;
	m.blob_digest.len = DIGEST_LEN;
	m.layout.data = l->key.bytes;
	m.layout.len = DIGEST_LEN;
	m.size = l->size;
	m.unit = l->unit;
	m.rung = o->rung;
	m.complete = m.network_free = l->complete;
	m.self_contained = layout_self_contained(l);
	m.data = data;
	m.image = o->image.name;
	if (control_link)
		ipc_send(control_link, o->id, SUITE_BODY(OPENED), &m, NULL, 0,
		    -1);
	open_free(o);
}

static void
progress(struct open *o, bool last)
{
	struct layout *l = o->layout;
	Suite__Progress m = SUITE__PROGRESS__INIT;
	uint64_t now = now_ms(), current = layout_bytes_present(l);

	if (current < o->sent)
		current = o->sent;	/* it never falls */
	if (current > o->sent)
		o->moved_at = now;
	if (!last && o->sent_at && (current == o->sent ||
	    now - o->sent_at < PROGRESS_MS))
		return;
	o->sent = current;
	o->sent_at = now;
	m.blob_digest.data = l->blob.bytes;
	m.blob_digest.len = DIGEST_LEN;
	m.current = current;
	m.total = l->size;
	m.exists = l->complete && !o->moved_at;
	if (control_link)
		ipc_send(control_link, o->id, SUITE_BODY(PROGRESS), &m,
		    NULL, 0, -1);
}

/* ---- the layout ---- */

static bool
filled(const struct open *o)
{
	return o->own ? layout_self_contained(o->layout) :
	    o->layout->complete;
}

static void
fill_begin(struct open *o)
{
	struct layout *l = o->layout;

	o->step = STEP_FILL;
	o->deadline = 0;
	o->moved_at = now_ms();
	progress(o, false);
	if (filled(o))
		open_done(o);
	else if (o->own)
		finish_pull_own(l);
	else
		finish_pull(l, o->plain);
}

/* The image's layout, fit to be used for this request.  0 or -errno. */
static int
layout_for(struct open *o, struct layout **l)
{
	struct layout_spec spec = { .blob = o->image.blob,
		.key = *image_layout(&o->image, o->rung),
		.size = o->image.size, .host = o->image.host,
		.repo = o->image.repo, .index = o->index,
		.index_len = o->index_len };
	int r = layout_get(&spec, l);
	bool anew;

	if (r < 0)
		return r;
	r = layout_source(*l, o->image.host, o->image.repo);
	anew = ((*l)->failed && !o->restore) || (r == -EXDEV && !o->whole);
	if (r == -EXDEV && o->whole) {	/* the whole digest tells */
		layout_move(*l, o->image.host, o->image.repo);
		r = 0;
	}
	if (!anew)
		return r;
	r = layout_start_anew(l);
	if (r == -EBUSY)	/* open_layout() says so */
		return (*l)->failed ? 0 : -EXDEV;
	return r < 0 ? r : layout_source(*l, o->image.host, o->image.repo);
}

void
open_layout(struct open *o)
{
	struct layout *l = NULL;
	int r = layout_for(o, &l);

	if (r == -ENOKEY && !o->index) {	/* its index must come first */
		find_step(o, STEP_INDEX_SIZE);
		return;
	}
	if (r == -EXDEV) {
		open_fail(o, CTL_CODE(INTEGRITY_REFUSED), false, "a device "
		    "that is attached holds parts of %s that came from %s/%s; "
		    "detach it first, or use --fetch whole", o->image.name,
		    l->host, l->repo);
		layout_put(l);
		return;
	}
	if (r < 0)
		layout_put(l);
	if (r == -EPROTO) {
		open_fail(o, CTL_CODE(SIZE_CHANGED), false, "a device of %s is "
		    "attached with another size; detach it, then attach it "
		    "again", o->image.name);
		return;
	}
	if (r == -ENOSPC || r == -EDQUOT) {
		open_fail(o, CTL_CODE(NO_SPACE), true, "the store has no room "
		    "for %s; free some space", o->image.name);
		return;
	}
	if (r < 0) {
		open_fail(o, CTL_CODE(INTERNAL), true, "the store can't hold "
		    "%s: %s; see the log", o->image.name, strerror(-r));
		return;
	}
	o->layout = l;
	l->file->counts.requests_sent += o->requests;
	l->file->counts.bytes_fetched += o->body_bytes;
	if (l->failed)
		open_fail(o, CTL_CODE(DIGEST_MISMATCH), false, "%s; detach "
		    "it, then attach it again", l->last_error);
	else if (o->whole)
		fill_begin(o);
	else
		open_done(o);
}

/* The image and its size are known: keep that, go on. */
void
open_keep(struct open *o)
{
	int r = image_keep(&o->image, o->manifest, o->manifest_len);

	if (r < 0)
		log_err("remember %s: %s; it will be resolved again",
		    o->image.name, strerror(-r));
	open_layout(o);
}

/* ---- requests of control ---- */

/* An image that is known here: what is on disk needs nobody. */
void
open_known(struct open *o)
{
	bool wants_index = o->rung == CTL_RUNG(DEFAULT) ||
	    o->rung == CTL_RUNG(CHUNK);

	if (o->by_erofs || (o->image.proof == PROOF_REFERRER &&
	    !o->restore && (!conf->referrers ||
	    layout_failed_before(&o->image.index))))
		o->image.proof = PROOF_NONE;
	if (wants_index && o->image.proof != PROOF_NONE) {
		o->rung = CTL_RUNG(CHUNK);
		open_layout(o);
	} else if (wants_index)
		find_no_index(o);
	else
		open_layout(o);
}

static void
open_digest(struct open *o)
{
	struct image *image = image_by_manifest(&o->ref.digest);

	if (!image && o->ref.host[0] == '\0') {
		image = image_by_blob(&o->ref.digest);
		o->by_erofs = image && !image_proven(image);
	}
	if (image && o->ref.host[0]) {	/* from where it is named now */
		struct image named = o->image;

		o->image = *image;
		memcpy(o->image.name, named.name, sizeof(named.name));
		memcpy(o->image.host, named.host, sizeof(named.host));
		memcpy(o->image.repo, named.repo, sizeof(named.repo));
		if (image_keep(&o->image, NULL, 0) < 0)
			log_warn("that %s is named so now is not remembered",
			    o->image.name);
		open_known(o);
	} else if (image) {
		o->image = *image;
		open_known(o);
	} else if (o->ref.host[0] == '\0')
		open_fail(o, CTL_CODE(BLOB_ABSENT), false, "no image or device "
		    "of this digest is known here; attach it once as "
		    "HOST/REPO@%s", o->image.name);
	else
		find_begin(o);
}

void
on_open(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Open *m = msg->body;
	struct open *o = calloc(1, sizeof(*o));
	const char *why;

	(void)owner;
	(void)link;
	if (!o)
		log_die("no memory for a request");
	TAILQ_INSERT_TAIL(&opens, o, entry);
	tick_soon();
	o->id = msg->id;
	o->rung = o->asked = m->rung;
	o->restore = m->restore;
	o->own = m->plain;
	o->device = m->device;
	o->whole = (m->whole || m->plain || m->rung == CTL_RUNG(WHOLE)) &&
	    !m->restore;
	o->fallback = m->fallback_whole;
	o->deadline = now_ms() + (m->deadline_ms ? m->deadline_ms :
	    RESOLVE_MAX_MS);
	snprintf(o->image.name, sizeof(o->image.name), "%s", m->image);
	if (image_ref_parse(m->image, &o->ref, &why) < 0) {
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "%s is no image "
		    "name: %s", m->image, why);
		return;
	}
	memcpy(o->image.host, o->ref.host, sizeof(o->image.host));
	memcpy(o->image.repo, o->ref.repo, sizeof(o->image.repo));
	if (o->ref.has_digest)
		open_digest(o);
	else
		find_begin(o);
}

void
on_cancel(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o;

	(void)owner;
	(void)link;
	TAILQ_FOREACH(o, &opens, entry)
		if (o->id == msg->id) {
			open_free(o);
			return;
		}
	verify_cancel(msg->id);
	copy_cancel(msg->id);
}

void
open_forget_all(void)
{
	struct open *o;

	while ((o = TAILQ_FIRST(&opens)))
		open_free(o);
	copy_forget_all();
	verify_forget_all();
}

/* ---- what happens to a layout ---- */

void
open_layout_changed(struct layout *l)
{
	struct open *o, *next;

	for (o = TAILQ_FIRST(&opens); o; o = next) {
		next = TAILQ_NEXT(o, entry);
		if (o->layout != l || o->step != STEP_FILL)
			continue;
		if (l->failed)
			open_fail(o, CTL_CODE(DIGEST_MISMATCH), false, "%s: "
			    "%s", o->image.name, l->last_error);
		else if (filled(o)) {
			progress(o, true);
			open_done(o);
		} else
			progress(o, false);
	}
}

void
open_layout_trouble(struct layout *l, const Suite__FetchDone *done)
{
	struct open *o, *next;

	for (o = TAILQ_FIRST(&opens); o; o = next) {
		next = TAILQ_NEXT(o, entry);
		if (o->layout != l || o->step != STEP_FILL)
			continue;
		o->code = done->code;
		snprintf(o->why, sizeof(o->why), "%s", done->text);
		if (!done->retry)
			open_fail(o, done->code, false, "%s", done->text);
	}
	copy_layout_trouble(l, done);
}

bool
open_tick(void)
{
	uint64_t now = now_ms();
	struct open *o, *next;

	for (o = TAILQ_FIRST(&opens); o; o = next) {
		next = TAILQ_NEXT(o, entry);
		if (o->deadline && now >= o->deadline)
			open_fail(o, o->code ? o->code : CTL_CODE(TIMEOUT),
			    true, "%s%s", o->code ? "" : o->image.name,
			    o->code ? o->why : ": the registry did not answer "
			    "in time; check it, then try again");
		else if (o->step == STEP_FILL && o->code &&
		    now - o->moved_at > NO_PROGRESS_MS)
			open_fail(o, o->code, true, "%s", o->why);
		else if (o->next_try && now >= o->next_try)
			find_begin(o);
		else
			find_look(o);
	}
	return !TAILQ_EMPTY(&opens);
}
