"""
Responses items as chat messages: what chat has words for is carried, and what it has none for is refused by name.
"""

from __future__ import annotations

from typing import Any

import pytest

from gymcore.chat import TOKEN_IDS, InexpressibleError, to_chat_options, to_messages
from gymcore.responses import function_call, function_call_output, message

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA"}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "reasoning", "summary": [], "encrypted_content": "AAAA"}, "encrypted reasoning"),
        (
            {"role": "assistant", "content": [{"type": "output_text", "text": "a"}, IMAGE]},
            "type 'input_image' in what a",
        ),
        ({"role": "assistant", "content": [{}]}, "a part of type None"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "a reply with 'function_call'"),
        ({"role": "assistant", "content": "", "tool_calls": [{"type": "custom"}]}, "none of a function"),
        ({"role": "assistant", "content": "", "tool_calls": "f"}, "no list"),
        (user({"type": "input_image", "image_url": None, "file_id": "file-1"}), "an image by its file id"),
        (user({"type": "input_image", "detail": "auto"}), "an image without its URL"),
        (user({"type": "input_file", "file_url": "https://a/b.pdf"}), "a file by its URL"),
        ({"type": "computer_call"}, "an item of type 'computer_call'"),
    ],
)
def test_what_chat_has_no_words_for_is_refused_by_name(item: dict[str, Any], said: str) -> None:
    """
    Nothing of a conversation is lost in silence.
    """
    with pytest.raises(InexpressibleError, match=said):
        list(to_messages([item]))


def test_a_conversation_in_chats_own_words_stays_as_it_is() -> None:
    """
    Calls, their results and the names of speakers are not lost because a row says them as chat does.
    """
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    chat = [
        {"role": "user", "name": "ann", "content": "Hi."},
        {"role": "assistant", "name": "bot", "content": None, "reasoning_content": "Hmm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "cold"},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]

    assert list(to_messages(chat)) == chat


def test_a_key_that_is_null_is_none() -> None:
    """
    A file with its address spelled out as null is one without it.
    """
    (said,) = to_messages([user({"type": "input_file", "file_url": None, "file_id": "f"})])

    assert said["content"] == [{"type": "file", "file": {"file_id": "f"}}]


def test_what_is_said_of_a_whole_reply_stays_where_it_is_asked_for() -> None:
    """
    Token ids on the last item of a reply are kept in its message on demand; on another they would say something else.
    """
    ids: dict[str, Any] = {key: [1] for key in TOKEN_IDS}
    call = function_call("f", "{}", "c")
    whole = [message("Wait."), {**call, **ids, "kept": False}, function_call_output("c", "1")]
    broken = [{**message("Wait."), **ids}, call]

    assert [TOKEN_IDS[0] in said for said in to_messages(whole)] == [False, False]
    said, result = to_messages(whole, TOKEN_IDS)
    assert {key: said[key] for key in TOKEN_IDS} == ids
    assert "kept" not in said
    assert not set(result) & set(TOKEN_IDS)
    assert [set(said) & set(TOKEN_IDS) for said in to_messages(broken, TOKEN_IDS)] == [set()]


def test_how_to_answer_is_said_in_chats_words() -> None:
    """
    Sampling, the choice of tools, the format and the effort have other names, and some keys ask for nothing.
    """
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}
    params = {
        "input": "Hi.",
        "temperature": 0.3,
        "top_p": None,
        "tool_choice": {"type": "function", "name": "f"},
        "max_output_tokens": 77,
        "text": {"format": schema, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "truncation": "auto",
        "include": 5,
    }

    assert to_chat_options(params, has_tools=True) == {
        "temperature": 0.3,
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "max_tokens": 77,
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "reasoning_effort": "low",
    }
    assert "tool_choice" not in to_chat_options(params, has_tools=False)
    with pytest.raises(InexpressibleError, match="'reasoning', which is no object"):
        to_chat_options({"reasoning": "low"}, has_tools=False)
