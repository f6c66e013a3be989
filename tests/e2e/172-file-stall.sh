#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a registry hangs, reads of a file wait, whoever waits can be
# killed, its other bytes and its status are there at once, a detach answers,
# and --remove-devices frees even a reader of a service that is dead; when the
# registry returns, the reads that waited have the right bytes.
. "$(dirname "$0")/lib.sh"
PRESENT='file'
READERS=48

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
image_of "$T/image.erofs" 7:8192
registry_start
image_push "$T/image.erofs" test/base:v1
link_start "$REGISTRY" 1 1000
IMAGE=$LINK/${IMAGE#*/}
printf '[network]\nhedge = 0%%\n[prefetch]\ncomplete = never\n' >"$T/conf"
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)

# reader HOW UNIT: one read there, compared; prints `asked` before.  Its pid is
# in $!
reader() {
	exec /usr/bin/python3 -c '
import mmap, os, sys
how, device, path, unit = sys.argv[1:]
at = int(unit) * 65536
want = open(path, "rb").read()[at:at + 4096]
fd = os.open(device, os.O_RDONLY | (os.O_DIRECT if how == "direct" else 0))
if how != "mapped":
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
buf = mmap.mmap(-1, 4096)
m = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if how == "mapped" else None
print("asked", flush=True)
if m:
    got = m[at:at + 4096]
else:
    os.preadv(fd, [buf], at)
    got = buf[:]
sys.exit(got != want)' "$1" "$file" "$T/image.erofs" "$2"
}

ends_in() { # SECONDS PID
	timeout "$1" tail -s 0.05 --pid="$2" -f /dev/null
}

# begin HOW UNIT NAME: a reader that waits; its pid is in $BEGUN
begin() {
	: >"$T/$3"
	reader "$1" "$2" >"$T/$3" &
	BEGUN=$!
	wait_line $BEGUN "$T/$3" asked || fail "reader $3 did not begin"
}

reader buffered 1 >"$T/r" & wait $! || fail "a read before"
waits() { # NUMBER: reads that wait for cached
	[ "$(status_of one .stalled_reads)" -ge "$1" ]
}

## the registry hangs: connected, and silent

link_say rate 0 >/dev/null || fail "the link does not stop"
pids=()
unit=16
for how in buffered direct mapped; do
	begin $how $unit $how
	pids+=("$BEGUN")
	unit=$((unit + 8))
done
wait_until 30 waits 1 || fail "no read waits: $(ctl status one --json)"
for i in 0 1 2; do
	kill -0 "${pids[i]}" || fail "a reader did not wait"
	kill -KILL "${pids[i]}"
	ends_in 10 "${pids[i]}" || fail "reader $i can't be killed:" \
		"$(ps -o pid=,stat=,wchan:30= -p "${pids[i]}")"
	wait "${pids[i]}" || true
done

# the bytes that are here, past all that wait
waiting=()
for ((i = 0; i < READERS; i++)); do
	how=(buffered direct mapped)
	begin "${how[i % 3]}" $((50 + i)) "r$i"
	waiting+=("$BEGUN")
done
/usr/bin/python3 -c 'import os, sys
os.posix_fadvise(os.open(sys.argv[1], 0), 0, 0, os.POSIX_FADV_DONTNEED)' "$file"
reader direct 1 >"$T/r" &
ends_in 10 $! || fail "what is here waits behind what is not"
wait $! || fail "what is here is wrong"

# a worker that dies has them all in its journal
old=$(suite_pid devd-io)
kill -KILL "$old"
wait_line "$SUITE_PID" "$T/devd.log" 'requests of a former worker taken over' ||
	fail "the new worker took nothing over"

# a detach answers, and leaves the device to who reads it
ctl detach one --json | jq -e '.torn_down == false' >/dev/null ||
	fail "torn down under its readers"
status_is one .state draining || fail "it is not draining: $(ctl ls)"
for pid in "${waiting[@]}"; do
	kill -0 "$pid" || fail "a reader did not wait"
done

## the registry returns

link_say rate 1000 >/dev/null
for pid in "${waiting[@]}"; do
	wait "$pid" || fail "a read over the stall failed, or is wrong"
done
wait_until 30 gone one || fail "the device is left: $(ctl ls --json)"

## a service that dies while a read waits

suite_stop
rm -rf "$STORE"
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)
link_say rate 0 >/dev/null
begin buffered 20 last
last=$BEGUN
wait_until 30 waits 1 || fail "no read waits"
suite_kill
ends_in 10 $last || fail "unkillable, or waits for ever: $last"
wait $last && fail "a read of a dead service succeeded"
"$BIN/devd" --remove-devices --run "$T/run" || fail "--remove-devices"
! grep -q " shedstream:$T/run " /proc/self/mountinfo || fail "a mount is left"
left=$(pgrep -a -f -- "$file" || true)
[ -z "$left" ] || fail "processes are left: $left"
