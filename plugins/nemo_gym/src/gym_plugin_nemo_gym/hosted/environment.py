"""
`nemo_gym`: a resources server of an installed NeMo Gym, without its Ray, in a process of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator

from gym_plugin_nemo_gym.hosted.installation import HOW_TO_INSTALL, PYTHON, find_installation
from gym_plugin_nemo_gym.hosted.keeper import Keeper
from gym_plugin_nemo_gym.hosted.process import HostedWire, hosted
from gym_plugin_nemo_gym.hosted.steps import Steps, with_message
from gym_plugin_nemo_gym.served import Served, ServedConfig
from gymcore import Choice, Reward, ToolCall, ToolError, Trajectory, Turn, option
from gymcore.errors import PlanError, Problem

__all__ = ["NemoGym", "NemoGymConfig"]

_NO_PYTHON = "no Python is named that has nemo-gym"


class NemoGymConfig(ServedConfig):
    """Which server is hosted, by which interpreter, and how it is configured."""

    server: str = option(description="Its name: that of its folder among the resources servers of NeMo Gym.")
    python: str = option(
        "",
        description="The Python that has nemo-gym: a path.",
        environment_variable=PYTHON,
        operational=True,
    )
    config: dict[str, Any] = option(  # Any: whatever the server's configuration holds
        {}, description="What is merged over its entry in its YAML."
    )
    config_file: str | None = option(
        None, description="Which file of its folder `configs`; the one that is called like it where nothing is said."
    )
    servers: dict[str, str] = option(
        {}, description="Other servers that it asks, such as a judge: name to address, http://HOST:PORT."
    )
    start_timeout_s: float = option(
        180.0, description="The longest that it may take until it serves.", operational=True, gt=0, le=3600
    )

    @field_validator("server")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"\w{1,100}", value, re.ASCII):
            raise ValueError("a server is named by its folder, such as example_session_state_mgmt")
        return value

    @field_validator("config_file")
    @classmethod
    def _is_a_file(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w][\w.-]{0,100}\.yaml", value, re.ASCII):
            raise ValueError("a configuration is named by its file in the folder `configs`, such as mcqa.yaml")
        return value

    @field_validator("python")
    @classmethod
    def _is_given(cls, value: str) -> str:
        if not value:
            raise ValueError("; ".join((_NO_PYTHON, *HOW_TO_INSTALL)))
        return value

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for name, address in value.items():
            _host_and_port(name, address)
        return value


def _host_and_port(name: str, address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or address.rstrip("/") != f"http://{host}:{port}":
        raise ValueError(f"the address of {name!r} must look like http://HOST:PORT, because NeMo Gym asks nothing else")
    return host, port


class NemoGym(Served[NemoGymConfig]):
    """
    A resources server of NeMo Gym.

    One process serves it for the whole run, in the interpreter that has nemo-gym and on a Unix socket that nobody else
    reaches. Its rows are those that come with it. A rollout is one session: the model calls its tools or, where that is
    how the server is made, each reply is a step.
    """

    resources: Keeper
    _hosted: HostedWire
    _steps: Steps | None = None

    @classmethod
    def own_rows(cls, config: NemoGymConfig, split: str) -> Iterator[bytes]:
        """Yield the rows that come with the server."""
        server = find_installation(config.python).server(config.server, config.config_file)
        if not server.files(split):
            named = (server.data or {}).get(split)
            told = f"the resources server {server.name!r} comes without rows for the split {split!r}"
            if named:
                told += f": {named[0]} is not there"
            raise PlanError([Problem(told, hints=("try: another split, or --data FILE with rows of your own",))])
        yield from server.rows(split)

    @classmethod
    def choices(cls) -> list[Choice]:
        """Return the resources servers of the NeMo Gym that the environment variable names."""
        python = os.environ.get(PYTHON, "")
        if not python:
            raise PlanError([Problem(_NO_PYTHON, None, HOW_TO_INSTALL)])
        return [server.choice() for server in find_installation(python).servers()]

    @classmethod
    @asynccontextmanager
    async def shared(cls, config: NemoGymConfig) -> AsyncIterator[Keeper]:
        """Host the server as long as the run lasts."""
        installation = find_installation(config.python)
        start = partial(
            hosted,
            installation.python,
            installation.server(config.server, config.config_file),
            config=config.config,
            servers={name: _host_and_port(name, address) for name, address in config.servers.items()},
            start_s=config.start_timeout_s,
            patience=config.patience,
            environ=os.environ,
        )
        async with Keeper(start) as keeper:
            yield keeper

    @classmethod
    async def way(cls, resources: Keeper) -> HostedWire:
        """Return the way to the server, which is started again where it has ended."""
        return await resources.wire()

    async def wire(self) -> HostedWire:
        """Return the way to the server for this rollout."""
        self.is_waiting = self.resources.is_gone
        self._hosted = await self.way(self.resources)
        self.is_waiting = False
        return self._hosted

    async def open(self) -> None:
        """Begin a session; a server that ends again and again ends the run, which can be resumed."""
        session = await self._begun()
        if self._hosted.server.flavour != "steps":
            await session.seed()
            self.max_turns = self._hosted.server.max_steps
            return
        self._steps = Steps(session, self._hosted.server.max_steps)
        if seen := await self._steps.begin():
            self.task = with_message(self.task, seen)

    async def other_tool(self, call: ToolCall) -> str:
        """Have a tool called over there; what is played step by step has none."""
        if self._steps is not None:
            raise ToolError(f"there is no tool {call.name[:100]!r}; answer in words")
        return await super().other_tool(call)

    async def reply(self, turn: Turn) -> str | None:
        """Have a reply taken as a step, where it is played step by step."""
        return None if self._steps is None else await self._steps.take(turn, self.task)

    async def verify(self, trajectory: Trajectory) -> Reward:
        """Have what happened scored over there; or return the sum of what its steps have earned."""
        reward = await (self._steps.end(trajectory, self.task) if self._steps else super().verify(trajectory))
        self._hosted.has_scored = True
        return reward
