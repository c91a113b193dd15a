"""
The conversion between Responses objects and Chat Completions, both ways.
"""

import pytest
from gym_plugin_openai_model.chat import MalformedReplyError, to_chat_body, to_response_body
from hypothesis import given, settings
from hypothesis import strategies as st

from gymcore import ModelError
from gymcore.responses import function_call, function_call_output, message


def completion(chat, reason="stop", **choice):
    return {"id": "c1", "choices": [{"index": 0, "message": chat, "finish_reason": reason, **choice}]}


def messages_of(*items):
    return to_chat_body({}, items)["messages"]


# -- the request -----------------------------------------------------------------------------------------------------


def test_renames_every_parameter_that_has_another_name():
    """
    Parameters keep their meaning under chat's names, and what chat has no use for is left out.
    """
    schema = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}
    params = {
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": schema, "verbosity": "low"},
        "tools": [{"type": "function", "name": "f", "description": None, "parameters": {}, "strict": False}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_logprobs": 3,
        "truncation": "auto",
        "include": [],
        "seed": 7,
    }

    assert to_chat_body(params, [message("Hi.", role="developer")]) == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Hi."}],
        "max_tokens": 9,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}, "strict": False}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_logprobs": 3,
        "logprobs": True,
        "seed": 7,
    }


def test_says_nothing_of_tools_where_there_are_none():
    """
    Endpoints refuse an empty list of tools, and a choice among none.
    """
    body = to_chat_body({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, [])

    assert body == {"messages": []}


def test_carries_images_sound_and_files():
    """
    Parts of a message keep their kind and their order.
    """
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    parts = [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_file", "file_data": "AA", "filename": "a.pdf"},
        sound,
        {"type": "video_url", "video_url": {"url": "http://host/v"}},
    ]

    assert messages_of({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"file_data": "AA", "filename": "a.pdf"}},
        sound,
        {"type": "video_url", "video_url": {"url": "http://host/v"}},
    ]


