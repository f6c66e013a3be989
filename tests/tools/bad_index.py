#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/index/: good-*, and bad-*, each of which lies in one place.

bad_index.py [DIRECTORY].  It knows the format from docs/FORMATS.md alone, and
writes the same files each time.  tests/unit/test_index.c has the reason for
which each is refused.
"""

import hashlib
import struct
import sys
from pathlib import Path

PAGE = 4096
ZEROS = 0xFFFFFFFF
RAW, ZSTD = 0, 1


def sha(text):
    return hashlib.sha256(text.encode()).digest()


def blob(text, size):
    return {"digest": sha(text), "size": size, "reserved": bytes(24)}


def chunk(text, where, codec, offset, stored, length):
    return {"digest": sha(text), "blob": where, "codec": codec,
            "offset": offset, "stored": stored, "length": length,
            "reserved": bytes(8)}


def extent(offset, length, number):
    return {"offset": offset, "length": length, "chunk": number,
            "reserved": 0}


def header(size):
    return {"magic": b"SHEDIDX1", "version": 1, "cut": 1, "size": size,
            "device": sha("device"), "reserved": 0}


A, B = (0, 1) if sha("blob a") < sha("blob b") else (1, 0)


def base():
    """Each kind of thing once: a chunk used twice, zeros, a short end."""
    blobs = [None, None]
    blobs[A], blobs[B] = blob("blob a", 12288), blob("blob b", 70000)
    return {
        "header": header(131072 + 5000),
        "blobs": blobs,
        "chunks": [chunk("chunk 0", A, RAW, 4096, 8192, 8192),
                   chunk("chunk 1", B, ZSTD, 5000, 65000, 98304),
                   chunk("chunk 2", A, RAW, 0, 4096, 4096),
                   chunk("chunk 3", B, ZSTD, 0, 3000, 5000)],
        "extents": [extent(0, 8192, 0), extent(8192, 12288, ZEROS),
                    extent(20480, 98304, 1), extent(118784, 8192, 0),
                    extent(126976, 4096, 2), extent(131072, 5000, 3)],
    }


def zeros():
    return {"header": header(1 << 40), "blobs": [], "chunks": [],
            "extents": [extent(0, 1 << 40, ZEROS)]}


def padded(table):
    return table + bytes(-len(table) % PAGE)


def encode(ix):
    """The tables follow each other; what the header says may be overruled."""
    h = ix["header"]
    blobs = padded(b"".join(
        b["digest"] + struct.pack("<Q", b["size"]) + b["reserved"]
        for b in ix["blobs"]))
    chunks = padded(b"".join(
        c["digest"] + struct.pack("<IIQII", c["blob"], c["codec"], c["offset"],
                                  c["stored"], c["length"]) + c["reserved"]
        for c in ix["chunks"]))
    extents = padded(b"".join(
        struct.pack("<QQII", e["offset"], e["length"], e["chunk"],
                    e["reserved"])
        for e in ix["extents"]))
    chunks += bytes(h.get("gap", 0))
    at = [PAGE, PAGE + len(blobs), PAGE + len(blobs) + len(chunks)]
    head = struct.pack(
        "<8sIIQ32sIIIIQQQQ", h["magic"], h["version"], h["cut"], h["size"],
        h["device"], h.get("n_blobs", len(ix["blobs"])),
        h.get("n_chunks", len(ix["chunks"])),
        h.get("n_extents", len(ix["extents"])), h["reserved"],
        h.get("blobs", at[0]), h.get("chunks", at[1]), h.get("extents", at[2]),
        h.get("total", at[2] + len(extents)))
    return padded(head) + blobs + chunks + extents


def lie(*changes):
    """The base, but for these: (table, number, field, value), or (field,
    value) of the header."""
    ix = base()
    for *where, field, value in changes:
        record = ix[where[0]][where[1]] if where else ix["header"]
        record[field] = value
    return encode(ix)


def byte(at):
    data = bytearray(encode(base()))
    assert data[at] == 0
    data[at] = 1
    return bytes(data)


def other(change):
    ix = base()
    change(ix)
    return encode(ix)


def blobs_swapped(ix):
    ix["blobs"].reverse()
    for c in ix["chunks"]:
        c["blob"] = 1 - c["blob"]


def blob_more(ix):
    ix["blobs"].append({"digest": b"\xff" * 32, "size": 1,
                        "reserved": bytes(24)})


def blob_before(ix):
    ix["blobs"].insert(0, {"digest": bytes(32), "size": 1,
                           "reserved": bytes(24)})
    for c in ix["chunks"]:
        c["blob"] += 1


def chunks_swapped(ix):
    """1 and 2 change places, and all extents know of it."""
    c = ix["chunks"]
    c[1], c[2] = c[2], c[1]
    for e in ix["extents"]:
        e["chunk"] = {1: 2, 2: 1}.get(e["chunk"], e["chunk"])


def chunk_more(ix):
    ix["blobs"][A]["size"] += PAGE
    ix["chunks"].append(chunk("chunk 4", A, RAW, 12288, PAGE, PAGE))


def chunk_too_long(ix):
    ix["chunks"][1]["length"] += 164 * 1024
    ix["extents"][2]["length"] += 164 * 1024
    for e in ix["extents"][3:]:
        e["offset"] += 164 * 1024
    ix["header"]["size"] += 164 * 1024


def odd_twice(ix):
    """The short chunk of the end is used before it as well."""
    ix["extents"].append(extent(136072, 5000, 3))
    ix["header"]["size"] += 5000


def odd_zeros(ix):
    ix["extents"][5:] = [extent(131072, 1000, ZEROS), extent(132072, 5000, 3)]
    ix["header"]["size"] += 1000


def zeros_split(ix):
    ix["extents"][1:2] = [extent(8192, 4096, ZEROS),
                          extent(12288, 8192, ZEROS)]


def zeros_of_none(ix):
    ix["chunks"][3]["length"] = ix["extents"][5]["length"] = PAGE
    ix["extents"].append(extent(135168, 0, ZEROS))
    ix["header"]["size"] = 135168


def extents_swapped(ix):
    e = ix["extents"]
    e[3], e[4] = e[4], e[3]


def nothing(ix):
    ix["blobs"], ix["chunks"], ix["extents"] = [], [], []
    ix["header"]["size"] = 0


def extents_gone(ix):
    ix["chunks"][3]["length"] = PAGE
    ix["extents"] = []


def table_moved(ix):
    """A page of zeros before the extents, and the header knows of it."""
    ix["header"]["gap"] = PAGE


def wrapping(ix):
    """The lengths make the device's size, modulo 2^64."""
    ix["extents"][1]["length"] = (1 << 64) - 8192
    ix["extents"][2:] = [extent(0, 98304, 1), extent(98304, 8192, 0),
                         extent(106496, 4096, 2), extent(110592, 25480, 3)]
    ix["chunks"][3]["length"] = 25480


