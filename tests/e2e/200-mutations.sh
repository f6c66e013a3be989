#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: the tests notice when a rule of the store is broken.  Each patch in
# tests/mutations/ breaks one on purpose, in a copy of the sources, and says
# which test must turn red; the same test is green without it (this run of
# `make check` has just shown that).
. "$(dirname "$0")/lib.sh"

[ -e "$ROOT/Makefile" ] || skip "the sources are not here; the pass of the" \
	"user who called has tried the mutations"

copy=$T/copy
mkdir "$copy"
cp -a "$ROOT"/{Makefile,base,cached,devd,fetcherd,image,ipc,policy,shedctl} \
	"$ROOT/shedpack" "$copy/"
mkdir "$copy/tests" "$copy/build"
cp -a "$ROOT"/tests/{unit,store,data} "$copy/tests/"
cp -a "$ROOT/${BUILD:-build}"/{bin,gen,obj} "$copy/build/"

red=0
for patch in "$ROOT"/tests/mutations/*.patch; do
	name=$(basename "$patch" .patch)
	test=$(sed -n 's/^Red: //p' "$patch")
	patch -d "$copy" -p1 -s -F0 <"$patch" >"$T/patch.log" 2>&1 ||
		fail "$name.patch does not fit the sources any more:" \
			"$(cat "$T/patch.log")"
	make -C "$copy" -s -j2 all "build/tests/unit/$test" \
		build/tests/store/cached-recorded >"$T/make.log" 2>&1 ||
		fail "$name does not compile: $(tail -n 5 "$T/make.log")"
	status=0
	(cd "$copy" && BUILD=build timeout 250 "build/tests/unit/$test") \
		>"$T/test.log" 2>&1 || status=$?
	[ $status -ne 0 ] || fail "$name: $test stays green"
	[ $status -ne 124 ] || fail "$name: $test does not end"
	echo "$name: $test is red: $(grep -a -i 'wrong byte\|damage\|request for' \
		"$T/test.log" | tail -n 1 | cut -c 1-120)"
	red=$((red + 1))
	patch -d "$copy" -p1 -s -R <"$patch"
done
echo "NOTE: $red mutations turned their tests red"
