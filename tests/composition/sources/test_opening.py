"""
Sources: where rows come from, by which name messages and the lock call them, and what keeps them what they are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose, open_composition, write_composition
from gymcore.composition.rows.reader import MAX_LINE_BYTES, CutLine, RowSource, numbered_lines
from gymcore.composition.sources.opening import SourceLines
from gymcore.discovery import discover
from gymcore.errors import DataError, PlanError, PluginError
from gymcore.plan import Plan, UrlData
from gymcore.testing.plugins import PluginFolder

Compose = Callable[..., Composition]
Write = Callable[..., str]


def _row(answer: str = "it", **changes: Any) -> dict[str, Any]:
    return {"answer": answer, "responses_create_params": {"input": "x"}, **changes}


def _lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _pin(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _answers(composition: Composition) -> list[str]:
    return [row.value["answer"] for row in composition.dataset]


def _plan(*sources: Any) -> dict[str, Any]:
    return {"environments": {"echo": {"data": list(sources)}}}


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_rows_come_from_an_address(composed: Compose, served: Any, write_rows: Write, tmp_path: Path) -> None:
    """
    As from a file, in the order in which sources are named; the lock names it with its digest.
    """
    data = _lines(_row("b"), _row("c"))
    url = served.url("/rows.jsonl", served.body(data))

    composition = composed(
        _plan(write_rows(_row("a")), {"url": url, "sha256": _pin(data)}), GYMCORE_CACHE=str(tmp_path / "cache")
    )

    assert _answers(composition) == ["a", "b", "c"]
    (entry,) = [entry for entry in composition.lock["data"] if entry["file"] == url]
    assert entry == {"for": "environments.echo.data", "file": url, "rows": 2, "sha256": _pin(data)}
    assert {"url": url, "sha256": _pin(data)} in composition.lock["environments"]["echo"]["asked"]["data"]


def test_rows_that_carry_their_route_come_from_an_address(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    What holds for an environment's own data holds for those of the plan; one source needs no list.
    """
    data = _lines(_row("b", agent_ref={"name": "echo_simple_agent"}))
    url = served.url("/rows.jsonl", served.body(data))

    composition = composed({"data": {"url": url, "sha256": _pin(data)}}, GYMCORE_CACHE=str(tmp_path))

    assert _answers(composition) == ["b"]


