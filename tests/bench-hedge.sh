#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The end of `make bench-link`: demand reads, one at a time and by chance, where
# one of two mirrors answers some requests much slower than the others: without
# and with hedges.  Nothing here passes or fails.  Environment:
#
#	READS=1500
#	USUAL=5 SLOW=250 EVERY=50	an answer takes so many ms, one of so many
#				takes so much
#	HEDGE=5			of 100 requests, so many may be sent twice
. "$(dirname "$0")/e2e/lib.sh"

READS=${READS:-1500}
WARM=50
USUAL=${USUAL:-5} SLOW=${SLOW:-250} EVERY=${EVERY:-50}
HEDGE=${HEDGE:-5}
STEP=262144		# bytes: the largest chunk, so that each read is a miss

places() { # FIRST COUNT: offsets, by chance but the same each time
	/usr/bin/python3 -c 'import random, sys
first, count, step, n = map(int, sys.argv[1:])
places = list(range(n))
random.Random(1).shuffle(places)
for p in places[first:first + count]: print(p * step)' \
		"$1" "$2" $STEP $((READS + WARM))
}

# run NAME HEDGE: sets P99, and prints a line
run() {
	local name median extra
	printf '[network]\nhedge = %s%%\n[registry "%s"]\nmirrors = %s\n' \
		"$2" "${AT[origin]}" "http://${AT[a]}, http://${AT[b]}" \
		>"$T/conf"
	suite_start
	URI=$(ctl attach "${AT[origin]}/test/base:v1" --name one)
	places 0 $WARM | "$READER" "$URI" random 1 600 >/dev/null
	for name in a b origin; do
		tell $name settle
		: >"$T/$name.requests"
	done
	places $WARM "$READS" | "$READER" "$URI" random 1 600 >"$T/reads"
	for name in a b origin; do
		tell $name settle
	done
	extra=$(jq -s 'map(select(.headers.Range != "bytes=0-0")) |
		map(.headers.Range) | (length - (unique | length)) /
		(unique | length) * 1000 | round / 10' \
		"$T"/{a,b,origin}.requests)
	P99=$(jq .p99_us "$T/reads")
	median=$(jq .median_us "$T/reads")
	awk -v n="$1" -v m="$median" -v p="$P99" -v e="$extra" 'BEGIN { printf(\
		"  %-34s median %.1f p99 %.1f ms, %s%% more requests\n", n,
		m / 1000, p / 1000, e) }'
	suite_stop
	rm -rf "$STORE" "$T/run"
}

READER=$BIN/../tests/tools/reads
half=$(((READS + WARM) * STEP / 2048 / 4 * 4))
image_of "$T/image" 1:$half 2:$half
"$BIN/shedpack" index "$T/image" -o "$T/pack" >/dev/null 2>&1
for name in origin a b; do
	scripted_start $name "$T/image" --index "$T/pack/index"
done
tell origin "fault?blob=slow:$USUAL"
tell b "fault?blob=slow:$USUAL"
tell a "fault?blob=slow:$USUAL:$SLOW:$EVERY"
echo "demand reads, $READS of one chunk; of two mirrors the first takes $USUAL \
ms, and $SLOW ms for one request of $EVERY"
run "no hedges" 0
without=$P99
run "hedges, at most $HEDGE% more" "$HEDGE"
awk -v a="$without" -v b="$P99" 'BEGIN { printf(\
	"  %34s p99 without / with (goal >= 5): %.1f\n", "", a / b) }'
