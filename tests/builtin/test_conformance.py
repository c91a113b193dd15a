"""
The built-in components against the kit that everybody's pass.
"""

import pytest

from gymcore.testing import AgentSuite, ModelSuite


@pytest.mark.xdist_group("builtin")
class TestSimpleAgent(AgentSuite):
    """
    What every agent should hold.
    """

    plugin = "simple_agent"


@pytest.mark.xdist_group("builtin")
class TestOracle(ModelSuite):
    """
    What every model should hold, as far as it asks no endpoint.
    """

    plugin = "oracle"


@pytest.mark.xdist_group("builtin")
class TestNop(ModelSuite):
    """
    The same for the model that says nothing.
    """

    plugin = "nop"
