// SPDX-License-Identifier: Apache-2.0
/*
 * Devices of the control process as its peers see it: a real one, a played
 * parent and cached, and clients.  What is asked of cached, and what becomes of
 * its answers.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test_control_device.h"

/* ---- attach ---- */

static void
test_cached_decides_on_the_rung(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened(&chunks, CTL_RUNG(CHUNK));
	CTL(Attach) plain = CTL_INIT(ATTACH);
	struct device_spec spec;

	/* without fallback there is a deadline, until a pull begins */
	plain.image = (char *)IMAGE;
	user_ask(&u, CTL_BODY(ATTACH), &plain);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(OPEN));

		assert_string_equal(f->open->image, IMAGE);
		assert_int_equal(f->open->rung, CTL_RUNG(DEFAULT));
		assert_false(f->open->whole);
		assert_false(f->open->plain);
		assert_false(f->open->restore);
		assert_int_equal(f->open->deadline_ms, 7000);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	spec = host_hear(h, CHILD_CREATE).device;
	assert_true(digest_equal(&spec.layout, &chunks));
	assert_true(digest_equal(&spec.blob, &blob));
	assert_true(digest_equal(&spec.image, &image));
	assert_int_equal(spec.rung, CTL_RUNG(CHUNK));
	assert_int_equal(spec.present, CTL_PRESENT(NBD));
	assert_int_equal(spec.unit, 4096);
	host_device(h, &spec);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(ATTACHED));

		assert_int_equal(f->attached->rung, CTL_RUNG(CHUNK));
		assert_int_equal(strncmp(f->attached->path, "nbd+unix:///",
		    12), 0);
	}
	/* the same image without its index is another device */
	attach_as(&u, CTL_PRESENT(NBD), 0, "");
	m = opened(&blob, CTL_RUNG(WHOLE));
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(OPEN));

		assert_int_equal(f->open->deadline_ms, 0);
		assert_true(f->open->fallback_whole);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	assert_string_not_equal(host_hear(h, CHILD_CREATE).device.id, spec.id);
	close(u.fd);
}

static void
test_a_weaker_rung_than_asked_for_is_refused(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened(&blob, CTL_RUNG(COMPLETE));

	attach_as(&u, CTL_PRESENT(NBD), CTL_RUNG(CHUNK), "");
	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
	refused(&u, CTL_CODE(INTERNAL), "nonsense");
	/* nor none at all, nor a layout that is none */
	m = opened(&blob, CTL_RUNG(DEFAULT));
	attach_as(&u, CTL_PRESENT(NBD), 0, "");
	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
	refused(&u, CTL_CODE(INTERNAL), "nonsense");
	m = opened(&blob, CTL_RUNG(WHOLE));
	m.layout.len = 0;
	attach_as(&u, CTL_PRESENT(NBD), 0, "");
	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
	refused(&u, CTL_CODE(INTERNAL), "nonsense");
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

static void
test_a_deadline_ends_with_the_first_progress(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Attach) a = CTL_INIT(ATTACH);
	uint64_t id;

	a.image = (char *)IMAGE;
	a.deadline_ms = 300;
	user_ask(&u, CTL_BODY(ATTACH), &a);
	id = asked(h, SUITE_BODY(OPEN));
	refused(&u, CTL_CODE(TIMEOUT), "300 ms");
	assert_int_equal(asked(h, SUITE_BODY(CANCEL)), id);
	user_ask(&u, CTL_BODY(ATTACH), &a);
	id = asked(h, SUITE_BODY(OPEN));
	progress(h, id, 0);
	hears(&u, CTL_BODY(ACCEPTED));
	hears(&u, CTL_BODY(PROGRESS));
	assert_false(readable_in(u.fd, 600));
	host_failed(h, id, CTL_CODE(NO_SPACE), "full");
	refused(&u, CTL_CODE(NO_SPACE), "full");
	close(u.fd);
}

