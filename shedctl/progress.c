// SPDX-License-Identifier: Apache-2.0
/*
 * Long work on stderr.  On a terminal one line that is drawn again, at most 10
 * times a second; elsewhere plain lines, at most one a second.  The first and
 * the last report of each digest always show: the last is known by its state,
 * or by progress_end().
 *
 * The rate is smoothed over a few seconds while it runs, and the mean of the
 * whole in the last line.
 */
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "shedctl/shedctl.h"

#define REDRAW_MS	100
#define LINE_MS		1000
#define RATE_MS		500	/* a sample of the rate */
#define RATE_WEIGHT	0.25	/* of the newest sample */
#define BAR_MIN		8	/* cells; a narrower bar says nothing */
#define BAR_MAX		40
#define LINE_BYTES	512

#define STATE(name)	SHEDSTREAM__CONTROL__V1__PROGRESS__STATE__##name

void
progress_init(struct progress *p, FILE *out, bool terminal, unsigned width)
{
	*p = (struct progress){ .out = out, .terminal = terminal,
		.width = width, .doing = "downloading" };
}

static bool
is_last(const struct progress *p)
{
	return p->state == STATE(DONE) || p->state == STATE(EXISTS);
}

static void
rate_sample(struct progress *p, int64_t now_ms)
{
	int64_t ms = now_ms - p->rate_ms;
	double sample;

	if (ms < RATE_MS || p->current < p->rate_current)
		return;
	sample = (double)(p->current - p->rate_current) * 1000 / (double)ms;
	p->rate = p->rate > 0 ? p->rate + RATE_WEIGHT * (sample - p->rate) :
	    sample;
	p->rate_ms = now_ms;
	p->rate_current = p->current;
}

/* Bytes a second to show; 0: not known yet. */
static double
rate_now(const struct progress *p, int64_t now_ms)
{
	if (!is_last(p))
		return p->rate;
	if (now_ms <= p->start_ms || p->current <= p->first)
		return 0;
	return (double)(p->current - p->first) * 1000 /
	    (double)(now_ms - p->start_ms);
}

/* ", 5.2 MiB/s, 1:05 left" with the given separator */
static void
put_rate(const struct progress *p, int64_t now_ms, const char *between,
    char *buf, size_t size)
{
	double rate = rate_now(p, now_ms);
	double left = p->total > p->current ?
	    (double)(p->total - p->current) : 0;
	size_t n;

	buf[0] = '\0';
	if (rate <= 0)
		return;
	snprintf(buf, size, "%s%s/s", between, show_size((uint64_t)rate).text);
	n = strlen(buf);
	if (!is_last(p))
		snprintf(buf + n, size - n, "%s%s left", between,
		    show_seconds(left / rate).text);
}

static const char *
state_name(const struct progress *p)
{
	return p->state == STATE(EXISTS) ? "exists" :
	    p->state == STATE(DONE) ? "done" : p->doing;
}

/* "3f2a90c1d4e5 [####    ]  50%  12.0 MiB of 24.0 MiB  5.2 MiB/s  0:02 left" */
static void
bar_line(const struct progress *p, const char *name, int64_t now_ms, char *buf,
    size_t size)
{
	char tail[160], rate[64], bar[BAR_MAX + 3];
	double share = p->total > 0 && p->current < p->total ?
	    (double)p->current / (double)p->total : 1;
	int room;

	put_rate(p, now_ms, "  ", rate, sizeof(rate));
	snprintf(tail, sizeof(tail), "%4s  %s of %s%s",
	    show_percent(p->current, p->total).text,
	    show_size(p->current).text, show_size(p->total).text,
	    is_last(p) && rate[0] == '\0' ? "  done" : rate);
	/* one column stays free: a full line would wrap on some terminals */
	room = (int)p->width - (int)strlen(name) - (int)strlen(tail) - 5;
	if (room > BAR_MAX)
		room = BAR_MAX;
	bar[0] = '\0';
	if (room >= BAR_MIN) {
		memset(bar, ' ', sizeof(bar));
		memset(bar + 1, '#', (size_t)(share * room));
		bar[0] = '[';
		bar[room + 1] = ']';
		bar[room + 2] = '\0';
	}
	snprintf(buf, size, "%s %s %s", name, bar, tail);
	if (p->width > 1 && strlen(buf) >= p->width && p->width - 1 < size)
		buf[p->width - 1] = '\0';
}

void
progress_line(const struct progress *p, int64_t now_ms, char *buf,
    size_t size)
{
	_cleanup_free_ char *name = show_text(p->digest, "");
	char rate[64];

	if (p->terminal) {
		const char *hex = strncmp(name, "sha256:", 7) == 0 ? name + 7 :
		    name;
		char brief[13];

		snprintf(brief, sizeof(brief), "%s", hex);
		bar_line(p, brief, now_ms, buf, size);
		return;
	}
	put_rate(p, now_ms, ", ", rate, sizeof(rate));
	snprintf(buf, size, "%s: %s, %s of %s (%s)%s", name, state_name(p),
	    show_size(p->current).text, show_size(p->total).text,
	    show_percent(p->current, p->total).text, rate);
}

static void
progress_draw(struct progress *p, int64_t now_ms)
{
	char text[LINE_BYTES];

	progress_line(p, now_ms, text, sizeof(text));
	if (p->terminal)
		fprintf(p->out, "\r%s\033[K", text);
	else
		fprintf(p->out, "%s\n", text);
	fflush(p->out);
	p->open = p->terminal;
	p->pending = false;
	p->shown_ms = now_ms;
}

void
progress_end(struct progress *p, int64_t now_ms)
{
	if (p->pending)
		progress_draw(p, now_ms);
	if (p->open)
		fputc('\n', p->out);
	fflush(p->out);
	p->open = false;
	p->seen = false;
}

void
progress_update(struct progress *p, const CTL(Progress) *report,
    int64_t now_ms)
{
	bool first = !p->seen || strncmp(p->digest, report->digest,
	    sizeof(p->digest) - 1) != 0;

	if (first) {
		progress_end(p, now_ms);
		snprintf(p->digest, sizeof(p->digest), "%s", report->digest);
		p->start_ms = p->rate_ms = now_ms;
		p->first = p->rate_current = report->current;
		p->rate = 0;
		p->seen = true;
	} else if (is_last(p) && report->state == p->state)
		return;		/* told before: the request was sent again */
	p->state = report->state;
	p->current = report->current;
	p->total = report->total;
	rate_sample(p, now_ms);
	p->pending = true;
	if (first || is_last(p) || now_ms - p->shown_ms >=
	    (p->terminal ? REDRAW_MS : LINE_MS))
		progress_draw(p, now_ms);
}
