// SPDX-License-Identifier: Apache-2.0
/*
 * What shedpack says on stderr while it works.  Bars, sizes and the taming of
 * strange text are shedctl's; this file only fits them to a program that does
 * one thing after the other.
 */
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/own.h"
#include "shedctl/shedctl.h"
#include "shedpack/shedpack.h"

#define STATE(name)	SHEDSTREAM__CONTROL__V1__PROGRESS__STATE__##name

static struct progress bar;
static bool ready;
static char bar_name[DIGEST_TEXT + 1];
static uint64_t bar_total;

static int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void
bar_report(uint64_t current, CTL(Progress__State) state)
{
	CTL(Progress) report = CTL_INIT(PROGRESS);

	report.digest = bar_name;
	report.state = state;
	report.current = current;
	report.total = bar_total;
	progress_update(&bar, &report, now_ms());
}

static void
bar_name_set(const char *name, uint64_t total)
{
	unsigned width = show_width(STDERR_FILENO);
	const char *term = getenv("TERM");

	if (!ready)
		progress_init(&bar, stderr, width > 0 &&
		    !(term && strcmp(term, "dumb") == 0), width);
	ready = true;
	progress_end(&bar, now_ms());
	snprintf(bar_name, sizeof(bar_name), "%s", name);
	bar_total = total;
}

void
bar_begin(const char *doing, const char *name, uint64_t total)
{
	bar_name_set(name, total);
	bar.doing = doing;
	bar_report(0, STATE(DOWNLOADING));
}

void
bar_at(uint64_t current)
{
	bar_report(current, STATE(DOWNLOADING));
}

void
bar_done(void)
{
	bar_report(bar_total, STATE(DONE));
	progress_end(&bar, now_ms());
}

void
bar_exists(const char *name, uint64_t size)
{
	bar_name_set(name, size);
	bar_report(size, STATE(EXISTS));
	progress_end(&bar, now_ms());
}

void
bar_end(void)
{
	if (ready)
		progress_end(&bar, now_ms());
}

void
bar_refusal(const struct refusal *why)
{
	_cleanup_free_ char *text = show_text(why->text, "\n");

	bar_end();
	fprintf(stderr, "shedpack: %s\n", text);
}

void
bar_note(const char *fmt, ...)
{
	struct refusal note;
	va_list args;

	va_start(args, fmt);
	vsnprintf(note.text, sizeof(note.text), fmt, args);
	va_end(args);
	bar_refusal(&note);
}

struct bar_text
bar_size(uint64_t bytes)
{
	struct bar_text t;

	snprintf(t.text, sizeof(t.text), "%s", show_size(bytes).text);
	return t;
}
