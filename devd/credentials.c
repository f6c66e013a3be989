// SPDX-License-Identifier: Apache-2.0
/*
 * Credentials that clients gave for registries, as the parent holds them: for
 * each host a sealed memfd that is never read here, until another takes its
 * place, an empty one takes it away, or the suite ends.  So they survive every
 * process that uses them, and are on no disk.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/own.h"
#include "base/shm.h"
#include "devd/devd.h"

#define HOSTS_MAX	64	/* as many as the configuration may name */

static struct credentials held[HOSTS_MAX];
static size_t n_held;

static struct credentials *
find(const char *host)
{
	for (size_t i = 0; i < n_held; i++)
		if (strcmp(held[i].host, host) == 0)
			return &held[i];
	return NULL;
}

static void
drop(struct credentials *c)
{
	if (!c)
		return;
	fd_close(c->fd);
	*c = held[--n_held];
}

int
credentials_set(const char *host, int fd, bool fresh)
{
	struct credentials *c;
	size_t size;
	int copy, r = shm_is_sealed(fd, IPC_CREDENTIALS_MAX, &size);

	if (r < 0)
		return r;
	if (!host_text_valid(host))
		return -EINVAL;
	c = find(host);
	if (size == 0) {
		drop(c);
		return 0;
	}
	if (!c && n_held == HOSTS_MAX)
		return -ENOSPC;
	copy = fd_duplicate(fd);
	if (copy < 0)
		return copy;
	if (!c) {
		c = &held[n_held++];
		snprintf(c->host, sizeof(c->host), "%s", host);
	} else
		fd_close(c->fd);
	c->fd = copy;
	c->fresh = fresh;
	return 1;
}

const struct credentials *
credentials_at(size_t i)
{
	return i < n_held ? &held[i] : NULL;
}

void
credentials_known(void)
{
	for (size_t i = 0; i < n_held; i++)
		held[i].fresh = false;
}
