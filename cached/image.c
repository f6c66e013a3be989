// SPDX-License-Identifier: Apache-2.0
/*
 * Images known here: manifest digest -> blob, index, size and where it came
 * from, with the manifest itself, so that nothing is resolved again and what is
 * present needs no network.  One image, two files, written durably; a damaged
 * one is skipped and said, never in the way of another.
 */
#define _GNU_SOURCE
#include <jansson.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"
#include "image/manifest.h"

#define IMAGE_FILE_MAX	8192	/* bytes; names are bounded */

struct images images = TAILQ_HEAD_INITIALIZER(images);

/* An image whose file can't be read. */
struct lost {
	LIST_ENTRY(lost) entry;
	struct digest manifest;
};
static LIST_HEAD(, lost) losts = LIST_HEAD_INITIALIZER(losts);

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

bool
image_proven(const struct image *image)
{
	const struct file *f = file_by_key(image_layout(image,
	    CTL_RUNG(CHUNK)));

	return f && f->complete;
}

/* Anybody's manifest may name it: one whose bytes were proven comes first. */
struct image *
image_by_blob(const struct digest *blob)
{
	struct image *i, *first = NULL;

	TAILQ_FOREACH(i, &images, entry) {
		if (!digest_equal(&i->blob, blob))
			continue;
		if (image_proven(i))
			return i;
		if (!first)
			first = i;
	}
	return first;
}

const struct digest *
image_layout(const struct image *image, uint32_t rung)
{
	return image->proof != PROOF_NONE && rung == CTL_RUNG(CHUNK) ?
	    &image->index : &image->blob;
}

struct image *
image_of_layout(const struct digest *key, const struct image *after)
{
	struct image *i = after ? TAILQ_NEXT(after, entry) :
	    TAILQ_FIRST(&images);

	for (; i; i = TAILQ_NEXT(i, entry))
		if (digest_equal(&i->blob, key) || (i->proof != PROOF_NONE &&
		    digest_equal(&i->index, key)))
			return i;
	return NULL;
}

struct image *
image_named(const char *text)
{
	struct image *i = NULL;
	struct image_ref ref;
	const char *why;

	if (image_ref_parse(text, &ref, &why) < 0)
		return NULL;
	if (ref.has_digest) {
		i = image_by_manifest(&ref.digest);
		return i ? i : image_by_blob(&ref.digest);
	}
	return image_by_name(text);
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

static const char *const proofs[] = { "", "manifest", "referrer" };

/* Its chunk index, if it has one, and what names that. */
static int
parse_index(const json_t *root, struct image *image)
{
	char index[DIGEST_TEXT + 1], proof[16];

	if (!json_object_get(root, "index"))
		return 0;
	if (copy_text(root, "index", index, sizeof(index)) < 0 ||
	    copy_text(root, "proof", proof, sizeof(proof)) < 0 ||
	    digest_parse(index, &image->index) < 0)
		return -EINVAL;
	for (int p = PROOF_MANIFEST; p <= PROOF_REFERRER; p++)
		if (strcmp(proof, proofs[p]) == 0)
			image->proof = (enum proof)p;
	return image->proof == PROOF_NONE ? -EINVAL : 0;
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
	image->pinned = json_is_true(json_object_get(root, "pinned"));
	return parse_index(root, image);
}

bool
image_unreadable(void)
{
	return !LIST_EMPTY(&losts);
}

static void
lost_add(const struct digest *manifest)
{
	struct lost *lost = calloc(1, sizeof(*lost));

	if (!lost)
		log_die("no memory for images");
	lost->manifest = *manifest;
	LIST_INSERT_HEAD(&losts, lost, entry);
}

/* It is known again, but not whether it was pinned. */
static void
lost_found(struct image *image)
{
	struct lost *lost;

	LIST_FOREACH(lost, &losts, entry)
		if (digest_equal(&lost->manifest, &image->manifest))
			break;
	if (!lost)
		return;
	LIST_REMOVE(lost, entry);
	free(lost);
	image->pinned = true;
	log_warn("%s is pinned, as it may have been before its file was "
	    "damaged", image->name);
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
	if (digest_parse(name, &image->manifest) < 0) {
		free(image);	/* not ours */
		return;
	}
	r = store_read_text(dirfd, file, IMAGE_FILE_MAX, &text, &len);
	if (r == 0)
		r = image_parse(text, len, image);
	if (r < 0) {
		log_err("skipping images/%s: %s; attach the image by name to "
		    "make it anew, or remove the file and restart; until then "
		    "nothing is evicted that no image claims", file,
		    strerror(-r));
		lost_add(&image->manifest);
		free(image);
		return;
	}
	TAILQ_INSERT_TAIL(&images, image, entry);
}

static void
see_image(int dir, const char *name)
{
	if (strlen(name) == DIGEST_HEX + 5 &&
	    strcmp(name + DIGEST_HEX, ".json") == 0)
		image_load(dir, name);
}

void
image_load_all(void)
{
	_cleanup_close_ int dir = store_subdir("images", NULL);
	int r = dir < 0 ? dir : store_each(dir, see_image);

	if (r < 0)
		log_die("read the store's images: %s", strerror(-r));
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
		lost_found(known);
	}
	memcpy(known->name, image->name, sizeof(known->name));
	memcpy(known->host, image->host, sizeof(known->host));
	memcpy(known->repo, image->repo, sizeof(known->repo));
	if (known->proof != PROOF_MANIFEST)	/* else it is proven */
		known->size = image->size;
	/* What its manifest names is for ever; else the newest knowledge. */
	if (known->proof != PROOF_MANIFEST && image->proof != PROOF_NONE) {
		known->proof = image->proof;
		known->index = image->index;
	}
	known->named_at = (uint64_t)time(NULL);
	return known;
}

