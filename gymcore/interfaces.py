"""
What a plugin is: Environment, Agent, Model, and the `tool` decorator.

Authors subclass these; the stages call them. Nothing here opens, reads or prints anything.
"""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, get_args, get_origin, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticUndefined
from typing_extensions import TypeVar

from gymcore.errors import ToolError
from gymcore.records import Record, Reward, Task, ToolCall, Trajectory, Turn, seed_of
from gymcore.responses import Request, Response

__all__ = [
    "INTERFACE_VERSIONS",
    "Agent",
    "BoundModel",
    "Choice",
    "Clock",
    "Config",
    "Environment",
    "Model",
    "Note",
    "OpenEnvironment",
    "RolloutContext",
    "Say",
    "Solution",
    "Tool",
    "call",
    "option",
    "say",
    "tool",
]

INTERFACE_VERSIONS = (1,)
"""The versions of this file that plugins may be written for (`gym_api` in their manifest), oldest first."""

MAX_ARGUMENTS_LENGTH = 1_000_000
"""Characters of the arguments of one tool call, at most; checking more would take memory that all rollouts share."""
MAX_MISTAKES = 50
"""Mistakes in the arguments of one call that are looked at; of more only the number is told."""


class Config(Record):
    """
    The options of a plugin: typed, frozen, unknown keys refused.

    Secrets are `pydantic.SecretStr`; those are never written to a run folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


def option(
    default: Any = PydanticUndefined,  # any value the option may take
    *,
    description: str | None = None,
    environment_variable: str | None = None,
    operational: bool = False,
    **constraints: Any,  # passed on to pydantic.Field: ge, le, min_length, ...
) -> Any:
    """
    Declare one option of a `Config`.

    Args:
        default: The value when nobody gives one; without it the option is required.
        description: One sentence, shown by `gym show`.
        environment_variable: Where the value comes from when neither manifest nor plan give one.
        operational: The option changes how work is done and not what finished work means (an address, a key, a
            limit on speed), so a stopped run may go on with another value.
        constraints: Further arguments of `pydantic.Field`.
    """
    extra: dict[str, Any] = {"environment_variable": environment_variable, "operational": operational}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


# -- tools -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """One tool of an environment: what the model is told, and how a call is checked and carried out."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments object."""
    method: str
    arguments_model: type[BaseModel]
    in_thread: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The tool as a Responses request offers it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.is_strict,
        }

    @cached_property
    def is_strict(self) -> bool:
        """Whether OpenAI's strict mode takes the parameters."""
        return _is_closed(self.parameters)

    def check(self, arguments: str) -> dict[str, Any]:
        """
        Turn the text a model wrote into checked arguments.

        Raises:
            ToolError: it is no JSON object, is too long, does not fit the parameters, or holds a number that is not
                finite; the message is for the model.
        """
        if len(arguments) > MAX_ARGUMENTS_LENGTH:
            told = f"{len(arguments):,} characters; at most {MAX_ARGUMENTS_LENGTH:,} are read"
            raise ToolError(f"invalid arguments for {self.name}: {told}")
        try:
            values = self.arguments_model.model_validate_json(arguments or "{}").__dict__
            checked = {argument: values[name] for name, argument in self._arguments}
            for argument in self._searched:
                if not _is_finite(checked[argument]):
                    raise ToolError(f"invalid arguments for {self.name}: {argument}: numbers must be finite")
        except ValidationError as error:
            raise ToolError(f"invalid arguments for {self.name}: {_explain_all(error)}") from None
        except RecursionError:
            raise ToolError(f"invalid arguments for {self.name}: nested too deeply") from None
        return checked

    @cached_property
    def _arguments(self) -> tuple[tuple[str, str], ...]:
        """The fields of the model, each with the argument it stands for."""
        fields = self.arguments_model.model_fields
        return tuple((name, info.alias or name) for name, info in fields.items())

    @cached_property
    def _searched(self) -> tuple[str, ...]:
        """The arguments inside which pydantic, though told otherwise, may leave a number that is not finite."""
        properties = self.parameters.get("properties", {})
        return tuple(argument for _, argument in self._arguments if not _is_simple(properties.get(argument, {})))


