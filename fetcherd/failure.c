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
	{ CURLE_COULDNT_RESOLVE_PROXY, true, "is behind a proxy whose name has no address; check [network] proxy" },
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
	{ CURLE_PROXY, true, "could not be reached through the proxy; check [network] proxy" },
	{ CURLE_SSL_CACERT_BADFILE, false, "can't be verified: the configured ca file holds no certificates" },
};

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
	else if (status == 407)
		failure_set(f, CTL_CODE(AUTH_DENIED), false,
		    "%s: the proxy wants credentials (407); put them into "
		    "[network] proxy", where);
	else if (status >= 500 || status == 408 || status == 425)
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), true,
		    "%s: %s is in trouble (status %d); see the registry's log",
		    where, host, status);
	else
		failure_set(f, CTL_CODE(REGISTRY_UNREACHABLE), false,
		    "%s: %s refused the request (status %d); check that this "
		    "is a registry and see its log", where, host, status);
}
