#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that answers wrongly when told to.  Serves one image (an OCI
manifest whose annotation names FILE as its erofs, as shed publishes it), in
any other repository the same with 4 KiB behind it that make it another blob,
and, on a second listener, what a registry may lead to: blob storage and a
token server.  Standard library only.

    registry.py FILE --log LOG [--tls-cert C --tls-key K] [--auth basic|bearer]
        [--index FILE] [--prefix /PATH] [--address A]

--index: the manifest of the one image names it as its chunk index.

prints one JSON object when it listens: registry, other (HOST:PORT), image,
manifest, erofs, size.  While it runs, on any listener:

    GET /_fault?blob=short&manifest=status:500&times=2&every=3
                    what is asked for next is answered so, at most so often,
                    of each so many the last; kinds: manifest, blob, token,
                    referrers, target (what was redirected)
    GET /_heal      all is well again; requests that hang end
    GET /_settle    ends when no request is under way, and all are in LOG
    GET /_auth?mode=bearer&ttl=60      none, basic, bearer
    GET /_revoke    every token and signed link is void
    GET /_user?is=NAME:PASSWORD        the credentials it wants from now on
    GET /_hangup    every connection that is open is closed
    GET /_referrers?mode=api&filter=no
                    who has which manifest as subject is told by the API (api),
                    by an index under the tag sha256-HEX (tag), not at all (off)
    GET /_refer?type=T&to=DIGEST
                    one more manifest of that artifactType, made up; to: its
                    subject, else the image's manifest

Faults (ARG behind a colon):
    status:N  retry:SECONDS (429)  busy:SECONDS (503)  unauthorized  garbage
    close  hang-head  hold (hangs, and is answered when all is well again; the
    same part of the blob is held once)
    slow:MS[:MORE:EVERY] (one of so many so much)  stall (goes on when all is
    well again)  reset  full (200 for 206)  short  short-honest  hang  range
    total  extra
    extra-chunked  encoded  flip (wrong bytes)  long-head  huge  huge-chunked
    no-length  part (206 for 200)
    redirect[:USES] (to the other host, the link good for so many uses)
    loop  chain:N  back (from a target to the registry)  private  link-local  mapped  downgrade  user  file
    realm-private  realm-inside  realm-http  bad-token
    json:TEXT (of an image index)  html (a page for a person)
LOG gets one JSON line a request: began, time (of its end), role, method, path,
headers, status, sent (body bytes), fault; hold and stall first write one with
waits, its path."""

import argparse
import base64
import hashlib
import http.server
import json
import os
import secrets
import socket
import ssl
import struct
import sys
import threading
import time
from urllib.parse import parse_qsl, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
HANG = 120          # seconds, at most
PIECE = 1 << 16


class World:
    """What all listeners share."""

    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()
        self.healed = threading.Event()
        self.under_way = 0      # requests
        self.slow = 0           # of these, so far
        self.held = set()       # their paths and ranges
        self.settled = threading.Condition(self.lock)
        self.faults = {}        # kind -> [fault, times left or None, every, n]
        self.auth = args.auth
        self.ttl = 60
        self.open = set()       # connections
        self.tokens = {}        # token -> expiry
        self.links = {}         # signature -> uses left or None
        self.mode = "api"       # of referrers
        self.filters = True     # the API does
        self.referring = {}     # subject's digest -> descriptors
        self.file = open(args.file, "rb")
        self.hash = hashlib.sha256()
        while piece := self.file.read(1 << 20):
            self.hash.update(piece)
        self.index = Blob(args.index) if args.index else None
        self.images = {}        # repo -> Image
        self.image(args.repo)
        self.log = open(args.log, "a", buffering=1)

    def fault(self, kind):
        with self.lock:
            entry = self.faults.get(kind)
            if not entry:
                return "", ""
            name, left, every, _ = entry
            entry[3] += 1
            if entry[3] % every:
                return "", ""
            if left is not None:
                if left == 0:
                    return "", ""
                entry[1] = left - 1
        name, _, arg = name.partition(":")
        return name, arg

    def image(self, repo):
        with self.lock:
            if repo not in self.images:
                self.images[repo] = Image(self, repo)
            return self.images[repo]

    def by_digest(self, digest):
        with self.lock:
            for image in self.images.values():
                if image.erofs == digest:
                    return image
        if self.index and self.index.digest == digest:
            return self.index
        return None

    def refer(self, type, subject):
        with self.lock:
            entries = self.referring.setdefault(subject, [])
            made_up = "%s %s %d" % (subject, type, sum(
                e["artifactType"] == type for e in entries))
            entries.append({
                "mediaType": MANIFEST, "artifactType": type, "size": 512,
                "digest": "sha256:" +
                hashlib.sha256(made_up.encode()).hexdigest()})

    def referrers(self, subject, type=None):
        with self.lock:
            return json.dumps({
                "schemaVersion": 2, "mediaType": INDEX,
                "manifests": [e for e in self.referring.get(subject, ())
                              if type in (None, e["artifactType"])]}).encode()


class Blob:
    """A small one."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.size = len(self.data)
        self.digest = "sha256:" + hashlib.sha256(self.data).hexdigest()

    def bytes(self, first, count):
        return self.data[first:first + count]


