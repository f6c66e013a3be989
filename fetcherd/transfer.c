// SPDX-License-Identifier: Apache-2.0
/*
 * One HTTP exchange: curl's multi interface driven by libevent.  curl gets one
 * request to send and one response to read; redirects, authorization and
 * retries are request.c's.  Here is what holds for every exchange: http and
 * https only, the guard on each address, bounded heads, no proxy or .netrc
 * from the environment, no bytes for TIME_IDLE_MS is the end.
 *
 *	start --connected--> (guard) --sent--> HEAD --head()--> BODY --> done
 *	                                        ^ 1xx |    pause ^ | resume
 *	                                        +-----+          +-+
 *
 * Demand and background have a pool of connections each, so that a demand read
 * never queues behind a background range.  They share what names were looked up
 * as, and TLS sessions (8 of them, by curl's own bound).  No locks are needed:
 * curl touches both in this thread only.  Its resolver's threads call
 * getaddrinfo() and leave the answer to be taken from here.
 *
 * What curl 7.88 does, and is relied on here:
 * - Where a server offers HTTP/2 by TLS, requests share one connection (a new
 *   multi handle multiplexes), up to 100 or what the server allows; then there
 *   is another.  CURLOPT_PIPEWAIT would save some at a cold start, but makes
 *   all wait while the first hangs, one after the other.
 * - At the bound of a host or of all, a transfer queues inside curl, first come
 *   first served, without a time limit: TIME_CONNECT_MS begins at its turn.
 * - A kept connection that turns out to be dead before a byte came is replaced,
 *   up to five times, without telling us.  Of HTTP/2, its TLS session is then
 *   given up: what comes next shakes hands in full (no longer, but dearer).
 * - A stream of HTTP/2 can't be held back: the server may send 32 MiB ahead on
 *   each, and what comes while we pause is kept in memory.  So it is for demand
 *   and short answers; what is long, or can wait, has a connection of HTTP/1.1,
 *   which TCP holds back.
 * - Those 32 MiB are the windows of stream and connection (SETTINGS and the
 *   first WINDOW_UPDATE, as sent), so that they limit no answer: 1 MiB over a
 *   round trip of 100 ms and 1 Gbit/s took 109 ms on a warm connection, by
 *   HTTP/1.1 as well.
 * - curl_easy_upkeep() reaches no connection of a multi handle: there are no
 *   pings of HTTP/2, and TCP's keepalive has to do.
 */
#define _GNU_SOURCE
#include <sys/socket.h>

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "fetcherd/fetcherd.h"

struct pool {
	CURLM *multi;
	struct event *timer;
};

struct transfer {
	LIST_ENTRY(transfer) entry;
	CURL *easy;
	struct pool *pool;
	struct curl_slist *headers;
	struct pem *pems[4];	/* what curl was given, until the end */
	size_t n_pems;
	struct event *idle;
	const struct transfer_ops *ops;
	void *owner;
	struct guard guard;
	enum address_class literal;	/* of the URL's host, through a proxy */
	uint64_t sent;		/* now_us() */
	struct head head;
	size_t head_bytes, skipped;
	bool head_whole, skip, paused;
	struct outcome out;
	char error[CURL_ERROR_SIZE];
};

static struct event_base *base;
static struct pool demand, background;
static CURLSH *share;
static LIST_HEAD(, transfer) transfers = LIST_HEAD_INITIALIZER(transfers);

/* ---- one transfer's end ---- */

static void
headers_free(struct curl_slist *list)
{
	for (struct curl_slist *l = list; l; l = l->next)
		explicit_bzero(l->data, strlen(l->data));
	curl_slist_free_all(list);
}

static void
transfer_free(struct transfer *t)
{
	LIST_REMOVE(t, entry);
	if (t->easy) {
		curl_multi_remove_handle(t->pool->multi, t->easy);
		curl_easy_cleanup(t->easy);
	}
	headers_free(t->headers);
	for (size_t i = 0; i < t->n_pems; i++)
		pem_release(t->pems[i]);
	if (t->idle)
		event_free(t->idle);
	head_done(&t->head);
	free(t);
}

/* What curl knows of how it went. */
static void
outcome_ask(struct transfer *t)
{
	long connects = 0, status = 0, verify = 0;

	curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connects);
	curl_easy_getinfo(t->easy, CURLINFO_HTTP_CONNECTCODE, &status);
	curl_easy_getinfo(t->easy, CURLINFO_PROXY_SSL_VERIFYRESULT, &verify);
	t->out.warm = t->out.requests > 0 && connects == 0;
	t->out.proxy_status = (int)status;
	t->out.proxy_untrusted = verify != 0;
}

