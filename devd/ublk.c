// SPDX-License-Identifier: Apache-2.0
/*
 * The ublk shim: presents the device as /dev/ublkbN.  The parent has made that
 * device and gave us, and nobody else, its character device: by its last
 * close the kernel learns that a worker died.
 *
 *	FETCH      +--> WITH THE KERNEL --request--> begun ----> parked
 *	   |       |                                   |           |
 *	   |       |                                   +-> READ    |
 *	   |       |                                         |     |
 *	   +-------+------ COMMIT (and fetch) <--------------+-----+
 *
 * All tags stay with this thread.  Nothing is journalled: the kernel itself
 * issues what a dead worker had taken again to its successor.
 *
 * What is hot costs no system call of its own: where its bytes lie in one run
 * of a store file the ring itself reads them, and one io_uring_enter(2) submits
 * the reads and commits of a batch and brings the next one.  A read that falls
 * short is tried again by the core, which has cached repair it.
 *
 * A commit names our buffer, whose pages are there.  The kernel could copy
 * straight out of a mapping of the store file.  But where that can't be read,
 * or the worker is killed while it waits for a page, nothing is copied, and
 * then the driver of 7.2 fails the request (__ublk_complete_rq()), where that
 * of 6.12 issued it again.
 *
 * The ring is made while the process is still privileged, and restricted to
 * ublk's operation and reading before anything from outside is read.
 */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/io.h"
#include "devd/ublk_abi.h"

#define TURNS		16	/* batches, then others' turn */
#define READ_DONE	UBLK_DEPTH	/* in user_data: tag and this */
#define LOOK_S		1	/* without a turn, then one unasked */

struct tag {
	struct io_req io;	/* while the kernel waits for its commit */
	uint8_t *buf;		/* UBLK_IO_MAX bytes, touched when needed */
};

static struct {
	struct io_uring ring;
	int notify;		/* eventfd: the ring has something */
	struct event *wake, *look;
	unsigned turns, looked_at;	/* so many, and at the last look */
	unsigned found;		/* by looks, in all */
	const char *name;
	int fd;
	const struct ublksrv_io_desc *requests;	/* by tag */
	struct tag tags[UBLK_DEPTH];
	bool stopped;		/* the kernel wants no more of us */
} ublk = { .fd = -1 };

/* ---- the ring ---- */

static struct io_uring_sqe *
entry(void)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ublk.ring);

	if (!sqe)		/* one entry a tag: there is room */
		log_die("device %s: its ring is full", ublk.name);
	return sqe;
}

static void
ring_check(int r)
{
	if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
		log_die("device %s: its ring: %s", ublk.name, strerror(-r));
}

/* ---- answers ---- */

/* For the kernel: its tag's last result, and it may have another request. */
static void
put(struct tag *t, unsigned op, int32_t result)
{
	struct io_uring_sqe *sqe = entry();
	struct ublksrv_io_cmd *cmd;

	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, ublk.fd, NULL, 0, 0);
	sqe->cmd_op = op;
	cmd = (struct ublksrv_io_cmd *)sqe->cmd;
	cmd->q_id = 0;
	cmd->tag = (uint16_t)(t - ublk.tags);
	cmd->result = result;
	cmd->addr = (uintptr_t)t->buf;
	io_uring_sqe_set_data64(sqe, cmd->tag);
}

static void
tag_fail(struct tag *t, int error)
{
	io_end(&t->io);
	atomic_fetch_add_explicit(&core_stats_page()->reads_failed, 1,
	    memory_order_relaxed);
	put(t, UBLK_COMMIT, error);
}

static void
tag_served(struct tag *t)
{
	atomic_fetch_add_explicit(&core_stats_page()->bytes_served,
	    t->io.length, memory_order_relaxed);
	io_end(&t->io);
	put(t, UBLK_COMMIT, (int32_t)t->io.length);
}

/* Its bytes are here: all of them go at once, or it waits again. */
static void
tag_serve(struct tag *t)
{
	uint32_t pos = 0;
	ssize_t n;

	while (pos < t->io.length) {
		n = io_copy(&t->io, pos, t->buf + pos, t->io.length - pos);
		if (n < 0) {
			tag_fail(t, (int)n);
			return;
		}
		if (n == 0)
			return;		/* parked; all is copied again */
		pos += (uint32_t)n;
	}
	tag_served(t);
}

