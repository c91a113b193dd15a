"""
`gym list`, `gym --help` and `gym --version`: quick, without importing any plugin, and calm beside broken ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = {"pydantic", "httpx", "rich", "pluggy"}
HELP_FREE = HEAVY | {"yaml", "importlib_metadata", "asyncio", "orjson"}

BROKEN = {
    "raises": "raise RuntimeError('on purpose')\n",
    "exits": "import sys\nsys.exit('goodbye')\n",
    "leaves": "import os\nos._exit(0)\n",
    "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "babbles": "import sys\nsys.stderr.buffer.write(b'\\xff\\n')\nprint('[]')\nraise ValueError('one\\ntwo')\n",
    "works": "from gymcore import Environment\n\nclass Mine(Environment):\n    '''Works.'''\n",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> PluginFolder:
    """
    Plugins whose import goes wrong in every way, one that works, and one without a manifest.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("broken"))
    files = {f"broken_{name}/__init__.py": code for name, code in BROKEN.items()}
    files |= {f"broken_{name}/gym.yaml": f"gym_api: 1\ndescription: It {name}.\n" for name in BROKEN}
    files["broken_bare/__init__.py"] = ""
    offers = {name: f"broken_{name}:Mine" for name in (*BROKEN, "bare")}
    folder.install("gym-plugin-broken", files, {"gymcore.environments": offers})
    return folder


def _modules(plugins: PluginFolder, *arguments: str) -> set[str]:
    """Run a command and return every module that the process had loaded at its end."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        "from gymcore.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=plugins.environ, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


# -- what is not loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "free_of"),
    [(["--help"], HELP_FREE), (["--version"], HELP_FREE), (["list"], HEAVY), (["list", "--json"], HEAVY)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_quick_command_loads_neither_plugins_nor_heavy_packages(
    broken: PluginFolder, arguments: list[str], free_of: set[str]
) -> None:
    """
    What is not imported costs nothing and cannot break.
    """
    loaded = _modules(broken, *arguments)

    assert {name for name in loaded if name.split(".")[0] in free_of} == set()
    assert {name for name in loaded if name.startswith(("broken_", "gym_plugin_"))} == set()


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_shows_every_plugin_with_what_it_is_or_why_not(gym: Gym, broken: PluginFolder) -> None:
    """
    One row each; a broken one shows its reason, and the command has done its work.
    """
    done = gym("list", folder=broken)

    rows = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == [
        "KIND",
        "NAME",
        "DISTRIBUTION",
        "STATUS",
        "WHAT",
        "IT",
        "IS",
    ]
    assert rows["works"].split() == ["environment", "works", "gym-plugin-broken", "0.1.0", "ok", "It", "works."]
    assert "broken  there is no gym.yaml in the installed package 'broken_bare'; the wheel was built" in rows["bare"]
    assert {"oracle", "nop", "simple_agent"} <= set(rows)
    assert done.stderr == ""


def test_a_row_is_one_line_that_cannot_steer_a_terminal(gym: Gym, tmp_path: Path) -> None:
    """
    Descriptions and reasons are other people's text.
    """
    package, info = tmp_path / "site" / "steering", tmp_path / "site" / "steering-1.0.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "gym.yaml").write_text('gym_api: 1\ndescription: "one\\ntwo \\e[31mred"\n')
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: steering\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gymcore.environments]\nsteering = steering:Mine\n")

    done = gym("list", "environments", folder=PluginFolder(tmp_path / "site"))

    (row,) = [line for line in done.stdout.splitlines() if "steering" in line]
    assert row.endswith("ok      one two \ufffd[31mred")


def test_a_blocked_plugin_is_a_row_and_exits_with_4_when_it_is_chosen(gym: Gym, broken: PluginFolder) -> None:
    """
    The list says which variable keeps it out, and the core's own components stay.
    """
    listed = gym("list", folder=broken, GYM_PLUGINS_ALLOW="acme-*")
    chosen = gym("show", "works", folder=broken, GYM_PLUGINS_ALLOW="acme-*")

    rows = {line.split()[1]: line for line in listed.stdout.splitlines()}
    assert "blocked  GYM_PLUGINS_ALLOW names only acme-*; change that variable" in rows["works"]
    assert "  ok  " in rows["oracle"]
    assert chosen.returncode == 4
    assert "cannot be used: GYM_PLUGINS_ALLOW names only acme-*" in chosen.stderr


@pytest.mark.parametrize("kind", ["environment", "environments"])
def test_a_kind_narrows_the_list(gym: Gym, broken: PluginFolder, kind: str) -> None:
    """
    One may say it in the singular or in the plural.
    """
    rows = json.loads(gym("list", kind, "--json", folder=broken).stdout)

    assert {row["kind"] for row in rows} == {"environment"}
    assert {row["name"] for row in rows} >= {"works", "bare"}


def test_json_is_the_whole_of_the_output(gym: Gym, broken: PluginFolder) -> None:
    """
    Programs read every fact that the table shows, and more.
    """
    rows = {row["name"]: row for row in json.loads(gym("list", "--json", folder=broken).stdout)}

    assert rows["works"] == {
        "kind": "environment",
        "name": "works",
        "qualified": "gym-plugin-broken/works",
        "distribution": "gym-plugin-broken",
        "version": "0.1.0",
        "target": "broken_works:Mine",
        "status": "ok",
        "problem": None,
        "hint": None,
        "description": "It works.",
        "gym_api": 1,
        "splits": {},
    }


def test_checking_imports_each_plugin_where_it_can_do_no_harm(gym: Gym, broken: PluginFolder) -> None:
    """
    Each is imported in a process of its own: raising, exiting, leaving silently and crashing are rows with the reason.
    """
    done = gym("list", "environments", "--check", "--json", folder=broken)

    found = {row["name"]: (row["status"], row["problem"]) for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert found["works"] == ("ok", None)
    for name, reason in {
        "raises": "RuntimeError: on purpose",
        "exits": "SystemExit: goodbye",
        "leaves": "its import ended the process with exit code 0",
        "crashes": "its import crashed the process with signal 11 (SIGSEGV)",
        "babbles": "ValueError: one",
        "bare": "there is no gym.yaml",
    }.items():
        assert found[name][0] == "broken", name
        assert reason in (found[name][1] or ""), name


# -- the command line itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["list", "plugins"], ["list", "--no-such-flag"], ["show"], ["compose", "--limit", "0"]]
)
def test_wrong_usage_exits_with_2(gym: Gym, arguments: list[str]) -> None:
    """
    click explains it on stderr, and nothing is on stdout.
    """
    done = gym(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage: gym" in done.stderr
