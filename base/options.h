/* SPDX-License-Identifier: Apache-2.0 */
/* The command lines of shedctl and shedpack: a table of options, which commands
 * take or don't. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPTIONS_MAX	64	/* of a table: bits of what was given */

struct opt {
	const char *name;
	char letter;		/* 0: none */
	bool common;		/* of every command */
	int (*set)(const char *value, void *field);	/* 0 or -EINVAL */
	size_t field;		/* where, in the caller's struct */
	const char *wants;	/* completes "… takes"; NULL: no value */
};

struct options_table {
	const char *program;	/* whose `help` lists the commands */
	const struct opt *opts;
	size_t n;		/* <= OPTIONS_MAX */
};

/* Every option of argv is set in *fields; bit n of *given: opts[n] was there.
 * *first: the index of the first argument that is none, or argc; argv is put in
 * that order.  0, or -EINVAL and a sentence of at most size - 1 bytes. */
int options_parse(const struct options_table *table, int argc, char **argv,
    void *fields, uint64_t *given, int *first, char *why, size_t size);
/* The first that was given and is not among `takes`, words with blanks between,
 * nor common; NULL: none. */
const struct opt *options_untaken(const struct options_table *table,
    uint64_t given, const char *takes);
bool options_has_word(const char *words, const char *word);
/* A set(): a bool becomes true. */
int options_flag(const char *value, void *field);

#endif
