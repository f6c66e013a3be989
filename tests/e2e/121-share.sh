#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: of an image that is another one and some files more, no more is fetched
# than 1.1 times its new chunks, and no more is taken on disk than these, on
# ext4 and on tmpfs; every byte of both is right, also after a restart without a
# registry.  Chunks that an image has twice are fetched and stored once.
. "$(dirname "$0")/lib.sh"

META=65536	# bytes: directories and small files of one image, in blocks

image_small
image_plus
image_of "$T/dups.erofs" 1:4000 2:8000 1:4000 0:6000
registry_start
image_push "$SMALL" test/base:v1
BASE_SHA=${EROFS#sha256:}
image_annotate "$SMALL"
BASE=$IMAGE BASE_MANIFEST=$MANIFEST
mv "$T/pack" "$T/base"
image_push "$PLUS" test/base:v2
PLUS_SHA=${EROFS#sha256:}
image_annotate "$PLUS"
NEXT=$IMAGE NEXT_MANIFEST=$MANIFEST
mv "$T/pack" "$T/plus"
image_push "$T/dups.erofs" test/dups:v1
image_annotate "$T/dups.erofs"
DUPS=$IMAGE DUPS_SHA=${EROFS#sha256:}
mv "$T/pack" "$T/dups"

NEW=$(index_tool new "$T/base/index" "$T/plus/index")
index_bytes() { # LAYOUT: of its index, and of the presence file for it
	local chunks
	chunks=$(index_tool show "$1/index" | jq .chunks)
	echo $(($(stat -c %s "$1/index") + (4096 + 64 * chunks) / 4096 * 4096 +
		4096))
}

share() { # WHERE: all of it with a store there
	local before grew bytes one two n
	STORE=$2
	rm -rf "$T/run"
	no_hedges
	suite_start
	ctl pull "$BASE" 2>/dev/null
	one=$(ctl attach "$BASE" --name one)
	status_is one .state complete || fail "$1: the first is not complete"
	before=$(store_used)
	registry_mark
	two=$(ctl attach "$NEXT" --name two)
	assert_json ".integrity == \"chunk\" and .chunks.shared > 0 and
		.chunks.present == .chunks.shared" ctl status two --json
	ctl pull "$NEXT" 2>/dev/null
	status_is two .network_free true || fail "$1: the second is not complete"
	bytes=$(registry_bytes)
	assert_le "$bytes" $((NEW * 11 / 10)) \
		"$1: bytes fetched for $NEW new ones"
	assert_json ".bytes.fetched <= $bytes" ctl status two --json
	grew=$(($(store_used) - before))
	assert_le $grew $((NEW + META + $(index_bytes "$T/plus"))) \
		"$1: growth of the store by $NEW new bytes"
	echo "$1: $NEW new bytes, $bytes fetched, the store grew by $grew"
	assert_eq "$(device_sha "$one")" "$BASE_SHA" "$1: the first"
	assert_eq "$(device_sha "$two")" "$PLUS_SHA" "$1: the second"
	# the shares add up: what is on disk is somebody's, and nobody's twice
	assert_json "[.images[].on_disk] | add <= $(store_used)" ctl df --json
	assert_json ".total <= $(store_used) and .total > $(store_used) - 2 * $META
		and .total == ([.images[].on_disk] | add)" ctl df --json
	assert_json '(.images[0].shared > 0) and (.images[1].shared > 0) and
		all(.images[]; .exclusive <= .on_disk)' ctl df --json

	# identical chunks of one image
	before=$(store_used)
	registry_mark
	ctl pull "$DUPS" 2>/dev/null
	n=$(index_tool show "$T/dups/index" | jq .unique)
	assert_le "$(registry_bytes)" $((n + $(index_bytes "$T/dups"))) \
		"$1: bytes fetched for $n different ones"
	grew=$(($(store_used) - before))
	assert_le $grew $((n + META + $(index_bytes "$T/dups"))) \
		"$1: growth by $n different bytes"
	echo "$1: $(stat -c %s "$T/dups.erofs") bytes with $n different ones:" \
		"$grew on disk"
	suite_stop

	# without the registry: devices that come back, and digests
	registry_stop
	suite_start
	wait_until 10 nbdinfo --size "$two" >/dev/null || fail "$1: no device"
	assert_eq "$(device_sha "$two")" "$PLUS_SHA" "$1: the second, later"
	assert_eq "$(device_sha "$one")" "$BASE_SHA" "$1: the first, later"
	ctl detach one
	ctl detach two
	wait_until 10 device_count 0 || fail "$1: devices are left"
	one=$(ctl attach "$NEXT_MANIFEST" --name three)
	assert_eq "$(device_sha "$one")" "$PLUS_SHA" "$1: the second, by digest"
	one=$(ctl attach "$BASE_MANIFEST" --name four)
	assert_eq "$(device_sha "$one")" "$BASE_SHA" "$1: the first, by digest"
	two=$(ctl attach "$DUPS" --name dups)
	assert_eq "$(device_sha "$two")" "$DUPS_SHA" "$1: the one with doubles"
	for n in three four dups; do
		assert_json '.requests.sent == 0 and .network_free' \
			ctl status $n --json
		ctl detach $n
	done
	suite_stop
	registry_start
}

# the first only in part: what the second has of it by then is shared too
partly() {
	local one two
	rm -rf "$T/run" "$STORE"
	suite_start
	one=$(ctl attach "$BASE" --name one)
	"$TOOLS/reader.py" "$one" "$SMALL" touch 200 >/dev/null
	two=$(ctl attach "$NEXT" --name two)
	"$TOOLS/reader.py" "$two" "$PLUS" touch 200 --seed 2 >/dev/null
	device_sha "$one" >"$T/one.sha" &
	assert_eq "$(device_sha "$two")" "$PLUS_SHA" "the second, beside the first"
	wait $!
	assert_eq "$(<"$T/one.sha")" "$BASE_SHA" "the first, beside the second"
	wait_until 20 status_is one .state complete ||
		fail "the first: not whole: $(ctl status one --json)"
	wait_until 20 status_is two .state complete ||
		fail "the second: not whole: $(ctl status two --json)"
	suite_stop
}

fs_of() {
	stat -f -c %T "$1"
}

if [ "$(fs_of "$T")" = ext2/ext3 ] && [ "$(id -u)" -ne 0 ]; then
	mkdir "$T/ext4"
elif [ "$(id -u)" -eq 0 ]; then
	truncate -s 300M "$T/disk"
	mkfs.ext4 -q -F "$T/disk"
	mkdir "$T/mnt"
	mount -o loop "$T/disk" "$T/mnt" && {
		MOUNTS+=("$T/mnt")
		mkdir "$T/mnt/store"
		ln -s mnt "$T/ext4"
	}
fi
if [ -d "$T/ext4" ]; then
	share ext4 "$T/ext4/store"
else
	echo "NOTE: ext4 skipped: $T is on $(fs_of "$T"), and a mount needs root"
fi
SHM=$(mktemp -d /dev/shm/ss.XXXXXX)
REMOVE+=("$SHM")
chmod 711 "$SHM"
assert_eq "$(fs_of "$SHM")" tmpfs "the file system of /dev/shm"
share tmpfs "$SHM/store"
partly
