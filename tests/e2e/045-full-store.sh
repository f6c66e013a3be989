#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: what the store has no room for is served all the same, every byte
# right; the device and the suite live on, and a pull says NO_SPACE.
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" -eq 0 ] || skip "mounting a small file system needs root"
image_small
registry_start
image_push "$SMALL" test/base:v1
mkdir "$T/store"
mount -t tmpfs -o size=12m none "$T/store" || skip "no tmpfs can be mounted"
MOUNTS+=("$T/store")
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)
for how in "--connections=1" "--connections=4"; do
	assert_eq "$(nbdcopy "$how" "$uri" - | sha_of)" "${EROFS#sha256:}" \
		"read of all with a full store, $how"
done
status_is one .state lazy || fail "a device that can't be kept is complete"
ctl events --json | grep -q "can't keep" || fail "no event says so"
assert_exit 1 NO_SPACE ctl pull "$IMAGE"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "read after pull"
suite_stop