static void
transfer_over(struct transfer *t, CURLcode why)
{
	outcome_ask(t);
	t->out.curl = why;
	t->out.error = t->error[0] ? t->error : curl_easy_strerror(why);
	t->ops->done(t->owner, &t->out);
	transfer_free(t);
}

void
transfer_cancel(struct transfer *t, unsigned *requests, uint64_t *body_bytes)
{
	*requests += t->out.requests;
	*body_bytes += t->out.body_bytes;
	transfer_free(t);
}

static void
pool_check(struct pool *pool)
{
	struct transfer *t;
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(pool->multi, &left))) {
		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &t);
		transfer_over(t, msg->data.result);
	}
}

static void
idle_due(evutil_socket_t fd, short what, void *arg)
{
	struct transfer *t = arg;

	(void)fd;
	(void)what;
	t->out.stalled = !t->out.refused;
	transfer_over(t, CURLE_OPERATION_TIMEDOUT);
}

/* A byte came. */
static void
idle_again(struct transfer *t)
{
	static const struct timeval limit = { TIME_IDLE_MS / 1000,
		TIME_IDLE_MS % 1000 * 1000 };

	event_add(t->idle, &limit);
}

/* ---- curl's callbacks on one transfer ---- */

static bool
guard_check(struct transfer *t, enum address_class class)
{
	struct guard proxy = { .own = true };

	if (guard_allows(t->out.by_proxy ? &proxy : &t->guard, class)) {
		t->out.class = t->out.by_proxy ? t->literal : class;
		return true;
	}
	t->out.refused = true;
	t->out.class = class;
	return false;
}

static curl_socket_t
on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	/* Bytes that nobody acknowledges end the connection as silence ends a
	 * transfer: one of HTTP/2 outlives its transfers, and the kernel would
	 * try for a quarter of an hour. */
	unsigned limit_ms = TIME_IDLE_MS;
	struct transfer *t = arg;
	int fd;

	(void)purpose;
	if (!guard_check(t, guard_class(&address->addr)))
		return CURL_SOCKET_BAD;
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC |
	    SOCK_NONBLOCK, address->protocol);
	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms,
		    sizeof(limit_ms));
	return fd;
}

/* The request is about to go out, maybe on a connection that another transfer
 * opened under another guard. */
static int
on_connected(void *arg, char *ip, char *local, int port, int local_port)
{
	struct transfer *t = arg;
	enum address_class class;

	(void)local;
	(void)port;
	(void)local_port;
	if (guard_text(ip, &class) < 0 || !guard_check(t, class)) {
		t->out.refused = true;
		return CURL_PREREQFUNC_ABORT;
	}
	t->out.refused = false;		/* another address was fine */
	t->out.requests++;	/* again if curl finds a kept connection dead */
	t->sent = now_us();
	idle_again(t);
	return CURL_PREREQFUNC_OK;
}

static size_t
on_head_line(char *line, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t len = size * n;
	int r;

	idle_again(t);
	if (t->out.rtt_us == 0)
		t->out.rtt_us = now_us() - t->sent + 1;
	t->head_bytes += len;
	if (t->head_bytes > HEAD_MAX) {
		t->out.head_too_long = true;
		return 0;
	}
	if (t->head_whole)
		return len;		/* trailers */
	r = head_line(&t->head, line, len);
	if (r < 0)
		return 0;
	if (r == 0 || t->head.status < 200)
		return len;
	t->head_whole = true;
	switch (t->ops->head(t->owner, &t->head, t->out.class)) {
	case BODY_TAKE:
		return len;
	case BODY_SKIP:
		t->skip = true;
		return len;
	case BODY_REFUSE:
		break;
	}
	t->out.stopped = true;
	return 0;
}

static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t len = size * n;

	idle_again(t);
	if (t->skip) {
		t->out.body_bytes += len;
		t->skipped += len;
		if (t->skipped <= SKIP_MAX)
			return len;
	} else if (t->head_whole) {
		switch (t->ops->body(t->owner, data, len)) {
		case TAKEN:
			t->out.body_bytes += len;
			return len;
		case TAKEN_LATER:
			t->paused = true;
			event_del(t->idle);
			return CURL_WRITEFUNC_PAUSE;
		case TAKEN_NEVER:
			t->out.body_bytes += len;
			break;
		}
	}
	t->out.stopped = true;
	return 0;
}

/* ---- curl on libevent ---- */

