#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""nbd_conformance.py URI FILE: is URI a proper NBD export of FILE's bytes?

Each check is a function; its name is its claim.  Uses libnbd with its own
checks off, so that odd requests reach the server.  Exits 1 at the first claim
that is not true."""

import errno
import sys

import nbd

MIB = 1 << 20
URI, FILE = sys.argv[1], sys.argv[2]
with open(FILE, "rb") as f:
    WANT = f.read()
SIZE = len(WANT)


def handle(contexts=(), structured=True, uri=URI):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(uri)
    return h


def option_handle():
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    return h


def is_right(h, offset, length, flags=0):
    got = bytes(h.pread(length, offset, flags))
    assert got == WANT[offset:offset + length], f"wrong bytes at {offset}"


def fails(want, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except nbd.Error as e:
        assert e.errnum == want, f"{e.string}: errno {e.errnum}, not {want}"
        return
    raise AssertionError(f"{call.__name__}{args} did not fail")


def the_export_is_read_only_and_of_the_right_size():
    h = handle()
    assert h.get_size() == SIZE
    assert h.is_read_only() and h.can_multi_conn() and h.can_cache()
    assert h.can_df() and h.get_structured_replies_negotiated()
    assert not (h.can_trim() or h.can_zero() or h.can_fua() or h.can_flush())
    h.shutdown()


def block_sizes_allow_any_alignment_up_to_4_mib():
    h = handle()
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
    assert h.get_block_size(nbd.SIZE_PREFERRED) == 65536
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 4 * MIB
    h.shutdown()


def reads_of_any_alignment_are_right():
    for structured in (True, False):
        h = handle(structured=structured)
        for offset, length in ((0, 1), (1, 511), (65535, 2), (0, 4 * MIB),
                               (12345, 1234567), (SIZE - 1, 1),
                               (SIZE - 70000, 70000), (3 * 65536, 65536)):
            is_right(h, offset, length)
        h.shutdown()


def df_reads_are_one_chunk():
    h = handle()
    chunks = []

    def chunk(buf, offset, status, error):
        chunks.append((offset, len(buf), status))

    h.pread_structured(MIB, 65536, chunk, nbd.CMD_FLAG_DF)
    assert chunks == [(65536, MIB, nbd.READ_DATA)], chunks
    h.shutdown()


def many_reads_in_flight_are_all_right():
    h = handle()
    pending = {}
    for i in range(64):
        offset = i * 7919 * 64 % (SIZE - 200000)
        buf = nbd.Buffer(3000 * (i + 1))
        pending[h.aio_pread(buf, offset)] = (buf, offset)
    while pending:
        h.poll(-1)
        for cookie in list(pending):
            if h.aio_command_completed(cookie):
                buf, offset = pending.pop(cookie)
                assert buf.to_bytearray() == WANT[offset:offset + len(buf)]
    h.shutdown()


def odd_reads_are_refused_and_the_connection_lives():
    for structured in (True, False):
        h = handle(structured=structured)
        fails(errno.EINVAL, h.pread, 1, SIZE)
        fails(errno.EINVAL, h.pread, 2, SIZE - 1)
        fails(errno.EINVAL, h.pread, 4096, (1 << 63) - 1)
        fails(errno.EINVAL, h.pread, 4 * MIB + 1, 0)
        fails(errno.EINVAL, h.pread, 32 * MIB, 0)
        is_right(h, 512, 512)
        h.shutdown()


def nothing_can_be_written():
    h = handle()
    for length in (1, 4096, 8 * MIB):
        fails(errno.EPERM, h.pwrite, b"x" * length, 0)
    fails(errno.EPERM, h.trim, 4096, 0)
    fails(errno.EPERM, h.trim, SIZE, 4096)
    fails(errno.EPERM, h.zero, 4096, 0)
    is_right(h, 0, 4096)
    h.flush()
    h.shutdown()


def caching_answers_at_once():
    h = handle()
    h.cache(65536, 0)
    h.cache(SIZE, 0)
    fails(errno.EINVAL, h.cache, 4096, SIZE)
    h.shutdown()


def extents_of(h, length, offset, flags=0):
    found = {}

    def extent(context, at, entries, error):
        assert at == offset
        found[context] = list(zip(entries[::2], entries[1::2]))

    h.block_status(length, offset, extent, flags)
    return found


def all_of_it_is_data():
    h = handle((nbd.CONTEXT_BASE_ALLOCATION,))
    for offset, length in ((0, SIZE), (4097, 70000), (SIZE - 1, 1)):
        got = extents_of(h, length, offset)
        assert got == {"base:allocation": [(length, 0)]}, got
    fails(errno.EINVAL, h.block_status, 2, SIZE - 1, lambda *a: 0)
    fails(errno.EINVAL, h.block_status, 0, 0, lambda *a: 0)
    h.shutdown()


def what_was_read_is_resident():
    ours = "x-shedstream:resident"
    h = handle((nbd.CONTEXT_BASE_ALLOCATION, ours))
    assert h.can_meta_context(ours)
    is_right(h, 10 * 65536 + 5, 10)
    got = extents_of(h, 65536, 10 * 65536)
    assert got[ours] == [(65536, 1)], got
    one = extents_of(h, SIZE, 0, nbd.CMD_FLAG_REQ_ONE)
    assert len(one[ours]) == 1 and one[ours][0][0] <= SIZE
    most = extents_of(h, SIZE, 0)[ours]
    assert len(most) <= 1024 and sum(e[0] for e in most) <= SIZE
    h.shutdown()


def contexts_need_to_be_negotiated():
    h = handle(structured=False)
    fails(errno.EINVAL, h.block_status, 4096, 0, lambda *a: 0)
    h.shutdown()


def the_oldest_handshake_works():
    h = nbd.NBD()
    h.set_handshake_flags(0)
    h.connect_uri(URI)
    assert h.get_protocol() == "newstyle" and h.get_size() == SIZE
    is_right(h, 4096, 4096)
    h.shutdown()


def options_may_come_in_any_order_and_again():
    h = option_handle()
    names = []
    h.opt_list(lambda name, description: names.append(name))
    assert len(names) == 1 and names[0], names
    h.opt_info()
    assert h.get_size() == SIZE
    h.set_export_name(names[0])
    h.opt_info()
    contexts = []
    h.opt_list_meta_context(contexts.append)
    assert contexts == ["base:allocation", "x-shedstream:resident"], contexts
    h.set_export_name("no such export")
    fails(errno.ENOENT, h.opt_info)
    fails(errno.ENOENT, h.opt_go)
    h.set_export_name("")
    h.opt_go()
    is_right(h, 0, 512)
    h.shutdown()


def the_default_export_is_the_device():
    h = option_handle()
    h.set_export_name("")
    h.opt_go()
    assert h.get_size() == SIZE
    h.shutdown()


def a_handshake_can_be_given_up():
    h = option_handle()
    h.opt_abort()
    assert h.aio_is_closed() or h.aio_is_dead()


def connections_see_the_same_bytes():
    handles = [handle() for _ in range(8)]
    for i, h in enumerate(handles):
        is_right(h, i * 100000, 100000)
    for h in handles:
        h.shutdown()


for check in (the_export_is_read_only_and_of_the_right_size,
              block_sizes_allow_any_alignment_up_to_4_mib,
              options_may_come_in_any_order_and_again,
              the_default_export_is_the_device,
              a_handshake_can_be_given_up,
              the_oldest_handshake_works,
              all_of_it_is_data,
              what_was_read_is_resident,
              contexts_need_to_be_negotiated,
              reads_of_any_alignment_are_right,
              df_reads_are_one_chunk,
              many_reads_in_flight_are_all_right,
              odd_reads_are_refused_and_the_connection_lives,
              nothing_can_be_written,
              caching_answers_at_once,
              connections_see_the_same_bytes):
    check()
    print("ok", check.__name__, flush=True)
