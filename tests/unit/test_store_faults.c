// SPDX-License-Identifier: Apache-2.0
/*
 * What cached promises about its store when something went wrong: a former
 * cached died, bytes on disk changed, a sync failed, or two things happen at
 * once.  One story each, with all of its neighbours played
 * (tests/store/host.h), and every byte that a read gets is compared.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "test_store_host.h"

#define QUOTA(quota) STORE_CONF("scrub = no\nquota = " quota)

#define ROUNDS	8	/* of a race */
/* Of a chunk's record in presence.ID, behind its header: cached/cached.h. */
#define HEADER	4096
#define RECORD	64

/* DERIVED is the first 6 MiB of BASE, moved, and 2 MiB of its own; LATER the
 * same 6 MiB at their place. */
static struct reg_image *base, *derived, *later, *other, *third;

static int
publish(void **state)
{
	(void)state;
	publish_nothing();
	base = publish_image("os/base", 8 * MIB, 1);
	other = publish_image("os/other", 8 * MIB, 2);
	derived = publish_like("os/derived", 8 * MIB, 2, base, 2 * MIB,
	    6 * MIB);
	later = publish_like("os/later", 8 * MIB, 4, base, 0, 6 * MIB);
	third = publish_image("os/third", 8 * MIB, 3);
	return 0;
}

static int
bytes_in_memory(const struct reg_image *image)
{
	int fd = memfd_create(image->tag, MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, image->bytes, image->size, 0),
	    image->size);
	return fd;
}

/* ---- waiting for what no message announces ---- */

struct text {
	struct host *h;
	const char *text;
};

static bool
is_logged(void *arg)
{
	const struct text *t = arg;

	return host_logged(t->h, t->text);
}

static void
until_logged(struct host *h, const char *text)
{
	until(h, is_logged, &(struct text){ h, text }, text);
}

struct file {
	struct host *h;
	const struct reg_image *image;
	unsigned records;
};

/* Chunks whose records were written: a kill -9 does not lose them. */
static unsigned
records(const struct host *h, const struct reg_image *image)
{
	_cleanup_close_ int fd = store_file(h, image, "presence.");
	uint8_t record[RECORD], none[RECORD] = { 0 };
	unsigned n = 0;

	for (off_t at = HEADER; pread(fd, record, RECORD, at) == RECORD;
	    at += RECORD)
		n += memcmp(record, none, RECORD) != 0;
	return n;
}

static bool
has_records(void *arg)
{
	const struct file *f = arg;

	return records(f->h, f->image) >= f->records;
}

/* Until as many chunks have records as the layout has in its file. */
static void
until_recorded(struct host *h, const struct reg_image *image)
{
	struct host_layout l = host_inspect(h, &image->layout);
	struct file f = { h, image,
		(unsigned)(l.chunks_present - l.chunks_shared) };

	assert_true(f.records > 0);
	until(h, has_records, &f, "records on disk");
}

static void
damage(const struct host *h, const struct reg_image *image, off_t at)
{
	_cleanup_close_ int fd = store_file(h, image, "data.");

	assert_int_equal(pwrite(fd, "damaged", 7, at), 7);
}

static bool
is_complete(void *arg)
{
	const struct file *f = arg;
	struct host_answer images = host_images(f->h);

	for (unsigned i = 0; i < images.n_rows; i++)
		if (digest_equal(&images.rows[i].blob, &f->image->erofs))
			return images.rows[i].complete;
	return false;
}

/* All of it is here after a restart.  Is that known before it is read? */
static bool
must_be_kept(struct host *h, const struct reg_image *image)
{
	struct host_answer a;

	host_stop(h);
	h->net.state = NET_FORBIDDEN;
	host_start(h);
	a = host_open(h, image->exact, CTL_RUNG(CHUNK), false);
	host_read_all(host_attach(h, &a));
	return a.network_free;
}

/* ---- what a former cached left behind ---- */

