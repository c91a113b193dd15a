"""
Routes: which environment, agent and model serve a task, with their classes loaded and their options checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gymcore.composition.configuration import Options, is_reference, resolve_options
from gymcore.composition.parameters import mistakes_in_parameters
from gymcore.composition.rows.filters import Filter, compile_filter
from gymcore.composition.rows.prompts import Prompt, compile_prompt
from gymcore.composition.secrets import Secrets
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.catalog import bare_name, normalised, split_argument
from gymcore.discovery.requirements import Clash, Installed, remedies_of
from gymcore.errors import GymcoreError, PlanError, PluginError, Problem, nearest
from gymcore.interfaces import Agent, Config, Environment, Model
from gymcore.plan import AgentPlan, EnvironmentPlan, ModelPlan, Plan, PromptPlan, UrlData, Variables, expand_variables

if TYPE_CHECKING:
    from gymcore.interpreters.describer import Describer

__all__ = ["DEFAULT_SPLIT", "ModelChoice", "Resolver", "Route", "prompt_plan", "with_argument", "written_sources"]

DEFAULT_SPLIT = "example"
"""The split an environment brings where the plan names neither a split nor data."""


@dataclass(frozen=True)
class ModelChoice:
    """One of the plan's models: its plugin, class and options."""

    name: str
    plugin: Plugin
    model_class: type[Model[Any]]
    options: Options


@dataclass(frozen=True)
class Route:
    """Everything that serves the tasks of one `agent_ref`."""

    name: str
    """`{environment}_{agent}`: the `agent_ref.name` of its rows."""
    environment: str
    """The environment's name in the plan."""
    plan: EnvironmentPlan
    """Its entry in the resolved plan."""
    environment_plugin: Plugin
    environment_class: type[Environment[Any, Any]]
    environment_options: Options
    agent_plugin: Plugin
    agent_class: type[Agent[Any]]
    agent_options: Options
    model: str
    """Which of the plan's models is the policy here."""
    repeats: int
    prompt: Prompt | None = None
    """What its rows are asked with, instead of what they say."""
    filter: Filter | None = None
    """Which of its rows are taken."""


