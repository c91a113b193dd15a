"""
One rollout without a plan, through the real runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from gymcore.builtin.simple_agent import SimpleAgent
from gymcore.composition import Route
from gymcore.composition.configuration import Options
from gymcore.discovery import Manifest, Plugin
from gymcore.documents import encode_json
from gymcore.interfaces import Agent, Config, Environment, Model
from gymcore.plan import EnvironmentPlan
from gymcore.records import Rollout, Row
from gymcore.runtime.in_process import InProcess, TimeLimits
from gymcore.runtime.isolation import Launch, open_isolated
from gymcore.runtime.placement import Placement
from gymcore.runtime.schedule import Planned
from gymcore.runtime.session import Session, Stage

__all__ = ["Table", "opened_table", "play"]


def play(
    environment: type[Environment[Any, Any]],
    row: Mapping[str, Any],
    model: Model[Any],
    *,
    agent: Agent[Any] | None = None,
    config: Config | None = None,
    judges: Mapping[str, Model[Any]] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    timeout_s: float = 60.0,
    tool_timeout_s: float = 60.0,
    verify_timeout_s: float = 60.0,
    isolation: Literal["none", "process"] = "none",
) -> Rollout:
    """
    Play one task with one model, exactly as a run does.

    Args:
        environment: The class to play.
        row: The task, as a row of a dataset; its route is added here.
        model: The policy, such as a `ScriptedModel`.
        agent: The loop; `simple_agent` where it is None.
        config: The environment's options; its defaults where it is None.
        judges: Further models by name, for verifiers that ask one.
        params: Create parameters that replace those of the row.
        seed: The plan's seed.
        timeout_s: The bound on the whole rollout.
        tool_timeout_s: The bound on one tool call.
        verify_timeout_s: The bound on the verifier.
        isolation: Whether the environment plays in an interpreter of its own, which must be able to import its class.

    Returns:
        The rollout, with a reward or with a failure.
    """

    async def playing() -> None:
        limits = TimeLimits(rollout_s=timeout_s, tool_s=tool_timeout_s, verify_s=verify_timeout_s)
        async with opened_table(
            environment,
            model,
            agent=agent,
            config=config,
            judges=judges,
            params=params,
            seed=seed,
            limits=limits,
            isolation=isolation,
        ) as table:
            played.append(await table.play(row))

    # Not the coroutine's result: asyncio.run writes that out as text when it gives SIGINT back, all of it.
    played: list[Rollout] = []
    asyncio.run(playing())
    return played[0]


@dataclass(frozen=True)
class Table:
    """An opened environment with a model at it, ready to play any number of rollouts."""

    route: Route
    stage: Stage

    async def play(self, row: Mapping[str, Any], number: int = 0) -> Rollout:
        """Play one rollout; `number` is which repeat of its task it is."""
        routed = {**row, "agent_ref": {"name": self.route.name}, "environment": self.route.environment}
        routed.setdefault("task_id", f"{self.route.environment}/0")
        planned = Planned(position=0, route=self.route, row=Row(encode_json(routed), routed), repeat=number)
        return await Session(self.stage, planned).play()


@asynccontextmanager
async def opened_table(
    environment: type[Environment[Any, Any]],
    model: Model[Any],
    *,
    agent: Agent[Any] | None = None,
    config: Config | None = None,
    judges: Mapping[str, Model[Any]] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    limits: TimeLimits | None = None,
    isolation: str = "none",
) -> AsyncIterator[Table]:
    """Open an environment and its models, as a run does once for all its rollouts; arguments as for `play`."""
    limits = limits or TimeLimits()
    plugin = Plugin("environment", "under_test", "testing", "0", "testing:play", manifest=Manifest(gym_api=1))
    options = Options(config or environment.config_model(), {}, {})
    route = Route(
        name="under_test_agent",
        environment="under_test",
        plan=EnvironmentPlan(params=dict(params or {})),
        environment_plugin=plugin,
        environment_class=environment,
        environment_options=options,
        agent_plugin=plugin,
        agent_class=Agent,
        agent_options=options,
        model="policy",
        repeats=1,
    )
    models = {**(judges or {}), "policy": model}
    async with AsyncExitStack() as stack:
        for opening in {id(used): used for used in models.values()}.values():
            await stack.enter_async_context(opening.opened())
        placement = await stack.enter_async_context(_placed(environment, options.config, limits, isolation))
        yield Table(
            route,
            Stage(
                agents={route.name: agent or SimpleAgent()},
                models=models,
                placements={route.environment: placement},
                limits={route.environment: limits},
                seed=seed,
                provenance={},
            ),
        )


@asynccontextmanager
async def _placed(
    environment: type[Environment[Any, Any]], config: Any, limits: TimeLimits, isolation: str
) -> AsyncIterator[Placement]:
    """Open an environment where it is to play."""
    if isolation == "process":
        target = f"{environment.__module__}:{environment.__qualname__}"
        launch = Launch(name="under_test", plugin="testing:play", target=target)
        async with open_isolated(launch, environment, config, limits) as place:
            yield place
    else:
        async with environment.shared(config) as resources:
            yield InProcess(environment, config, resources, limits)
