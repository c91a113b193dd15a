"""
Token ids for trainers, got from a worker that serves chat completions and `/tokenize`, and nothing else.

The worker here reads a conversation as those of NeMo RL do: where an earlier reply comes with its ids, the prompt
begins with exactly these. What it generates are tokens that no reading of the text would give, so ids that were made up
anew are found out.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gymcore import EndpointError, Environment, ModelError, Request, RolloutContext, Task
from gymcore.chat import TOKEN_IDS
from gymcore.responses import function_call_output, message

HELLO = Request(input=(message("Hello.", role="user"),), params={"temperature": 1.0})
BEGIN, END = 1, 2


def read(messages):
    """Return the tokens of messages, as a chat template and a tokenizer would."""
    tokens = []
    for item in messages:
        said = [item["role"], item.get("content"), item.get("reasoning_content"), item.get("tool_calls")]
        tokens += [BEGIN, *map(ord, json.dumps(said)), END]
    return tokens


class Worker:
    """
    A server for generation on a free port.

    Args:
        answer: Gives the message to a request's messages.
        changed: Changes the status and the value of an answer, by the path.
    """

    def __init__(self, answer, changed=lambda path, value: (200, value)):
        self.answer, self.changed = answer, changed
        self.requests = []
        self.cookies = []

    def prompt(self, messages):
        """Return the tokens that a conversation begins with."""
        known = [index for index, item in enumerate(messages) if "prompt_token_ids" in item]
        if not known:
            return [*read(messages), BEGIN]
        last = messages[known[-1]]
        return [*last["prompt_token_ids"], *last["generation_token_ids"], *read(messages[known[-1] + 1 :]), BEGIN]

    def complete(self, body):
        """Answer a chat request."""
        said = {"role": "assistant", "content": None, **self.answer(body["messages"])}
        tokens = [*(10_000 + ord(letter) for letter in json.dumps(said)), END]
        choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if said.get("tool_calls") else "stop"}
        if body.get("logprobs") and body.get("top_logprobs") is not None:
            name = "token_id:{}" if body.get("return_tokens_as_token_ids") else "word{}"
            logged = [{"token": name.format(token), "logprob": -token / 8, "top_logprobs": []} for token in tokens]
            choice["logprobs"] = {"content": logged}
        reply = {"id": "c", "model": "policy", "usage": {"prompt_tokens": 1, "completion_tokens": len(tokens)}}
        if body.get("return_token_ids"):
            reply["prompt_token_ids"], choice["token_ids"] = self.prompt(body["messages"]), tokens
        return {**reply, "choices": [{**choice, "index": number} for number in range(body.get("n", 1))]}

    def asked(self, path):
        """Return the bodies of the requests for a path, in order."""
        return [body for at, body in self.requests if at == path]

    @contextmanager
    def serving(self):
        worker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                worker.requests.append((self.path, body))
                worker.cookies.append(self.headers["cookie"])
                if self.path == "/v1/chat/completions":
                    status, value = worker.changed(self.path, worker.complete(body))
                elif self.path == "/tokenize":
                    status, value = worker.changed(self.path, {"tokens": worker.prompt(body["messages"])})
                else:
                    status, value = 404, {"detail": "Not Found"}
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("set-cookie", "worker=7; path=/")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def says(text):
    return lambda messages: {"content": text}


def model_of(base_url, **options):
    return OpenAIModel(OpenAIModelConfig(base_url=base_url, api="chat", model="policy", token_ids=True, **options))


def rollout():
    return RolloutContext(Environment(Task(responses_create_params={"input": ""})), ("e", "t", 0), 1, AsyncExitStack())


async def converse(model, answers=(), params=HELLO.params):
    """Ask, and go on with each of the answers; return all replies and the context of the rollout."""
    context = rollout()
    request = Request(HELLO.input, params)
    async with model.opened():
        replies = [await model.respond(request, context)]
        for items in answers:
            request = request.continued([*replies[-1].output, *items])
            replies.append(await model.respond(request, context))
    return replies, context


def walk(items):
    """Go over the items of a rollout as a trainer does; return how many tokens of the model's own it finds."""
    seen, found = [], 0
    for item in items:
        if not item.get("generation_token_ids"):
            continue
        assert item["prompt_token_ids"][: len(seen)] == seen
        assert len(item["generation_log_probs"]) == len(item["generation_token_ids"])
        seen = item["prompt_token_ids"] + item["generation_token_ids"]
        found += len(item["generation_token_ids"])
    return found


