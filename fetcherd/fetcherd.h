/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetcherd, the only process on the network: what its files say to each other,
 * in sections by file, from the pure ones up.
 *
 *	main.c		policy, message tables, start
 *	request.c	one Resolve, Stat, Referrers or Fetch: the states of an
 *			attempt
 *	check.c		what a request may ask, what a response head means
 *	transfer.c	one HTTP exchange: curl on libevent
 *	auth.c		tokens: asked for once, however many wait
 *	secret.c	auth files and token answers (pure); secret.h
 *	site.c		a registry host or a mirror of it: scheme, trust,
 *			credentials
 *	redirect.c	where a registry may send us, and where it did
 *	realm.c		token servers: which, and what they are asked (pure)
 *	guard.c		classes of addresses (pure)
 *	proxy.c		which hosts go past the proxy (pure)
 *	head.c		response heads (pure)
 *	referrers.c	lists of referrers (pure)
 *	failure.c	codes and sentences of what went wrong
 */
#ifndef FETCHERD_FETCHERD_H
#define FETCHERD_FETCHERD_H

#include <sys/queue.h>
#include <sys/socket.h>

#include <curl/curl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/conf.h"
#include "base/digest.h"
#include "base/own.h"
#include "base/times.h"
#include "fetcherd/secret.h"
#include "ipc/ipc.h"
#include "ipc/parent.h"

struct event_base;

/* ---- times and limits ---- */

/* TIME_CONNECT_MS and TIME_IDLE_MS: base/times.h. */
#define TIME_TARGET_S		600	/* a redirect target is remembered: shorter
					 * than any registry signs one for */
#define TIME_TOKEN_MARGIN_S	10	/* not used so shortly before it expires */
#define TIME_TOKEN_USED_S	60	/* used within: renewed before that */
#define TIME_TOKEN_AGAIN_S	1	/* between attempts at that */
#define TIME_WARM_S		300	/* an idle connection is used again: past
					 * what servers and NATs keep one for */
#define TIME_PROBE_S		30	/* idle: is the other end there (keepalive)?
					 * A NAT forgets after some minutes. */
#define TIME_TOKEN_DEFAULT_S	60	/* the token specification's default */
#define TIME_TOKEN_MAX_S	86400
#define TIME_RETRY_AFTER_MAX_S	3600	/* a registry may not silence us longer */

#define HEAD_MAX		(64 * 1024)	/* bytes of one response's heads */
#define SKIP_MAX		(64 * 1024)	/* of a body read only to keep its
						 * connection */
#define TOKEN_JSON_MAX		(256 * 1024)
#define TOKEN_MAX		(16 * 1024)	/* must fit a request head */
#define REFERRERS_JSON_MAX	(256 * 1024)	/* as a manifest, which its tag
						 * fall-back is */
#define REFERRERS_MAX		16	/* handed on; an image has one or two */
#define ARTIFACT_TYPE_MAX	255	/* as a media type: RFC 6838 */
#define PIECES_MAX		(IPC_BODY_MAX / 2)	/* no frame holds more: one of
						 * 128 bytes or more takes 2 */
#define AUTH_FILE_MAX		(256 * 1024)
#define CA_FILE_MAX		(4 * 1024 * 1024)	/* Debian's bundle: 220 KiB */
#define CERT_FILE_MAX		(256 * 1024)	/* a chain, or a key: some KiB */
#define URL_MAX			(8 * 1024)	/* signed ones have 1-2 KiB */
#define HOST_MAX		255
#define REPO_MAX		255	/* as the OCI specification advises */
#define REDIRECTS_MAX		5
#define HTTP2_BODY_MAX		(1024 * 1024)	/* larger: HTTP/1.1, see transfer.c */
#define CONNECTIONS_HOST	64	/* to one host, of demand: cached asks for fewer */
#define CONNECTIONS_BACKGROUND	16	/* and of the rest, a sixth of its window each */
#define CONNECTIONS		96
#define QUEUE_HIGH		(1024 * 1024)	/* bytes cached has not taken; then
						 * transfers pause */
#define REQUESTS_MAX		1024	/* in flight; cached plans far fewer */
#define SITES_MAX		1280	/* hosts, and mirrors: all that may be
					 * configured, and some */
#define TOKENS_MAX		64	/* repositories of one host */
#define TARGETS_MAX		256	/* remembered redirect targets */
#define FAILURE_TEXT_MAX	512

