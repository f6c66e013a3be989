#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a file whose blob turns out not to have its digest fails: what was not
# read answers EIO, and from the next open on what was read before does too.
. "$(dirname "$0")/lib.sh"
PRESENT='file'

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
image_of "$T/image.erofs" 7:8192
registry_start
image_push "$T/image.erofs" test/base:v1
spoil "$(registry_file "$EROFS")" $((SIZE / 2))
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)
exec 7<"$file"
cat <&7 >/dev/null 2>&1 || true		# the last read may fail
wait_until 30 status_is one .state failed || fail "it did not fail"

refused() { # OFFSET: by who has it open since then
	! /usr/bin/python3 -c 'import os, sys
os.pread(7, 4096, int(sys.argv[1]))' "$1" 2>/dev/null
}
head -c 1 "$file" >/dev/null 2>&1 && fail "a failed file can be read"
for offset in 0 $((SIZE / 2)) $((SIZE - 4096)); do
	refused $offset || fail "pages of a failed file are given out, at $offset"
done
ctl detach one
exec 7<&-
wait_until 10 gone one || fail "a failed device is left"
suite_stop
