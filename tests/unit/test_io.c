// SPDX-License-Identifier: Apache-2.0
/*
 * devd-io as its peers see it: a real worker, a played parent and cached, a
 * client as strict or as wrong as each case needs.
 *
 * `test_io --serve FILE SOCKET [--delay MS] [--lanes] [--present PERCENT]`
 * presents FILE by the same means until it is ended, for clients of other
 * origin.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <libnbd.h>

#include "test_io_host.h"

#define KIB		1024
#define MIB		(1024 * 1024)
#define UNIT		UNIT_SIZE
#define NBD_CONNECTIONS_TRIED 64	/* as many as a worker takes */
#define QUIET_MS	100	/* no message in that time: none was sent */

static int
setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	host_start(h, 16 * MIB + 4096, UNIT);
	*state = h;
	return 0;
}

/* As cached makes it of an image with a chunk index. */
static int
setup_blocks(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	host_start(h, 16 * MIB + 4096, MAP_BLOCK);
	*state = h;
	return 0;
}

static int
setup_kernel(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	host_start_kernel_nbd(h, 16 * MIB + 4096, UNIT);
	*state = h;
	return 0;
}

static int
teardown(void **state)
{
	host_stop(*state);
	fd_close(((struct host *)*state)->client);
	free(*state);
	return 0;
}

static void
read_right(int fd, uint64_t offset, uint32_t len)
{
	uint64_t cookie;

	client_ask(fd, NBD_CMD_READ, 0, offset, offset, len);
	assert_int_equal(client_reply(fd, &cookie), 0);
	assert_int_equal(cookie, offset);
	assert_true(client_data_right(fd, offset, len));
}

/* The next reply is this error to this cookie. */
static void
refused(int fd, uint64_t cookie, uint32_t error)
{
	uint64_t got;

	assert_int_equal(client_reply(fd, &got), error);
	assert_int_equal(got, cookie);
}

static bool
closed(int fd)
{
	char byte;

	must(readable_in(fd, DEADLINE_S * 1000));
	return read(fd, &byte, 1) <= 0;
}

/* Read what comes until the worker has something to say to cached, too. */
static size_t
read_until_message(struct host *h, int fd, uint8_t *buf, size_t max)
{
	size_t have = 0;

	for (;;) {
		struct pollfd p[2] = { { .fd = h->cached, .events = POLLIN },
			{ .fd = fd, .events = POLLIN } };

		must(poll(p, 2, DEADLINE_S * 1000) > 0);
		if (p[0].revents != 0)
			return have;
		ssize_t n = read(fd, buf + have,
		    max - have < 4096 ? max - have : 4096);
		must(n > 0);
		have += (size_t)n;
	}
}

/* A gauge follows what a client sees by a moment. */
static void
becomes(_Atomic uint64_t *gauge, uint64_t value)
{
	for (int i = 0; i < 1000 && atomic_load(gauge) != value; i++)
		poll(NULL, 0, 10);
	assert_int_equal(atomic_load(gauge), value);
}

/* ---- hot and cold ---- */

static void
test_hot_read_sends_no_message(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);

	host_fill(h, 0, 257);
	read_right(fd, 0, 4096);
	read_right(fd, 1, 1);
	read_right(fd, UNIT - 3, 7);
	read_right(fd, 0, 4 * MIB);
	read_right(fd, 12345, 3 * MIB + 17);
	read_right(fd, h->size - 5000, 5000);
	read_right(fd, h->size - 1, 1);
	assert_true(host_quiet(h, QUIET_MS));
	assert_int_equal(atomic_load(&h->stats->reads_hot), 7);
	assert_int_equal(atomic_load(&h->stats->reads_cold), 0);
	becomes(&h->stats->bytes_served, 4096 + 1 + 7 + 4 * MIB + 3 * MIB +
	    17 + 5000 + 1);
	close(fd);
}

static void
test_cold_read_waits_for_just_its_missing_units(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_fill(h, 2, 1);
	host_fill(h, 4, 1);
	host_fill(h, 7, 1);
	client_ask(fd, NBD_CMD_READ, 0, 1, 2 * UNIT + 5, 5 * UNIT);
	w = host_want(h);
	assert_int_equal(w.first, 3);
	assert_int_equal(w.count, 4);
	assert_false(w.again);
	assert_false(readable_in(fd, QUIET_MS));
	becomes(&h->stats->waiting, 1);
	host_fill(h, 3, 1);
	host_fill(h, 5, 2);
	host_here(h, w.id, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 2 * UNIT + 5, 5 * UNIT));
	assert_int_equal(atomic_load(&h->stats->reads_cold), 1);
	assert_int_equal(atomic_load(&h->stats->waiting), 0);
	close(fd);
}

static void
test_replies_come_as_they_become_ready(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want a, b;

	host_fill(h, 0, 1);
	client_ask(fd, NBD_CMD_READ, 0, 1, 10 * UNIT, 100);
	client_ask(fd, NBD_CMD_READ, 0, 2, 20 * UNIT, 100);
	client_ask(fd, NBD_CMD_READ, 0, 3, 0, 100);
	refused(fd, 3, 0);
	assert_true(client_data_right(fd, 0, 100));
	a = host_want(h);
	b = host_want(h);
	host_fill(h, 20, 1);
	host_here(h, b.id, 0);
	refused(fd, 2, 0);
	assert_true(client_data_right(fd, 20 * UNIT, 100));
	host_fill(h, 10, 1);
	host_here(h, a.id, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 10 * UNIT, 100));
	close(fd);
}

