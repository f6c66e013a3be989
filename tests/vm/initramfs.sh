#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# initramfs.sh DIR: puts there vmlinuz, Debian's own cloud kernel (unpacked,
# not installed), and initrd, which loads the modules that it takes to mount
# the erofs on /dev/vda, lays a tmpfs over it and hands over to its /sbin/init.
# Needs no root.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
vm=$(cd "$(dirname "$0")" && pwd)
dir=$1
# one that was made before it had virtio_mmio is made again
[ -f "$dir/vmlinuz" ] && [ -f "$dir/initrd" ] && [ -f "$dir/mmio" ] && exit
mkdir -p "$dir"
work=$(mktemp -d "$(realpath "$dir")/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The machine's package lists, or where it has none, lists of our own.
apt=(-q -q)
newest() {
	apt-cache "${apt[@]}" depends linux-image-cloud-amd64 2>/dev/null |
		awk '/Depends: linux-image-[0-9]/ { print $2; exit }'
}
kernel=$(newest)
if [ -z "$kernel" ]; then
	mkdir -p "$work"/apt/{lists,cache}/partial
	apt+=(-o "Dir::State::lists=$work/apt/lists"
		-o "Dir::Cache=$work/apt/cache")
	apt-get "${apt[@]}" update
	kernel=$(newest)
fi
(cd "$work" && apt-get "${apt[@]}" download "$kernel" 2>"$work/apt.log") ||
	{ cat "$work/apt.log" >&2; exit 1; }
dpkg-deb -x "$work"/linux-image-*.deb "$work/k"
version=$(basename "$work"/k/lib/modules/*)
depmod -b "$work/k" "$version"

initrd=$work/initrd
mkdir -p "$initrd"/{bin,modules,proc,sys,dev,lower,rw,root}
cp "$(command -v busybox)" "$initrd/bin/busybox"
"$vm/modules.sh" "$work/k" "$initrd/modules" virtio_pci virtio_mmio virtio_blk \
	erofs overlay

cat >"$initrd/init" <<'END'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for m in /modules/*; do $b insmod $m; done
until [ -b /dev/vda ]; do $b sleep 0.1; done
$b mount -t erofs -o ro /dev/vda /lower
$b mount -t tmpfs rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work \
	root /root
read up _ </proc/uptime
echo "INITRD $up root is mounted"
$b mount --move /dev /root/dev
$b umount /sys /proc
exec $b switch_root /root /sbin/init
END
chmod +x "$initrd/init"
(cd "$initrd" && find . | sort | cpio --quiet -o -H newc -R 0:0) | gzip -1 \
	>"$work/initrd.gz"
chmod 644 "$work/initrd.gz" "$work/k/boot/vmlinuz-$version"
mv "$work/k/boot/vmlinuz-$version" "$dir/vmlinuz"
mv "$work/initrd.gz" "$dir/initrd"
touch "$dir/mmio"
echo "guest kernel: $version"
