"""
One plugin: what is known of an entry point without importing what it leads to, and how names are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from gymcore.discovery.manifest import Manifest, PluginRows

__all__ = ["GROUPS", "KINDS", "Kind", "Plugin", "Status", "bare_name", "normalised", "split_argument"]

Kind = Literal["environment", "model", "agent", "hook"]
Status = Literal["ok", "conflict", "blocked", "incompatible", "broken"]

GROUPS: dict[str, Kind] = {
    "gymcore.environments": "environment",
    "gymcore.models": "model",
    "gymcore.agents": "agent",
    "gymcore.hooks": "hook",
}
KINDS: tuple[Kind, ...] = tuple(GROUPS.values())


@lru_cache(4096)
def normalised(name: str) -> str:
    """Return a name as names are compared (https://peps.python.org/pep-0503/#normalized-names)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bare_name(name: str) -> str:
    """Return a plugin's name without the distribution that may stand before it: of `distribution/name`, the name."""
    return name.rpartition("/")[2]


def split_argument(name: str) -> tuple[str, str | None]:
    """Return the name of a plugin, and what follows its colon: of `remote:http://host`, both; None without a colon."""
    plugin, colon, argument = name.partition(":")
    return plugin, argument if colon else None


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
    hint: str | None = None
    """What to do about that, where something is known."""
    manifest: Manifest = field(default_factory=lambda: Manifest(gym_api=0))
    location: str | None = field(default=None, compare=False)
    """The folder of its package, as it was found."""
    claims_name: bool = True
    """Whether others of its name must be told from it; what a damaged distribution offers never hides what is whole."""

    @property
    def title(self) -> str:
        """What messages call it: kind, name, distribution and version."""
        return f"the {self.kind} {self.name!r} ({self.distribution} {self.version})"

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
            "hint": self.hint,
            "description": self.manifest.description,
            "gym_api": self.manifest.gym_api,
            "splits": {name: [_described(source) for source in files] for name, files in self.manifest.splits.items()},
        }


def _described(source: Any) -> Any:
    """Return how a manifest says where rows of a split come from."""
    if isinstance(source, str):
        return source
    return source.to_dict() if isinstance(source, PluginRows) else source.model_dump(exclude_none=True)
