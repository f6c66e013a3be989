/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plays devd's parent, cached and clients for a real control process (devd
 * --control), one step at a time and without an event loop.
 */
#ifndef TESTS_UNIT_TEST_CONTROL_HOST_H
#define TESTS_UNIT_TEST_CONTROL_HOST_H

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/own.h"
#include "base/shm.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"
#include "test_bytes.h"

#define STORE	"/var/lib/store"

struct host {
	char dir[64], sock[96];
	const char *store;	/* as the parent tells it */
	const char *conf;	/* its text */
	int parent, cached;	/* our ends; cached: -1 while it is away */
	int state[2], listener, stats;
	pid_t pid;
};

/* A client of the control socket. */
struct user {
	int fd;
	uint64_t id;		/* of its latest request */
};

/* ---- the parent ---- */

static inline void
host_tell(struct host *h, enum parent_type type, struct parent_msg msg, int fd)
{
	uint32_t len = htonl(sizeof(msg));

	msg.type = type;
	put_frame(h->parent, &len, sizeof(len), &msg, sizeof(msg), fd);
}

static inline bool get_bytes_fd(int sock, void *buf, size_t n, int *fd);

/* The next message of control to its parent, which must be of this type, but
 * for further names of devices; with a descriptor, or without (-1). */
static inline struct parent_msg
host_hear_fd(struct host *h, enum parent_type type, int *fd)
{
	struct parent_msg msg;
	uint32_t len;

	do {
		must(get_bytes_fd(h->parent, &len, sizeof(len), fd));
		must(ntohl(len) == sizeof(msg));
		must(get_bytes(h->parent, &msg, sizeof(msg)));
	} while (msg.type == CHILD_NAME && type != CHILD_NAME);
	must(msg.type == (uint32_t)type);
	return msg;
}

static inline struct parent_msg
host_hear(struct host *h, enum parent_type type)
{
	struct parent_msg msg;
	int fd;

	msg = host_hear_fd(h, type, &fd);
	must(fd < 0);
	return msg;
}

static inline void
host_link(struct host *h)
{
	int pair[2];

	fd_close(h->cached);
	must(fd_pair(pair) == 0);
	h->cached = pair[0];
	must(fcntl(h->cached, F_SETFL, 0) == 0);
	host_tell(h, PARENT_PEER, (struct parent_msg){ .peer = PEER_CACHED },
	    pair[1]);
	fd_close(pair[1]);
}

static inline void
host_unlink(struct host *h)
{
	fd_close(h->cached);
	h->cached = -1;
}

/* The device is made. */
static inline void
host_device(struct host *h, const struct device_spec *spec)
{
	int ro = shm_readonly(h->stats);

	must(ro >= 0);
	host_tell(h, PARENT_DEVICE, (struct parent_msg){ .device = *spec }, ro);
	fd_close(ro);
}

static inline void
host_exec(int link)
{
	const char *build = getenv("BUILD");
	char path[256];

	snprintf(path, sizeof(path), "%s/bin/devd", build ? build : "build");
	if (link != CHILD_FD)
		dup2(link, CHILD_FD);
	else
		fd_cloexec(link, 0);
	execl(path, "devd", "--control", (char *)NULL);
	perror(path);
	_exit(127);
}

/* Control, up to what devices there are; host_go() follows. */
static inline void
host_begin(struct host *h)
{
	struct parent_msg none = { 0 }, text = { 0 };
	int pair[2], conf = shm_sealed("conf", h->conf,
	    strlen(h->conf));

	must(fd_pair(pair) == 0 && conf >= 0);
	fd_close(h->parent);
	h->parent = pair[0];
	must(fcntl(h->parent, F_SETFL, 0) == 0);
	h->pid = fork();
	must(h->pid >= 0);
	if (h->pid == 0)
		host_exec(pair[1]);
	fd_close(pair[1]);
	host_tell(h, PARENT_CONF, none, conf);
	fd_close(conf);
	snprintf(text.text, sizeof(text.text), "%s", h->dir);
	host_tell(h, PARENT_LISTEN, text, h->listener);
	snprintf(text.text, sizeof(text.text), "%s", h->store);
	host_tell(h, PARENT_STORE, text, -1);
	for (none.count = 0; none.count < 2; none.count++)
		host_tell(h, PARENT_STATE, none, h->state[none.count]);
}

