/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets and their memory: secret.c.  For every program that has some. */
#ifndef FETCHERD_SECRET_H
#define FETCHERD_SECRET_H

#include <stddef.h>
#include <stdint.h>

#include "base/own.h"

struct credentials {
	char *user, *password;
	char problem[192];	/* why there are none, for a sentence */
};

/* free(), but wiped before; NULL is fine. */
void secret_free(char *secret);
static inline void
secret_release(char **secret)
{
	secret_free(*secret);
}
#define _cleanup_secret_ _cleanup_(secret_release)
void secret_done(struct credentials *c);
/* The entry of `host` in a docker config.json.  0; -ENOENT: none; -EINVAL: not
 * such a file; -ENOTSUP: what it has is no user and password (c->problem). */
int secret_auth_file(const char *json, size_t len, const char *host,
    struct credentials *c);
/* "Basic ..." (caller: secret_free), or NULL without memory. */
char *secret_basic(const struct credentials *c);
/* A token server's answer: the token (caller: secret_free), which is fit for a
 * header, and its life.  0, -EINVAL, -ENOMEM. */
int secret_token(const char *json, size_t len, char **token,
    uint32_t *seconds);
/* jansson's memory is wiped too. */
void secret_init(void);

#endif
