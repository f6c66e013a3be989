#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# bed.sh [OPTION]... BUILD DIR [TEST]...
# The test bed: boots one guest with a stock kernel and the programs of BUILD in
# it, where root runs those tests of tests/vm/bed that have a TEST in their
# names, or all, one after the other.  Prints what became of each:
#   PASS NAME SECONDS: its notes
#   SKIP NAME SECONDS: reason
#   FAIL NAME SECONDS: reason, and below it its output's end behind `| `
# DIR keeps console.log and results.  Exits 0 if none failed and the guest came
# to its end.  A guest that ends before user space is booted once more: under
# this emulator kernels sometimes panic early.  Needs no root.
#   -k SUITE       the newest kernel of that Debian suite; else trixie
#   -s             with trixie's systemd; the tests are those of vm/bed-systemd.
#                  Its root is made by debootstrap, once, and only by root
#   -e NAME=VALUE  in the tests' environment; may be repeated
#   -t SECONDS     for all of it; else 900
set -euo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
vm=$(cd "$(dirname "$0")" && pwd)
root=$(realpath "$vm/../..")
cache=$root/build/test
suite=trixie seconds=900
tests=$vm/bed base=$cache/bed first=/usr/sbin/bed systemd=
environment=()
while getopts k:e:st: opt; do
	case $opt in
	k) suite=$OPTARG ;;
	e) environment+=("$OPTARG") ;;
	s) systemd=1 first=/usr/sbin/init
		tests=$vm/bed-systemd base=$cache/bed-systemd ;;
	t) seconds=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '4s/^# /usage: /p' "$0" >&2; exit 2; }
