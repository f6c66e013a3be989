// SPDX-License-Identifier: Apache-2.0
/*
 * Secrets: the credentials of a docker config.json (its `auths` only; helpers
 * are programs, and this process runs none) and the tokens of a token server.
 * Pure functions of bytes.  Whatever held a secret is wiped before it is given
 * back; curl's own copies in flight are beyond our reach.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/evp.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

#define FIELD_MAX	4096	/* bytes of a user name or password */

/* ---- memory that is wiped ---- */

struct block {
	size_t size;
	char bytes[] __attribute__((aligned(16)));
};

static void *
block_alloc(size_t size)
{
	struct block *b = malloc(sizeof(*b) + size);

	if (!b)
		return NULL;
	b->size = size;
	return b->bytes;
}

static void
block_free(void *p)
{
	struct block *b;

	if (!p)
		return;
	b = (struct block *)((char *)p - offsetof(struct block, bytes));
	explicit_bzero(b->bytes, b->size);
	free(b);
}

void
secret_init(void)
{
	json_set_alloc_funcs(block_alloc, block_free);
	json_object_seed(0);	/* now, while /dev/urandom can be opened */
}

void
secret_free(char *secret)
{
	if (!secret)
		return;
	explicit_bzero(secret, strlen(secret));
	free(secret);
}

void
secret_done(struct credentials *c)
{
	secret_free(c->user);
	secret_free(c->password);
	*c = (struct credentials){ 0 };
}

static void
json_release(json_t **j)
{
	json_decref(*j);
}

#define _cleanup_json_	_cleanup_(json_release)

/* ---- auth files ---- */

/* Does an entry's key ("HOST", "https://HOST/v1/") name this host? */
static bool
key_names(const char *key, const char *host)
{
	size_t len;

	if (strncmp(key, "https://", 8) == 0)
		key += 8;
	else if (strncmp(key, "http://", 7) == 0)
		key += 7;
	len = strcspn(key, "/");
	return len == strlen(host) && strncasecmp(key, host, len) == 0;
}

static const json_t *
entry_find(const json_t *auths, const char *host)
{
	/* Docker Hub has one entry, under its oldest name. */
	bool hub = strcmp(host, "docker.io") == 0 ||
	    strcmp(host, "registry-1.docker.io") == 0;
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)auths, key, value)
		if (key_names(key, host) ||
		    (hub && key_names(key, "index.docker.io")))
			return value;
	return NULL;
}

/* base64 of "USER:PASSWORD". */
static int
decode_auth(const char *text, struct credentials *c)
{
	size_t len = strlen(text), pad = 0;
	_cleanup_secret_ char *plain = NULL;
	char *colon;
	int n;

	if (len == 0 || len % 4 != 0 || len > 3 * FIELD_MAX)
		return -EINVAL;
	plain = calloc(1, len / 4 * 3 + 1);
	if (!plain)
		return -ENOMEM;
	while (pad < 2 && text[len - 1 - pad] == '=')
		pad++;
	n = EVP_DecodeBlock((unsigned char *)plain,
	    (const unsigned char *)text, (int)len);
	if (n < (int)pad)
		return -EINVAL;
	plain[(size_t)n - pad] = '\0';
	colon = strchr(plain, ':');
	if (!colon || strlen(plain) != (size_t)n - pad)
		return -EINVAL;
	*colon = '\0';
	c->user = strdup(plain);
	c->password = strdup(colon + 1);
	*colon = ':';		/* so that all of it is wiped */
	return c->user && c->password ? 0 : -ENOMEM;
}

static int
entry_read(const json_t *entry, struct credentials *c)
{
	const char *auth = json_string_value(json_object_get(entry, "auth"));
	const char *user = json_string_value(json_object_get(entry,
	    "username"));
	const char *password = json_string_value(json_object_get(entry,
	    "password"));
	const char *identity = json_string_value(json_object_get(entry,
	    "identitytoken"));

	if (identity && *identity)
		return -ENOTSUP;
	if (auth && *auth)
		return decode_auth(auth, c);
	if (!user || !password || strlen(user) > FIELD_MAX ||
	    strlen(password) > FIELD_MAX)
		return -ENOTSUP;
	c->user = strdup(user);
	c->password = strdup(password);
	return c->user && c->password ? 0 : -ENOMEM;
}

int
secret_auth_file(const char *json, size_t len, const char *host,
    struct credentials *c)
{
	_cleanup_json_ json_t *root = json_loadb(json, len,
	    JSON_REJECT_DUPLICATES, NULL);
	const json_t *auths = json_object_get(root, "auths"), *entry;
	const char *problem = NULL;
	int r;

	*c = (struct credentials){ 0 };
	entry = entry_find(auths, host);
	if (!json_is_object(auths)) {
		r = -EINVAL;
		problem = "its auth-file is no docker config.json with "
		    "auths; write one";
	} else if (!entry) {
		r = -ENOENT;
		problem = "its auth-file has no entry for it; add one";
	} else {
		r = entry_read(entry, c);
		if (json_object_get(entry, "identitytoken"))
			problem = "its auth-file holds an identity token, "
			    "which is not supported; put a user name and "
			    "password or access token there";
		else if (r < 0)
			problem = "its auth-file's entry holds no user name "
			    "and password; put them there, as credential "
			    "helpers are not run";
	}
	if (r < 0) {
		secret_done(c);
		snprintf(c->problem, sizeof(c->problem), "%s", problem);
	}
	return r;
}

char *
secret_basic(const struct credentials *c)
{
	_cleanup_secret_ char *plain = NULL;
	size_t len = strlen(c->user) + 1 + strlen(c->password);
	char *header = malloc(sizeof("Basic ") + (len + 2) / 3 * 4);

	if (!header || asprintf(&plain, "%s:%s", c->user, c->password) < 0) {
		plain = NULL;
		free(header);
		return NULL;
	}
	strcpy(header, "Basic ");
	EVP_EncodeBlock((unsigned char *)header + 6,
	    (const unsigned char *)plain, (int)len);
	return header;
}

/* ---- tokens ---- */

static bool
token_fits_header(const char *token)
{
	size_t len = strlen(token);

	if (len == 0 || len > TOKEN_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (token[i] <= 0x20 || token[i] >= 0x7f)
			return false;
	return true;
}

int
secret_token(const char *json, size_t len, char **token, uint32_t *seconds)
{
	_cleanup_json_ json_t *root = json_loadb(json, len, 0, NULL);
	const char *text = json_string_value(json_object_get(root, "token"));
	const json_t *life = json_object_get(root, "expires_in");
	json_int_t n = TIME_TOKEN_DEFAULT_S;

	if (!text || !*text)
		text = json_string_value(json_object_get(root,
		    "access_token"));
	if (!text || !token_fits_header(text))
		return -EINVAL;
	if (json_is_number(life)) {
		double d = json_number_value(life);

		n = d >= TIME_TOKEN_MAX_S ? TIME_TOKEN_MAX_S :
		    d >= 0 ? (json_int_t)d : 0;
	}
	*token = strdup(text);
	if (!*token)
		return -ENOMEM;
	*seconds = (uint32_t)n;
	return 0;
}
