#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: what a reader touches is fetched, once, and little else: at most 1.1
# times the 64 KiB units that it touched, by the registry's own log; for the
# plain image and for shed's lz4 one.
. "$(dirname "$0")/lib.sh"

registry_start
no_hedges
suite_start
for kind in plain lz4; do
	image_small ${kind/plain/}
	image_push "$SMALL" "test/$kind:v1"
	registry_mark
	uri=$(ctl attach "$IMAGE" --name $kind --integrity complete)
	for round in cold warm; do
		"$TOOLS/reader.py" "$uri" "$SMALL" touch 120 >"$T/touched"
		units=$(jq .units "$T/touched")
		bytes=$(registry_bytes "$EROFS")
		[ "$bytes" -ge $((units * 65536 * 9 / 10)) ] ||
			fail "$kind, $round: only $bytes bytes for $units units"
		assert_le "$bytes" $((units * 65536 * 11 / 10)) \
			"$kind, $round: bytes fetched for $units units"
	done
	requests=$(registry_requests "$EROFS")
	assert_le "$(status_of $kind .bytes.fetched)" $((bytes + 65536)) \
		"bytes.fetched"
	echo "NOTE: $kind: $units units, $bytes bytes in $requests requests"
	ctl detach $kind
done
suite_stop
