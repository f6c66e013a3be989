/* SPDX-License-Identifier: Apache-2.0 */
/* Between mix.c, which goes on, and mix_ask.c, which asks and judges. */
#ifndef TESTS_STORE_MIX_ASK_H
#define TESTS_STORE_MIX_ASK_H

#include "tests/store/mix.h"

/* ---- mix.c ---- */

struct mix_image {
	const struct reg_image *image;
	uint32_t rung;
	double detached;	/* when a device of it was, last */
	bool wronged;		/* the registry was told to send wrong bytes */
};

extern struct mix_image mix_images[MIX_IMAGES];

double mix_now(void);	/* seconds, monotonic */
/* An attach was answered: a device, if there is a place for one more. */
void mix_attach(struct mix_image *image, const struct host_answer *a);

/* ---- mix_ask.c ---- */

enum what { ATTACH, PULL, PLAIN, GC, PIN, KEEP, VERIFY, IMPORT, PROMOTE, DROP,
	DF, WHATS };

/* Begin a request of an image by chance, if not too many are under way. */
void mix_ask(struct mix *mix, enum what what);
/* Judge those that have ended, and those that take too long.  False: none was
 * under way. */
bool mix_asks_turn(void);
/* cached is about to end: their answers will not come. */
void mix_asks_forget(void);
/* Attaches under way, but for those that may wait for room. */
unsigned mix_asks_to_attach(void);

#endif
