// SPDX-License-Identifier: Apache-2.0
/*
 * Data files whose whole digest did not fit, for who looks into what the
 * registry sent: the last few, inside the quota, and gone when nothing else
 * may go.  Nothing is ever read from them.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/disk.h"

#define QUARANTINE_MAX	4	/* files */

struct culprit {
	TAILQ_ENTRY(culprit) entry;
	char name[DIGEST_HEX + 32];
	struct timespec since;
	uint64_t on_disk;
};

static TAILQ_HEAD(, culprit) culprits = TAILQ_HEAD_INITIALIZER(culprits);
static unsigned n_culprits;

static bool
before(const struct culprit *a, const struct culprit *b)
{
	return a->since.tv_sec != b->since.tv_sec ?
	    a->since.tv_sec < b->since.tv_sec :
	    a->since.tv_nsec < b->since.tv_nsec;
}

/* In the order in which they came: a rename changes the ctime. */
static void
see_culprit(int dir, const char *name)
{
	struct culprit *c, *next;
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    strlen(name) >= sizeof(c->name))
		return;
	c = calloc(1, sizeof(*c));
	if (!c)
		log_die("no memory for the quarantine");
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->since = st.st_ctim;
	c->on_disk = (uint64_t)st.st_blocks * 512;
	TAILQ_FOREACH(next, &culprits, entry)
		if (before(c, next))
			break;
	if (next)
		TAILQ_INSERT_BEFORE(next, c, entry);
	else
		TAILQ_INSERT_TAIL(&culprits, c, entry);
	n_culprits++;
}

void
quarantine_load(void)
{
	_cleanup_close_ int dir = disk_dir(store_dir(), "quarantine", false);

	if (dir >= 0)
		store_each(dir, see_culprit);
}

uint64_t
quarantine_bytes(void)
{
	const struct culprit *c;
	uint64_t bytes = 0;

	TAILQ_FOREACH(c, &culprits, entry)
		bytes += c->on_disk;
	return bytes;
}

bool
quarantine_drop(void)
{
	_cleanup_close_ int dir = disk_dir(store_dir(), "quarantine", false);
	struct culprit *c = TAILQ_FIRST(&culprits);

	if (!c)
		return false;
	log_warn("removing quarantine/%s: its room is needed", c->name);
	if (dir >= 0)
		disk_unlink(dir, c->name);
	TAILQ_REMOVE(&culprits, c, entry);
	n_culprits--;
	free(c);
	return true;
}

void
quarantine_take(int from_dir, const char *from, const char *to)
{
	_cleanup_close_ int dir = store_subdir("quarantine", NULL);
	int r = dir < 0 ? dir : disk_rename(from_dir, from, dir, to);

	if (r < 0) {
		log_err("quarantine %s: %s; removing it", from, strerror(-r));
		return;
	}
	see_culprit(dir, to);
	log_warn("quarantined as quarantine/%s; remove it when it was looked "
	    "at", to);
	while (n_culprits > QUARANTINE_MAX)
		quarantine_drop();
}
