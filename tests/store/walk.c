// SPDX-License-Identifier: Apache-2.0
/* A life of a store by chance: see walk.h. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "tests/store/walk.h"

#define KIB	1024
#define QUOTA	"1500K"		/* less than two images */
#define READS_MAX 12

enum { BLOB, CHUNKS, SHARES, SMALL, LAZY, LAZY2 };

/* ---- images ---- */

static const struct {
	const char *repo;
	size_t size;
	unsigned flags;
} published[WALK_IMAGES] = {
	[BLOB] = { "os/blob", 900 * KIB + 777, 0 },
	[CHUNKS] = { "os/chunks", 1000 * KIB, IMAGE_INDEXED },
	[SHARES] = { "os/shares", 1200 * KIB + 100, IMAGE_INDEXED |
		IMAGE_PACKED },
	[SMALL] = { "os/small", 200 * KIB, IMAGE_INDEXED },
	[LAZY] = { "os/lazy", 600 * KIB + 1, 0 },
	[LAZY2] = { "os/lazy2", 700 * KIB, IMAGE_INDEXED },
};

struct reg *
walk_registry(struct walk_image images[WALK_IMAGES])
{
	struct reg *reg = registry_new();
	uint8_t *bytes[WALK_IMAGES];

	for (unsigned i = 0; i < WALK_IMAGES; i++) {
		size_t size = published[i].size;

		bytes[i] = malloc(size);
		if (!reg || !bytes[i])
			abort();
		registry_fill(bytes[i], size, i + 1);
		/* A quarter of it zeros. */
		memset(bytes[i] + size / 2 / 4096 * 4096, 0, size / 4);
	}
	/* Some chunks of it come twice. */
	memcpy(bytes[CHUNKS] + 800 * KIB, bytes[CHUNKS], 160 * KIB);
	/* Half of the one in the other, a little further on. */
	memcpy(bytes[SHARES] + 64 * KIB, bytes[CHUNKS], 500 * KIB);
	for (unsigned i = 0; i < WALK_IMAGES; i++) {
		images[i] = (struct walk_image){
			.image = registry_image(reg, published[i].repo, "v1",
			    bytes[i], published[i].size, published[i].flags),
			.rung = published[i].flags & IMAGE_INDEXED ?
			    CTL_RUNG(CHUNK) : CTL_RUNG(COMPLETE) };
		free(bytes[i]);
	}
	return reg;
}

/* ---- chance ---- */

static unsigned
dice(struct walk *w, unsigned sides)
{
	/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
	uint64_t z = w->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (unsigned)((z ^ (z >> 31)) % sides);
}

static bool
read_done(void *arg)
{
	return host_read_done(arg);
}

static bool
is_attached(const struct walk_image *i)
{
	return i->dev != NULL;
}

static bool
is_idle(const struct walk_image *i)
{
	return i->known && !i->dev;
}

static bool
is_known(const struct walk_image *i)
{
	return i->known;
}

static bool
is_promised(const struct walk_image *i)
{
	return i->promised;
}

static bool
is_any(const struct walk_image *i)
{
	(void)i;
	return true;
}

/* One of those; NULL: there is none. */
static struct walk_image *
pick(struct walk *w, bool (*fits)(const struct walk_image *i))
{
	unsigned first = dice(w, WALK_IMAGES);

	for (unsigned n = 0; n < WALK_IMAGES; n++) {
		struct walk_image *i = &w->images[(first + n) % WALK_IMAGES];

		if (fits(i))
			return i;
	}
	return NULL;
}

/* ---- promises ---- */

static void
tell(struct walk *w, const char *text)
{
	uint64_t promised = 0;

	for (unsigned i = 0; i < WALK_IMAGES; i++)
		promised |= (uint64_t)w->images[i].promised << i;
	w->tell(promised, text);
}

static void
promise(struct walk *w, struct walk_image *i, const struct host_answer *a)
{
	if (a->type != SUITE_BODY(OPENED))
		host_fail(w->h, "%s: %s", i->image->name, a->text);
	if (!a->network_free)
		host_fail(w->h, "%s should be network-free", i->image->name);
	i->known = i->promised = true;
	tell(w, "promised");
}

/* What is neither attached nor pinned may be evicted now, or what it leans
 * on. */
static void
release_idle(struct walk *w)
{
	for (unsigned i = 0; i < WALK_IMAGES; i++)
		if (!w->images[i].dev && !w->images[i].pinned)
			w->images[i].promised = false;
	tell(w, "released");
}

/* ---- steps ---- */

static void
attach(struct walk *w)
{
	struct walk_image *i = pick(w, is_any);
	struct host_answer a;

	if (i->dev)
		return;
	a = host_open(w->h, i->image->name, i->rung, false);
	i->known = true;
	i->dev = host_attach(w->h, &a);
}

static void
detach(struct walk *w)
{
	struct walk_image *i = pick(w, is_attached);

	if (!i)
		return;
	if (w->scarce && !i->pinned) {	/* a fill under way may evict it */
		i->promised = false;
		tell(w, "released");
	}
	host_detach(take_ptr(i->dev));
}

/* One after the other, or all at once. */
static void
browse(struct walk *w)
{
	struct walk_image *i = pick(w, is_attached);
	struct host_read *reads[READS_MAX];
	unsigned n = 0, want = 3 + dice(w, READS_MAX - 2);
	bool at_once = dice(w, 2);

	if (!i)
		return;
	if (i->image->indexed)	/* found by the index, fetched again */
		w->h->net.wrong = dice(w, 4) == 0;
	while (n < want) {
		uint64_t at = dice(w, (unsigned)i->image->size);
		size_t len = (size_t)4096 << dice(w, 5);

		if (len > i->image->size - at)
			len = (size_t)(i->image->size - at);
		reads[n++] = host_read_begin(i->dev, at, len);
		if (!at_once)
			host_until(w->h, read_done, reads[n - 1], "a read");
	}
	for (unsigned k = 0; k < n; k++)
		if (host_read_end(reads[k]) < 0)
			host_fail(w->h, "%s: a read failed", i->image->name);
	w->h->net.wrong = 0;
}

