// SPDX-License-Identifier: Apache-2.0
/*
 * The configuration.  inih reads the lines; the table below says which keys
 * there are.  An unknown key or a bad value is an error that names file, line
 * and remedy: a misspelt limit must not be a missing limit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/fd.h"
#include "base/own.h"
#include "base/times.h"

/* inih would take the rest of a longer line as a line of its own. */
#define LINE_MAX_BYTES	(INI_MAX_LINE - 2)

struct parse {
	struct conf *conf;
	char *error;
	/* keys that were set, by their place in the table; the last: those of
	 * no registry */
	uint32_t seen[CONF_REGISTRIES + 1];
};

struct key {
	const char *section, *name;
	int (*set)(struct conf *conf, const char *value, void *field);
	size_t field;
	const char *wants;	/* completes "… takes" */
};

struct word {
	const char *text;
	uint32_t value;
};

static int
set_string(struct conf *conf, const char *value, void *field)
{
	char *copy = strdup(value);

	(void)conf;
	if (!copy)
		return -ENOMEM;
	free(*(char **)field);
	*(char **)field = copy;
	return 0;
}

static int
set_path(struct conf *conf, const char *value, void *field)
{
	if (value[0] != '/')
		return -EINVAL;
	return set_string(conf, value, field);
}

static int
set_proxy(struct conf *conf, const char *value, void *field)
{
	static const char *const schemes[] = { "http://", "https://",
		"socks5h://" };

	for (size_t i = 0; i < ARRAY_LEN(schemes); i++)
		if (strncmp(value, schemes[i], strlen(schemes[i])) == 0 &&
		    value[strlen(schemes[i])] != '\0')
			return set_string(conf, value, field);
	return -EINVAL;
}

static int
set_bool(struct conf *conf, const char *value, void *field)
{
	(void)conf;
	if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
		return -EINVAL;
	*(bool *)field = strcmp(value, "yes") == 0;
	return 0;
}

static int
parse_number(const char *value, char **end, uint64_t *out)
{
	if (value[0] < '0' || value[0] > '9')
		return -EINVAL;
	errno = 0;
	*out = strtoull(value, end, 10);
	return errno ? -EINVAL : 0;
}

static int
set_size(struct conf *conf, const char *value, void *field)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t n;
	char *end;

	(void)conf;
	if (parse_number(value, &end, &n) < 0)
		return -EINVAL;
	if (*end != '\0') {
		unit = strchr(units, *end);
		if (!unit || end[1] != '\0')
			return -EINVAL;
		for (long i = 0; i <= unit - units; i++) {
			if (n > UINT64_MAX / 1024)
				return -EINVAL;
			n *= 1024;
		}
	}
	*(uint64_t *)field = n;
	return 0;
}

static int
set_word(const struct word *words, const char *value, void *field)
{
	for (; words->text; words++)
		if (strcmp(words->text, value) == 0) {
			*(uint32_t *)field = words->value;
			return 0;
		}
	return -EINVAL;
}

/* A rate that is never none. */
static int
set_rate(struct conf *conf, const char *value, void *field)
{
	uint64_t n;
	int r = set_size(conf, value, &n);

	if (r < 0 || n == 0)
		return -EINVAL;
	*(uint64_t *)field = n;
	return 0;
}

/* Seconds, by a number and perhaps a unit; never none, nor centuries. */
static int
set_time(struct conf *conf, const char *value, void *field)
{
	static const struct word units[] = { { "", 1 }, { "s", 1 },
		{ "m", 60 }, { "h", 60 * 60 }, { "d", 24 * 60 * 60 },
		{ NULL, 0 } };
	uint32_t factor;
	uint64_t n;
	char *end;

	(void)conf;
	if (parse_number(value, &end, &n) < 0 ||
	    set_word(units, end, &factor) < 0 || n == 0 ||
	    n > UINT32_MAX / factor)
		return -EINVAL;
	*(uint64_t *)field = n * factor;
	return 0;
}

/* Not before a chunk had its chance. */
static int
set_outage_delay(struct conf *conf, const char *value, void *field)
{
	uint64_t s;

	if (set_time(conf, value, &s) < 0 || !times_fit(s))
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)s;
	return 0;
}

static int
set_u32(struct conf *conf, const char *value, void *field)
{
	uint64_t n;
	char *end;

	(void)conf;
	if (parse_number(value, &end, &n) < 0 || *end || n > UINT32_MAX)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)n;
	return 0;
}

