#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# `make bench-link`: cold reads through a simulated link (tests/tools/link.c),
# next to curl, nbdkit and qemu, each in turn and each from cold.  Nothing here
# passes or fails; a figure is the median of RUNS.  Environment:
#
#	CELLS="20/200 1/1000"	round trip in ms / Mbit/s; default: nine of them
#	BUSY="20/200"		where demand reads meet a pull; "" for nowhere
#	RUNS=3
#	SIZE=256		MB that are read in order.  By default 256 at 1000
#				Mbit/s, 128 at 200 and 32 at 50, so that all is
#				done in about 20 minutes
#	PARTS="..."		what is measured: sequential random
#	PEERS="nbdkit qemu"	next to curl
#	PEER_SECONDS=2		so long a peer reads for its rate, ours for 20 at
#				most
#	ORIGIN=nginx		who serves the blobs' files: nginx, or registry
#
# nbdkit's blocks and qemu's readahead have the size of our mean chunk, so that
# everybody fetches equally much for a miss.
. "$(dirname "$0")/e2e/lib.sh"

CELLS=${CELLS-1/50 1/200 1/1000 20/50 20/200 20/1000 100/50 100/200 100/1000}
BUSY=${BUSY-20/200}
PARTS=${PARTS-sequential random}
PEERS=${PEERS-nbdkit qemu}
RUNS=${RUNS:-3}
PEER_SECONDS=${PEER_SECONDS:-2}
ORIGIN=${ORIGIN:-nginx}
WISH_MB=${SIZE-}			# lib.sh has another use for SIZE
MOST_MB=256			# the image has so much
READS=$BIN/../tests/tools/reads
OTHER_QEMU=2097152		# one more readahead of qemu, for sequential reads

## figures: $T/figures/NAME has a value for each run

figure() { # NAME VALUE
	echo "$2" >>"$T/figures/$1"
}
median() { # NAME: nothing for what was not measured
	[ -f "$T/figures/$1" ] || return 0
	sort -n "$T/figures/$1" |
		awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}
# better LEAST|MOST NAME...: the best of those figures
better() {
	local name pick=1
	[ "$1" = most ] || pick='$'
	shift
	for name; do
		median "$name"
	done | sort -rn | sed -n "${pick}p"
}
quotient() { # A B
	awk -v a="$1" -v b="$2" 'BEGIN {
		print (b > 0 ? sprintf("%.2f", a / b) : "-") }'
}
# row TITLE UNIT FIGURE...: each by the name behind its first dash
row() {
	local title=$1 unit=$2 name value line
	shift 2
	line=$(printf '  %-34s' "$title, $unit")
	for name; do
		value=$(median "$name")
		line+=$(printf ' %s %s ' "${name#*-}" "${value:--}")
	done
	echo "$line"
}
goal() { # TEXT RATIO
	printf '  %34s %s: %s\n' '' "$1" "$2"
}

now_us() {
	echo "${EPOCHREALTIME/[.,]/}"
}
mb_per_s() { # BYTES MICROSECONDS
	awk -v b="$1" -v t="$2" 'BEGIN { printf "%.2f", b / t }'
}

## the origin and the images

a_url() {
	echo "http://$LINK/v2/test/a/blobs/$A"
}

origin_start() {
	registry_start
	ORIGIN_AT=$REGISTRY
	[ "$ORIGIN" = nginx ] || return 0
	nginx_start "location / {
			proxy_pass http://$REGISTRY;
			proxy_set_header Host \$http_host;
		}
		location ~ ^/v2/.+/blobs/sha256:(..)(.*)\$ {
			alias $T/registry/docker/registry/v2/blobs/sha256/\$1/\$1\$2/data;
			default_type application/octet-stream;
			sendfile on;
			access_log off;
			keepalive_requests 1000000;
		}"
	ORIGIN_AT=$NGINX
}

image() { # NAME SEED
	local quarter=$((MOST_MB * 256))
	image_of "$T/$1.erofs" "${2}1:$quarter" "${2}2:$quarter" \
		"${2}3:$quarter" "${2}4:$quarter"
	image_push "$T/$1.erofs" "test/$1:v1"
	image_annotate "$T/$1.erofs"
	rm "$T/$1.erofs"
}

## ours

