"""
What every agent should hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from unittest import SkipTest

from gymcore.errors import ModelError
from gymcore.interfaces import Agent, Config, Model, RolloutContext
from gymcore.records import Rollout
from gymcore.responses import Item, Request, Response, function_call, message, text_of
from gymcore.runtime.in_process import TimeLimits
from gymcore.testing.playing import opened_table
from gymcore.testing.replies import calls, says
from gymcore.testing.suites.attempts import Attempt
from gymcore.testing.suites.leftovers import Leftovers, find_leftovers
from gymcore.testing.suites.probe import unwritable
from gymcore.testing.suites.suite import PluginSuite, check
from gymcore.testing.suites.world import World, world_row

__all__ = ["AgentSuite"]

Script = Sequence[Sequence[Item] | Exception]
"""What a model replies, in order: the items of each reply."""
Answering = Callable[[int, RolloutContext, Request], Sequence[Item]]
"""What a model replies to the how-manieth request of a rollout."""


class _Model(Model):
    """Replies by a script, says nothing more after its end, and remembers what it was asked."""

    def __init__(self, script: Script | Answering, status: str) -> None:
        super().__init__(Config())
        self._script = script
        self._status = status
        self.requests: list[Request] = []

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        """Give the next reply."""
        self.requests.append(request)
        await asyncio.sleep(0)
        number = rollout.state[self] = rollout.state.get(self, -1) + 1
        if callable(self._script):
            output = self._script(number, rollout, request)
        else:
            reply: Sequence[Item] | Exception = self._script[number] if number < len(self._script) else ()
            if isinstance(reply, Exception):
                raise reply
            output = reply
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        return Response(list(output), id=f"resp_{number}", status=self._status, usage=usage, x_future={"kept": [1]})


class AgentSuite(PluginSuite):
    """
    What every agent should hold: `class TestMine(AgentSuite): plugin = "mine"`.
    """

    kind: ClassVar[Any] = "agent"

    calls_tools: ClassVar[bool] = True
    """Whether it carries out the tool calls that a model asks for."""
    plays_turns: ClassVar[bool] = True
    """Whether it goes on when the environment answers what the model said."""
    turn_limit: ClassVar[str | None] = "max_turns"
    """The option that bounds how often the model is asked; the check is skipped where there is none."""
    output_limit: ClassVar[str | None] = "max_output_chars"
    """The option that bounds how much the model may say, in characters or tokens."""
    max_replies: ClassVar[int] = 1000
    """How often a model that never stops may be asked with the default options."""
    timeout_s: ClassVar[float] = 20.0
    """How long one rollout may take."""
    concurrency: ClassVar[int] = 200
    """How many rollouts are played at once."""

    def agent(self, **options: Any) -> Agent[Any]:
        """Return the agent, with further options."""
        config = self.options()
        if options:
            config = type(config).model_validate({**config.model_dump(), **options})
        return self.loaded()(config)  # type: ignore[no-any-return]

    def _play(
        self,
        script: Script | Answering,
        *,
        status: str = "completed",
        count: int = 1,
        options: Mapping[str, Any] | None = None,
        world: type[World] = World,
    ) -> tuple[list[Rollout], list[Request]]:
        """Play rollouts at once in the small world; return them, and what the model was asked."""
        model = _Model(script, status)
        limits = TimeLimits(rollout_s=self.timeout_s, tool_s=self.timeout_s)
        agent = self.agent(**(options or {}))

        async def play() -> list[Rollout]:
            async with opened_table(world, model, agent=agent, limits=limits) as table:
                return list(await asyncio.gather(*(table.play(world_row(number)) for number in range(count))))

        return asyncio.run(play()), model.requests

    def _conversation(self) -> tuple[Rollout, list[Request], list[list[Item]]]:
        """Return a rollout with calls of every sort, what the model was asked in it, and what it had replied."""

        def converse() -> tuple[Rollout, list[Request], list[list[Item]]]:
            odd = {"x_token_ids": [1, 2, 3], "x_nested": {"a": [None, "\u2603"]}}
            thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "opaque", **odd}
            spoken = {**message("Let me see. \u2603 \U0001f9ea"), **odd}
            text = '{"text": "\u2603 \\u0000 \\" </x>", "number": 12345678901234567890}'
            first = [thought, spoken, {**function_call("repeat", text, "call_a"), **odd}]
            second = [function_call("look_up", "{}", "call_b"), function_call("repeat", '{"text": "b"}', "call_c")]
            last = [message("It is word-00000.")]
            replies: list[list[Item]] = [first, second, last]
            rollouts, requests = self._play(replies)
            return rollouts[0], requests, replies

        return self.once("conversation", converse)

    def _calling(self) -> None:
        if not self.calls_tools:
            raise SkipTest("it carries out no tool calls (calls_tools)")

    @check(
        fix="End on a reply that calls no tool and that `environment.reply()` does not answer; return what was said."
    )
    def test_plays_a_task_to_its_end(self) -> None:
        """
        It asks the model, and returns a trajectory that ends with what the model said.

        That is what an agent is for.
        """
        rollouts, requests = self._play([[message("word-00000")]])
        _assert_scored(rollouts[0])
        told = f"the model was asked {len(requests)} times after it had answered"
        assert len(requests) == 1, told
        assert rollouts[0].trajectory.text == "word-00000", f"the trajectory ends with {rollouts[0].trajectory.text!r}"

    @check(fix="Add what `environment.call()` returned to the next request, and go on until the model calls no tool.")
    def test_carries_out_tool_calls(self) -> None:
        """
        It carries out the tools that the model calls, gives it the results, and so solves the task.

        An environment's tools are offered in the request; a model that calls one waits for its result.
        """
        self._calling()

        def solve(number: int, rollout: RolloutContext, _: Request) -> list[Item]:
            if number == 0:
                return [function_call("look_up", "{}", "call_1")]
            return [message(rollout.environment.task.word)]

        rollouts, requests = self._play(solve)
        _assert_scored(rollouts[0])
        results = [item for item in requests[-1].input if item.get("type") == "function_call_output"]
        seen = [item.get("output") for item in results]
        assert seen == ["word-00000"], f"after the call of look_up the model is told {seen}, and not ['word-00000']"
        assert rollouts[0].reward is not None
        assert rollouts[0].reward.value == 1.0, f"the solved task earns {rollouts[0].reward.value:g}"

    @check(fix="Pass items on as they are: `Turn(output=tuple(response.output))` and `request.continued(turn.items)`.")
    def test_loses_nothing_of_what_was_said(self) -> None:
        """
        Items of the model, with every field that nobody knows, stand untouched in the trajectory and the next request.

        Trainers need the token ids, and endpoints their encrypted thoughts, exactly as they came.
        """
        self._calling()
        rollout, requests, replies = self._conversation()
        _assert_scored(rollout)
        said = [item for turn in rollout.trajectory.turns for item in turn.output]
        wanted = [item for reply in replies for item in reply]
        assert said == wanted, f"the trajectory holds {said!r:.300} where the model replied {wanted!r:.300}"
        asked = [item for item in requests[-1].input if item in wanted]
        sent = [item for reply in replies[:-1] for item in reply]
        assert asked == sent, f"the last request holds {asked!r:.300} of what the model replied, {sent!r:.300}"
        first = requests[0]
        assert first.input[0] == world_row()["responses_create_params"]["input"][0], (
            "the prompt is not what the row says"
        )
        params = [request.params == first.params for request in requests]
        assert all(params), "the parameters of a later request differ from those of the first"

    @check(fix="Answer each call with a `function_call_output` of its own `call_id`, in the order of the calls.")
    def test_results_keep_their_calls(self) -> None:
        """
        Each tool call of a reply gets one result, with its `call_id`, in the order of the calls.

        An endpoint refuses a conversation in which a call has no result, and a model confuses what is swapped.
        """
        self._calling()
        rollout, _, _ = self._conversation()
        _assert_scored(rollout)
        results = [item for turn in rollout.trajectory.turns for item in turn.results]
        found = [(item.get("call_id"), item.get("output")) for item in results]
        wanted = [("call_a", None), ("call_b", "word-00000"), ("call_c", '{"text":"b","number":0}')]
        ids = [call_id for call_id, _ in found]
        assert ids == [call_id for call_id, _ in wanted], f"the results are of the calls {ids}, and not of {wanted}"
        assert found[1:] == wanted[1:], f"the results are {found[1:]}, and not {wanted[1:]}"

    @check(fix="Give every call to `environment.call()`, whatever it is called and whatever its arguments are.")
    def test_leaves_mistakes_to_the_environment(self) -> None:
        """
        A call of a tool that does not exist, or with arguments that are no JSON, gets an answer, and play goes on.

        The environment says what was wrong in words for the model, which learns from it.
        """
        self._calling()
        wrong = [function_call("no_such_tool", "{}", "c1"), function_call("repeat", "{not json", "c2")]
        rollouts, requests = self._play([wrong, [function_call("", "", "")], [message("word-00000")]])
        _assert_scored(rollouts[0])
        assert len(requests) == 3, f"the model was asked {len(requests)} times, and not 3, after mistakes in its calls"
        outputs = [str(item.get("output")) for turn in rollouts[0].trajectory.turns for item in turn.results]
        told = len(outputs) == 3 and all("error" in output for output in outputs)
        assert told, f"the mistakes in its calls were answered with {outputs}"

    @check(fix="Ask `environment.reply(turn)` after a reply without tool calls, and put the answer into `Turn.answer`.")
    def test_goes_on_when_the_environment_answers(self) -> None:
        """
        When the environment answers what the model said, the model is asked again, with the answer as a user message.

        Simulated users and games of several turns are made of this.
        """
        if not self.plays_turns:
            raise SkipTest("it plays no further turns (plays_turns)")
        rollouts, requests = self._play([[message("May I?")], [message("word-00000")]])
        _assert_scored(rollouts[0])
        assert len(requests) == 2, f"the model was asked {len(requests)} times, and not twice"
        answer = requests[1].input[-1]
        said = (answer.get("role"), text_of(answer))
        assert said == ("user", "Yes, go on."), f"the model is told {said}, and not ('user', 'Yes, go on.')"

    @check(fix="Stop on a reply that says nothing or that the endpoint cut off, and return the trajectory as it is.")
    def test_ends_on_empty_and_truncated_replies(self) -> None:
        """
        A model that says nothing, or whose reply is cut off, ends the rollout, which is scored.

        Both happen in every run, and they are attempts like any other.
        """
        rollouts, requests = self._play([[]])
        _assert_scored(rollouts[0])
        assert len(requests) <= 3, f"a model that says nothing was asked {len(requests)} times"
        rollouts, requests = self._play([[message("It is w")]] * 50, status="incomplete")
        _assert_scored(rollouts[0])
        assert len(requests) <= 3, f"a model whose replies are cut off was asked {len(requests)} times"

    @check(fix="Bound the loop, in turns and in time, by options with defaults.")
    def test_ends_by_itself(self) -> None:
        """
        A model that calls tools for ever is asked at most `max_replies` times with the default options.

        Some model will, and pays for every reply until the rollout is cut off without a reward.
        """
        rollouts, requests = self._play(lambda number, *_: [function_call("look_up", "{}", f"call_{number}")])
        asked = len(requests)
        assert asked <= self.max_replies, (
            f"a model that never stops was asked {asked} times; at most {self.max_replies}"
        )
        _assert_scored(rollouts[0])

    @check(fix="Count the replies, and stop when there are as many as the option says.")
    def test_keeps_its_limit_on_turns(self) -> None:
        """
        The model is asked as often as the option `turn_limit` says, and no more.

        A limit that is not kept costs money, and one that stops early costs rewards.
        """
        option = self._option(self.turn_limit, "turn_limit")
        _, requests = self._play(
            lambda number, *_: [function_call("look_up", "{}", f"call_{number}")], options={option: 3}
        )
        wanted = 3 if self.calls_tools else 1
        assert len(requests) == wanted, f"with {option}: 3 the model was asked {len(requests)} times, and not {wanted}"

    @check(fix="Let `environment.max_turns` be the limit where the option is not set and the environment has one.")
    def test_hears_the_limit_of_an_environment(self) -> None:
        """
        An environment that says how often the model may reply is heard, unless the option `turn_limit` says otherwise.

        Who made the task knows how many replies it needs, and who writes the plan may know better.
        """
        option = self._option(self.turn_limit, "turn_limit")

        class Short(World):
            max_turns = 2

        for options, limit in (({}, 2), ({option: 3}, 3), ({option: 1}, 1)):
            _, requests = self._play(
                lambda number, *_: [function_call("look_up", "{}", f"call_{number}")], options=options, world=Short
            )
            wanted, told = limit if self.calls_tools else 1, f"with {options} " if options else ""
            assert len(requests) == wanted, (
                f"{told}the model was asked {len(requests)} times, and not {wanted}, where the environment allows 2"
            )

    @check(fix="Sum up what the model said, and stop when that is more than the option says.")
    def test_keeps_its_limit_on_output(self) -> None:
        """
        A model that says more than the option `output_limit` allows is not asked much longer.

        Long episodes fill the memory of a run, and the context of the model.
        """
        option = self._option(self.output_limit, "output_limit")

        def talk(number: int, *_: Any) -> list[Item]:
            return [message("word " * 20), function_call("look_up", "{}", f"call_{number}")]

        _, requests = self._play(talk, options={option: 150})
        assert len(requests) <= 10, f"with {option}: 150 the model said 100 characters {len(requests)} times"

    def _option(self, name: str | None, switch: str) -> str:
        if name is None or name not in self.loaded().config_model.model_fields:
            raise SkipTest(f"it has no such option ({switch} = {name!r})")
        return name

    @check(fix="Let `ModelError` and what a tool raises pass; do not turn them into a trajectory.")
    def test_errors_become_failures(self) -> None:
        """
        When the model cannot be asked, or a tool breaks, the rollout is a failure that names the stage, and no reward.

        A failure is played again; an attempt that was not made must not be scored as a bad one.
        """
        rollouts, _ = self._play([ModelError("the model is asleep")])
        _assert_failed(rollouts[0], "model", "a model that cannot be asked")
        if self.calls_tools:
            rollouts, _ = self._play([[function_call("look_up", "{}", "c1")], ModelError("the model is asleep")])
            _assert_failed(rollouts[0], "model", "a model that cannot be asked again")
            rollouts, _ = self._play([[function_call("break_down", "{}", "c1")], [message("word-00000")]])
            _assert_failed(rollouts[0], "tool", "a tool that breaks")

    @check(fix="Keep the state of a rollout in local variables of `play()`; the instance serves all rollouts at once.")
    def test_rollouts_share_no_state(self) -> None:
        """
        Two hundred rollouts at once each ask about their own task, call their own tools, and see their own results.

        One instance plays all rollouts of a run.
        """

        asked: dict[str, list[Request]] = {}

        def solve(number: int, rollout: RolloutContext, request: Request) -> list[Item]:
            word = rollout.environment.task.word
            asked.setdefault(word, []).append(request)
            if not self.calls_tools:
                return [message(word)]
            if number == 0:
                return [function_call("look_up", "{}", "call_0")]
            if number <= int(word[-1]) % 4:
                return [function_call("repeat", f'{{"text": "{word}"}}', f"call_{number}")]
            return [message(word)]

        rollouts, _ = self._play(solve, count=self.concurrency)
        among = f"among {self.concurrency} at once, the rollout of"
        for number in range(len(rollouts)):
            row = world_row(number)
            word, prompt = row["word"], row["responses_create_params"]["input"][0]["content"]
            for request in asked.get(word, ()):
                first = text_of(request.input[0]) if request.input else ""
                assert first == prompt, f"{among} {word} asks the model {first!r:.200}, and not {prompt!r}"
                foreign = [item for item in request.input[1:] if word not in str(item) and "look_up" not in str(item)]
                assert not foreign, f"{among} {word} tells the model {foreign[0]!r:.200}"
        for number, rollout in enumerate(rollouts):
            _assert_scored(rollout)
            word = world_row(number)["word"]
            items = [item for item in rollout.trajectory.items if item.get("name") != "look_up"]
            foreign = [item for item in items if word not in str(item) and "error" not in str(item)]
            assert not foreign, f"{among} {word} holds {foreign[0]!r:.200}"
            assert rollout.trajectory.turns, f"{among} {word} is empty"

    @check(fix="Use `async with asyncio.TaskGroup()` for what runs side by side, and let cancellations pass.")
    def test_nothing_is_left_open(self) -> None:
        """
        After success, errors, time-outs and cancellations no task, thread or file of the agent is left.

        Rollouts are cancelled all the time, and what stays behind of each fills the process.
        """
        found = self._leftovers()
        assert not found.left, "\n".join(found.left[:3])

    def _leftovers(self) -> Leftovers:
        row: Mapping[str, Any] = world_row()
        script = (
            (calls("look_up") + calls("repeat", text="a"), says("word-00000")) if self.calls_tools else (says("a"),)
        )
        attempts = {
            "success": Attempt("success", "world", row, script),
            "a model's error": Attempt("a model's error", "world", row, (script[0], ModelError("asleep"))),
        }
        agent = self.agent()
        return self.once("leftovers", lambda: find_leftovers(World, attempts, Config(), {}, agent))

    @check(fix="Build the trajectory of plain JSON values: dictionaries, lists, texts, finite numbers.")
    def test_rollout_survives_json(self) -> None:
        """
        A rollout that is written to `rollouts.jsonl` and read back is the same.

        What cannot be written stops a run, and what reads back as something else is trained on.
        """
        rollouts = [self._conversation()[0], *self._play([[message("word-00000")]])[0]]
        for rollout in rollouts:
            why = unwritable(rollout)
            assert why is None, str(why)


def _assert_scored(rollout: Rollout) -> None:
    failure = rollout.failure
    if failure is not None:
        place = f" ({failure.location})" if failure.location else ""
        raise AssertionError(f"the rollout fails in {failure.stage} with {failure.error}: {failure.message}{place}")


def _assert_failed(rollout: Rollout, stage: str, what: str) -> None:
    if rollout.failure is None:
        raise AssertionError(f"{what} gives no failure, but the reward {rollout.reward and rollout.reward.value}")
    found = rollout.failure.stage
    assert found == stage, f"{what} is a failure of the stage {found!r}, and not {stage!r}: {rollout.failure.message}"