def test_a_bad_row_is_named_by_its_address(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    With its line, as in a file.
    """
    data = _lines(_row("b"), {})
    url = served.url("/rows.jsonl", served.body(data))

    with pytest.raises(DataError) as caught:
        composed(_plan({"url": f"{url}?key=s3cret", "sha256": _pin(data)}), GYMCORE_CACHE=str(tmp_path))

    assert [problem.where for problem in caught.value.problems] == [f"{url}:2"]


@pytest.mark.parametrize("query", ["?key=s3cret", "?key=${SECRET}", "?a=1&key=${SECRET}"])
def test_what_may_be_secret_in_an_address_is_written_nowhere(
    composed: Compose, served: Any, tmp_path: Path, query: str
) -> None:
    """
    The server is asked with it, the lock names the address without it, and the plan keeps a reference at most.
    """
    data = _lines(_row("b"))
    url = served.url("/rows.jsonl", served.body(data))

    composition = composed(
        _plan({"url": url + query, "sha256": _pin(data)}), GYMCORE_CACHE=str(tmp_path / "cache"), SECRET="s3cret"
    )
    write_composition(composition, tmp_path / "run")

    assert served.asked == [f"GET /rows.jsonl{query.replace('${SECRET}', 's3cret')}"]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"s3cret" in path.read_bytes() for path in files)
    is_reference = query == "?key=${SECRET}"
    assert composition.plan.to_dict()["environments"]["echo"]["data"][0]["url"] == url + (query if is_reference else "")


def test_what_may_be_secret_in_an_address_is_in_no_message(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    Also where the server refuses, or another file comes.
    """
    for answer in (served.status(403), served.body(b"other"), served.redirect("ftp://x/?s3cret")):
        url = served.url("/rows.jsonl", answer)
        with pytest.raises(PlanError) as caught:
            composed(_plan({"url": f"{url}?key=${{S}}", "sha256": "0" * 64}), GYMCORE_CACHE=str(tmp_path), S="s3cret")

        assert f"{url} cannot be fetched" in caught.value.message
        assert caught.value.where == "environments.echo.data"
        assert "s3cret" not in str(caught.value)


def test_a_composition_from_an_address_reads_back_without_it(
    composed: Compose, served: Any, catalog: Any, tmp_path: Path
) -> None:
    """
    Its rows lie in the folder; nobody is asked again.
    """
    data = _lines(_row("b"))
    url = served.url("/rows.jsonl", served.body(data))
    composition = composed(_plan({"url": url, "sha256": _pin(data)}), GYMCORE_CACHE=str(tmp_path / "cache"))
    write_composition(composition, tmp_path / "run")
    served.answers.clear()

    again = open_composition(tmp_path / "run", catalog, environ={"GYMCORE_CACHE": str(tmp_path / "other")})

    assert again.lock == composition.lock
    assert len(served.asked) == 1


def test_every_source_that_cannot_be_had_is_reported(composed: Compose, served: Any, tmp_path: Path) -> None:
    """
    Together, as all mistakes of a plan are.
    """
    with pytest.raises(PlanError) as caught:
        composed(
            _plan(*({"url": url, "sha256": "0" * 64} for url in (f"{served.address}/a", "file:///no/such")), "gone"),
            GYMCORE_CACHE=str(tmp_path),
        )

    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"url": "https://x/y"}, "a digest of 64 hexadecimal digits must be given, as `sha256sum FILE` shows it"),
        ({"url": "https://x/y", "sha256": "0" * 63}, "a digest of 64 hexadecimal digits"),
        ({"url": "https://x/y", "sha256": "A" * 64}, "a digest of 64 hexadecimal digits"),
        ({"url": "ftp://x/y", "sha256": "0" * 64}, "an address looks like"),
        ({"url": "https:///y", "sha256": "0" * 64}, "an address looks like"),
        ({"url": "https://x", "sha256": "0" * 64}, "an address looks like"),
        ({"url": "file://host/y", "sha256": "0" * 64}, "an address looks like"),
        ({"url": "https://x/y z", "sha256": "0" * 64}, "an address holds ASCII letters"),
        ({"url": "https://x/y\r\nX: y", "sha256": "0" * 64}, "an address holds ASCII letters"),
        ({"url": "https://me:s3cret@x/y", "sha256": "0" * 64}, "an address must hold no password"),
        ({"url": "https://x/y", "sha": "0" * 64}, "unknown key 'sha'"),
        ({"huggingface": "owner/name"}, "a revision must be a commit of 40 hexadecimal digits"),
        ({"huggingface": "owner/name", "revision": "main"}, "https://huggingface.co/datasets/owner/name main`"),
        ({"huggingface": "owner/name", "revision": "abcdef1"}, "a revision must be a commit"),
        ({"huggingface": "name", "revision": "0" * 40}, "a dataset of the hub is named owner/name"),
        ({"huggingface": "../../name", "revision": "0" * 40}, "a dataset of the hub is named owner/name"),
        ({"huggingface": "owner/name", "revision": "0" * 40, "splt": "x"}, "unknown key 'splt'"),
        ({"huggingface": "owner/name", "url": "https://x/y"}, "data are the path of a file"),
        ({"path": "x"}, "data are the path of a file"),
        (5, "data are the path of a file"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_pinned_is_refused_with_what_would_pin_it(
    composed: Compose, source: Any, said: str
) -> None:
    """
    What may be another file tomorrow is no source of a dataset that can be reproduced.
    """
    with pytest.raises(PlanError) as caught:
        composed(_plan(source))

    assert said in str(caught.value)
    assert "environments.echo.data.0" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_may_be_compressed(composed: Compose, tmp_path: Path) -> None:
    """
    By its name; its lines are those of the plain one, and so is their digest.
    """
    data = _lines(_row("a"), _row("b"))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(data[:40]) + gzip.compress(data[40:]))

    composition = composed(_plan(str(tmp_path / "rows.jsonl.gz")))

    assert _answers(composition) == ["a", "b"]
    assert composition.lock["data"][0]["sha256"] == _pin(data)


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", gzip.compress(_lines(*[_row()] * 99), mtime=0)[:-20], b"\x1f\x8b\x08" + bytes(9)]
)
def test_a_damaged_file_is_said_to_be_damaged(composed: Compose, tmp_path: Path, data: bytes) -> None:
    """
    Or to hold no rows, where it is empty.
    """
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data)

    with pytest.raises(PlanError) as caught:
        composed(_plan(str(path)))

    assert "is damaged" in caught.value.message if data else "its data hold no rows" in caught.value.message


