"""
The hook plugin `mlflow` with the real library, in processes of its own: what it leaves in a store of files.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gymcore.errors import RequestError
from gymcore.hookspecs import Observers
from gymcore.integrations.mlflow import MlflowExporter

MLFLOW_PYTHON = "GYMCORE_MLFLOW_PYTHON"

SHOW = """
import json, sys
import mlflow
client = mlflow.MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("gymcore")
def shown(run):
    names = run.data.metrics
    return {
        "status": run.info.status,
        "name": run.info.run_name,
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": {
            key: [[metric.step, metric.value] for metric in client.get_metric_history(run.info.run_id, key)]
            for key in names
        },
        "artifacts": {
            file.path: open(client.download_artifacts(run.info.run_id, file.path)).read()
            for file in client.list_artifacts(run.info.run_id)
        },
    }
print(json.dumps([shown(run) for run in client.search_runs([experiment.experiment_id])]))
"""


@pytest.fixture(scope="module")
def python() -> str:
    """
    A Python that has MLflow and gymcore.
    """
    if given := os.environ.get(MLFLOW_PYTHON):
        return given
    if find_spec("mlflow") is None:
        pytest.skip(f"mlflow is not installed, and {MLFLOW_PYTHON} names no Python that has it; try `make test-mlflow`")
    return sys.executable


def _call(python: str, folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environ = {"MLFLOW_DISABLE_TELEMETRY": "true", "no_proxy": "127.0.0.1", "MLFLOW_ALLOW_FILE_STORE": "", **environ}
    if python != sys.executable:
        inherited.pop("PYTHONPATH", None)
    return subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**inherited, **{name: value for name, value in environ.items() if value}},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _play(python: str, folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    gym = ("-m", "gymcore", "run", "--env", "example_single_tool_call", "--env", "example_multi_step")
    return _call(python, folder, *gym, "--hook", "mlflow", "--out", "runs/mix", *arguments, **environ)


def _shown(python: str, folder: Path) -> list[dict[str, Any]]:
    done = _call(python, folder, "-c", SHOW, (folder / "mlruns").as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)
    return runs


def test_a_run_folder_is_one_run_of_mlflow_however_often_it_goes_on(python: str, tmp_path: Path) -> None:
    """
    Plan and lock as parameters, metrics over the rollouts of each environment, and the report, as numbers and a file.
    """
    first = _play(python, tmp_path)
    assert (first.returncode, "switched off" in first.stderr) == (0, False), first.stderr
    (one,) = _shown(python, tmp_path)
    again = _play(python, tmp_path, "--repeats", "3")
    assert (again.returncode, "switched off" in again.stderr) == (0, False), again.stderr
    (run,) = _shown(python, tmp_path)

    folder = tmp_path / "runs" / "mix"
    locks = {json.loads(line)["provenance"]["lock"] for line in (folder / "rollouts.jsonl").read_text().splitlines()}
    assert {one["params"]["lock"], run["tags"]["gymcore.lock"]} <= locks
    assert (run["status"], run["name"], run["tags"]["gymcore.planned"]) == ("FINISHED", "mix", "30")
    assert run["params"] == one["params"]
    assert run["params"]["plan.models.policy.use"] == "oracle"
    assert run["params"]["plan.environments.example_multi_step.split"] == "example"
    assert {name: text for name, text in run["artifacts"].items() if name != "gym.lock"} == {
        name: (folder / name).read_text() for name in ("report.json", "plan.yaml")
    }
    assert json.loads(run["artifacts"]["gym.lock"]) == json.loads((folder / "gym.lock").read_text())
    for name in ("example_single_tool_call", "example_multi_step"):
        counts = run["metrics"][f"{name}/rollouts"]
        assert all(step == value for step, value in counts)
        assert [value for _, value in counts] == sorted({value for _, value in counts})
        assert max(counts) == [15, 15]
        assert 5 in [value for _, value in counts]
        assert run["metrics"][f"{name}/reward_mean"][-1] == [15, 1.0]
        assert run["metrics"][f"report/{name}/reward/mean"] == [[5, 1.0], [15, 1.0]]
    assert run["metrics"]["report/total/owed"] == [[10, 0], [30, 0]]
    assert run["metrics"]["report/example_multi_step/metrics/accuracy"][-1] == [15, 1.0]


def test_a_server_that_is_away_costs_no_rollout(python: str, tmp_path: Path) -> None:
    """
    It is given up within seconds, one line says so, and nothing is written in its place.
    """
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = _play(python, tmp_path, MLFLOW_TRACKING_URI=address)

    assert done.returncode == 0
    assert done.stderr.count("hook gymcore/mlflow is switched off for this run: gym_run_start raised") == 1
    assert "done: 10 rollouts" in done.stderr
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "runs" / "mix" / "mlflow.json").exists()


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed here")
def test_without_the_library_the_plan_is_refused() -> None:
    """
    Before anything runs, with what to install.
    """
    with pytest.raises(RequestError, match="the hook 'mlflow' needs the package `mlflow`") as caught:
        Observers({"gymcore/mlflow": MlflowExporter()}).plan({})

    assert caught.value.hints == ('try: pip install "gymcore[mlflow]"',)
