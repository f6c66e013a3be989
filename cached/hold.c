// SPDX-License-Identifier: Apache-2.0
/*
 * What is never evicted: what is attached, about to be or worked on; what is
 * pinned (a word in the image's own file); and what any owner's list keeps.  A
 * list is one file, keeps/HEX.json by the SHA-256 of the owner's name, replaced
 * as a whole and durably.  Unknown means in use: while a list can't be read,
 * everything is kept, and while an image's file can't, what no image claims.
 */
#define _GNU_SOURCE
#include <jansson.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define OPENED_MS	10000	/* to make a device of what was opened lazily */
#define OWNER_MAX	255	/* bytes, as control.proto says */
#define KEEPS_MAX	4096	/* digests of one owner */
#define OWNERS_MAX	1024
#define KEEP_FILE_MAX	(1024 * 1024)	/* KEEPS_MAX digests and an owner */

struct keep {
	LIST_ENTRY(keep) entry;
	char owner[OWNER_MAX + 1];
	bool unreadable;
	struct digest name;	/* of its file */
	size_t n;
	struct digest *digests;
};

static LIST_HEAD(, keep) keeps = LIST_HEAD_INITIALIZER(keeps);
static unsigned n_keeps;

static void
own_json(json_t **j)
{
	json_decref(*j);
}

static bool
keeps_image(const struct keep *k, const struct image *image)
{
	for (size_t i = 0; i < k->n; i++)
		if (digest_equal(&k->digests[i], &image->manifest) ||
		    digest_equal(&k->digests[i], &image->blob))
			return true;
	return false;
}

void
hold_owners(const struct image *image, void (*each)(void *arg,
    const char *owner), void *arg)
{
	const struct keep *k;

	LIST_FOREACH(k, &keeps, entry)
		if (!k->unreadable && keeps_image(k, image))
			each(arg, k->owner);
}

const char *
hold_image(const struct image *image)
{
	static char text[OWNER_MAX + 16];
	const struct keep *k;

	if (image->pinned)
		return "pinned";
	LIST_FOREACH(k, &keeps, entry) {
		if (!k->unreadable && !keeps_image(k, image))
			continue;
		snprintf(text, sizeof(text), "kept by %s", k->unreadable ?
		    "a list that can't be read" : k->owner);
		return text;
	}
	return NULL;
}

const char *
hold_reason(const struct file *f)
{
	const struct image *i = NULL;
	const char *why = NULL;

	if (f->layout)
		return TAILQ_EMPTY(&f->layout->devices) ? "in use" :
		    "attached";
	if (f->expected > 0 && now_ms() - f->opened < OPENED_MS)
		return "being attached";
	if (!image_of_layout(&f->h.key, NULL) && image_unreadable())
		return "perhaps of an image whose file can't be read";
	while (!why && (i = image_of_layout(&f->h.key, i)))
		why = hold_image(i);
	return why;
}

/* ---- lists on disk ---- */

static int
keep_parse(const char *text, size_t len, struct keep *k)
{
	_cleanup_(own_json) json_t *root = json_loadb(text, len,
	    JSON_REJECT_DUPLICATES, NULL);
	const json_t *list = json_object_get(root, "digests");
	const char *owner = json_string_value(json_object_get(root, "owner"));
	size_t n = json_array_size(list);

	if (!owner || strlen(owner) > OWNER_MAX || !json_is_array(list) ||
	    n > KEEPS_MAX)
		return -EINVAL;
	snprintf(k->owner, sizeof(k->owner), "%s", owner);
	k->digests = calloc(n + 1, sizeof(*k->digests));
	if (!k->digests)
		return -ENOMEM;
	for (k->n = 0; k->n < n; k->n++) {
		const char *one = json_string_value(json_array_get(list,
		    k->n));

		if (!one || digest_parse(one, &k->digests[k->n]) < 0)
			return -EINVAL;
	}
	return 0;
}

static void
see_keep(int dir, const char *name)
{
	_cleanup_free_ char *text = NULL;
	struct keep *k = calloc(1, sizeof(*k));
	char hex[DIGEST_TEXT + 1];
	size_t len;
	int r;

	if (!k)
		log_die("no memory for an owner's list");
	snprintf(hex, sizeof(hex), "sha256:%.64s", name);
	if (digest_parse(hex, &k->name) < 0) {
		free(k);
		return;
	}
	r = store_read_text(dir, name, KEEP_FILE_MAX, &text, &len);
	if (r == 0)
		r = keep_parse(text, len, k);
	k->unreadable = r < 0;
	if (r < 0)
		log_err("keeps/%s can't be read: %s; everything is kept until "
		    "its owner sends its list again, or the file is removed "
		    "and the service restarted", name, strerror(-r));
	LIST_INSERT_HEAD(&keeps, k, entry);
	n_keeps++;
}

