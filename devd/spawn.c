// SPDX-License-Identifier: Apache-2.0
/*
 * The parent's children: start one, note how one ended, decide how soon it
 * may start again.  The first restart is immediate; from the third death
 * within 10 s on it waits, doubling up to 1 s.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "base/self.h"
#include "devd/devd.h"

#define DEATH_WINDOW_S	10
#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS	1000

static char program_dir[PATH_MAX];

void
spawn_init(void)
{
	int r = self_directory(program_dir, sizeof(program_dir));

	if (r < 0)
		log_die("where is this program? %s", strerror(-r));
}

const char *
spawn_self(void)
{
	static char path[PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/devd", program_dir);
	return path;
}

static double
now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* In the child, between fork and exec. */
static void
become(const struct child *child, int fd)
{
	char path[PATH_MAX + 32];
	char *argv[] = { (char *)child->program, (char *)child->argument,
		NULL };
	sigset_t none;

	snprintf(path, sizeof(path), "%s/%s", program_dir, child->program);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	/* The terminal's interrupt is the parent's to handle. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (fd == CHILD_FD)
		fd_cloexec(fd, 0);
	else if (dup2(fd, CHILD_FD) < 0)
		_exit(127);
	execv(path, argv);
	log_err("exec %s: %s", path, strerror(errno));
	_exit(127);
}

int
spawn_child(struct child *child, struct event_base *base,
    const struct parent_ops *ops)
{
	int pair[2];
	pid_t pid;
	int r = fd_pair(pair);

	if (r < 0)
		return r;
	pid = fork();
	if (pid < 0) {
		r = -errno;
		fd_close(pair[0]);
		fd_close(pair[1]);
		return r;
	}
	if (pid == 0)
		become(child, pair[1]);
	fd_close(pair[1]);
	child->pid = pid;
	child->ready = false;
	child->link = parent_link_new(base, pair[0], ops, child);
	if (!child->link) {
		kill(pid, SIGKILL);
		return -ENOMEM;
	}
	return 0;
}

static void
describe(struct child *child, int status)
{
	if (WIFSIGNALED(status))
		snprintf(child->why, sizeof(child->why), "killed by signal %d "
		    "(%s)%s", WTERMSIG(status), strsignal(WTERMSIG(status)),
		    WTERMSIG(status) == SIGSYS ? ": its policy forbids what it "
		    "tried, see the audit log" : "");
	else
		snprintf(child->why, sizeof(child->why), "exited with status "
		    "%d", WEXITSTATUS(status));
}

uint32_t
spawn_ended(struct child *child, int status)
{
	double now = now_s();

	describe(child, status);
	child->pid = 0;
	child->ready = false;
	parent_link_free(take_ptr(child->link));
	if (child->deaths[1] == 0 || now - child->deaths[1] > DEATH_WINDOW_S)
		child->backoff_ms = 0;
	else if (child->backoff_ms == 0)
		child->backoff_ms = BACKOFF_FIRST_MS;
	else if (child->backoff_ms < BACKOFF_MAX_MS / 2)
		child->backoff_ms *= 2;
	else
		child->backoff_ms = BACKOFF_MAX_MS;
	child->deaths[1] = child->deaths[0];
	child->deaths[0] = now;
	child->restarts++;
	return child->backoff_ms;
}
