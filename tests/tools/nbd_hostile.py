#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""nbd_hostile.py SOCKET [PID]: everything an NBD client should not do.

Raw sockets, so that nothing stands between the malice and the server.  After
each attack a proper client must be served; with PID, the anonymous memory of
that process must stay below 8 MB, also in the midst of the attacks that try to
make it grow.  Exits 1 at the first attack that has an effect."""

import random
import socket
import struct
import sys
import time

PATH = sys.argv[1]
PID = sys.argv[2] if len(sys.argv) > 2 else None
RSS_MAX_KB = 8192
CONNECTIONS = 64        # NBD_CONNECTIONS
IN_FLIGHT = 64          # NBD_REQUESTS
MIB = 1 << 20
READ, WRITE, DISC, CACHE, STATUS = 0, 1, 2, 5, 7
most_kb = 0


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(PATH)
    return s


def get(s, n):
    out = b""
    while len(out) < n:
        part = s.recv(n - len(out))
        if not part:
            raise EOFError
        out += part
    return out


def hello():
    s = connect()
    assert get(s, 18) == b"NBDMAGICIHAVEOPT\0\3"
    s.sendall(b"\0\0\0\3")
    return s


def option(kind, payload=b"", length=None):
    return struct.pack(">8sII", b"IHAVEOPT", kind,
                       len(payload) if length is None else length) + payload


def reply(s):
    _, _, kind, length = struct.unpack(">QIII", get(s, 20))
    return kind, get(s, length)


def last_reply(s):
    kind = 2
    while kind in (2, 3, 4):
        kind, _ = reply(s)
    return kind


GO = option(7, b"\0\0\0\0\0\0")
ACK, TOO_BIG, UNSUP, INVALID = 1, 0x80000009, 0x80000001, 0x80000003


def ready():
    s = hello()
    s.sendall(GO)
    assert last_reply(s) == ACK
    return s


def request(kind, offset=0, length=0, flags=0, cookie=7):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset,
                       length)


def simple(s):
    magic, error, cookie = struct.unpack(">IIQ", get(s, 16))
    assert magic == 0x67446698
    return error, cookie


def closed(s):
    try:
        while s.recv(65536):
            pass
        return True
    except ConnectionResetError:
        return True


def memory():
    global most_kb
    if PID is None:
        return
    with open(f"/proc/{PID}/status", encoding="ascii") as f:
        kb = int(f.read().split("RssAnon:")[1].split()[0])
    most_kb = max(most_kb, kb)
    assert kb < RSS_MAX_KB, f"RssAnon {kb} kB"


def proper_client_is_served():
    end = time.time() + 10
    while True:     # connections that were just closed may still be counted
        try:
            s = ready()
            break
        except (EOFError, OSError):
            assert time.time() < end, "a proper client is refused"
            time.sleep(0.05)
    s.sendall(request(READ, 0, 512))
    assert simple(s) == (0, 7)
    get(s, 512)
    s.sendall(request(DISC))
    assert closed(s)
    memory()


# ---- handshakes

def half_a_handshake_at_every_length():
    whole = b"\0\0\0\3" + option(8) + GO
    held = []
    for n in range(len(whole)):
        s = connect()
        s.sendall(whole[:n])
        if n % 3:
            held.append(s)
        else:
            s.close()
    proper_client_is_served()
    for s in held:
        s.close()


def wrong_magic_is_hung_up_on():
    for bad in (b"\0\0\0\4", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n",
                b"\0\0\0\3" + b"x" * 16):
        s = connect()
        s.sendall(bad)
        assert closed(s)


def long_options():
    s = hello()
    s.sendall(option(99, b"x" * 8192))
    assert last_reply(s) == UNSUP
    s.sendall(option(99, b"x" * 8193))
    assert last_reply(s) == TOO_BIG
    s.sendall(option(7, b"x" * 65536))
    assert last_reply(s) == TOO_BIG
    s.sendall(GO)
    assert last_reply(s) == ACK
    for length in (65537, 1 << 31, 0xffffffff):
        s = hello()
        s.sendall(option(7, b"", length))
        assert closed(s)


def lying_payloads():
    s = hello()
    for payload in (b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\1",
                    b"\0\0\0\0\xff\xff", b"\0\0\0\0\0\1\0\3\0"):
        s.sendall(option(7, payload))
        assert last_reply(s) == INVALID
    s.sendall(option(8, b"x"))
    assert last_reply(s) == INVALID
    s.sendall(option(10, b"\0\0\0\0\0\0\0\0"))     # before structured replies
    assert last_reply(s) == INVALID
    s.sendall(option(8))
    assert last_reply(s) == ACK
    s.sendall(option(9, b"\0\0\0\0\xff\xff\xff\xff"))
    assert last_reply(s) == INVALID
    s.sendall(option(9, b"\0\0\0\0" + struct.pack(">I", 2000)
                     + b"\0\0\0\5base:" * 800 + b"\0\0\0\0" * 198))
    assert last_reply(s) == INVALID


def a_thousand_queries_get_one_answer():
    s = hello()
    s.sendall(option(8))
    assert last_reply(s) == ACK
    s.sendall(option(9, b"\0\0\0\0" + struct.pack(">I", 900)
                     + b"\0\0\0\5base:" * 900))
    assert reply(s)[0] == 4
    assert reply(s)[0] == ACK


def a_flood_of_options_ends():
    s = hello()
    try:
        s.sendall(option(3) * 10000)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert closed(s)


def a_handshake_whose_replies_nobody_reads():
    held = []
    for _ in range(CONNECTIONS - 4):
        s = connect()
        s.sendall(b"\0\0\0\3" + option(3) * 31)
        held.append(s)
    proper_client_is_served()
    for s in held:
        s.close()


def a_thousand_connects():
    held = []
    for _ in range(1000):
        s = socket.socket(socket.AF_UNIX)
        s.setblocking(False)
        try:
            s.connect(PATH)
            held.append(s)
        except BlockingIOError:     # the backlog is full
            s.close()
            time.sleep(0.001)
    memory()
    for s in held:
        s.close()


# ---- transmission

def half_a_request_at_every_length():
    whole = request(READ, 0, 512)
    for n in range(len(whole)):
        s = ready()
        s.sendall(whole[:n])
        s.close()


def one_byte_at_a_time():
    s = connect()
    get(s, 18)
    for byte in b"\0\0\0\3" + GO:
        s.sendall(bytes([byte]))
    assert last_reply(s) == ACK
    for message, answer in ((request(READ, 1, 3), (0, 7)),
                            (request(WRITE, 0, 5) + b"hello", (1, 7)),
                            (request(READ, 2, 3), (0, 7))):
        for byte in message:
            s.sendall(bytes([byte]))
        assert simple(s) == answer
        if answer == (0, 7):
            get(s, 3)


def wrong_request_magic_is_hung_up_on():
    s = ready()
    s.sendall(b"\x25\x60\x95\x14" + b"\0" * 24)
    assert closed(s)


def odd_requests_are_answered():
    s = ready()
    rng = random.Random(1)
    for _ in range(2000):
        kind = rng.choice((3, 4, 5, 6, 7, 8, 9, 77, 65535))
        offset = rng.choice((0, 1, 1 << 40, (1 << 64) - 1, 4096))
        length = rng.choice((0, 1, 4096, 1 << 31, (1 << 32) - 1))
        cookie = rng.getrandbits(64)
        s.sendall(request(kind, offset, length, rng.getrandbits(16), cookie))
        error, got = simple(s)
        assert got == cookie and error in (0, 1, 22), error
    for length in (4 * MIB + 1, 32 * MIB, 0xffffffff):
        s.sendall(request(READ, 0, length))
        assert simple(s) == (22, 7)


def writes_whose_payload_looks_like_requests():
    s = ready()
    payload = request(READ, 0, 512, cookie=666) * 3000
    for _ in range(20):
        s.sendall(request(WRITE, 0, len(payload)) + payload)
        assert simple(s) == (1, 7)
    s.sendall(request(WRITE, 0, 32 * MIB + 1))
    assert closed(s)
    s = ready()
    s.sendall(request(WRITE, 0, 32 * MIB) + b"only this")
    s.close()


def replies_that_nobody_reads():
    """Every connection at full depth, all of it large, none of it read."""
    held = []
    for i in range(CONNECTIONS - 4):
        s = ready()
        s.setblocking(False)
        try:
            for n in range(10 * IN_FLIGHT):
                s.send(request(READ, (i + n) % 8 * 65536 + 1,
                               4 * MIB if n % 2 else 4096))
        except BlockingIOError:
            pass
        held.append(s)
    proper_client_is_served()
    time.sleep(1)
    memory()
    proper_client_is_served()
    for s in held:
        s.close()


def statuses_that_nobody_reads():
    held = []
    for _ in range(CONNECTIONS - 4):
        s = hello()
        s.sendall(option(8))
        assert last_reply(s) == ACK
        s.sendall(option(10, b"\0\0\0\0\0\0\0\2\0\0\0\x0fbase:allocation"
                         b"\0\0\0\x15x-shedstream:resident"))
        assert last_reply(s) == ACK
        s.sendall(GO)
        assert last_reply(s) == ACK
        s.setblocking(False)
        try:
            for _ in range(100000):
                s.send(request(STATUS, 0, 4 * MIB))
        except BlockingIOError:
            pass
        held.append(s)
    proper_client_is_served()
    memory()
    for s in held:
        s.close()


def disconnects_in_the_midst_of_replies():
    for n in range(300):
        s = ready()
        s.sendall(request(READ, 0, 4 * MIB) * (1 + n % 7))
        if n % 3 == 0:
            get(s, 16 + n * 1000)
        if n % 2:
            s.sendall(request(DISC))
        s.close()


def requests_behind_a_disc_are_not_answered():
    s = ready()
    s.sendall(request(READ, 0, 512) + request(DISC) + request(READ, 0, 512))
    assert simple(s) == (0, 7)
    get(s, 512)
    assert closed(s)


def noise():
    rng = random.Random(2)
    for n in range(300):
        s = ready() if n % 2 else connect()
        try:
            s.sendall(rng.randbytes(rng.randrange(1, 20000)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        s.close()


for attack in (half_a_handshake_at_every_length,
               wrong_magic_is_hung_up_on,
               long_options,
               lying_payloads,
               a_thousand_queries_get_one_answer,
               a_flood_of_options_ends,
               a_handshake_whose_replies_nobody_reads,
               a_thousand_connects,
               half_a_request_at_every_length,
               one_byte_at_a_time,
               wrong_request_magic_is_hung_up_on,
               odd_requests_are_answered,
               writes_whose_payload_looks_like_requests,
               replies_that_nobody_reads,
               statuses_that_nobody_reads,
               disconnects_in_the_midst_of_replies,
               requests_behind_a_disc_are_not_answered,
               noise):
    start = time.time()
    attack()
    proper_client_is_served()
    print("ok %s %.1fs" % (attack.__name__, time.time() - start), flush=True)
if PID is not None:
    print(f"most RssAnon: {most_kb} kB")