static void
test_units_lie_in_any_slot_at_any_place(void **state)
{
	struct host *h = *state;
	int fd = client_new(h), other;
	uint8_t buf[UNIT];
	char path[96];

	host_fill(h, 0, 64);
	snprintf(path, sizeof(path), "%s/other", h->dir);
	other = open(path, O_RDWR | O_CREAT, 0600);
	unlink(path);
	for (uint64_t u = 1; u < 64; u += 3) {	/* backwards, in another file */
		pattern_fill(buf, u * UNIT, UNIT);
		must(fd_pwrite_all(other, buf, UNIT, (64 - u) * UNIT) == 0);
		atomic_store(&h->map->words[u],
		    map_word(255, (64 - u) * UNIT));
	}
	/* At its place, but of the other file. */
	pattern_fill(buf, 5 * UNIT, UNIT);
	must(fd_pwrite_all(other, buf, UNIT, 5 * UNIT) == 0);
	atomic_store(&h->map->words[5], map_word(255, 5 * UNIT));
	memset(buf, 0xee, UNIT);
	must(fd_pwrite_all(h->store, buf, UNIT, 5 * UNIT) == 0);
	host_slot(h, 255, other);
	read_right(fd, 0, 4 * MIB);
	read_right(fd, 777, 3 * MIB);
	close(other);
	close(fd);
}

static void
test_unknown_slot_is_a_miss(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_fill(h, 0, 2);
	host_publish(h, 0, 9);				/* not given */
	atomic_store(&h->map->words[1], 0x10000 | (MAP_SLOTS + 1));
							/* no such slot */
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 2 * UNIT);
	w = host_want(h);
	assert_int_equal(w.first, 0);
	assert_int_equal(w.count, 2);
	host_publish(h, 0, 0);
	host_publish(h, 1, 0);
	host_here(h, w.id, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 0, 2 * UNIT));
	close(fd);
}

/* ---- zeros ---- */

static void
read_mixed(struct host *h, int fd, uint64_t offset, uint32_t len)
{
	uint64_t cookie;

	client_ask(fd, NBD_CMD_READ, 0, offset, offset, len);
	assert_int_equal(client_reply(fd, &cookie), 0);
	assert_int_equal(cookie, offset);
	if (!client_mixed_right(h, fd, offset, len))
		fail_msg("wrong bytes at %ju+%u", (uintmax_t)offset, len);
}

static void
test_zeros_are_here_and_lie_nowhere(void **state)
{
	struct host *h = *state;
	uint64_t units = map_units(h->size, h->unit);
	int fd = client_new(h);

	host_fill(h, 0, units);
	host_zeros(h, 1, 3);
	host_zeros(h, 5, 1);
	host_zeros(h, 100, 100);
	host_zeros(h, units - 1, 1);	/* of 64 KiB, the short one */
	read_mixed(h, fd, 0, 4 * MIB);
	read_mixed(h, fd, h->unit - 1, 2);
	read_mixed(h, fd, h->unit + 77, 5 * h->unit);
	read_mixed(h, fd, 100 * h->unit, 4 * MIB);
	read_mixed(h, fd, 100 * h->unit - 9, 100);
	read_mixed(h, fd, 150 * h->unit + 3, 2 * MIB + 7);
	read_mixed(h, fd, 199 * h->unit, 2 * h->unit);
	read_mixed(h, fd, h->size - 4097, 4097);
	assert_true(host_quiet(h, QUIET_MS));
	assert_int_equal(atomic_load(&h->stats->reads_hot), 8);
	assert_int_equal(atomic_load(&h->stats->reads_cold), 0);
	close(fd);
}

/* BLOCK_STATUS: where each run of the context ends, and what it is. */
static int
on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
    size_t n, int *error)
{
	uint32_t *out = arg;

	(void)offset;
	(void)error;
	if (strcmp(context, "x-shedstream:resident") == 0 && n <= 16)
		memcpy(out, entries, n * sizeof(*entries));
	return 0;
}

static void
test_zeros_are_resident(void **state)
{
	struct host *h = *state;
	struct nbd_handle *nbd = nbd_create();
	uint32_t got[16] = { 0 };

	host_fill(h, 0, 2);
	host_zeros(h, 2, 2);
	host_publish(h, 4, 9);		/* in no file that was given */
	host_zeros(h, 6, 1);
	assert_non_null(nbd);
	must(nbd_add_meta_context(nbd, "x-shedstream:resident") == 0);
	must(nbd_connect_unix(nbd, h->sock) == 0);
	must(nbd_block_status(nbd, 8 * h->unit, 0, (nbd_extent_callback){
	    .callback = on_extents, .user_data = got }, 0) == 0);
	nbd_close(nbd);
	assert_int_equal(got[0], 4 * h->unit);
	assert_int_equal(got[2], 2 * h->unit);
	assert_int_equal(got[4], h->unit);
	assert_int_equal(got[6], h->unit);
	assert_int_equal(got[1], got[5]);
	assert_int_equal(got[3], got[7]);
	assert_int_not_equal(got[1], got[3]);
	assert_true(host_quiet(h, QUIET_MS));
}

