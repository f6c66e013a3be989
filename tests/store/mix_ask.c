// SPDX-License-Identifier: Apache-2.0
/*
 * What control asks of cached in the mix (mix.h): a request of any kind, of an
 * image by chance, and the judgement of its answer.  It may fail only for a
 * reason that its situation explains, and within LATE_ASK_S.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "tests/store/harm.h"
#include "tests/store/mix_ask.h"

#define MIB	(1024 * 1024)
#define ASKS	16
#define LATE_ASK_S 90	/* verify waits 60 s for what it can't mend */

struct ask {
	enum what what;
	uint64_t id;		/* 0: free */
	struct mix_image *image;
	int fd;			/* -1: none */
	bool damaged;		/* the file to import is not quite the image */
	double begun;
};

static struct ask asks[ASKS];
static struct mix *m;
static struct host *h;

static uint64_t
below(uint64_t n)
{
	return chance(&m->seed, n);
}

static int
erofs_fd(const struct mix_image *image, bool damaged)
{
	int fd = memfd_create("erofs", MFD_CLOEXEC);

	if (fd < 0 || fd_pwrite_all(fd, image->image->bytes,
	    image->image->size, 0) < 0 || (damaged && fd_pwrite_all(fd,
	    "something else", 14, below(image->image->size / 2)) < 0))
		abort();
	return fd;
}

static uint64_t
send_open(const struct ask *a)
{
	Suite__Open msg = SUITE__OPEN__INIT;

	msg.image = (char *)(below(2) ? a->image->image->name :
	    a->image->image->exact);
	msg.rung = (Shedstream__Control__V1__Rung)a->image->rung;
	msg.whole = a->what != ATTACH;
	msg.plain = a->what == PLAIN;
	msg.device = a->what == ATTACH;
	return host_send(h, SUITE_BODY(OPEN), &msg, -1);
}

static uint64_t
send_gc(void)
{
	Suite__Gc msg = SUITE__GC__INIT;

	msg.dry_run = below(4) == 0;
	msg.max_bytes = below(2) * (1 + below(MIX_QUOTA));
	return host_send(h, SUITE_BODY(GC), &msg, -1);
}

static uint64_t
send_pin(const struct ask *a)
{
	Suite__Pin msg = SUITE__PIN__INIT;

	msg.image = (char *)a->image->image->exact;
	msg.pin = below(5) == 0;
	return host_send(h, SUITE_BODY(PIN), &msg, -1);
}

static uint64_t
send_keep(const struct ask *a)
{
	Suite__Keep msg = SUITE__KEEP__INIT;
	ProtobufCBinaryData digest = { DIGEST_LEN,
		(uint8_t *)a->image->image->manifest.bytes };

	msg.owner = below(2) ? "owner-1" : "owner-2";
	msg.digests = &digest;
	msg.n_digests = below(3) == 0;
	return host_send(h, SUITE_BODY(KEEP), &msg, -1);
}

static uint64_t
send_verify(const struct ask *a)
{
	Suite__Verify msg = SUITE__VERIFY__INIT;

	msg.image = (char *)(below(2) ? "" : a->image->image->exact);
	return host_send(h, SUITE_BODY(VERIFY), &msg, -1);
}

static uint64_t
send_import(struct ask *a)
{
	Suite__Import msg = SUITE__IMPORT__INIT;

	a->damaged = below(2);
	a->fd = erofs_fd(a->image, a->damaged);
	msg.image = (char *)a->image->image->exact;
	return host_send(h, SUITE_BODY(IMPORT), &msg, a->fd);
}

static uint64_t
send_promote(struct ask *a)
{
	Suite__Promote msg = SUITE__PROMOTE__INIT;

	a->fd = memfd_create("promoted", MFD_CLOEXEC);
	msg.image = (char *)a->image->image->exact;
	return host_send(h, SUITE_BODY(PROMOTE), &msg, a->fd);
}

static uint64_t
send_drop(const struct ask *a)
{
	Suite__Drop msg = SUITE__DROP__INIT;

	msg.image = (char *)a->image->image->exact;
	return host_send(h, SUITE_BODY(DROP), &msg, -1);
}

