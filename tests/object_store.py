"""An S3 server on loopback, and a proxy in front of it that misbehaves.

`serve` starts the server. A `Proxy` carries requests to it, and counts them; at one of them, or from one on, it does
something else, as `KINDS` has it. Its listings can lag behind as well.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import moto.server
import pytest
import s3fs

BUCKET = "music"


@contextmanager
def serve() -> Iterator[tuple[str, int]]:
    """The host and port of a server with one empty bucket; proxies and credentials of the machine are hidden."""
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith("AWS_") or name.upper().endswith("_PROXY"):
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "anyone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        if files.exists(BUCKET):  # all servers share the objects of this process
            files.rm(BUCKET, recursive=True)
        files.mkdir(BUCKET)
        yield host, port
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


# What the proxy can do in place of carrying a request to the server and its answer back.
KINDS = {
    "delay": "the answer comes late",
    "drop": "the connection ends, and nothing was done",
    "drop after": "the connection ends, and yet it was done",
    "cut": "the connection ends within the answer",
    "500": "the answer is 500, and nothing was done",
    "503": "the answer is 503, and nothing was done",
    "500 after": "the answer is 500, and yet it was done",
    "twice": "it is done twice, and the second answer counts",
    "409": "a put that must not replace anything is refused with 409",
    "412": "a put that must not replace anything is refused with 412",
    "501": "a put that must not replace anything is refused with 501",
}
REFUSALS = ("409", "412", "501")
DELAY_S = 0.2


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the object store.

    Parameters
    ----------
    key
        Of the object, or nothing for a listing.
    conditional
        Whether it is a put that must not replace anything.
    """

    method: str
    key: str
    conditional: bool


def kinds_of(request: Request) -> list[str]:
    """The ways in which a request can go wrong."""
    if request.conditional:
        return list(KINDS)
    if request.method in ("GET", "HEAD"):  # read twice is no different
        return [kind for kind in KINDS if kind not in (*REFUSALS, "drop after", "500 after", "twice")]
    return [kind for kind in KINDS if kind not in REFUSALS]


class Proxy(ThreadingHTTPServer):
    """Carry requests to the server.

    Attributes
    ----------
    url
        Of the proxy.
    requests
        Those that came, in their order.
    kind
        What happens at a request, a key of `KINDS`.
    at, until
        The numbers, from 1, of the first request at which it does, and of the one behind the last.
    lag
        In how many listings a new entry of a log is missing, and a deleted one is still there.
    """

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[Request] = []
        self.kind = ""
        self.at = self.until = 0
        self.lag = 0
        self._lock = threading.Lock()
        # by key: in how many listings it must still be missing; what listings say of it, and in how many more
        self._new: dict[str, int] = {}
        self._listed: dict[str, bytes] = {}
        self._gone: dict[str, int] = {}

    @contextmanager
    def misbehaving(self, kind: str, at: int = 1, times: int = 1 << 30) -> Iterator[None]:
        """Let so many requests go wrong, from the one with a number on."""
        self.requests.clear()
        self.kind, self.at, self.until = kind, at, at + times
        try:
            yield
        finally:
            self.kind, self.at, self.until = "", 0, 0

    def take(self, request: Request) -> str:
        """Count a request; what is to happen to it."""
        with self._lock:
            self.requests.append(request)
            chosen = self.at <= len(self.requests) < self.until and self.kind in kinds_of(request)
            return self.kind if chosen else ""

    def changed(self, request: Request) -> None:
        """Take note of a new or a deleted entry of a log."""
        if "/_delta_log/" not in request.key:
            return
        with self._lock:
            if self.lag and request.method in ("PUT", "POST"):
                self._gone.pop(request.key, None)
                if request.key not in self._listed:
                    self._new[request.key] = self.lag
            elif self.lag and request.method == "DELETE":
                self._new.pop(request.key, None)
                if request.key in self._listed:
                    self._gone[request.key] = self.lag

    def older_listing(self, body: bytes, prefix: str, after: str) -> bytes:
        """A listing of objects as it was some listings before."""
        with self._lock:
            for part in _LISTED.findall(body):
                self._listed.setdefault(_key(part), part)
            for key in [key for key in self._new if key.startswith(prefix)]:
                self._new[key] -= 1
                if self._new[key] < 0:
                    del self._new[key]
            new = dict(self._new)
            body = _LISTED.sub(lambda found: b"" if _key(found[0]) in new else found[0], body)
            for key in [key for key in self._gone if key.startswith(prefix) and key > after]:
                body = body.replace(b"</ListBucketResult>", self._listed[key] + b"</ListBucketResult>")
                self._gone[key] -= 1
                if self._gone[key] < 0:
                    del self._gone[key], self._listed[key]
            for key in new:
                self._listed.pop(key, None)
        return body


_LISTED = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


def _key(part: bytes) -> str:
    found = re.search(rb"<Key>(.*?)</Key>", part)
    assert found
    return urllib.parse.unquote(found[1].decode())


class _Handler(BaseHTTPRequestHandler):
    """One connection to the proxy."""

    protocol_version = "HTTP/1.1"
    server: Proxy
    wbufsize = -1
    PASSED: ClassVar = ("connection", "transfer-encoding", "server", "date")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def handle_expect_100(self) -> bool:
        done = super().handle_expect_100()
        self.wfile.flush()
        return done

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        key = urllib.parse.unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
        conditional = self.command == "PUT" and "If-None-Match" in self.headers
        request = Request(self.command, key, conditional)
        kind = self.server.take(request)
        if kind in ("drop", "500", "503", *REFUSALS):
            self._refuse(kind)
            return
        answer, headers, content = self._carry(body)
        if kind == "twice":
            answer, headers, content = self._carry(body)
        if answer < 300:
            self.server.changed(request)
        if kind in ("drop after", "500 after"):
            self._refuse(kind.removesuffix(" after"))
            return
        if kind == "delay":
            time.sleep(DELAY_S)
        if not key and "prefix" in query and self.server.lag:
            content = self.server.older_listing(content, query["prefix"], query.get("start-after", ""))
        self.send_response_only(answer)
        for name, value in headers:
            if name.lower() not in (*self.PASSED, "content-length"):
                self.send_header(name, value)
        size = {name.lower(): value for name, value in headers}.get("content-length", "0")
        self.send_header("Content-Length", size if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if kind == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _carry(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The answer of the server."""
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")
            }
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _refuse(self, status: str) -> None:
        """End the connection, or answer with an error as S3 does."""
        if status == "drop":
            self.close_connection = True
            return
        code = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}
        code |= {"412": "PreconditionFailed", "501": "NotImplemented"}
        content = f"<?xml version='1.0'?><Error><Code>{code[status]}</Code><Message>not now</Message></Error>".encode()
        self.send_response_only(int(status))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def misbehaving(upstream: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy in front of a server, which clients that are made from now on use."""
    with Proxy(upstream) as proxy, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
        proxy.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()
