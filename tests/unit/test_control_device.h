/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of tests of a real control process, above the calls of
 * test_control_host.h: what a client hears, what cached is asked, and one image
 * that devices are attached of.
 */
#ifndef TESTS_UNIT_TEST_CONTROL_DEVICE_H
#define TESTS_UNIT_TEST_CONTROL_DEVICE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test_control_host.h"

#define QUIET_MS	100	/* no message in that time: none was sent */
#define SIZE		(8 * 1024 * 1024)
#define IMAGE		"reg.example/a:1"
#define DATA		"layouts/ab/data.01"
#define CTL_INIT(NAME)	SHEDSTREAM__CONTROL__V1__##NAME##__INIT
#define WHOLE	SHEDSTREAM__CONTROL__V1__FETCH_MODE__FETCH_WHOLE

static inline int
setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	host_start(h);
	*state = h;
	return 0;
}

static inline int
teardown(void **state)
{
	host_stop(*state);
	free(*state);
	return 0;
}

/* The next answer is this error, and its sentence has that in it. */
static inline void
refused(struct user *u, Shedstream__Control__V1__Code code, const char *text)
{
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(ERROR));

	if (f->error->code != code || !strstr(f->error->text, text))
		fail_msg("error %d: %s", f->error->code, f->error->text);
}

static inline void
hears(struct user *u, CTL(Frame__BodyCase) type)
{
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, type);
}

/* The same request reached cached: its id. */
static inline uint64_t
asked(struct host *h, Suite__Frame__BodyCase type)
{
	_cleanup_frame_ Suite__Frame *f = host_asked(h, type);

	return f->id;
}

/* ---- devices ---- */

static struct digest image, blob, chunks, other;

static inline int
make_digests(void **state)
{
	(void)state;
	image = digest_of("image", 5);
	blob = digest_of("blob", 4);
	chunks = digest_of("chunks", 6);
	other = digest_of("other", 5);
	return 0;
}

static inline ProtobufCBinaryData
bytes(struct digest *d)
{
	return (ProtobufCBinaryData){ DIGEST_LEN, d->bytes };
}

static inline Suite__Opened
opened(struct digest *layout, uint32_t rung)
{
	Suite__Opened m = SUITE__OPENED__INIT;

	m.image_digest = bytes(&image);
	m.blob_digest = bytes(&blob);
	m.layout = bytes(layout);
	m.size = SIZE;
	m.unit = 4096;
	m.rung = (CTL(Rung))rung;
	m.image = (char *)IMAGE;
	return m;
}

static inline void
attach_as(struct user *u, uint32_t present, uint32_t rung, const char *name)
{
	CTL(Attach) m = CTL_INIT(ATTACH);

	m.image = (char *)IMAGE;
	m.present = (CTL(Present))present;
	m.integrity = (CTL(Rung))rung;
	m.fallback = WHOLE;
	m.name = (char *)name;
	user_ask(u, CTL_BODY(ATTACH), &m);
}

/* From the Open on: cached says so, the parent makes it. */
static inline struct device_spec
attach_ends(struct host *h, Suite__Opened m)
{
	struct parent_msg msg;

	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
	msg = host_hear(h, CHILD_CREATE);
	host_device(h, &msg.device);
	return msg.device;
}

/* A device by NBD, attached. */
static inline struct device_spec
attached(struct host *h, struct user *u, struct digest *layout, uint32_t rung,
    const char *name)
{
	struct device_spec spec;

	attach_as(u, CTL_PRESENT(AUTO), 0, name);
	spec = attach_ends(h, opened(layout, rung));
	hears(u, CTL_BODY(ATTACHED));
	return spec;
}

static inline void
progress(struct host *h, uint64_t id, uint64_t current)
{
	Suite__Progress p = SUITE__PROGRESS__INIT;

	p.blob_digest = bytes(&blob);
	p.current = current;
	p.total = SIZE;
	host_say(h, id, SUITE_BODY(PROGRESS), &p);
}

#endif
