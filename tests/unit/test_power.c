// SPDX-License-Identifier: Apache-2.0
/*
 * Power may fail at any moment: no wrong byte, no broken promise.
 *
 *	record	A long story of one store (story()) goes through cached-recorded,
 *		which logs each file operation.  Marks in the log say which part
 *		of the story it is and which images were announced as network-free
 *		and not touched since: the promises.
 *	cut	At hundreds of places of that log, the store is rebuilt as a power
 *		cut may leave it (tests/store/replay.h).
 *	judge	A plain cached starts on it.  Promised images, and those that it
 *		says are network-free, are opened and read whole, while any request
 *		to the network fails the test.  Then all are, with the network.
 *		Every byte is compared; no chunk may be found damaged, since a
 *		record on disk promises durable data.  Now and then all are read
 *		once more after another start, without the network.
 *
 * Cuts are judged by several processes at once.  When one fails, the log is
 * kept and the line that repeats it is printed:
 *
 *	test_power --judge LOG CUT SEED		PRINT=20: entries before the cut
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "tests/store/host.h"
#include "tests/store/replay.h"
#include "tests/store/tree.h"

#define KIB	1024
#define MIB	(1024 * 1024)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CUTS	160	/* slow: the memory of it is looked at, not the disk */
#else
#define CUTS	544	/* of the whole story; POWER_CUTS=N */
#endif
#define LIE_CUTS 120
#define DATA_SIZE (64 * KIB)	/* only data files are so large */
#define PARTS_MAX 32
#define JUDGES_MAX 32
#define JUDGES	4	/* of one processor: cached gathers for 200 ms what it syncs */
#define FIRST_SEED 2
#define AGAIN	4	/* one cut in so many is judged twice */

/* ---- the images ---- */

enum { BLOB, CHUNKS, SHARES, SMALL, LAZY, LAZY2, SPARE, N_IMAGES };
#define ALL_IMAGES ((UINT64_C(1) << N_IMAGES) - 1)

static struct reg *reg;
static struct reg_image *images[N_IMAGES];
/* As what each is opened, before and after a cut. */
static const uint32_t rungs[N_IMAGES] = { CTL_RUNG(COMPLETE), CTL_RUNG(CHUNK),
	CTL_RUNG(CHUNK), CTL_RUNG(CHUNK), CTL_RUNG(COMPLETE), CTL_RUNG(CHUNK),
	CTL_RUNG(WHOLE) };

/* A quarter of it zeros, and not a whole number of blocks. */
static uint8_t *
make_bytes(size_t len, uint64_t seed)
{
	uint8_t *bytes = malloc(len);

	assert_non_null(bytes);
	registry_fill(bytes, len, seed);
	memset(bytes + len / 2 / 4096 * 4096, 0, len / 4);
	return bytes;
}

static void
publish(void)
{
	_cleanup_free_ uint8_t *blob = make_bytes(1300 * KIB + 777, 1),
	    *chunks = make_bytes(1500 * KIB, 2),
	    *shares = make_bytes(1800 * KIB + 100, 3),
	    *small = make_bytes(300 * KIB, 4),
	    *lazy = make_bytes(900 * KIB + 1, 5),
	    *lazy2 = make_bytes(1000 * KIB, 6),
	    *spare = make_bytes(500 * KIB + 3000, 7);

	/* Some chunks of it come twice. */
	memcpy(chunks + 800 * KIB, chunks, 160 * KIB);
	/* The first 600 KiB are those of CHUNKS, a little further on. */
	memcpy(shares + 64 * KIB, chunks, 600 * KIB);
	reg = registry_new();
	images[BLOB] = registry_image(reg, "os/blob", "v1", blob,
	    1300 * KIB + 777, 0);
	images[CHUNKS] = registry_image(reg, "os/chunks", "v1", chunks,
	    1500 * KIB, IMAGE_INDEXED);
	images[SHARES] = registry_image(reg, "os/shares", "v2", shares,
	    1800 * KIB + 100, IMAGE_INDEXED | IMAGE_PACKED);
	images[SMALL] = registry_image(reg, "os/small", "v1", small, 300 * KIB,
	    IMAGE_INDEXED);
	images[LAZY] = registry_image(reg, "os/lazy", "v1", lazy,
	    900 * KIB + 1, 0);
	images[LAZY2] = registry_image(reg, "os/lazy2", "v1", lazy2,
	    1000 * KIB, IMAGE_INDEXED);
	images[SPARE] = registry_image(reg, "os/spare", "v1", spare,
	    500 * KIB + 3000, 0);
}

