/* SPDX-License-Identifier: Apache-2.0 */
/* What a process and its store take just now. */
#ifndef TESTS_STORE_USAGE_H
#define TESTS_STORE_USAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Bytes on disk of the files below dir/name, two directories deep; 0 if there is
 * no such directory. */
uint64_t usage_disk(int dir, const char *name);
/* Anonymous memory, in bytes; 0 where that can't be read. */
uint64_t usage_memory(pid_t pid);
/* Open descriptors; print: also what each is, to stderr. */
int usage_descriptors(pid_t pid, bool print);

#endif
