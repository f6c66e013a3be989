# SPDX-License-Identifier: Apache-2.0
# The whole build; `make help` lists the targets.
#
#	make B=DIR	builds elsewhere; objects, generated code and programs of
#			one build stand in one directory

VERSION := 0.1.0
B ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
SYSTEM := $(shell uname -s)

PKGS := libevent openssl libprotobuf-c
HARDENING := -fstack-protector-strong -fPIE -fstack-clash-protection \
	-D_FORTIFY_SOURCE=2
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu17 $(CFLAGS) $(WARNINGS) $(HARDENING) -I. -I$B/gen \
	-DVERSION='"$(VERSION)"' -pthread -MMD -MP
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now $(LDFLAGS) -pthread

# What depends on the system is a file of its own.
ifeq ($(SYSTEM),Linux)
BASE_OS := base/shm_linux.c base/self_linux.c base/peer_linux.c
POLICY_OS := policy/linux.c policy/linux_landlock.c policy/linux_seccomp.c \
	policy/linux_try.c
POLICY_LIBS := $(shell pkg-config --libs libseccomp 2>/dev/null)
DEVD_OS := devd/mount_linux.c devd/openers_linux.c
IO_OS := devd/sendfile_linux.c devd/fuse.c
# ublk needs liburing; without it that kind is refused, with the remedy.
ifeq ($(shell pkg-config --exists liburing && echo yes),yes)
DEVD_OS += devd/ublk_linux.c
IO_OS += devd/ublk.c
URING := liburing
else
DEVD_OS += devd/ublk_none.c
IO_OS += devd/ublk_shim_none.c
endif
# Devices of the kernel's NBD need libnl, likewise.
ifeq ($(shell pkg-config --exists libnl-genl-3.0 && echo yes),yes)
DEVD_OS += devd/knbd_linux.c
NETLINK := libnl-genl-3.0
else
DEVD_OS += devd/knbd_none.c
endif
CACHED_OS := cached/disk_linux.c cached/idle_linux.c
else
$(error This version builds on Linux only)
endif

BASE := base/log.c base/fd.c base/digest.c base/conf.c $(BASE_OS)
IPC := ipc/stream.c ipc/ipc.c ipc/parent.c
POLICY := policy/policy.c $(POLICY_OS)
ifdef SANITIZER
POLICY += policy/sanitizer.c
endif
GEN := $B/gen/ipc/control.pb-c.c $B/gen/ipc/suite.pb-c.c
SUITE := $(BASE) $(IPC) $(POLICY) $(GEN)

# The programs, each with its files in reading order.
IMAGE := image/ref.c image/manifest.c image/index.c
FETCHERD := fetcherd/main.c fetcherd/request.c fetcherd/transfer.c \
	fetcherd/check.c fetcherd/head.c fetcherd/referrers.c fetcherd/auth.c \
	fetcherd/realm.c fetcherd/secret.c fetcherd/redirect.c fetcherd/guard.c \
	fetcherd/proxy.c fetcherd/site.c fetcherd/failure.c
CACHED := cached/main.c cached/open.c cached/find.c cached/image.c \
	cached/layout.c cached/file.c cached/file_disk.c cached/catalog.c \
	cached/presence.c cached/device.c cached/map.c cached/outage.c \
	cached/ahead.c cached/fill.c cached/chunk.c cached/fetch.c \
	cached/transfer.c cached/source.c \
	cached/sync.c cached/finish.c cached/quarantine.c cached/hold.c \
	cached/room.c cached/gc.c cached/scrub.c cached/copy.c \
	cached/work.c cached/status.c cached/store.c cached/disk.c $(CACHED_OS)
DEVD := devd/main.c devd/parent.c devd/parent_device.c devd/parent_ublk.c \
	devd/parent_knbd.c devd/parent_block.c devd/apart.c devd/handover.c \
	devd/record.c devd/spec.c devd/ublk_kernel.c devd/knbd_name.c \
	$(DEVD_OS) devd/places.c devd/spawn.c devd/control.c \
	devd/op.c devd/attach.c devd/reconcile.c devd/store.c devd/device.c \
	devd/answer.c devd/doctor.c devd/metrics.c \
	devd/names.c devd/attachments.c devd/login.c devd/credentials.c
DEVD_IO := devd/io_main.c devd/io_core.c devd/io_want.c devd/nbd.c \
	devd/nbd_handshake.c devd/nbd_reply.c devd/nbd_proto.c \
	devd/fuse_proto.c $(IO_OS)
