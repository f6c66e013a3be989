#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kernel.sh SUITE [DIR]: puts the newest cloud kernel of that Debian suite
# (bookworm, trixie, sid), once, in build/test/kernel-SUITE (or DIR): vmlinuz and
# its modules as modprobe -d wants them.  It is unpacked, not installed, and comes
# from the machine's own mirror by apt with a state of its own, which checks its
# signature.  Needs no root.
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
suite=${1:?usage: kernel.sh SUITE [DIR]}
dir=${2:-$(dirname "$0")/../../build/test/kernel-$suite}
[ -f "$dir/vmlinuz" ] && exit

vm=$(cd "$(dirname "$0")" && pwd)
main=$("$vm/mirror.sh" debian)
security=$("$vm/mirror.sh" debian-security 2>/dev/null) || security=

mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$(realpath "$(dirname "$dir")")/kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work"/state/lists/partial "$work"/cache/archives/partial
by="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
echo "deb $by $main $suite main" >"$work/list"
[ -z "$security" ] || [ "$suite" = sid ] ||
	echo "deb $by $security $suite-security main" >>"$work/list"
apt=(-qq -o Dir::Etc::SourceList="$work/list"
	-o Dir::Etc::SourceParts=/dev/null -o Dir::State="$work/state"
	-o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
	-o APT::Sandbox::User= -o Acquire::Languages=none
	-o APT::Get::AllowUnauthenticated=false
	-o Acquire::AllowInsecureRepositories=false)
apt-get "${apt[@]}" update >&2

# All that the image's newest version leads to and that is named by a version:
# trixie has one package, sid a binary, a modules and a base package beside it.
apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests \
	--no-conflicts --no-breaks --no-replaces --no-enhances \
	-o APT::Cache::AllVersions=false linux-image-cloud-amd64 |
	grep -E '^linux-(image|binary|modules|base)-[0-9]' | sort -u \
	>"$work/packages"
mapfile -t packages <"$work/packages"
(cd "$work" && apt-get "${apt[@]}" download "${packages[@]}" >&2)
for package in "$work"/*.deb; do
	dpkg-deb -x "$package" "$work/k"
done
chmod 755 "$work/k"
[ -d "$work/k/lib" ] || ln -s usr/lib "$work/k/lib"
version=$(basename "$work"/k/lib/modules/*)
depmod -b "$work/k" "$version"
# a package has it in /boot, another beside its modules
vmlinuz=$(find "$work/k" -type f -name 'vmlinuz*')
[ -f "$vmlinuz" ] || { echo "kernel.sh: no vmlinuz in ${packages[*]}" >&2; exit 1; }
mv "$vmlinuz" "$work/k/vmlinuz"
chmod 644 "$work/k/vmlinuz"
rm -rf "$work/k/boot" "$work/k/usr/share"
rm -rf "$dir"
mv -T "$work/k" "$dir"
echo "kernel: $version"
