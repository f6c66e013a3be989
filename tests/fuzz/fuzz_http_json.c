// SPDX-License-Identifier: Apache-2.0
/*
 * JSON from outside: a token server's answer (first byte even) and an auth
 * file (odd).  Links: fetcherd/{secret,head}.c, jansson, libcrypto.
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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 2 == 0)
		one_token((const char *)data + 1, size - 1);
	else
		one_auth_file((const char *)data + 1, size - 1);
	return 0;
}
