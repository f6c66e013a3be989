// SPDX-License-Identifier: Apache-2.0
/*
 * A network link of a chosen round trip and rate, in front of a TCP server on
 * this machine: for tests of what a far or a slow registry does.
 *
 *	link --listen 127.0.0.1:0 --to HOST:PORT --rtt MS --rate MBIT [--queue KB]
 *
 * prints "listening PORT", and then obeys lines on its standard input:
 *
 *	rate MBIT	from now on; 0 stalls the link, "inf" is no limit
 *	rtt MS		from now on, for what is sent from now on
 *	stats		bytes and busy time of both directions
 *
 * each answered by one line, "N done", where N counts the lines; behind it
 * stands what stats has to say.
 *
 * All connections share one link, which has two directions of the same rate:
 *
 *	sender --> queue --> rate --> half a round trip --> receiver
 *	   ^         at most Q bytes                            |
 *	   +------------- half a round trip <-------------------+
 *
 * The queue is first in, first out, as a router's is.  A connection's sender
 * keeps at most W bytes unacknowledged (its TCP window), and one that finds the
 * queue full waits, and takes turns with the others: nothing is lost.  Q is
 * --queue, by default the larger of 256 KiB and rate x round trip; W is Q plus
 * rate x round trip.  A connection's first byte leaves a round trip after it was
 * accepted (the handshake), and what one end learns of the other's end it learns
 * half a round trip later: till then a sender goes on, and that costs the link.
 *
 * Not simulated: loss, slow start, reordering, and a connect that is refused (it
 * succeeds, and is reset).  The buffers of the two sockets of each connection
 * lie outside the link.
 *
 * One thread.  A piece of a connection's bytes goes from list to list:
 *
 *	queue (waits for the rate) -> flight (has a time to arrive) ->
 *	half.out (the receiver's socket is full) -> acks (has a time, too)
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KIB		1024
#define MS		INT64_C(1000000)	/* in nanoseconds, as all times */
#define PIECE_NS	(MS / 10)	/* a piece takes the rate so long, but */
#define PIECE_MIN	1448		/* has a segment's payload at least, */
#define PIECE_MAX	(128 * KIB)	/* and at most so much */
#define TURN		(64 * KIB)	/* Linux hands a card so much at once */
#define QUEUE_MIN	(256 * KIB)
#define WINDOW_INF	(8 * KIB * KIB)	/* where there is no rate to multiply */
#define SOCKET_BUFFER	(512 * KIB)
#define RTT_MOST_MS	60000
#define RATE_MOST	1e6		/* Mbit/s */
#define IOV_PIECES	64
#define EVENTS		64

enum way { UP, DOWN };			/* to the server, to the client */
enum end { CLIENT, SERVER };

struct piece {
	STAILQ_ENTRY(piece) link;
	struct conn *conn;
	int64_t at;			/* came; then arrives; then is acked */
	size_t len, written;
	bool end, reset;		/* of the stream, behind these bytes */
	uint8_t bytes[];
};
STAILQ_HEAD(pieces, piece);

/* One direction of a connection. */
struct half {
	struct pieces out;		/* arrived, and not taken yet */
	size_t unacked;
	bool readable, writable, blocked;
	bool ended;			/* nothing more comes from the sender */
	bool broken;			/* the receiver is gone: discard */
	bool done;			/* the receiver was told the end */
};

struct conn {
	TAILQ_ENTRY(conn) link;
	int fd[2];			/* by enum end; -1: closed */
	int64_t open_at;		/* the handshake is done */
	struct half half[2];		/* by enum way */
	unsigned int pieces;		/* that name this connection */
};
static TAILQ_HEAD(conn_list, conn) conns = TAILQ_HEAD_INITIALIZER(conns);

static struct way_state {
	struct pieces queue, flight, acks;
	size_t queued;			/* bytes in queue */
	int64_t clock;			/* the rate is free from here on */
	uint64_t bytes;
	int64_t busy;
} ways[2];

/* The link.  rate is bytes a nanosecond; 0 stalls, and INFINITE is no limit. */
#define INFINITE	1e9
static double rate;
static int64_t rtt;
static size_t queue_wish, queue_most, window, quantum;
static uint64_t accepted;