void
hold_load_all(void)
{
	_cleanup_close_ int dir = store_subdir("keeps", NULL);
	int r = dir < 0 ? dir : store_each(dir, see_keep);

	if (r < 0)
		log_die("read the owners' lists: %s", strerror(-r));
}

static int
keep_write(const struct keep *k)
{
	_cleanup_close_ int dir = store_subdir("keeps", NULL);
	_cleanup_(own_json) json_t *root = json_pack("{s:s, s:[]}", "owner",
	    k->owner, "digests");
	json_t *list = json_object_get(root, "digests");
	_cleanup_free_ char *text = NULL;
	char name[DIGEST_HEX + 8];

	if (dir < 0)
		return dir;
	for (size_t i = 0; list && i < k->n; i++) {
		struct digest_text one = digest_to_text(&k->digests[i]);

		json_array_append_new(list, json_string(one.text));
	}
	text = list && json_array_size(list) == k->n ?
	    json_dumps(root, JSON_INDENT(1)) : NULL;
	if (!text)
		return -ENOMEM;
	snprintf(name, sizeof(name), "%s.json", digest_to_hex(&k->name).text);
	return store_write_text(dir, name, text);
}

static int
keep_remove(const struct keep *k)
{
	_cleanup_close_ int dir = store_subdir("keeps", NULL);
	char name[DIGEST_HEX + 8];
	int r;

	if (dir < 0)
		return dir;
	snprintf(name, sizeof(name), "%s.json", digest_to_hex(&k->name).text);
	r = disk_unlink(dir, name);
	return r < 0 ? r : disk_sync_dir(dir);
}

/* ---- requests ---- */

static void
done(struct ipc_link *link, uint64_t id)
{
	Suite__Done m = SUITE__DONE__INIT;

	room_changed();

	ipc_send(link, id, SUITE_BODY(DONE), &m, NULL, 0, -1);
}

static struct keep *
keep_of(const char *owner)
{
	struct digest name = digest_of(owner, strlen(owner));
	struct keep *k;

	LIST_FOREACH(k, &keeps, entry)
		if (digest_equal(&k->name, &name))
			return k;
	return NULL;
}

/* The list that was asked for, not yet anybody's.  NULL: malformed. */
static struct keep *
keep_asked(const Suite__Keep *m)
{
	struct keep *k = calloc(1, sizeof(*k));

	if (k)
		k->digests = calloc(m->n_digests + 1, sizeof(*k->digests));
	if (!k || !k->digests)
		log_die("no memory for an owner's list");
	snprintf(k->owner, sizeof(k->owner), "%s", m->owner);
	k->name = digest_of(k->owner, strlen(k->owner));
	for (; k->n < m->n_digests; k->n++)
		if (digest_from_bytes(m->digests[k->n].data,
		    m->digests[k->n].len, &k->digests[k->n]) < 0) {
			free(k->digests);
			free(k);
			return NULL;
		}
	return k;
}

void
on_keep(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Keep *m = msg->body;
	struct keep *old = keep_of(m->owner), *k;
	int r;

	(void)owner;
	k = strlen(m->owner) <= OWNER_MAX && m->n_digests <= KEEPS_MAX &&
	    (old || n_keeps < OWNERS_MAX) ? keep_asked(m) : NULL;
	if (!k) {
		reply_failed(msg->id, CTL_CODE(BAD_REQUEST), false, "an owner "
		    "keeps at most %d images, by 32-byte digests, and there "
		    "are at most %d owners", KEEPS_MAX, OWNERS_MAX);
		return;
	}
	r = k->n > 0 ? keep_write(k) : keep_remove(k);
	if (r < 0) {
		reply_failed(msg->id, CTL_CODE(INTERNAL), true, "the list "
		    "can't be written down: %s; the former one stands",
		    strerror(-r));
		free(k->digests);
		free(k);
		return;
	}
	if (k->n > 0) {
		LIST_INSERT_HEAD(&keeps, k, entry);
		n_keeps++;
	} else {
		free(k->digests);
		free(k);
	}
	if (old) {
		LIST_REMOVE(old, entry);
		n_keeps--;
		free(old->digests);
		free(old);
	}
	done(link, msg->id);
}

void
on_pin(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	const Suite__Pin *m = msg->body;
	struct image *image = image_named(m->image);
	int r;

	(void)owner;
	if (!image) {
		reply_failed(msg->id, CTL_CODE(BLOB_ABSENT), false, "no image "
		    "%s is known here; attach or pull it first", m->image);
		return;
	}
	r = image_pin(image, m->pin);
	if (r < 0)
		reply_failed(msg->id, CTL_CODE(INTERNAL), true, "that it is "
		    "%spinned can't be written down: %s", m->pin ? "" : "un",
		    strerror(-r));
	else
		done(link, msg->id);
}
