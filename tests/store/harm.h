/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Harm to the files of a store while its cached is away: where a test flips
 * bits, by a chance that its seed repeats.
 */
#ifndef TESTS_STORE_HARM_H
#define TESTS_STORE_HARM_H

#include "tests/store/host.h"

/* A number below that; state is the seed, and goes on. */
uint64_t chance(uint64_t *state, uint64_t below);

/* The file in the store's directory dir whose name begins so, writable.  -1:
 * there is none. */
int harm_open(struct host *h, const char *dir, const char *begin);
/* Flip one bit of [from, from+len). */
void harm_bit(int fd, uint64_t from, uint64_t len, uint64_t *state);

struct harmed {
	unsigned chunks;
	uint64_t bytes;		/* of those chunks */
	uint64_t at;		/* one of them, in the file */
};
/* Flip a bit in up to so many chunks that the records of a layout speak of,
 * but in none that a device's map refers to: those are believed. */
struct harmed harm_chunks(struct host *h, const struct digest *layout,
    unsigned want, uint64_t *state);

#endif
