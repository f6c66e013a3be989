// SPDX-License-Identifier: Apache-2.0
/*
 * Which hosts go past the proxy, as curl's NO_PROXY has it: a name covers
 * itself and all below it, with or without a dot before it; addresses are
 * compared as numbers, so that 10.0.0.0/8 never covers a name.  Pure functions
 * of text.
 *
 * It is decided here and not left to curl, because the guard must know which
 * addresses it will see: the proxy's, or those of the host itself.
 */
#include <netinet/in.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

#define BLANKS	" \t,"

struct address {
	unsigned bits;		/* 0: it is none; 32 or 128 */
	uint8_t bytes[16];
};

/* A numeric address, brackets allowed. */
static struct address
address_parse(const char *text, size_t len)
{
	struct address a = { 0 };
	char bare[INET6_ADDRSTRLEN];

	if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	if (len >= sizeof(bare))
		return a;
	memcpy(bare, text, len);
	bare[len] = '\0';
	if (inet_pton(AF_INET, bare, a.bytes) == 1)
		a.bits = 32;
	else if (inet_pton(AF_INET6, bare, a.bytes) == 1)
		a.bits = 128;
	return a;
}

/* "ADDRESS" or "ADDRESS/BITS"; no such entry covers nothing. */
static bool
network_covers(const char *entry, size_t len, const struct address *host)
{
	const char *slash = memchr(entry, '/', len);
	size_t head = slash ? (size_t)(slash - entry) : len;
	struct address net = address_parse(entry, head);
	char text[4] = "";
	uint64_t bits = net.bits;

	if (net.bits == 0 || net.bits != host->bits)
		return false;
	if (slash && len - head - 1 < sizeof(text)) {
		memcpy(text, slash + 1, len - head - 1);
		text[len - head - 1] = '\0';
	}
	if (slash && (head_number(text, &bits) < 0 || bits > net.bits))
		return false;
	for (unsigned i = 0; i < bits; i++)
		if ((net.bytes[i / 8] ^ host->bytes[i / 8]) & 0x80 >> i % 8)
			return false;
	return true;
}

static bool
name_covers(const char *entry, size_t len, const char *host, size_t host_len)
{
	if (len > 0 && entry[0] == '.') {
		entry++;
		len--;
	}
	if (len > 0 && entry[len - 1] == '.')
		len--;
	if (len == 0 || len > host_len || strncasecmp(entry, host + host_len -
	    len, len) != 0)
		return false;
	return len == host_len || host[host_len - len - 1] == '.';
}

bool
proxy_exempt(const char *list, const char *host)
{
	size_t host_len = strlen(host), len;
	struct address address = address_parse(host, host_len);

	if (host_len > 0 && host[host_len - 1] == '.')
		host_len--;
	for (const char *e = list ? list : ""; *e; e += len) {
		e += strspn(e, BLANKS);
		len = strcspn(e, BLANKS);
		if (len == 1 && *e == '*')
			return true;
		if (address.bits > 0 ? network_covers(e, len, &address) :
		    name_covers(e, len, host, host_len))
			return true;
	}
	return false;
}

/* Behind "scheme://" and the user. */
static const char *
authority(const char *url, size_t *len, bool *user)
{
	const char *start = strstr(url, "://"), *at = NULL;

	start = start ? start + 3 : url;
	*len = strcspn(start, "/?#");
	for (size_t i = 0; i < *len; i++)
		if (start[i] == '@')
			at = start + i + 1;
	*user = at != NULL;
	if (!at)
		return start;
	*len -= (size_t)(at - start);
	return at;
}

void
proxy_name(const char *url, char name[PROXY_NAME_MAX])
{
	size_t len;
	bool user;
	const char *start = authority(url, &len, &user);

	snprintf(name, PROXY_NAME_MAX, "%.*s", (int)len, start);
}

bool
proxy_has_user(const char *url)
{
	size_t len;
	bool user;

	(void)authority(url, &len, &user);
	return user;
}
