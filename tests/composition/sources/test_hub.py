"""
Datasets of the hub: which files are a split, offline from its cache and from a hub on loopback.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition
from gymcore.composition.sources.hub import MAX_BYTES, choose_files
from gymcore.errors import DataError, PlanError
from gymcore.plan import HubData

pytest.importorskip("huggingface_hub", reason="the extra gymcore[huggingface] is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40

Compose = Callable[..., Composition]


def _lines(*answers: str) -> bytes:
    rows = ({"answer": answer, "responses_create_params": {"input": "x"}} for answer in answers)
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture
def cache(tmp_path: Path) -> Callable[..., Path]:
    """
    Fill a cache as the hub's library does: a folder for each commit of each dataset.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """

    def fill(files: dict[str, bytes], revision: str = COMMIT) -> Path:
        for name, data in files.items():
            path = tmp_path / "hub" / "datasets--owner--name" / "snapshots" / revision / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "hub"

    return fill


def _offline(composed: Compose, folder: Path, **changes: Any) -> Composition:
    source = {"huggingface": "owner/name", "revision": COMMIT, **changes}
    plan = {"environments": {"echo": {"data": source}}}
    return composed(plan, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(folder), GYMCORE_CACHE=str(folder / "gymcore"))


def _answers(composition: Composition) -> list[str]:
    return [row.value["answer"] for row in composition.dataset]


def test_a_split_is_read_from_the_cache_without_a_network(composed: Compose, cache: Callable[..., Path]) -> None:
    """
    Its rows keep their bytes; the lock names the dataset, its commit, configuration and split.
    """
    folder = cache({"train.jsonl": _lines("a", "b"), "test.jsonl": _lines("c"), "README.md": b"# Words\n"})

    composition = _offline(composed, folder)

    name = f"hf://owner/name@{COMMIT}/default/train"
    assert _answers(composition) == ["a", "b"]
    assert composition.lock["data"] == [
        {
            "for": "environments.echo.data",
            "file": name,
            "rows": 2,
            "sha256": hashlib.sha256(_lines("a", "b")).hexdigest(),
        }
    ]
    assert composition.lock["environments"]["echo"]["asked"]["data"] == [
        {"huggingface": "owner/name", "revision": COMMIT, "split": "train"}
    ]
    assert [row.data.startswith(line[:-1]) for row, line in zip(composition.dataset, _lines("a", "b").split(b"\n"))]  # noqa: B905


def test_another_commit_is_another_dataset(composed: Compose, cache: Callable[..., Path]) -> None:
    """
    The cache is asked for the commit that is pinned, and for no other one that it has.
    """
    cache({"train.jsonl": _lines("old")}, OTHER)
    folder = cache({"train.jsonl": _lines("new")})

    assert _answers(_offline(composed, folder)) == ["new"]
    assert _answers(_offline(composed, folder, revision=OTHER)) == ["old"]
    with pytest.raises(PlanError, match="the cache does not have it, and HF_HUB_OFFLINE is set") as caught:
        _offline(composed, folder, revision="a" * 40)
    assert caught.value.where == "environments.echo.data"


CARD = """---
license: mit
configs:
- config_name: easy
  default: true
  data_files:
  - split: train
    path: easy/train-*.jsonl
  - split: dev
    path: [easy/dev.jsonl, "easy/more/**"]
- config_name: hard
  data_dir: hard
  data_files: "*.jsonl"
---
# Words
"""


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({}, ["a", "b"]),
        ({"config": "easy", "split": "dev"}, ["c", "d"]),
        ({"config": "hard"}, ["e"]),
    ],
)
def test_the_card_of_a_dataset_says_which_files_are_a_split(
    composed: Compose, cache: Callable[..., Path], changes: dict[str, Any], answers: list[str]
) -> None:
    """
    In the order of their names.
    """
    folder = cache(
        {
            "README.md": CARD.encode(),
            "easy/train-00001-of-00002.jsonl": _lines("b"),
            "easy/train-00000-of-00002.jsonl": _lines("a"),
            "easy/dev.jsonl": _lines("c"),
            "easy/more/deep/x.jsonl": _lines("d"),
            "hard/rows.jsonl": _lines("e"),
            "hard/deep/rows.jsonl": _lines("f"),
        }
    )

    assert _answers(_offline(composed, folder, **changes)) == answers


