// SPDX-License-Identifier: Apache-2.0
/*
 * In place of fuse.c where the system has no FUSE of its own: the parent makes
 * no device of that kind there (mount_none.c), and starts no worker for it.
 */
#include <stddef.h>

#include "devd/io.h"

const struct shim fuse_shim = { .start = NULL };
