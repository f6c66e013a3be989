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
 *
 * A device that control wants to end may be in use, which only a look at all
 * processes tells.  Then control hears of an opener, and of none when there is
 * none any more.
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
#define CHECK_MS	30000	/* a look at all processes */
#define CHECK_AGAIN_S	1
#define SWEEP_MS	10000

static struct event_base *base;
static gid_t group;
static uint64_t mark;

static void check(struct device *dev);
static void removed(void *owner, int result);

void
parent_ublk_init(struct event_base *b, const char *run, gid_t g)
{
	struct digest d = digest_of(run, strlen(run));

	base = b;
	group = g;
	memcpy(&mark, d.bytes, sizeof(mark));
}

int
parent_ublk_sweep(void)
{
	uint32_t keep[DEVICES_MAX];
	struct ublk_ask ask = { .act = UBLK_ACT_SWEEP, .mark = mark,
		.keep = keep };
	struct device *dev;
	int r;

	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (dev->spec.present == CTL_PRESENT(UBLK) && !dev->ending &&
		    ask.n_keep < ARRAY_LEN(keep))
			keep[ask.n_keep++] = dev->ublk.number;
	r = apart_run(ublk_act, &ask, -1, SWEEP_MS);
	/* without a driver, or not as root: there are none */
	return r == -ENOENT || r == -EACCES || r == -EPERM ? 0 : r;
}

/* ---- commands ---- */

static void
act(struct device *dev, enum ublk_state state, enum ublk_act what, int ms,
    apart_done *done)
{
	const struct ublk_ask ask = { .act = what, .number = dev->ublk.number,
		.size = dev->spec.size, .mark = mark, .opener = getpid(),
		.group = group };

	apart_free(dev->ublk.act);
	dev->ublk.state = state;
	dev->ublk.act = apart_start(base, ublk_act, &ask, -1, ms, done, dev);
	if (!dev->ublk.act)
		done(dev, -ENOMEM);
}

static void
say(const struct device *dev, const char *what, int error)
{
	log_err("device %s: %s /dev/ublkb%u: %s", dev->spec.name, what,
	    dev->ublk.number, strerror(-error));
}

/* ---- the end ---- */

/* Its worker is gone: so can the device. */
static void
remove_now(struct device *dev)
{
	act(dev, UBLK_REMOVING, UBLK_ACT_REMOVE, ACT_MS, removed);
}

static void
remove_device(struct device *dev, int why)
{
	apart_free(take_ptr(dev->ublk.act));
	apart_free(take_ptr(dev->ublk.check));
	if (dev->ublk.again)
		event_del(dev->ublk.again);
	dev->ublk.why = why;
	parent_device_ending(dev);
	if (dev->worker.pid > 0)
		kill(dev->worker.pid, SIGKILL);
	else
		remove_now(dev);
}

static void
removed(void *owner, int result)
{
	struct device *dev = owner;

	dev->ublk.act = NULL;
	if (result < 0) {
		say(dev, "take away", result);
		log_err("if it is still there, end who uses it and run: devd "
		    "--remove-devices");
	}
	parent_device_ended(dev, dev->ublk.why);
}

/* ---- who has it open ---- */

static int
look(const void *arg)
{
	return openers_any(arg);
}

static void
again_due(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	check(arg);
}

static void
again_later(struct device *dev)
{
	const struct timeval wait = { .tv_sec = CHECK_AGAIN_S };

	if (!dev->ublk.again)
		dev->ublk.again = evtimer_new(base, again_due, dev);
	if (!dev->ublk.again || evtimer_add(dev->ublk.again, &wait) < 0)
		log_die("no memory for a timer");
}

static void
openers_set(struct device *dev, uint64_t n)
{
	if (fd_pwrite_all(dev->stats, &n, sizeof(n),
	    offsetof(struct stats, openers)) < 0)
		log_err("device %s: write its openers", dev->spec.name);
}

