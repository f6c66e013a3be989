#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# `make bench-device`: hot reads of every kind of device, next to what else
# could present it, in one run.  Each round measures all candidates, forwards
# and backwards in turn; a figure is the median of its rounds, a ratio the median
# of the rounds' own ratios, to that one of the others where it is least.
# Nothing here passes or fails: `met` and `missed` are about the goal, the exit
# status about errors.  Environment:
#
#	RUNS=7			rounds
#	SIZE=256		MB of the image that is read
#	EACH=0.5		seconds of one reading, at most
#	PARTS="file nbd many guest"
#		file	root only: a file with its pages warm next to a local
#			file; and cold, next to libfuse's own passthrough_ll
#		nbd	next to nbdkit's file plugin and to qemu-nbd
#		many	10 devices at once next to one, as files (root only) and
#			by NBD
#		guest	ublk next to a loop device, in the test bed, where a
#			ratio says little: its line has counts as well
#
# Cold is a page of the file; below it, all of the store is in memory.
. "$(dirname "$0")/e2e/lib.sh"

RUNS=${RUNS:-7}
IMAGE_MB=${SIZE:-256}			# lib.sh has another use for SIZE
EACH=${EACH:-0.5}
PARTS=${PARTS-file nbd many guest}
MANY=10
MANY_KIB=16384				# of each of so many
READS=$BIN/../tests/tools/reads
FILE_READS=$BIN/../tests/tools/file_reads
EXAMPLE=/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c
RSS_MOST_KB=8192			# besides the buffers of its queue
PRESENT=

## figures: line N of $T/figures/NAME is that of round N

figure() { # NAME VALUE
	echo "$2" >>"$T/figures/$1"
}
median() { # of standard input
	sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}
# ratio OURS OTHER...
ratio() {
	local ours=$1 other
	shift
	for other; do
		paste "$T/figures/$ours" "$T/figures/$other" |
			awk '{ printf "%.3f\n", $1 / $2 }' | median
	done | sort -n | head -n 1
}
verdict() { # VALUE >=|<= GOAL
	awk -v a="$1" -v ge="$2" -v b="$3" 'BEGIN {
		print ((ge == ">=" ? a >= b : a <= b) ? "met" : "missed") }'
}
line() { # TITLE FIGURES RATIO GOAL VERDICT
	printf '%-38s %-42s %6s  %-9s %s\n' "$@"
}
# row TITLE GOAL OURS OTHER...: figures are called by what is behind their first
# dash; no goal: -
row() {
	local title=$1 goal=$2 name figures='' r
	shift 2
	for name; do
		figures+="${name#*-} $(median <"$T/figures/$name"), "
	done
	r=$(ratio "$@")
	if [ "$goal" = - ]; then
		line "$title" "${figures%, }" "$r" - ''
	else
		line "$title" "${figures%, }" "$r" ">= $goal" \
			"$(verdict "$r" '>=' "$goal")"
	fi
}
left_out() { # PART REASON
	echo "$1: skipped: $2"
}
# in_turn ROUND NAME...: forwards, or backwards
in_turn() {
	local round=$1
	shift
	if [ $((round % 2)) -eq 0 ]; then
		printf '%s\n' "$@"
	else
		printf '%s\n' "$@" | tac
	fi
}

## devices

# store_of INDEX: the file that its bytes lie in
store_of() {
	find "$STORE/layouts/${1#sha256:}" -type f -name 'data.*' | grep . ||
		fail "the store has no file of $1"
}
leave() { # NAME: it must go
	ctl detach "$1"
	wait_until 20 gone "$1" || fail "$1 is left"
}

# rss_row KIND: the most that a worker has, now that all was read
rss_row() {
	local pid rss
	rss=$(for pid in $(suite_pids devd-io); do
		rss_kb "$pid"
	done | sort -n | tail -n 1)
	line "$1, RssAnon of a worker, KiB" "$rss" - "<= $RSS_MOST_KB" \
		"$(verdict "$rss" '<=' $RSS_MOST_KB)"
}

## a file

can_file() { # PART
	[ "$(id -u)" -eq 0 ] || { left_out "$1" "needs root"; return 1; }
	[ -c /dev/fuse ] || { left_out "$1" "no /dev/fuse"; return 1; }
}

