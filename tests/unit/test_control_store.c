// SPDX-License-Identifier: Apache-2.0
/*
 * What clients ask of the control process about the store and registries: what
 * is asked of cached, with which descriptors; what goes to the parent; what
 * becomes of it when cached dies, or is slow.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "test_control_device.h"

/* ---- the store ---- */

static void
test_pin_is_passed_on(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Pin) m = CTL_INIT(PIN);

	m.image = (char *)IMAGE;
	m.pin = true;
	user_ask(&u, CTL_BODY(PIN), &m);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(PIN));

		assert_string_equal(f->pin->image, IMAGE);
		assert_true(f->pin->pin);
		host_done(h, f->id);
	}
	hears(&u, CTL_BODY(DONE));
	m.pin = false;
	user_ask(&u, CTL_BODY(PIN), &m);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(PIN));

		assert_false(f->pin->pin);
		host_failed(h, f->id, CTL_CODE(BLOB_ABSENT), "never heard of");
	}
	refused(&u, CTL_CODE(BLOB_ABSENT), "never heard of");
	m.image = (char *)"";
	user_ask(&u, CTL_BODY(PIN), &m);
	refused(&u, CTL_CODE(BAD_REQUEST), "an image is named");
	assert_true(host_quiet(h, QUIET_MS));
	close(u.fd);
}

static void
test_keep_replaces_the_list_of_this_owner(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "/var/lib/shed");
	struct digest_text a = digest_to_text(&image), b = digest_to_text(
	    &blob);
	char *list[] = { a.text, b.text };
	CTL(Keep) m = CTL_INIT(KEEP);

	m.digests = list;
	m.n_digests = 2;
	user_ask(&u, CTL_BODY(KEEP), &m);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(KEEP));

		assert_string_equal(f->keep->owner, "/var/lib/shed");
		assert_int_equal(f->keep->n_digests, 2);
		assert_int_equal(f->keep->digests[1].len, DIGEST_LEN);
		assert_memory_equal(f->keep->digests[0].data, image.bytes,
		    DIGEST_LEN);
		assert_memory_equal(f->keep->digests[1].data, blob.bytes,
		    DIGEST_LEN);
		host_done(h, f->id);
	}
	hears(&u, CTL_BODY(DONE));
	/* a list that is not whole changes nothing */
	list[1] = (char *)"sha256:12";
	user_ask(&u, CTL_BODY(KEEP), &m);
	refused(&u, CTL_CODE(BAD_REQUEST), "entry 2 ");
	m.n_digests = 0;
	user_ask(&u, CTL_BODY(KEEP), &m);
	refused(&u, CTL_CODE(BAD_REQUEST), "--allow-empty");
	assert_true(host_quiet(h, QUIET_MS));
	m.allow_empty = true;
	user_ask(&u, CTL_BODY(KEEP), &m);
	_cleanup_frame_ Suite__Frame *f = host_asked(h, SUITE_BODY(KEEP));
	assert_int_equal(f->keep->n_digests, 0);
	close(u.fd);
}

static void
gc_row_say(struct host *h, uint64_t id, unsigned n, const char *why,
    uint64_t freed)
{
	Suite__GcRow m = SUITE__GC_ROW__INIT;
	struct digest d = digest_of(&n, sizeof(n));

	m.blob_digest = bytes(&d);
	m.why = (char *)why;
	m.freed = freed;
	host_say(h, id, SUITE_BODY(GC_ROW), &m);
}

