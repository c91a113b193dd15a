"""
What is installed: every plugin is found without importing it, and a broken one is a row with its reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import gymcore.discovery.scan
import gymcore.interfaces
from gymcore.discovery import Catalog, discover
from gymcore.testing.plugins import PluginFolder


@contextmanager
def _on_the_path(*entries: Path) -> Iterator[None]:
    texts = [str(entry) for entry in entries]
    sys.path[:0] = texts
    try:
        yield
    finally:
        for text in texts:
            sys.path.remove(text)


def _write_metadata(folder: Path, name: str, **files: str | bytes) -> None:
    """Leave a distribution's metadata behind, as broken tools and half removed packages do."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    for file, content in files.items():
        target = place / {"metadata": "METADATA", "entry_points": "entry_points.txt"}[file]
        target.write_bytes(content.encode() if isinstance(content, str) else content)


def _row(catalog: Catalog, name: str) -> tuple[str, str]:
    plugin = next(plugin for plugin in catalog.plugins if plugin.name == name)
    return plugin.status, plugin.problem or ""


# -- what the listing does not do --------------------------------------------------------------------------------------


def test_listing_imports_no_plugin(hostile: PluginFolder) -> None:
    """
    Plugins that raise, exit, crash or wait when they are imported are listed like any other, without harm.
    """
    code = (
        "import json, sys; from gymcore import discover\n"
        "names = [plugin.name for plugin in discover().plugins]\n"
        "print(json.dumps([names, [name for name in sys.modules if name.startswith(('hostile_', 'fine_', 'acme_'))]]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=hostile.environ, capture_output=True, text=True, check=True, timeout=60
    )

    names, imported = json.loads(done.stdout)
    assert set(names) >= {"raises", "exits", "leaves", "crashes", "babbles", "waits", "needs", "nested"}
    assert imported == []


@pytest.mark.parametrize("name", ["raises", "exits", "leaves", "crashes", "needs", "function", "kind", "tool", "waits"])
def test_what_only_an_import_can_show_is_listed_as_well(hostile_catalog: Catalog, name: str) -> None:
    """
    Nobody has looked inside, so nothing is known against it.
    """
    assert _row(hostile_catalog, name) == ("ok", "")


# -- what the listing tells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("bare", "broken", "there is no gym.yaml in the installed package 'hostile_bare'"),
        ("yaml", "broken", "hostile_yaml/gym.yaml:4"),
        ("twice", "broken", "the key 'agent' stands twice (hostile_twice/gym.yaml:3)"),
        ("list", "broken", "a manifest is a mapping"),
        ("silent", "broken", "`gym_api` must say"),
        ("future", "incompatible", "written for interface version 99; this gymcore offers 1"),
        ("past", "incompatible", "written for interface version 0"),
        ("many", "broken", "unknown key 'descripton'; did you mean 'description'? (hostile_many/gym.yaml:2)"),
        ("escape", "broken", "the path '../up.jsonl' must stay inside the package (hostile_escape/gym.yaml:3)"),
        ("gone", "broken", "there is no module 'hostile_gone.module'"),
        ("lost", "broken", "there is no module 'hostile_raises.no_such_module'"),
        ("noclass", "broken", "'hostile_null' is not of the form package.module:Class"),
        ("a b", "broken", "'a b' is no name for a plugin"),
        ("null", "ok", ""),
        ("nested", "ok", ""),
        ("space", "ok", ""),
        ("hook", "ok", ""),
    ],
)
def test_a_plugin_that_cannot_be_used_is_a_row_with_the_reason(
    hostile_catalog: Catalog, name: str, status: str, said: str
) -> None:
    """
    The reason names the file and the line, and the others are not touched by it.
    """
    found, problem = _row(hostile_catalog, name)

    assert found == status
    assert said in problem


def test_all_mistakes_of_a_manifest_are_in_its_row(hostile_catalog: Catalog) -> None:
    """
    The author reads them once.
    """
    _, problem = _row(hostile_catalog, "many")

    assert all(part in problem for part in ("gym_api", "descripton", "`config`", "the split 'a'", "`agent`"))


