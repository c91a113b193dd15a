"""
All five stages in one call, from a script and from a notebook.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gymcore import compose, discover, hookimpl, open_composition, run_sync, write_composition
from gymcore.collection import Journal
from gymcore.errors import PlanError, RunFolderError, StorageError
from gymcore.hookspecs import Observers
from gymcore.plan import Plan
from gymcore.records import Rollout
from gymcore.workflow import collect_composition

BOTH: dict[str, Any] = {"environments": {"example_multi_step": {}, "example_single_tool_call": {}}}


def test_one_call_plays_a_plan(tmp_path: Path) -> None:
    """
    A plan as plain values becomes a run folder and a report.
    """
    result = run_sync(BOTH, tmp_path / "run")

    assert (result.total.planned, result.total.finished, result.total.failed) == (10, 10, 0)
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == json.loads(result.to_json())


def test_the_same_call_again_plays_nothing_more(tmp_path: Path) -> None:
    """
    What is finished is read and not played again.
    """
    first = run_sync(BOTH, tmp_path / "run")
    rollouts = (tmp_path / "run" / "rollouts.jsonl").read_bytes()

    assert run_sync(BOTH, tmp_path / "run") == first
    assert (tmp_path / "run" / "rollouts.jsonl").read_bytes() == rollouts


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    """
    Rollouts of two plans never share a folder; the difference is shown.
    """
    run_sync(BOTH, tmp_path / "run")

    with pytest.raises(RunFolderError) as caught:
        run_sync({**BOTH, "mix": {"seed": 1}}, tmp_path / "run")

    assert any("seed: 0 -> 1" in line for line in caught.value.differences)


def test_a_plan_may_be_a_file_or_a_plan(tmp_path: Path) -> None:
    """
    A path, a text, a mapping and a Plan mean the same.
    """
    plan = Plan.model_validate({"environments": {"example_multi_step": {"limit": 1}}})
    path = tmp_path / "plan.yaml"
    path.write_text(plan.to_yaml())

    totals = [
        run_sync(each, tmp_path / str(number)).total.finished
        for number, each in enumerate([plan, path, str(path), plan.to_dict()])
    ]

    assert totals == [1, 1, 1, 1]


def test_a_wrong_plan_is_explained(tmp_path: Path) -> None:
    """
    Plain values are checked like a file: every mistake at once, as a PlanError.
    """
    with pytest.raises(PlanError) as caught:
        run_sync({"enviroments": {}, "mix": {"seed": "x"}}, tmp_path / "run")

    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()


def test_it_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    """
    A notebook runs a loop already; the call takes a thread of its own, and errors come back as they are.
    """

    async def cell(plan: dict[str, Any]) -> int:
        return run_sync(plan, tmp_path / "run").total.finished

    assert asyncio.run(cell(BOTH)) == 10
    with pytest.raises(RunFolderError):
        asyncio.run(cell({**BOTH, "mix": {"seed": 1}}))


INTERRUPTED = """
import asyncio, os, pathlib, signal, sys, threading, time
import gymcore
out = pathlib.Path(sys.argv[2])
def interrupt():
    while not (out / "rollouts.jsonl").exists() or not (out / "rollouts.jsonl").stat().st_size:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)
async def cell():
    gymcore.run_sync(sys.argv[1], out)
def interrupt_before_it_begins(*event):
    sys.setprofile(None)
    if threading.current_thread().name == "gymcore-run":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(2)
thread = threading.Thread(target=interrupt, daemon=True)
if sys.argv[3] == "notebook, at once":
    thread = threading.Thread(target=threading.setprofile, args=(interrupt_before_it_begins,))
thread.start()
try:
    if sys.argv[3].startswith("notebook"):
        asyncio.new_event_loop().run_until_complete(cell())
    else:
        gymcore.run_sync(sys.argv[1], out)
except KeyboardInterrupt:
    thread.join()
    print("interrupted", threading.active_count() - 1)
"""


@pytest.mark.parametrize("where", ["notebook", "notebook, at once", "script"])
def test_an_interrupt_stops_the_run_and_not_only_the_waiting(tmp_path: Path, where: str) -> None:
    """
    After Ctrl-C nothing plays on behind the prompt; what was finished is safe, and the folder is free.
    """
    plan, out = tmp_path / "plan.yaml", tmp_path / "run"
    plan.write_text("environments: {example_multi_step: {split: train, repeats: 100}}")
    arguments = [sys.executable, "-c", INTERRUPTED, str(plan), str(out), where]

    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout == "interrupted 0\n", done.stderr
    with Journal(out) as journal:
        assert (0 if "at once" in where else 1) <= len(journal.finished) < 200_000
        assert journal.damaged == ()


def test_damage_in_the_folder_is_logged_before_anything_is_played(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A call that prints nothing still says what it found: as warnings of the logger `gymcore`, once.
    """
    run_sync(BOTH, tmp_path / "run")
    assert caplog.messages == []
    path = tmp_path / "run" / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-5])

    assert run_sync(BOTH, tmp_path / "run").total.finished == 10
    assert run_sync(BOTH, tmp_path / "run").total.finished == 10

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("gymcore", "WARNING")
    assert record.getMessage().startswith(
        "damaged, set aside in quarantine/, and owed again: rollouts.jsonl: a torn line at the end, "
    )


