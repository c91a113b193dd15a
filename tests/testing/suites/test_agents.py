"""
Each check of the agents' suite can fail: agents with one fault each, and agents that can do less.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gymcore import Agent, BoundModel, Config, OpenEnvironment, Trajectory, Turn, option
from gymcore.builtin.simple_agent import SimpleAgent, SimpleAgentConfig
from gymcore.responses import message
from gymcore.testing import AgentSuite, PluginFolder
from gymcore.testing.suites import checks_of, run_checks
from gymcore.testing.suites.imports import Imported


class Loop(Agent[SimpleAgentConfig]):
    """
    A correct loop, written anew so that each part of it can be spoilt.
    """

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Ask, call, repeat."""
        turns: list[Turn] = []
        request = environment.request
        size = 0
        most_turns = self.config.max_turns or environment.max_turns or 64
        while len(turns) < most_turns and size < self.config.max_output_chars:
            response = await model.respond(request)
            turn = Turn(output=tuple(response.output), status=response.status)
            results = tuple([await environment.call(call) for call in turn.calls]) if not response.is_truncated else ()
            turn = replace(turn, results=results)
            if not turn.calls and not response.is_truncated and turn.text:
                answer = await environment.reply(turn)
                turn = replace(turn, answer=None if answer is None else message(answer, role="user"))
            turns.append(turn)
            size += sum(len(str(item)) for item in turn.items)
            if response.is_truncated or not (turn.calls or turn.answer):
                break
            request = request.continued(turn.items)
        return Trajectory(turns=tuple(turns))


class Endless(Loop):
    """Has limits, and looks at none of them."""

    def __init__(self, config: SimpleAgentConfig | None = None) -> None:
        super().__init__(SimpleAgentConfig(max_turns=100_000, max_output_chars=10**9))


class OneMore(Loop):
    """Asks once more than it may."""

    def __init__(self, config: SimpleAgentConfig | None = None) -> None:
        given = config or SimpleAgentConfig()
        super().__init__(given.model_copy(update={"max_turns": given.max_turns and given.max_turns + 1}))


class Headstrong(Loop):
    """Knows better than the environment how often to ask."""

    def __init__(self, config: SimpleAgentConfig | None = None) -> None:
        given = config or SimpleAgentConfig()
        super().__init__(given.model_copy(update={"max_turns": given.max_turns or 64}))


class Talkative(Loop):
    """Counts no characters."""

    def __init__(self, config: SimpleAgentConfig | None = None) -> None:
        super().__init__((config or SimpleAgentConfig()).model_copy(update={"max_output_chars": 10**9}))


def _spoilt(turn: Turn, **changes: Any) -> Turn:
    return replace(turn, **{key: value(getattr(turn, key)) for key, value in changes.items()})


class _After(Loop):
    """Plays well, and then does something to the turns."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play, and spoil."""
        trajectory = await super().play(environment, model)
        return replace(trajectory, turns=tuple(map(self.spoil, trajectory.turns)))

    def spoil(self, turn: Turn) -> Turn:
        """Do nothing."""
        return turn


class Forgetful(_After):
    """Keeps only the fields that it knows."""

    def spoil(self, turn: Turn) -> Turn:
        """Drop what begins with x_."""
        keep = [{key: item[key] for key in item if not key.startswith("x_")} for item in turn.output]
        return replace(turn, output=tuple(keep))


class Swapping(_After):
    """Turns the results of a reply round."""

    def spoil(self, turn: Turn) -> Turn:
        """Turn them round."""
        return replace(turn, results=turn.results[::-1])


class Speaking(_After):
    """Says something that is not JSON."""

    def spoil(self, turn: Turn) -> Turn:
        """Say it."""
        return replace(turn, usage={"tokens": {1, 2}} if turn.text.startswith("It is") else None)


class Deaf(Loop):
    """Does not listen to the environment."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play, without answers."""

        class Silent:
            request, task, call = environment.request, environment.task, environment.call
            max_turns = environment.max_turns

            async def reply(self, turn: Turn) -> str | None:
                return None

        return await super().play(Silent(), model)  # type: ignore[arg-type]


class Strict(Loop):
    """Ends when a model makes a mistake."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play until the first mistake."""
        environment_call = environment.call

        class Choosy:
            request, task, reply = environment.request, environment.task, environment.reply
            max_turns = environment.max_turns

            async def call(self, call: Any) -> Any:
                if call.name not in ("look_up", "repeat", "break_down"):
                    raise ValueError(f"no such tool: {call.name}")
                return await environment_call(call)

        return await super().play(Choosy(), model)  # type: ignore[arg-type]


class Swallowing(Loop):
    """Takes a model that cannot be asked for one that said nothing."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play, whatever happens."""
        try:
            return await super().play(environment, model)
        except asyncio.CancelledError:
            raise
        except BaseException:
            return Trajectory()


class Sharing(Loop):
    """Keeps its turns where all rollouts find them."""

    turns: tuple[Turn, ...] = ()

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play, and give back what was played last by anybody."""
        self.turns = (await super().play(environment, model)).turns
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return Trajectory(turns=self.turns)


class Mixing(Loop):
    """Keeps the request on the instance while it waits."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Ask with whatever request was made last by anybody."""
        keeper, respond = self, model.respond

        class Kept:
            async def respond(self, request: Any) -> Any:
                keeper.request = request
                await asyncio.sleep(0)
                return await respond(keeper.request)

        return await super().play(environment, Kept())  # type: ignore[arg-type]


