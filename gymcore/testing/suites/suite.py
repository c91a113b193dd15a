"""
What every suite is made of: checks with a why and a fix, switches, and what holds for plugins of every kind.

Needs no pytest: a check that does not hold raises `AssertionError`, and one that does not apply `unittest.SkipTest`,
which pytest takes as a skip. Nothing of a plugin is looked at before a check runs.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import re
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import SkipTest

from pydantic import SecretStr, ValidationError

import gymcore
from gymcore.composition.configuration import resolve_options
from gymcore.discovery import Catalog, Plugin, discover
from gymcore.errors import GymcoreError, PluginError
from gymcore.interfaces import Config
from gymcore.testing.suites.imports import Imported, probe_import

__all__ = ["Check", "CheckFailed", "NewCheckWarning", "PluginSuite", "check", "checks_of"]

PAGE = "docs/reference/conformance.md"

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[[Any], None])


class CheckFailed(AssertionError):
    """
    A check does not hold.

    Attributes:
        check: Which one.
        message: What was seen, where, and what to change.
    """

    def __init__(self, check: Check, message: str) -> None:
        self.check = check
        self.message = message
        super().__init__(f"{message}\n  why: {check.why}\n  fix: {check.fix}\n  more: {PAGE}, {check.name}")


class NewCheckWarning(UserWarning):
    """A check does not hold that is newer than what the plugin says it needs; with the next release it fails."""


@dataclass(frozen=True)
class Check:
    """What one check claims."""

    name: str
    """The name of its method; it never changes."""
    what: str
    why: str
    fix: str
    """What an author changes where it does not hold."""
    since: str
    """The version of gymcore in which it appeared."""


def check(*, fix: str, since: str = "0.1") -> Callable[[Method], Method]:
    """
    Make a method a check: its docstring says what holds and, in a second paragraph, why.

    Args:
        fix: What an author changes where it does not hold.
        since: The version of gymcore in which it appeared. A plugin that asks for less (`gymcore>=...`) is only
            warned while that version is the newest.
    """

    def mark(method: Method) -> Method:
        what, _, why = (inspect.getdoc(method) or "").partition("\n\n")
        facts = Check(method.__name__, " ".join(what.split()), " ".join(why.split()), fix, since)

        @functools.wraps(method)
        def checked(self: PluginSuite) -> None:
            __tracebackhide__ = True
            try:
                message = _message_of(self, method)
            except GymcoreError as error:
                message = error.render()
            if message is None:
                return
            failed = CheckFailed(facts, message)
            if self.is_only_warned(facts):
                warnings.warn(NewCheckWarning(str(failed)), stacklevel=2)
                return
            raise failed

        checked.gymcore_check = facts  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return mark


def _message_of(suite: PluginSuite, method: Callable[[Any], None]) -> str | None:
    """Run a check; None where it holds, else what it says."""
    try:
        method(suite)
    except (SkipTest, CheckFailed, GymcoreError):
        raise
    except AssertionError as error:
        return str(error) or "it does not hold"
    except Exception as error:  # a plugin's: whatever it raises where it is only looked at
        return f"{type(error).__name__}: {error} ({place_of(error)})"
    return None


def place_of(error: BaseException) -> str:
    """Return `file:line` of the code that raised, outside of gymcore where there is such."""
    frames = traceback.extract_tb(error.__traceback__)
    core = str(Path(gymcore.__file__).parent)
    foreign = [frame for frame in frames if not frame.filename.startswith((core, "<"))]
    frame = (foreign or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def checks_of(suite: type[PluginSuite]) -> list[Check]:
    """Return the checks that a suite brings itself, in the order in which they stand in the code."""
    found: dict[str, Check] = {}
    for owner in reversed(suite.__mro__):
        for name, value in vars(owner).items():
            if hasattr(value, "gymcore_check"):
                found[name] = value.gymcore_check
    return list(found.values())


class PluginSuite:
    """
    What holds for plugins of every kind. Subclass a suite of a kind, and name the plugin; attributes are switches.
    """

    __test__: ClassVar[bool] = False
    kind: ClassVar[Any] = ""
    """The kind of plugin it is for."""

    plugin: ClassVar[str] = ""
    """The plugin's name, as `gym list` shows it; `distribution:name` where two offer it."""
    config: ClassVar[Mapping[str, Any]] = {}
    """Options that the checks are made with, where the defaults do not do."""
    import_cpu_s: ClassVar[float] = 1.0
    """Seconds of CPU time that importing the plugin may take, on top of gymcore."""
    may_import: ClassVar[Collection[str]] = ()
    """Heavy libraries that it may load when it is imported."""
    needs_network: ClassVar[bool] = False
    """Whether it may open sockets when it is imported, and data that lie elsewhere are fetched."""

    _kept: ClassVar[dict[Any, tuple[bool, Any]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._kept = {}
        _refuse_misspelt(cls)
        if "__test__" not in vars(cls):
            cls.__test__ = bool(cls.plugin)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Make something for all checks of this suite, when the first one asks; what it raises is raised each time."""
        kept = type(self)._kept
        if key not in kept:
            try:
                kept[key] = (True, make())
            except Exception as error:
                kept[key] = (False, error)
        is_made, value = kept[key]
        if is_made:
            return value  # type: ignore[no-any-return]
        raise value.with_traceback(None)

    # -- the plugin ---------------------------------------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """Return what is installed."""
        return self.once("catalog", discover)

    def installed(self) -> Plugin:
        """
        Return the plugin.

        Raises:
            SkipTest: it is not to be found; one check says so.
        """
        try:
            return self.found()
        except GymcoreError:
            raise SkipTest(f"{self.plugin} is not to be found: see test_target_is_of_its_kind") from None

    def found(self) -> Plugin:
        """Return the plugin, or raise what is wrong with its name."""
        assert self.plugin, f"{type(self).__name__} names no plugin; write: plugin = NAME"
        return self.catalog().find(self.kind, self.plugin)

    def imported(self) -> Imported:
        """Return what a fresh interpreter has seen of the plugin's import."""
        plugin = self.installed()
        if plugin.status in ("broken", "incompatible"):
            raise SkipTest(f"{self.plugin} is {plugin.status}: see test_target_is_of_its_kind")
        return self.once("imported", lambda: probe_import(plugin))

    def loaded(self) -> Any:
        """
        Return the plugin's class.

        Raises:
            SkipTest: it cannot be imported; one check says so.
        """
        try:
            if self.imported().error is None:
                return self.once("loaded", lambda: self.catalog().load(self.installed()))
        except PluginError:
            pass
        raise SkipTest(f"{self.plugin} cannot be loaded: see test_target_is_of_its_kind")

    def options(self) -> Config:
        """
        Return the options that the checks are made with.

        Raises:
            SkipTest: they are wrong; one check says so.
        """
        options, problems = self._resolved()
        if options is None or problems:
            raise SkipTest("the options are not valid: see test_default_options_are_valid")
        return options

    def asked(self) -> dict[str, Any]:
        """Return what the suite asks for beside the defaults of the manifest."""
        return dict(self.config)

    def _resolved(self) -> tuple[Config | None, list[str]]:
        model, manifest = self.loaded().config_model, self.installed().manifest
        options, problems = resolve_options(model, manifest.config, self.asked(), {}, "config")
        return options.config, [f"{problem.where}: {problem.message}" for problem in problems]

    def is_only_warned(self, facts: Check) -> bool:
        """Whether a check is newer than the gymcore that the plugin asks for, and has been so for no release yet."""
        since = _version(facts.since)
        floor = self.once("floor", self._floor)
        return floor is not None and floor < since and _version(gymcore.__version__) <= since

    def _floor(self) -> tuple[int, int] | None:
        """Return the oldest gymcore that the plugin's distribution says it works with; None where it does not say."""
        import importlib_metadata

        try:
            required = importlib_metadata.distribution(self.found().distribution).requires or []
        except Exception:  # whatever is wrong with somebody's metadata
            return None
        return floor_of(required)

    # -- checks -------------------------------------------------------------------------------------------------------

    @check(
        fix="The entry point must lead to a class of the kind that its group says, in an installed package beside "
        "whose code a valid `gym.yaml` lies; run `gym show NAME` to see what is wrong."
    )
    def test_target_is_of_its_kind(self) -> None:
        """
        The plugin is found under its name, has a valid manifest, and can be imported; it is a class of its kind.

        What cannot be loaded cannot be chosen: a run stops with exit code 4.
        """
        plugin = self.found()
        assert plugin.status not in ("broken", "incompatible"), f"{plugin.qualified}: {plugin.problem}"
        error = self.imported().error
        assert error is None, f"{plugin.qualified} cannot be imported: {error}"
        self.catalog().load(plugin)

    @check(
        fix="Keep `__init__.py` of the packages above the manifest free of side effects, and let nothing of yours run "
        "from a `.pth` file or an import hook."
    )
    def test_manifest_is_read_without_importing(self) -> None:
        """
        Listing the installed plugins imports nothing of this one.

        People list plugins in order to find out what is broken, on machines without a GPU or a key; code that has not
        been chosen must not run.
        """
        found = self.imported().imported_by_listing
        assert not found, f"listing has imported {', '.join(found)}"

    @check(
        fix="Remove the print, or use `logging`; a library's banner or warning is moved into the function it is for."
    )
    def test_import_prints_nothing(self) -> None:
        """
        Importing the plugin writes nothing to stdout or stderr.

        Commands print data to stdout for other programs, which a greeting would break.
        """
        printed = self.imported().printed
        assert not printed, f"importing {self.installed().target} prints {printed[:200]!r}"

    @check(
        fix="Move what takes long (loading tables, compiling, importing big libraries) into `shared()`, `open()`, or "
        "the function that needs it; or raise `import_cpu_s`, if it must be."
    )
    def test_import_is_quick(self) -> None:
        """
        Importing the plugin takes less CPU time than `import_cpu_s`.

        Every command that names it, and every worker of a run, pays for its import before anything happens.
        """
        seen = self.imported()
        told = f"importing {self.installed().target} takes {seen.cpu_s:.2f} s of CPU time; at most {self.import_cpu_s}"
        assert seen.cpu_s <= self.import_cpu_s, told + (f"; it loads {', '.join(seen.heavy)}" if seen.heavy else "")

    @check(fix="Import the library inside the function that uses it, or list it in `may_import` where that cannot be.")
    def test_import_loads_nothing_heavy(self) -> None:
        """
        Importing the plugin loads none of the libraries that take seconds or hundreds of megabytes.

        `gym compose` and `gym show` need the class and its options, and never torch.
        """
        heavy = [name for name in self.imported().heavy if name not in self.may_import]
        assert not heavy, f"importing {self.installed().target} loads {', '.join(heavy)}"

    @check(fix="Open connections in `shared()` or `open()`, and close them there; importing opens nothing.")
    def test_import_opens_no_socket(self) -> None:
        """
        Importing the plugin opens no socket.

        Machines that compose and train are often without network, and what is opened at import is closed by nobody.
        """
        sockets = self.imported().sockets
        if sockets and self.needs_network:
            raise SkipTest("it may use the network (needs_network)")
        assert not sockets, f"importing {self.installed().target} opens a socket: {sockets[0]}"

    @check(fix="Start threads and processes in `shared()` or `open()`, and end them there.")
    def test_import_starts_nothing(self) -> None:
        """
        Importing the plugin starts no thread and no process.

        They would outlive whoever imported it only to look, and a process that has threads cannot be forked safely.
        """
        started = self.imported().started
        assert not started, f"importing {self.installed().target} starts {started[0]}"

    @check(
        fix="Write in `shared()` or `open()`, into a temporary folder that you remove, and ship data in the package."
    )
    def test_import_writes_no_file(self) -> None:
        """
        Importing the plugin writes no file and makes no folder.

        It may be imported from any folder, by several processes at once, on a read-only disk.
        """
        written = self.imported().written
        assert not written, f"importing {self.installed().target} writes {written[0]}"

    @check(
        fix="Give every option a default that works; where one cannot have any (an address, a key), give it to the "
        "suite in `config`."
    )
    def test_default_options_are_valid(self) -> None:
        """
        The options' defaults, with those of the manifest and of the suite, are valid.

        Whoever names the plugin without options gets these.
        """
        options, problems = self._resolved()
        assert not problems, f"{self.plugin}: {'; '.join(problems)}"
        assert options is not None

    @check(fix='Derive the options from `gymcore.Config`, and leave its `extra="forbid"` as it is.')
    def test_unknown_options_are_refused(self) -> None:
        """
        An option that does not exist is a mistake, and not ignored.

        A misspelt option that is silently ignored costs a training run.
        """
        self.options()
        model, manifest = self.loaded().config_model, self.installed().manifest
        asked = {**self.asked(), "no_such_option": 1}
        _, problems = resolve_options(model, manifest.config, asked, {}, "config")
        assert problems, f"{model.__name__} takes the option 'no_such_option', which it does not have"

    @check(
        fix="Use types that pydantic writes as JSON and reads back equal, with a serializer of your own where needed."
    )
    def test_options_survive_json(self) -> None:
        """
        Options that are written as JSON and read back are the same.

        The resolved plan is written beside the results, and sent to workers.
        """
        config = self.options()
        text = config.model_dump_json()
        secrets = _secrets_of(config)  # written as asterisks, on purpose
        try:
            again = type(config).model_validate_json(json.dumps({**json.loads(text), **secrets}))
        except ValidationError as error:
            raise AssertionError(f"{type(config).__name__} does not read what it wrote, {text}: {error}") from None
        assert again == config, f"{type(config).__name__} reads {again!r} where {config!r} was written"

    @check(
        fix="Use types that have a JSON schema for every option, and describe each with `option(..., description=)`."
    )
    def test_options_have_a_schema(self) -> None:
        """
        The options have a JSON schema, and each says in a sentence what it does.

        `gym show` is where people look, and forms are made from the schema.
        """
        model = self.loaded().config_model
        schema = model.model_json_schema()
        json.dumps(schema)
        bare = [name for name, field in model.model_fields.items() if not (field.description or "").strip()]
        assert not bare, f"{model.__name__}: without a description: {', '.join(bare)}"


def _refuse_misspelt(suite: type[PluginSuite]) -> None:
    """
    Refuse an attribute that is nearly a switch.

    Raises:
        TypeError: a suite sets `plugn` or `top_rewrd`, which would be ignored.
    """
    bases = [base for base in suite.__mro__[1:] if issubclass(base, PluginSuite)]
    switches = [name for base in bases for name in vars(base).get("__annotations__", {}) if not name.startswith("_")]
    for name, value in vars(suite).items():
        if name.startswith("_") or callable(value) or any(name in vars(base) for base in bases):
            continue
        if name not in vars(suite).get("__annotations__", {}):
            near = difflib.get_close_matches(name, switches, 1, 0.8)
            if near:
                raise TypeError(f"{suite.__name__}.{name}: there is no such switch; try: {near[0]}")


def _secrets_of(config: Config) -> dict[str, str]:
    values = {name: getattr(config, name) for name in type(config).model_fields}
    return {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}


def floor_of(requirements: Collection[str]) -> tuple[int, int] | None:
    """Return major and minor version of the oldest gymcore that requirements allow; None where they do not say."""
    for requirement in requirements:
        text = requirement.partition(";")[0]
        if re.match(r"\s*gymcore\s*(\[|\(|[<>=!~]|$|\s)", text, re.I):
            found = re.search(r"(?:>=|~=|==)\s*([\d.]+)", text)
            return None if found is None else _version(found[1])
    return None


def _version(text: str) -> tuple[int, int]:
    major, minor = [*re.findall(r"\d+", text), "0", "0"][:2]
    return int(major), int(minor)
