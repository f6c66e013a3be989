// SPDX-License-Identifier: Apache-2.0
/*
 * Readahead.  What a device reads from its map is not seen here, only what it
 * misses; so of what is asked for ahead one chunk is marked: it is kept but not
 * published, and the read that comes to it tells that a reader is there.
 *
 *	stream:   |--was read--|next|--asked for-----[mark]--------|end
 *	                             a read at the mark: twice as much
 *
 * A window begins where two reads follow another one, or a large one does (a
 * random reader comes near himself now and then), doubles when half of it is
 * read, up to the device's most, which shrinks when a stream is given
 * up before its mark was read.  (A guest's kernel reads ahead by itself, Linux
 * 7.x up to 8 MiB; those are large reads here, and the same stream.)
 */
#include "cached/cached.h"

#define WINDOW_FIRST	(128 * 1024)	/* bytes */
#define WINDOW_LEAST	(256 * 1024)	/* the least `most` */
#define WINDOW_MAX	(32 * 1024 * 1024)	/* 100 ms at 1 Gbit/s, twice */
#define NEAR		(128 * 1024)	/* reads of one stream overtake each other */
#define FOLLOW_LEAST	2	/* reads that follow, before it is a stream */
#define FOLLOW_LARGE	(128 * 1024)	/* a read of so much counts for them all */

static uint64_t
minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Does a read there go on with it? */
static bool
follows(const struct stream *s, uint64_t offset)
{
	return offset >= minus(s->next, NEAR) && offset <= s->end + NEAR;
}

static struct stream *
stream_of(struct ahead *a, uint64_t offset)
{
	struct stream *oldest = &a->streams[0];

	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &a->streams[i];

		if (s->used && follows(s, offset))
			return s;
		if (s->used < oldest->used)
			oldest = s;
	}
	/* What was asked for in vain was too much. */
	if (oldest->end > oldest->next && a->most / 2 >= WINDOW_LEAST)
		a->most /= 2;
	*oldest = (struct stream){ .next = offset, .end = offset };
	return oldest;
}

/* Ask for what is absent in [from, to), marked in its middle; no further than
 * what is present.  Where it ended. */
static uint64_t
ask(struct layout *l, uint64_t from, uint64_t to)
{
	uint64_t middle = from + (to - from) / 2;
	bool marked = false;

	while (from < to) {
		struct extent e = layout_extent(l, from);
		bool mark = !marked && e.offset + e.length > middle;

		if (e.chunk != NO_CHUNK) {
			if (layout_state(l, e.chunk) != CHUNK_ABSENT)
				break;
			if (fill_ahead(l, e.chunk, mark) && mark)
				marked = true;
		}
		from = e.offset + e.length;
	}
	return from;
}

/* Twice as much, when half of what was asked for is read. */
static void
widen(struct ahead *a, struct stream *s, uint64_t end)
{
	if (s->window > 0 && end + s->window / 2 < s->end)
		return;
	s->window = s->window ? s->window * 2 : WINDOW_FIRST;
	if (a->most < WINDOW_MAX && s->window > a->most)
		a->most *= 2;	/* this one is of use */
	if (s->window > a->most)
		s->window = a->most;
}

void
ahead_read(struct ahead *a, struct layout *l, uint64_t offset, uint64_t len)
{
	/* All of its last chunk comes: what follows is missed behind that. */
	struct extent last = layout_extent(l, offset + len - 1);
	uint64_t end = last.offset + last.length, to;
	struct stream *s;

	if (a->most == 0)
		a->most = WINDOW_MAX;
	s = stream_of(a, offset);
	if (s->used && (++s->follow >= FOLLOW_LEAST || len >= FOLLOW_LARGE))
		widen(a, s, end);
	s->used = ++a->reads;
	if (end > s->next)
		s->next = end;
	if (s->end < s->next)
		s->end = s->next;
	to = s->next + s->window < l->size ? s->next + s->window : l->size;
	/* In pieces of half a window, lest each read asks for a little. */
	if (s->window > 0 && to > s->end && (to == l->size ||
	    to - s->end >= s->window / 2))
		s->end = ask(l, s->end, to);
}
