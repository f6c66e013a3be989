/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of a dm-log-writes device, and what a power cut may leave of the disk
 * that it was kept of.  The format is the kernel's
 * (Documentation/admin-guide/device-mapper/log-writes.rst, dm-log-writes.c):
 *
 *	super, mark, FUA, mark, write, write, FLUSH, FUA, write, mark, FLUSH ...
 *	             |<---------- epoch ----------->|
 *
 * A write appears right before the first flush that was asked for after its
 * completion, so that flush covers it; a FUA write and a mark appear when they
 * were completed.  Hence, for a cut before entry N:
 *
 *	sure	  all up to the last FLUSH before N, and FUA writes before N
 *	by chance the other writes before N: kept, lost or torn into blocks of
 *		  4 KiB, each on its own, in any combination
 *	not there N and what follows
 */
#ifndef TESTS_STORE_LOGWRITES_H
#define TESTS_STORE_LOGWRITES_H

#include <stddef.h>
#include <stdint.h>

#define LOGWRITES_MARK_MAX 96

enum {	/* flags */
	LOGWRITES_FLUSH = 1,
	LOGWRITES_FUA = 2,
	LOGWRITES_DISCARD = 4,
	LOGWRITES_MARK = 8,
	LOGWRITES_METADATA = 16,	/* as the file system says */
};

struct logwrites_entry {
	uint64_t flags;
	uint64_t offset, len;	/* bytes, of the disk */
	uint64_t at;		/* of its data in the log */
	char mark[LOGWRITES_MARK_MAX];
};

struct logwrites {
	int fd;
	size_t n;
	struct logwrites_entry *entries;
	uint64_t bytes;		/* of data */
};

/* The log on that device, which stays the caller's and open.  0, -EINVAL: no
 * such log, or it has a discard, which this can't cut; or -errno. */
int logwrites_open(int fd, struct logwrites *out);
void logwrites_done(struct logwrites *l);
/* Entries [from, end) onto the disk's image, all of them.  0 or -errno. */
int logwrites_apply(const struct logwrites *l, size_t from, size_t end,
    uint8_t *image, size_t size);
/* The number of entries before the cut that are sure as a whole. */
size_t logwrites_sure(const struct logwrites *l, size_t cut);

#define LOGWRITES_ALL	0	/* seeds: every write by chance is kept, */
#define LOGWRITES_NONE	1	/* or none */

struct logwrites_report {
	size_t writes, kept, torn;	/* by chance; the others were lost */
};
/* The rest of what a cut leaves, onto an image with the sure entries.  0 or
 * -errno. */
int logwrites_cut(const struct logwrites *l, size_t cut, uint64_t seed,
    uint8_t *image, size_t size, struct logwrites_report *report);

#endif