static void
test_gc_is_told_row_by_row_and_answered_in_parts(void **state)
{
	static char long_why[400];
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__GcRow last = SUITE__GC_ROW__INIT;
	CTL(Gc) m = CTL_INIT(GC);
	size_t freed = 0, kept = 0, parts = 0;
	bool more = true;
	uint64_t id;

	m.dry_run = true;
	m.max_bytes = 123;
	m.until_s = 456;
	user_ask(&u, CTL_BODY(GC), &m);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(GC));

		assert_true(f->gc->dry_run);
		assert_int_equal(f->gc->max_bytes, 123);
		assert_int_equal(f->gc->until_s, 456);
		id = f->id;
	}
	memset(long_why, 'y', sizeof(long_why) - 1);
	for (unsigned i = 0; i < 2000; i++)
		gc_row_say(h, id, i, i % 4 ? long_why : "", i % 4 ? 0 : 10);
	last.last = true;
	host_say(h, id, SUITE_BODY(GC_ROW), &last);
	for (; more; parts++) {
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(GC_REPLY));
		const CTL(GcReply) *r = f->gc_reply;

		if (parts == 0) {
			struct digest d = digest_of(&(unsigned){ 0 },
			    sizeof(unsigned));

			assert_string_equal(r->freed[0],
			    digest_to_text(&d).text);
		}
		freed += r->n_freed;
		kept += r->n_kept;
		assert_int_equal(r->bytes, 5000);
		assert_int_equal(r->kept[0]->why[0], 'y');
		more = r->more;
	}
	assert_int_equal(freed, 500);
	assert_int_equal(kept, 1500);
	assert_true(parts > 1);
	close(u.fd);
}

static void
test_df_is_told_row_by_row_and_answered_in_parts(void **state)
{
	static char name[2][300];
	char *owners[40];
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__DfRow m = SUITE__DF_ROW__INIT, last = SUITE__DF_ROW__INIT;
	CTL(Df) df = CTL_INIT(DF);
	size_t rows = 0, parts = 0;
	bool more = true;
	uint64_t id;

	user_ask(&u, CTL_BODY(DF), &df);
	id = asked(h, SUITE_BODY(DF));
	memset(name[0], 'o', 255);
	memset(name[1], 'i', 299);
	for (size_t i = 0; i < ARRAY_LEN(owners); i++)
		owners[i] = name[0];
	m.image = name[1];
	m.blob_digest = bytes(&blob);
	m.size = 1;
	m.on_disk = 2;
	m.exclusive = 3;
	m.shared = 4;
	m.pinned = true;
	m.owners = owners;
	m.n_owners = ARRAY_LEN(owners);
	for (int i = 0; i < 100; i++)
		host_say(h, id, SUITE_BODY(DF_ROW), &m);
	last.last = true;
	last.total = 99;
	host_say(h, id, SUITE_BODY(DF_ROW), &last);
	for (; more; parts++) {
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(DF_REPLY));
		const CTL(DfReply) *r = f->df_reply;

		for (size_t i = 0; i < r->n_images; i++) {
			assert_string_equal(r->images[i]->image, name[1]);
			assert_int_equal(r->images[i]->size, 1);
			assert_int_equal(r->images[i]->on_disk, 2);
			assert_int_equal(r->images[i]->exclusive, 3);
			assert_int_equal(r->images[i]->shared, 4);
			assert_true(r->images[i]->pinned);
			assert_in_range(r->images[i]->n_owners, 16, 40);
			assert_string_equal(r->images[i]->owners[15], name[0]);
		}
		rows += r->n_images;
		assert_int_equal(r->total, 99);
		more = r->more;
	}
	assert_int_equal(rows, 100);
	assert_true(parts > 1);
	close(u.fd);
}

static void
test_what_is_attached_is_not_dropped(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	struct digest_text i = digest_to_text(&image), b = digest_to_text(
	    &blob), o = digest_to_text(&other);
	char at[256];
	const char *const names[] = { IMAGE, i.text, b.text, at };
	CTL(Drop) m = CTL_INIT(DROP);

	snprintf(at, sizeof(at), "elsewhere.example/b@%s", i.text);
	attached(h, &u, &chunks, CTL_RUNG(CHUNK), "one");
	for (size_t k = 0; k < ARRAY_LEN(names); k++) {
		m.image = (char *)names[k];
		user_ask(&u, CTL_BODY(DROP), &m);
		refused(&u, CTL_CODE(IN_USE), "device one");
	}
	assert_true(host_quiet(h, QUIET_MS));
	m.image = o.text;
	user_ask(&u, CTL_BODY(DROP), &m);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked(h,
		    SUITE_BODY(DROP));

		assert_string_equal(f->drop->image, o.text);
		host_done(h, f->id);
	}
	hears(&u, CTL_BODY(DONE));
	close(u.fd);
}

