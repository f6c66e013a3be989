// SPDX-License-Identifier: Apache-2.0
/*
 * Registry hosts and their mirrors: what the configuration says of each
 * (scheme, trust, whom to log in as) and what was learnt by talking to it (does
 * it answer under this scheme, at what class of address, does it want Basic).
 *
 * A mirror is a site of its own, one for each registry that it is a mirror of.
 * It has the scheme of its URL.  Who we are to it, and why it is trusted, is
 * what the section of its own HOST[:PORT] says; nothing of the registry's goes
 * there.  That section may be a registry's, whose credentials were given for
 * its own origin: they go to no other, and so never in clear to http://HOST,
 * unless the section is insecure or the host is loopback.
 *
 *	host is loopback, without a ca		http
 *	insecure = yes				https unchecked, else http
 *	all others				https
 *
 * A ca, its own or that of [network], is trusted beside the system's store,
 * for whatever this registry leads to.  A client certificate is shown to the
 * registry's own origin only.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "fetcherd/fetcherd.h"

static LIST_HEAD(, site) sites = LIST_HEAD_INITIALIZER(sites);
static unsigned n_sites;
static struct conf *conf;
static struct pem *network_ca;
static uint64_t last_id;

/* ---- certificates ---- */

static struct pem *
pem_new(const char *a, size_t a_len, const char *b, size_t b_len)
{
	struct pem *pem = malloc(sizeof(*pem) + a_len + 1 + b_len);

	if (!pem)
		return NULL;
	pem->refs = 1;
	memcpy(pem->text, a, a_len);
	pem->text[a_len] = '\n';
	memcpy(pem->text + a_len + 1, b, b_len);
	pem->len = a_len + 1 + b_len;
	return pem;
}

void
pem_release(struct pem *pem)
{
	if (!pem || --pem->refs > 0)
		return;
	explicit_bzero(pem->text, pem->len);
	free(pem);
}

/* What to trust in all, from both. */
static void
site_trust(struct site *site)
{
	const struct pem *own = site->section->own_ca, *net = network_ca;

	pem_release(site->ca);
	site->ca = NULL;
	if (!own && !net)
		return;
	site->ca = pem_new(own ? own->text : "", own ? own->len : 0,
	    net ? net->text : "", net ? net->len : 0);
	if (!site->ca)
		log_err("no memory for the ca of %s", site->section->host);
}

