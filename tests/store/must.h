/* SPDX-License-Identifier: Apache-2.0 */
/* What a test's own machinery can't do without: else the program ends, and
 * says where and why. */
#ifndef TESTS_STORE_MUST_H
#define TESTS_STORE_MUST_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define must(ok)	must_(ok, #ok, __FILE__, __LINE__)

static inline void
must_(bool ok, const char *what, const char *file, int line)
{
	if (ok)
		return;
	fprintf(stderr, "%s:%d: not true: %s (%s)\n", file, line, what,
	    strerror(errno));
	abort();
}

/* No memory is an end, too. */
static inline void *
need(void *p)
{
	must(p != NULL);
	return p;
}

#endif
