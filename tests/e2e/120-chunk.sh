#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: an image whose manifest names a chunk index is attached at rung chunk
# without being asked, each byte right; what a registry sends wrongly is never
# served but fetched again, counted, and logged with both digests; an image
# without an index is refused at that rung, and is whole, loudly, by default.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/base:v1
PLAIN=$IMAGE
image_push "$SMALL" test/indexed:v1
image_annotate "$SMALL"
no_hedges
suite_start

## without an index

no_index='INTEGRITY_REFUSED: .*no chunk index.*--integrity whole'
assert_exit 1 "^shedctl: $no_index" \
	ctl attach "$PLAIN" --name none --integrity chunk
device_count 0 || fail "a refused attach left a device: $(ctl ls)"
uri=$(ctl attach "$PLAIN" --name plain 2>"$T/progress")
assert_json '.integrity == "whole" and .state == "complete" and
	.network_free and .unproven == false' ctl status plain --json
event_await "$PLAIN has no chunk index" 5 || fail "no event says that all of \
it was fetched: $(ctl events)"
grep -q "$PLAIN has no chunk index" "$T/devd.log" || fail "nor does the log"
assert_eq "$(device_sha "$uri")" "${EROFS#sha256:}" "the whole device"
ctl detach plain
wait_until 10 gone plain || fail "device plain is left"
wait_until 10 device_count 0 || fail "the device is left"
ctl rm "$PLAIN"

## with one

registry_mark
uri=$(ctl attach "$IMAGE" --name one)
assert_json '.integrity == "chunk" and .state == "lazy" and
	(.chain | test("manifest.*index.*chunk")) and .unproven == false and
	.chunks.present < .chunks.total and .network_free == false' \
	ctl status one --json
ctl status one | grep -q 'index digest' || fail "status for people has no chain"
assert_eq "$(ctl attach "$IMAGE" --integrity chunk)" "$uri" \
	"the same, asked for by name"
assert_le "$(registry_bytes "$EROFS")" 1 "bytes of the erofs before a read"
"$TOOLS/reader.py" "$uri" "$SMALL" touch 100 >/dev/null
assert_json '.chunks.present > 0 and .chunks.present < .chunks.total / 2' \
	ctl status one --json
assert_eq "$(device_sha "$uri")" "${EROFS#sha256:}" "the whole device"
wait_until 30 status_is one .state complete ||
	fail "complete was not reached: $(ctl status one --json)"
chunks=$(index_tool show "$T/pack/index" | jq .chunks)
assert_json ".network_free and .chunks.present == .chunks.total and
	.chunks.total == $chunks and .bytes.present == .size and
	.requests.failed == 0" ctl status one --json
bytes=$(registry_bytes "$EROFS")
assert_le "$bytes" "$SIZE" "bytes of the erofs: each once"
ctl map one >/dev/null
ctl detach one
wait_until 10 gone one || fail "device one is left"
ctl rm "$IMAGE"
suite_stop

## a registry that sends wrong bytes

scripted_start scripted "$SMALL" --index "$T/pack/index"
WRONG=$(jq -r .image "$T/scripted.log")
suite_start
# the index itself
tell scripted 'fault?blob=flip'
assert_exit 1 '^shedctl: DIGEST_MISMATCH: .*chunk index' \
	ctl attach "$WRONG" --name wrong --deadline 2
tell scripted heal
uri=$(ctl attach "$WRONG" --name wrong)
# every answer for a while: the read waits, loudly
tell scripted 'fault?blob=flip'
index_tool at "$T/pack/index" 0.9 >"$T/at"
read -r at len <"$T/at"
/usr/bin/python3 -c 'import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1])
at, n = int(sys.argv[2]), int(sys.argv[3])
with open(sys.argv[4], "rb") as f:
    f.seek(at)
    sys.exit(h.pread(n, at) != f.read(n))' "$uri" "$at" "$len" "$SMALL" &
reader=$!
waits() {
	[ "$(status_of wrong .stalled_reads)" -gt 0 ] &&
		[ "$(status_of wrong .requests.failed)" -gt 2 ]
}
wait_until 20 waits || fail "not asked again: $(ctl status wrong --json)"
kill -0 $reader || fail "the read ended with wrong bytes at hand"
event_await '"stalled".*wrong digest' 5 || fail "no event: $(ctl events)"
tell scripted heal
wait $reader || fail "the read did not get the right bytes"
# some answers, of those to many reads at once
failed=$(status_of wrong .requests.failed)
tell scripted 'fault?blob=flip&times=5'
assert_eq "$(device_sha "$uri")" "${EROFS#sha256:}" "the whole device"
[ "$(status_of wrong .requests.failed)" -ge $((failed + 5)) ] ||
	fail "5 wrong answers were not counted: $(ctl status wrong --json)"
wait_until 30 status_is wrong .state complete ||
	fail "complete was not reached: $(ctl status wrong --json)"
# both digests: a chunk's own, and that of what came
/usr/bin/python3 - "$T/devd.log" "$T/pack/index" "$TOOLS" <<'END'
import re, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[3])
from index import Index
known = {c[0].hex() for c in Index(sys.argv[2]).chunks}
with open(sys.argv[1]) as f:
    said = re.findall(r"wanted sha256:(\w{64}), got sha256:(\w{64})", f.read())
assert len(said) >= 5, said
assert all(a in known and b not in known for a, b in said), said
END
failed=$(status_of wrong .requests.failed)
suite_stop
echo "NOTE: $bytes bytes for $SIZE, $failed wrong answers"