static void
read_all(struct walk *w)
{
	struct walk_image *i = pick(w, is_attached);

	if (i)
		host_read_all(i->dev);
}

/* Sometimes two at a time. */
static void
pull(struct walk *w)
{
	struct walk_image *i = pick(w, is_any), *j = pick(w, is_any);
	uint64_t first, second;
	struct host_answer a, b;

	if (w->scarce)
		return;
	first = host_open_begin(w->h, i->image->name, i->rung, true);
	second = host_open_begin(w->h, j->image->name, j->rung, true);
	a = host_wait(w->h, first);
	promise(w, i, &a);
	b = host_wait(w->h, second);
	promise(w, j, &b);
}

static void
pin(struct walk *w)
{
	struct walk_image *i = pick(w, is_known);

	if (!i)
		return;
	i->pinned = !i->pinned && dice(w, 3) == 0;
	if (w->scarce && !i->pinned)
		release_idle(w);
	host_pin(w->h, i->image->name, i->pinned);
}

/* What is still being worked on is in use, and stays. */
static void
drop(struct walk *w)
{
	struct walk_image *i = pick(w, is_idle);
	Suite__Drop m = SUITE__DROP__INIT;

	if (!i || i->pinned)
		return;
	release_idle(w);
	m.image = (char *)i->image->name;
	if (host_ask(w->h, SUITE_BODY(DROP), &m, -1).type == SUITE_BODY(DONE))
		i->known = false;
}

static void
gc(struct walk *w)
{
	release_idle(w);
	host_gc(w->h, 0);
	/* It forgets images of which nothing is left. */
	for (unsigned i = 0; i < WALK_IMAGES; i++)
		w->images[i].known = w->images[i].dev || w->images[i].pinned;
}

static void
promote(struct walk *w)
{
	struct walk_image *i = pick(w, is_promised);
	_cleanup_close_ int fd = memfd_create("promoted", MFD_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (!i)
		return;
	host_promote(w->h, i->image->name, fd);
	if (fd_read_text(fd, 64 * KIB * KIB, &text, &len) < 0 ||
	    len != i->image->size || memcmp(text, i->image->bytes, len) != 0)
		host_fail(w->h, "%s was promoted wrong", i->image->name);
}

static void
import(struct walk *w)
{
	struct walk_image *i = pick(w, is_known);
	_cleanup_close_ int fd = memfd_create("import", MFD_CLOEXEC);

	if (!i || w->scarce)
		return;
	if (fd_pwrite_all(fd, i->image->bytes, i->image->size, 0) < 0)
		host_fail(w->h, "no memory for an import");
	host_import(w->h, i->image->name, fd);
}

/* ---- ends of cached ---- */

static void
start_again(struct walk *w, const char *conf)
{
	free(w->h->conf);
	w->h->conf = strdup(conf);
	if (dice(w, 3) == 0)
		host_forget_maps(w->h);
	host_start(w->h);
}

struct moment {
	unsigned turns;
	const struct host_read *read;
};

static bool
has_come(void *arg)
{
	struct moment *m = arg;

	if (m->turns > 0)
		m->turns--;
	return m->turns == 0 || host_read_done(m->read);
}

/* In the middle of a read, which ends when it is back. */
static void
die(struct walk *w)
{
	struct walk_image *i = pick(w, is_attached);
	struct host_read *r = i ? host_read_begin(i->dev, 0, i->image->size) :
	    NULL;

	struct moment moment = { .turns = dice(w, 30), .read = r };

	if (r)
		host_until(w->h, has_come, &moment, "a moment of a read");
	host_kill(w->h);
	start_again(w, w->scarce ? WALK_QUOTA(QUOTA) : WALK_CONF);
	if (r && host_read_end(r) < 0)
		host_fail(w->h, "%s: a read failed", i->image->name);
}

static void
stop(struct walk *w)
{
	host_stop(w->h);
	start_again(w, w->scarce ? WALK_QUOTA(QUOTA) : WALK_CONF);
}

/* Room becomes scarce, or plenty. */
static void
quota(struct walk *w)
{
	w->scarce = !w->scarce;
	if (w->scarce)
		release_idle(w);
	host_stop(w->h);
	start_again(w, w->scarce ? WALK_QUOTA(QUOTA) : WALK_CONF);
}

static const struct {
	unsigned weight;
	const char *text;
	void (*step)(struct walk *w);
} steps[] = {
	{ 5, "attach", attach },
	{ 4, "detach", detach },
	{ 6, "browse", browse },
	{ 2, "read all", read_all },
	{ 5, "pull", pull },
	{ 2, "pin", pin },
	{ 2, "drop", drop },
	{ 1, "gc", gc },
	{ 1, "promote", promote },
	{ 2, "import", import },
	{ 2, "kill", die },
	{ 1, "stop", stop },
	{ 1, "quota", quota },
};

void
walk(struct walk *w, unsigned n)
{
	unsigned sum = 0;

	for (size_t i = 0; i < ARRAY_LEN(steps); i++)
		sum += steps[i].weight;
	while (n-- > 0) {
		unsigned at = dice(w, sum);
		size_t i = 0;

		while (at >= steps[i].weight)
			at -= steps[i++].weight;
		tell(w, steps[i].text);
		steps[i].step(w);
	}
}