/* Of a cold read, they are not what it waits for. */
static void
test_zeros_are_not_asked_for(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_zeros(h, 0, 2);
	host_zeros(h, 3, 1);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 4 * h->unit);
	w = host_want(h);
	assert_int_equal(w.first, 2);
	assert_int_equal(w.count, 1);
	host_fill(h, 2, 1);
	host_here(h, w.id, 0);
	refused(fd, 1, 0);
	assert_true(client_mixed_right(h, fd, 0, 4 * h->unit));
	close(fd);
}

/* A worker's own memory, of /proc. */
static uint64_t
anonymous_kib(pid_t pid)
{
	char path[64], line[256];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	must(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %lu", &kib) == 1)
			break;
	fclose(f);
	must(kib > 0);
	return kib;
}

static void
test_zeros_take_no_memory(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	uint64_t before;

	host_fill(h, 0, 2);
	host_zeros(h, 2, 200);
	for (uint32_t i = 0; i < 8; i++)	/* the batch of small replies */
		read_mixed(h, fd, i * 4096, 60 * KIB);
	before = anonymous_kib(h->pid);
	for (uint64_t u = 2; u < 100; u += 7)
		read_mixed(h, fd, u * h->unit, 4 * MIB);
	assert_in_range(anonymous_kib(h->pid), before, before + 128);
	close(fd);
}

/* ---- many small units, many files ---- */

static void
test_a_largest_read_of_blocks_is_one_want(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_scratch(h, 1, NBD_READ_MAX + 2 * MAP_BLOCK);
	client_ask(fd, NBD_CMD_READ, 0, 1, 1, NBD_READ_MAX);
	w = host_want(h);
	assert_int_equal(w.first, 0);
	assert_int_equal(w.count, WANT_MAX);
	host_here_lane(h, &w, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 1, NBD_READ_MAX));
	assert_int_equal(host_release(h), 0);
	/* The same by the map, with gaps. */
	client_ask(fd, NBD_CMD_READ, 0, 2, 8192, NBD_READ_MAX);
	w = host_want(h);
	assert_int_equal(w.first, 2);
	assert_int_equal(w.count, 1024);
	host_fill(h, 0, 4097);
	host_zeros(h, 500, 100);
	host_here(h, w.id, 0);
	refused(fd, 2, 0);
	assert_true(client_mixed_right(h, fd, 8192, NBD_READ_MAX));
	read_mixed(h, fd, h->size - 1, 1);
	assert_true(host_quiet(h, QUIET_MS));
	close(fd);
}

static void
test_hints_for_blocks_are_as_large(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);

	client_ask(fd, NBD_CMD_CACHE, 0, 1, 0, 16 * MIB);
	refused(fd, 1, 0);
	for (unsigned i = 0; i < 4; i++) {
		struct want w = host_want(h);

		assert_int_equal(w.first, i * 1024);
		assert_int_equal(w.count, 1024);
	}
	close(fd);
}

static void
test_preferred_size_is_64_kib_for_blocks_too(void **state)
{
	struct host *h = *state;
	int fd = client_hello(h);
	uint8_t payload[512];
	uint32_t sizes[3], type;
	bool told = false;
	size_t len = nbd_put_list_entry(payload, "");

	payload[len++] = 0;
	payload[len++] = 0;
	client_option(fd, NBD_OPT_GO, payload, len);
	do {
		type = client_option_reply(fd, payload, sizeof(payload), &len);
		if (type != NBD_REP_INFO || payload[1] != NBD_INFO_BLOCK_SIZE)
			continue;
		told = true;
		memcpy(sizes, payload + 2, sizeof(sizes));
		assert_int_equal(ntohl(sizes[0]), 1);
		assert_int_equal(ntohl(sizes[1]), 64 * KIB);
		assert_int_equal(ntohl(sizes[2]), 4 * MIB);
	} while (type == NBD_REP_INFO);
	assert_true(told);
	close(fd);
}

/* One map, every slot, and as many connections as there may be: neighbours
 * whose places fit, but in different files, are not one piece. */
static void
test_units_lie_in_all_slots_at_once(void **state)
{
	struct host *h = *state;
	int fds[NBD_CONNECTIONS_TRIED], files[MAP_SLOTS];
	uint8_t buf[MAP_BLOCK];

	for (uint32_t i = 0; i < MAP_SLOTS; i++) {
		files[i] = shm_object("test-slot", 4097 * MAP_BLOCK);
		must(files[i] >= 0);
		host_slot(h, i, files[i]);
	}
	for (uint64_t u = 0; u < 4097; u++) {
		/* runs of one to three units */
		uint32_t slot = (uint32_t)(u / (1 + u / 1000 % 3) % MAP_SLOTS);

		pattern_fill(buf, u * MAP_BLOCK, MAP_BLOCK);
		must(fd_pwrite_all(files[slot], buf, MAP_BLOCK,
		    u * MAP_BLOCK) == 0);
		host_publish(h, u, slot);
	}
	host_zeros(h, 700, 3);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = client_new(h);
	for (uint64_t at = 0; at < 4 * MIB; at += MIB + 4097)
		for (size_t i = 0; i < ARRAY_LEN(fds); i += 21)
			read_mixed(h, fds[i], at, 3 * MIB);
	assert_true(host_quiet(h, QUIET_MS));
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	for (uint32_t i = 0; i < MAP_SLOTS; i++)
		fd_close(files[i]);
}

static void
test_answer_in_vain_is_asked_again(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	for (int i = 0; i < 10; i++) {
		w = host_want(h);
		host_here(h, w.id, 0);
	}
	w = host_want(h);
	host_fill(h, 0, 1);
	host_here(h, w.id, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 0, 100));
	close(fd);
}

