"""
What a person sees while a run goes on: counts of what is safe, rates and lines, without a terminal.
"""

from __future__ import annotations

import pytest

from gymcore.cli.progress import Progress
from gymcore.documents import encode_json
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory
from gymcore.runtime import RolloutStream


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rollout(environment: str, *, reward: float | None) -> Rollout:
    """Return a rollout that has become safe."""
    row = {"responses_create_params": {"input": "hi"}, "environment": environment, "task_id": "t"}
    failure = Failure(stage="model", error="E", message="no", retryable=True) if reward is None else None
    return Rollout(
        row=Row(encode_json(row)),
        repeat=0,
        trajectory=Trajectory(),
        reward=None if reward is None else Reward(value=reward),
        failure=failure,
    )


@pytest.fixture
def clock() -> Clock:
    """A clock at a moment."""
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    """Progress of a run of 20 rollouts in two environments."""
    return Progress({"one": 15, "two": 5}, clock)


def test_a_line_is_printed_for_every_tenth(
    progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A run of any size leaves ten lines in a log, each with counts, mean reward, rate and what is left.
    """
    for number in range(20):
        clock.now += 1
        progress.durable([rollout("one" if number < 15 else "two", reward=number % 2)])

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "2 / 20 done, mean reward 0.500, 1.0 rollouts/s, ETA 18 s"
    assert lines[-1] == "20 / 20 done, mean reward 0.500, 1.0 rollouts/s"


def test_a_slow_run_shows_that_it_lives(progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """
    After half a minute a line comes even though no tenth is done.
    """
    progress.durable([rollout("one", reward=1.0)])
    assert capsys.readouterr().err == ""
    clock.now += 31
    progress.durable([])

    assert capsys.readouterr().err == "1 / 20 done, mean reward 1.000, 0.0 rollouts/s, ETA 9 min 49 s\n"


def test_failures_are_counted_apart(progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A failure is neither done nor part of the mean.
    """
    clock.now += 2
    progress.durable([rollout("one", reward=1.0), rollout("two", reward=None)])

    assert capsys.readouterr().err == "1 / 20 done, mean reward 1.000, 1 failed, 1.0 rollouts/s, ETA 18 s\n"


def test_what_was_finished_before_counts_as_done_and_not_in_the_rate(
    progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A resumed run goes on counting where it stopped; its speed is that of this attempt.
    """
    stream = RolloutStream.__new__(RolloutStream)
    finished = {("one", str(number), 0): 0.5 for number in range(10)} | {("gone", "x", 0): 1.0}
    progress.begin(stream, finished)
    clock.now += 1
    progress.durable([rollout("two", reward=0.5)] * 2)

    assert capsys.readouterr().err == "12 / 20 done, mean reward 0.500, 2.0 rollouts/s, ETA 4 s\n"


def test_talk_goes_to_stderr(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    """
    stdout is for data.
    """
    with progress.shown():
        progress.say("hello")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_an_empty_run_divides_by_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A plan whose rollouts are all finished has neither rate nor ETA.
    """
    Progress({"one": 0}, clock).durable([])
    clock.now += 60
    Progress({"one": 0}, clock).durable([])

    assert "inf" not in capsys.readouterr().err
