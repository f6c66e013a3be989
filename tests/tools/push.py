#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Pushes an image as shed does: an OCI image manifest whose annotations name
loose blobs of the same repository (erofs, and where given kernel and initrd)
that no layer mentions.  Prints one JSON object that says what was pushed.
Standard library only; files are streamed, never held in memory.

What shedpack refuses to push can be pushed by this: any file as the image's
chunk index (--chunks), or as an index that refers to it (--refer)."""

import argparse
import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import ssl
import sys
import tarfile
from urllib.parse import urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARTIFACT = "application/vnd.shedstream.chunks.v1"
PIECE = 1 << 20


def digest_of(f):
    h = hashlib.sha256()
    f.seek(0)
    while piece := f.read(PIECE):
        h.update(piece)
    size = f.tell()
    f.seek(0)
    return "sha256:" + h.hexdigest(), size


class Registry:
    """One keep-alive connection to one repository of one registry."""

    def __init__(self, host, repo, args):
        self.repo = repo
        self.chunk = args.chunk
        self.headers = {}
        if args.user:
            token = base64.b64encode(args.user.encode()).decode()
            self.headers["Authorization"] = "Basic " + token
        if args.tls:
            context = ssl.create_default_context(cafile=args.ca)
            self.c = http.client.HTTPSConnection(host, context=context)
        else:
            self.c = http.client.HTTPConnection(host)

    def call(self, want, method, path, body=None, **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        self.c.request(method, path, body, {**self.headers, **headers})
        r = self.c.getresponse()
        r.text = r.read()
        if r.status not in want:
            sys.exit("push: %s %s: %d %s" % (method, path, r.status,
                                             r.text.decode(errors="replace")))
        return r

    @staticmethod
    def location(r):
        """An upload's next address, as path and query."""
        u = urlsplit(r.getheader("Location"))
        return u.path + ("?" + u.query if u.query else "")

    def blob(self, f):
        digest, size = digest_of(f)
        base = "/v2/%s/blobs/" % self.repo
        if self.call((200, 404), "HEAD", base + digest).status == 200:
            return digest, size
        at = self.location(self.call((202,), "POST", base + "uploads/",
                                     Content_Length="0"))
        sent = 0
        while self.chunk and sent < size:
            piece = f.read(self.chunk)
            end = sent + len(piece)
            at = self.location(self.call(
                (202,), "PATCH", at, piece,
                Content_Type="application/octet-stream",
                Content_Range="%d-%d" % (sent, end - 1)))
            sent = end
        at += ("&" if "?" in at else "?") + "digest=" + digest
        self.call((201,), "PUT", at, f if size > sent else b"",
                  Content_Type="application/octet-stream",
                  Content_Length=str(size - sent))
        return digest, size

    def manifest(self, kind, value, tag=None):
        text = json.dumps(value, indent=1).encode()
        digest = "sha256:" + hashlib.sha256(text).hexdigest()
        self.call((201,), "PUT",
                  "/v2/%s/manifests/%s" % (self.repo, tag or digest), text,
                  Content_Type=kind)
        return {"mediaType": kind, "digest": digest, "size": len(text)}


def tiny_layer():
    raw = io.BytesIO()
    text = b"the layers of a shed image are not what boots\n"
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("README")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return raw.getvalue()


def push_image(r, erofs, args, arch, tag=None):
    out = {}
    notes = {"io.shed.schema-version": "1", "io.shed.variant": "base"}
    out["erofs"], out["size"] = r.blob(erofs)
    notes["io.shed.rootfs.erofs.digest"] = out["erofs"]
    if args.chunks:
        with open(args.chunks, "rb") as f:
            out["chunks"], _ = r.blob(f)
        notes["io.shed.rootfs.chunks.digest"] = out["chunks"]
    for part in "kernel", "initrd":
        if path := getattr(args, part):
            with open(path, "rb") as f:
                out[part], _ = r.blob(f)
            notes["io.shed.%s.digest" % part] = out[part]
    tar = tiny_layer()
    layer, layer_size = r.blob(io.BytesIO(gzip.compress(tar, mtime=0)))
    text = json.dumps({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids":
                   ["sha256:" + hashlib.sha256(tar).hexdigest()]}}).encode()
    config, config_size = r.blob(io.BytesIO(text))
    pushed = r.manifest(MANIFEST, {
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config,
                   "size": config_size},
        "layers": [{"mediaType": LAYER, "digest": layer,
                    "size": layer_size}],
        "annotations": notes}, tag)
    out["manifest"] = pushed["digest"]
    if args.refer:
        out["refer"] = push_referrer(r, args.refer, pushed,
                                     (out["erofs"], out["size"]))
    pushed["platform"] = {"os": "linux", "architecture": arch}
    return out, pushed


def push_referrer(r, path, subject, erofs):
    """The artifact of docs/FORMATS.md, and the list that names it, in front of
    those there: for a registry without the referrers API."""
    empty, empty_size = r.blob(io.BytesIO(b"{}"))
    with open(path, "rb") as f:
        index, index_size = r.blob(f)
    tag = subject["digest"].replace(":", "-")
    number = hashlib.sha256(index.encode()).hexdigest()[:8]
    artifact = r.manifest(MANIFEST, {
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                   "digest": empty, "size": empty_size},
        "layers": [{"mediaType": "application/vnd.shedstream.index.v1",
                    "digest": index, "size": index_size},
                   {"mediaType": "application/vnd.shedstream.erofs.v1",
                    "digest": erofs[0], "size": erofs[1]}],
        "subject": subject}, "refers-" + number)
    old = r.call((200, 404), "GET", "/v2/%s/manifests/%s" % (r.repo, tag),
                 Accept=INDEX)
    others = json.loads(old.text)["manifests"] if old.status == 200 else []
    r.manifest(INDEX, {
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {**artifact, "artifactType": ARTIFACT}] + others}, tag)
    return index


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("erofs")
    p.add_argument("image", help="HOST[:PORT]/REPO[:TAG]")
    p.add_argument("--kernel")
    p.add_argument("--initrd")
    p.add_argument("--chunks", metavar="FILE")
    p.add_argument("--refer", metavar="FILE")
    p.add_argument("--index", action="store_true",
                   help="tag an index of amd64 (this) and arm64 (a stand-in)")
    p.add_argument("--chunk", type=int, default=0, metavar="BYTES",
                   help="upload in pieces of this size, not in one")
    p.add_argument("--user", metavar="NAME:PASSWORD")
    p.add_argument("--tls", action="store_true")
    p.add_argument("--ca", help="trust this CA file only")
    args = p.parse_args()

    host, _, rest = args.image.partition("/")
    repo, _, tag = rest.partition(":")
    tag = tag or "latest"
    r = Registry(host, repo, args)
    with open(args.erofs, "rb") as erofs:
        out, amd64 = push_image(r, erofs, args, "amd64",
                                None if args.index else tag)
    if args.index:
        other = io.BytesIO(b"not for this machine".ljust(4096, b"\0"))
        _, arm64 = push_image(r, other, args, "arm64")
        out["index"] = r.manifest(INDEX, {
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [arm64, amd64]}, tag)["digest"]
    out["image"] = "%s/%s:%s" % (host, repo, tag)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
