"""
Commands that end with the process that has started them, also where that is killed and can end nothing itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["leashed"]

_TIE = """
import os, signal, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG of <linux/prctl.h>
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""It ties itself before it becomes the command: code between fork and exec is not safe beside threads."""


def leashed(command: Sequence[str]) -> list[str]:
    """
    Return a command that the kernel kills when this process ends; as it is where the kernel is not Linux.

    Its own children are not killed with it. It must be started from a thread that waits for it.

    Args:
        command: What to start, beginning with an absolute path.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
