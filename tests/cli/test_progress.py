"""
What a person sees while a run goes on: counts of what is safe, rates and lines, without a terminal.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gymcore.cli.progress import Progress
from gymcore.collection.finished import EnvironmentTally
from gymcore.documents import encode_json
from gymcore.interfaces import Note
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory
from gymcore.runtime import Status
from gymcore.runtime.budget import OverBudget


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run that stands where the test says."""

    def __init__(self) -> None:
        self.now = Status({"one": 0, "two": 0}, is_stopping=False)

    def status(self) -> Status:
        """Return where it stands."""
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
    finished = {"one": EnvironmentTally(10, 5.0), "gone": EnvironmentTally(1, 1.0)}
    progress.begin(Run(), finished)
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


# -- time that passes --------------------------------------------------------------------------------------------------


def test_a_line_comes_every_half_minute_though_nothing_ends(
    progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Whoever reads a log sees that the run is alive.
    """
    progress.begin(Run(), {})
    for _ in range(65):
        clock.now += 1
        progress.tick()

    assert capsys.readouterr().err.splitlines() == ["0 / 20 done"] * 2


def test_a_stall_is_named_with_its_reason(progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """
    After a minute without a rollout that ended, a line says for how long, what is in flight, and what is known.
    """
    run = Run()
    progress.begin(run, {})
    progress.durable([rollout("one", reward=1.0)])
    run.now = Status({"one": 3, "two": 1}, False, notes=("policy: the endpoint is down since 14:02",))
    for _ in range(90):
        clock.now += 1
        progress.tick()

    assert capsys.readouterr().err.splitlines() == [
        "policy: the endpoint is down since 14:02",
        "1 / 20 done, mean reward 1.000, 0.0 rollouts/s, ETA 9 min 30 s",
        "1 / 20 done, mean reward 1.000, 0.0 rollouts/s, ETA 19 min 00 s",
        "no rollout has ended for 1 min 00 s; in flight: 3 of one, 1 of two; policy: the endpoint is down since 14:02",
        "1 / 20 done, mean reward 1.000, 0.0 rollouts/s, ETA 28 min 30 s",
        "no rollout has ended for 1 min 30 s; in flight: 3 of one, 1 of two; policy: the endpoint is down since 14:02",
    ]


def test_a_note_is_said_when_it_comes_and_when_it_goes(
    progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Once each, the latter after ten seconds; also who holds the loop up, and nothing that could steer a terminal.
    """
    run = Run()
    progress.begin(run, {})
    run.now = Status({}, False, notes=("the \x1b[2Jendpoint is down",))
    progress.tick()
    progress.tick("held up by x")
    progress.tick("held up by x")
    clock.now += 3
    run.now = Status({}, False)
    progress.tick()
    clock.now += 7
    progress.tick()
    progress.tick()

    assert capsys.readouterr().err.splitlines() == [
        "the \ufffd[2Jendpoint is down",
        "held up by x",
        "no longer: the \ufffd[2Jendpoint is down",
        "no longer: held up by x",
    ]


def test_details_of_a_note_are_repeated_rarely(
    progress: Progress, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A countdown is no news: in two minutes of an outage there are four lines on it, and then one that it is over.
    """
    run = Run()
    progress.begin(run, {})
    for second in range(240):
        left = f"policy: down since 14:02, {second} calls wait, next try in {120 - second} s"
        run.now = Status({}, False, notes=(Note(left, key="policy: down since 14:02"),) if second < 120 else ())
        if second % 5:  # also where it is not seen now and then
            run.now = Status({}, False)
        clock.now += 1 / 2
        progress.tick()
        clock.now += 1 / 2
        progress.tick()

    told = [line for line in capsys.readouterr().err.splitlines() if "policy" in line]
    assert [line.partition(",")[0] for line in told] == [
        *["policy: down since 14:02"] * 4,
        "no longer: policy: down since 14:02",
    ]


class Gone(io.StringIO):
    """A terminal that is not there any more."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_progress_needs_nobody_to_read_it(progress: Progress, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is said into the void, and who reports what is safe never learns of it.
    """
    monkeypatch.setattr("sys.stderr", Gone())
    with progress.shown():
        clock.now += 60
        progress.durable([rollout("one", reward=1.0)])
        progress.tick("held up by x")
        progress.say("hello")

    assert progress._lines["one"].done == 1


def test_an_environment_over_its_budget_is_said_once(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    """
    With the count and the most frequent reason.
    """
    run = Run()
    progress.begin(run, {})
    run.now = Status({}, False, stopped=(OverBudget("two", 2, 5, "20%", "verify: boom\n", 2),))
    progress.durable([rollout("two", reward=None)] * 2)
    progress.tick()

    assert capsys.readouterr().err.splitlines()[0] == (
        "two is stopped, the others go on: 2 of its 5 rollouts failed, max_failures is 20%; 2 x verify: boom\ufffd"
    )
    assert "stopped" not in capsys.readouterr().err


def test_the_block_shows_who_is_stopped_and_what_is_known(progress: Progress, clock: Clock) -> None:
    """
    On a terminal, notes and a stall stand below the total, and a stopped environment is marked.
    """
    run = Run()
    progress.begin(run, {})
    over = OverBudget("two", 2, 5, 1, "verify: boom", 2)
    run.now = Status({"one": 3, "two": 1}, False, notes=("policy: the endpoint is down",), stopped=(over,))
    progress.tick()
    clock.now += 61
    out = io.StringIO()

    Console(file=out, width=200).print(progress._block())

    one, two, total, note, stall = out.getvalue().splitlines()
    assert "stopped" not in one
    assert two.rstrip().endswith("stopped, 1 in flight")
    assert total.startswith("total  0 / 20 done")
    assert note.strip() == "policy: the endpoint is down"
    assert stall.startswith("no rollout has ended for 1 min 01 s; in flight: 3 of one, 1 of two; policy: the endpoint")