/* ---- failure.c ---- */

/* Why an attempt failed, as FetchDone says it. */
struct failure {
	int code;		/* CTL_CODE() */
	bool retry;
	uint32_t http_status;
	uint32_t retry_after_s;
	char text[FAILURE_TEXT_MAX];
};

/* A sentence; it never says "not found", "already exists" or "not running",
 * which shed takes for something else. */
void failure_set(struct failure *f, int code, bool retry, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* An exchange with `host` that curl ended; where: "HOST/REPO". */
void failure_of_curl(struct failure *f, CURLcode why, const char *error,
    const char *where, const char *host);
struct outcome;
/* The exchange failed at its proxy, or with the proxy's 407: true, and that is
 * the failure. */
bool failure_of_proxy(struct failure *f, const struct outcome *o,
    const char *where);
/* A status that is no answer. */
void failure_of_status(struct failure *f, int status, uint32_t retry_after_s,
    const char *where, const char *host);

/* ---- head.c ---- */

enum head_field {
	HEAD_LOCATION,
	HEAD_CONTENT_RANGE,
	HEAD_CONTENT_TYPE,
	HEAD_CONTENT_ENCODING,
	HEAD_CONTENT_LENGTH,
	HEAD_RETRY_AFTER,
	HEAD_CHALLENGE,		/* WWW-Authenticate */
	HEAD_DIGEST,		/* Docker-Content-Digest */
	HEAD_FIELDS,
};

struct head {
	int status;
	/* NULL: absent.  One that comes twice is joined by ", ", so that
	 * whatever must be single then fails to parse. */
	char *field[HEAD_FIELDS];
};

/* One line of a response head, with or without its end of line.  A status line
 * starts afresh.  1: the head is whole, 0: not yet, -ENOMEM. */
int head_line(struct head *h, const char *line, size_t len);
void head_done(struct head *h);

/* A decimal number and nothing else.  0 or -EINVAL. */
int head_number(const char *text, uint64_t *out);

struct content_range {
	uint64_t first, last, total;
};
/* "bytes FIRST-LAST/TOTAL", all three given and in order; or -EINVAL. */
int head_content_range(const char *text, struct content_range *out);

/* Seconds or an HTTP date, bounded by TIME_RETRY_AFTER_MAX_S; -EINVAL. */
int head_retry_after(const char *text, time_t now, uint32_t *seconds);

enum challenge_scheme { CHALLENGE_NONE, CHALLENGE_BASIC, CHALLENGE_BEARER };

struct challenge {
	enum challenge_scheme scheme;
	char realm[2048];
	char service[256];
	char scope[1024];
};
/* The strongest of the schemes we speak: Bearer, Basic, or -ENOTSUP.  -EINVAL
 * if it can't be read, -EMSGSIZE if a parameter is longer than above. */
int head_challenge(const char *text, struct challenge *out);

/* ---- referrers.c ---- */

#define MEDIA_TYPE_INDEX	"application/vnd.oci.image.index.v1+json"

struct referring {
	struct digest digest[REFERRERS_MAX];
	size_t n;
};

/* The first REFERRERS_MAX of an image index's manifests with that artifactType,
 * in its order and each once; those whose digest is no sha256 are passed over.
 * 0, or -EINVAL: it is no such index, or longer than REFERRERS_JSON_MAX. */
int referrers_parse(const void *json, size_t len, const char *type,
    struct referring *out);

/* ---- guard.c ---- */

enum address_class {
	ADDRESS_PUBLIC,
	ADDRESS_LOOPBACK,
	ADDRESS_PRIVATE,	/* RFC 1918, ULA, CGNAT */
	ADDRESS_LINK_LOCAL,
	ADDRESS_NEVER,		/* multicast, unspecified, reserved */
};

/* Whom a transfer may reach. */
struct guard {
	bool own;		/* the registry itself or a configured proxy:
				 * wherever that is */
	enum address_class like;	/* else public, or like the registry */
};

/* IPv4 inside IPv6 (mapped, NAT64, 6to4) is judged as IPv4. */
enum address_class guard_class(const struct sockaddr *address);
/* Of a numeric address, brackets allowed.  -EINVAL: it is a name. */
int guard_text(const char *text, enum address_class *out);
bool guard_allows(const struct guard *guard, enum address_class class);
const char *guard_name(enum address_class class);
/* What a host says of itself, before anybody looks it up: numeric addresses, in
 * all spellings that inet_aton(3) takes, and localhost and *.localhost (RFC
 * 6761) are what they are, with or without dots at the end; any other name is
 * ADDRESS_PUBLIC.  For who can't see where a name leads, as behind a proxy. */
enum address_class guard_host(const char *host);
/* localhost, *.localhost or a loopback address, spelled so that no resolver
 * asks anybody for it: such a host is trusted with plain HTTP. */
bool guard_loopback_host(const char *host);

/* ---- proxy.c ---- */

/* Is this host (a name, or a numeric address, which may be in brackets) on the
 * list: names with all below them, addresses, networks as ADDRESS/BITS, or "*";
 * commas or blanks between.  NULL: an empty list. */
bool proxy_exempt(const char *list, const char *host);
/* "HOST:PORT" of a proxy's URL, without the user in it; for sentences. */
#define PROXY_NAME_MAX	(HOST_MAX + 8)
void proxy_name(const char *url, char name[PROXY_NAME_MAX]);
/* Is there a user in the URL? */
bool proxy_has_user(const char *url);

/* ---- redirect.c ---- */

struct origin {
	char scheme[8];
	char host[HOST_MAX + 1];
	uint16_t port;
};

/* Scheme, host and port of an http or https URL.  -EINVAL: it is none, or has
 * a user in it. */
int redirect_origin(const char *url, struct origin *out);
bool redirect_same(const struct origin *a, const struct origin *b);
/* `location` as seen from `base`, absolute (caller frees).  -EINVAL if it is
 * no http or https URL, has a user in it or is too long. */
int redirect_resolve(const char *base, const char *location, char **out);

struct site;
/* Where this blob's bytes were last redirected to, or NULL; the string lives
 * until the next call of one of these three. */
const char *redirect_recall(const struct site *site, const char *repo,
    const char *digest);
void redirect_remember(const struct site *site, const char *repo,
    const char *digest, const char *url);
void redirect_forget(const struct site *site, const char *repo,
    const char *digest);

/* ---- realm.c: token servers ---- */

/* May a registry's credentials go to a token server there?  By https always; by
 * http if the registry speaks that, and both are one host or loopback. */
bool realm_allowed(const struct origin *registry, const struct origin *realm);
/* REALM?service=SERVICE&scope=SCOPE, with the realm as seen from base (caller
 * frees).  -ENOMEM; -EINVAL: the realm is no URL that may be asked. */
int realm_url(const char *base, const struct challenge *c, const char *scope,
    char **out);

/* ---- site.c ---- */

struct token;

/* Certificates or a key, in PEM form, held as long as a transfer may look at
 * them, and wiped behind that. */
struct pem {
	unsigned refs;
	size_t len;
	char text[];
};

struct site {
	LIST_ENTRY(site) entry;
	uint64_t id;		/* never given twice */
	char *host;		/* as images name it */
	char *mirror;		/* URL of this mirror of it, as configured;
				 * NULL: the registry itself */
	char *query;		/* of a mirror: "ns=HOST", which says whose */
	/* Whose [registry] section counts: its own; of a mirror that of the
	 * HOST[:PORT] in its URL, never that of the registry. */
	struct site *section;
	char *base;		/* "https://HOST[:PORT]", or a mirror's URL */
	struct origin origin;	/* of base */
	bool insecure;
	bool proven;		/* it answered under this scheme */
	enum address_class class;	/* of where it answered */
	struct pem *ca;		/* to trust in all; NULL: the system's */
	/* handed over for its section */
	struct pem *own_ca, *cert, *key;
	struct credentials credentials;
	bool news;		/* of these: cached is to be told */
	bool basic;		/* it asked for Basic */
	unsigned users;		/* requests */
	unsigned n_tokens;
	LIST_HEAD(, token) tokens;
};

/* The site of HOST[:PORT], or that of its mirror with that URL ("": itself),
 * made at first sight.  -EINVAL: no such host can exist; -EPERM: the
 * configuration lists no such mirror of this host; -ENOMEM. */
int site_get(const char *host, const char *mirror, struct site **out);
void site_conf(struct conf *conf);	/* taken */
/* The URL of the proxy by which to go there; "": none. */
const char *site_proxy(const struct origin *to);
const struct pem *site_network_ca(void);	/* NULL: none */
/* Those of its section; none, without a user, where site_withholds(). */
const struct credentials *site_credentials(const struct site *site);
/* It is a mirror, and its section has credentials that were given for another
 * origin than the one in its URL: they do not go there. */
bool site_withholds(const struct site *site);
/* It is to have a client certificate, and what was handed over is none. */
bool site_lacks_cert(const struct site *site);
/* Its credentials from now on; fd, which is taken, is empty where there are to
 * be none any more.  from: enum auth_from. */
void site_auth(const char *host, int fd, uint32_t from);
/* Calls told() once for each site whose credentials were set just now. */
void site_news(void (*told)(const char *host));
void site_ca(const char *host, int fd);		/* taken; "": for all */
void site_cert(const char *host, int fd);	/* taken; certificates */
void site_key(const char *host, int fd);	/* taken; their key */
/* It answered, at such an address. */
void site_answered(struct site *site, enum address_class class);
/* It can't be reached by HTTPS and may be by HTTP: true, and so it is from
 * now on. */
bool site_fall_back(struct site *site);
void pem_release(struct pem *pem);

/* ---- transfer.c ---- */

/* What is sent.  The strings are copied. */
struct exchange {
	struct site *site;	/* whose registry leads there */
	const char *url;
	struct guard guard;
	const char *authorization;	/* header value, or NULL */
	const char *accept;		/* likewise */
	const char *range;		/* "FIRST-LAST", or NULL */
	uint64_t body;		/* bytes that the answer's may have */
	bool background;
	bool fresh;		/* by a new connection */
};

enum verdict {
	BODY_TAKE,		/* hand it to body() */
	BODY_SKIP,		/* read and drop it */
	BODY_REFUSE,		/* don't read it */
};

enum taken {
	TAKEN,
	TAKEN_LATER,		/* pause until transfer_resume() */
	TAKEN_NEVER,		/* end the transfer */
};

/* How it ended. */
struct outcome {
	CURLcode curl;
	bool stopped;		/* by head() or body(), or a skipped body that
				 * was too long */
	bool stalled;		/* TIME_IDLE_MS without a byte */
	bool head_too_long;
	bool refused;		/* the guard did, an address of this class */
	enum address_class class;
	const char *error;	/* curl's words */
	unsigned requests;
	uint64_t body_bytes;
	uint64_t rtt_us;	/* from sending the request to the first byte of
				 * its answer; 0: none came */
	bool warm;		/* by a connection that was there before */
	bool by_proxy;
	bool by_socks;		/* of SOCKS: what that does is CURLE_PROXY, and
				 * what comes behind is not its own */
	char proxy[PROXY_NAME_MAX];
	bool proxy_known;	/* its URL has a user and password */
	int proxy_status;	/* its answer to CONNECT; 0: none */
	bool proxy_untrusted;	/* its certificate was the reason */
};

/* head() and body() run inside curl: no transfer may be started, ended or
 * freed there.  done() runs outside; the transfer is freed behind it.  class:
 * of the address that answered. */
struct transfer_ops {
	enum verdict (*head)(void *owner, const struct head *head,
	    enum address_class class);
	enum taken (*body)(void *owner, const void *data, size_t len);
	void (*done)(void *owner, const struct outcome *outcome);
};

struct transfer;

void transfer_init(struct event_base *base);
/* NULL without memory. */
struct transfer *transfer_start(const struct exchange *x,
    const struct transfer_ops *ops, void *owner);
/* Ends it; done() does not come.  What it had cost is added. */
void transfer_cancel(struct transfer *t, unsigned *requests,
    uint64_t *body_bytes);
/* All that were paused go on. */
void transfer_resume(void);

/* Microseconds of a clock that only goes forward. */
static inline uint64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- auth.c ---- */

/* A request that waits for a token; part of its owner. */
struct auth_waiter {
	TAILQ_ENTRY(auth_waiter) entry;
	struct token *token;	/* NULL: it does not wait */
	/* The token has come (NULL) or why not.  Not called from inside
	 * auth_prepare() or auth_challenged(). */
	void (*ready)(struct auth_waiter *w, const struct failure *why);
	unsigned requests;	/* what the token has cost this waiter */
	uint64_t body_bytes;
};

enum auth_answer {
	AUTH_GO,
	AUTH_WAIT,		/* ready() will be called */
	AUTH_FAILED,		/* the failure is set */
};

void auth_init(struct event_base *base);
/* What to send to the site for this repository: AUTH_GO with a header value
 * (caller: secret_free) or NULL. */
enum auth_answer auth_prepare(struct site *site, const char *repo,
    struct auth_waiter *w, char **header, struct failure *f);
/* The site answered 401 to `sent` (or NULL); or 403, without a challenge, to
 * `sent`, which may be out of date. */
enum auth_answer auth_challenged(struct site *site, const char *repo,
    const char *challenge, const char *sent, struct auth_waiter *w,
    struct failure *f);
/* The sentence for who we are being not enough, at the site or its token
 * server. */
void auth_denied(const struct site *site, const char *repo,
    const char *server, struct failure *f);
/* It refused even that. */
void auth_refused(struct site *site, const char *repo);
void auth_cancel(struct auth_waiter *w);
/* All that the site has given us: its credentials changed. */
void auth_forget(struct site *site);

/* ---- request.c ---- */

enum request_kind {
	REQUEST_RESOLVE,
	REQUEST_STAT,
	REQUEST_REFERRERS,
	REQUEST_FETCH,
};

enum step {		/* when the exchange is over */
	STEP_NONE,		/* there was no head */
	STEP_FAIL,
	STEP_ANSWER,		/* the head alone was the answer */
	STEP_BODY,		/* the whole body is needed */
	STEP_CHALLENGE,
	STEP_REDIRECT,
	STEP_RESOLVE_AGAIN,	/* the remembered target is no longer good */
	STEP_BY_TAG,		/* there is no referrers API: ask for its tag */
};

struct request {
	LIST_ENTRY(request) entry;
	struct ipc_link *link;
	uint64_t id;
	enum request_kind kind;
	struct site *site;
	char *repo;
	char *reference;	/* tag or digest */
	char where[64 + HOST_MAX + REPO_MAX];	/* for sentences */
	char *artifact_type;	/* of REQUEST_REFERRERS */
	uint64_t offset, length, size;
	uint32_t unit;		/* 0: by pieces */
	uint32_t *pieces;	/* bytes of each Data */
	size_t n_pieces;
	bool plain, background, fresh;

	/* the attempt */
	char *seen[REDIRECTS_MAX + 1];	/* where it was sent, in order */
	unsigned n_seen;
	struct origin at;	/* of the last of them */
	bool at_registry;	/* that is the registry itself */
	bool strayed;		/* the registry sent it to another origin */
	bool recalled;		/* it began at a remembered target, */
	bool resolved_again;	/* which was no longer good */
	bool challenged;	/* the one challenge was answered */
	bool fell_back;		/* from HTTPS to HTTP */
	bool by_tag;		/* referrers: from the API to the tag */
	char *sent;		/* Authorization; secret */
	struct transfer *transfer;
	struct auth_waiter waiter;

	/* the response */
	enum step step;
	char *text;		/* Location or challenge */
	uint8_t *body;		/* of a manifest, or one piece */
	size_t have, piece;	/* bytes in it, and its number */
	uint64_t got;		/* body bytes of the answer */
	bool too_long;
	char *media_type, *claimed;	/* of a manifest */
	struct referring referring;
	struct failure failure;

	uint64_t started, first_byte;
	uint64_t body_bytes;
	unsigned requests;
	uint64_t rtt_us;	/* of the last exchange, */
	bool warm;		/* and how it went */
	uint64_t blob_size;	/* Stat's answer */
	bool range_ok;
};

/* Each ends with exactly one FetchDone, whatever happens to it. */
void request_resolve(struct ipc_link *link, uint64_t id,
    const Suite__Resolve *msg);
void request_stat(struct ipc_link *link, uint64_t id, const Suite__Stat *msg);
void request_referrers(struct ipc_link *link, uint64_t id,
    const Suite__Referrers *msg);
void request_fetch(struct ipc_link *link, uint64_t id,
    const Suite__Fetch *msg);
void request_cancel(struct ipc_link *link, uint64_t id);
/* The link is over: end everything, silently. */
void request_cancel_all(void);

/* ---- check.c ---- */

/* Do its names and numbers make sense?  They come from a person. */
bool check_request(const struct request *r);
/* What this head means; sets r->failure for STEP_FAIL, and blob_size,
 * range_ok, media_type and claimed where they are the answer. */
enum step check_head(struct request *r, const struct head *h);

#endif
