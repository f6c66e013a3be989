#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""fuse_init.py DIR: mounts a FUSE file system there, waits for the kernel's
first request, prints the protocol version that it names, and unmounts.  Root
only.  The layouts are those of include/uapi/linux/fuse.h."""

import ctypes
import os
import struct
import sys

INIT = 26                       # enum fuse_opcode
REQUEST_LEAST = 8192            # FUSE_MIN_READ_BUFFER
READ_ONLY = 1                   # MS_RDONLY
DETACH = 2                      # MNT_DETACH

directory = sys.argv[1].encode()
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result != 0:
        error = ctypes.get_errno()
        sys.exit(f"fuse_init.py: {os.strerror(error)}")


device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
check(libc.mount(b"test", directory, b"fuse", READ_ONLY, options.encode()))
request = os.read(device, REQUEST_LEAST)
# struct fuse_in_header is 40 bytes; fuse_init_in begins with the version
_, opcode = struct.unpack_from("=II", request)
major, minor = struct.unpack_from("=II", request, 40)
check(libc.umount2(directory, DETACH))
if opcode != INIT:
    sys.exit(f"fuse_init.py: the first request is {opcode}, not INIT")
print(f"{major}.{minor}")