ours_cold() { # a new store; sets URI
	suite_stop
	rm -rf "$STORE" "$T/run"
	suite_start
	URI=$(ctl attach "$LINK/test/a:v1" --name one 2>>"$T/attach.log")
}
cpu_ticks() { # PID...
	local pid sum=0
	for pid; do
		sum=$((sum + $(awk '{ sub(/.*\) /, ""); print $12 + $13 }' \
			"/proc/$pid/stat")))
	done
	echo $sum
}
# What the suite and the link did in a run, for who tunes it; the link is looked
# at last before and first behind.
watched() {
	local name
	for name in cached fetcherd devd-io; do
		cpu_ticks "$(suite_pid $name)"
	done
	cpu_ticks "$LINK_PID"
	ctl status one --json | jq '.requests.sent, .bytes.fetched'
}
watch_from() {
	watched >"$T/watched"
	link_say stats >"$T/watched.link"
}
watch_to() { # TITLE
	link_say stats >>"$T/watched.link"
	watched >>"$T/watched"
	jq -nr --arg t "$1" --slurpfile w "$T/watched" \
		--slurpfile l "$T/watched.link" '
		([range(6)] | map($w[. + 6] - $w[.])) as $d |
		(($l[1].at_us - $l[0].at_us) / 1e6) as $s |
		($l[1].down_busy_us - $l[0].down_busy_us) as $busy |
		"    \($t): \($d[4]) requests of \($d[5] / ([$d[4], 1] | max) /
		1024 | round) KiB, link \($busy / $s / 1e4 | round)% busy, " +
		"\($l[1].accepted - $l[0].accepted) new connections, CPU s: " +
		"cached \($d[0] / 100) fetcherd \($d[1] / 100) " +
		"devd-io \($d[2] / 100) link \($d[3] / 100) of \($s * 100 |
		round / 100)"'
}

## peers

peer_start() { # NAME [READAHEAD]: sets PEER_URI
	local socket=$T/$1.sock url
	url=$(a_url)
	rm -f "$socket"
	case $1 in
	nbdkit)
		start nbdkit nbdkit -f -r -U "$socket" --filter=readahead \
			--filter=cache curl "url=$url" cache-on-read=true \
			cache-min-block-size="$BLOCK"
		PEER_URI="nbd+unix:///?socket=$socket"
		;;
	qemu)
		start qemu qemu-nbd -r -t -k "$socket" --shared=8 -x '' \
			--image-opts "driver=raw,file.driver=http,file.url=$url,\
file.readahead=${2:-$READAHEAD}"
		PEER_URI="nbd+unix:///?socket=$socket"
		;;
	esac
	PEER_PID=$STARTED_PID
	wait_until 30 test -S "$socket" || fail "$1 did not start"
}
peer_stop() {
	end_pid "$PEER_PID"
}

## in order

# in_order FIGURE URI CONNECTIONS DEPTH REQUEST SECONDS
in_order() {
	"$READS" "$2" sequential "$5" "$3" "$4" "$BYTES" "$6" >"$T/read.json" ||
		fail "cannot read $2 in order"
	figure "$1" "$(jq '.bytes / .seconds / 1e4 | round / 100' "$T/read.json")"
}
curls() { # FIGURE NUMBER: the same bytes by so many in parallel
	local from i part pids=() start=$((A_SIZE - BYTES))
	part=$((BYTES / $2))
	from=$(now_us)
	for ((i = 0; i < $2; i++)); do
		curl -sf -o /dev/null -r \
			"$((start + i * part))-$((start + (i + 1) * part - 1))" \
			"$(a_url)" &
		pids+=($!)
	done
	wait "${pids[@]}"
	figure "$1" "$(mb_per_s "$BYTES" $(($(now_us) - from)))"
}
# one plain reader, and nbdcopy's default: 4 connections of 64 requests
sequential() {
	local peer
	ours_cold
	watch_from
	in_order seq-ours "$URI" 1 1 131072 20
	watch_to "ours, depth 1"
	ours_cold
	watch_from
	in_order deep-ours "$URI" 4 64 262144 20
	watch_to "ours, deep"
	curls seq-curl 1
	curls seq-4curls 4
	for peer in $PEERS; do
		peer_start "$peer"
		in_order "seq-$peer" "$PEER_URI" 1 1 131072 "$PEER_SECONDS"
		peer_stop
		peer_start "$peer"
		in_order "deep-$peer" "$PEER_URI" 4 64 262144 "$PEER_SECONDS"
		peer_stop
	done
	[[ $PEERS != *qemu* ]] || {
		peer_start qemu $OTHER_QEMU
		in_order seq-qemu2M "$PEER_URI" 1 1 131072 "$PEER_SECONDS"
		peer_stop
	}
}
sequential_rows() {
	local best peers kind title
	best=$(better most seq-curl seq-4curls)
	for kind in seq deep; do
		title="in order, 128 KiB at depth 1"
		[ $kind = seq ] ||
			title="in order, 256 KiB, 4 x depth 64"
		peers=$(better most $kind-nbdkit $kind-qemu)
		# shellcheck disable=SC2046
		row "$title" MB/s $kind-ours seq-curl seq-4curls $kind-nbdkit \
			$kind-qemu $([ $kind = deep ] || echo seq-qemu2M)
		goal "ours / better curl (goal >= 0.95)" \
			"$(quotient "$(median $kind-ours)" "$best")"
		goal "ours / better peer (goal >= 0.95)" \
			"$(quotient "$(median $kind-ours)" "$peers")"
	done
}

