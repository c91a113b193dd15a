"""`python -m gymcore` is the command `gym`, and both begin here: Ctrl-C while the command is loaded is no traceback."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Load the command line and run it; the process ends with its exit code."""
    gc.disable()  # what is loaded is no garbage, and looking through it takes a tenth of the time of a quick command
    try:
        from gymcore.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
