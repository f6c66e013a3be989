#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus of fuzz_fuse to a directory: what kernels send."""

import struct
import sys
from pathlib import Path

MAX_PAGES = 1 << 22


def request(opcode, body=b"", unique=2, length=None):
    """One request, and before it how many bytes of it there are."""
    data = struct.pack("<IIQQIIIHH", 40 + len(body) if length is None
                       else length, opcode, unique, 1, 0, 0, 1, 0, 0) + body
    return struct.pack("<H", len(data)) + data


def init(minor, flags=0xffffffff, major=7):
    return request(26, struct.pack("<4I", major, minor, 131072, flags)
                   + bytes(48 if minor > 35 else 0))


def read(offset, length, flags=0):
    return request(15, struct.pack("<QQIIQII", 2, offset, length, 0, 0, flags,
                                   0), 4)


OPEN = request(14, struct.pack("<II", 0x8000, 0))
RELEASE = request(18, struct.pack("<QIIQ", 2, 0x8000, 0, 0), 6)
CORPUS = {
    "life": init(45) + OPEN + request(3, bytes(16)) + read(0, 131072)
    + request(36, struct.pack("<Q", 4), 5) + RELEASE + request(38),
    "init": init(31) + init(28) + init(27) + init(45, 0) + init(1, major=8),
    "reads": read(4095, 1) + read((1 << 40) + 99, 4096) + read(1 << 63, 1 << 20)
    + read((1 << 64) - 1, 4096, 0o40000) + read(0, (1 << 20) + 1),
    "refused": request(1, b"name\0") + request(4, bytes(88))
    + request(16, bytes(44)) + request(43, bytes(32)) + request(46, bytes(24)),
    "silent": request(2, bytes(8)) + request(42, bytes(24)),
    "lies": request(15, bytes(39)) + request(15, bytes(40), length=40)
    + request(14, length=1 << 31) + b"\x0a\0" + bytes(10) + b"\0\0",
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in CORPUS.items():
        (folder / name).write_bytes(data)
