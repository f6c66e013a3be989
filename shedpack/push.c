// SPDX-License-Identifier: Apache-2.0
/*
 * `shedpack push`: a layout's blobs, and an artifact that refers to an image.
 * In this order, so that whoever finds one thing finds what it names:
 *
 *	IMAGE's manifest: is it of this erofs?
 *	blobs that the registry lacks
 *	--annotate: IMAGE's manifest with the index in it, by its digest
 *	the artifact, subject = that manifest, under a tag of its own
 *	the list of referrers, where the registry keeps none itself
 *	--annotate: IMAGE's tag moves to the new manifest
 *
 * The move of the tag comes last: until then hosts see what was there before,
 * and a push that broke is run again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/own.h"
#include "image/manifest.h"
#include "image/ref.h"
#include "shedpack/registry.h"

#define TAG_SUFFIX	".shedstream"	/* sha256-HEX is the referrers' own */

static void
json_release(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_json_	_cleanup_(json_release)

struct push {
	struct layout layout;
	struct registry registry;
	struct image_ref ref;
	const char *tag;	/* of the artifact; NULL: from the subject */
	struct document image;	/* as the registry has it */
	json_t *image_json;
	char *annotated;	/* its new text, or NULL: it stays */
	struct layout_blob subject, artifact;	/* digests and sizes */
};

static void
push_done(struct push *p)
{
	layout_done(&p->layout);
	registry_done(&p->registry);
	document_done(&p->image);
	json_decref(p->image_json);
	free(p->annotated);
}

static int
no_memory(struct refusal *why)
{
	return refuse(why, "no memory for a manifest; free some");
}

struct tag_text {
	char text[sizeof("sha256-") + DIGEST_HEX + sizeof(TAG_SUFFIX)];
};

/* sha256-HEX, by the distribution specification, and what stands behind. */
static struct tag_text
tag_of(const struct digest *d, const char *suffix)
{
	struct tag_text t;

	snprintf(t.text, sizeof(t.text), "sha256-%s%s", digest_to_hex(d).text,
	    suffix);
	return t;
}

/* The tag or digest that IMAGE has. */
static const char *
reference_of(const struct image_ref *ref, struct digest_text *space)
{
	if (!ref->has_digest)
		return ref->tag;
	*space = digest_to_text(&ref->digest);
	return space->text;
}

/* ---- the image ---- */

/* The machine's architecture as OCI calls it. */
static const char *
architecture(struct utsname *space)
{
	if (uname(space) < 0)
		return "amd64";
	if (strcmp(space->machine, "x86_64") == 0)
		return "amd64";
	return strcmp(space->machine, "aarch64") == 0 ? "arm64" :
	    space->machine;
}

static int
refuse_index(const struct push *p, const struct manifest *m, const char *arch,
    struct refusal *why)
{
	char example[DIGEST_TEXT + 128] = "";

	if (m->has_platform)
		snprintf(example, sizeof(example), "; that of linux/%s is %s",
		    arch, digest_to_text(&m->platform).text);
	return refuse(why, "%s: the image is an index of several platforms; "
	    "name the manifest of the one that this erofs is for by its "
	    "digest, as %s@sha256:HEX%s", p->registry.where, p->registry.where,
	    example);
}

/* What the manifest is, by its own word or else the registry's. */
static int
check_type(struct push *p, struct refusal *why)
{
	const char *type = json_string_value(json_object_get(p->image_json,
	    "mediaType"));

	if (type)
		snprintf(p->image.type, sizeof(p->image.type), "%s", type);
	if (strcmp(p->image.type, TYPE_OCI_MANIFEST) == 0 ||
	    strcmp(p->image.type, TYPE_DOCKER_MANIFEST) == 0)
		return 0;
	return refuse(why, "%s: the image's manifest is of the type '%s', "
	    "which is not that of an image; name one that shed pushed",
	    p->registry.where, p->image.type);
}

/* Is it an image, and of the erofs that the index is of? */
static int
check_image(struct push *p, struct refusal *why)
{
	struct digest_text have, want =
	    digest_to_text(&p->layout.index.device);
	const char *wrong, *arch;
	struct utsname machine;
	struct manifest m;

	arch = architecture(&machine);
	if (manifest_parse(p->image.text, p->image.len, "linux", arch, &m,
	    &wrong) < 0)
		return refuse(why, "%s: the image's manifest cannot be used: "
		    "%s; push the image again", p->registry.where, wrong);
	if (m.kind == MANIFEST_INDEX)
		return refuse_index(p, &m, arch, why);
	if (!m.has_erofs)
		return refuse(why, "%s: the image names no erofs ("
		    ANNOTATION_EROFS " is missing from its annotations); name "
		    "one that shed pushed", p->registry.where);
	have = digest_to_text(&m.erofs);
	if (strcmp(have.text, want.text) != 0)
		return refuse(why, "%s: the image's erofs is %s and the index "
		    "is of %s; make the index of that image's erofs, or name "
		    "the image of this one", p->registry.where, have.text,
		    want.text);
	p->image_json = json_loadb(p->image.text, p->image.len,
	    JSON_REJECT_DUPLICATES, NULL);
	return p->image_json ? check_type(p, why) : no_memory(why);
}

/* The image's new manifest, if it changes; either is the subject. */
static int
annotate(struct push *p, struct refusal *why)
{
	_cleanup_free_ char *text = NULL;
	bool same;

	if (artifact_annotate(p->image_json, &p->layout.index_digest, &text,
	    &same) < 0)
		return no_memory(why);
	if (same)
		return 0;
	p->subject.size = strlen(text);
	p->subject.digest = digest_of(text, p->subject.size);
	p->annotated = take_ptr(text);
	return 0;
}

/* ---- the artifact ---- */

/* The list under the subject's tag, or none. */
static int
referrers_get(struct push *p, const char *tag, json_t **out,
    struct refusal *why)
{
	_cleanup_(document_done) struct document old = { 0 };
	int r = registry_get(&p->registry, tag, &old, why);

	*out = NULL;
	if (r == -ENOENT) {
		why->text[0] = '\0';
		return 0;
	}
	if (r == 0)
		*out = json_loadb(old.text, old.len, JSON_REJECT_DUPLICATES,
		    NULL);
	if (r == 0 && !*out)
		return refuse(why, "%s: what is tagged %s is no list of "
		    "referrers; delete that tag", p->registry.where, tag);
	return r;
}

/* https://github.com/opencontainers/distribution-spec, "Referrers Tag Schema":
 * two pushes at once can lose an entry, which it says too. */
static int
referrers_put(struct push *p, const struct digest *gone, struct refusal *why)
{
	struct tag_text tag = tag_of(&p->subject.digest, "");
	_cleanup_json_ json_t *old = NULL;
	_cleanup_free_ char *text = NULL;
	bool subject;
	int r;

	if (referrers_get(p, tag.text, &old, why) < 0)
		return -EINVAL;
	r = artifact_referrers(old, &p->artifact, gone, &text);
	if (r == -EINVAL)
		return refuse(why, "%s: what is tagged %s is no list of "
		    "referrers; delete that tag", p->registry.where, tag.text);
	if (r < 0)
		return no_memory(why);
	return registry_put(&p->registry, tag.text, TYPE_OCI_INDEX, text,
	    &subject, why);
}

/* What has the artifact's tag now: *has an earlier artifact of ours. */
static int
earlier(struct push *p, const char *tag, struct digest *digest, bool *has,
    struct refusal *why)
{
	_cleanup_(document_done) struct document old = { 0 };
	int r = registry_get(&p->registry, tag, &old, why);
	struct manifest m = { 0 };
	const char *wrong;

	*has = r == 0;
	if (r == -ENOENT) {
		why->text[0] = '\0';
		return 0;
	}
	if (r < 0)
		return r;
	if (manifest_parse(old.text, old.len, "", "", &m, &wrong) < 0 ||
	    !m.has_index)
		return refuse(why, "%s: the tag %s is that of something else "
		    "than a chunk index; choose another with --tag",
		    p->registry.where, tag);
	*digest = old.digest;
	return 0;
}

static int
put_artifact(struct push *p, struct refusal *why)
{
	struct tag_text own = tag_of(&p->subject.digest, TAG_SUFFIX);
	const char *tag = p->tag ? p->tag : own.text;
	_cleanup_free_ char *text = artifact_with_subject(p->layout.manifest,
	    p->image.type, &p->subject);
	struct digest old = { 0 };
	bool has_old = false, subject = false;

	if (!text)
		return no_memory(why);
	p->artifact.size = strlen(text);
	p->artifact.digest = digest_of(text, p->artifact.size);
	if (earlier(p, tag, &old, &has_old, why) < 0 ||
	    registry_put(&p->registry, tag, TYPE_OCI_MANIFEST, text, &subject,
	    why) < 0)
		return -EINVAL;
	/* what loses its tag is collected, and is to be found no longer */
	return subject ? 0 : referrers_put(p, has_old ? &old : NULL, why);
}

/* ---- the push ---- */

static int
put_blobs(struct push *p, struct refusal *why)
{
	for (unsigned i = 0; i < p->layout.n_all; i++)
		if (registry_blob(&p->registry, &p->layout, &p->layout.all[i],
		    why) < 0)
			return -EINVAL;
	return 0;
}

/* Nobody has moved the tag meanwhile?  Then it is ours to move. */
static int
move_tag(struct push *p, struct refusal *why)
{
	_cleanup_(document_done) struct document now = { 0 };
	bool subject;
	int r;

	if (p->ref.has_digest) {
		bar_note("the annotated image has no tag, and registries "
		    "collect such manifests: tag %s@%s", p->registry.where,
		    digest_to_text(&p->subject.digest).text);
		return 0;
	}
	r = registry_get(&p->registry, p->ref.tag, &now, why);
	if (r < 0)
		return r;
	if (!digest_equal(&now.digest, &p->image.digest))
		return refuse(why, "%s: the tag %s was moved by somebody else "
		    "in the meantime; run it again", p->registry.where,
		    p->ref.tag);
	return registry_put(&p->registry, p->ref.tag, p->image.type,
	    p->annotated, &subject, why);
}

static int
push_all(struct push *p, struct refusal *why)
{
	struct digest_text subject = digest_to_text(&p->subject.digest);
	bool ignored;

	if (put_blobs(p, why) < 0)
		return -EINVAL;
	if (p->annotated && registry_put(&p->registry, subject.text,
	    p->image.type, p->annotated, &ignored, why) < 0)
		return -EINVAL;
	if (put_artifact(p, why) < 0)
		return -EINVAL;
	return p->annotated ? move_tag(p, why) : 0;
}

static int
parse_names(struct push *p, const struct arguments *a, struct refusal *why)
{
	struct image_ref tag;
	const char *wrong;

	if (image_ref_parse(a->arg[1], &p->ref, &wrong) < 0)
		return refuse(why, "%.200s is no image's name: %s", a->arg[1],
		    wrong);
	if (p->ref.host[0] == '\0')
		return refuse(why, "%s names no registry; name the image as "
		    "HOST[:PORT]/REPO[:TAG|@sha256:HEX]", a->arg[1]);
	p->tag = a->tag;
	if (a->tag) {
		_cleanup_free_ char *name = NULL;

		if (asprintf(&name, "localhost/x:%s", a->tag) < 0) {
			name = NULL;
			return no_memory(why);
		}
		if (strchr(a->tag, '@') ||
		    image_ref_parse(name, &tag, &wrong) < 0)
			return refuse(why, "--tag %.130s is no tag: it is 1 to "
			    "128 letters, digits and ._-", a->tag);
		if (strcmp(a->tag, p->ref.tag) == 0)
			return refuse(why, "--tag %s is the image's own tag; "
			    "choose another", a->tag);
	}
	return 0;
}

static int
push_run(struct push *p, const struct arguments *a, struct refusal *why)
{
	struct digest_text space;

	if (parse_names(p, a, why) < 0 ||
	    layout_open(a->arg[0], &p->layout, why) < 0 ||
	    registry_open(&p->registry, p->ref.host, p->ref.repo, a,
	    why) < 0 || registry_get(&p->registry,
	    reference_of(&p->ref, &space), &p->image, why) < 0 ||
	    check_image(p, why) < 0)
		return -EINVAL;
	p->subject = (struct layout_blob){ p->image.digest, p->image.len };
	if (a->annotate && annotate(p, why) < 0)
		return -EINVAL;
	if (push_all(p, why) < 0)
		return -EINVAL;
	bar_end();
	if (a->annotate)
		printf("image %s\n", digest_to_text(&p->subject.digest).text);
	printf("manifest %s\n", digest_to_text(&p->artifact.digest).text);
	if (!a->annotate)
		bar_note("hosts by default do not use an index that only "
		    "refers to the image: push with --annotate, or set "
		    "`referrers = yes` in [trust] on them");
	return 0;
}

int
pack_push(const struct arguments *a, struct refusal *why)
{
	_cleanup_(push_done) struct push p = { .layout = LAYOUT_NONE };

	return push_run(&p, a, why);
}