/* ---- the story ---- */

#define QUOTA(size) "[store]\nmin-free = 0\nscrub = no\nquota = " size "\n" \
		"[trust]\nintegrity = transport\n[prefetch]\ncomplete = never\n"
#define CONF	QUOTA("0")

struct teller {
	struct host *h;
	uint64_t part, promised;	/* promised: bits, by image */
	struct host_device *devices[N_IMAGES];
};

static void
mark(struct teller *t, const char *text)
{
	host_mark(t->h, t->part << 32 | t->promised, text);
}

static void
part(struct teller *t, const char *text)
{
	t->part++;
	mark(t, text);
}

/* Said before anything can touch it. */
static void
release(struct teller *t, unsigned image)
{
	t->promised &= ~(UINT64_C(1) << image);
	mark(t, "released");
}

static void
promise(struct teller *t, unsigned image, bool network_free)
{
	if (!network_free)
		host_fail(t->h, "%s should be network-free", images[image]->name);
	t->promised |= UINT64_C(1) << image;
	mark(t, "promised");
}

static void
attach(struct teller *t, unsigned image, bool whole)
{
	struct host_answer a = host_open(t->h, images[image]->name,
	    rungs[image], whole);

	if (whole)
		promise(t, image, a.network_free);
	t->devices[image] = host_attach(t->h, &a);
}

static void
detach(struct teller *t, unsigned image)
{
	host_detach(t->devices[image]);
	t->devices[image] = NULL;
}

/* Here and there, in an order of its own. */
static void
browse(struct host_device *dev, unsigned reads, uint64_t seed)
{
	uint64_t at = seed * 7919 * 4096;

	for (unsigned i = 0; i < reads; i++) {
		size_t len = 4096 << (i % 5);

		at = (at + UINT64_C(0x9e3779b97f4a7c15)) % dev->spec.size;
		if (len > dev->spec.size - at)
			len = (size_t)(dev->spec.size - at);
		host_read(dev, at, len);
	}
}

static void
again(struct host *h, const char *conf)
{
	host_stop(h);
	free(h->conf);
	h->conf = strdup(conf);
	host_start(h);
}

