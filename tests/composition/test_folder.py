"""
A composition on disk: written whole or not at all, read back the same, and refused when it no longer fits.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymcore.composition import Composition, open_composition, write_composition
from gymcore.composition.dataset import Dataset
from gymcore.composition.folder import named_lock, read_lock
from gymcore.composition.locking.lock import differences, lock_digest
from gymcore.discovery import Catalog, discover
from gymcore.errors import GymcoreError, RunFolderError
from gymcore.run_folder import only_writer
from gymcore.testing.plugins import PluginFolder

Compose = Callable[..., Composition]
Write = Callable[..., str]

ECHO: dict[str, Any] = {"environments": {"echo": {}}}
NAMES = ["dataset.jsonl", "gym.lock", "plan.yaml"]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".writer"}


def _refused(act: Callable[[], Any], kind: type[GymcoreError] = RunFolderError) -> Any:
    with pytest.raises(kind) as caught:
        act()
    return caught.value


@pytest.fixture
def folder(composed: Compose, tmp_path: Path) -> Path:
    """
    A run folder with the echo environment, without rollouts.
    """
    write_composition(composed(ECHO), tmp_path / "run")
    return tmp_path / "run"


def _collect_something(folder: Path) -> None:
    (folder / "rollouts.jsonl").write_text("{}\n")


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_plan_lock_and_dataset(composed: Compose, tmp_path: Path) -> None:
    """
    Folders on the way are made; the dataset's digest is in the lock; no part file stays.
    """
    composition = composed(ECHO)

    write_composition(composition, tmp_path / "a" / "b")

    files = _files(tmp_path / "a" / "b")
    assert list(files) == NAMES
    assert files["dataset.jsonl"] == b"".join(row.data + b"\n" for row in composition.dataset)
    assert json.loads(files["gym.lock"]) == {**composition.lock, "digest": lock_digest(composition.lock)}
    assert composition.lock["dataset"]["sha256"] == composition.dataset.sha256()


def test_the_same_plan_gives_the_same_bytes(composed: Compose, tmp_path: Path) -> None:
    """
    On another day, in another folder, every file is equal.
    """
    for name in ("first", "second"):
        write_composition(composed({"environments": {"echo": {"split": "train"}, "shout": {}}}), tmp_path / name)

    assert _files(tmp_path / "first") == _files(tmp_path / "second")


@pytest.mark.parametrize("is_collected", [False, True])
def test_the_same_composition_may_be_written_again(composed: Compose, folder: Path, is_collected: bool) -> None:
    """
    Nothing changes, with rollouts or without.
    """
    if is_collected:
        _collect_something(folder)
    before = _files(folder)

    write_composition(composed(ECHO, "collect.concurrency=1"), folder)

    after = _files(folder)
    assert b"concurrency: 1" in after.pop("plan.yaml")
    assert before.pop("plan.yaml")
    assert after == before


def test_a_folder_without_rollouts_takes_another_composition(composed: Compose, folder: Path) -> None:
    """
    No work is lost by it.
    """
    write_composition(composed({"environments": {"shout": {}}}), folder)

    assert list(_files(folder)) == NAMES
    assert b"Shout" in _files(folder)["dataset.jsonl"]


def test_a_folder_with_rollouts_of_another_plan_is_refused_with_the_difference(composed: Compose, folder: Path) -> None:
    """
    Every key that differs is shown, there and here, and nothing is touched.
    """
    _collect_something(folder)
    before = _files(folder)

    error = _refused(lambda: write_composition(composed(ECHO, "mix.seed=7", "environments.echo.limit=2"), folder))

    assert error.message == "the folder holds rollouts of another plan"
    assert "seed: 0 -> 7" in error.differences
    assert "echo: limit none -> 2" in error.differences
    assert _files(folder) == before


def test_the_rows_are_not_replaced_by_what_is_made_of_them(composed: Compose, folder: Path) -> None:
    """
    Fewer rows of a dataset go elsewhere; all of them are the same file, which stays as it is.
    """
    source = str(folder / "dataset.jsonl")
    before = (folder / "dataset.jsonl").read_bytes()

    error = _refused(lambda: write_composition(composed({"data": source, "mix": {"limit": 2}}), folder))

    assert error.message == "the rows come from this file, which would be replaced"
    assert error.where == str(folder / "dataset.jsonl")
    write_composition(composed({"data": source}), folder)
    assert (folder / "dataset.jsonl").read_bytes() == before


def test_rejects_are_not_replaced_by_what_is_made_of_them(composed: Compose, write_rows: Write, folder: Path) -> None:
    """
    Who mends them does so in another file.
    """
    shutil.copy(folder / "dataset.jsonl", folder / "rejects.jsonl")

    error = _refused(lambda: write_composition(composed({"data": str(folder / "rejects.jsonl")}), folder))

    assert error.where == str(folder / "rejects.jsonl")


def test_a_foreign_folder_is_refused(composed: Compose, tmp_path: Path) -> None:
    """
    Whoever types the wrong folder loses nothing in it, not even a `plan.yaml` of their own.
    """
    for name in ("notes.txt", "plan.yaml", "dataset.jsonl"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")

        error = _refused(lambda folder=folder: write_composition(composed(ECHO), folder))

        assert error.message == "the output folder is not empty and holds no run"
        assert _files(folder) == {name: b"mine"}


def test_an_empty_folder_is_taken(composed: Compose, tmp_path: Path) -> None:
    """
    Whoever made the folder first meant this.
    """
    write_composition(composed(ECHO), tmp_path)

    assert list(_files(tmp_path)) == NAMES


@pytest.mark.parametrize(
    "left",
    [
        [".writer"],
        [".writer", ".dataset.jsonl.part"],
        [".dataset.jsonl.part"],
        [".dataset.jsonl.part", ".plan.yaml.part", ".gym.lock.part"],
        ["dataset.jsonl", ".plan.yaml.part", ".gym.lock.part"],
        ["dataset.jsonl", "plan.yaml", ".gym.lock.part"],
    ],
    ids=str,
)
def test_what_a_killed_compose_left_behind_is_in_nobodys_way(
    composed: Compose, tmp_path: Path, left: list[str]
) -> None:
    """
    The same command again writes the folder as if nothing had happened.
    """
    for name in left:
        (tmp_path / name).write_text("half")

    write_composition(composed(ECHO), tmp_path)

    assert list(_files(tmp_path)) == NAMES
    assert b"half" not in b"".join(_files(tmp_path).values())


def _killed_between_renames(folder: Path, other: Path) -> None:
    """Leave a folder as a process does that is killed before it has given the last of its files their names."""
    for name in ("dataset.jsonl", "plan.yaml"):
        shutil.copy(other / name, folder / name)
    shutil.copy(other / "gym.lock", folder / ".gym.lock.part")


@pytest.mark.parametrize("name", [".", "gym.lock"])
def test_who_reads_a_lock_finishes_what_a_killed_process_has_left(
    composed: Compose, folder: Path, tmp_path: Path, name: str
) -> None:
    """
    The lock that is read belongs to the rows beside it, whether the folder is named or the file.
    """
    other = composed({"environments": {"shout": {}}})
    write_composition(other, tmp_path / "other")
    _killed_between_renames(folder, tmp_path / "other")

    lock, file = named_lock(folder / name)

    assert (lock, file) == (other.lock, folder / "gym.lock")
    assert _files(folder) == _files(tmp_path / "other")


def test_who_reads_a_lock_waits_for_nobody(composed: Compose, folder: Path, tmp_path: Path) -> None:
    """
    Where another process writes, its business is its own.
    """
    there = read_lock(folder)
    write_composition(composed({"environments": {"shout": {}}}), tmp_path / "other")
    _killed_between_renames(folder, tmp_path / "other")

    with only_writer(folder):
        assert read_lock(folder) == there
    assert read_lock(folder) == read_lock(tmp_path / "other")


def test_a_dataset_that_was_edited_is_written_anew(composed: Compose, folder: Path) -> None:
    """
    Composing again mends what an editor broke.
    """
    before = _files(folder)
    (folder / "dataset.jsonl").write_text("edited\n")

    write_composition(composed(ECHO), folder)

    assert _files(folder) == before


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/deeper"])
def test_a_folder_below_a_file_is_refused(composed: Compose, tmp_path: Path, place: str) -> None:
    """
    The message says so before anything is written.
    """
    (tmp_path / "file").write_text("mine")

    error = _refused(lambda: write_composition(composed(ECHO), tmp_path / place))

    assert error.message.endswith(("Not a directory", "File exists"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["/proc/gymcore", "/proc/self/gymcore/run"])
def test_a_folder_that_cannot_be_made_is_a_wrong_request(composed: Compose, place: str) -> None:
    """
    The message names the folder and the system's reason.
    """
    if not Path("/proc/self").exists():
        pytest.skip("needs a file system that takes no folders")

    error = _refused(lambda: write_composition(composed(ECHO), Path(place)))

    assert error.message == "the output folder cannot be written: No such file or directory"
    assert (error.exit_code, error.where) == (2, place)


def test_a_name_that_no_disk_takes_is_refused(composed: Compose, tmp_path: Path) -> None:
    """
    The message names the folder and the system's reason.
    """
    error = _refused(lambda: write_composition(composed(ECHO), tmp_path / ("x" * 300)), GymcoreError)

    assert "File name too long" in error.message
    assert error.hints[0].startswith("try: another ")


class _Failing(Dataset):
    """A dataset whose last bytes the disk does not take."""

    def write(self, path: Path) -> str:
        """Write, and fail."""
        super().write(path)
        raise OSError(errno.EIO, "Input/output error")


def test_a_write_that_fails_leaves_no_part_behind(composed: Compose, tmp_path: Path) -> None:
    """
    Where one of the files cannot be written, what was begun is cleared away, and what was there stays.
    """
    folder = tmp_path / "run"
    write_composition(composed(ECHO), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    composition = composed({"environments": {"echo": {"limit": 1}}})
    composition.dataset.__class__ = _Failing

    _refused(lambda: write_composition(composition, folder), GymcoreError)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_could_not_be_put_in_place_is_put_there_by_the_next_command(
    composed: Compose, catalog: Catalog, tmp_path: Path
) -> None:
    """
    A run with rollouts gets more rows; interrupted between two of its files, it is neither the old one nor lost.
    """
    folder = tmp_path / "run"
    write_composition(composed({"environments": {"echo": {"limit": 2}}}), folder)
    (folder / "rollouts.jsonl").write_text("{}\n")
    (folder / "plan.yaml").rename(tmp_path / "aside")
    (folder / "plan.yaml").mkdir()
    (folder / "plan.yaml" / "in the way").write_text("")
    more = composed({"environments": {"echo": {"limit": 4}}})

    _refused(lambda: write_composition(more, folder), GymcoreError)
    (folder / "plan.yaml" / "in the way").unlink()
    (folder / "plan.yaml").rmdir()

    write_composition(more, folder)
    assert open_composition(folder, catalog, environ={}).lock == more.lock
    assert [path.name for path in folder.iterdir() if path.name.endswith(".part")] == []


def test_rejects_go_when_their_rows_are_mended_however_often_it_is_interrupted(
    composed: Compose, catalog: Catalog, tmp_path: Path
) -> None:
    """
    What was left out is told of beside the dataset that lacks it, and beside no other.
    """
    rows = tmp_path / "rows.jsonl"
    good = json.dumps({"answer": "x", "responses_create_params": {"input": "x"}})
    plan = {"environments": {"echo": {"data": str(rows)}}, "check": {"skip_invalid": True}}
    folder = tmp_path / "run"
    rows.write_text(f"{good}\n{{\n")
    write_composition(composed(plan), folder)
    assert json.loads((folder / "rejects.jsonl").read_text())["line"] == 2
    assert open_composition(folder, catalog, environ={}).plan.check.skip_invalid
    rows.write_text(f"{good}\n")
    (folder / "plan.yaml").unlink()
    (folder / "plan.yaml").mkdir()
    (folder / "plan.yaml" / "in the way").write_text("")

    _refused(lambda: write_composition(composed(plan), folder), GymcoreError)
    assert (folder / "rejects.jsonl").exists()
    (folder / "plan.yaml" / "in the way").unlink()
    (folder / "plan.yaml").rmdir()

    assert len(open_composition(folder, catalog, environ={}).dataset) == 1
    assert [path.name for path in folder.iterdir() if "rejects" in path.name] == []


# -- reading back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        ECHO,
        {
            "environments": {"echo": {"split": "train", "limit": 7}, "shout": {}, "twin": {"use": "echo"}},
            "mix": {"seed": 3},
        },
        {"environments": {"echo": {"agent": {"use": "simple_agent", "config": {"max_turns": 3}}}}, "agent": "voice"},
        {"environments": {"echo": {}, "shout": {}}, "agent": {"use": "voice", "config": {"pitch": 2}}},
        {"environments": {"echo": {"params": {"temperature": 0.5, "n": None}}}, "models": {"judge": "nop"}},
    ],
    ids=str,
)
def test_a_composition_reads_back_as_it_was(
    composed: Compose, catalog: Catalog, tmp_path: Path, plan: dict[str, Any]
) -> None:
    """
    Routes, rows, counts and lock are those of the composition that was written, digest included.
    """
    written = composed(plan)
    write_composition(written, tmp_path / "run")

    opened = open_composition(tmp_path / "run", catalog, environ={})

    assert opened.lock == written.lock
    assert lock_digest(opened.lock) == lock_digest(written.lock)
    assert [row.data for row in opened.dataset] == [row.data for row in written.dataset]
    assert opened.planned() == written.planned()
    assert opened.tasks() == written.tasks()
    assert opened.plan == written.plan
    assert {name: route.agent_options for name, route in opened.routes.items()} == {
        name: route.agent_options for name, route in written.routes.items()
    }


@pytest.mark.parametrize("order", [("echo_simple_agent", "echo_voice"), ("echo_voice", "echo_simple_agent")])
@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"environments": {"echo": {"agent": {"use": "simple_agent", "config": {"max_turns": 3}}}}},
        {"environments": {"echo": {"agent": {"use": "loud_voice", "config": {"pitch": 3}}}}},
        {"agent": {"use": "simple_agent", "config": {"max_turns": 3}}},
    ],
    ids=["nothing", "one of them", "a third", "the plan's"],
)
def test_rows_with_several_agents_in_one_environment_read_back(
    composed: Compose, catalog: Catalog, tmp_path: Path, write_rows: Write, order: list[str], plan: dict[str, Any]
) -> None:
    """
    Each agent keeps its own options, whichever row came first.
    """
    rows = [{"answer": "a", "responses_create_params": {"input": "x"}, "agent_ref": {"name": name}} for name in order]
    written = composed({**plan, "data": write_rows(*rows)})
    write_composition(written, tmp_path / "run")

    opened = open_composition(tmp_path / "run", catalog, environ={})

    assert opened.lock == written.lock


@contextmanager
def _at_another_version(plugins: PluginFolder, to: str) -> Iterator[None]:
    metadata = next(plugins.folder.glob("gym_plugin_echo-*.dist-info")) / "METADATA"
    before = metadata.read_text()
    metadata.write_text(before.replace("Version: 0.1.0", f"Version: {to}"))
    try:
        yield
    finally:
        metadata.write_text(before)


def test_another_version_of_a_plugin_is_refused_with_the_difference(folder: Path, plugins: PluginFolder) -> None:
    """
    What finished rollouts mean may have changed, so the folder is not continued silently.
    """
    with _at_another_version(plugins, "0.2.0"):
        error = _refused(lambda: open_composition(folder, discover(), environ={}))

    assert error.differences == ("echo: plugin gym-plugin-echo/echo 0.1.0 -> gym-plugin-echo/echo 0.2.0",)


def test_a_dataset_that_was_edited_is_refused(folder: Path, catalog: Catalog) -> None:
    """
    A changed row is another task; the digest tells.
    """
    dataset = folder / "dataset.jsonl"
    dataset.write_bytes(dataset.read_bytes().replace(b'"one"', b'"won"', 1))

    error = _refused(lambda: open_composition(folder, catalog, environ={}))

    assert [line.partition(":")[0] for line in error.differences] == ["dataset"]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"{}",
        b"[]",
        b'{"agent_ref": null}',
        b'{"agent_ref": {"name": []}}',
        b'{"agent_ref": {"name": "x"}}',
        b"",
    ],
)
def test_a_row_that_compose_did_not_write_is_refused_with_its_line(folder: Path, catalog: Catalog, line: bytes) -> None:
    """
    The message names the file and the line.
    """
    dataset = folder / "dataset.jsonl"
    dataset.write_bytes(dataset.read_bytes() + line + b"\n")

    error = _refused(lambda: open_composition(folder, catalog, environ={}), GymcoreError)

    assert error.exit_code == 2
    assert f"{dataset}:6" in str(error)


def test_a_dataset_that_is_gone_is_refused(folder: Path, catalog: Catalog) -> None:
    """
    The message names the file.
    """
    (folder / "dataset.jsonl").unlink()

    assert _refused(lambda: open_composition(folder, catalog, environ={})).where == str(folder / "dataset.jsonl")


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("", True),
        ("{", True),
        ("[]", True),
        ("null", True),
        ("\x00", True),
        ('{"format": 99}', True),
        ('{"format": 4}', False),
        ('{"format": 4, "environments": {"echo": {}}}', False),
    ],
)
def test_a_damaged_lock_is_refused(composed: Compose, folder: Path, catalog: Catalog, text: str, is_lost: bool) -> None:
    """
    Nobody guesses what it said; only where it is ours for certain, and no work is lost, composing again mends it.
    """
    (folder / "gym.lock").write_text(text)

    assert _refused(lambda: open_composition(folder, catalog, environ={})).where == str(folder / "gym.lock")
    if is_lost:
        assert _refused(lambda: write_composition(composed(ECHO), folder)).where == str(folder / "gym.lock")
    else:
        write_composition(composed(ECHO), folder)
        assert len(open_composition(folder, catalog, environ={}).dataset) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock["distributions"].clear(),
        lambda lock: lock["distributions"].popitem(),
        lambda lock: lock["data"][0].update(rows=999),
        lambda lock: lock["data"][0].update(file="/etc/passwd"),
        lambda lock: lock["environments"]["echo"].update(requested="zz"),
        lambda lock: lock["mix"].update(weights=5),
        lambda lock: lock.pop("digest"),
        lambda lock: lock.update(digest="0" * 16),
    ],
)
def test_a_lock_that_was_edited_is_refused(
    composed: Compose, folder: Path, catalog: Catalog, change: Callable[[dict[str, Any]], Any]
) -> None:
    """
    Each of its facts is one that finished work rests on, so nobody takes another one for it; nor is it overwritten.
    """
    lock = json.loads((folder / "gym.lock").read_text())
    change(lock)
    (folder / "gym.lock").write_text(json.dumps(lock))
    _collect_something(folder)

    for attempt in (
        lambda: open_composition(folder, catalog, environ={}),
        lambda: named_lock(folder),
        lambda: write_composition(composed(ECHO), folder),
    ):
        refused = _refused(attempt)
        assert refused.message == "the lock is damaged: its last line is not the digest of what it says"
        assert refused.where == str(folder / "gym.lock")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_without_a_composition_is_answered_with_how_to_make_one(
    tmp_path: Path, catalog: Catalog, make: Callable[[Path], None]
) -> None:
    """
    The hint is the command.
    """
    make(tmp_path / "run")

    error = _refused(lambda: open_composition(tmp_path / "run", catalog, environ={}))

    assert error.message == "there is no composition in this folder"
    assert "gym compose --env NAME --out" in error.hints[0]


def test_a_composition_without_rollouts_takes_another_model(folder: Path, catalog: Catalog) -> None:
    """
    Compose first, choose the endpoint later: that is what `gym run FOLDER --model` is for.
    """
    opened = open_composition(folder, catalog, settings=("models.policy.use=nop",), environ={})

    assert opened.models["policy"].plugin.name == "nop"


@pytest.mark.parametrize(
    "setting",
    ["models.policy.use=nop", "mix.seed=9", "environments.echo.config.level=3", "environments.echo.agent=voice"],
)
def test_finished_work_takes_no_other_meaning(folder: Path, catalog: Catalog, setting: str) -> None:
    """
    With rollouts in the folder, what they mean is settled.
    """
    _collect_something(folder)

    error = _refused(lambda: open_composition(folder, catalog, settings=(setting,), environ={}))

    assert error.differences


@pytest.mark.parametrize(
    "setting", ["collect.concurrency=1", "collect.repeats=5", "environments.echo.config.url=http://x"]
)
def test_finished_work_goes_on_at_another_speed(folder: Path, catalog: Catalog, setting: str) -> None:
    """
    What is operational may change between two runs of a folder.
    """
    _collect_something(folder)

    assert len(open_composition(folder, catalog, settings=(setting,), environ={}).dataset) == 5


@pytest.mark.parametrize("setting", ["environments.shout.split=example", "environments.new.use=echo"])
def test_an_environment_that_the_folder_does_not_hold_is_refused(folder: Path, catalog: Catalog, setting: str) -> None:
    """
    Whoever adds one to the plan of a folder is told that its rows are not there.
    """
    error = _refused(lambda: open_composition(folder, catalog, settings=(setting,), environ={}))

    assert len(error.differences) == 1
    assert "absent ->" in error.differences[0]


def test_a_folder_may_be_moved(folder: Path, catalog: Catalog, tmp_path: Path) -> None:
    """
    Nothing in it says where it lies.
    """
    shutil.move(folder, tmp_path / "moved")

    assert len(open_composition(tmp_path / "moved", catalog, environ={}).dataset) == 5


# -- differences -------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_values_differ_exactly_when_there_is_something_to_say(there: Any, here: Any) -> None:
    """
    Equal values have no differences, and different ones at least one.
    """
    assert (differences(there, here) == []) == (there == here)


def test_differences_name_the_key_and_both_values() -> None:
    """
    One line a key, however deep it lies.
    """
    there = {"a": {"b": [1, 2]}, "gone": 1, "list": [1]}
    here = {"a": {"b": [1, 3]}, "new": "x" * 200, "list": [1, 2]}

    lines = differences(there, here)

    assert lines[:3] == ["a.b[1]: 2 -> 3", "gone: 1 -> absent", "list: [1] -> [1,2]"]
    assert lines[3].startswith('new: absent -> "xxx')
    assert len(lines[3]) < 120


def test_long_differences_are_shown_where_they_differ() -> None:
    """
    Two long values that begin alike do not look the same.
    """
    [line] = differences({"data": ["x" * 200 + "one"]}, {"data": ["x" * 200 + "two"]})

    assert line.startswith("data[0]: ...xxx")
    assert "one" in line
    assert "two" in line
