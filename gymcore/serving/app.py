"""
The wire protocol as one application: head, agents, environments and models of a composition on one port.

Source: the HTTP interface of nemo-gym 0.4.0, which its collector, NeMo RL and verifiers speak.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from gymcore.composition import Composition, Route
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError
from gymcore.records import Row, ToolCall, Trajectory
from gymcore.runtime.faults import Late, message_of
from gymcore.runtime.placement import Placement
from gymcore.serving.aggregate import Summary, summed_up
from gymcore.serving.collected import Collected, no_room, received
from gymcore.serving.cookies import named_in, set_cookie
from gymcore.serving.head import configuration, instances
from gymcore.serving.messages import error_of, events_of
from gymcore.serving.models import Asked, Endpoints, read_asked, read_chat, read_messages
from gymcore.serving.on_demand import OnDemand
from gymcore.serving.openapi import describe
from gymcore.serving.outages import Unplayable
from gymcore.serving.recorder import Recorder
from gymcore.serving.refusals import FailedRollout, Refusal, RefusedRow, json_response, refusal_of_error, stopping
from gymcore.serving.replies import scored, trajectory_of
from gymcore.serving.rows import LONG_BODY, SentRow, read_row, route_of, takes_failures
from gymcore.serving.sessions import ClientSession, Sessions
from gymcore.serving.steps import read_turn, shown_first, stepped
from gymcore.serving.streams import completion_stream, response_stream

__all__ = ["CALLS", "InUse", "Served", "application"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    """What is served."""

    composition: Composition
    recorder: Recorder
    unplayable: Unplayable
    on_demand: OnDemand
    sessions: Sessions
    endpoints: Endpoints
    placements: Mapping[str, Placement]
    """Where the environments play."""


LONGEST_PAUSE_S = 5.0
"""So long, at most, no long body is read after one that was refused."""

Answer = Callable[[Request], Awaitable[Response]]

CALLS: Mapping[str, Mapping[str, str]] = {
    "GET": {
        "": "status",
        "global_config_dict_yaml": "configuration",
        "health": "status",
        "openapi.json": "description",
        "ready": "ready",
        "reverify_mode": "reverify_mode",
        "server_instances": "instances",
        "v1/models": "models",
    },
    "POST": {
        "aggregate_metrics": "aggregate",
        "close_session": "close_session",
        "reset": "reset",
        "run": "run",
        "seed_session": "seed_session",
        "step": "step",
        "v1/chat/completions": "chat",
        "v1/messages": "messages",
        "v1/responses": "responses",
        "verify": "verify",
    },
}
"""The calls of the protocol, each with what answers it; no tool can be called by the name of one."""


def application(served: Served) -> Starlette:
    """Return the application; what stands before it, `Guard` and `InUse`, is the caller's business."""
    wire = _Wire(served)
    # One route, because trying a pattern for each call of the protocol takes longer than most of them do.
    return Starlette(
        routes=[Path("/{path:path}", wire.answer, methods=["GET", "POST"])],
        exception_handlers={Refusal: _refused, HTTPException: _not_found, GymcoreError: _failed, Exception: _broken},
    )


