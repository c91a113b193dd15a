"""
`trl`: a table for the trainers of TRL that play environments, and `load()`, which gives them the environments too.

`environment` chooses the environment of a row among those of `environment_factory`; all other columns are given to its
`reset`.

Source: trl/trainer/grpo_trainer.py of trl 1.16
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel

from gymcore.composition import Composition, open_composition
from gymcore.discovery import Catalog, discover
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError, RequestError
from gymcore.integrations.composed_row import ComposedRow
from gymcore.integrations.exporting import export
from gymcore.integrations.formats import MESSAGES, TEXT, TableFormat
from gymcore.interfaces import Environment, Tool
from gymcore.records import Failure, Rollout, Row, ToolCall, Trajectory, Turn
from gymcore.responses import Item, function_call, function_call_output, message
from gymcore.runtime.attempt import Attempt, directed
from gymcore.runtime.executor import LocalExecutor, open_local
from gymcore.runtime.schedule import Planned

__all__ = ["FORMAT", "TrlEnvironments", "load"]

# -- the table -------------------------------------------------------------------------------------------------------


def record(row: ComposedRow) -> dict[str, Any]:
    """
    Return the prompt with TRL's routing column.

    Raises:
        InexpressibleError: chat has no words for the prompt, or the row offers a tool that is no function.
    """
    _ = row.tools  # TRL's tools are methods of the environment: no column holds them, and they must be functions
    return {
        "prompt": row.text_messages,
        "environment": row.environment,
        "task_id": row.task_id,
        "row": row.text,
    }


def remarks(row: ComposedRow) -> Iterator[str]:
    """Say what TRL asks otherwise: it offers every method, in the environment's words, and samples in its own way."""
    yield from row.remarks()
    name, environment = row.environment, row.route.environment_class
    offered = {tool.get("name"): tool for tool in row.params.get("tools") or ()}
    left_out = [tool for tool in environment.tools if tool not in offered]
    if left_out:
        yield f"{name}: TRL offers all tools of an environment, also {', '.join(left_out)}, which rows leave out"
    tools = list(environment.tools.values())
    for tool in tools:
        own = offered.get(tool.name)
        if own is not None and not _is_same_tool(own, tool):
            yield f"{name}: TRL describes {tool.name} in the words of the environment, and rows have words of their own"
    for tool in [*tools, *(_other_tools(row.params) if environment.takes_other_tools() else ())]:
        if less := _told_less(tool):
            yield f"{name}: TRL cannot say all that the schema of {tool.name} says of {', '.join(less)}"
    for option in row.options:
        yield f"TRL asks without {option}, which stands only in the row; what GRPOConfig says is for all rows"


def _is_same_tool(own: Item, tool: Tool) -> bool:
    return own.get("description") == tool.description and own.get("parameters") == tool.parameters


def _other_tools(params: Mapping[str, Any]) -> Iterator[Tool]:
    """Yield the functions that create parameters offer."""
    for tool in params.get("tools") or ():
        if tool.get("type") == "function":
            told = tool.get("parameters")
            parameters = {"type": "object", **(told if isinstance(told, dict) else {})}
            if not isinstance(parameters.get("properties"), dict):
                parameters["properties"] = {}
            yield Tool(tool["name"], str(tool.get("description") or ""), parameters, "", BaseModel)


FORMAT = TableFormat("trl", {"prompt": MESSAGES, "environment": TEXT, "task_id": TEXT, "row": TEXT}, record, remarks)


# -- the environments ------------------------------------------------------------------------------------------------

REASONS = 100
REASON_LENGTH = 200
"""At most so many different reasons of so many characters are told apart in an environment."""


