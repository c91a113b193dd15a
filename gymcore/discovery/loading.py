"""
Importing a chosen plugin, and telling why it cannot be: the one place in which a plugin's code is let in.

The causes are told apart, because what to do differs: a requirement that is declared and gone, one that its author
forgot to declare, a module that hides the installed one, an import that raises or exits, and a class of another kind.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymcore.discovery.editable import stale_hint
from gymcore.discovery.package_files import find_module
from gymcore.discovery.plugin import Kind, Plugin, normalised
from gymcore.discovery.shadows import came_from, is_inside, way_out
from gymcore.errors import PluginError, nearest

__all__ = ["load_plugin"]


def load_plugin(plugin: Plugin, path: Sequence[str] | None = None) -> Any:
    """
    Import a plugin and return its class (for a hook: its module or object).

    Args:
        plugin: A plugin of a catalog.
        path: Where its distribution was found, where that was not `sys.path`.

    Raises:
        PluginError: it cannot be used; with the cause, the line of the plugin, and what to do.
    """
    if plugin.status in ("blocked", "broken", "incompatible"):
        hints = [] if plugin.hint is None else [plugin.hint]
        raise PluginError(f"{plugin.title} cannot be used: {plugin.problem}", plugin=plugin.qualified, hints=hints)
    module_name, _, attribute = plugin.target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a plugin's import does: it may exit, too
        raise _failed_import(plugin, error, path) from None
    _refuse_another_place(plugin, module_name)
    loaded: Any = module
    for part in attribute.split(".") if attribute else ():
        try:
            loaded = getattr(loaded, part)
        except KeyboardInterrupt:
            raise
        except AttributeError:
            raise _without_attribute(plugin, loaded, part, path) from None
        except BaseException as error:  # a module's own __getattr__, which may import
            raise _failed_import(plugin, error, path) from None
    wanted = _base_classes().get(plugin.kind)
    if wanted is not None and not (isinstance(loaded, type) and issubclass(loaded, wanted)):
        raise _wrong_class(plugin, loaded, wanted)
    return loaded


# -- what an import may come to ----------------------------------------------------------------------------------------


def _failed_import(plugin: Plugin, error: BaseException, path: Sequence[str] | None) -> PluginError:
    where, is_own = _line_of(plugin, error)
    if isinstance(error, SystemExit):
        hints = ["a plugin must not end the process when it is imported; report it to its author"]
    elif isinstance(error, ModuleNotFoundError) and error.name:
        hints = _about_missing_module(plugin, error.name, is_own, path)
    elif isinstance(error, ImportError) and error.name and _top(error.name) != _top(plugin.target):
        hints = [f"the installed {_top(error.name)!r} may be another version than the plugin was written for"]
    else:
        hints = []
    return PluginError(
        f"{plugin.title} could not be imported: {type(error).__name__}: {_text_of(error)}",
        plugin=plugin.qualified,
        where=where,
        hints=[*_elsewhere(plugin), *hints],
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the `__str__` of a plugin's own exception
        return "(it cannot say why)"


def _line_of(plugin: Plugin, error: BaseException) -> tuple[str, bool]:
    """Return the last line of the plugin that was on the way to an error, and whether the error was raised there."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen importlib")
    ]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}", True
    own = [frame for frame in frames if plugin.location is not None and is_inside(frame.filename, plugin.location)]
    if not frames:
        return plugin.target, True
    # A parent package of the plugin's is not inside its folder; then the last line of all is the best there is.
    chosen = own[-1] if own else frames[-1]
    return f"{chosen.filename}:{chosen.lineno}", not own or own[-1] is frames[-1]


def _elsewhere(plugin: Plugin) -> list[str]:
    """Say where the plugin's package came from, if it is in memory already and from another place."""
    module = plugin.target.partition(":")[0]
    for name in (module, module.rpartition(".")[0]):
        came = came_from(sys.modules.get(name))
        if came is None or plugin.location is None or Path(plugin.location).name != name.rpartition(".")[2]:
            continue
        if not is_inside(came, plugin.location):
            return [f"{name!r} was imported from {came} before, and is installed in {plugin.location}"]
    return []


def _refuse_another_place(plugin: Plugin, module_name: str) -> None:
    """Refuse a module that is not of the package whose manifest was read."""
    came = came_from(sys.modules.get(module_name))
    if came is None or plugin.location is None or is_inside(came, plugin.location):
        return
    raise PluginError(
        f"{plugin.title} is installed in {plugin.location}, but was imported from {came}",
        plugin=plugin.qualified,
        where=plugin.target,
        hints=[way_out(came, f"{module_name}." if Path(came).name == "__init__.py" else module_name)],
    )


# -- a module that is not there ----------------------------------------------------------------------------------------

# Packages whose distributions are called otherwise; for those that are not listed, the same name is taken to be meant.
_DISTRIBUTION_OF = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "crypto": "pycryptodome",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "git": "gitpython",
    "jwt": "pyjwt",
    "openssl": "pyopenssl",
    "pil": "pillow",
    "pkg-resources": "setuptools",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}