def test_a_file_that_is_not_there_is_said_so_whatever_its_format(composed: Compose, tmp_path: Path) -> None:
    """
    With its name.
    """
    (tmp_path / "folder.gz").mkdir()

    for name in ("absent.jsonl", "absent.jsonl.gz", "absent.parquet", "folder.gz"):
        with pytest.raises(PlanError, match="the data file cannot be read") as caught:
            composed(_plan(str(tmp_path / name)))
        assert caught.value.where == f"environments.echo.data: {tmp_path / name}"


def test_a_bomb_goes_off_in_a_bounded_space(tmp_path: Path) -> None:
    """
    A line without an end is a bad row, of which no more is held than shows that it is too long; the next is read again.
    """
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        for _ in range(2 * MAX_LINE_BYTES // 2**20):
            out.write(bytes(2**20))
        out.write(b"\n" + _lines(_row("a")))

    assert _read_beside(path, tmp_path / "none") == ["1: longer", "2: a"]


def test_a_long_line_in_one_of_several_files_is_never_held(tmp_path: Path) -> None:
    """
    It ends with its file, whether or not that ends in a line break; the next file is read as if it stood alone.
    """
    with (tmp_path / "a.jsonl").open("wb") as out:
        out.write(_lines(_row("a")))
        out.truncate(4 * MAX_LINE_BYTES)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + _lines(_row("b")) + _lines(_row("c"))[:-1])

    assert _read_beside(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == ["1: a", "2: longer", "1: b", "2: c"]


def _read_beside(*paths: Path) -> list[str]:
    """Read files as one source, in a bounded space; return what stands where."""
    read = []
    lines = SourceLines([(path, path.name) for path in paths if path.exists()], "data")
    tracemalloc.start()
    try:
        for _, line in numbered_lines(lines, RowSource("files")):
            is_long = isinstance(line, CutLine)
            read.append(f"{lines.where().rpartition(':')[2]}: {'longer' if is_long else json.loads(line)['answer']}")
        assert tracemalloc.get_traced_memory()[1] < 2.5 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
        lines.close()
    return read


@pytest.mark.parametrize("plan", [lambda path: _plan(path), lambda path: {"data": path}], ids=["own", "routed"])
@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.jsonl.gz", "pipe.parquet"])
def test_a_pipe_is_no_file_of_rows(composed: Compose, tmp_path: Path, plan: Any, name: str) -> None:
    """
    It is refused unopened, because to open it may take for ever.
    """
    os.mkfifo(tmp_path / name)

    with pytest.raises(PlanError, match="the data file is no regular file") as caught:
        composed(plan(str(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value.where)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and cannot be read is Linux's")
def test_a_file_that_cannot_be_read_is_no_full_disk(composed: Compose, tmp_path: Path) -> None:
    """
    The message names the source, also where it is packed, and not the folder that is written to.
    """
    (tmp_path / "rows.gz").symlink_to("/proc/self/mem")

    for path in ("/proc/self/mem", str(tmp_path / "rows.gz")):
        with pytest.raises(PlanError, match="the data file cannot be read: Input/output error") as caught:
            composed(_plan(path))
        assert caught.value.where == f"environments.echo.data: {path}"


@pytest.mark.parametrize(
    "text", [b'[\n{"answer": "a"}\n]\n', b'\xef\xbb\xbf \n[{"answer": "a"}]', b'{\n "answer": "a"\n}']
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_one_document_of_json_is_refused_as_a_whole(composed: Compose, tmp_path: Path, text: bytes, pack: Any) -> None:
    """
    And not line by line; a `.json` that holds lines is read.
    """
    path = tmp_path / ("rows.json" if pack is bytes else "rows.json.gz")
    path.write_bytes(pack(text))

    with pytest.raises(PlanError, match="the data file is one JSON document") as caught:
        composed(_plan(str(path)))
    assert caught.value.hints[0].startswith("try: jq -c '.")
    path.write_bytes(pack(_lines(_row("a"))))
    assert _answers(composed(_plan(str(path)))) == ["a"]


def test_a_table_becomes_rows(composed: Compose, tmp_path: Path) -> None:
    """
    Each row of a parquet file is a JSON object; what is nested stays nested.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"answer": str(n), "messages": [{"role": "user", "content": "x"}], "none": None} for n in range(600)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=100)

    composition = composed(_plan(str(tmp_path / "rows.parquet")))

    assert _answers(composition) == [str(n) for n in range(600)]
    first = next(iter(composition.dataset)).value
    assert first["responses_create_params"] == {"input": [{"role": "user", "content": "x"}]}


def test_a_table_with_bytes_or_damage_is_refused(composed: Compose, tmp_path: Path) -> None:
    """
    Bytes have no place in a row, and what is no table is none.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"

    parquet.write_table(pyarrow.Table.from_pylist([{"answer": "a", "image": {"bytes": b"x"}}]), path)
    with pytest.raises(PlanError, match="the column 'image' holds bytes"):
        composed(_plan(str(path)))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PlanError, match="is damaged"):
        composed(_plan(str(path)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["flat", "deep"])
def test_a_number_in_a_table_that_is_not_finite_is_a_mistake_of_its_row(
    composed: Compose, tmp_path: Path, number: float, place: str
) -> None:
    """
    As it is in a line of JSON; it does not become null.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    rows = [
        {"answer": "a", "prompt": "x", "share": value if place == "flat" else [{"x": value, "day": date(2024, 5, 1)}]}
        for value in (1.5, number)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    with pytest.raises(DataError, match="1 row is wrong, of 2 read") as caught:
        composed(_plan(str(path)))
    assert caught.value.problems[0].where == f"{path}:2"
    assert "is no JSON; try: null" in caught.value.problems[0].hints[0]


def test_a_table_in_whose_rows_something_would_be_lost_is_refused(composed: Compose, tmp_path: Path) -> None:
    """
    Columns of one name, bytes in whatever form, and times that are finer than Python's.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    word = pyarrow.array(["x"])
    binary = pyarrow.array([b"x"])
    twins = pyarrow.StructArray.from_arrays([word, word], names=["x", "x"])
    fine = pyarrow.array([1], pyarrow.timestamp("ns"))
    columns = [
        ([word, word], ["city", "city"], "two columns are called 'city'"),
        ([twins], ["deep"], "two columns are called 'x'"),
        ([binary.dictionary_encode()], ["image"], "the column 'image' holds bytes"),
        ([pyarrow.array([[b"x"]])], ["image"], "the column 'image' holds bytes"),
        ([fine], ["when"], "times finer than a microsecond"),
        ([pyarrow.StructArray.from_arrays([fine], names=["x"])], ["when"], "times finer than a microsecond"),
    ]
    if hasattr(pyarrow, "binary_view"):
        columns.append(([binary.cast(pyarrow.binary_view())], ["image"], "the column 'image' holds bytes"))

    for arrays, names, said in columns:
        parquet.write_table(pyarrow.table(arrays, names=names), path)
        with pytest.raises(PlanError, match=said) as caught:
            composed(_plan(str(path)))
        assert caught.value.where == f"environments.echo.data: {path}"


def test_a_time_in_a_table_is_the_same_text_whatever_is_installed(composed: Compose, tmp_path: Path) -> None:
    """
    Nanoseconds, in which other tools count, are read without pandas, at any depth.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    when = pyarrow.array([datetime(2024, 5, 1, 12, 0, 0, 250), None], pyarrow.timestamp("ns"))
    deep = pyarrow.StructArray.from_arrays([when], names=["x"])
    listed = pyarrow.ListArray.from_arrays([0, 1, 2], deep)
    word = pyarrow.array(["a", "b"])
    table = pyarrow.table([word, word, when, listed], names=["answer", "prompt", "when", "deep"])
    parquet.write_table(table, tmp_path / "rows.parquet")

    first, second = (row.value for row in composed(_plan(str(tmp_path / "rows.parquet"))).dataset)

    text = "2024-05-01T12:00:00.000250"
    assert (first["when"], first["deep"]) == (text, [{"x": text}])
    assert (second["when"], second["deep"]) == (None, [{"x": None}])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rows.parquet", "a parquet file needs the package `pyarrow` (environments.echo.data: rows.parquet)"),
        (
            {"huggingface": "owner/name", "revision": "a" * 40},
            "a dataset of the hub needs the package `huggingface_hub` (environments.echo.data)",
        ),
    ],
)
def test_what_needs_an_extra_says_which(
    gym: Any, plugins: PluginFolder, tmp_path: Path, source: Any, said: str
) -> None:
    """
    The core does without; here the packages are hidden behind files that cannot be imported.
    """
    for name in ("pyarrow", "huggingface_hub"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden')\n")
    (tmp_path / "rows.parquet").write_bytes(b"")
    path = f"{tmp_path}:{plugins.environ['PYTHONPATH']}"

    done = gym("compose", "--env", "echo", "--set", f"environments.echo.data={json.dumps(source)}", PYTHONPATH=path)

    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"PlanError: {said}"
    assert "try: pip install 'gymcore[huggingface]'" in done.stderr


def test_an_address_that_is_typed_as_a_path_is_answered_with_how_to_write_it(composed: Compose) -> None:
    """
    With its digest.
    """
    with pytest.raises(PlanError) as caught:
        composed(_plan("https://x/rows.jsonl"))

    assert caught.value.hints == ("an address is written {url: ADDRESS, sha256: DIGEST}",)


# -- manifests ---------------------------------------------------------------------------------------------------------

CODE = """
from gymcore import Environment, Reward, Trajectory


class Any(Environment):
    def verify(self, trajectory: Trajectory) -> Reward:
        return Reward(value=0.0)
"""


def _compose_split(
    folder: Path, split: str, files: dict[str, Any] | None = None, links: dict[str, Any] | None = None, **environ: str
) -> Composition:
    """Compose the split of a plugin whose manifest says where its rows are, with links in its installed package."""
    folder.mkdir()
    with PluginFolder(folder) as plugins:
        plugins.install(
            "gym-plugin-any",
            {
                "any_rows/__init__.py": CODE,
                "any_rows/gym.yaml": f"gym_api: 1\nsplits:\n  example: {split}\n",
                **(files or {}),
            },
            {"gymcore.environments": {"any_rows": "any_rows:Any"}},
        )
        for path, target in (links or {}).items():
            (folder / "any_rows" / path).symlink_to(target)
        plan = Plan.model_validate({"environments": {"any_rows": {}}, "models": {"policy": "nop"}})
        return compose(plan, discover(), environ=environ)


def test_a_manifest_may_name_a_pinned_address(served: Any, tmp_path: Path) -> None:
    """
    Rows that are too many for a package are fetched when they are composed, and only then.
    """
    data = _lines(_row("b"))
    url = served.url("/rows.jsonl", served.body(data))

    composition = _compose_split(
        tmp_path / "plugins", f"{{url: '{url}', sha256: {_pin(data)}}}", GYMCORE_CACHE=str(tmp_path / "cache")
    )

    assert _answers(composition) == ["b"]
    assert composition.lock["data"] == [{"for": "any_rows", "file": url, "rows": 1, "sha256": _pin(data)}]


def test_to_look_at_a_plugin_fetches_nothing(served: Any, tmp_path: Path, gym: Any) -> None:
    """
    A listing shows where rows would come from, and what is in the package.
    """
    source = {"url": f"{served.address}/rows.jsonl", "sha256": "a" * 64}
    (tmp_path / "plugins").mkdir()
    with PluginFolder(tmp_path / "plugins") as plugins:
        plugins.install(
            "gym-plugin-any",
            {
                "any_rows/__init__.py": CODE,
                "any_rows/gym.yaml": f"gym_api: 1\nsplits:\n  train: {json.dumps(source)}\n  example: rows.jsonl\n",
                "any_rows/rows.jsonl": _lines(_row("a")),
            },
            {"gymcore.environments": {"any_rows": "any_rows:Any"}},
        )
        shown = json.loads(gym("show", "any_rows", "--json", folder=plugins).stdout)
        listed = json.loads(gym("list", "--json", folder=plugins).stdout)

    assert shown["splits"] == {"train": None, "example": 1}
    assert shown["task"]["answer"] == "a"
    assert [entry["splits"]["train"] for entry in listed if entry["name"] == "any_rows"] == [[source]]
    assert served.asked == []


def test_a_manifest_reads_no_variable(served: Any, tmp_path: Path) -> None:
    """
    `${NAME}` is for what a user types; a plugin learns nothing of the environment it is installed in.
    """
    with pytest.raises(PlanError) as caught:
        _compose_split(
            tmp_path / "plugins",
            f"{{url: '{served.address}/x?${{SECRET}}', sha256: {'a' * 64}}}",
            SECRET="s3cret",
            GYMCORE_CACHE=str(tmp_path),
        )

    assert "${SECRET} is not set" in str(caught.value)
    assert served.asked == []


def test_a_link_out_of_the_package_is_refused(tmp_path: Path) -> None:
    """
    A path that stays inside by its letters, and leads out by what stands there.
    """
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(_lines(_row("secret")))

    with pytest.raises(PluginError, match="a link that leads out of the package"):
        _compose_split(tmp_path / "plugins", "rows.jsonl", links={"rows.jsonl": secret})


def test_a_folder_that_leads_out_of_the_package_is_refused(tmp_path: Path) -> None:
    """
    Also where the link is a folder on the way.
    """
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows.jsonl").write_bytes(_lines(_row("secret")))

    with pytest.raises(PluginError, match="a link that leads out of the package"):
        _compose_split(tmp_path / "plugins", "data/rows.jsonl", links={"data": tmp_path / "out"})


def test_a_link_inside_the_package_is_followed(tmp_path: Path) -> None:
    """
    How an author arranges files in the package is the author's business.
    """
    files = {"any_rows/own.jsonl": _lines(_row("a"))}

    composition = _compose_split(tmp_path / "plugins", "rows.jsonl", files, {"rows.jsonl": "own.jsonl"})

    assert _answers(composition) == ["a"]


@pytest.mark.parametrize("path", ["%2e%2e/secret.jsonl", "..%2fsecret.jsonl", "~/secret.jsonl", "$HOME/secret.jsonl"])
def test_an_encoded_path_is_a_name_like_any_other(tmp_path: Path, path: str) -> None:
    """
    Nothing is decoded or expanded, so it leads nowhere.
    """
    (tmp_path / "secret.jsonl").write_bytes(_lines(_row("secret")))

    with pytest.raises(PluginError, match="which is not in the installed package"):
        _compose_split(tmp_path / "plugins", f"'{path}'", HOME=str(tmp_path))


def test_a_plan_and_a_manifest_name_a_source_alike() -> None:
    """
    By its address without query and fragment.
    """
    from gymcore.plan import source_name

    assert source_name(UrlData(url="https://x/y.jsonl?a=b#c", sha256="0" * 64)) == "https://x/y.jsonl"
