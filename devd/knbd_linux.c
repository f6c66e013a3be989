// SPDX-License-Identifier: Apache-2.0
/*
 * Commands to the kernel's NBD client, by generic netlink.  All of this runs in
 * a process apart (apart.c), which has the kernel's end of a connection and
 * nothing else of the parent's: a command may never come back.
 *
 * Constants are those of <linux/nbd-netlink.h>; what the kernel does with them
 * is drivers/block/nbd.c of 6.1 to 7.2:
 * - no timeout: an answer that comes late is no reason to end a connection;
 * - dead-conn-timeout: a request that finds no connection waits so long for the
 *   next one, and then is an error, as are all behind it;
 * - a request that was sent on a connection that ended is sent again when its
 *   timer fires, which is the queue's io_timeout, 30 s if nobody says other.
 *   Each time it also tells the kernel's log of a request that is merely slow;
 * - the identifier is in /sys/block/nbdN/backend until the last one who has the
 *   device open closes it, and must be told with each further command.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/utsname.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "devd/devd.h"

#define BLOCKS		"/sys/block"
#define SECTOR		512
#define DEAD_S		600	/* longer than any worker's back-off */
/* As of ublk devices and files, whatever the kernel's own choice is. */
#define MAX_SECTORS_KB	512
#define READ_AHEAD_KB	512

struct driver {
	struct nl_sock *sock;
	int family;
	/* of the command under way */
	bool over;
	int result;		/* the number it told, 0, or -errno */
};

static int
on_error(struct sockaddr_nl *from, struct nlmsgerr *e, void *arg)
{
	struct driver *d = arg;

	(void)from;
	d->over = true;
	d->result = e->error;
	return NL_STOP;
}

static int
on_ack(struct nl_msg *msg, void *arg)
{
	(void)msg;
	((struct driver *)arg)->over = true;
	return NL_STOP;
}

static int
on_answer(struct nl_msg *msg, void *arg)
{
	struct nlattr *attrs[NBD_ATTR_MAX + 1];
	struct driver *d = arg;

	if (genlmsg_parse(nlmsg_hdr(msg), 0, attrs, NBD_ATTR_MAX, NULL) == 0 &&
	    attrs[NBD_ATTR_INDEX] && nla_len(attrs[NBD_ATTR_INDEX]) >=
	    (int)sizeof(uint32_t))
		d->result = (int)nla_get_u32(attrs[NBD_ATTR_INDEX]);
	return NL_OK;
}

static void
driver_close(struct driver *d)
{
	nl_socket_free(d->sock);
}

/* -ENOENT: the kernel has no NBD. */
static int
driver_open(struct driver *d)
{
	*d = (struct driver){ .sock = nl_socket_alloc() };
	if (!d->sock)
		return -ENOMEM;
	if (genl_connect(d->sock) < 0)
		return -EPROTONOSUPPORT;
	d->family = genl_ctrl_resolve(d->sock, NBD_GENL_FAMILY_NAME);
	if (d->family < 0)
		return -ENOENT;
	if (nl_socket_modify_err_cb(d->sock, NL_CB_CUSTOM, on_error, d) < 0 ||
	    nl_socket_modify_cb(d->sock, NL_CB_ACK, NL_CB_CUSTOM, on_ack,
	    d) < 0 || nl_socket_modify_cb(d->sock, NL_CB_VALID, NL_CB_CUSTOM,
	    on_answer, d) < 0)
		return -ENOMEM;
	return 0;
}

/* ---- one command ---- */

static struct nl_msg *
command(struct driver *d, uint8_t what)
{
	struct nl_msg *msg = nlmsg_alloc();

	if (msg && !genlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, d->family, 0,
	    NLM_F_ACK, what, NBD_GENL_VERSION)) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

/* The kernel's end of the connection.  < 0: no room. */
static int
put_socket(struct nl_msg *msg)
{
	struct nlattr *list = nla_nest_start(msg, NBD_ATTR_SOCKETS), *item;

	item = list ? nla_nest_start(msg, NBD_SOCK_ITEM) : NULL;
	if (!item || nla_put_u32(msg, NBD_SOCK_FD, APART_FD) < 0)
		return -1;
	nla_nest_end(msg, item);
	return nla_nest_end(msg, list);
}

/* Send msg, which is taken, and wait: the result. */
static int
ask_driver(struct driver *d, struct nl_msg *msg)
{
	int r = nl_send_auto(d->sock, msg);

	nlmsg_free(msg);
	if (r < 0)
		return -EIO;
	d->over = false;
	d->result = 0;
	while (!d->over)
		if (nl_recvmsgs_default(d->sock) < 0 && !d->over)
			return -EIO;
	return d->result;
}

/* ---- acts ---- */

static void
set_queue(unsigned number, const char *what, unsigned value)
{
	_cleanup_close_ int fd = -1;
	char path[96];

	snprintf(path, sizeof(path), BLOCKS "/nbd%u/queue/%s", number, what);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || dprintf(fd, "%u", value) < 0)
		log_warn("set %s to %u: %s", path, value, strerror(errno));
}

static void
give_node(unsigned number, gid_t group, mode_t mode)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/nbd%u", number);
	if (chown(path, 0, group) < 0 || chmod(path, mode) < 0)
		log_warn("give %s to its group: %s", path, strerror(errno));
}

