"""
What a plugin is: tools described once by their signature, options declared once, type arguments picked up.
"""

from __future__ import annotations

import asyncio
import enum
import pickle
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError
from typing_extensions import TypeVar

from gymcore.errors import ToolError
from gymcore.interfaces import Agent, Config, Environment, Model, Note, RolloutContext, Tool, call, option, say, tool
from gymcore.records import Task, ToolCall, Trajectory


class Colour(enum.Enum):
    """An enumeration that a tool takes."""

    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    """An object that a tool takes."""

    x: int
    title: str = "origin"


class Closed(BaseModel, extra="forbid"):
    """An object that takes nothing unknown and has no defaults."""

    x: int


def _no_sevens(value: int) -> int:
    if value == 7:
        raise ValueError("not seven")
    return value


class Drawing(Environment):
    """An environment with a tool of every sort."""

    @tool
    def plain(self, city: str, days: int, exact: bool, share: float) -> str:
        """
        Say something plain.

        It has a second paragraph.

        Args:
            city: The city's name.
            days (int): How many days,
                on two lines.

        Returns:
            Nothing of interest.
        """
        return city

    @tool
    def defaults(self, city: str, days: int = 3, note: str | None = None) -> None:
        """Take defaults."""

    @tool
    def rich(
        self,
        colour: Colour,
        size: Literal["s", "m"],
        points: list[Point],
        count: Annotated[int, Field(ge=1, le=9, description="From one to nine.")],
        even: Annotated[int, AfterValidator(_no_sevens)] = 0,
    ) -> None:
        """Take rich types."""

    @tool
    def odd_names(self, copy: int, json: str, schema: bool, model_dump: int, self_: int, title: str) -> None:
        """Take parameters that a pydantic model would not."""

    @tool
    def nothing(self) -> None:
        """Take nothing."""

    @tool
    def open_object(self, point: Point) -> None:
        """Take an object with a default inside."""

    @tool
    def closed_object(self, item: Closed) -> None:
        """Take an object that is closed."""

    @tool
    def table(self, table: dict[str, int]) -> None:
        """Take any keys."""

    @tool(name="renamed", thread=True)
    def another(self, *, text: str) -> None:
        """Be called otherwise."""

    def helper(self, *anything: Any) -> None:
        """Be no tool."""


# -- schemas -----------------------------------------------------------------------------------------------------------


def test_every_marked_method_is_a_tool_and_no_other() -> None:
    """
    Tools stand in the order they are written, under the names that models call.
    """
    assert list(Drawing.tools) == [
        "plain",
        "defaults",
        "rich",
        "odd_names",
        "nothing",
        "open_object",
        "closed_object",
        "table",
        "renamed",
    ]
    assert Drawing.tools["renamed"].in_thread
    assert Drawing.tools["renamed"].method == "another"


def test_a_schema_comes_from_signature_and_docstring() -> None:
    """
    Types, required parameters and the words of `Args` are in the schema; titles and `Returns` are not.
    """
    assert Drawing.tools["plain"].schema == {
        "type": "function",
        "name": "plain",
        "description": "Say something plain. It has a second paragraph.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name."},
                "days": {"type": "integer", "description": "How many days, on two lines."},
                "exact": {"type": "boolean"},
                "share": {"type": "number"},
            },
            "required": ["city", "days", "exact", "share"],
            "additionalProperties": False,
        },
        "strict": True,
    }


def test_a_parameter_with_a_default_is_not_required() -> None:
    """
    The default is shown, and the schema is not strict, because strict mode requires every parameter.
    """
    schema = Drawing.tools["defaults"].schema

    assert schema["parameters"]["required"] == ["city"]
    assert schema["parameters"]["properties"]["days"] == {"type": "integer", "default": 3}
    assert schema["parameters"]["properties"]["note"]["default"] is None
    assert schema["strict"] is False


def test_rich_types_are_described_with_their_definitions() -> None:
    """
    Enumerations, literals, constraints and nested objects are in the schema, and a property called `title` stays.
    """
    parameters = Drawing.tools["rich"].parameters

    assert parameters["$defs"]["Colour"]["enum"] == ["red", "blue"]
    assert set(parameters["$defs"]["Point"]["properties"]) == {"x", "title"}
    assert parameters["properties"]["size"] == {"enum": ["s", "m"], "type": "string"}
    assert parameters["properties"]["points"]["items"] == {"$ref": "#/$defs/Point"}
    assert parameters["properties"]["count"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "description": "From one to nine.",
    }


def test_parameters_may_be_called_anything() -> None:
    """
    Names that are methods of a pydantic model are ordinary parameters.
    """
    drawn = Drawing.tools["odd_names"]

    assert list(drawn.parameters["properties"]) == ["copy", "json", "schema", "model_dump", "self_", "title"]
    given = '{"copy": 1, "json": "j", "schema": true, "model_dump": 2, "self_": 3, "title": "t"}'
    assert drawn.check(given) == {"copy": 1, "json": "j", "schema": True, "model_dump": 2, "self_": 3, "title": "t"}


