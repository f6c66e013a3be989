#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# boot.sh [OPTION]... DISK CONSOLE-LOG
# Boots a guest under software emulation, its root disk being DISK: a file, a
# block device, or an NBD URI of a unix socket or of a TCP port; `-`: none.
# Waits for a line on the console that matches REGEX: by default `GUEST-OK`,
# after which the guest powers off by itself, or with -l the login prompt, at
# which it is ended.  Exits 0 if it came, 1 if not in time (300 s) or if the
# guest ended before.
#   -g DIR      the guest's vmlinuz and initrd; else build/test/small-guest
#   -a WORDS    on its command line, instead of shed.check
#   -d FILE     one more disk, which it may write; may be repeated
#   -s FILE     what it writes to ttyS1
#   -M MIB      of memory, instead of 1024
#   -m          a microvm: virtio-mmio and no PCI, as Firecracker has it
#   -l, -w REGEX, -t SECONDS
set -euo pipefail
export LC_ALL=C.UTF-8
vm=$(cd "$(dirname "$0")" && pwd)
guest=$vm/../../build/test/small-guest
words='GUEST-OK [0-9a-f]{64}' seconds=300 append=shed.check login=
disks=() second=() machine=() bus=pci cpu=(-cpu "Nehalem,-cx16" -smp 2) more=
memory=1024
while getopts a:d:lmM:g:s:w:t: opt; do
	case $opt in
	a) append=$OPTARG ;;
	d) disks+=("$OPTARG") ;;
	m)
		# no timer that the kernel could calibrate one by
		machine=(-machine "microvm,acpi=on,rtc=on")
		cpu=(-cpu max -smp 1) more='tsc_early_khz=2000000 lpj=8000000'
		bus=device
		;;
	M) memory=$OPTARG ;;
	l) login=1 append='' words='login: ' ;;
	g) guest=$OPTARG ;;
	s) second=(-serial "file:$OPTARG") ;;
	w) words=$OPTARG ;;
	t) seconds=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -eq 2 ] || { sed -n '4s/^# /usage: /p' "$0" >&2; exit 2; }
disk=$1 log=$2 devices=()

# nbd+unix:///EXPORT?socket=PATH or nbd://HOST:PORT/EXPORT
drive() {
	local server export='' kind=file
	case $1 in
	nbd+unix://*)
		export=${1#nbd+unix:///}
		export=${export%%\?*}
		server=$(jq -n --arg p "${1#*socket=}" '{type: "unix", path: $p}')
		;;
	nbd://*)
		server=${1#nbd://}
		[ "$server" = "${server#*/}" ] || export=${server#*/}
		server=${server%%/*}
		server=$(jq -n --arg h "${server%:*}" --arg p "${server##*:}" \
			'{type: "inet", host: $h, port: $p}')
		;;
	*)
		[ ! -b "$1" ] || kind=host_device
		jq -nc --arg f "$1" --arg k "$kind" '{"node-name": "root",
			"read-only": true, driver: "raw",
			file: {driver: $k, filename: $f}}'
		return ;;
	esac
	jq -nc --argjson s "$server" --arg e "$export" '{"node-name": "root",
		"read-only": true, driver: "nbd", server: $s, export: $e,
		"reconnect-delay": 60}'
}
[ "$disk" = - ] ||
	devices+=(-blockdev "$(drive "$disk")" -device "virtio-blk-$bus,drive=root")
for i in "${!disks[@]}"; do
	devices+=(-blockdev "$(jq -nc --arg n "disk$i" --arg f "${disks[i]}" '
		{"node-name": $n, driver: "raw", cache: {"no-flush": true},
		file: {driver: "file", filename: $f}}')"
		-device "virtio-blk-$bus,drive=disk$i")
done

: >"$log"
qemu-system-x86_64 "${machine[@]}" -accel tcg,thread=multi "${cpu[@]}" \
	-m "$memory" -display none -monitor none -serial stdio \
	"${second[@]}" -no-reboot -nic none -kernel "$guest/vmlinuz" -initrd "$guest/initrd" \
	-append "console=ttyS0 panic=-1 $more $append" "${devices[@]}" \
	</dev/null >>"$log" 2>"$log.qemu" &
qemu=$!
trap 'kill $qemu 2>/dev/null || true; wait $qemu 2>/dev/null || true' EXIT
trap 'exit 1' HUP INT TERM
# a prompt is a line without an end: match bytes, not lines
/usr/bin/python3 -c '
import os, re, sys
seen = b""
while piece := os.read(0, 65536):
    seen = seen[-4096:] + piece
    if re.search(sys.argv[1].encode(), seen):
        sys.exit(0)
sys.exit("boot.sh: no /%s/ on the console" % sys.argv[1])' "$words" < <(
	timeout "$seconds" tail -s 0.1 -c +1 --pid=$qemu -f "$log") || {
	cat "$log.qemu" >&2
	exit 1
}
# a guest that was told to check powers off; give it the time
[ -n "$login" ] || timeout 30 tail -s 0.1 --pid=$qemu -f /dev/null || true
