// SPDX-License-Identifier: Apache-2.0
/*
 * shedctl's command line and what it prints, without a service.  main.c is
 * included, so that its tables and static functions can be called.
 */
int shedctl_main(int argc, char **argv);
#define main shedctl_main
#include "shedctl/main.c"
#undef main

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MIB	(1024 * 1024)

static struct options opt;
static struct failure failure;
static int first;

/* Parse "shedctl " + line. */
static enum status
parse(const char *line)
{
	static char text[256];
	char *argv[32] = { NULL };
	int argc = 0;

	snprintf(text, sizeof(text), "shedctl %s", line);
	for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	opt = (struct options){ 0 };
	failure = (struct failure){ 0 };
	return options_read(argc, argv, &opt, &first, &failure);
}

/* The same, and then the command's own checks. */
static enum status
check(const char *line)
{
	static char text[256];
	char *argv[32] = { NULL };
	struct shedctl ctl = { 0 };
	const struct command *cmd;
	int argc = 0;
	enum status status;

	snprintf(text, sizeof(text), "shedctl %s", line);
	for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
		argv[argc++] = w;
	failure = (struct failure){ 0 };
	status = options_read(argc, argv, &ctl.opt, &first, &failure);
	if (status != STATUS_DONE)
		return status;
	cmd = command_find(argv[first]);
	if (!cmd)
		return unknown_command(&failure, argv[first]);
	ctl.args = argv + first + 1;
	ctl.n_args = argc - first - 1;
	return command_check(cmd, &ctl, &failure);
}

static void
test_options_stand_anywhere(void **state)
{
	static const char *const lines[] = {
		"--json attach img --name n --fetch whole --deadline 2",
		"attach --name n --json --deadline 2 img --fetch whole",
		"--name n --fetch=whole attach img --deadline 2 --json",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		assert_int_equal(parse(lines[i]), STATUS_DONE);
		assert_true(opt.json);
		assert_string_equal(opt.name, "n");
		assert_int_equal(opt.fetch, 1);
		assert_int_equal(opt.deadline_ms, 2000);
		assert_int_equal(check(lines[i]), STATUS_DONE);
	}
}

static void
test_words_have_the_numbers_of_the_protocol(void **state)
{
	(void)state;
	assert_int_equal(parse("attach i --integrity chunk --present file"),
	    STATUS_DONE);
	assert_int_equal(opt.integrity,
	    SHEDSTREAM__CONTROL__V1__RUNG__RUNG_CHUNK);
	assert_int_equal(opt.present,
	    SHEDSTREAM__CONTROL__V1__PRESENT__PRESENT_FILE);
	assert_int_equal(parse("attach i --on-outage eio"), STATUS_DONE);
	assert_int_equal(opt.on_outage,
	    SHEDSTREAM__CONTROL__V1__ON_OUTAGE__OUTAGE_EIO);
	assert_string_equal(word_name(state_words, 1), "completing");
	assert_string_equal(word_name(rung_words, 77), "unknown");
	assert_string_equal(word_code(7), "INTEGRITY_REFUSED");
	assert_string_equal(word_code(999), "INTERNAL");
	assert_string_equal(word_code(0), "INTERNAL");
}

static void
test_bad_options_are_usage(void **state)
{
	static const char *const lines[] = {
		"ls --nosuch", "ls -z", "attach x --integrity sideways",
		"attach x --integrity default", "attach x --fetch sometimes",
		"attach x --deadline 0", "attach x --deadline 1e3",
		"attach x --deadline nan", "attach x --deadline -1",
		"attach x --deadline 1.2.3", "attach x --deadline 99999999999",
		"gc --max-bytes 1X", "gc --max-bytes 1KK", "gc --max-bytes -1",
		"gc --max-bytes 99999999999T", "gc --until 3y", "attach --name",
		"ls --json=yes", "attach x --on-outage default",
		"attach x --on-outage EIO", "attach x --outage-delay 0",
		"attach x --outage-delay 1w", "attach x --outage-delay 49711d",
		"attach x --outage-delay -1", "attach x --outage-delay 1.5",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		if (parse(lines[i]) != STATUS_USAGE)
			fail_msg("taken: %s", lines[i]);
		assert_null(failure.code);
		assert_true(strlen(failure.text) > 10);
	}
}

static void
test_sizes_and_ages_have_units(void **state)
{
	(void)state;
	assert_int_equal(parse("gc --max-bytes 20G --until 2w"), STATUS_DONE);
	assert_true(opt.max_bytes == (uint64_t)20 << 30);
	assert_true(opt.until_s == 14 * 86400);
	assert_int_equal(parse("gc --max-bytes 7 --until 90"), STATUS_DONE);
	assert_true(opt.max_bytes == 7 && opt.until_s == 90);
	assert_int_equal(parse("attach x --deadline 0.5"), STATUS_DONE);
	assert_int_equal(opt.deadline_ms, 500);
	assert_int_equal(parse("attach x --outage-delay 5m"), STATUS_DONE);
	assert_int_equal(opt.outage_delay_s, 300);
	assert_int_equal(parse("attach x --outage-delay 1"), STATUS_DONE);
	assert_int_equal(opt.outage_delay_s, 1);
}

