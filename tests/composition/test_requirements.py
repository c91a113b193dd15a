"""
Plugins whose distribution needs something else than what is installed, when a plan chooses them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore import Plan, PluginError, compose, discover
from gymcore.composition import Composition
from gymcore.testing import PluginFolder

CODE = "from gymcore import Environment\n\n\nclass Weather(Environment):\n    '''Guess.'''\n"
MANIFEST = "gym_api: 1\nsplits: {example: rows.jsonl}\n"
ROW = '{"responses_create_params": {"input": "Will it rain?"}}\n'


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    An environment that needs an older click than anybody has, one that needs nothing, and hooks that need the former.
    """
    needs = ["click<2", "gym-plugin-nowhere>=3"]
    with PluginFolder(tmp_path_factory.mktemp("weather")) as folder:
        for name, dependencies in (("weather", needs), ("calm", [])):
            package = f"gym_plugin_{name}"
            files = {f"{package}/__init__.py": CODE, f"{package}/gym.yaml": MANIFEST, f"{package}/rows.jsonl": ROW}
            groups = {
                "gymcore.environments": {name: f"{package}:Weather"},
                "gymcore.hooks": {f"{name}_hook": package},
            }
            folder.install(f"gym-plugin-{name}", files, groups, dependencies=dependencies)
        yield folder


def composed(*environments: str, **plan: Any) -> Composition:
    """Compose environments that nobody answers."""
    asked = {"environments": dict.fromkeys(environments), "models": {"policy": {"use": "nop"}}, **plan}
    return compose(Plan.model_validate(asked), discover())


def test_a_chosen_plugin_that_needs_another_version_is_refused_by_name(weather: PluginFolder) -> None:
    """
    What is needed, what is installed, and what to try; nothing of the plugin was imported.
    """
    with pytest.raises(PluginError) as caught:
        composed("weather", "calm")

    error = caught.value
    assert error.exit_code == 4
    assert error.plugin.startswith("gym-plugin-weather")
    assert error.where == "environments.weather"
    assert error.message.startswith("the environment 'weather' (gym-plugin-weather 0.1.0) needs click<2, but click ")
    assert error.message.endswith(" is installed")
    assert "it also needs gym-plugin-nowhere>=3, which is not installed" in error.hints
    assert any(hint.startswith("do not install 'click<2' 'gym-plugin-nowhere>=3' here: ") for hint in error.hints)
    assert not any("--isolate" in hint for hint in error.hints)  # gymcore would be in that environment, too
    assert "gym_plugin_weather" not in sys.modules


def test_what_is_not_chosen_is_not_looked_at(weather: PluginFolder) -> None:
    """
    A plugin that cannot be used is no obstacle to the others.
    """
    assert composed("calm").notes == ()


def test_hooks_are_looked_at_too(weather: PluginFolder) -> None:
    """
    They are code that is imported like any other; a virtual environment of their own they cannot have.
    """
    with pytest.raises(PluginError, match=r"the hook 'weather_hook' .* needs click<2, but click") as caught:
        composed("calm", hooks=["weather_hook"])

    assert not any("--isolate" in hint for hint in caught.value.hints)


def test_who_insists_gets_it_with_a_note(weather: PluginFolder) -> None:
    """
    `check.requirements: warn` uses the plugin all the same, and says what is not as it needs it.
    """
    composition = composed("weather", check={"requirements": "warn"})

    assert len(composition.dataset) == 1
    assert [note.partition(", ")[0] for note in composition.notes] == [
        "the environment 'weather' (gym-plugin-weather 0.1.0) needs click<2",
        "the environment 'weather' (gym-plugin-weather 0.1.0) needs gym-plugin-nowhere>=3",
    ]


def test_a_process_of_its_own_is_no_way_out(weather: PluginFolder, tmp_path: Path) -> None:
    """
    It imports from where the run imports.
    """
    with pytest.raises(PluginError, match="needs click<2"):
        compose(
            Plan.model_validate(
                {"environments": {"weather": {"isolation": "process"}}, "models": {"policy": {"use": "nop"}}}
            ),
            discover(),
        )
