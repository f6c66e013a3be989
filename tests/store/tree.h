/* SPDX-License-Identifier: Apache-2.0 */
/* Whole directories: emptied, compared.  What fails ends the program. */
#ifndef TESTS_STORE_TREE_H
#define TESTS_STORE_TREE_H

#include <stdbool.h>

/* Remove all that is in a directory. */
void tree_clear(int dirfd);

/* Are two directories the same, all the way down, but for a file `but` at their
 * top?  false: *why says where. */
bool tree_same(int a, int b, const char *but, char why[512]);

#endif
