#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader of a block device compares every byte, and others read
# directly at depth 32, KILLS times in all a process of the suite but its parent
# is killed: no wrong byte, no error.  Of ublk's worker a hot read costs at most
# one system call at that depth.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/block.sh"
. "$(dirname "$0")/reader.sh"
KILLS=${KILLS:-20}
SEED=${SEED:-$RANDOM}
STEPS=2

block_needed
image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
device=$(ctl attach "$IMAGE" --name one --integrity complete)
reader_start one "$device" "$SMALL"
load_start "$device"
readers_made $STEPS
fds=$(fd_count "$SUITE_PID")
echo "seed $SEED"
kills "$KILLS" $STEPS
readers_made 1
load_end
fds_are() {
	[ "$(fd_count "$SUITE_PID")" -le "$fds" ]
}
wait_until 10 fds_are ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
reader_end one
blockdev --flushbufs "$device"
assert_eq "$(sha_of "$device")" "${EROFS#sha256:}" "whole device"
echo "NOTE: $KILLS kills, $(jq .reads "$T/one.json") reads compared," \
	"the longest stall $LONGEST ms (seed $SEED)"

## the worker's memory, and its system calls, now that all is hot

worker=$(suite_pid devd-io)
served=$(status_of one .reads.hot)
strace -qq -f -c -o "$T/calls" -p "$worker" &
tracer=$!
wait_until 10 grep -q '^TracerPid:[[:space:]]*[1-9]' "/proc/$worker/status" ||
	fail "strace does not trace"
fio --name=hot --filename="$device" --readonly --rw=randread --bs=4k \
	--ioengine=libaio --direct=1 --iodepth=32 --io_size=16m --minimal \
	>"$T/fio" || fail "fio: $(<"$T/fio")"
kill -INT "$tracer"
wait "$tracer" || true
served=$(($(status_of one .reads.hot) - served))
calls=$(awk '$NF == "total" { print $4 }' "$T/calls")
[ "$served" -ge 4096 ] || fail "only $served hot reads"
[ "$PRESENT" != ublk ] ||
	assert_le "$calls" "$served" "system calls for $served hot reads:
$(<"$T/calls")"
rss=$(rss_kb "$worker")
assert_le "$rss" $((8192 + 64 * 512)) "the worker's memory, KiB"
echo "NOTE: $calls system calls for $served hot reads; RssAnon $rss KiB"
ctl detach one
wait_until 20 gone one || fail "it is left"
suite_stop