/* ---- errors ---- */

static void
test_failed_map_answers_eio(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_fill(h, 0, 1);
	client_ask(fd, NBD_CMD_READ, 0, 1, UNIT, 100);
	w = host_want(h);
	atomic_store(&h->map->state, MAP_BROKEN);
	host_here(h, w.id, 0);
	refused(fd, 1, NBD_EIO);
	client_ask(fd, NBD_CMD_READ, 0, 2, 0, 100);
	refused(fd, 2, NBD_EIO);
	becomes(&h->stats->reads_failed, 2);
	atomic_store(&h->map->state, MAP_SERVING);
	read_right(fd, 0, 100);
	close(fd);
}

static void
test_status_of_an_answer_reaches_the_client(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	w = host_want(h);
	host_here(h, w.id, ENOSPC);
	refused(fd, 1, NBD_ENOSPC);
	client_ask(fd, NBD_CMD_READ, 0, 2, 0, 100);
	w = host_want(h);
	host_here(h, w.id, ETIMEDOUT);
	refused(fd, 2, NBD_EIO);
	close(fd);
}

static void
test_odd_requests_are_refused_in_their_frame(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	static const struct {
		uint16_t type, flags;
		uint64_t offset;
		uint32_t len, error;
	} odd[] = {
		{ NBD_CMD_READ, 0, 0, 4 * MIB + 1, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 0, UINT32_MAX, NBD_EINVAL },
		{ NBD_CMD_READ, 0, UINT64_MAX, 2, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 16 * MIB, 4097, NBD_EINVAL },
		{ NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 1, NBD_EINVAL },
		{ NBD_CMD_READ, 1 << 15, 0, 1, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 0, 0, NBD_OK },
		{ NBD_CMD_TRIM, 0, 0, UINT32_MAX, NBD_EPERM },
		{ NBD_CMD_WRITE_ZEROES, 1 << 4, 0, 1, NBD_EPERM },
		{ NBD_CMD_FLUSH, 0, 0, 0, NBD_OK },
		{ NBD_CMD_BLOCK_STATUS, 0, 0, 4096, NBD_EINVAL },
		{ NBD_CMD_WRITE, 0, 0, 0, NBD_EPERM },
		{ 8, 0, 0, 1, NBD_EINVAL },
		{ UINT16_MAX, UINT16_MAX, 0, 1, NBD_EINVAL },
	};

	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		client_ask(fd, odd[i].type, odd[i].flags, i, odd[i].offset,
		    odd[i].len);
	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		refused(fd, i, odd[i].error);
	assert_true(host_quiet(h, QUIET_MS));
	host_fill(h, 0, 1);
	read_right(fd, 0, 512);
	close(fd);
}

static void
test_write_is_drained_and_refused(void **state)
{
	struct host *h = *state;
	_cleanup_free_ uint8_t *payload = calloc(1, 3 * MIB);
	int fd = client_new(h);

	host_fill(h, 0, 1);
	client_ask(fd, NBD_CMD_WRITE, 0, 1, 0, 3 * MIB);
	put_bytes(fd, payload, 3 * MIB);
	refused(fd, 1, NBD_EPERM);
	read_right(fd, 0, 512);
	client_ask(fd, NBD_CMD_WRITE, 0, 2, 0, 32 * MIB + 1);
	assert_true(closed(fd));
	close(fd);
}

/* ---- lanes ---- */

static void
test_lane_is_read_and_then_released(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_scratch(h, 2, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 3 * UNIT + 9, 3 * MIB);
	w = host_want(h);
	host_here_lane(h, &w, 1);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 3 * UNIT + 9, 3 * MIB));
	assert_int_equal(host_release(h), 1);
	/* It is not remembered. */
	client_ask(fd, NBD_CMD_READ, 0, 2, 3 * UNIT, 10);
	w = host_want(h);
	host_here_lane(h, &w, 0);
	refused(fd, 2, 0);
	assert_true(client_data_right(fd, 3 * UNIT, 10));
	assert_int_equal(host_release(h), 0);
	close(fd);
}

/* A lane is copied: who writes into it after Release changes nothing. */
static void
test_released_lane_can_be_written(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_scratch(h, 1, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, UNIT);
	w = host_want(h);
	host_here_lane(h, &w, 0);
	assert_int_equal(host_release(h), 0);
	memset(h->scratch, 0xee, UNIT);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 0, UNIT));
	close(fd);
}

static void
test_lane_and_map_are_mixed(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	Suite__Here msg = SUITE__HERE__INIT;
	uint8_t in[3] = { 1, 0, 1 };
	struct want w;

	host_scratch(h, 1, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 3 * UNIT);
	w = host_want(h);
	host_fill(h, 1, 1);
	pattern_fill(h->scratch, 0, UNIT);
	memset(h->scratch + UNIT, 0xee, UNIT);
	pattern_fill(h->scratch + 2 * UNIT, 2 * UNIT, UNIT);
	msg.in_lane.data = in;
	msg.in_lane.len = 3;
	host_say(h, w.id, SUITE_BODY(HERE), &msg, -1);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 0, 3 * UNIT));
	assert_int_equal(host_release(h), 0);
	close(fd);
}

