// SPDX-License-Identifier: Apache-2.0
/*
 * login, logout: what a person types or a script pipes, as a docker config.json
 * with this one entry in sealed memory, which goes to the service as it is.
 * Whatever held a secret here is wiped; none is ever an argument, in the
 * environment, or in a file.
 *
 *	terminal		User, Password		without echo
 *	standard input		{ ... }			a docker config.json
 *				USER:PASSWORD
 *				USER, PASSWORD		a line each
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/select.h>

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/own.h"
#include "base/shm.h"
#include "fetcherd/secret.h"
#include "shedctl/shedctl.h"

#define INPUT_MAX	(256 * 1024)	/* bytes: config.json, with other hosts */
#define FIELD_MAX	4096		/* of a user name or password, as secret.c */

static const char forms[] = "give USER:PASSWORD, a line with each, or a docker "
    "config.json";

__attribute__((format(printf, 2, 3))) static enum status
refuse(struct shedctl *ctl, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST), "%s", text);
}

/* ---- standard input ---- */

/* All of it into text, which has room for size bytes.  The count, size if there
 * is more, or -errno. */
static ssize_t
read_all(char *text, size_t size)
{
	size_t have = 0;
	ssize_t n;

	while (have < size) {
		n = read(STDIN_FILENO, text + have, size - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

/* Ends the line at text; what comes behind it. */
static char *
cut_line(char *text)
{
	char *end = strchr(text, '\n'), *rest = end ? end + 1 : NULL;

	if (end) {
		*end = '\0';
		if (end > text && end[-1] == '\r')
			end[-1] = '\0';
	}
	return rest ? rest : text + strlen(text);
}

static enum status
check(struct shedctl *ctl, const char *user, const char *password)
{
	if (!*user || !*password)
		return refuse(ctl, "there is no %s; %s", *user ? "password" :
		    "user name", forms);
	if (strchr(user, ':'))
		return refuse(ctl, "a user name has no colon; %s", forms);
	if (strlen(user) > FIELD_MAX || strlen(password) > FIELD_MAX)
		return refuse(ctl, "a user name or password has at most %d "
		    "bytes; %s", FIELD_MAX, forms);
	return STATUS_DONE;
}

static enum status
take(struct shedctl *ctl, const char *user, const char *password,
    struct credentials *c)
{
	enum status status = check(ctl, user, password);

	if (status != STATUS_DONE)
		return status;
	c->user = strdup(user);
	c->password = strdup(password);
	return c->user && c->password ? STATUS_DONE :
	    refuse(ctl, "no memory for the credentials; free some");
}

static enum status
take_lines(struct shedctl *ctl, char *text, struct credentials *c)
{
	char *second = cut_line(text), *third = cut_line(second), *colon;

	if (*third)
		return refuse(ctl, "standard input has more than two lines; "
		    "%s", forms);
	if (*second)
		return take(ctl, text, second, c);
	colon = strchr(text, ':');
	if (!colon)
		return refuse(ctl, "standard input has no user name and "
		    "password; %s", forms);
	*colon = '\0';
	return take(ctl, text, colon + 1, c);
}

static enum status
take_config(struct shedctl *ctl, const char *text, size_t len,
    struct credentials *c)
{
	const char *host = ctl->args[0];

	secret_init();
	switch (secret_auth_file(text, len, host, c)) {
	case 0:
		return check(ctl, c->user, c->password);
	case -ENOENT:
		return refuse(ctl, "standard input is a docker config.json "
		    "without an entry for %s; log in there first, or give "
		    "USER:PASSWORD", host);
	case -ENOTSUP:
		return refuse(ctl, "the entry for %s holds no user name and "
		    "password: a credential helper has them, or it is an "
		    "identity token; give USER:PASSWORD", host);
	default:
		return refuse(ctl, "standard input begins like a docker "
		    "config.json and is none that can be read; %s", forms);
	}
}

static enum status
take_input(struct shedctl *ctl, struct credentials *c)
{
	_cleanup_free_ char *text = calloc(1, INPUT_MAX + 2);
	enum status status;
	ssize_t len;

	if (!text)
		return refuse(ctl, "no memory for the credentials; free some");
	len = read_all(text, INPUT_MAX + 1);
	if (len < 0)
		status = refuse(ctl, "cannot read standard input: %s; %s",
		    strerror((int)-len), forms);
	else if (len > INPUT_MAX)
		status = refuse(ctl, "standard input has more than %d KiB; "
		    "%s", INPUT_MAX / 1024, forms);
	else if (strlen(text) != (size_t)len)
		status = refuse(ctl, "standard input has zero bytes; %s",
		    forms);
	else if (text[strspn(text, " \t\r\n")] == '{')
		status = take_config(ctl, text, (size_t)len, c);
	else
		status = take_lines(ctl, text, c);
	explicit_bzero(text, INPUT_MAX + 2);
	return status;
}

/* ---- a terminal ---- */

static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };
static volatile sig_atomic_t caught;

static void
signalled(int sig)
{
	caught = sig;
}

/* Wait for a line, and for signals only here: none is lost on the way. */
static ssize_t
wait_line(char *line, size_t size, const sigset_t *mask)
{
	fd_set in;
	ssize_t n;

	FD_ZERO(&in);
	FD_SET(STDIN_FILENO, &in);
	n = pselect(STDIN_FILENO + 1, &in, NULL, NULL, NULL, mask);
	if (n > 0)
		n = read(STDIN_FILENO, line, size);
	return n < 0 ? -errno : n;
}

/* Ask for one line; the terminal is as it was before when this returns, or when
 * a signal takes its course.  What was typed too early is dropped, and what is
 * typed when the question is there is not.  The count, or -errno. */
static ssize_t
read_line(const char *what, char *line, size_t size, bool hidden)
{
	struct sigaction before[ARRAY_LEN(signals)];
	struct sigaction catch = { .sa_handler = signalled };
	struct termios was, quiet;
	sigset_t ours, mask;
	ssize_t n;

	if (tcgetattr(STDIN_FILENO, &was) < 0)
		return -errno;
	quiet = was;
	if (hidden) {
		quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK);
		quiet.c_lflag |= ECHONL;
	}
	caught = 0;
	sigemptyset(&ours);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaddset(&ours, signals[i]);
	sigprocmask(SIG_BLOCK, &ours, &mask);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaction(signals[i], &catch, &before[i]);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
	fprintf(stderr, "%s: ", what);
	fflush(stderr);
	n = wait_line(line, size, &mask);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &was);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaction(signals[i], &before[i], NULL);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	return n;
}

