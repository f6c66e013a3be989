// SPDX-License-Identifier: Apache-2.0
/*
 * `shedctl doctor`: rows of PASS, WARN and FAIL, each with what would help.  A
 * row is told from what this process knows: the configuration, the processes as
 * the parent reports them, the devices, and their layouts and the registries as
 * cached has just told them (answer.c asks).  It opens nothing and asks no
 * network.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/times.h"
#include "devd/control.h"

#define ROWS_MAX	128	/* of at most 1.2 KiB: they fit in a frame */
#define DEVICES_SHOWN	50	/* of what is wrong */
#define OTHER_ROWS	8	/* that are neither a source's nor a device's */
/* Guests complain of tasks that hang so long, by default
 * (kernel.hung_task_timeout_secs): what is to be an error should be one by
 * then. */
#define GUEST_HUNG_S	120

_Static_assert(SOURCES_SHOWN + DEVICES_SHOWN + OTHER_ROWS <= ROWS_MAX,
    "devices that are ill find room behind the sources");

struct row {
	CTL(DoctorReply__Row) row;
	char name[280], detail[600], remedy[300];
};

struct rows {
	struct row row[ROWS_MAX];
	size_t n;
};

enum result { PASS, WARN, FAIL };

__attribute__((format(printf, 5, 6))) static void
add(struct rows *rows, enum result result, const char *name,
    const char *remedy, const char *fmt, ...)
{
	static const char *const words[] = { "PASS", "WARN", "FAIL" };
	struct row *r = &rows->row[rows->n];
	va_list args;

	if (rows->n == ROWS_MAX)
		return;
	rows->n++;
	shedstream__control__v1__doctor_reply__row__init(&r->row);
	snprintf(r->name, sizeof(r->name), "%s", name);
	snprintf(r->remedy, sizeof(r->remedy), "%s", remedy);
	va_start(args, fmt);
	vsnprintf(r->detail, sizeof(r->detail), fmt, args);
	va_end(args);
	r->row.name = r->name;
	r->row.result = (char *)words[result];
	r->row.detail = r->detail;
	r->row.remedy = r->remedy;
}

static void
processes_row(struct rows *rows, bool answered)
{
	uint32_t restarts = 0;

	add(rows, PASS, "service", "", "version %s", VERSION);
	for (size_t i = 0; i < ARRAY_LEN(processes); i++)
		restarts += processes[i].restarts;
	if (!answered)
		add(rows, FAIL, "processes", "see the log for why, and restart "
		    "the service if it stays so", "cached does not answer");
	else if (restarts > 0)
		add(rows, WARN, "processes", "the log says why they ended; it "
		    "is a bug, if nobody ended them", "processes were started "
		    "again %u times", restarts);
	else
		add(rows, PASS, "processes", "", "none was started again");
}

/* base/times.h asserts the order of what it has when it is compiled. */
static void
times_row(struct rows *rows)
{
	bool fit = times_fit(conf->outage_delay_s);

	add(rows, fit ? PASS : FAIL, "timeouts", fit ? "" : "raise "
	    "outage-delay in [network] of shedstream.conf", "connect %d s, "
	    "silence %d s, so attempt %d s < chunk budget %d s < alarm %d s; "
	    "outage-delay %u s; reads: none, and an event after %d s",
	    TIME_CONNECT_MS / 1000, TIME_IDLE_MS / 1000, TIME_ATTEMPT_MS / 1000,
	    TIME_CHUNK_MS / 1000, TIME_ALARM_MS / 1000, conf->outage_delay_s,
	    TIME_STALL_MS / 1000);
}

static void
outage_row(struct rows *rows)
{
	if (!conf->outage_eio)
		add(rows, PASS, "on-outage", "", "stall: reads wait for as "
		    "long as no registry serves them, and then go on");
	else if (conf->outage_delay_s >= GUEST_HUNG_S)
		add(rows, WARN, "on-outage", "set outage-delay in [network] of "
		    "shedstream.conf to less, or on-outage to stall", "eio "
		    "after %u s, when guests have complained of hung tasks for "
		    "long (they do after %d s)", conf->outage_delay_s,
		    GUEST_HUNG_S);
	else
		add(rows, PASS, "on-outage", "", "eio: reads fail after %u s "
		    "without a registry, which a guest's root file system may "
		    "not survive", conf->outage_delay_s);
}

/* ---- registries and mirrors ---- */

/* Appends, as far as there is room. */
__attribute__((format(printf, 3, 4))) static void
append(char *text, size_t size, const char *fmt, ...)
{
	size_t have = strlen(text);
	va_list args;

	va_start(args, fmt);
	vsnprintf(text + have, size - have, fmt, args);
	va_end(args);
}

static void
source_text(const Suite__SourceRow *m, char *text, size_t size)
{
	snprintf(text, size, "up");
	if (!m->asked)
		snprintf(text, size, "not asked yet");
	else if (!m->up)
		snprintf(text, size, "down for %ju s, asked again %s",
		    (uintmax_t)m->down_ms / 1000, m->next_try_ms ? "in " :
		    "with the next read");
	if (!m->up && m->next_try_ms)
		append(text, size, "%ju s", (uintmax_t)m->next_try_ms / 1000 +
		    1);
	if (m->rtt_us > 0)
		append(text, size, ", round trip %.1f ms",
		    (double)m->rtt_us / 1e3);
	if (m->rate > 0)
		append(text, size, ", %.1f MB/s", (double)m->rate / 1e6);
	if (m->wrong > 0)
		append(text, size, ", %ju chunks had a wrong digest",
		    (uintmax_t)m->wrong);
	if (m->mirror[0])
		append(text, size, "; for %s", m->host);
	else if (m->demand > 0)
		append(text, size, "; %ju of %ju requests of reads were sent "
		    "twice, mirrors' too", (uintmax_t)m->hedges,
		    (uintmax_t)m->demand);
}

