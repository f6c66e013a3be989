#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: on ext4 under a stock kernel, a power cut at any moment costs no byte
# and no promise: a guest lives a store's life by chance, its disk's log is cut
# at 60 places, and after each e2fsck is content, cached starts by itself, what
# was network-free still is, and every byte of every image is right.
# POWER_CUTS=N, POWER_SEED=N choose.  What fails is kept, and the line that
# repeats it is printed.
. "$(dirname "$0")/lib.sh"

case $BUILD in
*asan | *tsan) skip "under sanitizers the guest would take too long" ;;
esac
[ -x "${BIN%/bin}/tests/store/guest_power" ] || skip "guest_power is not" \
	"here; the pass of the user who called has run it"
for tool in qemu-system-x86_64 busybox cpio modprobe dmsetup mke2fs e2fsck; do
	command -v $tool >/dev/null || skip "no $tool"
done
"$VM/kernel.sh" trixie "$CACHE/kernel-trixie" >"$T/kernel.log" 2>&1 ||
	skip "trixie's kernel cannot be had: $(tail -n 1 "$T/kernel.log")"

status=0
"$VM/power.sh" -c "${POWER_CUTS:-60}" ${POWER_SEED:+-s "$POWER_SEED"} \
	"${BIN%/bin}" "$T" >"$T/power.out" || status=$?
if [ $status -ne 0 ]; then
	kept=$CACHE/power-failed
	mkdir -p "$kept"
	cp --sparse=always "$T"/{console.log,log.img,power.out} "$kept/"
	cut=$(sed -n 's/^WRONG: cut \([0-9]*\) seed \([0-9]*\),.*/\1,\2/p' \
		"$T/console.log" | head -n 1)
	fail "$(cat "$T/power.out"): $(grep -m 1 '^WRONG: ' "$T/console.log" ||
		echo "the guest did not come to its end"); again:" \
		"tests/vm/power.sh -a ${cut:-AT,SEED} ${BIN%/bin} $kept"
fi
judged=$(sed -n 's/\r$//; s/^judged //p' "$T/console.log")
[[ $judged = "${POWER_CUTS:-60} cuts: "* ]] || fail "not all cuts: '$judged'"
echo "NOTE: $judged; $(sed 's/,.*//' "$T/power.out"); guest up" \
	"$(sed -n 's/\r$//; s/^POWER-OK after //p' "$T/console.log")"
