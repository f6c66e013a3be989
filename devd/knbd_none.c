// SPDX-License-Identifier: Apache-2.0
/*
 * In place of knbd_linux.c in a build without libnl.
 */
#include <errno.h>

#include "devd/devd.h"

int
knbd_act(const void *ask)
{
	return ((const struct knbd_ask *)ask)->act == KNBD_ACT_REMOVE ? 0 :
	    -ENOTSUP;
}

int
knbd_possible(const char **remedy)
{
	*remedy = "this build can't ask the kernel's NBD: build it with "
	    "libnl-genl-3, or use --present file";
	return -ENOTSUP;
}
