#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: an attached device is a proper NBD export to libnbd and qemu, lazily
# and completely, and stays one under clients that do everything wrong, which
# cost devd-io less than 8 MB.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/nbd:v1
suite_start
uri=$(ctl attach "$IMAGE" --name disk --integrity complete)
socket=$(sed -n 's/.*[?&]socket=\([^&]*\).*/\1/p' <<<"$uri")
[ -S "$socket" ] || fail "no socket in $uri"

# a few proper clients, while most of the device is not here yet
"$TOOLS/nbd_conformance.py" "$uri" "$SMALL" ||
	fail "libnbd: see the last claim above"
for name in '' disk; do
	assert_eq "$(nbdinfo --size "nbd+unix:///$name?socket=$socket")" \
		"$SIZE" "size as export '$name'"
done
assert_exit 1 'other' nbdinfo "nbd+unix:///other?socket=$socket"
nbdinfo --map "$uri" >"$T/map"
assert_eq "$(awk '{ print $4 }' "$T/map" | sort -u)" data "base:allocation"
qemu-img compare -f raw -F raw "$SMALL" "$uri" >"$T/compare" ||
	fail "qemu-img: $(<"$T/compare")"
assert_eq "$(nbdcopy --connections=4 --requests=32 "$uri" - | sha_of)" \
	"${EROFS#sha256:}" "nbdcopy over four connections"
nbdinfo --map=x-shedstream:resident "$uri" >"$T/map"
assert_eq "$(awk '{ print $3 }' "$T/map" | sort -u)" 1 "resident"

# the others; sanitizers have memory of their own
pid=$(suite_pid devd-io)
limit=$pid
grep -q __asan_init "$BIN/devd-io" && limit=
"$TOOLS/nbd_hostile.py" "$socket" ${limit:+"$limit"} >"$T/hostile" ||
	fail "the last attack behind these: $(<"$T/hostile")"
echo "NOTE: $(tail -n 1 "$T/hostile")"
assert_eq "$(suite_pid devd-io)" "$pid" "the worker is still the same"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "read at the end"
ctl detach disk
suite_stop
