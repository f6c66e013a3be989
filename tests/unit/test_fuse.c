// SPDX-License-Identifier: Apache-2.0
/*
 * The FUSE shim as the kernel sees it: a real worker, a played parent and
 * cached, and in place of /dev/fuse a socket that keeps messages whole.  What
 * that can't show, the refusal of a second answer, is seen as that answer.
 *
 * Each moment at which a worker can die is made here: by what its successor
 * finds in the journal, in the socket, or by killing a worker that waits.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "devd/fuse_proto.h"
#include "test_io_host.h"

#define KIB		1024
#define MIB		(1024 * 1024)
#define UNIT		UNIT_SIZE
#define SIZE		(16 * MIB + 100)	/* ends inside a page */
#define QUIET_MS	100
#define FLOOD		1000
#define NONSENSE	256	/* slots: as many answers as the socket holds */
#define ANY		1		/* a handle that no OPEN gave */

struct ask {	/* a request, whole */
	uint32_t len, opcode;
	uint64_t unique, node;
	uint32_t uid, gid, pid, padding;
	uint8_t body[64];
};

struct answer {
	uint32_t len;
	int32_t error;
	uint64_t unique;
	uint8_t body[128 * KIB];
};

static struct answer answer;	/* the last one */

static int
setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	host_start_file(h, SIZE, UNIT);
	*state = h;
	return 0;
}

static int
setup_blocks(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	host_start_file(h, SIZE, MAP_BLOCK);
	*state = h;
	return 0;
}

static int
teardown(void **state)
{
	struct host *h = *state;

	host_stop(h);
	host_unmount(h);
	free(h);
	return 0;
}

/* ---- the kernel ---- */

static struct ask
ask_new(uint32_t opcode, uint64_t unique, const void *body, size_t len)
{
	struct ask a = { .len = FUSE_IN_HEADER + (uint32_t)len,
		.opcode = opcode, .unique = unique, .node = FUSE_ROOT };

	must(len <= sizeof(a.body));
	if (len > 0)
		memcpy(a.body, body, len);
	return a;
}

static struct ask
ask_read(uint64_t unique, uint64_t offset, uint32_t length, uint32_t flags)
{
	const struct {
		uint64_t fh, offset;
		uint32_t size, read_flags;
		uint64_t owner;
		uint32_t flags, padding;
	} body = { ANY, offset, length, 0, 0, flags, 0 };

	return ask_new(FUSE_READ, unique, &body, sizeof(body));
}

static struct ask
ask_open(uint64_t unique, uint32_t flags)
{
	const uint32_t body[2] = { flags };

	return ask_new(FUSE_OPEN, unique, body, sizeof(body));
}

static struct ask
ask_release(uint64_t unique, uint64_t handle)
{
	const uint64_t body[3] = { handle };

	return ask_new(FUSE_RELEASE, unique, body, sizeof(body));
}

static void
put(struct host *h, struct ask a)
{
	must(send(h->kernel, &a, a.len, 0) == (ssize_t)a.len);
}

/* The next answer is to that request, with so much behind its header. */
static void
get(struct host *h, uint64_t unique, int error, size_t len)
{
	must(readable_in(h->kernel, DEADLINE_S * 1000));
	ssize_t n = recv(h->kernel, &answer, sizeof(answer), 0);

	assert_int_equal(n, FUSE_OUT_HEADER + len);
	assert_int_equal(answer.len, n);
	assert_int_equal(answer.unique, unique);
	assert_int_equal(answer.error, error);
}

static void
get_right(struct host *h, uint64_t unique, uint64_t offset, uint32_t len)
{
	get(h, unique, 0, len);
	assert_true(pattern_is(answer.body, offset, len));
}

/* A new worker may look before it has its store files, and asks then. */
static void
get_taken_over(struct host *h, uint64_t unique, uint64_t offset, uint32_t len)
{
	struct pollfd p[2] = { { .fd = h->kernel, .events = POLLIN },
		{ .fd = h->cached, .events = POLLIN } };

	do {
		must(poll(p, 2, DEADLINE_S * 1000) > 0);
		if (p[1].revents)
			host_here(h, host_want(h).id, 0);
	} while (!p[0].revents);
	get_right(h, unique, offset, len);
}

