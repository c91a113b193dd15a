"""
`compose()`: a plan and a catalog become routes, a checked and mixed dataset, and a lock.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from gymcore.composition.dataset import BLOCK, Dataset, DatasetWriter
from gymcore.composition.linting.linter import Linter, LintWarning
from gymcore.composition.locking.lock import describe_lock, ordered
from gymcore.composition.order import Order, mistakes_in
from gymcore.composition.route_names import RouteNames
from gymcore.composition.routes import DEFAULT_SPLIT, ModelChoice, Resolver, Route
from gymcore.composition.rows.preparation import RowError, is_prepared, prepare_row
from gymcore.composition.rows.reader import RowReader, RowSource, numbered_lines, says_where_it_goes
from gymcore.composition.rows.rejects import Rejects
from gymcore.composition.rows.values import MISSING, key_path, keys_near, value_at
from gymcore.composition.sources.opening import SourceLines, open_source
from gymcore.composition.sources.plugin_rows import plugin_rows
from gymcore.composition.tokens import TokenCounter, prompt_text, token_counter
from gymcore.discovery import Catalog
from gymcore.discovery.manifest import PluginRows
from gymcore.documents import DocumentError, decode_json, encode_json
from gymcore.errors import DataError, GymcoreError, PlanError, Problem, RequestError, StorageError
from gymcore.plan import HubData, Plan, PlanText, UrlData, source_name
from gymcore.records import Task

__all__ = ["Composition", "compose", "plan_digest", "refuse_warnings", "trace"]

REFERENCE_ROWS = 5_000
"""So many rows of a validation split are compared with the training rows of a mix."""


@dataclass(frozen=True)
class Composition:
    """One runtime and one routed dataset: everything that `run` needs."""

    plan: Plan
    """The plan as resolved, without secrets."""
    routes: Mapping[str, Route]
    """By the `agent_ref.name` of their rows."""
    models: Mapping[str, ModelChoice]
    dataset: Dataset
    lock: dict[str, Any]
    """What the plan became: versions, options and digests; what it says decides what finished work means."""
    notes: tuple[str, ...] = ()
    """Remarks on the rows that are no mistakes, one line each."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Which part of the rows each environment was to have, from 0.0 to 1.0; `tasks` says what it has."""
    warnings: tuple[LintWarning, ...] = ()
    """What is odd about rows that are all right one by one."""
    rejects: Rejects | None = None
    """The invalid rows that were left out; None where there were none."""

    def planned(self) -> dict[str, int]:
        """Return how many rollouts each environment is to have."""
        counts: dict[str, int] = {}
        for name, count in self.dataset.counts().items():
            route = self.routes[name]
            counts[route.environment] = counts.get(route.environment, 0) + count * route.repeats
        return counts

    def tasks(self) -> dict[str, int]:
        """Return how many tasks each environment has."""
        counts: dict[str, int] = {}
        for name, count in self.dataset.counts().items():
            environment = self.routes[name].environment
            counts[environment] = counts.get(environment, 0) + count
        return counts

    def attempts(self) -> dict[str, int]:
        """Return how many rollouts one task of each environment has at most: its repeats, in every epoch."""
        entries = self.lock.get("environments", {})
        return {
            route.environment: route.repeats * entries.get(route.environment, {}).get("epochs", 1)
            for route in self.routes.values()
        }

    def name(self) -> str:
        """Name the composition by its environments and the digest of its plan: the folder it goes to by default."""
        environments = "+".join(sorted(self.tasks()))
        return f"{environments if len(environments) <= 100 else environments[:97] + '...'}-{plan_digest(self.lock)}"


def plan_digest(lock: Mapping[str, Any]) -> str:
    """Return 8 hexadecimal digits that name what was asked for; versions and file contents do not change them."""
    asked = {
        "environments": {
            name: [entry["plugin"].split(" ")[0], entry["asked"]] for name, entry in lock["environments"].items()
        },
        "models": {name: [entry["plugin"].split(" ")[0], entry["config"]] for name, entry in lock["models"].items()},
        "seed": lock["seed"],
        "data": [source["file"] for source in lock["data"]],
        **({"mix": lock["mix"]} if lock.get("mix") else {}),
    }
    return hashlib.blake2b(encode_json(ordered(asked)), digest_size=4).hexdigest()