/* DERIVED's map points into BASE's file, at chunks of which no record was
 * written: this cached knows nothing of them, and empties that file. */
static void
test_gc_spares_what_a_former_cached_published(void **state)
{
	struct host *h = host_new(reg, NULL, QUOTA("9M"));
	struct host_device *parts, *dev, *greedy;
	uint64_t at = 4 * MIB + 300 * KIB;

	(void)state;
	host_start(h);
	parts = attach_chunks(h, base, false);
	dev = attach_chunks(h, derived, false);
	assert_int_equal(host_read(parts, 6 * MIB + 512 * KIB, MIB), 0);
	until_recorded(h, base);
	assert_int_equal(host_read(parts, 2 * MIB, MIB), 0);
	assert_int_equal(host_read(dev, at, 300 * KIB), 0);
	assert_true(host_inspect(h, &derived->layout).chunks_shared > 0);
	host_detach(parts);
	host_kill(h);
	host_start(h);
	host_read(dev, at, 300 * KIB);
	greedy = attach_chunks(h, other, false);
	host_read_all(greedy);
	assert_int_equal(host_read(dev, at, 300 * KIB), 0);
	assert_true(host_df(h).total <= 9 * MIB);
	host_free(h);
}

/* Its map still points into the store.  What it shows must be right; reads of
 * the rest wait until it is attached again. */
static void
test_a_device_that_cannot_be_served_reads_no_evicted_bytes(void **state)
{
	struct host *h = host_new(reg, NULL, QUOTA("9M"));
	struct host_device *dev, *greedy;
	_cleanup_close_ int fd = -1;

	(void)state;
	host_start(h);
	dev = attach_chunks(h, base, true);
	host_read_all(dev);
	until_recorded(h, base);
	host_kill(h);
	fd = store_file(h, base, "index");
	assert_int_equal(pwrite(fd, "x", 1, 5000), 1);
	host_start(h);
	assert_true(host_logged(h, "can't be served"));
	greedy = attach_chunks(h, other, false);
	host_read_all(greedy);
	/* What can be read is compared at once; host_detach() ends the rest. */
	for (uint64_t at = 0; at < 8 * MIB; at += MIB)
		host_read_begin(dev, at, MIB);
	host_images(h);
	host_detach(dev);
	host_read_all(attach_chunks(h, base, false));
	host_free(h);
}

/* Again nothing has a record, so that every chunk seems to be missing. */
static void
test_import_never_writes_under_a_live_map(void **state)
{
	struct host *h = host_new(reg, NULL, QUOTA("0"));
	_cleanup_close_ int fd = bytes_in_memory(other);
	Suite__Import m = SUITE__IMPORT__INIT;
	struct host_device *dev;
	struct host_answer a;
	uint64_t id;

	(void)state;
	host_start(h);
	dev = attach_chunks(h, base, false);
	host_read_all(dev);
	host_kill(h);
	host_start(h);
	m.image = (char *)base->name;
	id = host_send(h, SUITE_BODY(IMPORT), &m, fd);
	while (!host_answered(h, id)) {
		host_read_all(dev);
		host_images(h);
	}
	a = host_wait(h, id);
	assert_true(a.type == SUITE_BODY(DONE) ||
	    a.code == CTL_CODE(DIGEST_MISMATCH));
	host_read_all(dev);
	until_recorded(h, base);
	host_read_all(dev);
	host_free(h);
}

/* ---- damage ---- */

struct drop {
	struct host *h;
	const struct reg_image *image;
	bool done;
};

static bool
is_dropped(void *arg)
{
	struct drop *d = arg;
	Suite__Drop m = SUITE__DROP__INIT;

	m.image = (char *)d->image->name;
	d->done = d->done || host_ask(d->h, SUITE_BODY(DROP), &m, -1).type ==
	    SUITE_BODY(DONE);
	return d->done;
}