SHEDPACK := shedpack/main.c base/options.c shedpack/index.c image/cut.c \
	shedpack/inspect.c \
	shedpack/verify.c shedpack/push.c shedpack/artifact.c \
	shedpack/layout.c shedpack/place.c shedpack/pass.c shedpack/bar.c \
	shedpack/registry.c shedpack/ask.c shedpack/login.c shedpack/http.c \
	fetcherd/head.c fetcherd/secret.c fetcherd/redirect.c \
	fetcherd/realm.c fetcherd/guard.c shedctl/progress.c shedctl/show.c \
	shedctl/words.c
SHEDCTL := shedctl/main.c base/options.c shedctl/request.c shedctl/store.c \
	shedctl/login.c shedctl/ask.c fetcherd/secret.c \
	shedctl/client.c shedctl/dest.c shedctl/progress.c shedctl/show.c \
	shedctl/json.c shedctl/words.c

PROGRAMS := devd devd-io cached fetcherd shedctl shedpack

devd_SRC := $(DEVD) $(SUITE)
devd-io_SRC := $(DEVD_IO) $(SUITE)
devd_PKGS := $(URING) $(NETLINK)
devd-io_PKGS := $(URING)
cached_SRC := $(CACHED) $(IMAGE) $(SUITE)
cached_PKGS := jansson
fetcherd_SRC := $(FETCHERD) $(SUITE)
fetcherd_PKGS := libcurl jansson
shedctl_SRC := $(SHEDCTL) $(filter-out base/conf.c,$(BASE)) ipc/stream.c \
	ipc/ipc.c $(GEN)
shedctl_PKGS := jansson
shedpack_SRC := $(SHEDPACK) $(IMAGE) $(filter-out base/conf.c,$(BASE)) $(GEN)
shedpack_PKGS := jansson libcurl libxxhash
$(foreach p,devd devd-io cached fetcherd,$(eval $p_LIBS := $(POLICY_LIBS) -linih))

# What tests of cached as a whole are made of (tests/store/): a layer over the
# store's file operations that writes down each, and cached with it; a host that
# plays all its neighbours.
DISK := cached/disk.c $(filter cached/disk_%,$(CACHED_OS))
RECORD := $(foreach f,create open dir write set_size reserve punch copy sync \
	sync_dir rename unlink rmdir,-Wl,--wrap=disk_$f)
REPLAY := tests/store/replay.c tests/store/replay_log.c
HOST := tests/store/host.c tests/store/host_control.c \
	tests/store/host_fetch.c tests/store/host_io.c tests/store/registry.c \
	tests/store/tree.c image/cut.c image/index.c \
	$(IPC) $(BASE) $(GEN)
bench_SRC := tests/store/bench.c $(HOST) cached/work.c cached/chunk.c \
	cached/presence.c $(DISK) $(filter cached/idle_%,$(CACHED_OS))
bench_PKGS := libxxhash
bench_LIBS := -linih
cached-recorded_SRC := $(cached_SRC) tests/store/disk_record.c \
	tests/store/clock_ahead.c
cached-recorded_PKGS := $(cached_PKGS)
cached-recorded_LIBS := $(cached_LIBS) $(RECORD) -Wl,--wrap=clock_gettime \
	-Wl,--wrap=event_add
# The same for a guest: a life by chance on a real file system, cut and judged.
guest_power_SRC := tests/store/guest_power.c tests/store/walk.c \
	tests/store/logwrites.c $(HOST)
guest_power_PKGS := libxxhash
guest_power_LIBS := -linih
STORE_TESTS := cached-recorded guest_power

# What end-to-end tests and `make bench-link` use: a network link of a chosen
# round trip and rate, a reader that takes the time; for the test bed, what ublk
# can do.
TOOLS := link reads file_reads ublk_features
link_SRC := tests/tools/link.c
reads_SRC := tests/tools/reads.c
reads_PKGS := libnbd
file_reads_SRC := tests/tools/file_reads.c
ublk_features_SRC := tests/tools/ublk_features.c
ublk_features_PKGS := liburing

