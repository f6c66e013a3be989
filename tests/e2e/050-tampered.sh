#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a blob that does not have its digest is refused by `whole` at attach;
# under `complete` the device fails when it is whole: reads fail, the event and
# the status name it, and the file is put aside.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/base:v1
# one bit, in the middle of the blob as the registry keeps it
/usr/bin/python3 - "$(registry_file "$EROFS")" "$SIZE" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]) // 2)
    byte = f.read(1)[0]
    f.seek(-1, 1)
    f.write(bytes([byte ^ 1]))
END

suite_start
assert_exit 1 '^shedctl: DIGEST_MISMATCH: .' \
	ctl attach "$IMAGE" --name w --fetch whole --integrity whole
[ ! -s "$T/out" ] || fail "a refused attach printed $(<"$T/out")"
assert_json '[.devices[] | select(.name == "w" and .state != "failed")]
	| length == 0' ctl ls --json
suite_stop

rm -rf "$T/store" "$T/run"
suite_start
uri=$(ctl attach "$IMAGE" --name c --integrity complete)
nbdcopy "$uri" null: 2>/dev/null || true	# the last read may fail
wait_until 30 status_is c .state failed ||
	fail "the device did not fail: $(ctl status c --json)"
assert_json ".last_error | tostring | contains(\"${EROFS:7:12}\") or
	test(\"digest\"; \"i\")" ctl status c --json
for offset in 0 4096 $((SIZE - 4096)); do
	if /usr/bin/python3 -c 'import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pread(4096, int(sys.argv[2]))' \
		"$uri" $offset 2>/dev/null; then
		fail "a read at $offset of a failed device succeeded"
	fi
done
ctl events --json >"$T/events"
grep -q DIGEST_MISMATCH "$T/events" || fail "no event: $(<"$T/events")"
grep -q DIGEST_MISMATCH "$T/devd.log" || fail "no line in the log"
case $(ctl health || true) in 'degraded: '*) ;; *) fail "health of a failed device" ;; esac
if ctl health >/dev/null; then fail "health exits 0"; fi
[ -n "$(find "$T/store" -ipath '*quarantine*' -type f)" ] ||
	fail "nothing is in quarantine: $(find "$T/store")"

# a restart does not make it good
suite_stop
suite_start
wait_until 30 status_is c .state failed ||
	fail "after a restart the bad device is back: $(ctl status c --json)"
suite_stop

# what is put aside is bounded, counts, and goes when nothing else may
rm -rf "$T/store" "$T/run"
suite_start
for _ in 1 2 3 4 5 6; do
	assert_exit 1 '^shedctl: DIGEST_MISMATCH: .' ctl attach "$IMAGE" \
		--name w --fetch whole --integrity whole
done
aside=$(find "$T/store/quarantine" -type f | wc -l)
assert_eq "$aside" 4 "files in quarantine"
used=$(du -s -B1 "$T/store/quarantine" | cut -f1)
assert_json ".total >= 4 * $SIZE * 9 / 10 and .total >= $used - 65536" \
	ctl df --json
suite_stop
printf '[store]\nquota = %d\nmin-free = 0\n' $((used + SIZE / 2)) >"$T/conf"
suite_start
assert_exit 1 '^shedctl: DIGEST_MISMATCH: .' ctl attach "$IMAGE" \
	--name w --fetch whole --integrity whole
assert_json ".total <= $((used + SIZE / 2 + 65536))" ctl df --json
grep -q 'removing quarantine/.* its room is needed' "$T/devd.log" ||
	fail "nothing says that it went"
suite_stop
