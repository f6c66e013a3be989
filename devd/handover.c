// SPDX-License-Identifier: Apache-2.0
/*
 * Descriptors that outlive this process: by execve(2) into another build
 * (reload), or in the service manager's store over a restart or a crash.  Each
 * is called KEY.PART, and both ways hand it over as sd_listen_fds(3) says, so
 * that a start has one way to take them:
 *
 *	keep --> table --reload---------------------> 3, 4, ... --> take
 *	             \--FDSTORE--> service manager --/
 *
 * The manager's side is sd_pid_notify_with_fds(3): datagrams to
 * $NOTIFY_SOCKET.  $FDSTORE says how many descriptors it keeps; managers
 * before systemd 254 don't set it, the unit file does.
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"

#define FIRST		3	/* SD_LISTEN_FDS_START */
#define KEPT_MAX	(DEVICES_MAX * HANDOVER_PARTS + HANDOVER_MORE)
#define NAME_SIZE	(DEVICE_ID_LEN + 1 + HANDOVER_PART_MAX + 1)
/* execve(2) takes no longer string: MAX_ARG_STRLEN of Linux, 32 pages */
#define NAMES_SIZE	(KEPT_MAX * NAME_SIZE < 128 * 1024 - 64 ? \
	KEPT_MAX * NAME_SIZE : 128 * 1024 - 64)

struct kept {
	char name[NAME_SIZE];
	int fd;
};

struct table {
	struct kept *items;
	size_t n;
};

static struct table given;	/* to this process; the descriptors are ours */
static struct table kept;	/* for the next; they are their owners' */
static unsigned long store;	/* how many the manager keeps; 0: no store */
static bool store_full;

/* ---- the service manager ---- */

/* What can't be told is lost: that is logged, and all goes on. */
static void
tell(const char *text, int fd)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = { (void *)text, strlen(text) };
	struct msghdr msg = { .msg_name = &sa, .msg_iov = &iov,
		.msg_iovlen = 1 };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path ? strlen(path) : 0;
	_cleanup_close_ int sock = -1;

	if (len == 0 || len >= sizeof(sa.sun_path))
		return;
	memcpy(sa.sun_path, path, len);
	if (path[0] == '@')
		sa.sun_path[0] = '\0';
	msg.msg_namelen =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &fd, sizeof(fd));
	}
	sock = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (sock < 0 || sendmsg(sock, &msg, 0) < 0)
		log_err("tell the service manager %.40s: %s", text,
		    strerror(errno));
}

void
handover_tell(const char *text)
{
	tell(text, -1);
}

bool
handover_lasts(void)
{
	return store > 0;
}

/* ---- the tables ---- */

static struct kept *
table_add(struct table *t)
{
	return t->n < KEPT_MAX ? &t->items[t->n++] : NULL;
}

static void
table_remove(struct table *t, size_t i)
{
	t->items[i] = t->items[--t->n];
}

static void
name_of(char name[NAME_SIZE], const char *key, const char *part)
{
	snprintf(name, NAME_SIZE, "%.*s.%.*s", DEVICE_ID_LEN, key,
	    HANDOVER_PART_MAX, part);
}

static struct kept *
table_find(const struct table *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->items[i].name, name) == 0)
			return &t->items[i];
	return NULL;
}

void
handover_keep(const char *key, const char *part, int fd)
{
	char name[NAME_SIZE], text[NAME_SIZE + 32];
	struct kept *k;

	name_of(name, key, part);
	if (table_find(&kept, name))
		return; /* it was taken */
	k = table_add(&kept);
	if (!k) {
		log_err("%s of device %s would not outlive this process: too "
			"many",
		    part, key);
		return;
	}
	*k = (struct kept){ .fd = fd };
	memcpy(k->name, name, sizeof(name));
	if (store == 0)
		return;
	if (kept.n > store && !store_full) {
		store_full = true;
		log_warn("the service manager keeps only %lu descriptors: more "
			 "devices end with this service; raise "
			 "FileDescriptorStoreMax and FDSTORE in its unit",
		    store);
	}
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", k->name);
	tell(text, fd);
}

static void
forget(const char *name)
{
	char text[NAME_SIZE + 32];

	if (store == 0)
		return;
	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	tell(text, -1);
}

void
handover_drop(const char *key)
{
	size_t i = 0;

	while (i < kept.n) {
		if (strncmp(kept.items[i].name, key, DEVICE_ID_LEN) != 0) {
			i++;
			continue;
		}
		forget(kept.items[i].name);
		table_remove(&kept, i);
	}
}

