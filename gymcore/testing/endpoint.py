"""
A model endpoint on loopback that answers from a script, and can misbehave as real ones do.

A real HTTP server in a thread of its own: what talks to it goes through real sockets.
It is no benchmark and knows HTTP only as far as the two paths of the OpenAI API need it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.testing.replies import Reply, calls, says, truncated

__all__ = [
    "Answer",
    "LoopbackEndpoint",
    "Policy",
    "RecordedRequest",
    "calls",
    "half_a_body",
    "hangs",
    "html",
    "raw",
    "reset",
    "says",
    "slow",
    "status",
    "truncated",
]

START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request is answered on the wire, where a plain `Reply` does not say enough."""

    body: bytes | Reply = b""
    """The bytes of the body; a `Reply` takes the shape that the path asks for."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    sends: Literal["everything", "half", "reset", "nothing"] = "everything"
    delay_s: float = 0.0


Policy: TypeAlias = Callable[[dict[str, Any]], Reply | Answer]
"""Decides from a request's body what to answer; called in the endpoint's thread, one request at a time."""


def raw(
    body: Any,  # bytes and text are sent as they are, anything else as JSON
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with exactly this body."""
    if isinstance(body, str):
        body = body.encode()
    return Answer(body if isinstance(body, bytes) else encode_json(body), status, headers or {})


def status(
    code: int,
    body: Any = None,  # as in `raw`; an error object where it is None
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with an error status."""
    error = {"error": {"message": HTTPStatus(code).phrase, "type": "scripted_error"}}
    return raw(error if body is None else body, code, headers)


def half_a_body() -> Answer:
    """Promise a whole body, send half of it, and close the connection."""
    return Answer(says("This sentence never arrives."), sends="half")


def reset() -> Answer:
    """Reset the connection instead of answering."""
    return Answer(sends="reset")


def hangs() -> Answer:
    """Never answer; the connection is dropped when the endpoint stops."""
    return Answer(sends="nothing")


def html() -> Answer:
    """Answer with a web page and status 200, as a proxy in front of an endpoint may."""
    return raw("<html><body>bad gateway</body></html>", headers={"Content-Type": "text/html"})


def slow(seconds: float, reply: Reply | Answer) -> Answer:
    """Answer after a while."""
    answer = Answer(reply) if isinstance(reply, Reply) else reply
    return replace(answer, delay_s=seconds)


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    """By lower-case name."""
    body: Any  # whatever JSON the client sent; None where it was not JSON


class LoopbackEndpoint:
    """
    Serves `/v1/responses` and `/v1/chat/completions` on a free port of 127.0.0.1 while its `with` block lasts.

    Args:
        replies: Answers in order, whoever asks; the last one repeats. Or one function that gives the answer to a
            request's body; an exception in it becomes a 400 that says so.
        capacity: How many requests are answered at the same time; whoever comes then gets a 429 at once.

    Attributes:
        requests: Every request that arrived, in order.
        max_in_flight: The most requests that were being answered at one moment.
    """

    def __init__(self, *replies: Reply | Answer | Policy, capacity: int | None = None) -> None:
        script = list(replies) or [says("Done.")]
        first = script[0]
        if callable(first):
            if len(script) > 1:
                raise TypeError("a policy is the only argument: it gives every answer")
            self._policy: Policy = first
        else:
            scripted = [reply for reply in script if not callable(reply)]
            self._policy = lambda body: scripted.pop(0) if len(scripted) > 1 else scripted[0]
        self.requests: list[RecordedRequest] = []
        self.max_in_flight = 0
        self._capacity = capacity
        self._outage: Answer | None = None
        self._in_flight = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def base_url(self) -> str:
        """Where it listens, `/v1` included."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> LoopbackEndpoint:
        started: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="loopback-endpoint")
        self._thread.start()
        self._port = started.result(START_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @contextmanager
    def outage(self, answer: Answer | None = None) -> Iterator[None]:
        """
        Be down while the block lasts: break every connection and refuse new ones, or give everybody this answer.

        `with endpoint.outage(status(503)):` is a gateway with nothing behind it.
        """
        if answer is not None:
            self._outage = answer
            try:
                yield
            finally:
                self._outage = None
            return
        self._await(self._go_down())
        try:
            yield
        finally:
            self._await(self._listen())

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done in the thread of the endpoint."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)

    async def _go_down(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", self._port, backlog=1024)

    async def _serve(self, started: Future[int]) -> None:
        try:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await self._listen()
        except BaseException as error:
            started.set_exception(error)
            raise
        assert self._server is not None
        started.set_result(self._server.sockets[0].getsockname()[1])
        await self._stop.wait()
        self._server.close()
        # Conversations that still go on are cancelled by asyncio.run(), which waits for them.

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the endpoint stops
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection may carry another."""
        request = await _read_request(reader)
        self.requests.append(request)
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            answer = self._outage or self._answer(request)
            if self._capacity is not None and self._in_flight > self._capacity:
                answer = status(429)
            await asyncio.sleep(answer.delay_s)
            if answer.sends == "nothing":
                # Not on an event of its own: a task that only it knew of would be collected as garbage.
                assert self._stop is not None
                await self._stop.wait()
                return False
            if answer.sends == "reset":
                linger = struct.pack("ii", 1, 0)  # closing then sends RST at once
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            body = answer.body if isinstance(answer.body, bytes) else self._shape(answer.body, request)
            headers = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(body))}
            lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
            head = "\r\n".join([*lines, "", ""]).encode("latin-1")
            writer.write(head + (body[: len(body) // 2] if answer.sends == "half" else body))
            await writer.drain()
            return answer.sends == "everything"
        finally:
            self._in_flight -= 1

    def _answer(self, request: RecordedRequest) -> Answer:
        if not request.path.endswith(("/responses", "/chat/completions")):
            return status(404, {"error": {"message": f"no such path: {request.path}"}})
        if not isinstance(request.body, dict):
            return status(400, {"error": {"message": "the body is no JSON object"}})
        try:
            reply = self._policy(request.body)
        except Exception as error:  # a mistake in a test's own policy, which the test should see
            return status(400, {"error": {"message": f"the policy raised {type(error).__name__}: {error}"}})
        return Answer(reply) if isinstance(reply, Reply) else reply

    def _shape(self, reply: Reply, request: RecordedRequest) -> bytes:
        number = len(self.requests)
        model = request.body.get("model") or "loopback"
        if request.path.endswith("/responses"):
            response = dict(reply.to_response(number).body)
            usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
            return encode_json({**response, "object": "response", "model": model, "usage": usage})
        return encode_json(_completion(reply, number, model))


async def _read_request(reader: asyncio.StreamReader) -> RecordedRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    try:
        body = decode_json(data)
    except DocumentError:
        body = None
    # A client that takes this endpoint for its proxy sends the whole URL.
    return RecordedRequest(urlsplit(first.split(" ")[1]).path, headers, body)


def _completion(reply: Reply, number: int, model: str) -> dict[str, Any]:
    texts = [part for part in reply.parts if isinstance(part, str)]
    asked = [item for item in reply.to_output(number) if item["type"] == "function_call"]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    if asked:
        message["tool_calls"] = [
            {
                "id": item["call_id"],
                "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]},
            }
            for item in asked
        ]
    reason = "length" if reply.is_truncated else "tool_calls" if asked else "stop"
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
