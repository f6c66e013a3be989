# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced behind lib.sh by the tests that do something to the suite under a
# reader, or several, which compare every byte (tools/reader.py).
#
# Each reader has a name.  It reads all the time, and makes steps of 64 KiB that
# it had not read before: so many as it was allowed.

declare -A READER READER_FROM LOST

reader_start() { # NAME DEVICE FILE
	local from
	mkfifo "$T/$1.to" "$T/$1.from"
	# shellcheck disable=SC2016
	start "reader-$1" bash -c 'exec "${@:2}" <>"$1.to" >"$1.from"' - \
		"$T/$1" "$TOOLS/reader.py" "$2" "$3" paced
	exec {from}<"$T/$1.from"
	READER[$1]=$STARTED_PID READER_FROM[$1]=$from LOST[$1]=0
}

reader_more() { # NAME STEPS: allows it
	echo "more $2" >"$T/$1.to"
}

# reader_made NAME STEPS: waits until it has; its lost connections count up
# ${LOST[NAME]}
reader_made() {
	local line n=$2
	while [ "$n" -gt 0 ]; do
		read -r -t 90 line <&"${READER_FROM[$1]}" ||
			fail "reader $1 makes no progress: $(<"$T/reader-$1.log")
$(ctl ls --json 2>&1)"
		case $line in
		unit) n=$((n - 1)) ;;
		lost) LOST[$1]=$((${LOST[$1]} + 1)) ;;
		esac
	done
}

# reader_end NAME: it must have been right all the time; $T/NAME.json is what it
# says
reader_end() {
	local from=${READER_FROM[$1]}
	echo end >"$T/$1.to"
	cat <&"$from" | tail -n 1 >"$T/$1.json"
	wait "${READER[$1]}" || fail "reader $1: $(<"$T/reader-$1.log")"
	exec {from}<&-
	unset "READER[$1]" "READER_FROM[$1]"
}

readers_made() { # STEPS: each of them, at once
	local name
	for name in "${!READER[@]}"; do
		reader_more "$name" "$1"
	done
	for name in "${!READER[@]}"; do
		reader_made "$name" "$1"
	done
}

# while_reading STEPS COMMAND...: at a moment by chance while each reader makes
# them; and each makes one more behind it.  $LONGEST: the longest from there, ms.
LONGEST=0
while_reading() {
	local steps=$1 early=$((RANDOM % $1)) name before stall
	shift
	for name in "${!READER[@]}"; do
		reader_more "$name" "$steps"
	done
	for name in "${!READER[@]}"; do
		reader_made "$name" $early
	done
	before=$(date +%s%N)
	"$@"
	for name in "${!READER[@]}"; do
		reader_more "$name" 1
		reader_made "$name" $((steps - early + 1))
	done
	stall=$((($(date +%s%N) - before) / 1000000))
	[ $stall -le $LONGEST ] || LONGEST=$stall
}

## kills

declare -A KILLED	# by name: its last pid that was

# another NAME: sets $VICTIM to a process of that name that was not killed yet
another() {
	VICTIM=$(suite_pid "$1") && [ -n "$VICTIM" ] &&
		[ "$VICTIM" != "${KILLED[$1]:-0}" ]
}

victim() { # NAME
	wait_until 60 another "$1" || fail "$1 did not come back"
}

kill_one() { # NAME
	kill -KILL "$VICTIM" || fail "$1 ($VICTIM) was gone already"
	KILLED[$1]=$VICTIM
}

# kills NUMBER STEPS: in all, of each process but the parent in turn, in an order
# by $SEED, while each reader makes so many steps; then all are back
kills() {
	local name order
	mapfile -t order < <(/usr/bin/python3 -c '
import random, sys
names = ["devd-io", "cached", "fetcherd", "devd"]
order = [names[i % 4] for i in range(int(sys.argv[1]))]
random.Random(int(sys.argv[2])).shuffle(order)
print(*order, sep="\n")' "$1" "$SEED")
	for name in "${order[@]}"; do
		victim "$name"
		while_reading "$2" kill_one "$name"
	done
	all_are_back
}

all_are_back() {
	local name
	for name in "${!KILLED[@]}"; do
		victim "$name"
	done
}