int
handover_take(const char *key, const char *part)
{
	char name[NAME_SIZE];
	struct kept *from, *to;

	name_of(name, key, part);
	from = table_find(&given, name);
	to = from ? table_add(&kept) : NULL;
	if (!to)
		return -1;
	*to = *from;
	table_remove(&given, (size_t)(from - given.items));
	return to->fd;
}

bool
handover_next(const char *part, char key[DEVICE_ID_LEN + 1])
{
	for (size_t i = 0; i < given.n; i++) {
		const char *name = given.items[i].name;

		if (strlen(name) > DEVICE_ID_LEN &&
		    strcmp(name + DEVICE_ID_LEN + 1, part) == 0) {
			memcpy(key, name, DEVICE_ID_LEN);
			key[DEVICE_ID_LEN] = '\0';
			return true;
		}
	}
	return false;
}

void
handover_rest(void)
{
	for (size_t i = 0; i < given.n; i++) {
		forget(given.items[i].name);
		fd_close(given.items[i].fd);
	}
	if (given.n > 0)
		log_info("closed %zu descriptors of an earlier life that have "
			 "no use any more",
		    given.n);
	given.n = 0;
}

/* ---- a start ---- */

static unsigned long
environment_number(const char *name)
{
	const char *text = getenv(name);
	char *end;
	unsigned long n;

	if (!text || text[0] < '0' || text[0] > '9')
		return 0;
	errno = 0;
	n = strtoul(text, &end, 10);
	return errno != 0 || *end ? 0 : n;
}

/* The next name of a list, "" behind its end. */
static void
next_name(const char **names, char *out, size_t size)
{
	size_t len = strcspn(*names, ":");

	snprintf(out, size, "%.*s", (int)(len < size ? len : 0), *names);
	*names += len + ((*names)[len] == ':');
}

void
handover_init(void)
{
	const char *names = getenv("LISTEN_FDNAMES");
	unsigned long n = environment_number("LISTEN_FDS");

	given.items = calloc(KEPT_MAX, sizeof(*given.items));
	kept.items = calloc(KEPT_MAX, sizeof(*kept.items));
	if (!given.items || !kept.items)
		log_die("no memory at start");
	if (getenv("NOTIFY_SOCKET"))
		store = environment_number("FDSTORE");
	if (environment_number("LISTEN_PID") != (unsigned long)getpid() ||
	    !names || n > KEPT_MAX)
		n = 0;
	for (unsigned long i = 0; i < n; i++) {
		int fd = FIRST + (int)i;
		struct kept *k = table_add(&given);

		if (!k || fd_cloexec(fd, 1) < 0)
			log_die("descriptor %d was not handed over: %s", fd,
			    strerror(errno));
		next_name(&names, k->name, sizeof(k->name));
		k->fd = fd;
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
}

/* ---- reload ---- */

static int
names_set(void)
{
	_cleanup_free_ char *names = malloc(NAMES_SIZE);
	char number[24];
	size_t len = 0;

	if (!names)
		return -ENOMEM;
	names[0] = '\0';
	for (size_t i = 0; i < kept.n; i++) {
		len += (size_t)snprintf(names + len, NAMES_SIZE - len, "%s%s",
		    i > 0 ? ":" : "", kept.items[i].name);
		if (len >= NAMES_SIZE)
			return -E2BIG;
	}
	snprintf(number, sizeof(number), "%zu", kept.n);
	if (setenv("LISTEN_FDNAMES", names, 1) < 0 ||
	    setenv("LISTEN_FDS", number, 1) < 0)
		return -errno;
	snprintf(number, sizeof(number), "%d", (int)getpid());
	return setenv("LISTEN_PID", number, 1) < 0 ? -errno : 0;
}

int
handover_exec(const char *program, char **argv)
{
	_cleanup_free_ int *copies = calloc(kept.n + 1, sizeof(*copies));
	int r = copies ? names_set() : -ENOMEM, last = FIRST + (int)kept.n;

	/* first out of the way of the numbers that they are to have */
	for (size_t i = 0; r == 0 && i < kept.n; i++) {
		copies[i] = fcntl(kept.items[i].fd, F_DUPFD_CLOEXEC, last);
		if (copies[i] < 0)
			r = -errno;
	}
	if (r < 0) {
		for (size_t i = 0; copies && i < kept.n && copies[i] > 0; i++)
			fd_close(copies[i]);
		return r;
	}
	/* from here on what had these numbers is lost: there is no way back */
	for (size_t i = 0; i < kept.n; i++)
		if (dup2(copies[i], FIRST + (int)i) < 0)
			log_die("reload: %s", strerror(errno));
	execv(program, argv);
	log_die("reload: become %s: %s", program, strerror(errno));
}