/* No answer comes: those to later requests say so. */
static void
assert_silent(struct host *h, uint64_t unique)
{
	put(h, ask_new(FUSE_STATFS, unique, NULL, 0));
	get(h, unique, 0, 80);
}

static unsigned
slots_busy(const struct host *h)
{
	unsigned n = 0;

	for (size_t i = 0; i < FUSE_SLOTS; i++)
		n += h->journal->slots[i].len != 0;
	return n;
}

/* The worker has written down all that it answered, and dies. */
static void
die_idle(struct host *h)
{
	for (time_t end = time(NULL) + DEADLINE_S; slots_busy(h) > 0;)
		must(time(NULL) < end);
	host_kill(h);
}

/* What a dead worker left in a slot. */
static void
leave(struct host *h, unsigned i, struct ask a)
{
	must(h->journal->slots[i].len == 0);
	memcpy(h->journal->slots[i].rest, (uint8_t *)&a + 4, a.len - 4);
	h->journal->slots[i].len = a.len;
}

/* Nothing is left over, and the worker goes on. */
static void
assert_goes_on(struct host *h)
{
	host_fill(h, 1, 1);
	put(h, ask_read(9999, h->unit, 4096, 0));
	get_right(h, 9999, h->unit, 4096);
	assert_silent(h, 9998);
	assert_silent(h, 9997);		/* the slot before is free by now */
	assert_true(slots_busy(h) <= 1);
}

/* ---- requests ---- */

static void
test_init_is_answered_and_recorded(void **state)
{
	const uint32_t body[16] = { 7, 45, 131072, UINT32_MAX };
	struct host *h = *state;

	put(h, ask_new(FUSE_INIT, 2, body, sizeof(body)));
	get(h, 2, 0, 64);
	assert_int_equal(h->journal->minor, 45);
	assert_int_equal(h->journal->flags, UINT32_MAX);
	assert_int_equal(h->journal->version, FUSE_JOURNAL_VERSION);
}

static void
test_init_of_an_old_kernel_is_refused(void **state)
{
	const uint32_t body[16] = { 7, 26, 131072, UINT32_MAX };
	struct host *h = *state;

	put(h, ask_new(FUSE_INIT, 2, body, sizeof(body)));
	get(h, 2, -EINVAL, 0);
}

static void
test_reads_are_right_at_any_offset_and_length(void **state)
{
	struct host *h = *state;
	uint64_t unique = 2;

	host_fill(h, 0, map_units(SIZE, UNIT));
	for (uint32_t len = 1; len <= 128 * KIB; len = len * 3 + 1)
		for (uint64_t at = 0; at + len <= SIZE; at += 3 * MIB + 511) {
			put(h, ask_read(unique, at, len, 0));
			get_right(h, unique++, at, len);
		}
	assert_int_equal(h->stats->reads_cold, 0);
	assert_true(host_quiet(h, QUIET_MS));
}

static void
test_a_read_over_the_end_is_short(void **state)
{
	struct host *h = *state;

	host_fill(h, SIZE / UNIT, 1);
	put(h, ask_read(2, SIZE / 4096 * 4096, 4096, 0));
	get_right(h, 2, SIZE / 4096 * 4096, 100);
	put(h, ask_read(4, SIZE, 4096, 0));
	get(h, 4, 0, 0);
	put(h, ask_read(6, SIZE + 4096, 4096, 0));
	get(h, 6, 0, 0);
	put(h, ask_read(8, UINT64_MAX, 4096, 0));
	get(h, 8, 0, 0);
	put(h, ask_read(10, 0, FUSE_READ_MAX + 1, 0));
	get(h, 10, -EINVAL, 0);
}

static void
test_the_file_has_the_devices_size(void **state)
{
	struct host *h = *state;
	uint64_t size;

	put(h, ask_new(FUSE_GETATTR, 2, "0123456789abcdef", 16));
	get(h, 2, 0, 104);
	memcpy(&size, answer.body + 24, sizeof(size));
	assert_int_equal(size, SIZE);
}

