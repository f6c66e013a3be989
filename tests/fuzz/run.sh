#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# run.sh SECONDS NAME...: builds each fuzzer with clang into build/fuzz/, runs
# it for so long, and fails on a finding.  It starts from tests/fuzz/corpus-NAME
# and what former runs found interesting (build/fuzz/corpus-NAME).  A finding
# is mended, and becomes tests/data/bad-fuzz-NAME-WHAT, which each run tries
# first.  BUILD=DIR: another build directory.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/../.."
BUILD=${BUILD:-build}
out=$BUILD/fuzz
[ $# -ge 2 ] || { echo "usage: $0 SECONDS NAME..." >&2; exit 2; }
seconds=$1
shift

gen=$BUILD/gen/ipc
make -s B="$BUILD" "$gen"/{control,suite}.pb-c.{c,h}
mkdir -p "$out"

# A fuzzer's sources beside tests/fuzz/fuzz_NAME.c, and its libraries
describe() {
	sources=() packages=()
	case $1 in
	ipc)
		sources=(ipc/ipc.c ipc/stream.c base/fd.c
			"$gen"/{control,suite}.pb-c.c)
		packages=(libprotobuf-c libevent)
		;;
	manifest)
		sources=(image/ref.c image/manifest.c cached/presence.c
			base/digest.c base/fd.c)
		packages=(jansson libcrypto libprotobuf-c)
		;;
	index)
		sources=(image/index.c base/digest.c base/fd.c)
		packages=(libcrypto)
		;;
	nbd) sources=(devd/nbd_proto.c) ;;
	fuse) sources=(devd/fuse_proto.c) ;;
	http_head)
		sources=(fetcherd/head.c fetcherd/guard.c fetcherd/redirect.c
			base/fd.c)
		packages=(libcurl libprotobuf-c)
		;;
	http_json)
		sources=(fetcherd/secret.c fetcherd/head.c fetcherd/referrers.c
			base/digest.c base/fd.c)
		packages=(jansson libcrypto libcurl libprotobuf-c)
		;;
	*)
		echo "there is no fuzzer $1" >&2
		exit 2
		;;
	esac
}

build() { # NAME
	local libs=()
	describe "$1"
	[ ${#packages[@]} -eq 0 ] ||
		read -ra libs < <(pkg-config --cflags --libs "${packages[@]}")
	clang -std=gnu17 -g -O1 -fno-omit-frame-pointer \
		-fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=undefined -DVERSION='"fuzz"' \
		-I. -I"$BUILD/gen" -I"$gen" -o "$out/$1" \
		"tests/fuzz/fuzz_$1.c" "${sources[@]}" "${libs[@]}"
}

# What was found once is tried first, each by itself.
run() { # NAME
	local name=$1 log=$out/$1.log corpus=$out/corpus-$1 known=()
	mkdir -p "$corpus"
	mapfile -t known < <(find tests/data -name "bad-fuzz-$name-*" | sort)
	: >"$log"
	{
		[ ${#known[@]} -eq 0 ] || "$out/$name" "${known[@]}"
		"$out/$name" -max_total_time="$seconds" -timeout=20 \
			-rss_limit_mb=1024 -print_final_stats=1 \
			-artifact_prefix="$out/finding-$name-" \
			"$corpus" "tests/fuzz/corpus-$name"
	} >>"$log" 2>&1
}

failed=0
names=()
for name; do
	case $name in
	http) names+=(http_head http_json) ;;
	*) names+=("$name") ;;
	esac
done
for name in "${names[@]}"; do
	build "$name"
	if run "$name"; then
		tried=$(sed -n 's/^stat::number_of_executed_units: *//p' \
			"$out/$name.log" | tail -n 1)
		kept=$(find "$out/corpus-$name" -type f | wc -l)
		echo "ok $name # $tried inputs, $kept kept"
	else
		failed=1
		echo "not ok $name"
		tail -n 60 "$out/$name.log" | sed 's/^/    /'
	fi
done
exit $failed
