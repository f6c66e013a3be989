#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a microvm, with Firecracker's device model and its drive a file, boots
# from a device that is presented as a file, whose worker is killed meanwhile,
# and reads what its image holds; a second boot fetches nothing.
. "$(dirname "$0")/lib.sh"
PRESENT='file'

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
guest=$CACHE/small-guest
command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64"
"$VM/small.sh" "$guest" >&2 || skip "the guest image cannot be made here"
registry_start
image_push "$guest/root.erofs" test/guest:v1 \
	--kernel "$guest/vmlinuz" --initrd "$guest/initrd"
no_hedges
suite_start
file=$(ctl attach "$IMAGE" --name guest --integrity complete)
bytes=()
killed=0
for boot in first second; do
	registry_mark
	"$VM/boot.sh" -m -g "$guest" "$file" "$T/$boot-console.log" &
	vm=$!
	# once it reads from its root
	: >>"$T/$boot-console.log"
	wait_line $vm "$T/$boot-console.log" 'INITRD .* root is mounted' 120 ||
		fail "the $boot boot did not find its root"
	status_is guest .openers 1 || fail "qemu is no opener"
	kill -KILL "$(suite_pid devd-io)" && killed=$((killed + 1))
	wait $vm || fail "the $boot boot did not come to its end"
	grep -q "GUEST-OK $(<"$guest/expect")" "$T/$boot-console.log" ||
		fail "the guest read something else in the $boot boot"
	bytes+=("$(registry_bytes "$EROFS")")
done
[ "${bytes[0]}" -gt 0 ] || fail "the first boot fetched nothing"
assert_le "${bytes[0]}" $((SIZE + 1024)) "bytes of the first boot"
assert_eq "${bytes[1]}" 0 "bytes of the second boot"
wait_until 10 status_is guest .openers 0 || fail "qemu is still an opener"
echo "NOTE: first boot ${bytes[0]} of $SIZE bytes, $killed workers killed"
ctl detach guest
suite_stop
