// SPDX-License-Identifier: Apache-2.0
/*
 * cached's main file for a test that runs cached as a thread of its own
 * process: main() is cached_main(), and its end is the thread's.
 */
int cached_main(int argc, char **argv);

#define main	cached_main
#define _Exit	cached_end
#include "cached/main.c"