static void
test_rm_works_after_damage_was_mended_from_another_file(void **state)
{
	struct host *h = host_new(reg, NULL, QUOTA("0"));
	Suite__Open m = SUITE__OPEN__INIT;
	struct host_answer a;
	uint64_t bytes;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	m.image = (char *)derived->name;
	m.plain = true;		/* it has all of BASE that it needs */
	a = host_ask(h, SUITE_BODY(OPEN), &m, -1);
	assert_int_equal(a.type, SUITE_BODY(OPENED));
	assert_true(a.self_contained);
	bytes = h->counts.bytes;
	damage(h, base, 2 * MIB + 100);
	a = host_verify(h, base->name);
	assert_int_equal(a.damaged, 1);
	assert_int_equal(a.repaired, 1);
	until(h, is_dropped, &(struct drop){ h, base, false }, "rm");
	assert_int_equal(h->counts.bytes, bytes);
	host_free(h);
}

struct fetches {
	struct host *h;
	unsigned n;
};

static bool
has_fetches(void *arg)
{
	const struct fetches *f = arg;

	return f->h->counts.fetches >= f->n;
}

/* LATER counts on BASE's chunk, until BASE's own read finds it damaged. */
static void
test_a_pull_goes_on_when_another_layout_drops_its_chunk(void **state)
{
	struct host *h = host_new(reg, NULL, QUOTA("0"));
	struct host_device *dev;
	struct host_read *r;
	uint64_t id;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	host_stop(h);
	damage(h, base, 2 * MIB + 100);
	host_start(h);
	host_open(h, later->name, CTL_RUNG(CHUNK), false);
	dev = attach_chunks(h, base, false);
	h->net.state = NET_HELD;
	id = host_open_begin(h, later->exact, CTL_RUNG(CHUNK), true);
	until(h, has_fetches, &(struct fetches){ h, h->counts.fetches + 1 },
	    "the pull's first request");
	r = host_read_begin(dev, 2 * MIB, 4 * KIB);
	until_logged(h, "damaged (wrong digest)");
	h->net.state = NET_ON;
	host_new_fetcherd(h);
	assert_int_equal(host_read_end(r), 0);
	assert_int_equal(host_wait(h, id).type, SUITE_BODY(OPENED));
	host_free(h);
}

/* ---- import, gc ---- */

static void
test_import_answers_after_a_failed_sync(void **state)
{
	struct host *h = host_new(reg, "cached-recorded", QUOTA("0"));
	_cleanup_close_ int log = memfd_create("log", MFD_CLOEXEC);
	_cleanup_close_ int fd = bytes_in_memory(base);
	Suite__Import m = SUITE__IMPORT__INIT;
	struct host_answer a;

	(void)state;
	host_record(h, log);
	host_start(h);
	host_open(h, base->name, CTL_RUNG(CHUNK), false);
	atomic_store(&h->fault->sync_size, MIB);
	atomic_store(&h->fault->syncs, 1);
	m.image = (char *)base->name;
	a = host_ask(h, SUITE_BODY(IMPORT), &m, fd);
	assert_int_equal(atomic_load(&h->fault->syncs), 0);
	assert_true(a.type == SUITE_BODY(DONE) ||
	    a.type == SUITE_BODY(FAILED));
	host_free(h);
}

static void
test_until_before_the_epoch_frees_nothing(void **state)
{
	struct host *h = host_new(reg, NULL, QUOTA("0"));
	Suite__Gc m = SUITE__GC__INIT;
	struct host_answer a;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	m.until_s = 4000000000u;	/* 126 years ago */
	a = host_ask(h, SUITE_BODY(GC), &m, -1);
	assert_int_equal(a.type, SUITE_BODY(GC_ROW));
	for (unsigned i = 0; i < a.n_rows; i++)
		assert_int_equal(a.rows[i].freed, 0);
	assert_true(must_be_kept(h, base));
	host_free(h);
}

/* ---- promises ---- */

