// SPDX-License-Identifier: Apache-2.0
/*
 * In place of ublk.c in a build without liburing: the parent makes no device of
 * that kind there (ublk_none.c), and starts no worker for it.
 */
#include <stddef.h>

#include "devd/io.h"

const struct shim ublk_shim = { .start = NULL };
