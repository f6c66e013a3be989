#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A name server for one name: answers A of NAME with 127.0.0.1, and all else
with nothing.

    dns.py NAME ADDRESS

ADDRESS: its own, where it has port 53.  Prints `listening`, and a line for each
question for an address."""

import socket
import struct
import sys

A = 1
REFUSED_NAME = 3


def question(data):
    """The name that is asked for, its type, and where the question ends."""
    at, labels = 12, []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    kind, = struct.unpack(">H", data[at + 1:at + 3])
    return b".".join(labels).decode().lower(), kind, at + 5


def answer(data, name):
    asked, kind, end = question(data)
    code = 0 if asked == name else REFUSED_NAME
    record = b""
    if asked == name and kind == A:
        print(asked, flush=True)
        record = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 1, 4) + \
            bytes([127, 0, 0, 1])
    return data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1,
                                  1 if record else 0, 0, 0) + \
        data[12:end] + record


def main():
    name, address = sys.argv[1:]
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, 53))
    print("listening", flush=True)
    while True:
        data, client = s.recvfrom(512)
        try:
            s.sendto(answer(data, name), client)
        except (IndexError, struct.error):
            pass                # no question


if __name__ == "__main__":
    main()
