#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: in a guest with trixie's kernel, systemd and libraries each test of
# tests/vm/bed-systemd passes.
# LIMIT: 960
. "$(dirname "$0")/lib.sh"

bed_test -s trixie
