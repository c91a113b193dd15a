"""
What can be said of an installation without importing a plugin: its Python, whose command `gym` is, and its plugins.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import sys
import sysconfig
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymcore
from gymcore.discovery import Catalog, Plugin
from gymcore.discovery.catalog import normalised
from gymcore.discovery.requirements import Clash, Installed, remedies_of
from gymcore.doctor.check import Check

__all__ = ["examine"]

OLDEST_PYTHON = (3, 11)
_IMPORTED = re.compile(r"^\s*(?:from|import)\s+([A-Za-z_]\w*)", re.MULTILINE)
_NAMED = re.compile(r"""['"]([A-Za-z0-9][\w.-]*)(?:==[^'"]*)?['"],\s*['"]console_scripts['"]""")
_OF_PYTHON = frozenset({"sys", "re", "os", "importlib", "importlib_metadata", "pkg_resources", "__future__"})
_HARMLESS = frozenset({"ok", "deprecated", "blocked"})
"""States of a plugin that somebody has wanted, or that do not keep anybody from using it."""


def examine(catalog: Catalog | None, environ: Mapping[str, str]) -> Generator[Check, None, None]:
    """
    Look at the installation that this process belongs to.

    Args:
        catalog: What is installed; None where it cannot be found out, and only gymcore itself is looked at.
        environ: Where PATH comes from.
    """
    installed = Installed()
    yield _python()
    yield _gymcore(installed)
    yield _script(environ)
    if catalog is not None:
        yield from _plugins(catalog)
    yield from _requirements(catalog or Catalog(()), installed)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    bits = struct.calcsize("P") * 8
    is_virtual = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    remarks = []
    if sys.version_info < OLDEST_PYTHON:
        remarks.append(f"gymcore needs {'.'.join(map(str, OLDEST_PYTHON))} or newer; try: another Python")
    if bits != 64:
        remarks.append("datasets and journals are larger than it can address; try: a Python of 64 bits")
    is_well = not remarks
    if not is_virtual:
        remarks.append("no virtual environment: what is installed here may break others; try: python -m venv .venv")
    place = f"in {sys.prefix}" if is_virtual else "of the whole system"
    return Check("python", is_well, f"{sys.implementation.name} {version}, {bits} bits, {place}", tuple(remarks))


def _gymcore(installed: Installed) -> Check:
    found = f"gymcore {gymcore.__version__} in {Path(gymcore.__file__).parent}"
    places = sorted({place for name, _, place in _distributions() if name == "gymcore"})
    known = installed.find("gymcore")
    wrong, remarks = [], []
    if not places:
        remarks.append("it is only on the path, so no plugin that needs it counts it as installed; try: pip install it")
    if len(places) > 1:
        wrong.append(f"there are several: {', '.join(places)}; try: pip uninstall gymcore in all but one")
    elif known is not None and known.version not in (None, gymcore.__version__):
        wrong.append(f"its metadata say {known.version}; try: pip install gymcore again")
    return Check("package", not wrong, found, (*wrong, *remarks))


def _distributions() -> Iterator[tuple[str, Any, str]]:
    """Yield every installed distribution that can be read: its normalised name, itself, and where it lies."""
    import importlib_metadata

    for distribution in importlib_metadata.distributions():
        try:
            name = distribution.name
            place = str(Path(str(distribution.locate_file(""))).resolve())
        except Exception:  # a damaged distribution of somebody else
            continue
        if name:
            yield normalised(name), distribution, place


def _script(environ: Mapping[str, str]) -> Check:
    """Find out which `gym` a shell would start, and who has installed one here."""
    owners = sorted(_owners_of_script())
    others = [name for name in owners if name != "gymcore"]
    own = Path(sysconfig.get_path("scripts"), "gym")
    found = shutil.which("gym", path=environ.get("PATH"))
    always = "`gymcore` and `python -m gymcore` are always this one"
    remarks = []
    if others:
        remarks.append(f"{', '.join(others)} installs a `gym` too, and whoever is installed last has it; {always}")
    if found is None:
        there = f"; it is {own}" if own.exists() else ""
        remarks.append(f"try: activate its virtual environment{there}; or: python -m gymcore")
        return Check("script", True, "PATH finds no `gym`", tuple(remarks))
    interpreter = _interpreter_of(Path(found))
    if interpreter is not None and not interpreter.exists():
        remarks.append(f"try: pip install --force-reinstall --no-deps gymcore; or: rm {found}; {always}")
        return Check("script", False, f"PATH finds {found}, whose Python is gone: {interpreter}", tuple(remarks))
    whose = _started_by(Path(found))
    if whose is None:
        remarks.append(f"nobody can say what it starts; {always}")
        return Check("script", True, f"PATH finds {found}", tuple(remarks))
    if whose != "gymcore":
        again = "pip install --force-reinstall --no-deps gymcore"
        remarks.append(f"try: {again}; or say `gymcore` instead of `gym`: {always}")
        return Check("script", False, f"PATH finds {found}, which starts {whose} and not gymcore", tuple(remarks))
    if Path(found).resolve().parent != own.resolve().parent:
        remarks.append(f"it is that of another installation than this one, whose `gym` is {own}")
    return Check("script", True, f"PATH finds {found}, which is gymcore's", tuple(remarks))


