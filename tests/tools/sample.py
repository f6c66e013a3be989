#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Places to read 4 KiB at, each in another chunk of an image with a chunk index
whose only blob is the image: prints "OFFSET START STORED" a line, where the read
is at OFFSET, and its chunk has STORED bytes at START of the blob.

usage: sample.py INDEX COUNT PART PARTS

The chunks of one of PARTS have no neighbour there, and no chunk in common with
those of another one.  The order is by chance, and the same each time."""

import random
import sys

sys.dont_write_bytecode = True
from index import Index     # noqa: E402, of this directory

BLOCK = 4096


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    count, part, parts = map(int, sys.argv[2:])
    chance = random.Random(part)
    # every second one, so that none has a neighbour
    mine = [e for e in Index(sys.argv[1]).extents if e[2]][2 * part::2 * parts]
    chance.shuffle(mine)
    if len(mine) < count:
        sys.exit("sample.py: a part has only %d chunks" % len(mine))
    for offset, length, chunk in mine[:count]:
        block = chance.randrange((length + BLOCK - 1) // BLOCK)
        print(offset + block * BLOCK, chunk[4], chunk[5])


if __name__ == "__main__":
    main()
