// SPDX-License-Identifier: Apache-2.0
/*
 * Registry hosts: what the configuration says of each (scheme, trust, whom to
 * log in as) and what was learnt by talking to it (does it answer under this
 * scheme, at what class of address, does it want Basic).
 *
 *	host is loopback, without a ca		http
 *	insecure = yes				https unchecked, else http
 *	all others				https
 *
 * A ca, its own or that of [network], is trusted beside the system's store,
 * for whatever this registry leads to.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "fetcherd/fetcherd.h"

static LIST_HEAD(, site) sites = LIST_HEAD_INITIALIZER(sites);
static unsigned n_sites;
static struct conf *conf;
static struct ca *network_ca;

/* ---- certificates ---- */

static struct ca *
ca_new(const char *a, size_t a_len, const char *b, size_t b_len)
{
	struct ca *ca = malloc(sizeof(*ca) + a_len + 1 + b_len);

	if (!ca)
		return NULL;
	ca->refs = 1;
	memcpy(ca->text, a, a_len);
	ca->text[a_len] = '\n';
	memcpy(ca->text + a_len + 1, b, b_len);
	ca->len = a_len + 1 + b_len;
	return ca;
}

void
ca_release(struct ca *ca)
{
	if (ca && --ca->refs == 0)
		free(ca);
}

/* What to trust in all, from both. */
static void
site_trust(struct site *site)
{
	const struct ca *own = site->own_ca, *net = network_ca;

	ca_release(site->ca);
	site->ca = NULL;
	if (!own && !net)
		return;
	site->ca = ca_new(own ? own->text : "", own ? own->len : 0,
	    net ? net->text : "", net ? net->len : 0);
	if (!site->ca)
		log_err("no memory for the ca of %s", site->host);
}

/* ---- sites ---- */

/* Docker Hub's registry does not answer under the name it is called by. */
static const char *
api_host(const char *host)
{
	if (strcmp(host, "docker.io") == 0 ||
	    strcmp(host, "index.docker.io") == 0)
		return "registry-1.docker.io";
	return host;
}

static int
site_scheme(struct site *site, const char *scheme)
{
	char base[16 + HOST_MAX];
	struct origin origin;
	char *copy;

	snprintf(base, sizeof(base), "%s://%s", scheme, api_host(site->host));
	if (redirect_origin(base, &origin) < 0)
		return -EINVAL;
	copy = strdup(base);
	if (!copy)
		return -ENOMEM;
	free(site->base);
	site->base = copy;
	site->origin = origin;
	site->proven = false;
	return 0;
}

/* Bring a site in line with the configuration. */
static int
site_configure(struct site *site)
{
	const struct conf_registry *reg =
	    conf ? conf_registry(conf, site->host) : NULL;
	const char *scheme = "https";
	struct origin origin;
	int r = site_scheme(site, scheme);

	if (r < 0)
		return r;
	origin = site->origin;
	site->insecure = reg && reg->insecure;
	if (guard_loopback_host(origin.host) && !site->insecure &&
	    !(reg && reg->ca))
		return site_scheme(site, "http");
	return 0;
}

static void
site_free(struct site *site)
{
	LIST_REMOVE(site, entry);
	n_sites--;
	auth_forget(site);
	secret_done(&site->credentials);
	ca_release(site->own_ca);
	ca_release(site->ca);
	free(site->base);
	free(site->host);
	free(site);
}

/* One that nobody uses and nothing was handed over for. */
static void
site_evict(void)
{
	struct site *s;

	LIST_FOREACH(s, &sites, entry) {
		if (s->users > 0 || s->own_ca || s->credentials.user)
			continue;
		auth_forget(s);
		if (s->n_tokens > 0)
			continue;	/* one is being fetched */
		site_free(s);
		return;
	}
}

static bool
host_ok(const char *host)
{
	size_t len = strlen(host);

	if (len == 0 || len > HOST_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)host[i]) &&
		    !strchr("-._:[]", host[i]))
			return false;
	return true;
}

int
site_get(const char *host, struct site **out)
{
	struct site *s;
	int r;

	LIST_FOREACH(s, &sites, entry)
		if (strcmp(s->host, host) == 0) {
			*out = s;
			return 0;
		}
	if (!host_ok(host))
		return -EINVAL;
	if (n_sites >= SITES_MAX)
		site_evict();
	if (n_sites >= SITES_MAX)
		return -ENOMEM;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	LIST_INIT(&s->tokens);
	LIST_INSERT_HEAD(&sites, s, entry);
	n_sites++;
	s->host = strdup(host);
	r = s->host ? site_configure(s) : -ENOMEM;
	if (r < 0) {
		site_free(s);
		return r;
	}
	site_trust(s);
	*out = s;
	return 0;
}

void
site_conf(struct conf *fresh)
{
	struct site *s;

	conf_free(conf);
	conf = fresh;
	LIST_FOREACH(s, &sites, entry)
		if (site_configure(s) < 0)
			log_err("no memory to configure %s", s->host);
}

const char *
site_proxy(const struct site *site)
{
	if (!conf || !conf->proxy || guard_loopback_host(site->origin.host))
		return "";
	return conf->proxy;
}

void
site_answered(struct site *site, enum address_class class)
{
	if (!site->proven && site->insecure)
		log_info("%s is marked insecure and is used by %s",
		    site->host, site->origin.scheme);
	site->proven = true;
	site->class = class;
}

bool
site_fall_back(struct site *site)
{
	bool https = strcmp(site->origin.scheme, "https") == 0;

	if (!site->insecure || site->proven)
		return false;
	return site_scheme(site, https ? "http" : "https") == 0;
}

/* ---- what the parent hands over ---- */

void
site_auth(const char *host, int fd_taken)
{
	_cleanup_close_ int fd = fd_taken;
	_cleanup_secret_ char *text = NULL;
	struct site *site;
	size_t len = 0;

	if (site_get(host, &site) < 0) {
		log_err("auth-file for %s: no such host can exist", host);
		return;
	}
	auth_forget(site);
	secret_done(&site->credentials);
	if (fd_read_text(fd, AUTH_FILE_MAX, &text, &len) < 0) {
		snprintf(site->credentials.problem,
		    sizeof(site->credentials.problem),
		    "its auth-file can't be read; check it");
		log_warn("%s: its auth-file can't be read, or is larger than "
		    "%d bytes", host, AUTH_FILE_MAX);
		return;
	}
	if (secret_auth_file(text, len, host, &site->credentials) < 0)
		log_warn("%s: %s", host, site->credentials.problem);
}

void
site_ca(const char *host, int fd_taken)
{
	_cleanup_close_ int fd = fd_taken;
	_cleanup_free_ char *text = NULL;
	struct site *site = NULL, *s;
	struct ca **slot = &network_ca;
	size_t len;

	if (host[0] != '\0') {
		if (site_get(host, &site) < 0) {
			log_err("ca for %s: no such host can exist", host);
			return;
		}
		slot = &site->own_ca;
	}
	if (fd_read_text(fd, CA_FILE_MAX, &text, &len) < 0) {
		log_err("the ca %s%s can't be read, or is larger than %d "
		    "bytes", host[0] ? "of " : "of [network]", host,
		    CA_FILE_MAX);
		return;
	}
	ca_release(*slot);
	*slot = ca_new(text, len, "", 0);
	LIST_FOREACH(s, &sites, entry)
		if (!site || s == site)
			site_trust(s);
}