static void
test_a_command_refuses_what_it_does_not_take(void **state)
{
	static const char *const lines[] = {
		"attach", "attach a b", "ls x", "ls --boot", "detach n --all",
		"pull i --wait", "verify", "verify i --all", "report n",
		"prefetch i --all --boot", "record start", "events x",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		if (check(lines[i]) != STATUS_USAGE)
			fail_msg("taken: %s", lines[i]);
	assert_int_equal(check("verify --all"), STATUS_DONE);
	assert_int_equal(check("events -f"), STATUS_DONE);
	assert_int_equal(check("status"), STATUS_DONE);
	assert_int_equal(check("report n -o f"), STATUS_DONE);
}

static void
test_an_unknown_command_gets_a_hint(void **state)
{
	(void)state;
	assert_int_equal(check("atach x"), STATUS_USAGE);
	assert_non_null(strstr(failure.text, "did you mean attach?"));
	assert_int_equal(check("stauts"), STATUS_USAGE);
	assert_non_null(strstr(failure.text, "did you mean status?"));
	assert_int_equal(check("xyzzy"), STATUS_USAGE);
	assert_null(strstr(failure.text, "did you mean"));
}

/* A misspelt word in the table would forbid an option for ever. */
static void
test_the_tables_agree(void **state)
{
	(void)state;
	assert_true(ARRAY_LEN(opts) <= 64);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		char words[128];

		assert_non_null(commands[i].run);
		snprintf(words, sizeof(words), "%s", commands[i].takes);
		for (char *w = strtok(words, " "); w; w = strtok(NULL, " ")) {
			size_t k = 0;

			while (k < ARRAY_LEN(opts) &&
			    strcmp(opts[k].name, w) != 0)
				k++;
			if (k == ARRAY_LEN(opts) || opts[k].common)
				fail_msg("%s takes --%s", commands[i].name, w);
		}
	}
}

static void
test_the_socket_is_looked_for_in_order(void **state)
{
	char dir[] = "/tmp/ssctl.XXXXXX", path[128], file[128];

	(void)state;
	assert_non_null(mkdtemp(dir));
	setenv("SHEDSTREAM_SOCKET", "/env", 1);
	setenv("XDG_RUNTIME_DIR", dir, 1);
	unsetenv("HOME");
	assert_int_equal(client_socket("/given", path, sizeof(path)), 0);
	assert_string_equal(path, "/given");
	assert_int_equal(client_socket(NULL, path, sizeof(path)), 0);
	assert_string_equal(path, "/env");
	unsetenv("SHEDSTREAM_SOCKET");
	assert_int_equal(client_socket(NULL, path, sizeof(path)), 0);
	assert_string_equal(path, "/run/shedstream/control.sock");
	snprintf(file, sizeof(file), "mkdir %s/shedstream && "
	    "touch %s/shedstream/control.sock", dir, dir);
	assert_int_equal(system(file), 0);
	assert_int_equal(client_socket(NULL, path, sizeof(path)), 0);
	assert_int_equal(strncmp(path, dir, strlen(dir)), 0);
	snprintf(file, sizeof(file), "rm -r %s", dir);
	assert_int_equal(system(file), 0);
	assert_int_equal(client_socket("/long", path, 4), -ENAMETOOLONG);
}

static void
test_sizes_for_people(void **state)
{
	(void)state;
	assert_string_equal(show_size(0).text, "0 B");
	assert_string_equal(show_size(1023).text, "1023 B");
	assert_string_equal(show_size(1024).text, "1.0 KiB");
	assert_string_equal(show_size(1024 * 1024 - 1).text, "1.0 MiB");
	assert_string_equal(show_size(784 * MIB).text, "784.0 MiB");
	assert_string_equal(show_size(UINT64_MAX).text, "16.0 EiB");
	assert_string_equal(show_percent(0, 0).text, "-");
	assert_string_equal(show_percent(999999, 1000000).text, "99%");
	assert_string_equal(show_percent(UINT64_MAX - 1, UINT64_MAX).text,
	    "99%");
	assert_string_equal(show_percent(5, 5).text, "100%");
	assert_string_equal(show_seconds(-1).text, "-:--");
	assert_string_equal(show_seconds(65).text, "1:05");
	assert_string_equal(show_seconds(7384).text, "2:03:04");
	assert_string_equal(show_seconds(1e300).text, "9999 d");
}

static void
test_text_can_not_move_the_cursor(void **state)
{
	_cleanup_free_ char *a = show_text("a\033[2J\nb\x7f", "");
	_cleanup_free_ char *b = show_text("a\nb\tc\r", "\n\t");
	_cleanup_free_ char *c = show_text("\xc2\x9b" "2J \xff!", "");
	_cleanup_free_ char *d = show_text("", "");

	(void)state;
	assert_string_equal(a, "a\\x1b[2J\\x0ab\\x7f");
	assert_string_equal(b, "a\nb\tc\\x0d");
	assert_string_equal(c, "\\xc2\\x9b2J \\xff!");
	assert_string_equal(d, "");
}