static inline void
host_go(struct host *h)
{
	host_link(h);
	host_tell(h, PARENT_GO, (struct parent_msg){ 0 }, -1);
	host_hear(h, CHILD_READY);
}

static inline int
host_listen(struct host *h)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", h->sock);
	must(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	must(listen(fd, 64) == 0 && fd_nonblock(fd) == 0);
	return fd;
}

static inline void
host_start(struct host *h)
{
	*h = (struct host){ .store = STORE, .conf = "", .parent = -1, .cached = -1 };
	strcpy(h->dir, "/tmp/ssct.XXXXXX");
	must(mkdtemp(h->dir) != NULL);
	snprintf(h->sock, sizeof(h->sock), "%s/s", h->dir);
	h->listener = host_listen(h);
	for (int i = 0; i < 2; i++) {
		h->state[i] = memfd_create("attachments",
		    MFD_CLOEXEC | MFD_ALLOW_SEALING);
		must(h->state[i] >= 0);
	}
	h->stats = shm_object("test-stats", STATS_SIZE);
	must(h->stats >= 0);
	host_begin(h);
	host_go(h);
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
	fd_close(h->listener);
	fd_close(h->state[0]);
	fd_close(h->state[1]);
	fd_close(h->stats);
	unlink(h->sock);
	rmdir(h->dir);
}

/* ---- frames ---- */

/* n bytes, and a descriptor that comes with the first of them. */
static inline bool
get_bytes_fd(int sock, void *buf, size_t n, int *fd)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { buf, n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	ssize_t got;

	*fd = -1;
	must(readable_in(sock, DEADLINE_S * 1000));
	got = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	if (got <= 0)
		return false;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(c), sizeof(*fd));
	return get_bytes(sock, (char *)buf + got, n - (size_t)got);
}

/* ---- cached ---- */

/* The next request to cached, of this type; freed by the caller. */
static inline Suite__Frame *
host_asked_fd(struct host *h, Suite__Frame__BodyCase type, int *fd)
{
	_cleanup_free_ uint8_t *buf = malloc(IPC_BODY_MAX);
	uint32_t head[2];
	Suite__Frame *frame;

	must(get_bytes_fd(h->cached, head, sizeof(head), fd));
	must(ntohl(head[0]) <= IPC_BODY_MAX && head[1] == 0);
	must(get_bytes(h->cached, buf, ntohl(head[0])));
	frame = suite__frame__unpack(NULL, ntohl(head[0]), buf);
	must(frame && frame->body_case == type);
	return frame;
}

static inline Suite__Frame *
host_asked(struct host *h, Suite__Frame__BodyCase type)
{
	Suite__Frame *frame;
	int fd;

	frame = host_asked_fd(h, type, &fd);
	must(fd < 0);
	return frame;
}

static inline void
frame_free(Suite__Frame **frame)
{
	suite__frame__free_unpacked(*frame, NULL);
}
#define _cleanup_frame_ _cleanup_(frame_free)

static inline void
host_say(struct host *h, uint64_t id, Suite__Frame__BodyCase type, void *body)
{
	_cleanup_free_ uint8_t *buf = malloc(IPC_BODY_MAX);
	Suite__Frame frame = SUITE__FRAME__INIT;
	uint32_t head[2] = { 0, 0 };
	size_t len;

	frame.id = id;
	frame.body_case = type;
	frame.open = body;	/* one pointer for all of the oneof */
	len = suite__frame__get_packed_size(&frame);
	must(len <= IPC_BODY_MAX);
	suite__frame__pack(&frame, buf);
	head[0] = htonl((uint32_t)len);
	put_frame(h->cached, head, sizeof(head), buf, len, -1);
}

