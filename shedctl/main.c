// SPDX-License-Identifier: Apache-2.0
/*
 * shedctl: what a person, or a script, says to the service.  This file reads
 * the command line by two tables, the options and the commands, and prints
 * what went wrong; request.c has the commands.  Options and arguments may
 * stand in any order.
 *
 * It holds no state and needs no privilege: the socket's permissions decide.
 */
#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/options.h"
#include "base/own.h"
#include "shedctl/shedctl.h"

#define SOCKET_PATH_BYTES 256	/* more than any socket address holds */
#define HINT_PREFIX	2	/* letters in common that make a hint */

/* The options. */

struct unit {
	char letter;
	uint64_t factor;
};

static int
set_text(const char *value, void *field)
{
	*(const char **)field = value;
	return 0;
}

static int
set_present(const char *value, void *field)
{
	return word_parse(present_words, value, field);
}

static int
set_fetch(const char *value, void *field)
{
	return word_parse(fetch_words, value, field);
}

/* "default" is what is meant without the option, and no word of it. */
static int
set_integrity(const char *value, void *field)
{
	return word_parse(rung_words + 1, value, field);
}

/* A number and perhaps one letter of units. */
static int
set_scaled(const char *value, const struct unit *units, uint64_t *out)
{
	uint64_t factor = 1, n;
	char *end;

	if (value[0] < '0' || value[0] > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(value, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end != '\0') {
		while (units->letter && units->letter != *end)
			units++;
		if (!units->letter || end[1] != '\0')
			return -EINVAL;
		factor = units->factor;
	}
	if (n > UINT64_MAX / factor)
		return -EINVAL;
	*out = n * factor;
	return 0;
}

static int
set_size(const char *value, void *field)
{
	static const struct unit units[] = { { 'K', 1024 },
		{ 'M', 1024 * 1024 }, { 'G', 1024 * 1024 * 1024 },
		{ 'T', 1024ULL * 1024 * 1024 * 1024 }, { 0, 0 } };

	return set_scaled(value, units, field);
}

static int
set_age(const char *value, void *field)
{
	static const struct unit units[] = { { 's', 1 }, { 'm', 60 },
		{ 'h', 3600 }, { 'd', 86400 }, { 'w', 7 * 86400 }, { 0, 0 } };

	return set_scaled(value, units, field);
}

static int
set_on_outage(const char *value, void *field)
{
	return word_parse(outage_words + 1, value, field);
}

static int
set_delay(const char *value, void *field)
{
	static const struct unit units[] = { { 's', 1 }, { 'm', 60 },
		{ 'h', 3600 }, { 'd', 86400 }, { 0, 0 } };
	uint64_t s;

	if (set_scaled(value, units, &s) < 0 || s == 0 || s > UINT32_MAX)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)s;
	return 0;
}

static int
set_deadline(const char *value, void *field)
{
	double seconds;
	char *end;

	if (value[strspn(value, "0123456789.")] != '\0')
		return -EINVAL;
	seconds = strtod(value, &end);
	if (end == value || *end || seconds < 0.001 ||
	    seconds > UINT32_MAX / 1000)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)(seconds * 1000 + 0.5);
	return 0;
}

#define AT(member) offsetof(struct options, member)

