"""
What did I ask for, exactly? `compose()` turns a plan and a catalog into a Composition: routes, dataset, lock.
"""

from gymcore.composition.composer import Composition, compose
from gymcore.composition.dataset import Dataset
from gymcore.composition.folder import open_composition, read_lock, write_composition
from gymcore.composition.linting.linter import LintWarning
from gymcore.composition.mixing import interleave
from gymcore.composition.routes import ModelChoice, Route

__all__ = [
    "Composition",
    "Dataset",
    "LintWarning",
    "ModelChoice",
    "Route",
    "compose",
    "interleave",
    "open_composition",
    "read_lock",
    "write_composition",
]
