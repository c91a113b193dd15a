"""
The built-in components against the kit that everybody's pass.
"""

from gymcore.testing import AgentSuite, ModelSuite


class TestSimpleAgent(AgentSuite):
    """
    What every agent should hold.
    """

    plugin = "simple_agent"


class TestOracle(ModelSuite):
    """
    What every model should hold, as far as it asks no endpoint.
    """

    plugin = "oracle"


class TestNop(ModelSuite):
    """
    The same for the model that says nothing.
    """

    plugin = "nop"
