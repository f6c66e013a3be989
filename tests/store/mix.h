/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything at once against one cached: devices with many reads under way,
 * pulls, imports, promotions, eviction under a small quota, gc, pins, lists,
 * verify, scrub, faults of the network, deaths of fetcherd and of workers, and
 * (where cached is a process) kill -9, clean restarts and flips of bits that no
 * map refers to.  Every byte is compared.
 */
#ifndef TESTS_STORE_MIX_H
#define TESTS_STORE_MIX_H

#include "tests/store/host.h"

#define MIX_IMAGES	12
#define MIX_QUOTA	(14 * 1024 * 1024)	/* of some 30 MiB of images */

struct mix {
	/* Set before mix_run(). */
	struct host *h;
	double seconds;
	unsigned kills;		/* so many, evenly; 0: it is never restarted */
	uint64_t seed;		/* changed as it goes on */
	unsigned fault_ms;	/* at most, between two faults of the network */
	uint64_t slack;		/* bytes that df may show beyond the quota */
	uint64_t memory_max;	/* bytes of RssAnon; 0: not looked at */
	bool io_errors;		/* the store has some: requests may say so */
	/* For who reads too, or NULL: after an attach, before a detach, and when
	 * nothing will be attached any more. */
	void (*attached)(struct host_device *dev);
	void (*detaching)(struct host_device *dev);
	void (*settled)(void);

	/* What happened. */
	uint64_t first_seed;
	uint64_t reads, read_bytes, lanes, asks, refused, faults;
	unsigned by_what[16], promoted;
	uint64_t killed, suites, stopped, flips, failed, roomless;
	uint64_t fetched, lost;	/* bytes; lost: present before a kill, not after */
	uint64_t evictions, damaged, scrubs, unserved;
	uint64_t df_samples, df_most, disk_most, memory_most;
	int fds_fresh, fds_after;
};

/* The images, in a registry. */
struct reg *mix_registry(void);
extern const char mix_conf[];
/* The host was started with that registry and configuration, and runs at the
 * end.  host_fail() where something is not as it should be. */
void mix_run(struct mix *mix);
void mix_print(const struct mix *mix);
/* What host_on_fail is about: numbers, cached's log, how to repeat it. */
void mix_failed(const struct mix *mix, const char *program);

#endif
