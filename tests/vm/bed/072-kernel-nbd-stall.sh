#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: e2e/182-block-stall.sh, of a device of kernel-nbd.
# LIMIT: 300
KIND=kernel-nbd exec bash "$(dirname "$0")/../../e2e/182-block-stall.sh"