# Unit tests: each with the files it is about.  Some include the file under
# test, others play the neighbours of a whole program.
UNIT := test_base test_conf test_ref test_manifest test_index test_cut \
	test_presence test_catalog test_source test_ahead test_disk \
	test_replay test_store test_store_faults test_power test_names \
	test_attachments test_control test_devd test_stream test_ipc test_policy test_nbd_proto \
	test_io test_fetch_head test_fetch_guard test_fetch_secret \
	test_fetch_referrers test_fetch_proxy test_fetch_daemon test_fetch_login \
	test_fetch_mirror test_fetch_http2 test_shedctl \
	test_shedctl_service
test_base_SRC := $(BASE)
test_conf_SRC := $(BASE)
test_ref_SRC := image/ref.c $(BASE)
test_manifest_SRC := image/manifest.c $(BASE)
test_manifest_PKGS := jansson
test_index_SRC := image/index.c $(BASE)
test_cut_SRC := image/cut.c $(BASE)
test_cut_PKGS := libxxhash
test_presence_SRC := cached/presence.c $(BASE)
test_ahead_SRC := cached/ahead.c $(BASE)
test_source_SRC := cached/source.c $(BASE)
test_catalog_SRC := cached/catalog.c $(BASE)
test_disk_SRC := $(DISK) $(POLICY) $(BASE)
test_replay_SRC := $(DISK) tests/store/disk_record.c $(REPLAY) \
	tests/store/tree.c $(BASE)
test_replay_LIBS := $(RECORD)
test_store_SRC := $(HOST)
test_store_PKGS := libxxhash
test_store_faults_SRC := $(HOST)
test_store_faults_PKGS := libxxhash
test_power_SRC := $(REPLAY) $(HOST)
test_power_PKGS := libxxhash
UNIT += test_outage test_sources test_control_outage
test_outage_SRC := $(HOST)
test_outage_PKGS := libxxhash
test_sources_SRC := $(HOST)
test_sources_PKGS := libxxhash
test_control_outage_SRC := $(IPC) $(BASE) $(GEN)
UNIT += test_credentials test_handover test_store_login
test_handover_SRC := devd/handover.c $(BASE)
test_credentials_SRC := devd/credentials.c devd/handover.c devd/names.c $(BASE)
test_store_login_SRC := $(HOST)
test_store_login_PKGS := libxxhash
UNIT += test_flips
test_flips_SRC := tests/store/harm.c $(HOST)
test_flips_PKGS := libxxhash
# The mixes: make check wants each of one sanitizer only, see mix-asan.
ifdef SANITIZER
UNIT += test_mix test_mix_threads
else
MIXES := mix-asan mix-tsan
endif
test_mix_SRC := tests/store/mix.c tests/store/mix_ask.c tests/store/usage.c \
	tests/store/harm.c $(HOST)
test_mix_PKGS := libxxhash
# cached as threads of the test; between it and its files, what shows
# ThreadSanitizer which accesses are of the same bytes.
test_mix_threads_SRC := tests/store/cached_thread.c \
	$(filter-out cached/main.c,$(CACHED)) $(IMAGE) $(test_mix_SRC)
test_mix_threads_PKGS := libxxhash jansson
test_mix_threads_LIBS := $(foreach f,log_line munmap shm_map \
	shm_private_writer sendmsg recvmsg disk_write disk_punch disk_copy \
	disk_sync,-Wl,--wrap=$f)
