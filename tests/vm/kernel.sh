#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kernel.sh [DIR]: puts Debian trixie's cloud kernel, once, in
# build/test/kernel-trixie (or DIR): vmlinuz, and its modules as modprobe -d
# wants them.  It is unpacked, not installed, and comes from the machine's own
# mirror by apt with a state of its own, which checks its signature.  Needs no
# root.
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
dir=${1:-$(dirname "$0")/../../build/test/kernel-trixie}
[ -f "$dir/vmlinuz" ] && exit

# Where this machine gets Debian from: deb822 or classic sources.
mirror=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \
	-name '*.*s*' -exec cat {} + 2>/dev/null | awk '
	/^URIs:/ { uri = $2 }
	/^Components:/ && / main/ && uri ~ /\/debian\/?$/ { print uri }
	$1 == "deb" { sub(/\[[^]]*\] */, "")
		if ($2 ~ /\/debian\/?$/) print $2 }' || true)
mirror=${mirror%%$'\n'*}
[ -n "$mirror" ] || { echo "kernel.sh: no Debian mirror" >&2; exit 1; }

mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$(realpath "$(dirname "$dir")")/kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$key] $mirror trixie main" >"$work/list"
apt=(-qq -o Dir::Etc::SourceList="$work/list"
	-o Dir::Etc::SourceParts=/dev/null -o Dir::State="$work/state"
	-o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
	-o APT::Sandbox::User= -o Acquire::Languages=none)
apt-get "${apt[@]}" update >&2
kernel=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 |
	awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
(cd "$work" && apt-get "${apt[@]}" download "$kernel" >&2)
dpkg-deb -x "$work"/linux-image-*.deb "$work/k"
chmod 755 "$work/k"
[ -d "$work/k/lib" ] || ln -s usr/lib "$work/k/lib"
version=$(basename "$work"/k/lib/modules/*)
depmod -b "$work/k" "$version"
mv "$work/k/boot/vmlinuz-$version" "$work/k/vmlinuz"
chmod 644 "$work/k/vmlinuz"
rm -rf "$work/k/boot" "$work/k/usr/share"
rm -rf "$dir"
mv -T "$work/k" "$dir"
echo "kernel: $version"
