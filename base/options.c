// SPDX-License-Identifier: Apache-2.0
/* Options by a table: see options.h.  getopt_long() does the work. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"

#define LONG_OPTION	256	/* + index: what getopt_long() returns */

struct why {
	char *text;
	size_t size;
};

__attribute__((format(printf, 2, 3))) static int
refuse(const struct why *why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why->text, why->size, fmt, args);
	va_end(args);
	return -EINVAL;
}

/* The index in opts of what getopt_long() returned, or -1. */
static int
opt_index(const struct options_table *t, int c)
{
	if (c >= LONG_OPTION)
		return c - LONG_OPTION;
	for (size_t i = 0; c && i < t->n; i++)
		if (t->opts[i].letter == c)
			return (int)i;
	return -1;
}

/* What is wrong with the option before argv[optind]. */
static int
bad_option(const struct options_table *t, const struct why *why, int c,
    char **argv)
{
	int i = opt_index(t, optopt);
	const char *word = argv[optind - 1];

	if (c == ':' && i >= 0)
		return refuse(why, "--%s takes %s", t->opts[i].name,
		    t->opts[i].wants);
	if (c == '?' && i >= 0)
		return refuse(why, "--%s takes no value", t->opts[i].name);
	if (strncmp(word, "--", 2) != 0 && optopt > 0 && optopt < LONG_OPTION)
		return refuse(why, "there is no option -%c; `%s help` lists "
		    "the commands", optopt, t->program);
	return refuse(why, "there is no option %.100s; `%s help` lists the "
	    "commands", word, t->program);
}

/* What getopt_long() wants to know. */
static void
describe(const struct options_table *t, struct option *longs, char *letters)
{
	*letters++ = ':';	/* a missing value is no unknown option */
	for (size_t i = 0; i < t->n; i++) {
		const struct opt *o = &t->opts[i];

		longs[i] = (struct option){ o->name, o->wants ?
		    required_argument : no_argument, NULL,
		    LONG_OPTION + (int)i };
		if (o->letter)
			*letters++ = o->letter;
		if (o->letter && o->wants)
			*letters++ = ':';
	}
	*letters = '\0';
}

int
options_parse(const struct options_table *t, int argc, char **argv,
    void *fields, uint64_t *given, int *first, char *text, size_t size)
{
	struct option longs[OPTIONS_MAX + 1] = { 0 };
	char letters[2 * OPTIONS_MAX + 2];
	const struct why why = { text, size };
	int c, i;

	assert(t->n <= OPTIONS_MAX);
	describe(t, longs, letters);
	opterr = 0;
	optind = 0;	/* start anew: tests parse more than once */
	while ((c = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		const struct opt *o;

		i = c == '?' || c == ':' ? -1 : opt_index(t, c);
		if (i < 0)
			return bad_option(t, &why, c, argv);
		o = &t->opts[i];
		if (o->set(optarg, (char *)fields + o->field) < 0)
			return refuse(&why, "--%s takes %s%s%.100s", o->name,
			    o->wants, *optarg ? ", not " : "", optarg);
		*given |= (uint64_t)1 << i;
	}
	*first = optind;
	return 0;
}

bool
options_has_word(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (; *words; words += strcspn(words, " ")) {
		words += strspn(words, " ");
		if (strncmp(words, word, len) == 0 &&
		    (words[len] == ' ' || words[len] == '\0'))
			return true;
	}
	return false;
}

const struct opt *
options_untaken(const struct options_table *t, uint64_t given,
    const char *takes)
{
	for (size_t i = 0; i < t->n; i++)
		if ((given >> i & 1) && !t->opts[i].common &&
		    !options_has_word(takes, t->opts[i].name))
			return &t->opts[i];
	return NULL;
}

int
options_flag(const char *value, void *field)
{
	(void)value;
	*(bool *)field = true;
	return 0;
}