static void
promote(struct teller *t, unsigned image)
{
	_cleanup_close_ int fd = memfd_create("promoted", MFD_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	host_promote(t->h, images[image]->name, fd);
	assert_int_equal(fd_read_text(fd, 64 * MIB, &text, &len), 0);
	assert_int_equal(len, images[image]->size);
	assert_memory_equal(text, images[image]->bytes, len);
}

static void
import(struct teller *t, unsigned image)
{
	_cleanup_close_ int fd = memfd_create("import", MFD_CLOEXEC);

	assert_int_equal(fd_pwrite_all(fd, images[image]->bytes,
	    images[image]->size, 0), 0);
	host_import(t->h, images[image]->name, fd);
}

static void
story_first(struct teller *t)
{
	part(t, "lazy");
	attach(t, BLOB, false);
	attach(t, CHUNKS, false);
	browse(t->devices[BLOB], 12, 1);
	browse(t->devices[CHUNKS], 12, 2);
	host_stop(t->h);
	host_start(t->h);
	browse(t->devices[BLOB], 5, 3);

	part(t, "whole");
	promise(t, CHUNKS, host_open(t->h, images[CHUNKS]->name,
	    rungs[CHUNKS], true).network_free);
	promise(t, BLOB, host_open(t->h, images[BLOB]->name, rungs[BLOB],
	    true).network_free);

	part(t, "shared");
	attach(t, SHARES, true);
	host_read_all(t->devices[SHARES]);

	part(t, "attach, detach");
	detach(t, BLOB);
	attach(t, SMALL, false);
	host_read_all(t->devices[SMALL]);
	detach(t, SMALL);
	attach(t, BLOB, false);
	host_read_all(t->devices[BLOB]);

	part(t, "restart");
	again(t->h, CONF);
	host_read_all(t->devices[CHUNKS]);
	host_forget_maps(t->h);
	again(t->h, CONF);
	host_read_all(t->devices[SHARES]);
}

static bool
sync_has_failed(void *arg)
{
	struct host *h = arg;

	return atomic_load(&h->fault->syncs) == 0 &&
	    host_noticed(h, "state", "synced");
}

static void
story_second(struct teller *t)
{
	part(t, "wrong bytes");
	attach(t, LAZY2, false);
	t->h->net.wrong = 2;	/* found by the index, fetched again */
	browse(t->devices[LAZY2], 8, 4);

	part(t, "failed sync");
	attach(t, LAZY, false);
	atomic_store(&t->h->fault->sync_size, DATA_SIZE);
	atomic_store(&t->h->fault->syncs, 1);
	browse(t->devices[LAZY], 10, 5);
	host_until(t->h, sync_has_failed, t->h, "a sync to fail");
	browse(t->devices[LAZY], 10, 5);

	part(t, "quarantine");
	t->h->net.wrong = 1;
	host_wait(t->h, host_open_begin(t->h, images[SPARE]->name,
	    rungs[SPARE], true));
	t->h->net.wrong = 0;
	attach(t, SPARE, true);
	host_read_all(t->devices[SPARE]);
}

static void
story_third(struct teller *t)
{
	part(t, "promote");
	promote(t, SHARES);
	promote(t, SMALL);

	part(t, "drop");
	release(t, SPARE);
	detach(t, SPARE);
	host_drop(t->h, images[SPARE]->name);

	part(t, "import");
	host_open(t->h, images[SPARE]->name, CTL_RUNG(COMPLETE), false);
	import(t, SPARE);
	import(t, LAZY2);

	part(t, "gc");
	host_pin(t->h, images[BLOB]->name, true);
	detach(t, BLOB);
	release(t, CHUNKS);	/* SHARES leans on it: that one holds it */
	detach(t, CHUNKS);
	detach(t, LAZY);
	host_gc(t->h, 0);

	part(t, "quota");
	again(t->h, QUOTA("4M"));
	attach(t, LAZY, false);
	host_read_all(t->devices[LAZY]);
	host_read_all(t->devices[LAZY2]);
	detach(t, LAZY);
	again(t->h, QUOTA("4M"));
	attach(t, SPARE, true);	/* in its room */
	host_read_all(t->devices[SPARE]);
	detach(t, SPARE);
	release(t, SPARE);
	attach(t, CHUNKS, false);
	host_read_all(t->devices[CHUNKS]);

	part(t, "full");
	again(t->h, QUOTA("1M"));
	attach(t, LAZY, false);
	host_read_all(t->devices[LAZY]);
	assert_true(t->devices[LAZY]->in_lanes > 0);

	part(t, "after");
	again(t->h, CONF);
	promise(t, CHUNKS, host_open(t->h, images[CHUNKS]->name,
	    rungs[CHUNKS], true).network_free);
	browse(t->devices[SHARES], 10, 7);

	part(t, "leaners");
	detach(t, CHUNKS);
	release(t, CHUNKS);
	detach(t, SHARES);
	release(t, SHARES);
	host_gc(t->h, 0);
	host_open(t->h, images[CHUNKS]->name, rungs[CHUNKS], true);
	attach(t, SHARES, true);
	/* What lies in the other file is of use first, and goes first. */
	host_read(t->devices[SHARES], 0, 700 * KIB);
	host_read(t->devices[SHARES], 1 * MIB, 700 * KIB);
	release(t, SHARES);
	detach(t, SHARES);
	for (int i = 0; i < 6; i++)
		host_gc(t->h, host_df(t->h).total - 4096);
	attach(t, SHARES, true);
}

static void
story(struct teller *t)
{
	part(t, "start");
	host_start(t->h);
	story_first(t);
	story_second(t);
	story_third(t);
	host_stop(t->h);
}

/* A short one, for a store whose syncs lie. */
static void
story_of_a_liar(struct teller *t)
{
	part(t, "a lie");
	host_start(t->h);
	attach(t, CHUNKS, true);
	attach(t, BLOB, false);
	browse(t->devices[BLOB], 10, 1);
	host_stop(t->h);
}

/* ---- judging one cut ---- */

struct cut {
	size_t at;
	uint64_t seed;
	unsigned part;
};

struct tally {		/* by part, of all judges: shared memory */
	char text[32];
	_Atomic uint64_t cuts, blocks, blocks_kept, names, names_kept,
	    promises, fetched;
};

struct verdict {
	struct tally tally[PARTS_MAX];
	_Atomic uint64_t next;		/* cut to judge */
	_Atomic uint32_t failed;
	struct cut cut;			/* that failed first */
	char why[1024];
};

static struct verdict *verdict;
static const struct cut *judged;	/* by this process, now */
static struct host *judging;

static void
judge_failed(const char *why)
{
	if (atomic_exchange(&verdict->failed, 1) == 0) {
		verdict->cut = *judged;
		snprintf(verdict->why, sizeof(verdict->why), "%s", why);
	}
	host_abandon(judging);
	_exit(1);
}

/* By digest: what a tag means would be asked for.  Without an index, wrong
 * bytes of the registry are found out by the whole digest alone: if power
 * failed between that and the note of it, it fails once more. */
static struct host_device *
reopen(struct host *h, unsigned image)
{
	uint64_t id = host_open_begin(h, images[image]->exact, rungs[image],
	    false);
	struct host_answer a = host_wait(h, id);

	if (a.type == SUITE_BODY(FAILED) && h->net.state == NET_ON &&
	    a.code == CTL_CODE(DIGEST_MISMATCH) && !images[image]->indexed)
		a = host_open(h, images[image]->exact, rungs[image], false);
	if (a.type != SUITE_BODY(OPENED))
		host_fail(h, "%s: %s", images[image]->name, a.text);
	return host_attach(h, &a);
}

/* Images that cached says are network-free. */
static uint64_t
said_free(struct host *h)
{
	struct host_answer a = host_images(h);
	uint64_t mask = 0;

	for (unsigned row = 0; row < a.n_rows; row++)
		for (unsigned i = 0; i < N_IMAGES; i++)
			if (a.rows[row].network_free && digest_equal(
			    &a.rows[row].image_digest, &images[i]->manifest))
				mask |= UINT64_C(1) << i;
	return mask;
}

/* Those of a mask. */
static void
read_images(struct host *h, uint64_t mask)
{
	for (unsigned i = 0; i < N_IMAGES; i++)
		if (mask >> i & 1)
			host_read_all(reopen(h, i));
}

static void
no_damage(struct host *h)
{
	for (unsigned i = 0; i < N_IMAGES; i++) {
		struct host_layout l = host_inspect(h, &images[i]->layout);

		if (l.damaged > 0)
			host_fail(h, "%llu chunks of %s were recorded and are "
			    "not there", (unsigned long long)l.damaged,
			    images[i]->name);
		if (l.failed)
			host_fail(h, "%s failed: %s", images[i]->name,
			    l.last_error);
	}
}

/* What was read is here now. */
static void
judge_again(struct host *h)
{
	struct host_device *dev;

	while ((dev = TAILQ_FIRST(&h->devices)))
		host_detach(dev);
	host_stop(h);
	h->net.state = NET_FORBIDDEN;
	host_start(h);
	read_images(h, ALL_IMAGES);
	no_damage(h);
}

static void
judge(struct host *h, const struct replay *r, const struct cut *c)
{
	uint64_t marked = replay_mark(r, c->at), free_now;
	struct tally *t = &verdict->tally[marked >> 32];
	struct replay_report report;

	judged = c;
	host_reset(h);
	report = replay_build(r, c->at, c->seed, h->store, h->owner);
	h->net.state = NET_FORBIDDEN;
	host_start(h);
	free_now = (marked & ALL_IMAGES) | said_free(h);
	read_images(h, free_now);
	h->net.state = NET_ON;
	read_images(h, ~free_now & ALL_IMAGES);
	no_damage(h);
	t->promises += (unsigned)__builtin_popcountll(marked & ALL_IMAGES);
	t->fetched += h->counts.bytes;
	if (c->seed % AGAIN == 0)
		judge_again(h);
	host_stop(h);
	t->cuts++;
	t->blocks += report.blocks;
	t->blocks_kept += report.blocks_kept;
	t->names += report.names;
	t->names_kept += report.names_kept;
}

static void
judge_all(const struct replay *r, const struct cut *cuts, size_t n)
{
	struct host *h = host_new(reg, NULL, CONF);
	uint64_t i;

	judging = h;
	host_on_fail = judge_failed;
	while (!atomic_load(&verdict->failed) &&
	    (i = atomic_fetch_add(&verdict->next, 1)) < n)
		judge(h, r, &cuts[i]);
	host_free(h);
	_exit(0);
}

/* True: nothing was wrong. */
static bool
judges(const struct replay *r, const struct cut *cuts, size_t n)
{
	long many = JUDGES * sysconf(_SC_NPROCESSORS_ONLN);
	pid_t pids[JUDGES_MAX];
	bool well = true;
	int status;

	many = many < JUDGES ? JUDGES : many > JUDGES_MAX ? JUDGES_MAX : many;
	memset(verdict, 0, sizeof(*verdict));
	fflush(NULL);
	for (long i = 0; i < many; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0)
			judge_all(r, cuts, n);
	}
	for (long i = 0; i < many; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		well &= status == 0;
	}
	return well;
}

