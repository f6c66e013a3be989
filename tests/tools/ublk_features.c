// SPDX-License-Identifier: Apache-2.0
/*
 * Asks the kernel's ublk driver which features it has; prints them as a number
 * and by name, in one line:
 *
 *	0x1fe URING_CMD_COMP_IN_TASK NEED_GET_DATA ...
 *
 * Exits 1, with the reason, if /dev/ublk-control does not open or answer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <liburing.h>
#include <linux/ublk_cmd.h>

/*
 * Since Linux 6.5; the headers of 6.1 lack it.  Both numbers are those of
 * include/uapi/linux/ublk_cmd.h.
 */
#ifndef UBLK_U_CMD_GET_FEATURES
#define UBLK_U_CMD_GET_FEATURES	_IOR('u', 0x13, struct ublksrv_ctrl_cmd)
#define UBLK_FEATURES_LEN	8
#endif

/* By bit: the UBLK_F_* of Linux 7.2's linux/ublk_cmd.h. */
static const char *const names[] = {
	"SUPPORT_ZERO_COPY", "URING_CMD_COMP_IN_TASK", "NEED_GET_DATA",
	"USER_RECOVERY", "USER_RECOVERY_REISSUE", "UNPRIVILEGED_DEV",
	"CMD_IOCTL_ENCODE", "USER_COPY", "ZONED", "USER_RECOVERY_FAIL_IO",
	"UPDATE_SIZE", "AUTO_BUF_REG", "QUIESCE", "PER_IO_DAEMON",
	"BUF_REG_OFF_DAEMON", "BATCH_IO", "INTEGRITY", "SAFE_STOP_DEV",
	"NO_AUTO_PART_SCAN", "SHMEM_ZC",
};
#define NAMES	(sizeof(names) / sizeof(names[0]))

static void
fatal(const char *what, int error)
{
	fprintf(stderr, "ublk_features: %s: %s\n", what, strerror(error));
	exit(1);
}

/* A control command needs an entry of 128 bytes: its own part is behind. */
static int
get_features(struct io_uring *ring, int control, uint64_t *features)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct ublksrv_ctrl_cmd *cmd;
	struct io_uring_cqe *cqe;
	int r;

	if (!sqe)
		return -EBUSY;
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = control;
	sqe->cmd_op = UBLK_U_CMD_GET_FEATURES;
	cmd = (struct ublksrv_ctrl_cmd *)sqe->cmd;
	cmd->dev_id = (uint32_t)-1;
	cmd->queue_id = (uint16_t)-1;
	cmd->addr = (uintptr_t)features;
	cmd->len = UBLK_FEATURES_LEN;
	r = io_uring_submit(ring);
	if (r < 0)
		return r;
	r = io_uring_wait_cqe(ring, &cqe);
	return r < 0 ? r : cqe->res;
}

int
main(void)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQE128 };
	struct io_uring ring;
	uint64_t features = 0;
	int control, r;

	control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (control == -1)
		fatal("/dev/ublk-control", errno);
	r = io_uring_queue_init_params(4, &ring, &params);
	if (r < 0)
		fatal("io_uring", -r);
	r = get_features(&ring, control, &features);
	if (r < 0)
		fatal("GET_FEATURES", -r);
	printf("0x%" PRIx64, features);
	for (size_t i = 0; i < NAMES; i++)
		if (features & (UINT64_C(1) << i))
			printf(" %s", names[i]);
	printf("\n");
	io_uring_queue_exit(&ring);
	return 0;
}
