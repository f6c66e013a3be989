# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
#
# What every end-to-end test shares; source it first.  It makes a temporary
# directory $T, in which everything the test starts keeps its files, and ends
# all of that by pid when the test ends, showing the logs' tails if it failed.
# Works as root and as an ordinary user, on loopback only.
#
# A test that reaches its end has passed; `skip REASON` ends it as skipped;
# `fail SENTENCE`, or any command that fails unasked, fails it.
set -Eeuo pipefail
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# the programs under test; BUILD may be an absolute path as well
case ${BUILD:=build} in
/*) BIN=$BUILD/bin ;;
*) BIN=$ROOT/$BUILD/bin ;;
esac
CACHE=$ROOT/build/test		# images, made once
TOOLS=$ROOT/tests/tools
VM=$ROOT/tests/vm
# Unix socket paths end at 100 bytes, so this stays short.  The suite's
# unprivileged users must be able to pass through it.
T=$(mktemp -d "${TMPDIR:-/tmp}/ss.XXXXXX")
chmod 711 "$T"
STARTED=()			# pids to end, in order of start
MOUNTS=()			# directories to unmount after that
REMOVE=()			# and directories outside $T to remove
# where the runner learns what must be gone afterwards
PIDS=${SHEDSTREAM_TEST_PIDS:-$T/pids}

## ending

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

skip() {
	echo "SKIP: $*"
	exit 77
}

# undo: what a test has to take back itself before all else ends; it may define
# its own.
undo() {
	:
}

# Ends what was started, last first; each is a process group of its own.
# shellcheck disable=SC2317
cleanup() {
	local status=$? log
	trap - EXIT ERR
	set +e
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		for log in "$T"/*.log; do
			[ -s "$log" ] || continue
			echo "--- the end of ${log##*/}"
			tail -n 25 "$log" | jq -Rr 'fromjson? // . | if type ==
				"object" then "\(.time) \(.msg) " +
				"\(."http.request.method" // "") " +
				"\(."http.request.uri" // "") " +
				"\(."http.response.status" // "") " +
				"\(."http.response.written" // "")"
				else . end' | cut -c 1-200
		done >&2
	fi
	undo
	for ((i = ${#STARTED[@]} - 1; i >= 0; i--)); do
		end_pid "${STARTED[i]}"
	done
	for ((i = ${#MOUNTS[@]} - 1; i >= 0; i--)); do
		umount "${MOUNTS[i]}"
	done
	[ ${#REMOVE[@]} -eq 0 ] || rm -rf "${REMOVE[@]}"
	if [ -n "${KEEP-}" ]; then
		echo "kept: $T" >&2
	else
		rm -rf "$T"
	fi
	exit $status
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'echo "FAIL: line $LINENO of ${BASH_SOURCE[0]##*/}: $BASH_COMMAND" >&2' ERR

## processes and waiting

# start NAME COMMAND...: in a session of its own, output to $T/NAME.log; the
# pid is in $STARTED_PID.
start() {
	local name=$1
	shift
	setsid "$@" </dev/null >>"$T/$name.log" 2>&1 &
	STARTED_PID=$!
	STARTED+=("$STARTED_PID")
	echo "$STARTED_PID" >>"$PIDS"
}

# end_pid PID [SECONDS]: asks, waits, and then insists on the whole session.
end_pid() {
	kill -TERM "$1" 2>/dev/null || true
	timeout "${2:-10}" tail -s 0.05 --pid="$1" -f /dev/null || true
	kill -KILL -- "-$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

# wait_line PID LOG REGEX [SECONDS]: until the log has such a line; fails at
# once when the process has ended without.
wait_line() {
	grep -q -m1 -E -e "$3" < <(timeout "${4:-30}" \
		tail -s 0.05 -n +1 --pid="$1" -f "$2" 2>/dev/null || true)
}

# wait_until SECONDS COMMAND...: for what has no event to wait for.
wait_until() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

free_port() {
	/usr/bin/python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

## assertions

assert_eq() { # GOT WANTED WHAT
	[ "$1" = "$2" ] || fail "$3: got '$1', wanted '$2'"
}

assert_le() { # GOT MOST WHAT
	[ "$1" -le "$2" ] || fail "$3: got $1, wanted at most $2"
}

# assert_exit STATUS REGEX COMMAND...: its exit status, and its stderr
assert_exit() {
	local want=$1 regex=$2 status=0
	shift 2
	"$@" >"$T/out" 2>"$T/err" || status=$?
	[ $status -eq "$want" ] ||
		fail "$*: exit status $status, wanted $want: $(<"$T/err")"
	grep -q -E -e "$regex" "$T/err" ||
		fail "$*: stderr is '$(<"$T/err")', wanted /$regex/"
}

# assert_json JQ-EXPRESSION COMMAND...: one object, for which it is true
assert_json() {
	local expr=$1
	shift
	"$@" >"$T/json" || fail "$*: failed"
	jq -e "$expr" "$T/json" >/dev/null ||
		fail "$*: not true: $expr: $(<"$T/json")"
}

sha_of() { # FILE, or stdin
	sha256sum "$@" | cut -d ' ' -f 1
}

## the registry

# registry_start: Debian's docker-registry; sets REGISTRY=127.0.0.1:PORT.
# Started again, it has the same port and contents.  $REGISTRY_MORE: more lines
# of its configuration.
registry_start() {
	cat >"$T/registry.yml" <<-END
	version: 0.1
	log: {level: info, formatter: json, accesslog: {disabled: true}}
	storage:
	  filesystem: {rootdirectory: $T/registry}
	  delete: {enabled: true}
	  redirect: {disable: true}
	http: {addr: "${REGISTRY:-127.0.0.1:0}", secret: test}
	${REGISTRY_MORE-}
	END
	: >"$T/registry.log"
	start registry docker-registry serve "$T/registry.yml"
	REGISTRY_PID=$STARTED_PID
	wait_line "$REGISTRY_PID" "$T/registry.log" '"listening on ' ||
		fail "docker-registry did not start"
	REGISTRY=$(jq -r 'select(.msg | startswith("listening on "))
		| .msg | ltrimstr("listening on ")' "$T/registry.log")
	MARK=0
}

registry_stop() {
	end_pid "$REGISTRY_PID"
}

# registry_settle: a request leaves its log line after its last byte, so one
# more request is made, and its line awaited.
registry_settle() {
	local mark="/v2/?mark=$RANDOM$RANDOM"
	curl -sf "http://$REGISTRY$mark" >/dev/null
	wait_line "$REGISTRY_PID" "$T/registry.log" "${mark/\?/.}"
}

registry_mark() { # what follows counts from here
	registry_settle
	MARK=$(wc -l <"$T/registry.log")
}

# registry_log [DIGEST]: GETs of blobs (of this one) since the mark, as JSON
registry_log() {
	registry_settle
	tail -n +"$((MARK + 1))" "$T/registry.log" | jq -c --arg d "${1-}" '
		select(.msg == "response completed" or
		    .msg == "response completed with error")
		| select(."http.request.method" == "GET")
		| select(."http.request.uri" | contains("/blobs/" + $d))'
}

registry_bytes() { # [DIGEST]
	registry_log "$@" | jq -s 'map(."http.response.written" // 0) | add // 0'
}

registry_requests() { # [DIGEST]
	registry_log "$@" | jq -s length
}

# registry_all_requests: of any kind, since the mark (but for our own)
registry_all_requests() {
	registry_settle
	tail -n +"$((MARK + 1))" "$T/registry.log" | jq -s 'map(select(
		(.msg | startswith("response completed")) and
		(."http.request.uri" | contains("mark=") | not))) | length'
}

registry_file() { # DIGEST: where the registry keeps that blob
	local hex=${1#sha256:}
	echo "$T/registry/docker/registry/v2/blobs/sha256/${hex:0:2}/$hex/data"
}

# image_annotate FILE [shedpack push's options]: the image pushed last gets a
# chunk index of FILE, named by its manifest: sets MANIFEST and INDEX anew
image_annotate() {
	local file=$1
	shift
	rm -rf "$T/pack"
	INDEX=$("$BIN/shedpack" index "$file" -o "$T/pack" 2>>"$T/shedpack.log" |
		awk '{ print $2 }')
	"$BIN/shedpack" push "$T/pack" "$IMAGE" --annotate "$@" \
		>"$T/annotate.out" 2>>"$T/shedpack.log"
	MANIFEST=$(awk '$1 == "image" { print $2 }' "$T/annotate.out")
}

# image_push FILE REPO[:TAG] [push.py's options]: sets IMAGE and the digests
# MANIFEST and EROFS, and SIZE
image_push() {
	local file=$1 name=$2
	shift 2
	IMAGE=$REGISTRY/$name
	"$TOOLS/push.py" "$file" "$IMAGE" "$@" >"$T/push.json"
	MANIFEST=$(jq -r .manifest "$T/push.json")
	EROFS=$(jq -r .erofs "$T/push.json")
	SIZE=$(jq -r .size "$T/push.json")
}

# image_make [loose] KEY SEED:KIB...: an image of those files (image_of) in a
# repository of its own, with a chunk index, which stays in $T/KEY.pack; loose:
# without.  Sets of that KEY: FILE, NAME, the digests MAN (the manifest's) and DEV
# (the erofs's), and LAYOUT, its directory in the store.
declare -A FILE NAME MAN DEV LAYOUT
image_make() {
	local loose='' key layout
	[ "$1" = loose ] && { loose=1; shift; }
	key=$1
	shift
	FILE[$key]=$T/$key.erofs
	image_of "${FILE[$key]}" "$@"
	image_push "${FILE[$key]}" "test/$key:v1"
	layout=$EROFS
	if [ -z "$loose" ]; then
		image_annotate "${FILE[$key]}"
		rm -rf "$T/$key.pack"
		mv "$T/pack" "$T/$key.pack"
		layout=$INDEX
	fi
	NAME[$key]=$IMAGE MAN[$key]=$MANIFEST DEV[$key]=$EROFS
	LAYOUT[$key]=$STORE/layouts/${layout#sha256:}
}

## registries that answer as they are told: tests/tools/registry.py

# scripted_start NAME FILE [OPTIONS]: serves FILE as an image; started again, it
# has the same address.  Sets AT[NAME], its HOST:PORT, and STARTED_PID; requests
# are in $T/NAME.requests.
declare -A AT ADMIN
SCRIPTED_IN=()		# a command that it is started by, and becomes
scripted_start() {
	local name=$1 file=$2 at=${AT[$1]-127.0.0.1:0}
	shift 2
	: >"$T/$name.log"
	start "$name" "${SCRIPTED_IN[@]}" /usr/bin/python3 \
		"$TOOLS/registry.py" "$file" --log "$T/$name.requests" \
		--address "${at%:*}" --port "${at##*:}" "$@"
	wait_line "$STARTED_PID" "$T/$name.log" '"registry"' ||
		fail "registry.py did not start"
	AT[$name]=$(jq -r .registry "$T/$name.log")
	ADMIN[$name]=$(jq -r .admin "$T/$name.log")
}

tell() { # NAME fault?blob=short, heal, ...
	"${SCRIPTED_IN[@]}" curl -sf -o /dev/null "http://${ADMIN[$1]}/_$2" ||
		fail "$1 is gone"
}

## a front: nginx, as mirror, TLS end or static server

# nginx_start [tls] [LOCATIONS]: serves LOCATIONS (nginx's words; by default
# everything is passed to the registry); sets NGINX=127.0.0.1:PORT, and for
# tls CA, the file of the authority to trust.
nginx_start() {
	local tls='' dir=$T/nginx port
	[ "${1-}" = tls ] && { tls=ssl; shift; }
	port=$(free_port)
	mkdir -p "$dir"
	NGINX=127.0.0.1:$port
	if [ -n "$tls" ]; then
		CA=$dir/ca.pem
		make_ca "$dir"
	fi
	cat >"$dir/nginx.conf" <<-END
	daemon off; master_process off; pid $dir/pid; error_log stderr notice;
	events {}
	http {
		log_format counted '\$request_method \$request_uri \$status '
			'\$body_bytes_sent "\$http_authorization"';
		access_log $dir/access.log counted;
		client_body_temp_path $dir/body; proxy_temp_path $dir/proxy;
		fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u;
		scgi_temp_path $dir/s;
		client_max_body_size 0;
		server {
			listen $NGINX $tls;
			${tls:+ssl_certificate $dir/cert.pem;}
			${tls:+ssl_certificate_key $dir/key.pem;}
			${1:-location / {
				proxy_pass http://$REGISTRY;
				proxy_set_header Host \$http_host;
				proxy_set_header X-Forwarded-Proto \$scheme;
				proxy_request_buffering off;
			\}}
		}
	}
	END
	start nginx nginx -p "$dir" -c "$dir/nginx.conf" -e stderr
	NGINX_PID=$STARTED_PID
	# nginx says nothing when it listens
	wait_until 10 curl -sk -o /dev/null "http${tls:+s}://$NGINX/" ||
		fail "nginx did not start"
}

make_ca() { # DIR: a CA, and a certificate for 127.0.0.1 and localhost
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-days 2 -subj /CN=test-ca -keyout "$1/ca.key" -out "$1/ca.pem" \
		2>/dev/null
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-subj /CN=localhost -keyout "$1/key.pem" -out "$1/csr.pem" \
		2>/dev/null
	openssl x509 -req -in "$1/csr.pem" -CA "$1/ca.pem" -CAkey "$1/ca.key" \
		-CAcreateserial -days 2 -out "$1/cert.pem" -extfile <(
		echo subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test) 2>/dev/null
}

## a link in front of it

# link_start HOST:PORT RTT_MS MBIT [link's options]: a simulated network link to
# there (tests/tools/link.c says what it does); sets LINK=127.0.0.1:PORT
link_start() {
	rm -f "$T/link.in"
	mkfifo "$T/link.in"
	: >"$T/link.log"
	# shellcheck disable=SC2016
	start link bash -c 'exec "$@" <>"$0"' "$T/link.in" \
		"$BIN/../tests/tools/link" --listen 127.0.0.1:0 --to "$1" \
		--rtt "$2" --rate "$3" "${@:4}"
	LINK_PID=$STARTED_PID
	wait_line "$LINK_PID" "$T/link.log" '^listening ' ||
		fail "the link did not start"
	LINK=127.0.0.1:$(awk '/^listening / { print $2 }' "$T/link.log")
}

# link_say ORDER: `rate MBIT`, `rtt MS` or `stats`; when it returns the order is
# obeyed.  Prints what there is to say, for stats an object.
link_say() {
	local n
	n=$(($(sed -n '/ done/p' "$T/link.log" | wc -l) + 1))
	echo "$*" >"$T/link.in"
	wait_line "$LINK_PID" "$T/link.log" "^$n done" ||
		fail "the link did not obey: $*"
	sed -n "s/^$n done *//p" "$T/link.log"
}

## images

# image_small [lz4]: a real erofs of about 48 MB, plain or as shed makes it;
# sets SMALL
image_small() {
	SMALL=$CACHE/small${1:+-$1}.erofs
	[ -f "$SMALL" ] || "$TOOLS/image.sh" "$SMALL" "${1-plain}" >&2
}

# image_plus: its next version, with some MB more; sets PLUS
image_plus() {
	PLUS=$CACHE/small-plus.erofs
	[ -f "$PLUS" ] || "$TOOLS/image.sh" "$PLUS" plain --plus >&2
}

# image_of FILE SEED:KIB...: an erofs of such files, the same each time; the
# same seed means the same bytes, and 0 zeros
image_of() {
	local file=$1
	shift
	rm -rf "$T/tree"
	mkdir "$T/tree"
	/usr/bin/python3 - "$T/tree" "$@" <<-'END'
	import random, sys
	for n, word in enumerate(sys.argv[2:]):
	    seed, kib = map(int, word.split(":"))
	    with open("%s/%02d" % (sys.argv[1], n), "wb") as f:
	        f.write(random.Random(seed).randbytes(kib << 10) if seed
	                else bytes(kib << 10))
	END
	mkfs.erofs -T 0 -U 5ed57ea0-0000-4000-8000-000000000002 --all-root \
		"$file" "$T/tree" >/dev/null
	rm -r "$T/tree"
}

## guests

# bed_test [-s] SUITE [TEST...]: what a test has to say that runs the bed
# (tests/vm/bed.sh) with that suite's newest kernel
bed_test() {
	local suite status=0 more=() kept tool
	[ "$1" != -s ] || { more+=(-s); shift; }
	suite=$1
	shift
	kept=$CACHE/bed-failed-$suite${more[0]-}
	case $BUILD in
	*asan | *tsan) skip "under sanitizers the guest would take too long" ;;
	esac
	[ -z "${USER_PASS-}" ] ||
		skip "needs no user's rights; the pass of the user who called has run it"
	for tool in qemu-system-x86_64 busybox cpio modprobe mkfs.erofs mke2fs; do
		command -v $tool >/dev/null || skip "no $tool"
	done
	"$VM/kernel.sh" "$suite" "$CACHE/kernel-$suite" >"$T/kernel.log" 2>&1 ||
		skip "the kernel of $suite cannot be had: $(tail -n 1 "$T/kernel.log")"
	[ ${#more[@]} -eq 0 ] ||
		"$VM/bed_systemd.sh" "$CACHE/bed-systemd" >"$T/root.log" 2>&1 ||
		skip "a root with systemd cannot be made: $(tail -n 1 "$T/root.log")"
	[ -z "${KILLS-}" ] || more+=(-e "KILLS=$KILLS")
	[ -z "${TEST_TIMEOUT-}" ] || more+=(-e "TEST_TIMEOUT=$TEST_TIMEOUT"
		-t $((TEST_TIMEOUT - 30)))
	"$VM/bed.sh" -k "$suite" "${more[@]}" \
		"${BIN%/bin}" "$T" "$@" >"$T/bed.out" || status=$?
	rm -rf "$kept"
	if [ $status -ne 0 ]; then
		mkdir -p "$kept"
		cp "$T"/console*.log "$T/results" "$kept/"
		cat "$T/bed.out"
		grep '^FAIL ' "$T/bed.out" | sed "s/^FAIL /FAIL: $suite: /" >&2
		fail "the consoles are kept in $kept"
	fi
	sed -n -E 's/^NOTE: /&/p; s/^(PASS|SKIP) ([^:]*): ?(.*)/NOTE: \2 s \1 \3/p' \
		"$T/bed.out"
}

## the suite

# no request is sent twice: for who counts them
no_hedges() {
	printf '[network]\nhedge = 0%%\n' >"$T/conf"
}

# suite_start [devd's options]: all daemons; with $T/conf if there is one.
# Sets SUITE_PID.  The store is $STORE.
STORE=$T/store
SUITE_IN=()		# a command that it is started by, and becomes
suite_start() {
	local conf=()
	[ -x "$BIN/devd" ] || fail "$BIN/devd is not built"
	[ -f "$T/conf" ] && conf=(-c "$T/conf")
	mkdir -p "$STORE" "$T/run"
	: >"$T/devd.log"
	start devd "${SUITE_IN[@]}" "$BIN/devd" -f --store "$STORE" \
		--run "$T/run" "${conf[@]}" "$@"
	SUITE_PID=$STARTED_PID
	wait_line "$SUITE_PID" "$T/devd.log" '(^|[^[:alnum:]])ready($|[^[:alnum:]])' ||
		fail "the suite did not become ready"
}

# suite_reload: until it is ready in its next life
suite_ready_times() { # NUMBER
	[ "$(grep -c -E '(^|[^[:alnum:]])ready$' "$T/devd.log")" -ge "$1" ]
}
suite_reload() {
	local n
	n=$(grep -c -E '(^|[^[:alnum:]])ready$' "$T/devd.log")
	kill -HUP "$SUITE_PID"
	wait_until 30 suite_ready_times $((n + 1)) || fail "not ready after a reload"
}

# A sanitizer's finding ends one process, which is started again: it must not
# pass for health.
no_findings() {
	! grep -E 'Sanitizer|runtime error:|assertion' "$T/devd.log" ||
		fail "a finding in devd.log"
}

# suite_kill: SIGKILL to the parent; all others must follow
suite_kill() {
	kill -KILL "$SUITE_PID"
	wait "$SUITE_PID" 2>/dev/null || true
	wait_until 30 suite_gone ||
		fail "outlived devd: $(ps -o pid=,comm= -s "$SUITE_PID")"
	no_findings
}

# suite_stop: by SIGTERM; nothing of it may be left
suite_stop() {
	local left
	kill -TERM "$SUITE_PID"
	timeout 20 tail -s 0.05 --pid="$SUITE_PID" -f /dev/null ||
		fail "devd did not end on SIGTERM"
	wait "$SUITE_PID" || fail "devd ended with status $?"
	wait_until 5 suite_gone || {
		left=$(ps -o pid=,comm= -s "$SUITE_PID")
		fail "left over after devd's end: $left"
	}
	no_findings
}

suite_gone() { # a zombie that init has yet to reap is gone
	! pgrep -r D,R,S,T,I -s "$SUITE_PID" >/dev/null
}

# suite_pids NAME: children of our devd with that name (devd: the control
# process), one a line
suite_pids() {
	pgrep -P "$SUITE_PID" -x -- "$1"
}

suite_pid() { # NAME: the one, or the first
	suite_pids "$1" | head -n 1
}

# A service of root presents files where nothing else is asked for, another one
# NBD; most tests are about what both can.
PRESENT=nbd
ctl() {
	ctl_at "$T/run" "$@"
}
ctl_at() { # RUN-DIRECTORY ARGUMENT...: of one suite of several
	local run=$1 present=()
	shift
	[ "${1-}" != attach ] || [ -z "$PRESENT" ] ||
		[[ " $* " = *" --present "* ]] || present=(--present "$PRESENT")
	"$BIN/shedctl" --socket "$run/control.sock" "$@" "${present[@]}"
}

status_of() { # NAME JQ-PATH
	ctl status "$1" --json | jq -r "$2"
}

status_is() { # NAME JQ-PATH VALUE
	[ "$(status_of "$1" "$2" 2>/dev/null)" = "$3" ]
}

device_count() { # NUMBER: are there so many?
	[ "$(ctl ls --json | jq '.devices | length')" = "$1" ]
}

# event_await REGEX [SECONDS]: until an event's line of JSON fits, also one that
# was before; at once, as it comes
event_await() {
	local status=0 pid
	exec 9< <(exec timeout "${2:-30}" "$BIN/shedctl" --socket \
		"$T/run/control.sock" events -f --json 2>/dev/null)
	pid=$!
	grep -q -m1 -E -e "$1" <&9 || status=1
	kill "$pid" 2>/dev/null || true
	exec 9<&-
	return $status
}

# read_unit URI UNIT FILE: its bytes, compared with FILE's; to be run with &,
# since it becomes the reader
read_unit() {
	exec timeout 60 /usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
at = int(sys.argv[2]) * 65536
with open(sys.argv[3], "rb") as f:
    f.seek(at)
    sys.exit(h.pread(65536, at) != f.read(65536))' "$1" "$2" "$3"
}

device_sha() { # URI: of every byte that is read from it
	nbdcopy "$1" - | sha_of
}

store_used() { # bytes that the store takes on disk
	du -s --block-size=1 "$STORE" | cut -f 1
}

index_tool() {
	/usr/bin/python3 "$TOOLS/index.py" "$@"
}

# spoil FILE OFFSET [BYTES]: its bytes there become their complement
spoil() {
	/usr/bin/python3 - "$1" "$2" "${3:-1}" <<-'END'
	import sys
	with open(sys.argv[1], "r+b") as f:
	    f.seek(int(sys.argv[2]))
	    was = f.read(int(sys.argv[3]))
	    assert was, "nothing there to damage"
	    f.seek(int(sys.argv[2]))
	    f.write(bytes(b ^ 255 for b in was))
	END
}

# no device of that name, even one that is still being taken down
gone() { # NAME
	ctl ls --json | jq -e --arg n "$1" \
		'[.devices[] | select(.name == $n)] | length == 0' >/dev/null
}

nbd_uri() { # NAME
	status_of "$1" .path
}

rss_kb() { # PID: anonymous memory
	awk '/^RssAnon:/ { print $2 }' "/proc/$1/status"
}

fd_count() { # PID: open descriptors, or -1 where we may not look
	local n
	n=$(find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l)
	[ "$n" -gt 0 ] && echo "$n" || echo -1
}
