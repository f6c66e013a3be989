// SPDX-License-Identifier: Apache-2.0
/*
 * What a device's reads get in an outage, as clients of the control process ask
 * for it and see it; health and doctor.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "test_control_device.h"

#define EIO_CONF	"[network]\non-outage = eio\noutage-delay = 45\n"

/* A new control with another configuration; devices come back. */
static void
restart(struct host *h, const char *conf)
{
	host_kill(h);
	h->conf = conf;
	host_begin(h);
	host_go(h);
}

static void
ask_attach(struct user *u, uint32_t on_outage, uint32_t delay_s)
{
	CTL(Attach) m = CTL_INIT(ATTACH);

	m.image = (char *)IMAGE;
	m.on_outage = (CTL(OnOutage))on_outage;
	m.outage_delay_s = delay_s;
	user_ask(u, CTL_BODY(ATTACH), &m);
}

static void
opens(struct host *h, struct digest *key)
{
	Suite__Opened m = opened(key, CTL_RUNG(CHUNK));

	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
}

/* A new device with that policy: what its spec says of it. */
static uint32_t
attached_with(struct host *h, struct user *u, struct digest *key,
    uint32_t on_outage, uint32_t delay_s)
{
	struct device_spec spec;

	ask_attach(u, on_outage, delay_s);
	opens(h, key);
	spec = host_hear(h, CHILD_CREATE).device;
	host_device(h, &spec);
	hears(u, CTL_BODY(ATTACHED));
	return spec.eio_after_s;
}

/* What cached tells of one layout. */
static void
tells(struct host *h, uint64_t stalled_reads, uint64_t since, bool failed)
{
	_cleanup_frame_ Suite__Frame *f = host_asked(h, SUITE_BODY(INSPECT));
	Suite__Layout m = SUITE__LAYOUT__INIT;

	m.layout = f->inspect->layout;
	m.stalled_reads = stalled_reads;
	m.stalled_since = since;
	m.reads_eio = 7;
	m.failed = failed;
	m.last_error = (char *)"reg.example does not answer";
	host_say(h, f->id, SUITE_BODY(LAYOUT), &m);
}

static CTL(Frame) *
listed(struct host *h, struct user *u, uint64_t since)
{
	CTL(List) m = CTL_INIT(LIST);

	user_ask(u, CTL_BODY(LIST), &m);
	tells(h, 2, since, false);
	return user_hear(u, CTL_BODY(DEVICES));
}

static void
test_by_default_reads_stall(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	assert_int_equal(attached_with(h, &u, &chunks, 0, 0), 0);
	_cleanup_answer_ CTL(Frame) *f = listed(h, &u, 1700000000);
	const CTL(Device) *d = f->devices->devices[0];
	assert_int_equal(d->on_outage, CTL_OUTAGE(STALL));
	assert_int_equal(d->outage_delay_s, 0);
	assert_int_equal(d->stalled_reads, 2);
	assert_int_equal(d->stalled_since, 1700000000);
	assert_int_equal(d->reads_eio, 7);
	close(u.fd);
}

static void
test_one_device_may_get_eio(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	/* also sooner than the configuration may say */
	assert_int_equal(attached_with(h, &u, &chunks, CTL_OUTAGE(EIO), 1), 1);
	{
		_cleanup_answer_ CTL(Frame) *f = listed(h, &u, 0);
		const CTL(Device) *d = f->devices->devices[0];

		assert_int_equal(d->on_outage, CTL_OUTAGE(EIO));
		assert_int_equal(d->outage_delay_s, 1);
		assert_int_equal(d->stalled_since, 0);
	}
	/* without a time of its own: the configuration's, 60 by default */
	assert_int_equal(attached_with(h, &u, &other, CTL_OUTAGE(EIO), 0), 60);
	close(u.fd);
}

