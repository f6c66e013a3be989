/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A life of a store by chance: images are attached, read, pulled, detached,
 * pinned, dropped, imported and promoted, room becomes scarce, cached is
 * stopped and killed.  The seed decides; time is the machine's own.
 *
 * It keeps account of promises: an image that was announced as network-free is
 * promised until something is begun that may take a part of it away.
 */
#ifndef TESTS_STORE_WALK_H
#define TESTS_STORE_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/store/host.h"

#define WALK_IMAGES	6

#define WALK_QUOTA(size) "[store]\nmin-free = 0\nscrub = no\nquota = " size \
		"\n[trust]\nintegrity = transport\n[prefetch]\ncomplete = never\n"
#define WALK_CONF	WALK_QUOTA("0")

struct walk_image {
	const struct reg_image *image;
	uint32_t rung;		/* as which it is opened */
	struct host_device *dev;	/* NULL: not attached */
	bool known, pinned, promised;
};

struct walk {
	struct host *h;
	uint64_t random;
	bool scarce;		/* of room: there is a quota */
	struct walk_image images[WALK_IMAGES];
	/* Told when a step begins and when a promise is given or released, with
	 * all promises (bits, by image): before anything is done about it. */
	void (*tell)(uint64_t promised, const char *text);
};

/* The images, always the same ones. */
struct reg *walk_registry(struct walk_image images[WALK_IMAGES]);
/* So many steps of a running cached; it runs at the end, too. */
void walk(struct walk *w, unsigned steps);

#endif
