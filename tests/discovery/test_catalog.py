"""
A catalog: names lead to plugins, and only a chosen plugin is imported.
"""

from __future__ import annotations

import json
import sys

import pytest

from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.catalog import normalised
from gymcore.errors import AmbiguousPluginError, PluginError, UnknownPluginError
from gymcore.hookspecs import Observers
from gymcore.interfaces import Environment
from gymcore.testing.plugins import PluginFolder


def _load(catalog: Catalog, name: str, kind: str = "environment") -> PluginError:
    with pytest.raises(PluginError) as caught:
        catalog.load(catalog.find(kind, name))  # type: ignore[arg-type]
    return caught.value


# -- finding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["nested", "NESTED", "gym-plugin-hostile/nested", "gym_plugin_hostile/nested", "Gym.Plugin.Hostile/Nested"]
)
def test_a_name_is_found_however_it_is_spelt(hostile_catalog: Catalog, name: str) -> None:
    """
    Case, dashes and dots are no difference, with the distribution or without.
    """
    assert hostile_catalog.find("environment", name).qualified == "gym-plugin-hostile/nested"


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        ("environment", "netsed", "try: 'nested'"),
        ("environment", "zzzzz", "try: pip install gym-plugin-zzzzz, if there is such a distribution, or `gym list`"),
        ("environment", "My_Env", "try: pip install gym-plugin-My_Env, if"),
        ("environment", "acme-zzzzz/q", "try: pip install acme-zzzzz, if there is such a distribution"),
        ("environment", "z z; rm -rf", "\n  try: `gym list` to see every one"),
        ("environment", "--index-url=x", "\n  try: `gym list` to see every one"),
        ("environment", "oracle", "'oracle' is a model, of gymcore"),
        ("environment", "other-distribution/nested", "gym-plugin-hostile/nested is installed"),
        ("environment", "gym-plugin-hostile/netsed", "try: 'nested'"),
        ("model", "nested", "installed: "),
        ("agent", "simple-agnet", "try: 'simple_agent'"),
        ("environment", "", "installed: "),
        ("environment", "/", "installed: "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    hostile_catalog: Catalog, kind: str, name: str, near: str
) -> None:
    """
    The error says what is installed of that kind and carries what was wanted.
    """
    with pytest.raises(UnknownPluginError) as caught:
        hostile_catalog.find(kind, name, where="plan.yaml:3")  # type: ignore[arg-type]

    assert caught.value.wanted == name
    assert caught.value.where == "plan.yaml:3"
    assert near in str(caught.value)


def test_a_name_that_two_distributions_offer_must_be_chosen(hostile_catalog: Catalog) -> None:
    """
    The bare name is an error that names both; each qualified name works.
    """
    with pytest.raises(AmbiguousPluginError) as caught:
        hostile_catalog.find("environment", "weather")

    assert caught.value.choices == ("Acme.Weather/Weather", "gym-plugin-hostile/weather")
    for choice in caught.value.choices:
        assert hostile_catalog.find("environment", choice).qualified == choice
        assert issubclass(hostile_catalog.load(hostile_catalog.find("environment", choice)), Environment)


@pytest.mark.parametrize("name", ["same_name", "Same-Name", "gym-plugin-hostile/same_name"])
def test_a_name_that_one_distribution_offers_twice_cannot_be_used(hostile_catalog: Catalog, name: str) -> None:
    """
    There is nothing to choose between, so it is the plugin that is broken, and not the request.
    """
    error = _load(hostile_catalog, name)

    assert "offers this name twice" in error.message


# -- loading -----------------------------------------------------------------------------------------------------------


