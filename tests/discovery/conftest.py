"""
A folder of plugins that are broken in every way we know of, and some that only look like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gymcore.discovery import Catalog, discover
from gymcore.testing.plugins import PluginFolder

GOOD = "gym_api: 1\ndescription: It works.\n"
ENVIRONMENT = "from gymcore import Environment\n\nclass Mine(Environment):\n    '''An environment.'''\n"


def _package(name: str, code: str, manifest: str | None = GOOD) -> dict[str, str]:
    files = {f"{name}/__init__.py": code}
    return files if manifest is None else {**files, f"{name}/gym.yaml": manifest}


HOSTILE = {
    # What only an import can show.
    **_package("hostile_raises", "raise RuntimeError('on purpose')\n"),
    **_package("hostile_exits", "import sys\nsys.exit('goodbye')\n"),
    **_package("hostile_leaves", "import os\nos._exit(0)\n"),
    **_package("hostile_crashes", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"),
    **_package("hostile_babbles", "import sys\nsys.stderr.buffer.write(b'\\xff\\n')\nraise ValueError('one\\ntwo')\n"),
    **_package("hostile_waits", "import time\ntime.sleep(3600)\n"),
    **_package("hostile_needs", "import no_such_module_anywhere\n"),
    **_package("hostile_function", "def Mine():\n    '''No class.'''\n"),
    **_package("hostile_kind", "from gymcore import Model\n\nclass Mine(Model):\n    '''A model.'''\n"),
    **_package(
        "hostile_tool",
        ENVIRONMENT.replace("class", "from gymcore import tool\n\nclass") + "    @tool\n    def t(self, x): ...\n",
    ),
    **_package("hostile_attribute", ENVIRONMENT.replace("Mine", "Yours")),
    **_package("hostile_misspelt", ENVIRONMENT.replace("Mine", "Weather")),
    # What the listing itself can tell.
    **_package("hostile_bare", ENVIRONMENT, None),
    **_package("hostile_yaml", ENVIRONMENT, "gym_api: 1\nsplits:\n  example: [a\n"),
    **_package("hostile_twice", ENVIRONMENT, "gym_api: 1\nagent: a\nagent: b\n"),
    **_package("hostile_list", ENVIRONMENT, "- gym_api: 1\n"),
    **_package("hostile_silent", ENVIRONMENT, "description: It does not say for what.\n"),
    **_package("hostile_future", "raise RuntimeError('from the future')\n", "gym_api: 99\nnewkey: x\n"),
    **_package("hostile_past", ENVIRONMENT, "gym_api: 0\n"),
    **_package("hostile_many", ENVIRONMENT, "gym_api: one\ndescripton: x\nconfig: []\nsplits: {a: 5}\nagent: 7\n"),
    **_package(
        "hostile_escape", ENVIRONMENT, "gym_api: 1\nsplits:\n  a: ../up.jsonl\n  b: /etc/passwd\n  c: d\\e\n  d: ''\n"
    ),
    **_package("hostile_null", ENVIRONMENT, "gym_api: 1\ndescription:\nagent:\nsplits:\nconfig:\n"),
    # What only looks like trouble.
    **_package("fine_outer", "raise RuntimeError('a parent')\n", None),
    **_package("fine_outer/inner", "raise RuntimeError('another parent')\n", None),
    **_package("fine_outer/inner/plugin", ENVIRONMENT, GOOD + "splits: {example: rows.jsonl}\n"),
    "fine_outer/inner/plugin/rows.jsonl": '{"a": 1}\n',
    "fine_space/module.py": ENVIRONMENT,
    "fine_space/gym.yaml": GOOD,
    **_package("fine_hook", "from gymcore import hookimpl\n\n@hookimpl\ndef gym_run_start(folder, planned): ...\n"),
}

NEEDY = {
    **_package("needy_declared", "import no_such_declared\n"),
    **_package("needy_renamed", "import cv2.typing\n"),
    **_package("needy_maybe", "import no_such_module_anywhere\n"),
    **_package("needy_older", "import json.no_such_part\n"),
    **_package("needy_newer", "from json import no_such_name\n"),
    **_package("needy_deeper", "# A library that is broken itself.\nimport needy_library\n"),
    **_package("needy_library", "import no_such_module_anywhere\n", None),
    **_package("needy_partial", "import needy_partial.part\n"),
}

ENVIRONMENTS = {
    "raises": "hostile_raises:Mine",
    "exits": "hostile_exits:Mine",
    "leaves": "hostile_leaves:Mine",
    "crashes": "hostile_crashes:Mine",
    "babbles": "hostile_babbles:Mine",
    "needs": "hostile_needs:Mine",
    "function": "hostile_function:Mine",
    "kind": "hostile_kind:Mine",
    "tool": "hostile_tool:Mine",
    "attribute": "hostile_attribute:Mine",
    "misspelt": "hostile_misspelt:Wether",
    "a b": "hostile_null:Mine",
    "bare": "hostile_bare:Mine",
    "yaml": "hostile_yaml:Mine",
    "twice": "hostile_twice:Mine",
    "list": "hostile_list:Mine",
    "silent": "hostile_silent:Mine",
    "future": "hostile_future:Mine",
    "past": "hostile_past:Mine",
    "many": "hostile_many:Mine",
    "escape": "hostile_escape:Mine",
    "null": "hostile_null:Mine",
    "gone": "hostile_gone.module:Mine",
    "lost": "hostile_raises.no_such_module:Mine",
    "noclass": "hostile_null",
    "nested": "fine_outer.inner.plugin:Mine",
    "space": "fine_space.module:Mine",
    "same_name": "hostile_null:Mine",
    "Same-Name": "hostile_null:Mine",
    "weather": "hostile_null:Mine",
}


NEEDY_NAMES = ("declared", "renamed", "maybe", "older", "newer", "deeper", "partial")


@pytest.fixture(scope="session")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The hostile plugins, and a distribution that offers a name one of them offers too.
    """
    folder = tmp_path_factory.mktemp("hostile")
    plugins = PluginFolder(folder)
    groups = {"gymcore.environments": ENVIRONMENTS, "gymcore.models": {"waits": "hostile_waits:Mine"}}
    groups["gymcore.hooks"] = {"hook": "fine_hook", "attribute_hook": "fine_hook:gym_run_start"}
    plugins.install("gym-plugin-hostile", HOSTILE, groups)
    plugins.install(
        "Acme.Weather",
        {**_package("acme_weather", ENVIRONMENT), **NEEDY},
        {
            "gymcore.environments": {
                "Weather": "acme_weather:Mine",
                **{name: f"needy_{name}:Mine" for name in NEEDY_NAMES},
            }
        },
        dependencies=["no-such-declared>=1", "pydantic>=2", "opencv-python; extra == 'vision'"],
    )
    return folder


@pytest.fixture(scope="module")
def hostile(hostile_folder: Path) -> Iterator[PluginFolder]:
    """
    The hostile plugins, installed where discovery sees them.
    """
    with PluginFolder(hostile_folder) as folder:
        yield folder


@pytest.fixture(scope="module")
def hostile_catalog(hostile: PluginFolder) -> Catalog:
    """
    What is installed, the hostile plugins included.
    """
    return discover()
