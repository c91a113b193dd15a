"""
One rollout: which stage a fault is blamed on, what the model sees of its own mistakes, and that everything is closed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any

import pytest

from gymcore import (
    Agent,
    Environment,
    Model,
    ModelError,
    Request,
    Response,
    Reward,
    Rollout,
    RolloutContext,
    Task,
    ToolCall,
    ToolError,
    Trajectory,
    Turn,
    tool,
)
from gymcore.builtin.simple_agent import SimpleAgent
from gymcore.composition import Composition
from gymcore.records import seed_of
from gymcore.responses import message
from gymcore.runtime.in_process import InProcess, TimeLimits
from gymcore.runtime.schedule import Schedule
from gymcore.runtime.session import Session, Stage
from gymcore.testing import ScriptedModel, calls, play, says
from gymcore.testing.playing import opened_table
from gymcore.testing.replies import Reply
from gymcore.testing.simulated_time import run_in_simulated_time

ROW = {"responses_create_params": {"input": "hello"}}


class Plain(Environment):
    """Pays for any answer; what a test wants to break, it overrides."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        CLOSED.clear()

    @tool
    def look(self, where: str) -> dict[str, str]:
        """Look somewhere."""
        return {"seen": where}

    async def close(self) -> None:
        CLOSED.append("closed")

    def verify(self, trajectory: Trajectory) -> Reward | float:
        return 1.0


CLOSED: list[str] = []
"""How often the last environment was closed."""