/* The .json of an image: the commit of what is known of it. */
static int
write_known(int dirfd, const struct image *image)
{
	struct digest_hex hex = digest_to_hex(&image->manifest);
	struct digest_text blob = digest_to_text(&image->blob),
	    index = digest_to_text(&image->index);
	_cleanup_(own_json) json_t *root = json_pack("{s:s, s:s, s:s, s:s, "
	    "s:I, s:I, s:b}", "name", image->name, "host", image->host, "repo",
	    image->repo, "blob", blob.text, "size", (json_int_t)image->size,
	    "named_at", (json_int_t)image->named_at, "pinned",
	    (int)image->pinned);
	_cleanup_free_ char *text = NULL;
	char file[DIGEST_HEX + 16];

	if (root && image->proof != PROOF_NONE) {
		json_object_set_new(root, "index", json_string(index.text));
		json_object_set_new(root, "proof",
		    json_string(proofs[image->proof]));
	}
	text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
	if (!text)
		return -ENOMEM;
	snprintf(file, sizeof(file), "%s.json", hex.text);
	return store_write_text(dirfd, file, text);
}

int
image_keep(const struct image *image, const void *manifest, size_t len)
{
	struct digest_hex hex = digest_to_hex(&image->manifest);
	_cleanup_close_ int dirfd = store_subdir("images", NULL);
	struct image *known = remember(image);
	char file[DIGEST_HEX + 16];
	int r = 0;

	if (!known)
		return -ENOMEM;
	if (dirfd < 0)
		return dirfd;
	snprintf(file, sizeof(file), "%s.manifest", hex.text);
	if (manifest)
		r = store_write_file(dirfd, file, manifest, len);
	return r < 0 ? r : write_known(dirfd, known);
}

int
image_pin(struct image *image, bool pin)
{
	_cleanup_close_ int dirfd = store_subdir("images", NULL);
	bool was = image->pinned;
	int r = dirfd;

	image->pinned = pin;
	if (dirfd >= 0)
		r = write_known(dirfd, image);
	if (r < 0)
		image->pinned = was;
	return r < 0 ? r : 0;
}

void
image_forget(struct image *image)
{
	struct digest_hex hex = digest_to_hex(&image->manifest);
	_cleanup_close_ int dirfd = store_subdir("images", NULL);
	char file[DIGEST_HEX + 16];

	if (dirfd >= 0) {
		snprintf(file, sizeof(file), "%s.json", hex.text);
		disk_unlink(dirfd, file);
		snprintf(file, sizeof(file), "%s.manifest", hex.text);
		disk_unlink(dirfd, file);
		disk_sync_dir(dirfd);
	}
	TAILQ_REMOVE(&images, image, entry);
	free(image);
}
