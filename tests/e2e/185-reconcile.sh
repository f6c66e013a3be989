#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: an owner that tells which consumers it has loses the others, for good,
# and nobody else's; a device goes with its last opener; a list that is empty
# unasked, or that can't be read, changes nothing.
. "$(dirname "$0")/lib.sh"

registry_start
image_make one 1:600
image_make two 2:600
SHED=/var/lib/shed

raw() { # OWNER ARGUMENT...: sets no variable, prints the answer
	local owner=$1
	shift
	"$TOOLS/control.py" "$T/run/control.sock" "$owner" "$@"
}

answers() { # WANTED OWNER ARGUMENT...: a list's answer, sorted, in one line
	local want=$1 got
	shift
	got=$(raw "$1" reconcile "${@:2}" | sort | paste -sd ' ') ||
		fail "reconcile $*: $got"
	assert_eq "$got" "$want" "reconcile $*"
}

refuses() { # REGEX OWNER REQUEST ARGUMENT...
	local want=$1 got
	shift
	if got=$(raw "$@"); then fail "$*: done: $got"; fi
	grep -q -E "$want" <<<"$got" || fail "$*: $got, wanted /$want/"
}

consumers_are() { # NAME WANTED
	assert_eq "$(status_of "$1" '.consumers | sort | join(" ")')" "$2" \
		"consumers of $1"
}

suite_start
for vm in vm1 vm2 vm3; do
	raw $SHED attach "${NAME[one]}" one $vm >/dev/null
done
raw $SHED attach "${NAME[two]}" two vm3 >/dev/null
raw $SHED-2 attach "${NAME[one]}" one vm1 >/dev/null
ctl attach "${NAME[one]}" --consumer vm1 >/dev/null
me=uid:$(id -u)
all="$SHED-2/vm1 $SHED/vm1 $SHED/vm2 $SHED/vm3 $me/vm1"

## what is no list changes nothing
BAD_REQUEST=13
refuses "^error $BAD_REQUEST .*allow_empty" $SHED reconcile
refuses "^error $BAD_REQUEST .*item 2 " $SHED reconcile \
	"vm1=${NAME[one]}" "vm/2=${NAME[one]}"
refuses "^error $BAD_REQUEST .*item 1 " $SHED reconcile "vm1="
refuses "^closed" $SHED raw 31 0aff	# an item that ends too early
consumers_are one "$all"
consumers_are two $SHED/vm3

## who is not on the list goes, in every device; one that is read stays so long
uri=$(nbd_uri two)
mkfifo "$T/end"
start reader /usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("open", flush=True)
open(sys.argv[2]).read()' "$uri" "$T/end"
wait_line "$STARTED_PID" "$T/reader.log" '^open$' || fail "no reader of two"
answers "attached vm1 attached vm2 dropped vm3 dropped vm3 missing vm9" \
	$SHED "vm2=${NAME[one]}" "vm1=${MAN[one]}" "vm9=${NAME[two]}"
consumers_are one "$SHED-2/vm1 $SHED/vm1 $SHED/vm2 $me/vm1"
consumers_are two ""
assert_eq "$(status_of two .state)" draining "state of two"
: >"$T/end"
wait "$STARTED_PID"
wait_until 10 gone two || fail "two outlives its last opener"

## for good: also over the death of everything
suite_kill
suite_start
consumers_are one "$SHED-2/vm1 $SHED/vm1 $SHED/vm2 $me/vm1"
gone two || fail "two is back"
answers "dropped vm1 dropped vm2" $SHED --allow-empty
consumers_are one "$SHED-2/vm1 $me/vm1"
answers "attached vm1" $SHED-2 "vm1=${DEV[one]}"
answers "dropped vm1" $SHED-2 --allow-empty
ctl detach one --consumer vm1
wait_until 10 gone one || fail "one is left"
suite_stop
