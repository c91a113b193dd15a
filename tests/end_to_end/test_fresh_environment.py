"""
Wheels in a fresh virtual environment: what is not in the wheel is not there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECTS = (
    ROOT,
    *(
        ROOT / "plugins" / name
        for name in ("example_single_tool_call", "example_multi_step", "openai_model", "nemo_gym", "jsonl_metrics")
    ),
)


def call(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_built_wheels_work_in_a_fresh_environment(tmp_path: Path) -> None:
    """
    The core and the plugins, built as wheels and installed elsewhere, are found and play the main job.
    """
    for project in PROJECTS:
        call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "wheels", folder=project)
    call(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv/bin/python"
    wheels = sorted((tmp_path / "wheels").glob("*.whl"))
    call(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels, folder=tmp_path)
    # Third-party packages come from the environment that runs this test, so that it needs no network.
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path).strip()
    (Path(site) / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")

    listed = json.loads(call(tmp_path / "venv/bin/gym", "list", "--json", folder=tmp_path))
    call(
        tmp_path / "venv/bin/gymcore",
        *("run", "--env", "example_single_tool_call", "--env", "example_multi_step", "--split", "validation"),
        *("--limit", "20", "--hook", "jsonl_metrics", "--out", "out"),
        folder=tmp_path,
    )
    where = call(python, "-c", "import gymcore; print(gymcore.__file__)", folder=tmp_path)

    environments = ("example_multi_step", "example_single_tool_call", "nemo_gym", "remote")
    others = ("jsonl_metrics", "mlflow", "nop", "openai_model", "oracle", "simple_agent")
    assert {entry["name"]: entry["status"] for entry in listed} == dict.fromkeys((*environments, *others), "ok")
    assert where.startswith(str(tmp_path)), "the checkout was used instead of the wheel"
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "out/rollouts.jsonl").read_text().splitlines()]
    assert rewards == [1.0] * 40
    assert json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])["event"] == "finish"
