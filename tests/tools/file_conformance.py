#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Is DEVICE, a regular file or a block device, the bytes of FILE to whoever
reads it, and however?

Random reads of 4 KiB to 4 MiB at odd offsets, buffered, direct and mapped, from
an empty page cache and a full one; at the end and behind it; by many at a time;
and what a read-only file refuses.  Prints how many reads were compared, exits 1
at the first that is wrong.

  file_conformance.py DEVICE FILE [SEED [small]]

small: fewer of each, for an emulated processor."""

import errno
import mmap
import os
import random
import stat
import sys
import threading

KIB = 1024
MIB = 1024 * KIB
DEPTHS = (1, 8, 32, 128)
SIZES = (4 * KIB, 64 * KIB, 128 * KIB, MIB, 4 * MIB)

compared = 0


def check(ok, *what):
    if not ok:
        sys.exit("file_conformance: " + " ".join(map(str, what)))


def drop(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def same(got, want, *what):
    global compared
    check(bytes(got) == bytes(want), "WRONG BYTES,", *what)
    compared += 1


class Device:
    def __init__(self, device, path, rng):
        self.device = device
        self.fd = os.open(device, os.O_RDONLY)
        file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(file).st_size
        self.block = stat.S_ISBLK(os.fstat(self.fd).st_mode)
        self.want = mmap.mmap(file, self.size, prot=mmap.PROT_READ)
        self.rng = rng

    def somewhere(self, count, align=1):
        return self.rng.randrange(0, self.size) // align * align, count

    def attributes(self):
        check(os.lseek(self.fd, 0, os.SEEK_END) == self.size, "SEEK_END")
        st = os.fstat(self.fd)
        if self.block:
            check(st.st_mode & 0o222 == 0, "it says that it is writable")
            return
        check(stat.S_ISREG(st.st_mode), "it is no regular file")
        check(st.st_size == self.size, "its size is", st.st_size)
        check(st.st_mode & 0o222 == 0, "it says that it is writable")
        check(os.lseek(self.fd, 0, os.SEEK_DATA) == 0, "SEEK_DATA")
        check(os.lseek(self.fd, 0, os.SEEK_HOLE) == self.size, "SEEK_HOLE")

    def block_refusals(self):
        """The node itself is the administrator's; its bytes are nobody's."""
        try:
            fd = os.open(self.device, os.O_RDWR)
            os.pwrite(fd, b"x" * 4096, 0)
            os.fsync(fd)
            check(False, "it could be written to")
        except OSError as e:
            check(e.errno in (errno.EROFS, errno.EACCES, errno.EPERM), e)

    def refusals(self):
        if self.block:
            self.block_refusals()
            return
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
            try:
                os.close(os.open(self.device, flags))
                check(False, "opened with flags", flags)
            except OSError as e:
                check(e.errno in (errno.EROFS, errno.EACCES), e)
        for act in (lambda: os.write(self.fd, b"x"),
                    lambda: os.ftruncate(self.fd, 0),
                    lambda: os.utime(self.device),
                    lambda: os.chmod(self.device, 0o666),
                    lambda: os.unlink(self.device)):
            try:
                act()
                check(False, "it could be changed")
            except OSError as e:
                check(e.errno in (errno.EROFS, errno.EBADF, errno.EINVAL,
                                  errno.EBUSY, errno.EACCES), e)
        os.fsync(self.fd)

    def buffered(self, rounds):
        for n in range(rounds):
            for count in SIZES:
                at, count = self.somewhere(count + self.rng.choice((0, 1, 511)))
                if n % 2:
                    drop(self.fd)
                same(os.pread(self.fd, count, at), self.want[at:at + count],
                     "buffered", at, count)

    def direct(self, rounds):
        """Aligned, as O_DIRECT has it."""
        fd = os.open(self.device, os.O_RDONLY | os.O_DIRECT)
        for _ in range(rounds):
            for count in SIZES:
                for align in (4096, 512):
                    at, count = self.somewhere(count, align)
                    buf = mmap.mmap(-1, count)
                    n = os.preadv(fd, [buf], at)
                    want = self.want[at:at + count]
                    check(n == len(want), "direct", at, count, "gave", n)
                    same(buf[:n], want, "direct", at, count)
        os.close(fd)

    def mapped(self, rounds):
        drop(self.fd)
        with mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ) as m:
            for advice in (mmap.MADV_NORMAL, mmap.MADV_RANDOM,
                           mmap.MADV_SEQUENTIAL):
                m.madvise(advice)
                for _ in range(rounds):
                    at, count = self.somewhere(64 * KIB)
                    same(m[at:at + count], self.want[at:at + count], "mapped",
                         at, count)
            end = self.size // 4096 * 4096
            same(m[end:], self.want[end:], "mapped, the end")
        with open(self.device, "rb") as f:
            m = mmap.mmap(f.fileno(), self.size, flags=mmap.MAP_PRIVATE,
                          prot=mmap.PROT_READ)
            same(m[:MIB], self.want[:MIB], "mapped privately")

    def ends(self):
        drop(self.fd)
        for back in (1, 100, 511, 4095, 4096, 4097, 70000):
            at = self.size - back
            same(os.pread(self.fd, MIB, at), self.want[at:], "end", at)
        for at in (self.size, self.size + 1, self.size + MIB, 1 << 62):
            same(os.pread(self.fd, 4096, at), b"", "behind the end", at)

    def whole(self):
        drop(self.fd)
        at = 0
        while at < self.size:
            got = os.pread(self.fd, 4 * MIB, at)
            check(got, "nothing at", at)
            same(got, self.want[at:at + len(got)], "whole", at)
            at += len(got)

    def crowd(self, depth, rounds):
        """So many at a time; odd ones directly."""
        wrong = []

        def one(seed):
            rng = random.Random(seed)
            fd = os.open(self.device, os.O_RDONLY |
                         (os.O_DIRECT if seed % 2 else 0))
            buf = mmap.mmap(-1, 256 * KIB)
            for _ in range(rounds):
                count = rng.choice((4 * KIB, 16 * KIB, 256 * KIB))
                at = rng.randrange(0, self.size) // 4096 * 4096
                try:
                    n = os.preadv(fd, [memoryview(buf)[:count]], at)
                    if buf[:n] != self.want[at:at + count]:
                        wrong.append((at, count))
                except OSError as e:
                    wrong.append((at, count, e))
            os.close(fd)

        drop(self.fd)
        threads = [threading.Thread(target=one, args=(i,))
                   for i in range(depth)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check(not wrong, "by", depth, "at a time:", wrong[:3])
        global compared
        compared += depth * rounds


def main():
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    small = len(sys.argv) > 4
    print("seed", seed, flush=True)
    d = Device(sys.argv[1], sys.argv[2], random.Random(seed))
    d.attributes()
    d.refusals()
    d.ends()
    d.buffered(2 if small else 10)
    d.direct(1 if small else 5)
    d.mapped(10 if small else 100)
    for depth in DEPTHS:
        d.crowd(depth, 2 if small else 20)
    d.whole()
    print("compared", compared)


if __name__ == "__main__":
    main()
