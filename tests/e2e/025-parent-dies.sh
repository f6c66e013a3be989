#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: kill -9 of the parent, and so of all, leaves no process, and a store
# that the next start uses: the device comes back at its path, every byte right,
# and nothing is fetched again that was on disk.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/base:v1
for round in 1 2 3; do
	suite_start
	uri=$(ctl attach "$IMAGE" --name one --integrity complete)
	"$TOOLS/reader.py" "$uri" "$SMALL" touch $((round * 100)) >/dev/null
	suite_kill
done
no_hedges
suite_start
registry_mark
wait_until 10 nbdinfo --size "$uri" >/dev/null || fail "no device"
had=$(status_of one .bytes.present)
assert_le 6000000 "$had" "bytes that survived three kills"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "read of all"
assert_le "$(registry_bytes "$EROFS")" $((SIZE - had)) "bytes fetched"
suite_stop
