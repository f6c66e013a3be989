#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the link of tests/tools/link.c costs where it should cost nothing: the
time that it adds to a round trip at --rtt 0, and the rate that it passes at
--rate inf.  Prints one line of JSON.

usage: link_floor.py LINK"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

PINGS = 2000
BULK = 2 << 30
PIECE = 1 << 20


def serve(listener):
    """Who sends b gets BULK bytes; all else is echoed."""
    while True:
        c, _ = listener.accept()
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while what := c.recv(1):
            if what == b"p":
                c.sendall(what)
                continue
            piece, left = bytes(PIECE), BULK
            while left:
                left -= c.send(piece[:left] if left < PIECE else piece)
        c.close()


def ping_us(port):
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took = []
        for _ in range(PINGS):
            start = time.perf_counter_ns()
            c.sendall(b"p")
            c.recv(1)
            took.append((time.perf_counter_ns() - start) / 1000)
    return statistics.median(took)


def bulk_gbit(port):
    with socket.create_connection(("127.0.0.1", port)) as c:
        buffer, got = bytearray(PIECE), 0
        start = time.perf_counter()
        c.sendall(b"b")
        while got < BULK:
            got += c.recv_into(buffer)
        return BULK * 8 / (time.perf_counter() - start) / 1e9


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    listener = socket.create_server(("127.0.0.1", 0))
    server = os.fork()
    if server == 0:
        serve(listener)
    port = listener.getsockname()[1]
    link = subprocess.Popen(
        [sys.argv[1], "--listen", "127.0.0.1:0", "--to", "127.0.0.1:%d" % port,
         "--rtt", "0", "--rate", "inf"], stdout=subprocess.PIPE, text=True)
    try:
        through = int(link.stdout.readline().split()[1])
        print(json.dumps({
            "added_us": round(ping_us(through) - ping_us(port)),
            "gbit": round(bulk_gbit(through), 1),
            "direct_gbit": round(bulk_gbit(port), 1)}))
    finally:
        link.terminate()
        os.kill(server, signal.SIGTERM)


if __name__ == "__main__":
    main()
