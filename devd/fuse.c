// SPDX-License-Identifier: Apache-2.0
/*
 * The FUSE shim: presents the device as one read-only regular file, the root
 * of a mount that the parent made.  The page cache of that file is the hit
 * path; what comes here are its misses.
 *
 *	       readv(2) into it       parsed
 *	free ------------------> busy -------> answered at once --+
 *	  ^                       |                               |
 *	  |                       +-- READ --> parked --> served -+
 *	  +------- len = 0, behind the reply's writev(2) ---------+
 *
 * No request may be lost by a SIGKILL of this process, wherever it falls, and
 * the kernel does not give a request again that it has given once (before 6.9
 * not even when asked).  So each is read straight into a slot of the journal,
 * which outlives the worker, and the slot's own content says that it is in use.
 * Its successor answers all busy slots before it reads on.  By moment of death:
 *
 *  - before readv() took a request: it is still in the kernel's queue.
 *  - inside: the kernel copies into a page that is mapped and was written to
 *    before, so it does not sleep, and finishes: the slot is whole.
 *  - after it, up to the reply: the slot is busy; the successor starts again
 *    from the request.  What an answer depends on is the request, the device,
 *    and `opens`: in it an OPEN is found again by its unique.
 *  - inside writev(): the reply is copied from pages that were written just
 *    before, so the same holds: all of it is taken, or nothing.
 *  - after it, before the slot is freed: the successor answers once more, and
 *    the kernel refuses that with ENOENT, as it never uses a `unique` again.
 *  - after that: nothing of it is left.
 *
 * One hole is known: if such a page was swapped out in between, the copy
 * sleeps, and a kill in that sleep loses the one request, whose reader waits
 * for good.
 *
 * A RELEASE done twice finds nothing the second time: handles are uniques too.
 * INIT's reply follows from INIT alone; it is recorded before it is sent.
 *
 * A request that waits for the network keeps its slot.  With none free nothing
 * is read, and requests wait in the kernel.  A cached read that waits may be
 * killed: it is read-ahead, and its process sleeps on the page, not on us.  A
 * direct one can't be, unless we answer its INTERRUPT.  That comes for any
 * signal, and nobody else's is answered, since a page fault that fails is a
 * SIGBUS: who faults in a mapping that he called MADV_RANDOM, where there is
 * no read-ahead, can't be killed while he waits (seen on 6.18).
 */
#define _GNU_SOURCE
#include <sys/uio.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/fuse_journal.h"
#include "devd/fuse_proto.h"
#include "devd/io.h"

#define TURN		64	/* requests, then others' turn */
/* One reader's next request comes 10 to 15 us after a reply, while sleeping and
 * being woken, by another CPU, takes 20 to 40 (measured): so we go on asking
 * for a while.  Where that is in vain, as it is when the reader waits for our
 * CPU, it costs half a microsecond a turn.  Not while a read is parked, whose
 * answer is an event. */
#define SPIN_NS		30000
#define SPIN_PAUSE	64	/* turns, after one in vain */
/* Dropping the store's pages: by regions, since each call costs 24 us however
 * little it drops (measured); a region 8 to 16 seconds after its first read,
 * when cached has synced it; few at a time, so that no read waits long. */
#define DROP_REGION	(1024 * 1024)	/* bytes */
#define DROP_SLOTS	1024	/* regions: a device of 1 GiB */
#define DROP_STEP	32	/* slots looked at, */
#define DROP_STEP_MS	250	/* so often */

/* A READ, while it has its slot. */
struct fuse_read {
	struct io_req io;
	uint64_t unique;
	bool parked, direct;
};

/* A region of which the file's page cache has got bytes. */
struct region {
	uint64_t number;	/* from 1; 0: a free slot */
	bool old;		/* the round before saw it */
};

static struct {
	struct event *readable, *tick;
	void (*openers)(unsigned count);
	const char *name;
	int fd;
	struct fuse_journal *journal;
	unsigned free[FUSE_SLOTS], n_free;	/* a stack: warm ones first */
	struct fuse_read reads[FUSE_SLOTS];
	struct region regions[DROP_SLOTS];
	unsigned n_regions, next_region;
	unsigned n_opens;	/* of the journal's, that are not free */
	unsigned no_spin;	/* so many turns */
	bool gone;
} fuse = { .fd = -1 };

