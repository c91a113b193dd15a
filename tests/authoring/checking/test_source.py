"""
Faults of the source are found without building or importing anything, each by the check that it belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.authoring import KINDS, write_project
from gymcore.authoring import Project as NewProject
from gymcore.authoring.checking import Finding, read_project
from gymcore.authoring.checking.source import check_source
from gymcore.errors import PluginError, RequestError

Edit = Callable[[str, str, str], None]

TOML = "pyproject.toml"
PACKAGE = "src/gym_plugin_word_count"
CODE = f"{PACKAGE}/environment.py"
MANIFEST = f"{PACKAGE}/gym.yaml"
ENTRY = 'word_count = "gym_plugin_word_count.environment:WordCount"'
NEEDS = 'dependencies = ["gymcore>=0.1"]'
DATA = "splits:\n  example: data/example.jsonl\n"

FAULTS: dict[str, tuple[str, str, str, str, str, str]] = {
    # name: (file, old, new), and the check, what its message or its fix says, and the place
    "misspelt group": (
        *(TOML, "gymcore.environments", "gymcore.environment"),
        *("offers_plugins", "gymcore.environments", ":16"),
    ),
    "no entry point": (
        *(TOML, ENTRY, ""),
        *("offers_plugins", "no entry point in a group of gymcore", TOML),
    ),
    "no name": (
        *(TOML, 'name = "gym-plugin-word-count"\n', ""),
        *("offers_plugins", "has no name", TOML),
    ),
    "bad plugin name": (
        *(TOML, "\nword_count =", "\nWordCount ="),
        *("names_are_valid", "'WordCount'", ":17"),
    ),
    "one name twice": (
        *(TOML, ENTRY, f"{ENTRY}\nword-{ENTRY[5:]}"),
        *("names_are_valid", "the same name", ":18"),
    ),
    "no such module": (
        *(TOML, "environment:Word", "environments:Word"),
        *("targets_are_in_the_source", "no module", ":17"),
    ),
    "no such class": (
        *(TOML, ":WordCount", ":WordCounts"),
        *("targets_are_in_the_source", "Did you mean 'WordCount'", ":17"),
    ),
    "not a class": (
        *(CODE, "class WordCount(Environment[WordCountTask]):", "def WordCount(x: Environment[WordCountTask]):"),
        *("targets_are_in_the_source", "is a function", "environment.py:16"),
    ),
    "syntax error": (
        *(CODE, "class WordCount(Environment[WordCountTask]):", "class WordCount(Environment[WordCountTask]:"),
        *("targets_are_in_the_source", "Python cannot read", "environment.py:16"),
    ),
    "no base class": (
        *(CODE, "class WordCount(Environment[WordCountTask]):", "class WordCount:"),
        *("targets_are_in_the_source", "not a subclass of gymcore.Environment", "environment.py:16"),
    ),
    "bad form": (
        *(TOML, ".environment:WordCount", ".environment.WordCount"),
        *("targets_are_in_the_source", ":Class", ":17"),
    ),
    "other package name": (
        *(TOML, 'name = "gym-plugin-word', 'name = "gym-plugin-w'),
        *("packages_are_named_after_the_distribution", "gym_plugin_w_count", ":17"),
    ),
    "unknown key": (
        *(MANIFEST, "description", "descriptoin"),
        *("manifests_are_valid", "did you mean 'description'", "gym.yaml:2"),
    ),
    "broken yaml": (
        *(MANIFEST, "[0, 1]", "[0, 1"),
        *("manifests_are_valid", "", "gym.yaml:"),
    ),
    "future gym_api": (
        *(MANIFEST, "gym_api: 1", "gym_api: 99"),
        *("manifests_are_valid", "interface version 99", "gym.yaml:1"),
    ),
    "path outside the package": (
        *(MANIFEST, "data/example", "../data/example"),
        *("manifests_are_valid", "inside", "gym.yaml:4"),
    ),
    "no file's name": (
        *(MANIFEST, "data/example", f"data/{'x' * 300}"),
        *("data_are_there", "is not there", "gym.yaml:4"),
    ),
    "data not there": (
        *(MANIFEST, "example.jsonl", "exampel.jsonl"),
        *("data_are_there", "Did you mean 'data/example", "gym.yaml:4"),
    ),
    "ignored data": (
        *(".gitignore", "/runs/", "*.jsonl"),
        *("nothing_is_ignored", "the pattern '*.jsonl'", ".gitignore:9"),
    ),
    "gymcore not required": (
        *(TOML, NEEDS, "dependencies = []"),
        *("gymcore_is_required", "not among", TOML),
    ),
    "no floor": (
        *(TOML, 'gymcore>=0.1"]\n\n[project', 'gymcore"]\n\n[project'),
        *("gymcore_is_required", "from which version", ":14"),
    ),
    "unreadable requirement": (
        *(TOML, NEEDS, 'dependencies = ["gymcore>=0.1", "numpy>>1"]'),
        *("gymcore_is_required", "numpy>>1", ":14"),
    ),
    "cap on gymcore": (
        *(TOML, NEEDS, 'dependencies = ["gymcore>=0.1,<2"]'),
        *("gymcore_is_not_capped", "upper bound", ":14"),
    ),
    "pinned library": (
        *(TOML, NEEDS, 'dependencies = ["gymcore>=0.1", "numpy==2.0.1"]'),
        *("requirements_are_open", "numpy==2.0.1", ":14"),
    ),
    "undeclared, absent": (
        *(CODE, "import re\n", "import re\nimport torchvision\n"),
        *("imports_are_declared", "Add 'torchvision'", "environment.py:6"),
    ),
    "undeclared, here": (
        *(CODE, "import re\n", "import re\nimport yaml\n"),
        *("imports_are_declared", "Add 'PyYAML'", "environment.py:6"),
    ),
    "undeclared, inside": (
        *(CODE, "        words = sum(", "        import hypothesis\n        words = sum("),
        *("imports_are_declared", "'hypothesis'", "environment.py:33"),
    ),
    "no requires-python": (
        *(TOML, 'requires-python = ">=3.11"\n', ""),
        *("python_is_stated", "missing", TOML),
    ),
    "old python": (
        *(TOML, ">=3.11", ">=3.9"),
        *("python_is_stated", "does not run", ":12"),
    ),
    "capped python": (
        *(TOML, ">=3.11", ">=3.11,<3.14"),
        *("python_is_stated", "newer Pythons out", ":12"),
    ),
    "no description": (
        *(TOML, "description =", "#"),
        *("project_is_described", "description is missing", TOML),
    ),
    "no licence": (
        *(TOML, 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]\n', ""),
        *("project_is_described", "license is missing", TOML),
    ),
    "readme not there": (
        *(TOML, '"README.md"', '"READ.md"'),
        *("project_is_described", "'READ.md' is not there", ":9"),
    ),
    "path of one machine": (
        *(CODE, '"""Pay 1.0', 'self.words = open("/home/ada/words.txt")\n        """Pay 1.0'),
        *("paths_are_not_of_one_machine", "/home/ada", "environment.py:32"),
    ),
    "path in the options": (
        *(MANIFEST, "reward_range", "config: {cache: /mnt/data/cache}\nreward_range"),
        *("paths_are_not_of_one_machine", "/mnt/data", "gym.yaml:5"),
    ),
}


def findings_of(root: Path) -> list[Finding]:
    return [finding for outcome in check_source(read_project(root)) for finding in outcome.findings]


@pytest.mark.parametrize("kind", KINDS)
def test_finds_nothing_in_what_gym_new_writes(kind: str, tmp_path: Path) -> None:
    """
    A new package of any kind is without a fault, and every check of the source is made.
    """
    write_project(NewProject(kind, "fresh"), tmp_path)

    outcomes = list(check_source(read_project(tmp_path)))

    assert {outcome.status for outcome in outcomes} == {"passed"}
    assert len({outcome.check for outcome in outcomes}) == len(outcomes) == 17


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_check_alone(written: Path, edit: Edit, fault: str) -> None:
    """
    One change, one finding: it says what, where, why and what to change.
    """
    path, old, new, check, words, place = FAULTS[fault]
    edit(path, old, new)

    findings = findings_of(written)

    assert [finding.check for finding in findings] == [check], findings
    (finding,) = findings
    assert words in f"{finding.message} {finding.fix}"
    assert place in (finding.where or "")
    assert finding.why
    assert finding.fix


def test_files_that_are_missing_are_found(written: Path) -> None:
    """
    A manifest, a data file and a typing marker that are not there are three findings.
    """
    (written / MANIFEST).unlink()
    without_manifest = findings_of(written)
    (written / MANIFEST).write_text(f"gym_api: 1\n{DATA}  train: data/train.jsonl\n")
    (written / PACKAGE / "data/train.jsonl").touch()
    (written / PACKAGE / "py.typed").unlink()
    without_marker = findings_of(written)

    assert [(finding.check, finding.where) for finding in without_manifest] == [("manifests_are_valid", MANIFEST)]
    assert [(finding.check, finding.level) for finding in without_marker] == [
        ("data_are_there", "error"),
        ("types_are_published", "warning"),
    ]
    assert "is empty" in without_marker[0].message


def test_a_link_out_of_the_package_is_no_data_file(written: Path, tmp_path: Path) -> None:
    """
    A link is followed by nobody but the machine on which it was made.
    """
    file = written / PACKAGE / "data/example.jsonl"
    file.rename(tmp_path / "elsewhere.jsonl")
    file.symlink_to(tmp_path / "elsewhere.jsonl")

    assert [finding.message for finding in findings_of(written)] == [
        "the data file 'data/example.jsonl' is a link that leads out of the package"
    ]


def test_data_that_are_too_big_are_named(written: Path) -> None:
    """
    The biggest file is named, and where it can go instead.
    """
    with (written / PACKAGE / "data/example.jsonl").open("ab") as file:
        file.truncate(10_500_000)

    (finding,) = findings_of(written)

    assert (finding.check, finding.level) == ("data_are_small", "warning")
    assert "10.5 MB" in finding.message
    assert "sha256" in finding.fix


def test_a_package_beside_the_pyproject_is_a_trap(written: Path, edit: Edit) -> None:
    """
    A flat layout is warned of, and everything else of it is found where it lies.
    """
    (written / PACKAGE).rename(written / "gym_plugin_word_count")
    edit(TOML, "src/gym_plugin_word_count", "gym_plugin_word_count")

    (finding,) = findings_of(written)

    assert (finding.check, finding.level) == ("layout_is_src", "warning")


def test_libraries_that_may_be_missing_need_no_requirement(written: Path, edit: Edit) -> None:
    """
    An import inside of a `try`, for type checkers, or of what stands beside it, is no finding; an extra is enough.
    """
    edit(TOML, NEEDS, f'{NEEDS}\noptional-dependencies = {{plots = ["matplotlib>=3"]}}')
    (written / PACKAGE / "words.py").touch()
    edit(
        CODE,
        "import re\n",
        "import re\nfrom typing import TYPE_CHECKING\n\nimport matplotlib.pyplot\nfrom . import words\n"
        "import gym_plugin_word_count.words\nimport pydantic\n\ntry:\n    import torch\nexcept ImportError:\n"
        "    torch = None\nif TYPE_CHECKING:\n    import pandas\n",
    )

    assert findings_of(written) == []


def test_a_class_may_come_from_another_module(written: Path, edit: Edit) -> None:
    """
    An entry point may lead to a name that its module has from elsewhere in the source.
    """
    edit(TOML, ".environment:WordCount", ":WordCount")
    edit(f"{PACKAGE}/__init__.py", '"""', '"""')
    with (written / PACKAGE / "__init__.py").open("a") as file:
        file.write("\nfrom .environment import WordCount as WordCount\n")

    assert findings_of(written) == []


def test_without_git_the_wheel_is_left_to_tell(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What only git can say is skipped with its reason on a machine that has none.
    """
    monkeypatch.setenv("PATH", os.devnull)

    skipped = [
        (outcome.check, outcome.told) for outcome in check_source(read_project(written)) if outcome.status == "skipped"
    ]

    assert [check for check, _ in skipped] == ["nothing_is_ignored"]
    assert "no git" in skipped[0][1]


def test_a_folder_without_a_project_is_a_wrong_request(tmp_path: Path) -> None:
    """
    No pyproject.toml, nothing to check; one that cannot be read is broken, and names the line.
    """
    with pytest.raises(RequestError, match=r"there is no pyproject\.toml"):
        read_project(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = oops\n")
    with pytest.raises(PluginError, match="line 2"):
        read_project(tmp_path)
