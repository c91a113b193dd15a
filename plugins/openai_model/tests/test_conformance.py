"""
The model against the kit that every model passes.
"""

from typing import ClassVar

import pytest

from gymcore.testing import ModelSuite


@pytest.mark.xdist_group("openai_model")
class TestOpenAIModel(ModelSuite):
    """
    What every model should hold.
    """

    plugin = "openai_model"


@pytest.mark.xdist_group("openai_model")
class TestOpenAIModelWithChatCompletions(ModelSuite):
    """
    The same in the words of the other API.
    """

    plugin = "openai_model"
    config: ClassVar = {"api": "chat"}
