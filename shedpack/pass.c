// SPDX-License-Identifier: Apache-2.0
/*
 * A file read once, front to back, for several lookers, each on a thread of
 * its own; so that hashing the whole and hashing its chunks take one core
 * each.  A ring of buffers lies between, and memory is constant:
 *
 *	pread --filled--> [ ][x][x][x][ ][ ] --taken[0]--> looker 0
 *	                                     --taken[1]--> looker 1
 *
 * A buffer is filled again when all lookers are behind it.  The input is never
 * mapped: a file that shrinks must be an answer, not a SIGBUS.
 */
#include <sys/param.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "shedpack/shedpack.h"

#define BUFFER_BYTES	((size_t)1 << 20)	/* PASS_BLOCK divides it */
#define BUFFERS		8	/* so that neither looker waits for the other's
				 * hiccups */

struct pass {
	pthread_mutex_t lock;	/* of all below but the buffers' bytes */
	pthread_cond_t moved;
	uint8_t *bytes;		/* BUFFERS of BUFFER_BYTES */
	size_t len[BUFFERS];
	uint64_t filled;	/* buffers, since the beginning */
	uint64_t taken[PASS_LOOKERS];
	unsigned n;		/* lookers */
	bool over;		/* nothing will be filled any more */
	bool failed;
	struct refusal why;	/* of the first that failed */
};

struct worker {
	struct pass *pass;
	const struct looker *looker;
	unsigned i;
	pthread_t thread;
};

/* ---- sources ---- */

int
source_open(const char *path, struct source *out, struct refusal *why)
{
	/* not to wait for whoever holds the other end of a fifo */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return refuse(why, "cannot open %s: %s; check its path and "
		    "permissions", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		fd_close(fd);
		return refuse(why, "%s is not a regular file; copy the image "
		    "into one", path);
	}
	*out = (struct source){ .path = path, .fd = fd, .st = st };
	return 0;
}

int
source_unchanged(const struct source *s, struct refusal *why)
{
	struct stat now;

	if (fstat(s->fd, &now) == 0 && now.st_size == s->st.st_size &&
	    now.st_mtim.tv_sec == s->st.st_mtim.tv_sec &&
	    now.st_mtim.tv_nsec == s->st.st_mtim.tv_nsec &&
	    now.st_ctim.tv_sec == s->st.st_ctim.tv_sec &&
	    now.st_ctim.tv_nsec == s->st.st_ctim.tv_nsec)
		return 0;
	return refuse(why, "%s was changed while it was read; run it again "
	    "when nothing writes to it", s->path);
}

void
source_done(struct source *s)
{
	fd_close(s->fd);
	s->fd = -1;
}

/* ---- the ring ---- */

static void
pass_fail(struct pass *p, const struct refusal *why)
{
	pthread_mutex_lock(&p->lock);
	if (!p->failed)
		p->why = *why;
	p->failed = true;
	pthread_cond_broadcast(&p->moved);
	pthread_mutex_unlock(&p->lock);
}

static uint64_t
slowest(const struct pass *p)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < p->n; i++)
		least = MIN(least, p->taken[i]);
	return least;
}

/* A buffer to fill.  False: it is over. */
static bool
wait_free(struct pass *p)
{
	bool go;

	pthread_mutex_lock(&p->lock);
	while (!p->failed && p->filled - slowest(p) == BUFFERS)
		pthread_cond_wait(&p->moved, &p->lock);
	go = !p->failed;
	pthread_mutex_unlock(&p->lock);
	return go;
}

static void
buffer_filled(struct pass *p, size_t len)
{
	pthread_mutex_lock(&p->lock);
	p->len[p->filled % BUFFERS] = len;
	p->filled++;
	pthread_cond_broadcast(&p->moved);
	pthread_mutex_unlock(&p->lock);
}

