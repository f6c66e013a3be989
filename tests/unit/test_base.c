// SPDX-License-Identifier: Apache-2.0
/*
 * What everything stands on: digests, descriptors, log lines, shared memory.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/own.h"
#include "base/peer.h"
#include "base/self.h"
#include "base/shm.h"

#define PAGE	4096

/* ---- digests ---- */

/* FIPS 180-2, and the empty string. */
static const struct {
	const char *text, *hex;
} vectors[] = {
	{ "", "sha256:"
	    "e3b0c44298fc1c149afbf4c8996fb924"
	    "27ae41e4649b934ca495991b7852b855" },
	{ "abc", "sha256:"
	    "ba7816bf8f01cfea414140de5dae2223"
	    "b00361a396177a9cb410ff61f20015ad" },
	{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "sha256:"
	    "248d6a61d20638b8e5c026930c3e6039"
	    "a33ce45964ff2167f6ecedd419db06c1" },
};

static void
test_digest_is_sha256(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
		struct digest d = digest_of(vectors[i].text,
		    strlen(vectors[i].text));

		assert_string_equal(digest_to_text(&d).text, vectors[i].hex);
		assert_string_equal(digest_to_hex(&d).text,
		    vectors[i].hex + 7);
	}
}

static void
test_digest_in_pieces_is_the_same(void **state)
{
	const char *text = vectors[2].text;
	size_t len = strlen(text);
	struct digest whole = digest_of(text, len);

	(void)state;
	for (size_t cut = 0; cut <= len; cut++) {
		struct digest_stream *s = digest_start();
		struct digest d;

		digest_update(s, text, cut);
		digest_update(s, text + cut, len - cut);
		d = digest_final(s);
		assert_true(digest_equal(&d, &whole));
	}
}

static void
test_digest_equal_looks_at_every_byte(void **state)
{
	struct digest a = digest_of("a", 1), b;

	(void)state;
	for (int i = 0; i < DIGEST_LEN; i++) {
		b = a;
		assert_true(digest_equal(&a, &b));
		b.bytes[i] ^= 1;
		assert_false(digest_equal(&a, &b));
	}
}

static void
test_digest_parse_takes_what_it_writes(void **state)
{
	struct digest d, want;

	(void)state;
	for (int i = 0; i < DIGEST_LEN; i++)
		want.bytes[i] = (uint8_t)(i * 8 + 7);
	assert_int_equal(digest_parse(digest_to_text(&want).text, &d), 0);
	assert_true(digest_equal(&d, &want));
}

/* Each place of the text, each with characters that are next to good ones. */
static void
test_digest_parse_refuses_any_other_character(void **state)
{
	static const char wrong[] = "/:@`gAFG \n\x80-";
	struct digest d;

	(void)state;
	for (size_t at = 0; at < DIGEST_TEXT; at++) {
		for (const char *w = wrong; *w; w++) {
			char text[DIGEST_TEXT + 1];

			memcpy(text, vectors[1].hex, sizeof(text));
			if (text[at] == *w)
				continue;	/* the colon */
			text[at] = *w;
			assert_int_equal(digest_parse(text, &d), -EINVAL);
		}
	}
}

static void
test_digest_parse_refuses_other_lengths_and_names(void **state)
{
	char text[DIGEST_TEXT + 2] = { 0 };
	struct digest d;

	(void)state;
	memcpy(text, vectors[1].hex, DIGEST_TEXT);
	for (size_t len = 0; len < DIGEST_TEXT; len++) {
		_cleanup_free_ char *cut = strndup(text, len);

		assert_int_equal(digest_parse(cut, &d), -EINVAL);
	}
	text[DIGEST_TEXT] = '0';
	assert_int_equal(digest_parse(text, &d), -EINVAL);
	assert_int_equal(digest_parse(text + 7, &d), -EINVAL);
	text[DIGEST_TEXT] = '\0';
	memcpy(text, "sha512:", 7);
	assert_int_equal(digest_parse(text, &d), -EINVAL);
}