def _about_missing_module(plugin: Plugin, name: str, is_own: bool, path: Sequence[str] | None) -> list[str]:
    top = _top(name)
    if top == _top(plugin.target):
        missing = f"{name!r} is not in the installed package; authors: `gym check` looks into the wheel"
        stale = _stale(plugin, path)
        return [missing] if stale is None else [missing, stale]
    try:
        is_there = find_module(top) is not None
    except Exception:  # a finder of somebody else's, which has said so already
        is_there = True
    if is_there:
        return [f"{top!r} is installed, but without {name!r}: maybe the plugin needs another version of it"]
    if not is_own:
        return [f"{name!r} is needed by what the plugin imports there; `pip check` shows whose requirement is missing"]
    return _about_requirement(plugin, top, _requirements(plugin, path))


def _about_requirement(plugin: Plugin, module: str, declared: dict[str, str | None] | None) -> list[str]:
    """Tell a requirement that is gone from one that was never declared; where the names differ, say maybe."""
    reinstall = f"pip install --force-reinstall {plugin.distribution}"
    if declared is None:
        return [f"{module!r} is not installed, and nothing says what {plugin.distribution} requires; try: {reinstall}"]
    plain = normalised(module)
    meant = _DISTRIBUTION_OF.get(plain, plain)
    if meant in declared:
        extra = declared[meant]
        if extra is not None:
            wanted = f"pip install '{plugin.distribution}[{extra}]'"
            return [f"{meant!r} is declared for the extra {extra!r} only; try: {wanted}"]
        return [f"{meant!r} is declared, but not installed; try: {reinstall}"]
    absent = [name for name, extra in declared.items() if extra is None and not _is_installed(name)]
    if absent:
        names = ", ".join(repr(name) for name in absent)
        return [f"maybe it belongs to {names}, declared, but not installed; try: {reinstall}"]
    return [
        f"its distribution does not declare {meant!r}; report it to the author, or: pip install {meant}"
        if meant in _DISTRIBUTION_OF.values()
        else f"its distribution does not declare {module!r}; report it to the author, or: pip install {module}"
    ]


_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def _requirements(plugin: Plugin, path: Sequence[str] | None) -> dict[str, str | None] | None:
    """Return each distribution that is required, and the extra for which it is; None where nothing says so."""
    try:
        lines = _distribution(plugin, path).requires
    except Exception:  # damaged metadata
        return None
    declared: dict[str, str | None] = {}
    for line in lines or ():
        match = _REQUIREMENT.match(line)
        extra = _EXTRA.search(line.partition(";")[2])
        if match is not None:
            name = normalised(match[1])
            declared[name] = None if extra is None or declared.get(name, "") is None else extra[1]
    return declared


def _is_installed(distribution: str) -> bool:
    import importlib_metadata

    try:
        importlib_metadata.distribution(distribution)
    except Exception:  # not there, or damaged
        return False
    return True


def _distribution(plugin: Plugin, path: Sequence[str] | None) -> Any:
    import importlib_metadata

    if path is None:
        return importlib_metadata.distribution(plugin.distribution)
    return next(iter(importlib_metadata.distributions(name=plugin.distribution, path=list(path))))


def _stale(plugin: Plugin, path: Sequence[str] | None) -> str | None:
    try:
        return stale_hint(_distribution(plugin, path))
    except Exception:  # damaged metadata: then nothing is known
        return None


# -- something else than what was promised -----------------------------------------------------------------------------


def _without_attribute(plugin: Plugin, holder: Any, name: str, path: Sequence[str] | None) -> PluginError:
    what = getattr(holder, "__name__", plugin.target)
    close = nearest(name, [known for known, value in vars(holder).items() if isinstance(value, type)])
    hints = [f"its classes with a name like that: {', '.join(close)}"] if close else []
    stale = _stale(plugin, path)
    return PluginError(
        f"{plugin.title} cannot be used: {what!r} has no {name!r}",
        plugin=plugin.qualified,
        where=came_from(sys.modules.get(plugin.target.partition(":")[0])) or plugin.target,
        hints=[*_entry_point(plugin), *hints, *([] if stale is None else [stale])],
    )


def _wrong_class(plugin: Plugin, loaded: Any, wanted: type) -> PluginError:
    is_class = isinstance(loaded, type)
    what = f"the class {loaded.__name__}" if is_class else f"a {type(loaded).__name__}"
    hints = _entry_point(plugin)
    for kind, base in _base_classes().items():
        if is_class and issubclass(loaded, base):
            hints.append(f"it is a subclass of gymcore.{base.__name__}: its author must offer it in gymcore.{kind}s")
    return PluginError(
        f"{plugin.title} is {what}, and not a subclass of gymcore.{wanted.__name__}",
        plugin=plugin.qualified,
        where=_place_of(loaded) or plugin.target,
        hints=hints,
    )


def _entry_point(plugin: Plugin) -> list[str]:
    return [f"its entry point: gymcore.{plugin.kind}s {plugin.name} = {plugin.target}"]


def _place_of(loaded: Any) -> str | None:
    """Return the line in which a class or a function is defined; None for whatever else it is."""
    try:
        file = inspect.getsourcefile(loaded)
        line = inspect.getsourcelines(loaded)[1]
    except (TypeError, OSError):
        return None
    return f"{file}:{line}"


def _base_classes() -> dict[Kind, type]:
    from gymcore import interfaces

    return {"environment": interfaces.Environment, "model": interfaces.Model, "agent": interfaces.Agent}


def _top(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]
