"""
What of a row counts as what its model is told.
"""

from __future__ import annotations

from typing import Any

import pytest

from gymcore.composition.tokens import prompt_of, token_counter


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"input": "one two"}, 2),
        ({"instructions": "be very brief", "input": "one two"}, 5),
        ({"instructions": None, "input": [{"role": "user", "content": "one"}]}, 1),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}]}, 2),
        ({"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": '{"a": "b c"}'}]}, 3),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "one two three"}]}, 3),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_text", "text": "a b"}]}]}, 2),
        ({"input": [{"type": "reasoning", "summary": []}, {"type": "item_reference", "id": "x"}]}, 0),
        ({"input": []}, 0),
    ],
)
def test_all_that_a_model_is_told_is_counted(params: dict[str, Any], words: int) -> None:
    """
    Instructions, messages, earlier calls and what came of them; a part that is no text counts nothing.
    """
    assert token_counter("words", "here")(prompt_of(params)) == words
