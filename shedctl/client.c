// SPDX-License-Identifier: Apache-2.0
/*
 * The client's end of the control socket: one request at a time, blocking.
 * control.proto says what a frame is.
 *
 *	DISCONNECTED --connect, Hello--> GREETED --request--> WAITING
 *	     ^                                                 |  |
 *	     |   lost, and the request may be sent again       |  +--Accepted,
 *	     +-------------------------------------------------+     Progress,
 *	                                                  answer     Event: wait
 *
 * devd's control process may die and be started again by its parent, which
 * holds the listening socket: who asks for something that can be asked twice
 * sees nothing of that.  A first connection that fails is not tried again.
 *
 * Nothing here writes to the terminal; what went wrong goes to *failure.
 */
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "shedctl/shedctl.h"

#define PROTOCOL	1
#define PARTS_MAX	4096		/* 1 GiB of frames: no honest answer */
#define TRIES_MAX	20		/* reconnections after one loss */
#define TRY_PAUSE_MS	50		/* the first pause; it doubles up to */
#define TRY_PAUSE_MAX_MS 500
#define FOREVER		INT64_MAX

int client_answer_ms = 10000;
int client_tries_ms = 5000;

int64_t
client_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

enum status
client_fail(struct failure *f, uint32_t code, const char *fmt, ...)
{
	va_list args;

	f->code = word_code(code);
	va_start(args, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, args);
	va_end(args);
	return STATUS_FAILED;
}

static int
socket_below(const char *dir, const char *name, char *buf, size_t size)
{
	int n;

	if (!dir || dir[0] != '/')
		return -ENOENT;
	n = snprintf(buf, size, "%s/%s", dir, name);
	if (n < 0 || (size_t)n >= size || access(buf, F_OK) < 0)
		return -ENOENT;
	return 0;
}

int
client_socket(const char *given, char *buf, size_t size)
{
	int n;

	if (!given)
		given = getenv("SHEDSTREAM_SOCKET");
	if (!given || given[0] == '\0') {
		if (socket_below(getenv("XDG_RUNTIME_DIR"),
		    "shedstream/control.sock", buf, size) == 0)
			return 0;
		/* macOS has no runtime directory: devd uses this */
		if (socket_below(getenv("HOME"),
		    ".shedstream/run/control.sock", buf, size) == 0)
			return 0;
		given = "/run/shedstream/control.sock";
	}
	n = snprintf(buf, size, "%s", given);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

void
client_init(struct client *c, const char *path, const char *owner,
    struct failure *failure)
{
	*c = (struct client){ .path = path, .owner = owner, .fd = -1,
		.failure = failure };
}

static void
client_close(struct client *c)
{
	fd_close(c->fd);
	c->fd = -1;
	c->greeted = false;
}

void
client_done(struct client *c)
{
	client_close(c);
}

void
answer_done(struct answer *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->parts[i].arena);
	free(a->parts);
	fd_close(a->fd);
	*a = ANSWER_NONE;
}

/* Bytes: one frame in, one frame out. */

