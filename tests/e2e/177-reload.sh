#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while readers compare every byte of a file and of an NBD device, the
# suite becomes another build with another configuration, any number of times,
# and keeps devices, bytes and its pid; a configuration that is
# wrong, or a build that does not run, changes nothing.  RELOADS.
. "$(dirname "$0")/lib.sh"
RELOADS=${RELOADS:-3}
STEP=4		# new units that each reader reads in each round

kinds=(nbd)
[ "$(id -u)" -ne 0 ] || [ ! -c /dev/fuse ] || kinds+=(file)
case $BUILD in
*asan | *tsan) skip "copies of sanitized programs are not what is tested" ;;
esac
image_small
registry_start
image_push "$SMALL" test/base:v1
mkdir "$T/bin"
cp "$BIN"/* "$T/bin/"
BIN=$T/bin
echo '[network]' >"$T/conf"
suite_start

declare -A reader to from
begin() { # KIND
	local path
	path=$(ctl attach "$IMAGE" --name "$1" --present "$1" \
		--integrity complete)
	eval "coproc $1 { exec \"$TOOLS/reader.py\" \"$path\" \"$SMALL\" paced \
		2>\"$T/reader-$1.log\"; }" 2>/dev/null
	eval "reader[$1]=\$${1}_PID from[$1]=\${$1[0]} to[$1]=\${$1[1]}"
	exec {out}<&"${from[$1]}" {in}>&"${to[$1]}"
	eval "exec ${from[$1]}<&- ${to[$1]}>&-"
	from[$1]=$out to[$1]=$in
	STARTED+=("${reader[$1]}")
}

progress() { # N: each reader reads so many units that it had not read before
	local kind line n
	for kind in "${kinds[@]}"; do
		echo "more $1" >&"${to[$kind]}"
	done
	for kind in "${kinds[@]}"; do
		for ((n = 0; n < $1; )); do
			read -r -t 90 line <&"${from[$kind]}" || fail "the reader of $kind:" \
				"$(<"$T/reader-$kind.log") $(ctl status "$kind" --json 2>&1)"
			[ "$line" != unit ] || n=$((n + 1))
		done
	done
}

lines() { # NUMBER REGEX: are there so many in the log?
	[ "$(grep -c -E "$2" "$T/devd.log")" -ge "$1" ]
}

for kind in "${kinds[@]}"; do
	begin "$kind"
done
progress $STEP
fds=$(fd_count "$SUITE_PID")
was=$("$BIN/devd" --version | awk '{ print $2 }')
for ((i = 1; i <= RELOADS; i++)); do
	next=${was%.*}.$((${was##*.} + 1 & 7))
	for program in devd devd-io cached fetcherd shedctl; do
		sed "s/${was//./\\.}/$next/g" "$BIN/$program" >"$T/next"
		chmod 755 "$T/next"
		mv "$T/next" "$BIN/$program"
	done
	printf '[network]\nhedge = %d%%\n' $i >"$T/conf"
	early=$((RANDOM % STEP))
	progress $early
	suite_reload
	progress $((STEP - early))
	assert_eq "$(ctl version | awk '$1 == "devd" || $1 == "cached" {
		print $2 }' | sort -u)" "$next" "versions after reload $i"
	was=$next
done
progress 1
assert_le "$(fd_count "$SUITE_PID")" "$fds" "descriptors of the parent"

## what can't be

pids() { pgrep -P "$SUITE_PID" | sort | xargs; }
were=$(pids)
printf '[network]\nhedge = often\n' >"$T/conf"
kill -HUP "$SUITE_PID"
wait_until 30 lines 1 'not reloaded: .* found an error' || fail "not refused"
grep -q "conf.*hedge" "$T/devd.log" || fail "what is wrong is not told"
echo '[network]' >"$T/conf"
mv "$BIN/devd" "$T/devd.good"
if [[ " ${kinds[*]} " = *" file "* ]]; then
	sed 's/journal1/journal9/g' "$T/devd.good" >"$BIN/devd"
	chmod 755 "$BIN/devd"
	kill -HUP "$SUITE_PID"
	wait_until 30 lines 1 "can't go on with files" ||
		fail "a build that keeps requests differently was become"
fi
printf '#!/bin/sh\nexit 7\n' >"$BIN/devd"
chmod 755 "$BIN/devd"
kill -HUP "$SUITE_PID"
wait_until 30 lines 1 'not reloaded: .*status 7' || fail "a broken build was become"
mv "$T/devd.good" "$BIN/devd"
assert_eq "$(pids)" "$were" "processes"
progress 1

for kind in "${kinds[@]}"; do
	eval "exec ${to[$kind]}>&-"
done
for kind in "${kinds[@]}"; do
	tail -n 1 <&"${from[$kind]}" >"$T/summary-$kind"
	wait "${reader[$kind]}" || fail "the reader of $kind:" \
		"$(<"$T/reader-$kind.log")"
	echo "NOTE: $kind: $RELOADS reloads, $(jq -c . "$T/summary-$kind")"
	ctl detach "$kind"
done
suite_stop
