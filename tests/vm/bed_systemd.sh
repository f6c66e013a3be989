#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# bed_systemd.sh DIR: puts there root.erofs, the root of a guest of the test bed
# whose first process is systemd: Debian trixie, with what the tests need.  Our
# programs, built here, find libraries of the same names in it.  Made again when
# this script has changed.  Root only (debootstrap); small images come from
# bed_root.sh.
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
[ $# -eq 1 ] || { sed -n '4s/^# /usage: /p' "$0" >&2; exit 2; }
vm=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(realpath "$1")
key=$(cat "$0" "$vm/../../systemd/shedstream.sysusers" | sha256sum)
[ "$(cat "$dir/key" 2>/dev/null)" != "$key" ] || exit 0
[ "$(id -u)" -eq 0 ] || { echo "bed_systemd.sh: debootstrap needs root" >&2; exit 1; }
mirror=$("$vm/mirror.sh" debian)

work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
packages=systemd,systemd-sysv,udev,dbus,kmod,procps,iproute2,strace,jq,curl
packages+=,openssl,python3-minimal,python3-libnbd,docker-registry,libnbd-bin
packages+=,fio,nbd-client,e2fsprogs,erofs-utils,busybox-static,ca-certificates
packages+=,libevent-2.1-7t64,libcurl4t64,libjansson4,libseccomp2,libinih1
packages+=,libprotobuf-c1,libssl3t64,libxxhash0,liburing2
debootstrap --variant=minbase --include=$packages trixie "$tree" "$mirror" \
	>"$dir/debootstrap.log"
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* \
	"$tree"/etc/apt/sources.list "$tree"/etc/apt/sources.list.d/* \
	"$tree"/usr/share/{doc,man,locale} "$tree/etc/resolv.conf"
# none of its own: a first boot would enable every service there is
echo 5ed57ea0000040008000000000000003 >"$tree/etc/machine-id"
echo bed >"$tree/etc/hostname"
echo 127.0.0.1 localhost >"$tree/etc/hosts"
: >"$tree/etc/fstab"
install -m 644 "$vm/../../systemd/shedstream.sysusers" \
	"$tree/usr/lib/sysusers.d/shedstream.conf"
chroot "$tree" systemd-sysusers
for unit in docker-registry.service nbd-client.service tmp.mount \
	serial-getty@ttyS0.service getty@tty1.service apt-daily.timer \
	apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	fstrim.timer e2scrub_reap.service; do
	ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
cat >"$tree/etc/systemd/system/bed.service" <<'END'
[Unit]
Description=The tests
After=multi-user.target

[Service]
ExecStart=/usr/sbin/bed
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
END
mkdir -p "$tree/etc/systemd/system/graphical.target.wants"
ln -sf /usr/lib/systemd/system/graphical.target \
	"$tree/etc/systemd/system/default.target"
ln -s ../bed.service "$tree/etc/systemd/system/graphical.target.wants/"
mkfs.erofs "$work/erofs" "$tree" >/dev/null
chmod 644 "$work/erofs"
mv "$work/erofs" "$dir/root.erofs"
echo "$key" >"$dir/key"
echo "the bed's root with systemd: $(stat -c %s "$dir/root.erofs") bytes"