static void
test_digest_from_bytes_wants_32(void **state)
{
	uint8_t bytes[DIGEST_LEN + 1] = { 1, 2, 3 };
	struct digest d;

	(void)state;
	for (size_t len = 0; len <= sizeof(bytes); len++)
		assert_int_equal(digest_from_bytes(bytes, len, &d),
		    len == DIGEST_LEN ? 0 : -EINVAL);
	assert_memory_equal(d.bytes, bytes, DIGEST_LEN);
}

/* ---- descriptors ---- */

static int
file_with(const void *content, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fd_pwrite_all(fd, content, len, 0), 0);
	return fd;
}

static void
test_pread_all_is_short_only_at_the_end(void **state)
{
	_cleanup_close_ int fd = file_with("0123456789", 10);
	char buf[16] = "";

	(void)state;
	assert_int_equal(fd_pread_all(fd, buf, 10, 0), 10);
	assert_memory_equal(buf, "0123456789", 10);
	assert_int_equal(fd_pread_all(fd, buf, 16, 7), 3);
	assert_memory_equal(buf, "789", 3);
	assert_int_equal(fd_pread_all(fd, buf, 1, 10), 0);
	assert_int_equal(fd_pread_all(fd, buf, 1, 1000), 0);
	assert_int_equal(fd_pread_all(-1, buf, 1, 0), -EBADF);
}

static void
test_pwrite_all_writes_at_the_offset(void **state)
{
	_cleanup_close_ int fd = file_with("0123456789", 10);
	_cleanup_close_ int ro = open("/dev/null", O_RDONLY | O_CLOEXEC);
	char buf[16];

	(void)state;
	assert_int_equal(fd_pwrite_all(fd, "abcd", 4, 8), 0);
	assert_int_equal(fd_pread_all(fd, buf, 16, 0), 12);
	assert_memory_equal(buf, "01234567abcd", 12);
	assert_int_equal(fd_pwrite_all(ro, "x", 1, 0), -EBADF);
}

static void
test_read_text_ends_with_a_nul(void **state)
{
	_cleanup_close_ int fd = file_with("two\0parts", 9);
	_cleanup_free_ char *text = NULL;
	size_t len;

	(void)state;
	assert_int_equal(fd_read_text(fd, 9, &text, &len), 0);
	assert_int_equal(len, 9);
	assert_memory_equal(text, "two\0parts\0", 10);
}

static void
test_read_text_of_an_empty_file_is_empty(void **state)
{
	_cleanup_close_ int fd = file_with("", 0);
	_cleanup_free_ char *text = NULL;
	size_t len = 99;

	(void)state;
	assert_int_equal(fd_read_text(fd, 9, &text, &len), 0);
	assert_int_equal(len, 0);
	assert_string_equal(text, "");
}

static void
test_read_text_refuses_more_than_its_limit(void **state)
{
	_cleanup_close_ int fd = file_with("0123456789", 10);
	char *text = (char *)"untouched";
	size_t len = 99;

	(void)state;
	assert_int_equal(fd_read_text(fd, 9, &text, &len), -EFBIG);
	assert_string_equal(text, "untouched");
	assert_int_equal(len, 99);
	assert_int_equal(fd_read_text(-1, 9, &text, &len), -EBADF);
}

static void
test_pair_is_connected_nonblocking_and_closes_on_exec(void **state)
{
	int pair[2];
	char c;

	(void)state;
	assert_int_equal(fd_pair(pair), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fcntl(pair[i], F_GETFD), FD_CLOEXEC);
		assert_true(fcntl(pair[i], F_GETFL) & O_NONBLOCK);
		assert_int_equal(read(pair[i], &c, 1), -1);
		assert_int_equal(errno, EAGAIN);
	}
	assert_int_equal(write(pair[0], "x", 1), 1);
	assert_int_equal(read(pair[1], &c, 1), 1);
	assert_int_equal(c, 'x');
	fd_close(pair[0]);
	fd_close(pair[1]);
}

