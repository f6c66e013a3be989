// SPDX-License-Identifier: Apache-2.0
/*
 * Shared memory by memfd.  The size is sealed before anybody maps it, so that
 * no peer can turn a mapping into SIGBUS.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/own.h"
#include "base/shm.h"

#define SIZE_SEALS	(F_SEAL_SHRINK | F_SEAL_GROW)

int
shm_object(const char *name, size_t size)
{
	_cleanup_close_ int fd = -1;

	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
	    fcntl(fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL) < 0)
		return -errno;
	return take_fd(&fd);
}

int
shm_readonly(int fd)
{
	char path[40];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	if (ro < 0)
		return -errno;
	return ro;
}

int
shm_sealed(const char *name, const void *content, size_t len)
{
	_cleanup_close_ int fd = -1;
	int r;

	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	r = fd_pwrite_all(fd, content, len, 0);
	if (r < 0)
		return r;
	if (fcntl(fd, F_ADD_SEALS,
	    SIZE_SEALS | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	return take_fd(&fd);
}

int
shm_is_sealed(int fd, size_t max, size_t *size)
{
	const int want = SIZE_SEALS | F_SEAL_WRITE;
	int seals = fcntl(fd, F_GET_SEALS), flags = fcntl(fd, F_GETFL);
	struct stat st;

	/* only a memfd has these: fstat() answers from memory */
	if (seals < 0 || (seals & want) != want || flags < 0 ||
	    (flags & O_ACCMODE) == O_WRONLY || fstat(fd, &st) < 0)
		return -EPROTO;
	if ((uint64_t)st.st_size > max)
		return -EFBIG;
	*size = (size_t)st.st_size;
	return 0;
}

int
shm_private_writer(const char *name, size_t size, void **out)
{
	_cleanup_close_ int fd = -1;
	void *p;

	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return -errno;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS,
	    SIZE_SEALS | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0) {
		int r = -errno;

		munmap(p, size);
		return r;
	}
	*out = p;
	return take_fd(&fd);
}

int
shm_map(int fd, size_t want, int writable, void **out)
{
	struct stat st;
	void *p;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((seals & SIZE_SEALS) != SIZE_SEALS || (size_t)st.st_size != want)
		return -EPROTO;
	p = mmap(NULL, want, writable ? PROT_READ | PROT_WRITE : PROT_READ,
	    MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	*out = p;
	return 0;
}