static int
wait_readable(int fd, int64_t until_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int64_t left;
	int r;

	for (;;) {
		left = until_ms == FOREVER ? -1 : until_ms - client_now_ms();
		if (until_ms != FOREVER && left < 0)
			left = 0;
		r = poll(&p, 1, (int)left);
		if (r > 0)
			return 0;
		if (r == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* A descriptor that came along; more than one is not in the protocol. */
static int
message_fd(struct msghdr *msg)
{
	int fd = -1;

	for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h;
	    h = CMSG_NXTHDR(msg, h))
		if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS &&
		    h->cmsg_len == CMSG_LEN(sizeof(int)) && fd < 0)
			memcpy(&fd, CMSG_DATA(h), sizeof(fd));
	return fd;
}

/* All of len bytes.  *fd: a descriptor with the first of them, where fd is not
 * NULL.  0, -ETIMEDOUT, -ECONNRESET when the peer is gone, or -errno. */
static int
read_all(struct client *c, void *buf, size_t len, int64_t until_ms, int *fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	size_t have = 0;

	while (have < len) {
		struct iovec iov = { (char *)buf + have, len - have };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = control.bytes,
			.msg_controllen = sizeof(control.bytes) };
		int r = wait_readable(c->fd, until_ms);
		ssize_t n;

		if (r < 0)
			return r;
		n = recvmsg(c->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return n == 0 ? -ECONNRESET : -errno;
		r = message_fd(&msg);
		if (r >= 0 && fd && *fd < 0 && have == 0)
			*fd = r;
		else
			fd_close(r);
		have += (size_t)n;
	}
	return 0;
}

static int
frame_read(struct client *c, int64_t until_ms, struct part *out, int *fd)
{
	_cleanup_free_ uint8_t *body = NULL;
	ProtobufCMessage *frame;
	uint32_t len;
	int r;

	r = read_all(c, &len, sizeof(len), until_ms, fd);
	if (r < 0)
		return r;
	len = ntohl(len);
	if (len > IPC_BODY_MAX)
		return -EPROTO;
	body = malloc((size_t)len + 1);
	if (!body)
		return -ENOMEM;
	r = read_all(c, body, len, until_ms, NULL);
	if (r < 0)
		return r;
	r = ipc_unpack(&shedstream__control__v1__frame__descriptor, body, len,
	    true, &frame, &out->arena);
	if (r < 0)
		return r;
	out->frame = (CTL(Frame) *)frame;
	return 0;
}

static int
send_all(int sock, const uint8_t *buf, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };

	for (size_t sent = 0; sent < len;) {
		struct iovec iov = { (void *)(buf + sent), len - sent };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (fd >= 0 && sent == 0) {
			msg.msg_control = control.bytes;
			msg.msg_controllen = sizeof(control.bytes);
			control.align.cmsg_level = SOL_SOCKET;
			control.align.cmsg_type = SCM_RIGHTS;
			control.align.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
		}
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)	/* EAGAIN: SO_SNDTIMEO ran out */
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		sent += (size_t)n;
	}
	return 0;
}

static int
frame_write(struct client *c, unsigned type, const void *body, int fd)
{
	CTL(Frame) frame = CTL_INIT(FRAME);
	_cleanup_free_ uint8_t *buf = NULL;
	uint32_t header;
	size_t len;

	frame.id = ++c->id;
	frame.body_case = (CTL(Frame__BodyCase))type;
	frame.hello = (void *)body;	/* any member: all are pointers */
	len = protobuf_c_message_get_packed_size(&frame.base);
	if (len > IPC_CLIENT_MAX)
		return -EMSGSIZE;
	buf = malloc(sizeof(header) + len);
	if (!buf)
		return -ENOMEM;
	header = htonl((uint32_t)len);
	memcpy(buf, &header, sizeof(header));
	protobuf_c_message_pack(&frame.base, buf + sizeof(header));
	return send_all(c->fd, buf, sizeof(header) + len, fd);
}

/* The connection. */

