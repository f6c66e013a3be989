// SPDX-License-Identifier: Apache-2.0
/*
 * What is pure about devices of the kernel's NBD client: the identifier by
 * which the kernel and the next instance know one as ours, and which kernels
 * keep it.
 */
#include <inttypes.h>
#include <stdio.h>

#include "devd/devd.h"

void
knbd_identifier(uint64_t mark, const char *id,
    char out[KNBD_IDENTIFIER_SIZE])
{
	snprintf(out, KNBD_IDENTIFIER_SIZE, "shedstream:%016" PRIx64 ":%.*s",
	    mark, DEVICE_ID_LEN, id);
}

const char *
knbd_kernel_refused(const char *release)
{
	unsigned a, b;

	if (sscanf(release, "%3u.%3u", &a, &b) < 2)
		return "this kernel's version can't be read; use --present "
		    "file";
	if (a < 5 || (a == 5 && b < 14))
		return "the NBD of kernels before 5.14 keeps no identifier, by "
		    "which a device is known as ours; use --present file";
	return NULL;
}
