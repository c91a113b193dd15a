"""
The names of routes: their halves, and what is proposed where a name is none.
"""

from __future__ import annotations

import pytest

from gymcore.composition.route_names import RouteNames
from gymcore.discovery import Catalog


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ecoh_simple_agent", ["echo_simple_agent"]),
        ("chess_simple_agent", []),
        ("echo_smple_agent", ["echo_simple_agent"]),
        ("ecoh_smple_agent", ["echo_simple_agent"]),
        ("chess_custom_agent", []),
        ("zzz", []),
        ("_simple_agent", []),
        ("", []),
    ],
)
def test_what_is_near_is_decided_by_the_half_that_is_wrong(catalog: Catalog, name: str, near: list[str]) -> None:
    """
    Most routes end in the same agent, so that a name which is no nearer than that is near to none.
    """
    assert RouteNames(catalog).near(name)[:1] == near


@pytest.mark.parametrize("name", ["echo", "echo_bogus"])
def test_an_environment_without_an_agent_that_is_here_gets_one(catalog: Catalog, name: str) -> None:
    """
    All that are proposed are routes of that environment.
    """
    names = RouteNames(catalog)
    near = names.near(name)

    assert near
    assert all(names.halves(each) is not None and each.startswith("echo_") for each in near)
    assert names.names_environment(name)


def test_a_name_that_ends_in_an_agent_names_an_environment(catalog: Catalog) -> None:
    """
    One that begins like an environment that is here is another all the same, and one of the plan is here.
    """
    names = RouteNames(catalog, ["mine"])

    assert names.halves("mine_simple_agent") == ("mine", "simple_agent")
    assert not names.names_environment("echo_v2_simple_agent")
    assert not names.names_environment("chess")
    assert names.names_environment("mine_bogus")


def test_where_nothing_is_near_it_is_said_what_is_missing(catalog: Catalog) -> None:
    """
    With what to try: another name for one that is here, or the plugin.
    """
    told, hint = RouteNames(catalog).hints("chess_simple_agent")
    assert told == "no installed environment is called 'chess'"
    assert hint.startswith("try: install its plugin, or --set environments.chess.use=NAME")

    assert "and no installed one, is called 'chess'" in RouteNames(catalog, ["mine"]).hints("chess_simple_agent")[0]
    assert "--set" not in RouteNames(catalog).hints("a.b_simple_agent")[1]
    assert RouteNames(catalog).hints("zzz")[1].startswith("routes here: ")
