"""
Options: merged from defaults, manifest, plan and environment, checked, and never written where they are secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from gymcore.composition import Composition, open_composition, write_composition
from gymcore.composition.configuration import option_origins, resolve_options
from gymcore.composition.locking.lock import conflicts
from gymcore.composition.locking.moves import moves
from gymcore.discovery import Catalog
from gymcore.documents import parse_yaml, write_yaml
from gymcore.errors import GymcoreError
from gymcore.interfaces import Config, option

Compose = Callable[..., Composition]

SECRET = "hush-hush-1234567890"


def _echo(**config: Any) -> dict[str, Any]:
    return {"environments": {"echo": {"config": config}}}


def _options(composition: Composition) -> Any:
    (route,) = composition.routes.values()
    assert route.environment_options.config is not None
    return route.environment_options.config


# -- layers ------------------------------------------------------------------------------------------------------------


def test_the_plan_wins_over_the_manifest_and_that_over_the_class(composed: Compose) -> None:
    """
    The class says 1, the manifest 2, and the plan whatever it likes.
    """
    assert _options(composed({"environments": {"echo": {}}})).level == 2
    assert _options(composed(_echo(level=5))).level == 5
    assert _options(composed(_echo(level=5), "environments.echo.config.level=6")).level == 6


def test_a_variable_of_an_option_counts_where_nobody_else_says_anything(composed: Compose) -> None:
    """
    The plan wins over the process environment, and an empty variable is none.
    """
    plan = {"environments": {"echo": {}}}

    assert _options(composed(plan)).name == "nobody"
    assert _options(composed(plan, ECHO_NAME="somebody")).name == "somebody"
    assert _options(composed(plan, ECHO_NAME="")).name == "nobody"
    assert _options(composed(_echo(name="me"), ECHO_NAME="somebody")).name == "me"


def test_a_reference_is_replaced_by_the_value_of_the_variable(composed: Compose) -> None:
    """
    It may stand inside a text, and inside objects.
    """
    options = _options(composed(_echo(url="http://${HOST}/v1", headers={"a": "Bearer ${KEY}"}), HOST="h", KEY="k"))

    assert options.url == "http://h/v1"
    assert options.headers["a"].get_secret_value() == "Bearer k"


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_reference_stays_a_reference_in_the_written_plan(composed: Compose) -> None:
    """
    `plan.yaml` can be run by somebody else with a key of their own.
    """
    composition = composed(_echo(key="${KEY}", url="${URL}"), KEY=SECRET, URL=SECRET)

    assert composition.plan.environments["echo"].config == {"key": "${KEY}", "url": "${URL}"}
    assert _options(composition).key.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("config", "environ"),
    [
        ({"key": SECRET}, {}),
        ({"key": f"{SECRET}${{X}}"}, {"X": "x"}),
        ({"key": "${X}"}, {"X": SECRET}),
        ({}, {"ECHO_KEY": SECRET}),
        ({"auth": {"token": SECRET, "user": "me"}}, {}),
        ({"headers": {"Authorization": SECRET}}, {}),
        ({"headers": {"Authorization": "Bearer ${X}"}}, {"X": SECRET}),
        ({"name": "${X}"}, {"X": SECRET}),
        ({"name": "I am ${X}"}, {"X": SECRET}),
    ],
    ids=str,
)
def test_a_secret_is_in_no_file_of_a_run_folder(
    composed: Compose, tmp_path: Path, config: dict[str, Any], environ: dict[str, str]
) -> None:
    """
    However it was given, it is in none of plan, lock and dataset, and in no text of the composition.
    """
    composition = composed(_echo(**config), **environ)

    write_composition(composition, tmp_path / "run")

    written = b"".join(path.read_bytes() for path in sorted((tmp_path / "run").iterdir()))
    assert b"environments:" in written
    assert SECRET.encode() not in written
    assert SECRET not in json.dumps(composition.lock)


def test_a_secret_of_a_model_or_an_agent_is_kept_as_well(composed: Compose, tmp_path: Path) -> None:
    """
    The policy's key is what people type most.
    """
    plan = {
        "environments": {"echo": {}},
        "models": {"policy": {"use": "keyed", "config": {"api_key": SECRET, "base_url": "http://a"}}},
    }

    write_composition(composed(plan), tmp_path / "run")

    assert SECRET not in (tmp_path / "run" / "plan.yaml").read_text()
    assert "base_url: http://a" in (tmp_path / "run" / "plan.yaml").read_text()
    assert SECRET not in (tmp_path / "run" / "gym.lock").read_text()


def test_a_run_folder_is_played_with_a_key_given_anew(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    What was not written can be given again, and another key is no other plan.
    """
    write_composition(composed(_echo(key=SECRET)), tmp_path / "run")

    again = open_composition(tmp_path / "run", catalog, settings=("environments.echo.config.key=another",), environ={})

    assert _options(again).key.get_secret_value() == "another"


