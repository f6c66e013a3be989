// SPDX-License-Identifier: Apache-2.0
/*
 * The power switch of a real file system: in a guest with Debian's own kernel
 * (tests/vm/power.sh), an ext4 on a dm-log-writes device holds the store.
 *
 *   walk SEED STEPS STORE MAPPED
 *	A life by chance (walk.h).  Steps and promises become marks in the log
 *	of that mapped device.
 *   judge SEED CUTS LOG DISK...
 *	Cut the log at so many places behind the mark "begin".  Each time, write
 *	what a power cut there may leave (logwrites.h) onto a disk, and judge:
 *	ext4 recovers, e2fsck finds nothing, cached starts by itself; what was
 *	promised is network-free; every byte of every image is right, and while
 *	those are read that say they need no network, a request to it fails the
 *	test; no chunk is found damaged, since a record on disk promises durable
 *	data.  Now and then all once more, without the network.
 *	The first disk must be as the whole log makes it: nothing went past it.
 *   again AT SEED LOG DISK
 *	One cut of a log that was kept.
 *
 * A line for each cut; status 0 and `judged ...` last, or some cut is WRONG and
 * the status is 1.  Root only.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/dm-ioctl.h>

#include "base/own.h"
#include "tests/store/host.h"
#include "tests/store/logwrites.h"
#include "tests/store/walk.h"

#define JUDGES_MAX	8
#define CUTS_MAX	10000
#define FIRST_SEED	2	/* LOGWRITES_ALL and _NONE before it */
#define AGAIN		4	/* one cut in so many is judged twice */
#define MANY		(16 * 1024)	/* bytes: more than small files have */
#define SOON		8	/* flushes and FUA writes */
#define PIECE		(1024 * 1024)	/* bytes of a write to a disk */

static struct walk_image images[WALK_IMAGES];

