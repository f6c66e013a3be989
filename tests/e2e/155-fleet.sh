#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: three hosts that read an image lazily through one of the caches of
# docs/fleet.md, set up by the files of examples/, cost the registry one fetch:
# nginx each slice once, docker-registry nothing once it has the blob.  The cache
# may go while they read.  nginx's for private images serves nobody whom the
# registry would refuse.
. "$(dirname "$0")/lib.sh"

HOSTS=3
SLICE=$((1024 * 1024))	# of nginx: as in examples/

## hosts: each has a suite of its own

declare -A HOST_PID URI

# host_start NAME REGISTRY MIRROR [MORE CONFIGURATION]: and its device of $IMAGE
host_start() {
	local dir=$T/$1
	mkdir -p "$dir/store" "$dir/run"
	printf '[network]\nhedge = 0%%\n[registry "%s"]\nmirrors = %s\n%s\n' \
		"$2" "$3" "${4-}" >"$dir/conf"
	: >"$T/$1.log"
	start "$1" "$BIN/devd" -f --store "$dir/store" --run "$dir/run" \
		-c "$dir/conf"
	HOST_PID[$1]=$STARTED_PID
	wait_line "$STARTED_PID" "$T/$1.log" ' ready$' ||
		fail "$1 did not become ready"
	URI[$1]=$(on "$1" attach "$IMAGE" --name image)
}

on() { # HOST SHEDCTL'S ARGUMENTS...
	ctl_at "$T/$1/run" "${@:2}"
}

hosts_stop() {
	local name
	for name in "${!HOST_PID[@]}"; do
		kill -TERM "${HOST_PID[$name]}"
		wait "${HOST_PID[$name]}" || fail "$name ended with status $?"
		! grep -E 'Sanitizer|runtime error:|assertion' "$T/$name.log" ||
			fail "a finding in $name.log"
	done
	HOST_PID=()
}

# line HOST COUNT SEED FROM TO: of crowd.py's plan; the parts are of 100
line() {
	echo "$1-$3-$4 ${URI[$1]} $SMALL $2 4 $3 $((SIZE * $4 / 100))" \
		"$((SIZE * $5 / 100))"
}

# reads PLAN: at once
reads() {
	timeout 60 "$TOOLS/crowd.py" --touched "$T/touched" <"$1" >"$T/out" ||
		fail "a read through a cache"
}

served_more() { # THAN LINES of nginx's log
	[ "$(grep -c "$EROFS" "$T/cache/access.log")" -gt "$1" ]
}

says() { # HOST REGEX: is there such an event?
	on "$1" events --json | grep -q -E -e "$2"
}

## nginx

# nginx_cache EXAMPLE ORIGIN: at $MIRROR, which is where it was before
nginx_cache() {
	local dir=$T/cache
	mkdir -p "$dir"
	: "${MIRROR:=127.0.0.1:$(free_port)}"
	sed -e "s,/var/cache/nginx/,$dir/," -e "s,/run/shed,$dir/shed," \
		-e "s,https://registry.example.com,http://$2," \
		-e "s,listen 5001;,listen $MIRROR;," \
		"$ROOT/examples/$1" >"$dir/mirror.conf"
	cat >"$dir/nginx.conf" <<-END
	daemon off; pid $dir/pid; error_log stderr notice;
	worker_processes 2;
	$([ "$(id -u)" -ne 0 ] || echo 'user root;')
	events {}
	http {
		log_format lines '\$server_addr \$status \$http_range \$uri';
		access_log $dir/access.log lines;
		client_body_temp_path $dir/body; proxy_temp_path $dir/proxy;
		fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u;
		scgi_temp_path $dir/s;
		include $dir/mirror.conf;
	}
	END
	start cache nginx -p "$dir" -c "$dir/nginx.conf" -e stderr
	MIRROR_PID=$STARTED_PID
	wait_until 10 curl -s -o /dev/null "http://$MIRROR/" ||
		fail "nginx did not start"
}