class Hidden(Config):
    """Secrets that are no texts."""

    key: SecretStr = option(SecretStr(""))
    raw: SecretBytes = option(SecretBytes(b""))
    number: Secret[int] = option(Secret(0))
    folder: Path = option(Path("here"))


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"key": SecretStr(SECRET)}, {}),
        ({"raw": SECRET.encode()}, {}),
        ({"number": 12345}, {}),
        ({"key": "${X}"}, {"key": "${X}"}),
        ({"folder": Path("/there")}, {"folder": Path("/there")}),
    ],
    ids=str,
)
def test_options_given_in_python_are_as_safe_as_those_of_a_file(asked: dict[str, Any], written: dict[str, Any]) -> None:
    """
    A secret is left out whatever its type, and what is left can be written.
    """
    options, problems = resolve_options(Hidden, {}, asked, {"X": "x"}, "config")

    assert problems == []
    assert options.written == written
    assert parse_yaml(write_yaml(options.written)).value == {key: str(value) for key, value in written.items()}


@pytest.mark.parametrize(
    ("config", "environ"),
    [
        ({"key": [SECRET]}, {}),
        ({"key": {"a": SECRET}}, {}),
        ({"key": "${X}", "level": "x"}, {"X": SECRET}),
        ({"auth": SECRET}, {}),
        ({"auth": {"token": [SECRET]}}, {}),
        ({"auth": {"tokn": SECRET}}, {}),
        ({"headers": SECRET}, {}),
        ({"headers": {"a": [SECRET]}}, {}),
        ({"key": SECRET, "style": "loud", "level": 1}, {}),
        ({"level": "${X}"}, {"X": SECRET}),
        ({"style": "${X}"}, {"X": SECRET}),
        ({"style": "a${X}"}, {"X": SECRET}),
        ({"kye": SECRET}, {}),
    ],
    ids=str,
)
def test_a_secret_is_in_no_message(composed: Compose, config: dict[str, Any], environ: dict[str, str]) -> None:
    """
    A mistake beside a secret, or in it, is reported without it.
    """
    with pytest.raises(GymcoreError) as caught:
        composed(_echo(**config), **environ)

    assert SECRET not in str(caught.value)
    assert "environments.echo.config" in str(caught.value)


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"level": "x"}, "input should be a valid integer, unable to parse string as an integer, not 'x'"),
        ({"style": "quiet"}, "input should be 'plain' or 'loud', not 'quiet' (environments.echo.config.style)"),
        ({"style": "loud", "level": 1}, "level 1 cannot be loud"),
        ({"auth": {}}, "(environments.echo.config.auth.token)"),
        ({"stile": "loud"}, "unknown option 'stile' (environments.echo.config.stile)\n  try: style"),
        ({"zzz": 1}, "options: level, style, name, url, key, auth, headers"),
    ],
)
def test_a_wrong_option_is_answered_with_its_place_and_value(
    composed: Compose, config: dict[str, Any], said: str
) -> None:
    """
    What is no secret is shown, because that is what one wants to see.
    """
    with pytest.raises(GymcoreError) as caught:
        composed(_echo(**config))

    assert said in str(caught.value)