def compose(
    plan: Plan | PlanText, catalog: Catalog, *, environ: Mapping[str, str] | None = None, is_played: bool = True
) -> Composition:
    """
    Find out what a plan means, check every row, and put the rows in order.

    Args:
        plan: What is asked for; as a `PlanText`, the mistakes of its form are reported with all others, each with the
            line on which it stands.
        catalog: What is installed.
        environ: Where `${NAME}` in the plan and options that name an environment variable get their values; the
            process environment where it is None.
        is_played: Whether tasks are going to be played; where they are not, a model that cannot play an environment is
            noted, and no mistake.

    Returns:
        The composition. Its dataset is on disk, in a temporary file that nobody else sees.

    Raises:
        PlanError: the plan cannot be carried out; with every mistake in it.
        UnknownPluginError, AmbiguousPluginError: the only mistake is a name.
        PluginError: a chosen plugin is broken.
        DataError: rows are wrong, and not to be left out; with the first ten and how many there are.
        RequestError: there are warnings, and the plan is strict.
        StorageError: the disk is full.
    """
    with closing(_resolver(plan, catalog, os.environ if environ is None else environ, is_played)) as resolver:
        return _compose(resolver, catalog)


def _compose(resolver: Resolver, catalog: Catalog) -> Composition:
    plan = resolver.plan
    if not plan.environments and not plan.data and not resolver.errors:
        installed = ", ".join(plugin.name for plugin in catalog.of_kind("environment")) or "none"
        hints = (f"installed: {installed}", "try: --env NAME, or --data FILE for rows that carry their route")
        raise PlanError([Problem("the plan names no environment", where="environments", hints=hints)])
    resolver.resolve_models()
    own = [route for name in plan.environments if (route := resolver.resolve_environment(name)) is not None]
    resolver.find_hooks()
    resolver.raise_errors()
    try:
        file: IO[bytes] = tempfile.TemporaryFile(prefix="gymcore-", buffering=BLOCK)  # noqa: SIM115, the dataset owns it
        try:
            return _Composer(resolver, catalog, file).compose(own)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise StorageError(
            f"the dataset cannot be written: {error.strerror}",
            where=tempfile.tempdir,  # None where no folder took even a byte
            hints=["try: another temporary folder, with TMPDIR=..."],
        ) from None


def _resolver(plan: Plan | PlanText, catalog: Catalog, environ: Mapping[str, str], is_played: bool) -> Resolver:
    if isinstance(plan, Plan):
        return Resolver(plan, catalog, environ, is_played=is_played)
    if plan.plan is None:
        raise PlanError(plan.problems, source=plan.source)
    resolver = Resolver(plan.plan, catalog, environ, plan.locate, plan.source, is_played=is_played)
    resolver.errors.extend(PlanError([problem]) for problem in plan.problems)
    return resolver


Traced = Callable[[str, str, str], None]
"""Told of a row: where it stands (`file:line`), its environment, and its task's id."""


def trace(
    plan: Plan, catalog: Catalog, environment: str, tell: Traced, *, environ: Mapping[str, str]
) -> list[dict[str, Any]]:
    """
    Read the rows of one environment again, as `compose` does, and say where each of them stands.

    Args:
        plan: A plan as it was resolved.
        catalog: What is installed.
        environment: Whose rows are of interest.
        tell: Told of every row that is good, of this environment and, from files that hold several, of others.
        environ: As for `compose`.

    Returns:
        What the lock would say of each file that was read.

    Raises:
        GymcoreError: the environment cannot be used, or a file cannot be read; then not all rows were told.
    """
    with closing(Resolver(plan, catalog, environ)) as resolver:
        return _trace(resolver, catalog, environment, tell)