static void
test_cloexec_is_set_and_cleared(void **state)
{
	_cleanup_close_ int fd = file_with("", 0);
	_cleanup_close_ int copy = -1;

	(void)state;
	assert_int_equal(fd_cloexec(fd, 0), 0);
	assert_int_equal(fcntl(fd, F_GETFD), 0);
	copy = fd_duplicate(fd);
	assert_true(copy >= 0 && copy != fd);
	assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fd_cloexec(fd, 1), 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fd_cloexec(-1, 1), -EBADF);
	assert_int_equal(fd_nonblock(-1), -EBADF);
	assert_int_equal(fd_duplicate(-1), -EBADF);
}

static void
test_close_keeps_errno_and_takes_no_descriptor(void **state)
{
	int fd = file_with("", 0);

	(void)state;
	fd_close(fd);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	errno = ENOSPC;
	fd_close(fd);		/* which close(2) itself calls EBADF */
	fd_close(-1);
	assert_int_equal(errno, ENOSPC);
}

/* ---- ownership ---- */

static void
test_a_scope_closes_what_was_not_taken(void **state)
{
	int closed, taken;

	(void)state;
	{
		_cleanup_close_ int a = file_with("", 0);
		_cleanup_close_ int b = file_with("", 0);

		closed = a;
		taken = take_fd(&b);
		assert_int_equal(b, -1);
	}
	assert_int_equal(fcntl(closed, F_GETFD), -1);
	assert_true(fcntl(taken, F_GETFD) >= 0);
	fd_close(taken);
}

static void
test_take_ptr_leaves_null(void **state)
{
	char *p = (char *)"text", *q = take_ptr(p);

	(void)state;
	assert_null(p);
	assert_string_equal(q, "text");
}

/* ---- who and where ---- */

static void
test_peer_is_the_user_of_this_process(void **state)
{
	uid_t uid = (uid_t)-1;
	int pair[2];

	(void)state;
	assert_int_equal(fd_pair(pair), 0);
	assert_int_equal(peer_user(pair[0], &uid), 0);
	assert_int_equal(uid, geteuid());
	fd_close(pair[0]);
	fd_close(pair[1]);
	assert_int_equal(peer_user(-1, &uid), -EBADF);
}

static void
test_self_is_the_directory_of_this_program(void **state)
{
	char dir[4096], path[4200], small[4];

	(void)state;
	assert_int_equal(self_directory(dir, sizeof(dir)), 0);
	assert_int_equal(dir[0], '/');
	snprintf(path, sizeof(path), "%s/test_base", dir);
	assert_int_equal(access(path, X_OK), 0);
	assert_int_equal(self_directory(small, sizeof(small)), -ENAMETOOLONG);
}

/* ---- log lines: through a pipe in place of stderr ---- */

static ssize_t
logged(char *line, size_t size, enum log_level level, const char *text)
{
	int saved = dup(STDERR_FILENO), ends[2];
	ssize_t n;

	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
	log_line(level, "%s", text);
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	n = read(ends[0], line, size - 1);
	line[n > 0 ? n : 0] = '\0';
	fd_close(ends[0]);
	fd_close(ends[1]);
	fd_close(saved);
	return n;
}

static void
log_mode(const char *journal, const char *debug)
{
	if (journal)
		setenv("JOURNAL_STREAM", journal, 1);
	else
		unsetenv("JOURNAL_STREAM");
	if (debug)
		setenv("SHEDSTREAM_DEBUG", debug, 1);
	else
		unsetenv("SHEDSTREAM_DEBUG");
	log_init("tester");
}

