#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: run by systemd as our unit says, the service can be reloaded,
# restarted, stopped and started, and killed, its first process alone or all of
# it, while a reader of a file compares every byte: no wrong byte, no error, and
# the file stays.  KILLS / 4 of each.
. "$(dirname "$0")/../../e2e/lib.sh"
. "$(dirname "$0")/../../e2e/reader.sh"
ENDS=$((${KILLS:-12} / 4))	# 3, and 50 in soak
STEPS=3
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

reader_start one "$file" "$SMALL"

active_but_not() { # PID: is the service active, with another first process?
	systemctl -q is-active "$unit" && [ "$(main_pid)" != "$1" ]
}

end() { # HOW
	local pid
	pid=$(main_pid)
	case $1 in
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
	wait_until 60 active_but_not "$pid" || fail "no service after $1:
$(systemctl status "$unit")"
}
readers_made $STEPS
for ((i = 0; i < ENDS; i++)); do
	for how in restart reload kill-first stop-start kill-all; do
		while_reading $STEPS end $how
	done
done
wait_until 30 status_is one .path "$file" || fail "path: $(ctl status one --json)"
reader_end one
assert_eq "$(sha_of "$file")" "${EROFS#sha256:}" "whole device"
taken=$(grep -c 'requests of a former worker taken over' "$T/devd.log") || true
echo "NOTE: $((ENDS * 5)) ends, $(jq .reads "$T/one.json") reads compared," \
	"$(kept) descriptors kept; $taken workers found requests in the journal;" \
	"the longest stall $LONGEST ms"

ctl detach one
wait_until 20 gone one || fail "it is left"
wait_until 10 kept_are 0 || fail "$(kept) descriptors are left"
! grep -q "shedstream:$T/run" /proc/self/mountinfo || fail "a mount is left"

ctl attach "$IMAGE" --name one --integrity complete >/dev/null
before=$(main_pid)
ctl shutdown
wait_until 30 active_but_not "$before" || fail "not started again"
! grep -q "shedstream:$T/run" /proc/self/mountinfo ||
	fail "a mount is left after shutdown"
assert_eq "$(kept)" 0 "descriptors kept after shutdown"