static void
source_row(struct rows *rows, const Suite__SourceRow *m)
{
	bool mirror = m->mirror[0], down = m->asked && !m->up;
	char name[sizeof(rows->row->name)], text[512];
	const char *remedy = "";

	if (m->wrong > 0)
		remedy = mirror ? "see what it has for this image, or take it "
		    "out of mirrors in shedstream.conf" : "see what stands in "
		    "front of the registry, or push the image again";
	else if (down)
		remedy = mirror ? "see that it can be reached from this host; "
		    "the log says how it failed, and others are asked "
		    "meanwhile" : "see that it can be reached from this host; "
		    "the log says how it failed";
	snprintf(name, sizeof(name), "%s %s", mirror ? "mirror" : "registry",
	    mirror ? m->mirror : m->host);
	source_text(m, text, sizeof(text));
	add(rows, *remedy ? WARN : PASS, name, remedy, "%s", text);
}

static bool
was_told(const struct sources_told *told, const char *host)
{
	for (size_t i = 0; i < told->n; i++)
		if (strcmp(told->row[i].host, host) == 0)
			return true;
	return false;
}

/* Is this section there for what a mirror is to get? */
static bool
is_mirrors(const char *host)
{
	size_t len = strlen(host);

	for (size_t i = 0; i < conf->n_registries; i++)
		for (size_t k = 0; k < conf->registries[i].n_mirrors; k++) {
			const char *url = strstr(conf->registries[i].mirrors[k],
			    "://") + 3;

			if (strncmp(url, host, len) == 0 &&
			    (url[len] == '/' || url[len] == '\0'))
				return true;
		}
	return false;
}

/* What cached knows, then what is configured and was not needed yet. */
static void
sources_rows(struct rows *rows, const struct sources_told *told)
{
	unsigned left_out = told->left_out;
	size_t shown = told->n;

	for (size_t i = 0; i < told->n; i++)
		source_row(rows, &told->row[i].m);
	/* one that is left out may be configured */
	for (size_t i = 0; told->left_out == 0 && i < conf->n_registries; i++) {
		Suite__SourceRow m = SUITE__SOURCE_ROW__INIT;

		m.host = conf->registries[i].host;
		if (was_told(told, m.host) || is_mirrors(m.host))
			continue;
		if (shown++ < SOURCES_SHOWN)
			source_row(rows, &m);
		else
			left_out++;
	}
	if (left_out > 0)
		add(rows, PASS, "registries", "", "%u more registries and "
		    "mirrors are not shown", left_out);
}

/* ---- devices ---- */

static void
device_row(struct rows *rows, const struct device *d)
{
	bool denied = d->denied_by[0], stalled = d->layout.stalled_since > 0;
	uint32_t eio = d->spec.eio_after_s;
	char name[80], text[512];

	snprintf(name, sizeof(name), "device %s", d->spec.name);
	if (device_ill(d, text, sizeof(text)))
		add(rows, denied || stalled ? WARN : FAIL, name, denied ?
		    "give the registry's credentials with shedctl login" :
		    stalled ? "see that the registry, or a mirror of it, can "
		    "be reached from this host; reads go on by themselves "
		    "then" : "detach it, then attach it again", "%s", text);
	else if (eio > 0 && !times_fit(eio))
		add(rows, WARN, name, "detach it, then attach it with a longer "
		    "--outage-delay", "its reads get EIO after %u s, and one "
		    "chunk may take %d s", eio, TIME_CHUNK_MS / 1000);
}

static void
devices_rows(struct rows *rows)
{
	size_t before = rows->n;
	const struct device *d;
	unsigned n = 0, more = 0;

	TAILQ_FOREACH(d, &devices, entry) {
		n++;
		device_row(rows, d);
		if (rows->n > before + DEVICES_SHOWN) {
			rows->n--;
			more++;
		}
	}
	if (more > 0)
		add(rows, WARN, "devices", "see shedctl status", "%u more are "
		    "stalled or failed", more);
	if (rows->n == before)
		add(rows, PASS, "devices", "", "%u, and none is stalled or "
		    "failed", n);
}

void
doctor_answer(struct client *c, uint64_t request,
    const struct sources_told *sources, bool answered)
{
	_cleanup_free_ struct rows *rows = calloc(1, sizeof(*rows));
	CTL(DoctorReply) m = SHEDSTREAM__CONTROL__V1__DOCTOR_REPLY__INIT;
	CTL(DoctorReply__Row) *list[ROWS_MAX];

	if (!rows)
		log_die("no memory for the doctor");
	processes_row(rows, answered);
	times_row(rows);
	outage_row(rows);
	if (answered)
		sources_rows(rows, sources);
	devices_rows(rows);
	for (size_t i = 0; i < rows->n; i++)
		list[i] = &rows->row[i].row;
	m.rows = list;
	m.n_rows = rows->n;
	reply(c, request, CTL_BODY(DOCTOR_REPLY), &m);
}
