// SPDX-License-Identifier: Apache-2.0
/*
 * JSON from outside: a token server's answer (first byte 0 modulo 3), an auth
 * file (1) and a list of referrers (2).  Links: fetcherd/{secret,head,
 * referrers}.c, jansson, libcrypto.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fetcherd/fetcherd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool is)
{
	if (!is)
		abort();
}

static void
one_token(const char *json, size_t size)
{
	uint32_t seconds;
	char *token;

	if (secret_token(json, size, &token, &seconds) < 0)
		return;
	check(strlen(token) > 0 && strlen(token) <= TOKEN_MAX);
	check(!strpbrk(token, " \r\n") && seconds <= TIME_TOKEN_MAX_S);
	secret_free(token);
}

static void
one_auth_file(const char *json, size_t size)
{
	struct credentials c;
	char *header;

	if (secret_auth_file(json, size, "h", &c) == 0) {
		check(c.user && c.password);
		header = secret_basic(&c);
		check(header && !strpbrk(header, "\r\n"));
		secret_free(header);
	} else {
		check(!c.user && !c.password && c.problem[0]);
	}
	secret_done(&c);
}

static void
one_referrers(const char *json, size_t size)
{
	struct referring list = { .n = 0 };

	if (referrers_parse(json, size, "a/b", &list) < 0)
		check(list.n == 0);
	check(list.n <= REFERRERS_MAX);
	for (size_t i = 0; i < list.n; i++)
		for (size_t k = 0; k < i; k++)
			check(!digest_equal(&list.digest[i], &list.digest[k]));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *json = (const char *)data + 1;

	if (size == 0)
		return 0;
	switch (data[0] % 3) {
	case 0:
		one_token(json, size - 1);
		break;
	case 1:
		one_auth_file(json, size - 1);
		break;
	default:
		one_referrers(json, size - 1);
	}
	return 0;
}
