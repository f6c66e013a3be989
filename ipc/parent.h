/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devd's parent and its children say to each other: one fixed-size
 * struct, at most one descriptor.  The parent parses nothing else.
 */
#ifndef IPC_PARENT_H
#define IPC_PARENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "ipc/ipc.h"

#define CHILD_FD	3	/* where a child finds its link to the parent */
#define DEVICE_ID_LEN	16	/* hex digits: device_id() in devd/names.c */
#define DEVICE_NAME_MAX	63
#define DEVICES_MAX	1024	/* a host has tens; bounds every table */
/* The largest device: the location word holds 48 bits of 4 KiB blocks, a file
 * offset 63 bits; 1 TiB keeps a map of 64 KiB units at 128 MiB. */
#define DEVICE_SIZE_MAX	((uint64_t)1 << 40)

/* A device, complete: enough for a new cached or a new worker to go on. */
struct device_spec {
	char id[DEVICE_ID_LEN + 1];
	char name[DEVICE_NAME_MAX + 1];
	struct digest image;	/* of the image manifest */
	struct digest blob;	/* of the erofs */
	struct digest layout;	/* of the index; of the erofs without one */
	uint64_t size;		/* bytes, <= DEVICE_SIZE_MAX */
	uint32_t unit;		/* bytes behind one word of the map */
	uint32_t rung;		/* CTL(Rung) */
	uint32_t present;	/* CTL(Present) */
	uint32_t restarts;	/* of its worker */
	uint32_t eio_after_s;	/* a read gets EIO after so long an outage; 0:
				 * it waits for as long as it takes */
};

enum parent_type {
	/* parent -> child, in this order at start, then at any time */
	PARENT_CONF = 1,	/* fd: the configuration, sealed */
	PARENT_AUTH,		/* fd: credentials for text = "HOST[:PORT]", empty: none
				 * any more; count: enum auth_from (fetcherd) */
	PARENT_CA,		/* fd: CA file for text = host, or "" for all (fetcherd) */
	PARENT_CERT,		/* fd: client certificate for text = host, */
	PARENT_KEY,		/* fd: and its key (fetcherd) */
	PARENT_LISTEN,		/* fd: listening socket (control: of control; io: of its device) */
	PARENT_FUSE,		/* fd: where requests of its mount are read (io, file) */
	PARENT_JOURNAL,		/* fd: those that are not answered (io, file) */
	PARENT_UBLK,		/* fd: its character device, which nobody else has (io, ublk) */
	PARENT_NBD,		/* fd: a connection to the kernel's NBD client, which
				 * is past its handshake (io, kernel-nbd) */
	PARENT_STATE,		/* fd: attachments file; count: 0 or 1 (control) */
	PARENT_STORE,		/* fd: the store directory (cached); text: its
				 * path, "" if that is longer (control) */
	PARENT_KIND,		/* devices can be presented as CTL(Present) count;
				 * status < 0: not, text: what is wrong and what
				 * helps (control) */
	PARENT_STORE_LOCK,	/* fd: held open as long as cached lives */
	PARENT_PEER,		/* fd: a new link to `peer`, replacing the old one;
				 * with PEER_IO, for `device` (cached) */
	PARENT_DEVICE,		/* device exists; fd: its map (cached: writable, io:
				 * read-only), its statistics, read-only
				 * (control); count: the number in a block
				 * device's name (control) */
	PARENT_STATS,		/* fd: statistics page, writable (io) */
	PARENT_GO,		/* everything that exists was handed over */
	PARENT_GONE,		/* device is gone, its map is dead (cached, control) */
	PARENT_FAILED,		/* device could not be made: status, text (control) */
	PARENT_CHILD,		/* peer lives: status = its pid, count = restarts, text =
				 * why the last one ended; with PEER_IO,
				 * `device` (control) */
	PARENT_OPENERS,		/* device has count openers (control) */
	PARENT_HOLDS,		/* CHILD_HOLD of that count was done, or status says
				 * why not (control) */

	/* child -> parent */
	CHILD_READY = 64,	/* in its sandbox, ready to serve; count: its pid as it sees it */
	CHILD_BROKEN,		/* peer broke the protocol: restart it; with PEER_IO, device */
	CHILD_CREATE,		/* make device (control) */
	CHILD_DESTROY,		/* end device (control) */
	CHILD_NAME,		/* device is also called device.name (control; passed to io) */
	CHILD_SHUTDOWN,		/* end the suite (control) */
	CHILD_OPENERS,		/* device has count openers (io) */
	CHILD_HOLD,		/* fd: hold these credentials for text = host, and
				 * give them to fetcherd; answered by
				 * PARENT_HOLDS with the same count (control) */
};

enum auth_from {
	AUTH_CONFIGURED,	/* an auth-file */
	AUTH_SET,		/* a client set them */
	AUTH_SET_NOW,		/* and cached may wait for them */
};

struct parent_msg {
	uint32_t type;
	uint32_t peer;		/* enum ipc_peer */
	int32_t status;
	uint32_t count;
	struct device_spec device;
	char text[256];		/* NUL-terminated */
};

/* The link, at either end. */
struct event_base;
struct parent_link;

struct parent_ops {
	/* One message; the callback owns fd from its first line. */
	void (*message)(void *owner, const struct parent_msg *msg, int fd);
	void (*closed)(void *owner);
};

/* Takes fd.  NULL without memory. */
struct parent_link *parent_link_new(struct event_base *base, int fd,
    const struct parent_ops *ops, void *owner);
void parent_link_free(struct parent_link *link);

/* passfd (or -1) is taken. */
void parent_send(struct parent_link *link, const struct parent_msg *msg,
    int passfd);
int parent_flush(struct parent_link *link);

/* A child's half: rules that say which message it takes, with or without a
 * descriptor; what is not in the table ends the child. */
struct parent_rule {
	enum parent_type type;
	bool fd;
	void (*on)(const struct parent_msg *msg, int fd);
};

/* The child's link on CHILD_FD.  When the parent is gone, or wants this process
 * to end, on_gone() is called (NULL: the process ends at once). */
struct parent_link *parent_attach(struct event_base *base,
    const struct parent_rule *rules, size_t n_rules, void (*on_gone)(void));

#endif
