// SPDX-License-Identifier: Apache-2.0
/*
 * From a log to what a power cut may leave: see replay.h for what is possible.
 * Each file is an array of blocks; a block has its covered bytes and the list
 * of what was done to it since, in order:
 *
 *	write, punch, smaller size --> change -+-> change ...   a block's list
 *	                                 |
 *	                           sync: into the covered bytes
 *
 * and each directory the covered names and a list of acts likewise.  At the cut
 * the seed says for each block how far along its list it came, and for each
 * act whether it is kept.
 */
#define _GNU_SOURCE
#include <sys/queue.h>
#include <sys/stat.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "tests/store/must.h"
#include "tests/store/replay_log.h"

#define BLOCK		4096
#define SECTOR		512
#define SIZE_MAX_FILE	((uint64_t)1 << 30)	/* of a test */

/* ---- a disk ---- */

/* Bytes [from, from+len) of a block become `data`, or zeros. */
struct change {
	struct change *next;
	size_t when;		/* entry of the log */
	uint32_t from, len;
	const uint8_t *data;	/* NULL: zeros */
	bool doomed;		/* its sync failed */
};

struct block {
	uint8_t *covered;	/* NULL: zeros */
	struct change *first, *last;
};

struct size_change {
	size_t when;
	uint64_t size;
};

enum act_kind { ACT_ADD, ACT_DEL, ACT_MOVE, ACT_IN, ACT_OUT };

struct act {
	TAILQ_ENTRY(act) entry;
	enum act_kind kind;
	size_t when, node;
	char name[NAME_BYTES], name2[NAME_BYTES];
	struct act *other;	/* ACT_OUT: its ACT_IN, and back, unless that is
				 * covered */
	bool certain, keep;
};
TAILQ_HEAD(acts, act);

struct name {
	char text[NAME_BYTES];
	size_t node;
};

struct node {
	bool is_dir;
	char *path;		/* where it stands in the tree, once it does */
	/* a file */
	struct block *blocks;
	size_t n_blocks;
	uint64_t covered_size, size;
	struct size_change *sizes;
	size_t n_sizes;
	size_t *touched;	/* blocks with changes, some twice */
	size_t n_touched;
	/* a directory */
	struct name *names;	/* covered */
	size_t n_names;
	struct acts acts;
};

/* How the seed treats what is not covered. */
enum manner { KEEP_ALL, KEEP_NONE, KEEP_SOME, KEEP_BEFORE, N_MANNERS };

struct disk {
	struct node *nodes;
	size_t n_nodes;
	uint64_t random;
	enum manner data, names;
	unsigned odds;		/* of KEEP_SOME, in 16 */
	bool tear;
	size_t before;		/* of KEEP_BEFORE: an entry of the log */
	uid_t owner;
	int root;
	struct replay_report report;
};

