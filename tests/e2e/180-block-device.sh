#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a device that a driver of the kernel's presents is a read-only block
# device with the blob's bytes, also when the store lost them; an erofs mounts
# from it; it goes only when nobody has it open, and nothing of it is left over,
# whatever ends it.  KILLS cycles of attach and detach.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/block.sh"
CYCLES=${KILLS:-20}		# 200 in soak

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
refused() { # KIND REMEDY
	assert_exit 1 "^shedctl: DEVICE_UNAVAILABLE: .*$2" \
		ctl attach "$IMAGE" --present "$1"
}
if [ "$(id -u)" -ne 0 ]; then
	refused ublk 'service of root.*--present nbd'
	refused kernel-nbd 'service of root.*--present nbd'
	suite_stop
	skip "a block device needs root; without, it is refused with the remedy"
fi
block_driver ublk || refused ublk 'ublk_drv.*--present file'
block_driver kernel-nbd || refused kernel-nbd 'modprobe nbd.*--present file'
if ! block_driver "$PRESENT"; then
	suite_stop
	skip "$(uname -r) has no driver for $PRESENT; refused with the remedy"
fi
fds_are() { # NUMBER: of the parent
	[ "$(fd_count "$SUITE_PID")" -eq "$1" ]
}
sockets_are() { # NUMBER: unix sockets of all
	[ "$(wc -l </proc/net/unix)" -le "$1" ]
}

fds=$(fd_count "$SUITE_PID")
device=$(ctl attach "$IMAGE" --name one --integrity complete)
block=/sys/block/${device#/dev/}
assert_json ".path == \"$device\" and .present_as == \"$PRESENT\"" \
	ctl status one --json
assert_eq "$(blockdev --getsize64 "$device")" "$SIZE" "size"
assert_eq "$(blockdev --getro "$device")" 1 "read-only"
assert_eq "$(blockdev --getss "$device")" 512 "logical block size"
assert_eq "$(stat -c %a:%u "$device")" 440:0 "mode and owner"
assert_eq "$(cat "$block/queue/max_sectors_kb")" 512 "largest request, KiB"
assert_eq "$(cat "$block/queue/discard_max_bytes")" 0 "discard"
case $PRESENT in
ublk)
	[[ $device = /dev/ublkb[0-9]* ]] || fail "attach printed $device"
	assert_eq "$(blockdev --getpbsz "$device")" 4096 "physical block size"
	;;
kernel-nbd)
	[[ $device = /dev/nbd[0-9]* ]] || fail "attach printed $device"
	assert_eq "$(cat "$block/queue/io_timeout")" 5000 "retry, ms"
	;;
esac
fio --name=verify --filename="$device" --readonly --rw=randread --bs=4k \
	--ioengine=libaio --direct=1 --iodepth=128 --io_size=16m \
	--minimal >"$T/fio" || fail "fio: $(<"$T/fio")"
status_is one .reads.hot 0 && fail "no hot reads"

## what the store loses under it comes again

wait_until 30 status_is one .state complete || fail "it is not complete"
truncate -s 0 "$STORE"/layouts/*/data.*
blockdev --flushbufs "$device"
dd if="$device" of="$T/again" bs=64k iflag=direct status=none ||
	fail "no bytes where the store has lost them"
cmp "$T/again" "$SMALL" || fail "other bytes where the store has lost them"

## an erofs in it

mkdir "$T/from-file" "$T/from-device"
mount -t erofs -o ro,loop "$SMALL" "$T/from-file"
MOUNTS=("$T/from-file")
mount -t erofs -o ro "$device" "$T/from-device"
MOUNTS+=("$T/from-device")
diff -r "$T/from-file" "$T/from-device" || fail "files differ"
files=$(find "$T/from-device" -type f | wc -l)
[ "$files" -gt 50 ] || fail "only $files files"

## who has it open keeps it: by a mount, by a descriptor

ctl detach one --json | jq -e '.torn_down == false' >/dev/null ||
	fail "torn down under a mount"
wait_until 20 status_is one .state draining || fail "it is not draining"
wait_until 20 status_is one .openers 1 || fail "a mount is no opener"
device=$(ctl attach "$IMAGE" --name one --integrity complete) ||
	fail "a draining device can't be attached again"
exec 7<"$device"
umount "$T/from-device" "$T/from-file"
MOUNTS=()
ctl detach one
wait_until 20 status_is one .state draining || fail "it is not draining"
blockdev --flushbufs "$device"
assert_eq "$(sha_of <&7)" "${EROFS#sha256:}" "SHA-256, detached"
exec 7<&-
wait_until 20 no_devices || fail "it is left behind its last opener"
wait_until 10 gone one || fail "it is still listed"
case $PRESENT in
ublk) [ ! -e "$device" ] || fail "the node is left" ;;
kernel-nbd)
	assert_eq "$(cat "$block/size")" 0 "size afterwards"
	assert_eq "$(stat -c %a:%u:%g "$device")" 600:0:0 \
		"mode and owner afterwards"
	;;
esac
wait_until 10 fds_are "$fds" ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"

## again and again

rss=$(rss_kb "$SUITE_PID")
sockets=$(wc -l </proc/net/unix)
for ((i = 0; i < CYCLES; i++)); do
	device=$(ctl attach "$IMAGE" --name one --integrity complete)
	dd if="$device" of=/dev/null bs=64k count=1 skip=$((i % 64)) status=none
	ctl detach one
	wait_until 20 no_devices || fail "cycle $i: it is left"
	wait_until 10 gone one || fail "cycle $i: it is still listed"
done
wait_until 10 fds_are "$fds" ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
wait_until 10 sockets_are "$sockets" ||
	fail "there were $sockets sockets, are $(wc -l </proc/net/unix)"
assert_le "$(rss_kb "$SUITE_PID")" $((rss + 200)) "the parent's memory, KiB"
echo "NOTE: $CYCLES cycles"

## somebody else ends it: it is made again

comes_back() {
	device=$(nbd_uri one) && [ -b "$device" ] &&
		cmp -s "$device" "$SMALL"
}
device=$(ctl attach "$IMAGE" --name one --integrity complete)
if [ "$PRESENT" = kernel-nbd ]; then
	nbd-client -d "$device" >"$T/client.log" 2>&1 ||
		fail "$(<"$T/client.log")"
	wait_line "$SUITE_PID" "$T/devd.log" 'it is taken away and made again' ||
		fail "nobody saw that it was ended"
	wait_until 30 comes_back || fail "it did not come back"
	assert_eq "$(block_devices)" 1 "devices"
fi

## what nobody needs any more

ctl shutdown
wait_until 20 suite_gone || fail "shutdown did not end the suite"
no_devices || fail "a device is left after shutdown"
suite_start
device_count 0 || fail "a device is left: $(ctl ls)"
ctl attach "$IMAGE" --name one --integrity complete >/dev/null
rm "$T"/run/devices/*
suite_kill
assert_eq "$(block_devices)" 1 "devices after a kill"
: >"$T/run/attachments.0"
: >"$T/run/attachments.1"
suite_start
grep -q 'took away 1 block devices of a former instance' "$T/devd.log" ||
	fail "no word about what was left over"
no_devices || fail "a device is left that no record names"
ctl attach "$IMAGE" --name one --integrity complete >/dev/null
suite_kill
"$BIN/devd" --remove-devices --run "$T/run" || fail "--remove-devices"
no_devices || fail "a device is left after --remove-devices"
suite_start
device_count 0 || fail "a device is left: $(ctl ls)"
suite_stop
