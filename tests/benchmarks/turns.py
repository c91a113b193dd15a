"""
What one more turn of a conversation costs, when it has 5, 20 and 100 turns.

    python tests/benchmarks/turns.py [--kilobytes 1] [--runs 20]

One rollout is played by `openai_model` over a transport inside the process, which answers at once: no sockets, so that
what is measured is the conversation: the body of each request, the reply, the tool call, its result and the trajectory.
Every turn adds a tool call and a result of some kilobytes. CPU time of the process, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import httpx
from gym_plugin_openai_model.model import OpenAIModel, OpenAIModelConfig

from gymcore import Environment, tool
from gymcore.builtin.simple_agent import SimpleAgent, SimpleAgentConfig
from gymcore.records import Trajectory
from gymcore.testing import play

TURNS = (5, 20, 100)


class Recorder(Environment):
    """Gives back so many characters."""

    @tool
    def look(self, count: int) -> str:
        """Get some text."""
        return "x" * count

    def verify(self, trajectory: Trajectory) -> float:
        """Everything is worth the same."""
        return 1.0


class Instant(httpx.AsyncBaseTransport):
    """Asks for a tool until the last turn, and answers then."""

    def __init__(self, turns: int, size: int, api: str) -> None:
        self.left = turns
        self.arguments = json.dumps({"count": size})
        self.api = api

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer at once."""
        self.left -= 1
        return httpx.Response(200, content=json.dumps(self._chat() if self.api == "chat" else self._response()))

    def _response(self) -> dict[str, Any]:
        if not self.left:
            return {"output": [{"type": "message", "role": "assistant", "content": "done"}]}
        call = {"type": "function_call", "name": "look", "arguments": self.arguments, "call_id": f"c{self.left}"}
        return {"output": [call]}

    def _chat(self) -> dict[str, Any]:
        function = {"name": "look", "arguments": self.arguments}
        call = {"id": f"c{self.left}", "type": "function", "function": function}
        said = {"content": "done"} if not self.left else {"content": None, "tool_calls": [call]}
        return {"choices": [{"message": {"role": "assistant", **said}, "finish_reason": "stop"}]}


def cpu_of(turns: int, size: int, api: str) -> float:
    """Play one rollout, and return its CPU time in microseconds."""
    model = OpenAIModel(OpenAIModelConfig(base_url="http://127.0.0.1/v1", api=api), transport=Instant(turns, size, api))
    agent = SimpleAgent(SimpleAgentConfig(max_turns=turns, max_output_chars=10**9))
    started = time.process_time()
    rollout = play(Recorder, {"responses_create_params": {"input": "Look."}}, model, agent=agent)
    spent = time.process_time() - started
    assert rollout.failure is None, rollout.failure
    assert len(rollout.trajectory.turns) == turns
    return spent * 1e6


def cpu_per_turn(turns: int, size: int, api: str, runs: int) -> float:
    """Return what a turn costs beyond what a rollout of one turn costs anyway."""
    pairs = [(cpu_of(1, size, api), cpu_of(turns, size, api)) for _ in range(runs + 1)][1:]
    return statistics.median((many - one) / (turns - 1) for one, many in pairs)


def main() -> None:
    """Print a line for each API."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--kilobytes", type=float, default=1.0, help="what each turn adds")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    size = int(options.kilobytes * 1000)
    print(f"us CPU per turn, {options.kilobytes:g} KB added by each")
    print(f"{'API':12}" + "".join(f"{turns:>8} turns" for turns in TURNS))
    for api in ("responses", "chat"):
        figures = [cpu_per_turn(turns, size, api, options.runs) for turns in TURNS]
        print(f"{api:12}" + "".join(f"{figure:14.0f}" for figure in figures))


if __name__ == "__main__":
    main()
