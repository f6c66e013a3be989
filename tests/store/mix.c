// SPDX-License-Identifier: Apache-2.0
/*
 * The mix: see mix.h.  One loop: let the neighbours' events run, take what has
 * ended, begin something else by chance.
 *
 *	devices	up to DEVICES, each with up to READS reads under way
 *	asks	requests of control, whose answers are judged when they come
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
#include <sys/mman.h>
#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/own.h"
#include "tests/store/harm.h"
#include "tests/store/mix.h"

#define KIB	1024
#define MIB	(1024 * KIB)
#define DEVICES	6
#define READS	8
#define ASKS	16
#define LATE_S	25	/* of a read; nothing keeps the network away so long */
#define LATE_ASK_S 90	/* verify waits 60 s for what it can't mend */
#define TICK_US	2000
#define SETTLE_S 20	/* for all that is under way at the end */

struct image {
	const struct reg_image *image;
	uint32_t rung;
	double detached;	/* when a device of it was, last */
	bool wronged;		/* the registry was told to send wrong bytes */
};

struct device {
	struct host_device *dev;
	struct image *image;
	struct host_read *reads[READS];
	double begun[READS];
};

enum what { ATTACH, PULL, PLAIN, GC, PIN, KEEP, VERIFY, IMPORT, PROMOTE, DROP,
	DF, WHATS };

struct ask {
	enum what what;
	uint64_t id;		/* 0: free */
	struct image *image;
	int fd;			/* -1: none */
	bool damaged;		/* the file to import is not quite the image */
	double begun;
};

const char mix_conf[] = "[store]\nmin-free = 0\nquota = 14M\n"
    "scrub-every = 1s\nscrub-rate = 1G\n"
    "[trust]\nintegrity = transport\nreferrers = yes\n"
    "[prefetch]\ncomplete = never\n";

static struct image images[MIX_IMAGES];
static struct device devices[DEVICES];
static struct ask asks[ASKS];
static struct mix *m;
static struct host *h;
static double begun, outage_until, next_fault, next_kill, next_detach, next_df;

static uint64_t
below(uint64_t n)
{
	return chance(&m->seed, n);
}

static double
now(void)
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

struct registry *
mix_registry(void)
{
	struct registry *reg = registry_new();

	for (unsigned i = 0; i < MIX_IMAGES; i++) {
		size_t len = kinds[i].len, half = len / 2 / 4096 * 4096;
		_cleanup_free_ uint8_t *bytes = malloc(len);
		char repo[32];

		if (!bytes)
			abort();
		registry_fill(bytes, len, i + 100);
		if (kinds[i].shares)
			memcpy(bytes + 128 * KIB,
			    images[kinds[i].shares - 1].image->bytes,
			    half - 128 * KIB);
		if (len > 3400 * KIB)	/* chunks that come twice */
			memcpy(bytes + half + 128 * KIB, bytes + 256 * KIB,
			    512 * KIB);
		memset(bytes + len / 4096 / 8 * 7 * 4096, 0, len / 16);
		snprintf(repo, sizeof(repo), "mix/i%u", i);
		images[i] = (struct image){ .rung = kinds[i].rung,
			.image = registry_image(reg, repo, "v1", bytes, len,
			kinds[i].flags) };
	}
	return reg;
}

static const struct digest *
layout_of(const struct image *image)
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
	d->image->detached = now();
	host_detach(d->dev);	/* its reads go with it */
	memset(d, 0, sizeof(*d));
}

static void
attach(struct image *image, const struct host_answer *a)
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
	d->begun[slot] = now();
	m->reads++;
	m->read_bytes += len;
}

