// SPDX-License-Identifier: Apache-2.0
/*
 * Names of images, by the grammar of the OCI distribution specification.  The
 * host is never guessed: there is no default registry.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/ref.h"

#define LOWER	"abcdefghijklmnopqrstuvwxyz"
#define DIGITS	"0123456789"
#define UPPER	"ABCDEFGHIJKLMNOPQRSTUVWXYZ"

static bool
spans(const char *text, size_t len, const char *set)
{
	return len > 0 && strspn(text, set) >= len;
}

static int
take(char *to, size_t max, const char *from, size_t len)
{
	if (len == 0 || len > max)
		return -EINVAL;
	memcpy(to, from, len);
	to[len] = '\0';
	return 0;
}

/* Lower-case components, separated by '/', each starting and ending with a
 * letter or digit. */
static bool
repo_valid(const char *repo)
{
	if (strstr(repo, ".."))
		return false;
	while (*repo) {
		size_t n = strcspn(repo, "/");

		if (!spans(repo, n, LOWER DIGITS "._-") ||
		    strchr("._-", repo[0]) || strchr("._-", repo[n - 1]))
			return false;
		repo += n;
		if (*repo == '/' && *++repo == '\0')
			return false;
	}
	return true;
}

static bool
tag_valid(const char *tag, size_t len)
{
	return len <= REF_TAG_MAX && !strchr(".-", tag[0]) &&
	    spans(tag, len, LOWER UPPER DIGITS "._-");
}

static bool
ip6_valid(const char *text, size_t len)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr bytes;

	return take(address, sizeof(address) - 1, text, len) == 0 &&
	    inet_pton(AF_INET6, address, &bytes) == 1;
}

static bool
host_valid(const char *host)
{
	const char *port = strrchr(host, ':');
	size_t n = strlen(host);

	if (host[0] == '[') {
		const char *end = strchr(host, ']');

		if (!end || !ip6_valid(host + 1, (size_t)(end - host - 1)))
			return false;
		if (end[1] == '\0')
			return true;
		port = end + 1;
		if (*port != ':')
			return false;
	} else if (port)
		n = (size_t)(port - host);
	if (host[0] != '[' && (!spans(host, n, LOWER UPPER DIGITS ".-") ||
	    strchr(".-", host[0]) || strchr(".-", host[n - 1]) ||
	    strstr(host, "..")))
		return false;
	return !port || (spans(port + 1, strlen(port + 1), DIGITS) &&
	    strlen(port + 1) <= 5 && atoi(port + 1) <= 65535);
}

static int
parse_rest(const char *rest, struct image_ref *ref, const char **why)
{
	const char *at = strchr(rest, '@'), *colon = strchr(rest, ':');
	size_t repo_len = strcspn(rest, "@:");

	*why = "the repository is lower-case letters, digits and ._-/";
	if (take(ref->repo, REF_REPO_MAX, rest, repo_len) < 0 ||
	    !repo_valid(ref->repo))
		return -EINVAL;
	*why = "a tag is 1 to 128 letters, digits and ._-";
	if (at) {	/* it decides; a tag before it is only checked */
		if (at != rest + repo_len &&
		    !tag_valid(colon + 1, (size_t)(at - colon - 1)))
			return -EINVAL;
		*why = "a digest is sha256: and 64 lower-case hex digits";
		ref->has_digest = true;
		return digest_parse(at + 1, &ref->digest);
	}
	if (!colon)
		return take(ref->tag, REF_TAG_MAX, "latest", 6);
	if (!tag_valid(colon + 1, strlen(colon + 1)))
		return -EINVAL;
	return take(ref->tag, REF_TAG_MAX, colon + 1, strlen(colon + 1));
}

int
image_ref_parse(const char *text, struct image_ref *out, const char **why)
{
	struct image_ref ref = { 0 };
	const char *slash = strchr(text, '/');

	if (strncmp(text, "sha256:", 7) == 0) {
		*why = "a digest is sha256: and 64 lower-case hex digits";
		ref.has_digest = true;
		if (digest_parse(text, &ref.digest) < 0)
			return -EINVAL;
		*out = ref;
		return 0;
	}
	*why = "name it as HOST[:PORT]/REPO[:TAG|@sha256:HEX], or sha256:HEX";
	if (!slash || take(ref.host, REF_HOST_MAX, text,
	    (size_t)(slash - text)) < 0 || !host_valid(ref.host))
		return -EINVAL;
	/* As docker and shed tell a host from a repository's first part. */
	if (!strpbrk(ref.host, ".:") && strcmp(ref.host, "localhost") != 0)
		return -EINVAL;
	if (parse_rest(slash + 1, &ref, why) < 0)
		return -EINVAL;
	*out = ref;
	return 0;
}
