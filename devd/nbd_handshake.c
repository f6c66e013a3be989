// SPDX-License-Identifier: Apache-2.0
/*
 * The NBD handshake: fixed newstyle, one option after the other.
 *
 *	FLAGS --4 bytes--> OPTION --GO, EXPORT_NAME--> RUN (nbd.c)
 *	                    |  ^ |
 *	  payload too long  v  | +--ABORT, too many, nonsense--> closed
 *	                   SKIP
 *
 * An option is taken when all of it is in c->in, and answered into c->out,
 * which nbd.c writes out before the next step.  A client's names are compared
 * and never used otherwise.
 */
#include <errno.h>
#include <string.h>

#include "base/own.h"
#include "devd/io.h"

/* ---- replies ---- */

static void
reply(struct conn *c, uint32_t type, const void *payload, size_t len)
{
	c->out_len += nbd_put_option_reply(c->out + c->out_len, c->option.type,
	    type, payload, len);
}

static int
ack(struct conn *c)
{
	reply(c, NBD_REP_ACK, NULL, 0);
	return 0;
}

static int
refuse(struct conn *c, uint32_t error)
{
	reply(c, error, NULL, 0);
	return 0;
}

static uint16_t
export_flags(const struct conn *c)
{
	return NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY |
	    NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
	    (c->session.structured ? NBD_FLAG_SEND_DF : 0);
}

/* ---- options ---- */

static int
on_go(struct conn *c, const uint8_t *in, size_t len)
{
	uint8_t info[NBD_OUT_SIZE];
	struct nbd_go go;

	if (nbd_parse_go(in, len, &go) < 0)
		return refuse(c, NBD_REP_ERR_INVALID);
	if (!nbd_is_name(&go.name))
		return refuse(c, NBD_REP_ERR_UNKNOWN);
	reply(c, NBD_REP_INFO, info,
	    nbd_put_info_export(info, c->session.size, export_flags(c)));
	/* Also to who did not ask: it says that any alignment will do. */
	reply(c, NBD_REP_INFO, info,
	    nbd_put_info_block_size(info, 1, NBD_PREFERRED, NBD_READ_MAX));
	if (go.infos & (1 << NBD_INFO_NAME))
		reply(c, NBD_REP_INFO, info,
		    nbd_put_info_text(info, NBD_INFO_NAME, nbd_name()));
	if (c->option.type == NBD_OPT_GO)
		c->state = CONN_RUN;
	return ack(c);
}

static int
on_export_name(struct conn *c, const uint8_t *in, size_t len)
{
	const struct nbd_string name = { (const char *)in, len };

	if (!nbd_is_name(&name))
		return -ENOENT;		/* this option has no error reply */
	c->out_len += nbd_put_export_info(c->out, c->session.size,
	    export_flags(c), !c->no_zeroes);
	c->state = CONN_RUN;
	return 0;
}

static int
on_abort(struct conn *c, const uint8_t *in, size_t len)
{
	(void)in;
	(void)len;
	c->closing = true;
	return ack(c);
}

static int
on_list(struct conn *c, const uint8_t *in, size_t len)
{
	uint8_t entry[NBD_OUT_SIZE];

	(void)in;
	if (len > 0)
		return refuse(c, NBD_REP_ERR_INVALID);
	reply(c, NBD_REP_SERVER, entry, nbd_put_list_entry(entry, nbd_name()));
	return ack(c);
}

static int
on_structured_reply(struct conn *c, const uint8_t *in, size_t len)
{
	(void)in;
	if (len > 0)
		return refuse(c, NBD_REP_ERR_INVALID);
	c->session.structured = true;
	return ack(c);
}

static int
on_meta_context(struct conn *c, const uint8_t *in, size_t len)
{
	bool list = c->option.type == NBD_OPT_LIST_META_CONTEXT;
	uint8_t payload[NBD_OUT_SIZE];
	struct nbd_meta meta;

	if (!list)
		c->session.contexts = 0;	/* also when it is refused */
	if (!c->session.structured || nbd_parse_meta(in, len, list, &meta) < 0)
		return refuse(c, NBD_REP_ERR_INVALID);
	if (!nbd_is_name(&meta.name))
		return refuse(c, NBD_REP_ERR_UNKNOWN);
	for (unsigned i = 0; i < NBD_CONTEXTS; i++)
		if (meta.contexts & (1U << i))
			reply(c, NBD_REP_META_CONTEXT, payload,
			    nbd_put_context(payload, 1U << i));
	if (!list)
		c->session.contexts = meta.contexts;
	return ack(c);
}

static const struct {
	enum nbd_option_type type;
	int (*on)(struct conn *c, const uint8_t *in, size_t len);
} options[] = {
	{ NBD_OPT_EXPORT_NAME, on_export_name },
	{ NBD_OPT_ABORT, on_abort },
	{ NBD_OPT_LIST, on_list },
	{ NBD_OPT_INFO, on_go },
	{ NBD_OPT_GO, on_go },
	{ NBD_OPT_STRUCTURED_REPLY, on_structured_reply },
	{ NBD_OPT_LIST_META_CONTEXT, on_meta_context },
	{ NBD_OPT_SET_META_CONTEXT, on_meta_context },
};

static int
option_take(struct conn *c, const uint8_t *in, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (options[i].type == c->option.type)
			return options[i].on(c, in, len);
	return refuse(c, NBD_REP_ERR_UNSUP);	/* TLS, extended headers... */
}

/* ---- steps ---- */

static int
flags_step(struct conn *c)
{
	uint32_t flags;
	int r;

	if (c->have < NBD_CLIENT_FLAGS_SIZE)
		return 0;
	r = nbd_parse_client_flags(c->in, &flags);
	if (r < 0)
		return r;
	c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	c->state = CONN_OPTION;
	conn_drop(c, NBD_CLIENT_FLAGS_SIZE);
	return 1;
}

static int
option_step(struct conn *c)
{
	int r;

	if (c->have < NBD_OPTION_HEADER)
		return 0;
	r = nbd_parse_option(c->in, &c->option);
	if (r < 0)
		return r;
	if (c->option.len > NBD_DRAIN_MAX)
		return -EMSGSIZE;
	if (c->option.len > NBD_OPTION_MAX) {
		c->skip = c->option.len;
		c->state = CONN_SKIP;
		conn_drop(c, NBD_OPTION_HEADER);
		return 1;
	}
	if (c->have < NBD_OPTION_HEADER + c->option.len)
		return 0;
	if (++c->options > NBD_OPTIONS)
		return -E2BIG;
	r = option_take(c, c->in + NBD_OPTION_HEADER, c->option.len);
	if (r < 0)
		return r;
	conn_drop(c, NBD_OPTION_HEADER + c->option.len);
	return 1;
}

static int
skip_step(struct conn *c)
{
	size_t n = c->have < c->skip ? c->have : (size_t)c->skip;

	conn_drop(c, n);
	c->skip -= n;
	if (c->skip > 0)
		return 0;
	if (++c->options > NBD_OPTIONS)
		return -E2BIG;
	c->state = CONN_OPTION;
	refuse(c, NBD_REP_ERR_TOO_BIG);
	return 1;
}

int
handshake_step(struct conn *c)
{
	switch (c->state) {
	case CONN_FLAGS:
		return flags_step(c);
	case CONN_OPTION:
		return option_step(c);
	case CONN_SKIP:
		return skip_step(c);
	case CONN_RUN:
	case CONN_DRAIN:
	case CONN_ENDING:
		break;
	}
	return -EPROTO;
}
