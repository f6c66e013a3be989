// SPDX-License-Identifier: Apache-2.0
/* What all commands do: ask, wait with the progress shown, end its line. */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/own.h"
#include "shedctl/shedctl.h"

enum status
ask_fd(struct shedctl *ctl, unsigned type, const void *body, unsigned want,
    bool again, int fd, struct answer *a)
{
	struct call call = { .type = type, .body = body, .want = want,
		.fd = fd, .again = again };
	enum status status = client_call(&ctl->client, &call, a);

	progress_end(&ctl->progress, client_now_ms());
	return status;
}

enum status
ask(struct shedctl *ctl, unsigned type, const void *body, unsigned want,
    bool again, struct answer *a)
{
	return ask_fd(ctl, type, body, want, again, -1, a);
}

enum status
ask_show(struct shedctl *ctl, unsigned type, const void *body, unsigned want,
    void (*json)(const struct answer *a), void (*show)(const struct answer *a))
{
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask(ctl, type, body, want, AGAIN, &a);

	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json(&a);
	else
		show(&a);
	return STATUS_DONE;
}

enum status
ask_done(struct shedctl *ctl, unsigned type, const void *body, bool again,
    int fd)
{
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status = ask_fd(ctl, type, body, CTL_BODY(DONE), again, fd,
	    &a);

	if (status == STATUS_DONE && ctl->opt.json)
		json_show(json_pack("{sb}", "done", 1));
	return status;
}

enum status
ask_fail_file(struct shedctl *ctl, const char *what, const char *path)
{
	return client_fail(&ctl->failure, errno == EACCES || errno == EPERM ?
	    CTL_CODE(NOT_PERMITTED) : errno == ENOSPC ? CTL_CODE(NO_SPACE) :
	    CTL_CODE(BAD_REQUEST), "cannot %s %s: %s; name another file",
	    what, path, strerror(errno));
}