TEXT = st.text(st.characters(codec="ascii"), max_size=6)
CALL = st.fixed_dictionaries(
    {"id": TEXT, "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})},
)
SAID = st.fixed_dictionaries(
    {}, optional={"content": TEXT, "reasoning_content": TEXT, "tool_calls": st.lists(CALL, max_size=3)}
)
ANSWER = st.lists(
    st.builds(message, TEXT, role=st.just("user")) | st.builds(function_call_output, TEXT, TEXT), min_size=1, max_size=2
)


@given(turns=st.lists(st.tuples(SAID, ANSWER), max_size=4), last=SAID, further=st.sampled_from([{}, {"n": 2}]))
@settings(deadline=None, max_examples=25)
@pytest.mark.parametrize("options", [{}, {"drop_input_reasoning_items": True}, {"extra_body": {"return_token_ids": 1}}])
def test_every_prompt_begins_with_the_one_before_and_what_was_generated(options, turns, last, further):
    """
    Whatever is said, thought, called and answered, the ids of a rollout are one sequence, and each turn says its own.
    """
    script = [said for said, _ in turns] + [last]
    worker = Worker(lambda messages: script[sum(item["role"] == "assistant" for item in messages)])
    with worker.serving() as base_url:
        answers = [items for _, items in turns]
        params = {**HELLO.params, **further}
        replies, context = asyncio.run(converse(model_of(base_url, **options), answers, params))

    ends = [reply.output[-1] for reply in replies]
    assert all(set(TOKEN_IDS) <= set(item) for item in ends)
    assert not any(set(TOKEN_IDS) & set(item) for reply in replies for item in reply.output[:-1])
    assert not any("logprobs" in item or "token_ids" in item for item in ends)
    assert walk(ends) == sum(len(item["generation_token_ids"]) for item in ends)
    for item in ends:
        assert item["generation_log_probs"] == [-token / 8 for token in item["generation_token_ids"]]
    for before, after in itertools.pairwise(ends):
        whole = before["prompt_token_ids"] + before["generation_token_ids"]
        assert after["prompt_token_ids"][: len(whole)] == whole
    sent = [item for item in worker.asked("/v1/chat/completions")[-1]["messages"] if item["role"] == "assistant"]
    assert [{key: item[key] for key in TOKEN_IDS} for item in sent] == [
        {key: item[key] for key in TOKEN_IDS} for item in ends[:-1]
    ]
    assert len(worker.asked("/tokenize")) == (0 if "extra_body" in options else len(replies))
    assert worker.cookies == [None, *["worker=7"] * (len(worker.requests) - 1)]
    assert context.attempts == len(replies)


def test_asks_for_the_tokens_of_what_was_asked():
    """
    `/tokenize` gets what decides the prompt, and nothing else; a row's own wish for alternatives counts for nothing.
    """
    params = {
        **HELLO.params,
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "top_logprobs": 5,
        "metadata": {"chat_template_kwargs": '{"enable_thinking": false}'},
    }
    worker = Worker(says("Hi."))
    with worker.serving() as base_url:
        asyncio.run(converse(model_of(base_url), params=params))

    [asked], [prompt] = worker.asked("/v1/chat/completions"), worker.asked("/tokenize")
    assert asked["top_logprobs"] == 0
    assert prompt == {key: asked[key] for key in ("model", "tools", "chat_template_kwargs", "messages")}


def test_costs_and_says_nothing_where_it_is_off():
    """
    Without the option a request is what it always was, whatever ids earlier replies came with.
    """
    worker = Worker(says("Hi."))
    ids = {key: [1] for key in TOKEN_IDS}
    request = HELLO.continued([{**message("Before."), **ids}, message("And?", role="user")])
    with worker.serving() as base_url:
        model = OpenAIModel(OpenAIModelConfig(base_url=base_url, api="chat"))

        async def ask():
            async with model.opened():
                return await model.respond(request, rollout())

        asyncio.run(ask())

    [(path, body)] = worker.requests
    assert path == "/v1/chat/completions"
    assert set(body) == {"temperature", "messages"}
    assert not any(set(item) & set(TOKEN_IDS) for item in body["messages"])


def test_takes_the_ids_that_a_model_server_has_put_there():
    """
    NeMo Gym's own model server gives the three keys in its message; nobody is asked for them again.
    """
    ids = {"prompt_token_ids": [1, 2], "generation_token_ids": [3], "generation_log_probs": [-0.5]}

    def changed(path, value):
        value["choices"][0]["message"].update(ids)
        return 200, value

    worker = Worker(says("Hi."), changed)
    with worker.serving() as base_url:
        replies, _ = asyncio.run(converse(model_of(base_url)))

    assert {key: replies[0].output[-1][key] for key in TOKEN_IDS} == ids
    assert not worker.asked("/tokenize")


def test_a_reply_is_not_generated_again_because_tokenizing_failed():
    """
    A fault of `/tokenize` is tried again by itself, and no reply is asked for twice.
    """
    faults = [500, 502]

    def changed(path, value):
        return (faults.pop(), {"error": "busy"}) if path == "/tokenize" and faults else (200, value)

    worker = Worker(says("Hi."), changed)
    with worker.serving() as base_url:
        replies, context = asyncio.run(converse(model_of(base_url)))

    assert walk(replies[0].output)
    assert [path for path, _ in worker.requests] == ["/v1/chat/completions", *["/tokenize"] * 3]
    assert context.attempts == 1


def without_logprobs(path, value):
    for choice in value.get("choices", ()):
        choice["logprobs"] = None
    return 200, value


def with_words(path, value):
    for choice in value.get("choices", ()):
        for entry in choice["logprobs"]["content"]:
            entry["token"] = "word"
    return 200, value


def without_tokenize(path, value):
    return (404, {"detail": "Not Found"}) if path == "/tokenize" else (200, value)


def with_another_tokenize(path, value):
    return (200, {"token_count": 3}) if path == "/tokenize" else (200, value)


def without_a_prompt(path, value):
    return (200, {"tokens": []}) if path == "/tokenize" else (200, value)


def with_one_too_many(path, value):
    for choice in value.get("choices", ()):
        choice["token_ids"] = list(range(1 + len(choice["logprobs"]["content"])))
    return 200, value


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (without_a_prompt, "the reply of /tokenize holds no `tokens`"),
        (with_one_too_many, "token ids and"),
        (without_logprobs, "the reply has no logprobs"),
        (with_words, "the logprobs of the reply name no token ids"),
        (without_tokenize, "/tokenize)"),
        (with_another_tokenize, "the reply of /tokenize holds no `tokens`"),
    ],
)
def test_an_endpoint_without_token_ids_ends_the_run(changed, told):
    """
    It says what is missing, at which endpoint, and what to set; one that has given ids costs only the rollout.
    """
    worker = Worker(says("Hi."), changed)
    with worker.serving() as base_url:
        with pytest.raises(EndpointError) as caught:
            asyncio.run(converse(model_of(base_url)))
        worker.changed = lambda path, value: (200, value)
        model = model_of(base_url)

        async def go_on():
            context = rollout()
            async with model.opened():
                await model.respond(HELLO, context)
                worker.changed = changed
                await model.respond(HELLO, context)

        with pytest.raises(ModelError, match="gives no token ids") as later:
            asyncio.run(go_on())

    assert told in caught.value.message
    assert caught.value.where == f"{base_url}/chat/completions"
    assert "token_ids: false" in caught.value.hints[0]
    assert later.value.retryable


