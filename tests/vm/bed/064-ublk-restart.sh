#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader of a ublk device compares every byte, and others read
# directly at depth 32, the whole suite can be killed at once, ended by SIGTERM
# and started, and reloaded: no wrong byte, no error, and the device stays.
# ENDS of each.
. "$(dirname "$0")/../../e2e/lib.sh"
ENDS=${ENDS:-3}
STEP=3		# new units that the reader reads in each round
PRESENT='ublk'

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

start load fio --name=load --filename="$device" --readonly --rw=randread \
	--bs=4k-128k --ioengine=libaio --direct=1 --iodepth=32 --time_based \
	--runtime=600 --minimal
load=$STARTED_PID
echo "more $STEP" >&"$to"
progress "$STEP"

longest=0
for ((i = 0; i < ENDS; i++)); do
	for end in kill stop reload; do
		early=$((RANDOM % STEP))
		echo "more $STEP" >&"$to"
		progress $early
		before=$(date +%s%N)
		case $end in
		reload) suite_reload ;;
		*) suite_$end && suite_start ;;
		esac
		progress $((STEP - early))
		stall=$((($(date +%s%N) - before) / 1000000))
		[ $stall -le $longest ] || longest=$stall
		assert_eq "$(ctl status one --json | jq -r .path)" "$device" \
			"path after $end $i"
	done
done
kill -0 "$load" 2>/dev/null || fail "fio: $(<"$T/load.log")"
kill -INT "$load"
wait "$load" || true	# of the signal; its fifth field is an errno
grep -q '^3;fio-[^;]*;load;0;0;' "$T/load.log" || fail "fio: $(<"$T/load.log")"
eval "exec $to>&-"
tail -n 1 <&"$from" >"$T/summary"
wait "$reader" || fail "the reader: $(<"$T/reader.log")"
blockdev --flushbufs "$device"
assert_eq "$(sha_of "$device")" "${EROFS#sha256:}" "whole device"
echo "NOTE: $((ENDS * 3)) ends, $(jq .reads "$T/summary") reads compared;" \
	"the longest until reads went on $longest ms"
ctl detach one
wait_until 20 gone one || fail "it is left"
suite_stop
