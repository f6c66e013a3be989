// SPDX-License-Identifier: Apache-2.0
/*
 * What went wrong, as a code and a sentence with the remedy.  The sentences
 * are our own: curl's and a registry's words stay out of them, but for curl's
 * reason why a certificate is not trusted.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/own.h"
#include "fetcherd/fetcherd.h"

void
failure_set(struct failure *f, int code, bool retry, const char *fmt, ...)
{
	va_list args;

	f->code = code;
	f->retry = retry;
	va_start(args, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, args);
	va_end(args);
	for (char *c = f->text; *c; c++)
		if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
			*c = '?';
}

struct reason {
	CURLcode curl;
	bool retry;
	const char *text;	/* completes "WHERE: HOST ..." */
};

static const struct reason reasons[] = {
	{ CURLE_COULDNT_RESOLVE_HOST, true, "has no address that can be looked up; check the name and this host's DNS" },
	{ CURLE_COULDNT_CONNECT, true, "does not accept connections; check that the registry is up and the port is right" },
	{ CURLE_OPERATION_TIMEDOUT, true, "did not accept a connection in time; check the network and the registry" },
	{ CURLE_SSL_CONNECT_ERROR, true, "did not agree on TLS; if it speaks plain HTTP, set insecure = yes in its [registry] section" },
	{ CURLE_PARTIAL_FILE, true, "ended its answer early; check the registry and what stands in front of it" },
	{ CURLE_RECV_ERROR, true, "broke the connection; check the registry and the network" },
	{ CURLE_SEND_ERROR, true, "broke the connection; check the registry and the network" },
	{ CURLE_GOT_NOTHING, true, "closed the connection without an answer; check the registry" },
	{ CURLE_HTTP2, true, "broke the HTTP/2 connection; check the registry and what stands in front of it" },
	{ CURLE_HTTP2_STREAM, true, "broke off its answer; check the registry and what stands in front of it" },
	{ CURLE_WEIRD_SERVER_REPLY, true, "sent something that is not HTTP; check that this is a registry" },
	{ CURLE_UNSUPPORTED_PROTOCOL, true, "sent something that is not HTTP; check that this is a registry" },
	{ CURLE_BAD_CONTENT_ENCODING, true, "sent a transfer coding that can't be read; check the registry" },
	{ CURLE_SSL_CACERT_BADFILE, false, "can't be verified: the configured ca file holds no certificates" },
};

/* What a proxy answered in its own name. */
static bool
failure_of_tunnel(struct failure *f, const struct outcome *o, int status,
    const char *where)
{
	if (status == 407)
		failure_set(f, CTL_CODE(AUTH_DENIED), false, o->proxy_known ?
		    "%s: the proxy %s refuses the user and password of "
		    "[network] proxy (407); check them" :
		    "%s: the proxy %s wants a user and password (407); put "
		    "them into [network] proxy", where, o->proxy);
	else if (status == 403 || status == 405)
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: the proxy %s does not let us through (%d); see its "
		    "rules, or add the host to [network] no-proxy", where,
		    o->proxy, status);
	else if (status >= 300)
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: the proxy %s can't get there (%d); check the host's "
		    "name and see the proxy's log", where, o->proxy, status);
	else
		return false;
	f->http_status = (uint32_t)status;
	return true;
}

bool
failure_of_proxy(struct failure *f, const struct outcome *o, const char *where)
{
	const char *what;
	bool retry = true;

	if (!o->by_proxy || o->refused)
		return false;
	/* the way to the host is there: only a 407 can still be the proxy's */
	if (o->requests > 0)
		return f->http_status == 407 &&
		    failure_of_tunnel(f, o, 407, where);
	if (failure_of_tunnel(f, o, o->proxy_status, where))
		return true;
	if (o->proxy_status > 0)
		return false;
	switch (o->curl) {
	case CURLE_COULDNT_RESOLVE_PROXY:
		what = "has no address that can be looked up; check [network] "
		    "proxy and this host's DNS";
		break;
	case CURLE_COULDNT_CONNECT:
		what = "does not accept connections; check it, and [network] "
		    "proxy";
		break;
	case CURLE_OPERATION_TIMEDOUT:
		what = "did not let us through in time; check it, and the "
		    "network";
		break;
	case CURLE_PEER_FAILED_VERIFICATION:
		if (!o->proxy_untrusted)
			return false;
		what = "has a certificate that is not trusted; set ca in "
		    "[network]";
		retry = false;
		break;
	case CURLE_PROXY:
		what = o->by_socks ? "can't get there, or wants another user "
		    "and password; check [network] proxy and the host's name, "
		    "and see the proxy's log" : "can't get there; check the "
		    "host's name and see the proxy's log";
		break;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_SEND_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_WEIRD_SERVER_REPLY:
		if (o->by_socks)
			return false;
		what = "does not answer as a proxy; check the scheme and the "
		    "port in [network] proxy";
		break;
	default:
		return false;
	}
	failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), retry,
	    "%s: the proxy %s %s", where, o->proxy, what);
	return true;
}

void
failure_of_curl(struct failure *f, CURLcode why, const char *error,
    const char *where, const char *host)
{
	if (why == CURLE_PEER_FAILED_VERIFICATION) {
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: the certificate of %s is not trusted (%.160s); set ca "
		    "in its [registry] section", where, host, error);
		return;
	}
	if (why == CURLE_SSL_CLIENTCERT || why == CURLE_SSL_CERTPROBLEM) {
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    why == CURLE_SSL_CLIENTCERT ?
		    "%s: %s wants another client certificate; set client-cert "
		    "and client-key in its [registry] section" :
		    "%s: the client-cert and client-key of %s can't be used "
		    "together; check both files in its [registry] section",
		    where, host);
		return;
	}
	if (why == CURLE_OUT_OF_MEMORY) {
		failure_set(f, CTL_CODE(INTERNAL), true,
		    "%s: no memory for the transfer", where);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		if (reasons[i].curl == why) {
			failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE),
			    reasons[i].retry, "%s: %s %s", where, host,
			    reasons[i].text);
			return;
		}
	failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), true,
	    "%s: the transfer from %s failed (curl's error %d); check the "
	    "registry and the network", where, host, (int)why);
}

void
failure_of_status(struct failure *f, int status, uint32_t retry_after_s,
    const char *where, const char *host)
{
	f->http_status = (uint32_t)status;
	f->retry_after_s = retry_after_s;
	if (status == 429)
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s limits our requests (429); it asks to wait %u s, "
		    "or use credentials with a higher limit", where, host,
		    retry_after_s);
	else if (status >= 500 || status == 408 || status == 425)
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s is in trouble (status %d); see the registry's log",
		    where, host, status);
	else if (status == 400)		/* nginx, to who shows none */
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: %s refused the request (status 400); if it wants a "
		    "client certificate, set client-cert and client-key in its "
		    "[registry] section, else see its log", where, host);
	else
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: %s refused the request (status %d); check that this "
		    "is a registry and see its log", where, host, status);
}
