#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: whatever happened to the store's files while nobody looked, a device
# serves right bytes: a damaged presence file under a live device, a record that
# is gone, data that rotted, and parts that came from another registry.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/base:v1

# damage FILE OFFSET TEXT
damage() {
	printf '%s' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# restart_cached: by SIGKILL; the device lives
restart_cached() {
	local old
	old=$(suite_pid cached)
	kill -KILL "$old"
	wait_until 10 cached_is_not "$old" || fail "cached did not come back"
}
cached_is_not() {
	[ -n "$(suite_pid cached)" ] && [ "$(suite_pid cached)" != "$1" ]
}

for rung in complete whole; do
	rm -rf "$T/store" "$T/run"
	suite_start
	uri=$(ctl attach "$IMAGE" --name one --integrity $rung 2>"$T/progress")
	"$TOOLS/reader.py" "$uri" "$SMALL" touch 200 >/dev/null
	layout=$T/store/layouts/${EROFS#sha256:}

	# the words of the live map speak of a file that is given up
	damage "$layout"/presence.* 20 X
	restart_cached
	"$TOOLS/reader.py" "$uri" "$SMALL" touch 200 >/dev/null ||
		fail "$rung: wrong bytes after the presence file was damaged"

	# everything there; then a record goes, another's data rots
	assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "$rung"
	wait_until 30 status_is one .network_free true ||
		fail "$rung: not network-free"
	suite_stop
	damage "$layout"/presence.* $((4096 + 64 * 3 + 5)) X
	damage "$layout"/data.* $((65536 * 7 + 100)) rotten
	suite_start
	wait_until 10 nbdinfo --size "$uri" >/dev/null || fail "no device"
	assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" \
		"$rung: read of a damaged store"
	wait_until 30 status_is one .network_free true ||
		fail "$rung: not mended: $(ctl status one --json)"
	suite_stop
done

# a registry that lies, then one that does not: nothing of the first is used
rm -rf "$T/store" "$T/run"
dd if="$(registry_file "$EROFS")" of="$T/true" status=none
damage "$(registry_file "$EROFS")" $((65536 * 2 + 9)) lies
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)
"$TOOLS/reader.py" "$uri" "$SMALL" touch 400 >/dev/null 2>&1 || true
ctl detach one
cat "$T/true" >"$(registry_file "$EROFS")"
image_push "$SMALL" test/other:v1
uri=$(ctl attach "$IMAGE" --name two --integrity complete)
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" \
	"parts of another source were taken over"
suite_stop
