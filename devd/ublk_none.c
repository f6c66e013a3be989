// SPDX-License-Identifier: Apache-2.0
/*
 * In place of ublk_linux.c in a build without liburing.
 */
#include <errno.h>

#include "devd/devd.h"

int
ublk_act(const void *ask)
{
	return ((const struct ublk_ask *)ask)->act == UBLK_ACT_SWEEP ? 0 :
	    -ENOTSUP;
}

int
ublk_open(uint32_t number)
{
	(void)number;
	return -ENOTSUP;
}

int
ublk_possible(bool force, const char **remedy)
{
	(void)force;
	*remedy = "this build has no ublk: build it with liburing, or use "
	    "--present file";
	return -ENOTSUP;
}
