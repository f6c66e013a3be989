// SPDX-License-Identifier: Apache-2.0
/*
 * Classes of addresses.  A registry is an outsider: neither by a redirect nor
 * by a token realm may it turn this process on the host's own services or its
 * owner's network, unless it lives there itself.  Ranges: the IANA
 * special-purpose address registries (RFC 6890).
 */
#include <netinet/in.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

struct range4 {
	uint32_t address;
	unsigned bits;
	enum address_class class;
};

static const struct range4 ranges4[] = {
	{ 0x00000000,  8, ADDRESS_NEVER },	/* this network; Linux: loopback */
	{ 0x0a000000,  8, ADDRESS_PRIVATE },	/* 10/8 */
	{ 0x64400000, 10, ADDRESS_PRIVATE },	/* 100.64/10, carriers' NAT */
	{ 0x7f000000,  8, ADDRESS_LOOPBACK },
	{ 0xa9fe0000, 16, ADDRESS_LINK_LOCAL },	/* 169.254/16, clouds' metadata */
	{ 0xac100000, 12, ADDRESS_PRIVATE },	/* 172.16/12 */
	{ 0xc0000000, 24, ADDRESS_NEVER },	/* 192.0.0/24, protocols */
	{ 0xc0000200, 24, ADDRESS_NEVER },	/* 192.0.2/24, documents */
	{ 0xc0a80000, 16, ADDRESS_PRIVATE },	/* 192.168/16 */
	{ 0xc6120000, 15, ADDRESS_PRIVATE },	/* 198.18/15, benchmarks */
	{ 0xc6336400, 24, ADDRESS_NEVER },	/* 198.51.100/24, documents */
	{ 0xcb007100, 24, ADDRESS_NEVER },	/* 203.0.113/24, documents */
	{ 0xe0000000,  4, ADDRESS_NEVER },	/* multicast */
	{ 0xf0000000,  4, ADDRESS_NEVER },	/* reserved, broadcast */
};

struct range6 {
	uint8_t address[16];
	unsigned bits;
	enum address_class class;
	unsigned v4_at;		/* bytes; not 0: judged as the IPv4 there */
};

static const struct range6 ranges6[] = {
	{ { 0 }, 128, ADDRESS_NEVER, 0 },			/* :: */
	{ { [15] = 1 }, 128, ADDRESS_LOOPBACK, 0 },		/* ::1 */
	{ { [10] = 0xff, 0xff }, 96, ADDRESS_NEVER, 12 },	/* mapped */
	{ { 0 }, 96, ADDRESS_NEVER, 12 },			/* compatible */
	{ { 0, 0x64, 0xff, 0x9b }, 96, ADDRESS_NEVER, 12 },	/* NAT64 */
	{ { 0, 0x64, 0xff, 0x9b, 0, 1 }, 48, ADDRESS_PRIVATE, 0 },
	{ { 0x01, 0x00 }, 64, ADDRESS_NEVER, 0 },		/* discard */
	{ { 0x20, 0x01 }, 32, ADDRESS_NEVER, 0 },		/* Teredo */
	{ { 0x20, 0x01, 0x0d, 0xb8 }, 32, ADDRESS_NEVER, 0 },	/* documents */
	{ { 0x20, 0x02 }, 16, ADDRESS_NEVER, 2 },		/* 6to4 */
	{ { 0x3f, 0xff }, 20, ADDRESS_NEVER, 0 },		/* documents */
	{ { 0xfc }, 7, ADDRESS_PRIVATE, 0 },			/* ULA */
	{ { 0xfe, 0x80 }, 10, ADDRESS_LINK_LOCAL, 0 },
	{ { 0xfe, 0xc0 }, 10, ADDRESS_PRIVATE, 0 },		/* site-local */
	{ { 0xff }, 8, ADDRESS_NEVER, 0 },			/* multicast */
};

static enum address_class
class4(uint32_t address)
{
	for (size_t i = 0; i < ARRAY_LEN(ranges4); i++)
		if (((address ^ ranges4[i].address) >>
		    (32 - ranges4[i].bits)) == 0)
			return ranges4[i].class;
	return ADDRESS_PUBLIC;
}