static void
test_pull_wants_all_at_the_rung_that_there_is(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Prefetch) m = CTL_INIT(PREFETCH);
	Suite__Opened done = opened(&chunks, CTL_RUNG(CHUNK));

	m.image = (char *)IMAGE;
	m.all = m.wait = true;
	user_ask(&u, CTL_BODY(PREFETCH), &m);
	_cleanup_frame_ Suite__Frame *f = host_asked(h, SUITE_BODY(OPEN));
	assert_int_equal(f->open->rung, CTL_RUNG(DEFAULT));
	assert_true(f->open->whole);
	assert_int_equal(f->open->deadline_ms, 0);
	host_say(h, f->id, SUITE_BODY(OPENED), &done);
	hears(&u, CTL_BODY(DONE));
	close(u.fd);
}

/* ---- plain ---- */

static Suite__Opened
opened_plain(const char *data)
{
	Suite__Opened m = opened(&chunks, CTL_RUNG(CHUNK));

	m.complete = m.self_contained = m.network_free = true;
	m.data = (char *)data;
	return m;
}

/* The numbers that status waits for. */
static void
layout_told(struct host *h, struct digest *layout)
{
	Suite__Layout m = SUITE__LAYOUT__INIT;
	_cleanup_frame_ Suite__Frame *f = host_asked(h, SUITE_BODY(INSPECT));

	assert_int_equal(f->inspect->layout.len, DIGEST_LEN);
	assert_memory_equal(f->inspect->layout.data, layout->bytes,
	    DIGEST_LEN);
	m.layout = bytes(layout);
	m.complete = true;
	host_say(h, f->id, SUITE_BODY(LAYOUT), &m);
}

#define COMPLETE SHEDSTREAM__CONTROL__V1__DEVICE__STATE__COMPLETE
#define FAILED	SHEDSTREAM__CONTROL__V1__DEVICE__STATE__FAILED

static void
status_of(struct user *u, const char *name)
{
	CTL(Status) m = CTL_INIT(STATUS);

	m.name = (char *)name;
	user_ask(u, CTL_BODY(STATUS), &m);
}

static void
test_a_plain_device_is_its_file(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened_plain(DATA);
	struct device_spec spec;

	attach_as(&u, CTL_PRESENT(PLAIN), 0, "p");
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(OPEN));

		assert_true(f->open->plain);
		assert_true(f->open->whole);
		assert_int_equal(f->open->deadline_ms, 0);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	spec = host_hear(h, CHILD_CREATE).device;
	assert_int_equal(spec.present, CTL_PRESENT(PLAIN));
	host_device(h, &spec);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(ATTACHED));

		assert_string_equal(f->attached->path, STORE "/" DATA);
		assert_int_equal(f->attached->present, CTL_PRESENT(PLAIN));
	}
	close(u.fd);
}

static void
test_a_plain_device_is_whole_and_in_its_own_file(void **state)
{
	static const char *const bad[] = { "", "/etc/passwd", "../x",
		"layouts/../../x", "a b" };
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m;

	for (size_t i = 0; i < ARRAY_LEN(bad) + 2; i++) {
		m = opened_plain(i < ARRAY_LEN(bad) ? bad[i] : DATA);
		if (i == ARRAY_LEN(bad))
			m.self_contained = false;
		if (i == ARRAY_LEN(bad) + 1)
			m.complete = false;
		attach_as(&u, CTL_PRESENT(PLAIN), 0, "");
		host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED),
		    &m);
		refused(&u, CTL_CODE(DEVICE_UNAVAILABLE), "--present nbd");
	}
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

