/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `shedpack push` says to a registry, in sections by file, from the
 * single exchange up.  Everything is synchronous, one request at a time.  The
 * parsers of heads, challenges, tokens and auth files, and the classes of
 * addresses, are fetcherd's.
 */
#ifndef SHEDPACK_REGISTRY_H
#define SHEDPACK_REGISTRY_H

#include "fetcherd/fetcherd.h"
#include "shedpack/shedpack.h"

/* ---- times and limits; those not here are fetcherd's ---- */

#define TRIES		5	/* of what may work the next time */
#define WAIT_FIRST_S	1	/* before the second try; doubled each time */
#define WAIT_MAX_S	60	/* a registry may not ask for more */
#define SILENCE_S	60	/* without a byte in either direction */
#define SILENCE_PUT_S	600	/* the same of a blob: some registries copy and
				 * hash it all before they answer */
#define ERROR_BODY_MAX	(16 * 1024)	/* of an answer that says why not */

struct registry {
	char host[HOST_MAX + 1];	/* as IMAGE names it */
	char repo[REPO_MAX + 1];
	char where[HOST_MAX + REPO_MAX + 2];	/* "HOST/REPO", for sentences */
	char base[16 + HOST_MAX];	/* "https://HOST" */
	struct origin origin;	/* of base */
	const char *ca;		/* a file; NULL: the system's */
	bool insecure;
	bool answered;		/* it has, at least once, */
	enum address_class class;	/* from there */
	struct credentials credentials;
	char *auth_file;	/* where those came from, or would have */
	char *authorization;	/* what it asked for; secret, or NULL */
	CURL *easy;
};

/* ---- http.c: one exchange ---- */

struct ask {
	const char *method;	/* GET, HEAD, POST or PUT */
	const char *url;
	const char *accept, *type;	/* header values, or NULL */
	const void *body;	/* of a PUT, */
	int fd;			/* or if it is NULL this file's, with bar */
	uint64_t len;
	size_t max;		/* bytes of the answer's body */
	bool once;		/* no tries: its caller begins further back */
};

struct reply {
	CURLcode curl;
	char error[CURL_ERROR_SIZE];	/* curl's words */
	struct head head;
	bool subject;		/* OCI-Subject: the subject was seen */
	char *body;		/* NUL behind it */
	size_t len;
	bool too_long;		/* the body or the heads */
	bool refused;		/* an address of this class was */
	enum address_class class;
	char *url;		/* that answered */
};

/* Send it to ask's url under the given guard.  What comes is in the reply,
 * which is emptied before.  0 or -ENOMEM. */
int http_exchange(struct registry *r, const struct ask *ask, const char *url,
    const char *authorization, const struct guard *guard,
    struct reply *reply);
void reply_done(struct reply *reply);

/* ---- login.c: who we are ---- */

/* Credentials of docker's config.json, if it has some. */
int login_load(struct registry *r, struct refusal *why);
/* The registry answered 401.  0: r->authorization is new; -EAGAIN: another
 * try may work. */
int login_challenged(struct registry *r, const char *challenge,
    struct refusal *why);
/* It refused even that. */
int login_refused(const struct registry *r, const char *server,
    struct refusal *why);

/* ---- registry.c: what is asked of it ---- */

struct document {
	char *text;		/* NUL behind it */
	size_t len;
	struct digest digest;
	char type[128];		/* media type */
};

int registry_open(struct registry *r, const char *host, const char *repo,
    const struct arguments *a, struct refusal *why);
void registry_done(struct registry *r);

/* The manifest of a tag or digest.  -ENOENT: there is none. */
int registry_get(struct registry *r, const char *reference,
    struct document *out, struct refusal *why);
void document_done(struct document *d);
/* *subject: the registry keeps the list of referrers itself. */
int registry_put(struct registry *r, const char *reference, const char *type,
    const char *text, bool *subject, struct refusal *why);
/* A blob of the layout, if it is not there yet. */
int registry_blob(struct registry *r, const struct layout *l,
    const struct layout_blob *b, struct refusal *why);

/* ---- ask.c: redirects, logins and tries ---- */

/* Ask until there is an answer, of any status that is final. */
int ask_registry(struct registry *r, const struct ask *ask,
    struct reply *reply, struct refusal *why);
/* Where the registry sent us from there, absolute (caller frees). */
int ask_location(const struct registry *r, const struct reply *reply,
    char **out, struct refusal *why);
/* A final status that is no answer to what was to be done. */
int ask_refused(const struct registry *r, const struct reply *reply,
    const char *what, struct refusal *why);
/* Wait before try number n + 1, saying why.  Refuses when interrupted. */
int ask_wait(unsigned n, const struct reply *reply, struct refusal *why);

#endif
