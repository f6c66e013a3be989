// SPDX-License-Identifier: Apache-2.0
/*
 * Threads: two that hash and write chunks, one that syncs, one that reads whole
 * files, one for files of clients.  A job goes in by work_submit() and comes
 * back through a pipe, whose event calls done() in the loop.  Queues need no
 * bound of their own: each fill has one job, each file one sync, each layout
 * one digest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "cached/cached.h"
#include "cached/idle.h"

#define HASH_THREADS	2

struct lane {
	pthread_mutex_t lock;
	pthread_cond_t more;
	STAILQ_HEAD(, job) queue;
};

static struct lane lanes[WORK_LANES], done_lane;
static int wake[2];
_Atomic bool work_stopping;
static size_t pending;		/* the loop's */

static void
lane_init(struct lane *lane)
{
	pthread_mutex_init(&lane->lock, NULL);
	pthread_cond_init(&lane->more, NULL);
	STAILQ_INIT(&lane->queue);
}

static bool
lane_put(struct lane *lane, struct job *job)
{
	bool was_empty;

	pthread_mutex_lock(&lane->lock);
	was_empty = STAILQ_EMPTY(&lane->queue);
	STAILQ_INSERT_TAIL(&lane->queue, job, entry);
	pthread_cond_signal(&lane->more);
	pthread_mutex_unlock(&lane->lock);
	return was_empty;
}

static struct job *
lane_take(struct lane *lane, bool wait)
{
	struct job *job;

	pthread_mutex_lock(&lane->lock);
	while (wait && STAILQ_EMPTY(&lane->queue))
		pthread_cond_wait(&lane->more, &lane->lock);
	job = STAILQ_FIRST(&lane->queue);
	if (job)
		STAILQ_REMOVE_HEAD(&lane->queue, entry);
	pthread_mutex_unlock(&lane->lock);
	return job;
}

static void *
thread_main(void *arg)
{
	struct lane *lane = arg;

	if (lane == &lanes[WORK_SCRUB])
		idle_priority();
	for (;;) {
		struct job *job = lane_take(lane, true);

		job->result = job->run(job);
		if (lane_put(&done_lane, job) &&
		    write(wake[1], "", 1) < 0 && errno != EAGAIN)
			log_die("wake the event loop: %s", strerror(errno));
	}
	return NULL;
}

static void
jobs_done(evutil_socket_t fd, short what, void *arg)
{
	char bytes[64];
	struct job *job;

	(void)what;
	(void)arg;
	while (read(fd, bytes, sizeof(bytes)) > 0)
		;
	while ((job = lane_take(&done_lane, false))) {
		pending--;
		job->done(job);
	}
}

static void
start_thread(enum work_lane lane)
{
	pthread_t thread;
	int r = pthread_create(&thread, NULL, thread_main, &lanes[lane]);

	if (r != 0)
		log_die("start a thread: %s", strerror(r));
	pthread_detach(thread);
}

void
work_start(void)
{
	struct event *woken;

	for (int i = 0; i < WORK_LANES; i++)
		lane_init(&lanes[i]);
	lane_init(&done_lane);
	if (pipe(wake) < 0 || fd_nonblock(wake[0]) < 0 ||
	    fd_nonblock(wake[1]) < 0)
		log_die("make a pipe: %s", strerror(errno));
	woken = event_new(loop, wake[0], EV_READ | EV_PERSIST, jobs_done,
	    NULL);
	if (!woken || event_add(woken, NULL) < 0)
		log_die("no memory for an event");
	for (int i = 0; i < HASH_THREADS; i++)
		start_thread(WORK_HASH);
	start_thread(WORK_SYNC);
	start_thread(WORK_SCRUB);
	start_thread(WORK_COPY);
}

void
work_submit(struct job *job)
{
	pending++;
	lane_put(&lanes[job->lane], job);
}

void
work_drain(void)
{
	while (pending > 0) {
		struct job *job = lane_take(&done_lane, true);

		pending--;
		job->done(job);
	}
}