/* As asked for without a word on how: what comes of it. */
static uint32_t
chosen(struct host *h, struct user *u, Suite__Opened m)
{
	attach_as(u, CTL_PRESENT(AUTO), 0, "");
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(OPEN));

		assert_false(f->open->plain);
		assert_false(f->open->whole);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	struct parent_msg msg = host_hear(h, CHILD_CREATE);
	CTL(Detach) detach = CTL_INIT(DETACH);

	host_device(h, &msg.device);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(u,
		    CTL_BODY(ATTACHED));

		assert_int_equal(f->attached->present, msg.device.present);
		if (msg.device.present == CTL_PRESENT(PLAIN))
			assert_string_equal(f->attached->path, STORE "/" DATA);
	}
	detach.name = msg.device.name;
	user_ask(u, CTL_BODY(DETACH), &detach);
	hears(u, CTL_BODY(DETACHED));
	host_hear(h, CHILD_DESTROY);
	host_tell(h, PARENT_GONE, (struct parent_msg){ .device = msg.device },
	    -1);
	return msg.device.present;
}

static struct user
restarted_with(struct host *h, const char *store, const char *conf)
{
	host_kill(h);
	h->store = store;
	h->conf = conf;
	host_begin(h);
	host_go(h);
	return user_new(h, "shed");
}

static void
test_what_is_whole_is_its_file_where_nobody_chose(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened_plain(DATA);

	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(PLAIN));
	m.self_contained = false;
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(NBD));
	m.self_contained = true;
	m.complete = false;
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(NBD));
	m = opened_plain("../x");
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(NBD));
	m = opened_plain(DATA);
	close(u.fd);
	u = restarted_with(h, "", "");	/* its path is too long */
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(NBD));
	close(u.fd);
	u = restarted_with(h, STORE, "[devices]\npresent = nbd\n");
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(NBD));
	close(u.fd);
	u = restarted_with(h, STORE, "");
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(PLAIN));
	close(u.fd);
	if (geteuid() != 0)
		return;
	/* nor for who can't open it */
	must(chmod(h->dir, 0711) == 0 && chmod(h->sock, 0666) == 0);
	must(seteuid(65534) == 0);
	u = user_new(h, "shed");
	must(seteuid(0) == 0);
	assert_int_equal(chosen(h, &u, m), CTL_PRESENT(NBD));
	close(u.fd);
}

static void
test_a_device_that_is_there_stays_what_it_is(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	struct device_spec spec = attached(h, &u, &chunks, CTL_RUNG(CHUNK),
	    "d");
	Suite__Opened m = opened_plain(DATA);

	assert_int_equal(spec.present, CTL_PRESENT(NBD));
	attach_as(&u, CTL_PRESENT(AUTO), 0, "d");
	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(ATTACHED));

		assert_int_equal(f->attached->present, CTL_PRESENT(NBD));
		assert_string_equal(f->attached->name, "d");
	}
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

/* Nobody has allowed a whole pull: then plain is what is there. */
static void
test_plain_pulls_only_where_that_is_allowed(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Attach) a = CTL_INIT(ATTACH);
	Suite__Opened m = opened_plain(DATA);

	a.image = (char *)IMAGE;
	a.present = CTL_PRESENT(PLAIN);
	for (int i = 0; i < 4; i++) {
		a.fetch = i == 3 ? WHOLE : 0;
		m.complete = i > 0;
		m.self_contained = i > 1;
		user_ask(&u, CTL_BODY(ATTACH), &a);
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(OPEN));

		assert_int_equal(f->open->plain, i == 3);
		assert_int_equal(f->open->whole, i == 3);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
		if (i == 0)
			refused(&u, CTL_CODE(DEVICE_UNAVAILABLE), "pull it");
		else if (i == 1)
			refused(&u, CTL_CODE(DEVICE_UNAVAILABLE),
			    "--fetch whole");
		else if (i == 2) {
			struct parent_msg msg = host_hear(h, CHILD_CREATE);

			host_device(h, &msg.device);
			hears(&u, CTL_BODY(ATTACHED));
		} else
			hears(&u, CTL_BODY(ATTACHED));
	}
	close(u.fd);
}

