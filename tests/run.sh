#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh [PATTERN]...: the runner behind `make check`.  Runs the unit tests, the
# mixes under their sanitizers, then tests/e2e/NNN-*.sh in order, once as the
# user who calls and, where that is root, once more as an ordinary user.
# PATTERNs choose tests by name.  Environment:
#   BUILD=DIR         another build directory than build/
#   PASSES="root user"  which passes of the e2e tests, when root
#   TEST_TIMEOUT=300  seconds per test; a line `# LIMIT: N` in it allows it more
# Its last line is `N passed, N failed, N skipped`; it exits 1 if any failed.
set -uo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.." || exit
BUILD=${BUILD:-build}
TEST_TIMEOUT=${TEST_TIMEOUT:-300}
limit=$TEST_TIMEOUT	# of what runs now
passed=0 failed=0 skipped=0
patterns=("$@")

work=$(mktemp -d "${TMPDIR:-/tmp}/ssrun.XXXXXX")
chmod 711 "$work"
out=$work/out
trap 'rm -rf "$work"' EXIT
trap 'stop 130' INT
trap 'stop 143' HUP TERM
child=

# The runner was told to end: the test that runs ends first, and cleans up.
stop() {
	[ -z "$child" ] || { kill "$child" && wait "$child"; }
	leftovers
	exit "$1"
}

# bounded COMMAND...: output to $out; 124 when it took too long
bounded() {
	local status
	timeout -k 30 "$limit" "$@" >"$out" 2>&1 </dev/null &
	child=$!
	wait "$child"
	status=$?
	child=
	return $status
}

now_ms() {
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

report() { # ok|not ok|skip NAME MILLISECONDS [REASON]
	printf '%s %s %d.%ds%s\n' "$1" "$2" $(($3 / 1000)) \
		$(($3 % 1000 / 100)) "${4:+ # $4}"
}

notes() {
	sed -n 's/^NOTE: //p' "$out" | paste -sd ';'
}

# The first report of a sanitizer in the output.  A process that may open nothing
# any more names a place by file and offset: its line is added.
sanitizer_report() {
	local line place='\((/.*)\+(0x[0-9a-f]+)\)'
	grep -m 1 -A 80 -e 'ERROR: AddressSanitizer' -e 'runtime error: ' \
		-e 'WARNING: ThreadSanitizer' "$out" | sed /^SUMMARY/q |
		while IFS= read -r line; do
			[[ ! $line =~ $place ]] || line+=" $(addr2line -pfse \
				"${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}")"
			echo "$line"
		done
}

# unit BUILD PROGRAM NAME [COMMAND...]: counts each case of a cmocka program,
# run by the command, by its TAP lines.
unit() {
	local build=$1 program=$2 name=$3 start status ok bad skips said
	shift 3
	start=$(now_ms)
	bounded env BUILD="$build" CMOCKA_MESSAGE_OUTPUT=TAP "$@" "$program"
	status=$?
	# cmocka writes a skipped case as `not ok N # SKIP name`
	skips=$(grep -c ' # SKIP' "$out")
	ok=$(grep '^ok ' "$out" | grep -v -c ' # SKIP')
	bad=$(grep '^not ok ' "$out" | grep -v -c ' # SKIP')
	# it died, or says nothing that can be counted
	[ $status -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
	[ $status -eq 0 ] && [ $((ok + skips + bad)) -eq 0 ] && bad=1
	passed=$((passed + ok))
	failed=$((failed + bad))
	skipped=$((skipped + skips))
	if [ "$bad" -gt 0 ]; then
		report "not ok" "$name" $(($(now_ms) - start)) \
			"$bad of $((ok + bad)) failed, status $status"
		{ sanitizer_report; tail -n 60 "$out"; } | sed 's/^/    /'
	else
		said=$(notes)
		report ok "$name" $(($(now_ms) - start)) \
			"$ok cases${said:+; $said}"
		sed -n 's/^.* # SKIP/    skip/p' "$out"
	fi
}

# sanitized PROGRAM asan|tsan: a unit test in that sanitizer's build directory.
# Its memory has fixed addresses, which are taken by chance where the kernel
# chooses others with more than 28 random bits: then it dies in many ways before
# main().
sanitized() {
	local program=$BUILD/$2/tests/unit/$1 name="$1 ($2)" bits
	local fixed=(setarch -R)
	[ -x "$program" ] && chosen "$1" || return
	"${fixed[@]}" true 2>/dev/null || fixed=()
	bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null)
	if [ ${#fixed[@]} -eq 0 ] && [ "${bits:-0}" -gt 28 ]; then
		skipped=$((skipped + 1))
		report skip "$name" 0 \
			"setarch -R fails, and vm.mmap_rnd_bits is $bits"
		return
	fi
	unit "$BUILD/$2" "$program" "$name" "${fixed[@]}"
}

# Ends what a test left behind in spite of its own cleanup; says so if it did.
leftovers() {
	local pid left=0
	[ -f "$work/pids" ] || return 0
	while read -r pid; do
		pgrep -r D,R,S,T,I -s "$pid" >/dev/null || continue
		echo "left over: $(ps -o pid=,args= -s "$pid" | head -n 5)"
		kill -KILL -- "-$pid"
		left=1
	done <"$work/pids"
	rm -f "$work/pids"
	return $left
}

# e2e PASS TEST COMMAND...: the command with the test's path behind
e2e() {
	local pass=$1 test=$2 name start status
	shift 2
	name="$(basename "$test" .sh) ($pass)"
	limit=$(sed -n 's/^# LIMIT: \([0-9]*\)$/\1/p' "$test")
	[ "${limit:-0}" -gt "$TEST_TIMEOUT" ] || limit=$TEST_TIMEOUT
	start=$(now_ms)
	: >"$work/pids"
	chmod 666 "$work/pids"
	SHEDSTREAM_TEST_PIDS=$work/pids bounded "$@" bash "$test"
	status=$?
	leftovers >>"$out" || [ $status -ne 0 ] || status=99
	case $status in
	0)
		passed=$((passed + 1))
		report ok "$name" $(($(now_ms) - start)) \
			"$(notes)"
		;;
	77)
		skipped=$((skipped + 1))
		report skip "$name" $(($(now_ms) - start)) \
			"$(sed -n 's/^SKIP: //p' "$out" | tail -n 1)"
		;;
	*)
		failed=$((failed + 1))
		[ $status -eq 124 ] && echo "no end in $limit s" >>"$out"
		report "not ok" "$name" $(($(now_ms) - start)) "status $status"
		grep '^FAIL: ' "$out" | sed 's/^/    /'
		grep -v '^FAIL: ' "$out" | tail -n 80 | sed 's/^/    /'
		;;
	esac
}

