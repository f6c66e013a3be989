// SPDX-License-Identifier: Apache-2.0
/*
 * The catalogue: which recorded chunk lies in which file, by SHA-256, for all
 * layouts of the store, open or not.  An entry is ten bytes: 32 bits of the
 * digest, the file's number and the chunk's.  That is a hint: the presence
 * record is read before an entry is believed, and the bytes are hashed before
 * they are served.  Open addressing; an entry's home follows from its 32 bits,
 * in the order of the table, so that growing and removing need nothing else.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

#define FIRST_SIZE	4096	/* entries; a power of two */

struct entry {
	uint32_t print;		/* first four bytes of the digest */
	uint32_t chunk;
	uint16_t file;		/* 0: free */
} __attribute__((packed));

static struct entry *table;
static uint64_t size, count;

static uint32_t
print_of(const struct digest *sum)
{
	uint32_t print;

	memcpy(&print, sum->bytes, sizeof(print));
	return print;
}

static uint64_t
home_of(uint32_t print)
{
	return (uint64_t)print * size >> 32;
}

static void
insert(struct entry e)
{
	uint64_t at = home_of(e.print);

	while (table[at].file != 0)
		at = (at + 1) & (size - 1);
	table[at] = e;
}

static void
grow(void)
{
	struct entry *old = table;
	uint64_t old_size = size;

	size = size ? size * 2 : FIRST_SIZE;
	table = calloc(size, sizeof(*table));
	if (!table)
		log_die("no memory for the catalogue");
	for (uint64_t i = 0; i < old_size; i++)
		if (old[i].file != 0)
			insert(old[i]);
	free(old);
}

void
catalog_add(const struct digest *sum, const struct file *f, uint32_t chunk)
{
	if (count >= size / 8 * 7)
		grow();
	insert((struct entry){ print_of(sum), chunk, f->number });
	count++;
}

/* Close the gap: what stands behind it and may stand before moves up. */
static void
take_out(uint64_t gap)
{
	uint64_t at = gap;

	for (;;) {
		uint64_t home;

		at = (at + 1) & (size - 1);
		if (table[at].file == 0)
			break;
		home = home_of(table[at].print);
		if (((at - home) & (size - 1)) < ((at - gap) & (size - 1)))
			continue;	/* its home lies behind the gap */
		table[gap] = table[at];
		gap = at;
	}
	table[gap].file = 0;
	count--;
}

void
catalog_remove(const struct digest *sum, const struct file *f, uint32_t chunk)
{
	uint32_t print = print_of(sum);

	for (uint64_t at = home_of(print); size && table[at].file != 0;
	    at = (at + 1) & (size - 1))
		if (table[at].print == print && table[at].chunk == chunk &&
		    table[at].file == f->number) {
			take_out(at);
			return;
		}
}

/* Does the record say the same?  The file is opened for that, if need be. */
static bool
confirm(const struct digest *sum, struct file *f, uint32_t chunk)
{
	struct presence_record r;
	bool fits;

	if (chunk >= f->h.n_chunks || file_hold(f) < 0)
		return false;
	fits = file_state(f, chunk) != CHUNK_ABSENT &&
	    file_record(f, chunk, &r) && digest_equal(&r.sum, sum);
	file_put(f);
	return fits;
}

bool
catalog_find(const struct digest *sum, const struct file *own,
    struct file **f, uint32_t *chunk)
{
	uint32_t print = print_of(sum);

	for (uint64_t at = home_of(print); size && table[at].file != 0;
	    at = (at + 1) & (size - 1)) {
		struct file *g = table[at].print == print ?
		    file_by_number(table[at].file) : NULL;

		if (!g || g == own || (own && own->complete &&
		    !file_leans_on(own, g)) ||
		    !confirm(sum, g, table[at].chunk))
			continue;
		*f = g;
		*chunk = table[at].chunk;
		return true;
	}
	return false;
}

uint64_t
catalog_bytes(void)
{
	return size * sizeof(*table);
}