static void
test_what_it_does_not_know_it_says(void **state)
{
	struct host *h = *state;

	put(h, ask_new(46, 2, NULL, 0));		/* LSEEK */
	get(h, 2, -ENOSYS, 0);
	put(h, ask_new(25, 4, NULL, 0));		/* FLUSH */
	get(h, 4, -ENOSYS, 0);
	put(h, ask_new(FUSE_FSYNC, 6, NULL, 0));
	get(h, 6, 0, 0);
	put(h, ask_new(FUSE_WRITE, 8, NULL, 0));
	get(h, 8, -EROFS, 0);
	put(h, ask_new(FUSE_FORGET, 10, "01234567", 8));
	put(h, ask_new(FUSE_BATCH_FORGET, 0, "01234567", 8));
	put(h, ask_new(FUSE_INTERRUPT, 0, "01234567", 8));
	assert_silent(h, 12);
	assert_goes_on(h);
}

static void
test_a_long_or_broken_request_costs_only_itself(void **state)
{
	struct host *h = *state;
	uint8_t big[4096] = { 0 };
	struct ask a = ask_new(43, 2, NULL, 0);

	a.len = sizeof(big);
	memcpy(big, &a, FUSE_IN_HEADER);
	must(send(h->kernel, big, sizeof(big), 0) == sizeof(big));
	get(h, 2, -EROFS, 0);
	a.len = 3000;			/* it is not so long */
	memcpy(big, &a, FUSE_IN_HEADER);
	must(send(h->kernel, big, sizeof(big), 0) == sizeof(big));
	must(send(h->kernel, big, 10, 0) == 10);
	a = ask_read(4, 0, 4096, 0);
	a.len -= 1;
	must(send(h->kernel, &a, a.len, 0) == (ssize_t)a.len);
	get(h, 4, -EINVAL, 0);
	assert_goes_on(h);
}

/* ---- openers ---- */

static void
test_openers_are_counted(void **state)
{
	struct host *h = *state;
	uint64_t first, second;

	put(h, ask_open(2, O_RDONLY));
	get(h, 2, 0, 16);
	memcpy(&first, answer.body, sizeof(first));
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 1);
	put(h, ask_open(4, O_RDONLY | O_DIRECT));
	get(h, 4, 0, 16);
	memcpy(&second, answer.body, sizeof(second));
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 2);
	assert_int_equal(h->stats->openers, 2);
	put(h, ask_release(6, first));
	get(h, 6, 0, 0);
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 1);
	put(h, ask_release(8, second));
	get(h, 8, 0, 0);
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 0);
	put(h, ask_release(10, 0));
	get(h, 10, 0, 0);
	assert_int_equal(h->stats->openers, 0);
}

static void
test_nobody_opens_it_for_writing(void **state)
{
	struct host *h = *state;

	put(h, ask_open(2, O_RDWR));
	get(h, 2, -EROFS, 0);
	put(h, ask_open(4, O_WRONLY));
	get(h, 4, -EROFS, 0);
	assert_int_equal(h->stats->openers, 0);
}

/* The pages that were read before may be wrong. */
static void
test_who_opens_a_failed_device_drops_its_pages(void **state)
{
	struct host *h = *state;
	uint32_t flags;

	put(h, ask_open(2, O_RDONLY));
	get(h, 2, 0, 16);
	memcpy(&flags, answer.body + 8, sizeof(flags));
	assert_int_equal(flags, FUSE_KEEP_CACHE);
	atomic_store(&h->map->state, MAP_BROKEN);
	put(h, ask_open(4, O_RDONLY));
	get(h, 4, 0, 16);
	memcpy(&flags, answer.body + 8, sizeof(flags));
	assert_int_equal(flags, 0);
	put(h, ask_read(6, 0, 4096, 0));
	get(h, 6, -EIO, 0);
}