static void
test_the_configuration_is_for_who_asks_for_nothing(void **state)
{
	struct host *h = *state;
	struct user u;

	restart(h, EIO_CONF);
	u = user_new(h, "shed");
	assert_int_equal(attached_with(h, &u, &chunks, 0, 0), 45);
	assert_int_equal(attached_with(h, &u, &other, CTL_OUTAGE(STALL), 0), 0);
	assert_int_equal(attached_with(h, &u, &blob, 0, 300), 300);
	close(u.fd);
}

static void
test_a_device_has_one_policy(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	static const struct {
		uint32_t on_outage, delay_s;
		bool fits;
	} asks[] = {
		{ CTL_OUTAGE(DEFAULT), 0, true },
		{ CTL_OUTAGE(EIO), 0, true },
		{ CTL_OUTAGE(EIO), 90, true },
		{ CTL_OUTAGE(EIO), 91, false },
		{ CTL_OUTAGE(STALL), 0, false },
	};

	assert_int_equal(attached_with(h, &u, &chunks, CTL_OUTAGE(EIO), 90),
	    90);
	for (size_t i = 0; i < ARRAY_LEN(asks); i++) {
		ask_attach(&u, asks[i].on_outage, asks[i].delay_s);
		opens(h, &chunks);
		if (asks[i].fits)
			hears(&u, CTL_BODY(ATTACHED));
		else
			refused(&u, CTL_CODE(IN_USE), "detach it first");
	}
	attached_with(h, &u, &other, 0, 0);
	ask_attach(&u, CTL_OUTAGE(EIO), 0);
	opens(h, &other);
	refused(&u, CTL_CODE(IN_USE), "stall in an outage");
	close(u.fd);
}

static void
test_what_makes_no_sense_is_refused(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	ask_attach(&u, 7, 0);
	refused(&u, CTL_CODE(BAD_REQUEST), "stall or eio");
	ask_attach(&u, CTL_OUTAGE(STALL), 5);
	refused(&u, CTL_CODE(BAD_REQUEST), "goes with on-outage = eio");
	ask_attach(&u, CTL_OUTAGE(DEFAULT), 5);
	refused(&u, CTL_CODE(BAD_REQUEST), "goes with on-outage = eio");
	assert_true(host_quiet(h, 100));
	close(u.fd);
}

/* Whatever the configuration says by then. */
static void
test_a_restart_keeps_a_devices_policy(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	attached_with(h, &u, &chunks, CTL_OUTAGE(EIO), 3);
	close(u.fd);
	restart(h, "");
	opens(h, &chunks);
	assert_int_equal(host_hear(h, CHILD_CREATE).device.eio_after_s, 3);
}

/* A device that goes is not one whose policy holds: it is made anew. */
static void
test_a_new_device_has_a_policy_of_its_own(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Detach) detach = CTL_INIT(DETACH);
	struct parent_msg gone;
	struct device_spec spec;
	char name[64];

	attached_with(h, &u, &chunks, CTL_OUTAGE(EIO), 3);
	snprintf(name, sizeof(name), "%.12s", digest_to_hex(&blob).text);
	detach.name = name;
	user_ask(&u, CTL_BODY(DETACH), &detach);
	hears(&u, CTL_BODY(DETACHED));
	gone = host_hear(h, CHILD_DESTROY);
	ask_attach(&u, CTL_OUTAGE(STALL), 0);	/* while it ends */
	opens(h, &chunks);
	hears(&u, CTL_BODY(ACCEPTED));
	host_tell(h, PARENT_GONE, gone, -1);
	spec = host_hear(h, CHILD_CREATE).device;
	assert_int_equal(spec.eio_after_s, 0);
	host_device(h, &spec);
	hears(&u, CTL_BODY(ATTACHED));
	close(u.fd);
}

/* ---- health, doctor ---- */

