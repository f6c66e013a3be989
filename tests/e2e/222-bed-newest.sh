#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: under Debian sid's, the newest stock, kernel each test of tests/vm/bed passes, or is
# skipped for what that kernel has not; one guest runs them all.
# LIMIT: 960
. "$(dirname "$0")/lib.sh"

bed_test sid
