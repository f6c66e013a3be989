/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a power cut may leave of a store: from the log of record.h, a place in
 * it and a seed, a directory tree that a file system could show afterwards.
 *
 * What is certain is what completed syncs cover; everything else was kept or
 * lost, as the seed says, within this:
 *
 *   data	Each block of 4 KiB shows the file as it was after any one of the
 *		writes to it since its last covered state, the next block after
 *		any other; a torn block shows two such states, split between
 *		sectors of 512 bytes.  Never a later write of a sector without an
 *		earlier one of it: the page cache has both.  A hole punched, and
 *		what a smaller size cut off, are writes of zeros.
 *   size	Any that the file had since; what was written past it is gone,
 *		what was not written before it is zeros.
 *   cover	disk_sync() of a file covers its data and size, and no name: a
 *		new file's name may be lost although its data were synced.
 *		A sync that failed leaves what it should have written to chance
 *		for good (Linux marks the pages clean), until it is written anew.
 *   names	disk_sync_dir() covers the names in that directory, not those
 *		below.  Uncovered ones are kept or lost each on its own: made
 *		(files, directories), removed, or moved within a directory, which
 *		is one act.  A move between directories is two acts, each covered
 *		in its directory; a file may show up under both names, but not
 *		under neither: the old name goes only where the new one stands.
 *		A removal without a sync may come back.  A directory that was
 *		lost takes all below it along.
 *
 * Seed REPLAY_ALL keeps everything (what a kill leaves), REPLAY_NONE nothing
 * uncovered; every other seed picks a manner for data and one for names (all,
 * none, each by chance, or all before some moment), and then throws its dice.
 */
#ifndef TESTS_STORE_REPLAY_H
#define TESTS_STORE_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "tests/store/record.h"

#define REPLAY_ALL	0
#define REPLAY_NONE	1

struct replay;

/* All of the log as it is now; it may grow meanwhile.  A log that makes no
 * sense ends the program: something changed the store past disk.h. */
struct replay *replay_open(int log_fd);
void replay_free(struct replay *r);

/* Entries: a cut stands before entry 0..length. */
size_t replay_length(const struct replay *r);
const struct record *replay_entry(const struct replay *r, size_t i);
/* The number of the last RECORD_MARK before the cut; 0: none. */
uint64_t replay_mark(const struct replay *r, size_t cut);

struct replay_report {
	size_t blocks, blocks_kept;	/* uncovered: of which some state is new */
	size_t names, names_kept;
};
/* Build the tree in an empty directory, for that user (-1: the caller's). */
struct replay_report replay_build(const struct replay *r, size_t cut,
    uint64_t seed, int dirfd, uid_t owner);

/* Entries [first, end) as text, a line each. */
void replay_print(const struct replay *r, size_t first, size_t end, FILE *to);

#endif
