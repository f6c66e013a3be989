#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Compares every byte it reads of a device with a local file.  The device is
an NBD URI or the path of a file or block device.

  touch N    reads a few KiB in N random 64 KiB units; prints {units, bytes}
  paced      reads all the time; each line `more N` on stdin lets it read N
             units it has not read before, and it prints `unit` for each.  It
             connects again when its connection is lost and prints `lost`.
             `end`: it prints {units, reads, lost} and ends.

Of a path each read goes to the service, since the page cache is emptied before,
and a connection is never lost: an error is one.  It exits 1 at the first wrong
byte or I/O error."""

import argparse
import json
import os
import random
import select
import sys
import time

UNIT = 65536
RECONNECT_S = 60        # more than any restart's back-off


def say(*words):
    print(*words, flush=True)


class Reader:
    def __init__(self, uri, path, seed):
        self.uri = uri
        self.file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.file).st_size
        self.random = random.Random(seed)
        self.units = list(range((self.size + UNIT - 1) // UNIT))
        self.random.shuffle(self.units)
        self.reads = self.bytes = self.lost = 0
        if uri.startswith("/"):
            self.nbd = None
            self.device = os.open(uri, os.O_RDONLY)
            if os.lseek(self.device, 0, os.SEEK_END) != self.size:
                sys.exit("reader: the device has another size")
        else:
            self.connect()

    def connect(self):
        import nbd
        until = time.monotonic() + RECONNECT_S
        while True:
            self.nbd = nbd.NBD()
            try:
                self.nbd.connect_uri(self.uri)
                break
            except nbd.Error as e:
                if time.monotonic() > until:
                    sys.exit("reader: cannot connect again: %s" % e)
                time.sleep(0.02)        # a socket's return has no event
        if self.nbd.get_size() != self.size:
            sys.exit("reader: the device has %d bytes, the file %d"
                     % (self.nbd.get_size(), self.size))

    def read(self, count, offset):
        if self.nbd:
            got = self.ask(count, offset)
        else:
            os.posix_fadvise(self.device, offset & ~4095, (count + 8191) & ~4095,
                             os.POSIX_FADV_DONTNEED)
            try:
                got = os.pread(self.device, count, offset)
            except OSError as e:
                sys.exit("reader: I/O error at %d+%d: %s" % (offset, count, e))
        if got != os.pread(self.file, count, offset):
            sys.exit("reader: WRONG BYTES at %d+%d" % (offset, count))
        self.reads += 1
        self.bytes += count

    def ask(self, count, offset):
        import nbd
        while True:
            try:
                got = self.nbd.pread(count, offset)
                break
            except nbd.Error as e:
                if not (self.nbd.aio_is_dead() or self.nbd.aio_is_closed()):
                    sys.exit("reader: I/O error at %d+%d: %s"
                             % (offset, count, e))
                self.lost += 1
                say("lost")
                self.connect()
        return got

    def somewhere_in(self, unit):
        """A short read that stays inside the unit."""
        start, end = unit * UNIT, min((unit + 1) * UNIT, self.size)
        a = self.random.randrange(start, end) & ~511
        self.read(self.random.randint(1, min(4096, end - a)), a)

    def touch(self, n):
        for unit in self.units[:n]:
            self.somewhere_in(unit)
        say(json.dumps({"units": min(n, len(self.units)),
                        "bytes": self.bytes, "reads": self.reads}))

    def paced(self):
        orders = open(0, "rb", buffering=0)     # select() must see all of it
        allowed = done = 0
        while True:
            idle = done == 0 and allowed == 0
            if select.select([orders], [], [], None if idle else 0)[0]:
                line = orders.readline().split()
                if line[:1] != [b"more"]:
                    break
                allowed += int(line[1])
            if allowed:
                allowed -= 1
                # a piece, then all of it; when all were read, round again
                unit = self.units[done % len(self.units)]
                self.somewhere_in(unit)
                self.read(min(UNIT, self.size - unit * UNIT), unit * UNIT)
                done += 1
                say("unit")
            elif done:
                unit = self.units[self.random.randrange(done)
                                  % len(self.units)]
                self.somewhere_in(unit)
        say(json.dumps({"units": done, "reads": self.reads,
                        "lost": self.lost}))


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("uri")
    p.add_argument("file")
    p.add_argument("what", choices=("touch", "paced"))
    p.add_argument("n", nargs="?", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    r = Reader(args.uri, args.file, args.seed)
    if args.what == "touch":
        r.touch(args.n)
    else:
        r.paced()


if __name__ == "__main__":
    main()
