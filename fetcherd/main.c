// SPDX-License-Identifier: Apache-2.0
/*
 * fetcherd: the only process on the network.  It parses what nobody has
 * verified (HTTP, TLS, JSON of tokens and of referrers), owns no file and no
 * device, and hands bytes to cached, which believes none of them.
 *
 *	devd's parent --configuration, credentials, certificates--> fetcherd
 *	cached <--Resolve, Stat, Referrers, Fetch /
 *	          Manifest, BlobInfo, Referring, Data, Credentials--> fetcherd
 *	fetcherd <--HTTP--> registries and where they lead
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "base/log.h"
#include "base/own.h"
#include "fetcherd/fetcherd.h"
#include "ipc/parent.h"
#include "policy/policy.h"

/* ---- what it may do ---- */

static const struct policy policy = {
	.process = "fetcherd",
	.user = "_shedfetch",
	/* threads: curl looks names up in one; dlopen: glibc's nss modules */
	.words = "stdio event unix inet read dlopen threads",
	.files = 256,	/* CONNECTIONS, a socket pair and a query a look-up */
};

/* Of the resolver, its modules and the store of authorities; directories,
 * because a rule on a file dies with a rename. */
static const struct policy_path paths[] = {
	{ .path = "/etc" },
	{ .path = "/run/systemd/resolve" },
	{ .path = "/run/resolvconf" },
	{ .path = "/run/NetworkManager" },
	{ .path = "/run/connman" },
	{ .path = "/mnt/wsl" },
	{ .path = "/usr/share" },
	{ .path = "/usr/local/share/ca-certificates" },
	{ .path = "/usr/lib" },
	{ .path = "/lib" },
	{ .path = "/lib64" },
};

/* ---- what it may be asked ---- */

static void on_resolve(void *owner, struct ipc_link *link,
    struct ipc_message *msg);
static void on_stat(void *owner, struct ipc_link *link,
    struct ipc_message *msg);
static void on_referrers(void *owner, struct ipc_link *link,
    struct ipc_message *msg);
static void on_fetch(void *owner, struct ipc_link *link,
    struct ipc_message *msg);
static void on_cancel_fetch(void *owner, struct ipc_link *link,
    struct ipc_message *msg);
static void link_closed(void *owner, struct ipc_link *link, int why);
static void link_drained(void *owner, struct ipc_link *link);

static const struct ipc_rule rules[] = {
	{ SUITE_BODY(RESOLVE), "Resolve", PEER_CACHED, PHASE_RUN, false, false, on_resolve },
	{ SUITE_BODY(STAT), "Stat", PEER_CACHED, PHASE_RUN, false, false, on_stat },
	{ SUITE_BODY(REFERRERS), "Referrers", PEER_CACHED, PHASE_RUN, false, false, on_referrers },
	{ SUITE_BODY(FETCH), "Fetch", PEER_CACHED, PHASE_RUN, false, false, on_fetch },
	{ SUITE_BODY(CANCEL_FETCH), "CancelFetch", PEER_CACHED, PHASE_RUN, false, false, on_cancel_fetch },
};

static const struct ipc_table table = {
	.frame = &suite__frame__descriptor,
	.rules = rules,
	.n_rules = ARRAY_LEN(rules),
	.closed = link_closed,
	.drained = link_drained,
};

static void on_conf(const struct parent_msg *msg, int fd);
static void on_auth(const struct parent_msg *msg, int fd);
static void on_ca(const struct parent_msg *msg, int fd);
static void on_cert(const struct parent_msg *msg, int fd);
static void on_key(const struct parent_msg *msg, int fd);
static void on_peer(const struct parent_msg *msg, int fd);
static void on_go(const struct parent_msg *msg, int fd);

static const struct parent_rule parent_rules[] = {
	{ PARENT_CONF, true, on_conf },
	{ PARENT_AUTH, true, on_auth },
	{ PARENT_CA, true, on_ca },
	{ PARENT_CERT, true, on_cert },
	{ PARENT_KEY, true, on_key },
	{ PARENT_PEER, true, on_peer },
	{ PARENT_GO, false, on_go },
};