static const struct opt opts[] = {
	{ "socket", 0, true, set_text, AT(socket), "the path of the service's socket" },
	{ "json", 0, true, options_flag, AT(json), NULL },
	{ "help", 'h', true, options_flag, AT(help), NULL },
	{ "version", 0, true, options_flag, AT(version), NULL },
	{ "name", 0, false, set_text, AT(name), "a name of [a-z0-9._-]" },
	{ "present", 0, false, set_present, AT(present), "auto, nbd, ublk, file, plain or kernel-nbd" },
	{ "fetch", 0, false, set_fetch, AT(fetch), "lazy or whole" },
	{ "integrity", 0, false, set_integrity, AT(integrity), "chunk, whole, complete or transport" },
	{ "consumer", 0, false, set_text, AT(consumer), "an id" },
	{ "deadline", 0, false, set_deadline, AT(deadline_ms), "seconds, as 30 or 0.5" },
	{ "on-outage", 0, false, set_on_outage, AT(on_outage), "stall or eio" },
	{ "outage-delay", 0, false, set_delay, AT(outage_delay_s), "a time, as 60 or 5m, and not 0" },
	{ "boot", 0, false, options_flag, AT(boot), NULL },
	{ "all", 0, false, options_flag, AT(all), NULL },
	{ "wait", 0, false, options_flag, AT(wait), NULL },
	{ "follow", 'f', false, options_flag, AT(follow), NULL },
	{ "output", 'o', false, set_text, AT(output), "a file" },
	{ "owner", 0, false, set_text, AT(owner), "an owner's name" },
	{ "allow-empty", 0, false, options_flag, AT(allow_empty), NULL },
	{ "dry-run", 0, false, options_flag, AT(dry_run), NULL },
	{ "max-bytes", 0, false, set_size, AT(max_bytes), "bytes, as 20G" },
	{ "until", 0, false, set_age, AT(until_s), "an age, as 12h or 30d" },
	{ "listen", 0, false, set_text, AT(listen), "an address" },
};
static const struct options_table options = { "shedctl", opts,
	ARRAY_LEN(opts) };

/* The commands. */

static command_run run_help;

static const struct command {
	const char *name;
	int args_min, args_max;
	const char *takes;	/* its own options */
	const char *usage;	/* behind the name */
	const char *help;	/* its first line stands in the list */
	command_run *run;
} commands[] = {
	{ "attach", 1, 1, "name present fetch integrity consumer deadline "
	    "on-outage outage-delay",
	    "IMAGE [--name N] [--present auto|nbd|ublk|file|plain|kernel-nbd]\n"
	    "    [--fetch lazy|whole]\n"
	    "    [--integrity chunk|whole|complete|transport]\n"
	    "    [--consumer ID] [--deadline SECONDS]\n"
	    "    [--on-outage stall|eio] [--outage-delay TIME]",
	    "make a device of an image, and print its path or NBD URI\n"
	    "IMAGE is HOST[:PORT]/REPO[:TAG|@sha256:HEX], or sha256:HEX of an\n"
	    "image or device that is known here.  Where it can't be lazy it\n"
	    "is pulled whole first.  plain: all of it is, and what is printed\n"
	    "is the path of a file, which must not be used after detach.\n"
	    "--on-outage eio: a read that no registry serves fails after\n"
	    "--outage-delay, a time with s, m, h or d.  By default it waits.",
	    run_attach },
	{ "detach", 1, 1, "consumer", "NAME [--consumer ID]",
	    "drop a consumer; the device goes with the last one", run_detach },
	{ "pull", 1, 1, "", "IMAGE",
	    "fetch all of an image and verify it", run_pull },
	{ "prefetch", 1, 1, "boot all wait", "IMAGE [--boot|--all] [--wait]",
	    "fetch what a boot reads (--boot, the default), or everything",
	    run_prefetch },
	{ "ls", 0, 0, "", "", "list the devices", run_ls },
	{ "images", 0, 0, "", "", "list the images known here", run_images },
	{ "status", 0, 1, "", "[NAME]", "show one device, or all, in detail",
	    run_status },
	{ "map", 1, 1, "", "NAME",
	    "draw which parts of a device are here", run_map },
	{ "record", 2, 2, "", "start|stop NAME",
	    "record what is read first, as a boot profile", run_record },
	{ "profile", 1, 1, "output", "IMAGE [-o FILE]",
	    "show or save an image's boot profile", run_profile },
	{ "pin", 1, 1, "", "IMAGE", "keep an image from eviction", run_pin },
	{ "unpin", 1, 1, "", "IMAGE", "take that back", run_unpin },
	{ "keep", 1, 1, "owner allow-empty",
	    "FILE [--owner O] [--allow-empty]",
	    "replace an owner's list of images to keep\n"
	    "FILE has one sha256:HEX a line, of a manifest or an erofs; blank\n"
	    "lines and # comments are skipped.  A list that is empty, or has\n"
	    "a mistake in it, changes nothing; --allow-empty: it may be empty.",
	    run_keep },
	{ "gc", 0, 0, "dry-run max-bytes until",
	    "[--dry-run] [--max-bytes N] [--until AGE]",
	    "evict what nothing holds\n"
	    "--dry-run: only say what would go.  --max-bytes: only as much as\n"
	    "the store is larger than N, with K, M, G or T.  --until: only\n"
	    "what was not used for AGE, with s, m, h, d or w.", run_gc },
	{ "rm", 1, 1, "", "IMAGE", "drop an image that is not attached",
	    run_rm },
	{ "df", 0, 0, "", "", "show the space that images take", run_df },
	{ "verify", 0, 1, "all", "IMAGE|--all",
	    "hash what is on disk again, and fetch again what is damaged\n"
	    "Exit status 1 if something damaged could not be fetched again.",
	    run_verify },
	{ "promote", 2, 2, "", "IMAGE DEST",
	    "place the whole verified erofs at DEST\n"
	    "DEST is made with your own rights and mode 0444; a file that is\n"
	    "there is replaced when the new one is whole.", run_promote },
	{ "import", 2, 2, "", "IMAGE FILE",
	    "use a whole erofs that the host has as a source\n"
	    "What of FILE fits the image is copied into the store.",
	    run_import },
	{ "login", 1, 1, "", "HOST",
	    "give credentials of a registry, from standard input\n"
	    "On a terminal you are asked for them.  Else standard input has\n"
	    "USER:PASSWORD, or a line with each, or a docker config.json.",
	    run_login },
	{ "logout", 1, 1, "", "HOST", "take them away", run_logout },
	{ "health", 0, 0, "", "", "say ok, or degraded and why", run_health },
	{ "doctor", 0, 0, "", "", "check the host, with remedies",
	    run_doctor },
	{ "metrics", 0, 0, "listen", "[--listen ADDR]",
	    "print, or serve, Prometheus metrics", run_metrics },
	{ "events", 0, 0, "follow", "[-f]",
	    "show what happened; -f: and what happens", run_events },
	{ "flight", 1, 1, "output", "NAME [-o FILE]",
	    "save a device's flight recorder", run_flight },
	{ "report", 1, 1, "output", "NAME -o FILE.html",
	    "draw a device's boot", run_report },
	{ "top", 0, 0, "", "", "watch the devices", run_top },
	{ "shutdown", 0, 0, "", "", "detach everything and end the service",
	    run_shutdown },
	{ "version", 0, 0, "", "", "show the versions of all processes",
	    run_version },
	{ "help", 0, 1, "", "[COMMAND]", "say what a command does", run_help },
};