static void
socket_ready(evutil_socket_t fd, short what, void *arg)
{
	struct pool *pool = arg;
	int running;

	curl_multi_socket_action(pool->multi, fd,
	    (what & EV_READ ? CURL_CSELECT_IN : 0) |
	    (what & EV_WRITE ? CURL_CSELECT_OUT : 0), &running);
	pool_check(pool);
}

static void
timer_due(evutil_socket_t fd, short what, void *arg)
{
	struct pool *pool = arg;
	int running;

	(void)fd;
	(void)what;
	curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0,
	    &running);
	pool_check(pool);
}

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *old)
{
	struct pool *pool = arg;
	struct event *event = old;
	short events = EV_PERSIST;

	(void)easy;
	if (event)
		event_free(event);
	event = NULL;
	if (what != CURL_POLL_REMOVE) {
		if (what & CURL_POLL_IN)
			events |= EV_READ;
		if (what & CURL_POLL_OUT)
			events |= EV_WRITE;
		event = event_new(base, fd, events, socket_ready, pool);
		if (!event || event_add(event, NULL) < 0)
			log_die("no memory for a connection's event");
	}
	curl_multi_assign(pool->multi, fd, event);
	return 0;
}

static int
on_timer(CURLM *multi, long ms, void *arg)
{
	struct pool *pool = arg;
	struct timeval due = { ms / 1000, ms % 1000 * 1000 };

	(void)multi;
	if (ms < 0)
		event_del(pool->timer);
	else
		event_add(pool->timer, &due);
	return 0;
}

static void
pool_init(struct pool *pool, long host, long total)
{
	pool->multi = curl_multi_init();
	pool->timer = evtimer_new(base, timer_due, pool);
	if (!pool->multi || !pool->timer)
		log_die("no memory for curl");
	curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool);
	curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool);
	curl_multi_setopt(pool->multi, CURLMOPT_MAX_HOST_CONNECTIONS, host);
	curl_multi_setopt(pool->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, total);
	curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, total);
}

static void
share_init(void)
{
	share = curl_share_init();
	if (!share || curl_share_setopt(share, CURLSHOPT_SHARE,
	    CURL_LOCK_DATA_DNS) != CURLSHE_OK || curl_share_setopt(share,
	    CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION) != CURLSHE_OK)
		log_die("no memory for curl");
}

void
transfer_init(struct event_base *event_base)
{
	base = event_base;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		log_die("curl can't be initialised");
	share_init();
	pool_init(&demand, CONNECTIONS_HOST, CONNECTIONS * 3 / 4);
	pool_init(&background, CONNECTIONS_BACKGROUND, CONNECTIONS / 4);
}

/* ---- starting one ---- */

static int
header_add(struct transfer *t, const char *name, const char *value)
{
	struct curl_slist *list;
	char *line;

	if (asprintf(&line, "%s: %s", name, value) < 0)
		return -ENOMEM;
	list = curl_slist_append(t->headers, line);
	secret_free(line);
	if (!list)
		return -ENOMEM;
	t->headers = list;
	return 0;
}

static int
headers_make(struct transfer *t, const struct exchange *x)
{
	int r = header_add(t, "Accept-Encoding", "identity");

	if (r == 0 && x->accept)
		r = header_add(t, "Accept", x->accept);
	if (r == 0 && x->authorization)
		r = header_add(t, "Authorization", x->authorization);
	return r;
}

#define SET(option, value) \
	(failed |= curl_easy_setopt(t->easy, (option), (value)) != CURLE_OK)

/* What holds for every transfer. */
static bool
options_rules(struct transfer *t)
{
	bool failed = false;

	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);
	SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)TIME_CONNECT_MS);
	SET(CURLOPT_SHARE, share);
	SET(CURLOPT_TCP_NODELAY, 1L);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_TCP_KEEPIDLE, (long)TIME_PROBE_S);
	SET(CURLOPT_TCP_KEEPINTVL, (long)TIME_PROBE_S);
	SET(CURLOPT_MAXAGE_CONN, (long)TIME_WARM_S);
	SET(CURLOPT_BUFFERSIZE, 64L * 1024);
	SET(CURLOPT_USERAGENT, "shedstream/" VERSION);
	return failed;
}

static bool
options_callbacks(struct transfer *t)
{
	bool failed = false;

	SET(CURLOPT_PRIVATE, t);
	SET(CURLOPT_ERRORBUFFER, t->error);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
	SET(CURLOPT_OPENSOCKETDATA, t);
	SET(CURLOPT_PREREQFUNCTION, on_connected);
	SET(CURLOPT_PREREQDATA, t);
	SET(CURLOPT_HEADERFUNCTION, on_head_line);
	SET(CURLOPT_HEADERDATA, t);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, t);
	return failed;
}

