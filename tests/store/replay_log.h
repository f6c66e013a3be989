/* SPDX-License-Identifier: Apache-2.0 */
/* Between replay_log.c, which reads a log, and replay.c, which replays it. */
#ifndef TESTS_STORE_REPLAY_LOG_H
#define TESTS_STORE_REPLAY_LOG_H

#include "tests/store/replay.h"

#define NAME_BYTES	256

/* An entry, with numbers of files instead of inode numbers, which come back. */
struct entry {
	const struct record *record;
	size_t node, dir, dir2;
};

struct replay {
	void *map;
	size_t map_len;
	struct entry *entries;
	size_t n_entries, n_nodes;
	uint64_t *inos;		/* by node, while the log is read */
};

/* A record's names, with a NUL, and its data. */
const char *record_name(const struct record *r, char out[NAME_BYTES]);
const char *record_name2(const struct record *r, char out[NAME_BYTES]);
const uint8_t *record_data(const struct record *r);

#endif
