"""
`gym new`: a complete package for a plugin of one's own.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from gymcore.authoring import KINDS, LICENSES, Project, write_project
from gymcore.discovery import Catalog, discover

__all__ = ["command"]


@click.command("new")
@click.argument("kind", type=click.Choice(KINDS), metavar="{" + "|".join(KINDS) + "}")
@click.argument("name")
@click.option(
    "--path",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where to write it; a new folder gym-plugin-NAME here, where nothing is said.",
)
@click.option(
    "--license", type=click.Choice(LICENSES), default=LICENSES[0], help=f"{LICENSES[0]}, where nothing is said."
)
@click.option("--author", metavar="AUTHOR", help="Who wrote it: 'Ada Lovelace', or 'Ada Lovelace <ada@example.org>'.")
def command(kind: str, name: str, folder: Path | None, license: str, author: str | None) -> None:
    """
    Write a complete package for a plugin called NAME: code that works, its manifest, tests, and a README.

    It can be installed, played and published as it is; what it does is an example, to be replaced step by step.
    Nothing is fetched, and a folder that holds something is left alone.

    \b
    gym new environment word_count
    gym new agent patient --license mit --author 'Ada Lovelace <ada@example.org>'
    """
    project = Project(kind, name, license, author)
    catalog = discover()
    project.check(catalog)
    place = folder if folder is not None else Path(project.distribution)
    paths = write_project(project, place)
    licensed = "without a licence" if license == "none" else f"with the licence {license}"
    click.echo(f"{place}: {len(paths)} files of {project.distribution}, {licensed}; next:")
    for line in _next(project, place, catalog):
        click.echo(f"  {line}")


def _next(project: Project, place: Path, catalog: Catalog) -> tuple[str, ...]:
    """Return the commands that come next."""
    name = project.name
    environments = [plugin.name for plugin in catalog.of_kind("environment") if plugin.status == "ok"]
    other = environments[0] if environments else "ENVIRONMENT"
    install = f"cd {shlex.quote(str(place))} && pip install -e ."
    if project.kind == "environment":
        return install, f"gym play {name}", f"gym run --env {name}", "gym check"
    option = {"agent": "--agent", "model": "--model", "hooks": "--hook"}[project.kind]
    return install, f"gym show {name}", f"gym run --env {other} {option} {name}", "gym check"