static void
test_other_kinds_are_refused(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");

	for (uint32_t kind = 0; kind < 8; kind++) {
		if (kind == CTL_PRESENT(AUTO) || kind == CTL_PRESENT(NBD) ||
		    kind == CTL_PRESENT(PLAIN))
			continue;
		attach_as(&u, kind, 0, "");
		refused(&u, CTL_CODE(DEVICE_UNAVAILABLE), "--present nbd");
	}
	attach_as(&u, CTL_PRESENT(NBD), 77, "");
	refused(&u, CTL_CODE(BAD_REQUEST), "integrity is");
	/* nor can a file be named in a store whose path is too long */
	host_kill(h);
	h->store = "";
	host_begin(h);
	host_go(h);
	close(u.fd);
	u = user_new(h, "shed");
	attach_as(&u, CTL_PRESENT(PLAIN), 0, "");
	refused(&u, CTL_CODE(DEVICE_UNAVAILABLE), "path of the store");
	assert_true(host_quiet(h, QUIET_MS));
	close(u.fd);
}

/* ---- files ---- */

/* A new control, which was told whether there can be files. */
static struct user
files_told(struct host *h, struct parent_msg msg)
{
	host_kill(h);
	host_begin(h);
	host_tell(h, PARENT_KIND, msg, -1);
	host_go(h);
	return user_new(h, "shed");
}

/* Whoever asks for nothing gets a file where there can be one. */
static void
test_a_file_is_made_where_it_can_be(void **state)
{
	struct host *h = *state;
	struct parent_msg can = { .count = CTL_PRESENT(FILE) }, cannot = {
		.status = -EPERM, .count = CTL_PRESENT(FILE),
		.text = "no fuse; load it" };
	struct user u = files_told(h, cannot);
	struct device_spec spec;
	char path[256];

	attach_as(&u, CTL_PRESENT(FILE), 0, "");
	refused(&u, CTL_CODE(DEVICE_UNAVAILABLE), "no fuse; load it");
	close(u.fd);
	u = files_told(h, can);
	for (unsigned i = 0; i < 2; i++) {
		attach_as(&u, i ? CTL_PRESENT(AUTO) : CTL_PRESENT(FILE), 0,
		    "f");
		if (i == 0) {
			spec = attach_ends(h, opened(&chunks,
			    CTL_RUNG(CHUNK)));
			assert_int_equal(spec.present, CTL_PRESENT(FILE));
		} else {	/* the same device */
			Suite__Opened m = opened(&chunks, CTL_RUNG(CHUNK));

			host_say(h, asked(h, SUITE_BODY(OPEN)),
			    SUITE_BODY(OPENED), &m);
		}
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(ATTACHED));

		snprintf(path, sizeof(path), "%s/file/%s", h->dir, spec.id);
		assert_string_equal(f->attached->path, path);
		assert_int_equal(f->attached->present, CTL_PRESENT(FILE));
	}
	close(u.fd);
}

static void
test_a_new_control_knows_where_a_plain_device_is(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	struct device_spec spec;

	attach_as(&u, CTL_PRESENT(PLAIN), 0, "p");
	spec = attach_ends(h, opened_plain(DATA));
	hears(&u, CTL_BODY(ATTACHED));
	close(u.fd);
	host_kill(h);
	host_begin(h);
	host_device(h, &spec);		/* the parent kept it */
	host_go(h);
	u = user_new(h, "shed");
	status_of(&u, "p");
	layout_told(h, &chunks);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DEVICES));

		assert_string_equal(f->devices->devices[0]->path,
		    STORE "/" DATA);
		assert_int_equal(f->devices->devices[0]->state, COMPLETE);
		assert_string_equal(f->devices->devices[0]->chain, "");
	}
	assert_true(host_quiet(h, QUIET_MS));	/* nothing was opened again */
	close(u.fd);
}

/* ---- restoring ---- */