static struct sockaddr_storage target;
static socklen_t target_len;
static int poller, listener;

static int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 * MS + t.tv_nsec;
}

static void
die(const char *what)
{
	fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct half *
receiving(struct piece *p, enum way way)
{
	return &p->conn->half[way];
}

/* The ends that a direction reads from and writes to. */
static enum end
from_end(enum way way)
{
	return way == UP ? CLIENT : SERVER;
}

static enum end
to_end(enum way way)
{
	return way == UP ? SERVER : CLIENT;
}

/* ---- the link's figures ---- */

static void
figures(void)
{
	double product = rate * (double)rtt;

	if (rate == 0)
		return;		/* a stall: windows stay as they were */
	if (rate == INFINITE || product > WINDOW_INF * 16.0)
		product = WINDOW_INF;
	queue_most = queue_wish;
	if (queue_most == 0)
		queue_most = product > QUEUE_MIN ? (size_t)product : QUEUE_MIN;
	window = queue_most + (size_t)product;
	quantum = PIECE_MAX;
	if (rate < (double)PIECE_MAX / PIECE_NS)
		quantum = (size_t)(rate * PIECE_NS);
	if (quantum < PIECE_MIN)
		quantum = PIECE_MIN;
}

static int64_t
duration(size_t bytes)
{
	return rate == INFINITE ? 0 : (int64_t)((double)bytes / rate);
}

/* ---- pieces ---- */

static void
conn_drop_piece(struct piece *p)
{
	struct conn *c = p->conn;

	free(p);
	assert(c->pieces > 0);
	if (--c->pieces == 0 && c->fd[CLIENT] < 0)
		free(c);
}

static struct piece *
pop(struct pieces *list)
{
	struct piece *p = STAILQ_FIRST(list);

	STAILQ_REMOVE_HEAD(list, link);
	return p;
}

/* A piece of the sender's bytes, or its end, enters the queue. */
static void
enqueue(struct conn *c, enum way way, struct piece *p, int64_t now)
{
	p->conn = c;
	p->at = now;
	p->written = 0;
	c->pieces++;
	c->half[way].unacked += p->len;
	ways[way].queued += p->len;
	STAILQ_INSERT_TAIL(&ways[way].queue, p, link);
}

static void
enqueue_reset(struct conn *c, enum way way, int64_t now)
{
	struct piece *p = calloc(1, sizeof(*p));

	if (!p)
		die("memory");
	c->half[way].ended = true;
	p->reset = true;
	enqueue(c, way, p, now);
}

/* ---- connections ---- */

static void
conn_close(struct conn *c, bool reset)
{
	struct linger abort = { .l_onoff = 1 };

	for (int e = 0; e < 2; e++) {
		if (reset)
			setsockopt(c->fd[e], SOL_SOCKET, SO_LINGER, &abort,
			    sizeof(abort));
		close(c->fd[e]);
		c->fd[e] = -1;
	}
	TAILQ_REMOVE(&conns, c, link);
	for (int way = 0; way < 2; way++) {
		c->pieces++;		/* c stays till the loop's end */
		while (!STAILQ_EMPTY(&c->half[way].out))
			conn_drop_piece(pop(&c->half[way].out));
		c->pieces--;
	}
	if (c->pieces == 0)
		free(c);
}

static void
watch(struct conn *c, enum end end)
{
	/* which connection and which of its ends: pointers are even */
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP |
	    EPOLLET, .data.u64 = (uint64_t)(uintptr_t)c | (uint64_t)end };
	int one = 1, size = SOCKET_BUFFER;

	setsockopt(c->fd[end], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(c->fd[end], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd[end], &ev) < 0)
		die("epoll_ctl");
}

