// SPDX-License-Identifier: Apache-2.0
/*
 * Reconcile, of a real control process with a played parent and cached: who
 * stays, who goes, what of it lasts.
 */
#define _GNU_SOURCE
#include "test_control_device.h"

#define OWNER	"/var/lib/shed"

struct list {
	CTL(Reconcile) m;
	CTL(Reconcile__Item) item[1100], *items[1100];
	char text[1100][16];
};

static void
list_add(struct list *l, const char *consumer, const char *image_name)
{
	size_t n = l->m.n_items++;

	shedstream__control__v1__reconcile__item__init(&l->item[n]);
	l->item[n].consumer = (char *)consumer;
	l->item[n].image = (char *)image_name;
	l->items[n] = &l->item[n];
}

static struct list *
list_new(void)
{
	struct list *l = calloc(1, sizeof(*l));

	shedstream__control__v1__reconcile__init(&l->m);
	l->m.items = l->items;
	return l;
}

static void
list_free(struct list **l)
{
	free(*l);
}
#define _cleanup_list_ _cleanup_(list_free)

static void
ask(struct user *u, const struct list *l)
{
	user_ask(u, CTL_BODY(RECONCILE), &l->m);
}

static void
names_are(char **names, size_t n, const char *want)
{
	char got[4096] = "";

	for (size_t i = 0; i < n; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s",
		    i ? " " : "", names[i]);
	assert_string_equal(got, want);
}

static void
answered(struct user *u, const char *attached, const char *dropped,
    const char *missing)
{
	_cleanup_answer_ CTL(Frame) *f = user_hear(u,
	    CTL_BODY(RECONCILE_REPLY));
	CTL(ReconcileReply) *m = f->reconcile_reply;

	names_are(m->attached, m->n_attached, attached);
	names_are(m->dropped, m->n_dropped, dropped);
	names_are(m->missing, m->n_missing, missing);
	assert_false(m->more);
}

/* From the request to cached on: the device may be there already. */
static struct device_spec
joins(struct host *h, struct user *u, const char *consumer, Suite__Opened m,
    bool made)
{
	CTL(Attach) a = CTL_INIT(ATTACH);
	struct device_spec spec = { 0 };

	a.image = (char *)IMAGE;
	a.consumer = (char *)consumer;
	user_ask(u, CTL_BODY(ATTACH), &a);
	if (made)
		spec = attach_ends(h, m);
	else
		host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED),
		    &m);
	hears(u, CTL_BODY(ATTACHED));
	return spec;
}

/* The consumers of device `name`, in order; NULL: there is no such device. */
static void
consumers_are(struct host *h, struct user *u, const char *name,
    const char *want)
{
	Suite__Layout m = SUITE__LAYOUT__INIT;
	CTL(Status) s = CTL_INIT(STATUS);

	s.name = (char *)name;
	user_ask(u, CTL_BODY(STATUS), &s);
	if (!want) {
		refused(u, CTL_CODE(BAD_REQUEST), "no device is called");
		return;
	}
	m.layout = bytes(&chunks);
	host_say(h, asked(h, SUITE_BODY(INSPECT)), SUITE_BODY(LAYOUT), &m);
	_cleanup_answer_ CTL(Frame) *f = user_hear(u, CTL_BODY(DEVICES));
	names_are(f->devices->devices[0]->consumers,
	    f->devices->devices[0]->n_consumers, want);
}

/* ---- */

static void
test_who_is_not_on_the_list_goes(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, OWNER), v = user_new(h, "/var/lib");
	_cleanup_list_ struct list *l = list_new();
	Suite__Opened one = opened(&chunks, CTL_RUNG(CHUNK)),
	    two = opened(&blob, CTL_RUNG(WHOLE));
	struct device_spec first = joins(h, &u, "vm1", one, true), second;
	struct digest_text text = digest_to_text(&image);

	joins(h, &u, "vm2", one, false);
	joins(h, &v, "vm2", one, false);	/* another owner's */
	second = joins(h, &u, "vm2", two, true);
	list_add(l, "vm9", IMAGE);
	list_add(l, "vm1", text.text);
	ask(&u, l);
	answered(&u, "vm1", "vm2 vm2", "vm9");
	/* the device of which nobody is left goes, and no other */
	assert_string_equal(host_hear(h, CHILD_DESTROY).device.id, second.id);
	assert_false(readable_in(h->parent, QUIET_MS));
	consumers_are(h, &u, first.name, OWNER "/vm1 /var/lib/vm2");
	/* the same once more changes nothing */
	ask(&u, l);
	answered(&u, "vm1", "", "vm9");
	/* an owner whose name begins another one's has none of its consumers */
	l->m.n_items = 0;
	l->m.allow_empty = true;
	ask(&v, l);
	answered(&v, "", "vm2", "");
	consumers_are(h, &u, first.name, OWNER "/vm1");
	assert_false(readable_in(h->parent, QUIET_MS));
	ask(&u, l);
	answered(&u, "", "vm1", "");
	assert_string_equal(host_hear(h, CHILD_DESTROY).device.id, first.id);
	close(u.fd);
	close(v.fd);
}

