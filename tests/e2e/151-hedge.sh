#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a demand request that takes much longer than others do is sent once more,
# to another source or by another connection, and the reader goes on while the
# first one still hangs; for at most so many requests as the configuration allows.
# Without hedges the reader waits.
. "$(dirname "$0")/lib.sh"

EVERY=50		# so many requests, one hangs
READS=460
WARM=40
DEPTH=4
PERCENT=5
SPARE=4			# hedges that may be saved, see HEDGES_SAVED
MB=$(((READS + WARM) / 4))

fresh() { # HEDGE [MIRROR]: what was logged so far is over
	[ -z "${SUITE_PID-}" ] || suite_stop
	rm -rf "$STORE" "$T/run"
	printf '[network]\nhedge = %s\n[registry "%s"]\n' "$1" "${AT[origin]}" \
		>"$T/conf"
	[ $# -lt 2 ] || echo "mirrors = http://${AT[$2]}" >>"$T/conf"
	suite_start
	URI=$(ctl attach "${AT[origin]}/test/base:v1" --name one)
	reads 0 $WARM
	for name in a origin; do
		tell $name settle
		: >"$T/$name.requests"
	done
}

reads() { # FIRST COUNT
	timeout 120 "$TOOLS/burst.py" "$URI" "$T/image" "$1" "$2" \
		--depth $DEPTH >"$T/burst.$1" ||
		fail "a read failed: $(tail -n 1 "$T/burst.$1")"
}

held() { # NAME: requests that were ever held there
	grep -c '"waits"' "$T/$1.requests" || true
}

# all requests for a part of the blob, and for how many parts
count() {
	local name
	for name in a origin; do
		tell $name settle
	done
	jq -s 'map(select(.method and .headers.Range != "bytes=0-0")) |
		[length, (map(.headers.Range) | unique | length)] | .[]' \
		"$T/a.requests" "$T/origin.requests" | paste -s -d ' '
}

# overtaken NAME: one of EVERY requests to it hangs, for good
overtaken() {
	local all parts n
	tell "$1" "fault?blob=hold&every=$EVERY"
	reads $WARM $READS
	n=$(held "$1")		# all reads were done, and these still hang
	tell "$1" heal
	read -r all parts <<<"$(count)"
	echo "NOTE: $2: $n of $READS reads hung and were overtaken, for $((all -
		parts)) requests more"
	[ "$n" -ge $((READS / EVERY / 2)) ] || fail "only $n requests hung"
	assert_le "$((all - parts))" $((READS * PERCENT / 100 + SPARE)) \
		"requests beyond the $parts that are needed"
	# On a busy machine many look slow, and the last may find the budget
	# empty: it ends when fetcherd gives it up.
	assert_json '.requests.failed <= 1 and .stalled_reads == 0' \
		ctl status one --json
}

image_of "$T/image" "1:$((MB * 1024))"
"$BIN/shedpack" index "$T/image" -o "$T/pack" >/dev/null 2>&1
scripted_start origin "$T/image" --index "$T/pack/index"
scripted_start a "$T/image" --index "$T/pack/index"

## a mirror, and the registry behind it

fresh $PERCENT% a
overtaken a "a mirror"
n=$(jq -s 'map(select(.path | contains("/blobs/"))) | length' \
	"$T/origin.requests")
[ "$n" -ge $((READS / EVERY / 2)) ] ||
	fail "the registry was asked $n times: who was faster?"

## nobody else to ask: another connection

fresh $PERCENT%
overtaken origin "a registry alone"

## without hedges

fresh 0% a
tell a 'fault?blob=hold&times=1'
"$TOOLS/burst.py" "$URI" "$T/image" $WARM 1 >"$T/first" &
first=$!
wait_until 10 test -s "$T/a.requests" || fail "no request hangs"
reads $((WARM + 1)) 60
kill -0 $first || fail "the read did not wait"
tell a heal
wait $first || fail "the read that hung"
read -r all parts <<<"$(count)"
assert_eq "$((all - parts))" 0 "requests beyond the $parts that are needed"
assert_eq "$(held a)" 1 "requests that hung"
suite_stop