static int
act_connect(struct driver *d, const struct knbd_ask *ask)
{
	struct nl_msg *msg = command(d, NBD_CMD_CONNECT);
	int r;

	if (!msg || nla_put_u64(msg, NBD_ATTR_SIZE_BYTES, ask->size) < 0 ||
	    nla_put_u64(msg, NBD_ATTR_BLOCK_SIZE_BYTES, SECTOR) < 0 ||
	    nla_put_u64(msg, NBD_ATTR_SERVER_FLAGS, NBD_FLAG_HAS_FLAGS |
	    NBD_FLAG_READ_ONLY) < 0 ||
	    nla_put_u64(msg, NBD_ATTR_TIMEOUT, 0) < 0 ||
	    nla_put_u64(msg, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_S) < 0 ||
	    nla_put_string(msg, NBD_ATTR_BACKEND_IDENTIFIER,
	    ask->identifier) < 0 || put_socket(msg) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	r = ask_driver(d, msg);
	if (r < 0)
		return r;
	set_queue((unsigned)r, "io_timeout", KNBD_RETRY_MS);
	set_queue((unsigned)r, "max_sectors_kb", MAX_SECTORS_KB);
	set_queue((unsigned)r, "read_ahead_kb", READ_AHEAD_KB);
	give_node((unsigned)r, ask->group, 0440);
	return r;
}

static int
act_resume(struct driver *d, const struct knbd_ask *ask)
{
	struct nl_msg *msg = command(d, NBD_CMD_RECONFIGURE);

	if (!msg || nla_put_u32(msg, NBD_ATTR_INDEX, ask->number) < 0 ||
	    nla_put_string(msg, NBD_ATTR_BACKEND_IDENTIFIER,
	    ask->identifier) < 0 || put_socket(msg) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return ask_driver(d, msg);
}

/* Whoever has it open gets errors.  Its node is root's again, for whomever that
 * number serves next. */
static int
disconnect(struct driver *d, unsigned number)
{
	struct nl_msg *msg = command(d, NBD_CMD_DISCONNECT);

	if (!msg || nla_put_u32(msg, NBD_ATTR_INDEX, number) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	give_node(number, 0, 0600);
	return ask_driver(d, msg);
}

/* Has it an identifier that begins like this? */
static bool
is_ours(const char *name, const char *identifier)
{
	char path[320], has[KNBD_IDENTIFIER_SIZE] = "";
	_cleanup_fclose_ FILE *f = NULL;

	snprintf(path, sizeof(path), BLOCKS "/%s/backend", name);
	f = fopen(path, "re");
	return f && fgets(has, sizeof(has), f) &&
	    strncmp(has, identifier, strlen(identifier)) == 0;
}

static bool
is_kept(const struct knbd_ask *ask, unsigned number)
{
	for (size_t i = 0; i < ask->n_keep; i++)
		if (ask->keep[i] == number)
			return true;
	return false;
}

/* By its identifier: of one whose CONNECT did not answer, that is all we know.
 * One that has ended and is still open keeps it, and is ended once more. */
static int
act_remove(struct driver *d, const struct knbd_ask *ask)
{
	DIR *blocks = opendir(BLOCKS);
	struct dirent *e;
	unsigned number;
	int n = 0, r = 0, one;

	while (blocks && (e = readdir(blocks))) {
		if (sscanf(e->d_name, "nbd%u", &number) != 1 ||
		    is_kept(ask, number) || !is_ours(e->d_name,
		    ask->identifier))
			continue;
		one = disconnect(d, number);
		if (one < 0 && r == 0)
			r = one;
		n++;
	}
	if (blocks)
		closedir(blocks);
	return r < 0 ? r : n;
}

static int
act_probe(struct driver *d, const struct knbd_ask *ask)
{
	(void)d;
	(void)ask;
	return 0;
}

static int (*const acts[])(struct driver *d, const struct knbd_ask *ask) = {
	[KNBD_ACT_PROBE] = act_probe,
	[KNBD_ACT_CONNECT] = act_connect,
	[KNBD_ACT_RESUME] = act_resume,
	[KNBD_ACT_REMOVE] = act_remove,
};

int
knbd_act(const void *arg)
{
	const struct knbd_ask *ask = arg;
	struct driver d;
	int r = driver_open(&d);

	if (r == 0)
		r = acts[ask->act](&d, ask);
	else if (ask->act == KNBD_ACT_REMOVE)
		r = 0;		/* no NBD, no devices */
	driver_close(&d);
	return r;
}

/* ---- in the parent itself ---- */

int
knbd_possible(const char **remedy)
{
	const struct knbd_ask ask = { .act = KNBD_ACT_PROBE };
	struct utsname kernel;
	int r;

	if (geteuid() != 0) {
		*remedy = "only a service of root can make devices of the "
		    "kernel's NBD; use --present nbd";
		return -EPERM;
	}
	uname(&kernel);
	*remedy = knbd_kernel_refused(kernel.release);
	if (*remedy)
		return -EOPNOTSUPP;
	*remedy = "the kernel's NBD is missing: run modprobe nbd and restart "
	    "this service, or use --present file";
	r = apart_run(knbd_act, &ask, -1, KNBD_PROBE_MS);
	return r;
}
