"""
Which rollout comes next: every one once, within all limits, no slot idle, and the smallest share first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gymcore import Environment, Model
from gymcore.composition import Composition
from gymcore.records import Failure, Reward, Rollout, RolloutKey, Trajectory
from gymcore.runtime.budget import FailureBudgets
from gymcore.runtime.schedule import Planned, Schedule
from gymcore.runtime.stream import RolloutStream
from gymcore.testing.simulated_time import run_in_simulated_time

Composed = Callable[..., Composition]


class World(Environment):
    """An environment that nobody opens here."""


class Nobody(Model):
    """A model that nobody asks here."""


@dataclass(frozen=True)
class Case:
    """A plan, what of it is finished, and where chance begins."""

    tasks: dict[str, int]
    repeats: dict[str, int]
    limits: dict[str, int | None]
    models: dict[str, str]
    model_limits: dict[str, int | None]
    concurrency: int
    finished_share: float
    deadly_share: float
    seed: int

    def compose(self, composed: Composed) -> Composition:
        """Return it as a composition."""
        entries = {
            name: {"repeats": self.repeats[name], "concurrency": self.limits[name], "model": self.models[name]}
            for name in self.tasks
        }
        models = {name: {"concurrency": limit} for name, limit in self.model_limits.items()}
        return composed(
            {name: (World, count) for name, count in self.tasks.items()},
            Nobody,
            environments=entries,
            models=models,
            collect={"concurrency": self.concurrency},
        )

    def everything(self) -> list[RolloutKey]:
        """Return everything that is planned, environment by environment, in order."""
        return [
            (name, f"{name}/{number}", repeat)
            for name, count in self.tasks.items()
            for number in range(count)
            for repeat in range(self.repeats[name])
        ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = list("abcd")[: draw(st.integers(1, 4))]
    some = st.none() | st.integers(1, 4)
    return Case(
        tasks={name: draw(st.integers(1, 12)) for name in names},
        repeats={name: draw(st.integers(1, 4)) for name in names},
        limits={name: draw(some) for name in names},
        models={name: draw(st.sampled_from(["policy", "other"])) for name in names},
        model_limits={"policy": draw(some), "other": draw(some)},
        concurrency=draw(st.integers(1, 12)),
        finished_share=draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        deadly_share=draw(st.sampled_from([0.0, 0.0, 0.2, 1.0])),
        seed=draw(st.integers(0, 1000)),
    )


@dataclass
class Held:
    """An executor whose rollouts end when the test says so."""

    ends: dict[RolloutKey, asyncio.Future[Rollout]] = field(default_factory=dict)
    started: list[Planned] = field(default_factory=list)

    async def play(self, planned: Planned) -> Rollout:
        """Wait for the test."""
        assert planned.key not in self.ends, "it is in flight already"
        self.started.append(planned)
        end = self.ends[planned.key] = asyncio.get_running_loop().create_future()
        try:
            return await end
        finally:
            del self.ends[planned.key]

    def end(self, key: RolloutKey, failure: Failure | None = None) -> None:
        """Let one rollout end."""
        planned = next(item for item in reversed(self.started) if item.key == key)
        reward = Reward(value=1.0) if failure is None else None
        self.ends[key].set_result(Rollout(planned.row, planned.repeat, Trajectory(), reward, failure))

    def withdraw(self) -> None:
        """Nothing waits for what is gone."""

    def cancel(self) -> None:
        """Stop everything."""
        for end in self.ends.values():
            end.cancel()

    def notes(self) -> tuple[str, ...]:
        """Say nothing."""
        return ()


def streamed(composition: Composition, finished: Any = frozenset()) -> tuple[RolloutStream, Held]:
    """Return a stream over an executor that the test holds."""
    held = Held()
    budgets = FailureBudgets(composition, composition.planned())
    return RolloutStream(held, Schedule(composition, finished, look_ahead=3), budgets, 1000), held


DEATH = Failure(stage="worker", error="WorkerDied", message="signal 11", retryable=True)


class Law:
    """What must hold whenever everybody waits for a rollout to end; computed from the case alone."""

    def __init__(self, case: Case, owed: set[RolloutKey]) -> None:
        self.case = case
        self.fresh = Counter(key[0] for key in owed)
        self.suspects: Counter[str] = Counter()

    def check(self, held: Held) -> None:
        """Compare what is in flight with every limit, and with what could be."""
        in_flight = Counter(key[0] for key in held.ends)
        played = Counter(self.case.models[key[0]] for key in held.ends)
        assert in_flight.total() <= self.case.concurrency
        for name, limit in self.case.limits.items():
            assert limit is None or in_flight[name] <= limit
        for name, limit in self.case.model_limits.items():
            assert limit is None or played[name] <= limit
        if in_flight.total() == self.case.concurrency:
            return
        for name in self.case.tasks:
            limit, model = self.case.limits[name], self.case.models[name]
            model_limit = self.case.model_limits[model]
            if model_limit is not None and played[model] == model_limit:
                continue
            if self.suspects[name]:
                assert in_flight[name] > 0, f"a suspect of {name} could be played"
            elif self.fresh[name] and not self.is_apart(held, name):
                assert limit is not None, f"{name} could play"
                assert in_flight[name] == limit, f"{name} could play"

    def is_apart(self, held: Held, name: str) -> bool:
        """Whether suspects of an environment are in flight; then nothing else of it is, and beside some nobody."""
        starts = Counter(item.key for item in held.started)
        last = {item.key: item for item in held.started}
        playing = [key for key in held.ends if key[0] == name]
        suspects = [key for key in playing if starts[key] > 1]
        assert not suspects or suspects == playing
        assert len(playing) == 1 or not any(last[key].is_alone for key in playing)
        return bool(suspects)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_every_rollout_once_within_all_limits_and_no_slot_idle(composed: Composed, case: Case) -> None:
    """
    Whatever ends in whichever order, also by the death of a worker.
    """
    chance = random.Random(case.seed)
    finished = {key for key in case.everything() if chance.random() < case.finished_share}
    deadly = {key for key in case.everything() if chance.random() < case.deadly_share}
    owed = set(case.everything()) - finished
    composition = case.compose(composed)

    async def play() -> tuple[list[Rollout], list[Planned]]:
        rollouts, held = streamed(composition, finished)
        law = Law(case, owed)
        found: list[Rollout] = []

        async def read() -> None:
            async for rollout in rollouts:
                found.append(rollout)

        reading = asyncio.create_task(read())
        seen = 0
        while True:
            for _ in range(12 + len(finished)):  # time to pass over what is finished
                await asyncio.sleep(0)
            starts = Counter(item.key for item in held.started[:seen])
            for planned in held.started[seen:]:
                (law.suspects if starts[planned.key] else law.fresh)[planned.key[0]] -= 1
                starts[planned.key] += 1
            seen = len(held.started)
            law.check(held)
            if reading.done():
                break
            key = chance.choice(list(held.ends))
            if key in deadly:
                law.suspects[key[0]] += not next(item for item in reversed(held.started) if item.key == key).is_alone
                held.end(key, DEATH)
            else:
                held.end(key)
        await reading
        return found, held.started

    found, started = asyncio.run(asyncio.wait_for(play(), 60))

    assert Counter(rollout.key for rollout in found) == dict.fromkeys(owed, 1)
    assert {rollout.key for rollout in found if rollout.failure is not None} == owed & deadly
    assert all(rollout.failure.error == "Poison" for rollout in found if rollout.failure is not None)
    for name in case.tasks:
        first = dict.fromkeys(item.key for item in started if item.key[0] == name)
        assert list(first) == [key for key in case.everything() if key in owed and key[0] == name], "groups end early"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_a_slot_goes_to_the_smallest_share_that_has_room(composed: Composed, case: Case) -> None:
    """
    At every take, no environment with fewer rollouts in flight could have played; between equals the dataset decides.
    """
    chance = random.Random(case.seed)
    schedule = Schedule(case.compose(composed), frozenset())
    left = Counter(key[0] for key in case.everything())
    in_flight: list[Planned] = []
    while left.total() or in_flight:
        share = Counter(item.key[0] for item in in_flight)
        played = Counter(case.models[item.key[0]] for item in in_flight)
        if in_flight and chance.random() < 0.4:
            schedule.give_back(in_flight.pop(chance.randrange(len(in_flight))))
            continue
        taken = schedule.take_now()
        able = [
            name
            for name in case.tasks
            if left[name]
            and len(in_flight) < case.concurrency
            and share[name] < (case.limits[name] or 99)
            and played[case.models[name]] < (case.model_limits[case.models[name]] or 99)
        ]
        assert (taken is None) == (not able)
        if taken is None:
            schedule.give_back(in_flight.pop(chance.randrange(len(in_flight))))
            continue
        assert share[taken.key[0]] == min(share[name] for name in able)
        left[taken.key[0]] -= 1
        in_flight.append(taken)
        assert schedule.in_flight() == {**dict.fromkeys(case.tasks, 0), **Counter(item.key[0] for item in in_flight)}


# -- the share ---------------------------------------------------------------------------------------------------------


def test_one_slow_environment_does_not_hold_up_the_others(composed: Composed) -> None:
    """
    With one environment 60 times slower than three others, the three end within 1.25 times the time that a quarter of
    the slots each would take them, and the whole run is no longer than the slow one needs.
    """
    slots, count = 16, 48
    durations = {"slow": 60.0, "x": 1.0, "y": 1.0, "z": 1.0}
    composition = composed(dict.fromkeys(durations, (World, count)), Nobody, collect={"concurrency": slots})
    schedule = Schedule(composition, frozenset())
    now, ends, last = 0.0, list[tuple[float, int, Planned]](), dict[str, float]()
    while True:
        while (planned := schedule.take_now()) is not None:
            ends.append((now + durations[planned.key[0]], len(last) + len(ends), planned))
        if not ends:
            break
        ends.sort(key=lambda item: item[:2])
        now, _, planned = ends.pop(0)
        last[planned.key[0]] = now
        schedule.give_back(planned)

    fair = count * 1.0 / (slots / len(durations))
    assert {name: last[name] <= 1.25 * fair for name in "xyz"} == {"x": True, "y": True, "z": True}
    # What the slow one could do at best: its quarter until the others are over, all slots from then on.
    best = fair + 60 * (count - slots / 4 * (fair // 60)) / slots
    assert last["slow"] <= 1.1 * (best + 60)


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_a_long_resume_lets_others_have_their_turn(composed: Composed) -> None:
    """
    While finished rollouts are passed over, the event loop is never held for long, and nothing finished is parsed.

    In time of the processor, for what else the machine does is held against nobody.
    """
    count = 20_000
    composition = composed({"a": (World, 200)}, Nobody, collect={"repeats": count // 200})
    schedule = Schedule(composition, {("a", f"a/{n}", r) for n in range(200) for r in range(count // 200)})

    async def play() -> tuple[int, float]:
        turns, longest = 0, 0.0
        taking = asyncio.create_task(schedule.take())
        while not taking.done():
            started = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - started)
            turns += 1
        assert taking.result() is None
        return turns, longest

    turns, longest = asyncio.run(play())

    assert turns >= count / 1000
    assert longest < 0.2


def test_an_environment_that_is_read_through_holds_nobody_up(composed: Composed) -> None:
    """
    While one environment passes over thousands of finished rollouts, another plays.
    """
    composition = composed(
        {"a": (World, 2000), "b": (World, 5)}, Nobody, environments={"a": {"repeats": 5}}, collect={"concurrency": 2}
    )
    schedule = Schedule(composition, {("a", f"a/{n}", r) for n in range(2000) for r in range(5)} - {("a", "a/1999", 4)})

    async def play() -> list[RolloutKey]:
        found = []
        planned = await schedule.take()
        while planned is not None:
            found.append(planned.key)
            schedule.give_back(planned)
            planned = await schedule.take()
        return found

    assert asyncio.run(play()) == [*(("b", f"b/{n}", 0) for n in range(5)), ("a", "a/1999", 4)]


# -- poison ------------------------------------------------------------------------------------------------------------


def test_a_rollout_that_kills_its_worker_twice_is_poison(composed: Composed) -> None:
    """
    The innocent ones that died with it are played again one at a time, alone, and end well.
    """
    composition = composed({"a": (World, 4), "b": (World, 30)}, Nobody, collect={"concurrency": 8})

    async def play() -> dict[RolloutKey, Rollout]:
        rollouts, held = streamed(composition)
        found: dict[RolloutKey, Rollout] = {}

        async def read() -> None:
            async for rollout in rollouts:
                assert rollout.key not in found
                found[rollout.key] = rollout

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.01)  # simulated: it is over when all wait
        assert Counter(key[0] for key in held.ends) == {"a": 4, "b": 4}
        for key in [key for key in held.ends if key[0] == "a"]:
            held.end(key, DEATH)
        while not reading.done():
            await asyncio.sleep(0)
            playing = [key for key in held.ends if key[0] == "a"]
            assert len(playing) <= 1
            for key in playing:
                held.end(key, DEATH if key == ("a", "a/2", 0) else None)
            if not playing and held.ends:
                held.end(next(iter(held.ends)))
            await asyncio.sleep(0)
        await reading
        return found

    found = run_in_simulated_time(play())

    assert len(found) == 34
    (poisoned,) = [rollout for rollout in found.values() if rollout.failure is not None]
    assert poisoned.key == ("a", "a/2", 0)
    assert poisoned.reward is None
    assert poisoned.failure == Failure(
        stage="worker",
        error="Poison",
        message="its worker died 2 times while it was played, the last time alone: signal 11",
        retryable=False,
    )


def test_a_suspect_is_owed_when_the_run_is_stopped(composed: Composed) -> None:
    """
    A rollout whose second attempt never comes is no failure: the next run plays it.
    """
    composition = composed({"a": (World, 1)}, Nobody)

    async def play() -> list[Rollout]:
        rollouts, held = streamed(composition)
        reading = asyncio.ensure_future(anext(rollouts, None))
        await asyncio.sleep(0.01)  # simulated: it is over when all wait
        rollouts.stop(10)
        held.end(("a", "a/0", 0), DEATH)
        assert await reading is None
        return [rollout async for rollout in rollouts]

    assert run_in_simulated_time(play()) == []


def test_many_that_died_together_are_played_in_groups_until_the_one_is_found(composed: Composed) -> None:
    """
    Of a hundred rollouts one kills its worker: ten groups of ten, then ten alone, and not a hundred one by one.
    """
    composition = composed({"a": (World, 120)}, Nobody, collect={"concurrency": 100})
    killer = ("a", "a/57", 0)

    async def play() -> tuple[list[Rollout], list[int]]:
        rollouts, held = streamed(composition)
        found: list[Rollout] = []
        rounds: list[int] = []

        async def read() -> None:
            async for rollout in rollouts:
                found.append(rollout)

        reading = asyncio.create_task(read())
        while not reading.done():
            for _ in range(12):
                await asyncio.sleep(0)
            together = list(held.ends)
            rounds.append(len(together))
            for key in together:
                held.end(key, DEATH if killer in together else None)
        return found, rounds

    found, rounds = asyncio.run(asyncio.wait_for(play(), 20))

    assert len(found) == 120
    assert [rollout.key for rollout in found if rollout.failure is not None] == [killer]
    assert rounds[0] == 100
    assert max(rounds[1:-1]) <= 20
    assert len([size for size in rounds if size]) <= 1 + 10 + 10 + 1


def test_a_suspect_that_is_put_back_plays_alone_all_the_same(composed: Composed) -> None:
    """
    Its worker task was cancelled before it began: it is neither played beside others nor blamed for their deaths.
    """
    schedule = Schedule(composed({"a": (World, 9)}, Nobody, collect={"concurrency": 4}), frozenset())
    died = [planned for planned in (schedule.take_now() for _ in range(4)) if planned is not None]
    for planned in died:
        schedule.suspect(planned, deaths=1)
        schedule.give_back(planned)
    first = schedule.take_now()
    assert first is not None
    schedule.put_back(first)
    schedule.give_back(first)

    alone = []
    for _ in range(4):
        planned = schedule.take_now()
        assert planned is not None
        assert schedule.take_now() is None
        assert planned.is_alone
        alone.append(planned.key)
        schedule.give_back(planned)

    assert sorted(alone) == sorted(planned.key for planned in died)
    together = [schedule.take_now() for _ in range(4)]
    assert [planned is not None and not planned.is_alone for planned in together] == [True] * 4
