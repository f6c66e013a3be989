#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: whatever befalls the one source of a device in the middle of its life,
# the reader never sees an error or a wrong byte: reads wait, few requests are
# sent meanwhile, what is wrong is named, and all reads end well when it is mended.
# Each fault has a device, an image and a registry of its own; all happen at once.
. "$(dirname "$0")/lib.sh"

OUTAGE_S=10
READS=20		# that wait, of each device
# Those that were under way fail once each; then there are at most so many
# attempts, one at a time.
ATTEMPTS_MOST=$((READS + 20))
# Of who sends wrong bytes each chunk is asked for again by itself.
WRONG_MOST=$((READS * 9))
BUSY_S=3		# Retry-After
MB=16

# What a device's status says is wrong.
declare -A SAYS=(
	[stopped]='sent nothing for 8 s'
	[refused]='does not accept connections'
	[token]='localhost closed the connection' # where tokens come from
	[cert]='expired'
	[rate]='sent nothing for 8 s'
	[busy]='503'
	[wrong]='wrong digest'
)
STALLING=("${!SAYS[@]}")
ALL=("${STALLING[@]}" reset)
declare -A PID HOST URI SENT FAILED READER

## the registries

server() { # NAME [OPTIONS]: of $T/NAME.erofs
	local name=$1
	shift
	scripted_start "$name" "$T/$name.erofs" \
		--index "$T/$name.pack/index" "$@"
	PID[$name]=$STARTED_PID
	HOST[$name]=${AT[$name]}
}

# The certificate that the TLS end has from now on.
tls_again() { # DAYS that it is good for
	end_pid "$NGINX_PID"
	openssl x509 -req -in "$T/nginx/csr.pem" -CA "$CA" -CAkey \
		"$T/nginx/ca.key" -CAcreateserial -days "$1" \
		-out "$T/nginx/cert.pem" -extfile <(
		echo subjectAltName=IP:127.0.0.1) 2>/dev/null
	start nginx nginx -p "$T/nginx" -c "$T/nginx/nginx.conf" -e stderr
	NGINX_PID=$STARTED_PID
	wait_until 10 curl -sk -o /dev/null "https://$NGINX/" ||
		fail "nginx did not start"
}

break_it() {
	kill -STOP "${PID[stopped]}"
	kill -KILL "${PID[refused]}"
	wait "${PID[refused]}" 2>/dev/null || true
	tell token revoke
	tell token 'fault?token=close'
	tls_again -1
	link_say rate 0
	tell busy "fault?blob=busy:$BUSY_S"
	tell wrong 'fault?blob=flip'
	tell reset 'fault?blob=reset&every=2'
}

mend_it() {
	local name
	kill -CONT "${PID[stopped]}"
	server refused
	tls_again 2
	link_say rate inf
	for name in token busy wrong reset; do
		tell "$name" heal
	done
}

## the readers

# read_some NAME FIRST COUNT: so many chunks at once
read_some() {
	exec timeout 100 "$TOOLS/burst.py" "${URI[$1]}" "$T/$1.erofs" "$2" "$3" \
		--depth "$3" >"$T/burst.$1"
}

waits_since() { # NAME SECONDS
	local since
	since=$(status_of "$1" .stalled_since)
	[ "$since" -gt 0 ] && [ $(($(date +%s) - since)) -ge "$2" ]
}

says() { # NAME REGEX
	[[ $(status_of "$1" .last_error) =~ $2 ]]
}

count() { # NAME: sets SENT and FAILED
	read -r "SENT[$1]" "FAILED[$1]" < <(ctl status "$1" --json |
		jq -r '"\(.requests.sent) \(.requests.failed)"')
}

seed=0
for name in "${ALL[@]}" names; do
	image_of "$T/$name.erofs" "$((++seed)):$((MB * 1024))"
	"$BIN/shedpack" index "$T/$name.erofs" -o "$T/$name.pack" \
		>/dev/null 2>&1
	[[ $name = @(token|names) ]] || server "$name"
done
server token --auth bearer
REGISTRY=${AT[cert]}
nginx_start tls
HOST[cert]=$NGINX
link_start "${AT[rate]}" 1 400
HOST[rate]=$LINK
printf '[registry "%s"]\nca = %s\n' "$NGINX" "$CA" >"$T/conf"
suite_start
for name in "${ALL[@]}"; do
	URI[$name]=$(ctl attach "${HOST[$name]}/test/base:v1" --name "$name")
	read_some "$name" 0 20 & wait $! || fail "$name: a read before"
	count "$name"
done
ctl health >/dev/null || fail "ill before: $(ctl health)"

## the faults

declare -A SENT_BEFORE FAILED_BEFORE
for name in "${ALL[@]}"; do
	SENT_BEFORE[$name]=${SENT[$name]} FAILED_BEFORE[$name]=${FAILED[$name]}
