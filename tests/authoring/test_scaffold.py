"""
A new package is written whole or not at all, under a name that can be used.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import gymcore
from gymcore.authoring import KINDS, LICENSES, Project, write_project
from gymcore.discovery import Catalog, Plugin, discover
from gymcore.discovery.catalog import Kind
from gymcore.errors import RequestError, StorageError

NOTHING = Catalog(())
LONGEST_PATH = 4095
ROOT = Path(gymcore.__file__).parents[1]


def held_by(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_environment_is_a_complete_package(tmp_path: Path) -> None:
    """
    Everything that a package needs to be installed, tested and published is there, and it says what it is.
    """
    paths = write_project(Project("environment", "word-count", author="Ada <ada@example.org>"), tmp_path / "new")
    project = tomllib.loads((tmp_path / "new/pyproject.toml").read_text())["project"]

    assert held_by(tmp_path / "new") == paths
    assert paths == [
        ".gitignore",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "src/gym_plugin_word_count/__init__.py",
        "src/gym_plugin_word_count/data/example.jsonl",
        "src/gym_plugin_word_count/environment.py",
        "src/gym_plugin_word_count/gym.yaml",
        "src/gym_plugin_word_count/py.typed",
        "tests/test_environment.py",
    ]
    assert project["name"] == "gym-plugin-word-count"
    assert project["entry-points"] == {
        "gymcore.environments": {"word-count": "gym_plugin_word_count.environment:WordCount"}
    }
    assert project["dependencies"] == ["gymcore>=" + ".".join(gymcore.__version__.split(".")[:2])]
    assert project["authors"] == [{"name": "Ada", "email": "ada@example.org"}]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nothing is left of the writing


def test_the_readme_shows_a_task_as_it_is(tmp_path: Path) -> None:
    """
    The task in the README is the first row of the data, and there are five rows.
    """
    files = Project("environment", "mine").files()
    rows = files["src/gym_plugin_mine/data/example.jsonl"].splitlines()

    assert len(rows) == 5
    assert json.loads(files["README.md"].split("```json\n")[1].split("```")[0]) == json.loads(rows[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("license", LICENSES)
def test_carries_the_licence_that_was_chosen(kind: str, license: str) -> None:
    """
    The text, what the metadata say and what the README says agree; without a licence, there is none of the three.
    """
    files = Project(kind, "mine", license, "Ada Lovelace <ada@example.org>").files()
    project = tomllib.loads(files["pyproject.toml"])["project"]

    assert project.get("license", "none").lower() == license
    if license == "none":
        assert "LICENSE" not in files
        assert "license-files" not in project
        assert "No licence has been chosen yet" in files["README.md"]
    else:
        assert "see `LICENSE`" in files["README.md"]
        assert license == "apache-2.0" or "Ada Lovelace\n" in files["LICENSE"]
    assert [path for path, text in files.items() if "$" in text] == []


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_git_ignores_nothing_of_it(tmp_path: Path) -> None:
    """
    What is written is what would be committed, data included.
    """
    paths = write_project(Project("environment", "mine"), tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    listing = ["git", "ls-files", "--others", "--exclude-standard"]

    done = subprocess.run(listing, cwd=tmp_path, check=True, capture_output=True, text=True)

    assert sorted(done.stdout.split()) == paths


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "word_count", "word-count", "game2048", "a" * 64, "x-1_y"])
def test_takes_good_names(name: str) -> None:
    """
    Small letters, digits and separators; classes and modules are made of them.
    """
    project = Project("environment", name)

    project.check(NOTHING)

    assert project.module.isidentifier()
    assert project.class_name.isidentifier()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("WordCount", "try: gym new environment word_count"),
        ("word count!", "try: gym new environment word_count"),
        ("2048", "begins with a letter"),
        ("wörter", "try: gym new environment w_rter"),
        ("", "is no name for a plugin"),
        ("a" * 65, "at most 64"),
        ("count_", "try: gym new environment count"),
        ("../../etc", "try: gym new environment etc"),
        ("gym-plugin-count", "is put in front of the name by itself"),
        ("gym_plugin_count", "try: gym new environment count"),
        ("class", "a word of the Python language"),
        ("match", "a word of the Python language"),
        ("none", "its class would be called None"),
        ("exception", "its class would be called Exception"),
        ("random", "a module of Python's standard library"),
        ("task", "would be taken for gymcore.Task"),
        ("open-environment", "would be taken for gymcore.OpenEnvironment"),
        ("gymcore", "a word of gymcore's own"),
    ],
)
def test_refuses_bad_names_and_says_what_a_good_one_is(name: str, told: str) -> None:
    """
    A name that cannot be, or that means something else already, is refused with one that would do.
    """
    with pytest.raises(RequestError, match=told.replace(".", r"\.")):
        Project("environment", name).check(NOTHING)


@pytest.mark.parametrize(
    ("kind", "name", "is_free"),
    [("environment", "Chess-Game", False), ("agent", "chess_game", True), ("model", "other", False)],
)
def test_refuses_the_names_of_installed_plugins(kind: Kind, name: str, is_free: bool) -> None:
    """
    Two plugins of one name and kind, or two distributions of one name, would be in each other's way.
    """
    taken = Plugin(kind, name, "gym-plugin-other", "1.0", "other:Other")
    wanted = "other" if name == "other" else "chess-game"
    project = Project("environment", wanted)

    if is_free:
        project.check(Catalog((taken,)))
    else:
        with pytest.raises(RequestError, match=rf"{name}' is installed already, by gym-plugin-other 1\.0"):
            project.check(Catalog((taken,)))


def test_refuses_a_package_that_can_be_imported_already() -> None:
    """
    Whatever is importable under the new package's name would hide it, or be hidden.
    """
    with pytest.raises(RequestError, match="'gym_plugin_example_multi_step' can be imported already"):
        Project("agent", "example_multi_step").check(NOTHING)


def test_the_names_of_our_own_plugins_are_taken() -> None:
    """
    What `discover` finds is what is asked.
    """
    with pytest.raises(RequestError, match="the model 'oracle' is installed already, by gymcore"):
        Project("model", "oracle").check(discover())


@pytest.mark.parametrize(
    "author",
    [
        "",
        " <>",
        "Ada\nLovelace",
        "Ada \x1b[31m",
        "Ada <a@b.c>, Bob <b@c.d>",
        "Ada <not an address>",
        "Ada <a@b.c",
        "Ada > <a@b.c>",
        "Ada <a@b.c> Lovelace",
    ],
)
def test_refuses_an_author_that_is_nobody(author: str) -> None:
    """
    An author is a name or an address, on one line.
    """
    with pytest.raises(RequestError, match="an author is a name"):
        Project("environment", "mine", author=author).check(NOTHING)


@pytest.mark.parametrize(
    "author", ['Ada "the first" Lovelace', "Ada\\Lovelace", "Šárka <s@example.org>", "<a@example.org>"]
)
def test_writes_any_author_down_as_they_are(author: str) -> None:
    """
    Quotation marks and backslashes are no harm to the metadata.
    """
    project = tomllib.loads(Project("environment", "mine", author=author).files()["pyproject.toml"])["project"]

    (written,) = project["authors"]
    assert written.get("name", "") == author.partition("<")[0].strip()
    assert written.get("email", "") == author.partition("<")[2].strip(">")


def test_an_author_without_a_name_holds_the_copyright_by_address() -> None:
    """
    A licence of nobody's would be none.
    """
    for license in ("mit", "bsd-3-clause"):
        text = Project("environment", "mine", license=license, author="<a@example.org>").files()["LICENSE"]
        assert re.search(r"Copyright \(c\) \d{4},? a@example\.org", text)


@pytest.mark.parametrize(("kind", "name"), [("environment", "scripted-model"), ("agent", "scripted_model")])
def test_refuses_a_name_whose_class_its_own_files_import(kind: str, name: str) -> None:
    """
    The tests of the package would define a name that they import.
    """
    with pytest.raises(RequestError, match="its class would be called ScriptedModel, which its files import"):
        Project(kind, name).check(NOTHING)


# -- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["README.md", ".git/HEAD"])
def test_leaves_a_folder_alone_that_holds_something(tmp_path: Path, held: str) -> None:
    """
    Nothing that was there is touched, hidden or not, and nothing is added.
    """
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("mine")

    with pytest.raises(RequestError, match=f"not empty: it holds {held.split('/')[0]}"):
        write_project(Project("environment", "mine"), tmp_path)

    assert held_by(tmp_path) == [held]
    assert (tmp_path / held).read_text() == "mine"


def test_refuses_a_place_that_is_no_folder(tmp_path: Path) -> None:
    """
    A file and a dead link are named for what they are.
    """
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(RequestError, match="this is a file"):
        write_project(Project("environment", "mine"), tmp_path / "file")
    with pytest.raises(RequestError, match="a link that leads nowhere"):
        write_project(Project("environment", "mine"), tmp_path / "link")


def test_writes_into_the_empty_folder_that_one_stands_in(tmp_path: Path) -> None:
    """
    `--path .` keeps the folder itself, and leaves nothing hidden in it.
    """
    before = tmp_path.stat().st_ino

    paths = write_project(Project("environment", "mine"), tmp_path)

    assert tmp_path.stat().st_ino == before
    assert held_by(tmp_path) == paths
    assert {path.name for path in tmp_path.iterdir()} == {path.split("/")[0] for path in paths}


def test_makes_the_folders_above(tmp_path: Path) -> None:
    """
    A place deep down is made on the way.
    """
    assert held_by(tmp_path) == []

    write_project(Project("hooks", "mine"), tmp_path / "a/b/c")

    assert (tmp_path / "a/b/c/pyproject.toml").is_file()


@pytest.mark.parametrize("is_there", [True, False])
def test_leaves_nothing_where_it_cannot_write(tmp_path: Path, is_there: bool) -> None:
    """
    Where one file of the package cannot be written, neither half a package nor scraps are left.
    """
    deepest = "/.gym-plugin-mine-12345678/project/src/gym_plugin_mine/data"
    deep = tmp_path
    while (left := LONGEST_PATH - len(str(deep)) - len(deepest) - 1) > 0:  # the folder fits, its files do not
        deep = deep / ("d" * min(200, left))
    deep.mkdir(parents=True)
    place = deep if is_there else deep / "new"

    with pytest.raises(StorageError, match="cannot be written: File name too long"):
        write_project(Project("environment", "mine"), place)

    assert list(deep.iterdir()) == []


def test_leaves_no_folders_above_where_it_cannot_write(tmp_path: Path) -> None:
    """
    What was made on the way is removed, and what was there before stays.
    """
    (tmp_path / "there").mkdir()
    too_long = "n" * 250  # the scratch folder's name fits, the place's does not fit the file system's

    with pytest.raises(StorageError, match="cannot be written"):
        write_project(Project("hooks", "mine"), tmp_path / "there/a/b" / (too_long + too_long))

    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_the_templates_are_part_of_the_wheel() -> None:
    """
    Whoever installs the core can write plugins, without a clone of it.
    """
    builder = WheelBuilder(str(ROOT))
    shipped = {file.distribution_path for file in builder.recurse_included_files()}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gymcore/authoring/templates").rglob("*.template")}

    assert len(here) > 20
    assert here <= shipped
