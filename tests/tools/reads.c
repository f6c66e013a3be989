// SPDX-License-Identifier: Apache-2.0
/*
 * Reads an NBD export and takes the time; prints one line of JSON.
 *
 *	reads URI sequential SIZE CONNECTIONS DEPTH BYTES SECONDS
 *		the last BYTES in requests of SIZE, in order, or as far as that
 *		comes in SECONDS: {"bytes":N,"seconds":S}.  The last, because
 *		nothing can be read ahead behind them.
 *	reads URI random DEPTH SECONDS <OFFSETS
 *		4 KiB at each offset of standard input, one a line, in that order;
 *		stops when SECONDS are over: {"reads":N,"seconds":S,"median_us":N,
 *		"p90_us":N,"p99_us":N,"most_us":N}
 *
 * DEPTH requests are in flight on each connection.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libnbd.h>

#define CONNECTIONS_MOST	16
#define DEPTH_MOST		64
#define READS_MOST		100000
#define SMALL			4096
#define REQUEST_MOST		(32 * 1024 * 1024)

struct slot {
	int64_t cookie;		/* 0: free */
	int64_t from;		/* when it was sent, microseconds */
	uint32_t len;
	char *bytes;
};

struct connection {
	struct nbd_handle *nbd;
	struct slot slot[DEPTH_MOST];
};

static struct connection connections[CONNECTIONS_MOST];
static unsigned int connection_count, depth;
static int64_t latency[READS_MOST];
static size_t done_count;
static uint64_t done_bytes;

static int64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void
die(const char *what)
{
	fprintf(stderr, "reads: %s: %s\n", what, nbd_get_error());
	exit(1);
}

static void
usage(void)
{
	fprintf(stderr, "usage: reads URI sequential SIZE CONNECTIONS DEPTH"
	    " BYTES SECONDS\n       reads URI random DEPTH SECONDS\n");
	exit(2);
}

static uint64_t
number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (end == text || *end || value < least || value > most)
		usage();
	return value;
}

static void
connect_all(const char *uri, size_t size)
{
	for (unsigned int i = 0; i < connection_count; i++) {
		connections[i].nbd = nbd_create();
		if (!connections[i].nbd ||
		    nbd_connect_uri(connections[i].nbd, uri) < 0)
			die(uri);
		for (unsigned int j = 0; j < depth; j++)
			if (!(connections[i].slot[j].bytes = malloc(size)))
				die("memory");
	}
}

/* What comes next: false when there is nothing more to read. */
typedef bool next_read(uint64_t *offset, uint32_t *len);

/* Sends what fits on that connection. */
static void
fill(struct connection *c, next_read *next, bool *more)
{
	struct slot *s;
	uint64_t offset;
	uint32_t len;

	for (unsigned int j = 0; j < depth && *more; j++) {
		s = &c->slot[j];
		if (s->cookie)
			continue;
		if (!(*more = next(&offset, &len)))
			return;
		s->len = len;
		s->from = now_us();
		s->cookie = nbd_aio_pread(c->nbd, s->bytes, len, offset,
		    NBD_NULL_COMPLETION, 0);
		if (s->cookie < 0)
			die("read");
	}
}

/* Takes what has come; returns how many are still under way. */
static unsigned int
reap(struct connection *c)
{
	unsigned int left = 0;
	struct slot *s;
	int status;

	for (unsigned int j = 0; j < depth; j++) {
		s = &c->slot[j];
		if (!s->cookie)
			continue;
		status = nbd_aio_command_completed(c->nbd,
		    (uint64_t)s->cookie);
		if (status < 0)
			die("read");
		left += status == 0;
		if (status == 0)
			continue;
		s->cookie = 0;
		done_bytes += s->len;
		if (done_count < READS_MOST)
			latency[done_count++] = now_us() - s->from;
	}
	return left;
}