/* A new control, whose parent has no devices: the Open that follows. */
static Suite__Frame *
restarted(struct host *h)
{
	host_kill(h);
	host_begin(h);
	host_go(h);
	return host_asked(h, SUITE_BODY(OPEN));
}

static void
test_a_restored_device_keeps_its_rung_and_layout(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened(&chunks, CTL_RUNG(CHUNK));
	struct device_spec before = attached(h, &u, &chunks, CTL_RUNG(CHUNK),
	    "d"), after;
	struct digest_text text = digest_to_text(&image);

	close(u.fd);
	{
		_cleanup_frame_ Suite__Frame *f = restarted(h);

		assert_string_equal(f->open->image, text.text);
		assert_int_equal(f->open->rung, CTL_RUNG(CHUNK));
		assert_true(f->open->restore);
		assert_false(f->open->whole);
		assert_false(f->open->plain);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	after = host_hear(h, CHILD_CREATE).device;
	assert_string_equal(after.id, before.id);
	assert_true(digest_equal(&after.layout, &chunks));
	host_device(h, &after);
	/* of another layout, it is another device: not served as this one */
	{
		_cleanup_frame_ Suite__Frame *f = restarted(h);

		m = opened(&other, CTL_RUNG(CHUNK));
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	u = user_new(h, "shed");
	status_of(&u, "d");
	layout_told(h, &chunks);
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u, CTL_BODY(DEVICES));
	assert_int_equal(f->devices->devices[0]->state, FAILED);
	assert_non_null(strstr(f->devices->devices[0]->last_error,
	    "another chunk index"));
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

static void
test_a_restored_plain_device_is_its_file_of_now(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Opened m = opened_plain("layouts/ab/data.02");
	struct device_spec spec;

	attach_as(&u, CTL_PRESENT(PLAIN), 0, "p");
	attach_ends(h, opened_plain(DATA));
	hears(&u, CTL_BODY(ATTACHED));
	close(u.fd);
	{
		_cleanup_frame_ Suite__Frame *f = restarted(h);

		assert_false(f->open->plain);	/* nothing is fetched */
		assert_false(f->open->whole);
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	spec = host_hear(h, CHILD_CREATE).device;
	assert_int_equal(spec.present, CTL_PRESENT(PLAIN));
	host_device(h, &spec);
	u = user_new(h, "shed");
	status_of(&u, "p");
	layout_told(h, &chunks);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DEVICES));

		assert_string_equal(f->devices->devices[0]->path,
		    STORE "/layouts/ab/data.02");
	}
	close(u.fd);
	{
		_cleanup_frame_ Suite__Frame *f = restarted(h);

		m.self_contained = false;
		host_say(h, f->id, SUITE_BODY(OPENED), &m);
	}
	u = user_new(h, "shed");
	status_of(&u, "p");
	layout_told(h, &chunks);
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u, CTL_BODY(DEVICES));
	assert_int_equal(f->devices->devices[0]->state, FAILED);
	assert_string_equal(f->devices->devices[0]->path, "");
	close(u.fd);
}

/* As versions wrote it that knew no index. */
static void
write_old_state(struct host *h)
{
	struct {
		uint64_t magic, generation, len;
		struct digest sum;
	} head = { .magic = UINT64_C(0x5348454441545431), .generation = 1000 };
	Suite__Attachments m = SUITE__ATTACHMENTS__INIT;
	Suite__Attachments__Item item = SUITE__ATTACHMENTS__ITEM__INIT;
	Suite__Attachments__Item *list = &item;
	char *consumer = (char *)"shed/default";
	uint8_t packed[1024];
	struct digest_stream *s = digest_start();

	item.name = (char *)"old";
	item.image = (char *)IMAGE;
	item.image_digest = bytes(&image);
	item.blob_digest = bytes(&blob);
	item.size = SIZE;
	item.unit = UNIT_SIZE;
	item.rung = CTL_RUNG(WHOLE);
	item.present = CTL_PRESENT(NBD);
	item.consumers = &consumer;
	item.n_consumers = 1;
	m.items = &list;
	m.n_items = 1;
	head.len = suite__attachments__pack(&m, packed);
	digest_update(s, &head.generation, sizeof(head.generation));
	digest_update(s, &head.len, sizeof(head.len));
	digest_update(s, packed, head.len);
	head.sum = digest_final(s);
	must(fd_pwrite_all(h->state[0], packed, head.len, sizeof(head)) == 0);
	must(fd_pwrite_all(h->state[0], &head, sizeof(head), 0) == 0);
}

