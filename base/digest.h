/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 by OpenSSL, and "sha256:HEX" as OCI writes it. */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_LEN	32
#define DIGEST_HEX	(2 * DIGEST_LEN)
#define DIGEST_TEXT	(7 + DIGEST_HEX)	/* "sha256:" + hex */

struct digest {
	uint8_t bytes[DIGEST_LEN];
};

/* Text buffers of the two spellings, NUL included. */
struct digest_hex {
	char text[DIGEST_HEX + 1];
};
struct digest_text {
	char text[DIGEST_TEXT + 1];
};

/* SHA-256 of len bytes.  Any thread. */
struct digest digest_of(const void *buf, size_t len);

/* The same in pieces.  digest_final() also frees. */
struct digest_stream;
struct digest_stream *digest_start(void);
void digest_update(struct digest_stream *s, const void *buf, size_t len);
struct digest digest_final(struct digest_stream *s);

bool digest_equal(const struct digest *a, const struct digest *b);

/* From 32 raw bytes; -EINVAL on any other length. */
int digest_from_bytes(const void *bytes, size_t len, struct digest *out);

/* From "sha256:" and 64 lower-case hex digits, nothing behind; or -EINVAL. */
int digest_parse(const char *text, struct digest *out);

struct digest_hex digest_to_hex(const struct digest *d);
struct digest_text digest_to_text(const struct digest *d);

#endif
