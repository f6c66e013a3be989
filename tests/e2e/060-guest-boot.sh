#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a guest boots from the export, reads what its image holds, and a
# second boot fetches nothing that the first one touched.
. "$(dirname "$0")/lib.sh"

guest=$CACHE/small-guest
command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64"
"$VM/small.sh" "$guest" >&2 || skip "the guest image cannot be made here"
bytes=()
registry_start
image_push "$guest/root.erofs" test/guest:v1 \
	--kernel "$guest/vmlinuz" --initrd "$guest/initrd"
no_hedges
suite_start
uri=$(ctl attach "$IMAGE" --name guest --integrity complete)

for boot in first second; do
	registry_mark
	"$VM/boot.sh" -g "$guest" "$uri" "$T/$boot-console.log" ||
		fail "the $boot boot did not come to its end"
	grep -q "GUEST-OK $(<"$guest/expect")" "$T/$boot-console.log" ||
		fail "the guest read something else in the $boot boot"
	bytes+=("$(registry_bytes "$EROFS")")
done
[ "${bytes[0]}" -gt 0 ] || fail "the first boot fetched nothing"
assert_le "${bytes[0]}" $((SIZE + 1024)) "bytes of the first boot"
assert_eq "${bytes[1]}" 0 "bytes of the second boot"
echo "NOTE: first boot ${bytes[0]} of $SIZE bytes, second ${bytes[1]}"
ctl detach guest
suite_stop