/* What a reply is put together in: written before each writev(), see above. */
static uint8_t data[FUSE_READ_MAX] __attribute__((aligned(4096)));
/* The tail of a request that nobody looks at. */
static uint8_t tail[FUSE_MIN_ROOM];

static void read_ready(struct io_req *io);

/* ---- slots ---- */

static void
slot_free(unsigned i)
{
	atomic_store_explicit(&fuse.journal->slots[i].len, 0,
	    memory_order_release);
	if (fuse.n_free == 0 && fuse.readable && !fuse.gone)
		event_add(fuse.readable, NULL);
	fuse.free[fuse.n_free++] = i;
}

/* The mount is gone, and with it whoever could ask. */
static void
mount_gone(void)
{
	if (fuse.gone)
		return;
	fuse.gone = true;
	event_del(fuse.readable);
	log_err("device %s: its file was unmounted; detach it and attach it "
	    "again", fuse.name);
}

/* The whole reply at once, and the slot is free. */
static void
reply(unsigned i, const void *head, size_t head_len, size_t data_len)
{
	const struct iovec iov[2] = { { (void *)head, head_len },
		{ data, data_len } };
	ssize_t n;

	do {
		n = writev(fuse.fd, iov, data_len > 0 ? 2 : 1);
	} while (n < 0 && errno == EINTR);
	/* ENOENT: a predecessor's reply came through. */
	if (n < 0 && errno != ENOENT && errno != ENODEV &&
	    errno != ECONNABORTED && errno != ENOTCONN)
		log_err("device %s: a reply was refused: %s", fuse.name,
		    strerror(errno));
	slot_free(i);
}

static void
reply_error(unsigned i, uint64_t unique, int error)
{
	uint8_t out[FUSE_OUT_MAX];

	reply(i, out, fuse_put_error(out, unique, error), 0);
}

/* ---- pages of the store ---- */

/* Bytes are in memory once, in the file's own page cache: the store's pages of
 * them go. */
static void
region_drop(uint64_t number)
{
	uint64_t at = (number - 1) * DROP_REGION, offset, len;
	uint64_t end = at + DROP_REGION;

	if (end > core_size())
		end = core_size();
	for (; at < end; at += len) {
		int fd;

		len = end - at;
		fd = io_place(at, &len, &offset);
		if (fd >= 0)
			posix_fadvise(fd, (off_t)offset, (off_t)len,
			    POSIX_FADV_DONTNEED);
	}
}

static void
regions_wait(void)
{
	const struct timeval step = { .tv_usec = DROP_STEP_MS * 1000 };

	if (fuse.n_regions > 0 && !evtimer_pending(fuse.tick, NULL))
		evtimer_add(fuse.tick, &step);
}

/* With another one in its place it is left to the kernel. */
static void
regions_note(uint64_t offset, uint64_t len)
{
	uint64_t last = (offset + len - 1) / DROP_REGION + 1;

	for (uint64_t n = offset / DROP_REGION + 1; n <= last; n++) {
		struct region *r = &fuse.regions[n % DROP_SLOTS];

		if (r->number != 0)
			continue;
		*r = (struct region){ .number = n };
		fuse.n_regions++;
	}
	regions_wait();
}

static void
tick_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	for (unsigned i = 0; i < DROP_STEP; i++) {
		struct region *r = &fuse.regions[fuse.next_region];

		fuse.next_region = (fuse.next_region + 1) % DROP_SLOTS;
		if (r->number == 0)
			continue;
		if (r->old) {
			region_drop(r->number);
			r->number = 0;
			fuse.n_regions--;
		}
		r->old = true;
	}
	regions_wait();
}

/* ---- READ ---- */

static void
read_fail(unsigned i, int error)
{
	struct fuse_read *r = &fuse.reads[i];

	io_end(&r->io);
	atomic_fetch_add_explicit(&core_stats_page()->reads_failed, 1,
	    memory_order_relaxed);
	reply_error(i, r->unique, error);
}

