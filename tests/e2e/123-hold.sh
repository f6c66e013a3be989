#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: what is attached, pinned, or on any owner's list is not evicted, the
# rest in the order of its last use; lists are replaced as a whole, survive
# kill -9, and one that can't be read keeps everything; gc, rm and df say and do
# what they say; df stays within the quota while images are pulled under
# pressure; a kept image needs no network, whatever became of those it shares
# its chunks with.
. "$(dirname "$0")/lib.sh"

QUOTA=$((22 << 20))
# beyond the quota: indexes, and presence files as they grow
SLACK=$((1 << 20))

pull() { # KEY...
	local key
	for key; do
		ctl pull "${NAME[$key]}" 2>"$T/err" ||
			fail "pull $key: $(<"$T/err")"
	done
}

row() { # KEY JQ: of df
	ctl df --json | jq -r --arg d "${DEV[$1]}" \
		".images[] | select(.digest == \$d) | $2"
}

whole() { # KEY...: is each of them all here, by its own word?
	local key
	for key; do
		[ "$(ctl images --json | jq --arg d "${MAN[$key]}" '.images[] |
			select(.image_digest == $d) | .network_free')" = true ] ||
			return 1
	done
}

why_kept() { # KEY: what gc says
	ctl gc --dry-run --json | jq -r --arg d "${DEV[$1]}" \
		'.kept[] | select(.digest == $d) | .why'
}

is_right() { # KEY: read whole, through a device of it
	local uri
	uri=$(ctl attach "${MAN[$1]}" --name check) || fail "attach $1"
	assert_eq "$(device_sha "$uri")" "${DEV[$1]#sha256:}" "the device of $1"
	ctl detach check
	wait_until 10 no_device check || fail "the device of $1 is left"
}

no_device() {
	ctl ls --json | jq -e --arg n "$1" \
		'[.devices[] | select(.name == $n)] | length == 0' >/dev/null
}

# times of use are in seconds
next_second() {
	local now=$EPOCHSECONDS
	while [ "$EPOCHSECONDS" = "$now" ]; do
		sleep 0.05
	done
}

# what df and the disk say, all the while
watch() {
	while sleep 0.05; do
		echo "$(ctl df --json | jq .total) $(store_used)" \
			>>"$T/watched" || true
	done 2>/dev/null
}

registry_start
n=10
for key in a b c d e; do
	image_make $key $((n++)):6144
done
image_make bare 99:1024
printf '[store]\nquota = %d\nmin-free = 1M\nscrub = no\n' $QUOTA >"$T/conf"
suite_start
watch &
WATCH=$!
STARTED+=("$WATCH")

## gc

pull a b
ctl attach "${NAME[bare]}" --name bare >/dev/null	# and nothing is read
ctl detach bare
used=$(store_used)
assert_json '.freed | length == 3' ctl gc --dry-run --json
assert_eq "$(store_used)" "$used" "on disk after gc --dry-run"
whole a b || fail "gc --dry-run took something: $(ctl images)"
assert_json '.freed == [] and (.kept | length == 3)' ctl gc --until 1h --json
assert_json "(.freed | index(\"${DEV[a]}\")) and (.freed |
	index(\"${DEV[b]}\") | not)" ctl gc --max-bytes 8M --json
assert_json '.total <= 8388608 and .total > 4000000' ctl df --json
whole b || fail "gc took what was of use last: $(ctl df)"
ctl gc >/dev/null
assert_json '.images == [] and .total == 0' ctl df --json
[ -z "$(find "$STORE/layouts" -mindepth 1)" ] ||
	fail "left behind by gc: $(find "$STORE/layouts")"
assert_json '.images == []' ctl images --json

## the order of use

pull a
next_second
pull b
next_second
pull c
next_second
is_right a
next_second
pull d
whole a d || fail "what was of use last was evicted: $(ctl df)"
[ "$(row b .on_disk)" -lt "$(row c .on_disk)" ] ||
	fail "b was of use before c: $(ctl df)"
ctl gc >/dev/null
# in use until a moment ago, though all of it was read long before
pull a
uri=$(ctl attach "${NAME[a]}" --name long)
assert_eq "$(device_sha "$uri")" "${DEV[a]#sha256:}" "a, for long"
next_second
pull b
next_second
pull c
next_second
ctl detach long
wait_until 10 no_device long || fail "the device is left"
suite_stop	# it is remembered
suite_start
next_second
pull d
whole a d || fail "what was attached last was evicted: $(ctl df)"
[ "$(row b .on_disk)" -lt "$(row c .on_disk)" ] ||
	fail "b was of use before c: $(ctl df)"
# the same, where the service ends under it
ctl gc >/dev/null
pull a
uri=$(ctl attach "${NAME[a]}" --name long)
assert_eq "$(device_sha "$uri")" "${DEV[a]#sha256:}" "a, for long"
next_second
pull b c
suite_stop
suite_start
ctl detach long
wait_until 10 no_device long || fail "the device is left"
next_second
pull d
whole a d || fail "what was attached before the end was evicted: $(ctl df)"
ctl gc >/dev/null

## what is held

pull a b c
ctl pin "${NAME[a]}"
printf '# of one\n%s\n\n%s\n' "${MAN[b]}" "${MAN[bare]}" >"$T/list"
ctl keep "$T/list" --owner one
uri=$(ctl attach "${NAME[c]}" --name held)
assert_eq "$(why_kept a)" pinned "why a is kept"
assert_eq "$(why_kept b)" "kept by one" "why b is kept"
assert_eq "$(why_kept c)" attached "why c is kept"
assert_json '.freed == []' ctl gc --json
for key in a b c; do
	assert_exit 1 '^shedctl: IN_USE: ' ctl rm "${NAME[$key]}"
	assert_exit 1 '^shedctl: IN_USE: ' ctl rm "${MAN[$key]}"
done
assert_exit 1 '^shedctl: NO_SPACE: .*quota' ctl pull "${NAME[d]}"
whole a b c || fail "what is held was evicted: $(ctl df)"
assert_eq "$(device_sha "$uri")" "${DEV[c]#sha256:}" "the attached one"
assert_json '.pinned and .owners == []' row a .
assert_json '.owners == ["one"] and .pinned == false' row b .
# a device of what can't be kept works all the same
other=$(ctl attach "${NAME[d]}" --name through)
assert_eq "$(device_sha "$other")" "${DEV[d]#sha256:}" "through a full store"
ctl detach through
whole a b c || fail "what is held was evicted: $(ctl df)"
# it all survives
ctl detach held
suite_kill
suite_start
assert_eq "$(why_kept a)" pinned "why a is kept, later"
assert_eq "$(why_kept b)" "kept by one" "why b is kept, later"
pull e
whole a b e || fail "pinned or kept, and evicted: $(ctl df)"

## lists

printf '%s\n' "${DEV[b]}" >"$T/list"	# by its erofs will do
ctl keep "$T/list" --owner two
printf '%s\n' "${MAN[e]}" >"$T/list"
ctl keep "$T/list" --owner one
assert_eq "$(why_kept b)" "kept by two" "b, which one gave up"
assert_eq "$(why_kept e)" "kept by one" "e, which one took"
: >"$T/list"
assert_exit 1 '^shedctl: BAD_REQUEST: .*allow-empty' \
	ctl keep "$T/list" --owner two
assert_exit 1 '^shedctl: [A-Z_]+: cannot read' ctl keep "$T/nosuch" --owner two
assert_exit 1 '^shedctl: [A-Z_]+: cannot read' ctl keep "$T" --owner two
printf '%s\nsha256:12\n' "${MAN[b]}" >"$T/bad"
assert_exit 1 '^shedctl: BAD_REQUEST: .*bad:2' ctl keep "$T/bad" --owner two
assert_eq "$(why_kept b)" "kept by two" "b, after lists that were refused"
suite_kill
suite_start
assert_eq "$(why_kept b)" "kept by two" "b, by the list as it was replaced"
ctl keep "$T/list" --owner two --allow-empty
assert_eq "$(why_kept b)" "" "b, of no list"
assert_json ".freed | index(\"${DEV[b]}\")" ctl gc --dry-run --json
# one that can't be read
list=$(find "$STORE/keeps" -type f -exec grep -l '"one"' {} +)
suite_stop
spoil "$list" 30 40
suite_start
for key in a b e; do
	case $(why_kept $key) in
	pinned | *"can't be read"*) ;;
	*) fail "an unreadable list, and $key is kept because $(why_kept $key)" ;;
	esac