@dataclass(frozen=True)
class TrlEnvironments:
    """
    What `GRPOTrainer` takes of a composition; close it after training, or use it in a `with`.

    Every rollout is played as `run` plays it: opened, verified and closed with its seed and its bounds, in the process
    that its isolation asks for. Only the loop between model and tools is TRL's.
    """

    train_dataset: Any  # a `datasets.Dataset`
    environment_factory: dict[str, Callable[[], Any]]
    """A class for each environment, with its tools as methods."""
    reward_funcs: list[Callable[..., Coroutine[Any, Any, list[float | None]]]]
    """The verifier of each environment; None for the rows of another, and for a rollout that failed."""
    notes: tuple[str, ...]
    """What TRL asks otherwise than a run would, one line each; they are logged as warnings, too."""
    _stage: _Stage

    def close(self) -> None:
        """Close what the environments share, and their processes."""
        self._stage.close()

    def __enter__(self) -> TrlEnvironments:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load(
    folder: str | Path,
    catalog: Catalog | None = None,
    *,
    cache_dir: str | None = None,
    end_tokens: Collection[int] | None = None,
) -> TrlEnvironments:
    """
    Give a composed dataset and its environments to TRL.

    Args:
        folder: A run folder that `gym compose` wrote; `trl.parquet` is written into it.
        catalog: What is installed; looked up where it is None.
        cache_dir: Where `datasets` keeps its copy of the rows; its own cache where it is None.
        end_tokens: The tokens with which a whole reply ends; those of the trainer where it is None. What ends otherwise
            met the limit on its length, and its verifier is told so.

    Raises:
        RequestError: an environment needs more than TRL's loop has, or the package `datasets` is missing.
        RunFolderError: there is no composition, or what is installed no longer fits it.
        PluginError: an environment could not be opened.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        hint = "try: pip install trl, which brings it"
        raise RequestError("loading a dataset for TRL needs the package `datasets`", hints=[hint]) from None
    catalog = discover() if catalog is None else catalog
    composition = open_composition(Path(folder), catalog, is_played=False)
    environments = {route.environment: route.environment_class for route in composition.routes.values()}
    tools, told = _all_tools(composition, environments)
    for name, environment in environments.items():
        _refuse(name, environment, tools[name])
    written = export(composition, FORMAT.name, Path(folder) / FORMAT.file_name)
    dataset = load_dataset("parquet", data_files=str(written.path), split="train", cache_dir=cache_dir)
    stage = _Stage(composition)
    try:
        classes = {name: _class_of(name, environment, tools[name], stage) for name, environment in environments.items()}
        for name, cls in classes.items():
            _try_schemas(name, cls)
    except BaseException:
        stage.close()
        raise
    notes = [*written.notes, *told, *stage.failures.notes()]
    if "concurrency" in composition.plan.collect.model_fields_set:
        notes.append("collect.concurrency is not kept: TRL begins the rollouts of a batch at once, however many it has")
    for note in notes:
        _tell(note)
    rewards = [_reward_of(name, cls, stage, end_tokens) for name, cls in classes.items()]
    return TrlEnvironments(dataset, dict(classes), rewards, tuple(notes), stage)


def _all_tools(
    composition: Composition, environments: Mapping[str, type[Environment[Any, Any]]]
) -> tuple[dict[str, list[Tool]], list[str]]:
    """
    Return all tools of each environment, and what is to be known of them.

    Those that an environment has no method for stand in its rows, all of which are looked at.
    """
    tools = {name: list(environment.tools.values()) for name, environment in environments.items()}
    others = {name: dict[str, Tool]() for name, environment in environments.items() if environment.takes_other_tools()}
    notes: dict[str, None] = {}
    for row in composition.dataset if others else ():
        name, _ = row.identity
        if name not in others:
            continue
        composed = ComposedRow(row, composition.routes[row.value["agent_ref"]["name"]], 0)
        offered = {tool.name: tool for tool in _other_tools(composed.params)}
        known = others[name]
        if known and known.keys() != offered.keys():
            notes[f"{name}: TRL offers all tools of an environment, also those that only other rows offer"] = None
        for tool in offered.values():
            first = known.setdefault(tool.name, tool)
            if (first.description, first.parameters) != (tool.description, tool.parameters):
                notes[f"{name}: TRL describes {tool.name} as its first row does, and others do it otherwise"] = None
    for name, found in others.items():
        own = {tool.name for tool in tools[name]}
        tools[name] += [tool for tool in found.values() if tool.name not in own]
    return tools, list(notes)


def _refuse(name: str, environment: type[Environment[Any, Any]], tools: Sequence[Tool]) -> None:
    """
    Find what TRL's loop cannot do before anything is trained.

    Raises:
        RequestError: there is something.
    """
    if environment.reply is not Environment.reply:
        raise RequestError(
            f"the environment {name!r} answers with messages of its own (reply), which TRL's loop never asks for",
            hints=["try: leave it out of the mix"],
        )
    for tool in tools:
        if tool.name.startswith("_") or tool.name in ("reset", "get_reward"):
            raise RequestError(f"the environment {name!r} has a tool {tool.name!r}, a name that TRL does not offer")
        for argument in tool.parameters["properties"]:
            if not argument.isidentifier() or iskeyword(argument):
                told = f"the tool {tool.name!r} of {name!r} has an argument {argument!r:.60}, which TRL cannot name"
                raise RequestError(told, hints=["try: leave the environment out of the mix"])


class _Stage:
    """
    The opened plugins of a composition, on an event loop in a thread of its own.

    A loop of its own, because what an environment opens must live there from its first rollout to its last, and TRL
    calls from wherever it is.

    Raises:
        PluginError: a plugin could not be opened.
    """

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self.routes = composition.routes
        self.failures = _Failures(composition)
        self._numbers = itertools.count()
        self._playing: set[asyncio.Task[Rollout]] = set()
        self._in_flight: Counter[str] = Counter()
        self._ready: Future[tuple[asyncio.AbstractEventLoop, LocalExecutor, asyncio.Event]] = Future()
        # A daemon: whoever forgets to close it can still leave.
        self._thread = threading.Thread(target=self._run, name="gymcore-trl", daemon=True)
        self._thread.start()
        self._loop, self._executor, self._closing = self._ready.result()

    def close(self) -> None:
        """End what is being played, and close everything."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
            self.failures.sum_up()

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Do something on the loop."""
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("these environments are closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def begin(self, text: str) -> Attempt:
        """
        Begin a rollout of the task that a row holds.

        Raises:
            RequestError: as many as the plan allows are being played; none may wait, because TRL scores none of a batch
                before all of them have begun.
        """
        row = Row(text.encode())
        route = self.routes[row.value["agent_ref"]["name"]]
        name, limit = route.environment, route.plan.concurrency
        if limit is not None and self._in_flight[name] >= limit:
            raise RequestError(
                f"TRL begins more than {limit} rollouts of {name} at once, and the plan allows no more (concurrency)",
                hints=["try: a smaller per_device_train_batch_size, or allow more in the plan"],
            )
        attempt = Attempt(self._executor, Planned(0, route, row, next(self._numbers)))
        self._in_flight[name] += 1
        self._playing.add(attempt.playing)
        attempt.playing.add_done_callback(partial(self._leave, name))
        return attempt

    def _leave(self, environment: str, playing: asyncio.Task[Rollout]) -> None:
        self._in_flight[environment] -= 1
        self._playing.discard(playing)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        closing = asyncio.Event()
        async with open_local(self._composition) as opened:
            executor = directed(opened, self.routes)
            self._ready.set_result((asyncio.get_running_loop(), executor, closing))
            await closing.wait()
            executor.cancel()
            # What the rollouts share is closed after the last of them.
            await asyncio.gather(*self._playing, return_exceptions=True)


class _Failures:
    """
    Counts the rollouts that gave no reward, and tells of each reason once when it first appears and with its count at
    the end; more than `max_failures` of an environment end the training.
    """

    def __init__(self, composition: Composition) -> None:
        general = composition.plan.collect.max_failures
        own = {route.environment: route.plan.max_failures for route in composition.routes.values()}
        budgets = {name: general if budget is None else budget for name, budget in own.items()}
        self._budgets = {name: budget for name, budget in budgets.items() if isinstance(budget, int)}
        self._shares = {name: budget for name, budget in budgets.items() if isinstance(budget, str)}
        self._reasons: dict[str, Counter[str]] = {name: Counter() for name in budgets}

    def add(self, environment: str, failure: Failure) -> None:
        """
        Count a failure.

        Raises:
            GymcoreError: it is the one that is too many.
        """
        reasons = self._reasons[environment]
        reason = f"{failure.stage}: {failure.error}: {failure.message[:REASON_LENGTH]}"
        if reason not in reasons and len(reasons) >= REASONS:
            reason = "other reasons"
        reasons[reason] += 1
        if reasons[reason] == 1:
            _tell(f"{environment}: a rollout failed and has no reward: {reason}")
        failed, budget = reasons.total(), self._budgets.get(environment)
        if budget is not None and failed > budget:
            (most, count), *_ = reasons.most_common(1)
            message = f"{environment}: {failed:,} rollouts failed, max_failures is {budget}; {count:,} x {most}"
            raise GymcoreError(message, hints=["try: mend it, or allow more in the plan"])

    def notes(self) -> list[str]:
        """Return which budgets are not kept: a share of the planned rollouts, of which nobody here knows the number."""
        words = "TRL does not say how many rollouts there will be; a count ends the training"
        return [f"{name}: max_failures of {share} is not kept, {words}" for name, share in self._shares.items()]

    def sum_up(self) -> None:
        """Tell how often each reason was met."""
        for environment, reasons in self._reasons.items():
            for reason, count in reasons.most_common():
                if count > 1:
                    _tell(f"{environment}: {count:,} rollouts failed and have no reward: {reason}")


def _tell(line: str) -> None:
    logging.getLogger("gymcore").warning("%s", line)


# -- classes as TRL reads them ---------------------------------------------------------------------------------------


def _class_of(name: str, environment: type[Environment[Any, Any]], tools: Sequence[Tool], stage: _Stage) -> type[Any]:
    """
    Make the class whose public methods TRL offers as tools.

    One for each environment: TRL names metrics by the class and looks for exactly that class, and methods on a shared
    base would be offered everywhere.
    """

    def __init__(self: Any) -> None:
        self._attempt = None

    def reset(self: Any, **row: Any) -> None:
        if self._attempt is not None:
            stage.submit(self._attempt.abandon()).result()
        self._attempt = stage.submit(stage.begin(row["row"])).result()

    namespace = {"__init__": __init__, "reset": reset, "__doc__": environment.__doc__}
    methods = {tool.name: _method_of(tool, environment, stage) for tool in tools}
    return type(name, (), {**namespace, **methods})


def _method_of(tool: Tool, environment: type[Environment[Any, Any]], stage: _Stage) -> Callable[..., Any]:
    """
    Make a tool into a method with a signature and a docstring, from which `transformers` makes its schema again.

    It takes any argument, so that what does not fit is told to the model in the same words as in a run.
    """

    async def method(self: Any, **arguments: Any) -> str:
        call = ToolCall(tool.name, encode_json(arguments).decode())
        text: str = await asyncio.wrap_future(stage.submit(self._attempt.call(call)))
        return text

    properties: dict[str, Any] = tool.parameters["properties"]
    definitions: dict[str, Any] = tool.parameters.get("$defs", {})
    types = {key: _type_of(schema, definitions) for key, schema in properties.items()}
    method_there = getattr(environment, tool.method, None)  # of a class that is elsewhere there is only the schema
    own = {} if method_there is None else inspect.signature(method_there).parameters
    nothing, required = inspect.Parameter.empty, tool.parameters.get("required") or ()
    defaults = {
        key: own[key].default if key in own else nothing if key in required else _default_of(schema)
        for key, schema in properties.items()
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(key, keyword, default=defaults[key], annotation=kind) for key, kind in types.items()
    ]
    method.__name__ = method.__qualname__ = tool.name
    method.__annotations__ = {**types, "return": str}
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = inspect.Signature([itself, *parameters], return_annotation=str)  # type: ignore[attr-defined]
    told = [f"    {key}: {_one_line(_description_of(schema) or key)}" for key, schema in properties.items()]
    arguments = ["", "Args:", *told] if told else []
    method.__doc__ = "\n".join([_one_line(tool.description or tool.name), *arguments])
    return method


def _description_of(schema: Any) -> str:  # a JSON schema
    return str(schema.get("description") or "") if isinstance(schema, dict) else ""


def _default_of(schema: Any) -> Any:  # a JSON schema; any JSON value
    return schema.get("default") if isinstance(schema, dict) else None


_SECTION = re.compile(r"\b(Args|Returns|Raises):")


def _one_line(text: str) -> str:
    """Return a text as one line, in which `transformers` finds no section of a docstring."""
    return _SECTION.sub(r"\1 :", " ".join(text.split()))


_TYPES: dict[Any, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
    "object": dict,
}


def _type_of(schema: Any, definitions: Mapping[str, Any], depth: int = 0) -> Any:  # a JSON schema; a type hint
    """Return the type hint that says what a JSON schema says, as far as hints of plain types can."""
    if depth > 8:  # a schema may contain itself
        return dict
    if not isinstance(schema, dict):  # true: anything
        return Any
    if "$ref" in schema:
        return _type_of(definitions.get(schema["$ref"].rpartition("/")[2], {}), definitions, depth + 1)
    if "const" in schema:
        return Literal[(schema["const"],)]
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if "anyOf" in schema:
        return Union[tuple(_type_of(inner, definitions, depth + 1) for inner in schema["anyOf"])]  # noqa: UP007
    kind = schema.get("type")
    if kind == "array":
        places = schema.get("prefixItems", ())
        if len(places) > 1:  # there is no hint for a list of one
            return tuple[tuple(_type_of(place, definitions, depth + 1) for place in places)]  # type: ignore[misc]
        items = schema.get("items")
        return list[_type_of(items, definitions, depth + 1)] if items else list  # type: ignore[misc]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return dict[str, _type_of(schema["additionalProperties"], definitions, depth + 1)]  # type: ignore[misc]
    return _TYPES.get(kind, Any)


_SAYABLE = {"$ref", "const", "enum", "anyOf", "type", "items", "prefixItems", "additionalProperties"}
_BESIDE = {"title", "description", "default", "examples"}


def _told_less(tool: Tool) -> list[str]:
    """Return the arguments of which a type hint cannot say all that the schema says: fields of objects, and bounds."""
    properties: dict[str, Any] = tool.parameters["properties"]
    definitions: dict[str, Any] = tool.parameters.get("$defs", {})
    return [key for key, schema in properties.items() if not _is_sayable(schema, definitions)]


def _is_sayable(schema: Any, definitions: Mapping[str, Any], depth: int = 0) -> bool:
    if not isinstance(schema, dict):
        return True
    places = schema.get("prefixItems", ())
    implied = {"minItems", "maxItems"} if len(places) > 1 else set()
    if depth > 8 or len(places) == 1 or schema.keys() - _SAYABLE - _BESIDE - implied:
        return False
    inner = [*places, *schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")]
    if "$ref" in schema:
        inner.append(definitions.get(schema["$ref"].rpartition("/")[2], {}))
    return all(_is_sayable(one, definitions, depth + 1) for one in inner)


def _try_schemas(name: str, cls: type[Any]) -> None:
    """
    Have `transformers` read every tool as it will for the model, where it is installed.

    Raises:
        RequestError: it cannot.
    """
    try:
        from transformers.utils import get_json_schema
    except ImportError:
        return
    for tool, method in inspect.getmembers(cls, inspect.isfunction):
        if tool == "reset" or tool.startswith("_"):
            continue
        try:
            get_json_schema(method)
        except Exception as error:  # its classes differ from version to version
            message = f"transformers cannot tell a model of the tool {tool!r} of {name!r}: {_one_line(str(error))}"
            raise RequestError(message, hints=["try: leave the environment out of the mix"]) from None


# -- rewards ---------------------------------------------------------------------------------------------------------


def _reward_of(
    name: str, cls: type[Any], stage: _Stage, end_tokens: Collection[int] | None
) -> Callable[..., Coroutine[Any, Any, list[float | None]]]:
    """Return the verifier of one environment as a reward function, under the environment's name."""

    async def reward(
        completions: Sequence[Any],
        environments: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        own = [number for number, environment in enumerate(environments) if type(environment) is cls]
        cut: set[int] = set()
        if completion_ids is not None:
            ends = _end_tokens_of(columns.get("log_metric")) if end_tokens is None else end_tokens
            # As TRL counts `completions/clipped_ratio`: what ends with no such token met the limit.
            cut = {number for number in own if completion_ids[number] and completion_ids[number][-1] not in ends}
        trajectories = [trajectory_of(completions[number], is_cut=number in cut) for number in own]
        scoring = (_score(stage, environments[number], said) for number, said in zip(own, trajectories, strict=True))
        scores: dict[int, float | None] = dict(zip(own, await asyncio.gather(*scoring), strict=True))
        return [scores.get(number) for number in range(len(environments))]

    reward.__name__ = reward.__qualname__ = name
    return reward


def _end_tokens_of(log_metric: Any) -> Collection[int]:
    """
    Return the tokens with which a whole reply of the trainer's model ends.

    Args:
        log_metric: What TRL gives a reward function to log with: a method of the trainer, and the only way to it.

    Raises:
        RequestError: the trainer does not say; a reply that was cut off must not be paid as a whole one.
    """
    trainer = getattr(log_metric, "__self__", None)
    ends = getattr(trainer, "eos_token_ids", None)
    if not ends:
        raise RequestError(
            "the trainer does not say which tokens end a reply, and one that was cut off would be paid as a whole one",
            hints=["try: load(..., end_tokens=[tokenizer.eos_token_id])"],
        )
    return {*ends, getattr(getattr(trainer, "_tokenizer", None), "pad_token_id", None)}


async def _score(stage: _Stage, environment: Any, trajectory: Trajectory) -> float | None:
    """Verify what the model did; a failure is no reward, and TRL leaves out what has none."""
    rollout: Rollout = await asyncio.wrap_future(stage.submit(environment._attempt.finish(trajectory)))
    if rollout.failure is not None:
        stage.failures.add(type(environment).__name__, rollout.failure)
    return None if rollout.reward is None else rollout.reward.value


def trajectory_of(completion: str | Sequence[Mapping[str, Any]], *, is_cut: bool = False) -> Trajectory:
    """
    Turn what TRL hands a reward function into a trajectory.

    Args:
        completion: A text, or the messages after the prompt: the model's, and the results of its tool calls.
        is_cut: Whether the limit on its length cut it off.
    """
    messages = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    turns: list[Turn] = []
    for said in messages:
        if said.get("role") != "tool":
            turns.append(Turn(output=tuple(_items(said, len(turns)))))
        elif turns:
            turns[-1] = _with_result(turns[-1], said)
    return Trajectory(tuple(turns), _stop_of(turns, is_cut))


def _with_result(turn: Turn, said: Mapping[str, Any]) -> Turn:
    """
    Add the result of a tool call, in the order of the calls.

    TRL gives results the name of their tool and nothing else, and those of calls that it cannot make (no such tool,
    arguments that are no object) before all others.
    """
    answered = {result["call_id"] for result in turn.results}
    waiting = [call for call in turn.calls if call.call_id not in answered]
    named = [call for call in waiting if call.name == said.get("name")]
    impossible = [call for call in named if not call.arguments.lstrip().startswith("{")]
    chosen = next(iter(impossible or named or waiting), None)
    result = function_call_output(chosen.call_id if chosen else "", _text(said.get("content")))
    order = {call.call_id: number for number, call in enumerate(turn.calls)}
    results = sorted((*turn.results, result), key=lambda one: order.get(one["call_id"], len(order)))
    return replace(turn, results=tuple(results))


def _stop_of(turns: Sequence[Turn], is_cut: bool) -> str:
    last = turns[-1] if turns else None
    # TRL asks on after the results of a turn's calls; where nothing follows, all of that reply was cut away.
    if is_cut or (last is not None and last.calls and len(last.results) >= len(last.calls)):
        return "truncated"
    if last is None or last.is_empty:
        return "empty"
    return "max_turns" if last.calls else "finished"


def _items(said: Mapping[str, Any], number: int) -> list[Item]:
    items: list[Item] = []
    if thought := said.get("reasoning_content"):
        items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": thought}]})
    calls = said.get("tool_calls") or ()
    if said.get("content") or not calls:
        items.append(message(_text(said.get("content"))))
    for index, call in enumerate(calls):
        function = call["function"]
        arguments = function.get("arguments", "")
        text = arguments if isinstance(arguments, str) else encode_json(arguments).decode()
        items.append(function_call(str(function["name"]), text, f"call_{number}_{index}"))
    return items


def _text(content: Any) -> str:  # a text, parts, or None
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
