// SPDX-License-Identifier: Apache-2.0
/*
 * Log lines on stderr.  What is not printable ASCII is replaced: text from a
 * registry must not be able to forge a line of its own, or drive a terminal.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define LINE_MAX_BYTES	1024	/* a longer line is cut, not split */

static const char *log_process = "shedstream";
static bool log_journal, log_verbose;

void
log_init(const char *process)
{
	log_process = process;
	log_journal = getenv("JOURNAL_STREAM") != NULL;
	log_verbose = getenv("SHEDSTREAM_DEBUG") != NULL;
}

static const char *
level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERR:
		return "error";
	case LOG_LEVEL_WARN:
		return "warning";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		break;
	}
	return "debug";
}

static size_t
put_prefix(char *line, size_t size, enum log_level level)
{
	struct timespec now;
	struct tm utc;
	char stamp[32];
	int n;

	if (log_journal) {
		n = snprintf(line, size, "<%d>%s[%d]: ", (int)level,
		    log_process, (int)getpid());
		return (size_t)n;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
	n = snprintf(line, size, "%s.%03ldZ %s %s[%d]: ", stamp,
	    now.tv_nsec / 1000000, level_name(level), log_process,
	    (int)getpid());
	return (size_t)n;
}

static void
log_va(enum log_level level, const char *fmt, va_list args)
{
	char line[LINE_MAX_BYTES];
	size_t start, len;
	int n;

	if (level == LOG_LEVEL_DEBUG && !log_verbose)
		return;
	start = put_prefix(line, sizeof(line), level);
	n = vsnprintf(line + start, sizeof(line) - start - 1, fmt, args);
	len = start + (n > 0 ? (size_t)n : 0);
	if (len > sizeof(line) - 2)
		len = sizeof(line) - 2;
	for (size_t i = start; i < len; i++)
		if ((unsigned char)line[i] < 0x20 ||
		    (unsigned char)line[i] > 0x7e)
			line[i] = '?';
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return;		/* nobody left to tell */
}

void
log_line(enum log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	log_va(level, fmt, args);
	va_end(args);
}

void
log_die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	log_va(LOG_LEVEL_ERR, fmt, args);
	va_end(args);
	exit(1);
}
