#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# `make bench`: ratios of one run, each pair measured in turn; nothing here
# passes or fails.  Seconds are medians of RUNS=5.
. "$(dirname "$0")/e2e/lib.sh"

RUNS=${RUNS:-5}
image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)

seconds() { # COMMAND...
	local from=$EPOCHREALTIME
	"$@" >/dev/null
	echo "$from $EPOCHREALTIME" | awk '{ print $2 - $1 }'
}
median() {
	sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}
# pair NAME COMMAND-A COMMAND-B: both, in turn
pair() {
	local a=() b=() i
	for ((i = 0; i < RUNS; i++)); do
		a+=("$(seconds bash -c "$2")")
		b+=("$(seconds bash -c "$3")")
	done
	printf '%s\n' "${a[@]}" | median >"$T/a"
	printf '%s\n' "${b[@]}" | median >"$T/b"
	awk -v n="$1" '{ getline b <"'"$T/b"'"; printf "%-46s %.3f s, %.3f s, " \
		"ratio %.2f\n", n, $1, b, $1 / b }' "$T/a"
}

cold() { # a new store, a first copy
	suite_stop
	rm -rf "$T/store" "$T/run"
	suite_start
	uri=$(ctl attach "$IMAGE" --name one --integrity complete)
}
ours=() theirs=()
for ((i = 0; i < RUNS; i++)); do
	cold
	ours+=("$(seconds nbdcopy "$uri" null:)")
	theirs+=("$(seconds curl -s -o /dev/null \
		"http://$REGISTRY/v2/test/base/blobs/$EROFS")")
done
printf '%s\n' "${ours[@]}" | median >"$T/a"
printf '%s\n' "${theirs[@]}" | median >"$T/b"
awk '{ getline b <"'"$T/b"'"; printf "%-46s %.3f s, %.3f s, ratio %.2f\n",
	"cold copy / curl of the blob", $1, b, $1 / b }' "$T/a"

nbdkit -f -r -U "$T/file.sock" file "$SMALL" >"$T/nbdkit.log" 2>&1 &
STARTED+=($!)
wait_until 10 test -S "$T/file.sock" || fail "nbdkit did not start"
other="nbd+unix:///?socket=$T/file.sock"
nbdcopy "$uri" null:
pair "hot copy / nbdkit file plugin" \
	"nbdcopy '$uri' null:" "nbdcopy '$other' null:"
pair "hot copy, 4 KiB requests, / nbdkit file plugin" \
	"nbdcopy --request-size=4096 '$uri' null:" \
	"nbdcopy --request-size=4096 '$other' null:"
suite_stop

# The store by itself.  keep: what cached's threads hash and write.
store=$BIN/../tests/store/bench
export BUILD=${BUILD:-build}
kept() { # COMMAND...
	local i
	for ((i = 0; i < RUNS; i++)); do
		"$@" "$store" keep "$T" | awk '{ print $2 }'
	done | median
}
openssl_rate() {
	taskset -c 0 openssl speed -mr -bytes 65536 -seconds 1 sha256 \
		2>/dev/null | awk -F: '/^.F:/ { printf "%.0f\n", $4 }'
}
hash=$(for ((i = 0; i < RUNS; i++)); do openssl_rate; done | median)
one=$(kept taskset -c 0)
both=$(kept env)
awk -v h="$hash" -v a="$one" -v b="$both" 'BEGIN {
	printf "%-46s %.0f MB/s, %.0f MB/s, ratio %.2f\n",
	    "verify and store, one core / openssl sha256", a / 1e6, h / 1e6,
	    a / h
	printf "%-46s %.0f MB/s, %.0f MB/s, ratio %.2f\n",
	    "verify and store, all cores / one core", b / 1e6, a / 1e6, b / a
}'
"$store" touch | awk '{ v[$1] = $2 } END {
	printf "%-46s %.1f us, %.1f us, ratio %.2f\n",
	    "first touch / hot read", v["first_touch_us_per_read"],
	    v["hot_us_per_read"],
	    v["first_touch_us_per_read"] / v["hot_us_per_read"] }'
for chunks in 5000 20000; do
	"$store" known 100 $chunks 10 | awk -v n=$chunks '{ v[$1] = $2 } END {
		printf "%-46s %.2f ms (worst of 10 %.2f)\n",
		    "attach of a known image, " n " chunks",
		    v["attach_known_ms_best"], v["attach_known_ms_worst"]
		printf "%-46s %.0f ms, RssAnon %.1f MB, 10 attached %.1f MB\n",
		    "start with 100 images known, " n " chunks", v["start_ms"],
		    v["rss_anon_known_kb"] / 1024,
		    v["rss_anon_attached_kb"] / 1024 }'
done