static void
test_more_openers_than_it_can_count_are_refused(void **state)
{
	struct host *h = *state;

	for (uint64_t i = 0; i < FUSE_OPENS; i++) {
		put(h, ask_open(2 * i + 2, O_RDONLY));
		get(h, 2 * i + 2, 0, 16);
	}
	assert_int_equal(h->stats->openers, FUSE_OPENS);
	put(h, ask_open(99998, O_RDONLY));
	get(h, 99998, -ENFILE, 0);
	put(h, ask_release(100000, 2));
	get(h, 100000, 0, 0);
	put(h, ask_open(100002, O_RDONLY));
	get(h, 100002, 0, 16);
}

/* Who reads slowly what is said of them is told less, and the last of it. */
static void
test_a_flood_of_opens_is_few_messages(void **state)
{
	struct host *h = *state;
	unsigned told = 0;
	uint64_t u = 2;

	for (unsigned i = 0; i < FLOOD; i++, u += 4) {
		put(h, ask_open(u, O_RDONLY));
		get(h, u, 0, 16);
		put(h, ask_release(u + 2, u));
		get(h, u + 2, 0, 0);
	}
	put(h, ask_open(u, O_RDONLY));
	get(h, u, 0, 16);
	put(h, ask_open(u + 2, O_RDONLY));
	get(h, u + 2, 0, 16);
	while (host_hear(h, CHILD_OPENERS).count != 2)
		told++;
	assert_true(told <= FLOOD / 10);
}

/* What is told last is told even if it is what was told before. */
static void
test_each_close_is_told(void **state)
{
	struct host *h = *state;

	put(h, ask_open(2, O_RDONLY));
	get(h, 2, 0, 16);
	put(h, ask_release(4, 2));
	get(h, 4, 0, 0);
	put(h, ask_open(6, O_RDONLY));
	get(h, 6, 0, 16);
	while (host_hear(h, CHILD_OPENERS).count != 1)
		;
	put(h, ask_release(8, 6));
	get(h, 8, 0, 0);
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 0);
	put(h, ask_open(10, O_RDONLY));
	get(h, 10, 0, 16);
	put(h, ask_release(12, 10));
	get(h, 12, 0, 0);
	while (host_hear(h, CHILD_OPENERS).count != 0)
		;
}

/* ---- waiting ---- */

static void
test_a_missing_read_waits_and_others_pass_it(void **state)
{
	struct host *h = *state;
	struct want w;

	put(h, ask_read(2, 5 * UNIT + 17, 4096, 0));
	w = host_want(h);
	assert_int_equal(w.first, 5);
	assert_int_equal(w.count, 1);
	host_fill(h, 1, 1);
	put(h, ask_read(4, UNIT, 4096, 0));
	get_right(h, 4, UNIT, 4096);
	host_fill(h, 5, 1);
	host_here(h, w.id, 0);
	get_right(h, 2, 5 * UNIT + 17, 4096);
	assert_goes_on(h);
}

/* What was copied before the loss is wanted again: a reply goes as a whole. */
static void
test_bytes_lost_midway_are_all_in_the_reply(void **state)
{
	struct host *h = *state;
	struct want w;

	host_scratch(h, 2, NBD_READ_MAX + 2 * UNIT);
	host_publish(h, 1, 0);
	must(ftruncate(h->store, UNIT) == 0);	/* it can't be read */
	put(h, ask_read(2, UNIT - 4096, 8192, 0));
	w = host_want(h);
	assert_int_equal(w.first, 0);
	host_here_lane(h, &w, 0);
	assert_int_equal(host_release(h), 0);	/* the first page is lost too */
	w = host_want(h);
	assert_int_equal(w.first, 1);
	assert_true(w.again);
	host_fill(h, 1, 1);
	host_here(h, w.id, 0);
	w = host_want(h);
	assert_int_equal(w.first, 0);
	host_here_lane(h, &w, 1);
	get_right(h, 2, UNIT - 4096, 8192);
	assert_int_equal(host_release(h), 1);
}

