// SPDX-License-Identifier: Apache-2.0
/*
 * Response heads as a registry sends them: lines into struct head, and each
 * field on through the parser that reads it.  What a parser accepts must keep
 * its own promises.  Links: fetcherd/{head,guard,redirect}.c, libcurl.
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
check_fields(const struct head *h)
{
	struct content_range range;
	struct challenge challenge;
	struct origin origin;
	uint32_t seconds;
	uint64_t n;
	char *url;

	if (h->field[HEAD_CONTENT_RANGE] &&
	    head_content_range(h->field[HEAD_CONTENT_RANGE], &range) == 0)
		check(range.first <= range.last && range.last < range.total);
	if (h->field[HEAD_RETRY_AFTER] &&
	    head_retry_after(h->field[HEAD_RETRY_AFTER], 0, &seconds) == 0)
		check(seconds <= TIME_RETRY_AFTER_MAX_S);
	if (h->field[HEAD_CONTENT_LENGTH])
		(void)head_number(h->field[HEAD_CONTENT_LENGTH], &n);
	if (h->field[HEAD_CHALLENGE] &&
	    head_challenge(h->field[HEAD_CHALLENGE], &challenge) == 0)
		check(challenge.scheme != CHALLENGE_NONE &&
		    strlen(challenge.realm) < sizeof(challenge.realm) &&
		    !strchr(challenge.scope, '\n'));
	if (h->field[HEAD_LOCATION] && redirect_resolve("https://h/v2/r",
	    h->field[HEAD_LOCATION], &url) == 0) {
		check(redirect_origin(url, &origin) == 0);
		check(strncmp(url, "http", 4) == 0);
		check(!strpbrk(url, "\r\n"));
		free(url);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct head h = { 0 };

	while (size > 0) {
		const uint8_t *end = memchr(data, '\n', size);
		size_t len = end ? (size_t)(end - data) + 1 : size;

		if (head_line(&h, (const char *)data, len) == 1)
			check_fields(&h);
		data += len;
		size -= len;
	}
	check_fields(&h);
	head_done(&h);
	return 0;
}
