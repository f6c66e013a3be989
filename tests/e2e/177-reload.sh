#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: while readers compare every byte of a file and of an NBD device, the
# suite becomes another build with another configuration, any number of times,
# and keeps devices, bytes and its pid; a configuration that is
# wrong, or a build that does not run, changes nothing.  KILLS / 4 times.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/reader.sh"
RELOADS=$((${KILLS:-12} / 4))	# 3, and 50 in soak
STEPS=4

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

lines() { # NUMBER REGEX: are there so many in the log?
	[ "$(grep -c -E "$2" "$T/devd.log")" -ge "$1" ]
}

for kind in "${kinds[@]}"; do
	reader_start "$kind" "$(ctl attach "$IMAGE" --name "$kind" \
		--present "$kind" --integrity complete)" "$SMALL"
done
readers_made $STEPS
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
	while_reading $STEPS suite_reload
	assert_eq "$(ctl version | awk '$1 == "devd" || $1 == "cached" {
		print $2 }' | sort -u)" "$next" "versions after reload $i"
	was=$next
done
readers_made 1
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
readers_made 1

for kind in "${kinds[@]}"; do
	reader_end "$kind"
	echo "NOTE: $kind: $RELOADS reloads, $(jq -c . "$T/$kind.json")"
	ctl detach "$kind"
done
suite_stop