static void
test_a_device_of_an_older_version_has_no_index(void **state)
{
	struct host *h = *state;
	Suite__Opened m = opened(&blob, CTL_RUNG(WHOLE));
	struct device_spec spec;

	write_old_state(h);
	_cleanup_frame_ Suite__Frame *f = restarted(h);
	assert_int_equal(f->open->rung, CTL_RUNG(WHOLE));
	host_say(h, f->id, SUITE_BODY(OPENED), &m);
	spec = host_hear(h, CHILD_CREATE).device;
	assert_true(digest_equal(&spec.layout, &blob));
	assert_string_equal(spec.name, "old");
}

/* ---- what there is ---- */

static void
test_status_is_of_the_devices_layout(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Layout m = SUITE__LAYOUT__INIT;

	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "one");
	status_of(&u, "one");
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(INSPECT));

		m.layout = bytes(&chunks);
		m.chunks = 100;
		m.chunks_present = 40;
		m.chunks_shared = 7;
		m.damaged = 3;
		m.unproven = m.self_contained = true;
		m.chain = (char *)"manifest, then index, then chunk";
		host_say(h, f->id, SUITE_BODY(LAYOUT), &m);
	}
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u, CTL_BODY(DEVICES));
	const CTL(Device) *d = f->devices->devices[0];
	assert_int_equal(d->chunks_total, 100);
	assert_int_equal(d->chunks_present, 40);
	assert_int_equal(d->chunks_shared, 7);
	assert_int_equal(d->chunks_damaged, 3);
	assert_true(d->unproven);
	assert_true(d->self_contained);
	assert_string_equal(d->chain, "manifest, then index, then chunk");
	/* without an index, it is the rung's */
	attached(h, &u, &blob, CTL_RUNG(COMPLETE), "two");
	status_of(&u, "two");
	layout_told(h, &blob);
	_cleanup_answer_ CTL(Frame) *g = user_hear(&u, CTL_BODY(DEVICES));
	assert_int_equal(strncmp(g->devices->devices[0]->chain,
	    "transport until complete", 24), 0);
	close(u.fd);
}

static void
notice(struct host *h, const char *kind, struct digest *layout)
{
	Suite__Notice m = SUITE__NOTICE__INIT;

	m.kind = (char *)kind;
	if (layout)
		m.layout = bytes(layout);
	if (strcmp(kind, "said-aloud") != 0)
		m.blob_digest = bytes(&blob);
	m.text = (char *)"so it is";
	host_say(h, 0, SUITE_BODY(NOTICE), &m);
}

/* The next event of a kind: its device. */
static void
event_is(struct user *u, const char *kind, const char *device)
{
	for (;;) {
		_cleanup_answer_ CTL(Frame) *f = user_frame(u);

		if (f->body_case != CTL_BODY(EVENT) ||
		    strcmp(f->event->kind, kind) != 0)
			continue;
		assert_string_equal(f->event->device, device);
		return;
	}
}