static void
test_a_log_line_has_level_process_and_text(void **state)
{
	char line[2048], want[64];

	(void)state;
	log_mode(NULL, NULL);
	logged(line, sizeof(line), LOG_LEVEL_WARN, "the text");
	snprintf(want, sizeof(want), "Z warning tester[%d]: the text\n",
	    (int)getpid());
	assert_non_null(strstr(line, want));
	logged(line, sizeof(line), LOG_LEVEL_ERR, "x");
	assert_non_null(strstr(line, " error tester["));
	logged(line, sizeof(line), LOG_LEVEL_INFO, "x");
	assert_non_null(strstr(line, " info tester["));
}

static void
test_a_journal_gets_the_level_as_a_number(void **state)
{
	char line[2048], want[64];

	(void)state;
	log_mode("8:1", NULL);
	logged(line, sizeof(line), LOG_LEVEL_ERR, "the text");
	snprintf(want, sizeof(want), "<3>tester[%d]: the text\n",
	    (int)getpid());
	assert_string_equal(line, want);
	log_mode(NULL, NULL);
}

static void
test_debug_lines_come_only_when_asked_for(void **state)
{
	char line[2048];

	(void)state;
	log_mode(NULL, NULL);
	assert_int_equal(logged(line, sizeof(line), LOG_LEVEL_DEBUG, "x"), -1);
	log_mode(NULL, "1");
	logged(line, sizeof(line), LOG_LEVEL_DEBUG, "x");
	assert_non_null(strstr(line, " debug tester["));
	log_mode(NULL, NULL);
}

static void
test_a_log_line_holds_no_control_character(void **state)
{
	char text[0x21 + 2], line[2048];
	size_t n = 0;
	const char *got;

	(void)state;
	log_mode(NULL, NULL);
	for (char c = 1; c < 0x20; c++)
		text[n++] = c;
	text[n++] = 0x7f;
	text[n] = '\0';
	logged(line, sizeof(line), LOG_LEVEL_INFO, text);
	got = strstr(line, "]: ");
	assert_non_null(got);
	got += 3;
	assert_int_equal(strspn(got, "?"), n);
	assert_string_equal(got + n, "\n");
}

static void
test_a_log_line_cannot_be_forged(void **state)
{
	char line[2048];

	(void)state;
	log_mode(NULL, NULL);
	logged(line, sizeof(line), LOG_LEVEL_INFO,
	    "x\n2026-01-01T00:00:00.000Z error devd[1]: ready\x1b[2J");
	assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
	assert_null(strchr(line, '\x1b'));
}

static void
test_a_long_log_line_is_cut_and_ends(void **state)
{
	char text[5000], line[6000];
	ssize_t n;

	(void)state;
	log_mode(NULL, NULL);
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	n = logged(line, sizeof(line), LOG_LEVEL_INFO, text);
	assert_true(n > 900 && n <= 1024);
	assert_int_equal(line[n - 1], '\n');
	assert_int_equal(line[n - 2], 'x');
}

/* ---- shared memory ---- */

static void
test_an_object_is_zero_and_can_be_shared(void **state)
{
	_cleanup_close_ int fd = shm_object("test", PAGE);
	uint8_t *a, *b;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(shm_map(fd, PAGE, 1, (void **)&a), 0);
	assert_int_equal(shm_map(fd, PAGE, 0, (void **)&b), 0);
	for (int i = 0; i < PAGE; i++)
		assert_int_equal(b[i], 0);
	a[17] = 42;
	assert_int_equal(b[17], 42);
	munmap(a, PAGE);
	munmap(b, PAGE);
}

static void
test_an_object_cannot_be_resized(void **state)
{
	_cleanup_close_ int fd = shm_object("test", PAGE);

	(void)state;
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 2 * PAGE), -1);
	assert_int_equal(errno, EPERM);
	/* nor can anybody add a seal against writing */
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
}

static void
test_map_refuses_another_size(void **state)
{
	_cleanup_close_ int fd = shm_object("test", PAGE);
	void *p = NULL;

	(void)state;
	assert_int_equal(shm_map(fd, PAGE - 1, 0, &p), -EPROTO);
	assert_int_equal(shm_map(fd, 2 * PAGE, 0, &p), -EPROTO);
	assert_null(p);
}

