// SPDX-License-Identifier: Apache-2.0
/*
 * `shedpack verify`: does a layout make exactly these bytes?  The erofs is read
 * once; one thread computes the digest of the whole, the other makes the
 * device out of the layout as a host would (each chunk from its blob, by its
 * digest) and compares:
 *
 *	erofs --bytes--> digest of the whole
 *	           \---> extent by extent: zeros, or its chunk from its blob
 *
 * Blobs are checked whole too, so that what verify calls good a registry takes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "base/own.h"
#include "shedpack/shedpack.h"

struct maker {
	const struct layout *layout;
	const char *erofs;	/* its path */
	int *fds;		/* of the index's blobs */
	uint32_t next;		/* extent to load */
	struct index_extent extent;	/* the loaded one */
	uint8_t *bytes;		/* INDEX_CHUNK_MAX, of its chunk */
};

static void
maker_done(struct maker *m)
{
	for (uint32_t n = 0; m->fds && n < m->layout->index.n_blobs; n++)
		fd_close(m->fds[n]);
	free(m->fds);
	free(m->bytes);
}

static int
maker_init(struct maker *m, struct refusal *why)
{
	const struct index *ix = &m->layout->index;

	m->bytes = malloc(INDEX_CHUNK_MAX);
	m->fds = calloc(ix->n_blobs + 1, sizeof(*m->fds));
	if (!m->bytes || !m->fds)
		return refuse(why, "no memory to verify; free some");
	memset(m->fds, -1, ix->n_blobs * sizeof(*m->fds));
	for (uint32_t n = 0; n < ix->n_blobs; n++) {
		struct index_blob b = index_blob(ix, n);

		if (layout_blob_open(m->layout, &(struct layout_blob){
		    b.digest, b.size }, &m->fds[n], why) < 0)
			return -EINVAL;
	}
	return 0;
}

static int
chunk_damaged(const struct maker *m, const struct index_chunk *c,
    const char *what, struct refusal *why)
{
	struct index_blob b = index_blob(&m->layout->index, c->blob);

	return refuse(why, "%s: the chunk at byte %" PRIu64 " of its blob %s "
	    "%s; make the layout anew", m->layout->path, c->offset,
	    digest_to_text(&b.digest).text, what);
}

/* The next extent, and its chunk's bytes. */
static int
load_extent(struct maker *m, struct refusal *why)
{
	const struct index *ix = &m->layout->index;
	struct index_chunk c;
	struct digest digest;
	ssize_t n;

	m->extent = index_extent(ix, m->next++);
	if (m->extent.chunk == INDEX_ZEROS)
		return 0;
	c = index_chunk(ix, m->extent.chunk);
	if (c.codec != CODEC_RAW)
		return refuse(why, "%s has compressed chunks, which this "
		    "version cannot read; use a newer shedpack",
		    m->layout->path);
	n = fd_pread_all(m->fds[c.blob], m->bytes, c.stored, c.offset);
	if (n != (ssize_t)c.stored)
		return chunk_damaged(m, &c, "cannot be read", why);
	digest = digest_of(m->bytes, c.length);
	if (!digest_equal(&digest, &c.digest))
		return chunk_damaged(m, &c, "does not have its digest", why);
	return 0;
}

static bool
zeros(const uint8_t *bytes, size_t len)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0;
}

/* Within the loaded extent, which holds all of them. */
static int
compare(struct maker *m, const uint8_t *bytes, size_t len, uint64_t offset,
    struct refusal *why)
{
	const uint8_t *want = m->bytes + (offset - m->extent.offset);
	bool all_zeros = m->extent.chunk == INDEX_ZEROS;
	size_t i = 0;

	if (all_zeros ? zeros(bytes, len) : memcmp(bytes, want, len) == 0)
		return 0;
	while (bytes[i] == (all_zeros ? 0 : want[i]))
		i++;
	return refuse(why, "%s is not what %s makes: the first difference is "
	    "at byte %" PRIu64 "; make the layout of this image anew", m->erofs,
	    m->layout->path, offset + i);
}

