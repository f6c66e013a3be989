#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a guest whose root is a file, and whose registry falls silent, goes on:
# its other disk and its console live, what it reads of its root waits, and is
# right in the end.  The VMM reads asynchronously.
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
link_start "$REGISTRY" 1 1000
IMAGE=$LINK/${IMAGE#*/}
printf '[network]\nhedge = 0%%\n[prefetch]\ncomplete = never\n' >"$T/conf"
suite_start
file=$(ctl attach "$IMAGE" --name guest --integrity complete)
truncate -s 1G "$T/second"
"$VM/boot.sh" -m -g "$guest" -d "$T/second" -a 'shed.check shed.beat' \
	"$file" "$T/console.log" &
vm=$!
beats() { # waits for the beat of that number
	wait_line $vm "$T/console.log" "^BEAT $1" 120 ||
		fail "no beat $1: $(tail -n 3 "$T/console.log")"
}
: >>"$T/console.log"
beats 2		# what that takes has been read
link_say rate 0 >/dev/null || fail "the link does not stop"
waits() {
	[ "$(status_of guest .stalled_reads)" -gt 0 ]
}
wait_until 60 waits || fail "the guest needs nothing more"
last=$(grep -c '^BEAT' "$T/console.log")
beats $((last + 5))
waits || fail "no read waited all the while"
link_say rate 1000 >/dev/null
wait $vm || fail "the boot did not come to its end"
grep -q "GUEST-OK $(<"$guest/expect")" "$T/console.log" ||
	fail "the guest read something else"
echo "NOTE: $(grep -c '^BEAT' "$T/console.log") beats, $last before the stall"
ctl detach guest
suite_stop
