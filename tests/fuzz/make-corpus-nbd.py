#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus of fuzz_nbd to a directory: what real clients send."""

import struct
import sys
from pathlib import Path


def option(kind, payload=b""):
    return struct.pack(">8sII", b"IHAVEOPT", kind, len(payload)) + payload


def string(text):
    return struct.pack(">I", len(text)) + text


def go(name, *infos):
    return string(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta(name, *queries):
    return string(name) + struct.pack(">I", len(queries)) + b"".join(
        map(string, queries))


def request(kind, offset=0, length=0, flags=0, cookie=1):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset,
                       length)


FLAGS = b"\0\0\0\3"
BASE, OURS = b"base:allocation", b"x-shedstream:resident"
CORPUS = {
    "libnbd": FLAGS + option(8) + option(10, meta(b"", BASE))
    + option(7, go(b"", 3)) + request(0, 0, 65536) + request(7, 0, 1 << 20)
    + request(2),
    "qemu": FLAGS + option(8) + option(10, meta(b"disk", BASE, b"qemu:x"))
    + option(7, go(b"disk", 3)) + request(0, 0, 512) + request(3),
    "vz": FLAGS + option(7, go(b"disk")) + request(0, 4096, 131072),
    "list": FLAGS + option(3) + option(9, meta(b"disk"))
    + option(9, meta(b"", b"base:", OURS)) + option(2),
    "oldest": b"\0\0\0\0" + option(1, b"disk") + request(1, 0, 4)
    + b"data" + request(2),
    "odd": FLAGS + option(5) + option(11) + option(0xffffffff, b"x" * 64)
    + request(0, 0xffffffffffffffff, 0xffffffff, 0xffff)
    + request(6, 0, 4096, 16) + request(5, 0, 1 << 29) + request(4, 1, 1),
    "lies": FLAGS + option(6, string(b"a" * 4096) + b"\xff\xff")
    + option(10, meta(b"") [:-4] + b"\xff\xff\xff\xff"),
}

target = Path(sys.argv[1])
target.mkdir(parents=True, exist_ok=True)
for name, content in CORPUS.items():
    (target / name).write_bytes(content)
