#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that takes pushes, in memory and as strangely as told.  Standard
library only.

    takes.py --log LOG [--user NAME:PASSWORD] [--subject]

prints one JSON object when it listens: registry, other (HOST:PORT).  With
--user it wants tokens that may push, and gives them for these credentials;
with --subject it answers OCI-Subject, as one that keeps referrers itself.

    GET /_forget                    there are no blobs
    GET /_fault?kind=ARG&times=N    the next N (1) requests of that sort:
        post=503  put=503  put-lost=1 (dropped in the middle)
        put-done=1 (stored, and dropped before the answer)
        manifest=503 | huge | lie (another manifest's digest)
        away=1      uploads go to the other listener, another host by name
        inside=1    uploads go to a private address
        moved=1     when an artifact comes, its repository's v1 is another
        expire=1    every token is void when a blob comes
LOG gets one JSON line a request: role, method, path, headers, status."""

import argparse
import base64
import hashlib
import http.server
import json
import secrets
import sys
import threading
from urllib.parse import parse_qsl, urlsplit


class Gone(Exception):
    """The connection is to be dropped, as it stands."""


class World:
    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()
        self.faults = {}
        self.tokens = set()
        self.blobs = {}
        self.manifests = {}     # (repo, reference) -> (type, bytes)
        self.log = open(args.log, "a", buffering=1)

    def fault(self, kind):
        with self.lock:
            arg, left = self.faults.get(kind, ("", 0))
            if left:
                self.faults[kind] = (arg, left - 1)
            return arg if left else ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world = None
    role = ""

    def log_message(self, *args):
        pass

    def answer(self, status, data=b"", **headers):
        self.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_one(self):
        self.status = 0
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        try:
            if url.path == "/_fault":
                times = int(self.query.pop("times", 1))
                for kind, arg in self.query.items():
                    self.world.faults[kind] = (arg, times)
                self.answer(200)
            elif url.path == "/_forget":
                self.world.blobs.clear()
                self.answer(200)
            elif url.path == "/token":
                self.token()
            elif self.role == "other" or self.allowed():
                self.route(url.path, url.path.split("/"))
        except (Gone, OSError):
            self.close_connection = True
        finally:
            if not url.path.startswith("/_"):
                with self.world.lock:
                    self.world.log.write(json.dumps({
                        "role": self.role, "method": self.command,
                        "path": self.path, "status": self.status,
                        "headers": dict(self.headers.items())}) + "\n")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    # -- who is it

    def token(self):
        w = self.world
        want = "Basic " + base64.b64encode(w.args.user.encode()).decode()
        if self.headers.get("Authorization") != want:
            self.answer(401)
            return
        token = secrets.token_urlsafe(24)
        if self.query.get("scope", "").endswith(":pull,push"):
            w.tokens.add(token)
        self.answer(200, json.dumps({"token": token}).encode())

    def allowed(self):
        w = self.world
        if self.path.startswith("/put") and w.fault("expire"):
            w.tokens.clear()
        got = self.headers.get("Authorization", "")
        if not w.args.user or got[len("Bearer "):] in w.tokens:
            return True
        scope = "repository:%s:pull" % "/".join(self.path.split("/")[2:4])
        self.close_connection = self.command == "PUT"
        self.answer(401, WWW_Authenticate='Bearer realm="http://%s/token",'
                    'service="test",scope="%s"' % (w.registry, scope))
        return False

    # -- what is asked for

    def route(self, path, part):
        w = self.world
        if part[1] == "put":
            self.put_blob()
        elif "uploads" in part:
            if arg := w.fault("post"):
                self.answer(int(arg))
                return
            host = w.other if w.fault("away") else w.registry
            if w.fault("inside"):
                host = "10.255.255.1"
            self.answer(202, Location="http://%s/put?session=%s" % (
                host, secrets.token_urlsafe(6)))
        elif part[-2] == "blobs":
            data = w.blobs.get(part[-1])
            self.answer(200 if data is not None else 404, data or b"")
        elif part[-2] == "manifests":
            self.manifest("/".join(part[2:-2]), part[-1])
        else:
            self.answer(404)

    def put_blob(self):
        w = self.world
        if arg := w.fault("put"):
            self.close_connection = True
            self.answer(int(arg))
            return
        length = int(self.headers["Content-Length"])
        if length > 65536 and w.fault("put-lost"):
            self.rfile.read(65536)
            raise Gone()
        data = self.rfile.read(length)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest != self.query.get("digest"):
            self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID",'
                        b'"message":"provided digest did not match"}]}')
            return
        w.blobs[digest] = data
        if w.fault("put-done"):
            raise Gone()
        self.answer(201, Location="/v2/x/blobs/" + digest)

    def manifest(self, repo, reference):
        w = self.world
        fault = w.fault("manifest")
        if fault.isdigit():
            self.answer(int(fault))
        elif self.command == "PUT":
            data = self.rfile.read(int(self.headers["Content-Length"]))
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            for name in reference, digest:
                w.manifests[repo, name] = self.headers["Content-Type"], data
            headers = {"Docker-Content-Digest": digest}
            subject = json.loads(data).get("subject")
            if subject and w.fault("moved"):
                kind, image = w.manifests[repo, "v1"]
                w.manifests[repo, "v1"] = kind, image + b"\n"
            if w.args.subject and subject:
                headers["OCI-Subject"] = subject["digest"]
            self.answer(201, **headers)
        elif (repo, reference) in w.manifests:
            kind, data = w.manifests[repo, reference]
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            if fault == "huge":
                data = data.ljust(300 * 1024)
            if fault == "lie":
                digest = "sha256:" + "0" * 64
            self.answer(200, data, Content_Type=kind,
                        Docker_Content_Digest=digest)
        else:
            self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass                    # clients that hang up are the point


def listen(world, role):
    handler = type(role, (Handler,), {"world": world, "role": role})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--log", required=True)
    p.add_argument("--user", default="", metavar="NAME:PASSWORD")
    p.add_argument("--subject", action="store_true")
    w = World(p.parse_args())
    w.registry = "127.0.0.1:%d" % listen(w, "registry")
    # another host by name, so that no credential may follow there
    w.other = "localhost:%d" % listen(w, "other")
    print(json.dumps({"registry": w.registry, "other": w.other}), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
