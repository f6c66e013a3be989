#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a device that becomes complete says so once, by its name; attached anew
# where nobody has chosen how, it is the file in the store then, which has the
# image's bytes and stays; a device that is there stays what it is, and an image
# that is not whole in a file of its own is no file.
. "$(dirname "$0")/lib.sh"
PRESENT=		# as the service chooses

registry_start
image_make base 1:3000
image_make next 1:3000 2:300	# shares with base
image_make dups 3:900 4:100 3:900	# has the same several times
CHOSEN='nbd'
[ "$(id -u)" -ne 0 ] || [ ! -e /dev/fuse ] || CHOSEN='file'

sha_at() { # PATH-OR-URI: of every byte that is read there
	case $1 in
	/*) sha_of "$1" ;;
	*) device_sha "$1" ;;
	esac
}

said() { # NAME NUMBER: so many times it was said to be complete
	[ "$(ctl events --json | jq --arg n "$1" '[.events[] |
		select(.kind == "complete" and .device == $n)] | length')" = "$2" ]
}

chosen() { # NAME KIND
	assert_eq "$(status_of "$1" .present_as)" "$2" "how $1 is presented"
}

raw() { # as in 180
	"$TOOLS/control.py" "$T/run/control.sock" me "$@"
}

refused_plain() { # KEY REGEX: to who does not allow a whole pull
	local got
	got=$(raw attach "${NAME[$1]}" no me plain) &&
		fail "$1, not whole, is a plain file: $got"
	grep -q -E "^error 8 .*$2" <<<"$got" || fail "refused $1: $got"
}

suite_start
refused_plain base 'not whole here yet: pull it first'
path=$(ctl attach "${NAME[base]}" --name base)
chosen base $CHOSEN
assert_json '.state == "lazy"' ctl status base --json
said base 0 || fail "lazy, and said to be complete"
assert_eq "$(sha_at "$path")" "${DEV[base]#sha256:}" "base, lazily"
event_await '"complete".*"base"' || fail "no event: $(ctl events)"
assert_json '.state == "complete" and .network_free and .self_contained' \
	ctl status base --json
assert_json '.devices[0].state == "complete"' ctl ls --json

## under who uses it nothing changes
assert_eq "$(ctl attach "${NAME[base]}" --name base --consumer b)" "$path" \
	"the path for another consumer"
chosen base $CHOSEN
ctl verify "${NAME[base]}" >/dev/null 2>&1
ctl pull "${NAME[base]}" 2>/dev/null
ctl detach base --consumer b
ctl detach base
wait_until 10 gone base || fail "base is left"
said base 1 || fail "not said once: $(ctl events)"

## attached anew it is its file
registry_mark
path=$(ctl attach "${MAN[base]}" --name base)
chosen base plain
case $path in
"$STORE"/*) ;;
*) fail "the path of base is $path" ;;
esac
cmp "$path" "${FILE[base]}" || fail "plain base: it is not the image"
assert_eq "$(raw attach "${MAN[base]}" base me auto | sort)" \
	"$(printf '%s\n' "name base" "path $path")" "to another client"
assert_eq "$(registry_bytes)" 0 "bytes fetched for a file"
# which stays
assert_exit 1 '^shedctl: IN_USE: ' ctl rm "${NAME[base]}"
ctl gc >/dev/null
ctl pull "${NAME[next]}" 2>/dev/null
ctl gc >/dev/null
cmp "$path" "${FILE[base]}" || fail "plain base: changed by gc"
suite_kill
cmp "$path" "${FILE[base]}" || fail "plain base: changed by kill -9"
suite_start
wait_until 10 status_is base .path "$path" || fail "base: $(ctl ls)"
printf '[store]\nquota = 1M\nmin-free = 0\nscrub = no\n' >"$T/conf"
suite_stop
suite_start
wait_until 10 status_is base .path "$path" || fail "base: $(ctl ls)"
assert_exit 1 '^shedctl: NO_SPACE: ' ctl pull "${NAME[dups]}"
ctl gc >/dev/null
cmp "$path" "${FILE[base]}" || fail "plain base: changed under pressure"
said base 0 || fail "said again, after a restart: $(ctl events)"
rm "$T/conf"
suite_stop
suite_start

## complete, and not in a file of its own
ctl pull "${NAME[next]}" 2>/dev/null
ctl pull "${NAME[dups]}" 2>/dev/null
for key in next dups; do
	refused_plain $key 'not in a file of its own; .*--fetch whole'
	path=$(ctl attach "${MAN[$key]}" --name $key)
	chosen $key $CHOSEN
	assert_eq "$(sha_at "$path")" "${DEV[$key]#sha256:}" "$key"
	file=$(ctl attach "${MAN[$key]}" --present plain --name $key-file \
		2>/dev/null)
	cmp "$file" "${FILE[$key]}" || fail "plain $key: it is not the image"
	assert_eq "$(sha_at "$path")" "${DEV[$key]#sha256:}" "$key, beside"
	for name in $key $key-file; do
		said "$name" 0 || fail "$name became complete: $(ctl events)"
	done
done
suite_stop