/* Its bytes are here: all of them go at once, or it waits again, and then all
 * are copied again. */
static void
read_serve(unsigned i)
{
	struct fuse_read *r = &fuse.reads[i];
	uint8_t head[FUSE_OUT_HEADER];
	uint32_t pos = 0;
	ssize_t n;

	while (pos < r->io.length) {
		n = io_copy(&r->io, pos, data + pos, r->io.length - pos);
		if (n < 0) {
			read_fail(i, (int)n);
			return;
		}
		r->parked = n == 0;
		if (r->parked)
			return;
		pos += (uint32_t)n;
	}
	atomic_fetch_add_explicit(&core_stats_page()->bytes_served, pos,
	    memory_order_relaxed);
	io_end(&r->io);
	fuse_put_header(head, r->unique, pos);
	reply(i, head, sizeof(head), pos);
	if (!r->direct)
		regions_note(r->io.offset, pos);
}

static void
read_ready(struct io_req *io)
{
	struct fuse_read *r = (struct fuse_read *)io;
	unsigned i = (unsigned)(r - fuse.reads);

	r->parked = false;
	if (io->state == IO_FAILED)
		read_fail(i, io->error);
	else
		read_serve(i);
}

static void
on_read(unsigned i, const struct fuse_request *q)
{
	struct fuse_read *r = &fuse.reads[i];
	uint32_t length;
	int ready = fuse_read_length(q, core_size(), &length);

	if (ready < 0 || length == 0) {
		reply_error(i, q->unique, ready);
		return;
	}
	r->unique = q->unique;
	r->direct = q->flags & O_DIRECT;
	r->io.offset = q->offset;
	r->io.length = length;
	r->io.on_ready = read_ready;
	ready = io_begin(&r->io);
	r->parked = ready == 0;
	if (ready < 0)
		read_fail(i, ready);
	else if (ready > 0)
		read_serve(i);
}

/* Somebody wants to end who waits for it in the kernel. */
static void
on_interrupt(unsigned i, const struct fuse_request *q)
{
	for (unsigned at = 0; at < FUSE_SLOTS; at++) {
		struct fuse_read *r = &fuse.reads[at];

		if (!r->parked || !r->direct || r->unique != q->target)
			continue;
		r->parked = false;
		io_end(&r->io);
		reply_error(at, r->unique, -EINTR);
		break;
	}
	slot_free(i);
}

/* ---- openers ---- */

static void
opens_tell(void)
{
	atomic_store_explicit(&core_stats_page()->openers, fuse.n_opens,
	    memory_order_relaxed);
	fuse.openers(fuse.n_opens);
}

/* Where a handle stands, or 0 a free place.  NULL: nowhere. */
static _Atomic uint64_t *
opens_find(uint64_t handle)
{
	for (size_t i = 0; i < FUSE_OPENS; i++)
		if (fuse.journal->opens[i] == handle)
			return &fuse.journal->opens[i];
	return NULL;
}

/* Counted before it is answered: an opener that is not counted would lose the
 * device under it.  If a predecessor died in between, it is there already.
 * What the page cache has of a device that has failed may be wrong, and goes:
 * the opener drops it, so that who waits for locked pages is not us. */
static void
on_open(unsigned i, const struct fuse_request *q)
{
	_Atomic uint64_t *place = opens_find(q->unique);
	uint8_t out[FUSE_OUT_MAX];

	if ((q->flags & O_ACCMODE) != O_RDONLY) {
		reply_error(i, q->unique, -EROFS);
		return;
	}
	if (!place) {
		place = opens_find(0);
		if (!place) {
			reply_error(i, q->unique, -ENFILE);
			return;
		}
		*place = q->unique;
		fuse.n_opens++;
		opens_tell();
	}
	reply(i, out, fuse_put_open(out, q->unique, q->unique,
	    !core_failed()), 0);
}

static void
on_release(unsigned i, const struct fuse_request *q)
{
	_Atomic uint64_t *place = q->handle ? opens_find(q->handle) : NULL;

	if (place) {
		*place = 0;
		fuse.n_opens--;
		opens_tell();
	}
	reply_error(i, q->unique, 0);
}

