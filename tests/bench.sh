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