def test_a_name_that_one_distribution_offers_twice_is_broken(hostile_catalog: Catalog) -> None:
    """
    Names are compared as installers compare them, so no spelling could choose between the two.
    """
    rows = [plugin for plugin in hostile_catalog.plugins if plugin.name in ("same_name", "Same-Name")]

    assert [plugin.status for plugin in rows] == ["broken", "broken"]
    assert all("gym-plugin-hostile offers this name twice" in (plugin.problem or "") for plugin in rows)


def test_a_name_that_two_distributions_offer_is_a_conflict_naming_both(hostile_catalog: Catalog) -> None:
    """
    Both rows stay, each says who else has the name and how to choose it.
    """
    rows = [plugin for plugin in hostile_catalog.plugins if plugin.name.lower() == "weather"]

    assert [plugin.status for plugin in rows] == ["conflict", "conflict"]
    assert rows[0].problem == "gym-plugin-hostile/weather has the same name"
    assert rows[0].hint == "choose it as Acme.Weather/Weather"


def test_the_order_is_kind_then_name_then_distribution(hostile_catalog: Catalog) -> None:
    """
    The file system has no say in it.
    """
    kinds = [plugin.kind for plugin in hostile_catalog.plugins]
    names = [plugin.name.lower() for plugin in hostile_catalog.of_kind("environment")]

    assert kinds == sorted(kinds, key=["environment", "model", "agent", "hook"].index)
    assert [name.replace("-", "_") for name in names] == sorted(name.replace("-", "_") for name in names)
    assert discover() == hostile_catalog


def test_our_own_components_enter_through_the_same_door(hostile_catalog: Catalog) -> None:
    """
    `simple_agent`, `oracle` and `nop` are rows like any other.
    """
    own = {plugin.qualified: plugin.status for plugin in hostile_catalog.plugins if plugin.distribution == "gymcore"}

    assert own == dict.fromkeys(("gymcore/simple_agent", "gymcore/oracle", "gymcore/nop", "gymcore/mlflow"), "ok")


def test_the_listing_knows_the_interface_versions_without_loading_them() -> None:
    """
    The scan keeps a copy of the tuple, which must not go its own way.
    """
    assert gymcore.discovery.scan.INTERFACE_VERSIONS == gymcore.interfaces.INTERFACE_VERSIONS


def test_the_order_is_the_same_however_the_file_system_lists(
    tmp_path: Path, hostile_folder: Path, hostile_catalog: Catalog
) -> None:
    """
    Two folders hold the same distributions, made and found in another order, and the rows are the same.
    """
    other = tmp_path / "other"
    other.mkdir()
    for entry in sorted(hostile_folder.iterdir(), reverse=True):
        (other / entry.name).symlink_to(entry)
    before = [row.to_dict() for row in hostile_catalog.plugins]

    sys.path.remove(str(hostile_folder))
    try:
        with _on_the_path(other):
            after = [row.to_dict() for row in discover().plugins]
    finally:
        sys.path.insert(0, str(hostile_folder))

    assert after == before


def test_each_distribution_is_looked_at_once_in_a_process(hostile: PluginFolder, tmp_path: Path) -> None:
    """
    Composing, playing and a thousand choices of a name open no list of entry points again.
    """
    _write_metadata(
        tmp_path, "unrelated", metadata=METADATA.format("unrelated"), entry_points="[console_scripts]\na = b:c\n"
    )
    code = (
        "import collections, json, sys; opened = collections.Counter()\n"
        "def count(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('entry_points.txt'): opened[str(arguments[0])] += 1\n"
        "sys.addaudithook(count); from gymcore import Plan, compose, discover; catalog = discover()\n"
        "for _ in range(1_000): catalog.load(catalog.find('environment', 'null'))\n"
        "plan = {'environments': {'null': {'data': sys.argv[1]}}, 'models': {'policy': 'nop'}}\n"
        "compose(Plan.model_validate(plan), catalog)\n"
        "print(json.dumps(opened))"
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"responses_create_params": {"input": "x"}}\n')
    # pydantic looks for plugins of its own wherever a model is made.
    environ = {**hostile.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environ['PYTHONPATH']}"

    done = subprocess.run(
        [sys.executable, "-c", code, str(rows)], env=environ, capture_output=True, text=True, check=True, timeout=60
    )

    opened = {Path(path).parent.name.partition("-")[0]: count for path, count in json.loads(done.stdout).items()}
    assert opened["unrelated"] == 1
    assert opened["gym_plugin_hostile"] == 1
    assert max(opened.values()) == 1


