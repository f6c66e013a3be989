// SPDX-License-Identifier: Apache-2.0
/*
 * The attachments file pair.  Each file is a header (magic, generation,
 * length, SHA-256 of these and the payload) and a payload; a change is written
 * whole to the file that is not current, so that the end of this process in
 * the middle leaves the other one.  They live in the run directory: after a
 * host's reboot there are no VMs and no attachments.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "devd/devd.h"

#define MAGIC		0x5348454441545431ULL	/* "SHEDATT1" */
#define STATE_MAX	(16 * 1024 * 1024)	/* DEVICES_MAX generous records */

struct header {
	uint64_t magic, generation, len;
	struct digest sum;
};

/* Over everything but itself and the magic. */
static struct digest
header_sum(const struct header *h, const void *payload)
{
	struct digest_stream *s = digest_start();

	digest_update(s, &h->generation, sizeof(h->generation));
	digest_update(s, &h->len, sizeof(h->len));
	digest_update(s, payload, h->len);
	return digest_final(s);
}

/* 1: valid, 0: not, -errno. */
static int
read_one(int fd, struct header *h, uint8_t **payload)
{
	_cleanup_free_ uint8_t *buf = NULL;
	struct digest sum;
	ssize_t n = fd_pread_all(fd, h, sizeof(*h), 0);

	if (n < 0)
		return (int)n;
	if (n != sizeof(*h) || h->magic != MAGIC || h->len > STATE_MAX)
		return 0;
	buf = malloc(h->len + 1);
	if (!buf)
		return -ENOMEM;
	n = fd_pread_all(fd, buf, h->len, sizeof(*h));
	if (n < 0)
		return (int)n;
	if ((uint64_t)n != h->len)
		return 0;
	sum = header_sum(h, buf);
	if (!digest_equal(&sum, &h->sum))
		return 0;
	*payload = take_ptr(buf);
	return 1;
}

int
attachments_read(struct attachments *a, uint8_t **state, size_t *len)
{
	_cleanup_free_ uint8_t *best = NULL;
	size_t best_len = 0;

	a->generation = 0;
	a->current = 1;		/* the first change goes to file 0 */
	for (int i = 0; i < 2; i++) {
		_cleanup_free_ uint8_t *payload = NULL;
		struct header h;
		int r = read_one(a->fd[i], &h, &payload);

		if (r < 0)
			return r;
		if (r == 0 || h.generation <= a->generation)
			continue;
		free(best);
		best = take_ptr(payload);
		best_len = h.len;
		a->generation = h.generation;
		a->current = i;
	}
	*state = take_ptr(best);
	*len = best_len;
	return 0;
}

int
attachments_write(struct attachments *a, const void *state, size_t len)
{
	struct header h = { .magic = MAGIC, .generation = a->generation + 1,
		.len = len };
	int next = !a->current, r;

	if (len > STATE_MAX)
		return -EFBIG;
	h.sum = header_sum(&h, state);
	r = fd_pwrite_all(a->fd[next], state, len, sizeof(h));
	if (r == 0)
		r = fd_pwrite_all(a->fd[next], &h, sizeof(h), 0);
	if (r < 0)
		return r;
	a->generation++;
	a->current = next;
	return 0;
}