# by_file FIGURE HOW SIZE READERS FILE...
by_file() {
	local name=$1 unit='.reads / .seconds'
	shift
	[ "$1" != order ] || unit='.bytes / .seconds / 1e6'
	"$FILE_READS" "$1" "$2" "$EACH" "${@:3}" >"$T/read.json" ||
		fail "cannot read ${*:4}"
	figure "$name" "$(jq "$unit | round" "$T/read.json")"
}

# libfuse_start: sets PASSED, the image by libfuse, or leaves it empty
libfuse_start() {
	local flags
	PASSED=
	if [ ! -f $EXAMPLE ] || ! flags=$(pkg-config --cflags --libs fuse3); then
		left_out "file, cold" "no libfuse3-dev with its examples"
		return 0
	fi
	# shellcheck disable=SC2086
	gcc -O2 -o "$T/passthrough" "$EXAMPLE" $flags 2>"$T/err" ||
		fail "$EXAMPLE: $(<"$T/err")"
	mkdir "$T/below" "$T/passed"
	ln "$T/a.erofs" "$T/below/a"
	start passthrough "$T/passthrough" -f -o source="$T/below" \
		-o cache=always "$T/passed"
	PASSED=$T/passed/a
	wait_until 10 test -f "$PASSED" || fail "the passthrough did not start"
}
undo() {
	! mountpoint -q "$T/passed" || umount -l "$T/passed"
}

part_file() {
	local i who how cold=("cold 4096 1" "cold 4096 4" "order 131072 1")
	declare -A at below
	can_file file || return 0
	at[ours]=$(ctl attach "$A" --name a --present file)
	cmp "${at[ours]}" "$T/a.erofs" || fail "the file has other bytes"
	at[local]=$T/a.erofs
	libfuse_start
	at[libfuse]=$PASSED
	below=([ours]=$(store_of "$A_INDEX") [libfuse]=$T/a.erofs)
	[ -n "$PASSED" ] || cold=()
	for ((i = 0; i < RUNS; i++)); do
		for who in $(in_turn $i ours local); do
			by_file "warm-$who" warm 4096 1 "${at[$who]}"
		done
		for who in $(in_turn $i ours local); do
			by_file "warm64-$who" warm 65536 1 "${at[$who]}"
		done
		for how in "${cold[@]}"; do
			for who in $(in_turn $i ours libfuse); do
				# shellcheck disable=SC2086
				by_file "${how// /_}-$who" $how \
					"${at[$who]}=${below[$who]}"
			done
		done
	done
	row "file, warm, 4 KiB, reads/s" 0.9 warm-ours warm-local
	row "file, warm, 64 KiB, reads/s" - warm64-ours warm64-local
	if [ -n "$PASSED" ]; then
		row "file, cold, 4 KiB, reads/s" 1.2 cold_4096_1-{ours,libfuse}
		row "file, cold, 4 KiB, 4 readers" - cold_4096_4-{ours,libfuse}
		row "file, cold, in order, MB/s" 1.2 order_131072_1-{ours,libfuse}
	fi
	rss_row file
	leave a
}

## NBD

by_nbd() { # FIGURE URI random DEPTH, or sequential DEPTH
	if [ "$3" = random ]; then
		"$READS" "$2" random "$4" 1 <"$T/offsets" >"$T/read.json"
		figure "$1" "$(jq '.reads / .seconds | round' "$T/read.json")"
	else
		"$READS" "$2" sequential 262144 1 "$4" "$A_SIZE" 10 >"$T/read.json"
		figure "$1" "$(jq '.bytes / .seconds / 1e6 | round' "$T/read.json")"
	fi
}

peer_start() { # NAME COMMAND...: listens at $T/NAME.sock
	local name=$1
	shift
	start "$name" "$@"
	wait_until 10 test -S "$T/$name.sock" || fail "$name did not start"
	at[$name]="nbd+unix:///?socket=$T/$name.sock"
}

offsets() { # BYTES COUNT: of 4 KiB by chance, the same each time
	awk -v n="$(($1 / 4096))" -v count="$2" 'BEGIN { srand(7)
		for (i = 0; i < count; i++) print int(rand() * n) * 4096 }'
}

