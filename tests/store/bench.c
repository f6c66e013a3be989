// SPDX-License-Identifier: Apache-2.0
/*
 * Figures of the store, for `make bench`; each run prints lines of the form
 * "NAME VALUE".
 *
 *	bench keep DIR		bytes a second that cached's threads hash and write
 *	bench touch		a first touch against a hot read
 *	bench known N CHUNKS ATTACHED	memory and the time to open an image
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "base/shm.h"
#include "cached/cached.h"
#include "cached/disk.h"
#include "tests/store/host.h"

#define MIB	(1024 * 1024)
#define CONF	"[store]\nmin-free = 0\nscrub = no\n"

struct event_base *loop;	/* of work.c */

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- keep ---- */

#define KEEP_BYTES	(512 * MIB)
#define KEEP_CHUNK	(64 * 1024)
#define KEEP_CHUNKS	(KEEP_BYTES / KEEP_CHUNK)

static void
kept(struct job *job)
{
	must(job->result == 0, "keep a chunk");
}

static int
bench_keep(const char *dir)
{
	struct chunk_job *jobs = calloc(KEEP_CHUNKS, sizeof(*jobs));
	_cleanup_free_ uint8_t *bytes = malloc(KEEP_BYTES);
	int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = at < 0 ? -1 : disk_create(at, "bench");
	double from;

	must(jobs && bytes && fd >= 0, dir);
	disk_unlink(at, "bench");
	registry_fill(bytes, KEEP_BYTES, 1);
	loop = event_base_new();
	work_start();
	from = seconds();
	for (size_t i = 0; i < KEEP_CHUNKS; i++) {
		jobs[i] = (struct chunk_job){ .job = { .lane = WORK_HASH,
			.run = chunk_keep, .done = kept }, .fd = fd,
			.offset = i * KEEP_CHUNK, .len = KEEP_CHUNK,
			.buf = bytes + i * KEEP_CHUNK };
		work_submit(&jobs[i].job);
	}
	work_drain();
	printf("keep_bytes_per_s %.0f\n", KEEP_BYTES / (seconds() - from));
	free(jobs);
	return 0;
}

/* ---- touch ---- */

static double
read_time(struct host_device *dev)
{
	double from = seconds();

	for (uint64_t at = 0; at + 4096 <= dev->spec.size; at += 64 * 1024)
		host_read(dev, at, 4096);
	return seconds() - from;
}

static int
bench_touch(void)
{
	struct reg *reg = registry_new();
	_cleanup_free_ uint8_t *bytes = malloc(64 * MIB);
	struct host_answer a;
	struct host_device *dev;
	struct reg_image *image;
	struct host *h;
	double first, hot;

	must(bytes, "memory");
	registry_fill(bytes, 64 * MIB, 1);
	image = registry_image(reg, "os/bench", "v1", bytes, 64 * MIB,
	    IMAGE_INDEXED);
	h = host_new(reg, NULL, CONF);
	host_start(h);
	host_open(h, image->name, CTL_RUNG(CHUNK), true);
	host_stop(h);
	host_start(h);
	a = host_open(h, image->name, CTL_RUNG(CHUNK), false);
	dev = host_attach(h, &a);
	first = read_time(dev);
	hot = read_time(dev);
	printf("first_touch_us_per_read %.1f\n", first * 1e6 / 1024);
	printf("hot_us_per_read %.1f\n", hot * 1e6 / 1024);
	host_free(h);
	registry_free(reg);
	return 0;
}

/* ---- known: a store as cached would have left it ---- */

static uid_t owner = (uid_t)-1;	/* whose the store is */

static void
own(int fd)
{
	must(owner == (uid_t)-1 || fchown(fd, owner, owner) == 0, "chown");
}

static void
put_file(int dir, const char *name, const void *bytes, size_t len)
{
	int fd = disk_create(dir, name);

	must(fd >= 0 && disk_write(fd, bytes, len, 0) == 0, name);
	own(fd);
	close(fd);
}

static struct digest
nth(uint64_t image, uint64_t n)
{
	uint64_t key[2] = { image, n };

	return digest_of(key, sizeof(key));
}

/* Of chunks of 4 KiB that exist nowhere: nobody reads them. */
static uint8_t *
make_index(uint64_t image, uint32_t n, size_t *len)
{
	struct index_chunk *chunks = calloc(n, sizeof(*chunks));
	struct index_extent *extents = calloc(n, sizeof(*extents));
	struct index_blob blob = { nth(image, UINT64_MAX), n * 4096ULL };
	struct index_parts parts = { .device_size = n * 4096ULL,
		.device = blob.digest, .blobs = &blob, .chunks = chunks,
		.extents = extents, .n_blobs = 1, .n_chunks = n,
		.n_extents = n };
	const char *why = "";
	uint8_t *bytes = NULL;

	must(chunks && extents, "memory");
	for (uint32_t i = 0; i < n; i++) {
		chunks[i] = (struct index_chunk){ .digest = nth(image, i),
			.offset = i * 4096ULL, .stored = 4096,
			.length = 4096 };
		extents[i] = (struct index_extent){ i * 4096ULL, 4096, i };
	}
	must(index_write(&parts, &bytes, len, &why) == 0, why);
	free(chunks);
	free(extents);
	return bytes;
}

