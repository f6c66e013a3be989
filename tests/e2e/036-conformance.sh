#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: whatever presents a device (NBD, a file, ublk, the kernel's NBD, or its
# own file in the store), it has the blob's bytes to whoever reads it: of any
# size and alignment, cold and warm, buffered, direct and mapped, by 1 to 128 at a
# time, at the end and behind it; each file of the erofs in it is right; and
# nothing can be written.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/block.sh"
PRESENT=
SEED=${SEED:-$RANDOM}
kinds=(nbd)
if [ "$(id -u)" -eq 0 ]; then
	[ ! -c /dev/fuse ] || kinds+=(file)
	for kind in ublk kernel-nbd; do
		! block_driver "$kind" || kinds+=("$kind")
	done
fi
kinds+=(plain)	# of what the one before has read
image_small
"$TOOLS/erofscat.py" --sum "$SMALL" >"$T/want"
[ "$(wc -l <"$T/want")" -gt 50 ] || fail "the image has few files"
registry_start
image_push "$SMALL" test/base:v1
suite_start
for kind in "${kinds[@]}"; do
	if [ "$kind" != plain ]; then
		suite_stop
		rm -rf "$STORE"
		suite_start
	fi
	device=$(ctl attach "$IMAGE" --name one --present "$kind" \
		--integrity complete)
	assert_json ".present_as == \"$kind\"" ctl status one --json
	more=()
	[ -z "${EMULATED-}" ] || more+=(--small)
	[ "$kind" != plain ] || more+=(--plain)
	"$TOOLS/device_conformance.py" "$device" "$SMALL" --seed "$SEED" \
		"${more[@]}" >"$T/conformance" ||
		fail "$kind (seed $SEED): $(<"$T/conformance")"
	"$TOOLS/erofscat.py" --sum "$device" | cmp - "$T/want" ||
		fail "$kind: a file in the image has other bytes"
	wait_until 30 status_is one .state complete || fail "it is not complete"
	echo "NOTE: $kind: $(tail -n 1 "$T/conformance")"
	ctl detach one
	wait_until 20 gone one || fail "it is left"
done
suite_stop