static void
conn_accept(int64_t now)
{
	int fd, size = SOCKET_BUFFER;
	struct conn *c;

	while ((fd = accept4(listener, NULL, NULL,
	    SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (!(c = calloc(1, sizeof(*c))))
			die("memory");
		c->fd[CLIENT] = fd;
		c->fd[SERVER] = socket(target.ss_family,
		    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (c->fd[SERVER] < 0)
			die("socket");
		STAILQ_INIT(&c->half[UP].out);
		STAILQ_INIT(&c->half[DOWN].out);
		c->open_at = now + rtt;
		setsockopt(c->fd[SERVER], SOL_SOCKET, SO_RCVBUF, &size,
		    sizeof(size));
		/* what comes of it shows when the socket is read */
		(void)connect(c->fd[SERVER], (struct sockaddr *)&target,
		    target_len);
		TAILQ_INSERT_TAIL(&conns, c, link);
		watch(c, CLIENT);
		watch(c, SERVER);
		accepted++;
	}
}

/* ---- from the sender to the queue ---- */

/* Takes one piece of that direction; was there something? */
static bool
take_piece(struct conn *c, enum way way, int64_t now)
{
	struct half *h = &c->half[way];
	struct piece *p;
	ssize_t n;

	if (!h->readable || h->ended || now < c->open_at)
		return false;
	/* in larger steps than a piece, for fewer wakes */
	if (h->blocked && h->unacked > window - window / 16)
		return false;
	h->blocked = h->unacked + quantum > window;
	if (h->blocked)
		return false;
	if (!(p = malloc(sizeof(*p) + quantum)))
		die("memory");
	n = recv(c->fd[from_end(way)], p->bytes, quantum, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		h->readable = errno == EINTR;
		free(p);
		return h->readable;
	}
	p->len = n < 0 ? 0 : (size_t)n;
	p->end = n == 0;
	p->reset = n < 0;
	h->ended = n <= 0;
	enqueue(c, way, p, now);
	return true;
}

static bool
take_turn(struct conn *c, enum way way, int64_t now)
{
	size_t most = ways[way].queued + TURN;
	bool any = false;

	if (most > queue_most)
		most = queue_most;
	while (ways[way].queued < most && take_piece(c, way, now))
		any = true;
	return any;
}

/* Senders with something to send take turns: an answer that is short comes in
 * one burst, as from a warm connection, and not mixed with all others. */
static void
admit(enum way way, int64_t now)
{
	struct conn *c, *next, *last;
	bool any = true;

	while (any && ways[way].queued < queue_most) {
		any = false;
		last = TAILQ_LAST(&conns, conn_list);
		for (c = TAILQ_FIRST(&conns); c; c = next) {
			next = c == last ? NULL : TAILQ_NEXT(c, link);
			if (ways[way].queued >= queue_most)
				return;
			if (!take_turn(c, way, now))
				continue;
			any = true;
			TAILQ_REMOVE(&conns, c, link);
			TAILQ_INSERT_TAIL(&conns, c, link);
		}
	}
}

/* ---- through the rate ---- */

static int64_t
leaves_at(const struct way_state *w, const struct piece *p)
{
	return (w->clock > p->at ? w->clock : p->at) + duration(p->len);
}

static void
serialise(struct way_state *w, int64_t now)
{
	struct piece *p;
	int64_t at;

	while (rate > 0 && (p = STAILQ_FIRST(&w->queue))) {
		at = leaves_at(w, p);
		if (at > now)
			break;
		pop(&w->queue);
		w->queued -= p->len;
		w->bytes += p->len;
		w->busy += duration(p->len);
		w->clock = at;
		p->at = at + rtt / 2;
		STAILQ_INSERT_TAIL(&w->flight, p, link);
	}
}

/* ---- to the receiver ---- */

/* The end of the stream, where nothing stands before it any more; the
 * connection may be gone then. */
static void
finish(struct conn *c, enum way way)
{
	struct half *h = &c->half[way];
	struct piece *p = STAILQ_FIRST(&h->out);
	bool reset;

	/* a socket that still connects can't be told of an end */
	if (!p || p->len > 0 || (p->end && !h->writable && !h->broken))
		return;
	reset = p->reset;
	if (p->end)
		shutdown(c->fd[to_end(way)], SHUT_WR);
	h->done = true;
	c->pieces++;
	conn_drop_piece(pop(&h->out));
	c->pieces--;
	if (reset || (c->half[UP].done && c->half[DOWN].done))
		conn_close(c, reset);
}

static void
written(struct conn *c, enum way way, size_t n, int64_t now)
{
	struct half *h = &c->half[way];
	struct piece *p;
	size_t part;

	while (n > 0) {
		p = STAILQ_FIRST(&h->out);
		part = p->len - p->written < n ? p->len - p->written : n;
		p->written += part;
		n -= part;
		if (p->written < p->len)
			return;
		pop(&h->out);
		p->at = now + rtt / 2;
		STAILQ_INSERT_TAIL(&ways[way].acks, p, link);
	}
}

/* A receiver that is gone acknowledges nothing. */
static void
discard(struct conn *c, enum way way)
{
	struct half *h = &c->half[way];
	struct piece *p;

	while ((p = STAILQ_FIRST(&h->out)) && p->len > 0)
		conn_drop_piece(pop(&h->out));
}

static void
deliver(struct conn *c, enum way way, int64_t now)
{
	struct half *h = &c->half[way];
	struct iovec iov[IOV_PIECES];
	struct msghdr msg = { .msg_iov = iov };
	struct piece *p;
	ssize_t n;

	while (h->writable && !h->broken) {
		msg.msg_iovlen = 0;
		STAILQ_FOREACH(p, &h->out, link) {
			if (p->len == 0 || msg.msg_iovlen == IOV_PIECES)
				break;
			iov[msg.msg_iovlen++] = (struct iovec){
			    p->bytes + p->written, p->len - p->written };
		}
		if (msg.msg_iovlen == 0)
			break;
		n = sendmsg(c->fd[to_end(way)], &msg, MSG_NOSIGNAL);
		if (n >= 0) {
			written(c, way, (size_t)n, now);
		} else if (errno == EAGAIN) {
			h->writable = false;
		} else if (errno != EINTR) {
			h->broken = true;
			enqueue_reset(c, !way, now);
		}
	}
	if (h->broken)
		discard(c, way);
	finish(c, way);
}

static void
arrive(enum way way, int64_t now)
{
	struct way_state *w = &ways[way];
	struct piece *p, *next;
	struct conn *c;

	while ((p = STAILQ_FIRST(&w->flight)) && p->at <= now) {
		c = p->conn;
		pop(&w->flight);
		if (c->fd[CLIENT] < 0) {
			conn_drop_piece(p);
			continue;
		}
		STAILQ_INSERT_TAIL(&receiving(p, way)->out, p, link);
		/* one write for all that come at once */
		next = STAILQ_FIRST(&w->flight);
		if (!next || next->at > now || next->conn != c)
			deliver(c, way, now);
	}
	while ((p = STAILQ_FIRST(&w->acks)) && p->at <= now) {
		pop(&w->acks);
		receiving(p, way)->unacked -= p->len;
		conn_drop_piece(p);
	}
}

/* ---- time ---- */

static void
sooner(int64_t *wake, int64_t at)
{
	if (at < *wake)
		*wake = at;
}

static int64_t
way_wakes(enum way way, int64_t now)
{
	struct way_state *w = &ways[way];
	int64_t wake = INT64_MAX;
	struct piece *p;
	struct conn *c;
	bool blocked = false;

	if ((p = STAILQ_FIRST(&w->flight)))
		sooner(&wake, p->at);
	else if (rate > 0 && (p = STAILQ_FIRST(&w->queue)))
		sooner(&wake, leaves_at(w, p) + rtt / 2);
	/* room in the queue: again in larger steps than a piece */
	if (rate > 0 && w->queued >= queue_most)
		sooner(&wake, w->clock + duration(w->queued - queue_most +
		    queue_most / 16));
	TAILQ_FOREACH(c, &conns, link) {
		blocked |= c->half[way].blocked && c->half[way].readable;
		if (c->open_at > now)
			sooner(&wake, c->open_at);
	}
	if (blocked && (p = STAILQ_FIRST(&w->acks)))
		sooner(&wake, p->at);
	return wake;
}

/* ---- orders ---- */

static bool
parse_rate(const char *text, double *value)
{
	char *end;
	double mbit = strtod(text, &end);

	if (strcmp(text, "inf") == 0) {
		*value = INFINITE;
		return true;
	}
	if (end == text || *end || !(mbit >= 0 && mbit <= RATE_MOST))
		return false;
	*value = mbit / 8000;	/* Mbit/s are 1/8000 of a byte per ns */
	return true;
}

static bool
parse_rtt(const char *text, int64_t *value)
{
	char *end;
	double ms = strtod(text, &end);

	if (end == text || *end || !(ms >= 0 && ms <= RTT_MOST_MS))
		return false;
	*value = (int64_t)(ms * (double)MS);
	return true;
}

static void
stats(int64_t now)
{
	struct conn *c;
	unsigned int open = 0;

	TAILQ_FOREACH(c, &conns, link)
		open++;
	printf(" {\"at_us\":%" PRId64 ",\"down\":%" PRIu64 ",\"up\":%" PRIu64
	    ",\"down_busy_us\":%" PRId64 ",\"up_busy_us\":%" PRId64
	    ",\"queued\":%zu,\"accepted\":%" PRIu64 ",\"open\":%u}",
	    now / 1000, ways[DOWN].bytes, ways[UP].bytes,
	    ways[DOWN].busy / 1000, ways[UP].busy / 1000, ways[DOWN].queued,
	    accepted, open);
}

static void
obey(char *line, int64_t now)
{
	static unsigned int count;
	char *value = strchr(line, ' ');
	bool fine = true;

	if (value)
		*value++ = '\0';
	/* what left at the old rate has left */
	serialise(&ways[UP], now);
	serialise(&ways[DOWN], now);
	printf("%u done", ++count);
	if (value && strcmp(line, "rate") == 0)
		fine = parse_rate(value, &rate);
	else if (value && strcmp(line, "rtt") == 0)
		fine = parse_rtt(value, &rtt);
	else if (strcmp(line, "stats") == 0)
		stats(now);
	else
		fine = false;
	puts(fine ? "" : " nothing: rate MBIT|inf, rtt MS or stats");
	for (int way = 0; way < 2; way++)
		if (ways[way].clock < now)
			ways[way].clock = now;
	figures();
}

static void
orders_readable(int64_t now)
{
	static char text[256];
	static size_t have;
	ssize_t n = read(STDIN_FILENO, text + have, sizeof(text) - 1 - have);
	char *end;

	if (n <= 0 || have + (size_t)n == sizeof(text) - 1) {
		epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
		return;
	}
	have += (size_t)n;
	text[have] = '\0';
	while ((end = strchr(text, '\n'))) {
		*end = '\0';
		obey(text, now);
		have -= (size_t)(end + 1 - text);
		memmove(text, end + 1, have + 1);
	}
}

/* ---- the loop ---- */

static void
conn_event(const struct epoll_event *ev, int64_t now)
{
	struct conn *c = (struct conn *)(uintptr_t)(ev->data.u64 & ~UINT64_C(1));
	enum end end = ev->data.u64 & 1;
	enum way in = end == CLIENT ? UP : DOWN, out = !in;

	if (ev->events & ~(uint32_t)EPOLLOUT)
		c->half[in].readable = true;
	if (ev->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		c->half[out].writable = true;
		deliver(c, out, now);
	}
}

/* A connection may end at any event of one of its sockets, and those of its
 * other one that wait behind it then name what is gone. */
static void
forget(struct epoll_event *ev, int n, const struct conn *c)
{
	for (int i = 0; i < n; i++)
		if ((ev[i].data.u64 & ~UINT64_C(1)) == (uintptr_t)c)
			ev[i].events = 0;
}

static bool
is_open(const struct conn *c)
{
	const struct conn *other;

	TAILQ_FOREACH(other, &conns, link)
		if (other == c)
			return true;
	return false;
}

static void
events(struct epoll_event *ev, int n, int64_t now)
{
	struct conn *c;

	for (int i = 0; i < n; i++) {
		c = (struct conn *)(uintptr_t)(ev[i].data.u64 & ~UINT64_C(1));
		if (ev[i].data.u64 == 0) {
			conn_accept(now);
		} else if (ev[i].data.u64 == 1) {
			orders_readable(now);
		} else if (ev[i].events) {
			conn_event(&ev[i], now);
			if (!is_open(c))
				forget(ev + i, n - i, c);
		}
	}
}

static void
run(void)
{
	struct epoll_event ev[EVENTS];
	int64_t now, wake, other;
	struct timespec wait;
	int n;

	for (;;) {
		now = now_ns();
		for (int way = 0; way < 2; way++) {
			serialise(&ways[way], now);
			arrive(way, now);
			admit(way, now);
			serialise(&ways[way], now);
			arrive(way, now);
		}
		wake = way_wakes(UP, now);
		other = way_wakes(DOWN, now);
		sooner(&wake, other);
		now = now_ns();
		wake = wake < now ? 0 : wake - now;
		wait = (struct timespec){ wake / (1000 * MS),
		    wake % (1000 * MS) };
		n = epoll_pwait2(poller, ev, EVENTS, &wait, NULL);
		if (n < 0 && errno != EINTR)
			die("epoll_pwait2");
		events(ev, n, now_ns());
	}
}

/* ---- start ---- */

static socklen_t
address(const char *text, struct sockaddr_storage *ss)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	char host[256];
	const char *colon = strrchr(text, ':');
	socklen_t len;

	if (!colon || (size_t)(colon - text) >= sizeof(host))
		return 0;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	if (getaddrinfo(host, colon + 1, &hints, &list) != 0)
		return 0;
	len = list->ai_addrlen;
	memcpy(ss, list->ai_addr, len);
	freeaddrinfo(list);
	return len;
}

static void
listen_on(const struct sockaddr_storage *ss, socklen_t len)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct sockaddr_in at;
	socklen_t at_len = sizeof(at);
	int one = 1;

	poller = epoll_create1(EPOLL_CLOEXEC);
	listener = socket(ss->ss_family,
	    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (poller < 0 || listener < 0)
		die("socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (const struct sockaddr *)ss, len) < 0 ||
	    listen(listener, SOMAXCONN) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &at_len) < 0 ||
	    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &ev) < 0)
		die("listen");
	/* a regular file has no events, and no orders either */
	ev.data.u64 = 1;
	epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &ev);
	printf("listening %u\n", ntohs(at.sin_port));
}