static void
test_map_refuses_what_could_be_resized(void **state)
{
	static const unsigned seals[] = { 0, F_SEAL_SHRINK, F_SEAL_GROW };
	_cleanup_close_ int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	void *p = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(seals); i++) {
		_cleanup_close_ int fd = memfd_create("test",
		    MFD_CLOEXEC | MFD_ALLOW_SEALING);

		assert_int_equal(ftruncate(fd, PAGE), 0);
		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
		assert_int_equal(shm_map(fd, PAGE, 0, &p), -EPROTO);
	}
	assert_true(shm_map(file, PAGE, 0, &p) < 0);
	assert_int_equal(shm_map(-1, PAGE, 0, &p), -EBADF);
	assert_null(p);
}

static void
test_a_read_only_reopening_cannot_be_mapped_writable(void **state)
{
	_cleanup_close_ int fd = shm_object("test", PAGE);
	_cleanup_close_ int ro = shm_readonly(fd);
	uint8_t *a, *b;
	void *p = NULL;

	(void)state;
	assert_true(ro >= 0 && ro != fd);
	assert_int_equal(shm_map(ro, PAGE, 1, &p), -EACCES);
	assert_int_equal(pwrite(ro, "x", 1, 0), -1);
	assert_int_equal(shm_map(fd, PAGE, 1, (void **)&a), 0);
	assert_int_equal(shm_map(ro, PAGE, 0, (void **)&b), 0);
	assert_int_equal(mprotect(b, PAGE, PROT_READ | PROT_WRITE), -1);
	a[5] = 9;
	assert_int_equal(b[5], 9);
	munmap(a, PAGE);
	munmap(b, PAGE);
	assert_int_equal(shm_readonly(-1), -ENOENT);
}

static void
test_sealed_content_cannot_be_changed(void **state)
{
	_cleanup_close_ int fd = shm_sealed("test", "content", 7);
	_cleanup_free_ char *text = NULL;
	void *p = NULL;
	size_t len;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "C", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_true(shm_map(fd, 7, 1, &p) < 0);
	assert_int_equal(fd_read_text(fd, 64, &text, &len), 0);
	assert_string_equal(text, "content");
}

