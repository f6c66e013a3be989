#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while a registry is gone, reads wait, however many they are, and then
# have the right bytes; the attempts meanwhile are few; events, health, doctor,
# status and log say what goes on.  A device that was attached so gets EIO
# instead, and goes on when the registry is back.
. "$(dirname "$0")/lib.sh"

READERS=200
OUTAGE_S=10

# read_many URI FILE FIRST COUNT: so many units at once, by 8 connections;
# compared; ends when all have come
read_many() {
	exec timeout 120 /usr/bin/python3 -c '
import errno, nbd, sys
uri, path, first, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
data = open(path, "rb").read()
handles = [nbd.NBD() for i in range(8)]
for h in handles:
    h.connect_uri(uri)
wants = []
for i in range(count):
    at = (first + i) * 65536
    n = min(65536, len(data) - at)
    buf = nbd.Buffer(n)
    h = handles[i % len(handles)]
    wants.append((h, h.aio_pread(buf, at), buf, at, n))
print("asked", flush=True)
for h, cookie, buf, at, n in wants:
    while True:
        try:
            if h.aio_command_completed(cookie):
                break
        except nbd.Error as e:
            sys.exit(5 if e.errnum == errno.EIO else 1)
        h.poll(-1)
    if buf.to_bytearray() != data[at:at + n]:
        sys.exit("wrong bytes at %d" % at)' "$@"
}

# ends_with STATUS PID WHAT
ends_with() {
	local status=0
	wait "$2" || status=$?
	assert_eq "$status" "$1" "$3"
}

waits_since() { # NAME SECONDS: has it been stalled for so long?
	local since
	since=$(status_of "$1" .stalled_since)
	[ "$since" -gt 0 ] && [ $(($(date +%s) - since)) -ge "$2" ]
}

failed() { # NAME: requests that failed
	status_of "$1" .requests.failed
}

# doctor_says RESULT NAME REGEX
doctor_says() {
	ctl doctor --json >"$T/doctor" || true
	jq -e --arg r "$1" --arg n "$2" --arg d "$3" '.rows[] |
		select(.name == $n and .result == $r and (.detail | test($d)))
		| (.remedy == "") == ($r == "PASS")' "$T/doctor" >/dev/null ||
		fail "doctor: no $1 $2 /$3/ in $(<"$T/doctor")"
}

# a time that is out of order is refused, with the remedy
printf '[network]\non-outage = eio\noutage-delay = 10\n' >"$T/bad.conf"
assert_exit 1 'bad.conf:3: outage-delay takes .*at least the 30 s' \
	"$BIN/devd" -n -c "$T/bad.conf"

image_small
image_of "$T/two.erofs" 7:4096
registry_start
image_push "$T/two.erofs" test/two:v1
two_image=$IMAGE
image_push "$SMALL" test/one:v1
printf '[trust]\nintegrity = complete\n' >"$T/conf"
suite_start
one=$(ctl attach "$IMAGE" --name one)
two=$(ctl attach "$two_image" --name two --on-outage eio --outage-delay 1)
assert_json '.on_outage == "stall" and .outage_delay == 0 and
	.stalled_since == 0' ctl status one --json
assert_json '.devices[] | select(.name == "two") | .on_outage == "eio" and
	.outage_delay == 1' ctl ls --json
grep -q 'device two: its reads get EIO after 1 s' "$T/devd.log" ||
	fail "no warning of a delay below the chunk budget"
read_many "$one" "$SMALL" 0 4 >"$T/r0" & ends_with 0 $! "a read before"
read_many "$two" "$T/two.erofs" 0 4 >"$T/r0" & ends_with 0 $! "a read before"
ctl health >/dev/null || fail "ill before the outage"
doctor_says PASS timeouts 'chunk budget 30 s < alarm 60 s'
doctor_says PASS on-outage stall
doctor_says WARN 'device two' 'EIO after 1 s'
ctl doctor | grep -q '^PASS  service: version' || fail "doctor, in words"

# one policy for one device
assert_exit 1 '^shedctl: IN_USE: .*detach it first' \
	ctl attach "$IMAGE" --name one --on-outage eio
assert_exit 1 '^shedctl: IN_USE: ' ctl attach "$two_image" --on-outage stall
assert_exit 1 '^shedctl: BAD_REQUEST: .*on-outage' \
	ctl attach "$IMAGE" --outage-delay 5
assert_exit 2 'outage-delay takes a time' \
	ctl attach "$IMAGE" --on-outage eio --outage-delay 0
[ "$(ctl attach "$two_image" --on-outage eio)" ] ||
	fail "what it has is refused"

# the outage
before=$(($(failed one) + $(failed two)))
registry_stop
read_many "$one" "$SMALL" 100 $READERS >"$T/many" &
many=$!
read_many "$two" "$T/two.erofs" 10 1 >"$T/few" &
ends_with 5 $! "a read of a device whose reads get EIO"
event_await '"stalled".*"one"' || fail "no event of it: $(ctl events)"
event_await '"stalled".*get EIO now' || fail "no event of EIO: $(ctl events)"
ctl health >"$T/health" && fail "healthy in an outage"
grep -q '^degraded: device .* reads wait' "$T/health" ||
	fail "health: $(<"$T/health")"
assert_json '.stalled_reads > 0 and .stalled_since > 0 and
	(.last_error | length > 0)' ctl status one --json
doctor_says WARN 'device one' 'reads wait'
ctl metrics >"$T/metrics"
grep -Eq '^shedstream_device_stalled_reads{device="one"} [1-9]' "$T/metrics" ||
	fail "metrics know no outage: $(<"$T/metrics")"
ctl doctor >/dev/null || fail "doctor says FAIL of an outage"
read_many "$two" "$T/two.erofs" 0 4 >"$T/r0" & ends_with 0 $! "of what is here"
read_many "$two" "$T/two.erofs" 12 1 >"$T/r0" & ends_with 5 $! "the next read"
[ "$(status_of two .reads_eio)" -ge 2 ] || fail "EIO is not counted"
assert_eq "$(ctl events --json | grep -o 'get EIO now' | wc -l)" 1 \
	"events of EIO"
wait_until $((OUTAGE_S + 20)) waits_since one $OUTAGE_S ||
	fail "not stalled: $(ctl status one --json)"
kill -0 "$many" || fail "a read did not wait"
attempts=$(($(failed one) + $(failed two) - before))
echo "NOTE: $attempts attempts in ${OUTAGE_S} s of an outage, for $READERS reads"
assert_le 1 "$attempts" "attempts during the outage"
assert_le "$attempts" 60 "attempts during the outage"

# and its end
registry_start
ends_with 0 "$many" "$READERS reads over an outage"
event_await '"recovered".*"one".*answers again, after ' ||
	fail "no event of its end: $(ctl events)"
read_many "$two" "$T/two.erofs" 12 1 >"$T/r0" & ends_with 0 $! "EIO stays"
event_await '"recovered".*"two"' || fail "two did not recover: $(ctl events)"
ctl health >/dev/null || fail "ill after the outage: $(ctl health)"
assert_json '.stalled_reads == 0 and .stalled_since == 0 and .reads_eio == 0' \
	ctl status one --json
assert_eq "$(device_sha "$one")" "${EROFS#sha256:}" "read of all"

# the policy is written down
suite_stop
suite_start
wait_until 10 status_is two .on_outage eio || fail "forgotten: $(ctl ls --json)"
assert_json '.on_outage == "eio" and .outage_delay == 1' ctl status two --json
assert_json '.on_outage == "stall"' ctl status one --json
suite_stop
