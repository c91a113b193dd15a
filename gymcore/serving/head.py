"""
What clients ask first: who is served where; and the lines that put what is served into a trainer's own configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from gymcore.composition import Route

__all__ = ["configuration", "for_nemo_gym", "for_verifiers", "instances"]


def configuration(routes: Iterable[Route], models: Iterable[str], host: str, port: int) -> dict[str, Any]:
    """
    Return the head's configuration: every agent, environment and model, all at one address; it holds no option.

    Args:
        routes: Who serves rows.
        models: The models' names in the plan.
        host: Under which name the client reached this server.
        port: On which port.
    """
    place = {"host": host, "port": port}
    found: dict[str, Any] = {}
    for route in routes:
        found[route.name] = {"responses_api_agents": {route.agent_plugin.name: dict(place)}}
        found[route.environment] = {"resources_servers": {route.environment: dict(place)}}
    for name in models:
        found[f"{name}_model"] = {"responses_api_models": {name: dict(place)}}
    return found


def instances(routes: Iterable[Route], host: str, port: int, started_at: float) -> list[dict[str, Any]]:
    """
    Return the agents as the head's list of servers, which only a status command reads.

    Args:
        routes: Who serves rows.
        host: Under which name the client reached this server.
        port: On which port.
        started_at: Since when it serves, in seconds since 1970.
    """
    common = {
        "server_type": "responses_api_agents",
        "url": f"http://{host}:{port}",
        "host": host,
        "port": port,
        "pid": os.getpid(),
        "start_time": started_at,
        "status": "success",
    }
    return [{"name": route.agent_plugin.name, "process_name": route.name, **common} for route in routes]


def for_nemo_gym(routes: Iterable[Route], host: str, port: int) -> str:
    """Return the YAML that makes agents of ours routable in a run of NeMo Gym or NeMo RL: four lines for each."""
    quoted = f'"{host}"' if host.startswith("[") else host
    place = f"{{host: {quoted}, port: {port}}}"
    return "".join(
        f"{route.name}:\n  responses_api_agents:\n    {route.agent_plugin.name}:\n      {place}\n" for route in routes
    )


def for_verifiers(dataset: str, url: str) -> str:
    """Return the TOML that has verifiers evaluate a dataset of ours."""
    lines = [
        "[env.taskset]",
        'id = "nemo-gym"',
        f'dataset = "{dataset}"',
        "[env.taskset.task]",
        f'resources_url = "{url}"',
    ]
    return "\n".join([*lines, ""])
