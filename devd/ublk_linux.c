// SPDX-License-Identifier: Apache-2.0
/*
 * Control commands of the kernel's ublk driver.  All of this runs in a process
 * apart (apart.c), with nothing of the parent's open: a command may never come
 * back.
 *
 *	ADD, SET_PARAMS --worker has fetched--> START --> LIVE --> STOP, DEL
 *	                                                  |  ^
 *	                  worker dies: START_USER_RECOVERY|  |END_USER_RECOVERY
 *	                                                  v  |
 *	                                     (its successor fetches)
 *
 * Every device carries its instance's mark in ublksrv_flags, which the driver
 * keeps and never reads: by it the next instance knows what a dead one left.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/utsname.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"
#include "devd/ublk_abi.h"

#define CONTROL		"/dev/ublk-control"
#define CHARS		"/sys/class/ublk-char"
#define NEEDED		(UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | \
	UBLK_F_IOCTL_ENCODE)
#define POLL_MS		10	/* until the driver saw that a worker died */
/* log2 of bytes; the kernel reads twice as much ahead: 512 KiB, as of files */
#define IO_OPT_SHIFT	18

struct driver {
	struct io_uring ring;
	int control;
};

static int
driver_open(struct driver *d)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQE128 };

	d->control = open(CONTROL, O_RDWR | O_CLOEXEC);
	if (d->control < 0)
		return -errno;
	return io_uring_queue_init_params(4, &d->ring, &params);
}

/* Its own part lies behind the first 48 bytes of an entry of 128. */
static int
command(struct driver *d, unsigned op, uint32_t number, void *addr, size_t len,
    uint64_t data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);
	struct ublksrv_ctrl_cmd *cmd;
	struct io_uring_cqe *cqe;
	int r;

	if (!sqe)
		return -EBUSY;
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = d->control;
	sqe->cmd_op = op;
	cmd = (struct ublksrv_ctrl_cmd *)sqe->cmd;
	cmd->dev_id = number;
	cmd->queue_id = (uint16_t)-1;
	cmd->addr = (uintptr_t)addr;
	cmd->len = (uint16_t)len;
	cmd->data[0] = data;
	r = io_uring_submit(&d->ring);
	if (r < 0)
		return r;
	do {
		r = io_uring_wait_cqe(&d->ring, &cqe);
	} while (r == -EINTR);
	if (r < 0)
		return r;
	r = cqe->res;
	io_uring_cqe_seen(&d->ring, cqe);
	return r;
}

static int
features(struct driver *d, uint64_t *out)
{
	int r = command(d, UBLK_FEATURES, (uint32_t)-1, out, sizeof(*out), 0);

	if (r < 0)
		return r;
	return (*out & NEEDED) == NEEDED ? 0 : -EOPNOTSUPP;
}

/* ---- acts ---- */

static int
act_probe(struct driver *d, const struct ublk_ask *ask)
{
	uint64_t has = 0;

	(void)ask;
	return features(d, &has);
}

static int
set_params(struct driver *d, uint32_t number, uint64_t size)
{
	struct ublk_params p = {
		.len = sizeof(p),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.attrs = UBLK_ATTR_READ_ONLY,
			.logical_bs_shift = 9,
			.physical_bs_shift = 12,
			.io_min_shift = 12,
			.io_opt_shift = IO_OPT_SHIFT,
			.max_sectors = UBLK_IO_MAX / UBLK_SECTOR,
			.dev_sectors = size / UBLK_SECTOR,
		},
	};

	return command(d, UBLK_PARAMS, number, &p, sizeof(p), 0);
}

static int
act_make(struct driver *d, const struct ublk_ask *ask)
{
	struct ublksrv_ctrl_dev_info info = { .nr_hw_queues = 1,
		.queue_depth = UBLK_DEPTH, .max_io_buf_bytes = UBLK_IO_MAX,
		.dev_id = (uint32_t)-1, .ublksrv_flags = ask->mark };
	uint64_t has = 0;
	int r = features(d, &has);

	if (r < 0)
		return r;
	info.flags = NEEDED | (has & UBLK_F_NO_SCAN);
	r = command(d, UBLK_ADD, info.dev_id, &info, sizeof(info), 0);
	if (r < 0)
		return r;
	r = set_params(d, info.dev_id, ask->size);
	if (r < 0) {
		command(d, UBLK_DEL, info.dev_id, NULL, 0, 0);
		return r;
	}
	return (int)info.dev_id;
}

