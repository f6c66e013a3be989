// SPDX-License-Identifier: Apache-2.0
/*
 * Reading an OCI image layout that holds one artifact of ours, whoever wrote
 * it: shedpack, skopeo or oras.  Nothing in it is believed: sizes are bounded
 * before anything is read, and what has a digest is checked by it.
 *
 *	oci-layout, index.json --> manifest --> config
 *	                                   \--> layers: the chunk index, and
 *	                                        each blob that it names
 *
 * Data blobs are opened by whoever reads them; verify.c hashes them, and push
 * leaves that to the registry.
 * https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "image/manifest.h"
#include "shedpack/shedpack.h"

#define SMALL_MAX	(64 * 1024)	/* oci-layout, index.json, config */
#define ENTRIES_MAX	64	/* of index.json: artifact, subject, ... */
#define LAYERS_MAX	(INDEX_BLOBS_MAX + 16)	/* the index, a profile, ... */

static void
json_release(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_json_	_cleanup_(json_release)

/* ---- files ---- */

/* A regular file, or -errno. */
static int
open_file(int dir, const char *name)
{
	struct stat st;
	int fd = openat(dir, name,
	    O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		fd_close(fd);
		return -EINVAL;
	}
	return fd;
}

static int
read_file(int dir, const char *name, size_t max, char **text, size_t *len)
{
	_cleanup_close_ int fd = open_file(dir, name);

	return fd < 0 ? fd : fd_read_text(fd, max, text, len);
}

static int
no_layout(const struct layout *l, const char *what, struct refusal *why)
{
	return refuse(why, "%s is no layout of shedpack: %s; make one with "
	    "`shedpack index`", l->path, what);
}

static int
damaged(const struct layout *l, const struct digest *d, const char *what,
    struct refusal *why)
{
	return refuse(why, "%s: its blob %s %s; make the layout anew", l->path,
	    digest_to_text(d).text, what);
}

int
layout_blob_open(const struct layout *l, const struct layout_blob *b, int *fd,
    struct refusal *why)
{
	_cleanup_close_ int file = open_file(l->blobs,
	    digest_to_hex(&b->digest).text);
	struct stat st;

	if (file < 0)
		return damaged(l, &b->digest, file == -ENOENT ? "is missing" :
		    "cannot be read", why);
	if (fstat(file, &st) < 0 || (uint64_t)st.st_size != b->size)
		return damaged(l, &b->digest, "has another size than its "
		    "manifest says", why);
	*fd = take_fd(&file);
	return 0;
}

/* A whole blob, checked. */
static int
read_blob(const struct layout *l, const struct layout_blob *b, char **bytes,
    size_t *len, struct refusal *why)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int fd = -1;
	struct digest digest;
	int r;

	if (layout_blob_open(l, b, &fd, why) < 0)
		return -EINVAL;
	r = fd_read_text(fd, b->size, &text, len);
	if (r < 0)
		return refuse(why, "%s: cannot read its blob %s: %s; check "
		    "its disk", l->path, digest_to_text(&b->digest).text,
		    strerror(-r));
	digest = digest_of(text, *len);
	if (!digest_equal(&digest, &b->digest))
		return damaged(l, &b->digest, "does not have its digest", why);
	*bytes = take_ptr(text);
	return 0;
}

/* ---- documents ---- */

static int
take_descriptor(const json_t *j, uint64_t max, struct layout_blob *out)
{
	const char *text = json_string_value(json_object_get(j, "digest"));
	const json_t *size = json_object_get(j, "size");

	if (!text || digest_parse(text, &out->digest) < 0 ||
	    !json_is_integer(size) || json_integer_value(size) < 1 ||
	    (uint64_t)json_integer_value(size) > max)
		return -EINVAL;
	out->size = (uint64_t)json_integer_value(size);
	return 0;
}

static bool
member_is(const json_t *object, const char *name, const char *want)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value && strcmp(value, want) == 0;
}

static int
read_json(const struct layout *l, const char *name, json_t **out,
    struct refusal *why)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (read_file(l->dir, name, SMALL_MAX, &text, &len) == 0)
		*out = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(*out))
		return 0;
	return refuse(why, "%s is no OCI image layout: its %s is not there, or "
	    "is no JSON object; make one with `shedpack index`", l->path,
	    name);
}

/* Whether it is the manifest of an artifact of ours; then the layout has it. */
static int
try_manifest(struct layout *l, const struct layout_blob *blob,
    struct refusal *why)
{
	_cleanup_json_ json_t *manifest = NULL;
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (read_blob(l, blob, &text, &len, why) < 0)
		return -EINVAL;
	manifest = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(manifest) ||
	    !member_is(manifest, "artifactType", TYPE_ARTIFACT))
		return 0;
	if (l->manifest && !digest_equal(&l->digest, &blob->digest))
		return no_layout(l, "it holds two artifacts; copy the one "
		    "that is meant alone", why);
	json_decref(l->manifest);
	l->manifest = take_ptr(manifest);
	l->digest = blob->digest;
	return 0;
}

