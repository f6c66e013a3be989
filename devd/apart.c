// SPDX-License-Identifier: Apache-2.0
/*
 * Work in a child process that can be abandoned.  The kernel's block drivers
 * may keep a caller waiting that no signal ends; so nothing is asked of them by
 * the parent itself.  A child that is late is killed, reported, and left to
 * itself; the parent reaps it whenever it does end.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"

struct apart {
	pid_t pid;
	int fd;			/* where its result comes; ends with it */
	struct event *answered;
	apart_done *done;
	void *owner;
};

/* In the child: nothing of the parent's stays open, least of all a device's
 * descriptor, whose last close tells the kernel something. */
static void
become(apart_work *work, const void *arg, int result_fd, int keep)
{
	int result;

	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	/* above both numbers, so that neither overwrites the other */
	result_fd = fcntl(result_fd, F_DUPFD_CLOEXEC, APART_FD + 2);
	if (keep >= 0)
		keep = fcntl(keep, F_DUPFD_CLOEXEC, APART_FD + 2);
	if (dup2(result_fd, APART_FD - 1) < 0 ||
	    (keep >= 0 && dup2(keep, APART_FD) < 0) ||
	    close_range(keep >= 0 ? APART_FD + 1 : APART_FD, ~0U, 0) < 0)
		_exit(1);
	result = work(arg);
	if (write(APART_FD - 1, &result, sizeof(result)) < 0)
		_exit(1);
	_exit(0);
}

/* Its pid, or -errno. */
static pid_t
begin(apart_work *work, const void *arg, int keep, int *out)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become(work, arg, ends[1], keep);
	if (pid < 0)
		pid = -errno;
	fd_close(ends[1]);
	if (pid < 0)
		fd_close(ends[0]);
	else
		*out = ends[0];
	return pid;
}

static int
result_of(int fd)
{
	int result;

	return read(fd, &result, sizeof(result)) == sizeof(result) ? result :
	    -ECHILD;
}

int
apart_run(apart_work *work, const void *arg, int keep, int ms)
{
	_cleanup_close_ int fd = -1;
	struct pollfd p = { .events = POLLIN };
	pid_t pid = begin(work, arg, keep, &fd);
	int r, result = -ETIMEDOUT;

	if (pid < 0)
		return pid;
	p.fd = fd;
	do {
		r = poll(&p, 1, ms);
	} while (r < 0 && errno == EINTR);
	if (r > 0)
		result = result_of(fd);
	else
		kill(pid, SIGKILL);
	waitpid(pid, NULL, r > 0 ? 0 : WNOHANG);
	return result;
}

static void
answered(evutil_socket_t fd, short what, void *arg)
{
	struct apart *a = arg;
	apart_done *done = a->done;
	void *owner = a->owner;
	int result = -ETIMEDOUT;

	if (what & EV_READ)
		result = result_of(fd);
	else
		log_err("process %d waits in the kernel's block layer: left to "
		    "itself", (int)a->pid);
	apart_free(a);
	done(owner, result);
}

struct apart *
apart_start(struct event_base *base, apart_work *work, const void *arg,
    int keep, int ms, apart_done *done, void *owner)
{
	struct timeval late = { ms / 1000, ms % 1000 * 1000 };
	struct apart *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->fd = -1;
	a->done = done;
	a->owner = owner;
	a->pid = begin(work, arg, keep, &a->fd);
	if (a->pid > 0)
		a->answered = event_new(base, a->fd, EV_READ, answered, a);
	if (!a->answered || event_add(a->answered, &late) < 0) {
		apart_free(a);
		return NULL;
	}
	return a;
}

void
apart_free(struct apart *a)
{
	if (!a)
		return;
	if (a->answered)
		event_free(a->answered);
	fd_close(a->fd);
	if (a->pid > 0)
		kill(a->pid, SIGKILL);	/* if it still is: we reap it later */
	free(a);
}
