#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: what a file's users do, be it to spoil it for others, costs them alone:
# a crowd of readers that wait for the network, stopped ones among them, opens
# without end, mounts that carry our name.
. "$(dirname "$0")/lib.sh"
PRESENT='file'
READERS=1000
HELD=2000	# as many as a process of Firecracker's jailer may hold
FLOOD_S=3
UNPRIVILEGED=(setsid setpriv --reuid 65534 --regid 65534 --clear-groups)

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
image_of "$T/image.erofs" 7:81920
registry_start
image_push "$T/image.erofs" test/base:v1
link_start "$REGISTRY" 1 1000
IMAGE=$LINK/${IMAGE#*/}
printf '[network]\nhedge = 0%%\n[prefetch]\ncomplete = never\n' >"$T/conf"
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)
# as a VM gets it: in a directory of its own
mkdir "$T/jail"
: >"$T/jail/disk"
mount --bind "$file" "$T/jail/disk"
MOUNTS+=("$T/jail/disk")
undo() {
	umount -l "$T/jail/disk" 2>/dev/null || true
}
disk=$T/jail/disk

ends_in() { # SECONDS PID
	timeout "$1" tail -s 0.05 --pid="$2" -f /dev/null
}

## opens: held, and again and again

"${UNPRIVILEGED[@]}" prlimit --nofile=$((HELD + 50)) /usr/bin/python3 -c '
import os, sys
held = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(int(sys.argv[2]))]
print("held", flush=True)
sys.stdin.read()' "$disk" $HELD <> <(:) >"$T/held" &
holder=$!
STARTED+=("$holder")
wait_line $holder "$T/held" held || fail "an opener was refused"
wait_until 10 status_is one .openers $HELD || fail "openers: $(ctl status one)"
head -c 4096 "$file" >/dev/null || fail "one opener keeps others out"
kill -KILL $holder
wait_until 10 status_is one .openers 0 || fail "openers are left"

# control, which is told of openers, does not look meanwhile
control=$(suite_pid devd) worker=$(suite_pid devd-io)
before=$(rss_kb "$SUITE_PID") before_io=$(rss_kb "$worker")
kill -STOP "$control"
opens=$(timeout -s INT $((FLOOD_S + 30)) "${UNPRIVILEGED[@]}" /usr/bin/python3 -c '
import os, sys, time
n, end = 0, time.monotonic() + int(sys.argv[2])
while time.monotonic() < end:
    os.close(os.open(sys.argv[1], os.O_RDONLY))
    n += 1
print(n)' "$disk" $FLOOD_S)
grown=$(($(rss_kb "$SUITE_PID") - before))
grown_io=$(($(rss_kb "$worker") - before_io))
kill -CONT "$control"
assert_le "$grown" 512 "KiB that $opens opens and closes cost the parent"
assert_le "$grown_io" 512 "KiB that they cost the worker"
wait_until 10 status_is one .openers 0 || fail "openers are left"

## a crowd that waits for the network

reader_direct() { # OFFSET
	/usr/bin/python3 -c '
import mmap, os, sys
buf = mmap.mmap(-1, 4096)
os.preadv(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), [buf],
          int(sys.argv[2]))
want = os.pread(os.open(sys.argv[3], os.O_RDONLY), 4096, int(sys.argv[2]))
sys.exit(buf[:] != want)' "$disk" "$1" "$T/image.erofs"
}
reader_direct 0 || fail "a read before"
link_say rate 0 >/dev/null
# each thread waits in a read of its own
crowd() { # FIRST COUNT
	exec "${UNPRIVILEGED[@]}" /usr/bin/python3 -c '
import mmap, os, sys, threading
disk, path, first, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
threading.stack_size(65536)
fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
file = os.open(path, os.O_RDONLY)
bad = []
def one(i):
    at, buf = (64 + i) * 65536, mmap.mmap(-1, 4096)
    try:
        if os.preadv(fd, [buf], at) != 4096 or \
                buf[:] != os.pread(file, 4096, at):
            bad.append(i)
    except OSError as e:
        bad.append((i, e))
threads = [threading.Thread(target=one, args=(first + i,))
           for i in range(count)]
for t in threads: t.start()
for t in threads: t.join()
print(bad[:3])
sys.exit(bool(bad))' "$disk" "$T/image.erofs" "$1" "$2"
}
chmod 711 "$T"
chmod 644 "$T/image.erofs"
half=$((READERS / 2))
crowd 0 $half >"$T/crowd" &
first=$!
crowd $half $half >"$T/crowd-killed" &
second=$!
STARTED+=("$first" "$second")
waits() { # NUMBER
	[ "$(status_of one .stalled_reads)" -ge "$1" ]
}
wait_until 60 waits $READERS || fail "they don't all wait: $(ctl status one)"
reader_direct 0 &
ends_in 10 $! || fail "what is here waits behind $READERS that are not"
wait $! || fail "what is here is wrong"
kill -KILL $second
ends_in 20 $second || fail "readers can't be killed: $(ps -o stat=,wchan:30= \
	-L -p $second | sort | uniq -c)"
wait $second || true
old=$(suite_pid devd-io)
kill -KILL "$old"
wait_line "$SUITE_PID" "$T/devd.log" \
	"$half requests of a former worker taken over" ||
	fail "not as many wait as were left"
# who is stopped keeps nobody from anything, and reads on when he goes on
kill -STOP $first
link_say rate 1000 >/dev/null
wait_until 60 status_is one .stalled_reads 0 || fail "reads still wait"
kill -CONT $first
wait $first || fail "reads over the stall: $(<"$T/crowd")"

## mounts that carry our name, where they are not ours

mkdir "$T/theirs"
echo precious >"$T/theirs/target"
mount --bind "$file" "$T/theirs/target"
MOUNTS+=("$T/theirs/target")
suite_kill
suite_start
wait_until 10 test -f "$file" || fail "the file did not come back"
mountpoint -q "$T/theirs/target" ||
	fail "a mount outside of our directory was taken away"
umount "$T/theirs/target"
unset 'MOUNTS[-1]'
assert_eq "$(<"$T/theirs/target")" precious "the file below"
suite_kill
"$BIN/devd" --remove-devices --run "$T/run" || fail "--remove-devices"
assert_eq "$(grep -c "shedstream:$T/run .*" /proc/self/mountinfo)" 1 \
	"mounts, of which one is the jail's"
echo "NOTE: $opens opens, $READERS direct readers at once"
