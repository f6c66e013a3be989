// SPDX-License-Identifier: Apache-2.0
/*
 * `shedctl metrics`: Prometheus' text form (prometheus.io/docs/instrumenting/
 * exposition_formats), of what this process knows: the processes, the devices,
 * their layouts and the registries as cached has just told them (answer.c
 * asks).  A family is a row of a table: its name, its kind, its help, and where
 * its value is.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/control.h"

#define PART_MAX	(128 * 1024)	/* bytes of a frame's text */

struct family {
	const char *name, *kind, *help;
};

static void
begin(FILE *to, const struct family *f)
{
	fprintf(to, "# HELP shedstream_%s %s\n# TYPE shedstream_%s %s\n",
	    f->name, f->help, f->name, f->kind);
}

/* The value of a label, in quotes. */
static void
label(FILE *to, const char *name, const char *value)
{
	fprintf(to, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			putc('\\', to);
		putc(*value == '\n' ? ' ' : *value, to);
	}
	putc('"', to);
}

/* ---- devices ---- */

struct of_device {
	struct family family;
	const char *more;	/* further labels, or "" */
	uint64_t (*value)(const struct device *d);
};

#define OF_LAYOUT(name)							\
	static uint64_t							\
	name(const struct device *d)					\
	{								\
		return d->layout.name;					\
	}
#define OF_STATS(name)							\
	static uint64_t							\
	name(const struct device *d)					\
	{								\
		return d->stats ? atomic_load_explicit(			\
		    &d->stats->name, memory_order_relaxed) : 0;		\
	}

OF_LAYOUT(bytes_present)
OF_LAYOUT(network_free)
OF_LAYOUT(failed)
OF_LAYOUT(stalled_reads)
OF_LAYOUT(stalled_since)
OF_LAYOUT(reads_eio)
OF_LAYOUT(damaged)
OF_LAYOUT(bytes_fetched)
OF_LAYOUT(requests_sent)
OF_LAYOUT(requests_retried)
OF_LAYOUT(requests_failed)
OF_STATS(reads_hot)
OF_STATS(reads_cold)
OF_STATS(bytes_served)

static uint64_t
device_size(const struct device *d)
{
	return d->spec.size;
}

static uint64_t
worker_restarts(const struct device *d)
{
	return d->spec.restarts;
}

static uint64_t
denied(const struct device *d)
{
	return d->denied_by[0] != '\0';
}

/* Rows of one family stand together. */
static const struct of_device of_device[] = {
	{ { "device_size_bytes", "gauge", "Size of the device." }, "",
	    device_size },
	{ { "device_present_bytes", "gauge", "Bytes of it that are in the "
	    "store." }, "", bytes_present },
	{ { "device_network_free", "gauge", "1 if it needs no registry any "
	    "more." }, "", network_free },
	{ { "device_failed", "gauge", "1 if its reads fail, as its bytes were "
	    "proven wrong." }, "", failed },
	{ { "device_stalled_reads", "gauge", "Reads that wait for the network "
	    "now." }, "", stalled_reads },
	{ { "device_stalled_since_timestamp_seconds", "gauge", "When its "
	    "outage began, since 1970; 0 without one." }, "", stalled_since },
	{ { "device_denied", "gauge", "1 while its registry refuses "
	    "access." }, "", denied },
	{ { "device_reads_total", "counter", "Reads, by whether all of it was "
	    "here." }, ",kind=\"hot\"", reads_hot },
	{ { "device_reads_total", "counter", "" }, ",kind=\"cold\"",
	    reads_cold },
	{ { "device_read_errors_total", "counter", "Reads of its image that "
	    "got EIO in an outage, as was asked for." }, "", reads_eio },
	{ { "device_served_bytes_total", "counter", "Bytes given to "
	    "readers." }, "", bytes_served },
	{ { "device_fetched_bytes_total", "counter", "Bytes from the "
	    "network, of its image." }, "", bytes_fetched },
	{ { "device_requests_total", "counter", "HTTP requests of its "
	    "image; that failed; that followed such a one." }, ",kind=\"sent\"",
	    requests_sent },
	{ { "device_requests_total", "counter", "" }, ",kind=\"failed\"",
	    requests_failed },
	{ { "device_requests_total", "counter", "" }, ",kind=\"retried\"",
	    requests_retried },
	{ { "device_damaged_chunks_total", "counter", "Chunks found wrong on "
	    "disk." }, "", damaged },
	{ { "device_worker_restarts_total", "counter", "Times that its worker "
	    "was started again." }, "", worker_restarts },
};

