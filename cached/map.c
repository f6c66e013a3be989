// SPDX-License-Identifier: Apache-2.0
/*
 * Maps of devices: where each unit of a device lies, in words that its worker
 * reads without a message (ipc/map.h).  Only this file writes them:
 *
 *	absent --publish--> location or zeros --withdraw--> absent
 *
 * What a location names is not punched and not written again (map_mark() tells
 * room.c) until the word is gone.  A map outlives cached: the next one claims
 * it, clears what it can't vouch for, and adopts what has no record yet.
 */
#include <sys/mman.h>

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/device.h"

/* ---- publish ---- */

bool
map_may_publish(const struct device *dev)
{
	return !dev->layout->failed && (dev->spec.rung != CTL_RUNG(WHOLE) ||
	    dev->layout->complete);
}

static void
send_slot(struct device *dev, uint32_t slot)
{
	Suite__StoreFile m = SUITE__STORE_FILE__INIT;
	int copy = fd_duplicate(dev->slots[slot]->data_ro);

	if (copy < 0)
		log_die("duplicate a store file: %s", strerror(-copy));
	m.slot = slot;
	ipc_send(dev->link, 0, SUITE_BODY(STORE_FILE), &m, NULL, 0, copy);
}

/* The slot of a file in a device's map, given now if need be.  -1: none is
 * left, so that its bytes go through the scratch. */
static int
slot_of(struct device *dev, struct file *f)
{
	for (uint32_t i = 0; i < MAP_SLOTS; i++) {
		if (dev->slots[i] == f)
			return (int)i;
		if (dev->map->files[i] != 0)
			continue;
		f->refs++;
		dev->slots[i] = f;
		dev->map->files[i] = f->h.file_id;
		if (dev->link)
			send_slot(dev, i);
		return (int)i;
	}
	return -1;
}

void
map_send_files(struct device *dev)
{
	for (uint32_t i = 0; i < MAP_SLOTS; i++)
		if (dev->slots[i])
			send_slot(dev, i);
}

static void
put_word(struct device *dev, uint64_t unit, uint64_t word)
{
	if (atomic_load(&dev->map->words[unit]) == 0)
		atomic_store_explicit(&dev->map->words[unit], word,
		    memory_order_release);
}

bool
map_publish(struct device *dev, const struct extent *e)
{
	struct layout *l = dev->layout;
	uint32_t unit = dev->spec.unit;
	uint64_t first = e->offset / unit;
	uint64_t end = (e->offset + e->length - 1) / unit + 1, at = 0;
	int slot = 0;

	if (!map_may_publish(dev))
		return false;
	if (e->chunk != NO_CHUNK) {
		struct file *f = layout_place(l, e->chunk).file;

		slot = slot_of(dev, f);
		if (slot < 0)
			return false;
		at = layout_offset(l, e->chunk);
		file_touch(f, at, e->length);
	}
	for (uint64_t u = first; u < end; u++, at += unit)
		put_word(dev, u, e->chunk == NO_CHUNK ? MAP_ZEROS :
		    map_word((uint32_t)slot, at));
	return true;
}

void
map_publish_chunk(struct layout *l, uint32_t chunk)
{
	struct extent home = { layout_home(l, chunk), layout_len(l, chunk),
		chunk };
	struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		map_publish(dev, &home);
}

/* ---- withdraw, mark ---- */

/* Every word of a device that points into a file. */
static void
each_word(struct device *dev, const struct file *f,
    void (*each)(_Atomic uint64_t *word, uint64_t offset, uint32_t unit,
    void *arg), void *arg)
{
	uint64_t n = map_units(dev->spec.size, dev->spec.unit);
	uint32_t slot, in;
	uint64_t offset;

	for (slot = 0; slot < MAP_SLOTS && dev->slots[slot] != f; slot++)
		;
	for (uint64_t u = 0; slot < MAP_SLOTS && u < n; u++)
		if (map_location(atomic_load_explicit(&dev->map->words[u],
		    memory_order_relaxed), &in, &offset) && in == slot)
			each(&dev->map->words[u], offset, dev->spec.unit, arg);
}

static void
each_device_word(const struct file *f, void (*each)(_Atomic uint64_t *word,
    uint64_t offset, uint32_t unit, void *arg), void *arg)
{
	struct layout *l;
	struct device *dev;

	TAILQ_FOREACH(l, &layouts, entry)
		TAILQ_FOREACH(dev, &l->devices, entry)
			each_word(dev, f, each, arg);
}

static void
withdraw(_Atomic uint64_t *word, uint64_t offset, uint32_t unit, void *arg)
{
	const uint8_t *blocks = arg;

	for (uint64_t b = offset / MAP_BLOCK; b < (offset + unit) / MAP_BLOCK;
	    b++)
		if (blocks[b / 8] & 1 << b % 8)
			atomic_store(word, 0);
}

void
map_withdraw(const struct file *f, uint8_t *blocks)
{
	each_device_word(f, withdraw, blocks);
}

