"""
`report()`: what a run folder holds, counted once and said in numbers that JSON knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gymcore.collection import Collection, Journal
from gymcore.composition.locking.lock import LOCK_FORMAT, encode_lock
from gymcore.documents import encode_json
from gymcore.errors import GymcoreError, RunFolderError, StorageError
from gymcore.plan import Plan
from gymcore.records import Failure, Reward, Rollout, Row, Trajectory, Turn
from gymcore.reporting import Report, report
from gymcore.reporting.summary import RunningReport, write_report
from gymcore.responses import message
from gymcore.run_folder import REPORT_NAME


def rollout(
    task: str,
    repeat: int = 0,
    *,
    environment: str = "world",
    reward: float = 1.0,
    tokens: int | None = None,
    **more: Any,
) -> Rollout:
    """Return a finished rollout."""
    value = {"responses_create_params": {"input": "hi"}, "environment": environment, "task_id": task}
    turns = [Turn(output=(message("hi"),), attempts=more.get("attempts", 1))] * more.get("turns", 1)
    if tokens is not None:
        turns = [Turn(output=(message("hi"),), usage={"total_tokens": tokens})]
    return Rollout(
        row=Row(encode_json(value)),
        repeat=repeat,
        trajectory=Trajectory(turns=tuple(turns), stop=more.get("stop", "finished")),
        reward=Reward(value=reward, metrics=more.get("metrics", {})),
        duration_s=more.get("duration_s", 1.0),
    )


def failed(task: str, text: str = "no", *, environment: str = "world", stage: Any = "model") -> Rollout:
    """Return a failed rollout."""
    value = {"responses_create_params": {"input": "hi"}, "environment": environment, "task_id": task}
    failure = Failure(stage=stage, error="E", message=text, retryable=True)
    return Rollout(row=Row(encode_json(value)), repeat=0, trajectory=Trajectory(), failure=failure)


def written(folder: Path, rollouts: Sequence[Rollout]) -> Report:
    """
    Write rollouts into a folder and report on it: as they came, and read once more, which is the same.

    They are written by two journals, so half of them are counted when the second one finds them.
    """
    half = len(rollouts) // 2
    for some in (rollouts[:half], rollouts[half:]):
        running = RunningReport(folder)
        with Journal(folder, show=running.take) as journal:
            for each in some:
                journal.append([each], running.add)
    assert running.result() == report(folder)
    return running.result()


def strict(text: str) -> Any:
    """Read JSON as others do: NaN and Infinity are none."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """
    The message names the folder and what makes a run.
    """
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunFolderError, match="there is no run in this folder") as caught:
            report(folder)
        assert "gym run" in str(caught.value)


def test_a_run_that_finished_nothing_has_no_numbers(tmp_path: Path) -> None:
    """
    A folder whose run has just begun can be reported on.
    """
    result = written(tmp_path, [])

    assert result.environments == ()
    assert (result.total.finished, result.total.failed, result.total.reward) == (0, 0, None)
    assert strict(result.to_json())["total"]["duration_s"] is None


def test_each_environment_has_its_numbers_and_all_have_theirs(tmp_path: Path) -> None:
    """
    Means, turns, tokens, durations, retries, stops and metrics are those of the finished rollouts.
    """
    result = written(
        tmp_path,
        [
            rollout("a", environment="one", reward=1.0, tokens=10, metrics={"calls": 2, "ok": True, "why": "x"}),
            rollout("b", environment="one", reward=0.0, tokens=30, metrics={"calls": 4, "ok": False}, duration_s=3.0),
            rollout("a", environment="two", reward=0.5, turns=3, attempts=2, stop="max_turns"),
        ],
    )

    one, two = result.environments
    assert (one.name, one.finished, one.failed, one.retried) == ("one", 2, 0, 0)
    assert one.reward is not None
    assert one.reward["mean"] == 0.5
    assert one.tokens == {"mean": 20.0, "total": 40}
    assert one.duration_s == {"p50": 2.0, "p95": pytest.approx(2.9), "max": 3.0}
    assert one.metrics == {"calls": 3.0, "ok": 0.5}
    assert (two.turns, two.tokens, two.retried, two.stops) == ({"mean": 3.0, "max": 3}, None, 1, {"max_turns": 1})
    assert (result.total.name, result.total.finished) == ("total", 3)
    assert result.total.stops == {"finished": 2, "max_turns": 1}
    assert result.total.metrics == {}
    assert "one: 2 finished, 0 failed, mean reward 0.500" in str(result)


def test_pass_at_k_is_shown_where_every_task_was_repeated(tmp_path: Path) -> None:
    """
    k grows by powers of two up to what every task has; without repeats there is none.
    """
    rollouts = [
        rollout(task, repeat, reward=float(repeat < successes))
        for task, successes in (("a", 1), ("b", 5))
        for repeat in range(5)
    ]

    result = written(tmp_path, rollouts)

    assert list(result.total.pass_at) == ["1", "2", "4", "5"]
    assert result.total.pass_at["1"] == pytest.approx((0.2 + 1.0) / 2)
    assert result.total.pass_at["5"] == 1.0
    assert written(tmp_path / "once", [rollout("a"), rollout("b")]).total.pass_at == {}


def test_open_failures_are_grouped_and_finished_ones_forgotten(tmp_path: Path) -> None:
    """
    A rollout that failed and was finished later is no failure; one that failed twice is one, with its last reason.
    """
    result = written(
        tmp_path,
        [
            failed("a", "overloaded"),
            failed("b", "overloaded"),
            failed("c", "first"),
            failed("c", "a long\nstory", stage="verify"),
            rollout("b"),
            failed("d", "overloaded", environment="other"),
        ],
    )

    assert result.failures == {"model: overloaded": 2, "verify: a long": 1}
    assert list(result.failures) == ["model: overloaded", "verify: a long"]
    assert [(entry.name, entry.finished, entry.failed) for entry in result.environments] == [
        ("world", 1, 2),
        ("other", 0, 1),
    ]
    assert result.total.failed == 3


def test_damaged_and_doubled_lines_do_not_count(tmp_path: Path) -> None:
    """
    The report says how many lines are not whole, and counts every rollout once.
    """
    written(tmp_path, [rollout("a"), rollout("b", reward=0.0), failed("c")])
    path = tmp_path / "rollouts.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + first.replace(b'"task_id":"a"', b'"task_id":"z"') + first + b"\n" + second + second[:50])

    result = report(tmp_path)

    assert (result.total.finished, result.damaged_lines) == (2, 2)
    assert result.total.reward is not None
    assert result.total.reward["mean"] == 0.5


@pytest.mark.parametrize(
    "rollouts",
    [
        [rollout("a", reward=0.25)],
        [rollout("a", reward=0.25), rollout("a", 1, reward=0.5)],
        [rollout("a", reward=1e308), rollout("b", reward=1e308)],
        [rollout("a", reward=-1e200), rollout("b", reward=1e200)],
        [rollout("a", metrics={"huge": 1e308}), rollout("b", metrics={"huge": 1e308})],
        [rollout("a"), failed("b", "half a \ud83d letter".encode("utf-8", "replace").decode())],
    ],
)
def test_the_report_is_json_that_everybody_reads(tmp_path: Path, rollouts: list[Rollout]) -> None:
    """
    Numbers that are not finite are null or absent: never NaN, never Infinity.
    """
    result = written(tmp_path, rollouts)
    write_report(result)

    value = strict((tmp_path / REPORT_NAME).read_text())

    assert value == strict(result.to_json())
    assert value["total"]["reward"]["mean"] is not None
    assert all(math.isfinite(mean) for entry in result.environments for mean in entry.metrics.values())
    assert str(result)


def test_a_single_task_has_a_mean_without_bounds(tmp_path: Path) -> None:
    """
    Bounds nobody knows are null, and the words leave them out.
    """
    result = written(tmp_path, [rollout("a", reward=0.25)])

    assert result.total.reward == {"mean": 0.25, "low": None, "high": None}
    assert str(result).endswith("mean reward 0.250")


def test_a_collection_is_as_good_as_its_folder(tmp_path: Path) -> None:
    """
    The last stage takes what the one before it gives.
    """
    written(tmp_path, [rollout("a")])

    assert report(Collection(tmp_path)) == report(str(tmp_path)) == report(tmp_path)


def test_files_that_cannot_be_read_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """
    The file is named, and nothing pretends that the folder is empty.
    """
    (tmp_path / "rollouts.jsonl").mkdir()

    with pytest.raises(StorageError, match=r"rollouts\.jsonl"):
        report(tmp_path)


def test_a_report_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """
    What stands in the way is named; the report before it stays as it was.
    """
    result = written(tmp_path, [rollout("a")])
    (tmp_path / REPORT_NAME).mkdir()

    with pytest.raises(StorageError, match=REPORT_NAME) as caught:
        write_report(result)

    assert isinstance(caught.value, GymcoreError)
    assert caught.value.exit_code == 5


def test_the_plan_says_how_many_rollouts_there_are_to_be(tmp_path: Path) -> None:
    """
    Planned counts come from the lock's tasks and the plan's repeats, the environment's own before the general one.
    """
    plan = Plan.model_validate(
        {"environments": {"one": {"repeats": 3}, "two": {}}, "collect": {"repeats": 2}},
    )
    lock = {"format": LOCK_FORMAT, "environments": {"one": {"tasks": 5}, "two": {"tasks": 7}}}
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    (tmp_path / "gym.lock").write_bytes(encode_lock(lock))

    result = written(tmp_path, [rollout("a", environment="two")])

    assert [(entry.name, entry.planned, entry.finished) for entry in result.environments] == [
        ("one", 15, 0),
        ("two", 14, 1),
    ]
    assert result.total.planned == 29


def test_repeats_beyond_the_planned_ones_do_not_make_it_look_complete(tmp_path: Path) -> None:
    """
    Five rollouts of one task are none of the other four.
    """
    plan = Plan.model_validate({"environments": {"one": {}}})
    lock = {"format": LOCK_FORMAT, "environments": {"one": {"tasks": 5}}}
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    (tmp_path / "gym.lock").write_bytes(encode_lock(lock))

    result = written(tmp_path, [rollout("a", repeat=repeat, environment="one") for repeat in range(5)])

    assert (result.total.planned, result.total.finished, result.total.owed) == (5, 5, 4)
    assert str(result).startswith("one: 5 (5 planned, 4 owed) finished")
