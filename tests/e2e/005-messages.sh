#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Claim: each message of ipc/suite.proto has exactly one receiver, from the
# sender and with the descriptor or raw bytes that its comment says; each
# request of ipc/control.proto is either in control's table or answered with
# UNSUPPORTED.
. "$(dirname "$0")/lib.sh"

proto=$ROOT/ipc
[ -f "$proto/suite.proto" ] || skip "the .proto files are not here"

# the tables of all programs
for program in devd cached fetcherd devd-io; do
	"$BIN/$program" --messages
done | sort >"$T/tables"
grep '^suite\.Frame ' "$T/tables" | cut -d ' ' -f 2- >"$T/suite.got"
awk '$1 == "shedstream.control.v1.Frame" { print $2 }' "$T/tables" |
	sort >"$T/control.got"

# what the comments of suite.proto say: FIELD PEERS PROCESS [fd] [raw]
awk '
	BEGIN {
		mask["control"] = 1; mask["cached"] = 2
		mask["fetcherd"] = 4; mask["io"] = 8
		name["io"] = "devd-io"
	}
	/oneof body/ { inside = 1; next }
	inside && /^ *}/ { exit }
	inside && / -> / { from = $2; to = $4; next }
	inside && / = [0-9]+;/ {
		more = /with a descriptor/ ? " fd" : ""
		more = more (/\/\/ raw:/ ? " raw" : "")
		to = (to in name) ? name[to] : to
		print $2, mask[from], to more
	}
' "$proto/suite.proto" | sort >"$T/suite.want"
[ "$(wc -l <"$T/suite.want")" -ge 20 ] || fail "suite.proto was not understood"
diff "$T/suite.want" "$T/suite.got" >&2 ||
	fail "the tables (>) are not what suite.proto says (<)"

# requests: fields 10 to 99 of control's Frame.body, as "NUMBER NAME"
awk '
	/oneof body/ { inside = 1; next }
	inside && /^ *}/ { exit }
	inside && $3 == "=" && $4 + 0 >= 10 && $4 + 0 <= 99 {
		print $4 + 0, $2
	}
' "$proto/control.proto" >"$T/requests"
[ "$(wc -l <"$T/requests")" -ge 30 ] ||
	fail "control.proto was not understood"
cut -d ' ' -f 2 "$T/requests" | sort |
	comm -13 - "$T/control.got" >"$T/strange"
[ ! -s "$T/strange" ] || fail "no client may say: $(paste -sd ' ' "$T/strange")"
[ "$(uniq -d "$T/control.got" | wc -l)" -eq 0 ] ||
	fail "control's table has a message twice"

suite_start
# Says hello, then each request with hardly a field, and then one of a number
# that nobody knows.  Prints "NAME CODE", where CODE is that of Error or 0.
/usr/bin/python3 - "$T/run/control.sock" "$T/requests" >"$T/answers" <<'END'
import socket
import struct
import sys


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def fields(data):
    at = 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            n |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                return n
    while at < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = number()
            yield key >> 3, data[at:at + size]
            at += size


def exactly(s, n):
    out = b""
    while len(out) < n:
        piece = s.recv(n - len(out))
        if not piece:
            sys.exit("the service closed the connection")
        out += piece
    return out


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    s.connect(sys.argv[1])
    return s


def ask(s, number, body=b""):
    frame = b"\x08\x05" + varint(number << 3 | 2) + varint(len(body)) + body
    s.sendall(struct.pack(">I", len(frame)) + frame)
    while True:
        answer = dict(fields(exactly(s, *struct.unpack(
            ">I", exactly(s, 4)))))
        if answer.get(1) == 5:  # else an event
            break
    error = answer.get(100)
    return 0 if error is None else dict(fields(error))[1]


print("early", ask(connect(), 14))
s = connect()
print("hello", ask(s, 10, b"\x08\x01"))
print("again", ask(s, 10, b"\x08\x01"))
last = []
for line in open(sys.argv[2]):
    number, name = line.split()
    if name == "shutdown":
        last = [(int(number), name)]
    elif name != "hello":
        body = b"\x10\x01" if name == "prefetch" else b""  # all of it
        print(name, ask(s, int(number), body), flush=True)
print("99", ask(s, 99))
print("100000", ask(s, 100000))
for number, name in last:
    print(name, ask(s, number))
END
UNSUPPORTED=18 BAD_REQUEST=13
while read -r name code; do
	case $name in
	early | again) assert_eq "$code" $BAD_REQUEST "hello said $name" ;;
	99 | 100000)
		assert_eq "$code" $UNSUPPORTED "a request of a later version"
		;;
	*)
		if grep -q -x "$name" "$T/control.got"; then
			[ "$code" -ne $UNSUPPORTED ] ||
				fail "$name is in the table, and UNSUPPORTED"
		else
			assert_eq "$code" $UNSUPPORTED "the request $name"
		fi
		;;
	esac
done <"$T/answers"
assert_eq "$(wc -l <"$T/answers")" $(($(wc -l <"$T/requests") + 4)) "answers"
timeout 20 tail -s 0.05 --pid="$SUITE_PID" -f /dev/null ||
	fail "the suite did not end on shutdown"
echo "NOTE: $(wc -l <"$T/suite.want") messages, $(wc -l <"$T/requests")" \
	"requests, $(grep -c ' 18$' "$T/answers") answered UNSUPPORTED"