/* A device that needs all of an image may wait for room; nobody else may. */
static void
read_waits(struct device *d, unsigned slot)
{
	double s = now() - d->begun[slot];

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

/* ---- requests ---- */

static int
erofs_fd(const struct image *image, bool damaged)
{
	int fd = memfd_create("erofs", MFD_CLOEXEC);

	if (fd < 0 || fd_pwrite_all(fd, image->image->bytes,
	    image->image->size, 0) < 0 || (damaged && fd_pwrite_all(fd,
	    "something else", 14, below(image->image->size / 2)) < 0))
		abort();
	return fd;
}

static uint64_t
send_open(const struct ask *a)
{
	Suite__Open msg = SUITE__OPEN__INIT;

	msg.image = (char *)(below(2) ? a->image->image->name :
	    a->image->image->exact);
	msg.rung = (Shedstream__Control__V1__Rung)a->image->rung;
	msg.whole = a->what != ATTACH;
	msg.plain = a->what == PLAIN;
	msg.device = a->what == ATTACH;
	return host_send(h, SUITE_BODY(OPEN), &msg, -1);
}

static uint64_t
send_gc(void)
{
	Suite__Gc msg = SUITE__GC__INIT;

	msg.dry_run = below(4) == 0;
	msg.max_bytes = below(2) * (1 + below(MIX_QUOTA));
	return host_send(h, SUITE_BODY(GC), &msg, -1);
}

static uint64_t
send_pin(const struct ask *a)
{
	Suite__Pin msg = SUITE__PIN__INIT;

	msg.image = (char *)a->image->image->exact;
	msg.pin = below(5) == 0;
	return host_send(h, SUITE_BODY(PIN), &msg, -1);
}

static uint64_t
send_keep(const struct ask *a)
{
	Suite__Keep msg = SUITE__KEEP__INIT;
	ProtobufCBinaryData digest = { DIGEST_LEN,
		(uint8_t *)a->image->image->manifest.bytes };

	msg.owner = below(2) ? "owner-1" : "owner-2";
	msg.digests = &digest;
	msg.n_digests = below(3) == 0;
	return host_send(h, SUITE_BODY(KEEP), &msg, -1);
}

static uint64_t
send_verify(const struct ask *a)
{
	Suite__Verify msg = SUITE__VERIFY__INIT;

	msg.image = (char *)(below(2) ? "" : a->image->image->exact);
	return host_send(h, SUITE_BODY(VERIFY), &msg, -1);
}

static uint64_t
send_import(struct ask *a)
{
	Suite__Import msg = SUITE__IMPORT__INIT;

	a->damaged = below(2);
	a->fd = erofs_fd(a->image, a->damaged);
	msg.image = (char *)a->image->image->exact;
	return host_send(h, SUITE_BODY(IMPORT), &msg, a->fd);
}

static uint64_t
send_promote(struct ask *a)
{
	Suite__Promote msg = SUITE__PROMOTE__INIT;

	a->fd = memfd_create("promoted", MFD_CLOEXEC);
	msg.image = (char *)a->image->image->exact;
	return host_send(h, SUITE_BODY(PROMOTE), &msg, a->fd);
}

static uint64_t
send_drop(const struct ask *a)
{
	Suite__Drop msg = SUITE__DROP__INIT;

	msg.image = (char *)a->image->image->exact;
	return host_send(h, SUITE_BODY(DROP), &msg, -1);
}

static uint64_t
send_ask(struct ask *a)
{
	Suite__Df df = SUITE__DF__INIT;

	switch (a->what) {
	case GC:
		return send_gc();
	case PIN:
		return send_pin(a);
	case KEEP:
		return send_keep(a);
	case VERIFY:
		return send_verify(a);
	case IMPORT:
		return send_import(a);
	case PROMOTE:
		return send_promote(a);
	case DROP:
		return send_drop(a);
	case DF:
		return host_send(h, SUITE_BODY(DF), &df, -1);
	default:
		return send_open(a);
	}
}

static void
ask_begin(enum what what)
{
	struct image *image = &images[below(MIX_IMAGES)];
	unsigned i = 0;

	while (i < ASKS && asks[i].id)
		i++;
	if (i == ASKS)
		return;
	asks[i] = (struct ask){ .what = what, .fd = -1, .begun = now(),
		.image = image };
	asks[i].id = send_ask(&asks[i]);
	m->asks++;
}

static void
ask_forget(struct ask *a)
{
	fd_close(a->fd);
	*a = (struct ask){ .fd = -1 };
}

/* Is that a reason for this request to fail, as things are? */
static bool
explained(const struct ask *a, const struct host_answer *r)
{
	switch (r->code) {
	case CTL_CODE(REGISTRY_UNREACHABLE):
	case CTL_CODE(TIMEOUT):
	case CTL_CODE(BLOB_ABSENT):	/* dropped, or not yet known */
		return true;
	case CTL_CODE(NO_SPACE):
		return a->what <= PLAIN || a->what == IMPORT ||
		    a->what == PROMOTE;
	case CTL_CODE(DIGEST_MISMATCH):
		return a->image->wronged || a->damaged;
	case CTL_CODE(IN_USE):
		return a->what == DROP;
	case CTL_CODE(BUSY):
		return a->what == IMPORT || a->what == PROMOTE;
	default:
		/* Known from before, and all of it gone since; or some of it
		 * was found damaged meanwhile, and he may try again. */
		return strstr(r->text, "its index is not here") ||
		    (a->what == IMPORT && r->retry) ||
		    (m->io_errors && strstr(r->text, "Input/output error"));
	}
}

static void
promoted(const struct ask *a)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (fd_read_text(a->fd, 64 * MIB, &text, &len) < 0 ||
	    len != a->image->image->size ||
	    memcmp(text, a->image->image->bytes, len) != 0)
		host_fail(h, "what was promoted is not %s",
		    a->image->image->name);
	m->promoted++;
}