UNIT += test_knbd_name
test_knbd_name_SRC := devd/knbd_name.c
UNIT += test_ublk_kernel
test_ublk_kernel_SRC := devd/ublk_kernel.c
test_names_SRC := devd/names.c $(BASE)
test_attachments_SRC := devd/attachments.c $(BASE)
test_control_SRC := $(IPC) $(BASE) $(GEN)
UNIT += test_control_store
test_control_store_SRC := $(test_control_SRC)
UNIT += test_control_reconcile
test_control_reconcile_SRC := $(test_control_SRC)
UNIT += test_control_names
test_control_names_SRC := $(test_control_SRC)
test_devd_SRC := $(IPC) $(BASE) $(GEN)
test_stream_SRC := ipc/stream.c $(BASE)
test_ipc_SRC := $(IPC) $(BASE) $(GEN)
test_policy_SRC := $(POLICY) $(BASE)
test_nbd_proto_SRC := devd/nbd_proto.c $(BASE)
UNIT += test_fuse_proto
test_fuse_proto_SRC := devd/fuse_proto.c $(BASE)
ifeq ($(SYSTEM),Linux)
UNIT += test_fuse
test_fuse_SRC := $(IPC) $(BASE) $(GEN)
endif
test_io_SRC := devd/nbd_proto.c $(IPC) $(BASE) $(GEN)
test_io_PKGS := libnbd
test_fetch_head_SRC := fetcherd/head.c $(BASE)
test_fetch_head_PKGS := libcurl
test_fetch_guard_SRC := fetcherd/guard.c fetcherd/redirect.c fetcherd/head.c $(BASE)
test_fetch_guard_PKGS := libcurl
test_fetch_secret_SRC := fetcherd/secret.c fetcherd/head.c $(BASE)
test_fetch_secret_PKGS := libcurl jansson
test_fetch_proxy_SRC := fetcherd/proxy.c fetcherd/head.c $(BASE)
test_fetch_proxy_PKGS := libcurl
test_fetch_referrers_SRC := fetcherd/referrers.c $(BASE)
test_fetch_referrers_PKGS := jansson
test_fetch_daemon_SRC := $(IPC) $(BASE) $(GEN)
test_fetch_daemon_PKGS := jansson
test_fetch_login_SRC := $(test_fetch_daemon_SRC)
test_fetch_login_PKGS := jansson
test_fetch_mirror_SRC := $(test_fetch_daemon_SRC)
test_fetch_mirror_PKGS := jansson
test_fetch_http2_SRC := $(test_fetch_daemon_SRC)
test_fetch_http2_PKGS := jansson
test_shedctl_SRC := $(filter-out shedctl/main.c,$(shedctl_SRC))
test_shedctl_PKGS := jansson
test_shedctl_service_SRC := $(test_shedctl_SRC)
test_shedctl_service_PKGS := jansson
$(foreach t,$(UNIT),$(eval $t_SRC += tests/unit/$t.c)\
	$(eval $t_LIBS += -lcmocka -linih $(POLICY_LIBS)))

all: $(PROGRAMS:%=$B/bin/%)

obj = $(patsubst %.c,$B/obj/%.o,$(patsubst $B/gen/%,gen/%,$(1)))

# $(1): the program's file, $(2): its name
define program
$(1): $$(call obj,$$($(2)_SRC))
	@mkdir -p $$(@D)
	$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ \
	    $$(shell pkg-config --libs $$(PKGS) $$($(2)_PKGS)) $$($(2)_LIBS)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$B/bin/$p,$p)))
$(foreach t,$(UNIT),$(eval $(call program,$B/tests/unit/$t,$t)))
$(foreach t,$(STORE_TESTS),$(eval $(call program,$B/tests/store/$t,$t)))
$(eval $(call program,$B/tests/store/bench,bench))
$(foreach t,$(TOOLS),$(eval $(call program,$B/tests/tools/$t,$t)))

$B/gen/ipc/%.pb-c.c $B/gen/ipc/%.pb-c.h: ipc/%.proto
	@mkdir -p $(@D)
	protoc-c --c_out=$B/gen/ipc -I ipc ipc/$*.proto

$B/obj/gen/%.o: $B/gen/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Wno-shadow -I$B/gen/ipc -c -o $@ $<

$B/obj/devd/knbd_linux.o: \
	ALL_CFLAGS += $(shell pkg-config --cflags $(NETLINK))

$B/obj/%.o: %.c $B/gen/ipc/control.pb-c.h $B/gen/ipc/suite.pb-c.h
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

# ---- what people run ----

help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST)

#: all            the programs, in build/bin
#: deps           install what building, testing and the demos need (apt)
#: demo           the main job, from nothing to a device, in 15 lines
#: demo-boot      the same with a guest, to its login prompt
#: check          unit and end-to-end tests; T="010 test_ipc" chooses
#: asan           the same under AddressSanitizer and UBSan
#: tsan           the same under ThreadSanitizer
#: bench          ratios to nbdkit and curl, measured in one run
#: bench-link     the same through a simulated network: CELLS="20/200" chooses
#:                round trip in ms and Mbit/s; RUNS=3, SIZE= in MB
#: bench-device   hot reads of each kind of device next to a local file, libfuse,
#:                nbdkit, qemu-nbd and loop: RUNS=7, PARTS="file nbd many guest"
#: soak           the same, more: both mixes for 10 minutes, with 500 kills; each
#:                process killed N=200 times; the real image
#: fuzz           each fuzzer for SECONDS=60
#: lint           cppcheck, shellcheck, manual pages, headers, line lengths
#: install        DESTDIR= PREFIX=/usr
#: dist           a tarball of HEAD
#: clean
deps:
	@tests/deps.sh

