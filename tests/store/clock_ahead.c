// SPDX-License-Identifier: Apache-2.0
/* The clocks and timers of cached-recorded, which a test may set ahead and let
 * run faster (record.h): the linker puts these in the place of the C library's
 * and libevent's (--wrap, see the Makefile). */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <event2/event.h>

#include "tests/store/record.h"

#define TIMER_LEAST_US	1000	/* lest a fast clock be a busy loop */

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __real_event_add(struct event *ev, const struct timeval *tv);
int __wrap_event_add(struct event *ev, const struct timeval *tv);

static uint64_t
real_us(void)
{
	struct timespec t;

	__real_clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* How many times faster than real time. */
static uint64_t
speed(const struct record_fault *f)
{
	uint64_t fast = f ? atomic_load(&f->fast) : 0;

	return fast ? fast : 1;
}

static uint64_t
ahead_us(void)
{
	const struct record_fault *f = record_faults();
	uint64_t fast = speed(f), us = f ? atomic_load(&f->ahead_ms) * 1000 :
	    0;

	if (fast > 1)
		us += (real_us() - atomic_load(&f->fast_since_us)) *
		    (fast - 1);
	return us;
}

int
__wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	int r = __real_clock_gettime(id, t);
	uint64_t us;

	if (r < 0 || (id != CLOCK_MONOTONIC && id != CLOCK_REALTIME))
		return r;
	us = ahead_us() + (uint64_t)t->tv_nsec / 1000;
	t->tv_sec += (time_t)(us / 1000000);
	t->tv_nsec = (long)(us % 1000000) * 1000 + t->tv_nsec % 1000;
	return r;
}

int
__wrap_event_add(struct event *ev, const struct timeval *tv)
{
	uint64_t fast = speed(record_faults()), us;
	struct timeval sooner;

	if (!tv || fast == 1)
		return __real_event_add(ev, tv);
	us = ((uint64_t)tv->tv_sec * 1000000 + (uint64_t)tv->tv_usec) / fast;
	if (us < TIMER_LEAST_US)
		us = TIMER_LEAST_US;
	sooner = (struct timeval){ (time_t)(us / 1000000),
		(suseconds_t)(us % 1000000) };
	return __real_event_add(ev, &sooner);
}
