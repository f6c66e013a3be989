#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What runs in a guest of the test bed (bed.sh), as its first process or started
# by systemd: prepares what a machine has, runs the tests of /shedstream/list,
# each under its own time limit, and says on the console and on the second serial
# port, where the kernel's words can't come in between, what became of them.
# Then the power goes off.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8 BUILD=build
cd /shedstream || exit
if [ $$ -eq 1 ]; then
	mount -t tmpfs -o mode=755 run /run
	mkdir -p /dev/pts /dev/shm
	mount -t devpts devpts /dev/pts
	mount -t tmpfs shm /dev/shm
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount -t securityfs security /sys/kernel/security
	mount -t fusectl fusectl /sys/fs/fuse/connections 2>/dev/null
	ln -sf /proc/self/fd /dev/fd
	echo bed >/proc/sys/kernel/hostname
	ip link set lo up
fi
mkdir /mnt/tmp
chmod 1777 /mnt/tmp
mount --bind /mnt/tmp /tmp	# ext4 on the scratch disk, as the store is
for module in loop fuse nbd ublk_drv; do
	modprobe -q $module || echo "no module $module"
done
# shellcheck source=/dev/null
. ./environment
tests=tests/vm/bed
[ $$ -eq 1 ] || tests=tests/vm/bed-systemd

now_ms() {
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

say() {
	echo "$*"
	echo "$*" >/dev/ttyS1
}

# How often the kernel has found a mistake of its own.  A slow emulator is none.
complaints() {
	dmesg | grep -E -e '\[ cut here \]|BUG: |refcount_t: |general protection' |
		grep -c -v -e 'soft lockup' -e 'workqueue lockup'
}

# The processes that a test started in sessions of their own and left behind.
leftovers() {
	local pid left=''
	while read -r pid; do
		pgrep -r D,R,S,T,I -s "$pid" >/dev/null || continue
		left+=$(ps -o comm= -s "$pid" | tr '\n' ' ')
		kill -KILL -- "-$pid"
	done </run/pids
	echo "$left"
}

# run NAME LIMIT: sets status; what can't be killed is left where it is
run() {
	local pid
	: >/run/pids
	SHEDSTREAM_TEST_PIDS=/run/pids timeout -k 15 "$2" \
		bash "$tests/$1.sh" >/run/out 2>&1 </dev/null &
	pid=$!
	status=125
	timeout $(($2 + 25)) tail -s 0.05 --pid=$pid -f /dev/null || return
	wait $pid
	status=$?
}

judge() { # NAME LIMIT
	local start before left reason status took
	say "RUN $1"
	before=$(complaints)
	start=$(now_ms)
	run "$1" "$2"
	left=$(leftovers)
	took=$(($(now_ms) - start))
	took=$((took / 1000)).$((took % 1000 / 100))
	reason=$(sed -n 's/^FAIL: //p' /run/out | head -n 1)
	case $status in
	0 | 77) reason='' ;;
	124 | 137) reason="no end in $2 s" ;;
	125) reason="no end in $2 s, and it can't be killed" ;;
	*) reason=${reason:-status $status} ;;
	esac
	[ -z "$left" ] || reason="${reason:+$reason; }left over: $left"
	[ "$(complaints)" -eq "$before" ] ||
		reason="${reason:+$reason; }the kernel complains: $(dmesg |
			grep -E 'WARNING: |BUG: |refcount_t: ' | tail -n 1)"
	if [ -n "$reason" ]; then
		say "FAIL $1 $took: $reason"
		tail -n 60 /run/out | tee /dev/console |
			sed 's/^/| /' >/dev/ttyS1
	elif [ "$status" -eq 77 ]; then
		say "SKIP $1 $took: $(sed -n 's/^SKIP: //p' /run/out | tail -n 1)"
	else
		say "PASS $1 $took: $(sed -n 's/^NOTE: //p' /run/out | paste -sd ';')"
	fi
}

while read -r name; do
	limit=$(sed -n 's/^# LIMIT: \([0-9]*\)$/\1/p' "$tests/$name.sh")
	# make soak has time, and gives these tests more to do
	judge "$name" "${TEST_TIMEOUT:-${limit:-150}}"
done <list
read -r up _ </proc/uptime
say "BED-END after $up s"
echo o >/proc/sysrq-trigger
until false; do :; done
