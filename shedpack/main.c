// SPDX-License-Identifier: Apache-2.0
/*
 * shedpack: makes and publishes the chunk index of an erofs image.  This file
 * reads the command line by two tables, the options and the commands, and
 * prints what went wrong.  Options and arguments may stand in any order.
 *
 * It runs at publish time with its caller's rights: no daemon, no root, and
 * network for `push` only.
 */
#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "base/own.h"
#include "shedpack/shedpack.h"

enum exit_status {		/* of the program: CLI.md */
	EXIT_DONE = 0,
	EXIT_REFUSED = 1,
	EXIT_USAGE = 2,
};


volatile sig_atomic_t interrupted;

/* The options. */

static int
set_text(const char *value, void *field)
{
	if (*value == '\0')
		return -EINVAL;
	*(const char **)field = value;
	return 0;
}

static int
ignore(const char *value, void *field)
{
	(void)value;
	(void)field;
	return 0;
}

static bool want_help, want_version;

static int
set_help(const char *value, void *field)
{
	(void)value;
	(void)field;
	want_help = true;
	return 0;
}

static int
set_version(const char *value, void *field)
{
	(void)value;
	(void)field;
	want_version = true;
	return 0;
}

#define AT(member) offsetof(struct arguments, member)

static const struct opt opts[] = {
	{ "help", 'h', true, set_help, 0, NULL },
	{ "version", 0, true, set_version, 0, NULL },
	{ "output", 'o', false, set_text, AT(output), "a directory" },
	{ "json", 0, false, options_flag, AT(json), NULL },
	{ "annotate", 0, false, options_flag, AT(annotate), NULL },
	{ "tag", 0, false, set_text, AT(tag), "a tag" },
	{ "ca", 0, false, set_text, AT(ca), "a file of certificates" },
	{ "insecure", 0, false, options_flag, AT(insecure), NULL },
	{ "profile", 0, false, ignore, 0, "a file" },
	{ "base", 0, false, ignore, 0, "an index" },
	{ "level", 0, false, ignore, 0, "a number" },
};
static const struct options_table options = { "shedpack", opts,
	ARRAY_LEN(opts) };

/* The commands. */

static pack_command pack_build, pack_help;

static const struct command {
	const char *name;
	int args_min, args_max;
	const char *takes;	/* its own options */
	const char *usage;	/* behind the name */
	const char *help;	/* its first line stands in the list */
	pack_command *run;
} commands[] = {
	{ "index", 1, 1, "output", "EROFS -o DIR",
	    "make the chunk index of an unmodified erofs image\n"
	    "DIR, which must be empty or not there, becomes an OCI image\n"
	    "layout with the index and the erofs; DIR/index is the bare index.",
	    pack_index },
	{ "build", 1, 1, "output profile base level",
	    "EROFS -o DIR [--profile FILE] [--base INDEX]...\n"
	    "    [--level N]",
	    "make a chunked, compressed image; not built yet", pack_build },
	{ "push", 2, 2, "annotate tag ca insecure",
	    "DIR IMAGE [--annotate] [--tag TAG] [--ca FILE]\n"
	    "    [--insecure]",
	    "push an index and its blobs as an artifact that refers to IMAGE\n"
	    "IMAGE is HOST[:PORT]/REPO[:TAG|@sha256:HEX].  --annotate first\n"
	    "writes the index into IMAGE's manifest and moves its tag;\n"
	    "without it, hosts by default do not use the index.", pack_push },
	{ "inspect", 1, 1, "json", "FILE|DIR [--json]",
	    "show what is in an index or a layout", pack_inspect },
	{ "verify", 2, 2, "", "DIR EROFS",
	    "compare what a layout makes, byte by byte, with an erofs image",
	    pack_verify },
	{ "help", 0, 1, "", "[COMMAND]", "say what a command does", pack_help },
};

int
refuse(struct refusal *why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, args);
	va_end(args);
	return -EINVAL;
}

int
refuse_interrupted(struct refusal *why)
{
	return refuse(why, "interrupted; run it again");
}

