#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: credentials come by `shedctl login`, in three forms, and are held in
# memory: they survive every process but the suite, and nothing that is whole
# needs them.  Where they are refused under a live device, reads wait, an event
# and health name the remedy, and with new ones the reads get the right bytes.
# No secret is in a file, a log, an argument or the environment.
. "$(dirname "$0")/lib.sh"

SECRETS=()	# all that must be nowhere

secret() { # USER PASSWORD
	local both
	both=$(printf '%s:%s' "$1" "$2" | base64)
	SECRETS+=("$2" "${both%%=*}")
}

# htpasswd USER PASSWORD: from now on the registry wants these; it looks at the
# file's time.  Cheap rounds: it hashes at each request.
htpasswd() {
	secret "$1" "$2"
	/usr/bin/python3 -W ignore - "$1" "$2" >"$T/htpasswd.new" <<-'END'
	import crypt, sys
	salt = crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)
	print("%s:%s" % (sys.argv[1], crypt.crypt(sys.argv[2], salt)))
	END
	mv "$T/htpasswd.new" "$T/htpasswd"
}

config_json() { # HOST USER PASSWORD: as docker writes it
	jq -n --arg h "$1" --arg a "$(printf '%s:%s' "$2" "$3" | base64)" \
		'{auths: {"other.example": {auth: "eDp5"}, ($h): {auth: $a}},
		credHelpers: {"gcr.io": "gcloud"}}'
}

reads() { # URI UNIT WHAT [FILE]
	read_unit "$1" "$2" "${4:-$T/image.erofs}" & wait $! || fail "$3"
}

refused() { # IMAGE SENTENCE WHAT
	assert_exit 1 "^shedctl: AUTH_DENIED: .*$2" \
		ctl attach "$1" --name no --integrity complete
}

asked_for() { # HOST NUMBER: were credentials so often?
	[ "$(ctl events --json | jq --arg h "shedctl login $1" '[.events[] |
		select(.kind == "credentials-needed") |
		select(.text | endswith("`" + $h + "`"))] | length')" = "$2" ]
}

failed_least() { # NAME NUMBER
	[ "$(status_of "$1" .requests.failed)" -ge "$2" ]
}

failed_more() { # NAME: a request more than now
	wait_until 30 failed_least "$1" \
		$(($(status_of "$1" .requests.failed) + 1)) ||
		fail "$1: it does not try again: $(ctl status "$1" --json)"
}

ill() { # NAME HOST
	local said
	! said=$(ctl health) && [[ $said = "degraded: "*"$1"*"shedctl login $2"* ]]
}

# waits_for NAME HOST READER NUMBER: the read of a device waits for credentials;
# event (the NUMBERth), status and health say so, once, and it goes on waiting
waits_for() {
	event_await "\"credentials-needed\".*shedctl login $2\`" ||
		fail "no event: $(ctl events --json)"
	failed_more "$1"
	asked_for "$2" "$4" || fail "events: $(ctl events --json)"
	[[ $(status_of "$1" .last_error) = *"shedctl login $2"* ]] ||
		fail "$1: last_error is $(status_of "$1" .last_error)"
	wait_until 10 ill "$1" "$2" || fail "health: $(ctl health)"
	kill -0 "$3" || fail "$1: the read ended without credentials"
}

nowhere() { # the secrets, as they are and in base64
	local word pid
	for word in "${SECRETS[@]}"; do
		if grep -r -l -F -e "$word" "$STORE" "$T/run" "$T/devd.log" \
			"$T/shedctl.out"; then
			fail "a secret is on disk: $word"
		fi
		for pid in $(pgrep -s "$SUITE_PID" || true); do
			if grep -z -l -F -e "$word" "/proc/$pid/cmdline" \
				"/proc/$pid/environ" 2>/dev/null; then
				fail "a secret is in $pid's arguments"
			fi
		done
	done
	return 0
}

shown() { # all that a person can be shown
	for command in events status ls images health version; do
		ctl $command --json || true
		ctl $command || true
	done >>"$T/shedctl.out" 2>&1
}

