/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines on stderr: time, level, process, text.  One write(2) a line, so
 * that lines of several processes don't mix.  Under a journal (JOURNAL_STREAM)
 * the time is left to it and the level goes as its "<N>" prefix.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level {	/* syslog's numbers */
	LOG_LEVEL_ERR = 3,
	LOG_LEVEL_WARN = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,	/* only with $SHEDSTREAM_DEBUG */
};

/* process: a string that outlives the program.  Call before the first line. */
void log_init(const char *process);

void log_line(enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define log_err(...)	log_line(LOG_LEVEL_ERR, __VA_ARGS__)
#define log_warn(...)	log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)	log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Log and end the process with status 1: for a broken protocol of a sibling
 * and for start-up that can't succeed. */
void log_die(const char *fmt, ...)
    __attribute__((format(printf, 1, 2), noreturn));

#endif
