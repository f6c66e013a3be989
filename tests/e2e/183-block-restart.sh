#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader of a block device compares every byte, and others read
# directly at depth 32, the whole suite can be killed at once, ended by SIGTERM
# and started, and reloaded: no wrong byte, no error, and the device stays.
# KILLS / 4 of each.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/block.sh"
. "$(dirname "$0")/reader.sh"
ENDS=$((${KILLS:-12} / 4))	# 3, and 50 in soak
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

another_life() { # by kill, stop, or reload
	case $1 in
	reload) suite_reload ;;
	*) suite_"$1" && suite_start ;;
	esac
}
for ((i = 0; i < ENDS; i++)); do
	for end in kill stop reload; do
		while_reading $STEPS another_life $end
		assert_eq "$(ctl status one --json | jq -r .path)" "$device" \
			"path after $end $i"
	done
done
load_end
reader_end one
blockdev --flushbufs "$device"
assert_eq "$(sha_of "$device")" "${EROFS#sha256:}" "whole device"
echo "NOTE: $((ENDS * 3)) ends, $(jq .reads "$T/one.json") reads compared," \
	"the longest stall $LONGEST ms"
ctl detach one
wait_until 20 gone one || fail "it is left"
suite_stop