/* ---- choosing cuts ---- */

static bool
is_act(const struct replay *r, size_t i)
{
	return i < replay_length(r) &&
	    replay_entry(r, i)->type != RECORD_WRITE &&
	    replay_entry(r, i)->type != RECORD_RESERVE;
}

/* So many of the places [from, end), half of them beside what is no write of
 * data. */
static size_t
cuts_of_part(const struct replay *r, size_t from, size_t end, size_t want,
    struct cut *cuts)
{
	size_t n = 0, acts = 0, act = 0;

	for (size_t i = from; i < end; i++)
		acts += is_act(r, i);
	for (size_t i = 0; i < want / 2; i++)
		cuts[n++].at = from + (end - from) * i / (want / 2);
	for (size_t i = from; i < end && n < want; i++)
		if (is_act(r, i) && (act++) * (want - want / 2) / acts >=
		    n - want / 2)
			cuts[n++].at = i + act % 2;
	while (n > 0 && n < want) {	/* a short part: more seeds */
		cuts[n].at = cuts[n % (want / 2)].at;
		n++;
	}
	return n;
}

static struct cut *
choose(const struct replay *r, size_t want, size_t *n)
{
	size_t starts[PARTS_MAX + 1], parts = 0, length = replay_length(r);
	struct cut *cuts = calloc(want + PARTS_MAX, sizeof(*cuts));
	uint64_t last = 0;

	assert_non_null(cuts);
	for (size_t i = 0; i < length; i++)
		if (replay_entry(r, i)->type == RECORD_MARK &&
		    replay_entry(r, i)->offset >> 32 != last) {
			last = replay_entry(r, i)->offset >> 32;
			starts[parts++] = i + 1;
			assert_true(parts < PARTS_MAX);
		}
	starts[parts] = length + 1;
	*n = 0;
	for (size_t p = 0; p < parts; p++)
		*n += cuts_of_part(r, starts[p], starts[p + 1],
		    want / parts + 1, cuts + *n);
	for (size_t i = 0; i < *n; i++) {
		if (cuts[i].at > length)
			cuts[i].at = length;
		/* Now and then the two ends of what is possible. */
		cuts[i].seed = i % 16 == 0 ? REPLAY_ALL : i % 16 == 1 ?
		    REPLAY_NONE : FIRST_SEED + i;
	}
	return cuts;
}

