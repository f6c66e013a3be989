/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: one INI file, every key optional.  The parent reads and
 * checks it once and hands the same bytes, sealed, to every child; each takes
 * what it needs from the same struct.
 */
#ifndef BASE_CONF_H
#define BASE_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONF_FILE_MAX	(256 * 1024)	/* bytes; people write these by hand */
#define CONF_REGISTRIES	64
#define CONF_MIRRORS	16		/* of one registry */
#define CONF_REQUESTS	16		/* to one host at once, by default */

struct conf_registry {
	char *host;		/* HOST[:PORT] */
	char *mirrors[CONF_MIRRORS];	/* URLs, in order */
	size_t n_mirrors;
	bool trust_mirrors;	/* with what no hash will check */
	uint32_t max_requests;	/* to one of these hosts at once, 1..64 */
	bool insecure;		/* plain HTTP, or HTTPS without a check */
	char *ca;		/* absolute path, or NULL */
	char *client_cert, *client_key;	/* absolute paths, PEM; or NULL */
	char *auth_file;	/* path of a docker config.json, or NULL */
};

struct conf {
	/* [store] */
	char *store_path;	/* absolute, or NULL: the default */
	uint64_t quota;		/* bytes; 0: none */
	uint64_t min_free;	/* bytes; used where min_free_percent is 0 */
	uint32_t min_free_percent;
	bool scrub;
	uint64_t scrub_rate;	/* bytes a second, > 0 */
	uint64_t scrub_every_s;	/* between the starts of two, 1..UINT32_MAX */
	/* [trust] */
	bool referrers;
	uint32_t integrity;	/* CTL(Rung): lowest that attach takes */
	/* [network] */
	char *ca, *proxy;
	char *no_proxy;		/* hosts, as curl's NO_PROXY; or NULL */
	uint64_t rate, background_rate;	/* bytes a second; 0: no limit */
	uint32_t hedge_percent;	/* of demand requests that may be sent twice */
	bool outage_eio;
	uint32_t outage_delay_s;	/* times_fit() */
	/* [devices] */
	uint32_t present;	/* CTL(Present) */
	bool ublk_force;	/* also on kernels that are known to hang */
	uint32_t max_devices;
	char *group;		/* may use the control socket */
	/* [prefetch] */
	bool prefetch_boot;
	enum { COMPLETE_IDLE, COMPLETE_NEVER, COMPLETE_NOW } complete;
	uint64_t prefetch_budget;	/* bytes; 0: the default */

	struct conf_registry registries[CONF_REGISTRIES];
	size_t n_registries;
};

/* Parse text.  On failure -EINVAL and *error is a sentence with file, line and
 * remedy (caller frees); `file` is only for that sentence. */
int conf_parse(const char *file, const char *text, struct conf **out,
    char **error);
/* From a received descriptor of already checked bytes. */
int conf_read(int fd, struct conf **out);
void conf_free(struct conf *conf);

/* The section of a registry host, or NULL. */
const struct conf_registry *conf_registry(const struct conf *conf,
    const char *host);

#endif
