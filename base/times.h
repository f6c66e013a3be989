/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The times that must be in order, from the shortest up, in one place:
 *
 *	connect, silence < attempt < chunk budget < alarm
 *	                             chunk budget <= outage-delay
 *
 * Nothing above them has a deadline by default: a read that no source can serve
 * waits for as long as it takes, and says so.  `shedctl doctor` prints them.
 */
#ifndef BASE_TIMES_H
#define BASE_TIMES_H

#include <stdbool.h>
#include <stdint.h>

/* Name, TCP and TLS of one connection together. */
#define TIME_CONNECT_MS	5000

/* Without a byte, once connected.  There is no total time of a transfer: a slow
 * link is no fault, a silent one is. */
#define TIME_IDLE_MS	8000

/* A read that waits for so long, and whose source has failed, is told in an
 * event: longer than the first two waits between attempts (RETRY_FIRST_MS in
 * cached/source.c), as what the second one mends is nobody's business. */
#define TIME_STALL_MS	1000

/* What one attempt at a source may take before its first byte. */
#define TIME_ATTEMPT_MS	(TIME_CONNECT_MS + TIME_IDLE_MS)

/* The chunk budget: by then a chunk has come, or was asked for in vain from a
 * second source too; from here on it is an outage. */
#define TIME_CHUNK_MS	30000

/* Reads of a device that wait for so long are an alarm: an error in the log and
 * an event, again after twice the time each, but at least once an hour. */
#define TIME_ALARM_MS	60000
#define TIME_ALARM_MOST_MS (60 * 60 * 1000)

_Static_assert(TIME_CONNECT_MS < TIME_ATTEMPT_MS &&
    TIME_IDLE_MS < TIME_ATTEMPT_MS, "an attempt connects, then waits");
_Static_assert(TIME_STALL_MS < TIME_CHUNK_MS,
    "an outage is told before its chunk budget is over");
_Static_assert(2 * TIME_ATTEMPT_MS <= TIME_CHUNK_MS,
    "a second source fits in the chunk budget");
_Static_assert(TIME_CHUNK_MS < TIME_ALARM_MS,
    "what may still come by itself is no alarm");
_Static_assert(TIME_ALARM_MS < TIME_ALARM_MOST_MS, "alarms become rarer");

/* The one of them that is configured, [network] outage-delay: does it leave a
 * chunk its budget?  conf.c refuses it otherwise. */
static inline bool
times_fit(uint64_t outage_delay_s)
{
	return outage_delay_s >= TIME_CHUNK_MS / 1000;
}

#endif