def _trace(resolver: Resolver, catalog: Catalog, environment: str, tell: Traced) -> list[dict[str, Any]]:
    plan, entries = resolver.plan, resolver.plan.environments
    routes = {name: resolver.resolve_environment(name) for name in entries if name == environment or plan.data}
    resolver.raise_errors()
    with Path(os.devnull).open("wb") as nowhere:
        composer = _Composer(resolver, catalog, nowhere, tell)
        route = routes.get(environment)
        if route is not None:
            composer._read_environment(route)
        for given in plan.data:
            composer._read_routed(given)
    resolver.raise_errors()
    return [source.to_dict(owner) for owner, source in composer.sources]


class _Composer:
    """One call of `compose`: reads the rows of every source into a dataset."""

    def __init__(
        self, resolver: Resolver, catalog: Catalog, file: IO[bytes], tell: Traced = lambda where, name, task: None
    ) -> None:
        self.tell = tell
        self.resolver = resolver
        self.plan = resolver.plan
        self.catalog = catalog
        self.count_tokens: TokenCounter | None = None
        self.tokens: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        if self.plan.mix.weight_by == "tokens":
            self.count_tokens = token_counter(self.plan.mix.tokenizer, resolver.locate("mix.tokenizer"))
        checks = self.plan.check
        self.linter = Linter(checks.ignore, is_alone=self._is_alone())
        self.reader = RowReader(Rejects() if checks.skip_invalid else None, on_tools=self.linter.offered)
        self.split: str | None = None
        self.notes: Counter[str] = Counter()
        self.writer = DatasetWriter(file, shuffle=self._seed_of)
        self.sources: list[tuple[str, RowSource]] = []
        self.route_names: RouteNames | None = None
        self.unrouted: dict[str, str] = {}
        self.filtered: dict[str, _Filtered] = {}
        self.lost: dict[str | None, _Lost] = {}
        """Invalid rows of the environments' own files and splits; under None those of the plan's data."""
        self.losers: set[str | None] = set()
        """Whose the invalid rows of the plan's data are; None where some do not say it."""

    def compose(self, own: Iterable[Route]) -> Composition:
        for route in own:
            with self._losses_told_as(route.environment):
                self._read_environment(route)
        with self._losses_told_as(None):
            for given in self.plan.data:
                self._read_routed(given)
        self.resolver.raise_errors()
        self.reader.raise_problems()
        self._refuse_environments_without_rows()
        warnings = self._warnings()
        try:
            dataset, order = self._mixed()
        except MemoryError:
            told = "the mix does not fit into memory, where each of its rows takes some 20 bytes"
            raise PlanError([Problem(told, self.resolver.locate("mix.size"), ("try: a smaller --size",))]) from None
        # Routes without rows serve nobody: they are there only because rows name another agent.
        routes = {name: self.resolver.routes[name] for name in dataset.route_names}
        written = self.resolver.written_plan()
        # By owner, because the order in which environments are named means nothing; that of one owner's files does.
        sources = [source.to_dict(owner) for owner, source in sorted(self.sources, key=lambda entry: entry[0])]
        shares = order.requested(len(dataset))
        tokenizer = None if self.count_tokens is None else self.count_tokens.sha256
        lock = describe_lock(routes, self.resolver.models, sources, dataset, written, self.catalog, shares, tokenizer)
        notes = [f"{note} ({count} rows)" for note, count in self.notes.items()]
        notes += [filtered.note(name) for name, filtered in sorted(self.filtered.items()) if filtered.dropped]
        notes += order.remarks(len(dataset))
        notes += self.resolver.remarks
        served = {routes[name].environment for name, count in dataset.counts().items() if count}
        notes += [f"{name} has no row in this mix" for name in order.names if name not in served]
        return Composition(
            written,
            routes,
            self.resolver.models,
            dataset,
            lock,
            tuple(notes),
            shares,
            warnings,
            self.reader.rejects if self.reader.bad else None,
        )

    def _is_alone(self) -> bool:
        """Whether there is one environment, without a validation split that its rows are compared with."""
        return (
            len(self.plan.environments) == 1
            and not self.plan.data
            and not any(map(self._reference_of, self.resolver.routes.values()))
        )

    def _reference_of(self, route: Route) -> Sequence[str]:
        """Return the files of the validation split that an environment's training rows are compared with."""
        if route.plan.split != "train" or "leaked-prompt" in self.plan.check.ignore:
            return ()
        files = route.environment_plugin.manifest.splits.get("validation", ())
        return [path for path in files if isinstance(path, str)]  # nothing is fetched only to be compared with

    def _warnings(self) -> tuple[LintWarning, ...]:
        """
        Return what the linter has to say.

        Raises:
            RequestError: there is something, and the plan is strict.
        """
        for route in {route.environment: route for route in self.resolver.routes.values()}.values():
            manifest = route.environment_plugin.manifest
            split, splits, scale = route.plan.split, manifest.splits, manifest.reward_range
            self.linter.declare(route.environment, split=split, splits=splits, reward_range=scale)
            for path in self._reference_of(route):
                self._read_reference(route, path)
        warnings = self.linter.warnings(self.reader.drifts)
        if self.plan.check.strict:
            refuse_warnings(warnings)
        return warnings

    def _read_reference(self, route: Route, path: str) -> None:
        """Show rows to the linter that are no rows of the mix; whether they are all right is not asked here."""
        source = RowSource(f"{route.environment_plugin.qualified}:{path}")
        try:
            with self.catalog.open_file(route.environment_plugin, path) as lines:
                for number, line in islice(numbered_lines(lines, source), REFERENCE_ROWS):
                    try:
                        row = decode_json(line)
                        Task.model_validate(row)
                    except (DocumentError, ValueError):
                        continue
                    self.linter.add(route.environment, "validation", row, f"{source.name}:{number}", is_reference=True)
        except GymcoreError:
            return  # whoever takes that split is told

    def _mixed(self) -> tuple[Dataset, Order]:
        """
        Put the rows in order.

        Raises:
            PlanError: the plan asks for a mix that cannot be.
        """
        mix = self.plan.mix
        weights = {
            name: Fraction(str(entry.weight))
            for name, entry in self.plan.environments.items()
            if entry.weight is not None
        }
        limits = {route.environment: route.plan.limit for route in self.resolver.routes.values()}
        sizes = {name: min(size, limits[name] or size) for name, size in self.writer.sizes().items()}
        for problem in mistakes_in(mix, sizes, weights):
            self.resolver.complain(problem)
        self.resolver.raise_errors()
        order = Order.of(mix, sizes, weights, self._tokens_a_row() if self.count_tokens is not None else None)
        problems = [] if mix.allow_starved else list(order.starved())
        for problem in problems or order.impossible():
            self.resolver.complain(problem)
        if self.writer.has_epochs and order.exhausted == "repeat":
            told = "rows that say their epoch come from a mix that has repeated them, and cannot be repeated again"
            self.resolver.complain(Problem(told, "mix.exhausted", ("try: --exhausted stop",)))
        self.resolver.raise_errors()
        dataset = self.writer.finish(
            (order.names[index] for index in order),
            limits=limits,
            repeat=order.exhausted == "repeat",
        )
        return dataset, order

    def _tokens_a_row(self) -> dict[str, Fraction]:
        """Return how many tokens a row of each environment has in the mean, of all rows that were read."""
        return {name: Fraction(max(1, tokens), self.counted[name]) for name, tokens in self.tokens.items()}

    def _read_environment(self, route: Route) -> None:
        """Read the rows that an environment brings itself: files the plan gives it, or a split of its package."""
        if route.plan.data:
            for given in route.plan.data:
                with self._opened(given, f"environments.{route.environment}.data") as (lines, source):
                    self._read_own(route, lines, source)
            return
        split = route.plan.split
        if split is None:
            return  # the rows come from the plan's data, which route themselves
        self.split = split
        for path in route.environment_plugin.manifest.splits[split]:
            if isinstance(path, PluginRows):
                self._read_plugin_rows(route, split)
                continue
            if not isinstance(path, str):
                with self._opened(path, f"the manifest of {route.environment_plugin.qualified}", route) as (
                    lines,
                    source,
                ):
                    self._read_own(route, lines, source)
                continue
            source = RowSource(f"{route.environment_plugin.qualified}:{path}")
            self.sources.append((route.environment, source))
            try:
                with self.catalog.open_file(route.environment_plugin, path) as lines:
                    self._read_own(route, lines, source)
            except GymcoreError as error:
                self.resolver.errors.append(error)
        self.split = None

    def _read_plugin_rows(self, route: Route, split: str) -> None:
        """Read the rows of a split that the class of an environment yields."""
        source = RowSource(f"{route.environment_plugin.qualified}:{split}")
        self.sources.append((route.environment, source))
        plugin, options = route.environment_plugin, route.environment_options
        try:
            with closing(plugin_rows(plugin, route.environment_class, options, split)) as rows:
                self._read_own(route, rows, source)
        except GymcoreError as error:
            self.resolver.errors.append(error)

    def _read_own(self, route: Route, lines: Iterable[bytes], source: RowSource) -> None:
        for number, line in numbered_lines(lines, source):
            if self._has_enough(route):
                continue
            where = _place(lines, source, number)
            row = self.reader.parse(line, where)
            if row is not None:
                self._take(line, row, route, where)

    def _has_enough(self, route: Route) -> bool:
        """Whether the rows that follow are counted for the lock's digest and not looked at."""
        limit = route.plan.limit
        if limit is None or self.writer.size(route.environment) < limit:
            return False
        return self._seed_of(route.environment) is None

    def _seed_of(self, environment: str) -> int | None:
        """Return by what an environment's rows are put in order by chance, which no other environment decides."""
        entry = self.plan.environments.get(environment)
        is_weighted = entry is not None and entry.weight is not None
        return self.plan.mix.seed if self.plan.mix.is_shuffled(is_weighted=is_weighted) else None

    def _take(self, line: bytes, row: dict[str, Any], route: Route, where: str) -> None:
        if route.filter is not None and not self._is_wanted(row, route):
            return
        remarks: tuple[str, ...] | list[str] = ()
        if route.prompt is not None or not is_prepared(row):
            try:
                own_keys = route.environment_class.task_model.model_fields
                line, row, remarks = prepare_row(line, row, route.prompt, own_keys)
            except RowError as error:
                self.reader.reject(where, str(error), *([error.hint] if error.hint else []))
                return
        routed = self.reader.routed(line, row, route, where)
        if routed is None:
            return
        if route.environment_class.keeps_route and says_where_it_goes(row, route):
            remarks = [*remarks, _SENT_ON.format(route.environment)]
        for remark in remarks:
            self.notes[f"{route.environment}: {remark}"] += 1
        self.writer.add(route.environment, route.name, *routed, row.get("epoch", 1))
        self.tell(where, route.environment, routed[1])
        if self.linter.add(route.environment, self.split, row, where):
            self.linter.offered(route.environment, route.environment_class.tool_schemas(), "its code")
        if self.count_tokens is not None:
            self.tokens[route.environment] += self.count_tokens(prompt_text(row["responses_create_params"]))
            self.counted[route.environment] += 1

    def _is_wanted(self, row: dict[str, Any], route: Route) -> bool:
        """Whether the filter of an environment takes a row; keeps count."""
        assert route.filter is not None
        filtered = self.filtered.setdefault(route.environment, _Filtered())
        failing = route.filter.failing(row)
        filtered.count(row, failing)
        return not failing

    def _read_routed(self, given: str | HubData | UrlData) -> None:
        """Read rows that carry their own route, made here or by somebody else."""
        with self._opened(given, "data") as (lines, source):
            for number, line in numbered_lines(lines, source):
                where = _place(lines, source, number)
                row = self.reader.parse(line, where)
                route = self._route_of(row, where) if row is not None else None
                if row is None or route is None:
                    self.losers.add(None)
                    continue
                if not self._has_enough(route):
                    bad = self.reader.bad
                    self._take(line, row, route, where)
                    if self.reader.bad > bad:
                        self.losers.add(route.environment)

    @contextmanager
    def _opened(
        self, given: str | HubData | UrlData, where: str, route: Route | None = None
    ) -> Iterator[tuple[Iterable[bytes], RowSource]]:
        """Open a source of the user's, or of the manifest of a route, or add to the mistakes and read as empty."""
        source = RowSource(source_name(given))
        self.sources.append((where if route is None else route.environment, source))
        with ExitStack() as stack:
            lines: Iterable[bytes] = ()
            try:
                # Variables are for what the user typed: a manifest reads nobody's environment.
                opened = open_source(given, where, self.resolver.environ, has_variables=route is None)
                lines = stack.enter_context(opened)
            except PlanError as error:
                for problem in error.problems:
                    self.resolver.complain(problem)
            yield lines, source

    def _route_of(self, row: dict[str, Any], where: str) -> Route | None:
        """Find the route that a row asks for, resolving its environment where the plan did not name it."""
        reference = row.get("agent_ref")
        if reference is None:
            hint = 'try: jq -c \'. + {"agent_ref": {"name": "ENVIRONMENT_simple_agent"}}\''
            self.reader.reject(where, "the row has no `agent_ref`, so nobody knows who plays it", hint)
            return None
        name = reference.get("name") if isinstance(reference, dict) else None
        if not isinstance(name, str):
            self.reader.reject(where, '`agent_ref` must look like {"name": "ENVIRONMENT_AGENT"}')
            return None
        route = self.resolver.routes.get(name)
        if route is None and name not in self.unrouted:
            route = self._resolve_reference(name)
        if route is None:
            self.reader.reject(where, *self.unrouted.get(name, "").split("\n"))
        return route

    def _resolve_reference(self, name: str) -> Route | None:
        """Resolve the environment and the agent that a route is named after."""
        if self.route_names is None:
            self.route_names = RouteNames(self.catalog, self.plan.environments)
        halves = self.route_names.halves(name)
        if halves is not None:
            errors = len(self.resolver.errors)
            route = self.resolver.resolve_environment(*halves)
            if len(self.resolver.errors) == errors:
                return route
            self.unrouted[name] = f"the route {name!r} cannot be used, as said above"
            return None
        hints = self.route_names.hints(name)
        elsewhere = [
            route.environment for route in self.resolver.routes.values() if route.environment_class.keeps_route
        ]
        if elsewhere:
            hints.append(f"try: --set environments.{elsewhere[0]}.data=FILE, for rows that are routed elsewhere")
        self.unrouted[name] = "\n".join([f"no route is named {name!r:.100}", *hints])
        return None

    def _refuse_environments_without_rows(self) -> None:
        served = self.writer.sizes()
        emptied = {name: filtered for name, filtered in self.filtered.items() if filtered.dropped == filtered.rows}
        if problems := [filtered.problem(name) for name, filtered in emptied.items() if name not in served]:
            raise PlanError([replace(problem, where=self.resolver.locate(problem.where or "")) for problem in problems])
        empty = [name for name in self.plan.environments if name not in served]
        losses = {name: self._losses_of(name) for name in empty}
        if problems := [self._has_no_rows(name) for name in empty if not losses[name]]:
            raise PlanError(problems)
        if empty or (self.reader.bad and not served):
            lost = [self.lost[owner] for owner in dict.fromkeys(chain(*losses.values()) if empty else self.lost)]
            problems = [problem for each in lost for problem in each.problems][: DataError.shown]
            raise DataError(problems, count=sum(each.bad for each in lost), rows=sum(each.read for each in lost))
        if not served:
            raise PlanError([Problem("the data files hold no rows", where=", ".join(map(source_name, self.plan.data)))])

    @contextmanager
    def _losses_told_as(self, owner: str | None) -> Iterator[None]:
        """Keep the invalid rows that are read inside apart from all others, too."""
        before, self.reader.problems = self.reader.problems, []
        bad, read = self.reader.bad, self.reader.read
        yield
        self.lost[owner] = _Lost(self.reader.problems, self.reader.bad - bad, self.reader.read - read)
        self.reader.problems = [*before, *self.reader.problems][: DataError.shown]

    def _losses_of(self, environment: str) -> list[str | None]:
        """Return where invalid rows stood but for which an environment would have some: keys of `lost`."""
        owners = [environment, *([None] if self.losers & {environment, None} else [])]
        return [owner for owner in owners if owner in self.lost and self.lost[owner].bad]

    def _has_no_rows(self, name: str) -> Problem:
        """Say why an environment has no rows, where none of them was invalid."""
        where = f"environments.{name}"
        if own := self.plan.environments[name].data:
            told = f"its data hold no rows: {', '.join(map(source_name, own))}"
            return Problem(told, f"{where}.data", ("try: other data, or leave it out",))
        route = next(route for route in self.resolver.routes.values() if route.environment == name)
        if route.plan.split is None:
            more = f"--set {where}.split={DEFAULT_SPLIT} for its own rows"
            if not route.environment_plugin.manifest.splits:
                more = f"--set {where}.data=FILE for all rows of a file, whatever they say"
            return Problem("no row is routed to this environment", where, (f"try: leave it out, or {more}",))
        others = [split for split in route.environment_plugin.manifest.splits if split != route.plan.split]
        hint = f"try: leave it out, or --set {where}.split={others[0]}" if others else "try: leave it out"
        return Problem(f"its split {route.plan.split!r} holds no rows", f"{where}.split", (hint,))