/* BASE itself nobody needs: not attached, not kept, not complete. */
static struct host *
kept_on_damage(const char *conf)
{
	const struct reg_image *const keep[] = { derived, NULL };
	struct host *h = host_new(reg, NULL, conf);
	struct host_device *dev;

	host_start(h);
	dev = attach_chunks(h, base, false);
	for (uint64_t at = 0; at < 6 * MIB; at += MIB)
		assert_int_equal(host_read(dev, at, MIB), 0);
	until_recorded(h, base);
	host_detach(attach_chunks(h, derived, true));
	host_detach(dev);
	host_keep(h, "someone", keep);
	damage(h, base, 2 * MIB + 100);
	until_logged(h, "on disk are damaged");
	return h;
}

static void
test_scrub_refetches_what_a_kept_image_leans_on(void **state)
{
	struct host *h = kept_on_damage(
	    STORE_CONF("scrub = yes\nscrub-every = 2s\nquota = 0"));

	(void)state;
	until(h, is_complete, &(struct file){ h, derived, 0 },
	    "the kept image to be complete again");
	assert_true(must_be_kept(h, derived));
	host_free(h);
}

/* What leans on a mended chunk is complete again, without being opened: only
 * then eviction spares the rest of what it leans on. */
static void
test_a_mended_kept_image_is_spared_again(void **state)
{
	struct host *h = kept_on_damage(
	    STORE_CONF("scrub = yes\nscrub-every = 2s\nquota = 14M"));
	struct host_device *greedy;

	(void)state;
	until_logged(h, " 0 damaged");
	greedy = attach_chunks(h, other, false);
	host_read_all(greedy);
	host_detach(greedy);
	assert_true(host_logged(h, "evicting"));
	assert_true(host_df(h).total <= 14 * MIB);
	assert_true(must_be_kept(h, derived));
	host_free(h);
}

/* df looks at the layouts that eviction is about to need. */
static void
evict_with_df(struct host *h, const struct reg_image *image)
{
	struct host_device *greedy = attach_chunks(h, image, false);
	struct host_read *reads[8];

	for (uint64_t i = 0; i < 8; i++)
		reads[i] = host_read_begin(greedy, i * MIB, MIB);
	while (!host_read_done(reads[7]))
		host_df(h);
	for (int i = 0; i < 8; i++)
		assert_int_equal(host_read_end(reads[i]), 0);
	host_detach(greedy);
}

static void
test_df_during_eviction_costs_no_promise(void **state)
{
	const struct reg_image *const keep[] = { derived, NULL };
	struct host *h = host_new(reg, NULL, QUOTA("14M"));
	struct host_device *dev;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	host_detach(attach_chunks(h, derived, true));
	host_keep(h, "someone", keep);
	for (int i = 0; i < ROUNDS; i++) {
		/* What DERIVED does not need of BASE. */
		dev = attach_chunks(h, base, false);
		assert_int_equal(host_read(dev, 6 * MIB, 2 * MIB - 4 * KIB),
		    0);
		until_recorded(h, base);
		host_detach(dev);
		evict_with_df(h, i % 2 ? other : third);
		assert_true(is_complete(&(struct file){ h, derived, 0 }));
	}
	assert_true(host_logged(h, "evicting"));
	assert_true(must_be_kept(h, derived));
	host_free(h);
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gc_spares_what_a_former_cached_published),
		cmocka_unit_test(test_a_device_that_cannot_be_served_reads_no_evicted_bytes),
		cmocka_unit_test(test_import_never_writes_under_a_live_map),
		cmocka_unit_test(test_rm_works_after_damage_was_mended_from_another_file),
		cmocka_unit_test(test_a_pull_goes_on_when_another_layout_drops_its_chunk),
		cmocka_unit_test(test_import_answers_after_a_failed_sync),
		cmocka_unit_test(test_until_before_the_epoch_frees_nothing),
		cmocka_unit_test(test_scrub_refetches_what_a_kept_image_leans_on),
		cmocka_unit_test(test_a_mended_kept_image_is_spared_again),
		cmocka_unit_test(test_df_during_eviction_costs_no_promise),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, publish, unpublish);
}
