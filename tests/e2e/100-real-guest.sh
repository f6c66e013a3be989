#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a real image (>= 400 MB) boots from an empty store and fetches what it
# touches and no more; a second boot fetches only what the first did not touch;
# the export is the blob; from then on no boot sends a request, not even after a
# restart with the registry gone.  Takes minutes: only with REAL=1, as root.
. "$(dirname "$0")/lib.sh"

[ "${REAL:-}" = 1 ] || skip "takes minutes; REAL=1 (make soak) runs it"
[ "$(id -u)" -eq 0 ] || skip "debootstrap needs root"
guest=$CACHE/real-guest
"$VM/real.sh" "$guest" >&2
registry_start
image_push "$guest/root.erofs" test/real:v1 \
	--kernel "$guest/vmlinuz" --initrd "$guest/initrd"
assert_le 400000000 "$SIZE" "size of the image"
suite_start
uri=$(ctl attach "$IMAGE" --name real --integrity complete)

# boot NAME: through a proxy that traces each read of the guest; the units
# of 64 KiB that it touched go to NAME.units
boot() {
	nbdkit -f -U "$T/$1.sock" --filter=log nbd "uri=$uri" \
		"logfile=$T/$1.trace" >"$T/$1.nbdkit" 2>&1 &
	local proxy=$!
	wait_until 10 test -S "$T/$1.sock" || fail "no proxy"
	registry_mark
	"$VM/boot.sh" -g "$guest" -t 600 "nbd+unix:///?socket=$T/$1.sock" \
		"$T/$1-console.log" || fail "the $1 boot did not come to its end"
	kill $proxy
	wait $proxy || true
	sed -n 's/.* Read .*offset=0x\([0-9a-f]*\) count=0x\([0-9a-f]*\).*/\1 \2/p' \
		"$T/$1.trace" | python3 -c '
import sys
units = set()
for line in sys.stdin:
    offset, count = (int(x, 16) for x in line.split())
    units.update(range(offset // 65536, (offset + count - 1) // 65536 + 1))
print(*sorted(units), sep="\n")' >"$T/$1.units"
	sed -n 's/^.*BENCH/BENCH/p' "$T/$1-console.log" | tail -n 1
}

boot first
touched=$(wc -l <"$T/first.units")
bytes=$(registry_bytes "$EROFS")
[ "$touched" -gt 100 ] || fail "the trace of the first boot has $touched units"
echo "NOTE: first boot: $touched units touched, $bytes bytes," \
	"$(registry_requests "$EROFS") requests"
assert_le "$bytes" $((touched * 65536 * 11 / 10)) "bytes of the first boot"

boot second
new=$(comm -13 <(sort "$T/first.units") <(sort "$T/second.units") | wc -l)
bytes=$(registry_bytes "$EROFS")
echo "NOTE: second boot: $new units not touched before, $bytes bytes"
assert_le "$bytes" $((new * 65536 * 11 / 10)) "bytes of the second boot"

assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "nbdcopy"
wait_until 60 status_is real .network_free true ||
	fail "not network-free: $(ctl status real --json)"
boot third
assert_eq "$(registry_all_requests)" 0 "requests of a boot once complete"
suite_stop
registry_stop
suite_start
wait_until 10 nbdinfo --size "$uri" >/dev/null || fail "no device"
"$VM/boot.sh" -g "$guest" -t 600 "$uri" "$T/last-console.log" ||
	fail "the boot without a registry did not come to its end"
assert_eq "$(status_of real .requests.sent)" 0 "requests without a registry"
suite_stop
