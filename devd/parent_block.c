// SPDX-License-Identifier: Apache-2.0
/*
 * What the parent's block devices have in common, whichever driver of the
 * kernel presents them (parent_ublk.c, parent_knbd.c): who has one open, and
 * the end of one.
 *
 *	control wants its end --> look --nobody has it--> worker is killed
 *	       ^                   |                            |
 *	       |                somebody                 kind->take_away()
 *	       |                   v                            |
 *	       +---- control hears of an opener,               gone
 *	             and of none when there is none any more
 *
 * Nobody tells who has a block device open: only a look at all processes does,
 * in a process apart.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/parent.h"

#define CHECK_MS	30000	/* a look at all processes */
#define CHECK_AGAIN_S	1

struct block_host block_host;

static const struct block_kind *const kinds[] = { &ublk_kind, &knbd_kind };

void
parent_block_init(struct event_base *base, const char *run, gid_t group)
{
	struct digest d = digest_of(run, strlen(run));

	block_host.base = base;
	block_host.group = group;
	memcpy(&block_host.mark, d.bytes, sizeof(block_host.mark));
}

const struct block_kind *
parent_block_kind(uint32_t present)
{
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (kinds[i]->present == present)
			return kinds[i];
	return NULL;
}

/* ---- what is left over ---- */

static size_t
kept(const struct block_kind *kind, uint32_t numbers[DEVICES_MAX])
{
	struct device *dev;
	size_t n = 0;

	TAILQ_FOREACH(dev, &parent_devices, entry)
		if (dev->block.kind == kind && !dev->ending && n < DEVICES_MAX)
			numbers[n++] = dev->block.number;
	return n;
}

int
parent_block_sweep(void)
{
	int all = 0, failed = 0;

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		uint32_t keep[DEVICES_MAX];
		int n = kinds[i]->sweep(keep, kept(kinds[i], keep));

		if (n > 0)
			all += n;
		else if (failed == 0)
			failed = n;
	}
	return failed < 0 ? failed : all;
}

/* ---- the end ---- */

void
parent_block_remove(struct device *dev, int why)
{
	parent_block_stop(dev);
	dev->block.why = why;
	parent_device_ending(dev);
	if (dev->worker.pid <= 0)
		dev->block.kind->take_away(dev);
}

void
parent_block_removed(void *owner, int result)
{
	struct device *dev = owner;

	dev->block.act = NULL;
	if (result < 0) {
		parent_block_say(dev, "take away", result);
		log_err("if it is still there, end who uses it and run: devd "
		    "--remove-devices");
	}
	parent_device_ended(dev, dev->block.why);
}

void
parent_block_stop(struct device *dev)
{
	apart_free(take_ptr(dev->block.act));
	apart_free(take_ptr(dev->block.check));
	if (dev->block.again)
		event_del(dev->block.again);
	if (dev->worker.pid > 0)
		kill(dev->worker.pid, SIGKILL);
}

void
parent_block_free(struct device *dev)
{
	parent_block_stop(dev);
	if (dev->block.again)
		event_free(dev->block.again);
}

void
parent_block_say(const struct device *dev, const char *what, int error)
{
	log_err("device %s: %s /dev/%s%u: %s", dev->spec.name, what,
	    dev->block.kind->prefix, dev->block.number, strerror(-error));
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
	parent_block_check(arg);
}

static void
again_later(struct device *dev)
{
	const struct timeval wait = { .tv_sec = CHECK_AGAIN_S };

	if (!dev->block.again)
		dev->block.again = evtimer_new(block_host.base, again_due, dev);
	if (!dev->block.again || evtimer_add(dev->block.again, &wait) < 0)
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

	dev->block.check = NULL;
	if (result == 0 && dev->block.unwanted) {
		parent_block_remove(dev, 0);
	} else if (result == 0) {
		openers_set(dev, 0);
		parent_device_worker_openers(dev, 0);
	} else {
		openers_set(dev, 1);
		if (dev->block.unwanted)	/* it is not ending yet */
			parent_device_announce(dev);
		dev->block.unwanted = false;
		again_later(dev);
	}
}

void
parent_block_check(struct device *dev)
{
	char name[32];

	if (dev->block.check)
		return;
	snprintf(name, sizeof(name), "%s%u", dev->block.kind->prefix,
	    dev->block.number);
	dev->block.check = apart_start(block_host.base, look, name, -1,
	    CHECK_MS, checked, dev);
	if (!dev->block.check)
		again_later(dev);
}
