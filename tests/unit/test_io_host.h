/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays devd's parent and cached for a real devd-io, one step at a time and
 * without an event loop: whoever includes this decides when an answer comes,
 * or that none does.  And a small NBD client, to be as strict or as wrong as a
 * test wants.
 */
#ifndef TESTS_UNIT_TEST_IO_HOST_H
#define TESTS_UNIT_TEST_IO_HOST_H

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/fuse_journal.h"
#include "devd/nbd_proto.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"
#include "test_bytes.h"

struct host {
	char dir[64], sock[80], file[80];
	uint64_t size;
	uint32_t unit;
	int parent, cached;	/* our ends */
	int map_fd, stats_fd, scratch_fd, store, listener;
	/* Presented as a file: a stand-in for /dev/fuse, which keeps messages
	 * whole too; our end, the worker's, and the journal. */
	bool as_file;
	/* Presented by the kernel's NBD client: what plays that. */
	bool as_kernel_nbd;
	int client;
	int kernel, fuse, journal_fd;
	struct fuse_journal *journal;
	struct map *map;
	struct stats *stats;
	uint8_t *scratch;
	uint64_t lane_size;
	pid_t pid;
	unsigned openers;	/* as last heard */
	bool broken;		/* worker said so of cached */
};

/* The byte of every device at an offset. */
static inline uint8_t
pattern(uint64_t at)
{
	uint64_t v = (at / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15);

	return (uint8_t)(v >> (at % 8 * 8));
}

static inline void
pattern_fill(uint8_t *buf, uint64_t at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = pattern(at + i);
}

static inline bool
pattern_is(const uint8_t *buf, uint64_t at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != pattern(at + i))
			return false;
	return true;
}

/* ---- the parent ---- */

static inline void
host_tell(struct host *h, enum parent_type type, const char *name, int fd)
{
	struct parent_msg msg = { .type = type, .peer = PEER_CACHED,
		.device = { .size = h->size, .unit = h->unit } };
	uint32_t len = htonl(sizeof(msg));

	snprintf(msg.device.name, sizeof(msg.device.name), "%s", name);
	put_frame(h->parent, &len, sizeof(len), &msg, sizeof(msg), fd);
}

/* The next message of the worker to its parent, of this type. */
static inline struct parent_msg
host_hear(struct host *h, enum parent_type type)
{
	struct parent_msg msg;
	uint32_t len;

	for (;;) {
		must(get_bytes(h->parent, &len, sizeof(len)));
		must(ntohl(len) == sizeof(msg));
		must(get_bytes(h->parent, &msg, sizeof(msg)));
		if (msg.type == CHILD_OPENERS)
			h->openers = msg.count;
		if (msg.type == CHILD_BROKEN)
			h->broken = true;
		if (msg.type == type)
			return msg;
	}
}

/* ---- cached ---- */

static inline void
host_say(struct host *h, uint64_t id, Suite__Frame__BodyCase type, void *body,
    int fd)
{
	Suite__Frame frame = SUITE__FRAME__INIT;
	uint32_t head[2] = { 0, 0 };
	uint8_t buf[8192];
	size_t len;

	frame.id = id;
	frame.body_case = type;
	frame.open = body;	/* one pointer for all of the oneof */
	len = suite__frame__get_packed_size(&frame);
	must(len <= sizeof(buf));
	suite__frame__pack(&frame, buf);
	head[0] = htonl((uint32_t)len);
	put_frame(h->cached, head, sizeof(head), buf, len, fd);
}

/* The next frame of the worker; freed by the caller. */
static inline Suite__Frame *
host_frame(struct host *h)
{
	uint8_t buf[8192];
	uint32_t head[2];
	Suite__Frame *frame;

	must(get_bytes(h->cached, head, sizeof(head)));
	must(ntohl(head[0]) <= sizeof(buf) && head[1] == 0);
	must(get_bytes(h->cached, buf, ntohl(head[0])));
	frame = suite__frame__unpack(NULL, ntohl(head[0]), buf);
	must(frame != NULL);
	return frame;
}

struct want {
	uint64_t id, first;
	uint32_t count;
	bool again;
};

static inline struct want
host_want(struct host *h)
{
	Suite__Frame *f = host_frame(h);
	struct want w;

	must(f->body_case == SUITE_BODY(WANT));
	w = (struct want){ f->id, f->want->first, f->want->count,
		f->want->again };
	suite__frame__free_unpacked(f, NULL);
	return w;
}