/* The next buffer of a looker.  False: it is over. */
static bool
wait_filled(struct pass *p, unsigned i, size_t *len)
{
	bool go;

	pthread_mutex_lock(&p->lock);
	while (!p->failed && !p->over && p->filled == p->taken[i])
		pthread_cond_wait(&p->moved, &p->lock);
	go = !p->failed && p->filled > p->taken[i];
	*len = p->len[p->taken[i] % BUFFERS];
	pthread_mutex_unlock(&p->lock);
	return go;
}

static void
buffer_taken(struct pass *p, unsigned i)
{
	pthread_mutex_lock(&p->lock);
	p->taken[i]++;
	pthread_cond_broadcast(&p->moved);
	pthread_mutex_unlock(&p->lock);
}

static void *
worker_main(void *arg)
{
	const struct worker *w = arg;
	struct pass *p = w->pass;
	struct refusal why;
	uint64_t offset = 0;
	size_t len;

	for (uint64_t n = 0; wait_filled(p, w->i, &len); n++) {
		if (w->looker->look(w->looker->arg,
		    p->bytes + n % BUFFERS * BUFFER_BYTES, len, offset,
		    &why) < 0) {
			pass_fail(p, &why);
			break;
		}
		offset += len;
		buffer_taken(p, w->i);
	}
	return NULL;
}

/* ---- the reader ---- */

static int
read_piece(const struct source *s, uint8_t *to, size_t want, uint64_t offset,
    struct refusal *why)
{
	ssize_t n = fd_pread_all(s->fd, to, want, offset);

	if (interrupted)
		return refuse_interrupted(why);
	if (n < 0)
		return refuse(why, "cannot read %s at byte %llu: %s; check "
		    "its disk", s->path, (unsigned long long)offset,
		    strerror((int)-n));
	if ((size_t)n < want)
		return refuse(why, "%s became shorter while it was read; run "
		    "it again when nothing writes to it", s->path);
	return 0;
}

static void
read_all(struct pass *p, const struct source *s, uint64_t size)
{
	struct refusal why;
	uint64_t offset = 0;

	for (uint64_t n = 0; offset < size && wait_free(p); n++) {
		size_t len = MIN(BUFFER_BYTES, size - offset);

		if (read_piece(s, p->bytes + n % BUFFERS * BUFFER_BYTES, len,
		    offset, &why) < 0) {
			pass_fail(p, &why);
			return;
		}
		buffer_filled(p, len);
		offset += len;
		bar_at(offset);
	}
	pthread_mutex_lock(&p->lock);
	p->over = true;
	pthread_cond_broadcast(&p->moved);
	pthread_mutex_unlock(&p->lock);
}

static const char *
base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

int
pass_run(const struct source *s, uint64_t size, const char *doing,
    const struct looker *lookers, unsigned n, struct refusal *why)
{
	_cleanup_free_ uint8_t *bytes = malloc(BUFFERS * BUFFER_BYTES);
	struct pass p = { .lock = PTHREAD_MUTEX_INITIALIZER,
		.moved = PTHREAD_COND_INITIALIZER, .bytes = bytes, .n = n };
	struct worker workers[PASS_LOOKERS];
	unsigned made = 0;

	if (!bytes)
		return refuse(why, "no memory for buffers; free some");
	bar_begin(doing, base_name(s->path), size);
	for (; made < n; made++) {
		workers[made] = (struct worker){ &p, &lookers[made], made, 0 };
		if (pthread_create(&workers[made].thread, NULL, worker_main,
		    &workers[made]) != 0)
			break;
	}
	if (made == n) {
		read_all(&p, s, size);
	} else {
		refuse(why, "cannot start a thread; see the limit on "
		    "processes (ulimit -u)");
		pass_fail(&p, why);
	}
	for (unsigned i = 0; i < made; i++)
		pthread_join(workers[i].thread, NULL);
	if (p.failed) {
		*why = p.why;
		return -EINVAL;
	}
	bar_done();
	return 0;
}

int
pass_digest(void *arg, const uint8_t *bytes, size_t len, uint64_t offset,
    struct refusal *why)
{
	(void)offset;
	(void)why;
	digest_update(arg, bytes, len);
	return 0;
}