class Straying(Loop):
    """Keeps the environment on the instance, and sends calls to it."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Call the tools of whichever environment came last."""
        self.environment = environment
        keeper = self

        class Last:
            request, task, reply = environment.request, environment.task, environment.reply
            max_turns = environment.max_turns

            async def call(self, call: Any) -> Any:
                return await keeper.environment.call(call)

        return await super().play(Last(), model)  # type: ignore[arg-type]


class Persistent(Loop):
    """Asks again where nothing was said."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play again and again."""
        for _ in range(5):
            trajectory = await super().play(environment, model)
            if trajectory.text and trajectory.turns[-1].status != "incomplete":
                break
        return trajectory


class Leaving(Loop):
    """Leaves something running."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Start it, and play."""
        self.started = asyncio.create_task(asyncio.sleep(3600))
        return await super().play(environment, model)


class Polite(Loop):
    """Says a last word of its own."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Play, and thank."""
        trajectory = await super().play(environment, model)
        if len(trajectory.turns) == 1 and trajectory.text:
            return replace(trajectory, turns=(*trajectory.turns, Turn(output=(message("Thank you."),))))
        return trajectory


class AskingConfig(Config):
    """No options to speak of."""

    loud: bool = option(False, description="Whether it is loud.")


class Asking(Agent[AskingConfig]):
    """Asks once, and carries nothing out."""

    async def play(self, environment: OpenEnvironment, model: BoundModel) -> Trajectory:
        """Ask."""
        return Trajectory(turns=(Turn(output=tuple((await model.respond(environment.request)).output)),))


def suite_for(agent: type[Agent[Any]], **switches: Any) -> type[AgentSuite]:
    def loaded(self: AgentSuite) -> type[Agent[Any]]:
        return agent

    def imported(self: AgentSuite) -> Imported:
        return Imported()

    body = {"plugin": "simple_agent", "loaded": loaded, "imported": imported, "concurrency": 40, "timeout_s": 1.0}
    return type("TestIt", (AgentSuite,), {**body, **switches})


def failed(suite: type[AgentSuite]) -> dict[str, str]:
    return {outcome.check: outcome.message for outcome in run_checks(suite) if outcome.status == "failed"}


CAUGHT: dict[type[Agent[Any]], set[str]] = {
    SimpleAgent: set(),
    Loop: set(),
    Endless: {
        "test_ends_by_itself",
        "test_keeps_its_limit_on_turns",
        "test_hears_the_limit_of_an_environment",
        "test_keeps_its_limit_on_output",
    },
    OneMore: {"test_keeps_its_limit_on_turns", "test_hears_the_limit_of_an_environment"},
    Headstrong: {"test_hears_the_limit_of_an_environment"},
    Talkative: {"test_keeps_its_limit_on_output"},
    Forgetful: {"test_loses_nothing_of_what_was_said"},
    Swapping: {"test_results_keep_their_calls"},
    Speaking: {"test_rollout_survives_json"},
    Deaf: {"test_goes_on_when_the_environment_answers"},
    Strict: {"test_leaves_mistakes_to_the_environment"},
    Swallowing: {"test_errors_become_failures"},
    Sharing: {"test_rollouts_share_no_state"},
    Mixing: {"test_rollouts_share_no_state"},
    Straying: {"test_rollouts_share_no_state"},
    Persistent: {
        "test_ends_on_empty_and_truncated_replies",
        "test_keeps_its_limit_on_turns",
        "test_hears_the_limit_of_an_environment",
    },
    Leaving: {"test_nothing_is_left_open"},
    Polite: {"test_plays_a_task_to_its_end"},
}


@pytest.mark.parametrize(
    "agent",
    [pytest.param(agent, marks=[pytest.mark.rig] if number % 4 else []) for number, agent in enumerate(CAUGHT)],
    ids=lambda agent: agent.__name__,
)  # all of them with the rigs
def test_each_fault_of_an_agent_is_caught_by_the_check_for_it(agent: type[Agent[Any]]) -> None:
    """
    Every other check passes.
    """
    found = failed(suite_for(agent))

    assert set(found) == CAUGHT[agent], found


def test_an_agent_that_can_do_less_says_so_with_switches() -> None:
    """
    One that asks once passes when it says that it calls no tools and plays no turns, and is caught when it does not.
    """
    modest = suite_for(Asking, calls_tools=False, plays_turns=False)

    assert failed(modest) == {}
    assert {"test_carries_out_tool_calls", "test_goes_on_when_the_environment_answers"} <= set(
        failed(suite_for(Asking))
    )


def test_every_check_of_agents_can_fail() -> None:
    """
    For each check that only agents have there is a fault above that it finds.
    """
    caught = set().union(*CAUGHT.values()) | {"test_carries_out_tool_calls"}

    own = {check.name for check in checks_of(AgentSuite)} - {check.name for check in checks_of(AgentSuite.__base__)}
    assert own == caught


def test_agents_of_a_distribution_are_found_by_name(plugins: PluginFolder) -> None:
    """
    The whole suite, import included, for an agent that is really installed.
    """

    class TestVoice(AgentSuite):
        plugin = "voice"
        calls_tools = False
        plays_turns = False

    assert failed(TestVoice) == {
        "test_options_have_a_schema": "VoiceConfig: without a description: pitch",
    }