/* The driver made the node, for root alone. */
static int
act_start(struct driver *d, const struct ublk_ask *ask)
{
	char path[32];
	int r = command(d, UBLK_START, ask->number, NULL, 0,
	    (uint64_t)ask->opener);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/dev/ublkb%u", ask->number);
	if (chown(path, 0, ask->group) < 0 || chmod(path, 0440) < 0)
		log_warn("give %s to its group: %s", path, strerror(errno));
	return 0;
}

static int
act_recover(struct driver *d, const struct ublk_ask *ask)
{
	const struct timespec wait = { .tv_nsec = POLL_MS * 1000000L };
	struct ublksrv_ctrl_dev_info info;
	int r = command(d, UBLK_INFO, ask->number, &info, sizeof(info), 0);

	if (r < 0)
		return r;
	if (info.ublksrv_flags != ask->mark)
		return -ENODEV;
	while ((r = command(d, UBLK_RECOVER, ask->number, NULL, 0, 0)) ==
	    -EBUSY)
		nanosleep(&wait, NULL);
	return r;
}

static int
act_resume(struct driver *d, const struct ublk_ask *ask)
{
	return command(d, UBLK_RECOVERED, ask->number, NULL, 0,
	    (uint64_t)ask->opener);
}

/* DEL waits for the last one who has it open: only where there is no other. */
static int
act_remove(struct driver *d, const struct ublk_ask *ask)
{
	int r = command(d, UBLK_STOP, ask->number, NULL, 0, 0);

	if (r < 0)
		return r == -ENODEV ? 0 : r;
	r = command(d, UBLK_DEL_ASYNC, ask->number, NULL, 0, 0);
	if (r < 0 && r != -ENODEV)
		r = command(d, UBLK_DEL, ask->number, NULL, 0, 0);
	return r == -ENODEV ? 0 : r;
}

static bool
is_kept(const struct ublk_ask *ask, uint32_t number)
{
	for (size_t i = 0; i < ask->n_keep; i++)
		if (ask->keep[i] == number)
			return true;
	return false;
}

static int
act_sweep(struct driver *d, const struct ublk_ask *ask)
{
	struct ublksrv_ctrl_dev_info info;
	struct ublk_ask one = *ask;
	DIR *chars = opendir(CHARS);
	struct dirent *e;
	int n = 0, r = 0;

	while (chars && r >= 0 && (e = readdir(chars))) {
		if (sscanf(e->d_name, "ublkc%u", &one.number) != 1 ||
		    is_kept(ask, one.number) ||
		    command(d, UBLK_INFO, one.number, &info, sizeof(info),
		    0) < 0 || info.ublksrv_flags != ask->mark)
			continue;
		r = act_remove(d, &one);
		n++;
	}
	if (chars)
		closedir(chars);
	return r < 0 ? r : n;
}

static int (*const acts[])(struct driver *d, const struct ublk_ask *ask) = {
	[UBLK_ACT_PROBE] = act_probe,
	[UBLK_ACT_MAKE] = act_make,
	[UBLK_ACT_START] = act_start,
	[UBLK_ACT_RECOVER] = act_recover,
	[UBLK_ACT_RESUME] = act_resume,
	[UBLK_ACT_REMOVE] = act_remove,
	[UBLK_ACT_SWEEP] = act_sweep,
};

int
ublk_act(const void *arg)
{
	const struct ublk_ask *ask = arg;
	struct driver d;
	int r = driver_open(&d);

	return r < 0 ? r : acts[ask->act](&d, ask);
}

/* ---- in the parent itself ---- */

int
ublk_open(uint32_t number)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/ublkc%u", number);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int
ublk_possible(bool force, const char **remedy)
{
	const struct ublk_ask ask = { .act = UBLK_ACT_PROBE };
	struct utsname kernel;
	int r;

	if (geteuid() != 0) {
		*remedy = "only a service of root can make ublk devices; use "
		    "--present nbd";
		return -EPERM;
	}
	if (access(CONTROL, F_OK) < 0) {
		*remedy = CONTROL " is missing: load the module ublk_drv, or "
		    "use --present file";
		return -errno;
	}
	uname(&kernel);
	*remedy = force ? NULL : ublk_kernel_refused(kernel.release);
	if (*remedy)
		return -EOPNOTSUPP;
	*remedy = "the kernel's ublk driver lacks what is needed (see the "
	    "log); use --present file";
	r = apart_run(ublk_act, &ask, -1, UBLK_PROBE_MS);
	if (r < 0)
		log_warn("ask the ublk driver for its features: %s",
		    strerror(-r));
	return r;
}
