// SPDX-License-Identifier: Apache-2.0
/*
 * The ublk shim: presents the device as /dev/ublkbN.  The parent has made that
 * device and gave us, and nobody else, its character device: by its last
 * close the kernel learns that a worker died.
 *
 *	FETCH      +--> WITH THE KERNEL --request--> begun --> parked
 *	   |       |                                   |          |
 *	   +-------+------ COMMIT (and fetch) <--------+----------+
 *
 * All tags stay with this thread.  Nothing is journalled: the kernel itself
 * issues what a dead worker had taken again to its successor.
 *
 * What is hot costs no system call of its own: the kernel copies straight out
 * of the store file, which is mapped for it, when the commit that names the
 * address goes in; and one io_uring_enter(2) submits the commits of a batch
 * and brings the next one.  We never look at mapped bytes ourselves: a page
 * that can't be read is a SIGBUS to us, but to the kernel a copy that falls
 * short, after which its source (read of about 6.15) gives the same request
 * again.  No test makes such a page yet.  What was just
 * answered by a mapping and comes again is answered by pread(2), which can
 * tell, and cached then repairs it.
 *
 * The ring is made while the process is still privileged, and restricted to
 * the one operation before anything from outside is read.
 */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
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
#define FILES		(MAP_SLOTS + 64)	/* descriptors: the policy's limit */

struct tag {
	struct io_req io;	/* while the kernel waits for its commit */
	uint8_t *buf;		/* UBLK_IO_MAX bytes, touched when needed */
	/* What was last answered by a mapping; length 0: nothing. */
	uint64_t mapped_offset;
	uint32_t mapped_length;
};

/* A store file, for the kernel to copy from. */
struct mapping {
	uint8_t *at;		/* NULL: none */
	uint64_t len;
};

static struct {
	struct io_uring ring;
	int notify;		/* eventfd: the ring has something */
	struct event *wake;
	const char *name;
	int fd;
	const struct ublksrv_io_desc *requests;	/* by tag */
	struct tag tags[UBLK_DEPTH];
	struct mapping maps[FILES];		/* by descriptor */
	unsigned generation;	/* of the descriptors */
	bool stopped;		/* the kernel wants no more of us */
} ublk = { .fd = -1 };

/* ---- the store, mapped ---- */

static void
maps_drop(void)
{
	/* what names an address goes first */
	io_uring_submit(&ublk.ring);
	for (size_t i = 0; i < FILES; i++) {
		if (ublk.maps[i].at)
			munmap(ublk.maps[i].at, ublk.maps[i].len);
		ublk.maps[i] = (struct mapping){ .at = NULL };
	}
	ublk.generation = want_generation();
}

/* Map it as far as it goes.  false: no further than before. */
static bool
map_file(int fd, struct mapping *m)
{
	struct stat st;
	void *at;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size <= m->len)
		return false;
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return false;
	if (m->at) {
		io_uring_submit(&ublk.ring);
		munmap(m->at, m->len);
	}
	m->at = at;
	m->len = (uint64_t)st.st_size;
	return true;
}

/* Was this request answered by a mapping already?  Once only. */
static bool
came_again(const struct io_req *io)
{
	for (unsigned i = 0; i < UBLK_DEPTH; i++) {
		struct tag *t = &ublk.tags[i];

		if (t->mapped_length == io->length &&
		    t->mapped_offset == io->offset) {
			t->mapped_length = 0;
			return true;
		}
	}
	return false;
}

/* Where the kernel finds all bytes of a request behind each other, or NULL. */
static uint8_t *
mapped(struct tag *t)
{
	uint64_t len = t->io.length, offset;
	struct mapping *m;
	int fd;

	if (came_again(&t->io))
		return NULL;
	if (ublk.generation != want_generation())
		maps_drop();
	fd = io_place(t->io.offset, &len, &offset);
	if (fd < 0 || fd >= FILES || len < t->io.length)
		return NULL;
	m = &ublk.maps[fd];
	if (offset + len > m->len &&
	    (!map_file(fd, m) || offset + len > m->len))
		return NULL;
	t->mapped_offset = t->io.offset;
	t->mapped_length = t->io.length;
	return m->at + offset;
}

/* ---- answers ---- */

