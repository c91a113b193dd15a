"""
What an interpreter says of a class that only it can import.
"""

from __future__ import annotations

from typing import Any

from gymcore import Environment, ToolCall
from gymcore.interpreters.inside import answer


class Far(Environment):
    """One that is somewhere else."""

    keeps_route = True

    def other_tool(self, call: ToolCall) -> Any:
        return call.name


def test_whose_tools_and_routes_an_environment_takes_is_told() -> None:
    """
    Rows are checked on this side, where there is no such class.
    """
    told = answer(Far, {"do": "describe"})

    assert (told["keeps_route"], told["takes_other_tools"], told["tools"]) == (True, True, [])
    plain = answer(Environment, {"do": "describe"})
    assert (plain["keeps_route"], plain["takes_other_tools"]) == (False, False)
