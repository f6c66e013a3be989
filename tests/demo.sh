#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# `make demo`: the main job from an empty machine, on loopback: a registry, an
# image of this machine's files pushed as shed pushes, the suite, a device of
# it that is there at once, and a few files read through that device.  As root
# or as an ordinary user; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."
setup=$(mktemp "${TMPDIR:-/tmp}/shedstream-demo.XXXXXX.log")

# All set-up goes to a log, which is named only when it is needed.
prepare() {
	tests/deps.sh
	make -j"$(nproc)"
	[ "$(id -u)" -ne 0 ] || tests/tools/users.sh
}
prepare >"$setup" 2>&1 || {
	tail -n 5 "$setup" >&2
	echo "demo: the set-up failed; all of it is in $setup" >&2
	exit 1
}
rm "$setup"
. tests/e2e/lib.sh
image_small 2>/dev/null
registry_start
image_push "$SMALL" demo:v1
suite_start

echo "registry $REGISTRY holds demo:v1, an erofs of $((SIZE / 1000000)) MB"
echo "\$ shedctl attach $IMAGE --name demo --present nbd --integrity complete"
ctl attach "$IMAGE" --present nbd --integrity complete --name demo | tee "$T/uri"
files=(/usr/lib/os-release /usr/share/common-licenses/GPL-3 /usr/bin/bash)
"$TOOLS/erofscat.py" --sum "$(<"$T/uri")" "${files[@]}" >"$T/read"
for file in "${files[@]}"; do
	grep -q "^$(sha_of "$file") .* $file\$" "$T/read" ||
		fail "$file in the image is not this machine's"
done
echo "read through the device, the same as here: ${files[*]}"
echo "\$ shedctl map demo"
ctl map demo | head -n 8
ctl status demo --json | jq -r '
	def mb: . / 10000 | round / 100 | "\(.) MB";
	"read \(.bytes.served | mb), fetched \(.bytes.fetched | mb) in " +
	"\(.requests.sent) requests, of \(.size | mb) " +
	"(\(100 * .bytes.fetched / .size | . * 10 | round / 10)%)"'
ctl detach demo
suite_stop
