// SPDX-License-Identifier: Apache-2.0
/*
 * Threads: two that hash and write units, one that syncs, one that reads whole
 * files.  A job goes in by work_submit() and comes back through a pipe, whose
 * event calls done() in the loop.  Queues need no bound of their own: each fill
 * has one job, each layout one sync and one digest.
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
#include "cached/room.h"

#define HASH_THREADS	2

struct lane {
	pthread_mutex_t lock;
	pthread_cond_t more;
	STAILQ_HEAD(, job) queue;
};

static struct lane hash_lane, sync_lane, scrub_lane, done_lane;
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

static int
keep(struct job *job)
{
	int r;

	job->digest = digest_of(job->buf, job->len);
	if (job->has_expected && !digest_equal(&job->digest, &job->expected))
		return -EBADMSG;
	r = room_reserve(job->fd, job->offset, job->len);
	return r < 0 ? r : fd_pwrite_all(job->fd, job->buf, job->len,
	    job->offset);
}

static int
check(struct job *job)
{
	ssize_t n = fd_pread_all(job->fd, job->buf, job->len, job->offset);

	if (n < 0)
		return (int)n;
	if ((size_t)n != job->len)
		return -EIO;
	job->digest = digest_of(job->buf, job->len);
	if (job->has_expected && !digest_equal(&job->digest, &job->expected))
		return -EBADMSG;
	return 0;
}

static int
run(struct job *job)
{
	switch (job->kind) {
	case JOB_KEEP:
		return keep(job);
	case JOB_CHECK:
		return check(job);
	case JOB_SYNC:
		return sync_run(job->layout, job->batch);
	case JOB_DIGEST:
		return finish_run(job);
	}
	return -EINVAL;
}

static void *
thread_main(void *arg)
{
	struct lane *lane = arg;

	for (;;) {
		struct job *job = lane_take(lane, true);

		job->result = run(job);
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
start_thread(struct lane *lane)
{
	pthread_t thread;
	int r = pthread_create(&thread, NULL, thread_main, lane);

	if (r != 0)
		log_die("start a thread: %s", strerror(r));
	pthread_detach(thread);
}

void
work_start(void)
{
	struct event *woken;

	lane_init(&hash_lane);
	lane_init(&sync_lane);
	lane_init(&scrub_lane);
	lane_init(&done_lane);
	if (pipe(wake) < 0 || fd_nonblock(wake[0]) < 0 ||
	    fd_nonblock(wake[1]) < 0)
		log_die("make a pipe: %s", strerror(errno));
	woken = event_new(loop, wake[0], EV_READ | EV_PERSIST, jobs_done,
	    NULL);
	if (!woken || event_add(woken, NULL) < 0)
		log_die("no memory for an event");
	for (int i = 0; i < HASH_THREADS; i++)
		start_thread(&hash_lane);
	start_thread(&sync_lane);
	start_thread(&scrub_lane);
}

void
work_submit(struct job *job)
{
	pending++;
	lane_put(job->kind == JOB_SYNC ? &sync_lane :
	    job->kind == JOB_DIGEST ? &scrub_lane : &hash_lane, job);
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