static void
test_health_is_degraded_while_something_is_stalled(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Health) m = CTL_INIT(HEALTH);

	attached_with(h, &u, &chunks, 0, 0);
	for (uint64_t i = 0; i < 3; i++) {
		user_ask(&u, CTL_BODY(HEALTH), &m);
		/* at the third, nobody happens to read just now */
		tells(h, i == 1 ? 4 : 0, i > 0 ? (uint64_t)time(NULL) - 5 : 0,
		    false);
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(HEALTH_REPLY));
		assert_int_equal(f->health_reply->ok, i == 0);
		if (i == 0)
			continue;
		assert_non_null(strstr(f->health_reply->text,
		    i == 1 ? ": 4 reads wait, for " : ": 0 reads wait"));
		assert_non_null(strstr(f->health_reply->text,
		    "s now: reg.example does not answer"));
	}
	close(u.fd);
}

/* What cached tells of its sources: these. */
static void
tells_sources(struct host *h, Suite__SourceRow *rows, size_t n,
    uint32_t left_out)
{
	_cleanup_frame_ Suite__Frame *f = host_asked(h,
	    SUITE_BODY(LIST_SOURCES));
	Suite__SourceRow last = SUITE__SOURCE_ROW__INIT;

	for (size_t i = 0; i < n; i++)
		host_say(h, f->id, SUITE_BODY(SOURCE_ROW), &rows[i]);
	last.last = true;
	last.left_out = left_out;
	host_say(h, f->id, SUITE_BODY(SOURCE_ROW), &last);
}

static CTL(Frame) *
doctor(struct host *h, struct user *u, unsigned layouts, uint64_t since,
    bool failed)
{
	CTL(Doctor) m = CTL_INIT(DOCTOR);

	user_ask(u, CTL_BODY(DOCTOR), &m);
	if (h->cached >= 0)
		tells_sources(h, NULL, 0, 0);
	while (layouts-- > 0)
		tells(h, 1, since, failed);
	return user_hear(u, CTL_BODY(DOCTOR_REPLY));
}

static const CTL(DoctorReply__Row) *
row(const CTL(Frame) *f, const char *name)
{
	const CTL(DoctorReply) *r = f->doctor_reply;

	for (size_t i = 0; i < r->n_rows; i++)
		if (strncmp(r->rows[i]->name, name, strlen(name)) == 0)
			return r->rows[i];
	fail_msg("no row %s", name);
	return NULL;
}

static void
is(const CTL(Frame) *f, const char *name, const char *result,
    const char *detail)
{
	const CTL(DoctorReply__Row) *r = row(f, name);

	assert_string_equal(r->result, result);
	if (!strstr(r->detail, detail))
		fail_msg("%s: %s", r->name, r->detail);
	/* what is wrong has a remedy, and only that */
	assert_int_equal(r->remedy[0] != '\0', strcmp(result, "PASS") != 0);
}

static void
test_doctor_knows_what_is_in_order(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 0, 0, false);

	is(f, "service", "PASS", "version ");
	is(f, "processes", "PASS", "none");
	is(f, "timeouts", "PASS", "connect 5 s, silence 8 s, so attempt 13 s "
	    "< chunk budget 30 s < alarm 60 s; outage-delay 60 s; reads: none, "
	    "and an event after 1 s");
	is(f, "on-outage", "PASS", "stall: ");
	is(f, "devices", "PASS", "0, and none");
	close(u.fd);
}

static void
test_doctor_names_devices_that_are_not(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	attached_with(h, &u, &chunks, CTL_OUTAGE(EIO), 2);
	{
		_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 1,
		    (uint64_t)time(NULL), false);

		is(f, "device ", "WARN", "1 reads wait or get EIO, for ");
	}
	{
		_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 1, 0, false);

		is(f, "device ", "WARN", "EIO after 2 s, and one chunk");
	}
	{
		_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 1, 0, true);

		is(f, "device ", "FAIL", "does not answer");
	}
	host_unlink(h);
	{
		_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 0, 0, false);

		is(f, "processes", "FAIL", "cached does not answer");
	}
	close(u.fd);
}

static void
is_row(struct host *h, struct user *u, Suite__SourceRow *m,
    const char *name, const char *result, const char *detail)
{
	CTL(Doctor) ask = CTL_INIT(DOCTOR);

	user_ask(u, CTL_BODY(DOCTOR), &ask);
	tells_sources(h, m, 1, 0);
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(DOCTOR_REPLY));
	assert_string_equal(row(f, name)->name, name);
	is(f, name, result, detail);
}