static void
must(bool ok, const char *what)
{
	if (ok)
		return;
	printf("guest_power: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- walk ---- */

static const char *mapped;

/* As `dmsetup message MAPPED 0 mark TEXT`. */
static void
mark(uint64_t promised, const char *text)
{
	struct {
		struct dm_ioctl io;
		struct dm_target_msg msg;
		char text[LOGWRITES_MARK_MAX];
	} m = { .io = { .version = { 4, 0, 0 }, .data_size = sizeof(m),
		.data_start = sizeof(m.io) } };
	_cleanup_close_ int fd = -1;
	char word[64];
	size_t n = 0;

	if (strcmp(mapped, "-") == 0)
		return;
	for (; text[n] && n < sizeof(word) - 1; n++)
		word[n] = text[n] == ' ' ? '-' : text[n];
	word[n] = '\0';
	snprintf(m.io.name, sizeof(m.io.name), "%s", mapped);
	snprintf(m.text, sizeof(m.text), "mark %llx,%s",
	    (unsigned long long)promised, word);
	fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	must(fd >= 0 && ioctl(fd, DM_TARGET_MSG, &m) == 0, "a mark");
}

static void
walk_failed(const char *why)
{
	printf("WRONG: in the walk: %s\n", why);
	exit(1);
}

/* The host's store is that directory, until -1 puts its own there again. */
static void
use_store(struct host *h, int dir)
{
	static int own = -1;

	if (own < 0)
		own = fcntl(h->store, F_DUPFD_CLOEXEC, 0);
	must(own >= 0 && dup3(dir >= 0 ? dir : own, h->store, O_CLOEXEC) >= 0,
	    "the store");
}

static int
do_walk(char **argv)
{
	struct walk w = { .random = strtoull(argv[0], NULL, 0),
		.tell = mark };
	struct reg *reg = walk_registry(w.images);
	_cleanup_close_ int dir = open(argv[2], O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC);

	must(dir >= 0, argv[2]);
	host_on_fail = walk_failed;
	mapped = argv[3];
	w.h = host_new(reg, NULL, WALK_CONF);
	must(fchown(dir, w.h->owner, (gid_t)-1) == 0, argv[2]);
	use_store(w.h, dir);
	mark(0, "begin");
	host_start(w.h);
	walk(&w, (unsigned)atoi(argv[1]));
	host_stop(w.h);
	mark(0, "end");
	printf("walked %s steps, %u starts\n", argv[1], w.h->starts);
	use_store(w.h, -1);
	host_free(w.h);
	registry_free(reg);
	return 0;
}

/* ---- what a mark says ---- */

struct marked {
	uint64_t promised;
	const char *text;
};

/* The kernel's own, at the end of a log, has no comma. */
static struct marked
last_mark(const struct logwrites *l, size_t cut)
{
	struct marked m = { 0, "" };
	const char *comma = NULL;

	while (cut > 0 && !(comma = strchr(l->entries[cut - 1].mark, ',')))
		cut--;
	if (comma) {
		m.promised = strtoull(l->entries[cut - 1].mark, NULL, 16);
		m.text = comma + 1;
	}
	return m;
}

static bool
is_mark(const struct logwrites *l, size_t i, const char *text)
{
	return (l->entries[i].flags & LOGWRITES_MARK) &&
	    strcmp(last_mark(l, i + 1).text, text) == 0;
}

/* ---- choosing cuts ---- */

struct cut {
	size_t at;		/* before this entry */
	uint64_t seed;
};

static int
by_place(const void *a, const void *b)
{
	const struct cut *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

enum kind {
	ANYWHERE,	/* a flush or FUA write just came, or will never */
	DATA,		/* the flush of an epoch with many data does not come */
	PROMISE,	/* right behind one, or at the end of its epoch */
	RELEASE,	/* soon after one: something is being taken away */
	KINDS,
};

static bool
is_barrier(const struct logwrites *l, size_t i)
{
	return l->entries[i].flags & (LOGWRITES_FLUSH | LOGWRITES_FUA);
}

static size_t
epoch_end(const struct logwrites *l, size_t i)
{
	while (i < l->n && !(l->entries[i].flags & LOGWRITES_FLUSH))
		i++;
	return i;
}

/* Bytes of data since the last flush before this one. */
static uint64_t
data_before(const struct logwrites *l, size_t i)
{
	uint64_t bytes = 0;

	for (size_t k = logwrites_sure(l, i); k < i; k++)
		if (!(l->entries[k].flags & LOGWRITES_METADATA))
			bytes += l->entries[k].len;
	return bytes;
}

static size_t
places(const struct logwrites *l, enum kind kind, size_t *out)
{
	size_t n = 0, i = 0, soon = 0;

	while (i < l->n && !is_mark(l, i, "begin"))
		i++;
	for (; i < l->n; i++) {
		bool barrier = is_barrier(l, i);

		if (is_mark(l, i, "released"))
			soon = SOON;
		if (kind == ANYWHERE && barrier)
			out[n++] = i + i % 2;
		else if (kind == DATA && barrier && data_before(l, i) >= MANY)
			out[n++] = i;
		else if (kind == PROMISE && is_mark(l, i, "promised"))
			out[n++] = i % 2 ? epoch_end(l, i) : i + 1;
		else if (kind == RELEASE && barrier && soon > 0)
			out[n++] = i;
		soon -= barrier && soon > 0;
	}
	return n;
}

/* As many of each kind, spread over the whole log. */
static void
choose(const struct logwrites *l, uint64_t seed, struct cut *cuts, size_t n)
{
	size_t *at = calloc(l->n + 1, sizeof(*at)), from = 0;

	must(at != NULL, "memory");
	for (enum kind kind = 0; kind < KINDS; kind++) {
		size_t n_at = places(l, kind, at);
		size_t end = n * (kind + 1) / KINDS;

		for (size_t i = from; i < end; i++)
			cuts[i].at = n_at == 0 ? l->n : at[((i - from) * n_at +
			    seed % n_at) / (end - from) % n_at];
		from = end;
	}
	free(at);
	qsort(cuts, n, sizeof(*cuts), by_place);
	for (size_t i = 0; i < n; i++)
		cuts[i].seed = i % 8 == 0 ? LOGWRITES_ALL : i % 8 == 1 ?
		    LOGWRITES_NONE : FIRST_SEED + seed + i;
}

/* ---- judging ---- */

struct sums {	/* shared memory */
	_Atomic uint64_t next, failed, judged, compared, refetched, pieces,
	    promises, writes, kept, torn;
};

static struct sums *sums;
static const struct cut *judged;	/* by this process, now */
static struct marked judged_mark;

static void
judge_failed(const char *why)
{
	sums->failed++;
	printf("WRONG: cut %zu seed %llu, in \"%s\": %s\n", judged->at,
	    (unsigned long long)judged->seed, judged_mark.text, why);
	fflush(stdout);
	_exit(1);
}

/* A disk on which cuts are built. */
struct judge {
	const struct logwrites *log;
	const char *disk;
	char mounted[32];
	int fd;
	size_t size;
	uint8_t *sure, *image;
	size_t n_sure;		/* entries in `sure` */
	struct host *h;
};

static void
judge_must(bool ok, const char *what)
{
	char why[256];

	if (ok)
		return;
	snprintf(why, sizeof(why), "%s: %s", what, strerror(errno));
	judge_failed(why);
}

static struct logwrites_report
build(struct judge *j, const struct cut *c)
{
	size_t end = logwrites_sure(j->log, c->at);
	struct logwrites_report report;

	judge_must(logwrites_apply(j->log, j->n_sure, end, j->sure,
	    j->size) == 0, "the log");
	j->n_sure = end;
	memcpy(j->image, j->sure, j->size);
	judge_must(logwrites_cut(j->log, c->at, c->seed, j->image, j->size,
	    &report) == 0, "the log");
	for (size_t at = 0; at < j->size; at += PIECE)
		judge_must(fd_pwrite_all(j->fd, j->image + at, j->size - at <
		    PIECE ? j->size - at : PIECE, at) == 0, j->disk);
	return report;
}

static void
mount_it(struct judge *j)
{
	judge_must(mount(j->disk, j->mounted, "ext4", MS_NOATIME, "") == 0,
	    "mount");
}

static void
unmount_it(struct judge *j)
{
	judge_must(umount2(j->mounted, 0) == 0, "unmount");
}

/* The journal is replayed by the kernel; then all must be well. */
static void
recover(struct judge *j)
{
	char command[128];

	mount_it(j);
	unmount_it(j);
	snprintf(command, sizeof(command), "e2fsck -fn %s >%s.fsck 2>&1",
	    j->disk, j->mounted);
	if (system(command) != 0) {
		snprintf(command, sizeof(command), "cat %s.fsck", j->mounted);
		if (system(command) == 0)
			judge_failed("e2fsck is not content");
		judge_failed("e2fsck can't be run");
	}
	mount_it(j);
}

/* Each once; what says that it needs no network is held to that. */
static void
read_images(struct host *h, enum net net, uint64_t promised)
{
	struct host_answer a[WALK_IMAGES];
	struct host_device *devices[WALK_IMAGES];

	for (unsigned i = 0; i < WALK_IMAGES; i++) {
		bool must_be = promised >> i & 1;

		h->net.state = must_be ? NET_FORBIDDEN : net;
		a[i] = host_open(h, images[i].image->exact, images[i].rung,
		    false);
		if (must_be && !a[i].network_free)
			host_fail(h, "%s was network-free, and is not any more",
			    images[i].image->name);
		devices[i] = host_attach(h, &a[i]);
	}
	for (unsigned free = 2; free-- > 0;) {
		h->net.state = free ? NET_FORBIDDEN : net;
		for (unsigned i = 0; i < WALK_IMAGES; i++) {
			if (a[i].network_free != free)
				continue;
			host_read_all(devices[i]);
			sums->compared += images[i].image->size;
		}
	}
}

static void
no_damage(struct host *h)
{
	for (unsigned i = 0; i < WALK_IMAGES; i++) {
		const struct reg_image *image = images[i].image;
		struct host_layout l = host_inspect(h, &image->layout);

		if (l.damaged > 0)
			host_fail(h, "%llu chunks of %s were recorded and are "
			    "not there", (unsigned long long)l.damaged,
			    image->name);
		if (l.failed)
			host_fail(h, "%s failed: %s", image->name,
			    l.last_error);
	}
}

/* A start from nothing but the disk. */
static void
judge_start(struct host *h)
{
	while (!TAILQ_EMPTY(&h->devices))
		host_detach(TAILQ_FIRST(&h->devices));
	host_stop(h);
	h->net.state = NET_FORBIDDEN;
	host_start(h);
}

static void
judge_store(struct judge *j, const struct cut *c)
{
	struct host *h = j->h;
	char path[64];
	int dir;

	/* Nothing may be there yet. */
	snprintf(path, sizeof(path), "%s/store", j->mounted);
	judge_must(mkdir(path, 0700) == 0 || errno == EEXIST, path);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	judge_must(dir >= 0 && fchown(dir, h->owner, (gid_t)-1) == 0, path);
	use_store(h, dir);
	close(dir);
	h->counts = (struct host_counts){ 0 };
	judge_start(h);
	read_images(h, NET_ON, judged_mark.promised);
	no_damage(h);
	if (c->seed % AGAIN == 0) {
		judge_start(h);
		read_images(h, NET_FORBIDDEN, 0);
		no_damage(h);
	}
	while (!TAILQ_EMPTY(&h->devices))
		host_detach(TAILQ_FIRST(&h->devices));
	host_stop(h);
	use_store(h, -1);
}

static void
judge(struct judge *j, const struct cut *c)
{
	struct logwrites_report report;
	int promises;

	judged = c;
	judged_mark = last_mark(j->log, c->at);
	promises = __builtin_popcountll(judged_mark.promised);
	report = build(j, c);
	recover(j);
	judge_store(j, c);
	unmount_it(j);
	sums->promises += (unsigned)promises;
	sums->refetched += j->h->counts.bytes;
	sums->pieces += j->h->counts.pieces;
	sums->writes += report.writes;
	sums->kept += report.kept;
	sums->torn += report.torn;
	sums->judged++;
	printf("right: cut %zu of %zu, in \"%s\"; %zu writes by chance, %zu "
	    "kept, %zu torn; %d promises; %llu bytes refetched\n", c->at,
	    j->log->n, judged_mark.text, report.writes, report.kept,
	    report.torn, promises, (unsigned long long)j->h->counts.bytes);
	fflush(stdout);
}

static size_t
disk_size(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);

	must(size > 0, "a disk's size");
	return (size_t)size;
}

static uint8_t *
zeros(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
	    MAP_ANONYMOUS, -1, 0);

	/* Children run other programs: they need no copy of its page tables. */
	must(p != MAP_FAILED && madvise(p, size, MADV_DONTFORK) == 0,
	    "memory");
	return p;
}

static void
judge_init(struct judge *j, const struct logwrites *log, const char *disk,
    const struct reg *reg)
{
	*j = (struct judge){ .log = log, .disk = disk };
	/* Past the page cache, in which mounts look for their blocks. */
	j->fd = open(disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	must(j->fd >= 0, disk);
	j->size = disk_size(j->fd);
	j->sure = zeros(j->size);
	j->image = zeros(j->size);
	snprintf(j->mounted, sizeof(j->mounted), "/tmp/%.20s",
	    strrchr(disk, '/') + 1);
	must(mkdir(j->mounted, 0755) == 0, j->mounted);
	host_on_fail = judge_failed;
	j->h = host_new(reg, NULL, WALK_CONF);
}

static void
judge_some(const struct logwrites *log, const char *disk,
    const struct reg *reg, const struct cut *cuts, size_t n)
{
	struct judge j;
	uint64_t i;

	judge_init(&j, log, disk, reg);
	while (!sums->failed && (i = sums->next++) < n)
		judge(&j, &cuts[i]);
	host_free(j.h);
	_exit(0);
}

/* One process a disk. */
static bool
judge_all(const struct logwrites *log, char **disks, size_t n_disks,
    const struct reg *reg, const struct cut *cuts, size_t n)
{
	pid_t pids[JUDGES_MAX];
	bool well = true;
	int status;

	for (size_t i = 0; i < n_disks; i++) {
		fflush(stdout);
		pids[i] = fork();
		must(pids[i] >= 0, "fork");
		if (pids[i] == 0)
			judge_some(log, disks[i], reg, cuts, n);
	}
	for (size_t i = 0; i < n_disks; i++) {
		must(waitpid(pids[i], &status, 0) == pids[i], "wait");
		well &= status == 0;
	}
	return well && sums->failed == 0 && sums->judged == n;
}

/* Nothing went past the log, and it is read right. */
static void
compare_whole(const struct logwrites *log, const char *disk)
{
	_cleanup_close_ int fd = open(disk, O_RDONLY | O_CLOEXEC);
	size_t size;
	uint8_t *is, *wanted;

	must(fd >= 0, disk);
	size = disk_size(fd);
	is = zeros(size);
	wanted = zeros(size);
	must(fd_pread_all(fd, is, size, 0) == (ssize_t)size, disk);
	must(logwrites_apply(log, 0, log->n, wanted, size) == 0, "the log");
	if (memcmp(is, wanted, size) != 0) {
		printf("WRONG: the log does not make the disk\n");
		exit(1);
	}
	munmap(is, size);
	munmap(wanted, size);
}

static void
setup(const char *log_disk, struct logwrites *log, struct reg **reg)
{
	int fd = open(log_disk, O_RDONLY | O_CLOEXEC), r;

	must(fd >= 0, log_disk);
	r = logwrites_open(fd, log);
	errno = -r;
	must(r == 0, log_disk);
	*reg = walk_registry(images);
	sums = mmap(NULL, sizeof(*sums), PROT_READ | PROT_WRITE, MAP_SHARED |
	    MAP_ANONYMOUS, -1, 0);
	must(sums != MAP_FAILED, "memory");
}

static int
do_judge(char **argv, size_t n_disks)
{
	uint64_t seed = strtoull(argv[0], NULL, 0);
	size_t n = strtoull(argv[1], NULL, 0);
	struct cut *cuts;
	struct logwrites log;
	struct reg *reg;
	bool well;

	must(n > 0 && n <= CUTS_MAX && n_disks <= JUDGES_MAX, "that many");
	setup(argv[2], &log, &reg);
	printf("log: %zu entries, %llu bytes\n", log.n,
	    (unsigned long long)log.bytes);
	compare_whole(&log, argv[3]);
	cuts = calloc(n, sizeof(*cuts));
	must(cuts != NULL, "memory");
	choose(&log, seed, cuts, n);
	well = judge_all(&log, argv + 3, n_disks, reg, cuts, n);
	printf("judged %lu cuts: %lu bytes compared, %lu pieces (%lu bytes) "
	    "refetched, %lu promises; %lu writes by chance, %lu kept, %lu "
	    "torn\n", sums->judged, sums->compared, sums->pieces,
	    sums->refetched, sums->promises, sums->writes, sums->kept,
	    sums->torn);
	free(cuts);
	logwrites_done(&log);
	registry_free(reg);
	return well ? 0 : 1;
}

static int
do_again(char **argv)
{
	struct cut c = { .at = strtoull(argv[0], NULL, 0),
		.seed = strtoull(argv[1], NULL, 0) };
	struct logwrites log;
	struct reg *reg;
	bool well;

	setup(argv[2], &log, &reg);
	must(c.at <= log.n, "that cut");
	well = judge_all(&log, argv + 3, 1, reg, &c, 1);
	logwrites_done(&log);
	registry_free(reg);
	return well ? 0 : 1;
}

int
main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (argc == 6 && strcmp(verb, "walk") == 0)
		return do_walk(argv + 2);
	if (argc >= 6 && strcmp(verb, "judge") == 0)
		return do_judge(argv + 2, (size_t)argc - 5);
	if (argc == 6 && strcmp(verb, "again") == 0)
		return do_again(argv + 2);
	fprintf(stderr, "usage: guest_power walk SEED STEPS STORE MAPPED\n"
	    "       guest_power judge SEED CUTS LOG DISK...\n"
	    "       guest_power again AT SEED LOG DISK\n");
	return 2;
}
