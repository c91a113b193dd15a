"""
The models of a composition as endpoints: `/v1/responses`, `/v1/chat/completions` and `/v1/messages`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gymcore.chat import InexpressibleError, to_messages
from gymcore.composition.rows.messages import MessageError, input_of_messages
from gymcore.errors import GymcoreError, ModelError
from gymcore.interfaces import Agent, BoundModel, Environment, Model, OpenEnvironment, RolloutContext
from gymcore.records import Task, ToolCall, Trajectory, Turn, seed_of
from gymcore.responses import CreateParams, Item, Request, Response, whole_response
from gymcore.runtime.session import BoundToRollout
from gymcore.serving.messages import create_params_of, message_of
from gymcore.serving.refusals import Refusal, refusal_of_error
from gymcore.serving.rows import read_object
from gymcore.serving.sessions import ClientSession

__all__ = ["Asked", "Endpoints", "read_asked", "read_chat", "read_messages"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked for."""

    params: Mapping[str, Any]
    """The create parameters as they came, or as a request of another API says them."""
    request: Request
    """The same, checked, without whom."""
    is_streamed: bool = False
    """Whether the answer is to be sent as a stream."""


def read_asked(body: bytes) -> Asked:
    """
    Read and check the create parameters of a request.

    Raises:
        Refusal: they are not what the API takes.
    """
    params = read_object(body)
    return Asked(params, _request(params), bool(params.get("stream")))


def read_chat(body: bytes) -> Asked:
    """
    Read and check a chat request.

    Raises:
        Refusal: it is none, or cannot be said in the words of the Responses API.
    """
    chat = read_object(body)
    params = _create_params_of_chat(chat)
    return Asked(params, _request(params), _is_streamed(chat))


def read_messages(body: bytes) -> Asked:
    """
    Read and check a request of the Messages API.

    Raises:
        Refusal: it is none, or cannot be said in the words of the Responses API.
    """
    asked = read_object(body)
    params = create_params_of(asked)
    return Asked(params, _request(params), _is_streamed(asked))


def _is_streamed(body: Mapping[str, Any]) -> bool:
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise Refusal(422, "stream: must be true or false")
    return stream is True


def _request(params: Mapping[str, Any]) -> Request:
    """Return what is asked, without whom and how it is to be sent: who is asked is called otherwise at its endpoint."""
    try:
        request = CreateParams.model_validate(params).request()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refusal(422, f"{place}: {first['msg']}" if place else str(first["msg"])) from None
    asked = {key: item for key, item in request.params.items() if key not in _OF_SENDING}
    return Request(input=request.input, params=asked)


_OF_SENDING = {"model", "stream", "stream_options"}
"""What of the create parameters is for who answers, and not for the model."""


class _OtherRequest:
    """An open environment of which something else is asked than its row says."""

    def __init__(self, environment: OpenEnvironment, request: Request) -> None:
        self._environment = environment
        tools = request.params.get("tools")
        offered = environment.request.params.get("tools") if tools is None else tools
        self.request = Request(input=request.input, params={**request.params, "tools": offered})

    @property
    def task(self) -> Task:
        return self._environment.task

    @property
    def max_turns(self) -> int | None:
        return self._environment.max_turns

    async def call(self, call: ToolCall) -> Item:
        return await self._environment.call(call)

    async def reply(self, turn: Turn) -> str | None:
        return await self._environment.reply(turn)


