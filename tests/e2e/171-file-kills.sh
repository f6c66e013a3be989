#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader of a file compares every byte, each process of the suite
# but its parent can be killed at any time, and the file's worker at each of its
# system calls: no wrong byte, no error, no request lost.  KILLS of each.
. "$(dirname "$0")/lib.sh"
KILLS=${KILLS:-20}
STEP=6		# new units that the reader reads in each round
PRESENT='file'
victims=(devd-io fetcherd cached devd)

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)

coproc READER { exec "$TOOLS/reader.py" "$file" "$SMALL" paced \
	2>"$T/reader.log"; }
reader=$READER_PID from=${READER[0]} to=${READER[1]}
STARTED+=("$reader")

# progress N: until the reader has read N units it had not read before
progress() {
	local line n=$1
	while [ "$n" -gt 0 ]; do
		read -r -t 90 line <&"$from" ||
			fail "the reader makes no progress: $(<"$T/reader.log")
$(ctl status one --json 2>&1)"
		[ "$line" != unit ] || n=$((n - 1))
	done
}

# alive NAME NOT-PID: there is one, and another one
alive() {
	victim=$(suite_pid "$1") && [ -n "$victim" ] && [ "$victim" != "$2" ]
}

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

## at each system call that handles a request, as the worker enters it

exact=0
for call in readv pread64 writev epoll_wait; do
	command -v strace >/dev/null || break
	for when in 1 2 3 7; do
		wait_until 60 alive devd-io "${last[devd-io]}" ||
			fail "the worker did not come back"
		last[devd-io]=$victim
		strace -qq -o /dev/null -p "$victim" -e trace=$call \
			-e inject=$call:signal=KILL:when=$when 2>/dev/null &
		tracer=$!
		until ! kill -0 "$victim" 2>/dev/null; do
			echo "more 1" >&"$to"
			progress 1
		done
		wait $tracer || true
		exact=$((exact + 1))
	done
done

for name in "${victims[@]}"; do
	wait_until 60 alive "$name" "${last[$name]}" ||
		fail "$name did not come back at the end"
done
echo "more 1" >&"$to"
progress 1
wait_until 10 test "$(fd_count "$SUITE_PID")" -le "$fds" ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
eval "exec $to>&-"
tail -n 1 <&"$from" >"$T/summary"
wait "$reader" || fail "the reader: $(<"$T/reader.log")"
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"
wait_until 10 status_is one .openers 0 || fail "openers are left"
taken=$(grep -c 'requests of a former worker taken over' "$T/devd.log") || true
[ "$taken" -gt 0 ] || fail "no worker died with a request in hand"
echo "NOTE: $((KILLS * 4)) kills, $exact at a system call," \
	"$(jq .reads "$T/summary") reads compared; $taken workers found" \
	"requests in the journal"
ctl detach one
suite_stop
