// SPDX-License-Identifier: Apache-2.0
/*
 * The parent's devices that the kernel's own NBD client presents: which command
 * is due, and what follows its answer.  The commands themselves run in
 * processes apart (knbd_linux.c).
 *
 *	WAITING --worker ready--> CONNECTING --> LIVE --> REMOVING
 *	                                         |  ^
 *	                             worker dies v  |
 *	                    RETURNING --worker ready--> RESUMING
 *
 * Each worker gets one end of a pair of sockets, and the kernel the other: a
 * connection that is in its transmission phase from its first byte, since what
 * a handshake tells the kernel has from us.  Neither end is kept here: the
 * kernel sees a worker's death by the end of its socket, and asks the worker
 * that comes with the next socket for what was not answered (KNBD_RETRY_MS).
 * That one connection must stay the only one: with more of them the kernel's
 * timer takes a slow answer for a dead socket.
 *
 * The kernel takes no socket before it saw the death of the one before, and
 * says nothing of that; but then the new worker's connection ends, thus that
 * worker, and the next one has more luck.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/parent.h"

#define ACT_MS		15000	/* of a command */
#define SWEEP_MS	10000

/* ---- commands ---- */

static void
act(struct device *dev, enum knbd_state state, enum knbd_act what,
    apart_done *done)
{
	struct knbd_ask ask = { .act = what, .number = dev->block.number,
		.size = dev->spec.size, .group = block_host.group };

	knbd_identifier(block_host.mark, dev->spec.id, ask.identifier);
	apart_free(dev->block.act);
	dev->knbd.state = state;
	dev->knbd.lost = false;
	dev->block.act = apart_start(block_host.base, knbd_act, &ask,
	    dev->knbd.kernels, ACT_MS, done, dev);
	/* that process has it, and then the kernel alone */
	fd_close(dev->knbd.kernels);
	dev->knbd.kernels = -1;
	if (!dev->block.act)
		done(dev, -ENOMEM);
}

static void
take_away(struct device *dev)
{
	act(dev, KNBD_REMOVING, KNBD_ACT_REMOVE, parent_block_removed);
}

static void
end(struct device *dev)
{
	dev->block.unwanted = true;
	if (dev->knbd.state == KNBD_LIVE)
		parent_block_check(dev);
}

/* ---- making ---- */

static void
make(struct device *dev)
{
	dev->knbd.state = KNBD_WAITING;
	parent_start_child(&dev->worker);
}

static void
give(struct device *dev)
{
	struct parent_msg msg = { .type = PARENT_NBD, .device = dev->spec };
	int pair[2], r = fd_pair(pair);

	if (r < 0) {
		parent_block_say(dev, "make a connection for", r);
		kill(dev->worker.pid, SIGKILL);
		return;
	}
	fd_close(dev->knbd.kernels);
	dev->knbd.kernels = pair[0];
	parent_send(dev->worker.link, &msg, pair[1]);
}

static void
live(struct device *dev)
{
	dev->knbd.state = KNBD_LIVE;
	if (dev->block.unwanted)
		parent_block_check(dev);
}

static void
connected(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0 || dev->knbd.lost) {
		parent_block_remove(dev, result < 0 ? result : -EIO);
		return;
	}
	dev->block.number = (uint32_t)result;
	parent_device_announce(dev);
	live(dev);
}

/* ---- a worker's death ---- */

static void
come_back(struct device *dev)
{
	dev->knbd.state = KNBD_RETURNING;
	parent_start_child_later(&dev->worker, dev->block.wait_ms);
}

static void
resumed(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0) {
		parent_block_say(dev, "give a new worker to", result);
		log_err("device %s: it is taken away and made again; whoever "
		    "has it open gets errors", dev->spec.name);
		parent_block_remove(dev, 0);
	} else if (dev->knbd.lost)
		come_back(dev);
	else
		live(dev);
}

static void
worker_ready(struct device *dev)
{
	if (dev->knbd.state == KNBD_WAITING)
		act(dev, KNBD_CONNECTING, KNBD_ACT_CONNECT, connected);
	else if (dev->knbd.state == KNBD_RETURNING)
		act(dev, KNBD_RESUMING, KNBD_ACT_RESUME, resumed);
}

static void
worker_ended(struct device *dev, uint32_t wait_ms)
{
	dev->block.wait_ms = wait_ms;
	if (dev->ending)
		take_away(dev);
	else if (dev->knbd.state == KNBD_CONNECTING ||
	    dev->knbd.state == KNBD_RESUMING)
		dev->knbd.lost = true;	/* of what the kernel is told now */
	else if (dev->knbd.state == KNBD_WAITING)
		parent_block_remove(dev, -EIO);
	else
		come_back(dev);
}

/* Its worker, and thus its connection, ended with the earlier life. */
static void
adopt(struct device *dev)
{
	come_back(dev);
}

static int
sweep(const uint32_t *keep, size_t n)
{
	struct knbd_ask ask = { .act = KNBD_ACT_REMOVE, .keep = keep,
		.n_keep = n };

	knbd_identifier(block_host.mark, "", ask.identifier);
	return apart_run(knbd_act, &ask, -1, SWEEP_MS);
}

const struct block_kind knbd_kind = {
	.present = CTL_PRESENT(KERNEL_NBD),
	.argument = "kernel-nbd",
	.prefix = "nbd",
	.make = make,
	.adopt = adopt,
	.give = give,
	.worker_ready = worker_ready,
	.worker_ended = worker_ended,
	.end = end,
	.take_away = take_away,
	.sweep = sweep,
};
