#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# oras.sh: prints the path of an oras.  Debian has it from trixie on; where this
# machine is older, trixie's package is taken from the machine's own mirror, by
# apt with a state of its own, and unpacked (not installed) in build/test/oras.
set -euo pipefail
export LC_ALL=C.UTF-8
if command -v oras; then
	exit
fi
dir=$(cd "$(dirname "$0")/../.." && pwd)/build/test/oras
if [ ! -x "$dir/usr/bin/oras" ]; then
	mirror=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \
		-name '*.*s*' -exec cat {} + 2>/dev/null | awk '
		/^URIs:/ { uri = $2 }
		/^Components:/ && / main/ && uri ~ /\/debian\/?$/ { print uri }
		$1 == "deb" { sub(/\[[^]]*\] */, "")
			if ($2 ~ /\/debian\/?$/) print $2 }' || true)
	mirror=${mirror%%$'\n'*}
	[ -n "$mirror" ] || { echo "oras.sh: no Debian mirror" >&2; exit 1; }
	mkdir -p "$(dirname "$dir")"
	work=$(mktemp -d "$dir.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	echo "deb [signed-by=$key] $mirror trixie main" >"$work/list"
	apt=(apt-get -qq -o Dir::Etc::SourceList="$work/list"
		-o Dir::Etc::SourceParts=/dev/null -o Dir::State="$work/state"
		-o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
		-o APT::Sandbox::User= -o Acquire::Languages=none)
	"${apt[@]}" update >&2
	(cd "$work" && "${apt[@]}" download oras >&2)
	mkdir "$work/oras"
	dpkg-deb -x "$work"/oras_*.deb "$work/oras"
	chmod 755 "$work/oras"
	mv -T "$work/oras" "$dir"
fi
echo "$dir/usr/bin/oras"
