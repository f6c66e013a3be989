/* SPDX-License-Identifier: Apache-2.0 */
/* Work that nobody waits for: idle_linux.c, idle_posix.c. */
#ifndef CACHED_IDLE_H
#define CACHED_IDLE_H

/* From now on this thread's disk and processor time is what others leave.
 * Where the system can't: no effect. */
void idle_priority(void);

#endif