def test_only_the_chosen_plugin_is_imported(hostile_catalog: Catalog) -> None:
    """
    Its neighbours in the same distribution stay unloaded.
    """
    loaded = hostile_catalog.load(hostile_catalog.find("environment", "space"))

    assert issubclass(loaded, Environment)
    assert "fine_space.module" in sys.modules
    assert "hostile_kind" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said", "where"),
    [
        ("raises", "could not be imported: RuntimeError: on purpose", "hostile_raises/__init__.py:1"),
        ("exits", "could not be imported: SystemExit: goodbye", "hostile_exits/__init__.py:2"),
        ("needs", "ModuleNotFoundError: No module named 'no_such_module_anywhere'", "hostile_needs/__init__.py:1"),
        ("attribute", "'hostile_attribute' has no 'Mine'", "hostile_attribute/__init__.py"),
        ("function", "is a function, and not a subclass of gymcore.Environment", "hostile_function/__init__.py:1"),
        ("kind", "is the class Mine, and not a subclass of gymcore.Environment", "hostile_kind/__init__.py:3"),
        ("tool", "TypeError: tool Mine.t: the parameter 'x' needs a type", ""),
        ("nested", "RuntimeError: a parent", "fine_outer/__init__.py:1"),
        ("future", "cannot be used: written for interface version 99", ""),
        ("yaml", "cannot be used: not YAML", ""),
        ("bare", "cannot be used: there is no gym.yaml in the installed package 'hostile_bare'", ""),
    ],
)
def test_a_broken_plugin_says_who_where_and_why(hostile_catalog: Catalog, name: str, said: str, where: str) -> None:
    """
    Whatever an import raises, `SystemExit` included, is one error that names the plugin and the line.
    """
    error = _load(hostile_catalog, name)

    assert f"the environment '{name}' (gym-plugin-hostile 0.1.0)" in error.message
    assert said in error.message
    assert (error.where or "").endswith(where)
    assert error.plugin == f"gym-plugin-hostile/{name}"
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("needs", "does not declare 'no_such_module_anywhere'; report it to the author, or: pip install no_such_mod"),
        ("declared", "'no-such-declared' is declared, but not installed; try: pip install --force-reinstall"),
        (
            "renamed",
            "'opencv-python' is declared for the extra 'vision' only; try: pip install 'Acme.Weather[vision]'",
        ),
        ("maybe", "maybe it belongs to 'no-such-declared', declared, but not installed"),
        ("older", "'json' is installed, but without 'json.no_such_part': maybe the plugin needs another version"),
        ("deeper", "'no_such_module_anywhere' is needed by what the plugin imports there"),
        ("partial", "'needy_partial.part' is not in the installed package; authors: `gym check` looks into the wheel"),
        ("newer", "the installed 'json' may be another version than the plugin was written for"),
        ("exits", "a plugin must not end the process when it is imported"),
        ("attribute", "its entry point: gymcore.environments attribute = hostile_attribute:Mine"),
        ("misspelt", "its classes with a name like that: Weather"),
        ("kind", "it is a subclass of gymcore.Model: its author must offer it in gymcore.models"),
        ("bare", "the wheel was built without it; authors: run `gym check`"),
        ("future", "try: pip install --upgrade gymcore"),
        ("past", "try: pip install --upgrade gym-plugin-hostile"),
        ("gone", "try: pip install --force-reinstall gym-plugin-hostile"),
        ("twice", "its author must correct the manifest"),
    ],
)
def test_each_cause_has_a_remedy_of_its_own(hostile_catalog: Catalog, name: str, hint: str) -> None:
    """
    What is declared and gone, what nobody declared, and what its author must mend are told apart.
    """
    error = _load(hostile_catalog, name)

    assert any(hint in told for told in error.hints), error.hints


def test_the_line_of_the_plugin_is_shown_and_not_that_of_what_it_imports(hostile_catalog: Catalog) -> None:
    """
    Whoever reads it knows the plugin, and not the library in which the import fails.
    """
    assert (_load(hostile_catalog, "deeper").where or "").endswith("needy_deeper/__init__.py:2")


def test_a_plugin_of_the_future_is_never_imported(hostile_catalog: Catalog) -> None:
    """
    It may rely on what this version does not have.
    """
    _load(hostile_catalog, "future")

    assert "hostile_future" not in sys.modules


def test_a_hook_is_a_module_or_an_object(hostile_catalog: Catalog) -> None:
    """
    No base class is asked of it, and its hooks can be registered.
    """
    module = hostile_catalog.load(hostile_catalog.find("hook", "hook"))

    Observers({"gym-plugin-hostile/hook": module})
    assert module.__name__ == "fine_hook"
    assert callable(hostile_catalog.load(hostile_catalog.find("hook", "attribute_hook")))


# -- data --------------------------------------------------------------------------------------------------------------


def test_data_of_a_package_is_read_although_its_parents_cannot_be_imported(hostile_catalog: Catalog) -> None:
    """
    Reading a file is no reason to run code.
    """
    plugin = hostile_catalog.find("environment", "nested")

    with hostile_catalog.open_file(plugin, "rows.jsonl") as rows:
        assert rows.read() == b'{"a": 1}\n'
    assert "fine_outer" not in sys.modules


@pytest.mark.parametrize("path", ["missing.jsonl", "data", "no/such/folder.jsonl"])
def test_a_data_file_that_was_left_out_of_the_wheel_is_the_authors_mistake(
    plugins: PluginFolder, catalog: Catalog, path: str
) -> None:
    """
    The message says which file, whose, and what its author must do.
    """
    with (
        pytest.raises(PluginError, match="not in the installed package") as caught,
        catalog.open_file(catalog.find("environment", "echo"), path),
    ):
        pass

    assert repr(path) in caught.value.message
    assert "include the file in the wheel" in caught.value.hints[0]


# -- describing --------------------------------------------------------------------------------------------------------


def test_every_row_is_plain_values(hostile_catalog: Catalog) -> None:
    """
    What `gym list --json` prints reads back equal.
    """
    rows = [plugin.to_dict() for plugin in hostile_catalog.plugins]

    assert json.loads(json.dumps(rows)) == rows
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


@pytest.mark.parametrize(
    ("name", "plain"), [("a_b", "a-b"), ("A.B", "a-b"), ("a--b__c", "a-b-c"), ("simple", "simple")]
)
def test_names_are_compared_as_installers_compare_them(name: str, plain: str) -> None:
    """
    PEP 503 decides which spellings are one name.
    """
    assert normalised(name) == plain


def test_a_plugin_is_named_by_its_distribution() -> None:
    """
    The qualified name is never ambiguous.
    """
    assert Plugin("model", "m", "some-dist", "1", "a:B").qualified == "some-dist/m"
