#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""fdstore.py FILE: a service that keeps one descriptor in the service manager's
store.  Writes into FILE, a line for each of its lives, what it was given at its
start: `nothing`, or what its earlier life had written into the descriptor.  See
sd_pid_notify_with_fds(3) and sd_listen_fds(3)."""

import os
import signal
import socket
import sys

FIRST = 3                       # SD_LISTEN_FDS_START


def tell(text, *descriptors):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        socket.send_fds(s, [text.encode()], descriptors)


names = os.environ.get("LISTEN_FDNAMES", "").split(":")
if os.environ.get("LISTEN_FDS") == "1" and names == ["kept"]:
    given = os.pread(FIRST, 100, 0).decode()
else:
    given = "nothing"
    memory = os.memfd_create("kept")
    os.write(memory, b"what the first wrote")
    tell("FDSTORE=1\nFDNAME=kept", memory)
with open(sys.argv[1], "a") as f:
    f.write(given + "\n")
tell("READY=1")
signal.pause()
