#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: who can publish in the same registry, and names another image's erofs
# with an index of his own making, changes no byte of that image's device,
# whichever was attached first; his own device fails when it is whole, and is
# put aside.  An index that only refers to an image is not used unless that is
# configured, and is shown as unproven until the whole digest fits.  An index
# that is none is refused with a reason.
. "$(dirname "$0")/lib.sh"

SMALL=$T/victim.erofs PLUS=$T/other.erofs
image_of "$SMALL" 1:9000 0:2000 2:7000
image_of "$PLUS" 1:9000 3:4000
registry_start
image_push "$PLUS" test/other:v1
image_annotate "$PLUS"
mv "$T/pack" "$T/other"
image_push "$SMALL" test/victim:v1
image_annotate "$SMALL"
VICTIM=$IMAGE VICTIM_MANIFEST=$MANIFEST VICTIM_INDEX=${INDEX#sha256:}
SHA=${EROFS#sha256:} VICTIM_EROFS=$EROFS
mv "$T/pack" "$T/victim"

# the attacker's images: shedpack would refuse to push them
forge() { # NAME LIE
	index_tool lie "$T/victim/index" "$T/evil-$1" "$2"
	image_push "$SMALL" "test/evil:$1" --chunks "$T/evil-$1"
}
LIES="swap zeros dup other"
forge device "device=$(printf '0%.0s' {1..64})"
for lie in swap zeros dup; do
	forge $lie $lie
done
# that one's blob must be in the repository
image_push "$PLUS" test/evil:plus
forge other "other=$T/other/index"

victim_is_right() { # URI WHEN
	assert_eq "$(device_sha "$1")" "$SHA" "the victim's device $2"
	assert_json '.state != "failed" and .unproven == false' \
		ctl status victim --json
}

layout_sums() { # HEX: of all that is in that layout but when it was of use
	(cd "$STORE/layouts/$1" && find . -type f ! -name used -exec sha256sum {} +) |
		sort
}

# judged NAME: everything of it is read; it must fail by its whole digest
judged() {
	assert_exit 1 'DIGEST_MISMATCH' ctl pull "$REGISTRY/test/evil:$1"
	wait_until 10 status_is "evil-$1" .state failed ||
		fail "$1: a wrong device did not fail: $(ctl status "evil-$1" --json)"
	event_await "device-failed.*evil-$1" 5 ||
		fail "$1: no event says that it failed: $(ctl events)"
	if /usr/bin/python3 -c 'import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pread(4096, 4096)' \
		"$(nbd_uri "evil-$1")" 2>/dev/null; then
		fail "$1: a read of the failed device succeeded"
	fi
	[ -n "$(find "$STORE/quarantine" -name "$(sha_of "$T/evil-$1").*")" ] ||
		fail "$1: nothing in quarantine: $(find "$STORE/quarantine")"
}

## a lie about the device is refused at attach

suite_start
assert_exit 1 '^shedctl: BAD_REQUEST: .*another erofs' \
	ctl attach "$REGISTRY/test/evil:device" --name evil
device_count 0 || fail "a refused attach left a device"

## the victim first; the attacker's chunks are the victim's

uri=$(ctl attach "$VICTIM" --name victim)
"$TOOLS/reader.py" "$uri" "$SMALL" touch 70 >/dev/null
for lie in $LIES; do
	evil=$(ctl attach "$REGISTRY/test/evil:$lie" --name "evil-$lie")
	# in the middle of it, from the other end
	timeout 60 nbdcopy --connections=1 "$evil" null: &
	reader=$!
	"$TOOLS/reader.py" "$uri" "$SMALL" touch 20 --seed ${#lie} >/dev/null ||
		fail "$lie: the victim's device has wrong bytes"
	wait $reader || true	# it fails at its end
	judged "$lie"
done
victim_is_right "$uri" "after all of them"
wait_until 20 status_is victim .network_free true ||
	fail "the victim is not network-free: $(ctl status victim --json)"
# once more, with all of it there: nothing of the victim's is touched at all
before=$(layout_sums "$VICTIM_INDEX")
for lie in $LIES; do
	ctl detach "evil-$lie"
done
wait_until 10 device_count 1 || fail "devices are left: $(ctl ls)"
for lie in swap other; do
	ctl attach "$REGISTRY/test/evil:$lie" --name "evil-$lie" >/dev/null
	judged "$lie"
done
assert_eq "$(layout_sums "$VICTIM_INDEX")" "$before" "the victim's layout"
status_is victim .network_free true || fail "the victim is not network-free"
victim_is_right "$uri" "after they came again"

## restarts: right and wrong stay what they are

suite_stop
suite_start
wait_until 10 nbdinfo --size "$uri" >/dev/null 2>&1 || fail "no device"
victim_is_right "$uri" "after a restart"
for lie in swap other; do
	wait_until 10 status_is "evil-$lie" .state failed ||
		fail "$lie: it is back: $(ctl status "evil-$lie" --json)"
done
suite_stop

## the attacker first

LIES="swap zeros other"
rm -rf "$STORE" "$T/run"
suite_start
for lie in $LIES; do
	ctl attach "$REGISTRY/test/evil:$lie" --name "evil-$lie" >/dev/null
	"$TOOLS/reader.py" "$(nbd_uri "evil-$lie")" "$SMALL" touch 30 \
		--seed ${#lie} >/dev/null 2>&1 || true	# wrong, perhaps
done
# named by its erofs, of which nothing but lies are known
if uri=$(ctl attach "$VICTIM_EROFS" --name by-erofs 2>"$T/err"); then
	assert_eq "$(device_sha "$uri" 2>"$T/err" || cat "$T/err")" "$SHA" \
		"a device attached by the victim's erofs digest"
	ctl detach by-erofs
else
	echo "by the erofs alone: $(<"$T/err")"
fi
uri=$(ctl attach "$VICTIM" --name victim)
"$TOOLS/reader.py" "$uri" "$SMALL" touch 70 --seed 3 >/dev/null ||
	fail "wrong bytes beside the attacker's devices"
shared=$(status_of victim .chunks.shared)
[ "$shared" -gt 0 ] || fail "nothing is shared: the test says little"
# the victim leans on files that are found to be wrong
for lie in $LIES; do
	judged "$lie"
	"$TOOLS/reader.py" "$uri" "$SMALL" touch 30 --seed 4 >/dev/null ||
		fail "$lie: wrong bytes after it failed"
done
victim_is_right "$uri" "behind the attacker's"
wait_until 20 status_is victim .network_free true ||
	fail "the victim is not network-free: $(ctl status victim --json)"
uri2=$(ctl attach "$VICTIM_EROFS" --name by-erofs)
assert_eq "$(device_sha "$uri2")" "$SHA" "by the erofs digest, now"
assert_json ".image_digest == \"$VICTIM_MANIFEST\"" ctl status by-erofs --json
ctl promote "$VICTIM_EROFS" "$T/promoted"
assert_eq "$(sha_of "$T/promoted")" "$SHA" "promoted by the erofs digest"
ctl detach by-erofs
ctl detach victim
for lie in $LIES; do
	ctl detach "evil-$lie"
done
wait_until 10 device_count 0 || fail "devices are left"
uri=$(ctl attach "$VICTIM" --name victim)
victim_is_right "$uri" "attached behind all"
suite_stop

## referrers

image_push "$SMALL" test/plain:v1
REFERRED=$IMAGE
"$BIN/shedpack" push "$T/victim" "$REFERRED" >/dev/null 2>>"$T/shedpack.log"
image_push "$SMALL" test/evilref:v1 --refer "$T/evil-swap"
EVILREF=$IMAGE
rm -rf "$STORE" "$T/run"
suite_start
ctl attach "$REFERRED" --name plain >/dev/null 2>&1
assert_json '.integrity == "whole" and .unproven == false' \
	ctl status plain --json
event_await "$REFERRED has no chunk index" 5 || fail "no event: $(ctl events)"
assert_exit 1 '^shedctl: INTEGRITY_REFUSED: .*in its manifest' \
	ctl attach "$REFERRED" --integrity chunk
suite_stop
rm -rf "$STORE" "$T/run"
printf '[trust]\nreferrers = yes\n' >"$T/conf"
suite_start
uri=$(ctl attach "$REFERRED" --name plain)
assert_json '.integrity == "chunk" and .unproven and .state == "lazy"' \
	ctl status plain --json
ctl status plain | grep -q 'chunk (unproven)' ||
	fail "status does not say that it is unproven: $(ctl status plain)"
ctl status plain | grep -q 'only refers to the image' ||
	fail "status has another chain: $(ctl status plain)"
"$TOOLS/reader.py" "$uri" "$SMALL" touch 50 >/dev/null
status_is plain .unproven true || fail "proven before it is whole"
ctl pull "$REFERRED" 2>/dev/null
assert_json '.integrity == "chunk" and .unproven == false and .network_free' \
	ctl status plain --json
if ctl status plain | grep -q 'unproven'; then
	fail "complete, and still unproven: $(ctl status plain)"
fi
ctl attach "$EVILREF" --name evil-swap >/dev/null
# all of its chunks are here already: it fails at once
status_is evil-swap .unproven true || fail "the hostile one is not unproven"
wait_until 10 status_is evil-swap .state failed || fail "it did not fail"
assert_eq "$(device_sha "$uri")" "$SHA" "the honest one, beside it"
ctl detach evil-swap
wait_until 10 device_count 1 || fail "the failed device is left"
# an honest one comes behind the hostile one in the registry's list: what was
# proven wrong is not tried for ever
image_push "$SMALL" test/evilref:v1 --refer "$T/victim/index"
image_push "$SMALL" test/evilref:v1 --refer "$T/evil-zeros"
ctl attach "$EVILREF" --name mixed >/dev/null
wait_until 10 status_is mixed .state failed || fail "it did not fail"
ctl detach mixed
wait_until 10 device_count 1 || fail "the failed device is left"
uri2=$(ctl attach "$EVILREF" --name mixed)
assert_eq "$(device_sha "$uri2" || true)" "$SHA" \
	"attached again, where the first index was proven wrong"
suite_stop
rm "$T/conf"

## indexes that are none

rm -rf "$STORE" "$T/run"
head -c 8192 /dev/urandom >"$T/tiny"
suite_start
pids=$(suite_pids cached; suite_pids devd; suite_pids fetcherd)
n=0
for bad in empty header-cut magic device-max count-chunks-max table-extents \
	longer-page blob-order chunk-twice chunk-beyond extent-overlap extent-wraps; do
	image_push "$T/tiny" "test/bad:$bad" \
		--chunks "$ROOT/tests/data/index/bad-$bad"
	case $bad in
	empty) why='SIZE_CHANGED: .*/bad' ;;
	*) why="BAD_REQUEST: .*index of .*/bad:$bad .*: .*; publish" ;;
	esac
	assert_exit 1 "^shedctl: $why" ctl attach "$IMAGE" --name bad
	n=$((n + 1))
done
# valid, and of another device
image_push "$T/tiny" "test/bad:base" --chunks "$ROOT/tests/data/index/good-base"
assert_exit 1 '^shedctl: BAD_REQUEST: .*another erofs' ctl attach "$IMAGE"
assert_eq "$(suite_pids cached; suite_pids devd; suite_pids fetcherd)" "$pids" \
	"the processes of the suite"
ctl health >/dev/null || fail "health: $(ctl health)"
device_count 0 || fail "a refused attach left a device"
[ -z "$(find "$STORE/layouts" -mindepth 1)" ] ||
	fail "refused indexes are in the store: $(find "$STORE/layouts")"
suite_stop
echo "NOTE: $shared chunks shared with liars, $n bad indexes"
