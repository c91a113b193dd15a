"""
What every environment should hold, checked on an installed one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gymcore.builtin.nop import Nop
from gymcore.builtin.oracle import Oracle
from gymcore.composition.rows.preparation import RowError, prepare_row
from gymcore.composition.rows.prompts import compile_prompt
from gymcore.discovery import discover
from gymcore.interfaces import Environment
from gymcore.plan import PromptPlan
from gymcore.records import ToolCall
from gymcore.testing.models import ScriptedModel
from gymcore.testing.playing import play
from gymcore.testing.replies import Reply, calls, says, truncated

__all__ = ["check_environment"]


def check_environment(name: str, *, tasks: int = 20, top_reward: float = 1.0) -> None:
    """
    Check an installed environment as a run would use it.

    Its splits, as far as they are in its package, parse and share no row, the reference solution earns the top reward,
    an attempt that says nothing, rubbish or half an answer earns less and raises nothing, and every tool stays calm
    when its arguments do not.

    Args:
        name: The environment's name, as `gym list` shows it.
        tasks: How many tasks of each split are played.
        top_reward: What a solved task earns.

    Raises:
        AssertionError: it does not hold; the message says what, and on which row.
        GymcoreError: the environment cannot be loaded at all.
    """
    catalog = discover()
    plugin = catalog.find("environment", name)
    environment = catalog.load(plugin)
    prompt, problems = compile_prompt(PromptPlan(**plugin.manifest.prompt), "prompt")
    assert not problems, f"gym.yaml: {problems[0].where}: {problems[0].message}"
    seen: dict[str, str] = {}
    for split, files in plugin.manifest.splits.items():
        rows = []
        for path in files:
            if not isinstance(path, str):
                continue  # a test fetches nothing
            with catalog.open_file(plugin, path) as lines:
                for number, line in enumerate(lines, start=1):
                    where = f"{path}:{number}"
                    try:
                        row = prepare_row(line, json.loads(line), prompt, environment.task_model.model_fields).row
                    except RowError as error:
                        raise AssertionError(f"{where}: {error}; {error.hint}") from None
                    environment.task_model.model_validate(row)
                    content = json.dumps(row["responses_create_params"]["input"], sort_keys=True)
                    other = seen.setdefault(content, f"{split} {where}")
                    assert other == f"{split} {where}", f"{where}: the same prompt stands in {other}"
                    rows.append((where, row))
        for where, row in rows[:tasks]:
            _check_task(environment, row, where, top_reward)


def _check_task(
    environment: type[Environment[Any, Any]], row: Mapping[str, Any], where: str, top_reward: float
) -> None:
    if environment.is_solvable():
        solved = play(environment, row, Oracle())
        assert solved.failure is None, f"{where}: the reference solution fails: {solved.failure}"
        assert solved.reward is not None
        assert solved.reward.value == top_reward, f"{where}: the reference solution earns {solved.reward.value}"
    hostile = [
        Reply((ToolCall(tool, text),))
        for tool in environment.tools
        for text in ("", "{", "null", "[]", '{"no_such_argument": 1}', '{"\\u0000": "\\ud800"}', "[" * 5000)
    ]
    for what, model in {
        "silence": Nop(),
        "rubbish": ScriptedModel(says("\x00 \ufffd {]} <tool_call>")),
        "half an answer": ScriptedModel(truncated("The answer is")),
        "hostile arguments": ScriptedModel(*hostile, says("")),
        "an unknown tool": ScriptedModel(calls("__class__"), says("")),
    }.items():
        rollout = play(environment, row, model)
        assert rollout.failure is None, f"{where}: {what} is a failure: {rollout.failure}"
        assert rollout.reward is not None
        assert rollout.reward.value < top_reward, f"{where}: {what} earns {rollout.reward.value}"
