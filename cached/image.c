// SPDX-License-Identifier: Apache-2.0
/*
 * Images known here: manifest digest -> blob, size and where it came from, with
 * the manifest itself, so that nothing is resolved again and what is present
 * needs no network.  One image, two files, written durably; a damaged one is
 * skipped and said, never in the way of another.
 */
#define _GNU_SOURCE
#include <jansson.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "image/manifest.h"

#define IMAGE_FILE_MAX	8192	/* bytes; names are bounded */

struct images images = TAILQ_HEAD_INITIALIZER(images);

static void
own_json(json_t **j)
{
	json_decref(*j);
}

struct image *
image_by_manifest(const struct digest *manifest)
{
	struct image *i;

	TAILQ_FOREACH(i, &images, entry)
		if (digest_equal(&i->manifest, manifest))
			return i;
	return NULL;
}

struct image *
image_by_blob(const struct digest *blob)
{
	struct image *i;

	TAILQ_FOREACH(i, &images, entry)
		if (digest_equal(&i->blob, blob))
			return i;
	return NULL;
}

struct image *
image_by_name(const char *name)
{
	struct image *i, *found = NULL;

	TAILQ_FOREACH(i, &images, entry)
		if (strcmp(i->name, name) == 0 &&
		    (!found || i->named_at >= found->named_at))
			found = i;
	return found;
}

static int
copy_text(const json_t *root, const char *key, char *to, size_t size)
{
	const char *text = json_string_value(json_object_get(root, key));

	if (!text || strlen(text) >= size)
		return -EINVAL;
	memcpy(to, text, strlen(text) + 1);
	return 0;
}

static int
image_parse(const char *text, size_t len, struct image *image)
{
	_cleanup_(own_json) json_t *root = json_loadb(text, len,
	    JSON_REJECT_DUPLICATES, NULL);
	char blob[DIGEST_TEXT + 1];
	json_int_t size = json_integer_value(json_object_get(root, "size"));

	if (copy_text(root, "name", image->name, sizeof(image->name)) < 0 ||
	    copy_text(root, "host", image->host, sizeof(image->host)) < 0 ||
	    copy_text(root, "repo", image->repo, sizeof(image->repo)) < 0 ||
	    copy_text(root, "blob", blob, sizeof(blob)) < 0 ||
	    digest_parse(blob, &image->blob) < 0 || size <= 0 ||
	    (uint64_t)size > DEVICE_SIZE_MAX)
		return -EINVAL;
	image->size = (uint64_t)size;
	image->named_at = (uint64_t)json_integer_value(
	    json_object_get(root, "named_at"));
	return 0;
}

static void
image_load(int dirfd, const char *file)
{
	_cleanup_free_ char *text = NULL;
	struct image *image = calloc(1, sizeof(*image));
	char name[DIGEST_TEXT + 1];
	size_t len;
	int r;

	if (!image)
		log_die("no memory for images");
	snprintf(name, sizeof(name), "sha256:%.64s", file);
	r = digest_parse(name, &image->manifest);
	if (r == 0)
		r = store_read_file(dirfd, file, IMAGE_FILE_MAX, &text, &len);
	if (r == 0)
		r = image_parse(text, len, image);
	if (r < 0) {
		log_err("skipping images/%s: %s; attach the image by name to "
		    "make it anew", file, strerror(-r));
		free(image);
		return;
	}
	TAILQ_INSERT_TAIL(&images, image, entry);
}

void
image_load_all(void)
{
	int fd = store_subdir("images", NULL);
	struct dirent *e;
	DIR *d;

	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		log_die("read the store's images: %s", strerror(errno));
	while ((e = readdir(d))) {
		size_t len = strlen(e->d_name);

		if (len == DIGEST_HEX + 5 && e->d_name[0] != '.' &&
		    strcmp(e->d_name + DIGEST_HEX, ".json") == 0)
			image_load(dirfd(d), e->d_name);
	}
	closedir(d);
}

/* In memory: a new image, or a newer name of a known one.  NULL: no memory. */
static struct image *
remember(const struct image *image)
{
	struct image *known = image_by_manifest(&image->manifest);

	if (!known) {
		known = calloc(1, sizeof(*known));
		if (!known)
			return NULL;
		*known = *image;
		TAILQ_INSERT_TAIL(&images, known, entry);
	}
	memcpy(known->name, image->name, sizeof(known->name));
	memcpy(known->host, image->host, sizeof(known->host));
	memcpy(known->repo, image->repo, sizeof(known->repo));
	known->size = image->size;
	known->named_at = (uint64_t)time(NULL);
	return known;
}

int
image_keep(const struct image *image, const void *manifest, size_t len)
{
	struct digest_hex hex = digest_to_hex(&image->manifest);
	struct digest_text blob = digest_to_text(&image->blob);
	_cleanup_close_ int dirfd = store_subdir("images", NULL);
	_cleanup_(own_json) json_t *root = NULL;
	_cleanup_free_ char *text = NULL;
	struct image *known = remember(image);
	char file[DIGEST_HEX + 16];
	int r = 0;

	if (!known)
		return -ENOMEM;
	if (dirfd < 0)
		return dirfd;
	root = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "name",
	    known->name, "host", known->host, "repo", known->repo, "blob",
	    blob.text, "size", (json_int_t)known->size, "named_at",
	    (json_int_t)known->named_at);
	text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
	if (!text)
		return -ENOMEM;
	/* The .json is the commit: it is written last. */
	snprintf(file, sizeof(file), "%s.manifest", hex.text);
	if (manifest)
		r = store_write_file(dirfd, file, manifest, len);
	if (r < 0)
		return r;
	snprintf(file, sizeof(file), "%s.json", hex.text);
	return store_write_file(dirfd, file, text, strlen(text));
}