static inline uint32_t
host_release(struct host *h)
{
	Suite__Frame *f = host_frame(h);
	uint32_t lane;

	must(f->body_case == SUITE_BODY(RELEASE));
	lane = f->release->lane;
	suite__frame__free_unpacked(f, NULL);
	return lane;
}

/* No message within ms. */
static inline bool
host_quiet(struct host *h, int ms)
{
	return !readable_in(h->cached, ms);
}

static inline void
host_slot(struct host *h, uint32_t slot, int fd)
{
	Suite__StoreFile msg = SUITE__STORE_FILE__INIT;

	msg.slot = slot;
	host_say(h, 0, SUITE_BODY(STORE_FILE), &msg, fd);
}

/* A new link, with the store file in slot 0, as after a restart of cached. */
static inline void
host_link(struct host *h)
{
	int pair[2], ro;

	fd_close(h->cached);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	must(fd_nonblock(pair[1]) == 0);
	h->cached = pair[0];
	host_tell(h, PARENT_PEER, "", pair[1]);
	fd_close(pair[1]);
	ro = open(h->file, O_RDONLY | O_CLOEXEC);
	must(ro >= 0);
	host_slot(h, 0, ro);
	fd_close(ro);
}

static inline void
host_scratch(struct host *h, uint32_t lanes, uint64_t lane_size)
{
	Suite__Scratch msg = SUITE__SCRATCH__INIT;
	void *p;

	fd_close(h->scratch_fd);
	h->scratch_fd = shm_object("test-scratch", lanes * lane_size);
	must(h->scratch_fd >= 0);
	must(shm_map(h->scratch_fd, lanes * lane_size, 1, &p) == 0);
	h->scratch = p;		/* the old one is kept: others may look */
	h->lane_size = lane_size;
	msg.lanes = lanes;
	msg.lane_size = lane_size;
	host_say(h, 0, SUITE_BODY(SCRATCH), &msg, h->scratch_fd);
}

/* Say where a unit is: at its own offset in the file of that slot. */
static inline void
host_publish(struct host *h, uint64_t unit, uint32_t slot)
{
	atomic_store(&h->map->words[unit], map_word(slot, unit * h->unit));
}

/* These units are zeros, and lie nowhere. */
static inline void
host_zeros(struct host *h, uint64_t first, uint64_t count)
{
	for (uint64_t u = first; u < first + count; u++)
		atomic_store(&h->map->words[u], MAP_ZEROS);
}

/* Put units into the store, and into the map. */
static inline void
host_fill(struct host *h, uint64_t first, uint64_t count)
{
	_cleanup_free_ uint8_t *buf = malloc(h->unit);

	must(buf != NULL);
	for (uint64_t u = first; u < first + count; u++) {
		size_t len = h->size - u * h->unit < h->unit ?
		    h->size - u * h->unit : h->unit;

		pattern_fill(buf, u * h->unit, len);
		must(fd_pwrite_all(h->store, buf, len, u * h->unit) == 0);
		host_publish(h, u, 0);
	}
}

static inline void
host_here(struct host *h, uint64_t id, uint32_t status)
{
	Suite__Here msg = SUITE__HERE__INIT;

	msg.status = status;
	msg.lane = -1;
	host_say(h, id, SUITE_BODY(HERE), &msg, -1);
}

/* Answer with all units of a want in a lane. */
static inline void
host_here_lane(struct host *h, const struct want *w, uint32_t lane)
{
	Suite__Here msg = SUITE__HERE__INIT;
	uint8_t in[WANT_MAX];

	must(w->count * (uint64_t)h->unit <= h->lane_size);
	memset(in, 1, w->count);
	pattern_fill(h->scratch + lane * h->lane_size, w->first * h->unit,
	    w->count * h->unit);
	msg.lane = (int32_t)lane;
	msg.in_lane.data = in;
	msg.in_lane.len = w->count;
	host_say(h, w->id, SUITE_BODY(HERE), &msg, -1);
}

/* ---- start and end ---- */

static inline int
host_listen(struct host *h)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(h->sock);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", h->sock);
	must(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	must(listen(fd, 128) == 0);
	must(chmod(h->sock, 0777) == 0);
	return fd;
}

static inline void
host_exec(int link, const char *kind)
{
	const char *build = getenv("BUILD");
	char path[256];

	snprintf(path, sizeof(path), "%s/bin/devd-io", build ? build : "build");
	if (link != CHILD_FD)
		dup2(link, CHILD_FD);
	else
		fd_cloexec(link, 0);
	execl(path, "devd-io", kind, (char *)NULL);
	perror(path);
	_exit(127);
}