static void
mark(_Atomic uint64_t *word, uint64_t offset, uint32_t unit, void *arg)
{
	uint8_t *blocks = arg;

	(void)word;
	for (uint64_t b = offset / MAP_BLOCK; b < (offset + unit) / MAP_BLOCK;
	    b++)
		blocks[b / 8] |= (uint8_t)(1 << b % 8);
}

void
map_mark(const struct file *f, uint8_t *blocks)
{
	each_device_word(f, mark, blocks);
}

/* ---- what a former cached published ---- */

static void
clear_if_unrecorded(_Atomic uint64_t *word, uint64_t offset, uint32_t unit,
    void *arg)
{
	const uint8_t *blocks = arg;
	uint64_t b = offset / MAP_BLOCK;

	(void)unit;
	if (!(blocks[b / 8] & 1 << b % 8))
		atomic_store(word, 0);
}

/* In another layout's file only what is recorded is protected and checked:
 * bytes without a record were never synced, and their words go. */
static void
claim_recorded(struct device *dev, const struct file *f)
{
	_cleanup_free_ uint8_t *blocks = calloc(1, f->h.size / MAP_BLOCK / 8 +
	    4);

	if (!blocks)
		log_die("no memory to claim a map");
	for (uint32_t c = 0; c < f->h.n_chunks; c++)
		if (file_state(f, c) != CHUNK_ABSENT)
			file_mark(f, c, blocks);
	each_word(dev, f, clear_if_unrecorded, blocks);
}

void
map_claim(struct device *dev)
{
	struct map *map = dev->map;
	uint64_t n = map_units(dev->spec.size, dev->spec.unit), offset;
	uint32_t slot;

	for (slot = 0; slot < MAP_SLOTS && map->files[slot] != 0; slot++) {
		struct file *f = file_by_id(map->files[slot]);

		if (f && file_hold(f) == 0)
			dev->slots[slot] = f;
	}
	for (uint64_t u = 0; map->files[0] != 0 && u < n; u++)
		if (map_location(atomic_load(&map->words[u]), &slot,
		    &offset) && (slot >= MAP_SLOTS || !dev->slots[slot] ||
		    offset >= dev->slots[slot]->h.size))
			atomic_store(&map->words[u], 0);
	for (slot = 0; slot < MAP_SLOTS; slot++)
		if (dev->slots[slot] && dev->slots[slot] != dev->layout->file)
			claim_recorded(dev, dev->slots[slot]);
}

bool
map_adopts(const struct layout *l)
{
	const struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		if (dev->adopt_next < map_units(l->size, l->unit))
			return true;
	return false;
}

/* The own chunk that a word of a former cached speaks of; NO_CHUNK: none that
 * is unknown here. */
static uint32_t
word_chunk(struct device *dev, uint64_t unit)
{
	struct layout *l = dev->layout;
	uint64_t offset, at = unit * dev->spec.unit;
	struct extent e;
	uint32_t slot;

	if (!map_location(atomic_load(&dev->map->words[unit]), &slot,
	    &offset) || slot >= MAP_SLOTS || dev->slots[slot] != l->file)
		return NO_CHUNK;
	e = layout_extent(l, at);
	if (e.chunk == NO_CHUNK || offset != layout_home(l, e.chunk) +
	    (at - e.offset) || layout_state(l, e.chunk) != CHUNK_ABSENT)
		return NO_CHUNK;
	return e.chunk;
}

void
map_adopt_more(struct layout *l)
{
	uint64_t n = map_units(l->size, l->unit);
	struct device *dev;

	TAILQ_FOREACH(dev, &l->devices, entry)
		while (dev->adopt_next < n) {
			uint32_t chunk = word_chunk(dev, dev->adopt_next++);

			if (chunk == NO_CHUNK || l->fills[chunk])
				continue;
			l->file->spots[chunk] = (struct spot){ (uint32_t)
			    (layout_home(l, chunk) / MAP_BLOCK),
			    layout_len(l, chunk) };
			file_set(l->file, chunk, CHUNK_RECORDED);
			if (fill_adopt(l, chunk) > 0)
				return;	/* one at a time; its end comes here */
		}
}

/* ---- its use, its end ---- */

void
map_touch(struct device *dev)
{
	uint64_t n = map_units(dev->spec.size, dev->spec.unit), offset;
	uint32_t slot;

	for (uint64_t u = 0; u < n; u++)
		if (map_location(atomic_load(&dev->map->words[u]), &slot,
		    &offset) && slot < MAP_SLOTS && dev->slots[slot])
			file_touch(dev->slots[slot], offset, 1);
}

void
map_touch_all(void)
{
	struct layout *l;
	struct device *dev;

	TAILQ_FOREACH(l, &layouts, entry)
		TAILQ_FOREACH(dev, &l->devices, entry)
			map_touch(dev);
}

void
map_done(struct device *dev)
{
	munmap(dev->map, map_size(dev->spec.size, dev->spec.unit));
	for (uint32_t i = 0; i < MAP_SLOTS; i++)
		file_put(dev->slots[i]);
}

void
map_clear(struct map *map, const struct device_spec *spec)
{
	for (uint64_t u = 0; u < map_units(spec->size, spec->unit); u++)
		atomic_store(&map->words[u], 0);
	munmap(map, map_size(spec->size, spec->unit));
}
