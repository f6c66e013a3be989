#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: whatever a registry answers wrongly, an attach ends in a device or in
# a clear error, and a read of an attached device stalls, is named in event,
# log and status, and gets the right byte once the registry is put right.
# Never a wrong byte, and no credential goes to another host.
. "$(dirname "$0")/lib.sh"

# at_attach NAME FAULT: a device whose bytes are right, or a sentence
at_attach() {
	local uri status=0
	tell "$SERVER" "fault?$2"
	uri=$(ctl attach "${AT[$SERVER]}/test/attach-$1:v1" --name "a-$1" \
		--integrity complete --deadline 2 2>"$T/err") || status=$?
	tell "$SERVER" heal
	if [ $status -eq 0 ]; then
		read_unit "$uri" 3 "$SMALL" & wait $! ||
			fail "$2: wrong bytes at attach"
		ctl detach "a-$1"
	else
		assert_eq $status 1 "$2: exit status of attach"
		# past the deadline cached speaks for itself
		grep -q -E '^shedctl: ([A-Z_]+: 127\.0\.0\.1.*/attach-|TIMEOUT)' \
			"$T/err" || fail "$2: attach says '$(<"$T/err")'"
		if grep -q -i -E 'not found|already exists|not running' \
			"$T/err"; then
			fail "$2: a word that shed maps: $(<"$T/err")"
		fi
	fi
	echo "attach, $2: ${uri:+a device }$(<"$T/err")"
}

stalled() { # NAME REPO
	[ "$(status_of "$1" .stalled_reads)" -ge 1 ] &&
		ctl events --json | grep stalled | grep -q "$2" &&
		grep -E '(warning|error) ' "$T/devd.log" | grep -q "$2"
}

says() { # NAME REPO
	[[ $(status_of "$1" .last_error) = *"$2"* ]]
}

# under_read NAME FAULT: a read stalls, loudly, and then gets its bytes
under_read() {
	local uri repo=test/read-$1 reader
	uri=$(ctl attach "${AT[$SERVER]}/$repo:v1" --name "r-$1" \
		--integrity complete)
	read_unit "$uri" 1 "$SMALL" & wait $! || fail "$2: wrong bytes before"
	tell "$SERVER" revoke
	tell "$SERVER" "fault?$2"
	read_unit "$uri" 5 "$SMALL" &
	reader=$!
	wait_until 20 stalled "r-$1" "$repo" ||
		fail "$2: the stalled read is not named in event, log and \
status: $(ctl status "r-$1" --json) $(ctl events --json | tail -n 3)"
	kill -0 $reader || fail "$2: the read ended under the fault"
	wait_until 20 says "r-$1" "$repo" ||
		fail "$2: last_error is $(status_of "r-$1" .last_error)"
	echo "read, $2: $(status_of "r-$1" .last_error)"
	tell "$SERVER" heal
	wait $reader || fail "$2: the read did not get the right bytes"
	wait_until 10 test "$(status_of "r-$1" .stalled_reads)" -eq 0 ||
		fail "$2: still stalled: $(ctl status "r-$1" --json)"
	ctl detach "r-$1"
}

# goes_well NAME FAULT: all reads are right, and none stalls
goes_well() {
	local uri
	tell "$SERVER" revoke
	tell "$SERVER" "fault?$2"
	uri=$(ctl attach "${AT[$SERVER]}/test/well-$1:v1" --name "w-$1" \
		--integrity complete)
	for unit in 0 7 9 30 31 100 200; do
		read_unit "$uri" $unit "$SMALL" & wait $! || fail "$2: unit $unit"
	done
	assert_eq "$(status_of "w-$1" .requests.failed)" 0 "$2: failed requests"
	ctl detach "w-$1"
	tell "$SERVER" heal
}

image_small
mkdir "$T/tls"
make_ca "$T/tls"
scripted_start secure "$SMALL" --tls-cert "$T/tls/cert.pem" \
	--tls-key "$T/tls/key.pem"
scripted_start scripted "$SMALL" --auth bearer --user alice:open-sesame
SERVER=scripted
printf '{"auths": {"%s": {"auth": "%s"}}}' "${AT[scripted]}" \
	"$(printf alice:open-sesame | base64)" >"$T/auth.json"
chmod 600 "$T/auth.json"
cat >"$T/conf" <<END
[registry "${AT[scripted]}"]
auth-file = $T/auth.json
[registry "${AT[secure]}"]
ca = $T/tls/ca.pem
END
suite_start

n=0
for fault in full short range extra status:404 unauthorized retry:1 \
	status:500 hang close loop redirect:0 private; do
	n=$((n + 1))
	at_attach $n "blob=$fault"
	under_read $n "blob=$fault"
done
for fault in status:404 unauthorized retry:1 status:500 hang-head close loop \
	private short; do
	n=$((n + 1))
	at_attach $n "manifest=$fault"
done
for fault in bad-token status:500; do
	n=$((n + 1))
	tell "$SERVER" revoke
	at_attach $n "token=$fault"
	under_read $n "token=$fault"
done
goes_well plain blob=redirect
goes_well expiring blob=redirect:2
SERVER=secure
at_attach downgrade blob=downgrade
under_read downgrade blob=downgrade

ctl health >/dev/null || fail "all is put right, and health says $(ctl health)"
# nothing secret where it does not belong: the other host's token server may
# see the password, its storage nothing, and plain HTTP nothing at all
if jq -e 'select(.headers.Authorization) | select(.role != "registry") |
	select(.path | startswith("/token") | not)' "$T"/*.requests; then
	fail "a credential went to the wrong host"
fi
if jq -e 'select(.role == "plain")' "$T"/*.requests; then
	fail "something followed a redirect to plain HTTP"
fi
if grep -r -E 'open-sesame|sig=' "$T/devd.log"; then
	fail "a secret is in the log"
fi
echo "NOTE: $(cat "$T"/*.requests | wc -l) requests answered, $n faults"
suite_stop