done
break_it
for name in "${ALL[@]}"; do
	read_some "$name" 20 $READS &
	READER[$name]=$!
done
wait "${READER[reset]}" || fail "reset: a read while every second answer breaks"
for name in "${STALLING[@]}"; do
	wait_until $((OUTAGE_S + 20)) waits_since "$name" $OUTAGE_S ||
		fail "$name: not stalled: $(ctl status "$name" --json)"
	wait_until 10 says "$name" "${SAYS[$name]}" ||
		fail "$name: last_error is '$(status_of "$name" .last_error)'"
done
line=
for name in "${ALL[@]}"; do
	count "$name"
	n=$((FAILED[$name] - FAILED_BEFORE[$name]))
	line+="${line:+, }$name $n failed of $((SENT[$name] -
		SENT_BEFORE[$name])) sent"
	assert_le 1 "$n" "$name: attempts that failed"
	most=$ATTEMPTS_MOST
	[ "$name" != wrong ] || most=$WRONG_MOST
	assert_le "$n" $most "$name: attempts that failed"
done
echo "NOTE: in $OUTAGE_S s, for $READS reads each: $line"
for name in "${STALLING[@]}"; do
	kill -0 "${READER[$name]}" 2>/dev/null || fail "$name: a read did not wait"
done

## their end

mend_it
for name in "${STALLING[@]}"; do
	wait "${READER[$name]}" || fail "$name: a read after the fault: $(
		ctl status "$name" --json)"
	event_await "\"recovered\".*${HOST[$name]}" ||
		fail "$name: no event of its end: $(ctl events)"
done
ctl health >/dev/null || fail "ill afterwards: $(ctl health)"
for name in "${ALL[@]}"; do
	read_some "$name" 40 20 & wait $! || fail "$name: a read afterwards"
	assert_json '.stalled_reads == 0 and .stalled_since == 0' \
		ctl status "$name" --json
done
# no request came before the time that was asked for
jq -s -e "map(select(.method)) | [foreach .[] as \$r ({};
	{last: .busy, busy: (if \$r.fault == \"busy\" then \$r.time else .busy end),
	began: \$r.began}; select(.last) | .began - .last)] |
	map(select(. > 0.5)) | all(. >= $BUSY_S)" "$T/busy.requests" >/dev/null ||
	fail "a registry that asked for $BUSY_S s was asked before: $(jq -c \
		'[.began, .time, .status]' "$T/busy.requests" | tail -n 30)"
suite_stop

## names can't be looked up

[ "$(id -u)" -eq 0 ] || {
	echo "NOTE: DNS gone was not tried: that takes root"
	exit 0
}
LOOKED_UP=registry.test
DNS=127.77.$((RANDOM % 256)).$((RANDOM % 254 + 1))
server names
HOST[names]=$LOOKED_UP:${AT[names]##*:}
echo "nameserver $DNS
options timeout:1 attempts:1" >"$T/resolv.conf"
echo "hosts: files dns" >"$T/nsswitch.conf"
printf '[registry "%s"]\ninsecure = yes\n' "${HOST[names]}" >"$T/conf"
start dns "$TOOLS/dns.py" $LOOKED_UP $DNS
PID[dns]=$STARTED_PID
wait_line "$STARTED_PID" "$T/dns.log" '^listening' || fail "dns.py did not start"
# shellcheck disable=SC2016
SUITE_IN=(unshare -m sh -c 'mount --bind "$0/resolv.conf" /etc/resolv.conf &&
	mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && exec "$@"' "$T")
rm -rf "$STORE" "$T/run"
suite_start
URI[names]=$(ctl attach "${HOST[names]}/test/base:v1" --name names)
read_some names 0 20 & wait $! || fail "names: a read before"
count names
n=${FAILED[names]}
grep -q "^$LOOKED_UP" "$T/dns.log" || fail "its name was not looked up"
kill -STOP "${PID[dns]}"
# what it was is remembered for a minute, but not by another fetcherd
old=$(suite_pid fetcherd)
kill -KILL "$old"
read_some names 20 $READS &
READER[names]=$!
wait_until $((OUTAGE_S + 20)) waits_since names $OUTAGE_S ||
	fail "names: not stalled: $(ctl status names --json)"
wait_until 10 says names "$LOOKED_UP has no address" ||
	fail "names: last_error is '$(status_of names .last_error)'"
count names
n=$((FAILED[names] - n))
echo "NOTE: in $OUTAGE_S s without DNS: $n failed attempts"
assert_le 1 "$n" "names: attempts that failed"
assert_le "$n" $ATTEMPTS_MOST "names: attempts that failed"
kill -0 "${READER[names]}" 2>/dev/null || fail "names: a read did not wait"
kill -CONT "${PID[dns]}"
wait "${READER[names]}" || fail "names: a read after the fault"
event_await "\"recovered\".*${HOST[names]}" || fail "names: no event of its end"
suite_stop