static void
test_a_store_that_keeps_nothing_serves_whole_reads(void **state)
{
	struct host *h = *state;
	struct want w;

	host_scratch(h, 2, NBD_READ_MAX + 2 * UNIT);
	put(h, ask_read(2, 4096, 128 * KIB, 0));
	w = host_want(h);
	assert_int_equal(w.count, 3);
	host_here_lane(h, &w, 1);
	get_right(h, 2, 4096, 128 * KIB);
	assert_int_equal(host_release(h), 1);
}

static void
test_an_error_is_the_reads_own(void **state)
{
	struct host *h = *state;

	put(h, ask_read(2, 0, 4096, 0));
	host_here(h, host_want(h).id, EIO);
	get(h, 2, -EIO, 0);
	assert_int_equal(h->stats->reads_failed, 1);
	assert_goes_on(h);
}

static void
test_a_direct_read_that_waits_can_be_interrupted(void **state)
{
	struct host *h = *state;
	uint64_t target = 2;

	put(h, ask_read(2, 0, 4096, O_DIRECT));
	host_want(h);
	put(h, ask_new(FUSE_INTERRUPT, 3, &target, sizeof(target)));
	get(h, 2, -EINTR, 0);
	assert_goes_on(h);
}

static void
test_a_cached_read_is_not_interrupted(void **state)
{
	struct host *h = *state;
	uint64_t target = 2;
	struct want w;

	put(h, ask_read(2, 0, 4096, 0));
	w = host_want(h);
	put(h, ask_new(FUSE_INTERRUPT, 3, &target, sizeof(target)));
	assert_silent(h, 4);
	host_fill(h, 0, 1);
	host_here(h, w.id, 0);
	get_right(h, 2, 0, 4096);
}

static void
test_as_many_wait_as_there_are_slots(void **state)
{
	struct host *h = *state;
	struct want w[FUSE_SLOTS];
	unsigned n = FUSE_SLOTS - 1;

	for (unsigned i = 0; i < n; i++) {
		put(h, ask_read(2 * i + 2, i * 4096, 4096, 0));
		w[i] = host_want(h);
	}
	assert_silent(h, 5000);		/* in the last one */
	put(h, ask_read(2 * n + 2, n * 4096, 4096, 0));
	w[n] = host_want(h);
	put(h, ask_new(FUSE_STATFS, 5002, NULL, 0));
	assert_false(readable_in(h->kernel, QUIET_MS));
	host_fill(h, 0, FUSE_SLOTS);
	host_here(h, w[7].id, 0);
	get_right(h, 16, 7 * 4096, 4096);
	get(h, 5002, 0, 80);
	for (unsigned i = 0; i <= n; i++) {
		if (i == 7)
			continue;
		host_here(h, w[i].id, 0);
		get_right(h, 2 * i + 2, i * 4096, 4096);
	}
	assert_goes_on(h);
}

/* ---- deaths ---- */

static void
test_died_before_it_read_the_request(void **state)
{
	struct host *h = *state;

	host_fill(h, 0, 1);
	kill(h->pid, SIGSTOP);
	put(h, ask_read(2, 0, 4096, 0));
	host_kill(h);
	host_start_worker(h);
	get_taken_over(h, 2, 0, 4096);
	assert_goes_on(h);
}

static void
test_died_before_it_looked_at_the_request(void **state)
{
	struct host *h = *state;

	host_fill(h, 0, 1);
	die_idle(h);
	leave(h, 17, ask_read(2, 100, 4096, 0));
	leave(h, FUSE_SLOTS - 1, ask_read(4, 0, 512, 0));
	host_start_worker(h);
	get_taken_over(h, 2, 100, 4096);
	get_taken_over(h, 4, 0, 512);
	assert_goes_on(h);
}

static void
test_died_while_reads_waited(void **state)
{
	struct host *h = *state;
	struct want w[3];

	for (unsigned i = 0; i < 3; i++) {
		put(h, ask_read(2 * i + 2, i * UNIT, 4096, 0));
		host_want(h);
	}
	for (unsigned deaths = 0; deaths < 3; deaths++) {
		assert_int_equal(slots_busy(h), 3);
		host_kill(h);
		host_start_worker(h);
		for (unsigned i = 0; i < 3; i++)
			w[i] = host_want(h);
	}
	host_fill(h, 0, 3);
	for (unsigned i = 0; i < 3; i++) {
		host_here(h, w[i].id, 0);
		get_right(h, 2 * (w[i].first + 1), w[i].first * UNIT, 4096);
	}
	assert_goes_on(h);
}