class Resolver:
    """
    Resolves the names and options of a plan against a catalog and gathers every mistake.

    Args:
        plan: The plan as asked.
        catalog: What is installed.
        environ: Where `${NAME}` and options that name an environment variable get their values; as `Variables` it also
            says whom to ask for `${secret:NAME}`, and else the plan's hook plugins are asked.
        locate: Completes a key path by the place where it stands.
        source: How messages name the plan.
        is_played: Whether tasks are going to be played; where they are not, a model that cannot play an environment is
            remarked upon, and no mistake.
    """

    def __init__(
        self,
        plan: Plan,
        catalog: Catalog,
        environ: Mapping[str, str],
        locate: Callable[[str], str] = lambda where: where,
        source: str = "the plan",
        *,
        is_played: bool = True,
    ) -> None:
        self.source = source
        self.plan = plan
        self.locate = locate
        self.catalog = catalog
        is_complete = isinstance(environ, Variables)
        self.environ = environ if is_complete else Variables(environ, Secrets(plan, catalog, locate))
        self.errors: list[GymcoreError] = []
        self.models: dict[str, ModelChoice] = {}
        self.routes: dict[str, Route] = {}
        self.remarks: list[str] = []
        """What is to be known although it is no mistake, one line each."""
        self._is_played = is_played
        self._written: dict[str, Route] = {}
        self._hooks: list[str] = []
        self._describers: dict[str, Describer] = {}
        self._described: dict[str, type[Environment[Any, Any]]] = {}
        self._installed = Installed()
        self._clashes: dict[str, list[Clash]] = {}
        """What was found of each distribution that was looked at."""

    def raise_errors(self) -> None:
        """Raise what was gathered: a single mistake as itself, several as one PlanError."""
        if not self.errors:
            return
        if len(self.errors) == 1:
            raise self.errors[0]
        if all(isinstance(error, PluginError) for error in self.errors):
            first = self.errors[0]
            others = [str(error) for error in self.errors[1:]]
            raise PluginError(first.message, where=first.where, hints=[*first.hints, *others])
        raise PlanError([Problem(error.message, error.where, error.hints) for error in self.errors], source=self.source)

    def complain(self, problem: Problem) -> None:
        """Add a mistake, completed by the place where it stands."""
        where = None if problem.where is None else self.locate(problem.where)
        self.errors.append(PlanError([replace(problem, where=where)]))

    def find_hooks(self) -> None:
        """Look every hook plugin of the plan up."""
        for index, name in enumerate(self.plan.hooks):
            try:
                where = f"hooks.{index}"
                plugin = self.catalog.find("hook", name, where=self.locate(where))
                self._check_requirements(plugin, where)
                self._hooks.append(plugin.shortest)
            except GymcoreError as error:
                self._add(error)

    def _add(self, error: GymcoreError) -> None:
        """Add an error that may have been met before: a hook plugin is needed for each of several secrets."""
        if str(error) not in map(str, self.errors):
            self.errors.append(error)

    def resolve_models(self) -> None:
        """Resolve every model of the plan."""
        for name, asked in self.plan.models.items():
            where = f"models.{name}"
            found = self._load("model", asked.use, where)
            if found is not None:
                plugin, model_class = found
                options = self._options(model_class, plugin, asked.config, f"{where}.config")
                self.models[name] = ModelChoice(name, plugin, model_class, options)
            else:
                self._check_variables(asked.config, f"{where}.config")

    def resolve_environment(self, name: str, agent: str | None = None) -> Route | None:
        """
        Resolve one environment into its route.

        Args:
            name: Its name in the plan, or the installed name of one that only rows name.
            agent: The agent that rows name; None takes what plan, manifest and default say, in this order.

        Returns:
            The route, or None when it has mistakes.
        """
        where = f"environments.{name}"
        before = len(self.errors)
        entry, problem = with_argument(self.plan.environments.get(name, EnvironmentPlan()), self.catalog, where)
        if problem is not None:
            self.complain(problem)
        found = self._load_environment(name, entry, where)
        if found is None:
            return None
        plugin, environment_class = found
        split = self._checked_split(name, plugin, where)
        options = self._options(environment_class, plugin, entry.config, f"{where}.config")
        asked, is_own = self._asked_agent(entry, plugin, agent)
        asked_prompt = prompt_plan(plugin, entry)
        place = f"{where}.prompt" if entry.prompt is not None else f"the manifest of {plugin.qualified}: prompt"
        prompt, mistakes = compile_prompt(asked_prompt, place)
        chosen, further = compile_filter(entry.filter, f"{where}.filter")
        for problem in (*mistakes, *further):
            self.complain(problem)
        self._check_isolation(entry, plugin, where)
        loaded = self._load("agent", asked.use, f"{where}.agent")
        self._check_model(entry.model, environment_class, where)
        if loaded is None:
            return None
        agent_plugin, agent_class = loaded
        agent_options = self._options(agent_class, agent_plugin, asked.config, f"{where}.agent.config")
        route = Route(
            name=f"{name}_{agent_plugin.name}",
            environment=name,
            plan=entry.model_copy(
                update={
                    "split": split,
                    "limit": entry.limit or self.plan.mix.limit,
                    "use": plugin.shortest,
                    "agent": AgentPlan(use=agent_plugin.shortest, config=agent_options.written),
                    "config": options.written,
                    "prompt": asked_prompt,
                }
            ),
            environment_plugin=plugin,
            environment_class=environment_class,
            environment_options=options,
            agent_plugin=agent_plugin,
            agent_class=agent_class,
            agent_options=agent_options,
            model=entry.model,
            repeats=entry.repeats or self.plan.collect.repeats,
            prompt=prompt,
            filter=chosen,
        )
        self._refuse_second(route, where)
        if len(self.errors) == before:
            self.routes[route.name] = route
            # Rows may name further agents; what the plan says of the environment's own one is what is written.
            if is_own or name not in self._written:
                self._written[name] = route
        return route

    def _asked_agent(self, entry: EnvironmentPlan, plugin: Plugin, named: str | None) -> tuple[AgentPlan, bool]:
        """Return who is to play an environment, and whether that is its own agent, and not one that rows name."""
        own = entry.agent or self.plan.agent or AgentPlan(use=plugin.manifest.agent or "simple_agent")
        if named is None or normalised(named) == normalised(bare_name(own.use)):
            return own, True
        return AgentPlan(use=named), False

    def _load_environment(self, name: str, entry: EnvironmentPlan, where: str) -> tuple[Plugin, Any] | None:
        """Load the class of an environment, and find the mistakes that can be found with it or without."""
        found = self._load("environment", entry.use or name, where, entry.isolation)
        tools = None if found is None or found[1].takes_other_tools() else found[1].tools
        for problem in mistakes_in_parameters(entry.params, f"{where}.params", tools):
            self.complain(problem)
        if found is None:
            self._check_variables(entry.config, f"{where}.config")
        return found

    def _checked_split(self, name: str, plugin: Plugin, where: str) -> str | None:
        split = self._split_of(name)
        if split is not None and split not in plugin.manifest.splits:
            close = nearest(split, plugin.manifest.splits)
            hint = f"try: {close[0]}" if close else f"its splits: {', '.join(plugin.manifest.splits) or 'none'}"
            if not plugin.manifest.splits:
                hint = f"it brings no rows; try: --set {where}.data=FILE, and no split"
            self.complain(Problem(f"{plugin.name!r} has no split {split!r}", f"{where}.split", (hint,)))
        return split

    def _refuse_second(self, route: Route, where: str) -> None:
        """Find that two environments lead to one route."""
        other = self.routes.get(route.name, route)
        if other.environment != route.environment:
            told = f"the route {route.name!r} already leads to {other.environment!r}"
            hint = "try: another name for one of the two"
            self.complain(Problem(f"{told}, played by {other.agent_plugin.name}", where, (hint,)))

    def _split_of(self, name: str) -> str | None:
        """Return the split an environment brings: none beside files of its own, nor unasked beside the plan's data."""
        entry = self.plan.environments.get(name)
        if entry is None or entry.data:
            return None
        return entry.split or self.plan.mix.split or (None if self.plan.data else DEFAULT_SPLIT)

    def written_plan(self) -> Plan:
        """Return the plan as it was resolved, without secrets: what is written beside the results."""
        environments = {
            name: route.plan.model_copy(update={"data": written_sources(route.plan.data)})
            for name, route in self._written.items()
        }
        models = {
            name: ModelPlan(
                use=choice.plugin.shortest,
                config=choice.options.written,
                concurrency=self.plan.models[name].concurrency,
            )
            for name, choice in self.models.items()
        }
        return self.plan.model_copy(
            update={
                "environments": environments,
                "models": models,
                "agent": None,
                "data": written_sources(self.plan.data),
                "hooks": self._hooks,
            }
        )

    def close(self) -> None:
        """End the processes that were asked about classes of other interpreters."""
        for describer in self._describers.values():
            describer.close()

    def _load(self, kind: Any, name: str, where: str, isolation: str | None = None) -> tuple[Plugin, Any] | None:
        try:
            plugin = self.catalog.find(kind, name, where=self.locate(where))
            if kind == "environment" and (isolation or plugin.manifest.isolation) == "venv":
                return plugin, self._describe(plugin)
            self._check_requirements(plugin, where)
            return plugin, self.catalog.load(plugin)
        except GymcoreError as error:
            self.errors.append(error)
            return None

    def _describe(self, plugin: Plugin) -> type[Environment[Any, Any]]:
        """Return what stands for a class that is imported only in a virtual environment of its own."""
        from gymcore.interpreters.describer import Describer  # here: most plans need none, and it takes a while to load

        if plugin.qualified not in self._described:
            describer = self._describers[plugin.qualified] = Describer(plugin, self.environ)
            self._described[plugin.qualified] = describer.describe()
        return self._described[plugin.qualified]

    def _check_requirements(self, plugin: Plugin, where: str) -> None:
        """
        Compare what the distribution of a plugin needs with what is installed, before it is imported.

        Raises:
            PluginError: something else is installed, or it is not, and the plan does not insist.
        """
        is_new = plugin.distribution not in self._clashes
        if is_new:
            self._clashes[plugin.distribution] = self._installed.clashes(plugin.distribution)
        clashes = self._clashes[plugin.distribution]
        if not clashes:
            return
        title = plugin.title
        if self.plan.check.requirements == "warn":
            if is_new:
                self.remarks += [f"{title} {clash.describe()}" for clash in clashes]
            return
        first, *others = clashes
        hints = [f"it also {clash.describe()}" for clash in others[:5]]
        if len(others) > 5:
            hints.append(f"... and {len(others) - 5} more")
        if any(clash.installed is not None for clash in clashes):
            hints.append("a later install has probably replaced it, which installers do without failing")
        if plugin.kind == "environment" and not self._installed.against(clashes, ["gymcore"]):
            hints.append(f"try: --isolate {where.rpartition('.')[2]}, which gives it a virtual environment of its own")
        rest = sorted({each.distribution for each in self.catalog.plugins} - {plugin.distribution})
        hints += remedies_of(clashes, self._installed.against(clashes, ["gymcore", *rest]))
        hints.append("to use it all the same: --set check.requirements=warn")
        raise PluginError(f"{title} {first.describe()}", plugin=plugin.qualified, where=self.locate(where), hints=hints)

    def _options(self, component: Any, plugin: Plugin, asked: Mapping[str, Any], where: str) -> Options:
        model: type[Config] = component.config_model
        try:
            options, problems = resolve_options(model, plugin.manifest.config, asked, self.environ, where)
        except GymcoreError as error:  # of a hook plugin that was asked for a secret
            self._add(error)
            return Options(None, {}, {})
        for problem in problems:
            self.complain(problem)
        return options

    def _check_variables(self, asked: Mapping[str, Any], where: str) -> None:
        """Find the mistakes that can be found in options although nobody knows whose they are."""
        try:
            problems = expand_variables(dict(asked), self.environ, where)[1]
        except GymcoreError as error:
            self._add(error)
            return
        for problem in problems:
            self.complain(problem)

    def _check_isolation(self, entry: EnvironmentPlan, plugin: Plugin, where: str) -> None:
        """Find what is said of processes that there will not be."""
        isolation = entry.isolation or plugin.manifest.isolation
        if isolation == "venv" and self.plan.collect.executor == "ray":
            message = "an environment with a virtual environment of its own does not play on Ray"
            self.complain(Problem(message, f"{where}.isolation", ("try: --executor local",)))
        if isolation in ("process", "venv"):
            return
        for key in ("workers", "environ", "memory_mb"):
            if getattr(entry, key):
                self.complain(
                    Problem(
                        f"{key!r} is for an isolated environment",
                        f"{where}.{key}",
                        (f"try: --set {where}.isolation=process",),
                    )
                )

    def _check_model(self, name: str, environment_class: type[Environment[Any, Any]], where: str) -> None:
        if name not in self.plan.models:
            known = ", ".join(self.plan.models)
            self.complain(Problem(f"the plan has no model {name!r}", f"{where}.model", (f"its models: {known}",)))
            return
        choice = self.models.get(name)
        if choice is None or choice.options.config is None:
            return
        try:
            objection = choice.model_class(choice.options.config).objection(environment_class)
        except Exception as error:
            message = f"the model {name!r} cannot be used: {type(error).__name__}: {error}"
            self.errors.append(PluginError(message, plugin=choice.plugin.qualified, where=f"models.{name}"))
            return
        if objection is None:
            return
        if self._is_played:
            self.complain(Problem(objection, where=where))
        else:
            self.remarks.append(f"{objection} ({self.locate(where)})")


