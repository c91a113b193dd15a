"""
How a worker is started: with which interpreter, what it may see of this process, and the bounds on its life.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from gymcore.runtime.brackets import Bounds

__all__ = ["Launch", "allowed_environ"]

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|TMPDIR|TEMP|TMP|VIRTUAL_ENV|CONDA_PREFIX"
    r"|PYTHON\w*|LD_LIBRARY_PATH|DYLD_\w+|CUDA_\w+|NVIDIA_\w+|ROCR_\w+|HIP_\w+|OMP_\w+|MKL_\w+|OPENBLAS_\w+"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|XDG_\w+|HF_HOME|NLTK_DATA|SYSTEMROOT"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def allowed_environ(environ: Mapping[str, str], named: tuple[str, ...] = ()) -> dict[str, str]:
    """
    Return what a worker may see of the process environment: where things are and how they are spelt, and no key.

    Args:
        environ: The environment of this process.
        named: Variables that the plan lets through by name.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in named or (_ALLOWED.fullmatch(name) and not _SECRET.search(name))
    }


@dataclass(frozen=True)
class Launch:
    """What a worker is started with, and how long things may take; times in seconds."""

    name: str
    """What the plan calls the environment."""
    plugin: str
    """The plugin's qualified name, for messages."""
    target: str
    """The class, as `module:name`."""
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
        # As in this process: only who was started with the current folder on the path imports from it.
        safe = [] if {"", os.path.abspath("")} & set(sys.path) else ["-P"]  # noqa: PTH100, compared as text
        module = f"{__package__}.child"
        return [sys.executable, "-u", *safe, "-m", module, str(descriptor), str(os.getpid())]