static void
checked_df(const struct host_answer *r)
{
	m->df_samples++;
	if (r->total > m->df_most)
		m->df_most = r->total;
	if (r->total > MIX_QUOTA + m->slack)
		host_fail(h, "df shows %" PRIu64 " bytes, of a quota of %d",
		    r->total, MIX_QUOTA);
}

static void
ask_ended(struct ask *a)
{
	struct host_answer r = host_wait(h, a->id);

	m->by_what[a->what]++;
	if (r.type == SUITE_BODY(FAILED) && !explained(a, &r))
		host_fail(h, "request %u of %s: code %d, %s", a->what,
		    a->image->image->name, (int)r.code, r.text);
	if (r.type == SUITE_BODY(FAILED))
		m->refused++;
	else if (a->what == ATTACH && a->image->detached < a->begun)
		attach(a->image, &r);
	else if (a->what == PROMOTE)
		promoted(a);
	else if (a->what == DF)
		checked_df(&r);
	ask_forget(a);
}

static bool
turn_asks(void)
{
	bool any = false;

	for (unsigned i = 0; i < ASKS; i++) {
		struct ask *a = &asks[i];

		if (!a->id)
			continue;
		any = true;
		if (host_answered(h, a->id))
			ask_ended(a);
		else if (now() - a->begun > LATE_ASK_S)
			host_fail(h, "request %u of %s takes %d s", a->what,
			    a->image->image->name, LATE_ASK_S);
	}
	return any;
}

/* Mostly attaches. */
static void
turn_begin(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DEVICES; i++)
		n += devices[i].dev != NULL;
	for (unsigned i = 0; i < ASKS; i++)
		n += asks[i].id && asks[i].what == ATTACH &&
		    asks[i].image->rung != CTL_RUNG(WHOLE);
	if (n < DEVICES && below(8) == 0)
		ask_begin(ATTACH);
	else if (below(16) == 0)
		ask_begin((enum what)(PULL + below(WHATS - PULL)));
	if (now() > next_detach) {
		struct device *d = &devices[below(DEVICES)];

		if (d->dev)
			detach(d);
		next_detach = now() + (double)below(200) / 1000;
	}
	if (now() > next_df) {
		ask_begin(DF);
		next_df = now() + 0.1;
	}
}

/* ---- faults ---- */

static void
fault(void)
{
	struct image *image = &images[below(MIX_IMAGES)];
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
	outage_until = now() + (double)below(200) / 1000;
}