_SENT_ON = (
    "its rows were composed for an environment of this name, and are sent on with the route in their "
    "`agent_ref.served_as`; if it is the server that calls its own environment {!r}, give this one another name"
)


def _place(lines: Iterable[bytes], source: RowSource, number: int) -> str:
    """Say where the line that was read last stands: of a source of several files, in which of them."""
    return lines.where() if isinstance(lines, SourceLines) else f"{source.name}:{number}"


def refuse_warnings(warnings: Sequence[LintWarning]) -> None:
    """
    Take warnings for mistakes.

    Raises:
        RequestError: there is one.
    """
    if warnings:
        lines = []
        for warning in warnings[:10]:
            lines.append(f"{warning.name}: {warning.message}")
            lines.extend(f"    {example}" for example in warning.examples)
        if len(warnings) > 10:
            lines.append(f"... and {len(warnings) - 10} more")
        count = "1 warning is" if len(warnings) == 1 else f"{len(warnings)} warnings are"
        silence = " ".join(f"--ignore-warning {name}" for name in dict.fromkeys(item.name for item in warnings))
        lines.append(f"try: mend the rows, or {silence}")
        raise RequestError(f"{count} taken for mistakes; nothing was written", hints=lines)


@dataclass(frozen=True)
class _Lost:
    """Invalid rows: the first mistakes, how many there are, and of how many that were read."""

    problems: Sequence[Problem]
    bad: int
    read: int