done
assert_json '.freed == []' ctl gc --json
printf '%s\n' "${MAN[e]}" >"$T/list"
ctl keep "$T/list" --owner one
assert_eq "$(why_kept b)" "" "b, when the list was sent again"

## rm

ctl unpin "${NAME[a]}"
ctl rm "${NAME[a]}"
ctl rm "${MAN[b]}"
for what in df images; do
	assert_json "[.images[].digest] | (index(\"${DEV[a]}\") or
		index(\"${DEV[b]}\") | not) and index(\"${DEV[e]}\") != null" \
		ctl $what --json
done
assert_eq "$(find "$STORE/layouts" -mindepth 1 -maxdepth 1 | wc -l)" 1 "layouts"
assert_exit 1 '^shedctl: BLOB_ABSENT: ' ctl rm "${MAN[a]}"
assert_exit 1 '^shedctl: BLOB_ABSENT: ' ctl pin "${NAME[a]}"
is_right e
: >"$T/list"
ctl keep "$T/list" --owner one --allow-empty
ctl rm "${NAME[e]}"
ctl gc >/dev/null
assert_json '.images == [] and .total == 0' ctl df --json

kill $WATCH
wait $WATCH || true

## kept, and made of what others have as well

image_make base 31:6144
image_make next 31:6144 32:2048
for key in twin1 twin2 twin3; do
	image_make $key 31:6144 "4${key#twin}:300"
done
pull base next
assert_json '.images | all(.shared > 6000000)' ctl df --json
printf '%s\n' "${MAN[next]}" >"$T/list"
ctl keep "$T/list"
# more copies of what next has of base, each in a file of its own, and a start
# that may find any of them first
sed -i 's/quota = .*/quota = 100M/' "$T/conf"
suite_stop
suite_start
for key in twin1 twin2 twin3; do
	path=$(ctl attach "${NAME[$key]}" --name $key --present plain 2>/dev/null)
	assert_eq "$(sha_of "$path")" "${DEV[$key]#sha256:}" "plain: $key"
	ctl detach $key
	wait_until 10 no_device $key || fail "the device is left"
done
sed -i "s/quota = .*/quota = $QUOTA/" "$T/conf"
suite_stop
suite_start
whole next || fail "not network-free after a start: $(ctl images)"
is_right next
for key in a b c d; do
	ctl pull "${NAME[$key]}" 2>"$T/err" || grep -q NO_SPACE "$T/err" ||
		fail "pull $key: $(<"$T/err")"
done
ctl gc >/dev/null
whole next || fail "kept, and not network-free: $(ctl images) $(ctl df)"
# what only stood there for next is gone by another name too
ctl rm "${NAME[base]}" 2>"$T/err" || grep -q 'BLOB_ABSENT' "$T/err" ||
	fail "rm: $(<"$T/err")"
whole next || fail "kept, and not network-free: $(ctl images) $(ctl df)"
suite_kill
registry_stop
rm -rf "$T/run"
suite_start
uri=$(ctl attach "${MAN[next]}" --name kept)
assert_eq "$(timeout 20 nbdcopy "$uri" - | sha_of)" "${DEV[next]#sha256:}" \
	"a kept image, without a registry"
assert_json '.network_free and .requests.sent == 0' ctl status kept --json
assert_exit 1 IN_USE ctl rm "${MAN[next]}"
suite_stop

most=$(cut -d ' ' -f 1 "$T/watched" | sort -n | tail -n 1)
assert_le "$most" $((QUOTA + SLACK)) "the most that df ever showed"
disk=$(cut -d ' ' -f 2 "$T/watched" | sort -n | tail -n 1)
assert_le "$disk" $((QUOTA + SLACK)) "the most that was ever on disk"
echo "NOTE: quota $QUOTA: df showed at most $most, du $disk," \
	"in $(wc -l <"$T/watched") looks"