@pytest.mark.parametrize(
    ("name", "is_strict"),
    [("plain", True), ("nothing", True), ("closed_object", True), ("open_object", False), ("table", False)],
)
def test_a_tool_is_strict_only_where_every_object_of_it_is_closed(name: str, is_strict: bool) -> None:
    """
    OpenAI's strict mode wants all properties required and none unknown at every depth, and refuses other schemas.
    """
    assert Drawing.tools[name].schema["strict"] is is_strict


def test_tool_schemas_are_those_of_the_tools() -> None:
    """
    What a request offers is one entry per tool, in order.
    """
    assert Drawing.tool_schemas() == [item.schema for item in Drawing.tools.values()]


# -- methods that cannot be tools --------------------------------------------------------------------------------------


def _arguments(self: Any, *cities: str) -> None: ...
def _keywords(self: Any, **cities: str) -> None: ...
def _positional(self: Any, city: str, /) -> None: ...
def _untyped(self: Any, city) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (_arguments, "'cities' must be an ordinary named one"),
        (_keywords, "'cities' must be an ordinary named one"),
        (_positional, "'city' must be an ordinary named one"),
        (_untyped, "'city' needs a type"),
        (staticmethod(_keywords), "must be an ordinary method"),
        (classmethod(_untyped), "must be an ordinary method"),
    ],
)
def test_a_method_that_cannot_be_a_tool_is_refused_at_definition(method: Callable[..., Any], said: str) -> None:
    """
    The author hears when the class is made, with class, method and parameter named.
    """
    with pytest.raises(TypeError, match=r"tool Wrong\.\w+: .*" + said):
        type("Wrong", (Environment,), {"method": tool(method)})


def test_two_tools_of_one_name_are_refused() -> None:
    """
    One of them would never be called.
    """

    def first(self: Any) -> None: ...
    def second(self: Any) -> None: ...

    with pytest.raises(TypeError, match="two tools of Wrong are called 'same'"):
        type("Wrong", (Environment,), {"a": tool(name="same")(first), "b": tool(name="same")(second)})


def test_tools_are_inherited_and_may_be_replaced() -> None:
    """
    A subclass has its parents' tools and its own, and its own win.
    """

    class Narrower(Drawing):
        @tool
        def nothing(self, now: str) -> None:
            """Take something after all."""

    assert list(Narrower.tools) == list(Drawing.tools)
    assert list(Narrower.tools["nothing"].parameters["properties"]) == ["now"]
    assert list(Drawing.tools["nothing"].parameters["properties"]) == []


# -- checking what a model wrote ---------------------------------------------------------------------------------------


def test_arguments_arrive_as_the_types_of_the_signature() -> None:
    """
    Defaults are filled in, and nested objects are models.
    """
    given = '{"colour": "red", "size": "m", "points": [{"x": 1}], "count": 2}'

    assert Drawing.tools["rich"].check(given) == {
        "colour": Colour.RED,
        "size": "m",
        "points": [Point(x=1)],
        "count": 2,
        "even": 0,
    }


@pytest.mark.parametrize("text", ["", "{}", " {} "])
def test_a_tool_without_parameters_takes_nothing(text: str) -> None:
    """
    Models send an empty text or an empty object; both are calls without arguments.
    """
    assert Drawing.tools["nothing"].check(text) == {}


HOSTILE = [
    "{",
    "null",
    "[]",
    "5",
    '"text"',
    "{} trailing",
    '{"no_such": 1}',
    '{"city": null}',
    '{"city": "\\ud800", "days": 1, "exact": true, "share": 1}',
    '{"\\ud800": 1}',
    "\udcff",
    '{"\udcff": 1}',
    '{"city": "\x00", "days": 1e400, "exact": 2, "share": NaN}',
    '{"city": "a", "days": ' + "9" * 5000 + ', "exact": true, "share": 1}',
    '{"city": ' * 5000,
    "[" * 100_000,
    '{"argument_0": "a", "argument_1": 1, "argument_2": true, "argument_3": 1}',
    "\ufeff{}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", ["plain", "rich", "nothing"])
def test_hostile_arguments_are_answered_and_never_crash(name: str, text: str) -> None:
    """
    Whatever a model writes, it is told what is wrong in a text that can be sent back to it.
    """
    with pytest.raises(ToolError) as caught:
        Drawing.tools[name].check(text)

    assert str(caught.value).startswith(f"invalid arguments for {name}: ")
    assert len(str(caught.value)) < 2_000