const struct pem *
site_network_ca(void)
{
	return network_ca;
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

static const struct conf_registry *
site_section(const struct site *site)
{
	return conf ? conf_registry(conf, site->section->host) : NULL;
}

static int
site_base(struct site *site, const char *base)
{
	struct origin origin;
	char *copy;

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

static int
site_scheme(struct site *site, const char *scheme)
{
	char base[16 + HOST_MAX];

	snprintf(base, sizeof(base), "%s://%s", scheme, api_host(site->host));
	return site_base(site, base);
}

/* Bring a site in line with the configuration. */
static int
site_configure(struct site *site)
{
	const struct conf_registry *reg = site_section(site);
	struct origin origin;
	int r;

	site->insecure = reg && reg->insecure;
	if (site->mirror)
		return 0;
	r = site_scheme(site, "https");
	if (r < 0)
		return r;
	origin = site->origin;
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
	if (site->section && site->section != site)
		site->section->users--;
	secret_done(&site->credentials);
	pem_release(site->own_ca);
	pem_release(site->cert);
	pem_release(site->key);
	pem_release(site->ca);
	free(site->base);
	free(site->query);
	free(site->mirror);
	free(site->host);
	free(site);
}

/* One that nobody uses and nothing was handed over for. */
static void
site_evict(void)
{
	struct site *s;

	LIST_FOREACH(s, &sites, entry) {
		if (s->users > 0 || s->own_ca || s->cert || s->key ||
		    s->credentials.user)
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

static struct site *
site_find(const char *host, const char *mirror)
{
	struct site *s;

	LIST_FOREACH(s, &sites, entry)
		if (strcmp(s->host, host) == 0 &&
		    strcmp(s->mirror ? s->mirror : "", mirror) == 0)
			return s;
	return NULL;
}

static struct site *
site_new(const char *host)
{
	struct site *s;

	if (n_sites >= SITES_MAX)
		site_evict();
	if (n_sites >= SITES_MAX)
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->id = ++last_id;
	s->section = s;
	LIST_INIT(&s->tokens);
	LIST_INSERT_HEAD(&sites, s, entry);
	n_sites++;
	s->host = strdup(host);
	if (s->host)
		return s;
	site_free(s);
	return NULL;
}

/* A mirror is told whose blobs are wanted, by ?ns=HOST, as containerd tells it
 * (core/remotes/docker/resolver.go, addNamespace): those that serve more than
 * one registry (Spegel, Dragonfly) go by that.  Docker Hub is docker.io there,
 * by whichever of its names it is called. */
static char *
namespace_query(const char *host)
{
	const char *api = api_host(host);
	char *text, *query = NULL;

	if (strcmp(api, "registry-1.docker.io") == 0)
		host = "docker.io";
	text = curl_easy_escape(NULL, host, 0);
	if (text && asprintf(&query, "ns=%s", text) < 0)
		query = NULL;
	curl_free(text);
	return query;
}

/* Is it one of those that the configuration lists for this host? */
static bool
mirror_listed(const char *host, const char *mirror)
{
	const struct conf_registry *reg =
	    conf ? conf_registry(conf, host) : NULL;

	for (size_t i = 0; reg && i < reg->n_mirrors; i++)
		if (strcmp(reg->mirrors[i], mirror) == 0)
			return true;
	return false;
}

/* The site whose section is that of the HOST[:PORT] in a mirror's URL. */
static int
mirror_section(const char *mirror, struct site **out)
{
	const char *authority = strstr(mirror, "://");
	char host[HOST_MAX + 1];
	size_t len;

	if (!authority || strpbrk(mirror, "?#@") ||
	    strlen(mirror) > URL_MAX / 2)
		return -EINVAL;
	authority += 3;
	len = strcspn(authority, "/");
	if (len > HOST_MAX)
		return -EINVAL;
	memcpy(host, authority, len);
	host[len] = '\0';
	return site_get(host, "", out);
}

/* Turn a new site into that of a mirror. */
static int
mirror_init(struct site *s, const char *mirror, struct site *section)
{
	_cleanup_free_ char *base = strdup(mirror);
	size_t len = strlen(mirror);

	s->section = section;
	section->users++;
	s->mirror = strdup(mirror);
	s->query = namespace_query(s->host);
	if (!base || !s->mirror || !s->query)
		return -ENOMEM;
	while (len > 0 && base[len - 1] == '/')
		base[--len] = '\0';
	return site_base(s, base);
}

static int
site_make(const char *host, const char *mirror, struct site **out)
{
	struct site *section = NULL, *s;
	int r = 0;

	if (*mirror != '\0')
		r = mirror_section(mirror, &section);
	if (r < 0)
		return r;
	if (section)
		section->users++;	/* not to be evicted for it */
	s = site_new(host);
	if (section)
		section->users--;
	if (!s)
		return -ENOMEM;
	if (section)
		r = mirror_init(s, mirror, section);
	if (r == 0)
		r = site_configure(s);
	if (r < 0) {
		site_free(s);
		return r;
	}
	site_trust(s);
	*out = s;
	return 0;
}

int
site_get(const char *host, const char *mirror, struct site **out)
{
	if (!host_ok(host))
		return -EINVAL;
	/* asked each time: what is no longer configured is no longer used */
	if (*mirror != '\0' && !mirror_listed(host, mirror))
		return -EPERM;
	*out = site_find(host, mirror);
	return *out ? 0 : site_make(host, mirror, out);
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
site_proxy(const struct origin *to)
{
	if (!conf || !conf->proxy || guard_host(to->host) == ADDRESS_LOOPBACK ||
	    proxy_exempt(conf->no_proxy, to->host))
		return "";
	return conf->proxy;
}

/* May what was given for its section go to this site? */
static bool
origin_fits(const struct site *site)
{
	const struct site *section = site->section;
	struct origin given;
	char url[16 + HOST_MAX];

	if (!site->mirror)
		return true;
	if (site->insecure || guard_loopback_host(site->origin.host))
		return true;
	snprintf(url, sizeof(url), "https://%s", api_host(section->host));
	return redirect_origin(url, &given) == 0 &&
	    redirect_same(&given, &site->origin);
}

bool
site_withholds(const struct site *site)
{
	return site->section->credentials.user && !origin_fits(site);
}

const struct credentials *
site_credentials(const struct site *site)
{
	static const struct credentials none;

	return origin_fits(site) ? &site->section->credentials : &none;
}

bool
site_lacks_cert(const struct site *site)
{
	const struct conf_registry *reg = site_section(site);

	return reg && reg->client_cert &&
	    (!site->section->cert || !site->section->key);
}

void
site_answered(struct site *site, enum address_class class)
{
	if (!site->proven && site->insecure)
		log_info("%s is marked insecure and is used by %s",
		    site->section->host, site->origin.scheme);
	site->proven = true;
	site->class = class;
}

bool
site_fall_back(struct site *site)
{
	bool https = strcmp(site->origin.scheme, "https") == 0;

	if (!site->insecure || site->proven || site->mirror)
		return false;
	return site_scheme(site, https ? "http" : "https") == 0;
}

/* ---- what the parent hands over ---- */

void
site_auth(const char *host, int fd_taken, uint32_t from)
{
	_cleanup_close_ int fd = fd_taken;
	_cleanup_free_ char *text = NULL;
	struct site *site, *s;
	size_t len = 0;

	if (site_get(host, "", &site) < 0) {
		log_err("auth-file for %s: no such host can exist", host);
		return;
	}
	LIST_FOREACH(s, &sites, entry)
		if (s->section == site)
			auth_forget(s);
	secret_done(&site->credentials);
	site->news |= from == AUTH_SET_NOW;
	if (fd_read_text(fd, AUTH_FILE_MAX, &text, &len) < 0) {
		snprintf(site->credentials.problem,
		    sizeof(site->credentials.problem),
		    "its auth-file can't be read; check it");
		log_warn("%s: its auth-file can't be read, or is larger than "
		    "%d bytes", host, AUTH_FILE_MAX);
		return;
	}
	if (len == 0 && from != AUTH_CONFIGURED)
		return;		/* taken away */
	if (secret_auth_file(text, len, host, &site->credentials) < 0 &&
	    from == AUTH_CONFIGURED)
		log_warn("%s: %s", host, site->credentials.problem);
	else if (!site->credentials.user) {
		log_warn("%s: what was set as its credentials has no user name "
		    "and password for it; run `shedctl login %s`", host, host);
		site->credentials.problem[0] = '\0';	/* as if none were */
	}
	explicit_bzero(text, len);
}

void
site_news(void (*told)(const char *host))
{
	struct site *s;

	LIST_FOREACH(s, &sites, entry)
		if (s->news) {
			s->news = false;
			told(s->host);
		}
}

void
site_ca(const char *host, int fd_taken)
{
	_cleanup_close_ int fd = fd_taken;
	_cleanup_free_ char *text = NULL;
	struct site *site = NULL, *s;
	struct pem **slot = &network_ca;
	size_t len;

	if (host[0] != '\0') {
		if (site_get(host, "", &site) < 0) {
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
	pem_release(*slot);
	*slot = pem_new(text, len, "", 0);
	LIST_FOREACH(s, &sites, entry)
		if (!site || s->section == site)
			site_trust(s);
}

/* What it was before stays in place for transfers that began with it. */
static void
site_pair(const char *host, int fd_taken, const char *what, size_t at)
{
	_cleanup_close_ int fd = fd_taken;
	_cleanup_free_ char *text = NULL;
	struct site *site;
	struct pem **slot;
	size_t len = 0;

	if (site_get(host, "", &site) < 0) {
		log_err("%s for %s: no such host can exist", what, host);
		return;
	}
	slot = (struct pem **)((char *)site + at);
	pem_release(*slot);
	*slot = NULL;
	if (fd_read_text(fd, CERT_FILE_MAX, &text, &len) < 0) {
		log_err("the %s of %s can't be read, or is larger than %d "
		    "bytes", what, host, CERT_FILE_MAX);
		return;
	}
	*slot = pem_new(text, len, "", 0);
	explicit_bzero(text, len);
}

void
site_cert(const char *host, int fd)
{
	site_pair(host, fd, "client-cert", offsetof(struct site, cert));
}

void
site_key(const char *host, int fd)
{
	site_pair(host, fd, "client-key", offsetof(struct site, key));
}
