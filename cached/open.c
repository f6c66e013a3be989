// SPDX-License-Identifier: Apache-2.0
/*
 * Open: from an image's name to a layout that reads can be served from.
 *
 *	name --tag or digest--> RESOLVE --index--> PLATFORM
 *	  |                        |                  |
 *	  | known here             +----<-image-------+
 *	  |                        v
 *	  |                      STAT (size, ranges)
 *	  |                        v
 *	  +---------------------> layout --lazy--> Opened
 *	                           |
 *	                           +--whole--> FILL --digest fits--> Opened
 *
 * A step that fails in a way that may pass is tried again, with a doubling
 * wait, until the deadline.  Nothing is parsed whose digest was not checked
 * first; a tag's answer is checked against itself and named by its digest.
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
#include "image/manifest.h"

#define RETRY_FIRST_MS	200
#define RETRY_MAX_MS	2000
#define RESOLVE_MAX_MS	10000	/* where the client sets no deadline */
#define NO_PROGRESS_MS	60000	/* a pull that fails this long is over */
#define PROGRESS_MS	100	/* between two reports */

#ifdef __x86_64__
#define IMAGE_ARCH	"amd64"
#else
#define IMAGE_ARCH	"arm64"
#endif

enum step { STEP_RESOLVE, STEP_PLATFORM, STEP_STAT, STEP_FILL };

struct open {
	TAILQ_ENTRY(open) entry;
	uint64_t id;		/* control's */
	uint64_t fetch_id;	/* of the Resolve or Stat under way; 0: none */
	enum step step;
	struct image_ref ref;
	struct image image;
	char *manifest;
	size_t manifest_len;
	bool whole, fallback, plain, restore;
	uint64_t deadline, next_try, retry_ms;	/* monotonic ms; 0: none */
	uint64_t sent, sent_at, moved_at;	/* progress */
	uint64_t requests, body_bytes;		/* to be put to the layout */
	struct layout *layout;
	Shedstream__Control__V1__Code code;	/* why the last try failed */
	char why[256];
};

static TAILQ_HEAD(, open) opens = TAILQ_HEAD_INITIALIZER(opens);

static void step_begin(struct open *o);

/* ---- ends ---- */

/* The last one that waited for a pull: it ends with him. */
static void
pull_unneeded(struct layout *l)
{
	struct open *o;

	if (l->complete || device_needs_whole(l))
		return;
	TAILQ_FOREACH(o, &opens, entry)
		if (o->layout == l && o->step == STEP_FILL)
			return;
	finish_stop(l);
}

static void
open_free(struct open *o)
{
	TAILQ_REMOVE(&opens, o, entry);
	if (o->layout && o->step == STEP_FILL)
		pull_unneeded(o->layout);
	layout_put(o->layout);
	free(o->manifest);
	free(o);
}

__attribute__((format(printf, 4, 5))) static void
open_fail(struct open *o, Shedstream__Control__V1__Code code, bool retry,
    const char *fmt, ...)
{
	Suite__OpenFailed m = SUITE__OPEN_FAILED__INIT;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	m.code = code;
	m.retry = retry;
	m.text = text;
	log_warn("open %s: %s", o->image.name, text);
	if (control_link)
		ipc_send(control_link, o->id, SUITE_BODY(OPEN_FAILED), &m,
		    NULL, 0, -1);
	open_free(o);
}

static void
open_done(struct open *o)
{
	Suite__Opened m = SUITE__OPENED__INIT;
	struct layout *l = o->layout;

	m.image_digest.data = o->image.manifest.bytes;
	m.image_digest.len = DIGEST_LEN;
	m.blob_digest.data = o->image.blob.bytes;
	m.blob_digest.len = DIGEST_LEN;
	m.size = l->size;
	m.unit = l->unit;
	m.complete = m.network_free = l->complete;
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
	Suite__OpenProgress m = SUITE__OPEN_PROGRESS__INIT;
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
		ipc_send(control_link, o->id, SUITE_BODY(OPEN_PROGRESS), &m,
		    NULL, 0, -1);
}

/* ---- the layout ---- */

static void
fill_begin(struct open *o)
{
	struct layout *l = o->layout;

	o->step = STEP_FILL;
	o->deadline = 0;
	o->moved_at = now_ms();
	progress(o, false);
	if (l->complete)
		open_done(o);
	else
		finish_pull(l, o->plain);
}

/* The image's layout, fit to be used for this request.  0 or -errno. */
static int
layout_for(struct open *o, struct layout **l)
{
	int r = layout_get(&o->image.blob, o->image.size, o->image.host,
	    o->image.repo, l);
	bool anew;

	if (r < 0)
		return r;
	r = layout_source(*l, o->image.host, o->image.repo);
	anew = ((*l)->failed && !o->restore) || (r == -EXDEV && !o->whole);
	if (r == -EXDEV && o->whole) {	/* the whole digest tells */
		memcpy((*l)->host, o->image.host, sizeof((*l)->host));
		memcpy((*l)->repo, o->image.repo, sizeof((*l)->repo));
		r = 0;
	}
	if (!anew)
		return r;
	r = layout_start_anew(l);
	if (r == -EBUSY)	/* layout_begin() says so */
		return (*l)->failed ? 0 : -EXDEV;
	return r < 0 ? r : layout_source(*l, o->image.host, o->image.repo);
}

