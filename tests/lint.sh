#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# lint.sh BUILD SOURCES HEADERS: the checks behind `make lint`, all of them,
# even when one fails.  SOURCES and HEADERS are lists in one word each; the
# tests' own files are added here.
# step() calls the functions:
# shellcheck disable=SC2317
set -uo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.." || exit
[ $# -eq 3 ] || { echo "usage: $0 BUILD SOURCES HEADERS" >&2; exit 2; }
build=$1
read -ra sources <<<"$2"
read -ra headers <<<"$3"

mapfile -t test_c < <(find tests -name '*.[ch]' | sort)
mapfile -t test_h < <(find tests -name '*.h' | sort)
mapfile -t scripts < <(find tests -name '*.sh' | sort; echo .ci/run)
mapfile -t tools < <(find tests -name '*.py' | sort)
mapfile -t manuals < <(find docs -name '*.[158]' | sort)
mapfile -t texts < <(find docs ./*.md ipc systemd tests -name '*.md' -o \
	-name '*.proto' -o -name '*.sysusers' -o -name '*.[158]' | sort)
c=("${sources[@]}" "${headers[@]}" "${test_c[@]}")
include=(-I. "-I$build/gen")
failed=0

step() { # NAME COMMAND...
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "ok $name"
	else
		failed=1
		echo "not ok $name"
		printf '%s\n' "$output" | sed 's/^/    /'
	fi
}

# It reads no system headers: what it can't do without is defined here.
# get*namCalled: those are called before there is a second thread.
bugs() {
	mkdir -p "$build/lint"
	cat >"$build/lint/system.h" <<-END
	#define STAILQ_HEAD(name, type) struct name { struct type *first; }
	END
	cppcheck --quiet --std=c11 --library=posix --library=gnu \
		--error-exitcode=1 --inline-suppr --max-configs=4 \
		--enable=warning,portability,performance \
		-DVERSION='"lint"' "${include[@]}" \
		--include="$build/lint/system.h" \
		--suppress=missingIncludeSystem --suppress=unknownMacro \
		--suppress=getpwnamCalled --suppress=getgrnamCalled \
		--suppress="*:$build/gen/*" "${sources[@]}"
}

headers_alone() {
	local h bad=0
	for h in "${headers[@]}" "${test_h[@]}"; do
		gcc -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror \
			-Wno-unused-function -fsyntax-only -x c \
			"${include[@]}" "$h" || bad=1
	done
	return "$bad"
}

# With tabs of 8.  Tables may be wider: rows in braces, and lists of constants
# with their meaning behind; so may tests and scripts, where a line is often one
# string.
columns() {
	local f bad=0 table
	table='^[0-9]+:( +\{ | +[A-Z_0-9]+( = [^,]+)?, +/\*|#define .*/\*)'
	for f in "${sources[@]}" "${headers[@]}"; do
		expand -t 8 "$f" | grep -n -E '.{81,}' |
			grep -v -E "$table" | sed "s|^|$f:|" | grep . && bad=1
	done
	for f in "${test_c[@]}" "${scripts[@]}" "${tools[@]}" Makefile; do
		expand -t 8 "$f" | grep -n -E '.{111,}' | sed "s|^|$f:|" |
			grep . && bad=1
	done
	return "$bad"
}

trailing() {
	! grep -n -E '[[:blank:]]+$' "${c[@]}" "${scripts[@]}" "${tools[@]}" \
		"${texts[@]}" Makefile .clang-format
}

# First, or behind the line that names the interpreter.
licence() {
	local f line bad=0
	for f in "${c[@]}" "${scripts[@]}" "${tools[@]}" ipc/*.proto \
		Makefile; do
		line=$(sed -n '1{/^#!/!p;q}' "$f")
		[ -n "$line" ] || line=$(sed -n 2p "$f")
		# lib.sh says first for which shell it is
		[[ $line != "# shellcheck "* ]] || line=$(sed -n 2p "$f")
		[[ $line = *"SPDX-License-Identifier: Apache-2.0"* ]] || {
			echo "$f: its first line is no SPDX line"
			bad=1
		}
	done
	return "$bad"
}

step "cppcheck" bugs
step "shellcheck" shellcheck -x "${scripts[@]}"
step "manual pages" mandoc -T lint -W warning "${manuals[@]}"
step "headers alone" headers_alone
step "columns" columns
step "trailing blanks" trailing
step "licence" licence
exit $failed