/* The one among what index.json names; oras puts the subject there too. */
static int
take_manifest(struct layout *l, struct refusal *why)
{
	_cleanup_json_ json_t *version = NULL, *root = NULL;
	const json_t *entries;
	json_t *entry;
	size_t i;

	if (read_json(l, LAYOUT_FILE, &version, why) < 0 ||
	    read_json(l, "index.json", &root, why) < 0)
		return -EINVAL;
	if (!member_is(version, "imageLayoutVersion", "1.0.0"))
		return no_layout(l, "its version is not 1.0.0", why);
	entries = json_object_get(root, "manifests");
	if (!json_is_array(entries) || json_array_size(entries) > ENTRIES_MAX)
		return no_layout(l, "its index.json names no manifests, or "
		    "too many", why);
	json_array_foreach(entries, i, entry) {
		struct layout_blob blob;

		if (take_descriptor(entry, MANIFEST_MAX, &blob) < 0)
			return no_layout(l, "its index.json names a manifest "
			    "without sha256 and size", why);
		if (try_manifest(l, &blob, why) < 0)
			return -EINVAL;
	}
	return l->manifest ? 0 : no_layout(l, "it holds no manifest of the "
	    "type " TYPE_ARTIFACT, why);
}

/* Config and layers; *index: which of them is the chunk index. */
static int
take_layers(struct layout *l, unsigned *index, struct refusal *why)
{
	const json_t *config = json_object_get(l->manifest, "config");
	const json_t *layers = json_object_get(l->manifest, "layers");
	size_t n = json_array_size(layers), i;
	json_t *layer;

	*index = 0;
	if (!json_is_array(layers) || n > LAYERS_MAX)
		return no_layout(l, "its artifact has no layers, or too many",
		    why);
	l->all = calloc(n + 1, sizeof(*l->all));
	if (!l->all)
		return refuse(why, "no memory for the layout; free some");
	if (take_descriptor(config, SMALL_MAX, &l->all[l->n_all++]) < 0)
		return no_layout(l, "its config has no sha256 and size", why);
	json_array_foreach(layers, i, layer) {
		bool is_index = member_is(layer, "mediaType", TYPE_INDEX);

		if (take_descriptor(layer, is_index ? INDEX_SIZE_MAX :
		    INT64_MAX, &l->all[l->n_all]) < 0)
			return no_layout(l, "a layer has no sha256 and size, "
			    "or is an index of more than 64 MiB", why);
		if (is_index && *index)
			return no_layout(l, "it has two indexes", why);
		if (is_index)
			*index = l->n_all;
		l->n_all++;
	}
	return *index ? 0 : no_layout(l, "it has no index", why);
}

static int
take_index(struct layout *l, struct refusal *why)
{
	const char *wrong = "no memory";

	l->index_digest = digest_of(l->bytes, l->len);
	if (index_parse(l->bytes, l->len, &l->index, &wrong) < 0)
		return refuse(why, "%s: its chunk index cannot be used: %s; "
		    "make it anew", l->path, wrong);
	return 0;
}

/* Each blob that the index names is a layer, and of that size. */
static int
check_blobs(const struct layout *l, struct refusal *why)
{
	for (uint32_t n = 0; n < l->index.n_blobs; n++) {
		struct index_blob b = index_blob(&l->index, n);
		bool found = false;

		for (unsigned i = 1; i < l->n_all; i++)
			found |= digest_equal(&l->all[i].digest, &b.digest) &&
			    l->all[i].size == b.size;
		if (!found)
			return damaged(l, &b.digest, "is no layer of the "
			    "artifact, or of another size", why);
	}
	for (unsigned i = 0; i < l->n_all; i++) {
		_cleanup_close_ int fd = -1;

		if (layout_blob_open(l, &l->all[i], &fd, why) < 0)
			return -EINVAL;
	}
	return 0;
}

/* Everything behind l->dir. */
static int
layout_read(struct layout *l, struct refusal *why)
{
	_cleanup_free_ char *config = NULL;
	unsigned index;
	size_t len;

	l->blobs = openat(l->dir, LAYOUT_BLOBS,
	    O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (l->blobs < 0)
		return no_layout(l, "there is no " LAYOUT_BLOBS, why);
	if (take_manifest(l, why) < 0 || take_layers(l, &index, why) < 0 ||
	    read_blob(l, &l->all[0], &config, &len, why) < 0 ||
	    read_blob(l, &l->all[index], &l->bytes, &l->len, why) < 0 ||
	    take_index(l, why) < 0)
		return -EINVAL;
	return check_blobs(l, why);
}

int
layout_open(const char *path, struct layout *out, struct refusal *why)
{
	struct layout l = LAYOUT_NONE;

	l.path = path;
	l.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (l.dir < 0)
		return refuse(why, "cannot open %s as a directory: %s; name "
		    "the DIR that `shedpack index` made", path,
		    strerror(errno));
	if (layout_read(&l, why) < 0) {
		layout_done(&l);
		return -EINVAL;
	}
	*out = l;
	return 0;
}

int
layout_open_file(const char *path, struct layout *out, struct refusal *why)
{
	struct layout l = LAYOUT_NONE;
	int r = read_file(AT_FDCWD, path, INDEX_SIZE_MAX, &l.bytes, &l.len);

	l.path = path;
	if (r < 0)
		return refuse(why, "cannot read %s: %s; name a chunk index",
		    path, r == -EINVAL ? "it is no regular file" :
		    r == -EFBIG ? "it is longer than any index" :
		    strerror(-r));
	if (take_index(&l, why) < 0) {
		layout_done(&l);
		return -EINVAL;
	}
	*out = l;
	return 0;
}

void
layout_done(struct layout *l)
{
	fd_close(l->dir);
	fd_close(l->blobs);
	json_decref(l->manifest);
	free(l->all);
	free(l->bytes);
	*l = LAYOUT_NONE;
}
