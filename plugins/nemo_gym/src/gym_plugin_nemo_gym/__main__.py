"""
`python -m gym_plugin_nemo_gym`: which resources servers an installed NeMo Gym has, and which can be played here.
"""

from __future__ import annotations

import json
from typing import Any

import click

from gym_plugin_nemo_gym.hosted.installation import HOW_TO_INSTALL, PYTHON, find_installation
from gymcore.errors import GymcoreError, PlanError, Problem

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--python", envvar=PYTHON, default="", metavar="PATH", help=f"The Python that has it; else ${PYTHON}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")
def command(python: str, as_json: bool) -> None:
    """List the resources servers of an installed NeMo Gym."""
    try:
        if not python:
            raise PlanError([Problem("no Python is named that has nemo-gym", None, HOW_TO_INSTALL)])
        installation = find_installation(python)
    except GymcoreError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    servers = [server.to_dict() for server in installation.servers()]
    if as_json:
        click.echo(json.dumps(servers, indent=2, ensure_ascii=False))
    else:
        _print(installation.version, servers)


def _print(version: str, servers: list[dict[str, Any]]) -> None:
    good = [server for server in servers if server["can_be_hosted"]]
    others = [server for server in servers if not server["can_be_hosted"]]
    width = max((len(server["server"]) for server in servers), default=0)
    click.echo(f"NeMo Gym {version}: {len(good)} of {len(servers)} resources servers have a loop that is played here")
    for server in good:
        click.echo(f"\n  {server['server']:<{width}}  {server['domain']}: {server['description']}".rstrip(": "))
        rows = ", ".join(f"{count:,} {split}" for split, count in server["rows"].items())
        click.echo(f"      rows: {rows or 'none'}; loop: {', '.join(server['agents'])}")
        if server["asks"]:
            click.echo(f"      asks: {', '.join(server['asks'])}")
        if server["requires"]:
            click.echo(f"      requires: {', '.join(server['requires'])}")
    if others:
        click.echo("\nnot these:")
    for server in others:
        click.echo(f"  {server['server']:<{width}}  {server['reason']}")


if __name__ == "__main__":
    command(prog_name="python -m gym_plugin_nemo_gym")
