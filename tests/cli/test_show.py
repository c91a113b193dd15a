"""
`gym show`: one plugin in full, or the reason why not.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

ROWS = "gym_api: 1\nsplits: {example: rows.jsonl}\n"
MINE = "from gymcore import Config, Environment, option\nfrom pydantic import SecretStr\n\n\n"
MINE += (
    "class Options(Config):\n    key: SecretStr = option(SecretStr('x'))\n    words: list[str] = option(['a'])\n\n\n"
)
MINE += "class Mine(Environment[Options]):\n    '''Mine.'''\n"
STEERING = "from gymcore import Config, Environment, Task, option, tool\n\n\n"
STEERING += "class Options(Config):\n    key: str = option('o\\x1b[31m', description='p\\x1b[31m\\nnext')\n\n\n"
STEERING += "class Mine(Environment[Task, Options]):\n    'Doc.\\n\\nd\\x1b[31m'\n\n"
STEERING += "    @tool\n    def look(self) -> str:\n        'See.\\x1b[31m'\n"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> PluginFolder:
    """
    Environments that are hard to show, and one name that two distributions and two kinds offer.
    """
    folder = PluginFolder(tmp_path_factory.mktemp("odd"))
    files = {
        "odd_rows/__init__.py": MINE,
        "odd_rows/gym.yaml": ROWS,
        "odd_rows/rows.jsonl": "nonsense\n",
        "odd_raises/__init__.py": "raise RuntimeError('on purpose')\n",
        "odd_raises/gym.yaml": "gym_api: 1\n",
        "odd_other/__init__.py": "from gymcore import Model\n\n\nclass Mine(Model):\n    '''Mine.'''\n",
        "odd_other/gym.yaml": "gym_api: 1\n",
        "odd_steering/__init__.py": STEERING,
        "odd_steering/gym.yaml": 'gym_api: 1\ndescription: "a\\e[31m"\nsplits: {example: rows.jsonl}\n',
        "odd_steering/rows.jsonl": '{"text": "t\x9b31m"}\n',
    }
    environments = {
        "rows": "odd_rows:Mine",
        "raises": "odd_raises:Mine",
        "missing": "odd_none:Mine",
        "both": "odd_rows:Mine",
        "steering": "odd_steering:Mine",
    }
    folder.install(
        "gym-plugin-odd", files, {"gymcore.environments": environments, "gymcore.models": {"both": "odd_other:Mine"}}
    )
    folder.install(
        "acme-odd",
        {"acme_odd/__init__.py": MINE, "acme_odd/gym.yaml": "gym_api: 1\n"},
        {"gymcore.environments": {"rows": "acme_odd:Mine"}},
    )
    return folder


@pytest.fixture(scope="module")
def shown(plugins: PluginFolder, commands: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """
    What `gym show echo --json` prints.
    """
    done = commands.run("show", "echo", "--json", folder=tmp_path_factory.mktemp("empty"), environ=plugins.environ)
    # The split `missing` names a file that is not there, which is the author's mistake.
    assert done.returncode == 0, done.stderr
    value: dict[str, object] = json.loads(done.stdout)
    return value


def test_options_are_shown_with_their_defaults(shown: dict[str, object]) -> None:
    """
    The default is the manifest's where it gives one; type, description and variable are there too.
    """
    options = {option["name"]: option for option in shown["options"]}  # type: ignore[attr-defined]

    assert options["level"]["default"] == 2
    assert options["level"]["type"] == "integer"
    assert options["level"]["description"] == "How hard it is."
    assert options["style"]["type"] == '"plain" | "loud"'
    assert options["name"]["environment_variable"] == "ECHO_NAME"
    assert list(options) == ["level", "style", "name", "url", "key", "auth", "headers"]


def test_tools_splits_and_a_task_are_shown(shown: dict[str, object]) -> None:
    """
    Schemas as the model sees them, rows counted, and the first row in full.
    """
    assert [tool["name"] for tool in shown["tools"]] == ["repeat"]  # type: ignore[attr-defined]
    assert shown["splits"] == {"example": 5, "train": 25, "empty": 0, "missing": None}
    assert shown["task"]["answer"] == "one"  # type: ignore[index]
    assert shown["is_solvable"] is True
    assert shown["agent"] == "simple_agent"


def test_words_say_the_same(gym: Gym, plugins: PluginFolder) -> None:
    """
    Without `--json`, a person reads the same facts.
    """
    text = gym("show", "shout", folder=plugins).stdout

    assert "environment shout  (gym-plugin-echo 0.1.0)" in text
    assert "Say something in capitals." in text
    assert "played by voice; has a reference solution" in text
    assert "example: 5 tasks" in text
    assert "no tools" in text
    assert "no options" in text
    assert '"input": "Shout one!"' in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keyed"], "base_url: string (required, from KEYED_URL)"),
        (["voice"], "pitch: integer (default 1)"),
        (["watch"], "hook watch  (gym-plugin-echo 0.1.0)"),
        (["gym-plugin-echo/mute"], "played by simple_agent, 4 replies at most; has no reference solution"),
        (["mute"], "no splits of its own"),
        (["simple_agent", "--kind", "agent"], "max_tool_calls: integer (default 256)"),
        (["echo"], "missing: a file of it is not in the package"),
    ],
    ids=str,
)
def test_every_kind_can_be_shown(gym: Gym, plugins: PluginFolder, arguments: list[str], said: str) -> None:
    """
    Models, agents and hooks as well as environments; a split without its file is said to be without.
    """
    done = gym("show", *arguments, folder=plugins)

    assert done.returncode == 0
    assert said in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rowz"], 2, "UnknownPluginError: no plugin is named 'rowz'"),
        (["rowz"], 2, "try: 'rows'"),
        (["rows", "--kind", "model"], 2, "no model is named 'rows'"),
        (["rows"], 2, "try one of: acme-odd/rows, gym-plugin-odd/rows"),
        (["raises"], 4, "could not be imported: RuntimeError: on purpose"),
        (["missing"], 4, "there is no module 'odd_none'"),
    ],
)
def test_what_cannot_be_shown_is_explained(
    gym: Gym, odd: PluginFolder, arguments: list[str], code: int, said: str
) -> None:
    """
    A wrong name exits with 2 and a broken plugin with 4, each with one message and no traceback.
    """
    done = gym("show", *arguments, folder=odd)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_first_row_that_is_no_json_is_no_crash(gym: Gym, odd: PluginFolder) -> None:
    """
    The rest of the environment is shown; compose says what is wrong with its rows. Secrets of defaults stay hidden.
    """
    done = gym("show", "gym-plugin-odd/rows", folder=odd)

    assert done.returncode == 0
    assert "example: 1 tasks" in done.stdout
    assert "words: list of string" in done.stdout
    assert "one task" not in done.stdout


def test_nothing_that_a_plugin_says_steers_the_terminal(gym: Gym, odd: PluginFolder) -> None:
    """
    Escapes in its description, docstring, options, tools and tasks are shown as replacement signs.
    """
    done = gym("show", "steering", folder=odd)

    assert done.returncode == 0, done.stderr
    assert all(letter.isprintable() or letter == "\n" for letter in done.stdout)
    for said in ("a\ufffd[31m", "  d\ufffd[31m\n", "p\ufffd[31m\n", "next\n", "See.\ufffd[31m", "t\ufffd31m"):
        assert said in done.stdout


def test_a_kind_chooses_between_plugins_of_one_name(gym: Gym, odd: PluginFolder) -> None:
    """
    Different kinds may share a name without a conflict.
    """
    assert gym("show", "both", folder=odd).stdout.startswith("environment both")
    assert gym("show", "both", "--kind", "model", folder=odd).stdout.startswith("model both")
