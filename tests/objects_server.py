"""A real S3 server on the loopback, in a process of its own, and a proxy that makes it fail."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import botocore.session
from botocore.config import Config

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_MAX_ATTEMPTS": "1",
    "NO_PROXY": "*",
}
PAGE_KEYS = 15  # a listing comes in pages of so many; in S3's own of a thousand
_PATIENCE_SECONDS = 30
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


class ObjectsServer:
    """A server that runs, and can be killed; what it held is lost then.

    Attributes:
        endpoint: Its URL.
    """

    def __init__(self) -> None:
        self.port = _free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = "from moto.server import main; main()"
        words = [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @functools.cached_property
    def client(self):
        """A client of its own for tests, which goes around the code under test."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
            config=Config(proxies={}),
        )

    def bucket(self) -> str:
        """The name of a new and empty bucket."""
        name = f"bucket-{next(self._names)}"
        self.client.create_bucket(Bucket=name)
        return name


class Proxy:
    """Hands requests on to a server, except those it is told to answer itself.

    Attributes:
        endpoint: Its URL.
        seen: Every request: the method and the path with its query.
        refuse: Called with method and path; a status to answer with, or None to hand it on.
        drop_answer: Called likewise; whether to hand it on and end the connection unanswered.
        cut_answer: Called likewise; whether to hand it on and answer with half of the body.
    """

    def __init__(self, server: ObjectsServer) -> None:
        self.seen: list[tuple[str, str]] = []
        self.refuse = lambda method, path: None
        self.drop_answer = self.cut_answer = lambda method, path: False
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                proxy.answer(self, server.port)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def answer(self, request, port: int) -> None:
        """Answer one request."""
        method, path = request.command, request.path
        self.seen.append((method, path))
        body = _body(request)
        status = self.refuse(method, path)
        if status is not None:
            _send(request, status, [], b"" if method == "HEAD" else _error_page(status))
            return
        connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
        with contextlib.closing(connection):
            headers = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
            headers.pop("Transfer-Encoding", None)
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
        if self.drop_answer(method, path):
            request.close_connection = True
            return
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _OF_THE_CONNECTION]
        length = answer.getheader("Content-Length") if method == "HEAD" else None
        if self.cut_answer(method, path):
            data, length = data[: len(data) // 2], str(len(data))
        _send(request, answer.status, kept, data, length)

    @contextlib.contextmanager
    def serving(self):
        """It answers for a while."""
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()


@contextlib.contextmanager
def serving():
    """A server that is there for a while."""
    server = ObjectsServer()
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _body(request) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        del request.headers["Expect"]  # http.server has answered it
    return request.rfile.read(int(request.headers.get("Content-Length") or 0))


def _send(request, status, headers, data: bytes, length: str | None = None) -> None:
    request.send_response(status)
    for name, value in headers:
        request.send_header(name, value)
    request.send_header("Content-Length", length or str(len(data)))
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(data)
    request.close_connection = True


def _error_page(status: int) -> bytes:
    code = {403: "AccessDenied", 503: "SlowDown", 500: "InternalError", 507: "XMinioStorageFull"}
    name = code[status]
    return (
        f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>{name}</Message></Error>".encode()
    )


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
