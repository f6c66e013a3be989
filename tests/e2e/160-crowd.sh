#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: 32 devices of 8 images, all cold and read at once, get the right bytes,
# each chunk is fetched once however many want it, and memory is bounded; so too
# when 1,024 reads wait for a registry that is gone, which is asked rarely.  Nobody
# starves: no device is done before each has had an answer, and one read does not
# wait for the thousand of another image.
. "$(dirname "$0")/lib.sh"

IMAGES=8
TIMES=4			# devices of one image
DEPTH=32		# reads of each that wait in the outage: 1,024 in all
MANY=960		# of one device
OUTAGE_S=5
ATTEMPTS=60		# in that time, however many wait
declare -A most limit=([cached]=64 [fetcherd]=64 [devd-io]=8)
case ${BUILD:-build} in
*asan | *tsan) limit=() ;;	# a sanitizer's memory is its own
esac

# push_times FILE REPO: as TIMES images with one erofs and one index
push_times() {
	local n
	mkdir "$T/$2"
	"$BIN/shedpack" index "$1" -o "$T/$2/pack" >/dev/null \
		2>>"$T/shedpack.log"
	for ((n = 0; n < TIMES; n++)); do
		echo "$n" >"$T/kernel"
		image_push "$1" "test/$2:v$n" --chunks "$T/$2/pack/index" \
			--kernel "$T/kernel"
	done
}

sample() {
	local name pid kb
	for name in "${!limit[@]}"; do
		for pid in $(suite_pids "$name"); do
			kb=$(rss_kb "$pid")
			[ "$kb" -le "${most[$name]:-0}" ] || most[$name]=$kb
		done
	done
}

# crowd NAME: reads what the plan of that name says, in the background
crowd() {
	timeout 120 "$TOOLS/crowd.py" --touched "$T/touched" <"$T/$1.plan" \
		>"$T/$1.out" 2>"$T/$1.log" &
	CROWD=$!
}

crowd_ends() { # NAME
	local status=0
	# memory is a level, not an event: sampled while they read
	while kill -0 "$CROWD" 2>/dev/null; do
		sample
		sleep 0.1
	done
	wait "$CROWD" || status=$?
	[ $status -eq 0 ] || fail "$1: $(<"$T/$1.log")"
}

# plan COUNT DEPTH: a line for each device
plan() {
	local i n
	for ((i = 0; i < IMAGES; i++)); do
		for ((n = 0; n < TIMES; n++)); do
			echo "d$i-$n ${uri[d$i-$n]} $T/i$i.erofs $1 $2" \
				"$((i * TIMES + n)) 0 $size"
		done
	done
}

# all_cold [LINES OF CONFIGURATION]: the suite with nothing, and all devices
declare -A uri
all_cold() {
	local i n
	no_hedges
	printf '%s\n' "$@" >>"$T/conf"
	rm -rf "$STORE" "$T/run" "$T/touched"
	mkdir "$T/touched"
	suite_start
	for ((i = 0; i < IMAGES; i++)); do
		for ((n = 0; n < TIMES; n++)); do
			uri[d$i-$n]=$(ctl attach "$REGISTRY/test/i$i:v$n" \
				--name "d$i-$n")
		done
	done
	device_count $((IMAGES * TIMES)) || fail "not as many devices as images"
	registry_mark
}

# fair NAME: none was done before all had an answer
fair() {
	awk '{ if ($2 > first) first = $2
			if (!last || $3 < last) last = $3 }
		END { print "NOTE: '"$1"': each of", NR, "devices had one of" \
			" the first", first, "answers, and none was done" \
			" before", last; exit !(NR && first < last) }' \
		"$T/$1.out" ||
		fail "$1: a device was done before each had an answer"
}

of_images() { # JQ-PATH: its sum, of the devices NAME-0
	ctl ls --json | jq "[.devices[] | select(.name | endswith(\"-0\"))
		| .name] | .[]" -r | while read -r name; do
		status_of "$name" "$1"
	done | jq -s add
}

