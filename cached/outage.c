// SPDX-License-Identifier: Apache-2.0
/*
 * Outages: reads of a layout's devices wait for what no source serves.
 *
 *	--a transfer failed, or a read waits--> STALLED --a chunk came, and no
 *	  for LATE_MS (device.c)                   |      old read is left, or
 *	                                           |      nobody reads--> over
 *	     a read waits for TIME_STALL_MS: told  |
 *	     reads go on waiting: an alarm after   |
 *	     TIME_ALARM_MS, then ever more rarely -+
 *	     a device may have said after how long
 *	     its reads get EIO instead: counted
 *
 * An outage is told in an event when a read has waited for a while, at each
 * alarm, when reads get EIO for the first time, and at its end, and never ends
 * by itself.  One that nobody had to wait for is never told, nor its end;
 * numbers (status, health) show each at once.  device.c knows the reads; this
 * file decides what is said, and when.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/times.h"
#include "cached/cached.h"

struct text {
	char text[48];
};

/* "12 s", "3 min 4 s", "6 h 2 min" */
static struct text
duration(uint64_t ms)
{
	struct text t;
	uint64_t s = ms / 1000;

	if (s < 60)
		snprintf(t.text, sizeof(t.text), "%" PRIu64 " s", s);
	else if (s < 60 * 60)
		snprintf(t.text, sizeof(t.text), "%" PRIu64 " min %" PRIu64
		    " s", s / 60, s % 60);
	else
		snprintf(t.text, sizeof(t.text), "%" PRIu64 " h %" PRIu64
		    " min", s / 3600, s / 60 % 60);
	return t;
}

static struct text
utc(uint64_t wall)
{
	time_t s = (time_t)(wall / 1000);
	struct text t = { "?" };
	struct tm tm;

	if (gmtime_r(&s, &tm))
		strftime(t.text, sizeof(t.text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return t;
}

static const char silence[] = "no answer yet";

/* Where nothing is asked of a registry since it failed another layout, that
 * one's error is what a person needs. */
static const char *
why(const struct layout *l)
{
	const struct layout *other;

	if (l->last_error[0])
		return l->last_error;
	TAILQ_FOREACH(other, &layouts, entry)
		if (other->stalled && other->last_error[0] &&
		    strcmp(other->host, l->host) == 0)
			return other->last_error;
	return silence;
}

static bool
after(uint64_t from, uint64_t ms, uint64_t now)
{
	return now >= from && now - from >= ms;
}

/* ---- begin and end ---- */

void
outage_begin(struct layout *l, uint64_t since, const char *error)
{
	struct outage *o = &l->outage;
	uint64_t now = now_ms();

	o->answered = false;
	if (l->stalled)
		return;
	if (since == 0)
		since = now;
	l->stalled = true;
	o->since = since;
	o->since_wall = wall_ms() - (now - since);
	o->waited = now;
	o->alarm_at = since + TIME_ALARM_MS;
	o->alarm_wait_ms = 2 * TIME_ALARM_MS;
	o->n_eio = 0;
	o->told = false;
	if (!error)
		error = why(l);
	if (l->last_error[0] == '\0' && error != silence)
		snprintf(l->last_error, sizeof(l->last_error), "%s", error);
	tick_soon();
}

void
outage_tell(struct layout *l, uint64_t oldest)
{
	struct outage *o = &l->outage;

	if (!l->stalled || o->told || oldest == 0 ||
	    !after(oldest, TIME_STALL_MS, now_ms()))
		return;
	o->told = true;
	notice("stalled", l, "%" PRIu64 " reads wait for %s/%s: %s",
	    l->waiting, l->host, l->repo, why(l));
}

void
outage_answered(struct layout *l)
{
	l->outage.answered = true;
	l->outage.answer = now_ms();
	if (l->stalled)
		tick_soon();
}

static void
end(struct layout *l, const char *how)
{
	struct text t = duration(now_ms() - l->outage.since);

	l->stalled = false;
	if (l->outage.told)
		notice("recovered", l, "%s/%s %s, after %s", l->host, l->repo,
		    how, t.text);
}

void
outage_look(struct layout *l, bool late)
{
	struct outage *o = &l->outage;
	uint64_t now = now_ms();

	if (!l->stalled)
		return;
	if (l->waiting > 0)
		o->waited = now;
	if (l->failed)
		l->stalled = false;	/* told otherwise */
	else if (TAILQ_EMPTY(&l->devices))
		end(l, "is not read any more");
	else if (o->answered && !late)
		end(l, "answers again");
	else if (after(o->waited, TIME_ALARM_MS, now))
		end(l, "is not asked any more");
}

/* ---- alarms ---- */

bool
outage_alarm_due(struct layout *l, uint64_t oldest)
{
	struct outage *o = &l->outage;
	uint64_t now = now_ms(), last = o->since;

	if (!l->stalled || now < o->alarm_at)
		return false;
	if (o->answer > last)
		last = o->answer;
	/* One read has waited so long; or each waited less, and got EIO. */
	if (!(oldest && after(oldest, TIME_ALARM_MS, now)) &&
	    !(o->n_eio > 0 && after(last, TIME_ALARM_MS, now)))
		return false;
	o->alarm_at = now + o->alarm_wait_ms;
	o->alarm_wait_ms *= 2;
	if (o->alarm_wait_ms > TIME_ALARM_MOST_MS)
		o->alarm_wait_ms = TIME_ALARM_MOST_MS;
	return true;
}

void
outage_alarm(struct layout *l, const struct device_spec *spec, unsigned reads)
{
	const struct image *image = image_by_manifest(&spec->image);
	const struct outage *o = &l->outage;
	struct text since = utc(o->since_wall),
	    time = duration(now_ms() - o->since);
	char text[1280], eio[64] = "";

	if (spec->eio_after_s > 0)
		snprintf(eio, sizeof(eio), ", %" PRIu64 " got EIO", o->n_eio);
	snprintf(text, sizeof(text), "device %s of %.255s: %u reads wait%s "
	    "since %s (%s) for %s: %.255s; when that is mended they go on by "
	    "themselves; shedctl doctor says more", spec->name,
	    image ? image->name : l->repo, reads, eio, since.text, time.text,
	    l->host, why(l));
	log_err("%s", text);
	notice_send("stalled", l, text);
}

/* ---- EIO ---- */

void
outage_eio(struct layout *l, const struct device_spec *spec, unsigned reads)
{
	struct outage *o = &l->outage;
	uint64_t now = now_ms();
	bool first = o->n_eio == 0;

	o->n_eio += reads;
	o->told = true;
	l->reads_eio += reads;
	if (first)
		notice("stalled", l, "reads of device %s get EIO now: they "
		    "waited %u s for %s/%s: %s", spec->name,
		    spec->eio_after_s, l->host, l->repo, why(l));
	else if (after(o->eio_said, TIME_ALARM_MS, now))
		log_warn("device %s: %" PRIu64 " reads got EIO since %s: %s",
		    spec->name, o->n_eio, utc(o->since_wall).text, why(l));
	else
		return;
	o->eio_said = now;
}
