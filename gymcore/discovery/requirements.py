"""
Whether what is installed meets what installed distributions need: installers end well after breaking an earlier one.

Only metadata are read, of what is asked about and of what it needs in turn; nothing is imported.
"""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gymcore import __version__
from gymcore.discovery.catalog import normalised
from gymcore.discovery.metadata import read_text

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Clash", "Distribution", "Installed", "Need", "remedies_of"]


@dataclass(frozen=True)
class Clash:
    """One requirement that is not met."""

    owner: str
    """The distribution that has the requirement."""
    requirement: str
    """What it needs, such as `click<8.2`."""
    name: str
    """What of: a distribution, or `Python`."""
    installed: str | None
    """The version that is installed; None where it is not installed."""
    through: tuple[str, ...] = ()
    """The distributions by which it is needed: from the one that was asked about, without it, to the owner."""

    def describe(self) -> str:
        """Say it, beginning with `needs`, of the distribution that was asked about."""
        way = "".join(f"needs {name}, which " for name in self.through)
        if self.name == "Python":
            return f"{way}needs {self.requirement}, but this is Python {self.installed}"
        if self.installed is None:
            return f"{way}needs {self.requirement}, which is not installed"
        return f"{way}needs {self.requirement}, but {self.name} {self.installed} is installed"


def remedies_of(clashes: Iterable[Clash], against: Sequence[Need] = ()) -> list[str]:
    """
    Return what to try against clashes of one distribution, one line each.

    Args:
        clashes: All of them.
        against: What others need of the same distributions and would not have any more, as `Installed.against` tells.
    """
    clashes = list(clashes)
    wanted = [clash.requirement for clash in clashes if clash.name != "Python"]
    if against:
        told = list(dict.fromkeys(f"{need.owner} needs {need.requirement}" for need in against))
        more = [f"... and {len(told) - 3} more"] if len(told) > 3 else []
        alone = f"do not install {shlex.join(wanted)} here: {'; '.join([*told[:3], *more])}"
        return [alone, "try: another version of the plugin, or an environment without the others"]
    hints = [f"try: pip install {shlex.join(wanted)}"] if wanted else []
    if len(wanted) < len(clashes):
        hints.append("try: another Python, or another version of the plugin")
    return hints


@dataclass(frozen=True)
class Need:
    """What a distribution needs of another."""

    owner: str
    requirement: str


@dataclass(frozen=True)
class Distribution:
    """What the metadata of an installed distribution say of what it needs."""

    name: str
    version: str | None
    """None where it does not say."""
    needs: tuple[str, ...] = ()
    """Its requirements (https://peps.python.org/pep-0508/)."""
    python: str | None = None
    """Which versions of Python it takes."""


@dataclass
class _Step:
    """One distribution on the way, by what it was reached, and what it needs with what there is of it."""

    owner: Distribution
    through: tuple[str, ...]
    extras: tuple[str, ...]
    needs: list[tuple[Requirement, Distribution | None]] = field(default_factory=list)


