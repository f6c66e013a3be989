#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader compares every byte, each process of the suite can be
# killed at any time: no wrong byte, no I/O error but on a connection whose
# own worker died, and no process or descriptor left over.  KILLS in all.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reader.sh"
KILLS=${KILLS:-20}
STEPS=6
victims=(fetcherd cached devd devd-io)

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)

reader_start one "$uri" "$SMALL"

# fds: "NAME COUNT" of each process, the parent first
fds() {
	local name
	echo "parent $(fd_count "$SUITE_PID")"
	for name in "${victims[@]}"; do
		echo "$name $(fd_count "$(suite_pid "$name")")"
	done
}

readers_made $STEPS
fds >"$T/fds.before"

for ((i = 0; i < KILLS; i += 4)); do
	for name in "${victims[@]}"; do
		before=${LOST[one]}
		victim "$name"
		while_reading $STEPS kill_one "$name"
		# lines printed before the kill count too: wait for its own
		while [ "$name" = devd-io ] && [ "${LOST[one]}" -eq "$before" ]; do
			readers_made 1
		done
		[ "$name" = devd-io ] || [ "${LOST[one]}" -eq "$before" ] ||
			fail "killing $name cost the reader its connection"
	done
done

# the last of them back, and answering
all_are_back
wait_until 60 ctl status one --json >"$T/status.log" ||
	fail "the control socket does not answer"
readers_made 1

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

reader_end one
# once devd-io has died the reader reconnects; never more often than that
assert_le "$(jq .lost "$T/one.json")" $((KILLS / 4)) "connections lost"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "whole device"
echo "NOTE: $KILLS kills, $(jq .reads "$T/one.json") reads compared," \
	"$(jq .lost "$T/one.json") connections lost"
ctl detach one
suite_stop
