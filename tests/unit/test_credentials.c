// SPDX-License-Identifier: Apache-2.0
/* What devd's parent holds for registries, whatever its control process says. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/own.h"
#include "base/shm.h"
#include "devd/devd.h"

/* 1, 0 or -errno, of a sealed memfd with that text. */
static int
set(const char *host, const char *text, bool fresh)
{
	_cleanup_close_ int fd = shm_sealed("test", text, strlen(text));

	assert_true(fd >= 0);
	return credentials_set(host, fd, fresh);
}

static const struct credentials *
of(const char *host)
{
	const struct credentials *c;

	for (size_t i = 0; (c = credentials_at(i)); i++)
		if (strcmp(c->host, host) == 0)
			return c;
	return NULL;
}

static void
holds(const char *host, const char *text, bool fresh)
{
	const struct credentials *c = of(host);
	char got[16] = "";

	assert_non_null(c);
	assert_int_equal(pread(c->fd, got, sizeof(got) - 1, 0), strlen(text));
	assert_string_equal(got, text);
	assert_int_equal(c->fresh, fresh);
}

static void
test_the_latest_of_a_host_is_held(void **state)
{
	(void)state;
	assert_int_equal(set("a", "1", true), 1);
	assert_int_equal(set("b", "2", false), 1);
	assert_int_equal(set("a", "3", false), 1);
	holds("a", "3", false);
	holds("b", "2", false);
	assert_int_equal(set("b", "4", true), 1);
	holds("b", "4", true);
	credentials_known();
	holds("b", "4", false);
	assert_int_equal(set("a", "", true), 0);
	assert_int_equal(set("a", "", true), 0);
	assert_null(of("a"));
	holds("b", "4", false);
	assert_int_equal(set("b", "", true), 0);
	assert_null(credentials_at(0));
}

static void
test_nothing_else_is_held(void **state)
{
	_cleanup_close_ int open_ = memfd_create("test", MFD_CLOEXEC);
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	static char big[IPC_CREDENTIALS_MAX + 1], host[300];
	_cleanup_close_ int fd = -1;

	(void)state;
	memset(big, 'x', sizeof(big));
	memset(host, 'h', sizeof(host) - 1);
	fd = shm_sealed("test", big, sizeof(big));
	assert_int_equal(credentials_set("a", open_, true), -EPROTO);
	assert_int_equal(credentials_set("a", null, true), -EPROTO);
	assert_int_equal(credentials_set("a", -1, true), -EPROTO);
	assert_int_equal(credentials_set("a", fd, true), -EFBIG);
	assert_int_equal(set("", "x", true), -EINVAL);
	assert_int_equal(set("a\nb", "x", true), -EINVAL);
	assert_int_equal(set(host, "x", true), -EINVAL);
	assert_null(credentials_at(0));
}

static void
test_64_hosts_are_held(void **state)
{
	char host[16];

	(void)state;
	for (int i = 0; i < 64; i++) {
		snprintf(host, sizeof(host), "h%d", i);
		assert_int_equal(set(host, "x", true), 1);
	}
	assert_int_equal(set("more", "x", true), -ENOSPC);
	assert_int_equal(set("h7", "y", true), 1);
	assert_int_equal(set("h3", "", true), 0);
	assert_int_equal(set("more", "x", true), 1);
	holds("h7", "y", true);
	holds("h63", "x", true);
	assert_null(of("h3"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_latest_of_a_host_is_held),
		cmocka_unit_test(test_nothing_else_is_held),
		cmocka_unit_test(test_64_hosts_are_held),
	};

	handover_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