part_nbd() {
	local i who how
	declare -A at
	at[ours]=$(ctl attach "$A" --name a --present nbd)
	peer_start nbdkit nbdkit -f -r -U "$T/nbdkit.sock" file "$T/a.erofs"
	peer_start qemu qemu-nbd -r -t -f raw --shared=8 -x '' \
		-k "$T/qemu.sock" "$T/a.erofs"
	for who in "${!at[@]}"; do
		nbdcopy "${at[$who]}" null:
	done
	offsets "$A_SIZE" 20000 >"$T/offsets"
	for ((i = 0; i < RUNS; i++)); do
		for how in "random 1" "random 16" "sequential 1" "sequential 16"; do
			for who in $(in_turn $i ours nbdkit qemu); do
				# shellcheck disable=SC2086
				by_nbd "${how// /_}-$who" "${at[$who]}" $how
			done
		done
	done
	row "nbd, 4 KiB, depth 1, reads/s" 1 random_1-{ours,nbdkit,qemu}
	row "nbd, 4 KiB, depth 16, reads/s" 1 random_16-{ours,nbdkit,qemu}
	row "nbd, 256 KiB in order, depth 1, MB/s" 1 \
		sequential_1-{ours,nbdkit,qemu}
	row "nbd, 256 KiB in order, depth 16, MB/s" 1 \
		sequential_16-{ours,nbdkit,qemu}
	rss_row nbd
	leave a
}

## many

# attach_many KIND: sets at[N], each read once
attach_many() {
	local n
	for ((n = 0; n < MANY; n++)); do
		at[n]=$(ctl attach "${NAME[m$n]}" --name "m$n" --present "$1")
		if [ "$1" = file ]; then
			cat "${at[n]}" >/dev/null
		else
			nbdcopy "${at[n]}" null:
		fi
	done
}
leave_many() {
	local n
	for ((n = 0; n < MANY; n++)); do
		leave "m$n"
	done
}

# reads_at_once FIGURE URI...: all rates together
reads_at_once() {
	local name=$1 uri pids=() n=0
	shift
	for uri; do
		"$READS" "$uri" random 16 1 <"$T/offsets" >"$T/many.$n.json" &
		pids+=($!)
		n=$((n + 1))
	done
	for n in "${pids[@]}"; do
		wait "$n" || fail "a reader of many failed"
	done
	figure "$name" "$(cat "$T"/many.*.json |
		jq -s 'map(.reads / .seconds) | add | round')"
	rm "$T"/many.*.json
}

part_many() {
	local i n
	local -a at cold=()
	for ((n = 0; n < MANY; n++)); do
		image_make "m$n" "2$n:$MANY_KIB"
		ctl pull "${NAME[m$n]}" 2>>"$T/pull.err"
	done
	if can_file "many, file"; then
		attach_many file
		for ((n = 0; n < MANY; n++)); do
			cold+=("${at[n]}=$(store_of "${LAYOUT[m$n]##*/}")")
		done
		for ((i = 0; i < RUNS; i++)); do
			by_file files-10 cold 4096 1 "${cold[@]}"
			by_file files-1 cold 4096 1 "${cold[0]}"
		done
		row "file, cold, 4 KiB, 10 devices : 1" - files-10 files-1
		rss_row "10 files"
		leave_many
	fi
	attach_many nbd
	offsets $((MANY_KIB * 1024)) 90000 >"$T/offsets"
	for ((i = 0; i < RUNS; i++)); do
		reads_at_once nbds-10 "${at[@]}"
		reads_at_once nbds-1 "${at[0]}"
	done
	row "nbd, 4 KiB, depth 16, 10 devices : 1" - nbds-10 nbds-1
	rss_row "10 by nbd"
	leave_many
}

## ublk

part_guest() {
	local status=0
	(bed_test trixie 065) >"$T/guest" || status=$?
	case $status in
	0 | 77) sed 's/^NOTE: //; s/^SKIP: /guest: skipped: /' "$T/guest" ;;
	*) fail "$(<"$T/guest")" ;;
	esac
}

## all

mkdir "$T/figures"
registry_start
image_of "$T/a.erofs" 11:$((IMAGE_MB * 512)) 12:$((IMAGE_MB * 512))
image_push "$T/a.erofs" test/a:v1
image_annotate "$T/a.erofs"
A=$IMAGE A_INDEX=$INDEX A_SIZE=$SIZE
suite_start
ctl pull "$A" 2>"$T/pull.err"
line "$(uname -r), $(nproc) CPUs, $RUNS rounds" "" ratio goal ""
for part in $PARTS; do
	"part_$part"
done
suite_stop
