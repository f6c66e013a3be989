#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the small guest, once, in build/test/small-guest (or the directory
# given): vmlinuz, initrd, root.erofs (busybox and about 48 MB of this
# machine's files) and expect.  Booted with `shed.check` on its command line it
# reads every file, says `GUEST-OK` and the line of expect, and powers off;
# without, it ends at a login prompt.  With `shed.beat` it meanwhile reads a
# piece of its second disk once a second, and says `BEAT N`.  Needs no root.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
vm=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$vm/../../build/test/small-guest}
mkdir -p "$dir"
"$vm/initramfs.sh" "$dir"
made_by=$(sha256sum <"$0")
[ -f "$dir/root.erofs" ] && [ "$(cat "$dir/made-by" 2>/dev/null)" = "$made_by" ] &&
	exit

work=$(mktemp -d "$(realpath "$dir")/tree.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
"$vm/../tools/image.sh" --tree "$tree"
mkdir -p "$tree"/{bin,sbin,etc,dev,proc,sys,tmp,root}
busybox=$(command -v busybox)
cp --remove-destination "$busybox" "$tree/bin/busybox"
for applet in $("$busybox" --list); do
	[ -e "$tree/bin/$applet" ] || ln -s busybox "$tree/bin/$applet"
done
ln -s ../bin/busybox "$tree/sbin/init"

echo 'root::0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
cat >"$tree/etc/inittab" <<'END'
::sysinit:/etc/rc
ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100
END
cat >"$tree/etc/rc" <<'END'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
hostname small-guest
beat() {
	n=0
	while n=$((n + 1)); do
		dd if=/dev/vdb of=/tmp/beat bs=4096 count=1 skip=$((n * 1024)) 2>/dev/null &&
			echo "BEAT $n"
		sleep 1
	done
}
! grep -q shed.beat /proc/cmdline || beat &
grep -q shed.check /proc/cmdline || exit 0
cd /usr
find . -type f | sort | xargs md5sum >/tmp/sums
if cmp /tmp/sums /etc/sums; then
	echo "GUEST-OK $(sha256sum </tmp/sums | cut -d ' ' -f 1)"
else
	echo "GUEST-BAD"
fi
read up rest </proc/uptime
echo "BENCH $up end"
sync
echo o >/proc/sysrq-trigger
sleep 60
END
chmod +x "$tree/etc/rc"
(cd "$tree/usr" && find . -type f | sort | xargs "$busybox" md5sum) \
	>"$tree/etc/sums"
sha256sum <"$tree/etc/sums" | cut -d ' ' -f 1 >"$dir/expect"
mkfs.erofs -T 0 --all-root "$work/erofs" "$tree" >/dev/null
chmod 644 "$work/erofs"
mv "$work/erofs" "$dir/root.erofs"
echo "$made_by" >"$dir/made-by"
echo "small guest: $dir, $(stat -c %s "$dir/root.erofs") bytes"
