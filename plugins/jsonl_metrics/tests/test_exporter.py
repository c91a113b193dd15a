"""
The exporter of metrics: what it writes of real runs, of one that was killed, and of one that goes on.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gym_plugin_jsonl_metrics import exporter

from gymcore import compose, discover, write_composition
from gymcore.hookspecs import Observers
from gymcore.plan import Plan
from gymcore.workflow import collect_composition, run_async


def played(folder: Path, *complaints: str, **environments: dict[str, Any]) -> list[dict[str, Any]]:
    """Play a plan into a folder, or what is missing of it, and return the lines that are written."""
    composition = compose(Plan.model_validate({"environments": environments}), discover(), environ={})
    write_composition(composition, folder)
    said: list[str] = []
    observers = Observers({"gym-plugin-jsonl-metrics/jsonl_metrics": exporter}, said.append)
    run_async(collect_composition(composition, folder, observers=observers))
    assert len(said) == len(complaints)
    assert all(told in line for told, line in zip(complaints, said, strict=True))
    return lines_of(folder)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a folder's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_told_line_by_line(tmp_path: Path) -> None:
    """
    Its start, each environment of each batch, and the report that is written beside it.
    """
    before = time.time()

    first, *batches, last = played(tmp_path, example_multi_step={}, example_single_tool_call={"repeats": 3})

    assert {key: first[key] for key in ("event", "planned")} == {"event": "start", "planned": 20}
    assert (last["event"], last["report"]) == ("finish", json.loads((tmp_path / "report.json").read_text()))
    assert {line["event"] for line in batches} == {"rollouts"}
    for name, count in (("example_multi_step", 5), ("example_single_tool_call", 15)):
        own = [line for line in batches if line["environment"] == name]
        (told,) = [entry for entry in last["report"]["environments"] if entry["name"] == name]
        assert sum(line["rollouts"] for line in own) == count == told["finished"]
        assert all(line["reward"] == {"mean": 1.0, "min": 1.0, "max": 1.0} for line in own)
        assert sum(line["turns"] for line in own) == pytest.approx(told["turns"]["mean"] * count)
        assert max(line["duration_s"]["max"] for line in own) == pytest.approx(told["duration_s"]["max"], rel=0.02)
    times = [first["at"], *(line["at"] for line in batches), last["at"]]
    assert sorted(times) == times
    assert before - 1 < times[0] < time.time() + 1


@pytest.mark.parametrize("torn", [b"", b'{"at": 1, "event": "roll', b"x" * 200_000])
def test_a_run_that_goes_on_appends_and_removes_a_torn_line(tmp_path: Path, torn: bytes) -> None:
    """
    What was whole stays as it is, and only what is new is told of.
    """
    played(tmp_path, example_multi_step={})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)

    lines = played(tmp_path, example_multi_step={"repeats": 2})

    assert path.read_bytes().startswith(whole)
    new = lines[len(whole.splitlines()) :]
    assert [line["event"] for line in (new[0], new[-1])] == ["start", "finish"]
    assert sum(line["rollouts"] for line in new[1:-1]) == 5


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    """
    Whatever a killed process left, the first line is whole.
    """
    played(tmp_path, example_multi_step={})
    (tmp_path / "metrics.jsonl").write_bytes(b"{")

    assert [line["event"] for line in played(tmp_path, example_multi_step={})] == ["start", "finish"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """
    Nothing outside the folder is written to, one line says so, and the run goes on without metrics.
    """
    elsewhere = tmp_path / "elsewhere"
    played(tmp_path / "run", example_multi_step={})
    (tmp_path / "run" / "metrics.jsonl").rename(elsewhere)
    (tmp_path / "run" / "metrics.jsonl").symlink_to(elsewhere)
    before = elsewhere.read_bytes()

    told = "gym-plugin-jsonl-metrics/jsonl_metrics is switched off for this run: gym_run_start raised OSError: "
    played(tmp_path / "run", told, example_multi_step={"repeats": 2})

    assert json.loads((tmp_path / "run" / "report.json").read_text())["total"]["finished"] == 10
    assert elsewhere.read_bytes() == before


PLAY = """
import os
import signal
import sys
import threading
import time
from pathlib import Path
from gym_plugin_jsonl_metrics import exporter
from gymcore import compose, discover, write_composition
from gymcore.hookspecs import Observers
from gymcore.plan import Plan
from gymcore.workflow import collect_composition, run_async
folder, lines = Path(sys.argv[1]), int(sys.argv[2])

def kill_in_the_middle():
    path = folder / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\\n") < lines:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)

if lines:
    threading.Thread(target=kill_in_the_middle, daemon=True).start()
plan = {"environments": {"example_multi_step": {"split": "train", "limit": 400, "repeats": 5}}}
composition = compose(Plan.model_validate(plan), discover(), environ={})
write_composition(composition, folder)
run_async(collect_composition(composition, folder, observers=Observers({"dist/metrics": exporter})))
"""


def test_a_kill_leaves_whole_lines_and_the_run_goes_on(tmp_path: Path) -> None:
    """
    After SIGKILL in the middle of a run, and the same run again, every line is whole and no rollout is told twice.
    """
    killed = subprocess.run([sys.executable, "-c", PLAY, str(tmp_path), "3"], check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL

    subprocess.run([sys.executable, "-c", PLAY, str(tmp_path), "0"], check=True, timeout=100)

    lines = lines_of(tmp_path)
    assert [line["event"] for line in lines].count("start") == 2
    told = sum(line["rollouts"] for line in lines if line["event"] == "rollouts")
    # A batch that was safe on disk and not told yet is at most what may wait for the disk.
    assert 2000 - 256 - 64 <= told <= 2000
    assert lines[-1]["report"]["total"]["finished"] == 2000
