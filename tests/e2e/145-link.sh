#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: the network link that other tests look through (tests/tools/link.c)
# changes no byte, however many connections share it; stalls and goes on when it
# is told to; passes nothing meanwhile; and keeps no connection whose ends are
# gone.
. "$(dirname "$0")/lib.sh"

openssl enc -aes-128-ctr -nosalt -pass pass:link -pbkdf2 -iter 1 \
	</dev/zero 2>/dev/null | head -c 24M >"$T/bytes" || true
SUM=$(sha_of "$T/bytes")
registry_start
link_start "$REGISTRY" 5 400

said() { # JQ-PATH: of stats
	link_say stats | jq "$1"
}
is_at_least() { # JQ-PATH NUMBER
	[ "$(said "$1")" -ge "$2" ]
}
all_closed() {
	[ "$(said .open)" = 0 ]
}

## upstream: the registry compares the digest

"$TOOLS/push.py" "$T/bytes" "$LINK/test/bytes:v1" >"$T/push.json"
URL=http://$LINK/v2/test/bytes/blobs/$(jq -r .erofs "$T/push.json")
is_at_least .up $((24 << 20)) || fail "the upload did not pass the link"
wait_until 10 all_closed || fail "its connection is left: $(said .)"

## four at once, each byte right

before=$(link_say stats)
fetchers=()
for n in 1 2 3 4; do
	curl -sf -o "$T/got$n" "$URL" &
	fetchers+=($!)
done
for n in "${fetchers[@]}"; do
	wait "$n" || fail "a download failed"
done
after=$(link_say stats)
for n in 1 2 3 4; do
	assert_eq "$(sha_of "$T/got$n")" "$SUM" "SHA-256 of download $n"
done
jq -nr --argjson a "$before" --argjson b "$after" '"NOTE: of 400 Mbit/s \(
	($b.down - $a.down) * 8 / ($b.at_us - $a.at_us) | round) were used"'
[ "$(said .down)" -ge $((4 * 24 << 20)) ] || fail "stats count too few bytes"
wait_until 10 all_closed || fail "closed connections are left: $(said .)"

## a stall in the middle

from=$(said .down)
link_say rate 40
curl -sf -o "$T/stalled" "$URL" &
fetcher=$!
wait_until 30 is_at_least .down $((from + (1 << 20))) || fail "nothing comes"
link_say rate 0
stalled_at=$(said .down)
# what the server sends meanwhile fills the queue, and no more than that
wait_until 30 is_at_least .queued $((200 << 10)) || fail "the queue is empty"
accepted=$(said .accepted)
curl -sf -o "$T/second" "$URL" &
second=$!
wait_until 10 is_at_least .accepted $((accepted + 1)) || fail "no second client"
assert_eq "$(said .down)" "$stalled_at" "bytes that passed a stalled link"
assert_le "$(said .queued)" $((1 << 20)) "bytes in the queue"
kill -0 $fetcher || fail "a stall ended a download"
link_say rtt 1
link_say rate inf
wait $fetcher || fail "the download did not survive the stall"
wait $second || fail "the download that began in the stall failed"
assert_eq "$(sha_of "$T/stalled")" "$SUM" "SHA-256 of the stalled download"
assert_eq "$(sha_of "$T/second")" "$SUM" "SHA-256 of the second one"

## a client that goes away in the middle

link_say rate 40
from=$(said .down)
curl -sf -o /dev/null "$URL" &
fetcher=$!
wait_until 30 is_at_least .down $((from + (1 << 20))) || fail "nothing comes"
kill $fetcher
wait $fetcher || true
wait_until 30 all_closed || fail "its connection is left: $(said .)"
[ "$(said .down)" -lt $((from + (8 << 20))) ] ||
	fail "the server went on for a client that was gone"

## a server that goes away

registry_stop
! curl -sf -o /dev/null "$URL" || fail "an answer without a server"
wait_until 10 all_closed || fail "connections are left: $(said .)"

[[ $(link_say nonsense) == nothing* ]] || fail "an unknown order was obeyed"