/* Into line, which has size bytes. */
static enum status
ask_line(struct shedctl *ctl, const char *what, char *line, size_t size,
    bool hidden)
{
	ssize_t n;

	do {
		n = read_line(what, line, size - 1, hidden);
		if (caught) {
			fputc('\n', stderr);
			raise(caught);
		}
	} while (caught || n == -EINTR);	/* it was stopped, goes on */
	if (n <= 0)
		return refuse(ctl, "no %s was given; run login again", what);
	line[n] = '\0';
	if ((size_t)n == size - 1 && line[n - 1] != '\n')
		return refuse(ctl, "the %s is longer than %zu bytes; give it "
		    "by standard input", what, size - 2);
	cut_line(line);
	return STATUS_DONE;
}

static enum status
take_typed(struct shedctl *ctl, struct credentials *c)
{
	char user[FIELD_MAX + 2], password[FIELD_MAX + 2];
	enum status status;

	fprintf(stderr, "Credentials for %s\n", ctl->args[0]);
	status = ask_line(ctl, "User", user, sizeof(user), false);
	if (status == STATUS_DONE)
		status = ask_line(ctl, "Password", password, sizeof(password),
		    true);
	if (status == STATUS_DONE)
		status = take(ctl, user, password, c);
	explicit_bzero(password, sizeof(password));
	return status;
}

/* ---- to the service ---- */

/* HOST, of letters that need no care in JSON; the service looks closer. */
static bool
host_plain(const char *host)
{
	return *host && strspn(host, "abcdefghijklmnopqrstuvwxyz"
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]") == strlen(host);
}

static enum status
send_credentials(struct shedctl *ctl, const char *text)
{
	CTL(SetCredentials) body = CTL_INIT(SET_CREDENTIALS);
	_cleanup_close_ int fd = shm_sealed("credentials", text, strlen(text));

	if (fd < 0)
		return client_fail(&ctl->failure, CTL_CODE(INTERNAL),
		    "cannot hold the credentials: %s; free some memory",
		    strerror(-fd));
	body.host = ctl->args[0];
	return ask_done(ctl, CTL_BODY(SET_CREDENTIALS), &body, AGAIN, fd);
}

static enum status
send_login(struct shedctl *ctl, const struct credentials *c)
{
	_cleanup_secret_ char *basic = secret_basic(c), *text = NULL;

	if (!basic || asprintf(&text, "{\"auths\":{\"%s\":{\"auth\":\"%s\"}}}",
	    ctl->args[0], basic + strlen("Basic ")) < 0) {
		text = NULL;
		return refuse(ctl, "no memory for the credentials; free some");
	}
	return send_credentials(ctl, text);
}

static enum status
refuse_host(struct shedctl *ctl)
{
	return refuse(ctl, "%.100s is no registry's host; name it as images "
	    "do, HOST[:PORT]", ctl->args[0]);
}

enum status
run_login(struct shedctl *ctl)
{
	const struct rlimit no_core = { 0, 0 };
	struct credentials c = { 0 };
	enum status status;

	if (!host_plain(ctl->args[0]))
		return refuse_host(ctl);
	setrlimit(RLIMIT_CORE, &no_core);
	status = isatty(STDIN_FILENO) ? take_typed(ctl, &c) :
	    take_input(ctl, &c);
	if (status == STATUS_DONE)
		status = send_login(ctl, &c);
	secret_done(&c);
	return status;
}

enum status
run_logout(struct shedctl *ctl)
{
	return host_plain(ctl->args[0]) ? send_credentials(ctl, "") :
	    refuse_host(ctl);
}
