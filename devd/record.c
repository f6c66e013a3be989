// SPDX-License-Identifier: Apache-2.0
/*
 * The parent's records: a file of the run directory for each device that may
 * outlive this process, which says what it is.  It is there as long as the
 * device: written before the device is announced, removed before the device is.
 * So one that a dead instance left names a device that it made, or none.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"

#define RECORD_MAX	4096	/* bytes: a name and three digests */
#define NEW		"new"	/* becomes the record by rename(2) */

static int dir = -1;

int
record_open(const char *run)
{
	char path[SOCKET_PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/" RECORDS, run);
	fd_close(dir);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return dir < 0 ? -errno : 0;
}

int
record_write(const struct device_spec *spec, uint32_t number)
{
	Suite__Attachments__Item item = SUITE__ATTACHMENTS__ITEM__INIT;
	Suite__Attachments__Item *items[] = { &item };
	Suite__Attachments m = SUITE__ATTACHMENTS__INIT;
	_cleanup_close_ int fd = -1;
	uint8_t bytes[RECORD_MAX];
	int r;

	spec_to_item(spec, &item);
	item.number = number;
	m.items = items;
	m.n_items = ARRAY_LEN(items);
	if (suite__attachments__get_packed_size(&m) > sizeof(bytes))
		return -EFBIG;
	fd = openat(dir, NEW,
	    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = fd_pwrite_all(fd, bytes, suite__attachments__pack(&m, bytes), 0);
	if (r < 0)
		return r;
	return renameat(dir, NEW, dir, spec->id) < 0 ? -errno : 0;
}

void
record_remove(const char *id)
{
	if (unlinkat(dir, id, 0) < 0 && errno != ENOENT)
		log_err(
		    "remove the record of device %s: %s", id, strerror(errno));
}

/* One whose name is not its device's id was not written here. */
static int
record_read(const char *id, struct device_spec *spec, uint32_t *number)
{
	_cleanup_close_ int fd =
	    openat(dir, id, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	Suite__Attachments *m;
	uint8_t bytes[RECORD_MAX];
	ssize_t n;
	int r = -EBADMSG;

	if (fd < 0)
		return -errno;
	n = fd_pread_all(fd, bytes, sizeof(bytes), 0);
	if (n < 0)
		return (int)n;
	m = suite__attachments__unpack(NULL, (size_t)n, bytes);
	if (m && m->n_items == 1) {
		r = spec_from_item(m->items[0], spec);
		*number = m->items[0]->number;
	}
	if (m)
		suite__attachments__free_unpacked(m, NULL);
	return r == 0 && strcmp(spec->id, id) != 0 ? -EBADMSG : r;
}

void
record_each(bool (*found)(const struct device_spec *spec, uint32_t number))
{
	int own = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = own < 0 ? NULL : fdopendir(own);
	struct dirent *e;

	if (!d) {
		log_err("read the records of devices: %s", strerror(errno));
		fd_close(own);
		return;
	}
	while ((e = readdir(d))) {
		struct device_spec spec;
		uint32_t number;
		int r;

		if (e->d_name[0] == '.')
			continue;
		r = record_read(e->d_name, &spec, &number);
		if (r < 0)
			log_warn("the record of device %s can't be used: %s",
			    e->d_name, strerror(-r));
		if (r < 0 || !found(&spec, number))
			record_remove(e->d_name);
	}
	closedir(d);
}
