// SPDX-License-Identifier: Apache-2.0
/*
 * Response heads: pure functions of bytes that a registry, or whoever stands
 * in its place, has chosen.  They take nothing that they do not understand
 * completely: "probably that range" is how wrong bytes get into a disk.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

static const char *const field_names[HEAD_FIELDS] = {
	[HEAD_LOCATION] = "Location",
	[HEAD_CONTENT_RANGE] = "Content-Range",
	[HEAD_CONTENT_TYPE] = "Content-Type",
	[HEAD_CONTENT_ENCODING] = "Content-Encoding",
	[HEAD_CONTENT_LENGTH] = "Content-Length",
	[HEAD_RETRY_AFTER] = "Retry-After",
	[HEAD_CHALLENGE] = "WWW-Authenticate",
	[HEAD_DIGEST] = "Docker-Content-Digest",
};

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static const char *
skip_blanks(const char *s)
{
	return s + strspn(s, " \t");
}

void
head_done(struct head *h)
{
	for (size_t i = 0; i < HEAD_FIELDS; i++)
		free(h->field[i]);
	*h = (struct head){ 0 };
}

/* "HTTP/1.1 206 Partial Content" or "HTTP/2 206". */
static int
status_of(const char *line, size_t len)
{
	const char *p = memchr(line, ' ', len);
	int status = 0;

	if (!p || line + len - p < 4)
		return 0;
	for (int i = 1; i <= 3; i++) {
		if (!is_digit(p[i]))
			return 0;
		status = status * 10 + (p[i] - '0');
	}
	return status;
}

static int
field_add(struct head *h, enum head_field field, const char *value, size_t len)
{
	char *old = h->field[field], *joined;

	if (asprintf(&joined, "%s%s%.*s", old ? old : "", old ? ", " : "",
	    (int)len, value) < 0)
		return -ENOMEM;
	free(old);
	h->field[field] = joined;
	return 0;
}

int
head_line(struct head *h, const char *line, size_t len)
{
	const char *colon;
	size_t name;

	while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
		len--;
	if (len == 0)
		return 1;
	if (len > HEAD_MAX)
		return -ENOMEM;
	if (len >= 5 && strncasecmp(line, "HTTP/", 5) == 0) {
		head_done(h);
		h->status = status_of(line, len);
		return 0;
	}
	colon = memchr(line, ':', len);
	if (!colon)
		return 0;
	name = (size_t)(colon - line);
	for (size_t i = 0; i < HEAD_FIELDS; i++) {
		const char *value = colon + 1, *end = line + len;

		if (strlen(field_names[i]) != name ||
		    strncasecmp(line, field_names[i], name) != 0)
			continue;
		while (value < end && (*value == ' ' || *value == '\t'))
			value++;
		while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
			end--;
		return field_add(h, i, value, (size_t)(end - value));
	}
	return 0;
}

/* Digits from *s on; moves it behind them. */
static int
take_number(const char **s, uint64_t *out)
{
	uint64_t n = 0;

	if (!is_digit(**s))
		return -EINVAL;
	for (; is_digit(**s); (*s)++) {
		uint64_t digit = (uint64_t)(**s - '0');

		if (n > (UINT64_MAX - digit) / 10)
			return -EINVAL;
		n = n * 10 + digit;
	}
	*out = n;
	return 0;
}

int
head_number(const char *text, uint64_t *out)
{
	uint64_t n;

	if (take_number(&text, &n) < 0 || *text != '\0')
		return -EINVAL;
	*out = n;
	return 0;
}

int
head_content_range(const char *text, struct content_range *out)
{
	struct content_range r;
	const char *s = text;

	if (strncasecmp(s, "bytes", 5) != 0 || (s[5] != ' ' && s[5] != '\t'))
		return -EINVAL;
	s = skip_blanks(s + 5);
	if (take_number(&s, &r.first) < 0 || *s++ != '-' ||
	    take_number(&s, &r.last) < 0 || *s++ != '/' ||
	    take_number(&s, &r.total) < 0 || *s != '\0')
		return -EINVAL;
	if (r.first > r.last || r.last >= r.total)
		return -EINVAL;
	*out = r;
	return 0;
}

int
head_retry_after(const char *text, time_t now, uint32_t *seconds)
{
	uint64_t n;

	if (head_number(text, &n) < 0) {
		time_t when = is_digit(text[0]) ? -1 : curl_getdate(text, NULL);

		if (when == (time_t)-1)
			return -EINVAL;
		n = when > now ? (uint64_t)(when - now) : 0;
	}
	*seconds = (uint32_t)(n < TIME_RETRY_AFTER_MAX_S ? n :
	    TIME_RETRY_AFTER_MAX_S);
	return 0;
}