/* ---- the rest ---- */

static void
on_init(unsigned i, const struct fuse_request *q)
{
	uint8_t out[FUSE_OUT_MAX];

	fuse.journal->minor = q->minor;
	fuse.journal->flags = q->flags;
	reply(i, out, fuse_put_init(out, q), 0);
}

static void
on_getattr(unsigned i, const struct fuse_request *q)
{
	uint8_t out[FUSE_OUT_MAX];

	reply(i, out, fuse_put_attr(out, q->unique, core_size()), 0);
}

static void
on_statfs(unsigned i, const struct fuse_request *q)
{
	uint8_t out[FUSE_OUT_MAX];

	reply(i, out, fuse_put_statfs(out, q->unique, core_size()), 0);
}

static void
on_refused(unsigned i, const struct fuse_request *q)
{
	reply_error(i, q->unique, -EROFS);
}

/* Firecracker's Writeback engine syncs even what it only reads. */
static void
on_nothing_to_do(unsigned i, const struct fuse_request *q)
{
	reply_error(i, q->unique, 0);
}

/* What is not here answers ENOSYS: mostly the kernel then stops asking. */
static const struct {
	enum fuse_op op;
	void (*on)(unsigned i, const struct fuse_request *q);
} ops[] = {
	{ FUSE_READ, on_read },
	{ FUSE_GETATTR, on_getattr },
	{ FUSE_OPEN, on_open },
	{ FUSE_RELEASE, on_release },
	{ FUSE_INTERRUPT, on_interrupt },
	{ FUSE_STATFS, on_statfs },
	{ FUSE_INIT, on_init },
	{ FUSE_FSYNC, on_nothing_to_do },
	{ FUSE_ACCESS, on_nothing_to_do },	/* the kernel itself checks the mode */
	{ FUSE_DESTROY, on_nothing_to_do },
	{ FUSE_SETATTR, on_refused },
	{ FUSE_WRITE, on_refused },
	{ FUSE_FALLOCATE, on_refused },
};

/* The request in a slot, so many bytes of which were read. */
static void
slot_handle(unsigned i, size_t len)
{
	struct fuse_request q;
	int r = fuse_parse((const uint8_t *)&fuse.journal->slots[i], len, &q);

	if (r == -EPROTO) {
		log_err("device %s: %zu bytes that are no request", fuse.name,
		    len);
		slot_free(i);
		return;
	}
	if (r < 0 && q.opcode == FUSE_INIT)
		log_err("device %s: this kernel's FUSE is older than 7.%d; "
		    "attach it with --present nbd", fuse.name,
		    FUSE_MINOR_OLDEST);
	for (size_t o = 0; r == 0 && o < ARRAY_LEN(ops); o++)
		if (ops[o].op == q.opcode) {
			ops[o].on(i, &q);
			return;
		}
	if (fuse_wants_reply(q.opcode))
		reply_error(i, q.unique, r < 0 ? r : -ENOSYS);
	else
		slot_free(i);
}

/* Read one.  true: there may be more. */
static bool
request_take(void)
{
	unsigned i = fuse.free[fuse.n_free - 1];
	struct fuse_slot *slot = &fuse.journal->slots[i];
	const struct iovec iov[2] = { { slot, sizeof(*slot) },
		{ tail, sizeof(tail) } };
	ssize_t n = readv(fuse.fd, iov, 2);

	if (n > 0) {
		fuse.n_free--;
		slot_handle(i, (size_t)n);
		return true;
	}
	atomic_store_explicit(&slot->len, 0, memory_order_relaxed);
	if (n < 0 && (errno == EINTR || errno == ENOENT))
		return true;	/* ENOENT: its process gave up */
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n < 0 && errno != ENODEV && errno != ECONNABORTED)
		log_die("device %s: read a request: %s", fuse.name,
		    strerror(errno));
	mount_gone();
	return false;
}