def _is_closed(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema: in every object all properties are required and none is unknown."""
    if isinstance(schema, list):
        return all(_is_closed(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        is_complete = set(schema.get("required", ())) == set(schema.get("properties", ()))
        if schema.get("additionalProperties") is not False or not is_complete:
            return False
    return all(_is_closed(item) for item in schema.values())


def _is_simple(schema: dict[str, Any]) -> bool:
    """Whether a schema holds neither objects of an author's own, which have rules of their own, nor just anything."""
    if "anyOf" in schema:
        return all(map(_is_simple, schema["anyOf"]))
    if schema.get("type") == "array":
        return _is_simple(schema.get("items", {}))
    return schema.get("type") in ("boolean", "integer", "null", "number", "string")


def _is_finite(value: Any) -> bool:
    """Whether every number in an argument is finite: objects of an author's own, and `Any`, take NaN from pydantic."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, BaseModel):
        value = {**value.__dict__, **(value.model_extra or {})}
    elif is_dataclass(value):
        value = [getattr(value, item.name, None) for item in fields(value)]
    if isinstance(value, dict):
        return all(map(_is_finite, value)) and all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple | set | frozenset) or all(map(_is_finite, value))


def _explain_all(error: ValidationError) -> str:
    count = error.error_count()
    if count > MAX_MISTAKES:  # pydantic makes an object of every one, if it is asked for any
        return f"{count:,} values do not fit"
    return "; ".join(_explain(item) for item in error.errors(include_url=False, include_input=False)[:5])


def _explain(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else str(error["msg"])


Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def tool(function: Function, /) -> Function: ...
@overload
def tool(*, name: str | None = None, thread: bool = False) -> Callable[[Function], Function]: ...
def tool(function: Callable[..., Any] | None = None, /, *, name: str | None = None, thread: bool = False) -> Any:
    """
    Offer a method of an environment to the model; schema and checks come from its signature and docstring.

    Args:
        function: The method, when used as a bare decorator. It may be `def` or `async def`, and every parameter
            needs a type; a returned string is shown as it is, anything else as JSON.
        name: What the model calls it, where that is not the method's name.
        thread: Run a blocking `def` in a thread, so that other rollouts go on meanwhile.
    """

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.__gymcore_tool__ = {"name": name or method.__name__, "thread": thread}  # type: ignore[attr-defined]
        return method

    return mark if function is None else mark(function)


def _build_tool(method: Callable[..., Any], owner: str) -> Tool:
    marked: dict[str, Any] = method.__gymcore_tool__  # type: ignore[attr-defined]
    where = f"{owner}.{method.__name__}"
    if not inspect.isfunction(method):
        raise TypeError(
            f"tool {where}: a tool must be an ordinary method, with self, and not a {type(method).__name__}"
        )
    hints = get_type_hints(method, include_extras=True)
    description, argument_docs = _read_docstring(inspect.getdoc(method) or "")
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"tool {where}: the parameter {parameter.name!r} must be an ordinary named one")
        if parameter.name not in hints:
            raise TypeError(f"tool {where}: the parameter {parameter.name!r} needs a type")
        default = ... if parameter.default is parameter.empty else parameter.default
        # An alias, because a parameter may be called `copy` or `json`, which a model's own field may not.
        info = Field(default, alias=parameter.name)
        if parameter.name in argument_docs:  # else a description in the annotation stays
            info = Field(default, alias=parameter.name, description=argument_docs[parameter.name])
        fields[f"argument_{len(fields)}"] = (hints[parameter.name], info)
    # JSON has no NaN, and comparing with it is never true: a verifier's "not too far away" would let it pass.
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    model = create_model(marked["name"], __config__=config, **fields)
    schema = _without_titles(model.model_json_schema())
    parameters = {
        "type": "object",
        "properties": schema.get("properties", {}),
        "required": schema.get("required", []),
        "additionalProperties": False,
    }
    if "$defs" in schema:
        parameters["$defs"] = schema["$defs"]
    return Tool(marked["name"], description, parameters, method.__name__, model, bool(marked["thread"]))


def _without_titles(schema: Any) -> Any:
    """Drop the titles pydantic makes from names; a property that is called `title` stays."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(inner) for name, inner in item.items()}
        if key in ("properties", "$defs") and isinstance(item, dict)
        else _without_titles(item)
        for key, item in schema.items()
        if not (key == "title" and isinstance(item, str))
    }


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into its text and what its `Args:` section says of each argument."""
    head, _, tail = doc.partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    section = re.split(r"\n(?=\S)", "\n" + tail, maxsplit=1)[0] if tail else ""
    for match in re.finditer(
        r"(\w+)(?: \([^)]*\))?: (.+?)(?=\n\w+(?: \([^)]*\))?: |\Z)", textwrap.dedent(section), re.S
    ):
        arguments[match[1]] = " ".join(match[2].split())
    text = re.split(r"\n(?:Returns|Raises|Source|Example):\n", head)[0]
    return " ".join(text.split()), arguments


# -- solutions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """A reference solution's wish to say something to the user."""

    text: str


