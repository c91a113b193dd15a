"""
Faults that only a built wheel shows are found in it, each by the check that it belongs to.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gymcore.authoring.checking import Outcome, read_project
from gymcore.authoring.checking.wheel import Wheel, build_wheel, check_wheel

Edit = Callable[[str, str, str], None]

TOML = "pyproject.toml"
PACKAGE = "src/gym_plugin_word_count"
HATCH = 'packages = ["src/gym_plugin_word_count"]'


def built(root: Path, *, offline: bool = True) -> tuple[Wheel, list[Outcome]]:
    project = read_project(root)
    folder = root.parent / "wheel"
    folder.mkdir()
    wheel, outcome = build_wheel(project, folder, offline=offline)
    if wheel is None and not offline and "would have to be fetched" in outcome.findings[0].message:
        pytest.skip("no index can be reached, and a backend that this needs is not installed here")
    assert wheel is not None, outcome.findings
    return wheel, [outcome, *check_wheel(project, wheel)]


def messages_of(outcomes: list[Outcome]) -> dict[str, list[str]]:
    """
    What each check has found.
    """
    return {
        outcome.check: [finding.message for finding in outcome.findings] for outcome in outcomes if outcome.findings
    }


def test_finds_nothing_in_a_good_wheel(written: Path) -> None:
    """
    All is well, and the build has left nothing in the project.
    """
    before = sorted(written.rglob("*"))

    wheel, outcomes = built(written)

    assert {outcome.status for outcome in outcomes} == {"passed"}
    assert [offer.target for offer in wheel.offers] == ["gym_plugin_word_count.environment:WordCount"]
    assert sorted(written.rglob("*")) == before


def test_setuptools_without_package_data_loses_manifest_and_data(written: Path, edit: Edit) -> None:
    """
    What the default of the best-known backend leaves out is named, one by one, and how it is kept.
    """
    edit(TOML, '"hatchling>=1.26"', '"setuptools"')
    edit(TOML, "hatchling.build", "setuptools.build_meta")
    edit(TOML, 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]\n', "")
    before = sorted(written.rglob("*"))

    _, outcomes = built(written, offline=False)

    assert messages_of(outcomes) == {
        "wheel_holds_the_manifests": ["gym_plugin_word_count/gym.yaml is not in the wheel"],
        "wheel_holds_the_data": ["gym_plugin_word_count/data/example.jsonl is not in the wheel"],
    }
    assert all("package-data" in finding.fix for outcome in outcomes for finding in outcome.findings)
    assert sorted(written.rglob("*")) == before  # no build/, no egg-info


def test_ignored_data_and_stray_files_are_found(written: Path, edit: Edit) -> None:
    """
    What `.gitignore` hides does not arrive; tests, keys and rubbish do.
    """
    edit(".gitignore", "__pycache__/\n", "*.jsonl\n")
    edit(".gitignore", ".env\n", "")
    edit(TOML, HATCH, f'{HATCH[:-1]}, "tests"]\nexclude = ["py.typed"]\nforce-include = {{"LICENSE" = "notes.txt"}}')
    (written / PACKAGE / ".env").write_text("KEY=1")
    (written / PACKAGE / "old.orig").write_text("")

    _, outcomes = built(written)

    assert messages_of(outcomes) == {
        "wheel_holds_the_data": ["gym_plugin_word_count/data/example.jsonl is not in the wheel"],
        "wheel_is_typed": ["gym_plugin_word_count/py.typed is not in the wheel"],
        "wheel_holds_nothing_stray": [
            "notes.txt would be installed beside all other packages: a file",
            "tests would be installed beside all other packages: a folder with 1 files",
            "gym_plugin_word_count/old.orig is left of other work",
        ],
        "wheel_holds_no_secrets": ["gym_plugin_word_count/.env may hold a secret"],
    }
    places = [finding.where for outcome in outcomes for finding in outcome.findings]
    assert f"{PACKAGE}/.env" in places
    assert f"{PACKAGE}/data/example.jsonl" in places


def test_a_manifest_that_is_left_out_is_found(written: Path, edit: Edit) -> None:
    """
    A manifest that the build excludes, or takes from elsewhere, is named.
    """
    edit(TOML, HATCH, f'{HATCH}\nexclude = ["*.yaml"]')

    _, outcomes = built(written)

    assert messages_of(outcomes) == {
        "wheel_holds_the_manifests": ["gym_plugin_word_count/gym.yaml is not in the wheel"]
    }


def changed(wheel: Wheel, change: Callable[[str, bytes], Iterator[tuple[str, bytes]]]) -> Wheel:
    """
    A wheel whose files were changed by hand.
    """
    other = Wheel(wheel.path.with_name("changed.whl"), wheel.how)
    with zipfile.ZipFile(wheel.path) as source, zipfile.ZipFile(other.path, "w") as target:
        for name in source.namelist():
            for new_name, data in change(name, source.read(name)):
                target.writestr(new_name, data)
    return other


def test_a_wheel_that_was_changed_by_hand_is_found(written: Path) -> None:
    """
    A digest that does not fit, a file that is not listed, one that is gone, and other entry points.
    """
    wheel, _ = built(written)

    def change(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
        if name.endswith("environment.py"):
            yield name, data + b"# more\n"
            yield name.replace("environment", "extra"), data
        elif name.endswith("entry_points.txt"):
            yield name, data.replace(b"word_count =", b"words =")
        elif not name.endswith("py.typed"):
            yield name, data

    found = messages_of(list(check_wheel(read_project(written), changed(wheel, change))))

    assert found.pop("wheel_is_in_order") == [
        "gym_plugin_word_count/environment.py is not what its RECORD says",
        "gym_plugin_word_count/extra.py is not in its RECORD",
        "gym_plugin_word_count-0.1.0.dist-info/entry_points.txt is not what its RECORD says",
        "its RECORD lists gym_plugin_word_count/py.typed, which is not there",
    ]
    assert found.pop("wheel_offers_the_same") == [
        "the environment word_count leads to nothing in the wheel, and to "
        "gym_plugin_word_count.environment:WordCount in the source",
        "the environment words leads to gym_plugin_word_count.environment:WordCount in the wheel, and to "
        "nothing in the source",
    ]
    assert list(found) == ["wheel_is_typed"]


def test_a_wheel_without_the_package_is_found(written: Path, edit: Edit) -> None:
    """
    A backend that does not find the package is content; the wheel is not.
    """
    edit(TOML, HATCH, 'packages = ["src/other"]')

    _, outcomes = built(written)

    assert messages_of(outcomes)["wheel_holds_the_code"] == [
        "the module gym_plugin_word_count.environment is not in the wheel"
    ]


def test_a_build_that_fails_is_told_with_what_it_lacks(written: Path, edit: Edit) -> None:
    """
    What the installer says last is shown, and what would have to be fetched; no wheel is made up.
    """
    edit(TOML, "hatchling.build", "no_such_backend")
    folder = written.parent / "wheel"
    folder.mkdir()

    wheel, outcome = build_wheel(read_project(written), folder, offline=True)

    assert wheel is None
    assert (outcome.check, outcome.status) == ("wheel_is_built", "failed")
    assert "no_such_backend would have to be fetched" in outcome.findings[0].message
    assert outcome.findings[0].where == "pyproject.toml:1"
