// SPDX-License-Identifier: Apache-2.0
/* Reads the log of a dm-log-writes device, and cuts it: see logwrites.h. */
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "tests/store/logwrites.h"

#define MAGIC		UINT64_C(0x6a736677736872)
#define VERSION_OF_LOG	1
#define ENTRIES_MAX	(1u << 22)
#define BLOCK		4096	/* what a disk writes at once, or not */

struct super {
	uint64_t magic, version, nr_entries;
	uint32_t sectorsize;
};

struct entry {	/* a sector, with a mark's text; then nr_sectors of data */
	uint64_t sector, nr_sectors, flags, data_len;
};

/* ---- reading ---- */

static int
entry_read(struct logwrites *l, uint64_t at, uint32_t sector,
    struct logwrites_entry *out)
{
	uint8_t buf[512];
	struct entry e;
	size_t len;

	if (fd_pread_all(l->fd, buf, sizeof(buf), at) != sizeof(buf))
		return -EINVAL;
	memcpy(&e, buf, sizeof(e));
	out->flags = le64toh(e.flags);
	out->offset = le64toh(e.sector) * sector;
	out->len = le64toh(e.nr_sectors) * sector;
	out->at = at + sector;
	/* A flush with data comes as two: device-mapper splits it. */
	if ((out->flags & LOGWRITES_DISCARD) ||
	    ((out->flags & LOGWRITES_FLUSH) && out->len > 0))
		return -EINVAL;
	if (!(out->flags & LOGWRITES_MARK))
		return 0;
	len = le64toh(e.data_len);
	if (len >= sizeof(out->mark))
		return -EINVAL;
	memcpy(out->mark, buf + sizeof(e), len);
	return 0;
}

int
logwrites_open(int fd, struct logwrites *out)
{
	struct logwrites l = { .fd = fd };
	struct super s;
	uint64_t at;
	int r = 0;

	if (fd_pread_all(fd, &s, sizeof(s), 0) != sizeof(s) ||
	    le64toh(s.magic) != MAGIC || le64toh(s.version) != VERSION_OF_LOG ||
	    le64toh(s.nr_entries) > ENTRIES_MAX || le32toh(s.sectorsize) < 512)
		return -EINVAL;
	l.entries = calloc(le64toh(s.nr_entries) + 1, sizeof(*l.entries));
	if (!l.entries)
		return -ENOMEM;
	at = le32toh(s.sectorsize);
	while (l.n < le64toh(s.nr_entries) && r == 0) {
		struct logwrites_entry *e = &l.entries[l.n++];

		r = entry_read(&l, at, le32toh(s.sectorsize), e);
		at = e->at + e->len;
		l.bytes += e->len;
	}
	if (r < 0)
		logwrites_done(&l);
	else
		*out = l;
	return r;
}

void
logwrites_done(struct logwrites *l)
{
	free(l->entries);
	*l = (struct logwrites){ .fd = -1 };
}

/* ---- applying ---- */

static int
put(const struct logwrites *l, const struct logwrites_entry *e, uint64_t from,
    uint64_t len, uint8_t *image, size_t size)
{
	if (e->offset > size || from + len > size - e->offset)
		return -EINVAL;
	return fd_pread_all(l->fd, image + e->offset + from, len,
	    e->at + from) == (ssize_t)len ? 0 : -EIO;
}

int
logwrites_apply(const struct logwrites *l, size_t from, size_t end,
    uint8_t *image, size_t size)
{
	int r = 0;

	for (size_t i = from; i < end && r == 0; i++)
		r = put(l, &l->entries[i], 0, l->entries[i].len, image, size);
	return r;
}

size_t
logwrites_sure(const struct logwrites *l, size_t cut)
{
	while (cut > 0 && !(l->entries[cut - 1].flags & LOGWRITES_FLUSH))
		cut--;
	return cut;
}

/* ---- chance ---- */

static unsigned
dice(uint64_t *random, unsigned sides)
{
	/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
	uint64_t z = *random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (unsigned)((z ^ (z >> 31)) % sides);
}

static int
tear(const struct logwrites *l, const struct logwrites_entry *e,
    uint64_t *random, uint8_t *image, size_t size)
{
	int r = 0;

	for (uint64_t at = 0; at < e->len && r == 0; at += BLOCK)
		if (dice(random, 2))
			r = put(l, e, at, e->len - at < BLOCK ? e->len - at :
			    BLOCK, image, size);
	return r;
}

int
logwrites_cut(const struct logwrites *l, size_t cut, uint64_t seed,
    uint8_t *image, size_t size, struct logwrites_report *report)
{
	uint64_t random = seed ^ (uint64_t)cut << 32;
	unsigned keep = 1 + dice(&random, 7);	/* of 8 writes, in the mean */
	int r = 0;

	*report = (struct logwrites_report){ 0 };
	for (size_t i = logwrites_sure(l, cut); i < cut && r == 0; i++) {
		const struct logwrites_entry *e = &l->entries[i];
		bool sure = e->flags & LOGWRITES_FUA;
		bool all = sure || seed == LOGWRITES_ALL ||
		    (seed != LOGWRITES_NONE && dice(&random, 8) < keep);
		bool some = !all && seed != LOGWRITES_NONE &&
		    e->len > BLOCK && dice(&random, 3) == 0;

		if (all)
			r = put(l, e, 0, e->len, image, size);
		else if (some)
			r = tear(l, e, &random, image, size);
		if (sure || e->len == 0)
			continue;
		report->writes++;
		report->kept += all;
		report->torn += some;
	}
	return r;
}