/* In two steps, for who has answers to read before it is ready. */
static inline void
host_start_worker_begin(struct host *h)
{
	int pair[2], ro;

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	must(fd_nonblock(pair[1]) == 0);
	fd_close(h->parent);
	h->parent = pair[0];
	h->pid = fork();
	must(h->pid >= 0);
	if (h->pid == 0)
		host_exec(pair[1], h->as_file ? "file" :
		    h->as_kernel_nbd ? "kernel-nbd" : NULL);
	fd_close(pair[1]);
	if (h->as_file) {
		host_tell(h, PARENT_FUSE, "", h->fuse);
		host_tell(h, PARENT_JOURNAL, "", h->journal_fd);
	} else if (h->as_kernel_nbd) {
		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0,
		    pair) == 0);
		h->client = pair[0];
		host_tell(h, PARENT_NBD, "", pair[1]);
		fd_close(pair[1]);
	} else {
		host_tell(h, PARENT_LISTEN, "", h->listener);
	}
	host_link(h);
	ro = shm_readonly(h->map_fd);
	must(ro >= 0);
	host_tell(h, PARENT_DEVICE, "disk", ro);
	fd_close(ro);
	host_tell(h, PARENT_STATS, "", h->stats_fd);
	host_tell(h, PARENT_GO, "", -1);
}

static inline void
host_start_worker_end(struct host *h)
{
	must((pid_t)host_hear(h, CHILD_READY).count == h->pid);
}

static inline void
host_start_worker(struct host *h)
{
	host_start_worker_begin(h);
	host_start_worker_end(h);
}

/* The stand-in for a mount. */
static inline void
host_mount(struct host *h)
{
	int pair[2];
	void *p;

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	h->kernel = pair[0];
	h->fuse = pair[1];
	h->journal_fd = shm_object("test-journal", FUSE_JOURNAL_SIZE);
	must(h->journal_fd >= 0);
	must(shm_map(h->journal_fd, FUSE_JOURNAL_SIZE, 1, &p) == 0);
	h->journal = p;
}

static inline void
host_unmount(struct host *h)
{
	munmap(h->journal, FUSE_JOURNAL_SIZE);
	fd_close(h->kernel);
	fd_close(h->fuse);
	fd_close(h->journal_fd);
}

