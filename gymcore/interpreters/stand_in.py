"""
A class that stands for one that cannot be imported here; what it says, `describer` was told by its own interpreter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from gymcore.interfaces import Environment

__all__ = ["StandIn"]


class StandIn(Environment[Any, Any]):
    """An environment whose class is somewhere else; only its names, its tools and its types are here."""

    python: ClassVar[Path]
    """The interpreter in which it can be imported."""
    _has_solution: ClassVar[bool] = False
    _takes_other_tools: ClassVar[bool] = False

    @classmethod
    def is_solvable(cls) -> bool:
        """Whether the author wrote a reference solution."""
        return cls._has_solution

    @classmethod
    def takes_other_tools(cls) -> bool:
        """Whether rows may offer tools that the class has no method for."""
        return cls._takes_other_tools