static void
layout_begin(struct open *o)
{
	struct layout *l = NULL;
	int r = layout_for(o, &l);

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
	l->counts.requests_sent += o->requests;
	l->counts.bytes_fetched += o->body_bytes;
	if (l->failed)
		open_fail(o, CTL_CODE(DIGEST_MISMATCH), false, "%s; detach "
		    "it, then attach it again", l->last_error);
	else if (o->whole)
		fill_begin(o);
	else
		open_done(o);
}

/* The image and its size are known: keep that, go on. */
static void
image_known(struct open *o)
{
	int r = image_keep(&o->image, o->manifest, o->manifest_len);

	if (r < 0)
		log_err("remember %s: %s; it will be resolved again",
		    o->image.name, strerror(-r));
	layout_begin(o);
}

/* ---- steps on the network ---- */

static void
send_resolve(struct open *o, Suite__Source *source)
{
	Suite__Resolve m = SUITE__RESOLVE__INIT;
	struct digest_text digest;

	m.source = source;
	m.reference = o->ref.tag;
	if (o->ref.has_digest) {
		digest = digest_to_text(&o->ref.digest);
		m.reference = digest.text;
	}
	ipc_send(fetcherd_link, o->fetch_id, SUITE_BODY(RESOLVE), &m, NULL, 0,
	    -1);
}

static void
send_stat(struct open *o, Suite__Source *source)
{
	struct digest_text digest = digest_to_text(&o->image.blob);
	Suite__Stat m = SUITE__STAT__INIT;

	m.source = source;
	m.digest = digest.text;
	ipc_send(fetcherd_link, o->fetch_id, SUITE_BODY(STAT), &m, NULL, 0,
	    -1);
}

static void
step_begin(struct open *o)
{
	Suite__Source source = SUITE__SOURCE__INIT;

	o->next_try = 0;
	o->fetch_id = fetch_new_id();
	if (!fetcherd_link)
		return;		/* open_resend() */
	source.host = o->image.host;
	source.repo = o->image.repo;
	if (o->step == STEP_STAT)
		send_stat(o, &source);
	else
		send_resolve(o, &source);
}

/* The registry can't be asked what a tag means now: what it meant here last
 * will do, said aloud. */
static bool
use_known_tag(struct open *o)
{
	struct image *image = o->step == STEP_RESOLVE && !o->ref.has_digest ?
	    image_by_name(o->image.name) : NULL;
	struct digest_text digest;

	if (!image)
		return false;
	digest = digest_to_text(&image->manifest);
	notice("state", &image->blob, "%s can't be asked what %s is now (%s): "
	    "taking %.19s, which it was last", o->image.host, o->image.name,
	    o->why, digest.text);
	o->image = *image;
	layout_begin(o);
	return true;
}

static void
step_failed(struct open *o, const Suite__FetchDone *done)
{
	o->fetch_id = 0;
	if (!done->retry) {
		open_fail(o, done->code, false, "%s", done->text);
		return;
	}
	o->code = done->code;
	snprintf(o->why, sizeof(o->why), "%s", done->text);
	if (o->retry_ms && use_known_tag(o))
		return;		/* asked twice */
	o->retry_ms = o->retry_ms ? o->retry_ms * 2 : RETRY_FIRST_MS;
	if (o->retry_ms > RETRY_MAX_MS)
		o->retry_ms = RETRY_MAX_MS;
	o->next_try = now_ms() + o->retry_ms;
}

static void
stat_begin(struct open *o)
{
	struct image *known = image_by_blob(&o->image.blob);
	uint64_t present;
	bool complete = false;

	o->retry_ms = 0;
	o->step = STEP_STAT;
	/* A size is taken from memory only where it was proven. */
	if (known)
		layout_on_disk(&known->blob, known->size, &present, &complete);
	if (!complete) {
		step_begin(o);
		return;
	}
	o->image.size = known->size;
	image_known(o);
}

static void
got_image(struct open *o, const struct manifest *m, const char *text,
    size_t len)
{
	if (!m->has_erofs) {
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "%s has no "
		    "annotation " ANNOTATION_EROFS "; publish it with shed "
		    "0.5.2 or later", o->image.name);
		return;
	}
	o->image.blob = m->erofs;
	o->manifest = malloc(len + 1);
	if (!o->manifest)
		log_die("no memory for a manifest");
	memcpy(o->manifest, text, len);
	o->manifest_len = len;
	stat_begin(o);
}

static void
got_index(struct open *o, const struct manifest *m)
{
	if (!m->has_platform || o->step == STEP_PLATFORM) {
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "%s has no image "
		    "for linux/" IMAGE_ARCH "; publish one, or name another "
		    "image", o->image.name);
		return;
	}
	o->step = STEP_PLATFORM;
	o->ref.has_digest = true;
	o->ref.digest = m->platform;
	if (image_by_manifest(&m->platform)) {
		o->image.manifest = m->platform;
		o->image.blob = image_by_manifest(&m->platform)->blob;
		stat_begin(o);
		return;
	}
	step_begin(o);
}

