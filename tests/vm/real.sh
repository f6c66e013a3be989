#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes a real guest, once, in build/test/real-guest (or the directory given):
# vmlinuz, initrd and root.erofs, a plain erofs of more than 400 MB with
# systemd, ssh, git, python, node and a compiler, from Debian's packages and
# the machine's own source of them.  Booted with `shed.check` it prints `BENCH`
# lines with its uptime, `GUEST-OK` last, and powers off; without, it ends at a
# login prompt.  Root only (debootstrap).
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
vm=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$vm/../../build/test/real-guest}
[ -f "$dir/root.erofs" ] && [ -f "$dir/initrd" ] && exit
[ "$(id -u)" -eq 0 ] || { echo "real.sh: debootstrap needs root" >&2; exit 1; }
mkdir -p "$dir"
"$vm/initramfs.sh" "$dir"

# Where this machine gets Debian from: deb822 or classic sources.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \
	-name '*.*s*' -exec cat {} + 2>/dev/null | awk -v suite="$suite" '
	/^URIs:/ { uri = $2 }
	/^Suites:/ && $2 == suite && !done { print uri; done = 1 }
	$1 == "deb" { sub(/\[[^]]*\] */, "")
		if ($3 == suite && !done) { print $2; done = 1 } }' || true)
[ -n "$mirror" ] || { echo "real.sh: no apt source of $suite" >&2; exit 1; }

work=$(mktemp -d "$(realpath "$dir")/tree.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
packages=systemd,systemd-sysv,udev,dbus,openssh-server,git,python3
packages+=,build-essential,nodejs,curl,ca-certificates,kmod,procps
debootstrap --variant=minbase --include=$packages "$suite" "$tree" \
	"$mirror" >"$dir/debootstrap.log"
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* \
	"$tree"/etc/apt/sources.list "$tree"/etc/apt/sources.list.d/* \
	"$tree"/var/log/*.log "$tree"/etc/machine-id
echo uninitialized >"$tree/etc/machine-id"
echo real-guest >"$tree/etc/hostname"
: >"$tree/etc/fstab"

cat >"$tree/usr/local/sbin/bench" <<'END'
#!/bin/bash
# opened for each line: getty hangs up whoever holds the console open
say() { echo "$*" >/dev/console; }
at() { read -r up _ </proc/uptime; say "BENCH $up $*"; }
at userland
at "$(git --version)"
at "$(python3 -c 'import json, ssl, asyncio, sys; print("python", sys.version.split()[0])')"
at "node $(node -e 'console.log(process.version)')"
echo 'int main(void) { return 0; }' >/tmp/a.c && gcc -o /tmp/a /tmp/a.c &&
	/tmp/a && at compiled
at agent
say "GUEST-OK $(sha256sum </usr/bin/git | cut -d ' ' -f 1)"
echo o >/proc/sysrq-trigger
END
chmod 755 "$tree/usr/local/sbin/bench"
cat >"$tree/etc/systemd/system/bench.service" <<'END'
[Unit]
Description=Cold boot benchmark
ConditionKernelCommandLine=shed.check
After=getty.target ssh.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/bench

[Install]
WantedBy=multi-user.target
END
mkdir -p "$tree/etc/systemd/system/multi-user.target.wants"
ln -s ../bench.service "$tree/etc/systemd/system/multi-user.target.wants/"
ln -sf /lib/systemd/system/multi-user.target \
	"$tree/etc/systemd/system/default.target"
sha256sum <"$tree/usr/bin/git" | cut -d ' ' -f 1 >"$dir/expect"
mkfs.erofs -T 0 "$work/erofs" "$tree" >/dev/null
chmod 644 "$work/erofs"
mv "$work/erofs" "$dir/root.erofs"
echo "real guest: $dir, $(stat -c %s "$dir/root.erofs") bytes"
