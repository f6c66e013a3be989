#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: what is present survives a restart of the whole suite, and with the
# registry gone it is attached by digest and read without any request.
. "$(dirname "$0")/lib.sh"

image_small
registry_start
image_push "$SMALL" test/base:v1
no_hedges
suite_start
uri=$(ctl attach "$IMAGE" --name one --integrity complete)
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "first read"
wait_until 30 status_is one .network_free true ||
	fail "not network-free: $(ctl status one --json)"
suite_stop

# with a consumer, the device comes back by itself
registry_mark
no_hedges
suite_start
wait_until 10 nbdinfo --size "$uri" >/dev/null ||
	fail "the device did not come back after a restart"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "second read"
assert_eq "$(registry_all_requests)" 0 "requests after a restart"
assert_eq "$(status_of one .requests.sent)" 0 "requests.sent"
ctl detach one
suite_stop

# without the registry, and by digest: the image's and the device's
registry_stop
no_hedges
suite_start
for digest in "$MANIFEST" "$EROFS"; do
	uri=$(ctl attach "$digest" --name again --integrity complete) ||
		fail "attach $digest without the registry"
	assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" \
		"read of $digest"
	assert_eq "$(status_of again .requests.sent)" 0 "requests.sent"
	ctl detach again
done
suite_stop

# half an image: what is missing is fetched, and only that
rm -rf "$T/store" "$T/run"
registry_start
no_hedges
suite_start
uri=$(ctl attach "$IMAGE" --name half --integrity complete)
"$TOOLS/reader.py" "$uri" "$SMALL" touch 200 >/dev/null
had=$(status_of half .bytes.present)
suite_stop
no_hedges
suite_start
registry_mark
wait_until 10 nbdinfo --size "$uri" >/dev/null || fail "no device"
assert_eq "$(nbdcopy "$uri" - | sha_of)" "${EROFS#sha256:}" "third read"
assert_le "$(registry_bytes "$EROFS")" $((SIZE - had + 65536)) \
	"bytes fetched after a restart with $had of $SIZE present"
suite_stop