class Spot(BaseModel):
    """An object of an author's own, with pydantic's own rules."""

    x: float = 0.0
    label: Any = None


@dataclass
class Speck:
    """A dataclass that a tool takes."""

    x: float


class Measuring(Environment):
    """An environment whose tools take numbers in every place."""

    @tool
    def direct(self, x: float) -> None:
        """Take a number."""

    @tool
    def listed(self, x: list[float | None]) -> None:
        """Take numbers in a list."""

    @tool
    def optional(self, x: float | None = None) -> None:
        """Take a number or nothing."""

    @tool
    def model(self, x: Spot) -> None:
        """Take a number in a model."""

    @tool
    def models(self, x: list[dict[str, Spot]]) -> None:
        """Take numbers in models inside other things."""

    @tool
    def dataclass(self, x: Speck) -> None:
        """Take a number in a dataclass."""

    @tool
    def anything(self, x: Any) -> None:
        """Take anything."""

    @tool
    def keys(self, x: dict[float, int]) -> None:
        """Take numbers as keys."""


PLACES = {
    "direct": '{"x": %s}',
    "listed": '{"x": [1, %s]}',
    "optional": '{"x": %s}',
    "model": '{"x": {"x": %s}}',
    "models": '{"x": [{"a": {"x": 1}, "b": {"x": 2, "label": [%s]}}]}',
    "dataclass": '{"x": {"x": %s}}',
    "anything": '{"x": {"a": [%s]}}',
    "keys": '{"x": {"%s": 1}}',
}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
@pytest.mark.parametrize("name", PLACES)
def test_a_number_that_is_not_finite_is_no_argument(name: str, number: str) -> None:
    """
    Wherever it stands, a number that JSON does not have, or that no float can hold, is refused; any other is taken.
    """
    with pytest.raises(ToolError, match=f"^invalid arguments for {name}: "):
        Measuring.tools[name].check(PLACES[name] % number)

    assert Measuring.tools[name].check(PLACES[name] % "1.5")


