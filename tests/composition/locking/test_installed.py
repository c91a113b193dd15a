"""
What a lock says of the code behind its plugins, and which changes of it keep a run from going on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import compose, open_composition, read_lock, write_composition
from gymcore.composition.locking.installed import code_changes, describe_distributions
from gymcore.composition.locking.lock import encode_lock
from gymcore.discovery import discover
from gymcore.documents import YamlDocument
from gymcore.errors import RunFolderError
from gymcore.plan import Plan
from gymcore.testing.plugins import PluginFolder

ECHO = "gym-plugin-echo"


@pytest.fixture
def own(echo_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """
    The echo plugins, in a folder that a test may change.
    """
    folder = tmp_path / "installed"
    shutil.copytree(echo_folder, folder)
    with PluginFolder(folder):
        yield folder


def composed(plan: dict[str, Any]) -> Any:
    """Compose a plan with what is installed now."""
    return compose(Plan.from_document(YamlDocument(json.loads(json.dumps(plan)))), discover(), environ={})


def described(*names: str, kind: Any = "environment") -> dict[str, Any]:
    """Describe the distributions of some plugins as they are installed now."""
    catalog = discover()
    return describe_distributions(catalog, [catalog.find(kind, name) for name in names])


def dist_info(folder: Path) -> Path:
    """Return the folder of the distribution's metadata."""
    return next(folder.glob("gym_plugin_echo-*.dist-info"))


def say_where_from(folder: Path, **facts: Any) -> None:
    """Write what an installer writes of an origin, https://peps.python.org/pep-0610/."""
    (dist_info(folder) / "direct_url.json").write_text(json.dumps(facts))


def append(path: Path, text: str = "# changed\n") -> None:
    """Change a file."""
    path.write_text(path.read_text() + text)


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_wheel_is_told_by_its_record_its_manifests_and_its_code(own: Path) -> None:
    """
    Each digest can be computed with sha256sum; data have theirs elsewhere in the lock.
    """
    told = described("echo")[ECHO]

    code = own / "gym_plugin_echo" / "__init__.py"
    manifest = own / "gym_plugin_echo" / "gym.yaml"
    assert told["installed"] == "wheel"
    assert len(told["record"]) == 64
    assert told["manifests"] == {"gym_plugin_echo/gym.yaml": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    assert told["packages"]["gym_plugin_echo"]["files"] == {
        "gym_plugin_echo/__init__.py": hashlib.sha256(code.read_bytes()).hexdigest()
    }


def test_only_distributions_that_are_used_are_looked_at(own: Path) -> None:
    """
    A lock names the distributions of its environments, agents, models and hooks, and of each only those packages.
    """
    lock = composed({"environments": {"echo": {}}, "hooks": ["watch"]}).lock

    assert list(lock["distributions"]) == [ECHO, "gymcore"]
    assert list(lock["distributions"][ECHO]["packages"]) == ["gym_plugin_echo", "gym_plugin_watch"]
    assert list(lock["distributions"]["gymcore"]["packages"]) == [
        "gymcore.builtin.oracle",
        "gymcore.builtin.simple_agent",
    ]
    assert lock["hooks"] == ["gym-plugin-echo/watch 0.1.0"]


@pytest.mark.parametrize(
    ("facts", "installed", "origin"),
    [
        ({"url": "file:///home/me/echo", "dir_info": {"editable": True}}, "editable", None),
        ({"url": "file:///home/me/echo", "dir_info": {}}, "wheel", None),
        (
            {
                "url": "https://me:hush@git.example.org/echo.git?token=hush#hush",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "0123abc"},
            },
            "wheel",
            {"vcs": "git", "commit": "0123abc", "url": "https://git.example.org/echo.git"},
        ),
        (
            {"url": "file:///home/me/echo", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}},
            "wheel",
            {"vcs": "git", "commit": "0123abc"},
        ),
        (
            {"url": "https://hush@example.org/echo.whl", "archive_info": {"hashes": {"sha256": "99"}}},
            "wheel",
            {"sha256": "99", "url": "https://example.org/echo.whl"},
        ),
        ({"url": 7, "vcs_info": [], "dir_info": None}, "wheel", None),
        ({"url": "https://me:hush/hush@git.example.org/echo", "dir_info": {}}, "wheel", None),
        ({"url": "git+ssh://git@example.org:22/a/b.git"}, "wheel", {"url": "git+ssh://example.org:22/a/b.git"}),
    ],
    ids=["editable", "folder", "vcs", "vcs of a folder", "archive", "nonsense", "half a password", "ssh"],
)
def test_an_origin_is_told_without_credentials_and_without_paths(
    own: Path, facts: dict[str, Any], installed: str, origin: dict[str, str] | None
) -> None:
    """
    What an installer wrote down of the origin is passed on as far as it means something on another machine.
    """
    say_where_from(own, **facts)

    told = described("echo")[ECHO]

    assert (told["installed"], told["origin"]) == (installed, origin)
    assert "hush" not in json.dumps(told)
    assert "/home" not in json.dumps(told)