static uint64_t
send_ask(struct ask *a)
{
	Suite__Df df = SUITE__DF__INIT;

	switch (a->what) {
	case GC:
		return send_gc();
	case PIN:
		return send_pin(a);
	case KEEP:
		return send_keep(a);
	case VERIFY:
		return send_verify(a);
	case IMPORT:
		return send_import(a);
	case PROMOTE:
		return send_promote(a);
	case DROP:
		return send_drop(a);
	case DF:
		return host_send(h, SUITE_BODY(DF), &df, -1);
	default:
		return send_open(a);
	}
}

void
mix_ask(struct mix *mix, enum what what)
{
	struct mix_image *image;
	unsigned i = 0;

	m = mix;
	h = mix->h;
	image = &mix_images[below(MIX_IMAGES)];
	while (i < ASKS && asks[i].id)
		i++;
	if (i == ASKS)
		return;
	asks[i] = (struct ask){ .what = what, .fd = -1, .begun = mix_now(),
		.image = image };
	asks[i].id = send_ask(&asks[i]);
	m->asks++;
}

static void
ask_forget(struct ask *a)
{
	fd_close(a->fd);
	*a = (struct ask){ .fd = -1 };
}

/* Is that a reason for this request to fail, as things are? */
static bool
explained(const struct ask *a, const struct host_answer *r)
{
	switch (r->code) {
	case CTL_CODE(REGISTRY_UNREACHABLE):
	case CTL_CODE(TIMEOUT):
	case CTL_CODE(BLOB_ABSENT):	/* dropped, or not yet known */
		return true;
	case CTL_CODE(NO_SPACE):
		return a->what <= PLAIN || a->what == IMPORT ||
		    a->what == PROMOTE;
	case CTL_CODE(DIGEST_MISMATCH):
		return a->image->wronged || a->damaged;
	case CTL_CODE(IN_USE):
		return a->what == DROP;
	case CTL_CODE(BUSY):
		return a->what == IMPORT || a->what == PROMOTE;
	default:
		/* Known from before, and all of it gone since; or some of it
		 * was found damaged meanwhile, and he may try again. */
		return strstr(r->text, "its index is not here") ||
		    (a->what == IMPORT && r->retry) ||
		    (m->io_errors && strstr(r->text, "Input/output error"));
	}
}

static void
promoted(const struct ask *a)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (fd_read_text(a->fd, 64 * MIB, &text, &len) < 0 ||
	    len != a->image->image->size ||
	    memcmp(text, a->image->image->bytes, len) != 0)
		host_fail(h, "what was promoted is not %s",
		    a->image->image->name);
	m->promoted++;
}

static void
checked_df(const struct host_answer *r)
{
	m->df_samples++;
	if (r->total > m->df_most)
		m->df_most = r->total;
	if (r->total > MIX_QUOTA + m->slack)
		host_fail(h, "df shows %" PRIu64 " bytes, of a quota of %d",
		    r->total, MIX_QUOTA);
}

static void
ask_ended(struct ask *a)
{
	struct host_answer r = host_wait(h, a->id);

	m->by_what[a->what]++;
	if (r.type == SUITE_BODY(FAILED) && !explained(a, &r))
		host_fail(h, "request %u of %s: code %d, %s", a->what,
		    a->image->image->name, (int)r.code, r.text);
	if (r.type == SUITE_BODY(FAILED))
		m->refused++;
	else if (a->what == ATTACH && a->image->detached < a->begun)
		mix_attach(a->image, &r);
	else if (a->what == PROMOTE)
		promoted(a);
	else if (a->what == DF)
		checked_df(&r);
	ask_forget(a);
}

bool
mix_asks_turn(void)
{
	bool any = false;

	for (unsigned i = 0; i < ASKS; i++) {
		struct ask *a = &asks[i];

		if (!a->id)
			continue;
		any = true;
		if (host_answered(h, a->id))
			ask_ended(a);
		else if (mix_now() - a->begun > LATE_ASK_S)
			host_fail(h, "request %u of %s takes %d s", a->what,
			    a->image->image->name, LATE_ASK_S);
	}
	return any;
}

void
mix_asks_forget(void)
{
	for (unsigned i = 0; i < ASKS; i++)
		ask_forget(&asks[i]);
}

unsigned
mix_asks_to_attach(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ASKS; i++)
		n += asks[i].id && asks[i].what == ATTACH &&
		    asks[i].image->rung != CTL_RUNG(WHOLE);
	return n;
}
