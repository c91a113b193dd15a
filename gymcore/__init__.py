"""
gymcore: `pip install` environments, name the ones to train on, and get one runtime and one routed dataset.

This file re-exports the public names and does nothing else; each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymcore.collection import Collection, collect, read_rollouts
    from gymcore.composition import Composition, compose, open_composition, write_composition
    from gymcore.discovery import Catalog, discover
    from gymcore.errors import (
        EndpointError,
        GymcoreError,
        ModelError,
        PluginError,
        RequestError,
        StorageError,
        ToolError,
    )
    from gymcore.hookspecs import hookimpl
    from gymcore.interfaces import (
        Agent,
        BoundModel,
        Choice,
        Config,
        Environment,
        Model,
        Note,
        OpenEnvironment,
        RolloutContext,
        Solution,
        call,
        option,
        say,
        tool,
    )
    from gymcore.plan import Plan
    from gymcore.records import Failure, Reward, Rollout, Task, ToolCall, Trajectory, Turn
    from gymcore.reporting import Report, report
    from gymcore.responses import Request, Response
    from gymcore.runtime import RolloutStream, run
    from gymcore.workflow import run_sync

__version__ = "0.1.0"

_HOMES = {
    "gymcore.collection": ("Collection", "collect", "read_rollouts"),
    "gymcore.composition": ("Composition", "compose", "open_composition", "write_composition"),
    "gymcore.discovery": ("Catalog", "discover"),
    "gymcore.errors": (
        "EndpointError",
        "GymcoreError",
        "ModelError",
        "PluginError",
        "RequestError",
        "StorageError",
        "ToolError",
    ),
    "gymcore.hookspecs": ("hookimpl",),
    "gymcore.interfaces": (
        "Agent",
        "BoundModel",
        "Choice",
        "Config",
        "Environment",
        "Model",
        "Note",
        "OpenEnvironment",
        "RolloutContext",
        "Solution",
        "call",
        "option",
        "say",
        "tool",
    ),
    "gymcore.plan": ("Plan",),
    "gymcore.records": ("Failure", "Reward", "Rollout", "Task", "ToolCall", "Trajectory", "Turn"),
    "gymcore.reporting": ("Report", "report"),
    "gymcore.responses": ("Request", "Response"),
    "gymcore.runtime": ("RolloutStream", "run"),
    "gymcore.workflow": ("run_sync",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Agent",
    "BoundModel",
    "Catalog",
    "Choice",
    "Collection",
    "Composition",
    "Config",
    "EndpointError",
    "Environment",
    "Failure",
    "GymcoreError",
    "Model",
    "ModelError",
    "Note",
    "OpenEnvironment",
    "Plan",
    "PluginError",
    "Report",
    "Request",
    "RequestError",
    "Response",
    "Reward",
    "Rollout",
    "RolloutContext",
    "RolloutStream",
    "Solution",
    "StorageError",
    "Task",
    "ToolCall",
    "ToolError",
    "Trajectory",
    "Turn",
    "call",
    "collect",
    "compose",
    "discover",
    "hookimpl",
    "open_composition",
    "option",
    "read_rollouts",
    "report",
    "run",
    "run_sync",
    "say",
    "tool",
    "write_composition",
]


def __getattr__(name: str) -> Any:  # any public name
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gymcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
