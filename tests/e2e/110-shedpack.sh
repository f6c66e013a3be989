#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: shedpack makes the same index of the same bytes, and says when a layout
# does not make them; what it pushes refers to its image, is copied by skopeo
# and oras, and outlives the registry's garbage collection, which takes what
# only an annotation names; --annotate changes nothing else of a manifest; what
# can't be done is refused with a sentence, and leaves nothing behind.
. "$(dirname "$0")/lib.sh"

export HOME=$T DOCKER_CONFIG=$T/docker
ACCEPT='application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json'

pack() {
	"$BIN/shedpack" "$@" 2>>"$T/shedpack.log"
}

refused() { # REGEX ARGUMENTS...: exit status 1 and such a sentence
	local regex=$1
	shift
	assert_exit 1 "^shedpack: .*($regex)" "$BIN/shedpack" "$@"
	[ ! -s "$T/out" ] || fail "$*: printed $(<"$T/out")"
}

manifest_of() { # REPO REFERENCE: its bytes
	curl -sf -H "Accept: $ACCEPT" "http://$REGISTRY/v2/$1/manifests/$2"
}

has_blob() { # REPO DIGEST
	curl -sf -o /dev/null -I "http://$REGISTRY/v2/$1/blobs/$2"
}

blobs_are() { # 0|1 REPO DIGEST...: are they (all) there
	local want=$1 repo=$2 digest
	shift 2
	for digest; do
		if has_blob "$repo" "$digest"; then
			[ "$want" = 1 ] || fail "$repo still has $digest"
		else
			[ "$want" = 0 ] || fail "$repo lost $digest"
		fi
	done
}

# a small image of known content: files, a copy of one, zeros
mkdir "$T/tree"
head -c 3000000 /dev/urandom >"$T/tree/a"
cp "$T/tree/a" "$T/tree/b"
head -c 5000000 /dev/zero >"$T/tree/c"
seq 400000 >"$T/tree/d"
mkfs.erofs -T 0 "$T/image.erofs" "$T/tree" >/dev/null
cp "$T/image.erofs" "$T/copy.erofs"	# not the same file

## index, inspect, verify

line=$(pack index "$T/image.erofs" -o "$T/one")
[[ $line =~ ^index\ sha256:[0-9a-f]{64}\ size\ [0-9]+$ ]] ||
	fail "index printed '$line'"
read -r _ INDEX _ INDEX_SIZE <<<"$line"
assert_eq "$(stat -c %s "$T/one/index")" "$INDEX_SIZE" "size of the index"
assert_eq "sha256:$(sha_of "$T/one/index")" "$INDEX" "digest of the index"
DEVICE=sha256:$(sha_of "$T/image.erofs")
assert_eq "$(pack index "$T/copy.erofs" -o "$T/two/")" "$line" "a second index"
diff -r "$T/one" "$T/two" || fail "the second layout differs"
for file in "$T"/one/blobs/sha256/*; do
	assert_eq "$(sha_of "$file")" "${file##*/}" "a blob's name"
done
mkdir "$T/empty"	# an empty directory will do
pack index "$T/copy.erofs" -o "$T/empty" >/dev/null
diff -r "$T/one" "$T/empty" || fail "the layout in an empty directory differs"

# where the erofs can't get a second name it is copied, by the kernel or by hand;
# and a full disk leaves nothing
# (a leak checker can't work under strace)
strace=(env ASAN_OPTIONS=detect_leaks=0 strace -f -o /dev/null)
without() { # DIR SYSCALL:error=E...
	local inject=() dir=$1
	shift
	for call; do
		inject+=(-e "inject=$call")
	done
	"${strace[@]}" "${inject[@]}" "$BIN/shedpack" \
		index "$T/image.erofs" -o "$dir"
}
without "$T/copied" linkat:error=EXDEV >/dev/null 2>&1
without "$T/by-hand" linkat:error=EXDEV copy_file_range:error=EXDEV \
	>/dev/null 2>&1