static void
test_verify_is_of_one_image_or_of_all(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	Suite__Verified done = SUITE__VERIFIED__INIT;
	CTL(Verify) m = CTL_INIT(VERIFY);

	user_ask(&u, CTL_BODY(VERIFY), &m);
	refused(&u, CTL_CODE(BAD_REQUEST), "an image is named");
	m.image = (char *)IMAGE;
	m.all = true;
	user_ask(&u, CTL_BODY(VERIFY), &m);
	refused(&u, CTL_CODE(BAD_REQUEST), "not both");
	m.image = (char *)"";
	user_ask(&u, CTL_BODY(VERIFY), &m);
	_cleanup_frame_ Suite__Frame *f = host_asked(h, SUITE_BODY(VERIFY));
	assert_string_equal(f->verify->image, "");
	progress(h, f->id, 5);
	hears(&u, CTL_BODY(ACCEPTED));
	hears(&u, CTL_BODY(PROGRESS));
	done.checked = 10;
	done.damaged = 3;
	done.repaired = 2;
	host_say(h, f->id, SUITE_BODY(VERIFIED), &done);
	_cleanup_answer_ CTL(Frame) *r = user_hear(&u, CTL_BODY(VERIFY_REPLY));
	assert_int_equal(r->verify_reply->checked, 10);
	assert_int_equal(r->verify_reply->damaged, 3);
	assert_int_equal(r->verify_reply->repaired, 2);
	close(u.fd);
}

/* ---- descriptors ---- */

static void
promote(struct user *u, int fd)
{
	CTL(Promote) m = CTL_INIT(PROMOTE);

	m.image = (char *)IMAGE;
	user_ask_fd(u, CTL_BODY(PROMOTE), &m, fd);
}

static void
import(struct user *u, int fd)
{
	CTL(Import) m = CTL_INIT(IMPORT);

	m.image = (char *)IMAGE;
	user_ask_fd(u, CTL_BODY(IMPORT), &m, fd);
}

static int
reopened(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	must(fd >= 0);
	return fd;
}

static void
test_descriptors_go_on_to_cached(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	int file = memfd_create("file", MFD_CLOEXEC), fd, in;
	char text[8] = "";

	must(file >= 0 && write(file, "erofs", 5) == 5);
	promote(&u, file);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked_fd(h,
		    SUITE_BODY(PROMOTE), &fd);

		assert_string_equal(f->promote->image, IMAGE);
		assert_true(fd >= 0 && pwrite(fd, "X", 1, 0) == 1);
		fd_close(fd);
		progress(h, f->id, 1);
		hears(&u, CTL_BODY(ACCEPTED));
		hears(&u, CTL_BODY(PROGRESS));
		host_done(h, f->id);
	}
	hears(&u, CTL_BODY(DONE));
	in = reopened(file, O_RDONLY);
	import(&u, in);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked_fd(h,
		    SUITE_BODY(IMPORT), &fd);

		assert_string_equal(f->import->image, IMAGE);
		assert_true(fd >= 0 && pread(fd, text, 5, 0) == 5);
		assert_string_equal(text, "Xrofs");
		fd_close(fd);
		host_done(h, f->id);
	}
	hears(&u, CTL_BODY(DONE));
	fd_close(in);
	fd_close(file);
	close(u.fd);
}

