"""
What was found: a Catalog of plugins, good and broken, and the one place that imports them, when they are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gymcore.discovery.manifest import MANIFEST_NAME
from gymcore.discovery.package_files import package_folder, package_of
from gymcore.discovery.plugin import GROUPS, KINDS, Kind, Plugin, bare_name, normalised, split_argument
from gymcore.errors import AmbiguousPluginError, PluginError, UnknownPluginError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["GROUPS", "KINDS", "Catalog", "Kind", "Plugin", "bare_name", "normalised", "split_argument"]


@dataclass(frozen=True)
class Catalog:
    """Every plugin that is installed, sorted by kind, name and distribution."""

    plugins: tuple[Plugin, ...]
    path: tuple[str, ...] | None = field(default=None, compare=False)
    """Where distributions were looked for, where that was not `sys.path`."""

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
            raise self._unknown(kind, name, where)
        found = [plugin for plugin in found if plugin.claims_name] or found
        if len({plugin.distribution for plugin in found}) > 1:
            raise AmbiguousPluginError(kind, name, [plugin.qualified for plugin in found], where=where)
        return found[0]

    def _unknown(self, kind: Kind, name: str, where: str | None) -> UnknownPluginError:
        """Explain a name that no plugin of a kind has: it may be one of another kind, or not be installed yet."""
        from gymcore.discovery.editable import offered_since  # here, because it is asked only where something is wrong

        _, slash, bare = name.rpartition("/")
        hints = []
        others = [plugin for plugin in self.plugins if normalised(plugin.name) == normalised(bare) and bare]
        if slash:
            hints += [f"{plugin.qualified} is installed" for plugin in others if plugin.kind == kind]
        hints += [
            f"{plugin.name!r} is {_a(plugin.kind)}, of {plugin.distribution}"
            for plugin in others
            if plugin.kind != kind
        ]
        since = offered_since(kind, bare, self.path) if bare else None
        if since is not None:
            hints.append(since)
        installed = {plugin.name for plugin in self.of_kind(kind)}
        return UnknownPluginError(kind, name, installed, where=where, hints=hints)

    def load(self, plugin: Plugin) -> Any:
        """
        Import a plugin and return its class (for a hook: its module or object).

        Raises:
            PluginError: it is broken, blocked, written for another interface version, not what its group says, or comes
                from another place than the one that was looked at.
        """
        from gymcore.discovery.loading import load_plugin  # here, because a listing loads none

        return load_plugin(plugin, self.path)

    @contextmanager
    def open_file(self, plugin: Plugin, path: str) -> Iterator[IO[bytes]]:
        """
        Open a data file of a plugin for reading, without importing the plugin.

        Raises:
            PluginError: the file is not in the installed package.
        """
        folder = _folder_of(plugin)
        file = folder.joinpath(*path.split("/")) if folder is not None else None
        homes = self.homes(plugin)
        if homes and isinstance(file, Path) and not any(file.resolve().is_relative_to(home) for home in homes):
            raise PluginError(
                f"{plugin.title} names the data file {path!r}, which is a link that leads out of the package",
                plugin=plugin.qualified,
                where=MANIFEST_NAME,
                hints=["its author must put the file itself into the package"],
            )
        if file is None or not file.is_file():
            raise PluginError(
                f"{plugin.title} names the data file {path!r}, which is not in the installed package",
                plugin=plugin.qualified,
                where=MANIFEST_NAME,
                hints=["its author must include the file in the wheel as package data"],
            )
        with file.open("rb") as opened:
            yield opened

    def homes(self, plugin: Plugin) -> tuple[Path, ...]:
        """
        Return the folders in which the files of a plugin's package lie, links followed; none of those in an archive.

        Some editable installations link each file of a package alone, so where the manifest lies counts as the package
        too.
        """
        folder = _folder_of(plugin)
        return (folder.resolve(), (folder / MANIFEST_NAME).resolve().parent) if isinstance(folder, Path) else ()


def _folder_of(plugin: Plugin) -> Traversable | None:
    package = package_of(plugin.target.partition(":")[0])
    return None if package is None else package_folder(package)


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