/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
static uint64_t
dice(struct disk *d)
{
	uint64_t z = d->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* ---- data ---- */

static void
block_apply(uint8_t *bytes, const struct change *c)
{
	if (c->data)
		memcpy(bytes + c->from, c->data, c->len);
	else
		memset(bytes + c->from, 0, c->len);
}

static void
block_cover(struct block *b)
{
	struct change *c;

	while ((c = b->first)) {
		b->first = c->next;
		if (!b->covered)
			b->covered = need(calloc(1, BLOCK));
		block_apply(b->covered, c);
		free(c);
	}
}

static void
node_grow(struct node *n, uint64_t end)
{
	size_t want = (size_t)((end + BLOCK - 1) / BLOCK);

	must(end <= SIZE_MAX_FILE);
	if (want <= n->n_blocks)
		return;
	if (want < n->n_blocks * 2)
		want = n->n_blocks * 2;
	n->blocks = need(realloc(n->blocks, want * sizeof(*n->blocks)));
	memset(n->blocks + n->n_blocks, 0,
	    (want - n->n_blocks) * sizeof(*n->blocks));
	n->n_blocks = want;
}

static void
node_touch(struct node *n, size_t block)
{
	if ((n->n_touched & (n->n_touched - 1)) == 0)
		n->touched = need(realloc(n->touched, (n->n_touched * 2 + 1) *
		    sizeof(*n->touched)));
	n->touched[n->n_touched++] = block;
}

static void
node_change(struct node *n, size_t when, uint64_t offset, uint64_t len,
    const uint8_t *data)
{
	node_grow(n, offset + len);
	for (uint64_t end = offset + len; offset < end;) {
		struct change *c = need(calloc(1, sizeof(*c)));
		struct block *b = &n->blocks[offset / BLOCK];

		c->when = when;
		c->from = (uint32_t)(offset % BLOCK);
		c->len = end - offset < BLOCK - c->from ?
		    (uint32_t)(end - offset) : BLOCK - c->from;
		c->data = data;
		if (b->first)
			b->last->next = c;
		else
			b->first = c;
		b->last = c;
		node_touch(n, (size_t)(offset / BLOCK));
		offset += c->len;
		if (data)
			data += c->len;
	}
}

static void
node_resize(struct node *n, size_t when, uint64_t size)
{
	if (size == n->size)
		return;
	if (size < n->size)
		node_change(n, when, size, n->size - size, NULL);
	node_grow(n, size);
	if ((n->n_sizes & (n->n_sizes - 1)) == 0)
		n->sizes = need(realloc(n->sizes, (n->n_sizes * 2 + 1) *
		    sizeof(*n->sizes)));
	n->sizes[n->n_sizes++] = (struct size_change){ when, size };
	n->size = size;
}

static void
node_write(struct node *n, size_t when, const struct record *r)
{
	if (r->offset + r->data_len > n->size)
		node_resize(n, when, r->offset + r->data_len);
	node_change(n, when, r->offset, r->data_len, record_data(r));
}

static void
node_punch(struct node *n, size_t when, const struct record *r)
{
	uint64_t end = r->offset + r->size;

	if (end > n->size)
		end = n->size;
	if (r->offset < end)
		node_change(n, when, r->offset, end - r->offset, NULL);
}

static bool
block_doomed(const struct block *b)
{
	const struct change *c;

	for (c = b->first; c; c = c->next)
		if (!c->doomed)
			return false;
	return b->first;
}

static void
node_sync(struct node *n)
{
	size_t left = 0;

	for (size_t i = 0; i < n->n_touched; i++) {
		struct block *b = &n->blocks[n->touched[i]];

		if (block_doomed(b))
			n->touched[left++] = n->touched[i];
		else
			block_cover(b);
	}
	n->n_touched = left;
	n->covered_size = n->size;
	n->n_sizes = 0;
}

static void
node_sync_failed(struct node *n)
{
	for (size_t i = 0; i < n->n_touched; i++) {
		struct change *c = n->blocks[n->touched[i]].first;

		for (; c; c = c->next)
			c->doomed = true;
	}
}

/* ---- names ---- */

static struct act *
act_new(struct node *dir, enum act_kind kind, size_t when, size_t node,
    const char *name, const char *name2)
{
	struct act *a = need(calloc(1, sizeof(*a)));

	a->kind = kind;
	a->when = when;
	a->node = node;
	strcpy(a->name, name);
	strcpy(a->name2, name2);
	TAILQ_INSERT_TAIL(&dir->acts, a, entry);
	return a;
}

static void
names_del(struct node *dir, const char *name, size_t node)
{
	for (size_t i = 0; i < dir->n_names; i++)
		if (strcmp(dir->names[i].text, name) == 0 &&
		    dir->names[i].node == node) {
			dir->names[i] = dir->names[--dir->n_names];
			return;
		}
}

static void
names_add(struct node *dir, const char *name, size_t node)
{
	for (size_t i = 0; i < dir->n_names; i++)
		if (strcmp(dir->names[i].text, name) == 0) {
			dir->names[i].node = node;
			return;
		}
	dir->names = need(realloc(dir->names, (dir->n_names + 1) *
	    sizeof(*dir->names)));
	strcpy(dir->names[dir->n_names].text, name);
	dir->names[dir->n_names++].node = node;
}

static void
act_apply(struct node *dir, const struct act *a)
{
	switch (a->kind) {
	case ACT_ADD:
	case ACT_IN:
		names_add(dir, a->name, a->node);
		break;
	case ACT_DEL:
	case ACT_OUT:
		names_del(dir, a->name, a->node);
		break;
	case ACT_MOVE:
		names_del(dir, a->name, a->node);
		names_add(dir, a->name2, a->node);
		break;
	}
}

static void
node_sync_dir(struct node *dir)
{
	struct act *a;

	while ((a = TAILQ_FIRST(&dir->acts))) {
		TAILQ_REMOVE(&dir->acts, a, entry);
		act_apply(dir, a);
		if (a->other) {
			a->other->other = NULL;
			if (a->kind == ACT_OUT)
				a->other->certain = true;
		}
		free(a);
	}
}

static void
node_rename(struct disk *d, const struct entry *e, size_t when)
{
	struct node *from = &d->nodes[e->dir], *to = &d->nodes[e->dir2];
	char name[NAME_BYTES], name2[NAME_BYTES];
	struct act *in, *out;

	record_name(e->record, name);
	record_name2(e->record, name2);
	if (from == to) {
		act_new(from, ACT_MOVE, when, e->node, name, name2);
		return;
	}
	in = act_new(to, ACT_IN, when, e->node, name2, "");
	out = act_new(from, ACT_OUT, when, e->node, name, "");
	in->other = out;
	out->other = in;
}

/* ---- up to the cut ---- */

static void
disk_entry(struct disk *d, const struct entry *e, size_t when)
{
	const struct record *r = e->record;
	struct node *n = &d->nodes[e->node], *dir = &d->nodes[e->dir];
	char name[NAME_BYTES];

	switch ((enum record_type)r->type) {
	case RECORD_ROOT:
		dir->is_dir = true;
		break;
	case RECORD_MKDIR:
		n->is_dir = true;
		/* fall through */
	case RECORD_CREATE:
		act_new(dir, ACT_ADD, when, e->node, record_name(r, name), "");
		break;
	case RECORD_WRITE:
		node_write(n, when, r);
		break;
	case RECORD_SIZE:
		node_resize(n, when, r->size);
		break;
	case RECORD_PUNCH:
		node_punch(n, when, r);
		break;
	case RECORD_SYNC:
		node_sync(n);
		break;
	case RECORD_SYNC_FAILED:
		node_sync_failed(n);
		break;
	case RECORD_SYNC_DIR:
		node_sync_dir(dir);
		break;
	case RECORD_RENAME:
		node_rename(d, e, when);
		break;
	case RECORD_UNLINK:
	case RECORD_RMDIR:
		act_new(dir, ACT_DEL, when, e->node, record_name(r, name), "");
		break;
	case RECORD_RESERVE:	/* nothing of it can be seen */
	case RECORD_MARK:
		break;
	}
}

/* ---- the dice ---- */

static bool
keeps(struct disk *d, enum manner manner, size_t when)
{
	switch (manner) {
	case KEEP_ALL:
		return true;
	case KEEP_SOME:
		return dice(d) % 16 < d->odds;
	case KEEP_BEFORE:
		return when < d->before;
	default:
		return false;
	}
}

/* How many of a block's changes reached the disk. */
static size_t
reached(struct disk *d, const struct block *b)
{
	const struct change *c;
	size_t n = 0, kept = 0;

	for (c = b->first; c; c = c->next)
		n++;
	if (d->data == KEEP_SOME)
		return keeps(d, KEEP_SOME, 0) ? n :
		    dice(d) % 4 == 0 ? dice(d) % n : 0;
	for (c = b->first; c; c = c->next)
		kept += keeps(d, d->data, c->when);
	return kept;
}

static void
block_state(const struct block *b, size_t changes, uint8_t out[BLOCK])
{
	const struct change *c;

	if (b->covered)
		memcpy(out, b->covered, BLOCK);
	else
		memset(out, 0, BLOCK);
	for (c = b->first; c; c = c->next) {
		if (changes-- == 0)
			break;
		block_apply(out, c);
	}
}

/* What the block shows after the cut. */
static void
block_cut(struct disk *d, const struct block *b, uint8_t out[BLOCK])
{
	uint8_t other[BLOCK];
	size_t split;

	if (!b->first) {
		block_state(b, 0, out);
		return;
	}
	d->report.blocks++;
	split = reached(d, b);
	block_state(b, split, out);
	d->report.blocks_kept += split > 0;
	if (!d->tear || dice(d) % 4 != 0)
		return;
	block_state(b, reached(d, b), other);
	split = (1 + dice(d) % (BLOCK / SECTOR - 1)) * SECTOR;
	memcpy(out + split, other + split, BLOCK - split);
}

static uint64_t
size_cut(struct disk *d, const struct node *n)
{
	uint64_t size = n->covered_size;

	if (d->data == KEEP_SOME && n->n_sizes > 0) {
		size_t i = dice(d) % (n->n_sizes + 1);

		return i == n->n_sizes ? size : n->sizes[i].size;
	}
	for (size_t i = 0; i < n->n_sizes; i++)
		if (keeps(d, d->data, n->sizes[i].when))
			size = n->sizes[i].size;
	return size;
}

static void
disk_dice(struct disk *d, uint64_t seed, size_t cut)
{
	size_t back;

	d->random = seed * UINT64_C(0x2545f4914f6cdd1d) + cut;
	d->data = (enum manner)(dice(d) % N_MANNERS);
	d->names = (enum manner)(dice(d) % N_MANNERS);
	d->odds = 2 + (unsigned)(dice(d) % 13);
	d->tear = dice(d) % 2;
	back = (size_t)(dice(d) % (2 + dice(d) % 200));
	d->before = back < cut ? cut - back : 0;
	if (seed == REPLAY_ALL || seed == REPLAY_NONE) {
		d->data = d->names = seed == REPLAY_ALL ? KEEP_ALL : KEEP_NONE;
		d->tear = false;
	}
}

/* Which acts are kept; an old name goes only where the new one stands. */
static void
acts_decide(struct disk *d)
{
	struct act *a;

	for (size_t i = 0; i < d->n_nodes; i++)
		TAILQ_FOREACH(a, &d->nodes[i].acts, entry) {
			a->keep = a->certain || keeps(d, d->names, a->when);
			d->report.names++;
		}
	for (size_t i = 0; i < d->n_nodes; i++)
		TAILQ_FOREACH(a, &d->nodes[i].acts, entry) {
			if (a->kind == ACT_OUT && a->other && !a->other->keep)
				a->keep = false;
			d->report.names_kept += a->keep;
		}
}

/* ---- onto a real disk ---- */

static bool
all_zeros(const uint8_t *at)
{
	return at[0] == 0 && memcmp(at, at + 1, BLOCK - 1) == 0;
}

static void
file_put(struct disk *d, struct node *n, int dirfd, const char *name)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_WRONLY | O_CREAT |
	    O_EXCL | O_CLOEXEC, 0600);
	uint64_t size = size_cut(d, n);

	must(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	if (d->owner != (uid_t)-1)
		must(fchown(fd, d->owner, (gid_t)-1) == 0);
	for (uint64_t at = 0; at < size && at / BLOCK < n->n_blocks;
	    at += BLOCK) {
		uint8_t bytes[BLOCK];

		block_cut(d, &n->blocks[at / BLOCK], bytes);
		if (!all_zeros(bytes))
			must(fd_pwrite_all(fd, bytes, size - at < BLOCK ?
			    (size_t)(size - at) : BLOCK, at) == 0);
	}
}

