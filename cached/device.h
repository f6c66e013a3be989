/* SPDX-License-Identifier: Apache-2.0 */
/* A device, between device.c (its reads, its link, its life) and map.c (where
 * its units lie). */
#ifndef CACHED_DEVICE_H
#define CACHED_DEVICE_H

#include "cached/cached.h"

#define LANES		2	/* of a scratch object */

struct want;
TAILQ_HEAD(wants, want);

struct device {
	TAILQ_ENTRY(device) entry;	/* of its layout */
	struct device_spec spec;
	struct layout *layout;
	struct map *map;
	struct file *slots[MAP_SLOTS];	/* referenced; NULL: none */
	struct ipc_link *link;		/* to its worker; NULL while away */
	struct wants wants, lane_queue, blocked;
	unsigned n_wants;
	uint8_t *scratch;
	size_t lane_size;
	struct want *lanes[LANES];
	bool lane_used[LANES];
	uint64_t adopt_next;
	struct ahead ahead;
};

/* ---- map.c ---- */

/* May its words say anything?  Not of rung whole before all of it is here. */
bool map_may_publish(const struct device *dev);
/* An extent's verified bytes, or zeros.  False: they can't be in the map. */
bool map_publish(struct device *dev, const struct extent *e);
/* Its link is new: the store files that its words refer to. */
void map_send_files(struct device *dev);
/* The files that the words of a former cached point into.  Words that speak of
 * one that is not in the store any more mean nothing now. */
void map_claim(struct device *dev);
/* What it could read without a word to us was of use until now. */
void map_touch(struct device *dev);
/* Unmap it, let go of its files. */
void map_done(struct device *dev);
/* The device can't be served, so that nothing protects what the map points to:
 * empty it, unmap it. */
void map_clear(struct map *map, const struct device_spec *spec);

#endif
