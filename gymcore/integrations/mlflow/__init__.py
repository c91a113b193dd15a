"""
The hook plugin `mlflow`: a run folder as a run of MLflow, which goes on when the folder does.

MLflow is imported when a run starts; it comes with the extra `gymcore[mlflow]`. Where it writes to is MLflow's own
setting (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME), and a store of files in `mlruns` where nothing is set.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gymcore.composition import read_lock
from gymcore.composition.locking.lock import lock_digest
from gymcore.documents import DocumentError, decode_json, encode_json, parse_yaml
from gymcore.errors import RequestError
from gymcore.hookspecs import hookimpl
from gymcore.records import Rollout
from gymcore.run_folder import LOCK_NAME, PLAN_NAME, REPORT_NAME, write_whole

__all__ = ["RUN_NAME", "MlflowExporter", "hooks"]

RUN_NAME = "mlflow.json"
"""The file of a run folder that names its run of MLflow."""

EXPERIMENT = "gymcore"

PARAMETER_LETTERS = 500
"""The longest value of a parameter that every server takes."""

NAME_LETTERS, PART_LETTERS = 250, 80
"""The longest name that MLflow takes, and the most that somebody's own word, such as a verifier's metric, has of it."""

AT_ONCE = 100
"""So many parameters, and so many metrics, are sent with one request; MLflow takes 100 and 1,000."""

DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""A server that is away is given up within some seconds, and not within minutes: the run waits as long."""


@dataclass
class _Run:
    """A run of MLflow, and what was told to it of each environment."""

    client: Any  # mlflow.MlflowClient, which may not be installed
    id: str
    rollouts: dict[str, int] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    """The sum of the rewards of each environment."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        every = [Metric(key, value, now_ms, step) for key, value in metrics.items()]
        for begin in range(0, len(every), AT_ONCE):
            self.client.log_batch(self.id, metrics=every[begin : begin + AT_ONCE])


class MlflowExporter:
    """The hooks; an object holds the runs of one process by their folders."""

    def __init__(self) -> None:
        self._runs: dict[Path, _Run] = {}

    @hookimpl
    def gym_plan(self, plan: dict[str, Any]) -> None:
        """Refuse a plan whose metrics would go nowhere, before anything runs."""
        if find_spec("mlflow") is None:
            raise RequestError(
                "the hook 'mlflow' needs the package `mlflow`",
                where="hooks",
                hints=['try: pip install "gymcore[mlflow]"'],
            )

    @hookimpl
    def gym_run_start(self, folder: Path, planned: int) -> None:
        """Begin a run of MLflow, or go on with the one that the folder names."""
        client = _client()
        lock = read_lock(folder) or {}
        run = _found_again(client, folder)
        if run is None:
            created = client.create_run(_experiment(client), run_name=folder.name)
            run = _Run(client, created.info.run_id)
            write_whole(folder / RUN_NAME, encode_json({"run_id": run.id}) + b"\n")
            _log_plan(run, folder, lock_digest(lock))
        # These may change when a folder grows; a parameter may not.
        client.set_tag(run.id, "gymcore.lock", lock_digest(lock))
        client.set_tag(run.id, "gymcore.planned", str(planned))
        self._runs[folder] = run

    @hookimpl
    def gym_rollouts(self, folder: Path, rollouts: Sequence[Rollout]) -> None:
        """Log a batch, for each of its environments at the number of rollouts that it has by now."""
        run = self._runs[folder]
        by_environment: dict[str, list[Rollout]] = {}
        for rollout in rollouts:
            by_environment.setdefault(rollout.environment, []).append(rollout)
        for name, found in by_environment.items():
            count = run.rollouts[name] = run.rollouts.get(name, 0) + len(found)
            reward = sum(rollout.reward.value for rollout in found if rollout.reward is not None)
            total = run.rewards[name] = run.rewards.get(name, 0.0) + reward
            metrics = {
                "rollouts": count,
                "reward": reward / len(found),
                "reward_mean": total / count,
                "turns": sum(len(rollout.trajectory.turns) for rollout in found) / len(found),
                "duration_s": sum(rollout.duration_s for rollout in found) / len(found),
            }
            if tokens := [usage["total_tokens"] for usage in _usages(found)]:
                metrics["tokens"] = sum(tokens) / len(tokens)
            run.log({f"{name}/{key}": value for key, value in metrics.items()}, count)

    @hookimpl
    def gym_run_finish(self, folder: Path, report: dict[str, Any]) -> None:
        """Log the report, as metrics and as a file beside plan and lock, and end the run of MLflow."""
        run = self._runs.pop(folder)
        for entry in (*report["environments"], report["total"]):
            metrics = {f"report/{entry['name']}/{key}": value for key, value in _numbers(entry)}
            run.log(metrics, entry["finished"])
        for name in (REPORT_NAME, LOCK_NAME, PLAN_NAME):
            run.client.log_artifact(run.id, str(folder / name))
        run.client.set_terminated(run.id, "FINISHED" if not report["total"]["owed"] else "FAILED")


hooks = MlflowExporter()


def _client() -> Any:  # mlflow.MlflowClient
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)  # MLflow reads them for each request, and has no argument for them
    import mlflow

    uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else Path("mlruns").absolute().as_uri()
    if "://" not in uri or uri.startswith("file:"):
        # MLflow prefers databases by now, and writes to files only for those who say that they know.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=uri)


def _experiment(client: Any) -> str:
    """Return the id of the experiment that MLflow's own variables name, or of ours; made where there is none."""
    from mlflow.exceptions import MlflowException

    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # another process was faster
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


def _found_again(client: Any, folder: Path) -> _Run | None:
    """Return the run that a folder names, with what it was told; None where there is none, or none here."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = decode_json((folder / RUN_NAME).read_bytes())["run_id"]
        run = client.get_run(run_id)
    except (OSError, DocumentError, KeyError, TypeError):
        return None
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # it is in another store, or was removed for good
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    client.update_run(run_id, status="RUNNING")
    found = _Run(client, run_id)
    for key, value in run.data.metrics.items():
        name, _, what = key.rpartition("/")
        if what == "rollouts":
            found.rollouts[name] = int(value)
            found.rewards[name] = run.data.metrics.get(f"{name}/reward_mean", 0.0) * value
    return found


def _log_plan(run: _Run, folder: Path, digest: str) -> None:
    """Log the plan, which holds no secret, as parameters: each of its keys with its path."""
    from mlflow.entities import Param

    plan = parse_yaml((folder / PLAN_NAME).read_bytes()).value
    pairs = [("lock", digest), ("folder", folder.name), *_flat(plan)]
    every = [Param(key[:NAME_LETTERS], value[:PARAMETER_LETTERS]) for key, value in dict(pairs).items()]
    for begin in range(0, len(every), AT_ONCE):
        run.client.log_batch(run.id, params=every[begin : begin + AT_ONCE])


def _flat(value: Any, path: str = "plan") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{_part(str(key))}")
    elif value is not None:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _numbers(entry: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a part of the report with their paths."""
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{_part(key)}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{path}{_part(key)}", value


def _usages(rollouts: Sequence[Rollout]) -> Iterator[dict[str, Any]]:
    for rollout in rollouts:
        usage = rollout.trajectory.usage
        if usage is not None and isinstance(usage.get("total_tokens"), int):
            yield usage


def _part(key: str) -> str:
    """Return a part of a name that MLflow takes, and that is the name of no other folder where it is one of a file."""
    return re.sub(r"[^\w\-. ]|^\.+$|^$", "_", key, flags=re.ASCII)[:PART_LETTERS]
