#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: an image in a registry becomes a device that holds exactly the blob's
# bytes, and every command that shows it answers in words and in JSON.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/base:v1
no_hedges
suite_start

uri=$(ctl attach "$IMAGE" --name one --integrity complete)
assert_eq "$(wc -l <<<"$uri")" 1 "lines that attach prints"
[[ $uri = nbd+unix:///*?socket=* ]] || fail "attach printed $uri"
assert_eq "$(ctl attach "$IMAGE" --name one --integrity complete)" "$uri" \
	"attach again by the same consumer"

assert_eq "$(nbdinfo --size "$uri")" "$SIZE" "size"
assert_eq "$(nbdinfo --size "nbd+unix:///?socket=${uri#*socket=}")" "$SIZE" \
	"size of the default export"
nbdinfo --is read-only "$uri" || fail "the export is not read-only"
nbdinfo --can multi-conn "$uri" || fail "the export has no multi-conn"
assert_json '.chunks.present < .chunks.total and .network_free == false and
	.state == "lazy" and .integrity == "complete"' ctl status one --json
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" \
	"SHA-256 of the whole device"

assert_json '.devices | length == 1' ctl ls --json
wait_until 30 status_is one .state complete ||
	fail "complete was not reached: $(ctl status one --json)"
assert_json ".name == \"one\" and .size == $SIZE and .network_free == true and
	.chunks.present == .chunks.total and .bytes.present >= .size and
	.bytes.fetched >= .size and .bytes.served >= .size and
	.requests.sent > 0 and .requests.failed == 0 and
	.stalled_reads == 0 and .path == \"$uri\" and
	(.digest == \"$EROFS\" or .digest == \"$MANIFEST\") and
	(.image | type == \"string\") and
	(.consumers | length > 0) and .present_as == \"nbd\"" \
	ctl status one --json
for command in images health version "map one"; do
	# shellcheck disable=SC2086
	assert_json 'type == "object"' ctl $command --json
	# shellcheck disable=SC2086
	[ -n "$(ctl $command)" ] || fail "$command says nothing"
done
assert_eq "$(ctl health)" ok "health"
ctl images | grep -q "${MANIFEST:7:12}" || ctl images | grep -q test/base ||
	fail "images does not name the image: $(ctl images)"

# what was fetched is what the registry sent, once
bytes=$(registry_bytes "$EROFS")
assert_le "$bytes" $((SIZE + 1024)) "bytes of the blob from the registry"

ctl detach one
wait_until 10 device_count 0 || fail "the device is left: $(ctl ls)"
[ ! -S "${uri#*socket=}" ] || fail "the export's socket is left"

# by name and digest; and by an index, which leads to this machine's platform
ctl attach "$REGISTRY/test/base@$MANIFEST" --name two \
	--integrity complete >/dev/null || fail "attach by name and digest"
image_small lz4
image_push "$SMALL" test/multi:v1 --index
uri=$(ctl attach "$IMAGE" --name three --integrity complete)
assert_eq "$(nbdinfo --size "$uri")" "$SIZE" "size by way of an index"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" \
	"SHA-256 by way of an index"
wait_until 5 device_count 2 || fail "not two devices: $(ctl ls)"
for name in two three unknown; do
	ctl detach "$name" || fail "detach $name"
done
wait_until 10 device_count 0 ||
	fail "devices are left after detach: $(ctl ls)"
suite_stop