/* For the kernel: its tag's last result, and it may have another request. */
static void
put(struct tag *t, unsigned op, int32_t result, const void *data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ublk.ring);
	struct ublksrv_io_cmd *cmd;

	if (!sqe)		/* one entry a tag: there is room */
		log_die("device %s: its ring is full", ublk.name);
	io_uring_prep_rw(IORING_OP_URING_CMD, sqe, ublk.fd, NULL, 0, 0);
	sqe->cmd_op = op;
	cmd = (struct ublksrv_io_cmd *)sqe->cmd;
	cmd->q_id = 0;
	cmd->tag = (uint16_t)(t - ublk.tags);
	cmd->result = result;
	cmd->addr = (uintptr_t)data;
	io_uring_sqe_set_data64(sqe, cmd->tag);
}

static void
tag_fail(struct tag *t, int error)
{
	io_end(&t->io);
	atomic_fetch_add_explicit(&core_stats_page()->reads_failed, 1,
	    memory_order_relaxed);
	put(t, UBLK_COMMIT, error, t->buf);
}

static void
tag_served(struct tag *t, const void *data)
{
	atomic_fetch_add_explicit(&core_stats_page()->bytes_served,
	    t->io.length, memory_order_relaxed);
	io_end(&t->io);
	put(t, UBLK_COMMIT, (int32_t)t->io.length, data);
}

/* Its bytes are here: all of them go at once, or it waits again. */
static void
tag_serve(struct tag *t)
{
	uint8_t *at = mapped(t);
	uint32_t pos = 0;
	ssize_t n;

	if (at) {
		tag_served(t, at);
		return;
	}
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
	tag_served(t, t->buf);
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
		put(t, UBLK_COMMIT, r, t->buf);
		return;
	}
	t->io.on_ready = tag_ready;
	r = io_begin(&t->io);
	if (r < 0)
		tag_fail(t, r);
	else if (r > 0)
		tag_serve(t);
}

static void
completed(const struct io_uring_cqe *cqe)
{
	struct tag *t = &ublk.tags[cqe->user_data % UBLK_DEPTH];

	if (cqe->res == UBLK_IO_RES_OK)
		tag_begin(t);
	else if (cqe->res != UBLK_IO_RES_ABORT)
		log_die("device %s: ublk refused tag %u: %s", ublk.name,
		    (unsigned)(t - ublk.tags), strerror(-cqe->res));
	else if (!ublk.stopped) {
		ublk.stopped = true;
		log_info("device %s: the kernel stops it", ublk.name);
	}
}

/* All there is, and then the commits.  One system call a batch. */
static void
ring_turn(void)
{
	struct io_uring_cqe *batch[UBLK_DEPTH];
	unsigned n = 1;

	for (unsigned turn = 0; turn < TURNS && n > 0; turn++) {
		int r = io_uring_submit_and_get_events(&ublk.ring);

		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
			log_die("device %s: its ring: %s", ublk.name,
			    strerror(-r));
		n = io_uring_peek_batch_cqe(&ublk.ring, batch, UBLK_DEPTH);
		for (unsigned i = 0; i < n; i++)
			completed(batch[i]);
		io_uring_cq_advance(&ublk.ring, n);
	}
	if (n > 0)
		event_active(ublk.wake, EV_READ, 0);
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
	struct io_uring_restriction only = {
		.opcode = IORING_RESTRICTION_SQE_OP,
		.sqe_op = IORING_OP_URING_CMD,
	};
	int r = io_uring_register_eventfd(&ublk.ring, ublk.notify);

	if (r < 0)
		return r;
	/* liburing 2.3 has functions for these two, but does not export them */
	if (syscall(SYS_io_uring_register, ublk.ring.ring_fd,
	    IORING_REGISTER_RESTRICTIONS, &only, 1) < 0 ||
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
	    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN };
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
	uint8_t *bufs = mmap(NULL, (size_t)UBLK_DEPTH * UBLK_IO_MAX,
	    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)openers;		/* who has it open, the parent finds out */
	ublk.name = name;
	ublk.wake = event_new(base, ublk.notify, EV_READ | EV_PERSIST | EV_ET,
	    ring_ready, NULL);
	if (bufs == MAP_FAILED || !ublk.wake || event_add(ublk.wake, NULL) < 0)
		log_die("no memory for the ublk shim");
	for (unsigned i = 0; i < UBLK_DEPTH; i++) {
		ublk.tags[i].buf = bufs + (size_t)i * UBLK_IO_MAX;
		put(&ublk.tags[i], UBLK_FETCH, 0, ublk.tags[i].buf);
	}
	ring_turn();
}

const struct shim ublk_shim = {
	.prepare = ublk_prepare,
	.take = ublk_take,
	.complete = ublk_complete,
	.start = ublk_start,
};
