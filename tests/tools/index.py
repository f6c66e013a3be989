#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a chunk index, and writes some that lie.  It knows the format from
docs/FORMATS.md alone, so that what tests count by it nobody else has counted.

    index.py show FILE              one JSON object: sizes and numbers
    index.py new OLD... NEW         bytes of NEW's chunks that no OLD has
    index.py at FILE FRACTION       "OFFSET LENGTH" of a chunk's first extent,
                                    where that part of all chunks has gone by
    index.py touched FILE           bytes of the chunks that reads touch: lines
                                    "OFFSET LENGTH" of stdin
    index.py dup FILE               "OFFSET LENGTH HOME" of the longest extent
                                    whose chunk lies at HOME before
    index.py lie FILE OUT LIE       a canonical index that says it is of the
                                    same device, and is not:
        device=HEX      another device's digest, all else true
        swap            two extents of equal length change their chunks
        reverse         the same with as many extents as there are
        zeros           a chunk's first extent is zeros
        other=INDEX     a chunk is one of that index, and from its blob
        dup             a chunk stands where another one of its length belongs
"""

import argparse
import bisect
import json
import struct
import sys
from pathlib import Path

PAGE = 4096
ZEROS = 0xFFFFFFFF


class Index:
    """Extents: [offset, length, chunk], where a chunk is None for zeros, or
    (digest, blob digest, blob size, codec, offset, stored, length)."""

    def __init__(self, path):
        raw = Path(path).read_bytes()
        (magic, version, self.cut, self.size, self.device, n_blobs, n_chunks,
         n_extents, _, blobs, chunks, extents, total) = struct.unpack_from(
             "<8sIIQ32sIIIIQQQQ", raw)
        assert (magic, version, total) == (b"SHEDIDX1", 1, len(raw))
        self.blobs = [struct.unpack_from("<32sQ", raw, blobs + 64 * i)
                      for i in range(n_blobs)]
        self.chunks = []
        for i in range(n_chunks):
            digest, blob, codec, offset, stored, length = struct.unpack_from(
                "<32sIIQII", raw, chunks + 64 * i)
            self.chunks.append((digest, *self.blobs[blob], codec, offset,
                                stored, length))
        self.extents = []
        for i in range(n_extents):
            offset, length, chunk = struct.unpack_from("<QQI", raw,
                                                       extents + 24 * i)
            self.extents.append([offset, length, None if chunk == ZEROS
                                 else self.chunks[chunk]])

    def encode(self):
        numbers, merged = {}, []
        for offset, length, chunk in self.extents:
            if chunk is not None:
                numbers.setdefault(chunk, len(numbers))
            elif merged and merged[-1][2] is None:
                merged[-1][1] += length
                continue
            merged.append([offset, length, chunk])
        blobs = sorted({c[1:3] for c in numbers})
        where = {b: i for i, b in enumerate(blobs)}
        tables = [b"".join(struct.pack("<32sQ24x", *b) for b in blobs),
                  b"".join(struct.pack("<32sIIQII8x", c[0], where[c[1:3]],
                                       *c[3:]) for c in numbers),
                  b"".join(struct.pack("<QQII", o, n, ZEROS if c is None
                                       else numbers[c], 0)
                           for o, n, c in merged)]
        tables = [t + bytes(-len(t) % PAGE) for t in tables]
        at = [PAGE + sum(map(len, tables[:i])) for i in range(4)]
        head = struct.pack("<8sIIQ32sIIIIQQQQ", b"SHEDIDX1", 1, self.cut,
                           self.size, self.device, len(blobs), len(numbers),
                           len(merged), 0, *at)
        return b"".join([head.ljust(PAGE, b"\0"), *tables])

    def firsts(self):
        """Extents that are their chunk's first."""
        seen = set()
        for e in self.extents:
            if e[2] is not None and e[2] not in seen:
                seen.add(e[2])
                yield e


def show(ix):
    n = sum(c[6] for c in ix.chunks)
    zero = sum(e[1] for e in ix.extents if e[2] is None)
    return {"device": "sha256:" + ix.device.hex(), "size": ix.size,
            "chunks": len(ix.chunks), "extents": len(ix.extents),
            "unique": n, "zero": zero, "duplicate": ix.size - n - zero}


def new(paths):
    *old, last = map(Index, paths)
    known = {c[0] for ix in old for c in ix.chunks}
    return sum(c[6] for c in last.chunks if c[0] not in known)


def touched(ix, lines):
    found = set()
    starts = [e[0] for e in ix.extents]
    for line in lines:
        at, length = map(int, line.split())
        i = bisect.bisect_right(starts, at) - 1
        while i < len(starts) and starts[i] < at + length:
            found.add(ix.extents[i][2])
            i += 1
    return sum(c[5] for c in found - {None})


def longest_dup(ix):
    home, best = {}, (0, 0, 0)
    for offset, length, chunk in ix.extents:
        if chunk is None:
            continue
        if chunk in home and length > best[1]:
            best = offset, length, home[chunk]
        home.setdefault(chunk, offset)
    assert best[1], "no chunk is there twice"
    return best


def swap(ix, most):
    """Pairs of equally long extents with different chunks, from the middle."""
    seen, done = {}, 0
    used = [e for e in ix.extents if e[2] is not None]
    for e in used[len(used) // 2:] + used[:len(used) // 2]:
        twin = seen.pop(e[1], None)
        if twin is None or twin[2] == e[2]:
            seen[e[1]] = e
            continue
        e[2], twin[2] = twin[2], e[2]
        done += 1
        if done == most:
            return
    assert done, "no two chunks of the same length"


def lie(ix, how):
    how, _, arg = how.partition("=")
    firsts = list(ix.firsts())
    middle = firsts[len(firsts) // 2:]
    if how == "device":
        ix.device = bytes.fromhex(arg)
    elif how == "swap":
        swap(ix, 1)
    elif how == "reverse":
        swap(ix, None)
    elif how == "zeros":
        next(e for e in middle if e[1] % PAGE == 0)[2] = None
    elif how == "dup":
        twin = next((a, b) for a in middle for b in firsts
                    if a[1] == b[1] and a[2] != b[2])
        twin[0][2] = twin[1][2]
    else:
        assert how == "other"
        known = {c[0] for c in ix.chunks}
        others = {c[6]: c for c in Index(arg).chunks if c[0] not in known}
        e = next(e for e in middle if e[1] in others)
        e[2] = others[e[1]]
    return ix.encode()


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("show", "new", "at", "touched", "dup",
                                     "lie"))
    p.add_argument("args", nargs="+")
    a = p.parse_args()
    if a.what == "new":
        print(new(a.args))
        return
    ix = Index(a.args[0])
    if a.what == "show":
        print(json.dumps(show(ix)))
    elif a.what == "at":
        firsts = list(ix.firsts())
        e = firsts[min(int(len(firsts) * float(a.args[1])), len(firsts) - 1)]
        print(e[0], e[1])
    elif a.what == "touched":
        print(touched(ix, sys.stdin))
    elif a.what == "dup":
        print(*longest_dup(ix))
    else:
        assert ix.encode() == Path(a.args[0]).read_bytes()
        Path(a.args[1]).write_bytes(lie(ix, a.args[2]))


if __name__ == "__main__":
    main()