/* What can't be told counts as used. */
static void
checked(void *owner, int result)
{
	struct device *dev = owner;

	dev->ublk.check = NULL;
	if (result == 0 && dev->ublk.unwanted) {
		remove_device(dev, 0);
	} else if (result == 0) {
		openers_set(dev, 0);
		parent_device_worker_openers(dev, 0);
	} else {
		openers_set(dev, 1);
		if (dev->ublk.unwanted)		/* it is not ending yet */
			parent_device_announce(dev);
		dev->ublk.unwanted = false;
		again_later(dev);
	}
}

static void
check(struct device *dev)
{
	char name[32];

	if (dev->ublk.check)
		return;
	snprintf(name, sizeof(name), "ublkb%u", dev->ublk.number);
	dev->ublk.check = apart_start(base, look, name, -1, CHECK_MS, checked,
	    dev);
	if (!dev->ublk.check)
		again_later(dev);
}

void
parent_ublk_end(struct device *dev)
{
	dev->ublk.unwanted = true;
	if (dev->ublk.state == UBLK_LIVE)
		check(dev);
}

void
parent_ublk_stop(struct device *dev)
{
	apart_free(take_ptr(dev->ublk.act));
	apart_free(take_ptr(dev->ublk.check));
	if (dev->worker.pid > 0)
		kill(dev->worker.pid, SIGKILL);
}

void
parent_ublk_free(struct device *dev)
{
	parent_ublk_stop(dev);
	if (dev->ublk.again)
		event_free(dev->ublk.again);
}

/* ---- making ---- */

static void
made(void *owner, int result)
{
	struct device *dev = owner;

	dev->ublk.act = NULL;
	if (result < 0) {
		parent_device_ended(dev, result);
		return;
	}
	dev->ublk.number = (uint32_t)result;
	dev->ublk.state = UBLK_WAITING;
	if (dev->ublk.unwanted)
		remove_device(dev, 0);
	else
		parent_start_child(&dev->worker);
}

void
parent_ublk_make(struct device *dev)
{
	act(dev, UBLK_MAKING, UBLK_ACT_MAKE, ACT_MS, made);
}

void
parent_ublk_give(struct device *dev)
{
	struct parent_msg msg = { .type = PARENT_UBLK, .device = dev->spec };
	int fd = ublk_open(dev->ublk.number);

	if (fd < 0) {
		say(dev, "open the character device of", fd);
		kill(dev->worker.pid, SIGKILL);
		return;
	}
	parent_send(dev->worker.link, &msg, fd);
}

static void
live(struct device *dev)
{
	dev->ublk.state = UBLK_LIVE;
	if (dev->ublk.unwanted)
		check(dev);
}

static void
started(void *owner, int result)
{
	struct device *dev = owner;

	dev->ublk.act = NULL;
	if (result < 0) {
		say(dev, "start", result);
		remove_device(dev, result);
		return;
	}
	parent_device_announce(dev);
	live(dev);
}

static void
resumed(void *owner, int result)
{
	struct device *dev = owner;

	dev->ublk.act = NULL;
	if (result < 0) {
		/* its worker ends, and all is tried again */
		say(dev, "give a new worker to", result);
		dev->ublk.state = UBLK_RETURNING;
		kill(dev->worker.pid, SIGKILL);
		return;
	}
	live(dev);
}

void
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

	dev->ublk.act = NULL;
	if (result < 0) {
		say(dev, "recover", result);
		log_err("device %s: it is taken away and made again; whoever "
		    "has it open gets errors", dev->spec.name);
		remove_device(dev, 0);
		return;
	}
	dev->ublk.state = UBLK_RETURNING;
	parent_start_child_later(&dev->worker, dev->ublk.wait_ms);
}

void
parent_ublk_worker_ended(struct device *dev, uint32_t wait_ms)
{
	if (dev->ending) {
		remove_now(dev);
		return;
	}
	if (dev->ublk.state == UBLK_WAITING ||
	    dev->ublk.state == UBLK_STARTING) {
		remove_device(dev, -EIO);
		return;
	}
	dev->ublk.wait_ms = wait_ms;
	act(dev, UBLK_RECOVERING, UBLK_ACT_RECOVER, RECOVER_MS, recovered);
}

/* Its worker ended with the earlier life. */
void
parent_ublk_adopt(struct device *dev)
{
	parent_ublk_worker_ended(dev, 0);
}
