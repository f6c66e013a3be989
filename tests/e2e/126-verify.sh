#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: bits that flip in the store's files, while it is stopped or under a
# live device, are found by verify, or by the scrub without being asked, and
# fetched again in place; what was network-free is so again.  Where the registry
# is gone that is said, nothing wrong is served meanwhile, and it is mended when
# the registry is back.
. "$(dirname "$0")/lib.sh"

registry_start
image_make base 1:5000 0:1000 2:2000
image_make next 1:5000 2:2000 3:1500	# leans on base
image_make loose loose 7:2000 0:500 8:1000	# without an index

data() { # KEY: its file in the store
	echo "${LAYOUT[$1]}"/data.*
}

# flip KEY PART...: one bit of the chunk that lies there; "OFFSET LENGTH" of
# each in $T/flipped
flip() {
	local key=$1 part at len
	shift
	: >"$T/flipped"
	for part; do
		if [ "$key" = loose ]; then
			at=$((65536 * part)) len=65536
		else
			read -r at len < <(index_tool at \
				"$T/$key.pack/index" "$part")
		fi
		spoil "$(data "$key")" $((at + len / 3))
		echo "$at $len" >>"$T/flipped"
	done
}

# is what was flipped as it should be, where it lies?
in_place() { # KEY
	local at len
	while read -r at len; do
		cmp -s -n "$len" -i "$at" "$(data "$1")" "${FILE[$1]}" ||
			return 1
	done <"$T/flipped"
}

# seen NUMBER: has the scrub said of so many chunks that they are damaged?
seen() {
	sed -n 's/.* \([0-9]*\) chunks .*on disk are damaged.*/\1/p' \
		"$T/devd.log" |
		awk -v least="$1" '{ n += $1 } END { exit n < least }'
}

image_is() { # KEY JQ
	ctl images --json | jq -e --arg d "${MAN[$1]}" \
		".images[] | select(.image_digest == \$d) | $2" >/dev/null
}

is_right() { # KEY WHEN
	local uri
	uri=$(ctl attach "${MAN[$1]}" --name "check-$1") || fail "attach $1"
	assert_eq "$(device_sha "$uri")" "${DEV[$1]#sha256:}" "$1, $2"
	ctl detach "check-$1"
}

verified() { # DAMAGED ARGUMENTS...: so many damaged, each repaired
	local n=$1
	shift
	assert_json ".damaged == $n and .repaired == $n and .checked > 20" \
		ctl verify --json "$@"
}

printf '[store]\nscrub = no\n' >"$T/conf"
suite_start
assert_exit 1 '^shedctl: BLOB_ABSENT: ' ctl verify "${NAME[base]}"
for key in base next loose; do
	ctl pull "${NAME[$key]}" 2>/dev/null
done
verified 0 --all
verified 0 "${NAME[next]}"

## while it is stopped

suite_stop
flip base 0.1 0.4 0.8
suite_start
verified 3 "${MAN[base]}"
in_place base || fail "repaired, and not in place"
wait_until 10 image_is base .network_free || fail "base: $(ctl images)"
wait_until 10 image_is next .network_free || fail "next: $(ctl images)"
is_right base "repaired by verify"
is_right next "which leans on what was repaired"
suite_stop
flip loose 3 20
suite_start
verified 2 --all
in_place loose || fail "without an index: repaired, and not in place"
wait_until 10 image_is loose .network_free || fail "loose: $(ctl images)"
is_right loose "repaired by verify"
verified 0 --all
suite_stop
# found by reads instead, in a file that another image's device leans on
flip base 0.25 0.5
suite_start
is_right next "read over flipped bits of base"
is_right base "read where bits were flipped"
wait_until 10 image_is base .network_free || fail "base: $(ctl images)"
verified 0 --all

## under a live device

uri=$(ctl attach "${MAN[next]}" --name live)
assert_eq "$(device_sha "$uri")" "${DEV[next]#sha256:}" "next, live"
flip base 0 0.3 0.6 0.9
verified 4 --all
in_place base || fail "repaired under a device, and not in place"
assert_eq "$(device_sha "$uri")" "${DEV[next]#sha256:}" "next, repaired under it"
wait_until 10 status_is live .network_free true ||
	fail "not network-free again: $(ctl status live --json)"
flip next 0.95
assert_json '.damaged == 1' ctl verify --json "${NAME[next]}"
assert_json '.chunks.damaged == 1 and .state != "failed"' ctl status live --json
assert_eq "$(device_sha "$uri")" "${DEV[next]#sha256:}" "next, repaired again"
wait_until 10 status_is live .network_free true ||
	fail "not network-free again: $(ctl status live --json)"