waiting() { # reads, of all images; each device tells of all reads of its image
	ctl ls --json | jq '[.devices[] | select(.name | endswith("-0"))
		| .stalled_reads] | add'
}

wait_all() { # NUMBER of reads
	[ "$(waiting)" -ge "$1" ]
}

# What the registry sent is what is present, so that nothing came twice.
same_bytes() {
	sent=$(registry_bytes)
	[ "$sent" -eq "$(of_images .bytes.present)" ]
}

fetched_once() { # NAME, after which nothing is wanted any more
	local sent i touched=0
	for ((i = 0; i < IMAGES; i++)); do
		touched=$((touched + $(cat "$T/touched/d$i"-* | index_tool \
			touched "$T/i$i/pack/index")))
	done
	# what is read ahead may still come
	wait_until 10 same_bytes ||
		fail "$1: $sent bytes were sent for those present:" \
			"$(of_images .bytes.present)"
	[ "$sent" -ge $touched ] || fail "$1: less is present than was read"
	echo "NOTE: $1: $touched bytes touched, as whole chunks; $sent sent"
}

lasts() { # SECONDS: have reads waited for so long?
	local since
	since=$(status_of d0-0 .stalled_since)
	[ "$since" -gt 0 ] && [ $(($(date +%s) - since)) -ge "$1" ]
}

failed() { # requests
	of_images .requests.failed
}

registry_start
for ((i = 0; i < IMAGES; i++)); do
	image_of "$T/i$i.erofs" $((100 + i)):16000
	push_times "$T/i$i.erofs" "i$i"
	size=$SIZE
done
image_of "$T/big.erofs" 99:48000
push_times "$T/big.erofs" big
big=$SIZE

# all at once
all_cold
plan 60 8 >"$T/cold.plan"
crowd cold
crowd_ends cold
fair cold
fetched_once cold
suite_stop

# and in an outage
all_cold
before=$(failed)
registry_stop
plan 48 $DEPTH >"$T/outage.plan"
crowd outage
wait_until 30 wait_all $((IMAGES * TIMES * DEPTH)) ||
	fail "only $(waiting) reads wait"
wait_until 20 lasts $OUTAGE_S || fail "no outage: $(ctl status d0-0 --json)"
sample
attempts=$(($(failed) - before))
echo "NOTE: outage: $attempts attempts in $OUTAGE_S s for" \
	"$(waiting) reads that wait"
assert_le 1 "$attempts" "attempts in an outage"
assert_le "$attempts" $ATTEMPTS "attempts in an outage"
registry_start
crowd_ends outage
fair outage
fetched_once outage

# A device with one read, and one with a thousand that came before, by two
# requests at a time.
suite_stop
all_cold "[registry \"$REGISTRY\"]" "max-requests = 2"
uri[big-0]=$(ctl attach "$REGISTRY/test/big:v0" --name big-0)
registry_stop
mkfifo "$T/lone.plan"
crowd lone
exec 8>"$T/lone.plan"
echo "many ${uri[big-0]} $T/big.erofs $MANY $MANY 1 0 $big" >&8
wait_until 30 wait_all $MANY || fail "only $(waiting) reads wait"
echo "one ${uri[d0-0]} $T/i0.erofs 1 1 1 0 $size" >&8
wait_until 30 wait_all $((MANY + 1)) || fail "only $(waiting) reads wait"
sample
exec 8>&-
registry_start
crowd_ends lone
place=$(awk '$1 == "one" { print $2 }' "$T/lone.out")
echo "NOTE: one read, and $MANY of another image before it: it was answer $place"
# two ranges of 4 MiB may be on their way, of 47
assert_le "$place" $((MANY / 3)) "the place of one read behind $MANY"

for name in "${!limit[@]}"; do
	echo "NOTE: RssAnon of $name ${most[$name]} kB at most"
	assert_le "${most[$name]}" $((limit[$name] * 1024)) "RssAnon of $name, kB"
done
suite_stop
