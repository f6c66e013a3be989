#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs all that building, testing and the demo need on Debian 12
# (`make deps`).  Does nothing, quickly, when everything is there.  Starts no
# service: Debian's docker-registry and nginx would start theirs, so a
# policy-rc.d forbids it for the time of the installation only.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

packages=(
	# building
	gcc make pkg-config libc6-dev linux-libc-dev libcurl4-openssl-dev
	libevent-dev libseccomp-dev libprotobuf-c-dev protobuf-c-compiler
	libssl-dev libjansson-dev libxxhash-dev libinih-dev libcmocka-dev libnbd-dev
	liburing-dev libnl-genl-3-dev ca-certificates
	# tests and demo
	docker-registry nginx-light skopeo nbdkit libnbd-bin python3
	python3-libnbd qemu-block-extra curl jq openssl strace procps util-linux erofs-utils
	# guests
	qemu-system-x86 qemu-utils busybox-static cpio kmod debootstrap
	dmsetup e2fsprogs xz-utils fio iproute2 nbd-client
	# `make bench-device`
	libfuse3-dev fuse3
	# `make asan fuzz lint`
	clang clang-format clang-tidy llvm libclang-rt-dev cppcheck shellcheck
	mandoc
)

have() { # PACKAGE: is it installed
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
for p in "${packages[@]}"; do
	# any nginx will do
	[ "$p" = nginx-light ] && [ -x /usr/sbin/nginx ] && continue
	have "$p" || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
	echo "deps: all ${#packages[@]} packages are installed"
	exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	as_root=(sudo "--preserve-env=DEBIAN_FRONTEND,LC_ALL")
	[ -t 0 ] || as_root+=(-n)	# nobody to ask for a password
	if ! "${as_root[@]}" true; then
		echo "deps: run as root, or as a user with sudo;" \
			"missing: ${missing[*]}" >&2
		exit 1
	fi
fi

# An existing policy-rc.d is somebody's decision: it stays, and comes back.
policy=/usr/sbin/policy-rc.d
saved=$policy.shedstream-saved
restore() {
	"${as_root[@]}" rm -f $policy
	if "${as_root[@]}" test -e $saved; then
		"${as_root[@]}" mv $saved $policy
	fi
}
if "${as_root[@]}" test -e $policy && ! "${as_root[@]}" test -e $saved; then
	"${as_root[@]}" mv $policy $saved
fi
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
"${as_root[@]}" chmod 755 $policy

echo "deps: installing ${missing[*]}"
apt=("${as_root[@]}" apt-get -q -y -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install --no-install-recommends "${missing[@]}"
