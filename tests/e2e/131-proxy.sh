#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: with a proxy, all goes by it, but what is on the no-proxy list: CONNECT
# for https, GET for http, by HTTP or HTTPS to the proxy itself.  What is wrong
# with the proxy is said in its name, its password is never shown, and a registry
# that it leads to may still not lead on into the owner's network.
. "$(dirname "$0")/lib.sh"

HOST=registry.test	# which only the proxy can look up

# proxy_start NAME OPTIONS...: tests/tools/proxy.py; sets PROXY and PROXY_PID
proxy_start() {
	local name=$1
	shift
	: >"$T/$name.requests"
	: >"$T/$name.log"
	start "$name" /usr/bin/python3 "$TOOLS/proxy.py" \
		--log "$T/$name.requests" "$@"
	PROXY_PID=$STARTED_PID
	wait_line "$PROXY_PID" "$T/$name.log" ':[0-9]+$' ||
		fail "proxy.py did not start"
	PROXY=$(<"$T/$name.log")
}

conf() { # LINES OF [network]
	printf '[network]\n%s\n[registry "%s"]\nca = %s\n[registry "%s"]\ninsecure = yes\n' \
		"$1" "$HOST:$TLS_PORT" "$CA" "$HOST:$PLAIN_PORT" >"$T/conf"
}

# fetched HOST:PORT NAME: that image, attached and read, all of it
fetched() {
	local uri
	uri=$(ctl attach "$1/test/$2:v1" --name "$2" --integrity complete)
	assert_eq "$(device_sha "$uri")" "$(sha_of "$T/$2")" "$2: its bytes"
}

fresh_suite() {
	rm -rf "$STORE"
	suite_start
}

seen() { # PROXY'S NAME JQ-CONDITION: how many requests
	jq -s "map(select($2)) | length" "$T/$1.requests"
}

registry_start
n=0
for name in base plain loop; do		# nothing in common
	n=$((n + 1))
	image_of "$T/$name" $n:2000
	image_push "$T/$name" "test/$name:v1"
