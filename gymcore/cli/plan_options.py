"""
The flags that make up a plan, shared by `gym compose` and `gym run`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from gymcore.documents import DocumentError, YamlDocument, parse_yaml
from gymcore.errors import PlanError, Problem
from gymcore.plan import Plan

__all__ = ["PlanFlags", "plan_options"]


@dataclass(frozen=True)
class PlanFlags:
    """What was typed."""

    plan: str | None = None
    env: Sequence[str] = ()
    data: Sequence[str] = ()
    model: str | None = None
    agent: str | None = None
    split: str | None = None
    limit: int | None = None
    repeats: int | None = None
    concurrency: int | None = None
    seed: int | None = None
    hook: Sequence[str] = ()
    set: Sequence[str] = field(default=())

    def names_work(self) -> bool:
        """Whether the flags say what to play, and not only how."""
        return bool(self.plan or self.env or self.data or self.split or self.limit is not None)

    def settings(self) -> list[str]:
        """Return the flags that change how a plan is carried out, as `key.path=value`; what is typed last wins."""
        chosen = [
            ("models.policy.use", self.model),
            ("agent.use", self.agent),
            ("collect.repeats", self.repeats),
            ("collect.concurrency", self.concurrency),
            ("mix.seed", self.seed),
        ]
        return [*(f"{key}={value}" for key, value in chosen if value is not None), *self.set]

    def to_plan(self) -> Plan:
        """
        Return the plan that file and flags describe together.

        Raises:
            PlanError: with every mistake in them.
        """
        document, source = YamlDocument({}), "the command line"
        if self.plan is not None:
            document, source = self._read_file(Path(self.plan)), self.plan
        value = document.value if isinstance(document.value, dict) else {}
        problems = self._add_environments(value)
        if self.data:
            value["data"] = [*_as_list(value.get("data")), *self.data]
        if self.hook:
            value["hooks"] = [*_as_list(value.get("hooks")), *self.hook]
        if problems:
            raise PlanError(problems, source=source)
        if self.plan is not None and not isinstance(document.value, dict | None):
            value = document.value
        return Plan.from_document(YamlDocument(value, document.lines), source=source, settings=self.settings())

    def _read_file(self, path: Path) -> YamlDocument:
        try:
            return parse_yaml(path.read_bytes())
        except OSError as error:
            raise PlanError([Problem(f"the plan cannot be read: {error.strerror}", where=str(path))]) from None
        except DocumentError as error:
            where = str(path) if error.line is None else f"{path}:{error.line}"
            raise PlanError([Problem(error.message, where=where)]) from None

    def _add_environments(self, value: dict[str, Any]) -> list[Problem]:
        environments = value.get("environments")
        if environments is None:
            environments = {}
        problems: list[Problem] = []
        for name in dict.fromkeys(self.env):
            if not isinstance(environments, dict):
                break
            if name.count(":"):
                # A qualified name is no key of a plan: `distribution:name` plays under its own name.
                environments.setdefault(name.rpartition(":")[2], {})
                entry = environments[name.rpartition(":")[2]] = environments[name.rpartition(":")[2]] or {}
                entry["use"] = name
            else:
                environments[name] = environments.get(name) or {}
        problems.extend(_twice(self.env))
        if isinstance(environments, dict):
            environments = {name: {} if entry is None else entry for name, entry in environments.items()}
        if not environments and (self.data or value.get("data")):
            problems.extend(_without_effect({"--split": self.split, "--limit": self.limit}))
        for entry in environments.values() if isinstance(environments, dict) else ():
            if isinstance(entry, dict):
                for key, wanted in (("split", self.split), ("limit", self.limit)):
                    if wanted is not None:
                        entry[key] = wanted
                if self.repeats is not None and "repeats" in entry:
                    entry["repeats"] = self.repeats
        if environments:
            value["environments"] = environments
        return problems


def _twice(names: Sequence[str]) -> Iterable[Problem]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            hint = f"try: give the second a name of its own: --set environments.NAME.use={name}"
            yield Problem(f"the environment {name!r} is named {names.count(name)} times", "--env", (hint,))


def _without_effect(flags: Mapping[str, Any]) -> Iterable[Problem]:
    for flag, wanted in flags.items():
        if wanted is not None:
            hint = "try: --env NAME for each environment that the rows name"
            yield Problem(f"{flag} applies to the environments that the plan names, and it names none", flag, (hint,))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags of a plan, gathered into one `flags` argument."""

    @functools.wraps(function)
    def gathered(**arguments: Any) -> Any:
        names = PlanFlags.__dataclass_fields__
        flags = PlanFlags(**{name: arguments.pop(name) for name in names if name in arguments})
        return function(flags=flags, **arguments)

    options = [
        click.option("--plan", metavar="FILE", help="A plan in YAML; flags change it."),
        click.option("--env", "-e", multiple=True, metavar="NAME", help="An environment to play; again for each."),
        click.option("--data", multiple=True, metavar="FILE", help="Rows that carry their route; again for each file."),
        click.option("--model", metavar="NAME", help="The model that answers; oracle, where nothing is said."),
        click.option("--agent", metavar="NAME", help="The agent that plays, where an environment names none."),
        click.option("--split", metavar="NAME", help="The split of every environment; example, where nothing is said."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N tasks of each environment."),
        click.option("--repeats", type=click.IntRange(min=1), metavar="N", help="Rollouts of each task."),
        click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Rollouts in flight, at most."),
        click.option("--seed", type=int, metavar="N", help="The source of all chance."),
        click.option("--hook", multiple=True, metavar="NAME", help="A hook plugin to activate; again for each."),
        click.option("--set", multiple=True, metavar="KEY=VALUE", help="Set anything in the plan, by its key path."),
    ]
    for option in reversed(options):
        gathered = option(gathered)
    return gathered