static void tree_put(struct disk *d, struct node *dir, int dirfd);

static void
dir_put(struct disk *d, struct node *n, int parent, const char *name)
{
	_cleanup_close_ int fd = -1;

	must(mkdirat(parent, name, 0700) == 0);
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(fd >= 0);
	if (d->owner != (uid_t)-1)
		must(fchown(fd, d->owner, (gid_t)-1) == 0);
	tree_put(d, n, fd);
}

static void
tree_put(struct disk *d, struct node *dir, int dirfd)
{
	struct act *a;

	TAILQ_FOREACH(a, &dir->acts, entry)
		if (a->keep)
			act_apply(dir, a);
	for (size_t i = 0; i < dir->n_names; i++) {
		struct node *n = &d->nodes[dir->names[i].node];
		const char *name = dir->names[i].text;

		if (n->path && n->is_dir)
			continue;	/* a directory has one name */
		if (n->path) {
			must(linkat(d->root, n->path, dirfd, name, 0) == 0);
			continue;
		}
		must(asprintf(&n->path, "%s%s%s", dir->path ? dir->path : "",
		    dir->path ? "/" : "", name) > 0);
		if (n->is_dir)
			dir_put(d, n, dirfd, name);
		else
			file_put(d, n, dirfd, name);
	}
}

