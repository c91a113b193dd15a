"""
Allow and block lists: they name distributions, and hold before anything of a plugin is read.
"""

from __future__ import annotations

import pytest

from gymcore.discovery import discover
from gymcore.discovery.lists import Lists
from gymcore.errors import PluginError, RequestError
from gymcore.testing.plugins import PluginFolder


@pytest.mark.parametrize(
    ("environ", "distribution", "objection"),
    [
        ({}, "anything", None),
        ({"GYM_PLUGINS_ALLOW": "", "GYM_PLUGINS_BLOCK": "  "}, "anything", None),
        ({"GYM_PLUGINS_ALLOW": "gym-plugin-a, acme-*"}, "Gym_Plugin.A", None),
        ({"GYM_PLUGINS_ALLOW": "gym-plugin-a, acme-*"}, "acme.weather", None),
        ({"GYM_PLUGINS_ALLOW": "gym-plugin-a, acme-*"}, "acme", "GYM_PLUGINS_ALLOW names only gym-plugin-a, acme-*"),
        ({"GYM_PLUGINS_BLOCK": "Acme_*"}, "acme-weather", "GYM_PLUGINS_BLOCK names 'Acme_*'"),
        (
            {"GYM_PLUGINS_BLOCK": "acme-*", "GYM_PLUGINS_ALLOW": "acme-weather"},
            "acme-weather",
            "GYM_PLUGINS_BLOCK names",
        ),
        ({"GYM_PLUGINS_ALLOW": "acme-*,\n"}, "acme-a", None),
        ({"GYM_PLUGINS_ALLOW": "acme-*"}, "gymcore", None),
        ({"GYM_PLUGINS_BLOCK": "*"}, "gymcore", None),
        ({"GYM_PLUGINS_BLOCK": "*"}, "gymcore-extras", "GYM_PLUGINS_BLOCK names '*'"),
    ],
)
def test_a_list_holds_patterns_of_distributions(
    environ: dict[str, str], distribution: str, objection: str | None
) -> None:
    """
    Names are compared as installers compare them, the block list wins, and gymcore's own components always stay.
    """
    found = Lists.from_environ(environ).objection(distribution)

    assert (found or "").startswith(objection or "")
    assert (found is None) == (objection is None)


@pytest.mark.parametrize("variable", ["GYM_PLUGINS_ALLOW", "GYM_PLUGINS_BLOCK"])
@pytest.mark.parametrize(
    "text", [",", " , ", "a b", "a;b", "a\nb", "acme-weather==0.1.0", "'acme'", "acme-?", "acme-[ab]", "a, -", "!a"]
)
def test_a_list_that_is_not_understood_is_refused(variable: str, text: str) -> None:
    """
    It was written to keep something out, so passing over it would let that in without a word.
    """
    with pytest.raises(RequestError, match="is no pattern of a distribution's name") as caught:
        discover(environ={variable: text})

    assert (caught.value.where, caught.value.exit_code) == (variable, 2)


def test_a_blocked_distribution_is_listed_and_cannot_be_chosen(hostile: PluginFolder) -> None:
    """
    Its manifests are not even read, and the error says what blocks it.
    """
    catalog = discover(environ={"GYM_PLUGINS_ALLOW": "other,acme*"})
    rows = [plugin for plugin in catalog.plugins if plugin.distribution == "gym-plugin-hostile"]

    assert {plugin.status for plugin in rows} == {"blocked"}
    assert {plugin.manifest.gym_api for plugin in rows} == {0}
    assert {plugin.status for plugin in catalog.plugins if plugin.distribution == "gymcore"} == {"ok"}
    with pytest.raises(PluginError) as caught:
        catalog.load(catalog.find("environment", "space"))
    assert caught.value.exit_code == 4
    assert "cannot be used: GYM_PLUGINS_ALLOW names only other, acme*" in caught.value.message
    assert caught.value.hints == ("change that variable, if you trust it",)


def test_a_blocked_distribution_claims_no_name(hostile: PluginFolder) -> None:
    """
    Of two that offer one name, blocking the one chooses the other.
    """
    catalog = discover(environ={"GYM_PLUGINS_BLOCK": "gym-plugin-hostile"})

    assert catalog.find("environment", "weather").qualified == "Acme.Weather/Weather"
    assert catalog.find("environment", "weather").status == "ok"
    assert catalog.find("environment", "gym-plugin-hostile/weather").status == "blocked"
