/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shedpack in sections by file: main.c reads the command line, index.c,
 * inspect.c, verify.c and push.c have a command each, layout.c and place.c
 * know OCI image layouts, pass.c reads, bar.c shows progress.  What speaks
 * with a registry is in registry.h.
 *
 * What takes a struct refusal returns 0, or a negative number with the
 * sentence set.  main.c prints it once, when the progress line is gone.
 */
#ifndef SHEDPACK_SHEDPACK_H
#define SHEDPACK_SHEDPACK_H

#include <sys/stat.h>

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "image/index.h"

struct json_t;

/* ---- main.c ---- */

struct arguments {
	char **arg;		/* behind the command's name */
	int n_args;
	const char *output;	/* -o */
	const char *tag, *ca;	/* of push; NULL: none */
	bool json, annotate, insecure;
};

struct refusal {
	char text[1024];	/* a sentence with the remedy */
};

/* Sets the sentence; returns -EINVAL. */
int refuse(struct refusal *why, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* A signal asked to end: whoever works long looks at it and cleans up. */
extern volatile sig_atomic_t interrupted;
int refuse_interrupted(struct refusal *why);

typedef int pack_command(const struct arguments *a, struct refusal *why);

pack_command pack_index, pack_inspect, pack_verify, pack_push;

/* ---- bar.c: on stderr, by shedctl's progress.c and show.c ---- */

struct bar_text {
	char text[24];
};

void bar_begin(const char *doing, const char *name, uint64_t total);
void bar_at(uint64_t current);		/* bytes */
void bar_done(void);			/* all of them */
void bar_exists(const char *name, uint64_t size);	/* nothing to do */
void bar_end(void);			/* before anything else is printed */
/* A line on stderr that is no failure. */
void bar_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The failure's line. */
void bar_refusal(const struct refusal *why);
/* "12.3 MiB" */
struct bar_text bar_size(uint64_t bytes);

/* ---- pass.c: a file read once, for several that look at each byte ---- */

struct source {
	const char *path;	/* the caller's */
	int fd;
	struct stat st;		/* as it was when it was opened */
};

/* Read-only, and a regular file. */
int source_open(const char *path, struct source *out, struct refusal *why);
/* Refuses a file that was changed since. */
int source_unchanged(const struct source *s, struct refusal *why);
void source_done(struct source *s);

/* All bytes in order, each piece but the last a multiple of PASS_BLOCK long.
 * Called on a thread of its own. */
struct looker {
	int (*look)(void *arg, const uint8_t *bytes, size_t len,
	    uint64_t offset, struct refusal *why);
	void *arg;
};
#define PASS_BLOCK	4096
#define PASS_LOOKERS	2

/* The first `size` bytes of the file, with progress: `doing` its name. */
int pass_run(const struct source *s, uint64_t size, const char *doing,
    const struct looker *lookers, unsigned n, struct refusal *why);

/* A looker that computes the digest: `arg` is a struct digest_stream. */
int pass_digest(void *arg, const uint8_t *bytes, size_t len, uint64_t offset,
    struct refusal *why);

/* ---- layout.c: an OCI image layout that holds one artifact of ours ---- */

#define LAYOUT_FILE	"oci-layout"
#define LAYOUT_BLOBS	"blobs/sha256"
#define LAYOUT_INDEX	"index"		/* the bare chunk index */
#define LAYOUT_REF	"chunks"	/* the artifact's name in it */

struct layout_blob {
	struct digest digest;
	uint64_t size;		/* bytes */
};

struct layout {
	const char *path;	/* the caller's */
	int dir, blobs;		/* directories; -1 for a bare index */
	struct json_t *manifest;	/* the artifact's, or NULL */
	struct digest digest;	/* of its bytes */
	struct layout_blob *all;	/* its config, then its layers */
	unsigned n_all;
	char *bytes;		/* of the chunk index */
	size_t len;
	struct digest index_digest;
	struct index index;
};
#define LAYOUT_NONE	((struct layout){ .dir = -1, .blobs = -1 })

/* Of a directory; its manifests and the index are checked by their digests,
 * and each blob is there in its size. */
int layout_open(const char *path, struct layout *out, struct refusal *why);
/* Of a bare index. */
int layout_open_file(const char *path, struct layout *out,
    struct refusal *why);
/* A blob's file, checked for its size.  *fd is the caller's. */
int layout_blob_open(const struct layout *l, const struct layout_blob *b,
    int *fd, struct refusal *why);
void layout_done(struct layout *l);

/* ---- place.c: a new layout, there as a whole or not at all ---- */

struct place {
	char *final;		/* where it will be */
	char *temporary;	/* beside it; NULL: nothing was made */
	int dir;		/* of temporary */
};
#define PLACE_NONE	((struct place){ .dir = -1 })

/* DIR is empty or not there. */
int place_begin(const char *dir, struct place *out, struct refusal *why);
/* A new file below; its directory is there. */
int place_file(const struct place *p, const char *name, const void *bytes,
    size_t len, struct refusal *why);
int place_blob(const struct place *p, const void *bytes, size_t len,
    struct digest *digest, struct refusal *why);
/* The source's bytes, shared with it where the file system can. */
int place_source(const struct place *p, const struct source *s,
    const struct digest *digest, struct refusal *why);
/* Durable, and renamed into its place. */
int place_commit(struct place *p, struct refusal *why);
/* Removes what was not committed. */
void place_done(struct place *p);

/* ---- artifact.c: the JSON documents (pure) ---- */

#define TYPE_OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define TYPE_OCI_INDEX	"application/vnd.oci.image.index.v1+json"
#define TYPE_OCI_EMPTY	"application/vnd.oci.empty.v1+json"
#define TYPE_DOCKER_MANIFEST \
	"application/vnd.docker.distribution.manifest.v2+json"
#define TYPE_DOCKER_LIST \
	"application/vnd.docker.distribution.manifest.list.v2+json"
#define ARTIFACT_CONFIG	"{}"		/* the empty config blob */

/* Each returns a document's text (caller frees), or NULL without memory. */

/* The manifest that names a chunk index and the erofs it is of. */
char *artifact_manifest(const struct layout_blob *index,
    const struct layout_blob *erofs);
/* The layout's index.json. */
char *artifact_index_json(const struct layout_blob *manifest);
/* The artifact's manifest with its subject: a manifest of that media type. */
char *artifact_with_subject(const struct json_t *manifest, const char *type,
    const struct layout_blob *subject);
/* The referrers index `old` (NULL: none) with the artifact in it, and without
 * `gone` (may be NULL).  -EINVAL: `old` is no such index. */
int artifact_referrers(const struct json_t *old,
    const struct layout_blob *artifact, const struct digest *gone,
    char **text);
/* The image's manifest with the index in its annotations; everything else as
 * it was, in its order.  *same: they had it.  -EINVAL: it has annotations that
 * are no object. */
int artifact_annotate(const struct json_t *image, const struct digest *index,
    char **text, bool *same);

#endif
