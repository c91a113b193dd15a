"""
What the tests of compose share: one call that composes, and a server of files.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from gymcore.composition import Composition, compose
from gymcore.discovery import Catalog
from gymcore.documents import YamlDocument
from gymcore.plan import Plan

Compose = Callable[..., Composition]


@pytest.fixture
def composed(catalog: Catalog) -> Compose:
    """
    Compose a plan given as plain values, in an environment where nothing is set but what is given.
    """

    def run(plan: dict[str, Any], *settings: str, **environ: str) -> Composition:
        copy = json.loads(json.dumps(plan))
        return compose(Plan.from_document(YamlDocument(copy), settings=settings), catalog, environ=environ)

    return run


Answer = Callable[[BaseHTTPRequestHandler], None]


def _body(data: bytes, *, length: int | None = None, headers: dict[str, str] | None = None) -> Answer:
    """Send a body, with another length where one is given."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    return answer


def _redirect(target: str) -> Answer:
    """Lead to another address."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def _status(code: int) -> Answer:
    """Refuse."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


class ServedFiles:
    """What a server answers by path, and what it was asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.is_over = threading.Event()

    body = staticmethod(_body)
    redirect = staticmethod(_redirect)
    status = staticmethod(_status)

    def url(self, path: str, answer: Answer) -> str:
        """Serve something at a path, and return its address."""
        self.answers[path] = answer
        return self.address + path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedFiles]:
    """
    A real HTTP server on loopback that serves files well and badly, each path in a way of its own.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _serving() as served:
        yield served


@pytest.fixture
def served_encrypted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ServedFiles]:
    """
    The same over TLS; who signed its certificate is in `authority.pem`, which nobody trusts unasked.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with _serving(context) as served:
        yield served


@contextmanager
def _serving(context: ssl.SSLContext | None = None) -> Iterator[ServedFiles]:

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(f"{self.command} {self.path}")
            served.answers.get(self.path.partition("?")[0], _status(404))(self)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of clients that hang up, which is what they are to do."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    served = ServedFiles(f"http{'' if context is None else 's'}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()
