"""
`python -m gym_plugin_nemo_gym`: which resources servers the installed NeMo Gym has, and which of them can be hosted here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from gym_plugin_nemo_gym.hosted.installation import HOW_TO_INSTALL, PYTHON, Installation, find_installation
from gymcore.errors import GymcoreError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """
    Print them, and return the exit code.

    Args:
        arguments: Those of the command line, where they are not given.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gym_plugin_nemo_gym", description="List the resources servers of an installed NeMo Gym."
    )
    parser.add_argument("--python", default=os.environ.get(PYTHON, ""), help=f"the Python that has it; else ${PYTHON}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    given = parser.parse_args(arguments)
    try:
        if not given.python:
            print("no Python is named that has nemo-gym", *HOW_TO_INSTALL, sep="\n  ", file=sys.stderr)
            return 2
        installation = find_installation(given.python)
    except GymcoreError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if given.json:
        print(json.dumps([server.to_dict() for server in installation.servers()], indent=2, ensure_ascii=False))
    else:
        _print(installation)
    return 0


def _print(installation: Installation) -> None:
    servers = [server.to_dict() for server in installation.servers()]
    good = [server for server in servers if server["can_be_hosted"]]
    print(f"NeMo Gym {installation.version}: {len(good)} of {len(servers)} resources servers can be hosted")
    print("  gym run --env nemo_gym:SERVER ...\n")
    width = max((len(server["server"]) for server in servers), default=0)
    for server in good:
        rows = ", ".join(f"{split} {count}" for split, count in server["rows"].items()) or "no rows"
        told = f"{server['domain']}: {server['description']}" if server["description"] else server["domain"]
        print(f"  {server['server']:<{width}}  {rows:<12} {told}".rstrip())
    others = [server for server in servers if not server["can_be_hosted"]]
    if others:
        print("\nnot these:")
    for server in others:
        print(f"  {server['server']:<{width}}  {server['reason']}")


if __name__ == "__main__":
    raise SystemExit(main())
