#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a registry's mirrors are asked first and in order, but only for what a
# hash checks; one that fails, in whichever way and in the middle of a device's
# life, costs no read an error or a wrong byte: the next is asked, the failed one
# left alone for a while and then asked again.  When all are gone reads wait.
. "$(dirname "$0")/lib.sh"

MB=96
RETRY_AFTER_S=3
DEPTH=8			# reads at once, where they are not one by one
# Several requests are under way when a mirror is found out.
LIES_MOST=40

## the registry and its mirrors: origin, a, b; each is a registry.py

declare -A FROM PID

up() { # NAME [OPTIONS]
	local name=$1 prefix=''
	shift
	[ "$name" = b ] && prefix=/cache
	scripted_start "$name" "$T/image" --index "$T/pack/index" \
		--prefix "$prefix" "$@"
	PID[$name]=$STARTED_PID
}

down() { # NAME: a closed port
	kill -KILL "${PID[$1]}"
	wait "${PID[$1]}" 2>/dev/null || true
}

# what is asked from now on counts
mark() {
	local name
	for name in origin a b; do
		kill -0 "${PID[$name]}" 2>/dev/null && tell "$name" settle
		FROM[$name]=$(wc -l <"$T/$name.requests")
	done
}

# requests NAME [JQ-CONDITION]: since then, one object a line
requests() {
	! kill -0 "${PID[$1]}" 2>/dev/null || tell "$1" settle
	tail -n +"$((FROM[$1] + 1))" "$T/$1.requests" |
		jq -c "select(.method) | select(${2:-true})"
}

asked() { # NAME [JQ-CONDITION]: how many
	requests "$@" | wc -l
}

blobs='(.path | contains("/blobs/"))'

waits() { # NAME: does a request hang there since the mark?
	tail -n +"$((FROM[$1] + 1))" "$T/$1.requests" | grep -q '"waits"'
}

## the suite

conf() { # MORE LINES OF THE REGISTRY'S SECTION
	cat >"$T/conf" <<-END
	[network]
	hedge = 0%
	[registry "${AT[origin]}"]
	mirrors = http://${AT[a]}, http://${AT[b]}/cache
	$*
	END
}

# a new life: what is known of mirrors is in memory only
fresh() {
	[ -z "${SUITE_PID-}" ] || suite_stop
	rm -rf "$STORE" "$T/run"
	SUITE_PID=
	suite_start
	URI=$(ctl attach "${AT[origin]}/test/base:v1" --name one)
	NEXT=0
	more 2
	mark
}

burst() {
	timeout 60 "$TOOLS/burst.py" "$@" >"$T/burst"
}

# more N [DEPTH]: chunks that were not read before; all of them right
more() {
	burst "$URI" "$T/image" "$NEXT" "$1" --depth "${2:-1}" ||
		fail "a read failed: $(tail -n 1 "$T/burst")"
	NEXT=$((NEXT + $1))
}

# a read, $HELD, of whose answer by a the second half comes when it is told heal
hang() {
	tell a 'fault?blob=stall&times=1'
	burst "$URI" "$T/image" "$NEXT" 1 &
	HELD=$!
	NEXT=$((NEXT + 1))
	wait_until 10 waits a || fail "no request hangs"
}

# until NAME is asked for a blob again, by reads that go on
asked_again() {
	more 1
	[ "$(asked "$1" "$blobs and .status == 206 and .sent > 1")" -ge 1 ]
}

never_stalled() {
	! ctl events --json | grep '"stalled"' ||
		fail "a read waited for no source"
}

# doctor_says NAME RESULT REGEX: of a registry or mirror
doctor_says() {
	ctl doctor --json >"$T/doctor" || true
	jq -e --arg n "$1" --arg r "$2" --arg d "$3" '.rows[] | select(.name ==
		$n and .result == $r and (.detail | test($d)))' "$T/doctor" \
		>/dev/null
}

doctor_told() {
	wait_until 10 doctor_says "$@" || fail "doctor: no $* in $(<"$T/doctor")"
}

told() { # REGEX: one event of it
	event_await "$1" 5 || fail "no event /$1/: $(ctl events)"
}

