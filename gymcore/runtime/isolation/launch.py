"""
How a worker is started: with which interpreter, what it may see of this process, and the bounds on its life.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gymcore.interpreters.clean_environ import allowed_environ, environ_of_interpreter
from gymcore.runtime.brackets import Bounds

__all__ = ["Launch"]


@dataclass(frozen=True)
class Launch:
    """What a worker is started with, and how long things may take; times in seconds."""

    name: str
    """What the plan calls the environment."""
    plugin: str
    """The plugin's qualified name, for messages."""
    target: str
    """The class, as `module:name`."""
    python: Path | None = None
    """The interpreter of a virtual environment of its own; that of this process where it is None."""
    workers: int = 1
    """How many processes play it."""
    environ: tuple[str, ...] = ()
    """Variables that it may see besides the harmless ones."""
    memory_mb: int | None = None
    """The address space of each process, in megabytes."""
    start_s: float = Bounds().opening_s
    """For importing the class and opening what its rollouts share; as long as where it plays in the run's process."""
    stop_s: float = 30.0
    """For closing that again; then it is killed."""
    grace_s: float = 5.0
    """A process that was silent for as long as a request may take must answer within this, or it is killed."""
    backoff_s: float = 0.5
    """Before the first new start; doubled with every death in the same place until a rollout is finished there."""
    max_backoff_s: float = 30.0
    deaths: int = 5
    """After so many in every place, without a finished rollout between them, nothing more is started."""

    def command(self, descriptor: int) -> list[str]:
        """Return the command line of a worker that speaks over a descriptor."""
        module = f"{__package__}.child"
        if self.python is not None:
            return [str(self.python), "-u", "-P", "-m", module, str(descriptor), str(os.getpid())]
        # As in this process: only who was started with the current folder on the path imports from it.
        safe = [] if {"", os.path.abspath("")} & set(sys.path) else ["-P"]  # noqa: PTH100, compared as text
        return [sys.executable, "-u", *safe, "-m", module, str(descriptor), str(os.getpid())]

    def path(self) -> list[str] | None:
        """Return where a worker imports from: where this process does; None for what its own interpreter says."""
        return sys.path if self.python is None else None

    def visible(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what a worker may see of the environment of this process."""
        if self.python is None:
            return allowed_environ(environ, self.environ)
        return environ_of_interpreter(self.python, environ, self.environ)