def test_another_installer_and_another_python_say_the_same(own: Path) -> None:
    """
    Bytecode, scripts and the installer's own marks differ although the wheel does not.
    """
    before = described("echo")
    record = dist_info(own) / "RECORD"
    append(record, "gym_plugin_echo/__pycache__/__init__.cpython-399.pyc,sha256=x,3\n../../bin/echo,sha256=y,4\n")
    append(record, f"{dist_info(own).name}/INSTALLER,sha256=other,2\n")
    (own / "gym_plugin_echo" / "__pycache__").mkdir(exist_ok=True)
    (own / "gym_plugin_echo" / "__pycache__" / "__init__.cpython-399.pyc").write_bytes(b"code")
    (own / "gym_plugin_echo" / ".environment.py.swp").write_bytes(b"an editor's")
    (own / "gym_plugin_echo" / "environment.py~").write_bytes(b"an editor's")

    assert described("echo") == before


def test_a_link_that_leads_back_is_followed_once(own: Path) -> None:
    """
    A folder of a plugin may hold a link to itself.
    """
    (own / "gym_plugin_echo" / "again").symlink_to(own / "gym_plugin_echo")

    assert list(described("echo")[ECHO]["packages"]["gym_plugin_echo"]["files"]) == ["gym_plugin_echo/__init__.py"]


def test_what_lies_elsewhere_is_not_followed(own: Path, tmp_path: Path) -> None:
    """
    Behind a link there may be a whole disk; a package that is linked into a thousand places is entered once.
    """
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "huge.bin").write_text("huge")
    package = own / "gym_plugin_echo"
    (package / "assets").symlink_to(tmp_path / "elsewhere")
    deep = package
    for _ in range(20):
        deep = deep / "deep"
        deep.mkdir()
        (deep.parent / "left").symlink_to(deep)
        (deep.parent / "right").symlink_to(deep)
    (deep / "one.txt").write_text("one")

    files = described("echo")[ECHO]["packages"]["gym_plugin_echo"]["files"]

    assert len(files) == 2
    assert sum(path.endswith("/one.txt") for path in files) == 1


def test_a_name_that_is_no_text_is_written_as_one(own: Path) -> None:
    """
    A lock is JSON, and file names are bytes.
    """
    with (own / "gym_plugin_echo" / os.fsdecode(b"\xff.txt")).open("w") as file:
        file.write("odd")

    files = described("echo")[ECHO]["packages"]["gym_plugin_echo"]["files"]

    assert "gym_plugin_echo/\\xff.txt" in files
    encode_lock({"files": files})


def test_of_a_working_copy_what_lies_beside_the_package_counts(own: Path, tmp_path: Path) -> None:
    """
    A verifier in a second package of the same project is code of the plugin; its tests are not.
    """
    say_where_from(own, url="file:///somewhere", dir_info={"editable": True})
    for path in ("echo_verifier/__init__.py", "echo_rules.py", "tests/__init__.py", "notes/readme.txt"):
        (own / path).parent.mkdir(exist_ok=True)
        (own / path).write_text("VALUE = 1\n")
    before = described("echo")
    assert {"gym_plugin_echo", "echo_verifier", "echo_rules"} <= before[ECHO]["packages"].keys()
    assert not {"tests", "notes"} & before[ECHO]["packages"].keys()

    append(own / "echo_verifier" / "__init__.py")
    append(own / "tests" / "__init__.py")

    assert [line.partition(" (")[0] for line in code_changes(before, described("echo"))[ECHO]] == [
        "gym-plugin-echo: echo_verifier/__init__.py has changed"
    ]


def test_a_package_of_many_files_has_one_digest(own: Path) -> None:
    """
    The lock stays readable, and a change is seen all the same.
    """
    for number in range(150):
        (own / "gym_plugin_echo" / f"asset{number}.txt").write_text("old")
    before = described("echo")
    (own / "gym_plugin_echo" / "asset77.txt").write_text("new")

    changes = code_changes(before, described("echo"))

    assert "files" not in before[ECHO]["packages"]["gym_plugin_echo"]
    assert [line.partition(" (")[0] for line in changes[ECHO]] == [
        "gym-plugin-echo: the code of gym_plugin_echo has changed"
    ]


def test_a_damaged_installation_says_nothing_and_stops_nobody(own: Path) -> None:
    """
    Without its metadata a plugin is told by its code.
    """
    catalog = discover()
    plugin = catalog.find("environment", "echo")
    (dist_info(own) / "direct_url.json").write_text("{half")
    (dist_info(own) / "RECORD").unlink()

    told = describe_distributions(catalog, [plugin])[ECHO]

    assert (told["installed"], told["origin"], told["record"]) == (None, None, None)
    assert told["packages"]["gym_plugin_echo"]["sha256"]


# -- what a change means -----------------------------------------------------------------------------------------------


