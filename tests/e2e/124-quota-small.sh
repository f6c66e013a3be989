#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: with a quota of 30% of what is read, or a full disk, every byte is read
# right all the same, again and again; a pull and what needs all of it are
# refused with NO_SPACE; df and the disk stay within the quota; and with room
# again all of it is kept.
. "$(dirname "$0")/lib.sh"

# indexes, and presence files as they grow
SLACK=$((1 << 20))

SMALL=$T/image.erofs
image_of "$SMALL" 1:9000 0:2000 2:3000 1:500 3:4000
registry_start
image_push "$SMALL" test/plain:v1
PLAIN=$IMAGE
image_push "$SMALL" test/base:v1
image_annotate "$SMALL"
SHA=${EROFS#sha256:}
QUOTA=$((SIZE * 3 / 10))

watch() {
	while sleep 0.05; do
		echo "$(ctl df --json | jq .total) $(store_used)" \
			>>"$T/watched" || true
	done 2>/dev/null
}

full() { # WHAT REGEX: reads, and a pull that is refused
	local how uri
	uri=$(ctl attach "$IMAGE" --name one)
	for how in --connections=1 --connections=4; do
		assert_eq "$(nbdcopy "$how" "$uri" - | sha_of)" "$SHA" \
			"$1: read of all, $how"
	done
	assert_json '.state == "lazy" and .integrity == "chunk" and
		.chunks.present < .chunks.total and .stalled_reads == 0' \
		ctl status one --json
	event_await "can't keep" 5 || fail "$1: no event says so"
	assert_exit 1 "^shedctl: NO_SPACE: .*$2" ctl pull "$IMAGE"
	assert_exit 1 "^shedctl: NO_SPACE: " ctl promote "$IMAGE" "$T/promoted"
	[ -z "$(find "$T" -maxdepth 1 -name 'promoted*')" ] ||
		fail "$1: a failed promotion left something: $(ls "$T")"
	assert_exit 1 "^shedctl: NO_SPACE: " \
		ctl attach "$IMAGE" --name plain --present plain
	assert_eq "$(device_sha "$uri")" "$SHA" "$1: read behind the refusals"
	"$TOOLS/reader.py" "$uri" "$SMALL" touch 300 >/dev/null ||
		fail "$1: wrong bytes, or an error"
	# all at once, by readers that want the same and other parts
	for how in 1 2 3; do
		"$TOOLS/reader.py" "$uri" "$SMALL" touch 200 --seed $how \
			>/dev/null &
	done
	device_sha "$uri" >"$T/sum"
	assert_eq "$(<"$T/sum")" "$SHA" "$1: read beside others"
	for how in 1 2 3; do
		wait -n || fail "$1: a reader got wrong bytes, or an error"
	done
	assert_json '.stalled_reads == 0' ctl status one --json
}

## the quota

printf '[store]\nquota = %d\nmin-free = 1M\nscrub = no\n' $QUOTA >"$T/conf"
suite_start
watch &
WATCH=$!
STARTED+=("$WATCH")
full quota quota
kept=$(status_of one .bytes.present)
[ "$kept" -gt $((QUOTA / 2)) ] ||
	fail "of a quota of $QUOTA only $kept are used"
# the other rungs
assert_exit 1 '^shedctl: NO_SPACE: ' ctl attach "$PLAIN" --name whole
other=$(ctl attach "$PLAIN" --name other --integrity complete)
assert_eq "$(device_sha "$other")" "$SHA" "quota: rung complete"
ctl detach other
# after a restart the same
suite_stop
suite_start
is_back() {
	nbdinfo --size "$(nbd_uri one)" >/dev/null 2>&1
}
wait_until 10 is_back || fail "the device did not come back"
assert_eq "$(device_sha "$(nbd_uri one)")" "$SHA" \
	"quota: read after a restart"
kill "$WATCH"
wait "$WATCH" || true
most=$(cut -d ' ' -f 1 "$T/watched" | sort -n | tail -n 1)
disk=$(cut -d ' ' -f 2 "$T/watched" | sort -n | tail -n 1)
assert_le "$most" $((QUOTA + SLACK)) "the most that df ever showed"
assert_le "$disk" $((QUOTA + SLACK)) "the most that was ever on disk"
# room: what could not be kept is
sed -i '/quota/d' "$T/conf"
suite_stop
suite_start
registry_mark
ctl pull "$IMAGE" 2>/dev/null
status_is one .network_free true || fail "pulled, and not network-free"
assert_le "$(registry_bytes)" $((SIZE - kept + 4 * 65536)) \
	"bytes fetched of $SIZE where $kept were kept"
suite_stop
echo "quota $QUOTA of $SIZE: df at most $most, du $disk, $kept kept"

## a full disk

if [ "$(id -u)" -ne 0 ]; then
	echo "NOTE: quota $QUOTA: df at most $most, du $disk; a full disk is" \
		"skipped: mounting a small file system needs root"
	exit 0
fi
rm -rf "$STORE" "$T/run" "$T/conf"
printf '[store]\nmin-free = 0\nscrub = no\n' >"$T/conf"
mkdir "$STORE"
mount -t tmpfs -o size=6m none "$STORE" || skip "no tmpfs can be mounted"
MOUNTS+=("$STORE")
suite_start
full "full disk" 'No space|full|room'
mount -o remount,size=100m "$STORE"
ctl pull "$IMAGE" 2>"$T/err" || fail "pull with room again: $(<"$T/err")"
status_is one .network_free true || fail "pulled, and not network-free"
assert_eq "$(device_sha "$(nbd_uri one)")" "$SHA" "the whole device at last"
suite_stop
echo "NOTE: quota $QUOTA: df at most $most, du $disk"
