// SPDX-License-Identifier: Apache-2.0
/* What threads do to one chunk: in from the network or a client's file, and
 * back from the disk.  Nothing is trusted but the digest. */
#include <errno.h>
#include <stdlib.h>

#include "base/fd.h"
#include "cached/cached.h"
#include "cached/disk.h"

/* Hash what is in the buffer. */
static int
compare(struct chunk_job *c)
{
	c->digest = digest_of(c->buf, c->len);
	return c->has_expected && !digest_equal(&c->digest, &c->expected) ?
	    -EBADMSG : 0;
}

int
chunk_check(struct job *job)
{
	struct chunk_job *c = (struct chunk_job *)job;
	ssize_t n = fd_pread_all(c->fd, c->buf, c->len, c->offset);

	if (n < 0)
		return (int)n;
	return (size_t)n != c->len ? -EIO : compare(c);
}

int
chunk_keep(struct job *job)
{
	struct chunk_job *c = (struct chunk_job *)job;
	int r = compare(c);

	if (r == 0)
		r = disk_reserve(c->fd, c->offset, c->len);
	return r < 0 ? r : disk_write(c->fd, c->buf, c->len, c->offset);
}

/* What is handed on is verified all the same. */
int
chunk_hash(struct job *job)
{
	int r = compare((struct chunk_job *)job);

	return r < 0 ? r : -EDQUOT;
}

/* The buffer is verified; blocks of the file that it came from are shared where
 * that can be, and hashed once more where they lie now. */
int
chunk_import(struct job *job)
{
	struct chunk_job *c = (struct chunk_job *)job;
	struct chunk_job now = *c;
	int r = -ENOMEM;

	now.buf = malloc(c->len);
	now.has_expected = true;
	now.expected = digest_of(c->buf, c->len);
	if (now.buf)
		r = disk_copy(c->from, c->offset, c->fd, c->offset, c->len);
	if (r == 0)
		r = chunk_check(&now.job);
	free(now.buf);
	return r == 0 ? compare(c) : chunk_keep(job);
}