# Ranges of the erofs that nginx was asked for, and that it asked for itself, in
# slices: "asked BYTES distinct SLICES origin SLICES twice SLICES"
nginx_slices() {
	awk -v slice=$SLICE -v blob="/$EROFS" '
	index($0, blob) && match($0, /bytes=[0-9]+-[0-9]+/) {
		split(substr($0, RSTART + 6, RLENGTH - 6), at, "-")
		if ($1 ~ /^unix:/) {		# to the registry
			origin++
			twice += seen[at[1]]++ > 0
			next
		}
		asked += at[2] - at[1] + 1
		for (i = int(at[1] / slice); i <= int(at[2] / slice); i++)
			distinct += !touched[i]++
	}
	END { print "asked", asked + 0, "distinct", distinct + 0,
		"origin", origin + 0, "twice", twice + 0 }' "$T/cache/access.log"
}

image_small
registry_start
image_push "$SMALL" test/small:v1
image_annotate "$SMALL"
mkdir "$T/touched"

nginx_cache nginx-mirror.conf "$REGISTRY"
for ((n = 0; n < HOSTS; n++)); do
	host_start "a$n" "$REGISTRY" "http://$MIRROR"
done
registry_mark
for ((n = 0; n < HOSTS; n++)); do
	line "a$n" 60 1 0 50		# as all boot alike,
	line "a$n" 30 $((n + 2)) 0 50	# and then not
