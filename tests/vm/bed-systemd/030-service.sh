#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: run by systemd as our unit says, the service can be reloaded,
# restarted, stopped and started, and killed, its first process alone or all of
# it, while a reader of a file compares every byte: no wrong byte, no error, and
# the file stays.  ENDS of each.
. "$(dirname "$0")/../../e2e/lib.sh"
ENDS=${ENDS:-3}
STEP=3		# new units that the reader reads in each round
PRESENT='file'
unit=shedstream.service

image_small
registry_start
image_push "$SMALL" test/base:v1
mkdir -p "$STORE" "$T/run"
sed -e "s|^ExecStart=.*|ExecStart=$BIN/devd -f --store $STORE --run $T/run|" \
	-e "/^\[Service\]/a StandardError=append:$T/devd.log" \
	"$ROOT/systemd/$unit" >"/run/systemd/system/$unit"
wants=/run/systemd/system/multi-user.target.wants/$unit
mkdir -p "${wants%/*}"
ln -s "../$unit" "$wants"
systemctl daemon-reload
# shellcheck disable=SC2317
undo() {
	systemctl stop "$unit"
	systemctl clean --what=fdstore "$unit"
	rm -f "/run/systemd/system/$unit" "$wants"
	systemctl daemon-reload
}
main_pid() {
	systemctl show -P MainPID "$unit"
}
kept() {
	systemctl show -P NFileDescriptorStore "$unit"
}
kept_are() { # NUMBER
	[ "$(kept)" -eq "$1" ]
}

systemctl start "$unit"
file=$(ctl attach "$IMAGE" --name one --integrity complete)
wait_until 10 kept_are 4 || fail "$(kept) descriptors are kept"

coproc READER { exec "$TOOLS/reader.py" "$file" "$SMALL" paced \
	2>"$T/reader.log"; }
reader=$READER_PID from=${READER[0]} to=${READER[1]}
STARTED+=("$reader")

# progress N: until the reader has read N units it had not read before
progress() {
	local line n=$1
	while [ "$n" -gt 0 ]; do
		read -r -t 60 line <&"$from" ||
			fail "the reader makes no progress: $(<"$T/reader.log")
$(ctl status one --json 2>&1)"
		[ "$line" != unit ] || n=$((n - 1))
	done
}

another() { # PID: is the service active, with another first process?
	systemctl -q is-active "$unit" && [ "$(main_pid)" != "$1" ]
}

echo "more $STEP" >&"$to"
progress "$STEP"
longest=0
for ((i = 0; i < ENDS; i++)); do
	for end in restart reload kill-first stop-start kill-all; do
		early=$((RANDOM % STEP))
		echo "more $STEP" >&"$to"
		progress $early
		before=$(date +%s%N)
		pid=$(main_pid)
		case $end in
		restart) systemctl restart "$unit" ;;
		reload)
			systemctl reload "$unit"
			pid=
			;;
		kill-first) systemctl kill -s KILL --kill-whom=main "$unit" ;;
		kill-all) systemctl kill -s KILL --kill-whom=all "$unit" ;;
		stop-start)
			systemctl stop "$unit"
			systemctl start "$unit"
			;;
		esac
		wait_until 60 another "$pid" || fail "no service after $end $i:
$(systemctl status "$unit")"
		progress $((STEP - early))
		stall=$((($(date +%s%N) - before) / 1000000))
		[ $stall -le $longest ] || longest=$stall
	done
done
wait_until 30 status_is one .path "$file" || fail "path: $(ctl status one --json)"
eval "exec $to>&-"
tail -n 1 <&"$from" >"$T/summary"
wait "$reader" || fail "the reader: $(<"$T/reader.log")"
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"
taken=$(grep -c 'requests of a former worker taken over' "$T/devd.log") || true
echo "NOTE: $((ENDS * 5)) ends, $(jq .reads "$T/summary") reads compared," \
	"$(kept) descriptors kept; $taken workers found requests in the journal;" \
	"the longest until reads went on $longest ms"

ctl detach one
wait_until 20 gone one || fail "it is left"
wait_until 10 kept_are 0 || fail "$(kept) descriptors are left"
! grep -q "shedstream:$T/run" /proc/self/mountinfo || fail "a mount is left"

ctl attach "$IMAGE" --name one --integrity complete >/dev/null
ctl shutdown
wait_until 30 another "$(main_pid)" || fail "not started again"
! grep -q "shedstream:$T/run" /proc/self/mountinfo ||
	fail "a mount is left after shutdown"
assert_eq "$(kept)" 0 "descriptors kept after shutdown"