def test_is_for_chat_only():
    """
    With the Responses API an endpoint says them by itself, so the option would promise what nobody does.
    """
    with pytest.raises(ValidationError, match="token_ids needs `api: chat`"):
        OpenAIModelConfig(base_url="http://127.0.0.1/v1", token_ids=True)


def test_rollouts_over_the_wire_can_be_trained_on(tmp_path):
    """
    `gym serve` answers `/run` with items whose ids are one sequence over all turns, tool calls included.
    """

    def answer(messages):
        results = sum(item["role"] == "tool" for item in messages)
        if results == 3:
            return {"content": "Cold, three times."}
        call = {"name": "get_weather", "arguments": '{"city":  "Oslo"}'}
        return {"tool_calls": [{"id": f"c{results}", "type": "function", "function": call}]}

    worker = Worker(answer)
    with worker.serving() as base_url:
        options = {"base_url": base_url, "model": "policy", "api": "chat", "token_ids": "true"}
        command = [sys.executable, "-m", "gymcore", "serve", "--env", "example_single_tool_call"]
        command += ["--model", "openai_model", "--out", "run", "--port", "0", "--port-file", "port"]
        for name, value in options.items():
            command += ["--set", f"models.policy.config.{name}={value}"]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + 60
            while not (tmp_path / "port").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until, "it does not serve"
                time.sleep(0.05)
            row = json.loads((tmp_path / "run" / "dataset.jsonl").read_text().splitlines()[0])
            url = f"http://127.0.0.1:{(tmp_path / 'port').read_text().strip()}/run"
            result = httpx.post(url, json=row, timeout=60).json()
        finally:
            process.kill()
            process.communicate()

    output = result["response"]["output"]
    trained = [item for item in output if "generation_token_ids" in item]
    assert [item["type"] for item in trained] == [*["function_call"] * 3, "message"]
    assert walk(output) == sum(len(item["generation_token_ids"]) for item in trained)
    assert result["reward"] == 1.0