static void
test_doctor_knows_registries_and_mirrors(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__SourceRow m = SUITE__SOURCE_ROW__INIT;

	m.host = (char *)"reg.example";
	is_row(h, &u, &m, "registry reg.example", "PASS", "not asked yet");
	m.asked = m.up = true;
	m.rtt_us = 1234;
	m.rate = 56700000;
	m.demand = 100;
	m.hedges = 3;
	is_row(h, &u, &m, "registry reg.example", "PASS", "up, round trip "
	    "1.2 ms, 56.7 MB/s; 3 of 100 requests of reads were sent twice");
	m.mirror = (char *)"http://cache.example/of";
	is_row(h, &u, &m, "mirror http://cache.example/of", "PASS",
	    "up, round trip 1.2 ms, 56.7 MB/s; for reg.example");
	m.wrong = 7;
	is_row(h, &u, &m, "mirror http://cache.example/of", "WARN",
	    "7 chunks had a wrong digest");
	m.wrong = 0;
	m.up = false;
	m.down_ms = 75000;
	is_row(h, &u, &m, "mirror http://cache.example/of", "WARN",
	    "down for 75 s, asked again with the next read");
	m.next_try_ms = 2500;
	is_row(h, &u, &m, "mirror http://cache.example/of", "WARN",
	    "down for 75 s, asked again in 3 s");
	close(u.fd);
}

/* Does a line of it begin so, and end so? */
static bool
has_line(const CTL(Frame) *f, const char *name, const char *value)
{
	_cleanup_free_ char *text = strdup(f->metrics_reply->text);
	char *save, *line;

	assert_non_null(text);
	for (line = strtok_r(text, "\n", &save); line;
	    line = strtok_r(NULL, "\n", &save)) {
		char *at = strrchr(line, ' ');

		if (line[0] != '#' && strcmp(at + 1, value) == 0 &&
		    strncmp(line, name, strlen(name)) == 0 &&
		    line + strlen(name) == at)
			return true;
	}
	return false;
}

#define METRIC(name, value)						\
	if (!has_line(f, "shedstream_" name, value))			\
		fail_msg("no " name " " value " in %s",			\
		    f->metrics_reply->text)

static void
test_metrics_tell_of_outages_and_sources(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__SourceRow rows[2];
	CTL(Metrics) m = CTL_INIT(METRICS);

	attached_with(h, &u, &chunks, 0, 0);
	for (int i = 0; i < 2; i++) {
		suite__source_row__init(&rows[i]);
		rows[i].host = (char *)"reg.example";
		rows[i].asked = true;
		rows[i].up = i == 1;
		rows[i].rtt_us = 1234;
		rows[i].demand = 100;
		rows[i].hedges = 3;
	}
	rows[0].mirror = (char *)"http://a \"b\\";
	rows[0].wrong = 7;
	user_ask(&u, CTL_BODY(METRICS), &m);
	tells_sources(h, rows, 2, 0);
	tells(h, 4, 1700000000, false);
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
	    CTL_BODY(METRICS_REPLY));
	assert_false(f->metrics_reply->more);
	METRIC("up", "1");
	METRIC("device_stalled_reads{device=\"fa2c8cc4f281\"}", "4");
	METRIC("device_stalled_since_timestamp_seconds{device=\"fa2c8cc4f281\"}",
	    "1700000000");
	METRIC("device_failed{device=\"fa2c8cc4f281\"}", "0");
	METRIC("source_up{registry=\"reg.example\",mirror=\"\"}", "1");
	METRIC("source_up{registry=\"reg.example\","
	    "mirror=\"http://a \\\"b\\\\\"}", "0");
	METRIC("source_wrong_chunks_total{registry=\"reg.example\","
	    "mirror=\"http://a \\\"b\\\\\"}", "7");
	METRIC("source_round_trip_seconds{registry=\"reg.example\","
	    "mirror=\"\"}", "0.001234");
	METRIC("registry_hedges_total{registry=\"reg.example\"}", "3");
	/* without cached what was last known, and that it is so */
	host_unlink(h);
	user_ask(&u, CTL_BODY(METRICS), &m);
	shedstream__control__v1__frame__free_unpacked(f, NULL);
	f = user_hear(&u, CTL_BODY(METRICS_REPLY));
	METRIC("up", "0");
	METRIC("device_stalled_reads{device=\"fa2c8cc4f281\"}", "4");
	close(u.fd);
}

