// SPDX-License-Identifier: Apache-2.0
/*
 * Readahead.  What a device reads from its map is not seen here, only what it
 * misses; so of what is asked for ahead a chunk is marked now and then: it is
 * kept but not published, and the read that comes to it tells that a reader is
 * there.
 *
 *	stream:   |--was read--|next|-[mark]-|grow|-[mark]---[mark]-|end
 *	                               |     a read behind it: a larger window
 *	                               +-- asks for more, to `next` + window
 *
 * A window begins where two reads follow another one, or a large one does (a
 * random reader comes near himself now and then), and grows each time that all
 * is read that was asked for before it last grew: up to the device's most,
 * which shrinks when a stream is given up, and grows with one that is twice as
 * long.  (A guest's kernel reads ahead by itself, Linux 7.x up to 8 MiB; those
 * are large reads here, and the same stream.)
 */
#include "cached/cached.h"

#define WINDOW_FIRST	(128 * 1024)	/* bytes */
#define WINDOW_LEAST	(256 * 1024)	/* the least `most` */
#define WINDOW_MAX	(32 * 1024 * 1024)	/* 100 ms at 1 Gbit/s, twice */
#define GROW		2	/* times */
#define GROW_LONG	4	/* the same of a long stream, */
#define LONG		(1024 * 1024)	/* who has read so much */
#define MARKS		8	/* of a window; the least to be asked for */
#define NEAR		(128 * 1024)	/* reads of one stream overtake each other */
#define FOLLOW_LEAST	2	/* reads that follow, before it is a stream */
#define FOLLOW_LARGE	(128 * 1024)	/* a read of so much counts for them all */

static uint64_t
minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Does a read there belong to it?  What may be none yet must be close. */
static bool
is_near(const struct stream *s, uint64_t offset, uint64_t len)
{
	return offset >= minus(s->next, NEAR) &&
	    offset <= s->end + (s->window > 0 ? NEAR : len);
}

static struct stream *
stream_of(struct ahead *a, uint64_t offset, uint64_t len)
{
	struct stream *oldest = &a->streams[0];

	for (int i = 0; i < STREAMS; i++) {
		struct stream *s = &a->streams[i];

		if (s->used && is_near(s, offset, len))
			return s;
		if (s->used < oldest->used)
			oldest = s;
	}
	/* What was asked for in vain was too much. */
	if (oldest->end > oldest->next && a->most / 2 >= WINDOW_LEAST)
		a->most /= 2;
	*oldest = (struct stream){ .begin = offset, .next = offset,
		.end = offset };
	return oldest;
}

/* Ask for what is absent from its end to there, with marks; no further than
 * what is present. */
static void
ask(struct stream *s, struct layout *l, uint64_t to)
{
	while (s->end < to) {
		struct extent e = layout_extent(l, s->end);
		bool mark = e.offset >= s->mark;

		if (e.chunk != NO_CHUNK) {
			if (layout_state(l, e.chunk) != CHUNK_ABSENT)
				break;
			if (fill_ahead(l, e.chunk, mark) && mark)
				s->mark = e.offset + s->window / MARKS;
		}
		s->end = e.offset + e.length;
	}
}

static void
widen(struct ahead *a, struct stream *s)
{
	s->grow = s->end;
	if (s->window == 0)
		s->window = WINDOW_FIRST;
	else
		s->window *= s->next - s->begin < LONG ? GROW : GROW_LONG;
	if (s->window <= a->most)
		return;
	/* Longer than those that were given up? */
	if (a->most < WINDOW_MAX && s->next - s->begin > 2 * a->most)
		a->most *= 2;
	s->window = a->most;
}

void
ahead_read(struct ahead *a, struct layout *l, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len < l->size ? offset + len : l->size, to;
	struct extent last = layout_extent(l, end - 1);
	struct stream *s;

	/* All of its last chunk comes: what follows is missed behind that. */
	end = last.offset + last.length;
	if (a->most == 0)
		a->most = WINDOW_MAX;
	s = stream_of(a, offset, len);
	if (s->used && end > s->next)
		s->follow += len < FOLLOW_LARGE ? 1 : FOLLOW_LEAST;
	s->used = ++a->reads;
	if (end > s->next)
		s->next = end;
	if (s->end < s->next)
		s->end = s->next;
	if (s->follow < FOLLOW_LEAST)
		return;
	if (s->window == 0 || s->next > s->grow)
		widen(a, s);
	to = s->next + s->window < l->size ? s->next + s->window : l->size;
	if (to >= s->end + s->window / MARKS || to == l->size)
		ask(s, l, to);
}