static int
maker_look(void *arg, const uint8_t *bytes, size_t len, uint64_t offset,
    struct refusal *why)
{
	struct maker *m = arg;

	while (len > 0) {
		uint64_t end = m->extent.offset + m->extent.length;
		size_t n;

		if (offset == end) {	/* at first both are 0 */
			if (load_extent(m, why) < 0)
				return -EINVAL;
			end = m->extent.offset + m->extent.length;
		}
		n = MIN(len, end - offset);
		if (compare(m, bytes, n, offset, why) < 0)
			return -EINVAL;
		bytes += n;
		offset += n;
		len -= n;
	}
	return 0;
}

static int
check_size(const struct source *s, const struct layout *l, struct refusal *why)
{
	uint64_t have = (uint64_t)s->st.st_size, want = l->index.device_size;

	if (have == want)
		return 0;
	return refuse(why, "%s is not what %s makes: the first difference is "
	    "at byte %" PRIu64 ", where one of them ends (%" PRIu64 " and %"
	    PRIu64 " bytes); make the layout of this image anew", s->path,
	    l->path, MIN(have, want), have, want);
}

static int
check_device(const struct source *s, const struct layout *l,
    struct refusal *why)
{
	_cleanup_(maker_done) struct maker m = { .layout = l,
		.erofs = s->path };
	struct digest_stream *whole = digest_start();
	const struct looker lookers[] = {
		{ pass_digest, whole },
		{ maker_look, &m },
	};
	uint64_t size = MIN((uint64_t)s->st.st_size, l->index.device_size);
	struct digest digest;
	int r = maker_init(&m, why);

	if (r == 0)
		r = pass_run(s, size, "comparing", lookers,
		    ARRAY_LEN(lookers), why);
	digest = digest_final(whole);
	if (r < 0 || check_size(s, l, why) < 0 || source_unchanged(s, why) < 0)
		return -EINVAL;
	if (!digest_equal(&digest, &l->index.device))
		return refuse(why, "%s: its index says that the device is %s, "
		    "but what it makes is %s; make the layout anew", l->path,
		    digest_to_text(&l->index.device).text,
		    digest_to_text(&digest).text);
	return 0;
}

/* Data blobs as wholes; what is small was checked when it was read. */
static int
check_blob(const struct layout *l, const struct layout_blob *b,
    struct refusal *why)
{
	_cleanup_(source_done) struct source s = { .fd = -1 };
	struct digest_text name = digest_to_text(&b->digest);
	struct digest_stream *whole;
	struct digest digest;
	int r;

	if (layout_blob_open(l, b, &s.fd, why) < 0)
		return -EINVAL;
	s.path = name.text;
	whole = digest_start();
	r = pass_run(&s, b->size, "checking", &(struct looker){ pass_digest,
	    whole }, 1, why);
	digest = digest_final(whole);
	if (r < 0)
		return r;
	if (!digest_equal(&digest, &b->digest))
		return refuse(why, "%s: its blob %s does not have its digest; "
		    "make the layout anew", l->path, name.text);
	return 0;
}

int
pack_verify(const struct arguments *a, struct refusal *why)
{
	_cleanup_(layout_done) struct layout l = LAYOUT_NONE;
	_cleanup_(source_done) struct source s = { .fd = -1 };

	if (layout_open(a->arg[0], &l, why) < 0 ||
	    source_open(a->arg[1], &s, why) < 0 ||
	    check_device(&s, &l, why) < 0)
		return -EINVAL;
	for (unsigned i = 1; i < l.n_all; i++)
		if (!digest_equal(&l.all[i].digest, &l.index_digest) &&
		    check_blob(&l, &l.all[i], why) < 0)
			return -EINVAL;
	bar_end();
	printf("verified %s size %" PRIu64 "\n",
	    digest_to_text(&l.index.device).text, l.index.device_size);
	return 0;
}