## without a registry

flip base 0.35 0.7
registry_stop
start=$SECONDS
assert_exit 1 '^shedctl: DIGEST_MISMATCH: 2 of 2 damaged' \
	ctl verify "${NAME[base]}"
assert_le $((SECONDS - start)) 30 "seconds until verify gave up"
status_is live .network_free false || fail "network-free, without two chunks"
image_is next '.network_free == false' || fail "next: $(ctl images)"
device_sha "$uri" >"$T/late" &
reader=$!
read_waits() {
	[ "$(status_of live .stalled_reads)" -gt 0 ]
}
wait_until 20 read_waits ||
	fail "a read of what is not there does not wait: $(<"$T/late")"
registry_start
wait $reader
assert_eq "$(<"$T/late")" "${DEV[next]#sha256:}" "a read that waited"
wait_until 20 status_is live .network_free true ||
	fail "not mended: $(ctl status live --json)"
wait_until 20 image_is base .network_free || fail "base: $(ctl images)"
in_place base || fail "mended, and not in place"
ctl detach live
suite_stop

## by the scrub

printf '[store]\nscrub-every = 1s\nscrub-rate = 1G\n' >"$T/conf"
suite_start
uri=$(ctl attach "${MAN[next]}" --name live)
assert_eq "$(device_sha "$uri")" "${DEV[next]#sha256:}" "next, before the scrub"
for round in 1 2 3; do
	# else the whole digest, still on its way, may see it first
	wait_until 15 image_is base .network_free ||
		fail "round $round: base is not whole"
	wait_until 15 status_is live .network_free true ||
		fail "round $round: next is not whole"
	flip base 0.$round 0.5$round
	wait_until 15 seen $((2 * round)) ||
		fail "round $round: the scrub did not see it"
	wait_until 10 image_is base .network_free || fail "base: $(ctl images)"
	wait_until 10 status_is live .network_free true ||
		fail "round $round: $(ctl status live --json)"
	assert_eq "$(device_sha "$uri")" "${DEV[next]#sha256:}" "round $round: next"
	is_right base "round $round"
done
event_await '[0-9]+ chunks on disk are damaged, chunk [0-9]+ first: fetching them again' 5 ||
	fail "no event: $(ctl events)"
# with the registry away for a while
registry_stop
flip loose 5
flip next 0.9
wait_until 15 seen 8 || fail "the scrub did not see them"
status_is live .network_free false || fail "network-free, without a chunk"
image_is loose '.network_free == false' || fail "loose: $(ctl images)"
registry_start
wait_until 20 status_is live .network_free true ||
	fail "not mended: $(ctl status live --json)"
wait_until 20 image_is loose .network_free || fail "loose: $(ctl images)"
# and it goes on
flip base 0.65
wait_until 15 seen 9 || fail "the scrub does not go on"
wait_until 10 image_is base .network_free || fail "base: $(ctl images)"
assert_eq "$(device_sha "$uri")" "${DEV[next]#sha256:}" "next, in the end"
is_right loose "in the end"
ctl detach live
suite_stop

## what speaks of the data

printf '[store]\nscrub = no\n' >"$T/conf"
read -r at _ < <(index_tool at "$T/base.pack/index" 0.5)
for what in presence index complete json; do
	dir=${LAYOUT[base]}/
	[ $what != json ] || dir=$STORE/images/${MAN[base]#sha256:}.
	file=$(compgen -G "$dir$what*")
	size=$(stat -c %s "$file")
	for part in 7 55 99; do
		cp -a "$file" "$T/saved"
		spoil "$file" $((size * part / 100))
		suite_start
		uri=$(ctl attach "${NAME[base]}" --name base) ||
			fail "$what flipped at $part%: attach"
		assert_eq "$(timeout 20 nbdcopy "$uri" - | sha_of)" \
			"${DEV[base]#sha256:}" "$what flipped at $part%"
		ctl detach base
		suite_stop
		# presence files are named anew when they are made anew
		file=$(compgen -G "$dir$what*")
	done
done
# the digest of a chunk in the index: every other check of it fits
file=${LAYOUT[base]}/index
spoil "$file" $((4096 + 4096 + 64 * 20 + 5))
suite_start
uri=$(ctl attach "${NAME[base]}" --name base)
assert_eq "$(timeout 20 nbdcopy "$uri" - | sha_of)" "${DEV[base]#sha256:}" \
	"a chunk's digest flipped in the index"
wait_until 10 status_is base .network_free true || fail "not network-free"
ctl detach base
suite_stop
cmp "$file" "$T/base.pack/index" || fail "the index was not mended"
