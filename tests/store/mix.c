// SPDX-License-Identifier: Apache-2.0
/*
 * The mix: see mix.h.  One loop: let the neighbours' events run, take what has
 * ended, begin something else by chance.
 *
 *	devices	up to DEVICES, each with up to READS reads under way
 *	asks	requests of control, whose answers are judged when they come:
 *		mix_ask.c
 *	faults	of the network, for moments; deaths of fetcherd and workers
 *	lives	of cached: the next end is due at next_kill
 *
 * Never all right: a byte that is not the image's; a read that fails, but of a
 * device of rung whole whose registry was told to send wrong bytes; a request
 * that fails with a code that its situation does not explain; a read or a
 * request that takes longer than LATE_S; an end of cached that nobody ordered;
 * more on disk than the quota and the slack.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/own.h"
#include "tests/store/harm.h"
#include "tests/store/mix_ask.h"
#include "tests/store/usage.h"

#define KIB	1024
#define MIB	(1024 * KIB)
#define DEVICES	6
#define READS	8
#define LATE_S	25	/* of a read; nothing keeps the network away so long */
#define TICK_US	2000
#define SETTLE_S 20	/* for all that is under way at the end */

struct device {
	struct host_device *dev;
	struct mix_image *image;
	struct host_read *reads[READS];
	double begun[READS];
};

const char mix_conf[] = "[store]\nmin-free = 0\nquota = 14M\n"
    "scrub-every = 1s\nscrub-rate = 1G\n"
    "[trust]\nintegrity = transport\nreferrers = yes\n"
    "[prefetch]\ncomplete = never\n";

struct mix_image mix_images[MIX_IMAGES];
static struct device devices[DEVICES];
static struct mix *m;
static struct host *h;
static double begun, outage_until, next_fault, next_kill, next_detach, next_df;

static uint64_t
below(uint64_t n)
{
	return chance(&m->seed, n);
}

double
mix_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- images ---- */

/* shares: 1 + number of the image whose first half it has, further on. */
static const struct {
	size_t len;
	unsigned flags, shares;
	uint32_t rung;
} kinds[MIX_IMAGES] = {
	{ 4000 * KIB, IMAGE_INDEXED, 0, CTL_RUNG(CHUNK) },
	{ 4300 * KIB, IMAGE_INDEXED, 1, CTL_RUNG(CHUNK) },
	{ 4100 * KIB + 5, IMAGE_INDEXED | IMAGE_PACKED, 1, CTL_RUNG(CHUNK) },
	{ 3500 * KIB, IMAGE_INDEXED, 0, CTL_RUNG(CHUNK) },
	{ 2500 * KIB + 1, IMAGE_REFERRED, 4, CTL_RUNG(CHUNK) },
	{ 1500 * KIB, IMAGE_INDEXED | IMAGE_PACKED, 0, CTL_RUNG(CHUNK) },
	{ 700 * KIB + 4095, IMAGE_INDEXED, 0, CTL_RUNG(CHUNK) },
	{ 60 * KIB, IMAGE_INDEXED, 0, CTL_RUNG(CHUNK) },
	{ 3000 * KIB + 77, 0, 0, CTL_RUNG(COMPLETE) },
	{ 3300 * KIB, 0, 0, CTL_RUNG(COMPLETE) },
	{ 2200 * KIB, 0, 0, CTL_RUNG(WHOLE) },
	{ 900 * KIB + 3, 0, 0, CTL_RUNG(WHOLE) },
};

struct reg *
mix_registry(void)
{
	struct reg *reg = registry_new();

	for (unsigned i = 0; i < MIX_IMAGES; i++) {
		size_t len = kinds[i].len, half = len / 2 / 4096 * 4096;
		_cleanup_free_ uint8_t *bytes = malloc(len);
		char repo[32];

		if (!bytes)
			abort();
		registry_fill(bytes, len, i + 100);
		if (kinds[i].shares)
			memcpy(bytes + 128 * KIB,
			    mix_images[kinds[i].shares - 1].image->bytes,
			    half - 128 * KIB);
		if (len > 3400 * KIB)	/* chunks that come twice */
			memcpy(bytes + half + 128 * KIB, bytes + 256 * KIB,
			    512 * KIB);
		memset(bytes + len / 4096 / 8 * 7 * 4096, 0, len / 16);
		snprintf(repo, sizeof(repo), "mix/i%u", i);
		mix_images[i] = (struct mix_image){ .rung = kinds[i].rung,
			.image = registry_image(reg, repo, "v1", bytes, len,
			kinds[i].flags) };
	}
	return reg;
}

static const struct digest *
layout_of(const struct mix_image *image)
{
	return image->rung == CTL_RUNG(CHUNK) ? &image->image->layout :
	    &image->image->erofs;
}