/* Have the ring read it.  Only in a turn of the ring, which submits it before
 * the descriptor can become another file's.  false: it lies not in one run. */
static bool
tag_read(struct tag *t)
{
	uint64_t len = t->io.length, offset;
	int fd = io_place(t->io.offset, &len, &offset);
	struct io_uring_sqe *sqe;

	if (fd < 0 || len < t->io.length)
		return false;
	sqe = entry();
	io_uring_prep_read(sqe, fd, t->buf, t->io.length, offset);
	io_uring_sqe_set_data64(sqe, (uint64_t)(t - ublk.tags) + READ_DONE);
	return true;
}

/* From the event loop, not from a turn of the ring: that comes next. */
static void
tag_ready(struct io_req *io)
{
	struct tag *t = (struct tag *)io;

	if (io->state == IO_FAILED)
		tag_fail(t, io->error);
	else
		tag_serve(t);
	event_active(ublk.wake, EV_READ, 0);
}

/* ---- requests ---- */

/* 0, or the error that it gets.  The kernel cuts at the device's end. */
static int
request_check(const struct ublksrv_io_desc *iod, uint64_t *offset,
    uint32_t *length)
{
	if (ublksrv_get_op(iod) != UBLK_IO_OP_READ)
		return -EROFS;
	if (iod->nr_sectors == 0 || iod->nr_sectors > UBLK_IO_MAX /
	    UBLK_SECTOR || iod->start_sector > core_size() / UBLK_SECTOR)
		return -EIO;
	*offset = iod->start_sector * UBLK_SECTOR;
	*length = iod->nr_sectors * UBLK_SECTOR;
	return *length > core_size() - *offset ? -EIO : 0;
}

static void
tag_begin(struct tag *t)
{
	const struct ublksrv_io_desc *iod = &ublk.requests[t - ublk.tags];
	int r = request_check(iod, &t->io.offset, &t->io.length);

	if (r < 0) {
		put(t, UBLK_COMMIT, r);
		return;
	}
	t->io.on_ready = tag_ready;
	r = io_begin(&t->io);
	if (r < 0)
		tag_fail(t, r);
	else if (r > 0 && !tag_read(t))
		tag_serve(t);
}

static void
completed(const struct io_uring_cqe *cqe)
{
	struct tag *t = &ublk.tags[cqe->user_data % UBLK_DEPTH];

	if (cqe->user_data >= READ_DONE && cqe->res == (int)t->io.length)
		tag_served(t);
	else if (cqe->user_data >= READ_DONE)
		tag_serve(t);
	else if (cqe->res == UBLK_IO_RES_OK)
		tag_begin(t);
	else if (cqe->res != UBLK_IO_RES_ABORT)
		log_die("device %s: ublk refused tag %u: %s", ublk.name,
		    (unsigned)(t - ublk.tags), strerror(-cqe->res));
	else if (!ublk.stopped) {
		ublk.stopped = true;
		log_info("device %s: the kernel stops it", ublk.name);
	}
}

/* Kernels from about 7.1 on may return with work left when another CPU is just
 * adding some (io_uring/mpscq.h), and those since about 6.13 after 20 pieces.
 * They do not write to the eventfd for that, nor for what comes behind it. */
static bool
ring_left_work(void)
{
	return __atomic_load_n(ublk.ring.sq.kflags, __ATOMIC_ACQUIRE) &
	    IORING_SQ_TASKRUN;
}

/* All there is, and then the reads and commits: one system call a batch.  How
 * many completions came. */
static unsigned
ring_turn(void)
{
	struct io_uring_cqe *batch[UBLK_DEPTH];
	unsigned all = 0;
	bool more = true;

	ublk.turns++;
	for (unsigned turn = 0; turn < TURNS && more; turn++) {
		unsigned n;

		ring_check(io_uring_submit_and_get_events(&ublk.ring));
		n = io_uring_peek_batch_cqe(&ublk.ring, batch, UBLK_DEPTH);
		for (unsigned i = 0; i < n; i++)
			completed(batch[i]);
		io_uring_cq_advance(&ublk.ring, n);
		all += n;
		more = n > 0 || ring_left_work();
	}
	while (io_uring_sq_ready(&ublk.ring) > 0)
		ring_check(io_uring_submit(&ublk.ring));
	if (more)
		event_active(ublk.wake, EV_READ, 0);
	return all;
}