__attribute__((format(printf, 2, 3))) static enum status
usage(struct failure *f, const char *fmt, ...)
{
	va_list args;

	f->code = NULL;
	va_start(args, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, args);
	va_end(args);
	return STATUS_USAGE;
}

/* All options of argv.  *first: the first argument that is none. */
static enum status
options_read(int argc, char **argv, struct options *opt, int *first,
    struct failure *f)
{
	f->code = NULL;
	return options_parse(&options, argc, argv, opt, &opt->given, first,
	    f->text, sizeof(f->text)) < 0 ? STATUS_USAGE : STATUS_DONE;
}

static const struct command *
command_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static enum status
unknown_command(struct failure *f, const char *name)
{
	const char *hint = NULL;
	size_t best = HINT_PREFIX - 1;

	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		size_t n = 0;

		while (name[n] && name[n] == commands[i].name[n])
			n++;
		if (n > best) {
			best = n;
			hint = commands[i].name;
		}
	}
	if (hint)
		return usage(f, "there is no command %.60s; did you mean %s? "
		    "`shedctl help` lists all", name, hint);
	return usage(f, "there is no command %.60s; `shedctl help` lists all",
	    name);
}

/* Options and arguments that the command does not take. */
static enum status
command_check(const struct command *cmd, const struct shedctl *ctl,
    struct failure *f)
{
	const struct opt *untaken = options_untaken(&options, ctl->opt.given,
	    cmd->takes);

	if (untaken)
		return usage(f, "%s takes no --%s; see `shedctl help %s`",
		    cmd->name, untaken->name, cmd->name);
	if (ctl->n_args < cmd->args_min || ctl->n_args > cmd->args_max)
		return usage(f, "usage: shedctl %s%s%s", cmd->name,
		    cmd->usage[0] ? " " : "", cmd->usage);
	if (ctl->opt.boot && ctl->opt.all)
		return usage(f, "--boot and --all exclude each other");
	if (cmd->run == run_verify && (ctl->n_args == 1) == ctl->opt.all)
		return usage(f, "usage: shedctl verify %s", cmd->usage);
	if (cmd->run == run_report && !ctl->opt.output)
		return usage(f, "usage: shedctl report %s", cmd->usage);
	return STATUS_DONE;
}

