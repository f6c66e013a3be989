#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# `make demo-boot`: a virtual machine boots from an image that stays in its
# registry; shows the guest's console to the login prompt, and what the boot
# fetched.  GUEST=real takes the large guest (root, once, for its making).
# Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."
setup=$(mktemp "${TMPDIR:-/tmp}/shedstream-demo.XXXXXX.log")
guest=build/test/${GUEST:-small}-guest

prepare() {
	tests/deps.sh
	make -j"$(nproc)"
	[ "$(id -u)" -ne 0 ] || tests/tools/users.sh
	"tests/vm/${GUEST:-small}.sh"
}
prepare >"$setup" 2>&1 || {
	tail -n 5 "$setup" >&2
	echo "demo-boot: the set-up failed; all of it is in $setup" >&2
	exit 1
}
rm "$setup"
. tests/e2e/lib.sh
registry_start
image_push "$guest/root.erofs" guest:v1 \
	--kernel "$guest/vmlinuz" --initrd "$guest/initrd"
suite_start

echo "\$ shedctl attach $IMAGE --present nbd --integrity complete"
uri=$(ctl attach "$IMAGE" --present nbd --integrity complete --name guest)
echo "$uri"
echo "\$ qemu-system-x86_64 ... -blockdev driver=nbd,..."
: >"$T/console"
tail -s 0.05 -n +1 -f "$T/console" &
STARTED+=($!)
"$VM/boot.sh" -l -g "$guest" "$uri" "$T/console"
echo
ctl status guest --json | jq -r '
	def mb: . / 10000 | round / 100 | "\(.) MB";
	"the boot read \(.bytes.served | mb), fetched \(.bytes.fetched | mb) " +
	"in \(.requests.sent) requests, of \(.size | mb) " +
	"(\(100 * .bytes.fetched / .size | . * 10 | round / 10)%)"'
ctl detach guest
suite_stop
