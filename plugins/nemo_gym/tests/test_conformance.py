"""
The environments against the kit that every environment passes.
"""

from typing import ClassVar

import pytest

from gymcore.testing import EnvironmentSuite


@pytest.mark.xdist_group("remote")
class TestRemote(EnvironmentSuite):
    """
    What every environment should hold; what needs rows is played against real servers in the other files.
    """

    plugin = "remote"
    config: ClassVar = {"url": "http://127.0.0.1:9000"}


@pytest.mark.xdist_group("nemo_gym_suite")
class TestNemoGym(EnvironmentSuite):
    """
    The same of what hosts a server; servers are hosted in the other files.
    """

    plugin = "nemo_gym"
    config: ClassVar = {"server": "example_session_state_mgmt", "python": "/usr/bin/python3"}
