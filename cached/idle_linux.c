// SPDX-License-Identifier: Apache-2.0
/* Work that nobody waits for: ioprio_set(2), nice. */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>

#include <unistd.h>

#include "cached/idle.h"

/* include/uapi/linux/ioprio.h, which Debian 12's libc headers lack */
#define IOPRIO_WHO_PROCESS	1
#define IOPRIO_CLASS_IDLE	3
#define IOPRIO_CLASS_SHIFT	13
#define NICE_LAST		19

void
idle_priority(void)
{
	/* 0: this thread */
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
	    IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT);
	setpriority(PRIO_PROCESS, 0, NICE_LAST);
}
