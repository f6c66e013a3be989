#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: under this kernel, KILLS times in all, worker, cached, fetcherd or control
# is killed under a reader of a file that compares every byte: no wrong byte, no
# error; and nothing is left over.
# LIMIT: 200
. "$(dirname "$0")/../../e2e/lib.sh"
. "$(dirname "$0")/../../e2e/reader.sh"
PRESENT='file'
KILLS=${KILLS:-20}
SEED=${SEED:-$RANDOM}
STEPS=2

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
fds=$(fd_count "$SUITE_PID")
file=$(ctl attach "$IMAGE" --name one --integrity complete)
[[ $file = "$T/run/file/"* ]] || fail "attach printed $file"
reader_start one "$file" "$SMALL"
readers_made $STEPS
echo "seed $SEED"
kills "$KILLS" $STEPS
reader_end one
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"

## nothing is left

ctl detach one
wait_until 20 gone one || fail "the device is left: $(ctl ls)"
! grep -q " shedstream:$T/run " /proc/self/mountinfo || fail "a mount is left"
[ -z "$(ls "$T/run/file")" ] || fail "left: $(ls "$T/run/file")"
fds_are() {
	[ "$(fd_count "$SUITE_PID")" -eq "$fds" ]
}
wait_until 10 fds_are ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
suite_stop
taken=$(grep -c 'requests of a former worker taken over' "$T/devd.log") || true
echo "NOTE: $KILLS kills, $(jq .reads "$T/one.json") reads compared, $taken" \
	"times requests in the journal, the longest stall $LONGEST ms (seed $SEED)"
