// SPDX-License-Identifier: Apache-2.0
/*
 * Which kernels' ublk is used without being forced: those that our test bed has
 * killed workers under without an error, which are 6.12 and the newest, from
 * 7.2 on.  What is known of others is from bug reports.
 */
#include <stdio.h>

#include "base/own.h"
#include "devd/devd.h"

#define USE	"; use --present file, or set ublk = force in [devices]"
#define VERSION_OF(a, b, c)	(((a) << 16) + ((b) << 8) + (c))
#define ANY	255

static const struct range {
	unsigned first, last;	/* VERSION_OF() */
	const char *why;
} ranges[] = {
	/* no GET_FEATURES before 6.5; CVE-2025-37906 */
	{ 0, VERSION_OF(6, 11, ANY), "the ublk of kernels before 6.12 is not "
	    "tested, and some panic when a device is closed" USE },
	{ VERSION_OF(6, 13, 0), VERSION_OF(6, 14, 5), "the ublk of kernels "
	    "6.13 to 6.14.5 may panic when a device is closed" USE },
	/* a killed server may stay in state D */
	{ VERSION_OF(6, 17, 0), VERSION_OF(6, 17, 0), "the ublk of kernel "
	    "6.17.0 may hang when its server ends" USE },
	/* control commands that never return: 6.18.40 and 7.0.14, not 6.18.0;
	 * where between it begins is not known */
	{ VERSION_OF(6, 18, 1), VERSION_OF(7, 0, ANY), "the ublk of kernels "
	    "6.18.1 to 7.0 may hang when devices are made and ended" USE },
	{ VERSION_OF(6, 14, 6), VERSION_OF(6, 18, 0), "the ublk of this kernel "
	    "is not tested" USE },
	{ VERSION_OF(7, 1, 0), VERSION_OF(7, 1, ANY), "the ublk of this kernel "
	    "is not tested" USE },
};

const char *
ublk_kernel_refused(const char *release)
{
	unsigned a, b = 0, c = 0, version;

	if (sscanf(release, "%3u.%3u.%3u", &a, &b, &c) < 2)
		return "this kernel's version can't be read" USE;
	version = VERSION_OF(a, b > ANY ? ANY : b, c > ANY ? ANY : c);
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		if (version >= ranges[i].first && version <= ranges[i].last)
			return ranges[i].why;
	return NULL;
}