image_of "$T/image.erofs" 1:8192
registry_start
image_push "$T/image.erofs" test/one:v1
ONE=$IMAGE ONE_DIGEST=${EROFS#sha256:}
image_of "$T/other.erofs" 2:4096
image_push "$T/other.erofs" test/two:v1
TWO=$IMAGE
registry_stop
htpasswd me first-secret-word
REGISTRY_MORE="auth: {htpasswd: {realm: test, path: $T/htpasswd}}"
registry_start

## without, with wrong ones, and in words that are none

: >"$T/shedctl.out"
suite_start
refused "$ONE" "refuses anonymous access; run .shedctl login $REGISTRY."
login() { # HOST: of standard input
	ctl login "$1" >>"$T/shedctl.out"
}
secret me wrong-secret-word
printf 'me:wrong-secret-word\n' | login "$REGISTRY"
refused "$ONE" "refuses its credentials .*shedctl login $REGISTRY."
for bad in '' 'me\n' ':x\n' 'me:\n' 'me\n\n' 'a\nb\nc\n' 'a:b\nc\n' '{"auths"' \
	'{"auths": {}}' '{"credsStore": "pass"}' 'a\0b:c'; do
	# shellcheck disable=SC2059
	assert_exit 1 '^shedctl: BAD_REQUEST: .*; ' \
		ctl login "$REGISTRY" < <(printf "$bad")
done
head -c 300000 /dev/zero | tr '\0' 'x' >"$T/big"
assert_exit 1 '^shedctl: BAD_REQUEST: .*256 KiB' ctl login "$REGISTRY" <"$T/big"
for host in '' 'a b' 'a/b' 'a"b' "$(printf 'x%.0s' {1..300})"; do
	assert_exit 1 "^shedctl: BAD_REQUEST: .*host" \
		ctl login "$host" < <(echo me:first-secret-word)
done
assert_exit 2 . ctl login "$REGISTRY" me first-secret-word
# what was refused changed nothing
refused "$ONE" "refuses its credentials"

## they hold, whoever dies but the suite

printf 'me\nfirst-secret-word\n' | login "$REGISTRY"
uri=$(ctl attach "$ONE" --name one --integrity complete)
reads "$uri" 1 "a read with credentials"
unit=2
for process in fetcherd cached devd fetcherd; do
	kill -KILL "$(suite_pid $process)"
	reads "$uri" $unit "a read after the death of $process"
	unit=$((unit + 1))
done
asked_for "$REGISTRY" 0 || fail "events: $(ctl events --json)"
suite_reload
reads "$uri" $unit "a read after a reload"

## revoked under a live device

htpasswd me second-secret-word
read_unit "$uri" 20 "$T/image.erofs" &
reader=$!
waits_for one "$REGISTRY" $reader 1
printf 'me:wrong-secret-word\n' | login "$REGISTRY"
failed_more one
kill -0 $reader || fail "the read ended with wrong credentials"
# who was told, is told again: other ones were given meanwhile
asked_for "$REGISTRY" 2 || fail "events: $(ctl events --json)"
config_json "$REGISTRY" me second-secret-word | login "$REGISTRY"
wait $reader || fail "the read did not get the right bytes"
ctl health >/dev/null || fail "health says $(ctl health)"
reads "$uri" 21 "a read after that"
shown
nowhere

## nothing local needs them; they end with the suite

ctl pull "$ONE" 2>/dev/null
wait_until 30 status_is one .network_free true ||
	fail "not network-free: $(ctl status one --json)"
two=$(ctl attach "$TWO" --name two --integrity complete)
reads "$two" 1 "a read of another image" "$T/other.erofs"
suite_stop
nowhere
suite_start
wait_until 10 nbdinfo --size "$uri" >/dev/null || fail "the device is gone"
assert_eq "$(device_sha "$uri")" "$ONE_DIGEST" "what is whole"
ctl detach one
uri=$(ctl attach "$ONE" --name again --integrity complete) ||
	fail "what is whole can't be attached without credentials"
assert_eq "$(device_sha "$uri")" "$ONE_DIGEST" "what is whole, by its tag"
ctl health >/dev/null || fail "health says $(ctl health)"
read_unit "$two" 30 "$T/other.erofs" &
reader=$!
waits_for two "$REGISTRY" $reader 1
printf 'me:second-secret-word\n' | login "$REGISTRY"
wait $reader || fail "a read behind a restart did not get the right bytes"
nowhere

## a file of the configuration, and what is set before it

ctl shutdown
wait_until 20 suite_gone || fail "shutdown"
config_json "$REGISTRY" me second-secret-word >"$T/auth.json"
chmod 600 "$T/auth.json"
printf '[registry "%s"]\nauth-file = %s\n' "$REGISTRY" "$T/auth.json" >"$T/conf"
rm -rf "$STORE"
suite_start
uri=$(ctl attach "$ONE" --name one --integrity complete)
reads "$uri" 1 "a read with the auth-file"
printf 'me:wrong-secret-word\n' | login "$REGISTRY"
kill -KILL "$(suite_pid fetcherd)"
refused "$REGISTRY/test/three:v1" "refuses its credentials"
ctl logout "$REGISTRY"
reads "$uri" 2 "a read with the auth-file, after logout"
rm "$T/conf"
suite_stop
nowhere
registry_stop

## a token server

scripted_start scripted "$T/image.erofs" --auth bearer \
	--user alice:token-secret-word
HOST=${AT[scripted]}
secret alice token-secret-word
secret alice other-secret-word
rm -rf "$STORE" "$T/run"
suite_start
refused "$HOST/test/base:v1" "shedctl login $HOST"
printf 'alice:token-secret-word' | login "$HOST"
uri=$(ctl attach "$HOST/test/base:v1" --name tokens --integrity complete)
reads "$uri" 1 "a read with a token"
kill -KILL "$(suite_pid fetcherd)"
reads "$uri" 2 "a read with a new token"
tell scripted "user?is=alice:other-secret-word"
tell scripted revoke
read_unit "$uri" 30 "$T/image.erofs" &
reader=$!
read_unit "$uri" 50 "$T/image.erofs" &
other=$!
waits_for tokens "$HOST" $reader 1
printf 'alice\r\nother-secret-word\r\n' | login "$HOST"
wait $reader || fail "a read with the new token"
wait $other || fail "another read with the new token"
# that ends by itself, too
tell scripted fault?blob=unauthorized
read_unit "$uri" 70 "$T/image.erofs" &
reader=$!
wait_until 30 asked_for "$HOST" 2 || fail "events: $(ctl events --json)"
waits_for tokens "$HOST" $reader 2
tell scripted heal
wait $reader || fail "a read after the registry was put right"
ctl health >/dev/null || fail "health says $(ctl health)"
shown
nowhere
# what the registry says went to nobody else
if jq -e 'select(.headers.Authorization) | select(.role != "registry") |
	select(.path | startswith("/token") | not)' "$T/scripted.requests"; then
	fail "a credential went to the wrong host"
fi
ctl logout "$HOST"
tell scripted revoke
refused "$HOST/test/other:v1" "refuses anonymous access"
suite_stop

## a mirror has credentials of its own, and its own name in the remedy

GONE=127.0.0.1:$(free_port)
printf '[registry "%s"]\nmirrors = http://%s\ntrust-mirrors = yes\n' \
	"$GONE" "$HOST" >"$T/conf"
rm -rf "$STORE" "$T/run"
suite_start
printf 'alice:other-secret-word' | login "$HOST"
uri=$(ctl attach "$GONE/test/base:v1" --name mirrored --integrity complete)
reads "$uri" 1 "a read by the mirror"
tell scripted "user?is=alice:token-secret-word"
tell scripted revoke
read_unit "$uri" 30 "$T/image.erofs" &
reader=$!
wait_until 30 asked_for "$HOST" 1 || fail "events: $(ctl events --json)"
asked_for "$GONE" 0 || fail "events: $(ctl events --json)"
kill -0 $reader || fail "the read ended without credentials"
printf 'alice:token-secret-word' | login "$HOST"
wait $reader || fail "a read by the mirror with other credentials"
shown
nowhere
suite_stop
echo "NOTE: $(jq -s length "$T/scripted.requests") requests to the token server's registry"