class _Filtered:
    """What the filter of an environment did to its rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.dropped = 0
        self.by_condition: Counter[str] = Counter()
        self.absent: Counter[str] = Counter()
        self.example: dict[str, Any] = {}

    def count(self, row: dict[str, Any], failing: list[str]) -> None:
        """Count a row, and what keeps it out."""
        self.rows += 1
        if not failing:
            return
        self.dropped += 1
        for text in failing:
            self.by_condition[text] += 1
            if value_at(row, key_path(text)) is MISSING:
                self.absent[text] += 1
        self.example = self.example or row

    def note(self, environment: str) -> str:
        """Say how many rows are left out."""
        return f"{environment}: its filter leaves out {self.dropped:,} of {self.rows:,} rows"

    def problem(self, environment: str) -> Problem:
        """Say why no row is left, where all were left out."""
        ((text, dropped),) = self.by_condition.most_common(1)
        path = key_path(text)
        told = f"the filter keeps none of {self.rows:,} rows; this condition alone leaves out {dropped:,}"
        found = value_at(self.example, path)
        if self.absent[text] == dropped:
            hint = f"no row that it leaves out has {text!r}; {keys_near(self.example, path)}"
        else:
            hint = f"the first row has {'nothing there' if found is MISSING else f'{found!r:.60}'}"
        return Problem(told, f"environments.{environment}.filter.{text}", (hint,))