static void
test_descriptors_are_files_opened_for_it(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	int file = memfd_create("file", MFD_CLOEXEC), pipes[2];
	CTL(Pin) pin = CTL_INIT(PIN);
	static const struct {
		const char *path;
		int flags;
		bool promote, import;	/* is that fine? */
	} files[] = {
		{ NULL, O_RDONLY, false, true },
		{ NULL, O_WRONLY, true, false },
		{ NULL, O_RDWR, true, true },
		{ NULL, O_RDWR | O_APPEND, false, true },
		{ NULL, O_PATH, false, false },
		{ "/dev/null", O_RDWR, false, false },
		{ "/tmp", O_RDONLY, false, false },
		{ "/tmp", O_PATH, false, false },
	};

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		int fd = files[i].path ? open(files[i].path, files[i].flags |
		    O_CLOEXEC) : reopened(file, files[i].flags), got;

		must(fd >= 0);
		promote(&u, fd);
		if (files[i].promote) {
			_cleanup_frame_ Suite__Frame *f = host_asked_fd(h,
			    SUITE_BODY(PROMOTE), &got);

			fd_close(got);
			host_done(h, f->id);
			hears(&u, CTL_BODY(DONE));
		} else
			refused(&u, CTL_CODE(BAD_REQUEST), "open for writing");
		import(&u, fd);
		if (files[i].import) {
			_cleanup_frame_ Suite__Frame *f = host_asked_fd(h,
			    SUITE_BODY(IMPORT), &got);

			fd_close(got);
			host_done(h, f->id);
			hears(&u, CTL_BODY(DONE));
		} else
			refused(&u, CTL_CODE(BAD_REQUEST), "open for reading");
		fd_close(fd);
	}
	must(pipe2(pipes, O_CLOEXEC) == 0);
	import(&u, pipes[0]);
	refused(&u, CTL_CODE(BAD_REQUEST), "a regular file");
	/* and there is one where one belongs */
	promote(&u, -1);
	refused(&u, CTL_CODE(BAD_REQUEST), "promote comes with a descriptor");
	pin.image = (char *)IMAGE;
	user_ask_fd(&u, CTL_BODY(PIN), &pin, file);
	refused(&u, CTL_CODE(BAD_REQUEST), "pin comes without a descriptor");
	assert_true(host_quiet(h, QUIET_MS));
	fd_close(pipes[0]);
	fd_close(pipes[1]);
	fd_close(file);
	close(u.fd);
}

/* ---- credentials ---- */

static void
login(struct user *u, const char *host, int fd)
{
	CTL(SetCredentials) m = CTL_INIT(SET_CREDENTIALS);

	m.host = (char *)host;
	user_ask_fd(u, CTL_BODY(SET_CREDENTIALS), &m, fd);
}

/* They reached the parent: the message. */
static struct parent_msg
holds(struct host *h, const char *host, const char *text)
{
	struct parent_msg msg;
	char got[64] = "";
	int fd;

	msg = host_hear_fd(h, CHILD_HOLD, &fd);
	assert_string_equal(msg.text, host);
	assert_true(fd >= 0 && pread(fd, got, sizeof(got) - 1, 0) ==
	    (ssize_t)strlen(text));
	assert_string_equal(got, text);
	fd_close(fd);
	return msg;
}

static void
held(struct host *h, struct parent_msg msg, int status)
{
	msg.status = status;
	host_tell(h, PARENT_HOLDS, msg, -1);
}

static void
test_credentials_go_to_the_parent(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed"), v = user_new(h, "other");
	int fd = shm_sealed("c", "{secret}", 8), none = shm_sealed("c", "", 0);
	struct parent_msg first, second;

	login(&u, "reg.example:5000", fd);
	first = holds(h, "reg.example:5000", "{secret}");
	login(&v, "[::1]:5000", none);
	second = holds(h, "[::1]:5000", "");
	assert_int_not_equal(first.count, second.count);
	/* whatever the order: each gets its own answer */
	held(h, second, 0);
	hears(&v, CTL_BODY(DONE));
	held(h, first, -ENOSPC);
	refused(&u, CTL_CODE(BUSY), "shedctl logout");
	/* that of somebody who is gone, or of nobody, does no harm */
	login(&v, "a", fd);
	first = holds(h, "a", "{secret}");
	close(v.fd);
	login(&u, "b", fd);
	second = holds(h, "b", "{secret}");
	held(h, first, 0);
	held(h, first, 0);
	held(h, second, -EPROTO);
	refused(&u, CTL_CODE(INTERNAL), "can't be held");
	/* cached has no part in it */
	assert_true(host_quiet(h, QUIET_MS));
	fd_close(fd);
	fd_close(none);
	close(u.fd);
}