static inline void
host_done(struct host *h, uint64_t id)
{
	Suite__Done m = SUITE__DONE__INIT;

	host_say(h, id, SUITE_BODY(DONE), &m);
}

static inline void
host_failed(struct host *h, uint64_t id, Shedstream__Control__V1__Code code,
    const char *text)
{
	Suite__Failed m = SUITE__FAILED__INIT;

	m.code = code;
	m.text = (char *)text;
	host_say(h, id, SUITE_BODY(FAILED), &m);
}

/* No message to cached within ms. */
static inline bool
host_quiet(struct host *h, int ms)
{
	return !readable_in(h->cached, ms);
}

/* ---- clients ---- */

static inline void
user_ask_fd(struct user *u, CTL(Frame__BodyCase) type, const void *body,
    int fd)
{
	_cleanup_free_ uint8_t *buf = malloc(IPC_CLIENT_MAX);
	CTL(Frame) frame = SHEDSTREAM__CONTROL__V1__FRAME__INIT;
	uint32_t head;
	size_t len;

	frame.id = ++u->id;
	frame.body_case = type;
	frame.hello = (void *)body;
	len = shedstream__control__v1__frame__get_packed_size(&frame);
	must(len <= IPC_CLIENT_MAX);
	shedstream__control__v1__frame__pack(&frame, buf);
	head = htonl((uint32_t)len);
	put_frame(u->fd, &head, sizeof(head), buf, len, fd);
}

static inline void
user_ask(struct user *u, CTL(Frame__BodyCase) type, const void *body)
{
	user_ask_fd(u, type, body, -1);
}

/* The next frame to the client; freed by the caller. */
static inline CTL(Frame) *
user_frame(struct user *u)
{
	_cleanup_free_ uint8_t *buf = malloc(IPC_BODY_MAX);
	CTL(Frame) *frame;
	uint32_t head;

	must(get_bytes(u->fd, &head, sizeof(head)));
	must(ntohl(head) <= IPC_BODY_MAX);
	must(get_bytes(u->fd, buf, ntohl(head)));
	frame = shedstream__control__v1__frame__unpack(NULL, ntohl(head), buf);
	must(frame != NULL);
	return frame;
}

/* The next one to its latest request, which must be of this type.  On a slow
 * machine Accepted may come before it. */
static inline CTL(Frame) *
user_hear(struct user *u, CTL(Frame__BodyCase) type)
{
	CTL(Frame) *frame = user_frame(u);

	if (frame->body_case == CTL_BODY(ACCEPTED) && type != CTL_BODY(
	    ACCEPTED) && frame->id == u->id) {
		shedstream__control__v1__frame__free_unpacked(frame, NULL);
		frame = user_frame(u);
	}
	if (frame->body_case != type)
		fprintf(stderr, "got %d, wanted %d%s%s\n", frame->body_case,
		    type, frame->body_case == CTL_BODY(ERROR) ? ": " : "",
		    frame->body_case == CTL_BODY(ERROR) ? frame->error->text :
		    "");
	must(frame->body_case == type && frame->id == u->id);
	return frame;
}

static inline void
answer_free(CTL(Frame) **frame)
{
	shedstream__control__v1__frame__free_unpacked(*frame, NULL);
}
#define _cleanup_answer_ _cleanup_(answer_free)

static inline struct user
user_new(const struct host *h, const char *owner)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct user u = { socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), 0 };
	CTL(Hello) hello = SHEDSTREAM__CONTROL__V1__HELLO__INIT;
	_cleanup_answer_ CTL(Frame) *answer = NULL;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", h->sock);
	must(connect(u.fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	hello.protocol = 1;
	hello.owner = (char *)owner;
	user_ask(&u, CTL_BODY(HELLO), &hello);
	answer = user_hear(&u, CTL_BODY(HELLO_REPLY));
	return u;
}

#endif