static void
usage(void)
{
	fprintf(stderr, "usage: link --listen HOST:PORT --to HOST:PORT"
	    " --rtt MS --rate MBIT|inf [--queue KB]\n");
	exit(2);
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "listen", required_argument, NULL, 'l' },
		{ "to", required_argument, NULL, 't' },
		{ "rtt", required_argument, NULL, 'd' },
		{ "rate", required_argument, NULL, 'r' },
		{ "queue", required_argument, NULL, 'q' },
		{ 0 }
	};
	struct sockaddr_storage at;
	socklen_t at_len = 0;
	bool fine = true, has_rtt = false, has_rate = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'l')
			fine = (at_len = address(optarg, &at)) > 0;
		else if (c == 't')
			fine = (target_len = address(optarg, &target)) > 0;
		else if (c == 'd')
			fine = has_rtt = parse_rtt(optarg, &rtt);
		else if (c == 'r')
			fine = has_rate = parse_rate(optarg, &rate);
		else if (c == 'q')
			fine = (queue_wish = strtoul(optarg, NULL, 10) * KIB) >=
			    PIECE_MAX;
		else
			fine = false;
		if (!fine)
			usage();
	}
	if (optind != argc || !at_len || !target_len || !has_rtt || !has_rate ||
	    rate == 0)
		usage();
	for (int way = 0; way < 2; way++) {
		STAILQ_INIT(&ways[way].queue);
		STAILQ_INIT(&ways[way].flight);
		STAILQ_INIT(&ways[way].acks);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	prctl(PR_SET_TIMERSLACK, 1);
	figures();
	listen_on(&at, at_len);
	run();
}
