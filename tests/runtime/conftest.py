"""
Compositions made by hand, so that a test of the runtime says what plays what, and installs nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from gymcore.builtin.simple_agent import SimpleAgent
from gymcore.composition import Composition, Route
from gymcore.composition.configuration import Options
from gymcore.composition.dataset import Dataset, DatasetWriter
from gymcore.composition.mixing import interleave
from gymcore.composition.routes import ModelChoice
from gymcore.discovery import Manifest, Plugin
from gymcore.documents import encode_json
from gymcore.interfaces import Agent, Config, Environment, Model
from gymcore.plan import Plan
from gymcore.records import Row

Composed = Callable[..., Composition]


class CountingDataset(Dataset):
    """A dataset that counts how many of its rows were read."""

    reads = 0

    def row(self, position: int) -> Row:
        """Read a row, and count it."""
        self.reads += 1
        return super().row(position)


def _plugin(kind: Any, name: str, target: str = "") -> Plugin:
    return Plugin(kind, name, "testing", "0", target or f"testing:{name}", manifest=Manifest(gym_api=1))


def _choice(name: str, model: type[Model[Any]] | Model[Any]) -> ModelChoice:
    # `run` makes the instance itself; a test that wants to look into it hands in one that exists.
    chosen: Any = model if isinstance(model, type) else (lambda config: model)
    return ModelChoice(name, _plugin("model", name), chosen, Options(Config(), {}, {}))


def compose_by_hand(
    worlds: Mapping[str, tuple[type[Environment[Any, Any]], int]],
    model: type[Model[Any]] | Model[Any],
    *,
    agent: type[Agent[Any]] = SimpleAgent,
    judges: Mapping[str, type[Model[Any]] | Model[Any]] | None = None,
    rows: Iterable[Mapping[str, Any]] | None = None,
    **plan: Any,  # `collect`, `mix` and `environments` of a plan
) -> Composition:
    """
    Compose classes.

    Args:
        worlds: For each name, what plays it and how many tasks it has.
        model: The policy.
        agent: The loop.
        judges: Further models.
        rows: What the rows of every environment hold besides a prompt; numbered ones where it is None.
        plan: The rest of the plan.
    """
    entries = {name: (plan.get("environments") or {}).get(name, {}) for name in worlds}
    settled = Plan.model_validate({**plan, "environments": entries})
    routes = {}
    file = tempfile.TemporaryFile()  # noqa: SIM115, the dataset owns it
    writer = DatasetWriter(file)
    for name, (environment, count) in worlds.items():
        entry = settled.environments[name]
        route = Route(
            name=f"{name}_agent",
            environment=name,
            plan=entry,
            environment_plugin=_plugin("environment", name, f"{environment.__module__}:{environment.__qualname__}"),
            environment_class=environment,
            environment_options=Options(environment.config_model(), {}, {}),
            agent_plugin=_plugin("agent", "agent"),
            agent_class=agent,
            agent_options=Options(agent.config_model(), {}, {}),
            model=entry.model,
            repeats=entry.repeats or settled.collect.repeats,
        )
        routes[route.name] = route
        given = list(rows) if rows is not None else [{} for _ in range(count)]
        for number, extra in enumerate(given):
            row = {"responses_create_params": {"input": f"task {number}"}, **extra}
            identity = {"agent_ref": {"name": route.name}, "environment": name, "task_id": f"{name}/{number}"}
            writer.add(name, route.name, encode_json({**row, **identity}))
    names = sorted(writer.sizes())
    dataset = writer.finish(names[index] for index in interleave([writer.sizes()[name] for name in names]))
    dataset.__class__ = CountingDataset
    models = {"policy": _choice("policy", model)}
    models.update({name: _choice(name, judge) for name, judge in (judges or {}).items()})
    return Composition(settled, routes, models, dataset, {"format": 1})


@pytest.fixture
def composed() -> Composed:
    """What composes classes."""
    return compose_by_hand
