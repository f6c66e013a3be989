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

enum step {
	STEP_RESOLVE,
	STEP_PLATFORM,
	STEP_REFERRERS,
	STEP_ARTIFACT,
	STEP_INDEX_SIZE,
	STEP_INDEX,
	STEP_STAT,
	STEP_FILL,
};

#define REFERRERS_MAX	16	/* tried in turn, until one is usable */
#define INDEX_PIECE	(256 * 1024)	/* bytes of a frame of the index */

struct open {
	TAILQ_ENTRY(open) entry;
	uint64_t id;		/* control's */
	uint64_t fetch_id;	/* of fetcherd's request under way; 0: none */
	enum step step;
	struct image_ref ref;
	struct image image;
	char *manifest;
	size_t manifest_len;
	uint32_t asked, rung;	/* rung: the one taken, once it is */
	bool whole, fallback, plain, restore;
	bool own;		/* all of it in its own file */
	bool by_erofs;		/* named so, and no index of it is proven */
	struct digest referrers[REFERRERS_MAX];
	unsigned n_referrers, referrer;
	uint8_t *index;		/* the bytes of the chunk index */
	uint64_t index_len, index_got;
	struct index parsed;	/* of these */
	uint64_t deadline, next_try, retry_ms;	/* monotonic ms; 0: none */
	uint64_t sent, sent_at, moved_at;	/* progress */
	uint64_t requests, body_bytes;		/* to be put to the layout */
	struct layout *layout;
	Shedstream__Control__V1__Code code;	/* why the last try failed */
	char why[256];
};

static TAILQ_HEAD(, open) opens = TAILQ_HEAD_INITIALIZER(opens);

static void step_begin(struct open *o);
static void step_to(struct open *o, enum step step);
static void next_referrer(struct open *o);
static void known_begin(struct open *o);

/* ---- ends ---- */