static void
test_doctor_knows_what_is_configured_and_not_more_than_fits(void **state)
{
	struct host *h = *state;
	struct user u;
	Suite__SourceRow rows[80];
	CTL(Doctor) ask = CTL_INIT(DOCTOR);
	char hosts[80][300], mirror[256] = "";

	restart(h, "[registry \"r0\"]\nmirrors = http://m:1/x\n"
	    "[registry \"quiet.example\"]\ninsecure = no\n"
	    "[registry \"m:1\"]\ninsecure = yes\n");
	u = user_new(h, "shed");
	memset(mirror, 'x', sizeof(mirror) - 1);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		suite__source_row__init(&rows[i]);
		snprintf(hosts[i], sizeof(hosts[i]), "r%zu%0290d", i, 0);
		if (i == 0)
			strcpy(hosts[0], "r0");
		rows[i].host = hosts[i];
		rows[i].mirror = i == 1 ? mirror : (char *)"";
	}
	user_ask(&u, CTL_BODY(DOCTOR), &ask);
	tells_sources(h, rows, 2, 0);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DOCTOR_REPLY));

		is(f, "registry r0", "PASS", "not asked yet");
		is(f, "registry quiet.example", "PASS", "not asked yet");
		for (size_t i = 0; i < f->doctor_reply->n_rows; i++)
			assert_string_not_equal(f->doctor_reply->rows[i]->name,
			    "registry m:1");
	}
	user_ask(&u, CTL_BODY(DOCTOR), &ask);
	tells_sources(h, rows, ARRAY_LEN(rows), 5);
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u, CTL_BODY(DOCTOR_REPLY));
	is(f, "registries", "PASS", "21 more");
	is(f, "devices", "PASS", "0, and none");
	close(u.fd);
}

static void
test_doctor_tells_the_policy(void **state)
{
	struct host *h = *state;
	struct user u;

	restart(h, EIO_CONF);
	u = user_new(h, "shed");
	{
		_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 0, 0, false);

		is(f, "on-outage", "PASS", "eio: reads fail after 45 s");
		is(f, "timeouts", "PASS", "outage-delay 45 s");
	}
	close(u.fd);
	restart(h, "[network]\non-outage = eio\noutage-delay = 2m\n");
	u = user_new(h, "shed");
	_cleanup_answer_ CTL(Frame) *f = doctor(h, &u, 0, 0, false);
	is(f, "on-outage", "WARN", "eio after 120 s");
	close(u.fd);
}

#define T(name)	cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_by_default_reads_stall),
		T(test_one_device_may_get_eio),
		T(test_the_configuration_is_for_who_asks_for_nothing),
		T(test_a_device_has_one_policy),
		T(test_what_makes_no_sense_is_refused),
		T(test_a_restart_keeps_a_devices_policy),
		T(test_a_new_device_has_a_policy_of_its_own),
		T(test_health_is_degraded_while_something_is_stalled),
		T(test_doctor_knows_what_is_in_order),
		T(test_doctor_names_devices_that_are_not),
		T(test_doctor_tells_the_policy),
		T(test_doctor_knows_registries_and_mirrors),
		T(test_metrics_tell_of_outages_and_sources),
		T(test_doctor_knows_what_is_configured_and_not_more_than_fits),
	};

	return cmocka_run_group_tests(tests, make_digests, NULL);
}
