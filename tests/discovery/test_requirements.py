"""
What distributions need, compared with what is installed: metadata in a folder, as installers leave them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.discovery.requirements import Installed, remedies_of

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """
    Put the metadata of a distribution into the folder.
    """

    def put(name: str, version: str | None, *needs: str, python: str | None = None, stem: str | None = None) -> None:
        folder = tmp_path / f"{(stem or name).replace('-', '_')}-{version or 'unknown'}.dist-info"
        folder.mkdir()
        head = ["Metadata-Version: 2.1", f"Name: {name}"]
        head += [f"Version: {version}"] if version else []
        head += [f"Requires-Dist: {need}" for need in needs]
        head += [f"Requires-Python: {python}"] if python else []
        (folder / "METADATA").write_text("\n".join([*head, "", "Requires-Dist: not-this", "the description"]))

    return put


def told(folder: Path, name: str = "plugin") -> list[str]:
    """Return what is told of a distribution."""
    return [clash.describe() for clash in Installed([str(folder)]).clashes(name)]


def test_what_is_older_newer_or_absent_is_named_with_what_is_installed(install: Install, tmp_path: Path) -> None:
    """
    Each requirement that is not met is one line; those that are met are none.
    """
    install("plugin", "0.1", "click<8.2", "absent>=2", "fine>=1,<2", "fine")
    install("click", "8.5.1")
    install("fine", "1.5")

    assert told(tmp_path) == [
        "needs click<8.2, but click 8.5.1 is installed",
        "needs absent>=2, which is not installed",
    ]


def test_the_way_to_a_clash_deep_inside_is_told(install: Install, tmp_path: Path) -> None:
    """
    What a requirement needs in turn counts, and a circle ends.
    """
    install("plugin", "0.1", "first")
    install("first", "1", "second>=1", "plugin")
    install("second", "1", "first", "third==3.*")
    install("third", "4.0")

    assert told(tmp_path) == ["needs first, which needs second, which needs third==3.*, but third 4.0 is installed"]


def test_markers_are_evaluated_and_extras_only_where_they_are_asked_for(install: Install, tmp_path: Path) -> None:
    """
    What is for another system, or for an extra that nobody asked for, is not needed.
    """
    install("plugin", "0.1", 'gone; sys_platform == "nowhere"', 'gone2; extra == "all"', "server[tls,h2]>=1")
    install("server", "1", 'tls-lib>=2; extra == "tls"', 'h2-lib; extra == "h2"', 'other; extra == "other"')
    install("tls-lib", "1.0")

    assert told(tmp_path) == [
        "needs server, which needs tls-lib>=2, but tls-lib 1.0 is installed",
        "needs server, which needs h2-lib, which is not installed",
    ]


@pytest.mark.parametrize(
    ("needs", "name", "version"),
    [
        ("zope.interface>=5", "Zope_Interface", "5.4"),
        ("lib>=2.0", "lib", "2.1rc1"),
        ("lib @ file:///somewhere/lib-9.whl", "lib", "1.0"),
        ("lib==1.0", "lib", "1.0+local.build"),
        ("lib>=2", "lib", "no version of PEP 440"),
        ("lib>=2", "lib", None),
        ("not a requirement !!", "lib", "1"),
        ('lib>=2; mood == "good"', "lib", "1"),
    ],
    ids=["spelling", "pre-release", "direct", "local", "own kind", "without version", "unreadable", "unknown marker"],
)
def test_what_is_met_or_cannot_be_compared_is_no_clash(
    install: Install, tmp_path: Path, needs: str, name: str, version: str | None
) -> None:
    """
    A name however it is spelt, a pre-release that somebody has installed, and what nobody can compare.
    """
    install("plugin", "0.1", needs)
    install(name, version, stem=name.lower())

    assert told(tmp_path) == []


def test_a_pre_release_that_is_too_old_is_a_clash(install: Install, tmp_path: Path) -> None:
    """
    2.0rc1 comes before 2.0.
    """
    install("plugin", "0.1", "lib>=2.0")
    install("lib", "2.0rc1")

    assert told(tmp_path) == ["needs lib>=2.0, but lib 2.0rc1 is installed"]


def test_a_python_that_is_not_taken_is_a_clash(install: Install, tmp_path: Path) -> None:
    """
    Installers look at it once; the environment may have been made anew with another Python.
    """
    install("plugin", "0.1", "lib", python=">=3.11")
    install("lib", "1", python="<3")

    assert told(tmp_path) == [f"needs lib, which needs Python<3, but this is Python {platform.python_version()}"]
    assert remedies_of(Installed([str(tmp_path)]).clashes("plugin")) == [
        "try: another Python, or another version of the plugin"
    ]


def test_metadata_that_are_missing_or_damaged_hide_nothing(install: Install, tmp_path: Path) -> None:
    """
    An empty folder of metadata says nothing, bytes that are no text neither, and the rest is looked at all the same.
    """
    install("plugin", "0.1", "empty>=3", "damaged", "absent")
    (tmp_path / "empty-1.0.dist-info").mkdir()
    (tmp_path / "damaged-1.0.dist-info").mkdir()
    (tmp_path / "damaged-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\xfe\n\n")

    assert told(tmp_path) == ["needs absent, which is not installed"]
    assert told(tmp_path, "never-installed") == []


def test_metadata_of_an_old_setuptools_are_read(tmp_path: Path) -> None:
    """
    Of `*.egg-info`, the requirements stand in a file of their own.
    """
    folder = tmp_path / "plugin-0.1.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 1.2\nName: plugin\nVersion: 0.1\n")
    (folder / "requires.txt").write_text("absent>=2\n\n[tests]\npytest\n")

    assert told(tmp_path) == ["needs absent>=2, which is not installed"]


def test_what_is_needed_for_the_extras_of_another_is_told(install: Install, tmp_path: Path) -> None:
    """
    Only what the extras add, and only those that are asked for.
    """
    install("plugin", "0.1", "core[tables,never]; python_version < '3'", "core[tables]>=1")
    install("core", "1", "always", 'arrow>=15; extra == "tables"', 'other; extra == "never"')

    assert Installed([str(tmp_path)]).for_extras("plugin", "core") == ["arrow>=15"]
    assert Installed([str(tmp_path)]).for_extras("core", "plugin") == []


@pytest.mark.parametrize(
    ("wanted", "needed", "is_lost"),
    [
        ("<2", ">=2.7", True),
        ("==2.10", "==3.7", True),
        ("==1.*", ">=2,<3", True),
        ("~=1.4", ">1.4,!=1.5", False),
        ("<2", ">=1,<3", False),
        ("<1.0", ">=0.9.5", False),
        (">=3,<9", "", False),
        ("<2", "===special", False),
        (">2,<3", ">2.0", False),
    ],
)
def test_a_remedy_that_others_could_not_live_with_is_none(
    install: Install, tmp_path: Path, wanted: str, needed: str, is_lost: bool
) -> None:
    """
    What another distribution needs, itself or through what it needs, must stay possible; if not, it is named instead.
    """
    install("plugin", "0.1", f"shared{wanted}")
    install("other", "1", "middle")
    install("middle", "1", f"shared{needed}")
    install("shared", "1000")
    installed = Installed([str(tmp_path)])
    clashes = installed.clashes("plugin")

    against = installed.against(clashes, ["other", "plugin"])

    told = remedies_of(clashes, against)
    assert [need.owner for need in against] == (["middle"] if is_lost else [])
    if is_lost:
        assert "here: middle needs shared" in told[0]
        assert "pip install" not in str(told)
    else:
        assert told == [f"try: pip install '{clashes[0].requirement}'"]
