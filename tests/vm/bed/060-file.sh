#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: under this kernel a device is a file with the blob's bytes to whoever
# reads it; KILLS times in all, worker, cached, fetcherd or control is killed
# under a reader that compares every byte: no wrong byte, no error; and nothing
# is left over.
# LIMIT: 200
. "$(dirname "$0")/../../e2e/lib.sh"
PRESENT='file'
KILLS=${KILLS:-20}
SEED=${SEED:-$RANDOM}
STEP=2		# new units that the reader reads around each kill

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
fds=$(fd_count "$SUITE_PID")
file=$(ctl attach "$IMAGE" --name one --integrity complete)
[[ $file = "$T/run/file/"* ]] || fail "attach printed $file"
"$TOOLS/file_conformance.py" "$file" "$SMALL" "$SEED" small >"$T/conformance" ||
	fail "$(<"$T/conformance")"

# Cold again for the kills: another store.
ctl detach one
wait_until 20 gone one || fail "the device is left"
suite_stop
rm -rf "$STORE"
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)
coproc READER { exec "$TOOLS/reader.py" "$file" "$SMALL" paced \
	2>"$T/reader.log"; }
reader=$READER_PID from=${READER[0]} to=${READER[1]}
progress() { # N: units it had not read before
	local line n=$1
	while [ "$n" -gt 0 ]; do
		read -r -t 90 line <&"$from" ||
			fail "the reader makes no progress: $(<"$T/reader.log")"
		[ "$line" != unit ] || n=$((n - 1))
	done
}
alive() { # NAME NOT-PID: there is one, and another one
	victim=$(suite_pid "$1") && [ -n "$victim" ] && [ "$victim" != "$2" ]
}
mapfile -t order < <(/usr/bin/python3 -c '
import random, sys
names = ["devd-io", "cached", "fetcherd", "devd"]
order = [names[i % 4] for i in range(int(sys.argv[1]))]
random.Random(int(sys.argv[2])).shuffle(order)
print(*order, sep="\n")' "$KILLS" "$SEED")
echo "more $STEP" >&"$to"
progress $STEP
declare -A last
for name in "${order[@]}"; do
	wait_until 60 alive "$name" "${last[$name]:-0}" ||
		fail "$name did not come back (seed $SEED)"
	echo "more $STEP" >&"$to"
	kill -KILL "$victim" || fail "$name was gone already (seed $SEED)"
	last[$name]=$victim
	progress $STEP
done
for name in "${!last[@]}"; do
	wait_until 60 alive "$name" "${last[$name]}" ||
		fail "$name did not come back at the end (seed $SEED)"
done
eval "exec $to>&-"
tail -n 1 <&"$from" >"$T/summary"
wait "$reader" || fail "the reader: $(<"$T/reader.log") (seed $SEED)"
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"

## nothing is left

ctl detach one
wait_until 20 gone one || fail "the device is left: $(ctl ls)"
! grep -q " shedstream:$T/run " /proc/self/mountinfo || fail "a mount is left"
[ -z "$(ls "$T/run/file")" ] || fail "left: $(ls "$T/run/file")"
fds_are() {
	[ "$(fd_count "$SUITE_PID")" -eq "$fds" ]
}
wait_until 10 fds_are ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
suite_stop
taken=$(grep -c 'requests of a former worker taken over' "$T/devd.log") || true
echo "NOTE: $(paste -sd ' ' "$T/conformance"); ${#order[@]} kills," \
	"$(jq .reads "$T/summary") reads compared, $taken times requests in" \
	"the journal"