static void
test_a_device_goes_with_its_last_opener(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, OWNER);
	_cleanup_list_ struct list *l = list_new();
	struct device_spec spec = joins(h, &u, "vm1", opened(&chunks,
	    CTL_RUNG(CHUNK)), true);
	struct parent_msg closed = { .device = spec };
	struct stats *stats = mmap(NULL, STATS_SIZE, PROT_READ | PROT_WRITE,
	    MAP_SHARED, h->stats, 0);

	must(stats != MAP_FAILED);
	atomic_store(&stats->openers, 1);
	l->m.allow_empty = true;
	ask(&u, l);
	answered(&u, "", "vm1", "");
	consumers_are(h, &u, spec.name, "");
	assert_false(readable_in(h->parent, QUIET_MS));
	atomic_store(&stats->openers, 0);
	host_tell(h, PARENT_OPENERS, closed, -1);
	assert_string_equal(host_hear(h, CHILD_DESTROY).device.id, spec.id);
	host_tell(h, PARENT_GONE, closed, -1);
	consumers_are(h, &u, spec.name, NULL);
	munmap(stats, STATS_SIZE);
	close(u.fd);
}

static void
test_a_list_that_is_none_changes_nothing(void **state)
{
	static const char *const bad[][2] = { { "", IMAGE }, { "a/b", IMAGE },
		{ "a b", IMAGE }, { "vm1", "" }, { "vm1", "a b" } };
	struct host *h = *state;
	struct user u = user_new(h, OWNER);
	_cleanup_list_ struct list *l = list_new();
	struct device_spec spec = joins(h, &u, "vm1", opened(&chunks,
	    CTL_RUNG(CHUNK)), true);
	char longer[130];

	ask(&u, l);
	refused(&u, CTL_CODE(BAD_REQUEST), "allow_empty");
	list_add(l, "vm2", IMAGE);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		l->m.n_items = 1;
		list_add(l, bad[i][0], bad[i][1]);
		ask(&u, l);
		refused(&u, CTL_CODE(BAD_REQUEST), "item 2 ");
	}
	memset(longer, 'a', 129);
	longer[129] = '\0';
	l->m.n_items = 1;
	list_add(l, longer, IMAGE);
	ask(&u, l);
	refused(&u, CTL_CODE(BAD_REQUEST), "item 2 ");
	for (l->m.n_items = 0; l->m.n_items < 1025;)
		list_add(l, "vm1", IMAGE);
	ask(&u, l);
	refused(&u, CTL_CODE(BAD_REQUEST), "1025 items");
	consumers_are(h, &u, spec.name, OWNER "/vm1");
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

static void
test_all_of_it_lasts_or_nothing_is_done(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, OWNER);
	_cleanup_list_ struct list *l = list_new();
	struct device_spec spec = joins(h, &u, "vm1", opened(&chunks,
	    CTL_RUNG(CHUNK)), true);

	joins(h, &u, "vm2", opened(&chunks, CTL_RUNG(CHUNK)), false);
	list_add(l, "vm2", IMAGE);
	ask(&u, l);
	answered(&u, "vm2", "vm1", "");
	host_kill(h);	/* at once */
	close(u.fd);
	host_begin(h);
	host_device(h, &spec);
	host_go(h);
	u = user_new(h, OWNER);
	consumers_are(h, &u, spec.name, OWNER "/vm2");
	for (int i = 0; i < 2; i++)
		must(fcntl(h->state[i], F_ADD_SEALS, F_SEAL_WRITE) == 0);
	l->m.items[0]->consumer = (char *)"vm3";
	ask(&u, l);
	refused(&u, CTL_CODE(INTERNAL), "all consumers stay");
	consumers_are(h, &u, spec.name, OWNER "/vm2");
	assert_false(readable_in(h->parent, QUIET_MS));
	close(u.fd);
}

