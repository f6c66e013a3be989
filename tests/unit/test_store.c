// SPDX-License-Identifier: Apache-2.0
/*
 * What cached promises about its store, one story each, against the real
 * process with all of its neighbours played (tests/store/host.h): every byte
 * that a read gets is compared.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include <time.h>
#include <unistd.h>

#include "test_store_host.h"

#define CONF(quota) STORE_CONF("scrub = no\nquota = " quota)

/* DERIVED is the first 6 MiB of BASE, moved, and 2 MiB of its own. */
static struct reg_image *base, *derived, *other, *third, *twin;

/* DERIVED, half of it twice, and zeros. */
static void
publish_twin(void)
{
	uint8_t *bytes = malloc(8 * MIB);

	assert_non_null(bytes);
	memcpy(bytes, derived->bytes, 8 * MIB);
	memcpy(bytes + 4 * MIB, bytes, 2 * MIB);
	memset(bytes + 6 * MIB, 0, MIB);
	twin = registry_image(reg, "os/twin", "v1", bytes, 8 * MIB,
	    IMAGE_INDEXED);
	free(bytes);
}

static int
publish(void **state)
{
	(void)state;
	publish_nothing();
	base = publish_image("os/base", 8 * MIB, 1);
	other = publish_image("os/other", 8 * MIB, 2);
	derived = publish_like("os/derived", 8 * MIB, 2, base, 2 * MIB,
	    6 * MIB);
	publish_twin();
	third = publish_image("os/third", 8 * MIB, 3);
	return 0;
}

static uint64_t
total(struct host *h)
{
	return host_df(h).total;
}

/* What one image fetched, another that shares it need not. */
static void
test_shared_chunks_are_neither_fetched_nor_stored_twice(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("0"));
	struct host_device *dev;
	uint64_t bytes, disk;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	bytes = h->counts.bytes;
	disk = total(h);
	dev = attach_chunks(h, derived, true);
	host_read_all(dev);
	/* 2 MiB are new; so is a chunk at each seam. */
	assert_in_range(h->counts.bytes - bytes, 2 * MIB, 3 * MIB);
	assert_in_range(total(h) - disk, 2 * MIB, 3 * MIB);
	assert_true(host_inspect(h, &derived->layout).network_free);
	host_free(h);
}

static void
test_a_chunk_that_comes_twice_is_stored_once(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("0"));
	struct host_device *dev;

	(void)state;
	host_start(h);
	dev = attach_chunks(h, twin, true);
	host_read_all(dev);
	assert_in_range(total(h), 5 * MIB, 6 * MIB);
	host_free(h);
}

/* The file that a live map points into is full of room that others want. */
static void
test_eviction_spares_what_maps_use(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("14M"));
	struct host_device *dev, *greedy;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	dev = attach_chunks(h, derived, false);
	host_read_all(dev);
	assert_true(host_inspect(h, &derived->layout).chunks_shared > 0);
	greedy = attach_chunks(h, other, false);
	host_read_all(greedy);
	host_read_all(greedy);
	assert_true(host_logged(h, "evicting"));
	host_read_all(dev);
	assert_int_equal(host_inspect(h, &derived->layout).damaged, 0);
	assert_true(total(h) <= 14 * MIB);
	host_free(h);
}

/* The same when it is not attached, but kept and complete. */
static void
test_eviction_spares_what_a_kept_image_leans_on(void **state)
{
	const struct reg_image *const keep[] = { derived, NULL };
	struct host *h = host_new(reg, NULL, CONF("14M"));
	struct host_device *greedy, *dev;
	struct host_answer a;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	host_detach(attach_chunks(h, derived, true));
	host_keep(h, "someone", keep);
	greedy = attach_chunks(h, other, false);
	host_read_all(greedy);
	assert_true(total(h) <= 14 * MIB);
	host_detach(greedy);
	host_stop(h);
	h->net.state = NET_FORBIDDEN;
	host_start(h);
	a = host_open(h, derived->exact, CTL_RUNG(CHUNK), false);
	dev = host_attach(h, &a);
	host_read_all(dev);
	host_free(h);
}

static uint64_t
present(struct host *h, const struct reg_image *image)
{
	struct host_answer images = host_images(h);

	for (unsigned i = 0; i < images.n_rows; i++)
		if (digest_equal(&images.rows[i].blob, &image->erofs))
			return images.rows[i].present;
	return 0;
}

/* Longest unused first. */
static void
test_the_image_unused_longest_goes_first(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("20M"));

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, other, true));
	host_detach(attach_chunks(h, base, true));
	host_detach(attach_chunks(h, third, true));
	assert_true(total(h) <= 20 * MIB);
	assert_true(present(h, third) == third->size);
	assert_true(present(h, other) < other->size);
	assert_true(present(h, base) == base->size ||
	    present(h, other) == 0);
	assert_true(host_logged(h, "evicting"));
	host_free(h);
}

/* The store can hold a part of what is read; all of it is right. */
static void
test_a_working_set_beyond_the_quota_goes_through_the_scratch(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("3M"));
	struct host_device *dev;

	(void)state;
	host_start(h);
	dev = attach_chunks(h, base, false);
	host_read_all(dev);
	host_read_all(dev);
	assert_true(dev->in_lanes > 0);
	assert_true(total(h) <= 3 * MIB);
	host_free(h);
}