/* Under 7.2 all requests once waited for a worker that slept, behind one of
 * some hundred kills of its predecessor.  Why is not known. */
static void
look(evutil_socket_t fd, short what, void *arg)
{
	unsigned n;

	(void)fd;
	(void)what;
	(void)arg;
	if (ublk.turns != ublk.looked_at) {
		ublk.looked_at = ublk.turns;
		return;
	}
	n = ring_turn();
	ublk.looked_at = ublk.turns;
	if (n > 0 && ublk.found == 0)
		log_warn("device %s: the kernel did not say that its ring has "
		    "something; found by looking, at most %d s late, and not "
		    "told again", ublk.name, 2 * LOOK_S);
	ublk.found += n;
}

static void
ring_ready(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;		/* edge-triggered: its count stays unread */
	(void)what;
	(void)arg;
	ring_turn();
}

/* ---- start ---- */

static int
ring_confine(void)
{
	struct io_uring_restriction only[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP,
		    .sqe_op = IORING_OP_URING_CMD },
		{ .opcode = IORING_RESTRICTION_SQE_OP,
		    .sqe_op = IORING_OP_READ },
	};
	int r = io_uring_register_eventfd(&ublk.ring, ublk.notify);

	if (r < 0)
		return r;
	/* liburing 2.3 has functions for these two, but does not export them */
	if (syscall(SYS_io_uring_register, ublk.ring.ring_fd,
	    IORING_REGISTER_RESTRICTIONS, only, ARRAY_LEN(only)) < 0 ||
	    syscall(SYS_io_uring_register, ublk.ring.ring_fd,
	    IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return -errno;
	return 0;
}

/* With deferred task work requests come by batches, when we ask. */
static void
ublk_prepare(void)
{
	struct io_uring_params params = { .flags = IORING_SETUP_R_DISABLED |
	    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
	    IORING_SETUP_TASKRUN_FLAG };
	int r = io_uring_queue_init_params(UBLK_DEPTH, &ublk.ring, &params);

	if (r < 0)
		log_die("io_uring: %s; if sysctl kernel.io_uring_disabled is "
		    "2, set it to 1, or attach with --present file",
		    strerror(-r));
	ublk.notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = ublk.notify < 0 ? -errno : ring_confine();
	if (r < 0)
		log_die("io_uring: %s", strerror(-r));
}

static int
ublk_take(enum parent_type type, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len;
	void *at;

	if (type != PARENT_UBLK || ublk.fd >= 0) {
		fd_close(fd);
		return -EINVAL;
	}
	len = UBLK_DEPTH * sizeof(*ublk.requests);
	at = mmap(NULL, (len + page - 1) / page * page, PROT_READ,
	    MAP_SHARED | MAP_POPULATE, fd, UBLKSRV_CMD_BUF_OFFSET);
	if (at == MAP_FAILED) {
		fd_close(fd);
		return -errno;
	}
	ublk.fd = fd;
	ublk.requests = at;
	return 0;
}

static bool
ublk_complete(void)
{
	return ublk.fd >= 0;
}

/* Returns with all tags at the kernel's: the parent starts the device then. */
static void
ublk_start(struct event_base *base, const char *name,
    void (*openers)(unsigned count))
{
	const struct timeval every = { .tv_sec = LOOK_S };
	uint8_t *bufs = mmap(NULL, (size_t)UBLK_DEPTH * UBLK_IO_MAX,
	    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)openers;		/* who has it open, the parent finds out */
	ublk.name = name;
	ublk.wake = event_new(base, ublk.notify, EV_READ | EV_PERSIST | EV_ET,
	    ring_ready, NULL);
	ublk.look = event_new(base, -1, EV_PERSIST, look, NULL);
	if (bufs == MAP_FAILED || !ublk.wake || !ublk.look ||
	    event_add(ublk.wake, NULL) < 0 || event_add(ublk.look, &every) < 0)
		log_die("no memory for the ublk shim");
	for (unsigned i = 0; i < UBLK_DEPTH; i++) {
		ublk.tags[i].buf = bufs + (size_t)i * UBLK_IO_MAX;
		put(&ublk.tags[i], UBLK_FETCH, 0);
	}
	ring_turn();
}

const struct shim ublk_shim = {
	.prepare = ublk_prepare,
	.take = ublk_take,
	.complete = ublk_complete,
	.start = ublk_start,
};
