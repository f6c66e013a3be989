// SPDX-License-Identifier: Apache-2.0
/*
 * The JSON documents that shedpack writes: the artifact's manifest, the
 * layout's index.json, the list of referrers, and the image's manifest with
 * one annotation more.  Pure functions; members keep the order in which they
 * were read or set, so the same input gives the same bytes.
 * https://github.com/opencontainers/image-spec, distribution-spec v1.1.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/own.h"
#include "image/manifest.h"
#include "shedpack/shedpack.h"

#define ANNOTATION_TITLE "org.opencontainers.image.title"
#define ANNOTATION_REF	"org.opencontainers.image.ref.name"

static void
json_release(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_json_	_cleanup_(json_release)

/* All 17 digits that a number may have. */
static char *
text_of(const json_t *j)
{
	return j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) :
	    NULL;
}

static json_t *
descriptor(const char *type, const struct layout_blob *b)
{
	return json_pack("{ss ss sI}", "mediaType", type,
	    "digest", digest_to_text(&b->digest).text,
	    "size", (json_int_t)b->size);
}

/* `title`: the file's name where oras pulls it. */
static json_t *
layer(const char *type, const char *title, const struct layout_blob *b)
{
	json_t *j = descriptor(type, b);

	if (j && json_object_set_new(j, "annotations", json_pack("{ss}",
	    ANNOTATION_TITLE, title)) < 0) {
		json_decref(j);
		return NULL;
	}
	return j;
}

char *
artifact_manifest(const struct layout_blob *index,
    const struct layout_blob *erofs)
{
	const struct layout_blob config = {
		digest_of(ARTIFACT_CONFIG, strlen(ARTIFACT_CONFIG)),
		strlen(ARTIFACT_CONFIG) };
	_cleanup_json_ json_t *root = json_pack("{si ss ss so s[oo]}",
	    "schemaVersion", 2, "mediaType", TYPE_OCI_MANIFEST,
	    "artifactType", TYPE_ARTIFACT,
	    "config", descriptor(TYPE_OCI_EMPTY, &config),
	    "layers", layer(TYPE_INDEX, "index", index),
	    layer(TYPE_EROFS, "rootfs.erofs", erofs));

	return text_of(root);
}

char *
artifact_index_json(const struct layout_blob *manifest)
{
	_cleanup_json_ json_t *entry = descriptor(TYPE_OCI_MANIFEST, manifest);
	_cleanup_json_ json_t *root = NULL;

	if (!entry || json_object_set_new(entry, "artifactType",
	    json_string(TYPE_ARTIFACT)) < 0 || json_object_set_new(entry,
	    "annotations", json_pack("{ss}", ANNOTATION_REF, LAYOUT_REF)) < 0)
		return NULL;
	root = json_pack("{si ss s[O]}", "schemaVersion", 2, "mediaType",
	    TYPE_OCI_INDEX, "manifests", entry);
	return text_of(root);
}

char *
artifact_with_subject(const json_t *manifest, const char *type,
    const struct layout_blob *subject)
{
	_cleanup_json_ json_t *root = json_copy((json_t *)manifest);

	if (!root || json_object_set_new(root, "subject",
	    descriptor(type, subject)) < 0)
		return NULL;
	return text_of(root);
}

static bool
has_digest(const json_t *entry, const struct digest *d)
{
	const char *text = json_string_value(json_object_get(entry, "digest"));

	return text && strcmp(text, digest_to_text(d).text) == 0;
}

/* The entries to keep. */
static json_t *
entries_without(const json_t *old, const struct digest *a,
    const struct digest *b)
{
	const json_t *from = json_object_get(old, "manifests");
	json_t *to = json_array(), *entry;
	size_t i;

	json_array_foreach(from, i, entry)
		if (to && !has_digest(entry, a) &&
		    (!b || !has_digest(entry, b)) &&
		    json_array_append(to, entry) < 0) {
			json_decref(to);
			to = NULL;
		}
	return to;
}

int
artifact_referrers(const json_t *old, const struct layout_blob *artifact,
    const struct digest *gone, char **text)
{
	_cleanup_json_ json_t *entry = descriptor(TYPE_OCI_MANIFEST, artifact);
	_cleanup_json_ json_t *root = NULL, *entries = NULL;

	if (old && (!json_is_object(old) ||
	    !json_is_array(json_object_get(old, "manifests"))))
		return -EINVAL;
	entries = entries_without(old, &artifact->digest, gone);
	/* members that others wrote stay */
	root = old ? json_copy((json_t *)old) : json_pack("{si ss}",
	    "schemaVersion", 2, "mediaType", TYPE_OCI_INDEX);
	if (!entry || !entries || !root || json_object_set_new(entry,
	    "artifactType", json_string(TYPE_ARTIFACT)) < 0 ||
	    json_array_append(entries, entry) < 0 ||
	    json_object_set(root, "manifests", entries) < 0)
		return -ENOMEM;
	*text = text_of(root);
	return *text ? 0 : -ENOMEM;
}

int
artifact_annotate(const json_t *image, const struct digest *index,
    char **text, bool *same)
{
	struct digest_text value = digest_to_text(index);
	_cleanup_json_ json_t *root = json_copy((json_t *)image);
	_cleanup_json_ json_t *notes = NULL;
	json_t *old = json_object_get(image, "annotations");
	const char *had = json_string_value(json_object_get(old,
	    ANNOTATION_CHUNKS));

	if (!root || (old && !json_is_object(old) && !json_is_null(old)))
		return root ? -EINVAL : -ENOMEM;
	notes = json_is_object(old) ? json_copy(old) : json_object();
	if (!notes || json_object_set_new(notes, ANNOTATION_CHUNKS,
	    json_string(value.text)) < 0 ||
	    json_object_set(root, "annotations", notes) < 0)
		return -ENOMEM;
	*same = had && strcmp(had, value.text) == 0;
	*text = text_of(root);
	return *text ? 0 : -ENOMEM;
}