build=$(realpath "$1") dir=$(realpath "$2")
shift 2
kernel=$cache/kernel-$suite
"$vm/kernel.sh" "$suite" "$kernel" >&2
"$vm/bed_root.sh" "$cache/bed" >&2
IMAGE_MIB=1 "$vm/small.sh" "$cache/micro-guest" >&2
[ -z "$systemd" ] || "$vm/bed_systemd.sh" "$base" >&2
work=$(mktemp -d "$dir/bed.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# ---- initrd: as little as mounts the rest ----

initrd=$work/initrd.d
mkdir -p "$initrd"/{bin,proc,sys,dev,base,bed,scratch,root}
cp "$(command -v busybox)" "$initrd/bin/busybox"
"$vm/modules.sh" "$kernel" "$initrd/modules" virtio_pci virtio_blk erofs \
	overlay ext4
cat >"$initrd/init" <<'END'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
echo "BED user space"
for m in /modules/*; do $b insmod $m; done
until [ -b /dev/vdc ]; do $b sleep 0.1; done
$b mount -t erofs -o ro /dev/vda /base
$b mount -t erofs -o ro /dev/vdb /bed
$b mount -t ext4 -o noatime /dev/vdc /scratch
$b mkdir -p /scratch/upper /scratch/work
$b mount -t overlay -o lowerdir=/bed:/base,upperdir=/scratch/upper,workdir=/scratch/work root /root
for d in dev proc sys; do $b mount --move /$d /root/$d; done
$b mount --move /scratch /root/mnt
read -r next </next
exec $b switch_root /root $next
END
echo "$first" >"$initrd/next"
chmod +x "$initrd/init"
(cd "$initrd" && find . | sort | cpio --quiet -o -H newc -R 0:0) \
	>"$work/initrd"
rm -r "$initrd"
ln -s "$kernel/vmlinuz" "$work/vmlinuz"

# ---- vdb: our build and tests, what they need, the kernel's modules ----

tree=$work/tree
bed=$tree/shedstream
mkdir -p "$tree"/usr/{sbin,lib/modules} "$tree/etc" "$bed"/build/{test,tests}
cp -R --reflink=auto "$build/bin" "$bed/build/"
cp -R "$build/tests/tools" "$bed/build/tests/"
mkdir "$bed/tests"
cp -R "$root"/tests/{e2e,tools,vm} "$bed/tests/"
cp -R "$root"/{ipc,examples,systemd} "$bed/"
cp --reflink=auto "$cache"/bed/small*.erofs "$bed/build/test/"
cp -R --reflink=auto "$cache/micro-guest" "$bed/build/test/"
# without the links to where the kernel was built
cp -R --reflink=auto "$kernel"/lib/modules/* "$tree/usr/lib/modules/"
find "$tree/usr/lib/modules" -type l -delete
install -m 755 "$vm/bed_init.sh" "$tree/usr/sbin/bed"

libraries() {
	find "$bed/build" -type f -perm -1 -exec ldd {} + 2>/dev/null | awk '
		$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
		sed -E 's,^/lib,/usr/lib,; s,^/,,' | tar -C / -chf - \
		--files-from=- | tar -C "$tree" -xf - --no-same-owner
}

etc() {
	printf '%s\n' root:x:0:0::/root:/bin/bash \
		nobody:x:65534:65534::/:/usr/sbin/nologin >"$1/passwd"
	awk '$1 == "u" { n++; printf "%s:x:%d:%d::/:/usr/sbin/nologin\n",
		$2, 900 + n, 900 + n }' "$root/systemd/shedstream.sysusers" \
		>>"$1/passwd"
	awk -F : '{ printf "%s:x:%d:\n", $1 == "nobody" ? "nogroup" : $1, $4 }' \
		"$1/passwd" >"$1/group"
	printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' \
		>"$1/nsswitch.conf"
	echo 127.0.0.1 localhost >"$1/hosts"
	: >"$1/fstab"
}

# trixie has all of that itself, and libraries of the same names
if [ -z "$systemd" ]; then
	libraries
	etc "$tree/etc"
fi

# the tests, and their environment
for test in "$tests"/[0-9][0-9][0-9]-*.sh; do
	name=$(basename "$test" .sh)
	chosen=$((! $#))
	for pattern in "$@"; do
		[[ $name != *"$pattern"* ]] || chosen=1
	done
	[ $chosen -eq 0 ] || echo "$name"
done >"$bed/list"
[ -s "$bed/list" ] || { echo "bed.sh: no test has $* in its name" >&2; exit 2; }
for word in "${environment[@]}"; do
	printf 'export %s=%q\n' "${word%%=*}" "${word#*=}"
done >"$bed/environment"
mkfs.erofs --all-root "$work/bed.erofs" "$tree" >/dev/null
rm -r "$tree"
truncate -s 4G "$work/scratch"
mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard \
	"$work/scratch"

# ---- its life ----

boot() {
	: >"$dir/results"
	"$vm/boot.sh" -g "$work" -t "$seconds" -w 'BED-END [^\n]*\n' \
		-s "$dir/results" -d "$work/bed.erofs" -d "$work/scratch" \
		-a "quiet loglevel=5 oops=panic" \
		"$base/root.erofs" "$dir/console.log"
}
# What hung instead of ending has used up the time for another.
SECONDS=0 booted=0
boot && booted=1
if [ $booted -eq 0 ] && [ $SECONDS -lt 60 ] &&
	! grep -q -a 'BED user space' "$dir/console.log"; then
	mv "$dir/console.log" "$dir/console-first.log"
	echo "NOTE: the guest ended before user space, and was booted once more"
	boot && booted=1
fi
sed -i 's/\r$//' "$dir/results"
grep -a -E '^(PASS|SKIP|FAIL|\|) ' "$dir/results" || true
if [ $booted -eq 0 ]; then
	running=$(sed -n 's/^RUN //p' "$dir/results" | tail -n 1)
	panic=$(grep -a -o -m 1 'Kernel panic - .*' "$dir/console.log" |
		tr -d '\r' || true)
	echo "FAIL ${running:-boot}: the guest did not come to its end:" \
		"${panic:-not in $seconds s}"
	exit 1
fi
! grep -q -a '^FAIL ' "$dir/results"
