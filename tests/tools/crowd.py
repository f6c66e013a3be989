#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads many NBD exports at once, compares every byte with files, and tells in
which order the answers came.  One process, so that there is one order.

Each line of stdin is one more export to be read, at once:

    NAME URI FILE COUNT DEPTH SEED FROM TO

COUNT reads of the bytes FROM to TO, DEPTH of them in flight: every other one is
the next 64 KiB of a run, the others are short and somewhere; all are from SEED.

It ends when stdin has ended and all is read, and prints `NAME FIRST LAST`: which
of all answers its first and its last one were, from 1.  --touched DIR gets a
file NAME with a line `OFFSET LENGTH` for each read.  It exits 1 at the first
wrong byte or error."""

import argparse
import os
import random
import select
import sys

import nbd

RUN = 65536
SHORT = 4096
REQUESTS = 60           # on a connection: the server's own bound is 64


class Export:
    def __init__(self, line):
        words = line.split()
        self.name, uri, path = words[:3]
        self.count, self.depth, seed, first, last = map(int, words[3:])
        self.file = os.open(path, os.O_RDONLY)
        self.reads = self.make(random.Random(seed), first, last)
        self.sent = self.first = self.last = self.done = 0
        self.handles = []
        for _ in range((self.depth + REQUESTS - 1) // REQUESTS):
            h = nbd.NBD()
            h.connect_uri(uri)
            self.handles.append(h)

    def make(self, chance, first, last):
        run = first + (last - first) * chance.randrange(50) // 100
        reads = []
        for i in range(self.count):
            if i % 2 and run + RUN <= last:
                reads.append((run, RUN))
                run += RUN
            else:
                at = chance.randrange(first, last - SHORT) & ~511
                reads.append((at, chance.randint(1, SHORT)))
        return reads

    def send(self, came):
        """The next read, if there is one."""
        if self.sent == self.count:
            return
        at, length = self.reads[self.sent]
        h = self.handles[self.sent % len(self.handles)]
        self.sent += 1
        buf = nbd.Buffer(length)

        def completed(error):
            if error.value:
                sys.exit("crowd: %s: I/O error %d at %d+%d"
                         % (self.name, error.value, at, length))
            if buf.to_bytearray() != os.pread(self.file, length, at):
                sys.exit("crowd: %s: WRONG BYTES at %d+%d"
                         % (self.name, at, length))
            came(self)
            return 1

        h.aio_pread(buf, at, completed)


class Crowd:
    def __init__(self):
        self.exports, self.by_fd = [], {}
        self.poll = select.poll()
        self.poll.register(0, select.POLLIN)
        self.text, self.ended = b"", False
        self.answers, self.due = 0, []

    def came(self, export):
        self.answers += 1
        export.done += 1
        export.last = self.answers
        export.first = export.first or self.answers
        self.due.append(export)         # not from inside libnbd

    def more(self):
        """Lines of stdin: all connect before the first is read."""
        got = os.read(0, 65536)
        if not got:
            self.ended = True
            self.poll.unregister(0)
        *lines, self.text = (self.text + got).split(b"\n")
        added = [Export(line.decode()) for line in lines]
        for export in added:
            for h in export.handles:
                self.by_fd[h.aio_get_fd()] = h
                self.poll.register(h.aio_get_fd())
        self.exports += added
        self.due += [e for e in added for _ in range(e.depth)]

    def listen(self):
        for fd, h in self.by_fd.items():
            way = h.aio_get_direction()
            self.poll.modify(fd, (
                select.POLLIN if way & nbd.AIO_DIRECTION_READ else 0) | (
                select.POLLOUT if way & nbd.AIO_DIRECTION_WRITE else 0))

    def serve(self, fd, what):
        h = self.by_fd[fd]
        way = h.aio_get_direction()
        if what & ~select.POLLOUT and way & nbd.AIO_DIRECTION_READ:
            h.aio_notify_read()
        elif what & select.POLLOUT and way & nbd.AIO_DIRECTION_WRITE:
            h.aio_notify_write()

    def run(self):
        while not self.ended or any(e.done < e.count for e in self.exports):
            due, self.due = self.due, []
            for export in due:
                export.send(self.came)
            self.listen()
            for fd, what in self.poll.poll(0 if self.due else None):
                if fd == 0:
                    self.more()
                else:
                    self.serve(fd, what)


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--touched", metavar="DIR")
    args = p.parse_args()
    crowd = Crowd()
    crowd.run()
    for e in crowd.exports:
        print(e.name, e.first, e.last)
        if args.touched:
            with open(os.path.join(args.touched, e.name), "a") as f:
                f.writelines("%d %d\n" % r for r in e.reads)


if __name__ == "__main__":
    main()
