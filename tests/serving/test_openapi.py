"""
The description of the wire protocol, held against what is answered: by schemathesis, where it is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

from gymcore.serving.app import CALLS

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]


def test_the_description_names_every_call_and_every_tool(gym_serve: Serve) -> None:
    """
    Tools stand in it with their arguments.
    """
    with gym_serve("--env", "example_single_tool_call", "--env", "example_multi_step", "--out", "x") as served:
        found = httpx.get(f"{served.url}/openapi.json", timeout=30).json()
        served.stop()

    tools = {"/get_weather", "/get_synonym_value", "/extract_synonym_values"}
    assert set(found["paths"]) == {f"/{path}" for calls in CALLS.values() for path in calls} | tools
    for method, calls in CALLS.items():
        assert all(set(found["paths"][f"/{path}"]) == {method.lower()} for path in calls)
    for path in ("/v1/responses", "/v1/chat/completions", "/v1/messages"):
        assert set(found["paths"][path]["post"]["responses"]["200"]["content"]) == {
            "application/json",
            "text/event-stream",
        }
    body = found["paths"]["/extract_synonym_values"]["post"]["requestBody"]
    assert "synonym_values" in body["content"]["application/json"]["schema"]["properties"]


def test_whatever_is_sent_the_answer_is_one_that_is_described(gym_serve: Serve) -> None:
    """
    Made-up requests, wrong ones included: no server error, no status that is not described, no body of another shape.
    """
    if find_spec("schemathesis") is None:
        pytest.skip("needs schemathesis: pip install --group trainers")
    both = ("--env", "example_single_tool_call", "--env", "example_multi_step", "--out", "x")
    with gym_serve(*both, "--drain", "1") as served:  # sessions are left open, and would be waited for
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        options = ["--checks", checks, "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "7"]
        # The model of these environments is the oracle, which answers no request of its own: 501, as is described.
        options += ["--exclude-path-regex", "/v1/", "--generation-database", "none", "--no-color"]
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=served.folder)
        code, _, err = served.stop()

    assert done.returncode == 0, done.stdout
    assert re.search(r"[1-9]\d\d+ generated", done.stdout)
    kept = (served.folder / "x/rollouts.jsonl").read_text()
    assert kept, "the example of the description was not played"
    assert code == 0
    assert "Traceback" not in err
