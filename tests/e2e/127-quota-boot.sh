#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a guest boots and reads right from a device whose store may hold no
# more than 30% of what the guest reads, and the store keeps to that.
. "$(dirname "$0")/lib.sh"

guest=$CACHE/small-guest
command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64"
"$VM/small.sh" "$guest" >&2 || skip "the guest image cannot be made here"
registry_start
image_push "$guest/root.erofs" test/guest:v1 \
	--kernel "$guest/vmlinuz" --initrd "$guest/initrd"
image_annotate "$guest/root.erofs"
quota=$((SIZE * 3 / 10))	# it reads all of it, to hash it
printf '[store]\nquota = %d\nmin-free = 0\n' $quota >"$T/conf"
suite_start
uri=$(ctl attach "$IMAGE" --name guest)
assert_eq "$(status_of guest .integrity)" chunk "the rung"

registry_mark
"$VM/boot.sh" -g "$guest" "$uri" "$T/console.log" ||
	fail "the boot did not come to its end"
grep -q "GUEST-OK $(<"$guest/expect")" "$T/console.log" ||
	fail "the guest read something else"
used=$(ctl df --json | jq .total)
# and what is written beside chunks that are under way: their records
assert_le "$used" $((quota + 65536)) "bytes of the store"
[ "$used" -gt $((quota / 2)) ] || fail "the store holds $used of $quota bytes"
echo "NOTE: $SIZE bytes read with a quota of $quota, $used used," \
	"$(registry_bytes "$EROFS") fetched"
ctl detach guest
suite_stop
