# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced behind lib.sh by the tests of devices that a driver of the kernel's
# presents: of $KIND, or of the first kind that is possible here.

block_driver() { # KIND: has the kernel one?
	case $1 in
	ublk) [ -c /dev/ublk-control ] ;;
	kernel-nbd) [ -d /sys/module/nbd ] ;;
	esac
}

if [ -n "${KIND-}" ]; then
	PRESENT=$KIND
elif block_driver ublk; then
	PRESENT='ublk'
else
	PRESENT='kernel-nbd'
fi

block_needed() {
	[ "$(id -u)" -eq 0 ] || skip "a block device needs root"
	block_driver "$PRESENT" || skip "$(uname -r) has no driver for $PRESENT"
}

block_devices() { # how many of ours
	if [ "$PRESENT" = ublk ]; then
		find /sys/class/ublk-char/ -mindepth 1 | wc -l
	else
		cat /sys/block/nbd*/backend 2>/dev/null |
			grep -c '^shedstream:' || true
	fi
}
no_devices() {
	[ "$(block_devices)" -eq 0 ]
}

# A load of direct reads at depth 32, of any of which it would end.
load_start() { # DEVICE
	start load fio --name=load --filename="$1" --readonly --rw=randread \
		--bs=4k-128k --ioengine=libaio --direct=1 --iodepth=32 \
		--time_based --runtime=3600 --minimal
	LOAD_PID=$STARTED_PID
}
load_end() { # by a signal, thus with a status; its fifth field is an errno
	kill -0 "$LOAD_PID" 2>/dev/null || fail "fio: $(<"$T/load.log")"
	kill -INT "$LOAD_PID"
	wait "$LOAD_PID" || true
	grep -q '^3;fio-[^;]*;load;0;0;' "$T/load.log" ||
		fail "fio: $(<"$T/load.log")"
}