static void
test_a_notice_is_of_the_devices_with_that_layout(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed"), e = user_new(h, "shed");
	CTL(Subscribe) subscribe = CTL_INIT(SUBSCRIBE);

	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "one");
	attached(h, &u, &blob, CTL_RUNG(COMPLETE), "two");
	user_ask(&e, CTL_BODY(SUBSCRIBE), &subscribe);
	notice(h, "device-failed", &blob);
	event_is(&e, "device-failed", "two");
	notice(h, "stalled", &other);	/* of no device: of the blob alone */
	event_is(&e, "stalled", "");
	notice(h, "recovered", NULL);
	event_is(&e, "recovered", "");
	notice(h, "said-aloud", NULL);	/* of nothing in particular */
	event_is(&e, "said-aloud", "");
	status_of(&u, "one");
	layout_told(h, &chunks);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DEVICES));

		assert_int_equal(f->devices->devices[0]->state, COMPLETE);
	}
	status_of(&u, "two");
	layout_told(h, &blob);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DEVICES));

		assert_int_equal(f->devices->devices[0]->state, FAILED);
	}
	close(u.fd);
	close(e.fd);
}

/* Also when cached is not there any more to be asked. */
static void
test_a_device_that_becomes_complete_is_so(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed"), e = user_new(h, "shed");
	CTL(Subscribe) subscribe = CTL_INIT(SUBSCRIBE);

	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "one");
	attached(h, &u, &blob, CTL_RUNG(COMPLETE), "two");
	user_ask(&e, CTL_BODY(SUBSCRIBE), &subscribe);
	notice(h, "complete", &chunks);
	event_is(&e, "complete", "one");
	host_unlink(h);
	status_of(&u, "one");
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DEVICES));

		assert_int_equal(f->devices->devices[0]->state, COMPLETE);
		assert_true(f->devices->devices[0]->network_free);
	}
	status_of(&u, "two");
	_cleanup_answer_ CTL(Frame) *f = user_hear(&u, CTL_BODY(DEVICES));
	assert_int_not_equal(f->devices->devices[0]->state, COMPLETE);
	close(u.fd);
	close(e.fd);
}

static void
test_a_failure_ends_a_question(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Map) map = CTL_INIT(MAP);

	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "one");
	map.name = (char *)"one";
	user_ask(&u, CTL_BODY(MAP), &map);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(MAP_CELLS));

		assert_memory_equal(f->map_cells->layout.data, chunks.bytes,
		    DIGEST_LEN);
		host_failed(h, f->id, CTL_CODE(INTERNAL), "no such layout");
	}
	refused(&u, CTL_CODE(INTERNAL), "no such layout");
	status_of(&u, "one");
	host_failed(h, asked(h, SUITE_BODY(INSPECT)), CTL_CODE(INTERNAL),
	    "no such layout");
	assert_true(readable_in(u.fd, 1000));	/* not only when it is slow */
	hears(&u, CTL_BODY(DEVICES));
	close(u.fd);
}

#define T(name)	cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_cached_decides_on_the_rung),
		T(test_a_weaker_rung_than_asked_for_is_refused),
		T(test_a_deadline_ends_with_the_first_progress),
		T(test_pull_wants_all_at_the_rung_that_there_is),
		T(test_a_plain_device_is_its_file),
		T(test_a_plain_device_is_whole_and_in_its_own_file),
		T(test_what_is_whole_is_its_file_where_nobody_chose),
		T(test_a_device_that_is_there_stays_what_it_is),
		T(test_plain_pulls_only_where_that_is_allowed),
		T(test_other_kinds_are_refused),
		T(test_a_file_is_made_where_it_can_be),
		T(test_a_new_control_knows_where_a_plain_device_is),
		T(test_a_restored_device_keeps_its_rung_and_layout),
		T(test_a_restored_plain_device_is_its_file_of_now),
		T(test_a_device_of_an_older_version_has_no_index),
		T(test_status_is_of_the_devices_layout),
		T(test_a_notice_is_of_the_devices_with_that_layout),
		T(test_a_device_that_becomes_complete_is_so),
		T(test_a_failure_ends_a_question),
	};

	return cmocka_run_group_tests(tests, make_digests, NULL);
}