static void
test_the_map_is_8_lines_of_80(void **state)
{
	uint8_t cells[MAP_CELLS] = { 0 };
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	cells[0] = 1;
	cells[1] = 2;
	cells[MAP_CELLS - 1] = 1;
	cells[MAP_CELLS - 2] = 9;
	show_cells(out, cells, false);
	fclose(out);
	for (int row = 0; row < MAP_ROWS; row++)
		assert_int_equal(text[row * 81 + 80], '\n');
	assert_int_equal(strncmp(text, "#o......", 8), 0);
	assert_int_equal(strncmp(text + 8 * 81 - 4, ".?#\n", 4), 0);
	assert_string_equal(text + 8 * 81,
	    "# present 2   o fetched 1   . untouched 636\n");
	assert_null(strchr(text, '\033'));
}

static void
report(struct progress *p, uint64_t current, int done, int64_t now_ms)
{
	CTL(Progress) r = CTL_INIT(PROGRESS);

	r.digest = (char *)"sha256:00112233445566778899";
	r.state = (CTL(Progress__State))done;
	r.current = current;
	r.total = 100 * MIB;
	progress_update(p, &r, now_ms);
}

static unsigned
count(const char *text, char c)
{
	unsigned n = 0;

	for (; *text; text++)
		n += *text == c;
	return n;
}

static void
test_progress_is_at_most_a_line_a_second(void **state)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	struct progress p;

	(void)state;
	progress_init(&p, out, false, 0);
	for (int i = 0; i <= 30; i++)	/* 3 s, ten reports a second */
		report(&p, (uint64_t)i * MIB, 0, 1000 + i * 100);
	report(&p, 100 * MIB, 2, 4050);
	report(&p, 100 * MIB, 2, 4060);	/* said twice, shown once */
	progress_end(&p, 4100);
	fclose(out);
	assert_int_equal(count(text, '\n'), 5);	/* 0, 1, 2, 3 s and the last */
	assert_int_equal(strncmp(text, "sha256:00112233445566778899: "
	    "downloading, 0 B of 100.0 MiB (0%)\n", 60), 0);
	assert_non_null(strstr(text, "10.0 MiB/s, 0:"));
	assert_non_null(strstr(text, "done, 100.0 MiB of 100.0 MiB (100%), "));
	assert_null(strchr(text, '\r'));
}

static void
test_progress_shows_the_last_report_even_if_it_is_not_done(void **state)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	struct progress p;

	(void)state;
	progress_init(&p, out, false, 0);
	report(&p, 1 * MIB, 0, 0);
	report(&p, 2 * MIB, 0, 10);
	report(&p, 3 * MIB, 0, 20);
	progress_end(&p, 30);
	progress_end(&p, 40);
	fclose(out);
	assert_int_equal(count(text, '\n'), 2);
	assert_non_null(strstr(text, " 3.0 MiB of "));
	assert_null(strstr(text, " 2.0 MiB of "));
}

static void
test_the_bar_fits_its_terminal(void **state)
{
	static const unsigned widths[] = { 200, 80, 60, 40, 20, 5, 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
		_cleanup_free_ char *text = NULL;
		size_t size;
		FILE *out = open_memstream(&text, &size);
		struct progress p;
		char line[512];

		progress_init(&p, out, true, widths[i]);
		for (int k = 0; k <= 100; k++)	/* 1 s: ten draws and one */
			report(&p, (uint64_t)k / 2 * MIB, 0, k * 10);
		progress_line(&p, 1000, line, sizeof(line));
		progress_end(&p, 1000);
		fclose(out);
		if (widths[i] > 1)
			assert_true(strlen(line) < widths[i]);
		assert_int_equal(count(text, '\r'), 11);
		assert_int_equal(count(text, '\n'), 1);
		if (widths[i] != 80)
			continue;
		assert_int_equal(strncmp(line, "001122334455 [###", 17), 0);
		assert_non_null(strstr(line, "]  50%  50.0 MiB of 100.0 MiB"));
		assert_non_null(strstr(line, "/s  0:01 left"));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_stand_anywhere),
		cmocka_unit_test(test_words_have_the_numbers_of_the_protocol),
		cmocka_unit_test(test_bad_options_are_usage),
		cmocka_unit_test(test_sizes_and_ages_have_units),
		cmocka_unit_test(test_a_command_refuses_what_it_does_not_take),
		cmocka_unit_test(test_an_unknown_command_gets_a_hint),
		cmocka_unit_test(test_the_tables_agree),
		cmocka_unit_test(test_the_socket_is_looked_for_in_order),
		cmocka_unit_test(test_sizes_for_people),
		cmocka_unit_test(test_text_can_not_move_the_cursor),
		cmocka_unit_test(test_the_map_is_8_lines_of_80),
		cmocka_unit_test(test_progress_is_at_most_a_line_a_second),
		cmocka_unit_test(
		    test_progress_shows_the_last_report_even_if_it_is_not_done),
		cmocka_unit_test(test_the_bar_fits_its_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