static void
test_credentials_are_sealed_and_of_a_host(void **state)
{
	static const char *const bad[] = { "", " ", "a b", "a/b", "a\"b", "a\nb",
		"user@host", "https://host", "h\xc3\xb6st" };
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	int good = shm_sealed("c", "{}", 2), pipes[2];
	int writable = shm_object("c", 2);
	int open_ = memfd_create("c", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int resizable = memfd_create("c", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char big[IPC_CREDENTIALS_MAX + 1], host[300];
	int most, more;

	memset(big, 'x', sizeof(big));
	most = shm_sealed("c", big, sizeof(big) - 1);
	more = shm_sealed("c", big, sizeof(big));
	must(pipe2(pipes, O_CLOEXEC) == 0);
	must(fcntl(resizable, F_ADD_SEALS, F_SEAL_WRITE) == 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		login(&u, bad[i], good);
		refused(&u, CTL_CODE(BAD_REQUEST), "HOST[:PORT]");
	}
	memset(host, 'h', sizeof(host) - 1);
	host[sizeof(host) - 1] = '\0';
	login(&u, host, good);
	refused(&u, CTL_CODE(BAD_REQUEST), "HOST[:PORT]");
	login(&u, "h", open_);
	refused(&u, CTL_CODE(BAD_REQUEST), "sealed");
	login(&u, "h", resizable);
	refused(&u, CTL_CODE(BAD_REQUEST), "sealed");
	login(&u, "h", writable);
	refused(&u, CTL_CODE(BAD_REQUEST), "sealed");
	login(&u, "h", pipes[0]);
	refused(&u, CTL_CODE(BAD_REQUEST), "sealed");
	login(&u, "h", more);
	refused(&u, CTL_CODE(BAD_REQUEST), "64 KiB");
	login(&u, "h", -1);
	refused(&u, CTL_CODE(BAD_REQUEST), "comes with a descriptor");
	/* none of it reached the parent */
	host[255] = '\0';
	login(&u, host, most);
	{
		int fd;
		struct parent_msg msg = host_hear_fd(h, CHILD_HOLD, &fd);

		assert_string_equal(msg.text, host);
		fd_close(fd);
		held(h, msg, 0);
	}
	hears(&u, CTL_BODY(DONE));
	fd_close(good);
	fd_close(open_);
	fd_close(resizable);
	fd_close(writable);
	fd_close(most);
	fd_close(more);
	fd_close(pipes[0]);
	fd_close(pipes[1]);
	close(u.fd);
}

static void
test_a_client_has_so_many_credentials_under_way(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	int fd = shm_sealed("c", "{}", 2);
	struct parent_msg msgs[16];

	for (size_t i = 0; i < ARRAY_LEN(msgs); i++) {
		login(&u, "h", fd);
		msgs[i] = holds(h, "h", "{}");
	}
	login(&u, "h", fd);
	refused(&u, CTL_CODE(BUSY), "under way");
	held(h, msgs[0], 0);
	{
		_cleanup_answer_ CTL(Frame) *f = user_frame(&u);

		assert_int_equal(f->body_case, CTL_BODY(DONE));
	}
	login(&u, "h", fd);
	holds(h, "h", "{}");
	fd_close(fd);
	close(u.fd);
}

/* Health names who refuses, whether or not a read waits just now. */
static void
test_health_says_who_wants_credentials(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Health) m = CTL_INIT(HEALTH);

	attached(h, &u, &blob, CTL_RUNG(WHOLE), "one");
	for (int i = 0; i < 2; i++) {
		Suite__Layout l = SUITE__LAYOUT__INIT;

		user_ask(&u, CTL_BODY(HEALTH), &m);
		l.layout = bytes(&blob);
		l.denied_by = (char *)(i == 0 ? "reg.example" : "");
		l.last_error = (char *)"reg.example: run `shedctl login "
		    "reg.example`";
		host_say(h, asked(h, SUITE_BODY(INSPECT)), SUITE_BODY(LAYOUT),
		    &l);
		{
			_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
			    CTL_BODY(HEALTH_REPLY));

			assert_int_equal(f->health_reply->ok, i == 1);
			assert_int_equal(i == 0, strstr(f->health_reply->text,
			    "device one: ") && strstr(f->health_reply->text,
			    "shedctl login reg.example"));
		}
	}
	close(u.fd);
}

