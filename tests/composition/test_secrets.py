"""
`${secret:NAME}`: asked of the hook plugins that the plan names, once, and written nowhere.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gymcore import discover, hookimpl
from gymcore.composition import Composition, open_composition, write_composition
from gymcore.composition.explanation import explain
from gymcore.discovery import Catalog
from gymcore.errors import AmbiguousPluginError, PlanError, PluginError, UnknownPluginError
from gymcore.hookspecs import HOOKS, Observers
from gymcore.plan import expand_variables
from gymcore.testing.plugins import PluginFolder

Compose = Callable[..., Composition]

SECRET = "hush-hush-1234567890"

VAULT = f'''
from gymcore import hookimpl

asked = []

@hookimpl
def gym_secret(name: str) -> str | None:
    asked.append(name)
    return "{SECRET}" if name in ("echo/key", "TOKEN") else None
'''

OTHERS = f'''
from gymcore import RequestError, hookimpl

class Second:
    """Knows everything."""

    @hookimpl
    def gym_secret(self, name):
        return "of the second"

class Torn:
    """Breaks, and says with what."""

    @hookimpl
    def gym_secret(self, name):
        raise ValueError("cannot send {SECRET}")

class Locked:
    """Tells the user what to do."""

    @hookimpl
    def gym_secret(self, name):
        raise RequestError("the vault is locked", hints=["try: vault login"])

class Odd:
    """Gives no text."""

    @hookimpl
    def gym_secret(self, name):
        return b"{SECRET}"

class Deaf:
    """Is asked for nothing."""

    @hookimpl
    def gym_run_start(self, planned):
        pass

class Misspelt:
    """Answers what nobody asks."""

    @hookimpl
    def gym_secrets(self, name):
        return "{SECRET}"

second, torn, locked, odd, deaf, misspelt = Second(), Torn(), Locked(), Odd(), Deaf(), Misspelt()
'''


@pytest.fixture(scope="module")
def vaults(plugins: PluginFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginFolder]:
    """
    Hook plugins that know secrets, and some that do not, beside the echo plugins.
    """
    others = {name: f"other_vaults:{name}" for name in ("second", "torn", "locked", "odd", "deaf", "misspelt")}
    manifest = "gym_api: 1\ndescription: Made by a test.\n"
    with PluginFolder(tmp_path_factory.mktemp("vaults")) as folder:
        folder.install(
            "gym-plugin-vaults",
            {
                "vault/__init__.py": VAULT,
                "vault/gym.yaml": manifest,
                "other_vaults/__init__.py": OTHERS,
                "other_vaults/gym.yaml": manifest,
                "absent_vault/__init__.py": "import there_is_no_such_module",
                "absent_vault/gym.yaml": manifest,
            },
            {"gymcore.hooks": {"vault": "vault", "absent_vault": "absent_vault", **others}},
        )
        yield folder


@pytest.fixture(scope="module")
def catalog(vaults: PluginFolder) -> Catalog:
    """
    What is installed, the vaults included.
    """
    return discover()


@pytest.fixture
def asked(vaults: PluginFolder) -> list[str]:
    """
    The names that the hook plugin `vault` is asked for.
    """
    import vault  # type: ignore[import-not-found]

    names: list[str] = vault.asked
    names.clear()
    return names


def _echo(*hooks: str, **config: Any) -> dict[str, Any]:
    return {"environments": {"echo": {"config": config}}, "hooks": list(hooks)}


def _options(composition: Composition) -> Any:
    (route,) = composition.routes.values()
    return route.environment_options.config


# -- who is asked ------------------------------------------------------------------------------------------------------


def test_a_secret_is_what_the_hook_plugin_says(composed: Compose, asked: list[str]) -> None:
    """
    It may stand inside a text and inside objects, in several places, and is asked for once.
    """
    plan = _echo("vault", key="${secret:echo/key}", url="http://${HOST}/${secret:TOKEN}")
    plan["environments"]["echo"]["config"]["headers"] = {"Authorization": "Bearer ${secret:echo/key}"}

    options = _options(composed(plan, HOST="h"))

    assert options.key.get_secret_value() == SECRET
    assert options.url == f"http://h/{SECRET}"
    assert options.headers["Authorization"].get_secret_value() == f"Bearer {SECRET}"
    assert asked == ["echo/key", "TOKEN"]


@pytest.mark.parametrize(
    ("hooks", "value"),
    [
        (("vault", "second"), SECRET),
        (("second", "vault"), "of the second"),
        (("deaf", "gym-plugin-vaults/vault", "torn"), SECRET),
    ],
)
def test_the_first_answer_in_the_order_of_the_plan_wins(composed: Compose, hooks: tuple[str, ...], value: str) -> None:
    """
    Whoever comes later is not asked, and may as well be broken.
    """
    assert _options(composed(_echo(*hooks, key="${secret:TOKEN}"))).key.get_secret_value() == value


def test_a_plan_without_secrets_imports_no_hook_plugin(composed: Compose) -> None:
    """
    A variable is none, even one of that name; a broken vault is in nobody's way until it is needed.
    """
    assert _options(composed(_echo("absent_vault", name="${secret}"), secret="me")).name == "me"


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_a_secret_that_nobody_knows_names_who_was_asked(composed: Compose, asked: list[str]) -> None:
    """
    Each place is named, and those who do not answer gym_secret are not.
    """
    with pytest.raises(PlanError) as caught:
        composed(_echo("vault", "deaf", key="${secret:KEY}", name="${secret:KEY}"))

    told, also = caught.value.problems
    assert told.message == "no hook plugin knows the secret 'KEY'"
    assert told.hints == ("asked: gym-plugin-vaults/vault", "try: put it where one of them looks")
    assert (told.where, also.where) == ("environments.echo.config.key", "environments.echo.config.name")
    assert asked == ["KEY"]


@pytest.mark.parametrize(("hooks", "hints"), [((), 1), (("deaf",), 2)])
def test_a_secret_without_a_plugin_for_it_says_what_to_add(
    composed: Compose, hooks: tuple[str, ...], hints: int
) -> None:
    """
    The variable of that name is no secret, and is not taken for one.
    """
    with pytest.raises(PlanError) as caught:
        composed(_echo(*hooks, key="${secret:KEY}"), KEY="x", **{"secret:KEY": "x"})

    (told,) = caught.value.problems
    expected = "${secret:KEY} is kept by a hook plugin, and the plan names none that answers gym_secret"
    assert told.message == expected
    assert len(told.hints) == hints
    assert "--hook NAME" in told.hints[-1]


@pytest.mark.parametrize("name", ["", " a", "a b", "-", "a" * 257, "a$"])
def test_what_names_no_secret_is_said(composed: Compose, asked: list[str], name: str) -> None:
    """
    Nobody is asked for it.
    """
    with pytest.raises(PlanError, match="names no secret: letters, digits and"):
        composed(_echo("vault", key=f"${{secret:{name}}}"))
    assert asked == []


@pytest.mark.parametrize(
    ("hook", "message", "hints"),
    [
        ("torn", "the hook gym_secret of gym-plugin-vaults/torn, asked for 'KEY', raised ValueError", ()),
        (
            "locked",
            "the hook gym_secret of gym-plugin-vaults/locked, asked for 'KEY', says: the vault is locked",
            ("try: vault login",),
        ),
        ("odd", "the hook gym_secret of gym-plugin-vaults/odd, asked for 'KEY', returned no text and not None", ()),
    ],
)
def test_a_plugin_that_fails_is_named_and_the_secret_is_not_told(
    composed: Compose, hook: str, message: str, hints: tuple[str, ...]
) -> None:
    """
    It is the plugin's mistake, said once, and the next one is not asked as if nothing had happened.
    """
    with pytest.raises(PluginError) as caught:
        composed(_echo(hook, "second", key="${secret:KEY}", name="${secret:KEY}"))

    assert caught.value.message.startswith(message)
    assert caught.value.hints == hints
    assert (caught.value.plugin, caught.value.exit_code) == (f"gym-plugin-vaults/{hook}", 4)
    assert (hook != "torn") == (caught.value.where is None)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("hook", "kind", "message"),
    [
        ("absent_vault", PluginError, "the hook 'absent_vault' (gym-plugin-vaults 0.1.0) could not be imported"),
        ("misspelt", PluginError, "gym-plugin-vaults/misspelt implements a hook that does not exist"),
        ("vualt", UnknownPluginError, "no hook is named 'vualt'"),
    ],
)
def test_a_vault_that_cannot_be_used_is_said_once(
    composed: Compose, hook: str, kind: type[Exception], message: str
) -> None:
    """
    However many secrets wait for it, in options of known and of unknown plugins.
    """
    plan = _echo(hook, key="${secret:KEY}", name="${secret:OTHER}")

    with pytest.raises(kind) as caught:
        composed(plan)
    plan["environments"]["ecoh"] = {"config": {"x": "${secret:KEY}"}}
    with pytest.raises(PlanError) as with_another:
        composed(plan)

    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, AmbiguousPluginError)
    assert [item.message[:20] for item in with_another.value.problems] == [message[:20], "no environment is na"]


def test_a_hanging_vault_is_not_waited_for_for_ever() -> None:
    """
    It is the plugin's mistake.
    """

    class Hanging:
        @hookimpl
        def gym_secret(self, name: str) -> str | None:
            threading.Event().wait()
            return None

    with pytest.raises(PluginError, match=r"asked for 'KEY', did not come back within 0\.1 s"):
        Observers({"dist/hanging": Hanging()}, limit_s=0.1).secret("KEY")


def test_nobody_is_asked_for_what_no_plan_says() -> None:
    """
    A manifest, and whoever has no hook plugins, is told so.
    """
    value, (problem,) = expand_variables("a${secret:KEY}", {"secret:KEY": "x"}, "here")

    assert (value, problem.where) == ("a", "here")
    assert problem.message == "${secret:KEY} is for a user's own plan, and nobody is asked here"
    assert HOOKS[-1] == "gym_secret"


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_secret_is_written_nowhere_and_asked_for_again(
    composed: Compose, catalog: Catalog, served: Any, asked: list[str], tmp_path: Path
) -> None:
    """
    Plan and lock keep the reference; whoever opens the folder asks for the options' secrets, and once.
    """
    row = json.dumps({"responses_create_params": {"input": "say b"}, "answer": "b"}).encode() + b"\n"
    url = served.url("/rows.jsonl", served.body(row))
    plan = _echo("vault", key="${secret:echo/key}", name="I am ${secret:TOKEN}", headers={"a": "${secret:TOKEN}"})
    data = {"url": url + "?token=${secret:TOKEN}", "sha256": hashlib.sha256(row).hexdigest()}
    plan["environments"]["echo"]["data"] = data

    write_composition(composed(plan, GYMCORE_CACHE=str(tmp_path / "cache")), tmp_path / "run")

    assert served.asked == [f"GET /rows.jsonl?token={SECRET}"]
    assert asked == ["echo/key", "TOKEN"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
    written = (tmp_path / "run" / "plan.yaml").read_text()
    assert written.count("${secret:TOKEN}") == 3
    assert "key: ${secret:echo/key}" in written

    asked.clear()
    again = open_composition(tmp_path / "run", catalog, environ={})
    assert _options(again).name == f"I am {SECRET}"
    assert asked == ["echo/key", "TOKEN"]

    asked.clear()
    task = next(iter(again.dataset)).identity[1]
    explained = explain(tmp_path / "run", task, catalog, {"GYMCORE_CACHE": str(tmp_path / "cache")})
    assert explained.warnings == ()
    assert SECRET not in str(explained)
    assert "${secret:echo/key}" in str(explained)
    assert asked == ["echo/key", "TOKEN"]


def test_the_value_of_a_secret_is_in_no_message(composed: Compose) -> None:
    """
    Also where it is no value that the option takes.
    """
    with pytest.raises(PlanError) as caught:
        composed(_echo("vault", level="${secret:TOKEN}", style="${secret:TOKEN}"))

    assert len(caught.value.problems) == 2
    assert SECRET not in str(caught.value)
