# SPDX-License-Identifier: Apache-2.0
# The whole build; `make help` lists the targets.

VERSION := 0.1.0
B ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
SYSTEM := $(shell uname -s)

PKGS := libevent openssl libprotobuf-c
HARDENING := -fstack-protector-strong -fPIE -D_FORTIFY_SOURCE=2 \
	-fstack-clash-protection
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu17 $(CFLAGS) $(WARNINGS) $(HARDENING) -I. -I$B/gen \
	-DVERSION='"$(VERSION)"' -pthread -MMD -MP
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now $(LDFLAGS) -pthread

# What depends on the system is a file of its own.
ifeq ($(SYSTEM),Linux)
BASE_OS := base/shm_linux.c base/self_linux.c base/peer_linux.c
POLICY_OS := policy/linux.c policy/linux_landlock.c policy/linux_seccomp.c
POLICY_LIBS := $(shell pkg-config --libs libseccomp 2>/dev/null)
IO_OS := devd/sendfile_linux.c
CACHED_OS := cached/room_linux.c
else
BASE_OS := base/shm_posix.c base/self_darwin.c base/peer_bsd.c
POLICY_OS := policy/darwin.c
IO_OS := devd/sendfile_posix.c
CACHED_OS := cached/room_posix.c
endif

BASE := base/log.c base/fd.c base/digest.c base/conf.c $(BASE_OS)
IPC := ipc/stream.c ipc/ipc.c ipc/parent.c
POLICY := policy/policy.c $(POLICY_OS)
GEN := $B/gen/ipc/control.pb-c.c $B/gen/ipc/suite.pb-c.c
SUITE := $(BASE) $(IPC) $(POLICY) $(GEN)

# The programs, each with its files in reading order.
IMAGE := image/ref.c image/manifest.c
FETCHERD := fetcherd/main.c $(sort $(filter-out fetcherd/main.c,$(wildcard fetcherd/*.c)))
CACHED := cached/main.c cached/open.c cached/image.c cached/layout.c \
	cached/presence.c cached/fill.c cached/fetch.c cached/device.c \
	cached/sync.c cached/finish.c cached/work.c cached/status.c \
	cached/store.c $(CACHED_OS)
DEVD := devd/main.c devd/parent.c devd/places.c devd/spawn.c devd/control.c \
	devd/attach.c devd/device.c devd/answer.c devd/names.c \
	devd/attachments.c
DEVD_IO := devd/io_main.c devd/io_core.c devd/io_want.c devd/nbd.c \
	devd/nbd_handshake.c devd/nbd_reply.c devd/nbd_proto.c $(IO_OS)
SHEDCTL := shedctl/main.c shedctl/request.c shedctl/client.c \
	shedctl/progress.c shedctl/show.c shedctl/json.c shedctl/words.c

PROGRAMS := devd devd-io cached fetcherd shedctl

devd_SRC := $(DEVD) $(SUITE)
devd_PKGS :=
devd_LIBS := $(POLICY_LIBS) -linih
devd-io_SRC := $(DEVD_IO) $(SUITE)
devd-io_LIBS := $(POLICY_LIBS) -linih
cached_SRC := $(CACHED) $(IMAGE) $(SUITE)
cached_PKGS := jansson
cached_LIBS := $(POLICY_LIBS) -linih
fetcherd_SRC := $(FETCHERD) $(SUITE)
fetcherd_PKGS := libcurl jansson
fetcherd_LIBS := $(POLICY_LIBS) -linih
shedctl_SRC := $(SHEDCTL) $(filter-out base/conf.c,$(BASE)) ipc/stream.c ipc/ipc.c $(GEN)
shedctl_PKGS := jansson
shedctl_LIBS :=

all: $(PROGRAMS:%=$B/bin/%)

obj = $(patsubst %.c,$B/obj/%.o,$(patsubst $B/gen/%,gen/%,$(1)))

define program
$B/bin/$(1): $$(call obj,$$($(1)_SRC))
	@mkdir -p $$(@D)
	$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ \
	    $$(shell pkg-config --libs $$(PKGS) $$($(1)_PKGS)) $$($(1)_LIBS)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$p)))

$B/gen/ipc/%.pb-c.c $B/gen/ipc/%.pb-c.h: ipc/%.proto
	@mkdir -p $(@D)
	protoc-c --c_out=$B/gen/ipc -I ipc ipc/$*.proto

$B/obj/gen/%.o: $B/gen/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Wno-shadow -I$B/gen/ipc -c -o $@ $<

$B/obj/%.o: %.c $B/gen/ipc/control.pb-c.h $B/gen/ipc/suite.pb-c.h
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

clean:
	rm -rf $B

.PHONY: all clean
.SECONDARY:
-include $(shell find $B/obj -name '*.d' 2>/dev/null)
