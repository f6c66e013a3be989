// SPDX-License-Identifier: Apache-2.0
/*
 * SHA-256 by OpenSSL.  An allocation failure inside OpenSSL aborts: there is
 * no honest answer to "what is the digest" without one.
 */
#include <openssl/evp.h>

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/digest.h"

static EVP_MD *method;

static void
fetch(void)
{
	method = EVP_MD_fetch(NULL, "SHA256", NULL);
}

/* Looked up once: a look-up costs as much as hashing a hundred bytes. */
static const EVP_MD *
sha256(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fetch);
	assert(method);
	return method;
}

struct digest
digest_of(const void *buf, size_t len)
{
	struct digest d;
	unsigned int n = 0;
	int ok = EVP_Digest(buf, len, d.bytes, &n, sha256(), NULL);

	assert(ok == 1 && n == DIGEST_LEN);
	return d;
}

struct digest_stream *
digest_start(void)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int ok = ctx && EVP_DigestInit_ex(ctx, sha256(), NULL);

	assert(ok == 1);
	return (struct digest_stream *)ctx;
}

void
digest_update(struct digest_stream *s, const void *buf, size_t len)
{
	int ok = EVP_DigestUpdate((EVP_MD_CTX *)s, buf, len);

	assert(ok == 1);
}

struct digest
digest_final(struct digest_stream *s)
{
	struct digest d;
	unsigned int n = 0;
	int ok = EVP_DigestFinal_ex((EVP_MD_CTX *)s, d.bytes, &n);

	assert(ok == 1 && n == DIGEST_LEN);
	EVP_MD_CTX_free((EVP_MD_CTX *)s);
	return d;
}

bool
digest_equal(const struct digest *a, const struct digest *b)
{
	return memcmp(a->bytes, b->bytes, DIGEST_LEN) == 0;
}

int
digest_from_bytes(const void *bytes, size_t len, struct digest *out)
{
	if (len != DIGEST_LEN)
		return -EINVAL;
	memcpy(out->bytes, bytes, DIGEST_LEN);
	return 0;
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int
digest_parse(const char *text, struct digest *out)
{
	struct digest d;

	if (strncmp(text, "sha256:", 7) != 0 || strlen(text) != DIGEST_TEXT)
		return -EINVAL;
	text += 7;
	for (int i = 0; i < DIGEST_LEN; i++) {
		int hi = hex_value(text[2 * i]);
		int lo = hex_value(text[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		d.bytes[i] = (uint8_t)(hi << 4 | lo);
	}
	*out = d;
	return 0;
}

struct digest_hex
digest_to_hex(const struct digest *d)
{
	static const char digits[] = "0123456789abcdef";
	struct digest_hex h;

	for (int i = 0; i < DIGEST_LEN; i++) {
		h.text[2 * i] = digits[d->bytes[i] >> 4];
		h.text[2 * i + 1] = digits[d->bytes[i] & 15];
	}
	h.text[DIGEST_HEX] = '\0';
	return h;
}

struct digest_text
digest_to_text(const struct digest *d)
{
	struct digest_hex h = digest_to_hex(d);
	struct digest_text t;

	memcpy(t.text, "sha256:", 7);
	memcpy(t.text + 7, h.text, sizeof(h.text));
	return t;
}
