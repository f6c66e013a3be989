/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages by table.  A link carries Frames of one .proto file; the receiver
 * has one table that says, for each message it takes: from whom, in which
 * phase, with or without a descriptor and raw bytes, and who handles it.
 * Whatever the table does not allow never reaches a handler.
 */
#ifndef IPC_IPC_H
#define IPC_IPC_H

#include <protobuf-c/protobuf-c.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/control.pb-c.h"
#include "ipc/suite.pb-c.h"

/* Long names of the generated code: CTL(Attach), CTL_BODY(ATTACH). */
#define CTL(name)	Shedstream__Control__V1__##name
#define CTL_BODY(name)	SHEDSTREAM__CONTROL__V1__FRAME__BODY_##name
#define CTL_CODE(name)	SHEDSTREAM__CONTROL__V1__CODE__##name
#define CTL_RUNG(name)	SHEDSTREAM__CONTROL__V1__RUNG__RUNG_##name
#define CTL_PRESENT(name) SHEDSTREAM__CONTROL__V1__PRESENT__PRESENT_##name
#define CTL_OUTAGE(name) SHEDSTREAM__CONTROL__V1__ON_OUTAGE__OUTAGE_##name
#define SUITE_BODY(name) SUITE__FRAME__BODY_##name

/* Limits of a link.  A frame holds at most one manifest or one status answer;
 * raw data is one chunk. */
#define IPC_BODY_MAX	(256 * 1024)	/* between siblings, and to a client */
#define IPC_CLIENT_MAX	(64 * 1024)	/* from a client */
#define IPC_RAW_MAX	(256 * 1024)
#define IPC_QUEUE_MAX	(1024 * 1024)	/* unread answers of one client */
#define IPC_CREDENTIALS_MAX (64 * 1024)	/* of SetCredentials; a token is a few KiB */
/* protobuf-c turns a body into at most so many times its bytes, or refuses. */
#define IPC_UNPACK_FACTOR 8

enum ipc_peer {		/* a mask */
	PEER_CONTROL = 1,
	PEER_CACHED = 2,
	PEER_FETCHERD = 4,
	PEER_IO = 8,
	PEER_CLIENT = 16,	/* an outsider on the control socket */
	PEER_DEVD = 32,		/* the service, as a client sees it */
};

enum ipc_phase {	/* a mask; each table gives its own meaning */
	PHASE_START = 1,	/* before hello, or before everything was handed over */
	PHASE_RUN = 2,
	PHASE_ANY = 3,
};

struct event_base;
struct ipc_link;

/* A message as a handler gets it.  The handler owns fd from its first line and
 * may take raw with take_ptr(); body dies when it returns. */
struct ipc_message {
	uint64_t id;		/* Frame.id */
	unsigned type;		/* field number in Frame.body */
	const void *body;
	uint8_t *raw;
	size_t raw_len;
	int fd;			/* -1 where the rule says none */
};

typedef void ipc_handler(void *owner, struct ipc_link *link,
    struct ipc_message *msg);

struct ipc_rule {
	unsigned type;		/* field number in Frame.body */
	const char *name;
	unsigned from;		/* ipc_peer mask */
	unsigned phase;		/* ipc_phase mask */
	bool fd;		/* a descriptor must ride along, or must not */
	bool raw;		/* raw bytes may follow, or must not */
	ipc_handler *on;
};

struct ipc_table {
	const ProtobufCMessageDescriptor *frame;
	const struct ipc_rule *rules;
	size_t n_rules;
	bool outsiders;	/* unknown fields are ignored and unknown or misplaced
			 * messages go to `unknown`; else both are errors */
	ipc_handler *unknown;
	/* The link is over; why is 0, -EPROTO or another -errno.  The owner
	 * calls ipc_free(). */
	void (*closed)(void *owner, struct ipc_link *link, int why);
	void (*drained)(void *owner, struct ipc_link *link);	/* optional */
};

/* A link over fd (taken, non-blocking) to a peer of that kind.  `table` and
 * `owner` outlive it.  Starts in PHASE_START.  NULL without memory. */
struct ipc_link *ipc_new(struct event_base *base, int fd,
    const struct ipc_table *table, enum ipc_peer peer, void *owner);
void ipc_free(struct ipc_link *link);

void ipc_phase(struct ipc_link *link, enum ipc_phase phase);
enum ipc_peer ipc_peer(const struct ipc_link *link);

/* Send one message of that type.  passfd (or -1) is taken in any case.  After
 * a failure (no memory, a client that does not read) closed() follows; a
 * caller need not look. */
void ipc_send(struct ipc_link *link, uint64_t id, unsigned type,
    const void *body, const void *raw, size_t raw_len, int passfd);

size_t ipc_queued(const struct ipc_link *link);
void ipc_pause(struct ipc_link *link, bool paused);
int ipc_flush(struct ipc_link *link);

/* Print a table, one "FRAME FIELD PEERS PROCESS [fd] [raw]" line a rule: for
 * the test that each message has exactly one receiver. */
void ipc_print_table(const char *process, const struct ipc_table *table);

/* Unpack a frame under its budget; for tests and fuzzers too.  The result is
 * in one allocation that free() releases.  0, -ENOMEM, or -EPROTO. */
int ipc_unpack(const ProtobufCMessageDescriptor *frame, const void *buf,
    size_t len, bool outsider, ProtobufCMessage **out, void **arena);

#endif
