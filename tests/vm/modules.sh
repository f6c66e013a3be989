#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# modules.sh KERNEL DIR MODULE...
# Puts into DIR what it takes to load those modules of KERNEL, a directory of
# kernel.sh: named in the order in which they load, unpacked, so that busybox's
# insmod takes them.  What is built in is left out.
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
[ $# -ge 3 ] || { sed -n '4s/^# /usage: /p' "$0" >&2; exit 2; }
kernel=$1 dir=$2
shift 2
version=$(basename "$kernel"/lib/modules/*)
mkdir -p "$dir"
n=100
for name in "$@"; do
	modprobe -d "$kernel" -S "$version" --show-depends "$name"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
	while read -r path; do
		module=$dir/$((n++))-$(basename "$path")
		cp "$path" "$module"
		case $module in
		*.xz) xz -d "$module" ;;
		*.zst) zstd -q --rm -d "$module" ;;
		esac
	done