class Image:
    """FILE, and behind it a block that tells the repositories apart."""

    def __init__(self, world, repo):
        self.file = world.file
        self.length = os.fstat(self.file.fileno()).st_size
        self.tail = b"" if repo == world.args.repo else \
            repo.encode().ljust(4096, b"\0")
        self.size = self.length + len(self.tail)
        digest = world.hash.copy()
        digest.update(self.tail)
        self.erofs = "sha256:" + digest.hexdigest()
        chunks = {"io.shed.rootfs.chunks.digest": world.index.digest} \
            if world.index and not self.tail else {}
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(),
                       "size": 2},
            "layers": [],
            "annotations": {"io.shed.schema-version": "1",
                            "io.shed.variant": "base",
                            "io.shed.rootfs.erofs.digest": self.erofs,
                            **chunks},
        }).encode()
        self.manifest_digest = \
            "sha256:" + hashlib.sha256(self.manifest).hexdigest()

    def bytes(self, first, count):
        data = os.pread(self.file.fileno(), count, first)
        if len(data) < count:
            at = max(first - self.length, 0)
            data += self.tail[at:at + count - len(data)]
        return data


class Gone(Exception):
    """The connection is to be dropped, as it stands."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    world = None
    role = ""

    # -- plumbing

    def log_message(self, *args):
        pass

    def setup(self):
        super().setup()
        with self.world.lock:
            self.world.open.add(self.connection)

    def finish(self):
        with self.world.lock:
            self.world.open.discard(self.connection)
        super().finish()

    def hangup(self):
        with self.world.lock:
            rest = self.world.open - {self.connection}
        for connection in rest:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def do_GET(self):
        self.status = self.sent = 0
        self.name = ""
        self.began = time.time()
        if not self.path.startswith("/_"):
            self.count(1)
        try:
            if self.path.startswith("/_"):
                self.admin()
                return
            self.route()
        except (Gone, OSError):
            self.close_connection = True
        finally:
            if not self.path.startswith("/_"):
                self.record()
                self.count(-1)

    do_HEAD = do_GET

    def count(self, n):
        with self.world.settled:
            self.world.under_way += n
            self.world.settled.notify_all()

    def record(self):
        self.write({
            "began": self.began, "time": time.time(), "role": self.role,
            "method": self.command, "path": self.path,
            "headers": dict(self.headers.items()),
            "status": self.status, "sent": self.sent, "fault": self.name})

    def write(self, entry):
        line = json.dumps(entry)
        with self.world.lock:
            self.world.log.write(line + "\n")

    def head(self, status, headers, length):
        self.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def body(self, data):
        if self.command != "HEAD":
            self.wfile.write(data)
            self.sent += len(data)

    def answer(self, status, data=b"", **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        self.head(status, headers, len(data))
        self.body(data)

    def hang(self):
        self.wfile.flush()
        self.world.healed.wait(HANG)
        raise Gone()

    def wait(self):
        self.wfile.flush()
        self.write({"waits": self.path})
        self.count(-1)
        self.world.healed.wait(HANG)
        self.count(1)

    def drop(self):
        self.wfile.flush()
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        raise Gone()

    def reset(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                   struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise Gone()

    # -- what can be told to it

    def admin(self):
        w = self.world
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if url.path == "/_fault":
            times = query.pop("times", None)
            every = int(query.pop("every", 1))
            with w.lock:
                w.healed.clear()
                for kind, name in query.items():
                    w.faults[kind] = [name, int(times) if times else None,
                                      every, 0]
        elif url.path == "/_heal":
            with w.lock:
                w.faults.clear()
                w.healed.set()
        elif url.path == "/_auth":
            w.auth = query.get("mode", "none")
            w.ttl = float(query.get("ttl", 60))
        elif url.path == "/_user":
            w.args.user = query["is"]
        elif url.path == "/_settle":
            with w.settled:
                w.settled.wait_for(lambda: w.under_way == 0)
        elif url.path == "/_hangup":
            self.hangup()
        elif url.path == "/_revoke":
            with w.lock:
                w.tokens.clear()
                w.links.clear()
        elif url.path == "/_referrers":
            w.mode = query.get("mode", "api")
            w.filters = query.get("filter", "yes") == "yes"
        elif url.path == "/_refer":
            w.refer(query["type"], query.get("to") or
                    w.image(w.args.repo).manifest_digest)
        self.answer(200, b"ok\n")

    # -- what is asked for

    def route(self):
        path = urlsplit(self.path).path.removeprefix(self.world.args.prefix)
        part = path.split("/")
        self.repo = "/".join(part[2:-2])
        if path == "/token":
            self.serve("token", self.token)
        elif path.startswith("/target/"):
            self.serve("target", self.target)
        elif path.startswith("/hop/"):
            self.hop(int(part[2]))
        elif path in ("/v2/", "/v2"):
            if self.allowed():
                self.answer(200)
        elif part[1] == "v2" and part[-2] == "manifests":
            self.serve("manifest", lambda: self.allowed() and
                       self.manifest(part[-1]))
        elif part[1] == "v2" and part[-2] == "referrers":
            self.serve("referrers", lambda: self.allowed() and
                       self.referrers(part[-1]))
        elif part[1] == "v2" and part[-2] == "blobs":
            self.serve("blob", lambda: self.allowed() and
                       self.blob(part[-1]))
        else:
            self.answer(404)

    def allowed(self):
        w = self.world
        got = self.headers.get("Authorization", "")
        if w.auth == "basic" and got != basic(w.args.user):
            self.unauthorized()
        elif w.auth == "bearer" and not (
                got.startswith("Bearer ") and
                w.tokens.get(got[7:], 0) > time.time()):
            self.unauthorized()
        else:
            return True
        return False

    def unauthorized(self, realm=None):
        if self.world.auth == "basic":
            self.answer(401, b"no\n", WWW_Authenticate='Basic realm="test"')
            return
        realm = realm or "%s://%s/token" % (
            "https" if self.world.args.tls_cert else "http",
            self.world.other)
        self.answer(401, b"no\n", WWW_Authenticate=(
            'Bearer realm="%s",service="test",scope="repository:%s:pull"' %
            (realm, self.repo)))

    def token(self):
        w = self.world
        if w.args.user and self.headers.get("Authorization",
                                            "") != basic(w.args.user):
            self.answer(401)
            return
        token = secrets.token_urlsafe(24)
        with w.lock:
            w.tokens[token] = time.time() + w.ttl
        self.answer(200, json.dumps({
            "token": token, "expires_in": max(1, int(w.ttl))}).encode(),
            Content_Type="application/json")

    def manifest(self, reference):
        image = self.world.image(self.repo)
        subject = reference.replace("-", ":", 1)
        if self.world.mode == "tag" and subject in self.world.referring:
            data = self.world.referrers(subject)
            if INDEX not in self.headers.get("Accept", ""):
                self.answer(406)
                return
            self.whole({"Content-Type": INDEX}, len(data),
                       lambda at, n: data[at:at + n])
            return
        if reference not in (self.world.args.tag, image.manifest_digest):
            self.answer(404)
            return
        data = image.manifest
        headers = {"Content-Type": MANIFEST,
                   "Docker-Content-Digest": image.manifest_digest}
        if self.name == "huge":
            data = data.ljust(300 * 1024)
        if self.name == "encoded":
            headers["Content-Encoding"] = "gzip"
        self.whole(headers, len(data), lambda at, n: data[at:at + n])

    def referrers(self, subject):
        w = self.world
        if w.mode != "api":
            self.answer(404)
            return
        if INDEX not in self.headers.get("Accept", ""):
            self.answer(406)
            return
        type = dict(parse_qsl(urlsplit(self.path).query)).get("artifactType")
        headers = {"Content-Type": INDEX}
        if type and w.filters:
            headers["OCI-Filters-Applied"] = "artifactType"
        data = w.referrers(subject, type if w.filters else None)
        if self.name.startswith("huge"):
            data = data.ljust(300 * 1024)
        if self.name == "encoded":
            headers["Content-Encoding"] = "gzip"
        self.stream(206 if self.name == "part" else 200, headers, len(data),
                    lambda at, n: data[at:at + n])

    def target(self):
        w = self.world
        sig = dict(parse_qsl(urlsplit(self.path).query)).get("sig", "")
        with w.lock:
            left = w.links.get(sig, 0)
            if left:
                w.links[sig] = left - 1
        if left == 0:
            self.answer(403, b"expired\n")
        elif urlsplit(self.path).path.startswith("/target/referrers/"):
            self.referrers(urlsplit(self.path).path.rsplit("/", 1)[1])
        else:
            self.blob(urlsplit(self.path).path.rsplit("/", 1)[1])

    def blob(self, digest):
        image = self.world.by_digest(digest)
        if not image:
            self.answer(404)
            return
        wanted = self.headers.get("Range", "")
        headers = {"Content-Type": "application/octet-stream",
                   "Accept-Ranges": "bytes"}
        if self.name == "encoded":
            headers["Content-Encoding"] = "gzip"
        if not wanted.startswith("bytes=") or self.name == "full":
            self.whole(headers, image.size, image.bytes)
            return
        first, _, last = wanted[6:].partition("-")
        first = int(first)
        last = min(int(last or image.size), image.size - 1)
        if first > last:
            self.answer(416, Content_Range="bytes */%d" % image.size)
            return
        self.part(headers, image, first, last)

    # -- bodies

    def part(self, headers, image, first, last):
        total = image.size
        shift = 4096 if self.name == "range" else 0
        if self.name == "total":
            total += 4096
        headers["Content-Range"] = "bytes %d-%d/%d" % (
            first + shift, last + shift, total)
        self.stream(206, headers, last - first + 1, lambda at, n:
                    image.bytes(first + at, n))

    def whole(self, headers, length, read):
        self.stream(200, headers, length, read)

    def stream(self, status, headers, length, read):
        announced = real = length
        if self.name in ("short", "hang", "reset"):
            real = length // 2
        elif self.name == "short-honest":
            announced = real = length // 2
        elif self.name == "extra":
            announced = real = length + 100
        elif self.name in ("extra-chunked", "huge-chunked", "no-length"):
            self.chunked(status, headers, length, read)
            return
        self.head(status, headers, announced)
        at = 0
        pause = length // 2 if self.name == "stall" else real
        while at < real:
            if at == pause:
                self.wait()
                pause = real
            piece = read(at, min(PIECE, pause - at)) if at < length else b""
            piece = piece or b"x" * min(PIECE, real - at)
            if self.name == "flip":
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            self.body(piece)
            at += len(piece)
        if self.name == "hang":
            self.hang()
        if self.name == "reset":
            self.reset()
        if self.name == "short":
            self.drop()

    def chunked(self, status, headers, length, read):
        headers["Transfer-Encoding"] = "chunked"
        self.head(status, headers, None)
        data = b"".join(read(at, min(PIECE, length - at))
                        for at in range(0, length, PIECE))
        if self.name == "extra-chunked":
            data += b"x" * 100
        for at in range(0, len(data), PIECE):
            piece = data[at:at + PIECE]
            self.wfile.write(b"%x\r\n" % len(piece))
            self.body(piece)
            self.wfile.write(b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    # -- faults that are no bodies

    def serve(self, kind, rightly):
        self.name, arg = self.world.fault(kind)
        self.rightly = rightly
        wrongly = getattr(self, "fault_" + self.name.replace("-", "_"), None)
        if wrongly:
            wrongly(arg)
        else:
            rightly()

    def fault_status(self, arg):
        self.answer(int(arg), b"" if arg == "304" else b"so it is told\n")

    def fault_retry(self, arg):
        self.answer(429, b"slower\n", Retry_After=arg or "1")

    def fault_busy(self, arg):
        self.answer(503, b"later\n", Retry_After=arg or "1")

    def fault_hold(self, _):
        part = (self.path, self.headers.get("Range"))
        with self.world.lock:
            again = part in self.world.held
            self.world.held.add(part)
        if not again:
            self.wait()
        self.rightly()

    def fault_slow(self, arg):
        ms, more, every = [int(n) for n in (arg + ":0:1").split(":")[:3]]
        with self.world.lock:
            self.world.slow += 1
            straggles = more and self.world.slow % every == 0
        time.sleep((more if straggles else ms) / 1000)
        self.rightly()

    def fault_unauthorized(self, _):
        self.unauthorized()

    def fault_realm_private(self, _):
        self.unauthorized("http://10.255.255.1/token")

    def fault_realm_inside(self, _):
        self.unauthorized("https://10.255.255.1/token")

    def fault_realm_http(self, _):
        self.unauthorized("http://%s/token" % self.world.plain)

    def fault_bad_token(self, _):
        self.answer(200, b'{"token": "nonsense", "expires_in": 300}',
                    Content_Type="application/json")

    def fault_garbage(self, _):
        if self.path.startswith("/token"):
            self.answer(200, b'{"token": ["[[[')
            return
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        self.drop()

    def fault_huge(self, _):
        if self.path.startswith("/token"):
            self.answer(200, b'{"token": "' + b"x" * 400000 + b'"}')
        else:
            self.rightly()

    def fault_json(self, arg):
        self.answer(200, arg.encode(), Content_Type=INDEX)

    def fault_html(self, _):
        self.answer(200, b"<html>please log in</html>",
                    Content_Type="text/html; charset=utf-8")

    def fault_close(self, _):
        self.drop()

    def fault_hang_head(self, _):
        self.hang()

    def fault_long_head(self, _):
        self.head(200, {"X-%d" % i: "y" * 1000 for i in range(90)}, 0)

    def redirect(self, url):
        self.answer(307, b"there\n", Location=url)

    def fault_redirect(self, arg):
        if not self.allowed():
            return
        w = self.world
        sig = secrets.token_urlsafe(24)
        with w.lock:
            w.links[sig] = int(arg) if arg else -1
        part = urlsplit(self.path).path.split("/")
        self.redirect("%s://%s/target/%s?sig=%s&secret=query" % (
            "https" if w.args.tls_cert else "http", w.other,
            "/".join(part[-2:] if part[-2] == "referrers" else part[-1:]),
            sig))

    def fault_loop(self, _):
        path = urlsplit(self.path)
        self.redirect(path.path + ("" if path.query else "?again=1"))

    def fault_chain(self, arg):
        self.redirect("/hop/%s" % (arg or 9))

    def hop(self, left):
        if left > 0:
            self.redirect("/hop/%d" % (left - 1))
        else:
            self.answer(404)

    def fault_private(self, _):
        self.redirect("http://10.255.255.1/x")

    def fault_link_local(self, _):
        self.redirect("http://169.254.169.254/latest/meta-data")

    def fault_mapped(self, _):
        self.redirect("http://[::ffff:10.0.0.1]/x")

    def fault_downgrade(self, _):
        self.redirect("http://%s/target/x?sig=any" % self.world.plain)

    def fault_back(self, _):
        self.redirect("%s://%s/v2/%s/blobs/%s?back=1" % (
            "https" if self.world.args.tls_cert else "http",
            self.world.registry, self.world.args.repo,
            urlsplit(self.path).path.rsplit("/", 1)[1]))

    def fault_user(self, _):
        self.redirect("http://user:word@%s/target/x" % self.world.other)

    def fault_file(self, _):
        self.redirect("file:///etc/passwd")


def basic(user):
    return "Basic " + base64.b64encode(user.encode()).decode()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass                    # clients that hang up are the point


def listen(world, role, port, context=None, address="127.0.0.1"):
    handler = type(role, (Handler,), {"world": world, "role": role})
    server = Server((address, port), handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True,
                                            do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file")
    p.add_argument("--log", required=True)
    p.add_argument("--index")
    p.add_argument("--repo", default="test/base")
    p.add_argument("--tag", default="v1")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--address", default="127.0.0.1",
                   help="of the registry; all else is on loopback")
    p.add_argument("--other-port", type=int, default=0)
    p.add_argument("--prefix", default="")
    p.add_argument("--tls-cert")
    p.add_argument("--tls-key")
    p.add_argument("--auth", default="none",
                   choices=("none", "basic", "bearer"))
    p.add_argument("--user", default="", metavar="NAME:PASSWORD")
    args = p.parse_args()
    w = World(args)
    context = None
    if args.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.tls_cert, args.tls_key)
    w.registry = "%s:%d" % (args.address, listen(
        w, "registry", args.port, context, args.address))
    # another host by name, so that no credential may follow there
    w.other = "localhost:%d" % listen(w, "other", args.other_port, context)
    w.plain = "127.0.0.1:%d" % listen(w, "plain", 0)
    image = w.image(args.repo)
    sys.stdout.write(json.dumps({
        "registry": w.registry, "other": w.other, "admin": w.plain,
        "image": "%s/%s:%s" % (w.registry, args.repo, args.tag),
        "manifest": image.manifest_digest, "erofs": image.erofs,
        "size": image.size}) + "\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