static void
test_died_between_a_reply_and_its_note(void **state)
{
	struct host *h = *state;

	host_fill(h, 0, 1);
	put(h, ask_read(2, 0, 4096, 0));
	get_right(h, 2, 0, 4096);
	die_idle(h);
	leave(h, 0, ask_read(2, 0, 4096, 0));
	host_start_worker(h);
	get_taken_over(h, 2, 0, 4096);	/* the kernel says ENOENT to that */
	assert_goes_on(h);
}

static void
test_died_before_it_answered_init(void **state)
{
	const uint32_t body[16] = { 7, 45, 131072, UINT32_MAX };
	struct host *h = *state;

	die_idle(h);
	leave(h, 0, ask_new(FUSE_INIT, 2, body, sizeof(body)));
	host_start_worker(h);
	get(h, 2, 0, 64);
	assert_int_equal(h->journal->minor, 45);
}

/* At each moment in the life of an OPEN there is one opener, and one handle. */
static void
test_died_at_an_open(void **state)
{
	struct host *h = *state;

	die_idle(h);
	leave(h, 0, ask_open(2, O_RDONLY));	/* before it was counted */
	host_start_worker(h);
	get(h, 2, 0, 16);
	assert_int_equal(h->stats->openers, 1);
	die_idle(h);
	leave(h, 0, ask_open(2, O_RDONLY));	/* behind that */
	host_start_worker(h);
	get(h, 2, 0, 16);
	assert_int_equal(h->stats->openers, 1);
	die_idle(h);
	host_start_worker(h);			/* nothing was under way */
	assert_int_equal(h->stats->openers, 1);
	put(h, ask_release(4, 2));
	get(h, 4, 0, 0);
	assert_int_equal(h->stats->openers, 0);
}

/* A RELEASE that is done once more takes no other opener away. */
static void
test_died_at_a_release(void **state)
{
	struct host *h = *state;

	put(h, ask_open(2, O_RDONLY));
	get(h, 2, 0, 16);
	put(h, ask_open(4, O_RDONLY));
	get(h, 4, 0, 16);
	put(h, ask_release(6, 2));
	get(h, 6, 0, 0);
	put(h, ask_open(8, O_RDONLY));		/* in the place of the first */
	get(h, 8, 0, 16);
	die_idle(h);
	leave(h, 3, ask_release(6, 2));
	host_start_worker(h);
	get(h, 6, 0, 0);
	assert_int_equal(h->stats->openers, 2);
	die_idle(h);
	leave(h, 3, ask_release(12, 8));
	host_start_worker(h);
	get(h, 12, 0, 0);
	assert_int_equal(h->stats->openers, 1);
}

static void
test_an_interrupt_outlives_the_worker(void **state)
{
	struct host *h = *state;
	uint64_t target = 2;

	die_idle(h);
	leave(h, 0, ask_new(FUSE_INTERRUPT, 3, &target, sizeof(target)));
	leave(h, 1, ask_read(2, 0, 4096, O_DIRECT));
	host_start_worker(h);
	host_want(h);	/* nobody waits for that any more */
	get(h, 2, -EINTR, 0);
	assert_goes_on(h);
}

static void
test_a_full_journal_is_taken_over(void **state)
{
	struct host *h = *state;
	struct want w[FUSE_SLOTS];

	die_idle(h);
	for (unsigned i = 0; i < FUSE_SLOTS; i++)
		leave(h, i, ask_read(2 * i + 2, i * 4096, 512, 0));
	put(h, ask_new(FUSE_STATFS, 5000, NULL, 0));
	host_start_worker(h);
	for (unsigned i = 0; i < FUSE_SLOTS; i++)
		w[i] = host_want(h);
	assert_false(readable_in(h->kernel, QUIET_MS));
	host_fill(h, 0, FUSE_SLOTS);
	host_here(h, w[0].id, 0);
	get_right(h, 2, 0, 512);
	get(h, 5000, 0, 80);
	for (unsigned i = 1; i < FUSE_SLOTS; i++) {
		host_here(h, w[i].id, 0);
		get_right(h, 2 * i + 2, i * 4096, 512);
	}
	assert_goes_on(h);
}

