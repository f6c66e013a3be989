#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: names and numbers beyond what there may be are refused with the remedy,
# and nothing of that is left; and an image that is bad, or whose registry never
# answers, does not keep another one waiting that is attached at the same time.
. "$(dirname "$0")/lib.sh"

registry_start
image_make one 1:500 9:300
image_make two 2:500 9:300
image_make three 3:500 9:300
image_make index 21:500		# the registry's copy of its index will be bad
image_make blob 22:500		# its blob will be gone
BAD_INDEX=$(sha_of "$T/index.pack/index")
spoil "$(registry_file "sha256:$BAD_INDEX")" 5000 100
rm "$(registry_file "${DEV[blob]}")"
printf '[devices]\nmax = 3\n' >"$T/conf"
suite_start

## names
long=$(printf 'n%.0s' {1..64})
for name in "$long" A .a 'a b' a/b; do
	assert_exit 1 '^shedctl: BAD_REQUEST: a name is 1 to 63 of a-z' \
		ctl attach "${NAME[one]}" --name "$name"
done
for consumer in "$long$long$long" 'a b' a/b; do
	assert_exit 1 '^shedctl: BAD_REQUEST: a consumer is 1 to 128' \
		ctl attach "${NAME[one]}" --consumer "$consumer"
done
device_count 0 || fail "refused, and there: $(ctl ls)"
ctl attach "${NAME[one]}" --name "${long%n}" >/dev/null
ctl attach "${NAME[two]}" --name two >/dev/null
for words in "one two" "three two" "two ${long%n}" "three ${long%n}"; do
	assert_exit 1 '^shedctl: IN_USE: .*choose another --name' \
		ctl attach "${NAME[${words% *}]}" --name "${words#* }"
done
device_count 2 || fail "refused, and there: $(ctl ls)"
ctl detach two
ctl detach "${long%n}"
wait_until 10 device_count 0 || fail "left: $(ctl ls)"

## what a device is called that nobody gives a name
ctl attach "${NAME[one]}" >/dev/null
ctl attach "${NAME[one]}" --integrity complete >/dev/null
name=${DEV[one]#sha256:}
name=${name:0:12}
assert_eq "$(ctl ls --json | jq -r '.devices | map(.name) | sort | join(" ")')" \
	"$name $name-nbd-complete" "the names of two devices"

## how many there may be
ctl attach "${NAME[two]}" >/dev/null
assert_exit 1 '^shedctl: DEVICE_UNAVAILABLE: there are 3 devices.*detach one' \
	ctl attach "${NAME[three]}" --name three
device_count 3 || fail "refused, and there: $(ctl ls)"
ctl attach "${NAME[two]}" --consumer b >/dev/null	# that makes none
ctl detach "$name-nbd-complete"
wait_until 10 device_count 2 || fail "left: $(ctl ls)"
uri=$(ctl attach "${NAME[three]}" --name three)
assert_eq "$(device_sha "$uri")" "${DEV[three]#sha256:}" "one in its place"
ctl detach three
wait_until 10 device_count 2 || fail "left: $(ctl ls)"

## bad ones beside a good one
start mute /usr/bin/python3 -c 'import signal, socket
s = socket.create_server(("127.0.0.1", 0), backlog=64)
print("listening on", s.getsockname()[1], flush=True)
signal.pause()'
wait_line "$STARTED_PID" "$T/mute.log" '^listening' || fail "nobody is mute"
mute=127.0.0.1:$(awk '{ print $3 }' "$T/mute.log")/x/y:v1

declare -A pid
for _ in 1 2 3; do
	for key in index blob mute; do
		image=${NAME[$key]-$mute}
		ctl attach "$image" --name $key >"$T/$key.out" 2>"$T/$key.err" &
		pid[$key]=$!
	done
	uri=$(ctl attach "${NAME[three]}" --name three)
	kill -0 "${pid[mute]}" || fail "it was not at the same time"
	assert_eq "$(device_sha "$uri")" "${DEV[three]#sha256:}" "the good one"
	ctl detach three
	wait_until 10 device_count 2 || fail "left: $(ctl ls)"
	for key in index blob; do
		wait "${pid[$key]}" && fail "$key was attached: $(<"$T/$key.out")"
	done
	grep -q '^shedctl: DIGEST_MISMATCH: ' "$T/index.err" ||
		fail "the bad index: $(<"$T/index.err")"
	grep -q '^shedctl: BLOB_ABSENT: ' "$T/blob.err" ||
		fail "the absent blob: $(<"$T/blob.err")"
	kill "${pid[mute]}"
done
ctl health >/dev/null || fail "bad images made the suite unhealthy"
suite_stop
