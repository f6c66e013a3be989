#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: what cannot be done is refused at once, with the exit status of the
# contract and a sentence that says what to do; and the suite lives on.
. "$(dirname "$0")/lib.sh"

# nobody there
assert_exit 3 '^shedctl: ' ctl ls
# usage
for words in "" "nosuchcommand" "attach" "attach a b c" "ls --nosuchoption" \
	"attach x --integrity sideways" "attach x --fetch sometimes"; do
	# shellcheck disable=SC2086
	assert_exit 2 . ctl $words
done
assert_exit 2 . "$BIN/devd" --nosuchoption

image_small
registry_start
image_push "$SMALL" test/base:v1
suite_start

# names that are none
for name in "" "/" "no-slash" "127.0.0.1:99999/x:v1" "$REGISTRY/UPPER:v1" \
	"$REGISTRY/a/../b:v1" "$REGISTRY/a:v1:v2" "$REGISTRY/a@sha256:12" \
	"sha256:xyz" "http://$REGISTRY/test/base:v1" "$REGISTRY/test/base:v 1"; do
	assert_exit 1 '^shedctl: [A-Z_]+: .' \
		ctl attach "$name" --integrity complete
done
# what is not there
for name in "$REGISTRY/test/base:nosuchtag" "$REGISTRY/nosuchrepo:v1" \
	"sha256:$(printf '0%.0s' {1..64})"; do
	assert_exit 1 '^shedctl: [A-Z_]+: .' \
		ctl attach "$name" --integrity complete
done
# no chunk index exists; names and rungs that do not fit
assert_exit 1 '^shedctl: INTEGRITY_REFUSED: .' \
	ctl attach "$IMAGE" --integrity chunk
assert_exit 1 '^shedctl: [A-Z_]+: .' ctl status nosuchname
assert_exit 1 '^shedctl: [A-Z_]+: .' \
	ctl attach "$IMAGE" --name 'a/../b' --integrity complete
assert_exit 1 '^shedctl: [A-Z_]+: .' \
	ctl attach "$IMAGE" --present ublk --integrity complete
assert_eq "$(ctl ls --json | jq '.devices | length')" 0 "devices"
ctl health >/dev/null || fail "refusals made the suite unhealthy"

# a second suite on the same store, and on the same run directory
mkdir "$T/other"
assert_exit 1 "$T/store" timeout 10 "$BIN/devd" -f --store "$T/store" \
	--run "$T/other"
assert_exit 1 "$T/run" timeout 10 "$BIN/devd" -f --store "$T/other" \
	--run "$T/run"
ctl health >/dev/null || fail "a second suite hurt the first"
suite_stop

# socket paths
long=$T/$(printf 'x%.0s' {1..90})
mkdir "$long" "$T/a b" "$T/a,b"
assert_exit 1 '100' timeout 10 "$BIN/devd" -f --store "$T/store" --run "$long"
for run in "$T/a b" "$T/a,b"; do
	assert_exit 1 'space|comma' timeout 10 "$BIN/devd" -f \
		--store "$T/store" --run "$run"
done

# configuration: file, line and remedy
printf '[store]\nquota = many\n' >"$T/bad.conf"
assert_exit 1 'bad.conf:2' "$BIN/devd" -n -c "$T/bad.conf"
printf '[store]\nnosuchkey = 1\n' >"$T/bad.conf"
assert_exit 1 'bad.conf:2' "$BIN/devd" -n -c "$T/bad.conf"
printf '[store]\nquota = 10G\n' >"$T/good.conf"
"$BIN/devd" -n -c "$T/good.conf" || fail "devd -n refuses a good file"
