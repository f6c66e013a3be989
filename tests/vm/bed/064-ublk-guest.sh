#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a microvm, with Firecracker's device model, boots from /dev/ublkbN, whose
# worker is killed and which is detached meanwhile, and reads what its image
# holds; then the device goes.  The guest is a kernel and busybox: this is
# emulation inside emulation.
# LIMIT: 400
. "$(dirname "$0")/../../e2e/lib.sh"
PRESENT='ublk'
LONG=${TEST_TIMEOUT:-400}

[ -c /dev/ublk-control ] || skip "$(uname -r) has no ublk driver"
command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64"
guest=$CACHE/micro-guest
registry_start
image_push "$guest/root.erofs" test/guest:v1
suite_start
device=$(ctl attach "$IMAGE" --name guest --integrity complete)
"$VM/boot.sh" -m -M 256 -t "$LONG" -g "$guest" "$device" "$T/console.log" &
vm=$!
: >>"$T/console.log"
wait_line $vm "$T/console.log" 'INITRD .* root is mounted' "$LONG" ||
	fail "the guest did not find its root: $(tail -n 5 "$T/console.log")"
kill -KILL "$(suite_pid devd-io)" || fail "there is no worker"
ctl detach guest --json | jq -e '.torn_down == false' >/dev/null ||
	fail "torn down under the guest"
wait_until 20 status_is guest .openers 1 || fail "qemu is no opener"
wait $vm || fail "the guest did not come to its end: $(tail -n 5 "$T/console.log")"
grep -q "GUEST-OK $(<"$guest/expect")" "$T/console.log" ||
	fail "the guest read something else"
echo "NOTE: $(grep -o 'BENCH [0-9.]*' "$T/console.log") s of its own"
wait_until 20 gone guest || fail "it is left behind its guest"
suite_stop