static void
devices_text(FILE *to)
{
	const char *last = "";
	const struct device *d;

	for (size_t i = 0; i < ARRAY_LEN(of_device); i++) {
		const struct of_device *o = &of_device[i];

		if (strcmp(last, o->family.name) != 0)
			begin(to, &o->family);
		last = o->family.name;
		TAILQ_FOREACH(d, &devices, entry) {
			fprintf(to, "shedstream_%s{", o->family.name);
			label(to, "device", d->spec.name);
			fprintf(to, "%s} %" PRIu64 "\n", o->more, o->value(d));
		}
	}
}

/* ---- registries and mirrors ---- */

struct of_source {
	struct family family;
	bool of_registry;	/* counted for all its sources */
	double (*value)(const Suite__SourceRow *m);
};

#define OF_SOURCE(name, value)						\
	static double							\
	name(const Suite__SourceRow *m)					\
	{								\
		return (double)(value);					\
	}

OF_SOURCE(source_up, m->up)
OF_SOURCE(source_rtt, (double)m->rtt_us / 1e6)
OF_SOURCE(source_rate, m->rate)
OF_SOURCE(source_wrong, m->wrong)
OF_SOURCE(source_demand, m->demand)
OF_SOURCE(source_hedges, m->hedges)

static const struct of_source of_source[] = {
	{ { "source_up", "gauge", "1 while it is asked." }, false, source_up },
	{ { "source_round_trip_seconds", "gauge", "To it, smoothed; 0: not "
	    "measured." }, false, source_rtt },
	{ { "source_rate_bytes_per_second", "gauge", "The most that came from "
	    "it, of late; 0: not measured." }, false, source_rate },
	{ { "source_wrong_chunks_total", "counter", "Chunks whose digest was "
	    "wrong." }, false, source_wrong },
	{ { "registry_demand_requests_total", "counter", "Requests that reads "
	    "waited for, to it and its mirrors." }, true, source_demand },
	{ { "registry_hedges_total", "counter", "Such requests that were sent "
	    "twice." }, true, source_hedges },
};

static void
sources_text(FILE *to, const struct sources_told *told)
{
	for (size_t i = 0; i < ARRAY_LEN(of_source); i++) {
		const struct of_source *o = &of_source[i];

		begin(to, &o->family);
		for (size_t k = 0; k < told->n; k++) {
			const Suite__SourceRow *m = &told->row[k].m;

			if (!m->asked || (o->of_registry && m->mirror[0]))
				continue;
			fprintf(to, "shedstream_%s{", o->family.name);
			label(to, "registry", m->host);
			if (!o->of_registry) {
				putc(',', to);
				label(to, "mirror", m->mirror);
			}
			fprintf(to, "} %.9g\n", o->value(m));
		}
	}
}

/* ---- the suite ---- */

static void
suite_text(FILE *to, bool answered)
{
	static const struct family build = { "build_info", "gauge",
		"Its version." }, up = { "up", "gauge", "1 if cached answered "
		"in time; else its numbers are old." }, restarts = {
		"process_restarts_total", "counter", "Times that a process "
		"was started again." };

	begin(to, &build);
	fprintf(to, "shedstream_build_info{version=\"%s\"} 1\n", VERSION);
	begin(to, &up);
	fprintf(to, "shedstream_up %d\n", answered);
	begin(to, &restarts);
	for (size_t i = 0; i < ARRAY_LEN(processes); i++) {
		fprintf(to, "shedstream_process_restarts_total{");
		label(to, "process", processes[i].name);
		fprintf(to, "} %" PRIu32 "\n", processes[i].restarts);
	}
}

/* In frames of whole lines. */
static void
send_parts(struct client *c, uint64_t request, char *text)
{
	CTL(MetricsReply) m = SHEDSTREAM__CONTROL__V1__METRICS_REPLY__INIT;
	size_t len;

	do {
		char *end, kept;

		len = strlen(text);
		m.more = len > PART_MAX;
		end = m.more ? (char *)memrchr(text, '\n', PART_MAX) + 1 :
		    text + len;
		kept = *end;
		*end = '\0';
		m.text = text;
		reply(c, request, CTL_BODY(METRICS_REPLY), &m);
		*end = kept;
		text = end;
	} while (m.more);
}

void
metrics_answer(struct client *c, uint64_t request,
    const struct sources_told *sources, bool answered)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);

	if (!to)
		log_die("no memory for metrics");
	suite_text(to, answered);
	devices_text(to);
	sources_text(to, sources);
	if (fclose(to) != 0)
		log_die("no memory for metrics");
	send_parts(c, request, text);
}