def test_makes_one_message_of_one_turn():
    """
    Reasoning, text and calls of one reply become one assistant message, and their results follow it.
    """
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hmm."}]}
    calls = [function_call("f", "{}", "a"), function_call("g", "{oops", "b")]
    token_ids = {"prompt_token_ids": [1], "generation_token_ids": [2], "logprobs": {"content": []}}
    results = [function_call_output("a", "1"), function_call_output("b", "2")]

    assert messages_of(thought, message("Wait."), calls[0], {**calls[1], **token_ids}, *results) == [
        {
            "role": "assistant",
            "content": "Wait.",
            "reasoning_content": "Hmm.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{oops"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]


@pytest.mark.parametrize(
    ("params", "items", "named"),
    [
        ({"previous_response_id": "r"}, [], "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, [], "web_search"),
        ({}, [{"type": "item_reference", "id": "x"}], "item_reference"),
        ({}, [{"type": "of_next_year", "role": "assistant"}], "of_next_year"),
        ({}, [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}], "file id"),
        ({}, [{"role": "user", "content": [{"type": "input_file", "file_url": "f"}]}], "URL"),
    ],
)
def test_refuses_what_chat_cannot_carry(params, items, named):
    """
    Nothing is lost in silence: what chat has no words for fails the rollout for good, by name.
    """
    with pytest.raises(ModelError, match=named) as caught:
        to_chat_body(params, items)

    assert not caught.value.retryable


# -- the reply -------------------------------------------------------------------------------------------------------


def test_puts_token_ids_on_the_last_item():
    """
    What a completion holds beyond the standard travels on the last item, untouched.
    """
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = {"role": "assistant", "content": "Hi.", "tool_calls": [call], "generation_token_ids": [3], "audio": None}
    body = {
        **completion(chat, token_ids=[3], logprobs={"content": [{"logprob": -0.25}]}),
        "prompt_token_ids": [1, 2],
        "system_fingerprint": "x",
    }
    response = to_response_body(body, 1)

    assert response["output"] == [
        message("Hi."),
        {
            **function_call("f", "{}", "a"),
            "prompt_token_ids": [1, 2],
            "token_ids": [3],
            "logprobs": {"content": [{"logprob": -0.25}]},
            "generation_token_ids": [3],
        },
    ]
    assert response["system_fingerprint"] == "x"


def test_an_empty_reply_still_has_an_item():
    """
    A reply that says nothing is an empty message, so that its token ids are kept.
    """
    response = to_response_body(completion({"role": "assistant", "content": None, "token_ids": [2]}), 1)

    assert response["output"] == [{**message(""), "token_ids": [2]}]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_keeps_reasoning(key):
    """
    Thoughts become a reasoning item before what was said, under whichever name they came.
    """
    response = to_response_body(completion({"content": "Hi.", key: "Hmm."}), 1)

    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm."}]}
    assert response["output"] == [thought, message("Hi.")]
    assert messages_of(*response["output"]) == [{"role": "assistant", "content": "Hi.", "reasoning_content": "Hmm."}]


def test_keeps_a_refusal():
    """
    A refusal is a part of the message, there and back.
    """
    [item] = to_response_body(completion({"content": None, "refusal": "No."}), 1)["output"]

    assert item["content"] == [{"type": "refusal", "refusal": "No."}]
    assert messages_of(item) == [{"role": "assistant", "content": None, "refusal": "No."}]


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        (None, "completed", None),
        ("eos_token", "completed", None),
        ("model_length", "incomplete", {"reason": "max_output_tokens"}),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_tells_why_a_reply_ended(reason, status, details):
    """
    A reply that was cut off is incomplete, and says by what.
    """
    response = to_response_body(completion({"content": "Hi."}, reason), 1)

    assert (response["status"], response["incomplete_details"]) == (status, details)


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource", "of_next_year"])
def test_a_reason_that_is_not_known_is_no_end_of_a_reply(reason):
    """
    A completion that ended for another reason than the model's own will or a limit is none.
    """
    with pytest.raises(MalformedReplyError, match=reason):
        to_response_body(completion({"content": "Hi."}, reason), 1)


def test_what_was_converted_is_not_replaced_by_what_was_left_over():
    """
    Keys of a completion that would pass for ones of the Responses API change neither a call nor the reply's end.
    """
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = {
        "role": "assistant",
        "name": "assistant",
        "type": "x",
        "status": "y",
        "arguments": "z",
        "tool_calls": [call],
    }
    body = {
        **completion(chat, "length", call_id="other"),
        "status": "completed",
        "output": [],
        "object": "o",
        "type": "t",
    }
    response = to_response_body(body, 1)

    assert response["output"] == [function_call("f", "{}", "a")]
    assert (response["status"], response["object"], response["id"]) == ("incomplete", "response", "c1")
    assert response["type"] == "t"


@pytest.mark.parametrize("text", [None, 5, ["Hi."]])
def test_a_part_whose_text_is_none_is_malformed(text):
    """
    Parts of a content hold texts, or the reply is none.
    """
    with pytest.raises(MalformedReplyError, match="content is no text"):
        to_response_body(completion({"content": [{"type": "text", "text": "Hi."}, {"type": "text", "text": text}]}), 1)


def test_renames_usage():
    """
    Token counts keep their details under the names of the Responses API.
    """
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
        "cost": 0.5,
        "queue_time": None,
    }

    assert to_response_body({**completion({"content": "Hi."}), "usage": usage}, 1)["usage"] == {
        "input_tokens": 3,
        "output_tokens": 2,
        "total_tokens": 5,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 1},
        "cost": 0.5,
    }


def test_repairs_calls_of_careless_servers():
    """
    A call without an id gets one of its own, and arguments that are an object become their JSON.
    """
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"id": "", "function": {"name": "g"}}]
    output = to_response_body(completion({"content": "", "tool_calls": calls}), 4)["output"]

    assert output == [function_call("f", '{"a":1}', "call_4_0"), function_call("g", "", "call_4_1")]


