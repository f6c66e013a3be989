#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: e2e/036-conformance.sh, of all that this kernel can present.
# LIMIT: 300
EMULATED=1 exec bash "$(dirname "$0")/../../e2e/036-conformance.sh"