done
PROXY_LOOP=${REGISTRY##*:}
nginx_start tls "location /v2/test/inside/ {
	return 302 https://10.255.255.1/x; }
location /v2/test/dotted/ {
	return 302 https://10.255.255.1./x; }
location /v2/test/local/ {
	return 302 https://localhost.:$PROXY_LOOP/x; }
location / { proxy_pass http://$REGISTRY; proxy_set_header Host \$http_host; }"
TLS_PORT=${NGINX##*:}
PLAIN_PORT=${REGISTRY##*:}
image=$HOST:$TLS_PORT/test/base:v1

# CONNECT, and the user and password go there only
proxy_start one --user "us%er:open sesame"
conf "proxy = http://us%25er:open%20sesame@$PROXY"
fresh_suite
fetched "$HOST:$TLS_PORT" base
[ "$(seen one '.method == "CONNECT" and .authorized and
	.target == "registry.test:'"$TLS_PORT"'"')" -ge 1 ] ||
	fail "nothing came by the proxy: $(<"$T/one.requests")"
assert_eq "$(seen one '.method != "CONNECT"')" 0 "requests that it could read"
assert_eq "$(seen one '.headers | any(. == "Authorization")')" 0 \
	"credentials of the registry that it saw"

# GET of what is no https
fetched "$HOST:$PLAIN_PORT" plain
[ "$(seen one '.method == "GET" and
	(.target | startswith("http://registry.test:"))')" -ge 1 ] ||
	fail "no GET came by the proxy: $(<"$T/one.requests")"

# what a name behind the proxy may lead to
for inside in inside dotted; do
	assert_exit 1 '^shedctl: [A-Z_]+: .*private address' \
		ctl attach "$HOST:$TLS_PORT/test/$inside:v1" --name x \
		--deadline 5 --integrity complete
done
# not the proxy's own loopback either, however it is spelled: it is looked up
# here, and then it has no address or a loopback one
assert_exit 1 '^shedctl: [A-Z_]+: .*(loopback address|has no address)' \
	ctl attach "$HOST:$TLS_PORT/test/local:v1" --name x --deadline 5 \
	--integrity complete
assert_eq "$(seen one '.target | contains("10.255") or contains("localhost")')" \
	0 "ways into the network"

# loopback is never asked for by it
before=$(seen one true)
fetched "$REGISTRY" loop
assert_eq "$(seen one true)" "$before" "requests for a loopback host"
suite_stop

# the list
conf "proxy = http://us%25er:open%20sesame@$PROXY
no-proxy = example.com, .test"
fresh_suite
assert_exit 1 "^shedctl: [A-Z_]+: .*$HOST has no address" \
	ctl attach "$image" --name x --deadline 5 --integrity complete
assert_eq "$(seen one true)" "$before" "requests for a host on the list"
suite_stop

# 407, without and with a wrong password
n=0
for user in '' us%25er:wrong@; do
	n=$((n + 1))
	conf "proxy = http://$user$PROXY"
	fresh_suite
	assert_exit 1 "^shedctl: AUTH_DENIED: .*proxy $PROXY .*407" \
		ctl attach "$image" --name x --deadline 5 --integrity complete
	assert_exit 1 "^shedctl: AUTH_DENIED: .*proxy $PROXY .*407" ctl attach \
		"$HOST:$PLAIN_PORT/test/base:v1" --name x --deadline 5 \
		--integrity complete
	suite_stop
	cp "$T/devd.log" "$T/$n.devd.log"
done

# nobody there
end_pid "$PROXY_PID"
conf "proxy = http://us%25er:open%20sesame@$PROXY"
fresh_suite
assert_exit 1 "^shedctl: .*proxy $PROXY does not accept connections" \
	ctl attach "$image" --name x --deadline 5 --integrity complete
suite_stop

# by HTTPS: the [network] ca says whether it is the right one
proxy_start two --tls-cert "$T/nginx/cert.pem" --tls-key "$T/nginx/key.pem"
conf "proxy = https://$PROXY"
fresh_suite
assert_exit 1 "^shedctl: .*proxy $PROXY has a certificate that is not trusted" \
	ctl attach "$image" --name x --deadline 5 --integrity complete
suite_stop
conf "proxy = https://$PROXY
ca = $CA"
fresh_suite
fetched "$HOST:$TLS_PORT" base
fetched "$HOST:$PLAIN_PORT" plain
for method in CONNECT GET; do
	[ "$(seen two ".method == \"$method\"")" -ge 1 ] ||
		fail "no $method came by the https proxy"
done
suite_stop

# SOCKS, which is given the name, and a user of its own
proxy_start socks --socks --user "us%er:open sesame"
conf "proxy = socks5h://us%25er:open%20sesame@$PROXY"
fresh_suite
fetched "$HOST:$TLS_PORT" base
fetched "$HOST:$PLAIN_PORT" plain
for port in "$TLS_PORT" "$PLAIN_PORT"; do
	[ "$(seen socks ".authorized and .target == \"$HOST:$port\"")" -ge 1 ] ||
		fail "not asked by name: $(<"$T/socks.requests")"
done
before=$(seen socks true)
fetched "$REGISTRY" loop
for inside in inside local; do
	assert_exit 1 '^shedctl: [A-Z_]+: .*(address|has no address)' \
		ctl attach "$HOST:$TLS_PORT/test/$inside:v1" --name x \
		--deadline 3 --integrity complete
done
assert_eq "$(seen socks '.target | startswith("registry.test") | not')" 0 \
	"other ways that the SOCKS proxy was asked for"
suite_stop
conf "proxy = socks5h://us%25er:wrong@$PROXY"
fresh_suite
assert_exit 1 "^shedctl: [A-Z_]+: .*the proxy $PROXY can't get there, or wants another user" \
	ctl attach "$image" --name x --deadline 3 --integrity complete
suite_stop
end_pid "$PROXY_PID"
conf "proxy = socks5h://$PROXY"
fresh_suite
assert_exit 1 "^shedctl: .*proxy $PROXY does not accept connections" \
	ctl attach "$image" --name x --deadline 3 --integrity complete
suite_stop

# at an IPv6 address, by each scheme
if [ -e /proc/net/if_inet6 ] && grep -q ' lo$' /proc/net/if_inet6; then
	proxy_start six --address ::1
	proxy_start socks6 --address ::1 --socks
	for proxy in "http://$(<"$T/six.log")" "socks5h://$PROXY"; do
		conf "proxy = $proxy"
		fresh_suite
		fetched "$HOST:$TLS_PORT" base
		fetched "$HOST:$PLAIN_PORT" plain
		suite_stop
	done
	for name in six socks6; do
		[ "$(seen $name ".target == \"$HOST:$TLS_PORT\"")" -ge 1 ] ||
			fail "nothing came by the proxy at [::1]"
	done
	end_pid "$PROXY_PID"
	conf "proxy = $proxy"
	fresh_suite
	assert_exit 1 '^shedctl: .*proxy \[::1\]:[0-9]+ does not accept' \
		ctl attach "$image" --name x --deadline 3 --integrity complete
	suite_stop
else
	echo "NOTE: no IPv6 here: proxies at [::1] were not tried"
fi

if grep -E 'sesame|us%25er|wrong@' "$T"/*devd.log "$T/err"; then
	fail "the proxy's user or password is shown"
fi
echo "NOTE: $(cat "$T"/*.requests | wc -l) requests came by proxies"