static void
put_presence(int dir, uint64_t image, uint32_t n, const struct digest *key)
{
	struct presence_header header = { .file_id = image * 2 + 1,
		.generation = 1, .size = n * 4096ULL, .n_chunks = n,
		.key = *key };
	size_t len = PRESENCE_HEADER + (size_t)n * PRESENCE_RECORD;
	_cleanup_free_ uint8_t *bytes = calloc(1, len);
	char name[64];
	int fd;

	must(bytes, "memory");
	presence_put_header(&header, bytes);
	/* all but one: who has all of them computes the whole digest */
	for (uint32_t i = 0; i + 1 < n; i++)
		presence_put(&header, i, &(struct presence_record){
		    nth(image, i), i * 4096ULL, 4096 }, bytes +
		    PRESENCE_HEADER + (size_t)i * PRESENCE_RECORD);
	snprintf(name, sizeof(name), "presence.%016" PRIx64, header.file_id);
	put_file(dir, name, bytes, len);
	snprintf(name, sizeof(name), "data.%016" PRIx64, header.file_id);
	fd = disk_create(dir, name);
	must(fd >= 0 && disk_set_size(fd, header.size) == 0, name);
	own(fd);
	close(fd);
}

/* One image and its layout; its manifest's digest. */
static struct digest
put_image(int store, uint64_t image, uint32_t n)
{
	size_t len;
	_cleanup_free_ uint8_t *index = make_index(image, n, &len);
	struct digest key = digest_of(index, len),
	    blob = nth(image, UINT64_MAX), manifest = nth(image, 1 << 30);
	_cleanup_close_ int outer = disk_dir(store, "layouts", true);
	_cleanup_close_ int dir = disk_dir(outer,
	    digest_to_hex(&key).text, true);
	_cleanup_close_ int known = disk_dir(store, "images", true);
	char text[2048], name[DIGEST_HEX + 8];
	struct digest sum;
	size_t at;

	must(dir >= 0 && known >= 0, "make a store");
	own(outer);
	own(dir);
	own(known);
	put_file(dir, "index", index, len);
	put_presence(dir, image, n, &key);
	snprintf(text, sizeof(text), "{\"name\": \"bench.test/i%" PRIu64
	    ":v1\", \"host\": \"bench.test\", \"repo\": \"i%" PRIu64 "\", "
	    "\"blob\": \"%s\", \"size\": %llu, \"named_at\": 1, \"index\": "
	    "\"%s\", \"proof\": \"manifest\"}", image, image,
	    digest_to_text(&blob).text, n * 4096ULL,
	    digest_to_text(&key).text);
	at = strlen(text);
	sum = digest_of(text, at);	/* as store_write_text() */
	snprintf(text + at, sizeof(text) - at, "\n%s\n",
	    digest_to_text(&sum).text);
	snprintf(name, sizeof(name), "%s.json",
	    digest_to_hex(&manifest).text);
	put_file(known, name, text, strlen(text));
	return manifest;
}

static long
rss_anon_kb(pid_t pid)
{
	char path[64], line[256];
	long kb = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "RssAnon: %ld", &kb);
	if (f)
		fclose(f);
	return kb;
}

static void
attach(struct host *h, const struct host_answer *a, unsigned number)
{
	struct device_spec spec = { .image = a->manifest, .blob = a->blob,
		.layout = a->layout, .size = a->size, .unit = a->unit,
		.rung = a->rung, .present = CTL_PRESENT(NBD) };
	int map = shm_object("map", map_size(a->size, a->unit));

	must(map >= 0, "make a map");
	snprintf(spec.id, sizeof(spec.id), "%016x", number);
	snprintf(spec.name, sizeof(spec.name), "d%u", number);
	host_tell(h, PARENT_DEVICE, 0, &spec, map);
}

static int
bench_known(unsigned n, uint32_t chunks, unsigned attached)
{
	struct reg *reg = registry_new();
	struct host *h = host_new(reg, NULL, CONF);
	struct digest *manifests = calloc(n, sizeof(*manifests));
	struct host_answer a;
	double from, best = 1e9, worst = 0;

	must(manifests, "memory");
	owner = h->owner;
	for (unsigned i = 0; i < n; i++)
		manifests[i] = put_image(h->store, i + 1, chunks);
	from = seconds();
	host_start(h);
	printf("start_ms %.0f\n", (seconds() - from) * 1e3);
	printf("rss_anon_known_kb %ld\n", rss_anon_kb(h->pid));
	for (unsigned i = 0; i < attached; i++) {
		double took;

		from = seconds();
		a = host_open(h, digest_to_text(&manifests[i]).text,
		    CTL_RUNG(CHUNK), false);
		took = seconds() - from;
		best = took < best ? took : best;
		worst = took > worst ? took : worst;
		attach(h, &a, i + 1);
	}
	host_df(h);	/* all that was sent before was handled */
	printf("attach_known_ms_best %.2f\n", best * 1e3);
	printf("attach_known_ms_worst %.2f\n", worst * 1e3);
	printf("rss_anon_attached_kb %ld\n", rss_anon_kb(h->pid));
	host_free(h);
	registry_free(reg);
	free(manifests);
	return 0;
}

int
main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "keep") == 0)
		return bench_keep(argv[2]);
	if (argc == 2 && strcmp(argv[1], "touch") == 0)
		return bench_touch();
	if (argc == 5 && strcmp(argv[1], "known") == 0)
		return bench_known((unsigned)atoi(argv[2]),
		    (uint32_t)atoi(argv[3]), (unsigned)atoi(argv[4]));
	fprintf(stderr, "usage: bench keep DIR | touch | known N CHUNKS "
	    "ATTACHED\n");
	return 2;
}