/* ---- the cases ---- */

static void
fail_case(const char *why)
{
	fail_msg("%s", why);
}

static int
record(void (*tell)(struct teller *t), uint32_t skip_sync,
    uint32_t skip_sync_dir, bool check)
{
	int log = memfd_create("log", MFD_CLOEXEC);
	struct teller t = { .h = host_new(reg, "cached-recorded", CONF) };
	struct host *h = t.h;
	char why[512];

	assert_true(log >= 0);
	host_record(h, log);
	atomic_store(&h->fault->skip_sync, skip_sync);
	atomic_store(&h->fault->skip_sync_dir, skip_sync_dir);
	tell(&t);
	if (check) {
		struct replay *r = replay_open(log);
		struct host *copy = host_new(reg, NULL, NULL);

		replay_build(r, replay_length(r), REPLAY_ALL, copy->store,
		    (uid_t)-1);
		if (!tree_same(h->store, copy->store, "lock", why))
			fail_msg("the store was changed past disk.h: %s", why);
		replay_free(r);
		host_free(copy);
	}
	host_free(h);
	return log;
}

static void
name_parts(const struct replay *r)
{
	for (size_t i = 0; i < replay_length(r); i++) {
		const struct record *e = replay_entry(r, i);
		struct tally *t = &verdict->tally[e->offset >> 32];

		if (e->type == RECORD_MARK && t->text[0] == '\0')
			snprintf(t->text, sizeof(t->text), "%.*s",
			    (int)e->name_len, (const char *)(e + 1));
	}
}