static bool
prefix_equal(const uint8_t *a, const uint8_t *b, unsigned bits)
{
	unsigned bytes = bits / 8, rest = bits % 8;

	if (memcmp(a, b, bytes) != 0)
		return false;
	return rest == 0 || ((a[bytes] ^ b[bytes]) >> (8 - rest)) == 0;
}

static enum address_class
class6(const uint8_t *a)
{
	for (size_t i = 0; i < ARRAY_LEN(ranges6); i++) {
		const struct range6 *r = &ranges6[i];
		uint32_t v4;

		if (!prefix_equal(a, r->address, r->bits))
			continue;
		if (r->v4_at == 0)
			return r->class;
		memcpy(&v4, a + r->v4_at, sizeof(v4));
		return class4(ntohl(v4));
	}
	/* only 2000::/3 is handed out */
	return (a[0] & 0xe0) == 0x20 ? ADDRESS_PUBLIC : ADDRESS_NEVER;
}

enum address_class
guard_class(const struct sockaddr *address)
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	switch (address->sa_family) {
	case AF_INET:
		memcpy(&in, address, sizeof(in));
		return class4(ntohl(in.sin_addr.s_addr));
	case AF_INET6:
		memcpy(&in6, address, sizeof(in6));
		return class6(in6.sin6_addr.s6_addr);
	default:
		return ADDRESS_NEVER;
	}
}

int
guard_text(const char *text, enum address_class *out)
{
	size_t len = strcspn(text, "%]");	/* without a zone */
	char bare[INET6_ADDRSTRLEN];
	struct in6_addr in6;
	struct in_addr in;

	if (text[0] == '[') {
		text++;
		len--;
	}
	if (len == 0 || len >= sizeof(bare))
		return -EINVAL;
	memcpy(bare, text, len);
	bare[len] = '\0';
	if (inet_pton(AF_INET, bare, &in) == 1)
		*out = class4(ntohl(in.s_addr));
	else if (inet_pton(AF_INET6, bare, &in6) == 1)
		*out = class6(in6.s6_addr);
	else
		return -EINVAL;
	return 0;
}

bool
guard_allows(const struct guard *guard, enum address_class class)
{
	if (class == ADDRESS_NEVER)
		return false;
	return guard->own || class == ADDRESS_PUBLIC || class == guard->like;
}

const char *
guard_name(enum address_class class)
{
	switch (class) {
	case ADDRESS_PUBLIC:
		return "public";
	case ADDRESS_LOOPBACK:
		return "loopback";
	case ADDRESS_PRIVATE:
		return "private";
	case ADDRESS_LINK_LOCAL:
		return "link-local";
	case ADDRESS_NEVER:
		break;
	}
	return "reserved";
}

/* Without the dots at its end, by which a name is no other one.  false: nothing
 * is left, or too much. */
static bool
host_bare(const char *host, char bare[HOST_MAX + 1])
{
	size_t len = strlen(host);

	while (len > 0 && host[len - 1] == '.')
		len--;
	if (len == 0 || len > HOST_MAX)
		return false;
	memcpy(bare, host, len);
	bare[len] = '\0';
	return true;
}

static bool
is_localhost(const char *name)
{
	static const char suffix[] = ".localhost";
	size_t len = strlen(name), tail = sizeof(suffix) - 1;

	return strcasecmp(name, "localhost") == 0 ||
	    (len > tail && strcasecmp(name + len - tail, suffix) == 0);
}

enum address_class
guard_host(const char *host)
{
	enum address_class class;
	char bare[HOST_MAX + 1];
	struct in_addr in;

	if (!host_bare(host, bare))
		return ADDRESS_NEVER;
	if (guard_text(bare, &class) == 0)
		return class;
	if (inet_aton(bare, &in))
		return class4(ntohl(in.s_addr));
	return is_localhost(bare) ? ADDRESS_LOOPBACK : ADDRESS_PUBLIC;
}

bool
guard_loopback_host(const char *host)
{
	enum address_class class;

	if (guard_text(host, &class) == 0)
		return class == ADDRESS_LOOPBACK;
	return is_localhost(host);
}
