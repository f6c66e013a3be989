// SPDX-License-Identifier: Apache-2.0
/*
 * From a name to an image, its chunk index and its rung: what Open asks of
 * fetcherd, step by step (the diagram in open.c).  A step that fails in a way
 * that may pass is tried again, with a doubling wait, until the deadline.
 * Nothing is parsed whose digest was not checked first; a tag's answer is
 * checked against itself and named by its digest.
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
#define MIRROR_MUTE_MS	2000	/* then others are asked */
#define INDEX_PIECE	(256 * 1024)	/* bytes of a frame of the index */

#ifdef __x86_64__
#define IMAGE_ARCH	"amd64"
#else
#define IMAGE_ARCH	"arm64"
#endif

static void next_referrer(struct open *o);

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

/* Will a hash, or what a hash has proven, tell whether the answer is right?
 * Then mirrors may give it. */
static bool
is_checked(const struct open *o)
{
	switch (o->step) {
	case STEP_RESOLVE:
	case STEP_PLATFORM:
		return o->ref.has_digest;
	case STEP_ARTIFACT:
	case STEP_INDEX_SIZE:
	case STEP_INDEX:
		return true;
	case STEP_STAT:
		return o->index != NULL;
	default:
		return false;
	}
}

void
find_begin(struct open *o)
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
	source_drop(o->source);
	o->source = fetch_source(o->image.host, is_checked(o), o->skip_until);
	source_hold(o->source);
	source.host = o->image.host;
	source.repo = o->image.repo;
	source.mirror = o->source->mirror;
	o->asked_at = now_ms();
	send[o->step](o, &source);
}

/* A mirror was of no use: ask the next one, and in the end the registry. */
static bool
ask_next(struct open *o)
{
	const struct source *s = o->source;

	if (!source_is_mirror(s))
		return false;
	o->skip_until[s - s->registry->sources] = UINT64_MAX;
	if (o->step == STEP_INDEX)	/* its length was this mirror's */
		o->step = STEP_INDEX_SIZE;
	find_begin(o);
	return true;
}

bool
find_mute(const struct open *o)
{
	Suite__FetchDone mute = SUITE__FETCH_DONE__INIT;

	if (!o->fetch_id || o->step == STEP_FILL ||
	    !source_is_mirror(o->source) ||
	    now_ms() - o->asked_at < MIRROR_MUTE_MS)
		return false;
	mute.code = CTL_CODE(TIMEOUT);
	mute.retry = true;
	mute.text = "it does not answer";
	fetch_outcome(o->source, &mute);
	return true;
}

void
find_look(struct open *o)
{
	if (find_mute(o))
		ask_next(o);
}

static bool
ask_after_wrong(struct open *o, const char *what)
{
	if (source_is_mirror(o->source))
		fetch_wrong(o->source, what);
	return ask_next(o);
}

void
find_step(struct open *o, enum open_step step)
{
	o->step = step;
	o->retry_ms = 0;
	find_begin(o);
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
	open_known(o);
	return true;
}

/* What the name meant last is all here: that needs no credentials. */
static bool
known_complete(const struct open *o)
{
	const struct image *image = image_by_name(o->image.name);
	uint32_t rung = o->rung == CTL_RUNG(DEFAULT) ? CTL_RUNG(CHUNK) :
	    o->rung;
	const struct file *f = image ?
	    file_by_key(image_layout(image, rung)) : NULL;

	return f && f->complete;
}

static void
step_failed(struct open *o, const Suite__FetchDone *done)
{
	o->fetch_id = 0;
	if (source_is_mirror(o->source)) {
		fetch_outcome(o->source, done);
		ask_next(o);
		return;
	}
	if (!done->retry && (o->step == STEP_REFERRERS ||
	    o->step == STEP_ARTIFACT)) {
		log_warn("an index that refers to %s: %s", o->image.name,
		    done->text);
		next_referrer(o);
		return;
	}
	o->code = done->code;
	snprintf(o->why, sizeof(o->why), "%s", done->text);
	if (done->code == CTL_CODE(AUTH_DENIED) && known_complete(o) &&
	    use_known_tag(o))
		return;
	if (!done->retry) {
		open_fail(o, done->code, false, "%s", done->text);
		return;
	}
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
		find_step(o, STEP_STAT);
		return;
	}
	open_keep(o);
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
void
find_no_index(struct open *o)
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
		open_keep(o);
	} else
		find_step(o, STEP_INDEX_SIZE);
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
		find_step(o, STEP_REFERRERS);
	else
		find_no_index(o);
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
		find_step(o, STEP_ARTIFACT);
	else
		find_no_index(o);
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
	find_step(o, STEP_INDEX);
}

static bool
blobs_fit(const struct index *ix)
{
	for (uint32_t i = 0; i < ix->n_blobs; i++)
		if (index_blob(ix, i).size > DEVICE_SIZE_MAX)
			return false;
	return true;
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
		if (ask_after_wrong(o, "the chunk index that it sent is not "
		    "what was asked for"))
			return;
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
	else if (!blobs_fit(&o->parsed))
		index_refused(o, "it names a blob of more than 1 TiB");
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
	o->asked_at = now_ms();
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
	find_begin(o);
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
		if (ask_after_wrong(o, "the manifest that it sent is not what "
		    "was asked for"))
			return;
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

/* Does it say what can be used? */
static bool
mirror_fits(const struct open *o, const Suite__BlobInfo *info)
{
	if (o->step == STEP_INDEX_SIZE)
		return info->size <= INDEX_SIZE_MAX;
	return info->range_ok && (!o->index ||
	    info->size == index_blob(&o->parsed, 0).size);
}

static void
got_blob_info(struct open *o, const Suite__BlobInfo *info)
{
	uint64_t want = info->size;

	o->fetch_id = 0;
	if (source_is_mirror(o->source) && !mirror_fits(o, info) &&
	    ask_next(o))
		return;
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
		open_keep(o);
}

void
on_manifest(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (o && (o->step == STEP_RESOLVE || o->step == STEP_PLATFORM ||
	    o->step == STEP_ARTIFACT)) {
		fetch_answered(o->source, 0);
		got_manifest(o, msg);
	}
}

void
on_blob_info(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	struct open *o = by_fetch_id(msg->id);

	(void)owner;
	(void)link;
	if (o && (o->step == STEP_STAT || o->step == STEP_INDEX_SIZE)) {
		fetch_answered(o->source, 0);
		got_blob_info(o, msg->body);
	}
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
			find_begin(o);
}