def test_a_table_of_the_hub_becomes_rows(composed: Compose, cache: Callable[..., Path], tmp_path: Path) -> None:
    """
    As most datasets there are tables.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number in range(2):
        table = pyarrow.Table.from_pylist([{"answer": f"{number}", "prompt": "x"}])
        parquet.write_table(table, tmp_path / f"{number}")
    names = [f"data/train-0000{number}-of-00002.parquet" for number in range(2)]
    folder = cache({name: (tmp_path / str(number)).read_bytes() for number, name in enumerate(names)})

    assert _answers(_offline(composed, folder)) == ["0", "1"]


def test_a_row_of_the_hub_is_named_by_its_file_and_line(composed: Compose, cache: Callable[..., Path]) -> None:
    """
    Each file of a split counts its own lines, and may begin with a byte order mark.
    """
    files = {
        "data/train-00000-of-00002.jsonl": _lines("a", "b"),
        "data/train-00001-of-00002.jsonl": b"\xef\xbb\xbf" + _lines("c") + b"{}",
    }

    with pytest.raises(DataError, match="1 row is wrong, of 4 read") as caught:
        _offline(composed, cache(files))

    (problem,) = caught.value.problems
    assert problem.where == f"hf://owner/name@{COMMIT}/data/train-00001-of-00002.jsonl:2"


SOURCE = HubData(huggingface="owner/name", revision=COMMIT)


@pytest.mark.parametrize(
    ("files", "split", "chosen"),
    [
        (["a.jsonl", "b.parquet", "README.md", ".gitattributes"], "train", ["a.jsonl", "b.parquet"]),
        (["train.jsonl", "valid.jsonl", "x.jsonl"], "train", ["train.jsonl"]),
        (["train.jsonl", "valid.jsonl", "x.jsonl"], "validation", ["valid.jsonl"]),
        (["rows.jsonl", "my-dev-set.jsonl"], "train", ["rows.jsonl"]),
        (["data/test-00000-of-00001.parquet", "data/latest.parquet"], "test", ["data/test-00000-of-00001.parquet"]),
        (["training/a.jsonl", "evaluation/a.jsonl"], "test", ["evaluation/a.jsonl"]),
        (["hard.jsonl", "easy.jsonl"], "hard", ["hard.jsonl"]),
        (["train.jsonl", "train.jsonl.gz", "train.parquet"], "train", ["train.jsonl"]),
        (["x/train.JSON.gz", "train.parquet"], "train", ["train.parquet", "x/train.JSON.gz"]),
        (["data.jsonl", "dataset_infos.json", "config.json"], "train", ["data.jsonl"]),
        ([".hidden/train.jsonl", "_x/train.jsonl", "train.jsonl"], "train", ["train.jsonl"]),
    ],
)
def test_without_a_card_the_names_of_files_say_it(files: list[str], split: str, chosen: list[str]) -> None:
    """
    By whole words; where no name says anything, all are `train`. The same name in two formats are the same rows.
    """
    assert choose_files(SOURCE.model_copy(update={"split": split}), files, {}) == chosen


@pytest.mark.parametrize(("pattern", "chosen"), [("*.json", ["a.json"]), ("config.json", ["config.json"])])
def test_a_pattern_finds_no_metadata_and_a_name_does(pattern: str, chosen: list[str]) -> None:
    """
    As in the library of the hub.
    """
    assert choose_files(SOURCE, ["a.json", "config.json"], {"configs": [{"data_files": pattern}]}) == chosen


def test_a_split_that_is_huge_is_refused_before_it_is_fetched(composed: Compose, tmp_path: Path) -> None:
    """
    By what the hub has told of its files, together.
    """
    listing = tmp_path / "gymcore" / "huggingface" / f"owner--name@{COMMIT}.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"train-1.jsonl": MAX_BYTES, "train-2.jsonl": 1, "test.jsonl": 5}))

    with pytest.raises(PlanError, match=f"its files hold {MAX_BYTES + 1:,} bytes, more than"):
        _offline(composed, tmp_path)


@pytest.mark.parametrize(
    ("card", "changes", "files", "said"),
    [
        ({}, {"split": "tset"}, ["train.jsonl", "test.jsonl"], "no file is its split 'tset'"),
        ({}, {"config": "hard"}, ["train.jsonl"], "no configuration 'hard': its card names none"),
        ({"configs": [{"config_name": "hard", "data_files": "*"}]}, {"config": "hrad"}, [], "no configuration 'hrad'"),
        (
            {"configs": [{"config_name": name, "data_files": "*"} for name in "ab"]},
            {},
            [],
            "2 configurations and no default one",
        ),
        ({"configs": [{"data_files": [{"split": "dev", "path": "x"}]}]}, {}, ["x"], "no split 'train'"),
        ({"configs": [{"data_files": "*.csv"}]}, {}, ["x.csv"], "x.csv is no file of rows that can be read"),
        ({"configs": [{"data_files": "https://x/y.jsonl"}]}, {}, [], "names files outside of it"),
        ({"configs": [{"data_files": "../other/y.jsonl"}]}, {}, ["y.jsonl"], "no file is its split"),
        ({"configs": [{"data_files": "*a" * 9}]}, {}, [], "too complicated"),
        ({"configs": [{"data_files": [None]}]}, {}, [], "names files outside of it"),
        ({}, {}, ["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], "2 of the 3 files of train.jsonl"),
    ],
)
def test_a_split_that_is_not_there_is_answered_with_what_is(
    composed: Compose,
    cache: Callable[..., Path],
    card: dict[str, Any],
    changes: dict[str, Any],
    files: list[str],
    said: str,
) -> None:
    """
    The message names the dataset and its commit; a cache that has some files only is not read as the whole.
    """
    text = f"---\n{json.dumps(card)}\n---\n".encode() if card else b"# Words\n"
    folder = cache({"README.md": text, **{name: _lines("a") for name in files if not name.startswith("..")}})

    with pytest.raises(PlanError) as caught:
        _offline(composed, folder, **changes)

    assert said in caught.value.message
    assert caught.value.message.startswith(f"hf://owner/name@{COMMIT}/")


@pytest.mark.parametrize("text", [b"---\nconfigs: [\n---\n", b"---\n- a\n---\n", b"\xff\xfe---"])
def test_a_card_that_cannot_be_read_is_said(composed: Compose, cache: Callable[..., Path], text: bytes) -> None:
    """
    Cards are whatever somebody wrote.
    """
    folder = cache({"README.md": text, "train.jsonl": _lines("a")})

    with pytest.raises(PlanError, match="its card cannot be read"):
        _offline(composed, folder)


def test_a_card_that_says_nothing_of_files_is_as_if_absent(composed: Compose, cache: Callable[..., Path]) -> None:
    """
    The names of the files say it then.
    """
    folder = cache({"README.md": b"---\nconfigs: 5\n---\n", "train.jsonl": _lines("a")})

    assert _answers(_offline(composed, folder)) == ["a"]


# -- a hub on loopback -------------------------------------------------------------------------------------------------


def _hub(served: Any, files: dict[str, bytes], sha: str = COMMIT) -> str:
    """Serve a dataset as the hub does, and return its address."""
    for name, data in files.items():
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        served.url(f"/datasets/owner/name/resolve/{COMMIT}/{name}", served.body(data, headers=headers))
    info = {
        "id": "owner/name",
        "sha": sha,
        "siblings": [{"rfilename": name, "size": len(data)} for name, data in files.items()],
    }
    answer = served.body(json.dumps(info).encode(), headers={"Content-Type": "application/json"})
    served.url(f"/api/datasets/owner/name/revision/{COMMIT}", answer)
    return str(served.address)


def _online(composed: Compose, served: Any, folder: Path) -> Composition:
    plan = {"environments": {"echo": {"data": {"huggingface": "owner/name", "revision": COMMIT}}}}
    environ = {"HF_HUB_CACHE": str(folder), "GYMCORE_CACHE": str(folder / "gymcore")}
    return composed(plan, HF_ENDPOINT=served.address, HF_TOKEN="hf_t0ken", **environ)


def test_a_split_is_fetched_from_a_hub_and_then_read_offline(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    Only its files are fetched, once; what is composed offline afterwards is the same.
    """
    _hub(served, {"train.jsonl": _lines("a", "b"), "test.jsonl": _lines("c"), "README.md": b"# Words\n"})

    online = _online(composed, served, tmp_path)
    fetched = [asked.rpartition("/")[2] for asked in served.asked if asked.startswith("GET /datasets")]
    offline = _offline(composed, tmp_path)

    assert _answers(online) == ["a", "b"]
    assert sorted(fetched) == ["README.md", "train.jsonl"]
    assert offline.lock == online.lock