/* ---- devices and reads ---- */

static void
detach(struct device *d)
{
	if (m->detaching)
		m->detaching(d->dev);
	m->lanes += d->dev->in_lanes;
	d->image->detached = mix_now();
	host_detach(d->dev);	/* its reads go with it */
	memset(d, 0, sizeof(*d));
}

void
mix_attach(struct mix_image *image, const struct host_answer *a)
{
	for (unsigned i = 0; i < DEVICES; i++)
		if (!devices[i].dev) {
			devices[i] = (struct device){
				.dev = host_attach(h, a), .image = image };
			if (m->attached)
				m->attached(devices[i].dev);
			return;
		}
}

/* Mostly small, now and then a largest one. */
static void
read_begin(struct device *d, unsigned slot)
{
	uint64_t size = d->image->image->size, at = below(size);
	uint64_t len = 1 + below(below(8) ? 64 * KIB : 4 * MIB);

	if (len > size - at)
		len = size - at;
	d->reads[slot] = host_read_begin(d->dev, at, (size_t)len);
	d->begun[slot] = mix_now();
	m->reads++;
	m->read_bytes += len;
}

/* A device that needs all of an image may wait for room; nobody else may. */
static void
read_waits(struct device *d, unsigned slot)
{
	double s = mix_now() - d->begun[slot];

	if (s < LATE_S)
		return;
	if (d->image->rung != CTL_RUNG(WHOLE))
		host_fail(h, "a read of %s has waited for %.0f s",
		    d->image->image->name, s);
	m->roomless++;
	detach(d);
}

static void
read_ended(struct device *d, unsigned slot)
{
	int status = host_read_end(take_ptr(d->reads[slot]));

	if (status == 0)
		return;
	if (!d->image->wronged || d->image->rung != CTL_RUNG(WHOLE))
		host_fail(h, "a read of %s failed: %s",
		    d->image->image->name, strerror(-status));
	m->failed++;
	detach(d);
}

static void
turn_reads(bool more)
{
	for (unsigned i = 0; i < DEVICES * READS; i++) {
		struct device *d = &devices[i / READS];
		const struct host_read *r = d->reads[i % READS];

		if (!d->dev)
			continue;
		if (!r && more && below(4) == 0)
			read_begin(d, i % READS);
		else if (r && host_read_done(r))
			read_ended(d, i % READS);
		else if (r)
			read_waits(d, i % READS);
	}
}

/* Mostly attaches. */
static void
turn_begin(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DEVICES; i++)
		n += devices[i].dev != NULL;
	n += mix_asks_to_attach();
	if (n < DEVICES && below(8) == 0)
		mix_ask(m, ATTACH);
	else if (below(16) == 0)
		mix_ask(m, (enum what)(PULL + below(WHATS - PULL)));
	if (mix_now() > next_detach) {
		struct device *d = &devices[below(DEVICES)];

		if (d->dev)
			detach(d);
		next_detach = mix_now() + (double)below(200) / 1000;
	}
	if (mix_now() > next_df) {
		mix_ask(m, DF);
		next_df = mix_now() + 0.1;
	}
}

/* ---- faults ---- */

static void
fault(void)
{
	struct mix_image *image = &mix_images[below(MIX_IMAGES)];
	struct device *d = &devices[below(DEVICES)];

	m->faults++;
	switch (below(8)) {
	case 0:
	case 1:		/* nothing proves rung complete before it is that */
		if (image->rung == CTL_RUNG(COMPLETE))
			break;
		image->wronged = true;
		h->net.wrong_of = image->image;
		h->net.wrong = 1 + (unsigned)below(3);
		break;
	case 2:
		h->net.cut = 1 + (unsigned)below(3);
		break;
	case 3:
		h->net.state = NET_OFF;
		break;
	case 4:
		h->net.state = NET_HELD;
		break;
	case 5:
		host_new_fetcherd(h);
		break;
	case 6:
		h->net.delay_ms = (unsigned)below(15);
		break;
	default:
		if (d->dev)
			host_new_worker(d->dev);
		break;
	}
	outage_until = mix_now() + (double)below(200) / 1000;
}

static void
turn_faults(void)
{
	if (mix_now() > outage_until)
		h->net.state = NET_ON;
	if (mix_now() < next_fault)
		return;
	next_fault = mix_now() + (double)below(m->fault_ms) / 1000;
	fault();
}

/* ---- lives ---- */

/* Bytes present, of images that are attached. */
static void
present(uint64_t bytes[MIX_IMAGES])
{
	struct host_answer a = host_images(h);

	memset(bytes, 0, MIX_IMAGES * sizeof(*bytes));
	for (unsigned i = 0; i < DEVICES; i++)
		for (unsigned r = 0; devices[i].dev && r < a.n_rows; r++)
			if (digest_equal(&a.rows[r].image_digest,
			    &devices[i].image->image->manifest))
				bytes[devices[i].image - mix_images] =
				    a.rows[r].present;
}

