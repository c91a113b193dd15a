"""
Exports as the libraries that they are for read them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition
from gymcore.integrations import export
from gymcore.integrations.exporting import load_format
from gymcore.responses import function_call, function_call_output

Composed = Callable[..., Composition]

BUNDLED = ("example_single_tool_call", "example_multi_step")


@pytest.fixture
def mix(composed: Composed) -> Composition:
    """
    The bundled environments, whose rows have nothing in common, in one dataset.
    """
    return composed({name: {"split": "example"} for name in BUNDLED})


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """
    Load a file as trainers do, with `datasets`, from this machine alone.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install --group trainers")

    def run(kind: str, file: Path, **options: Any) -> Any:
        cache = str(tmp_path / "cache")
        return datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=cache, **options)

    return run


# -- datasets ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "column"),
    [("trl", "environment"), ("skyrl", "env_class"), ("verl", "data_source"), ("parquet", "environment")],
)
def test_datasets_loads_a_table(
    mix: Composition, tmp_path: Path, load: Callable[[str, Path], Any], form: str, column: str
) -> None:
    """
    `load_dataset("parquet")` gives every row in order, routed, without columns or keys that are None.
    """
    file = tmp_path / load_format(form).file_name
    export(mix, form, file)

    rows = list(load("parquet", file))

    assert [row[column] for row in rows] == [row.identity[0] for row in mix.dataset]
    assert set(BUNDLED) == {row[column] for row in rows}
    assert "null" not in json.dumps([{**row, "row": "", "extra_info": ""} for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openai-messages", "nemo-gym"])
def test_datasets_loads_lines(mix: Composition, tmp_path: Path, load: Callable[[str, Path], Any], form: str) -> None:
    """
    `load_dataset("json")` gives every row in order, although their tools have different schemas.
    """
    file = tmp_path / load_format(form).file_name
    export(mix, form, file)

    rows = list(load("json", file))

    assert [row["task_id"] for row in rows] == [row.identity[1] for row in mix.dataset]
    assert [row["agent_ref"]["name"] for row in rows] == [f"{row.identity[0]}_simple_agent" for row in mix.dataset]


LONG = {"role": "user", "content": "word " * 40}
CALLING = [LONG, function_call("repeat", "{}", "c1"), function_call_output("c1", "5")]
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
LOOKING = [{"role": "user", "content": [{"type": "input_text", "text": "Look:"}, IMAGE]}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "late", "notes"),
    [
        ({"input": [LONG]}, {"input": CALLING}, ["a key that is null"]),
        ({"input": [LONG]}, {"input": LOOKING}, ["a list of parts", "a key that is null"]),
        ({"input": CALLING}, {"input": [{"role": "system", "content": "Be brief."}, LONG]}, []),
        ({"input": [LONG], "temperature": 1}, {"input": [LONG], "temperature": 0.5}, []),
        ({"input": [LONG], "temperature": 0.5}, {"input": [LONG], "temperature": 1}, []),
        ({"input": [LONG], "top_p": 0.5}, {"input": [LONG]}, []),
        ({"input": [LONG]}, {"input": [LONG], "top_p": 0.5}, ["chunksize="]),
        ({"input": [LONG], "tools": []}, {"input": CALLING}, ["a key that is null", "chunksize="]),
        ({"input": [LONG], "tool_choice": "auto"}, {"input": [LONG], "tool_choice": "none"}, []),
        (
            {"input": [LONG], "tool_choice": "auto"},
            {"input": [LONG], "tool_choice": {"type": "function", "name": "repeat"}},
            ["chunksize="],
        ),
        ({"input": [LONG], "metadata": {"a": "x"}}, {"input": [LONG], "metadata": {"b": "x"}}, ["chunksize="]),
    ],
)
def test_datasets_loads_lines_that_are_longer_than_what_it_looks_at_first(
    echoing: Composed,
    tmp_path: Path,
    load: Callable[..., Any],
    first: dict[str, Any],
    late: dict[str, Any],
    notes: list[str],
) -> None:
    """
    Every value is read as it was written, whatever comes after the first chunk, which is 10 MB unless somebody says
    otherwise; where that cannot be, a note says how large it must be.
    """
    datasets = pytest.importorskip("datasets")
    composition = echoing(*[first] * 30, *[late] * 30)

    written = export(composition, "openai-messages", tmp_path / "mix.jsonl", reader_chunk=4000)

    assert len(written.notes) == len(notes), written.notes
    assert all(any(told in note for note in written.notes) for told in notes), written.notes
    needed = re.search(r"chunksize=(\d+)", " ".join(written.notes))
    if needed is not None:
        with pytest.raises((datasets.exceptions.DatasetGenerationError, AssertionError)):
            _same(load("json", written.path, chunksize=4000), written.path)
    _same(load("json", written.path, chunksize=int(needed[1]) if needed else 4000), written.path)


def _same(loaded: Any, path: Path) -> None:
    """Check that rows were read as they are; a column that a row lacks is None."""
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [{key: value for key, value in row.items() if value is not None} for row in loaded] == rows


@pytest.mark.slow
def test_datasets_loads_lines_of_more_than_ten_megabytes(
    echoing: Composed, tmp_path: Path, load: Callable[..., Any]
) -> None:
    """
    With no other word than the name of the file: tool calls, and a number that is none of whole ones, come last.
    """
    long = {"role": "user", "content": "word " * 40_000}
    rows = [{"input": [long], "temperature": 1}] * 60
    composition = echoing(*rows, {"input": [long, *CALLING], "temperature": 0.5})

    written = export(composition, "openai-messages", tmp_path / "mix.jsonl")

    assert written.path.stat().st_size > 11_000_000
    _same(load("json", written.path), written.path)


# -- skyrl_gym ---------------------------------------------------------------------------------------------------------


def test_skyrl_makes_the_environment_of_each_row(mix: Composition, tmp_path: Path) -> None:
    """
    Every `env_class` can be registered and made, and what is made finds its task in what SkyRL hands it.
    """
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    skyrl_gym = pytest.importorskip("skyrl_gym", reason="skyrl-gym is not installed: pip install --group trainers")
    from skyrl_gym.envs.base_text_env import BaseTextEnv

    class Routed(BaseTextEnv):  # type: ignore[misc]
        def __init__(self, env_config: Any, extras: dict[str, Any]) -> None:
            super().__init__()
            self.row = json.loads(extras["extra_info"]["row"])
            self.task_id = extras["reward_spec"]["ground_truth"]

        def step(self, action: str) -> dict[str, Any]:
            return {"observations": [], "reward": 1.0, "done": True, "metadata": {}}

    export(mix, "skyrl", tmp_path / "mix.parquet")
    for name in BUNDLED:
        skyrl_gym.register(id=name, entry_point=Routed)
    try:
        for row in parquet.read_table(tmp_path / "mix.parquet").to_pylist():
            # What SkyRL's dataset and generator do with a row.
            prompt, env_class = row.pop("prompt"), row.pop("env_class")
            environment = skyrl_gym.make(env_class, env_config={}, extras=row)
            first, _ = environment.init(prompt)
            assert first == prompt
            assert (environment.row["environment"], environment.row["task_id"]) == (env_class, environment.task_id)
            assert environment.step("Hello.")["done"]
    finally:
        for name in BUNDLED:
            skyrl_gym.envs.registration.registry.pop(name, None)


# -- NeMo Gym ----------------------------------------------------------------------------------------------------------

NEMO_PYTHON = "GYMCORE_NEMO_GYM_PYTHON"


@pytest.mark.slow
def test_nemo_gym_takes_every_row_and_routes_it_by_itself(
    composed: Composed, echoing: Composed, tmp_path: Path
) -> None:
    """
    Its checker finds nothing wrong with any row, and its collector sends each to the agent that the row names.

    NeMo Gym needs Python 3.12 and 1.4 GB, so it is asked in an interpreter of its own: `make test-nemo-gym`.
    """
    python = os.environ.get(NEMO_PYTHON)
    if not python:
        pytest.skip(f"{NEMO_PYTHON} names no Python that has nemo-gym; `make test-nemo-gym` installs one")
    calling = [{"role": "user", "content": "Hi."}, function_call("repeat", "{}", "c1"), function_call_output("c1", "a")]
    for number, composition in enumerate(
        [composed({name: {} for name in BUNDLED}), echoing({"input": "Hi."}, {"input": calling}, params={"top_p": 0.5})]
    ):
        file, folder = tmp_path / f"{number}.jsonl", tmp_path / str(number)
        folder.mkdir()
        export(composition, "nemo-gym", file)

        judge = Path(__file__).parent / "nemo_gym_judge.py"
        done = subprocess.run([python, judge, file, folder], capture_output=True, text=True, check=False, timeout=120)

        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["offending"] == []
        assert said["metrics"]["Number of examples"] == len(composition.dataset) == len(said["collated"])
        assert said["metrics"]["Number of tools"]["Min"] >= 1
        assert [(row["agent_ref"]["name"], row["task_id"]) for row in said["sent"]] == [
            (row.value["agent_ref"]["name"], row.identity[1]) for row in composition.dataset
        ]
