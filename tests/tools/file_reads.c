// SPDX-License-Identifier: Apache-2.0
/*
 * Reads a file and takes the time; prints one line of JSON: {"reads":N,
 * "bytes":N,"seconds":S,"readers":N}.
 *
 *	file_reads warm SIZE SECONDS READERS FILE...
 *		SIZE bytes at places by chance, after all of it was read once
 *	file_reads cold SIZE SECONDS READERS FILE...
 *		after its pages were dropped, and without read-ahead: each place
 *		once at most, in an order by chance
 *	file_reads order SIZE SECONDS READERS FILE...
 *		after its pages were dropped, from its beginning to its end
 *
 * READERS processes, of each file; those of one file share it evenly.  A cold
 * reader stops where SECONDS are over, or its part is.  FILE=BACKING: all of
 * BACKING is read first, so that below a cold file all is warm.
 *
 * A file whose pages can't be dropped is an error, not a fast one.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define SIZE_MOST	(1024 * 1024)
#define READERS_MOST	16	/* of a file */
#define FILES_MOST	16
#define BLOCKS_MOST	(1024 * 1024)
#define LEFT_MOST	50	/* one page of so many may have stayed */
#define CLOCK		64	/* reads, then a look at the clock */

enum how { WARM, COLD, ORDER };

struct file {
	int fd;
	uint64_t blocks;	/* whole ones of SIZE */
};

/* Shared by all readers; each has a part of its own. */
struct part {
	uint64_t reads, bytes;
	int64_t begin, end;	/* microseconds */
};
static struct {
	atomic_uint ready;
	atomic_bool go;
	struct part part[FILES_MOST * READERS_MOST];
} *shared;

static uint8_t buf[SIZE_MOST] __attribute__((aligned(PAGE)));
static enum how how;
static size_t size;
static int64_t most_us;

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
	fprintf(stderr, "file_reads: %s: %s\n", what,
	    errno ? strerror(errno) : "no");
	exit(1);
}

static void
usage(void)
{
	fprintf(stderr, "usage: file_reads warm|cold|order SIZE SECONDS READERS"
	    " FILE[=BACKING]...\n");
	exit(2);
}

static double
number(const char *text, double least, double most)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= least) || value > most)
		usage();
	return value;
}

