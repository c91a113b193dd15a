"""
Parameters of a plan: refused before anything runs where they could not mean what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gymcore.composition import Composition
from gymcore.composition.parameters import mistakes_in_parameters
from gymcore.errors import PlanError
from gymcore.responses import CREATE_PARAMS

Compose = Callable[..., Composition]


def _tool(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {}}


KNOWN = _tool("repeat")


def test_every_mistake_of_the_parameters_is_told_with_its_key(composed: Compose) -> None:
    """
    What rows ask is no parameter, and a tool that the environment lacks is refused as it is in a row.
    """
    params = {"input": "x", "messages": [1], "tools": [KNOWN, _tool("repaet"), _tool("evil")], "metadata": 5}
    places = ["params.input", "params.messages", "params.metadata", "params.tools.1", "params.tools.2"]

    with pytest.raises(PlanError) as caught:
        composed({"environments": {"echo": {"params": params}}})

    told = [(problem.where, problem.message, *problem.hints) for problem in caught.value.problems]
    assert [where for where, *_ in told] == [f"environments.echo.{place}" for place in places]
    assert told[0][2] == "try: environments.echo.prompt, with `system` and `user`"
    assert told[2][1] == "must be an object of texts, not 5"
    assert told[3][1:] == ("the environment has no tool 'repaet'", "try: repeat")
    assert told[4][1:] == ("the environment has no tool 'evil'", "its tools: repeat")


@pytest.mark.parametrize(
    "params",
    [
        {"tools": 5}, {"tools": [5]}, {"tools": {}}, {"metadata": []}, {"temperature": "1"}, {"temperature": True},
        {"max_output_tokens": 0}, {"max_output_tokens": 1.5}, {"top_logprobs": -1}, {"parallel_tool_calls": "no"},
        {"include": "x"}, {"tool_choice": 5}, {"instructions": 5}, {"stream": True}, {"stream": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_parameter_of_another_type_is_refused(params: dict[str, Any]) -> None:
    """
    Else it would be a failure of every rollout.
    """
    assert len(mistakes_in_parameters(params, "params", None)) == 1


@pytest.mark.parametrize(
    "params",
    [
        dict.fromkeys(sorted(CREATE_PARAMS - {"input"})),
        {"temperature": 1, "top_p": 0.9, "max_output_tokens": 100, "top_logprobs": 0, "tool_choice": "required"},
        {"tool_choice": {"type": "function", "name": "repeat"}, "metadata": {"a": "b"}, "stream": False},
        {"tools": [KNOWN, {"type": "web_search"}], "top_k": 5, "min_p": [1]},
        {"tools": []},
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_parameter_that_fits_and_one_that_nobody_knows_travel(composed: Compose, params: dict[str, Any]) -> None:
    """
    Null unsets one; endpoints have parameters of their own, and carry out tools that are no functions themselves.
    """
    composition = composed({"environments": {"echo": {"params": params}}})

    assert composition.plan.environments["echo"].params == params


def test_a_mistake_in_parameters_is_told_beside_an_unknown_environment(composed: Compose) -> None:
    """
    What can be seen without the environment is said at once.
    """
    with pytest.raises(PlanError) as caught:
        composed({"environments": {"ehco": {"params": {"tools": 5, "temperature": "hot"}}}})

    assert {problem.where for problem in caught.value.problems} == {
        "environments.ehco.params.tools",
        "environments.ehco.params.temperature",
        "environments.ehco",
    }
