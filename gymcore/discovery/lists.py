"""
Which distributions may offer plugins: an allow list and a block list, applied before anything of a plugin is read.

The lists name distributions and not plugins, because a plugin is called whatever its author likes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gymcore.discovery.plugin import normalised
from gymcore.errors import RequestError

__all__ = ["ALLOW", "BLOCK", "Lists"]

ALLOW = "GYM_PLUGINS_ALLOW"
BLOCK = "GYM_PLUGINS_BLOCK"

_PATTERN = re.compile(r"[A-Za-z0-9*._-]*[A-Za-z0-9*][A-Za-z0-9*._-]*")


@dataclass(frozen=True)
class Lists:
    """Patterns of distributions' names, as they were written."""

    allow: tuple[str, ...] = ()
    """Where there are any, nothing else may offer plugins."""
    block: tuple[str, ...] = ()
    """What may not, also where it is allowed."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Lists:
        """
        Read both lists, separated by commas, from a process environment; an empty one is none.

        Raises:
            RequestError: something in them is no pattern: a list that is not understood must not be passed over.
        """
        return cls(_patterns(ALLOW, environ), _patterns(BLOCK, environ))

    def objection(self, distribution: str) -> str | None:
        """
        Say what keeps a distribution from offering plugins; None where nothing does.

        What gymcore itself offers is never blocked: it is no plugin of somebody else's, and without `simple_agent`
        nothing plays.
        """
        name = normalised(distribution)
        if name == "gymcore":
            return None
        for pattern in self.block:
            if fnmatchcase(name, normalised(pattern)):
                return f"{BLOCK} names {pattern!r}"
        if self.allow and not any(fnmatchcase(name, normalised(pattern)) for pattern in self.allow):
            return f"{ALLOW} names only {', '.join(self.allow)}"
        return None


def _patterns(variable: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    text = environ.get(variable, "")
    if not text.strip():
        return ()
    patterns = tuple(pattern for part in text.split(",") if (pattern := part.strip()))
    for pattern in patterns or (text.strip(),):
        if not _PATTERN.fullmatch(pattern):
            raise RequestError(
                f"{pattern!r} is no pattern of a distribution's name",
                where=variable,
                hints=["it holds names, separated by commas, in which * stands for anything: gym-plugin-a, acme-*"],
            )
    return patterns
