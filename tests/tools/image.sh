#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# image.sh FILE [plain|lz4] [--plus]: makes a small but real erofs (about 48 MB
# of contents) out of files of this machine; lz4 is what shed's own build does.
# --plus: the next version of that image, with some MB of libraries more, and a
# few files changed.
# image.sh --tree DIR: only puts the files there, for a guest image.
# IMAGE_MIB=N: of so much instead of 48.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
BUDGET=$((${IMAGE_MIB:-48} << 20))
MORE=$((5 << 20))

# Small and large files, text and programs, in a fixed order, to a budget.
fill() {
	local dir=$1 sum=0 size path
	while read -r size path; do
		[ -r "$path" ] || continue
		sum=$((sum + size))
		[ $sum -le $BUDGET ] || break
		echo "$path"
	done < <({
		printf '%s\n' /usr/lib/os-release
		find -L /usr/share/common-licenses -type f | sort
		find /usr/share/perl5 /usr/lib/python3 /usr/share/zoneinfo \
			-xdev -type f -size -64k | sort | awk 'NR % 4 == 0' |
			head -n 1500
		find /usr/bin -xdev -type f -size -6000k | sort
	} | tr '\n' '\0' | xargs -0 stat -L -c '%s %n') >"$dir.list"
	tar -C / -chf - --files-from=<(sed 's|^/||' "$dir.list") |
		tar -C "$dir" -xf - --no-same-owner
	rm "$dir.list"
	chmod -R u+rwX,go+rX "$dir"
}

# What a package more and an update bring: files, a changed one, one that grew.
plus() {
	local dir=$1 sum=0 size path
	mkdir -p "$dir/opt/plus"
	while read -r size path; do
		sum=$((sum + size))
		[ $sum -le $MORE ] || break
		cp "$path" "$dir/opt/plus/"
	done < <(find /usr/lib -xdev -type f -name '*.so*' -size -1500k \
		-printf '%s %p\n' | sort -k 2)
	echo 'VARIANT=plus' >>"$dir/usr/lib/os-release"
	path=$(find "$dir/usr/bin" -type f -size +500k | sort | head -n 1)
	printf 'one byte more\n' | dd of="$path" bs=1 seek=300000 conv=notrunc \
		status=none
	find "$dir/usr/share/common-licenses" -type f | sort | head -n 2 |
		while read -r path; do echo 'a line more' >>"$path"; done
}

if [ "$1" = --tree ]; then
	mkdir -p "$2"
	fill "$2"
	exit
fi

out=$1
flags=(-T 0 -U 5ed57ea0-0000-4000-8000-000000000001 --all-root)
[ "${2-plain}" = lz4 ] && flags+=(-z lz4 -E force-inode-compact)
# 1.5 has no -b: there 4096 is the only block size
mkfs.erofs --help 2>&1 | grep -q '^ *-b' && flags+=(-b 4096)
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work" "$work.list"' EXIT
mkdir "$work/tree"
fill "$work/tree"
[ "${3-}" != --plus ] || plus "$work/tree"
mkfs.erofs "${flags[@]}" "$work/erofs" "$work/tree" >/dev/null
chmod 644 "$work/erofs"
mv "$work/erofs" "$out"
echo "image: $out, $(stat -c %s "$out") bytes"