## by chance

sample() { # PART COUNT
	"$TOOLS/sample.py" "$T/index" "$2" "$1" 4
}
# by_chance FIGURE URI DEPTH PART COUNT [SECONDS]
by_chance() {
	sample "$4" "$5" | cut -d ' ' -f 1 |
		"$READS" "$2" random "$3" "${6:-60}" >"$T/read.json" ||
		fail "cannot read $2 by chance"
	if [ "$3" = 1 ]; then
		figure "$1" "$(jq '.median_us / 10 | round / 100' "$T/read.json")"
	else
		figure "$1" "$(jq '.reads / .seconds * 10 | round / 10' \
			"$T/read.json")"
	fi
}
# One process and one connection, a request after the other; of each its time.
curl_chunks() { # FIGURE PART COUNT
	sample "$2" "$3" | awk -v u="$(a_url)" '{
		if (NR > 1) print "next"
		print "silent\nfail\nurl = \"" u "\"\noutput = /dev/null"
		print "range = " $2 "-" $2 + $3 - 1
		print "write-out = \"%{num_connects} %{time_total}\\n\"" }' \
		>"$T/curl.conf"
	curl -K "$T/curl.conf" >"$T/curl.out" || fail "curl failed"
	figure "$1" "$(awk '$1 == 0 { print $2 * 1000 }' "$T/curl.out" |
		sort -n | awk '{ v[NR] = $1 } END {
			printf "%.2f", v[int((NR + 1) / 2)] }')"
}
curl_chunks_parallel() { # FIGURE PART COUNT
	local from
	sample "$2" "$3" | awk -v u="$(a_url)" '{
		if (NR > 1) print "next"
		print "silent\nfail\nurl = \"" u "\"\noutput = /dev/null"
		print "range = " $2 "-" $2 + $3 - 1 }' >"$T/curl.conf"
	from=$(now_us)
	curl -Z --parallel-max 16 --parallel-immediate -K "$T/curl.conf" \
		>/dev/null 2>&1 || fail "curl failed"
	figure "$1" "$(awk -v n="$3" -v t=$(($(now_us) - from)) \
		'BEGIN { printf "%.1f", n / t * 1e6 }')"
}
# The reads of depth 1 and those of depth 16 have no chunk in common.
random() {
	local peer alone=100 many=400
	[ "$RTT" -lt 50 ] || alone=40
	ours_cold
	watch_from
	by_chance rand-ours "$URI" 1 0 $alone
	watch_to "ours, random depth 1"
	watch_from
	by_chance many-ours "$URI" 16 1 $many
	watch_to "ours, random depth 16"
	curl_chunks rand-curl 0 $alone
	curl_chunks_parallel many-curl 1 $many
	for peer in $PEERS; do
		peer_start "$peer"
		by_chance "rand-$peer" "$PEER_URI" 1 0 $alone
		by_chance "many-$peer" "$PEER_URI" 16 1 $many "$PEER_SECONDS"
		peer_stop
	done
}
random_rows() {
	row "4 KiB by chance, depth 1, median" ms rand-ours rand-curl \
		rand-nbdkit rand-qemu
	goal "ours / curl (goal <= 1.1)" \
		"$(quotient "$(median rand-ours)" "$(median rand-curl)")"
	goal "ours / better peer (goal <= 1.05)" "$(quotient \
		"$(median rand-ours)" "$(better least rand-nbdkit rand-qemu)")"
	row "4 KiB by chance, depth 16" reads/s many-ours many-curl \
		many-nbdkit many-qemu
	goal "ours / better peer (goal >= 0.95)" "$(quotient \
		"$(median many-ours)" "$(better most many-nbdkit many-qemu)")"
}

