#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: systemd keeps a service's descriptor over its restart, its death and,
# with FileDescriptorStorePreserve, its stop and start: that last only as long as
# another unit refers to it, as an enabled service has it.  One that nothing
# refers to is forgotten with its store when it stops.
. "$(dirname "$0")/../../e2e/lib.sh"

version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
[ "$version" -ge 254 ] || fail "systemd $version has no FileDescriptorStorePreserve"
cat >/run/systemd/system/keeper.service <<-END
[Service]
Type=notify
ExecStart=/usr/bin/python3 $TOOLS/fdstore.py $T/said
FileDescriptorStoreMax=4
FileDescriptorStorePreserve=yes
Restart=always
RestartSec=100ms
END
wants=/run/systemd/system/multi-user.target.wants/keeper.service
mkdir -p "${wants%/*}"
ln -s ../keeper.service "$wants"
systemctl daemon-reload
# shellcheck disable=SC2317
undo() {
	systemctl stop keeper.service
	systemctl clean --what=fdstore keeper.service
	rm -f /run/systemd/system/keeper.service "$wants"
}

lives() { # NUMBER
	[ "$(wc -l <"$T/said")" = "$1" ]
}

systemctl start keeper.service
assert_eq "$(cat "$T/said")" nothing "given to the first life"
systemctl restart keeper.service
systemctl kill -s KILL keeper.service
wait_until 20 lives 3 || fail "not started again: $(<"$T/said")"
wait_until 20 systemctl -q is-active keeper.service || fail "not active"
systemctl stop keeper.service
systemctl start keeper.service
assert_eq "$(sed 1d "$T/said" | sort | uniq -c | xargs)" \
	"3 what the first wrote" "given after restart, kill, and stop and start"

rm "$wants"
systemctl daemon-reload
systemctl stop keeper.service
systemctl start keeper.service
assert_eq "$(tail -n 1 "$T/said")" nothing "given where no unit refers to it"
echo "NOTE: systemd $version, $(ps -o comm= -p 1) is the first process"
