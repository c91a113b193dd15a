"""
What can be said of the source of a plugin that is installed: its manifest, and its data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gymcore.authoring.checking.findings import CLAIMS, Fault, Outcome, outcome_of
from gymcore.discovery import Catalog, Plugin
from gymcore.errors import AmbiguousPluginError, PluginError, RequestError, nearest

__all__ = ["check_installed_files", "find_installed"]


def find_installed(name: str, catalog: Catalog) -> tuple[Plugin, ...]:
    """
    Return the plugins that a name means: of every kind, or all of the distribution with that name.

    Raises:
        RequestError: there is none.
        AmbiguousPluginError: two distributions offer it.
    """
    from gymcore.discovery.catalog import normalised

    distribution, slash, bare = name.rpartition("/")
    found = [
        plugin
        for plugin in catalog.plugins
        if normalised(plugin.name) == normalised(bare)
        and (not slash or normalised(plugin.distribution) == normalised(distribution))
    ]
    # A blocked distribution claims no name.
    found = [plugin for plugin in found if plugin.status != "blocked"] or found
    for kind in dict.fromkeys(plugin.kind for plugin in found):
        same = [plugin.qualified for plugin in found if plugin.kind == kind]
        if len(set(same)) > 1:
            raise AmbiguousPluginError(kind, name, same, where="NAME")
    if not found:
        found = [plugin for plugin in catalog.plugins if normalised(plugin.distribution) == normalised(name)]
    if not found:
        names = sorted({plugin.name for plugin in catalog.plugins})
        close = nearest(name, names)
        hint = f"try: {' or '.join(repr(item) for item in close)}" if close else "try: `gym list` to see every one"
        raise RequestError(
            f"no plugin is named {name!r}, and there is no folder {name!r} with a pyproject.toml",
            where="NAME | PATH",
            hints=[hint],
        )
    return tuple(found)


def check_installed_files(plugins: Sequence[Plugin], catalog: Catalog) -> Iterator[Outcome]:
    """Look at the manifests and data files of installed plugins."""
    faults, data = [], []
    for plugin in plugins:
        if plugin.status in ("broken", "incompatible", "blocked"):
            told = f"the {plugin.kind} {plugin.name} is {plugin.status}: {plugin.problem}"
            fix = (
                plugin.hint or f"Mend it, and see `gym check` in its project; or: pip install -U {plugin.distribution}"
            )
            faults.append(Fault(told, fix=fix, plugin=plugin.name))
            continue
        for files in plugin.manifest.splits.values():
            for path in files:
                if isinstance(path, str):
                    try:
                        with catalog.open_file(plugin, path):
                            pass
                    except PluginError as error:
                        hint = " ".join(error.hints).capitalize()
                        data.append(Fault(error.message, error.where, hint, plugin.name))
    told = ", ".join(f"{plugin.kind} {plugin.name}" for plugin in plugins)
    yield outcome_of(CLAIMS["manifests_are_valid"], faults, told=told)
    yield outcome_of(CLAIMS["data_are_there"], data)