static int
client_connect(struct client *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval limit = { client_answer_ms / 1000,
		client_answer_ms % 1000 * 1000 };
	_cleanup_close_ int fd = -1;

	if (strlen(c->path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, c->path, strlen(c->path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0)
		return -errno;
	fd_cloexec(fd, 1);
	/* also for connect(), when the service does not accept */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	c->fd = take_fd(&fd);
	c->connections++;
	return 0;
}

/* A sentence with the remedy for a connection that could not be made. */
static enum status
fail_unreached(struct client *c, int error)
{
	const char *remedy = "start it (`systemctl start shedstream`, or "
	    "`devd -f` as an ordinary user), or name its socket with --socket";

	if (error == -EACCES || error == -EPERM)
		remedy = "use root, or a member of the group that [devices] "
		    "group names in shedstream.conf(5)";
	else if (error == -ENAMETOOLONG)
		remedy = "a socket's path has at most 100 bytes";
	else if (error == -EAGAIN)
		remedy = "it takes no connections; see its log "
		    "(`journalctl -t shedstream`)";
	c->failure->code = NULL;
	snprintf(c->failure->text, sizeof(c->failure->text),
	    "the service cannot be reached at %.200s (%s): %s", c->path,
	    strerror(-error), remedy);
	return STATUS_UNREACHED;
}

static enum status
fail_error(struct client *c, const CTL(Error) *e)
{
	return client_fail(c->failure, e->code, "%s%s",
	    e->text[0] ? e->text : "the service gave no reason; see its log "
	    "(`journalctl -t shedstream`)", e->code == CTL_CODE(VERSION) ?
	    " (this is shedctl " VERSION ", protocol 1: install the same "
	    "version of both)" : "");
}

static enum status
fail_errno(struct client *c, int error)
{
	struct failure *f = c->failure;

	switch (error) {
	case -ETIMEDOUT:
		return client_fail(f, CTL_CODE(TIMEOUT), "the service did not "
		    "answer within %g s; see its log (`journalctl -t "
		    "shedstream`), then try again", client_answer_ms / 1000.0);
	case -EPROTO:
		return client_fail(f, CTL_CODE(INTERNAL), "what answers at "
		    "%.200s does not speak this protocol; install shedctl and "
		    "the service in the same version", c->path);
	case -EMSGSIZE:
		return client_fail(f, CTL_CODE(BAD_REQUEST), "the request is "
		    "larger than %d KiB; send less at once",
		    IPC_CLIENT_MAX / 1024);
	case -ENOMEM:
		return client_fail(f, CTL_CODE(INTERNAL),
		    "shedctl has no memory left; free some");
	default:
		return client_fail(f, CTL_CODE(INTERNAL), "the service ended "
		    "the connection; see its log (`journalctl -t shedstream`), "
		    "then try again");
	}
}

/* The answer to a request may follow now. */
static bool
is_more(const CTL(Frame) *frame)
{
	switch (frame->body_case) {
	case CTL_BODY(DEVICES):
		return frame->devices->more;
	case CTL_BODY(IMAGES_REPLY):
		return frame->images_reply->more;
	case CTL_BODY(GC_REPLY):
		return frame->gc_reply->more;
	case CTL_BODY(DF_REPLY):
		return frame->df_reply->more;
	case CTL_BODY(METRICS_REPLY):
		return frame->metrics_reply->more;
	default:
		return false;
	}
}

static int
answer_add(struct answer *a, struct part *part)
{
	struct part *parts;

	if (a->n == PARTS_MAX)
		return -EPROTO;
	parts = realloc(a->parts, (a->n + 1) * sizeof(*parts));
	if (!parts)
		return -ENOMEM;
	a->parts = parts;
	a->parts[a->n++] = *part;
	part->arena = NULL;
	return 0;
}

/* Progress and events on the way.  True if the frame was one. */
static bool
client_aside(struct client *c, const CTL(Frame) *frame)
{
	switch (frame->body_case) {
	case CTL_BODY(EVENT):
		if (c->on_event)
			c->on_event(c->arg, frame->event);
		return true;
	case CTL_BODY(PROGRESS):
		if (frame->id != c->id)
			return true;
		if (frame->progress->current > c->furthest) {
			c->furthest = frame->progress->current;
			c->tries = 0;
		}
		if (c->on_progress)
			c->on_progress(c->arg, frame->progress);
		return true;
	case CTL_BODY(_NOT_SET):	/* of a newer service */
		return true;
	default:
		return frame->id != c->id;
	}
}

/* Frames until the answer is whole.  1: there; 0: an Error (told); -errno. */
static int
client_wait(struct client *c, const struct call *call, struct answer *out)
{
	int64_t until = client_now_ms() + client_answer_ms;

	for (;;) {
		_cleanup_free_ void *arena = NULL;
		struct part part = { 0 };
		CTL(Frame) *frame;
		int r = frame_read(c, until, &part, &out->fd);

		arena = part.arena;
		frame = part.frame;
		if (r < 0)
			return r;
		if (client_aside(c, frame))
			continue;
		if (frame->body_case == CTL_BODY(ACCEPTED)) {
			if (call->accepted)
				return 1;
			until = FOREVER;
			continue;
		}
		if (frame->body_case == CTL_BODY(ERROR)) {
			fail_error(c, frame->error);
			return 0;
		}
		if (frame->body_case != call->want)
			return -EPROTO;
		r = answer_add(out, &part);
		arena = part.arena;
		if (r < 0)
			return r;
		if (!is_more(frame))
			return 1;
		until = client_now_ms() + client_answer_ms;
	}
}

/* 1: greeted; 0: refused (told); -errno. */
static int
client_greet(struct client *c)
{
	CTL(Hello) hello = CTL_INIT(HELLO);
	struct call call = { .type = CTL_BODY(HELLO), .body = &hello,
		.want = CTL_BODY(HELLO_REPLY), .fd = -1 };
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	const CTL(HelloReply) *reply;
	int r;

	hello.protocol = PROTOCOL;
	hello.owner = (char *)c->owner;
	hello.client = (char *)"shedctl " VERSION;
	r = frame_write(c, call.type, call.body, -1);
	if (r == 0)
		r = client_wait(c, &call, &a);
	if (r <= 0)
		return r;
	reply = a.parts[0].frame->hello_reply;
	if (reply->protocol != PROTOCOL) {
		client_fail(c->failure, CTL_CODE(VERSION), "the service (%s) "
		    "speaks protocol %u and this shedctl (" VERSION ") %u; "
		    "install the same version of both", reply->version,
		    reply->protocol, PROTOCOL);
		return 0;
	}
	c->greeted = true;
	return 1;
}

static bool
is_lost(int error)
{
	return error == -ECONNRESET || error == -EPIPE ||
	    error == -ECONNREFUSED || error == -ENOENT || error == -EAGAIN;
}

/* After a loss: wait a little.  False when that was enough. */
static bool
try_again(struct client *c)
{
	int pause = TRY_PAUSE_MS;
	int64_t now = client_now_ms();

	if (c->tries == 0)
		c->lost_ms = now;
	for (int i = 0; i < c->tries && pause < TRY_PAUSE_MAX_MS; i++)
		pause *= 2;
	if (pause > TRY_PAUSE_MAX_MS)
		pause = TRY_PAUSE_MAX_MS;
	if (++c->tries > TRIES_MAX ||
	    now + pause - c->lost_ms > client_tries_ms)
		return false;
	poll(NULL, 0, pause);
	return true;
}

/* One attempt.  *sent: the request may have arrived. */
static int
client_attempt(struct client *c, const struct call *call, struct answer *out,
    bool *sent)
{
	int r;

	if (c->fd < 0) {
		r = client_connect(c);
		if (r < 0)
			return r;
	}
	if (!c->greeted) {
		r = client_greet(c);
		if (r <= 0)
			return r;
	}
	*sent = true;
	r = frame_write(c, call->type, call->body, call->fd);
	/* a service that refuses may answer and close without reading it all */
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		return r;
	return client_wait(c, call, out);
}

enum status
client_call(struct client *c, const struct call *call, struct answer *out)
{
	bool sent = false;
	int r;

	for (;;) {
		r = client_attempt(c, call, out, &sent);
		if (r > 0)
			c->tries = 0;
		if (r >= 0)
			return r > 0 ? STATUS_DONE : STATUS_FAILED;
		answer_done(out);
		client_close(c);
		if (c->connections == 0)
			return fail_unreached(c, r);
		if (!is_lost(r) || (sent && !call->again) || !try_again(c))
			return fail_errno(c, r);
	}
}

int
client_follow(struct client *c)
{
	_cleanup_free_ void *arena = NULL;
	struct part part = { 0 };
	_cleanup_close_ int fd = -1;
	int r = frame_read(c, FOREVER, &part, &fd);

	arena = part.arena;
	if (r < 0) {
		client_close(c);
		return r;
	}
	client_aside(c, part.frame);
	return 0;
}

void
client_wait_end(struct client *c)
{
	int64_t until = client_now_ms() + client_answer_ms;
	char byte;

	while (read_all(c, &byte, 1, until, NULL) == 0)
		continue;
}
