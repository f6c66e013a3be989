#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader of a ublk device compares every byte, and others read
# directly at depth 32, each process of the suite but its parent can be killed
# at any time: no wrong byte, no error.  A hot read costs at most one system
# call at that depth.
# LIMIT: 300
. "$(dirname "$0")/../../e2e/lib.sh"
KILLS=${KILLS:-6}
STEP=3		# new units that the reader reads in each round
PRESENT='ublk'
victims=(devd-io fetcherd cached devd)

[ -c /dev/ublk-control ] || skip "$(uname -r) has no ublk driver"
image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
device=$(ctl attach "$IMAGE" --name one --integrity complete)

coproc READER { exec "$TOOLS/reader.py" "$device" "$SMALL" paced \
	2>"$T/reader.log"; }
reader=$READER_PID from=${READER[0]} to=${READER[1]}
STARTED+=("$reader")

# progress N: until the reader has read N units it had not read before
progress() {
	local line n=$1
	while [ "$n" -gt 0 ]; do
		read -r -t 60 line <&"$from" ||
			fail "the reader makes no progress: $(<"$T/reader.log")
$(ctl status one --json 2>&1)"
		[ "$line" != unit ] || n=$((n - 1))
	done
}

# alive NAME NOT-PID: there is one, and another one
alive() {
	victim=$(suite_pid "$1") && [ -n "$victim" ] && [ "$victim" != "$2" ]
}

start load fio --name=load --filename="$device" --readonly --rw=randread \
	--bs=4k-128k --ioengine=libaio --direct=1 --iodepth=32 --time_based \
	--runtime=600 --minimal
load=$STARTED_PID
echo "more $STEP" >&"$to"
progress "$STEP"
fds=$(fd_count "$SUITE_PID")

declare -A last
for ((i = 0; i < KILLS; i++)); do
	for name in "${victims[@]}"; do
		wait_until 60 alive "$name" "${last[$name]:-0}" ||
			fail "$name did not come back after kill $i"
		early=$((RANDOM % STEP))
		echo "more $STEP" >&"$to"
		progress $early
		kill -KILL "$victim" || fail "$name ($victim) was gone already"
		last[$name]=$victim
		progress $((STEP - early))
	done
done
for name in "${victims[@]}"; do
	wait_until 60 alive "$name" "${last[$name]}" ||
		fail "$name did not come back at the end"
done
echo "more 1" >&"$to"
progress 1
kill -0 "$load" 2>/dev/null || fail "fio: $(<"$T/load.log")"
kill -INT "$load"
wait "$load" || true	# of the signal; its fifth field is an errno
grep -q '^3;fio-[^;]*;load;0;0;' "$T/load.log" || fail "fio: $(<"$T/load.log")"
wait_until 10 test "$(fd_count "$SUITE_PID")" -le "$fds" ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
eval "exec $to>&-"
tail -n 1 <&"$from" >"$T/summary"
wait "$reader" || fail "the reader: $(<"$T/reader.log")"
blockdev --flushbufs "$device"
assert_eq "$(sha_of "$device")" "${EROFS#sha256:}" "whole device"

## system calls of the worker: all is hot now

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
assert_le "$calls" "$served" "system calls for $served hot reads:
$(<"$T/calls")"
rss=$(rss_kb "$worker")
assert_le "$rss" $((8192 + 64 * 512)) "the worker's memory, KiB"
echo "NOTE: $((KILLS * 4)) kills, $(jq .reads "$T/summary") reads compared;" \
	"$calls system calls for $served hot reads; RssAnon $rss KiB"
ctl detach one
wait_until 20 gone one || fail "it is left"
suite_stop
