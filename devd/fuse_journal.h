/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of a device that is presented by FUSE: a memory object that the
 * parent keeps for the device's life and each of its workers maps.  What is
 * written in which order: fuse.c.
 */
#ifndef DEVD_FUSE_JOURNAL_H
#define DEVD_FUSE_JOURNAL_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define FUSE_JOURNAL_VERSION 1	/* of this layout; 0: no worker was here yet */
/* Requests that are not answered.  Once all are reads that wait for the
 * network, nobody else's is read: so many more than FUSE_BACKGROUND that it
 * takes a crowd of direct readers and MADV_RANDOM mappings, which nothing else
 * bounds. */
#define FUSE_SLOTS	2048
/* Bytes of one: 80 of a READ are the most that is looked at, and what is longer
 * loses its tail. */
#define FUSE_SLOT_SIZE	128
/* open(2)s at a time: VMs and tools of one image, and no single process with a
 * usual limit of descriptors can take them all. */
#define FUSE_OPENS	8192

/* A request as read(2) wrote it. */
struct fuse_slot {
	_Atomic uint32_t len;	/* the first field of its header; 0: free */
	uint8_t rest[FUSE_SLOT_SIZE - sizeof(uint32_t)];
};

struct fuse_journal {
	uint32_t version;
	uint32_t minor, flags;	/* what INIT settled; 0 before */
	uint32_t reserved;
	/* The `unique` of each OPEN whose RELEASE did not come yet, which is
	 * its handle; 0: free. */
	_Atomic uint64_t opens[FUSE_OPENS];
	uint8_t pad[4096 - 16 - FUSE_OPENS * sizeof(uint64_t) % 4096];
	struct fuse_slot slots[FUSE_SLOTS];
};

#define FUSE_JOURNAL_SIZE	sizeof(struct fuse_journal)

/* A slot lies in one page, and the object ends with one. */
static_assert(sizeof(struct fuse_slot) == FUSE_SLOT_SIZE, "slot");
static_assert(offsetof(struct fuse_journal, slots) % 4096 == 0, "slots");
static_assert(FUSE_JOURNAL_SIZE % 4096 == 0, "journal");

#endif