@dataclass
class Installed:
    """
    The distributions that are installed, each looked up once, when it is asked about.

    Args:
        path: Folders to look for them in, instead of `sys.path`.
    """

    path: Sequence[str] | None = None
    _found: dict[str, Distribution | None] = field(default_factory=dict)
    _needs: dict[tuple[str, tuple[str, ...]], list[tuple[Requirement, Distribution | None]]] = field(
        default_factory=dict
    )

    def find(self, name: str) -> Distribution | None:
        """Return an installed distribution by its name, however it is spelt; None where there is none."""
        key = normalised(name)
        if key not in self._found:
            self._found[key] = self._look_up(key)
        return self._found[key]

    def clashes(self, name: str) -> list[Clash]:
        """
        Find what a distribution needs, itself or through what it needs, and is not as it needs it.

        What cannot be compared counts as met: a distribution without metadata or with a version of its own kind, a
        requirement that nobody can read, and one that says where something comes from instead of which version it is.

        Args:
            name: A distribution; one that is not installed needs nothing.
        """
        found: dict[tuple[str, str], Clash] = {}
        for step in self._walk(name):
            key = normalised(step.owner.name)
            if (clash := _python_clash(step.owner, step.through)) is not None:
                found.setdefault((key, clash.requirement), clash)
            for requirement, needed in step.needs:
                if _is_met(requirement, needed):
                    continue
                requirement.marker = None
                version = None if needed is None else needed.version
                told = requirement.name if needed is None else needed.name
                clash = Clash(step.owner.name, str(requirement), told, version, step.through)
                found.setdefault((key, clash.requirement), clash)
        return list(found.values())

    def closure(self, name: str, extras: Sequence[str] = ()) -> list[str]:
        """Return the names of a distribution and of everything that it needs, as far as that is installed."""
        return list(dict.fromkeys(step.owner.name for step in self._walk(name, extras)))

    def for_extras(self, name: str, needed: str) -> list[str]:
        """Return what a distribution needs of another besides its core: the requirements of extras that it asks for."""
        owner, other = self.find(name), self.find(needed)
        if owner is None or other is None:
            return []
        extras = {
            normalised(extra)
            for requirement in _asked(owner.needs, ())
            if normalised(requirement.name) == normalised(needed)
            for extra in requirement.extras
        }
        always = {str(requirement) for requirement in _asked(other.needs, ())}
        found = []
        for requirement in _asked(other.needs, sorted(extras)) if extras else ():
            if str(requirement) not in always:
                requirement.marker = None
                found.append(str(requirement))
        return found

    def against(self, clashes: Iterable[Clash], names: Iterable[str]) -> list[Need]:
        """
        Find who would not have what it needs any more, if clashes were mended by installing what is wanted.

        Args:
            clashes: Of one distribution.
            names: The distributions that are to be content, with everything that they need in turn.
        """
        from packaging.requirements import Requirement

        clashes = [clash for clash in clashes if clash.name != "Python"]
        owners = {normalised(clash.owner) for clash in clashes}
        wanted = [Requirement(clash.requirement) for clash in clashes]
        found: dict[Need, None] = {}
        for name in dict.fromkeys(map(normalised, names)):
            for step in self._walk(name):
                for requirement, _ in step.needs if normalised(step.owner.name) not in owners else ():
                    if any(_exclude_each_other(requirement, other) for other in wanted):
                        requirement.marker = None
                        found[Need(step.owner.name, str(requirement))] = None
        return list(found)

    def _walk(self, name: str, extras: Sequence[str] = ()) -> Iterator[_Step]:
        """Go from a distribution to what it needs, once for each set of extras that is asked for."""
        root = self.find(name)
        waiting = [] if root is None else [_Step(root, (), tuple(extras))]
        seen: set[tuple[str, tuple[str, ...]]] = set()
        for step in waiting:  # which grows meanwhile
            key = (normalised(step.owner.name), step.extras)
            if key in seen:
                continue
            seen.add(key)
            step.needs = self._needed_by(step.owner, *key)
            for requirement, needed in step.needs:
                if needed is not None and _is_met(requirement, needed):
                    extras = tuple(sorted(map(normalised, requirement.extras)))
                    waiting.append(_Step(needed, (*step.through, needed.name), extras))
            yield step

    def _needed_by(
        self, owner: Distribution, key: str, extras: tuple[str, ...]
    ) -> list[tuple[Requirement, Distribution | None]]:
        """Return what a distribution needs with what there is of it; every plugin leads to gymcore and its needs."""
        if (key, extras) not in self._needs:
            asked = _asked(owner.needs, extras)
            self._needs[key, extras] = [(requirement, self.find(requirement.name)) for requirement in asked]
        return self._needs[key, extras]

    def _look_up(self, key: str) -> Distribution | None:
        import importlib_metadata

        finder = importlib_metadata.Distribution
        try:
            every = finder.discover(name=key) if self.path is None else finder.discover(name=key, path=list(self.path))
            for distribution in every:
                return _read(distribution, key)
        except Exception:  # a finder of somebody else's, or metadata that cannot be read
            return Distribution(key, None)
        # It plainly is here: it may have been put on the path without being installed.
        return Distribution("gymcore", __version__) if key == "gymcore" and self.path is None else None