def test_numbers_are_not_written_as_words() -> None:
    """
    What pydantic would read as infinity is none, in an author's own object either.
    """
    for name, text in (("direct", '{"x": "nan"}'), ("model", '{"x": {"x": "inf"}}')):
        with pytest.raises(ToolError, match="finite"):
            Measuring.tools[name].check(text)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("listed", '{"x": [' + '"",' * 300_000 + "1]}", "300,000 values do not fit"),
        ("direct", "{" + "".join(f'"k{number}":1,' for number in range(50_000)) + '"x":1}', "50,000 values do not fit"),
        ("direct", '{"x": ' + " " * 1_000_000 + "1}", "1,000,008 characters; at most 1,000,000 are read"),
    ],
    ids=["values", "names", "characters"],
)
def test_wrong_arguments_of_any_length_take_little_memory(name: str, text: str, told: str) -> None:
    """
    Hundreds of thousands of mistakes in one call are counted and not described, and what is longer yet is not read.
    """
    tracemalloc.start()
    try:
        with pytest.raises(ToolError) as caught:
            Measuring.tools[name].check(text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert str(caught.value) == f"invalid arguments for {name}: {told}"
    assert most < 10_000_000


def test_arguments_of_the_greatest_length_are_read() -> None:
    """
    The bound is one that nobody meets who means what it says.
    """
    text = "x" * (1_000_000 - len('{"text": ""}'))

    assert Drawing.tools["renamed"].check('{"text": "' + text + '"}') == {"text": text}


def test_several_wrong_arguments_are_named_together() -> None:
    """
    The model can mend all of them at once.
    """
    with pytest.raises(ToolError) as caught:
        Drawing.tools["plain"].check('{"city": 5, "days": "x", "exact": true}')

    assert all(f"{name}: " in str(caught.value) for name in ("city", "days", "share"))


def test_the_reason_of_a_validator_reaches_the_model() -> None:
    """
    What an author's own check says is what the model reads.
    """
    with pytest.raises(ToolError, match="even: Value error, not seven"):
        Drawing.tools["rich"].check('{"colour": "red", "size": "m", "points": [], "count": 1, "even": 7}')


# -- classes -----------------------------------------------------------------------------------------------------------


class Riddle(Task):
    """A task with a field."""

    answer: str


class Settings(Config):
    """Options."""

    level: int = option(1, ge=1, description="How hard.", environment_variable="LEVEL", operational=True)
    key: SecretStr | None = option(None)


TaskT = TypeVar("TaskT", bound=Task, default=Task)
AnyTask = TypeVar("AnyTask", bound=Task)


class Both(Environment[Riddle, Settings]):
    """Names task and options."""


class OnlyTask(Environment[Riddle]):
    """Names the task."""


class Inheriting(Both):
    """Names nothing itself."""


class Half(Environment[AnyTask, Settings], Generic[AnyTask]):
    """Leaves the task open."""


class Completed(Half[Riddle]):
    """Fills in the task."""


class Narrowed(Both):
    """Says it the plain way."""

    task_model = Task


@pytest.mark.parametrize(
    ("environment", "task_model", "config_model"),
    [
        (Environment, Task, Config),
        (Both, Riddle, Settings),
        (OnlyTask, Riddle, Config),
        (Inheriting, Riddle, Settings),
        (Half, Task, Settings),
        (Completed, Riddle, Settings),
        (Narrowed, Task, Settings),
    ],
)
def test_type_arguments_are_picked_up_through_subclasses(
    environment: type[Environment[Any, Any]], task_model: type[Task], config_model: type[Config]
) -> None:
    """
    What stands in the brackets is what rows and options are checked with, however deep the inheritance.
    """
    assert environment.task_model is task_model
    assert environment.config_model is config_model


def test_agents_and_models_name_their_options_the_same_way() -> None:
    """
    `Agent[Settings]` and `Model[Settings]` are checked with `Settings`, in subclasses too.
    """

    class Player(Agent[Settings]):
        pass

    class Slower(Player):
        pass

    class Endpoint(Model[Settings]):
        pass

    assert Slower.config_model is Settings
    assert Endpoint.config_model is Settings
    assert Endpoint().config.level == 1
    assert Agent.config_model is Config


def test_an_option_knows_where_its_value_comes_from() -> None:
    """
    Description, variable and the operational mark are in the schema that `gym show` reads.
    """
    field = Settings.model_json_schema()["properties"]["level"]

    assert field["description"] == "How hard."
    assert (field["environment_variable"], field["operational"]) == ("LEVEL", True)
    assert (field["minimum"], field["default"]) == (1, 1)


def test_options_refuse_unknown_keys_and_changes() -> None:
    """
    A misspelt option is a mistake, and nobody changes one during a run.
    """
    with pytest.raises(ValidationError):
        Settings(levle=1)
    with pytest.raises(ValidationError):
        Settings().level = 2


def test_an_option_without_default_is_required() -> None:
    """
    Leaving the default out means that somebody must decide.
    """

    class Needy(Config):
        """One option, no default."""

        url: str = option(description="Where.")

    with pytest.raises(ValidationError, match="Field required"):
        Needy()
    assert Needy(url="x").url == "x"


def test_what_an_author_left_out_is_named() -> None:
    """
    A missing `verify`, `solve`, `play` or `respond` says which class lacks it.
    """
    environment = Both(Riddle.model_validate({"responses_create_params": {"input": "q"}, "answer": "a"}))

    with pytest.raises(NotImplementedError, match="Both has no verify"):
        environment.verify(Trajectory())
    with pytest.raises(NotImplementedError, match="Both has no solve"):
        environment.solve()
    assert not Both.is_solvable()
    with pytest.raises(NotImplementedError, match="Agent has no play"):
        asyncio.run(Agent().play(None, None))  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="Model has no respond"):
        asyncio.run(Model().respond(None, None))  # type: ignore[arg-type]


def test_a_solution_is_written_with_call_and_say() -> None:
    """
    `call` writes the arguments as a model would; `say` holds the text.
    """
    assert call("f", name="x", values=[1]) == ToolCall("f", '{"name":"x","values":[1]}')
    assert say("hello").text == "hello"


def test_a_tool_is_a_value() -> None:
    """
    Two environments may share a tool's description without sharing anything else.
    """
    assert isinstance(Drawing.tools["plain"], Tool)
    assert "plain" not in Environment.tools


@given(
    seeds=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)),
    repeats=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_the_seed_for_sampling_follows_from_the_task_and_the_repeat_alone(
    seeds: tuple[int, int], repeats: tuple[int, int]
) -> None:
    """
    Equal for an equal rollout whoever asks and whenever, and different for another task or another repeat.
    """

    def seed(number: int, repeat: int, environment: str = "a") -> int:
        world = Environment(Task(responses_create_params={"input": "Hello."}))
        return RolloutContext(world, (environment, "a/0", repeat), number, AsyncExitStack()).sampling_seed

    first, second = seed(seeds[0], repeats[0]), seed(seeds[1], repeats[1])

    assert 0 <= first < 2**63
    assert first == seed(seeds[0], repeats[0])
    assert (first == second) == (seeds[0] == seeds[1] and repeats[0] == repeats[1])


def test_a_note_is_its_text_and_keeps_its_key_on_the_way() -> None:
    """
    It comes from another process as it was; without a key, the line is its own.
    """
    note = pickle.loads(pickle.dumps(Note("down, next try in 7 s", key="down")))

    assert (note, note.key) == ("down, next try in 7 s", "down")
    assert Note("held up").key == "held up"
