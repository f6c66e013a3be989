/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Debian 12's linux/ublk_cmd.h (6.1) lacks; all from
 * include/uapi/linux/ublk_cmd.h of Linux 7.2.  Both sides of the ublk shim
 * speak commands in their ioctl encoding only, which is of 6.4.
 */
#ifndef DEVD_UBLK_ABI_H
#define DEVD_UBLK_ABI_H

#include <linux/ublk_cmd.h>
#include <sys/ioctl.h>

#define UBLK_CTL(nr)		_IOWR('u', nr, struct ublksrv_ctrl_cmd)
#define UBLK_CTL_READ(nr)	_IOR('u', nr, struct ublksrv_ctrl_cmd)
#define UBLK_IO(nr)		_IOWR('u', nr, struct ublksrv_io_cmd)

#define UBLK_ADD		UBLK_CTL(UBLK_CMD_ADD_DEV)
#define UBLK_START		UBLK_CTL(UBLK_CMD_START_DEV)
#define UBLK_STOP		UBLK_CTL(UBLK_CMD_STOP_DEV)
#define UBLK_DEL		UBLK_CTL(UBLK_CMD_DEL_DEV)
#define UBLK_DEL_ASYNC		UBLK_CTL_READ(0x14)	/* 6.9 */
#define UBLK_PARAMS		UBLK_CTL(UBLK_CMD_SET_PARAMS)
#define UBLK_RECOVER		UBLK_CTL(UBLK_CMD_START_USER_RECOVERY)
#define UBLK_RECOVERED		UBLK_CTL(UBLK_CMD_END_USER_RECOVERY)
#define UBLK_INFO		UBLK_CTL_READ(UBLK_CMD_GET_DEV_INFO)
#define UBLK_FEATURES		UBLK_CTL_READ(0x13)	/* 6.5 */
#define UBLK_FETCH		UBLK_IO(UBLK_IO_FETCH_REQ)
#define UBLK_COMMIT		UBLK_IO(UBLK_IO_COMMIT_AND_FETCH_REQ)

#define UBLK_F_IOCTL_ENCODE	(1ULL << 6)	/* UBLK_F_CMD_IOCTL_ENCODE, 6.4 */
#define UBLK_F_NO_SCAN		(1ULL << 18)	/* UBLK_F_NO_AUTO_PART_SCAN, 7.0 */

/* One queue of this depth; the worker maps its request array. */
#define UBLK_DEPTH	64
#define UBLK_IO_MAX	(512 * 1024)	/* bytes of a request: what the core
					 * finds at once (IO_PIECE_MAX) */
#define UBLK_SECTOR	512

#endif
