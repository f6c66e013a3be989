#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads files out of a plain (uncompressed) erofs without mounting it, so
that it works as any user: from an NBD export or from a local file.  The
format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h in Linux.
It is a test's reader of images that the test made: it trusts them."""

import argparse
import hashlib
import stat
import struct
import sys

import nbd

PLAIN, INLINE = 0, 2            # data layouts: all in blocks; tail in inode


class Erofs:
    def __init__(self, pread):
        self.pread = pread
        magic, = struct.unpack("<I", pread(4, 1024))
        if magic != 0xE0F5E1E2:
            sys.exit("erofscat: no erofs here")
        sb = pread(128, 1024)
        self.bs = 1 << sb[12]
        self.root, = struct.unpack_from("<H", sb, 14)
        self.meta, = struct.unpack_from("<I", sb, 40)

    def inode(self, nid):
        """mode, and the contents' (layout, size, first block, tail)."""
        at = self.meta * self.bs + nid * 32
        raw = self.pread(64, at)
        form, xattrs, mode = struct.unpack_from("<HHH", raw)
        if form & 1:
            size, = struct.unpack_from("<Q", raw, 8)
            head = 64
        else:
            size, = struct.unpack_from("<I", raw, 8)
            head = 32
        block, = struct.unpack_from("<I", raw, 16)
        if xattrs:
            head += 12 + 4 * (xattrs - 1)
        return mode, (form >> 1 & 7, size, block, at + head)

    def data(self, where):
        layout, size, block, tail = where
        if layout not in (PLAIN, INLINE):
            sys.exit("erofscat: only plain erofs files can be read here")
        whole = size if layout == PLAIN else size - size % self.bs
        out = bytearray()
        while len(out) < whole:
            n = min(1 << 20, whole - len(out))
            out += self.pread(n, block * self.bs + len(out))
        if size > whole:
            out += self.pread(size - whole, tail)
        return bytes(out)

    def names(self, nid):
        mode, where = self.inode(nid)
        if not stat.S_ISDIR(mode):
            sys.exit("erofscat: not a directory")
        raw, found = self.data(where), {}
        for base in range(0, len(raw), self.bs):
            b = raw[base:base + self.bs]
            count = struct.unpack_from("<H", b, 8)[0] // 12
            entries = [struct.unpack_from("<QHBB", b, 12 * i)
                       for i in range(count)]
            ends = [e[1] for e in entries[1:]] + [len(b)]
            for (child, start, _, _), end in zip(entries, ends):
                found[b[start:end].rstrip(b"\0").decode()] = child
        return found

    def walk(self, path):
        nid = self.root
        for part in path.strip("/").split("/"):
            if part:
                names = self.names(nid)
                if part not in names:
                    sys.exit("erofscat: %s: no such file" % path)
                nid = names[part]
        return nid


    def files(self, nid, path=""):
        """Of all regular files below: path, node."""
        for name, child in sorted(self.names(nid).items()):
            mode, _ = self.inode(child)
            if stat.S_ISREG(mode):
                yield path + "/" + name, child
            elif stat.S_ISDIR(mode) and name not in (".", ".."):
                yield from self.files(child, path + "/" + name)


def opened(source):
    """source -> pread(count, offset)"""
    if source.startswith("nbd"):
        h = nbd.NBD()
        h.connect_uri(source)
        size = h.get_size()

        def pread(count, offset):
            return bytes(h.pread(min(count, size - offset), offset))
    else:
        f = open(source, "rb")

        def pread(count, offset):
            f.seek(offset)
            return f.read(count)
    return pread


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("source", help="NBD URI or file")
    p.add_argument("paths", nargs="*", metavar="PATH",
                   help="with --sum and none: every regular file")
    p.add_argument("--sum", action="store_true",
                   help="print SHA-256, size and path instead of contents")
    args = p.parse_args()
    fs = Erofs(opened(args.source))
    wanted = [(path, fs.walk(path)) for path in args.paths]
    if args.sum and not wanted:
        wanted = fs.files(fs.root)
    for path, nid in wanted:
        mode, where = fs.inode(nid)
        if stat.S_ISDIR(mode):
            for name in sorted(fs.names(nid)):
                print(name)
            continue
        data = fs.data(where)
        if args.sum:
            print(hashlib.sha256(data).hexdigest(), len(data), path)
        else:
            sys.stdout.buffer.write(data)


if __name__ == "__main__":
    main()
