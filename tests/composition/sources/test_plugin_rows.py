"""
Splits whose rows the class of an environment yields: `{from: plugin}` in its manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose
from gymcore.datasets.checking import check_data
from gymcore.discovery import Catalog, discover
from gymcore.discovery.manifest import ManifestError, read_manifest
from gymcore.documents import YamlDocument
from gymcore.errors import DataError, GymcoreError, PluginError, RequestError
from gymcore.plan import Plan
from gymcore.testing.plugins import PluginFolder

MANIFEST = """
gym_api: 1
splits:
  example: {from: plugin}
  train: [{from: plugin}, more.jsonl]
"""
SOWN = """
from gymcore import Config, Environment, GymcoreError, Task

class Options(Config):
    rows: list[str] = ['{"responses_create_params": {"input": "0"}}']
    fault: str = ""

class Sown(Environment[Task, Options]):
    @classmethod
    def own_rows(cls, config, split):
        for number, row in enumerate(config.rows):
            yield row.replace("SPLIT", split).encode()
        if config.fault == "ours":
            raise GymcoreError("there are no more", hints=["try: less"])
        if config.fault == "a bug":
            raise ZeroDivisionError("by zero")
        if config.fault == "a text":
            yield "a text"
        if config.fault == "two lines":
            yield b'{"responses_create_params":\\n{"input": "0"}}'

    def verify(self, trajectory):
        return 1.0
"""
ROW = '{"responses_create_params": {"input": "SPLIT"}, "n": %d}'


@pytest.fixture(scope="module")
def sown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """
    The environment `sown`, which makes its rows as its options say.
    """
    with PluginFolder(tmp_path_factory.mktemp("sown")) as folder:
        more = ROW.replace("SPLIT", "more") % 9 + "\n"
        files = {"gym_plugin_sown/__init__.py": SOWN, "gym_plugin_sown/gym.yaml": MANIFEST}
        files["gym_plugin_sown/more.jsonl"] = more
        folder.install("gym-plugin-sown", files, {"gymcore.environments": {"sown": "gym_plugin_sown:Sown"}})
        yield discover()


def _composed(catalog: Catalog, *rows: str, fault: str = "", **entry: Any) -> Composition:
    given = {"sown": {"config": {"rows": list(rows), "fault": fault}, **entry}}
    plan = {"environments": given, "models": {"policy": "nop"}}
    return compose(Plan.from_document(YamlDocument(plan)), catalog, environ={})


def test_the_rows_of_a_split_are_what_the_class_yields(sown: Catalog) -> None:
    """
    As its options say, verbatim, beside those of files; the lock holds the digest of each.
    """
    rows = [ROW % 1, ROW % 2]

    composition = _composed(sown, *rows, split="train")

    told = [(row.value["responses_create_params"]["input"], row.value["n"]) for row in composition.dataset]
    assert told == [("train", 1), ("train", 2), ("more", 9)]
    made, file = composition.lock["data"]
    text = "".join(row.replace("SPLIT", "train") + "\n" for row in rows)
    assert made == {
        "for": "sown",
        "file": "gym-plugin-sown/sown:train",
        "rows": 2,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    assert file["file"] == "gym-plugin-sown/sown:more.jsonl"


def test_the_same_options_give_the_same_tasks(sown: Catalog) -> None:
    """
    What is composed again has the same lock; other rows have another digest, which is told.
    """
    once, again, other = (_composed(sown, ROW % number) for number in (1, 1, 2))

    assert once.lock == again.lock
    assert once.lock["data"] != other.lock["data"]


def test_a_bad_row_is_told_with_its_place(sown: Catalog) -> None:
    """
    Its number among those of the split.
    """
    with pytest.raises(DataError, match="gym-plugin-sown/sown:example:2: not JSON"):
        _composed(sown, ROW % 1, "no JSON")


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        ("ours", GymcoreError, "there are no more"),
        ("a bug", PluginError, "makes the rows of its split 'example' itself, and failed: ZeroDivisionError: by zero"),
        ("a text", PluginError, "row 2 is no line of bytes, but str"),
        ("two lines", PluginError, "row 2 is no line of bytes, but several"),
    ],
)
def test_what_goes_wrong_while_rows_are_made_is_said(
    sown: Catalog, fault: str, kind: type[GymcoreError], told: str
) -> None:
    """
    The author's own words where they are meant for us, and whose fault it is else.
    """
    with pytest.raises(kind, match=told):
        _composed(sown, ROW % 1, fault=fault)


def test_rows_of_the_user_take_the_place_of_those_that_are_made(sown: Catalog, tmp_path: Path) -> None:
    """
    Then the class is not asked.
    """
    file = tmp_path / "own.jsonl"
    file.write_text(ROW % 5)

    composition = _composed(sown, fault="a bug", data=str(file))

    assert [row.value["n"] for row in composition.dataset] == [5]


def test_rows_that_are_made_are_checked_like_others(sown: Catalog) -> None:
    """
    With the options of the manifest.
    """
    checked = check_data((), sown, environment="sown")

    assert [(file.name, file.rows, file.bad) for file in checked.files] == [
        ("gym-plugin-sown/sown:example", 1, 0),
        ("gym-plugin-sown/sown:train", 1, 0),
        ("gym-plugin-sown/sown:more.jsonl", 1, 0),
    ]


def test_rows_that_need_options_are_not_checked_without(tmp_path: Path) -> None:
    """
    It is said which are missing.
    """
    with PluginFolder(tmp_path) as folder:
        code = SOWN.replace('fault: str = ""', "fault: str")
        files = {"gym_plugin_picky/__init__.py": code, "gym_plugin_picky/gym.yaml": MANIFEST}
        folder.install("gym-plugin-picky", files, {"gymcore.environments": {"picky": "gym_plugin_picky:Sown"}})
        with pytest.raises(RequestError, match="as its options say: the option 'fault' is required"):
            check_data((), discover(), environment="picky")


def test_a_listing_says_where_rows_come_from(sown: Catalog) -> None:
    """
    As the manifest does.
    """
    plugin = sown.find("environment", "sown")

    assert json.loads(json.dumps(plugin.to_dict()))["splits"] == {
        "example": [{"from": "plugin"}],
        "train": [{"from": "plugin"}, "more.jsonl"],
    }


@pytest.mark.parametrize("source", ["{from: me}", "{from: plugin, split: a}", "{}"])
def test_a_source_that_is_none_is_refused(source: str) -> None:
    """
    It is said what there may be.
    """
    with pytest.raises(ManifestError, match="`huggingface`, `url` or `from: plugin`"):
        read_manifest(f"gym_api: 1\nsplits: {{example: {source}}}".encode(), "gym.yaml")
