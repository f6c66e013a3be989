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
#include "image/manifest.h"

static void
own_json(json_t **j)
{
	json_decref(*j);
}

static int
parse_image(const json_t *root, struct manifest *m, const char **why)
{
	const json_t *notes = json_object_get(root, "annotations");
	const json_t *erofs = json_object_get(notes, ANNOTATION_EROFS);

	*why = "its annotations are no object";
	if (notes && !json_is_object(notes) && !json_is_null(notes))
		return -EINVAL;
	if (!erofs)
		return 0;	/* the caller says what that means */
	*why = "its annotation " ANNOTATION_EROFS " is no sha256 digest";
	if (!json_is_string(erofs) || digest_parse(json_string_value(erofs),
	    &m->erofs) < 0)
		return -EINVAL;
	m->has_erofs = true;
	return 0;
}

static bool
member_is(const json_t *object, const char *name, const char *want)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value && strcmp(value, want) == 0;
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
		const char *text = json_string_value(
		    json_object_get(entry, "digest"));
		struct digest d;

		if (!text || digest_parse(text, &d) < 0)
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
		r = parse_image(root, &m, why);
	}
	if (r == 0)
		*out = m;
	return r;
}