def say(text: str) -> Say:
    """In `solve()`: what a perfect agent says next; yields the environment's answer, or None at the end."""
    return Say(text)


def call(name: str, /, **arguments: Any) -> ToolCall:  # arguments: any JSON value the tool takes
    """In `solve()`: the tool a perfect agent calls next; yields the tool's result, parsed where it is JSON."""
    from gymcore.documents import encode_json

    return ToolCall(name=name, arguments=encode_json(arguments).decode())


Solution: TypeAlias = AsyncGenerator[ToolCall | Say | list[ToolCall], Any]
"""What `solve()` is: yields `call(...)`, a list of them for parallel calls, or `say(...)`; receives the results."""


# -- the three kinds -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values that the argument of an environment may have, as in `use: NAME:ARGUMENT`."""

    argument: str
    description: str = ""
    """What the environment is with it, in a line."""
    splits: Mapping[str, int] = field(default_factory=dict)
    """How many rows each of its splits has."""
    details: Mapping[str, Any] = field(default_factory=dict)  # Any: texts, numbers, and lists of them
    """What else somebody should know who chooses, by names such as `requires`."""
    problem: str | None = None
    """Why it cannot be used here, where it cannot."""


TaskT = TypeVar("TaskT", bound=Task, default=Task)
ConfigT = TypeVar("ConfigT", bound=Config, default=Config)


def _take_type_arguments(cls: Any, base: type) -> None:
    """Set the models of a class by what stands in the brackets of its own bases; what its body says wins."""
    for original in vars(cls).get("__orig_bases__", ()):
        origin = get_origin(original)
        if not (isinstance(origin, type) and issubclass(origin, base)):
            continue
        for argument in get_args(original):
            for name, kind in (("task_model", Task), ("config_model", Config)):
                if isinstance(argument, type) and issubclass(argument, kind) and name not in vars(cls):
                    setattr(cls, name, argument)