def test_repeats_beyond_the_plan_do_not_count_as_done(tmp_path: Path) -> None:
    """
    Fewer repeats than before and one more environment: what counts is what the plan asks for.
    """
    plan: dict[str, Any] = {"environments": {"example_multi_step": {}}, "collect": {"repeats": 3}}
    run_sync(plan, tmp_path)
    composition = compose(Plan.model_validate({**BOTH, "collect": {"repeats": 2}}), discover(), environ={})
    write_composition(composition, tmp_path)
    counts: list[dict[str, int]] = []

    def note(stream: object, journal: Journal) -> None:
        counts.append({name: tally.finished for name, tally in journal.finished.environments.items()})
        assert len(journal.finished) == 15

    result = asyncio.run(collect_composition(composition, tmp_path, on_start=note))

    assert counts == [{"example_multi_step": 10}]
    assert (result.total.planned, result.total.owed) == (20, 0)


def test_hooks_hear_of_a_run_in_order(tmp_path: Path) -> None:
    """
    Start, then rollouts that can be read back, then the report that is written: each as it becomes true.
    """
    events: list[str] = []
    composition = compose(Plan.model_validate(BOTH), discover(), environ={})
    write_composition(composition, tmp_path)

    @hookimpl
    def gym_run_start(folder: Path, planned: int) -> None:
        events.append(f"start {planned}")

    @hookimpl
    def gym_rollouts(folder: Path, rollouts: Sequence[Rollout]) -> None:
        lines = (folder / "rollouts.jsonl").read_bytes()
        assert all(rollout.to_line()[:-1] in lines for rollout in rollouts)
        events.extend("rollout" for _ in rollouts)

    @hookimpl
    def gym_run_finish(folder: Path, report: dict[str, Any]) -> None:
        assert json.loads((folder / "report.json").read_text()) == report
        events.append(f"finish {report['total']['finished']}")

    plugin = SimpleNamespace(gym_run_start=gym_run_start, gym_rollouts=gym_rollouts, gym_run_finish=gym_run_finish)
    complaints: list[str] = []
    observers = Observers({"dist/notes": plugin}, complaints.append)
    asyncio.run(collect_composition(composition, tmp_path, observers=observers))

    assert events == ["start 10", *["rollout"] * 10, "finish 10"]
    assert complaints == []

    events.clear()
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:7]))
    asyncio.run(collect_composition(composition, tmp_path, observers=observers))

    assert events == ["start 10", *["rollout"] * 3, "finish 10"]


@pytest.mark.parametrize("event", ["gym_run_start", "gym_run_finish"])
def test_a_hook_that_hangs_holds_up_neither_the_event_loop_nor_a_cancelled_run(tmp_path: Path, event: str) -> None:
    """
    Ctrl-C is heard while a hook takes its time, and the folder is free afterwards.
    """
    begun, is_over = threading.Event(), threading.Event()
    composition = compose(Plan.model_validate(BOTH), discover(), environ={})
    write_composition(composition, tmp_path)

    def hang(folder: Path) -> None:
        begun.set()
        is_over.wait(60)

    async def main() -> None:
        observers = Observers({"dist/hanging": SimpleNamespace(**{event: hookimpl(hang)})})
        task = asyncio.create_task(collect_composition(composition, tmp_path, observers=observers))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)

    try:
        asyncio.run(main())
    finally:
        is_over.set()
    with Journal(tmp_path) as journal:
        assert len(journal.finished) == (0 if event == "gym_run_start" else 10)


def test_a_report_that_cannot_be_written_hides_no_other_error(tmp_path: Path) -> None:
    """
    When the run is over well, it is the error; when the run failed already, that stays the news.
    """
    composition = compose(Plan.model_validate(BOTH), discover(), environ={})
    write_composition(composition, tmp_path)
    (tmp_path / "report.json").mkdir()

    def fail(*arguments: object) -> None:
        raise RuntimeError("the first error")

    with pytest.raises(RuntimeError, match="the first error"):
        asyncio.run(collect_composition(composition, tmp_path, on_start=fail))
    with pytest.raises(StorageError, match=r"report\.json"):
        asyncio.run(collect_composition(composition, tmp_path))


def test_nothing_stays_open(tmp_path: Path) -> None:
    """
    The files of a composition, made or opened, are closed with it, also when composing fails.
    """
    catalog = discover()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        plan = Plan.model_validate(BOTH)
        write_composition(compose(plan, catalog, environ={}), tmp_path)
        open_composition(tmp_path, catalog, environ={})
        gc.collect()
        bad = tmp_path / "bad.jsonl"
        bad.write_text("{}\n")
        with pytest.raises(Exception, match="1 row is wrong"):
            compose(Plan.model_validate({"data": [str(bad)]}), catalog, environ={})
        gc.collect()


def test_a_whole_run_warns_of_nothing(tmp_path: Path) -> None:
    """
    With every warning an error, in a process of its own: no unclosed file, no task nobody waited for.
    """
    code = "import sys, gc, gymcore; print(gymcore.run_sync(sys.argv[1], sys.argv[2]).total.finished); gc.collect()"
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps(BOTH))
    arguments = [sys.executable, "-W", "error", "-X", "dev", "-c", code, str(plan), str(tmp_path / "run")]

    done = subprocess.run(arguments, capture_output=True, text=True, check=False)

    # Python's developer mode also tells of steps that took long: how busy the machine is belongs to another test.
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.stdout, told) == ("10\n", [])