done >"$T/plan"
reads "$T/plan"
read -r _ asked _ distinct _ origin _ twice < <(nginx_slices)
bytes=$(registry_bytes "$EROFS")
requests=$(registry_requests "$EROFS")
touched=$(cat "$T/touched"/* | index_tool touched "$T/pack/index")
echo "NOTE: nginx: $HOSTS hosts touched $touched bytes of chunks, asked it for" \
	"$asked in $distinct slices, and it the registry for $bytes in $requests" \
	"($twice twice)"
[ "$asked" -gt $((touched * 2)) ] || fail "too little is read by more than one"
assert_le "$bytes" $((distinct * SLICE * 105 / 100)) "nginx: bytes"
# nginx's lock is not quite one: who looked just before a slice came, takes it
assert_le "$requests" $((distinct * 105 / 100 + 1)) "nginx: requests"
assert_le "$requests" "$origin" "requests that went past nginx"

# the cache goes while they read, and comes back
registry_mark
for ((n = 0; n < HOSTS; n++)); do
	line "a$n" 400 $((n + 5)) 50 100
done >"$T/plan"
served=$(grep -c "$EROFS" "$T/cache/access.log")
timeout 60 "$TOOLS/crowd.py" <"$T/plan" >"$T/out" 2>"$T/crowd.log" &
crowd=$!
wait_until 10 served_more "$served" || fail "nginx served nothing more"
end_pid "$MIRROR_PID"
wait "$crowd" || fail "a read while the cache goes: $(<"$T/crowd.log")"
[ "$(registry_requests "$EROFS")" -gt 0 ] || fail "nobody asked the registry"
says a0 "http://$MIRROR for $REGISTRY is not asked for now" ||
	fail "no event of it: $(on a0 events)"
nginx_cache nginx-mirror.conf "$REGISTRY"
seed=100
is_back() {	# that is asked while something is fetched, so it is
	line a0 3 $((seed++)) 50 100 >"$T/plan"
	reads "$T/plan"
	says a0 "http://$MIRROR for $REGISTRY answers again"
}
wait_until 20 is_back ||
	fail "it does not come back: $(on a0 events)"
hosts_stop

## nginx for private images, in front of a registry with passwords and a CDN

htpasswd() { # USER PASSWORD
	echo "$1:$(openssl passwd -apr1 "$2")"
}
login() { # HOST:PORT USER PASSWORD: a docker config.json, and its key
	printf '{"auths":{"%s":{"auth":"%s"}}}' "$1" \
		"$(printf '%s' "$2:$3" | base64)" >"$T/login-$1"
	chmod 600 "$T/login-$1"
	echo "auth-file = $T/login-$1"
}
end_pid "$MIRROR_PID"
htpasswd fleet secret >"$T/htpasswd"
nginx_start "auth_basic registry; auth_basic_user_file $T/htpasswd;
	location ~ /blobs/ { try_files /none @cdn; }
	location @cdn { return 307 http://127.0.0.1:\$server_port/cdn\$uri; }
	location ^~ /cdn/ { auth_basic off; proxy_pass http://$REGISTRY/; }
	location / { proxy_pass http://$REGISTRY;
		proxy_set_header Host \$http_host; }"
nginx_cache nginx-mirror-private.conf "$NGINX"
IMAGE=$NGINX/test/small:v1
host_start p0 "$NGINX" "http://$MIRROR" "$(login "$NGINX" fleet secret)
[registry \"$MIRROR\"]
$(login "$MIRROR" fleet secret)"
line p0 60 1 0 50 >"$T/plan"
: >"$T/nginx/access.log"
reads "$T/plan"
[ "$(grep -c " /cdn/" "$T/nginx/access.log")" -gt 5 ] ||
	fail "the CDN was not asked by nginx"
! grep " /cdn/.*Basic" "$T/nginx/access.log" || fail "the CDN saw a password"
assert_json ".requests.failed == 0" on p0 status image --json
blob=http://$MIRROR/v2/test/small/blobs/$EROFS
answer() { # CURL'S OPTIONS...: the status, of the first slice
	curl -s -o /dev/null -r 0-9 -w '%{http_code}' "$@" "$blob"
}
: >"$T/nginx/access.log"
assert_eq "$(answer -u fleet:secret)" 206 "who may read it"
assert_eq "$(answer)" 401 "who has no password"
assert_eq "$(answer -u fleet:wrong)" 401 "who has another password"
assert_eq "$(answer -u fleet:secret)" 206 "who may read it, again"
! grep "/cdn/.* 206 [0-9]\{4\}" "$T/nginx/access.log" ||
	fail "a slice that was kept was fetched"
hosts_stop
end_pid "$MIRROR_PID"
end_pid "$NGINX_PID"

## docker-registry as a pull-through cache, which takes some seconds for a blob

link_start "$REGISTRY" 5 100
sed -e "s,/var/lib/docker-registry,$T/through," \
	-e "s,0.0.0.0:5002,127.0.0.1:0," \
	-e "s,https://registry.example.com,http://$LINK," \
	"$ROOT/examples/docker-registry-mirror.yml" >"$T/through.yml"
: >"$T/through.log"
start through docker-registry serve "$T/through.yml"
wait_line "$STARTED_PID" "$T/through.log" 'listening on ' ||
	fail "docker-registry did not start as a cache"
through=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$T/through.log")
kept=$(registry_file "$EROFS")
kept=$T/through${kept#"$T/registry"}
IMAGE=$REGISTRY/test/small:v1

asked_by() { # PREFIX of the user agent: the bytes that the registry sent it
	registry_log "$EROFS" | jq -s --arg by "$1" 'map(select(
		."http.request.useragent" | startswith($by))
		| ."http.response.written" // 0) | add // 0'
}

answers() { # STATUS: the cache's, for the erofs
	grep -c "^127.* \"GET .*$EROFS.*\" $1 " "$T/through.log" || true
}

# before it has the blob, it answers with the whole, and fetches it
registry_mark
for ((n = 0; n < HOSTS; n++)); do
	host_start "b$n" "$REGISTRY" "http://$through"
	line "b$n" 60 1 0 50
done >"$T/plan"
reads "$T/plan"
wait_until 30 [ -f "$kept" ] || fail "the cache does not keep the blob"
past=$(asked_by shedstream)
by=$(asked_by Go-http)
fetched=0
for ((n = 0; n < HOSTS; n++)); do
	fetched=$((fetched + $(on "b$n" status image --json |
		jq .bytes.fetched)))
done
early=$(answers "[25]00")	# 500: the host hung up
hosts_stop
echo "NOTE: docker-registry, until it has the blob of $SIZE: $past bytes past" \
	"it, $by by it, of which $early answers that were not taken"
assert_le "$past" "$fetched" "bytes past the cache"
# each answer that a host does not take costs the registry what is on the way
assert_le "$by" $((SIZE * (1 + early) * 105 / 100)) "bytes by the cache"
assert_le "$early" $((HOSTS * 20)) "answers that were not taken"

# and then
registry_mark
for ((n = 0; n < HOSTS; n++)); do
	host_start "c$n" "$REGISTRY" "http://$through"
	line "c$n" 60 1 0 50
	line "c$n" 30 $((n + 2)) 0 50
done >"$T/plan"
reads "$T/plan"
hosts_stop
assert_eq "$(registry_requests)" 0 "requests for what the cache has"