out_of_turn() {
	told "\"http://${AT[a]} for ${AT[origin]} is not asked for now: "
}

image_of "$T/image" "1:$((MB * 1024))"
"$BIN/shedpack" index "$T/image" -o "$T/pack" >/dev/null 2>&1
touch "$T"/{origin,a,b}.requests
for name in origin a b; do
	up $name
done
conf

## in order, and for what a hash checks

suite_start
for name in origin a b; do
	FROM[$name]=0
done
URI=$(ctl attach "${AT[origin]}/test/base:v1" --name one)
NEXT=0
assert_eq "$(asked a '.path | contains("/manifests/")')" 0 \
	"a mirror asked what a tag means"
[ "$(asked a "$blobs")" -ge 1 ] || fail "the index did not come from a mirror"
assert_eq "$(asked origin "$blobs")" 0 "blobs that the registry was asked for"
more 20
assert_eq "$(asked b)" 0 "requests to the second mirror"
assert_eq "$(asked origin "$blobs")" 0 "blobs that the registry was asked for"
[ "$(asked a '.status == 206')" -ge 10 ] || fail "the first mirror was not asked"
assert_eq "$(asked a "(.path | endswith(\"?ns=${AT[origin]/:/%3A}\")) | not")" 0 \
	"requests that do not say whose blob they want"
mark
plain=$(ctl attach "${AT[origin]}/test/plain:v1" --name plain \
	--integrity complete)
burst "$plain" "$T/image" 0 2 || fail "a read without an index"
[ "$(asked origin "$blobs")" -ge 1 ] || fail "nobody was asked for them"
assert_eq "$(asked a)" 0 "a mirror asked for what nothing checks"
assert_eq "$(asked b)" 0 "a mirror asked for what nothing checks"
ctl detach plain

## one dies, comes back, and is asked again

mark
down a
more 10
out_of_turn
[ "$(asked b '.status == 206')" -ge 5 ] || fail "the second mirror was not asked"
assert_eq "$(asked origin)" 0 "requests to the registry"
up a
mark
wait_until 30 asked_again a || fail "the first mirror is not asked again"
told "\"http://${AT[a]} for ${AT[origin]} answers again"
mark
more 5
assert_eq "$(asked b)" 0 "requests to the second mirror after the fail-back"

## it says that it is busy; what it had begun before ends well meanwhile

hang
tell a "fault?blob=retry:$RETRY_AFTER_S&times=1"
more 1
busy=$(jq 'select(.status == 429) | .time' "$T/a.requests")
[ "$busy" ] || fail "no request was refused"
tell a heal
wait "$HELD" || fail "the read that hung"
asked_after() {
	more 1
	[ "$(asked a ".began > $busy")" -ge 1 ]
}
wait_until 30 asked_after || fail "it is not asked again"
requests a | jq -s -e "map(.began - $busy | select(. > 0)) | min |
	. >= $RETRY_AFTER_S" >"$T/after" ||
	fail "a mirror that asked for $RETRY_AFTER_S s was asked before: $(
		requests a | jq -c "[.began - $busy, .status]")"
never_stalled

## it lacks the blob, the next one has no ranges

fresh
tell a 'fault?blob=status:404'
tell b 'fault?blob=full'
more 10
assert_le "$(asked a)" 2 "requests to a mirror that has no such blob"
assert_le "$(asked b)" 2 "requests to a mirror that can do no ranges"
[ "$(asked origin '.status == 206')" -ge 8 ] || fail "the registry was not asked"
tell a heal
tell b heal

# and is ill as well: that it has no such blob is an answer
fresh
tell a 'fault?blob=status:500'
more 2
tell a 'fault?blob=status:404'
mark
for ((i = 0; i < 20; i++)); do
	more 1
done
n=$(asked a)
tell a heal
echo "NOTE: a mirror that was ill and has no such blob: $n of 20 reads asked it"
assert_le "$n" 8 "requests to it"
never_stalled

## it lies, for ever

