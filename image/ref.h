/* SPDX-License-Identifier: Apache-2.0 */
/* Names of images: HOST[:PORT]/REPO[:TAG|@sha256:HEX], or sha256:HEX. */
#ifndef IMAGE_REF_H
#define IMAGE_REF_H

#include <stdbool.h>

#include "base/digest.h"

#define REF_HOST_MAX	255	/* DNS name and port */
#define REF_REPO_MAX	255	/* distribution spec: with the host <= 255 */
#define REF_TAG_MAX	128	/* distribution spec */
#define REF_TEXT_MAX	(REF_HOST_MAX + REF_REPO_MAX + REF_TAG_MAX)

struct image_ref {
	char host[REF_HOST_MAX + 1];	/* "" for a bare digest */
	char repo[REF_REPO_MAX + 1];
	char tag[REF_TAG_MAX + 1];	/* "" with a digest; else "latest" */
	bool has_digest;
	struct digest digest;
};

/* 0, or -EINVAL with *why the reason, a phrase. */
int image_ref_parse(const char *text, struct image_ref *out,
    const char **why);

#endif
