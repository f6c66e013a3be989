#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a reader of a file compares every byte, each process of the suite
# but its parent can be killed at any time, and the file's worker at each of its
# system calls: no wrong byte, no error, no request lost.  KILLS in
# all.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reader.sh"
KILLS=${KILLS:-20}
SEED=${SEED:-$RANDOM}
STEPS=6
PRESENT='file'

[ "$(id -u)" -eq 0 ] || skip "a file needs root"
[ -c /dev/fuse ] || skip "no /dev/fuse"
image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
file=$(ctl attach "$IMAGE" --name one --integrity complete)

reader_start one "$file" "$SMALL"
readers_made $STEPS
fds=$(fd_count "$SUITE_PID")

echo "seed $SEED"
kills "$KILLS" $STEPS

## at each system call that handles a request, as the worker enters it

exact=0
for call in readv pread64 writev epoll_wait; do
	command -v strace >/dev/null || break
	for when in 1 2 3 7; do
		victim devd-io
		KILLED[devd-io]=$VICTIM
		strace -qq -o /dev/null -p "$VICTIM" -e trace=$call \
			-e inject=$call:signal=KILL:when=$when 2>/dev/null &
		tracer=$!
		until ! kill -0 "$VICTIM" 2>/dev/null; do
			readers_made 1
		done
		wait $tracer || true
		exact=$((exact + 1))
	done
done

all_are_back
readers_made 1
fds_are() {
	[ "$(fd_count "$SUITE_PID")" -le "$fds" ]
}
wait_until 10 fds_are ||
	fail "the parent had $fds descriptors, has $(fd_count "$SUITE_PID")"
reader_end one
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"
wait_until 10 status_is one .openers 0 || fail "openers are left"
taken=$(grep -c 'requests of a former worker taken over' "$T/devd.log") || true
[ "$taken" -gt 0 ] || fail "no worker died with a request in hand"
echo "NOTE: $KILLS kills, $exact at a system call," \
	"$(jq .reads "$T/one.json") reads compared; $taken workers found" \
	"requests in the journal; the longest stall $LONGEST ms (seed $SEED)"
ctl detach one
suite_stop
