"""
What may follow the colon of an environment: `gym show NAME`, `gym show NAME:ARGUMENT` and `gym list --choices`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from gymcore.testing.plugins import PluginFolder

Gym = Callable[..., subprocess.CompletedProcess[str]]

CODE = '''\
from gymcore import Choice, Config, Environment, PluginError, option


class Where(Config):
    place: str = option("")


class Places(Environment[Where]):
    """Somewhere."""

    @classmethod
    def choices(cls):
        print("talk")
        yield Choice("rome", "The eternal city.", {"example": 1200}, {"asks": ["judge", "cat"], "max_steps": None})
        yield Choice("oz", "Not\\x1b[31m there.", problem="nobody has found it")


class Unknowable(Environment[Where]):
    @classmethod
    def choices(cls):
        raise PluginError("no map is here", plugin="unknowable", hints=["try: buy one"])


class Broken(Environment[Where]):
    @classmethod
    def choices(cls):
        return [{"argument": "rome"}]


class Wrong(Environment[Where]):
    @classmethod
    def choices(cls):
        return [Choice("rome", splits={"example": "many"})]


class Odd(Environment[Where]):
    @classmethod
    def choices(cls):
        return [Choice("rome", details={1: "a"})]


class Half(Environment[Where]):
    @classmethod
    def choices(cls):
        return [Choice("a\\ud800")]


class Endless(Environment[Where]):
    @classmethod
    def choices(cls):
        return [Choice("rome", details={"area": float("inf")})]


class Leaving(Environment[Where]):
    @classmethod
    def choices(cls):
        raise SystemExit(0)


class Silent(Environment[Where]):
    """Takes whatever it is given."""
'''


KINDS = ("Places", "Unknowable", "Broken", "Wrong", "Odd", "Half", "Endless", "Leaving", "Silent")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> PluginFolder:
    """
    Environments that take an argument: one that knows which, and others that do not.
    """
    files = {}
    environments = {}
    for kind in KINDS:
        name = kind.lower()
        files |= {f"in_{name}/__init__.py": CODE, f"in_{name}/gym.yaml": "gym_api: 1\nargument: place\n"}
        environments[name] = f"in_{name}:{kind}"
    folder = PluginFolder(tmp_path_factory.mktemp("places"))
    folder.install("gym-plugin-places", files, {"gymcore.environments": environments})
    return folder


def test_an_environment_shows_what_may_follow_its_colon(gym: Gym, places: PluginFolder) -> None:
    """
    Each with its description, its rows and whatever else it says; those that cannot be used with the reason.
    """
    done = gym("show", "places", folder=places)

    assert done.returncode == 0, done.stderr
    assert done.stderr == "talk\n"
    shown = done.stdout[done.stdout.index("played as") : done.stdout.index("\n\noptions")]
    assert shown.splitlines() == [
        "played as places:PLACE: nothing is known against 1 of 2",
        "  places:rome",
        "      The eternal city.",
        "      splits: example (1,200)",
        "      asks: judge, cat",
        "  not places:oz: nobody has found it",
    ]


def test_one_of_them_can_be_shown_alone(gym: Gym, places: PluginFolder) -> None:
    """
    As data too; one that does not exist is told with what is near to it.
    """
    done = gym("show", "places:rome", "--json", folder=places)

    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert described["argument"] == "place"
    assert described["choices"] == [
        {
            "argument": "rome",
            "description": "The eternal city.",
            "splits": {"example": 1200},
            "details": {"asks": ["judge", "cat"], "max_steps": None},
            "problem": None,
        }
    ]
    done = gym("show", "places:romme", folder=places)
    assert done.returncode == 2
    assert "places has no place 'romme'" in done.stderr
    assert "try: places:rome\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "unknowable"], 0, "which ones there are is not known: no map is here; try: buy one"),
        (["show", "unknowable:rome"], 4, "no map is here"),
        (["show", "broken"], 0, "cannot be told: TypeError: dict is no Choice"),
        (["show", "wrong"], 0, "has no count of rows"),
        (["show", "odd"], 0, "a field that is no text"),
        (["show", "half", "--json"], 0, "UnicodeEncodeError"),
        (["show", "endless", "--json"], 0, "ValueError: Out of range"),
        (["show", "leaving"], 0, "cannot be told: SystemExit: 0"),
        (["show", "remote:garbage"], 2, "remote does not take this url"),
        (["show", "silent"], 0, "played as silent:PLACE\n"),
        (["show", "silent:anywhere"], 0, "played as silent:PLACE\n"),
        (["show", "example_multi_step:x"], 2, "takes no argument"),
        (["show", "simple_agent:x"], 2, "takes no argument"),
    ],
)
def test_where_nobody_can_tell_it_is_said(
    gym: Gym, places: PluginFolder, arguments: list[str], code: int, told: str
) -> None:
    """
    An environment that does not know its choices is shown all the same, unless one of them is asked for.
    """
    done = gym(*arguments, folder=places)

    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_has_a_row_for_each_of_them(gym: Gym, places: PluginFolder) -> None:
    """
    Only where it is asked for, because their code is imported for it; what they print is no row.
    """
    done = gym("list", "environments", "--choices", "--json", folder=places)
    rows = {row["name"]: (row["status"], row["problem"], row["description"]) for row in json.loads(done.stdout)}

    assert rows["places"][0] == "ok"
    assert rows["places:rome"] == ("ok", None, "The eternal city.")
    assert rows["places:oz"] == ("incompatible", "nobody has found it", "Not\x1b[31m there.")
    assert [row["splits"] for row in json.loads(done.stdout) if row["name"] == "places:rome"] == [{"example": 1200}]
    assert {rows[f"{kind}:PLACE"][0] for kind in ("odd", "half", "endless", "leaving", "wrong")} == {"broken"}
    assert rows["unknowable:PLACE"][:2] == ("broken", "no map is here")
    assert rows["broken:PLACE"][0] == "broken"
    assert not [name for name in rows if name.startswith("silent:")]
    words = gym("list", "--choices", folder=places)
    assert words.returncode == 0
    assert "places:rome" in words.stdout
    assert "\x1b" not in words.stdout
    plain = gym("list", folder=places)
    assert "places:rome" not in plain.stdout
    assert plain.stderr == ""