static void
test_lane_of_a_closed_connection_is_released(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_scratch(h, 1, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	w = host_want(h);
	close(fd);
	becomes(&h->stats->openers, 0);
	becomes(&h->stats->waiting, 0);
	host_here_lane(h, &w, 0);
	assert_int_equal(host_release(h), 0);
}

static void
test_stalled_client_gives_its_lane_back(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_scratch(h, 1, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 4 * MIB);
	w = host_want(h);
	host_here_lane(h, &w, 0);
	assert_int_equal(host_release(h), 0);	/* though it reads nothing */
	refused(fd, 1, 0);
	/* Now it reads: what it has not got yet is asked for again. */
	_cleanup_free_ uint8_t *buf = malloc(4 * MIB);
	size_t have = read_until_message(h, fd, buf, 4 * MIB);
	w = host_want(h);
	assert_true(w.first > 0 && w.first + w.count == 64);
	host_here_lane(h, &w, 0);
	must(get_bytes(fd, buf + have, 4 * MIB - have));
	assert_true(pattern_is(buf, 0, 4 * MIB));
	assert_int_equal(host_release(h), 0);
	close(fd);
}

/* ---- the store goes wrong ---- */

static void
test_short_store_file_is_a_miss(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	/* by copy, and by sendfile */
	static const uint32_t lens[] = { 4096, 4 * UNIT };

	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		struct want w;

		host_fill(h, 0, 8);
		must(ftruncate(h->store, 2 * UNIT + 100) == 0);
		client_ask(fd, NBD_CMD_READ, 0, 1, 2 * UNIT, lens[i]);
		w = host_want(h);
		assert_int_equal(w.first, 2);
		assert_int_equal(w.count, 1);
		assert_true(w.again);
		host_fill(h, 0, 8);
		host_here(h, w.id, 0);
		refused(fd, 1, 0);
		assert_true(client_data_right(fd, 2 * UNIT, lens[i]));
	}
	close(fd);
}

/* The file shrinks while a client is slow to read: the header has promised. */
static void
test_reply_goes_on_where_the_file_broke(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	_cleanup_free_ uint8_t *buf = malloc(4 * MIB);
	struct want w;
	size_t have;

	host_fill(h, 0, 64);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 4 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 2, 0, 512);
	refused(fd, 1, 0);
	must(ftruncate(h->store, 40 * UNIT + 5000) == 0);
	have = read_until_message(h, fd, buf, 4 * MIB);
	w = host_want(h);
	assert_true(w.again);
	assert_int_equal(w.first, 40);
	must(get_bytes(fd, buf + have, 40 * UNIT + 5000 - have));
	have = 40 * UNIT + 5000;
	assert_false(readable_in(fd, QUIET_MS));
	host_fill(h, 40, 1);
	host_here(h, w.id, 0);
	w = host_want(h);		/* the next unit broke as well */
	assert_int_equal(w.first, 41);
	host_fill(h, 41, 23);
	host_here(h, w.id, 0);
	must(get_bytes(fd, buf + have, 4 * MIB - have));
	assert_true(pattern_is(buf, 0, 4 * MIB));
	refused(fd, 2, 0);
	assert_true(client_data_right(fd, 0, 512));
	close(fd);
}

/* The reply behind one that waits must not hold what that one waits for. */
static void
test_reply_that_waits_leaves_no_lane_held(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	_cleanup_free_ uint8_t *buf = malloc(4 * MIB);
	struct want w;
	size_t have;

	host_scratch(h, 1, 5 * MIB);
	host_fill(h, 0, 64);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 4 * MIB);
	refused(fd, 1, 0);
	client_ask(fd, NBD_CMD_READ, 0, 2, 100 * UNIT, 512);
	w = host_want(h);
	host_here_lane(h, &w, 0);
	poll(NULL, 0, QUIET_MS);
	must(ftruncate(h->store, 40 * UNIT) == 0);
	have = read_until_message(h, fd, buf, 4 * MIB);
	w = host_want(h);
	assert_true(w.first == 40 && w.again);
	assert_int_equal(host_release(h), 0);
	host_fill(h, 40, 24);
	host_here(h, w.id, 0);
	must(get_bytes(fd, buf + have, 4 * MIB - have));
	assert_true(pattern_is(buf, 0, 4 * MIB));
	w = host_want(h);
	assert_int_equal(w.first, 100);
	host_here_lane(h, &w, 0);
	refused(fd, 2, 0);
	assert_true(client_data_right(fd, 100 * UNIT, 512));
	assert_int_equal(host_release(h), 0);
	close(fd);
}

/* ---- the link to cached ---- */

static void
test_what_waits_is_asked_again_on_a_new_link(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want a, b;

	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	a = host_want(h);
	fd_close(h->cached);
	h->cached = -1;
	client_ask(fd, NBD_CMD_READ, 0, 2, UNIT, 100);
	poll(NULL, 0, QUIET_MS);
	host_link(h);
	a = host_want(h);
	b = host_want(h);
	assert_int_equal(a.first + b.first, 1);
	host_fill(h, 0, 2);
	host_here(h, a.id, 0);
	host_here(h, b.id, 0);
	for (int i = 0; i < 2; i++) {
		uint64_t cookie;

		assert_int_equal(client_reply(fd, &cookie), 0);
		assert_true(client_data_right(fd, (cookie - 1) * UNIT, 100));
	}
	close(fd);
}