/* There was none: ask again at once?  *since: when that began, or 0. */
static bool
spin(int64_t *since)
{
	struct timespec t;
	int64_t now;

	if (atomic_load_explicit(&core_stats_page()->waiting,
	    memory_order_relaxed) > 0)
		return false;
	if (fuse.no_spin > 0) {
		fuse.no_spin--;
		return false;
	}
	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
	if (*since == 0)
		*since = now;
	if (now - *since < SPIN_NS)
		return true;
	fuse.no_spin = SPIN_PAUSE;
	return false;
}

static void
fuse_readable(evutil_socket_t fd, short what, void *arg)
{
	int64_t since = 0;
	unsigned n = 0;

	(void)fd;
	(void)what;
	(void)arg;
	while (n < TURN && !fuse.gone) {
		if (fuse.n_free == 0) {
			event_del(fuse.readable);
			return;
		}
		if (request_take()) {
			since = 0;
			n++;
		} else if (!spin(&since)) {
			return;
		}
	}
}

/* ---- start ---- */

/* Two workers at once would answer the same slots.  A parent waits for its own;
 * but one that was killed leaves a worker that ends by itself, and the next
 * life of that parent may be quicker.  A lock that ends with its process. */
static int
journal_lock(int fd)
{
	struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_SETLKW, &whole) < 0 ? -errno : 0;
}

static int
fuse_take(enum parent_type type, int fd)
{
	void *journal;
	int r;

	if (type == PARENT_FUSE && fuse.fd < 0) {
		fuse.fd = fd;
		return fd_nonblock(fd);
	}
	if (type != PARENT_JOURNAL || fuse.journal) {
		fd_close(fd);
		return -EINVAL;
	}
	r = shm_map(fd, FUSE_JOURNAL_SIZE, 1, &journal);
	if (r == 0)
		r = journal_lock(fd);
	if (r == 0)
		fuse.journal = journal;
	return r; /* its close would end the lock */
}

static bool
fuse_complete(void)
{
	return fuse.fd >= 0 && fuse.journal;
}

/* What a predecessor left.  Interrupts last: what they are about must be known
 * first.  Pages of free slots are written to, so that readv() finds them. */
static void
journal_recover(void)
{
	struct fuse_slot *slots = fuse.journal->slots;
	bool interrupt[FUSE_SLOTS] = { false };
	unsigned found = 0;
	struct fuse_request q;

	for (unsigned i = 0; i < FUSE_SLOTS; i++) {
		uint32_t len = slots[i].len;

		if (len == 0) {
			slot_free(i);
			continue;
		}
		found++;
		interrupt[i] = fuse_parse((uint8_t *)&slots[i], len, &q) == 0 &&
		    q.opcode == FUSE_INTERRUPT;
		if (!interrupt[i])
			slot_handle(i, len);
	}
	for (unsigned i = 0; i < FUSE_SLOTS; i++)
		if (interrupt[i])
			slot_handle(i, slots[i].len);
	if (found > 0)
		log_info("device %s: %u requests of a former worker taken over",
		    fuse.name, found);
}

static void
fuse_start(struct event_base *base, const char *name,
    void (*openers)(unsigned count))
{
	if (fuse.journal->version != 0 &&
	    fuse.journal->version != FUSE_JOURNAL_VERSION)
		log_die("device %s: its journal is of another version; detach "
		    "it and attach it again", name);
	fuse.journal->version = FUSE_JOURNAL_VERSION;
	fuse.name = name;
	fuse.openers = openers;
	fuse.tick = evtimer_new(base, tick_due, NULL);
	if (!fuse.tick)
		log_die("no memory for the FUSE shim");
	for (size_t i = 0; i < FUSE_OPENS; i++)
		fuse.n_opens += fuse.journal->opens[i] != 0;
	opens_tell();
	journal_recover();
	fuse.readable = event_new(base, fuse.fd, EV_READ | EV_PERSIST,
	    fuse_readable, NULL);
	if (!fuse.readable || (fuse.n_free > 0 &&
	    event_add(fuse.readable, NULL) < 0))
		log_die("no memory for the FUSE shim");
}

const struct shim fuse_shim = {
	.take = fuse_take,
	.complete = fuse_complete,
	.start = fuse_start,
};
