/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership by scope.  A local marked _cleanup_x_ is released when its scope
 * ends; take_fd() and take_ptr() hand it over instead.
 */
#ifndef BASE_OWN_H
#define BASE_OWN_H

#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"

static inline void
own_free(void *p)
{
	free(*(void **)p);
}

static inline void
own_close(const int *fd)
{
	fd_close(*fd);
}

static inline void
own_fclose(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_(f)	__attribute__((cleanup(f)))
#define _cleanup_free_	_cleanup_(own_free)
#define _cleanup_close_	_cleanup_(own_close)
#define _cleanup_fclose_ _cleanup_(own_fclose)

static inline int
take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#define take_ptr(p)                                                            \
	({                                                                     \
		__typeof__(p) *slot_ = &(p), taken_ = *slot_;                  \
		*slot_ = NULL;                                                 \
		taken_;                                                        \
	})

#define ARRAY_LEN(a)	(sizeof(a) / sizeof((a)[0]))

#endif