/* Waits until a connection has something to say. */
static void
await(void)
{
	struct pollfd fds[CONNECTIONS_MOST];
	struct nbd_handle *nbd;
	unsigned int way;

	for (unsigned int i = 0; i < connection_count; i++) {
		nbd = connections[i].nbd;
		way = nbd_aio_get_direction(nbd);
		fds[i] = (struct pollfd){ .fd = nbd_aio_get_fd(nbd), .events =
		    (way & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
		    (way & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0) };
	}
	if (poll(fds, connection_count, -1) < 0)
		die("poll");
	for (unsigned int i = 0; i < connection_count; i++) {
		nbd = connections[i].nbd;
		way = nbd_aio_get_direction(nbd);
		if (fds[i].revents & (POLLIN | POLLHUP | POLLERR) &&
		    way & LIBNBD_AIO_DIRECTION_READ &&
		    nbd_aio_notify_read(nbd) < 0)
			die("read");
		else if (fds[i].revents & POLLOUT &&
		    nbd_aio_get_direction(nbd) & LIBNBD_AIO_DIRECTION_WRITE &&
		    nbd_aio_notify_write(nbd) < 0)
			die("write");
	}
}

static int64_t began, until;

static double
read_all(next_read *next)
{
	unsigned int left;
	bool more = true;

	for (;;) {
		left = 0;
		for (unsigned int i = 0; i < connection_count; i++)
			reap(&connections[i]);
		for (unsigned int i = 0; i < connection_count; i++) {
			fill(&connections[i], next, &more);
			left += reap(&connections[i]);
		}
		if (left == 0 && !more)
			break;
		if (left > 0)
			await();
	}
	return (double)(now_us() - began) / 1e6;
}

/* ---- in order ---- */

static uint64_t position, end_at;
static uint32_t request_size;

static bool
next_in_order(uint64_t *offset, uint32_t *len)
{
	if (position >= end_at || now_us() >= until)
		return false;
	*offset = position;
	*len = end_at - position < request_size ?
	    (uint32_t)(end_at - position) : request_size;
	position += *len;
	return true;
}

static void
sequential(const char *uri, char **argv)
{
	uint64_t bytes;
	double seconds;
	int64_t size;

	request_size = (uint32_t)number(argv[0], 512, REQUEST_MOST);
	connection_count = (unsigned int)number(argv[1], 1, CONNECTIONS_MOST);
	depth = (unsigned int)number(argv[2], 1, DEPTH_MOST);
	bytes = number(argv[3], 512, UINT64_MAX);
	connect_all(uri, request_size);
	size = nbd_get_size(connections[0].nbd);
	if (size < 0)
		die(uri);
	end_at = (uint64_t)size;
	position = bytes < end_at ? end_at - bytes : 0;
	began = now_us();
	until = began + (int64_t)number(argv[4], 1, 3600) * 1000000;
	seconds = read_all(next_in_order);
	printf("{\"bytes\":%" PRIu64 ",\"seconds\":%.6f}\n", done_bytes,
	    seconds);
}

/* ---- by chance ---- */

static bool
next_by_chance(uint64_t *offset, uint32_t *len)
{
	*len = SMALL;
	return now_us() < until && scanf("%" SCNu64, offset) == 1;
}

static int
less(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void
by_chance(const char *uri, char **argv)
{
	double seconds;

	connection_count = 1;
	depth = (unsigned int)number(argv[0], 1, DEPTH_MOST);
	connect_all(uri, SMALL);
	began = now_us();
	until = began + (int64_t)number(argv[1], 1, 3600) * 1000000;
	seconds = read_all(next_by_chance);
	if (done_count == 0)
		usage();
	qsort(latency, done_count, sizeof(*latency), less);
	printf("{\"reads\":%zu,\"seconds\":%.6f,\"median_us\":%" PRId64
	    ",\"p90_us\":%" PRId64 ",\"p99_us\":%" PRId64
	    ",\"most_us\":%" PRId64 "}\n", done_count, seconds,
	    latency[done_count / 2], latency[done_count * 9 / 10],
	    latency[done_count * 99 / 100], latency[done_count - 1]);
}

int
main(int argc, char **argv)
{
	if (argc == 8 && strcmp(argv[2], "sequential") == 0)
		sequential(argv[1], argv + 3);
	else if (argc == 5 && strcmp(argv[2], "random") == 0)
		by_chance(argv[1], argv + 3);
	else
		usage();
	return 0;
}