class Endpoints:
    """
    What answers requests for a model.

    Args:
        models: The opened models, by their name in the plan.
        agents: The opened agents, by route.
        seed: The plan's.
        called: What the models are called in a catalog, by their name in the plan.
    """

    def __init__(
        self, models: Mapping[str, Model[Any]], agents: Mapping[str, Agent[Any]], seed: int, called: Mapping[str, str]
    ) -> None:
        self._models = models
        self._called = called
        self._agents = agents
        self._seed = seed

    async def respond(self, asked: Asked) -> dict[str, Any]:
        """
        Ask a model once; `model` may name one of the plan's, else it is the policy.

        Raises:
            Refusal: no reply could be had.
        """
        name, model = self._chosen(asked.params.get("model"))
        reply = await self._ask(name, model, asked.request)
        return whole_response(reply.body, name, asked.params)

    async def play(self, session: ClientSession, asked: Asked) -> dict[str, Any]:
        """
        Have the agent of a session play its whole episode.

        Raises:
            Refusal: it failed.
        """
        agent = self._agents[session.route.name]

        async def played(environment: OpenEnvironment, model: BoundModel) -> Trajectory:
            return await agent.play(_OtherRequest(environment, asked.request), model)

        trajectory: Trajectory = await session.do(played)
        return trajectory.to_response(session.route.model, asked.params)

    async def complete(self, asked: Asked) -> dict[str, Any]:
        """
        Answer a chat completion, whole; `completion_stream` writes it as the stream that was asked for.

        Raises:
            Refusal: no reply could be had, or chat has no words for it.
        """
        response = await self.respond(asked)
        try:
            messages = list(to_messages(response["output"]))
        except InexpressibleError as error:
            raise Refusal(502, f"chat has no words for {error}, which the model answered") from None
        message = messages[0] if messages else {"role": "assistant", "content": ""}
        further = _further(response["output"])
        logprobs = further.pop("logprobs", None) or _logprobs_in(response["output"])
        is_cut = response.get("status") == "incomplete"
        reason = "length" if is_cut else "tool_calls" if message.get("tool_calls") else "stop"
        usage = response.get("usage") or {}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": response["model"],
            "choices": [{"index": 0, "message": {**further, **message}, "finish_reason": reason, "logprobs": logprobs}],
            "usage": {
                "prompt_tokens": usage.get("input_tokens", 0),
                "completion_tokens": usage.get("output_tokens", 0),
                "total_tokens": usage.get("total_tokens", 0),
            },
        }

    async def message(self, asked: Asked) -> dict[str, Any]:
        """
        Answer a request of the Messages API, whole; `events_of` writes it as the stream that was asked for.

        Raises:
            Refusal: no reply could be had, or the API has no words for it.
        """
        response = await self.respond(asked)
        return message_of(response, _further(response["output"]))

    def listed(self) -> dict[str, Any]:
        """Return the models, as the API lists them."""
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "gymcore"} for name in self._models]
        return {"object": "list", "data": models}

    def _chosen(self, name: Any) -> tuple[str, Model[Any]]:
        chosen = name if isinstance(name, str) and name in self._models else "policy"
        if chosen not in self._models:
            raise Refusal(404, "the plan has no model `policy`", hints=[f"its models: {', '.join(self._models)}"])
        return chosen, self._models[chosen]

    async def _ask(self, name: str, model: Model[Any], request: Request) -> Response:
        # There is no environment here; a model that needs something of one says so of the bare class.
        if model.objection(Environment) is not None:
            option = "--model" if name == "policy" else f"--set models.{name}.use=..."
            told = f"the model {self._called[name]!r} plays only whole rollouts, by /run; name another with {option}"
            raise Refusal(501, told)
        name = uuid.uuid4().hex
        environment: Environment[Any, Any] = Environment(Task(responses_create_params=CreateParams(input="")))
        async with AsyncExitStack() as stack:
            context = RolloutContext(environment, ("", name, 0), seed_of(self._seed, name), stack)
            try:
                return await BoundToRollout(model, context).respond(request)
            except ModelError as error:
                raise Refusal(502, error.message, further={"retryable": error.retryable}) from None
            except GymcoreError as error:
                raise refusal_of_error(error) from None
            except Exception as error:
                cause = error.__cause__ or error
                if isinstance(cause, ModelError):
                    raise Refusal(502, cause.message, further={"retryable": cause.retryable}) from None
                raise Refusal(502, f"the model failed: {type(cause).__name__}: {cause}") from None


_OF_ITEMS = {
    "arguments",
    "call_id",
    "content",
    "encrypted_content",
    "id",
    "name",
    "role",
    "status",
    "summary",
    "type",
}
"""What of an item is said in the words of other APIs."""


def _further(output: list[Item]) -> dict[str, Any]:
    """Return whatever else the last item of a reply has, such as token ids, which every API gives as it is."""
    return {key: value for item in output[-1:] for key, value in item.items() if key not in _OF_ITEMS}


def _logprobs_in(output: Iterable[Item]) -> dict[str, Any] | None:
    """Return the log-probabilities that the parts of messages hold, as chat has them; None where there are none."""
    contents = [item["content"] for item in output if isinstance(item.get("content"), list)]
    parts = [part.get("logprobs") for content in contents for part in content if isinstance(part, dict)]
    found = [entry for entries in parts if isinstance(entries, list) for entry in entries]
    return {"content": found} if found else None


_OF_CHAT = {
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "reasoning_effort",
    "response_format",
    "stream",
    "stream_options",
    "tools",
}
"""What of a chat request is said in other words."""


def _create_params_of_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Say a chat request in the words of the Responses API.

    Raises:
        Refusal: it cannot be said.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(422, "`messages` must be a list of messages")
    if body.get("n") not in (None, 1):
        raise Refusal(422, "one choice is served for each request", hints=["try: without `n`"])
    try:
        params: dict[str, Any] = {"input": input_of_messages(messages)}
    except MessageError as error:
        raise Refusal(422, str(error)) from None
    params |= {key: value for key, value in body.items() if key not in _OF_CHAT}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None:
        params["max_output_tokens"] = limit
    if (effort := body.get("reasoning_effort")) is not None:
        params["reasoning"] = {"effort": effort}
    if (tools := body.get("tools")) is not None:
        params["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    choice = params.get("tool_choice")
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        params["tool_choice"] = {"type": "function", "name": choice["function"].get("name")}
    if isinstance(style := body.get("response_format"), dict):
        params["text"] = {"format": _format(style)}
    return params


def _tool(tool: Any) -> Any:
    inner = tool.get("function") if isinstance(tool, dict) else None
    return {"type": "function", **inner} if isinstance(inner, dict) else tool


def _format(style: Mapping[str, Any]) -> dict[str, Any]:
    inner = style.get("json_schema")
    return {"type": "json_schema", **inner} if isinstance(inner, dict) else dict(style)
