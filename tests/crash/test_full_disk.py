"""
A disk that is full from any byte on: what was acknowledged is kept, no two lines are glued, and the run goes on later.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gymcore.doctor.crashes import fill_disk

EVERY = 1_000_000


@pytest.mark.parametrize("places", [60, pytest.param(EVERY, marks=pytest.mark.rig)], ids=["some", "every byte"])
def test_no_room_from_any_byte_of_a_line_on_costs_nothing(tmp_path: Path, chance: random.Random, places: int) -> None:
    """
    What was begun is cut off, so that the next line starts on its own.
    """
    check = fill_disk(tmp_path / "full", places, chance)

    print(check.found)
    assert check.is_well, check.remarks


@pytest.mark.parametrize("times", [2, pytest.param(25, marks=pytest.mark.rig)])
def test_gym_run_on_a_full_disk_ends_with_5_and_goes_on_later(
    tmp_path: Path, chance: random.Random, times: int
) -> None:
    """
    Again and again a little more room, and in the end all of it: every line is whole, and no rollout is there twice.
    """
    command = [sys.executable, "-m", "gymcore", "run", "--env", "example_single_tool_call", "--split", "train"]
    limit = ["--limit", "100", "--out", "run"]
    path = tmp_path / "run" / "rollouts.jsonl"
    subprocess.run([*command[:3], "compose", *command[4:], *limit], cwd=tmp_path, check=True, capture_output=True)
    least = (tmp_path / "run" / "dataset.jsonl").stat().st_size
    kept = b""
    for _ in range(times):
        room = max(least, len(kept)) + chance.randrange(1, 9000)

        done = subprocess.run(
            [*command, *limit],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),  # type: ignore[misc]
        )

        data = path.read_bytes()
        assert data.startswith(kept)
        assert not data or data.endswith(b"\n"), "what was begun was not cut off"
        kept = data
        if done.returncode == 0:
            break
        assert done.returncode == 5, done.stderr
        assert "what is finished is safe; go on with: gym run run" in done.stderr

    done = subprocess.run([*command, *limit], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(kept)
    assert len({json.loads(line)["task_id"] for line in path.read_bytes().splitlines()}) == 100
    assert path.read_bytes().count(b"\n") == 100
    assert not (tmp_path / "run" / "quarantine").exists()
