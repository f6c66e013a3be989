#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: copying a 1 GB image through costs no process its size in memory:
# anonymous memory stays under 64 MB in cached and fetcherd, 8 MB in devd-io.
. "$(dirname "$0")/lib.sh"

case ${BUILD:-build} in
*asan | *tsan) skip "a sanitizer's memory is its own" ;;
esac
MB=${MEMORY_TEST_MB:-1024}

free=$(df --output=avail -k "$T" | tail -n 1)
[ "$free" -gt $((MB * 1024 * 5 / 2)) ] || skip "less than $((MB * 5 / 2)) MB free"
openssl enc -aes-128-ctr -nosalt -pass pass:shed -pbkdf2 -iter 1 \
	</dev/zero 2>/dev/null | head -c "${MB}M" >"$T/big" || true
registry_start
image_push "$T/big" test/big:v1
rm "$T/big"
suite_start
uri=$(ctl attach "$IMAGE" --name big --integrity complete)

declare -A most limit=([cached]=64 [fetcherd]=64 [devd-io]=8)
sample() {
	local name kb
	for name in "${!limit[@]}"; do
		kb=$(rss_kb "$(suite_pid "$name")")
		[ "$kb" -le "${most[$name]:-0}" ] || most[$name]=$kb
	done
}
nbdcopy "$uri" - | sha_of >"$T/sum" &
copy=$!
# memory is a level, not an event: sampled while the copy runs
while kill -0 $copy 2>/dev/null; do
	sample
	sleep 0.1
done
wait $copy || fail "the copy failed"
assert_eq "$(<"$T/sum")" "${EROFS#sha256:}" "SHA-256 of the copy"
nbdcopy "$uri" null: # and hot
sample
echo "NOTE: RssAnon cached ${most[cached]} kB, fetcherd ${most[fetcherd]} kB," \
	"devd-io ${most[devd-io]} kB"
for name in "${!limit[@]}"; do
	assert_le "${most[$name]}" $((limit[$name] * 1024)) "RssAnon of $name, kB"
done
ctl detach big
suite_stop