static int
reopened(int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* What a client says is sealed is looked at before anything else is done. */
static void
test_only_what_nobody_can_change_is_sealed(void **state)
{
	_cleanup_close_ int good = shm_sealed("test", "content", 7);
	_cleanup_close_ int empty = shm_sealed("test", "", 0);
	_cleanup_close_ int map = shm_object("test", PAGE);
	_cleanup_close_ int file = memfd_create("test", MFD_CLOEXEC |
	    MFD_ALLOW_SEALING);
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_close_ int ro = reopened(good, O_RDONLY);
	_cleanup_close_ int wo = reopened(good, O_WRONLY);
	_cleanup_close_ int path = reopened(good, O_PATH);
	_cleanup_close_ int dir = open("/tmp", O_RDONLY | O_CLOEXEC);
	size_t size = 1;

	(void)state;
	assert_int_equal(shm_is_sealed(good, 7, &size), 0);
	assert_int_equal(size, 7);
	assert_int_equal(shm_is_sealed(good, 6, &size), -EFBIG);
	assert_int_equal(shm_is_sealed(ro, 7, &size), 0);
	assert_int_equal(shm_is_sealed(empty, 7, &size), 0);
	assert_int_equal(size, 0);
	assert_int_equal(shm_is_sealed(wo, 7, &size), -EPROTO);
	assert_int_equal(shm_is_sealed(path, 7, &size), -EPROTO);
	assert_int_equal(shm_is_sealed(map, PAGE, &size), -EPROTO);
	assert_int_equal(shm_is_sealed(null, PAGE, &size), -EPROTO);
	assert_int_equal(shm_is_sealed(dir, PAGE, &size), -EPROTO);
	assert_int_equal(shm_is_sealed(-1, PAGE, &size), -EPROTO);
	for (int seals = 0; seals < 0x20; seals++) {
		int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

		assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
		assert_int_equal(shm_is_sealed(fd, PAGE, &size),
		    (seals & all) == all ? 0 : -EPROTO);
		close(fd);
	}
}

static void
test_only_the_maker_writes_a_private_writers_object(void **state)
{
	_cleanup_close_ int fd = -1, again = -1;
	uint8_t *mine = NULL, *theirs;
	char path[64];
	void *p = NULL;

	(void)state;
	fd = shm_private_writer("test", PAGE, (void **)&mine);
	assert_true(fd >= 0 && mine);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_true(shm_map(fd, PAGE, 1, &p) < 0);
	/* not even through a descriptor opened anew for writing */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again >= 0) {
		assert_int_equal(pwrite(again, "x", 1, 0), -1);
		assert_true(shm_map(again, PAGE, 1, &p) < 0);
	}
	assert_int_equal(shm_map(fd, PAGE, 0, (void **)&theirs), 0);
	assert_int_equal(mprotect(theirs, PAGE, PROT_READ | PROT_WRITE), -1);
	mine[3] = 77;
	assert_int_equal(theirs[3], 77);
	munmap(mine, PAGE);
	munmap(theirs, PAGE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_digest_is_sha256),
		cmocka_unit_test(test_digest_in_pieces_is_the_same),
		cmocka_unit_test(test_digest_equal_looks_at_every_byte),
		cmocka_unit_test(test_digest_parse_takes_what_it_writes),
		cmocka_unit_test(test_digest_parse_refuses_any_other_character),
		cmocka_unit_test(
		    test_digest_parse_refuses_other_lengths_and_names),
		cmocka_unit_test(test_digest_from_bytes_wants_32),
		cmocka_unit_test(test_pread_all_is_short_only_at_the_end),
		cmocka_unit_test(test_pwrite_all_writes_at_the_offset),
		cmocka_unit_test(test_read_text_ends_with_a_nul),
		cmocka_unit_test(test_read_text_of_an_empty_file_is_empty),
		cmocka_unit_test(test_read_text_refuses_more_than_its_limit),
		cmocka_unit_test(
		    test_pair_is_connected_nonblocking_and_closes_on_exec),
		cmocka_unit_test(test_cloexec_is_set_and_cleared),
		cmocka_unit_test(
		    test_close_keeps_errno_and_takes_no_descriptor),
		cmocka_unit_test(test_a_scope_closes_what_was_not_taken),
		cmocka_unit_test(test_take_ptr_leaves_null),
		cmocka_unit_test(test_peer_is_the_user_of_this_process),
		cmocka_unit_test(test_self_is_the_directory_of_this_program),
		cmocka_unit_test(test_a_log_line_has_level_process_and_text),
		cmocka_unit_test(test_a_journal_gets_the_level_as_a_number),
		cmocka_unit_test(test_debug_lines_come_only_when_asked_for),
		cmocka_unit_test(test_a_log_line_holds_no_control_character),
		cmocka_unit_test(test_a_log_line_cannot_be_forged),
		cmocka_unit_test(test_a_long_log_line_is_cut_and_ends),
		cmocka_unit_test(test_an_object_is_zero_and_can_be_shared),
		cmocka_unit_test(test_an_object_cannot_be_resized),
		cmocka_unit_test(test_map_refuses_another_size),
		cmocka_unit_test(test_map_refuses_what_could_be_resized),
		cmocka_unit_test(
		    test_a_read_only_reopening_cannot_be_mapped_writable),
		cmocka_unit_test(test_sealed_content_cannot_be_changed),
		cmocka_unit_test(test_only_what_nobody_can_change_is_sealed),
		cmocka_unit_test(
		    test_only_the_maker_writes_a_private_writers_object),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
