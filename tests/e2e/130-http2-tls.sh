#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: a registry that offers HTTP/2 by TLS is read by it, many reads share few
# connections, what is pulled has others that continue their TLS session, and a
# connection that died while nobody needed it costs nothing that can be seen.  One
# that wants a client certificate gets the configured one, and what is wrong with
# that is said.
. "$(dirname "$0")/lib.sh"

# front_start [PORT]: nginx with TLS and HTTP/2 that wants a certificate of our
# CA; sets FRONT.  Its log: connection, protocol, was the session continued, path.
front_start() {
	FRONT=127.0.0.1:${1:-$(free_port)}
	cat >"$T/front/nginx.conf" <<-END
	daemon off; master_process off; pid $T/front/pid;
	error_log stderr notice;
	events {}
	http {
		log_format lines '\$connection \$server_protocol '
			'\$ssl_session_reused \$status \$request_uri';
		access_log $T/front/access.log lines;
		client_body_temp_path $T/front/b; proxy_temp_path $T/front/p;
		fastcgi_temp_path $T/front/f; uwsgi_temp_path $T/front/u;
		scgi_temp_path $T/front/s;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_certificate $T/front/cert.pem;
		ssl_certificate_key $T/front/key.pem;
		ssl_client_certificate $T/front/ca.pem;
		ssl_verify_client on;
		server {
			listen $FRONT ssl http2;
			location / {
				proxy_pass http://$REGISTRY;
				proxy_set_header Host \$http_host;
			}
		}
	}
	END
	start front nginx -p "$T/front" -c "$T/front/nginx.conf" -e stderr
	FRONT_PID=$STARTED_PID
	wait_until 10 curl -sk -o /dev/null "https://$FRONT/" ||
		fail "nginx did not start"
	: >"$T/front/access.log"
}

client_cert() { # NAME: a certificate of the CA, and its key
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-subj "/CN=$1" -keyout "$T/$1.key" -out "$T/$1.csr" 2>/dev/null
	openssl x509 -req -in "$T/$1.csr" -CA "$T/front/ca.pem" -CAkey \
		"$T/front/ca.key" -CAcreateserial -days 2 -out "$T/$1.pem" \
		2>/dev/null
	chmod 600 "$T/$1.key"
}

conf() { # LINES OF THE REGISTRY'S SECTION
	no_hedges		# each has a connection of its own
	printf '[registry "%s"]\nca = %s\n%s\n' "$FRONT" "$T/front/ca.pem" \
		"$1" >>"$T/conf"
}

# read_many URI SEED: 64 reads from all over the device, 8 at a time; compared
read_many() {
	timeout 60 /usr/bin/python3 -c '
import nbd, random, sys, threading
rng = random.Random(int(sys.argv[3]))
with open(sys.argv[2], "rb") as f:
    data = f.read()
places = rng.sample(range(len(data) // 65536), 64)
wrong = []
def some(n):
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    for at in places[n::8]:
        if h.pread(4096, at * 65536) != data[at * 65536:at * 65536 + 4096]:
            wrong.append(at)
threads = [threading.Thread(target=some, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
sys.exit(bool(wrong))' "$1" "$SMALL" "$2" || fail "a wrong byte"
}

logged() { # how many lines of the front's log fit
	grep -c -E -e "$1" "$T/front/access.log" || true
}

image_small
registry_start
image_push "$SMALL" test/base:v1
mkdir "$T/front"
make_ca "$T/front"
front_start
client_cert host
client_cert other

# half a pair is refused before anything starts
conf "client-cert = $T/host.pem"
assert_exit 1 "$T/conf: .*client-cert and client-key; set both" \
	"$BIN/devd" -n -c "$T/conf"

# without one, and with one that can't be used
image=$FRONT/test/base:v1
cant_attach() { # LINES OF THE SECTION, REGEX: of what shedctl says
	conf "$1"
	suite_start
	assert_exit 1 "^shedctl: $2" \
		ctl attach "$image" --name none --integrity complete
	suite_stop
}
cant_attach '' '[A-Z_]+: .*client-cert and client-key'
cant_attach "client-cert = $T/host.pem
client-key = $T/other.key" 'AUTH_DENIED: .*client-cert and client-key .*check'
cant_attach "client-cert = $T/host.pem
client-key = $T/nothing.key" 'AUTH_DENIED: .*client-key .*check both files'

# with one
conf "client-cert = $T/host.pem
client-key = $T/host.key"
suite_start
: >"$T/front/access.log"
uri=$(ctl attach "$image" --name one --integrity complete)
read_many "$uri" 1
wait_until 10 test "$(logged ' HTTP/2.0 .* 206 ')" -ge 20 ||
	fail "few reads came by HTTP/2: $(cut -d ' ' -f 2 \
		"$T/front/access.log" | sort | uniq -c)"
requests=$(logged ' HTTP/2.0 ')
connections=$(grep ' HTTP/2.0 ' "$T/front/access.log" | cut -d ' ' -f 1 |
	sort -u | wc -l)
assert_le "$connections" 2 "connections of $requests requests by HTTP/2"

# all connections die while nobody needs them
port=${FRONT##*:}
end_pid "$FRONT_PID"
front_start "$port"
read_many "$uri" 2
wait_until 10 test "$(logged ' HTTP/2.0 .* 206 ')" -ge 1 ||
	fail "nothing came after the restart"

# the rest comes by connections of its own, which continue the TLS session
ctl pull "$image" >"$T/out" 2>&1 || fail "pull: $(<"$T/out")"
wait_until 10 test "$(logged ' HTTP/1.1 r 206 ')" -ge 1 ||
	fail "no TLS session was continued: $(head -n 5 "$T/front/access.log")"
assert_eq "$(status_of one .requests.failed)" 0 \
	"failed requests after connections died"
ctl health >/dev/null || fail "health says $(ctl health)"
if grep -q "PRIVATE KEY" "$T/devd.log"; then
	fail "a key is in the log"
fi
echo "NOTE: $requests requests by $connections connections of HTTP/2"
suite_stop