static int
set_min_free(struct conf *conf, const char *value, void *field)
{
	uint64_t n;
	char *end;

	if (parse_number(value, &end, &n) == 0 && strcmp(end, "%") == 0) {
		if (n > 99)
			return -EINVAL;
		conf->min_free_percent = (uint32_t)n;
		conf->min_free = 0;
		return 0;
	}
	conf->min_free_percent = 0;
	return set_size(conf, value, field);
}

/* A share, 0..50%. */
static int
set_percent(struct conf *conf, const char *value, void *field)
{
	uint64_t n;
	char *end;

	(void)conf;
	if (parse_number(value, &end, &n) < 0 || strcmp(end, "%") != 0 ||
	    n > 50)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)n;
	return 0;
}

static int
set_requests(struct conf *conf, const char *value, void *field)
{
	uint32_t n;

	if (set_u32(conf, value, &n) < 0 || n == 0 || n > 64)
		return -EINVAL;
	*(uint32_t *)field = n;
	return 0;
}

/* The numbers are those of control.proto. */
static int
set_rung(struct conf *conf, const char *value, void *field)
{
	static const struct word words[] = { { "transport", 1 },
		{ "complete", 2 }, { "whole", 3 }, { "chunk", 4 }, { NULL, 0 } };

	(void)conf;
	return set_word(words, value, field);
}

static int
set_present(struct conf *conf, const char *value, void *field)
{
	static const struct word words[] = { { "auto", 0 }, { "nbd", 1 },
		{ "file", 2 }, { "ublk", 3 }, { "plain", 4 },
		{ "kernel-nbd", 5 }, { NULL, 0 } };

	(void)conf;
	return set_word(words, value, field);
}

static int
set_ublk(struct conf *conf, const char *value, void *field)
{
	static const struct word words[] = { { "auto", 0 }, { "force", 1 },
		{ NULL, 0 } };
	uint32_t v;

	(void)conf;
	if (set_word(words, value, &v) < 0)
		return -EINVAL;
	*(bool *)field = v;
	return 0;
}

static int
set_outage(struct conf *conf, const char *value, void *field)
{
	static const struct word words[] = { { "stall", 0 }, { "eio", 1 },
		{ NULL, 0 } };
	uint32_t v;

	(void)conf;
	if (set_word(words, value, &v) < 0)
		return -EINVAL;
	*(bool *)field = v;
	return 0;
}

static int
set_complete(struct conf *conf, const char *value, void *field)
{
	static const struct word words[] = { { "idle", COMPLETE_IDLE },
		{ "never", COMPLETE_NEVER }, { "now", COMPLETE_NOW },
		{ NULL, 0 } };

	(void)conf;
	return set_word(words, value, field);
}

static int
set_mirrors(struct conf *conf, const char *value, void *field)
{
	struct conf_registry *reg = field;
	_cleanup_free_ char *copy = strdup(value);
	char *save = NULL;

	(void)conf;
	if (!copy)
		return -ENOMEM;
	for (char *url = strtok_r(copy, " \t,", &save); url;
	    url = strtok_r(NULL, " \t,", &save)) {
		if ((strncmp(url, "http://", 7) != 0 &&
		    strncmp(url, "https://", 8) != 0) ||
		    strpbrk(url, "?#@") || reg->n_mirrors == CONF_MIRRORS)
			return -EINVAL;
		reg->mirrors[reg->n_mirrors] = strdup(url);
		if (!reg->mirrors[reg->n_mirrors])
			return -ENOMEM;
		reg->n_mirrors++;
	}
	return 0;
}

#define AT(member) offsetof(struct conf, member)
#define REG(member) offsetof(struct conf_registry, member)