class _FailingFinder:
    """A finder of somebody else's that cannot list its distributions."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        return None

    def find_distributions(self, context: object = None) -> Iterator[object]:
        yield from ()
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("on purpose"), SystemExit("goodbye")])
def test_a_finder_of_others_that_fails_hides_nobody(hostile_catalog: Catalog, error: BaseException) -> None:
    """
    Whoever has put something of his own into Python's import system cannot take the listing down with it.
    """
    finder = _FailingFinder(error)
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        assert discover() == hostile_catalog
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]


# -- damaged distributions of others -----------------------------------------------------------------------------------

METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: 1.0\n"
LEFTOVER = "[gymcore.environments]\nodd = hostile_null:Mine\nnested = hostile_null:Mine\n"
OFFER = "[gymcore.environments]\nodd = hostile_null:Mine\n"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"metadata": ""},
        {"metadata": METADATA.format("odd"), "entry_points": ""},
        {"metadata": METADATA.format("odd"), "entry_points": "[console_scripts]\nbad = = [:::\n\nno section"},
        {"metadata": METADATA.format("odd"), "entry_points": "not [ an ini file"},
        {"metadata": METADATA.format("odd"), "entry_points": b"\xff\xfe gymcore."},
        {"metadata": b"\xff\xfe", "entry_points": "[other]\na = b:c"},
        {"metadata": METADATA.format("odd"), "entry_points": "[other]\ngymcore.x = what ever\n"},
    ],
    ids=[
        "leftover",
        "empty",
        "nothing offered",
        "malformed",
        "no ini",
        "not UTF-8",
        "bad name",
        "mentions us",
    ],
)
def test_a_damaged_distribution_of_others_hides_nobody(
    tmp_path: Path, hostile_catalog: Catalog, files: dict[str, str | bytes]
) -> None:
    """
    Whatever lies on the path, the catalog is the same as without it.
    """
    _write_metadata(tmp_path, "odd", **files)

    with _on_the_path(tmp_path):
        assert discover() == hostile_catalog


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"entry_points": LEFTOVER}, "it has no METADATA"),
        ({"metadata": "", "entry_points": LEFTOVER}, "it has no METADATA"),
        ({"metadata": "Version: 1.0\n", "entry_points": LEFTOVER}, "its METADATA says no name"),
        ({"metadata": "Name: o d d\n", "entry_points": LEFTOVER}, "'o d d', which is no name of a distribution"),
        ({"metadata": b"Name: odd\nAuthor: Bj\xf6rn\n", "entry_points": LEFTOVER}, "METADATA is not UTF-8 at byte 20"),
        (
            {"metadata": METADATA.format("odd"), "entry_points": b"# \xf6\n" + LEFTOVER.encode()},
            "its entry_points.txt is not UTF-8 at byte 2",
        ),
        (
            {"metadata": METADATA.format("odd"), "entry_points": "\ufeff" + LEFTOVER},
            "its entry_points.txt begins with a byte order mark",
        ),
    ],
)
def test_what_a_damaged_distribution_offers_is_listed_with_the_reason_and_hides_nobody(
    tmp_path: Path, hostile: PluginFolder, hostile_catalog: Catalog, files: dict[str, str | bytes], problem: str
) -> None:
    """
    Whoever looks for it finds out what is wrong; a plugin of the same name that is whole is chosen as before.
    """
    _write_metadata(tmp_path, "odd", **files)

    with _on_the_path(tmp_path):
        catalog = discover()

    rows = [plugin for plugin in catalog.plugins if plugin.distribution == "odd"]
    assert [(plugin.name, plugin.status) for plugin in rows] == [("nested", "broken"), ("odd", "broken")]
    assert problem in (rows[0].problem or "")
    assert str(tmp_path / "odd-1.0.dist-info") in (rows[0].hint or "")
    assert catalog.find("environment", "nested") == hostile_catalog.find("environment", "nested")
    assert catalog.find("environment", "odd") == rows[1]


def test_what_is_left_of_a_distribution_that_is_whole_elsewhere_is_no_row(
    tmp_path: Path, hostile: PluginFolder, hostile_catalog: Catalog
) -> None:
    """
    An upgrade that was interrupted leaves such things, and the newer version works.
    """
    _write_metadata(tmp_path, "gym_plugin_hostile", entry_points=LEFTOVER)

    with _on_the_path(tmp_path):
        assert discover() == hostile_catalog


@pytest.mark.parametrize("file", ["METADATA", "entry_points.txt"])
def test_metadata_that_are_no_file_or_huge_neither_stop_nor_fill_a_listing(
    tmp_path: Path, hostile: PluginFolder, file: str
) -> None:
    """
    A pipe is not waited for, a device and a sparse file of gigabytes are not read, and the others are listed.
    """
    for name in ("piped", "endless", "sparse", "folder"):
        _write_metadata(tmp_path, name, metadata=METADATA.format(name), entry_points=OFFER.replace("odd", name))
        (tmp_path / f"{name}-1.0.dist-info" / file).unlink()
    os.mkfifo(tmp_path / "piped-1.0.dist-info" / file)
    (tmp_path / "endless-1.0.dist-info" / file).symlink_to("/dev/zero")
    with (tmp_path / "sparse-1.0.dist-info" / file).open("wb") as opened:
        opened.truncate(2_000_000_000)
    (tmp_path / "folder-1.0.dist-info" / file).mkdir()
    code = (
        "import json, resource; from gymcore import discover\n"
        "limit = 1_500_000_000; resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "print(json.dumps({row.distribution: [row.status, row.problem] for row in discover().plugins}))"
    )
    environ = {**hostile.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{hostile.environ['PYTHONPATH']}"}

    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=60
    )

    rows = json.loads(done.stdout)
    assert "Acme.Weather" in rows
    if file == "METADATA":  # where the entry points cannot be read, nobody knows that there are plugins
        assert rows["piped"] == rows["endless"] == rows["folder"] == ["broken", "its METADATA is no file"]
        assert rows["sparse"] == ["broken", "its METADATA is larger than 10,000,000 bytes"]


# -- distributions that call themselves something else -----------------------------------------------------------------

EVIL = "[gymcore.agents]\nsimple_agent = evil_package:Agent\n"


@pytest.mark.parametrize(
    "metadata",
    [
        "Name: evil-dist\nVersion: 1.0\nKeywords: a\u2028Name: gymcore\u2028Version: 0.1.0\n",
        "Name: evil-dist\nVersion: 1.0\nKeywords: a\x0cName: gymcore\x0cVersion: 0.1.0\n",
        "Name: evil-dist\nVersion: 1.0\nKeywords: a\rName: gymcore\rVersion: 0.1.0\n",
        "Name: evil-dist\nVersion: 1.0\nName: gymcore\nVersion: 0.1.0\n",
        "Name: evil-dist\r\nVersion: 1.0\r\n\r\nName: gymcore\r\nVersion: 0.1.0\r\n",
        "name: evil-dist\nVERSION: 1.0\nKeywords: a\n Name: gymcore\n",
    ],
)
def test_a_distribution_is_called_what_its_first_name_says(
    tmp_path: Path, hostile: PluginFolder, metadata: str
) -> None:
    """
    No text in another field passes for its name, so that the lists hold, and it takes nobody's place.
    """
    _write_metadata(tmp_path, "evil_dist", metadata=metadata.encode(), entry_points=EVIL)

    with _on_the_path(tmp_path):
        blocked = discover(environ={"GYM_PLUGINS_BLOCK": "evil-dist"})
        open_to_all = discover()

    row = blocked.find("agent", "evil-dist/simple_agent")
    assert (row.distribution, row.version, row.status) == ("evil-dist", "1.0", "blocked")
    assert blocked.find("agent", "simple_agent").qualified == "gymcore/simple_agent"
    assert blocked.find("model", "nop").status == "ok"
    assert open_to_all.find("agent", "gymcore/simple_agent").status == "conflict"


def test_what_calls_itself_gymcore_and_is_not_takes_no_place(tmp_path: Path, hostile_catalog: Catalog) -> None:
    """
    The name alone makes nothing gymcore's own: it is a broken row, named after its folder.
    """
    _write_metadata(tmp_path, "evil", metadata="Name: GymCore\nVersion: 9.0\n", entry_points=EVIL)

    with _on_the_path(tmp_path):
        catalog = discover()

    row = next(plugin for plugin in catalog.plugins if plugin.distribution == "evil")
    assert (row.name, row.status) == ("simple_agent", "broken")
    assert row.problem == "it calls itself GymCore, and offers what is not in gymcore"
    assert tuple(plugin for plugin in catalog.plugins if plugin is not row) == hostile_catalog.plugins
    assert catalog.find("agent", "simple_agent") == hostile_catalog.find("agent", "simple_agent")


def test_a_leftover_of_an_older_version_does_not_hide_the_newer(tmp_path: Path, hostile_catalog: Catalog) -> None:
    """
    An empty folder that an upgrade left behind is nothing.
    """
    (tmp_path / "gym_plugin_hostile-0.0.9.dist-info").mkdir()

    with _on_the_path(tmp_path):
        assert discover() == hostile_catalog


@pytest.mark.parametrize("metadata", ["Metadata-Version: 2.1\nName: odd\n", "Name: odd\n\n", "Name: odd\nVersion:\n"])
def test_a_distribution_without_a_version_is_listed_all_the_same(
    tmp_path: Path, hostile: PluginFolder, metadata: str
) -> None:
    """
    Its plugins work, and its version is unknown.
    """
    _write_metadata(tmp_path, "odd", metadata=metadata, entry_points=OFFER)

    with _on_the_path(tmp_path):
        plugin = discover().find("environment", "odd")

    assert (plugin.version, plugin.status) == ("unknown", "ok")


@pytest.mark.parametrize("offer", ["nothing after it", "odd =", "odd = : ::", "odd = [x]", "= a:B"])
def test_a_malformed_offer_of_a_plugin_is_a_row_with_the_reason(
    tmp_path: Path, hostile: PluginFolder, offer: str
) -> None:
    """
    An entry point of ours that cannot be read is the author's mistake, and is shown.
    """
    entry_points = f"[gymcore.environments]\n{offer}\n"
    _write_metadata(tmp_path, "odd", metadata=METADATA.format("odd"), entry_points=entry_points)

    with _on_the_path(tmp_path):
        rows = [plugin for plugin in discover().plugins if plugin.distribution == "odd"]

    assert [plugin.status for plugin in rows] == ["broken"]
    assert rows[0].problem


def test_a_module_that_is_in_no_package_is_told_where_its_manifest_belongs(
    tmp_path: Path, hostile: PluginFolder
) -> None:
    """
    The module is there, so the reason is not that it is missing.
    """
    (tmp_path / "alone.py").write_text("raise RuntimeError")
    entry_points = "[gymcore.environments]\nodd = alone:Mine\n"
    _write_metadata(tmp_path, "odd", metadata=METADATA.format("odd"), entry_points=entry_points)

    with _on_the_path(tmp_path):
        status, problem = _row(discover(), "odd")

    assert status == "broken"
    assert "'alone' is not a package" in problem


# -- ways of being installed -------------------------------------------------------------------------------------------


def test_a_folder_that_is_on_the_path_twice_is_one_installation(
    tmp_path: Path, hostile: PluginFolder, hostile_catalog: Catalog
) -> None:
    """
    A symbolic link such as `lib64` makes no conflicts.
    """
    (tmp_path / "link").symlink_to(hostile.folder)

    with _on_the_path(tmp_path / "link"):
        assert discover() == hostile_catalog


def test_the_first_of_two_versions_on_the_path_counts(tmp_path: Path, echo_folder: Path) -> None:
    """
    It is the one that an import would find.
    """
    newer = tmp_path / "newer"
    shutil.copytree(echo_folder, newer)
    metadata = next(newer.glob("*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.1.0", "Version: 9.0"))

    with _on_the_path(newer, echo_folder):
        plugin = discover().find("environment", "echo")

    assert (plugin.version, plugin.status) == ("9.0", "ok")


def test_a_version_behind_one_that_offers_nothing_is_told_so(tmp_path: Path, echo_folder: Path) -> None:
    """
    The first of a name counts also where it offers no plugins, and what is hidden by it says why.
    """
    _write_metadata(tmp_path, "gym_plugin_echo", metadata=METADATA.format("gym-plugin-echo").replace("1.0", "2.0"))

    with _on_the_path(tmp_path, echo_folder):
        hidden = discover().find("environment", "echo")
    with _on_the_path(echo_folder, tmp_path):
        found = discover().find("environment", "echo")

    assert (hidden.status, found.status) == ("broken", "ok")
    told = "gym-plugin-echo 2.0, which comes first on Python's path, offers no plugins: "
    assert hidden.problem == told + str(tmp_path / "gym_plugin_echo-1.0.dist-info")


def test_a_plugin_in_a_zip_archive_is_found_with_its_manifest_and_data(tmp_path: Path, echo_folder: Path) -> None:
    """
    Nothing is unpacked and nothing is imported to read it.
    """
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(echo_folder.rglob("*")):
            opened.write(file, file.relative_to(echo_folder))

    with _on_the_path(archive):
        catalog = discover()
        plugin = catalog.find("environment", "echo")
        with catalog.open_file(plugin, "data/example.jsonl") as rows:
            count = len(rows.readlines())

    assert (plugin.status, plugin.manifest.description, count) == ("ok", "Repeat the word of the task.", 5)


def test_an_editable_installation_is_found_with_its_manifest_and_data(tmp_path: Path) -> None:
    """
    The wheel that `pip install -e` installs holds a path to the sources; manifest and data are read from there.
    """
    echo = Path(__file__).parents[1] / "data" / "gym_plugin_echo"
    build = "import hatchling.build, sys; print(hatchling.build.build_editable(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=echo, check=True, capture_output=True)
    site = tmp_path / "site"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(site)
    assert not (site / "gym_plugin_echo").exists()
    code = (
        "import json, site, sys; site.addsitedir(sys.argv[1]); from gymcore import discover; c = discover()\n"
        "p = c.find('environment', 'echo')\n"
        "with c.open_file(p, 'data/example.jsonl') as rows: count = len(rows.readlines())\n"
        "print(json.dumps([p.status, p.manifest.description, count, 'gym_plugin_echo' in sys.modules]))"
    )

    done = subprocess.run([sys.executable, "-c", code, str(site)], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == ["ok", "Repeat the word of the task.", 5, False]


def test_an_explicit_path_is_searched_instead_of_the_interpreters(hostile: PluginFolder, tmp_path: Path) -> None:
    """
    `discover([...])` sees only what is installed there.
    """
    assert discover([str(tmp_path)]).plugins == ()
    assert {plugin.distribution for plugin in discover([str(hostile.folder)]).plugins} == {
        "gym-plugin-hostile",
        "Acme.Weather",
    }