static void
node_done(struct node *n)
{
	struct act *a;

	for (size_t i = 0; i < n->n_blocks; i++) {
		struct change *c;

		while ((c = n->blocks[i].first)) {
			n->blocks[i].first = c->next;
			free(c);
		}
		free(n->blocks[i].covered);
	}
	while ((a = TAILQ_FIRST(&n->acts))) {
		TAILQ_REMOVE(&n->acts, a, entry);
		free(a);
	}
	free(n->path);
	free(n->blocks);
	free(n->sizes);
	free(n->touched);
	free(n->names);
}

struct replay_report
replay_build(const struct replay *r, size_t cut, uint64_t seed, int dirfd,
    uid_t owner)
{
	struct disk d = { .n_nodes = r->n_nodes, .owner = owner,
		.root = dirfd };

	must(cut <= r->n_entries);
	d.nodes = need(calloc(r->n_nodes, sizeof(*d.nodes)));
	for (size_t i = 0; i < d.n_nodes; i++)
		TAILQ_INIT(&d.nodes[i].acts);
	for (size_t i = 0; i < cut; i++)
		disk_entry(&d, &r->entries[i], i);
	disk_dice(&d, seed, cut);
	acts_decide(&d);
	tree_put(&d, &d.nodes[0], dirfd);
	for (size_t i = 0; i < d.n_nodes; i++)
		node_done(&d.nodes[i]);
	free(d.nodes);
	return d.report;
}