static const struct key keys[] = {
	{ "store", "path", set_path, AT(store_path), "an absolute path" },
	{ "store", "quota", set_size, AT(quota), "bytes, as 20G" },
	{ "store", "min-free", set_min_free, AT(min_free), "a share as 5%, or bytes as 2G" },
	{ "store", "scrub", set_bool, AT(scrub), "yes or no" },
	{ "store", "scrub-rate", set_rate, AT(scrub_rate), "bytes a second, as 16M, and not 0; scrub = no turns it off" },
	{ "store", "scrub-every", set_time, AT(scrub_every_s), "a time, as 12h or 7d, and not 0; scrub = no turns it off" },
	{ "trust", "referrers", set_bool, AT(referrers), "yes or no" },
	{ "trust", "integrity", set_rung, AT(integrity), "chunk, whole, complete or transport" },
	{ "network", "ca", set_path, AT(ca), "an absolute path" },
	{ "network", "proxy", set_proxy, AT(proxy), "an http://, https:// or socks5h:// URL" },
	{ "network", "no-proxy", set_string, AT(no_proxy), "hosts, as localhost,.example.com" },
	{ "network", "rate", set_size, AT(rate), "bytes a second, as 50M; 0 for no limit" },
	{ "network", "background-rate", set_size, AT(background_rate), "bytes a second, as 10M; 0 for no limit" },
	{ "network", "hedge", set_percent, AT(hedge_percent), "a share, from 0% to 50%" },
	{ "network", "on-outage", set_outage, AT(outage_eio), "stall or eio" },
	{ "network", "outage-delay", set_outage_delay, AT(outage_delay_s), "a time as 60 or 5m, and at least the 30 s that a chunk may take; for one device it may be less, see shedctl attach --outage-delay" },
	{ "devices", "present", set_present, AT(present), "auto, nbd, ublk, file, plain or kernel-nbd" },
	{ "devices", "ublk", set_ublk, AT(ublk_force), "auto or force" },
	{ "devices", "max", set_u32, AT(max_devices), "a number" },
	{ "devices", "group", set_string, AT(group), "a group's name" },
	{ "prefetch", "boot", set_bool, AT(prefetch_boot), "yes or no" },
	{ "prefetch", "complete", set_complete, AT(complete), "idle, never or now" },
	{ "prefetch", "budget", set_size, AT(prefetch_budget), "bytes, as 200M" },
};

static const struct key registry_keys[] = {
	{ "registry", "mirrors", set_mirrors, 0, "at most 16 http:// or https:// URLs, without user and query" },
	{ "registry", "trust-mirrors", set_bool, REG(trust_mirrors), "yes or no" },
	{ "registry", "max-requests", set_requests, REG(max_requests), "a number from 1 to 64" },
	{ "registry", "client-cert", set_path, REG(client_cert), "an absolute path" },
	{ "registry", "client-key", set_path, REG(client_key), "an absolute path" },
	{ "registry", "insecure", set_bool, REG(insecure), "yes or no" },
	{ "registry", "ca", set_path, REG(ca), "an absolute path" },
	{ "registry", "auth-file", set_path, REG(auth_file), "an absolute path" },
};

/* Keep the first complaint.  Debian's inih tells the line only at the end. */
static int
complain(struct parse *p, const char *fmt, const char *a, const char *b)
{
	if (!p->error && asprintf(&p->error, fmt, a, b) < 0)
		p->error = NULL;
	return 0;
}

/* `registry "HOST[:PORT]"` -> its struct, made at first sight. */
static struct conf_registry *
registry_section(struct conf *conf, const char *section)
{
	struct conf_registry *reg;
	size_t len = strlen(section);
	char host[256];

	if (strncmp(section, "registry \"", 10) != 0 || len < 12 ||
	    section[len - 1] != '"' || len - 11 >= sizeof(host))
		return NULL;
	memcpy(host, section + 10, len - 11);
	host[len - 11] = '\0';
	if (strpbrk(host, "/@ \t"))
		return NULL;
	reg = (struct conf_registry *)conf_registry(conf, host);
	if (reg)
		return reg;
	if (conf->n_registries == CONF_REGISTRIES)
		return NULL;
	reg = &conf->registries[conf->n_registries];
	reg->host = strdup(host);
	if (!reg->host)
		return NULL;
	reg->max_requests = CONF_REQUESTS;
	conf->n_registries++;
	return reg;
}

