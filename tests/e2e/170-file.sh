#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a service of root presents a device as a regular file, which holds the
# blob's bytes to whoever reads it, however; an erofs in it can be mounted
# straight from it; it outlives its consumer while somebody has it open; and
# nothing of it is left over, whatever ends it.
. "$(dirname "$0")/lib.sh"
PRESENT=

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
if [ "$(id -u)" -ne 0 ]; then
	assert_exit 1 '^shedctl: DEVICE_UNAVAILABLE: .*--present nbd' \
		ctl attach "$IMAGE" --present file
	uri=$(ctl attach "$IMAGE" --integrity complete --name one)
	[[ $uri = nbd+unix:* ]] || fail "a rootless attach printed $uri"
	suite_stop
	skip "a file needs root; without, it is refused with the remedy"
fi
[ -c /dev/fuse ] || skip "no /dev/fuse"

mounts() { # of ours
	grep -c " - fuse.shedstream shedstream:$T/run " /proc/self/mountinfo
}

FDS_OF_DEVICE=5		# map, statistics, requests, journal, its worker's link

worker_other_than() { # PID
	local pid
	pid=$(suite_pid devd-io) && [ -n "$pid" ] && [ "$pid" != "$1" ]
}

fds_are() { # NUMBER: of the parent
	[ "$(fd_count "$SUITE_PID")" -eq "$1" ]
}

file=$(ctl attach "$IMAGE" --name one --integrity complete)
[[ $file = "$T/run/file/"* ]] || fail "attach printed $file"
PRESENT='file'		# also when the image is whole: see 181
assert_eq "$(mounts)" 1 mounts
assert_json ".path == \"$file\" and .present_as == \"file\"" \
	ctl status one --json
fds=$(fd_count "$SUITE_PID")
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"
wait_until 10 status_is one .openers 0 || fail "openers are left"

## an erofs, mounted from it without a loop device, and with one

mount_erofs() { # FILE DIR: mount(8) would make a loop device
	/usr/bin/python3 -c '
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(sys.argv[1].encode(), sys.argv[2].encode(), b"erofs", 1, None):
    sys.exit(os.strerror(ctypes.get_errno()))' "$1" "$2"
}
hashes() { # DIR
	(cd "$1" && find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum)
}
mkdir "$T/from-file" "$T/from-device"
mounted=
if mount -o loop,ro -t erofs "$SMALL" "$T/from-file" 2>"$T/err"; then
	MOUNTS+=("$T/from-file")
	hashes "$T/from-file" >"$T/want"
	[ "$(wc -l <"$T/want")" -gt 50 ] || fail "the image has few files"
	for how in mount_erofs "mount -o loop,ro -t erofs"; do
		$how "$file" "$T/from-device" 2>"$T/err" || continue
		MOUNTS+=("$T/from-device")
		wait_until 10 status_is one .openers 1 ||
			fail "a mount is no opener"
		hashes "$T/from-device" | cmp - "$T/want" ||
			fail "$how: a file in the image has another hash"
		umount "$T/from-device"
		unset 'MOUNTS[-1]'
		wait_until 10 status_is one .openers 0 ||
			fail "the mount's opener is left"
		mounted+="${how%% *} "
	done
	umount "$T/from-file"
	unset 'MOUNTS[-1]'
fi
echo "NOTE: erofs mounted from it by: ${mounted:-nothing, $(<"$T/err")}"

## who has it open keeps it

exec 7<"$file"
wait_until 10 status_is one .openers 1 || fail "an opener is not counted"
ctl detach one --json | jq -e '.torn_down == false' >/dev/null ||
	fail "torn down under an opener"
status_is one .state draining || fail "it is not draining"
assert_eq "$(sha_of <&7)" "${EROFS#sha256:}" "SHA-256, detached"
old=$(suite_pid devd-io)
kill -KILL "$old"
wait_until 10 worker_other_than "$old" || fail "no new worker"
/usr/bin/python3 -c 'import os; os.posix_fadvise(7, 0, 0, 4); os.pread(7, 9, 0)' ||
	fail "the new worker does not serve the opener"
status_is one .state draining || fail "a new worker forgot the opener"
exec 7<&-
wait_until 10 gone one || fail "it is left behind its last opener"
assert_eq "$(mounts)" 0 "mounts after detach"
[ ! -e "$file" ] || fail "the path is left"
wait_until 10 fds_are "$((fds - FDS_OF_DEVICE))" ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"

## the service ends, orderly and by a kill, and starts again

file=$(ctl attach "$IMAGE" --name one --integrity complete)
exec 7<"$file"
suite_stop
grep -q 'device one: its file ends with this service; 1 openers' \
	"$T/devd.log" || fail "no word about the end of an open file"
assert_eq "$(mounts)" 0 "mounts after the end"
cat <&7 >/dev/null 2>&1 && fail "a file without a service can be read"
exec 7<&-
suite_start
wait_until 10 test -f "$file" || fail "the file did not come back"
cmp "$file" "$SMALL" || fail "it came back with other bytes"
suite_kill
assert_eq "$(mounts)" 1 "mounts after a kill"
cat "$file" >/dev/null 2>&1 && fail "a file without a service can be read"
suite_start
grep -q 'unmounted 1 files of a former instance' "$T/devd.log" ||
	fail "no word about what was left over"
wait_until 10 cmp "$file" "$SMALL" || fail "it did not come back"
assert_eq "$(mounts)" 1 "mounts after a start"
suite_kill
"$BIN/devd" --remove-devices --run "$T/run" || fail "--remove-devices"
assert_eq "$(mounts)" 0 "mounts after --remove-devices"
[ -z "$(ls "$T/run/file")" ] || fail "left over: $(ls "$T/run/file")"
suite_start
device_count 0 || fail "a device is left: $(ctl ls)"
suite_stop
