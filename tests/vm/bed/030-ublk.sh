#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: where this kernel has ublk, its driver answers which features it has,
# and user recovery with reissue, which our devices need, is one of them.
. "$(dirname "$0")/../../e2e/lib.sh"

[ -c /dev/ublk-control ] || skip "$(uname -r) has no ublk driver"
features=$("$BIN/../tests/tools/ublk_features") || fail "no answer"
for feature in USER_RECOVERY USER_RECOVERY_REISSUE; do
	[[ " $features " = *" $feature "* ]] || fail "no $feature: $features"
done
echo "NOTE: ublk features $features"
