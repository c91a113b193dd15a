"""
What was found: a Catalog of plugins, good and broken, and the one place that imports them, when they are chosen.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from gymcore.discovery.manifest import MANIFEST_NAME, Manifest
from gymcore.discovery.package_files import find_module, package_folder, package_of
from gymcore.errors import AmbiguousPluginError, PluginError, UnknownPluginError

__all__ = ["GROUPS", "KINDS", "Catalog", "Kind", "Plugin", "bare_name", "normalised"]

Kind = Literal["environment", "model", "agent", "hook"]
Status = Literal["ok", "conflict", "incompatible", "broken"]

GROUPS: dict[str, Kind] = {
    "gymcore.environments": "environment",
    "gymcore.models": "model",
    "gymcore.agents": "agent",
    "gymcore.hooks": "hook",
}
KINDS: tuple[Kind, ...] = tuple(GROUPS.values())


def normalised(name: str) -> str:
    """Return a name as names are compared (https://peps.python.org/pep-0503/#normalized-names)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bare_name(name: str) -> str:
    """Return a plugin's name without the distribution that may stand before it: of `distribution/name`, the name."""
    return name.rpartition("/")[2]


@dataclass(frozen=True)
class Plugin:
    """One entry point of one installed distribution."""

    kind: Kind
    name: str
    distribution: str
    version: str
    target: str
    """`package.module:Class`."""
    status: Status = "ok"
    problem: str | None = None
    """Why it cannot be used, where it cannot."""
    manifest: Manifest = field(default_factory=lambda: Manifest(gym_api=0))

    @property
    def qualified(self) -> str:
        """The name that is never ambiguous: `distribution/name`."""
        return f"{self.distribution}/{self.name}"

    @property
    def shortest(self) -> str:
        """The name as a plan should hold it: qualified only where another distribution offers the same one."""
        return self.qualified if self.status == "conflict" else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return what `gym list --json` prints of it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "qualified": self.qualified,
            "distribution": self.distribution,
            "version": self.version,
            "target": self.target,
            "status": self.status,
            "problem": self.problem,
            "description": self.manifest.description,
            "gym_api": self.manifest.gym_api,
            "splits": {
                name: [source if isinstance(source, str) else source.model_dump(exclude_none=True) for source in files]
                for name, files in self.manifest.splits.items()
            },
        }


@dataclass(frozen=True)
class Catalog:
    """Every plugin that is installed, sorted by kind, name and distribution."""

    plugins: tuple[Plugin, ...]

    def of_kind(self, kind: Kind) -> tuple[Plugin, ...]:
        """Return the plugins of one kind."""
        return tuple(plugin for plugin in self.plugins if plugin.kind == kind)

    def find(self, kind: Kind, name: str, *, where: str | None = None) -> Plugin:
        """
        Return the plugin that a name means: `name`, or `distribution/name`.

        Raises:
            UnknownPluginError: nothing of that kind has that name; carries the nearest ones.
            AmbiguousPluginError: two distributions offer it.
        """
        distribution, slash, bare = name.rpartition("/")
        found = [
            plugin
            for plugin in self.of_kind(kind)
            if normalised(plugin.name) == normalised(bare)
            and (not slash or normalised(plugin.distribution) == normalised(distribution))
        ]
        if not found:
            raise UnknownPluginError(kind, name, {plugin.name for plugin in self.of_kind(kind)}, where=where)
        if len({plugin.distribution for plugin in found}) > 1:
            raise AmbiguousPluginError(kind, name, [plugin.qualified for plugin in found], where=where)
        return found[0]

    def load(self, plugin: Plugin) -> Any:
        """
        Import a plugin and return its class (for a hook: its module or object).

        Raises:
            PluginError: it is broken, was written for another interface version, or is not what its group says.
        """
        if plugin.status in ("broken", "incompatible"):
            raise PluginError(f"{_title(plugin)} cannot be used: {plugin.problem}", plugin=plugin.qualified)
        module_name, _, attribute = plugin.target.partition(":")
        with _importing(plugin):
            loaded: Any = importlib.import_module(module_name)
            for part in attribute.split(".") if attribute else ():
                loaded = getattr(loaded, part)
        wanted = _base_class(plugin.kind)
        if wanted is not None and not (isinstance(loaded, type) and issubclass(loaded, wanted)):
            what = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
            raise PluginError(
                f"{_title(plugin)} is {what}, and not a subclass of gymcore.{wanted.__name__}",
                plugin=plugin.qualified,
                where=plugin.target,
            )
        return loaded

    @contextmanager
    def open_file(self, plugin: Plugin, path: str) -> Iterator[IO[bytes]]:
        """
        Open a data file of a plugin for reading, without importing the plugin.

        Raises:
            PluginError: the file is not in the installed package.
        """
        package = package_of(plugin.target.partition(":")[0])
        folder = package_folder(package) if package is not None else None
        file = folder.joinpath(*path.split("/")) if folder is not None else None
        if isinstance(folder, Path) and isinstance(file, Path) and not file.resolve().is_relative_to(folder.resolve()):
            raise PluginError(
                f"{_title(plugin)} names the data file {path!r}, which is a link that leads out of the package",
                plugin=plugin.qualified,
                where=MANIFEST_NAME,
                hints=["its author must put the file itself into the package"],
            )
        if file is None or not file.is_file():
            raise PluginError(
                f"{_title(plugin)} names the data file {path!r}, which is not in the installed package",
                plugin=plugin.qualified,
                where=MANIFEST_NAME,
                hints=["its author must include the file in the wheel as package data"],
            )
        with file.open("rb") as opened:
            yield opened


def _title(plugin: Plugin) -> str:
    return f"the {plugin.kind} {plugin.name!r} ({plugin.distribution} {plugin.version})"


def _base_class(kind: Kind) -> type | None:
    from gymcore import interfaces

    bases: dict[Kind, type] = {
        "environment": interfaces.Environment,
        "model": interfaces.Model,
        "agent": interfaces.Agent,
    }
    return bases.get(kind)


@contextmanager
def _importing(plugin: Plugin) -> Iterator[None]:
    """Turn whatever a plugin's import raises, `SystemExit` included, into one error that names the plugin."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        hints = []
        if isinstance(error, ModuleNotFoundError) and error.name and find_module(error.name.split(".")[0]) is None:
            hints.append(
                f"the module {error.name!r} is not installed; reinstall with: pip install {plugin.distribution}"
            )
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        frames = [frame for frame in frames if frame.filename != __file__]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else plugin.target
        raise PluginError(
            f"{_title(plugin)} could not be imported: {type(error).__name__}: {error}",
            plugin=plugin.qualified,
            where=where,
            hints=hints,
        ) from None