/* ---- cached dies, or is slow ---- */

static void
test_a_new_cached_is_asked_what_is_harmless_twice(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Verify) verify = CTL_INIT(VERIFY);
	CTL(Pin) pin = CTL_INIT(PIN);
	CTL(Gc) gc = CTL_INIT(GC);
	int file = memfd_create("file", MFD_CLOEXEC), fd;
	uint64_t open, verifying, pinning;

	pin.image = (char *)IMAGE;
	verify.all = true;
	attach_as(&u, CTL_PRESENT(NBD), 0, "");
	open = asked(h, SUITE_BODY(OPEN));
	user_ask(&u, CTL_BODY(VERIFY), &verify);
	verifying = asked(h, SUITE_BODY(VERIFY));
	user_ask(&u, CTL_BODY(PIN), &pin);
	pinning = asked(h, SUITE_BODY(PIN));
	user_ask(&u, CTL_BODY(GC), &gc);
	asked(h, SUITE_BODY(GC));
	promote(&u, file);
	{
		_cleanup_frame_ Suite__Frame *f = host_asked_fd(h,
		    SUITE_BODY(PROMOTE), &fd);

		fd_close(fd);
	}
	host_link(h);			/* a new one */
	assert_int_equal(asked(h, SUITE_BODY(OPEN)), open);
	assert_int_equal(asked(h, SUITE_BODY(VERIFY)), verifying);
	assert_int_equal(asked(h, SUITE_BODY(PIN)), pinning);
	assert_true(host_quiet(h, QUIET_MS));
	for (int i = 0; i < 2; i++) {	/* gc and promote: they may be again */
		_cleanup_answer_ CTL(Frame) *f = user_frame(&u);

		assert_int_equal(f->body_case, CTL_BODY(ERROR));
		assert_in_range(f->id, u.id - 1, u.id);
		assert_true(f->error->retry);
		assert_int_equal(f->error->code, CTL_CODE(BUSY));
	}
	fd_close(file);
	close(u.fd);
}

/* What came while cached was away is not lost, nor is its descriptor. */
static void
test_what_was_not_asked_yet_is_asked_of_the_next_cached(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Gc) gc = CTL_INIT(GC);
	Suite__GcRow last = SUITE__GC_ROW__INIT;
	int file = memfd_create("file", MFD_CLOEXEC), fd;
	uint64_t id;

	host_unlink(h);
	poll(NULL, 0, QUIET_MS);
	user_ask(&u, CTL_BODY(GC), &gc);
	promote(&u, file);
	poll(NULL, 0, QUIET_MS);
	host_link(h);
	id = asked(h, SUITE_BODY(GC));
	{
		_cleanup_frame_ Suite__Frame *f = host_asked_fd(h,
		    SUITE_BODY(PROMOTE), &fd);

		assert_true(fd >= 0);
		host_done(h, f->id);
	}
	hears(&u, CTL_BODY(DONE));
	u.id--;
	last.last = true;
	host_say(h, id, SUITE_BODY(GC_ROW), &last);
	hears(&u, CTL_BODY(GC_REPLY));
	fd_close(fd);
	fd_close(file);
	close(u.fd);
}

