#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Is DEVICE, a regular file, a block device or an NBD URI, the bytes of FILE to
whoever reads it, and however?

Random reads of 4 KiB to 4 MiB at odd offsets, buffered, direct and mapped, from
an empty page cache and a full one; at the end and behind it; by many at a time;
and what a read-only device refuses.  Prints how many reads were compared, exits 1
at the first that is wrong.  What is NBD's own: nbd_conformance.py."""

import argparse
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
        sys.exit("device_conformance: " + " ".join(map(str, what)))


def same(got, want, *what):
    global compared
    check(bytes(got) == bytes(want), "WRONG BYTES,", *what)
    compared += 1


class Device:
    """What holds for every kind; `open()` gives a function (at, count) -> bytes,
    for one thread."""

    def __init__(self, device, path, rng):
        self.device = device
        file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(file).st_size
        self.want = mmap.mmap(file, self.size, prot=mmap.PROT_READ)
        self.rng = rng

    def somewhere(self, count, align=1):
        return self.rng.randrange(0, self.size) // align * align, count

    def drop(self):
        """What a page cache has of it."""

    def buffered(self, rounds):
        read = self.open()
        for n in range(rounds):
            for count in SIZES:
                at, count = self.somewhere(count + self.rng.choice((0, 1, 511)))
                if n % 2:
                    self.drop()
                same(read(at, count), self.want[at:at + count],
                     "buffered", at, count)

    def ends(self):
        read = self.open()
        self.drop()
        for back in (1, 100, 511, 4095, 4096, 4097, 70000):
            at = self.size - back
            same(read(at, MIB), self.want[at:], "end", at)
        for at in (self.size, self.size + 1, self.size + MIB, 1 << 62):
            same(read(at, 4096), b"", "behind the end", at)

    def whole(self):
        read = self.open()
        self.drop()
        at = 0
        while at < self.size:
            got = read(at, 4 * MIB)
            check(got, "nothing at", at)
            same(got, self.want[at:at + len(got)], "whole", at)
            at += len(got)

    def crowd(self, depth, rounds):
        """So many at a time."""
        wrong = []

        def one(seed):
            rng = random.Random(seed)
            read = self.open_of_crowd(seed)
            for _ in range(rounds):
                count = rng.choice((4 * KIB, 16 * KIB, 256 * KIB))
                at = rng.randrange(0, self.size) // 4096 * 4096
                try:
                    if read(at, count) != self.want[at:at + count]:
                        wrong.append((at, count))
                except Exception as e:  # nobody would see it
                    wrong.append((at, count, e))

        self.drop()
        threads = [threading.Thread(target=one, args=(i,))
                   for i in range(depth)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check(not wrong, "by", depth, "at a time:", wrong[:3])
        global compared
        compared += depth * rounds


class Nbd(Device):
    """Reads of more than the server takes are cut by us, as the kernel does; and
    one that reaches behind the end, which is an error here."""

    def connect(self):
        import nbd
        h = nbd.NBD()
        h.connect_uri(self.device)
        return h

    def open(self):
        h = self.connect()

        def read(at, count):
            count = max(0, min(count, self.size - at))
            return b"".join(h.pread(min(4 * MIB, count - n), at + n)
                            for n in range(0, count, 4 * MIB))
        return read

    def open_of_crowd(self, seed):
        return self.open()

    def attributes(self):
        h = self.connect()
        check(h.get_size() == self.size, "its size is", h.get_size())
        check(h.is_read_only(), "it says that it is writable")

    def refusals(self):
        import nbd
        h = self.connect()
        h.set_strict_mode(0)
        for act in (lambda: h.pwrite(b"x" * 4096, 0), lambda: h.trim(4096, 0),
                    lambda: h.zero(4096, 0)):
            try:
                act()
                check(False, "it could be changed")
            except nbd.Error as e:
                check(e.errnum == errno.EPERM, e)

    def direct(self, rounds):
        """There is no page cache."""

    mapped = direct


class Path(Device):
    def __init__(self, device, path, rng):
        super().__init__(device, path, rng)
        self.fd = os.open(device, os.O_RDONLY)
        self.block = stat.S_ISBLK(os.fstat(self.fd).st_mode)

    def drop(self):
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def open(self):
        return lambda at, count: os.pread(self.fd, count, at)

    def open_of_crowd(self, seed):
        """Odd ones directly."""
        fd = os.open(self.device, os.O_RDONLY |
                     (os.O_DIRECT if seed % 2 else 0))
        buf = mmap.mmap(-1, 256 * KIB)

        def read(at, count):
            return buf[:os.preadv(fd, [memoryview(buf)[:count]], at)]
        return read

    def attributes(self):
        check(os.lseek(self.fd, 0, os.SEEK_END) == self.size, "SEEK_END")
        st = os.fstat(self.fd)
        if self.block:
            return
        check(stat.S_ISREG(st.st_mode), "it is no regular file")
        check(st.st_size == self.size, "its size is", st.st_size)
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
        check(os.fstat(self.fd).st_mode & 0o222 == 0,
              "it says that it is writable")
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
        self.drop()
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


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("device")
    p.add_argument("file")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    p.add_argument("--small", action="store_true",
                   help="fewer of each, for an emulated processor")
    p.add_argument("--plain", action="store_true",
                   help="a file of the store's, which root could change")
    a = p.parse_args()
    print("seed", a.seed, flush=True)
    kind = Nbd if a.device.startswith("nbd") else Path
    d = kind(a.device, a.file, random.Random(a.seed))
    d.attributes()
    if not a.plain:
        d.refusals()
    d.ends()
    d.buffered(2 if a.small else 10)
    d.direct(1 if a.small else 5)
    d.mapped(10 if a.small else 100)
    for depth in DEPTHS:
        d.crowd(depth, 2 if a.small else 20)
    d.whole()
    print("compared", compared)


if __name__ == "__main__":
    main()