def _read(distribution: Any, key: str) -> Distribution:
    text = read_text(distribution, "METADATA")
    if not text:  # of long ago: what it needs stands in a file of its own, which only the library can read
        text = read_text(distribution, "PKG-INFO") or ""
        fields = _fields(text)
        return Distribution(
            fields.get("name", [key])[0], fields.get("version", [None])[0], tuple(distribution.requires or ())
        )
    fields = _fields(text)
    return Distribution(
        fields.get("name", [key])[0],
        fields.get("version", [None])[0],
        tuple(fields.get("requires-dist", ())),
        fields.get("requires-python", [None])[0],
    )


def _fields(text: str) -> dict[str, list[Any]]:
    """Read the head of metadata; parsing all of it would load the email package."""
    fields: dict[str, list[Any]] = {}
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    for line in re.sub(r"\r?\n[ \t]+", " ", head).split("\n"):
        name, colon, value = line.partition(":")
        if colon and value.strip():
            fields.setdefault(name.strip().lower(), []).append(value.strip())
    return fields


_ONLY_FOR_AN_EXTRA = re.compile(r";[^;]*\bextra\s*==")


def _asked(needs: Iterable[str], extras: Sequence[str]) -> Iterator[Requirement]:
    """Yield the requirements that hold on this machine with some extras."""
    from packaging.markers import UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement

    for text in needs:
        # Most lines of large distributions: parsing them would cost more than everything else here.
        if not extras and _ONLY_FOR_AN_EXTRA.search(text) and " or " not in text:
            continue
        try:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or ("",)):
                yield requirement
        except (InvalidRequirement, UndefinedEnvironmentName, ValueError):
            continue


def _is_met(requirement: Requirement, found: Distribution | None) -> bool:
    from packaging.version import InvalidVersion, Version

    if found is None:
        return False
    if found.version is None:
        return True
    try:
        # Who has installed a pre-release has wanted it.
        return requirement.specifier.contains(Version(found.version), prereleases=True)
    except InvalidVersion:
        return True


def _exclude_each_other(one: Requirement, other: Requirement) -> bool:
    """Whether no version of one distribution can meet both of two requirements."""
    from packaging.version import InvalidVersion, Version

    if normalised(one.name) != normalised(other.name):
        return False
    both = one.specifier & other.specifier
    # What a set of versions allows changes only at the versions that it names: each of them is tried, and what lies
    # closely before and after it.
    tried = [Version("0"), Version("99999")]
    for specifier in both:
        try:
            version = Version(specifier.version.removesuffix(".*"))
        except InvalidVersion:  # `===` compares letters
            return False
        parts = list(version.release)
        tried += [version, Version(".".join(map(str, [*parts, 0, 0, 1])))]
        while parts and not parts[-1]:
            parts.pop()
        if parts:
            tried.append(Version(".".join(map(str, [*parts[:-1], parts[-1] - 1, 99999]))))
        tried.append(Version(".".join(map(str, [*version.release[:-1], version.release[-1] + 1]))))
    return not any(both.contains(version, prereleases=True) for version in tried)


def _python_clash(owner: Distribution, through: tuple[str, ...]) -> Clash | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if owner.python is None:
        return None
    here = platform.python_version().rstrip("+")
    try:
        if SpecifierSet(owner.python).contains(here, prereleases=True):
            return None
    except (InvalidSpecifier, ValueError):
        return None
    return Clash(owner.name, f"Python{owner.python}", "Python", here, through)