static void
test_every_request_is_answered_in_two_seconds(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Pin) pin = CTL_INIT(PIN);
	CTL(Verify) verify = CTL_INIT(VERIFY);
	uint64_t id;

	pin.image = (char *)IMAGE;
	user_ask(&u, CTL_BODY(PIN), &pin);
	id = asked(h, SUITE_BODY(PIN));
	assert_true(readable_in(u.fd, 2000));
	hears(&u, CTL_BODY(ACCEPTED));
	host_done(h, id);
	hears(&u, CTL_BODY(DONE));
	/* while cached is away: what is short is not worth to wait for */
	host_unlink(h);
	poll(NULL, 0, QUIET_MS);
	user_ask(&u, CTL_BODY(PIN), &pin);
	assert_true(readable_in(u.fd, 2000));
	refused(&u, CTL_CODE(BUSY), "shedctl health");
	verify.all = true;
	user_ask(&u, CTL_BODY(VERIFY), &verify);
	assert_true(readable_in(u.fd, 2000));
	hears(&u, CTL_BODY(ACCEPTED));
	host_link(h);
	asked(h, SUITE_BODY(VERIFY));
	close(u.fd);
}

static void
test_long_work_can_be_watched_and_cancelled(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed"), v;
	Suite__Verified done = SUITE__VERIFIED__INIT;
	CTL(Verify) verify = CTL_INIT(VERIFY);
	CTL(Watch) watch = CTL_INIT(WATCH);
	CTL(Cancel) cancel = CTL_INIT(CANCEL);
	uint64_t id, op;

	verify.all = true;
	user_ask(&u, CTL_BODY(VERIFY), &verify);
	id = asked(h, SUITE_BODY(VERIFY));
	progress(h, id, 1);
	{
		_cleanup_answer_ CTL(Frame) *f = user_hear(&u,
		    CTL_BODY(ACCEPTED));

		op = f->accepted->op;
	}
	close(u.fd);			/* it goes on */
	v = user_new(h, "shed");
	watch.op = op;
	user_ask(&v, CTL_BODY(WATCH), &watch);
	hears(&v, CTL_BODY(ACCEPTED));
	progress(h, id, 2);
	hears(&v, CTL_BODY(PROGRESS));
	assert_true(host_quiet(h, QUIET_MS));
	cancel.op = op;
	user_ask(&v, CTL_BODY(CANCEL), &cancel);
	assert_int_equal(asked(h, SUITE_BODY(CANCEL)), id);
	v.id--;
	refused(&v, CTL_CODE(CANCELLED), "cancelled");
	v.id++;
	hears(&v, CTL_BODY(DONE));
	/* its answer is late, and nobody's */
	host_say(h, id, SUITE_BODY(VERIFIED), &done);
	user_ask(&v, CTL_BODY(WATCH), &watch);
	refused(&v, CTL_CODE(BAD_REQUEST), "no such operation");
	close(v.fd);
}

static void
test_an_answer_to_another_question_is_none(void **state)
{
	struct host *h = *state;
	struct user u = user_new(h, "shed");
	CTL(Df) df = CTL_INIT(DF);

	user_ask(&u, CTL_BODY(DF), &df);
	host_done(h, asked(h, SUITE_BODY(DF)));
	refused(&u, CTL_CODE(INTERNAL), "something else");
	attach_as(&u, CTL_PRESENT(NBD), 0, "");
	host_done(h, asked(h, SUITE_BODY(OPEN)));
	refused(&u, CTL_CODE(INTERNAL), "something else");
	close(u.fd);
}

#define T(name)	cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_pin_is_passed_on),
		T(test_keep_replaces_the_list_of_this_owner),
		T(test_gc_is_told_row_by_row_and_answered_in_parts),
		T(test_df_is_told_row_by_row_and_answered_in_parts),
		T(test_what_is_attached_is_not_dropped),
		T(test_verify_is_of_one_image_or_of_all),
		T(test_descriptors_go_on_to_cached),
		T(test_descriptors_are_files_opened_for_it),
		T(test_credentials_go_to_the_parent),
		T(test_credentials_are_sealed_and_of_a_host),
		T(test_a_client_has_so_many_credentials_under_way),
		T(test_health_says_who_wants_credentials),
		T(test_a_new_cached_is_asked_what_is_harmless_twice),
		T(test_what_was_not_asked_yet_is_asked_of_the_next_cached),
		T(test_every_request_is_answered_in_two_seconds),
		T(test_long_work_can_be_watched_and_cancelled),
		T(test_an_answer_to_another_question_is_none),
	};

	return cmocka_run_group_tests(tests, make_digests, NULL);
}