static uint64_t
chance(void)
{
	static uint64_t x;

	if (x == 0)
		x = 88172645463325252ULL ^ (uint64_t)getpid() << 20;
	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

/* ---- what is in memory before ---- */

static void
read_whole(int fd, const char *path)
{
	ssize_t n;

	for (off_t at = 0; (n = pread(fd, buf, sizeof(buf), at)) != 0; at += n)
		if (n < 0)
			die(path);
}

static void
read_backing(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		die(path);
	read_whole(fd, path);
	close(fd);
}

/* Pages of it that are in memory. */
static uint64_t
resident(int fd, uint64_t bytes)
{
	size_t pages = (bytes + PAGE - 1) / PAGE;
	uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	uint8_t *in = malloc(pages);
	uint64_t n = 0;

	if (map == MAP_FAILED || !in || mincore(map, bytes, in) < 0)
		die("mincore");
	for (size_t i = 0; i < pages; i++)
		n += in[i] & 1;
	munmap(map, bytes);
	free(in);
	return n;
}

static void
drop(int fd, const char *path, uint64_t bytes)
{
	uint64_t left;

	errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (errno)
		die(path);
	left = resident(fd, bytes);
	if (left <= bytes / PAGE / LEFT_MOST)
		return;
	fprintf(stderr, "file_reads: %s: %" PRIu64 " pages can't be dropped; "
	    "somebody uses them\n", path, left);
	exit(1);
}

static struct file
prepare(char *path)
{
	char *backing = strchr(path, '=');
	struct file f;
	struct stat st;

	if (backing)
		*backing++ = '\0';
	f.fd = open(path, O_RDONLY);
	if (f.fd < 0 || fstat(f.fd, &st) < 0)
		die(path);
	f.blocks = (uint64_t)st.st_size / size;
	if (f.blocks == 0 || f.blocks > BLOCKS_MOST)
		usage();
	if (how != WARM)
		drop(f.fd, path, (uint64_t)st.st_size);
	if (backing)
		read_backing(backing);
	if (how == WARM)
		read_whole(f.fd, path);
	errno = posix_fadvise(f.fd, 0, 0, how == ORDER ?
	    POSIX_FADV_NORMAL : POSIX_FADV_RANDOM);
	if (errno)
		die(path);
	return f;
}

/* ---- readers ---- */

static void
shuffle(uint32_t *order, uint64_t n)
{
	for (uint64_t i = n; i > 1; i--) {
		uint64_t j = chance() % i;
		uint32_t was = order[i - 1];

		order[i - 1] = order[j];
		order[j] = was;
	}
}

/* Blocks first.. of the file, so many, into this part. */
static void
read_blocks(int fd, uint64_t first, uint64_t n, struct part *part)
{
	uint32_t *order = malloc(n * sizeof(*order));
	int64_t until;

	if (!order)
		die("memory");
	for (uint64_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	if (how != ORDER)
		shuffle(order, n);
	atomic_fetch_add(&shared->ready, 1);
	while (!shared->go)
		usleep(100);
	part->begin = now_us();
	until = part->begin + most_us;
	for (uint64_t i = 0; how == WARM || i < n; i++) {
		off_t at = (off_t)((first + order[i % n]) * size);
		ssize_t got = pread(fd, buf, size, at);

		if (got != (ssize_t)size)
			die("a read");
		part->bytes += size;
		part->reads++;
		if (part->reads % CLOCK == 0 && now_us() >= until)
			break;
	}
	part->end = now_us();
}

static void
reader(const struct file *f, unsigned number_of, unsigned i, struct part *part)
{
	uint64_t each = f->blocks / number_of;
	pid_t pid = fork();

	if (pid < 0 || each == 0)
		die("a reader");
	if (pid > 0)
		return;
	read_blocks(f->fd, each * i, each, part);
	exit(0);
}

static void
await(unsigned readers)
{
	int status;

	while (atomic_load(&shared->ready) < readers)
		if (waitpid(-1, &status, WNOHANG) != 0)
			exit(1);
		else
			usleep(100);
	shared->go = true;
	for (unsigned i = 0; i < readers; i++)
		if (wait(&status) < 0 || status != 0)
			exit(1);
}

static void
print(unsigned readers)
{
	struct part all = { .begin = INT64_MAX };

	for (unsigned i = 0; i < readers; i++) {
		const struct part *p = &shared->part[i];

		all.reads += p->reads;
		all.bytes += p->bytes;
		if (p->begin < all.begin)
			all.begin = p->begin;
		if (p->end > all.end)
			all.end = p->end;
	}
	printf("{\"reads\":%" PRIu64 ",\"bytes\":%" PRIu64
	    ",\"seconds\":%.6f,\"readers\":%u}\n", all.reads, all.bytes,
	    (double)(all.end - all.begin) / 1e6, readers);
}

int
main(int argc, char **argv)
{
	static const char *const words[] = { "warm", "cold", "order" };
	struct file file[FILES_MOST];
	unsigned files = (unsigned)argc - 5, each;

	if (argc < 6 || files > FILES_MOST)
		usage();
	for (how = WARM; strcmp(argv[1], words[how]) != 0; how++)
		if (how == ORDER)
			usage();
	size = (size_t)number(argv[2], 512, SIZE_MOST);
	most_us = (int64_t)(number(argv[3], 0.01, 3600) * 1e6);
	each = (unsigned)number(argv[4], 1, READERS_MOST);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("memory");
	for (unsigned i = 0; i < files; i++)
		file[i] = prepare(argv[5 + i]);
	for (unsigned i = 0; i < files * each; i++)
		reader(&file[i / each], each, i % each, &shared->part[i]);
	await(files * each);
	print(files * each);
	return 0;
}