def test_a_cache_that_has_some_files_is_not_taken_for_the_whole(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    What the hub has told of a commit is known offline, too.
    """
    _hub(served, {"train.jsonl": _lines("a"), "test.jsonl": _lines("c")})
    _online(composed, served, tmp_path)

    with pytest.raises(PlanError, match="the cache does not have it, and HF_HUB_OFFLINE is set"):
        _offline(composed, tmp_path, split="test")
    for damage in (b"", b"[]"):
        (listing,) = (tmp_path / "gymcore" / "huggingface").iterdir()
        listing.write_bytes(damage)
        assert _answers(_offline(composed, tmp_path)) == ["a"]


def test_a_hub_that_answers_with_another_commit_is_refused(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    What is pinned is what is taken.
    """
    _hub(served, {"train.jsonl": _lines("a")}, sha=OTHER)

    with pytest.raises(PlanError, match="the hub answers with another commit"):
        _online(composed, served, tmp_path)


def _refusal(code: int, reason: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("X-Error-Code", reason)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (404, "RepoNotFound", "there is no such dataset"),
        (404, "RevisionNotFound", "the dataset has no such commit"),
        (403, "GatedRepo", "the dataset is gated"),
        (418, "", "the hub cannot be used"),
    ],
)
def test_a_hub_that_refuses_is_answered_in_words(
    composed: Compose, served: Any, tmp_path: Path, code: int, reason: str, said: str
) -> None:
    """
    With what to try, and never with the token.
    """
    served.url(f"/api/datasets/owner/name/revision/{COMMIT}", _refusal(code, reason))

    with pytest.raises(PlanError) as caught:
        _online(composed, served, tmp_path)

    assert said in caught.value.message
    assert "hf_t0ken" not in str(caught.value)