def _owners_of_script() -> set[str]:
    owners = set()
    for name, distribution, _ in _distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if re.search(r"^\s*gym\s*=", text, re.MULTILINE) and any(
                entry.group == "console_scripts" and entry.name == "gym" for entry in distribution.entry_points
            ):
                owners.add(name)
        except Exception:  # entry points that cannot be read are told with the plugins
            continue
    return owners


def _interpreter_of(script: Path) -> Path | None:
    """Return what the first line of a script says it is to be run by; None where it is no script."""
    line = _text_of(script).partition("\n")[0]
    path = line.removeprefix("#!").split()[:1] if line.startswith("#!") else []
    return Path(path[0]) if path and path[0].startswith("/") else None


def _text_of(script: Path) -> str:
    try:
        if not script.is_file():  # reading a pipe would wait for whoever writes into it
            return ""
        with script.open("rb") as file:
            return file.read(10_000).decode("utf-8", "replace")
    except OSError:
        return ""


def _started_by(script: Path) -> str | None:
    """Return the package, or the distribution, that a script starts; None where its text does not tell."""
    text = _text_of(script)
    named = _NAMED.search(text)
    if named is not None:
        return normalised(named[1])
    imported = [name for name in _IMPORTED.findall(text) if name not in _OF_PYTHON]
    return imported[0] if imported else None


def _plugins(catalog: Catalog) -> Iterator[Check]:
    distributions = {plugin.distribution for plugin in catalog.plugins}
    bad = [plugin for plugin in catalog.plugins if plugin.status not in _HARMLESS]
    told = f"{len(catalog.plugins)} plugins of {len(distributions)} distributions"
    remarks = [
        f"{plugin.kind} {plugin.qualified} is {plugin.status}: {plugin.problem}"
        for plugin in catalog.plugins
        if plugin.status in _HARMLESS and plugin.status != "ok"
    ]
    verdict = (
        f"{len(bad)} of them cannot be used as they are" if bad else "all can be used, as far as is known unimported"
    )
    yield Check("plugins", not bad, f"{told}, {verdict}", tuple(remarks))
    for plugin in bad:
        found = f"{plugin.kind} {plugin.qualified} ({plugin.version}) is {plugin.status}: {plugin.problem}"
        yield Check("plugin", False, found, (*([plugin.hint] if plugin.hint else []), _remedy(plugin)))


def _remedy(plugin: Plugin) -> str:
    match plugin.status:
        case "conflict":
            return f"try: say which, as {plugin.qualified}; or: pip uninstall one of the two"
        case "incompatible":
            return f"try: pip install --upgrade gymcore {plugin.distribution}"
    return f"try: pip install --force-reinstall {plugin.distribution}; or: pip uninstall {plugin.distribution}"


def _requirements(catalog: Catalog, installed: Installed) -> Iterator[Check]:
    """Compare what gymcore and every distribution with a plugin need with what is installed."""
    told: set[tuple[str, str]] = set()
    named: dict[str, list[Plugin]] = {"gymcore": []}
    for plugin in catalog.plugins:
        named.setdefault(plugin.distribution, []).append(plugin)
    bad = 0
    checks = []
    for name, plugins in named.items():
        clashes = [
            clash for clash in installed.clashes(name) if (normalised(clash.owner), clash.requirement) not in told
        ]
        told |= {(normalised(clash.owner), clash.requirement) for clash in clashes}
        if clashes:
            bad += 1
            others = [other for other in named if other != name]
            checks.append(_clash_check(name, plugins, clashes, installed, others))
    verdict = f"{bad} of them do not have it" if bad else "it is installed as they need it"
    yield Check("needs", not bad, f"what {len(named)} distributions need, gymcore with them: {verdict}")
    yield from checks


def _clash_check(
    name: str, plugins: list[Plugin], clashes: list[Clash], installed: Installed, others: list[str]
) -> Check:
    first, *more = clashes
    remarks = [f"it also {clash.describe()}" for clash in more]
    if name == "gymcore":  # whoever cannot live with what it needs cannot live with it
        return Check("needs", False, f"{name} {first.describe()}", (*remarks, *remedies_of(clashes)))
    remarks += remedies_of(clashes, installed.against(clashes, others))
    if installed.against(clashes, ["gymcore"]):
        remarks.append("no virtual environment of its own helps, because gymcore is in that, too")
    else:
        remarks += [f"or: --isolate {plugin.name}" for plugin in plugins if plugin.kind == "environment"]
    return Check("needs", False, f"{name} {first.describe()}", tuple(remarks))