static void
got_manifest(struct open *o, const struct ipc_message *msg)
{
	const Suite__Manifest *reply = msg->body;
	struct digest sum = digest_of(msg->raw, msg->raw_len), claimed;
	struct digest_text text = digest_to_text(&sum);
	const char *why = "";
	struct manifest m;

	o->fetch_id = 0;
	if ((o->ref.has_digest && !digest_equal(&sum, &o->ref.digest)) ||
	    (reply->digest[0] && (digest_parse(reply->digest, &claimed) < 0 ||
	    !digest_equal(&sum, &claimed)))) {
		open_fail(o, CTL_CODE(DIGEST_MISMATCH), true, "the manifest of "
		    "%s hashes to %s, which is not its name; the registry or "
		    "something in between is broken", o->image.name,
		    text.text);
		return;
	}
	o->image.manifest = sum;
	if (manifest_parse((char *)msg->raw, msg->raw_len, "linux",
	    IMAGE_ARCH, &m, &why) < 0)
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "the manifest of %s "
		    "is unusable: %s", o->image.name, why);
	else if (m.kind == MANIFEST_INDEX)
		got_index(o, &m);
	else
		got_image(o, &m, (char *)msg->raw, msg->raw_len);
}

static void
got_blob_info(struct open *o, const Suite__BlobInfo *info)
{
	o->fetch_id = 0;
	if (info->size == 0 || info->size > DEVICE_SIZE_MAX) {
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "the blob of %s has "
		    "%" PRIu64 " bytes, which no device can have",
		    o->image.name, info->size);
		return;
	}
	o->image.size = info->size;
	if (!info->range_ok) {
		if (!o->whole && !o->fallback) {
			open_fail(o, CTL_CODE(RANGE_UNSUPPORTED), false, "%s "
			    "does not serve byte ranges, so that nothing can "
			    "be fetched lazily; use fetch=whole",
			    o->image.host);
			return;
		}
		if (!o->whole)
			notice("state", &o->image.blob, "%s does not serve "
			    "byte ranges: pulling %s whole", o->image.host,
			    o->image.name);
		o->whole = o->plain = true;
	}
	image_known(o);
}

static struct open *
by_fetch_id(uint64_t id)
{
	struct open *o;

	TAILQ_FOREACH(o, &opens, entry)
		if (id && o->fetch_id == id)
			return o;
	return NULL;
}

void
on_manifest(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (o && o->step < STEP_STAT)
		got_manifest(o, msg);
}

void
on_blob_info(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (o && o->step == STEP_STAT)
		got_blob_info(o, msg->body);
}

/* The answer came before its FetchDone: what that costs goes to the layout. */
bool
open_answer(const struct ipc_message *msg)
{
	const Suite__FetchDone *done = msg->body;
	struct open *o = by_fetch_id(msg->id);

	if (!o)
		return false;
	o->requests += done->requests;
	o->body_bytes += done->body_bytes;
	if (done->code != CTL_CODE(OK))
		step_failed(o, done);
	return true;
}

void
open_resend(void)
{
	struct open *o;

	TAILQ_FOREACH(o, &opens, entry)
		if (o->fetch_id)
			step_begin(o);
}

/* ---- requests of control ---- */

static void
open_known(struct open *o)
{
	struct image *image = image_by_manifest(&o->ref.digest);

	if (!image && o->ref.host[0] == '\0')
		image = image_by_blob(&o->ref.digest);
	if (image && o->ref.host[0]) {	/* from where it is named now */
		o->image.manifest = image->manifest;
		o->image.blob = image->blob;
		o->image.size = image->size;
		image_known(o);
	} else if (image) {
		o->image = *image;
		layout_begin(o);
	} else if (o->ref.host[0] == '\0')
		open_fail(o, CTL_CODE(BLOB_ABSENT), false, "no image or device "
		    "of this digest is known here; attach it once as "
		    "HOST/REPO@%s", o->image.name);
	else
		step_begin(o);
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
	o->whole = m->whole || m->rung == CTL_RUNG(WHOLE);
	o->fallback = m->fallback_whole;
	o->restore = m->restore;
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
	if (m->rung == CTL_RUNG(CHUNK))
		open_fail(o, CTL_CODE(INTEGRITY_REFUSED), false, "%s has no "
		    "chunk index, so that no chunk can be verified before it "
		    "is served; use --integrity whole", m->image);
	else if (o->ref.has_digest)
		open_known(o);
	else
		step_begin(o);
}

void
on_cancel_open(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o;

	(void)owner;
	(void)link;
	TAILQ_FOREACH(o, &opens, entry)
		if (o->id == msg->id) {
			open_free(o);
			return;
		}
}

void
open_forget_all(void)
{
	struct open *o;

	while ((o = TAILQ_FIRST(&opens)))
		open_free(o);
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
		else if (l->complete) {
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
			step_begin(o);
	}
	return !TAILQ_EMPTY(&opens);
}