class Environment(Generic[TaskT, ConfigT]):
    """
    A task's world: its tools, its state and its verifier; a fresh instance plays each rollout.

    Write `class Mine(Environment[MyTask])`, or `Environment[MyTask, MyConfig]`; methods marked with `@tool` are
    what the model may call, and `verify` scores what it did.
    """

    task_model: ClassVar[type[Task]] = Task
    config_model: ClassVar[type[Config]] = Config
    tools: ClassVar[Mapping[str, Tool]] = {}
    keeps_route: ClassVar[bool] = False
    """
    Whether rows may say where else they are routed to: what they say of another route than ours stays in them, in
    `agent_ref.served_as`. For environments that are served by somebody who has routes of his own.
    """

    task: TaskT
    """The row, checked by `task_model`."""
    config: ConfigT
    """The options of this environment in the plan."""
    seed: int
    """The source of all chance: the same for every repeat of a task."""
    models: Mapping[str, BoundModel]
    """All models of the plan by name, for judges: `await self.models["judge"].ask("...")`; the policy is among them."""
    resources: Any  # whatever the author's `shared` yields
    """What `shared()` yielded, the same object for all rollouts of the run."""
    max_turns: int | None = None
    """
    How often the model may reply to this task, at most, where the author knows; `open` may still set it.

    It holds unless the plan says something else to the agent; None leaves it to the agent.
    """
    _is_waiting = False
    _on_waiting: Callable[[bool], None] | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _take_type_arguments(cls, Environment)
        own: dict[str, Tool] = {}
        for value in vars(cls).values():
            if hasattr(value, "__gymcore_tool__"):
                built = _build_tool(value, cls.__name__)
                if built.name in own:
                    raise TypeError(f"two tools of {cls.__name__} are called {built.name!r}")
                own[built.name] = built
        cls.tools = {**cls.tools, **own}

    def __init__(
        self,
        task: TaskT,
        config: ConfigT | None = None,
        *,
        seed: int = 0,
        models: Mapping[str, BoundModel] | None = None,
        resources: Any = None,
    ) -> None:
        self.task = task
        self.config = config if config is not None else self.config_model()  # type: ignore[assignment]
        self.seed = seed
        self.models = {} if models is None else models
        self.resources = resources

    @property
    def is_waiting(self) -> bool:
        """
        Whether `open`, which says so, waits for what is gone, such as a server that nobody can reach.

        A run that is stopped does not give such a rollout `drain_s` to finish, because it has not begun. Where several
        wait, all but one may be closed, and opened anew when that one goes on.
        """
        return self._is_waiting

    @is_waiting.setter
    def is_waiting(self, is_waiting: bool) -> None:
        if is_waiting is not self._is_waiting:
            self._is_waiting = is_waiting
            if self._on_waiting is not None:
                self._on_waiting(is_waiting)

    @classmethod
    def tool_schemas(cls) -> list[dict[str, Any]]:
        """Return the tools as a Responses request offers them."""
        return [item.schema for item in cls.tools.values()]

    @classmethod
    @asynccontextmanager
    async def shared(cls, config: ConfigT) -> AsyncIterator[Any]:
        """Bracket the whole run: yield what all rollouts use together (a connection, a loaded table)."""
        yield None

    @classmethod
    def own_rows(cls, config: ConfigT, split: str) -> Iterator[bytes]:
        """
        Yield the rows of a split of which the manifest says `{from: plugin}`: JSON objects, one for each line.

        Asked whenever a plan is composed; the same options must give the same rows, or a stopped run cannot go on.

        Raises:
            GymcoreError: they cannot be had; its message is shown as it is.
        """
        raise NotImplementedError(f"{cls.__name__} has no own_rows(cls, config, split)")

    @classmethod
    def choices(cls) -> Iterable[Choice]:
        """
        Yield what may follow the colon of `use: NAME:ARGUMENT`, where the manifest names an `argument`.

        Asked by `gym show NAME` and `gym list --choices`, for people; a plan may say something else.

        Raises:
            GymcoreError: nobody can tell; its message is shown as it is.
        """
        return ()

    @classmethod
    async def aggregate_metrics(
        cls, config: ConfigT, resources: Any, rollouts: Iterable[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """
        Say what many rollouts amount to, beyond the statistics of their numbers: pass@k, majorities, subsets.

        Asked by clients of `gym serve` that have collected them, where the environment plays in this process.

        Args:
            config: The options.
            resources: What `shared()` yielded.
            rollouts: As the client sent them: rows with a `reward`, metrics beside it, and often without what was
                said; they may be hundreds of thousands, and can be gone through more than once.

        Returns:
            `agent_metrics`, which are added to the statistics of all rollouts; `group_level_metrics`, each of which is
            added to those of the task that it names in `_ng_task_index`; and `key_metrics`, in place of ours. What is
            not there is as if there was no such method.
        """
        return {}

    async def open(self) -> None:
        """Prepare this rollout, before the model is first asked."""

    async def close(self) -> None:
        """Clean up; called exactly once whenever `open` was, however the rollout ended."""

    async def reply(self, turn: Turn) -> str | None:
        """
        Answer what the model said with the next user message, or end the episode with None.

        Asked only after a turn without tool calls.
        """
        return None

    def other_tool(self, call: ToolCall) -> Any:  # Any: as of a tool, a text or any JSON value, perhaps awaited
        """
        Carry out the call of a tool that is no method of this class; may be `async def`.

        For environments whose tools stand in their rows, or are served elsewhere: rows of a class that overrides this
        may offer tools that it has no method for. The arguments are as the model wrote them.

        Raises:
            ToolError: there is no such tool; the model is told so.
        """
        offered = ", ".join(self.tools) or "none"
        raise ToolError(f"there is no tool {call.name[:100]!r}; the tools are: {offered}")

    @classmethod
    def takes_other_tools(cls) -> bool:
        """Whether rows may offer tools that the class has no method for."""
        return cls.other_tool is not Environment.other_tool

    def verify(self, trajectory: Trajectory) -> Reward | float | Awaitable[Reward | float]:
        """
        Score an attempt; may be `async def`.

        An exception here is a failure of the rollout, never a reward.
        """
        raise NotImplementedError(f"{type(self).__name__} has no verify(self, trajectory)")

    def solve(self) -> Solution:
        """Play the task perfectly: an async generator of `call(...)` and `say(...)`; the `oracle` model plays it."""
        raise NotImplementedError(f"{type(self).__name__} has no solve(self)")

    @classmethod
    def is_solvable(cls) -> bool:
        """Whether the author wrote a reference solution."""
        return cls.solve is not Environment.solve


class OpenEnvironment(Protocol):
    """An environment in the middle of a rollout, as an agent sees it."""

    @property
    def task(self) -> Task:
        """The task being played."""

    @property
    def request(self) -> Request:
        """What to ask the model first: the task's prompt and parameters, with the tools that are offered."""

    @property
    def max_turns(self) -> int | None:
        """How often the model may reply, at most, unless the agent was told otherwise; None where nobody says."""

    async def call(self, call: ToolCall) -> dict[str, Any]:
        """Carry out a tool call and return its `function_call_output` item; a model's mistake becomes its text."""

    async def reply(self, turn: Turn) -> str | None:
        """Return the next user message, or None when the episode is over."""


class BoundModel(Protocol):
    """A model in the middle of a rollout, as agents and verifiers see it."""

    async def respond(self, request: Request) -> Response:
        """Ask the model; raises `ModelError` when no reply could be had."""

    async def ask(self, text: str) -> str:
        """Ask one question and return the text of the reply: enough for most judges."""

    @property
    def attempts(self) -> int:
        """How often the endpoint was asked for the last reply."""

    @property
    def waited_s(self) -> float:
        """Seconds of this rollout that do not count, because nobody could be asked."""


class Agent(Generic[ConfigT]):
    """The loop between a model and an environment; one instance serves a whole run and keeps no state of a rollout."""

    config_model: ClassVar[type[Config]] = Config
    config: ConfigT

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _take_type_arguments(cls, Agent)

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else self.config_model()  # type: ignore[assignment]

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play one rollout to its end and return what happened; must end by itself."""
        raise NotImplementedError(f"{type(self).__name__} has no play(self, environment, model)")


class Clock(Protocol):
    """The time that a rollout may take."""

    @property
    def waited_s(self) -> float:
        """Seconds for which it stood."""

    def stopped(self) -> AbstractContextManager[None]:
        """Do not count the time spent inside: the rollout waits for something that is not its own."""


class _FreeClock:
    """The clock of a rollout without a bound."""

    waited_s = 0.0

    def stopped(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(slots=True)
class RolloutContext:
    """What a model may know of the rollout it answers for."""

    environment: Environment[Any, Any]
    key: tuple[str, str, int]
    """(environment, task id, repeat)."""
    seed: int
    stack: AsyncExitStack
    """Closed when the rollout ends, however it ends."""
    state: dict[Any, Any] = field(default_factory=dict)  # keyed by whoever stores, usually the model itself
    """Whatever a model keeps from one reply of this rollout to the next."""
    attempts: int = 0
    """Counted up by a model each time it asks its endpoint."""
    clock: Clock = field(default_factory=_FreeClock)
    """Stopped by a model while it waits for an endpoint that is down or throttles."""

    @property
    def sampling_seed(self) -> int:
        """
        The source of chance for what the model says; differs between the repeats of a task.

        From 0 to 2**63 - 1, and the same whenever the rollout is played.
        """
        return seed_of(self.seed, self.key[2])


class Note(str):
    """
    A line for a person about the state of something, as `Model.status` returns it.

    Args:
        text: The line, with whatever details it has now.
        key: What does not change as long as it is the same state: what is so, and since when. As long as lines with
            one key come, it is one piece of news; the whole line where nothing is said.

    Example:
        >>> Note("down since 14:02, next try in 7 s", key="down since 14:02").key
        'down since 14:02'
    """

    key: str

    def __new__(cls, text: str, *, key: str | None = None) -> Note:
        note = super().__new__(cls, text)
        note.key = text if key is None else key
        return note


class Model(Generic[ConfigT]):
    """What answers messages; one instance serves a whole run."""

    config_model: ClassVar[type[Config]] = Config
    config: ConfigT

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _take_type_arguments(cls, Model)

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else self.config_model()  # type: ignore[assignment]

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Bracket the run: open connections before the first reply and close them after the last."""
        return _nothing_to_open()

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """
        Reply to a request.

        Raises:
            ModelError: no reply could be had for this rollout.
            EndpointError: no reply can be had for any.
        """
        raise NotImplementedError(f"{type(self).__name__} has no respond(self, request, rollout)")

    def objection(self, environment: type[Environment[Any, Any]]) -> str | None:
        """Say why this model cannot play an environment, before anything runs; None when it can."""
        return None

    def status(self) -> Note | str | None:
        """
        Say in one line what a person should know at this moment (an endpoint is down, say); None for nothing.

        Asked several times a second, from any thread. A line whose details change, such as a countdown, is a `Note`.
        """
        return None


@asynccontextmanager
async def _nothing_to_open() -> AsyncIterator[None]:
    yield
