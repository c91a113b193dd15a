"""
What a virtual environment sees of this installation: gymcore and what gymcore needs, as links, and nothing else.

They come last on its path, so what its plugin needs in another version wins; whether gymcore takes that version is for
whoever builds it to find out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymcore
from gymcore.discovery.catalog import normalised
from gymcore.discovery.requirements import Installed
from gymcore.errors import PluginError
from gymcore.interpreters.origins import installed_distribution

__all__ = ["CoreView", "core_view"]


@dataclass(frozen=True)
class CoreView:
    """Links to make: the name of each, and what it leads to."""

    links: dict[str, Path]
    needs: tuple[str, ...]
    """What gymcore itself requires."""
    digest: str

    def make(self, folder: Path) -> None:
        """
        Make the links.

        Raises:
            OSError: one cannot be made.
        """
        folder.mkdir()
        for name, target in self.links.items():
            (folder / name).symlink_to(target)


def core_view(plugin: str) -> CoreView:
    """
    Find gymcore and everything that it needs.

    Args:
        plugin: For whom, for messages.

    Raises:
        PluginError: some of it is not installed in a way that can be seen.
    """
    installed = Installed()
    if installed_distribution("gymcore") is None:
        message = (
            "gymcore itself is not installed but only on the path, so nothing says what a virtual environment needs"
        )
        raise PluginError(message, plugin=plugin, hints=["try: pip install gymcore"])
    links: dict[str, Path] = {}
    said: list[str] = []
    for name in installed.closure("gymcore", _FAST):
        distribution = installed_distribution(name)
        if distribution is None:
            continue  # it was put on the path by hand, and has no metadata
        root = Path(str(distribution.locate_file("")))
        files = list(distribution.files or ())
        if not files:
            raise PluginError(
                f"nothing says which files belong to {name}, so no virtual environment can see it",
                plugin=plugin,
                hints=[f"try: install it with pip or uv: pip install --force-reinstall {name}"],
            )
        tops = (
            {_info_folder(distribution, root)} if normalised(name) == "gymcore" else {file.parts[0] for file in files}
        )
        for top in sorted(tops - {"..", "__pycache__", ""}):
            if not top.endswith(".pth"):
                links.setdefault(top, root / top)
        said.append(f"{name} {distribution.version} {root}")
    # The one that runs, wherever it lies: an editable installation has no package in its folder.
    package = Path(gymcore.__file__).parent
    links["gymcore"] = package
    said.append(f"gymcore {gymcore.__version__} {package}")
    core = installed.find("gymcore")
    digest = hashlib.sha256("\n".join(sorted(said)).encode("utf-8", "surrogateescape")).hexdigest()
    return CoreView(links, () if core is None else core.needs, digest)


_FAST = ("fast",)
"""Extras of gymcore that a worker uses where they are installed."""


def _info_folder(distribution: Any, root: Path) -> str:
    found = [file.parts[0] for file in distribution.files or () if file.parts[0].endswith((".dist-info", ".egg-info"))]
    return next((name for name in found if (root / name).is_dir()), "")
