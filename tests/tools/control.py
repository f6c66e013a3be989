#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A raw client of the control socket, for what shedctl does not ask for: says
hello as an owner, makes one request, and prints what comes of it, one
`FIELD VALUE` a line; a refusal is `error CODE SENTENCE` and status 1.

    control.py SOCKET OWNER attach IMAGE NAME CONSUMER [PRESENT]
    control.py SOCKET OWNER reconcile [--allow-empty] [CONSUMER=IMAGE]...
    control.py SOCKET OWNER raw NUMBER HEX      # a request's number and body
"""
import socket
import struct
import sys

ATTACH, RECONCILE = 12, 31
ERROR, ACCEPTED, PROGRESS, ATTACHED, RECONCILED = 100, 101, 102, 112, 131
KINDS = ["auto", "nbd", "file", "ublk", "plain"]
FIELDS = {ATTACHED: {1: "name", 2: "path"},
          RECONCILED: {1: "attached", 2: "dropped", 3: "missing"}}


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def number_at(data, at):
    n = shift = 0
    while True:
        n |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return n, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = number_at(data, at)
        value, at = number_at(data, at)
        if key & 7 == 2:
            size, value = value, data[at:at + value]
            at += size
        yield key >> 3, value


def exactly(s, n):
    out = b""
    while len(out) < n:
        piece = s.recv(n - len(out))
        if not piece:
            print("closed")
            sys.exit(1)
        out += piece
    return out


def send(s, number, body):
    frame = field(1, number) + field(number, body)
    s.sendall(struct.pack(">I", len(frame)) + frame)


def answer(s):
    """The number and the body of the next answer that is a result."""
    while True:
        frame = dict(fields(exactly(s, *struct.unpack(">I", exactly(s, 4)))))
        if frame.pop(1, 0) == 0:
            continue  # an event
        number, body = frame.popitem()
        if number not in (ACCEPTED, PROGRESS):
            return number, body


def reconcile(words):
    body = b""
    for word in words:
        if word == "--allow-empty":
            body += field(2, 1)
        else:
            consumer, image = word.split("=", 1)
            body += field(1, field(1, consumer) + field(2, image))
    return body


def show(number, body):
    """True: this was the last part of it."""
    if number == ERROR:
        error = dict(fields(body))
        print("error", error[1], error[3].decode())
        sys.exit(1)
    for key, value in fields(body):
        if key in FIELDS.get(number, {}):
            print(FIELDS[number][key], value.decode())
    return number != RECONCILED or not dict(fields(body)).get(4)


def main():
    path, owner, what = sys.argv[1:4]
    words = sys.argv[4:]
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    send(s, 10, field(1, 1) + field(2, owner))
    show(*answer(s))
    if what == "attach":
        image, name, consumer = words[:3]
        present = KINDS.index(words[3] if len(words) > 3 else "nbd")
        send(s, ATTACH, field(1, image) + field(2, name) +
             field(3, present) + field(6, consumer))
    elif what == "reconcile":
        send(s, RECONCILE, reconcile(words))
    else:
        send(s, int(words[0]), bytes.fromhex(words[1]))
    while not show(*answer(s)):
        pass


main()