class Hostile(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class Exiting(Exception):
    """An error that ends the process of whoever looks at it."""

    def __str__(self) -> str:
        raise SystemExit(3)


FAULTS: list[tuple[BaseException, str]] = [
    (GeneratorExit(), "GeneratorExit"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (Exiting(), "Exiting"),
    (ValueError("broken"), "ValueError"),
    (SystemExit(3), "SystemExit"),
    (StopIteration(), "RuntimeError"),
    (asyncio.CancelledError(), "CancelledError"),
    (TimeoutError("slow"), "TimeoutError"),
    (Hostile(), "Hostile"),
    (ValueError("half a \ud83d letter"), "ValueError"),
]


def raising(where: str, error: BaseException) -> tuple[type[Environment], Model, Agent[Any] | None]:
    """Return what plays a rollout that raises in one place."""

    class Broken(Plain):
        async def open(self) -> None:
            if where == "open":
                raise error

        @tool
        def look(self, where_: str) -> str:
            """Look somewhere."""
            raise error

        async def reply(self, turn: Turn) -> str | None:
            if where == "reply":
                raise error
            return None

        def verify(self, trajectory: Trajectory) -> float:
            if where == "verify":
                raise error
            return 1.0

    class BrokenModel(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            raise error

    class BrokenAgent(Agent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            raise error

    model = ScriptedModel(calls("look", where_="up")) if where == "tool" else ScriptedModel(says("hi"))
    return Broken, BrokenModel() if where == "model" else model, BrokenAgent() if where == "agent" else None


@pytest.mark.parametrize(("error", "name"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("where", ["open", "model", "tool", "reply", "agent", "verify"])
def test_a_fault_is_a_failure_that_names_its_stage(where: str, error: BaseException, name: str) -> None:
    """
    Whatever plugin code raises, and wherever, is recorded under that stage; the environment is closed once.
    """
    environment, model, agent = raising(where, error)

    rollout = play(environment, ROW, model, agent=agent)

    assert rollout.failure is not None
    assert rollout.failure.stage == where
    assert rollout.failure.error in (name, type(error).__name__)
    assert rollout.reward is None
    assert b'"reward"' not in rollout.to_failure_line()
    assert CLOSED == ["closed"]


class Answers(Agent):
    """An agent that returns what it was told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    async def play(self, environment: Any, model: Any) -> Any:
        return self.answer


class Responds(Model):
    """A model that returns what it was told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    async def respond(self, request: Any, rollout: Any) -> Any:
        return self.answer


@pytest.mark.parametrize("where", ["open", "tool", "verify", "close"])
def test_a_real_interrupt_is_no_fault_of_a_plugin(where: str) -> None:
    """
    What a signal's handler raises while plugin code runs ends the run, and the environment is closed.
    """

    def handler(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    class Interrupted(Plain):
        async def open(self) -> None:
            if where == "open":
                signal.raise_signal(signal.SIGINT)

        @tool
        def look(self, where_: str) -> str:
            """Look somewhere."""
            if where == "tool":
                signal.raise_signal(signal.SIGINT)
            return "seen"

        async def close(self) -> None:
            await super().close()
            if where == "close":
                signal.raise_signal(signal.SIGINT)

        def verify(self, trajectory: Trajectory) -> float:
            if where == "verify":
                signal.raise_signal(signal.SIGINT)
            return 1.0

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            play(Interrupted, ROW, ScriptedModel(calls("look", where_="up"), says("hi")))
    finally:
        signal.signal(signal.SIGINT, before)
    assert CLOSED == ["closed"]


@pytest.mark.parametrize("answer", [1, 0.5, Fraction(1, 2), Fraction(-3)])
def test_any_real_number_is_a_reward(answer: Any) -> None:
    """
    Also one of a library's own type.
    """

    class Odd(Plain):
        def verify(self, trajectory: Trajectory) -> Any:
            return answer

    rollout = play(Odd, ROW, ScriptedModel(says("hi")))

    assert rollout.reward == Reward(value=float(answer))
    assert type(rollout.reward.value) is float


def test_a_number_of_a_library_is_a_reward() -> None:
    """
    NumPy's scalars are registered as real numbers, and most of them are no float.
    """

    class Scalar:
        def __float__(self) -> float:
            return 0.25

    Real.register(Scalar)

    class Odd(Plain):
        def verify(self, trajectory: Trajectory) -> Any:
            return Scalar()

    rollout = play(Odd, ROW, ScriptedModel(says("hi")))

    assert rollout.reward == Reward(value=0.25)


@pytest.mark.parametrize("answer", [None, True, "1.0", [1.0], float("nan"), float("inf"), 10**400, Decimal(1), 1j])
def test_a_reward_of_the_wrong_type_is_a_failure_of_verify(answer: Any) -> None:
    """
    What is no finite number is never a reward.
    """

    class Odd(Plain):
        def verify(self, trajectory: Trajectory) -> Any:
            return answer

    rollout = play(Odd, ROW, ScriptedModel(says("hi")))

    assert rollout.failure is not None
    assert rollout.failure.stage == "verify"


@pytest.mark.parametrize("answer", [None, {}, Trajectory(turns=({"text": "hi"},))])  # type: ignore[arg-type]
def test_an_agent_that_returns_something_else_is_a_failure_of_the_agent(answer: Any) -> None:
    """
    Only a Trajectory of Turns can be scored and written down.
    """
    rollout = play(Plain, ROW, ScriptedModel(), agent=Answers(answer))

    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.error) == ("agent", "TypeError")


def test_a_model_that_returns_something_else_is_a_failure_of_the_model() -> None:
    """
    The failure says what came instead of a Response.
    """
    rollout = play(Plain, ROW, Responds({"output": []}))

    assert rollout.failure is not None
    assert rollout.failure.stage == "model"
    assert "dict, not a Response" in rollout.failure.message


def test_a_response_that_reports_its_own_failure_is_a_failure_of_the_model() -> None:
    """
    An endpoint may answer with status `failed` and a reason, which is kept, and which may be tried again.
    """
    rollout = play(Plain, ROW, Responds(Response(status="failed", error={"code": "server_error"})))

    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.retryable) == ("model", True)
    assert "server_error" in rollout.failure.message


def test_a_next_message_that_is_no_text_is_a_failure_of_reply() -> None:
    """
    `reply` answers with a text or ends the episode.
    """

    class Odd(Plain):
        async def reply(self, turn: Turn) -> Any:
            return {"role": "user", "content": "more"}

    rollout = play(Odd, ROW, ScriptedModel(says("hi")))

    assert rollout.failure is not None
    assert rollout.failure.stage == "reply"


def test_a_task_that_no_longer_fits_its_model_is_a_failure_of_open() -> None:
    """
    What the row lacks is found out when the environment is made, and nothing is there to be closed.
    """

    class Strict(Task):
        needed: int

    class Picky(Plain, Environment[Strict]):
        pass

    rollout = play(Picky, ROW, ScriptedModel())

    assert rollout.failure is not None
    assert rollout.failure.stage == "open"


def test_what_a_model_error_says_about_trying_again_is_kept() -> None:
    """
    The model knows whether the same rollout may succeed later; a bug will not.
    """
    verdicts = {
        error: play(Plain, ROW, ScriptedModel(error)).failure
        for error in (ModelError("full"), ModelError("too long", retryable=False), ValueError("a bug"))
    }

    assert [failure and failure.retryable for failure in verdicts.values()] == [True, False, False]


class CarelessError(ModelError):
    """An error whose author has forgotten to call the constructor that it inherits."""

    def __init__(self, text: str) -> None:
        self.text = text


@pytest.mark.parametrize("error", [CarelessError("x"), ModelError("x", retryable=None)])  # type: ignore[arg-type]
def test_a_malformed_model_error_is_a_failure_like_any_other(error: Exception) -> None:
    """
    It costs its rollout, not the run.
    """
    failure = play(Plain, ROW, ScriptedModel(error)).failure

    assert failure is not None
    assert (failure.stage, failure.error) == ("model", type(error).__name__)


@pytest.mark.parametrize(
    ("turn", "place"),
    [
        ({"usage": object()}, "turns[0].usage is a object, not dict or None"),
        ({"results": None}, "turns[0].results is a NoneType, not tuple"),
        ({"output": [message("hi")]}, "turns[0].output is a list, not tuple"),
        ({"output": (object(),)}, "turns[0] holds items that are no JSON objects"),
        ({"response_id": 7}, "turns[0].response_id is a int, not str or None"),
        ({"attempts": "1"}, "turns[0].attempts is a str, not int"),
    ],
)
def test_a_trajectory_that_nobody_could_read_again_is_a_failure_of_the_agent(turn: dict[str, Any], place: str) -> None:
    """
    It is refused where it comes from, with the place, and not when it is written.
    """

    class Odd(Agent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            return Trajectory(turns=(Turn(**{"output": (message("hi"),), **turn}),))

    failure = play(Plain, ROW, ScriptedModel(), agent=Odd()).failure

    assert failure is not None
    assert (failure.stage, failure.error) == ("agent", "TypeError")
    assert place in failure.message


def test_a_failure_names_the_line_of_the_plugin() -> None:
    """
    Whoever reads failures.jsonl finds the code that raised.
    """
    environment, model, _ = raising("verify", ValueError("broken"))

    failure = play(environment, ROW, model).failure

    assert failure is not None
    assert failure.location is not None
    assert failure.location.startswith(__file__)


# -- time and closing ----------------------------------------------------------------------------------------------


def timed(
    environment: type[Environment], model: Model[Any], timeout_s: float, agent: Agent[Any] | None = None
) -> tuple[Rollout, float]:
    """Play in simulated time, so that a busy machine meets no bound, and return how many seconds it took there."""

    async def playing() -> tuple[Rollout, float]:
        limits = TimeLimits(rollout_s=timeout_s)
        async with opened_table(environment, model, agent=agent, limits=limits) as table:
            began = asyncio.get_running_loop().time()
            return await table.play(ROW), asyncio.get_running_loop().time() - began

    return run_in_simulated_time(playing())


def test_a_rollout_that_takes_too_long_is_a_failure_of_time() -> None:
    """
    The bound holds for everything together, and the environment is closed all the same.
    """

    class Endless(Plain):
        async def open(self) -> None:
            await asyncio.Event().wait()

    rollout = play(Endless, ROW, ScriptedModel(), timeout_s=0.02)

    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.retryable) == ("timeout", True)
    assert "collect.timeout_s" in rollout.failure.message
    assert CLOSED == ["closed"]


def test_what_a_plugin_makes_of_its_end_does_not_hide_that_it_was_late() -> None:
    """
    An error that came of being cancelled for the bound is told behind the bound, and not in its place.
    """

    class Converts(Plain):
        async def open(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError("aborted") from None

    failure = play(Converts, ROW, ScriptedModel(), timeout_s=0.02).failure

    assert failure is not None
    assert (failure.stage, failure.error, failure.retryable) == ("timeout", "TimeoutError", True)
    assert failure.message.endswith("(collect.timeout_s), and ended in open with ConnectionError: aborted")


RELEASE = threading.Event()
"""Ends what blocks a thread."""


class NeverAnswers(Plain):
    """Hangs in a tool and in the verifier."""

    @tool
    async def hang(self) -> str:
        """Never answer."""
        await asyncio.Event().wait()
        return ""

    @tool(thread=True)
    def block(self) -> str:
        """Answer when nobody listens any more."""
        RELEASE.wait(60)
        return ""

    async def verify(self, trajectory: Trajectory) -> float:  # type: ignore[override]
        await asyncio.Event().wait()
        return 1.0


@pytest.mark.parametrize(
    ("reply", "stage", "bound"),
    [
        (calls("hang"), "tool", "the tool hang took longer than 0.02 s (collect.tool_timeout_s)"),
        (calls("block"), "tool", "the tool block took longer than 0.02 s (collect.tool_timeout_s)"),
        (says("done"), "verify", "the verifier took longer than 0.02 s (collect.verify_timeout_s)"),
    ],
)
def test_a_tool_or_verifier_that_hangs_is_a_failure_that_names_its_bound(reply: Reply, stage: str, bound: str) -> None:
    """
    Each has its own bound, far below that of the rollout, and the environment is closed.
    """
    model = ScriptedModel(reply, says("done"))
    RELEASE.clear()

    try:
        rollout = play(NeverAnswers, ROW, model, tool_timeout_s=0.02, verify_timeout_s=0.02)
    finally:
        RELEASE.set()

    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.error, rollout.failure.message) == (stage, "TimeoutError", bound)
    assert rollout.failure.retryable
    assert rollout.reward is None
    assert CLOSED == ["closed"]


def test_the_clock_of_a_rollout_stands_while_its_model_waits() -> None:
    """
    An endpoint that is down for longer than a rollout may take costs no rollout, and is not counted against its time.
    """

    class Waits(Model):
        async def respond(self, request: Request, rollout: RolloutContext) -> Response:
            with rollout.clock.stopped(), rollout.clock.stopped():
                await asyncio.sleep(0.15)
            assert rollout.clock.waited_s >= 0.15
            return Response(output=[message("hi")])

    class Bounded(SimpleAgent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            trajectory = await super().play(environment, model)
            assert model.waited_s >= 0.15
            return trajectory

    rollout, took_s = timed(Plain, Waits(), 0.1, agent=Bounded())

    assert rollout.failure is None
    assert took_s == pytest.approx(0.15)


def test_the_clock_of_a_rollout_goes_on_after_a_wait() -> None:
    """
    What was left of the time before waiting is left after it, and no more.
    """

    class Stalls(Model):
        async def respond(self, request: Request, rollout: RolloutContext) -> Response:
            with rollout.clock.stopped():
                await asyncio.sleep(0.1)
            await asyncio.Event().wait()
            raise AssertionError("never")

    rollout, took_s = timed(Plain, Stalls(), 0.05)

    assert rollout.failure is not None
    assert rollout.failure.stage == "timeout"
    assert took_s == pytest.approx(0.15)


class SlowToClose(Plain):
    """Needs longer to close than the rollout may take."""

    async def close(self) -> None:
        await asyncio.sleep(0.1)
        CLOSED.append("closed")


class RefusesToClose(Plain):
    """Cannot be closed."""

    async def close(self) -> None:
        CLOSED.append("tried")
        raise RuntimeError("stuck")


class ExitsInsteadOfClosing(Plain):
    """Ends the process where it should clean up."""

    async def close(self) -> None:
        CLOSED.append("tried")
        sys.exit("bye")


class CancelsItselfClosing(Plain):
    """Leaks a cancellation of its own."""

    async def close(self) -> None:
        CLOSED.append("tried")
        raise asyncio.CancelledError


class ClosesPlainly(Plain):
    """Forgot the `async`."""

    def close(self) -> None:  # type: ignore[override]
        CLOSED.append("closed")


@pytest.mark.parametrize(
    "environment", [SlowToClose, RefusesToClose, ExitsInsteadOfClosing, CancelsItselfClosing, ClosesPlainly]
)
def test_how_closing_goes_does_not_change_the_reward(environment: type[Environment]) -> None:
    """
    The reward is known before the environment is closed; a slow, failing or exiting clean-up leaves it as it is.
    """
    rollout, _ = timed(environment, ScriptedModel(says("hi")), 0.05)

    assert rollout.failure is None
    assert rollout.reward == Reward(value=1.0)
    assert len(CLOSED) == 1


def test_open_and_close_run_in_the_same_task() -> None:
    """
    What `open` entered, `close` may leave, also where a library wants both in one task, as anyio does.
    """
    tasks = []

    class Careful(Plain):
        async def open(self) -> None:
            tasks.append(asyncio.current_task())

        async def close(self) -> None:
            tasks.append(asyncio.current_task())

    play(Careful, ROW, ScriptedModel(says("hi")))

    assert tasks[0] is tasks[1]


def test_what_a_model_opens_for_a_rollout_is_closed_before_the_environment() -> None:
    """
    The stack a model is given ends with the rollout; an error there changes nothing either.
    """
    order: list[str] = []

    class Noted(Plain):
        async def close(self) -> None:
            order.append("environment")

    class Opens(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            await rollout.stack.enter_async_context(connection())
            return Response(output=[message("hi")])

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        yield
        order.append("model")
        raise RuntimeError("already gone")

    rollout = play(Noted, ROW, Opens())

    assert order == ["model", "environment"]
    assert rollout.reward is not None


def test_tools_that_run_side_by_side_end_with_their_rollout() -> None:
    """
    When one of several calls of a reply fails, the others are cancelled before the environment is closed.
    """
    order: list[str] = []

    class Twofold(Plain):
        @tool
        async def wait(self) -> None:
            """Wait."""
            try:
                await asyncio.Event().wait()
            finally:
                order.append("cancelled")

        @tool
        async def fail(self) -> None:
            """Fail."""
            await asyncio.sleep(0)
            raise ValueError("broken")

        async def close(self) -> None:
            order.append("closed")

    rollout = play(Twofold, ROW, ScriptedModel(calls("wait") + calls("fail")))

    assert order == ["cancelled", "closed"]
    assert rollout.failure is not None
    assert (rollout.failure.stage, rollout.failure.message) == ("tool", "broken")


# -- tools ---------------------------------------------------------------------------------------------------------


class Toolbox(Plain):
    """Tools of every kind."""

    @tool
    def add(self, a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    @tool
    async def later(self, text: str) -> str:
        """Answer later."""
        await asyncio.sleep(0)
        return text

    @tool(thread=True)
    def in_thread(self) -> dict[str, bool]:
        """Answer from a thread."""
        return {"main": threading.current_thread() is threading.main_thread()}

    @tool
    def refuse(self) -> str:
        """Refuse."""
        raise ToolError("not today")

    @tool
    def odd(self) -> Any:
        """Return what JSON does not know."""
        return [1.5, None, float("nan"), 2**80, "half a \ud83d letter", {1: {2}}, object]

    @tool(thread=True)
    def stops(self) -> str:
        """Raise what a future refuses."""
        raise StopIteration


def results_of(*replies: Reply) -> list[str]:
    """Play a script in the toolbox and return the results the model saw."""
    model = ScriptedModel(*replies, says("done"))
    rollout = play(Toolbox, ROW, model)
    assert rollout.failure is None
    results = [item["output"] for turn in rollout.trajectory.turns for item in turn.results]
    assert [item["output"] for item in model.requests[-1].input if item["type"] == "function_call_output"] == results
    return results


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (calls("add", a=2), "3"),
        (calls("later", text="soon"), "soon"),
        (calls("in_thread"), '{"main":false}'),
        (calls("refuse"), '{"error":"not today"}'),
    ],
)
def test_a_tool_answers_whatever_its_kind(reply: Reply, result: str) -> None:
    """
    Plain, `async` and threaded tools are called alike; a text is shown as it is, and anything else as JSON.
    """
    assert results_of(reply) == [result]


def test_a_result_that_is_no_json_is_shown_as_well_as_it_can_be() -> None:
    """
    No result of a tool ends a rollout because it cannot be written.
    """
    value = json.loads(results_of(calls("odd"))[0])

    assert value[:4] == [1.5, None, None, 2**80]


@pytest.mark.parametrize(
    "name", ["no_such_tool", "__class__", "verify", "close", "__init__", "config", "", "\ud800", "x" * 100_000]
)
def test_an_unknown_tool_is_explained_to_the_model(name: str) -> None:
    """
    Only what is marked as a tool can be called; the model reads which those are.
    """
    result = json.loads(results_of(Reply((ToolCall(name, "{}"),)))[0])

    assert "there is no tool" in result["error"]
    assert "add, later" in result["error"]
    assert len(result["error"]) < 1000


@pytest.mark.parametrize(
    "arguments",
    ["{", "null", "[]", '"a"', "{}", '{"a":"two"}', '{"a":1,"c":2}', '{"a":1e400}', "[" * 100_000, '{"a":' * 100_000],
    ids=lambda text: text[:10],
)
def test_bad_arguments_are_explained_to_the_model(arguments: str) -> None:
    """
    Whatever a model writes as arguments, it reads what was wrong, and the rollout goes on.
    """
    result = json.loads(results_of(Reply((ToolCall("add", arguments),)))[0])

    assert "invalid arguments for add" in result["error"]
    assert len(result["error"]) <= 2000


def test_a_threaded_tool_that_raises_stop_iteration_does_not_hang() -> None:
    """
    Python lets no future carry StopIteration; the failure arrives nevertheless.
    """
    rollout = play(Toolbox, ROW, ScriptedModel(calls("stops")), timeout_s=5)

    assert rollout.failure is not None
    assert rollout.failure.stage == "tool"


def test_threaded_tools_that_hang_do_not_keep_others_from_running() -> None:
    """
    A blocking tool that never ends holds no place that another rollout, or the event loop's own work, waits for.
    """
    release = threading.Event()

    class Hangs(Plain):
        @tool(thread=True)
        def hang(self) -> str:
            """Block."""
            release.wait()
            return "released"

    many = sum([calls("hang")] * 40, start=Reply())

    class Asks(Agent):
        async def play(self, environment: Any, model: Any) -> Trajectory:
            response = await model.respond(environment.request)
            turn = Turn(output=tuple(response.output))
            hanging = [asyncio.create_task(environment.call(call)) for call in turn.calls]
            await asyncio.sleep(0)
            said = await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5)
            release.set()
            await asyncio.gather(*hanging)
            return Trajectory(turns=(Turn(output=(message(said),)),))

    try:
        rollout = play(Hangs, ROW, ScriptedModel(many), agent=Asks(), timeout_s=20)
    finally:
        release.set()

    assert rollout.failure is None
    assert rollout.trajectory.text == "free"


# -- requests ------------------------------------------------------------------------------------------------------


def first_request(row: dict[str, Any], **params: Any) -> dict[str, Any]:
    """Return the parameters of the first request of a rollout."""
    model = ScriptedModel(says("hi"))
    play(Toolbox, {"responses_create_params": row}, model, params=params)
    return dict(model.requests[0].params)


def test_tools_that_a_row_brings_are_kept_and_absent_ones_filled_in() -> None:
    """
    A row's own description of its tools reaches the model untouched; a row without gets all of the environment.
    """
    own = [{"type": "function", "name": "add", "parameters": {"x-mine": 1}}]

    assert first_request({"input": "hi", "tools": own})["tools"] == own
    assert first_request({"input": "hi", "tools": []})["tools"] == []
    assert [item["name"] for item in first_request({"input": "hi"})["tools"]] == list(Toolbox.tools)
    assert [item["name"] for item in first_request({"input": "hi", "tools": None})["tools"]] == list(Toolbox.tools)


def test_parameters_of_the_plan_win_over_those_of_the_row() -> None:
    """
    The plan's `params` replace a row's, and what neither names is not sent.
    """
    params = first_request({"input": "hi", "temperature": 0.1, "top_p": 0.9}, temperature=0.7)

    assert {key: value for key, value in params.items() if key != "tools"} == {"temperature": 0.7, "top_p": 0.9}


def test_an_environment_that_answers_makes_several_turns() -> None:
    """
    The answer of `reply` goes to the model as the next user message, and stands in the turn it answers.
    """

    class Talks(Plain):
        async def reply(self, turn: Turn) -> str | None:
            return "go on" if turn.text == "one" else None

    model = ScriptedModel(says("one"), says("two"), says("never asked"))

    rollout = play(Talks, ROW, model)

    assert [turn.text for turn in rollout.trajectory.turns] == ["one", "two"]
    assert rollout.trajectory.turns[0].answer == message("go on", role="user")
    assert [item.get("role") for item in model.requests[1].input] == ["user", "assistant", "user"]


def test_a_verifier_asks_a_judge() -> None:
    """
    The models a plan names besides the policy are in `self.models`; asking them counts for nothing else.
    """

    class Judged(Plain):
        async def verify(self, trajectory: Trajectory) -> Reward:
            verdict = await self.models["judge"].ask(f"Is {trajectory.text!r} polite?")
            return Reward(value=1.0 if verdict == "yes" else 0.0)

    judge = ScriptedModel(says("yes"))

    rollout = play(Judged, ROW, ScriptedModel(says("Good day.")), judges={"judge": judge})

    assert rollout.reward == Reward(value=1.0)
    assert judge.requests[0].input == (message("Is 'Good day.' polite?", role="user"),)
    assert [turn.attempts for turn in rollout.trajectory.turns] == [1]


def test_a_judge_that_cannot_answer_makes_a_failure_of_the_model() -> None:
    """
    Without its verdict there is no reward, not a reward of 0.
    """

    class Judged(Plain):
        async def verify(self, trajectory: Trajectory) -> float:
            return float(await self.models["judge"].ask("Well?"))

    judge = ScriptedModel(ModelError("overloaded"))

    failure = play(Judged, ROW, ScriptedModel(says("hi")), judges={"judge": judge}).failure

    assert failure is not None
    assert (failure.stage, failure.retryable) == ("model", True)


def test_retries_of_the_policy_are_counted_by_turn() -> None:
    """
    A turn says how often the endpoint was asked for it.
    """

    class Retries(Model):
        async def respond(self, request: Any, rollout: Any) -> Response:
            rollout.attempts += 3 if len(request.input) == 1 else 1
            return Response(output=Reply((ToolCall("add", '{"a":1}'),)).to_output(1) if len(request.input) == 1 else [])

    rollout = play(Toolbox, ROW, Retries())

    assert [turn.attempts for turn in rollout.trajectory.turns] == [3, 1]


def test_a_task_starts_from_the_seed_of_its_id() -> None:
    """
    The seed comes from the plan's and the task's id, and is written down.
    """
    seeds: list[int] = []

    class Noted(Plain):
        async def open(self) -> None:
            seeds.append(self.seed)

    rollouts: list[Rollout] = [
        play(Noted, {**ROW, "task_id": name}, ScriptedModel(), seed=seed)
        for name, seed in [("a", 1), ("b", 1), ("a", 2)]
    ]

    assert seeds == [seed_of(1, "a"), seed_of(1, "b"), seed_of(2, "a")]
    assert len(set(seeds)) == 3
    assert [rollout.provenance["seed"] for rollout in rollouts] == seeds


def test_a_thread_that_hangs_keeps_its_place(composed: Callable[..., Composition]) -> None:
    """
    Tools that never come back cannot pile up threads: the next that needs one fails, and says why; a place that
    becomes free is used.
    """
    release = threading.Event()

    class Blocking(Plain):
        @tool(thread=True)
        def look(self, where: str) -> str:
            """Look somewhere."""
            if where == "far":
                release.wait(20)
            return "seen"

    composition = composed({"a": (Blocking, 1)}, ScriptedModel())

    async def playing() -> list[Rollout]:
        planned = Schedule(composition, frozenset()).take_now()
        assert planned is not None
        limits = TimeLimits(tool_s=0.05)
        hasty = InProcess(Blocking, planned.route.environment_options.config, None, limits, asyncio.Semaphore(1))
        patient = replace(hasty, limits=TimeLimits())
        found = []
        for where, place in (("far", hasty), ("near", hasty), ("near", patient)):
            stage = Stage(
                agents={planned.route.name: SimpleAgent()},
                models={"policy": ScriptedModel(calls("look", where=where), says("hi"))},
                placements={"a": place},
                limits={"a": limits},
                seed=0,
                provenance={},
            )
            found.append(await Session(stage, planned).play())
            if len(found) == 2:
                release.set()
                while hasty.threads.locked():
                    await asyncio.sleep(0.001)
        return found

    hung, crowded_out, fine = asyncio.run(playing())

    assert hung.failure is not None
    assert "the tool look took longer than 0.05 s" in hung.failure.message
    assert crowded_out.failure is not None
    assert (
        "no thread became free for the tool look within 0.05 s (collect.tool_timeout_s)" in crowded_out.failure.message
    )
    assert (crowded_out.failure.stage, crowded_out.failure.error) == ("tool", "TimeoutError")
    assert fine.reward is not None
