// SPDX-License-Identifier: Apache-2.0
/*
 * The commands about the store: what is kept, what it takes, whether it is
 * right, what goes out of it and comes in.
 *
 * Descriptors that ride along are opened here, with the caller's rights: the
 * service never opens a path that a client names.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/own.h"
#include "shedctl/shedctl.h"

#define KEEP_MAX	4096	/* digests of a list: as the service takes */

static enum status
pin(struct shedctl *ctl, bool on)
{
	CTL(Pin) body = CTL_INIT(PIN);

	body.image = ctl->args[0];
	body.pin = on;
	return ask_done(ctl, CTL_BODY(PIN), &body, AGAIN, -1);
}

enum status
run_pin(struct shedctl *ctl)
{
	return pin(ctl, true);
}

enum status
run_unpin(struct shedctl *ctl)
{
	return pin(ctl, false);
}

enum status
run_rm(struct shedctl *ctl)
{
	CTL(Drop) body = CTL_INIT(DROP);

	body.image = ctl->args[0];
	return ask_done(ctl, CTL_BODY(DROP), &body, ONCE, -1);
}

enum status
run_gc(struct shedctl *ctl)
{
	CTL(Gc) body = CTL_INIT(GC);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	enum status status;

	body.dry_run = ctl->opt.dry_run;
	body.max_bytes = ctl->opt.max_bytes;
	body.until_s = ctl->opt.until_s;
	status = ask(ctl, CTL_BODY(GC), &body, CTL_BODY(GC_REPLY), ONCE, &a);
	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.json)
		json_gc(&a);
	else
		show_gc(&a, body.dry_run);
	return STATUS_DONE;
}

static void
show_df_here(const struct answer *a)
{
	show_df(a, show_width(STDOUT_FILENO));
}

enum status
run_df(struct shedctl *ctl)
{
	CTL(Df) body = CTL_INIT(DF);

	return ask_show(ctl, CTL_BODY(DF), &body, CTL_BODY(DF_REPLY), json_df,
	    show_df_here);
}

enum status
run_verify(struct shedctl *ctl)
{
	CTL(Verify) body = CTL_INIT(VERIFY);
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	const CTL(VerifyReply) *r;
	enum status status;

	if (ctl->n_args == 1)
		body.image = ctl->args[0];
	body.all = ctl->opt.all;
	ctl->progress.doing = "verifying";
	status = ask(ctl, CTL_BODY(VERIFY), &body, CTL_BODY(VERIFY_REPLY),
	    AGAIN, &a);
	if (status != STATUS_DONE)
		return status;
	r = a.parts[0].frame->verify_reply;
	if (ctl->opt.json)
		json_verify(r);
	else
		show_verify(r);
	if (r->repaired >= r->damaged)
		return STATUS_DONE;
	return client_fail(&ctl->failure, CTL_CODE(DIGEST_MISMATCH), "%ju of "
	    "%ju damaged chunks could not be fetched again and are not kept; "
	    "see whether the registry can be reached, then try again",
	    (uintmax_t)(r->damaged - r->repaired), (uintmax_t)r->damaged);
}

/* keep. */

/* A line of the list: a digest, or nothing but blanks and a comment (*any is
 * false).  0 or -EINVAL. */
static int
keep_line(char *text, size_t len, char **digest, bool *any)
{
	struct digest parsed;

	if (strlen(text) != len)
		return -EINVAL;
	text += strspn(text, " \t");
	len = strcspn(text, "#\r\n");
	while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\t'))
		len--;
	text[len] = '\0';
	*any = len > 0;
	*digest = text;
	return len == 0 ? 0 : digest_parse(text, &parsed);
}

/* The digests of a file into body, which has room for KEEP_MAX; the caller
 * frees each. */
static enum status
keep_read(struct shedctl *ctl, FILE *f, CTL(Keep) *body)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0, number = 0;
	ssize_t len;

	while ((len = getline(&text, &size, f)) >= 0) {
		char *digest, *copy;
		bool any;

		number++;
		if (keep_line(text, (size_t)len, &digest, &any) < 0)
			return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
			    "%s:%zu is no sha256:HEX; write one digest a line. "
			    "What is kept stays as it was", ctl->args[0],
			    number);
		if (!any)
			continue;
		if (body->n_digests == KEEP_MAX || !(copy = strdup(digest)))
			return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
			    "%s names more than %d digests; keep fewer",
			    ctl->args[0], KEEP_MAX);
		body->digests[body->n_digests++] = copy;
	}
	return ferror(f) ? ask_fail_file(ctl, "read", ctl->args[0]) :
	    STATUS_DONE;
}

enum status
run_keep(struct shedctl *ctl)
{
	CTL(Keep) body = CTL_INIT(KEEP);
	_cleanup_fclose_ FILE *f = fopen(ctl->args[0], "re");
	_cleanup_free_ char **list = calloc(KEEP_MAX, sizeof(*list));
	enum status status;

	if (!f || !list)
		return ask_fail_file(ctl, "read", ctl->args[0]);
	body.digests = list;
	body.allow_empty = ctl->opt.allow_empty;
	status = keep_read(ctl, f, &body);
	if (status == STATUS_DONE)
		status = ask_done(ctl, CTL_BODY(KEEP), &body, AGAIN, -1);
	for (size_t i = 0; i < body.n_digests; i++)
		free(list[i]);
	return status;
}

/* Out and in. */

enum status
run_promote(struct shedctl *ctl)
{
	CTL(Promote) body = CTL_INIT(PROMOTE);
	const char *path = ctl->args[1];
	_cleanup_(answer_done) struct answer a = ANSWER_NONE;
	_cleanup_(dest_done) struct dest dest = DEST_NONE;
	enum status status;
	int r = dest_begin(&dest, path);

	if (r == -EEXIST)
		return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
		    "%s is no regular file, and is not replaced; name another "
		    "file", path);
	if (r < 0) {
		errno = -r;
		return ask_fail_file(ctl, "make a file beside", path);
	}
	body.image = ctl->args[0];
	ctl->progress.doing = "writing";
	status = ask_fd(ctl, CTL_BODY(PROMOTE), &body, CTL_BODY(DONE), AGAIN,
	    dest.fd, &a);
	if (status != STATUS_DONE)
		return status;
	r = dest_commit(&dest);
	if (r < 0) {
		errno = -r;
		return ask_fail_file(ctl, "write", path);
	}
	if (ctl->opt.json)
		json_show(json_pack("{so}", "path", json_text(path)));
	return STATUS_DONE;
}

enum status
run_import(struct shedctl *ctl)
{
	CTL(Import) body = CTL_INIT(IMPORT);
	_cleanup_close_ int fd = open(ctl->args[1],
	    O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return ask_fail_file(ctl, "read", ctl->args[1]);
	if (!S_ISREG(st.st_mode))
		return client_fail(&ctl->failure, CTL_CODE(BAD_REQUEST),
		    "%s is no regular file; name a whole erofs", ctl->args[1]);
	body.image = ctl->args[0];
	ctl->progress.doing = "copying";
	return ask_done(ctl, CTL_BODY(IMPORT), &body, AGAIN, fd);
}
