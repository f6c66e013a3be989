// SPDX-License-Identifier: Apache-2.0
/*
 * Credentials that clients gave for registries, as the parent holds them: for
 * each host a sealed memfd that is never read here, until another takes its
 * place, an empty one takes it away, or the suite ends.  So they survive every
 * process that uses them, and are on no disk.  With their host's name, which
 * another such object holds, they are kept for this process's next life.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/devd.h"

#define HOSTS_MAX	64	/* as many as the configuration may name */

#define PART_AUTH	"auth"
#define PART_HOST	"host"

static struct credentials held[HOSTS_MAX];
static size_t n_held;

struct key {
	char text[DEVICE_ID_LEN + 1];
};

/* By which what belongs together is kept: no host's name would do. */
static struct key
key_of(const char *host)
{
	struct digest d = digest_of(host, strlen(host));
	struct digest_hex hex = digest_to_hex(&d);
	struct key key;

	snprintf(key.text, sizeof(key.text), "%.*s", DEVICE_ID_LEN, hex.text);
	return key;
}

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
	handover_drop(key_of(c->host).text);
	fd_close(c->fd);
	fd_close(c->host_fd);
	*c = held[--n_held];
}

/* A login that can't be kept is one all the same. */
static void
keep(struct credentials *c)
{
	struct key key = key_of(c->host);

	handover_drop(key.text);
	c->host_fd = shm_sealed("shedstream-host", c->host, strlen(c->host));
	if (c->host_fd < 0)
		return;
	handover_keep(key.text, PART_HOST, c->host_fd);
	handover_keep(key.text, PART_AUTH, c->fd);
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
	drop(c);
	c = &held[n_held++];
	snprintf(c->host, sizeof(c->host), "%s", host);
	c->fd = copy;
	c->fresh = fresh;
	keep(c);
	return 1;
}

/* A name and what belongs to it. */
static int
take_one(int host_fd, int fd)
{
	_cleanup_free_ char *host = NULL;
	size_t len;
	int r = fd_read_text(host_fd, HOST_TEXT_MAX, &host, &len);

	return r < 0 ? r : credentials_set(host, fd, true);
}

void
credentials_restore(void)
{
	char key[DEVICE_ID_LEN + 1];

	while (handover_next(PART_HOST, key)) {
		_cleanup_close_ int host = handover_take(key, PART_HOST);
		_cleanup_close_ int fd = handover_take(key, PART_AUTH);
		int r = fd < 0 ? -ENOENT : take_one(host, fd);

		if (r <= 0) {
			log_warn("credentials of an earlier life can't be "
			    "used: %s; log in again", strerror(-r));
			handover_drop(key);
		}
	}
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