/* The last one that waited for a pull: it ends with him. */
static void
pull_unneeded(struct layout *l)
{
	struct open *o;

	if (device_needs_whole(l) || copy_needs(l))
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

/* Answers and frees o. */
#define open_fail(o, code, retry, ...)					\
	do {								\
		reply_failed((o)->id, code, retry, __VA_ARGS__);	\
		open_free(o);						\
	} while (0)

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

	if (r == -ENOKEY && !o->index) {	/* its index must come first */
		step_to(o, STEP_INDEX_SIZE);
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
send_referrers(struct open *o, Suite__Source *source)
{
	struct digest_text digest = digest_to_text(&o->image.manifest);
	Suite__Referrers m = SUITE__REFERRERS__INIT;

	m.source = source;
	m.digest = digest.text;
	m.artifact_type = (char *)TYPE_ARTIFACT;
	ipc_send(fetcherd_link, o->fetch_id, SUITE_BODY(REFERRERS), &m, NULL,
	    0, -1);
}

static void
send_artifact(struct open *o, Suite__Source *source)
{
	struct digest_text digest = digest_to_text(
	    &o->referrers[o->referrer]);
	Suite__Resolve m = SUITE__RESOLVE__INIT;

	m.source = source;
	m.reference = digest.text;
	ipc_send(fetcherd_link, o->fetch_id, SUITE_BODY(RESOLVE), &m, NULL, 0,
	    -1);
}

static void
send_index(struct open *o, Suite__Source *source)
{
	struct digest_text digest = digest_to_text(&o->image.index);
	Suite__Fetch m = SUITE__FETCH__INIT;

	o->index_got = 0;
	m.source = source;
	m.digest = digest.text;
	m.length = m.size = o->index_len;
	m.unit = INDEX_PIECE;
	ipc_send(fetcherd_link, o->fetch_id, SUITE_BODY(FETCH), &m, NULL, 0,
	    -1);
}

/* The size of the index; or of the first blob that will be read. */
static void
send_stat(struct open *o, Suite__Source *source)
{
	struct digest digest = o->image.blob;
	struct digest_text text;
	Suite__Stat m = SUITE__STAT__INIT;

	if (o->step == STEP_INDEX_SIZE)
		digest = o->image.index;
	else if (o->index && o->parsed.n_blobs > 0)
		digest = index_blob(&o->parsed, 0).digest;
	text = digest_to_text(&digest);
	m.source = source;
	m.digest = text.text;
	ipc_send(fetcherd_link, o->fetch_id, SUITE_BODY(STAT), &m, NULL, 0,
	    -1);
}

static void
step_begin(struct open *o)
{
	static void (*const send[])(struct open *, Suite__Source *) = {
		[STEP_RESOLVE] = send_resolve,
		[STEP_PLATFORM] = send_resolve,
		[STEP_REFERRERS] = send_referrers,
		[STEP_ARTIFACT] = send_artifact,
		[STEP_INDEX_SIZE] = send_stat,
		[STEP_INDEX] = send_index,
		[STEP_STAT] = send_stat,
	};
	Suite__Source source = SUITE__SOURCE__INIT;

	o->next_try = 0;
	o->fetch_id = fetch_new_id();
	if (!fetcherd_link)
		return;		/* open_resend() */
	source.host = o->image.host;
	source.repo = o->image.repo;
	send[o->step](o, &source);
}

static void
step_to(struct open *o, enum step step)
{
	o->step = step;
	o->retry_ms = 0;
	step_begin(o);
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
	notice("state", NULL, "%s can't be asked what %s is now (%s): taking "
	    "%.19s, which it was last", o->image.host, o->image.name, o->why,
	    digest.text);
	o->image = *image;
	known_begin(o);
	return true;
}

static void
step_failed(struct open *o, const Suite__FetchDone *done)
{
	o->fetch_id = 0;
	if (!done->retry && (o->step == STEP_REFERRERS ||
	    o->step == STEP_ARTIFACT)) {
		log_warn("an index that refers to %s: %s", o->image.name,
		    done->text);
		next_referrer(o);
		return;
	}
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
	struct file *f = file_by_key(image_layout(&o->image, o->rung));

	/* A size is taken from memory only where it was proven. */
	if (known && f && f->complete)
		o->image.size = known->size;
	else if (!o->index || o->parsed.n_blobs > 0) {
		step_to(o, STEP_STAT);
		return;
	}
	image_known(o);
}

/* ---- which rung, by which index ---- */

static struct open *
by_fetch_id(uint64_t id)
{
	struct open *o;

	TAILQ_FOREACH(o, &opens, entry)
		if (id && o->fetch_id == id)
			return o;
	return NULL;
}

/* Nothing proves chunk by chunk: what the configuration says instead. */
static void
no_index(struct open *o)
{
	o->image.proof = PROOF_NONE;
	if (o->by_erofs && o->rung == CTL_RUNG(CHUNK)) {
		open_fail(o, CTL_CODE(INTEGRITY_REFUSED), false, "an erofs "
		    "digest says nothing of chunks, and no index of it was "
		    "proven here yet; name the image, as %s",
		    o->image.name);
		return;
	}
	if (o->rung == CTL_RUNG(CHUNK)) {
		open_fail(o, CTL_CODE(INTEGRITY_REFUSED), false, "%s has no "
		    "chunk index%s, so that no chunk can be verified before "
		    "it is served; use --integrity whole, or publish one with "
		    "shedpack", o->image.name, conf->referrers ? "" :
		    " in its manifest");
		return;
	}
	if (conf->integrity == CTL_RUNG(CHUNK)) {
		open_fail(o, CTL_CODE(INTEGRITY_REFUSED), false, "the "
		    "configuration accepts rung chunk only, and %s has no "
		    "chunk index; ask for another with --integrity",
		    o->image.name);
		return;
	}
	o->rung = conf->integrity < CTL_RUNG(WHOLE) ? conf->integrity :
	    CTL_RUNG(WHOLE);
	if (o->rung == CTL_RUNG(WHOLE)) {
		notice("state", NULL, "%s %s: all of it is fetched and its "
		    "digest verified before the first byte is served",
		    o->image.name, o->by_erofs ? "is named by its erofs "
		    "alone, of which no index is proven yet" :
		    "has no chunk index");
		o->whole = true;
	}
	stat_begin(o);
}

/* The index is here, or its digest is known and its bytes are on disk. */
static void
index_begin(struct open *o)
{
	o->rung = CTL_RUNG(CHUNK);
	if (o->index)
		stat_begin(o);
	else if (image_by_manifest(&o->image.manifest) &&
	    file_by_key(&o->image.index)) {
		o->image.size = image_by_manifest(&o->image.manifest)->size;
		image_known(o);
	} else
		step_to(o, STEP_INDEX_SIZE);
}

/* The manifest is known: go on to its index, if one is wanted. */
static void
find_index(struct open *o)
{
	if (o->rung != CTL_RUNG(DEFAULT) && o->rung != CTL_RUNG(CHUNK))
		stat_begin(o);
	else if (o->image.proof != PROOF_NONE)
		index_begin(o);
	else if (conf->referrers)
		step_to(o, STEP_REFERRERS);
	else
		no_index(o);
}

/* The one before is of no use. */
static void
next_referrer(struct open *o)
{
	free(take_ptr(o->index));
	o->image.proof = PROOF_NONE;
	if (o->step != STEP_REFERRERS)
		o->referrer++;
	if (o->referrer < o->n_referrers)
		step_to(o, STEP_ARTIFACT);
	else
		no_index(o);
}

/* The index that was named is no use.  true: said or gone on. */
__attribute__((format(printf, 2, 3))) static void
index_refused(struct open *o, const char *fmt, ...)
{
	char why[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	if (o->image.proof == PROOF_REFERRER) {
		notice("state", NULL, "an index that refers to %s is not used: "
		    "%s", o->image.name, why);
		next_referrer(o);
		return;
	}
	open_fail(o, CTL_CODE(BAD_REQUEST), false, "the chunk index of %s is "
	    "unusable: %s; publish it again with shedpack, or use --integrity "
	    "whole", o->image.name, why);
}

static void
got_artifact(struct open *o, const struct manifest *m)
{
	if (!m->has_index || !m->has_subject || !digest_equal(&m->subject,
	    &o->image.manifest)) {
		next_referrer(o);
		return;
	}
	o->image.index = m->index;
	o->image.proof = PROOF_REFERRER;
	if (layout_failed_before(&m->index))
		index_refused(o, "what it made of the erofs was proven wrong "
		    "here");
	else
		index_begin(o);
}

static void
got_index_size(struct open *o, uint64_t size)
{
	if (size > INDEX_SIZE_MAX) {
		index_refused(o, "it has %" PRIu64 " bytes, more than %d",
		    size, INDEX_SIZE_MAX);
		return;
	}
	free(o->index);
	o->index_len = size;
	o->index = malloc(size);
	if (!o->index)
		log_die("no memory for an index");
	step_to(o, STEP_INDEX);
}

static bool
only_raw(const struct index *ix)
{
	for (uint32_t i = 0; i < ix->n_chunks; i++)
		if (index_chunk(ix, i).codec != CODEC_RAW)
			return false;
	return true;
}

static void
got_index_bytes(struct open *o)
{
	struct digest sum = digest_of(o->index, o->index_len);
	struct digest_text got = digest_to_text(&sum);
	const char *why = "";

	if (!digest_equal(&sum, &o->image.index)) {
		free(take_ptr(o->index));
		open_fail(o, CTL_CODE(DIGEST_MISMATCH), true, "the chunk index "
		    "of %s hashes to %s, which is not its name; the registry "
		    "or something in between is broken", o->image.name,
		    got.text);
		return;
	}
	if (index_parse(o->index, o->index_len, &o->parsed, &why) < 0)
		index_refused(o, "%s", why);
	else if (!digest_equal(&o->parsed.device, &o->image.blob))
		index_refused(o, "it is of another erofs than the manifest's");
	else if (!only_raw(&o->parsed))
		index_refused(o, "its chunks are compressed, which this "
		    "version can't read");
	else {
		o->image.size = o->parsed.device_size;
		stat_begin(o);
	}
}

bool
open_data(struct ipc_message *msg)
{
	const Suite__Data *data = msg->body;
	struct open *o = by_fetch_id(msg->id);

	if (!o || o->step != STEP_INDEX)
		return false;
	if (data->offset != o->index_got ||
	    msg->raw_len > o->index_len - o->index_got) {
		fetch_broken();
		return true;
	}
	memcpy(o->index + o->index_got, msg->raw, msg->raw_len);
	o->index_got += msg->raw_len;
	return true;
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
	if (m->has_chunks) {
		o->image.proof = PROOF_MANIFEST;
		o->image.index = m->chunks;
	}
	find_index(o);
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
	step_begin(o);
}

static void
got_manifest(struct open *o, const struct ipc_message *msg)
{
	const Suite__Manifest *reply = msg->body;
	struct digest sum = digest_of(msg->raw, msg->raw_len), claimed;
	struct digest_text text = digest_to_text(&sum);
	const struct digest *named = o->step == STEP_ARTIFACT ?
	    &o->referrers[o->referrer] : o->ref.has_digest ? &o->ref.digest :
	    NULL;
	const char *why = "";
	struct manifest m;
	int r;

	o->fetch_id = 0;
	if ((named && !digest_equal(&sum, named)) ||
	    (reply->digest[0] && (digest_parse(reply->digest, &claimed) < 0 ||
	    !digest_equal(&sum, &claimed)))) {
		open_fail(o, CTL_CODE(DIGEST_MISMATCH), true, "the manifest of "
		    "%s hashes to %s, which is not its name; the registry or "
		    "something in between is broken", o->image.name,
		    text.text);
		return;
	}
	if (o->step != STEP_ARTIFACT)
		o->image.manifest = sum;
	r = manifest_parse((char *)msg->raw, msg->raw_len, "linux", IMAGE_ARCH,
	    &m, &why);
	if (r < 0 && o->step == STEP_ARTIFACT)
		next_referrer(o);
	else if (r < 0)
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "the manifest of %s "
		    "is unusable: %s", o->image.name, why);
	else if (o->step == STEP_ARTIFACT)
		got_artifact(o, &m);
	else if (m.kind == MANIFEST_INDEX)
		got_index(o, &m);
	else
		got_image(o, &m, (char *)msg->raw, msg->raw_len);
}

/* The registry can do no ranges: whole, where that is allowed. */
static bool
no_ranges(struct open *o)
{
	bool asked_chunk = o->asked == CTL_RUNG(CHUNK);

	if (asked_chunk || (!o->whole && !o->fallback)) {
		open_fail(o, CTL_CODE(RANGE_UNSUPPORTED), false, "%s does not "
		    "serve byte ranges, so that nothing can be fetched "
		    "lazily; use %s", o->image.host, asked_chunk ?
		    "--integrity whole" : "fetch=whole");
		return false;
	}
	if (!o->whole || o->rung == CTL_RUNG(CHUNK))
		notice("state", NULL, "%s does not serve byte ranges: pulling "
		    "%s whole", o->image.host, o->image.name);
	if (o->rung == CTL_RUNG(CHUNK)) {
		o->rung = CTL_RUNG(WHOLE);
		free(take_ptr(o->index));
	}
	o->whole = o->plain = true;
	return true;
}

static void
got_blob_info(struct open *o, const Suite__BlobInfo *info)
{
	uint64_t want = info->size;

	o->fetch_id = 0;
	if (o->step == STEP_INDEX_SIZE) {
		got_index_size(o, info->size);
		return;
	}
	if (info->size == 0 || info->size > DEVICE_SIZE_MAX) {
		open_fail(o, CTL_CODE(BAD_REQUEST), false, "the blob of %s has "
		    "%" PRIu64 " bytes, which no device can have",
		    o->image.name, info->size);
		return;
	}
	if (o->index)
		want = index_blob(&o->parsed, 0).size;
	if (info->size != want) {
		open_fail(o, CTL_CODE(SIZE_CHANGED), false, "the blob of %s "
		    "has %" PRIu64 " bytes where its index says %" PRIu64
		    "; push the image again", o->image.name, info->size,
		    want);
		return;
	}
	if (!o->index)
		o->image.size = info->size;
	if (info->range_ok || no_ranges(o))
		image_known(o);
}

void
on_manifest(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (o && (o->step == STEP_RESOLVE || o->step == STEP_PLATFORM ||
	    o->step == STEP_ARTIFACT))
		got_manifest(o, msg);
}

void
on_blob_info(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (o && (o->step == STEP_STAT || o->step == STEP_INDEX_SIZE))
		got_blob_info(o, msg->body);
}

void
on_referring(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Referring *m = msg->body;
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (!o || o->step != STEP_REFERRERS)
		return;
	o->fetch_id = 0;
	for (size_t i = 0; i < m->n_digests && o->n_referrers <
	    REFERRERS_MAX; i++)
		if (digest_parse(m->digests[i],
		    &o->referrers[o->n_referrers]) == 0)
			o->n_referrers++;
	next_referrer(o);
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
	else if (o->step == STEP_INDEX && o->index_got == o->index_len) {
		o->fetch_id = 0;
		got_index_bytes(o);
	} else if (o->step == STEP_INDEX)
		fetch_broken();
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

/* An image that is known here: what is on disk needs nobody. */
static void
known_begin(struct open *o)
{
	bool wants_index = o->rung == CTL_RUNG(DEFAULT) ||
	    o->rung == CTL_RUNG(CHUNK);

	if (o->by_erofs || (o->image.proof == PROOF_REFERRER &&
	    !o->restore && (!conf->referrers ||
	    layout_failed_before(&o->image.index))))
		o->image.proof = PROOF_NONE;
	if (wants_index && o->image.proof != PROOF_NONE) {
		o->rung = CTL_RUNG(CHUNK);
		layout_begin(o);
	} else if (wants_index)
		no_index(o);
	else
		layout_begin(o);
}

static void
open_known(struct open *o)
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
		known_begin(o);
	} else if (image) {
		o->image = *image;
		known_begin(o);
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
	o->rung = o->asked = m->rung;
	o->restore = m->restore;
	o->own = m->plain;
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
		open_known(o);
	else
		step_begin(o);
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
			step_begin(o);
	}
	return !TAILQ_EMPTY(&opens);
}