/* What its log says of the life that ended. */
static void
take_log(void)
{
	static const struct { const char *text; size_t field; } words[] = {
		{ ": evicting ", offsetof(struct mix, evictions) },
		{ " on disk is damaged (", offsetof(struct mix, damaged) },
		{ ": scrub: ", offsetof(struct mix, scrubs) },
		{ " can't be served: ", offsetof(struct mix, unserved) },
	};
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (fd_read_text(h->log, 256 * MIB, &text, &len) < 0)
		host_fail(h, "cached's log can't be read");
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		for (const char *at = text; (at = strstr(at, words[i].text));
		    at++)
			++*(uint64_t *)((char *)m + words[i].field);
	if (m->unserved > 0)
		host_fail(h, "a device could not be served");
	if (ftruncate(h->log, 0) < 0)
		host_fail(h, "cached's log can't be emptied");
}

static void
flip_some(void)
{
	for (unsigned i = 0; i < MIX_IMAGES; i++)
		if (below(3) == 0)
			m->flips += harm_chunks(h, layout_of(&mix_images[i]), 1 +
			    (unsigned)below(4), &m->seed).chunks;
}

static void
life_ends(bool cleanly)
{
	uint64_t before[MIX_IMAGES], after[MIX_IMAGES];

	mix_asks_forget();
	present(before);
	for (uint64_t n = below(20); n > 0; n--)
		event_base_loop(h->base, EVLOOP_NONBLOCK);
	if (cleanly)
		host_stop(h);
	else
		host_kill(h);
	take_log();
	if (!cleanly && below(4) == 0) {	/* with all of the suite */
		host_forget_maps(h);
		m->suites++;
	}
	flip_some();
	host_start(h);
	present(after);
	for (unsigned i = 0; i < MIX_IMAGES; i++)
		m->lost += before[i] > after[i] ? before[i] - after[i] : 0;
}

static void
turn_lives(void)
{
	if (m->killed == m->kills || mix_now() < next_kill)
		return;
	next_kill = begun + (m->killed + 1 + (double)below(1000) / 1000) *
	    m->seconds / (m->kills + 1);
	life_ends(false);
	m->killed++;
	if (below(5) == 0) {
		life_ends(true);
		m->stopped++;
	}
}

/* ---- what it takes ---- */

/* As the disk has it; what is quarantined is not the quota's. */
static void
look_at_disk(void)
{
	uint64_t bytes = usage_disk(h->store, "layouts");

	if (bytes > m->disk_most)
		m->disk_most = bytes;
}

/* cached, or ourselves where it is a thread. */
static pid_t
process(void)
{
	return h->pid > 0 ? h->pid : getpid();
}

static void
look_at_memory(void)
{
	uint64_t bytes = m->memory_max ? usage_memory(process()) : 0;

	if (bytes > m->memory_most)
		m->memory_most = bytes;
	if (m->memory_max && bytes > m->memory_max)
		host_fail(h, "cached has %" PRIu64 " KiB of RssAnon",
		    bytes / KIB);
}

/* ---- all of it ---- */

static void
tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

static void
turn(void)
{
	event_base_loop(h->base, EVLOOP_ONCE);
}

static void
mixing(void)
{
	static unsigned n;

	turn();
	turn_reads(true);
	mix_asks_turn();
	turn_begin();
	turn_faults();
	turn_lives();
	if (++n % 64 == 0) {
		look_at_disk();
		look_at_memory();
	}
}

/* Nothing is under way any more, nothing attached, pinned or kept. */
static void
settle(void)
{
	static const char *const owners[] = { "owner-1", "owner-2" };
	const struct reg_image *none[] = { NULL };
	struct host_answer a;

	h->net = (struct host_net){ NET_ON };
	for (unsigned i = 0; i < DEVICES; i++)
		if (devices[i].dev)
			detach(&devices[i]);
	do {
		turn();
	} while (mix_asks_turn());
	for (unsigned i = 0; i < DEVICES; i++)
		if (devices[i].dev)	/* was just opened */
			detach(&devices[i]);
	for (size_t i = 0; i < ARRAY_LEN(owners); i++)
		host_keep(h, owners[i], none);
	a = host_df(h);
	for (unsigned r = 0; r < a.n_rows; r++)
		if (a.rows[r].pinned)
			host_pin(h, a.rows[r].image, false);
	host_gc(h, 0);
}

