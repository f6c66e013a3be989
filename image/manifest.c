// SPDX-License-Identifier: Apache-2.0
/*
 * OCI image manifests and indexes.  Called on bytes whose digest is already
 * known to be the wanted one.  Unknown members are ignored, as the
 * specification asks; a member of the wrong type is an error.
 */
#include <jansson.h>

#include <errno.h>
#include <string.h>

#include "base/own.h"
#include "image/index.h"
#include "image/manifest.h"

static void
own_json(json_t **j)
{
	json_decref(*j);
}

static int
parse_note(const json_t *notes, const char *name, bool *has, struct digest *d)
{
	const json_t *note = json_object_get(notes, name);

	if (!note)
		return 0;	/* the caller says what that means */
	if (!json_is_string(note) ||
	    digest_parse(json_string_value(note), d) < 0)
		return -EINVAL;
	*has = true;
	return 0;
}

static int
parse_notes(const json_t *root, struct manifest *m, const char **why)
{
	const json_t *notes = json_object_get(root, "annotations");

	*why = "its annotations are no object";
	if (notes && !json_is_object(notes) && !json_is_null(notes))
		return -EINVAL;
	*why = "its annotation " ANNOTATION_EROFS " is no sha256 digest";
	if (parse_note(notes, ANNOTATION_EROFS, &m->has_erofs, &m->erofs) < 0)
		return -EINVAL;
	*why = "its annotation " ANNOTATION_CHUNKS " is no sha256 digest";
	return parse_note(notes, ANNOTATION_CHUNKS, &m->has_chunks,
	    &m->chunks);
}

static int
descriptor_digest(const json_t *descriptor, struct digest *d)
{
	const char *text = json_string_value(
	    json_object_get(descriptor, "digest"));

	return text ? digest_parse(text, d) : -EINVAL;
}

static bool
member_is(const json_t *object, const char *name, const char *want)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value && strcmp(value, want) == 0;
}

static int
parse_layers(const json_t *layers, struct manifest *m, const char **why)
{
	json_t *layer;
	size_t i;

	*why = "its layers are malformed";
	if (layers && !json_is_array(layers))
		return -EINVAL;
	json_array_foreach(layers, i, layer) {
		const json_t *size = json_object_get(layer, "size");

		*why = "its layers are malformed";
		if (!json_is_string(json_object_get(layer, "mediaType")))
			return -EINVAL;
		if (!member_is(layer, "mediaType", TYPE_INDEX))
			continue;
		*why = "it has two layers that are an index";
		if (m->has_index)
			return -EINVAL;
		*why = "its index has no sha256 digest, or no size of 1 byte "
		    "to 64 MiB";
		if (descriptor_digest(layer, &m->index) < 0 ||
		    json_integer_value(size) < 1 ||
		    json_integer_value(size) > INDEX_SIZE_MAX)
			return -EINVAL;
		m->has_index = true;
		m->index_size = (uint64_t)json_integer_value(size);
	}
	return 0;
}

/* A registry that knows no artifactType has the type of the configuration. */
static int
parse_artifact(const json_t *root, struct manifest *m, const char **why)
{
	const json_t *subject = json_object_get(root, "subject");

	if (!member_is(root, "artifactType", TYPE_ARTIFACT) &&
	    !member_is(json_object_get(root, "config"), "mediaType",
	    TYPE_ARTIFACT))
		return 0;
	*why = "its subject has no sha256 digest";
	if (subject && descriptor_digest(subject, &m->subject) < 0)
		return -EINVAL;
	m->has_subject = subject != NULL;
	return parse_layers(json_object_get(root, "layers"), m, why);
}

static int
parse_index(const json_t *entries, const char *os, const char *arch,
    struct manifest *m)
{
	bool exact = false;
	json_t *entry;
	size_t i;

	json_array_foreach(entries, i, entry) {
		const json_t *platform = json_object_get(entry, "platform");
		struct digest d;

		if (descriptor_digest(entry, &d) < 0)
			return -EINVAL;
		if (!member_is(platform, "os", os) ||
		    !member_is(platform, "architecture", arch) || exact)
			continue;
		if (m->has_platform && json_object_get(platform, "variant"))
			continue;
		m->has_platform = true;
		m->platform = d;
		exact = !json_object_get(platform, "variant");
	}
	return 0;
}

int
manifest_parse(const char *text, size_t len, const char *os,
    const char *arch, struct manifest *out, const char **why)
{
	_cleanup_(own_json) json_t *root = NULL;
	struct manifest m = { 0 };
	const json_t *entries;
	int r;

	*why = "it is longer than 256 KiB";
	if (len > MANIFEST_MAX)
		return -EINVAL;
	*why = "it is no JSON object";
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(root))
		return -EINVAL;
	*why = "its schemaVersion is not 2";
	if (json_integer_value(json_object_get(root, "schemaVersion")) != 2)
		return -EINVAL;
	entries = json_object_get(root, "manifests");
	*why = "its list of manifests is malformed";
	if (entries && !json_is_array(entries))
		return -EINVAL;
	if (entries) {
		m.kind = MANIFEST_INDEX;
		r = parse_index(entries, os, arch, &m);
	} else {
		m.kind = MANIFEST_IMAGE;
		r = parse_notes(root, &m, why);
		if (r == 0)
			r = parse_artifact(root, &m, why);
	}
	if (r == 0)
		*out = m;
	return r;
}