static void
test_lanes_of_an_old_link_are_void(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	_cleanup_free_ uint8_t *buf = malloc(4 * MIB);
	struct want w;
	size_t have;

	host_scratch(h, 1, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 4 * MIB);
	w = host_want(h);
	host_here_lane(h, &w, 0);
	refused(fd, 1, 0);
	memset(h->scratch + 2 * MIB, 0xee, 2 * MIB);
	host_link(h);
	host_scratch(h, 1, 5 * MIB);
	have = read_until_message(h, fd, buf, 4 * MIB);
	w = host_want(h);
	host_here_lane(h, &w, 0);
	must(get_bytes(fd, buf + have, 4 * MIB - have));
	assert_true(pattern_is(buf, 0, 4 * MIB));
	assert_int_equal(host_release(h), 0);
	close(fd);
}

static void
test_connecting_again_asks_nothing_twice(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	w = host_want(h);
	close(fd);
	becomes(&h->stats->openers, 0);
	fd = client_new(h);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	assert_true(host_quiet(h, QUIET_MS));
	host_fill(h, 0, 1);
	host_here(h, w.id, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 0, 100));
	close(fd);
}

static void
test_answer_to_nothing_breaks_the_link(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	w = host_want(h);
	host_here(h, w.id + 1, 0);
	assert_int_equal(host_hear(h, CHILD_BROKEN).peer, PEER_CACHED);
	assert_true(closed(h->cached));
	host_link(h);			/* and its successor serves on */
	w = host_want(h);
	host_fill(h, 0, 1);
	host_here(h, w.id, 0);
	refused(fd, 1, 0);
	assert_true(client_data_right(fd, 0, 100));
	close(fd);
}

static void
test_lane_out_of_bounds_breaks_the_link(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_scratch(h, 1, 5 * MIB);
	client_ask(fd, NBD_CMD_READ, 0, 1, 0, 100);
	w = host_want(h);
	h->scratch -= 5 * MIB;		/* there is no lane 1 */
	host_here_lane(h, &w, 1);
	assert_int_equal(host_hear(h, CHILD_BROKEN).peer, PEER_CACHED);
	close(fd);
}

static void
test_successor_of_a_worker_serves_what_is_there(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);

	host_fill(h, 0, 1);
	read_right(fd, 0, 100);
	host_kill(h);
	assert_true(closed(fd));
	close(fd);
	host_start_worker(h);
	assert_int_equal(atomic_load(&h->stats->openers), 0);
	fd = client_new(h);
	read_right(fd, 0, 100);
	assert_int_equal(atomic_load(&h->stats->reads_hot), 2);
	close(fd);
}

/* ---- bounds ---- */

static void
test_requests_in_flight_are_bounded(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w[64];

	for (unsigned i = 0; i < 200; i++)
		client_ask(fd, NBD_CMD_READ, 0, i, i * UNIT, 1);
	for (unsigned i = 0; i < 64; i++)
		w[i] = host_want(h);
	assert_true(host_quiet(h, QUIET_MS));
	host_fill(h, w[0].first, 1);
	host_here(h, w[0].id, 0);
	w[0] = host_want(h);		/* one out, one in */
	assert_true(host_quiet(h, QUIET_MS));
	host_fill(h, 0, 200);
	for (unsigned i = 0; i < 64; i++)
		host_here(h, w[i].id, 0);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t cookie;

		assert_int_equal(client_reply(fd, &cookie), 0);
		assert_true(client_data_right(fd, cookie * UNIT, 1));
	}
	close(fd);
}

static void
test_bytes_in_flight_are_bounded(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);

	for (unsigned i = 0; i < 16; i++)
		client_ask(fd, NBD_CMD_READ, 0, i, 0, 4 * MIB);
	for (unsigned i = 0; i < 4; i++)
		host_want(h);
	assert_true(host_quiet(h, QUIET_MS));
	close(fd);
}

/* A client that is gone is noticed though nothing is read of it any more. */
static void
test_full_connection_that_closes_is_noticed(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);

	/* As many as the worker takes (64, and a buffer full), and a few that
	 * stay in the socket: with more, send() might wait for ever, since a
	 * unix socket that was full wakes its writer below a quarter only. */
	for (unsigned i = 0; i < 400; i++)
		client_ask(fd, NBD_CMD_READ, 0, i, i % 250 * UNIT, 1);
	for (unsigned i = 0; i < 64; i++)
		host_want(h);
	becomes(&h->stats->waiting, 64);
	close(fd);
	becomes(&h->stats->openers, 0);
	becomes(&h->stats->waiting, 0);
}

static void
test_connections_are_bounded(void **state)
{
	struct host *h = *state;
	int fds[65];

	host_fill(h, 0, 1);
	for (int i = 0; i < 64; i++)
		fds[i] = client_new(h);
	fds[64] = client_connect(h);
	assert_true(closed(fds[64]));
	read_right(fds[63], 0, 512);
	for (int i = 0; i < 65; i++)
		close(fds[i]);
	becomes(&h->stats->openers, 0);
	close(client_new(h));
}

static void
test_openers_are_told_to_the_parent(void **state)
{
	struct host *h = *state;
	int a = client_new(h), b, handshake = client_hello(h);

	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 1);
	b = client_new(h);
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 2);
	close(handshake);
	close(a);
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 1);
	close(b);
	assert_int_equal(host_hear(h, CHILD_OPENERS).count, 0);
}

/* ---- the kernel's client: no handshake, one connection ---- */