/* A scrub may have a file open at any one moment. */
static void
count_descriptors(void)
{
	double end = mix_now() + SETTLE_S;

	do {
		turn();
		m->fds_after = usage_descriptors(process(), false);
	} while (m->fds_after > m->fds_fresh && mix_now() < end);
	if (m->fds_after > m->fds_fresh && usage_descriptors(process(), true))
		host_fail(h, "cached has %d descriptors, and had %d",
		    m->fds_after, m->fds_fresh);
}

static void
read_everything(void)
{
	for (unsigned i = 0; i < MIX_IMAGES; i++) {
		const struct reg_image *image = mix_images[i].image;
		double end = mix_now() + SETTLE_S;
		struct host_answer a;
		struct host_device *dev;

		/* What could be evicted may not be safe on disk yet. */
		do
			a = host_wait(h, host_open_begin(h, image->name,
			    mix_images[i].rung, false));
		while (a.type == SUITE_BODY(FAILED) && a.code ==
		    CTL_CODE(NO_SPACE) && mix_now() < end);
		if (a.type != SUITE_BODY(OPENED))
			host_fail(h, "%s at the end: %s", image->name, a.text);
		dev = host_attach(h, &a);
		host_read_all(dev);
		host_detach(dev);
	}
}

void
mix_run(struct mix *mix)
{
	struct timeval often = { 0, TICK_US };
	struct event *ticker;

	m = mix;
	h = mix->h;
	m->first_seed = m->seed;
	ticker = event_new(h->base, -1, EV_PERSIST, tick, NULL);
	if (!ticker || event_add(ticker, &often) < 0)
		abort();
	host_df(h);		/* it has all its links now */
	m->fds_fresh = usage_descriptors(process(), false);
	begun = mix_now();
	next_kill = begun + m->seconds / (m->kills + 1);
	while (mix_now() - begun < m->seconds || m->killed < m->kills)
		mixing();
	settle();
	if (m->settled)
		m->settled();
	count_descriptors();
	take_log();
	read_everything();
	m->fetched = h->counts.bytes;
	event_free(ticker);
}

void
mix_print(const struct mix *x)
{
	fprintf(stderr, "%.0f s: %" PRIu64 " reads of %" PRIu64 " MiB, %"
	    PRIu64 " units in lanes; %" PRIu64 " requests, %" PRIu64
	    " refused; %" PRIu64 " faults\n", mix_now() - begun, x->reads,
	    x->read_bytes / MIB, x->lanes, x->asks, x->refused, x->faults);
	fprintf(stderr, "attach %u pull %u plain %u gc %u pin %u keep %u "
	    "verify %u import %u promote %u (%u compared) drop %u\n",
	    x->by_what[ATTACH], x->by_what[PULL], x->by_what[PLAIN],
	    x->by_what[GC], x->by_what[PIN], x->by_what[KEEP],
	    x->by_what[VERIFY], x->by_what[IMPORT], x->by_what[PROMOTE],
	    x->promoted, x->by_what[DROP]);
	fprintf(stderr, "%" PRIu64 " kills (%" PRIu64 " of the suite), %"
	    PRIu64 " clean restarts: %" PRIu64 " KiB of what was attached "
	    "lost and fetched again, of %" PRIu64 " MiB fetched\n", x->killed,
	    x->suites, x->stopped, x->lost / KIB, x->fetched / MIB);
	fprintf(stderr, "%" PRIu64 " flips, %" PRIu64 " found at first touch, "
	    "%" PRIu64 " scrubs, %" PRIu64 " evictions, %" PRIu64
	    " devices failed by wrong bytes, %" PRIu64 " had no room\n",
	    x->flips, x->damaged, x->scrubs, x->evictions, x->failed,
	    x->roomless);
	fprintf(stderr, "df at most quota %+" PRId64 " KiB in %" PRIu64
	    " looks, disk %+" PRId64 " KiB; RssAnon at most %" PRIu64
	    " KiB; %d descriptors, %d when fresh\n",
	    ((int64_t)x->df_most - MIX_QUOTA) / KIB, x->df_samples,
	    ((int64_t)x->disk_most - MIX_QUOTA) / KIB, x->memory_most / KIB,
	    x->fds_after, x->fds_fresh);
}

/* All of the log: a sanitizer's report is longer than a tail. */
void
mix_failed(const struct mix *x, const char *program)
{
	char path[] = "/tmp/mix-log.XXXXXX";
	_cleanup_close_ int fd = mkstemp(path);
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (fd >= 0 && fd_read_text(x->h->log, 256 * MIB, &text, &len) == 0 &&
	    fd_pwrite_all(fd, text, len, 0) == 0)
		fprintf(stderr, "all of cached's log: %s\n", path);
	mix_print(x);
	fprintf(stderr, "again: SEED=%" PRIu64 " %s\n", x->first_seed,
	    program);
	host_abandon(x->h);
}