## both at once: reads that somebody waits for, while another image is pulled

moves() { # BYTES: has the link passed so much since WATCH?
	[ "$(link_say stats | jq .down)" -gt $((PULL_FROM + $1)) ]
}
busy() {
	local pull seconds
	# it must last longer than the reads
	seconds=$((MOST_MB * 8 * 6 / 10 / MBIT))
	[ $seconds -ge 1 ] || seconds=1
	ours_cold
	by_chance idle-ours "$URI" 1 0 100
	PULL_FROM=$(link_say stats | jq .down)
	"$BIN/shedctl" --socket "$T/run/control.sock" pull "$LINK/test/b:v1" \
		>>"$T/attach.log" 2>&1 &
	pull=$!
	wait_until 30 moves $((8 << 20)) || fail "the pull does not begin"
	watch_from
	sample 1 400 | cut -d ' ' -f 1 |
		"$READS" "$URI" random 1 $seconds >"$T/read.json"
	watch_to "reads while another image is pulled"
	kill -0 $pull 2>/dev/null || echo "  the pull was done too soon"
	figure busy-ours "$(jq '.median_us / 10 | round / 100' "$T/read.json")"
	figure busy-p90 "$(jq '.p90_us / 10 | round / 100' "$T/read.json")"
	figure busy-share "$(jq -n --slurpfile l "$T/watched.link" \
		--slurpfile r "$T/read.json" --argjson mean $MEAN \
		--argjson rate "$MBIT" '
		($l[1].down - $l[0].down - $r[0].reads * $mean) /
		(($l[1].at_us - $l[0].at_us) * $rate / 8) * 100 |
		round / 100')"
	kill $pull 2>/dev/null || true
	wait $pull 2>/dev/null || true
}
busy_rows() {
	row "4 KiB, depth 1, nothing else, median" ms idle-ours
	row "the same while a pull runs" ms busy-ours busy-p90
	goal "busy / idle (goal <= 2)" \
		"$(quotient "$(median busy-ours)" "$(median idle-ours)")"
	goal "the pull's share of the link (goal >= 0.8)" \
		"$(median busy-share)"
}

## all

cell_start() { # RTT/MBIT
	RTT=${1%/*} MBIT=${1#*/}
	rm -rf "$T/figures"
	mkdir "$T/figures"
	link_start "$ORIGIN_AT" "$RTT" "$MBIT"
	MB=${WISH_MB:-$((MBIT >= 1000 ? 256 : MBIT >= 200 ? 128 : 32))}
	[ "$MB" -le $MOST_MB ] || MB=$MOST_MB
	BYTES=$((MB << 20))
}
cell_end() {
	suite_stop
	end_pid "$LINK_PID"
	suite_start
}

jq -r '"the link adds \(.added_us / 1000) ms to a round trip (goal <= 0.2) " +
	"and passes \(.gbit) Gbit/s (goal >= 5; \(.direct_gbit) without it)"' \
	< <("$TOOLS/link_floor.py" "$BIN/../tests/tools/link")
origin_start
image b 2
image a 1
A=$EROFS A_SIZE=$SIZE
cp "$T/pack/index" "$T/index"
MEAN=$((A_SIZE / $(index_tool show "$T/index" | jq .chunks)))
# qemu reads so much beyond what it was asked for, in sectors
READAHEAD=$(((MEAN - 4096) / 512 * 512))
# nbdkit's are powers of 2
BLOCK=4096
while [ $((BLOCK * 3 / 2)) -lt $MEAN ]; do
	BLOCK=$((BLOCK * 2))
done
echo "chunks: $((MEAN / 1024)) KiB on average; nbdkit's blocks: $((BLOCK / 1024))" \
	"KiB; origin: $ORIGIN; runs: $RUNS"
suite_start
for cell in $CELLS; do
	cell_start "$cell"
	echo "$RTT ms, $MBIT Mbit/s ($MB MB in order, peers for" \
		"$PEER_SECONDS s)"
	for ((run = 0; run < RUNS; run++)); do
		for part in $PARTS; do
			$part
		done
	done
	for part in $PARTS; do
		"${part}_rows"
	done
	cell_end
done
for cell in $BUSY; do
	cell_start "$cell"
	echo "$RTT ms, $MBIT Mbit/s, reads while another image is pulled"
	for ((run = 0; run < RUNS; run++)); do
		busy
	done
	busy_rows
	cell_end
done
suite_stop
