/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the registries of test_fetch_host.h wrote down of the requests they got:
 * no credential went to a wrong host, and the requests and bytes that fetcherd
 * reported are those that were served.
 */
#ifndef TESTS_UNIT_TEST_FETCH_LOG_H
#define TESTS_UNIT_TEST_FETCH_LOG_H

#include "test_fetch_host.h"

/* Calls each(), if not NULL, for every line, which is a request: their number. */
static inline unsigned
log_each(const struct registry *reg, void (*each)(const json_t *j, void *arg),
    void *arg)
{
	_cleanup_fclose_ FILE *f = fopen(reg->log, "r");
	char *line = NULL;
	size_t size = 0;
	unsigned n = 0;

	assert_non_null(f);
	while (getline(&line, &size, f) > 0) {
		json_t *j = json_loads(line, 0, NULL);

		assert_non_null(j);
		if (each)
			each(j, arg);
		n++;
		json_decref(j);
	}
	free(line);
	return n;
}

/* What came with a request, or NULL. */
static inline const char *
log_credentials(const json_t *j)
{
	return json_string_value(json_object_get(json_object_get(j, "headers"),
	    "Authorization"));
}

/* Requests that fetcherd did not report: they ended with their link. */
static unsigned unreported;

/* ---- what every test of fetcherd ends with ---- */

static inline bool
starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* One line of a registry's log: no secret where it does not belong. */
static inline void
check_line(const struct registry *reg, const json_t *j)
{
	const char *role = json_string_value(json_object_get(j, "role"));
	const char *path = json_string_value(json_object_get(j, "path"));
	const json_t *headers = json_object_get(j, "headers");
	const char *auth = log_credentials(j);
	const char *agent = json_string_value(json_object_get(headers,
	    "User-Agent"));
	const char *host = json_string_value(json_object_get(headers, "Host"));

	assert_true(agent && starts(agent, "shedstream/"));
	assert_null(json_object_get(headers, "Cookie"));
	if (strcmp(role, "plain") == 0)
		fail_msg("%s: something came over plain HTTP: %s", reg->name,
		    path);
	if (!auth)
		return;
	assert_null(strstr(path, "back=1"));
	if (starts(auth, "Basic ") && strcmp(role, "other") == 0)
		assert_true(starts(path, "/token"));
	else
		assert_string_equal(host, reg->host);
	assert_true(reg == &priv || starts(auth, "Bearer ") ||
	    (reg == &tls && starts(path, "/token")));
}

struct served {
	const struct registry *reg;
	unsigned requests;
	uint64_t bytes;
};

static inline void
check_request(const json_t *j, void *arg)
{
	struct served *s = arg;

	check_line(s->reg, j);
	s->requests++;
	s->bytes += (uint64_t)json_integer_value(json_object_get(j, "sent"));
}

static inline void
test_the_logs_agree(void **state)
{
	const struct registry *const all[] = { &plain, &priv, &tls };
	struct served s = { 0 };

	(void)state;
	sleep(1);
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		s.reg = all[i];
		log_each(all[i], check_request, &s);
	}
	print_message("   %u requests served, %u reported; %llu bytes served, "
	    "%llu reported\n", s.requests, total_requests,
	    (unsigned long long)s.bytes, (unsigned long long)total_bytes);
	assert_int_equal(s.requests, total_requests + unreported);
	/* bodies that were refused unread were sent in part */
	assert_true(total_bytes <= s.bytes);
}

#endif
