#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a registry hangs, reads of a block device wait, also over the
# death of its worker, and then are right; other bytes are there at once, and a
# detach answers.  --remove-devices frees who waits for a service that is dead:
# nobody is left that can't be killed.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/block.sh"
# of the kernel's NBD more than any other client has in flight; ublk's queue is
# of 64
READERS=60
[ "$PRESENT" = ublk ] || READERS=100

block_needed
image_of "$T/image.erofs" 7:8192
registry_start
image_push "$T/image.erofs" test/base:v1
link_start "$REGISTRY" 1 1000
IMAGE=$LINK/${IMAGE#*/}
printf '[network]\nhedge = 0%%\n[prefetch]\ncomplete = never\n' >"$T/conf"
suite_start
device=$(ctl attach "$IMAGE" --name one --integrity complete)

# readers FIRST COUNT NAME: threads that each read 4 KiB of a unit of its own
# directly, compared; the last line says how many failed
readers() {
	: >"$T/$3.log"
	start "$3" /usr/bin/python3 -c '
import mmap, os, sys, threading
device, path, first, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
want = open(path, "rb").read()
print("begun", flush=True)
fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
wrong = []
def read(unit):
    at, buf = unit * 65536, mmap.mmap(-1, 4096)
    try:
        os.preadv(fd, [buf], at)
        if buf[:] != want[at:at + 4096]:
            wrong.append(unit)
    except OSError as e:
        wrong.append(unit)
threads = [threading.Thread(target=read, args=(first + i,))
           for i in range(count)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("wrong", len(wrong), flush=True)
sys.exit(bool(wrong))' "$device" "$T/image.erofs" "$1" "$2"
	wait_line "$STARTED_PID" "$T/$3.log" begun || fail "readers $3"
}
ends_in() { # SECONDS PID
	timeout "$1" tail -s 0.05 --pid="$2" -f /dev/null
}
waits() { # NUMBER: reads that wait for cached
	[ "$(status_of one .stalled_reads)" -ge "$1" ]
}

readers 1 1 before
wait "$STARTED_PID" || fail "a read before"

## the registry hangs: connected, and silent

link_say rate 0 >/dev/null || fail "the link does not stop"
readers 16 $READERS waiting
waiting=$STARTED_PID
wait_until 30 waits $READERS ||
	fail "not all reads wait: $(status_of one .stalled_reads)"
readers 1 1 hot
ends_in 10 "$STARTED_PID" || fail "what is here waits behind what is not"
wait "$STARTED_PID" || fail "what is here is wrong"

# a worker dies with all of them in hand; the kernel asks its successor
kill -KILL "$(suite_pid devd-io)"
wait_until 60 waits $READERS ||
	fail "not all are asked for again: $(status_of one .stalled_reads)"
ctl detach one --json | jq -e '.torn_down == false' >/dev/null ||
	fail "torn down under its readers"
wait_until 20 status_is one .state draining || fail "it is not draining"
kill -0 "$waiting" || fail "the readers did not wait"

## the registry returns

link_say rate 1000 >/dev/null
wait "$waiting" || fail "reads over the stall: $(<"$T/waiting.log")"
wait_until 30 gone one || fail "the device is left: $(ctl ls --json)"

## a service that dies while reads wait, some in open(2): its first one looks
## for partitions

suite_stop
for scene in open read; do
	rm -rf "$STORE"
	suite_start
	device=$(ctl attach "$IMAGE" --name one --integrity complete)
	count=1
	if [ $scene = read ]; then
		readers 1 1 first
		wait "$STARTED_PID" || fail "a read before"
		count=4
	fi
	link_say rate 0 >/dev/null
	readers 16 4 $scene
	last=$STARTED_PID
	wait_until 30 waits $count || fail "$scene: nobody waits"
	suite_kill
	kill -0 "$last" || fail "$scene: they did not wait"
	"$BIN/devd" --remove-devices --run "$T/run" || fail "--remove-devices"
	ends_in 30 "$last" || fail "$scene: they hang:" \
		"$(ps -L -o pid=,stat=,wchan:30= -p "$last")"
	wait "$last" && fail "$scene: a read of a dead service succeeded"
	grep -qx 'wrong 4' "$T/$scene.log" || fail "$(<"$T/$scene.log")"
	no_devices || fail "$scene: a device is left"
	link_say rate 1000 >/dev/null
done
echo "NOTE: $READERS reads waited"
