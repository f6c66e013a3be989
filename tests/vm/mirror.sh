#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# mirror.sh debian|debian-security: where this machine gets that archive from,
# by its own apt sources, deb822 or classic.
set -euo pipefail
export LC_ALL=C.UTF-8
uri=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \
	-name '*.*s*' -exec cat {} + 2>/dev/null |
	awk -v at="/${1:?}/?\$" '
	/^URIs:/ { uri = $2 }
	/^Components:/ && / main/ && uri ~ at { print uri }
	$1 == "deb" { sub(/\[[^]]*\] */, "")
		if ($2 ~ at) print $2 }' || true)
uri=${uri%%$'\n'*}
[ -n "$uri" ] || { echo "mirror.sh: no apt source of $1" >&2; exit 1; }
echo "$uri"