/* Help. */

static void
print_commands(FILE *out)
{
	fprintf(out, "usage: shedctl [--socket PATH] [--json] COMMAND ...\n\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-10s%.*s\n", commands[i].name,
		    (int)strcspn(commands[i].help, "\n"), commands[i].help);
	fprintf(out, "\n`shedctl help COMMAND` says more; so does "
	    "shedctl(1).\n");
}

static void
print_command(const struct command *cmd)
{
	printf("usage: shedctl %s%s%s\n\n%s\n\nAlso: --socket PATH, --json, "
	    "-h.\n", cmd->name, cmd->usage[0] ? " " : "", cmd->usage,
	    cmd->help);
}

static enum status
run_help(struct shedctl *ctl)
{
	const struct command *cmd;

	if (ctl->n_args == 0) {
		print_commands(stdout);
		return STATUS_DONE;
	}
	cmd = command_find(ctl->args[0]);
	if (!cmd)
		return unknown_command(&ctl->failure, ctl->args[0]);
	print_command(cmd);
	return STATUS_DONE;
}

/* The run. */

static void
on_progress(void *arg, const CTL(Progress) *report)
{
	struct shedctl *ctl = arg;

	progress_update(&ctl->progress, report, client_now_ms());
}

static enum status
command_run_it(const struct command *cmd, struct shedctl *ctl)
{
	char path[SOCKET_PATH_BYTES];
	const char *term = getenv("TERM");
	unsigned width = show_width(STDERR_FILENO);
	enum status status = command_check(cmd, ctl, &ctl->failure);

	if (status != STATUS_DONE)
		return status;
	if (client_socket(ctl->opt.socket, path, sizeof(path)) < 0)
		return usage(&ctl->failure, "the path of the service's socket "
		    "is too long; it has at most 100 bytes");
	client_init(&ctl->client, path, ctl->opt.owner ? ctl->opt.owner : "",
	    &ctl->failure);
	ctl->client.on_progress = on_progress;
	ctl->client.arg = ctl;
	progress_init(&ctl->progress, stderr, width > 0 &&
	    !(term && strcmp(term, "dumb") == 0), width);
	status = cmd->run(ctl);
	client_done(&ctl->client);
	return status;
}

static enum status
shedctl_run(int argc, char **argv, struct shedctl *ctl)
{
	const struct command *cmd;
	enum status status;
	int first = argc;

	status = options_read(argc, argv, &ctl->opt, &first, &ctl->failure);
	if (status != STATUS_DONE)
		return status;
	if (ctl->opt.version) {
		puts("shedctl " VERSION);
		return STATUS_DONE;
	}
	if (first == argc) {
		print_commands(ctl->opt.help ? stdout : stderr);
		return ctl->opt.help ? STATUS_DONE : STATUS_USAGE;
	}
	cmd = command_find(argv[first]);
	if (!cmd)
		return unknown_command(&ctl->failure, argv[first]);
	if (ctl->opt.help) {
		print_command(cmd);
		return STATUS_DONE;
	}
	ctl->args = argv + first + 1;
	ctl->n_args = argc - first - 1;
	return command_run_it(cmd, ctl);
}

int
main(int argc, char **argv)
{
	struct shedctl ctl = { 0 };
	_cleanup_free_ char *text = NULL;
	enum status status;

	setlocale(LC_CTYPE, "");
	status = shedctl_run(argc, argv, &ctl);
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == STATUS_DONE)
		status = client_fail(&ctl.failure, CTL_CODE(INTERNAL),
		    "cannot write to standard output: %s; see where it leads",
		    strerror(errno));
	if (ctl.failure.text[0] == '\0')
		return (int)status;
	text = show_text(ctl.failure.text, "\n");
	fprintf(stderr, "shedctl: %s%s%s\n",
	    ctl.failure.code ? ctl.failure.code : "",
	    ctl.failure.code ? ": " : "", text);
	return (int)status;
}