static inline void
host_make(struct host *h, uint64_t size, uint32_t unit)
{
	void *p;

	*h = (struct host){ .size = size, .unit = unit, .parent = -1,
		.cached = -1, .scratch_fd = -1, .client = -1 };
	strcpy(h->dir, "/tmp/ssio.XXXXXX");
	must(mkdtemp(h->dir) != NULL);
	must(chmod(h->dir, 0711) == 0);
	snprintf(h->sock, sizeof(h->sock), "%s/s", h->dir);
	snprintf(h->file, sizeof(h->file), "%s/store", h->dir);
	h->store = open(h->file, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	must(h->store >= 0 && ftruncate(h->store, (off_t)size) == 0);
	h->map_fd = shm_object("test-map", map_size(size, unit));
	must(h->map_fd >= 0);
	must(shm_map(h->map_fd, map_size(size, unit), 1, &p) == 0);
	h->map = p;
	h->stats_fd = shm_object("test-stats", STATS_SIZE);
	must(h->stats_fd >= 0);
	must(shm_map(h->stats_fd, STATS_SIZE, 1, &p) == 0);
	h->stats = p;
	h->listener = host_listen(h);
}

static inline void
host_start(struct host *h, uint64_t size, uint32_t unit)
{
	host_make(h, size, unit);
	host_start_worker(h);
}

static inline void
host_start_kernel_nbd(struct host *h, uint64_t size, uint32_t unit)
{
	host_make(h, size, unit);
	h->as_kernel_nbd = true;
	host_start_worker(h);
}

static inline void
host_start_file(struct host *h, uint64_t size, uint32_t unit)
{
	host_make(h, size, unit);
	h->as_file = true;
	host_mount(h);
	host_start_worker(h);
}

static inline void
host_kill(struct host *h)
{
	kill(h->pid, SIGKILL);
	waitpid(h->pid, NULL, 0);
}

static inline void
host_stop(struct host *h)
{
	int status;

	/* It must be alive, and end by itself when its parent is gone. */
	must(waitpid(h->pid, &status, WNOHANG) == 0);
	fd_close(h->parent);
	must(waitpid(h->pid, &status, 0) == h->pid);
	must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	fd_close(h->cached);
	fd_close(h->map_fd);
	fd_close(h->stats_fd);
	fd_close(h->scratch_fd);
	fd_close(h->store);
	fd_close(h->listener);
	munmap(h->map, map_size(h->size, h->unit));
	munmap(h->stats, STATS_SIZE);
	unlink(h->sock);
	unlink(h->file);
	rmdir(h->dir);
}

/* ---- an NBD client ---- */

static inline int
client_connect(const struct host *h)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", h->sock);
	must(connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	return fd;
}

static inline void
client_option(int fd, uint32_t type, const void *payload, size_t len)
{
	uint8_t head[NBD_OPTION_HEADER];

	memcpy(head, "IHAVEOPT", 8);
	nbd_put_u32(head + 8, type);
	nbd_put_u32(head + 12, (uint32_t)len);
	put_bytes(fd, head, sizeof(head));
	put_bytes(fd, payload, len);
}

/* The next reply to an option: its type. */
static inline uint32_t
client_option_reply(int fd, uint8_t *payload, size_t max, size_t *len)
{
	uint8_t head[NBD_OPTION_REPLY];
	uint32_t n;

	must(get_bytes(fd, head, sizeof(head)));
	memcpy(&n, head + 16, 4);
	n = ntohl(n);
	must(n <= max);
	must(get_bytes(fd, payload, n));
	if (len)
		*len = n;
	memcpy(&n, head + 12, 4);
	return ntohl(n);
}

static inline uint32_t
client_last_reply(int fd)
{
	uint8_t payload[512];
	uint32_t type;

	do {
		type = client_option_reply(fd, payload, sizeof(payload), NULL);
	} while (type == NBD_REP_SERVER || type == NBD_REP_INFO ||
	    type == NBD_REP_META_CONTEXT);
	return type;
}

/* Past the hello; options may follow. */
static inline int
client_hello(const struct host *h)
{
	uint8_t hello[NBD_HELLO_SIZE], flags[4] = { 0, 0, 0, 3 };
	int fd = client_connect(h);

	must(get_bytes(fd, hello, sizeof(hello)));
	must(memcmp(hello, "NBDMAGICIHAVEOPT\0\3", 18) == 0);
	put_bytes(fd, flags, sizeof(flags));
	return fd;
}

static inline uint32_t
client_go(int fd, const char *name)
{
	uint8_t payload[128];
	size_t n = nbd_put_list_entry(payload, name);

	payload[n++] = 0;
	payload[n++] = 0;
	client_option(fd, NBD_OPT_GO, payload, n);
	return client_last_reply(fd);
}

static inline int
client_new(const struct host *h)
{
	int fd = client_hello(h);

	must(client_go(fd, "") == NBD_REP_ACK);
	return fd;
}

static inline void
client_ask(int fd, uint16_t type, uint16_t flags, uint64_t cookie,
    uint64_t offset, uint32_t len)
{
	uint8_t q[NBD_REQUEST_SIZE];

	nbd_put_u32(q, 0x25609513);
	nbd_put_u32(q + 4, (uint32_t)flags << 16 | type);
	nbd_put_u64(q + 8, cookie);
	nbd_put_u64(q + 16, offset);
	nbd_put_u32(q + 24, len);
	put_bytes(fd, q, sizeof(q));
}

/* The head of the next simple reply: its error. */
static inline uint32_t
client_reply(int fd, uint64_t *cookie)
{
	uint8_t head[NBD_SIMPLE_HEADER];
	uint32_t error;

	must(get_bytes(fd, head, sizeof(head)));
	must(memcmp(head, "\x67\x44\x66\x98", 4) == 0);
	memcpy(&error, head + 4, 4);
	memcpy(cookie, head + 8, 8);
	*cookie = be64toh(*cookie);
	return ntohl(error);
}

/* The data of a READ that asked for this: is it right? */
static inline bool
client_data_right(int fd, uint64_t offset, size_t len)
{
	_cleanup_free_ uint8_t *buf = malloc(len);

	must(buf && get_bytes(fd, buf, len));
	return pattern_is(buf, offset, len);
}

/* The same of a device of which some units are zeros in the map. */
static inline bool
client_mixed_right(const struct host *h, int fd, uint64_t offset, size_t len)
{
	_cleanup_free_ uint8_t *buf = malloc(len);

	must(buf && get_bytes(fd, buf, len));
	for (size_t i = 0; i < len; i++) {
		uint64_t at = offset + i;
		uint64_t word = atomic_load(&h->map->words[at / h->unit]);

		if (buf[i] != (word == MAP_ZEROS ? 0 : pattern(at)))
			return false;
	}
	return true;
}

#endif
