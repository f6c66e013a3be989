#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: /dev/fuse opens, and the kernel asks the one who mounted it to begin.
. "$(dirname "$0")/../../e2e/lib.sh"

[ -c /dev/fuse ] || fail "no /dev/fuse"
version=$(/usr/bin/python3 "$TOOLS/fuse_init.py" "$T") || fail "no INIT"
echo "NOTE: FUSE protocol $version"