chosen() { # TEST
	local pattern
	[ ${#patterns[@]} -gt 0 ] || return 0
	for pattern in "${patterns[@]}"; do
		[[ ${1##*/} = *"$pattern"* ]] && return 0
	done
	return 1
}

e2e_all() { # PASS DIR [COMMAND...]
	local pass=$1 dir=$2 test
	shift 2
	for test in "$dir"/tests/e2e/[0-9][0-9][0-9]-*.sh; do
		chosen "$test" && e2e "$pass" "$test" "$@"
	done
}

# A copy that an ordinary user can read (a checkout may lie in /root), and
# that user's environment: all he writes is in one directory of his own.
user_pass() {
	local uid=65534 dir=$work/user
	mkdir -p "$dir/$BUILD" "$dir/build/test"
	mkdir -p "$dir/$BUILD/tests"
	cp -R "$BUILD/bin" "$dir/$BUILD/"
	cp -R "$BUILD/tests/tools" "$dir/$BUILD/tests/"
	cp -R tests ipc examples "$dir/"
	cp -R --reflink=auto build/test/small*.erofs build/test/small-guest \
		"$dir/build/test/" 2>/dev/null
	chmod -R a+rX "$dir"
	mkdir -p "$dir"/home "$dir"/xdg "$dir"/t
	chown -R $uid:$uid "$dir/home" "$dir/xdg" "$dir/t" "$dir/build/test"
	chmod 700 "$dir/xdg"
	e2e_all user "$dir" setpriv --reuid=$uid --regid=$uid --clear-groups \
		env -i PATH="$PATH" LC_ALL=C.UTF-8 BUILD="$BUILD" \
		SHEDSTREAM_TEST_PIDS="$work/pids" USER_PASS=1 ${KILLS:+KILLS="$KILLS"} \
		HOME="$dir/home" TMPDIR="$dir/t" XDG_RUNTIME_DIR="$dir/xdg" \
		XDG_CONFIG_HOME="$dir/home/.config" \
		XDG_DATA_HOME="$dir/home/.local/share"
}

[ "$(id -u)" -ne 0 ] || tests/tools/users.sh
for program in "$BUILD"/tests/unit/*; do
	[ -f "$program" ] && [ -x "$program" ] && chosen "$program" &&
		unit "$BUILD" "$program" "${program##*/}"
done
sanitized test_mix asan
sanitized test_mix_threads tsan
if [ "$(id -u)" -eq 0 ]; then
	for pass in ${PASSES:-root user}; do
		case $pass in
		root) e2e_all root . ;;
		user) user_pass ;;
		esac
	done
else
	e2e_all user .
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
