#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# bed_root.sh DIR: puts there root.erofs, what a guest of the test bed finds in
# its root besides our own build: files of this machine's packages; and its
# small.erofs and small-lz4.erofs, of 8 MB, for an emulated processor hashes
# slowly.  Made again when this script or one of those packages has changed.
# Needs no root.
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
[ $# -eq 1 ] || { sed -n '4s/^# /usage: /p' "$0" >&2; exit 2; }
tools=$(cd "$(dirname "$0")/../tools" && pwd)
mkdir -p "$1"
dir=$(realpath "$1")

# A test needs a program more?  Its package is added here, and to deps.sh.
python=$(basename "$(realpath /usr/bin/python3)")
packages=(
	bash coreutils util-linux mount procps findutils
	grep sed mawk diffutils tar gzip libc-bin kmod iproute2 strace
	jq curl openssl
	python3-minimal "$python-minimal" "lib$python-minimal"
	"lib$python-stdlib" python3-libnbd
	docker-registry libnbd-bin fio nbd-client erofs-utils e2fsprogs
	busybox-static
)
# and what no list of those packages has
files=(
	/usr/bin/awk /lib/x86_64-linux-gnu/libgcc_s.so.1
	/etc/ssl/certs/ca-certificates.crt /etc/mke2fs.conf
)
nginx=$(command -v nginx) && files+=("$nginx")
# the least of qemu that starts a microvm under emulation
qemu=$(command -v qemu-system-x86_64) && files+=("$qemu"
	/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so
	/usr/share/qemu/bios-microvm.bin /usr/share/qemu/linuxboot_dma.bin)

versions=$(dpkg-query -W -f '${Package} ${Version}\n' "${packages[@]}") ||
	{ echo "bed_root.sh: a package is missing; make deps" >&2; exit 1; }
versions+=$(dpkg-query -W -f '${Package} ${Version}\n' qemu-system-x86 || true)
key=$({ cat "$0" "$tools/image.sh"; echo "$versions"; } | sha256sum | cut -d ' ' -f 1)
[ "$(cat "$dir/key" 2>/dev/null)" != "$key" ] || exit 0

work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
mkdir -p "$tree"/usr/{bin,sbin,lib,lib64} "$tree"/{proc,sys,dev,run,tmp,mnt} \
	"$tree"/{root,etc,var}
for name in bin sbin lib lib64; do
	ln -s usr/$name "$tree/$name"
done

# No documents; with what Python would compile at each start.
tag=cpython-${python#python}
{
	dpkg -L "${packages[@]}" | grep -v -E '^/usr/share/|^/usr/include/'
	printf '%s\n' "${files[@]}"
} | sort -u | while read -r path; do
	if [ -f "$path" ] && [ -r "$path" ]; then
		echo "$path"
	fi
	name=${path##*/}
	cache=${path%/*}/__pycache__/${name%.py}.${tag/./}.pyc
	if [ "$name" != "${name%.py}" ] && [ -r "$cache" ]; then
		echo "$cache"
	fi
done >"$work/files"
grep -E '/s?bin/|\.so' "$work/files" | tr '\n' '\0' |
	{ xargs -0 ldd 2>/dev/null || true; } | awk '
	$2 == "=>" && $3 ~ /^\// { print $3 }
	$1 ~ /^\/.*ld-linux/ { print $1 }' >"$work/libraries"
sed -E 's,^/(bin/|sbin/|lib),/usr/\1,; s,^/,,' "$work/files" \
	"$work/libraries" | sort -u |
	tar -C / -chf - --no-recursion --files-from=- |
	tar -C "$tree" -xf - --no-same-owner
chmod -R u+rwX,go+rX "$tree"
mkfs.erofs --all-root "$work/erofs" "$tree" >/dev/null
chmod 644 "$work/erofs"
rm -f "$dir"/small*.erofs
IMAGE_MIB=8 "$tools/image.sh" "$dir/small.erofs" plain >/dev/null
IMAGE_MIB=8 "$tools/image.sh" "$dir/small-lz4.erofs" lz4 >/dev/null
mv "$work/erofs" "$dir/root.erofs"
echo "$key" >"$dir/key"
echo "the bed's root: $(stat -c %s "$dir/root.erofs") bytes"
