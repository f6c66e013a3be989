// SPDX-License-Identifier: Apache-2.0
/*
 * Lists of referrers: an OCI image index whose entries are manifests with a
 * common subject (distribution-spec, "Listing Referrers").  A pure function of
 * bytes that nobody has verified; cached gets digests and none of the text,
 * and believes a digest only when the manifest under it says so itself.
 *
 * The registry is asked to filter by type and need not.  Only the first page
 * of an answer is read: what its Link header leads to is not followed.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

static void
json_release(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_json_	_cleanup_(json_release)

static bool
is_listed(const struct referring *list, const struct digest *digest)
{
	for (size_t i = 0; i < list->n; i++)
		if (digest_equal(&list->digest[i], digest))
			return true;
	return false;
}

/* One descriptor into the list, if it is of that type and there is room. */
static int
take_entry(const json_t *entry, const char *type, struct referring *list)
{
	const json_t *own_type = json_object_get(entry, "artifactType");
	const char *text = json_string_value(json_object_get(entry, "digest"));
	struct digest digest;

	if (!text || (own_type && !json_is_string(own_type)))
		return -EINVAL;
	if (!own_type || strcmp(json_string_value(own_type), type) != 0)
		return 0;
	/* by another algorithm, it is none that we could ask for */
	if (digest_parse(text, &digest) < 0 || is_listed(list, &digest))
		return 0;
	if (list->n < REFERRERS_MAX)
		list->digest[list->n++] = digest;
	return 0;
}

int
referrers_parse(const void *json, size_t len, const char *type,
    struct referring *out)
{
	_cleanup_json_ json_t *root = NULL;
	struct referring list = { .n = 0 };
	const json_t *entries;
	json_t *entry;
	size_t i;

	if (len > REFERRERS_JSON_MAX)
		return -EINVAL;
	root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
	entries = json_object_get(root, "manifests");
	if (!json_is_array(entries) ||
	    json_integer_value(json_object_get(root, "schemaVersion")) != 2)
		return -EINVAL;
	json_array_foreach(entries, i, entry)
		if (take_entry(entry, type, &list) < 0)
			return -EINVAL;
	*out = list;
	return 0;
}
