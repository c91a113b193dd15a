"""
Files at addresses: fetched once, whole and right, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from gymcore.cache_folder import cache_folder
from gymcore.composition.sources.downloads import Downloads
from gymcore.errors import PlanError, RunFolderError

DATA = b'{"answer": "a"}\n' * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    """
    A cache of its own.
    """
    return Downloads(tmp_path / "cache", silence_s=5.0, total_s=20.0)


def _refused(downloads: Downloads, url: str, sha256: str = SHA256) -> str:
    """Return why a file cannot be had, after looking that nothing of it was kept."""
    with pytest.raises(PlanError) as caught:
        downloads.fetch(url, sha256, "http://somewhere", "data")
    assert [path for path in downloads.folder.rglob("*") if path.is_file()] == []
    assert caught.value.where == "data"
    return caught.value.message


def test_a_file_is_fetched_once(served: Any, downloads: Downloads) -> None:
    """
    What was fetched lies there under its digest, and nobody is asked again.
    """
    url = served.url("/rows.jsonl", served.body(DATA))

    first = downloads.fetch(url, SHA256, "x", "data")
    again = downloads.fetch("http://127.0.0.1:1/gone", SHA256, "x", "data")

    assert first == again
    assert first.read_bytes() == DATA
    assert served.asked == ["GET /rows.jsonl"]
    assert [path.name for path in first.parent.iterdir()] == [SHA256]


def test_a_cache_that_was_damaged_is_mended(served: Any, downloads: Downloads) -> None:
    """
    What lies there is checked before it is used.
    """
    url = served.url("/rows.jsonl", served.body(DATA))
    kept = downloads.fetch(url, SHA256, "x", "data")
    kept.write_bytes(DATA[:-1])

    assert downloads.fetch(url, SHA256, "x", "data").read_bytes() == DATA
    assert len(served.asked) == 2


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(served: Any, downloads: Downloads, code: int) -> None:
    """
    As far as it leads to a web server.
    """
    target = served.url("/there", served.body(DATA))

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Location", target)
        request.end_headers()

    assert downloads.fetch(served.url("/here", answer), SHA256, "x", "data").read_bytes() == DATA


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_scheme_is_refused(served: Any, downloads: Downloads, target: str) -> None:
    """
    A server decides nothing about what is read here.
    """
    assert "the server answered 302 and leads somewhere that is not followed" in _refused(
        downloads, served.url("/x", served.redirect(target))
    )


def test_a_circle_of_redirects_ends(served: Any, downloads: Downloads) -> None:
    """
    Before it has gone round too often.
    """
    url = served.url("/x", served.redirect(served.address + "/x"))

    assert "the server answered 302" in _refused(downloads, url)
    assert len(served.asked) < 12


def test_a_truncated_answer_is_refused(served: Any, downloads: Downloads) -> None:
    """
    Whether the server says how much was to come, or in chunks.
    """

    def chunks(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"5\r\nabcde\r\n5\r\nab")

    assert f"sent {len(DATA) - 9:,} of {len(DATA):,} bytes" in _refused(
        downloads, served.url("/a", served.body(DATA[:-9], length=len(DATA)))
    )
    assert "broke off" in _refused(downloads, served.url("/b", chunks))


def test_another_file_is_refused_with_its_digest(served: Any, downloads: Downloads) -> None:
    """
    So that whoever changed it on purpose can pin the new one.
    """
    other = DATA + b"\n"

    message = _refused(downloads, served.url("/x", served.body(other)))

    assert f"another file than the one it is pinned to: {len(other):,} bytes" in message
    assert hashlib.sha256(other).hexdigest() in message


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
def test_a_refusal_is_said_with_its_code(served: Any, downloads: Downloads, code: int) -> None:
    """
    As the server said it.
    """
    assert f"the server answered {code}" in _refused(downloads, served.url("/x", served.status(code)))


def test_an_answer_that_is_too_large_is_refused(served: Any, downloads: Downloads) -> None:
    """
    Before it is fetched where its size is said, and otherwise when it has become too large.
    """
    small = replace(downloads, max_bytes=1000)

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not served.is_over.is_set():
            request.wfile.write(b"x" * 10_000)

    assert "larger than 1,000 bytes" in _refused(small, served.url("/a", served.body(DATA)))
    assert "larger than 1,000 bytes" in _refused(small, served.url("/b", endless))


def test_a_server_that_says_nothing_is_left(served: Any, downloads: Downloads) -> None:
    """
    After a while that is bounded.
    """
    impatient = replace(downloads, silence_s=0.2)

    def silent(request: BaseHTTPRequestHandler) -> None:
        served.is_over.wait(20)

    assert "the server said nothing for 0.2 s" in _refused(impatient, served.url("/x", silent))


@pytest.mark.parametrize("is_head", [True, False])
def test_a_server_that_drips_is_left(served: Any, downloads: Downloads, is_head: bool) -> None:
    """
    However steadily a byte comes, in the head of the answer or in its body: the whole has a bound, too.
    """
    impatient = replace(downloads, total_s=0.5)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X: " if is_head else b"\r\n"))
        while not served.is_over.wait(0.02):
            request.wfile.write(b"x")

    begin = time.monotonic()
    assert "it took longer than 0.5 s" in _refused(impatient, served.url("/x", drip))
    assert time.monotonic() - begin < 5


def test_a_certificate_must_be_trusted(
    served_encrypted: Any, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One that nobody vouches for is refused; an authority of one's own is named with SSL_CERT_FILE.
    """
    url = served_encrypted.url("/x", served_encrypted.body(DATA))

    assert "certificate verify failed" in _refused(downloads, url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    assert downloads.fetch(url, SHA256, "x", "data").read_bytes() == DATA


def test_over_tls_a_redirect_leads_to_nothing_less(
    served: Any, served_encrypted: Any, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    From `http:` to `https:` it is followed, and never back.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    down = served_encrypted.url("/down", served.redirect(served.url("/x", served.body(DATA))))
    up = served.url("/up", served.redirect(served_encrypted.url("/x", served.body(DATA))))

    assert "leads somewhere that is not followed" in _refused(downloads, down)
    assert downloads.fetch(up, SHA256, "x", "data").read_bytes() == DATA


def test_a_server_that_drips_over_tls_is_left(
    served_encrypted: Any, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The bound of the whole holds there as well.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not served_encrypted.is_over.wait(0.02):
            request.wfile.write(b"x")

    impatient = replace(downloads, total_s=0.5)
    assert "it took longer than 0.5 s" in _refused(impatient, served_encrypted.url("/x", drip))


def test_nobody_there_is_said_in_words(downloads: Downloads) -> None:
    """
    No traceback, and no class name.
    """
    assert "connection refused" in _refused(downloads, "http://127.0.0.1:1/x")


@pytest.mark.parametrize("end", ["?s3cret\nx", "?s3cret x", "?s3cret\u00e9", ":s3cret/x"])
def test_an_address_that_is_none_is_not_repeated(downloads: Downloads, end: str) -> None:
    """
    What a variable put into it may be a secret.
    """
    message = _refused(downloads, f"http://127.0.0.1{end}")

    assert "the address cannot be used" in message
    assert "s3cret" not in message


def test_two_that_fetch_the_same_at_once_both_have_it(served: Any, downloads: Downloads) -> None:
    """
    Each writes a part of its own, and puts it in place whole.
    """
    url = served.url("/x", served.body(DATA))
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(downloads.fetch(url, SHA256, "x", "data").read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [DATA] * 4
    assert len(list((downloads.folder / "sha256").iterdir())) == 1


def test_what_a_killed_process_left_behind_is_cleared_away(served: Any, downloads: Downloads) -> None:
    """
    A day later, when nobody can be writing it any more; and nothing is taken up again.
    """
    folder = downloads.folder / "sha256"
    folder.mkdir(parents=True)
    old, new = folder / ".part-old", folder / ".part-new"
    old.write_bytes(DATA[:10])
    new.write_bytes(DATA[:10])
    os.utime(old, (0, 0))

    downloads.fetch(served.url("/x", served.body(DATA)), SHA256, "x", "data")

    assert sorted(path.name for path in folder.iterdir()) == sorted([".part-new", SHA256])


def test_a_file_of_this_machine_is_checked_as_well(downloads: Downloads, tmp_path: Path) -> None:
    """
    `file:` addresses a regular file, by its absolute path.
    """
    path = tmp_path / "a b.jsonl"
    path.write_bytes(DATA)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    assert "no such file" in _refused(downloads, pipe.as_uri())
    assert "no such file" in _refused(downloads, (tmp_path / "absent").as_uri())
    assert "another file" in _refused(downloads, path.as_uri(), "0" * 64)
    assert downloads.fetch(path.as_uri(), SHA256, "x", "data").read_bytes() == DATA


def test_a_pipe_in_the_cache_is_replaced(served: Any, downloads: Downloads) -> None:
    """
    It is not opened, which may take for ever.
    """
    pipe = downloads.folder / "sha256" / SHA256
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)

    assert downloads.fetch(served.url("/x", served.body(DATA)), SHA256, "x", "data").read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_a_wrong_place(served: Any, tmp_path: Path) -> None:
    """
    It names the folder.
    """
    (tmp_path / "file").write_bytes(b"")
    downloads = Downloads(tmp_path / "file" / "cache")

    with pytest.raises(RunFolderError, match="the cache of data cannot be used"):
        downloads.fetch(served.url("/x", served.body(DATA)), SHA256, "x", "data")


def test_the_cache_is_where_the_environment_says() -> None:
    """
    A folder of our own, or one below that of all programs; a relative one counts as not set.
    """
    home = Path.home() / ".cache" / "gymcore"

    assert cache_folder({}) == home
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/gymcore")
    assert cache_folder({"XDG_CACHE_HOME": "x"}) == home
    assert cache_folder({"XDG_CACHE_HOME": "/x", "GYMCORE_CACHE": "/y"}) == Path("/y")
    assert cache_folder({"GYMCORE_CACHE": "mine"}) == Path.cwd() / "mine"  # installers work in another folder
