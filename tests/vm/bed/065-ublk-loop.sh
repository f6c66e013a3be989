#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: at depth 8 already, a hot read of a ublk device costs its worker at most
# one system call, and its bytes are copied once, by the kernel, out of the
# store's file.  Prints how the rate compares with that of a loop device, each
# in turn: an emulated processor's ratio, which says little of a real one's.
. "$(dirname "$0")/../../e2e/lib.sh"
RUNS=${RUNS:-3}
PRESENT='ublk'

[ -c /dev/ublk-control ] || skip "$(uname -r) has no ublk driver"
[[ $(uname -r) = 6.12.* ]] || skip "ublk is refused on $(uname -r)"
image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
device=$(ctl attach "$IMAGE" --name one --integrity complete)
assert_eq "$(sha_of "$device")" "${EROFS#sha256:}" "whole device"
loop=$(losetup -r -f --show "$SMALL")
undo() {
	[ -z "$loop" ] || losetup -d "$loop"
}
cat "$loop" >/dev/null

# rate DEVICE: 4 KiB by chance, directly: so many a second
rate() {
	fio --name=rate --filename="$1" --readonly --rw=randread --bs=4k \
		--ioengine=libaio --direct=1 --iodepth=8 --io_size=6m --minimal \
		>"$T/fio" || fail "fio: $(<"$T/fio")"
	cut -d ';' -f 8 "$T/fio"
}
for ((i = 0; i < RUNS; i++)); do
	echo "$(rate "$device") $(rate "$loop")"
done | awk '{ print $1 / $2, $1, $2 }' | sort -n >"$T/rates"

worker=$(suite_pid devd-io)
served=$(status_of one .reads.hot)
strace -qq -f -c -o "$T/calls" -p "$worker" &
tracer=$!
wait_until 10 grep -q '^TracerPid:[[:space:]]*[1-9]' "/proc/$worker/status" ||
	fail "strace does not trace"
rate "$device" >/dev/null
kill -INT "$tracer"
wait "$tracer" || true
served=$(($(status_of one .reads.hot) - served))
calls=$(awk '$NF == "total" { print $4 }' "$T/calls")
copies=$(awk '$NF ~ /^(pread64|preadv|read|readv)$/ { n += $4 }
	END { print n + 0 }' "$T/calls")
[ "$served" -ge 1536 ] || fail "only $served hot reads"
assert_le "$calls" "$served" "system calls for $served hot reads:
$(<"$T/calls")"
# reads of its eventfd are some of them
assert_le "$copies" $((served / 4)) "reads into the worker's memory:
$(<"$T/calls")"
awk -v c="$calls" -v s="$served" -v p="$copies" '
	{ r[NR] = $0 } END { split(r[int((NR + 1) / 2)], m)
	printf "NOTE: ublk %d, loop %d reads/s at depth 8, ratio %.2f " \
	    "(emulated); %d system calls, %d of them reads, for %d hot reads\n",
	    m[2], m[3], m[1], c, p, s }' "$T/rates"
losetup -d "$loop"
loop=
ctl detach one
wait_until 20 gone one || fail "it is left"
suite_stop
