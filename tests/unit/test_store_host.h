/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words in which stories about cached and its store are told, above the
 * calls of tests/store/host.h: a registry of made-up images, waiting for what no
 * message announces, a clock that is set ahead, files of the store.
 */
#ifndef TESTS_UNIT_TEST_STORE_HOST_H
#define TESTS_UNIT_TEST_STORE_HOST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "base/own.h"
#include "tests/store/host.h"

#define KIB	1024
#define MIB	(1024 * KIB)
#define LOOK_MS	10	/* between two looks at what nothing announces */
#define QUIET_LOOKS 30	/* without a word: there was none */
#define MINUTE	60000	/* in ms: for ahead() */

/* A configuration; more: of [store]. */
#define STORE_CONF(more) "[store]\nmin-free = 0\n" more \
		"\n[trust]\nintegrity = transport\n[prefetch]\n" \
		"complete = never\n"

/* ---- the registry ---- */

static struct reg *reg;

/* cached is gone, and its end printed; the other cases go on. */
static inline void
host_failed(const char *why)
{
	fail_msg("%s", why);
}

/* The setup of a group begins with this; it ends with unpublish(). */
static inline void
publish_nothing(void)
{
	host_on_fail = host_failed;
	reg = registry_new();
}

static inline int
unpublish(void **state)
{
	(void)state;
	registry_free(reg);
	return 0;
}

/* REPO:v1, random bytes of that seed, with len of another image's first bytes
 * at `at`; of: NULL for none. */
static inline struct reg_image *
publish_like(const char *repo, size_t size, uint64_t seed,
    const struct reg_image *of, size_t at, size_t len)
{
	_cleanup_free_ uint8_t *bytes = malloc(size);

	assert_non_null(bytes);
	registry_fill(bytes, size, seed);
	if (of)
		memcpy(bytes + at, of->bytes, len);
	return registry_image(reg, repo, "v1", bytes, size, IMAGE_INDEXED);
}

static inline struct reg_image *
publish_image(const char *repo, size_t size, uint64_t seed)
{
	return publish_like(repo, size, seed, NULL, 0, 0);
}

/* ---- a cached ---- */

/* One whose clock can be set ahead, and whose syncs can fail (record.h). */
static inline struct host *
start_recorded(const char *conf)
{
	struct host *h = host_new(reg, "cached-recorded", conf);
	int log = memfd_create("log", MFD_CLOEXEC);

	assert_true(log >= 0);
	host_record(h, log);
	host_start(h);
	return h;
}

static inline void
ahead(struct host *h, uint64_t ms)
{
	atomic_fetch_add(&h->fault->ahead_ms, ms);
}

/* An image that has an index, which must be found and taken. */
static inline struct host_device *
attach_chunks(struct host *h, const struct reg_image *image, bool whole)
{
	struct host_answer a = host_open(h, image->name, CTL_RUNG(DEFAULT),
	    whole);

	assert_int_equal(a.rung, CTL_RUNG(CHUNK));
	return host_attach(h, &a);
}

/* The file of the store's that begins with prefix, of that image's layout. */
static inline int
store_file(const struct host *h, const struct reg_image *image,
    const char *prefix)
{
	char path[256];
	struct dirent *e;
	DIR *d;
	int fd = -1;

	snprintf(path, sizeof(path), "%s/store/layouts/%s", h->dir,
	    digest_to_hex(&image->layout).text);
	d = opendir(path);
	assert_non_null(d);
	while (fd < 0 && (e = readdir(d)))
		if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
			fd = openat(dirfd(d), e->d_name, O_RDWR | O_CLOEXEC);
	closedir(d);
	assert_true(fd >= 0);
	return fd;
}

/* ---- waiting for what no message announces ---- */

static inline void
look_again(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

/* host_until(), for a condition that is looked at every LOOK_MS. */
static inline void
until(struct host *h, bool (*holds)(void *arg), void *arg, const char *what)
{
	const struct timeval every = { .tv_usec = LOOK_MS * 1000 };
	struct event *tick = event_new(h->base, -1, EV_PERSIST, look_again,
	    NULL);

	assert_non_null(tick);
	assert_int_equal(event_add(tick, &every), 0);
	host_until(h, holds, arg, what);
	event_free(tick);
}

static inline bool
looked_enough(void *arg)
{
	return --*(int *)arg <= 0;
}

/* Several of cached's ticks pass. */
static inline void
quiet(struct host *h)
{
	int looks = QUIET_LOOKS;

	until(h, looked_enough, &looks, "nothing");
}

/* Of the notices that the host keeps: those of that kind with that text. */
static inline unsigned
times_noticed(const struct host *h, const char *kind, const char *text)
{
	unsigned n = 0;

	for (unsigned i = 0; i < h->n_notices && i < HOST_NOTICES; i++)
		n += strcmp(h->notices[i].kind, kind) == 0 &&
		    strstr(h->notices[i].text, text);
	return n;
}

#endif