def with_argument(
    entry: EnvironmentPlan, catalog: Catalog, where: str, *, form: str = "use: "
) -> tuple[EnvironmentPlan, Problem | None]:
    """
    Return an entry with what follows the colon of its `use` as the option that the plugin's manifest names.

    Args:
        entry: An entry of a plan.
        catalog: What is installed.
        where: The key path of the entry.
        form: What stands before the name where hints show how it is written.

    Returns:
        The entry, without a colon in its `use`, and what is wrong with it.
    """
    used, argument = split_argument(entry.use or "")
    if argument is None:
        return entry, None
    bare = entry.model_copy(update={"use": used})
    try:
        plugin = catalog.find("environment", used)
    except GymcoreError:
        return bare, None  # whoever loads it says so
    option = plugin.manifest.argument
    if option is None or not argument:
        hint = f"try: {form}{used}" + ("" if option is None else f":{option.upper()}")
        told = "nothing stands" if option is not None else f"{plugin.title} takes nothing"
        return bare, Problem(f"{told} after a colon", f"{where}.use", (hint,))
    problem = None
    if entry.config.get(option, argument) != argument:
        told = f"the option {option!r} is said twice, after the colon of `use` and here"
        problem = Problem(told, f"{where}.config.{option}", ("try: leave one of them out",))
    return bare.model_copy(update={"config": {**entry.config, option: argument}}), problem


def prompt_plan(plugin: Plugin, entry: EnvironmentPlan | None = None) -> PromptPlan | None:
    """Return what an entry of a plan asks with, or else the manifest of its environment, if one of them does."""
    if entry is not None and entry.prompt is not None:
        return entry.prompt
    return PromptPlan(**plugin.manifest.prompt) if plugin.manifest.prompt else None


def written_sources(sources: Sequence[Any]) -> list[Any]:
    """Return sources as a plan may hold them: of an address no query that may be a secret, unless it is a reference."""
    return [
        source.model_copy(update={"url": _without_query(source.url)}) if isinstance(source, UrlData) else source
        for source in sources
    ]


def _without_query(url: str) -> str:
    address, mark, query = url.partition("?")
    values = [value for _, _, value in (part.partition("=") for part in query.split("&"))]
    return url if mark and all(is_reference(value) for value in values) else address
