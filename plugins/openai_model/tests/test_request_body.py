"""
Bodies of requests: whatever was kept from earlier turns, they say what a body put together anew says.
"""

import json

import pytest
from gym_plugin_openai_model.chat import to_chat_body
from gym_plugin_openai_model.options import OpenAIModelConfig
from gym_plugin_openai_model.request_body import RequestBody
from hypothesis import given, settings
from hypothesis import strategies as st

from gymcore import ModelError, Request
from gymcore.responses import function_call, function_call_output, message

TEXT = st.text(max_size=8)
ITEM = st.one_of(
    st.builds(message, TEXT, role=st.sampled_from(["user", "assistant", "system"])),
    st.builds(function_call, TEXT, TEXT, TEXT),
    st.builds(function_call_output, TEXT, TEXT),
    st.builds(lambda text: {"type": "reasoning", "summary": [], "content": [{"text": text}]}, TEXT),
)
ITEMS = st.lists(ITEM, max_size=5)


def body_of(request, state=None, **options):
    config = OpenAIModelConfig(base_url="http://127.0.0.1/v1", **options)
    return json.loads(RequestBody(config).encode(request, {} if state is None else state))


@settings(deadline=None)
@given(first=ITEMS, turns=st.lists(st.tuples(ITEMS, st.booleans()), max_size=4))
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_conversation_that_grows_or_forks_is_sent_whole(api, drop, first, turns):
    """
    What is kept of an earlier request never changes what a later one says, also when an agent goes back.
    """
    options = {"api": api, "drop_input_reasoning_items": drop, "model": "m"}
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1", **options))
    state = {}
    root = request = Request(tuple(first), {"temperature": 0.5, "instructions": "Be brief."})
    writer.encode(request, state)
    for items, goes_back in turns:
        request = (root if goes_back else request).continued(items)
        wanted = [item for item in request.input if not (drop and item.get("type") == "reasoning")]
        sent = json.loads(writer.encode(request, state))

        if api == "responses":
            assert sent == {"model": "m", **request.params, "input": wanted}
        else:
            assert sent == to_chat_body({"model": "m", **request.params}, wanted)


SOUND = "data:audio/wav;base64,AAAA"


def asked_with(metadata, *items):
    return Request(items, {"metadata": metadata})


@pytest.mark.parametrize(
    "content",
    ["What is it?", [{"type": "input_text", "text": "What is it?"}], [{"type": "text", "text": "What is it?"}]],
)
def test_sound_in_the_metadata_of_a_row_is_heard(content):
    """
    It stands before the text of the last message with which the user begins, and stays there in every turn.
    """
    state = {}
    rules = message("Listen.", role="system")
    earlier = [message("Ready?", role="user"), message("Yes.")]
    first = asked_with({"audio_data": SOUND, "kept": "yes"}, rules, *earlier, {"role": "user", "content": content})
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1", api="chat"))
    later = first.continued([message("A bell."), message("Sure?", role="user")])
    bodies = [json.loads(writer.encode(request, state)) for request in (first, later)]

    heard = {"type": "audio_url", "audio_url": {"url": SOUND}}
    assert [body["messages"][3]["content"] for body in bodies] == [[heard, {"type": "text", "text": "What is it?"}]] * 2
    assert json.dumps(bodies[1]).count(SOUND) == 1
    assert bodies[1]["messages"][5] == {"role": "user", "content": "Sure?"}
    assert bodies[0]["metadata"] == {"kept": "yes"}


@pytest.mark.parametrize(
    ("api", "metadata", "told"),
    [
        ("responses", {"audio_data": SOUND}, "the Responses API cannot carry the task's metadata.audio_data"),
        ("chat", {"audio_path": "a.wav"}, "metadata has audio_path, and only one audio_data can be sent"),
        ("chat", {"audio_data": SOUND, "audio_path": "a.wav"}, "metadata has audio_data and audio_path"),
        ("chat", {"audio_paths": ["a.wav"]}, "metadata has audio_paths"),
    ],
)
def test_sound_that_nobody_would_hear_is_refused(api, metadata, told):
    """
    A rollout that was played deaf would be scored as if the model had not understood.
    """
    with pytest.raises(ModelError, match=told) as caught:
        body_of(asked_with(metadata, message("What is it?", role="user")), api=api)

    assert not caught.value.retryable


def test_sound_needs_a_message_of_the_user():
    """
    It is part of what the user says; where the user says nothing, or an agent has left it out, that is told.
    """
    rules, question = message("Listen.", role="system"), message("What is it?", role="user")
    with pytest.raises(ModelError, match="no message of the user"):
        body_of(asked_with({"audio_data": SOUND}, rules), api="chat")
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1", api="chat"))
    state = {}
    request = asked_with({"audio_data": SOUND}, rules, question)
    writer.encode(request, state)
    with pytest.raises(ModelError, match="no message of the user"):
        writer.encode(Request((question,), request.params), state)


@settings(deadline=None)
@given(turns=ITEMS, seed=st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_seed_is_in_every_request_of_a_rollout_and_asked_for_once(api, turns, seed):
    """
    It is put into what the requests of a rollout have in common.
    """
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1", api=api))
    state, asked = {}, []

    def give():
        asked.append(seed)
        return seed

    request = Request((message("Hello.", role="user"),), {"temperature": 0.5})
    assert json.loads(writer.encode(request, state, give))["seed"] == seed
    for item in turns:
        request = request.continued([item])
        assert json.loads(writer.encode(request, state, give))["seed"] == seed
    assert asked == [seed]


def test_a_seed_of_the_task_or_of_extra_body_wins():
    """
    And where none is sent, none is in the body.
    """
    request = Request((message("Hello.", role="user"),), {"seed": 3})
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1"))
    forced = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1", extra_body={"seed": 4}))

    assert json.loads(writer.encode(request, {}, lambda: 9))["seed"] == 3
    assert json.loads(forced.encode(request, {}, lambda: 9))["seed"] == 4
    assert "seed" not in json.loads(writer.encode(Request(request.input, {}), {}))


def test_other_parameters_are_not_taken_for_the_earlier_ones():
    """
    An agent may change how it asks in the middle of a conversation.
    """
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1"))
    state = {}
    item = message("Hello.", role="user")
    writer.encode(Request((item,), {"tool_choice": "auto"}), state)

    assert json.loads(writer.encode(Request((item,), {}), state)) == {"input": [item]}


def test_an_item_that_was_changed_is_sent_as_it_is_now():
    """
    An agent that shortens old tool results sends them short.
    """
    writer = RequestBody(OpenAIModelConfig(base_url="http://127.0.0.1/v1"))
    state = {}
    long, short = (function_call_output("1", text) for text in ("long" * 9, "cut"))
    writer.encode(Request((long,)), state)

    assert json.loads(writer.encode(Request((short, message("go on", role="user"))), state))["input"][0] == short


@pytest.mark.parametrize(("api", "key"), [("responses", "input"), ("chat", "messages")])
def test_a_conversation_in_the_extra_body_wins(api, key):
    """
    Keys of `extra_body` win over all others, the conversation included.
    """
    state = {}
    request = Request((message("Hello.", role="user"),))

    assert body_of(request, state, api=api, extra_body={key: []}) == {key: []}


def test_an_empty_conversation_is_an_empty_list():
    """
    Nothing said and nothing asked for is still a body.
    """
    assert body_of(Request(())) == {"input": []}
    assert body_of(Request(()), api="chat") == {"messages": []}
