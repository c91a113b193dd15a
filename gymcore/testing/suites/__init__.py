"""
The conformance kit: what every environment, agent and model should hold, as test classes to inherit from.

    class TestMine(EnvironmentSuite):
        plugin = "mine"

`python -m gymcore.testing.suites KIND NAME` runs a suite without pytest.
"""

from gymcore.testing.suites.agents import AgentSuite
from gymcore.testing.suites.environments import EnvironmentSuite
from gymcore.testing.suites.models import ModelSuite
from gymcore.testing.suites.running import CheckOutcome, run_checks, run_suite
from gymcore.testing.suites.suite import Check, CheckFailed, NewCheckWarning, PluginSuite, check, checks_of

__all__ = [
    "AgentSuite",
    "Check",
    "CheckFailed",
    "CheckOutcome",
    "EnvironmentSuite",
    "ModelSuite",
    "NewCheckWarning",
    "PluginSuite",
    "check",
    "checks_of",
    "run_checks",
    "run_suite",
]
