#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: CYCLES times attached as a file, read and detached, and nothing grows:
# no mount, descriptor, connection of FUSE or process is left, nor memory of any
# of the daemons.
. "$(dirname "$0")/lib.sh"
CYCLES=$((${KILLS:-10} * 10))	# 100, and 2,000 in soak
WARM=20		# cycles, in which allocators and tables find their size
GROWS=512	# KiB that a daemon may differ by then
PRESENT='file'

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
image_of "$T/image.erofs" 7:2048
registry_start
image_push "$T/image.erofs" test/base:v1
suite_start

connections() { # of others on this machine as well
	find /sys/fs/fuse/connections -mindepth 1 -maxdepth 1 2>/dev/null | wc -l
}
daemons=(cached fetcherd devd)
fds() { # of the parent and each daemon
	local name out
	out=$(fd_count "$SUITE_PID")
	for name in "${daemons[@]}"; do
		out+=" $(fd_count "$(suite_pid "$name")")"
	done
	echo "$out"
}
fds_are() { # AS BEFORE
	[ "$(fds)" = "$1" ]
}
memory() {
	local name
	rss_kb "$SUITE_PID"
	for name in "${daemons[@]}"; do
		rss_kb "$(suite_pid "$name")"
	done
}
cycles() { # NUMBER
	local file
	for ((i = 0; i < $1; i++)); do
		file=$(ctl attach "$IMAGE" --name one --integrity complete)
		cmp -n 65536 "$file" "$T/image.erofs" ||
			fail "wrong bytes in cycle $i"
		ctl detach one >/dev/null
		# the last opener's end comes later than its close
		wait_until 10 gone one || fail "it is left in cycle $i"
	done
}

cycles $WARM
wait_until 10 device_count 0 || fail "a device is left"
conns=$(connections)
before=$(fds)
mapfile -t kb < <(memory)
cycles "$CYCLES"
! grep -q " shedstream:$T/run " /proc/self/mountinfo || fail "a mount is left"
assert_le $(($(connections) - conns)) $((CYCLES / 5)) "connections more"
[ -z "$(ls "$T/run/file")" ] || fail "left: $(ls "$T/run/file")"
[ -z "$(suite_pid devd-io)" ] || fail "a worker is left"
wait_until 10 fds_are "$before" ||
	fail "descriptors: were $before, are $(fds)"
mapfile -t now < <(memory)
for i in "${!kb[@]}"; do
	assert_le $((now[i] - kb[i])) $GROWS \
		"KiB more than before in $(echo devd "${daemons[@]}" |
		cut -d ' ' -f $((i + 1)))"
done
echo "NOTE: $CYCLES cycles; KiB before ${kb[*]}, after ${now[*]}"
suite_stop