GOOD = {"base": encode(base()), "zeros": encode(zeros())}

BAD = {
    # header
    "empty": b"",
    "header-cut": encode(base())[:PAGE - 1],
    "magic": lie(("magic", b"SHEDIDX2")),
    "version-2": lie(("version", 2)),
    "version-big-endian": lie(("version", 1 << 24)),
    "reserved": lie(("reserved", 1)),
    "reserved-behind": byte(104),
    "reserved-end": byte(PAGE - 1),
    "device-0": lie(("size", 0)),
    "device-nothing": other(nothing),
    "device-over": lie(("size", (1 << 40) + 1)),
    "device-max": lie(("size", (1 << 64) - 1)),
    "count-blobs": lie(("n_blobs", 1025)),
    "count-blobs-max": lie(("n_blobs", ZEROS)),
    "count-chunks": lie(("n_chunks", (1 << 19) + 1)),
    "count-chunks-max": lie(("n_chunks", ZEROS)),
    "count-extents": lie(("n_extents", (1 << 20) + 1)),
    "count-extents-max": lie(("n_extents", ZEROS)),
    "count-blobs-fewer": lie(("n_blobs", 1)),
    "count-chunks-fewer": lie(("n_chunks", 3)),
    "count-extents-fewer": lie(("n_extents", 5)),
    "count-blobs-page": lie(("n_blobs", 65)),
    "table-blobs": lie(("blobs", 0)),
    "table-chunks": lie(("chunks", PAGE)),
    "table-extents": lie(("extents", (1 << 64) - PAGE)),
    "table-moved": other(table_moved),
    "total-less": lie(("total", 3 * PAGE)),
    "total-max": lie(("total", (1 << 64) - 1)),
    "cut-byte": encode(base())[:-1],
    "cut-page": encode(base())[:-PAGE],
    "longer-byte": encode(base()) + b"\0",
    "longer-page": encode(base()) + bytes(PAGE),
    "padding-blobs": byte(2 * PAGE - 1),
    "padding-chunks": byte(2 * PAGE + 4 * 64),
    "padding-extents": byte(4 * PAGE - 1),
    # blobs
    "blob-order": other(blobs_swapped),
    "blob-twice": lie(("blobs", 1, "digest", base()["blobs"][0]["digest"])),
    "blob-unused": other(blob_more),
    "blob-unused-first": other(blob_before),
    "blob-size-0": lie(("blobs", 0, "size", 0)),
    "blob-size-over": lie(("blobs", 0, "size", 1 << 63)),
    "blob-size-max": lie(("blobs", 0, "size", (1 << 64) - 1)),
    "blob-reserved": byte(PAGE + 40),
    # chunks
    "chunk-blob": lie(("chunks", 1, "blob", 2)),
    "chunk-blob-max": lie(("chunks", 1, "blob", ZEROS)),
    "chunk-codec": lie(("chunks", 1, "codec", 2)),
    "chunk-codec-max": lie(("chunks", 0, "codec", ZEROS)),
    "chunk-length-0": lie(("chunks", 1, "length", 0)),
    "chunk-length-max": lie(("chunks", 1, "length", ZEROS)),
    "chunk-length-over": other(chunk_too_long),
    "chunk-odd": lie(("chunks", 1, "length", 98303)),
    "chunk-stored-0": lie(("chunks", 1, "stored", 0)),
    "chunk-raw-stored-0": lie(("chunks", 0, "stored", 0)),
    "chunk-raw-less": lie(("chunks", 0, "stored", 8191)),
    "chunk-raw-more": lie(("chunks", 2, "stored", 4097)),
    "chunk-zstd-equal": lie(("chunks", 3, "stored", 5000)),
    "chunk-beyond": lie(("chunks", 1, "offset", 5001)),
    "chunk-beyond-raw": lie(("chunks", 0, "offset", 4097)),
    "chunk-beyond-offset": lie(("chunks", 1, "offset", 70001)),
    "chunk-wraps": lie(("chunks", 1, "offset", (1 << 64) - 1)),
    "chunk-wraps-to-0": lie(("chunks", 1, "offset", (1 << 64) - 65000)),
    "chunk-overlap": lie(("chunks", 3, "offset", 2001)),
    "chunk-overlap-same": lie(("chunks", 3, "offset", 5000)),
    "chunk-overlap-within": lie(("chunks", 3, "offset", 65000)),
    "chunk-order": other(chunks_swapped),
    "chunk-unused": other(chunk_more),
    "chunk-twice": lie(("chunks", 3, "digest", sha("chunk 0"))),
    "chunk-reserved": byte(2 * PAGE + 56),
    "chunk-reserved-end": byte(2 * PAGE + 255),
    # extents
    "extent-start": lie(("extents", 0, "offset", PAGE)),
    "extent-start-max": lie(("extents", 0, "offset", (1 << 64) - 8192)),
    "extent-gap": lie(("extents", 2, "offset", 24576)),
    "extent-overlap": lie(("extents", 2, "offset", 16384)),
    "extent-odd": lie(("extents", 2, "offset", 20481)),
    "extent-odd-chunk": other(odd_twice),
    "extent-order": other(extents_swapped),
    "extent-length-0": lie(("extents", 1, "length", 0)),
    "extent-length-last-0": other(zeros_of_none),
    "extent-length-less": lie(("extents", 3, "length", 4096)),
    "extent-length-max": lie(("extents", 1, "length", (1 << 64) - 1)),
    "extent-wraps": other(wrapping),
    "extent-chunk": lie(("extents", 4, "chunk", 4)),
    "extent-chunk-max": lie(("extents", 4, "chunk", ZEROS - 1)),
    "extent-chunk-early": lie(("extents", 2, "chunk", 2)),
    "extent-zeros-twice": other(zeros_split),
    "extent-zeros-odd": other(odd_zeros),
    "extent-reserved": byte(3 * PAGE + 20),
    "extent-reserved-end": byte(3 * PAGE + 143),
    "extent-none": other(extents_gone),
    "device-less": lie(("size", 136071)),
    "device-more": lie(("size", 136073)),
}


def main():
    to = Path(sys.argv[1] if len(sys.argv) > 1 else
              Path(__file__).parent.parent / "data/index")
    to.mkdir(parents=True, exist_ok=True)
    for kind, files in ("good", GOOD), ("bad", BAD):
        for name, data in files.items():
            (to / f"{kind}-{name}").write_bytes(data)
    assert len({*BAD.values(), *GOOD.values()}) == len(BAD) + len(GOOD)


if __name__ == "__main__":
    main()
