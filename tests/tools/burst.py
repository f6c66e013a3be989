#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads 4 KiB each at places all over the device, in an order of chance that is
the same each time, from its FIRST on COUNT of them, and compares with FILE.
Places are 256 KiB apart: each is in another chunk, and none is read ahead.

    burst.py URI FILE FIRST COUNT [--depth N]

At most so many are under way, on up to 8 connections.  Prints `asked` when the
first of them are, `come N` for each that has come, `done`.  It exits 5 at an
EIO, 1 at a wrong byte or anything else."""

import argparse
import errno
import random
import select
import sys

import nbd

STEP = 256 * 1024
SIZE = 4096
CONNECTIONS = 8


class Burst:
    def __init__(self, args):
        n = min(args.depth, CONNECTIONS)
        self.file = open(args.file, "rb")
        self.handles = [nbd.NBD() for _ in range(n)]
        for h in self.handles:
            h.connect_uri(args.uri)
        self.size = self.handles[0].get_size()
        places = list(range(0, self.size, STEP))
        random.Random(1).shuffle(places)
        self.places = places[args.first:args.first + args.count]
        if len(self.places) < args.count:
            sys.exit("the device has %d places only" % len(places))
        self.ready = []         # what has come: see completed()

    def begin(self, handle):
        at = self.places.pop(0)
        buf = nbd.Buffer(min(SIZE, self.size - at))

        def completed(error):
            self.ready.append((handle, at, buf,
                               getattr(error, "value", error)))
            return 1
        handle.aio_pread(buf, at, completion=completed)

    def compare(self, at, buf):
        got = bytes(buf.to_bytearray())
        self.file.seek(at)
        if got != self.file.read(len(got)):
            sys.exit("wrong bytes at %d" % at)

    def run(self, depth):
        come = 0
        under_way = min(depth, len(self.places))
        for n in range(under_way):
            self.begin(self.handles[n % len(self.handles)])
        print("asked", flush=True)
        while under_way:
            self.wait()
            ready, self.ready = self.ready, []
            for handle, at, buf, error in ready:
                if error:
                    sys.exit(5 if error == errno.EIO else 1)
                self.compare(at, buf)
                come += 1
                print("come %d" % come, flush=True)
                if self.places:
                    self.begin(handle)
                else:
                    under_way -= 1
        print("done", flush=True)

    def wait(self):
        """Until something happens on any connection."""
        poll = select.poll()
        by_fd = {}
        for h in self.handles:
            way = h.aio_get_direction()
            events = (select.POLLIN if way & nbd.AIO_DIRECTION_READ else 0) \
                | (select.POLLOUT if way & nbd.AIO_DIRECTION_WRITE else 0)
            by_fd[h.aio_get_fd()] = h
            poll.register(h.aio_get_fd(), events)
        for fd, events in poll.poll():
            if events & select.POLLOUT:
                by_fd[fd].aio_notify_write()
            else:
                by_fd[fd].aio_notify_read()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("uri")
    p.add_argument("file")
    p.add_argument("first", type=int)
    p.add_argument("count", type=int)
    p.add_argument("--depth", type=int, default=1)
    args = p.parse_args()
    Burst(args).run(args.depth)


if __name__ == "__main__":
    main()
