/* SPDX-License-Identifier: Apache-2.0 */
/* Where the running program lies. */
#ifndef BASE_SELF_H
#define BASE_SELF_H

#include <stddef.h>

/* The directory of the running program, without a slash at its end.
 * 0 or -errno. */
int self_directory(char *dir, size_t size);

#endif
