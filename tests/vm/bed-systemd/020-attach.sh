#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: under systemd, with trixie's libraries, an image becomes a device with its bytes (e2e 010).
exec bash "$(dirname "$0")/../../e2e/010-attach-read.sh"
