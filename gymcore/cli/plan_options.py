"""
The flags that make up a plan, shared by `gym compose` and `gym run`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import click

from gymcore.cli.seconds import Seconds
from gymcore.composition.asked_names import key_of, shown_name
from gymcore.discovery.catalog import bare_name, split_argument
from gymcore.documents import YamlDocument
from gymcore.errors import Problem, nearest
from gymcore.plan import PlanText, read_document, read_plan

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
    size: int | None = None
    batch: int | None = None
    shuffle: bool | None = None
    exhausted: str | None = None
    allow_starved: bool = False
    repeats: int | None = None
    concurrency: int | None = None
    executor: str | None = None
    workers: int | None = None
    max_failures: str | None = None
    drain: float | None = None
    seed: int | None = None
    skip_invalid: bool = False
    ignore_warning: Sequence[str] = ()
    strict: bool = False
    hook: Sequence[str] = ()
    isolate: Sequence[str] = ()
    set: Sequence[str] = field(default=())

    def names_work(self) -> bool:
        """Whether the flags say what to play, and not only how."""
        chosen = (self.limit, self.size, self.batch, self.shuffle, self.exhausted)
        is_mixed = any(value is not None for value in chosen) or self.allow_starved
        is_checked = self.skip_invalid or self.ignore_warning or self.strict
        return bool(self.plan or self.env or self.data or self.split or is_mixed or is_checked)

    def settings(self) -> list[str]:
        """Return the flags that change how a plan is carried out, as `key.path=value`; what is typed last wins."""
        chosen = [
            ("models.policy.use", self.model),
            ("agent.use", self.agent),
            ("collect.repeats", self.repeats),
            ("collect.concurrency", self.concurrency),
            ("collect.executor", self.executor),
            ("collect.ray.workers", self.workers),
            ("collect.max_failures", self.max_failures),
            ("collect.drain_s", self.drain),
            ("mix.seed", self.seed),
            ("mix.size", self.size),
            ("mix.batch", self.batch),
            ("mix.shuffle", None if self.shuffle is None else str(self.shuffle).lower()),
            ("mix.exhausted", self.exhausted),
            ("mix.allow_starved", "true" if self.allow_starved else None),
            ("check.skip_invalid", "true" if self.skip_invalid else None),
            ("check.strict", "true" if self.strict else None),
        ]
        isolated = [f"environments.{name}.isolation=venv" for name in self.isolate]
        return [*(f"{key}={value}" for key, value in chosen if value is not None), *isolated, *self.set]

    def for_all(self) -> dict[str, Any]:
        """Return the flags of `collect` that hold for every environment, whatever a plan says of single ones."""
        return {"repeats": self.repeats, "max_failures": self.max_failures}

    def to_plan(self, beneath: tuple[YamlDocument, str] | None = None) -> PlanText:
        """
        Return the plan that file and flags describe together, with the mistakes of its form.

        Args:
            beneath: The plan that the flags change where they name no file, and how messages name it.

        Raises:
            PlanError: the file cannot be read at all.
        """
        document, source = beneath or (YamlDocument({}), "the command line")
        if self.plan is not None:
            document, source = read_document(self.plan), self.plan
        value = {} if document.value is None else document.value
        if isinstance(value, dict):
            self._change(value)
        unknown = self.unknown_isolated(value)  # which must not become environments by being set
        isolated = [name for name in self.isolate if name not in unknown]
        settings = replace(self, isolate=isolated).settings()
        text = read_plan(YamlDocument(value, document.lines), source=source, settings=settings)
        return replace(
            text, problems=(*_twice([asked for asked, _ in self._asked()]), *unknown.values(), *text.problems)
        )

    def _asked(self) -> list[tuple[str, str | None]]:
        """Return the environments that were named, each with its weight where it has one."""
        return [_read_env(asked) for asked in self.env]

    def unknown_isolated(self, plan: Any) -> dict[str, Problem]:
        """Find what is to be isolated and is no environment of a plan: by name, what is wrong with it."""
        known = plan.get("environments") or {} if isinstance(plan, dict) else {}
        if not isinstance(known, dict) or not isinstance(plan, dict) or plan.get("data"):
            return {}  # rows may name any environment that is installed
        problems = {}
        for name in self.isolate:
            if name not in known:
                close = nearest(name, map(str, known))
                hint = f"try: {close[0]}" if close else f"its environments: {', '.join(map(str, known)) or 'none'}"
                problems[name] = Problem(f"the plan has no environment {name!r}", "--isolate", (hint,))
        return problems

    def _change(self, value: dict[str, Any]) -> None:
        """Change the plain values of a plan by the flags that are no single setting."""
        if self.ignore_warning and isinstance(value.get("check") or {}, dict):
            check = value.get("check") or {}
            value["check"] = {**check, "ignore": [*_as_list(check.get("ignore")), *self.ignore_warning]}
        if self.hook:
            value["hooks"] = [*_as_list(value.get("hooks")), *self.hook]
        environments = value.get("environments") or {}
        if isinstance(environments, dict):
            value["environments"] = environments
            asked = self._asked()
            plain = {bare_name(name) for name, _ in asked if ":" not in name}
            for name, weight in asked:
                key = key_of(name, environments, plain)
                is_new = not environments.get(key)
                entry = environments[key] = environments.get(key) or {}
                if not isinstance(entry, dict):
                    continue  # a mistake of the plan's, which is told with its line
                if key != name and (is_new or ":" not in name):
                    entry["use"] = name
                if weight is not None:
                    entry["weight"] = _number(weight)
        if self.data:
            owner = _owner_of_data(value)
            owner["data"] = [*_as_list(owner.get("data")), *self.data]
        self._change_for_all(value, "mix", {"split": self.split, "limit": self.limit})
        self._change_for_all(value, "collect", self.for_all())

    def _change_for_all(self, value: dict[str, Any], section: str, changes: Mapping[str, Any]) -> None:
        """Set what holds for every environment, and take away what single ones say against it."""
        chosen = {key: wanted for key, wanted in changes.items() if wanted is not None}
        if chosen and isinstance(value.get(section) or {}, dict):
            value[section] = {**(value.get(section) or {}), **chosen}
        entries = value.get("environments")
        for entry in entries.values() if isinstance(entries, dict) else ():
            for key in chosen if isinstance(entry, dict) else ():
                entry.pop(key, None)


_NUMBER = re.compile(r"\d+(\.\d+)?([eE]-?\d{1,2})?")


def _number(text: str) -> Any:
    """Return the number that a text writes, or the text, which the plan will refuse with its place."""
    if not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.isdigit() else float(text)


def _read_env(asked: str) -> tuple[str, str | None]:
    """
    Take `NAME=WEIGHT` apart, or `NAME:ARGUMENT=WEIGHT`.

    An argument may hold an equals sign itself: there only a number after the last one is a weight, and in the query of
    an address only one that follows the value of its last parameter.

    Example:
        >>> _read_env("remote:http://127.0.0.1:9000/?of=1=2")
        ('remote:http://127.0.0.1:9000/?of=1', '2')
    """
    name, equals, weight = asked.partition("=")
    if ":" in name:
        name, equals, weight = asked.rpartition("=")
        is_of_query = "?" in name and "=" not in re.split("[?&]", name)[-1]
        if not equals or is_of_query or not _NUMBER.fullmatch(weight):
            return asked, None
    return name, weight if equals else None


def _owner_of_data(value: dict[str, Any]) -> dict[str, Any]:
    """
    Return what the files of `--data` belong to: the plan, whose rows say who plays them, or its only environment.

    Rows for an environment that is somewhere else say how it is called there, and nobody here is called so.
    """
    environments = value.get("environments")
    if isinstance(environments, dict) and len(environments) == 1 and not value.get("data"):
        (entry,) = environments.values()
        if isinstance(entry, dict) and split_argument(str(entry.get("use") or ""))[1] is not None:
            return entry
    return value


def _twice(names: Sequence[str]) -> Iterable[Problem]:
    shown = [shown_name(name) for name in names]
    same = [name if ":" in name else bare_name(name) for name in names]
    for name, key in dict.fromkeys(zip(shown, same, strict=True)):
        if same.count(key) > 1:
            hint = f"try: give the second a name of its own: --set environments.NAME.use={name}"
            yield Problem(f"the environment {name!r} is named {same.count(key)} times", "--env", (hint,))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _one_alone(context: click.Context, option: click.Parameter, given: Sequence[str]) -> str | None:
    """Return what an option says that may be said once; the last of several would count, and the others would not."""
    if len(given) > 1:
        hint = "one plan may name all environments"
        raise click.UsageError(f"--{option.name} is said {len(given)} times; {hint}", context)
    return given[0] if given else None


def plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags of a plan, gathered into one `flags` argument."""

    @functools.wraps(function)
    def gathered(**arguments: Any) -> Any:
        names = PlanFlags.__dataclass_fields__
        flags = PlanFlags(**{name: arguments.pop(name) for name in names if name in arguments})
        return function(flags=flags, **arguments)

    options = [
        click.option(
            "--plan", metavar="FILE", multiple=True, callback=_one_alone, help="A plan in YAML; flags change it."
        ),
        click.option(
            "--env",
            "-e",
            multiple=True,
            metavar="NAME[:ARGUMENT][=WEIGHT]",
            help="An environment to play, and its share of the mix in relation to the others; again for each.",
        ),
        click.option("--data", multiple=True, metavar="FILE", help="Rows that carry their route; again for each file."),
        click.option("--model", metavar="NAME", help="The model that answers; oracle, where nothing is said."),
        click.option("--agent", metavar="NAME", help="The agent that plays, where an environment names none."),
        click.option("--split", metavar="NAME", help="The split of every environment; example, where nothing is said."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N tasks of each environment."),
        click.option("--size", type=click.IntRange(min=1), metavar="N", help="N rows of all environments together."),
        click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Hold the shares in every N rows."),
        click.option("--shuffle/--no-shuffle", default=None, help="Order each environment's rows by chance, or not."),
        click.option(
            "--exhausted",
            type=click.Choice(["once", "stop", "repeat"]),
            help="What to do when an environment has no more rows.",
        ),
        click.option("--allow-starved", is_flag=True, help="Accept batches without a row of some environment."),
        click.option("--repeats", type=click.IntRange(min=1), metavar="N", help="Rollouts of each task."),
        click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Rollouts in flight, at most."),
        click.option("--executor", type=click.Choice(["local", "ray"]), help="Play in this process, or on Ray."),
        click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes that play, on Ray."),
        click.option("--max-failures", metavar="N|N%", help="Stop an environment alone when more of it fail."),
        click.option("--drain", type=Seconds(min=0), metavar="SECONDS", help="Time to finish after Ctrl-C."),
        click.option("--seed", type=int, metavar="N", help="The source of all chance."),
        click.option("--skip-invalid", is_flag=True, help="Leave invalid rows out, and write them to rejects.jsonl."),
        click.option("--ignore-warning", multiple=True, metavar="NAME", help="A warning to silence; again for each."),
        click.option("--strict", is_flag=True, help="Take warnings for mistakes."),
        click.option("--hook", multiple=True, metavar="NAME", help="A hook plugin to activate; again for each."),
        click.option(
            "--isolate",
            multiple=True,
            metavar="NAME",
            help="Give an environment a virtual environment of its own; again for each.",
        ),
        click.option("--set", multiple=True, metavar="KEY=VALUE", help="Set anything in the plan, by its key path."),
    ]
    for option in reversed(options):
        gathered = option(gathered)
    return gathered