static int
on_key(void *arg, const char *section, const char *name, const char *value)
{
	struct parse *p = arg;
	const struct key *table = keys;
	uint32_t *seen = &p->seen[CONF_REGISTRIES];
	size_t n = ARRAY_LEN(keys);
	char *base = (char *)p->conf;
	bool known = false;

	if (strncmp(section, "registry", 8) == 0) {
		struct conf_registry *reg = registry_section(p->conf, section);

		if (!reg)
			return complain(p, "section [%s] should read "
			    "[registry \"HOST[:PORT]\"], at most 64 of them%s",
			    section, "");
		base = (char *)reg;
		seen = &p->seen[reg - p->conf->registries];
		table = registry_keys;
		n = ARRAY_LEN(registry_keys);
		section = "registry";
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(table[i].section, section) != 0)
			continue;
		known = true;
		if (strcmp(table[i].name, name) != 0)
			continue;
		if (*seen & 1U << i && table[i].set != set_mirrors)
			return complain(p, "%s was set before%s; a line that "
			    "starts with a blank continues the one above", name,
			    "");
		*seen |= 1U << i;
		if (table[i].set(p->conf, value, base + table[i].field) < 0)
			return complain(p, "%s takes %s", name,
			    table[i].wants);
		return 1;
	}
	if (!known)
		return complain(p, "there is no section [%s]; see "
		    "shedstream.conf(5)%s", section, "");
	return complain(p, "there is no key %s in [%s]; see "
	    "shedstream.conf(5)", name, section);
}

static struct conf *
conf_default(void)
{
	struct conf *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->min_free_percent = 5;
	c->scrub = true;
	c->scrub_rate = 16 << 20;
	c->scrub_every_s = 7 * 24 * 60 * 60;
	c->integrity = 3;	/* RUNG_WHOLE */
	c->hedge_percent = 5;
	c->outage_delay_s = 60;
	c->max_devices = 256;
	c->prefetch_boot = true;
	c->complete = COMPLETE_IDLE;
	return c;
}

/* The number of the first line that is too long, or 0. */
static int
long_line(const char *text)
{
	for (int line = 1; *text; line++) {
		size_t len = strcspn(text, "\n");

		if (len > LINE_MAX_BYTES)
			return line;
		text += len + (text[len] == '\n');
	}
	return 0;
}

/* The host of a registry that has a client certificate without its key, or the
 * other way round, or NULL. */
static const char *
half_pair(const struct conf *conf)
{
	for (size_t i = 0; i < conf->n_registries; i++)
		if (!conf->registries[i].client_cert !=
		    !conf->registries[i].client_key)
			return conf->registries[i].host;
	return NULL;
}

int
conf_parse(const char *file, const char *text, struct conf **out,
    char **error)
{
	const char *half;
	struct parse p = { .conf = conf_default() };
	int line;

	*error = NULL;
	if (!p.conf)
		return -ENOMEM;
	line = long_line(text);
	if (line != 0)
		complain(&p, "this line is too long; lines that start with a "
		    "blank continue a list%s%s", "", "");
	else
		line = ini_parse_string(text, on_key, &p);
	if (line != 0) {
		_cleanup_free_ char *what = p.error;

		conf_free(p.conf);
		if (asprintf(error, "%s:%d: %s", file, line, what ? what :
		    "this is no `key = value`, [section] or # comment") < 0)
			*error = NULL;
		return -EINVAL;
	}
	half = half_pair(p.conf);
	if (half) {
		if (asprintf(error, "%s: [registry \"%s\"] has one of "
		    "client-cert and client-key; set both", file, half) < 0)
			*error = NULL;
		conf_free(p.conf);
		return -EINVAL;
	}
	*out = p.conf;
	return 0;
}

int
conf_read(int fd, struct conf **out)
{
	_cleanup_free_ char *text = NULL, *error = NULL;
	size_t len;
	int r = fd_read_text(fd, CONF_FILE_MAX, &text, &len);

	return r < 0 ? r : conf_parse("configuration", text, out, &error);
}

void
conf_free(struct conf *conf)
{
	if (!conf)
		return;
	for (size_t i = 0; i < conf->n_registries; i++) {
		struct conf_registry *reg = &conf->registries[i];

		for (size_t k = 0; k < reg->n_mirrors; k++)
			free(reg->mirrors[k]);
		free(reg->host);
		free(reg->ca);
		free(reg->client_cert);
		free(reg->client_key);
		free(reg->auth_file);
	}
	free(conf->store_path);
	free(conf->ca);
	free(conf->proxy);
	free(conf->no_proxy);
	free(conf->group);
	free(conf);
}

const struct conf_registry *
conf_registry(const struct conf *conf, const char *host)
{
	for (size_t i = 0; i < conf->n_registries; i++)
		if (strcmp(conf->registries[i].host, host) == 0)
			return &conf->registries[i];
	return NULL;
}