static void
test_the_kernels_connection_begins_with_requests(void **state)
{
	struct host *h = *state;

	host_fill(h, 0, 257);
	read_right(h->client, 0, 4096);
	read_right(h->client, h->size - 512, 512);
	client_ask(h->client, NBD_CMD_WRITE, 0, 9, 0, 0);
	refused(h->client, 9, NBD_EPERM);
	client_ask(h->client, NBD_CMD_READ, 0, 10, h->size, 512);
	refused(h->client, 10, NBD_EINVAL);
	read_right(h->client, 3 * UNIT, 512 * KIB);
	/* who has it open, the parent counts */
	assert_int_equal(atomic_load(&h->stats->openers), 0);
}

/* All its 128 tags, so that a hot one is never behind cold ones. */
static void
test_no_request_of_the_kernel_waits_unread(void **state)
{
	struct host *h = *state;

	host_fill(h, 0, 1);
	for (unsigned i = 1; i < 128; i++)
		client_ask(h->client, NBD_CMD_READ, 0, i, i * UNIT, UNIT);
	client_ask(h->client, NBD_CMD_READ, 0, 500, 0, 4096);
	refused(h->client, 500, 0);
	assert_true(client_data_right(h->client, 0, 4096));
	for (unsigned i = 1; i < 128; i++)
		host_want(h);
	assert_true(host_quiet(h, QUIET_MS));
}

/* So the parent makes another one. */
static void
test_the_end_of_the_kernels_connection_is_the_workers(void **state)
{
	struct host *h = *state;
	uint8_t byte;
	int status;

	host_fill(h, 0, 1);
	read_right(h->client, 0, 4096);
	close(h->client);
	must(readable_in(h->parent, DEADLINE_S * 1000));
	assert_int_equal(read(h->parent, &byte, 1), 0);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	host_start_worker(h);
	read_right(h->client, 0, 4096);
}

static void
test_hints_are_asked_for_and_bounded(void **state)
{
	struct host *h = *state;
	int fd = client_new(h);
	struct want w;

	host_fill(h, 0, 1);
	client_ask(fd, NBD_CMD_CACHE, 0, 1, 0, 16 * MIB);
	refused(fd, 1, 0);		/* at once */
	for (unsigned i = 0; i < 4; i++) {
		w = host_want(h);
		assert_int_equal(w.first, i == 0 ? 1 : i * 64);
		host_fill(h, w.first, w.count);
	}
	client_ask(fd, NBD_CMD_CACHE, 0, 2, 16 * MIB, 4096);
	refused(fd, 2, 0);		/* dropped */
	assert_true(host_quiet(h, QUIET_MS));
	host_here(h, w.id, 0);
	read_right(fd, 0, 4 * MIB);
	close(fd);
}

/* ---- names ---- */

static void
test_names_of_the_device_and_no_other_open_it(void **state)
{
	struct host *h = *state;
	int fd = client_hello(h);

	assert_int_equal(client_go(fd, "other"), NBD_REP_ERR_UNKNOWN);
	assert_int_equal(client_go(fd, "dis"), NBD_REP_ERR_UNKNOWN);
	assert_int_equal(client_go(fd, "alias"), NBD_REP_ERR_UNKNOWN);
	host_tell(h, CHILD_NAME, "alias", -1);
	/* The worker reads it before a later connection. */
	poll(NULL, 0, QUIET_MS);
	assert_int_equal(client_go(fd, "alias"), NBD_REP_ACK);
	close(fd);
	fd = client_hello(h);
	assert_int_equal(client_go(fd, "disk"), NBD_REP_ACK);
	close(fd);
	fd = client_hello(h);
	client_option(fd, NBD_OPT_EXPORT_NAME, "nope", 4);
	assert_true(closed(fd));
	close(fd);
}

static void
test_handshake_has_a_deadline(void **state)
{
	struct host *h = *state;
	int fd = client_connect(h), half = client_hello(h);
	time_t start = time(NULL);

	put_bytes(half, "IHAVE", 5);
	for (int i = 0; i < 18; i++)	/* the hello */
		assert_false(closed(fd));
	assert_true(closed(fd));
	assert_true(closed(half));
	assert_in_range(time(NULL) - start, 8, 12);
	close(fd);
	close(half);
}

