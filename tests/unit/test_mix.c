// SPDX-License-Identifier: Apache-2.0
/*
 * The mix of everything (tests/store/mix.h) against a real cached, which is
 * killed again and again.  make check builds both with AddressSanitizer.
 *
 *	MIX_SECONDS=60 MIX_KILLS=24 SEED=N MIX_CACHED=PATH test_mix
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/store/mix.h"

#define SECONDS	60
#define KILLS	24
#define MIB	(1024 * 1024)
#define SLACK	MIB
/* AddressSanitizer keeps 256 MiB of what was freed, and a byte of its own for each
 * eight; ThreadSanitizer's own memory hides cached's. */
#if defined(__SANITIZE_ADDRESS__)
#define MEMORY_MAX ((64 + 256) * MIB / 8 * 9)
#elif defined(__SANITIZE_THREAD__)
#define MEMORY_MAX 0
#else
#define MEMORY_MAX (64 * MIB)
#endif

static struct mix mix;

static uint64_t
number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void
failed(const char *why)
{
	mix_failed(&mix, "test_mix");
	fail_msg("%s", why);
}

static void
test_everything_at_once_and_kills(void **state)
{
	struct reg *reg = mix_registry();
	const char *program = getenv("MIX_CACHED");

	(void)state;
	mix = (struct mix){ .seed = number("SEED", (uint64_t)time(NULL)),
		.slack = SLACK, .fault_ms = 800,
		.seconds = (double)number("MIX_SECONDS", SECONDS),
		.kills = (unsigned)number("MIX_KILLS", KILLS),
		.memory_max = program ? 0 : MEMORY_MAX };
	host_on_fail = failed;
	mix.h = host_new(reg, program, mix_conf);
	host_start(mix.h);
	mix_run(&mix);
	mix_print(&mix);
	fprintf(stderr, "NOTE: %" PRIu64 " kills, %" PRIu64 " KiB fetched "
	    "again\n", mix.killed, mix.lost / 1024);
	host_free(mix.h);
	registry_free(reg);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything_at_once_and_kills),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
