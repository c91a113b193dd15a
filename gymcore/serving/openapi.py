"""
The wire protocol in the words of OpenAPI: every call, and every tool of the environments that are served.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gymcore.composition import Composition
from gymcore.responses import message

__all__ = ["describe"]

_OBJECT: dict[str, Any] = {"type": "object"}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "hints": {"type": "array", "items": {"type": "string"}},
                "stage": {"type": "string"},
                "type": {"type": "string"},
                "retryable": {"type": "boolean"},
            },
            "required": ["message"],
        }
    },
    "required": ["error"],
}
_CREATE_PARAMS: dict[str, Any] = {
    "type": "object",
    "description": "What a response is created with, as the Responses API of OpenAI says.",
    "properties": {
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": _OBJECT}]},
        "tools": {"anyOf": [{"type": "array", "items": _OBJECT}, {"type": "null"}]},
    },
    "required": ["input"],
}
_RESPONSE: dict[str, Any] = {
    "type": "object",
    "description": "A response, as the Responses API of OpenAI says.",
    "properties": {"output": {"type": "array", "items": _OBJECT}},
    "required": ["output"],
}
_SCORED: dict[str, Any] = {
    "type": "object",
    "description": "The row verbatim, what the model did, what it earned, and what the verifier tells of it.",
    "properties": {
        "response": {"$ref": "#/components/schemas/Response"},
        "reward": {"type": "number"},
        "metrics": _OBJECT,
    },
    "required": ["responses_create_params", "response", "reward"],
}
_OBSERVATION: dict[str, Any] = {
    "description": "The next user message; null at the beginning, where the row asks all, and at the end.",
    "anyOf": [{"type": "string"}, {"type": "null"}],
}
_RESET: dict[str, Any] = {
    "type": "object",
    "properties": {"observation": _OBSERVATION, "info": _OBJECT},
    "required": ["observation", "info"],
}
_STEP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "observation": _OBSERVATION,
        "reward": {"type": "number"},
        "terminated": {"type": "boolean"},
        "truncated": {"type": "boolean"},
        "info": _OBJECT,
    },
    "required": ["observation", "reward", "terminated", "truncated", "info"],
}
_STATISTICS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "group_level_metrics": {"type": "array", "items": _OBJECT},
        "agent_metrics": _OBJECT,
        "key_metrics": _OBJECT,
    },
    "required": ["group_level_metrics", "agent_metrics", "key_metrics"],
}

_REFUSED = {
    400: "it is no JSON, or its body is not whole",
    401: "a token is needed",
    403: "a page of another origin asks",
    404: "nobody here is called so",
    408: "the body did not come in time",
    409: "the session is another row's, or was scored with another response",
    410: "the session is closed",
    413: "the body is too long",
    421: "this server is not called so",
    422: "what was sent is not what is needed",
    500: "the environment failed, which is no reward",
    501: "the model answers no request of its own",
    502: "the model failed, which is no reward",
    503: "the server is stopping or full, or a worker ended",
    504: "it took longer than it may",
    507: "the disk is full",
}
_SESSION = [{"name": "gymcore_session", "in": "cookie", "schema": {"type": "string"}}]


def describe(composition: Composition) -> dict[str, Any]:
    """Return the description of what a composition serves, as a JSON document; its first row is the example."""
    from gymcore import __version__

    return {
        "openapi": "3.1.0",
        "info": {"title": "gymcore", "version": __version__, "description": "A composition, served."},
        "paths": {**_tools(composition), **_calls(composition)},
        "components": {
            "schemas": {
                "CreateParams": _CREATE_PARAMS,
                "Error": _ERROR,
                "Response": _RESPONSE,
                "Row": _row(route.name for route in composition.routes.values()),
                "Scored": _SCORED,
            }
        },
    }


def _calls(composition: Composition) -> dict[str, Any]:
    """Describe the calls of the protocol."""
    row, response = {"$ref": "#/components/schemas/Row"}, {"$ref": "#/components/schemas/Response"}
    scored = {"$ref": "#/components/schemas/Scored"}
    params = {"$ref": "#/components/schemas/CreateParams"}
    verify = {"allOf": [row, {"type": "object", "properties": {"response": response}, "required": ["response"]}]}
    turn = {"type": "object", "properties": {"response": response}, "required": ["response"]}
    rollouts = {
        "type": "object",
        "properties": {"verify_responses": {"type": "array", "items": _OBJECT}},
        "required": ["verify_responses"],
    }
    conversation = {
        "type": "object",
        "properties": {"messages": {"type": "array", "items": _OBJECT, "minItems": 1}},
        "required": ["messages"],
    }
    example = next(iter(composition.dataset)).value
    said = {"response": {"output": [message("Done.")]}}
    episode = {**example, **said}
    return {
        "/": {"get": _get("Whether the head is there.", _OBJECT)},
        "/health": {"get": _get("Whether the process is there.", _OBJECT)},
        "/ready": {"get": _get("Whether it takes rollouts, and how many it plays.", _OBJECT)},
        "/global_config_dict_yaml": {"get": _get("Who is served where: YAML, as a JSON text.", {"type": "string"})},
        "/server_instances": {"get": _get("The agents.", {"type": "array", "items": _OBJECT})},
        "/reverify_mode": {"get": _get("Whether a verifier needs its session.", {"type": "string"})},
        "/openapi.json": {"get": _get("This description.", _OBJECT)},
        "/v1/models": {"get": _get("The models of the plan.", _OBJECT)},
        "/run": {"post": _post("Play a row, and score it.", row, scored, example=example)},
        "/aggregate_metrics": {"post": _post("Sum rollouts up.", rollouts, _STATISTICS)},
        "/seed_session": {
            "post": _post("Open an environment for a row.", row, _OBJECT, is_session=True, example=example)
        },
        "/verify": {
            "post": _post(
                "Score what was done; in a session, as a rollout that is kept.",
                verify,
                scored,
                is_session=True,
                example=episode,
            )
        },
        "/reset": {"post": _post("Open it as Gymnasium does.", row, _RESET, is_session=True, example=example)},
        "/step": {"post": _post("Play one turn.", turn, _STEP, is_session=True, example=said)},
        "/close_session": {"post": _post("Close without a score.", None, _OBJECT, is_session=True)},
        "/v1/responses": {"post": _asking("Ask a model; or the agent of a session, by its name.", params, response)},
        "/v1/chat/completions": {"post": _asking("Ask a model in the words of chat.", conversation, _OBJECT)},
        "/v1/messages": {"post": _asking("Ask a model in the words of Anthropic's API.", conversation, _OBJECT)},
    }


def _tools(composition: Composition) -> dict[str, Any]:
    """Describe the tools that clients can call: those that are not called as a call of the protocol is."""
    paths: dict[str, Any] = {}
    for route in composition.routes.values():
        for tool in route.environment_class.tools.values():
            told = f"A tool of {route.environment}: {tool.description}"
            paths.setdefault(f"/{tool.name}", {"post": _post(told, tool.parameters, None, is_session=True)})
    return paths


def _row(agents: Iterable[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "A row of a dataset, as its author wrote it; further keys are what the verifier reads.",
        "properties": {
            "responses_create_params": {"$ref": "#/components/schemas/CreateParams"},
            "agent_ref": {
                "type": "object",
                "properties": {"name": {"enum": sorted(agents)}, "type": {"type": "string"}},
                "required": ["name"],
            },
        },
        "required": ["responses_create_params"],
    }


def _get(summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers(schema)}


def _post(
    summary: str,
    body: Mapping[str, Any] | None,
    schema: Mapping[str, Any] | None,
    *,
    is_session: bool = False,
    example: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    call: dict[str, Any] = {"summary": summary, "responses": _answers(schema)}
    if body is not None:
        content = {"schema": body} if example is None else {"schema": body, "example": example}
        call["requestBody"] = {"required": True, "content": {"application/json": content}}
    if is_session:
        call["parameters"] = _SESSION
    return call


def _asking(summary: str, body: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a call for a model, whose reply may be asked for as a stream."""
    streamed = {"type": "object", "properties": {"stream": {"type": "boolean"}}}
    call = _post(summary, {"allOf": [body, streamed]}, schema)
    call["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return call


def _answers(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what may be answered; a tool answers whatever it likes."""
    content = (
        {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}}
        if schema is None
        else {"application/json": {"schema": schema}}
    )
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refused = {str(status): {"description": told, "content": error} for status, told in _REFUSED.items()}
    return {"200": {"description": "it is done", "content": content}, **refused}
