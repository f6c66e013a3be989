#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: e2e/181-block-kills.sh, of a device of ublk.
# LIMIT: 300
KIND=ublk exec bash "$(dirname "$0")/../../e2e/181-block-kills.sh"
