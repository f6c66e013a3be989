// SPDX-License-Identifier: Apache-2.0
/* Names of devices, rungs and consumers.  Pure. */
#include <string.h>

#include "devd/devd.h"

void
device_id(const struct digest *blob, const struct digest *image,
    const struct digest *layout, uint32_t rung, uint32_t present,
    char id[DEVICE_ID_LEN + 1])
{
	uint8_t key[3 * DIGEST_LEN + 2];
	struct digest d;
	struct digest_hex hex;

	memcpy(key, blob->bytes, DIGEST_LEN);
	memcpy(key + DIGEST_LEN, image->bytes, DIGEST_LEN);
	memcpy(key + 2 * DIGEST_LEN, layout->bytes, DIGEST_LEN);
	key[3 * DIGEST_LEN] = (uint8_t)rung;
	key[3 * DIGEST_LEN + 1] = (uint8_t)present;
	d = digest_of(key, sizeof(key));
	hex = digest_to_hex(&d);
	memcpy(id, hex.text, DEVICE_ID_LEN);
	id[DEVICE_ID_LEN] = '\0';
}

bool
device_name_valid(const char *name)
{
	size_t len = strlen(name);

	return len >= 1 && len <= DEVICE_NAME_MAX && name[0] != '.' &&
	    strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

const char *
rung_name(uint32_t rung)
{
	static const char *const names[] = { "default", "transport",
		"complete", "whole", "chunk" };

	return rung < 5 ? names[rung] : "unknown";
}

const char *
present_name(uint32_t present)
{
	static const char *const names[] = { "auto", "nbd", "file", "ublk",
		"plain", "kernel-nbd" };

	return present < 6 ? names[present] : "unknown";
}

static bool
printable(const char *text, size_t max, char lowest)
{
	size_t len = strlen(text);

	for (const char *p = text; *p; p++)
		if (*p < lowest || *p > 0x7e)
			return false;
	return len >= 1 && len <= max;
}

bool
image_text_valid(const char *text)
{
	return printable(text, 512, '!');
}

bool
host_text_valid(const char *text)
{
	size_t len = strlen(text);

	return len >= 1 && len <= HOST_TEXT_MAX && strspn(text,
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	    ".-_:[]") == len;
}

bool
owner_valid(const char *text)
{
	return printable(text, 255, ' ');
}

bool
data_text_valid(const char *text)
{
	if (!printable(text, 255, '!') || text[0] == '/')
		return false;
	for (const char *at = text; (at = strstr(at, "..")); at++)
		if ((at == text || at[-1] == '/') &&
		    (at[2] == '/' || at[2] == '\0'))
			return false;
	return true;
}

bool
consumer_valid(const char *text, size_t max)
{
	return printable(text, max, '!') && !strchr(text, '/');
}