for copy in copied by-hand; do
	diff -r "$T/one" "$T/$copy" || fail "$copy: another layout"
	assert_eq "$(stat -c %h "$T/$copy/blobs/sha256/${DEVICE#sha256:}")" 1 links
done
for call in pwrite64 fsync; do
	assert_exit 1 '^shedpack: cannot write to .*; free some space' \
		without "$T/no" "$call:error=ENOSPC"
	[ -z "$(find "$T" -name '*.shedpack-*' -o -name no)" ] ||
		fail "a full disk left something"
done

assert_json ".index.digest == \"$INDEX\" and .index.size == $INDEX_SIZE and
	.device.digest == \"$DEVICE\" and .cut == 1 and
	.device.size == $(stat -c %s "$T/image.erofs") and
	.blobs == [.device] and .chunk.min >= 4096 and .chunk.max <= 262144 and
	.bytes.zero > 4000000 and .bytes.duplicate > 2000000 and
	.bytes.zero + .bytes.duplicate + .bytes.unique == .device.size and
	.extents > .chunks" pack inspect "$T/one" --json
assert_json ".index.digest == \"$INDEX\"" pack inspect --json "$T/one/index"
pack inspect "$T/one" | grep -q "^device  *$DEVICE" || fail "inspect for people"
assert_eq "$(pack verify "$T/two" "$T/image.erofs")" \
	"verified $DEVICE size $(stat -c %s "$T/image.erofs")" verify

# the index says what is where: read it as its own specification does
/usr/bin/python3 - "$T/one/index" "$T/image.erofs" <<'END'
import hashlib, struct, sys
index, image = (open(p, "rb").read() for p in sys.argv[1:])
counts = struct.unpack_from("<III", index, 56)
blobs, chunks, extents = struct.unpack_from("<QQQ", index, 72)
at = 0
for n in range(counts[2]):
    offset, length, chunk = struct.unpack_from("<QQI", index, extents + 24 * n)
    assert offset == at, "a gap"
    at += length
    piece = image[offset:at]
    if chunk == 0xffffffff:
        assert not any(piece), "zeros that are none"
        continue
    c = index[chunks + 64 * chunk:chunks + 64 * chunk + 64]
    where, stored, whole = struct.unpack_from("<QII", c, 40)
    assert stored == whole == length
    assert hashlib.sha256(piece).digest() == c[:32], "a chunk's digest"
    assert image[where:where + length] == piece, "a chunk's place"
assert at == len(image)
END

# one byte of the erofs; of a chunk in the layout; of zeros in the layout
flip() { # FILE OFFSET
	/usr/bin/python3 - "$@" <<-'END'
	import sys
	with open(sys.argv[1], "r+b") as f:
	    f.seek(int(sys.argv[2]))
	    byte = f.read(1)[0]
	    f.seek(-1, 1)
	    f.write(bytes([byte ^ 1]))
	END
}
in_zeros=$(/usr/bin/python3 - "$T/one/index" <<'END'
import struct, sys
index = open(sys.argv[1], "rb").read()
n = struct.unpack_from("<I", index, 64)[0]
extents = struct.unpack_from("<Q", index, 88)[0]
print(next(o + l // 2 for o, l, c in (struct.unpack_from("<QQI", index,
      extents + 24 * i) for i in range(n)) if c == 0xffffffff and l > 1 << 20))
END
)
for at in 123456 "$in_zeros" $(($(stat -c %s "$T/image.erofs") - 1)); do
	cp "$T/image.erofs" "$T/flipped.erofs"
	flip "$T/flipped.erofs" "$at"
	refused "first difference is at byte $at;" \
		verify "$T/one" "$T/flipped.erofs"
done
head -c 4096000 "$T/image.erofs" >"$T/flipped.erofs"
refused "first difference is at byte 4096000," verify "$T/one" "$T/flipped.erofs"
{ cat "$T/image.erofs"; echo; } >"$T/flipped.erofs"
refused "first difference is at byte $(stat -c %s "$T/image.erofs")," \
	verify "$T/one" "$T/flipped.erofs"