static void
test_a_journal_of_nonsense_is_survived(void **state)
{
	struct host *h = *state;
	uint64_t seed = 1;

	die_idle(h);
	for (unsigned i = 0; i < NONSENSE; i++) {
		uint8_t *p = (uint8_t *)&h->journal->slots[i];

		for (size_t at = 0; at < FUSE_SLOT_SIZE; at++) {
			seed = seed * UINT64_C(6364136223846793005) + 1;
			p[at] = (uint8_t)(seed >> 33);
		}
		if (i % 2)	/* shorter than any request */
			h->journal->slots[i].len %= FUSE_IN_HEADER;
		else		/* of no such opcode */
			h->journal->slots[i].len = 80;
	}
	for (unsigned i = 0; i < NONSENSE; i += 2) {
		struct ask a = { .len = 80, .opcode = 1000 + i,
			.unique = 2 * i + 2 };

		memcpy(h->journal->slots[i].rest, (uint8_t *)&a + 4, 36);
	}
	host_start_worker_begin(h);
	for (unsigned i = 0; i < NONSENSE; i += 2)
		get(h, 2 * i + 2, -ENOSYS, 0);
	host_start_worker_end(h);
	assert_goes_on(h);
}

static void
test_an_unmounted_file_leaves_the_worker_idle(void **state)
{
	struct host *h = *state;

	must(shutdown(h->kernel, SHUT_WR) == 0);
	die_idle(h);
	host_start_worker(h);
	assert_true(host_quiet(h, QUIET_MS));
}

int
main(void)
{
#define CASE(name)							\
	cmocka_unit_test_setup_teardown(test_ ## name, setup, teardown)
#define BLOCKS(name)							\
	cmocka_unit_test_setup_teardown(test_ ## name, setup_blocks, teardown)
	const struct CMUnitTest tests[] = {
		CASE(init_is_answered_and_recorded),
		CASE(init_of_an_old_kernel_is_refused),
		CASE(reads_are_right_at_any_offset_and_length),
		CASE(a_read_over_the_end_is_short),
		CASE(the_file_has_the_devices_size),
		CASE(what_it_does_not_know_it_says),
		CASE(a_long_or_broken_request_costs_only_itself),
		CASE(openers_are_counted),
		CASE(a_flood_of_opens_is_few_messages),
		CASE(each_close_is_told),
		CASE(who_opens_a_failed_device_drops_its_pages),
		CASE(nobody_opens_it_for_writing),
		CASE(more_openers_than_it_can_count_are_refused),
		CASE(a_missing_read_waits_and_others_pass_it),
		CASE(bytes_lost_midway_are_all_in_the_reply),
		CASE(a_store_that_keeps_nothing_serves_whole_reads),
		CASE(an_error_is_the_reads_own),
		CASE(a_direct_read_that_waits_can_be_interrupted),
		CASE(a_cached_read_is_not_interrupted),
		BLOCKS(as_many_wait_as_there_are_slots),
		CASE(died_before_it_read_the_request),
		CASE(died_before_it_looked_at_the_request),
		CASE(died_while_reads_waited),
		CASE(died_between_a_reply_and_its_note),
		CASE(died_before_it_answered_init),
		CASE(died_at_an_open),
		CASE(died_at_a_release),
		CASE(an_interrupt_outlives_the_worker),
		BLOCKS(a_full_journal_is_taken_over),
		CASE(a_journal_of_nonsense_is_survived),
		CASE(an_unmounted_file_leaves_the_worker_idle),
	};

	return cmocka_run_group_tests_name("fuse", tests, NULL, NULL);
}
