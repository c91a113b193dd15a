"""
A hook plugin that refuses plans with the seed 666.
"""

from typing import Any

from gymcore import RequestError, hookimpl


@hookimpl
def gym_plan(plan: dict[str, Any]) -> None:
    """Refuse one seed."""
    if plan.get("mix", {}).get("seed") == 666:
        raise RequestError("that seed is taken", where="mix.seed", hints=["try: another"])
