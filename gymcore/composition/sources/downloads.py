"""
Files at addresses: downloaded once, checked against their digest, and kept in a cache under it.

This is the one module of the core that fetches anything over a network, and only data that a plan or a manifest pins.
Every wait ends, every size is bounded, and what is in the cache is whole: a file gets its name when its digest fits.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from gymcore.cache_folder import cache_folder
from gymcore.errors import PlanError, Problem
from gymcore.run_folder import disk_error, sync_folder

__all__ = ["Downloads"]

PART_PREFIX = ".part-"
STALE_S = 86_400.0
"""How long a part may lie there before it counts as left behind by a killed process."""

BLOCK = 2**20
MAX_REDIRECTS = 5


class _FetchError(Exception):
    """Why a file could not be had, in words."""


@dataclass(frozen=True)
class Downloads:
    """Fetches files at addresses into a cache."""

    folder: Path
    """The cache; made when it is needed."""
    max_bytes: int = 2**34
    """The largest file."""
    silence_s: float = 30.0
    """The longest that a server may take to accept a connection, or say nothing."""
    total_s: float = 3600.0
    """The longest that one file may take, however steadily it drips."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Downloads:
        """Return what fetches into the cache that an environment names."""
        return cls(cache_folder(environ))

    def fetch(self, url: str, sha256: str, name: str, where: str) -> Path:
        """
        Return a file with the content that is asked for, from the cache where it is there.

        Args:
            url: `http:`, `https:` or `file:`.
            sha256: The digest of the file.
            name: What messages call it; the address may hold a secret.
            where: The key path at which it stands, for messages.

        Raises:
            PlanError: it cannot be had, or has another content.
            RunFolderError, StorageError: the cache cannot be written.
        """
        kept = self.folder / "sha256" / sha256
        try:
            if _digest_of(kept) == sha256:
                return kept
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale_parts(kept.parent)
            self._download(url, sha256, kept)
        except _FetchError as error:
            hint = "try: the address in a browser; nothing of it was kept"
            raise PlanError([Problem(f"{name} cannot be fetched: {error}", where, (hint,))]) from None
        except OSError as error:
            raise disk_error("the cache of data cannot be used", error, kept.parent) from None
        return kept

    def _download(self, url: str, sha256: str, kept: Path) -> None:
        descriptor, path = tempfile.mkstemp(prefix=PART_PREFIX, dir=kept.parent)
        part = Path(path)
        try:
            digest, size = hashlib.sha256(), 0
            with os.fdopen(descriptor, "wb") as out:
                for block in self._blocks(url):
                    size += len(block)
                    self._check_size(size)
                    digest.update(block)
                    out.write(block)
                _check_digest(digest.hexdigest(), sha256, size)
                out.flush()
                os.fsync(out.fileno())
            part.replace(kept)
            sync_folder(kept.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def _blocks(self, url: str) -> Iterator[bytes]:
        if urllib.parse.urlsplit(url).scheme == "file":
            return _blocks_of_file(url)
        return self._blocks_from_server(url)

    def _blocks_from_server(self, url: str) -> Iterator[bytes]:
        with _watch(self.total_s) as watch:
            try:
                with _opener(watch).open(_request(url), timeout=min(self.silence_s, self.total_s)) as response:
                    length = _length_of(response)
                    self._check_size(length or 0)
                    got = 0
                    # read1 waits for one arrival, where read would wait for a whole block however slowly it drips.
                    while block := response.read1(BLOCK):
                        got += len(block)
                        watch.check()
                        yield block
                    watch.check()
                    _check_length(got, length)
            except _FetchError:
                raise
            except urllib.error.HTTPError as error:
                error.close()
                raise _FetchError(_refusal(error.code)) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                watch.check()
                raise _FetchError(self._in_words(error)) from None

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise _FetchError(f"it is larger than {self.max_bytes:,} bytes")

    def _in_words(self, error: Exception) -> str:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return f"the server said nothing for {self.silence_s:g} s"
        if isinstance(reason, http.client.IncompleteRead):
            return "the server broke off in the middle"
        if isinstance(reason, OSError) and reason.strerror:
            return reason.strerror.lower()  # of TLS, too, whose errors are also values
        if isinstance(reason, http.client.InvalidURL | ValueError):
            return "the address cannot be used"  # nothing more, because it may hold a secret
        return reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"[:200]


def _refusal(code: int) -> str:
    if 300 <= code < 400:
        return f"the server answered {code} and leads somewhere that is not followed, or in a circle"
    return f"the server answered {code} {http.client.responses.get(code, '')}".strip()


def _check_digest(found: str, wanted: str, size: int) -> None:
    if found != wanted:
        raise _FetchError(f"it is another file than the one it is pinned to: {size:,} bytes, sha256 {found}")


def _check_length(got: int, length: int | None) -> None:
    if length is not None and got < length:
        raise _FetchError(f"the server sent {got:,} of {length:,} bytes")


def _digest_of(path: Path) -> str | None:
    if path.is_fifo():
        return None  # to open it may take for ever; it is replaced
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _remove_stale_parts(folder: Path) -> None:
    for part in folder.glob(f"{PART_PREFIX}*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_S:
                part.unlink()


def _blocks_of_file(url: str) -> Iterator[bytes]:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    if not path.is_file():  # looked at first: to open a pipe may take for ever, and a device may have no end
        raise _FetchError("there is no such file")
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise _FetchError((error.strerror or "it cannot be read").lower()) from None
    with file:
        while block := file.read(BLOCK):
            yield block


def _request(url: str) -> urllib.request.Request:
    headers = {"User-Agent": f"gymcore/{version('gymcore')}", "Accept-Encoding": "identity"}
    return urllib.request.Request(url, headers=headers)


def _length_of(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


class _Watch:
    """Ends a download when its time is over, also while it waits: whoever reads finds the connection shut."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self.is_over = False
        self._socket: Any = None
        self._lock = threading.Lock()

    def hold(self, socket: Any) -> None:
        with self._lock:
            self._socket = socket
        if self.is_over:
            self.end()

    def end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(2)

    def check(self) -> None:
        if self.is_over:
            raise _FetchError(f"it took longer than {self.total_s:g} s")


@contextmanager
def _watch(total_s: float) -> Iterator[_Watch]:
    watch = _Watch(total_s)
    timer = threading.Timer(total_s, watch.end)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """Return what speaks HTTP and nothing else; no `file:`, `ftp:` or `data:` can be reached through a redirect."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            watch.hold(self.sock)

    class Encrypted(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            watch.hold(self.sock)

    class OverPlain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class OverEncrypted(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Encrypted, req, context=ssl.create_default_context())

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        OverPlain(),
        OverEncrypted(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and scheme != req.type:
            fp.close()
            raise _FetchError(_refusal(code))
        return super().redirect_request(req, fp, code, msg, headers, newurl)
