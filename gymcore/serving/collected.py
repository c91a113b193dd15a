"""
Rollouts that a client has collected, thousands in one body: kept in a file, and read one by one.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import tempfile
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from gymcore.serving.guard import BODY_BYTES, BODY_S, STALL_S, harmless
from gymcore.serving.refusals import Refusal

__all__ = ["Collected", "no_room", "received"]

MOST_BYTES = 2**30
"""The longest body: five kilobytes of each of 200,000 rollouts."""

IN_MEMORY = 2**20
"""The bytes of a body above which it goes to the disk; also, so much of it is read at once."""

LONGEST = BODY_BYTES
"""The most letters that one rollout may have."""


async def received(request: Request, stall_s: float = STALL_S) -> IO[bytes]:
    """
    Take a long body as it comes, which must be no slower than others have to be.

    Args:
        request: What came, without its body.
        stall_s: How long nothing of it may come.

    Raises:
        Refusal: it is too long or too slow, the client has left, or the disk takes no more.
    """
    file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115, whoever reads it closes it
    try:
        await _take(request, file, stall_s)
    except BaseException as error:
        file.close()
        if isinstance(error, TimeoutError):
            told = f"the body did not come within {BODY_S:g} s for each {BODY_BYTES >> 20} MB"
            raise Refusal(408, f"{told}, or nothing of it for {stall_s:g} s") from None
        if isinstance(error, ClientDisconnect):
            raise Refusal(400, "the client has left") from None
        if isinstance(error, OSError):
            raise no_room(error) from None
        raise
    return file


async def _take(request: Request, file: IO[bytes], stall_s: float) -> None:
    now = asyncio.get_running_loop().time
    begun, come = now(), 0
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MOST_BYTES:
        raise _too_long()
    waiting: list[bytes] = []
    async with asyncio.timeout(stall_s) as deadline:
        async for part in request.stream():
            come += len(part)
            if come > MOST_BYTES:
                raise _too_long()
            waiting.append(part)
            if come % IN_MEMORY < len(part):  # a thread for each part would take longer than the disk
                deadline.reschedule(None)  # a slow disk is no slow client
                paused = now()
                await asyncio.to_thread(file.writelines, waiting)
                begun += now() - paused
                waiting = []
            deadline.reschedule(min(now() + stall_s, begun + BODY_S * (1 + come // BODY_BYTES)))
    await asyncio.to_thread(file.writelines, waiting)


def _too_long() -> Refusal:
    return Refusal(413, f"the body is longer than {MOST_BYTES >> 20} MB")


def no_room(error: OSError) -> Refusal:
    """Return what is said where the disk takes no more of what is sent, or answered."""
    return Refusal(507, f"the folder for temporary files takes no more: {error.strerror or error}")


class Collected:
    """
    The rollouts of a body, those that failed left out; each time they are gone through they are read anew.

    Args:
        file: The body: `{"verify_responses": [...]}`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (rollout for rollout in self.all() if "_ng_failure_class" not in rollout)

    def all(self) -> Iterator[dict[str, Any]]:
        """
        Yield every one, failures too.

        Raises:
            Refusal: the body is no JSON object, or has no list of such rollouts.
        """
        text = _Text(self._file)
        is_there = False
        for name in text.members("{", "}"):
            if name != "verify_responses":
                text.value()
                continue
            is_there = True
            if text.next() != "[":
                raise _no_rollouts()
            for rollout in text.members("[", "]"):
                if not isinstance(rollout, dict):
                    raise _no_rollouts()
                yield rollout
        if text.next():
            raise _no_json()
        if not is_there:
            raise _no_rollouts()


_SPACE = re.compile(r"[ \t\n\r]*")


class _Text:
    """JSON that is read in pieces: values one by one, and what stands between them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._file.seek(0)
        self._letters = codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder(parse_constant=_not_finite)
        self._text = ""
        self._at = 0

    def next(self) -> str:
        """Return the next sign that is no space, and do not take it; nothing at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = self._at if found is None else found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def members(self, first: str, last: str) -> Iterator[Any]:
        """Yield what stands in a list, or the names in an object, where whoever asks takes the value of each."""
        self._take(first)
        if self.next() != last:
            while True:
                member = self.value()
                if last == "}":
                    if not isinstance(member, str):
                        raise _no_json()
                    self._take(":")
                yield member
                if self.next() != ",":
                    break
                self._at += 1
        self._take(last)

    def value(self) -> Any:
        """Take a value, whatever it is."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:  # or there is more of it
                end = len(self._text)
            except RecursionError:
                raise Refusal(413, "a rollout is nested too deeply") from None
            if end < len(self._text):  # more of a number could follow
                self._at = end
                return value
            if len(self._text) - self._at > LONGEST:
                raise Refusal(413, f"a rollout is longer than {LONGEST >> 20} MB, or is no JSON")
            if not self._read():
                raise _no_json()

    def _take(self, sign: str) -> None:
        if self.next() != sign:
            raise _no_json()
        self._at += 1

    def _read(self) -> bool:
        """Read on, more of it the longer a value is already; return whether there was anything."""
        rest = self._text[self._at :]
        if len(rest) >= IN_MEMORY:
            harmless(rest.encode())
        data = self._file.read(min(max(IN_MEMORY, len(rest)), 4 * IN_MEMORY))
        try:
            self._text = rest + self._letters.decode(data, final=not data)
        except UnicodeDecodeError:
            raise _no_json() from None
        self._at = 0
        return bool(data)


def _not_finite(constant: str) -> NoReturn:
    raise _no_json()


def _no_json() -> Refusal:
    return Refusal(400, "the body is no JSON object")


def _no_rollouts() -> Refusal:
    return Refusal(422, "`verify_responses` must be a list of objects")