def test_shows_the_error_that_came_instead_of_choices():
    """
    Routers answer 200 with an error inside; it is shown.
    """
    with pytest.raises(MalformedReplyError, match="upstream is gone"):
        to_response_body({"error": {"message": "upstream is gone"}}, 1)


# -- laws ------------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=20)
NAME = st.text(min_size=1, max_size=8)


@st.composite
def conversations(draw):
    """Draw well-formed conversations: every call has its own id, and its result follows its turn."""
    items = []
    for turn in range(draw(st.integers(1, 4))):
        role = draw(st.sampled_from(["user", "system", "developer"]))
        parts = [{"type": "input_text", "text": text} for text in draw(st.lists(TEXT, max_size=3))]
        items.append({"role": role, "content": draw(st.sampled_from([draw(TEXT), parts]))})
        ids = []
        for index, kind in enumerate(
            draw(st.lists(st.sampled_from(["text", "refusal", "thought", "call"]), max_size=5))
        ):
            text = draw(TEXT)
            if kind == "text":
                items.append(message(text))
            elif kind == "refusal":
                items.append({**message(""), "content": [{"type": "refusal", "refusal": text}]})
            elif kind == "thought":
                items.append(
                    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
                )
            else:
                ids.append(f"call_{turn}_{index}")
                items.append(function_call(draw(NAME), text, ids[-1]))
        items += [function_call_output(call_id, draw(TEXT)) for call_id in ids]
    return items


def texts_of(items):
    """Return every text of Responses items or chat messages, in order, by who said it."""
    found = {"user": [], "model": [], "refusals": [], "thoughts": []}
    for item in items:
        whose = "model" if item.get("role") == "assistant" else "user"
        if item.get("role") == "tool" or item.get("type") in ("function_call", "function_call_output"):
            continue
        thoughts = item.get("reasoning_content")
        parts = item.get("content") or ()
        for part in [{"text": parts}] if isinstance(parts, str) else parts:
            found["thoughts" if part.get("type") == "reasoning_text" else whose].append(part.get("text", ""))
            found["refusals"].append(part.get("refusal", ""))
        found["refusals"].append(item.get("refusal", ""))
        found["thoughts"].append(thoughts or "")
    return {key: "".join(texts).replace("\n", "") for key, texts in found.items()}


@settings(deadline=None)
@given(conversations())
def test_loses_no_text_no_call_and_no_result(items):
    """
    Whatever a conversation holds, chat holds it too, in the same order.
    """
    chat = messages_of(*items)

    assert texts_of(chat) == texts_of(items)
    calls = [call for sent in chat for call in sent.get("tool_calls", ())]
    assert [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls] == [
        (item["call_id"], item["name"], item["arguments"]) for item in items if item.get("type") == "function_call"
    ]
    assert [(sent["tool_call_id"], sent["content"]) for sent in chat if sent["role"] == "tool"] == [
        (item["call_id"], item["output"]) for item in items if item.get("type") == "function_call_output"
    ]


@settings(deadline=None)
@given(conversations())
def test_results_follow_the_message_that_asks_for_them(items):
    """
    Between a message with calls and their results stands nothing else, as endpoints demand.
    """
    owed = []
    for sent in messages_of(*items):
        if sent["role"] == "tool":
            assert sent["tool_call_id"] == owed.pop(0)
        else:
            assert owed == []
            owed = [call["id"] for call in sent.get("tool_calls", ())]
    assert owed == []


@settings(deadline=None)
@given(
    content=TEXT.filter(bool),
    refusal=st.none() | TEXT.filter(bool),
    thoughts=st.none() | TEXT.filter(bool),
    calls=st.lists(st.tuples(NAME, TEXT), max_size=3),
)
def test_a_reply_comes_back_as_it_was(content, refusal, thoughts, calls):
    """
    The assistant's message that a completion held is the one that the next request holds.
    """
    optional = {
        "refusal": refusal,
        "reasoning_content": thoughts,
        "tool_calls": [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(calls)
        ],
    }
    chat = {"role": "assistant", "content": content, **{key: value for key, value in optional.items() if value}}

    assert messages_of(*to_response_body(completion(chat), 1)["output"]) == [chat]