/* A consumer with another image than it is said to have keeps that; one whose
 * device can't be brought back is missing. */
static void
test_in_doubt_a_consumer_stays(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, OWNER);
	_cleanup_list_ struct list *l = list_new();
	struct device_spec spec = joins(h, &u, "vm1", opened(&chunks,
	    CTL_RUNG(CHUNK)), true);

	list_add(l, "vm1", "reg.example/a:2");
	ask(&u, l);
	answered(&u, "", "", "vm1");
	consumers_are(h, &u, spec.name, OWNER "/vm1");
	l->m.items[0]->image = (char *)IMAGE;
	host_kill(h);
	close(u.fd);
	host_begin(h);
	host_go(h);
	host_failed(h, asked(h, SUITE_BODY(OPEN)), CTL_CODE(BLOB_ABSENT),
	    "it is lost");
	u = user_new(h, OWNER);
	consumers_are(h, &u, spec.name, OWNER "/vm1");
	ask(&u, l);
	answered(&u, "", "", "vm1");
	/* it attaches again */
	joins(h, &u, "vm1", opened(&chunks, CTL_RUNG(CHUNK)), true);
	ask(&u, l);
	answered(&u, "vm1", "", "");
	close(u.fd);
}

/* An attach that is under way is not dropped. */
static void
test_an_attach_under_way_goes_on(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, OWNER), v = user_new(h, OWNER);
	_cleanup_list_ struct list *l = list_new();
	struct parent_msg msg;
	Suite__Opened m = opened(&chunks, CTL_RUNG(CHUNK));

	attach_as(&u, CTL_PRESENT(AUTO), 0, "n");
	host_say(h, asked(h, SUITE_BODY(OPEN)), SUITE_BODY(OPENED), &m);
	msg = host_hear(h, CHILD_CREATE);
	l->m.allow_empty = true;
	ask(&v, l);
	answered(&v, "", "", "");
	host_device(h, &msg.device);
	hears(&u, CTL_BODY(ATTACHED));
	consumers_are(h, &v, "n", OWNER "/default");
	close(u.fd);
	close(v.fd);
}

/* As many as a frame holds, kept and dropped; the answer in parts. */
static void
test_long_lists(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, OWNER);
	_cleanup_list_ struct list *l = list_new();
	Suite__Opened m[2] = { opened(&chunks, CTL_RUNG(CHUNK)),
		opened(&blob, CTL_RUNG(WHOLE)) };
	size_t dropped = 0, frames = 0;
	bool more = true;

	for (int i = 0; i < 1020; i++) {
		snprintf(l->text[i], sizeof(l->text[i]), "vm%d", i);
		joins(h, &u, l->text[i], m[0], i == 0);
		joins(h, &u, l->text[i], m[1], i == 0);
		list_add(l, l->text[i], IMAGE);
	}
	ask(&u, l);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(RECONCILE_REPLY));

		assert_int_equal(f->reconcile_reply->n_attached, 1020);
		assert_int_equal(f->reconcile_reply->n_missing, 0);
		assert_int_equal(f->reconcile_reply->n_dropped, 0);
	}
	l->m.n_items = 0;
	list_add(l, "new", IMAGE);
	for (ask(&u, l); more; frames++) {
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(RECONCILE_REPLY));

		assert_int_equal(f->reconcile_reply->n_missing, frames == 0);
		dropped += f->reconcile_reply->n_dropped;
		more = f->reconcile_reply->more;
	}
	assert_int_equal(frames, 2);
	assert_int_equal(dropped, 2040);
	close(u.fd);
}

#define T(name)	cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_who_is_not_on_the_list_goes),
		T(test_a_device_goes_with_its_last_opener),
		T(test_a_list_that_is_none_changes_nothing),
		T(test_all_of_it_lasts_or_nothing_is_done),
		T(test_in_doubt_a_consumer_stays),
		T(test_an_attach_under_way_goes_on),
		T(test_long_lists),
	};

	return cmocka_run_group_tests(tests, make_digests, NULL);
}
