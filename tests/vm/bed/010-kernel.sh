#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: this kernel has what the suite builds on, or the note says what it has
# not: modules, Landlock, seccomp.
. "$(dirname "$0")/../../e2e/lib.sh"

have=() lacking=()
for module in loop fuse nbd ublk_drv erofs overlay virtio_blk; do
	if [ -d "/sys/module/$module" ]; then
		have+=("$module")
	else
		lacking+=("$module")
	fi
done
[[ " ${have[*]} " = *" erofs overlay virtio_blk "* ]] ||
	fail "how can this guest run without its modules? it has ${have[*]}"
actions=$(cat /proc/sys/kernel/seccomp/actions_avail) || fail "no seccomp"
[[ $actions = *kill_process* ]] || fail "seccomp has only: $actions"
lsm=$(cat /sys/kernel/security/lsm)
[[ $lsm = *landlock* ]] || lacking+=(Landlock)
echo "NOTE: Linux $(uname -r), modules ${have[*]}, lacking ${lacking[*]:-nothing}"
