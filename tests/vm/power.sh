#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# power.sh [OPTION]... BUILD DIR
# Boots a guest with trixie's kernel in which a store lives on ext4 on
# dm-log-writes, the log is cut at many places, and cached starts on what a
# power cut there may have left (tests/store/guest_power.c).  DIR keeps
# console.log and log.img, the log.  Exits 0 if every cut was judged right.
# Needs no root.
#   -s SEED     of the life; else by chance
#   -n STEPS    how long it is
#   -c CUTS
#   -a AT,SEED  only that cut, of the log that is in DIR
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
vm=$(cd "$(dirname "$0")" && pwd)
kernel=$vm/../../build/test/kernel-trixie
seed=$RANDOM$RANDOM steps=100 cuts=60 again=
while getopts s:n:c:a: opt; do
	case $opt in
	s) seed=$OPTARG ;;
	n) steps=$OPTARG ;;
	c) cuts=$OPTARG ;;
	a) again=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -eq 2 ] || { sed -n '4s/^# /usage: /p' "$0" >&2; exit 2; }
build=$1 dir=$2
"$vm/kernel.sh" trixie "$kernel"
work=$(mktemp -d "$(realpath "$dir")/guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# ---- its initrd ----

initrd=$work/initrd.d
mkdir -p "$initrd"/{bin,build/bin,etc,modules,proc,sys,dev,tmp,mnt}
cp "$(command -v busybox)" "$initrd/bin/busybox"
ln -s busybox "$initrd/bin/sh"
cp "$build/bin/cached" "$initrd/build/bin/"
cp "$build/tests/store/guest_power" "$initrd/bin/"
for tool in dmsetup mke2fs e2fsck; do
	cp -L "$(command -v $tool)" "$initrd/bin/"
done
ldd "$initrd"/bin/{guest_power,dmsetup,mke2fs,e2fsck} \
	"$initrd/build/bin/cached" | awk '
	$2 == "=>" && $3 ~ /^\// { print $3 }
	$1 ~ /^\/.*ld-linux/ { print $1 }' | sort -u |
	xargs cp -L --parents -t "$initrd"
printf '%s\n' root:x:0:0::/:/bin/sh _shedcache:x:990:990::/:/bin/false \
	>"$initrd/etc/passwd"
printf '%s\n' root:x:0: _shedcache:x:990: >"$initrd/etc/group"

"$vm/modules.sh" "$kernel" "$initrd/modules" virtio_pci virtio_blk ext4 \
	dm-log-writes

cat >"$initrd/init" <<'END'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
export PATH=/bin BUILD=/build TMPDIR=/tmp DM_DISABLE_UDEV=1
for m in /modules/*; do $b insmod $m; done
until [ -b /dev/vdd ]; do $b sleep 0.1; done
for word in $($b cat /proc/cmdline); do
	case $word in
	power.*) eval "${word#power.}" ;;
	esac
done

walk() {
	dmsetup create log --table \
		"0 $($b blockdev --getsz /dev/vda) log-writes /dev/vda /dev/vdb" &&
	/bin/mke2fs -q -t ext4 -b 4096 -m 0 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 \
		/dev/mapper/log &&
	$b mount -t ext4 -o noatime /dev/mapper/log /mnt &&
	$b mkdir -m 700 /mnt/store &&
	guest_power walk $seed $steps /mnt/store log &&
	$b umount /mnt &&
	dmsetup remove log
}

read up rest </proc/uptime
echo "up after $up s"
if [ -n "$again" ]; then
	guest_power again ${again%,*} ${again#*,} /dev/vdb /dev/vda
else
	walk && read up rest </proc/uptime && echo "walked after $up s" &&
	guest_power judge $seed $cuts /dev/vdb /dev/vda /dev/vdc /dev/vdd
fi && result=OK || result=BAD
read up rest </proc/uptime
echo "POWER-$result after $up s"
echo o >/proc/sysrq-trigger
$b sleep 60
END
chmod +x "$initrd/init"
(cd "$initrd" && find . | sort | cpio --quiet -o -H newc -R 0:0) \
	>"$work/initrd"
rm -r "$initrd"
ln -s "$(realpath "$kernel")/vmlinuz" "$work/vmlinuz"

# ---- its life ----

[ -n "$again" ] || { rm -f "$dir/log.img"; truncate -s 1G "$dir/log.img"; }
disks=()
for disk in vda vdb vdc vdd; do
	file=$work/$disk
	if [ $disk = vdb ]; then file=$dir/log.img; else truncate -s 32M "$file"; fi
	disks+=(-d "$file")
done
echo "seed $seed, $steps steps, $cuts cuts"
"$vm/boot.sh" -g "$work" -t 420 -w 'POWER-(OK|BAD) [^\n]*\n' "${disks[@]}" -a \
	"quiet oops=panic power.seed=$seed power.steps=$steps power.cuts=$cuts power.again=$again" \
	- "$dir/console.log"
grep -q '^POWER-OK' "$dir/console.log"