static const struct command *
command_find(const char *name, struct refusal *why)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	refuse(why, "there is no command %.60s; `shedpack help` lists all",
	    name);
	return NULL;
}

/* Options and arguments that the command does not take, or lacks. */
static int
command_check(const struct command *cmd, const struct arguments *a,
    uint64_t given, struct refusal *why)
{
	const struct opt *untaken = options_untaken(&options, given,
	    cmd->takes);

	if (untaken)
		return refuse(why, "%s takes no --%s; see `shedpack help %s`",
		    cmd->name, untaken->name, cmd->name);
	if (a->n_args < cmd->args_min || a->n_args > cmd->args_max ||
	    (options_has_word(cmd->takes, "output") && !a->output))
		return refuse(why, "usage: shedpack %s %s", cmd->name,
		    cmd->usage);
	return 0;
}

/* Help. */

static void
print_commands(FILE *out)
{
	fprintf(out, "usage: shedpack COMMAND ...\n\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-10s%.*s\n", commands[i].name,
		    (int)strcspn(commands[i].help, "\n"), commands[i].help);
	fprintf(out, "\n`shedpack help COMMAND` says more; so does "
	    "shedpack(1).\n");
}

static void
print_command(const struct command *cmd)
{
	printf("usage: shedpack %s %s\n\n%s\n", cmd->name, cmd->usage,
	    cmd->help);
}

static int
pack_help(const struct arguments *a, struct refusal *why)
{
	const struct command *cmd;

	if (a->n_args == 0) {
		print_commands(stdout);
		return 0;
	}
	cmd = command_find(a->arg[0], why);
	if (!cmd)
		return -EINVAL;
	print_command(cmd);
	return 0;
}

static int
pack_build(const struct arguments *a, struct refusal *why)
{
	(void)a;
	return refuse(why, "this version cannot build chunked images yet; "
	    "`shedpack index` makes an index of the image as it is");
}

/* The run. */

static void
on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void
catch_signals(void)
{
	static const int end[] = { SIGHUP, SIGINT, SIGTERM };
	struct sigaction act = { .sa_handler = on_signal };

	for (size_t i = 0; i < ARRAY_LEN(end); i++) {
		struct sigaction old;

		/* who started us under nohup meant it */
		sigaction(end[i], NULL, &old);
		if (old.sa_handler != SIG_IGN)
			sigaction(end[i], &act, NULL);
	}
	signal(SIGPIPE, SIG_IGN);	/* an error of write(2) is enough */
}

static enum exit_status
shedpack_run(int argc, char **argv, struct refusal *why)
{
	const struct command *cmd;
	struct arguments a = { 0 };
	uint64_t given = 0;
	int first = argc;

	if (options_parse(&options, argc, argv, &a, &given, &first, why->text,
	    sizeof(why->text)) < 0)
		return EXIT_USAGE;
	if (want_version) {
		puts("shedpack " VERSION);
		return EXIT_DONE;
	}
	if (first == argc) {
		print_commands(want_help ? stdout : stderr);
		return want_help ? EXIT_DONE : EXIT_USAGE;
	}
	cmd = command_find(argv[first], why);
	if (!cmd)
		return EXIT_USAGE;
	if (want_help) {
		print_command(cmd);
		return EXIT_DONE;
	}
	a.arg = argv + first + 1;
	a.n_args = argc - first - 1;
	if (command_check(cmd, &a, given, why) < 0)
		return EXIT_USAGE;
	catch_signals();
	if (cmd->run(&a, why) < 0)
		return cmd->run == pack_help ? EXIT_USAGE : EXIT_REFUSED;
	return EXIT_DONE;
}

int
main(int argc, char **argv)
{
	struct refusal why = { 0 };
	enum exit_status status;

	setlocale(LC_CTYPE, "");
	status = shedpack_run(argc, argv, &why);
	bar_end();
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == EXIT_DONE) {
		refuse(&why, "cannot write to standard output: %s; see where "
		    "it leads", strerror(errno));
		status = EXIT_REFUSED;
	}
	if (why.text[0] != '\0')
		bar_refusal(&why);
	return (int)status;
}
