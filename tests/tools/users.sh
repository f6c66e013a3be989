#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the users of systemd/shedstream.sysusers, which the suite runs under
# when root starts it; by hand where there is no systemd-sysusers.  Does
# nothing when they exist.
set -euo pipefail
file=${1:-$(dirname "$0")/../../systemd/shedstream.sysusers}

while read -r kind name _; do
	[ "$kind" = u ] || continue
	getent passwd "$name" >/dev/null || missing=1
done <"$file"
[ -n "${missing-}" ] || exit 0

if command -v systemd-sysusers >/dev/null; then
	exec systemd-sysusers "$(realpath "$file")"
fi
while read -r kind name _; do
	case $kind in
	g) getent group "$name" >/dev/null || groupadd --system "$name" ;;
	u) getent passwd "$name" >/dev/null ||
		useradd --system --user-group --no-create-home \
			--home-dir / --shell /usr/sbin/nologin "$name" ;;
	esac
done <"$file"
