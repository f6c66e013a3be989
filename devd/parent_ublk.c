// SPDX-License-Identifier: Apache-2.0
/*
 * The parent's ublk devices: which control command is due, and what follows its
 * answer.  The commands themselves run in processes apart (ublk_linux.c).
 *
 *	MAKING --> WAITING --worker ready--> STARTING --> LIVE --> REMOVING
 *	                                                  |  ^        ^
 *	                                    worker dies   v  |        |
 *	                   RECOVERING --> RETURNING --> RESUMING      |
 *	                        |                                     |
 *	                        +-- it does not come back ------------+
 *
 * Requests that a dead worker had are issued again to its successor by the
 * kernel.  The descriptor of the character device goes to the worker alone:
 * while anybody else has it, the kernel does not see that a worker died.
 *
 * The same way from RECOVERING on goes one that an earlier life of this process
 * has left.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/parent.h"

#define ACT_MS		15000	/* of a command; under emulation START takes 1 s */
#define RECOVER_MS	30000	/* until the driver saw that a worker died */
#define SWEEP_MS	10000

/* ---- commands ---- */

static void
act(struct device *dev, enum ublk_state state, enum ublk_act what, int ms,
    apart_done *done)
{
	const struct ublk_ask ask = { .act = what, .number = dev->block.number,
		.size = dev->spec.size, .mark = block_host.mark,
		.opener = getpid(), .group = block_host.group };

	apart_free(dev->block.act);
	dev->ublk.state = state;
	dev->block.act = apart_start(block_host.base, ublk_act, &ask, -1, ms,
	    done, dev);
	if (!dev->block.act)
		done(dev, -ENOMEM);
}

/* ---- the end ---- */

/* Its worker is gone: so can the device. */
static void
parent_ublk_take_away(struct device *dev)
{
	act(dev, UBLK_REMOVING, UBLK_ACT_REMOVE, ACT_MS, parent_block_removed);
}

static void
parent_ublk_end(struct device *dev)
{
	dev->block.unwanted = true;
	if (dev->ublk.state == UBLK_LIVE)
		parent_block_check(dev);
}

/* ---- making ---- */

static void
made(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0) {
		parent_device_ended(dev, result);
		return;
	}
	dev->block.number = (uint32_t)result;
	dev->ublk.state = UBLK_WAITING;
	if (dev->block.unwanted)
		parent_block_remove(dev, 0);
	else
		parent_start_child(&dev->worker);
}

static void
parent_ublk_make(struct device *dev)
{
	act(dev, UBLK_MAKING, UBLK_ACT_MAKE, ACT_MS, made);
}

static void
parent_ublk_give(struct device *dev)
{
	struct parent_msg msg = { .type = PARENT_UBLK, .device = dev->spec };
	int fd = ublk_open(dev->block.number);

	if (fd < 0) {
		parent_block_say(dev, "open the character device of", fd);
		kill(dev->worker.pid, SIGKILL);
		return;
	}
	parent_send(dev->worker.link, &msg, fd);
}

static void
live(struct device *dev)
{
	dev->ublk.state = UBLK_LIVE;
	if (dev->block.unwanted)
		parent_block_check(dev);
}

static void
started(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0) {
		parent_block_say(dev, "start", result);
		parent_block_remove(dev, result);
		return;
	}
	parent_device_announce(dev);
	live(dev);
}

static void
resumed(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0) {
		/* its worker ends, and all is tried again */
		parent_block_say(dev, "give a new worker to", result);
		dev->ublk.state = UBLK_RETURNING;
		kill(dev->worker.pid, SIGKILL);
		return;
	}
	live(dev);
}

static void
parent_ublk_worker_ready(struct device *dev)
{
	if (dev->ublk.state == UBLK_WAITING)
		act(dev, UBLK_STARTING, UBLK_ACT_START, ACT_MS, started);
	else if (dev->ublk.state == UBLK_RETURNING)
		act(dev, UBLK_RESUMING, UBLK_ACT_RESUME, ACT_MS, resumed);
}

/* ---- a worker's death ---- */

static void
recovered(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0) {
		parent_block_say(dev, "recover", result);
		log_err("device %s: it is taken away and made again; whoever "
		    "has it open gets errors", dev->spec.name);
		parent_block_remove(dev, 0);
		return;
	}
	dev->ublk.state = UBLK_RETURNING;
	parent_start_child_later(&dev->worker, dev->block.wait_ms);
}

static void
parent_ublk_worker_ended(struct device *dev, uint32_t wait_ms)
{
	if (dev->ending) {
		parent_ublk_take_away(dev);
		return;
	}
	if (dev->ublk.state == UBLK_WAITING ||
	    dev->ublk.state == UBLK_STARTING) {
		parent_block_remove(dev, -EIO);
		return;
	}
	dev->block.wait_ms = wait_ms;
	act(dev, UBLK_RECOVERING, UBLK_ACT_RECOVER, RECOVER_MS, recovered);
}

/* Its worker ended with the earlier life. */
static void
parent_ublk_adopt(struct device *dev)
{
	parent_ublk_worker_ended(dev, 0);
}

static int
parent_ublk_sweep(const uint32_t *keep, size_t n)
{
	const struct ublk_ask ask = { .act = UBLK_ACT_SWEEP,
		.mark = block_host.mark, .keep = keep, .n_keep = n };
	int r = apart_run(ublk_act, &ask, -1, SWEEP_MS);

	/* without a driver, or not as root: there are none */
	return r == -ENOENT || r == -EACCES || r == -EPERM ? 0 : r;
}

const struct block_kind ublk_kind = {
	.present = CTL_PRESENT(UBLK),
	.argument = "ublk",
	.prefix = "ublkb",
	.make = parent_ublk_make,
	.adopt = parent_ublk_adopt,
	.give = parent_ublk_give,
	.worker_ready = parent_ublk_worker_ready,
	.worker_ended = parent_ublk_worker_ended,
	.end = parent_ublk_end,
	.take_away = parent_ublk_take_away,
	.sweep = parent_ublk_sweep,
};