static void
turn_faults(void)
{
	if (now() > outage_until)
		h->net.state = NET_ON;
	if (now() < next_fault)
		return;
	next_fault = now() + (double)below(m->fault_ms) / 1000;
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
				bytes[devices[i].image - images] =
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
			m->flips += harm_chunks(h, layout_of(&images[i]), 1 +
			    (unsigned)below(4), &m->seed).chunks;
}

static void
life_ends(bool cleanly)
{
	uint64_t before[MIX_IMAGES], after[MIX_IMAGES];

	for (unsigned i = 0; i < ASKS; i++)
		ask_forget(&asks[i]);
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
	if (m->killed == m->kills || now() < next_kill)
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

static uint64_t
dir_blocks(int dir, int depth)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fdopendir(fd);
	struct dirent *e;
	struct stat st;
	uint64_t n = 0;

	while (d && (e = readdir(d))) {
		int sub;

		if (e->d_name[0] == '.' && (!e->d_name[1] ||
		    (e->d_name[1] == '.' && !e->d_name[2])))
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (!S_ISDIR(st.st_mode))
			n += (uint64_t)st.st_blocks;
		sub = S_ISDIR(st.st_mode) && depth > 0 ? openat(fd, e->d_name,
		    O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (sub >= 0)
			n += dir_blocks(sub, depth - 1);
		fd_close(sub);
	}
	if (d)
		closedir(d);
	return n;
}

/* As the disk has it; what is quarantined is not the quota's. */
static void
look_at_disk(void)
{
	int dir = openat(h->store, "layouts", O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC);
	uint64_t bytes = dir < 0 ? 0 : 512 * dir_blocks(dir, 2);

	fd_close(dir);
	if (bytes > m->disk_most)
		m->disk_most = bytes;
}

static FILE *
proc(const char *what)
{
	char path[64];

	if (h->pid > 0)
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)h->pid, what);
	else
		snprintf(path, sizeof(path), "/proc/self/%s", what);
	return fopen(path, "re");
}

static void
look_at_memory(void)
{
	_cleanup_fclose_ FILE *f = m->memory_max ? proc("status") : NULL;
	unsigned long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %lu", &kib) == 1)
			break;
	if (kib * KIB > m->memory_most)
		m->memory_most = kib * KIB;
	if (m->memory_max && kib * KIB > m->memory_max)
		host_fail(h, "cached has %lu KiB of RssAnon", kib);
}

static int
descriptors(bool print)
{
	char path[64], to[128];
	struct dirent *e;
	DIR *d;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", h->pid > 0 ?
	    (int)h->pid : (int)getpid());
	d = opendir(path);
	for (; d && (e = readdir(d)); n++) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, to,
		    sizeof(to));

		if (print && len > 0)
			fprintf(stderr, "%s: %.*s\n", e->d_name, (int)len,
			    to);
	}
	if (d)
		closedir(d);
	return n;
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
	turn_asks();
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
	} while (turn_asks());
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
	double end = now() + SETTLE_S;

	do {
		turn();
		m->fds_after = descriptors(false);
	} while (m->fds_after > m->fds_fresh && now() < end);
	if (m->fds_after > m->fds_fresh && descriptors(true))
		host_fail(h, "cached has %d descriptors, and had %d",
		    m->fds_after, m->fds_fresh);
}

static void
read_everything(void)
{
	for (unsigned i = 0; i < MIX_IMAGES; i++) {
		double end = now() + SETTLE_S;
		struct host_answer a;
		struct host_device *dev;

		/* What could be evicted may not be safe on disk yet. */
		do
			a = host_wait(h, host_open_begin(h,
			    images[i].image->name, images[i].rung, false));
		while (a.type == SUITE_BODY(FAILED) && a.code ==
		    CTL_CODE(NO_SPACE) && now() < end);
		if (a.type != SUITE_BODY(OPENED))
			host_fail(h, "%s at the end: %s", images[i].image->name,
			    a.text);
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
	m->fds_fresh = descriptors(false);
	begun = now();
	next_kill = begun + m->seconds / (m->kills + 1);
	while (now() - begun < m->seconds || m->killed < m->kills)
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
	    " refused; %" PRIu64 " faults\n", now() - begun, x->reads,
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