/* Certificates or a key; NULL: curl's default. */
static bool
option_pem(struct transfer *t, CURLoption option, const struct pem *pem)
{
	struct curl_blob blob = { .flags = CURL_BLOB_NOCOPY };
	bool failed = false;

	if (!pem)
		return false;
	t->pems[t->n_pems] = (struct pem *)pem;
	t->pems[t->n_pems++]->refs++;
	blob.data = t->pems[t->n_pems - 1]->text;
	blob.len = pem->len;
	SET(option, &blob);
	return failed;
}

static bool
options_trust(struct transfer *t, const struct exchange *x)
{
	const struct site *section = x->site->section;
	bool failed = false;

	if (x->site->insecure && x->guard.own) {
		SET(CURLOPT_SSL_VERIFYPEER, 0L);
		SET(CURLOPT_SSL_VERIFYHOST, 0L);
	}
	/* who we are is shown to the site's own origin only; curl never lends
	 * a connection with a certificate to a transfer without it */
	if (x->guard.own && section->cert && section->key) {
		failed |= option_pem(t, CURLOPT_SSLCERT_BLOB, section->cert);
		failed |= option_pem(t, CURLOPT_SSLKEY_BLOB, section->key);
		SET(CURLOPT_KEYPASSWD, "");	/* nobody is asked for one */
	}
	return failed | option_pem(t, CURLOPT_CAINFO_BLOB, x->site->ca);
}

/* How to get there.  Behind a proxy no address is seen; what the URL itself
 * says of it is. */
static bool
options_way(struct transfer *t, const struct exchange *x)
{
	struct origin to;
	const char *proxy = "";
	bool failed = false;

	t->literal = ADDRESS_NEVER;
	if (redirect_origin(x->url, &to) == 0) {
		proxy = site_proxy(&to);
		t->literal = guard_host(to.host);
	}
	SET(CURLOPT_PROXY, proxy);
	SET(CURLOPT_NOPROXY, "");	/* not from the environment either */
	t->out.by_proxy = *proxy != '\0';
	if (!t->out.by_proxy)
		return failed;
	t->out.by_socks = strncmp(proxy, "socks", 5) == 0;
	proxy_name(proxy, t->out.proxy);
	t->out.proxy_known = proxy_has_user(proxy);
	SET(CURLOPT_PROXY_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	return failed | option_pem(t, CURLOPT_PROXY_CAINFO_BLOB,
	    site_network_ca());
}

static bool
options_exchange(struct transfer *t, const struct exchange *x)
{
	bool failed = false;

	SET(CURLOPT_URL, x->url);
	SET(CURLOPT_HTTPHEADER, t->headers);
	SET(CURLOPT_RANGE, x->range);
	SET(CURLOPT_FRESH_CONNECT, (long)x->fresh);
	SET(CURLOPT_HTTP_VERSION, x->background || x->body > HTTP2_BODY_MAX ?
	    (long)CURL_HTTP_VERSION_1_1 : (long)CURL_HTTP_VERSION_2TLS);
	return failed | options_trust(t, x) | options_way(t, x);
}

struct transfer *
transfer_start(const struct exchange *x, const struct transfer_ops *ops,
    void *owner)
{
	struct transfer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	LIST_INSERT_HEAD(&transfers, t, entry);
	t->pool = x->background ? &background : &demand;
	t->guard = x->guard;
	t->ops = ops;
	t->owner = owner;
	t->idle = evtimer_new(base, idle_due, t);
	t->easy = curl_easy_init();
	if (!t->easy || !t->idle || headers_make(t, x) < 0 ||
	    options_rules(t) || options_callbacks(t) ||
	    options_exchange(t, x)) {
		transfer_free(t);
		return NULL;
	}
	if (t->out.by_proxy && !guard_allows(&t->guard, t->literal)) {
		/* told by done(), never from here */
		t->out.refused = true;
		t->out.class = t->literal;
		event_active(t->idle, EV_TIMEOUT, 0);
		return t;
	}
	if (curl_multi_add_handle(t->pool->multi, t->easy) != CURLM_OK) {
		transfer_free(t);
		return NULL;
	}
	return t;
}

void
transfer_resume(void)
{
	struct transfer *t, *next;

	for (t = LIST_FIRST(&transfers); t; t = next) {
		CURLcode r;

		next = LIST_NEXT(t, entry);
		if (!t->paused)
			continue;
		t->paused = false;
		idle_again(t);
		/* hands on what it had kept, in here */
		r = curl_easy_pause(t->easy, CURLPAUSE_CONT);
		if (r != CURLE_OK)
			transfer_over(t, r);
	}
}
