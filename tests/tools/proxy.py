#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An HTTP proxy: CONNECT, and GET of http:// URLs; or one of SOCKS 5 (RFC 1928,
1929).  Every name that it is asked for is this machine's loopback, so that tests
have hosts that only a proxy can reach.  Standard library only.

    proxy.py --log LOG [--user NAME:PASSWORD] [--tls-cert C --tls-key K]
        [--socks] [--address A] [--port N]

prints ADDRESS:PORT when it listens, [ADDRESS]:PORT of IPv6.  LOG gets one JSON
line a request: method (SOCKS, of those), target, authorized, headers (names).
SOCKS takes names only: who asks for an address has looked one up."""

import argparse
import base64
import http.client
import http.server
import json
import select
import socket
import socketserver
import ssl
import sys
import threading
from urllib.parse import urlsplit


def relay(here, there):
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            if getattr(here, "pending", lambda: 0)():
                ready = [here]
            else:
                ready = select.select([here, there], [], [])[0]
            for one in ready:
                data = one.recv(1 << 16)
                if not data:
                    return
                (there if one is here else here).sendall(data)
    except OSError:
        pass
    finally:
        there.close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    args = None
    lock = threading.Lock()

    def log_message(self, *args):
        pass

    def allowed(self):
        wanted = "Basic " + base64.b64encode(
            (self.args.user or "").encode()).decode()
        fine = not self.args.user or \
            self.headers.get("Proxy-Authorization") == wanted
        with self.lock, open(self.args.log, "a") as log:
            log.write(json.dumps({
                "method": self.command, "target": self.path,
                "authorized": fine,
                "headers": sorted(self.headers.keys())}) + "\n")
        if not fine:
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        return fine

    def refuse(self, status):
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_CONNECT(self):
        if not self.allowed():
            return
        try:
            port = int(self.path.rpartition(":")[2])
            there = socket.create_connection(("127.0.0.1", port), 5)
        except (OSError, ValueError):
            self.refuse(502)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        relay(self.connection, there)

    def do_GET(self):
        if not self.allowed():
            return
        url = urlsplit(self.path)
        path = url.path + ("?" + url.query if url.query else "")
        headers = {k: v for k, v in self.headers.items()
                   if not k.lower().startswith("proxy-")}
        try:
            there = http.client.HTTPConnection("127.0.0.1", url.port or 80)
            there.request("GET", path, headers=headers)
            answer = there.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self.refuse(502)
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection",
                                    "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Socks(socketserver.StreamRequestHandler):
    def user_is_right(self):
        methods = self.rfile.read(self.rfile.read(2)[1])
        wanted = 2 if Handler.args.user else 0
        self.wfile.write(bytes([5, wanted if wanted in methods else 255]))
        if wanted == 0 or wanted not in methods:
            return wanted in methods
        name = self.rfile.read(self.rfile.read(2)[1]).decode()
        password = self.rfile.read(self.rfile.read(1)[0]).decode()
        fine = f"{name}:{password}" == Handler.args.user
        self.wfile.write(bytes([1, not fine]))
        return fine

    def target(self):
        kind = self.rfile.read(4)[3]
        if kind != 3:       # an address
            return str(kind), 0
        name = self.rfile.read(self.rfile.read(1)[0]).decode()
        return name, int.from_bytes(self.rfile.read(2), "big")

    def handle(self):
        fine = self.user_is_right()
        name, port = self.target() if fine else ("", 0)
        with Handler.lock, open(Handler.args.log, "a") as log:
            log.write(json.dumps({
                "method": "SOCKS", "target": f"{name}:{port}",
                "authorized": fine, "headers": []}) + "\n")
        if not fine:
            return
        try:
            if port == 0:
                raise OSError
            there = socket.create_connection(("127.0.0.1", port), 5)
        except OSError:
            self.wfile.write(b"\5\4\0\1" + bytes(6))
            return
        self.wfile.write(b"\5\0\0\1" + bytes(6))
        relay(self.connection, there)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--log", required=True)
    p.add_argument("--user", metavar="NAME:PASSWORD")
    p.add_argument("--tls-cert")
    p.add_argument("--tls-key")
    p.add_argument("--socks", action="store_true")
    p.add_argument("--address", default="127.0.0.1")
    p.add_argument("--port", type=int, default=0)
    Handler.args = p.parse_args()
    address = Handler.args.address
    if ":" in address:
        Server.address_family = socket.AF_INET6
    server = Server((address, Handler.args.port),
                    Socks if Handler.args.socks else Handler)
    if Handler.args.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Handler.args.tls_cert, Handler.args.tls_key)
        server.socket = context.wrap_socket(server.socket, server_side=True,
                                            do_handshake_on_connect=False)
    print("%s:%d" % (f"[{address}]" if ":" in address else address,
                     server.server_address[1]), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