static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define BLOCKS(test) { #test "_of_blocks", test, setup_blocks, teardown, NULL }
	CASE(test_hot_read_sends_no_message),
	CASE(test_cold_read_waits_for_just_its_missing_units),
	CASE(test_replies_come_as_they_become_ready),
	CASE(test_units_lie_in_any_slot_at_any_place),
	CASE(test_unknown_slot_is_a_miss),
	CASE(test_zeros_are_here_and_lie_nowhere),
	BLOCKS(test_zeros_are_here_and_lie_nowhere),
	CASE(test_zeros_are_not_asked_for),
	BLOCKS(test_zeros_are_not_asked_for),
	CASE(test_zeros_are_resident),
	BLOCKS(test_zeros_are_resident),
	CASE(test_zeros_take_no_memory),
	BLOCKS(test_a_largest_read_of_blocks_is_one_want),
	BLOCKS(test_hints_for_blocks_are_as_large),
	BLOCKS(test_preferred_size_is_64_kib_for_blocks_too),
	BLOCKS(test_units_lie_in_all_slots_at_once),
	CASE(test_answer_in_vain_is_asked_again),
	CASE(test_failed_map_answers_eio),
	CASE(test_status_of_an_answer_reaches_the_client),
	CASE(test_odd_requests_are_refused_in_their_frame),
	CASE(test_write_is_drained_and_refused),
	CASE(test_lane_is_read_and_then_released),
	CASE(test_released_lane_can_be_written),
	CASE(test_lane_and_map_are_mixed),
	CASE(test_lane_of_a_closed_connection_is_released),
	CASE(test_stalled_client_gives_its_lane_back),
	CASE(test_short_store_file_is_a_miss),
	CASE(test_reply_goes_on_where_the_file_broke),
	CASE(test_reply_that_waits_leaves_no_lane_held),
	CASE(test_what_waits_is_asked_again_on_a_new_link),
	CASE(test_lanes_of_an_old_link_are_void),
	CASE(test_connecting_again_asks_nothing_twice),
	CASE(test_answer_to_nothing_breaks_the_link),
	CASE(test_lane_out_of_bounds_breaks_the_link),
	CASE(test_successor_of_a_worker_serves_what_is_there),
	CASE(test_requests_in_flight_are_bounded),
	CASE(test_bytes_in_flight_are_bounded),
	CASE(test_full_connection_that_closes_is_noticed),
	CASE(test_connections_are_bounded),
	CASE(test_openers_are_told_to_the_parent),
	cmocka_unit_test_setup_teardown(test_the_kernels_connection_begins_with_requests,
	    setup_kernel, teardown),
	cmocka_unit_test_setup_teardown(test_no_request_of_the_kernel_waits_unread,
	    setup_kernel, teardown),
	cmocka_unit_test_setup_teardown(
	    test_the_end_of_the_kernels_connection_is_the_workers,
	    setup_kernel, teardown),
	CASE(test_hints_are_asked_for_and_bounded),
	CASE(test_names_of_the_device_and_no_other_open_it),
	CASE(test_handshake_has_a_deadline),
};

/* ---- --serve ---- */

#define SERVE_LANES	32	/* bits of `busy` */

struct serve {
	int file;
	int delay_ms;
	bool lanes;
	int present;
};

/* What cached does: bytes from the file to the store or to a lane. */
static void
serve_units(struct host *h, const struct serve *s, uint64_t first,
    uint32_t count, uint8_t *lane)
{
	static uint8_t buf[UNIT];

	for (uint64_t u = first; u < first + count; u++) {
		ssize_t n = fd_pread_all(s->file, buf, UNIT, u * UNIT);

		must(n > 0);
		if (lane) {
			memcpy(lane + (u - first) * UNIT, buf, (size_t)n);
			continue;
		}
		must(fd_pwrite_all(h->store, buf, (size_t)n, u * UNIT) == 0);
		host_publish(h, u, 0);
	}
}

static void
serve_want(struct host *h, const struct serve *s, const struct want *w,
    unsigned lane)
{
	Suite__Here msg = SUITE__HERE__INIT;
	uint8_t in[WANT_MAX];

	poll(NULL, 0, s->delay_ms);
	serve_units(h, s, w->first, w->count,
	    s->lanes ? h->scratch + lane * h->lane_size : NULL);
	memset(in, 1, sizeof(in));
	msg.lane = s->lanes ? (int32_t)lane : -1;
	msg.in_lane.data = in;
	msg.in_lane.len = s->lanes ? w->count : 0;
	host_say(h, w->id, SUITE_BODY(HERE), &msg, -1);
}

static _Noreturn void
serve(const char *path, const char *sock, struct serve *s)
{
	struct host h;
	struct stat st;
	struct want queue[4096];
	unsigned head = 0, tail = 0;
	uint32_t busy = 0;	/* mask of lanes that are out */

	s->file = open(path, O_RDONLY);
	must(s->file >= 0 && fstat(s->file, &st) == 0);
	host_start(&h, (uint64_t)st.st_size, UNIT);
	host_scratch(&h, SERVE_LANES, 5 * MIB);
	for (uint64_t u = 0; u < map_units(h.size, UNIT); u++)
		if ((int)(u * 7 % 100) < s->present)
			serve_units(&h, s, u, 1, NULL);
	must(rename(h.sock, sock) == 0);
	printf("%d\n", (int)h.pid);
	fflush(stdout);
	for (;;) {
		Suite__Frame *f;

		while (~busy && head != tail) {
			unsigned lane = (unsigned)__builtin_ctz(~busy);

			serve_want(&h, s, &queue[head++ % 4096], lane);
			busy |= s->lanes ? UINT32_C(1) << lane : 0;
		}
		must(readable_in(h.cached, -1));
		f = host_frame(&h);
		if (f->body_case == SUITE_BODY(RELEASE)) {
			busy &= ~(UINT32_C(1) << f->release->lane);
		} else {
			queue[tail++ % 4096] = (struct want){ f->id,
				f->want->first, f->want->count, false };
		}
		suite__frame__free_unpacked(f, NULL);
	}
}

int
main(int argc, char **argv)
{
	struct serve s = { 0 };

	if (argc < 4 || strcmp(argv[1], "--serve") != 0)
		return cmocka_run_group_tests(tests, NULL, NULL);
	for (int i = 4; i < argc; i++) {
		if (strcmp(argv[i], "--lanes") == 0)
			s.lanes = true;
		else if (strcmp(argv[i], "--delay") == 0 && i + 1 < argc)
			s.delay_ms = atoi(argv[++i]);
		else if (strcmp(argv[i], "--present") == 0 && i + 1 < argc)
			s.present = atoi(argv[++i]);
	}
	serve(argv[2], argv[3], &s);
}