def test_an_environment_without_options_refuses_all(composed: Compose) -> None:
    """
    The message says that there are none.
    """
    with pytest.raises(GymcoreError, match="options: none"):
        composed({"environments": {"shout": {"config": {"volume": 11}}}})


# -- what decides the meaning ------------------------------------------------------------------------------------------


class Database(BaseModel):
    """Something with a secret inside."""

    level: int = 1
    password: SecretStr | None = None


class Served(Config):
    """Options beside and around secrets."""

    index: str = option("none", environment_variable="INDEX")
    difficulty: int = option(1)
    database: Database = option(Database())
    backup: Database | None = option(None)
    others: list[Database] = option([])
    by_name: dict[str, Database] = option({})


@pytest.mark.parametrize(
    ("asked", "written", "meaning"),
    [
        ({"database": {"level": 5, "password": SECRET}}, {"database": {"level": 5}}, {"database": {"level": 5}}),
        ({"database": {"level": 1, "password": SECRET}}, {"database": {"level": 1}}, {}),
        ({"database": {"password": SECRET}}, {}, {}),
        ({"backup": {"level": 5, "password": SECRET}}, {"backup": {"level": 5}}, {"backup": {"level": 5}}),
        ({"others": [{"level": 5, "password": SECRET}]}, {}, {"others": [{"level": 5}]}),
        ({"by_name": {"a": {"level": 5}}}, {"by_name": {"a": {"level": 5}}}, {"by_name": {"a": {"level": 5}}}),
    ],
    ids=str,
)
def test_only_what_is_secret_of_an_option_is_left_out(
    asked: dict[str, Any], written: dict[str, Any], meaning: dict[str, Any]
) -> None:
    """
    An option beside a secret decides what rollouts mean as any other does, so it is in the plan and in the lock.
    """
    options, problems = resolve_options(Served, {}, asked, {}, "config")

    assert problems == []
    assert (options.written, options.meaning) == (written, meaning)


@pytest.mark.parametrize(
    ("asked", "environ", "meaning"),
    [
        ({"difficulty": "${X}"}, {"X": "{}"}, {"difficulty": "${X}"}),
        ({"index": "http://${X}/i"}, {"X": "{}"}, {"index": "http://${X}/i"}),
        ({}, {"INDEX": "{}"}, {"index": "${INDEX}"}),
        ({"database": {"level": "${X}", "password": "${Y}"}}, {"X": "{}", "Y": "y"}, None),
    ],
    ids=str,
)
def test_a_variable_is_named_and_another_value_of_it_is_noticed(
    asked: dict[str, Any], environ: dict[str, str], meaning: dict[str, Any] | None
) -> None:
    """
    Its value may be a secret that nobody typed as one; so only 16 bits of a digest are kept of it, its default's too.
    """
    found = [
        resolve_options(Served, {}, asked, {name: text.format(value) for name, text in environ.items()}, "config")[0]
        for value in (1, 7, 7)
    ]

    assert [options.meaning for options in found] == [asked if meaning is None else meaning] * 3
    assert found[0].marks != found[1].marks == found[2].marks
    assert all(len(mark) == 4 for options in found for mark in options.marks.values())


def test_a_variable_that_has_another_value_makes_another_lock(composed: Compose) -> None:
    """
    Rollouts of two meanings never share a folder, and the lock says which option it is about.
    """
    locks = [composed(_echo(level="${L}"), L=level).lock for level in ("2", "7")]

    assert [move.line for move in moves(*locks)] == [
        "echo: config.level comes out of a variable that has another value now"
    ]
    assert conflicts(*locks) != []


def test_what_stands_beside_a_secret_is_explained(composed: Compose) -> None:
    """
    `gym explain` shows all of an option but the secret.
    """
    origins = {
        origin.name: origin
        for origin in option_origins(Served, {}, {"database": {"level": 5, "password": SECRET}, "index": "a"}, {})
    }

    assert (origins["database"].value, origins["database"].is_hidden) == ({"level": 5}, False)
    assert (origins["index"].layer, origins["backup"].layer) == ("plan", "default")
