"""
The same plan gives the same bytes: in another process, on another Python, with its environments in another order.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import yaml

from gymcore.testing.plugins import PluginFolder

ROOT = Path(__file__).parents[2]

ENVIRONMENTS = {
    "echo": {"split": "train", "weight": 3, "params": {"temperature": 0.5, "top_p": 0.9}},
    "shout": {"weight": 1.5, "params": {"top_p": 0.9, "temperature": 0.5}},
    "twin": {"use": "echo", "weight": 1, "config": {"style": "loud", "level": 4}},
}
SCRIPT = """
import json, sys
from pathlib import Path
from gymcore.composition import compose, write_composition
from gymcore.discovery import discover
from gymcore.plan import Plan
for plan, out in json.loads(sys.argv[1]):
    write_composition(compose(Plan.from_file(plan), discover(), environ={}), Path(out))
"""


def _write_plan(path: Path, order: tuple[str, ...]) -> str:
    models = {"policy": "oracle", "judge": "nop"}
    plan = {
        "environments": {name: ENVIRONMENTS[name] for name in order},
        "models": {name: models[name] for name in (sorted(models) if order[0] == "echo" else models)},
        "mix": {"size": 150, "batch": 16, "seed": 5},
    }
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return str(path)


def _composed(python: str, seed: str, folder: PluginFolder, tmp_path: Path, paths: list[str]) -> None:
    pairs = [(_write_plan(tmp_path / f"{name}.yaml", order), str(tmp_path / name)) for name, order in _orders(paths)]
    subprocess.run(
        [python, "-c", SCRIPT, json.dumps(pairs)],
        env={**folder.environ, "PYTHONHASHSEED": seed},
        check=True,
        capture_output=True,
        timeout=60,
    )


def _orders(names: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    return list(zip(names, permutations(ENVIRONMENTS), strict=False))


def _bytes(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "dataset.jsonl").read_bytes(), (folder / "gym.lock").read_bytes()


def test_two_processes_and_every_order_of_environments_give_the_same_bytes(
    plugins: PluginFolder, tmp_path: Path
) -> None:
    """
    Neither the seed of Python's hashes nor the order in which a plan names things is in dataset.jsonl and gym.lock.
    """
    _composed(sys.executable, "1", plugins, tmp_path, ["a0", "a1", "a2", "a3", "a4", "a5"])
    _composed(sys.executable, "4711", plugins, tmp_path, ["b0", "b1"])

    first = _bytes(tmp_path / "a0")
    assert first[0].count(b"\n") == 150
    assert [name for name in ("a1", "a2", "a3", "a4", "a5", "b0", "b1") if _bytes(tmp_path / name) != first] == []


def _other_pythons() -> list[str]:
    """Return the Pythons of other minor versions that are found here and can import what gymcore needs."""
    found = subprocess.run(
        ["bash", str(ROOT / "tests" / "interpreters.sh")], capture_output=True, text=True, check=False, timeout=60
    ).stdout
    own = "{}.{}".format(*sys.version_info[:2])
    others = [line.split(" ", 1) for line in found.splitlines() if not line.startswith(f"{own} ")]
    # `make test` gives each Python a virtual environment of its own, with everything in it.
    return [str(path) for name, _ in others if (path := ROOT / f".venv-{name}" / "bin" / "python").exists()] + [
        python for _, python in others
    ]


def test_another_python_gives_the_same_bytes(plugins: PluginFolder, tmp_path: Path) -> None:
    """
    Whoever composes the plan on another version of Python gets the dataset and the lock that are known.
    """
    needed = "import gymcore.composition, importlib.metadata; importlib.metadata.version('gymcore')"
    usable = [
        python
        for python in _other_pythons()
        if subprocess.run([python, "-c", needed], env=plugins.environ, capture_output=True, check=False).returncode == 0
    ]
    if not usable:
        pytest.skip("no other Python here has gymcore installed; `make test` makes virtual environments that have")
    _composed(sys.executable, "0", plugins, tmp_path, ["here"])

    _composed(usable[0], "0", plugins, tmp_path, ["there"])

    assert _bytes(tmp_path / "there") == _bytes(tmp_path / "here")