/* ---- WWW-Authenticate: 1#( scheme [ token68 | #( name = value ) ] ) ---- */

static bool
is_token(char c)
{
	return isalnum((unsigned char)c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static size_t
token_length(const char *s)
{
	size_t n = 0;

	while (is_token(s[n]))
		n++;
	return n;
}

/* A token or quoted string into out (may be NULL).  -EINVAL, -EMSGSIZE. */
static int
take_value(const char **s, char *out, size_t size)
{
	bool quoted = **s == '"';
	size_t n = 0;

	if (quoted)
		(*s)++;
	for (;; (*s)++) {
		char c = **s;

		if (quoted ? c == '"' : !is_token(c))
			break;
		if (quoted && c == '\\')
			c = *++(*s);
		if ((unsigned char)c < 0x20 || c == 0x7f)
			return -EINVAL;
		if (out && n + 1 >= size)
			return -EMSGSIZE;
		if (out)
			out[n] = c;
		n++;
	}
	if (quoted)
		(*s)++;
	else if (n == 0)
		return -EINVAL;
	if (out)
		out[n] = '\0';
	return 0;
}

/* name = value, at *s, into the challenge.  0: it was one, 1: there is none
 * (the next scheme), or negative. */
static int
take_parameter(const char **s, struct challenge *c)
{
	size_t len = token_length(*s);
	const char *after = skip_blanks(*s + len);
	char *out = NULL;
	size_t size = 0;

	if (len == 0 || *after != '=')
		return 1;
	if (len == 5 && strncasecmp(*s, "realm", 5) == 0) {
		out = c->realm;
		size = sizeof(c->realm);
	} else if (len == 7 && strncasecmp(*s, "service", 7) == 0) {
		out = c->service;
		size = sizeof(c->service);
	} else if (len == 5 && strncasecmp(*s, "scope", 5) == 0) {
		out = c->scope;
		size = sizeof(c->scope);
	}
	*s = skip_blanks(after + 1);
	return take_value(s, out, size);
}

/* The end of a token68, as Negotiate sends, or NULL. */
static const char *
token68_end(const char *s)
{
	size_t n = 0;

	while (isalnum((unsigned char)s[n]) || (s[n] && strchr("-._~+/", s[n])))
		n++;
	if (n == 0)
		return NULL;
	s = skip_blanks(s + n + strspn(s + n, "="));
	return *s == '\0' || *s == ',' ? s : NULL;
}

/* What follows a scheme's name. */
static int
take_parameters(const char **s, struct challenge *c)
{
	const char *end = token68_end(*s);
	int r;

	if (end) {
		*s = end;
		return 0;
	}
	while ((r = take_parameter(s, c)) == 0) {
		const char *next = skip_blanks(*s);

		if (*next == '\0') {
			*s = next;
			return 0;
		}
		if (*next != ',')
			return -EINVAL;
		while (*next == ',')
			next = skip_blanks(next + 1);
		*s = next;
	}
	return r < 0 ? r : 0;
}

static int
take_challenge(const char **s, struct challenge *c)
{
	size_t len = token_length(*s);
	const char *name = *s;

	*c = (struct challenge){ 0 };
	if (len == 0)
		return -EINVAL;
	if (len == 6 && strncasecmp(name, "Bearer", 6) == 0)
		c->scheme = CHALLENGE_BEARER;
	else if (len == 5 && strncasecmp(name, "Basic", 5) == 0)
		c->scheme = CHALLENGE_BASIC;
	*s += len;
	if (**s != '\0' && **s != ',' && **s != ' ' && **s != '\t')
		return -EINVAL;
	*s = skip_blanks(*s);
	return take_parameters(s, c);
}

int
head_challenge(const char *text, struct challenge *out)
{
	_cleanup_free_ struct challenge *best = calloc(1, sizeof(*best));
	_cleanup_free_ struct challenge *one = malloc(sizeof(*one));
	const char *s = text;

	if (!best || !one)
		return -ENOMEM;
	for (;;) {
		const char *before;
		int r;

		while (*s == ',' || *s == ' ' || *s == '\t')
			s++;
		if (*s == '\0')
			break;
		before = s;
		r = take_challenge(&s, one);
		if (r < 0)
			return r;
		if (s == before)
			return -EINVAL;
		if (one->scheme > best->scheme)
			*best = *one;
	}
	if (best->scheme == CHALLENGE_NONE)
		return -ENOTSUP;
	if (best->scheme == CHALLENGE_BEARER && best->realm[0] == '\0')
		return -EINVAL;
	*out = *best;
	return 0;
}
