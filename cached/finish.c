// SPDX-License-Identifier: Apache-2.0
/*
 * From "every unit is here" to "this is the blob":
 *
 *	all units durable --> DIGEST (scrub thread: the whole file's SHA-256,
 *	   ^                    |     and each unit against its record)
 *	   |                    +-- fits ------> complete, recorded durably
 *	   +--- refetch ---<----+-- units rotten on disk
 *	                        +-- every unit as received, whole wrong:
 *	                            the source lied: fail, quarantine
 *
 * Also the background fill of all units, for pull and for rung whole.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"

void
finish_pull(struct layout *l, bool plain)
{
	if (l->complete || l->failed)
		return;
	if (plain && !l->plain) {
		l->plain = true;
		if (store_write_file(l->dir, "plain", "", 0) < 0)
			log_warn("%s/%s: that it has no ranges is not "
			    "remembered", l->host, l->repo);
	}
	l->pull_next = 0;
	if (!l->pulling) {
		l->pulling = true;
		l->refs++;
	}
	finish_check(l);
	fetch_pump();
}

/* Absent and nobody's; or a read's, that only the plain request will bring. */
static bool
pull_wants(const struct layout *l, uint64_t unit)
{
	const struct fill *f = l->fills[unit];

	return layout_state(l, unit) == UNIT_ABSENT &&
	    (!f || (l->plain && f->queued));
}

bool
finish_next(struct layout *l, uint64_t *unit)
{
	if (!l->pulling || l->failed || l->plain_sent)
		return false;
	while (l->pull_next < l->n_units && !pull_wants(l, l->pull_next))
		l->pull_next++;
	*unit = l->pull_next;
	return l->pull_next < l->n_units;
}

void
finish_stop(struct layout *l)
{
	if (!l->pulling)
		return;
	l->pulling = false;
	layout_put(l);
}

/* ---- the thread's part ---- */

int
finish_run(struct job *job)
{
	const struct layout *l = job->layout;
	_cleanup_free_ uint8_t *buf = malloc(l->unit);
	struct digest_stream *whole = digest_start();
	struct digest sum, noted;
	bool rotten = false;
	ssize_t n = 0;

	if (!buf)
		n = -ENOMEM;
	for (uint64_t unit = 0; unit < l->n_units && n >= 0; unit++) {
		size_t len = layout_unit_len(l, unit);
		uint8_t record[PRESENCE_RECORD];

		n = fd_pread_all(l->data, buf, len, unit * l->unit);
		if (n < 0)
			break;
		digest_update(whole, buf, (size_t)n);
		sum = digest_of(buf, (size_t)n);
		if ((size_t)n != len || fd_pread_all(l->presence, record,
		    sizeof(record), PRESENCE_HEADER + unit *
		    PRESENCE_RECORD) != sizeof(record) || !presence_get(record,
		    l->file_id, unit, &noted) || !digest_equal(&sum, &noted))
			job->bad[unit] = 1;
		rotten |= job->bad[unit];
		if (atomic_load(&work_stopping))
			n = -EINTR;
	}
	job->digest = digest_final(whole);
	if (n < 0)
		return (int)n;
	return rotten ? -EBADMSG : 0;
}

/* ---- its result ---- */

static void
found_rotten(struct layout *l, const uint8_t *bad)
{
	uint64_t n = 0;

	for (uint64_t unit = 0; unit < l->n_units; unit++) {
		if (!bad[unit])
			continue;
		n++;
		device_withdraw(l, unit);
		layout_set(l, unit, UNIT_ABSENT);
	}
	notice("state", &l->blob, "%" PRIu64 " of %" PRIu64 " units changed "
	    "on disk: fetching them again", n, l->n_units);
	layout_revoke(l);
	finish_pull(l, l->plain);
}

/* Nothing is wrong with the bytes, but it can't be finished now. */
static void
cannot_finish(struct layout *l, const char *what, int r)
{
	Suite__FetchDone why = SUITE__FETCH_DONE__INIT;

	snprintf(l->last_error, sizeof(l->last_error), "%s: %s", what,
	    strerror(-r));
	log_err("%s/%s: %s", l->host, l->repo, l->last_error);
	why.code = r == -ENOSPC ? CTL_CODE(NO_SPACE) : CTL_CODE(INTERNAL);
	why.text = l->last_error;
	open_layout_trouble(l, &why);
	finish_stop(l);
}

static void
found_complete(struct layout *l)
{
	char text[32];
	int r;

	if (l->n_durable < l->n_units || l->n_fills > 0)
		return;		/* a unit was withdrawn meanwhile: again */

	snprintf(text, sizeof(text), "%016" PRIx64 "\n", l->file_id);
	r = store_write_file(l->dir, "complete", text, strlen(text));
	if (r < 0) {
		cannot_finish(l, "the store can't record that it is complete",
		    r);
		return;
	}
	l->complete = l->proven = true;
	l->stalled = false;
	notice("state", &l->blob, "complete: the whole digest fits; the "
	    "network is not needed any more");
	device_complete(l);
	finish_stop(l);
}

static void
found_wrong(struct layout *l, const struct digest *got)
{
	struct digest_text is = digest_to_text(got),
	    want = digest_to_text(&l->blob);

	snprintf(l->last_error, sizeof(l->last_error), "DIGEST_MISMATCH: the "
	    "whole blob hashes to %.19s..., its name is %.19s...: what the "
	    "registry sent was tampered with or damaged", is.text, want.text);
	layout_quarantine(l);
	device_fail_all(l);
	notice("device-failed", &l->blob, "%s", l->last_error);
	finish_stop(l);
}

static void
digest_done(struct job *job)
{
	struct layout *l = job->layout;

	l->digesting = false;
	if (job->result == -EBADMSG)
		found_rotten(l, job->bad);
	else if (job->result == -EINTR)
		;	/* stopping: done again at the next start */
	else if (job->result < 0)
		cannot_finish(l, "the store can't be read back", job->result);
	else if (digest_equal(&job->digest, &l->blob))
		found_complete(l);
	else
		found_wrong(l, &job->digest);
	free(job->bad);
	free(job);
	open_layout_changed(l);
	layout_put(l);
}

void
finish_check(struct layout *l)
{
	struct job *job;

	if (l->complete || l->failed || l->digesting ||
	    l->n_durable < l->n_units || l->n_fills > 0)
		return;
	job = calloc(1, sizeof(*job));
	if (!job)
		return;
	job->kind = JOB_DIGEST;
	job->done = digest_done;
	job->layout = l;
	job->bad = calloc(1, l->n_units);
	if (!job->bad) {
		free(job);
		return;
	}
	l->digesting = true;
	l->refs++;
	work_submit(job);
}
