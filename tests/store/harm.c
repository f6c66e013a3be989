// SPDX-License-Identifier: Apache-2.0
/* Harm to a store: see harm.h. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "tests/store/harm.h"

#define HEADER	4096	/* of a presence file (docs/FORMATS.md); then */
#define RECORD	64	/* records: the chunk's offset at 32, length at 44 */
#define RECORDS_MAX 1024

uint64_t
chance(uint64_t *state, uint64_t below)
{
	/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

int
harm_open(struct host *h, const char *dir, const char *begin)
{
	int fd = openat(h->store, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	fd = -1;
	while (d && fd < 0 && (e = readdir(d)))
		if (strncmp(e->d_name, begin, strlen(begin)) == 0)
			fd = openat(dirfd(d), e->d_name, O_RDWR | O_CLOEXEC);
	if (d)
		closedir(d);
	return fd;
}

void
harm_bit(int fd, uint64_t from, uint64_t len, uint64_t *state)
{
	uint64_t at = from + chance(state, len);
	uint8_t byte;

	if (fd_pread_all(fd, &byte, 1, at) != 1)
		abort();
	byte ^= (uint8_t)(1 << chance(state, 8));
	if (fd_pwrite_all(fd, &byte, 1, at) < 0)
		abort();
}

static bool
maps_it(const struct host_device *dev, ino_t file, uint64_t offset,
    uint64_t len)
{
	uint64_t n = map_units(dev->spec.size, dev->spec.unit), at;
	bool its[MAP_SLOTS];
	uint32_t slot;
	struct stat st;

	for (slot = 0; slot < MAP_SLOTS; slot++)
		its[slot] = dev->slots[slot] >= 0 &&
		    fstat(dev->slots[slot], &st) == 0 && st.st_ino == file;
	for (uint64_t u = 0; u < n; u++)
		if (map_location(atomic_load(&dev->map->words[u]), &slot,
		    &at) && slot < MAP_SLOTS && its[slot] &&
		    at < offset + len && at + dev->spec.unit > offset)
			return true;
	return false;
}

static bool
mapped(const struct host *h, ino_t file, uint64_t offset, uint64_t len)
{
	const struct host_device *dev;

	TAILQ_FOREACH(dev, &h->devices, entry)
		if (maps_it(dev, file, offset, len))
			return true;
	return false;
}

struct harmed
harm_chunks(struct host *h, const struct digest *layout, unsigned want,
    uint64_t *state)
{
	static uint8_t records[RECORDS_MAX * RECORD];
	char dir[DIGEST_HEX + 16];
	_cleanup_close_ int presence = -1, data = -1;
	struct harmed harmed = { 0 };
	struct stat st;
	ssize_t n;

	snprintf(dir, sizeof(dir), "layouts/%s", digest_to_hex(layout).text);
	presence = harm_open(h, dir, "presence.");
	data = harm_open(h, dir, "data.");
	n = fd_pread_all(presence, records, sizeof(records), HEADER);
	if (data < 0 || n < RECORD || fstat(data, &st) < 0)
		return harmed;
	for (unsigned i = 0; harmed.chunks < want && i < 4 * want; i++) {
		uint8_t *r = records + chance(state, (uint64_t)n / RECORD) *
		    RECORD;
		uint64_t offset;
		uint32_t len;

		memcpy(&offset, r + 32, sizeof(offset));
		memcpy(&len, r + 44, sizeof(len));
		if (len == 0 || offset + len > (uint64_t)st.st_size ||
		    mapped(h, st.st_ino, offset, len))
			continue;
		harm_bit(data, offset, len, state);
		memset(r, 0, RECORD);	/* each only once */
		harmed.chunks++;
		harmed.bytes += len;
		harmed.at = offset;
	}
	return harmed;
}