static void
print_tally(const struct replay *r, double seconds)
{
	uint64_t cuts = 0;

	name_parts(r);
	fprintf(stderr, "%-16s %5s %18s %18s %8s %8s\n", "part", "cuts",
	    "uncovered blocks", "uncovered names", "promised", "fetched");
	for (size_t i = 0; i < PARTS_MAX; i++) {
		const struct tally *t = &verdict->tally[i];

		cuts += t->cuts;
		if (t->cuts > 0)
			fprintf(stderr, "%-16s %5lu %8lu, %3lu%% kept "
			    "%8lu, %3lu%% kept %8lu %5lu KiB\n", t->text,
			    t->cuts, t->blocks, t->blocks ? 100 *
			    t->blocks_kept / t->blocks : 0, t->names,
			    t->names ? 100 * t->names_kept / t->names : 0,
			    t->promises, t->fetched / t->cuts / KIB);
	}
	fprintf(stderr, "%lu cuts of %zu operations in %.1f s\n", cuts,
	    replay_length(r), seconds);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Keep the log, and say how to see it again. */
static void
print_failure(const struct replay *r, int log)
{
	const struct cut *c = &verdict->cut;
	char path[] = "/tmp/power-log.XXXXXX", buf[64 * KIB];
	_cleanup_close_ int to = mkstemp(path);
	uint64_t at = 0;
	ssize_t n;

	while ((n = fd_pread_all(log, buf, sizeof(buf), at)) > 0 &&
	    fd_pwrite_all(to, buf, (size_t)n, at) == 0)
		at += (uint64_t)n;
	replay_print(r, c->at < 30 ? 0 : c->at - 30, c->at, stderr);
	fprintf(stderr, "cut %zu seed %lu: %s\nagain: test_power --judge %s "
	    "%zu %lu\n", c->at, c->seed, verdict->why, path, c->at, c->seed);
}

static void
test_no_cut_of_power_costs_a_byte_or_a_promise(void **state)
{
	const char *many = getenv("POWER_CUTS");
	double begin = now();
	_cleanup_close_ int log = record(story, 0, 0, true);
	struct replay *r = replay_open(log);
	struct cut *cuts;
	size_t n;
	bool well;

	(void)state;
	cuts = choose(r, many ? (size_t)atol(many) : CUTS, &n);
	fprintf(stderr, "recorded in %.1f s\n", now() - begin);
	begin = now();
	well = judges(r, cuts, n);
	print_tally(r, now() - begin);
	if (!well)
		print_failure(r, log);
	free(cuts);
	replay_free(r);
	assert_true(well);
}

/* The proof that the one above can fail. */
static void
liar_is_found(uint32_t skip_sync, uint32_t skip_sync_dir)
{
	_cleanup_close_ int log = record(story_of_a_liar, skip_sync,
	    skip_sync_dir, false);
	struct replay *r = replay_open(log);
	struct cut *cuts;
	size_t n;

	cuts = choose(r, LIE_CUTS, &n);
	host_quiet = true;
	assert_false(judges(r, cuts, n));
	host_quiet = false;
	fprintf(stderr, "found at cut %zu of %zu: %s\n", verdict->cut.at,
	    replay_length(r), verdict->why);
	free(cuts);
	replay_free(r);
}

static void
test_a_sync_that_does_nothing_is_found(void **state)
{
	(void)state;
	liar_is_found(1, 0);
}

static void
test_records_before_their_data_are_found(void **state)
{
	(void)state;
	liar_is_found(DATA_SIZE, 0);
}

static void
test_a_directory_sync_that_does_nothing_is_found(void **state)
{
	(void)state;
	liar_is_found(0, 1);
}

/* One cut of a log that was kept. */
static int
judge_one(char **argv)
{
	_cleanup_close_ int log = open(argv[0], O_RDWR | O_CLOEXEC);
	struct cut c = { .at = (size_t)atol(argv[1]),
		.seed = (uint64_t)atol(argv[2]) };
	const char *print = getenv("PRINT");
	size_t entries = print ? (size_t)atol(print) : 0;
	struct replay *r = replay_open(log);
	bool well;

	replay_print(r, c.at < entries ? 0 : c.at - entries, c.at, stderr);
	well = judges(r, &c, 1);
	fprintf(stderr, "%s\n", well ? "right" : verdict->why);
	replay_free(r);
	return !well;
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_cut_of_power_costs_a_byte_or_a_promise),
		cmocka_unit_test(test_a_sync_that_does_nothing_is_found),
		cmocka_unit_test(test_records_before_their_data_are_found),
		cmocka_unit_test(
		    test_a_directory_sync_that_does_nothing_is_found),
	};
	void *p = mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	verdict = p;
	publish();
	if (argc == 5 && strcmp(argv[1], "--judge") == 0)
		return judge_one(argv + 2);
	host_on_fail = fail_case;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