def a_run(tmp_path: Path, plan: dict[str, Any]) -> Path:
    """Return a folder with a composition and something collected in it."""
    write_composition(composed(plan), tmp_path / "run")
    (tmp_path / "run" / "rollouts.jsonl").write_text("{}\n")
    return tmp_path / "run"


def refused(act: Callable[[], Any]) -> RunFolderError:
    """Return the refusal."""
    with pytest.raises(RunFolderError) as caught:
        act()
    return caught.value


PLAN = {"environments": {"echo": {}}, "hooks": ["watch"]}


def test_finished_work_takes_no_other_verifier(own: Path, tmp_path: Path) -> None:
    """
    The file that has changed is named, whether the plan is given again or read from the folder, and nothing is written.
    """
    folder = a_run(tmp_path, PLAN)
    lock = read_lock(folder)
    append(own / "gym_plugin_echo" / "__init__.py")
    (own / "gym_plugin_echo" / "judge.py").write_text("")

    again = refused(lambda: write_composition(composed(PLAN), folder))
    opened = refused(lambda: open_composition(folder, discover(), environ={}))

    assert again.message == "the folder holds rollouts that other code has made"
    for error in (again, opened):
        [changed, new] = error.differences
        assert changed.startswith("gym-plugin-echo: gym_plugin_echo/__init__.py has changed (sha256 ")
        assert new == "gym-plugin-echo: gym_plugin_echo/judge.py is new"
    assert read_lock(folder) == lock


@pytest.mark.parametrize(
    "change",
    [
        lambda own: say_where_from(own, url="file:///elsewhere", dir_info={"editable": True}),
        lambda own: say_where_from(own, url="https://x.org/a", vcs_info={"vcs": "git", "commit_id": "1"}),
        lambda own: append(own / "gym_plugin_echo" / "gym.yaml"),
    ],
    ids=["editable now", "from a repository now", "a comment in the manifest"],
)
def test_finished_work_goes_on_where_nothing_else_is_meant(
    own: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """
    How a plugin was installed, what its manifest says beside options and data, and who only observes mean nothing.
    """
    folder = a_run(tmp_path, PLAN)
    before = read_lock(folder)
    change(own)

    opened = open_composition(folder, discover(), environ={})
    write_composition(opened, folder)

    assert read_lock(folder) == opened.lock != before
    write_composition(composed({**PLAN, "hooks": []}), folder)


def test_the_code_of_a_hook_decides_nothing(own: Path, tmp_path: Path) -> None:
    """
    Who only observes may change between two runs of a folder; the lock tells of it all the same.
    """
    with PluginFolder(own) as plugins:
        files = {"gym_plugin_eyes/__init__.py": "", "gym_plugin_eyes/gym.yaml": "gym_api: 1"}
        plugins.install("gym-plugin-eyes", files, {"gymcore.hooks": {"eyes": "gym_plugin_eyes"}})
        folder = a_run(tmp_path, {**PLAN, "hooks": ["eyes"]})
        before = read_lock(folder)
        append(own / "gym_plugin_eyes" / "__init__.py")

        opened = open_composition(folder, discover(), environ={})

    assert opened.lock != before
    assert "gym-plugin-eyes" in opened.lock["distributions"]


def test_a_hook_that_also_plays_is_no_mere_observer(own: Path, tmp_path: Path) -> None:
    """
    Environment and hook of one distribution share its RECORD; where the environment is used, it counts.
    """
    folder = a_run(tmp_path, PLAN)
    record = dist_info(own) / "RECORD"
    record.write_text(
        record.read_text().replace("gym_plugin_voice/__init__.py,sha256=", "gym_plugin_voice/a.py,sha256=")
    )

    error = refused(lambda: open_composition(folder, discover(), environ={}))

    assert error.differences[0].startswith("gym-plugin-echo: its RECORD names other code (sha256 ")


def test_a_model_that_has_changed_is_taken_where_nothing_is_finished(own: Path, tmp_path: Path) -> None:
    """
    A dataset is composed once and played with this model or that, of this code or another.
    """
    plan = {
        "environments": {"example_multi_step": {}},
        "models": {"policy": {"use": "keyed", "config": {"base_url": "x"}}},
    }
    folder = a_run(tmp_path, plan)
    append(own / "gym_plugin_keyed" / "__init__.py")

    assert refused(lambda: open_composition(folder, discover(), environ={})).differences
    (folder / "rollouts.jsonl").unlink()
    assert len(open_composition(folder, discover(), environ={}).dataset) == 5


def test_another_environment_of_the_same_distribution_is_more_of_the_same(own: Path, tmp_path: Path) -> None:
    """
    That a lock comes to tell of further packages is no conflict.
    """
    folder = a_run(tmp_path, PLAN)
    more = composed({**PLAN, "environments": {"echo": {}, "shout": {}}})

    write_composition(more, folder)

    assert read_lock(folder) == more.lock