static struct event_base *base;
static struct parent_link *parent;
static struct ipc_link *cached;	/* NULL: none now */
static bool running;		/* everything was handed over */

/* ---- cached ---- */

static void
on_resolve(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	request_resolve(link, msg->id, msg->body);
}

static void
on_stat(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	request_stat(link, msg->id, msg->body);
}

static void
on_referrers(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	request_referrers(link, msg->id, msg->body);
}

static void
on_fetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	request_fetch(link, msg->id, msg->body);
}

static void
on_cancel_fetch(void *owner, struct ipc_link *link, struct ipc_message *msg)
{
	(void)owner;
	request_cancel(link, msg->id);
}

static void
link_drop(void)
{
	request_cancel_all();
	ipc_free(take_ptr(cached));
}

static void
link_closed(void *owner, struct ipc_link *link, int why)
{
	struct parent_msg msg = { .type = CHILD_BROKEN, .peer = PEER_CACHED };

	(void)owner;
	if (link != cached)
		return;
	if (why == -EPROTO) {
		log_err("cached broke the protocol");
		parent_send(parent, &msg, -1);
	}
	link_drop();
}

static void
link_drained(void *owner, struct ipc_link *link)
{
	(void)owner;
	(void)link;
	transfer_resume();
}

/* ---- the parent ---- */

static void
on_conf(const struct parent_msg *msg, int fd_taken)
{
	_cleanup_close_ int fd = fd_taken;
	struct conf *conf;

	(void)msg;
	if (conf_read(fd, &conf) < 0)
		log_die("the configuration can't be read");
	site_conf(conf);
}

/* Before any answer to what it asks from now on. */
static void
tell_cached(const char *host)
{
	Suite__Credentials m = SUITE__CREDENTIALS__INIT;

	m.host = (char *)host;
	ipc_send(cached, 0, SUITE_BODY(CREDENTIALS), &m, NULL, 0, -1);
}

static void
on_auth(const struct parent_msg *msg, int fd)
{
	site_auth(msg->text, fd, msg->count);
	if (cached)
		site_news(tell_cached);
}

static void
on_ca(const struct parent_msg *msg, int fd)
{
	site_ca(msg->text, fd);
}

static void
on_cert(const struct parent_msg *msg, int fd)
{
	site_cert(msg->text, fd);
}

static void
on_key(const struct parent_msg *msg, int fd)
{
	site_key(msg->text, fd);
}

static void
link_run(void)
{
	ipc_phase(cached, PHASE_RUN);
	ipc_pause(cached, false);
}

static void
on_peer(const struct parent_msg *msg, int fd)
{
	if (msg->peer != PEER_CACHED)
		log_die("the parent linked it to peer %u", msg->peer);
	if (cached)
		link_drop();
	cached = ipc_new(base, fd, &table, PEER_CACHED, NULL);
	if (!cached)
		log_die("no memory for the link to cached");
	site_news(tell_cached);
	ipc_pause(cached, true);
	if (running)
		link_run();
}

static void
on_go(const struct parent_msg *msg, int fd)
{
	struct parent_msg ready = { .type = CHILD_READY,
		.count = (uint32_t)getpid() };

	(void)msg;
	(void)fd;
	running = true;
	if (cached)
		link_run();
	parent_send(parent, &ready, -1);
}

int
main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--messages") == 0) {
		ipc_print_table("fetcherd", &table);
		return 0;
	}
	log_init("fetcherd");
	if (argc == 4 && strcmp(argv[1], "--try") == 0) {
		policy_enter(&policy, paths, ARRAY_LEN(paths));
		policy_try(argv[2], argv[3]);
	}
	if (argc != 1)
		log_die("fetcherd is started by devd");
	signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	if (!base)
		log_die("no memory for the event loop");
	secret_init();
	parent = parent_attach(base, parent_rules, ARRAY_LEN(parent_rules),
	    NULL);
	transfer_init(base);
	auth_init(base);
	policy_enter(&policy, paths, ARRAY_LEN(paths));
	event_base_dispatch(base);
	log_die("the event loop ended");
}