demo:
	@tests/demo.sh

demo-boot:
	@tests/demo-boot.sh

tests: all $(UNIT:%=$B/tests/unit/%) $(STORE_TESTS:%=$B/tests/store/%) \
	$B/tests/store/bench \
	$(TOOLS:%=$B/tests/tools/%) $(MIXES)

check: tests
	BUILD=$B tests/run.sh $(T)

# A variant of the policies that grants what sanitizers need, and no more.
# $(1): asan or tsan, which also names its directory
SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZE_tsan := -fsanitize=thread
sanitized = $(MAKE) B=$B/$(1) SANITIZER=1 HARDENING= \
	LDFLAGS="$(SANITIZE_$(1))" CFLAGS="-O1 -g -fno-omit-frame-pointer \
	-fPIE $(SANITIZE_$(1)) -DPOLICY_SANITIZER"

# Where addresses are chosen with many random bits, a program of a sanitizer may
# find none for its own memory (tests/run.sh says more).
asan tsan:
	+$(shell setarch -R true 2>/dev/null && echo setarch -R) \
	    $(call sanitized,$@) check T="$(T)"

mix-asan:
	+$(call sanitized,asan) $(addprefix $B/asan/,tests/unit/test_mix bin/cached)

mix-tsan:
	+$(call sanitized,tsan) $B/tsan/tests/unit/test_mix_threads

bench: all $B/tests/store/bench
	@tests/bench.sh

bench-link: all $(TOOLS:%=$B/tests/tools/%)
	@BUILD=$B tests/bench-link.sh
	@BUILD=$B tests/bench-hedge.sh

bench-device: all $(TOOLS:%=$B/tests/tools/%)
	@BUILD=$B tests/bench-device.sh

N ?= 200
soak: tests
	BUILD=$B KILLS=$(N) MIX_SECONDS=600 MIX_KILLS=500 TEST_TIMEOUT=7200 \
	    REAL=1 tests/run.sh $(T)

FUZZERS := ipc nbd fuse manifest index http
SECONDS ?= 60
fuzz:
	@tests/fuzz/run.sh $(SECONDS) $(FUZZERS)

HEADERS := $(wildcard */*.h)
SOURCES := $(wildcard base/*.c ipc/*.c policy/*.c image/*.c fetcherd/*.c \
	cached/*.c devd/*.c shedctl/*.c shedpack/*.c)
lint: $B/gen/ipc/control.pb-c.h $B/gen/ipc/suite.pb-c.h
	@tests/lint.sh $B "$(SOURCES)" "$(HEADERS)"

PREFIX ?= /usr
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/shedstream \
	    $(DESTDIR)$(PREFIX)/share/man/man1 \
	    $(DESTDIR)$(PREFIX)/share/man/man5 \
	    $(DESTDIR)$(PREFIX)/share/man/man8 \
	    $(DESTDIR)$(PREFIX)/lib/sysusers.d \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system \
	    $(DESTDIR)$(PREFIX)/share/doc/shedstream/examples
	install $B/bin/shedctl $B/bin/shedpack $(DESTDIR)$(PREFIX)/bin
	install $(filter-out %/shedctl %/shedpack,$(PROGRAMS:%=$B/bin/%)) \
	    $(DESTDIR)$(PREFIX)/libexec/shedstream
	install -m 644 docs/shedctl.1 docs/shedpack.1 \
	    $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/shedstream.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 644 docs/devd.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 systemd/shedstream.sysusers \
	    $(DESTDIR)$(PREFIX)/lib/sysusers.d/shedstream.conf
	sed 's|/usr/libexec|$(PREFIX)/libexec|' systemd/shedstream.service \
	    >$(DESTDIR)$(PREFIX)/lib/systemd/system/shedstream.service
	install -m 644 docs/fleet.md $(DESTDIR)$(PREFIX)/share/doc/shedstream
	install -m 644 $(wildcard examples/*) \
	    $(DESTDIR)$(PREFIX)/share/doc/shedstream/examples

dist:
	git archive --prefix=shedstream-$(VERSION)/ -o \
	    shedstream-$(VERSION).tar.gz HEAD

clean:
	rm -rf $B

.PHONY: all help deps demo demo-boot tests check asan tsan mix-asan mix-tsan \
	bench bench-link bench-device soak fuzz lint install dist clean
.SECONDARY:
-include $(shell find $B/obj -name '*.d' 2>/dev/null)
