/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of what a cached did to its store: written by disk_record.c, read by
 * replay.c, on one machine and by one build.
 *
 * An entry is a struct record, its two names and its data, and zeros up to a
 * multiple of 8.  The order of the entries is an order in which the operations
 * happened.  A file or directory is named by its inode number; RECORD_CREATE
 * and RECORD_MKDIR say that a number means a new one from here on.
 */
#ifndef TESTS_STORE_RECORD_H
#define TESTS_STORE_RECORD_H

#include <stdint.h>

/* Where cached-recorded finds the log: a number of a descriptor that is open
 * for appending.  And a struct record_fault that it maps, or nothing. */
#define RECORD_ENV	"SHEDSTREAM_TEST_RECORD"
#define RECORD_FAULT_ENV "SHEDSTREAM_TEST_FAULT"

#define RECORD_MAGIC	0x4c474f4cu

enum record_type {
	RECORD_ROOT = 1,	/* dir: the store directory */
	RECORD_CREATE,		/* a new file ino as dir/name */
	RECORD_MKDIR,		/* a new directory ino as dir/name */
	RECORD_WRITE,		/* data at offset of ino; also of a copy */
	RECORD_SIZE,		/* ino has size bytes */
	RECORD_RESERVE,		/* [offset, offset+size) of ino has room */
	RECORD_PUNCH,		/* [offset, offset+size) of ino is zeros */
	RECORD_SYNC,		/* ended: ino's data and size */
	RECORD_SYNC_FAILED,	/* what was not synced may be lost for good */
	RECORD_SYNC_DIR,	/* ended: the names in dir */
	RECORD_RENAME,		/* ino: dir/name is now dir2/name2 */
	RECORD_UNLINK,		/* dir/name, a name of ino, is gone */
	RECORD_RMDIR,		/* dir/name, the directory ino, is gone */
	RECORD_MARK,		/* the test's: offset is a number, name a text */
};

struct record {
	uint32_t magic, type;
	uint64_t dir, dir2, ino;
	uint64_t offset, size;
	uint32_t name_len, name2_len;
	uint64_t data_len;
};

/* Look at the environment: done before main(), and again by whoever changes
 * it. */
void record_begin(void);

static inline uint64_t
record_size(const struct record *r)
{
	uint64_t n = sizeof(*r) + r->name_len + r->name2_len + r->data_len;

	return (n + 7) / 8 * 8;
}

/* Shared memory between a test and cached-recorded: failures to order. */
struct record_fault {
	/* So many next syncs of files of at least so many bytes say EIO and
	 * write nothing. */
	_Atomic uint32_t syncs, sync_size;
	_Atomic uint32_t full;		/* not 0: no room, nothing is kept */
	/* Lies, where not 0: a sync of a file of so many bytes or more, or of
	 * any directory, does nothing and says that it did. */
	_Atomic uint32_t skip_sync, skip_sync_dir;
	/* So many ms are both of its clocks ahead of ours, which costs a test of
	 * hours no time.  Timers that were set before go off when they would
	 * have. */
	_Atomic uint64_t ahead_ms;
	/* Not 0: from that moment of ours (monotonic us) on they run so many times
	 * as fast, and timers that are set go off so much sooner, but in 1 ms at
	 * the soonest.  Set once. */
	_Atomic uint64_t fast_since_us;
	_Atomic uint64_t fast;
};

/* NULL: there is none. */
const struct record_fault *record_faults(void);

#endif
