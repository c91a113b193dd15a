"""
A Check: one question about an installation or a disk, and its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """What was tried, and what came of it."""

    name: str
    is_well: bool
    found: str
    """What was tried, in one line."""
    remarks: tuple[str, ...] = ()
    """What is wrong, or what to know although all is well."""
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, found: str, wrong: Sequence[str], seconds: float) -> Check:
        """Answer by what is wrong: the first five mistakes are shown, and all are counted."""
        more = (f"... and {len(wrong) - 5} more",) if len(wrong) > 5 else ()
        verdict = "nothing lost, twice, damaged or done again" if not wrong else f"{len(wrong)} mistakes"
        return cls(name, not wrong, f"{found}: {verdict}", (*wrong[:5], *more), seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain values."""
        return {**vars(self), "remarks": list(self.remarks)}