for at in 123456 "$in_zeros"; do
	cp -r "$T/one" "$T/bad"
	flip "$T/bad/blobs/sha256/${DEVICE#sha256:}" "$at"
	refused 'does not have its digest' verify "$T/bad" "$T/image.erofs"
	rm -r "$T/bad"
done
cp -r "$T/one" "$T/bad"
flip "$T/bad/blobs/sha256/${INDEX#sha256:}" 5000
refused "$INDEX does not have its digest" verify "$T/bad" "$T/image.erofs"
flip "$T/bad/index" 200
refused 'index cannot be used: .*reserved' inspect "$T/bad/index"
rm -r "$T/bad"

# layouts that are none
spoilt() { # WHAT-TO-DO REGEX
	cp -r "$T/one" "$T/bad"
	(cd "$T/bad" && eval "$1")
	refused "$2" inspect "$T/bad"
	rm -r "$T/bad"
}
manifest=$(jq -r '.manifests[0].digest' "$T/one/index.json")
manifest=blobs/sha256/${manifest#sha256:}
# replaced JQ: the manifest changed, under its new digest
replaced() {
	local sha
	jq -c "$1" "$manifest" >new
	sha=$(sha_of new)
	jq -c --arg d "sha256:$sha" --argjson s "$(stat -c %s new)" \
		'.manifests[0] += {digest: $d, size: $s}' index.json >changed
	mv new "blobs/sha256/$sha"
	mv changed index.json
}
while IFS='~' read -r what regex; do
	spoilt "$what" "$regex"
done <<'END'
rm oci-layout~its oci-layout is not there
rm index.json; mkfifo index.json~its index.json is not there
echo '[]' >index.json~is no JSON object
head -c 70000 /dev/zero >index.json~is no JSON object
echo '{"manifests":[]}' >index.json~holds no manifest of the type
echo '{"manifests":[{"digest":"sha256:../../x","size":5}]}' >index.json~without sha256 and size
sed -i 's/"size":[0-9]*/"size":999999999/' index.json~without sha256 and size
echo '{"imageLayoutVersion":"2.0.0"}' >oci-layout~version is not 1.0.0
rm "$manifest"~is missing
echo >>"$manifest"~has another size
sed -i s/layers/slayer/ "$manifest"~does not have its digest
rm "blobs/sha256/${DEVICE#sha256:}"~is missing
: >"blobs/sha256/${DEVICE#sha256:}"~has another size
rm "blobs/sha256/${INDEX#sha256:}"; mkfifo "blobs/sha256/${INDEX#sha256:}"~cannot be read
replaced 'del(.artifactType)'~holds no manifest of the type
replaced 'del(.layers)'~no layers
replaced '.layers[0].size = 70000000'~more than 64 MiB
replaced '.layers[0].size = -1'~no sha256 and size
replaced 'del(.layers[0])'~has no index
replaced '.layers += [.layers[0]]'~has two indexes
replaced 'del(.layers[1])'~is no layer of the artifact
replaced '.layers = [range(2000) | {}]'~too many
replaced '.config.size = 1'~has another size
END

## what is no image, and no place

echo "no erofs at all" >"$T/text"
: >"$T/nothing"
truncate -s 5000 "$T/zeros"
refused 'is no erofs image' index "$T/text" -o "$T/no"
refused 'is no erofs image' index "$T/zeros" -o "$T/no"
refused 'is empty' index "$T/nothing" -o "$T/no"
refused 'not a regular file' index "$T" -o "$T/no"
refused 'not a regular file' index /dev/null -o "$T/no"
mkfifo "$T/fifo"
refused 'not a regular file' index "$T/fifo" -o "$T/no"
refused 'cannot open .*/nosuch' index "$T/nosuch" -o "$T/no"
if truncate -s 2T "$T/huge" 2>/dev/null; then
	refused 'larger than 1 TiB' index "$T/huge" -o "$T/no"
	rm "$T/huge"
fi
refused 'is not empty; name a directory' index "$T/image.erofs" -o "$T/one"
refused 'is no directory; name' index "$T/image.erofs" -o "$T/text"
refused 'make the directory that is to hold it' \
	index "$T/image.erofs" -o "$T/no/such"
refused 'is no layout|is no OCI image layout' inspect "$T/tree"
refused 'does not begin with' inspect "$T/image.erofs"
refused 'cannot build chunked images yet' \
	build "$T/image.erofs" -o "$T/no" --level 3 --base x --base y
for words in "" "nosuch" "index" "index x" "verify x" "index x -o" \
	"inspect x --annotate" "push x y --nosuch" "push x"; do
	# shellcheck disable=SC2086
	assert_exit 2 . "$BIN/shedpack" $words
done
if [ "$(id -u)" -ne 0 ]; then
	mkdir -m 500 "$T/sealed"
	refused 'check the permissions there' \
		index "$T/image.erofs" -o "$T/sealed/x"
fi

# a file that changes, and a signal, while it is read: strace stops each read
# long enough
slow=("${strace[@]}" -e trace=pread64
	-e inject=pread64:delay_enter=60000)
slowly() { # ERR: in the background, until it reads; sets SLOW
	"${slow[@]}" "$BIN/shedpack" index "$T/copy.erofs" -o "$T/no" \
		>"$T/out" 2>"$1" &
	SLOW=$!
	wait_until 10 grep -q -s reading "$1" || fail "it does not begin"
}
slowly "$T/changed"
touch "$T/copy.erofs"
if wait "$SLOW"; then fail "a changed file was taken"; fi
grep -q 'was changed while it was read' "$T/changed" ||
	fail "of a changed file: $(<"$T/changed")"
slowly "$T/ended"
pkill -TERM -P "$SLOW" -x shedpack
if wait "$SLOW"; then fail "an interrupted run succeeded"; fi
grep -q '^shedpack: interrupted' "$T/ended" || fail "ended: $(<"$T/ended")"
[ ! -e "$T/no" ] || fail "a refused index left $T/no"
[ -z "$(find "$T" -name '*.shedpack-*')" ] ||
	fail "left over: $(find "$T" -name '*.shedpack-*')"

## push

refused 'does not accept connections' push "$T/one" 127.0.0.1:9/test/base:v1
registry_start
refused 'there is no manifest v1' push "$T/one" "$REGISTRY/test/base:v1"
head -c 1000000 /dev/urandom >"$T/kernel"
image_push "$T/image.erofs" test/base:v1 --kernel "$T/kernel"
image_push "$T/image.erofs" test/platforms:v1 --index
image_push "$T/flipped.erofs" test/other:v1
OTHER=$EROFS
assert_json '.annotations["io.shed.variant"] == "base"' manifest_of test/base v1
BEFORE=$(sha_of "$T/json")
refused "the image's erofs is $OTHER and the index is of $DEVICE" \
	push "$T/one" "$REGISTRY/test/other:v1" --annotate
refused 'name the manifest of the one .*@sha256:HEX; that of linux/' \
	push "$T/one" "$REGISTRY/test/platforms:v1" --annotate
refused 'names no registry' push "$T/one" "$DEVICE"
refused 'is no image.s name' push "$T/one" "http://$REGISTRY/test/base:v1"
refused 'is the image.s own tag' push "$T/one" "$REGISTRY/test/base:v1" --tag v1
refused 'there is no manifest nosuch' \
	push --insecure "$T/one" "$REGISTRY/test/base:nosuch"
refused 'is that of something else' \
	push "$T/one" "$REGISTRY/test/base@sha256:$BEFORE" --tag v1
refused 'is no tag' push "$T/one" "$REGISTRY/test/base:v1" --tag a:b

# by reference alone
registry_mark
line=$("$BIN/shedpack" push "$T/one" "$REGISTRY/test/base:v1" 2>"$T/err")
[[ $line =~ ^manifest\ sha256:[0-9a-f]{64}$ ]] || fail "push printed '$line'"
ARTIFACT=${line#manifest }
grep -q 'referrers = yes' "$T/err" || fail "no word on [trust]: $(<"$T/err")"
assert_eq "$(manifest_of test/base v1 | sha_of)" "$BEFORE" "the image's digest"
is_artifact() { # REPO REFERENCE SUBJECT
	assert_json ".artifactType == \"application/vnd.shedstream.chunks.v1\" and
		.subject.digest == \"$3\" and ([.layers[].digest] ==
		[\"$INDEX\", \"$DEVICE\"]) and .config.size == 2" \
		manifest_of "$1" "$2"
	assert_eq "sha256:$(sha_of "$T/json")" "$ARTIFACT" "digest of $1:$2"
}
is_artifact test/base "sha256-$BEFORE.shedstream" "sha256:$BEFORE"
assert_json ".manifests == [{mediaType: \"${ACCEPT%%,*}\", digest:
	\"$ARTIFACT\", size: $(stat -c %s "$T/json"), artifactType:
	\"application/vnd.shedstream.chunks.v1\"}]" \
	manifest_of test/base "sha256-$BEFORE"
# the erofs was there: it is not sent again, and nothing is sent twice
grep -q "$DEVICE: exists" "$T/err" || fail "the erofs was sent: $(<"$T/err")"
assert_eq "$(pack push "$T/one" "$REGISTRY/test/base:v1")" "$line" "again"
assert_json '.manifests | length == 1' manifest_of test/base "sha256-$BEFORE"

# what others list there stays
curl -sf "http://$REGISTRY/v2/test/base/manifests/sha256-$BEFORE" \
	-H "Accept: $ACCEPT" | jq -c '.annotations = {"x": "y"} |
	.manifests = [{mediaType: .manifests[0].mediaType, digest:
	"sha256:'"$BEFORE"'", size: 700, artifactType: "a/b"}] + .manifests' \
	>"$T/list.json"
curl -sf -X PUT -H "Content-Type: ${ACCEPT#*, }" --data-binary "@$T/list.json" \
	"http://$REGISTRY/v2/test/base/manifests/sha256-$BEFORE"
pack push "$T/one" "$REGISTRY/test/base:v1" >/dev/null
assert_json '[.manifests[].artifactType] == ["a/b",
	"application/vnd.shedstream.chunks.v1"] and .annotations.x == "y"' \
	manifest_of test/base "sha256-$BEFORE"

# annotated
out=$(pack push --annotate "$T/one" "$REGISTRY/test/base:v1")
read -r _ NEW _ ARTIFACT <<<"${out//$'\n'/ }"
assert_eq "$out" "image $NEW"$'\n'"manifest $ARTIFACT" "push --annotate"
assert_eq "sha256:$(manifest_of test/base v1 | sha_of)" "$NEW" "the tag v1"
manifest_of test/base "sha256:$BEFORE" >"$T/old.json"
manifest_of test/base v1 >"$T/new.json"
assert_json '.annotations["io.shed.rootfs.chunks.digest"] == "'"$INDEX"'"' \
	cat "$T/new.json"
# with every member, and in its order (jq -c keeps it)
assert_eq "$(jq -c 'del(.annotations["io.shed.rootfs.chunks.digest"])' \
	"$T/new.json")" "$(jq -c . "$T/old.json")" "the rest of the manifest"
is_artifact test/base "sha256-${NEW#sha256:}.shedstream" "$NEW"
assert_json "[.manifests[].digest] == [\"$ARTIFACT\"]" \
	manifest_of test/base "sha256-${NEW#sha256:}"
assert_eq "$(pack push --annotate "$T/one" "$REGISTRY/test/base:v1")" "$out" \
	"annotated again"

# members that nobody here knows, in any type, and a tag of its own
jq -c '{schemaVersion, zz: [1.5, -3, 9007199254740993, true, null, "é<>&\u0001"],
	mediaType, config, layers, annotations, aa: {"": {}}}' "$T/old.json" |
	curl -sf -X PUT -H "Content-Type: ${ACCEPT%%,*}" --data-binary @- \
	"http://$REGISTRY/v2/test/base/manifests/odd"
manifest_of test/base odd >"$T/old.json"
out=$(pack push --annotate --tag mine "$T/one" "$REGISTRY/test/base:odd")
read -r _ ODD _ ARTIFACT <<<"${out//$'\n'/ }"
manifest_of test/base odd >"$T/new.json"
/usr/bin/python3 - "$T/old.json" "$T/new.json" <<'END'
import json, sys
old, new = (json.load(open(p), object_pairs_hook=list) for p in sys.argv[1:])
notes = dict(new)["annotations"]
assert notes.pop()[0] == "io.shed.rootfs.chunks.digest"
assert old == new, (old, new)
END
is_artifact test/base mine "$ODD"

# what replaces it under its tag also takes its place in the list
cp -r "$T/one" "$T/next"
/usr/bin/python3 - "$T/next" <<'END'
import hashlib, json, sys
layout = sys.argv[1]
index = json.load(open(layout + "/index.json"))
entry = index["manifests"][0]
path = layout + "/blobs/sha256/"
manifest = json.load(open(path + entry["digest"][7:]))
manifest["annotations"] = {"made": "later"}
text = json.dumps(manifest).encode()
entry.update(digest="sha256:" + hashlib.sha256(text).hexdigest(),
             size=len(text))
open(path + entry["digest"][7:], "wb").write(text)
json.dump(index, open(layout + "/index.json", "w"))
END
ARTIFACT=$(pack push --tag mine "$T/next" "$REGISTRY/test/base:odd")
ARTIFACT=${ARTIFACT#manifest }
assert_json "[.manifests[].digest] == [\"$ARTIFACT\"]" \
	manifest_of test/base "sha256-${ODD#sha256:}"

# a blob that changed since it was indexed (a second name of the image shows it)
cp -r "$T/one" "$T/bad"
flip "$T/bad/blobs/sha256/${DEVICE#sha256:}" 999
image_push "$T/kernel" test/changed:v1
manifest_of test/changed v1 | jq -c --arg d "$DEVICE" \
	'.annotations["io.shed.rootfs.erofs.digest"] = $d' |
	curl -sf -X PUT -H "Content-Type: ${ACCEPT%%,*}" --data-binary @- \
	"http://$REGISTRY/v2/test/changed/manifests/v1"
refused 'refuses a blob .*DIGEST_INVALID' \
	push "$T/bad" "$REGISTRY/test/changed:v1"
rm -r "$T/bad"

## skopeo and oras

tag=sha256-${NEW#sha256:}.shedstream
from=docker://$REGISTRY/test/base:$tag
loose=(--src-tls-verify=false --dest-tls-verify=false)
is_whole() { # DIR: a copy of the layout
	assert_json ".index.digest == \"$INDEX\"" pack inspect "$1" --json
	pack verify "$1" "$T/image.erofs" >/dev/null
}
skopeo copy -q "${loose[@]}" "$from" "oci:$T/by-skopeo:x"
is_whole "$T/by-skopeo"
skopeo copy -q "${loose[@]}" "oci:$T/by-skopeo:x" \
	"docker://$REGISTRY/copied/skopeo:x"
assert_eq "$(manifest_of copied/skopeo x | sha_of)" \
	"$(manifest_of test/base "$tag" | sha_of)" "a copy by skopeo, and back"
blobs_are 1 copied/skopeo "$INDEX" "$DEVICE"
skopeo copy -q "${loose[@]}" "oci:$T/one:chunks" \
	"docker://$REGISTRY/copied/layout:x"
blobs_are 1 copied/layout "$INDEX" "$DEVICE"
if oras=$("$TOOLS/oras.sh" 2>"$T/oras.log"); then
	# with referrers: the image, and what refers to it
	"$oras" copy -r --from-plain-http --to-plain-http --no-tty \
		"$REGISTRY/test/base:v1" "$REGISTRY/copied/oras:v1" >/dev/null
	assert_eq "sha256:$(manifest_of copied/oras v1 | sha_of)" "$NEW" \
		"the image as oras copied it"
	"$oras" discover --plain-http --format json \
		"$REGISTRY/copied/oras:v1" >"$T/json"
	jq -e '[.manifests[].artifactType] ==
		["application/vnd.shedstream.chunks.v1"]' "$T/json" >/dev/null ||
		fail "oras discovers $(<"$T/json")"
	blobs_are 1 copied/oras "$INDEX" "$DEVICE"
	"$oras" copy --from-plain-http --no-tty --to-oci-layout \
		"$REGISTRY/test/base:$tag" "$T/by-oras:x" >/dev/null
	is_whole "$T/by-oras"
	"$oras" copy --from-oci-layout --to-plain-http --no-tty \
		"$T/one:chunks" "$REGISTRY/copied/again:x" >/dev/null
	blobs_are 1 copied/again "$INDEX" "$DEVICE"
	"$oras" pull --plain-http --no-tty -o "$T/pulled" \
		"$REGISTRY/test/base:$tag" >/dev/null
	cmp "$T/pulled/rootfs.erofs" "$T/image.erofs"
	cmp "$T/pulled/index" "$T/one/index"
else
	echo "NOTE: the part with oras was left out: $(tail -n 1 "$T/oras.log")"
fi

## garbage collection

# the same erofs once more, but nobody's layer
head -c 700000 /dev/urandom >>"$T/flipped.erofs"
image_push "$T/flipped.erofs" test/loose:v1
LOOSE=$EROFS
blobs_are 1 test/loose "$LOOSE"
blobs_are 1 test/base "$INDEX" "$DEVICE"
registry_stop
# even untagged manifests go
docker-registry garbage-collect --delete-untagged "$T/registry.yml" \
	>"$T/collect.log" 2>&1
registry_start
blobs_are 0 test/loose "$LOOSE"
blobs_are 1 test/base "$INDEX" "$DEVICE"
manifest_of test/base "$tag" >/dev/null || fail "the artifact is gone"
manifest_of test/base "sha256-${NEW#sha256:}" >/dev/null || fail "the list is gone"
skopeo copy -q "${loose[@]}" "$from" "oci:$T/after:x"
is_whole "$T/after"

## https and credentials, through nginx

nginx_start tls "location / {
	auth_basic registry; auth_basic_user_file $T/users;
	proxy_pass http://$REGISTRY; proxy_request_buffering off;
	proxy_set_header Host \$http_host;
	proxy_set_header X-Forwarded-Proto \$scheme; }
	location /v2/plain/ {
	proxy_pass http://$REGISTRY; proxy_set_header Host \$http_host; }"
echo 'me:{PLAIN}secret-word' >"$T/users"
mkdir "$DOCKER_CONFIG"
login() { # USER:PASSWORD
	jq -n --arg h "$NGINX" --arg a "$(printf %s "$1" | base64)" \
		'{auths: {($h): {auth: $a}}}' >"$DOCKER_CONFIG/config.json"
}
refused 'does not accept connections|not HTTP|refuses .* 400' \
	push "$T/one" "$NGINX/test/base:v1"
mkdir "$T/stranger"
make_ca "$T/stranger"
refused 'is not trusted .*--ca' \
	push "$T/one" "$NGINX/test/base:v1" --ca "$T/stranger/ca.pem"
refused '/etc/hostname cannot be used as a file of certificates' \
	push "$T/one" "$NGINX/test/base:v1" --ca /etc/hostname
refused 'wants credentials and there is no .*config.json' \
	push "$T/one" "$NGINX/test/base:v1" --ca "$CA"
login me:wrong-word
refused 'refuses the credentials of .*config.json' \
	push "$T/one" "$NGINX/test/base:v1" --ca "$CA"
login me:secret-word
out=$(pack push --annotate "$T/one" "$NGINX/test/base:v1" --ca "$CA")
assert_eq "${out%%$'\n'*}" "image $NEW" "the same over https"
pack push "$T/one" "$NGINX/test/base:v1" --insecure >/dev/null
image_push "$T/image.erofs" plain/base:v1
curl -sf -X DELETE "http://$REGISTRY/v2/plain/base/blobs/$DEVICE"
refused 'from https to plain http' \
	push "$T/one" "$NGINX/plain/base:v1" --ca "$CA"
# curl's environment is not ours
https_proxy=http://127.0.0.1:9 ALL_PROXY=http://127.0.0.1:9 \
	"$BIN/shedpack" push "$T/one" "$NGINX/test/base:v1" --ca "$CA" \
	>/dev/null 2>&1 || fail "a proxy from the environment was used"
registry_stop
end_pid "$NGINX_PID"

## a registry with tokens and a list of its own, which fails in several ways

start takes /usr/bin/python3 "$TOOLS/takes.py" --log "$T/requests" \
	--user me:secret-word --subject
wait_line "$STARTED_PID" "$T/takes.log" '"registry"'
HOST=$(jq -r .registry "$T/takes.log")
tell() {
	curl -sf "http://$HOST/_fault?$1"
}
NGINX=$HOST login me:secret-word
token=$(curl -sf -u me:secret-word \
	"http://$HOST/token?scope=repository:r/i:pull,push" | jq -r .token)
put_image() { # TAG
	curl -sf -X PUT -H "Authorization: Bearer $token" --data-binary "@$T/old.json" \
		-H "Content-Type: ${ACCEPT%%,*}" "http://$HOST/v2/r/i/manifests/$1"
}
put_image v1
: >"$T/requests"
out=$(pack push --annotate "$T/one" "$HOST/r/i:v1")
if grep -q "sha256-[0-9a-f]*\"" "$T/requests"; then
	fail "a list of referrers for a registry that keeps its own"
fi
asked=$(jq -s 'map(select(.path | startswith("/token"))) | length' "$T/requests")
assert_eq "$asked" 1 "tokens asked for"

# with a fresh repository, no blobs, and these faults
trouble() { # FAULTS WANTED [OPTION]
	local status=0 repo=r/n$RANDOM
	token=$(curl -sf -u me:secret-word \
		"http://$HOST/token?scope=repository:x:pull,push" | jq -r .token)
	curl -sf -X PUT -H "Authorization: Bearer $token" \
		-H "Content-Type: ${ACCEPT%%,*}" --data-binary "@$T/old.json" \
		"http://$HOST/v2/$repo/manifests/v1"
	curl -sf "http://$HOST/_forget"
	tell "$1"
	"$BIN/shedpack" push "$T/one" "$HOST/$repo:v1" ${3+"$3"} \
		>"$T/out" 2>"$T/err" || status=$?
	echo "$1: $status $(sed -n "/^shedpack:/p" "$T/err" | head -n 2)"
	assert_eq "$status" "$2" "push with $1: $(<"$T/err")"
}
for fault in post=503 put=503 put-lost=1 put-done=1 expire=1 manifest=503 \
	away=1 "put=502&times=2"; do
	trouble "$fault" 0
done
grep -q 'trying again in [124] s' "$T/err" || fail "silent tries: $(<"$T/err")"
for fault in manifest=huge manifest=lie inside=1; do
	trouble "$fault" 1
done
grep -q 'is at a private address' "$T/err" || fail "inside: $(<"$T/err")"
trouble moved=1 1 --annotate
grep -q 'was moved by somebody else' "$T/err" || fail "moved: $(<"$T/err")"
jq -e -s 'map(select(.role == "other")) | length > 0 and
	all(.[]; .headers | has("Authorization") | not)' "$T/requests" >/dev/null ||
	fail "credentials went to another host: $(grep other "$T/requests")"
# tries end
tell "post=503&times=99"
curl -sf "http://$HOST/_forget"
: >"$T/requests"
refused 'status 503' push "$T/one" "$HOST/r/i:v1"
assert_eq "$(jq -s 'map(select(.method == "POST")) | length' "$T/requests")" 5 \
	"tries"
if grep -r -q secret-word "$T"/*.log; then fail "the password is in a log"; fi
