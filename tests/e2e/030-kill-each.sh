#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader compares every byte, each process of the suite can be
# killed at any time: no wrong byte, no I/O error but on a connection whose
# own worker died, and no process or descriptor left over.  KILLS of each.
. "$(dirname "$0")/lib.sh"
KILLS=${KILLS:-20}
STEP=6		# new units that the reader reads in each round
victims=(fetcherd cached devd devd-io)

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)

coproc READER { exec "$TOOLS/reader.py" "$uri" "$SMALL" paced \
	2>"$T/reader.log"; }
reader=$READER_PID from=${READER[0]} to=${READER[1]}
STARTED+=("$reader")
lost=0

# progress N: until the reader has read N units it had not read before
progress() {
	local line n=$1
	while [ "$n" -gt 0 ]; do
		read -r -t 90 line <&"$from" ||
			fail "the reader makes no progress: $(<"$T/reader.log")
$(ctl status one --json 2>&1)"
		case $line in
		unit) n=$((n - 1)) ;;
		lost) lost=$((lost + 1)) ;;
		esac
	done
}

# alive NAME NOT-PID: there is one, and another one
alive() {
	victim=$(suite_pid "$1") && [ -n "$victim" ] && [ "$victim" != "$2" ]
}

# fds: "NAME COUNT" of each process, the parent first
fds() {
	local name
	echo "parent $(fd_count "$SUITE_PID")"
	for name in "${victims[@]}"; do
		echo "$name $(fd_count "$(suite_pid "$name")")"
	done
}

echo "more $STEP" >&"$to"
progress "$STEP"
fds >"$T/fds.before"

declare -A last
for ((i = 0; i < KILLS; i++)); do
	for name in "${victims[@]}"; do
		wait_until 60 alive "$name" "${last[$name]:-0}" ||
			fail "$name did not come back after kill $i"
		before=$lost early=$((RANDOM % STEP))
		echo "more $STEP" >&"$to"
		progress $early
		kill -KILL "$victim" || fail "$name ($victim) was gone already"
		last[$name]=$victim
		progress $((STEP - early))
		# lines printed before the kill count too: wait for its own
		while [ "$name" = devd-io ] && [ "$lost" -eq "$before" ]; do
			echo "more 1" >&"$to"
			progress 1
		done
		[ "$name" = devd-io ] || [ "$lost" -eq "$before" ] ||
			fail "killing $name cost the reader its connection"
	done
done

# the last of them back, and answering
for name in "${victims[@]}"; do
	wait_until 60 alive "$name" "${last[$name]}" ||
		fail "$name did not come back at the end"
done
wait_until 60 ctl status one --json >"$T/status.log" ||
	fail "the control socket does not answer"
echo "more 1" >&"$to"
progress 1

within_baseline() {
	local name before after spare
	while read -r name before <&3 && read -r name after <&4; do
		# fetcherd may keep a few connections to the registry open
		spare=0
		[ "$name" = fetcherd ] && spare=8
		[ "$after" -le $((before + spare)) ] || return 1
	done 3<"$T/fds.before" 4< <(fds)
}
wait_until 10 within_baseline ||
	fail "descriptors were $(paste -sd ' ' "$T/fds.before"), are $(fds |
		paste -sd ' ')"
for name in "${victims[@]}"; do
	assert_eq "$(suite_pids "$name" | wc -l)" 1 "processes named $name"
done
assert_le "$(pgrep -c -r D,R,S,T,I -s "$SUITE_PID")" 5 "processes of the suite"

eval "exec $to>&-"
tail -n 1 <&"$from" >"$T/summary"
wait "$reader" || fail "the reader: $(<"$T/reader.log")"
# once devd-io has died the reader reconnects; never more often than that
assert_le "$(jq .lost "$T/summary")" "$KILLS" "connections lost"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "whole device"
echo "NOTE: $((4 * KILLS)) kills, $(jq .reads "$T/summary") reads compared," \
	"$(jq .lost "$T/summary") connections lost"
ctl detach one
suite_stop
