"""
What we test with, public like the rest: plugin authors get the tools we use ourselves.

Everything here is real: a model that answers from a script, an endpoint that listens on loopback, a folder into which
distributions are built and installed. Nothing is loaded into pytest by itself.
"""

from gymcore.testing.endpoint import (
    LoopbackEndpoint,
    half_a_body,
    hangs,
    html,
    raw,
    reset,
    slow,
    status,
)
from gymcore.testing.models import ScriptedModel
from gymcore.testing.playing import play
from gymcore.testing.plugins import PluginFolder
from gymcore.testing.replies import calls, says, truncated
from gymcore.testing.suites import AgentSuite, EnvironmentSuite, ModelSuite

__all__ = [
    "AgentSuite",
    "EnvironmentSuite",
    "LoopbackEndpoint",
    "ModelSuite",
    "PluginFolder",
    "ScriptedModel",
    "calls",
    "half_a_body",
    "hangs",
    "html",
    "play",
    "raw",
    "reset",
    "says",
    "slow",
    "status",
    "truncated",
]