/* ---- the file under a live device ---- */

static void
test_a_short_file_is_a_miss(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("0"));
	struct host_device *dev;
	_cleanup_close_ int fd = -1;

	(void)state;
	host_start(h);
	dev = attach_chunks(h, base, true);
	host_read_all(dev);
	fd = store_file(h, base, "data.");
	assert_int_equal(ftruncate(fd, 3 * MIB), 0);
	host_read_all(dev);
	assert_true(dev->agains > 0);
	host_read_all(dev);
	host_free(h);
}

static void
test_verify_mends_what_changed_under_a_live_device(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("0"));
	struct host_device *dev;
	struct host_answer a;
	_cleanup_close_ int fd = -1;

	(void)state;
	host_start(h);
	dev = attach_chunks(h, base, true);
	host_read_all(dev);
	fd = store_file(h, base, "data.");
	for (off_t at = 100; at < 8 * MIB; at += 2 * MIB)
		assert_int_equal(pwrite(fd, "damaged", 7, at), 7);
	a = host_verify(h, base->name);
	assert_int_equal(a.damaged, 4);
	assert_int_equal(a.repaired, 4);
	host_read_all(dev);
	assert_true(host_open(h, base->name, CTL_RUNG(CHUNK), true)
	    .network_free);
	assert_int_equal(host_verify(h, base->name).damaged, 0);
	host_free(h);
}

static void
test_a_self_contained_file_is_the_device(void **state)
{
	struct host *h = host_new(reg, NULL, CONF("0"));
	Suite__Open m = SUITE__OPEN__INIT;
	struct host_answer a;
	struct stat st;
	char path[512];
	_cleanup_close_ int fd = -1;
	void *bytes;

	(void)state;
	host_start(h);
	host_detach(attach_chunks(h, base, true));
	host_detach(attach_chunks(h, derived, true));
	for (int i = 0; i < 2; i++) {
		const struct reg_image *image = i ? twin : derived;

		m.image = (char *)image->name;
		m.plain = true;
		a = host_ask(h, SUITE_BODY(OPEN), &m, -1);
		assert_int_equal(a.type, SUITE_BODY(OPENED));
		assert_true(a.self_contained);
		snprintf(path, sizeof(path), "%s/store/%s", h->dir, a.data);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_size, image->size);
		bytes = mmap(NULL, image->size, PROT_READ, MAP_SHARED, fd, 0);
		assert_memory_equal(bytes, image->bytes, image->size);
		munmap(bytes, image->size);
		close(fd);
	}
	host_free(h);
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Large, half of it twice: its whole digest takes longer than all else. */
static const struct reg_image *
publish_large(void)
{
	uint8_t *bytes = malloc(64 * MIB);
	const struct reg_image *image;

	assert_non_null(bytes);
	registry_fill(bytes, 32 * MIB, 7);
	memcpy(bytes + 32 * MIB, bytes, 32 * MIB);
	image = registry_image(reg, "os/large", "v1", bytes, 64 * MIB,
	    IMAGE_INDEXED);
	free(bytes);
	return image;
}

/* Asked for at any moment of a pull: also while what was pulled is hashed. */
static void
test_a_self_contained_file_is_had_during_a_pull(void **state)
{
	enum { MOMENTS = 10 };
	struct host *h = host_new(reg, NULL, CONF("0"));
	const struct reg_image *large = publish_large();
	Suite__Open m = SUITE__OPEN__INIT;
	double took = 0;

	(void)state;
	m.image = (char *)large->name;
	m.plain = true;
	host_start(h);
	for (unsigned i = 0; i < MOMENTS; i++) {
		double begun = seconds();
		uint64_t pull = host_open_begin(h, large->name,
		    CTL_RUNG(CHUNK), true);
		struct host_answer a;

		while (seconds() - begun < took * i / MOMENTS)
			host_df(h);
		a = host_ask(h, SUITE_BODY(OPEN), &m, -1);
		assert_int_equal(a.type, SUITE_BODY(OPENED));
		assert_true(a.self_contained);
		assert_int_equal(host_wait(h, pull).type, SUITE_BODY(OPENED));
		host_drop(h, large->name);
		if (i == 0) {
			begun = seconds();
			host_open(h, large->name, CTL_RUNG(CHUNK), true);
			took = seconds() - begun;
			host_drop(h, large->name);
		}
	}
	host_free(h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_chunks_are_neither_fetched_nor_stored_twice),
		cmocka_unit_test(test_a_chunk_that_comes_twice_is_stored_once),
		cmocka_unit_test(test_eviction_spares_what_maps_use),
		cmocka_unit_test(test_eviction_spares_what_a_kept_image_leans_on),
		cmocka_unit_test(test_the_image_unused_longest_goes_first),
		cmocka_unit_test(test_a_working_set_beyond_the_quota_goes_through_the_scratch),
		cmocka_unit_test(test_a_short_file_is_a_miss),
		cmocka_unit_test(test_verify_mends_what_changed_under_a_live_device),
		cmocka_unit_test(test_a_self_contained_file_is_the_device),
		cmocka_unit_test(test_a_self_contained_file_is_had_during_a_pull),
	};

	return cmocka_run_group_tests(tests, publish, unpublish);
}
