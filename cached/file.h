/* SPDX-License-Identifier: Apache-2.0 */
/* Between file.c, which knows what is in a file, and file_disk.c, which reads
 * and writes what the disk says of it. */
#ifndef CACHED_FILE_H
#define CACHED_FILE_H

#include "cached/cached.h"

/* ---- file_disk.c: f->dir is open, and its owner's ---- */

/* The identity in the name of the presence file in dir.  0, -ENOENT, -errno. */
int file_disk_find(int dir, uint64_t *id);
/* A new, empty pair, of f->h but for its identity.  Data first: a presence file
 * without its data is worth nothing.  0 or -errno. */
int file_disk_make(struct file *f);
/* The pair of that identity, and f->h from its header.  0; -EBADMSG: it does
 * not fit its place, or one is missing; -errno. */
int file_disk_open(struct file *f, uint64_t id, const struct digest *key);
/* What the records say; each is believed only as far as "hash it here".
 * learn: the catalogue does not know them yet.  0 or -errno. */
int file_disk_records(struct file *f, bool learn);
/* The directory too, and what was known only while it was open. */
void file_disk_close(struct file *f);
/* Remove pairs that were never finished, or never quite removed; not this. */
void file_disk_tidy(int dir, uint64_t id);
/* Remove all of it; its data (to) into quarantine under that name. */
void file_disk_remove(const struct file *f, const char *to);

/* f->complete: the mark is there, and of this file; its leans, expanded. */
void file_disk_mark_read(struct file *f);
int file_disk_mark_write(const struct file *f, const struct digest *leans,
    size_t n_leans, bool expanded);	/* durably; 0 or -errno */

/* f->used, or the file's age.  0 or -ENOMEM. */
int file_disk_used_read(struct file *f);
void file_disk_used_write(struct file *f);	/* if there is news */

#endif