fresh
hang
tell a 'fault?blob=flip'
more 100 $DEPTH
out_of_turn
told 'bytes with a wrong digest'
mark
tell a heal		# what it had begun before ends well
wait $HELD || fail "the read that hung"
tell a 'fault?blob=flip'
more 30 $DEPTH
n=$(($(asked a '.fault == "flip"')))
assert_eq "$n" 0 "requests to a mirror that was found out"
lies=$(jq -s 'map(select(.fault == "flip")) | length' "$T/a.requests")
echo "NOTE: a mirror that lies was asked $lies times"
[ "$lies" -ge 1 ] || fail "it was not asked"
assert_le "$lies" $LIES_MOST "lies"
doctor_told "mirror http://${AT[a]}" WARN 'chunks had a wrong digest'
assert_json '.requests.failed > 0 and .stalled_reads == 0' \
	ctl status one --json
never_stalled
tell a heal

## it leads elsewhere

for where in private link-local mapped file; do
	fresh
	tell a "fault?blob=$where"
	more 5
	out_of_turn
	assert_le "$(asked a)" 6 "requests to a mirror that leads to $where"
	tell a heal
done
never_stalled

## all are gone, and come back

fresh
for name in origin a b; do
	down $name
done
burst "$URI" "$T/image" "$NEXT" 50 --depth 50 &
reader=$!
told '"stalled".*reads wait'
doctor_told "mirror http://${AT[a]}" WARN "^down for .* asked again .*; for ${AT[origin]}"
doctor_told "mirror http://${AT[b]}/cache" WARN '^down for '
doctor_told "registry ${AT[origin]}" WARN '^down for '
kill -0 $reader || fail "the reads did not wait"
for name in origin a b; do
	up $name
done
wait $reader || fail "reads when all came back"
told '"recovered"'
a_is_up() {
	more 1		# it is asked when there is something to read
	doctor_says "mirror http://${AT[a]}" PASS '^up, round trip [0-9.]+ ms'
}
NEXT=$((NEXT + 50))
wait_until 20 a_is_up || fail "doctor: a is not up: $(<"$T/doctor")"
wait_until 10 status_is one .stalled_reads 0 || fail "still stalled"

## the configuration trusts them

conf 'trust-mirrors = yes'
for name in origin a b; do
	tell $name settle
	FROM[$name]=$(wc -l <"$T/$name.requests")
done
suite_stop
rm -rf "$STORE" "$T/run"
suite_start
plain=$(ctl attach "${AT[origin]}/test/plain:v1" --name plain \
	--integrity complete)
assert_eq "$(asked origin)" 0 "requests to the registry, with trusted mirrors"
[ "$(asked a '.path | contains("/manifests/v1")')" -ge 1 ] ||
	fail "a trusted mirror was not asked what a tag means"
suite_stop

## a mirror in the owner's network may not lead to the host's own services

if [ "$(id -u)" -ne 0 ] || ! command -v ip >/dev/null; then
	echo "NOTE: a way to loopback was not tried: that takes root and ip"
	exit 0
fi
start net unshare -n sh -c 'ip link set lo up && ip addr add \
	10.77.0.1/32 dev lo && echo up && exec sleep infinity'
wait_line "$STARTED_PID" "$T/net.log" '^up$' || fail "no network namespace"
SCRIPTED_IN=(nsenter -t "$STARTED_PID" -n)
for name in origin a b; do
	down $name
	: >"$T/$name.requests"
	[ $name = origin ] || AT[$name]=10.77.0.1:${AT[$name]##*:}
	up $name
done
conf
SUITE_IN=("${SCRIPTED_IN[@]}")
SUITE_PID=
fresh
tell a 'fault?blob=redirect'
tell b 'fault?blob=redirect'
more 5
out_of_turn
assert_eq "$(asked a '.role == "other"')" 0 "requests where it led to"
assert_eq "$(asked b '.role == "other"')" 0 "requests where it led to"
[ "$(asked a '.status == 307')" -ge 1 ] || fail "it did not lead anywhere"
[ "$(asked origin '.status == 206')" -ge 1 ] || fail "the registry was not asked"
never_stalled
suite_stop