class InUse:
    """
    Keeps the session that a request names from being closed as idle, from the head of the request to its answer.

    It stands before what reads bodies: one may take longer to come than a session may be idle.

    Args:
        app: What serves the request.
        sessions: All of them.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        name = named_in(scope) if scope["type"] == "http" else None
        with nullcontext() if name is None else self._sessions.in_use(name):
            await self._app(scope, receive, send)


class _Wire:
    """What is answered to each call of the protocol."""

    def __init__(self, served: Served) -> None:
        self._composition = served.composition
        self._routes = served.composition.routes
        self._recorder = served.recorder
        self._on_demand = served.on_demand
        self._sessions = served.sessions
        self._endpoints = served.endpoints
        self._down = served.unplayable.environments
        self._placements = served.placements
        self._started_at = time.time()
        self._aggregating = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._may_read = 0.0
        """When the next long body may be read, in seconds of the event loop's clock."""

    async def answer(self, request: Request) -> Response:
        """Answer any call of the protocol; every other name is that of a tool."""
        path, method = request.path_params["path"], "GET" if request.method == "HEAD" else request.method
        name = CALLS[method].get(path)
        if name is not None:
            answer: Answer = getattr(self, name)
            return await answer(request)
        other = "POST" if method == "GET" else "GET"
        if path in CALLS[other] or (method == "GET" and "/" not in path):
            raise HTTPException(405, headers={"allow": other})
        if "/" in path:
            raise HTTPException(404)
        return await self.call(request, path)

    async def status(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        if self._recorder.is_stopping:
            raise stopping()
        if self._down:
            told = "; ".join(f"{name}: {why}" for name, why in self._down.items())
            raise Refusal(503, f"nothing more can be played of {told}", further={"environments": list(self._down)})
        in_flight = {name: count for name, count in self._on_demand.in_flight.items() if count}
        return json_response({"status": "ready", "in_flight": in_flight, "sessions": len(self._sessions)})

    async def configuration(self, request: Request) -> Response:
        found = configuration(self._routes.values(), self._composition.models, *_place(request))
        # JSON is YAML in which no name can be taken for anything else.
        return json_response(encode_json(found).decode())

    async def instances(self, request: Request) -> Response:
        return json_response(instances(self._routes.values(), *_place(request), self._started_at))

    async def reverify_mode(self, request: Request) -> Response:
        # A verifier may look at what the tools have done to its environment, and nothing says which one does.
        return json_response("unknown")

    async def description(self, request: Request) -> Response:
        return json_response(describe(self._composition))

    async def models(self, request: Request) -> Response:
        return json_response(self._endpoints.listed())

    async def run(self, request: Request) -> Response:
        try:
            sent, _ = await self._read(request, partial(read_row, routes=self._routes))
        except RefusedRow as refused:
            if not takes_failures(refused.row):
                raise
            return json_response(refused.answer())
        try:
            answer = await self._on_demand.answer(sent, request.is_disconnected)
        except FailedRollout as failed:
            if not takes_failures(sent.sent):
                raise
            answer = encode_json(failed.answer(sent.sent))
        return Response(answer, media_type="application/json")

    async def aggregate(self, request: Request) -> Response:
        # Thousands of rollouts take a while, which the others need not wait for; one body at a time, for its memory.
        async with self._aggregating:
            file = await received(request)
            try:
                summary = await asyncio.to_thread(summed_up, Collected(file).all(), self._environment_of)
                own = await self._own_metrics(summary, Collected(file))
                size = await asyncio.to_thread(_rewritten, file, summary.written(own))
            except BaseException:
                file.close()
                raise
        headers = {"content-length": str(size)}
        return StreamingResponse(_pieces(file), headers=headers, media_type="application/json")

    def _environment_of(self, rollout: Mapping[str, Any]) -> str | None:
        try:
            return route_of(rollout, self._routes).environment
        except Refusal:
            return None

    async def _own_metrics(self, summary: Summary, rollouts: Collected) -> Mapping[str, Any]:
        """
        Return what the environment of some rollouts says of them; nothing where they are of none here, or of several.

        Raises:
            Refusal: it failed.
        """
        environment = summary.environment
        if environment is None:
            return {}
        try:
            return await self._placements[environment].aggregate_metrics(rollouts)
        except GymcoreError:
            raise
        except Exception as error:
            told = f"{environment} could not sum the rollouts up: {type(error).__name__}: {message_of(error)}"
            raise Refusal(504 if isinstance(error, Late) else 500, told) from None

    async def seed_session(self, request: Request) -> Response:
        name, _, _ = await self._opened(request)
        return _with_cookie(json_response({}), name)

    async def reset(self, request: Request) -> Response:
        name, session, row = await self._opened(request)
        return _with_cookie(json_response({"observation": await shown_first(session, row), "info": {}}), name)

    async def step(self, request: Request) -> Response:
        session = self._session(request)
        return json_response(await stepped(session, await self._read(request, read_turn)))

    async def _opened(self, request: Request) -> tuple[str, ClientSession, Row]:
        """Open an environment for the row that was sent; return the name of its session, the session, and the row."""
        sent, _ = await self._read(request, partial(read_row, routes=self._routes))
        if self._recorder.is_stopping:
            raise stopping()
        with suppress(Refusal):  # a session of before may be closed by now
            if (found := self._find(request)) is not None:
                await self._sessions.end(found[0])
        name, session = await self._sessions.open(sent)
        return name, session, sent.row

    async def call(self, request: Request, tool: str) -> Response:
        session = self._session(request)
        arguments = (await request.body()).decode("utf-8", "replace")
        text = await session.call(ToolCall(tool, arguments, f"call_{session.count()}"))
        media_type = "application/json" if text[:1] in "{[" else "text/plain"
        return Response(text.encode("utf-8", "replace"), media_type=media_type)

    async def verify(self, request: Request) -> Response:
        sent, response, trajectory = await self._read(request, partial(_read_episode, routes=self._routes))
        found = self._find(request)
        if found is None:
            return json_response(await self._verified_anew(sent, response, trajectory))
        _, session = found
        _refuse_another(sent, session)
        score = await session.verify(trajectory, response)
        return json_response(scored(sent.sent, session.task, response, score.stop, score.reward))

    async def _verified_anew(self, sent: SentRow, response: Any, trajectory: Trajectory) -> dict[str, Any]:
        """
        Score what somebody has done without a session: what it shows is done again, in one that nobody is told.

        It is kept nowhere: who has something judged asks for no rollout, and it may have been kept where it was played.
        """
        name, session = await self._sessions.open(sent, is_recorded=False)
        try:
            for made in trajectory.calls():
                await session.call(made)
            score = await session.verify(trajectory, response)
        finally:
            await self._sessions.end(name)
        return scored(sent.sent, session.task, response, score.stop, score.reward)

    async def _read(self, request: Request, read: Callable[[bytes], Result]) -> Result:
        """
        Read a body; a long one in a thread, one at a time, so that calls of others are answered in between.

        Nothing is answered while JSON is decoded, which keeps every other thread waiting. So those that are refused get
        a twentieth of the time at most: what is sent for nothing may be sent for ever.
        """
        body = await request.body()
        if len(body) <= LONG_BODY:
            return read(body)
        now = asyncio.get_running_loop().time
        async with self._reading:
            await asyncio.sleep(self._may_read - now())
            begun = now()
            try:
                return await asyncio.to_thread(read, body)
            except Refusal:
                self._may_read = now() + min(19 * (now() - begun), LONGEST_PAUSE_S)
                raise

    async def close_session(self, request: Request) -> Response:
        found = self._find(request)
        if found is not None:
            await self._sessions.end(found[0])
        return json_response({})

    async def responses(self, request: Request) -> Response:
        asked = await self._read(request, read_asked)
        # Agents send the cookie of their session to their model, too: a cookie alone asks for no episode.
        if not self._names_agent(asked.params.get("model")):
            return _sent(asked, await self._endpoints.respond(asked), response_stream)
        session = self._session(request)
        if asked.params["model"] != session.route.name:
            raise Refusal(409, f"the agent of the session is {session.route.name}")
        return _sent(asked, await self._endpoints.play(session, asked), response_stream)

    def _names_agent(self, model: Any) -> bool:
        return isinstance(model, str) and model in self._routes and model not in self._composition.models

    async def chat(self, request: Request) -> Response:
        asked = await self._read(request, read_chat)
        return _sent(asked, await self._endpoints.complete(asked), completion_stream)

    async def messages(self, request: Request) -> Response:
        try:
            asked = await self._read(request, read_messages)
            message = await self._endpoints.message(asked)
        except Refusal as refused:
            return refused.answered(error_of(refused))
        return _sent(asked, message, events_of)

    def _find(self, request: Request) -> tuple[str, ClientSession] | None:
        return self._sessions.find(request.cookies)

    def _session(self, request: Request) -> ClientSession:
        found = self._find(request)
        if found is None:
            name = request.path_params["path"][:100]
            told = f"there is no {name!r} here without a session, in which tools are called"
            raise Refusal(404, told, hints=["try: POST /seed_session with a row, and send its cookie along"])
        return found[1]


def _read_episode(body: bytes, routes: Mapping[str, Route]) -> tuple[SentRow, Any, Trajectory]:
    """
    Read a row and the response that was played for it, as it came and as what happened.

    Raises:
        Refusal: it is no row, or no response.
    """
    sent, (response,) = read_row(body, routes, extra=("response",))
    return sent, response, trajectory_of(response)


def _place(request: Request) -> tuple[str, int]:
    """Return by which host and port the client has called; it writes the host into addresses."""
    host = request.url.hostname or "127.0.0.1"
    return f"[{host}]" if ":" in host else host, request.url.port or 80


def _refuse_another(sent: SentRow, session: ClientSession) -> None:
    """
    Find that a row is not the one of its session.

    Raises:
        Refusal: it is another environment's, says another `task_id`, or, where one says none, another task.
    """
    if sent.route.environment != session.route.environment or not sent.is_task(session.told):
        raise Refusal(409, "this row is not the one of the session", hints=["try: /seed_session, for another"])


def _rewritten(file: IO[bytes], pieces: Iterable[bytes]) -> int:
    """Write an answer in the place of what was sent, and return its length."""
    try:
        file.seek(0)
        file.truncate()
        file.writelines(pieces)
        return file.tell()
    except OSError as error:
        raise no_room(error) from None


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while piece := file.read(2**18):
            yield piece


def _sent(asked: Asked, reply: Mapping[str, Any], stream: Callable[[Mapping[str, Any]], bytes]) -> Response:
    """Send the reply of a model as it was asked for: whole, or as the events of a stream."""
    return Response(stream(reply), media_type="text/event-stream") if asked.is_streamed else json_response(reply)


def _with_cookie(response: Response, name: str) -> Response:
    """Name a session that was opened; `Guard` names it again in each answer to who sends the cookie."""
    response.headers["set-cookie"] = set_cookie(name)
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {"message": f"{error.detail}: {request.method} {request.url.path[:200]}"}
    headers = dict(error.headers or {})
    return Response(encode_json({"error": told}), error.status_code, headers, media_type="application/json")


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, GymcoreError)
    return refusal_of_error(error).response()


async def _broken(request: Request, error: Exception) -> Response:
    return Refusal(500, "a bug of ours; what happened was said where the server runs").response()
