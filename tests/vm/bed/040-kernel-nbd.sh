#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: the kernel's own NBD client, set up by netlink, reads the blob's bytes
# from our NBD server, and erofs mounts from it.
. "$(dirname "$0")/../../e2e/lib.sh"

[ -b /dev/nbd0 ] || fail "no /dev/nbd0: the nbd module is not loaded"
netlink=$(genl ctrl get name nbd 2>&1) || fail "no netlink family: $netlink"

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)
assert_eq "$(cat /sys/block/nbd0/size)" 0 "size of nbd0 before"
detach() {
	nbd-client -d /dev/nbd0 >>"$T/client.log" 2>&1
}
nbd-client -unix "${uri#*socket=}" /dev/nbd0 -name one -readonly \
	-block-size 4096 >"$T/client.log" 2>&1 ||
	fail "nbd-client: $(<"$T/client.log")"
# shellcheck disable=SC2317
undo() {
	[ ${#MOUNTS[@]} -eq 0 ] || umount "${MOUNTS[@]}"
	MOUNTS=()
	detach
}

assert_eq "$(blockdev --getsize64 /dev/nbd0)" "$SIZE" "size"
assert_eq "$(blockdev --getro /dev/nbd0)" 1 "read-only"
assert_eq "$(sha_of /dev/nbd0)" "${EROFS#sha256:}" "bytes of /dev/nbd0"
mkdir "$T/nbd" "$T/file"
mount -t erofs -o ro /dev/nbd0 "$T/nbd"
MOUNTS=("$T/nbd")
mount -t erofs -o ro,loop "$SMALL" "$T/file"
MOUNTS+=("$T/file")
diff -r "$T/file" "$T/nbd" || fail "files differ"
files=$(find "$T/nbd" -type f | wc -l)
[ "$files" -gt 100 ] || fail "only $files files"
umount "$T/file" "$T/nbd"
MOUNTS=()
detach
undo() { :; }
assert_eq "$(cat /sys/block/nbd0/size)" 0 "size of nbd0 afterwards"
ctl detach one
suite_stop
echo "NOTE: $SIZE bytes and $files files right through /dev/nbd0"
