/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every change of the store goes through here (disk.c, disk_linux.c): what a
 * test records, cuts off anywhere and replays.  Names are one component, in
 * the directory of a descriptor.  Functions return 0 (or a descriptor) or
 * -errno.  Any thread.
 */
#ifndef CACHED_DISK_H
#define CACHED_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A new, empty, readable and writable file, mode 0600, instead of any older
 * one of that name.  The descriptor. */
int disk_create(int dir, const char *name);
/* An existing one; never through a symbolic link. */
int disk_open(int dir, const char *name, bool writable);
/* An existing directory, or with make a new one if need be, mode 0700. */
int disk_dir(int dir, const char *name, bool make);
int disk_write(int fd, const void *buf, size_t len, uint64_t offset);
int disk_set_size(int fd, uint64_t size);
/* Room for [offset, offset+len) without changing the size, so that a full
 * disk is an answer here and not a failed sync later.  0 also where the file
 * system can't. */
int disk_reserve(int fd, uint64_t offset, uint64_t len);
/* Give the room back: reads find zeros. */
int disk_punch(int fd, uint64_t offset, uint64_t len);
/* Copy between files, sharing blocks where the file system can. */
int disk_copy(int from, uint64_t from_offset, int to, uint64_t to_offset,
    size_t len);
int disk_sync(int fd);		/* data, and what is needed to read it */
int disk_sync_dir(int dir);
int disk_rename(int from_dir, const char *from, int to_dir, const char *to);
int disk_unlink(int dir, const char *name);	/* 0 also where there is none */
int disk_rmdir(int dir, const char *name);

/* Questions. */
int disk_used(int fd, uint64_t *bytes);		/* allocated to a file */
int disk_room(int dir, uint64_t *free, uint64_t *total); /* of its system */

#endif
